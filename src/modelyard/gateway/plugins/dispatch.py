"""Handlers of `dispatch/ACTION`: run an action of a plugin for a client that speaks the
plugin daemon's API."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.json_types import is_object
from modelyard.gateway.http import (
    Reply,
    StreamReply,
    encode,
    sse_reply,
)
from modelyard.gateway.plugins.daemon_calls import DaemonCall, failure, succeeded
from modelyard.models.types import JSON

ACTIONS: Mapping[str, tuple[str, str]] = {
    "tool/invoke": ("tool", "invoke_tool"),
    "tool/validate_credentials": ("tool", "validate_tool_credentials"),
    "tool/get_runtime_parameters": ("tool", "get_tool_runtime_parameters"),
    "agent_strategy/invoke": ("agent_strategy", "invoke_agent_strategy"),
    "llm/invoke": ("model", "invoke_llm"),
    "llm/num_tokens": ("model", "get_llm_num_tokens"),
    "text_embedding/invoke": ("model", "invoke_text_embedding"),
    "text_embedding/num_tokens": ("model", "get_text_embedding_num_tokens"),
    "multimodal_embedding/invoke": ("model", "invoke_multimodal_embedding"),
    "rerank/invoke": ("model", "invoke_rerank"),
    "multimodal_rerank/invoke": ("model", "invoke_multimodal_rerank"),
    "tts/invoke": ("model", "invoke_tts"),
    "tts/model/voices": ("model", "get_tts_model_voices"),
    "speech2text/invoke": ("model", "invoke_speech2text"),
    "moderation/invoke": ("model", "invoke_moderation"),
    "model/validate_provider_credentials": ("model", "validate_provider_credentials"),
    "model/validate_model_credentials": ("model", "validate_model_credentials"),
    "model/schema": ("model", "get_ai_model_schemas"),
    "model/polling/start": ("model", "start_polling"),
    "model/polling/check": ("model", "check_polling"),
    "oauth/get_authorization_url": ("oauth", "get_authorization_url"),
    "oauth/get_credentials": ("oauth", "get_credentials"),
    "oauth/refresh_credentials": ("oauth", "refresh_credentials"),
    "dynamic_select/fetch_parameter_options": (
        "dynamic_parameter",
        "fetch_parameter_options",
    ),
    "datasource/validate_credentials": (
        "datasource",
        "validate_datasource_credentials",
    ),
    "datasource/get_website_crawl": (
        "datasource",
        "invoke_website_datasource_get_crawl",
    ),
    "datasource/get_online_document_pages": (
        "datasource",
        "invoke_online_document_datasource_get_pages",
    ),
    "datasource/get_online_document_page_content": (
        "datasource",
        "invoke_online_document_datasource_get_page_content",
    ),
    "datasource/online_drive_browse_files": (
        "datasource",
        "invoke_online_drive_browse_files",
    ),
    "datasource/online_drive_download_file": (
        "datasource",
        "invoke_online_drive_download_file",
    ),
    "trigger/invoke_event": ("trigger", "invoke_trigger_event"),
    "trigger/validate_credentials": ("trigger", "validate_trigger_credentials"),
    "trigger/dispatch_event": ("trigger", "dispatch_trigger_event"),
    "trigger/subscribe": ("trigger", "subscribe_trigger"),
    "trigger/unsubscribe": ("trigger", "unsubscribe_trigger"),
    "trigger/refresh": ("trigger", "refresh_trigger"),
}
"""Path below `dispatch/` → (type, action) of the plugin protocol."""


SINGLE_REPLY_ACTIONS = ("start_polling", "check_polling")
"""Actions that are answered with one JSON document. All others are answered with a
stream of events."""


# The path decides the model type; a request that names a different `model_type` is
# refused.
_MODEL_TYPES = {
    "llm": "llm",
    "text_embedding": "text-embedding",
    "multimodal_embedding": "text-embedding",
    "rerank": "rerank",
    "multimodal_rerank": "rerank",
    "tts": "tts",
    "speech2text": "speech2text",
    "moderation": "moderation",
}


# These fields stand beside `data` in the request and reach the plugin as context of the
# call.
_CONTEXT_FIELDS = ("conversation_id", "message_id", "app_id", "endpoint_id", "context")


async def dispatch(path: str, call: DaemonCall) -> Reply | StreamReply:
    """Run one action of a plugin and stream its results as server-sent events.

    Actions in WHOLE get a single JSON reply instead. Raises NotFoundError if the tenant
    has no such plugin and InvokeBadRequestError for invalid fields.
    """
    request, tenant = call.request, call.tenant
    plugin_type, action = ACTIONS[path]
    plugin = request.header(b"x-plugin-id")
    if not plugin:
        raise InvokeBadRequestError("'x-plugin-id' must name the plugin as author/name")
    # Fails with 404 before the body is read if the plugin is not installed.
    call.parts.plugins.find(tenant, plugin)
    body = await request.json()
    data = body.get("data")
    if not is_object(data):
        raise InvokeBadRequestError(
            "'data' must be an object with the action's fields", param="data"
        )
    data = _normalised_fields(path, data)
    context_fields = {
        name: body[name] for name in _CONTEXT_FIELDS if body.get(name) is not None
    }
    user = str(body.get("user_id") or "")
    answers = call.parts.plugins.call(
        tenant, plugin, plugin_type, action, data, user=user, extra=context_fields
    )
    if action in SINGLE_REPLY_ACTIONS:
        # Only the first result counts; aclosing ends the plugin's call without waiting
        # for more.
        async with aclosing(answers):
            return succeeded(await anext(answers, {}))
    return sse_reply(_events(answers), lambda error: _event(failure(error)))


async def _events(answers: AsyncGenerator[JSON, None]) -> AsyncGenerator[bytes, None]:
    """Yield results as events. Errors become events too, even the first one, because
    the client always reads a stream."""
    try:
        async with aclosing(answers):
            async for answer in answers:
                yield _event({"code": 0, "message": "success", "data": answer})
    except ModelyardError as error:
        yield _event(failure(error))


def _event(document: JSON) -> bytes:
    """Encode a document as one server-sent event."""
    return b"data: " + encode(document) + b"\n\n"


def _normalised_fields(path: str, data: JSON) -> JSON:
    """Return the fields as the plugin expects them: provider without prefix, model type
    and defaults filled in.

    Raises InvokeBadRequestError if `model_type` contradicts the path.
    """
    provider = data.get("provider")
    if isinstance(provider, str):
        # Clients send `author/plugin/provider`; a plugin knows its provider by the last
        # part.
        data = {**data, "provider": provider.rpartition("/")[2]}
    model_type = _MODEL_TYPES.get(path.partition("/")[0])
    if model_type is not None:
        requested_type = data.get("model_type", model_type)
        if requested_type != model_type:
            raise InvokeBadRequestError(
                f"'model_type' must be {model_type!r} at {path!r}, not {requested_type!r}",
                param="model_type",
            )
        # Later entries win: the client's fields override the defaults, the path's model
        # type overrides both.
        data = {**_DEFAULT_FIELDS.get(path, {}), **data, "model_type": model_type}
    return data


_DEFAULT_FIELDS: Mapping[str, JSON] = {
    "llm/invoke": {"model_parameters": {}, "tools": None, "stop": None, "stream": True},
    "llm/num_tokens": {"tools": None},
    "rerank/invoke": {"score_threshold": None, "top_n": None},
    "multimodal_rerank/invoke": {"score_threshold": None, "top_n": None},
    "tts/model/voices": {"language": None},
}
"""Fields that plugins require and clients may omit, by path."""
