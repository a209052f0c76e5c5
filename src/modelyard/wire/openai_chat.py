"""Translate between OpenAI's Chat Completions API and modelyard's chat types. Pure
functions: no network, no clock.

In addition to OpenAI's own fields it reads and writes what most servers of this format
share: `reasoning_content` for thoughts, and OpenRouter's `reasoning_details` for their
signatures. Thus a conversation can continue at any provider.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec

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
from modelyard.models.arguments import as_text
from modelyard.models.call_indexes import CallIndexes
from modelyard.models.capabilities import Capabilities
from modelyard.models.citations import WholeText, placed_citations
from modelyard.models.llm import (
    LLMChoice,
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.media import checked_base64, format_of, from_url, mime_type_of
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    AudioPromptMessageContent,
    Citation,
    Content,
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
from modelyard.models.reasoning import budget_of, effort_of
from modelyard.models.service_tiers import served_tier
from modelyard.models.streams import dump_chunks, parse_events
from modelyard.models.tool_call_reader import ToolCallReader, with_call_ids
from modelyard.models.types import JSON

FORMAT = "openai_chat"

# Parameter -> (type, lower and upper bound).
_PARAMETER_RANGES: dict[str, tuple[type[int] | type[float], float, float]] = {
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "top_k": (int, -1, 1 << 31),
    "presence_penalty": (float, -2, 2),
    "frequency_penalty": (float, -2, 2),
    "max_tokens": (int, 1, 1 << 31),
    "seed": (int, -(1 << 63), 1 << 63),
    "n": (int, 1, 128),
    "top_logprobs": (int, 0, 20),
}
_PARAMETER_TYPES: dict[str, type] = {
    "logprobs": bool,
    "response_format": dict,
    "parallel_tool_calls": bool,
    "reasoning_effort": str,
    "verbosity": str,
    "modalities": list,
    "service_tier": str,
    "metadata": dict,
}
# Fields with their own readers. Every other field passes through unchanged in `extra`.
_STRUCTURAL_FIELDS = {
    "model",
    "messages",
    "tools",
    "tool_choice",
    "stop",
    "stream",
    "stream_options",
    "user",
    "max_completion_tokens",
    "functions",
    "function_call",
}
# Other fields are passed on unchanged to a provider of this format.
_KNOWN_FIELDS = frozenset(
    _STRUCTURAL_FIELDS | set(_PARAMETER_RANGES) | set(_PARAMETER_TYPES)
)
PARAMETERS = (
    {"stop"}
    | frozenset(_PARAMETER_RANGES)
    | frozenset(_PARAMETER_TYPES)
    | {"thinking_budget", "include_thoughts"}
)
"""The model parameters that a request of this format can have."""
# Each message becomes objects; the size of the body bounds them too late.
_MAX_MESSAGES = 10_000


# ----------------------------------------------------------------------------- requests


@reads_request
def parse_request(body: JSON) -> LLMRequest:
    """Parse the JSON body of a client's request to `/v1/chat/completions`.

    Fields without a reader are kept in `extra`. Raises InvokeBadRequestError that names
    the field: for missing, empty or more than 10,000 messages, for an invalid value,
    and for a tool result without an earlier call.
    """
    messages = required_field(body, "messages", list)
    if not messages:
        raise InvokeBadRequestError(
            "'messages' must contain at least one message", param="messages"
        )
    if len(messages) > _MAX_MESSAGES:
        raise InvokeBadRequestError(
            f"'messages' has {len(messages):,} messages; at most {_MAX_MESSAGES:,} are"
            " allowed",
            param="messages",
        )
    parameters = _parse_parameters(body)
    # `function_call` is the deprecated form of `tool_choice`.
    choice = body.get("tool_choice", body.get("function_call"))
    return LLMRequest(
        format=FORMAT,
        messages=_match_tool_results(_parse_messages(messages)),
        model_parameters=parameters,
        tools=_parse_tools(body),
        tool_choice=_parse_tool_choice(choice) if choice is not None else None,
        stop=_parse_stop(body.get("stop")),
        stream=optional_field(body, "stream", bool) or False,
        user=optional_field(body, "user", str),
        # Explicit nulls mean "not set" and are not passed on.
        extra=passthrough_fields(
            FORMAT,
            {
                key: value
                for key, value in body.items()
                if key not in _KNOWN_FIELDS and value is not None
            },
        ),
    )


def _match_tool_results(messages: list[AnyPromptMessage]) -> list[AnyPromptMessage]:
    """Return the messages, after checking that every tool result answers an earlier
    tool call.

    Raises InvokeBadRequestError for a result without a call.
    """
    calls: set[str] | None = None
    for index, message in enumerate(messages):
        if isinstance(message, AssistantPromptMessage):
            # A deprecated function call has no id; its name is used instead.
            calls = (calls or set()) | {
                call.id or call.function.name for call in message.tool_calls
            }
        elif isinstance(message, ToolPromptMessage) and message.tool_call_id not in (
            calls or ()
        ):
            where = f"messages[{index}].tool_call_id"
            raise invalid_field(
                where,
                message.tool_call_id,
                "the id of a tool call in an earlier assistant message",
            )
    return messages


def _parse_parameters(body: JSON) -> dict[str, Any]:
    """Return the sampling and output parameters of a chat request.

    Null values are left out, and `max_completion_tokens` replaces `max_tokens`. Raises
    InvokeBadRequestError if a value has the wrong type or is out of range.
    """
    parameters: dict[str, Any] = {}
    for name, value in body.items():
        if value is None:
            continue
        if name in _PARAMETER_RANGES:
            value_type, low, high = _PARAMETER_RANGES[name]
            in_range(expect_type(value, value_type, name), low, high, name)
            # The original value is stored, so that an int for a float parameter stays
            # an int.
            parameters[name] = value
        elif name == "response_format":
            parameters[name] = _read_response_format(value)
        elif name in _PARAMETER_TYPES:
            parameters[name] = expect_type(value, _PARAMETER_TYPES[name], name)
    # OpenAI's newer name takes precedence over the deprecated `max_tokens`.
    if (max_tokens := optional_field(body, "max_completion_tokens", int)) is not None:
        in_range(max_tokens, 1, 1 << 31, "max_completion_tokens")
        parameters["max_tokens"] = max_tokens
    return parameters


def _read_response_format(value: Any) -> JSON | str:
    """Return OpenAI's `response_format` object, or the name of a format.

    Dify's models have names of their own, such as `XML`; the rules of the model check
    them. Raises InvokeBadRequestError if an object's type is not `text`, `json_object`
    or `json_schema`, or if a `json_schema` has no `schema`.
    """
    if isinstance(value, str):
        return {"type": value} if value in ("text", "json_object") else value
    response_format = expect_type(value, dict, "response_format")
    format_type = required_field(response_format, "type", str, "response_format.")
    if format_type not in ("text", "json_object", "json_schema"):
        raise invalid_field(
            "response_format.type", format_type, "text, json_object or json_schema"
        )
    if format_type == "json_schema":
        required_field(
            required_field(response_format, "json_schema", dict, "response_format."),
            "schema",
            dict,
            "response_format.json_schema.",
        )
    return response_format


def _parse_stop(value: Any) -> list[str]:
    """Return `stop` as a list; null gives an empty list.

    Raises InvokeBadRequestError if it is neither a string nor a list of strings.
    """
    if value is None:
        return []
    stop_sequences = (
        [value] if isinstance(value, str) else expect_type(value, list, "stop")
    )
    return [
        expect_type(stop_sequence, str, f"stop[{index}]")
        for index, stop_sequence in enumerate(stop_sequences)
    ]


def _parse_tools(body: JSON) -> list[PromptMessageTool]:
    """Return the tools of `tools`, followed by those of the deprecated `functions`.

    Raises InvokeBadRequestError if a list has more than `MAX_TOOLS` entries or an
    invalid one.
    """
    tools = [_parse_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools_of(body))]
    # `functions` is the deprecated form of `tools`, without the enclosing object.
    for index, function in enumerate(tools_of(body, "functions")):
        tools.append(
            _parse_function(
                expect_type(function, dict, f"functions[{index}]"),
                f"functions[{index}]",
                {},
            )
        )
    return tools


def _parse_tool(tool: Any, where: str) -> PromptMessageTool:
    """Parse an entry of `tools`: a function, a custom tool or a hosted tool.

    `where` is its path for error messages. A type other than `function` and `custom` is
    a hosted tool; its whole definition is kept in `extra`. Raises InvokeBadRequestError
    if a field is missing or invalid.
    """
    body = expect_type(tool, dict, where)
    tool_type = body.get("type", "function")
    if tool_type == "function":
        return _parse_function(
            required_field(body, "function", dict, f"{where}."),
            f"{where}.function",
            body,
        )
    # A custom tool takes free text instead of JSON arguments.
    if tool_type == "custom":
        custom = required_field(body, "custom", dict, f"{where}.")
        name = required_field(custom, "name", str, f"{where}.custom.")
        extra_fields = unknown_fields(custom, frozenset({"name", "description"}))
        description = custom.get("description") or ""
        return PromptMessageTool(
            name=name,
            description=description,
            type="custom",
            extra=passthrough_fields(FORMAT, extra_fields),
        )
    if not isinstance(tool_type, str):
        raise invalid_field(f"{where}.type", tool_type, "a string such as 'function'")
    # Any other type is a tool that the provider runs itself. Its whole definition is
    # preserved.
    return PromptMessageTool(name=tool_type, type=tool_type, extra={FORMAT: body})


def _parse_function(function: JSON, where: str, tool_body: JSON) -> PromptMessageTool:
    """Parse the definition of a function.

    `tool_body` is the object around it, which may have `cache_control`; it is empty for
    the deprecated `functions`. Raises InvokeBadRequestError if the name is missing or a
    field has another type.
    """
    known_fields = frozenset(
        {"name", "description", "parameters", "strict", "cache_control"}
    )
    strict = optional_field(function, "strict", bool, f"{where}.")
    return PromptMessageTool(
        name=required_field(function, "name", str, f"{where}."),
        description=optional_field(function, "description", str, f"{where}.") or "",
        parameters=optional_field(function, "parameters", dict, f"{where}.") or {},
        strict=strict,
        # Anthropic's cache marker stands next to `function`, or inside of it.
        cache_control=tool_body.get("cache_control") or function.get("cache_control"),
        extra=passthrough_fields(FORMAT, unknown_fields(function, known_fields)),
    )


def _parse_tool_choice(value: Any) -> str | dict[str, Any]:
    """Parse OpenAI's `tool_choice`, or the deprecated `function_call`.

    Returns `auto`, `none` or `required`; `name` for a forced tool; or `mode` and
    `allowed` for a list of allowed tools. Mistral's `any` becomes `required`. Raises
    InvokeBadRequestError for other values.
    """
    if isinstance(value, str):
        if value == "any":  # Mistral's name for it
            return "required"
        if value not in ("auto", "none", "required"):
            raise invalid_field(
                "tool_choice",
                value,
                "auto, none, required or an object that names a function",
            )
        return value
    choice = expect_type(value, dict, "tool_choice")
    match choice.get("type"):
        case "function" | "custom" as choice_type:
            inner = required_field(choice, choice_type, dict, "tool_choice.")
            return {
                "name": required_field(
                    inner, "name", str, f"tool_choice.{choice_type}."
                )
            }
        case None if "name" in choice:  # the deprecated `function_call`
            return {"name": required_field(choice, "name", str, "tool_choice.")}
        case "allowed_tools":
            allowed = required_field(choice, "allowed_tools", dict, "tool_choice.")
            tools = required_field(allowed, "tools", list, "tool_choice.allowed_tools.")
            # The tools of this list have the nested or the flat form.
            names = [
                tool.get("name")
                or (tool.get("function") or tool.get("custom") or {}).get("name")
                for tool in tools
            ]
            return {"mode": allowed.get("mode") or "auto", "allowed": names}
        case unknown_type:
            raise invalid_field(
                "tool_choice.type", unknown_type, "function, custom or allowed_tools"
            )


# Roles whose message can be built from the text alone.
_TEXT_MESSAGE_CLASSES: dict[Any, Any] = {
    "user": UserPromptMessage,
    "assistant": AssistantPromptMessage,
    "system": SystemPromptMessage,
}


def _parse_messages(messages: list[Any]) -> list[AnyPromptMessage]:
    """Parse the messages. Those with only a role and a text, the most common form, take
    a short path."""
    result: list[AnyPromptMessage] = []
    for index, message in enumerate(messages):
        # Exact types are compared here because that is the cheapest check.
        if (
            type(message) is dict
            and len(message) == 2
            and type(text := message.get("content")) is str
        ):
            role = message.get("role")
            if type(role) is str and role in _TEXT_MESSAGE_CLASSES:
                result.append(_TEXT_MESSAGE_CLASSES[role](content=text))
                continue
        result.append(_parse_message(message, f"messages[{index}]"))
    return result


def _parse_message(message: Any, where: str) -> AnyPromptMessage:
    """Parse an entry of a request's `messages`.

    `where` is its path for error messages. The role `developer` becomes a system
    message that stores its role. Raises InvokeBadRequestError for an unknown role or an
    invalid field.
    """
    if not isinstance(message, dict):
        raise invalid_field(where, message, "an object with role and content")
    parsed = _parse_by_role(message, where)
    mark = message.get("cache_control")
    if isinstance(mark, dict) and not isinstance(parsed, ToolPromptMessage):
        return _with_mark(parsed, mark)
    return parsed


def _with_mark(
    message: SystemPromptMessage | UserPromptMessage | AssistantPromptMessage,
    mark: JSON,
) -> AnyPromptMessage:
    """Return a message whose cache marker is on the last of its parts or calls: it
    covers everything up to there."""
    calls = message.tool_calls if isinstance(message, AssistantPromptMessage) else []
    if calls:
        last_call = msgspec.structs.replace(calls[-1], cache_control=mark)
        return msgspec.structs.replace(message, tool_calls=[*calls[:-1], last_call])
    parts = message.parts
    if not parts:
        return message
    last_part = msgspec.structs.replace(parts[-1], cache_control=mark)
    return msgspec.structs.replace(message, content=[*parts[:-1], last_part])


def _parse_by_role(message: JSON, where: str) -> AnyPromptMessage:
    """Parse an entry of `messages`, without a cache marker of the message itself."""
    role = message.get("role")
    name = message.get("name")
    if name is not None:
        expect_type(name, str, f"{where}.name")
    match role:
        case "user":
            content = _parse_content(message.get("content"), where)
            return UserPromptMessage(
                content=content,
                name=name,
                extra=passthrough_fields(
                    FORMAT, unknown_fields(message, _MESSAGE_FIELDS)
                ),
            )
        case "assistant":
            return parse_assistant(message, where)
        case "system" | "developer":
            extra_fields = unknown_fields(message, _MESSAGE_FIELDS)
            # The role is stored, so that "developer" is written again.
            if role == "developer":
                extra_fields = {**extra_fields, "role": role}
            content = _parse_content(message.get("content"), where)
            return SystemPromptMessage(
                content=content,
                name=name,
                extra=passthrough_fields(FORMAT, extra_fields),
            )
        case "tool" | "function":
            return _parse_tool_message(message, where)
        case _:
            raise invalid_field(
                f"{where}.role", role, "system, developer, user, assistant or tool"
            )


def _parse_tool_message(message: JSON, where: str) -> ToolPromptMessage:
    """Parse a message with the role `tool`, or with the deprecated role `function`.

    The deprecated form has no call id: the function's name takes its place, and `extra`
    stores the role. Raises InvokeBadRequestError if the id or the name is missing.
    """
    is_old = message["role"] == "function"
    content = message.get("content")
    extra_fields = unknown_fields(message, _TOOL_MESSAGE_FIELDS) | (
        {"role": "function"} if is_old else {}
    )
    # The format has no name here; what a caller sends anyway goes to its own format.
    if (name := message.get("name")) is not None:
        extra_fields["name"] = name
    return ToolPromptMessage(
        content=_parse_content(content, where) if content is not None else None,
        name=name,
        # A result of the deprecated form is identified by the function's name.
        tool_call_id=required_field(
            message, "name" if is_old else "tool_call_id", str, f"{where}."
        ),
        cache_control=message.get("cache_control"),
        extra=passthrough_fields(FORMAT, extra_fields),
    )


_MESSAGE_FIELDS = frozenset({"role", "content", "name", "cache_control"})
_TOOL_MESSAGE_FIELDS = _MESSAGE_FIELDS | {"tool_call_id"}
_ASSISTANT_FIELDS = _MESSAGE_FIELDS | {
    "tool_calls",
    "refusal",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "function_call",
    "audio",
    "images",
    "annotations",
}


def parse_assistant(message: JSON, where: str = "message") -> AssistantPromptMessage:
    """Parse an assistant message, from a request or from a response.

    `where` is its path for error messages. Raises InvokeBadRequestError that names the
    field.
    """
    calls = message.get("tool_calls") or ()
    content = message.get("content")
    is_silent = content is None and not calls
    # Only requests are checked: a response may be empty, for example if all tokens went
    # into thoughts.
    if (
        is_silent
        and where.startswith("messages")
        and not message.keys() & _ASSISTANT_FIELDS - _MESSAGE_FIELDS
    ):
        raise invalid_field(
            f"{where}.content", None, "a string, unless 'tool_calls' is set"
        )
    tool_calls = [
        _parse_call(call, f"{where}.tool_calls[{index}]")
        for index, call in enumerate(calls)
    ]
    if old := message.get("function_call"):
        tool_calls.append(_parse_function_call(old))
    extra_fields = unknown_fields(message, _ASSISTANT_FIELDS)
    # The full parser is slower, so it runs only if one of these fields is present.
    if (
        message.get("reasoning_details")
        or message.get("images")
        or message.get("annotations")
        or message.get("audio")
    ):
        return _parse_rich_assistant(
            message, tool_calls, where, passthrough_fields(FORMAT, extra_fields)
        )
    parts = _parse_content(content, where) if content is not None else None
    return AssistantPromptMessage(
        content=simplified_content(parts) if isinstance(parts, list) else parts,
        name=message.get("name"),
        tool_calls=tool_calls,
        reasoning_content=message.get("reasoning_content") or message.get("reasoning"),
        refusal=message.get("refusal"),
        extra=passthrough_fields(FORMAT, extra_fields),
    )


def _parse_rich_assistant(
    message: JSON, calls: list[ToolCall], where: str, extra: dict[str, Any]
) -> AssistantPromptMessage:
    """Parse an assistant message with more than text and calls: signed thoughts,
    images, citations or audio."""
    blocks = _parse_answer_parts(message.get("content"), where)
    if annotations := message.get("annotations"):
        citations = [
            _parse_annotation(annotation)
            for annotation in annotations
            if isinstance(annotation, dict)
        ]
        blocks = _with_citations(blocks, citations)
    for index, image in enumerate(message.get("images") or ()):
        blocks.append(_parse_part(image, f"{where}.images[{index}]"))
    if audio := message.get("audio"):
        blocks.append(_parse_answer_audio(audio))
    thoughts, call_signatures = _parse_details(message.get("reasoning_details") or ())
    blocks = _with_thoughts(blocks, calls, thoughts, call_signatures)
    plain_reasoning = message.get("reasoning_content") or message.get("reasoning")
    # Details and plain reasoning repeat the same text; only one of them is stored.
    has_text = any(thought.data for thought in thoughts)
    return assistant_of(
        blocks,
        name=message.get("name"),
        reasoning_content=None if has_text else plain_reasoning,
        refusal=message.get("refusal"),
        extra=extra,
    )


def _parse_answer_parts(content: Any, where: str) -> list[Any]:
    """Return the content of an assistant message as a list of parts; a missing or empty
    text gives an empty list."""
    if content is None:
        return []
    parts = _parse_content(content, where)
    if isinstance(parts, list):
        return list(parts)
    return [TextPromptMessageContent(data=parts)] if parts else []


def _parse_answer_audio(audio: JSON) -> PromptMessageContent:
    """Parse the `audio` object of an assistant message.

    Id, transcript and expiry are kept in `extra`. The data may be empty, since a stream
    and an earlier answer have only some of the fields.
    """
    # The audio's id, transcript and expiry are stored with the part.
    audio_fields = {key: value for key, value in audio.items() if key != "data"}
    return AudioPromptMessageContent(
        base64_data=audio.get("data") or "",
        format="wav",
        extra=passthrough_fields(FORMAT, audio_fields),
    )


def _with_thoughts(
    blocks: list[Any],
    calls: list[ToolCall],
    thoughts: list[ThinkingPromptMessageContent],
    call_signatures: dict[str, list[ThinkingPromptMessageContent]],
) -> list[Any]:
    """Return thoughts, blocks and calls in the order of an answer. A signature directly
    precedes the call that it signs."""
    for call in calls:
        blocks += [*call_signatures.pop(call.id, ()), call]
    # Signatures of calls that are not in this message come before everything else.
    unmatched = [
        signature for signatures in call_signatures.values() for signature in signatures
    ]
    return [*thoughts, *unmatched, *blocks]


def _with_citations(blocks: list[Any], citations: list[Citation]) -> list[Any]:
    """Return the blocks with the citations attached to the last text.

    In a stream, citations arrive without text; an empty text part then carries them.
    """
    if blocks and isinstance(blocks[-1], TextPromptMessageContent):
        return [*blocks[:-1], msgspec.structs.replace(blocks[-1], citations=citations)]
    return [*blocks, TextPromptMessageContent(data="", citations=citations)]


def _parse_annotation(annotation: JSON) -> Citation:
    """Parse a `url_citation` annotation of an answer.

    Positions count characters of the text; they are None if missing. The original is
    kept in `extra`.
    """
    cited = annotation.get("url_citation")
    cited = cited if isinstance(cited, dict) else {}
    return Citation(
        url=cited.get("url") or "",
        title=cited.get("title") or "",
        quote=cited.get("content") or "",
        start=count(cited.get("start_index")),
        end=count(cited.get("end_index")),
        extra={FORMAT: annotation},
    )


# OpenRouter's names of signature formats -> our wire formats.
_ORIGIN_BY_SIGNATURE_FORMAT = {
    "anthropic-claude-v1": "anthropic",
    "google-gemini-v1": "gemini",
    "openai-responses-v1": "openai_responses",
    "bedrock-converse-v1": "bedrock",
    "modelyard-plugin-v1": "plugin",
}
_SIGNATURE_FORMAT_BY_ORIGIN = {
    origin: name for name, origin in _ORIGIN_BY_SIGNATURE_FORMAT.items()
}


def _parse_details(
    details: Sequence[Any],
) -> tuple[
    list[ThinkingPromptMessageContent], dict[str, list[ThinkingPromptMessageContent]]
]:
    """Return the thoughts in order, and the signatures of tool calls by call id."""
    thoughts: list[ThinkingPromptMessageContent] = []
    call_signatures: dict[str, list[ThinkingPromptMessageContent]] = {}
    for detail in details:
        if not isinstance(detail, dict):
            continue
        thought = _parse_detail(detail)
        # Gemini and plugins sign calls; the detail's id is that of the call.
        if (
            detail.get("type") == "reasoning.encrypted"
            and thought.origin in ("gemini", "plugin")
            and thought.id
        ):
            call_signatures.setdefault(thought.id, []).append(
                msgspec.structs.replace(thought, id="")
            )
        # A summary and its encrypted content are two details with the same id; they are
        # one thought.
        elif (
            thoughts
            and thought.id
            and thoughts[-1].id == thought.id
            and not thoughts[-1].signature
        ):
            thoughts[-1] = msgspec.structs.replace(
                thoughts[-1], signature=thought.signature
            )
        else:
            thoughts.append(thought)
    return thoughts, call_signatures


def _parse_detail(detail: JSON) -> ThinkingPromptMessageContent:
    """Parse an entry of OpenRouter's `reasoning_details`.

    `format` names the vendor that signed it. The data of `reasoning.encrypted` becomes
    the signature; from Anthropic and Bedrock such a detail is a redacted thought.
    """
    origin = _ORIGIN_BY_SIGNATURE_FORMAT.get(detail.get("format") or "", "")
    is_hidden = detail.get("type") == "reasoning.encrypted"
    return ThinkingPromptMessageContent(
        data=detail.get("text") or detail.get("summary") or "",
        signature=(detail.get("data") if is_hidden else detail.get("signature")) or "",
        # For these vendors an encrypted detail is a redacted thought, not a proof of a
        # visible one.
        redacted=is_hidden and origin in ("anthropic", "bedrock"),
        id=detail.get("id") or "",
        origin=origin,
        index=count(detail.get("index")),
    )


def _dump_details(message: AssistantPromptMessage, *, is_fragment: bool) -> list[JSON]:
    """Return reasoning_details for the thoughts, or nothing if none of them is signed.

    In a stream (`is_fragment`) the signature may still follow, so the origin alone is
    enough.
    """
    details: list[JSON] = []
    blocks = message.blocks
    for index, block in enumerate(blocks):
        if not isinstance(block, ThinkingPromptMessageContent):
            continue
        # The signature of a call is written with that call's id.
        next_block = blocks[index + 1] if index + 1 < len(blocks) else None
        details += _dump_thought(
            block,
            next_block.id if isinstance(next_block, ToolCall) else "",
            len(details),
        )
    is_proven = any(
        "signature" in detail
        or "data" in detail
        or (is_fragment and "format" in detail)
        for detail in details
    )
    return details if is_proven else []


def _dump_thought(
    thought: ThinkingPromptMessageContent, call: str, index: int
) -> list[JSON]:
    """Return the reasoning details of one thought. `call` is the id of the call that it
    signs, or empty."""
    shared: JSON = {}
    if thought.origin in _SIGNATURE_FORMAT_BY_ORIGIN:
        shared["format"] = _SIGNATURE_FORMAT_BY_ORIGIN[thought.origin]
    if thought.id:
        shared["id"] = thought.id
    shared["index"] = index if thought.index is None else thought.index
    if thought.origin == "openai_responses":
        return _dump_openai_thought(thought, shared)
    if thought.redacted or not thought.data:
        return _dump_hidden_thought(thought, call, shared)
    signed = {"signature": thought.signature} if thought.signature else {}
    return [{"type": "reasoning.text", "text": thought.data, **signed, **shared}]


def _dump_openai_thought(
    thought: ThinkingPromptMessageContent, shared: JSON
) -> list[JSON]:
    """Return OpenAI's summary and encrypted content as two details; see
    `_parse_details`."""
    details: list[JSON] = []
    if thought.data:
        details.append({"type": "reasoning.summary", "summary": thought.data, **shared})
    if thought.signature:
        details.append(
            {"type": "reasoning.encrypted", "data": thought.signature, **shared}
        )
    return details


def _dump_hidden_thought(
    thought: ThinkingPromptMessageContent, call: str, shared: JSON
) -> list[JSON]:
    """Build a `reasoning.encrypted` detail for a thought without readable text.

    `call` is the id of the call that the thought signs, or empty; `shared` has the
    fields common to all details. Returns an empty list if there is no signature.
    """
    if not thought.signature:
        return []
    # A redacted thought belongs to no call.
    id_field = {"id": call} if call and not thought.redacted else {}
    return [
        {
            "type": "reasoning.encrypted",
            "data": thought.signature,
            **shared,
            **id_field,
        }
    ]


def _parse_call(call: Any, where: str) -> ToolCall:
    """Parse an entry of `tool_calls`, or a fragment of one in a stream.

    A missing id, name or argument text becomes an empty string; arguments that are an
    object become JSON text. Raises InvokeBadRequestError if the call is not an object.
    """
    body = expect_type(call, dict, where)
    # Later fragments of a stream have no type.
    call_type = body.get("type") or ("custom" if "custom" in body else "function")
    if call_type not in ("function", "custom"):
        raise invalid_field(f"{where}.type", call_type, "function or custom")
    # The type decides which of the two fields has the name and the arguments.
    inner = body.get("custom") if call_type == "custom" else body.get("function")
    inner = inner if isinstance(inner, dict) else {}
    index = body.get("index")
    arguments = inner.get("input" if call_type == "custom" else "arguments")
    return ToolCall(
        id=body.get("id") or "",
        type=call_type,
        # Some servers return an object instead of JSON text.
        function=ToolCallFunction(
            name=inner.get("name") or "",
            arguments="" if arguments is None else as_text(arguments),
        ),
        index=index if isinstance(index, int) else None,
        cache_control=body.get("cache_control"),
        extra=passthrough_fields(FORMAT, unknown_fields(body, _CALL_FIELDS)),
    )


_CALL_FIELDS = frozenset({"id", "type", "function", "custom", "index", "cache_control"})


def _parse_function_call(call: Any) -> ToolCall:
    """Parse `function_call`, the deprecated form with a single call. Its name is used
    as its id."""
    name, arguments = call.get("name") or "", call.get("arguments") or ""
    return ToolCall(
        type="function",
        function=ToolCallFunction(name=name, arguments=arguments),
        index=0,
        extra={FORMAT: {"old": True}},
    )


def _parse_content(content: Any, where: str) -> Content:
    """Parse the content of a message: a string, or a list of parts.

    A string is returned unchanged. Raises InvokeBadRequestError for any other value,
    null included, and for an invalid part.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid_field(f"{where}.content", content, "a string or a list of parts")
    return [
        _parse_part(part, f"{where}.content[{index}]")
        for index, part in enumerate(content)
    ]


