"""The gateway around the services: each API is mounted with what it needs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from modelyard.app.live_settings import LiveSettings
from modelyard.app.services import Services
from modelyard.app.upkeep import Upkeep
from modelyard.base.errors import ConfigError
from modelyard.base.log import redaction
from modelyard.base.settings import Settings, load_settings
from modelyard.gateway.a2a import table as a2a_table
from modelyard.gateway.admin import table as admin_table
from modelyard.gateway.admin.apps import ImportedApps
from modelyard.gateway.admin.parts import AdminParts, ManageParts, ServerState
from modelyard.gateway.anthropic import table as anthropic_table
from modelyard.gateway.auth import Gatekeeper
from modelyard.gateway.bodies import BodyBudget
from modelyard.gateway.chat_page import table as chat_page_table
from modelyard.gateway.cohere import table as cohere_table
from modelyard.gateway.console_api import table as console_table
from modelyard.gateway.docs import table as docs_table
from modelyard.gateway.google import table as google_table
from modelyard.gateway.knowledge import table as knowledge_table
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.gateway.mcp import table as mcp_table
from modelyard.gateway.openai import table as openai_table
from modelyard.gateway.openai.hosted_tools import HostedTools
from modelyard.gateway.operations import table as operations_table
from modelyard.gateway.plugins import content_table, daemon_table
from modelyard.gateway.plugins.content_table import ContentParts
from modelyard.gateway.plugins.daemon_calls import DaemonEntrance
from modelyard.gateway.plugins.parts import PluginParts
from modelyard.gateway.server import Gateway
from modelyard.gateway.service import table as service_table
from modelyard.gateway.service.entrance import Entrance
from modelyard.gateway.service.parts import ServiceParts
from modelyard.gateway.table import Api
from modelyard.gateway.tenant_content import ContentRules
from modelyard.people.oidc import Oidc
from modelyard.runtime.model_manager import ModelManager
from modelyard.storage.database import Database
from modelyard.tenancy.caller import Role
from modelyard.tools.mcp.server import McpServer


def gateway_for(
    services: Services,
    *,
    on_start: Callable[[], None] = lambda: None,
    is_draining: Callable[[], bool] = lambda: False,
    others: Callable[[], Iterable[Mapping[str, Any]]] = lambda: (),
    settings_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Gateway:
    """Give it to any ASGI server; the services are closed as it ends.

    `others`: what the server's other processes counted; `settings_file` and `environ`: what the settings were read
    from. Raises ConfigError for settings that are wrong.
    """
    settings = services.settings.current
    readiness = Readiness(services.storage.database, services.upkeep, is_draining)
    keeper = _gatekeeper(services)
    content = _content_rules(services)
    read_from = SettingsSource(settings, settings_file, environ)
    apis = _apis(services, keeper, content, readiness, read_from, others)
    most = settings.max_body_mb << 20
    room = settings.connections.bodies_mb << 20
    return Gateway(
        apis, keeper, content, max_body=most, bodies=BodyBudget(room, max(room // 4, 2 * most)),
        prepare=services.tenancy.directory.refresh, on_start=on_start, on_close=services.aclose,
    )  # fmt: skip


def _apis(
    services: Services,
    keeper: Gatekeeper,
    content: ContentRules,
    readiness: "Readiness",
    read_from: "SettingsSource",
    others: Callable[[], Iterable[Mapping[str, Any]]],
) -> tuple[Api, ...]:
    """All APIs, each with its table. The first one's words refuse what lies below nobody's prefix."""
    models, clock, tools = services.calls.models, services.clock, services.tools
    accounts, jail = services.tenancy.accounts, lambda: tools.jail.level
    plugins, apps = _plugins(services), _service(services)
    datasets = _datasets(services, keeper)
    entrance, app_rows = Entrance(apps.apps), service_table.rows(apps)
    named = services.named_tools
    hosted = HostedTools(tools.manager, lambda tenant, name: named.find(name, tenant))
    daemon = DaemonEntrance(
        plugins, services.plugins.key, services.settings.current.plugins.open_interface, services.addresses.content
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
        mcp_table.api(McpServer(tools.manager), named.offer),
        a2a_table.api(apps),
        chat_page_table.api(apps.apps, keeper, entrance, app_rows.for_visitors),
        console_table.api(accounts, keeper, _oidc(services)),
        operations_table.api(jail, readiness.problem, services.calls.metrics, others),
    )
    return (*apis, docs_table.api(apis))


class Readiness:
    """Whether calls should be sent to this process."""

    def __init__(self, database: Database, upkeep: Upkeep, is_draining: Callable[[], bool]) -> None:
        self._database = database
        self._upkeep = upkeep
        self._is_draining = is_draining

    def problem(self) -> str | None:
        """Why they should not; None where they may. What stands before the colon is for anybody: a full disk may be
        said, a server's address may not."""
        damage, trouble = self._database.damage, self._database.trouble
        if self._is_draining():
            return "the server is stopping"
        if damage is not None:
            return f"the database is damaged, and calls are refused until it is restored: {damage}"
        if trouble is not None:
            cause = ", since the database's disk is full" if "full" in trouble else ""
            return f"what calls cost cannot be written down{cause}: {trouble}"
        return None if self._upkeep.is_fresh else "changes to keys and limits are not heard of"


