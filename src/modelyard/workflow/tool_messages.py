"""Shared by nodes that call tools: parameter values, and the conversion of tool
messages into outputs."""

import base64
from collections.abc import Mapping
from typing import Any

from modelyard.base.json_types import is_mapping
from modelyard.workflow.node import NodeContext
from modelyard.workflow.template import render
from modelyard.workflow.variables import File, from_object, to_object

_INPUT_TYPES = ("mixed", "variable", "constant")


def tool_input(parameter: Any, context: NodeContext) -> Any:
    """Return the value of a parameter: a constant, a variable or a template; None if it
    has not been filled in."""
    # A parameter that was left empty is exported with its type and `value: null`.
    if is_mapping(parameter) and list(parameter) == ["type"]:
        return None if parameter["type"] in _INPUT_TYPES else parameter
    # Old exports store the plain value.
    if not is_mapping(parameter) or "type" not in parameter or "value" not in parameter:
        return parameter
    value = parameter["value"]
    match parameter["type"]:
        case "variable":
            return to_object(context.value([str(part) for part in value or ()]))
        case "mixed":
            return render(value, context.pool) if isinstance(value, str) else value
        case _:
            return value


class ToolMessageCollector:
    """Collects the messages of a tool or a strategy as outputs of a node."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._text: list[str] = []
        self._lines: list[str] = []
        self._files: list[File] = []
        self._json: list[Any] = []
        self._variables: dict[str, Any] = {}
        self._blobs: dict[str, list[bytes]] = {}

    async def add(self, tool_message: Mapping[str, Any]) -> None:
        """Add one message; texts are streamed at once."""
        message: Any = tool_message.get("message") or {}
        meta: Mapping[str, Any] = tool_message.get("meta") or {}
        # Message types of the plugin protocol.
        match tool_message.get("type"):
            case "text":
                self._text.append(str(message.get("text") or ""))
                self._context.stream(
                    "text",
                    self._text[-1],
                    False,
                )
            case "link":
                self._lines.append(f"Link: {message.get('text')}")
            case "image_link" | "image" | "binary_link":
                self._add_link(str(message.get("text") or ""), meta)
            case "blob":
                await self._save_blob(_bytes(message.get("blob")), meta)
            case "blob_chunk":
                await self._add_chunk(message, meta)
            case "json":
                self._json.append(message.get("json_object", message))
            case "variable":
                self._variable(message)
            case "file":
                if (file := meta.get("file")) is not None:
                    self._files.append(from_object(file) if is_mapping(file) else file)
            # A type of a newer protocol must not fail the node; the other messages
            # still count.
            case _:
                pass

    def _add_link(self, url: str, meta: Mapping[str, Any]) -> None:
        """Add a remote file by its URL; without a MIME type it is an image."""
        mime_type = str(meta.get("mime_type") or "")
        is_image = mime_type.startswith("image/") or not mime_type
        self._files.append(
            File(
                type="image" if is_image else "document",
                transfer_method="remote_url",
                remote_url=url,
                mime_type=mime_type,
                # Without the query, which often holds a signature and is no name.
                filename=url.partition("?")[0].rpartition("/")[2],
            )
        )

    async def _save_blob(self, data: bytes, meta: Mapping[str, Any]) -> None:
        """Store a file that came as bytes."""
        # Without a file store the bytes cannot be stored.
        if self._context.services.files is not None:
            mime_type = str(meta.get("mime_type") or "application/octet-stream")
            name = str(
                meta.get("filename")
                or meta.get("file_name")
                or f"file.{mime_type.partition('/')[2]}"
            )
            self._files.append(
                await self._context.services.files.save(
                    name,
                    data,
                    mime_type,
                )
            )

    async def _add_chunk(
        self, message: Mapping[str, Any], meta: Mapping[str, Any]
    ) -> None:
        """Add a chunk of a file; the last one stores it."""
        name = str(message.get("id") or "")
        self._blobs.setdefault(name, []).append(_bytes(message.get("blob")))
        # Chunks of one file share an id; the last one is marked.
        if message.get("end"):
            await self._save_blob(b"".join(self._blobs.pop(name)), meta)

    def _variable(self, message: Mapping[str, Any]) -> None:
        """Set an output variable, or append to one that is streamed."""
        name, value = str(message.get("variable_name")), message.get("variable_value")
        if message.get("stream"):
            # A stream is text: other values are appended as their text.
            self._variables[name] = str(self._variables.get(name, "")) + str(value)
            self._context.stream(name, str(value), False)
        else:
            self._variables[name] = value

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    def outputs(self) -> dict[str, Any]:
        """End the text stream and return the outputs."""
        # Ends the stream, even if no text was sent.
        self._context.stream("text", "", True)
        text = "\n".join(
            segment for segment in ("".join(self._text), *self._lines) if segment
        )
        # Dify outputs one empty object if a tool returns nothing at all.
        json_values = self._json or (
            [] if text or self._files or self._variables else [{"data": []}]
        )
        return {
            "text": text,
            "files": self._files,
            "json": json_values,
            **self._variables,
        }


def _bytes(value: Any) -> bytes:
    """Return bytes, decoded from base64 if they are text; empty if that is invalid."""
    if isinstance(value, bytes):
        return value
    try:
        # Plugins send bytes in base64.
        return base64.b64decode(str(value or ""))
    except ValueError:
        # One damaged file must not lose the other outputs of the tool.
        return b""
