"""Builds the gateway: mounts each API with the services that it needs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from modelyard.app.live_settings import LiveSettings
from modelyard.app.mail import mail_problem
from modelyard.app.readiness import Readiness
from modelyard.app.services import Services, prepare
from modelyard.app.settings_documents import SettingsFile, StoredSettingsDocument
from modelyard.base.errors import ConfigError
from modelyard.base.log import redaction
from modelyard.base.settings import Settings, load_settings
from modelyard.gateway.a2a import table as a2a_table
from modelyard.gateway.admin import table as admin_table
from modelyard.gateway.admin.app_network import AppNetwork
from modelyard.gateway.admin.app_traces import AppTraces
from modelyard.gateway.admin.apps import ImportedApps
from modelyard.gateway.admin.dependencies import (
    AdminDependencies,
    AdminParts,
    ServerState,
)
from modelyard.gateway.admin.settings_document import SettingsDocument
from modelyard.gateway.anthropic import table as anthropic_table
from modelyard.gateway.auth import Authenticator
from modelyard.gateway.bodies import BodyBudget
from modelyard.gateway.chat_page import table as chat_page_table
from modelyard.gateway.cohere import table as cohere_table
from modelyard.gateway.console_api import table as console_table
from modelyard.gateway.docs import table as docs_table
from modelyard.gateway.form_page import table as form_page_table
from modelyard.gateway.google import table as google_table
from modelyard.gateway.knowledge import table as knowledge_table
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.gateway.mcp import table as mcp_table
from modelyard.gateway.openai import table as openai_table
from modelyard.gateway.openai.hosted_tools import HostedTools
from modelyard.gateway.operations import table as operations_table
from modelyard.gateway.plugins import content_table, daemon_table
from modelyard.gateway.plugins.content_table import ContentDependencies
from modelyard.gateway.plugins.daemon_calls import DaemonGateway
from modelyard.gateway.plugins.dependencies import PluginDependencies
from modelyard.gateway.server import Gateway
from modelyard.gateway.service import table as service_table
from modelyard.gateway.service.authentication import AppAuthenticator
from modelyard.gateway.service.dependencies import ServiceDependencies
from modelyard.gateway.table import Api
from modelyard.gateway.tenant_content import ContentRules
from modelyard.gateway.unserved_requests import UnservedRequests
from modelyard.models.entities import AIModelEntity
from modelyard.people.oidc import Oidc
from modelyard.runtime.model_manager import ModelManager
from modelyard.tenancy.caller import Role
from modelyard.tools.mcp.server import McpServer
from modelyard.workflow.form_answers import FormAnswers


def gateway_for(
    services: Services,
    *,
    on_start: Callable[[], None] = lambda: None,
    is_draining: Callable[[], bool] = lambda: False,
    peer_metrics: Callable[[], Iterable[Mapping[str, Any]]] = lambda: (),
    settings_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Gateway:
    """Return the ASGI application. It closes the services when it shuts down.

    `peer_metrics` returns the metrics of the server's other processes; `settings_file`
    and `environ` are the source of the settings. Raises ConfigError for invalid
    settings.
    """
    settings = services.settings.current
    readiness = Readiness(
        services.settings,
        services.storage,
        services.calls.ledger,
        services.upkeep,
        services.shared_settings,
        is_draining,
        services.workflows.runs,
    )
    keeper = _gatekeeper(services)
    # Shared by the gateway and the table of tenants' content.
    content = _content_rules(services)
    read_from = SettingsSource(settings, settings_file, environ)
    apis = _apis(services, keeper, content, readiness, read_from, peer_metrics)
    max_body_bytes = settings.max_body_mb << 20
    # Memory for all request bodies that are being read at the same time.
    room = settings.connections.bodies_mb << 20
    gateway = Gateway(
        apis,
        keeper,
        content,
        max_body=max_body_bytes,
        bodies=BodyBudget(room, max(room // 4, 2 * max_body_bytes)),
        prepare=partial(
            prepare,
            services.storage,
            services.providers,
            services.settings,
            services.shared_settings,
        ),
        on_start=on_start,
        on_close=services.aclose,
        # Read for each stream, so that a change takes effect at once.
        keep_alive_seconds=lambda: services.settings.current.timeouts.keep_alive,
        load=services.calls.load,
        unserved=UnservedRequests(services.calls.unserved, keeper),
    )
    runs = services.workflows.runs
    gateway.ending.listeners.append(runs.leave)
    # Their nodes at work would be cut, and happen again elsewhere.
    gateway.ending.work.append(lambda: runs.count)
    calls = services.calls
    direct = gateway.answer_directly(calls.models, calls.direct, services.clock)
    services.settings.on_change(
        lambda changed: gateway.limit_bodies(changed.max_body_mb << 20)
    )
    # Settings decide which hosts and callers a head may name.
    services.settings.on_change(lambda changed: direct.heads.clear())
    return gateway


def _apis(
    services: Services,
    keeper: Authenticator,
    content: ContentRules,
    readiness: Readiness,
    read_from: "SettingsSource",
    peer_metrics: Callable[[], Iterable[Mapping[str, Any]]],
) -> tuple[Api, ...]:
    """Return all APIs. The first one also answers requests outside every API's prefix."""
    models, clock, tools = services.calls.models, services.clock, services.tools
    # A function, because the sandbox level is asked for at each request.
    accounts, sandbox = services.tenancy.accounts, lambda: tools.sandbox.level
    plugins, apps = _plugins(services), _service(services)
    datasets = _datasets(services, keeper)
    entrance, app_rows = AppAuthenticator(apps.apps), service_table.rows(apps)
    named_tools = services.named_tools
    hosted = HostedTools(
        tools.manager, lambda tenant, name: named_tools.find(name, tenant)
    )
    daemon = DaemonGateway(
        plugins,
        services.plugins.key,
        services.settings.current.plugins.open_interface,
        services.addresses.content,
    )
    apis = (
        openai_table.api(models, services.calls.responses, clock, hosted),
        anthropic_table.api(models, clock),
        google_table.api(models, clock),
        cohere_table.api(models, clock),
        cohere_table.jina_api(models),
        service_table.api(app_rows, entrance),
        knowledge_table.api(datasets),
        knowledge_table.external_api(datasets),
        _admin(services, plugins, apps, datasets, readiness, read_from),
        daemon_table.api(daemon),
        content_table.api(_content(services, plugins, keeper, content)),
        mcp_table.api(McpServer(tools.manager), named_tools.build_catalog),
        a2a_table.api(apps),
        chat_page_table.api(apps.apps, keeper, entrance, app_rows.for_visitors),
        form_page_table.api(
            apps.form_answers, services.storage.files, keeper.address_of
        ),
        console_table.api(
            accounts, keeper, _oidc(services), partial(_record_groups, services)
        ),
        operations_table.api(
            sandbox, readiness.problem, services.calls.metrics, peer_metrics
        ),
    )
    # The documentation lists the other APIs, so it comes last.
    return (*apis, docs_table.api(apis))


