"""The AWS Bedrock Converse format and its stream, to and from the internal types. No
I/O. https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html

An event is an object with one field, named after the event: `{"contentBlockDelta":
{…}}`. Their binary framing is in `transport/aws_events.py`.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from modelyard.base.call_headers import CallHeaders
from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeError,
    InvokeServerUnavailableError,
)
from modelyard.base.fields import (
    count,
    expect_type,
    in_range,
    invalid_field,
    nested_count,
    optional_field,
    passthrough_fields,
    required_field,
    tier_name,
    tools_of,
    unknown_fields,
    without_empty,
)
from modelyard.base.provider_errors import provider_error
from modelyard.base.reader_errors import reads_answer, reads_request
from modelyard.models.arguments import as_object, as_text
from modelyard.models.call_indexes import CallIndexes
from modelyard.models.capabilities import Capabilities
from modelyard.models.citations import covering
from modelyard.models.llm import (
    LLMChoice,
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.media import (
    checked_base64,
    checked_image,
    format_of,
    mime_type_of,
)
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    AudioPromptMessageContent,
    Citation,
    DocumentPromptMessageContent,
    FilePromptMessageContent,
    ImagePromptMessageContent,
    MultiModalPromptMessageContent,
    OpaquePromptMessageContent,
    PromptMessageContent,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
    VideoPromptMessageContent,
    assistant_of,
    simplified_content,
)
from modelyard.models.reasoning import budget_of
from modelyard.models.streams import parse_events
from modelyard.models.types import JSON
from modelyard.models.vendor_headers import BETA_FIELDS, fields_without_beta

FORMAT = "bedrock"

# Fields that are converted; all others are preserved as extra fields.
_KNOWN_FIELDS = frozenset(
    {
        "messages",
        "system",
        "inferenceConfig",
        "toolConfig",
        "modelId",
        "model",
        "stream",
        "outputConfig",
        "additionalModelRequestFields",
        "serviceTier",
        "requestMetadata",
    }
)
# Internal parameters that this format can express.
PARAMETERS = {"stop"} | frozenset(
    {
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "thinking_budget",
        "reasoning_effort",
        "include_thoughts",
        "response_format",
        "service_tier",
        "metadata",
    }
)
# Beta names that Converse accepts for Claude: those that AWS documents
# (model-parameters-anthropic-claude-messages-request-response), without those that
# users of Converse report as refused (BerriAI/litellm
# anthropic_beta_headers_config.json), such as context-management.
_ACCEPTED_BETAS = frozenset(
    {
        "computer-use-2024-10-22",
        "computer-use-2025-01-24",
        "computer-use-2025-11-24",
        "context-1m-2025-08-07",
        "dev-full-thinking-2025-05-14",
        "effort-2025-11-24",
        "fine-grained-tool-streaming-2025-05-14",
        "interleaved-thinking-2025-05-14",
        "output-128k-2025-02-19",
        "token-efficient-tools-2025-02-19",
    }
)
# What Bedrock refuses in the name of a document.
_INVALID_IN_NAME = re.compile(r"[^A-Za-z0-9\s()\[\]-]")
_MAX_NAME_CHARS = 200
# Anthropic's cache marker, to which a cache point is converted.
_CACHE = {"type": "ephemeral"}
_FILES: dict[str, type[FilePromptMessageContent]] = {
    "image": ImagePromptMessageContent,
    "document": DocumentPromptMessageContent,
    "video": VideoPromptMessageContent,
    "audio": AudioPromptMessageContent,
}


# ----------------------------------------------------------------------------- requests


@reads_request
def parse_request(body: JSON, *, stream: bool = False) -> LLMRequest:
    """Parse the body of a Converse or ConverseStream request from a client.

    `stream` is an argument because the URL determines it. Fields without an internal
    name are stored in `extra`, so that `dump_request` writes them again. Raises
    InvokeBadRequestError, which names the field where it was checked.
    """
    turns = required_field(body, "messages", list)
    if not turns:
        raise InvokeBadRequestError(
            "'messages' must contain at least one message", param="messages"
        )
    messages: list[AnyPromptMessage] = []
    if system := optional_field(body, "system", list):
        messages.append(
            SystemPromptMessage(
                content=simplified_content(_parse_blocks(system, "system"))
            )
        )
    # Tool calls so far, since a tool result must refer to one of them.
    call_ids: set[str] = set()
    for index, turn in enumerate(turns):
        messages += _parse_turn(
            expect_type(turn, dict, f"messages[{index}]"),
            f"messages[{index}]",
            call_ids,
        )
    config = optional_field(body, "inferenceConfig", dict) or {}
    parameters = _parse_inference_config(config)
    if (response_format := _parse_output_config(body)) is not None:
        parameters["response_format"] = response_format
    tier = optional_field(body, "serviceTier", dict) or {}
    if isinstance(tier_type := tier.get("type"), str):
        parameters["service_tier"] = tier_type
    if (metadata := optional_field(body, "requestMetadata", dict)) is not None:
        parameters["metadata"] = metadata
    model_fields = _parse_model_fields(body, parameters)
    tools = optional_field(body, "toolConfig", dict) or {}
    return LLMRequest(
        format=FORMAT,
        messages=messages,
        model_parameters=parameters,
        tools=list(_parse_tools(tools_of(tools, where="toolConfig."))),
        tool_choice=_parse_tool_choice(tools.get("toolChoice")),
        stop=optional_field(config, "stopSequences", list, "inferenceConfig.") or [],
        stream=stream,
        extra=passthrough_fields(
            FORMAT,
            unknown_fields(body, _KNOWN_FIELDS)
            | ({"additionalModelRequestFields": model_fields} if model_fields else {}),
        ),
    )


def _parse_inference_config(config: JSON) -> dict[str, Any]:
    """Return the parameters in Converse's `inferenceConfig`, by their internal names.

    `stopSequences` is read by the caller. Raises InvokeBadRequestError if a value has
    another type, or is out of range (0 to 1 for `temperature` and `topP`).
    """
    parameters: dict[str, Any] = {}
    for wire_name, parameter_name, expected_type, high in (
        ("maxTokens", "max_tokens", int, 1 << 31),
        ("temperature", "temperature", float, 1),
        ("topP", "top_p", float, 1),
    ):
        value = optional_field(config, wire_name, expected_type, "inferenceConfig.")
        if value is not None:
            in_range(config[wire_name], 0, high, f"inferenceConfig.{wire_name}")
            # The original value, so that an integer is not rewritten as a float.
            parameters[parameter_name] = config[wire_name]
    return parameters


def _parse_output_config(body: JSON) -> JSON | None:
    """Return the response format of `outputConfig.textFormat`, or None without one.

    The schema, which Bedrock sends as JSON text, is decoded. A `structure` that has no
    `jsonSchema` with a `schema` raises KeyError, which `parse_request` reports as a bad
    request.
    """
    config = optional_field(body, "outputConfig", dict) or {}
    structure = (config.get("textFormat") or {}).get("structure")
    if not structure:
        return None
    schema = structure["jsonSchema"]
    # Bedrock sends the schema as JSON text.
    inner = {
        **unknown_fields(schema, frozenset({"schema"})),
        "schema": as_object(schema["schema"]),
    }
    return {"type": "json_schema", "json_schema": {"name": "answer", **inner}}


def _parse_model_fields(body: JSON, parameters: dict[str, Any]) -> JSON:
    """Store the fields of the model's vendor that have a counterpart in `parameters`;
    return the remaining ones."""
    where = "additionalModelRequestFields."
    # A copy, since converted fields are removed from it.
    model_fields = dict(
        optional_field(body, "additionalModelRequestFields", dict) or {}
    )
    if (top_k := optional_field(model_fields, "top_k", int, where)) is not None:
        parameters["top_k"] = model_fields.pop("top_k")
        in_range(top_k, 0, 1 << 31, f"{where}top_k")
    return model_fields


def _parse_tools(tools: Iterable[Any]) -> Iterator[PromptMessageTool]:
    """Yield the tools of `toolConfig.tools`.

    A `cachePoint` sets the cache marker of the tool before it. An entry without
    `toolSpec` is stored whole in `extra`, and its first key is the tool's type. Raises
    InvokeBadRequestError if an entry is invalid.
    """
    parsed_tools: list[PromptMessageTool] = []
    for index, raw_tool in enumerate(tools):
        where = f"toolConfig.tools[{index}]"
        body = expect_type(raw_tool, dict, where)
        if "cachePoint" in body and parsed_tools:
            # A cache point follows the tool that it marks.
            parsed_tools[-1] = msgspec.structs.replace(
                parsed_tools[-1], cache_control=_CACHE
            )
            continue
        # Tools of other kinds are preserved unchanged.
        if "toolSpec" not in body:
            tool_type = next(iter(body), "tool")
            parsed_tools.append(
                PromptMessageTool(name=tool_type, type=tool_type, extra={FORMAT: body})
            )
            continue
        spec = required_field(body, "toolSpec", dict, f"{where}.")
        tool = PromptMessageTool(
            name=required_field(spec, "name", str, f"{where}.toolSpec."),
            description=optional_field(spec, "description", str, f"{where}.toolSpec.")
            or "",
            parameters=(
                optional_field(spec, "inputSchema", dict, f"{where}.toolSpec.") or {}
            ).get("json")
            or {},
            strict=optional_field(spec, "strict", bool, f"{where}.toolSpec."),
        )
        parsed_tools.append(tool)
    yield from parsed_tools


def _parse_tool_choice(choice: Any) -> str | dict[str, Any] | None:
    """Return the internal form of `toolConfig.toolChoice`, or None if it is absent.

    `any` becomes `required`, and `tool` an object with the name. Raises
    InvokeBadRequestError for any other value.
    """
    match choice:
        case None:
            return None
        case {"auto": _}:
            return "auto"
        case {"any": _}:
            return "required"
        case {"tool": {"name": str() as name}}:
            return {"name": name}
        case other:
            raise invalid_field(
                "toolConfig.toolChoice", other, "an object with auto, any or tool"
            )


# Roles whose message can be built from a text alone.
_TEXT_MESSAGE_CLASSES: dict[
    str, type[UserPromptMessage] | type[AssistantPromptMessage]
] = {"user": UserPromptMessage, "assistant": AssistantPromptMessage}


def _parse_turn(
    turn: JSON, where: str, call_ids: set[str]
) -> Iterator[AnyPromptMessage]:
    """Yield the messages of one turn: internally, tool results are separate messages."""
    role = turn.get("role")
    blocks = required_field(turn, "content", list, f"{where}.")
    # Most turns are a single plain text.
    if (text := _only_text(blocks)) and role in ("user", "assistant"):
        yield _TEXT_MESSAGE_CLASSES[role](content=text)
    elif role == "assistant":
        parsed = _parse_answer(blocks, f"{where}.content", "")
        # Recorded before the next turn, whose tool results refer to these calls.
        call_ids |= {block.id for block in parsed if isinstance(block, ToolCall)}
        yield assistant_of(parsed)
    elif role == "user":
        yield from _parse_user_turn(blocks, f"{where}.content", call_ids)
    else:
        raise invalid_field(f"{where}.role", role, "user or assistant")


def _parse_user_turn(
    blocks: list[Any], where: str, call_ids: set[str]
) -> Iterator[AnyPromptMessage]:
    """Yield the messages of a user turn in order, split at its `toolResult` blocks.

    Each tool result is a message of its own; the blocks between two of them form one
    user message. `where` is the path of the content. Raises InvokeBadRequestError for
    an invalid block, or a result whose call is not in `call_ids`.
    """
    waiting: list[Any] = []
    for index, block in enumerate(blocks):
        if "toolResult" not in expect_type(block, dict, f"{where}[{index}]"):
            waiting.append(block)
            continue
        # Parts before a tool result form a message of their own, so that the order is
        # preserved.
        if waiting:
            yield UserPromptMessage(
                content=simplified_content(_parse_blocks(waiting, where))
            )
            waiting = []
        yield _parse_tool_result(
            block["toolResult"], f"{where}[{index}].toolResult", call_ids
        )
    if waiting:
        yield UserPromptMessage(
            content=simplified_content(_parse_blocks(waiting, where))
        )


def _only_text(blocks: list[Any]) -> str | None:
    """Return the text of a turn that is a single plain text, otherwise None."""
    first = blocks[0] if len(blocks) == 1 else None
    if not isinstance(first, dict) or first.keys() != {"text"}:
        return None
    text = first["text"]
    return text if isinstance(text, str) else None


def _parse_tool_result(body: Any, where: str, call_ids: set[str]) -> ToolPromptMessage:
    """Parse the object of a `toolResult` block into a tool message.

    The content is None if it is empty; the status `error` marks a failed call. Raises
    InvokeBadRequestError if `toolUseId` is missing or not in `call_ids`, the ids of the
    calls in earlier assistant turns.
    """
    result = expect_type(body, dict, where)
    call = required_field(result, "toolUseId", str, f"{where}.")
    # Bedrock rejects such requests; checking here gives a clearer error than another
    # provider would.
    if call not in call_ids:
        raise invalid_field(
            f"{where}.toolUseId",
            call,
            "the id of a toolUse in an earlier assistant message",
        )
    content = simplified_content(
        _parse_blocks(
            optional_field(result, "content", list, f"{where}.") or [],
            f"{where}.content",
        )
    )
    is_error = result.get("status") == "error"
    return ToolPromptMessage(content=content, tool_call_id=call, is_error=is_error)


def _parse_blocks(blocks: Iterable[Any], where: str) -> list[PromptMessageContent]:
    """Parse content blocks into parts.

    A `cachePoint` sets the cache marker of the part before it and keeps its further
    fields; one without a part before it becomes an opaque part. Raises
    InvokeBadRequestError if a block is not an object or is invalid.
    """
    parts: list[PromptMessageContent] = []
    for index, block in enumerate(blocks):
        body = expect_type(block, dict, f"{where}[{index}]")
        # A cache point follows the block that it marks.
        if "cachePoint" in body and parts:
            cache_fields = unknown_fields(body["cachePoint"], frozenset({"type"}))
            parts[-1] = msgspec.structs.replace(
                parts[-1], cache_control={**_CACHE, **cache_fields}
            )
        else:
            parts.append(_parse_block(body, f"{where}[{index}]"))
    return parts


def _parse_block(block: JSON, where: str) -> PromptMessageContent:
    """Parse a content block: text, JSON of a tool result, or a file.

    Other block types become an opaque part. A file by an S3 location has its URI as
    `url`; any other source without bytes is stored in `extra`. Raises
    InvokeBadRequestError if a field has another type, `source` is missing, or the bytes
    are not base64 or not an image in an `image` block.
    """
    if "text" in block:
        return TextPromptMessageContent(
            data=expect_type(block["text"], str, f"{where}.text")
        )
    if "json" in block:
        # Tool results may be JSON objects; the marker restores that notation.
        return TextPromptMessageContent(
            data=as_text(block["json"]), extra={FORMAT: {"json": True}}
        )
    file_type = next((name for name in _FILES if name in block), None)
    if file_type is None:
        # Unknown block types are preserved for this format and omitted for others.
        return OpaquePromptMessageContent(format=FORMAT, data=block)
    file = expect_type(block[file_type], dict, f"{where}.{file_type}")
    file_format = optional_field(file, "format", str, f"{where}.{file_type}.") or ""
    source = required_field(file, "source", dict, f"{where}.{file_type}.")
    extra_fields = unknown_fields(file, frozenset({"format", "source", "name"}))
    fields: JSON = {
        "format": file_format,
        "mime_type": mime_type_of(file_format, file_type),
        "filename": file.get("name") or "",
    }
    if isinstance(data := source.get("bytes"), str):
        # Images are verified by their first bytes, since providers fail late on invalid
        # ones.
        check = checked_image if file_type == "image" else checked_base64
        return _FILES[file_type](
            base64_data=check(data, f"{where}.{file_type}.source.bytes"),
            **fields,
            extra=passthrough_fields(FORMAT, extra_fields),
        )
    address = (source.get("s3Location") or {}).get("uri") or ""
    # Other sources are preserved unchanged, but only this format can use them.
    format_fields = extra_fields if address else {**extra_fields, "source": source}
    return _FILES[file_type](
        url=address, **fields, extra=passthrough_fields(FORMAT, format_fields)
    )


def _parse_answer(
    blocks: Iterable[Any], where: str, origin: str
) -> list[PromptMessageContent | ToolCall]:
    """Parse the blocks of an assistant turn."""
    result: list[PromptMessageContent | ToolCall] = []
    for index, block in enumerate(blocks):
        block_path = f"{where}[{index}]"
        body = expect_type(block, dict, block_path)
        # Server tools are executed by the provider, so they are not calls for the
        # client.
        if "toolUse" in body and body["toolUse"].get("type") != "server_tool_use":
            used = expect_type(body["toolUse"], dict, f"{block_path}.toolUse")
            extra_fields = unknown_fields(
                used, frozenset({"toolUseId", "name", "input"})
            )
            function = ToolCallFunction(
                name=required_field(used, "name", str, f"{block_path}.toolUse."),
                arguments=as_text(used.get("input")),
            )
            result.append(
                ToolCall(
                    id=used.get("toolUseId") or "",
                    function=function,
                    extra=passthrough_fields(FORMAT, extra_fields),
                )
            )
        elif "reasoningContent" in body:
            result.append(
                _parse_thought(
                    expect_type(body["reasoningContent"], dict, block_path), origin
                )
            )
        elif "citationsContent" in body:
            result.append(_parse_cited(body["citationsContent"]))
        elif "cachePoint" in body and result and not isinstance(result[-1], ToolCall):
            # Tool calls cannot have a cache marker in this format.
            result[-1] = msgspec.structs.replace(result[-1], cache_control=_CACHE)
        else:
            result.append(_parse_block(body, block_path))
    return result


def _parse_thought(body: JSON, origin: str) -> ThinkingPromptMessageContent:
    """Parse the object of a `reasoningContent` block.

    The signature of a `redactedContent` part is the encrypted reasoning itself.
    `origin` is the format that issued the signature, empty for a request.
    """
    if "redactedContent" in body:
        # Encrypted reasoning, which only the provider can read.
        return ThinkingPromptMessageContent(
            signature=body["redactedContent"] or "", redacted=True, origin=origin
        )
    reasoning = body.get("reasoningText") or {}
    return ThinkingPromptMessageContent(
        data=reasoning.get("text") or "",
        signature=reasoning.get("signature") or "",
        origin=origin,
    )


def _parse_cited(body: JSON) -> TextPromptMessageContent:
    """Parse the object of `citationsContent`: its joined text with citations."""
    text = "".join(fragment.get("text") or "" for fragment in body.get("content") or ())
    citations = [_parse_citation(citation) for citation in body.get("citations") or ()]
    # In this format, a source stands for its whole text.
    return TextPromptMessageContent(data=text, citations=covering(citations, len(text)))


def _parse_citation(citation: JSON) -> Citation:
    """Parse an entry of the `citations` of an answer.

    The quote joins the texts in `sourceContent`; the URL is empty unless the location
    is a web page. The original is stored in `extra`.
    """
    quote = "".join(
        part.get("text") or "" for part in citation.get("sourceContent") or ()
    )
    url = ((citation.get("location") or {}).get("web") or {}).get("url") or ""
    return Citation(
        url=url,
        title=citation.get("title") or "",
        quote=quote,
        extra={FORMAT: citation},
    )


def dump_request(request: LLMRequest, model: str, capabilities: Capabilities) -> JSON:
    """Convert a request to the body of Converse; the model is part of the URL.

    `model` only selects how the vendor's reasoning fields are written.
    `capabilities.drop` lists fields of `inferenceConfig` to omit. Raises
    InvokeBadRequestError for a hosted tool or a file that Bedrock cannot use.
    """
    parameters = request.model_parameters
    system, turns = _dump_messages(request.messages)
    body: JSON = {"messages": turns}
    if system:
        body["system"] = system
    if config := _dump_inference_config(request, capabilities):
        body["inferenceConfig"] = config
    if tools := _dump_tools(request):
        body["toolConfig"] = tools
    response_format = parameters.get("response_format")
    if response_format and response_format.get("type") == "json_schema":
        body["outputConfig"] = {
            "textFormat": _dump_format(response_format["json_schema"])
        }
    if tier := parameters.get("service_tier"):
        body["serviceTier"] = {"type": tier}
    if metadata := parameters.get("metadata"):
        body["requestMetadata"] = metadata
    model_fields = _dump_model_fields(parameters, model)
    model_fields |= _dump_beta_fields(request, model)
    if model_fields:
        body["additionalModelRequestFields"] = model_fields
    for name, value in request.extra.get(FORMAT, {}).items():
        # Options restored from the caller's request are merged with those set above and
        # take precedence.
        is_merged = isinstance(value, dict) and isinstance(body.get(name), dict)
        body[name] = {**body[name], **value} if is_merged else value
    return body


def _dump_inference_config(request: LLMRequest, capabilities: Capabilities) -> JSON:
    """Return `inferenceConfig` without the fields in `capabilities.drop`."""
    parameters = request.model_parameters
    config: JSON = {}
    for parameter_name, wire_name in (
        ("max_tokens", "maxTokens"),
        ("temperature", "temperature"),
        ("top_p", "topP"),
    ):
        if parameter_name in parameters:
            config[wire_name] = parameters[parameter_name]
    if request.stop:
        config["stopSequences"] = request.stop
    for name in capabilities.drop:
        config.pop(name, None)
    return config


def _dump_format(json_schema: JSON) -> JSON:
    """Return `outputConfig.textFormat` for a JSON schema.

    The schema is written as JSON text, as Bedrock requires. A missing name becomes
    `answer`. Raises KeyError if there is no `schema`.
    """
    schema = {
        "name": json_schema.get("name") or "answer",
        **without_empty(description=json_schema.get("description")),
    }
    return {
        "type": "json_schema",
        "structure": {
            "jsonSchema": {**schema, "schema": as_text(json_schema["schema"])}
        },
    }


def _dump_model_fields(parameters: Mapping[str, Any], model: str) -> JSON:
    """Return the parameters without a Converse field, in the notation of the model's
    vendor."""
    model_fields: JSON = {}
    if "top_k" in parameters:
        model_fields["top_k"] = parameters["top_k"]
    effort = parameters.get("reasoning_effort")
    budget = parameters.get("thinking_budget")
    if effort is None and budget is None:
        return model_fields
    # Vendors other than Anthropic take the effort level itself.
    if "anthropic" not in model:
        return model_fields | ({"reasoning_effort": effort} if effort else {})
    if budget is None:
        # Anthropic's minimum budget is 1024 tokens.
        budget = budget_of(effort or "", min_budget=1024)
    thinking: JSON = {"type": "enabled", "budget_tokens": budget}
    if budget <= 0:
        thinking = {"type": "disabled" if budget == 0 else "adaptive"}
    # The depth of adaptive thinking, as in Anthropic's own API.
    if budget < 0 and effort is not None:
        model_fields["output_config"] = {"effort": effort}
    return {**model_fields, "thinking": thinking}


def sent_betas(model: str, headers: CallHeaders) -> list[str]:
    """Return the beta names of a caller of Anthropic's API that Converse accepts for a
    model."""
    if "anthropic" not in model or headers.vendor != "anthropic":
        return []
    names = headers.names_in("anthropic-beta")
    return [name for name in names if name in _ACCEPTED_BETAS]


def _dump_beta_fields(request: LLMRequest, model: str) -> JSON:
    """Return the beta names that Claude on Bedrock accepts, and the fields of a request
    in Anthropic's format that they permit."""
    betas = sent_betas(model, request.headers)
    if not betas:
        return {}
    refused = fields_without_beta(request, betas)
    fields = {
        name: value
        for name, value in request.extra.get("anthropic", {}).items()
        if name in BETA_FIELDS and name not in refused
    }
    return {"anthropic_beta": betas, **fields}


