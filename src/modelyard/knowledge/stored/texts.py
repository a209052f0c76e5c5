"""The table of documents' parsed texts."""

from collections.abc import Mapping, Sequence

from modelyard.knowledge.rows import DocumentPart, read_parts, to_json
from modelyard.storage.database import Connection, Database
from modelyard.storage.repository import Repository
from modelyard.storage.statements import insert


class StoredTexts(Repository):
    """Repository of parsed texts."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "document_texts")

    async def save(self, texts: Mapping[str, Sequence[DocumentPart]]) -> None:
        """Store the parsed parts of documents by id, replacing earlier ones."""
        if not texts:
            return
        rows = [(document, to_json(parts)) for document, parts in texts.items()]
        await self._database.transact(
            lambda connection: insert(connection, self._sql["keep"], rows)
        )

    async def get(self, document: str) -> list[DocumentPart] | None:
        """Return a document's parsed parts, or None if it has not been parsed."""
        rows = await self._rows("get", document=document)
        return read_parts(rows[0]) if rows else None

    async def get_many(self, documents: Sequence[str]) -> dict[str, list[DocumentPart]]:
        """Return the parsed parts of documents by id. Documents that have not been
        parsed are left out."""

        def work(connection: Connection) -> dict[str, list[DocumentPart]]:
            """Read the texts."""
            rows = self._with_list(connection, "of_ids", documents)
            return {row["document"]: read_parts(row) for row in rows}

        return await self._database.read_together(work)

    # Steps of transactions

    def add(self, connection: Connection, texts: Mapping[str, str]) -> None:
        """Insert the texts of new documents, by document id."""
        rows = [
            (document, to_json([DocumentPart(text=text)]))
            for document, text in texts.items()
        ]
        insert(connection, self._sql["add"], rows)

    def replace(
        self, connection: Connection, document: str, parts: Sequence[DocumentPart]
    ) -> None:
        """Store a document's parsed parts, replacing earlier ones."""
        self._step(connection, "keep", document, to_json(parts))

    def delete(self, connection: Connection, documents: Sequence[str]) -> None:
        """Delete the parsed texts of documents."""
        self._with_list(connection, "forget", documents)