def _parse_part(part: Any, where: str) -> PromptMessageContent:
    """Parse one content part, together with its `cache_control`.

    A plain string counts as a text part. A type without a reader becomes an opaque
    part, which only this format sends again. Raises InvokeBadRequestError if the type
    is missing or a field is invalid.
    """
    # Some clients put plain strings into the list of parts.
    body = (
        {"type": "text", "text": part}
        if isinstance(part, str)
        else expect_type(part, dict, where)
    )
    part_type = body.get("type")
    reader = _PART_PARSERS.get(part_type) if isinstance(part_type, str) else None
    if reader is not None:
        return _with_part_fields(reader(body, where), body, str(part_type))
    # Other part types have no internal name; they are preserved for this format.
    if isinstance(part_type, str):
        return OpaquePromptMessageContent(format=FORMAT, data=body)
    raise invalid_field(
        f"{where}.type", part_type, "text, image_url, video_url, input_audio or file"
    )


def _with_part_fields(
    part: PromptMessageContent, body: JSON, part_type: str
) -> PromptMessageContent:
    """Return a part with its cache marker, and with the fields beside its content that
    no reader knows, under `part`."""
    if cache := body.get("cache_control"):
        part = msgspec.structs.replace(part, cache_control=cache)
    # The readers of the others keep them.
    if part_type in _FILE_PART_TYPES:
        known_fields = frozenset({"type", "cache_control", part_type})
        if rest := unknown_fields(body, known_fields):
            fields = {**part.extra.get(FORMAT, {}), "part": rest}
            part = msgspec.structs.replace(part, extra={**part.extra, FORMAT: fields})
    return part


