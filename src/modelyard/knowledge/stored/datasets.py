"""The table of datasets: names, settings, and the state of their indexes."""

from collections.abc import Callable

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.rows import ConflictError, IndexContent, read_dataset, to_json
from modelyard.storage.database import Connection, Database, DuplicateError, Row
from modelyard.storage.repository import Repository


class StoredDatasets(Repository):
    """Repository of datasets."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        super().__init__(database, "datasets")
        self._clock = clock

    async def add(self, dataset: Dataset) -> Dataset:
        """Add a dataset. Raises ConflictError if the tenant has one with this name."""
        values = (
            dataset.tenant,
            dataset.id,
            dataset.name,
            dataset.description,
            to_json(dataset.settings),
            dataset.created_by,
            dataset.created_at,
            dataset.updated_at,
        )
        await self._write_named(dataset.name, "add", *values)
        return dataset

    async def _write_named(
        self, name: str, statement: str, *values: object
    ) -> list[Row]:
        """Run a statement that may use a taken name, and return its rows.

        Raises ConflictError if the tenant already has a dataset with this name.
        """
        try:
            return await self._execute(statement, *values)
        except DuplicateError as error:
            raise ConflictError(
                f"Dataset {name!r} already exists", param="name"
            ) from error

    async def get(self, tenant: str, id: str) -> Dataset:
        """Return a dataset. Raises NotFoundError."""
        return await self._database.read_together(
            lambda connection: self.read(connection, tenant, id)
        )

    def read(self, connection: Connection, tenant: str, id: str) -> Dataset:
        """Return a dataset, on a connection that reads more. Raises NotFoundError."""
        rows = connection.execute(self._sql["get"], {"tenant": tenant, "id": id})
        if not rows:
            raise _not_found(id)
        return read_dataset(rows[0])

    async def find_by_name(self, tenant: str, name: str) -> Dataset | None:
        """Return the tenant's dataset with this name, or None."""
        rows = await self._rows("named", tenant=tenant, name=name)
        return read_dataset(rows[0]) if rows else None

    async def list(self, tenant: str) -> list[Dataset]:
        """Return the tenant's datasets, newest first."""
        return [
            read_dataset(row) for row in await self._rows("of_tenant", tenant=tenant)
        ]

    async def update(self, dataset: Dataset) -> Dataset:
        """Update name, description and settings. Raises ConflictError and
        NotFoundError."""
        current_time = self._clock()
        values = (
            dataset.name,
            dataset.description,
            to_json(dataset.settings),
            current_time,
            dataset.tenant,
            dataset.id,
        )
        # The statement returns the row it changed, so no row means no such dataset.
        if not await self._write_named(dataset.name, "change", *values):
            raise _not_found(dataset.id)
        return msgspec.structs.replace(dataset, updated_at=current_time)

    # Steps of transactions

    def require(self, connection: Connection, tenant: str, id: str) -> None:
        """Raise NotFoundError if the dataset does not exist."""
        if not self._step(connection, "exists", tenant, id):
            raise _not_found(id)

    def increment_generation(
        self, connection: Connection, tenant: str, id: str
    ) -> Row | None:
        """Increment the generation of the dataset's index. Returns the new generation
        and the index in use; None if it was deleted."""
        rows = self._step(connection, "bump", tenant, id)
        return rows[0] if rows else None

    def require_incremented(self, connection: Connection, tenant: str, id: str) -> Row:
        """Increment the generation as `bump` does. Raises NotFoundError."""
        row = self.increment_generation(connection, tenant, id)
        if row is None:
            raise _not_found(id)
        return row

    def check_dimensions(
        self, connection: Connection, row: Row, id: str, indexed: IndexContent
    ) -> Row:
        """Check that new vectors match the index: one model, one length.

        `row` is the result of `increment_generation`. The first vectors of an index
        determine its model and length. Returns the row as it is afterwards. Raises
        InvokeBadRequestError for other vectors.
        """
        # Entries without vectors fit into any index.
        if not indexed.dimensions:
            return row
        if not row["dimensions"]:
            self._step(connection, "measure", indexed.dimensions, indexed.model, id)
            return {**row, "dimensions": indexed.dimensions, "model": indexed.model}
        if row["dimensions"] != indexed.dimensions or (
            row["model"] and indexed.model != row["model"]
        ):
            raise InvokeBadRequestError(
                f"Embedding model {indexed.model!r} returned vectors of"
                f" {indexed.dimensions} dimensions, but the dataset was indexed by"
                f" {row['model']!r} with {row['dimensions']}: reindex the dataset with"
                " the new model"
            )
        return row

    def swap_index(
        self,
        connection: Connection,
        dataset: Dataset,
        space: int,
        dimensions: int,
        model: str,
    ) -> None:
        """Put another index in use and store the settings that belong to it."""
        self._step(
            connection,
            "switch",
            space,
            dimensions,
            model,
            to_json(dataset.settings),
            dataset.id,
        )

    def delete(self, connection: Connection, tenant: str, id: str) -> None:
        """Delete the dataset's row."""
        self._step(connection, "delete", tenant, id)


def _not_found(id: str) -> NotFoundError:
    return NotFoundError(
        f"Dataset {id[:80]!r} does not exist", code="dataset_not_found"
    )
