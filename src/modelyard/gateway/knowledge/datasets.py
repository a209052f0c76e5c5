"""The knowledge API, under `/v1/datasets`: datasets, documents, segments, children, metadata, tags, retrieval.

Callers show a key of the tenant's datasets (`dataset-…`) or any key of the tenant's that may call models. What each
answers: docs/reference/knowledge-api.md.
"""

import asyncio
import io
import uuid
import zipfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, TypeVar

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.fields import few
from modelyard.base.ids import new_uuid
from modelyard.gateway.auth import OriginError, UnauthorizedError
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import Reply, Request, StreamReply, encode, json_reply, sse_reply
from modelyard.gateway.knowledge import shapes
from modelyard.gateway.knowledge.calls import Asked, DatasetParts, Handler, converted, file_of, page_of
from modelyard.gateway.knowledge.pipelines import PipelineCalls
from modelyard.gateway.service.calls import (
    ServiceError,
    error_document,
    list_of,
    mapping_of,
    problem_reply,
    read_object,
)
from modelyard.knowledge.answer import Manner
from modelyard.knowledge.entities import (
    MOST_KEYWORDS,
    Condition,
    Conditions,
    Dataset,
    DatasetSettings,
    DocForm,
    Document,
    ExternalRetrieval,
    MetadataField,
    ProcessRule,
    RetrievalSettings,
    Segment,
    SummaryIndex,
    Technique,
)
from modelyard.knowledge.filters import BUILT_IN
from modelyard.knowledge.retrieve import Asking
from modelyard.knowledge.rows import ConflictError
from modelyard.models.types import JSON, ModelType
from modelyard.runtime.caller import Caller, Role

T = TypeVar("T")
_MOST_ZIPPED = 512 << 20
_MOST_DOCUMENTS, _MOST_FIELDS = 1000, 200
"""Whose metadata are set at once, and values of each."""
_FILE_SECONDS = 3600.0
_ACTIONS = ("enable", "disable", "archive", "un_archive")


_DOCUMENT = "{dataset}/documents/{document}"
_SEGMENT = f"{_DOCUMENT}/segments/{{segment}}"
_ROUTES: dict[str, str] = {
    "POST ": "create", "GET ": "listed", "POST tags": "add_tag", "GET tags": "tags",
    "PATCH tags": "rename_tag", "DELETE tags": "delete_tag", "POST tags/binding": "bind",
    "POST tags/unbinding": "unbind", "GET {dataset}": "one", "PATCH {dataset}": "change",
    "DELETE {dataset}": "delete", "GET {dataset}/tags": "tags_of", "POST {dataset}/tags": "tags_of",
    "POST {dataset}/retrieve": "retrieve", "POST {dataset}/ask": "ask", "POST {dataset}/hit-testing": "retrieve",
    "GET {dataset}/queries": "queries",
    "GET {dataset}/metadata": "fields", "POST {dataset}/metadata": "add_field",
    "PATCH {dataset}/metadata/{field}": "rename_field",
    "DELETE {dataset}/metadata/{field}": "delete_field",
    "GET {dataset}/metadata/built-in": "built_in",
    "POST {dataset}/metadata/built-in/{action}": "set_built_in",
    "DELETE {dataset}/metadata/built-in/{action}": "set_built_in",
    "POST {dataset}/documents/metadata": "set_metadata", "GET {dataset}/documents": "documents",
    "POST {dataset}/documents/download-zip": "zipped",
    "PATCH {dataset}/documents/status/{action}": "set_status",
    "GET {dataset}/documents/{batch}/indexing-status": "indexing",
    f"GET {_DOCUMENT}": "document", f"DELETE {_DOCUMENT}": "delete_document",
    f"PATCH {_DOCUMENT}": "update_by_file", f"GET {_DOCUMENT}/download": "download",
    f"GET {_DOCUMENT}/upload-file": "uploaded", f"POST {_DOCUMENT}/{{command}}-indexing": "command",
    f"GET {_DOCUMENT}/segments": "segments", f"POST {_DOCUMENT}/segments": "add_segments",
    f"GET {_SEGMENT}": "segment", f"POST {_SEGMENT}": "change_segment",
    f"DELETE {_SEGMENT}": "delete_segment", f"GET {_SEGMENT}/child_chunks": "children",
    f"POST {_SEGMENT}/child_chunks": "add_child",
    f"PATCH {_SEGMENT}/child_chunks/{{child}}": "change_child",
    f"DELETE {_SEGMENT}/child_chunks/{{child}}": "delete_child",
}  # fmt: skip
for _dash in "-", "_":  # older clients write underscores
    _ROUTES.update(
        {
            f"POST {{dataset}}/document/create{_dash}by{_dash}text": "create_by_text",
            f"POST {{dataset}}/document/create{_dash}by{_dash}file": "create_by_file",
            f"POST {_DOCUMENT}/update{_dash}by{_dash}text": "update_by_text",
            f"POST {_DOCUMENT}/update{_dash}by{_dash}file": "update_by_file",
        }
    )