def _dump_tools(request: LLMRequest) -> JSON:
    """Return `toolConfig`, empty without tools and for the tool choice `none`.

    A cache marker becomes a `cachePoint` after the tool; a choice among several tools
    becomes `auto`. Raises InvokeBadRequestError for a tool hosted by another provider.
    """
    # Converse has no choice `none`, so the tools are omitted.
    if not request.tools or request.tool_choice == "none":
        return {}
    tools: list[JSON] = []
    for tool in request.tools:
        if tool.type not in ("function", "custom"):
            # Without a definition in this format, the tool cannot be run here.
            if FORMAT not in tool.extra:
                raise InvokeBadRequestError(
                    f"Tool {tool.name!r} is hosted by another provider; Bedrock does"
                    " not support it"
                )
            tools.append(tool.extra[FORMAT])
            continue
        spec: JSON = {
            "name": tool.name,
            **without_empty(description=tool.description, strict=tool.strict),
        }
        schema = tool.parameters or {"type": "object", "properties": {}}
        tools.append({"toolSpec": {**spec, "inputSchema": {"json": schema}}})
        if tool.cache_control:
            tools.append({"cachePoint": {"type": "default"}})
    match request.tool_choice:
        case None:
            return {"tools": tools}
        case "required":
            return {"tools": tools, "toolChoice": {"any": {}}}
        case {"name": name}:
            return {"tools": tools, "toolChoice": {"tool": {"name": name}}}
        case _:
            return {"tools": tools, "toolChoice": {"auto": {}}}


