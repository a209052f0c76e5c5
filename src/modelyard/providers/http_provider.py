"""A provider from its YAML alone: what it speaks, where it is, how it is shown who calls, over the one HTTP client."""

import struct
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import msgspec

from modelyard.base.errors import ConfigError, InvokeError, suggestion
from modelyard.base.shapes import STUMBLES
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
from modelyard.models.entities import ModelPropertyKey
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.streams import fed, finished
from modelyard.models.thinking import ThinkStream
from modelyard.models.tokens import TokenCount
from modelyard.models.tts import TTSRequest, TTSResultChunk, TTSUsage
from modelyard.models.types import JSON, Credentials, ModelType
from modelyard.models.verbatim import Passing, VerbatimRequest
from modelyard.providers.definition import ProviderDefinition, Wire
from modelyard.providers.endpoint import MAX_ANSWER, Endpoint
from modelyard.providers.formats import CHAT, EMBEDDING, MODERATION, RERANK, SPEECH2TEXT, TTS, ChatFormat
from modelyard.transport.http import HttpClient, Response, Timeouts
from modelyard.wire import dashscope, openai_moderations

FormatT = TypeVar("FormatT")


@dataclass(frozen=True, slots=True)
class HttpLargeLanguageModel(LargeLanguageModel):
    """Speaks the first of the provider's formats, or the one that the request came in where it is among them: what
    only that format can say then arrives as it was said."""

    takes_verbatim: ClassVar[bool] = True
    endpoint: Endpoint
    wires: tuple[tuple[Wire, ChatFormat], ...]
    _known: dict[tuple[str, str, bool], tuple[Wire, ChatFormat]] = field(
        default_factory=dict[tuple[str, str, bool], tuple[Wire, ChatFormat]]
    )

    def _wire(
        self, model: str, credentials: Credentials, request: LLMRequest | VerbatimRequest
    ) -> tuple[Wire, ChatFormat]:
        named = self.endpoint.definition.url_field
        key = (model, request.format, bool(named and credentials.get(named)))
        if (known := self._known.get(key)) is None:
            if len(self._known) > 1000:
                self._known.clear()
            known = self._known[key] = self._found(model, request.format, is_moved=key[2])
        return known

    def _found(self, model: str, asked_in: str, *, is_moved: bool) -> tuple[Wire, ChatFormat]:
        definition = self.endpoint.definition
        schema = definition.entity.find(model, ModelType.LLM)
        named = definition.model_wires.get(model)
        if named is None and schema and schema.model_properties.get(ModelPropertyKey.MODE) == "completion":
            named = "openai_completions"
        if named is not None:
            return Wire(named), CHAT[named]
        for wire, form in self.wires[1:] if asked_in else ():
            # An address in the credential stands for the first format's; the others' would reach another server.
            if form.name == asked_in and not (is_moved and wire.base_url):
                return wire, form
        return self.wires[0]

    def speaks(self, model: str, credentials: Credentials, format: str) -> bool:  # noqa: A002
        named = self.endpoint.definition.url_field
        return self._found(model, format, is_moved=bool(named and credentials.get(named)))[1].name == format

    def unsupported(self, model: str, credentials: Credentials, request: LLMRequest) -> list[str]:
        _, form = self._wire(model, credentials, request)
        refused = set(self.endpoint.quirks(model).get("drop", ()))
        said = [*request.model_parameters, *(["stop"] if request.stop else [])]
        return [name for name in said if name not in form.parameters or name in refused]

    def passes_on(self, model: str, credentials: Credentials, request: VerbatimRequest) -> bool:
        form = self._wire(model, credentials, request)[1]
        passing = form.passing if form.name == request.format else None
        return passing is not None and passing.passes(request, self.endpoint.quirks(model))

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest | VerbatimRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        endpoint = self.endpoint
        quirks = endpoint.quirks(model)
        wire, form = self._wire(model, credentials, request)
        if isinstance(request, VerbatimRequest):
            passing = form.passing if form.name == request.format else None
            if passing is not None and passing.passes(request, quirks):
                async with aclosing(self._passed_on(model, credentials, request, wire, form, passing)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            request = request.parse()
        response = await self._post(model, credentials, request, wire, form)
        thoughts = ThinkStream() if quirks.get("think_tags") else None
        try:
            async with aclosing(self._chunks(request, response, form, quirks)) as chunks:
                async for chunk in chunks:
                    yield thoughts.feed(chunk) if thoughts else chunk
            for chunk in thoughts.finish() if thoughts else ():
                yield chunk
        except InvokeError as error:
            raise endpoint.named(error) from error
        finally:
            response.close()

    async def _passed_on(
        self,
        model: str,
        credentials: Credentials,
        request: VerbatimRequest,
        wire: Wire,
        form: ChatFormat,
        passing: Passing,
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """The answer's bytes as they come. What cannot be passed on is read in full from there on."""
        endpoint = self.endpoint
        quirks = endpoint.quirks(model)
        path = endpoint.definition.paths.get("llm", form.path) if form is self.wires[0][1] else form.path
        url = endpoint.url(credentials, path, model=model, base=wire.base_url)
        sent = passing.dump(request, model, quirks)
        response = await endpoint.send("POST", url, credentials, [sent], headers=form.headers)
        try:
            if not request.stream or response.headers.get("content-type", "").startswith("application/json"):
                body = await response.read(most=MAX_ANSWER)
                if (whole := passing.result(body) if not request.stream else None) is not None:
                    yield whole
                    return
                for chunk in form.parse_result((await endpoint.read_object(body)), quirks).as_chunks():
                    yield chunk
                return
            glance = passing.glance(request)
            async with aclosing(response.pieces()) as pieces:
                async for piece in pieces:
                    if (passed := glance.feed(piece)) is not None:
                        yield passed
                    if glance.unread is not None:
                        break
                if glance.unread is None:
                    glance.finish()
                if glance.unread is not None:
                    rest = endpoint.events_of(_first(glance.unread, pieces), form.framing)
                    read = self._read(rest, form, quirks, has_finished=glance.has_finished)
                    async with aclosing(read) as chunks:
                        async for chunk in chunks:
                            yield chunk
        except InvokeError as error:
            raise endpoint.named(error) from error
        finally:
            response.close()

    async def _read(
        self,
        events: AsyncGenerator[JSON | None, None],
        form: ChatFormat,
        quirks: Mapping[str, Any],
        *,
        has_finished: bool = False,
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Events in full, to the end of the stream or to the word that ends it. `has_finished` where a finish reason
        came before these events."""
        parser, is_done = form.parser(quirks), False
        async with aclosing(events):
            async for event in events:
                if event is None:
                    is_done = True
                elif not is_done:
                    for chunk in fed(parser, event):
                        yield chunk
        for chunk in finished(parser, done=is_done or has_finished):
            yield chunk

    async def _post(
        self, model: str, credentials: Credentials, request: LLMRequest, wire: Wire, form: ChatFormat
    ) -> Response:
        endpoint = self.endpoint
        path = self._path(request, form)
        url = endpoint.url(credentials, path, model=model, base=wire.base_url)
        headers = {**form.headers, **form.stream_headers} if request.stream else form.headers
        try:
            body = form.dump_request(request, model, endpoint.quirks(model))
        except InvokeError as error:
            raise endpoint.named(error) from error
        return await endpoint.post(url, credentials, body, headers=headers)

    def _path(self, request: LLMRequest, form: ChatFormat) -> str:
        paths = self.endpoint.definition.paths
        if form.name == dashscope.FORMAT and dashscope.has_files(request):
            return "/services/aigc/multimodal-generation/generation"
        if request.stream and form.stream_path != form.path:
            return paths.get("llm_stream", form.stream_path)
        return paths.get("llm", form.path) if form is self.wires[0][1] else form.path

    async def _chunks(
        self, request: LLMRequest, response: Response, form: ChatFormat, quirks: Mapping[str, Any]
    ) -> AsyncGenerator[LLMResultChunk, None]:
        if not request.stream or response.headers.get("content-type", "").startswith("application/json"):
            # A server that cannot stream answers at once.
            for chunk in form.parse_result(await self.endpoint.object(response), quirks).as_chunks():
                yield chunk
            return
        events = self.endpoint.events(response, form.framing)
        async with aclosing(self._read(events, form, quirks)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def count_tokens(self, model: str, credentials: Credentials, request: LLMRequest) -> TokenCount:
        """By the provider's own counter where its format has one; else as our own tokenizers count."""
        wire, form = self.wires[0]
        if not form.count_path:
            return await LargeLanguageModel.count_tokens(self, model, credentials, request)
        body = form.dump_request(msgspec.structs.replace(request, stream=False), model, self.endpoint.quirks(model))
        if form.name == "anthropic":
            body = {name: body[name] for name in _COUNTED if name in body}
        else:
            body = {"contents": body["contents"]}
        url = self.endpoint.url(credentials, form.count_path, model=model, base=wire.base_url)
        response = await self.endpoint.post(url, credentials, body, headers=form.headers)
        said = await self.endpoint.object(response)
        tokens = said.get("input_tokens", said.get("totalTokens"))
        if not isinstance(tokens, int):
            raise self.endpoint.broken("the answer holds no count of tokens")
        return TokenCount(tokens, estimated=False)


async def _first(piece: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield piece
    async for one in pieces:
        yield one


_COUNTED = ("model", "messages", "system", "tools", "tool_choice", "thinking")


@dataclass(frozen=True, slots=True)
class HttpTextEmbeddingModel(TextEmbeddingModel):
    endpoint: Endpoint
    form: Any
    base: str = ""

    async def invoke(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> AsyncGenerator[TextEmbeddingResult, None]:
        endpoint = self.endpoint
        body = self.form.dump_request(request, model, endpoint.quirks(model))
        path = endpoint.definition.paths.get("text-embedding", self.form.path)
        said = await endpoint.call(path, credentials, body, model=model, base=self.base)
        result = _read(endpoint, lambda: self.form.parse_result(said, request))
        if len(result.embeddings) != len(request.texts):
            raise endpoint.broken(f"{len(request.texts)} texts brought {len(result.embeddings)} embeddings")
        yield result if result.model else msgspec.structs.replace(result, model=model)


@dataclass(frozen=True, slots=True)
class HttpRerankModel(RerankModel):
    endpoint: Endpoint
    form: Any
    base: str = ""

    async def invoke(
        self, model: str, credentials: Credentials, request: RerankRequest
    ) -> AsyncGenerator[RerankResult, None]:
        endpoint = self.endpoint
        body = self.form.dump_request(request, model, endpoint.quirks(model))
        path = endpoint.definition.paths.get("rerank", self.form.path)
        said = await endpoint.call(path, credentials, body, model=model, base=self.base)
        result = _read(endpoint, lambda: self.form.parse_result(said, request))
        yield result if result.model else msgspec.structs.replace(result, model=model)


@dataclass(frozen=True, slots=True)
class HttpModerationModel(ModerationModel):
    endpoint: Endpoint

    async def invoke(
        self, model: str, credentials: Credentials, request: ModerationRequest
    ) -> AsyncGenerator[ModerationResult, None]:
        body = openai_moderations.dump_request(request, model, self.endpoint.quirks(model))
        path = self.endpoint.definition.paths.get("moderation", "/moderations")
        said = await self.endpoint.call(path, credentials, body, model=model)
        yield _read(self.endpoint, lambda: openai_moderations.parse_result(said))


@dataclass(frozen=True, slots=True)
class HttpTTSModel(TTSModel):
    endpoint: Endpoint
    form: Any
    base: str = ""

    async def invoke(
        self, model: str, credentials: Credentials, request: TTSRequest
    ) -> AsyncGenerator[TTSResultChunk, None]:
        endpoint = self.endpoint
        sending = self.form.dump(request, model, endpoint.quirks(model))
        response = await endpoint.deliver(sending, credentials, base=self.base, headers=self.form.headers)
        try:
            async with aclosing(self._sound(request, response)) as pieces:
                async for piece in pieces:
                    yield TTSResultChunk(model=model, audio=piece)
            yield TTSResultChunk(model=model, usage=TTSUsage(characters=len(request.text)))
        except InvokeError as error:
            raise endpoint.named(error) from error
        finally:
            response.close()

    async def _sound(self, request: TTSRequest, response: Response) -> AsyncGenerator[bytes, None]:
        if self.form.parse_event is None:
            async with aclosing(response.pieces(most=MAX_ANSWER)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        if request.format == "wav":
            yield _wav_head()
        async with aclosing(self.endpoint.events(response, "sse")) as events:
            async for event in events:
                if event is not None and (piece := self.form.parse_event(event)):
                    yield piece


def _wav_head() -> bytes:
    """Of a stream whose length nobody knows yet: 24 kHz, 16 bit, one channel."""
    open_end = 0xFFFFFFFF
    form = struct.pack("<HHIIHH", 1, 1, 24_000, 48_000, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", open_end)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", open_end)
    )


@dataclass(frozen=True, slots=True)
class HttpSpeech2TextModel(Speech2TextModel):
    endpoint: Endpoint
    form: Any
    base: str = ""

    async def invoke(
        self, model: str, credentials: Credentials, request: Speech2TextRequest
    ) -> AsyncGenerator[Speech2TextResult, None]:
        endpoint = self.endpoint
        sending = self.form.dump(request, model, endpoint.quirks(model))
        said = await endpoint.object(await endpoint.deliver(sending, credentials, base=self.base))
        result = _read(endpoint, lambda: self.form.parse(said))
        yield msgspec.structs.replace(result, model=model)


ResultT = TypeVar("ResultT")


def _read(endpoint: Endpoint, parse: Callable[[], ResultT]) -> ResultT:
    """What `parse` finds; an answer of another shape than promised is the server's mistake."""
    try:
        return parse()
    except InvokeError as error:
        raise endpoint.named(error) from error
    except STUMBLES as error:
        raise endpoint.broken(f"the answer has another shape than it should: {error!r}") from error


def _form(definition: ProviderDefinition, kind: ModelType, known: Mapping[str, FormatT]) -> FormatT:
    wire = definition.wires_of(kind)[0].name
    if wire not in known:
        raise ConfigError(
            f"provider {definition.name!r} ({definition.source}): {kind.value} models cannot speak {wire!r}; "
            + suggestion(wire, known, label="formats for them are")
        )
    return known[wire]


def _chat_model(endpoint: Endpoint) -> HttpLargeLanguageModel:
    definition = endpoint.definition
    _form(definition, ModelType.LLM, CHAT)
    wires = tuple((wire, CHAT[wire.name]) for wire in definition.wires_of(ModelType.LLM) if wire.name in CHAT)
    return HttpLargeLanguageModel(endpoint, wires)


def _moderation_model(endpoint: Endpoint) -> HttpModerationModel:
    _form(endpoint.definition, ModelType.MODERATION, dict.fromkeys(MODERATION))
    return HttpModerationModel(endpoint)


def _one_format(kind: ModelType, known: Mapping[str, Any], make: Any) -> Callable[[Endpoint], AnyModel]:
    """Builds the model of a type that is spoken to in one format alone."""

    def build(endpoint: Endpoint) -> AnyModel:
        form = _form(endpoint.definition, kind, known)
        return make(endpoint, form, endpoint.definition.wires_of(kind)[0].base_url)

    return build


_MODELS: Mapping[ModelType, Callable[[Endpoint], AnyModel]] = {
    ModelType.LLM: _chat_model,
    ModelType.TEXT_EMBEDDING: _one_format(ModelType.TEXT_EMBEDDING, EMBEDDING, HttpTextEmbeddingModel),
    ModelType.RERANK: _one_format(ModelType.RERANK, RERANK, HttpRerankModel),
    ModelType.SPEECH2TEXT: _one_format(ModelType.SPEECH2TEXT, SPEECH2TEXT, HttpSpeech2TextModel),
    ModelType.MODERATION: _moderation_model,
    ModelType.TTS: _one_format(ModelType.TTS, TTS, HttpTTSModel),
}

WIRES = tuple(dict.fromkeys([*CHAT, *EMBEDDING, *RERANK, *SPEECH2TEXT, *TTS]))
"""Every format that a provider file may name."""


def http_models(
    definition: ProviderDefinition, client: HttpClient, timeouts: Timeouts, guarded: HttpClient | None = None
) -> Mapping[ModelType, AnyModel]:
    """The callable models of a provider, one a type that it supports. `guarded`: for addresses that tenants name."""
    endpoint = Endpoint(definition, client, timeouts, guarded)
    return {kind: _MODELS[kind](endpoint) for kind in definition.entity.supported_model_types}
