"""A provider's HTTP endpoint: URLs, headers, requests, and decoding of responses into
JSON and events."""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import lru_cache
from string import Formatter
from typing import Any
from urllib.parse import quote

import msgspec

from modelyard.base import cpu_work
from modelyard.base.bounded_json import BodyError, check_value_count, decode_json
from modelyard.base.call_headers import NO_RULES, HeaderRules, merge_headers
from modelyard.base.errors import (
    ConfigError,
    EndpointNotFoundError,
    InvokeConnectionError,
    InvokeError,
    InvokeServerUnavailableError,
)
from modelyard.base.json_types import JsonValue, is_array, is_object
from modelyard.models.capabilities import Capabilities
from modelyard.models.http_payload import HttpPayload
from modelyard.models.types import JSON, Credentials, ModelType, OperatorCredentials
from modelyard.providers.auth import Auth, build_auth
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.formats import Framing
from modelyard.providers.http_errors import error_of, is_object_body
from modelyard.providers.learnt import LearntServers
from modelyard.transport.aws_events import AwsEventStream
from modelyard.transport.http import HttpClient, RequestHead, Response, Timeouts
from modelyard.transport.sse import DONE, MAX_EVENT_BYTES, EventStream

# A hostile or broken server must not fill the memory.
MAX_ANSWER = 64 * 1024 * 1024
_MAX_CONTAINERS = 250_000
"""Largest number of JSON containers in a response: 4,000 tokens with 20 alternatives
each, as in `logprobs`."""
_MAX_VALUES = 10_000_000
"""Largest number of JSON values in a response: the vectors of 2,048 texts."""
# Responses from this size on are decoded in another thread.
OFFLOAD_BYTES = 1 << 20
# The message of an error is at its start.
MAX_ERROR = 256 * 1024
_AGENT = "modelyard"
_encode = msgspec.json.Encoder().encode


