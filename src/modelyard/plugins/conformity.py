"""Whether a plugin is sound: it loads, its files say what can be, it starts, answers, streams, goes on after a call was
given up, and maps its errors. One line each, for its author."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Any, NamedTuple

from modelyard.base.errors import ModelyardError, PluginError
from modelyard.models.types import JSON, ModelType
from modelyard.plugins.conversation import PluginCall
from modelyard.plugins.declaration import Declaration, Parameter

_SECONDS = 60.0
_MAPPED = frozenset({
    "InvokeConnectionError", "InvokeServerUnavailableError", "InvokeRateLimitError", "InvokeAuthorizationError",
    "InvokeBadRequestError", "InvokeError", "CredentialsValidateFailedError", "ValidationError", "ValueError",
})  # fmt: skip


class Finding(NamedTuple):
    what: str
    is_good: bool | None
    """None where it could not be tried."""
    detail: str = ""


Ask = Callable[[PluginCall], AsyncGenerator[JSON, None]]


async def examine(declaration: Declaration, ask: Ask, credentials: JSON) -> list[Finding]:
    """Try what the plugin offers, with these credentials."""
    examiner = _Examiner(declaration, ask, credentials)
    await examiner.run()
    return examiner.findings


class _Examiner:
    def __init__(self, declaration: Declaration, ask: Ask, credentials: JSON) -> None:
        self._declaration = declaration
        self._ask = ask
        self._credentials = credentials
        self.findings: list[Finding] = [Finding("its files are sound", True, ", ".join(declaration.providers))]

    async def run(self) -> None:
        one = self._declaration
        if one.model is not None:
            await self._models()
        if one.tool is not None:
            await self._tools()
        if one.agent_strategy is not None:
            for strategy in one.agent_strategy.strategies:
                self._say(f"strategy {strategy.identity.name}", None, "needs a model and tools: try it in an app")
        if one.endpoint is not None:
            await self._endpoints()
        if one.datasource is not None:
            await self._checked(
                "datasource credentials", "datasource", "validate_datasource_credentials",
                provider=one.datasource.identity.name,
            )  # fmt: skip
        if one.trigger is not None:
            await self._checked(
                "trigger credentials", "trigger", "validate_trigger_credentials", provider=one.trigger.identity.name
            )

    def _say(self, what: str, is_good: bool | None, detail: str = "") -> None:
        self.findings.append(Finding(what, is_good, detail))

    def _call(self, kind: str, action: str, **data: Any) -> AsyncGenerator[JSON, None]:
        return self._ask(
            PluginCall(
                tenant="default",
                plugin=self._declaration.manifest.id,
                permissions=self._declaration.manifest.permissions,
                user="conformity",
                type=kind,
                action=action,
                data=data,
            )
        )

    async def _answers(self, kind: str, action: str, **data: Any) -> list[JSON]:
        async with asyncio.timeout(_SECONDS), aclosing(self._call(kind, action, **data)) as answers:
            return [one async for one in answers]

    async def _checked(self, what: str, kind: str, action: str, **data: Any) -> bool:
        try:
            found = await self._answers(kind, action, credentials=self._credentials, **data)
        except (ModelyardError, TimeoutError) as error:
            self._say(what, False, str(error) or "no answer in time")
            return False
        self._say(what, bool(found), "" if found else "no answer")
        return bool(found)

    # models

    async def _models(self) -> None:
        model = self._declaration.model
        if model is None:
            return
        await self._checked("provider credentials", "model", "validate_provider_credentials", provider=model.name)
        for one in model.entity.models[:8]:
            common = {
                "provider": model.name,
                "model_type": one.model_type.value,
                "model": one.model,
                "credentials": self._credentials,
            }
            name = f"{one.model_type.value} {one.model}"
            action, data, count = _TRIED[one.model_type]
            try:
                found = await self._answers("model", action, **common, **data)
                self._say(f"{name} answers", bool(found), count(found) if found else "no answer")
            except (ModelyardError, TimeoutError) as error:
                self._say(f"{name} answers", False, str(error) or "no answer in time")
                continue
            if one.model_type is ModelType.LLM:
                await self._chat(name, common)
        await self._unknown(model.name)

    async def _chat(self, name: str, common: JSON) -> None:
        asked = {**common, **_CHAT, "stream": True}
        found = await self._answers("model", "invoke_llm", **asked)
        usage = [one for one in found if ((one.get("delta") or {}).get("usage"))]
        reasons = [one for one in found if ((one.get("delta") or {}).get("finish_reason"))]
        self._say(f"{name} streams", len(found) > 1, f"{len(found)} chunks")
        self._say(f"{name} says what it used", len(usage) == 1, f"usage in {len(usage)} chunks; it belongs in one")
        self._say(f"{name} says why it ended", bool(reasons))
        stream = self._call("model", "invoke_llm", **asked)
        await anext(stream, None)
        await stream.aclose()
        again = await self._answers("model", "get_llm_num_tokens", **{**common, **_CHAT})
        self._say(f"{name} goes on after a call was given up", bool(again))

    async def _unknown(self, provider: str) -> None:
        """What is wrong must come as an error of a kind that callers know."""
        data = {"provider": provider, "model_type": "llm", "model": "", "credentials": {}, **_CHAT, "stream": False}
        try:
            await self._answers("model", "invoke_llm", **{**data, "prompt_messages": [{"role": "nobody"}]})
        except PluginError as error:
            self._say("errors have kinds that callers know", error.kind in _MAPPED, error.kind)
        except (ModelyardError, TimeoutError) as error:
            self._say("errors have kinds that callers know", False, str(error) or "no answer in time")
        else:
            self._say("errors have kinds that callers know", False, "a message of no known role was taken")

    # tools and endpoints

    async def _tools(self) -> None:
        provider = self._declaration.tool
        if provider is None:
            return
        name = provider.identity.name
        await self._checked("tool credentials", "tool", "validate_tool_credentials", provider=name)
        for tool in provider.tools:
            parameters = dict(_filled(tool.parameters))
            await self._checked(
                f"tool {tool.identity.name}", "tool", "invoke_tool", provider=name, tool=tool.identity.name,
                credential_type="api-key", tool_parameters=parameters,
            )  # fmt: skip

    async def _endpoints(self) -> None:
        group = self._declaration.endpoint
        for one in group.endpoints if group else ():
            request = f"{one.method} {one.path.replace('<', '').replace('>', '')} HTTP/1.1\r\nhost: localhost\r\n"
            raw = f"{request}content-length: 0\r\n\r\n".encode().hex()
            settings = {field.name: field.default or "x" for field in (group.settings if group else ())}
            what = f"endpoint {one.method} {one.path}"
            try:
                found = await self._answers("endpoint", "invoke_endpoint", raw_http_request=raw, settings=settings)
                status = found[0].get("status") if found else None
                self._say(what, status is not None and int(status) < 500, f"status {status}")
            except (ModelyardError, TimeoutError) as error:
                self._say(what, False, str(error) or "no answer in time")


def _filled(parameters: Iterable[Parameter]) -> Iterable[tuple[str, Any]]:
    """A value for each parameter that must be given."""
    for one in parameters:
        if one.default is not None:
            yield one.name, one.default
        elif one.required:
            options = one.options
            first = options[0].get("value") if options and isinstance(options[0], dict) else None
            yield one.name, first or {"number": 1, "boolean": True, "array": [], "object": {}}.get(one.type, "text")


_CHAT: JSON = {
    "prompt_messages": [{"role": "user", "content": "Say hello to the world."}],
    "model_parameters": {},
    "tools": None,
    "stop": None,
}
_TRIED: dict[ModelType, tuple[str, JSON, Callable[[list[JSON]], str]]] = {
    ModelType.LLM: ("invoke_llm", {**_CHAT, "stream": False}, lambda found: f"{len(found)} chunk"),
    ModelType.TEXT_EMBEDDING: (
        "invoke_text_embedding",
        {"texts": ["one", "two"], "input_type": "document"},
        lambda found: f"{len(found[0].get('embeddings') or ())} vectors",
    ),
    ModelType.RERANK: (
        "invoke_rerank",
        {"query": "a cat", "docs": ["a dog", "a cat"], "score_threshold": None, "top_n": None},
        lambda found: f"{len(found[0].get('docs') or ())} documents",
    ),
    ModelType.TTS: (
        "invoke_tts",
        {"content_text": "Hello.", "voice": "", "tenant_id": "default"},
        lambda found: f"{sum(len(one.get('result') or '') for one in found) // 2:,} bytes",
    ),
    ModelType.SPEECH2TEXT: ("invoke_speech2text", {"file": "52494646"}, lambda found: str(found[0].get("result"))),
    ModelType.MODERATION: ("invoke_moderation", {"text": "Hello."}, lambda found: str(found[0].get("result"))),
}
