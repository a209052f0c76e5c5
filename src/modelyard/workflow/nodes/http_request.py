"""http-request: one request to somewhere on the network, through the client that says where may be gone."""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import msgspec

from modelyard.base.bodies import check_amount
from modelyard.base.charsets import charset_of, decoded
from modelyard.base.errors import ModelyardError
from modelyard.base.mending import NotMendedError, apart, mended
from modelyard.workflow.node import Effect, Node, NodeContext, NodeData, NodeError, NodeResult
from modelyard.workflow.template import render, selectors_in
from modelyard.workflow.variables import File

_METHODS = ("get", "post", "put", "patch", "delete", "head")
_MOST_FILE, _MOST_TEXT = 10 << 20, 1 << 20
_MOST_CONNECT, _MOST_READ = 10.0, 600.0
_TYPES = {
    "x-www-form-urlencoded": "application/x-www-form-urlencoded",
    "json": "application/json",
    "raw-text": "text/plain",
    "binary": "application/octet-stream",
}
_TEXT_LIKE = ("json", "xml", "javascript", "x-www-form-urlencoded", "yaml", "graphql", "ndjson", "csv")


class AuthorizationConfig(msgspec.Struct, kw_only=True):
    type: str = "bearer"
    api_key: str = ""
    header: str = ""


class Authorization(msgspec.Struct, kw_only=True):
    type: str = "no-auth"
    config: AuthorizationConfig | None = None


class BodyPart(msgspec.Struct, kw_only=True):
    key: str = ""
    type: str = "text"
    value: Any = ""
    file: list[str] = []


class Body(msgspec.Struct, kw_only=True):
    type: str = "none"
    data: list[BodyPart] | str = []

    @property
    def parts(self) -> list[BodyPart]:
        if isinstance(self.data, list):
            return self.data
        if self.type in ("form-data", "x-www-form-urlencoded"):  # what old exports wrote: a line each
            return [BodyPart(key=key.strip(), value=value.strip()) for key, value in _lines(self.data)]
        return [BodyPart(value=self.data)] if self.data else []


class Timeout(msgspec.Struct, kw_only=True):
    connect: float | None = None
    read: float | None = None
    write: float | None = None


class HttpRequestData(NodeData, kw_only=True):
    method: str = "get"
    url: str = ""
    authorization: Authorization = msgspec.field(default_factory=Authorization)
    headers: str = ""
    params: str = ""
    body: Body | None = None
    timeout: Timeout | None = None
    ssl_verify: bool = True


