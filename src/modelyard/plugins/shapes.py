"""Requests and answers of models as plugins write them <-> our types. Pure.

Binary data is hexadecimal in speech and base64 in prompts; prices are decimal strings.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.base.fields import count
from modelyard.models.embedding import EmbeddingUsage, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.entities import AIModelEntity, ParameterRule
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMResultChunkDelta, LLMUsage
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
from modelyard.models.rerank import RerankRequest, RerankResult, ranked
from modelyard.models.types import JSON

_FINISH = {
    "stop": "stop", "end_turn": "stop", "stop_sequence": "stop", "length": "length", "max_tokens": "length",
    "tool_calls": "tool_calls", "tool_use": "tool_calls", "function_call": "tool_calls",
    "content_filter": "content_filter", "safety": "content_filter",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ models


def dump_entity(entity: AIModelEntity) -> JSON:
    """A model as plugins describe one."""
    pricing = entity.pricing
    return {
        "model": entity.model, "label": msgspec.to_builtins(entity.label), "model_type": entity.model_type.value,
        "features": [one.value for one in entity.features], "fetch_from": "predefined-model",
        "model_properties": {getattr(name, "value", name): value for name, value in entity.model_properties.items()},
        "parameter_rules": [msgspec.to_builtins(one) for one in entity.parameter_rules],
        "pricing": msgspec.to_builtins(pricing) if pricing is not None else None, "deprecated": False,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ chat, to the plugin


def dump_messages(messages: Sequence[AnyPromptMessage]) -> list[JSON]:
    return [_dump_message(message) for message in messages]


def _dump_message(message: AnyPromptMessage) -> JSON:
    document: JSON = {"role": message.role.value, "content": _dump_content(message), "name": message.name}
    if isinstance(message, AssistantPromptMessage):
        document["tool_calls"] = _dump_calls(message.tool_calls)
    if isinstance(message, ToolPromptMessage):
        document["tool_call_id"] = message.tool_call_id
    return document


def _dump_calls(calls: Sequence[ToolCall]) -> list[JSON]:
    return [
        {"id": one.id, "type": "function", "function": {"name": one.function.name, "arguments": one.function.arguments}}
        for one in calls
    ]


def _dump_content(message: AnyPromptMessage) -> Any:
    if not message.files or isinstance(message, ToolPromptMessage | SystemPromptMessage):
        return message.text
    return [one for part in message.parts if (one := _dump_part(part)) is not None]


def _dump_part(part: PromptMessageContent) -> JSON | None:
    """Thoughts and parts of one wire format alone are left out."""
    if isinstance(part, TextPromptMessageContent):
        return {"type": "text", "data": part.data}
    if not isinstance(part, MultiModalPromptMessageContent):
        return None
    mime = part.mime_type or f"{_KIND[type(part)]}/{part.format or 'octet-stream'}"
    document: JSON = {
        "type": _KIND[type(part)],
        "format": part.format or mime.partition("/")[2],
        "mime_type": mime,
        "base64_data": part.base64_data,
        "url": part.url,
        "filename": part.filename,
    }
    if isinstance(part, ImagePromptMessageContent):
        document["detail"] = "high" if part.detail == "high" else "low"
    return document


_KIND: Mapping[type[Any], str] = {
    ImagePromptMessageContent: "image", AudioPromptMessageContent: "audio", VideoPromptMessageContent: "video",
    DocumentPromptMessageContent: "document",
}  # fmt: skip
_PART = {word: kind for kind, word in _KIND.items()}


def dump_tools(tools: Sequence[PromptMessageTool]) -> list[JSON] | None:
    return [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        for tool in tools
        if tool.type == "function"
    ] or None


def dump_llm(request: LLMRequest, rules: Sequence[ParameterRule]) -> JSON:
    """The request's own fields; who is asked stands beside them."""
    return {
        "prompt_messages": dump_messages(request.messages),
        "model_parameters": _parameters(request.model_parameters, rules),
        "tools": dump_tools(request.tools),
        "stop": list(request.stop) or None,
        "stream": request.stream,
    }


