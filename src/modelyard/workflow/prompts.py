"""Shared by nodes that call a model: settings, prompt messages, files and usage."""

import base64
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError
from modelyard.base.json_types import is_array, is_object
from modelyard.models.answer_formats import FORMAT, SCHEMA, AnswerFormats
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

_CONTENT_CLASSES: Mapping[str, type[MultiModalPromptMessageContent]] = {
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
# Parameters that are converted here instead of being sent as configured.
_CONVERTED_PARAMETERS = frozenset({"response_format", "json_schema", "stop"})


class ModelConfig(msgspec.Struct, kw_only=True):
    """Model of a node and its parameters."""

    provider: str = ""
    name: str = ""
    mode: str = "chat"
    completion_params: dict[str, Any] = {}


class VisionOptions(msgspec.Struct, kw_only=True):
    """Which files are sent with the prompt, and at which image detail."""

    variable_selector: list[str] = msgspec.field(
        default_factory=lambda: ["sys", "files"]
    )
    detail: str = "high"


class Vision(msgspec.Struct, kw_only=True):
    """Whether files are sent with the prompt."""

    enabled: bool = False
    configs: VisionOptions = msgspec.field(default_factory=VisionOptions)


class Window(msgspec.Struct, kw_only=True):
    """Maximum number of earlier turns in the prompt."""

    enabled: bool = False
    size: int | None = None


class RolePrefix(msgspec.Struct, kw_only=True):
    """Names of the speakers in the memory of a completion prompt."""

    user: str = ""
    assistant: str = ""


class MemoryConfig(msgspec.Struct, kw_only=True):
    """How earlier turns of the conversation are added to the prompt."""

    role_prefix: RolePrefix | None = None
    window: Window = msgspec.field(default_factory=Window)
    query_prompt_template: str = ""


MODEL_NOT_FOUND = "ModelNotExistError"
"""The error type of a node whose model does not exist here, as in Dify."""


class ModelError(NodeError):
    """A model call failed."""

    pass


def find_model(context: NodeContext, config: ModelConfig) -> Any:
    """Return the configured ModelInstance. Raises NodeError of the type
    MODEL_NOT_FOUND if it does not exist."""
    if context.services.models is None:
        raise NodeError("No models are available", error_type=MODEL_NOT_FOUND)
    try:
        return context.services.models.find(config.provider, config.name, "llm")
    # The type is what programs tell the error by, so all nodes have the same one.
    except NotFoundError as error:
        raise NodeError(str(error), error_type=MODEL_NOT_FOUND) from error


def features_of(model: Any) -> frozenset[ModelFeature] | None:
    """Return the features of a model; None if they are unknown."""
    return frozenset(model.schema.features) if model.schema is not None else None


def context_size(model: Any) -> int | None:
    """Return the model's context size in tokens; None if it is unknown."""
    if model.schema is None:
        # Runtime models may have an unknown context size.
        return None
    size = model.schema.model_properties.get(ModelPropertyKey.CONTEXT_SIZE)
    return int(size) if size else None


def parameters_of(
    config: ModelConfig, context: NodeContext
) -> tuple[dict[str, Any], list[str]]:
    """Return (parameters, stop words) with templates rendered."""
    parameters: dict[str, Any] = {}
    for name, value in config.completion_params.items():
        if value is None or name in _CONVERTED_PARAMETERS:
            continue
        # Only templates are rendered and converted.
        parameters[name] = (
            _render_parameter(value, context)
            if isinstance(value, str) and _PARAMETER.search(value)
            else value
        )
    if response_format := _response_format(config.completion_params):
        parameters["response_format"] = response_format
    stop = config.completion_params.get("stop") or list[Any]()
    return parameters, [
        str(stop_word) for stop_word in (stop if is_array(stop) else [stop])
    ]


def _response_format(completion_params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the format of the answer as the API expects it; None if it is text.

    Dify stores it as a plain text, and a schema as a second one; models without a
    choice of formats have only the schema. Raises InvokeBadRequestError for an invalid
    schema.
    """
    response_format = completion_params.get(FORMAT)
    schema = completion_params.get(SCHEMA)
    if response_format is None and schema:
        response_format = SCHEMA
    if is_object(response_format):
        return response_format
    # Other formats, such as XML, are options of single models.
    if str(response_format).lower() not in ("json", "json_object", SCHEMA):
        return None
    stated = AnswerFormats().normalize({FORMAT: response_format, SCHEMA: schema})
    return stated[FORMAT]


def _render_parameter(value: str, context: NodeContext) -> Any:
    """Return a rendered parameter; numbers and booleans get their type back."""
    # Parameters are short; the limit keeps a mistaken selector from sending a document.
    text = render(value, context.pool)[:1024]
    try:
        parsed = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return parsed if isinstance(parsed, int | float | bool) else text


# -------------------------------------------------------------------------------- files


async def content_of(
    file: File, context: NodeContext, detail: str = "high"
) -> PromptMessageContent:
    """Return a file as message content: its bytes if they can be read, else its URL."""
    # Unknown file types are sent as documents.
    content_class = _CONTENT_CLASSES.get(file.type, DocumentPromptMessageContent)
    image_options: dict[str, Any] = (
        {"detail": detail} if content_class is ImagePromptMessageContent else {}
    )
    file_fields = {
        "format": file.extension.lstrip("."),
        "mime_type": file.mime_type,
        "filename": file.filename,
    }
    # Without a file store the model gets the URL and fetches the file itself.
    if context.services.files is None:
        return content_class(**file_fields, url=file.address, **image_options)  # type: ignore[return-value]
    data = await context.services.files.read(file)
    return content_class(
        **file_fields,
        base64_data=base64.b64encode(data).decode("ascii"),
        **image_options,
    )  # type: ignore[return-value]


def files_in(value: Any) -> list[File]:
    """Return the files in a value: a file, or a list of values."""
    values = value if is_array(value) else [value]
    return [file for file in values if isinstance(file, File)]


def supported(
    parts: Sequence[PromptMessageContent], model: Any
) -> list[PromptMessageContent]:
    """Return the parts that the model can process; all of them if its features are
    unknown."""
    features = features_of(model)
    # An unknown model is assumed to support everything.
    if features is None:
        return list(parts)
    return [
        part
        for part in parts
        if not isinstance(part, MultiModalPromptMessageContent)
        or next(
            feature
            for file_type, feature in _FEATURES.items()
            if isinstance(part, _CONTENT_CLASSES[file_type])
        )
        in features
    ]


# ----------------------------------------------------------------------------- messages


def message_of(
    role: str, content: str | list[PromptMessageContent]
) -> AnyPromptMessage:
    """Return a message with the given role; unknown roles become `user`."""
    match role:
        case "system":
            return SystemPromptMessage(content=content)
        case "assistant":
            return AssistantPromptMessage(content=content)
        case _:
            return UserPromptMessage(content=content)


def prepare_messages(
    messages: Sequence[AnyPromptMessage], model: Any
) -> list[AnyPromptMessage]:
    """Return messages that the model accepts: no unsupported or empty parts, a single
    text as plain text."""
    result: list[AnyPromptMessage] = []
    for message in messages:
        # The order matters: removing unsupported parts may leave a message empty.
        parts = supported(message.parts, model)
        parts = [
            part
            for part in parts
            if not (isinstance(part, TextPromptMessageContent) and not part.data)
        ]
        if not parts:
            continue
        # Some models accept only plain text as content.
        first_part = parts[0]
        content = (
            first_part.data
            if len(parts) == 1 and isinstance(first_part, TextPromptMessageContent)
            else parts
        )
        result.append(msgspec.structs.replace(message, content=content))
    return result


def with_files(
    messages: list[AnyPromptMessage], parts: Sequence[PromptMessageContent]
) -> list[AnyPromptMessage]:
    """Add the files before the text of the last user message, or as a user message of
    their own."""
    if not parts:
        return messages
    # The question is the last message, if it comes from the user.
    if messages and isinstance(messages[-1], UserPromptMessage):
        last = messages[-1]
        return [
            *messages[:-1],
            msgspec.structs.replace(last, content=[*parts, *last.parts]),
        ]
    return [*messages, UserPromptMessage(content=[*parts])]


# -------------------------------------------------------------------------------- calls


async def streamed(
    model: Any, request: LLMRequest
) -> AsyncGenerator[LLMResultChunk, None]:
    """Yield the chunks of a model's answer; closing the generator cancels the call."""
    async with aclosing(model.stream_llm(request)) as chunks:
        async for chunk in chunks:
            yield chunk


def dump_usage(usage: LLMUsage) -> dict[str, Any]:
    """Return the usage as nodes output it: prices as decimal texts."""

    def price(value: Decimal | None) -> str:
        """Return a price in plain decimal notation."""
        # Without an exponent: nodes read these texts as decimal numbers.
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
    """Return the usage fields of a node's metadata."""
    dumped = dump_usage(usage)
    return {name: dumped[name] for name in ("total_tokens", "total_price", "currency")}


def dump_prompts(messages: Sequence[AnyPromptMessage]) -> list[dict[str, Any]]:
    """Return the prompts for the log: file names, with the file contents shortened."""
    return [_dump_prompt(message) for message in messages]


def _dump_prompt(message: AnyPromptMessage) -> dict[str, Any]:
    """Return one prompt for the log."""
    files = [_dump_file(part) for part in message.files]
    return {"role": message.role.value, "text": message.text, "files": files}


def _dump_file(part: Any) -> dict[str, Any]:
    """Return a file of a prompt for the log."""
    # A short prefix of the data identifies the file in the log.
    data = f"{part.base64_data[:24]}…" if part.base64_data else ""
    return {
        "type": type(part).__name__.partition("Prompt")[0].lower(),
        "url": part.url,
        "base64_data": data,
        "mime_type": part.mime_type,
        "filename": part.filename,
    }
