"""Models of a provider that is defined by YAML alone: its wire format, its endpoint and
its authentication over HTTP."""

import struct
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeVar

import msgspec

from modelyard.base.call_headers import (
    LIST_HEADERS,
    NO_HEADERS,
    CallHeaders,
    merge_headers,
)
from modelyard.base.errors import (
    ConfigError,
    EndpointNotFoundError,
    InvokeBadRequestError,
    InvokeError,
    suggestion,
)
from modelyard.base.reader_errors import MALFORMED_INPUT_ERRORS
from modelyard.models.answer_formats import AnswerModes
from modelyard.models.base import (
    AnyModel,
    LargeLanguageModel,
    ModerationModel,
    RerankModel,
    Speech2TextModel,
    TextEmbeddingModel,
    TTSModel,
)
from modelyard.models.capabilities import Capabilities
from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.entities import ModelPropertyKey
from modelyard.models.http_payload import HttpPayload
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.passthrough import (
    PassthroughFormat,
    PassthroughRequest,
    to_parsed_request,
)
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.speech_losses import (
    unread_speech_fields,
    unread_transcription_fields,
)
from modelyard.models.tokens import TokenCount
from modelyard.models.tts import TTSRequest, TTSResultChunk, TTSUsage
from modelyard.models.types import JSON, Credentials, ModelType, OperatorCredentials
from modelyard.models.vendor_headers import fields_without_beta
from modelyard.providers.adaptation.adapter import Adaptation, adapt
from modelyard.providers.adaptation.draft import Restorer, Target
from modelyard.providers.chat_exchange import (
    ChatExchange,
    DirectExchange,
    with_headers,
)
from modelyard.providers.definition import ProviderDefinition, Wire
from modelyard.providers.endpoint import MAX_ANSWER, Endpoint, has_api
from modelyard.providers.formats import (
    CHAT,
    EMBEDDING,
    MODERATION,
    RERANK,
    ChatFormat,
)
from modelyard.providers.learnt import (
    AUDIO_FIELDS,
    has_field,
    refused_field,
    without_fields,
)
from modelyard.providers.speech_formats import SPEECH2TEXT, TTS
from modelyard.transport.http import HttpClient, RequestHead, Response, Timeouts
from modelyard.wire import dashscope, openai_moderations

_encode = msgspec.json.Encoder().encode
FormatT = TypeVar("FormatT")


_WITHOUT_JSON_MODE = ("anthropic", "bedrock", "openai_completions")
"""Formats without a mode for answers that are any JSON object."""


@dataclass(frozen=True, slots=True)
class _Selection:
    """How requests for a model are sent."""

    wire: Wire
    chat_format: ChatFormat
    target: Target