class SettingsSource:
    """The file and the variables that the settings came from."""

    def __init__(self, settings: Settings, file: Path | None, environ: Mapping[str, str] | None) -> None:
        self.file = file or settings.home_path / "modelyard.yaml"
        self._environ = environ if environ is not None else {"MODELYARD_HOME": settings.home}

    @property
    def overriding(self) -> list[str]:
        """Variables that say something else than the file may say."""
        names = (name for name in self._environ if name.startswith("MODELYARD_") and name != "MODELYARD_HOME")
        return sorted(names)

    def load(self, path: Path) -> Settings:
        """What a file would say, with the variables' word over it. Raises ConfigError."""
        return load_settings(self._environ, config=str(path))


def _gatekeeper(services: Services) -> Gatekeeper:
    settings, tenancy = services.settings.current, services.tenancy
    keeper = Gatekeeper(
        settings.api_keys, tenancy.directory, services.storage.keys, services.clock, tenancy.accounts,
        settings.trusted_proxies,
    )  # fmt: skip

    def take_up(changed: Settings) -> None:
        keeper.keys = changed.api_keys

    services.settings.on_change(take_up)
    return keeper


def _content_rules(services: Services) -> ContentRules:
    live, plugin_key = services.settings, services.plugins.key
    return ContentRules(
        origin=services.addresses.own_content,
        passes_authorization=lambda: live.current.content.pass_authorization,
        keys=lambda: (*live.current.api_keys, plugin_key),
    )


def _service(services: Services) -> ServiceParts:
    workflows = services.workflows
    return ServiceParts(
        apps=workflows.apps, runs=workflows.runs, chats=workflows.chats, conversations=workflows.conversations,
        files=services.storage.files, models=services.calls.models, features=workflows.features,
        origin=services.addresses.server, content_origin=services.addresses.content,
    )  # fmt: skip


def _datasets(services: Services, keeper: Gatekeeper) -> DatasetParts:
    knowledge = services.knowledge
    return DatasetParts(
        datasets=knowledge.datasets, external=knowledge.external, models=knowledge.models,
        answerer=knowledge.answerer, evaluations=knowledge.evaluations, pipelines=services.workflows.pipelines,
        listed=partial(_models_by_provider, services.calls.models),
        tenant_of_key=services.tenancy.dataset_keys.tenant_of, gatekeeper=keeper, files=services.storage.files,
        origin=services.addresses.content,
    )  # fmt: skip


def _plugins(services: Services) -> PluginParts:
    parts = services.plugins
    return PluginParts(
        host=parts.host, plugins=parts.plugins, packages=parts.packages, installations=parts.installations,
        endpoints=parts.endpoints, subscriptions=parts.subscriptions, credentials=parts.credentials,
        debugged=parts.debugged, market=parts.market,
    )  # fmt: skip


