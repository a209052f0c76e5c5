"""Workflow setup: apps, their runs and conversations, their triggers, and the services
that nodes use."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from modelyard.app.carriers import EngineChoice
from modelyard.app.knowledge import KnowledgeServices
from modelyard.app.live_settings import Addresses, LiveSettings
from modelyard.app.mail import build_mail_delivery
from modelyard.app.network import NetworkServices
from modelyard.app.plugins import PluginHostServices
from modelyard.app.storage import StorageServices
from modelyard.app.tools import ToolServices
from modelyard.base.clock import Clock
from modelyard.base.settings import WorkflowSettings
from modelyard.models.embedding import TextEmbeddingRequest
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.sealed_rows import SealedRows
from modelyard.workflow.annotations import Annotations
from modelyard.workflow.app_library import AppLibrary
from modelyard.workflow.app_statistics import AppStatistics
from modelyard.workflow.apps import AppRecord, Apps
from modelyard.workflow.chats import Chats
from modelyard.workflow.conversations import Conversations
from modelyard.workflow.dsl import App, AppMapping
from modelyard.workflow.features import Features, OutputCheck
from modelyard.workflow.generators import Generators
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.mail_delivery import MailDelivery
from modelyard.workflow.node import CodeLimits, Limits, Services
from modelyard.workflow.pipelines import Pipelines
from modelyard.workflow.runs import FindApp, Runs
from modelyard.workflow.service_tools import (
    AppTools,
    PluginCalls,
    TenantAgentApps,
    TenantAgents,
    TenantTools,
)
from modelyard.workflow.services import (
    TenantDatasets,
    TenantFiles,
    TenantModels,
    TenantSandbox,
    mappings_of,
)
from modelyard.workflow.sources import TenantDatasources
from modelyard.workflow.stored_forms import StoredForms
from modelyard.workflow.trace_destinations import TraceDestinations
from modelyard.workflow.trace_export import TraceExport
from modelyard.workflow.triggers import Triggers
from modelyard.workflow.variables import WorkflowError

_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowParts:
    """Apps and everything that running them needs."""

    apps: Apps
    library: AppLibrary
    statistics: AppStatistics
    generators: Generators
    runs: Runs
    journal: DatabaseJournal
    conversations: Conversations
    features: Features
    chats: Chats
    pipelines: Pipelines
    triggers: Triggers
    delivery: MailDelivery
    trace_destinations: TraceDestinations
    trace_export: TraceExport
    run_services: "RunServices"

    @property
    def limits(self) -> Limits:
        """The limits of a run, as the settings state them."""
        return _limits_of(self.run_services.live.current.workflows)

    def services(self, app: App, run: RunRecord | None = None) -> Services:
        """Return the services for the nodes of an app in a tenant's run.

        Without `run`, the services belong to a run that is not stored.
        """
        return self.run_services.services(app, run)

    def files(self, tenant: str, user: str = "") -> TenantFiles:
        """Return the file store for the runs of a user."""
        return self.run_services.files(tenant, user)

    async def delete_old_runs(self, current_time: float, days: float) -> None:
        """Delete the journal entries of runs that ended more than `days` ago."""
        await self.journal.delete_ended_before(current_time - days * _DAY)

    async def aclose(self) -> None:
        """Stop this process's part of the running apps; another process continues them."""
        # Chats start runs, so they are closed before the runs.
        await self.chats.aclose()
        await self.runs.aclose()
        # After the runs, whose last traces may still be sent.
        await self.trace_export.aclose()