class HttpRequestNode(Node):
    type = "http-request"
    Data = HttpRequestData

    @property
    def effect(self) -> Effect:
        return Effect.NONE if self.data.method.lower() in ("get", "head") else Effect.REPEATABLE

    async def run(self, context: NodeContext) -> NodeResult:
        data: HttpRequestData = self.data
        if (http := context.services.http) is None:
            raise NodeError("there is no way out to the network", kind="HttpUnavailable")
        method = data.method.lower()
        if method not in _METHODS:
            raise NodeError(f"Invalid http method {data.method}", kind="InvalidHttpMethodError")
        url = self._url(context)
        headers = [(name, value) for name, value in _lines(render(data.headers, context.pool)) if name]
        headers += self._authorization(context)
        body, content_type = await self._body(context)
        has_type = any(name.lower() == "content-type" for name, _ in headers)
        if content_type.startswith("multipart/"):
            headers = [one for one in headers if one[0].lower() != "content-type"]
            has_type = False
        if content_type and not has_type:
            headers.append(("Content-Type", content_type))
        if self.effect is not Effect.NONE and not any(name.lower() == "idempotency-key" for name, _ in headers):
            headers.append(("Idempotency-Key", context.idempotency_key))
        process = {"request": self._shown(method, url, headers, body)}
        timeout = data.timeout or Timeout()
        try:
            answer = await http.fetch(
                method.upper(), url, headers=headers, body=body, verify=data.ssl_verify,
                connect=min(timeout.connect or _MOST_CONNECT, _MOST_CONNECT),
                read=min(timeout.read or _MOST_READ, _MOST_READ), most_bytes=_MOST_FILE,
            )  # fmt: skip
        except ModelyardError as error:
            raise NodeError(str(error), kind=type(error).__name__, process_data=process) from error
        outputs = await self._outputs(answer, url, context, process)
        is_watched = data.error_strategy not in ("", "none") or data.retry_config.retry_enabled
        if is_watched and not 200 <= answer.status < 300:
            raise NodeError(
                f"Request failed with status code {answer.status}", kind="HTTPResponseCodeError", outputs=outputs,
                process_data=process,
            )  # fmt: skip
        return NodeResult(outputs=outputs, process_data=process)

    # what goes out

    def _url(self, context: NodeContext) -> str:
        url = render(self.data.url, context.pool).strip()
        if not url:
            raise NodeError("url is required", kind="InvalidURLError")
        if not url.startswith(("http://", "https://")):
            raise NodeError("url should start with http:// or https://", kind="InvalidURLError")
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise NodeError(f"url cannot be read: {error}", kind="InvalidURLError") from error
        pairs = [(render(key, context.pool), render(value, context.pool)) for key, value in _lines(self.data.params)]
        pairs = [one for one in pairs if one[0]]
        query = "&".join(one for one in (parts.query, urlencode(pairs)) if one)
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = quote(query, safe="/%:@!$&'()*+,;=~-._?[]{}|")
        return urlunsplit((parts.scheme, parts.netloc, path, query, ""))

    def _authorization(self, context: NodeContext) -> list[tuple[str, str]]:
        chosen: Authorization = self.data.authorization
        if chosen.type != "api-key":
            return []
        config = chosen.config
        key = render(config.api_key, context.pool) if config is not None else ""
        if config is None or not key.strip():
            raise NodeError(
                "API key is required for authorization but was empty. Please provide a valid API key.",
                kind="AuthorizationConfigError",
            )
        header = config.header or "Authorization"
        match config.type:
            case "bearer":
                return [(header, f"Bearer {key}")]
            case "basic":
                told = base64.b64encode(key.encode()).decode() if ":" in key else key
                return [(header, f"Basic {told}")]
            case _:
                return [(header, key)]

    async def _body(self, context: NodeContext) -> tuple[bytes, str]:
        """(bytes, content type). Raises NodeError."""
        body: Body | None = self.data.body
        if body is None or body.type == "none":
            return b"", ""
        parts = body.parts
        match body.type:
            case "raw-text":
                text = render(_text(parts[0].value), context.pool) if parts else ""
                return text.encode(), _TYPES["raw-text"]
            case "json":
                text = render(_text(parts[0].value), context.pool) if parts else ""
                return await apart(len(text), _json, text), _TYPES["json"]
            case "binary":
                return await self._binary(parts, context), _TYPES["binary"]
            case "x-www-form-urlencoded":
                pairs = [(render(one.key, context.pool), render(_text(one.value), context.pool)) for one in parts]
                return urlencode([one for one in pairs if one[0]]).encode(), _TYPES["x-www-form-urlencoded"]
            case "form-data":
                return await self._form(parts, context)
            case _:
                raise NodeError(f"body type {body.type!r} is not known", kind="HttpRequestNodeError")

    async def _binary(self, parts: Sequence[BodyPart], context: NodeContext) -> bytes:
        if len(parts) != 1:
            raise NodeError("invalid body data, should have only one item", kind="RequestBodyError")
        file = context.value(parts[0].file)
        if not isinstance(file, File) or context.services.files is None:
            raise NodeError(f"cannot fetch file with selector {parts[0].file}", kind="FileFetchError")
        return await context.services.files.read(file)

    async def _form(self, parts: Sequence[BodyPart], context: NodeContext) -> tuple[bytes, str]:
        boundary = secrets.token_hex(16)
        pieces: list[bytes] = []

        def put(key: str, value: bytes, more: str = "", kind: str = "") -> None:
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(key)}"{more}\r\n'
            if kind:
                head += f"Content-Type: {kind}\r\n"
            pieces.append(head.encode() + b"\r\n" + value + b"\r\n")

        for one in parts:
            key = render(one.key, context.pool)
            if not key:
                continue
            if one.type != "file":
                put(key, render(_text(one.value), context.pool).encode())
                continue
            value = context.value(one.file)
            for file in value if isinstance(value, list) else [value]:
                if not isinstance(file, File) or context.services.files is None:
                    continue
                data = await context.services.files.read(file)
                if data:
                    name = f'; filename="{_quoted(file.filename or "file")}"'
                    put(key, data, name, file.mime_type or "application/octet-stream")
        return b"".join(pieces) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"

    def _shown(self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> str:
        """The request as text, for people: what proves who asks is covered."""
        chosen = self.data.authorization
        secret = (chosen.config.header or "Authorization").lower() if chosen.config is not None else "authorization"
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        lines = [f"{method.upper()} {target} HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [
            f"{name}: {'*' * len(value) if name.lower() in (secret, 'authorization') else value}"
            for name, value in headers
        ]
        shown = body[:4096].decode("utf-8", "replace") if body else ""
        if len(body) > 4096:
            shown += f"… ({len(body):,} bytes)"
        return "\r\n".join([*lines, "", shown])

    # what comes back

    async def _outputs(self, answer: Any, url: str, context: NodeContext, process: Mapping[str, Any]) -> dict[str, Any]:
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        disposition = answer.headers.get("content-disposition", "")
        is_file = "attachment" in disposition or "filename=" in disposition or (bool(kind) and not _is_text(kind))
        most = _MOST_FILE if is_file else _MOST_TEXT
        if len(answer.body) > most:
            what = "File" if is_file else "Text"
            raise NodeError(
                f"{what} size is too large, max size is {most / (1 << 20):.2f} MB, "
                f"but current size is {len(answer.body) / (1 << 20):.2f} MB.",
                kind="ResponseSizeError", process_data=process,
            )  # fmt: skip
        files: list[File] = []
        text = ""
        if is_file and context.services.files is not None:
            files.append(await context.services.files.save(_name(disposition, url, kind), answer.body, kind))
        elif not is_file:
            text = await decoded(answer.body, charset_of(answer.headers.get("content-type", "")))
        return {"status_code": answer.status, "body": text, "headers": dict(answer.headers), "files": files}

    def references(self) -> Sequence[tuple[str, ...]]:
        data: HttpRequestData = self.data
        texts = [data.url, data.headers, data.params]
        if data.authorization.config is not None:
            texts.append(data.authorization.config.api_key)
        parts = data.body.parts if data.body is not None else []
        texts += [text for one in parts for text in (one.key, _text(one.value))]
        return [*(one for text in texts for one in selectors_in(text)), *(tuple(one.file) for one in parts if one.file)]


def _lines(text: str) -> list[tuple[str, str]]:
    """`key:value`, one a line."""
    pairs: list[tuple[str, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if key.strip() and (colon or key.strip()):
            pairs.append((key.strip(), value.strip()))
    return pairs


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _json(text: str) -> bytes:
    """The text as JSON, mended where it nearly is. Raises NodeError."""
    if not text.strip():
        return b""
    try:
        check_amount(text)
        return msgspec.json.encode(json.loads(text))
    except (ValueError, RecursionError) as first:
        try:
            found = mended(text)
        except (ImportError, NotMendedError):
            found = ""
        if found == "" or found is None:
            raise NodeError(f"Failed to parse JSON: {text[:200]}", kind="RequestBodyError") from first
        return msgspec.json.encode(found)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', "%22").replace("\r", " ").replace("\n", " ")


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or any(word in kind for word in _TEXT_LIKE)


def _name(disposition: str, url: str, kind: str) -> str:
    import mimetypes

    for piece in disposition.split(";"):
        name, _, value = piece.strip().partition("=")
        if name.lower() == "filename" and value:
            return value.strip('"')
    last = urlsplit(url).path.rpartition("/")[2]
    return last if "." in last else f"{last or 'file'}{mimetypes.guess_extension(kind) or ''}"


NODES = {"http-request": HttpRequestNode}