_FILE_PART_TYPES = ("image_url", "video_url", "input_audio", "file")


def _parse_text(body: JSON, where: str) -> PromptMessageContent:
    """Parse a `text` part.

    Raises InvokeBadRequestError if `text` is not a string.
    """
    extra_fields = unknown_fields(body, frozenset({"type", "text", "cache_control"}))
    return TextPromptMessageContent(
        data=required_field(body, "text", str, f"{where}."),
        extra=passthrough_fields(FORMAT, extra_fields),
    )


def _parse_image(body: JSON, where: str) -> PromptMessageContent:
    """Parse an `image_url` part.

    `image_url` is an object or the URL itself, which may be a `data:` URL. Raises
    InvokeBadRequestError for an unknown `detail`, and for a `data:` URL that is not an
    image in base64.
    """
    image = body.get("image_url")
    image = (
        {"url": image}
        if isinstance(image, str)
        else required_field(body, "image_url", dict, f"{where}.")
    )
    detail = image.get("detail") or ""
    if detail not in ("", "auto", "low", "high"):
        raise invalid_field(f"{where}.image_url.detail", detail, "auto, low or high")
    url = required_field(image, "url", str, f"{where}.image_url.")
    fields = from_url(url, f"{where}.image_url.url", is_image=True)
    return ImagePromptMessageContent(**fields, detail=detail)


