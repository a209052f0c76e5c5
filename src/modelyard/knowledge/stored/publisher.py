"""Publishing: segments and their index entries change in one transaction, so that they
never contradict each other, even if a process is killed."""

from collections.abc import Sequence

from modelyard.knowledge.entities import Dataset, Document, Segment
from modelyard.knowledge.rows import Entry, IndexContent, PreparedDocument
from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.knowledge.stored.documents import StoredDocuments
from modelyard.knowledge.stored.entries import StoredEntries
from modelyard.knowledge.stored.leases import DocumentClaims
from modelyard.knowledge.stored.segments import StoredSegments
from modelyard.storage.database import Connection, Database, Row


class Publisher:
    """Makes segments and their index entries searchable."""

    def __init__(
        self,
        database: Database,
        *,
        datasets: StoredDatasets,
        documents: StoredDocuments,
        claims: DocumentClaims,
        segments: StoredSegments,
        entries: StoredEntries,
    ) -> None:
        self._database = database
        self._datasets = datasets
        self._documents = documents
        self._claims = claims
        self._segments = segments
        self._entries = entries

    async def publish(self, ready: Sequence[PreparedDocument]) -> list[Document]:
        """Make documents searchable, each replacing its previous content.

        All belong to one dataset. It is one transaction. Returns the published
        documents; those that another process owns by now, or that were deleted, are
        left out. Raises InvokeBadRequestError if their vectors do not match the
        dataset's index.
        """
        return await self._database.transact(
            lambda connection: self._publish(connection, ready), may_gather=True
        )

    def _publish(
        self, connection: Connection, ready: Sequence[PreparedDocument]
    ) -> list[Document]:
        """Replace the documents' previous rows by the new ones."""
        first = ready[0].document
        # The generation is incremented first: this locks the dataset's row for the
        # transaction.
        row = self._datasets.increment_generation(
            connection, first.tenant, first.dataset
        )
        if row is None:
            return []
        # A lease may have expired during the indexing.
        owned = self._claims.still_owned(connection, first.dataset, ready)
        self._remove_previous(connection, row, first.dataset, owned)
        self._segments.add(
            connection,
            [segment for prepared in owned for segment in prepared.indexed.segments],
        )
        self._segments.add_children(
            connection,
            [child for prepared in owned for child in prepared.indexed.children],
        )
        entries = [
            (prepared.document.id, entry)
            for prepared in owned
            for entry in prepared.indexed.entries
        ]
        self._entries.add(
            connection, first.dataset, row["space"], row["generation"], entries
        )
        self._claims.finish(connection, owned, row["generation"])
        self._entries.trim_removal_log(connection, first.dataset, row)
        return [prepared.document for prepared in owned]

    def _remove_previous(
        self,
        connection: Connection,
        row: Row,
        dataset: str,
        owned: Sequence[PreparedDocument],
    ) -> None:
        """Delete the previous segments and entries of documents."""
        for prepared in owned:
            row = self._datasets.check_dimensions(
                connection, row, dataset, prepared.indexed
            )
            # The first revision of a document has nothing to delete.
            if prepared.attempt:
                self._entries.delete_of_document(
                    connection, prepared.document.id, row["generation"]
                )
                self._segments.delete_of_document(
                    connection, prepared.document.tenant, prepared.document.id
                )
        self._entries.unstage(
            connection,
            [prepared.document.id for prepared in owned if prepared.indexed.is_staged],
        )

    async def write_segments(
        self, document: Document, indexed: IndexContent, *, is_new: bool
    ) -> list[Segment]:
        """Add or update segments of a document, with their index entries. Raises
        NotFoundError and InvokeBadRequestError."""

        def work(connection: Connection) -> list[Segment]:
            """Write the segments, children and entries."""
            row = self._datasets.require_incremented(
                connection, document.tenant, document.dataset
            )
            self._documents.require(connection, document.tenant, document.id)
            self._datasets.check_dimensions(connection, row, document.dataset, indexed)
            if is_new:
                stored_segments = self._segments.append(
                    connection, document.tenant, document.id, indexed.segments
                )
            else:
                stored_segments = indexed.segments
                # Updating a segment also deletes its previous children and entries.
                self._replace_segments(
                    connection, document.id, stored_segments, row["generation"]
                )
            self._segments.add_children(connection, indexed.children)
            entries = [(document.id, entry) for entry in indexed.entries]
            self._entries.add(
                connection, document.dataset, row["space"], row["generation"], entries
            )
            # The document shows totals of its segments.
            self._recount(connection, document.tenant, document.id, row["generation"])
            self._entries.trim_removal_log(connection, document.dataset, row)
            return stored_segments

        return await self._database.transact(work)

    def _replace_segments(
        self,
        connection: Connection,
        document: str,
        segments: Sequence[Segment],
        generation: int,
    ) -> None:
        """Update segments and delete their index entries, as a step of a transaction.

        The deletions are recorded under `generation`, so that other indexes follow
        them.
        """
        for segment in segments:
            self._segments.update(connection, segment)
            self._entries.delete_of_segment(
                connection, document, segment.id, generation
            )

    def _recount(
        self, connection: Connection, tenant: str, document: str, generation: int
    ) -> None:
        totals = self._segments.totals(connection, tenant, document)
        self._documents.recount(connection, document, totals, generation)

    async def delete_segment(self, segment: Segment) -> None:
        """Delete a segment with its entries. Raises NotFoundError if its dataset was
        deleted."""

        def work(connection: Connection) -> None:
            """Delete the rows and update the document's totals."""
            row = self._datasets.require_incremented(
                connection, segment.tenant, segment.dataset
            )
            self._segments.delete(connection, segment)
            self._entries.delete_of_segment(
                connection, segment.document, segment.id, row["generation"]
            )
            self._recount(
                connection, segment.tenant, segment.document, row["generation"]
            )
            self._entries.trim_removal_log(connection, segment.dataset, row)

        await self._database.transact(work)

    # The shadow index of another model, next to the index in use

    async def write_shadow_index(
        self, dataset: str, space: int, document: str, entries: Sequence[Entry]
    ) -> None:
        """Write a document's entries into an index that is not in use yet."""
        await self._database.transact(
            lambda connection: self._entries.write_shadow_index(
                connection, dataset, space, document, entries
            )
        )

    async def swap_index(
        self, dataset: Dataset, space: int, dimensions: int, model: str
    ) -> bool:
        """Put another index in use and delete the old one. Returns False if documents
        changed meanwhile. Raises NotFoundError."""

        def work(connection: Connection) -> bool:
            """Swap the index if it is complete."""
            row = self._datasets.require_incremented(
                connection, dataset.tenant, dataset.id
            )
            # Returning without an exception commits the generation only, which is
            # harmless.
            if not self._entries.swap_index(connection, dataset.id, row, space):
                return False
            self._datasets.swap_index(connection, dataset, space, dimensions, model)
            return True

        return await self._database.transact(work)
