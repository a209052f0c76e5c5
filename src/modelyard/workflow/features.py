"""Features of an app around a run: moderation, annotation replies, external data tools
and conversation titles."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import EMPTY_OBJECT, is_mapping
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import SystemPromptMessage, UserPromptMessage
from modelyard.models.moderation import ModerationRequest
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.tenancy.caller import Caller
from modelyard.workflow.annotations import Annotations, ReplySettings
from modelyard.workflow.apps import AppRecord
from modelyard.workflow.dsl import App
from modelyard.workflow.variables import WorkflowError

logger = logging.getLogger("modelyard.workflow")

_NAME_PROMPT = (
    "Write a title for a conversation that begins with the user's message: at most"
    " eight words, in the message's own language, without quotation marks. Write the"
    " title and nothing else."
)
CallExtension = Callable[
    [str, str, str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]
]
"""(tenant, extension id, extension point, params) → the response of the API extension.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterceptedTurn:
    """A turn that is answered before the workflow runs."""

    text: str
    annotation: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedTurn:
    """A turn that may run, with its inputs and query after moderation and external data
    tools."""

    inputs: dict[str, Any]
    query: str


OutputCheck = Callable[[str], Awaitable[str | None]]
"""Returns the text to show instead of the given text; None if the text may be shown."""


