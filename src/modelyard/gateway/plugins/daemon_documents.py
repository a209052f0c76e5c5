"""Installed plugins, their providers and endpoints as clients of Dify's plugin daemon
read them: complete objects, with forms as lists and dates as text."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.base.json_types import EMPTY_OBJECT, is_object
from modelyard.gateway.plugins.daemon_calls import DaemonCall
from modelyard.gateway.plugins.declarations import with_asset_ids
from modelyard.models.types import JSON
from modelyard.plugins.declaration import form_fields
from modelyard.plugins.identity import PluginIdentifier
from modelyard.plugins.manifest import localized_text
from modelyard.tenancy.resource_types import PluginEndpoint
from modelyard.tenant_plugins.plugins import Installed

# Plugins never expire, but clients require a date.
_NEVER = "9999-12-31T00:00:00Z"
_SOURCES = frozenset(("github", "marketplace", "package", "remote"))


def timestamp(seconds: float) -> str:
    """Return a time as clients parse it (RFC 3339)."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def declaration_of(identifier: str, document: JSON) -> JSON:
    """Return a declaration, whose manifest and providers have all fields that clients
    require, with asset ids in place of icon files."""
    # What a manifest may leave out, clients require.
    complete = {**document, "verified": bool(document.get("verified"))}
    complete["created_at"] = document.get("created_at") or timestamp(0)
    for name in ("label", "description"):
        complete[name] = localized_text(document.get(name))
    complete["resource"] = _resource(document.get("resource") or EMPTY_OBJECT)
    for key, complete_provider in _PROVIDERS.items():
        if is_object(document.get(key)):
            complete[key] = complete_provider(document[key])
    return with_asset_ids(identifier, complete)


def _resource(document: Mapping[str, Any]) -> JSON:
    """Return what a manifest requests, without the permissions that it does not:
    clients refuse a storage of less than 1 KiB, whether or not it is requested."""
    permissions = document.get("permission") or EMPTY_OBJECT
    return {
        **document,
        "permission": {
            name: value
            for name, value in permissions.items()
            if is_object(value) and value.get("enabled")
        },
    }


def _tool_provider(document: JSON) -> JSON:
    """Return a tool provider with its credential form under one name."""
    # Plugins use either name for the same form; clients know the second one.
    form = document.get("credentials_for_provider") or document.get(
        "credentials_schema"
    )
    without_form = {
        name: value
        for name, value in document.items()
        if name != "credentials_for_provider"
    }
    return {**_parted(without_form, "tools"), "credentials_schema": _form(form)}


def _datasource_provider(document: JSON) -> JSON:
    """Return a datasource provider with its form as a list."""
    return {
        **_parted(document, "datasources"),
        "credentials_schema": _form(document.get("credentials_schema")),
    }


def _trigger_provider(document: JSON) -> JSON:
    """Return a trigger provider with all its forms as lists."""
    constructor = document.get("subscription_constructor")
    return {
        **_parted(document, "events"),
        "subscription_schema": _form(document.get("subscription_schema")),
        "subscription_constructor": {
            **_without_files(constructor),
            "parameters": constructor.get("parameters") or [],
            "credentials_schema": _form(constructor.get("credentials_schema")),
            "oauth_schema": _oauth(constructor.get("oauth_schema")),
        }
        if is_object(constructor)
        else None,
    }


def _endpoint_group(document: JSON) -> JSON:
    """Return a group of endpoints with its form as a list."""
    endpoints = [_without_files(part) for part in document.get("endpoints") or ()]
    return {"settings": _form(document.get("settings")), "endpoints": endpoints}


def _model_provider(document: JSON) -> JSON:
    """Return a model provider whose models say where they come from."""
    models = [
        {"fetch_from": "predefined-model", **model}
        for model in document.get("models") or ()
    ]
    return {
        **document,
        "models": models,
        "label": localized_text(document.get("label") or document.get("provider")),
    }


def _parted(document: JSON, parts: str) -> JSON:
    """Return a provider with a complete identity, and complete parts in the list
    `parts`."""
    complete = {**document, "identity": _identity(document)}
    if "oauth_schema" in document:
        complete["oauth_schema"] = _oauth(document["oauth_schema"])
    complete[parts] = [
        {
            **_without_files(part),
            "identity": _identity(part),
            "parameters": part.get("parameters") or [],
        }
        for part in document.get(parts) or ()
    ]
    return complete


