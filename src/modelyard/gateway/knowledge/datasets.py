"""Dataset routes: create, list, change and delete datasets; list the models that can
index them."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge import shapes
from modelyard.gateway.knowledge.calls import DatasetParts, DatasetRequest, page_reply
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
    """Routes for the datasets of a tenant."""

    def __init__(self, parts: DatasetParts) -> None:
        self._parts = parts
        self._settings = SettingsReader(parts)

    async def create(self, request: DatasetRequest) -> Reply:
        """Create a dataset.

        Raises ServiceError, also if the name is taken.
        """
        body = request.body
        name = str(body.get("name") or "")
        settings = await self._settings.read(
            request, DatasetSettings(permission="only_me"), body
        )
        # Without an embedding model only keyword indexing works, so it becomes the
        # default.
        if body.get("indexing_technique") is None and not self._settings.has_embedding(
            request.tenant, settings
        ):
            settings = msgspec.structs.replace(
                settings, indexing_technique=Technique.ECONOMY
            )
        try:
            dataset = await request.datasets.create(
                request.tenant,
                name,
                description=str(body.get("description") or ""),
                settings=settings,
            )
        except ConflictError as error:
            raise ServiceError(
                409,
                "dataset_name_duplicate",
                "The dataset name already exists. Please modify your dataset name.",
            ) from error
        return json_reply(await self._view(request, dataset))

    async def _view(self, request: DatasetRequest, dataset: Dataset) -> JSON:
        """Return a dataset in the API's format, with its counts, tags and external
        source."""
        store = request.datasets.store
        counts = await store.documents.counts(request.tenant, dataset.id)
        # How much there is that one may not read is none of the caller's business.
        if not await request.manages(dataset):
            counts = {}
        tags = (await store.tags.bindings(request.tenant)).get(dataset.id, [])
        externals: dict[str, Mapping[str, Any]] = {}
        # Only datasets of an external provider refer to external knowledge.
        if dataset.settings.provider == "external":
            externals = {
                external["id"]: external
                for external in await self._parts.external.list(request.tenant)
            }
        # A dataset whose embedding model was removed is listed as unavailable.
        available = not dataset.settings.uses_vectors or self._settings.has_embedding(
            request.tenant, dataset.settings
        )
        return shapes.dataset_view(
            dataset,
            counts.get(dataset.id),
            tags,
            is_available=available,
            externals=externals,
        )

    async def list_datasets(self, request: DatasetRequest) -> Reply:
        """List datasets, filtered by name and tags."""
        page, limit = request.number("page", 1, 100_000), request.number("limit", 20)
        keyword = (request.http_request.query("keyword") or "").lower()
        tag_ids = set(request.http_request.queries("tag_ids"))
        store = request.datasets.store
        counts, bindings = (
            await store.documents.counts(request.tenant),
            await store.tags.bindings(request.tenant),
        )
        # A dataset matches if it has all requested tags.
        matching_datasets = [
            dataset
            for dataset in await store.datasets.list(request.tenant)
            if keyword in dataset.name.lower()
            and tag_ids <= {row["tag"] for row in bindings.get(dataset.id, [])}
        ]
        page_datasets = matching_datasets[(page - 1) * limit : page * limit]
        data = [
            shapes.dataset_view(
                dataset,
                counts.get(dataset.id) if await request.manages(dataset) else None,
                bindings.get(dataset.id, []),
            )
            for dataset in page_datasets
        ]
        return page_reply(data, len(matching_datasets), page, limit)

    async def get_dataset(self, request: DatasetRequest) -> Reply:
        """Return one dataset.

        Raises NotFoundError.
        """
        return json_reply(await self._view(request, await request.searched_dataset()))

    async def change(self, request: DatasetRequest) -> Reply:
        """Change name, description or settings. Fields that are left out keep their
        value.

        Raises NotFoundError, ServiceError.
        """
        old_dataset, body = await request.dataset(), request.body
        settings = await self._settings.read(request, old_dataset.settings, body)
        name = str(body.get("name") or old_dataset.name).strip()
        description = (
            str(body["description"])
            if body.get("description") is not None
            else old_dataset.description
        )
        new_dataset = msgspec.structs.replace(
            old_dataset, name=name, description=description, settings=settings
        )
        try:
            new_dataset = await request.datasets.update(new_dataset)
        except ConflictError as error:
            raise ServiceError(409, "dataset_name_duplicate", str(error)) from error
        return json_reply(await self._view(request, new_dataset))

    async def delete(self, request: DatasetRequest) -> Reply:
        """Delete a dataset.

        Raises NotFoundError.
        """
        await request.datasets.delete(request.tenant, (await request.dataset()).id)
        return Reply(b"", status=204)

    async def models(self, request: DatasetRequest) -> Reply:
        """GET /v1/workspaces/current/models/model-types/TYPE: list the models of a
        type.

        Raises ServiceError.
        """
        model_type = request.names["type"]
        if model_type not in {member.value for member in ModelType}:
            problem = f"Unknown model type {model_type[:40]!r}"
            raise ServiceError(400, "invalid_param", problem)
        models = list(self._parts.listed(request.tenant, model_type))
        return json_reply({"data": models})
