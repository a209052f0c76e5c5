"""Where the bytes of files lie: the interface that a local folder, the database and an
S3 bucket implement, and the rules of its names."""

import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Protocol

import msgspec

from modelyard.base.errors import ModelyardError, NotFoundError

SERVER_SCOPE = "_server"
"""The scope of what belongs to no tenant, such as plugin packages. No tenant has such a
name."""
CHUNK_BYTES = 1 << 20
"""How much of a file is held in memory at a time, in bytes."""
MAX_NAME_LENGTH = 400
# Names become paths and keys, so neither `..` nor empty components are possible.
_SCOPE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}|_server")
_NAME = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9_@.-]*(/[A-Za-z0-9_@-][A-Za-z0-9_@.-]*)*")


class FileExistsInStorageError(ModelyardError):
    """A file that must not be replaced exists already."""

    status = 409
    code = "file_exists"


class FileInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a storage knows of a file."""

    name: str
    size: int
    """In bytes."""
    sha256: str = ""
    """Hexadecimal; empty if the storage would have to read the file to know it."""


class FileStorage(Protocol):
    """Files by scope and name. A scope is a tenant's name or `SERVER_SCOPE`.

    Writes are atomic: until one has finished, readers get what was there before, and a
    write that is interrupted leaves nothing. Of several writes of one name at once the
    last to finish wins, as a whole.

    Every method raises NotFoundError for a malformed scope or name, and
    StorageUnavailableError if the storage cannot be reached or refuses access.
    """

    is_shared: bool
    """Whether all servers of an installation see the same files."""

    @property
    def where(self) -> str:
        """Return the location for messages, without secrets."""
        ...

    async def check(self) -> None:
        """Check at the start that the storage can be used.

        Raises ConfigError if it never can be, as without a bucket or with a wrong key,
        and StorageUnavailableError if it only does not answer now.
        """
        ...

    async def write(
        self,
        scope: str,
        name: str,
        chunks: AsyncIterable[bytes],
        *,
        is_new: bool = False,
    ) -> FileInfo:
        """Store a file from a stream of bytes, replacing one of the same name.

        With `is_new` an existing file is kept, and FileExistsInStorageError raised.
        Whatever the stream raises is passed on.
        """
        ...

    async def info(self, scope: str, name: str) -> FileInfo:
        """Return what is known of a file. Raises NotFoundError."""
        ...

    def read(
        self, scope: str, name: str, *, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from offset `start`, at most `length` of them; none if the
        file ends before. Raises NotFoundError."""
        ...

    async def delete(self, scope: str, name: str) -> None:
        """Delete a file. A missing one is ignored."""
        ...

    async def clean(self, before: float) -> int:
        """Delete what writes that were killed before a moment, in seconds since 1970,
        have left. Returns how many there were."""
        ...

    async def aclose(self) -> None:
        """Close connections of its own. They are opened again if needed."""
        ...


def check_name(scope: str, name: str) -> None:
    """Raise NotFoundError for a scope or a name that no file can have."""
    if (
        not _SCOPE.fullmatch(scope)
        or len(name) > MAX_NAME_LENGTH
        or not _NAME.fullmatch(name)
    ):
        raise missing_file(name)


def missing_file(name: str) -> NotFoundError:
    """Return the error for a file that does not exist. It shows the last component of
    the name, which is what callers know."""
    shown = name.rpartition("/")[2][:80]
    return NotFoundError(f"File {shown!r} does not exist", code="file_not_found")


async def one_chunk(data: bytes) -> AsyncIterator[bytes]:
    """Yield bytes that are in memory already as a stream."""
    yield data


async def regrouped(
    chunks: AsyncIterable[bytes], size: int
) -> AsyncGenerator[bytes, None]:
    """Yield the same bytes in chunks of `size`; the last one may be shorter."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        # A single chunk may hold several of the new size.
        while len(buffer) >= size:
            yield bytes(buffer[:size])
            del buffer[:size]
    if buffer:
        yield bytes(buffer)


async def read_all(
    storage: FileStorage,
    scope: str,
    name: str,
    *,
    start: int = 0,
    length: int | None = None,
) -> bytes:
    """Return the bytes of a file, or a part of them. Raises what `read` raises."""
    chunks = storage.read(scope, name, start=start, length=length)
    return b"".join([chunk async for chunk in chunks])
