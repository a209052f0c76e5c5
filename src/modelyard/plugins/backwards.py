"""What plugins ask of their host while they serve a request: checked against what they were granted, then done.

Sessions of models ask for nothing. What touches models, tools, apps and nodes is done by whoever knows them, behind
`HostServices`; what a plugin keeps for itself is done here.
"""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Any, Protocol

from modelyard.base.errors import PluginError
from modelyard.models.types import JSON
from modelyard.plugins.conversation import PluginCall
from modelyard.storage.plugin_storage import PluginStorage

_NEEDED = {
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
"""What is asked for → what must be granted for it; nothing for what everybody may."""
MOST_STORAGE = 100 * 1024 * 1024


class HostServices(Protocol):
    """What is done for plugins outside this layer."""

    def serve(self, call: PluginCall, kind: str, request: JSON) -> AsyncIterable[JSON]:
        """The answers to one request; `kind` is one of those above but `storage`. Raises ModelyardError."""
        ...


class BackwardsCalls:
    """Checks, and hands on."""

    def __init__(self, storage: PluginStorage, services: HostServices | None = None) -> None:
        self._storage = storage
        self._services = services

    def serve_with(self, services: HostServices) -> None:
        """Who does what is asked for. It needs plugins, and plugins need this: so it comes after both."""
        self._services = services

    async def answer(self, call: PluginCall, kind: str, request: JSON) -> AsyncGenerator[JSON, None]:
        """Raises PluginError for what is not granted, or not known."""
        needed = _NEEDED.get(kind)
        if needed is None:
            raise PluginError(f"{kind!r} is nothing that can be asked for; there are {', '.join(_NEEDED)}",
                              plugin=call.plugin)  # fmt: skip
        if call.type == "model":
            raise PluginError("a model may ask its host for nothing", plugin=call.plugin)
        if needed and not call.permissions.allows(needed):
            raise PluginError(
                f"permission denied: {needed!r} is not enabled for it; its manifest must ask for it, and the tenant "
                "grant it",
                plugin=call.plugin,
            )
        if kind == "storage":
            yield await self._stored(call, request)
            return
        services = self._services
        if services is None:
            raise PluginError(f"{kind!r} is not available here", plugin=call.plugin)
        stream: Any = services.serve(call, kind, request)
        async with aclosing(stream) as answers:
            async for answer in answers:
                yield answer

    async def _stored(self, call: PluginCall, request: JSON) -> JSON:
        name, what = str(request.get("key", "")), request.get("opt")
        storage, owner = self._storage, (call.tenant, call.plugin)
        match what:
            case "set":
                try:
                    value = bytes.fromhex(str(request.get("value", "")))
                except ValueError:
                    raise PluginError("the value must be hexadecimal", plugin=call.plugin) from None
                most = min(call.permissions.storage.size, MOST_STORAGE)
                await storage.put(*owner, name, value, most=most)
                return {"data": "ok"}
            case "get":
                found = await storage.get(*owner, name)
                if found is None:
                    raise PluginError(f"nothing is kept under {name!r}", plugin=call.plugin)
                return {"data": found.hex()}
            case "del":
                return {"data": "ok", "deleted_num": await storage.remove(*owner, name)}
            case "exist":
                is_there = await storage.get(*owner, name) is not None
                return {"data": is_there, "exist_num": int(is_there)}
            case _:
                raise PluginError(f"storage knows set, get, del and exist, not {what!r}", plugin=call.plugin)
