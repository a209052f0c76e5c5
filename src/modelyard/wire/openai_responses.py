"""Translate between OpenAI's Responses API and modelyard's chat types. Pure functions:
no network, no clock.

A response here is a list of items; neighbouring items of the model form one message in
our types. Thoughts of other providers are written as reasoning items whose ids name the
origin, so that their signatures can be returned to it.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeError,
    InvokeServerUnavailableError,
)
from modelyard.base.fields import (
    MAX_TOOLS,
    count,
    expect_type,
    in_range,
    invalid_field,
    limited_list,
    nested_count,
    optional_field,
    passthrough_fields,
    required_field,
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
)
from modelyard.models.reasoning import effort_of
from modelyard.models.service_tiers import served_tier
from modelyard.models.streams import dump_chunks, parse_events
from modelyard.models.tool_call_reader import generated_call_id, with_call_ids
from modelyard.models.types import JSON

FORMAT = "openai_responses"

# Fields with a reader below. Every other field passes through unchanged in `extra`.
_KNOWN_FIELDS = frozenset(
    {
        "model",
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "temperature",
        "top_p",
        "max_output_tokens",
        "parallel_tool_calls",
        "reasoning",
        "text",
        "stream",
        "user",
        "top_logprobs",
        "service_tier",
        "metadata",
        "stream_options",
    }
)
PARAMETERS = frozenset(
    {
        "temperature",
        "top_p",
        "max_tokens",
        "parallel_tool_calls",
        "reasoning_effort",
        "include_thoughts",
        "response_format",
        "verbosity",
        "top_logprobs",
        "logprobs",
        "service_tier",
        "metadata",
        "thinking_budget",
    }
)


# ----------------------------------------------------------------------------- requests


@reads_request
def parse_request(body: JSON) -> LLMRequest:
    """Parse the JSON body of a client's request to `/v1/responses`.

    `instructions` becomes the first system message. With `previous_response_id` or
    `conversation` a tool result need not have its call in the input. Raises
    InvokeBadRequestError that names the field if a value is missing or invalid.
    """
    parameters, extra_fields = _parse_parameters(body)
    choice = body.get("tool_choice")
    tool_choice = _parse_tool_choice(choice) if choice is not None else None
    messages: list[AnyPromptMessage] = []
    if (instructions := optional_field(body, "instructions", str)) is not None:
        # The mark lets `dump_request` write the message back as `instructions`.
        messages.append(
            SystemPromptMessage(
                content=instructions, extra={FORMAT: {"instructions": True}}
            )
        )
    # With stored history, a tool result may answer a call that is not in this request.
    is_new = "previous_response_id" not in body and "conversation" not in body
    messages += parse_input(body.get("input"), is_new=is_new)
    return LLMRequest(
        format=FORMAT,
        messages=messages,
        model_parameters=parameters,
        tools=[
            _parse_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools_of(body))
        ],
        tool_choice=tool_choice,
        stream=optional_field(body, "stream", bool) or False,
        user=optional_field(body, "user", str),
        extra=passthrough_fields(
            FORMAT,
            extra_fields
            | {
                k: v
                for k, v in unknown_fields(body, _KNOWN_FIELDS).items()
                if v is not None
            },
        ),
    )


def _parse_parameters(body: JSON) -> tuple[dict[str, Any], JSON]:
    """Return the request's parameters, and the settings without a counterpart.

    The second value has what remains of the objects `reasoning` and `text`, to be
    passed through. Raises InvokeBadRequestError if a value has the wrong type or is out
    of range.
    """
    parameters: dict[str, Any] = {}
    for name, value_type, low, high in (
        ("temperature", float, 0, 2),
        ("top_p", float, 0, 1),
        ("top_logprobs", int, 0, 20),
    ):
        if optional_field(body, name, value_type) is not None:
            in_range(body[name], low, high, name)
            parameters[name] = body[name]
    if (max_tokens := optional_field(body, "max_output_tokens", int)) is not None:
        in_range(max_tokens, 1, 1 << 31, "max_output_tokens")
        parameters["max_tokens"] = max_tokens
    for name, value_type in (
        ("parallel_tool_calls", bool),
        ("service_tier", str),
        ("metadata", dict),
    ):
        if (value := optional_field(body, name, value_type)) is not None:
            parameters[name] = value
    # Log probabilities are requested by the list of additional output, not by a flag.
    if "message.output_text.logprobs" in (optional_field(body, "include", list) or ()):
        parameters["logprobs"] = True
    return parameters, _parse_reasoning_config(body, parameters) | _parse_text_config(
        body, parameters
    )


def _parse_reasoning_config(body: JSON, parameters: dict[str, Any]) -> JSON:
    """Store the reasoning settings that have a counterpart in `parameters`; return the
    remaining ones."""
    reasoning = dict(optional_field(body, "reasoning", dict) or {})
    if (effort := reasoning.pop("effort", None)) is not None:
        parameters["reasoning_effort"] = effort
    if reasoning.get("summary"):
        parameters["include_thoughts"] = True
    reasoning = {name: value for name, value in reasoning.items() if value is not None}
    # A summary that `dump_request` would produce by itself need not be stored.
    usual = {"summary": "auto"} if parameters.get("include_thoughts") else {}
    return {} if reasoning == usual else {"reasoning": reasoning}


def _parse_text_config(body: JSON, parameters: dict[str, Any]) -> JSON:
    """Store the output format and verbosity of `text` in `parameters`.

    Returns the remaining settings under the key `text`, or an empty object. Raises
    InvokeBadRequestError if `text` or its format is invalid.
    """
    text = dict(optional_field(body, "text", dict) or {})
    if (text_format := text.pop("format", None)) is not None:
        format_fields = expect_type(text_format, dict, "text.format")
        parameters["response_format"] = _parse_format(format_fields)
    if (verbosity := text.pop("verbosity", None)) is not None:
        parameters["verbosity"] = verbosity
    return {"text": text} if text else {}


def _parse_format(text_format: JSON) -> JSON:
    """Return `text.format` as `response_format` of Chat Completions.

    The schema's fields are nested under `json_schema`. Raises InvokeBadRequestError for
    an unknown type, and for a `json_schema` without a schema.
    """
    format_type = required_field(text_format, "type", str, "text.format.")
    if format_type not in ("text", "json_object", "json_schema"):
        raise invalid_field(
            "text.format.type", format_type, "text, json_object or json_schema"
        )
    if format_type != "json_schema":
        return {"type": format_type}
    required_field(text_format, "schema", dict, "text.format.")
    # The fields of a schema are flat here and nested in our types.
    return {
        "type": format_type,
        "json_schema": {
            name: value for name, value in text_format.items() if name != "type"
        },
    }


def _parse_tool_choice(value: Any) -> str | dict[str, Any]:
    """Parse the `tool_choice` of a Responses request.

    Returns `auto`, `none` or `required`; `name` for a forced tool (a hosted one is
    named by its type); or `mode` and `allowed` for a list of allowed tools. Raises
    InvokeBadRequestError for other values.
    """
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise invalid_field(
                "tool_choice",
                value,
                "auto, none, required or an object that names a tool",
            )
        return value
    choice = expect_type(value, dict, "tool_choice")
    if choice.get("type") == "allowed_tools":
        names = [
            tool.get("name") or tool.get("type")
            for tool in required_field(choice, "tools", list, "tool_choice.")
        ]
        return {"mode": choice.get("mode") or "auto", "allowed": names}
    if choice.get("type") in ("function", "custom"):
        return {"name": required_field(choice, "name", str, "tool_choice.")}
    # A tool that the provider runs itself is named by its type.
    return {"name": required_field(choice, "type", str, "tool_choice.")}


def _parse_tool(tool: Any, where: str) -> PromptMessageTool:
    """Parse an entry of `tools`: a function, a custom tool or a hosted tool.

    The definition of a hosted tool is kept in `extra`. A function without `strict` is
    marked, since this API then treats its schema as strict. Raises
    InvokeBadRequestError if a field is missing or invalid.
    """
    body = expect_type(tool, dict, where)
    tool_type = required_field(body, "type", str, f"{where}.")
    if tool_type == "custom":
        extra_fields = unknown_fields(body, frozenset({"type", "name", "description"}))
        name = required_field(body, "name", str, f"{where}.")
        return PromptMessageTool(
            name=name,
            type=tool_type,
            description=body.get("description") or "",
            extra=passthrough_fields(FORMAT, extra_fields),
        )
    if tool_type != "function":
        # Any other type is a tool that the provider runs itself. Its whole definition
        # is preserved.
        return PromptMessageTool(name=tool_type, type=tool_type, extra={FORMAT: body})
    extra_fields = unknown_fields(
        body, frozenset({"type", "name", "description", "parameters", "strict"})
    )
    # The default of this API is strict, unlike in the others; see `_dump_tool`.
    if body.get("strict") is None:
        extra_fields = {**extra_fields, "strict_by_default": True}
    return PromptMessageTool(
        name=required_field(body, "name", str, f"{where}."),
        description=optional_field(body, "description", str, f"{where}.") or "",
        parameters=optional_field(body, "parameters", dict, f"{where}.") or {},
        strict=optional_field(body, "strict", bool, f"{where}."),
        extra=passthrough_fields(FORMAT, extra_fields),
    )


def parse_tools(tools: Any, where: str) -> list[PromptMessageTool]:
    """Parse a list of tools outside of the field `tools`, as in the item
    `additional_tools` or in a namespace. Raises InvokeBadRequestError."""
    entries = limited_list(expect_type(tools, list, where), MAX_TOOLS, where)
    return [_parse_tool(tool, f"{where}[{i}]") for i, tool in enumerate(entries)]


# Items that the client sends and that have no counterpart in our types.
_CLIENT_ITEM_TYPES = frozenset(
    {
        "item_reference",
        "mcp_approval_response",
        "computer_call_output",
        "local_shell_call_output",
        "shell_call_output",
        "apply_patch_call_output",
        "tool_search_output",
        "additional_tools",
    }
)


def parse_input(value: Any, *, is_new: bool = True) -> list[AnyPromptMessage]:
    """Parse the input items into messages.

    With `is_new` there is no stored history, so every tool result needs its call in the
    input.
    """
    if isinstance(value, str):
        return [UserPromptMessage(content=value)]
    if value is None:
        raise invalid_field("input", None, "a string or a list of items")
    items = expect_type(value, list, "input")
    if not items and is_new:
        raise InvokeBadRequestError(
            "'input' must contain at least one item", param="input"
        )
    conversation = _ConversationBuilder(is_new=is_new)
    for index, item in enumerate(items):
        # The most common item, a role and a text, takes a short path.
        if (
            type(item) is dict
            and len(item) == 2
            and item.get("role") == "user"
            and type(item.get("content")) is str
        ):
            conversation.add_message(UserPromptMessage(content=item["content"]))
        else:
            conversation.add_item(item, f"input[{index}]")
    return conversation.finish()


class _ConversationBuilder:
    """Builds messages from input items. Neighbouring items of the model form one
    assistant message."""

    __slots__ = ("_blocks", "_call_ids", "_is_new", "_messages", "_refusals")

    def __init__(self, *, is_new: bool) -> None:
        self._is_new = is_new
        self._messages: list[AnyPromptMessage] = []
        # Blocks and refusals of the assistant message under construction.
        self._blocks: list[PromptMessageContent | ToolCall] = []
        self._refusals: list[str] = []
        # Ids of the calls so far.
        self._call_ids: set[str] = set()

    def add_item(self, raw_item: Any, where: str) -> None:
        """Add an item of any type. Raises InvokeBadRequestError that names the field;
        `where` is the path of the item."""
        item = expect_type(raw_item, dict, where)
        item_type = item.get("type") or "message"
        if _is_model_output(item, item_type):
            self._call_ids.add(str(item.get("call_id")))
            if item_type in _CLIENT_CALLS and _is_client_call(item):
                self._blocks.append(_parse_client_call(item))
                return
            blocks, refusals = _parse_output_item(item, where)
            self._blocks += blocks
            self._refusals += refusals
            return
        call_ids = self._call_ids if self._is_new else None
        self.add_message(_parse_input_item(item, item_type, where, call_ids))

    def add_message(self, message: AnyPromptMessage) -> None:
        """Add a message of the client. It ends the assistant message before it."""
        if self._blocks or self._refusals:
            self._end_assistant_message()
        self._messages.append(message)

    def finish(self) -> list[AnyPromptMessage]:
        """Return all messages, in the order of the items."""
        if self._blocks or self._refusals:
            self._end_assistant_message()
        return self._messages

    def _end_assistant_message(self) -> None:
        """Add the message whose items have been read."""
        refusal = "".join(self._refusals) or None
        self._messages.append(assistant_of(self._blocks, refusal=refusal))
        self._blocks, self._refusals = [], []


def _is_model_output(item: JSON, item_type: str) -> bool:
    """Return whether the model produced the item (otherwise the client did)."""
    if item_type == "message":
        return item.get("role") == "assistant"
    return item_type not in _CLIENT_ITEM_TYPES and item_type not in (
        "function_call_output",
        "custom_tool_call_output",
    )


def _parse_input_item(
    item: JSON, item_type: str, where: str, calls: set[str] | None
) -> AnyPromptMessage:
    """Parse an input item of the client into a message.

    `calls` has the ids of the calls so far; it is None if the provider stores the
    history. A type without a counterpart becomes an opaque part of a user message.
    Raises InvokeBadRequestError for an invalid field and for the result of an unknown
    call.
    """
    match item_type:
        case "message":
            return _parse_message(item, where)
        case "function_call_output" | "custom_tool_call_output":
            call = required_field(item, "call_id", str, f"{where}.")
            if calls is not None and call not in calls:
                raise invalid_field(
                    f"{where}.call_id", call, "the call_id of an earlier function_call"
                )
            output = item.get("output")
            known_fields = frozenset({"type", "call_id", "output", "id", "status"})
            return ToolPromptMessage(
                content=(
                    output
                    if isinstance(output, str)
                    else _parse_content(output, f"{where}.output")
                ),
                tool_call_id=call,
                # The type is stored only for custom tools, since functions are the
                # default.
                extra=passthrough_fields(
                    FORMAT,
                    unknown_fields(item, known_fields)
                    | ({"type": item_type} if item_type[0] == "c" else {}),
                ),
            )
        case result_type if result_type in _CLIENT_RESULTS and (
            isinstance(call := item.get("call_id"), str)
            and (calls is None or call in calls)
        ):
            return _parse_client_result(item)
        # Items without a counterpart become opaque parts, which only this format sends
        # again.
        case _:
            return UserPromptMessage(
                content=[OpaquePromptMessageContent(format=FORMAT, data=item)]
            )


def _parse_message(item: JSON, where: str) -> AnyPromptMessage:
    """Parse a `message` item of a user, the system or a developer.

    The role `developer` becomes a system message that stores its role. Raises
    InvokeBadRequestError for any other role and for invalid content.
    """
    role = item.get("role")
    content = item.get("content")
    parts = (
        content
        if isinstance(content, str)
        else _parse_content(content, f"{where}.content")
    )
    extra_fields = unknown_fields(
        item, frozenset({"type", "role", "content", "status", "id"})
    )
    match role:
        case "user":
            return UserPromptMessage(
                content=parts, extra=passthrough_fields(FORMAT, extra_fields)
            )
        case "system" | "developer":
            extra_fields |= {"role": role} if role == "developer" else {}
            return SystemPromptMessage(
                content=parts, extra=passthrough_fields(FORMAT, extra_fields)
            )
        case _:
            raise invalid_field(
                f"{where}.role", role, "user, assistant, system or developer"
            )


def _parse_content(content: Any, where: str) -> Content:
    """Parse the content parts of an item.

    `where` is the list's path for error messages. Raises InvokeBadRequestError if
    `content` is not a list or a part is invalid.
    """
    return [
        _parse_part(part, f"{where}[{i}]")
        for i, part in enumerate(expect_type(content, list, where))
    ]


def _parse_part(part: Any, where: str) -> PromptMessageContent:
    """Parse one content part of an item.

    Images and files that are given only by an id, and unknown types, become opaque
    parts, which only this format sends again. Raises InvokeBadRequestError if the type
    is missing, a field is invalid, or a `data:` URL has no valid base64.
    """
    body = expect_type(part, dict, where)
    parsed_part = _parse_known_part(body, where)
    known_fields = _PART_FIELDS.get(str(body.get("type")))
    if known_fields is None or isinstance(parsed_part, OpaquePromptMessageContent):
        return parsed_part
    rest = unknown_fields(body, known_fields)
    if not rest:
        return parsed_part
    return msgspec.structs.replace(parsed_part, extra={FORMAT: {"part": rest}})


# Type of a part -> its fields with a reader. For texts see `_parse_text`.
_PART_FIELDS = {
    "input_image": frozenset(
        {
            "type",
            "image_url",
            "detail",
            "file_id",
        }
    ),
    "input_file": frozenset(
        {
            "type",
            "file_data",
            "file_url",
            "filename",
            "file_id",
        }
    ),
    "input_audio": frozenset({"type", "input_audio"}),
}


def _parse_known_part(body: JSON, where: str) -> PromptMessageContent:
    """Parse one content part by its type, without the fields that have no reader."""
    match body.get("type"):
        case "input_text" | "output_text" | "text":
            return _parse_text(body, where)
        # An image may also be a file id, which falls through to the opaque part below.
        case "input_image" if isinstance(body.get("image_url"), str):
            fields = from_url(body["image_url"], f"{where}.image_url", is_image=True)
            detail = body.get("detail") or ""
            if detail not in ("", "auto", "low", "high", "original"):
                raise invalid_field(f"{where}.detail", detail, "auto, low or high")
            return ImagePromptMessageContent(**fields, detail=detail)
        case "input_file" if body.get("file_data") or body.get("file_url"):
            name = body.get("filename") or ""
            if url := body.get("file_url"):
                return DocumentPromptMessageContent(url=url, filename=name)
            return DocumentPromptMessageContent(
                **from_url(body["file_data"], f"{where}.file_data"), filename=name
            )
        case "input_audio":
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
        case str():
            return OpaquePromptMessageContent(format=FORMAT, data=body)
        case other:
            raise invalid_field(
                f"{where}.type",
                other,
                "input_text, input_image, input_file or input_audio",
            )


_TEXT_FIELDS = frozenset({"type", "text", "annotations", "logprobs"})


def _parse_text(
    body: JSON, where: str, item: JSON | None = None
) -> TextPromptMessageContent:
    """Parse a text part with its annotations.

    `item` has the other fields of the message around it; they are kept in `extra`, so
    that `_items` can rebuild the message. Raises InvokeBadRequestError if `text` is not
    a string.
    """
    annotations = body.get("annotations") or ()
    fields: JSON = {"item": item} if item else {}
    # Fields of the part itself, such as its mark for the cache.
    if part_fields := unknown_fields(body, _TEXT_FIELDS):
        fields["part"] = part_fields
    return TextPromptMessageContent(
        data=required_field(body, "text", str, f"{where}."),
        citations=[_parse_annotation(annotation) for annotation in annotations],
        extra=passthrough_fields(FORMAT, fields),
    )


def _parse_annotation(annotation: JSON) -> Citation:
    """Parse an annotation of an `output_text` part.

    A cited file's name serves as the title. Missing positions are None. The original is
    kept in `extra`.
    """
    return Citation(
        url=annotation.get("url") or "",
        title=annotation.get("title") or annotation.get("filename") or "",
        start=count(annotation.get("start_index")),
        end=count(annotation.get("end_index")),
        extra={FORMAT: annotation},
    )


def _parse_output_item(
    item: JSON, where: str
) -> tuple[list[PromptMessageContent | ToolCall], list[str]]:
    """Parse an item of the model. Returns its blocks and its refusals."""
    match item.get("type") or "message":
        case "message":
            return _parse_output_message(item, where)
        case "function_call":
            return [_parse_call(item, where, "function", "arguments")], []
        case "custom_tool_call":
            return [_parse_call(item, where, "custom", "input")], []
        case "reasoning":
            return [_parse_reasoning(item)], []
        case "image_generation_call" if isinstance(item.get("result"), str):
            image_format = item.get("output_format") or "png"
            # The image itself is already in `base64_data`; the stored item omits it.
            item_extra = {
                "item": {
                    name: value for name, value in item.items() if name != "result"
                }
            }
            image = ImagePromptMessageContent(
                base64_data=item["result"],
                format=image_format,
                mime_type=mime_type_of(image_format, "image"),
                extra={FORMAT: item_extra},
            )
            return [image], []
        case _:
            return [OpaquePromptMessageContent(format=FORMAT, data=item)], []


def _with_call_id(item: JSON) -> JSON:
    """Return an item of an answer; a call without an id gets an empty one, which is
    replaced later."""
    is_call = item.get("type") in ("function_call", "custom_tool_call")
    return {**item, "call_id": ""} if is_call and not item.get("call_id") else item


def _parse_output_message(
    item: JSON, where: str
) -> tuple[list[PromptMessageContent | ToolCall], list[str]]:
    """Return the blocks and the refusals of a `message` item of the model.

    The content is a list of parts or a string; an empty string gives no block. Raises
    InvokeBadRequestError if it is neither, or if a part is invalid.
    """
    item_fields = unknown_fields(item, frozenset({"type", "role", "content", "status"}))
    content = item.get("content")
    # A plain string is the short form of one text part.
    if isinstance(content, str):
        content = [{"type": "output_text", "text": content}] if content else []
    blocks: list[PromptMessageContent | ToolCall] = []
    refusals: list[str] = []
    for part_index, raw_part in enumerate(
        expect_type(content, list, f"{where}.content")
    ):
        part_path = f"{where}.content[{part_index}]"
        part = expect_type(raw_part, dict, part_path)
        if part.get("type") == "refusal":
            refusals.append(required_field(part, "refusal", str, f"{part_path}."))
        elif part.get("type") in ("output_text", "input_text", "text"):
            # The item's own fields go along with each text, so that `_items` can join
            # them again.
            blocks.append(_parse_text(part, part_path, item_fields))
        else:
            blocks.append(_parse_part(part, part_path))
    return blocks, refusals


def _parse_call(item: JSON, where: str, call_type: str, field: str) -> ToolCall:
    """Parse a `function_call` or `custom_tool_call` item.

    `call_type` is `function` or `custom`, `field` the item's field with the arguments:
    `arguments` or `input`. Raises InvokeBadRequestError if `call_id` or `name` is
    missing.
    """
    extra_fields = unknown_fields(
        item, frozenset({"type", "call_id", "name", field, "status"})
    )
    return ToolCall(
        id=required_field(item, "call_id", str, f"{where}."),
        type=call_type,
        function=ToolCallFunction(
            name=required_field(item, "name", str, f"{where}."),
            arguments=item.get(field) or "",
        ),
        extra=passthrough_fields(
            FORMAT,
            {name: value for name, value in extra_fields.items() if value is not None},
        ),
    )


# Item type of a call that the client runs -> its kind, which is also the tool's type,
# and the field with its arguments, an object.
_CLIENT_CALLS = {
    "tool_search_call": ("tool_search", "arguments"),
    "local_shell_call": ("local_shell", "action"),
    "shell_call": ("shell", "action"),
    "apply_patch_call": ("apply_patch", "operation"),
}
_CLIENT_CALL_TYPES = {kind: name for name, (kind, _) in _CLIENT_CALLS.items()}
# Item type of a result -> the field with what the model reads.
_CLIENT_RESULTS = {
    "tool_search_output": "tools",
    "local_shell_call_output": "output",
    "shell_call_output": "output",
    "apply_patch_call_output": "output",
}


def _is_client_call(item: JSON) -> bool:
    """Return whether a call has an id by which its result refers to it. Those that the
    provider runs have none, or say so."""
    return isinstance(item.get("call_id"), str) and item.get("execution") != "server"


def _parse_client_call(item: JSON) -> ToolCall:
    """Parse a call of a tool that this API defines and the client runs, such as
    `tool_search_call`."""
    kind, field = _CLIENT_CALLS[item["type"]]
    extra_fields = unknown_fields(item, frozenset({"type", "call_id", field}))
    return ToolCall(
        id=item["call_id"],
        type=kind,
        function=ToolCallFunction(name=kind, arguments=as_text(item.get(field))),
        extra=passthrough_fields(FORMAT, extra_fields),
    )


def _dump_client_call(call: ToolCall) -> JSON:
    """Build the item of a call of a tool that this API defines and the client runs."""
    item_type = _CLIENT_CALL_TYPES[call.type]
    arguments = as_object(call.function.arguments)
    # A model may write the question alone.
    if "INVALID_JSON" in arguments and call.type == "tool_search":
        arguments = {"query": call.function.arguments}
    execution = {"execution": "client"} if call.type == "tool_search" else {}
    return {
        "type": item_type,
        "call_id": call.id,
        "status": "completed",
        **execution,
        _CLIENT_CALLS[item_type][1]: arguments,
        **call.extra.get(FORMAT, {}),
    }


def _parse_client_result(item: JSON) -> ToolPromptMessage:
    """Parse the result of a tool that this API defines and the client runs. The item
    itself is kept in `extra`."""
    result = item.get(_CLIENT_RESULTS[item["type"]])
    return ToolPromptMessage(
        content=result if isinstance(result, str) else as_text(result),
        tool_call_id=item["call_id"],
        extra={FORMAT: {"item": item}},
    )


_FOREIGN_ORIGINS = ("anthropic", "gemini", "bedrock")
_REDACTED_ID_PREFIXES = tuple(f"rs_{name}_redacted_" for name in _FOREIGN_ORIGINS)


def _parse_reasoning(item: JSON) -> ThinkingPromptMessageContent:
    """Parse a `reasoning` item into a thought.

    The signature is `encrypted_content`. An id that `_reasoning_id` generated gives the
    original provider back. The item itself is kept in `extra` if it has more than
    `_dump_reasoning` can rebuild.
    """
    text = _reasoning_text(item)
    item_id = item.get("id") or ""
    # Ids generated by `_reasoning_id` name the provider that wrote the thought.
    origin = next(
        (name for name in _FOREIGN_ORIGINS if item_id.startswith(f"rs_{name}_")), FORMAT
    )
    thought = ThinkingPromptMessageContent(
        data=text,
        signature=item.get("encrypted_content") or "",
        redacted=item_id.startswith(_REDACTED_ID_PREFIXES),
        id=item_id if origin == FORMAT else "",
        origin=origin,
    )
    item_fields = {
        name: value
        for name, value in item.items()
        if value is not None and name != "status"
    }
    # The original item is stored only if it has more than can be rebuilt.
    if origin == FORMAT and _dump_reasoning(thought, item_id) != item_fields:
        return msgspec.structs.replace(thought, extra={FORMAT: {"item": item_fields}})
    return thought


def _reasoning_text(item: JSON) -> str:
    """Return the reasoning itself if the item has it, otherwise its summary."""
    summary = [
        summary_part.get("text") or "" for summary_part in item.get("summary") or ()
    ]
    content = [
        content_part.get("text") or "" for content_part in item.get("content") or ()
    ]
    return "\n\n".join(content or summary)


def dump_request(request: LLMRequest, model: str, capabilities: Capabilities) -> JSON:
    """Build OpenAI's request body. `capabilities.drop` lists fields to omit.

    Raises InvokeBadRequestError for content or tools that this API does not accept.
    """
    parameters = request.model_parameters
    body: JSON = {"model": model}
    messages = list(request.messages)
    # Only the first message can go back into `instructions`.
    if messages and messages[0].extra.get(FORMAT, {}).get("instructions"):
        body["instructions"] = messages.pop(0).text
    body["input"] = list(_dump_input(messages))
    for name in (
        "temperature",
        "top_p",
        "parallel_tool_calls",
        "top_logprobs",
        "service_tier",
        "metadata",
    ):
        if name in parameters:
            body[name] = parameters[name]
    choice = request.tool_choice
    body |= without_empty(
        max_output_tokens=parameters.get("max_tokens"),
        include=(
            ["message.output_text.logprobs"] if parameters.get("logprobs") else None
        ),
        reasoning=_dump_effort(parameters) or None,
        text=_dump_text_config(parameters) or None,
        tools=[_dump_tool(tool) for tool in request.tools],
        tool_choice=(
            _dump_tool_choice(choice, request.tools) if choice is not None else None
        ),
        user=request.user,
        stream=request.stream or None,
    )
    # Vendor fields take precedence; objects such as `text` are merged with the
    # translated ones.
    for name, value in request.extra.get(FORMAT, {}).items():
        can_merge = isinstance(value, dict) and isinstance(body.get(name), dict)
        body[name] = {**body[name], **value} if can_merge else value
    for name in capabilities.drop:
        body.pop(name, None)
    return body


def _dump_text_config(parameters: Mapping[str, Any]) -> JSON:
    """Build the object `text` from the output format and the verbosity.

    The schema's fields are written next to the type. The object may be empty.
    """
    response_format = parameters.get("response_format")
    # The fields of a schema are flat here and nested in our types.
    shape = (
        {
            "format": {
                "type": response_format["type"],
                **response_format.get("json_schema", {}),
            }
        }
        if response_format
        else {}
    )
    return {**shape, **without_empty(verbosity=parameters.get("verbosity"))}


def _dump_effort(parameters: Mapping[str, Any]) -> JSON:
    """Build the object `reasoning`; empty if thinking is not controlled.

    A budget becomes the nearest effort level if no effort is given. `include_thoughts`
    asks for an automatic summary.
    """
    effort = parameters.get("reasoning_effort")
    budget = parameters.get("thinking_budget")
    # The API takes effort levels only, so a budget becomes the nearest level.
    if effort is None and budget is not None:
        effort = effort_of(budget)
    summary = "auto" if parameters.get("include_thoughts") else None
    return without_empty(effort=effort, summary=summary)


def _dump_tool(tool: PromptMessageTool) -> JSON:
    """Build an entry of `tools`.

    A function always states `strict`, unless it came in this format without it. Raises
    InvokeBadRequestError for a hosted tool whose definition did not come in this
    format.
    """
    vendor_fields = dict(tool.extra.get(FORMAT, {}))
    if tool.type == "custom":
        return {
            "type": "custom",
            "name": tool.name,
            **without_empty(description=tool.description),
            **vendor_fields,
        }
    if tool.type != "function":
        if not vendor_fields:
            raise InvokeBadRequestError(
                f"Tool {tool.name!r} is hosted by another provider; this provider does"
                " not support it",
                param="tools",
            )
        return vendor_fields
    # Without `strict` this API treats a schema as strict; the other formats do not.
    by_default = vendor_fields.pop("strict_by_default", False)
    strict = {} if by_default and tool.strict is None else {"strict": bool(tool.strict)}
    body: JSON = {
        "type": "function",
        "name": tool.name,
        **without_empty(description=tool.description),
    }
    return {
        **body,
        "parameters": tool.parameters or {"type": "object", "properties": {}},
        **strict,
        **vendor_fields,
    }


def _dump_tool_choice(
    choice: str | dict[str, Any], tools: Sequence[PromptMessageTool]
) -> Any:
    """Build the `tool_choice` of a Responses request.

    `tools` are the request's tools; their types decide how a forced or allowed tool is
    named.
    """
    if isinstance(choice, str):
        return choice
    tool_types = {tool.name: tool.type for tool in tools}
    if "allowed" in choice:
        allowed = [_tool_reference(name, tool_types) for name in choice["allowed"]]
        return {"type": "allowed_tools", "mode": choice["mode"], "tools": allowed}
    reference = _tool_reference(choice["name"], tool_types)
    if reference["type"] in _FORCED_BY_REFERENCE:
        return reference
    # Other hosted tools, such as `web_search`, are forced as the only allowed one.
    return {"type": "allowed_tools", "mode": "required", "tools": [reference]}


_FORCED_BY_REFERENCE = frozenset(
    {
        "function",
        "custom",
        "mcp",
        "shell",
        "apply_patch",
        "file_search",
        "web_search_preview",
        "web_search_preview_2025_03_11",
        "computer",
        "computer_use",
        "computer_use_preview",
        "code_interpreter",
        "image_generation",
    }
)
"""Types of tools that `tool_choice` may name by themselves.
https://platform.openai.com/docs/api-reference/responses/create"""