class DatasetRoutes:
    """All of it. A pattern is a method and a path below `/v1/datasets`, with names in braces."""

    admits_itself: ClassVar[bool] = True

    def __init__(self, parts: DatasetParts) -> None:
        self._parts = parts
        handlers = {**{key: getattr(self, name) for key, name in _ROUTES.items()}, **PipelineCalls().routes}
        self._table = [(*_pattern(key), handler) for key, handler in handlers.items()]

    @staticmethod
    def patterns() -> list[tuple[str, str]]:
        """(method, path below `/v1/datasets/`) of every route."""
        return [
            (method, path) for method, _, path in (key.partition(" ") for key in (*_ROUTES, *PipelineCalls().routes))
        ]

    # ways in

    async def __call__(self, request: Request) -> Reply | StreamReply:
        try:
            request.identify(await self._caller(request))
            handler, names = self._found(request)
            asked = Asked(request, request.tenant, self._parts, names, {})
            await _read_body(asked)
            return await handler(asked)
        except ModelyardError as error:
            return problem_reply(error)

    async def _caller(self, request: Request) -> Caller:
        """Who asks. Raises ServiceError."""
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        if scheme.lower() == "bearer" and key.strip().startswith("dataset-"):
            tenant = self._parts.tenant_of_key(key.strip())
            if tenant is None:
                raise ServiceError(401, "unauthorized", "Access token is invalid")
            return Caller(tenant=tenant, role=Role.DEVELOPER)
        try:
            caller = await self._parts.gatekeeper.caller_of(request.scope)
        except OriginError as error:
            raise ServiceError(403, "forbidden", str(error)) from error
        except (UnauthorizedError, NotFoundError) as error:
            raise ServiceError(401, "unauthorized", str(error)) from error
        if not caller.role.covers(Role.DEVELOPER):
            raise ServiceError(403, "forbidden", f"this takes the role 'developer'; the key's is {caller.role.value!r}")
        return caller

    def _found(self, request: Request) -> tuple[Handler, dict[str, str]]:
        rest = request.path.removeprefix("/v1/datasets").strip("/")
        pieces = rest.split("/") if rest else []
        other: list[str] = []
        for method, pattern, handler in self._table:
            names = _names(pattern, pieces)
            if names is None:
                continue
            if method == request.method:
                return handler, names
            other.append(method)
        if other:
            raise ServiceError(405, "method_not_allowed", f"{request.path!r} takes {', '.join(other)}")
        raise ServiceError(404, "not_found", f"there is nothing at {request.path!r}")

    # datasets

    async def create(self, asked: Asked) -> Reply:
        body = asked.body
        name = str(body.get("name") or "")
        settings = await self._settings(asked, DatasetSettings(permission="only_me"), body)
        if body.get("indexing_technique") is None and not self._has_embedding(asked.tenant, settings):
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

    def _has_embedding(self, tenant: str, settings: DatasetSettings) -> bool:
        try:
            self._parts.models().find(tenant, settings.embedding, ModelType.TEXT_EMBEDDING)
        except ModelyardError:
            return False
        return True

    async def _settings(self, asked: Asked, settings: DatasetSettings, body: Mapping[str, Any]) -> DatasetSettings:
        """As the body says, where it says something. Raises ServiceError."""
        changed: dict[str, Any] = {}
        for name in ("permission", "provider", "embedding_model", "embedding_model_provider", "external_knowledge_id",
                     "external_knowledge_api_id"):  # fmt: skip
            if body.get(name) is not None:
                changed[name] = converted(body[name], str, name)
        readers: dict[str, Any] = {
            "indexing_technique": Technique, "doc_form": DocForm, "retrieval_model": RetrievalSettings,
            "process_rule": ProcessRule, "external_retrieval_model": ExternalRetrieval,
            "summary_index_setting": SummaryIndex,
        }  # fmt: skip
        for name, kind in readers.items():
            if body.get(name) is not None:
                changed[name] = converted(body[name], kind, name)
        if body.get("partial_member_list") is not None:
            members = list_of(dict(body), "partial_member_list")
            changed["members"] = [str(one.get("user_id") if isinstance(one, dict) else one) for one in members]
        if changed.get("provider", "vendor") not in ("vendor", "external"):
            raise ServiceError(400, "invalid_param", "provider must be vendor or external")
        if changed.get("permission", "only_me") not in ("only_me", "all_team_members", "partial_members"):
            raise ServiceError(400, "invalid_param", "permission must be only_me, all_team_members or partial_members")
        if (rule := changed.get("process_rule")) is not None:
            _check_rule(rule)
        settings = msgspec.structs.replace(settings, **changed)
        if changed.get("embedding_model") and not self._has_embedding(asked.tenant, settings):
            raise ServiceError(
                400, "provider_not_initialize", f"embedding model {settings.embedding!r} is not available here"
            )
        if settings.provider == "external":
            known = {one["id"] for one in await self._parts.external().listed(asked.tenant)}
            if settings.external_knowledge_api_id not in known or not settings.external_knowledge_id:
                raise ServiceError(
                    400, "invalid_param", "an external dataset needs external_knowledge_id and the id of an external "
                    "knowledge API that is known here",
                )  # fmt: skip
        return settings

    async def _shape(self, asked: Asked, one: Dataset) -> JSON:
        stored = asked.datasets.stored
        counts = await stored.documents.counts(asked.tenant, one.id)
        tags = (await stored.tags.bindings(asked.tenant)).get(one.id, [])
        externals: dict[str, Mapping[str, Any]] = {}
        if one.settings.provider == "external":
            externals = {each["id"]: each for each in await self._parts.external().listed(asked.tenant)}
        available = not one.settings.uses_vectors or self._has_embedding(asked.tenant, one.settings)
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
        settings = await self._settings(asked, before.settings, body)
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

    # documents

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
        settings = await self._settings(asked, dataset.settings, said)
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

    # segments

    async def _segment_shape(self, asked: Asked, one: Segment, document: Document) -> JSON:
        children = []
        if shapes.is_hierarchical(document):
            children, _ = await asked.datasets.stored.segments.children(asked.tenant, one.id)
        return shapes.segment_shape(one, children)

    async def segments(self, asked: Asked) -> Reply:
        _, document = await asked.document()
        page, limit = asked.number("page", 1, 100_000), asked.number("limit", 20)
        found, total = await asked.datasets.stored.segments.listed(
            asked.tenant, document.id, keyword=asked.request.query("keyword") or "", most=limit, skip=(page - 1) * limit
        )
        data = [await self._segment_shape(asked, one, document) for one in found]
        return json_reply({
            "data": data, "doc_form": document.form.value, "total": total, "has_more": page * limit < total,
            "limit": limit, "page": page,
        })  # fmt: skip

    async def add_segments(self, asked: Asked) -> Reply:
        dataset, document = await asked.document()
        given = list_of(asked.body, "segments")
        if not given or not all(isinstance(one, dict) for one in given):
            raise ServiceError(400, "invalid_param", "Segments is required")
        made = await asked.datasets.segments.add(dataset, document, given)
        data = [await self._segment_shape(asked, one, document) for one in made]
        return json_reply({"data": data, "doc_form": document.form.value})

    async def segment(self, asked: Asked) -> Reply:
        _, document, segment = await asked.segment()
        shape = await self._segment_shape(asked, segment, document)
        return json_reply({"data": shape, "doc_form": document.form.value})

    async def change_segment(self, asked: Asked) -> Reply:
        dataset, document, segment = await asked.segment()
        given = asked.body.get("segment")
        if not isinstance(given, dict):
            raise ServiceError(400, "invalid_param", "segment must be an object")
        changed: dict[str, Any] = {}
        for name in ("content", "answer", "summary"):
            if given.get(name) is not None:
                changed[name] = str(given[name])
        if given.get("keywords") is not None:
            changed["keywords"] = [str(one) for one in few(list_of(given, "keywords"), MOST_KEYWORDS, "keywords")]
        if given.get("enabled") is not None:
            changed["is_enabled"] = bool(given["enabled"])
        if "content" in changed and not changed["content"].strip():
            raise ServiceError(400, "invalid_param", "Content is empty")
        splits = "content" in changed and changed["content"] != segment.content
        one = await asked.datasets.segments.change(
            dataset, document, msgspec.structs.replace(segment, **changed),
            splits_anew=bool(given.get("regenerate_child_chunks")) or splits,
        )  # fmt: skip
        return json_reply({"data": await self._segment_shape(asked, one, document), "doc_form": document.form.value})

    async def delete_segment(self, asked: Asked) -> Reply:
        _, _, segment = await asked.segment()
        await asked.datasets.stored.publisher.delete_segment(segment)
        return Reply(b"", status=204)

    # children

    async def children(self, asked: Asked) -> Reply:
        _, _, segment = await asked.segment()
        page, limit = asked.number("page", 1, 100_000), asked.number("limit", 20)
        found, total = await asked.datasets.stored.segments.children(
            asked.tenant, segment.id, keyword=asked.request.query("keyword") or "", most=limit, skip=(page - 1) * limit
        )
        return json_reply({
            "data": [shapes.child_shape(one) for one in found], "total": total, "total_pages": -(-total // limit),
            "page": page, "limit": limit,
        })  # fmt: skip

    def _content(self, asked: Asked) -> str:
        content = asked.body.get("content")
        if not isinstance(content, str) or not content.strip():
            raise ServiceError(400, "invalid_param", "content is required")
        return content

    async def _set_children(self, asked: Asked, change: Callable[[list[str]], None]) -> list[JSON]:
        dataset, document, segment = await asked.segment()
        if not shapes.is_hierarchical(document):
            raise ServiceError(400, "invalid_param", "only hierarchical documents have child chunks")
        kept, _ = await asked.datasets.stored.segments.children(asked.tenant, segment.id)
        contents = [one.content for one in kept]
        change(contents)
        await asked.datasets.segments.set_children(dataset, document, segment, contents)
        found, _ = await asked.datasets.stored.segments.children(asked.tenant, segment.id)
        return [shapes.child_shape(one) for one in found]

    async def add_child(self, asked: Asked) -> Reply:
        content = self._content(asked)
        return json_reply({"data": (await self._set_children(asked, lambda kept: kept.append(content)))[-1]})

    async def _place(self, asked: Asked) -> int:
        _, _, segment = await asked.segment()
        await asked.datasets.stored.segments.child(asked.tenant, segment.id, asked.names["child"])
        kept, _ = await asked.datasets.stored.segments.children(asked.tenant, segment.id)
        return next(at for at, one in enumerate(kept) if one.id == asked.names["child"])

    async def change_child(self, asked: Asked) -> Reply:
        content, place = self._content(asked), await self._place(asked)

        def change(kept: list[str]) -> None:
            kept[place] = content

        return json_reply({"data": (await self._set_children(asked, change))[place]})

    async def delete_child(self, asked: Asked) -> Reply:
        place = await self._place(asked)

        def change(kept: list[str]) -> None:
            del kept[place]

        await self._set_children(asked, change)
        return Reply(b"", status=204)

    # retrieval

    async def retrieve(self, asked: Asked) -> Reply:
        dataset, body = await asked.dataset(), asked.body
        query = body.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ServiceError(400, "invalid_param", "query is required")
        if len(query) > 4000:
            raise ServiceError(400, "invalid_param", "query has more than 4,000 characters")
        settings = None
        if body.get("retrieval_model") is not None:
            settings = converted(body["retrieval_model"], RetrievalSettings, "retrieval_model")
        if body.get("external_retrieval_model") is not None:
            wanted = converted(body["external_retrieval_model"], ExternalRetrieval, "external_retrieval_model")
            kept = msgspec.structs.replace(dataset.settings, external_retrieval_model=wanted)
            dataset = msgspec.structs.replace(dataset, settings=kept)
        found = await asked.datasets.search(asked.tenant, [dataset.id], query, settings=settings)
        return json_reply({
            "query": {"content": query}, "records": [shapes.record_shape(one) for one in found.hits],
            "notes": found.notes, "milliseconds": {name: round(ms, 2) for name, ms in found.milliseconds.items()},
        })  # fmt: skip

    async def ask(self, asked: Asked) -> Reply | StreamReply:
        """An answer with its citations, whole or in events: `sources`, `text`, `answer`. Ours."""
        dataset, body = await asked.dataset(), asked.body
        query = body.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ServiceError(400, "invalid_param", "query is required")
        checks = body.get("check") or "words"
        if checks not in ("off", "words", "model"):
            raise ServiceError(400, "invalid_param", "check must be off, words or model")
        settings = None
        if body.get("retrieval_model") is not None:
            settings = converted(body["retrieval_model"], RetrievalSettings, "retrieval_model")
        asking = Asking(tenant=asked.tenant, query=query, settings=settings, source="ask")
        manner = Manner(model=str(body.get("model") or "default"), checks=checks)
        answerer = self._parts.answerer()
        if not body.get("stream"):
            return json_reply(msgspec.to_builtins(await answerer.ask([dataset.id], asking, manner)))
        events = answerer.stream([dataset.id], asking, manner)

        async def pieces() -> AsyncGenerator[bytes, None]:
            async with aclosing(events):
                async for kind, value in events:
                    yield b"data: " + encode({"event": kind, "data": msgspec.to_builtins(value)}) + b"\n\n"

        return sse_reply(pieces(), lambda error: b"data: " + encode(error_document(error)) + b"\n\n")

    async def queries(self, asked: Asked) -> Reply:
        dataset = await asked.dataset()
        rows = await asked.datasets.stored.queries.newest(asked.tenant, dataset.id, asked.number("limit", 20))
        return json_reply({"data": [dict(row) for row in rows]})

    # metadata

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

    # tags

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

    # models, for those who choose one

    async def models(self, request: Request) -> Reply | StreamReply:
        try:
            tenant = (await self._caller(request)).tenant
            kind = request.path.rstrip("/").rpartition("/")[2]
            if kind not in {one.value for one in ModelType}:
                raise ServiceError(400, "invalid_param", f"model type {kind[:40]!r} is none")
            return json_reply({"data": list(self._parts.listed(tenant, kind))})
        except ModelyardError as error:
            return problem_reply(error)

    # the external knowledge API, served

    async def external(self, request: Request) -> Reply | StreamReply:
        """POST /retrieval: a dataset of ours as somebody else's external knowledge."""
        try:
            request.identify(await self._caller(request))
            tenant = request.tenant
        except ServiceError as error:
            code = 1001 if "Bearer" not in (request.header(b"authorization") or "") else 1002
            return json_reply({"error_code": code, "error_msg": str(error)}, status=403)
        try:
            body = read_object(await request.body())
            setting = mapping_of(body, "retrieval_setting")
            threshold = float(setting.get("score_threshold") or 0.0)
            settings = RetrievalSettings(
                top_k=int(setting.get("top_k") or 4), score_threshold=threshold, score_threshold_enabled=threshold > 0
            )
            condition = _external_conditions(body.get("metadata_condition"))
            datasets = self._parts.datasets()
            dataset = await datasets.stored.datasets.get(tenant, str(body.get("knowledge_id") or ""))
            found = await datasets.search(
                tenant, [dataset.id], str(body.get("query") or ""), settings=settings, conditions=condition,
                source="external",
            )  # fmt: skip
        except NotFoundError as error:
            return json_reply({"error_code": 2001, "error_msg": str(error)}, status=404)
        except (ValueError, TypeError) as error:
            return problem_reply(InvokeBadRequestError(f"retrieval_setting: {error}"))
        except ModelyardError as error:
            return problem_reply(error)
        return json_reply({
            "records": [
                {"content": one.text, "score": one.score, "title": one.document.name, "metadata": {
                    **one.document.metadata, "document_id": one.document.id, "segment_id": one.segment.id,
                    "page": one.segment.page,
                }}
                for one in found.hits
            ]
        })  # fmt: skip


# ------------------------------------------------------------------------------------------------ helpers


def _pattern(key: str) -> tuple[str, list[str]]:
    method, _, path = key.partition(" ")
    return method, path.split("/") if path else []


def _names(pattern: Sequence[str], pieces: Sequence[str]) -> dict[str, str] | None:
    if len(pattern) != len(pieces):
        return None
    names: dict[str, str] = {}
    for wanted, piece in zip(pattern, pieces, strict=True):
        if not wanted.startswith("{"):
            if wanted != piece:
                return None
            continue
        name, _, ending = wanted[1:].partition("}")
        if not piece.endswith(ending) or len(piece) == len(ending):
            return None
        piece = piece.removesuffix(ending)
        if name in ("dataset", "document", "segment") and not _is_uuid(piece):
            return None
        names[name] = piece
    return names


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


async def _read_body(asked: Asked) -> None:
    request = asked.request
    if request.method == "GET":
        return
    kind = request.header(b"content-type") or ""
    data = await request.body()
    if kind.startswith("multipart/"):
        asked.form = parse_form(kind, data, wanted="send the file as multipart/form-data, in the field 'file'")
    elif data.strip():
        asked.body = read_object(data)


def _how(body: Mapping[str, Any]) -> dict[str, Any]:
    """How a document is to be indexed, where its caller says so."""
    found: dict[str, Any] = {}
    if body.get("process_rule") is not None:
        rule = converted(body["process_rule"], ProcessRule, "process_rule")
        _check_rule(rule)
        found["rule"] = rule
    if body.get("doc_form") is not None:
        found["form"] = converted(body["doc_form"], DocForm, "doc_form")
    if body.get("doc_language"):
        found["language"] = str(body["doc_language"])
    return found


def _check_rule(rule: ProcessRule) -> None:
    if rule.mode in ("custom", "hierarchical") and rule.rules is None:
        raise ServiceError(400, "invalid_param", f"process_rule.rules are required in mode {rule.mode}")
    if rule.rules is None:
        return
    for name, one in (
        ("segmentation", rule.rules.segmentation),
        ("subchunk_segmentation", rule.rules.subchunk_segmentation),
    ):
        if not 10 <= one.max_tokens <= 10_000:
            raise ServiceError(400, "invalid_param", f"process_rule.{name}.max_tokens must be 10 to 10000")
        if not 0 <= one.chunk_overlap < one.max_tokens:
            raise ServiceError(400, "invalid_param", f"process_rule.{name}.chunk_overlap must be below max_tokens")


def _field_name(body: JSON, dataset: Dataset) -> str:
    name = str(body.get("name") or "").strip()
    if not name or len(name) > 255:
        raise ServiceError(400, "invalid_param", "Metadata name has 1 to 255 characters.")
    if name in BUILT_IN:
        raise ServiceError(400, "invalid_param", "Metadata name already exists in Built-in fields.")
    if any(one.name == name for one in dataset.settings.fields):
        raise ServiceError(400, "invalid_param", "Metadata name already exists.")
    return name


def _tag_name(body: JSON) -> str:
    name = str(body.get("name") or "").strip()
    if not 1 <= len(name) <= 50:
        raise ServiceError(400, "invalid_param", "a tag's name has 1 to 50 characters")
    return name


def _external_conditions(given: Any) -> Conditions | None:
    """Conditions as the external knowledge API writes them: a list of names each, of which one must fit."""
    if not isinstance(given, dict) or not given.get("conditions"):
        return None
    found = [
        Condition(
            name=str(one["name"][0] if isinstance(one.get("name"), list) and one["name"] else one.get("name")),
            comparison_operator=str(one.get("comparison_operator") or "is"), value=one.get("value"),
        )
        for one in given["conditions"] if isinstance(one, dict)
    ]  # fmt: skip
    return Conditions(logical_operator="or" if given.get("logical_operator") == "or" else "and", conditions=found)


def _zip(files: Sequence[tuple[str, bytes]]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        taken: set[str] = set()
        for at, (name, data) in enumerate(files):
            inside = name if name not in taken else f"{at + 1}-{name}"
            taken.add(inside)
            archive.writestr(inside, data)
    return target.getvalue()