def _content(services: Services, plugins: PluginParts, keeper: Gatekeeper, rules: ContentRules) -> ContentParts:
    workflows = services.workflows
    return ContentParts(
        plugins=plugins, triggers=workflows.triggers, runs=workflows.runs, files=services.storage.files,
        files_of=workflows.files, sessions=services.plugins.sessions, on_event=services.triggers.listener,
        origin=services.addresses.server, content_origin=services.addresses.content, rules=rules,
        shuts_out=keeper.shuts_out,
    )  # fmt: skip


def _admin(
    services: Services,
    plugins: PluginParts,
    apps: ServiceParts,
    datasets: DatasetParts,
    readiness: Readiness,
    read_from: SettingsSource,
) -> Api:
    calls, tools, workflows = services.calls, services.tools, services.workflows
    manage = ManageParts(
        models=calls.models, directory=services.tenancy.directory, ledger=calls.ledger, traces=calls.traces,
        clock=services.clock, weights=services.providers.weights, plugins=services.plugins.plugins,
        counters=calls.counters, applying=calls.admission.applying, cache_seconds=calls.cache_seconds,
        check=services.checks.credentials, server=partial(_server_state, services.settings),
        settings_schema=partial(msgspec.json.schema, Settings), settings_file=read_from.file,
        load_settings=read_from.load, overridden=read_from.overriding, database=services.storage.database.engine,
        jail=lambda: tools.jail.level, problem=readiness.problem, services=workflows.services,
        annotations=workflows.features.annotations, began=services.clock.monotonic(),
    )  # fmt: skip
    return admin_table.api(AdminParts(
        administration=services.tenancy.administration, answers=calls.answers, manage=manage, plugins=plugins,
        service=apps, datasets=datasets, tools=tools.manager, tool_providers=tools.providers,
        apps=ImportedApps(apps.apps, workflows.pipelines, services.addresses.server),
        origin=services.addresses.server, content_origin=services.addresses.content,
    ))  # fmt: skip


def _oidc(services: Services) -> Oidc | None:
    """Where people sign in elsewhere; None where nowhere. Raises ConfigError for a role that is none."""
    chosen = services.settings.current.oidc
    if not chosen.issuer:
        return None
    role = Role(chosen.role) if chosen.role in ("viewer", "developer", "admin") else None
    if chosen.role and role is None:
        raise ConfigError(f"oidc.role is viewer, developer or admin, not {chosen.role!r}")
    redaction.add([chosen.client_secret])
    return Oidc(
        services.network.egress, services.clock, issuer=chosen.issuer, client_id=chosen.client_id,
        client_secret=chosen.client_secret, label=chosen.label, role=role, domains=chosen.domains,
    )  # fmt: skip


def _server_state(live: LiveSettings) -> ServerState:
    settings = live.current
    port = settings.plugins.debug_port if settings.workers == 1 else 0
    return ServerState(
        workers=settings.workers,
        records=settings.telemetry.record,
        debug_address=f"{settings.host}:{port}" if port else "",
    )


def _models_by_provider(models: ModelManager, tenant: str, kind: str) -> Sequence[Mapping[str, Any]]:
    """Models of a type as the knowledge API lists them: providers, each with those that it offers."""
    offered: dict[str, list[Any]] = {}
    for provider, model in models.providers.get_models(tenant):
        if model.model_type.value == kind:
            offered.setdefault(provider, []).append(model)
    factory = models.providers.factory_of(tenant)
    labels = {name: msgspec.to_builtins(factory.get_definition(name).entity.label) for name in offered}
    return [
        {
            "provider": name, "tenant_id": tenant, "label": labels[name], "icon_small": None, "icon_small_dark": None,
            "status": "active", "models": [_listed_model(model, kind) for model in offered[name]],
        }
        for name in sorted(offered)
    ]  # fmt: skip


def _listed_model(model: Any, kind: str) -> Mapping[str, Any]:
    return {
        "model": model.model, "label": msgspec.to_builtins(model.label), "model_type": kind,
        "features": [feature.value for feature in model.features or ()], "fetch_from": "predefined-model",
        "model_properties": msgspec.to_builtins(model.model_properties), "deprecated": False, "status": "active",
        "load_balancing_enabled": False,
    }  # fmt: skip
