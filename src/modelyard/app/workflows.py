"""Workflows, wired: apps, their runs and conversations, what begins them, and what their nodes work with."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from modelyard.app.knowledge import KnowledgeParts
from modelyard.app.live_settings import Addresses, LiveSettings
from modelyard.app.network import NetworkParts
from modelyard.app.plugins import PluginParts
from modelyard.app.storage import StorageParts
from modelyard.app.tools import ToolParts
from modelyard.base.clock import Clock
from modelyard.models.embedding import TextEmbeddingRequest
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tenancy.directory import Directory
from modelyard.workflow.annotations import Annotations
from modelyard.workflow.apps import Apps, FoundApp
from modelyard.workflow.chats import Chats
from modelyard.workflow.conversations import Conversations
from modelyard.workflow.dsl import App, AppMapping
from modelyard.workflow.features import Features, OutputCheck
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.node import Limits, Services
from modelyard.workflow.pipelines import Pipelines
from modelyard.workflow.runs import FindApp, Runs
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

_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowParts:
    """Apps, and all that comes of running them."""

    apps: Apps
    runs: Runs
    journal: DatabaseJournal
    conversations: Conversations
    features: Features
    chats: Chats
    pipelines: Pipelines
    triggers: Triggers
    run_services: "RunServices"

    def services(self, app: App, run: RunRecord | None = None) -> Services:
        """What the nodes of an app work with in a run of a tenant; without one, in a run that nobody keeps."""
        return self.run_services.services(app, run)

    def files(self, tenant: str, user: str = "") -> TenantFiles:
        """The files that runs of a user work with."""
        return self.run_services.files(tenant, user)

    async def forget_old_runs(self, now: float, days: float) -> None:
        """Remove what the journal holds of runs that ended longer ago than that."""
        await self.journal.forget(now - days * _DAY)

    async def aclose(self) -> None:
        """Leave running apps as they are: another process takes them up."""
        await self.chats.aclose()
        await self.runs.aclose()


class Callers:
    """On whose behalf runs call models."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    def of(self, run: RunRecord) -> Caller:
        """The API key it was started with, or the app itself, which is a key of its own.

        Raises WorkflowError if the key was revoked meanwhile.
        """
        app = f"app:{run.app}" if run.app else ""
        if not run.api_key:
            return Caller(tenant=run.tenant, user=run.user or None, key=app)
        caller = self._directory.caller_of_key(run.api_key, self._clock.time())
        if caller is None or caller.tenant not in (run.tenant, DEFAULT_TENANT):
            raise WorkflowError("the API key that started this run is no longer valid")
        return msgspec.structs.replace(caller, tenant=run.tenant, user=run.user or caller.user, app=app)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunServices:
    """What nodes of a run work with: each a tenant's, and no more than the app's mapping lets it have."""

    live: LiveSettings
    addresses: Addresses
    network: NetworkParts
    storage: StorageParts
    models: ModelManager
    plugins: PluginParts
    tools: ToolParts
    knowledge: KnowledgeParts
    journal: DatabaseJournal
    conversations: Conversations
    callers: Callers

    def files(self, tenant: str, user: str = "") -> TenantFiles:
        """The files that runs of a user work with."""
        return TenantFiles(self.storage.files, self.network.egress, tenant, self.addresses.content(), user)

    def sources(self, tenant: str, user: str = "") -> TenantSources:
        """Where the documents of a pipeline come from."""
        reader, files = self.knowledge.datasets.reader, self.files(tenant, user)
        return TenantSources(self.plugins.plugins, self.plugins.credentials, reader, files, tenant, user)

    def services(self, app: App, run: RunRecord | None = None) -> Services:
        """For a run of a tenant; without one, for the owner's own."""
        tenant, user = (run.tenant, run.user) if run is not None else (DEFAULT_TENANT, "")
        mappings = mappings_of(app.mapping, self._general())
        caller = self.callers.of(run) if run is not None else Caller(tenant=tenant)
        models = TenantModels(self.models, self.plugins.models, caller, mappings["models"])
        tools = self._tools(tenant, user, mappings["tools"], run)
        return Services(
            models=models,
            sandbox=JailedSandbox(self.tools.jail, tenant),
            http=self.network.egress,
            files=self.files(tenant, user),
            tools=tools,
            agents=TenantAgents(self.plugins.plugins, tools, models, tenant, user),
            memory=self.conversations.memory(run) if run is not None and run.conversation else None,
            datasets=TenantDatasets(self.knowledge.datasets, tenant, app.name, mappings["datasets"]),
            sources=self.sources(tenant, user) if app.kind == "rag_pipeline" else None,
            forms=StoredForms(self.journal, run, self.addresses.server()) if run is not None else None,
        )

    def _general(self) -> AppMapping:
        """What the settings say for all apps."""
        chosen = self.live.current.workflows
        return AppMapping(models=chosen.models, tools=chosen.tools, datasets=chosen.datasets)

    def _tools(
        self, tenant: str, user: str, mapping: Sequence[Mapping[str, str]], run: RunRecord | None
    ) -> TenantTools:
        return TenantTools(
            self.tools.manager, tenant, user, mapping, app=run.app if run is not None else "",
            run=run.id if run is not None else "", depth=run.depth if run is not None else 0, kept=self.storage.kept,
        )  # fmt: skip


