"""Handlers for speech to text and text to speech, with the tenant's default models."""

import mimetypes
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import Reply, StreamReply, audio_reply, json_reply
from modelyard.gateway.service.calls import Call, ServiceError
from modelyard.gateway.service.shapes import Transcript
from modelyard.models.speech2text import Speech2TextRequest
from modelyard.models.tts import TTSRequest
from modelyard.models.types import ModelType
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.tenancy.caller import Caller
from modelyard.workflow.conversations import Conversations
from modelyard.workflow.file_types import file_kind

# Dify's limit for a recording.
_MAX_AUDIO_MB = 30


@dataclass(frozen=True, slots=True)
class Speech:
    """Transcribes recordings and converts messages or texts to speech."""

    models: ModelManager
    conversations: Conversations

    async def transcribe(self, call: Call) -> Reply:
        """POST /v1/audio-to-text."""
        call.require_feature(
            "speech_to_text",
            "speech_to_text_disabled",
            "Speech to text is not enabled for this app.",
        )
        recording = await _recording(call)
        model = self.models.find(
            Caller(tenant=call.tenant), "default-speech2text", ModelType.SPEECH2TEXT
        )
        # Nobody else needs the transcript: the model call is cancelled if the client
        # disconnects.
        result = await call.request.cancel_on_disconnect(
            model.invoke_speech2text(recording)
        )
        return json_reply(Transcript(text=result.text))

    async def speak(self, call: Call) -> StreamReply:
        """POST /v1/text-to-audio."""
        text = await self._text(call)
        feature: dict[str, Any] = call.app.features.get("text_to_speech") or {}
        # The request's voice overrides the app's, which overrides the model's default.
        voice = str(call.body.get("voice") or feature.get("voice") or "default")
        model = self.models.find(
            Caller(tenant=call.tenant), "default-tts", ModelType.TTS
        )
        return audio_reply(
            _audio_chunks(model, TTSRequest(text=text, voice=voice, format="mp3")),
            "audio/mpeg",
        )

    async def _text(self, call: Call) -> str:
        """Return the text to speak. Raises NotFoundError for another user's message and
        ServiceError if there is no text."""
        text = call.body.get("text")
        # A message takes precedence over a text in the same request.
        if name := call.body.get("message_id"):
            message = await self.conversations.get_message(
                call.tenant, call.found.id, str(name)
            )
            if message.user != call.named_user:
                raise NotFoundError("Message Not Exists.")
            text = message.answer
        if not isinstance(text, str) or not text.strip():
            raise ServiceError(
                400, "invalid_param", "'text' or 'message_id' is required"
            )
        return text


async def _recording(call: Call) -> Speech2TextRequest:
    """Return the uploaded recording. Raises InvokeBadRequestError or ServiceError if it
    is not a valid one."""
    form = parse_form(
        call.request.header(b"content-type") or "",
        await call.request.body(),
        error_message="Send the recording as multipart/form-data, in the field 'file'",
    )
    if form.file is None:
        raise ServiceError(400, "no_audio_uploaded", "Please upload your audio.")
    if len(form.file) > _MAX_AUDIO_MB << 20:
        raise ServiceError(
            413, "audio_too_large", f"Audio size larger than {_MAX_AUDIO_MB} mb."
        )
    name = form.filename or "audio"
    # Without a file extension the model decides whether it can read the recording.
    # Videos are accepted for their sound.
    ending = PurePosixPath(form.filename or "").suffix.lower()
    if ending and file_kind(ending, mimetypes.guess_type(name)[0] or "") not in (
        "audio",
        "video",
    ):
        raise ServiceError(
            415, "unsupported_audio_type", f"{name[:80]!r} is not an audio file."
        )
    return Speech2TextRequest(audio=form.file, filename=name)


async def _audio_chunks(
    model: ModelInstance, request: TTSRequest
) -> AsyncGenerator[bytes, None]:
    """Yield the audio of a model's chunks."""
    async with aclosing(model.invoke_tts(request)) as chunks:
        async for chunk in chunks:
            if chunk.audio:
                yield chunk.audio
