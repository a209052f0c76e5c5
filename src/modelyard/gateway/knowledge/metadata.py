"""What is known of documents beside their text: a dataset's fields, and each document's values."""

from typing import Any

import msgspec

from modelyard.base.fields import few
from modelyard.base.ids import new_uuid
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge.calls import Asked
from modelyard.gateway.service.calls import (
    ServiceError,
    list_of,
)
from modelyard.knowledge.entities import (
    Dataset,
    MetadataField,
)
from modelyard.knowledge.filters import BUILT_IN
from modelyard.models.types import JSON

_MOST_DOCUMENTS, _MOST_FIELDS = 1000, 200
"""Whose metadata are set at once, and values of each."""


class MetadataCalls:
    """A dataset's fields."""

    async def fields(self, asked: Asked) -> Reply:
        dataset = await asked.dataset()
        about = await asked.datasets.stored.documents.about(asked.tenant, dataset.id)
        values = [msgspec.json.decode(row["metadata"]) for row in about]
        return json_reply({
            "doc_metadata": [
                {"id": one.id, "name": one.name, "type": one.type, "count": sum(one.name in each for each in values)}
                for one in dataset.settings.fields
            ],
            "built_in_field_enabled": dataset.settings.built_in_field_enabled,
        })  # fmt: skip

    async def _with_fields(self, asked: Asked, dataset: Dataset, fields: list[MetadataField]) -> None:
        settings = msgspec.structs.replace(dataset.settings, fields=fields)
        await asked.datasets.stored.datasets.change(msgspec.structs.replace(dataset, settings=settings))

    async def add_field(self, asked: Asked) -> Reply:
        dataset = await asked.dataset()
        name = _field_name(asked.body, dataset)
        kind = asked.body.get("type")
        if kind not in ("string", "number", "time"):
            raise ServiceError(400, "invalid_param", "type must be string, number or time")
        one = MetadataField(id=new_uuid(), name=name, type=kind)
        await self._with_fields(asked, dataset, [*dataset.settings.fields, one])
        return json_reply({"id": one.id, "name": one.name, "type": one.type}, status=201)

    def _field(self, asked: Asked, dataset: Dataset) -> MetadataField:
        found = next((one for one in dataset.settings.fields if one.id == asked.names["field"]), None)
        if found is None:
            raise ServiceError(404, "not_found", "Metadata not found.")
        return found

    async def rename_field(self, asked: Asked) -> Reply:
        dataset = await asked.dataset()
        one, name = self._field(asked, dataset), _field_name(asked.body, dataset)
        await self._rewritten(asked, dataset, one.name, name)
        renamed = msgspec.structs.replace(one, name=name)
        fields = [renamed if each.id == one.id else each for each in dataset.settings.fields]
        await self._with_fields(asked, dataset, fields)
        return json_reply({"id": one.id, "name": name, "type": one.type})

    async def delete_field(self, asked: Asked) -> Reply:
        dataset = await asked.dataset()
        one = self._field(asked, dataset)
        await self._rewritten(asked, dataset, one.name, None)
        await self._with_fields(asked, dataset, [each for each in dataset.settings.fields if each.id != one.id])
        return Reply(b"", status=204)

    async def _rewritten(self, asked: Asked, dataset: Dataset, old: str, new: str | None) -> None:
        """Documents' values under another name, or gone."""
        stored = asked.datasets.stored
        found, _ = await stored.documents.listed(asked.tenant, dataset.id, most=10_000_000)
        for one in found:
            if old in one.metadata:
                metadata = {
                    new if name == old else name: value for name, value in one.metadata.items() if new or name != old
                }
                await stored.library.describe(msgspec.structs.replace(one, metadata=metadata))

    async def built_in(self, asked: Asked) -> Reply:
        await asked.dataset()
        return json_reply({"fields": [{"name": name, "type": kind} for name, kind in BUILT_IN.items()]})

    async def set_built_in(self, asked: Asked) -> Reply:
        dataset, action = await asked.dataset(), asked.names["action"]
        if action not in ("enable", "disable"):
            raise ServiceError(400, "invalid_action", f"Invalid action: {action[:40]!r}")
        settings = msgspec.structs.replace(dataset.settings, built_in_field_enabled=action == "enable")
        await asked.datasets.stored.datasets.change(msgspec.structs.replace(dataset, settings=settings))
        return json_reply({"result": "success"})

    async def set_metadata(self, asked: Asked) -> Reply:
        dataset = await asked.dataset()
        fields = {one.id: one for one in dataset.settings.fields}
        stored = asked.datasets.stored
        if not asked.body.get("operation_data"):
            raise ServiceError(400, "invalid_param", "operation_data is required")
        for operation in few(list_of(asked.body, "operation_data"), _MOST_DOCUMENTS, "operation_data"):
            if not isinstance(operation, dict):
                raise ServiceError(400, "invalid_param", "operation_data is a list of objects")
            document = await stored.documents.get(asked.tenant, dataset.id, str(operation.get("document_id")))
            given: dict[str, Any] = {}
            for one in few(list_of(operation, "metadata_list"), _MOST_FIELDS, "metadata_list"):
                field = fields.get(str(one.get("id"))) if isinstance(one, dict) else None
                if field is None:
                    raise ServiceError(
                        400, "invalid_param", "metadata_list names a field that the dataset does not have"
                    )
                given[field.name] = one.get("value")
            named = {one.name for one in dataset.settings.fields}
            kept = (
                document.metadata if operation.get("partial_update")
                else {name: value for name, value in document.metadata.items() if name not in named}
            )  # fmt: skip
            await stored.library.describe(msgspec.structs.replace(document, metadata={**kept, **given}))
        return json_reply({"result": "success"})


def _field_name(body: JSON, dataset: Dataset) -> str:
    name = str(body.get("name") or "").strip()
    if not name or len(name) > 255:
        raise ServiceError(400, "invalid_param", "Metadata name has 1 to 255 characters.")
    if name in BUILT_IN:
        raise ServiceError(400, "invalid_param", "Metadata name already exists in Built-in fields.")
    if any(one.name == name for one in dataset.settings.fields):
        raise ServiceError(400, "invalid_param", "Metadata name already exists.")
    return name