def _tool_reference(name: str, tool_types: Mapping[str, str]) -> JSON:
    """Return the object that names a tool in `tool_choice`.

    `tool_types` gives the type by name; an unknown name counts as a function. A hosted
    tool is referred to by its type alone.
    """
    tool_type = tool_types.get(name, "function")
    # Only functions and custom tools have names.
    return (
        {"type": tool_type, "name": name}
        if tool_type in ("function", "custom")
        else {"type": tool_type}
    )


def _dump_input(messages: Iterable[AnyPromptMessage]) -> Iterator[JSON]:
    """Yield the input items for a conversation, in order.

    One message may give several items. Raises InvokeBadRequestError for a video.
    """
    # Results of custom tools have their own item type, so the ids of such calls are
    # collected.
    custom_call_ids: set[str] = set()
    for message in messages:
        match message:
            case AssistantPromptMessage():
                custom_call_ids |= {
                    call.id for call in message.tool_calls if call.type == "custom"
                }
                yield from _dump_assistant_items(message)
            case ToolPromptMessage():
                is_custom = message.tool_call_id in custom_call_ids
                yield _dump_tool_result(message, is_custom=is_custom)
            case SystemPromptMessage() | UserPromptMessage():
                yield from _dump_client_message(message)


def _dump_tool_result(message: ToolPromptMessage, *, is_custom: bool) -> JSON:
    """Build a `function_call_output` item, or `custom_tool_call_output`.

    `is_custom` tells whether the result answers a custom call. Vendor fields take
    precedence, and so does the original item of a tool that this API defines.
    """
    own_fields, call_id = message.extra.get(FORMAT, {}), message.tool_call_id
    if raw_item := own_fields.get("item"):
        return {**raw_item, "call_id": call_id}
    item_type = "custom_tool_call_output" if is_custom else "function_call_output"
    content = _dump_content(message) or ""
    return {"type": item_type, "call_id": call_id, "output": content, **own_fields}


