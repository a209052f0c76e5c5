"""Handlers for plugin endpoints (HTTP addresses that a plugin serves): create, change,
enable, disable, remove and list."""

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import (
    Reply,
)
from modelyard.gateway.plugins.daemon_calls import (
    DaemonCall,
    object_in,
    succeeded,
    text_in,
)
from modelyard.gateway.plugins.daemon_documents import endpoint_entry
from modelyard.plugins.identity import PluginIdentifier


async def set_up_endpoint(call: DaemonCall) -> Reply:
    """Create an endpoint of a plugin with the given settings."""
    body = await call.request.json()
    plugin = PluginIdentifier.parse(text_in(body, "plugin_unique_identifier")).id
    await call.parts.endpoints.set_up(
        call.tenant,
        plugin,
        text_in(body, "name"),
        object_in(body, "settings"),
        user=str(body.get("user_id") or ""),
    )
    return succeeded(True)


async def update_endpoint(call: DaemonCall) -> Reply:
    """Change the name and settings of an endpoint. Raises NotFoundError if it does not
    exist."""
    body = await call.request.json()
    name = text_in(body, "endpoint_id")
    existing = next(
        (
            endpoint_row
            for endpoint_row in call.parts.endpoints.all(call.tenant)
            if endpoint_row[0] == name
        ),
        None,
    )
    if existing is None:
        raise NotFoundError(f"Endpoint {name!r} does not exist")
    await call.parts.endpoints.set_up(
        call.tenant,
        existing[2].plugin,
        str(body.get("name") or existing[1]),
        object_in(body, "settings"),
        id=name,
        # With an id, `set_up` replaces the existing endpoint instead of creating a new
        # address.
    )
    return succeeded(True)


async def remove_endpoint(call: DaemonCall) -> Reply:
    """Delete an endpoint; its address stops working."""
    body = await call.request.json()
    await call.parts.endpoints.remove(call.tenant, text_in(body, "endpoint_id"))
    return succeeded(True)


async def enable_endpoint(call: DaemonCall) -> Reply:
    """Enable an endpoint, so that its address is served again."""
    body = await call.request.json()
    await call.parts.endpoints.enable(
        call.tenant, text_in(body, "endpoint_id"), is_on=True
    )
    return succeeded(True)


async def disable_endpoint(call: DaemonCall) -> Reply:
    """Disable an endpoint. Its settings and address are retained."""
    body = await call.request.json()
    await call.parts.endpoints.enable(
        call.tenant, text_in(body, "endpoint_id"), is_on=False
    )
    return succeeded(True)


async def endpoints(call: DaemonCall) -> Reply:
    """Return one page of the tenant's endpoints, optionally of a single plugin
    (`plugin_id`)."""
    plugin = call.request.query("plugin_id")
    # Rows are (id, name, endpoint); without `plugin_id` every endpoint matches.
    matches = [
        endpoint_row
        for endpoint_row in call.parts.endpoints.all(call.tenant)
        if plugin in (None, endpoint_row[2].plugin)
    ]
    return succeeded(
        [endpoint_entry(call, *endpoint_row) for endpoint_row in call.page(matches)]
    )
