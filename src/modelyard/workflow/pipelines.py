"""RAG pipelines: apps of which each run makes one document of the dataset that they fill."""

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
from modelyard.workflow.apps import Apps, FoundApp
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Status
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.nodes.datasource import KINDS
from modelyard.workflow.nodes.knowledge_index import KnowledgeIndexData
from modelyard.workflow.rag_variables import asked_by
from modelyard.workflow.runs import Runs
from modelyard.workflow.services import TenantFiles, pipeline_dataset
from modelyard.workflow.single_run import new_run_id
from modelyard.workflow.sources import TenantSources, listed
from modelyard.workflow.variables import VariablePool

_MOST_AT_ONCE = 1000
"""Documents of one call."""


class Pipelines:
    def __init__(
        self,
        apps: Apps,
        runs: Runs,
        datasets: Datasets,
        sources: Callable[[str, str], TenantSources],
        files: Callable[[str, str], TenantFiles],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._apps = apps
        self.runs = runs
        self._datasets = datasets
        self._sources = sources
        self._files = files
        self._now = now
        runs.on_end(self._ended)

    # what there is

    async def dataset_for(self, found: FoundApp, app: App) -> Dataset:
        """The dataset that a pipeline fills, made where there is none. Raises InvokeBadRequestError."""
        node = next((one for one in app.nodes if isinstance(one.data, KnowledgeIndexData)), None)
        data = node.data if node is not None else KnowledgeIndexData()
        dataset = await pipeline_dataset(self._datasets, found.tenant, app.name, data)
        if not dataset.settings.pipeline:
            raise InvokeBadRequestError(f"dataset {dataset.name!r} is there already, and no pipeline fills it")
        return dataset

    async def of(self, tenant: str, dataset: str, *, is_draft: bool = False) -> tuple[Dataset, FoundApp, App]:
        """The pipeline that fills a dataset. Raises NotFoundError, InvokeBadRequestError."""
        one = await self._datasets.stored.datasets.get(tenant, dataset)
        if not one.settings.pipeline:
            raise NotFoundError(f"dataset {one.name!r} is filled by no pipeline", code="not_found")
        for found in self._apps.all(tenant):
            if found.stored.mode != "rag-pipeline":
                continue
            app = await self._apps.draft(found) if is_draft else await self._published(found)
            if app is not None and app.kind == "rag_pipeline" and app.name == one.settings.pipeline:
                return one, found, app
        raise NotFoundError(f"pipeline {one.settings.pipeline!r} is not here any more", code="not_found")

    async def _published(self, found: FoundApp) -> App | None:
        return await self._apps.app(found) if found.stored.digest else None

    def sources(self, tenant: str, app: App) -> list[JSON]:
        """Where its documents may come from, and what each way asks for."""
        found: list[JSON] = []
        for root in app.roots:
            for node in listed([app.graph(root).nodes[root]]):
                data = node.data
                is_plugins = data.provider_type != "local_file"
                credentials = self._sources(tenant, "").credentials(data) if is_plugins else []
                found.append({
                    "node_id": node.id, "plugin_id": data.plugin_id, "provider_name": data.provider_name,
                    "datasource_type": data.provider_type, "title": node.title,
                    "user_input_variables": [
                        {name: value for name, value in msgspec.to_builtins(one).items() if value is not None}
                        for one in asked_by(app, node.id)
                    ],
                    "credentials": credentials,
                })  # fmt: skip
        return found

    # looking into a source

    def browse(
        self, tenant: str, app: App, node: str, kind: str, inputs: Mapping[str, Any], credential: str, user: str
    ) -> AsyncGenerator[JSON, None]:
        """Events `datasource_processing`, `datasource_completed` and `datasource_error`.

        Raises NotFoundError, InvokeBadRequestError before anything is asked.
        """
        found = self._source(app, node, kind)
        if kind == "local_file":
            raise InvokeBadRequestError("files are uploaded; there is nothing to look into")
        sources = self._sources(tenant, user)
        sources.provider(found.data)

        async def events() -> AsyncGenerator[JSON, None]:
            began = self._now()
            given: list[Any] = []
            one: Any
            total = completed = 0
            try:
                async for one in sources.browse(found.data, kind, inputs, credential):
                    if isinstance(one, dict) and "web_info_list" in one:
                        total, completed = int(one.get("total") or 0), int(one.get("completed") or 0)
                        given = list(one.get("web_info_list") or ())
                        if one.get("status") == "processing":
                            yield {"event": "datasource_processing", "total": total, "completed": completed}
                    else:
                        given += one if isinstance(one, list) else [one]
            except ModelyardError as error:
                yield {"event": "datasource_error", "error": str(error)}
                return
            count = total or len(given)
            yield {
                "event": "datasource_completed", "data": given, "total": count, "completed": completed or count,
                "time_consuming": round(self._now() - began, 3),
            }  # fmt: skip

        return events()

    @staticmethod
    def _source(app: App, node: str, kind: str) -> Any:
        """Raises NotFoundError, InvokeBadRequestError."""
        if kind not in KINDS:
            raise InvokeBadRequestError(
                f"datasource_type must be {', '.join(KINDS)}, not {kind[:40]!r}", param="datasource_type"
            )
        found = next((one for one in listed(app.nodes) if one.id == node), None)
        if found is None:
            raise NotFoundError(f"pipeline {app.name!r} has no datasource node {node[:80]!r}")
        if found.data.provider_type != kind:
            raise InvokeBadRequestError(
                f"node {node!r} is a source of type {found.data.provider_type}, not {kind}", param="datasource_type"
            )
        return found

    # running

    async def run(
        self, found: FoundApp, app: App, dataset: Dataset, *, root: str, kind: str, inputs: Mapping[str, Any],
        infos: Sequence[Mapping[str, Any]], user: str, is_draft: bool = False,
    ) -> list[RunRecord]:  # fmt: skip
        """One run a document, all of one batch. Raises InputError, NotFoundError, InvokeBadRequestError."""
        node = self._source(app, root, kind)
        tenant = found.tenant
        abouts: list[dict[str, Any]] = []
        for one in infos:
            if kind == "online_drive":
                given = await self._sources(tenant, user).expanded(node.data, one, str(one.get("credential_id") or ""))
                abouts += [{**each, "credential_id": one.get("credential_id")} for each in given]
            else:
                abouts.append(await self._about(tenant, user, kind, one))
        if not abouts:
            raise InvokeBadRequestError("datasource_info_list names nothing", param="datasource_info_list")
        if len(abouts) > _MOST_AT_ONCE:
            raise InvokeBadRequestError(f"{len(abouts):,} documents at once; {_MOST_AT_ONCE:,} are the most")
        batch = f"{time.strftime('%Y%m%d%H%M%S', time.gmtime(self._now()))}{random.randrange(10**6):06d}"  # noqa: S311
        version = self._apps.at(found, found.stored.draft or found.stored.digest) if is_draft else found
        files = {one.variable: one.type for one in asked_by(app, root) if one.type in ("file", "file-list")}
        given_inputs = await self._with_files(tenant, user, inputs, files)
        return [
            await self._start(version, app, dataset, root, kind, given_inputs, about, user, batch) for about in abouts
        ]

    async def _start(
        self, found: FoundApp, app: App, dataset: Dataset, root: str, kind: str, inputs: Mapping[str, Any],
        about: Mapping[str, Any], user: str, batch: str,
    ) -> RunRecord:  # fmt: skip
        run_id = new_run_id()
        system: dict[str, Any] = {
            "user_id": user, "app_id": found.id, "workflow_id": found.stored.digest, "workflow_run_id": run_id,
            "document_id": new_uuid(), "batch": batch, "dataset_id": dataset.id, "datasource_type": kind,
            "datasource_info": dict(about), "invoke_from": "published", "timestamp": int(self._now()),
        }  # fmt: skip
        record = RunRecord(
            tenant=found.tenant, id=run_id, app=found.id, digest=found.stored.digest, mode=app.mode, root=root,
            user=user, inputs=dict(inputs), system=system, created_at=self._now(), created_from="rag-pipeline-run",
        )  # fmt: skip
        return await self.runs.start(app, record)

    async def _about(self, tenant: str, user: str, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a run is about, in one form. Raises InvokeBadRequestError."""
        if kind == "local_file":
            name = str(given.get("reference") or given.get("related_id") or given.get("upload_file_id") or "")
            if not name:
                raise InvokeBadRequestError("a local file is named by its 'reference'", param="datasource_info_list")
            file = await self._files(tenant, user).given({"transfer_method": "local_file", "upload_file_id": name})
            return {"reference": name, "name": str(given.get("name") or file.filename), "file": file.to_object()}
        if kind == "website_crawl":
            url = str(given.get("url") or given.get("source_url") or "")
            if not url.startswith(("http://", "https://")):
                raise InvokeBadRequestError(f"{url[:100]!r} is no address of a page", param="datasource_info_list")
            return {**given, "url": url}
        page = given.get("page")
        if not isinstance(page, Mapping) or not page.get("page_id"):
            raise InvokeBadRequestError("an online document is named by 'page' with its 'page_id'",
                                        param="datasource_info_list")  # fmt: skip
        title = str(page.get("page_name") or page.get("title") or page["page_id"])
        return {**given, "page_id": str(page["page_id"]), "name": title}

    async def _with_files(
        self, tenant: str, user: str, inputs: Mapping[str, Any], files: Mapping[str, str]
    ) -> dict[str, Any]:
        keeper = self._files(tenant, user)
        found = dict(inputs)
        for name, kind in files.items():
            if kind == "file" and isinstance(found.get(name), Mapping):
                found[name] = (await keeper.given(found[name])).to_object()
            elif isinstance(found.get(name), list):
                found[name] = [(await keeper.given(one)).to_object() for one in found[name]]
        return found

    async def _ended(self, run: RunRecord, pool: VariablePool, said: str, events: Sequence[AnyEvent]) -> None:
        """A run that made no document leaves one that says why."""
        del pool, said, events
        dataset, document = run.system.get("dataset_id"), run.system.get("document_id")
        if not dataset or not document or run.status in (Status.PAUSED, Status.RUNNING):
            return
        datasets = self._datasets
        with suppress(NotFoundError):  # the dataset may have been deleted meanwhile
            one = await datasets.stored.datasets.get(run.tenant, str(dataset))
            try:
                await datasets.stored.documents.get(run.tenant, one.id, str(document))
            except NotFoundError:
                about: Mapping[str, Any] = run.system.get("datasource_info") or {}
                name = str(about.get("name") or about.get("title") or about.get("url") or "document")
                source = {"kind": "chunks", "datasource_type": run.system.get("datasource_type")}
                why = run.error or f"the pipeline's run {run.status.value} and kept nothing"
                await datasets.add_failed(
                    one, name, why, id=str(document), batch=str(run.system.get("batch")), source=source
                )
