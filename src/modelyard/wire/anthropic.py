"""The Anthropic Messages format, including count_tokens, to and from the internal
types. No I/O. https://docs.anthropic.com/en/api/messages"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable, Iterable, Iterator, Mapping
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
    short_repr,
    tier_name,
    tools_of,
    unknown_fields,
    without_empty,
)
from modelyard.base.provider_errors import provider_error, raise_error_in
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
from modelyard.models.media import checked_base64, checked_image, mime_type_of, part_of
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    AudioPromptMessageContent,
    Citation,
    DocumentPromptMessageContent,
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
from modelyard.models.service_tiers import served_tier
from modelyard.models.streams import dump_chunks, parse_events
from modelyard.models.tool_call_reader import generated_call_id, with_call_ids
from modelyard.models.types import JSON
from modelyard.models.vendor_headers import fields_without_beta

FORMAT = "anthropic"
DEFAULT_MAX_TOKENS = 8192
"""Limit for a request that has none: this format requires one."""

# Fields that are converted; all others are preserved as extra fields.
_KNOWN_FIELDS = frozenset(
    {
        "model",
        "messages",
        "system",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "stream",
        "tools",
        "tool_choice",
        "thinking",
        "metadata",
        "output_format",
        "output_config",
        "service_tier",
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
        "response_format",
        "parallel_tool_calls",
        "service_tier",
        "include_thoughts",
    }
)


# ----------------------------------------------------------------------------- requests


@reads_request
def parse_request(body: JSON, *, is_count: bool = False) -> LLMRequest:
    """Parse the body of a Messages or count_tokens request from a client.

    With `is_count` (count_tokens) `max_tokens` is neither required nor read. Fields
    without an internal name are stored in `extra`, so that `dump_request` writes them
    again. Raises InvokeBadRequestError, which names the field where it was checked.
    """
    turns = required_field(body, "messages", list)
    if not turns:
        raise InvokeBadRequestError(
            "'messages' must contain at least one message", param="messages"
        )
    messages: list[AnyPromptMessage] = []
    if system := body.get("system"):
        messages.append(
            SystemPromptMessage(
                content=simplified_content(_parse_texts(system, "system"))
            )
        )
    # Tool calls so far, since a tool result must refer to one of them.
    call_ids: set[str] = set()
    for index, turn in enumerate(turns):
        messages += _parse_turn(turn, f"messages[{index}]", call_ids)
    choice, parallel = _parse_tool_choice(body.get("tool_choice"))
    parameters, extra_fields = _parse_parameters(body, is_count=is_count)
    if parallel is not None:
        parameters["parallel_tool_calls"] = parallel
    metadata = optional_field(body, "metadata", dict) or {}
    # Only `user_id` has an internal name; other metadata is preserved.
    if metadata.keys() - {"user_id"}:
        extra_fields["metadata"] = metadata
    return LLMRequest(
        format=FORMAT,
        messages=messages,
        model_parameters=parameters,
        tools=[
            _parse_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools_of(body))
        ],
        tool_choice=choice,
        stop=[
            expect_type(sequence, str, f"stop_sequences[{i}]")
            for i, sequence in enumerate(
                optional_field(body, "stop_sequences", list) or ()
            )
        ],
        stream=optional_field(body, "stream", bool) or False,
        user=optional_field(metadata, "user_id", str, "metadata."),
        extra=passthrough_fields(
            FORMAT, extra_fields | unknown_fields(body, _KNOWN_FIELDS)
        ),
    )


def _parse_parameters(body: JSON, *, is_count: bool) -> tuple[dict[str, Any], JSON]:
    """Return the parameters by their common names, and the fields that only this format
    has."""
    parameters: dict[str, Any] = {}
    extra_fields: JSON = {}
    if not is_count:
        parameters["max_tokens"] = required_field(body, "max_tokens", int)
        in_range(parameters["max_tokens"], 1, 1 << 31, "max_tokens")
    for name in ("temperature", "top_p"):
        if (value := optional_field(body, name, float)) is not None:
            in_range(value, 0, 1, name)
            # The original value, so that an integer is not rewritten as a float.
            parameters[name] = body[name]
    if (top_k := optional_field(body, "top_k", int)) is not None:
        parameters["top_k"] = top_k
    if tier := optional_field(body, "service_tier", str):
        parameters["service_tier"] = tier
    if (thinking := optional_field(body, "thinking", dict)) is not None:
        budget = _parse_thinking_budget(thinking)
        parameters["thinking_budget"] = budget
        # The internal budget cannot express every form; the original is preserved if it
        # would be written differently.
        if _dump_thinking(budget) != thinking:
            extra_fields["thinking"] = thinking
    if config := _parse_output_config(body, parameters):
        extra_fields["output_config"] = config
    return parameters, extra_fields


def _parse_thinking_budget(thinking: JSON) -> int:
    """Return the budget in tokens: 0 if thinking is disabled, -1 if the model chooses
    it."""
    thinking_type = required_field(thinking, "type", str, "thinking.")
    budget = optional_field(thinking, "budget_tokens", int, "thinking.")
    if thinking_type == "disabled":
        return 0
    return -1 if budget is None else budget


def _parse_output_config(body: JSON, parameters: dict[str, Any]) -> JSON:
    """Store the output settings that have a counterpart in `parameters`; return the
    remaining ones."""
    config = dict(optional_field(body, "output_config", dict) or {})
    # `output_format` is the older name of `output_config.format`.
    output_format = config.pop("format", None) or body.get("output_format")
    if output_format is not None:
        schema = required_field(
            expect_type(output_format, dict, "output_config.format"),
            "schema",
            dict,
            "output_config.format.",
        )
        parameters["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema},
        }
    if effort := config.pop("effort", None):
        parameters["reasoning_effort"] = effort
    return config


def _parse_tool_choice(value: Any) -> tuple[str | dict[str, Any] | None, bool | None]:
    """Return the tool choice, and whether parallel calls are allowed (None if not
    stated)."""
    if value is None:
        return None, None
    choice = expect_type(value, dict, "tool_choice")
    disable_parallel = optional_field(
        choice, "disable_parallel_tool_use", bool, "tool_choice."
    )
    parallel = None if disable_parallel is None else not disable_parallel
    match choice.get("type"):
        case "auto" | "none" as choice_type:
            return choice_type, parallel
        case "any":
            return "required", parallel
        case "tool":
            return {
                "name": required_field(choice, "name", str, "tool_choice.")
            }, parallel
        case unknown_type:
            raise invalid_field(
                "tool_choice.type", unknown_type, "auto, any, tool or none"
            )


_TOOL_KNOWN = frozenset(
    {"name", "description", "input_schema", "type", "cache_control", "strict"}
)


def _parse_tool(tool: Any, where: str) -> PromptMessageTool:
    """Parse one entry of Anthropic's `tools`.

    The definition of a tool that Anthropic runs (a `type` other than `custom`) is
    stored whole in `extra`. `where` is the path for error messages. Raises
    InvokeBadRequestError if a client tool has no `name` or no `input_schema`.
    """
    body = expect_type(tool, dict, where)
    tool_type = optional_field(body, "type", str, f"{where}.") or "custom"
    name = optional_field(body, "name", str, f"{where}.") or tool_type
    if tool_type != "custom":
        # A tool run by Anthropic: its definition is preserved unchanged.
        return PromptMessageTool(name=name, type=tool_type, extra={FORMAT: body})
    return PromptMessageTool(
        name=required_field(body, "name", str, f"{where}."),
        description=optional_field(body, "description", str, f"{where}.") or "",
        parameters=required_field(body, "input_schema", dict, f"{where}."),
        strict=optional_field(body, "strict", bool, f"{where}."),
        cache_control=optional_field(body, "cache_control", dict, f"{where}."),
        extra=passthrough_fields(FORMAT, unknown_fields(body, _TOOL_KNOWN)),
    )


def _parse_texts(value: Any, where: str) -> list[PromptMessageContent]:
    """Parse content that is either a string or a list of blocks.

    A string becomes one text part; blocks of any type are accepted. Raises
    InvokeBadRequestError for any other value.
    """
    if isinstance(value, str):
        return [TextPromptMessageContent(data=value)]
    return [
        _parse_block(block, f"{where}[{i}]")
        for i, block in enumerate(expect_type(value, list, where))
    ]


# Roles whose message can be built from a text alone.
_TEXT_MESSAGE_CLASSES: dict[
    str, type[UserPromptMessage] | type[AssistantPromptMessage]
] = {"user": UserPromptMessage, "assistant": AssistantPromptMessage}


def _parse_turn(
    turn: Any, where: str, call_ids: set[str]
) -> Iterator[AnyPromptMessage]:
    """Yield the messages of one turn: internally, tool results are separate messages."""
    body = expect_type(turn, dict, where)
    messages = _parse_blocks_of_turn(body, where, call_ids)
    if rest := unknown_fields(body, _TURN_FIELDS):
        # They belong to the turn, of which the first message is a part.
        for message in messages:
            fields = {**message.extra.get(FORMAT, {}), "turn": rest}
            yield msgspec.structs.replace(message, extra={FORMAT: fields})
            break
    yield from messages


_TURN_FIELDS = frozenset({"role", "content"})


def _parse_blocks_of_turn(
    body: JSON, where: str, call_ids: set[str]
) -> Iterator[AnyPromptMessage]:
    """Yield the messages of one turn, without fields of the turn itself."""
    role = body.get("role")
    blocks = body.get("content")
    # Most turns are a single plain text.
    if (text := _only_text(blocks)) and role in ("user", "assistant"):
        yield _TEXT_MESSAGE_CLASSES[role](content=text)
        return
    if isinstance(blocks, str):
        blocks = [{"type": "text", "text": blocks}] if blocks or role == "user" else []
    blocks = expect_type(blocks, list, f"{where}.content")
    match role:
        case "assistant":
            parsed = [
                _parse_assistant_block(block, f"{where}.content[{i}]")
                for i, block in enumerate(blocks)
            ]
            # Recorded before the next turn, whose tool results refer to these calls.
            call_ids |= {block.id for block in parsed if isinstance(block, ToolCall)}
            yield assistant_of(parsed)
        case "user":
            yield from _parse_user_turn(blocks, where, call_ids)
        case "system":
            content = simplified_content(_parse_texts(blocks, f"{where}.content"))
            # A system message between turns must be written at the same position again.
            yield SystemPromptMessage(content=content, extra={FORMAT: {"inline": True}})
        case other:
            raise invalid_field(f"{where}.role", other, "user or assistant")


def _only_text(blocks: Any) -> str | None:
    """Return the text of a turn that is a single plain text in either notation,
    otherwise None."""
    if isinstance(blocks, str):
        return blocks
    block = blocks[0] if isinstance(blocks, list) and len(blocks) == 1 else None
    # Further fields, such as a mark of the cache, would be lost.
    if not isinstance(block, dict) or len(block) != 2 or block.get("type") != "text":
        return None
    return block["text"] if isinstance(block.get("text"), str) else None


def _parse_user_turn(
    blocks: list[Any], where: str, call_ids: set[str]
) -> Iterator[AnyPromptMessage]:
    """Yield the messages of a user turn in order, split at its `tool_result` blocks.

    Each tool result is a message of its own; the blocks between two of them form one
    user message. An empty turn yields nothing. Raises InvokeBadRequestError for an
    invalid block, or a result whose call is not in `call_ids`.
    """
    waiting: list[PromptMessageContent] = []
    for index, raw_block in enumerate(blocks):
        block_path = f"{where}.content[{index}]"
        block = expect_type(raw_block, dict, block_path)
        if block.get("type") != "tool_result":
            waiting.append(_parse_block(block, block_path))
            continue
        # Parts before a tool result form a message of their own, so that the order is
        # preserved.
        if waiting:
            yield UserPromptMessage(content=simplified_content(waiting))
            waiting = []
        yield _parse_tool_result(block, block_path, call_ids)
    if waiting:
        yield UserPromptMessage(content=simplified_content(waiting))


def _parse_tool_result(
    block: JSON, where: str, call_ids: set[str]
) -> ToolPromptMessage:
    """Parse a `tool_result` block into a tool message.

    The content is None if the block has none or an empty one. Raises
    InvokeBadRequestError if `tool_use_id` is missing or not in `call_ids`, the ids of
    the calls in earlier assistant turns.
    """
    call = required_field(block, "tool_use_id", str, f"{where}.")
    # Anthropic rejects such requests; checking here gives a clearer error than another
    # provider would.
    if call not in call_ids:
        raise invalid_field(
            f"{where}.tool_use_id",
            call,
            "the id of a tool_use block in an earlier assistant turn",
        )
    content = block.get("content")
    known_fields = frozenset(
        {"type", "tool_use_id", "content", "is_error", "cache_control"}
    )
    return ToolPromptMessage(
        content=(
            simplified_content(_parse_texts(content, f"{where}.content"))
            if content
            else None
        ),
        tool_call_id=call,
        is_error=optional_field(block, "is_error", bool, f"{where}.") or False,
        cache_control=optional_field(block, "cache_control", dict, f"{where}."),
        extra=passthrough_fields(FORMAT, unknown_fields(block, known_fields)),
    )


def _parse_assistant_block(
    raw_block: Any, where: str, origin: str = ""
) -> PromptMessageContent | ToolCall:
    """Parse a block of an assistant turn or of an answer; `tool_use` becomes a call.

    The call's `input` is stored as JSON text. `origin` is the format recorded as the
    issuer of reasoning signatures, empty for a request. Raises InvokeBadRequestError,
    also for an answer: there the caller must translate it.
    """
    block = expect_type(raw_block, dict, where)
    if block.get("type") == "tool_use":
        # An answer without an id gets one later; a request has to have it.
        is_answer = bool(origin)
        return ToolCall(
            id=(
                block.get("id") or ""
                if is_answer
                else required_field(block, "id", str, f"{where}.")
            ),
            function=ToolCallFunction(
                name=required_field(block, "name", str, f"{where}."),
                arguments=as_text(block.get("input")),
            ),
            cache_control=block.get("cache_control"),
            extra=passthrough_fields(
                FORMAT,
                unknown_fields(
                    block, frozenset({"type", "id", "name", "input", "cache_control"})
                ),
            ),
        )
    # Text and reasoning blocks are the same in both directions.
    return _parse_block(block, where, origin)


def _parse_block(raw_block: Any, where: str, origin: str = "") -> PromptMessageContent:
    """Parse a content block other than a tool call or a tool result.

    An unknown block type, or a file without a `source` object, becomes an opaque part.
    `origin` is stored in reasoning parts. Raises InvokeBadRequestError if `type` is not
    a string, a text block has no `text`, or a file is invalid.
    """
    block = expect_type(raw_block, dict, where)
    cache = block.get("cache_control")
    match block.get("type"):
        case "text":
            known_fields = frozenset({"type", "text", "citations", "cache_control"})
            text = required_field(block, "text", str, f"{where}.")
            cited = [_parse_citation(entry) for entry in block.get("citations") or ()]
            return TextPromptMessageContent(
                data=text,
                citations=covering(cited, len(text)),
                cache_control=cache,
                extra=passthrough_fields(FORMAT, unknown_fields(block, known_fields)),
            )
        case "thinking":
            return ThinkingPromptMessageContent(
                data=block.get("thinking") or "",
                signature=block.get("signature") or "",
                origin=origin,
                extra=passthrough_fields(
                    FORMAT,
                    unknown_fields(block, frozenset({"type", "thinking", "signature"})),
                ),
            )
        case "redacted_thinking":
            # The signature holds the encrypted reasoning, which only Anthropic can
            # read.
            return ThinkingPromptMessageContent(
                signature=block.get("data") or "", redacted=True, origin=origin
            )
        case "image" | "document" as kind if isinstance(block.get("source"), dict):
            return _parse_file(kind, block, where)
        case str():
            # Unknown block types are preserved for this format and omitted for others.
            return OpaquePromptMessageContent(
                format=FORMAT, data=block, cache_control=None
            )
        case other:
            raise invalid_field(
                f"{where}.type",
                other,
                "a block type such as text, image, document or tool_result",
            )


def _parse_citation(cited: JSON) -> Citation:
    """Parse an entry of a text block's `citations`."""
    title = cited.get("title") or cited.get("document_title") or ""
    return Citation(
        url=cited.get("url") or "",
        title=title,
        quote=cited.get("cited_text") or "",
        # Some citation types have positions that no internal field can hold.
        extra={FORMAT: cited},
    )


