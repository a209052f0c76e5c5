"""Speech synthesis: text in, a stream of audio bytes out."""

from collections.abc import AsyncIterable
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.models.types import Chunk, ModelUsage

AUDIO_TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "audio/pcm",
}
"""Format → MIME type. `pcm` is 24 kHz, 16 bit, little-endian, mono, without a header,
as with OpenAI."""


class TTSUsage(ModelUsage, frozen=True, kw_only=True):
    """Usage of a speech synthesis call."""

    characters: int = 0

    @property
    def input_count(self) -> Decimal:
        """Return the number of characters to which the price applies."""
        return Decimal(self.characters)


class TTSRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to synthesise speech."""

    text: str
    voice: str = "default"
    format: str = "wav"
    """A key of `AUDIO_TYPES`."""
    speed: float = 1.0
    instructions: str | None = None
    user: str | None = None
    unsupported: str = "drop"
    """Handling of fields that the model does not support: `drop` leaves them out,
    `refuse` fails the call."""
    extra: dict[str, Any] = {}


class TTSResultChunk(Chunk, frozen=True, kw_only=True):
    """A chunk of one audio file; the chunks concatenated are the file."""

    audio: bytes = b""
    usage: TTSUsage | None = None

    @property
    def usage_or_none(self) -> TTSUsage | None:
        """Return the usage, if this chunk has it."""
        return self.usage

    def with_usage(self, usage: ModelUsage) -> "TTSResultChunk":
        """Return the chunk with its usage replaced."""
        return msgspec.structs.replace(self, usage=usage)


async def collect_audio(chunks: AsyncIterable[TTSResultChunk]) -> bytes:
    """Read a stream to its end and return the audio file."""
    return b"".join([chunk.audio async for chunk in chunks])