def _dump_client_message(
    message: SystemPromptMessage | UserPromptMessage,
) -> list[JSON]:
    """Return a system or user message as items."""
    parts = message.parts
    opaque_parts = [
        part for part in parts if isinstance(part, OpaquePromptMessageContent)
    ]
    # A message made of opaque items is written as these items. Items of other formats
    # are dropped.
    if (
        opaque_parts
        and len(opaque_parts) == len(parts)
        and opaque_parts[0].data.get("type") in _CLIENT_ITEM_TYPES
    ):
        return [part.data for part in opaque_parts if part.format == FORMAT]
    vendor_fields = {
        name: value
        for name, value in message.extra.get(FORMAT, {}).items()
        if name != "instructions"
    }
    content = _dump_content(message)
    return [{"role": message.role.value, "content": content, **vendor_fields}]


def _dump_content(message: AnyPromptMessage) -> str | list[JSON]:
    """Return a message's content; a plain text stays one."""
    if isinstance(message.content, str):
        return message.content
    return _dump_parts(message.parts)


def _dump_parts(parts: Iterable[PromptMessageContent]) -> list[JSON]:
    """Return parts, without those that the format cannot express."""
    return [body for part in parts if (body := _dump_part(part)) is not None]


def _dump_part(part: PromptMessageContent) -> JSON | None:
    """Build an input content part, or None if the part is not sent.

    Not sent are thoughts, and opaque parts of other formats. Raises
    InvokeBadRequestError for a video.
    """
    match part:
        case TextPromptMessageContent():
            return {"type": "input_text", "text": part.data, **_part_fields(part)}
        case ImagePromptMessageContent():
            return {
                "type": "input_image",
                "image_url": part.data,
                **without_empty(detail=part.detail),
                **_part_fields(part),
            }
        case AudioPromptMessageContent():
            audio_format = part.format or format_of(part.mime_type)
            return {
                "type": "input_audio",
                "input_audio": {"data": part.base64_data, "format": audio_format},
                **_part_fields(part),
            }
        case DocumentPromptMessageContent():
            source = {"file_url": part.url} if part.url else {"file_data": part.data}
            return {
                "type": "input_file",
                **without_empty(filename=part.filename),
                **source,
                **_part_fields(part),
            }
        case OpaquePromptMessageContent():
            return part.data if part.format == FORMAT else None
        case VideoPromptMessageContent():
            raise InvokeBadRequestError(
                "The Responses API does not accept video; send text, images, audio or"
                " files"
            )
        case ThinkingPromptMessageContent():
            # Thoughts of a user message have no meaning; thoughts of the assistant are
            # written as items.
            return None