def _identity(document: JSON) -> JSON:
    """Return the identity of a provider or part with its texts in languages."""
    identity = dict[str, Any](document.get("identity") or EMPTY_OBJECT)
    identity["label"] = localized_text(identity.get("label") or identity.get("name"))
    identity["description"] = localized_text(identity.get("description"))
    identity["tags"] = identity.get("tags") or []
    return {"author": "", "icon": "", **identity}


def _form(raw_fields: Any) -> list[JSON]:
    """Return a form as a list of fields with labels in languages."""
    return [
        {**field, "label": localized_text(field.get("label") or field["name"])}
        for field in form_fields(raw_fields)
    ]


def _oauth(raw_oauth: Any) -> JSON | None:
    """Return the two forms of OAuth as lists; None if there are none."""
    if not is_object(raw_oauth):
        return None
    return {
        name: _form(raw_oauth.get(name))
        for name in ("client_schema", "credentials_schema")
    }


def _without_files(document: JSON) -> JSON:
    """Return a document without `extra`, which names internal files."""
    return {name: value for name, value in document.items() if name != "extra"}


_PROVIDERS: Mapping[str, Callable[[JSON], JSON]] = {
    "tool": _tool_provider,
    "model": _model_provider,
    "agent_strategy": lambda document: _parted(document, "strategies"),
    "datasource": _datasource_provider,
    "trigger": _trigger_provider,
    "endpoint": _endpoint_group,
}


def installation(call: DaemonCall, plugin: Installed) -> JSON:
    """Return an installed plugin."""
    manifest = plugin.declaration.manifest
    endpoints = [
        endpoint
        for _, _, endpoint in call.parts.endpoints.all(call.tenant)
        if endpoint.plugin == plugin.plugin_id
    ]
    source = plugin.installation.source
    return {
        "id": plugin.id,
        "installation_id": plugin.id,
        "name": manifest.name,
        "plugin_id": plugin.plugin_id,
        "tenant_id": call.tenant,
        "plugin_unique_identifier": plugin.identifier,
        "endpoints_active": sum(endpoint.is_enabled for endpoint in endpoints),
        "endpoints_setups": len(endpoints),
        "declaration": declaration_of(plugin.identifier, plugin.declaration.document),
        "runtime_type": plugin.runtime,
        "version": manifest.version,
        # A bundle is no source that clients know.
        "source": source if source in _SOURCES else "package",
        "checksum": PluginIdentifier.parse(plugin.identifier).checksum,
        "meta": plugin.installation.meta,
        "created_at": timestamp(plugin.created_at),
        "updated_at": timestamp(plugin.updated_at),
    }


def provider(call: DaemonCall, plugin: Installed, key: str) -> JSON:
    """Return the provider section `key` of a plugin's declaration with the plugin's
    identity."""
    declaration = declaration_of(plugin.identifier, plugin.declaration.document)
    document = declaration[key]
    # Model providers state their name as `provider`, all others under `identity`.
    name = document.get("provider") or (document.get("identity") or EMPTY_OBJECT).get(
        "name"
    )
    return {
        "id": plugin.id,
        "provider": name,
        "plugin_id": plugin.plugin_id,
        "plugin_unique_identifier": plugin.identifier,
        "tenant_id": call.tenant,
        "declaration": document,
        "meta": declaration.get("meta") or {},
        "created_at": timestamp(plugin.created_at),
        "updated_at": timestamp(plugin.updated_at),
    }


def endpoint_entry(call: DaemonCall, id: str, name: str, value: PluginEndpoint) -> JSON:
    """Return an endpoint with its settings, whose secrets are masked. One whose plugin
    is gone has neither settings nor a declaration."""
    row, _ = call.parts.endpoints.stored(call.tenant, id)
    try:
        plugin = call.parts.plugins.find(call.tenant, value.plugin)
        document = plugin.declaration.document.get("endpoint") or EMPTY_OBJECT
    except NotFoundError:
        document = EMPTY_OBJECT
    return {
        "id": id,
        "name": name,
        "plugin_id": value.plugin,
        "tenant_id": call.tenant,
        "user_id": value.user,
        "enabled": value.is_enabled,
        # Endpoints have one id here; `hook_id`, the id in the public address, is the
        # same.
        "hook_id": id,
        "url": f"{call.origin}/e/{id}",
        "settings": call.parts.endpoints.masked_settings(call.tenant, id),
        "declaration": _endpoint_group(dict(document)),
        "expired_at": _NEVER,
        "created_at": timestamp(row.created_at),
        "updated_at": timestamp(row.updated_at),
    }
