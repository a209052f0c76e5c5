"""HTTP request node: sends one request through the egress client, which enforces the
allowed destinations."""

import base64
import json
import re
import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

import msgspec

from modelyard.base import cpu_work
from modelyard.base.bounded_json import check_value_count
from modelyard.base.charsets import (
    LABELS,
    charset_of,
    decode_async,
    has_byte_order_mark,
    is_utf8,
)
from modelyard.base.content_disposition import file_name_of, safe_name
from modelyard.base.errors import ModelyardError
from modelyard.base.json_repair import RepairError, repair_json, run_in_thread_if_large
from modelyard.base.json_types import is_array
from modelyard.sandbox.inside.text_encodings import declared_label, guess
from modelyard.workflow.file_types import named_by_type
from modelyard.workflow.guessed_encodings import encoding_warning
from modelyard.workflow.node import (
    Effect,
    Node,
    NodeContext,
    NodeData,
    NodeError,
    NodeResult,
)
from modelyard.workflow.template import parts_of, render, selectors_in
from modelyard.workflow.variables import File

_METHODS = ("get", "post", "put", "patch", "delete", "head")
# Dify's limits: 10 MiB for files, 1 MiB for texts; timeouts in seconds.
_MAX_FILE_BYTES, _MAX_TEXT_BYTES = 10 << 20, 1 << 20
# Dify's limits, for which imported apps were made.
_MAX_CONNECT_SECONDS, _MAX_READ_SECONDS = 10.0, 600.0
_CONTENT_TYPES = {
    "x-www-form-urlencoded": "application/x-www-form-urlencoded",
    "json": "application/json",
    "raw-text": "text/plain",
    "binary": "application/octet-stream",
}
# A tab is the only control character that a header's value may hold.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TEXT_LIKE = (
    "json",
    "xml",
    "javascript",
    "x-www-form-urlencoded",
    "yaml",
    "graphql",
    "ndjson",
    "csv",
)


class AuthorizationConfig(msgspec.Struct, kw_only=True):
    """Credentials of a request. The API key may contain selectors."""

    type: str = "bearer"
    api_key: str = ""
    header: str = ""


class Authorization(msgspec.Struct, kw_only=True):
    """`no-auth`, or `api-key` with its configuration."""

    type: str = "no-auth"
    config: AuthorizationConfig | None = None


class BodyPart(msgspec.Struct, kw_only=True):
    """One field of a form, or the only part of another body."""

    key: str = ""
    type: str = "text"
    value: Any = ""
    file: list[str] = []


class Body(msgspec.Struct, kw_only=True):
    """Body of a request. `data` is a text in old exports."""

    type: str = "none"
    data: list[BodyPart] | str = []

    @property
    def parts(self) -> list[BodyPart]:
        """The parts of the body; a text is split into fields for form bodies."""
        if isinstance(self.data, list):
            return self.data
        # Old exports store form fields as one `key:value` per line.
        if self.type in ("form-data", "x-www-form-urlencoded"):
            pairs = _lines(self.data)
            return [
                BodyPart(key=key.strip(), value=value.strip()) for key, value in pairs
            ]
        return [BodyPart(value=self.data)] if self.data else []


class Timeout(msgspec.Struct, kw_only=True):
    """Timeouts in seconds; None for the maximum."""

    connect: float | None = None
    read: float | None = None
    write: float | None = None


class HttpRequestData(NodeData, kw_only=True):
    """Data of an HTTP request node in a DSL file. `headers` and `params` have one
    `key:value` per line."""

    method: str = "get"
    url: str = ""
    authorization: Authorization = msgspec.field(default_factory=Authorization)
    headers: str = ""
    params: str = ""
    body: Body | None = None
    timeout: Timeout | None = None
    ssl_verify: bool = True