def _part_fields(part: PromptMessageContent) -> JSON:
    """Return the fields of a part of this format that no reader knows."""
    return part.extra.get(FORMAT, {}).get("part") or {} if part.extra else {}


def _dump_assistant_items(message: AssistantPromptMessage) -> Iterator[JSON]:
    """Yield an earlier assistant message as items, with only those thoughts that OpenAI
    itself wrote."""
    blocks = (
        message.blocks
        if message.reasoning_content is None
        else [*message.parts, *message.tool_calls]
    )
    sendable_blocks = [
        block
        for block in blocks
        if not isinstance(block, ThinkingPromptMessageContent)
        # Without a signature or an id OpenAI could not use the thought.
        or (block.origin in ("", FORMAT) and (block.signature or block.id))
    ]
    for item in _items(sendable_blocks, "", message.refusal):
        if item["type"] == "message" and "id" not in item:
            # A message without an id is sent in the short form, as clients write it.
            yield {
                "role": "assistant",
                **{
                    name: value
                    for name, value in item.items()
                    if name not in ("type", "status")
                },
            }
        else:
            # An item that OpenAI did not create has no status.
            is_generated = (
                item["type"] in ("function_call", "custom_tool_call", "message")
                and "id" not in item
            )
            yield {
                name: value
                for name, value in item.items()
                if name != "status" or not is_generated
            }


def _items(
    blocks: Iterable[PromptMessageContent | ToolCall], stem: str, refusal: str | None
) -> list[JSON]:
    """Return blocks as items. Generated ids end with `stem`; no ids are generated if it
    is empty."""
    items: list[JSON] = []
    # The last item, if it is a message.
    message: JSON | None = None
    for block in blocks:
        if not isinstance(block, TextPromptMessageContent):
            message = None
            _append_item(items, block, stem)
            continue
        # Neighbouring texts of the same original item become its content parts.
        item_fields = block.extra.get(FORMAT, {}).get("item") or {}
        if (
            message is None
            or not item_fields
            or item_fields.get("id") != message.get("id")
        ):
            message = _new_message(item_fields, stem, len(items))
            items.append(message)
        message["content"].append(_dump_text(block))
    # A refusal is the last part of the last message, or a separate message.
    if refusal:
        if message is None:
            message = _new_message({}, stem, len(items))
            items.append(message)
        message["content"].append({"type": "refusal", "refusal": refusal})
    return items


def _append_item(
    items: list[JSON], block: PromptMessageContent | ToolCall, stem: str
) -> None:
    """Append the item for a block to `items`.

    Blocks without a counterpart add nothing. A generated id ends with `stem` and the
    item's position; without a stem only reasoning items get one, derived from their
    content.
    """
    item = _dump_item(block, f"{stem}_{len(items)}" if stem else "")
    if item is not None:
        items.append(item)


def _new_message(item_fields: JSON, stem: str, number: int) -> JSON:
    """Return a `message` item of the assistant without content.

    `item_fields` are the fields of the original item; its id takes precedence over
    `msg_<stem>_<number>`. Without an id and a stem, the item has no id.
    """
    item_id = item_fields.get("id") or (f"msg_{stem}_{number}" if stem else None)
    return {
        "type": "message",
        **({"id": item_id} if item_id else {}),
        "role": "assistant",
        "status": "completed",
        "content": [],
        **item_fields,
    }


