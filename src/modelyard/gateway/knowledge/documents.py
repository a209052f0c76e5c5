"""Documents of a dataset: handed in, listed, changed, looked after while they are indexed."""

import asyncio
import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge import shapes
from modelyard.gateway.knowledge.calls import Asked, DatasetParts, converted, file_of, page_of
from modelyard.gateway.knowledge.settings import SettingsReader, check_rule
from modelyard.gateway.service.calls import (
    ServiceError,
    list_of,
)
from modelyard.knowledge.entities import (
    Dataset,
    DocForm,
    Document,
    ProcessRule,
)

_MOST_ZIPPED = 512 << 20
_FILE_SECONDS = 3600.0
_ACTIONS = ("enable", "disable", "archive", "un_archive")


class DocumentCalls:
    """A dataset's documents."""

    def __init__(self, parts: DatasetParts) -> None:
        self._parts = parts
        self._settings = SettingsReader(parts)

    async def create_by_text(self, asked: Asked) -> Reply:
        dataset, body = await self._prepared(asked), asked.body
        name, text = str(body.get("name") or ""), body.get("text")
        if not name or not isinstance(text, str) or not text.strip():
            raise ServiceError(400, "invalid_param", "name and text are required")
        if old := body.get("original_document_id"):
            return await self._updated(asked, dataset, str(old), name=name, text=text)
        (one,) = await asked.datasets.add_texts(dataset, [(name, text)], **_how(body))
        return self._document(one, dataset)

    async def create_by_file(self, asked: Asked) -> Reply:
        dataset, body = await self._prepared(asked), asked.given()
        name, data = file_of(asked)
        if old := body.get("original_document_id"):
            document = await asked.datasets.stored.documents.get(asked.tenant, dataset.id, str(old))
            one = await asked.datasets.update_file(dataset, document, name, data, **_how(body))
        else:
            one = await asked.datasets.add_file(dataset, str(body.get("name") or name), data, **_how(body))
        return self._document(one, dataset)

    async def _prepared(self, asked: Asked) -> Dataset:
        """The dataset; the first document may still say how it is indexed."""
        dataset, body = await asked.dataset(), asked.given()
        if dataset.settings.provider == "external":
            raise ServiceError(400, "invalid_param", "External datasets are not supported.")
        counts = await asked.datasets.stored.documents.counts(asked.tenant, dataset.id)
        if counts.get(dataset.id):
            return dataset
        names = ("indexing_technique", "embedding_model", "embedding_model_provider", "retrieval_model", "doc_form")
        said = {name: body[name] for name in names if body.get(name) is not None}
        if not said:
            return dataset
        settings = await self._settings.read(asked, dataset.settings, said)
        return await asked.datasets.stored.datasets.change(msgspec.structs.replace(dataset, settings=settings))

    def _document(self, one: Document, dataset: Dataset) -> Reply:
        return json_reply({"document": shapes.document_shape(one, dataset.settings), "batch": one.batch})

    async def _updated(self, asked: Asked, dataset: Dataset, document_id: str, **values: Any) -> Reply:
        document = await asked.datasets.stored.documents.get(asked.tenant, dataset.id, document_id)
        one = await asked.datasets.update_text(dataset, document, **values, **_how(asked.body))
        return self._document(one, dataset)

    async def update_by_text(self, asked: Asked) -> Reply:
        dataset, document = await asked.document()
        text = asked.body.get("text")
        if text is not None and not isinstance(text, str):
            raise ServiceError(400, "invalid_param", "text must be a string")
        name = str(asked.body.get("name") or "")
        return await self._updated(asked, dataset, document.id, name=name, text=text)

    async def update_by_file(self, asked: Asked) -> Reply:
        dataset, document = await asked.document()
        body = asked.given()
        if asked.form is None or asked.form.file is None:
            return await self._updated(asked, dataset, document.id, name=str(body.get("name") or ""))
        name, data = file_of(asked)
        how = _how(body)
        if body.get("name"):
            how["title"] = str(body["name"])
        return self._document(await asked.datasets.update_file(dataset, document, name, data, **how), dataset)

    async def documents(self, asked: Asked) -> Reply:
        dataset = await asked.dataset()
        page, limit = asked.number("page", 1, 100_000), asked.number("limit", 20)
        found, total = await asked.datasets.stored.documents.listed(
            asked.tenant, dataset.id, keyword=asked.request.query("keyword") or "",
            state=asked.request.query("status") or "", most=limit, skip=(page - 1) * limit,
        )  # fmt: skip
        return page_of([shapes.document_shape(one, dataset.settings) for one in found], total, page, limit)

    async def document(self, asked: Asked) -> Reply:
        dataset, document = await asked.document()
        wanted = asked.request.query("metadata") or "all"
        if wanted not in ("all", "only", "without"):
            raise ServiceError(400, "invalid_metadata", f"Invalid metadata value: {wanted[:40]}")
        told = shapes.document_detail(document, dataset.settings)
        if wanted == "only":
            told = {name: told[name] for name in ("id", "doc_type", "doc_metadata")}
        elif wanted == "without":
            told = {name: value for name, value in told.items() if name not in ("doc_type", "doc_metadata")}
        return json_reply(told)

    async def delete_document(self, asked: Asked) -> Reply:
        dataset, document = await asked.document()
        if document.is_archived:
            raise ServiceError(403, "archived_document_immutable", "The archived document is not editable.")
        await asked.datasets.delete_documents(dataset, [document.id])
        return Reply(b"", status=204)

    async def download(self, asked: Asked) -> Reply:
        _, document = await asked.document()
        return json_reply({"url": await self._address(asked, document, is_download=True)})

    async def uploaded(self, asked: Asked) -> Reply:
        """Where the file of a document is, as clients of an older version ask for it."""
        _, document = await asked.document()
        url = await self._address(asked, document, is_download=False)
        name = document.name
        return json_reply({
            "id": document.source.get("file"), "name": name, "size": document.source.get("size"),
            "extension": name.rpartition(".")[2] if "." in name else "", "url": url, "download_url": url,
            "mime_type": document.source.get("mime_type"), "created_by": document.created_by or asked.tenant,
            "created_at": int(document.created_at),
        })  # fmt: skip

    async def _address(self, asked: Asked, document: Document, *, is_download: bool) -> str:
        file = str(document.source.get("file") or "")
        if not file:
            raise ServiceError(404, "not_found", "Document does not have an uploaded file to download.")
        query = self._parts.files.sign("read", asked.tenant, file, seconds=_FILE_SECONDS)
        return f"{self._parts.origin()}/files/{file}?{query}{'&as_attachment=true' if is_download else ''}"

    async def zipped(self, asked: Asked) -> Reply:
        dataset = await asked.dataset()
        ids = [str(one) for one in list_of(asked.body, "document_ids")]
        if not ids:
            raise ServiceError(400, "invalid_param", "document_ids names no document")
        documents = [await asked.datasets.stored.documents.get(asked.tenant, dataset.id, one) for one in ids]
        files = [await asked.datasets.file(one) for one in documents]
        if sum(len(data) for _, data in files) > _MOST_ZIPPED:
            raise ServiceError(400, "invalid_param", "these documents are too large for one archive")
        body = await asyncio.to_thread(_zip, files)
        headers = {"content-disposition": f'attachment; filename="{dataset.id}.zip"'}
        return Reply(body, content_type=b"application/zip", headers=headers)

    async def set_status(self, asked: Asked) -> Reply:
        dataset, action = await asked.dataset(), asked.names["action"]
        if action not in _ACTIONS:
            raise ServiceError(400, "invalid_action", f"Invalid action: {action[:40]!r}")
        ids = [str(one) for one in list_of(asked.body, "document_ids")]
        changed: dict[str, bool] = (
            {"archived": action == "archive"} if action.endswith("archive") else {"enabled": action == "enable"}
        )
        await asked.datasets.stored.library.set_flags(asked.tenant, dataset.id, ids, **changed)
        return json_reply({"result": "success"})

    async def indexing(self, asked: Asked) -> Reply:
        dataset = await asked.dataset()
        batch = asked.names["batch"]
        found, _ = await asked.datasets.stored.documents.listed(asked.tenant, dataset.id, batch=batch, most=10_000)
        if not found:
            raise ServiceError(404, "not_found", "Documents not found.")
        return json_reply({"data": [shapes.indexing_shape(one) for one in reversed(found)]})

    async def command(self, asked: Asked) -> Reply:
        """pause-, resume-, retry- and cancel-indexing: ours."""
        dataset, document = await asked.document()
        wanted = asked.names["command"]
        stored = asked.datasets.stored
        if wanted in ("pause", "cancel"):
            is_done = await stored.documents.command(asked.tenant, dataset.id, document.id, wanted)
        elif wanted in ("resume", "retry"):
            is_done = await stored.documents.retry(asked.tenant, dataset.id, document.id)
        else:
            raise ServiceError(404, "not_found", f"{wanted[:40]!r} is none of pause, resume, retry, cancel")
        asked.datasets.indexer.wake()
        if not is_done:
            raise ServiceError(400, "invalid_action", f"the document is {document.status.value}: nothing to {wanted}")
        return json_reply({"result": "success"})


def _how(body: Mapping[str, Any]) -> dict[str, Any]:
    """How a document is to be indexed, where its caller says so."""
    found: dict[str, Any] = {}
    if body.get("process_rule") is not None:
        rule = converted(body["process_rule"], ProcessRule, "process_rule")
        check_rule(rule)
        found["rule"] = rule
    if body.get("doc_form") is not None:
        found["form"] = converted(body["doc_form"], DocForm, "doc_form")
    if body.get("doc_language"):
        found["language"] = str(body["doc_language"])
    return found


def _zip(files: Sequence[tuple[str, bytes]]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        taken: set[str] = set()
        for at, (name, data) in enumerate(files):
            inside = name if name not in taken else f"{at + 1}-{name}"
            taken.add(inside)
            archive.writestr(inside, data)
    return target.getvalue()
