"""Datasets: made, listed, changed, deleted; and the models that they may be indexed by."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge import shapes
from modelyard.gateway.knowledge.calls import Asked, DatasetParts, page_of
from modelyard.gateway.knowledge.settings import SettingsReader
from modelyard.gateway.service.calls import (
    ServiceError,
)
from modelyard.knowledge.entities import (
    Dataset,
    DatasetSettings,
    Technique,
)
from modelyard.knowledge.rows import ConflictError
from modelyard.models.types import JSON, ModelType


class DatasetCalls:
    """A tenant's datasets."""

    def __init__(self, parts: DatasetParts) -> None:
        self._parts = parts
        self._settings = SettingsReader(parts)

    async def create(self, asked: Asked) -> Reply:
        body = asked.body
        name = str(body.get("name") or "")
        settings = await self._settings.read(asked, DatasetSettings(permission="only_me"), body)
        if body.get("indexing_technique") is None and not self._settings.has_embedding(asked.tenant, settings):
            settings = msgspec.structs.replace(settings, indexing_technique=Technique.ECONOMY)
        try:
            one = await asked.datasets.create(
                asked.tenant, name, description=str(body.get("description") or ""), settings=settings
            )
        except ConflictError as error:
            raise ServiceError(
                409, "dataset_name_duplicate", "The dataset name already exists. Please modify your dataset name."
            ) from error
        return json_reply(await self._shape(asked, one))

    async def _shape(self, asked: Asked, one: Dataset) -> JSON:
        stored = asked.datasets.stored
        counts = await stored.documents.counts(asked.tenant, one.id)
        tags = (await stored.tags.bindings(asked.tenant)).get(one.id, [])
        externals: dict[str, Mapping[str, Any]] = {}
        if one.settings.provider == "external":
            externals = {each["id"]: each for each in await self._parts.external.listed(asked.tenant)}
        available = not one.settings.uses_vectors or self._settings.has_embedding(asked.tenant, one.settings)
        return shapes.dataset_shape(one, counts.get(one.id), tags, is_available=available, externals=externals)

    async def listed(self, asked: Asked) -> Reply:
        page, limit = asked.number("page", 1, 100_000), asked.number("limit", 20)
        keyword = (asked.request.query("keyword") or "").lower()
        wanted = set(asked.request.queries("tag_ids"))
        stored = asked.datasets.stored
        counts, bindings = await stored.documents.counts(asked.tenant), await stored.tags.bindings(asked.tenant)
        every = [
            one
            for one in await stored.datasets.of(asked.tenant)
            if keyword in one.name.lower() and wanted <= {row["tag"] for row in bindings.get(one.id, [])}
        ]
        some = every[(page - 1) * limit : page * limit]
        data = [shapes.dataset_shape(one, counts.get(one.id), bindings.get(one.id, [])) for one in some]
        return page_of(data, len(every), page, limit)

    async def one(self, asked: Asked) -> Reply:
        return json_reply(await self._shape(asked, await asked.dataset()))

    async def change(self, asked: Asked) -> Reply:
        before, body = await asked.dataset(), asked.body
        settings = await self._settings.read(asked, before.settings, body)
        name = str(body.get("name") or before.name).strip()
        description = str(body["description"]) if body.get("description") is not None else before.description
        one = msgspec.structs.replace(before, name=name, description=description, settings=settings)
        try:
            one = await asked.datasets.change(one)
        except ConflictError as error:
            raise ServiceError(409, "dataset_name_duplicate", str(error)) from error
        return json_reply(await self._shape(asked, one))

    async def delete(self, asked: Asked) -> Reply:
        await asked.datasets.delete(asked.tenant, asked.names["dataset"])
        return Reply(b"", status=204)

    async def models(self, asked: Asked) -> Reply:
        """GET /v1/workspaces/current/models/model-types/TYPE. Raises ServiceError."""
        kind = asked.names["type"]
        if kind not in {known.value for known in ModelType}:
            raise ServiceError(400, "invalid_param", f"model type {kind[:40]!r} is none")
        return json_reply({"data": list(self._parts.listed(asked.tenant, kind))})
