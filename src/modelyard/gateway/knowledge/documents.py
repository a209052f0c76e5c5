"""Document routes: add, list, change and delete the documents of a dataset, and follow
their indexing."""

import asyncio
import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge import shapes
from modelyard.gateway.knowledge.access import access_of_body
from modelyard.gateway.knowledge.calls import (
    DatasetParts,
    DatasetRequest,
    convert_value,
    page_reply,
    uploaded_file,
)
from modelyard.gateway.knowledge.settings import SettingsReader, check_rule
from modelyard.gateway.service.calls import (
    ServiceError,
    list_of,
)
from modelyard.knowledge.access import principals_of_list
from modelyard.knowledge.entities import (
    Dataset,
    DocForm,
    Document,
    ProcessRule,
)

# The files and the archive are held in memory.
_MAX_ARCHIVE_BYTES = 512 << 20
_FILE_SECONDS = 3600.0
_ACTIONS = ("enable", "disable", "archive", "un_archive")


class DocumentCalls:
    """Routes for the documents of a dataset."""

    def __init__(self, parts: DatasetParts) -> None:
        self._parts = parts
        self._settings = SettingsReader(parts)

    async def create_by_text(self, request: DatasetRequest) -> Reply:
        """Add a document from text, or replace the one in `original_document_id`.

        Raises NotFoundError, ServiceError.
        """
        dataset, body = await self._dataset_for_upload(request), request.body
        name, text = str(body.get("name") or ""), body.get("text")
        if not name or not isinstance(text, str) or not text.strip():
            raise ServiceError(400, "invalid_param", "'name' and 'text' are required")
        # With the id of a document, the create route replaces that document.
        if old := body.get("original_document_id"):
            return await self._update(request, dataset, str(old), name=name, text=text)
        (document,) = await request.datasets.add_texts(
            dataset, [(name, text)], **_new_document_options(body)
        )
        return self._document_reply(document, dataset)

    async def create_by_file(self, request: DatasetRequest) -> Reply:
        """Add a document from an uploaded file, or replace the one in
        `original_document_id`.

        Raises NotFoundError, ServiceError.
        """
        dataset, body = await self._dataset_for_upload(request), request.payload()
        name, data = uploaded_file(request)
        if old := body.get("original_document_id"):
            document = await request.datasets.store.documents.get(
                request.tenant, dataset.id, str(old)
            )
            await _change_access(request, dataset, document, body)
            indexed_document = await request.datasets.update_file(
                dataset, document, name, data, **_indexing_options(body)
            )
        else:
            indexed_document = await request.datasets.add_file(
                dataset,
                str(body.get("name") or name),
                data,
                **_new_document_options(body),
            )
        return self._document_reply(indexed_document, dataset)

    async def _dataset_for_upload(self, request: DatasetRequest) -> Dataset:
        """Return the dataset of a request that adds a document. The first document may
        still set how the dataset is indexed.

        Raises ServiceError for an external dataset.
        """
        dataset, body = await request.dataset(), request.payload()
        if dataset.settings.provider == "external":
            raise ServiceError(
                400, "invalid_param", "External datasets are not supported."
            )
        counts = await request.datasets.store.documents.counts(
            request.tenant, dataset.id
        )
        # Once there are documents, their index fixes the settings.
        if counts.get(dataset.id):
            return dataset
        names = (
            "indexing_technique",
            "embedding_model",
            "embedding_model_provider",
            "retrieval_model",
            "doc_form",
        )
        index_options = {
            name: body[name] for name in names if body.get(name) is not None
        }
        if not index_options:
            return dataset
        settings = await self._settings.read(request, dataset.settings, index_options)
        return await request.datasets.store.datasets.update(
            msgspec.structs.replace(dataset, settings=settings)
        )

    def _document_reply(self, document: Document, dataset: Dataset) -> Reply:
        """Return the reply for an added or changed document, with the batch under which
        its indexing can be followed."""
        return json_reply(
            {
                "document": shapes.document_view(document, dataset.settings),
                "batch": document.batch,
            }
        )

    async def _update(
        self, request: DatasetRequest, dataset: Dataset, document_id: str, **values: Any
    ) -> Reply:
        """Replace the text or the name of a document."""
        document = await request.datasets.store.documents.get(
            request.tenant, dataset.id, document_id
        )
        await _change_access(request, dataset, document, request.payload())
        updated_document = await request.datasets.update_text(
            dataset, document, **values, **_indexing_options(request.body)
        )
        return self._document_reply(updated_document, dataset)

    async def update_by_text(self, request: DatasetRequest) -> Reply:
        """Change the name or the text of a document.

        Raises NotFoundError, ServiceError.
        """
        dataset, document = await request.document()
        text = request.body.get("text")
        if text is not None and not isinstance(text, str):
            raise ServiceError(400, "invalid_param", "'text' must be a string")
        name = str(request.body.get("name") or "")
        return await self._update(request, dataset, document.id, name=name, text=text)

    async def update_by_file(self, request: DatasetRequest) -> Reply:
        """Change the name or the file of a document.

        Raises NotFoundError, ServiceError.
        """
        dataset, document = await request.document()
        body = request.payload()
        # A form without a file only renames the document.
        if request.form is None or request.form.file is None:
            return await self._update(
                request, dataset, document.id, name=str(body.get("name") or "")
            )
        name, data = uploaded_file(request)
        options = _indexing_options(body)
        await _change_access(request, dataset, document, body)
        # An explicit name wins over the name of the file.
        if body.get("name"):
            options["title"] = str(body["name"])
        return self._document_reply(
            await request.datasets.update_file(
                dataset, document, name, data, **options
            ),
            dataset,
        )

    async def documents(self, request: DatasetRequest) -> Reply:
        """List the documents of a dataset, filtered by keyword and status."""
        dataset = await request.dataset()
        page, limit = request.number("page", 1, 100_000), request.number("limit", 20)
        documents, total = await request.datasets.store.documents.list_page(
            request.tenant,
            dataset.id,
            keyword=request.http_request.query("keyword") or "",
            state=request.http_request.query("status") or "",
            limit=limit,
            skip=(page - 1) * limit,
        )
        return page_reply(
            [
                shapes.document_view(document, dataset.settings)
                for document in documents
            ],
            total,
            page,
            limit,
        )

    async def document(self, request: DatasetRequest) -> Reply:
        """Return one document, with or without its metadata.

        Raises NotFoundError, ServiceError.
        """
        dataset, document = await request.document()
        metadata_filter = request.http_request.query("metadata") or "all"
        if metadata_filter not in ("all", "only", "without"):
            raise ServiceError(
                400,
                "invalid_metadata",
                f"Invalid metadata value: {metadata_filter[:40]}",
            )
        detail = shapes.document_detail(document, dataset.settings)
        if metadata_filter == "only":
            detail = {name: detail[name] for name in ("id", "doc_type", "doc_metadata")}
        elif metadata_filter == "without":
            detail = {
                name: value
                for name, value in detail.items()
                if name not in ("doc_type", "doc_metadata")
            }
        return json_reply(detail)

    async def delete_document(self, request: DatasetRequest) -> Reply:
        """Delete a document. Archived documents cannot be deleted.

        Raises NotFoundError, ServiceError.
        """
        dataset, document = await request.document()
        if document.is_archived:
            raise ServiceError(
                403,
                "archived_document_immutable",
                "The archived document is not editable.",
            )
        await request.datasets.delete_documents(dataset, [document.id])
        return Reply(b"", status=204)

    async def download(self, request: DatasetRequest) -> Reply:
        """Return the download URL of a document's file.

        Raises NotFoundError, ServiceError.
        """
        _, document = await request.document()
        return json_reply(
            {"url": await self._file_url(request, document, is_download=True)}
        )

    async def uploaded_file(self, request: DatasetRequest) -> Reply:
        """Return the file of a document in the format of an older version of the API.

        Raises NotFoundError, ServiceError.
        """
        _, document = await request.document()
        url = await self._file_url(request, document, is_download=False)
        name = document.name
        return json_reply(
            {
                "id": document.source.get("file"),
                "name": name,
                "size": document.source.get("size"),
                "extension": name.rpartition(".")[2] if "." in name else "",
                "url": url,
                "download_url": url,
                "mime_type": document.source.get("mime_type"),
                "created_by": document.created_by or request.tenant,
                "created_at": int(document.created_at),
            }
        )

    async def _file_url(
        self, request: DatasetRequest, document: Document, *, is_download: bool
    ) -> str:
        """Return a signed URL of a document's file, valid for one hour.

        Raises ServiceError if the document was added as text.
        """
        file = str(document.source.get("file") or "")
        if not file:
            raise ServiceError(
                404, "not_found", "Document does not have an uploaded file to download."
            )
        # The URL is opened by a browser without an API key, so the signature authorises
        # it.
        query = self._parts.files.sign(
            "read", request.tenant, file, seconds=_FILE_SECONDS
        )
        return f"{self._parts.origin()}/files/{file}?{query}{'&as_attachment=true' if is_download else ''}"  # noqa: E501

    async def download_zip(self, request: DatasetRequest) -> Reply:
        """Return the files of several documents as one ZIP archive.

        Raises NotFoundError, ServiceError.
        """
        dataset = await request.dataset()
        ids = [
            str(document_id) for document_id in list_of(request.body, "document_ids")
        ]
        if not ids:
            raise ServiceError(
                400, "invalid_param", "document_ids must name at least one document"
            )
        documents = [
            await request.datasets.store.documents.get(
                request.tenant, dataset.id, document_id
            )
            for document_id in ids
        ]
        files = [await request.datasets.file(document) for document in documents]
        # The archive is built in memory, so its size is limited.
        if sum(len(data) for _, data in files) > _MAX_ARCHIVE_BYTES:
            raise ServiceError(
                400, "invalid_param", "These documents are too large for one archive"
            )
        # Compression takes long; keep the event loop free.
        body = await asyncio.to_thread(_zip, files)
        headers = {"content-disposition": f'attachment; filename="{dataset.id}.zip"'}
        return Reply(body, content_type=b"application/zip", headers=headers)

    async def set_status(self, request: DatasetRequest) -> Reply:
        """Enable, disable, archive or unarchive documents.

        Raises ServiceError.
        """
        dataset, action = await request.dataset(), request.names["action"]
        if action not in _ACTIONS:
            raise ServiceError(
                400, "invalid_action", f"Invalid action: {action[:40]!r}"
            )
        ids = [
            str(document_id) for document_id in list_of(request.body, "document_ids")
        ]
        # Two flags for four actions: `archived` and `enabled`.
        changed: dict[str, bool] = (
            {"archived": action == "archive"}
            if action.endswith("archive")
            else {"enabled": action == "enable"}
        )
        await request.datasets.store.library.set_flags(
            request.tenant, dataset.id, ids, **changed
        )
        return json_reply({"result": "success"})

    async def indexing_status(self, request: DatasetRequest) -> Reply:
        """Return the indexing status of all documents of a batch.

        Raises ServiceError if there are none.
        """
        dataset = await request.dataset()
        batch = request.names["batch"]
        documents, _ = await request.datasets.store.documents.list_page(
            request.tenant, dataset.id, batch=batch, limit=10_000
        )
        if not documents:
            raise ServiceError(404, "not_found", "Documents not found.")
        # The list is newest first; this route returns the documents in the order in
        # which they were added.
        return json_reply(
            {
                "data": [
                    shapes.indexing_view(document) for document in reversed(documents)
                ]
            }
        )

    async def command(self, request: DatasetRequest) -> Reply:
        """pause-, resume-, retry- and cancel-indexing. An extension of the original
        API.

        Raises NotFoundError, ServiceError.
        """
        dataset, document = await request.document()
        command = request.names["command"]
        store = request.datasets.store
        if command in ("pause", "cancel"):
            is_accepted = await store.documents.command(
                request.tenant, dataset.id, document.id, command
            )
        elif command in ("resume", "retry"):
            is_accepted = await store.documents.retry(
                request.tenant, dataset.id, document.id
            )
        else:
            raise ServiceError(
                404,
                "not_found",
                f"{command[:40]!r} is unknown; expected pause, resume, retry or cancel",
            )
        # The indexer would notice the change only at its next poll.
        request.datasets.indexer.notify()
        if not is_accepted:
            raise ServiceError(
                400,
                "invalid_action",
                f"Cannot {command} a document with status {document.status.value}",
            )
        return json_reply({"result": "success"})