def _parse_file(block_type: str, block: JSON, where: str) -> PromptMessageContent:
    """Parse an `image` or `document` block by the type of its `source` object.

    For `base64` the media type selects the class of the part; for `url` the block type
    does. Any other source (`file`, `text`, `content`) is stored in `extra`. Raises
    InvokeBadRequestError if a field is missing, or the base64 is invalid or not that of
    an image in an `image` block.
    """
    source = block["source"]
    known_fields = frozenset({"type", "source", "cache_control", "title"})
    fields: JSON = {
        "cache_control": block.get("cache_control"),
        "filename": block.get("title") or "",
    }
    extra_fields = unknown_fields(block, known_fields)
    source_path = f"{where}.source"
    match source.get("type"):
        case "base64":
            mime = required_field(source, "media_type", str, f"{source_path}.")
            data = required_field(source, "data", str, f"{source_path}.")
            # Images are verified by their first bytes, since providers fail late on
            # invalid ones.
            check = checked_image if block_type == "image" else checked_base64
            file_part = part_of(
                mime, base64_data=check(data, f"{source_path}.data"), **fields
            )
            return msgspec.structs.replace(
                file_part, extra=passthrough_fields(FORMAT, extra_fields)
            )
        case "url":
            part = (
                ImagePromptMessageContent
                if block_type == "image"
                else DocumentPromptMessageContent
            )
            return part(
                url=required_field(source, "url", str, f"{source_path}."),
                **fields,
                extra=passthrough_fields(FORMAT, extra_fields),
            )
        case _:
            # An uploaded file, a text or a list of blocks, which only this format has.
            part = (
                ImagePromptMessageContent
                if block_type == "image"
                else DocumentPromptMessageContent
            )
            # The source is written unchanged again, but other formats cannot use it.
            return part(**fields, extra={FORMAT: {**extra_fields, "source": source}})


