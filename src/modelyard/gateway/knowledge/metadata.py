"""Metadata routes: the metadata fields of a dataset, and the values of its documents."""

from typing import Any

import msgspec

from modelyard.base.fields import limited_list
from modelyard.base.ids import new_uuid
from modelyard.base.json_types import is_object
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge.calls import DatasetRequest
from modelyard.gateway.service.calls import (
    ServiceError,
    list_of,
)
from modelyard.knowledge.entities import (
    Dataset,
    MetadataField,
)
from modelyard.knowledge.filters import BUILT_IN, is_numeric, to_timestamp
from modelyard.models.types import JSON

_MAX_DOCUMENTS, _MAX_FIELDS = 1000, 200
"""Maximum number of documents changed in one request, and of values for each."""


class MetadataCalls:
    """Routes for the metadata of a dataset."""

    async def fields(self, request: DatasetRequest) -> Reply:
        """List the metadata fields, with the number of documents that have a value for
        each."""
        dataset = await request.dataset()
        # Only the metadata column is read, not the documents.
        metadata_rows = await request.datasets.store.documents.filter_metadata(
            request.tenant, dataset.id
        )
        values = [msgspec.json.decode(row["metadata"]) for row in metadata_rows]
        return json_reply(
            {
                "doc_metadata": [
                    {
                        "id": field.id,
                        "name": field.name,
                        "type": field.type,
                        "count": sum(field.name in metadata for metadata in values),
                    }
                    for field in dataset.settings.fields
                ],
                "built_in_field_enabled": dataset.settings.built_in_field_enabled,
            }
        )

    async def _store_fields(
        self, request: DatasetRequest, dataset: Dataset, fields: list[MetadataField]
    ) -> None:
        """Store another list of metadata fields."""
        settings = msgspec.structs.replace(dataset.settings, fields=fields)
        await request.datasets.store.datasets.update(
            msgspec.structs.replace(dataset, settings=settings)
        )

    async def add_field(self, request: DatasetRequest) -> Reply:
        """Add a metadata field.

        Raises NotFoundError, ServiceError.
        """
        dataset = await request.dataset()
        name = _field_name(request.body, dataset)
        field_type = request.body.get("type")
        if field_type not in ("string", "number", "time"):
            raise ServiceError(
                400, "invalid_param", "'type' must be string, number or time"
            )
        field = MetadataField(id=new_uuid(), name=name, type=field_type)
        await self._store_fields(request, dataset, [*dataset.settings.fields, field])
        return json_reply(
            {"id": field.id, "name": field.name, "type": field.type}, status=201
        )

    def _field(self, request: DatasetRequest, dataset: Dataset) -> MetadataField:
        """Return the field of the request's path.

        Raises ServiceError.
        """
        match = next(
            (
                field
                for field in dataset.settings.fields
                if field.id == request.names["field"]
            ),
            None,
        )
        if match is None:
            raise ServiceError(404, "not_found", "Metadata not found.")
        return match

    async def rename_field(self, request: DatasetRequest) -> Reply:
        """Rename a field, and its values in all documents.

        Raises NotFoundError, ServiceError.
        """
        dataset = await request.dataset()
        field, name = self._field(request, dataset), _field_name(request.body, dataset)
        # Documents store values by name, so they have to be rewritten before the field
        # is renamed.
        await self._rename_values(request, dataset, field.name, name)
        renamed = msgspec.structs.replace(field, name=name)
        fields = [
            renamed if existing.id == field.id else existing
            for existing in dataset.settings.fields
        ]
        await self._store_fields(request, dataset, fields)
        return json_reply({"id": field.id, "name": name, "type": field.type})

    async def delete_field(self, request: DatasetRequest) -> Reply:
        """Delete a field, and its values in all documents.

        Raises NotFoundError, ServiceError.
        """
        dataset = await request.dataset()
        field = self._field(request, dataset)
        await self._rename_values(request, dataset, field.name, None)
        await self._store_fields(
            request,
            dataset,
            [
                existing
                for existing in dataset.settings.fields
                if existing.id != field.id
            ],
        )
        return Reply(b"", status=204)

    async def _rename_values(
        self, request: DatasetRequest, dataset: Dataset, old: str, new: str | None
    ) -> None:
        """Rename a metadata value in all documents; with `new` None, remove it."""
        store = request.datasets.store
        # The limit is larger than any dataset.
        documents, _ = await store.documents.list_page(
            request.tenant, dataset.id, limit=10_000_000
        )
        for document in documents:
            if old in document.metadata:
                metadata = {
                    new if name == old else name: value
                    for name, value in document.metadata.items()
                    if new or name != old
                }
                await store.library.update_description(
                    msgspec.structs.replace(document, metadata=metadata)
                )

    async def built_in(self, request: DatasetRequest) -> Reply:
        """List the built-in metadata fields."""
        # Only checks that the dataset exists.
        await request.dataset()
        return json_reply(
            {
                "fields": [
                    {"name": name, "type": field_type}
                    for name, field_type in BUILT_IN.items()
                ]
            }
        )

    async def set_built_in(self, request: DatasetRequest) -> Reply:
        """Enable or disable the built-in metadata fields.

        Raises NotFoundError, ServiceError.
        """
        dataset, action = await request.dataset(), request.names["action"]
        if action not in ("enable", "disable"):
            raise ServiceError(
                400, "invalid_action", f"Invalid action: {action[:40]!r}"
            )
        settings = msgspec.structs.replace(
            dataset.settings, built_in_field_enabled=action == "enable"
        )
        await request.datasets.store.datasets.update(
            msgspec.structs.replace(dataset, settings=settings)
        )
        return json_reply({"result": "success"})

    async def set_metadata(self, request: DatasetRequest) -> Reply:
        """Set the metadata values of several documents.

        Raises NotFoundError, ServiceError.
        """
        dataset = await request.dataset()
        store = request.datasets.store
        if not request.body.get("operation_data"):
            raise ServiceError(400, "invalid_param", "operation_data is required")
        # The documents are changed one after another; an error leaves the earlier ones
        # changed.
        for operation in limited_list(
            list_of(request.body, "operation_data"), _MAX_DOCUMENTS, "operation_data"
        ):
            if not is_object(operation):
                raise ServiceError(
                    400, "invalid_param", "operation_data must be a list of objects"
                )
            document = await store.documents.get(
                request.tenant, dataset.id, str(operation.get("document_id"))
            )
            new_values = _new_values(operation, dataset)
            remaining = (
                document.metadata
                if operation.get("partial_update")
                else _without_fields(document.metadata, dataset)
            )
            await store.library.update_description(
                msgspec.structs.replace(document, metadata={**remaining, **new_values})
            )
        return json_reply({"result": "success"})


