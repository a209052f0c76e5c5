"""Handlers that list a tenant's installed plugins, their providers and the content of
their packages."""

import asyncio
from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import (
    Reply,
)
from modelyard.gateway.plugins.daemon_calls import (
    DaemonCall,
    names_in,
    succeeded,
    text_in,
)
from modelyard.gateway.plugins.daemon_documents import (
    declaration_of,
    installation,
    provider,
)
from modelyard.gateway.tenant_content import FILE_HEADERS
from modelyard.plugins.package import Package
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
                installation(call, plugin) for plugin in call.page(installed_plugins)
            ],
            "total": len(installed_plugins),
        }
    )


async def list_plugin_ids(call: DaemonCall) -> Reply:
    """Return the ids of the tenant's plugins, or of those of one category."""
    category = call.request.query("category")
    plugin_ids = [
        plugin.plugin_id
        for plugin in call.parts.plugins.installed(call.tenant)
        if category in (None, "", plugin.declaration.manifest.category)
    ]
    return succeeded({"plugin_ids": list(dict.fromkeys(plugin_ids))})


async def list_model_bindings(call: DaemonCall) -> Reply:
    """Return which plugin serves each model provider of the tenant."""
    return succeeded(
        [
            {
                "provider": plugin.declaration.model.name,
                "installation_id": plugin.id,
                "plugin_id": plugin.plugin_id,
                "plugin_unique_identifier": plugin.identifier,
                "runtime_type": plugin.runtime,
                "source": plugin.installation.source,
                "version": plugin.declaration.manifest.version,
                "verified": False,
            }
            for plugin in call.parts.plugins.installed(call.tenant)
            if plugin.declaration.model is not None
        ]
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
    return succeeded([installation(call, plugin) for plugin in matches])


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
    await call.parts.host.packages.fetch(identifier)
    declaration = call.parts.host.packages.declaration(identifier)
    return succeeded(declaration_of(identifier, declaration.document))


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
    package = await _package(call)
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
    return succeeded([provider(call, plugin, key) for plugin in call.page(matches)])


async def get_provider(key: str, call: DaemonCall) -> Reply:
    """Return the provider of one plugin. Raises NotFoundError if the plugin has none of
    this kind."""
    plugin = call.parts.plugins.find(call.tenant, call.query("plugin_id"))
    if key not in plugin.declaration.document:
        raise NotFoundError(
            f"{plugin.plugin_id!r} has no {key.replace('_', ' ')} provider"
        )
    return succeeded(provider(call, plugin, key))


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
        if plugin.declaration.manifest.category == name and _matches(call, plugin)
    ]
    page = call.page(matches)
    return succeeded(
        {
            "list": [installation(call, plugin) for plugin in page],
            "has_more": bool(page) and page[-1] is not matches[-1],
        }
    )


def _matches(call: DaemonCall, plugin: Installed) -> bool:
    """Return whether a plugin fits the search text and the tags of a request."""
    manifest = plugin.declaration.manifest
    tags = call.request.queries("tags")
    if tags and not set(tags) & set(manifest.tags):
        return False
    language = call.request.query("language") or "en_US"
    texts = [plugin.plugin_id, manifest.name]
    texts += [
        text.get(language) or text.get("en_US") or ""
        for text in (manifest.label, manifest.description)
    ]
    # An empty text fits every plugin.
    searched = (call.request.query("query") or "").lower()
    return any(searched in text.lower() for text in texts)


async def debugging_key(call: DaemonCall) -> Reply:
    """Return the key with which a plugin under development connects to this tenant."""
    return succeeded({"key": call.parts.debugged.key(call.tenant)})


async def read_package_file(call: DaemonCall) -> Reply:
    """Return one file of a package. Raises NotFoundError if the package does not
    contain it."""
    package = await _package(call)
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
    upload. Dify's client names the package in the body of its GET request."""
    identifier = call.request.query("plugin_unique_identifier") or text_in(
        await call.request.json(), "plugin_unique_identifier"
    )
    await call.parts.host.packages.fetch(identifier)
    declaration = call.parts.host.packages.declaration(identifier)
    return succeeded(
        {
            "unique_identifier": identifier,
            "manifest": declaration_of(identifier, declaration.document),
            "verification": None,
        }
    )


async def _package(call: DaemonCall) -> Package:
    """Return the package that the query names. Another server may have received it.
    Raises NotFoundError."""
    identifier = call.query("plugin_unique_identifier")
    packages = call.parts.host.packages
    await packages.fetch(identifier)
    return await asyncio.to_thread(packages.package, identifier)