def _dump_messages(
    messages: Iterable[AnyPromptMessage],
) -> tuple[list[JSON], list[JSON]]:
    """Return the system blocks and the alternating turns.

    System messages at any position go into the system blocks. Adjacent messages of one
    role are merged, and messages without content are omitted. Raises
    InvokeBadRequestError for a file that Bedrock cannot read.
    """
    system: list[JSON] = []
    turns: list[JSON] = []
    for message in _with_document_names(messages):
        match message:
            case SystemPromptMessage():
                system += _dump_parts(message.parts)
                continue
            case AssistantPromptMessage():
                role, blocks = "assistant", _dump_blocks(_history(message))
            case ToolPromptMessage():
                role, blocks = "user", [_dump_tool_result(message)]
                blocks += _cache_point(message.cache_control)
            case UserPromptMessage():
                role, blocks = "user", _dump_parts(message.parts)
        # Bedrock rejects messages without content.
        if not blocks:
            continue
        # Roles must alternate, and parallel tool results must be in a single user turn.
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return system, turns


def _history(
    message: AssistantPromptMessage,
) -> Iterator[PromptMessageContent | ToolCall]:
    """Yield the blocks of an earlier answer that may be sent back to Bedrock.

    Reasoning without a signature (`reasoning_content`) or signed by a provider other
    than Bedrock and Anthropic is omitted. A refusal is the last text.
    """
    # Separate reasoning has no signature, so it is omitted.
    blocks = (
        message.blocks
        if message.reasoning_content is None
        else [*message.parts, *message.tool_calls]
    )
    for block in blocks:
        # Claude on Bedrock accepts signatures of Anthropic's own API.
        if not isinstance(block, ThinkingPromptMessageContent) or block.origin in (
            "",
            FORMAT,
            "anthropic",
        ):
            yield block
    if message.refusal:
        yield TextPromptMessageContent(data=message.refusal)


