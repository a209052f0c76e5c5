"""What nodes work with, made of the runtime's parts: each for one tenant, one user, one app."""

import asyncio
import hashlib
import mimetypes
import secrets
import uuid
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.jail.sandbox import Jail, JailError, JailUnavailableError
from modelyard.jail.templates import render_now
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import (
    Conditions,
    Dataset,
    DatasetSettings,
    DocForm,
    Document,
    Hit,
    RerankingModel,
    RetrievalSettings,
    Technique,
)
from modelyard.knowledge.prepare import digest_of
from modelyard.knowledge.retrieve import Asking
from modelyard.knowledge.rows import DocumentPart
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.storage.files import FileStore
from modelyard.tenancy.caller import Caller
from modelyard.tenant_plugins.models import PluginModels
from modelyard.transport.egress import Egress
from modelyard.workflow.dsl import AppMapping
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.node import IndexTarget, NodeError
from modelyard.workflow.variables import File, file_of

_KINDS = {
    "image": "jpg jpeg png webp gif svg",
    "video": "mp4 mov mpeg webm mpga",
    "audio": "mp3 m4a wav amr mpga",
    "document": "txt markdown md mdx pdf html htm xlsx xls vtt properties doc docx csv eml msg pptx xml epub ppt json",
}
_BY_EXTENSION = {f".{word}": kind for kind, words in reversed(_KINDS.items()) for word in words.split()}
_FILE_SECONDS = 3600.0
_MOST_FILE = 100 << 20


def file_kind(extension: str, mime_type: str) -> str:
    """image, document, audio, video or custom."""
    if (kind := _BY_EXTENSION.get(extension.lower())) is not None:
        return kind
    family = mime_type.partition("/")[0]
    return family if family in ("image", "audio", "video") else "custom"


def upload_id(name: str) -> str:
    """A stored file's id in the form that callers of apps expect."""
    digits = name.removeprefix("file_")
    if len(digits) != 27 or any(sign not in "0123456789abcdef" for sign in digits):
        return name
    return str(uuid.UUID(hex=f"{digits}00000"))


def stored_id(name: str) -> str:
    """The other way."""
    try:
        digits = uuid.UUID(name).hex
    except ValueError:
        return name
    return f"file_{digits[:27]}"


class JailedSandbox:
    """The jail, as a tenant's nodes see it."""

    def __init__(self, jail: Jail, tenant: str) -> None:
        self._jail = jail
        self._tenant = tenant

    async def run_code(self, language: str, code: str, inputs: Mapping[str, Any]) -> Any:
        try:
            return await self._jail.run_code(language, code, inputs, tenant=self._tenant)
        except JailError as error:
            raise _failed(error, "CodeExecutionError") from error

    async def render(self, template: str, variables: Mapping[str, Any], *, most: int) -> str:
        try:
            return await self._jail.render(template, variables, most=most, tenant=self._tenant)
        except JailError as error:
            raise _failed(error, "TemplateRenderError") from error

    def render_now(self, template: str, variables: Mapping[str, Any], *, most: int) -> str | None:
        return render_now(template, variables, most=most)

    async def extract(self, extension: str, data: bytes) -> str:
        try:
            return await self._jail.extract(extension, data, tenant=self._tenant)
        except JailError as error:
            raise _failed(error, "DocumentExtractorError") from error


def _failed(error: JailError, kind: str) -> NodeError:
    return NodeError(str(error), kind="SandboxUnavailable" if isinstance(error, JailUnavailableError) else kind)


class TenantModels:
    """`provider/model` as an app's file names it → a model of this tenant."""

    def __init__(
        self, manager: ModelManager, plugins: PluginModels | None, caller: Caller, mappings: Sequence[Mapping[str, str]]
    ) -> None:
        self._manager = manager
        self._plugins = plugins
        self._caller = caller
        self._mappings = mappings

    def find(self, provider: str, name: str, model_type: str) -> Any:
        kind = ModelType(model_type)
        bare = provider.rpartition("/")[2].rpartition(":")[2]
        names = (f"{provider}/{name}", f"{bare}/{name}", name)
        for mapping in self._mappings:
            if (target := next((mapping[one] for one in (*names, "*") if one in mapping), None)) is not None:
                return self._manager.find(self._caller, target, kind)
        if not name:
            return self._manager.find(self._caller, "default", kind)
        known = self._plugins.model_name(self._caller.tenant, provider, name) if self._plugins else names[1]
        if not provider:  # ours: a default, a route, or a model by its whole name
            known = name
        try:
            return self._manager.find(self._caller, known, kind)
        except NotFoundError as error:
            raise NotFoundError(
                f"{error}; a mapping can name what stands in for {names[1].lstrip('/')!r}", code="model_not_found"
            ) from error