def _parse_video(body: JSON, where: str) -> PromptMessageContent:
    """Parse a `video_url` part, the extension of Qwen, vLLM and others.

    Raises InvokeBadRequestError if the URL is missing, or is a `data:` URL without
    valid base64.
    """
    url = required_field(
        required_field(body, "video_url", dict, f"{where}."),
        "url",
        str,
        f"{where}.video_url.",
    )
    return VideoPromptMessageContent(**from_url(url, f"{where}.video_url.url"))


def _parse_audio(body: JSON, where: str) -> PromptMessageContent:
    """Parse an `input_audio` part.

    Raises InvokeBadRequestError if `format` is missing or `data` is not valid base64.
    """
    audio = required_field(body, "input_audio", dict, f"{where}.")
    audio_format = required_field(audio, "format", str, f"{where}.input_audio.")
    data = checked_base64(
        required_field(audio, "data", str, f"{where}.input_audio."),
        f"{where}.input_audio.data",
    )
    return AudioPromptMessageContent(
        base64_data=data,
        format=audio_format,
        mime_type=mime_type_of(audio_format, "audio"),
    )


def _parse_file(body: JSON, where: str) -> PromptMessageContent:
    """Parse a `file` part.

    `file_data` is a URL or `data:` URL; a file known only by its `file_id` has no data
    and keeps the id in `extra`. Raises InvokeBadRequestError for an invalid `data:`
    URL.
    """
    file = required_field(body, "file", dict, f"{where}.")
    filename = optional_field(file, "filename", str, f"{where}.file.") or ""
    extra_fields = unknown_fields(file, frozenset({"filename", "file_data"}))
    fields = {}
    if data := optional_field(file, "file_data", str, f"{where}.file."):
        fields = from_url(data, f"{where}.file.file_data")
    return DocumentPromptMessageContent(
        **fields, filename=filename, extra=passthrough_fields(FORMAT, extra_fields)
    )


def _parse_refusal(body: JSON, where: str) -> PromptMessageContent:
    """Parse a `refusal` part into a text that is marked as a refusal.

    Raises InvokeBadRequestError if `refusal` is not a string.
    """
    # `extra` marks the text as a refusal, so that it is written as one.
    return TextPromptMessageContent(
        data=required_field(body, "refusal", str, f"{where}."),
        extra={FORMAT: {"type": "refusal"}},
    )


def _parse_thinking(body: JSON, where: str) -> PromptMessageContent:
    """Parse a thinking part: Mistral's form, or Anthropic's form inside a request of
    this format."""
    thinking = body.get("thinking")
    if isinstance(thinking, list):
        thinking = "".join(
            fragment.get("text") or ""
            for fragment in thinking
            if isinstance(fragment, dict)
        )
    extra_fields = unknown_fields(body, frozenset({"type", "thinking", "signature"}))
    return ThinkingPromptMessageContent(
        data=thinking if isinstance(thinking, str) else "",
        signature=body.get("signature") or "",
        extra={FORMAT: {"type": "thinking", **extra_fields}},
    )


_PART_PARSERS = {
    "text": _parse_text,
    "image_url": _parse_image,
    "video_url": _parse_video,
    "input_audio": _parse_audio,
    "file": _parse_file,
    "refusal": _parse_refusal,
    "thinking": _parse_thinking,
}


def dump_request(request: LLMRequest, model: str, capabilities: Capabilities) -> JSON:
    """Build the request body for a server of this format.

    Of the capabilities it uses `max_tokens_field`, `no_stream_options`, `drop`,
    `rename`, `reasoning`, `reasoning_field`, `thinking_parts` and
    `required_tool_choice`.
    """
    body: JSON = {
        "model": model,
        "messages": [
            _dump_message(message, capabilities) for message in request.messages
        ],
    }
    body.update(_dump_parameters(request.model_parameters, capabilities))
    if request.tools:
        body["tools"] = [_dump_tool(tool) for tool in request.tools]
    if (choice := request.tool_choice) is not None:
        body["tool_choice"] = _dump_tool_choice(choice, request.tools, capabilities)
    if request.stop:
        body["stop"] = request.stop
    if request.user is not None:
        body["user"] = request.user
    # Vendor fields come after the translated ones, so that an explicit vendor setting
    # takes effect.
    if request.extra:
        body.update(request.extra.get(FORMAT) or {})
    if request.stream:
        body["stream"] = True
        # Without this option a stream has no usage.
        if not capabilities.no_stream_options:
            body["stream_options"] = {"include_usage": True}
    # Last, so that dropping and renaming apply to vendor fields too.
    _drop_and_rename(body, capabilities)
    return body