class RunCallers:
    """Resolves the caller on whose behalf a run calls models."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    def caller_of(self, run: RunRecord) -> Caller:
        """Return the API key that started the run, or the app itself as a key of its
        own.

        Raises WorkflowError if the key has been revoked since.
        """
        app = f"app:{run.app}" if run.app else ""
        # Runs without a key, for example scheduled ones, are charged to the app.
        if not run.api_key:
            return Caller(
                tenant=run.tenant, user=run.user or None, key=app, reader=run.reader
            )
        caller = self._directory.caller_of_key(run.api_key, self._clock.time())
        # The key is read again on each use, so a revoked key also stops runs that are
        # in progress. Operators' keys belong to the default tenant and may act for any
        # other.
        if caller is None or caller.tenant not in (run.tenant, DEFAULT_TENANT):
            raise WorkflowError("The API key that started this run is no longer valid")
        return msgspec.structs.replace(
            caller,
            tenant=run.tenant,
            user=run.user or caller.user,
            app=app,
            # Who asked, whatever the key may do: a resumed run has no request.
            reader=run.reader,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunServices:
    """Builds the services of a run's nodes. Each is limited to the tenant and to the
    mapping of the app."""

    live: LiveSettings
    addresses: Addresses
    network: NetworkServices
    storage: StorageServices
    models: ModelManager
    plugins: PluginHostServices
    tools: ToolServices
    knowledge: KnowledgeServices
    journal: DatabaseJournal
    conversations: Conversations
    callers: RunCallers
    apps: Apps
    delivery: MailDelivery

    def files(self, tenant: str, user: str = "") -> TenantFiles:
        """Return the file store for the runs of a user."""
        return TenantFiles(
            self.storage.files,
            self.network.egress,
            tenant,
            self.addresses.content(),
            user,
        )

    def sources(self, tenant: str, user: str = "") -> TenantDatasources:
        """Return the document sources of a knowledge pipeline."""
        reader, files = self.knowledge.datasets.reader, self.files(tenant, user)
        return TenantDatasources(
            self.plugins.plugins,
            self.plugins.credentials,
            reader,
            files,
            tenant,
            user,
        )

    def services(self, app: App, run: RunRecord | None = None) -> Services:
        """Return the services for a tenant's run; without `run`, for the default
        tenant."""
        tenant, user = (
            (run.tenant, run.user) if run is not None else (DEFAULT_TENANT, "")
        )
        # The app's own mapping comes before the general one of the settings.
        mappings = mappings_of(app.mapping, self._default_mapping())
        caller = (
            self.callers.caller_of(run) if run is not None else Caller(tenant=tenant)
        )
        models = TenantModels(
            self.models, self.plugins.models, caller, mappings["models"]
        )
        tools = self._tools(tenant, user, mappings["tools"], run)
        return Services(
            models=models,
            sandbox=self._sandbox(tenant, run.app if run is not None else ""),
            http=self.network.egress,
            files=self.files(tenant, user),
            tools=tools,
            agents=TenantAgents(self.plugins.plugins, tools, models, tenant, user),
            agent_apps=TenantAgentApps(self.apps, tenant, mappings["agents"]),
            # Memory, sources and forms exist only if the run or the kind of app needs
            # them.
            memory=self.conversations.memory(run)
            if run is not None and run.conversation
            else None,
            datasets=TenantDatasets(
                self.knowledge.datasets,
                tenant,
                app.name,
                mappings["datasets"],
                mappings["models"],
            ),
            sources=self.sources(tenant, user) if app.kind == "rag_pipeline" else None,
            forms=StoredForms(self.journal, run, self.addresses.server(), self.delivery)
            if run is not None
            else None,
        )

    def _sandbox(self, tenant: str, app: str) -> TenantSandbox:
        """Return the sandbox for a tenant's app, by its id."""
        network = self.tools.code_network
        return TenantSandbox(
            self.tools.sandbox, tenant, lambda: network.access(tenant, app)
        )

    def _default_mapping(self) -> AppMapping:
        """Return the mapping of the settings that applies to all apps."""
        workflow_settings = self.live.current.workflows
        return AppMapping(
            models=workflow_settings.models,
            tools=workflow_settings.tools,
            datasets=workflow_settings.datasets,
        )

    def _tools(
        self,
        tenant: str,
        user: str,
        mapping: Sequence[Mapping[str, str]],
        run: RunRecord | None,
    ) -> TenantTools:
        """Return the tools of a tenant, tagged with the run and its nesting depth."""
        return TenantTools(
            self.tools.manager,
            tenant,
            user,
            mapping,
            app=run.app if run is not None else "",
            run=run.id if run is not None else "",
            depth=run.depth if run is not None else 0,
            store=self.storage.scoped_store,
        )


def build_workflows(
    live_settings: LiveSettings,
    clock: Clock,
    *,
    addresses: Addresses,
    network: NetworkServices,
    storage: StorageServices,
    directory: Directory,
    models: ModelManager,
    plugins: PluginHostServices,
    tools: ToolServices,
    knowledge: KnowledgeServices,
) -> WorkflowParts:
    """Build the workflow services, and register apps as tools for each other and for
    plugins."""
    clock_time = clock.time
    # What several servers must agree on: who owns a run, and when a schedule is due. The
    # journal keeps the clock right.
    shared_time = storage.shared_clock
    journal = DatabaseJournal(storage.database, shared_time, storage.keys)
    apps = Apps(storage.resources, directory, journal, storage.keys, clock_time)
    conversations = Conversations(storage.database, clock_time, storage.scoped_store)
    delivery = build_mail_delivery(
        live_settings, journal.forms.mails, storage, clock_time
    )
    run_services = RunServices(
        live=live_settings,
        addresses=addresses,
        network=network,
        storage=storage,
        models=models,
        plugins=plugins,
        tools=tools,
        knowledge=knowledge,
        journal=journal,
        conversations=conversations,
        callers=RunCallers(directory, clock),
        apps=apps,
        delivery=delivery,
    )
    annotations = Annotations(
        storage.database, storage.scoped_store, _embedder(models), clock_time
    )
    features = Features(models, annotations, tools.providers.extensions.extend)
    runs = _build_runs(run_services, apps, features, clock_time)
    trace_destinations, trace_export = _build_traces(run_services, directory)
    runs.on_end(trace_export.run_ended)
    chats = Chats(runs, conversations, run_services.files, clock_time, features)
    # Apps become a source of tools only now: the tool manager existed before the apps.
    tools.manager.add_source("workflow", AppTools(apps, chats, runs))
    calls = PluginCalls(tools.manager, apps, chats, runs)
    # Plugins may call tools and apps of their tenant through their host.
    plugins.services.connect(calls.tool, calls.app)
    pipelines = _build_pipelines(run_services, apps, runs, clock_time)
    triggers = Triggers(
        apps,
        chats,
        directory,
        # Read at each tick, so that a changed setting applies at once.
        catch_up=lambda: live_settings.current.workflows.catch_up_seconds,
        clock=shared_time,
    )
    return WorkflowParts(
        apps=apps,
        library=AppLibrary(apps, storage.resources, directory),
        statistics=AppStatistics(storage.database),
        generators=Generators(models, tools.sandbox.run_code),
        runs=runs,
        journal=journal,
        conversations=conversations,
        features=features,
        chats=chats,
        pipelines=pipelines,
        triggers=triggers,
        delivery=delivery,
        trace_destinations=trace_destinations,
        trace_export=trace_export,
        run_services=run_services,
    )


