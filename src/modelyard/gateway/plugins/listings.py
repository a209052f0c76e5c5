"""What plugins a tenant has, and what is in them."""

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import (
    Reply,
)
from modelyard.gateway.plugins.daemon_calls import DaemonCall, names_in, succeeded
from modelyard.gateway.plugins.declarations import shown
from modelyard.gateway.tenant_content import FILE
from modelyard.models.types import JSON
from modelyard.plugins.identity import PluginIdentifier
from modelyard.tenant_plugins.plugins import Installed

PART_OF = {
    "models": "model", "tools": "tool", "agent_strategies": "agent_strategy", "datasources": "datasource",
    "triggers": "trigger",
}  # fmt: skip


async def listed(call: DaemonCall) -> Reply:
    found = call.parts.plugins.installed(call.tenant)
    return succeeded({"list": [_installation(call, one) for one in call.page(found)], "total": len(found)})


async def ids(call: DaemonCall) -> Reply:
    return succeeded([one.identifier for one in call.parts.plugins.installed(call.tenant)])


async def batch(call: DaemonCall) -> Reply:
    wanted = names_in(await call.request.json(), "plugin_ids")
    found = [one for one in call.parts.plugins.installed(call.tenant) if one.plugin_id in wanted]
    return succeeded([_installation(call, one) for one in found])


async def missing(call: DaemonCall) -> Reply:
    wanted = names_in(await call.request.json(), "plugin_unique_identifiers")
    present = {one.identifier for one in call.parts.plugins.installed(call.tenant)}
    return succeeded([
        {"plugin_unique_identifier": one, "current_identifier": None} for one in wanted if one not in present
    ])  # fmt: skip


async def manifest(call: DaemonCall) -> Reply:
    identifier = call.query("plugin_unique_identifier")
    return succeeded(shown(identifier, call.parts.host.packages.declaration(identifier).document))


async def identifier(call: DaemonCall) -> Reply:
    wanted = call.query("plugin_unique_identifier")
    return succeeded(any(one.identifier == wanted for one in call.parts.plugins.installed(call.tenant)))


async def readme(call: DaemonCall) -> Reply:
    package = call.parts.host.packages.package(call.query("plugin_unique_identifier"))
    language = (call.request.query("language") or "en_US").replace("-", "_")
    text = package.files.get(f"readme/README_{language}.md", package.files.get("README.md", b""))
    return succeeded({"content": text.decode("utf-8", "replace"), "language": language})


async def providers(kind: str, call: DaemonCall) -> Reply:
    key = PART_OF[kind]
    found = [one for one in call.parts.plugins.installed(call.tenant) if key in one.declaration.document]
    return succeeded([_provider(call, one, key) for one in call.page(found)])


async def one_provider(key: str, call: DaemonCall) -> Reply:
    one = call.parts.plugins.find(call.tenant, call.query("plugin_id"))
    if key not in one.declaration.document:
        raise NotFoundError(f"{one.plugin_id!r} has no {key.replace('_', ' ')} provider")
    return succeeded(_provider(call, one, key))


async def tools_exist(call: DaemonCall) -> Reply:
    asked = (await call.request.json()).get("provider_ids") or []
    present = {(one.plugin_id, name) for one in call.parts.plugins.installed(call.tenant)
               for name in one.declaration.providers}  # fmt: skip
    return succeeded([(one.get("plugin_id"), one.get("provider_name")) in present for one in asked])


async def by_category(call: DaemonCall) -> Reply:
    name = call.request.names["category"]
    found = [one for one in call.parts.plugins.installed(call.tenant) if one.declaration.manifest.category == name]
    return succeeded({"list": [_installation(call, one) for one in call.page(found)], "has_more": False})


async def debugging_key(call: DaemonCall) -> Reply:
    return succeeded({"key": call.parts.debugged.key(call.tenant)})


async def extracted(call: DaemonCall) -> Reply:
    package = call.parts.host.packages.package(call.query("plugin_unique_identifier"))
    path = call.query("file_path")
    if path not in package.files:
        raise NotFoundError(f"{path!r} is not in the package")
    return Reply(package.files[path], content_type=b"application/octet-stream", headers=FILE)


async def decoded(call: DaemonCall) -> Reply:
    identifier = call.query("plugin_unique_identifier")
    declaration = call.parts.host.packages.declaration(identifier)
    return succeeded({"unique_identifier": identifier, "manifest": shown(identifier, declaration.document)})


def _installation(call: DaemonCall, one: Installed) -> JSON:
    manifest = one.declaration.manifest
    endpoints = [each for _, _, each in call.parts.endpoints.all(call.tenant) if each.plugin == one.plugin_id]
    return {
        "id": one.id,
        "installation_id": one.id,
        "name": manifest.name,
        "plugin_id": one.plugin_id,
        "tenant_id": call.tenant,
        "plugin_unique_identifier": one.identifier,
        "endpoints_active": sum(each.is_enabled for each in endpoints),
        "endpoints_setups": len(endpoints),
        "declaration": shown(one.identifier, one.declaration.document),
        "runtime_type": one.runtime,
        "version": manifest.version,
        "source": one.installation.source,
        "checksum": PluginIdentifier.parse(one.identifier).checksum,
        "meta": one.installation.meta,
    }


def _provider(call: DaemonCall, one: Installed, key: str) -> JSON:
    document = shown(one.identifier, one.declaration.document)[key]
    name = document.get("provider") or (document.get("identity") or {}).get("name")
    return {
        "provider": name,
        "plugin_id": one.plugin_id,
        "plugin_unique_identifier": one.identifier,
        "tenant_id": call.tenant,
        "declaration": document,
    }
