"""Files in the messages of tools, as a plugin that calls another's tool gets them: stored,
and named by a link that the plugin can fetch."""

import base64
import binascii
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from modelyard.base.errors import PluginError
from modelyard.models.types import JSON
from modelyard.storage.files import FileStore

_MAX_FILE_BYTES = 100 << 20
"""Largest file that is put together; tools send it in pieces of some kilobytes."""
# Answers link to files, and are still read the day after.
_LINK_SECONDS = 86_400.0


class ToolFiles:
    """Stores the files in a tool's messages for one tenant.

    One object serves one call: the ids of files are unique within it only.
    """

    def __init__(
        self, store: FileStore, address: Callable[[], str], tenant: str
    ) -> None:
        self._store = store
        self._address = address
        self._tenant = tenant
        self._pieces: dict[str, list[bytes]] = {}
        self._sizes: dict[str, int] = {}

    async def link(
        self, messages: AsyncGenerator[JSON, None]
    ) -> AsyncGenerator[JSON, None]:
        """Yield the messages with each file as a link, once it is complete. Raises
        PluginError for a file that is too large or not base64."""
        async with aclosing(messages):
            async for message in messages:
                body: Any = message.get("message") or {}
                match message.get("type"):
                    case "blob_chunk":
                        data = self._collect(body)
                    case "blob":
                        data = _decoded(body.get("blob"))
                    case _:
                        yield message
                        continue
                if data is not None:
                    yield await self._stored(data, message.get("meta") or {})

    def _collect(self, piece: JSON) -> bytes | None:
        """Add a piece of a file; return the file if it is complete."""
        name = str(piece.get("id") or "")
        data = _decoded(piece.get("blob"))
        size = self._sizes[name] = self._sizes.get(name, 0) + len(data)
        if size > _MAX_FILE_BYTES:
            raise PluginError(
                f"A tool sent a file of more than {_MAX_FILE_BYTES >> 20} MiB"
            )
        pieces = self._pieces.setdefault(name, [])
        pieces.append(data)
        if not piece.get("end"):
            return None
        del self._sizes[name]
        return b"".join(self._pieces.pop(name))

    async def _stored(self, data: bytes, meta: JSON) -> JSON:
        """Store a file and return the message with its link.

        The message keeps its other details. The link is signed, since plugins send no
        key of the tenant.
        """
        mime_type = str(meta.get("mime_type") or "application/octet-stream")
        stated_name = meta.get("filename") or meta.get("file_name")
        name = str(stated_name or f"file.{mime_type.partition('/')[2]}")
        stored = await self._store.add(self._tenant, name, data, mime_type)
        query = self._store.sign("read", self._tenant, stored.id, seconds=_LINK_SECONDS)
        is_image = mime_type.startswith("image/")
        return {
            "type": "image_link" if is_image else "binary_link",
            "message": {"text": f"{self._address()}/files/{stored.id}?{query}"},
            "meta": {
                **meta,
                "mime_type": mime_type,
                "filename": stored.name,
                "size": stored.size,
                "tool_file_id": stored.id,
            },
        }


def _decoded(value: Any) -> bytes:
    """Return the bytes of a message, which are base64 if they are text. Raises
    PluginError."""
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(str(value or ""))
    except (binascii.Error, ValueError) as error:
        raise PluginError(f"A tool sent a file that is not base64: {error}") from error