class Features:
    """Applies an app's features before, during and after a run."""

    def __init__(
        self, models: ModelManager, annotations: Annotations, extend: CallExtension
    ) -> None:
        self._models = models
        self.annotations = annotations
        self._extend = extend

    # Before a run

    async def apply_before_run(
        self,
        app_record: AppRecord,
        app: App,
        *,
        query: str,
        inputs: Mapping[str, Any],
        user: str,
    ) -> InterceptedTurn | AdmittedTurn:
        """Apply input moderation, annotation replies and external data tools, in this
        order.

        Raises WorkflowError if an external data tool fails.
        """
        current_inputs, current_query = dict(inputs), query
        # Moderation comes first: later steps may send the text to other services.
        moderation = _moderation(app)
        if moderation is not None and _is_on(moderation, "inputs_config"):
            # Moderation may answer itself or change what the workflow receives.
            result = await self._moderate_input(
                app_record, moderation, current_inputs, current_query, user
            )
            if isinstance(result, InterceptedTurn):
                return result
            current_inputs, current_query = result.inputs, result.query
        if app.is_chat and current_query:
            hit = await self._find_annotation(app_record, app, current_query)
            if hit is not None:
                return hit
        # Each external data tool fills one input variable and sees the variables set
        # before it.
        for tool in _external_data_tools(app):
            name = str(tool["variable"])
            current_inputs[name] = await self._query_external_tool(
                app_record, tool, name, current_inputs, current_query
            )
        return AdmittedTurn(inputs=current_inputs, query=current_query)

    async def _moderate_input(
        self,
        app_record: AppRecord,
        moderation: Mapping[str, Any],
        inputs: dict[str, Any],
        query: str,
        user: str,
    ) -> InterceptedTurn | AdmittedTurn:
        """Return the moderated inputs and query, or the preset response if they are
        flagged."""
        # The same app settings serve both kinds of moderation: an API extension or a
        # built-in check.
        config: Mapping[str, Any] = moderation.get("config") or {}
        preset = str(
            (config.get("inputs_config") or EMPTY_OBJECT).get("preset_response") or ""
        )
        # An API extension decides itself: block with a text, or change the inputs and
        # the query.
        if moderation.get("type") == "api":
            reply = await self._call_extension(
                app_record,
                config,
                "app.moderation.input",
                {
                    "app_id": app_record.id,
                    "inputs": inputs,
                    "query": query,
                },
            )
            if reply.get("flagged") and reply.get("action") == "direct_output":
                return InterceptedTurn(text=str(reply.get("preset_response") or preset))
            if reply.get("flagged"):
                changed = reply.get("inputs")
                return AdmittedTurn(
                    inputs=dict(changed) if is_mapping(changed) else inputs,
                    query=str(reply.get("query") or query),
                )
            return AdmittedTurn(inputs=inputs, query=query)
        # Only texts are checked; numbers, files and objects cannot contain flagged
        # words.
        texts = [
            *(str(value) for value in inputs.values() if isinstance(value, str)),
            query,
        ]
        if await self._is_flagged(
            app_record.tenant, moderation, "\n".join(texts), user
        ):
            return InterceptedTurn(text=preset)
        return AdmittedTurn(inputs=inputs, query=query)

    async def _is_flagged(
        self, tenant: str, moderation: Mapping[str, Any], text: str, user: str
    ) -> bool:
        """Return whether the app's keyword list or the default moderation model flags
        the text."""
        # Keyword lists have one keyword per line and are compared without regard to
        # case.
        config: Mapping[str, Any] = moderation.get("config") or {}
        if moderation.get("type") == "keywords":
            low = text.lower()
            keywords = str(config.get("keywords") or "").splitlines()
            return any(
                keyword.strip().lower() in low
                for keyword in keywords
                if keyword.strip()
            )
        model = self._models.find(
            Caller(tenant=tenant, user=user or None),
            "default-moderation",
            ModelType.MODERATION,
        )
        result = await model.invoke_moderation(ModerationRequest(texts=[text]))
        return result.flagged

    async def reply_settings(self, app_record: AppRecord, app: App) -> ReplySettings:
        """Return the annotation settings stored through the API, else those in the
        app's DSL file."""
        stored_settings = await self.annotations.settings(
            app_record.tenant, app_record.id
        )
        if stored_settings is not None:
            return stored_settings
        # Nothing was set through the API: the DSL file decides.
        configured: Mapping[str, Any] = app.features.get("annotation_reply") or {}
        model: Mapping[str, Any] = configured.get("embedding_model") or {}
        return ReplySettings(
            enabled=bool(configured.get("enabled")),
            score_threshold=float(configured.get("score_threshold") or 0.9),
            embedding_provider_name=str(model.get("embedding_provider_name") or ""),
            embedding_model_name=str(model.get("embedding_model_name") or ""),
        )

    async def _find_annotation(
        self, app_record: AppRecord, app: App, query: str
    ) -> InterceptedTurn | None:
        """Return the annotation that matches the query; None if none does, annotation
        replies are disabled, or the search fails."""
        settings = await self.reply_settings(app_record, app)
        if not settings.enabled:
            return None
        try:
            hit = await self.annotations.answer(
                app_record.tenant, app_record.id, query, settings
            )
        except ModelyardError as error:
            # If the embedding model is unavailable, the app must still work: the
            # workflow answers.
            fields = {"app": app_record.name, "error": str(error)}
            logger.warning("annotation search failed", extra={"fields": fields})
            return None
        if hit is None:
            return None
        return InterceptedTurn(
            text=hit.answer,
            annotation={"id": hit.id, "account": {"id": "", "name": "Modelyard"}},
        )

    async def _query_external_tool(
        self,
        app_record: AppRecord,
        tool: Mapping[str, Any],
        name: str,
        inputs: Mapping[str, Any],
        query: str,
    ) -> str:
        """Return the text that an external data tool gives for a variable. Raises
        WorkflowError."""
        config: Mapping[str, Any] = tool.get("config") or {}
        try:
            reply = await self._call_extension(
                app_record,
                config,
                "app.external_data_tool.query",
                {
                    "app_id": app_record.id,
                    "tool_variable": name,
                    "inputs": dict(inputs),
                    "query": query,
                },
            )
        except ModelyardError as error:
            raise WorkflowError(f"External data tool {name!r}: {error}") from error
        # A variable without a text would leave a gap in the prompt, so it is an error.
        result = reply.get("result")
        if not isinstance(result, str):
            raise WorkflowError(f"External data tool {name!r} returned no result")
        return result

    async def _call_extension(
        self,
        app_record: AppRecord,
        config: Mapping[str, Any],
        point: str,
        params: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        """Call the API extension named in the config at one extension point."""
        return await self._extend(
            app_record.tenant,
            str(config.get("api_based_extension_id") or ""),
            point,
            params,
        )

    # While the answer is streamed

    def output_check(
        self, app_record: AppRecord, app: App, user: str
    ) -> OutputCheck | None:
        """Return the check that moderates answer text while it is streamed; None if
        output moderation is off."""
        moderation = _moderation(app)
        if moderation is None or not _is_on(moderation, "outputs_config"):
            return None

        async def check(text: str) -> str | None:
            """Return the replacement of a flagged text; None if it may be shown."""
            return await self._moderate_output(app_record, moderation, text, user)

        return check

    async def _moderate_output(
        self, app_record: AppRecord, moderation: Mapping[str, Any], text: str, user: str
    ) -> str | None:
        """Return the replacement of a flagged text; None if it may be shown."""
        config: Mapping[str, Any] = moderation.get("config") or {}
        # The preset response is only the fallback if the extension gives no text.
        preset = str(
            (config.get("outputs_config") or EMPTY_OBJECT).get("preset_response") or ""
        )
        if moderation.get("type") != "api":
            is_flagged = await self._is_flagged(
                app_record.tenant, moderation, text, user
            )
            return preset if is_flagged else None
        reply = await self._call_extension(
            app_record,
            config,
            "app.moderation.output",
            {"app_id": app_record.id, "text": text},
        )
        if not reply.get("flagged"):
            return None
        # `overridden` carries the extension's own text; otherwise the preset response
        # replaces it.
        if reply.get("action") == "overridden":
            return str(reply.get("text") or "")
        return str(reply.get("preset_response") or preset)

    # After a run

    async def conversation_title(self, tenant: str, user: str, query: str) -> str:
        """Return a title for a conversation from its first message; an empty string if
        no model is available."""
        try:
            model = self._models.find(
                Caller(tenant=tenant, user=user or None), "default", ModelType.LLM
            )
            # The start of the message is enough for a title and keeps the call cheap.
            messages: Sequence[Any] = [
                SystemPromptMessage(content=_NAME_PROMPT),
                UserPromptMessage(content=query[:2000]),
            ]
            request = LLMRequest(
                messages=list(messages), model_parameters={"max_tokens": 40}
            )
            title_text = (await model.invoke_llm(request, timeout=30.0)).text
        except ModelyardError as error:
            logger.info(
                "conversation title not generated",
                extra={"fields": {"error": str(error)}},
            )
            return ""
        # Models tend to add quotes, markup or a "Title:" prefix despite the prompt.
        lines = [line.strip().strip("\"'“”*#. ") for line in title_text.splitlines()]
        name = next((line for line in lines if line), "")
        return (
            name[:75]
            if not name.lower().startswith("title:")
            else name[6:].strip()[:75]
        )


def _external_data_tools(app: App) -> list[Mapping[str, Any]]:
    """Return the enabled external data tools that fill a variable."""
    return [
        tool
        for tool in app.model_config.get("external_data_tools") or ()
        if is_mapping(tool) and tool.get("enabled", True) and tool.get("variable")
    ]


def _moderation(app: App) -> Mapping[str, Any] | None:
    """Return the app's moderation settings; None if moderation is disabled."""
    configured = app.features.get("sensitive_word_avoidance")
    return configured if is_mapping(configured) and configured.get("enabled") else None


def _is_on(moderation: Mapping[str, Any], part: str) -> bool:
    """Return whether one part of moderation (`inputs_config` or `outputs_config`) is
    enabled."""
    config = moderation.get("config")
    section = config.get(part) if is_mapping(config) else None
    return is_mapping(section) and bool(section.get("enabled"))
