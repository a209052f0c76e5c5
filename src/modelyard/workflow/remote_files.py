"""What a server says about a file: its name, type and size, before it is read."""

from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import msgspec

from modelyard.base.content_disposition import file_name_of, safe_name
from modelyard.base.errors import ModelyardError
from modelyard.base.fields import whole_number
from modelyard.transport.egress import EgressClient
from modelyard.workflow.file_types import (
    HEAD_BYTES,
    content_type_of,
    says_type,
)

_TIMEOUT_SECONDS = 5.0


class RemoteFileHead(msgspec.Struct, frozen=True, kw_only=True):
    """The name, type and size of a remote file, as far as they are known."""

    name: str = ""
    mime_type: str = ""
    size: int = -1
    """In bytes; -1 if unknown."""

    @property
    def is_typed(self) -> bool:
        """Whether the file's type is known."""
        return bool(self.mime_type or "." in self.name)


async def remote_file_head(egress: EgressClient, url: str) -> RemoteFileHead:
    """Ask a server about a file.

    A server that refuses HEAD, or says nothing by it, is asked for the file itself, of
    which only the start is read. Never raises: what cannot be found out is empty.
    """
    head = await _by_head(egress, url)
    return head if head.is_typed else await _by_start(egress, url)


def head_of(url: str, headers: Mapping[str, str], content: bytes) -> RemoteFileHead:
    """Return what a response's headers and first bytes say.

    The name is that of `Content-Disposition`, or else the URL's if it has an extension.
    The type is that of `Content-Type`, or else that of the content.
    """
    mime_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not says_type(mime_type):
        mime_type = content_type_of(content)
    name = file_name_of(headers.get("content-disposition", ""))
    if not name:
        last = safe_name(unquote(urlsplit(url).path))
        # The end of an address is often only an id; with an extension it is a name.
        name = last if "." in last else ""
    size = whole_number(headers.get("content-length", ""))
    return RemoteFileHead(
        name=name, mime_type=mime_type, size=-1 if size is None else size
    )


async def _by_head(egress: EgressClient, url: str) -> RemoteFileHead:
    """Return what the server answers to HEAD; nothing if it refuses."""
    try:
        response = await egress.fetch("HEAD", url, read=_TIMEOUT_SECONDS)
    except ModelyardError:
        return RemoteFileHead()
    if not 200 <= response.status < 300:
        return RemoteFileHead()
    return head_of(response.url, response.headers, b"")


async def _by_start(egress: EgressClient, url: str) -> RemoteFileHead:
    """Return what the server answers to GET; the body is read only at its start."""
    try:
        async with egress.stream("GET", url, read=_TIMEOUT_SECONDS) as response:
            if not 200 <= response.status < 300:
                return RemoteFileHead()
            start = b""
            async for chunk in response.chunks():
                start += chunk
                if len(start) >= HEAD_BYTES:
                    break
            return head_of(response.url, response.headers, start)
    except ModelyardError:
        return RemoteFileHead()
