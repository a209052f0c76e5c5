"""POST /v1/audio/speech, /v1/audio/transcriptions and /v1/audio/translations."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import invalid_field, required_field
from modelyard.gateway.chat_response import settle_left_out
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import Reply, Request, StreamReply, audio_reply, json_reply
from modelyard.models.tts import AUDIO_TYPES, TTSRequest
from modelyard.models.types import ModelType
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_audio

_FORM = "Send the recording as multipart/form-data, with fields 'file' and 'model'"


@dataclass(frozen=True, slots=True)
class SpeechRoute:
    """POST /v1/audio/speech: convert text to speech, streamed."""

    manager: ModelManager

    async def __call__(self, request: Request) -> StreamReply:
        """Synthesize speech; the audio is streamed while it is produced."""
        body = await request.json()
        speech_request = openai_audio.parse_speech_request(body)
        instance = request.find(
            self.manager, required_field(body, "model", str), ModelType.TTS
        )
        speech_request = settle_left_out(request, instance, speech_request)
        return audio_reply(
            _audio_chunks(instance, speech_request), AUDIO_TYPES[speech_request.format]
        )


async def _audio_chunks(
    instance: ModelInstance, speech_request: TTSRequest
) -> AsyncGenerator[bytes, None]:
    """Yield the audio chunks."""
    async with aclosing(instance.invoke_tts(speech_request)) as chunks:
        async for chunk in chunks:
            # Chunks without audio carry only usage.
            if chunk.audio:
                yield chunk.audio


@dataclass(frozen=True, slots=True)
class TranscriptionRoute:
    """POST /v1/audio/transcriptions and, with the task `translate`,
    /v1/audio/translations."""

    manager: ModelManager
    task: str = "transcribe"

    async def __call__(self, request: Request) -> Reply:
        """Transcribe a recording."""
        form = parse_form(
            request.header(b"content-type") or "",
            await request.body(),
            error_message=_FORM,
        )
        if form.file is None:
            raise InvokeBadRequestError(
                "'file' is required: the recording, as a file in the form", param="file"
            )
        transcription_request = openai_audio.parse_transcription_request(
            form.fields, form.file, form.filename, form.lists
        )
        name = request.model or form.fields.get("model")
        if not name:
            raise invalid_field("model", None, "a model's name")
        instance = request.find(self.manager, name, ModelType.SPEECH2TEXT)
        # The task depends on the path, not on the request.
        transcription_request = msgspec.structs.replace(
            transcription_request, task=self.task
        )
        transcription_request = settle_left_out(
            request, instance, transcription_request
        )
        result = await request.cancel_on_disconnect(
            instance.invoke_speech2text(transcription_request)
        )
        transcription = openai_audio.dump_transcription_result(
            result, form.fields.get("response_format") or "json"
        )
        # The formats text, srt and vtt are plain text.
        if isinstance(transcription, str):
            return Reply(
                transcription.encode(), content_type=b"text/plain; charset=utf-8"
            )
        return json_reply(transcription)
