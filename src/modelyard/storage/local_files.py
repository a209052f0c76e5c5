"""Files in a folder of this machine, or in one that all servers mount."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from modelyard.base.errors import ConfigError
from modelyard.base.private_files import private_folder
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.file_storage import (
    CHUNK_BYTES,
    FileExistsInStorageError,
    FileInfo,
    check_name,
    missing_file,
)

_PARTIAL = ".partial"
"""Ending of files that are being written. Names that callers give never start with a
dot, as these do."""


T = TypeVar("T")


class LocalFileStorage:
    """A folder with a folder for each scope. Paths are the names."""

    def __init__(self, folder: Path, *, is_shared: bool = False) -> None:
        self._folder = folder
        self.is_shared = is_shared

    @property
    def where(self) -> str:
        """Return the folder."""
        return str(self._folder)

    async def check(self) -> None:
        """Raise ConfigError if the folder cannot be created or written to."""
        try:
            await asyncio.to_thread(private_folder, self._folder)
        except OSError as error:
            raise ConfigError(
                f"File folder {self.where!r} cannot be used: {error.strerror}"
            ) from error
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise ConfigError(f"File folder {self.where!r} is not writable")

    async def write(
        self,
        scope: str,
        name: str,
        chunks: AsyncIterable[bytes],
        *,
        is_new: bool = False,
    ) -> FileInfo:
        """Store a file; see FileStorage."""
        path = self._path(scope, name)
        # The same folder as the target: a rename is atomic within a file system only.
        partial = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}{_PARTIAL}")
        try:
            size, digest = await self._write_partial(partial, chunks)
            await self._disk(lambda: _publish(partial, path, is_new=is_new))
        except FileExistsError:
            raise FileExistsInStorageError(f"File {name!r} exists already") from None
        finally:
            # Also if the caller was cancelled; after the rename there is none.
            partial.unlink(missing_ok=True)
        return FileInfo(name=name, size=size, sha256=digest)

    async def _write_partial(
        self, partial: Path, chunks: AsyncIterable[bytes]
    ) -> tuple[int, str]:
        """Write a stream to a new file. Returns its size and SHA-256."""
        size, digest = 0, hashlib.sha256()
        with await self._disk(lambda: _create(partial)) as file:
            async for chunk in chunks:

                def append(chunk: bytes = chunk) -> None:
                    """Write and hash in the thread: both take milliseconds per MB."""
                    file.write(chunk)
                    digest.update(chunk)

                await self._disk(append)
                size += len(chunk)
            await self._disk(lambda: _flush(file))
        return size, digest.hexdigest()

    async def _disk(self, work: Callable[[], T]) -> T:
        """Run work that waits for the disk in a thread. Raises StorageUnavailableError,
        and FileExistsError.

        Errors of the stream that is written may be OSErrors too, and are not the
        disk's.
        """
        try:
            return await asyncio.to_thread(work)
        except FileExistsError:
            raise
        except OSError as error:
            raise self._unavailable(error) from error

    async def info(self, scope: str, name: str) -> FileInfo:
        """Return the size of a file; see FileStorage."""
        path = self._path(scope, name)
        try:
            size = (await asyncio.to_thread(path.stat)).st_size
        except (FileNotFoundError, NotADirectoryError):
            raise missing_file(name) from None
        except OSError as error:
            raise self._unavailable(error) from error
        return FileInfo(name=name, size=size)

    async def read(
        self, scope: str, name: str, *, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield bytes of a file; see FileStorage."""
        path = self._path(scope, name)
        try:
            file = await asyncio.to_thread(path.open, "rb")
            with file:
                await asyncio.to_thread(file.seek, start)
                remaining = length
                while chunk := await asyncio.to_thread(file.read, _take(remaining)):
                    if remaining is not None:
                        remaining -= len(chunk)
                    yield chunk
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise missing_file(name) from None
        except OSError as error:
            raise self._unavailable(error) from error

    async def delete(self, scope: str, name: str) -> None:
        """Delete a file; see FileStorage."""
        path = self._path(scope, name)
        try:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise self._unavailable(error) from error

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""

    async def clean(self, before: float) -> int:
        """Delete old partial files; see FileStorage."""
        return await asyncio.to_thread(_clean, self._folder, before)

    def _path(self, scope: str, name: str) -> Path:
        check_name(scope, name)
        return self._folder / scope / name

    def _unavailable(self, error: OSError) -> StorageUnavailableError:
        return StorageUnavailableError(
            f"File folder {self.where!r} cannot be used: {error.strerror or error}"
        )


def _take(remaining: int | None) -> int:
    """Return how many bytes to read next; 0 ends the reading."""
    return CHUNK_BYTES if remaining is None else min(CHUNK_BYTES, remaining)


def _create(path: Path) -> BinaryIO:
    """Create a file that only its owner can read."""
    private_folder(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "wb")


def _flush(file: BinaryIO) -> None:
    """Bring a file to the disk, so that a crash of the machine after the rename cannot
    leave an empty one."""
    file.flush()
    os.fsync(file.fileno())


def _publish(partial: Path, path: Path, *, is_new: bool) -> None:
    """Give a complete file its name. Raises FileExistsError if it must be new."""
    if is_new:
        # Unlike a rename, a link fails if the name is taken.
        os.link(partial, path)
        return
    partial.replace(path)


def _clean(folder: Path, before: float) -> int:
    """Delete partial files that were last written before a moment."""
    count = 0
    for path in folder.glob(f"**/.*{_PARTIAL}"):
        # Another server may clean the same shared folder.
        with suppress(OSError):
            if path.stat().st_mtime < before:
                path.unlink()
                count += 1
    return count