def _dump_tool_result(message: ToolPromptMessage) -> JSON:
    """Return a tool message as a `toolResult` block.

    An empty result has the text `(empty)`; `status` is written only for an error.
    """
    # Bedrock requires at least one content block in a result.
    content = _dump_parts(message.parts) or [{"text": "(empty)"}]
    status = {"status": "error"} if message.is_error else {}
    return {
        "toolResult": {"toolUseId": message.tool_call_id, "content": content, **status}
    }


def _dump_blocks(blocks: Iterable[PromptMessageContent | ToolCall]) -> list[JSON]:
    """Return the parts and tool calls of an answer as content blocks, in order."""
    result: list[JSON] = []
    for block in blocks:
        if isinstance(block, ToolCall):
            used = {
                "toolUseId": block.id,
                "name": block.function.name,
                "input": as_object(block.function.arguments),
            }
            result.append({"toolUse": used | block.extra.get(FORMAT, {})})
            result += _cache_point(block.cache_control)
        else:
            result += _dump_parts([block])
    return result


def _dump_parts(parts: Iterable[PromptMessageContent]) -> list[JSON]:
    """Return the parts as content blocks.

    The cache marker of a part becomes a `cachePoint` after its block. A part without a
    block in this format is omitted with its marker.
    """
    result: list[JSON] = []
    for part in parts:
        if (body := _dump_part(part)) is None:
            continue
        result.append(body)
        result += _cache_point(part.cache_control)
    return result


