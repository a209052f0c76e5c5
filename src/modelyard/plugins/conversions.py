"""Converts model requests and results between the plugin protocol and our types. No
I/O.

Binary data is hexadecimal for speech and base64 in prompts; prices are decimal strings.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.base.fields import count
from modelyard.models.answer_formats import AnswerFormats
from modelyard.models.embedding import (
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
)
from modelyard.models.entities import AIModelEntity
from modelyard.models.llm import (
    LLMRequest,
    LLMResultChunk,
    LLMUsage,
)
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    AudioPromptMessageContent,
    DocumentPromptMessageContent,
    ImagePromptMessageContent,
    MultiModalPromptMessageContent,
    PromptMessageContent,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
    VideoPromptMessageContent,
)
from modelyard.models.rerank import RerankRequest, RerankResult, to_ranked_documents
from modelyard.models.thinking import CLOSE, OPEN
from modelyard.models.types import JSON
from modelyard.plugins.call_numbers import own_id
from modelyard.plugins.thoughts import state_of

# ------------------------------------------------------------------------------- models


def dump_entity(entity: AIModelEntity) -> JSON:
    """Return a model's description in the plugin format."""
    pricing = entity.pricing
    return {
        "model": entity.model,
        "label": msgspec.to_builtins(entity.label),
        "model_type": entity.model_type.value,
        "features": [feature.value for feature in entity.features],
        "fetch_from": "predefined-model",
        "model_properties": {
            getattr(name, "value", name): value
            for name, value in entity.model_properties.items()
        },
        "parameter_rules": [
            msgspec.to_builtins(rule) for rule in entity.parameter_rules
        ],
        "pricing": msgspec.to_builtins(pricing) if pricing is not None else None,
        "deprecated": False,
    }


# ------------------------------------------------------------------ chat, to the plugin


def dump_messages(
    messages: Sequence[AnyPromptMessage], provider: str = ""
) -> list[JSON]:
    """Convert messages to the plugin protocol's `PromptMessage` objects.

    Answers of the same provider get back what it sent with them; other content parts
    that the protocol cannot express are left out.
    """
    functions: dict[str, str] = {}
    documents: list[JSON] = []
    for message in messages:
        if isinstance(message, AssistantPromptMessage):
            functions |= {call.id: call.function.name for call in message.tool_calls}
            documents.append(_dump_assistant(message, provider))
        elif isinstance(message, ToolPromptMessage):
            documents.append(_dump_result(message, functions))
        else:
            documents.append(_dump_message(message))
    return documents


def _dump_message(message: AnyPromptMessage) -> JSON:
    """Convert a message to the plugin protocol's `PromptMessage`."""
    return {
        "role": message.role.value,
        "content": _dump_content(message),
        "name": message.name,
    }


def _dump_assistant(message: AssistantPromptMessage, provider: str) -> JSON:
    """Convert an answer, with its reasoning as plugins write it: in the text."""
    state = state_of(message, provider)
    content, thoughts = _dump_content(message), state.thoughts
    # What other models thought, or was not marked, is told by its text.
    if not thoughts and state.opaque is None and message.thinking:
        thoughts = f"{OPEN}\n{message.thinking}\n{CLOSE}\n"
    if thoughts and isinstance(content, str):
        content = thoughts + content
    elif thoughts:
        content = [{"type": "text", "data": thoughts}, *content]
    document: JSON = {
        **_dump_message(message),
        "content": content,
        "tool_calls": _dump_calls(message.tool_calls),
    }
    # Older SDKs do not know the field.
    if state.opaque is not None:
        document["opaque_body"] = state.opaque
    return document


def _dump_result(message: ToolPromptMessage, functions: Mapping[str, str]) -> JSON:
    """Convert the result of a call; `functions` are the names by the calls' ids.

    Plugins for vendors without ids look for the name of the function, which clients of
    other formats do not send.
    """
    function = functions.get(message.tool_call_id, "")
    return {
        **_dump_message(message),
        "name": message.name or function or None,
        "tool_call_id": own_id(message.tool_call_id, function),
    }


