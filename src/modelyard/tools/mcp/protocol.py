"""What both sides of MCP share: revisions, messages, headers, and content as tools' messages. Pure."""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelyard.base.bodies import check_amount
from modelyard.base.version import __version__
from modelyard.tools.entities import Message, ToolError, blob_message, json_message, text_message, variable_message
from modelyard.tools.observation import Gathering

MODERN = "2026-07-28"
HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
VERSION_META = "io.modelcontextprotocol/protocolVersion"
CLIENT_META = "io.modelcontextprotocol/clientInfo"
CAPABILITIES_META = "io.modelcontextprotocol/clientCapabilities"
SERVER_META = "io.modelcontextprotocol/serverInfo"
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Methods whose subject stands in a header too."""

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = (
    -32700, -32600, -32601, -32602, -32603,
)  # fmt: skip
HEADER_MISMATCH, UNSUPPORTED_VERSION = -32020, -32022
RESOURCE_NOT_FOUND = -32002
STATUS = {
    PARSE_ERROR: 400, INVALID_REQUEST: 400, METHOD_NOT_FOUND: 404, INVALID_PARAMS: 400, HEADER_MISMATCH: 400,
    UNSUPPORTED_VERSION: 400, RESOURCE_NOT_FOUND: 200, INTERNAL_ERROR: 500,
}  # fmt: skip
"""The HTTP status of an error, in the revision that has one."""
_SAFE = re.compile(r"^[\x20-\x7E]*$")
_WRAPPED = re.compile(r"^=\?base64\?(.*)\?=$")


class McpError(ToolError):
    """A server refused, broke the protocol, or could not be reached."""

    code = "mcp_error"

    def __init__(self, message: str, *, number: int = 0, data: Any = None) -> None:
        super().__init__(message)
        self.number = number
        self.data = data


def info() -> dict[str, Any]:
    return {"name": "modelyard", "title": "Modelyard", "version": __version__}


def request(number: int | str, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": number, "method": method}
    return {**message, "params": dict(params)} if params is not None else message


def result_of(number: Any, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": dict(result)}


def error_of(number: Any, code: int, message: str, data: Any = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "id": number, "error": {**error, "data": data} if data is not None else error}


def header_value(text: str) -> str:
    """A name as a header can carry it."""
    if _SAFE.match(text) and text == text.strip() and not _WRAPPED.match(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def read_header(text: str | None) -> str | None:
    """The other way; None for what is damaged."""
    if text is None or (match := _WRAPPED.match(text)) is None:
        return text
    try:
        return base64.b64decode(match[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


# ------------------------------------------------------------------------------------------------ content


def messages_of(result: Mapping[str, Any]) -> Iterator[Message]:
    """A call's result as tools' messages. What is not as it should be is left out: servers send anything."""
    content = result.get("content")
    for one in content if isinstance(content, list) else ():
        if isinstance(one, Mapping):
            yield from _content(one)
    structured = result.get("structuredContent")
    if isinstance(structured, Mapping):
        for name, value in structured.items():
            yield variable_message(str(name), value)


def _content(one: Mapping[str, Any]) -> Iterator[Message]:
    match one.get("type"):
        case "text":
            yield from _text(str(one.get("text") or ""))
        case "image" | "audio" as kind:
            data = _bytes(one.get("data"))
            default = "image/png" if kind == "image" else "audio/wav"
            yield blob_message(data, str(one.get("mimeType") or default))
        case "resource":
            resource = one.get("resource")
            if isinstance(resource, Mapping):
                if "text" in resource:
                    yield text_message(str(resource["text"]))
                elif "blob" in resource:
                    kind = str(resource.get("mimeType") or "application/octet-stream")
                    yield blob_message(
                        _bytes(resource["blob"]), kind, str(resource.get("uri") or "").rpartition("/")[2]
                    )
        case "resource_link":
            yield text_message(f"{one.get('name') or 'resource'}: {one.get('uri')}\n")
        case _:
            pass


def _text(text: str) -> Iterator[Message]:
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            check_amount(stripped)
            value = json.loads(stripped)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            yield json_message(value)
            return
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            for one in value:
                yield json_message(one)
            return
    yield text_message(text)


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(str(value or ""))
    except (binascii.Error, ValueError):
        return b""


def content_of(gathered: Gathering) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """(content, structured content) of what a tool of ours said."""
    content: list[dict[str, Any]] = []
    text = "".join(gathered.texts)
    if text:
        content.append({"type": "text", "text": text})
    content += [{"type": "text", "text": json.dumps(one, ensure_ascii=False, default=str)} for one in gathered.values]
    for one in gathered.blobs:
        data = base64.b64encode(one.data).decode()
        family = one.mime_type.partition("/")[0]
        if family in ("image", "audio"):
            content.append({"type": family, "data": data, "mimeType": one.mime_type})
        else:
            uri = f"modelyard://files/{one.name or 'file'}"
            content.append({"type": "resource", "resource": {"uri": uri, "mimeType": one.mime_type, "blob": data}})
    content += [
        {"type": "resource_link", "uri": url, "name": url.rpartition("/")[2] or url} for url, _ in gathered.links
    ]
    structured = dict(gathered.variables) or None
    if structured is None and len(gathered.values) == 1 and isinstance(gathered.values[0], dict):
        structured = gathered.values[0]
    if not content:
        content.append({"type": "text", "text": gathered.text or "done"})
    return content, structured


def plain_schema(schema: Any) -> dict[str, Any]:
    """A tool's schema as models can be told of it: always an object's."""
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        return {"type": "object", "properties": {}}
    found = {str(name): value for name, value in schema.items() if name not in ("$schema", "$id")}
    if not isinstance(found.get("properties"), Mapping):
        found["properties"] = {}
    return {**found, "type": "object"}


def names_of(values: Sequence[Any]) -> list[str]:
    return [str(one) for one in values if isinstance(one, str)]
