"""Tools that are operations of an HTTP API: a request is made of the arguments, the answer is what comes back."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import msgspec

from modelyard.base import computing
from modelyard.base.bodies import check_amount
from modelyard.base.charsets import charset_of, decode
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
from modelyard.tools.openapi import Operation, Place, Scheme
from modelyard.transport.egress import Egress, EgressError

_CONNECT, _READ = 10.0, 60.0
_MOST_ANSWER = 10 << 20
_MOST_ERROR = 4000
_MOST_TOKENS = 4096
_PREFIXES = {"basic": "Basic ", "bearer": "Bearer ", "custom": "", "none": ""}
_DELIMITERS = {"spaceDelimited": " ", "pipeDelimited": "|", "tabDelimited": "\t"}


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown to an API. `type`: `none`, `api_key_header`, `api_key_query`, `api_key_cookie`, `basic`, `bearer`,
    `oauth2` (client credentials), or `auto`: what the description asks for."""

    type: str = "none"
    name: str = ""
    """Of the header, parameter or cookie."""
    prefix: str = ""
    """Of a header's value: `none`, `basic`, `bearer`, or the text itself."""
    value: str = ""
    user: str = ""
    token_url: str = ""
    scopes: list[str] = []

    @classmethod
    def of(cls, scheme: Scheme, value: str, user: str = "") -> Auth:
        """For what the description asks for."""
        kinds = {"header": "api_key_header", "query": "api_key_query", "cookie": "api_key_cookie"}
        return cls(
            type=kinds.get(scheme.type, scheme.type), name=scheme.name, value=value, user=user,
            token_url=scheme.token_url, scopes=scheme.scopes,
        )  # fmt: skip


TokenKey = tuple[str, str, bytes]


@dataclass(slots=True)
class Tokens:
    """OAuth tokens that were fetched with client credentials, until shortly before they end."""

    egress: Egress
    known: dict[TokenKey, tuple[str, float]] = field(default_factory=dict["TokenKey", tuple[str, float]])
    locks: dict[TokenKey, asyncio.Lock] = field(default_factory=dict["TokenKey", asyncio.Lock])

    async def get(self, auth: Auth, *, tenant: str, row: str) -> str:
        """Raises ToolCredentialsError, EgressError."""
        key = _token_key(auth, tenant, row)
        if len(self.locks) >= _MOST_TOKENS:
            self._forget()
        async with self.locks.setdefault(key, asyncio.Lock()):
            token, until = self.known.get(key, ("", 0.0))
            if token and time.monotonic() < until:
                return token
            form = {"grant_type": "client_credentials", "client_id": auth.user, "client_secret": auth.value}
            if auth.scopes:
                form["scope"] = " ".join(auth.scopes)
            answer = await self.egress.fetch(
                "POST", auth.token_url, headers=[("content-type", "application/x-www-form-urlencoded")],
                body=urlencode(form).encode(), connect=_CONNECT, read=_READ, most_bytes=1 << 20,
                most_redirects=0,  # the secret is in the body: it goes to the address that was given, and no further
            )  # fmt: skip
            try:
                told = msgspec.json.decode(answer.body, type=dict)
                token = str(told["access_token"])
            except (msgspec.MsgspecError, KeyError) as error:
                raise ToolCredentialsError(f"{auth.token_url} gave no token: status {answer.status}") from error
            self.known[key] = (token, time.monotonic() + _seconds(told.get("expires_in")) - 30)
            return token

    def _forget(self) -> None:
        """What has ended, and what nobody waits for."""
        now = time.monotonic()
        for key in [one for one, (_, until) in self.known.items() if until <= now]:
            del self.known[key]
        for key in [one for one, lock in self.locks.items() if one not in self.known and not lock.locked()]:
            del self.locks[key]


def _token_key(auth: Auth, tenant: str, row: str) -> TokenKey:
    """All that a token depends on: whose it is, and a digest of what it is fetched with."""
    shown = msgspec.json.encode([auth.token_url, auth.user, auth.value, auth.scopes])
    return tenant, row, hashlib.sha256(shown).digest()


def _seconds(given: Any) -> float:
    """How long a token holds; five minutes where nothing sensible is said."""
    return min(float(given), 86_400.0) if isinstance(given, int | float) and given > 0 else 300.0