def _dump_calls(calls: Sequence[ToolCall]) -> list[JSON]:
    """Convert tool calls to the layout of OpenAI's `tool_calls`.

    Each has `id`, `type` and `function` with its name and its arguments as JSON text.
    """
    return [
        {
            "id": own_id(call.id, call.function.name),
            "type": "function",
            "function": {
                "name": call.function.name,
                "arguments": call.function.arguments,
            },
        }
        for call in calls
    ]


def _dump_content(message: AnyPromptMessage) -> Any:
    """Return a message's content: text, or a list of parts if it has files.

    System and tool messages are always sent as text. Parts that the protocol cannot
    express, such as reasoning, are left out.
    """
    # Without files, the content is sent as a plain string.
    if not message.files or isinstance(
        message, ToolPromptMessage | SystemPromptMessage
    ):
        return message.text
    return [
        dumped_part
        for part in message.parts
        if (dumped_part := _dump_part(part)) is not None
    ]


def _dump_part(part: PromptMessageContent) -> JSON | None:
    """Return a content part in the plugin format; None for reasoning and other parts
    that it cannot express."""
    if isinstance(part, TextPromptMessageContent):
        return {"type": "text", "data": part.data}
    if not isinstance(part, MultiModalPromptMessageContent):
        return None
    mime = (
        part.mime_type or f"{_TYPE_NAMES[type(part)]}/{part.format or 'octet-stream'}"
    )
    document: JSON = {
        "type": _TYPE_NAMES[type(part)],
        "format": part.format or mime.partition("/")[2],
        "mime_type": mime,
        "base64_data": part.base64_data,
        "url": part.url,
        "filename": part.filename,
    }
    if isinstance(part, ImagePromptMessageContent):
        # The protocol only knows these two levels; "auto" becomes low.
        document["detail"] = "high" if part.detail == "high" else "low"
    return document


# The names in the plugin protocol.
_TYPE_NAMES: Mapping[type[Any], str] = {
    ImagePromptMessageContent: "image",
    AudioPromptMessageContent: "audio",
    VideoPromptMessageContent: "video",
    DocumentPromptMessageContent: "document",
}
_CONTENT_CLASSES = {
    type_name: content_class for content_class, type_name in _TYPE_NAMES.items()
}


def dump_tools(tools: Sequence[PromptMessageTool]) -> list[JSON] | None:
    """Return function tools in the plugin format; None if there are none."""
    return [
        {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        }
        for tool in tools
        # Server-side tools of other wire formats have no equivalent.
        if tool.type == "function"
    ] or None


def dump_llm(request: LLMRequest, formats: AnswerFormats, model: str) -> JSON:
    """Return the fields of a chat request; provider, model and credentials are added by
    the caller. `formats` are those of the model, which is named `provider/model`."""
    return {
        "prompt_messages": dump_messages(request.messages, model.partition("/")[0]),
        "model_parameters": formats.dump(request.model_parameters, model),
        "tools": dump_tools(request.tools),
        "stop": list(request.stop) or None,
        "stream": request.stream,
    }


# ---------------------------------------------------------------- chat, from the plugin


def read_function(call: JSON) -> ToolCallFunction:
    """Return the function of a tool call; fields that are missing are empty."""
    function: JSON = call.get("function") or {}
    return ToolCallFunction(
        name=function.get("name") or "", arguments=function.get("arguments") or ""
    )


def read_content(content: Any) -> str | list[PromptMessageContent] | None:
    """Convert message content from the plugin format; None if it is empty. Raises
    KeyError for an unknown part type."""
    if content is None or isinstance(content, str):
        return content or None
    parts: list[PromptMessageContent] = []
    for index, part in enumerate(content):
        part_type = part["type"]
        if part_type == "text":
            parts.append(
                TextPromptMessageContent(data=part.get("data") or "", index=index)
            )
            continue
        fields = {
            name: part.get(name) or ""
            for name in ("format", "mime_type", "base64_data", "url", "filename")
        }
        parts.append(_CONTENT_CLASSES[part_type](index=index, **fields))
    return parts


