"""Implementations of the services that nodes use, each for one tenant, user and app."""

import mimetypes
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from modelyard.base.content_disposition import safe_name
from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_mapping
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
from modelyard.knowledge.retrieve import SearchRequest
from modelyard.knowledge.rows import DocumentPart
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.sandbox.program_network import NO_NETWORK, NetworkAccess
from modelyard.sandbox.runner import (
    ExtractedText,
    Sandbox,
    SandboxError,
    SandboxUnavailableError,
)
from modelyard.sandbox.templates import render_in_process
from modelyard.storage.files import FileStore
from modelyard.tenancy.caller import Caller, current_reader
from modelyard.tenant_plugins.models import PluginModels
from modelyard.transport.egress import EgressClient
from modelyard.workflow.dsl import AppMapping
from modelyard.workflow.file_rules import ANY_FILE, FileRules, rules_of_field
from modelyard.workflow.file_types import (
    HEAD_BYTES,
    file_kind,
    named_by_type,
    real_kind,
)
from modelyard.workflow.node import IndexTarget, NodeError
from modelyard.workflow.nodes.start import FormField
from modelyard.workflow.remote_files import RemoteFileHead, remote_file_head
from modelyard.workflow.variables import File, file_of

_FILE_URL_SECONDS = 3600.0
# Files of nodes are held in memory while they are stored.
_MAX_FILE_BYTES = 100 << 20


def upload_id(name: str) -> str:
    """Return a stored file's id as a UUID, which clients of the API expect; other ids
    are returned unchanged."""
    digits = name.removeprefix("file_")
    # Only ids of this store have this form; others are left alone.
    if len(digits) != 27 or any(char not in "0123456789abcdef" for char in digits):
        return name
    return str(uuid.UUID(hex=f"{digits}00000"))


def stored_id(name: str) -> str:
    """Return the stored file's id of a UUID: the inverse of `upload_id`."""
    try:
        digits = uuid.UUID(name).hex
    except ValueError:
        return name
    return f"file_{digits[:27]}"


class TenantSandbox:
    """The code sandbox, for one tenant's nodes."""

    def __init__(
        self,
        sandbox: Sandbox,
        tenant: str,
        network: Callable[[], NetworkAccess] = lambda: NO_NETWORK,
    ) -> None:
        """`network` returns what the next program may do with the network."""
        self._sandbox = sandbox
        self._tenant = tenant
        self._network = network

    async def run_code(
        self, language: str, code: str, inputs: Mapping[str, Any]
    ) -> Any:
        """Run a program in the sandbox. Raises NodeError."""
        try:
            return await self._sandbox.run_code(
                language, code, inputs, tenant=self._tenant, network=self._network()
            )
        except SandboxError as error:
            raise _node_error(error, "CodeExecutionError") from error

    async def render(
        self, template: str, variables: Mapping[str, Any], *, max_chars: int
    ) -> str:
        """Render a template in the sandbox. Raises NodeError."""
        try:
            return await self._sandbox.render(
                template, variables, max_chars=max_chars, tenant=self._tenant
            )
        except SandboxError as error:
            raise _node_error(error, "TemplateRenderError") from error

    def render_in_process(
        self, template: str, variables: Mapping[str, Any], *, max_chars: int
    ) -> str | None:
        """Render a simple template in this process; None if it needs the sandbox."""
        return render_in_process(template, variables, max_chars=max_chars)

    async def extract(self, extension: str, data: bytes) -> ExtractedText:
        """Return the text of a document, read in the sandbox. Raises NodeError."""
        try:
            return await self._sandbox.extract(extension, data, tenant=self._tenant)
        except SandboxError as error:
            raise _node_error(error, "DocumentExtractorError") from error


def _node_error(error: SandboxError, error_type: str) -> NodeError:
    """Return a sandbox error as a node error."""
    # An unavailable sandbox is not the program's fault, so it has its own error type.
    if isinstance(error, SandboxUnavailableError):
        error_type = "SandboxUnavailable"
    return NodeError(str(error), error_type=error_type)