class ApiTool(Tool):
    def __init__(
        self, operation: Operation, *, provider: str, server: str, auth: Auth, egress: Egress, tokens: Tokens,
        tenant: str, row: str = "", title: str = "",
    ) -> None:  # fmt: skip
        self._operation = operation
        self._row = row or provider
        self._server = (operation.server or server).rstrip("/")
        self._auth = auth
        self._egress = egress
        self._tokens = tokens
        self._tenant = tenant
        self.entity = ToolEntity(
            name=operation.name, provider=provider, kind="api", label={"en_US": operation.name}, author=title,
            description=operation.description, schema=operation.schema, is_repeatable=operation.is_safe,
            seconds=_CONNECT + _READ,
        )  # fmt: skip

    async def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        operation = self._operation
        if not self._server:
            raise ToolInvokeError(f"the API of {self.entity.provider!r} names no server; give it one")
        request = _Request(operation, parameters)
        url, headers = f"{self._server}{request.path}", request.headers
        query, cookies = request.query, request.cookies
        await self._show(headers, query, cookies)
        if cookies:
            headers.append(("cookie", "; ".join(f"{name}={quote(value)}" for name, value in cookies)))
        if query:
            url += f"{'&' if '?' in url else '?'}{urlencode(query)}"
        kind, body = request.body()
        if kind:
            headers.append(("content-type", kind))
        headers.append(("accept", "application/json, */*;q=0.5"))
        if not operation.is_safe and context.key:
            headers.append(("idempotency-key", context.key))
        try:
            answer = await self._egress.fetch(
                operation.method, url, headers=headers, body=body, connect=_CONNECT, read=_READ,
                most_bytes=_MOST_ANSWER,
            )  # fmt: skip
        except EgressError as error:
            raise ToolInvokeError(str(error)) from error
        media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if answer.status in (401, 403):
            raise ToolCredentialsError(f"{operation.method} {operation.path} answers with status {answer.status}")
        if answer.status >= 400:
            said = decode(answer.body[: _MOST_ERROR * 4], charset_of(answer.headers.get("content-type", "")))[
                :_MOST_ERROR
            ]
            raise ToolInvokeError(f"Request failed with status code {answer.status} and {said}")
        if not answer.body:
            yield text_message(f"Done: status {answer.status}.")
            return
        charset = charset_of(answer.headers.get("content-type", ""))
        # A large answer takes a while to be read: not on the loop, where all others would wait.
        yield await computing.apart(_answer, answer.body, media, charset, operation.name)

    async def _show(
        self, headers: list[tuple[str, str]], query: list[tuple[str, str]], cookies: list[tuple[str, str]]
    ) -> None:
        auth = self._auth
        match auth.type:
            case "api_key_header":
                prefix = _PREFIXES.get(auth.prefix.lower(), f"{auth.prefix} " if auth.prefix else "")
                value = auth.value
                if auth.prefix.lower() == "basic" and ":" in value:
                    value = base64.b64encode(value.encode()).decode()
                headers.append((auth.name or "Authorization", f"{prefix}{value}"))
            case "api_key_query":
                query.append((auth.name or "api_key", auth.value))
            case "api_key_cookie":
                cookies.append((auth.name or "api_key", auth.value))
            case "basic":
                whole = base64.b64encode(f"{auth.user}:{auth.value}".encode()).decode()
                headers.append(("Authorization", f"Basic {whole}"))
            case "bearer":
                headers.append(("Authorization", f"Bearer {auth.value}"))
            case "oauth2":
                if not auth.token_url:
                    raise ToolCredentialsError("the API says nowhere to fetch tokens; give it one as bearer")
                headers.append(
                    ("Authorization", f"Bearer {await self._tokens.get(auth, tenant=self._tenant, row=self._row)}")
                )
            case _:
                pass


def _answer(body: bytes, media: str, charset: str, name: str) -> Message:
    if media.endswith("json") or body[:1] in (b"{", b"["):
        try:
            check_amount(body)
            return json_message(json.loads(body))
        except (ValueError, RecursionError):
            pass
    if not media or media.startswith(("text/", "application/xml", "application/javascript")) or media.endswith("+xml"):
        return text_message(decode(body, charset))
    return blob_message(body, media, name)