class SettingsSource:
    """The file and the environment variables that the settings were read from."""

    def __init__(
        self, settings: Settings, file: Path | None, environ: Mapping[str, str] | None
    ) -> None:
        self.file = file or settings.home_path / "modelyard.yaml"
        self._environ = (
            environ if environ is not None else {"MODELYARD_HOME": settings.home}
        )

    @property
    def overriding(self) -> list[str]:
        """Names of environment variables that override the settings file."""
        # The home folder is not a setting of the file.
        names = (
            name
            for name in self._environ
            if name.startswith("MODELYARD_") and name != "MODELYARD_HOME"
        )
        return sorted(names)

    def load(self, path: Path) -> Settings:
        """Return the settings of a file, overridden by the environment variables.
        Raises ConfigError."""
        return load_settings(self._environ, config=str(path))


def settings_document(
    services: Services, read_from: SettingsSource
) -> SettingsDocument:
    """Return the settings that the API shows and changes: those of the database, or
    those of the file."""
    shared = services.shared_settings
    if shared.is_stored:
        return StoredSettingsDocument(read_from.file, shared)
    is_fixed = services.settings.current.settings_source == "file"
    return SettingsFile(read_from.file, read_from.load, is_fixed=is_fixed)


def _gatekeeper(services: Services) -> Authenticator:
    """Return the gatekeeper; it follows changes of the API keys."""
    settings, tenancy = services.settings.current, services.tenancy
    keeper = Authenticator(
        settings.api_keys,
        tenancy.directory,
        services.storage.keys,
        services.clock,
        tenancy.accounts,
        settings.trusted_proxies,
    )

    def apply(changed: Settings) -> None:
        """Replace the configured API keys."""
        keeper.keys = changed.api_keys

    services.settings.on_change(apply)
    return keeper