def build_workflows(
    live: LiveSettings,
    clock: Clock,
    *,
    addresses: Addresses,
    network: NetworkParts,
    storage: StorageParts,
    directory: Directory,
    models: ModelManager,
    plugins: PluginParts,
    tools: ToolParts,
    knowledge: KnowledgeParts,
) -> WorkflowParts:
    """Apps become tools for each other, and for plugins."""
    chosen, now = live.current.workflows, clock.time
    journal = DatabaseJournal(storage.database, now)
    apps = Apps(storage.resources, directory, journal, storage.keys, now)
    conversations = Conversations(storage.database, now, storage.kept)
    callers = Callers(directory, clock)
    run_services = RunServices(
        live=live, addresses=addresses, network=network, storage=storage, models=models, plugins=plugins, tools=tools,
        knowledge=knowledge, journal=journal, conversations=conversations, callers=callers,
    )  # fmt: skip
    annotations = Annotations(storage.database, storage.kept, _embedder(models), now)
    features = Features(models, annotations, tools.providers.extensions.extend)
    limits = Limits(steps=chosen.steps, seconds=chosen.seconds, depth=chosen.depth)
    runs = Runs(journal, _app_finder(apps), run_services.services, limits=limits, now=now, most=chosen.at_once)
    runs.check_output(_output_checks(apps, features))
    runs.identify_callers(callers.of)
    chats = Chats(runs, conversations, run_services.files, now, features)
    tools.manager.add_source("workflow", AppTools(apps, chats, runs))
    calls = PluginCalls(tools.manager, apps, chats, runs)
    plugins.services.use(calls.tool, calls.app)
    pipelines = Pipelines(apps, runs, knowledge.datasets, run_services.sources, run_services.files, now)
    triggers = Triggers(
        apps, chats, directory, catch_up=lambda: live.current.workflows.catch_up_seconds, now=now
    )  # fmt: skip
    return WorkflowParts(
        apps=apps, runs=runs, journal=journal, conversations=conversations, features=features, chats=chats,
        pipelines=pipelines, triggers=triggers, run_services=run_services,
    )  # fmt: skip


def _app_finder(apps: Apps) -> FindApp:
    async def find(run: RunRecord) -> App:
        """The app as it was when the run began, with the mapping that it has now."""
        published = _published(apps, run)
        return await apps.read(run.tenant, run.digest, published.stored.mapping if published else None)

    return find


def _output_checks(apps: Apps, features: Features) -> Callable[[App, RunRecord], OutputCheck | None]:
    def check(app: App, run: RunRecord) -> OutputCheck | None:
        published = _published(apps, run)
        return features.output_check(published, app, run.user) if published is not None else None

    return check


def _published(apps: Apps, run: RunRecord) -> FoundApp | None:
    """The app of a run; None where it was removed."""
    return next((app for app in apps.all(run.tenant) if app.id == run.app), None)


def _embedder(models: ModelManager) -> Callable[[str, str, Sequence[str]], Awaitable[list[Sequence[float]]]]:
    async def embed(tenant: str, model: str, texts: Sequence[str]) -> list[Sequence[float]]:
        """Vectors by which questions are compared with annotations."""
        embeds = models.find(tenant, model, ModelType.TEXT_EMBEDDING)
        result = await embeds.invoke_text_embedding(TextEmbeddingRequest(texts=list(texts)))
        return list(result.embeddings)

    return embed