def _cache_point(mark: JSON | None) -> list[JSON]:
    """Return the block for a cache marker, or nothing without one. Its other fields,
    such as a lifetime, are kept."""
    if not mark:
        return []
    fields = unknown_fields(mark, frozenset({"type"}))
    return [{"cachePoint": {"type": "default", **fields}}]


def _dump_part(part: PromptMessageContent) -> JSON | None:
    """Return a part as a content block, or None if it has none in this format.

    None is returned for an empty text and for an opaque part of another format. Raises
    InvokeBadRequestError for a file that is neither base64 nor at an S3 URI.
    """
    match part:
        case TextPromptMessageContent() if part.extra.get(FORMAT, {}).get("json"):
            return {"json": as_object(part.data)}
        # Bedrock puts a text with sources into a block of its own kind.
        case TextPromptMessageContent() if part.citations:
            cited = [_dump_citation(citation) for citation in part.citations]
            return {
                "citationsContent": {
                    "content": [{"text": part.data}],
                    "citations": cited,
                }
            }
        case TextPromptMessageContent():
            return {"text": part.data} if part.data else None
        # The provider has encrypted it, so it can only be sent back as it is.
        case ThinkingPromptMessageContent() if part.redacted:
            return {"reasoningContent": {"redactedContent": part.signature}}
        case ThinkingPromptMessageContent():
            return {
                "reasoningContent": {
                    "reasoningText": {
                        "text": part.data,
                        **without_empty(signature=part.signature),
                    }
                }
            }
        case OpaquePromptMessageContent():
            return part.data if part.format == FORMAT else None
        case _:
            return _dump_file(part)


def _dump_file(part: MultiModalPromptMessageContent) -> JSON:
    """Return a file as an `image`, `document`, `video` or `audio` block.

    Only documents have a name. Raises InvokeBadRequestError if Bedrock cannot read the
    file.
    """
    file_type = next(
        name for name, part_class in _FILES.items() if isinstance(part, part_class)
    )
    format_fields = part.extra.get(FORMAT, {})
    source = _dump_source(part, file_type, format_fields)
    body: JSON = {"format": part.format or format_of(part.mime_type)}
    if file_type == "document":
        body["name"] = _document_name(part.filename)
    body["source"] = source
    body |= {name: value for name, value in format_fields.items() if name != "source"}
    return {file_type: body}