def _content_rules(services: Services) -> ContentRules:
    """Return the rules for tenants' content, such as plugin endpoints and webhooks."""
    live_settings, plugin_key = services.settings, services.plugins.key
    return ContentRules(
        origin=services.addresses.own_content,
        # Read at each request, because settings may change while the server runs.
        passes_authorization=lambda: live_settings.current.content.pass_authorization,
        keys=lambda: (*live_settings.current.api_keys, plugin_key),
    )


def _service(services: Services) -> ServiceDependencies:
    """Return the services of the app API."""
    workflows = services.workflows
    return ServiceDependencies(
        apps=workflows.apps,
        library=workflows.library,
        runs=workflows.runs,
        chats=workflows.chats,
        form_answers=FormAnswers(workflows.runs, workflows.files, services.clock.time),
        conversations=workflows.conversations,
        files=services.storage.files,
        models=services.calls.models,
        features=workflows.features,
        services=workflows.services,
        origin=services.addresses.server,
        content_origin=services.addresses.content,
    )


def _datasets(services: Services, keeper: Authenticator) -> DatasetParts:
    """Return the services of the knowledge API."""
    knowledge = services.knowledge
    return DatasetParts(
        datasets=knowledge.datasets,
        external=knowledge.external,
        models=knowledge.models,
        answerer=knowledge.answerer,
        evaluations=knowledge.evaluations,
        sources=knowledge.sources,
        imports=knowledge.imports,
        pipelines=services.workflows.pipelines,
        listed=partial(_models_by_provider, services.calls.models),
        caller_of_key=services.tenancy.dataset_keys.caller_of,
        gatekeeper=keeper,
        files=services.storage.files,
        origin=services.addresses.content,
    )


def _plugins(services: Services) -> PluginDependencies:
    """Return the services of the plugin API."""
    parts = services.plugins
    return PluginDependencies(
        host=parts.host,
        plugins=parts.plugins,
        packages=parts.packages,
        installations=parts.installations,
        endpoints=parts.endpoints,
        subscriptions=parts.subscriptions,
        credentials=parts.credentials,
        debugged=parts.debugged,
        market=parts.market,
    )


def _content(
    services: Services,
    plugins: PluginDependencies,
    keeper: Authenticator,
    rules: ContentRules,
) -> ContentDependencies:
    """Return the services of tenants' content."""
    workflows = services.workflows
    return ContentDependencies(
        plugins=plugins,
        triggers=workflows.triggers,
        runs=workflows.runs,
        files=services.storage.files,
        files_of=workflows.files,
        sessions=services.plugins.sessions,
        on_event=services.triggers.listener,
        origin=services.addresses.server,
        content_origin=services.addresses.content,
        rules=rules,
        is_disabled=keeper.is_disabled,
    )


def _admin(
    services: Services,
    plugins: PluginDependencies,
    apps: ServiceDependencies,
    datasets: DatasetParts,
    readiness: Readiness,
    read_from: SettingsSource,
) -> Api:
    """Return the admin API."""
    # Handlers of the admin API get functions where values may change.
    calls, tools, workflows = services.calls, services.tools, services.workflows
    manage = AdminDependencies(
        models=calls.models,
        directory=services.tenancy.directory,
        ledger=calls.ledger,
        traces=calls.traces,
        requests=calls.requests,
        clock=services.clock,
        weights=services.providers.weights,
        plugins=services.plugins.plugins,
        counters=calls.counters,
        start_counters=calls.start_counters,
        applicable_limits=calls.admission.applying,
        cache_seconds=calls.cache_seconds,
        check=services.checks.credentials,
        server=partial(_server_state, services.settings),
        settings_schema=partial(msgspec.json.schema, Settings),
        settings=settings_document(services, read_from),
        overridden=read_from.overriding,
        database=services.storage.database.engine,
        sandbox=lambda: tools.sandbox.level,
        problem=readiness.problem,
        services=workflows.services,
        started_at=services.clock.monotonic(),
    )
    return admin_table.api(
        AdminParts(
            administration=services.tenancy.administration,
            answers=calls.answers,
            manage=manage,
            plugins=plugins,
            service=apps,
            datasets=datasets,
            app_statistics=workflows.statistics,
            generators=workflows.generators,
            tools=tools.manager,
            tool_providers=tools.providers,
            apps=ImportedApps(
                apps.apps,
                workflows.library,
                workflows.pipelines,
                services.addresses.server,
                lambda: services.settings.current.mail.problem,
            ),
            app_traces=AppTraces(
                apps.apps, workflows.trace_destinations, workflows.trace_export
            ),
            app_network=AppNetwork(apps.apps, services.tools.code_network),
            origin=services.addresses.server,
            content_origin=services.addresses.content,
        )
    )