def dump_request(request: LLMRequest, model: str, capabilities: Capabilities) -> JSON:
    """Convert a request to Anthropic's JSON.

    Of the capabilities it uses `drop`, `max_tokens`, `structured` and
    `adaptive_thinking`.
    """
    parameters = request.model_parameters
    system, turns = _dump_messages(request.messages)
    body: JSON = {
        "model": model,
        "max_tokens": (
            parameters.get("max_tokens")
            or capabilities.max_tokens
            or DEFAULT_MAX_TOKENS
        ),
    }
    if system:
        body["system"] = _dump_system(system)
    body["messages"] = turns
    for name in ("temperature", "top_p", "top_k", "service_tier"):
        if name in parameters:
            body[name] = parameters[name]
    # After `max_tokens`, which may be raised by the thinking budget.
    _dump_reasoning(
        body,
        parameters,
        adaptive=capabilities.adaptive_thinking,
        is_own=request.format == FORMAT,
    )
    _dump_response_format(body, parameters, capabilities)
    body |= without_empty(
        tools=[_dump_tool(tool) for tool in request.tools],
        tool_choice=_dump_tool_choice(
            request.tool_choice, parameters.get("parallel_tool_calls")
        ),
        stop_sequences=request.stop,
        metadata={"user_id": request.user} if request.user is not None else None,
        stream=request.stream or None,
    )
    if request.extra:
        _restore_format_fields(body, request.extra.get(FORMAT, {}))
        for name in fields_without_beta(request, sent_betas(model, request.headers)):
            body.pop(name, None)
    # Last, so that fields restored from the caller's request are dropped as well.
    for name in capabilities.drop:
        body.pop(name, None)
    return body


def sent_betas(model: str, headers: CallHeaders) -> list[str]:
    """Return the beta names that are sent, in their own header."""
    del model
    return headers.names_in("anthropic-beta") if headers.vendor == FORMAT else []


def _dump_system(system: list[JSON]) -> str | list[JSON]:
    """Return the `system` field: a string for one plain text, otherwise the blocks."""
    # The short notation, unless blocks have cache markers.
    if len(system) == 1 and system[0].keys() == {"type", "text"}:
        return system[0]["text"]
    return system


def _dump_response_format(
    body: JSON, parameters: Mapping[str, Any], capabilities: Capabilities
) -> None:
    """Write a JSON schema response format into the request `body`.

    The field is `output_config.format`, or `output_format` if
    `capabilities.structured` names it. Only the schema is written, not its name. Other
    response formats leave the body unchanged.
    """
    response_format = parameters.get("response_format")
    # Other formats than a schema have no field here.
    if not response_format or response_format.get("type") != "json_schema":
        return
    schema = {
        "type": "json_schema",
        "schema": response_format["json_schema"]["schema"],
    }
    # Some compatible servers only know the older field.
    if capabilities.structured == "output_format":
        body["output_format"] = schema
    else:
        body.setdefault("output_config", {})["format"] = schema


def _restore_format_fields(body: JSON, format_fields: JSON) -> None:
    """Write the fields that the caller's request had in this format; they take
    precedence over translated ones."""
    for name, value in format_fields.items():
        # The effort was written into `output_config` and must survive the caller's
        # other options.
        is_merged = (
            name == "output_config"
            and isinstance(value, dict)
            and isinstance(body.get(name), dict)
        )
        body[name] = {**body[name], **value} if is_merged else value


