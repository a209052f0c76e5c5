"""A provider from its YAML alone: wire format, base URL, authorisation, over the one HTTP client."""

import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import ConfigError, InvokeError, InvokeServerUnavailableError
from modelyard.models.base import (
    AnyModel,
    LargeLanguageModel,
    ModerationModel,
    RerankModel,
    Speech2TextModel,
    TextEmbeddingModel,
    TTSModel,
)
from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tts import TTSRequest, TTSResultChunk, TTSUsage
from modelyard.models.types import JSON, Credentials, ModelType
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.http_errors import error_of
from modelyard.transport.http import HttpClient, Response, Timeouts
from modelyard.transport.sse import DONE, EventStream
from modelyard.wire import openai_audio, openai_chat, openai_embeddings, openai_moderations, openai_rerank

_MAX_ANSWER = 64 * 1024 * 1024
_MAX_ERROR = 256 * 1024
_AGENT = "modelyard"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider is and how to knock."""

    definition: ProviderDefinition
    client: HttpClient
    timeouts: Timeouts

    @property
    def quirks(self) -> Mapping[str, Any]:
        return self.definition.quirks

    def url(self, credentials: Credentials, path: str) -> str:
        """Raises ConfigError where nobody said where the server is."""
        field = self.definition.url_field
        base = (credentials.get(field) if field else None) or self.definition.base_url
        if not base:
            raise ConfigError(
                f"provider {self.definition.name!r} has no address: set {field or 'base_url'!r} in its credential"
            )
        return str(base).rstrip("/") + path

    def headers(self, credentials: Credentials) -> dict[str, str]:
        headers = {"user-agent": _AGENT, "content-type": "application/json"}
        field = self.definition.key_field
        if field and credentials.get(field):
            headers["authorization"] = f"Bearer {credentials[field]}"
        if credentials.get("organization"):
            headers["openai-organization"] = str(credentials["organization"])
        return headers

    async def post(self, credentials: Credentials, path: str, body: JSON) -> Response:
        return await self.send("POST", credentials, path, [_encode(body)], self.headers(credentials))

    async def send(
        self, method: str, credentials: Credentials, path: str, body: list[bytes], headers: Mapping[str, str]
    ) -> Response:
        """A successful answer's head. Raises InvokeError of the kind that the status stands for."""
        url = self.url(credentials, path)
        try:
            response = await self.client.send(method, url, headers=headers, body=body, timeouts=self.timeouts)
        except InvokeError as error:
            raise self.named(error) from error
        if 200 <= response.status < 300:
            return response
        raise error_of(response.status, response.headers, await self._said(response), provider=self.definition.name)

    @staticmethod
    async def _said(response: Response) -> bytes:
        try:
            return await response.read(most=_MAX_ERROR)
        except InvokeError:
            return b""

    def named(self, error: InvokeError) -> InvokeError:
        """The error with the provider's name in front."""
        if error.provider:
            return error
        return type(error)(str(error), provider=self.definition.name, retry_after=error.retry_after)

    async def json(self, response: Response) -> JSON:
        """The whole answer as an object. Raises InvokeServerUnavailableError where it is none."""
        try:
            body = _decode(await response.read(most=_MAX_ANSWER))
        except InvokeError as error:
            raise self.named(error) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.broken(f"the answer is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise self.broken("the answer is JSON, but no object")
        return body

    def broken(self, message: str) -> InvokeServerUnavailableError:
        return InvokeServerUnavailableError(message, provider=self.definition.name)

    async def call(self, credentials: Credentials, path: str, body: JSON) -> JSON:
        return await self.json(await self.post(credentials, path, body))

    async def list_models(self, credentials: Credentials) -> list[str]:
        """What the server itself says it offers: the cheapest proof that a credential works."""
        headers = self.headers(credentials)
        body = await self.json(await self.send("GET", credentials, "/models", [], headers))
        data = body.get("data")
        if not isinstance(data, list):
            raise self.broken("the list of models holds no data")
        return [str(one.get("id")) for one in data if isinstance(one, dict) and one.get("id")]


@dataclass(frozen=True, slots=True)
class HttpLargeLanguageModel(LargeLanguageModel):
    endpoint: Endpoint

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        endpoint = self.endpoint
        body = openai_chat.dump_request(request, model, endpoint.quirks)
        response = await endpoint.post(credentials, "/chat/completions", body)
        try:
            if request.stream and "json" not in response.headers.get("content-type", ""):
                reader = _StreamReader(endpoint)
                async with aclosing(response.pieces()) as pieces:
                    async for piece in pieces:
                        for chunk in reader.feed(piece):
                            yield chunk
                for chunk in reader.finish():
                    yield chunk
            else:  # a server that cannot stream answers at once
                for chunk in openai_chat.parse_result(await endpoint.json(response)).as_chunks():
                    yield chunk
        except InvokeError as error:
            raise endpoint.named(error) from error
        finally:
            response.close()


class _StreamReader:
    """A stream's bytes into chunks."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._events = EventStream()
        self._parser = openai_chat.StreamParser()
        self._is_done = False

    def feed(self, piece: bytes) -> Iterator[LLMResultChunk]:
        return self._read(self._events.feed(piece))

    def finish(self) -> Iterator[LLMResultChunk]:
        """What is left. Raises InvokeServerUnavailableError where the stream broke off."""
        yield from self._read(self._events.finish())
        self._parser.finish(done=self._is_done)

    def _read(self, events: list[bytes]) -> Iterator[LLMResultChunk]:
        for data in events:
            if data == DONE:
                self._is_done = True
            elif not self._is_done:
                yield from self._parser.feed(self._event(data))

    def _event(self, data: bytes) -> JSON:
        try:
            event = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._endpoint.broken(f"an event of the stream is not JSON: {error}") from error
        if not isinstance(event, dict):
            raise self._endpoint.broken("an event of the stream is JSON, but no object")
        return event


@dataclass(frozen=True, slots=True)
class HttpTextEmbeddingModel(TextEmbeddingModel):
    endpoint: Endpoint

    async def invoke(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> AsyncGenerator[TextEmbeddingResult, None]:
        body = openai_embeddings.dump_request(request, model, self.endpoint.quirks)
        result = openai_embeddings.parse_result(await self.endpoint.call(credentials, "/embeddings", body))
        if len(result.embeddings) != len(request.texts):
            raise self.endpoint.broken(f"{len(request.texts)} texts brought {len(result.embeddings)} embeddings")
        yield result


@dataclass(frozen=True, slots=True)
class HttpRerankModel(RerankModel):
    endpoint: Endpoint

    async def invoke(
        self, model: str, credentials: Credentials, request: RerankRequest
    ) -> AsyncGenerator[RerankResult, None]:
        body = openai_rerank.dump_request(request, model, self.endpoint.quirks)
        yield openai_rerank.parse_result(await self.endpoint.call(credentials, "/rerank", body), request)


@dataclass(frozen=True, slots=True)
class HttpModerationModel(ModerationModel):
    endpoint: Endpoint

    async def invoke(
        self, model: str, credentials: Credentials, request: ModerationRequest
    ) -> AsyncGenerator[ModerationResult, None]:
        body = openai_moderations.dump_request(request, model, self.endpoint.quirks)
        yield openai_moderations.parse_result(await self.endpoint.call(credentials, "/moderations", body))


@dataclass(frozen=True, slots=True)
class HttpTTSModel(TTSModel):
    endpoint: Endpoint

    async def invoke(
        self, model: str, credentials: Credentials, request: TTSRequest
    ) -> AsyncGenerator[TTSResultChunk, None]:
        body = openai_audio.dump_speech_request(request, model, self.endpoint.quirks)
        response = await self.endpoint.post(credentials, "/audio/speech", body)
        try:
            async with aclosing(response.pieces(most=_MAX_ANSWER)) as pieces:
                async for piece in pieces:
                    yield TTSResultChunk(model=model, audio=piece)
            yield TTSResultChunk(model=model, usage=TTSUsage(characters=len(request.text)))
        except InvokeError as error:
            raise self.endpoint.named(error) from error
        finally:
            response.close()


@dataclass(frozen=True, slots=True)
class HttpSpeech2TextModel(Speech2TextModel):
    endpoint: Endpoint

    async def invoke(
        self, model: str, credentials: Credentials, request: Speech2TextRequest
    ) -> AsyncGenerator[Speech2TextResult, None]:
        endpoint = self.endpoint
        fields = openai_audio.dump_transcription_request(request, model, endpoint.quirks)
        content_type, body = _form(fields, request)
        headers = endpoint.headers(credentials) | {"content-type": content_type}
        path = "/audio/translations" if request.task == "translate" else "/audio/transcriptions"
        response = await endpoint.send("POST", credentials, path, body, headers)
        result = openai_audio.parse_transcription_result(await endpoint.json(response))
        yield msgspec.structs.replace(result, model=model)


def _form(fields: Mapping[str, str], request: Speech2TextRequest) -> tuple[str, list[bytes]]:
    """A multipart body: its type, and its pieces, the recording among them uncopied."""
    boundary = secrets.token_hex(16)
    filename = request.filename.replace('"', "").replace("\r", "").replace("\n", "")
    head = "".join(
        f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += (
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{filename}"\r\n'
        f"content-type: {request.mime_type or 'application/octet-stream'}\r\n\r\n"
    )
    body = [head.encode(), request.audio, f"\r\n--{boundary}--\r\n".encode()]
    return f"multipart/form-data; boundary={boundary}", body


def http_models(definition: ProviderDefinition, client: HttpClient, timeouts: Timeouts) -> Mapping[ModelType, AnyModel]:
    """The callable models of a provider that speaks OpenAI's formats."""
    endpoint = Endpoint(definition, client, timeouts)
    every: dict[ModelType, AnyModel] = {
        ModelType.LLM: HttpLargeLanguageModel(endpoint),
        ModelType.TEXT_EMBEDDING: HttpTextEmbeddingModel(endpoint),
        ModelType.RERANK: HttpRerankModel(endpoint),
        ModelType.SPEECH2TEXT: HttpSpeech2TextModel(endpoint),
        ModelType.MODERATION: HttpModerationModel(endpoint),
        ModelType.TTS: HttpTTSModel(endpoint),
    }
    supported = definition.entity.supported_model_types
    return {kind: model for kind, model in every.items() if kind in supported}
