"""Speech synthesis and transcription with the tenant's models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from modelyard.models.speech2text import Speech2TextRequest
from modelyard.models.tts import TTSRequest
from modelyard.models.types import ModelType
from modelyard.tenancy.caller import Caller
from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.entities import ToolContext, ToolParameterError, blob_message
from modelyard.tools.function import FunctionTool

if TYPE_CHECKING:
    from modelyard.runtime.model_manager import ModelManager


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the audio tools; none without a model manager."""
    if (models := parts.models) is None:
        return []
    tools = _AudioTools(models)
    common_fields = {
        "provider": "audio",
        "kind": "builtin",
        "is_repeatable": True,
        "seconds": 300.0,
    }
    return [
        FunctionTool(function, **common_fields) for function in (tools.tts, tools.asr)
    ]


class _AudioTools:
    """The tools as methods. Their docstrings are sent to models as descriptions."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models

    async def tts(
        self,
        text: str,
        context: ToolContext,
        model: str = "default-tts",
        voice: str = "default",
    ) -> Any:
        """Speak a text: gives an audio file.

        model: as provider/model
        """
        tts_model = self._models.find(
            _caller(context), model or "default-tts", ModelType.TTS
        )
        mime_type = "audio/mpeg"
        async with aclosing(
            tts_model.invoke_tts(TTSRequest(text=text, voice=voice or "default"))
        ) as chunks:
            audio_chunks = [chunk.audio async for chunk in chunks]
        return [blob_message(b"".join(audio_chunks), mime_type, "speech.mp3")]

    async def asr(
        self, audio_file: Any, context: ToolContext, model: str = "default-speech2text"
    ) -> str:
        """What is said in an audio file.

        audio_file: a file of this conversation
        """
        # The argument may be a file of the conversation or the bytes themselves.
        data = (
            audio_file
            if isinstance(audio_file, bytes)
            else getattr(audio_file, "data", None)
        )
        if not isinstance(data, bytes):
            raise ToolParameterError("audio_file must be an audio file")
        speech_model = self._models.find(
            _caller(context), model or "default-speech2text", ModelType.SPEECH2TEXT
        )
        result = await speech_model.invoke_speech2text(Speech2TextRequest(audio=data))
        return result.text


def _caller(context: ToolContext) -> Caller:
    """Return the caller for the model calls of a tool."""
    return Caller(tenant=context.tenant, user=context.user or None)