@dataclass(frozen=True, slots=True)
class HttpLargeLanguageModel(LargeLanguageModel):
    """Chat models of a provider.

    Uses the provider's first wire format, or that of the request if the provider
    supports it: fields that only exist in that format then arrive unchanged.
    """

    accepts_passthrough: ClassVar[bool] = True
    endpoint: Endpoint
    wires: tuple[tuple[Wire, ChatFormat], ...]
    # By (model, request format, whether the credential names the URL).
    _selections: dict[tuple[str, str, bool], _Selection] = field(
        default_factory=dict[tuple[str, str, bool], _Selection]
    )

    def _selected(
        self,
        model: str,
        credentials: Credentials,
        request: LLMRequest | PassthroughRequest,
    ) -> _Selection:
        """Return the wire format for a request, with its base URL settings and what the
        model accepts, cached.

        The choice depends on the model, the request's own format, and whether the
        credential has a URL of its own.
        """
        url_field = self.endpoint.definition.url_field
        key = (model, request.format, bool(url_field and credentials.get(url_field)))
        if (selection := self._selections.get(key)) is None:
            # The limit keeps memory bounded if clients invent model names.
            if len(self._selections) > 1000:
                self._selections.clear()
            wire, chat_format = self._select_format(
                model, request.format, is_moved=key[2]
            )
            target = self._target(model, chat_format)
            selection = _Selection(wire, chat_format, target)
            self._selections[key] = selection
        if self.endpoint.learnt.is_empty:
            return selection
        return self._spoken(selection, model, credentials, request)

    def _spoken(
        self,
        selection: _Selection,
        model: str,
        credentials: Credentials,
        request: LLMRequest | PassthroughRequest,
    ) -> _Selection:
        """Return the selected format, or the next one if the server does not speak it;
        the selected one if it speaks none."""
        learnt = self.endpoint.learnt
        if learnt.speaks(
            _server(self.endpoint, credentials, selection.wire), selection.wire.name
        ):
            return selection
        for wire, chat_format in self._alternatives(selection, credentials, request):
            if learnt.speaks(_server(self.endpoint, credentials, wire), wire.name):
                return _Selection(wire, chat_format, self._target(model, chat_format))
        return selection

    def _alternatives(
        self,
        selection: _Selection,
        credentials: Credentials,
        request: LLMRequest | PassthroughRequest,
    ) -> list[tuple[Wire, ChatFormat]]:
        """Return the other formats in which a call could be made, the best first. A
        model with its own format has none."""
        if all(wire is not selection.wire for wire, _ in self.wires):
            return []
        url_field = self.endpoint.definition.url_field
        is_moved = bool(url_field and credentials.get(url_field))
        # Plain text completions cannot carry tools.
        has_tools = isinstance(request, LLMRequest) and bool(request.tools)
        return [
            (wire, chat_format)
            for wire, chat_format in self.wires
            if wire is not selection.wire
            and not (is_moved and wire.base_url)
            and not (has_tools and wire.name == "openai_completions")
        ]

    def _learn(
        self,
        model: str,
        credentials: Credentials,
        selection: _Selection,
        request: LLMRequest | PassthroughRequest,
        body: bytes,
        error: InvokeError,
    ) -> bool:
        """Remember what an error shows about the server. Returns whether the same call
        would now be made in another way."""
        learnt = self.endpoint.learnt
        server = _server(self.endpoint, credentials, selection.wire)
        if isinstance(error, EndpointNotFoundError):
            alternatives = [
                (_server(self.endpoint, credentials, wire), wire.name)
                for wire, _ in self._alternatives(selection, credentials, request)
            ]
            if any(learnt.speaks(*alternative) for alternative in alternatives):
                learnt.refuse_format(server, selection.wire.name)
                return True
            # It speaks none of them: its address is wrong, or it is starting.
            learnt.forget_formats(server)
            return False
        name = refused_field(error)
        if name is None or not has_field(body, name):
            return False
        learnt.refuse_field(server, model, name)
        # The caller may want an error rather than a call without the field.
        return not (isinstance(request, LLMRequest) and request.unsupported == "refuse")

    def _select_format(
        self, model: str, request_format: str, *, is_moved: bool
    ) -> tuple[Wire, ChatFormat]:
        """Choose the wire format for a model and a request's format.

        A format that is declared for the model comes first, then the request's own if
        the provider has it, then the provider's first. With `is_moved` (the credential
        has a URL) no format with a base URL of its own is chosen by the request.
        """
        definition = self.endpoint.definition
        schema = definition.entity.find(model, ModelType.LLM)
        format_name = definition.model_wires.get(model)
        # Models of the completion mode do not understand chat requests.
        if (
            format_name is None
            and schema
            and schema.model_properties.get(ModelPropertyKey.MODE) == "completion"
        ):
            format_name = "openai_completions"
        # A model with its own format uses no other, whatever the request came in.
        if format_name is not None:
            return Wire(format_name), CHAT[format_name]
        for wire, chat_format in self.wires[1:] if request_format else ():
            # A URL in the credential belongs to the first format; a format with its own
            # base URL would reach another server.
            if chat_format.name == request_format and not (is_moved and wire.base_url):
                return wire, chat_format
        return self.wires[0]

    def supports_format(
        self, model: str, credentials: Credentials, format: str
    ) -> bool:
        """Return whether requests for this model can be sent in this wire format."""
        url_field = self.endpoint.definition.url_field
        wire, chat_format = self._select_format(
            model, format, is_moved=bool(url_field and credentials.get(url_field))
        )
        if chat_format.name != format:
            return False
        learnt = self.endpoint.learnt
        return learnt.is_empty or learnt.speaks(
            _server(self.endpoint, credentials, wire), wire.name
        )

    def unsupported(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> list[str]:
        """Return the names of the request's fields that are left out on the way to the
        model's server."""
        selection = self._selected(model, credentials, request)
        chat_format, target = selection.chat_format, selection.target
        adaptation = adapt(request, target)
        refused_names: list[str] = []
        if refused := self._refused_fields(model, credentials, selection):
            body = chat_format.dump_request(
                adaptation.request, model, target.capabilities
            )
            refused_names = without_fields(body, refused)
        names = self._left_out(model, credentials, selection, request)
        return list(dict.fromkeys([*adaptation.dropped, *names, *refused_names]))

    def _left_out(
        self,
        model: str,
        credentials: Credentials,
        selection: _Selection,
        request: LLMRequest,
    ) -> list[str]:
        """Return the names of the fields, and of the headers that choose an account,
        that are left out because of the request's headers."""
        chat_format = selection.chat_format
        headers = self._headers_for(chat_format, request)
        names = fields_without_beta(request, chat_format.betas(model, headers))
        return [*names, *_refused_account(chat_format, credentials, request)]

    def answer_modes(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AnswerModes:
        """Return whether the format that the request is sent in has a JSON mode."""
        selection = self._selected(model, credentials, request)
        return AnswerModes(selection.chat_format.name not in _WITHOUT_JSON_MODE)

    def _refused_fields(
        self, model: str, credentials: Credentials, selection: _Selection
    ) -> tuple[str, ...]:
        """Return the fields that the server has refused for a model."""
        learnt = self.endpoint.learnt
        if learnt.is_empty:
            return ()
        server = _server(self.endpoint, credentials, selection.wire)
        return learnt.refused_fields(server, model)

    @property
    def knowledge_version(self) -> int:
        """Changes whenever something was learnt about the servers; 0 at first."""
        return self.endpoint.learnt.version

    def _target(self, model: str, chat_format: ChatFormat) -> Target:
        """Return what requests for a model are adapted to."""
        endpoint = self.endpoint
        return Target(
            chat_format.name,
            model,
            endpoint.capabilities(model),
            endpoint.definition.entity.find(model, ModelType.LLM),
            chat_format.parameters,
            endpoint.definition.name,
        )

    def _headers_for(
        self, chat_format: ChatFormat, request: LLMRequest | PassthroughRequest
    ) -> CallHeaders:
        """Return the caller's headers together with the lists of names that the
        provider file sets."""
        headers = request.headers
        own_lists = {
            name.lower(): value
            for name, value in self.endpoint.definition.headers.items()
            if name.lower() in LIST_HEADERS
        }
        if not own_lists:
            return headers
        vendor = chat_format.header_rules.vendor
        if headers.vendor != vendor:
            return CallHeaders(vendor=vendor, values=own_lists)
        return msgspec.structs.replace(
            headers, values=merge_headers(headers.values, own_lists)
        )

    def can_pass_through(
        self, model: str, credentials: Credentials, request: PassthroughRequest
    ) -> bool:
        """Return whether the request can be passed through unparsed."""
        selection = self._selected(model, credentials, request)
        if self._refused_fields(model, credentials, selection):
            return False
        capabilities = self.endpoint.capabilities(model)
        chat_format = selection.chat_format
        return _passthrough_format(chat_format, request, capabilities) is not None

    async def invoke(
        self,
        model: str,
        credentials: Credentials,
        request: LLMRequest | PassthroughRequest,
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Call the model and yield its response as chunks. Raises InvokeError with the
        provider's name."""
        endpoint = self.endpoint
        exchange, response = await self._sent(model, credentials, request)
        # The first chunk carries the headers of the response.
        answer_headers = exchange.answer_headers(response.header_lines)
        try:
            reader = exchange.reader(response.headers.get("content-type", ""))
            if exchange.reads_whole_body(reader):
                body = await response.read(max_bytes=MAX_ANSWER)
                for chunk in await exchange.read_large(body):
                    yield with_headers(chunk, answer_headers)
                    answer_headers = NO_HEADERS
                return
            async with aclosing(response.chunks()) as body_chunks:
                async for body_chunk in body_chunks:
                    for chunk in reader.feed(body_chunk):
                        yield with_headers(chunk, answer_headers)
                        answer_headers = NO_HEADERS
            for chunk in reader.finish():
                yield with_headers(chunk, answer_headers)
                answer_headers = NO_HEADERS
        except InvokeError as error:
            named = endpoint.with_provider_name(error)
            # Some servers answer an unknown path with status 200.
            if isinstance(named, EndpointNotFoundError):
                named.is_adaptable = exchange.learn(named)
            raise named from error
        # Closed also if the consumer stops early, which ends the generation at the
        # provider.
        finally:
            response.close()

    async def _sent(
        self,
        model: str,
        credentials: Credentials,
        request: LLMRequest | PassthroughRequest,
    ) -> tuple[ChatExchange, Response]:
        """Send a request and return its response. What the server refuses is learnt,
        and the request sent again without it. Raises InvokeError."""
        missing: EndpointNotFoundError | None = None
        while True:
            exchange = self._exchange(model, credentials, request)
            try:
                response = await self.endpoint.send(
                    "POST",
                    exchange.url,
                    credentials,
                    [exchange.body],
                    headers=exchange.headers,
                    call_headers=exchange.call_headers,
                    rules=exchange.chat_format.header_rules,
                )
            except InvokeError as error:
                # Ends, since each turn leaves out one more format or field.
                missing = _first_missing(exchange, error, missing)
            else:
                return exchange, response

    async def spoken_formats(self, credentials: Credentials) -> dict[str, bool]:
        """Ask the server for each format by an empty request, which costs nothing.
        Returns its name → whether the server speaks it.

        Raises InvokeConnectionError if the server is not reached.
        """
        spoken: dict[str, bool] = {}
        endpoint = self.endpoint
        for wire, chat_format in self.wires:
            path, headers = self._chat_path(chat_format), chat_format.headers
            url = endpoint.url(credentials, path, model="none", base=wire.base_url)
            spoken[wire.name] = await has_api(endpoint, url, credentials, headers)
        return spoken

    def exchange(
        self,
        model: str,
        credentials: Credentials,
        request: LLMRequest | PassthroughRequest,
    ) -> DirectExchange | None:
        """Return an exchange that is driven by callbacks; None if something has to be
        awaited before the request can be sent."""
        exchange = self._exchange(model, credentials, request)
        ready = self.endpoint.ready_head(
            exchange.url, credentials, exchange.headers, exchange.call_headers
        )
        return None if ready is None else DirectExchange(exchange, *ready)

    def prepare(
        self, model: str, credentials: Credentials, request: PassthroughRequest
    ) -> "PreparedExchange | None":
        """Return what makes exchanges of requests with the format and the parameters of
        this one, with everything looked up. None if they have to be parsed, or
        something has to be awaited before they can be sent."""
        selection = self._selected(model, credentials, request)
        wire, chat_format = selection.wire, selection.chat_format
        capabilities = selection.target.capabilities
        passing = _passthrough_format(chat_format, request, capabilities)
        if passing is None or self._refused_fields(model, credentials, selection):
            return None
        path = self._chat_path(chat_format)
        url = self.endpoint.url(credentials, path, model=model, base=wire.base_url)
        ready = self.endpoint.ready_head(url, credentials, chat_format.headers, {})
        # A token or a signature belongs to one request and cannot be prepared.
        if ready is None:
            return None
        learn = partial(self._learn, model, credentials, selection)
        return PreparedExchange(
            self.endpoint, chat_format, capabilities, passing, url, model, *ready, learn
        )

    def _exchange(
        self,
        model: str,
        credentials: Credentials,
        request: LLMRequest | PassthroughRequest,
    ) -> ChatExchange:
        """Return a request as it is sent to the provider. Raises InvokeError, with the
        provider's name, if it cannot be translated."""
        endpoint = self.endpoint
        selection = self._selected(model, credentials, request)
        wire, chat_format = selection.wire, selection.chat_format
        capabilities = selection.target.capabilities
        headers = chat_format.headers
        passing = (
            _passthrough_format(chat_format, request, capabilities)
            if isinstance(request, PassthroughRequest)
            else None
        )
        restorers: tuple[Callable[[], Restorer], ...] = ()
        dropped: tuple[str, ...] | None = None
        refused = self._refused_fields(model, credentials, selection)
        if refused:
            passing = None
        original_request = request
        # What is passed through is not parsed at all.
        if passing is not None and isinstance(request, PassthroughRequest):
            path = self._chat_path(chat_format)
            body = passing.dump(request, model, capabilities)
        else:
            unadapted = to_parsed_request(request)
            adaptation = self._adapted(unadapted, selection.target)
            request = parsed = adaptation.request
            restorers = adaptation.restorers
            path = self._path(parsed, chat_format)
            # Some formats select streaming by a header.
            if parsed.stream and chat_format.stream_headers:
                headers = {**headers, **chat_format.stream_headers}
            body, names = self._dump(parsed, model, chat_format, capabilities, refused)
            names += self._left_out(model, credentials, selection, unadapted)
            # A field may be left out for more than one reason.
            dropped = tuple(dict.fromkeys([*adaptation.dropped, *names]))
            _check_dropped(f"{endpoint.definition.name}/{model}", unadapted, dropped)
        call_headers, path = _passed_on(chat_format, credentials, request, path)
        url = endpoint.url(credentials, path, model=model, base=wire.base_url)
        return ChatExchange(
            endpoint,
            chat_format,
            capabilities,
            request,
            passing,
            url,
            headers,
            call_headers,
            body,
            restorers,
            partial(self._learn, model, credentials, selection, original_request, body),
            dropped,
        )

    def _adapted(self, request: LLMRequest, target: Target) -> Adaptation:
        """Return a request as the model's server accepts it. Raises InvokeError, with
        the provider's name, if that cannot be done."""
        try:
            return adapt(request, target)
        except InvokeError as error:
            raise self.endpoint.with_provider_name(error) from error

    def _dump(
        self,
        request: LLMRequest,
        model: str,
        chat_format: ChatFormat,
        capabilities: Capabilities,
        refused: Collection[str],
    ) -> tuple[bytes, list[str]]:
        """Return a request in its provider's format without the `refused` fields, and
        the names of those that it had. Raises InvokeError, with the provider's name, if
        it cannot be translated."""
        headers = self._headers_for(chat_format, request)
        if headers is not request.headers:
            request = msgspec.structs.replace(request, headers=headers)
        try:
            body = chat_format.dump_request(request, model, capabilities)
            names = without_fields(body, refused) if refused else []
            return _encode(body), names
        except InvokeError as error:
            raise self.endpoint.with_provider_name(error) from error

    def _path(self, request: LLMRequest, chat_format: ChatFormat) -> str:
        """Return the path of a chat call.

        It depends on streaming and, for DashScope, on whether the request has files. A
        provider file may override it.
        """
        paths = self.endpoint.definition.paths
        # DashScope has a second endpoint for requests with files.
        if chat_format.name == dashscope.FORMAT and dashscope.has_files(request):
            return "/services/aigc/multimodal-generation/generation"
        if request.stream and chat_format.stream_path != chat_format.path:
            return paths.get("llm_stream", chat_format.stream_path)
        return self._chat_path(chat_format)

    def _chat_path(self, chat_format: ChatFormat) -> str:
        """Return the path of a format; the provider file's path applies to its first
        format only."""
        if chat_format is self.wires[0][1]:
            return self.endpoint.definition.paths.get("llm", chat_format.path)
        # The base URL of OpenAI's format ends in the version, which is a part of the
        # path in Anthropic's.
        has_version = chat_format.path.startswith("/v1/")
        if has_version and self.wires[0][0].name == "openai":
            wires = [wire for wire, each in self.wires if each is chat_format]
            if wires and not wires[0].base_url:
                return chat_format.path.removeprefix("/v1")
        return chat_format.path

    async def count_tokens(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> TokenCount:
        """Count the tokens of a request with the provider's own counter if the format
        has one, otherwise with local tokenizers."""
        wire, chat_format = self.wires[0]
        if not chat_format.count_path:
            return await LargeLanguageModel.count_tokens(
                self, model, credentials, request
            )
        headers = self._headers_for(chat_format, request)
        body = chat_format.dump_request(
            msgspec.structs.replace(request, stream=False, headers=headers),
            model,
            self.endpoint.capabilities(model),
        )
        if chat_format.name == "anthropic":
            # Anthropic's counter accepts only some fields of a request, Google's only
            # the contents.
            body = {name: body[name] for name in _TOKEN_COUNT_FIELDS if name in body}
        else:
            body = {"contents": body["contents"]}
        call_headers, path = _passed_on(
            chat_format, credentials, request, chat_format.count_path
        )
        url = self.endpoint.url(credentials, path, model=model, base=wire.base_url)
        response = await self.endpoint.post(
            url,
            credentials,
            body,
            headers=chat_format.headers,
            call_headers=call_headers,
            rules=chat_format.header_rules,
        )
        count_response = await self.endpoint.object(response)
        # Anthropic's and Google's names of the count.
        tokens = count_response.get("input_tokens", count_response.get("totalTokens"))
        if not isinstance(tokens, int):
            raise self.endpoint.stream_error("The response has no token count")
        return TokenCount(tokens, estimated=False)


class PreparedExchange(msgspec.Struct, frozen=True):
    """Makes the exchanges of requests to one model that are passed through. Implements
    `modelyard.models.exchange.PreparedExchange`."""

    endpoint: Endpoint
    chat_format: ChatFormat
    capabilities: Capabilities
    passing: PassthroughFormat
    url: str
    model: str
    client: HttpClient
    head: RequestHead
    learn: Callable[[PassthroughRequest, bytes, InvokeError], bool]
    """Remembers what an error shows about the server; see `ChatExchange.learn`."""

    def exchange(self, request: PassthroughRequest) -> DirectExchange:
        """Return the exchange of a request."""
        body = self.passing.dump(request, self.model, self.capabilities)
        chat_exchange = ChatExchange(
            self.endpoint,
            self.chat_format,
            self.capabilities,
            request,
            self.passing,
            self.url,
            self.chat_format.headers,
            {},
            body,
            learn=partial(self.learn, request, body),
        )
        return DirectExchange(chat_exchange, self.client, self.head)


def _first_missing(
    exchange: ChatExchange, error: InvokeError, missing: EndpointNotFoundError | None
) -> EndpointNotFoundError | None:
    """Learn from an error, and return the error about the first format that the server
    does not have. Raises InvokeError if the call cannot be made in another way."""
    is_missing = isinstance(error, EndpointNotFoundError)
    if not exchange.learn(error):
        # The first format is the one that the operator knows.
        if missing is not None and is_missing:
            raise missing from error
        raise error
    return missing or (error if is_missing else None)


def _refused_account(
    chat_format: ChatFormat, credentials: Credentials, request: LLMRequest
) -> list[str]:
    """Return the caller's headers that choose another account than the
    credential's. A provider would refuse the credential because of them."""
    headers = request.headers
    is_same_vendor = headers.vendor == chat_format.header_rules.vendor
    if not is_same_vendor or not isinstance(credentials, OperatorCredentials):
        return []
    return list(headers.account)


def _check_dropped(name: str, request: LLMRequest, dropped: Collection[str]) -> None:
    """Raise InvokeBadRequestError if fields are left out although the caller wants an
    error then. The first target of a call has been checked before.

    `name`: the model's name, with that of its provider.
    """
    if request.unsupported == "refuse" and dropped:
        quoted_names = ", ".join(repr(field) for field in dropped)
        raise InvokeBadRequestError(
            f"Model {name!r} does not support {quoted_names}",
            param=next(iter(dropped)),
        )


def _server(endpoint: Endpoint, credentials: Credentials, wire: Wire) -> str:
    """Return the address of the server of a format."""
    return endpoint.url(credentials, "", base=wire.base_url)


def _passthrough_format(
    chat_format: ChatFormat, request: PassthroughRequest, capabilities: Capabilities
) -> PassthroughFormat | None:
    """Return the format's passthrough if the request can be sent unparsed, else None."""
    passing = chat_format.passing if chat_format.name == request.format else None
    if passing is None or not passing.can_pass_through(request, capabilities):
        return None
    return passing


def _passed_on(
    chat_format: ChatFormat,
    credentials: Credentials,
    request: LLMRequest | PassthroughRequest,
    path: str,
) -> tuple[dict[str, str], str]:
    """Return the caller's headers that go along, and the path with the caller's query.

    Only a provider that is spoken to in the caller's own format gets them.
    """
    headers = request.headers
    if headers is NO_HEADERS or headers.vendor != chat_format.header_rules.vendor:
        return {}, path
    if headers.query:
        path = f"{path}{'&' if '?' in path else '?'}{headers.query}"
    # An account fits the caller's own credential, not the operator's.
    if headers.account and not isinstance(credentials, OperatorCredentials):
        return {**headers.values, **headers.account}, path
    return headers.values, path


# The fields of a request that Anthropic's token counter accepts.
_TOKEN_COUNT_FIELDS = (
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    # With their beta names.
    "context_management",
    "mcp_servers",
)


@dataclass(frozen=True, slots=True)
class HttpTextEmbeddingModel(TextEmbeddingModel):
    """Embedding models of a provider."""

    endpoint: Endpoint
    wire_format: Any
    base: str = ""

    async def invoke(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> AsyncGenerator[TextEmbeddingResult, None]:
        """Yield the embeddings of all texts as one result. Raises InvokeError with the
        provider's name."""
        endpoint = self.endpoint
        response_body = await self._response_body(model, credentials, request)
        result = _parse_response(
            endpoint, lambda: self.wire_format.parse_result(response_body, request)
        )
        # A missing vector would silently shift the others to the wrong texts.
        if len(result.embeddings) != len(request.texts):
            raise endpoint.stream_error(
                f"Expected {len(request.texts)} embeddings, got"
                f" {len(result.embeddings)}"
            )
        yield result if result.model else msgspec.structs.replace(result, model=model)

    async def _response_body(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> Any:
        """Send a request and return the response. A field that the server refuses is
        learnt, and the request sent again without it, unless the caller refuses that.
        Raises InvokeError."""
        endpoint = self.endpoint
        server = endpoint.url(credentials, "", base=self.base)
        path = endpoint.definition.paths.get("text-embedding", self.wire_format.path)
        while True:
            body, _ = self._body(model, server, request)
            try:
                return await endpoint.call(
                    path, credentials, body, model=model, base=self.base
                )
            except InvokeError as error:
                name = refused_field(error)
                # Ends, since each turn leaves out one more field.
                if name is None or not without_fields(body, [name]):
                    raise
                endpoint.learnt.refuse_field(server, model, name)
                if request.unsupported == "refuse":
                    raise

    def _body(
        self, model: str, server: str, request: TextEmbeddingRequest
    ) -> tuple[JSON, list[str]]:
        """Return the body for a server, and the fields left out that it refuses."""
        capabilities = self.endpoint.capabilities(model)
        body = self.wire_format.dump_request(request, model, capabilities)
        refused = self.endpoint.learnt.refused_fields(server, model)
        return body, without_fields(body, refused)

    def unsupported(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> list[str]:
        """Return the fields of the request that the server has refused."""
        if self.endpoint.learnt.is_empty:
            return []
        server = self.endpoint.url(credentials, "", base=self.base)
        _, removed = self._body(model, server, request)
        # The encoding is chosen by this server, which encodes the answer itself.
        return [name for name in removed if name != "encoding_format"]


@dataclass(frozen=True, slots=True)
class HttpRerankModel(RerankModel):
    """Rerank models of a provider."""

    endpoint: Endpoint
    wire_format: Any
    base: str = ""

    async def invoke(
        self, model: str, credentials: Credentials, request: RerankRequest
    ) -> AsyncGenerator[RerankResult, None]:
        """Yield the ranked documents as one result. Raises InvokeError with the
        provider's name."""
        endpoint = self.endpoint
        body = self.wire_format.dump_request(
            request, model, endpoint.capabilities(model)
        )
        path = endpoint.definition.paths.get("rerank", self.wire_format.path)
        response_body = await endpoint.call(
            path, credentials, body, model=model, base=self.base
        )
        result = _parse_response(
            endpoint, lambda: self.wire_format.parse_result(response_body, request)
        )
        yield result if result.model else msgspec.structs.replace(result, model=model)


@dataclass(frozen=True, slots=True)
class HttpModerationModel(ModerationModel):
    """Moderation models of a provider. There is one wire format for them."""

    endpoint: Endpoint

    async def invoke(
        self, model: str, credentials: Credentials, request: ModerationRequest
    ) -> AsyncGenerator[ModerationResult, None]:
        """Yield the verdicts of all texts as one result. Raises InvokeError with the
        provider's name."""
        body = openai_moderations.dump_request(
            request, model, self.endpoint.capabilities(model)
        )
        path = self.endpoint.definition.paths.get("moderation", "/moderations")
        response_body = await self.endpoint.call(path, credentials, body, model=model)
        yield _parse_response(
            self.endpoint, lambda: openai_moderations.parse_result(response_body)
        )


@dataclass(frozen=True, slots=True)
class HttpTTSModel(TTSModel):
    """Speech synthesis models of a provider."""

    endpoint: Endpoint
    wire_format: Any
    base: str = ""

    async def invoke(
        self, model: str, credentials: Credentials, request: TTSRequest
    ) -> AsyncGenerator[TTSResultChunk, None]:
        """Yield the audio in chunks, then the usage. Raises InvokeError with the
        provider's name."""
        endpoint = self.endpoint
        response = await _delivered(
            endpoint,
            partial(self.wire_format.dump, request, model),
            model,
            credentials,
            base=self.base,
            headers=self.wire_format.headers,
            refuses=request.unsupported == "refuse",
        )
        try:
            async with aclosing(self._audio_chunks(request, response)) as audio_chunks:
                async for audio_chunk in audio_chunks:
                    yield TTSResultChunk(model=model, audio=audio_chunk)
            # Synthesis is billed by characters, which the request determines.
            yield TTSResultChunk(
                model=model, usage=TTSUsage(characters=len(request.text))
            )
        except InvokeError as error:
            raise endpoint.with_provider_name(error) from error
        finally:
            response.close()

    def unsupported(
        self, model: str, credentials: Credentials, request: TTSRequest
    ) -> list[str]:
        """Return the fields of the request that the format does not have, or that the
        server has refused."""
        dump = partial(self.wire_format.dump, request, model)
        refused = _refused_payload_fields(
            self.endpoint, dump, model, credentials, base=self.base
        )
        return [*unread_speech_fields(request, self.wire_format.read), *refused]

    async def _audio_chunks(
        self, request: TTSRequest, response: Response
    ) -> AsyncGenerator[bytes, None]:
        """Yield the audio of a response in chunks.

        It is the body itself, or the content of its server-sent events; raw PCM from
        events gets a WAV header if that format was requested. Raises InvokeError.
        """
        if self.wire_format.parse_event is None:
            async with aclosing(response.chunks(max_bytes=MAX_ANSWER)) as audio_chunks:
                async for audio_chunk in audio_chunks:
                    yield audio_chunk
            return
        # Audio in events is raw PCM; a WAV file needs a header in front.
        if request.format == "wav":
            yield _wav_head()
        async with aclosing(self.endpoint.events(response, "sse")) as events:
            async for event in events:
                if event is not None and (
                    audio_chunk := self.wire_format.parse_event(event)
                ):
                    yield audio_chunk


def _wav_head() -> bytes:
    """Return a WAV header for a stream of unknown length: 24 kHz, 16 bit, mono."""
    # The largest length stands for an unknown one; players then read to the end.
    open_end = 0xFFFFFFFF
    wave_format = struct.pack("<HHIIHH", 1, 1, 24_000, 48_000, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", open_end)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + wave_format
        + b"data"
        + struct.pack("<I", open_end)
    )


@dataclass(frozen=True, slots=True)
class HttpSpeech2TextModel(Speech2TextModel):
    """Transcription models of a provider."""

    endpoint: Endpoint
    wire_format: Any
    base: str = ""

    async def invoke(
        self, model: str, credentials: Credentials, request: Speech2TextRequest
    ) -> AsyncGenerator[Speech2TextResult, None]:
        """Yield the transcript as one result. Raises InvokeError with the provider's
        name."""
        endpoint = self.endpoint
        dump = partial(self.wire_format.dump, request, model)
        response_body = await endpoint.object(
            await _delivered(
                endpoint,
                dump,
                model,
                credentials,
                base=self.base,
                refuses=request.unsupported == "refuse",
            )
        )
        result = _parse_response(
            endpoint, lambda: self.wire_format.parse(response_body)
        )
        yield msgspec.structs.replace(result, model=model)

    def unsupported(
        self, model: str, credentials: Credentials, request: Speech2TextRequest
    ) -> list[str]:
        """Return the fields of the request that the format does not have, or that the
        server has refused."""
        dump = partial(self.wire_format.dump, request, model)
        refused = _refused_payload_fields(
            self.endpoint, dump, model, credentials, base=self.base
        )
        return [*unread_transcription_fields(request, self.wire_format.read), *refused]


Dump = Callable[[Capabilities], HttpPayload]
"""Writes a request for a server with these capabilities."""


async def _delivered(
    endpoint: Endpoint,
    dump: Dump,
    model: str,
    credentials: Credentials,
    *,
    base: str,
    refuses: bool,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send a request about audio and return the response. A field that the server
    refuses is learnt, and the request sent again without it, unless the caller
    `refuses` that. Raises InvokeError."""
    server = endpoint.url(credentials, "", base=base)
    while True:
        capabilities = endpoint.capabilities(model)
        refused = endpoint.learnt.refused_fields(server, model)
        if refused:
            capabilities = msgspec.structs.replace(
                capabilities, drop=(*capabilities.drop, *refused)
            )
        payload = dump(capabilities)
        try:
            return await endpoint.deliver(
                payload, credentials, base=base, headers=headers
            )
        except InvokeError as error:
            name = refused_field(error, AUDIO_FIELDS)
            # Ends, since each turn leaves out one more field.
            if name not in payload.fields or name in capabilities.drop:
                raise
            endpoint.learnt.refuse_field(server, model, name)
            if refuses:
                raise


def _refused_payload_fields(
    endpoint: Endpoint,
    dump: Dump,
    model: str,
    credentials: Credentials,
    *,
    base: str,
) -> list[str]:
    """Return the fields of a request about audio that the server has refused."""
    if endpoint.learnt.is_empty:
        return []
    server = endpoint.url(credentials, "", base=base)
    sent = dump(endpoint.capabilities(model)).fields
    refused = endpoint.learnt.refused_fields(server, model)
    return [name for name in refused if name in sent]


ResultT = TypeVar("ResultT")


def _parse_response(endpoint: Endpoint, parse: Callable[[], ResultT]) -> ResultT:
    """Return what `parse` returns. A response with an unexpected structure is reported
    as the provider's fault."""
    try:
        return parse()
    except InvokeError as error:
        raise endpoint.with_provider_name(error) from error
    except MALFORMED_INPUT_ERRORS as error:
        problem = f"The response has an unexpected structure: {error!r}"
        raise endpoint.stream_error(problem) from error


def _format_of_type(
    definition: ProviderDefinition,
    model_type: ModelType,
    formats: Mapping[str, FormatT],
) -> FormatT:
    """Return the format of a provider's default wire for a model type.

    Raises ConfigError, with similar names, if that wire does not support the type.
    """
    wire = definition.wires_of(model_type)[0].name
    if wire not in formats:
        hint = suggestion(wire, formats, label="expected one of")
        raise ConfigError(
            f"Provider {definition.name!r} ({definition.source}): wire format"
            f" {wire!r} does not support {model_type.value} models; {hint}"
        )
    return formats[wire]


def _chat_model(endpoint: Endpoint) -> HttpLargeLanguageModel:
    """Return a provider's chat models; raise ConfigError if its wire has no chat.

    Further wires that do not support chat are ignored.
    """
    definition = endpoint.definition
    # Checked before the formats are filtered, so that a wrong default is reported.
    _format_of_type(definition, ModelType.LLM, CHAT)
    wires = tuple(
        (wire, CHAT[wire.name])
        for wire in definition.wires_of(ModelType.LLM)
        if wire.name in CHAT
    )
    return HttpLargeLanguageModel(endpoint, wires)


def _moderation_model(endpoint: Endpoint) -> HttpModerationModel:
    """Return a provider's moderation models.

    Raises ConfigError if its wire format does not support them.
    """
    _format_of_type(
        endpoint.definition, ModelType.MODERATION, dict.fromkeys(MODERATION)
    )
    return HttpModerationModel(endpoint)


def _single_format_builder(
    model_type: ModelType, formats: Mapping[str, Any], make: Any
) -> Callable[[Endpoint], AnyModel]:
    """Return a builder for the models of a type that use exactly one wire format."""

    def build(endpoint: Endpoint) -> AnyModel:
        """Build the model. Raises ConfigError if the provider's wire format does not
        support the type."""
        wire_format = _format_of_type(endpoint.definition, model_type, formats)
        return make(
            endpoint, wire_format, endpoint.definition.wires_of(model_type)[0].base_url
        )

    return build


# One class for each model type.
_MODEL_BUILDERS: Mapping[ModelType, Callable[[Endpoint], AnyModel]] = {
    ModelType.LLM: _chat_model,
    ModelType.TEXT_EMBEDDING: _single_format_builder(
        ModelType.TEXT_EMBEDDING, EMBEDDING, HttpTextEmbeddingModel
    ),
    ModelType.RERANK: _single_format_builder(ModelType.RERANK, RERANK, HttpRerankModel),
    ModelType.SPEECH2TEXT: _single_format_builder(
        ModelType.SPEECH2TEXT, SPEECH2TEXT, HttpSpeech2TextModel
    ),
    ModelType.MODERATION: _moderation_model,
    ModelType.TTS: _single_format_builder(ModelType.TTS, TTS, HttpTTSModel),
}

WIRES = tuple(dict.fromkeys([*CHAT, *EMBEDDING, *RERANK, *SPEECH2TEXT, *TTS]))
"""Every wire format that a provider file may name."""


def http_models(
    definition: ProviderDefinition,
    client: HttpClient,
    timeouts: Timeouts,
    guarded: HttpClient | None = None,
) -> Mapping[ModelType, AnyModel]:
    """Return the callable models of a provider, one per supported type.

    `guarded` is the HTTP client for URLs that tenants choose.
    """
    endpoint = Endpoint(definition, client, timeouts, guarded)
    return {
        model_type: _MODEL_BUILDERS[model_type](endpoint)
        for model_type in definition.entity.supported_model_types
    }