_MAX_READY_HEADS = 1024
_ReadyHead = tuple[Credentials, "tuple[HttpClient, RequestHead] | None"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Sends requests to one provider and decodes its responses. All errors name the
    provider."""

    definition: ProviderDefinition
    client: HttpClient
    timeouts: Timeouts
    guarded: HttpClient | None = None
    """HTTP client for URLs that a tenant chose; it refuses internal addresses. Without
    it, `client` is used for all."""
    learnt: LearntServers = field(default_factory=LearntServers)
    """What its servers have refused."""
    auth: Auth = field(init=False)
    _ready_heads: "dict[tuple[Any, ...], _ReadyHead]" = field(
        default_factory=dict[tuple[Any, ...], "_ReadyHead"]
    )
    """Heads of requests by URL, credential and headers."""
    _definition_prefixes: tuple[str, ...] = field(init=False)
    """The URL prefixes that the definition itself names."""

    def __post_init__(self) -> None:
        auth = build_auth(
            self.definition.auth,
            self.definition.key_field,
            self.client,
            self.guarded,
        )
        # The dataclass is frozen, so derived fields are set through `object`.
        object.__setattr__(self, "auth", auth)
        object.__setattr__(
            self, "_definition_prefixes", _definition_url_prefixes(self.definition)
        )

    def _client_for(self, url: str, credentials: Credentials) -> HttpClient:
        """Return the guarded client if the credential is a tenant's and determines the
        URL or a part of it."""
        if self.guarded is None or isinstance(credentials, OperatorCredentials):
            return self.client
        url_field = self.definition.url_field
        custom_url = (
            str(credentials.get(url_field) or "").rstrip("/") if url_field else ""
        )
        # A tenant may also write the provider's own URL, which needs no guard.
        if custom_url and custom_url not in self._definition_prefixes:
            return self.guarded
        return (
            self.client if url.startswith(self._definition_prefixes) else self.guarded
        )

    def capabilities(self, model: str) -> Capabilities:
        """Return what the provider's server accepts for a model."""
        return self.definition.capabilities_of(model)

    def url(
        self, credentials: Credentials, path: str, *, model: str = "", base: str = ""
    ) -> str:
        """Return the URL for a path. Raises ConfigError if no base URL is known.

        The credential's URL takes precedence over `base`, and that over the
        definition's.
        """
        url_field = self.definition.url_field
        custom_url = credentials.get(url_field) if url_field else None
        base = str(custom_url or base or self.definition.base_url)
        if not base:
            raise ConfigError(
                f"Provider {self.definition.name!r} has no base URL; set"
                f" {url_field or 'base_url'!r} in its credential"
            )
        url = base.rstrip("/") + path
        return self._fill_template(url, credentials, model) if "{" in url else url

    def _fill_template(self, url: str, credentials: Credentials, model: str) -> str:
        """Return a URL with its placeholders filled in.

        They are credential fields, or their form's defaults, and `model`. Values are
        quoted, except for a credential value at the very start, which is a base URL.
        Raises ConfigError if one is missing.
        """
        # A credential value at the start is a complete base URL, so its slashes stay.
        # Values further on are path segments and are quoted.
        first = url[1:].partition("}")[0] if url.startswith("{") else ""
        values = {
            name: quote(str(value), safe="") for name, value in credentials.items()
        }
        if first in credentials:
            values[first] = str(credentials[first]).rstrip("/")
        defaults = {
            form_field.variable: form_field.default
            for form_field in self.definition.entity.credential_forms
            if form_field.default
        }
        # The credential overrides the defaults of its form; the model's name overrides
        # both.
        template_values = {**defaults, **values, "model": quote(model, safe="")}
        missing = [
            name
            for _, name, _, _ in Formatter().parse(url)
            if name and name not in template_values
        ]
        if missing:
            raise ConfigError(
                f"Provider {self.definition.name!r} requires {missing[0]!r} in"
                " its credential"
            )
        return url.format_map(template_values)

    def ready_head(
        self,
        url: str,
        credentials: Credentials,
        headers: Mapping[str, str],
        call_headers: Mapping[str, str],
    ) -> "tuple[HttpClient, RequestHead] | None":
        """Return the client and the head of a POST of JSON that can be sent at once.

        None if something has to be awaited first (a token, a signature), or if the way
        is not plain: a proxy, or a URL of a tenant's own.
        """
        key = (url, id(credentials), *headers.items(), *call_headers.items())
        cached = self._ready_heads.get(key)
        # The credential is kept with its head, so its identity is not used again.
        if cached is not None and cached[0] is credentials:
            return cached[1]
        head = self._ready_head(url, credentials, headers, call_headers)
        if len(self._ready_heads) >= _MAX_READY_HEADS:
            self._ready_heads.clear()
        self._ready_heads[key] = (credentials, head)
        return head

    def _ready_head(
        self,
        url: str,
        credentials: Credentials,
        headers: Mapping[str, str],
        call_headers: Mapping[str, str],
    ) -> "tuple[HttpClient, RequestHead] | None":
        """Return the same as `ready_head`, without the cache."""
        ready = self.auth.ready_headers(credentials)
        if ready is None or self._client_for(url, credentials) is not self.client:
            return None
        sent = {
            **self._plain_headers(
                "application/json", credentials, headers, call_headers
            ),
            **ready,
        }
        head = self.client.head_of("POST", url, sent)
        return None if head.way.proxy is not None else (self.client, head)

    def _plain_headers(
        self,
        content_type: str,
        credentials: Credentials,
        headers: Mapping[str, str],
        call_headers: Mapping[str, str],
    ) -> dict[str, str]:
        """Return the headers of a request without those that authenticate it.

        Those of the definition override the caller's, and these the format's.
        """
        sent = {"user-agent": _AGENT, "content-type": content_type}
        sent |= _filled_headers(headers, credentials)
        # A caller's values are never templates: they could name fields of a credential.
        sent |= call_headers
        if self.definition.headers:
            own_headers = _filled_headers(self.definition.headers, credentials)
            return merge_headers(sent, own_headers)
        return sent

    async def send(
        self,
        method: str,
        url: str,
        credentials: Credentials,
        body: Sequence[bytes] = (),
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        call_headers: Mapping[str, str] | None = None,
        rules: HeaderRules = NO_RULES,
    ) -> Response:
        """Send a request and return the response if its status is 2xx.

        `call_headers` are those of the caller. Raises the InvokeError that the status
        stands for, with the headers of the response that `rules` pass on.
        """
        try:
            sent = self._plain_headers(
                content_type, credentials, headers or {}, call_headers or {}
            )
            # Authentication overrides all other headers.
            sent.update(await self.auth.headers(method, url, credentials, body))
            client = self._client_for(url, credentials)
            response = await client.send(
                method, url, headers=sent, body=body, timeouts=self.timeouts
            )
        except InvokeError as error:
            raise self.with_provider_name(error) from error
        if 200 <= response.status < 300:
            return response
        error_body = await _read_error_body(response)
        # From a tenant's URL only a JSON error object is repeated, never an arbitrary
        # body: it could be an internal page.
        if client is not self.client and not is_object_body(error_body):
            error_body = b""
        error = error_of(
            response.status, response.headers, error_body, provider=self.definition.name
        )
        error.answer_headers = rules.of_answer(response.header_lines)
        raise error

    async def post(
        self,
        url: str,
        credentials: Credentials,
        body: JSON,
        *,
        headers: Mapping[str, str] | None = None,
        call_headers: Mapping[str, str] | None = None,
        rules: HeaderRules = NO_RULES,
    ) -> Response:
        """Send a JSON body by POST, otherwise like `send`."""
        return await self.send(
            "POST",
            url,
            credentials,
            [_encode(body)],
            headers=headers,
            call_headers=call_headers,
            rules=rules,
        )

    async def deliver(
        self,
        sending: HttpPayload,
        credentials: Credentials,
        *,
        base: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a prepared payload by POST to its own path, and return the response.

        Raises the InvokeError that the status stands for, ConfigError if no base URL is
        known.
        """
        url = self.url(credentials, sending.path, base=base)
        return await self.send(
            "POST",
            url,
            credentials,
            sending.body,
            content_type=sending.content_type,
            headers=headers,
        )

    async def call(
        self,
        path: str,
        credentials: Credentials,
        body: JSON,
        *,
        model: str = "",
        base: str = "",
    ) -> Any:
        """Send a JSON body by POST and return the response as JSON.

        `base` is used if the credential has no URL of its own. Raises the InvokeError
        that the status stands for, InvokeServerUnavailableError if the response is not
        JSON, ConfigError if no base URL is known.
        """
        url = self.url(credentials, path, model=model, base=base)
        return await self.json(await self.post(url, credentials, body))

    def with_provider_name(self, error: InvokeError) -> InvokeError:
        """Return the error with the provider's name, unless it already has one."""
        if error.provider:
            return error
        return error.with_provider(self.definition.name)

    def stream_error(self, message: str) -> InvokeServerUnavailableError:
        """Return the error for a response that cannot be understood."""
        return InvokeServerUnavailableError(message, provider=self.definition.name)

    async def json(self, response: Response) -> Any:
        """Return the complete response as JSON. Raises InvokeServerUnavailableError if
        it is not JSON."""
        try:
            return await self._decode_off_loop(
                await response.read(max_bytes=MAX_ANSWER)
            )
        except InvokeError as error:
            raise self.with_provider_name(error) from error

    async def object(self, response: Response) -> JSON:
        """Return the complete response as a JSON object. Raises
        InvokeServerUnavailableError if it is none."""
        return self._object(await self.json(response))

    def decode_object(self, data: bytes) -> JSON:
        """Return a response body as a JSON object, at once: only for small ones."""
        return self._object(self._decode_body(data, "The response"))

    async def read_object(self, data: bytes) -> JSON:
        """Return a response body that was already read as a JSON object."""
        return self._object(await self._decode_off_loop(data))

    async def _decode_off_loop(self, data: bytes) -> Any:
        """Decode a body. Large ones are decoded outside of the event loop, which must
        not be blocked."""
        if len(data) < OFFLOAD_BYTES:
            return self._decode_body(data, "The response")
        return await cpu_work.run_in_thread(self._decode_body, data, "The response")

    def _object(self, body: JsonValue) -> JSON:
        """Return the object. Raises InvokeServerUnavailableError for other values."""
        if not isinstance(body, dict):
            raise self.stream_error("The response is JSON, but not an object")
        return body

    def _decode_body(self, data: bytes, description: str) -> Any:
        """Decode a JSON body of limited complexity.

        `description` names it in messages. Raises InvokeServerUnavailableError if it is
        not JSON or has too many values.
        """
        try:
            # Counted before decoding: many small values take far more memory than their
            # text.
            check_value_count(data, containers=_MAX_CONTAINERS, values=_MAX_VALUES)
            return decode_json(data)
        except (
            BodyError,
            msgspec.DecodeError,
            UnicodeDecodeError,
            RecursionError,
        ) as error:
            # The most common mistake is a base URL that leads to a website.
            if data.lstrip()[:1] == b"<":
                raise self.stream_error(
                    f"{description} is a web page, not JSON; check the base URL"
                ) from error
            raise self.stream_error(f"{description} is not JSON: {error}") from error

    async def events(
        self, response: Response, framing: Framing
    ) -> AsyncGenerator[JSON | None, None]:
        """Yield the events of a stream; None stands for its end marker. Raises
        InvokeError if the stream breaks off."""
        source = self.event_source(framing)
        try:
            # `aclosing` closes the connection at once if the consumer stops early.
            async with aclosing(response.chunks()) as body_chunks:
                async for body_chunk in body_chunks:
                    for event in source.feed(body_chunk):
                        yield event
            for event in source.finish():
                yield event
        except InvokeError as error:
            raise self.with_provider_name(error) from error

    def event_source(self, framing: Framing) -> "_EventSource":
        """Return what splits the body of a stream into its events."""
        return _EventSource(_READERS[framing](), self._event)

    def _event(self, event: "bytes | tuple[str, bytes]") -> JSON | None:
        """Return an event of a stream as a JSON object; None for its end marker.

        An AWS event becomes an object with the event's name as its only key. Raises
        InvokeServerUnavailableError if it is not a JSON object.
        """
        if event == DONE:
            return None
        # AWS events carry their name outside of the JSON body.
        name, data = event if isinstance(event, tuple) else ("", event)
        body: JsonValue = self._decode_body(data, "An event of the stream")
        if not isinstance(body, dict):
            raise self.stream_error("An event of the stream is JSON, but not an object")
        return {name: body} if name else body

    async def list_models(self, credentials: Credentials) -> list[str]:
        """Return the model names that the server lists.

        This is also the cheapest check of a credential. The lists of OpenAI's, Google's
        and AWS's APIs are understood. Raises the InvokeError that the status stands
        for, InvokeServerUnavailableError if the response has no list.
        """
        path = self.definition.paths.get("list", "/models")
        body = await self.object(
            await self.send("GET", self.url(credentials, path), credentials)
        )
        # The list has another name in OpenAI's, Google's and AWS's APIs.
        data = body.get("data", body.get("models", body.get("modelSummaries")))
        if not is_array(data):
            raise self.stream_error("The list of models has no 'data' field")
        names = [
            model.get("id") or model.get("name") or model.get("modelId")
            for model in data
            if is_object(model)
        ]
        # Google's names have a prefix that its calls add by themselves.
        return [str(name).removeprefix("models/") for name in names if name]


def _filled_headers(
    headers: Mapping[str, str], credentials: Credentials
) -> dict[str, str]:
    """Return headers with credential fields filled in, by lower-case name. One that
    needs a missing field is left out."""
    filled_headers: dict[str, str] = {}
    for name, value in headers.items():
        if filled := _filled_header(value, credentials):
            filled_headers[name.lower()] = filled
    return filled_headers


def _filled_header(value: str, credentials: Credentials) -> str:
    """Return the header's value with credential fields filled in; empty if one of
    them is missing."""
    names = _names_in(value)
    # A header with a gap in it would be refused, or mean something else.
    if not all(credentials.get(name) for name in names):
        return ""
    return value.format_map(credentials) if names else value


async def _read_error_body(response: Response) -> bytes:
    """Return the start of an error response's body; empty if it cannot be read."""
    try:
        return await response.read(max_bytes=MAX_ERROR)
    # The status alone is enough for an error, so an unreadable body is ignored.
    except InvokeError:
        return b""


def _definition_url_prefixes(definition: ProviderDefinition) -> tuple[str, ...]:
    """Return the URL prefixes that a definition writes out. URLs whose host comes from
    a credential are not included."""
    bases = [
        definition.base_url,
        *(
            wire.base_url
            for model_type in ModelType
            for wire in definition.wires_of(model_type)
        ),
    ]
    prefixes: list[str] = []
    for base in bases:
        literal_prefix, brace, _ = base.partition("{")
        # A placeholder is safe only behind a complete host name.
        if base and (not brace or "/" in literal_prefix.partition("://")[2]):
            prefixes.append(literal_prefix.rstrip("/"))
    return tuple(dict.fromkeys(prefixes))


@dataclass(frozen=True, slots=True)
class _EventSource:
    """Splits the body of a stream into events, as JSON objects; None is the end marker."""

    _framing: Any
    _decode: Callable[[Any], JSON | None]

    def feed(self, data: bytes) -> Iterator[JSON | None]:
        """Yield the events that these bytes complete. Raises InvokeError."""
        for event in self._framing.feed(data):
            yield self._decode(event)

    def finish(self) -> Iterator[JSON | None]:
        """Yield the events that are left: the last one may lack its terminator."""
        for event in self._framing.finish():
            yield self._decode(event)


# The same few header templates are parsed for every request.
@lru_cache(256)
def _names_in(template: str) -> tuple[str, ...]:
    """Return the names of the placeholders in a template; empty if there are none."""
    return (
        tuple(name for _, name, _, _ in Formatter().parse(template) if name)
        if "{" in template
        else ()
    )


class _SseReader:
    """Splits a stream into server-sent events."""

    def __init__(self) -> None:
        stream = EventStream()
        self.feed = stream.feed
        self.finish = stream.finish


class _LineReader:
    """Splits a stream into lines of JSON."""

    def __init__(self) -> None:
        self._buffered = b""

    def feed(self, body_chunk: bytes) -> list[bytes]:
        """Return the complete lines so far. Raises InvokeServerUnavailableError if a
        line is too long."""
        *lines, self._buffered = (self._buffered + body_chunk).split(b"\n")
        # Without a limit a server could fill the memory with one endless line.
        if len(self._buffered) > MAX_EVENT_BYTES:
            raise InvokeServerUnavailableError(
                f"A line of the stream exceeds {MAX_EVENT_BYTES:,} bytes"
            )
        return [line for line in lines if line.strip()]

    def finish(self) -> list[bytes]:
        """Return the last line if it has no line end."""
        return [self._buffered] if self._buffered.strip() else []


class _AwsReader:
    """Splits a stream into AWS's binary event messages."""

    def __init__(self) -> None:
        self._stream = AwsEventStream()

    def feed(self, body_chunk: bytes) -> list[tuple[str, bytes]]:
        """Return the complete messages so far as (event name, JSON body)."""
        return self._stream.feed(body_chunk)

    def finish(self) -> list[tuple[str, bytes]]:
        """Check that the stream did not end inside a message."""
        self._stream.finish()
        return []


# By the framing of a wire format.
_READERS = {"sse": _SseReader, "lines": _LineReader, "aws": _AwsReader}


async def has_api(
    endpoint: Endpoint,
    url: str,
    credentials: Credentials,
    headers: Mapping[str, str],
) -> bool:
    """Return whether the server has an API, by an empty request, which costs
    nothing. Raises InvokeConnectionError if the server is not reached."""
    try:
        response = await endpoint.send(
            "POST", url, credentials, [b"{}"], headers=headers
        )
    except InvokeConnectionError:
        raise
    except EndpointNotFoundError:
        return False
    # A refusal of the empty request shows that the path is there.
    except InvokeError:
        return True
    response.close()
    return True