def _dump_parameters(
    model_parameters: Mapping[str, Any], capabilities: Capabilities
) -> dict[str, Any]:
    """Return the parameters as fields of the request body.

    `capabilities.reasoning` selects how thinking is controlled, and
    `capabilities.max_tokens_field` the name of the token limit. The given parameters
    are not changed.
    """
    # A copy, since the reasoning functions remove and add parameters.
    parameters = dict(model_parameters)
    _REASONING_STYLES[capabilities.reasoning](parameters)
    if "max_tokens" in parameters:
        field = capabilities.max_tokens_field
        parameters[field] = parameters.pop("max_tokens")
    return parameters


def _drop_and_rename(body: JSON, capabilities: Capabilities) -> None:
    """Apply `capabilities.drop` and `capabilities.rename` to the fields of a request
    body.

    `body` is changed in place; fields that it does not have are ignored.
    """
    for name in capabilities.drop:
        body.pop(name, None)
    for name, upstream_name in capabilities.rename.items():
        if name in body:
            body[upstream_name] = body.pop(name)


def _set_reasoning_effort(parameters: dict[str, Any]) -> None:
    """Control thinking by `reasoning_effort`, as OpenAI does. A budget becomes the
    nearest effort."""
    parameters.pop("include_thoughts", None)
    budget = parameters.pop("thinking_budget", None)
    # A negative budget leaves the choice to the model, which is also the default.
    if budget is None or "reasoning_effort" in parameters or budget < 0:
        return
    parameters["reasoning_effort"] = effort_of(budget)


def _set_openrouter_reasoning(parameters: dict[str, Any]) -> None:
    """Control thinking by OpenRouter's `reasoning` object.

    Effort, budget and `include_thoughts` are removed from `parameters`; the object is
    added only if it has a field. `include_thoughts` matters only if it is false.
    """
    include_thoughts = parameters.pop("include_thoughts", None)
    effort = parameters.pop("reasoning_effort", None)
    budget = parameters.pop("thinking_budget", None)
    reasoning = without_empty(
        effort=effort,
        max_tokens=budget,
        exclude=True if include_thoughts is False else None,
    )
    if reasoning:
        parameters["reasoning"] = reasoning


def _set_thinking_type(parameters: dict[str, Any]) -> None:
    """Control thinking by `thinking: {type: enabled}`, as Zhipu, Volcengine, Moonshot
    and DeepSeek do."""
    parameters.pop("include_thoughts", None)
    effort = parameters.pop("reasoning_effort", None)
    budget = parameters.pop("thinking_budget", None)
    if effort is not None or budget is not None:
        parameters["thinking"] = {
            "type": "disabled" if effort == "none" or budget == 0 else "enabled"
        }


def _set_thinking_effort(parameters: dict[str, Any]) -> None:
    """Control thinking by `thinking` and `reasoning_effort`, as DeepSeek does."""
    effort = parameters.get("reasoning_effort")
    _set_thinking_type(parameters)
    if effort is not None and effort != "none":
        parameters["reasoning_effort"] = effort


def _set_enable_thinking(parameters: dict[str, Any]) -> None:
    """Control thinking by `enable_thinking` and `thinking_budget`, as DashScope and
    SiliconFlow do."""
    parameters.pop("include_thoughts", None)
    effort = parameters.pop("reasoning_effort", None)
    budget = parameters.pop("thinking_budget", None)
    if effort is None and budget is None:
        return
    parameters["enable_thinking"] = not (effort == "none" or budget == 0)
    # Without a usable budget the effort decides; an unknown effort sends no budget.
    if budget is None or budget < 0:
        budget = budget_of(effort or "", unknown=0)
    if budget:
        parameters["thinking_budget"] = budget


_REASONING_STYLES = {
    "effort": _set_reasoning_effort,
    "openrouter": _set_openrouter_reasoning,
    "thinking": _set_thinking_type,
    "thinking_effort": _set_thinking_effort,
    "enable_thinking": _set_enable_thinking,
}


def _dump_tool_choice(
    choice: str | dict[str, Any],
    tools: Sequence[PromptMessageTool],
    capabilities: Capabilities,
) -> Any:
    """Build OpenAI's `tool_choice`.

    `capabilities.required_tool_choice` replaces the value `required` for servers
    with another name for it. `tools` are the request's tools; their types decide how a
    forced or allowed tool is named.
    """
    if choice == "required":
        return capabilities.required_tool_choice
    if isinstance(choice, str):
        return choice
    custom_names = {tool.name for tool in tools if tool.type == "custom"}
    if "allowed" in choice:
        allowed = [_tool_reference(name, custom_names) for name in choice["allowed"]]
        return {
            "type": "allowed_tools",
            "allowed_tools": {"mode": choice["mode"], "tools": allowed},
        }
    return _tool_reference(choice["name"], custom_names)


def _tool_reference(name: str, custom_names: Collection[str]) -> JSON:
    """Return the reference to a tool. OpenAI refuses one with another type than the
    tool's."""
    tool_type = "custom" if name in custom_names else "function"
    return {"type": tool_type, tool_type: {"name": name}}


def _dump_tool(tool: PromptMessageTool) -> JSON:
    """Build an entry of `tools`.

    Raises InvokeBadRequestError for a hosted tool whose definition did not come in this
    format.
    """
    vendor_fields = tool.extra.get(FORMAT, {})
    if tool.type == "custom":
        return {
            "type": "custom",
            "custom": {
                "name": tool.name,
                **without_empty(description=tool.description),
                **vendor_fields,
            },
        }
    if tool.type != "function":
        # A tool that another provider runs can only be described in that provider's
        # format.
        if not vendor_fields:
            raise InvokeBadRequestError(
                f"Tool {tool.name!r} is hosted by another provider; this provider does"
                " not support it",
                param="tools",
            )
        return vendor_fields
    function: JSON = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    cached = {"cache_control": tool.cache_control} if tool.cache_control else {}
    return {"type": "function", "function": function | vendor_fields, **cached}


def _dump_message(message: AnyPromptMessage, capabilities: Capabilities) -> JSON:
    """Build an entry of a request's `messages`.

    The capabilities decide how thoughts of an earlier answer are written. Vendor fields
    take precedence; a stored role `function` omits the call id. Raises
    InvokeBadRequestError for audio that is only a URL.
    """
    body: JSON = {"role": message.role.value}
    if isinstance(message, AssistantPromptMessage):
        body |= _dump_earlier_answer(message, capabilities)
    elif isinstance(message, ToolPromptMessage):
        body |= _dump_tool_result(message)
    else:
        body["content"] = _dump_content(message.content)
        if message.name is not None:
            body["name"] = message.name
    if message.extra:
        body.update(message.extra.get(FORMAT) or {})
        # The stored role shows the deprecated form, which has no call id.
        if body["role"] == "function":
            body.pop("tool_call_id", None)
    return body


def _dump_tool_result(message: ToolPromptMessage) -> JSON:
    """Return the fields of a tool message except its role.

    It has no name in this format; the name of other formats is the function's.
    """
    content = "" if message.content is None else _dump_content(message.content)
    body: JSON = {"content": content, "tool_call_id": message.tool_call_id}
    if message.cache_control:
        body["cache_control"] = message.cache_control
    return body


def _dump_earlier_answer(
    message: AssistantPromptMessage, capabilities: Capabilities
) -> JSON:
    """Return the fields of an assistant message in a request except its role, with its
    thoughts in the field that the server expects."""
    # With thinking parts, thoughts are part of the content and need no separate field.
    thinks_inside = capabilities.thinking_parts
    body = dump_assistant(
        message, with_details=not thinks_inside, thinks_inside=thinks_inside
    )
    if message.name is not None:
        body["name"] = message.name
    field = capabilities.reasoning_field
    if field == "reasoning_content":
        return body
    thoughts = body.pop("reasoning_content", None)
    if not field:
        # A server that accepts no thoughts accepts no details of them either.
        body.pop("reasoning_details", None)
    elif thoughts:
        body[field] = thoughts
    return body


