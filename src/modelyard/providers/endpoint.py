"""Where a provider is and how to knock: addresses, headers, and answers taken apart into JSON and events."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import lru_cache
from string import Formatter
from typing import Any
from urllib.parse import quote

import msgspec

from modelyard.base import computing
from modelyard.base.bodies import BodyError, check_amount
from modelyard.base.errors import ConfigError, InvokeError, InvokeServerUnavailableError
from modelyard.models.sending import Sending
from modelyard.models.types import JSON, Credentials, ModelType, OperatorCredentials
from modelyard.providers.auth import Auth, build_auth
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.formats import Framing
from modelyard.providers.http_errors import error_of, is_object
from modelyard.transport.aws_events import AwsEventStream
from modelyard.transport.http import HttpClient, Response, Timeouts
from modelyard.transport.sse import DONE, MAX_EVENT_BYTES, EventStream

MAX_ANSWER = 64 * 1024 * 1024
_MOST_CONTAINERS = 250_000
"""Four thousand tokens with twenty others each, as `logprobs` are given."""
_MOST_VALUES = 10_000_000
"""Vectors of 2,048 texts."""
_LARGE = 1 << 20
_MAX_ERROR = 256 * 1024
_AGENT = "modelyard"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Endpoint:
    definition: ProviderDefinition
    client: HttpClient
    timeouts: Timeouts
    guarded: HttpClient | None = None
    """For addresses that a tenant named; without one, `client` serves for all."""
    auth: Auth = field(init=False)
    _own: tuple[str, ...] = field(init=False)
    """How addresses begin that the definition itself names."""

    def __post_init__(self) -> None:
        auth = build_auth(self.definition.auth, self.definition.key_field, self.client, self.guarded)
        object.__setattr__(self, "auth", auth)
        object.__setattr__(self, "_own", _own_beginnings(self.definition))

    def _client_for(self, url: str, credentials: Credentials) -> HttpClient:
        """The guarded one where the credential is a tenant's and says where the call goes, or a part of it."""
        if self.guarded is None or isinstance(credentials, OperatorCredentials):
            return self.client
        named = self.definition.url_field
        given = str(credentials.get(named) or "").rstrip("/") if named else ""
        if given and given not in self._own:
            return self.guarded
        return self.client if url.startswith(self._own) else self.guarded

    def quirks(self, model: str) -> Mapping[str, Any]:
        """The provider's, and over them the model's own."""
        own = self.definition.model_quirks.get(model)
        return {**self.definition.quirks, **own} if own else self.definition.quirks

    def url(self, credentials: Credentials, path: str, *, model: str = "", base: str = "") -> str:
        """Raises ConfigError where nobody said where the server is."""
        named = self.definition.url_field
        given = credentials.get(named) if named else None
        base = str(given or base or self.definition.base_url)
        if not base:
            raise ConfigError(
                f"provider {self.definition.name!r} has no address: set {named or 'base_url'!r} in its credential"
            )
        url = base.rstrip("/") + path
        return self._filled(url, credentials, model) if "{" in url else url

    def _filled(self, url: str, credentials: Credentials, model: str) -> str:
        # An address that begins the whole keeps its slashes; what stands further on is a piece of a path.
        first = url[1:].partition("}")[0] if url.startswith("{") else ""
        values = {name: quote(str(value), safe="") for name, value in credentials.items()}
        if first in credentials:
            values[first] = str(credentials[first]).rstrip("/")
        defaults = {one.variable: one.default for one in self.definition.entity.credential_forms if one.default}
        known = {**defaults, **values, "model": quote(model, safe="")}
        missing = [name for _, name, _, _ in Formatter().parse(url) if name and name not in known]
        if missing:
            raise ConfigError(f"provider {self.definition.name!r} needs {missing[0]!r} in its credential")
        return url.format_map(known)

    async def send(
        self,
        method: str,
        url: str,
        credentials: Credentials,
        body: Sequence[bytes] = (),
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """A successful answer's head. Raises InvokeError of the kind that the status stands for."""
        try:
            sent = {"user-agent": _AGENT, "content-type": content_type}
            if headers or self.definition.headers:
                for name, value in {**(headers or {}), **self.definition.headers}.items():
                    if filled := self._header(value, credentials):
                        sent[name] = filled
            sent.update(await self.auth.headers(method, url, credentials, body))
            client = self._client_for(url, credentials)
            response = await client.send(method, url, headers=sent, body=body, timeouts=self.timeouts)
        except InvokeError as error:
            raise self.named(error) from error
        if 200 <= response.status < 300:
            return response
        said = await self._said(response)
        # What a tenant's address says is repeated where it is an error of an API, never as it stands.
        if client is not self.client and not is_object(said):
            said = b""
        raise error_of(response.status, response.headers, said, provider=self.definition.name)

    @staticmethod
    def _header(value: str, credentials: Credentials) -> str:
        """The value, filled in; nothing where the credential lacks what it is made of."""
        names = _names_in(value)
        if not names:
            return value
        return value.format_map(credentials) if all(credentials.get(name) for name in names) else ""

    @staticmethod
    async def _said(response: Response) -> bytes:
        try:
            return await response.read(most=_MAX_ERROR)
        except InvokeError:
            return b""

    async def post(
        self, url: str, credentials: Credentials, body: JSON, *, headers: Mapping[str, str] | None = None
    ) -> Response:
        return await self.send("POST", url, credentials, [_encode(body)], headers=headers)

    async def deliver(
        self, sending: Sending, credentials: Credentials, *, base: str = "", headers: Mapping[str, str] | None = None
    ) -> Response:
        url = self.url(credentials, sending.path, base=base)
        return await self.send(
            "POST", url, credentials, sending.body, content_type=sending.content_type, headers=headers
        )

    async def call(self, path: str, credentials: Credentials, body: JSON, *, model: str = "", base: str = "") -> Any:
        """What the server answers, as JSON."""
        url = self.url(credentials, path, model=model, base=base)
        return await self.json(await self.post(url, credentials, body))

    def named(self, error: InvokeError) -> InvokeError:
        """The error with the provider's name in front."""
        if error.provider:
            return error
        return type(error)(str(error), provider=self.definition.name, retry_after=error.retry_after)

    def broken(self, message: str) -> InvokeServerUnavailableError:
        return InvokeServerUnavailableError(message, provider=self.definition.name)

    async def json(self, response: Response) -> Any:
        """The whole answer. Raises InvokeServerUnavailableError where it is no JSON."""
        try:
            return await self._decoded_apart(await response.read(most=MAX_ANSWER))
        except InvokeError as error:
            raise self.named(error) from error

    async def object(self, response: Response) -> JSON:
        """The whole answer as an object. Raises InvokeServerUnavailableError where it is none."""
        return self._object(await self.json(response))

    async def read_object(self, data: bytes) -> JSON:
        """A whole answer that was read already."""
        return self._object(await self._decoded_apart(data))

    async def _decoded_apart(self, data: bytes) -> Any:
        """Large answers are looked through off the loop."""
        if len(data) < _LARGE:
            return self._decoded(data, "the answer")
        return await computing.apart(self._decoded, data, "the answer")

    def _object(self, body: Any) -> JSON:
        if not isinstance(body, dict):
            raise self.broken("the answer is JSON, but no object")
        return body

    def _decoded(self, data: bytes, what: str) -> Any:
        try:
            check_amount(data, containers=_MOST_CONTAINERS, values=_MOST_VALUES)
            return _decode(data)
        except (BodyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if data.lstrip()[:1] == b"<":
                raise self.broken(f"{what} is a web page, not JSON; check the base URL") from error
            raise self.broken(f"{what} is not JSON: {error}") from error

    async def events(self, response: Response, framing: Framing) -> AsyncGenerator[JSON | None, None]:
        """A stream's events; None stands for the word that ends it. Raises InvokeError where it breaks."""
        async with aclosing(self.events_of(response.pieces(), framing)) as events:
            async for event in events:
                yield event

    async def events_of(
        self, source: AsyncGenerator[bytes, None], framing: Framing
    ) -> AsyncGenerator[JSON | None, None]:
        """The events that pieces of a body make."""
        reader = _READERS[framing]()
        try:
            async with aclosing(source) as pieces:
                async for piece in pieces:
                    for event in reader.feed(piece):
                        yield self._event(event)
                for event in reader.finish():
                    yield self._event(event)
        except InvokeError as error:
            raise self.named(error) from error

    def _event(self, event: "bytes | tuple[str, bytes]") -> JSON | None:
        if event == DONE:
            return None
        name, data = event if isinstance(event, tuple) else ("", event)
        body = self._decoded(data, "an event of the stream")
        if not isinstance(body, dict):
            raise self.broken("an event of the stream is JSON, but no object")
        return {name: body} if name else body

    async def list_models(self, credentials: Credentials) -> list[str]:
        """What the server itself says it offers: the cheapest proof that a credential works."""
        path = self.definition.paths.get("list", "/models")
        body = await self.object(await self.send("GET", self.url(credentials, path), credentials))
        data = body.get("data", body.get("models", body.get("modelSummaries")))
        if not isinstance(data, list):
            raise self.broken("the list of models holds no data")
        names = [one.get("id") or one.get("name") or one.get("modelId") for one in data if isinstance(one, dict)]
        return [str(name).removeprefix("models/") for name in names if name]


def _own_beginnings(definition: ProviderDefinition) -> tuple[str, ...]:
    """Of the addresses that a definition writes out; one whose host a credential fills in is not among them."""
    bases = [definition.base_url, *(wire.base_url for kind in ModelType for wire in definition.wires_of(kind))]
    found: list[str] = []
    for base in bases:
        written, brace, _ = base.partition("{")
        if base and (not brace or "/" in written.partition("://")[2]):
            found.append(written.rstrip("/"))
    return tuple(dict.fromkeys(found))


@lru_cache(256)
def _names_in(template: str) -> tuple[str, ...]:
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name) if "{" in template else ()


class _SseReader:
    """Events as server-sent events."""

    def __init__(self) -> None:
        stream = EventStream()
        self.feed = stream.feed
        self.finish = stream.finish


class _LineReader:
    """Events as lines of JSON."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise InvokeServerUnavailableError(f"a line of the stream is larger than {MAX_EVENT_BYTES:,} bytes")
        return [line for line in lines if line.strip()]

    def finish(self) -> list[bytes]:
        return [self._rest] if self._rest.strip() else []


class _AwsReader:
    """Events as AWS's binary messages."""

    def __init__(self) -> None:
        self._stream = AwsEventStream()

    def feed(self, piece: bytes) -> list[tuple[str, bytes]]:
        return self._stream.feed(piece)

    def finish(self) -> list[tuple[str, bytes]]:
        self._stream.finish()
        return []


_READERS = {"sse": _SseReader, "lines": _LineReader, "aws": _AwsReader}
