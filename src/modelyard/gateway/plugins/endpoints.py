"""Addresses that plugins serve: set up, changed, switched on and off, removed."""

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import (
    Reply,
)
from modelyard.gateway.plugins.daemon_calls import DaemonCall, object_in, succeeded, text_in
from modelyard.models.types import JSON
from modelyard.plugins.identity import PluginIdentifier
from modelyard.tenancy.kinds import PluginEndpoint


async def set_up_endpoint(call: DaemonCall) -> Reply:
    body = await call.request.json()
    plugin = PluginIdentifier.parse(text_in(body, "plugin_unique_identifier")).id
    await call.parts.endpoints.set_up(
        call.tenant, plugin, text_in(body, "name"), object_in(body, "settings"), user=str(body.get("user_id") or "")
    )
    return succeeded(True)


async def update_endpoint(call: DaemonCall) -> Reply:
    body = await call.request.json()
    name = text_in(body, "endpoint_id")
    known = next((one for one in call.parts.endpoints.all(call.tenant) if one[0] == name), None)
    if known is None:
        raise NotFoundError(f"endpoint {name!r} does not exist")
    await call.parts.endpoints.set_up(
        call.tenant, known[2].plugin, str(body.get("name") or known[1]), object_in(body, "settings"), id=name
    )
    return succeeded(True)


async def remove_endpoint(call: DaemonCall) -> Reply:
    body = await call.request.json()
    await call.parts.endpoints.remove(call.tenant, text_in(body, "endpoint_id"))
    return succeeded(True)


async def enable_endpoint(call: DaemonCall) -> Reply:
    body = await call.request.json()
    await call.parts.endpoints.enable(call.tenant, text_in(body, "endpoint_id"), is_on=True)
    return succeeded(True)


async def disable_endpoint(call: DaemonCall) -> Reply:
    body = await call.request.json()
    await call.parts.endpoints.enable(call.tenant, text_in(body, "endpoint_id"), is_on=False)
    return succeeded(True)


async def endpoints(call: DaemonCall) -> Reply:
    plugin = call.request.query("plugin_id")
    found = [one for one in call.parts.endpoints.all(call.tenant) if plugin in (None, one[2].plugin)]
    return succeeded({"endpoints": [_endpoint(call, *one) for one in call.page(found)], "total": len(found)})


def _endpoint(call: DaemonCall, id: str, name: str, one: PluginEndpoint) -> JSON:  # noqa: A002
    declaration = call.parts.plugins.find(call.tenant, one.plugin).declaration
    return {
        "id": id,
        "name": name,
        "plugin_id": one.plugin,
        "tenant_id": call.tenant,
        "enabled": one.is_enabled,
        "hook_id": id,
        "url": f"{call.origin}/e/{id}",
        "declaration": declaration.document.get("endpoint") or {},
    }
