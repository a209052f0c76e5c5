"""Requests of plugins to their host ("backwards invocation"): checks the granted
permissions, then executes them.

Model calls may not make such requests. Requests that concern models, tools, apps and
nodes are passed on to `HostServices`; a plugin's own storage is handled here.
"""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Any, Protocol

from modelyard.base.errors import PluginError
from modelyard.models.types import JSON
from modelyard.plugins.connection import PluginCall
from modelyard.storage.plugin_storage import PluginStorage

_REQUIRED_PERMISSIONS = {
    "llm": "model.llm",
    "llm_structured_output": "model.llm",
    "text_embedding": "model.text_embedding",
    "multimodal_embedding": "model.text_embedding",
    "rerank": "model.rerank",
    "multimodal_rerank": "model.rerank",
    "tts": "model.tts",
    "speech2text": "model.speech2text",
    "moderation": "model.moderation",
    "system_summary": "model.llm",
    "tool": "tool",
    "app": "app",
    "fetch_app": "app",
    "node_parameter_extractor": "node",
    "node_question_classifier": "node",
    "storage": "storage",
    "upload_file": "",
}
"""Request type → required permission; empty if every plugin may make it."""
MAX_STORAGE_BYTES = 100 * 1024 * 1024


class HostServices(Protocol):
    """Executes the requests of plugins that other layers are responsible for."""

    def serve(
        self, call: PluginCall, request_type: str, request: JSON
    ) -> AsyncIterable[JSON]:
        """Yield the answers to one request, whose type is one of those above except
        `storage`. Raises ModelyardError."""
        ...


class HostCallHandler:
    """Checks a plugin's request and passes it on."""

    def __init__(
        self, storage: PluginStorage, services: HostServices | None = None
    ) -> None:
        self._storage = storage
        self._services = services

    def set_services(self, services: HostServices) -> None:
        """Set the services after construction, because the services need the plugins
        and the plugins need this object."""
        self._services = services

    async def answer(
        self, call: PluginCall, request_type: str, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Execute a request and yield its answers. Raises PluginError if it is unknown
        or not permitted."""
        needed = _REQUIRED_PERMISSIONS.get(request_type)
        if needed is None:
            raise PluginError(
                f"Unknown request type {request_type!r}; expected one of"
                f" {', '.join(_REQUIRED_PERMISSIONS)}",
                plugin=call.plugin,
            )
        # Model calls run for the gateway itself, without a tenant's app that could have
        # granted anything.
        if call.type == "model":
            raise PluginError(
                "Model plugins cannot make host calls", plugin=call.plugin
            )
        if needed and not call.permissions.allows(needed):
            raise PluginError(
                f"Permission denied: {needed!r} is not enabled for this plugin;"
                " its manifest must request it, and the tenant must grant it",
                plugin=call.plugin,
            )
        if request_type == "storage":
            yield await self._handle_storage(call, request)
            return
        services = self._services
        if services is None:
            raise PluginError(
                f"{request_type!r} is not available here", plugin=call.plugin
            )
        stream: Any = services.serve(call, request_type, request)
        # Closing the stream cancels the request if the plugin gives up.
        async with aclosing(stream) as answers:
            async for answer in answers:
                yield answer

    async def _handle_storage(self, call: PluginCall, request: JSON) -> JSON:
        """Execute a `storage` request on the plugin's own key-value store.

        `opt` is `set`, `get`, `del` or `exist`, and values are hexadecimal; keys are
        separate for each tenant and plugin. Raises PluginError for another operation,
        an invalid key or value, a `get` of a missing key, or an exceeded quota.
        """
        name, operation = str(request.get("key", "")), request.get("opt")
        storage, owner = self._storage, (call.tenant, call.plugin)
        match operation:
            case "set":
                try:
                    value = bytes.fromhex(str(request.get("value", "")))
                except ValueError:
                    raise PluginError(
                        "The value must be hexadecimal", plugin=call.plugin
                    ) from None
                # Both limits apply: what the tenant granted, and the host's own.
                max_bytes = min(call.permissions.storage.size, MAX_STORAGE_BYTES)
                await storage.put(*owner, name, value, max_bytes=max_bytes)
                return {"data": "ok"}
            case "get":
                stored_value = await storage.get(*owner, name)
                if stored_value is None:
                    raise PluginError(
                        f"Key {name!r} not found in plugin storage", plugin=call.plugin
                    )
                # The protocol transports binary values as hexadecimal text.
                return {"data": stored_value.hex()}
            case "del":
                return {"data": "ok", "deleted_num": await storage.remove(*owner, name)}
            case "exist":
                exists = await storage.get(*owner, name) is not None
                return {"data": exists, "exist_num": int(exists)}
            case _:
                raise PluginError(
                    f"Unknown storage operation {operation!r}; expected set, get,"
                    " del or exist",
                    plugin=call.plugin,
                )