class TenantFiles:
    """A tenant's files, and those that lie elsewhere."""

    def __init__(self, store: FileStore, egress: Egress | None, tenant: str, origin: str, user: str = "") -> None:
        self._store = store
        self._egress = egress
        self._tenant = tenant
        self._origin = origin
        self._user = user

    async def read(self, file: File) -> bytes:
        """Raises NotFoundError, EgressError, NodeError."""
        if file.transfer_method != "remote_url" and file.related_id:
            _, data = await asyncio.to_thread(self._store.get, self._tenant, file.related_id)
            return data
        if not file.address or self._egress is None:
            raise NodeError(f"file {file.filename!r} cannot be read", kind="FileDownloadError")
        answer = await self._egress.fetch("GET", file.address, most_bytes=_MOST_FILE)
        if not 200 <= answer.status < 300:
            raise NodeError(
                f"file {file.filename!r} cannot be fetched: status {answer.status}", kind="FileDownloadError"
            )
        return answer.body

    async def save(self, name: str, data: bytes, mime_type: str = "") -> File:
        """Keep a file that a run made."""
        add = self._store.add
        stored = await asyncio.to_thread(add, self._tenant, name, data, mime_type, owner=self._user)
        return self._file(stored, "tool_file")

    def _file(self, stored: Any, method: str) -> File:
        extension = stored.extension.lower()
        file = File(
            type=file_kind(extension, stored.mime_type), transfer_method=method, related_id=stored.id,
            filename=stored.name, extension=extension, mime_type=stored.mime_type, size=stored.size,
        )  # fmt: skip
        return msgspec.structs.replace(file, url=self.address(file))

    def address(self, file: File) -> str:
        if file.transfer_method == "remote_url":
            return file.remote_url
        query = self._store.sign("read", self._tenant, file.related_id, seconds=_FILE_SECONDS)
        return f"{self._origin}/files/{file.related_id}?{query}"

    def address_of(self, value: Mapping[str, Any]) -> str:
        """The same for a file as an object."""
        return self.address(file_of(value))

    async def given(self, value: Any) -> File:
        """A file as callers hand it in. Raises InvokeBadRequestError."""
        if not isinstance(value, Mapping):
            raise InvokeBadRequestError(
                "a file is an object with 'type', 'transfer_method', and 'url' or 'upload_file_id'", param="files"
            )
        method = str(value.get("transfer_method") or ("remote_url" if value.get("url") else "local_file"))
        declared = str(value.get("type") or "")
        if method == "remote_url":
            url = str(value.get("url") or value.get("remote_url") or "")
            if not url.startswith(("http://", "https://")):
                raise InvokeBadRequestError(f"{url[:100]!r} is no address of a file", param="files")
            name = PurePosixPath(url.partition("?")[0]).name
            extension = PurePosixPath(name).suffix.lower()
            kind = mimetypes.guess_type(name)[0] or ""
            file = File(
                type=declared or file_kind(extension, kind), transfer_method="remote_url", remote_url=url,
                filename=name, extension=extension, mime_type=kind,
            )  # fmt: skip
        else:
            name = str(value.get("upload_file_id") or value.get("related_id") or "")
            try:
                stored = await asyncio.to_thread(self._store.about, self._tenant, stored_id(name))
            except NotFoundError as error:
                raise InvokeBadRequestError(f"file {name[:80]!r} was not uploaded here", param="files") from error
            if stored.owner and self._user and stored.owner != self._user:
                raise InvokeBadRequestError(f"file {name[:80]!r} was not uploaded here", param="files")
            file = self._file(stored, "local_file")
        if declared and declared not in ("custom", file.type):
            raise InvokeBadRequestError(f"file {file.filename!r} is {file.type}, not {declared}", param="files")
        return msgspec.structs.replace(file, type=declared) if declared == "custom" else file


