"""POST /v1/audio/speech, /v1/audio/transcriptions and /v1/audio/translations."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import need, wrong
from modelyard.gateway.http import Reply, Request, StreamReply, audio_reply, json_reply
from modelyard.models.tts import AUDIO_TYPES, TTSRequest
from modelyard.models.types import ModelType
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.wire import openai_audio

_MAX_PARTS = 64
_MAX_FIELD = 1 << 20
_MAX_BOUNDARY = 200


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
        form = parse_form(request.header(b"content-type") or "", await request.body())
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


@dataclass(slots=True)
class Form:
    fields: dict[str, str]
    file: bytes | None = None
    filename: str = ""


def parse_form(content_type: str, body: bytes) -> Form:
    """A multipart form with one file in it. Raises InvokeBadRequestError where it is none, or has too many parts."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > _MAX_BOUNDARY:
        raise InvokeBadRequestError("send the recording as multipart/form-data, with fields 'file' and 'model'")
    reader = _FormReader()
    parser = MultipartParser(boundary, reader.callbacks())
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvokeBadRequestError(f"the form cannot be read: {error}") from error
    if not reader.is_whole:
        raise InvokeBadRequestError("the form breaks off before its end")
    return reader.form


class _FormReader:
    """Gathers the parts of a form as the parser finds them."""

    def __init__(self) -> None:
        self.form = Form({})
        self.is_whole = False
        self._parts = 0
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._data = bytearray()

    def callbacks(self) -> Any:
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")
        return {f"on_{name}": getattr(self, f"on_{name}") for name in names}

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvokeBadRequestError(f"the form has more than {_MAX_PARTS} parts")
        self._disposition, self._data = b"", bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def on_part_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == "file":
            self.form.file = bytes(self._data)
            self.form.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        elif len(self._data) > _MAX_FIELD:
            raise InvokeBadRequestError(f"field {name[:40]!r} of the form is longer than {_MAX_FIELD:,} bytes")
        elif name:
            self.form.fields[name] = self._data.decode("utf-8", "replace")

    def on_end(self) -> None:
        self.is_whole = True
