"""RAG pipelines: apps whose runs each create one document in a dataset."""

import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.base.json_types import is_array, is_mapping, is_object
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset
from modelyard.models.types import JSON
from modelyard.workflow.apps import AppRecord, Apps
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Status
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.nodes.datasource import SOURCE_TYPES
from modelyard.workflow.nodes.knowledge_index import KnowledgeIndexData
from modelyard.workflow.nodes.start import FormField
from modelyard.workflow.rag_variables import variables_for_source
from modelyard.workflow.runs import Runs
from modelyard.workflow.services import TenantFiles, form_value, pipeline_dataset
from modelyard.workflow.single_run import new_run_id
from modelyard.workflow.sources import TenantDatasources, datasource_nodes
from modelyard.workflow.variables import VariablePool

_MAX_DOCUMENTS_PER_CALL = 1000
"""Maximum documents of one call."""


@dataclass(slots=True)
class _BrowseProgress:
    """What a source has offered so far."""

    entries: list[Any] = field(default_factory=list[Any])
    total: int = 0
    completed: int = 0

    def add(self, update: Any) -> bool:
        """Add an update of the source. Returns whether it reports progress."""
        # Crawlers report their progress with all pages so far; other sources yield
        # entries.
        if not is_object(update) or "web_info_list" not in update:
            self.entries += update if is_array(update) else [update]
            return False
        self.total = int(update.get("total") or 0)
        self.completed = int(update.get("completed") or 0)
        self.entries = list(update.get("web_info_list") or ())
        return update.get("status") == "processing"