def _oidc(services: Services) -> Oidc | None:
    """Return the OIDC sign-in; None if it is not configured. Raises ConfigError for an
    unknown role."""
    oidc_settings = services.settings.current.oidc
    # Without an issuer there is no external sign-in.
    if not oidc_settings.issuer:
        return None
    role = (
        Role(oidc_settings.role)
        if oidc_settings.role in ("viewer", "developer", "editor", "admin")
        else None
    )
    if oidc_settings.role and role is None:
        raise ConfigError(
            f"oidc.role: unknown role {oidc_settings.role!r}; expected viewer, developer,"
            " editor or admin"
        )
    # The secret must not appear in logs.
    redaction.add([oidc_settings.client_secret])
    return Oidc(
        services.network.egress,
        services.clock,
        issuer=oidc_settings.issuer,
        client_id=oidc_settings.client_id,
        client_secret=oidc_settings.client_secret,
        label=oidc_settings.label,
        role=role,
        domains=oidc_settings.domains,
        groups_claim=oidc_settings.groups_claim,
    )


async def _record_groups(
    services: Services, tenant: str, email: str, groups: Sequence[str]
) -> None:
    """Store the groups that the identity provider names for a person."""
    valid_seconds = services.settings.current.oidc.group_hours * 3600.0
    await services.tenancy.memberships.record_claims(
        tenant, email, groups, valid_seconds
    )


def _server_state(live_settings: LiveSettings) -> ServerState:
    """Return the server's state for the admin API."""
    settings = live_settings.current
    # The debug port works only with one worker.
    port = settings.plugins.debug_port if settings.workers == 1 else 0
    return ServerState(
        workers=settings.workers,
        records=settings.telemetry.record,
        debug_address=f"{settings.plugins.debug_host}:{port}" if port else "",
        mail_problem=mail_problem(settings),
    )


def _models_by_provider(
    models: ModelManager, tenant: str, model_type: str
) -> Sequence[Mapping[str, Any]]:
    """Return the models of a type, grouped by provider, in the format of Dify's
    knowledge API."""
    # Group the tenant's models of this type by provider.
    offered: dict[str, list[AIModelEntity]] = {}
    for provider, model in models.providers.get_models(tenant):
        if model.model_type.value == model_type:
            offered.setdefault(provider, []).append(model)
    # Labels come from the provider definitions.
    factory = models.providers.factory_of(tenant)
    labels = {
        name: msgspec.to_builtins(factory.get_definition(name).entity.label)
        for name in offered
    }
    return [
        {
            "provider": name,
            "tenant_id": tenant,
            "label": labels[name],
            "icon_small": None,
            "icon_small_dark": None,
            "status": "active",
            "models": [_listed_model(model, model_type) for model in offered[name]],
        }
        for name in sorted(offered)
    ]


def _listed_model(model: AIModelEntity, model_type: str) -> Mapping[str, Any]:
    """Return a model in the format of Dify's knowledge API."""
    return {
        "model": model.model,
        "label": msgspec.to_builtins(model.label),
        "model_type": model_type,
        "features": [feature.value for feature in model.features or ()],
        "fetch_from": "predefined-model",
        "model_properties": msgspec.to_builtins(model.model_properties),
        "deprecated": False,
        "status": "active",
        "load_balancing_enabled": False,
    }