def _dump_text(part: TextPromptMessageContent) -> JSON:
    """Build an `output_text` part with its annotations.

    Its `logprobs` are empty; see `_put_logprobs`.
    """
    annotations = [_dump_annotation(citation) for citation in part.citations]
    return {
        "type": "output_text",
        "text": part.data,
        "annotations": annotations,
        "logprobs": [],
    }


def _dump_annotation(citation: Citation) -> JSON:
    """Return the annotation for a citation.

    One that came in this format is unchanged, any other becomes a `url_citation`. One
    without a position gets 0 for both, since the schema requires them.
    """
    # An annotation that came from OpenAI is written unchanged.
    if raw_annotation := citation.extra.get(FORMAT):
        return raw_annotation
    span = {"start_index": citation.start or 0, "end_index": citation.end or 0}
    return {
        "type": "url_citation",
        "url": citation.url,
        "title": citation.title,
        **span,
    }


def _dump_item(block: PromptMessageContent | ToolCall, stem: str) -> JSON | None:
    """Build the output item for a block other than text.

    `stem` ends the generated ids; calls and images get none if it is empty. Returns
    None for a block without a counterpart, such as audio or an opaque part of another
    format.
    """
    match block:
        case ToolCall() if block.type in _CLIENT_CALL_TYPES:
            return _dump_client_call(block)
        case ToolCall():
            return _dump_call(block, stem)
        case ThinkingPromptMessageContent():
            raw_item = block.extra.get(FORMAT, {}).get("item")
            return raw_item or _dump_reasoning(
                block, block.id or _reasoning_id(block, stem)
            )
        case OpaquePromptMessageContent():
            # Opaque parts of other formats are dropped: only their own format can
            # interpret them.
            return block.data if block.format == FORMAT else None
        case ImagePromptMessageContent():
            id_field = {"id": f"ig_{stem}"} if stem else {}
            raw_item = block.extra.get(FORMAT, {}).get("item") or {
                "type": "image_generation_call",
                **id_field,
                "status": "completed",
            }
            return {**raw_item, "result": block.base64_data or block.url}
        case _:
            return None


def _reasoning_id(thought: ThinkingPromptMessageContent, stem: str) -> str:
    """Return an id that names the origin of the thought and whether it is redacted; see
    `_parse_reasoning`."""
    origin_prefix = f"{thought.origin}_" if thought.origin in _FOREIGN_ORIGINS else ""
    hidden = "redacted_" if thought.redacted and origin_prefix else ""
    # Without a stem the id is derived from the content, so that it is the same every
    # time.
    tail = (
        stem
        or hashlib.sha256((thought.signature + thought.data).encode()).hexdigest()[:24]
    )
    return f"rs_{origin_prefix}{hidden}{tail}"


def _dump_call(call: ToolCall, stem: str) -> JSON:
    """Build a `function_call` or `custom_tool_call` item.

    Its own id, other than `call_id`, is generated from `stem` and left out if that is
    empty. Vendor fields, such as the original id, take precedence.
    """
    is_custom = call.type == "custom"
    vendor_fields = call.extra.get(FORMAT, {})
    id_field = {"id": f"{'ctc' if is_custom else 'fc'}_{stem}"} if stem else {}
    return {
        "type": "custom_tool_call" if is_custom else "function_call",
        **id_field,
        "call_id": call.id,
        "name": call.function.name,
        "input" if is_custom else "arguments": call.function.arguments,
        "status": "completed",
        **vendor_fields,
    }


def _dump_reasoning(thought: ThinkingPromptMessageContent, item_id: str) -> JSON:
    """Return a thought as an item."""
    summary = [{"type": "summary_text", "text": thought.data}] if thought.data else []
    hidden = {"encrypted_content": thought.signature} if thought.signature else {}
    return {"type": "reasoning", "id": item_id, "summary": summary, **hidden}


# ---------------------------------------------------------------------------- responses


def parse_usage(body: Any, service_tier: Any = None) -> LLMUsage | None:
    """Parse a `usage` object, or return None if it has no token counts. The original is
    stored in `extra`.

    `service_tier` is what the response states beside its usage.
    """
    if not isinstance(body, dict) or (
        count(body.get("input_tokens")) is None
        and not nested_count(body, "output_tokens")
    ):
        return None
    prompt = nested_count(body, "input_tokens")
    completion = nested_count(body, "output_tokens")
    return LLMUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        # Some compatible servers leave out the total.
        total_tokens=nested_count(body, "total_tokens") or prompt + completion,
        cached_tokens=nested_count(body, "input_tokens_details", "cached_tokens"),
        cache_write_tokens=nested_count(
            body, "input_tokens_details", "cache_write_tokens"
        ),
        audio_prompt_tokens=nested_count(body, "input_tokens_details", "audio_tokens"),
        reasoning_tokens=nested_count(
            body, "output_tokens_details", "reasoning_tokens"
        ),
        audio_completion_tokens=nested_count(
            body, "output_tokens_details", "audio_tokens"
        ),
        service_tier=tier_name(service_tier),
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    """Return a `usage` object: the original one if it came in this format, otherwise
    one built from the counts."""
    if raw_usage := usage.extra.get(FORMAT):
        return raw_usage
    input_details = {
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
    }
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": input_details,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


# Other fields are kept, so that a client of this format gets them unchanged.
_KNOWN_RESULT_FIELDS = frozenset(
    {
        "id",
        "object",
        "created_at",
        "model",
        "output",
        "usage",
        "status",
        "incomplete_details",
        "error",
        "output_text",
    }
)


def _parse_reason(body: JSON, *, has_calls: bool) -> tuple[str, JSON]:
    """Return the finish reason of a response, and the fields to restore it.

    A response that ended early has `length` or `content_filter`, any other `tool_calls`
    or `stop`. The fields hold an unusual `status` or `incomplete_details`.
    """
    status = body.get("status") or "completed"
    incomplete_reason = (body.get("incomplete_details") or {}).get("reason")
    if incomplete_reason == "content_filter":
        return "content_filter", {}
    if status == "incomplete" or incomplete_reason:
        # An unusual reason is preserved for a client of this format.
        return "length", (
            {}
            if incomplete_reason == "max_output_tokens"
            else {"incomplete_details": body.get("incomplete_details")}
        )
    status_fields = {} if status == "completed" else {"status": status}
    return ("tool_calls" if has_calls else "stop"), status_fields


@reads_answer
def parse_result(body: JSON) -> LLMResult:
    """Parse a complete `response` object into a result with one choice.

    Usage is marked as estimated if there are no token counts. Raises
    InvokeServerUnavailableError if `output` is missing or an item is invalid, and the
    error's own class if `error` is an object.
    """
    raise_error_in(body)
    items = body.get("output")
    if not isinstance(items, list):
        raise InvokeServerUnavailableError("Upstream response has no 'output'")
    blocks: list[PromptMessageContent | ToolCall] = []
    refusals: list[str] = []
    logprobs: list[Any] = []
    try:
        for index, item in enumerate(items):
            where = f"output[{index}]"
            parsed, refused = _parse_output_item(
                _with_call_id(expect_type(item, dict, where)), where
            )
            blocks += parsed
            refusals += refused
            for part in (
                (item.get("content") or ()) if item.get("type") == "message" else ()
            ):
                logprobs += part.get("logprobs") or ()
    # The item parsers blame the client by default; in a response the fault is the
    # provider's.
    except InvokeBadRequestError as error:
        raise InvokeServerUnavailableError(
            f"Invalid upstream response: {error}"
        ) from error
    reason, reason_fields = _parse_reason(
        body, has_calls=any(isinstance(block, ToolCall) for block in blocks)
    )
    message = assistant_of(blocks, refusal="".join(refusals) or None)
    choice = LLMChoice(
        message=with_call_ids(message, body.get("id") or ""),
        finish_reason=reason,
        logprobs={"content": logprobs} if logprobs else None,
    )
    return LLMResult(
        id=body.get("id") or "",
        model=body.get("model") or "",
        created=int(body.get("created_at") or 0),
        choices=[choice],
        usage=parse_usage(body.get("usage"), body.get("service_tier"))
        or LLMUsage(estimated=True),
        extra=passthrough_fields(
            FORMAT, unknown_fields(body, _KNOWN_RESULT_FIELDS) | reason_fields
        ),
    )


ECHOED_FIELDS = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "reasoning",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
    "user",
    "store",
    "service_tier",
    "top_logprobs",
    "max_tool_calls",
    "background",
    "prompt_cache_key",
    "safety_identifier",
    "presence_penalty",
    "frequency_penalty",
)
"""Fields of the request that a response repeats."""
_FUNCTION_TOOL: JSON = {"description": None, "parameters": None, "strict": None}
"""Fields that a function tool must have in a response, with their values if the request
has none."""


def echo_of(body: JSON) -> JSON:
    """Return the request fields that a response repeats.

    `body` is the client's request; missing and null fields get OpenAI's defaults, or
    are left out if they have none here.
    """
    # Clients with typed models fail if a field is missing that OpenAI always sends.
    defaults = {
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "store": True,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "max_tool_calls": None,
        "background": False,
        "service_tier": "default",
        "safety_identifier": None,
        "prompt_cache_key": None,
    }
    echoed_fields = {
        name: body[name] for name in ECHOED_FIELDS if body.get(name) is not None
    }
    if isinstance(tools := echoed_fields.get("tools"), list):
        echoed_fields["tools"] = [_echoed_tool(tool) for tool in tools]
    return {**defaults, **echoed_fields}


def _echoed_tool(tool: Any) -> Any:
    """Return a tool of the request as a response repeats it."""
    is_function = isinstance(tool, dict) and tool.get("type") == "function"
    return {**_FUNCTION_TOOL, **tool} if is_function else tool