def dump_assistant(
    message: AssistantPromptMessage,
    *,
    with_details: bool = True,
    thinks_inside: bool = False,
    is_fragment: bool = False,
) -> JSON:
    """Return the fields of an assistant message except its role.

    `with_details` adds signed reasoning, `thinks_inside` writes thoughts as content
    parts, `is_fragment` is set in streams.
    """
    content = message.content
    if isinstance(content, list):
        body: JSON = _dump_rich(message, content, thinks_inside=thinks_inside)
        if with_details and (
            details := _dump_details(message, is_fragment=is_fragment)
        ):
            body["reasoning_details"] = details
    else:
        body = {"content": content}
        if message.reasoning_content:
            body["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        body |= _dump_calls(message.tool_calls)
    # A field of its own, so that clients do not take a refusal for an answer.
    if message.refusal is not None:
        body["refusal"] = message.refusal
    return body


def _dump_calls(calls: list[ToolCall]) -> JSON:
    """Build `tool_calls`, or `function_call` for a call of the deprecated form.

    `calls` must not be empty; its first call decides the form.
    """
    # The deprecated form has exactly one call.
    if "old" in calls[0].extra.get(FORMAT, {}):
        called = calls[0].function
        return {"function_call": {"name": called.name, "arguments": called.arguments}}
    return {"tool_calls": [_dump_call(call) for call in calls]}


def _dump_rich(
    message: AssistantPromptMessage,
    parts: list[PromptMessageContent],
    *,
    thinks_inside: bool,
) -> JSON:
    """Build the fields of an assistant message whose content is a list of parts.

    Images, annotations and audio are separate fields next to `content`. Thoughts go
    into `reasoning_content`, or into the content with `thinks_inside`.
    """
    body: JSON = {"content": _dump_answer_content(parts, thinks_inside=thinks_inside)}
    # Thoughts outside of the content go into the field that most servers share.
    if not thinks_inside and (thoughts := message.thinking):
        body["reasoning_content"] = thoughts
    images = [part for part in parts if isinstance(part, ImagePromptMessageContent)]
    if images:
        body["images"] = [_dump_part(part) for part in images]
    if annotations := _dump_annotations(parts):
        body["annotations"] = annotations
    audio_part = next(
        (part for part in parts if isinstance(part, AudioPromptMessageContent)), None
    )
    if audio_part is not None:
        body["audio"] = _dump_answer_audio(audio_part)
    return body


def _dump_answer_audio(part: AudioPromptMessageContent) -> JSON:
    """Return the audio of an answer, which a later turn may name by its id."""
    data = {"data": part.base64_data} if part.base64_data else {}
    return {**data, **part.extra.get(FORMAT, {})}


def _dump_answer_content(
    parts: list[PromptMessageContent], *, thinks_inside: bool
) -> Any:
    """Return `content`: a list if its parts carry more than text, otherwise a string,
    which is what most clients expect. None if there is no text."""
    content_parts = [
        part
        for part in parts
        if isinstance(part, TextPromptMessageContent)
        or (isinstance(part, ThinkingPromptMessageContent) and thinks_inside)
        or (isinstance(part, OpaquePromptMessageContent) and part.format == FORMAT)
    ]
    if any(_is_more_than_text(part) for part in content_parts):
        return [_dump_part(part) for part in content_parts]
    texts = [
        part.data
        for part in content_parts
        if isinstance(part, TextPromptMessageContent)
    ]
    return "".join(texts) if texts else None


def _is_more_than_text(part: PromptMessageContent) -> bool:
    """Return whether a part of the content would lose something in a plain string."""
    if isinstance(part, TextPromptMessageContent):
        return bool(part.extra.get(FORMAT) or part.cache_control)
    if isinstance(part, ThinkingPromptMessageContent):
        return bool(part.extra.get(FORMAT))
    return True


def _dump_annotations(parts: list[PromptMessageContent]) -> list[JSON]:
    """Build the `annotations` of all texts of an answer.

    Annotations that came in this format are unchanged; the others get positions in the
    joined text.
    """
    return [
        citation.extra.get(FORMAT) or _dump_citation(citation)
        for citation in placed_citations(parts)
    ]


def _dump_citation(citation: Citation) -> JSON:
    """Return a url_citation. One without a position gets 0 for both, as OpenRouter
    sends it, since the schema requires them."""
    start, end = citation.start or 0, citation.end or 0
    cited = without_empty(
        url=citation.url, title=citation.title, content=citation.quote
    )
    return {
        "type": "url_citation",
        "url_citation": (
            {"url": "", "title": "", "start_index": start, "end_index": end} | cited
        ),
    }


def _dump_call(call: ToolCall) -> JSON:
    """Build an entry of `tool_calls`.

    A custom call has `custom` with free text as `input`, any other call `function` with
    `arguments`.
    """
    is_custom = call.type == "custom"
    body: JSON = {"id": call.id, "type": "custom" if is_custom else "function"}
    if is_custom:
        body["custom"] = {"name": call.function.name, "input": call.function.arguments}
    else:
        body["function"] = {
            "name": call.function.name,
            "arguments": call.function.arguments,
        }
    if call.index is not None:
        body["index"] = call.index
    if call.cache_control:
        body["cache_control"] = call.cache_control
    return body | call.extra.get(FORMAT, {}) if call.extra else body


def _dump_content(content: Content) -> Any:
    """Build the content of a message: null, a string or a list of parts.

    Opaque parts of other formats are left out.
    """
    if not isinstance(content, list):
        return content
    return [
        _dump_part(part)
        for part in content
        # Opaque parts of other formats are dropped: only their own format can interpret
        # them.
        if not isinstance(part, OpaquePromptMessageContent) or part.format == FORMAT
    ]


def _dump_part(part: PromptMessageContent) -> JSON:
    """Build a content part, together with its `cache_control`.

    Raises InvokeBadRequestError for audio that is only a URL.
    """
    body = _dump_part_body(part)
    if part.cache_control:
        body = {**body, "cache_control": part.cache_control}
    if part.extra and (rest := part.extra.get(FORMAT, {}).get("part")):
        body = {**body, **rest}
    return body


def _dump_part_body(part: PromptMessageContent) -> JSON:
    """Build a content part without `cache_control`.

    A text that is marked as a refusal is written as one, a thought in Mistral's form.
    Raises InvokeBadRequestError for audio that is only a URL.
    """
    vendor_fields = part.extra.get(FORMAT, {}) if part.extra else {}
    match part:
        case TextPromptMessageContent():
            if vendor_fields.get("type") == "refusal":
                return {"type": "refusal", "refusal": part.data}
            return {"type": "text", "text": part.data, **vendor_fields}
        case ThinkingPromptMessageContent():
            # Mistral's form of a thinking part.
            return {
                "type": "thinking",
                "thinking": [{"type": "text", "text": part.data}],
                **vendor_fields,
            }
        case ImagePromptMessageContent():
            detail = {"detail": part.detail} if part.detail else {}
            return {"type": "image_url", "image_url": {"url": part.data, **detail}}
        case AudioPromptMessageContent():
            if not part.base64_data:
                raise InvokeBadRequestError(
                    "Audio by URL is not supported in this format; send it as base64"
                )
            audio_format = part.format or format_of(part.mime_type)
            return {
                "type": "input_audio",
                "input_audio": {"data": part.base64_data, "format": audio_format},
            }
        case VideoPromptMessageContent():
            return {"type": "video_url", "video_url": {"url": part.data}}
        case DocumentPromptMessageContent():
            return {"type": "file", "file": _dump_file(part, vendor_fields)}
        case OpaquePromptMessageContent():
            return part.data


def _dump_file(part: MultiModalPromptMessageContent, vendor_fields: JSON) -> JSON:
    """Build the `file` object of a document.

    `vendor_fields` are its stored fields, such as `file_id`. `file_data` is the URL, or
    the base64 as a `data:` URL.
    """
    file = {name: value for name, value in vendor_fields.items() if name != "part"}
    if part.filename:
        file["filename"] = part.filename
    if part.base64_data or part.url:
        file["file_data"] = part.data
    return file


# ---------------------------------------------------------------------------- responses


def parse_usage(body: Any, service_tier: Any = None) -> LLMUsage | None:
    """Parse a `usage` object, or return None if it has no plausible token counts. The
    original is stored in `extra`.

    `service_tier` is what the answer states beside its usage.
    """
    if not isinstance(body, dict):
        return None
    prompt = count(body.get("prompt_tokens"))
    completion = count(body.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    # Servers report reasoning tokens inside the details or next to the totals.
    reasoning = nested_count(
        body, "completion_tokens_details", "reasoning_tokens"
    ) or nested_count(body, "reasoning_tokens")
    completion = completion or 0
    # xAI does not include reasoning in `completion_tokens`, which the total shows.
    if (
        reasoning
        and nested_count(body, "total_tokens") == (prompt or 0) + completion + reasoning
    ):
        completion += reasoning
    return LLMUsage(
        prompt_tokens=prompt or 0,
        completion_tokens=completion,
        total_tokens=count(body.get("total_tokens")) or (prompt or 0) + completion,
        # `prompt_cache_hit_tokens` is DeepSeek's name.
        cached_tokens=nested_count(body, "prompt_tokens_details", "cached_tokens")
        or nested_count(body, "prompt_cache_hit_tokens"),
        cache_write_tokens=nested_count(
            body, "prompt_tokens_details", "cache_write_tokens"
        ),
        audio_prompt_tokens=nested_count(body, "prompt_tokens_details", "audio_tokens"),
        image_prompt_tokens=nested_count(body, "prompt_tokens_details", "image_tokens"),
        reasoning_tokens=reasoning,
        audio_completion_tokens=nested_count(
            body, "completion_tokens_details", "audio_tokens"
        ),
        image_completion_tokens=nested_count(
            body, "completion_tokens_details", "image_tokens"
        ),
        searches=nested_count(body, "num_search_queries"),  # Perplexity's
        service_tier=tier_name(service_tier),
        total_price=_reported_cost(body.get("cost")),
        extra={FORMAT: body},
    )


def _reported_cost(cost: Any) -> Decimal | None:
    """Return the price in US dollars that the server reports (OpenRouter and Perplexity
    do), or None."""
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    if (
        isinstance(cost, bool)
        or not isinstance(cost, int | float)
        or not 0 <= cost < 1e6
    ):
        return None
    return Decimal(str(cost))


def dump_usage(usage: LLMUsage) -> JSON:
    """Return a `usage` object: the original one if it came in this format, otherwise
    one built from the counts."""
    if raw_usage := usage.extra.get(FORMAT):
        return raw_usage
    # Details that are 0 are omitted, except for the two that OpenAI always sends.
    prompt_details = {"cached_tokens": usage.cached_tokens}
    if usage.cache_write_tokens:
        prompt_details["cache_write_tokens"] = usage.cache_write_tokens
    if usage.audio_prompt_tokens:
        prompt_details["audio_tokens"] = usage.audio_prompt_tokens
    if usage.image_prompt_tokens:
        prompt_details["image_tokens"] = usage.image_prompt_tokens
    completion_details = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.audio_completion_tokens:
        completion_details["audio_tokens"] = usage.audio_completion_tokens
    if usage.image_completion_tokens:
        completion_details["image_tokens"] = usage.image_completion_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": completion_details,
    }


# Other fields are kept, so that a client of this format gets them unchanged.
_KNOWN_RESULT_FIELDS = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
)
# `obfuscation` is random padding against attacks on the length of chunks. It belongs to
# one connection and is not passed on.
_KNOWN_CHUNK_FIELDS = _KNOWN_RESULT_FIELDS | {"obfuscation"}
_KNOWN_CHOICE_FIELDS = frozenset(
    {"index", "message", "delta", "finish_reason", "logprobs"}
)