class Pipelines:
    """Starts pipeline runs and lists what their sources offer."""

    def __init__(
        self,
        apps: Apps,
        runs: Runs,
        datasets: Datasets,
        sources: Callable[[str, str], TenantDatasources],
        files: Callable[[str, str], TenantFiles],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._apps = apps
        self.runs = runs
        self._datasets = datasets
        self._sources = sources
        self._files = files
        self._now = clock
        # A failed run must leave a document that shows the error.
        runs.on_end(self._on_run_ended)

    # Look-ups

    async def dataset_for(self, app_record: AppRecord, app: App) -> Dataset:
        """Return the dataset that a pipeline fills; create it if necessary. Raises
        InvokeBadRequestError."""
        node = next(
            (
                candidate
                for candidate in app.nodes
                if isinstance(candidate.data, KnowledgeIndexData)
            ),
            None,
        )
        # A pipeline without an index node still has a dataset with default settings.
        data = node.data if node is not None else KnowledgeIndexData()
        dataset = await pipeline_dataset(
            self._datasets, app_record.tenant, app.name, data
        )
        # A dataset that was created by hand must not be overwritten.
        if not dataset.settings.pipeline:
            raise InvokeBadRequestError(
                f"Dataset {dataset.name!r} already exists and does not belong to a"
                " pipeline"
            )
        return dataset

    async def find_for_dataset(
        self, tenant: str, dataset: str, *, is_draft: bool = False
    ) -> tuple[Dataset, AppRecord, App]:
        """Return (dataset, app record, app) of the pipeline that fills a dataset.
        Raises NotFoundError."""
        dataset_record = await self._datasets.store.datasets.get(tenant, dataset)
        # Only datasets of pipelines lead to an app.
        if not dataset_record.settings.pipeline:
            raise NotFoundError(
                f"Dataset {dataset_record.name!r} does not belong to a pipeline",
                code="not_found",
            )
        # The dataset stores only the pipeline's name, so the apps are searched.
        for app_record in self._apps.list_all(tenant):
            if app_record.stored.mode != "rag-pipeline":
                continue
            app = (
                await self._apps.draft(app_record)
                if is_draft
                else await self._published(app_record)
            )
            if (
                app is not None
                and app.kind == "rag_pipeline"
                and app.name == dataset_record.settings.pipeline
            ):
                return dataset_record, app_record, app
        raise NotFoundError(
            f"Pipeline {dataset_record.settings.pipeline!r} no longer exists",
            code="not_found",
        )

    async def _published(self, app_record: AppRecord) -> App | None:
        """Return the published version of an app; None if it was never published."""
        return (
            await self._apps.published_app(app_record)
            if app_record.stored.digest
            else None
        )

    def sources(self, tenant: str, app: App) -> list[JSON]:
        """Return the pipeline's datasource nodes with the inputs that each needs."""
        root_nodes = [app.graph(root).nodes[root] for root in app.roots]
        return [
            self._source_view(tenant, app, node)
            for node in datasource_nodes(root_nodes)
        ]

    def _source_view(self, tenant: str, app: App, node: Any) -> JSON:
        """Return a datasource node in the format of the API."""
        data = node.data
        credentials: list[dict[str, Any]] = []
        # Uploaded files need no credentials.
        if data.provider_type != "local_file":
            credentials = self._sources(tenant, "").credentials(data)
        return {
            "node_id": node.id,
            "plugin_id": data.plugin_id,
            "provider_name": data.provider_name,
            "datasource_type": data.provider_type,
            "title": node.title,
            "user_input_variables": [
                _variable_view(variable)
                for variable in variables_for_source(app, node.id)
            ],
            "credentials": credentials,
        }

    # Browsing a source

    def browse(
        self,
        tenant: str,
        app: App,
        node: str,
        source_type: str,
        inputs: Mapping[str, Any],
        credential: str,
        user: str,
    ) -> AsyncGenerator[JSON, None]:
        """Yield the events `datasource_processing`, `datasource_completed` and
        `datasource_error` of a source.

        Raises NotFoundError or InvokeBadRequestError before the source is called.
        """
        source_node = self._source(app, node, source_type)
        if source_type == "local_file":
            raise InvokeBadRequestError(
                "datasource_type 'local_file' cannot be browsed; upload the file"
            )
        sources = self._sources(tenant, user)
        # Called only for its error: the generator below would raise too late for a
        # status code.
        sources.provider(source_node.data)
        updates = sources.browse(source_node.data, source_type, inputs, credential)
        return self._browse_events(updates)

    async def _browse_events(
        self, updates: AsyncGenerator[JSON, None]
    ) -> AsyncGenerator[JSON, None]:
        """Translate the updates of a source into events."""
        started = self._now()
        progress = _BrowseProgress()
        try:
            async for update in updates:
                if progress.add(update):
                    yield {
                        "event": "datasource_processing",
                        "total": progress.total,
                        "completed": progress.completed,
                    }
        except ModelyardError as error:
            yield {"event": "datasource_error", "error": str(error)}
            return
        # Sources other than crawlers report no totals.
        count = progress.total or len(progress.entries)
        yield {
            "event": "datasource_completed",
            "data": progress.entries,
            "total": count,
            "completed": progress.completed or count,
            "time_consuming": round(self._now() - started, 3),
        }

    @staticmethod
    def _source(app: App, node: str, source_type: str) -> Any:
        """Return the datasource node. Raises NotFoundError or InvokeBadRequestError."""
        if source_type not in SOURCE_TYPES:
            raise InvokeBadRequestError(
                f"datasource_type must be one of {', '.join(SOURCE_TYPES)}, not"
                f" {source_type[:40]!r}",
                param="datasource_type",
            )
        source_node = next(
            (
                candidate
                for candidate in datasource_nodes(app.nodes)
                if candidate.id == node
            ),
            None,
        )
        if source_node is None:
            raise NotFoundError(
                f"Pipeline {app.name!r} has no datasource node {node[:80]!r}"
            )
        if source_node.data.provider_type != source_type:
            raise InvokeBadRequestError(
                f"Node {node!r} has datasource type {source_node.data.provider_type},"
                f" not {source_type}",
                param="datasource_type",
            )
        return source_node

    # Running

    async def run(
        self,
        app_record: AppRecord,
        app: App,
        dataset: Dataset,
        *,
        root: str,
        source_type: str,
        inputs: Mapping[str, Any],
        infos: Sequence[Mapping[str, Any]],
        user: str,
        is_draft: bool = False,
    ) -> list[RunRecord]:
        """Start one run for each document, all in one batch. Raises InputError,
        NotFoundError or InvokeBadRequestError."""
        node = self._source(app, root, source_type)
        # The sources of all documents are resolved before the first run starts.
        tenant = app_record.tenant
        source_infos = await self._source_infos(tenant, user, node, infos)
        batch = self._new_batch()
        # The draft has a version of its own, so that its runs use the unpublished
        # graph.
        version = (
            self._apps.get_version(
                app_record, app_record.stored.draft or app_record.stored.digest
            )
            if is_draft
            else app_record
        )
        files = {
            variable.variable: variable.form
            for variable in variables_for_source(app, root)
            if variable.type in ("file", "file-list")
        }
        inputs_with_files = await self._with_files(tenant, user, inputs, files)
        return [
            await self._start(
                version,
                app,
                dataset,
                root,
                source_type,
                inputs_with_files,
                source_info,
                user,
                batch,
            )
            for source_info in source_infos
        ]

    async def _source_infos(
        self, tenant: str, user: str, node: Any, infos: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the sources of all documents in a common form, with folders expanded.
        Raises InvokeBadRequestError."""
        source_type = node.data.provider_type
        source_infos: list[dict[str, Any]] = []
        for info in infos:
            if source_type != "online_drive":
                source_infos.append(
                    await self._source_info(tenant, user, source_type, info)
                )
                continue
            # A folder of a drive stands for all the files in it.
            expanded_infos = await self._sources(tenant, user).expand_folder(
                node.data, info, str(info.get("credential_id") or "")
            )
            source_infos += [
                {**expanded, "credential_id": info.get("credential_id")}
                for expanded in expanded_infos
            ]
        if not source_infos:
            raise InvokeBadRequestError(
                "datasource_info_list contains no documents",
                param="datasource_info_list",
            )
        if len(source_infos) > _MAX_DOCUMENTS_PER_CALL:
            raise InvokeBadRequestError(
                f"datasource_info_list contains {len(source_infos):,} documents; the"
                f" maximum is {_MAX_DOCUMENTS_PER_CALL:,}"
            )
        return source_infos

    def _new_batch(self) -> str:
        """Return the id of a batch: its time, and a random number that keeps batches of
        the same second apart."""
        timestamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(self._now()))
        return f"{timestamp}{random.randrange(10**6):06d}"  # noqa: S311

    async def _start(
        self,
        app_record: AppRecord,
        app: App,
        dataset: Dataset,
        root: str,
        source_type: str,
        inputs: Mapping[str, Any],
        source_info: Mapping[str, Any],
        user: str,
        batch: str,
    ) -> RunRecord:
        """Start the run of one document."""
        run_id = new_run_id()
        # The index node reads the target document from these variables.
        system: dict[str, Any] = {
            "user_id": user,
            "app_id": app_record.id,
            "workflow_id": app_record.stored.digest,
            "workflow_run_id": run_id,
            "document_id": new_uuid(),
            "batch": batch,
            "dataset_id": dataset.id,
            "datasource_type": source_type,
            "datasource_info": dict(source_info),
            "invoke_from": "published",
            "timestamp": int(self._now()),
        }
        record = RunRecord(
            tenant=app_record.tenant,
            id=run_id,
            app=app_record.id,
            digest=app_record.stored.digest,
            mode=app.mode,
            root=root,
            user=user,
            inputs=dict(inputs),
            system=system,
            created_at=self._now(),
            created_from="rag-pipeline-run",
        )
        # Starting also validates the inputs.
        return await self.runs.start(app, record)

    async def _source_info(
        self, tenant: str, user: str, source_type: str, info: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the source of a run's document in a common form. Raises
        InvokeBadRequestError."""
        if source_type == "local_file":
            name = str(
                info.get("reference")
                or info.get("related_id")
                or info.get("upload_file_id")
                or ""
            )
            if not name:
                raise InvokeBadRequestError(
                    "A local file requires 'reference', the id of the uploaded file",
                    param="datasource_info_list",
                )
            file = await self._files(tenant, user).parse_file(
                {"transfer_method": "local_file", "upload_file_id": name}
            )
            return {
                "reference": name,
                "name": str(info.get("name") or file.filename),
                "file": file.to_object(),
            }
        if source_type == "website_crawl":
            url = str(info.get("url") or info.get("source_url") or "")
            if not url.startswith(("http://", "https://")):
                raise InvokeBadRequestError(
                    f"Invalid page URL {url[:100]!r}; expected http:// or https://",
                    param="datasource_info_list",
                )
            return {**info, "url": url}
        # The remaining type is online documents.
        page = info.get("page")
        if not is_mapping(page) or not page.get("page_id"):
            raise InvokeBadRequestError(
                "An online document requires 'page' with its 'page_id'",
                param="datasource_info_list",
            )
        title = str(page.get("page_name") or page.get("title") or page["page_id"])
        return {**info, "page_id": str(page["page_id"]), "name": title}

    async def _with_files(
        self,
        tenant: str,
        user: str,
        inputs: Mapping[str, Any],
        files: Mapping[str, FormField],
    ) -> dict[str, Any]:
        """Return the inputs with references to files replaced by the tenant's files.
        Raises InputError or InvokeBadRequestError."""
        keeper = self._files(tenant, user)
        result = dict(inputs)
        for name, form_field in files.items():
            if name in result:
                result[name] = await form_value(keeper, form_field, result[name])
        return result

    async def _on_run_ended(
        self,
        run: RunRecord,
        pool: VariablePool,
        response_text: str,
        events: Sequence[AnyEvent],
    ) -> None:
        """Add a failed document that shows the error if a run ended without a document."""
        # The listener's interface has more than is needed here.
        del pool, response_text, events
        dataset, document = run.system.get("dataset_id"), run.system.get("document_id")
        # A paused run may still create its document.
        if not dataset or not document or run.status in (Status.PAUSED, Status.RUNNING):
            return
        datasets = self._datasets
        with suppress(NotFoundError):  # the dataset may have been deleted meanwhile
            dataset_record = await datasets.store.datasets.get(run.tenant, str(dataset))
            try:
                # The run may have failed after its document was indexed.
                await datasets.store.documents.get(
                    run.tenant, dataset_record.id, str(document)
                )
            except NotFoundError:
                source_info: Mapping[str, Any] = run.system.get("datasource_info") or {}
                name = str(
                    source_info.get("name")
                    or source_info.get("title")
                    or source_info.get("url")
                    or "document"
                )
                source = {
                    "kind": "chunks",
                    "datasource_type": run.system.get("datasource_type"),
                }
                reason = (
                    run.error
                    or f"The pipeline run ended ({run.status.value}) without a document"
                )
                await datasets.add_failed(
                    dataset_record,
                    name,
                    reason,
                    id=str(document),
                    batch=str(run.system.get("batch")),
                    source=source,
                )


def _variable_view(variable: Any) -> JSON:
    """Return an input variable of a source as JSON, without unset fields."""
    fields: dict[str, Any] = msgspec.to_builtins(variable)
    return {name: value for name, value in fields.items() if value is not None}