def dump_result(result: LLMResult, echo: JSON | None = None) -> JSON:
    """Build a complete `response` object from the first choice.

    Other choices are dropped, because the API has no `n` parameter. `echo` has the
    request fields to repeat, see `echo_of`; without it they have OpenAI's defaults.
    Vendor fields of the result take precedence.
    """
    choice = result.choices[0]
    output = _items(choice.message.blocks, result.id, choice.message.refusal)
    _put_logprobs(output, choice.logprobs)
    head = _response_head(result.id, result.created, result.model, echo)
    return {
        **head,
        **_dump_reason(choice.finish_reason),
        "output": output,
        "usage": dump_usage(result.usage),
        **without_empty(
            service_tier=served_tier(FORMAT, result.usage.service_tier) or None
        ),
        **result.extra.get(FORMAT, {}),
    }


def _put_logprobs(output: list[JSON], logprobs: dict[str, Any] | None) -> None:
    """Store log probabilities in the last text part of the output items.

    `output` is changed in place. Without log probabilities or without a text nothing
    happens.
    """
    texts = [
        part
        for item in output
        if item.get("type") == "message"
        for part in item["content"]
        if "logprobs" in part
    ]
    if logprobs and texts:
        # Our choice has one list for all texts, so the last text carries it.
        texts[-1]["logprobs"] = logprobs.get("content") or []


def _response_head(
    response_id: str, created: int, model: str, echo: JSON | None
) -> JSON:
    """Build a `response` object that is in progress and has no output yet.

    `created` is a Unix time in seconds. `echo` has the request fields that the response
    repeats; without it they have OpenAI's defaults.
    """
    head: JSON = {
        "id": response_id,
        "object": "response",
        "created_at": created,
        "completed_at": None,
        "status": "in_progress",
    }
    return {
        **head,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "usage": None,
        **(echo or echo_of({})),
    }


def _dump_reason(reason: str | None) -> JSON:
    """Return `status`, and `incomplete_details` if the response ended early.

    Any other reason than `length` and `content_filter` is a completed response.
    """
    # The reverse of `_parse_reason`: all other reasons are a normal completion.
    incomplete_reason = {
        "length": "max_output_tokens",
        "content_filter": "content_filter",
    }.get(reason or "")
    if incomplete_reason:
        return {
            "status": "incomplete",
            "incomplete_details": {"reason": incomplete_reason},
        }
    return {"status": "completed"}


# ------------------------------------------------------------------------------ streams


class StreamParser:
    """Converts the events of a stream into chunks, one event at a time."""

    def __init__(self) -> None:
        self._id = self._model = ""
        self._created = 0
        # Output index or id of an item -> index of its call.
        self._calls: dict[int | str, int] = {}
        self._call_count = 0
        # The calls whose arguments came in deltas.
        self._calls_with_deltas: set[int] = set()
        # The calls that were announced without an id.
        self._calls_without_id: set[int] = set()
        # Output indexes of the items that deltas were received for.
        self._items_with_deltas: set[int] = set()
        # Output index -> summary part that the last thought delta belonged to.
        self._summaries: dict[int, int] = {}
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        """Return the chunks for one event; unknown events give none.

        A complete item adds only what its deltas did not contain. Raises an InvokeError
        for `error`, `response.failed` and a response with an `error`, and
        InvokeServerUnavailableError for an invalid item.
        """
        event_type = event.get("type")
        output_index = count(event.get("output_index")) or 0
        match event_type:
            case "response.output_text.delta":
                return self._on_text(event, output_index)
            case (
                "response.function_call_arguments.delta"
                | "response.custom_tool_call_input.delta"
            ):
                return self._on_arguments(event, output_index)
            case (
                "response.reasoning_summary_text.delta"
                | "response.reasoning_text.delta"
            ):
                return self._on_thought(event, output_index)
            case "response.refusal.delta":
                self._items_with_deltas.add(output_index)
                return self._chunk(
                    message=AssistantPromptMessage(refusal=event.get("delta") or "")
                )
            case "response.output_text.annotation.added":
                cited = [_parse_annotation(event.get("annotation") or {})]
                return self._part(
                    TextPromptMessageContent(
                        data="", citations=cited, index=_text_index(event, output_index)
                    )
                )
            case "response.output_item.added":
                return self._on_added(event.get("item") or {}, output_index)
            # Servers may send complete items without deltas, so the final item is
            # checked too.
            case "response.output_item.done":
                return self._on_item(event.get("item") or {}, output_index)
            case "response.created" | "response.in_progress" | "response.queued":
                self._on_head(event.get("response") or {})
            case "response.completed" | "response.incomplete" | "response.done":
                return self._on_end(event.get("response") or {})
            case "response.failed":
                body = event.get("response") or {}
                raise error_of(
                    body.get("error")
                    or {"message": "The provider reported a failed response"}
                )
            case "error":
                raise error_of(event.get("error") or event)
            case _:
                pass
        return []

    def finish(self, *, end_marker_seen: bool) -> list[LLMResultChunk]:
        """Check the end of the stream. Raises InvokeServerUnavailableError if it was
        cut off before `response.completed`.

        `end_marker_seen` is True if the transport itself saw a regular end of the
        stream.
        """
        if not end_marker_seen and not self._has_finished:
            raise InvokeServerUnavailableError(
                "Upstream stream ended without response.completed"
            )
        return []

    def _chunk(self, **delta: Any) -> list[LLMResultChunk]:
        """Return one chunk with the response's id, model and time.

        `delta` has the fields of the chunk's delta.
        """
        chunk_delta = LLMResultChunkDelta(**delta)
        return [
            LLMResultChunk(
                id=self._id, model=self._model, created=self._created, delta=chunk_delta
            )
        ]

    def _part(self, part: PromptMessageContent) -> list[LLMResultChunk]:
        """Return the chunk with one part."""
        return self._chunk(message=AssistantPromptMessage(content=[part]))

    def _on_head(self, body: JSON) -> None:
        """Remember the id, model and time of a `response` object.

        Fields that it does not have keep their earlier values.
        """
        self._id, self._model = (
            body.get("id") or self._id,
            body.get("model") or self._model,
        )
        self._created = int(body.get("created_at") or self._created)

    def _on_text(self, event: JSON, output_index: int) -> list[LLMResultChunk]:
        """Return the chunk for `response.output_text.delta`.

        The text's index combines the positions of the item and of the part.
        """
        self._items_with_deltas.add(output_index)
        part = TextPromptMessageContent(
            data=event.get("delta") or "", index=_text_index(event, output_index)
        )
        logprobs = event.get("logprobs")
        return self._chunk(
            message=AssistantPromptMessage(content=[part]),
            logprobs={"content": logprobs} if logprobs else None,
        )

    def _on_arguments(self, event: JSON, output_index: int) -> list[LLMResultChunk]:
        """Return the chunk for a fragment of a call's arguments.

        The event is `response.function_call_arguments.delta`, or the one for custom
        calls. The fragment carries no id, only the index of its call.
        """
        self._items_with_deltas.add(output_index)
        function = ToolCallFunction(arguments=event.get("delta") or "")
        is_custom = event["type"] == "response.custom_tool_call_input.delta"
        # Some servers give all items the same position.
        index = self._calls.get(event.get("item_id") or "")
        if index is None:
            index = self._calls.get(output_index, 0)
        self._calls_with_deltas.add(index)
        call = ToolCall(
            type="custom" if is_custom else "function", function=function, index=index
        )
        return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))

    def _on_thought(self, event: JSON, output_index: int) -> list[LLMResultChunk]:
        """Return the chunk for a fragment of reasoning or of its summary.

        Two line breaks precede the text of each further summary part, as in a complete
        response.
        """
        data = event.get("delta") or ""
        number = count(event.get("summary_index", event.get("content_index"))) or 0
        # Summary parts are separate paragraphs of one thought.
        if output_index in self._items_with_deltas and number != self._summaries.get(
            output_index
        ):
            data = "\n\n" + data
        self._summaries[output_index] = number
        self._items_with_deltas.add(output_index)
        # Positions are multiplied by 100 to leave room for the content parts of an
        # item; see `_text_index`.
        # The text itself, not a summary of it, is written as such again.
        is_text = event["type"] == "response.reasoning_text.delta"
        extra = passthrough_fields(FORMAT, {"is_text": True} if is_text else {})
        return self._part(
            ThinkingPromptMessageContent(
                data=data, index=output_index * 100, origin=FORMAT, extra=extra
            )
        )

    def _on_added(self, item: JSON, output_index: int) -> list[LLMResultChunk]:
        """Return the chunk that opens a call, for `response.output_item.added`.

        It has the call's id, name and index, but no arguments. Items of other types
        give nothing.
        """
        if item.get("type") not in ("function_call", "custom_tool_call"):
            return []
        is_custom = item["type"] == "custom_tool_call"
        number = self._begin_call(item, output_index)
        extra_fields = unknown_fields(
            item, frozenset({"type", "call_id", "name", "arguments", "input", "status"})
        )
        call = ToolCall(
            id=item.get("call_id") or generated_call_id(self._id, number),
            type="custom" if is_custom else "function",
            function=ToolCallFunction(name=item.get("name") or ""),
            index=number,
            extra=passthrough_fields(
                FORMAT,
                {
                    name: value
                    for name, value in extra_fields.items()
                    if value is not None
                },
            ),
        )
        return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))

    def _begin_call(self, item: JSON, output_index: int) -> int:
        """Return the number of a call that begins. Calls are numbered among themselves,
        items among all output."""
        number = self._calls[output_index] = self._call_count
        self._call_count += 1
        for name in ("id", "call_id"):
            if value := item.get(name):
                self._calls[value] = number
        if not item.get("call_id"):
            self._calls_without_id.add(number)
        return number

    def _on_item(self, item: JSON, output_index: int) -> list[LLMResultChunk]:
        """Return chunks for what the deltas of this item did not contain."""
        try:
            blocks, refusals = _parse_output_item(_with_call_id(item), "item")
        except InvokeBadRequestError as error:
            raise InvokeServerUnavailableError(
                f"Invalid upstream stream: {error}"
            ) from error
        chunks: list[LLMResultChunk] = []
        has_deltas = output_index in self._items_with_deltas
        for number, block in enumerate(blocks):
            if isinstance(block, ToolCall):
                chunks += self._late_call(item, output_index, block)
                continue
            if has_deltas:
                block = _without_streamed_text(block)
            chunks += self._part(_with_index(block, output_index, number))
        if refusals and not has_deltas:
            chunks += self._chunk(
                message=AssistantPromptMessage(refusal="".join(refusals))
            )
        return chunks

    def _late_call(
        self, item: JSON, output_index: int, call: ToolCall
    ) -> list[LLMResultChunk]:
        """Return the chunks of a complete call item that are still missing.

        These are the opening chunk if the call was not announced, and the arguments if
        no fragments of them came.
        """
        number = self._announced_call(item, output_index)
        chunks: list[LLMResultChunk] = []
        # A server without an `added` event first needs the chunk that opens the call.
        if number is None:
            chunks = self._on_added(item, output_index)
            number = self._calls[output_index]
        if number in self._calls_with_deltas or not call.function.arguments:
            return chunks
        function = ToolCallFunction(arguments=call.function.arguments)
        late_call = ToolCall(function=function, index=number)
        return chunks + self._chunk(
            message=AssistantPromptMessage(tool_calls=[late_call])
        )

    def _announced_call(self, item: JSON, output_index: int) -> int | None:
        """Return the number of the call that a complete item ends; None if it was not
        announced."""
        for name in ("call_id", "id"):
            if (number := self._calls.get(item.get(name) or "")) is not None:
                return number
        # Some servers give all items the same position, others their ids at the end.
        number = self._calls.get(output_index)
        return number if number in self._calls_without_id else None

    def _on_end(self, body: JSON) -> list[LLMResultChunk]:
        """Return the last chunk, with finish reason, usage and extra fields.

        Marks the stream as finished. Raises an InvokeError if the response has an
        `error`.
        """
        self._has_finished = True
        if isinstance(body.get("error"), dict):
            raise error_of(body["error"])
        self._on_head(body)
        reason, reason_fields = _parse_reason(body, has_calls=bool(self._calls))
        chunk = LLMResultChunk(
            id=self._id,
            model=self._model,
            created=self._created,
            delta=LLMResultChunkDelta(
                finish_reason=reason,
                usage=parse_usage(body.get("usage"), body.get("service_tier")),
            ),
            extra=passthrough_fields(
                FORMAT, unknown_fields(body, _KNOWN_RESULT_FIELDS) | reason_fields
            ),
        )
        return [chunk]