def _dump_source(
    part: MultiModalPromptMessageContent, file_type: str, format_fields: JSON
) -> Any:
    """Return the `source` of a file: its S3 location, its bytes, or the original.

    The original is the one stored in `format_fields`. Raises InvokeBadRequestError for
    a file without any of them, such as one at an HTTP URL.
    """
    # S3 is the only kind of URL that Bedrock reads.
    if part.url.startswith("s3://"):
        return {"s3Location": {"uri": part.url}}
    if part.base64_data:
        return {"bytes": part.base64_data}
    if "source" in format_fields:
        return format_fields["source"]
    raise InvokeBadRequestError(
        f"Bedrock cannot download the {file_type} from {part.url[:60]!r}; send it as"
        " base64 or by an s3:// URL"
    )


def _document_name(filename: str) -> str:
    """Return a filename in the form that Converse requires of a document's `name`.

    Other characters than ASCII letters, digits, hyphens, round and square brackets
    become hyphens, and blanks a single space. Limited to 200 characters. An empty
    filename becomes `document`. Source: API_runtime_DocumentBlock of the API reference.
    """
    # `split` without an argument takes runs of any white space as one.
    name = " ".join(_INVALID_IN_NAME.sub("-", filename).split())
    return name[:_MAX_NAME_CHARS].rstrip() or "document"


def _with_document_names(
    messages: Iterable[AnyPromptMessage],
) -> Iterator[AnyPromptMessage]:
    """Yield the messages with a valid and unique name for each document: Bedrock
    rejects a request with two documents of one name."""
    used_names: set[str] = set()
    # Across all messages: the whole conversation is one request.
    for message in messages:
        if message.files:
            parts = [_with_document_name(part, used_names) for part in message.parts]
            message = msgspec.structs.replace(message, content=parts)
        yield message


def _with_document_name(
    part: PromptMessageContent, used_names: set[str]
) -> PromptMessageContent:
    """Return a document with a name that is not in `used_names`, to which it is added;
    any other part unchanged."""
    if not isinstance(part, DocumentPromptMessageContent):
        return part
    base = name = _document_name(part.filename)
    # Compared without case, since it is not documented whether Bedrock does.
    number = 1
    while name.lower() in used_names:
        number += 1
        suffix = f"-{number}"
        name = base[: _MAX_NAME_CHARS - len(suffix)] + suffix
    used_names.add(name.lower())
    return msgspec.structs.replace(part, filename=name)


def _dump_citation(citation: Citation) -> JSON:
    """Return a citation as an entry of `citations`.

    A citation from this format is written unchanged; for any other, fields without a
    value are omitted.
    """
    if original := citation.extra.get(FORMAT):
        return original
    fields: JSON = without_empty(title=citation.title)
    if citation.quote:
        fields["sourceContent"] = [{"text": citation.quote}]
    if citation.url:
        fields["location"] = {"web": {"url": citation.url}}
    return fields


# ---------------------------------------------------------------------------- responses


def parse_usage(body: Any, service_tier: Any = None) -> LLMUsage | None:
    """Parse usage. `inputTokens` excludes cached tokens, while the internal count
    includes them.

    Returns None if no counts are present. `service_tier` is the object that the answer
    has beside its usage.
    """
    tier = service_tier.get("type") if isinstance(service_tier, dict) else None
    if not isinstance(body, dict) or count(body.get("inputTokens")) is None:
        return None
    read = nested_count(body, "cacheReadInputTokens")
    write = nested_count(body, "cacheWriteInputTokens")
    prompt = nested_count(body, "inputTokens") + read + write
    completion = nested_count(body, "outputTokens")
    return LLMUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        cached_tokens=read,
        cache_write_tokens=write,
        service_tier=tier_name(tier),
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    """Return Bedrock's `TokenUsage` object: the original if it came from this format.

    Otherwise `inputTokens` is the prompt without the tokens read from and written to
    the cache, which have fields of their own; it is never negative.
    """
    uncached_tokens = max(
        0, usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    )
    return usage.extra.get(FORMAT) or {
        "inputTokens": uncached_tokens,
        "outputTokens": usage.completion_tokens,
        "totalTokens": usage.total_tokens,
        "cacheReadInputTokens": usage.cached_tokens,
        "cacheWriteInputTokens": usage.cache_write_tokens,
    }


# Stop reasons of this format → finish reasons, and back.
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "pause_turn": "pause",
}
_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "content_filtered",
    "pause": "end_turn",
}
_RESULT_KNOWN = frozenset({"output", "stopReason", "usage"})


def _parse_reason(stop_reason: str | None) -> tuple[str | None, JSON]:
    """Return the finish reason for a `stopReason`, and the fields that restore it.

    Without a stop reason they are None and an empty dict. An unknown one becomes
    `stop`.
    """
    if not stop_reason:
        return None, {}
    reason = _REASONS.get(stop_reason, "stop")
    # Several stop reasons map to one finish reason, so the original is preserved if it
    # would be lost.
    return reason, {"stopReason": stop_reason} if _STOPS[reason] != stop_reason else {}


@reads_answer
def parse_result(body: JSON) -> LLMResult:
    """Parse a complete Converse response.

    It has neither an id nor a model, so both are left empty. Usage without counts is
    marked as estimated. Raises InvokeServerUnavailableError if the message is missing
    or a value is malformed.
    """
    message = (body.get("output") or {}).get("message")
    if not isinstance(message, dict):
        raise InvokeServerUnavailableError("Upstream response has no 'message'")
    try:
        answer_message = assistant_of(
            _parse_answer(message.get("content") or (), "content", FORMAT)
        )
    except InvokeBadRequestError as error:
        # The readers report a bad request, but here the server is at fault.
        raise InvokeServerUnavailableError(
            f"Invalid upstream response: {error}"
        ) from error
    reason, extra_fields = _parse_reason(body.get("stopReason"))
    return LLMResult(
        choices=[
            LLMChoice(
                message=answer_message,
                finish_reason=reason,
                extra=passthrough_fields(FORMAT, extra_fields),
            )
        ],
        usage=parse_usage(body.get("usage"), body.get("serviceTier"))
        or LLMUsage(estimated=True),
        extra=passthrough_fields(FORMAT, unknown_fields(body, _RESULT_KNOWN)),
    )


