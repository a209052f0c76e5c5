"""Handlers that list a tenant's installed plugins, their providers and the content of
their packages."""

from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.base.json_types import EMPTY_OBJECT
from modelyard.gateway.http import (
    Reply,
)
from modelyard.gateway.plugins.daemon_calls import DaemonCall, names_in, succeeded
from modelyard.gateway.plugins.declarations import with_asset_ids
from modelyard.gateway.tenant_content import FILE_HEADERS
from modelyard.models.types import JSON
from modelyard.plugins.identity import PluginIdentifier
from modelyard.tenant_plugins.plugins import Installed

# Path segment of a listing → key of the provider's section in a plugin's declaration.
DECLARATION_KEYS = {
    "models": "model",
    "tools": "tool",
    "agent_strategies": "agent_strategy",
    "datasources": "datasource",
    "triggers": "trigger",
}


async def list_installations(call: DaemonCall) -> Reply:
    """Return one page of the tenant's installed plugins."""
    installed_plugins = call.parts.plugins.installed(call.tenant)
    return succeeded(
        {
            "list": [
                _installation(call, plugin) for plugin in call.page(installed_plugins)
            ],
            "total": len(installed_plugins),
        }
    )


async def list_identifiers(call: DaemonCall) -> Reply:
    """Return the unique identifiers of all plugins that the tenant has installed."""
    return succeeded(
        [plugin.identifier for plugin in call.parts.plugins.installed(call.tenant)]
    )


async def list_by_plugin_ids(call: DaemonCall) -> Reply:
    """Return the installations of the plugins in `plugin_ids`. Plugins that are not
    installed are omitted."""
    plugin_ids = names_in(await call.request.json(), "plugin_ids")
    matches = [
        plugin
        for plugin in call.parts.plugins.installed(call.tenant)
        if plugin.plugin_id in plugin_ids
    ]
    return succeeded([_installation(call, plugin) for plugin in matches])


async def list_missing(call: DaemonCall) -> Reply:
    """Return those of the requested identifiers that the tenant has not installed."""
    requested_identifiers = names_in(
        await call.request.json(), "plugin_unique_identifiers"
    )
    present = {
        plugin.identifier for plugin in call.parts.plugins.installed(call.tenant)
    }
    return succeeded(
        [
            {
                "plugin_unique_identifier": requested_identifier,
                "current_identifier": None,
            }
            for requested_identifier in requested_identifiers
            if requested_identifier not in present
        ]
    )


async def manifest(call: DaemonCall) -> Reply:
    """Return the manifest of a package on this host. The tenant need not have installed
    it."""
    identifier = call.query("plugin_unique_identifier")
    return succeeded(
        with_asset_ids(
            identifier, call.parts.host.packages.declaration(identifier).document
        )
    )


async def is_installed(call: DaemonCall) -> Reply:
    """Return whether the tenant has installed a plugin with exactly this unique
    identifier."""
    requested_identifier = call.query("plugin_unique_identifier")
    return succeeded(
        any(
            plugin.identifier == requested_identifier
            for plugin in call.parts.plugins.installed(call.tenant)
        )
    )


async def readme(call: DaemonCall) -> Reply:
    """Return a package's README in the requested language, or the default README, or an
    empty text."""
    package = call.parts.host.packages.package(call.query("plugin_unique_identifier"))
    # Clients send `en-US`, packages name their files `README_en_US.md`.
    language = (call.request.query("language") or "en_US").replace("-", "_")
    text = package.files.get(
        f"readme/README_{language}.md", package.files.get("README.md", b"")
    )
    return succeeded({"content": text.decode("utf-8", "replace"), "language": language})


async def list_providers(provider_kind: str, call: DaemonCall) -> Reply:
    """Return one page of the tenant's plugins that offer providers of a kind (a key of
    DECLARATION_KEYS)."""
    key = DECLARATION_KEYS[provider_kind]
    matches = [
        plugin
        for plugin in call.parts.plugins.installed(call.tenant)
        if key in plugin.declaration.document
    ]
    return succeeded([_provider(call, plugin, key) for plugin in call.page(matches)])