class TenantDatasets:
    """A tenant's datasets, as the nodes of knowledge see them."""

    def __init__(self, datasets: Datasets, tenant: str, app: str, mappings: Sequence[Mapping[str, str]]) -> None:
        self._datasets = datasets
        self._tenant = tenant
        self._app = app
        self._mappings = mappings

    async def _found(self, names: Sequence[str]) -> list[Dataset]:
        """Datasets by id, or by what a mapping says; those that there are not are left out."""
        found: list[Dataset] = []
        for name in names:
            target = next((one[name] for one in self._mappings if name in one), None)
            target = target or next((one["*"] for one in self._mappings if "*" in one), name)
            try:
                one = await self._datasets.find(self._tenant, target)
            except NotFoundError:
                continue
            if one.id not in {each.id for each in found}:
                found.append(one)
        return found

    async def retrieve(self, query: str, data: Any, *, files: Sequence[File]) -> list[dict[str, Any]]:
        del files  # there are no datasets of pictures yet
        datasets = await self._found(data.dataset_ids)
        if not datasets or not query.strip():
            return []
        model = "default"
        if data.retrieval_mode == "single":
            model = _model_name((data.single_retrieval_config or {}).get("model"))
        automatic = _model_name(data.metadata_model_config) if data.metadata_filtering_mode == "automatic" else ""
        given = data.metadata_filtering_conditions
        conditions = None
        if data.metadata_filtering_mode == "manual" and given is not None:
            conditions = msgspec.convert(msgspec.to_builtins(given), Conditions)
        asked = Asking(
            tenant=self._tenant, query=query, conditions=conditions, automatic_filter=automatic, model=model,
            mode="single" if data.retrieval_mode == "single" else "multiple", source="app",
            merge=_merge(data.multiple_retrieval_config) if data.retrieval_mode == "multiple" else None,
        )  # fmt: skip
        found = await self._datasets.retriever.search([one.id for one in datasets], asked)
        return [resource(one, place + 1) for place, one in enumerate(found.hits)]

    async def index(self, segments: Any, data: Any, target: IndexTarget | None = None) -> dict[str, Any]:
        """Into the target, or into the dataset that has the app's name; that is made when the first document comes."""
        form = DocForm(data.chunk_structure)
        parts = _chunks(segments, form)
        if target is None:
            dataset = await pipeline_dataset(self._datasets, self._tenant, self._app, data)
            document = await self._once(dataset, parts, form)
        else:
            dataset = await self._datasets.stored.datasets.get(self._tenant, target.dataset)
            document = await self._into(dataset, parts, form, target)
        return {
            "dataset_id": dataset.id, "dataset_name": dataset.name, "batch": document.batch, "document_id": document.id,
            "document_name": document.name, "created_at": document.created_at,
            "display_status": document.status.value,
        }  # fmt: skip

    # A run that goes on after a crash does either once more: what is there already is the same document.

    async def _once(self, dataset: Dataset, parts: list[DocumentPart], form: DocForm) -> Document:
        digest = digest_of(msgspec.json.encode(parts).decode())
        stored = self._datasets.stored
        known = next(
            (row for row in await stored.documents.sources(self._tenant, dataset.id) if row["digest"] == digest), None
        )
        if known is not None:
            return await stored.documents.get(self._tenant, dataset.id, known["id"])
        title = parts[0].text.strip().splitlines()[0][:80] if parts else dataset.name
        return await self._datasets.add_chunks(dataset, title, parts, form, digest=digest)

    async def _into(self, dataset: Dataset, parts: list[DocumentPart], form: DocForm, target: IndexTarget) -> Document:
        try:
            return await self._datasets.stored.documents.get(self._tenant, dataset.id, target.document)
        except NotFoundError:
            return await self._datasets.add_chunks(
                dataset, target.name or dataset.name, parts, form, id=target.document, batch=target.batch,
                source=target.source, digest=digest_of(msgspec.json.encode(parts).decode()),
            )  # fmt: skip


async def pipeline_dataset(datasets: Datasets, tenant: str, app: str, data: Any) -> Dataset:
    """The dataset that a pipeline fills: it has the pipeline's name, and is made where there is none."""
    name = app[:40] or "pipeline"
    known = await datasets.stored.datasets.named(tenant, name)
    if known is not None:
        return known
    settings = DatasetSettings(
        indexing_technique=Technique(data.indexing_technique), embedding_model=data.embedding_model,
        embedding_model_provider=data.embedding_model_provider, doc_form=DocForm(data.chunk_structure), pipeline=app,
    )  # fmt: skip
    return await datasets.create(tenant, name, settings=settings)


def _model_name(given: Any) -> str:
    if not isinstance(given, Mapping) or not given.get("name"):
        return "default"
    provider = given.get("provider")
    return f"{provider}/{given['name']}" if provider else str(given["name"])