class HttpRequestNode(Node):
    """Sends a request and returns status, headers, text and files of the response."""

    type = "http-request"
    Data = HttpRequestData

    @property
    def effect(self) -> Effect:
        """GET and HEAD have no effects; other methods may act twice if they are
        repeated."""
        return (
            Effect.NONE
            if self.data.method.lower() in ("get", "head")
            else Effect.REPEATABLE
        )

    async def run(self, context: NodeContext) -> NodeResult:
        """Send the request. Raises NodeError.

        A status outside 200–299 is an error only if the node has an error strategy or
        retries.
        """
        data: HttpRequestData = self.data
        if (http := context.services.http) is None:
            raise NodeError(
                "HTTP requests are not available in this run",
                error_type="HttpUnavailable",
            )
        # Methods are compared in lower case; DSL files contain both.
        method = data.method.lower()
        if method not in _METHODS:
            raise NodeError(
                f"Invalid http method {data.method}",
                error_type="InvalidHttpMethodError",
            )
        url = self._url(context)
        configured_headers = self._headers(context)
        # The body comes before the final headers, because its type is one of them.
        body, content_type = await self._body(context)
        headers = self._with_own_headers(configured_headers, content_type, context)
        # The masked request is logged even if sending fails.
        process: dict[str, Any] = {
            "request": self._masked_request(method, url, headers, body)
        }
        # Authors can shorten these limits and not extend them: a run must not hang.
        timeout = data.timeout or Timeout()
        try:
            answer = await http.fetch(
                method.upper(),
                url,
                headers=headers,
                body=body,
                verify=data.ssl_verify,
                connect=min(
                    timeout.connect or _MAX_CONNECT_SECONDS, _MAX_CONNECT_SECONDS
                ),
                read=min(timeout.read or _MAX_READ_SECONDS, _MAX_READ_SECONDS),
                # Only the response's headers show whether the lower limit applies.
                max_bytes=_MAX_FILE_BYTES,
            )
        except ModelyardError as error:
            raise NodeError(
                str(error), error_type=type(error).__name__, process_data=process
            ) from error
        # Outputs are built before the status check, because an error carries them too.
        outputs = await self._outputs(answer, url, context, process)
        # Without error handling the status is just an output, as in Dify.
        is_watched = (
            data.error_strategy not in ("", "none") or data.retry_config.retry_enabled
        )
        if is_watched and not 200 <= answer.status < 300:
            raise NodeError(
                f"Request failed with status code {answer.status}",
                error_type="HTTPResponseCodeError",
                outputs=outputs,
                process_data=process,
            )
        return NodeResult(outputs=outputs, process_data=process)

    # The request

    def _headers(self, context: NodeContext) -> list[tuple[str, str]]:
        """Return the configured headers and those that authorise the request. Raises
        NodeError."""
        headers: list[tuple[str, str]] = []
        for line in self.data.headers.splitlines():
            headers += _header_fields(line.strip(), context)
        headers += self._authorization(context)
        stripped = [(name.strip(), value) for name, value in headers]
        # An empty line of the form, or a name that a variable has left empty.
        named = [(name, value) for name, value in stripped if name]
        return [(name, _header_value(name, value)) for name, value in named]

    def _with_own_headers(
        self,
        configured_headers: Sequence[tuple[str, str]],
        content_type: str,
        context: NodeContext,
    ) -> list[tuple[str, str]]:
        """Return the headers with the body's content type and an idempotency key.
        Configured values have priority."""
        headers = list(configured_headers)
        # Only this code knows the boundary, so a configured multipart type is replaced.
        if content_type.startswith("multipart/"):
            headers = [
                header for header in headers if header[0].lower() != "content-type"
            ]
        if content_type and not _has_header(headers, "content-type"):
            headers.append(("Content-Type", content_type))
        # Lets the receiver recognise a repetition after a retry or a crash.
        has_effect = self.effect is not Effect.NONE
        if has_effect and not _has_header(headers, "idempotency-key"):
            headers.append(("Idempotency-Key", context.idempotency_key))
        return headers

    def _url(self, context: NodeContext) -> str:
        """Return the rendered URL with its query, percent-encoded. Raises NodeError."""
        url = render(self.data.url, context.pool).strip()
        if not url:
            raise NodeError("url is required", error_type="InvalidURLError")
        if not url.startswith(("http://", "https://")):
            raise NodeError(
                "url should start with http:// or https://",
                error_type="InvalidURLError",
            )
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise NodeError(
                f"Invalid url {url[:100]!r}: {error}", error_type="InvalidURLError"
            ) from error
        # Parameters with an empty name are dropped after rendering.
        pairs = [
            (render(key, context.pool), render(value, context.pool))
            for key, value in _lines(self.data.params)
        ]
        pairs = [pair for pair in pairs if pair[0]]
        query = "&".join(
            query_part for query_part in (parts.query, urlencode(pairs)) if query_part
        )
        # Characters that are already encoded or have a meaning in URLs stay as they
        # are.
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = quote(query, safe="/%:@!$&'()*+,;=~-._?[]{}|")
        # A fragment is meant for browsers, so it is not sent.
        return urlunsplit((parts.scheme, parts.netloc, path, query, ""))

    def _authorization(self, context: NodeContext) -> list[tuple[str, str]]:
        """Return the headers that authorise the request. Raises NodeError if the key is
        empty."""
        authorization: Authorization = self.data.authorization
        # `no-auth` and unknown types send nothing.
        if authorization.type != "api-key":
            return []
        config = authorization.config
        key = render(config.api_key, context.pool) if config is not None else ""
        if config is None or not key.strip():
            raise NodeError(
                "API key is required for authorization but was empty. Please provide a"
                " valid API key.",
                error_type="AuthorizationConfigError",
            )
        # A custom scheme may use its own header, such as `X-Api-Key`.
        header = config.header or "Authorization"
        match config.type:
            case "bearer":
                return [(header, f"Bearer {key}")]
            case "basic":
                # `user:password` is encoded here; a key without a colon is taken as
                # already encoded.
                credentials = (
                    base64.b64encode(key.encode()).decode() if ":" in key else key
                )
                return [(header, f"Basic {credentials}")]
            case _:
                return [(header, key)]

    async def _body(self, context: NodeContext) -> tuple[bytes, str]:
        """Return (body, content type). Raises NodeError."""
        body: Body | None = self.data.body
        if body is None or body.type == "none":
            return b"", ""
        parts = body.parts
        match body.type:
            case "raw-text":
                text = render(_text(parts[0].value), context.pool) if parts else ""
                return text.encode(), _CONTENT_TYPES["raw-text"]
            case "json":
                text = render(_text(parts[0].value), context.pool) if parts else ""
                # Large texts are parsed in a thread, so that the event loop
                # stays responsive.
                return (
                    await run_in_thread_if_large(len(text), _json, text),
                    _CONTENT_TYPES["json"],
                )
            case "binary":
                return await self._binary(parts, context), _CONTENT_TYPES["binary"]
            case "x-www-form-urlencoded":
                pairs = [
                    (
                        render(part.key, context.pool),
                        render(_text(part.value), context.pool),
                    )
                    for part in parts
                ]
                return (
                    urlencode([pair for pair in pairs if pair[0]]).encode(),
                    _CONTENT_TYPES["x-www-form-urlencoded"],
                )
            case "form-data":
                return await self._form(parts, context)
            case _:
                raise NodeError(
                    f"Unknown body type {body.type!r}; expected one of none,"
                    " form-data, x-www-form-urlencoded, json, raw-text, binary",
                    error_type="HttpRequestNodeError",
                )

    async def _binary(self, parts: Sequence[BodyPart], context: NodeContext) -> bytes:
        """Return the content of the file that is the body. Raises NodeError."""
        if len(parts) != 1:
            raise NodeError(
                "invalid body data, should have only one item",
                error_type="RequestBodyError",
            )
        file = context.value(parts[0].file)
        if not isinstance(file, File) or context.services.files is None:
            raise NodeError(
                f"cannot fetch file with selector {parts[0].file}",
                error_type="FileFetchError",
            )
        return await context.services.files.read(file)

    async def _form(
        self, parts: Sequence[BodyPart], context: NodeContext
    ) -> tuple[bytes, str]:
        """Return (body, content type) of a multipart form. Values that are not files
        are skipped for file fields."""
        form = _MultipartForm()
        for part in parts:
            key = render(part.key, context.pool)
            if not key:
                continue
            if part.type != "file":
                form.add_text(key, render(_text(part.value), context.pool))
                continue
            value = context.value(part.file)
            # A field may hold one file or a list of files.
            for file in value if is_array(value) else [value]:
                await _add_file(form, key, file, context)
        return form.encode(), form.content_type

    def _masked_request(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes
    ) -> str:
        """Return the request as text for the run's log. Credentials are masked."""
        authorization = self.data.authorization
        # The header with the key is masked under its configured name.
        secret = (
            (authorization.config.header or "Authorization").lower()
            if authorization.config is not None
            else "authorization"
        )
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        lines = [f"{method.upper()} {target} HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [
            f"{name}:"
            f" {'*' * len(value) if name.lower() in (secret, 'authorization') else value}"
            for name, value in headers
        ]
        # The log needs only the start of a large body.
        body_text = body[:4096].decode("utf-8", "replace") if body else ""
        if len(body) > 4096:
            body_text += f"… ({len(body):,} bytes)"
        return "\r\n".join([*lines, "", body_text])

    # The response

    async def _outputs(
        self, answer: Any, url: str, context: NodeContext, process: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the node's outputs of a response. Raises NodeError if it is too large."""
        media_type = (
            answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        )
        disposition = answer.headers.get("content-disposition", "")
        # A response with an attachment header or a binary media type is stored as a
        # file.
        is_file = (
            "attachment" in disposition
            or "filename=" in disposition
            or (bool(media_type) and not _is_text(media_type))
        )
        max_bytes = _MAX_FILE_BYTES if is_file else _MAX_TEXT_BYTES
        # Checked again here, because texts have a lower limit than files.
        if len(answer.body) > max_bytes:
            label = "File" if is_file else "Text"
            raise NodeError(
                f"{label} size is too large, max size is {max_bytes / (1 << 20):.2f}"
                f" MB, but current size is {len(answer.body) / (1 << 20):.2f} MB.",
                error_type="ResponseSizeError",
                process_data=process,
            )
        files: list[File] = []
        text = ""
        # Without a file store the response's status and headers are still available.
        if is_file and context.services.files is not None:
            files.append(
                await context.services.files.save(
                    _name(disposition, url, media_type), answer.body, media_type
                )
            )
        elif not is_file:
            label = charset_of(answer.headers.get("content-type", ""))
            text = await _decoded(answer.body, label, process)
        return {
            "status_code": answer.status,
            "body": text,
            "headers": dict(answer.headers),
            "files": files,
        }

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors in URL, headers, parameters, key and body."""
        data: HttpRequestData = self.data
        texts = [data.url, data.headers, data.params]
        if data.authorization.config is not None:
            texts.append(data.authorization.config.api_key)
        parts = data.body.parts if data.body is not None else []
        # Values of form fields may be other JSON than text.
        texts += [text for part in parts for text in (part.key, _text(part.value))]
        return [
            *(selector for text in texts for selector in selectors_in(text)),
            *(tuple(part.file) for part in parts if part.file),
        ]


class _MultipartForm:
    """The body of a multipart form."""

    def __init__(self) -> None:
        # Random, so that no file content can contain it by accident.
        self._boundary = secrets.token_hex(16)
        self._chunks: list[bytes] = []

    @property
    def content_type(self) -> str:
        """Value of the Content-Type header."""
        return f"multipart/form-data; boundary={self._boundary}"

    def add_text(self, key: str, text: str) -> None:
        """Append a text field."""
        self._add(f'name="{_quoted(key)}"\r\n', text.encode())

    def add_file(self, key: str, file: File, data: bytes) -> None:
        """Append a file field with the content of the file."""
        mime_type = file.mime_type or "application/octet-stream"
        self._add(
            f'name="{_quoted(key)}"; filename="{_quoted(file.filename or "file")}"\r\n'
            f"Content-Type: {_CONTROL_CHARACTER.sub(' ', mime_type)}\r\n",
            data,
        )

    def _add(self, header: str, value: bytes) -> None:
        """Append a field. `header` continues the line of Content-Disposition."""
        head = (
            f"--{self._boundary}\r\nContent-Disposition: form-data; {header}".encode()
        )
        self._chunks.append(head + b"\r\n" + value + b"\r\n")

    def encode(self) -> bytes:
        """Return the complete body."""
        return b"".join(self._chunks) + f"--{self._boundary}--\r\n".encode()


async def _add_file(
    form: _MultipartForm, key: str, file: Any, context: NodeContext
) -> None:
    """Append a file to the form. Values that are no files are skipped."""
    if not isinstance(file, File) or context.services.files is None:
        return
    form.add_file(key, file, await context.services.files.read(file))


def _has_header(headers: Sequence[tuple[str, str]], name: str) -> bool:
    """Return whether a header is set. `name` is in lower case."""
    return any(header_name.lower() == name for header_name, _ in headers)


def _header_fields(line: str, context: NodeContext) -> list[tuple[str, str]]:
    """Return the headers that a line of the node's headers stands for.

    A line is split before its selectors are rendered, so that a value cannot add a
    header. Only a line that is nothing but one selector stands for whole headers.
    """
    parts = parts_of(line)
    if len(parts) == 1 and isinstance(parts[0], tuple):
        return _lines(render(line, context.pool))
    return [
        (render(name, context.pool), render(value, context.pool))
        for name, value in _lines(line)
    ]


def _header_value(name: str, value: str) -> str:
    """Return a header's value without blanks around it. Raises NodeError if the header
    holds a line break or another control character."""
    value = value.strip()
    if _CONTROL_CHARACTER.search(f"{name.strip()}{value}") is None:
        return value
    raise NodeError(
        f"Header {name.strip()[:60]!r} holds a line break or another control character",
        error_type="InvalidHeaderError",
    )


def _lines(text: str) -> list[tuple[str, str]]:
    """Parse one `key:value` per line."""
    pairs: list[tuple[str, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if key.strip() and (colon or key.strip()):
            pairs.append((key.strip(), value.strip()))
    return pairs


def _text(value: Any) -> str:
    """Return the value as text: other values than texts as JSON, an empty text for
    None."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _json(text: str) -> bytes:
    """Return the text as JSON, repaired if it is slightly invalid. Raises NodeError."""
    if not text.strip():
        return b""
    try:
        # Deeply nested or huge JSON is refused before it is parsed.
        check_value_count(text)
        return msgspec.json.encode(json.loads(text))
    # Rendered values can break the JSON around them, for example by a quote.
    except (ValueError, RecursionError) as first:
        try:
            repaired = repair_json(text)
        except (ImportError, RepairError):
            repaired = ""
        # The repair finds an empty text in what holds no JSON at all.
        if repaired == "" or repaired is None:
            raise NodeError(
                f"Failed to parse JSON: {text[:200]}", error_type="RequestBodyError"
            ) from first
        return msgspec.json.encode(repaired)


def _quoted(text: str) -> str:
    """Escape a name for a header parameter; line breaks could inject headers."""
    return (
        # Quotes as browsers send them, in multipart forms of the HTML standard.
        text.replace("\\", "\\\\")
        .replace('"', "%22")
        .replace("\r", " ")
        .replace("\n", " ")
    )


async def _decoded(body: bytes, label: str, process: dict[str, Any]) -> str:
    """Return the text of a response. `label` is the charset of its header.

    Without one, the text is UTF-8 if it is valid, or else what a page declares in
    itself. A guess is noted in `process`.
    """
    # What the server or the text itself states is more reliable than a guess.
    if label or has_byte_order_mark(body):
        return await decode_async(body, label)
    declared = declared_label(body)
    # Pages often keep an old declaration although their text is UTF-8 by now.
    if declared in LABELS and (body.isascii() or not is_utf8(body)):
        return await decode_async(body, declared)
    if is_utf8(body):
        return await decode_async(body)
    # All candidates are compared, and other runs must not wait for that.
    codec, is_certain = await cpu_work.run_in_thread(guess, body)
    process["encoding"] = {"guessed": codec, "certain": is_certain}
    process["warnings"] = [
        encoding_warning("the response", codec, is_certain=is_certain)
    ]
    return await cpu_work.run_in_thread(body.decode, codec, "replace")


def _is_text(media_type: str) -> bool:
    """Return whether a media type is text."""
    return media_type.startswith("text/") or any(
        marker in media_type for marker in _TEXT_LIKE
    )


def _name(disposition: str, url: str, media_type: str) -> str:
    """Return a file name from the header, the URL or the media type."""
    name = file_name_of(disposition) or safe_name(unquote(urlsplit(url).path))
    return named_by_type(name, media_type)


NODES = {"http-request": HttpRequestNode}