async def get_provider(key: str, call: DaemonCall) -> Reply:
    """Return the provider of one plugin. Raises NotFoundError if the plugin has none of
    this kind."""
    plugin = call.parts.plugins.find(call.tenant, call.query("plugin_id"))
    if key not in plugin.declaration.document:
        raise NotFoundError(
            f"{plugin.plugin_id!r} has no {key.replace('_', ' ')} provider"
        )
    return succeeded(_provider(call, plugin, key))


async def tools_exist(call: DaemonCall) -> Reply:
    """Return, for each requested (plugin, provider) pair, whether the tenant has it.
    Keeps the order of the request."""
    requested_providers: list[Any] = (await call.request.json()).get(
        "provider_ids"
    ) or []
    present = {
        (plugin.plugin_id, name)
        for plugin in call.parts.plugins.installed(call.tenant)
        for name in plugin.declaration.providers
    }
    return succeeded(
        [
            (
                requested_provider.get("plugin_id"),
                requested_provider.get("provider_name"),
            )
            in present
            for requested_provider in requested_providers
        ]
    )


async def by_category(call: DaemonCall) -> Reply:
    """Return the tenant's plugins of a category."""
    name = call.request.names["category"]
    matches = [
        plugin
        for plugin in call.parts.plugins.installed(call.tenant)
        if plugin.declaration.manifest.category == name
    ]
    return succeeded(
        {
            "list": [_installation(call, plugin) for plugin in call.page(matches)],
            "has_more": False,
        }
    )


async def debugging_key(call: DaemonCall) -> Reply:
    """Return the key with which a plugin under development connects to this tenant."""
    return succeeded({"key": call.parts.debugged.key(call.tenant)})


async def read_package_file(call: DaemonCall) -> Reply:
    """Return one file of a package. Raises NotFoundError if the package does not
    contain it."""
    package = call.parts.host.packages.package(call.query("plugin_unique_identifier"))
    path = call.query("file_path")
    if path not in package.files:
        raise NotFoundError(f"{path!r} is not in the package")
    # Package files are untrusted: FILE's headers keep a browser from executing them.
    return Reply(
        package.files[path],
        content_type=b"application/octet-stream",
        headers=FILE_HEADERS,
    )


async def decode_package(call: DaemonCall) -> Reply:
    """Return a package's identifier and manifest, as a client reads them after an
    upload."""
    identifier = call.query("plugin_unique_identifier")
    declaration = call.parts.host.packages.declaration(identifier)
    return succeeded(
        {
            "unique_identifier": identifier,
            "manifest": with_asset_ids(identifier, declaration.document),
        }
    )


def _installation(call: DaemonCall, plugin: Installed) -> JSON:
    """Return an installed plugin as clients of the plugin daemon's API read it."""
    manifest = plugin.declaration.manifest
    endpoints = [
        endpoint
        for _, _, endpoint in call.parts.endpoints.all(call.tenant)
        if endpoint.plugin == plugin.plugin_id
    ]
    return {
        "id": plugin.id,
        "installation_id": plugin.id,
        "name": manifest.name,
        "plugin_id": plugin.plugin_id,
        "tenant_id": call.tenant,
        "plugin_unique_identifier": plugin.identifier,
        "endpoints_active": sum(endpoint.is_enabled for endpoint in endpoints),
        "endpoints_setups": len(endpoints),
        "declaration": with_asset_ids(plugin.identifier, plugin.declaration.document),
        "runtime_type": plugin.runtime,
        "version": manifest.version,
        "source": plugin.installation.source,
        "checksum": PluginIdentifier.parse(plugin.identifier).checksum,
        "meta": plugin.installation.meta,
    }


def _provider(call: DaemonCall, plugin: Installed, key: str) -> JSON:
    """Return the provider section of a plugin's declaration with the plugin's identity."""
    document = with_asset_ids(plugin.identifier, plugin.declaration.document)[key]
    # Model providers state their name as `provider`, tool providers under `identity`.
    name = document.get("provider") or (document.get("identity") or EMPTY_OBJECT).get(
        "name"
    )
    return {
        "provider": name,
        "plugin_id": plugin.plugin_id,
        "plugin_unique_identifier": plugin.identifier,
        "tenant_id": call.tenant,
        "declaration": document,
    }
