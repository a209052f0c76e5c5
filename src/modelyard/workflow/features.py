"""What an app does around its run: sensitive words in and out, annotations, external data, the conversation's name."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import SystemPromptMessage, UserPromptMessage
from modelyard.models.moderation import ModerationRequest
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.tenancy.caller import Caller
from modelyard.workflow.annotations import Annotations, ReplySettings
from modelyard.workflow.apps import FoundApp
from modelyard.workflow.dsl import App
from modelyard.workflow.variables import WorkflowError

logger = logging.getLogger("modelyard.workflow")

_NAME_PROMPT = (
    "Write a title for a conversation that begins with the user's message: at most eight words, in the message's own "
    "language, without quotation marks. Write the title and nothing else."
)
Extend = Callable[[str, str, str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""(tenant, extension, point, params) → what an API extension says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intercepted:
    """A turn that is answered before anything runs."""

    text: str
    annotation: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A turn that goes on, with what it was given as it is now."""

    inputs: dict[str, Any]
    query: str


OutputCheck = Callable[[str], Awaitable[str | None]]
"""What stands in the place of a text; None where that may be said."""


class Features:
    def __init__(self, models: ModelManager, annotations: Annotations, extend: Extend) -> None:
        self._models = models
        self.annotations = annotations
        self._extend = extend

    # before a run

    async def before(
        self, found: FoundApp, app: App, *, query: str, inputs: Mapping[str, Any], user: str
    ) -> Intercepted | Admitted:
        """Raises WorkflowError where an external tool fails."""
        given, asked = dict(inputs), query
        moderation = _moderation(app)
        if moderation is not None and _is_on(moderation, "inputs_config"):
            result = await self._moderated_input(found, moderation, given, asked, user)
            if isinstance(result, Intercepted):
                return result
            given, asked = result.inputs, result.query
        if app.is_chat and asked:
            settings = await self.reply_settings(found, app)
            if settings.enabled:
                hit = await self._annotated(found, asked, settings)
                if hit is not None:
                    return hit
        for tool in app.model_config.get("external_data_tools") or ():
            if isinstance(tool, Mapping) and tool.get("enabled", True) and tool.get("variable"):
                name = str(tool["variable"])
                given[name] = await self._external(found, tool, name, given, asked)
        return Admitted(inputs=given, query=asked)

    async def _moderated_input(
        self, found: FoundApp, moderation: Mapping[str, Any], inputs: dict[str, Any], query: str, user: str
    ) -> Intercepted | Admitted:
        config: Mapping[str, Any] = moderation.get("config") or {}
        preset = str((config.get("inputs_config") or {}).get("preset_response") or "")
        if moderation.get("type") == "api":
            told = await self._extended(found, config, "app.moderation.input", {
                "app_id": found.id, "inputs": inputs, "query": query,
            })  # fmt: skip
            if told.get("flagged") and told.get("action") == "direct_output":
                return Intercepted(text=str(told.get("preset_response") or preset))
            if told.get("flagged"):
                changed = told.get("inputs")
                return Admitted(
                    inputs=dict(changed) if isinstance(changed, Mapping) else inputs,
                    query=str(told.get("query") or query),
                )
            return Admitted(inputs=inputs, query=query)
        texts = [*(str(one) for one in inputs.values() if isinstance(one, str)), query]
        if await self._is_flagged(found.tenant, moderation, "\n".join(texts), user):
            return Intercepted(text=preset)
        return Admitted(inputs=inputs, query=query)

    async def _is_flagged(self, tenant: str, moderation: Mapping[str, Any], text: str, user: str) -> bool:
        config: Mapping[str, Any] = moderation.get("config") or {}
        if moderation.get("type") == "keywords":
            low = text.lower()
            words = str(config.get("keywords") or "").splitlines()
            return any(word.strip().lower() in low for word in words if word.strip())
        model = self._models.find(Caller(tenant=tenant, user=user or None), "default-moderation", ModelType.MODERATION)
        result = await model.invoke_moderation(ModerationRequest(texts=[text]))
        return result.flagged

    async def reply_settings(self, found: FoundApp, app: App) -> ReplySettings:
        """What was set by API, else what the app's file says."""
        known = await self.annotations.settings(found.tenant, found.id)
        if known is not None:
            return known
        given: Mapping[str, Any] = app.features.get("annotation_reply") or {}
        model: Mapping[str, Any] = given.get("embedding_model") or {}
        return ReplySettings(
            enabled=bool(given.get("enabled")), score_threshold=float(given.get("score_threshold") or 0.9),
            embedding_provider_name=str(model.get("embedding_provider_name") or ""),
            embedding_model_name=str(model.get("embedding_model_name") or ""),
        )  # fmt: skip

    async def _annotated(self, found: FoundApp, query: str, settings: ReplySettings) -> Intercepted | None:
        try:
            hit = await self.annotations.answer(found.tenant, found.id, query, settings)
        except ModelyardError as error:
            # An embedding model that is away must not take the app with it: the model answers.
            fields = {"app": found.name, "error": str(error)}
            logger.warning("annotations cannot be searched", extra={"fields": fields})
            return None
        if hit is None:
            return None
        return Intercepted(text=hit.answer, annotation={"id": hit.id, "account": {"id": "", "name": "Modelyard"}})

    async def _external(
        self, found: FoundApp, tool: Mapping[str, Any], name: str, inputs: Mapping[str, Any], query: str
    ) -> str:
        config: Mapping[str, Any] = tool.get("config") or {}
        try:
            told = await self._extended(found, config, "app.external_data_tool.query", {
                "app_id": found.id, "tool_variable": name, "inputs": dict(inputs), "query": query,
            })  # fmt: skip
        except ModelyardError as error:
            raise WorkflowError(f"external data tool {name!r}: {error}") from error
        result = told.get("result")
        if not isinstance(result, str):
            raise WorkflowError(f"external data tool {name!r} gave no result")
        return result

    async def _extended(
        self, found: FoundApp, config: Mapping[str, Any], point: str, params: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        return await self._extend(found.tenant, str(config.get("api_based_extension_id") or ""), point, params)

    # what is said

    def output_check(self, found: FoundApp, app: App, user: str) -> OutputCheck | None:
        """How an answer is looked at while it is made; None where nobody wants that."""
        moderation = _moderation(app)
        if moderation is None or not _is_on(moderation, "outputs_config"):
            return None
        config: Mapping[str, Any] = moderation.get("config") or {}
        preset = str((config.get("outputs_config") or {}).get("preset_response") or "")

        async def check(text: str) -> str | None:
            if moderation.get("type") != "api":
                return preset if await self._is_flagged(found.tenant, moderation, text, user) else None
            told = await self._extended(found, config, "app.moderation.output", {"app_id": found.id, "text": text})
            if not told.get("flagged"):
                return None
            if told.get("action") == "overridden":
                return str(told.get("text") or "")
            return str(told.get("preset_response") or preset)

        return check

    # afterwards

    async def name_of(self, tenant: str, user: str, query: str) -> str:
        """A title for a conversation by its first message; empty where no model can be asked."""
        try:
            model = self._models.find(Caller(tenant=tenant, user=user or None), "default", ModelType.LLM)
            messages: Sequence[Any] = [
                SystemPromptMessage(content=_NAME_PROMPT), UserPromptMessage(content=query[:2000])
            ]  # fmt: skip
            request = LLMRequest(messages=list(messages), model_parameters={"max_tokens": 40})
            said = (await model.invoke_llm(request, timeout=30.0)).text
        except ModelyardError as error:
            logger.info("a conversation was not named", extra={"fields": {"error": str(error)}})
            return ""
        lines = [line.strip().strip("\"'“”*#. ") for line in said.splitlines()]
        name = next((line for line in lines if line), "")
        return name[:75] if not name.lower().startswith("title:") else name[6:].strip()[:75]


def _moderation(app: App) -> Mapping[str, Any] | None:
    given = app.features.get("sensitive_word_avoidance")
    return given if isinstance(given, Mapping) and given.get("enabled") else None


def _is_on(moderation: Mapping[str, Any], part: str) -> bool:
    config = moderation.get("config")
    chosen = config.get(part) if isinstance(config, Mapping) else None
    return isinstance(chosen, Mapping) and bool(chosen.get("enabled"))
