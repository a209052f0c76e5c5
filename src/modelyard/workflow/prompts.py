"""What nodes that ask a model share: their settings, prompts from templates, files, usage."""

import base64
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.models.entities import ModelFeature, ModelPropertyKey
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMUsage
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    AudioPromptMessageContent,
    DocumentPromptMessageContent,
    ImagePromptMessageContent,
    MultiModalPromptMessageContent,
    PromptMessageContent,
    SystemPromptMessage,
    TextPromptMessageContent,
    UserPromptMessage,
    VideoPromptMessageContent,
)
from modelyard.workflow.node import NodeContext, NodeError
from modelyard.workflow.template import render
from modelyard.workflow.variables import File

_KINDS: Mapping[str, type[MultiModalPromptMessageContent]] = {
    "image": ImagePromptMessageContent,
    "audio": AudioPromptMessageContent,
    "video": VideoPromptMessageContent,
    "document": DocumentPromptMessageContent,
}
_FEATURES = {
    "image": ModelFeature.VISION,
    "audio": ModelFeature.AUDIO,
    "video": ModelFeature.VIDEO,
    "document": ModelFeature.DOCUMENT,
}
_PARAMETER = re.compile(r"\{\{#")
_OURS = frozenset({"response_format", "json_schema", "stop"})


class ModelConfig(msgspec.Struct, kw_only=True):
    provider: str = ""
    name: str = ""
    mode: str = "chat"
    completion_params: dict[str, Any] = {}


class VisionOptions(msgspec.Struct, kw_only=True):
    variable_selector: list[str] = msgspec.field(default_factory=lambda: ["sys", "files"])
    detail: str = "high"


class Vision(msgspec.Struct, kw_only=True):
    enabled: bool = False
    configs: VisionOptions = msgspec.field(default_factory=VisionOptions)


class Window(msgspec.Struct, kw_only=True):
    enabled: bool = False
    size: int | None = None


class RolePrefix(msgspec.Struct, kw_only=True):
    user: str = ""
    assistant: str = ""


class MemoryConfig(msgspec.Struct, kw_only=True):
    role_prefix: RolePrefix | None = None
    window: Window = msgspec.field(default_factory=Window)
    query_prompt_template: str = ""


class ModelError(NodeError):
    pass


def find_model(context: NodeContext, config: ModelConfig) -> Any:
    """The ModelInstance. Raises NodeError, ModelyardError."""
    if context.services.models is None:
        raise NodeError("there are no models to ask", kind="ModelNotExistError")
    return context.services.models.find(config.provider, config.name, "llm")


def features_of(model: Any) -> frozenset[ModelFeature] | None:
    """What it can do; None where nobody knows."""
    return frozenset(model.schema.features) if model.schema is not None else None


def context_size(model: Any) -> int | None:
    if model.schema is None:
        return None
    size = model.schema.model_properties.get(ModelPropertyKey.CONTEXT_SIZE)
    return int(size) if size else None


def parameters_of(config: ModelConfig, context: NodeContext) -> tuple[dict[str, Any], list[str]]:
    """(parameters, stop words): templates in them are filled in."""
    parameters: dict[str, Any] = {}
    for name, value in config.completion_params.items():
        if value is None or name in _OURS:
            continue
        parameters[name] = _filled(value, context) if isinstance(value, str) and _PARAMETER.search(value) else value
    given = config.completion_params.get("response_format")
    if isinstance(given, str) and given.lower() in ("json", "json_object"):
        parameters["response_format"] = {"type": "json_object"}
    stop = config.completion_params.get("stop") or []
    return parameters, [str(one) for one in (stop if isinstance(stop, list) else [stop])]


def _filled(value: str, context: NodeContext) -> Any:
    text = render(value, context.pool)[:1024]
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return found if isinstance(found, int | float | bool) else text


# ---------------------------------------------------------------------------------------------- files


async def content_of(file: File, context: NodeContext, detail: str = "high") -> PromptMessageContent:
    """A file as a part of a message: its bytes where they can be had, else its address."""
    kind = _KINDS.get(file.type, DocumentPromptMessageContent)
    more: dict[str, Any] = {"detail": detail} if kind is ImagePromptMessageContent else {}
    about = {"format": file.extension.lstrip("."), "mime_type": file.mime_type, "filename": file.filename}
    if context.services.files is None:
        return kind(**about, url=file.address, **more)  # type: ignore[return-value]
    data = await context.services.files.read(file)
    return kind(**about, base64_data=base64.b64encode(data).decode("ascii"), **more)  # type: ignore[return-value]