def dump_result(result: LLMResult) -> JSON:
    """Convert a complete answer to a Converse response.

    The format has one answer only: choices after the first are dropped, and so are
    files without base64 data. Fields in `extra` that came from this format take
    precedence.
    """
    choice = result.choices[0]
    blocks = list(choice.message.blocks)
    if choice.message.refusal:
        blocks.append(TextPromptMessageContent(data=choice.message.refusal))
    return {
        "output": {
            "message": {
                "role": "assistant",
                "content": _dump_blocks(_displayable(blocks)),
            }
        },
        "stopReason": _STOPS.get(choice.finish_reason or "stop", "end_turn"),
        "usage": dump_usage(result.usage),
        "metrics": {"latencyMs": round(result.usage.latency * 1000)},
        **choice.extra.get(FORMAT, {}),
        **result.extra.get(FORMAT, {}),
    }


def _displayable(
    blocks: Iterable[PromptMessageContent | ToolCall],
) -> Iterator[PromptMessageContent | ToolCall]:
    """Yield the blocks of an answer, without files that have no base64 data."""
    # Files in answers need bytes: a client cannot follow another provider's URL.
    for block in blocks:
        if not isinstance(block, MultiModalPromptMessageContent) or block.base64_data:
            yield block


# ------------------------------------------------------------------------------ streams


class StreamParser:
    """Converts stream events to chunks."""

    def __init__(self) -> None:
        # Call number by block index, and server tool blocks that are still incomplete.
        self._calls: dict[int, int] = {}
        self._call_count = 0
        self._server: dict[int, JSON] = {}
        # Citations and lengths of texts, by block index.
        self._citations: dict[int, list[Citation]] = {}
        self._lengths: dict[int, int] = {}
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        """Return the chunks that one ConverseStream event produces.

        `event` is an object with one field, named after the event. Events without
        content return nothing. Raises the matching InvokeError for an event whose name
        ends in `Exception`.
        """
        for name, body in event.items():
            # Errors inside a stream are events whose names end in `Exception`.
            if name.endswith("Exception"):
                raise error_of(name, body)
            index = (
                count(body.get("contentBlockIndex")) or 0
                if isinstance(body, dict)
                else 0
            )
            match name:
                case "contentBlockStart":
                    return self._on_start(body.get("start") or {}, index)
                case "contentBlockDelta":
                    return self._on_delta(body.get("delta") or {}, index)
                case "contentBlockStop" if index in self._server:
                    return self._part(
                        OpaquePromptMessageContent(
                            format=FORMAT, data=self._server.pop(index)
                        )
                    )
                case "contentBlockStop" if index in self._citations:
                    length = self._lengths.get(index, 0)
                    cited = covering(self._citations.pop(index), length)
                    return self._part(
                        TextPromptMessageContent(data="", citations=cited, index=index)
                    )
                case "messageStop":
                    self._has_finished = True
                    reason, extra_fields = _parse_reason(body.get("stopReason"))
                    # `p` is random padding that AWS adds against traffic analysis.
                    extra_fields |= unknown_fields(body, frozenset({"stopReason", "p"}))
                    return self._chunk(
                        finish_reason=reason,
                        extra=passthrough_fields(FORMAT, extra_fields),
                    )
                case "metadata":
                    extra_fields = passthrough_fields(
                        FORMAT, unknown_fields(body, frozenset({"usage", "p"}))
                    )
                    usage = parse_usage(body.get("usage"), body.get("serviceTier"))
                    delta = LLMResultChunkDelta(usage=usage)
                    return [LLMResultChunk(delta=delta, extra=extra_fields)]
                case _:
                    pass
        return []

    def finish(self, *, end_marker_seen: bool) -> list[LLMResultChunk]:
        """Check that the stream is complete; there are no further chunks.

        Without this check a truncated answer would pass as a complete one. Raises
        InvokeServerUnavailableError if neither the transport saw an end marker nor the
        parser `messageStop`.
        """
        if not end_marker_seen and not self._has_finished:
            raise InvokeServerUnavailableError(
                "Upstream stream ended without messageStop"
            )
        return []

    @staticmethod
    def _chunk(**delta: Any) -> list[LLMResultChunk]:
        """Return a chunk with these fields."""
        return [LLMResultChunk(delta=LLMResultChunkDelta(**delta))]

    def _part(self, part: PromptMessageContent) -> list[LLMResultChunk]:
        """Return the chunk with one part."""
        return self._chunk(message=AssistantPromptMessage(content=[part]))

    def _on_start(self, start: JSON, index: int) -> list[LLMResultChunk]:
        """Handle `contentBlockStart`: return a chunk with the id and name of a call.

        `index` is the block's number in the event. A server tool is collected until
        `contentBlockStop`, so it returns nothing here, like any other block.
        """
        used = start.get("toolUse")
        if not isinstance(used, dict):
            return []
        if used.get("type") == "server_tool_use":
            # Server tools are collected and emitted complete at the end of their block.
            self._server[index] = {"toolUse": {**used, "input": ""}}
            return []
        # Internally, calls are numbered separately from other blocks.
        number = self._calls[index] = self._call_count
        self._call_count += 1
        extra = passthrough_fields(
            FORMAT, unknown_fields(used, frozenset({"toolUseId", "name"}))
        )
        function = ToolCallFunction(name=used.get("name") or "")
        call = ToolCall(
            id=used.get("toolUseId") or "",
            function=function,
            index=number,
            extra=extra,
        )
        return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))

    def _on_delta(self, delta: JSON, index: int) -> list[LLMResultChunk]:
        """Handle `contentBlockDelta`: return a chunk with the text or fragment in it.

        Input of a server tool is collected and returns nothing, like an unknown delta.
        Reasoning text, its signature and encrypted reasoning arrive as separate deltas.
        """
        if "text" in delta:
            text = delta["text"]
            self._lengths[index] = self._lengths.get(index, 0) + len(text)
            return self._part(TextPromptMessageContent(data=text, index=index))
        if "toolUse" in delta:
            fragment = delta["toolUse"].get("input") or ""
            if index in self._server:
                self._server[index]["toolUse"]["input"] += fragment
                return []
            call = ToolCall(
                function=ToolCallFunction(arguments=fragment),
                index=self._calls.get(index, 0),
            )
            return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))
        if "reasoningContent" in delta:
            body = delta["reasoningContent"]
            if "redactedContent" in body:
                hidden = ThinkingPromptMessageContent(
                    signature=body["redactedContent"],
                    redacted=True,
                    index=index,
                    origin=FORMAT,
                )
                return self._part(hidden)
            thought = ThinkingPromptMessageContent(
                data=body.get("text") or "",
                signature=body.get("signature") or "",
                index=index,
                origin=FORMAT,
            )
            return self._part(thought)
        if "citation" in delta:
            # It covers the whole text, whose length is known at its end.
            cited = _parse_citation(delta["citation"])
            self._citations.setdefault(index, []).append(cited)
        return []


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    """Yield the chunks of a complete stream of events.

    Raises InvokeServerUnavailableError if the stream is truncated or malformed, and the
    matching InvokeError for an exception event.
    """
    return parse_events(StreamParser(), events)


