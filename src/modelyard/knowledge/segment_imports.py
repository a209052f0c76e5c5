"""Jobs that add the rows of a CSV file to a document.

The rows are added in batches, in the order of the file. Progress and errors are stored,
so every server reports them, also after the one that worked has stopped.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal

import msgspec

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset, Document
from modelyard.knowledge.segment_table import RowError, SegmentRow, values_of
from modelyard.storage.scoped_store import ScopedStore

logger = logging.getLogger("modelyard.knowledge")

JOBS_SCOPE = "import/"
"""Start of the scopes in which jobs are stored; old ones are deleted by it."""
_BATCH = 50
_MAX_ERRORS = 100
_MAX_JOBS = 20
"""How many jobs of a document can be asked about."""
_HEARTBEAT_SECONDS = 20.0
_LEASE_SECONDS = 120.0
"""A job that was not heard of for this long was interrupted."""

Status = Literal["waiting", "processing", "completed", "error"]


class ImportJob(msgspec.Struct, frozen=True, kw_only=True):
    """An import and its progress. `line` numbers are those of the file."""

    id: str
    status: Status
    total: int
    """Rows of the file, without empty ones."""
    added: int = 0
    failed: int = 0
    """Rows that were not added because of their content."""
    errors: list[RowError] = []
    """The first rows that failed."""
    error: str = ""
    """Why the import stopped before its end; empty if it did not."""
    updated_at: float = 0.0


class SegmentImports:
    """Starts import jobs and reports their progress."""

    def __init__(
        self, store: ScopedStore, datasets: Datasets, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._datasets = datasets
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self,
        dataset: Dataset,
        document: Document,
        rows: Sequence[SegmentRow],
        errors: Sequence[RowError],
    ) -> ImportJob:
        """Start to add rows to a document and return the job. `errors` are the rows of
        the file that were refused already."""
        # Stored before the work begins, so that the client's first question is answered.
        job = await self.create(document, rows, errors)
        task = asyncio.create_task(self._work_to_the_end(dataset, document, rows, job))
        # The event loop holds only weak references to tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def create(
        self,
        document: Document,
        rows: Sequence[SegmentRow],
        errors: Sequence[RowError],
    ) -> ImportJob:
        """Store a job that has not begun, and return it."""
        job = ImportJob(
            id=new_uuid(),
            status="waiting",
            total=len(rows) + len(errors),
            failed=len(errors),
            errors=list(errors[:_MAX_ERRORS]),
        )
        return await self._save(document, job)

    async def find(self, document: Document, id: str) -> ImportJob:
        """Return a job of a document. A job whose server has stopped has the status
        `error`. Raises NotFoundError."""
        data = await self._store.get(document.tenant, _scope(document), id)
        if data is None:
            raise NotFoundError(
                f"Import {id[:80]!r} does not exist", code="import_not_found"
            )
        job = msgspec.json.decode(data, type=ImportJob)
        is_silent = self._clock() - job.updated_at > _LEASE_SECONDS
        if job.status in ("waiting", "processing") and is_silent:
            return _stopped(job, "the server stopped")
        return job

    async def aclose(self) -> None:
        """Stop the running jobs; they end with an error that says how far they came."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work_to_the_end(
        self,
        dataset: Dataset,
        document: Document,
        rows: Sequence[SegmentRow],
        job: ImportJob,
    ) -> None:
        """Run a job and store how it ended, whatever happens."""
        async for progress in self.run(dataset, document, rows, job):
            fields = {"document": document.id, "added": progress.added}
            logger.debug("segments imported", extra={"fields": fields})

    async def run(
        self,
        dataset: Dataset,
        document: Document,
        rows: Sequence[SegmentRow],
        job: ImportJob,
    ) -> AsyncGenerator[ImportJob, None]:
        """Add the rows of a job, and yield its state after each batch and at its end.

        An error of the embedding model or of the database ends the job: the rows before
        it stay.
        """
        job = msgspec.structs.replace(job, status="processing")
        try:
            await self._save(document, job)
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                async with self._alive(document, job):
                    await self._add(dataset, document, batch)
                added = job.added + len(batch)
                job = await self._save(
                    document, msgspec.structs.replace(job, added=added)
                )
                yield job
            job = msgspec.structs.replace(job, status="completed")
        except ModelyardError as error:
            job = _stopped(job, str(error))
        except asyncio.CancelledError:
            await self._save(document, _stopped(job, "the server stopped"))
            raise
        # A job must not stay unfinished for ever because of a mistake of ours.
        except Exception:
            logger.exception("an import of segments failed")
            await self._save(document, _stopped(job, "of an internal error"))
            raise
        job = await self._save(document, job)
        yield job

    async def _add(
        self, dataset: Dataset, document: Document, batch: Sequence[SegmentRow]
    ) -> None:
        """Add one batch. Raises NotFoundError if the document was deleted meanwhile."""
        # Without this, segments of a deleted document would be stored.
        await self._datasets.store.documents.get(
            document.tenant, document.dataset, document.id
        )
        values = [values_of(row, document.form) for row in batch]
        await self._datasets.segments.add(dataset, document, values)

    @asynccontextmanager
    async def _alive(
        self, document: Document, job: ImportJob
    ) -> AsyncGenerator[None, None]:
        """Say now and then that a job goes on: a batch may take minutes to embed."""

        async def beat() -> None:
            """Store the job again and again."""
            while True:
                await asyncio.sleep(_HEARTBEAT_SECONDS)
                await self._save(document, job)

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()
            # If the database is away, the batch itself fails and says so.
            with suppress(asyncio.CancelledError, ModelyardError):
                await task

    async def _save(self, document: Document, job: ImportJob) -> ImportJob:
        """Store a job with the current time and return it."""
        # The time is also the sign of life by which an interrupted job is recognised.
        job = msgspec.structs.replace(job, updated_at=self._clock())
        await self._store.put_newest(
            document.tenant,
            _scope(document),
            job.id,
            msgspec.json.encode(job),
            keep=_MAX_JOBS,
        )
        return job


def _scope(document: Document) -> str:
    """Return the scope in which the jobs of a document are stored."""
    return f"{JOBS_SCOPE}{document.id}"


def _stopped(job: ImportJob, reason: str) -> ImportJob:
    """Return a job that ended before its last row."""
    return msgspec.structs.replace(
        job,
        status="error",
        error=(
            f"The import stopped after {job.added} of {job.total - job.failed} rows:"
            f" {reason}"
        ),
    )
