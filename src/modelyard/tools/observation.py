"""A tool's messages as one observation: the text for the model, and beside it files, values and sources."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

MOST_TEXT = 1 << 22
"""Characters that are taken of one tool at all."""


@dataclass(slots=True)
class Blob:
    data: bytes
    mime_type: str
    name: str = ""


@dataclass(slots=True)
class Gathering:
    """What came so far. `take` may raise nothing: a tool may send anything."""

    texts: list[str] = field(default_factory=list[str])
    values: list[Any] = field(default_factory=list[Any])
    variables: dict[str, Any] = field(default_factory=dict[str, Any])
    blobs: list[Blob] = field(default_factory=list[Blob])
    files: list[Any] = field(default_factory=list[Any])
    """Files that lie somewhere already, as their maker describes them."""
    links: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(address, media type) of files that lie elsewhere."""
    sources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    logs: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    is_flooded: bool = False
    _size: int = 0
    _pieces: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])
    _told: list[str] = field(default_factory=list[str])

    def take(self, one: Mapping[str, Any]) -> None:  # noqa: C901  one case a kind
        message: Any = one.get("message") or {}
        meta: Mapping[str, Any] = one.get("meta") or {}
        match one.get("type"):
            case "text":
                self._say(str(message.get("text") or ""), is_text=True)
            case "link":
                self._say(f"result link: {message.get('text')}. please tell user to check it.")
            case "image_link" | "image" | "binary_link":
                self.links.append((str(message.get("text") or ""), str(meta.get("mime_type") or "")))
                self._image()
            case "blob":
                self._blob(_bytes(message.get("blob")), meta)
            case "blob_chunk":
                name = str(message.get("id") or "")
                self._pieces.setdefault(name, []).append(_bytes(message.get("blob")))
                if message.get("end"):
                    self._blob(b"".join(self._pieces.pop(name)), meta)
            case "json":
                value = message.get("json_object", message) if isinstance(message, Mapping) else message
                if not (isinstance(message, Mapping) and message.get("suppress_output")):
                    self.values.append(value)
            case "variable":
                name, value = str(message.get("variable_name")), message.get("variable_value")
                if message.get("stream"):
                    value = f"{self.variables.get(name, '')}{value}"
                self.variables[name] = value
            case "file":
                if (file := meta.get("file")) is not None:
                    self.files.append(file)
                    self._say("A file was created and sent to the user already.")
            case "retriever_resources":
                self.sources += list(message.get("retriever_resources") or ())
                if message.get("context"):
                    self._say(str(message["context"]))
            case "log":
                self.logs.append(message)
            case _:
                pass

    def _say(self, text: str, *, is_text: bool = False) -> None:
        room = MOST_TEXT - self._size
        if len(text) > room:
            text, self.is_flooded = text[: max(0, room)], True
        self._size += len(text)
        if is_text:
            self.texts.append(text)
        self._told.append(text)

    def _blob(self, data: bytes, meta: Mapping[str, Any]) -> None:
        kind = str(meta.get("mime_type") or "application/octet-stream")
        self.blobs.append(Blob(data, kind, str(meta.get("filename") or meta.get("file_name") or "")))
        if kind.startswith("image/"):
            self._image()
        else:
            self._say("A file was created and sent to the user already.")

    def _image(self) -> None:
        self._say(
            "image has been created and sent to user already, you do not need to create it, just tell the user to "
            "check it now."
        )

    @property
    def text(self) -> str:
        """What the model is told."""
        told = "".join(self._told)
        for value in [*self.values, *([self.variables] if self.variables else [])]:
            written = _json(value)
            if written not in told:
                told = f"{told}\n{written}" if told else written
        return told


def cut(text: str, most: int, *, kept_as: str = "") -> str:
    """The beginning and the end of what is too long for a prompt, with a word on what is missing."""
    if len(text) <= most:
        return text
    note = f"\n[… {len(text) - most:,} of {len(text):,} characters left out"
    note += f"; read_result with id {kept_as!r} gives them …]\n" if kept_as else " …]\n"
    head = max(0, most * 3 // 4)
    tail = most - head
    return text[:head] + note + (text[-tail:] if tail else "")


def _json(value: Any) -> str:
    try:
        return json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    import base64
    import binascii

    try:
        return base64.b64decode(str(value or ""))
    except (binascii.Error, ValueError):
        return b""