def _dump_reasoning(
    body: JSON, parameters: Mapping[str, Any], *, adaptive: bool, is_own: bool
) -> None:
    """Write the reasoning settings. Models without adaptive thinking get a token budget
    derived from the effort."""
    budget = parameters.get("thinking_budget")
    effort = parameters.get("reasoning_effort")
    # A native request sets the effort itself; for others it is set only if the model
    # supports adaptive thinking or has a budget.
    if effort and (is_own or (effort != "none" and (adaptive or budget is not None))):
        body["output_config"] = {"effort": effort}
        budget = -1 if budget is None and not is_own else budget
    elif effort and budget is None:
        # Anthropic's minimum budget is 1024 tokens.
        budget = budget_of(effort, min_budget=1024)
    if budget is None:
        return
    body["thinking"] = _dump_thinking(budget)
    if budget >= body["max_tokens"]:
        body["max_tokens"] += budget  # the limit includes the thinking budget


def _dump_thinking(budget: int) -> JSON:
    """Return Anthropic's `thinking` object for a budget in tokens.

    0 disables thinking, a negative budget is `adaptive`, and a positive one is
    `enabled` with `budget_tokens`.
    """
    if budget == 0:
        return {"type": "disabled"}
    return (
        {"type": "adaptive"}
        if budget < 0
        else {"type": "enabled", "budget_tokens": budget}
    )


def _dump_tool(tool: PromptMessageTool) -> JSON:
    """Return a tool as an entry of `tools`.

    A tool that Anthropic runs is written as it was received. Raises
    InvokeBadRequestError for a tool hosted by another provider.
    """
    format_fields = tool.extra.get(FORMAT, {})
    if tool.type not in ("function", "custom"):
        # Without a definition in this format, the tool cannot be run here.
        if not format_fields:
            raise InvokeBadRequestError(
                f"Tool {tool.name!r} is hosted by another provider; Anthropic does not"
                " support it",
                param="tools",
            )
        return format_fields
    # An input schema is mandatory, even for a tool without parameters.
    body: JSON = {
        "name": tool.name,
        "input_schema": tool.parameters or {"type": "object", "properties": {}},
    }
    if tool.description:
        body["description"] = tool.description
    if tool.strict is not None:
        body["strict"] = tool.strict
    if tool.cache_control:
        body["cache_control"] = tool.cache_control
    return body | format_fields


def _dump_tool_choice(
    choice: str | dict[str, Any] | None, parallel: bool | None
) -> JSON | None:
    """Return the `tool_choice` object, or None if neither argument is set.

    `parallel` is written inverted, as `disable_parallel_tool_use`, except with the
    choice `none`. A choice among several tools becomes `any` or `auto`.
    """
    body: JSON | None = None
    match choice:
        case None:
            body = {"type": "auto"} if parallel is not None else None
        case "required":
            body = {"type": "any"}
        case str():
            body = {"type": choice}
        case {"name": name}:
            body = {"type": "tool", "name": name}
        case _:
            # A choice among several tools has no equivalent: the closest one is used.
            body = {"type": "any" if choice.get("mode") == "required" else "auto"}
    if body is not None and parallel is not None and body["type"] != "none":
        body["disable_parallel_tool_use"] = not parallel
    return body


def _dump_messages(
    messages: Iterable[AnyPromptMessage],
) -> tuple[list[JSON], list[JSON]]:
    """Return the system blocks and the alternating turns; adjacent messages of one role
    are merged."""
    system: list[JSON] = []
    turns: list[JSON] = []
    for message in messages:
        match message:
            case SystemPromptMessage() if message.extra.get(FORMAT, {}).get("inline"):
                role, blocks = "system", _dump_parts(message.parts)
            case SystemPromptMessage():
                system += _dump_parts(message.parts)
                continue
            case AssistantPromptMessage():
                role, blocks = "assistant", _dump_assistant(message)
            case ToolPromptMessage():
                role, blocks = "user", [_dump_tool_result(message)]
            case UserPromptMessage():
                role, blocks = "user", _dump_parts(message.parts)
        # Anthropic rejects turns without content.
        if not blocks:
            continue
        # Parallel tool results must be in a single user turn.
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
        if message.extra:
            turns[-1] |= message.extra.get(FORMAT, {}).get("turn") or {}
    return system, turns


def _dump_tool_result(message: ToolPromptMessage) -> JSON:
    """Return a tool message as a `tool_result` block.

    `content` is omitted if the message has none. Raises InvokeBadRequestError for audio
    and video.
    """
    body: JSON = {"type": "tool_result", "tool_use_id": message.tool_call_id}
    if isinstance(message.content, str):
        body["content"] = message.content
    elif message.content:
        body["content"] = _dump_parts(message.content)
    if message.is_error:
        body["is_error"] = True
    if message.cache_control:
        body["cache_control"] = message.cache_control
    fields = message.extra.get(FORMAT, {})
    return body | {name: value for name, value in fields.items() if name != "turn"}


def _dump_assistant(message: AssistantPromptMessage) -> list[JSON]:
    """Return the blocks of an assistant turn in a request, with only the reasoning that
    Anthropic may have signed."""
    blocks: list[JSON] = []
    # Separate reasoning has no signature, so it is omitted.
    for block in (
        message.blocks
        if message.reasoning_content is None
        else [*message.parts, *message.tool_calls]
    ):
        if isinstance(block, ToolCall):
            blocks.append(_dump_call(block))
        elif not isinstance(block, ThinkingPromptMessageContent) or block.origin in (
            "",
            FORMAT,
        ):
            # A signature of another provider would be rejected.
            blocks += _dump_parts([block])
    if message.refusal:
        blocks.append({"type": "text", "text": message.refusal})
    return blocks


# Anthropic's schema requires of each call in an answer who made it: the model itself, or
# a program that the model wrote.
_DIRECT_CALLER = {"type": "direct"}


def _dump_call(call: ToolCall) -> JSON:
    """Return a tool call as a `tool_use` block.

    The format requires an object as `input`: arguments that are not a JSON object are
    wrapped by `as_object`.
    """
    body = {
        "type": "tool_use",
        "id": call.id,
        "name": call.function.name,
        "input": as_object(call.function.arguments),
    }
    if call.cache_control:
        body["cache_control"] = call.cache_control
    return body | call.extra.get(FORMAT, {})


def _dump_parts(parts: Iterable[PromptMessageContent]) -> list[JSON]:
    """Return parts as blocks, without those that the format cannot express."""
    return [block for part in parts if (block := _dump_part(part)) is not None]


def _dump_part(part: PromptMessageContent) -> JSON | None:
    """Return a part as a block, or None if it has none in this format.

    Raises InvokeBadRequestError for audio and video.
    """
    body: JSON
    match part:
        case TextPromptMessageContent() if part.data or part.citations:
            body = _dump_text(part)
        case TextPromptMessageContent():
            # Anthropic rejects an empty text, and it carries no information.
            return None
        case ThinkingPromptMessageContent() if part.redacted:
            return {"type": "redacted_thinking", "data": part.signature}
        case ThinkingPromptMessageContent():
            body = {
                "type": "thinking",
                "thinking": part.data,
                "signature": part.signature,
            }
        case OpaquePromptMessageContent():
            # Parts of other formats have no equivalent here.
            return part.data if part.format == FORMAT else None
        case AudioPromptMessageContent() | VideoPromptMessageContent():
            raise InvokeBadRequestError(
                f"Anthropic does not accept {type(part).__name__[:5].lower()}; send text,"
                " images or PDFs"
            )
        case ImagePromptMessageContent() | DocumentPromptMessageContent():
            body = _dump_file(part)
    if part.cache_control:
        body["cache_control"] = part.cache_control
    return body | part.extra.get(FORMAT, {}) if part.extra else body


