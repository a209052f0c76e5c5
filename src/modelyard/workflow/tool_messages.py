"""What nodes that call tools share: a parameter's value, and a tool's messages as a node's outputs."""

import base64
from collections.abc import Mapping
from typing import Any

from modelyard.workflow.node import NodeContext
from modelyard.workflow.template import render
from modelyard.workflow.variables import File, from_object, to_object


def tool_input(given: Any, context: NodeContext) -> Any:
    """A parameter's value, of the three kinds that there are."""
    if not isinstance(given, Mapping) or "type" not in given or "value" not in given:
        return given
    value = given["value"]
    match given["type"]:
        case "variable":
            return to_object(context.value([str(part) for part in value or ()]))
        case "mixed":
            return render(value, context.pool) if isinstance(value, str) else value
        case _:
            return value


class Gathered:
    """A tool's or a strategy's messages, as they become a node's outputs."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._text: list[str] = []
        self._lines: list[str] = []
        self._files: list[File] = []
        self._json: list[Any] = []
        self._variables: dict[str, Any] = {}
        self._blobs: dict[str, list[bytes]] = {}

    async def take(self, one: Mapping[str, Any]) -> None:
        message: Any = one.get("message") or {}
        meta: Mapping[str, Any] = one.get("meta") or {}
        match one.get("type"):
            case "text":
                self._text.append(str(message.get("text") or ""))
                self._context.stream("text", self._text[-1], False)
            case "link":
                self._lines.append(f"Link: {message.get('text')}")
            case "image_link" | "image" | "binary_link":
                self._linked(str(message.get("text") or ""), meta)
            case "blob":
                await self._blob(_bytes(message.get("blob")), meta)
            case "blob_chunk":
                await self._piece(message, meta)
            case "json":
                self._json.append(message.get("json_object", message))
            case "variable":
                self._variable(message)
            case "file":
                if (file := meta.get("file")) is not None:
                    self._files.append(from_object(file) if isinstance(file, Mapping) else file)
            case _:
                pass

    def _linked(self, url: str, meta: Mapping[str, Any]) -> None:
        kind = str(meta.get("mime_type") or "")
        is_image = kind.startswith("image/") or not kind
        self._files.append(File(
            type="image" if is_image else "document", transfer_method="remote_url", remote_url=url, mime_type=kind,
            filename=url.partition("?")[0].rpartition("/")[2],
        ))  # fmt: skip

    async def _blob(self, data: bytes, meta: Mapping[str, Any]) -> None:
        if self._context.services.files is not None:
            kind = str(meta.get("mime_type") or "application/octet-stream")
            name = str(meta.get("filename") or meta.get("file_name") or f"file.{kind.partition('/')[2]}")
            self._files.append(await self._context.services.files.save(name, data, kind))

    async def _piece(self, message: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        name = str(message.get("id") or "")
        self._blobs.setdefault(name, []).append(_bytes(message.get("blob")))
        if message.get("end"):
            await self._blob(b"".join(self._blobs.pop(name)), meta)

    def _variable(self, message: Mapping[str, Any]) -> None:
        name, value = str(message.get("variable_name")), message.get("variable_value")
        if message.get("stream"):
            self._variables[name] = str(self._variables.get(name, "")) + str(value)
            self._context.stream(name, str(value), False)
        else:
            self._variables[name] = value

    @property
    def text(self) -> str:
        return "".join(self._text)

    def outputs(self) -> dict[str, Any]:
        self._context.stream("text", "", True)
        text = "\n".join(one for one in ("".join(self._text), *self._lines) if one)
        found = self._json or ([] if text or self._files or self._variables else [{"data": []}])
        return {"text": text, "files": self._files, "json": found, **self._variables}


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(str(value or ""))
    except ValueError:
        return b""