def _new_values(operation: JSON, dataset: Dataset) -> dict[str, Any]:
    """Return the values that an operation sets, by field name.

    Raises ServiceError for a field that the dataset does not have.
    """
    fields = {field.id: field for field in dataset.settings.fields}
    new_values: dict[str, Any] = {}
    for metadata_entry in limited_list(
        list_of(operation, "metadata_list"), _MAX_FIELDS, "metadata_list"
    ):
        # A field is named by its id, because its name can change.
        field = (
            fields.get(str(metadata_entry.get("id")))
            if is_object(metadata_entry)
            else None
        )
        if field is None:
            raise ServiceError(
                400,
                "invalid_param",
                "metadata_list names a field that the dataset does not have",
            )
        new_values[field.name] = _checked_value(field, metadata_entry.get("value"))
    return new_values


def _checked_value(field: MetadataField, value: Any) -> Any:
    """Return a value that a field of its type can have; null removes nothing and is
    empty.

    Raises ServiceError: a value of another type would match no condition, and nothing
    would say so.
    """
    if value is None or (value == "" and field.type != "string"):
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Clients also write numbers and times as texts.
    is_right = {
        "string": isinstance(value, str) or is_number,
        "number": is_number or (isinstance(value, str) and is_numeric(value)),
        "time": (is_number or isinstance(value, str))
        and to_timestamp(value) is not None,
    }
    if not is_right.get(field.type, True):
        raise ServiceError(
            400,
            "invalid_param",
            f"{field.name!r} is of type {field.type}, not {str(value)[:40]!r}",
        )
    return value


def _without_fields(metadata: JSON, dataset: Dataset) -> JSON:
    """Return the values that belong to none of the dataset's fields. A full update
    keeps only these."""
    field_names = {field.name for field in dataset.settings.fields}
    return {name: value for name, value in metadata.items() if name not in field_names}


def _field_name(body: JSON, dataset: Dataset) -> str:
    """Return the field name of a request.

    Raises ServiceError if it is empty, too long or already used.
    """
    name = str(body.get("name") or "").strip()
    if not name or len(name) > 255:
        raise ServiceError(
            400, "invalid_param", "Metadata name must have 1 to 255 characters."
        )
    if name in BUILT_IN:
        raise ServiceError(
            400, "invalid_param", "Metadata name already exists in Built-in fields."
        )
    if any(field.name == name for field in dataset.settings.fields):
        raise ServiceError(400, "invalid_param", "Metadata name already exists.")
    return name
