import io
import math
import struct
import wave
from collections.abc import Generator

from dify_plugin import TTSModel
from dify_plugin.errors.model import InvokeBadRequestError, InvokeError

RATE = 8000


class Tone(TTSModel):
    """A tone, a hundredth of a second for each character."""

    def _invoke(
        self,
        model: str,
        tenant_id: str,
        credentials: dict,
        content_text: str,
        voice: str,
        user: str | None = None,
    ) -> Generator[bytes, None, None]:
        pitch = {"low": 220, "high": 880}.get(voice)
        if pitch is None:
            raise ValueError(f"voice {voice!r} is unknown; there are low and high")
        audio = _wave(pitch, len(content_text) * RATE // 100)
        for start in range(0, len(audio), 4096):
            yield audio[start : start + 4096]

    def validate_credentials(
        self, model: str, credentials: dict, user: str | None = None
    ) -> None:
        """Needs none."""

    @property
    def _invoke_error_mapping(self) -> dict[type[InvokeError], list[type[Exception]]]:
        return {InvokeBadRequestError: [ValueError]}


def _wave(pitch: int, samples: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        values = (
            int(12000 * math.sin(2 * math.pi * pitch * place / RATE))
            for place in range(samples)
        )
        file.writeframes(b"".join(struct.pack("<h", value) for value in values))
    return out.getvalue()
