"""Tags, and which datasets have which."""

from collections.abc import Sequence

from modelyard.base.errors import NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.knowledge.rows import ConflictError
from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.storage.database import Connection, Database, DuplicateError, Row
from modelyard.storage.repository import Repository


class StoredTags(Repository):
    def __init__(self, database: Database, datasets: StoredDatasets) -> None:
        super().__init__(database, "dataset_tags")
        self._datasets = datasets

    async def add(self, tenant: str, name: str) -> str:
        """Its id. Raises ConflictError."""
        made = new_uuid()
        await self._name(name, "add", tenant, made, name)
        return made

    async def _name(self, name: str, statement: str, *values: str) -> list[Row]:
        try:
            return await self._do(statement, *values)
        except DuplicateError as error:
            raise ConflictError(f"there is a tag named {name!r} already", param="name") from error

    async def of(self, tenant: str) -> list[Row]:
        """{id, name, count} by name."""
        return await self._rows("of_tenant", tenant=tenant)

    async def rename(self, tenant: str, id: str, name: str) -> None:  # noqa: A002
        """Raises NotFoundError, and ConflictError where another tag has the name."""
        if not await self._name(name, "rename", name, tenant, id):
            raise _missing(id)

    async def delete(self, tenant: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError."""

        def work(connection: Connection) -> None:
            if not self._step(connection, "delete", tenant, id):
                raise _missing(id)
            self._step(connection, "unbind_tag", tenant, id)

        await self._database.transact(work)

    async def bind(self, tenant: str, dataset: str, tags: Sequence[str], *, is_on: bool) -> None:
        """Raises NotFoundError for a dataset or a tag that is not there."""
        statement = "bind" if is_on else "unbind"

        def work(connection: Connection) -> None:
            self._datasets.require(connection, tenant, dataset)
            rows = connection.execute(self._sql["of_tenant"], {"tenant": tenant})
            known = {row["id"] for row in rows}
            for tag in tags:
                if tag not in known:
                    raise _missing(tag)
                self._step(connection, statement, tenant, tag, dataset)

        await self._database.transact(work)

    async def bindings(self, tenant: str) -> dict[str, list[Row]]:
        """Dataset → {tag, name} of each that it has, by name."""
        tagged: dict[str, list[Row]] = {}
        for row in await self._rows("bindings", tenant=tenant):
            tagged.setdefault(row["dataset"], []).append(row)
        return tagged

    def remove_all(self, connection: Connection, dataset: str) -> None:
        """A step of a transaction: the dataset is gone."""
        self._step(connection, "unbind_dataset", dataset)


def _missing(id: str) -> NotFoundError:  # noqa: A002
    return NotFoundError(f"tag {id[:80]!r} does not exist", code="tag_not_found")
