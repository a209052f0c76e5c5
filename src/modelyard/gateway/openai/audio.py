"""POST /v1/audio/speech, /v1/audio/transcriptions and /v1/audio/translations."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import need, wrong
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import Reply, Request, StreamReply, audio_reply, json_reply
from modelyard.models.tts import AUDIO_TYPES, TTSRequest
from modelyard.models.types import ModelType
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_audio

_FORM = "send the recording as multipart/form-data, with fields 'file' and 'model'"


@dataclass(frozen=True, slots=True)
class SpeechRoute:
    manager: ModelManager

    async def __call__(self, request: Request) -> StreamReply:
        body = await request.json()
        asked = openai_audio.parse_speech_request(body)
        instance = request.find(self.manager, need(body, "model", str), ModelType.TTS)
        return audio_reply(_pieces(instance, asked), AUDIO_TYPES[asked.format])


async def _pieces(instance: ModelInstance, asked: TTSRequest) -> AsyncGenerator[bytes, None]:
    async with aclosing(instance.invoke_tts(asked)) as chunks:
        async for chunk in chunks:
            if chunk.audio:
                yield chunk.audio


@dataclass(frozen=True, slots=True)
class TranscriptionRoute:
    manager: ModelManager
    task: str = "transcribe"

    async def __call__(self, request: Request) -> Reply:
        form = parse_form(request.header(b"content-type") or "", await request.body(), wanted=_FORM)
        if form.file is None:
            raise InvokeBadRequestError("'file' is required: the recording, as a file of the form", param="file")
        asked = openai_audio.parse_transcription_request(form.fields, form.file, form.filename)
        if not form.fields.get("model"):
            raise wrong("model", None, "a model's name")
        instance = request.find(self.manager, form.fields["model"], ModelType.SPEECH2TEXT)
        asked = msgspec.structs.replace(asked, task=self.task)
        result = await request.while_here(instance.invoke_speech2text(asked))
        said = openai_audio.dump_transcription_result(result, form.fields.get("response_format") or "json")
        if isinstance(said, str):
            return Reply(said.encode(), content_type=b"text/plain; charset=utf-8")
        return json_reply(said)