def mapped_model(
    provider: str, name: str, mappings: Sequence[Mapping[str, str]]
) -> str | None:
    """Return the model that the first mapping has for a model of a file; None if no
    mapping has one."""
    names = (f"{provider}/{name}", f"{_short_provider(provider)}/{name}", name, "*")
    for mapping in mappings:
        # The most specific name is looked up first; `*` maps everything else.
        for candidate in names:
            if candidate in mapping:
                return mapping[candidate]
    return None


def _short_provider(provider: str) -> str:
    """Return a provider's own name: imported apps write `author/plugin/provider`, or a
    prefix with its type."""
    return provider.rpartition("/")[2].rpartition(":")[2]


class TenantModels:
    """The tenant's models, by the `provider/model` names in an app's DSL file."""

    def __init__(
        self,
        manager: ModelManager,
        plugins: PluginModels | None,
        caller: Caller,
        mappings: Sequence[Mapping[str, str]],
    ) -> None:
        self._manager = manager
        self._plugins = plugins
        self._caller = caller
        self._mappings = mappings

    def find(self, provider: str, name: str, model_type: str) -> Any:
        """Return the model that a mapping or the name leads to. Raises NotFoundError."""
        parsed_type = ModelType(model_type)
        target = mapped_model(provider, name, self._mappings)
        if target is not None:
            return self._manager.find(self._caller, target, parsed_type)
        if not name:
            return self._manager.find(self._caller, "default", parsed_type)
        short_name = f"{_short_provider(provider)}/{name}"
        model_name = (
            self._plugins.model_name(self._caller.tenant, provider, name)
            if self._plugins
            else short_name
        )
        # Without a provider it is Modelyard's own name: a default, a route or a full
        # model name.
        if not provider:
            model_name = name
        try:
            return self._manager.find(self._caller, model_name, parsed_type)
        except NotFoundError as error:
            # The message names the setting that would help.
            raise NotFoundError(
                f"{error}; the app's mapping can name a substitute for"
                f" {short_name.lstrip('/')!r}",
                code="model_not_found",
            ) from error


