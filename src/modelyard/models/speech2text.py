"""Speech recognition: one recording in, its text out."""

from decimal import Decimal
from typing import Any

import msgspec

from modelyard.models.types import Chunk, ModelUsage


class Speech2TextUsage(ModelUsage, frozen=True, kw_only=True):
    """Usage of a speech recognition call."""

    seconds: float = 0.0
    """Duration of the recording."""
    prompt_tokens: int = 0
    """Input tokens, for models that are priced by token."""
    audio_prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def input_count(self) -> Decimal:
        """Return the tokens or, if they are not reported, the seconds to which the
        price applies."""
        return (
            Decimal(self.prompt_tokens)
            if self.prompt_tokens
            else Decimal(str(self.seconds))
        )

    @property
    def output_count(self) -> Decimal:
        """Return the number of output tokens."""
        return Decimal(self.completion_tokens)


class Speech2TextRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to transcribe a recording."""

    audio: bytes
    """A complete file: wav, mp3, flac, ogg or another format that the model supports.
    """
    filename: str = "audio.wav"
    mime_type: str = ""
    language: str | None = None
    """ISO 639-1 code; detected if absent."""
    prompt: str | None = None
    temperature: float | None = None
    task: str = "transcribe"
    """`transcribe`, or `translate` into English."""
    segments: bool = False
    """Whether to return the times of segments."""
    words: bool = False
    """Whether to return the times of words."""
    user: str | None = None
    extra: dict[str, Any] = {}


class TranscriptSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment of the transcript with its times in seconds."""

    start: float
    end: float
    text: str


class TranscriptWord(msgspec.Struct, frozen=True, kw_only=True):
    """A word of the transcript with its times in seconds."""

    start: float
    end: float
    word: str


class Speech2TextResult(Chunk, frozen=True, kw_only=True):
    """The transcript."""

    text: str
    language: str | None = None
    segments: list[TranscriptSegment] = []
    words: list[TranscriptWord] = []
    usage: Speech2TextUsage = Speech2TextUsage()

    @property
    def usage_or_none(self) -> Speech2TextUsage:
        """Return the usage."""
        return self.usage

    def with_usage(self, usage: ModelUsage) -> "Speech2TextResult":
        """Return the result with its usage replaced."""
        return msgspec.structs.replace(self, usage=usage)
