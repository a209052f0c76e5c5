"""What the MCP client and server share: revisions, messages, headers, and the
conversion of content to tool messages. Pure."""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from modelyard.base.bounded_json import check_value_count
from modelyard.base.json_types import JsonValue, is_array, is_mapping, is_object
from modelyard.base.version import __version__
from modelyard.tools.entities import (
    Message,
    ToolError,
    blob_message,
    json_message,
    text_message,
    variable_message,
)
from modelyard.tools.observation import Blob, ToolOutputCollector

MODERN = "2026-07-28"
HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
VERSION_META = "io.modelcontextprotocol/protocolVersion"
CLIENT_META = "io.modelcontextprotocol/clientInfo"
CAPABILITIES_META = "io.modelcontextprotocol/clientCapabilities"
SERVER_META = "io.modelcontextprotocol/serverInfo"
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Methods whose subject is repeated in a header, with the parameter that contains it.
"""

# Codes of JSON-RPC 2.0.
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = (
    -32700,
    -32600,
    -32601,
    -32602,
    -32603,
)
# MCP's own codes, in the range that JSON-RPC leaves to servers.
HEADER_MISMATCH, UNSUPPORTED_VERSION = -32020, -32022
RESOURCE_NOT_FOUND = -32002
STATUS = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    METHOD_NOT_FOUND: 404,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    UNSUPPORTED_VERSION: 400,
    RESOURCE_NOT_FOUND: 200,
    INTERNAL_ERROR: 500,
}
"""The HTTP status of each error code, in the revision that defines it."""
_ALWAYS_STATUS = frozenset({HEADER_MISMATCH, UNSUPPORTED_VERSION})


def status_of(answer: Mapping[str, Any], version: str | None) -> int:
    """Return the HTTP status of a JSON-RPC response.

    `version` is the revision in the request's header. Clients of the revisions with a
    handshake expect 200 for errors of their messages, but not for an unknown revision.
    """
    error = answer.get("error")
    if not is_mapping(error):
        return 200
    is_older = version is None or version in HANDSHAKE
    code = error["code"]
    if is_older and answer.get("id") is not None and code not in _ALWAYS_STATUS:
        return 200
    return STATUS.get(code, 200)


# Headers are ASCII, so that other values are wrapped in base64.
_SAFE = re.compile(r"^[\x20-\x7E]*$")
_WRAPPED = re.compile(r"^=\?base64\?(.*)\?=$")


class McpError(ToolError):
    """A server refused a request, violated the protocol, or could not be reached."""

    code = "mcp_error"

    def __init__(self, message: str, *, number: int = 0, data: Any = None) -> None:
        super().__init__(message)
        self.number = number
        self.data = data


def info() -> dict[str, Any]:
    """Return this product's name and version, as client or as server."""
    return {"name": "modelyard", "title": "Modelyard", "version": __version__}


def request(
    number: int | str, method: str, params: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a JSON-RPC request."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": number, "method": method}
    return {**message, "params": dict(params)} if params is not None else message


