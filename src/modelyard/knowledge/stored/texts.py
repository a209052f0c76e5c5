"""What documents say, as it was read."""

from collections.abc import Mapping, Sequence

from modelyard.knowledge.rows import DocumentPart, dump, read_parts
from modelyard.storage.database import Connection, Database
from modelyard.storage.repository import Repository
from modelyard.storage.statements import insert


class StoredTexts(Repository):
    def __init__(self, database: Database) -> None:
        super().__init__(database, "document_texts")

    async def keep(self, document: str, parts: Sequence[DocumentPart]) -> None:
        await self._do("keep", document, dump(parts))

    async def get(self, document: str) -> list[DocumentPart] | None:
        rows = await self._rows("get", document=document)
        return read_parts(rows[0]) if rows else None

    async def of(self, documents: Sequence[str]) -> dict[str, list[DocumentPart]]:
        """The same of many; those that are known."""

        def work(connection: Connection) -> dict[str, list[DocumentPart]]:
            rows = self._listed(connection, "of_ids", documents)
            return {row["document"]: read_parts(row) for row in rows}

        return await self._database.at_once(work)

    # steps of transactions

    def add(self, connection: Connection, texts: Mapping[str, str]) -> None:
        """Of new documents, by id."""
        rows = [(document, dump([DocumentPart(text=text)])) for document, text in texts.items()]
        insert(connection, self._sql["add"], rows)

    def put(self, connection: Connection, document: str, parts: Sequence[DocumentPart]) -> None:
        self._step(connection, "keep", document, dump(parts))

    def forget(self, connection: Connection, documents: Sequence[str]) -> None:
        self._listed(connection, "forget", documents)