def _merge(given: Mapping[str, Any] | None) -> RetrievalSettings:
    """A node's settings for several datasets, in our words."""
    config = dict(given or {})
    threshold = config.get("score_threshold")
    named = config.get("reranking_model") or {}
    mode = config.get("reranking_mode") or "reranking_model"
    wants_model = mode == "reranking_model" and bool(config.get("reranking_enable", True)) and bool(
        named.get("model") or named.get("reranking_model_name")
    )  # fmt: skip
    return RetrievalSettings(
        top_k=max(1, int(config.get("top_k") or 4)), score_threshold_enabled=threshold is not None,
        score_threshold=threshold, reranking_enable=wants_model,
        reranking_model=RerankingModel(
            reranking_provider_name=str(named.get("provider") or named.get("reranking_provider_name") or ""),
            reranking_model_name=str(named.get("model") or named.get("reranking_model_name") or ""),
        ),
    )  # fmt: skip


def resource(hit: Hit, position: int) -> dict[str, Any]:
    """A hit as the knowledge-retrieval node gives it, and as citations of answers are made of it."""
    segment, document, dataset = hit.segment, hit.document, hit.dataset
    metadata: dict[str, Any] = {
        "_source": "knowledge", "position": position, "dataset_id": dataset.id, "dataset_name": dataset.name,
        "document_id": document.id, "document_name": document.name or hit.title,
        "data_source_type": "external" if dataset.settings.provider == "external" else "upload_file",
        "segment_id": segment.id, "retriever_from": "workflow", "score": hit.score,
        "child_chunks": [
            {"id": one.id, "content": one.content, "position": one.position, "score": one.score} for one in hit.children
        ],
        "segment_hit_count": segment.hits, "segment_word_count": segment.words, "segment_position": segment.position,
        "segment_index_node_hash": segment.digest, "doc_metadata": document.metadata, "page": segment.page or None,
    }  # fmt: skip
    shown = {"content": hit.text, "title": document.name or hit.title, "metadata": metadata}
    return {**shown, "summary": segment.summary} if segment.summary else shown


def _chunks(segments: Any, form: DocForm) -> list[DocumentPart]:
    """Chunks as chunkers of pipelines give them, in any of their shapes. Raises NodeError."""
    given = segments
    if isinstance(segments, Mapping):
        names = ("general_chunks", "parent_child_chunks", "qa_chunks")
        given = next((segments[name] for name in names if name in segments), None)
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Sequence):
        raise NodeError("chunks are a list, or an object with general_chunks, parent_child_chunks or qa_chunks",
                        kind="KnowledgeIndexNodeError")  # fmt: skip
    found: list[DocumentPart] = []
    for one in given:
        if isinstance(one, str):
            found.append(DocumentPart(text=one))
        elif isinstance(one, Mapping) and form is DocForm.QA:
            found.append(DocumentPart(text=str(one.get("question") or ""), answer=str(one.get("answer") or "")))
        elif isinstance(one, Mapping):
            text = str(one.get("parent_content") or one.get("content") or "")
            children = [str(each) for each in one.get("child_contents") or ()]
            found.append(DocumentPart(text=text, children=children))
    return found


class StoredForms:
    """Forms of one run, where anybody who has their address can fill them in."""

    def __init__(self, journal: DatabaseJournal, run: RunRecord, origin: str) -> None:
        self._forms = journal.forms
        self._run = run
        self._origin = origin

    async def answer(self, key: str) -> Mapping[str, Any] | None:
        row = await self._forms.of_step(self._run.id, key)
        if row is None or not row["answer"]:
            return None
        return msgspec.json.decode(row["answer"])

    async def ask(self, key: str, form: Mapping[str, Any], expires_at: float) -> Mapping[str, Any]:
        known = await self._forms.ask(self._run, key, secrets.token_urlsafe(24), dict(form), expires_at)
        return {
            "form_id": hashlib.sha256(known["token"].encode()).hexdigest()[:32],
            "form_token": known["token"],
            "form_url": f"{self._origin}/v1/form/human_input/{known['token']}",
            "expiration_time": known["expires_at"],
        }


def mappings_of(app: AppMapping, general: AppMapping | None) -> dict[str, list[Mapping[str, str]]]:
    """The app's own first, then what holds for all."""
    both = [app, general] if general is not None else [app]
    return {name: [getattr(one, name) for one in both] for name in ("models", "tools", "datasets")}


__all__ = ["JailedSandbox", "ModelyardError", "StoredForms", "TenantFiles", "TenantModels"]