def _dump_text(part: TextPromptMessageContent) -> JSON:
    """Return a text part as a `text` block with its citations.

    The cache marker and the fields in `extra` are added by the caller.
    """
    body: JSON = {"type": "text", "text": part.data}
    if part.citations:
        body["citations"] = [_dump_citation(citation) for citation in part.citations]
    return body


def _dump_file(part: MultiModalPromptMessageContent) -> JSON:
    """Return an image or document part as a block.

    Without a URL and without data the block has no `source`; the caller adds the one in
    `extra`. Only documents have a `title`.
    """
    is_image = isinstance(part, ImagePromptMessageContent)
    body: JSON = {"type": "image" if is_image else "document"}
    if part.filename and not is_image:
        body["title"] = part.filename
    if part.url:
        body["source"] = {"type": "url", "url": part.url}
    elif part.base64_data:
        mime = part.mime_type or mime_type_of(
            part.format, "image" if is_image else "application"
        )
        body["source"] = {
            "type": "base64",
            "media_type": mime,
            "data": part.base64_data,
        }
    return body


def _dump_citation(citation: Citation) -> JSON:
    """Return a citation as an entry of `citations`.

    A citation from this format is written unchanged. Any other becomes a
    `web_search_result_location` with an empty `encrypted_index`.
    """
    if original := citation.extra.get(FORMAT):
        return original
    # The closest type for a citation from another format; its index cannot be
    # reconstructed.
    cited = {
        "type": "web_search_result_location",
        "cited_text": citation.quote,
        "url": citation.url,
        "title": citation.title,
    }
    return {**cited, "encrypted_index": ""}


# ---------------------------------------------------------------------------- responses


def parse_usage(body: Any) -> LLMUsage | None:
    """Parse usage. `input_tokens` excludes cached tokens here, while the internal
    `prompt_tokens` includes them.

    Returns None if no counts are present.
    """
    if not isinstance(body, dict) or (
        count(body.get("input_tokens")) is None
        and not nested_count(body, "output_tokens")
    ):
        return None
    read = nested_count(body, "cache_read_input_tokens")
    write = nested_count(body, "cache_creation_input_tokens")
    # The three input counts are disjoint.
    prompt = nested_count(body, "input_tokens") + read + write
    completion = nested_count(body, "output_tokens")
    return LLMUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        cached_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=nested_count(
            body, "cache_creation", "ephemeral_1h_input_tokens"
        ),
        reasoning_tokens=nested_count(body, "output_tokens_details", "thinking_tokens"),
        searches=nested_count(body, "server_tool_use", "web_search_requests"),
        service_tier=tier_name(body.get("service_tier")),
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    """Return Anthropic's `usage` object: the original if it came from this format.

    Otherwise `input_tokens` is the prompt without the tokens read from and written to
    the cache, which have fields of their own; it is never negative.
    """
    if original := usage.extra.get(FORMAT):
        return original
    # Cached tokens are reported separately, so they are subtracted.
    uncached_tokens = max(
        0, usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    )
    body: JSON = {
        "input_tokens": uncached_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        # Required, if only as null.
        "cache_creation": None,
        "inference_geo": None,
        "output_tokens_details": None,
        "server_tool_use": None,
        "service_tier": None,
    }
    body["service_tier"] = served_tier(FORMAT, usage.service_tier) or None
    if usage.reasoning_tokens:
        body["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if usage.searches:
        body["server_tool_use"] = {
            "web_search_requests": usage.searches,
            "web_fetch_requests": 0,
        }
    return body


# Stop reasons of this format → finish reasons, and back.
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "content_filter",
    "compaction": "pause",
}
_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "pause": "pause_turn",
    "content_filter": "refusal",
}
_RESULT_KNOWN = frozenset(
    {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}
)


def _parse_reason(body: JSON) -> tuple[str | None, dict[str, Any]]:
    """Return the finish reason and the fields needed to restore the original."""
    stop_reason = body.get("stop_reason")
    reason = _REASONS.get(stop_reason, stop_reason) if stop_reason else None
    extra_fields: JSON = {}
    # Several stop reasons map to one finish reason, so the original is preserved if it
    # would be lost.
    if stop_reason and _STOPS.get(reason or "") != stop_reason:
        extra_fields["stop_reason"] = stop_reason
    if body.get("stop_sequence") is not None:
        extra_fields["stop_sequence"] = body["stop_sequence"]
    return reason, extra_fields


@reads_answer
def parse_result(body: JSON) -> LLMResult:
    """Parse a complete response, a `message` object.

    Usage without counts is marked as estimated. Raises the InvokeError that fits the
    error type if the body is an error, even with status 200, and
    InvokeServerUnavailableError if it is malformed.
    """
    # Some compatible servers send an error with status 200.
    raise_error_in(body)
    blocks = body.get("content")
    if not isinstance(blocks, list):
        raise InvokeServerUnavailableError("Upstream response has no 'content'")
    reason, extra_fields = _parse_reason(body)
    try:
        message = assistant_of(
            [
                _parse_assistant_block(block, f"content[{i}]", FORMAT)
                for i, block in enumerate(blocks)
            ]
        )
    except InvokeBadRequestError as error:
        # The readers report a bad request, but here the server is at fault.
        raise InvokeServerUnavailableError(
            f"Invalid upstream response: {error}"
        ) from error
    return LLMResult(
        id=body.get("id") or "",
        model=body.get("model") or "",
        choices=[
            LLMChoice(
                message=with_call_ids(message, body.get("id") or ""),
                finish_reason=reason,
                extra=passthrough_fields(FORMAT, extra_fields),
            )
        ],
        usage=parse_usage(body.get("usage")) or LLMUsage(estimated=True),
        extra=passthrough_fields(FORMAT, unknown_fields(body, _RESULT_KNOWN)),
    )


_NULL_FIELDS: JSON = {"stop_details": None, "container": None}
"""Fields that an answer must have, if only as null."""


def _dump_answer_blocks(message: AssistantPromptMessage) -> list[JSON]:
    """Return the `content` blocks of a complete answer, without audio and video."""
    # Unlike in a request, all reasoning is written, no matter which provider signed it.
    blocks: list[JSON] = []
    for block in message.blocks:
        if isinstance(block, ToolCall):
            blocks.append({"caller": _DIRECT_CALLER, **_dump_call(block)})
        elif not isinstance(
            block, AudioPromptMessageContent | VideoPromptMessageContent
        ):
            blocks += _dump_parts([block])
    if message.refusal:
        blocks.append({"type": "text", "text": message.refusal})
    for block in blocks:
        # Required in answers; a request to a compatible server goes without.
        if block["type"] == "text":
            block.setdefault("citations", None)
    return blocks