class TenantFiles:
    """A tenant's stored files, and remote files by URL."""

    def __init__(
        self,
        store: FileStore,
        egress: EgressClient | None,
        tenant: str,
        origin: str,
        user: str = "",
    ) -> None:
        self._store = store
        self._egress = egress
        self._tenant = tenant
        self._origin = origin
        self._user = user

    async def read(self, file: File) -> bytes:
        """Return the content of a file. Raises NotFoundError, EgressError or NodeError."""
        # Stored files are read directly, without a request to this server.
        if file.transfer_method != "remote_url" and file.related_id:
            _, data = await self._store.get(
                self._tenant,
                file.related_id,
            )
            return data
        # A file without a URL was never stored here.
        if not file.address or self._egress is None:
            raise NodeError(
                f"File {file.filename!r} cannot be read: it is not stored and has no"
                " usable URL",
                error_type="FileDownloadError",
            )
        answer = await self._egress.fetch(
            "GET", file.address, max_bytes=_MAX_FILE_BYTES
        )
        if not 200 <= answer.status < 300:
            raise NodeError(
                f"File {file.filename!r} cannot be downloaded: status {answer.status}",
                error_type="FileDownloadError",
            )
        return answer.body

    async def save(self, name: str, data: bytes, mime_type: str = "") -> File:
        """Store a file that a run created."""
        stored_file = await self._store.add(
            self._tenant, name, data, mime_type, owner=self._user
        )
        return self._file(stored_file, "tool_file")

    def _file(self, stored_file: Any, method: str) -> File:
        """Return the reference to a stored file."""
        extension = stored_file.extension.lower()
        file = File(
            type=file_kind(extension, stored_file.mime_type),
            transfer_method=method,
            related_id=stored_file.id,
            filename=stored_file.name,
            extension=extension,
            mime_type=stored_file.mime_type,
            size=stored_file.size,
        )
        # The URL is added last, because it needs the complete reference.
        return msgspec.structs.replace(file, url=self.address(file))

    def address(self, file: File) -> str:
        """Return the URL of a file; for a stored file it is signed and expires."""
        if file.transfer_method == "remote_url":
            return file.remote_url
        # Anyone with the URL may read the file, so it is valid for a limited time.
        query = self._store.sign(
            "read", self._tenant, file.related_id, seconds=_FILE_URL_SECONDS
        )
        return f"{self._origin}/files/{file.related_id}?{query}"

    def address_of(self, value: Mapping[str, Any]) -> str:
        """Return the URL of a file object."""
        return self.address(file_of(value))

    async def parse_file(self, value: Any, rules: FileRules = ANY_FILE) -> File:
        """Return the file of a client's file object.

        Raises InvokeBadRequestError, and InputError if `rules` do not accept it.
        """
        if not is_mapping(value):
            raise InvokeBadRequestError(
                "A file must be an object with 'type', 'transfer_method', and 'url' or"
                " 'upload_file_id'",
                param="files",
            )
        # Clients may omit the method; it then follows from the fields.
        method = str(
            value.get("transfer_method")
            or ("remote_url" if value.get("url") else "local_file")
        )
        declared = str(value.get("type") or "")
        if method == "remote_url":
            file, head = await self._remote_file(value, declared, rules), b""
        else:
            file = await self._uploaded_file(value)
            head = await self._head(file) if rules.needs_type else b""
        # Whatever the caller and the name say, the content has to be acceptable.
        rules.check(file, real_kind(file.extension, file.mime_type, head))
        # A wrong declaration would send the file to a model that cannot read it.
        if declared and declared not in ("custom", file.type):
            raise InvokeBadRequestError(
                f"File {file.filename!r} is of type {file.type}, not {declared}",
                param="files",
            )
        # Clients may declare any file as `custom`.
        if declared == "custom":
            return msgspec.structs.replace(file, type=declared)
        return file

    async def parse_files(
        self, values: Sequence[Any], rules: FileRules = ANY_FILE
    ) -> list[File]:
        """Return the files of several file objects, like `parse_file`."""
        files = [await self.parse_file(value, rules) for value in values]
        rules.check_count(files)
        return files

    async def _head(self, file: File) -> bytes:
        """Return the first bytes of a stored file."""
        return await self._store.head(
            self._tenant,
            file.related_id,
            HEAD_BYTES,
        )

    async def _remote_file(
        self, value: Mapping[str, Any], declared: str, rules: FileRules
    ) -> File:
        """Return the file of a client's file object with a URL. Raises
        InvokeBadRequestError."""
        url = str(value.get("url") or value.get("remote_url") or "")
        if not url.startswith(("http://", "https://")):
            raise InvokeBadRequestError(
                f"Invalid file URL {url[:100]!r}; expected http:// or https://",
                param="files",
            )
        name = safe_name(unquote(urlsplit(url).path))
        file = _named_file(url, name, mimetypes.guess_type(name)[0] or "")
        # The server is asked only where the address says too little.
        is_plausible = file.type != "custom" and declared in ("", "custom", file.type)
        if is_plausible and not rules.needs_type:
            return file
        about = RemoteFileHead()
        if self._egress is not None:
            about = await remote_file_head(self._egress, url)
        if about.is_typed:
            name = named_by_type(about.name or name, about.mime_type)
            return _named_file(url, name, about.mime_type, about.size)
        # Nothing is known of it yet: the run will read it as what the caller says.
        if declared and not rules.needs_type:
            return msgspec.structs.replace(file, type=declared)
        return file

    async def _uploaded_file(self, value: Mapping[str, Any]) -> File:
        """Return the stored file that a client's file object names. Raises
        InvokeBadRequestError."""
        name = str(value.get("upload_file_id") or value.get("related_id") or "")
        not_found = InvokeBadRequestError(
            f"Uploaded file {name[:80]!r} not found", param="files"
        )
        try:
            stored_file = await self._store.metadata(
                self._tenant,
                stored_id(name),
            )
        except NotFoundError as error:
            raise not_found from error
        # Other users' files look as if they did not exist.
        if stored_file.owner and self._user and stored_file.owner != self._user:
            raise not_found
        return self._file(stored_file, "local_file")