class _Request:
    """Arguments in their places."""

    def __init__(self, operation: Operation, given: Mapping[str, Any]) -> None:
        self._operation = operation
        self.path = operation.path
        self.query: list[tuple[str, str]] = []
        self.headers: list[tuple[str, str]] = []
        self.cookies: list[tuple[str, str]] = []
        self._fields: dict[str, Any] = {}
        self._files: dict[str, Any] = {}
        self._whole: Any = None
        self._has_whole = False
        for name, value in given.items():
            place = operation.places.get(name)
            if place is not None and value is not None:
                self._put(place, value)
        if "{" in self.path:
            missing = self.path[self.path.find("{") + 1 :].partition("}")[0]
            raise ToolParameterError(f"parameter {missing!r} is missing")

    def _put(self, place: Place, value: Any) -> None:
        match place.where:
            case "path":
                written = quote(_simple(value, explode=place.explode), safe=",=")
                if written in ("", ".", ".."):
                    raise ToolParameterError(
                        f"parameter {place.name!r} cannot be {written!r}: it is a part of the path"
                    )
                self.path = self.path.replace("{" + place.name + "}", written)
            case "query":
                self.query += _in_query(place, value)
            case "header":
                self.headers.append((place.name, _simple(value, explode=place.explode)))
            case "cookie":
                self.cookies.append((place.name, _simple(value, explode=place.explode)))
            case "whole":
                self._whole, self._has_whole = value, True
            case _:
                if place.is_file:
                    self._files[place.name] = value
                else:
                    self._fields[place.name] = value

    def body(self) -> tuple[str, bytes]:
        kind = self._operation.body
        if not kind:
            return "", b""
        if self._has_whole:
            if "json" in kind:
                return kind, json.dumps(self._whole, ensure_ascii=False).encode()
            _, data = _file(self._whole)
            return kind, data
        if kind == "multipart/form-data":
            return self._multipart()
        if kind == "application/x-www-form-urlencoded":
            pairs = [(name, _text(one)) for name, value in self._fields.items()
                     for one in (value if isinstance(value, list) else [value])]  # fmt: skip
            return kind, urlencode(pairs).encode()
        if not self._fields and not self._operation.schema.get("required"):
            return kind, b"{}"
        return kind, json.dumps(self._fields, ensure_ascii=False).encode()

    def _multipart(self) -> tuple[str, bytes]:
        mark = uuid4().hex
        out = bytearray()
        for name, value in self._fields.items():
            for one in value if isinstance(value, list) else [value]:
                out += f'--{mark}\r\ncontent-disposition: form-data; name="{_quoted(name)}"\r\n\r\n'.encode()
                out += _text(one).encode() + b"\r\n"
        for name, value in self._files.items():
            for one in value if isinstance(value, list) else [value]:
                title, data = _file(one)
                head = f'--{mark}\r\ncontent-disposition: form-data; name="{_quoted(name)}"; '
                head += f'filename="{_quoted(title)}"\r\n'
                out += f"{head}content-type: application/octet-stream\r\n\r\n".encode() + data + b"\r\n"
        out += f"--{mark}--\r\n".encode()
        return f"multipart/form-data; boundary={mark}", bytes(out)


def _in_query(place: Place, value: Any) -> list[tuple[str, str]]:
    if place.style == "json":
        return [(place.name, json.dumps(value, ensure_ascii=False))]
    if isinstance(value, Mapping):
        if place.style == "deepObject":
            return [(f"{place.name}[{name}]", _text(one)) for name, one in value.items()]
        if place.explode:
            return [(str(name), _text(one)) for name, one in value.items()]
        return [(place.name, ",".join(f"{name},{_text(one)}" for name, one in value.items()))]
    if isinstance(value, list):
        if place.explode and place.style in ("form", "", "deepObject"):
            return [(place.name, _text(one)) for one in value]
        return [(place.name, _DELIMITERS.get(place.style, ",").join(_text(one) for one in value))]
    return [(place.name, _text(value))]


def _simple(value: Any, *, explode: bool) -> str:
    if isinstance(value, list):
        return ",".join(_text(one) for one in value)
    if isinstance(value, Mapping):
        sign = "=" if explode else ","
        return ",".join(f"{name}{sign}{_text(one)}" for name, one in value.items())
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _file(value: Any) -> tuple[str, bytes]:
    """(name, bytes) of a file as tools are given one: an object with its bytes, bytes, a data: address, or text."""
    if isinstance(value, bytes):
        return "file", value
    data = getattr(value, "data", None)
    if isinstance(data, bytes):
        return str(getattr(value, "filename", "") or getattr(value, "name", "") or "file"), data
    text = _text(value)
    if text.startswith("data:") and ";base64," in text[:200]:
        return "file", base64.b64decode(text.partition(",")[2])
    return "file", text.encode()


def _quoted(text: str) -> str:
    return text.replace('"', "%22").replace("\r", "").replace("\n", "")