# Finish reasons of servers that do not use OpenAI's values.
_FINISH_REASONS = {
    "function_call": "tool_calls",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "COMPLETE": "stop",
    "MAX_TOKENS": "length",
    "tool_call": "tool_calls",
    "sensitive": "content_filter",
}
FAILED_REASONS = frozenset({"error", "network_error"})
"""Finish reasons of an answer that the server could not finish: Mistral's and
OpenRouter's, and Zhipu's."""


@reads_answer
def parse_result(body: JSON) -> LLMResult:
    """Parse a complete `chat.completion` response.

    Usage is marked as estimated if there are no token counts. Raises
    InvokeServerUnavailableError if there are no choices or one is unreadable, and the
    error's own class for an `error` object (some servers send it with status 200).
    """
    # Some servers report errors with status 200.
    raise_error_in(body)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise InvokeServerUnavailableError("Upstream response has no 'choices'")
    return LLMResult(
        id=body.get("id") or "",
        model=body.get("model") or "",
        created=count(body.get("created")) or 0,
        system_fingerprint=body.get("system_fingerprint"),
        choices=[
            _parse_choice(choice, position, _response_id(body))
            for position, choice in enumerate(choices)
        ],
        usage=parse_usage(body.get("usage"), body.get("service_tier"))
        or LLMUsage(estimated=True),
        extra=passthrough_fields(FORMAT, unknown_fields(body, _KNOWN_RESULT_FIELDS)),
    )


def _parse_choice(choice: Any, position: int, response_id: str) -> LLMChoice:
    """Parse an entry of a response's `choices`.

    `position` is the index if the choice states none; `response_id` is part of the ids
    that calls without one get. Raises
    InvokeServerUnavailableError if there is neither a message nor a finish reason, and
    the error's own class for OpenRouter's `error` in a choice.
    """
    if not isinstance(choice, dict) or not isinstance(
        choice.get("message") or {}, dict
    ):
        raise InvokeServerUnavailableError(
            f"Upstream response: choices[{position}] has no 'message'"
        )
    # An empty choice without a reason is a broken response, not an empty answer.
    if choice.get("message") is None and choice.get("finish_reason") is None:
        raise InvokeServerUnavailableError(
            f"Upstream response: choices[{position}] has no 'message'"
        )
    # OpenRouter puts the error of one of its providers into the choice.
    if isinstance(choice.get("error"), dict):
        raise error_of(choice["error"])
    index = choice.get("index")
    reason, extra = _parse_reason(choice)
    return LLMChoice(
        index=index if isinstance(index, int) else position,
        message=with_call_ids(
            _read_provider_message(parse_assistant, choice.get("message") or {}),
            response_id,
        ),
        finish_reason=reason,
        logprobs=choice.get("logprobs"),
        extra=extra,
    )


def _read_provider_message(parse: Any, message: JSON) -> AssistantPromptMessage:
    """Parse a message of a response. An unreadable one is the provider's fault, so the
    error class changes."""
    try:
        return parse(message)
    except InvokeBadRequestError as error:
        raise InvokeServerUnavailableError(
            f"Invalid upstream response: {error}"
        ) from error


def _parse_reason(choice: JSON) -> tuple[str | None, dict[str, Any]]:
    """Return the finish reason of a choice, and its extra fields by format.

    A vendor's own reason is translated and the original stored in the fields. A missing
    or empty reason becomes None. Raises InvokeServerUnavailableError for a reason that
    reports a failed generation.
    """
    reason = choice.get("finish_reason")
    if reason in FAILED_REASONS:
        raise InvokeServerUnavailableError(
            f"The provider ended its answer with the finish reason {reason!r}"
        )
    extra_fields = unknown_fields(choice, _KNOWN_CHOICE_FIELDS)
    if reason in _FINISH_REASONS:
        # The vendor's own reason is preserved for a client of this format.
        return _FINISH_REASONS[reason], {
            FORMAT: {**extra_fields, "finish_reason": reason}
        }
    return reason or None, passthrough_fields(
        FORMAT, {key: value for key, value in extra_fields.items() if value is not None}
    )


def dump_result(result: LLMResult) -> JSON:
    """Build a complete response body."""
    body: JSON = {
        "id": result.id,
        "object": "chat.completion",
        "created": result.created,
        "model": result.model,
        "choices": [_dump_choice(choice) for choice in result.choices],
        "usage": dump_usage(result.usage),
    }
    if result.system_fingerprint is not None:
        body["system_fingerprint"] = result.system_fingerprint
    if tier := served_tier(FORMAT, result.usage.service_tier):
        body["service_tier"] = tier
    return {**body, **result.extra.get(FORMAT, {})} if result.extra else body


def _dump_choice(choice: LLMChoice) -> JSON:
    """Build an entry of a response's `choices`.

    `content`, `refusal` and `logprobs` are present even if they are null. Vendor fields
    of the message and of the choice take precedence.
    """
    message = choice.message
    # Clients expect `content` and `refusal` to be present even if they are null.
    body: JSON = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        **dump_assistant(message),
    }
    if message.extra:
        body |= message.extra.get(FORMAT, {})
    return {
        "index": choice.index,
        "message": body,
        "logprobs": choice.logprobs,
        "finish_reason": _dump_reason(choice.finish_reason),
        **choice.extra.get(FORMAT, {}),
    }


def _dump_reason(reason: str | None) -> str | None:
    """Return a finish reason that clients of this format know."""
    # "pause" exists only in our types; a client of this format sees a normal end.
    return "stop" if reason == "pause" else reason


# ------------------------------------------------------------------------------ streams


class StreamParser:
    """Converts the events of a stream into chunks, one event at a time."""

    def __init__(self) -> None:
        self._has_finished = False
        # Choice -> reader of its tool calls.
        self._call_readers: dict[int, ToolCallReader] = {}
        # Part of the ids that calls without one get.
        self._response_id = ""

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        """Return one chunk per choice of a `chat.completion.chunk`.

        An event with usage and without choices gives one chunk that has only the usage.
        Raises an InvokeError for an `error` object, in the event or in a choice, and
        InvokeServerUnavailableError for an unreadable choice.
        """
        # A local reference: this method runs for every event of every stream.
        get = event.get
        if "error" in event or "message" in event:
            raise_error_in(event)
        # Groq reports the usage of a stream in a separate field.
        reported_usage = get("usage") or (
            event["x_groq"].get("usage") if isinstance(get("x_groq"), dict) else None
        )
        usage = (
            parse_usage(reported_usage, get("service_tier")) if reported_usage else None
        )
        choices = get("choices") or ()
        self._response_id = self._response_id or _response_id(event)
        deltas = [self._delta(choice, usage) for choice in choices]
        # The last event of a stream has usage and no choices.
        if usage is not None and not choices:
            deltas.append(LLMResultChunkDelta(usage=usage))
        extra_fields = unknown_fields(event, _KNOWN_CHUNK_FIELDS)
        return [
            LLMResultChunk(
                delta=delta,
                id=get("id") or "",
                model=get("model") or "",
                created=get("created") or 0,
                system_fingerprint=get("system_fingerprint"),
                extra={FORMAT: extra_fields} if extra_fields else {},
            )
            for delta in deltas
        ]

    def _delta(self, choice: Any, usage: LLMUsage | None) -> LLMResultChunkDelta:
        """Return the delta for one choice of a `chat.completion.chunk`.

        A finish reason marks the stream as finished. Raises
        InvokeServerUnavailableError if the choice is not an object or unreadable, and
        the error's own class for an `error` in the choice.
        """
        if not isinstance(choice, dict):
            raise InvokeServerUnavailableError(
                f"Upstream stream: a choice must be an object, not {short_repr(choice)}"
            )
        if isinstance(choice.get("error"), dict):
            raise error_of(choice["error"])
        reason, extra = _parse_reason(choice)
        if reason is not None:
            self._has_finished = True
        message = _parse_delta(choice.get("delta"))
        if message.tool_calls:
            message = self._with_separate_calls(message, choice.get("index") or 0)
        return LLMResultChunkDelta(
            index=choice.get("index") or 0,
            message=message,
            finish_reason=reason,
            logprobs=choice.get("logprobs"),
            usage=usage,
            extra=extra,
        )

    def _with_separate_calls(
        self, message: AssistantPromptMessage, choice: int
    ) -> AssistantPromptMessage:
        """Return the message with the fragments of its calls in the common form."""
        reader = self._call_readers.get(choice)
        if reader is None:
            reader = self._call_readers[choice] = ToolCallReader()
        return reader.read(message, self._response_id)

    def finish(self, *, end_marker_seen: bool) -> list[LLMResultChunk]:
        """Check the end of the stream. Raises InvokeServerUnavailableError if it was
        cut off.

        `end_marker_seen` is True if `[DONE]` was received.
        """
        if not end_marker_seen and not self._has_finished:
            raise InvokeServerUnavailableError(
                "Upstream stream ended without a finish reason or [DONE]"
            )
        return []