def _parameters(given: Mapping[str, Any], rules: Sequence[ParameterRule]) -> JSON:
    """By the plugin's words. The form of an answer is a word there, and its schema a text beside it."""
    parameters = {name: value for name, value in given.items() if name != "response_format"}
    form = given.get("response_format")
    if not isinstance(form, dict):
        return parameters if form is None else {**parameters, "response_format": form}
    rule = next((one for one in rules if "response_format" in (one.name, one.use_template)), None)
    wanted = str(form.get("type", ""))
    options = rule.options if rule else [wanted]
    chosen = next((one for one in options if one.lower() in (wanted, wanted.removesuffix("_object"))), None)
    if chosen is not None and wanted != "text":
        parameters["response_format"] = chosen
    if wanted == "json_schema" and isinstance(schema := (form.get("json_schema") or {}).get("schema"), dict):
        parameters["json_schema"] = json.dumps(schema, ensure_ascii=False)
    return parameters


# ------------------------------------------------------------------------------------------------ chat, from the plugin


class ChunkReader:
    """A stream's chunks as ours: its calls told apart, its usage where it says it."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._calls: list[str] = []

    def read(self, data: Any) -> LLMResultChunk:
        """Raises InvokeServerUnavailableError for what is no chunk."""
        try:
            delta = data["delta"]
            message = delta.get("message") or {}
            usage = delta.get("usage")
            return LLMResultChunk(
                model=str(data.get("model") or self._model),
                system_fingerprint=data.get("system_fingerprint"),
                delta=LLMResultChunkDelta(
                    message=AssistantPromptMessage(
                        content=read_content(message.get("content")),
                        tool_calls=[self._call(one) for one in message.get("tool_calls") or ()],
                        reasoning_content=message.get("reasoning_content") or None,
                    ),
                    usage=read_usage(usage) if isinstance(usage, dict) else None,
                    finish_reason=_finish(delta.get("finish_reason")),
                ),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvokeServerUnavailableError(f"a chunk has another shape than it should: {error!r}") from error

    def _call(self, one: JSON) -> ToolCall:
        """A call that is named again goes on; one without a name is the last one's."""
        name = str(one.get("id") or "")
        if name and name not in self._calls:
            self._calls.append(name)
        index = self._calls.index(name) if name else max(0, len(self._calls) - 1)
        function = one.get("function") or {}
        return ToolCall(
            id=name,
            index=index,
            function=ToolCallFunction(name=function.get("name") or "", arguments=function.get("arguments") or ""),
        )


def _finish(word: Any) -> str | None:
    return _FINISH.get(str(word).lower(), "stop") if word else None


def read_content(content: Any) -> str | list[PromptMessageContent] | None:
    if content is None or isinstance(content, str):
        return content or None
    parts: list[PromptMessageContent] = []
    for place, one in enumerate(content):
        kind = one["type"]
        if kind == "text":
            parts.append(TextPromptMessageContent(data=one.get("data") or "", index=place))
            continue
        fields = {name: one.get(name) or "" for name in ("format", "mime_type", "base64_data", "url", "filename")}
        parts.append(_PART[kind](index=place, **fields))
    return parts


def read_usage(usage: JSON) -> LLMUsage:
    """Counts; and what it came to, where the plugin knows a price."""
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    price = _decimal(usage.get("total_price"))
    return LLMUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=_count(usage.get("total_tokens")) or prompt + completion,
        prompt_price=_decimal(usage.get("prompt_price")),
        completion_price=_decimal(usage.get("completion_price")),
        prompt_unit_price=_decimal(usage.get("prompt_unit_price")),
        prompt_price_unit=_decimal(usage.get("prompt_price_unit")),
        completion_unit_price=_decimal(usage.get("completion_unit_price")),
        completion_price_unit=_decimal(usage.get("completion_price_unit")),
        total_price=price or None,
        price_source="plugin" if price else "",
        currency=str(usage.get("currency") or "USD"),
    )


def _count(value: Any) -> int:
    """What a plugin counted; 0 where that can be no count."""
    try:
        return count(int(value or 0)) or 0
    except (OverflowError, TypeError, ValueError):
        return 0


def _decimal(value: Any) -> Decimal:
    try:
        found = Decimal(str(value or 0))
    except InvalidOperation:
        return Decimal(0)
    return found if found.is_finite() else Decimal(0)


