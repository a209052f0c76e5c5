"""Changes to documents that span several tables, each in one transaction."""

from collections.abc import Mapping, Sequence

import msgspec

from modelyard.knowledge.entities import Document
from modelyard.knowledge.rows import DocumentPart
from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.knowledge.stored.documents import StoredDocuments
from modelyard.knowledge.stored.entries import StoredEntries
from modelyard.knowledge.stored.followers import IndexProgress
from modelyard.knowledge.stored.leases import DocumentClaims
from modelyard.knowledge.stored.queries import StoredQueries
from modelyard.knowledge.stored.segments import StoredSegments
from modelyard.knowledge.stored.tags import StoredTags
from modelyard.knowledge.stored.texts import StoredTexts
from modelyard.storage.database import Connection, Database


class DocumentLibrary:
    """Adds, changes and deletes documents and datasets with all their rows."""

    def __init__(
        self,
        database: Database,
        *,
        datasets: StoredDatasets,
        documents: StoredDocuments,
        claims: DocumentClaims,
        texts: StoredTexts,
        segments: StoredSegments,
        entries: StoredEntries,
        followers: IndexProgress,
        tags: StoredTags,
        queries: StoredQueries,
    ) -> None:
        self._database = database
        self._datasets = datasets
        self._documents = documents
        self._claims = claims
        self._texts = texts
        self._segments = segments
        self._entries = entries
        self._followers = followers
        self._tags = tags
        self._queries = queries

    async def add(
        self,
        documents: Sequence[Document],
        texts: Mapping[str, str] | None = None,
        *,
        parts: Mapping[str, Sequence[DocumentPart]] | None = None,
        is_ours: bool = False,
    ) -> list[Document]:
        """Add documents to the dataset of the first one, in order, with texts or parsed
        parts by document id if they are known.

        With `is_ours` they are leased to this process for indexing. Returns the added
        documents: those of a path that the dataset contains already are left out.
        Raises NotFoundError.
        """
        first = documents[0]
        owner, until = (
            (self._claims.owner, self._claims.lease_end) if is_ours else ("", 0.0)
        )

        def work(connection: Connection) -> list[Document]:
            """Insert the documents and their texts."""
            self._datasets.require(connection, first.tenant, first.dataset)
            placed = self._documents.append(connection, documents, owner, until)
            self._texts.add(connection, texts or {})
            added_ids = {document.id for document in placed}
            # In the same transaction: another process may claim the documents as soon
            # as they are visible, and would not find their parts.
            for document_id, document_parts in (parts or {}).items():
                if document_id in added_ids:
                    self._texts.replace(connection, document_id, document_parts)
            return placed

        return await self._database.transact(work)

    async def update_description(self, document: Document) -> None:
        """Update name, metadata and readers. Raises NotFoundError."""

        def work(connection: Connection) -> None:
            """Update the document in a new generation, by which filters find it."""
            row = self._datasets.require_incremented(
                connection, document.tenant, document.dataset
            )
            self._documents.describe(connection, document, row["generation"])

        await self._database.transact(work)

    async def index_again(
        self,
        document: Document,
        parts: Sequence[DocumentPart] | None = None,
        *,
        reads_anew: bool = False,
    ) -> None:
        """Queue a document for indexing with its current source, rule and form; `parts`
        replaces its text.

        The old content is found until the new one is ready. Raises NotFoundError.
        """

        def work(connection: Connection) -> None:
            """Reset the document and replace or discard its stored text."""
            # Name and metadata apply at once, so that filters have to find the change.
            row = self._datasets.require_incremented(
                connection, document.tenant, document.dataset
            )
            self._documents.reset_for_indexing(connection, document, row["generation"])
            if parts is not None:
                self._texts.replace(connection, document.id, parts)
            elif reads_anew:
                # Without a stored text the source is read again.
                self._texts.delete(connection, [document.id])

        await self._database.transact(work)

    async def set_flags(
        self,
        tenant: str,
        dataset: str,
        ids: Sequence[str],
        *,
        enabled: bool | None = None,
        archived: bool | None = None,
    ) -> None:
        """Enable, disable, archive or restore documents; None leaves a flag unchanged.
        Raises NotFoundError.

        Disabled and archived documents are not found.
        """
        documents = [
            await self._documents.get(tenant, dataset, document_id)
            for document_id in ids
        ]
        changed = [
            msgspec.structs.replace(
                document,
                is_enabled=document.is_enabled if enabled is None else enabled,
                is_archived=document.is_archived if archived is None else archived,
            )
            for document in documents
        ]

        def work(connection: Connection) -> None:
            """Update the flags in a new generation, by which filters find them."""
            row = self._datasets.require_incremented(connection, tenant, dataset)
            for document in changed:
                self._documents.set_flags(connection, document, row["generation"])

        await self._database.transact(work)

    async def delete_documents(
        self, tenant: str, dataset: str, ids: Sequence[str]
    ) -> None:
        """Delete the existing ones of these documents, with everything that belongs to
        them. Raises NotFoundError."""

        def work(connection: Connection) -> None:
            """Delete the documents with their entries, segments, texts and staged
            vectors."""
            # Indexes learn of the removals by the new generation.
            row = self._datasets.require_incremented(connection, tenant, dataset)
            deleted_ids = [
                document_id
                for document_id in ids
                if self._documents.delete(connection, tenant, dataset, document_id)
            ]
            for document_id in deleted_ids:
                self._entries.delete_of_document(
                    connection, document_id, row["generation"]
                )
                self._segments.delete_of_document(connection, tenant, document_id)
            self._texts.delete(connection, deleted_ids)
            self._entries.unstage(connection, deleted_ids)
            self._entries.trim_removal_log(connection, dataset, row)

        await self._database.transact(work)

    async def delete(self, tenant: str, dataset: str) -> list[Document]:
        """Delete a dataset with all its rows and return its documents. Raises
        NotFoundError."""
        await self._datasets.get(tenant, dataset)
        # The caller needs the documents afterwards, to delete their files.
        documents = await self._documents.list_all(tenant, dataset)

        def work(connection: Connection) -> None:
            """Delete the rows of all tables."""
            self._datasets.delete(connection, tenant, dataset)
            deleted_ids = self._documents.delete_all(connection, tenant, dataset)
            self._texts.delete(connection, deleted_ids)
            self._entries.unstage(connection, deleted_ids)
            self._entries.delete_all(connection, dataset)
            self._followers.delete_all(connection, dataset)
            self._segments.delete_all(connection, dataset)
            self._tags.delete_all(connection, tenant, dataset)
            self._queries.delete_all(connection, tenant, dataset)

        await self._database.transact(work)
        return documents

    def count_hits(self, hits: Mapping[str, str]) -> None:
        """Increment the hit counters of segments and their documents, in the
        background. `hits` maps segment to document."""
        if not hits:
            return
        # A fixed order prevents deadlocks between transactions that update the same
        # rows.
        segments, documents = sorted(hits), sorted(set(hits.values()))

        def work(connection: Connection) -> None:
            """Increment both counters."""
            self._segments.count_hits(connection, segments)
            self._documents.count_hits(connection, documents)

        self._database.submit(work, may_gather=True)
