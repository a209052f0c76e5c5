"""Text to speech: text in, a stream of audio bytes out."""

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
"""Format → MIME type. `pcm` is 24 kHz, 16 bit, little-endian, mono, without a header, as OpenAI's."""


class TTSUsage(ModelUsage, frozen=True, kw_only=True):
    characters: int = 0

    @property
    def input_count(self) -> Decimal:
        return Decimal(self.characters)


class TTSRequest(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    voice: str = "default"
    format: str = "wav"
    """One of `AUDIO_TYPES`."""
    speed: float = 1.0
    instructions: str | None = None
    user: str | None = None
    extra: dict[str, Any] = {}


class TTSResultChunk(Chunk, frozen=True, kw_only=True):
    """Pieces of one file: joined, they are it."""

    audio: bytes = b""
    usage: TTSUsage | None = None

    @property
    def spent(self) -> TTSUsage | None:
        return self.usage

    def priced(self, usage: ModelUsage) -> "TTSResultChunk":
        return msgspec.structs.replace(self, usage=usage)


async def joined(chunks: AsyncIterable[TTSResultChunk]) -> bytes:
    return b"".join([chunk.audio async for chunk in chunks])