def read_usage(usage: JSON) -> LLMUsage:
    """Convert the token usage that a plugin reports.

    Missing or invalid counts are 0; the total is the sum of the parts if it is not
    reported. Prices are decimal strings; a total price of 0 counts as unknown.
    """
    prompt, completion = (
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
    )
    price = _decimal(usage.get("total_price"))
    return LLMUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        # Some plugins report only the parts.
        total_tokens=_count(usage.get("total_tokens")) or prompt + completion,
        prompt_price=_decimal(usage.get("prompt_price")),
        completion_price=_decimal(usage.get("completion_price")),
        prompt_unit_price=_decimal(usage.get("prompt_unit_price")),
        prompt_price_unit=_decimal(usage.get("prompt_price_unit")),
        completion_unit_price=_decimal(usage.get("completion_unit_price")),
        completion_price_unit=_decimal(usage.get("completion_price_unit")),
        total_price=price or None,
        # A price of 0 means that the plugin does not know it.
        price_source="plugin" if price else "",
        currency=str(usage.get("currency") or "USD"),
    )


def _count(value: Any) -> int:
    """Return a token count; 0 if the value is not a valid one."""
    try:
        return count(int(value or 0)) or 0
    except (OverflowError, TypeError, ValueError):
        return 0


def _decimal(value: Any) -> Decimal:
    """Parse a price; 0 if it is missing, invalid, infinite or NaN."""
    try:
        number = Decimal(str(value or 0))
    except InvalidOperation:
        return Decimal(0)
    return number if number.is_finite() else Decimal(0)