def _dump_reason(
    reason: str | None, extra: dict[str, Any], *, has_calls: bool = False
) -> JSON:
    """Return the fields `stop_reason` and `stop_sequence` of an answer.

    The values in `extra` that came from this format take precedence. `has_calls` turns
    `end_turn` into `tool_use`. A finish reason without a counterpart is written
    unchanged.
    """
    stop_reason = _STOPS.get(reason or "", reason)
    if stop_reason == "end_turn" and has_calls:
        stop_reason = "tool_use"  # some providers report `stop` for tool calls
    return {"stop_reason": stop_reason, "stop_sequence": None, **extra.get(FORMAT, {})}


def dump_result(result: LLMResult) -> JSON:
    """Convert a complete answer to a `message` object.

    The format has one answer only: choices after the first are dropped. Fields in
    `extra` that came from this format take precedence. Raises IndexError if there are
    no choices.
    """
    choice = result.choices[0]
    extra_fields = dict(result.extra.get(FORMAT, {}))
    # A stream's own field, if the answer has been collected from one.
    extra_fields.pop("start_usage", None)
    return {
        "id": result.id,
        "type": "message",
        "role": "assistant",
        "model": result.model,
        "content": _dump_answer_blocks(choice.message),
        **_NULL_FIELDS,
        **_dump_reason(
            choice.finish_reason,
            choice.extra,
            has_calls=bool(choice.message.tool_calls),
        ),
        "usage": dump_usage(result.usage),
        **extra_fields,
    }


def dump_token_count(tokens: int) -> JSON:
    """Return the body of a count_tokens response: the input tokens of a request."""
    return {"input_tokens": tokens}


def parse_token_count(body: JSON) -> int | None:
    """Return `input_tokens` of a count_tokens response.

    Returns None if the field is missing or not a plausible count.
    """
    return count(body.get("input_tokens"))


# ------------------------------------------------------------------------------ streams


class StreamParser:
    """Converts the events of a Messages stream to chunks, one event at a time.

    One instance per stream: it remembers the id, the usage and the blocks that are
    still open. Tool calls are numbered from 0 in the chunks, separately from other
    blocks.
    """

    def __init__(self) -> None:
        self._id = self._model = ""
        self._usage: JSON = {}
        # Citations and lengths of texts, by block index.
        self._citations: dict[int, list[Citation]] = {}
        self._lengths: dict[int, int] = {}
        # Blocks and JSON fragments that are still open, by block index.
        self._blocks: dict[int, JSON] = {}
        self._json: dict[int, list[str]] = {}
        self._calls = 0
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        """Return the chunks of one event; none for `ping` and unknown types.

        Raises the InvokeError that fits the error type for an `error` event, and
        InvokeServerUnavailableError if an event lacks its object.
        """
        match event.get("type"):
            case "content_block_delta":
                return self._on_delta(_index(event), typed_event(event, "delta"))
            case "content_block_start":
                return self._on_start(
                    _index(event), typed_event(event, "content_block")
                )
            case "content_block_stop":
                return self._on_stop(_index(event))
            case "message_start":
                return self._on_message(typed_event(event, "message"))
            case "message_delta":
                return self._on_end(event)
            case "message_stop":
                self._has_finished = True
            case "error":
                raise error_of(event.get("error") or event)
            case _:
                pass  # `ping`, and event types that may be added later
        return []

    def finish(self, *, end_marker_seen: bool) -> list[LLMResultChunk]:
        """Check that the stream is complete; there are no further chunks.

        Without this check a truncated answer would pass as a complete one. Raises
        InvokeServerUnavailableError if neither the transport saw an end marker nor the
        parser `message_stop`.
        """
        if not end_marker_seen and not self._has_finished:
            raise InvokeServerUnavailableError(
                "Upstream stream ended without message_stop"
            )
        return []

    def _chunk(self, **delta: Any) -> list[LLMResultChunk]:
        """Return one chunk with these delta fields, in a list as `feed` does."""
        return [
            LLMResultChunk(
                id=self._id, model=self._model, delta=LLMResultChunkDelta(**delta)
            )
        ]

    def _part(self, part: PromptMessageContent) -> list[LLMResultChunk]:
        """Return the chunk with one part."""
        return self._chunk(message=AssistantPromptMessage(content=[part]))

    def _on_message(self, message: JSON) -> list[LLMResultChunk]:
        """Handle `message_start`: remember the id, the model and the initial usage.

        Returns a chunk without content, whose `extra` has the usage as `start_usage`
        and the unknown fields of the message.
        """
        self._id, self._model = message.get("id") or "", message.get("model") or ""
        self._usage = dict(message.get("usage") or {})
        extra_fields = unknown_fields(message, _RESULT_KNOWN)
        # The start usage is preserved, since a dumper of this format must begin with
        # it.
        return [
            LLMResultChunk(
                id=self._id,
                model=self._model,
                extra={FORMAT: {**extra_fields, "start_usage": self._usage}},
            )
        ]

    def _on_start(self, index: int, block: JSON) -> list[LLMResultChunk]:
        """Handle `content_block_start`: return the start of a call, or initial text.

        A call's chunk has its id and name. Nothing is returned for a text or reasoning
        block that is still empty, nor for other types, which are emitted complete at
        `content_block_stop`. Raises InvokeBadRequestError for a text block without
        `text`.
        """
        self._blocks[index] = block
        match block.get("type"):
            case "text" | "thinking" | "redacted_thinking":
                part = _parse_block(block, "content_block", FORMAT)
                # An initial block usually has no content; its deltas follow.
                is_silent = (
                    not getattr(part, "data", "")
                    and not getattr(part, "signature", "")
                    and not part.extra
                )
                return (
                    []
                    if is_silent
                    else self._part(msgspec.structs.replace(part, index=index))
                )
            case "tool_use":
                # Internally, calls are numbered separately from other blocks.
                block["call"] = self._calls
                self._calls += 1
                function = ToolCallFunction(name=block.get("name") or "")
                extra = passthrough_fields(
                    FORMAT,
                    unknown_fields(
                        block, frozenset({"type", "id", "name", "input", "call"})
                    ),
                )
                call = ToolCall(
                    id=block.get("id") or generated_call_id(self._id, block["call"]),
                    function=function,
                    index=block["call"],
                    extra=extra,
                )
                return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))
            case _:
                return []

    def _on_delta(self, index: int, delta: JSON) -> list[LLMResultChunk]:
        """Handle `content_block_delta`: return the chunk for its delta type.

        Deltas of an unknown type are merged into the block and return nothing.
        """
        match delta.get("type"):
            case "text_delta":
                text = delta.get("text") or ""
                self._lengths[index] = self._lengths.get(index, 0) + len(text)
                return self._part(TextPromptMessageContent(data=text, index=index))
            case "thinking_delta":
                data = delta.get("thinking") or ""
                extra = passthrough_fields(
                    FORMAT, unknown_fields(delta, frozenset({"type", "thinking"}))
                )
                return self._part(
                    ThinkingPromptMessageContent(
                        data=data, index=index, origin=FORMAT, extra=extra
                    )
                )
            case "signature_delta":
                signed = delta.get("signature") or ""
                return self._part(
                    ThinkingPromptMessageContent(
                        signature=signed, index=index, origin=FORMAT
                    )
                )
            case "citations_delta":
                # It covers the whole text, whose length is known at its end.
                cited = _parse_citation(delta.get("citation") or {})
                self._citations.setdefault(index, []).append(cited)
                return []
            case "input_json_delta":
                return self._on_json(index, delta.get("partial_json") or "")
            case _:
                return self._on_other(index, delta)

    def _on_json(self, index: int, fragment: str) -> list[LLMResultChunk]:
        """Handle an `input_json_delta`: return the fragment of a call's arguments.

        Nothing is returned for an empty fragment, nor for a block that is no client
        call (such as `server_tool_use`), whose input is emitted at its end.
        """
        block = self._blocks.get(index, {})
        # Fragments are also stored for blocks without a tool call, which are emitted
        # complete at their end.
        self._json.setdefault(index, []).append(fragment)
        if "call" not in block or not fragment:
            return []
        call = ToolCall(
            function=ToolCallFunction(arguments=fragment), index=block["call"]
        )
        return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))

    def _on_other(self, index: int, delta: JSON) -> list[LLMResultChunk]:
        """Handle an unknown delta type: its texts are appended to the block, other
        values replace it."""
        block = self._blocks.get(index, {})
        for name, value in delta.items():
            if name == "type":
                continue
            previous = block.get(name)
            block[name] = (
                previous + value
                if isinstance(previous, str) and isinstance(value, str)
                else value
            )
        return []

    def _on_stop(self, index: int) -> list[LLMResultChunk]:
        """Handle `content_block_stop`: return what the deltas of the block left out.

        For a call without streamed arguments that is the `input` of its start event;
        for a block type that only this format has, the complete block as an opaque
        part. Text and reasoning blocks return nothing.
        """
        block = self._blocks.pop(index, {})
        text = "".join(self._json.pop(index, ()))
        match block.get("type"):
            case "text" if index in self._citations:
                length = self._lengths.get(index, 0) + len(block.get("text") or "")
                cited = covering(self._citations.pop(index), length)
                return self._part(
                    TextPromptMessageContent(data="", citations=cited, index=index)
                )
            case "text" | "thinking" | "redacted_thinking" | None:
                return []
            case "tool_use":
                # If the arguments were streamed, everything was emitted already.
                if text:
                    return []
                call = ToolCall(
                    function=ToolCallFunction(arguments=as_text(block.get("input"))),
                    index=block["call"],
                )
                return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))
            case _:
                if text:
                    # A server tool's input arrives as JSON fragments.
                    block = {**block, "input": as_object(text)}
                return self._part(OpaquePromptMessageContent(format=FORMAT, data=block))

    def _on_end(self, event: JSON) -> list[LLMResultChunk]:
        """Handle `message_delta`: return a chunk with the finish reason and the usage.

        Its counts are merged over those of `message_start`; null counts are ignored.
        Raises InvokeServerUnavailableError if the event has no `delta` object.
        """
        delta = typed_event(event, "delta")
        reported_usage = event.get("usage")
        if isinstance(reported_usage, dict):
            # Final counts override those of the start; null values mean unchanged.
            self._usage |= {
                name: value
                for name, value in reported_usage.items()
                if value is not None
            }
        reason, extra_fields = _parse_reason(delta)
        event_fields = unknown_fields(
            delta, frozenset({"stop_reason", "stop_sequence"})
        )
        event_fields |= unknown_fields(event, frozenset({"type", "delta", "usage"}))
        # Null fields carry no information.
        event_fields = {
            name: value for name, value in event_fields.items() if value is not None
        }
        chunk = LLMResultChunk(
            id=self._id,
            model=self._model,
            delta=LLMResultChunkDelta(
                finish_reason=reason,
                usage=parse_usage(self._usage),
                extra=passthrough_fields(FORMAT, extra_fields),
            ),
            extra=passthrough_fields(FORMAT, event_fields),
        )
        return [chunk]


