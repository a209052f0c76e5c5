"""Tag routes: the tags of a tenant, and their datasets."""

from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge.calls import DatasetRequest
from modelyard.gateway.service.calls import (
    ServiceError,
    list_of,
)
from modelyard.knowledge.rows import ConflictError
from modelyard.models.types import JSON


class TagCalls:
    """Routes for the tags of a tenant."""

    async def add_tag(self, request: DatasetRequest) -> Reply:
        """Create a tag.

        Raises ServiceError, also if the name is taken.
        """
        name = _tag_name(request.body)
        try:
            tag_id = await request.datasets.store.tags.add(request.tenant, name)
        except ConflictError as error:
            raise ServiceError(400, "invalid_param", str(error)) from error
        # `binding_count` is a string in this API.
        return json_reply(
            {"id": tag_id, "name": name, "type": "knowledge", "binding_count": "0"}
        )

    async def tags(self, request: DatasetRequest) -> Reply:
        """List the tags of the tenant with the number of datasets that have them."""
        rows = await request.datasets.store.tags.list_all(request.tenant)
        return json_reply(
            [
                {
                    "id": row["id"],
                    "name": row["name"],
                    "type": "knowledge",
                    "binding_count": str(row["count"]),
                }
                for row in rows
            ]
        )

    async def rename_tag(self, request: DatasetRequest) -> Reply:
        """Rename a tag.

        Raises NotFoundError, ServiceError.
        """
        name, tag = _tag_name(request.body), str(request.body.get("tag_id") or "")
        store = request.datasets.store
        try:
            await store.tags.rename(request.tenant, tag, name)
        except ConflictError as error:
            raise ServiceError(400, "invalid_param", str(error)) from error
        # Read the tag again for its count; `rename` has already checked that it exists.
        row = next(
            row for row in await store.tags.list_all(request.tenant) if row["id"] == tag
        )
        return json_reply(
            {
                "id": tag,
                "name": name,
                "type": "knowledge",
                "binding_count": str(row["count"]),
            }
        )

    async def delete_tag(self, request: DatasetRequest) -> Reply:
        """Delete a tag.

        Raises NotFoundError.
        """
        await request.datasets.store.tags.delete(
            request.tenant, str(request.body.get("tag_id") or "")
        )
        return Reply(b"", status=204)

    async def bind(self, request: DatasetRequest) -> Reply:
        """Add tags to a dataset."""
        return await self._set_bindings(request, is_on=True)

    async def unbind(self, request: DatasetRequest) -> Reply:
        """Remove tags from a dataset."""
        return await self._set_bindings(request, is_on=False)

    async def _set_bindings(self, request: DatasetRequest, *, is_on: bool) -> Reply:
        """Add or remove tags of a dataset."""
        tags = [str(tag_id) for tag_id in list_of(request.body, "tag_ids")]
        # Clients send a list or, in older versions, a single tag.
        if request.body.get("tag_id"):
            tags.append(str(request.body["tag_id"]))
        dataset_id = str(request.body.get("target_id") or "")
        stored_tags = request.datasets.store.tags
        await stored_tags.bind(request.tenant, dataset_id, tags, is_on=is_on)
        return Reply(b"", status=204)

    async def tags_of(self, request: DatasetRequest) -> Reply:
        """List the tags of a dataset.

        Raises NotFoundError.
        """
        dataset = await request.dataset()
        rows = (await request.datasets.store.tags.bindings(request.tenant)).get(
            dataset.id, []
        )
        return json_reply(
            {
                "data": [{"id": row["tag"], "name": row["name"]} for row in rows],
                "total": len(rows),
            }
        )


def _tag_name(body: JSON) -> str:
    """Return the tag name of a request.

    Raises ServiceError.
    """
    name = str(body.get("name") or "").strip()
    if not 1 <= len(name) <= 50:
        raise ServiceError(
            400, "invalid_param", "A tag's name must have 1 to 50 characters"
        )
    return name
