"""Datasets as rows: their names and settings, and how far their indexes are."""

from collections.abc import Callable

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.rows import ConflictError, Indexed, dump, read_dataset
from modelyard.storage.database import Connection, Database, DuplicateError, Row
from modelyard.storage.repository import Repository


class StoredDatasets(Repository):
    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        super().__init__(database, "datasets")
        self._now = now

    async def add(self, dataset: Dataset) -> Dataset:
        """Raises ConflictError where the tenant has one of that name."""
        values = (
            dataset.tenant, dataset.id, dataset.name, dataset.description, dump(dataset.settings), dataset.created_by,
            dataset.created_at, dataset.updated_at,
        )  # fmt: skip
        await self._name(dataset.name, "add", *values)
        return dataset

    async def _name(self, name: str, statement: str, *values: object) -> list[Row]:
        try:
            return await self._do(statement, *values)
        except DuplicateError as error:
            raise ConflictError(f"there is a dataset named {name!r} already", param="name") from error

    async def get(self, tenant: str, id: str) -> Dataset:  # noqa: A002
        """Raises NotFoundError."""
        return await self._database.at_once(lambda connection: self.read(connection, tenant, id))

    def read(self, connection: Connection, tenant: str, id: str) -> Dataset:  # noqa: A002
        """As `get`, on a connection that reads more. Raises NotFoundError."""
        rows = connection.execute(self._sql["get"], {"tenant": tenant, "id": id})
        if not rows:
            raise _missing(id)
        return read_dataset(rows[0])

    async def named(self, tenant: str, name: str) -> Dataset | None:
        rows = await self._rows("named", tenant=tenant, name=name)
        return read_dataset(rows[0]) if rows else None

    async def of(self, tenant: str) -> list[Dataset]:
        """Newest first."""
        return [read_dataset(row) for row in await self._rows("of_tenant", tenant=tenant)]

    async def change(self, dataset: Dataset) -> Dataset:
        """Name, description and settings as they are here. Raises ConflictError, NotFoundError."""
        now = self._now()
        values = (dataset.name, dataset.description, dump(dataset.settings), now, dataset.tenant, dataset.id)
        if not await self._name(dataset.name, "change", *values):
            raise _missing(dataset.id)
        return msgspec.structs.replace(dataset, updated_at=now)

    # steps of transactions

    def require(self, connection: Connection, tenant: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError."""
        if not self._step(connection, "exists", tenant, id):
            raise _missing(id)

    def bump(self, connection: Connection, tenant: str, id: str) -> Row | None:  # noqa: A002
        """Its index changes: the generation that this makes, and the space in use; None where it is gone."""
        rows = self._step(connection, "bump", tenant, id)
        return rows[0] if rows else None

    def bumped(self, connection: Connection, tenant: str, id: str) -> Row:  # noqa: A002
        """The same. Raises NotFoundError."""
        row = self.bump(connection, tenant, id)
        if row is None:
            raise _missing(id)
        return row

    def measure(self, connection: Connection, row: Row, id: str, indexed: Indexed) -> Row:  # noqa: A002
        """All vectors of a space are of one model and one length; `row` is what `bump` gave, and as it is now.

        Raises InvokeBadRequestError for other ones.
        """
        if not indexed.dimensions:
            return row
        if not row["dimensions"]:
            self._step(connection, "measure", indexed.dimensions, indexed.model, id)
            return {**row, "dimensions": indexed.dimensions, "model": indexed.model}
        if row["dimensions"] != indexed.dimensions or (row["model"] and indexed.model != row["model"]):
            raise InvokeBadRequestError(
                f"embedding model {indexed.model!r} gives vectors of {indexed.dimensions} numbers; this dataset's are "
                f"of {row['model']!r}, {row['dimensions']} numbers each: index it anew with the other model"
            )
        return row

    def switch(self, connection: Connection, dataset: Dataset, space: int, dimensions: int, model: str) -> None:
        """Another space is in use, by the settings that are here."""
        self._step(connection, "switch", space, dimensions, model, dump(dataset.settings), dataset.id)

    def remove(self, connection: Connection, tenant: str, id: str) -> None:  # noqa: A002
        self._step(connection, "delete", tenant, id)


def _missing(id: str) -> NotFoundError:  # noqa: A002
    return NotFoundError(f"dataset {id[:80]!r} does not exist", code="dataset_not_found")