def _text_index(event: JSON, output_index: int) -> int:
    """Return a number that no other text of the response has."""
    return output_index * 100 + (count(event.get("content_index")) or 0)


def _without_streamed_text(part: PromptMessageContent) -> PromptMessageContent:
    """Return a part of a complete item without what its deltas contained.

    The item's other fields are new, such as the signature of a thought.
    """
    match part:
        case TextPromptMessageContent():
            return msgspec.structs.replace(part, data="", citations=[])
        case ThinkingPromptMessageContent():
            return msgspec.structs.replace(part, data="")
        case _:
            return part


def _with_index(
    part: PromptMessageContent, output_index: int, number: int
) -> PromptMessageContent:
    """Return a part of a complete item with the index that its deltas have."""
    match part:
        case TextPromptMessageContent():
            return msgspec.structs.replace(part, index=output_index * 100 + number)
        case ThinkingPromptMessageContent():
            return msgspec.structs.replace(part, index=output_index * 100)
        case _:
            return part


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    """Yield the chunks of a whole event stream. Raises InvokeServerUnavailableError if
    it is cut off."""
    return parse_events(StreamParser(), events)


class StreamDumper:
    """Converts chunks into stream events, one chunk at a time. Items are opened, filled
    and closed one after another."""

    def __init__(
        self, *, response_id: str, created: int, model: str, echo: JSON | None = None
    ) -> None:
        self._head = _response_head(response_id, created, model, echo)
        self._stem = response_id
        self._sequence = -1
        self._has_started = False
        # Key (block type, index) of the open item, and the item itself.
        self._open_key: tuple[str, Any] | None = None
        self._item: JSON = {}
        self._output: list[JSON] = []
        self._usage: LLMUsage | None = None
        self._reason: str | None = None
        self._extra: JSON = {}
        self._logprobs: list[Any] = []
        self._call_indexes = CallIndexes()
        # Index of the call being written; fragments of other calls wait until it is
        # closed.
        self._active_call: int | None = None
        self._pending_calls: dict[int, list[ToolCall]] = {}
        # Closed items by key, for signatures that arrive late.
        self._closed_items: dict[tuple[str, Any], JSON] = {}
        # Calls that are written when they are complete.
        self._client_calls: dict[int, list[ToolCall]] = {}

    @property
    def output(self) -> list[JSON]:
        """The items that are complete so far."""
        return self._output

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        """Return the events for one chunk. Chunks of a second choice are ignored."""
        events = [] if self._has_started else self._start()
        delta = chunk.delta
        if chunk.extra:
            self._extra |= chunk.extra.get(FORMAT, {})
        self._usage = delta.usage or self._usage
        # The format has one response per stream, so further choices are dropped.
        if delta.index:
            return events
        message = delta.message
        if delta.logprobs:
            # They are sent with the next text that is closed.
            self._logprobs += _logprobs_of(delta.logprobs)
        # A plain text chunk, the most common one, takes a short path.
        if (
            isinstance(message.content, str)
            and message.content
            and not message.tool_calls
            and message.reasoning_content is None
        ):
            events += self._text(("text", None), message.content, {})
        else:
            for block in message.blocks:
                events += self._block(block)
        if message.refusal:
            events += self._refusal(message.refusal)
        self._reason = delta.finish_reason or self._reason
        return events

    def _event(self, event_type: str, **fields: Any) -> JSON:
        """Return an event with the next number."""
        self._sequence += 1
        return {"type": event_type, "sequence_number": self._sequence, **fields}

    def _start(self) -> list[JSON]:
        """Return `response.created` and `response.in_progress`.

        Marks the stream as started.
        """
        self._has_started = True
        return [
            self._event("response.created", response=self._head),
            self._event("response.in_progress", response=self._head),
        ]

    def _block(self, block: PromptMessageContent | ToolCall) -> list[JSON]:
        """Return the events for one block of a chunk.

        A block without a counterpart gives none.
        """
        match block:
            case TextPromptMessageContent():
                item_fields = block.extra.get(FORMAT, {}).get("item") or {}
                key = ("text", block.index)
                if self._open_key == key:
                    # Fields of the original item may arrive with a later chunk.
                    self._item |= item_fields
                is_new = block.citations and key not in self._closed_items
                has_events = block.data or is_new
                events = self._text(key, block.data, item_fields) if has_events else []
                for citation in block.citations:
                    events += self._annotation(key, _dump_annotation(citation))
                return events
            case ThinkingPromptMessageContent():
                return self._thought(block)
            case ToolCall():
                return self._call(block)
            case _:
                item = _dump_item(block, f"{self._stem}_{len(self._output)}")
                return self._write_complete_item(item) if item is not None else []

    def _open_item(self, key: tuple[str, Any], item: JSON) -> list[JSON]:
        """Return the events that open an item, after closing the one before it.

        `key` has the block type and index. Nothing happens if the item with this key is
        already open.
        """
        if self._open_key == key:
            return []
        events = self._close_item()
        self._open_key, self._item = key, item
        # A copy, since the item changes while the event waits to be sent.
        event_fields = {"output_index": len(self._output), "item": {**item}}
        return [*events, self._event("response.output_item.added", **event_fields)]

    def _item_position(self) -> JSON:
        """Return `item_id` and `output_index` of the open item, for its events."""
        return {
            "item_id": self._item.get("id") or "",
            "output_index": len(self._output),
        }

    def _text(self, key: tuple[str, Any], text: str, item_fields: JSON) -> list[JSON]:
        """Return the events for a fragment of text.

        They open a message item first if the text does not continue the open one;
        `item_fields` are the fields of the original item.
        """
        events: list[JSON] = []
        # A new message item is opened if the block changes.
        if self._open_key != key:
            part = {
                "type": "output_text",
                "text": "",
                "annotations": [],
                "logprobs": [],
            }
            events = self._open_message(key, part, item_fields)
        # Sources may come before the text.
        if not text:
            return events
        self._item["content"][0]["text"] += text
        delta = self._event(
            "response.output_text.delta",
            **self._item_position(),
            content_index=0,
            delta=text,
            logprobs=[],
        )
        return [*events, delta]

    def _open_message(
        self, key: tuple[str, Any], part: JSON, item_fields: JSON
    ) -> list[JSON]:
        """Return the events that open a message item with one empty part."""
        item = {
            "id": f"msg_{self._stem}_{len(self._output)}",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
            **item_fields,
        }
        events = self._open_item(key, item)
        self._item["content"] = [part]
        # A copy, since the part's text grows with every delta.
        part_added = self._event(
            "response.content_part.added",
            **self._item_position(),
            content_index=0,
            part={**part},
        )
        return [*events, part_added]

    def _annotation(self, key: tuple[str, Any], annotation: JSON) -> list[JSON]:
        """Return `response.output_text.annotation.added` for an annotation.

        If the text with this key is no longer open, only the complete response at the
        end contains it.
        """
        # An annotation can only be added to the open text.
        if self._open_key != key:
            for part in self._closed_items.get(key, {}).get("content") or ():
                part.setdefault("annotations", []).append(annotation)
            return []
        annotations = self._item["content"][0]["annotations"]
        annotations.append(annotation)
        added = self._event(
            "response.output_text.annotation.added",
            **self._item_position(),
            content_index=0,
            annotation_index=len(annotations) - 1,
            annotation=annotation,
        )
        return [added]

    def _refusal(self, text: str) -> list[JSON]:
        """Return the events for a fragment of a refusal.

        They open a message item with a `refusal` part first if none is open.
        """
        key = ("refusal", None)
        events: list[JSON] = []
        if self._open_key != key:
            events = self._open_message(key, {"type": "refusal", "refusal": ""}, {})
        self._item["content"][0]["refusal"] += text
        delta = self._event(
            "response.refusal.delta",
            **self._item_position(),
            content_index=0,
            delta=text,
        )
        return [*events, delta]

    def _thought(self, thought: ThinkingPromptMessageContent) -> list[JSON]:
        """Return the events for a fragment of a thought, written as a summary.

        The signature becomes `encrypted_content`. If it arrives after the next item was
        opened, it gives no event and only the complete response contains it.
        """
        key = ("thinking", thought.index)
        events: list[JSON] = []
        raw_item = thought.extra.get(FORMAT, {}).get("item")
        if self._open_key != key and key in self._closed_items and not thought.data:
            # The signature arrived after the next item was opened. The complete
            # response at the end contains it.
            self._closed_items[key] |= raw_item or without_empty(
                encrypted_content=thought.signature
            )
            return events
        if self._open_key != key:
            item_id = thought.id or _reasoning_id(
                thought, f"{self._stem}_{len(self._output)}"
            )
            events += self._open_item(
                key, {"type": "reasoning", "id": item_id, "summary": []}
            )
        # The vendor's id may arrive with a later chunk; it replaces the generated one.
        if thought.id:
            self._item["id"] = thought.id
        if thought.data:
            events += self._thought_delta(thought)
        if thought.signature:
            self._item["encrypted_content"] = (
                self._item.get("encrypted_content", "") + thought.signature
            )
        if raw_item:
            self._item |= raw_item
        return events

    def _thought_delta(self, thought: ThinkingPromptMessageContent) -> list[JSON]:
        """Return the events for a fragment of a thought: of its text or of its
        summary."""
        text, position = thought.data, self._item_position()
        if thought.extra.get(FORMAT, {}).get("is_text"):
            empty = {"type": "reasoning_text", "text": ""}
            self._item.setdefault("content", [empty])[0]["text"] += text
            delta = "response.reasoning_text.delta"
            return [self._event(delta, **position, content_index=0, delta=text)]
        position["summary_index"] = 0
        summary = self._item["summary"]
        events: list[JSON] = []
        # The summary part is announced before its first delta.
        if not summary:
            added = "response.reasoning_summary_part.added"
            part = {"type": "summary_text", "text": ""}
            events.append(self._event(added, **position, part=part))
            summary.append({**part})
        summary[0]["text"] += text
        delta = "response.reasoning_summary_text.delta"
        return [*events, self._event(delta, **position, delta=text)]

    def _call(self, call: ToolCall) -> list[JSON]:
        """Return the events for a fragment of a tool call.

        Fragments of a second call are held back, without events, until the call being
        written is closed.
        """
        index = self._call_indexes.index_of(call)
        if call.type in _CLIENT_CALL_TYPES or index in self._client_calls:
            self._client_calls.setdefault(index, []).append(call)
            return []
        if self._active_call is None:
            self._active_call = index
        # Only one item can be open, so fragments of another call are buffered.
        if index != self._active_call:
            self._pending_calls.setdefault(index, []).append(call)
            return []
        return self._write_call(index, [call])

    def _write_call(self, index: int, fragments: list[ToolCall]) -> list[JSON]:
        """Return the events for the fragments of one call.

        They open the call's item if it is not open yet, then add the joined arguments,
        if there are any, as a single delta.
        """
        first_fragment = fragments[0]
        # The opening event has the name and no arguments.
        empty = msgspec.structs.replace(
            first_fragment, function=ToolCallFunction(name=first_fragment.function.name)
        )
        item = {
            **_dump_call(empty, f"{self._stem}_{len(self._output)}"),
            "status": "in_progress",
        }
        events = self._open_item(("call", index), item)
        is_custom = self._item["type"] == "custom_tool_call"
        field = "input" if is_custom else "arguments"
        if text := "".join(fragment.function.arguments for fragment in fragments):
            self._item[field] += text
            event_type = (
                "response.custom_tool_call_input.delta"
                if is_custom
                else "response.function_call_arguments.delta"
            )
            events.append(self._event(event_type, **self._item_position(), delta=text))
        return events

    def _write_complete_item(self, item: JSON) -> list[JSON]:
        """Return the events that open and close an item without deltas."""
        return [
            *self._open_item(("whole", len(self._output)), item),
            *self._close_item(),
        ]

    def _close_item(self) -> list[JSON]:
        """Return the events that close the open item, followed by the calls that waited
        for it."""
        if self._open_key is None:
            return []
        key = self._open_key
        block_type, _ = key
        item = self._item
        events = self._done_events(block_type, item, self._item_position())
        # Items of the vendor may have another status, which must be preserved.
        if "status" in item and item["status"] == "in_progress":
            item = {**item, "status": "completed"}
        events.append(
            self._event(
                "response.output_item.done", output_index=len(self._output), item=item
            )
        )
        self._output.append(item)
        self._closed_items[key] = item
        self._open_key = None
        # Buffered calls are complete by now and are written one after another.
        if block_type == "call":
            waiting, self._pending_calls, self._active_call = (
                self._pending_calls,
                {},
                None,
            )
            for index, fragments in waiting.items():
                events += self._write_call(index, fragments)
                self._open_key = ("late", index)
                events += self._close_late_call()
        return events

    def _close_late_call(self) -> list[JSON]:
        """Return the events that close a call that was held back.

        The item is added to the output with the status `completed`.
        """
        events = self._done_events("call", self._item, self._item_position())
        item = {**self._item, "status": "completed"}
        events.append(
            self._event(
                "response.output_item.done", output_index=len(self._output), item=item
            )
        )
        self._output.append(item)
        self._open_key = None
        return events

    def _done_events(self, block_type: str, item: JSON, position: JSON) -> list[JSON]:
        """Return the events that end the parts of an item."""
        if block_type == "text":
            # The part gets the log probabilities collected since the last text.
            item["content"][0]["logprobs"], self._logprobs = self._logprobs, []
        return [
            self._event(event_type, **position, **fields)
            for event_type, fields in _part_ends(block_type, item)
        ]

    def response(self) -> JSON:
        """Return the complete response, as the last event contains it."""
        usage = dump_usage(self._usage) if self._usage is not None else None
        complete_response = {
            **self._head,
            **_dump_reason(self._reason),
            "output": self._output,
            "usage": usage,
        }
        tier = self._usage.service_tier if self._usage is not None else ""
        if tier := served_tier(FORMAT, tier):
            complete_response["service_tier"] = tier
        return complete_response | self._extra

    def finish(self, error: JSON | None = None) -> list[JSON]:
        """Return the closing events: the open item, then the complete response.

        With an `error` (`code`, `message`) the stream has broken off; its last event is
        `response.failed` with the output so far.
        """
        # A stream without any chunk still needs its opening events.
        events = [] if self._has_started else self._start()
        if error is not None:
            open_items = [] if self._open_key is None else [self._item]
            failed_response = _failed_response(self.response(), open_items, error)
            return [*events, self._event("response.failed", response=failed_response)]
        events += self._close_item()
        for fragments in self._client_calls.values():
            events += self._write_complete_item(_dump_client_call(_joined(fragments)))
        complete_response = self.response()
        event_type = (
            "response.incomplete"
            if complete_response["status"] == "incomplete"
            else "response.completed"
        )
        return [*events, self._event(event_type, response=complete_response)]


