"""Files as rows of the database, for installations that share one and have no object
storage."""

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import suppress

from modelyard.storage.database import Database
from modelyard.storage.engine import (
    Connection,
    DuplicateError,
    Row,
    StorageUnavailableError,
)
from modelyard.storage.file_storage import (
    CHUNK_BYTES,
    FileExistsInStorageError,
    FileInfo,
    check_name,
    missing_file,
    regrouped,
)
from modelyard.storage.repository import Repository


class DatabaseFileStorage(Repository):
    """Chunks of a megabyte as rows, so that neither side holds more of a file in memory.

    All chunks but the last of an upload have the same size, so a range is read without
    those before it.
    """

    is_shared = True

    def __init__(
        self,
        database: Database,
        *,
        chunk_bytes: int = CHUNK_BYTES,
        get_time: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(database, "stored_files")
        self._chunk_bytes = chunk_bytes
        self._now = get_time

    @property
    def where(self) -> str:
        """Return the database's location."""
        return f"database {self._database.where}"

    async def check(self) -> None:
        """Do nothing: the database was opened and checked before."""

    async def write(
        self,
        scope: str,
        name: str,
        chunks: AsyncIterable[bytes],
        *,
        is_new: bool = False,
    ) -> FileInfo:
        """Store a file; see FileStorage."""
        check_name(scope, name)
        # Random, so that two writers of one name never share chunks.
        upload = uuid.uuid4().hex
        try:
            size, digest = await self._write_chunks(scope, upload, chunks)
            record = (scope, name, upload, size, digest)
            await self._database.transact(
                lambda connection: self._publish(connection, record, is_new=is_new)
            )
        except BaseException as error:
            # After the chunks in the queue of writes, even if the caller was cancelled.
            # `clean` finds what a database that is away now would keep.
            with suppress(StorageUnavailableError):
                await asyncio.shield(self._execute("remove_chunks", scope, upload))
            if isinstance(error, DuplicateError):
                raise FileExistsInStorageError(
                    f"File {name!r} exists already"
                ) from None
            raise
        return FileInfo(name=name, size=size, sha256=digest)

    async def _write_chunks(
        self, scope: str, upload: str, chunks: AsyncIterable[bytes]
    ) -> tuple[int, str]:
        """Write a stream as chunks that no file refers to yet. Returns its size and
        SHA-256."""
        size, digest, position = 0, hashlib.sha256(), 0
        async for chunk in regrouped(chunks, self._chunk_bytes):
            digest.update(chunk)
            # One transaction for each chunk: a long one would hold up other writes.
            await self._execute(
                "add_chunk", scope, upload, position, chunk, self._now()
            )
            size, position = size + len(chunk), position + 1
        return size, digest.hexdigest()

    def _publish(
        self,
        connection: Connection,
        record: tuple[str, str, str, int, str],
        *,
        is_new: bool,
    ) -> None:
        """Let a name refer to a complete upload. The chunks of a replaced file stay for
        those who are reading them, until `clean` finds them."""
        self._step(connection, "add" if is_new else "put", *record)

    async def info(self, scope: str, name: str) -> FileInfo:
        """Return size and SHA-256 of a file; see FileStorage."""
        row = await self._find(scope, name)
        return FileInfo(name=name, size=int(row["size"]), sha256=row["sha256"])

    async def read(
        self, scope: str, name: str, *, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield bytes of a file; see FileStorage."""
        row = await self._find(scope, name)
        size = int(row["size"])
        # Ranges may reach beyond the end of the file.
        end = size if length is None else min(size, start + length)
        offset = start
        while offset < end:
            position, skipped = divmod(offset, self._chunk_bytes)
            rows = await self._rows(
                "chunk", tenant=scope, upload=row["upload"], position=position
            )
            # Deleted while it is being read.
            if not rows:
                raise missing_file(name)
            chunk = bytes(rows[0]["data"])[skipped : skipped + end - offset]
            offset += len(chunk)
            yield chunk

    async def delete(self, scope: str, name: str) -> None:
        """Delete a file with its bytes; see FileStorage."""
        check_name(scope, name)

        def work(connection: Connection) -> None:
            for row in self._step(connection, "remove", scope, name):
                self._step(connection, "remove_chunks", scope, row["upload"])

        await self._database.transact(work)

    async def aclose(self) -> None:
        """Do nothing: the database is closed by its owner."""

    async def clean(self, before: float) -> int:
        """Delete old uploads that no file refers to; see FileStorage."""
        abandoned = await self._database.fetch(
            self._sql["abandoned"], {"before": before}, is_long=True
        )
        for row in abandoned:
            await self._execute("remove_chunks", row["tenant"], row["upload"])
        return len(abandoned)

    async def _find(self, scope: str, name: str) -> Row:
        """Return the row of a file. Raises NotFoundError."""
        check_name(scope, name)
        rows = await self._rows("get", tenant=scope, name=name)
        if not rows:
            raise missing_file(name)
        return rows[0]