def dump_usage(usage: LLMUsage) -> JSON:
    """Our usage in the plugins' words."""
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


# ---------------------------------------------------------------------------------------------- chat, asked by a plugin


def read_messages(documents: Iterable[Any]) -> list[AnyPromptMessage]:
    """What a plugin asks a model. Raises ValueError for a role that is none."""
    return [_read_message(one) for one in documents]


def _read_message(document: Any) -> AnyPromptMessage:
    role, content = document.get("role"), read_content(document.get("content"))
    name = document.get("name") or None
    match role:
        case "system" | "developer":
            return SystemPromptMessage(content=content, name=name)
        case "user":
            return UserPromptMessage(content=_unnumbered(content), name=name)
        case "assistant":
            calls = [
                ToolCall(
                    id=one.get("id") or "",
                    function=ToolCallFunction(
                        name=(one.get("function") or {}).get("name") or "",
                        arguments=(one.get("function") or {}).get("arguments") or "",
                    ),
                )
                for one in document.get("tool_calls") or ()
            ]
            return AssistantPromptMessage(content=_unnumbered(content), name=name, tool_calls=calls)
        case "tool":
            text = content if isinstance(content, str) else "".join(
                one.data for one in content or () if isinstance(one, TextPromptMessageContent)
            )  # fmt: skip
            return ToolPromptMessage(content=text, tool_call_id=document.get("tool_call_id") or "")
        case _:
            raise ValueError(f"a message has the role {role!r}; it must be system, user, assistant or tool")


def _unnumbered(content: str | list[PromptMessageContent] | None) -> str | list[PromptMessageContent] | None:
    if not isinstance(content, list):
        return content
    return [msgspec.structs.replace(one, index=None) for one in content]


def dump_chunk(chunk: LLMResultChunk, place: int) -> JSON:
    """Our chunk in the plugins' words."""
    delta = chunk.delta
    message = delta.message
    return {
        "model": chunk.model,
        "prompt_messages": [],
        "system_fingerprint": chunk.system_fingerprint,
        "delta": {
            "index": place,
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


# ------------------------------------------------------------------------------------------------ the other types


def dump_embedding(request: TextEmbeddingRequest) -> JSON:
    return {"texts": request.texts, "input_type": request.input_type.value}


def read_embedding(data: Any, request: TextEmbeddingRequest, model: str) -> TextEmbeddingResult:
    """Raises InvokeServerUnavailableError where texts and vectors do not match."""
    try:
        vectors = msgspec.convert(data["embeddings"], list[list[float]])
        usage = data.get("usage") or {}
        tokens = _count(usage.get("tokens")) or _count(usage.get("total_tokens"))
        price = _decimal(usage.get("total_price"))
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise InvokeServerUnavailableError(f"the answer holds no embeddings: {error!r}") from error
    if len(vectors) != len(request.texts):
        raise InvokeServerUnavailableError(f"{len(request.texts)} texts brought {len(vectors)} embeddings")
    stated = EmbeddingUsage(
        tokens=tokens, total_tokens=_count(usage.get("total_tokens")) or tokens, estimated=not tokens,
        total_price=price or None, price_source="plugin" if price else "", currency=str(usage.get("currency") or "USD"),
    )  # fmt: skip
    return TextEmbeddingResult(model=str(data.get("model") or model), embeddings=vectors, usage=stated)


def dump_embedding_result(result: TextEmbeddingResult) -> JSON:
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
    return {
        "query": request.query,
        "docs": request.docs,
        "score_threshold": request.score_threshold,
        "top_n": request.top_n,
    }


def read_rerank(data: Any, request: RerankRequest, model: str) -> RerankResult:
    try:
        pairs = [(one["index"], one["score"]) for one in data["docs"]]
    except (KeyError, TypeError) as error:
        raise InvokeServerUnavailableError(f"the answer holds no documents: {error!r}") from error
    return RerankResult(model=str(data.get("model") or model), docs=ranked(pairs, request))


def dump_rerank_result(result: RerankResult) -> JSON:
    docs = [{"index": one.index, "text": one.text, "score": one.score} for one in result.docs]
    return {"model": result.model, "docs": docs}
