"""Actions of plugins, as programs of their usual daemon ask for them."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
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
    "dynamic_select/fetch_parameter_options": ("dynamic_parameter", "fetch_parameter_options"),
    "datasource/validate_credentials": ("datasource", "validate_datasource_credentials"),
    "datasource/get_website_crawl": ("datasource", "invoke_website_datasource_get_crawl"),
    "datasource/get_online_document_pages": ("datasource", "invoke_online_document_datasource_get_pages"),
    "datasource/get_online_document_page_content": (
        "datasource",
        "invoke_online_document_datasource_get_page_content",
    ),
    "datasource/online_drive_browse_files": ("datasource", "invoke_online_drive_browse_files"),
    "datasource/online_drive_download_file": ("datasource", "invoke_online_drive_download_file"),
    "trigger/invoke_event": ("trigger", "invoke_trigger_event"),
    "trigger/validate_credentials": ("trigger", "validate_trigger_credentials"),
    "trigger/dispatch_event": ("trigger", "dispatch_trigger_event"),
    "trigger/subscribe": ("trigger", "subscribe_trigger"),
    "trigger/unsubscribe": ("trigger", "unsubscribe_trigger"),
    "trigger/refresh": ("trigger", "refresh_trigger"),
}
"""What stands behind `dispatch/` → type and action of the plugins' protocol."""


WHOLE = ("start_polling", "check_polling")
"""Actions that are answered at once, not as events."""


_MODEL_TYPES = {
    "llm": "llm", "text_embedding": "text-embedding", "multimodal_embedding": "text-embedding", "rerank": "rerank",
    "multimodal_rerank": "rerank", "tts": "tts", "speech2text": "speech2text", "moderation": "moderation",
}  # fmt: skip


_CARRIED = ("conversation_id", "message_id", "app_id", "endpoint_id", "context")


async def dispatch(path: str, call: DaemonCall) -> Reply | StreamReply:
    """One action of a plugin, its answers as events. Raises NotFoundError, InvokeBadRequestError."""
    request, tenant = call.request, call.tenant
    kind, action = ACTIONS[path]
    plugin = request.header(b"x-plugin-id")
    if not plugin:
        raise InvokeBadRequestError("'x-plugin-id' must name the plugin as author/name")
    call.parts.plugins.find(tenant, plugin)
    body = await request.json()
    data = body.get("data")
    if not isinstance(data, dict):
        raise InvokeBadRequestError("'data' must hold the action's fields", param="data")
    data = _checked(path, data)
    more = {name: body[name] for name in _CARRIED if body.get(name) is not None}
    user = str(body.get("user_id") or "")
    answers = call.parts.plugins.call(tenant, plugin, kind, action, data, user=user, more=more)
    if action in WHOLE:
        async with aclosing(answers):
            return succeeded(await anext(answers, {}))
    return sse_reply(_events(answers), lambda error: _event(failure(error)))


async def _events(answers: AsyncGenerator[JSON, None]) -> AsyncGenerator[bytes, None]:
    """Errors are events too, the first included: the caller reads a stream whatever happens."""
    try:
        async with aclosing(answers):
            async for answer in answers:
                yield _event({"code": 0, "message": "success", "data": answer})
    except ModelyardError as error:
        yield _event(failure(error))


def _event(document: JSON) -> bytes:
    return b"data: " + encode(document) + b"\n\n"


def _checked(path: str, data: JSON) -> JSON:
    """The fields with the plugin's own word for its provider. Raises InvokeBadRequestError."""
    provider = data.get("provider")
    if isinstance(provider, str):
        data = {**data, "provider": provider.rpartition("/")[2]}
    wanted = _MODEL_TYPES.get(path.partition("/")[0])
    if wanted is not None:
        given = data.get("model_type", wanted)
        if given != wanted:
            raise InvokeBadRequestError(f"'model_type' is {given!r}; at {path!r} it is {wanted!r}", param="model_type")
        data = {**_UNSAID.get(path, {}), **data, "model_type": wanted}
    return data


_UNSAID: Mapping[str, JSON] = {
    "llm/invoke": {"model_parameters": {}, "tools": None, "stop": None, "stream": True},
    "llm/num_tokens": {"tools": None},
    "rerank/invoke": {"score_threshold": None, "top_n": None},
    "multimodal_rerank/invoke": {"score_threshold": None, "top_n": None},
    "tts/model/voices": {"language": None},
}
"""What plugins insist on and callers leave out."""
