"""Workflows, wired: the jail, the way out, the journal, what nodes work with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from modelyard.app.tools import ToolParts
from modelyard.jail.sandbox import Jail, JailLimits
from modelyard.models.embedding import TextEmbeddingRequest
from modelyard.models.types import ModelType
from modelyard.runtime.caller import DEFAULT_TENANT, Caller
from modelyard.workflow.annotations import Annotations
from modelyard.workflow.apps import Apps
from modelyard.workflow.chats import Chats
from modelyard.workflow.conversations import Conversations
from modelyard.workflow.dsl import App, AppMapping
from modelyard.workflow.features import Features, OutputCheck
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.node import Limits, Services
from modelyard.workflow.pipelines import Pipelines
from modelyard.workflow.runs import Runs
from modelyard.workflow.service_tools import AppTools, PluginCalls, TenantAgents, TenantTools
from modelyard.workflow.services import (
    JailedSandbox,
    StoredForms,
    TenantDatasets,
    TenantFiles,
    TenantModels,
    mappings_of,
)
from modelyard.workflow.sources import TenantSources
from modelyard.workflow.triggers import Triggers
from modelyard.workflow.variables import WorkflowError

if TYPE_CHECKING:
    from modelyard.app import Modelyard

_DAY = 86_400.0


class WorkflowParts:
    def __init__(self, yard: "Modelyard") -> None:
        chosen = yard.settings.workflows
        self._yard = yard
        limits = JailLimits(seconds=chosen.code_seconds, memory_mb=chosen.code_memory_mb, at_once=chosen.code_at_once)
        self.jail = Jail(limits, preload=chosen.preload, is_enabled=chosen.code)
        self.egress = yard.egress
        self.journal = DatabaseJournal(yard.database, yard.clock.time)
        self.apps = Apps(yard.resources, yard.directory, self.journal, yard.keys, yard.clock.time)
        self.runs = Runs(
            self.journal,
            self._app_of,
            self.services,
            limits=Limits(steps=chosen.steps, seconds=chosen.seconds, depth=chosen.depth),
            now=yard.clock.time,
            most=chosen.at_once,
        )
        self.tools = ToolParts(yard, self.jail, self.egress)
        self.conversations = Conversations(yard.database, yard.clock.time, self.tools.kept)
        annotations = Annotations(yard.database, self.tools.kept, self._embedded, yard.clock.time)
        self.features = Features(yard.models, annotations, self.tools.providers.extensions.extend)
        self.runs.check_output(self._output_check)
        self.runs.identify_callers(self._caller_of)
        self.chats = Chats(self.runs, self.conversations, self.files, yard.clock.time, self.features)
        self.tools.manager.add_source("workflow", AppTools(self.apps, self.chats, self.runs))
        calls = PluginCalls(self.tools.manager, self.apps, self.chats, self.runs)
        self.pipelines = Pipelines(
            self.apps, self.runs, lambda: yard.knowledge.datasets, self.sources, self.files, yard.clock.time
        )
        self.triggers = Triggers(
            self.apps, self.chats, yard.directory, catch_up=lambda: yard.settings.workflows.catch_up_seconds,
            now=yard.clock.time,
        )  # fmt: skip
        yard.plugin_parts.use(calls.tool, calls.app)

    async def _app_of(self, run: RunRecord) -> App:
        found = next((one for one in self.apps.all(run.tenant) if one.id == run.app), None)
        return await self.apps.read(run.tenant, run.digest, found.stored.mapping if found else None)

    async def _embedded(self, tenant: str, model: str, texts: Sequence[str]) -> list[Sequence[float]]:
        found = self._yard.models.find(tenant, model, ModelType.TEXT_EMBEDDING)
        result = await found.invoke_text_embedding(TextEmbeddingRequest(texts=list(texts)))
        return list(result.embeddings)

    def _output_check(self, app: App, run: RunRecord) -> OutputCheck | None:
        found = next((one for one in self.apps.all(run.tenant) if one.id == run.app), None)
        return self.features.output_check(found, app, run.user) if found is not None else None

    def files(self, tenant: str, user: str = "") -> TenantFiles:
        return TenantFiles(self._yard.files, self.egress, tenant, self._yard.content_origin, user)

    def sources(self, tenant: str, user: str = "") -> TenantSources:
        yard = self._yard
        reader, files = yard.knowledge.datasets.reader, self.files(tenant, user)
        return TenantSources(yard.plugins, yard.plugin_parts.credentials, reader, files, tenant, user)

    def _caller_of(self, run: RunRecord) -> Caller:
        """On whose behalf a run calls models: the API key it was started with, or the app itself, which is a key of its
        own. Raises WorkflowError if the key was revoked meanwhile."""
        app = f"app:{run.app}" if run.app else ""
        if not run.api_key:
            return Caller(tenant=run.tenant, user=run.user or None, key=app)
        caller = self._yard.directory.caller_of_key(run.api_key, self._yard.clock.time())
        if caller is None or caller.tenant not in (run.tenant, DEFAULT_TENANT):
            raise WorkflowError("the API key that started this run is no longer valid")
        return msgspec.structs.replace(caller, tenant=run.tenant, user=run.user or caller.user, app=app)

    def services(self, app: App, run: RunRecord | None = None) -> Services:
        """For a run of a tenant; without one, for the owner's own."""
        yard, chosen = self._yard, self._yard.settings.workflows
        tenant, user = (run.tenant, run.user) if run is not None else ("default", "")
        general = AppMapping(models=chosen.models, tools=chosen.tools, datasets=chosen.datasets)
        mappings = mappings_of(app.mapping, general)
        caller = self._caller_of(run) if run is not None else Caller(tenant=tenant)
        models = TenantModels(yard.models, yard.plugin_parts.models, caller, mappings["models"])
        tools = TenantTools(
            self.tools.manager, tenant, user, mappings["tools"], app=run.app if run is not None else "",
            run=run.id if run is not None else "", depth=run.depth if run is not None else 0, kept=self.tools.kept,
        )  # fmt: skip
        return Services(
            models=models,
            sandbox=JailedSandbox(self.jail, tenant),
            http=self.egress,
            files=self.files(tenant, user),
            tools=tools,
            agents=TenantAgents(yard.plugins, tools, models, tenant, user),
            memory=self.conversations.memory(run) if run is not None and run.conversation else None,
            datasets=TenantDatasets(yard.knowledge.datasets, tenant, app.name, mappings["datasets"]),
            sources=self.sources(tenant, user) if app.kind == "rag_pipeline" else None,
            forms=StoredForms(self.journal, run, yard.origin) if run is not None else None,
        )

    def begin(self) -> None:
        """Take up what was left, on the running loop."""
        self.runs.begin_upkeep()
        self._yard.upkeep.every(1.0, self.triggers.tick)
        if self._yard.settings.workflows.keep_days:
            self._yard.upkeep.every(3600.0, self._tidy)

    async def _tidy(self) -> None:
        await self.journal.forget(self._yard.clock.time() - self._yard.settings.workflows.keep_days * _DAY)

    async def aclose(self) -> None:
        await self.chats.aclose()
        await self.runs.aclose()
        await self.tools.aclose()
        await self.jail.aclose()
