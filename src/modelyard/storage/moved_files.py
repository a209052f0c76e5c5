"""Files that an earlier version, or another setting, left in this server's folder: read
from there, and moved to the shared storage."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import suppress
from pathlib import Path

from modelyard.base.errors import NotFoundError
from modelyard.storage.file_storage import (
    FileExistsInStorageError,
    FileInfo,
    FileStorage,
)
from modelyard.storage.local_files import LocalFileStorage

logger = logging.getLogger("modelyard.storage")


class MovedFileStorage:
    """A shared storage in front of the folder that was used before. New files go to the
    storage; what it does not have is looked up in the folder."""

    def __init__(self, storage: FileStorage, folder: Path) -> None:
        self._storage = storage
        self._folder = folder
        self._old = LocalFileStorage(folder)
        self.is_shared = storage.is_shared

    @property
    def where(self) -> str:
        """Return the location of the storage."""
        return self._storage.where

    async def check(self) -> None:
        """Check the storage; see FileStorage."""
        await self._storage.check()

    async def write(
        self,
        scope: str,
        name: str,
        chunks: AsyncIterable[bytes],
        *,
        is_new: bool = False,
    ) -> FileInfo:
        """Store a file in the storage; see FileStorage."""
        return await self._storage.write(scope, name, chunks, is_new=is_new)

    async def info(self, scope: str, name: str) -> FileInfo:
        """Return what is known of a file; see FileStorage."""
        try:
            return await self._storage.info(scope, name)
        except NotFoundError:
            with suppress(NotFoundError):
                return await self._old.info(scope, name)
            # Moved between the two looks.
            return await self._storage.info(scope, name)

    async def read(
        self, scope: str, name: str, *, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield bytes of a file; see FileStorage."""
        for source in (self._storage, self._old):
            # A source without the file fails before its first chunk.
            with suppress(NotFoundError):
                async for chunk in source.read(scope, name, start=start, length=length):
                    yield chunk
                return
        async for chunk in self._storage.read(scope, name, start=start, length=length):
            yield chunk

    async def delete(self, scope: str, name: str) -> None:
        """Delete a file from both; see FileStorage."""
        # The folder first: otherwise `move` could bring the file back.
        await self._old.delete(scope, name)
        await self._storage.delete(scope, name)

    async def aclose(self) -> None:
        """Close the connections of the storage."""
        await self._storage.aclose()

    async def clean(self, before: float) -> int:
        """Delete what killed writes have left in both; see FileStorage."""
        return await self._storage.clean(before) + await self._old.clean(before)

    async def move(self) -> int:
        """Move all files of the folder to the storage. Returns how many.

        It may be interrupted at any time and started again. Raises
        StorageUnavailableError.
        """
        paths = await asyncio.to_thread(_paths, self._folder)
        for path in paths:
            scope, _, name = path.partition("/")
            await self._move_one(scope, name)
        if paths:
            fields = {"files": len(paths), "from": self._old.where, "to": self.where}
            logger.info("files moved to the shared storage", extra={"fields": fields})
        return len(paths)

    async def _move_one(self, scope: str, name: str) -> None:
        """Copy one file and delete the original. A file that both have is the same one,
        since ids are random: an earlier move ended between the two steps."""
        # Names that no file can have, and files that somebody deletes meanwhile, stay.
        with suppress(NotFoundError):
            chunks = self._old.read(scope, name)
            with suppress(FileExistsInStorageError):
                await self._storage.write(scope, name, chunks, is_new=True)
            await self._old.delete(scope, name)


def _paths(folder: Path) -> list[str]:
    """Return the paths of all complete files below a folder. Metadata comes after the
    contents, so that readers never find it alone."""
    files = (path for path in folder.glob("**/*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    complete = [name for name in names if "/." not in name and "/" in name]
    return sorted(complete, key=lambda name: (name.endswith(".json"), name))
