"""Tags, and which datasets have them."""

from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge.calls import Asked
from modelyard.gateway.service.calls import (
    ServiceError,
    list_of,
)
from modelyard.knowledge.rows import ConflictError
from modelyard.models.types import JSON


class TagCalls:
    """A tenant's tags."""

    async def add_tag(self, asked: Asked) -> Reply:
        name = _tag_name(asked.body)
        try:
            made = await asked.datasets.stored.tags.add(asked.tenant, name)
        except ConflictError as error:
            raise ServiceError(400, "invalid_param", str(error)) from error
        return json_reply({"id": made, "name": name, "type": "knowledge", "binding_count": "0"})

    async def tags(self, asked: Asked) -> Reply:
        rows = await asked.datasets.stored.tags.of(asked.tenant)
        return json_reply([
            {"id": row["id"], "name": row["name"], "type": "knowledge", "binding_count": str(row["count"])}
            for row in rows
        ])  # fmt: skip

    async def rename_tag(self, asked: Asked) -> Reply:
        name, tag = _tag_name(asked.body), str(asked.body.get("tag_id") or "")
        stored = asked.datasets.stored
        try:
            await stored.tags.rename(asked.tenant, tag, name)
        except ConflictError as error:
            raise ServiceError(400, "invalid_param", str(error)) from error
        row = next(row for row in await stored.tags.of(asked.tenant) if row["id"] == tag)
        return json_reply({"id": tag, "name": name, "type": "knowledge", "binding_count": str(row["count"])})

    async def delete_tag(self, asked: Asked) -> Reply:
        await asked.datasets.stored.tags.delete(asked.tenant, str(asked.body.get("tag_id") or ""))
        return Reply(b"", status=204)

    async def bind(self, asked: Asked) -> Reply:
        return await self._bound(asked, is_on=True)

    async def unbind(self, asked: Asked) -> Reply:
        return await self._bound(asked, is_on=False)

    async def _bound(self, asked: Asked, *, is_on: bool) -> Reply:
        tags = [str(one) for one in list_of(asked.body, "tag_ids")]
        if asked.body.get("tag_id"):
            tags.append(str(asked.body["tag_id"]))
        await asked.datasets.stored.tags.bind(asked.tenant, str(asked.body.get("target_id") or ""), tags, is_on=is_on)
        return Reply(b"", status=204)

    async def tags_of(self, asked: Asked) -> Reply:
        dataset = await asked.dataset()
        rows = (await asked.datasets.stored.tags.bindings(asked.tenant)).get(dataset.id, [])
        return json_reply({"data": [{"id": row["tag"], "name": row["name"]} for row in rows], "total": len(rows)})


def _tag_name(body: JSON) -> str:
    name = str(body.get("name") or "").strip()
    if not 1 <= len(name) <= 50:
        raise ServiceError(400, "invalid_param", "a tag's name has 1 to 50 characters")
    return name