def _build_pipelines(
    services: RunServices, apps: Apps, runs: Runs, clock_time: Callable[[], float]
) -> Pipelines:
    """Build the service that runs pipelines of documents."""
    return Pipelines(
        apps,
        runs,
        services.knowledge.datasets,
        services.sources,
        services.files,
        clock_time,
    )


def _limits_of(settings: WorkflowSettings) -> Limits:
    """Return the limits of a run."""
    return Limits(
        steps=settings.steps,
        seconds=settings.seconds,
        depth=settings.depth,
        template_characters=settings.template_characters,
        code=CodeLimits(**msgspec.structs.asdict(settings.code_output)),
        summary_tokens=settings.summary_tokens,
    )


def _build_runs(
    run_services: RunServices,
    apps: Apps,
    features: Features,
    clock_time: Callable[[], float],
) -> Runs:
    """Build the service that starts, resumes and stops runs."""
    workflow_settings = run_services.live.current.workflows
    # Runs look apps and services up lazily, because a run can outlive a publication.
    runs = Runs(
        run_services.journal,
        _app_finder(apps),
        run_services.services,
        limits=_limits_of(workflow_settings),
        clock=clock_time,
        max_runs=workflow_settings.at_once,
        engine=EngineChoice(run_services.live.current, run_services.storage).build(
            run_services.journal
        ),
    )
    runs.check_output(_output_checks(apps, features))
    runs.identify_callers(run_services.callers.caller_of)
    return runs


def _build_traces(
    run_services: RunServices, directory: Directory
) -> tuple[TraceDestinations, TraceExport]:
    """Build what sends the traces of apps."""
    storage = run_services.storage
    rows = SealedRows(storage.resources, directory, storage.keys)
    destinations = TraceDestinations(rows, directory)
    # The client for tenants' addresses: destinations are theirs.
    egress, names = run_services.network.egress, _app_names(run_services.apps)
    return destinations, TraceExport(destinations, run_services.journal, egress, names)


def _app_finder(apps: Apps) -> FindApp:
    """Return a function that finds the app of a run."""

    async def find(run: RunRecord) -> App:
        """Return the app as it was when the run started, with its current mapping."""
        published = _published(apps, run)
        # A removed app's runs can still finish: the content is read by its digest, only
        # the mapping is lost.
        mapping = published.stored.mapping if published else None
        return await apps.load_version(run.tenant, run.digest, mapping)

    return find


def _output_checks(
    apps: Apps, features: Features
) -> Callable[[App, RunRecord], OutputCheck | None]:
    """Return a function that finds the output moderation of a run."""

    def check(app: App, run: RunRecord) -> OutputCheck | None:
        """Return the output check of the run's app, or None if the app was removed."""
        published = _published(apps, run)
        return (
            features.output_check(published, app, run.user)
            if published is not None
            else None
        )

    return check


def _app_names(apps: Apps) -> Callable[[RunRecord], str]:
    """Return a function that names the app of a run, for traces."""

    def name_of(run: RunRecord) -> str:
        """Return the app's name, or its id if it was removed."""
        published = _published(apps, run)
        return published.name if published is not None else run.app

    return name_of


def _published(apps: Apps, run: RunRecord) -> AppRecord | None:
    """Return the app of a run, or None if it was removed."""
    return next((app for app in apps.list_all(run.tenant) if app.id == run.app), None)


def _embedder(
    models: ModelManager,
) -> Callable[[str, str, Sequence[str]], Awaitable[list[Sequence[float]]]]:
    """Return a function that embeds texts for the annotation search."""

    async def embed(
        tenant: str, model: str, texts: Sequence[str]
    ) -> list[Sequence[float]]:
        """Return the vectors by which questions are compared with annotations."""
        # The model is looked up at each call, because a tenant can change its
        # credentials at any time.
        embeds = models.find(tenant, model, ModelType.TEXT_EMBEDDING)
        result = await embeds.invoke_text_embedding(
            TextEmbeddingRequest(texts=list(texts))
        )
        return list(result.embeddings)

    return embed
