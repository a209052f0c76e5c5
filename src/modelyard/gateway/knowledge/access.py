"""Access routes: who may read the documents of a dataset."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.json_types import is_object
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge.calls import DatasetRequest
from modelyard.gateway.service.calls import ServiceError, list_of
from modelyard.knowledge.access import AccessList, list_of_principals
from modelyard.knowledge.entities import Dataset, Document

MAX_CHANGED_LISTS = 1000
"""Maximum number of documents whose lists one request changes."""


class AccessCalls:
    """Routes for the access lists of documents. The default of a dataset is one of its
    settings."""

    async def get(
        self,
        request: DatasetRequest,
    ) -> Reply:
        """Return the access list of a document; null if it has none.

        Raises NotFoundError, ServiceError.
        """
        return _access_reply(*await self._document(request))

    async def set(
        self,
        request: DatasetRequest,
    ) -> Reply:
        """Replace the access list of a document. It applies to the next search.

        Raises NotFoundError, ServiceError, InvokeBadRequestError.
        """
        dataset, document = await self._document(request)
        access = convert_access(request.body, "body")
        await request.datasets.access.set(dataset, {document.id: access})
        return _access_reply(*await self._document(request))

    async def remove(
        self,
        request: DatasetRequest,
    ) -> Reply:
        """Remove the access list of a document, so that the dataset's default applies.

        Raises NotFoundError, ServiceError.
        """
        dataset, document = await self._document(request)
        await request.datasets.access.set(dataset, {document.id: None})
        return Reply(b"", status=204)

    async def set_many(
        self,
        request: DatasetRequest,
    ) -> Reply:
        """Set the access lists of several documents, all of them or none.

        Raises NotFoundError, ServiceError, InvokeBadRequestError.
        """
        dataset = await request.dataset()
        changes = list_of(request.body, "documents")
        if not 1 <= len(changes) <= MAX_CHANGED_LISTS:
            raise ServiceError(
                400,
                "invalid_param",
                f"'documents' must have 1 to {MAX_CHANGED_LISTS:,} items, got"
                f" {len(changes):,}",
            )
        # Of two changes of one document the later one counts.
        lists = dict(_change(change, index) for index, change in enumerate(changes))
        await request.datasets.access.set(dataset, lists)
        return json_reply({"result": "success"})

    async def _document(self, request: DatasetRequest) -> tuple[Dataset, Document]:
        """Return the document of the path. Who may read it is told to those alone who
        manage its dataset. Raises NotFoundError, ServiceError."""
        dataset = await request.dataset()
        document = await request.datasets.store.documents.get(
            request.tenant, dataset.id, request.names["document"]
        )
        return dataset, document


def _access_reply(
    dataset: Dataset,
    document: Document,
) -> Reply:
    """Return the reply with a document's list and its dataset's default."""
    access = list_of_principals(document.readers)
    return json_reply(
        {
            "access": msgspec.to_builtins(access),
            "default_access": dataset.settings.default_access,
        }
    )


def convert_access(
    value: Any,
    name: str,
) -> AccessList:
    """Return the access list of a request. Unlike elsewhere, unknown fields are errors:
    a misspelt one would be a list that lacks somebody.

    Raises ServiceError with the path and the reason.
    """
    try:
        return msgspec.convert(value, AccessList)
    except msgspec.ValidationError as error:
        raise ServiceError(400, "invalid_param", f"{name}: {error}") from error


def _change(
    change: Any,
    index: int,
) -> tuple[str, AccessList | None]:
    """Return the id and the list of one change. A list that is missing is no reason to
    remove the one that there is. Raises ServiceError."""
    path = f"documents[{index}]"
    if not is_object(change) or not isinstance(change.get("document_id"), str):
        raise ServiceError(400, "invalid_param", f"{path}: 'document_id' is required")
    if "access" not in change:
        raise ServiceError(
            400,
            "invalid_param",
            f"{path}: 'access' must be a list, or null to remove it",
        )
    document, access = change["document_id"], change["access"]
    if access is None:
        return document, None
    return document, convert_access(access, f"{path}.access")


def access_of_body(
    body: Mapping[str, Any],
) -> AccessList | None:
    """Return the access list in the body of a request that adds or replaces a document;
    None if it sets none. Raises ServiceError."""
    access = body.get("access")
    return None if access is None else convert_access(access, "access")
