"""The gateway around a Modelyard, as `serve` runs it and as tests do."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from modelyard.app import Modelyard
from modelyard.app.agents import offer_of, tool_of
from modelyard.base.errors import ConfigError
from modelyard.base.log import redaction
from modelyard.base.settings import Settings, load_settings
from modelyard.gateway.admin.apps import ImportedApps
from modelyard.gateway.admin.parts import ManageParts, ServerState
from modelyard.gateway.auth import Gatekeeper
from modelyard.gateway.bodies import BodyBudget
from modelyard.gateway.knowledge.calls import DatasetParts
from modelyard.gateway.plugins.parts import PluginParts
from modelyard.gateway.server import Gateway, Parts
from modelyard.gateway.service.parts import ServiceParts
from modelyard.gateway.tenant_content import ContentRules
from modelyard.runtime.caller import Role
from modelyard.runtime.oidc import Oidc


def gateway_of(
    yard: Modelyard,
    *,
    on_start: Callable[[], None] = lambda: None,
    is_draining: Callable[[], bool] = lambda: False,
    others: Callable[[], Iterable[Mapping[str, Any]]] = lambda: (),
    settings_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Gateway:
    """Give it to any ASGI server. `settings_file` and `environ`: what the settings were read from."""

    def problem() -> str | None:
        if is_draining():
            return "the server is stopping"
        if yard.database.damage is not None:
            return f"the database is damaged, and calls are refused until it is restored: {yard.database.damage}"
        if yard.database.trouble is not None:
            # What stands before the colon is for anybody: a full disk may be said, a server's address may not.
            cause = ", since the database's disk is full" if "full" in yard.database.trouble else ""
            return f"what calls cost cannot be written down{cause}: {yard.database.trouble}"
        return None if yard.upkeep.is_fresh else "changes to keys and limits are not heard of"

    began = yard.clock.monotonic()
    service = ServiceParts(
        apps=yard.apps,
        runs=yard.runs,
        chats=yard.workflow_parts.chats,
        conversations=yard.workflow_parts.conversations,
        files=yard.files,
        models=yard.models,
        features=yard.workflow_parts.features,
        origin=lambda: yard.origin,
        content_origin=lambda: yard.content_origin,
    )
    known = environ if environ is not None else {"MODELYARD_HOME": yard.settings.home}
    manage = ManageParts(
        models=yard.models,
        directory=yard.directory,
        ledger=yard.ledger,
        traces=yard.traces,
        clock=yard.clock,
        weights=yard.weights,
        plugins=yard.plugins,
        counters=yard.counters,
        applying=yard.admission.applying,
        cache_seconds=lambda tenant, route: _cache_seconds(yard, tenant, route),
        check=yard.check_credentials,
        server=lambda: _server(yard),
        settings_schema=lambda: msgspec.json.schema(Settings),
        settings_file=settings_file or yard.settings.home_path / "modelyard.yaml",
        load_settings=lambda path: load_settings(known, config=str(path)),
        overridden=sorted(name for name in known if name.startswith("MODELYARD_") and name != "MODELYARD_HOME"),
        database=yard.database.engine,
        jail=lambda: yard.workflow_parts.jail.level,
        problem=problem,
        services=yard.workflow_parts.services,
        annotations=yard.workflow_parts.features.annotations,
        began=began,
    )
    keeper = Gatekeeper(
        yard.settings.api_keys, yard.directory, yard.keys, yard.clock, yard.accounts, yard.settings.trusted_proxies
    )
    parts = Parts(
        models=yard.models,
        responses=yard.responses,
        administration=yard.administration,
        ledger=yard.ledger,
        traces=yard.traces,
        metrics=yard.metrics,
        answers=yard.answers,
        clock=yard.clock,
        problem=problem,
        plugins=_plugins(yard),
        files=yard.files,
        jail=lambda: yard.workflow_parts.jail.level,
        service=service,
        manage=manage,
        datasets=DatasetParts(
            datasets=lambda: yard.knowledge.datasets,
            external=lambda: yard.knowledge.external,
            models=lambda: yard.knowledge.models,
            answerer=lambda: yard.knowledge.answerer,
            listed=lambda tenant, kind: _models_by_provider(yard, tenant, kind),
            tenant_of_key=lambda key: yard.knowledge.tenant_of_key(key),
            gatekeeper=keeper,
            files=yard.files,
            origin=lambda: yard.content_origin,
            pipelines=lambda: yard.workflow_parts.pipelines,
            evaluations=lambda: yard.knowledge.evaluations,
        ),
        accounts=yard.accounts,
        keeper=keeper,
        apps=ImportedApps(yard.apps, yard.workflow_parts.pipelines, lambda: yard.origin),
        oidc=_oidc(yard),
        sessions=yard.plugin_parts.sessions,
        plugin_key=yard.plugin_parts.key,
        is_plugin_interface_open=yard.settings.plugins.open_interface,
        origin=lambda: yard.origin,
        content=_content(yard),
        content_origin=lambda: yard.content_origin,
        triggers=yard.workflow_parts.triggers,
        files_of=yard.workflow_parts.files,
        on_event=lambda: yard.trigger_listener,
        others=others,
        tools=yard.tools,
        tool_providers=yard.workflow_parts.tools.providers,
        tool=lambda tenant, name: tool_of(yard, name, tenant),
        offer=lambda tenant, names: offer_of(yard, tenant, names),
    )
    yard.on_reload(lambda settings: setattr(keeper, "keys", settings.api_keys))
    most = yard.settings.max_body_mb << 20
    room = yard.settings.connections.bodies_mb << 20
    bodies = BodyBudget(room, max(room // 4, 2 * most))
    return Gateway(
        parts, keeper, max_body=most, bodies=bodies, prepare=yard.open, on_start=on_start, on_close=yard.aclose
    )


def _plugins(yard: Modelyard) -> PluginParts:
    parts = yard.plugin_parts
    return PluginParts(
        host=parts.host, plugins=parts.plugins, packages=parts.packages, installations=parts.installations,
        endpoints=parts.endpoints, subscriptions=parts.subscriptions, credentials=parts.credentials,
        debugged=parts.debugged, market=parts.market,
    )  # fmt: skip


def _content(yard: Modelyard) -> ContentRules:
    return ContentRules(
        origin=lambda: yard.settings.content.origin.rstrip("/"),
        passes_authorization=lambda: yard.settings.content.pass_authorization,
        keys=lambda: (*yard.settings.api_keys, yard.plugin_parts.key),
    )


def _oidc(yard: Modelyard) -> Oidc | None:
    chosen = yard.settings.oidc
    if not chosen.issuer:
        return None
    role = Role(chosen.role) if chosen.role in ("viewer", "developer", "admin") else None
    if chosen.role and role is None:
        raise ConfigError(f"oidc.role is viewer, developer or admin, not {chosen.role!r}")
    redaction.add([chosen.client_secret])
    return Oidc(
        yard.egress, yard.clock, issuer=chosen.issuer, client_id=chosen.client_id, client_secret=chosen.client_secret,
        label=chosen.label, role=role, domains=chosen.domains,
    )  # fmt: skip


def _server(yard: Modelyard) -> ServerState:
    settings = yard.settings
    port = settings.plugins.debug_port if settings.workers == 1 else 0
    return ServerState(
        workers=settings.workers,
        records=settings.telemetry.record,
        debug_address=f"{settings.host}:{port}" if port else "",
    )


def _cache_seconds(yard: Modelyard, tenant: str, route: str) -> float:
    found = yard.providers.route(tenant, route) if route else None
    return (found.cache_seconds if found else 0.0) or yard.settings.cache.seconds


def _models_by_provider(yard: Modelyard, tenant: str, kind: str) -> Sequence[Mapping[str, Any]]:
    """Models of a type as the knowledge API lists them: providers, each with those that it offers."""
    found: dict[str, list[Any]] = {}
    for provider, model in yard.models.providers.get_models(tenant):
        if model.model_type.value == kind:
            found.setdefault(provider, []).append(model)
    labels = {
        name: msgspec.to_builtins(yard.models.providers.factory_of(tenant).get_definition(name).entity.label)
        for name in found
    }
    return [
        {
            "provider": name, "tenant_id": tenant, "label": labels[name], "icon_small": None, "icon_small_dark": None,
            "status": "active",
            "models": [
                {
                    "model": one.model, "label": msgspec.to_builtins(one.label), "model_type": kind,
                    "features": [each.value for each in one.features or ()], "fetch_from": "predefined-model",
                    "model_properties": msgspec.to_builtins(one.model_properties), "deprecated": False,
                    "status": "active", "load_balancing_enabled": False,
                }
                for one in models
            ],
        }
        for name, models in sorted(found.items())
    ]  # fmt: skip
