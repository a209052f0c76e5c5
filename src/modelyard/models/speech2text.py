"""Speech recognition: one recording in, its text out."""

from collections.abc import Iterable
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
    unsupported: str = "drop"
    """Handling of fields that the model does not support: `drop` leaves them out,
    `refuse` fails the call."""
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


_MAX_SECONDS = 1e7
"""Longer than any recording, about four months."""


def reported_seconds(value: Any) -> float | None:
    """Return seconds that a server reports, or None if they are not plausible.

    Some servers write the number as a string.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < _MAX_SECONDS else None


def to_words(entries: Iterable[tuple[Any, Any, Any]]) -> list[TranscriptWord]:
    """Convert a server's (start, end, word) entries. Incomplete ones are skipped, since
    the text of the transcript is usable without them."""
    return [
        TranscriptWord(start=start, end=end, word=word)
        for start, end, word in _complete_entries(entries)
    ]


def to_segments(entries: Iterable[tuple[Any, Any, Any]]) -> list[TranscriptSegment]:
    """Convert a server's (start, end, text) entries. Incomplete ones are skipped, since
    the text of the transcript is usable without them."""
    return [
        TranscriptSegment(start=start, end=end, text=text)
        for start, end, text in _complete_entries(entries)
    ]


def _complete_entries(
    entries: Iterable[tuple[Any, Any, Any]],
) -> Iterable[tuple[float, float, str]]:
    """Yield the entries that have a text and both times."""
    for start, end, text in entries:
        start_seconds, end_seconds = reported_seconds(start), reported_seconds(end)
        if start_seconds is None or end_seconds is None or not isinstance(text, str):
            continue
        yield start_seconds, end_seconds, text


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
