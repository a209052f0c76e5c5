"""Tools that are operations of an HTTP API: the arguments become a request, the
response becomes the tool's messages."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import msgspec

from modelyard.base import cpu_work
from modelyard.base.bounded_json import check_value_count
from modelyard.base.charsets import charset_of, decode
from modelyard.base.json_types import is_array, is_mapping
from modelyard.tools.entities import (
    Message,
    Tool,
    ToolContext,
    ToolCredentialsError,
    ToolEntity,
    ToolInvokeError,
    ToolParameterError,
    blob_message,
    json_message,
    text_message,
)
from modelyard.tools.openapi import Operation, ParameterLocation, Scheme
from modelyard.transport.egress import EgressClient, EgressError, FetchedResponse

# A server that accepts no connection within seconds is away, but an operation
# may take its time.
_CONNECT, _READ = 10.0, 60.0
# Responses are held in memory, several of them at a time.
_MAX_RESPONSE_BYTES = 10 << 20
# A model reads the error, and an HTML page would fill its context.
_MAX_ERROR_LENGTH = 4000
_MAX_TOKENS = 4096
_PREFIXES = {"basic": "Basic ", "bearer": "Bearer ", "custom": "", "none": ""}
_DELIMITERS = {"spaceDelimited": " ", "pipeDelimited": "|", "tabDelimited": "\t"}


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """How to authenticate at an API.

    `type` is `none`, `api_key_header`, `api_key_query`, `api_key_cookie`, `basic`,
    `bearer`, `oauth2` (client credentials), or `auto` for what the API's description
    asks for.
    """

    type: str = "none"
    name: str = ""
    """The name of the header, query parameter or cookie."""
    prefix: str = ""
    """The prefix of a header's value: `none`, `basic`, `bearer`, or any other text
    literally."""
    value: str = ""
    user: str = ""
    token_url: str = ""
    scopes: list[str] = []

    @classmethod
    def of(cls, scheme: Scheme, value: str, user: str = "") -> Auth:
        """Return the authentication that a security scheme of the description asks for."""
        kinds = {
            "header": "api_key_header",
            "query": "api_key_query",
            "cookie": "api_key_cookie",
        }
        return cls(
            type=kinds.get(scheme.type, scheme.type),
            name=scheme.name,
            value=value,
            user=user,
            token_url=scheme.token_url,
            scopes=scheme.scopes,
        )


TokenKey = tuple[str, str, bytes]


@dataclass(slots=True)
class Tokens:
    """OAuth tokens from client credentials, cached until shortly before they expire."""

    egress: EgressClient
    cached_tokens: dict[TokenKey, tuple[str, float]] = field(
        default_factory=dict["TokenKey", tuple[str, float]]
    )
    locks: dict[TokenKey, asyncio.Lock] = field(
        default_factory=dict["TokenKey", asyncio.Lock]
    )

    async def get(self, auth: Auth, *, tenant: str, row: str) -> str:
        """Return a token, fetching one if needed. Raises ToolCredentialsError or
        EgressError."""
        key = _token_key(auth, tenant, row)
        if len(self.locks) >= _MAX_TOKENS:
            self._drop_expired()
        # One request at a time for each key; the others wait for its token.
        async with self.locks.setdefault(key, asyncio.Lock()):
            token, until = self.cached_tokens.get(key, ("", 0.0))
            if token and time.monotonic() < until:
                return token
            token_form = {
                "grant_type": "client_credentials",
                "client_id": auth.user,
                "client_secret": auth.value,
            }
            if auth.scopes:
                token_form["scope"] = " ".join(auth.scopes)
            answer = await self.egress.fetch(
                "POST",
                auth.token_url,
                headers=[("content-type", "application/x-www-form-urlencoded")],
                body=urlencode(token_form).encode(),
                connect=_CONNECT,
                read=_READ,
                max_bytes=1 << 20,
                # The request body contains the secret, so redirects are not followed.
                max_redirects=0,
            )
            try:
                token_response = msgspec.json.decode(answer.body, type=dict[str, Any])
                token = str(token_response["access_token"])
            except (msgspec.MsgspecError, KeyError) as error:
                raise ToolCredentialsError(
                    f"No access token from {auth.token_url}: status {answer.status}"
                ) from error
            # Expires half a minute early, so that a token is not used up on its way.
            self.cached_tokens[key] = (
                token,
                time.monotonic()
                + _lifetime_seconds(token_response.get("expires_in"))
                - 30,
            )
            return token

    def _drop_expired(self) -> None:
        """Drop expired tokens, and locks that are not in use."""
        current_time = time.monotonic()
        for key in [
            cached_key
            for cached_key, (_, until) in self.cached_tokens.items()
            if until <= current_time
        ]:
            del self.cached_tokens[key]
        for key in [
            lock_key
            for lock_key, lock in self.locks.items()
            if lock_key not in self.cached_tokens and not lock.locked()
        ]:
            del self.locks[key]


def _token_key(auth: Auth, tenant: str, row: str) -> TokenKey:
    """Return the cache key of a token: its owner, and a digest of everything it is
    fetched with."""
    # Whatever changes the token must change the key, or an old token would be sent.
    inputs = [auth.token_url, auth.user, auth.value, auth.scopes]
    return tenant, row, hashlib.sha256(msgspec.json.encode(inputs)).digest()


def _lifetime_seconds(expires_in: Any) -> float:
    """Return how many seconds a token is valid; five minutes if the server gives no
    usable number."""
    return (
        min(float(expires_in), 86_400.0)
        if isinstance(expires_in, int | float) and expires_in > 0
        else 300.0
    )


class ApiTool(Tool):
    """A tool that calls one operation of an API."""

    def __init__(
        self,
        operation: Operation,
        *,
        provider: str,
        server: str,
        auth: Auth,
        egress: EgressClient,
        tokens: Tokens,
        tenant: str,
        row: str = "",
        title: str = "",
    ) -> None:
        self._operation = operation
        self._row = row or provider
        self._server = (operation.server or server).rstrip("/")
        self._auth = auth
        self._egress = egress
        self._tokens = tokens
        self._tenant = tenant
        self.entity = ToolEntity(
            name=operation.name,
            provider=provider,
            kind="api",
            label={"en_US": operation.name},
            author=title,
            description=operation.description,
            schema=operation.schema,
            is_repeatable=operation.is_safe,
            seconds=_CONNECT + _READ,
        )

    async def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Send the request and yield the response as one message.

        Raises ToolInvokeError for a failed request, ToolCredentialsError if the API
        refuses the authentication.
        """
        operation = self._operation
        if not self._server:
            raise ToolInvokeError(
                f"The API {self.entity.provider!r} declares no server; set its base URL"
            )
        answer = await self._send(*await self._build_request(parameters, context))
        _check_status(operation, answer)
        if not answer.body:
            yield text_message(f"Done: status {answer.status}.")
            return
        content_type = answer.headers.get("content-type", "")
        media = content_type.partition(";")[0].strip().lower()
        charset = charset_of(content_type)
        # Parsing a large response would block the event loop, so it runs in a thread.
        yield await cpu_work.run_in_thread(
            _response_message, answer.body, media, charset, operation.name
        )

    async def _build_request(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        """Return (URL, headers, body) of a call, with the authentication.

        Raises ToolParameterError, ToolCredentialsError or EgressError.
        """
        operation = self._operation
        request = _Request(operation, parameters)
        url, headers = f"{self._server}{request.path}", request.headers
        query, cookies = request.query, request.cookies
        await self._authenticate(headers, query, cookies)
        if cookies:
            # Cookies are sent in one header.
            cookie_pairs = (f"{name}={quote(value)}" for name, value in cookies)
            headers.append(("cookie", "; ".join(cookie_pairs)))
        if query:
            url += f"{'&' if '?' in url else '?'}{urlencode(query)}"
        content_type, body = request.body()
        if content_type:
            headers.append(("content-type", content_type))
        headers.append(("accept", "application/json, */*;q=0.5"))
        # A run that continues after a crash may repeat the call; the key lets the API
        # recognise it.
        if not operation.is_safe and context.key:
            headers.append(("idempotency-key", context.key))
        return url, headers, body

    async def _send(
        self, url: str, headers: list[tuple[str, str]], body: bytes
    ) -> FetchedResponse:
        """Send a request. Raises ToolInvokeError if there is no response."""
        try:
            return await self._egress.fetch(
                self._operation.method,
                url,
                headers=headers,
                body=body,
                connect=_CONNECT,
                read=_READ,
                max_bytes=_MAX_RESPONSE_BYTES,
            )
        except EgressError as error:
            raise ToolInvokeError(str(error)) from error

    async def _authenticate(
        self,
        headers: list[tuple[str, str]],
        query: list[tuple[str, str]],
        cookies: list[tuple[str, str]],
    ) -> None:
        """Add the authentication to the headers, the query or the cookies."""
        auth = self._auth
        match auth.type:
            case "api_key_header":
                prefix = _PREFIXES.get(
                    auth.prefix.lower(), f"{auth.prefix} " if auth.prefix else ""
                )
                value = auth.value
                # A pair `user:password` must be encoded; a value without a colon is
                # taken to be encoded already.
                if auth.prefix.lower() == "basic" and ":" in value:
                    value = base64.b64encode(value.encode()).decode()
                headers.append((auth.name or "Authorization", f"{prefix}{value}"))
            case "api_key_query":
                query.append((auth.name or "api_key", auth.value))
            case "api_key_cookie":
                cookies.append((auth.name or "api_key", auth.value))
            case "basic":
                encoded_pair = base64.b64encode(
                    f"{auth.user}:{auth.value}".encode()
                ).decode()
                headers.append(("Authorization", f"Basic {encoded_pair}"))
            case "bearer":
                headers.append(("Authorization", f"Bearer {auth.value}"))
            case "oauth2":
                if not auth.token_url:
                    raise ToolCredentialsError(
                        "The API declares no OAuth token URL; set a token of the type"
                        " 'bearer'"
                    )
                token = await self._tokens.get(
                    auth,
                    tenant=self._tenant,
                    row=self._row,
                )
                headers.append(("Authorization", f"Bearer {token}"))
            case _:
                pass


def _check_status(operation: Operation, answer: FetchedResponse) -> None:
    """Raise ToolCredentialsError or ToolInvokeError if the request has failed."""
    # Refused authentication is a separate error, because the person and not the
    # model has to act.
    if answer.status in (401, 403):
        raise ToolCredentialsError(
            f"{operation.method} {operation.path} returned status {answer.status}"
        )
    if answer.status >= 400:
        error_text = decode(
            answer.body[: _MAX_ERROR_LENGTH * 4],
            charset_of(answer.headers.get("content-type", "")),
        )[:_MAX_ERROR_LENGTH]
        raise ToolInvokeError(
            f"Request failed with status code {answer.status} and {error_text}"
        )


def _response_message(body: bytes, media: str, charset: str, name: str) -> Message:
    """Return a response as a JSON, text or binary message, by its media type and
    content."""
    # Many APIs send JSON with a wrong media type; text that cannot be parsed is still
    # handled below.
    if media.endswith("json") or body[:1] in (b"{", b"["):
        try:
            check_value_count(body)
            return json_message(json.loads(body))
        except (ValueError, RecursionError):
            pass
    if (
        not media
        or media.startswith(("text/", "application/xml", "application/javascript"))
        or media.endswith("+xml")
    ):
        return text_message(decode(body, charset))
    return blob_message(body, media, name)


class _Request:
    """A request, built by putting each argument into its location."""

    def __init__(self, operation: Operation, arguments: Mapping[str, Any]) -> None:
        self._operation = operation
        self.path = operation.path
        self.query: list[tuple[str, str]] = []
        self.headers: list[tuple[str, str]] = []
        self.cookies: list[tuple[str, str]] = []
        self._fields: dict[str, Any] = {}
        self._files: dict[str, Any] = {}
        self._whole: Any = None
        self._has_whole = False
        for name, value in arguments.items():
            location = operation.places.get(name)
            if location is not None and value is not None:
                self._put(location, value)
        # A placeholder that is left means that a path parameter is missing.
        if "{" in self.path:
            missing = self.path[self.path.find("{") + 1 :].partition("}")[0]
            raise ToolParameterError(f"Parameter {missing!r} is missing")

    def _put(self, location: ParameterLocation, value: Any) -> None:
        """Put one argument into the path, query, headers, cookies or body."""
        match location.where:
            case "path":
                encoded = quote(
                    _simple_style(value, explode=location.explode), safe=",="
                )
                # Such a value would change which operation is called.
                if encoded in ("", ".", ".."):
                    raise ToolParameterError(
                        f"Parameter {location.name!r} must not be {encoded!r}, because"
                        " it is a part of the path"
                    )
                self.path = self.path.replace("{" + location.name + "}", encoded)
            case "query":
                self.query += _query_pairs(location, value)
            case "header":
                self.headers.append(
                    (location.name, _simple_style(value, explode=location.explode))
                )
            case "cookie":
                self.cookies.append(
                    (location.name, _simple_style(value, explode=location.explode))
                )
            case "whole":
                self._whole, self._has_whole = value, True
            case _:
                if location.is_file:
                    self._files[location.name] = value
                else:
                    self._fields[location.name] = value

    def body(self) -> tuple[str, bytes]:
        """Return (content type, body); both are empty if the operation has no body."""
        content_type = self._operation.body
        if not content_type:
            return "", b""
        if self._has_whole:
            return content_type, self._whole_body(content_type)
        if content_type == "multipart/form-data":
            return self._multipart()
        if content_type == "application/x-www-form-urlencoded":
            pairs = [(name, _text(value)) for name, value in _pairs(self._fields)]
            return content_type, urlencode(pairs).encode()
        # An operation that requires nothing may still require a body.
        if not self._fields and not self._operation.schema.get("required"):
            return content_type, b"{}"
        return content_type, json.dumps(self._fields, ensure_ascii=False).encode()

    def _whole_body(self, content_type: str) -> bytes:
        """Return the body of an operation that takes it as one argument."""
        if "json" in content_type:
            return json.dumps(self._whole, ensure_ascii=False).encode()
        _, data = _file(self._whole)
        return data

    def _multipart(self) -> tuple[str, bytes]:
        """Return a multipart form with the fields and the files."""
        # Random, so that no file can contain the boundary.
        mark = uuid4().hex
        output = bytearray()
        for name, value in _pairs(self._fields):
            output += (
                f"--{mark}\r\ncontent-disposition: form-data;"
                f' name="{_quoted(name)}"\r\n\r\n'.encode()
            )
            output += _text(value).encode() + b"\r\n"
        for name, value in _pairs(self._files):
            title, data = _file(value)
            output += (
                f"--{mark}\r\ncontent-disposition: form-data;"
                f' name="{_quoted(name)}"; filename="{_quoted(title)}"\r\n'
                "content-type: application/octet-stream\r\n\r\n".encode()
            )
            output += data + b"\r\n"
        output += f"--{mark}--\r\n".encode()
        return f"multipart/form-data; boundary={mark}", bytes(output)


def _pairs(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the (name, value) pairs of form fields; a list yields one pair for each
    element."""
    for name, value in fields.items():
        if is_array(value):
            for element in value:
                yield name, element
        else:
            yield name, value


def _query_pairs(location: ParameterLocation, value: Any) -> list[tuple[str, str]]:
    """Return an argument as query pairs, in the style that OpenAPI specifies."""
    if location.style == "json":
        return [(location.name, json.dumps(value, ensure_ascii=False))]
    if is_mapping(value):
        return _object_query_pairs(location, value)
    if not is_array(value):
        return [(location.name, _text(value))]
    texts = [_text(element) for element in value]
    if location.explode and location.style in ("form", "", "deepObject"):
        return [(location.name, text) for text in texts]
    return [(location.name, _DELIMITERS.get(location.style, ",").join(texts))]


def _object_query_pairs(
    location: ParameterLocation, value: Mapping[Any, Any]
) -> list[tuple[str, str]]:
    """Return an object argument as query pairs, in the style that OpenAPI specifies.

    `deepObject` gives `name[key]=value` pairs, an exploded form one pair per member,
    any other style a single pair with keys and values separated by commas.
    """
    texts = [(name, _text(element)) for name, element in value.items()]
    if location.style == "deepObject":
        return [(f"{location.name}[{name}]", text) for name, text in texts]
    if location.explode:
        return [(str(name), text) for name, text in texts]
    return [(location.name, ",".join(f"{name},{text}" for name, text in texts))]


def _simple_style(value: Any, *, explode: bool) -> str:
    """Return an argument in OpenAPI's `simple` style, used in paths, headers and
    cookies."""
    if is_array(value):
        return ",".join(_text(element) for element in value)
    if not is_mapping(value):
        return _text(value)
    separator = "=" if explode else ","
    pairs = (f"{name}{separator}{_text(element)}" for name, element in value.items())
    return ",".join(pairs)


def _text(value: Any) -> str:
    """Return a value as text, in JSON notation unless it is a string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _file(value: Any) -> tuple[str, bytes]:
    """Return (name, bytes) of a file argument: an object with its bytes, bytes, a data
    URL, or text."""
    if isinstance(value, bytes):
        return "file", value
    data = getattr(value, "data", None)
    if isinstance(data, bytes):
        return (
            str(getattr(value, "filename", "") or getattr(value, "name", "") or "file"),
            data,
        )
    text = _text(value)
    if text.startswith("data:") and ";base64," in text[:200]:
        return "file", base64.b64decode(text.partition(",")[2])
    return "file", text.encode()


def _quoted(text: str) -> str:
    """Escape a name for a multipart header, as browsers do (HTML standard)."""
    return text.replace('"', "%22").replace("\r", "").replace("\n", "")