def files_in(value: Any) -> list[File]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, File)]


def supported(parts: Sequence[PromptMessageContent], model: Any) -> list[PromptMessageContent]:
    """Without what the model cannot read."""
    features = features_of(model)
    if features is None:
        return list(parts)
    return [
        one for one in parts
        if not isinstance(one, MultiModalPromptMessageContent)
        or next(feature for kind, feature in _FEATURES.items() if isinstance(one, _KINDS[kind])) in features
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------- messages


def message_of(role: str, content: str | list[PromptMessageContent]) -> AnyPromptMessage:
    match role:
        case "system":
            return SystemPromptMessage(content=content)
        case "assistant":
            return AssistantPromptMessage(content=content)
        case _:
            return UserPromptMessage(content=content)


def settled(messages: Sequence[AnyPromptMessage], model: Any) -> list[AnyPromptMessage]:
    """Messages as they are sent: nothing that the model cannot read, nothing empty, single texts as texts."""
    result: list[AnyPromptMessage] = []
    for message in messages:
        parts = supported(message.parts, model)
        parts = [one for one in parts if not (isinstance(one, TextPromptMessageContent) and not one.data)]
        if not parts:
            continue
        only = parts[0]
        content = only.data if len(parts) == 1 and isinstance(only, TextPromptMessageContent) else parts
        result.append(msgspec.structs.replace(message, content=content))
    return result


def with_files(messages: list[AnyPromptMessage], parts: Sequence[PromptMessageContent]) -> list[AnyPromptMessage]:
    """Files stand before the text of the last question; where there is none they are one."""
    if not parts:
        return messages
    if messages and isinstance(messages[-1], UserPromptMessage):
        last = messages[-1]
        return [*messages[:-1], msgspec.structs.replace(last, content=[*parts, *last.parts])]
    return [*messages, UserPromptMessage(content=[*parts])]


# ---------------------------------------------------------------------------------------------- calls


async def streamed(model: Any, request: LLMRequest) -> AsyncGenerator[LLMResultChunk, None]:
    async with aclosing(model.stream_llm(request)) as chunks:
        async for chunk in chunks:
            yield chunk


def dump_usage(usage: LLMUsage) -> dict[str, Any]:
    """As nodes give it on."""

    def price(value: Decimal | None) -> str:
        return format(value or Decimal(0), "f")

    return {
        "prompt_tokens": usage.prompt_tokens,
        "prompt_unit_price": price(usage.prompt_unit_price),
        "prompt_price_unit": price(usage.prompt_price_unit),
        "prompt_price": price(usage.prompt_price),
        "completion_tokens": usage.completion_tokens,
        "completion_unit_price": price(usage.completion_unit_price),
        "completion_price_unit": price(usage.completion_price_unit),
        "completion_price": price(usage.completion_price),
        "total_tokens": usage.total_tokens,
        "total_price": price(usage.total_price),
        "currency": usage.currency or "USD",
        "latency": usage.latency,
        "time_to_first_token": usage.time_to_first_token,
        "time_to_generate": usage.time_to_generate,
    }


def metadata_of(usage: LLMUsage) -> dict[str, Any]:
    dumped = dump_usage(usage)
    return {name: dumped[name] for name in ("total_tokens", "total_price", "currency")}


def dump_prompts(messages: Sequence[AnyPromptMessage]) -> list[dict[str, Any]]:
    """Prompts as they were sent, for people: files are named, their bytes cut."""
    return [
        {"role": one.role.value, "text": one.text, "files": [_dump_file(part) for part in one.files]}
        for one in messages
    ]


def _dump_file(part: Any) -> dict[str, Any]:
    data = f"{part.base64_data[:24]}…" if part.base64_data else ""
    return {"type": type(part).__name__.partition("Prompt")[0].lower(), "url": part.url, "base64_data": data,
            "mime_type": part.mime_type, "filename": part.filename}  # fmt: skip