def result_of(number: Any, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON-RPC response with a result."""
    return {"jsonrpc": "2.0", "id": number, "result": dict(result)}


def error_of(number: Any, code: int, message: str, data: Any = None) -> dict[str, Any]:
    """Return a JSON-RPC response with an error."""
    error: dict[str, Any] = {"code": code, "message": message}
    return {
        "jsonrpc": "2.0",
        "id": number,
        "error": {**error, "data": data} if data is not None else error,
    }


def header_value(text: str) -> str:
    """Return a name in a form that an HTTP header can carry: as it is, or wrapped in
    Base64."""
    # Plain text that looks wrapped has to be wrapped as well, or it would be decoded.
    if _SAFE.match(text) and text == text.strip() and not _WRAPPED.match(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def read_header(text: str | None) -> str | None:
    """Return the name in a header; None if it is missing or damaged."""
    if text is None or (match := _WRAPPED.match(text)) is None:
        return text
    try:
        return base64.b64decode(match[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


# ------------------------------------------------------------------------------ content


def messages_of(result: Mapping[str, Any]) -> Iterator[Message]:
    """Yield a call's result as tool messages. Invalid parts are left out, because
    servers send anything."""
    content = result.get("content")
    for block in content if is_array(content) else ():
        if is_mapping(block):
            yield from _content(block)
    structured = result.get("structuredContent")
    if is_mapping(structured):
        for name, value in structured.items():
            yield variable_message(str(name), value)


def _content(block: Mapping[str, Any]) -> Iterator[Message]:
    """Yield the messages of one content block."""
    match block.get("type"):
        case "text":
            yield from _text(str(block.get("text") or ""))
        case "image" | "audio" as kind:
            data = _bytes(block.get("data"))
            default = "image/png" if kind == "image" else "audio/wav"
            yield blob_message(data, str(block.get("mimeType") or default))
        case "resource":
            resource = block.get("resource")
            if is_mapping(resource):
                if "text" in resource:
                    yield text_message(str(resource["text"]))
                elif "blob" in resource:
                    kind = str(resource.get("mimeType") or "application/octet-stream")
                    yield blob_message(
                        _bytes(resource["blob"]),
                        kind,
                        str(resource.get("uri") or "").rpartition("/")[2],
                    )
        # The link is not followed: fetching it is up to the model.
        case "resource_link":
            yield text_message(
                f"{block.get('name') or 'resource'}: {block.get('uri')}\n"
            )
        case _:
            pass


def _text(text: str) -> Iterator[Message]:
    """Yield a text as JSON messages if it is JSON, else as text."""
    stripped = text.strip()
    # Servers often send JSON as text; it is more useful as a value.
    if stripped[:1] in ("{", "["):
        try:
            check_value_count(stripped)
            value = json.loads(stripped)
        except (ValueError, RecursionError):
            value = None
        if is_object(value):
            yield json_message(value)
            return
        if is_array(value) and value and all(is_object(element) for element in value):
            for element in value:
                yield json_message(element)
            return
    yield text_message(text)


def _bytes(value: Any) -> bytes:
    """Decode Base64; empty if it is invalid."""
    try:
        return base64.b64decode(str(value or ""))
    except (binascii.Error, ValueError):
        return b""


def mcp_content(
    gathered: ToolOutputCollector,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Return (content, structured content) of the output of one of our tools."""
    content: list[dict[str, Any]] = []
    text = "".join(gathered.texts)
    if text:
        content.append({"type": "text", "text": text})
    content += [
        {"type": "text", "text": json.dumps(value, ensure_ascii=False, default=str)}
        for value in gathered.values
    ]
    content += [_blob_content(blob) for blob in gathered.blobs]
    content += [
        {
            "type": "resource_link",
            "uri": url,
            "name": url.rpartition("/")[2] or url,
        }
        for url, _ in gathered.links
    ]
    # Clients expect at least one content block.
    if not content:
        content.append({"type": "text", "text": gathered.text or "done"})
    return content, _structured_content(gathered)


def _blob_content(blob: Blob) -> dict[str, Any]:
    """Return the content block of a file."""
    data = base64.b64encode(blob.data).decode()
    family = blob.mime_type.partition("/")[0]
    if family in ("image", "audio"):
        return {"type": family, "data": data, "mimeType": blob.mime_type}
    # The protocol requires an address, although the content is in the block.
    uri = f"modelyard://files/{blob.name or 'file'}"
    resource = {"uri": uri, "mimeType": blob.mime_type, "blob": data}
    return {"type": "resource", "resource": resource}


def _structured_content(gathered: ToolOutputCollector) -> dict[str, Any] | None:
    """Return the output variables; without any, a single JSON object serves as the
    structured content."""
    if gathered.variables:
        return dict(gathered.variables)
    if len(gathered.values) == 1 and is_object(gathered.values[0]):
        return gathered.values[0]
    return None


def object_schema(schema: Any) -> dict[str, Any]:
    """Return a tool's schema in a form that every model accepts: always an object's."""
    if not is_mapping(schema) or schema.get("type", "object") != "object":
        return {"type": "object", "properties": {}}
    cleaned_schema = {str(name): value for name, value in schema.items()}
    # Some models' APIs refuse these two.
    for name in ("$schema", "$id"):
        cleaned_schema.pop(name, None)
    if not is_mapping(cleaned_schema.get("properties")):
        cleaned_schema["properties"] = {}
    return {**cleaned_schema, "type": "object"}


def names_of(values: JsonValue | tuple[Any, ...]) -> list[str]:
    """Return the strings in a list, without anything else a server may have sent; empty
    for a value that is not a list."""
    if not isinstance(values, list | tuple):
        return []
    return [str(name) for name in values if isinstance(name, str)]