def _named_file(url: str, name: str, mime_type: str, size: int = -1) -> File:
    """Return a remote file with the type that its name or its MIME type says."""
    extension = PurePosixPath(name).suffix.lower()
    return File(
        type=real_kind(extension, mime_type, b""),
        transfer_method="remote_url",
        remote_url=url,
        filename=name,
        extension=extension,
        mime_type=mime_type or mimetypes.guess_type(name)[0] or "",
        size=size,
    )


async def form_value(keeper: TenantFiles, field: FormField, value: Any) -> Any:
    """Return the value of a form field with its files as objects for a run, by the
    field's restrictions. Raises InputError or InvokeBadRequestError."""
    rules = rules_of_field(field)
    if field.type == "file" and is_mapping(value):
        return (await keeper.parse_file(value, rules)).to_object()
    if field.type == "file-list" and is_array(value):
        return [file.to_object() for file in await keeper.parse_files(value, rules)]
    return value


class TenantDatasets:
    """A tenant's datasets, for knowledge nodes."""

    def __init__(
        self,
        datasets: Datasets,
        tenant: str,
        app: str,
        mappings: Sequence[Mapping[str, str]],
        models: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self._datasets = datasets
        self._tenant = tenant
        self._app = app
        self._mappings = mappings
        self._models = models

    async def _resolve_datasets(self, names: Sequence[str]) -> list[Dataset]:
        """Return the datasets by id or mapping, without duplicates; unknown ones are
        omitted."""
        datasets: list[Dataset] = []
        for name in names:
            # A mapping of this name has priority over one for all names.
            target = next(
                (mapping[name] for mapping in self._mappings if name in mapping), None
            )
            target = target or next(
                (mapping["*"] for mapping in self._mappings if "*" in mapping), name
            )
            try:
                dataset = await self._datasets.get_by_id_or_name(self._tenant, target)
            except NotFoundError:
                continue
            if dataset.id not in {existing.id for existing in datasets}:
                datasets.append(dataset)
        return datasets

    async def retrieve(
        self, query: str, data: Any, *, files: Sequence[File]
    ) -> list[dict[str, Any]]:
        """Return the matching segments, best first."""
        del files  # datasets of images are not supported yet
        datasets = await self._resolve_datasets(data.dataset_ids)
        # Without a query there is nothing to search for.
        if not datasets or not query.strip():
            return []
        model = "default"
        # In single mode a model selects one of the datasets.
        if data.retrieval_mode == "single":
            model = _model_name(
                (data.single_retrieval_config or EMPTY_OBJECT).get("model"),
                self._models,
            )
        automatic = (
            _model_name(data.metadata_model_config, self._models)
            if data.metadata_filtering_mode == "automatic"
            else ""
        )
        declared_conditions = data.metadata_filtering_conditions
        conditions = None
        # Conditions apply only in manual mode; in automatic mode a model creates them.
        if data.metadata_filtering_mode == "manual" and declared_conditions is not None:
            conditions = msgspec.convert(
                msgspec.to_builtins(declared_conditions), Conditions
            )
        search_request = SearchRequest(
            tenant=self._tenant,
            query=query,
            conditions=conditions,
            automatic_filter=automatic,
            model=model,
            mode="single" if data.retrieval_mode == "single" else "multiple",
            source="app",
            # Of the run, which the tools and agents of its nodes share.
            reader=current_reader(self._tenant),
            merge=(
                _merge(data.multiple_retrieval_config)
                if data.retrieval_mode == "multiple"
                else None
            ),
        )
        retrieval = await self._datasets.retriever.search(
            [dataset.id for dataset in datasets], search_request
        )
        # Positions count from 1 in citations.
        return [
            resource(hit, hit_index + 1) for hit_index, hit in enumerate(retrieval.hits)
        ]

    async def index(
        self, segments: Any, data: Any, target: IndexTarget | None = None
    ) -> dict[str, Any]:
        """Index segments into the target, or into a dataset with the app's name that is
        created if necessary."""
        doc_form = DocForm(data.chunk_structure)
        # Validated before a dataset is created.
        parts = _chunks(segments, doc_form)
        if target is None:
            dataset = await pipeline_dataset(
                self._datasets,
                self._tenant,
                self._app,
                data,
            )
            document = await self._add_once(dataset, parts, doc_form)
        else:
            dataset = await self._datasets.store.datasets.get(
                self._tenant, target.dataset
            )
            document = await self._add_to_target(dataset, parts, doc_form, target)
        return {
            "dataset_id": dataset.id,
            "dataset_name": dataset.name,
            "batch": document.batch,
            "document_id": document.id,
            "document_name": document.name,
            "created_at": document.created_at,
            "display_status": document.status.value,
        }

    # A resumed run may repeat either method; content that exists is not added again.

    async def _add_once(
        self, dataset: Dataset, parts: list[DocumentPart], doc_form: DocForm
    ) -> Document:
        """Add a document, or return the one with the same content."""
        # The content identifies the document, since there is no id.
        digest = digest_of(msgspec.json.encode(parts).decode())
        knowledge_store = self._datasets.store
        existing_row = next(
            (
                row
                for row in await knowledge_store.documents.sources(
                    self._tenant, dataset.id
                )
                if row["digest"] == digest
            ),
            None,
        )
        if existing_row is not None:
            return await knowledge_store.documents.get(
                self._tenant, dataset.id, existing_row["id"]
            )
        title = parts[0].text.strip().splitlines()[0][:80] if parts else dataset.name
        return await self._datasets.add_chunks(
            dataset, title, parts, doc_form, digest=digest
        )

    async def _add_to_target(
        self,
        dataset: Dataset,
        parts: list[DocumentPart],
        doc_form: DocForm,
        target: IndexTarget,
    ) -> Document:
        """Add the document with the target's id, or return it if it exists."""
        # A node can be executed again after a crash, when its document exists already.
        try:
            return await self._datasets.store.documents.get(
                self._tenant, dataset.id, target.document
            )
        except NotFoundError:
            return await self._datasets.add_chunks(
                dataset,
                target.name or dataset.name,
                parts,
                doc_form,
                id=target.document,
                batch=target.batch,
                source=target.source,
                digest=digest_of(msgspec.json.encode(parts).decode()),
            )


async def pipeline_dataset(
    datasets: Datasets, tenant: str, app: str, data: Any
) -> Dataset:
    """Return the dataset with the pipeline's name; create it if it does not exist."""
    # Dataset names are limited to 40 characters.
    name = app[:40] or "pipeline"
    existing = await datasets.store.datasets.find_by_name(tenant, name)
    if existing is not None:
        return existing
    settings = DatasetSettings(
        indexing_technique=Technique(data.indexing_technique),
        embedding_model=data.embedding_model,
        embedding_model_provider=data.embedding_model_provider,
        doc_form=DocForm(data.chunk_structure),
        pipeline=app,
    )
    return await datasets.create(tenant, name, settings=settings)


def _model_name(model_value: Any, mappings: Sequence[Mapping[str, str]]) -> str:
    """Return the model that a mapping has for a reference, or the reference as
    `provider/name`; `default` if there is none."""
    if not is_mapping(model_value) or not model_value.get("name"):
        return "default"
    provider, name = str(model_value.get("provider") or ""), str(model_value["name"])
    target = mapped_model(provider, name, mappings)
    return target or (f"{provider}/{name}" if provider else name)


def _merge(node_config: Mapping[str, Any] | None) -> RetrievalSettings:
    """Return a node's settings for several datasets as retrieval settings."""
    config = dict(node_config or {})
    threshold = config.get("score_threshold")
    reranking_model: dict[str, Any] = config.get("reranking_model") or {}
    mode = config.get("reranking_mode") or "reranking_model"
    # A reranking model must be enabled and named.
    wants_model = (
        mode == "reranking_model"
        and bool(config.get("reranking_enable", True))
        and bool(
            reranking_model.get("model") or reranking_model.get("reranking_model_name")
        )
    )
    return RetrievalSettings(
        top_k=max(1, int(config.get("top_k") or 4)),
        score_threshold_enabled=threshold is not None,
        score_threshold=threshold,
        reranking_enable=wants_model,
        reranking_model=RerankingModel(
            reranking_provider_name=str(
                reranking_model.get("provider")
                or reranking_model.get("reranking_provider_name")
                or ""
            ),
            reranking_model_name=str(
                reranking_model.get("model")
                or reranking_model.get("reranking_model_name")
                or ""
            ),
        ),
    )


def resource(hit: Hit, position: int) -> dict[str, Any]:
    """Return a hit in the output format of the knowledge retrieval node; answers cite
    it in this format."""
    segment, document, dataset = hit.segment, hit.document, hit.dataset
    # Names and constants are Dify's: prompts of imported apps refer to them.
    metadata: dict[str, Any] = {
        "_source": "knowledge",
        "position": position,
        "dataset_id": dataset.id,
        "dataset_name": dataset.name,
        "document_id": document.id,
        "document_name": document.name or hit.title,
        "data_source_type": (
            "external" if dataset.settings.provider == "external" else "upload_file"
        ),
        "segment_id": segment.id,
        "retriever_from": "workflow",
        "score": hit.score,
        "child_chunks": [
            {
                "id": child.id,
                "content": child.content,
                "position": child.position,
                "score": child.score,
            }
            for child in hit.children
        ],
        "segment_hit_count": segment.hits,
        "segment_word_count": segment.words,
        "segment_position": segment.position,
        "segment_index_node_hash": segment.digest,
        "doc_metadata": document.metadata,
        "page": segment.page or None,
    }
    result = {
        "content": hit.text,
        "title": document.name or hit.title,
        "metadata": metadata,
    }
    return {**result, "summary": segment.summary} if segment.summary else result


def _chunks(segments: Any, doc_form: DocForm) -> list[DocumentPart]:
    """Return the segments of a pipeline's chunker as document parts; all formats are
    accepted. Raises NodeError."""
    chunks: Sequence[Any] | None = segments
    # Chunkers wrap their list under a name that identifies its structure.
    if is_mapping(segments):
        names = ("general_chunks", "parent_child_chunks", "qa_chunks")
        chunks = next((segments[name] for name in names if name in segments), None)
    if isinstance(chunks, str):
        chunks = [chunks]
    if not isinstance(chunks, Sequence):
        raise NodeError(
            "'chunks' must be a list, or an object with general_chunks,"
            " parent_child_chunks or qa_chunks",
            error_type="KnowledgeIndexNodeError",
        )
    return [
        _document_part(chunk, doc_form)
        for chunk in chunks
        if isinstance(chunk, str) or is_mapping(chunk)
    ]


def _document_part(chunk: str | Mapping[str, Any], doc_form: DocForm) -> DocumentPart:
    """Return a chunk as a document part. The document form decides how an object is
    read."""
    if isinstance(chunk, str):
        return DocumentPart(text=chunk)
    if doc_form is DocForm.QA:
        return DocumentPart(
            text=str(chunk.get("question") or ""),
            answer=str(chunk.get("answer") or ""),
        )
    text = str(chunk.get("parent_content") or chunk.get("content") or "")
    children = [str(child) for child in chunk.get("child_contents") or ()]
    return DocumentPart(text=text, children=children)


def mappings_of(
    app: AppMapping, general: AppMapping | None
) -> dict[str, list[Mapping[str, str]]]:
    """Return the mappings by resource type: the app's own first, then the general ones."""
    app_mappings = [app, general] if general is not None else [app]
    return {
        name: [getattr(app_mapping, name) for app_mapping in app_mappings]
        for name in ("models", "tools", "datasets", "agents")
    }


__all__ = [
    "ModelyardError",
    "TenantFiles",
    "TenantModels",
    "TenantSandbox",
]
