"""RAG pipelines: apps whose runs each create one document in a dataset."""

import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.base.ids import new_uuid
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
from modelyard.workflow.rag_variables import variables_for_source
from modelyard.workflow.runs import Runs
from modelyard.workflow.services import TenantFiles, pipeline_dataset
from modelyard.workflow.single_run import new_run_id
from modelyard.workflow.sources import TenantSources, datasource_nodes
from modelyard.workflow.variables import VariablePool

_MAX_DOCUMENTS_PER_CALL = 1000
"""Maximum documents of one call."""


class Pipelines:
    """Starts pipeline runs and lists what their sources offer."""

    def __init__(
        self,
        apps: Apps,
        runs: Runs,
        datasets: Datasets,
        sources: Callable[[str, str], TenantSources],
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

    # what there is

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
                f"dataset {dataset.name!r} is there already, and no pipeline fills it"
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
                f"dataset {dataset_record.name!r} is filled by no pipeline",
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
            f"pipeline {dataset_record.settings.pipeline!r} is not here any more",
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
        source_views: list[JSON] = []
        for root in app.roots:
            for node in datasource_nodes([app.graph(root).nodes[root]]):
                data = node.data
                is_plugins = data.provider_type != "local_file"
                # Uploaded files need no credentials.
                credentials = (
                    self._sources(tenant, "").credentials(data) if is_plugins else []
                )
                source_views.append(
                    {
                        "node_id": node.id,
                        "plugin_id": data.plugin_id,
                        "provider_name": data.provider_name,
                        "datasource_type": data.provider_type,
                        "title": node.title,
                        "user_input_variables": [
                            {
                                name: value
                                for name, value in msgspec.to_builtins(variable).items()
                                if value is not None
                            }
                            for variable in variables_for_source(app, node.id)
                        ],
                        "credentials": credentials,
                    }
                )
        return source_views

    # looking into a source

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
                "files are uploaded; there is nothing to look into"
            )
        sources = self._sources(tenant, user)
        # Called only for its error: the generator below would raise too late for a
        # status code.
        sources.provider(source_node.data)

        async def events() -> AsyncGenerator[JSON, None]:
            """Browse the source and translate its progress."""
            started = self._now()
            entries: list[Any] = []
            update: Any
            total = completed = 0
            try:
                async for update in sources.browse(
                    source_node.data, source_type, inputs, credential
                ):
                    # Crawlers report their progress with all pages so far; other
                    # sources yield entries.
                    if isinstance(update, dict) and "web_info_list" in update:
                        total, completed = (
                            int(update.get("total") or 0),
                            int(update.get("completed") or 0),
                        )
                        entries = list(update.get("web_info_list") or ())
                        if update.get("status") == "processing":
                            yield {
                                "event": "datasource_processing",
                                "total": total,
                                "completed": completed,
                            }
                    else:
                        entries += update if isinstance(update, list) else [update]
            except ModelyardError as error:
                yield {"event": "datasource_error", "error": str(error)}
                return
            # Sources other than crawlers report no totals.
            count = total or len(entries)
            yield {
                "event": "datasource_completed",
                "data": entries,
                "total": count,
                "completed": completed or count,
                "time_consuming": round(self._now() - started, 3),
            }

        return events()

    @staticmethod
    def _source(app: App, node: str, source_type: str) -> Any:
        """Return the datasource node. Raises NotFoundError or InvokeBadRequestError."""
        if source_type not in SOURCE_TYPES:
            raise InvokeBadRequestError(
                f"datasource_type must be {', '.join(SOURCE_TYPES)}, not"
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
                f"pipeline {app.name!r} has no datasource node {node[:80]!r}"
            )
        if source_node.data.provider_type != source_type:
            raise InvokeBadRequestError(
                f"node {node!r} is a source of type {source_node.data.provider_type},"
                f" not {source_type}",
                param="datasource_type",
            )
        return source_node

    # running

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
        abouts: list[dict[str, Any]] = []
        for info in infos:
            # A folder of a drive stands for all the files in it.
            if source_type == "online_drive":
                expanded_infos = await self._sources(tenant, user).expand_folder(
                    node.data, info, str(info.get("credential_id") or "")
                )
                abouts += [
                    {**expanded, "credential_id": info.get("credential_id")}
                    for expanded in expanded_infos
                ]
            else:
                abouts.append(await self._source_info(tenant, user, source_type, info))
        if not abouts:
            raise InvokeBadRequestError(
                "datasource_info_list names nothing", param="datasource_info_list"
            )
        if len(abouts) > _MAX_DOCUMENTS_PER_CALL:
            raise InvokeBadRequestError(
                f"{len(abouts):,} documents at once; {_MAX_DOCUMENTS_PER_CALL:,} are"
                " the most"
            )
        # The number only keeps batches of the same second apart.
        batch = f"{time.strftime('%Y%m%d%H%M%S', time.gmtime(self._now()))}{random.randrange(10**6):06d}"  # noqa: E501, S311
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
            variable.variable: variable.type
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
            for source_info in abouts
        ]

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
                    "a local file is named by its 'reference'",
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
                    f"{url[:100]!r} is no address of a page",
                    param="datasource_info_list",
                )
            return {**info, "url": url}
        # What is left are online documents.
        page = info.get("page")
        if not isinstance(page, Mapping) or not page.get("page_id"):
            raise InvokeBadRequestError(
                "an online document is named by 'page' with its 'page_id'",
                param="datasource_info_list",
            )
        title = str(page.get("page_name") or page.get("title") or page["page_id"])
        return {**info, "page_id": str(page["page_id"]), "name": title}

    async def _with_files(
        self,
        tenant: str,
        user: str,
        inputs: Mapping[str, Any],
        files: Mapping[str, str],
    ) -> dict[str, Any]:
        """Return the inputs with references to files replaced by the tenant's files."""
        keeper = self._files(tenant, user)
        result = dict(inputs)
        for name, input_type in files.items():
            if input_type == "file" and isinstance(result.get(name), Mapping):
                result[name] = (await keeper.parse_file(result[name])).to_object()
            elif isinstance(result.get(name), list):
                result[name] = [
                    (await keeper.parse_file(file)).to_object() for file in result[name]
                ]
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
                    or f"the pipeline's run {run.status.value} and kept nothing"
                )
                await datasets.add_failed(
                    dataset_record,
                    name,
                    reason,
                    id=str(document),
                    batch=str(run.system.get("batch")),
                    source=source,
                )