def dump_usage(usage: LLMUsage) -> JSON:
    """Return token usage in the plugin format."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "prompt_unit_price": str(usage.prompt_unit_price),
        "prompt_price_unit": str(usage.prompt_price_unit),
        "prompt_price": str(usage.prompt_price),
        "completion_tokens": usage.completion_tokens,
        "completion_unit_price": str(usage.completion_unit_price),
        "completion_price_unit": str(usage.completion_price_unit),
        "completion_price": str(usage.completion_price),
        "total_tokens": usage.total_tokens,
        "total_price": str(usage.total_price or 0),
        "currency": usage.currency,
        "latency": usage.latency,
    }


# -------------------------------------------------------------- chat, asked by a plugin


def read_messages(documents: Iterable[Any]) -> list[AnyPromptMessage]:
    """Convert the messages that a plugin sends to a model. Raises ValueError for an
    unknown role."""
    return [_read_message(document) for document in documents]


def _read_message(document: Any) -> AnyPromptMessage:
    """Convert one `PromptMessage` of a plugin's model request.

    `developer` is read as a system message, and of a tool message's content only the
    text remains. Raises ValueError for an unknown role and KeyError for an unknown type
    of content part.
    """
    role, content = document.get("role"), read_content(document.get("content"))
    name = document.get("name") or None
    match role:
        case "system" | "developer":
            return SystemPromptMessage(content=content, name=name)
        case "user":
            # Indexes are for streams; in a request they would be noise.
            return UserPromptMessage(content=_without_indexes(content), name=name)
        case "assistant":
            calls = [
                ToolCall(
                    id=call.get("id") or "",
                    function=read_function(call),
                )
                for call in document.get("tool_calls") or ()
            ]
            return AssistantPromptMessage(
                content=_without_indexes(content), name=name, tool_calls=calls
            )
        case "tool":
            text = (
                content
                if isinstance(content, str)
                else "".join(
                    part.data
                    for part in content or ()
                    if isinstance(part, TextPromptMessageContent)
                )
            )
            return ToolPromptMessage(
                content=text, tool_call_id=document.get("tool_call_id") or ""
            )
        case _:
            raise ValueError(
                f"Unknown message role {role!r}; expected system, user, assistant"
                " or tool"
            )


def _without_indexes(
    content: str | list[PromptMessageContent] | None,
) -> str | list[PromptMessageContent] | None:
    """Return content with the stream index of its parts cleared.

    Text and None are returned unchanged.
    """
    if not isinstance(content, list):
        return content
    return [msgspec.structs.replace(part, index=None) for part in content]


def dump_chunk(chunk: LLMResultChunk, index: int) -> JSON:
    """Return a chunk in the plugin format; `index` is its position in the stream."""
    delta = chunk.delta
    message = delta.message
    return {
        "model": chunk.model,
        "prompt_messages": [],
        "system_fingerprint": chunk.system_fingerprint,
        "delta": {
            "index": index,
            "message": {
                "role": "assistant",
                "content": message.text,
                "name": None,
                "tool_calls": _dump_calls(message.tool_calls),
            },
            "usage": dump_usage(delta.usage) if delta.usage else None,
            "finish_reason": delta.finish_reason,
        },
    }


# ---------------------------------------------------------------------- the other types


def dump_embedding(request: TextEmbeddingRequest) -> JSON:
    """Return an embedding request in the plugin format."""
    return {"texts": request.texts, "input_type": request.input_type.value}


def read_embedding(
    data: Any, request: TextEmbeddingRequest, model: str
) -> TextEmbeddingResult:
    """Convert an embedding result. Raises InvokeServerUnavailableError if texts and
    vectors do not match."""
    try:
        vectors = msgspec.convert(data["embeddings"], list[list[float]])
        usage: dict[str, Any] = data.get("usage") or {}
        tokens = _count(usage.get("tokens")) or _count(usage.get("total_tokens"))
        price = _decimal(usage.get("total_price"))
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise InvokeServerUnavailableError(
            f"The response contains no embeddings: {error!r}"
        ) from error
    # A mismatch would assign vectors to the wrong texts.
    if len(vectors) != len(request.texts):
        raise InvokeServerUnavailableError(
            f"Expected {len(request.texts)} embeddings, got {len(vectors)}"
        )
    stated = EmbeddingUsage(
        tokens=tokens,
        total_tokens=_count(usage.get("total_tokens")) or tokens,
        estimated=not tokens,
        total_price=price or None,
        price_source="plugin" if price else "",
        currency=str(usage.get("currency") or "USD"),
    )
    return TextEmbeddingResult(
        model=str(data.get("model") or model), embeddings=vectors, usage=stated
    )


def join_embeddings(results: Sequence[TextEmbeddingResult]) -> TextEmbeddingResult:
    """Return one result for several calls, at least one: the vectors in their order, and
    the sums of tokens and prices. A price is known only if each call has one."""
    first = results[0]
    if len(results) == 1:
        return first
    usages = [result.usage for result in results]
    prices = [usage.total_price for usage in usages if usage.total_price is not None]
    is_priced = len(prices) == len(usages)
    usage = msgspec.structs.replace(
        first.usage,
        tokens=sum(usage.tokens for usage in usages),
        total_tokens=sum(usage.total_tokens for usage in usages),
        estimated=any(usage.estimated for usage in usages),
        total_price=sum(prices, Decimal(0)) if is_priced else None,
        price_source=first.usage.price_source if is_priced else "",
    )
    vectors = [vector for result in results for vector in result.embeddings]
    return msgspec.structs.replace(first, embeddings=vectors, usage=usage)


def dump_embedding_result(result: TextEmbeddingResult) -> JSON:
    """Return an embedding result in the plugin format."""
    usage = result.usage
    return {
        "model": result.model,
        "embeddings": result.embeddings,
        "usage": {
            "tokens": usage.tokens,
            "total_tokens": usage.total_tokens,
            "unit_price": str(usage.unit_price),
            "price_unit": str(usage.price_unit),
            "total_price": str(usage.total_price or 0),
            "currency": usage.currency,
            "latency": usage.latency,
        },
    }


def dump_rerank(request: RerankRequest) -> JSON:
    """Return a rerank request in the plugin format."""
    return {
        "query": request.query,
        "docs": request.docs,
        "score_threshold": request.score_threshold,
        "top_n": request.top_n,
    }


def read_rerank(data: Any, request: RerankRequest, model: str) -> RerankResult:
    """Convert a plugin's answer to `invoke_rerank`.

    `data["docs"]` has an `index` into the request's documents and a `score` each. The
    result is sorted and limited by the request's threshold and `top_n`. Raises
    InvokeServerUnavailableError if the answer is malformed or an index is out of range.
    """
    try:
        pairs = [
            (scored_document["index"], scored_document["score"])
            for scored_document in data["docs"]
        ]
    except (KeyError, TypeError) as error:
        raise InvokeServerUnavailableError(
            f"The response contains no documents: {error!r}"
        ) from error
    return RerankResult(
        model=str(data.get("model") or model), docs=to_ranked_documents(pairs, request)
    )


def dump_rerank_result(result: RerankResult) -> JSON:
    """Return a rerank result in the plugin format."""
    docs = [
        {"index": document.index, "text": document.text, "score": document.score}
        for document in result.docs
    ]
    return {"model": result.model, "docs": docs}