def _index(event: JSON) -> int:
    """Return the number of an event's block."""
    return count(event.get("index")) or 0


def typed_event(event: JSON, name: str) -> JSON:
    """Return the object in field `name` of a stream event.

    Raises InvokeServerUnavailableError if it is missing or not an object.
    """
    value = event.get(name)
    if not isinstance(value, dict):
        raise InvokeServerUnavailableError(
            f"Upstream stream: {name!r} must be an object, not {short_repr(value)}"
        )
    return value


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    """Yield the chunks of a complete stream of events.

    Raises InvokeServerUnavailableError if the stream is truncated or malformed, and the
    matching InvokeError for an `error` event.
    """
    return parse_events(StreamParser(), events)


class StreamDumper:
    """Converts chunks to the events of a Messages stream, one chunk at a time.

    Blocks are sequential in this format: each is closed before the next one opens, so
    calls that are interleaved in the chunks are written one after the other. One
    instance per stream; `created` is not used.
    """

    def __init__(
        self,
        *,
        response_id: str,
        model: str,
        created: int = 0,
        estimate_input: Callable[[], int] | None = None,
    ) -> None:
        """`estimate_input` counts the tokens of the prompt, for a provider that reports
        them only at the end."""
        del created
        self._estimate_input = estimate_input
        self._id, self._model = response_id, model
        self._has_begun = False
        # Type and index of the block being written, and its number in the stream.
        self._open: tuple[str, Any] | None = None
        self._number = -1
        self._usage: LLMUsage | None = None
        self._reason: str | None = None
        self._reason_extra: dict[str, Any] = {}
        self._extra: JSON = {}
        self._call_indexes = CallIndexes()
        # Index of the call being written; fragments of other calls wait until it is
        # closed.
        self._active_call: int | None = None
        self._waiting: dict[int, list[ToolCall]] = {}
        self._has_calls = False

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        """Return the events that one chunk produces.

        The first call also returns `message_start`. Choices after the first are
        dropped. The finish reason and the usage are kept for `finish`.
        """
        events: list[JSON] = []
        delta = chunk.delta
        if not self._has_begun:
            events.append(
                self._start(dict(chunk.extra.get(FORMAT, {})), chunk.delta.usage)
            )
        elif chunk.extra:
            self._extra |= chunk.extra.get(FORMAT, {})
        self._usage = delta.usage or self._usage
        # The format has one answer per stream, so further choices are dropped.
        if delta.index:
            return events
        message = delta.message
        # The common case of plain text needs no list of blocks.
        if (
            isinstance(message.content, str)
            and message.content
            and not message.tool_calls
            and message.reasoning_content is None
        ):
            events += self._text(("text", None), message.content)
        else:
            for block in message.blocks:
                events += self._block(block)
        if message.refusal:
            events += self._text(("refusal", None), message.refusal)
        self._reason = delta.finish_reason or self._reason
        self._reason_extra = delta.extra or self._reason_extra
        return events

    def _start(self, extra_fields: JSON, first_usage: LLMUsage | None) -> JSON:
        """Return the `message_start` event.

        Its usage is removed from `extra_fields`, the first chunk's fields of this
        format, where it is called `start_usage`. Without one it is that of the first
        chunk, or an estimate, which the `message_delta` at the end corrects.
        """
        self._has_begun = True
        usage = extra_fields.pop("start_usage", None)
        if usage is None and first_usage is None:
            # Clients show how full the context is by this count.
            estimate = self._estimate_input() if self._estimate_input else 0
            first_usage = LLMUsage(prompt_tokens=estimate)
        if usage is None:
            usage = dump_usage(first_usage or LLMUsage())
        message = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
            **_NULL_FIELDS,
            **extra_fields,
        }
        return {"type": "message_start", "message": message}

    def _block(self, block: PromptMessageContent | ToolCall) -> list[JSON]:
        """Return the events for one part or tool call fragment of a chunk.

        Audio and video return nothing. Parts without deltas, such as images and
        redacted reasoning, are written as a complete block. May return nothing for a
        call that must wait.
        """
        match block:
            case TextPromptMessageContent():
                events = (
                    self._text(("text", block.index), block.data) if block.data else []
                )
                # A text block must announce an empty citation list before citation
                # deltas.
                for cited in block.citations:
                    events += self._delta(
                        ("text", block.index),
                        {"type": "text", "text": "", "citations": []},
                        {"type": "citations_delta", "citation": _dump_citation(cited)},
                    )
                return events
            case ThinkingPromptMessageContent() if not block.redacted:
                return self._thought(block)
            case ToolCall():
                return self._call(block)
            case AudioPromptMessageContent() | VideoPromptMessageContent():
                return []
            case _:
                # Blocks without deltas are written complete.
                complete_block = _dump_part(block)
                return (
                    self._write_complete_block(complete_block)
                    if complete_block is not None
                    else []
                )

    def _text(self, key: tuple[str, Any], text: str) -> list[JSON]:
        """Return the events for a piece of text."""
        return self._delta(
            key,
            {"type": "text", "text": "", "citations": None},
            {"type": "text_delta", "text": text},
        )

    def _thought(self, thought: ThinkingPromptMessageContent) -> list[JSON]:
        """Return a `thinking_delta` and a `signature_delta` event, if not empty."""
        key = ("thinking", thought.index)
        start = {"type": "thinking", "thinking": "", "signature": ""}
        events: list[JSON] = []
        if thought.data:
            extra_fields = thought.extra.get(FORMAT, {})
            events += self._delta(
                key,
                start,
                {"type": "thinking_delta", "thinking": thought.data, **extra_fields},
            )
        if thought.signature:
            events += self._delta(
                key, start, {"type": "signature_delta", "signature": thought.signature}
            )
        return events

    def _call(self, call: ToolCall) -> list[JSON]:
        """Return the events for a fragment of a tool call.

        Only one call can be open: fragments of other calls are kept until its block is
        closed, and return nothing.
        """
        index = self._call_indexes.index_of(call)
        self._has_calls = True
        if self._active_call is None:
            self._active_call = index
        # Parallel calls may be interleaved in chunks, but blocks cannot: buffer all but
        # the first.
        if index != self._active_call:
            self._waiting.setdefault(index, []).append(call)
            return []
        return self._write_call(index, [call])

    def _write_call(self, index: int, fragments: list[ToolCall]) -> list[JSON]:
        """Return the events for fragments of one call.

        A `content_block_start` with the id and name of the first fragment, unless the
        block is open already; then one `input_json_delta` with the joined arguments,
        unless they are empty.
        """
        first_fragment = fragments[0]
        start = {
            "type": "tool_use",
            "id": first_fragment.id,
            "name": first_fragment.function.name,
            "input": {},
            "caller": _DIRECT_CALLER,
            **first_fragment.extra.get(FORMAT, {}),
        }
        # Id and name are sent with the start; only arguments can be streamed.
        events = self._open_block(("call", index), start)
        text = "".join(fragment.function.arguments for fragment in fragments)
        if text:
            events.append(
                self._event({"type": "input_json_delta", "partial_json": text})
            )
        return events

    def _delta(self, key: tuple[str, Any], start: JSON, delta: JSON) -> list[JSON]:
        """Return the events for a piece of a block, which is opened if necessary."""
        events = self._open_block(key, start)
        events.append(self._event(delta))
        return events

    def _event(self, delta: JSON) -> JSON:
        """Return the event for a piece of the open block."""
        return {"type": "content_block_delta", "index": self._number, "delta": delta}

    def _open_block(self, key: tuple[str, Any], start: JSON) -> list[JSON]:
        """Return the events that open a block, or nothing if it is open already.

        `key` identifies a block by its type and source index, `start` is the
        `content_block` object. Another open block is closed first.
        """
        if self._open == key:
            return []
        events = self._close_block() if key[0] != "waiting" else []
        self._number += 1
        self._open = key
        return [
            *events,
            {
                "type": "content_block_start",
                "index": self._number,
                "content_block": start,
            },
        ]

    def _close_block(self) -> list[JSON]:
        """Return the events that close the open block, followed by the calls that were
        buffered behind it."""
        if self._open is None:
            return []
        events: list[JSON] = [{"type": "content_block_stop", "index": self._number}]
        was_call = self._open[0] == "call"
        self._open = None
        if was_call:
            # Reset first, so that writing the buffered calls opens new blocks.
            waiting, self._waiting, self._active_call = self._waiting, {}, None
            for index, fragments in waiting.items():
                events += self._write_call(index, fragments)
                events.append({"type": "content_block_stop", "index": self._number})
                self._open = None
        return events

    def _write_complete_block(self, block: JSON) -> list[JSON]:
        """Return the events of a block that is written at once. Clients read the input
        of a tool from its delta."""
        tool_input = block.get("input")
        start = block if tool_input is None else {**block, "input": {}}
        events = self._open_block(("whole", self._number), start)
        if tool_input is not None:
            delta = {"type": "input_json_delta", "partial_json": as_text(tool_input)}
            events.append(self._event(delta))
        return [*events, *self._close_block()]

    def finish(self) -> list[JSON]:
        """Return the final events: the end of the open block, the stop reason, and the
        usage."""
        events: list[JSON] = [] if self._has_begun else [self._start({}, self._usage)]
        events += self._close_block()
        reason = _dump_reason(
            self._reason, self._reason_extra, has_calls=self._has_calls
        )
        # It belongs to the start of the stream and must not be repeated.
        self._extra.pop("start_usage", None)
        # In a stream these two are part of the delta, not of the event.
        for name, absent in _NULL_FIELDS.items():
            reason[name] = self._extra.pop(name, absent)
        usage = dump_usage(self._usage or LLMUsage())
        events.append(
            {"type": "message_delta", "delta": reason, "usage": usage, **self._extra}
        )
        events.append({"type": "message_stop"})
        return events


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    """Convert a complete stream of chunks to events.

    The response id and the model come from the first chunk. An empty stream yields
    nothing.
    """
    return dump_chunks(chunks, StreamDumper)


# ------------------------------------------------------------------------------- errors


def error_of(error: Mapping[str, Any]) -> InvokeError:
    """Return the exception for an error object. The caller raises it."""
    return provider_error(error)


# HTTP status → error type.
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    """Return an error body whose `error.type` is chosen by the HTTP status.

    Statuses without a type of their own become `invalid_request_error` below 500 and
    `api_error` from 500. `request_id` is omitted if empty.
    """
    general_type = "invalid_request_error" if status < 500 else "api_error"
    error = {"type": _KINDS.get(status) or general_type, "message": message}
    return {"type": "error", "error": error, **without_empty(request_id=request_id)}