class StreamDumper:
    """Converts chunks to the events of ConverseStream, one chunk at a time.

    Text and reasoning are written at once. Tool calls are collected and written by
    `finish`, since blocks cannot be interleaved. One instance per stream; the format
    has no field for the constructor's arguments.
    """

    def __init__(
        self, *, response_id: str = "", model: str = "", created: int = 0
    ) -> None:
        del response_id, model, created
        self._has_begun = False
        # Type and index of the block being written, and its number in the stream.
        self._open: tuple[str, Any] | None = None
        self._number = -1
        self._usage: LLMUsage | None = None
        self._stop: JSON = {"stopReason": "end_turn"}
        self._extra: JSON = {}
        self._call_indexes = CallIndexes()
        self._calls: dict[int, list[ToolCall]] = {}

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        """Return the events that one chunk produces.

        The first call also returns `messageStart`. Choices after the first are dropped.
        Tool calls, the stop reason and the usage are kept for `finish`.
        """
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        # The format has one answer per stream, so further choices are dropped.
        if delta.index:
            return []
        events: list[JSON] = []
        if not self._has_begun:
            self._has_begun = True
            events.append({"messageStart": {"role": "assistant"}})
        for block in delta.message.blocks:
            # Calls may be interleaved in chunks, but blocks cannot: they are written at
            # the end.
            if isinstance(block, ToolCall):
                index = self._call_indexes.index_of(block)
                self._calls.setdefault(index, []).append(block)
            else:
                events += self._block(block)
        if delta.message.refusal:
            events += self._delta(("text", "refusal"), {"text": delta.message.refusal})
        if delta.finish_reason:
            format_fields = delta.extra.get(FORMAT, {})
            self._stop = {
                "stopReason": _STOPS.get(delta.finish_reason, "end_turn"),
                **format_fields,
            }
        self._extra |= chunk.extra.get(FORMAT, {})
        return events

    def _block(self, block: PromptMessageContent) -> list[JSON]:
        """Return the `contentBlockDelta` events for one part of a chunk.

        Text, citations and reasoning are written; files and opaque parts return
        nothing.
        """
        match block:
            case TextPromptMessageContent():
                key = ("text", block.index)
                events = self._delta(key, {"text": block.data}) if block.data else []
                for citation in block.citations:
                    events += self._delta(key, {"citation": _dump_citation(citation)})
                return events
            case ThinkingPromptMessageContent() if block.redacted:
                return self._delta(
                    ("thinking", block.index),
                    {"reasoningContent": {"redactedContent": block.signature}},
                )
            case ThinkingPromptMessageContent():
                contents = (
                    without_empty(text=block.data),
                    without_empty(signature=block.signature),
                )
                key = ("thinking", block.index)
                # Text and signature are separate deltas; empty ones are omitted.
                return [
                    event
                    for content in contents
                    if content
                    for event in self._delta(key, {"reasoningContent": content})
                ]
            case _:
                return []

    def _delta(self, key: tuple[str, Any], delta: JSON) -> list[JSON]:
        """Return a `contentBlockDelta`, after the end of another open block.

        `key` identifies a block by its type and source index; a new key gets the next
        `contentBlockIndex`. Text and reasoning blocks have no start event.
        """
        events: list[JSON] = []
        # Another block starts: close the open one and advance the number.
        if self._open != key:
            events += self._close_block()
            self._open, self._number = key, self._number + 1
        return [
            *events,
            {"contentBlockDelta": {"contentBlockIndex": self._number, "delta": delta}},
        ]

    def _close_block(self) -> list[JSON]:
        """Return the `contentBlockStop` of the open block, or nothing if none is."""
        if self._open is None:
            return []
        self._open = None
        return [{"contentBlockStop": {"contentBlockIndex": self._number}}]

    def finish(self) -> list[JSON]:
        """Return the final events: open block, tool calls, stop reason, and usage."""
        events = self._close_block()
        for fragments in self._calls.values():
            self._number += 1
            used = {
                "toolUseId": fragments[0].id,
                "name": fragments[0].function.name,
                **fragments[0].extra.get(FORMAT, {}),
            }
            events.append(
                {
                    "contentBlockStart": {
                        "contentBlockIndex": self._number,
                        "start": {"toolUse": used},
                    }
                }
            )
            text = "".join(fragment.function.arguments for fragment in fragments)
            delta = {"toolUse": {"input": text}}
            events.append(
                {
                    "contentBlockDelta": {
                        "contentBlockIndex": self._number,
                        "delta": delta,
                    }
                }
            )
            events.append({"contentBlockStop": {"contentBlockIndex": self._number}})
        # Bedrock sends the stop reason before the usage.
        events.append({"messageStop": self._stop})
        usage = dump_usage(self._usage or LLMUsage())
        events.append(
            {"metadata": {"usage": usage, "metrics": {"latencyMs": 0}, **self._extra}}
        )
        return events


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    """Convert a complete stream of chunks to events."""
    dumper = StreamDumper()
    for chunk in chunks:
        yield from dumper.feed(chunk)
    yield from dumper.finish()


# ------------------------------------------------------------------------------- errors


def error_of(name: str, body: Any) -> InvokeError:
    """Return the exception for an error event in a stream, selected by its name.

    `name` is the event's name, such as `throttlingException`; an unknown one becomes
    InvokeServerUnavailableError. The message falls back to the name.
    """
    # Event names start in lower case, exception types in upper case.
    error_name = name[:1].upper() + name[1:]
    message = body.get("message") if isinstance(body, dict) else None
    return provider_error({"message": message or error_name}, aws_type=error_name)


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    """Return the error body; Bedrock's has only a message."""
    del status, request_id
    return {"message": message}