def _failed_response(response: JSON, open_items: list[JSON], error: JSON) -> JSON:
    """Return the response of a stream that has broken off. An item that was being
    written is marked as incomplete."""
    unfinished_items = [
        {**item, "status": "incomplete"} if "status" in item else item
        for item in open_items
    ]
    return {
        **response,
        "status": "failed",
        "error": error,
        "incomplete_details": None,
        "output": [*response["output"], *unfinished_items],
    }


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    """Yield the event stream for a stream of chunks."""
    return dump_chunks(chunks, StreamDumper)


# ------------------------------------------------------------------------------- errors


def error_of(error: Mapping[str, Any]) -> InvokeError:
    """Return the exception for OpenAI's error object. The caller raises it."""
    return provider_error(error)


def _joined(fragments: Sequence[ToolCall]) -> ToolCall:
    """Return the call that fragments form."""
    arguments = "".join(fragment.function.arguments for fragment in fragments)
    first_fragment = fragments[0]
    function = msgspec.structs.replace(first_fragment.function, arguments=arguments)
    return msgspec.structs.replace(first_fragment, function=function)


def _logprobs_of(logprobs: Mapping[str, Any]) -> Iterable[Any]:
    """Return the entries of a chunk's log probabilities; `content` may be null."""
    return logprobs.get("content") or ()


def _part_ends(block_type: str, item: JSON) -> list[tuple[str, JSON]]:
    """Return (type, fields) of the events that end the parts of an item."""
    match block_type:
        case "text":
            part = item["content"][0]
            fields = {"text": part["text"], "logprobs": part["logprobs"]}
            return _content_ends("response.output_text.done", part, fields)
        case "refusal":
            part = item["content"][0]
            fields = {"refusal": part["refusal"]}
            return _content_ends("response.refusal.done", part, fields)
        case "thinking" if item.get("summary"):
            part = item["summary"][0]
            text: JSON = {"summary_index": 0, "text": part["text"]}
            whole: JSON = {"summary_index": 0, "part": part}
            return [
                ("response.reasoning_summary_text.done", text),
                ("response.reasoning_summary_part.done", whole),
            ]
        case "thinking" if item.get("content"):
            text = {"content_index": 0, "text": item["content"][0].get("text") or ""}
            return [("response.reasoning_text.done", text)]
        case "call":
            return [_call_done_fields(item)]
        case _:
            return []


def _content_ends(event_type: str, part: JSON, fields: JSON) -> list[tuple[str, JSON]]:
    """Return the events that end a part of a message: its own, and that of any part."""
    return [
        (event_type, {"content_index": 0, **fields}),
        ("response.content_part.done", {"content_index": 0, "part": part}),
    ]


def _call_done_fields(item: JSON) -> tuple[str, JSON]:
    """Return the type and the fields of the event that ends a call's arguments.

    It is `response.function_call_arguments.done`, or
    `response.custom_tool_call_input.done` for a custom call.
    """
    if item["type"] == "custom_tool_call":
        return "response.custom_tool_call_input.done", {"input": item["input"]}
    fields = {"name": item["name"], "arguments": item["arguments"]}
    return "response.function_call_arguments.done", fields
