"""Documents of the same name and of the same file, added by two servers at once."""

import asyncio
from collections import Counter
from typing import Any

from modelyard.knowledge.entities import Dataset, Document
from modelyard.knowledge.stored.repositories import KnowledgeStore, open_store
from modelyard.storage.database import Database

_NAMES = [f"n{index}" for index in range(40)]


def _documents(source: dict[str, Any], server: int) -> list[Document]:
    return [
        Document(
            tenant="t",
            dataset="same",
            id=f"{source['kind']}-{server}-{name}",
            name=name,
            source={**source, "path": f"/files/{name}"},
        )
        for name in _NAMES
    ]


async def _add_on_two_servers(
    stores: list[KnowledgeStore], kind: str
) -> list[Document]:
    adds: list[Any] = []
    for server in (0, 1):
        documents = _documents({"kind": kind}, server)
        adds += [stores[server].library.add([document]) for document in documents]
    return [document for added in await asyncio.gather(*adds) for document in added]


def test_a_path_is_one_document_and_a_name_is_not(database_url: str):
    databases = [Database(database_url), Database(database_url)]

    async def work() -> None:
        stores = [open_store(database, lambda: 1.0) for database in databases]
        await stores[0].datasets.add(Dataset(tenant="t", id="same", name="same"))
        by_name = await _add_on_two_servers(stores, "text")
        assert Counter(document.name for document in by_name) == dict.fromkeys(
            _NAMES, 2
        )
        by_path = await _add_on_two_servers(stores, "path")
        assert Counter(document.name for document in by_path) == dict.fromkeys(
            _NAMES, 1
        )
        assert len(await stores[1].documents.list_all("t", "same")) == 120
        # The slower server finds the document of the faster one.
        found = await stores[1].documents.of_source("t", "same", by_path[0].source)
        assert found.id == by_path[0].id
        await stores[0].library.delete("t", "same")

    try:
        asyncio.run(work())
    finally:
        for database in databases:
            database.close()
