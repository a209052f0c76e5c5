"""The tables of tags and of their assignment to datasets."""

from collections.abc import Sequence

from modelyard.base.errors import NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.knowledge.rows import ConflictError
from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.storage.database import Connection, Database, DuplicateError, Row
from modelyard.storage.repository import Repository


class StoredTags(Repository):
    """Repository of tags."""

    def __init__(self, database: Database, datasets: StoredDatasets) -> None:
        super().__init__(database, "dataset_tags")
        self._datasets = datasets

    async def add(self, tenant: str, name: str) -> str:
        """Add a tag and return its id. Raises ConflictError if the name exists."""
        tag_id = new_uuid()
        await self._write_named(name, "add", tenant, tag_id, name)
        return tag_id

    async def _write_named(self, name: str, statement: str, *values: str) -> list[Row]:
        """Run a statement that may use a taken name, and return its rows.

        Raises ConflictError if the tenant already has a tag with this name.
        """
        try:
            return await self._execute(statement, *values)
        except DuplicateError as error:
            raise ConflictError(f"Tag {name!r} already exists", param="name") from error

    async def list_all(self, tenant: str) -> list[Row]:
        """Return the tenant's tags as {id, name, count}, ordered by name."""
        return await self._rows("of_tenant", tenant=tenant)

    async def rename(self, tenant: str, id: str, name: str) -> None:
        """Rename a tag. Raises NotFoundError, or ConflictError if another tag has the
        name."""
        if not await self._write_named(name, "rename", name, tenant, id):
            raise _not_found(id)

    async def delete(self, tenant: str, id: str) -> None:
        """Delete a tag. Raises NotFoundError."""

        def work(connection: Connection) -> None:
            """Delete the tag and its assignments."""
            if not self._step(connection, "delete", tenant, id):
                raise _not_found(id)
            self._step(connection, "unbind_tag", tenant, id)

        await self._database.transact(work)

    async def bind(
        self, tenant: str, dataset: str, tags: Sequence[str], *, is_on: bool
    ) -> None:
        """Assign tags to a dataset, or remove them. Raises NotFoundError for an unknown
        dataset or tag."""
        statement = "bind" if is_on else "unbind"

        def work(connection: Connection) -> None:
            """Check the ids and change the assignments; an unknown id rolls everything
            back."""
            # Ids come from requests: they must belong to the tenant.
            self._datasets.require(connection, tenant, dataset)
            rows = connection.execute(self._sql["of_tenant"], {"tenant": tenant})
            tag_ids = {row["id"] for row in rows}
            for tag in tags:
                if tag not in tag_ids:
                    raise _not_found(tag)
                self._step(connection, statement, tenant, tag, dataset)

        await self._database.transact(work)

    async def bindings(self, tenant: str) -> dict[str, list[Row]]:
        """Return the tags {tag, name} of each dataset, ordered by name."""
        tagged: dict[str, list[Row]] = {}
        for row in await self._rows("bindings", tenant=tenant):
            tagged.setdefault(row["dataset"], []).append(row)
        return tagged

    def delete_all(self, connection: Connection, tenant: str, dataset: str) -> None:
        """Remove the assignments of a deleted dataset; a step of a transaction."""
        self._step(connection, "unbind_dataset", tenant, dataset)


def _not_found(id: str) -> NotFoundError:
    return NotFoundError(f"Tag {id[:80]!r} does not exist", code="tag_not_found")
