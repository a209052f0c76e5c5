"""Speech to text: one recording in, its words out."""

from decimal import Decimal
from typing import Any

import msgspec

from modelyard.models.types import Chunk, ModelUsage


class Speech2TextUsage(ModelUsage, frozen=True, kw_only=True):
    seconds: float = 0.0
    """Length of the recording."""
    prompt_tokens: int = 0
    """What models that count tokens heard; their price is for tokens."""
    audio_prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def input_count(self) -> Decimal:
        return Decimal(self.prompt_tokens) if self.prompt_tokens else Decimal(str(self.seconds))

    @property
    def output_count(self) -> Decimal:
        return Decimal(self.completion_tokens)


class Speech2TextRequest(msgspec.Struct, frozen=True, kw_only=True):
    audio: bytes
    """A whole file: wav, mp3, flac, ogg and what else the model reads."""
    filename: str = "audio.wav"
    mime_type: str = ""
    language: str | None = None
    """ISO 639-1; found out where absent."""
    prompt: str | None = None
    temperature: float | None = None
    task: str = "transcribe"
    """`transcribe`, or `translate` into English."""
    segments: bool = False
    """Whether the caller wants to know when each sentence was said."""
    words: bool = False
    """Whether the caller wants to know when each word was said."""
    user: str | None = None
    extra: dict[str, Any] = {}


class TranscriptSegment(msgspec.Struct, frozen=True, kw_only=True):
    start: float
    end: float
    text: str


class TranscriptWord(msgspec.Struct, frozen=True, kw_only=True):
    start: float
    end: float
    word: str


class Speech2TextResult(Chunk, frozen=True, kw_only=True):
    text: str
    language: str | None = None
    segments: list[TranscriptSegment] = []
    words: list[TranscriptWord] = []
    usage: Speech2TextUsage = Speech2TextUsage()

    @property
    def spent(self) -> Speech2TextUsage:
        return self.usage

    def priced(self, usage: ModelUsage) -> "Speech2TextResult":
        return msgspec.structs.replace(self, usage=usage)