def _response_id(event: JSON) -> str:
    """Return what tells a response from others: its id, or the time if it has none."""
    return str(event.get("id") or event.get("created") or "")


_EMPTY_MESSAGE = AssistantPromptMessage()


def _parse_delta(delta: Any) -> AssistantPromptMessage:
    """Parse the `delta` of a choice in a stream.

    Anything but an object gives an empty message. The role is ignored. Raises
    InvokeServerUnavailableError if a field is invalid.
    """
    if not isinstance(delta, dict):
        return _EMPTY_MESSAGE
    content = delta.get("content")
    # Nearly every chunk of a long answer has only a text.
    if len(delta) == 1 and isinstance(content, str):
        return AssistantPromptMessage(content=content)
    # The role in a delta carries no information: it is always the assistant's.
    message = _read_provider_message(
        parse_assistant, {key: value for key, value in delta.items() if key != "role"}
    )
    if not isinstance(message.content, list):
        return message
    # Mistral streams thoughts as parts without an index. A common index joins the
    # fragments of one thought.
    parts = [
        (
            msgspec.structs.replace(part, index=0)
            if isinstance(part, ThinkingPromptMessageContent) and part.index is None
            else part
        )
        for part in message.content
    ]
    return msgspec.structs.replace(message, content=parts)


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    """Yield the chunks of a whole event stream. Raises InvokeServerUnavailableError if
    it is cut off."""
    return parse_events(StreamParser(), events)


class StreamDumper:
    """Converts chunks into stream events, one chunk at a time. The role comes first,
    usage last and only if requested.

    `has_begun` is set if the client already has the first events: clients that
    concatenate fragments would double a repeated role.
    """

    def __init__(
        self,
        *,
        response_id: str,
        created: int,
        model: str,
        include_usage: bool = True,
        has_begun: bool = False,
    ) -> None:
        self._head: JSON = {
            "id": response_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._include_usage = include_usage
        self._usage: LLMUsage | None = None
        self._call_indexes: dict[int, CallIndexes] = {}
        self._texts: dict[int, WholeText] = {}
        self._started_choices: set[int] = {0} if has_begun else set()
        self._extra: JSON = {}

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        """Return the event for one chunk, or nothing if it brings nothing new.

        The first event of each choice has the role. Usage is held back for `finish`;
        the fields of an empty chunk go out there too.
        """
        delta = chunk.delta
        if delta.usage is not None:
            self._usage = delta.usage
        vendor_fields = chunk.extra.get(FORMAT, {}) if chunk.extra else {}
        message = self._with_call_indexes(delta)
        body = _dump_delta(message)
        if annotations := self._annotations(delta.index, message):
            body["annotations"] = annotations
        is_empty = (
            not body
            and delta.finish_reason is None
            and delta.logprobs is None
            and not delta.extra
        )
        # Fields of an otherwise empty chunk go out with the last event.
        if is_empty and (
            delta.usage is not None or delta.index in self._started_choices
        ):
            self._extra = vendor_fields
            return []
        if delta.index not in self._started_choices:
            self._started_choices.add(delta.index)
            body = _first_delta(body)
        reason = _dump_reason(delta.finish_reason)
        choice = {
            "index": delta.index,
            "delta": body,
            "logprobs": delta.logprobs,
            "finish_reason": reason,
        }
        if delta.extra:
            choice |= delta.extra.get(FORMAT, {})
        event = {**self._head, "choices": [choice]}
        if chunk.system_fingerprint is not None:
            event["system_fingerprint"] = chunk.system_fingerprint
        # OpenAI sends a null usage in every event but the last if usage was requested.
        if self._include_usage:
            event["usage"] = None
        if vendor_fields:
            event |= vendor_fields
        return [event]

    def _annotations(self, index: int, message: AssistantPromptMessage) -> list[JSON]:
        """Return the annotations of a chunk, with positions in the choice's text."""
        text = self._texts.setdefault(index, WholeText())
        if not isinstance(message.content, list):
            text.add(message.content or "")
            return []
        return [
            citation.extra.get(FORMAT) or _dump_citation(citation)
            for part in message.content
            if isinstance(part, TextPromptMessageContent)
            for citation in text.place(part)
        ]

    def _with_call_indexes(self, delta: LLMResultChunkDelta) -> AssistantPromptMessage:
        """Return the message with an index in each fragment of a tool call, by which
        clients join them."""
        if not delta.message.tool_calls:
            return delta.message
        indexes = self._call_indexes.setdefault(delta.index, CallIndexes())
        return indexes.fill(delta.message)

    def finish(self) -> list[JSON]:
        """Return the closing event with the usage and no choices.

        Returns nothing if usage was not requested, or if there are neither counts nor
        vendor fields. `[DONE]` is not part of the events; the transport writes it.
        """
        if not self._include_usage:
            return []
        usage = dump_usage(self._usage) if self._usage is not None else None
        tier = self._usage.service_tier if self._usage is not None else ""
        tier = served_tier(FORMAT, tier)
        head = {**self._head, **({"service_tier": tier} if tier else {})}
        return (
            [{**head, "choices": [], "usage": usage, **self._extra}]
            if usage or self._extra
            else []
        )


def _first_delta(body: JSON) -> JSON:
    """Return the delta of a choice's first event: it has the role, and a content even
    if there is no text yet."""
    if not body:
        return {"role": "assistant", "content": ""}
    return {"role": "assistant", **body}


def _dump_delta(message: AssistantPromptMessage) -> JSON:
    """Build the `delta` of a choice in a stream, without the role.

    Empty if the message has nothing to send. Vendor fields of the message take
    precedence.
    """
    content = message.content
    # Nearly every chunk of a long answer that came in blocks is a single plain text.
    if (
        isinstance(content, list)
        and len(content) == 1
        and not message.tool_calls
        and isinstance(part := content[0], TextPromptMessageContent)
        and not part.citations
        and not part.extra
    ):
        content = part.data
    if isinstance(content, list):
        body = _dump_rich_delta(message)
    else:
        body = {} if content is None else {"content": content}
        if message.reasoning_content:
            body["reasoning_content"] = message.reasoning_content
        if message.refusal is not None:
            body["refusal"] = message.refusal
    if message.tool_calls:
        body |= _dump_call_fragments(message.tool_calls)
    if message.extra:
        body.update(message.extra.get(FORMAT, {}))
    return body


def _dump_rich_delta(message: AssistantPromptMessage) -> JSON:
    """Build the `delta` for a message whose content is a list of parts.

    Null and empty fields are left out.
    """
    dumped_message = dump_assistant(message, is_fragment=True)
    # Empty fields would overwrite earlier ones in clients that merge deltas.
    return {
        key: value for key, value in dumped_message.items() if value not in (None, "")
    }


def _dump_call_fragments(calls: list[ToolCall]) -> JSON:
    """Build `tool_calls` of a `delta`, or the deprecated `function_call`.

    `calls` must not be empty; its first call decides the form. Names are left out where
    they are empty.
    """
    if "old" not in calls[0].extra.get(FORMAT, {}):
        return {"tool_calls": [_dump_call_fragment(call) for call in calls]}
    # The deprecated form has exactly one call.
    called = calls[0].function
    fields = {**without_empty(name=called.name), "arguments": called.arguments}
    return {"function_call": fields}


def _dump_call_fragment(call: ToolCall) -> JSON:
    """Build an entry of `tool_calls` in a `delta`; the call must have an index.

    Id and type are written only if the fragment has an id, the name only if it is not
    empty.
    """
    body: JSON = {"index": call.index}
    if call.type == "custom":
        body["custom"] = without_empty(name=call.function.name) | {
            "input": call.function.arguments
        }
    else:
        body["function"] = without_empty(name=call.function.name) | {
            "arguments": call.function.arguments
        }
    # Only the first fragment of a call has an id and a type.
    if call.id:
        is_custom = call.type == "custom"
        body |= {"id": call.id, "type": "custom" if is_custom else "function"}
    return body | call.extra.get(FORMAT, {}) if call.extra else body


def dump_stream(
    chunks: Iterable[LLMResultChunk], *, include_usage: bool = True
) -> Iterator[JSON]:
    """Yield the `chat.completion.chunk` events for a stream of chunks.

    Id, time and model come from the first chunk; a stream without chunks has no events.
    With `include_usage` the last event has the usage.
    """
    return dump_chunks(chunks, partial(StreamDumper, include_usage=include_usage))


# ------------------------------------------------------------------------------- errors


def error_of(error: Mapping[str, Any]) -> InvokeError:
    """Return the exception for an error object in a response or stream. The caller
    raises it."""
    return provider_error(error)
