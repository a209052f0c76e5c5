"""Collect a tool's output messages into one observation: text for the model, plus
files, values and sources."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.base.json_types import is_mapping

MAX_TEXT_CHARS = 1 << 22
"""Maximum number of characters of text accepted from one tool call; later text is
dropped."""


@dataclass(slots=True)
class Blob:
    """A file that a tool returned as bytes."""

    data: bytes
    mime_type: str
    name: str = ""


@dataclass(slots=True)
class ToolOutputCollector:
    """Accumulator for the messages of one tool call.

    `add` never raises on malformed messages, because tools may send arbitrary content.
    """

    texts: list[str] = field(default_factory=list[str])
    values: list[Any] = field(default_factory=list[Any])
    variables: dict[str, Any] = field(default_factory=dict[str, Any])
    blobs: list[Blob] = field(default_factory=list[Blob])
    files: list[Any] = field(default_factory=list[Any])
    """Files that are already stored; each is the description that the tool supplied."""
    links: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(URL, media type) of files that the tool returned by link."""
    sources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    logs: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    is_flooded: bool = False
    """Whether text was dropped because it exceeded MAX_TEXT_CHARS."""
    _size: int = 0
    _blob_chunks: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])
    _model_texts: list[str] = field(default_factory=list[str])

    def add(self, tool_message: Mapping[str, Any]) -> None:
        """Add one message of the tool, in the format of Dify's tool messages.

        It has `type`, `message` and possibly `meta`. Messages of an unknown type are
        ignored; texts beyond the size limit are cut off.
        """
        message: Any = tool_message.get("message") or {}
        meta: Mapping[str, Any] = tool_message.get("meta") or {}
        match tool_message.get("type"):
            case "text":
                self._append_text(str(message.get("text") or ""), is_text=True)
            case "link":
                self._append_text(
                    f"result link: {message.get('text')}. please tell user to check it."
                )
            case "image_link" | "image" | "binary_link":
                self.links.append(
                    (str(message.get("text") or ""), str(meta.get("mime_type") or ""))
                )
                self._note_image()
            case "blob":
                self._add_blob(_to_bytes(message.get("blob")), meta)
            case "blob_chunk":
                self._add_blob_chunk(message, meta)
            case "json":
                self._add_value(message)
            case "variable":
                self._set_variable(message)
            case "file":
                self._add_file(meta)
            case "retriever_resources":
                self._add_sources(message)
            case "log":
                self.logs.append(message)
            case _:
                pass

    def _add_blob_chunk(self, message: Any, meta: Mapping[str, Any]) -> None:
        """Add a part of a file. All parts have the same id; `end` marks the last one."""
        name = str(message.get("id") or "")
        self._blob_chunks.setdefault(name, []).append(_to_bytes(message.get("blob")))
        if message.get("end"):
            self._add_blob(b"".join(self._blob_chunks.pop(name)), meta)

    def _add_value(self, message: Any) -> None:
        """Add the value of a `json` message, unless it is marked `suppress_output`.

        A message that is not an object is a value itself.
        """
        if not is_mapping(message):
            self.values.append(message)
        # `suppress_output` marks a value that the model must not see.
        elif not message.get("suppress_output"):
            self.values.append(message.get("json_object", message))

    def _set_variable(self, message: Any) -> None:
        """Set a variable from a `variable` message; a streamed one is appended to."""
        name = str(message.get("variable_name"))
        value = message.get("variable_value")
        # Streamed variables arrive in parts, which are concatenated.
        if message.get("stream"):
            value = f"{self.variables.get(name, '')}{value}"
        self.variables[name] = value

    def _add_file(self, meta: Mapping[str, Any]) -> None:
        """Add a created file; the model is told of it, but does not see it."""
        if (file := meta.get("file")) is not None:
            self.files.append(file)
            self._append_text("A file was created and sent to the user already.")

    def _add_sources(self, message: Any) -> None:
        """Add retrieved segments, and their text for the model."""
        self.sources += list(message.get("retriever_resources") or ())
        if message.get("context"):
            self._append_text(str(message["context"]))

    def _append_text(self, text: str, *, is_text: bool = False) -> None:
        """Append text for the model, cut off at the limit for all texts of the call.

        `is_text` marks text that the tool itself sent as such, in contrast to a note.
        """
        room = MAX_TEXT_CHARS - self._size
        # One size budget covers all texts, so that a tool cannot exhaust memory with
        # many small messages.
        if len(text) > room:
            text, self.is_flooded = text[: max(0, room)], True
        self._size += len(text)
        if is_text:
            self.texts.append(text)
        self._model_texts.append(text)

    def _add_blob(self, data: bytes, meta: Mapping[str, Any]) -> None:
        """Add a file, and a note for the model that the user has received it.

        Type and name come from the message's `meta`.
        """
        mime_type = str(meta.get("mime_type") or "application/octet-stream")
        self.blobs.append(
            Blob(
                data,
                mime_type,
                str(meta.get("filename") or meta.get("file_name") or ""),
            )
        )
        if mime_type.startswith("image/"):
            self._note_image()
        else:
            self._append_text("A file was created and sent to the user already.")

    def _note_image(self) -> None:
        """Append the note that tells the model that the user has received an image."""
        self._append_text(
            "image has been created and sent to user already, you do not need to create"
            " it, just tell the user to check it now."
        )

    @property
    def text(self) -> str:
        """Return the observation text for the model.

        It contains the text messages, then each JSON value and the variables, unless
        that JSON already appears in the text.
        """
        observation = "".join(self._model_texts)
        variables = [self.variables] if self.variables else []
        for rendered in map(_to_json, [*self.values, *variables]):
            # Many tools send the same JSON as text too; showing it twice would waste
            # tokens.
            if rendered not in observation:
                observation = f"{observation}\n{rendered}" if observation else rendered
        return observation


def truncate_middle(text: str, max_length: int, *, result_id: str = "") -> str:
    """Shorten a text to `max_length` characters by removing its middle.

    A note in place of the middle says how much is missing. With `result_id` it also
    tells the model how to read that part with the tool `read_result`. The note comes on
    top of `max_length`. A text within the limit is returned unchanged.
    """
    if len(text) <= max_length:
        return text
    note = f"\n[… {len(text) - max_length:,} of {len(text):,} characters left out"
    note += (
        f"; read_result with id {result_id!r} gives them …]\n" if result_id else " …]\n"
    )
    # Keep three quarters from the start and one quarter from the end: the end often
    # holds the outcome.
    head = max(0, max_length * 3 // 4)
    tail = max_length - head
    return text[:head] + note + (text[-tail:] if tail else "")


def _to_json(value: Any) -> str:
    """Return a value as JSON text, or as Python's text if it has no JSON form."""
    try:
        return json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def _to_bytes(value: Any) -> bytes:
    """Return bytes, decoding a text as base64; empty if it is not valid."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    # Imported here because few tools send base64.
    import base64
    import binascii

    try:
        return base64.b64decode(str(value or ""))
    except (binascii.Error, ValueError):
        return b""