def _indexing_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the indexing options that a request sets.

    Raises ServiceError.
    """
    options: dict[str, Any] = {}
    if body.get("process_rule") is not None:
        rule = convert_value(body["process_rule"], ProcessRule, "process_rule")
        check_rule(rule)
        options["rule"] = rule
    if body.get("doc_form") is not None:
        options["form"] = convert_value(body["doc_form"], DocForm, "doc_form")
    if body.get("doc_language"):
        options["language"] = str(body["doc_language"])
    return options


def _new_document_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a new document: it has its access list from the beginning.

    Raises ServiceError.
    """
    readers = principals_of_list(access_of_body(body))
    return {**_indexing_options(body), "readers": readers}


async def _change_access(
    request: DatasetRequest,
    dataset: Dataset,
    document: Document,
    body: Mapping[str, Any],
) -> None:
    """Set the access list that a request for a document's new content contains, before
    that content can be found. Raises ServiceError."""
    if (access := access_of_body(body)) is not None:
        await request.datasets.access.set(dataset, {document.id: access})


def _zip(files: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a ZIP archive of files."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        used_names: set[str] = set()
        for index, (name, data) in enumerate(files):
            # Documents can have equal names; an index makes each unique.
            archive_name = name if name not in used_names else f"{index + 1}-{name}"
            used_names.add(archive_name)
            archive.writestr(archive_name, data)
    return target.getvalue()
