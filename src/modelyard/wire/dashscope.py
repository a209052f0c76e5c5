"""Translate between DashScope's native generation API (Tongyi and Qwen) and modelyard's
chat types.

Pure functions: no network, no clock.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Iterable, Iterator, Mapping
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
    text_of,
    texts_of,
    tools_of,
    unknown_fields,
    without_empty,
)
from modelyard.base.provider_errors import provider_error
from modelyard.base.reader_errors import reads_answer, reads_request
from modelyard.models.arguments import as_text
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
from modelyard.models.media import from_url
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    AudioPromptMessageContent,
    Content,
    FilePromptMessageContent,
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
    simplified_content,
)
from modelyard.models.reasoning import budget_of
from modelyard.models.streams import dump_chunks, parse_events
from modelyard.models.tool_call_reader import ToolCallReader, with_call_ids
from modelyard.models.types import JSON

FORMAT = "dashscope"

# Parameter -> (type, lower and upper bound). DashScope's names are the same as ours.
_PARAMETER_RANGES: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "top_k": (int, 0, 1 << 31),
    "presence_penalty": (float, -2, 2),
    "max_tokens": (int, 1, 1 << 31),
    "seed": (int, 0, (1 << 31) - 1),
    "n": (int, 1, 4),
    "top_logprobs": (int, 0, 5),
}
# Parameters with a reader below. Every other one passes through unchanged in `extra`.
_KNOWN_PARAMETERS = frozenset(_PARAMETER_RANGES) | {
    "result_format",
    "incremental_output",
    "stop",
    "tools",
    "tool_choice",
    "enable_thinking",
    "thinking_budget",
    "response_format",
    "logprobs",
    "parallel_tool_calls",
}
PARAMETERS = (
    {"stop"}
    | frozenset(_PARAMETER_RANGES)
    | {
        "response_format",
        "reasoning_effort",
        "thinking_budget",
        "include_thoughts",
        "logprobs",
        "parallel_tool_calls",
    }
)
_FILE_CONTENT_CLASSES: dict[str, type[FilePromptMessageContent]] = {
    "image": ImagePromptMessageContent,
    "audio": AudioPromptMessageContent,
    "video": VideoPromptMessageContent,
}


def has_files(request: LLMRequest) -> bool:
    """Whether a message of the request has an image, audio, video or document.

    Parts that only DashScope has count too, such as a video as a list of frames. Such
    requests go to DashScope's multimodal endpoint, which has its own URL and requires
    content as a list.
    """
    return any(
        message.files or any(map(_is_own_part, message.parts))
        for message in request.messages
    )


def _is_own_part(part: PromptMessageContent) -> bool:
    """Return whether a part was read from a request in this format without a reader."""
    return isinstance(part, OpaquePromptMessageContent) and part.format == FORMAT


# ----------------------------------------------------------------------------- requests


@reads_request
def parse_request(body: JSON, *, stream: bool = False) -> LLMRequest:
    """Parse the JSON body of a client's request. Raises InvokeBadRequestError that
    names the field.

    `stream` is passed by the caller: DashScope selects streaming by a header, not in
    the body.
    """
    input_body = required_field(body, "input", dict)
    messages = input_body.get("messages")
    # The API also accepts a single prompt instead of messages.
    if messages is None and isinstance(input_body.get("prompt"), str):
        messages = [{"role": "user", "content": input_body["prompt"]}]
    turns: list[Any] = expect_type(messages, list, "input.messages")
    if not turns:
        raise InvokeBadRequestError(
            "'input.messages' must contain at least one message", param="input.messages"
        )
    config = optional_field(body, "parameters", dict) or {}
    parameters = _parse_parameters(config)
    tools = tools_of(config, where="parameters.")
    return LLMRequest(
        format=FORMAT,
        messages=[
            _parse_message(message, f"input.messages[{index}]")
            for index, message in enumerate(turns)
        ],
        model_parameters=parameters,
        tools=[
            _parse_tool(tool, f"parameters.tools[{i}]") for i, tool in enumerate(tools)
        ],
        tool_choice=_parse_tool_choice(config.get("tool_choice")),
        stop=texts_of(config.get("stop"), "parameters.stop"),
        stream=stream,
        extra=passthrough_fields(FORMAT, unknown_fields(config, _KNOWN_PARAMETERS)),
    )


def _parse_parameters(config: JSON) -> dict[str, Any]:
    """Return the generation settings in `parameters` by their internal names.

    `thinking_budget` is set only if `enable_thinking` is present: 0 if it is off, -1 if
    it is on without a budget. Raises InvokeBadRequestError if a value has another type
    or is outside the range in `_PARAMETER_RANGES`.
    """
    parameters: dict[str, Any] = {}
    for name, (value_type, low, high) in _PARAMETER_RANGES.items():
        if optional_field(config, name, value_type, "parameters.") is not None:
            # The original value is stored, so that an int for a float parameter stays
            # an int.
            in_range(config[name], low, high, f"parameters.{name}")
            parameters[name] = config[name]
    for name, value_type in (
        ("response_format", dict),
        ("logprobs", bool),
        ("parallel_tool_calls", bool),
    ):
        value = optional_field(config, name, value_type, "parameters.")
        if value is not None:
            parameters[name] = value
    enable_thinking = optional_field(config, "enable_thinking", bool, "parameters.")
    if enable_thinking is not None:
        # -1 means that the model chooses its thinking budget, 0 that it does not think.
        budget = optional_field(config, "thinking_budget", int, "parameters.")
        chosen_budget = -1 if budget is None else budget
        parameters["thinking_budget"] = chosen_budget if enable_thinking else 0
    return parameters


def _parse_tool_choice(choice: Any) -> str | JSON | None:
    """Return the tool choice: the name of a mode, or an object that names one function.

    Raises InvokeBadRequestError for anything else.
    """
    where = "parameters.tool_choice"
    if choice in (None, "auto", "none", "required"):
        return choice
    if not isinstance(choice, dict):
        raise invalid_field(where, choice, "auto, none or an object with a function")
    function = required_field(choice, "function", dict, f"{where}.")
    return {"name": required_field(function, "name", str, f"{where}.function.")}


def _parse_tool(tool: Any, where: str) -> PromptMessageTool:
    """Parse one entry of `parameters.tools`.

    `where` is the path for error messages. Raises InvokeBadRequestError if `function`
    or its name is missing, or a field has another type.
    """
    function = required_field(
        expect_type(tool, dict, where), "function", dict, f"{where}."
    )
    return PromptMessageTool(
        name=required_field(function, "name", str, f"{where}.function."),
        description=optional_field(function, "description", str, f"{where}.function.")
        or "",
        parameters=optional_field(function, "parameters", dict, f"{where}.function.")
        or {},
    )


def _parse_message(message: Any, where: str) -> AnyPromptMessage:
    """Parse one message of `input.messages` by its role.

    The call id of a tool result is not checked against earlier calls, since clients may
    send only the function's name. Raises InvokeBadRequestError for an unknown role or
    invalid content.
    """
    body = expect_type(message, dict, where)
    content = _parse_content(body.get("content"), f"{where}.content")
    match body.get("role"):
        case "user":
            return UserPromptMessage(content=content)
        case "system":
            return SystemPromptMessage(content=content)
        case "assistant":
            return _parse_assistant(body, content)
        case "tool":
            name = optional_field(body, "name", str, f"{where}.")
            # A tool result without a call id is identified by the function's name.
            call = optional_field(body, "tool_call_id", str, f"{where}.") or name or ""
            return ToolPromptMessage(content=content, tool_call_id=call, name=name)
        case other:
            raise invalid_field(
                f"{where}.role", other, "system, user, assistant or tool"
            )


def _parse_content(content: Any, where: str) -> Content:
    """Parse message content: a string, or a list of content objects.

    Returns None for no content, an empty string and an empty list. Raises
    InvokeBadRequestError for any other value.
    """
    if content is None or isinstance(content, str):
        return content or None
    parts = expect_type(content, list, where)
    return simplified_content(
        [
            _parse_part(expect_type(part, dict, f"{where}[{i}]"), f"{where}[{i}]")
            for i, part in enumerate(parts)
        ]
    )


def _parse_part(part: JSON, where: str) -> PromptMessageContent:
    """Parse one content object; instead of a `type` its key says what it is.

    An object without the key `text`, `image`, `audio` or `video` becomes an opaque
    part. Raises InvokeBadRequestError if a `data:` URL is invalid, or not an image
    under the key `image`.
    """
    # Parts have no `type`: the only key of the object says what the part is.
    if isinstance(part.get("text"), str):
        return TextPromptMessageContent(data=part["text"])
    for file_type, content_class in _FILE_CONTENT_CLASSES.items():
        if isinstance(url := part.get(file_type), str):
            return content_class(
                **from_url(url, f"{where}.{file_type}", is_image=file_type == "image")
            )
    return OpaquePromptMessageContent(format=FORMAT, data=part)


def _parse_assistant(body: JSON, content: Content) -> AssistantPromptMessage:
    """Build an assistant message from its JSON and its parsed content.

    A list of texts only is joined to one string, or None if that is empty. Calls in it
    have no index.
    """
    calls = [
        _parse_call(call, index)
        for index, call in enumerate(body.get("tool_calls") or ())
    ]
    # Assistant texts in parts are joined, so that other formats can send them as a
    # string.
    if isinstance(content, list) and all(
        isinstance(part, TextPromptMessageContent) for part in content
    ):
        content = (
            "".join(
                part.data
                for part in content
                if isinstance(part, TextPromptMessageContent)
            )
            or None
        )
    return AssistantPromptMessage(
        content=content,
        tool_calls=calls,
        reasoning_content=text_of(body.get("reasoning_content")) or None,
    )


def _parse_call(call: JSON, position: int, *, is_fragment: bool = False) -> ToolCall:
    """Parse an entry of `tool_calls`; missing fields become empty strings.

    A fragment in a stream has an index, by default `position`; a complete call has
    none. Arguments that are an object become JSON text.
    """
    function = call.get("function") or {}
    arguments = function.get("arguments")
    return ToolCall(
        id=text_of(call.get("id")),
        function=ToolCallFunction(
            name=text_of(function.get("name")),
            # In a stream an absent value is an empty fragment; elsewhere objects become
            # JSON text.
            arguments=(arguments or "")
            if isinstance(arguments, str | None)
            else as_text(arguments),
        ),
        index=count(call.get("index", position)) if is_fragment else None,
    )


def dump_request(request: LLMRequest, model: str, capabilities: Capabilities) -> JSON:
    """Build DashScope's request body. `capabilities.drop` lists parameters to omit.

    Raises InvokeBadRequestError for content or tools that DashScope does not accept.
    """
    config = _dump_parameters(request)
    for name in capabilities.drop:
        config.pop(name, None)
    # The multimodal endpoint requires a list of parts in every message, the text
    # endpoint a string.
    is_multimodal = has_files(request)
    messages = [
        _dump_message(message, in_parts=is_multimodal) for message in request.messages
    ]
    return {"model": model, "input": {"messages": messages}, "parameters": config}


def _dump_parameters(request: LLMRequest) -> JSON:
    """Return `parameters`, which has everything except the model and the messages."""
    parameters = request.model_parameters
    # The default result format is plain text, which cannot carry tool calls.
    config: JSON = {"result_format": "message"}
    for name in (
        *_PARAMETER_RANGES,
        "response_format",
        "logprobs",
        "parallel_tool_calls",
    ):
        if name in parameters:
            config[name] = parameters[name]
    config |= _dump_thinking(parameters)
    if request.stop:
        config["stop"] = request.stop
    if request.tools:
        config["tools"] = [_dump_tool(tool) for tool in request.tools]
    if request.tool_choice is not None:
        config["tool_choice"] = _dump_tool_choice(request.tool_choice)
    if request.stream:
        # Without this flag every event repeats the whole text so far.
        config["incremental_output"] = True
    return config | request.extra.get(FORMAT, {})


def _dump_thinking(parameters: Mapping[str, Any]) -> JSON:
    """Return the fields that control thinking; none if the request does not."""
    effort = parameters.get("reasoning_effort")
    budget = parameters.get("thinking_budget")
    if budget is None and effort is not None:
        # DashScope accepts a token budget only, so an effort level becomes one. -1
        # leaves it to the model.
        budget = budget_of(effort, unknown=-1)
    if budget is None:
        return {}
    if budget > 0:
        return {"enable_thinking": True, "thinking_budget": budget}
    return {"enable_thinking": budget != 0}


def _dump_tool_choice(choice: str | dict[str, Any]) -> Any:
    """Return DashScope's `tool_choice`.

    A choice of one tool becomes an object with the function's name; `required` and a
    choice among several tools become `auto`.
    """
    if isinstance(choice, dict) and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    # DashScope cannot force a call of any tool; "auto" is the closest mode.
    return choice if choice in ("auto", "none") else "auto"


def _dump_tool(tool: PromptMessageTool) -> JSON:
    """Return a tool as an entry of `parameters.tools`.

    A tool without parameters gets an empty object schema. Raises InvokeBadRequestError
    for a tool hosted by another provider.
    """
    # Provider-hosted tools of another vendor have no DashScope counterpart.
    if tool.type not in ("function", "custom"):
        raise InvokeBadRequestError(
            f"Tool {tool.name!r} is hosted by another provider; DashScope does not"
            " support it",
            param="tools",
        )
    function: JSON = {"name": tool.name, "description": tool.description}
    return {
        "type": "function",
        "function": {
            **function,
            "parameters": tool.parameters or {"type": "object", "properties": {}},
        },
    }


def _dump_message(message: AnyPromptMessage, *, in_parts: bool) -> JSON:
    """Return a message as an entry of `input.messages`.

    The content is a list of content objects if `in_parts`, as the multimodal endpoint
    requires, otherwise only the text. Raises InvokeBadRequestError for a document in a
    list.
    """
    content = _dump_parts(message) if in_parts else message.text + _refusal_of(message)
    body: JSON = {"role": message.role.value, "content": content}
    if isinstance(message, AssistantPromptMessage):
        body |= without_empty(reasoning_content=message.thinking)
        if message.tool_calls:
            body["tool_calls"] = [
                _dump_call(call, index) for index, call in enumerate(message.tool_calls)
            ]
    elif isinstance(message, ToolPromptMessage):
        body |= {
            "tool_call_id": message.tool_call_id,
            **without_empty(name=message.name),
        }
    return body


def _refusal_of(message: AnyPromptMessage) -> str:
    """Return the refusal of an assistant message. The format has no field for it, so it
    is written as text."""
    if isinstance(message, AssistantPromptMessage):
        return message.refusal or ""
    return ""


def _dump_parts(message: AnyPromptMessage) -> list[JSON]:
    """Return the content of a message as content objects."""
    wire_parts = [_dump_part(part) for part in message.parts]
    content = [wire_part for wire_part in wire_parts if wire_part is not None]
    if refusal := _refusal_of(message):
        content.append({"text": refusal})
    return content


def _dump_call(call: ToolCall, position: int) -> JSON:
    """Return a tool call as an entry of `tool_calls`."""
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {
        "id": call.id,
        "type": "function",
        "index": position if call.index is None else call.index,
        "function": function,
    }


def _dump_part(part: PromptMessageContent) -> JSON | None:
    """Return a part as a DashScope content object, or None if it has none.

    None is returned for thinking and for opaque parts of other formats. Raises
    InvokeBadRequestError for documents.
    """
    match part:
        case TextPromptMessageContent():
            return {"text": part.data}
        # DashScope does not accept thinking as a content part; it is in
        # `reasoning_content`.
        case ThinkingPromptMessageContent():
            return None
        case OpaquePromptMessageContent():
            # Opaque parts of other formats are dropped: only their own format can
            # interpret them.
            return part.data if _is_own_part(part) else None
        case _:
            file_type = next(
                (
                    name
                    for name, content_class in _FILE_CONTENT_CLASSES.items()
                    if isinstance(part, content_class)
                ),
                None,
            )
            if file_type is None:
                raise InvokeBadRequestError(
                    "DashScope does not accept documents; send text, images, audio or video"
                )
            return {file_type: part.data}


# ---------------------------------------------------------------------------- responses


def parse_usage(body: Any) -> LLMUsage | None:
    """Parse a `usage` object, or return None if it has no token counts. The original is
    stored in `extra`."""
    if not isinstance(body, dict) or count(body.get("input_tokens")) is None:
        return None
    return LLMUsage.of(
        nested_count(body, "input_tokens"),
        nested_count(body, "output_tokens"),
        cached_tokens=nested_count(body, "prompt_tokens_details", "cached_tokens"),
        image_prompt_tokens=nested_count(body, "image_tokens"),
        audio_prompt_tokens=nested_count(body, "audio_tokens"),
        reasoning_tokens=nested_count(
            body, "output_tokens_details", "reasoning_tokens"
        ),
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    """Return a `usage` object: the original one if it came from DashScope, otherwise
    one built from the counts."""
    return usage.extra.get(FORMAT) or {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


# Other fields are kept, so that a client of this format gets them unchanged.
_KNOWN_RESULT_FIELDS = frozenset({"output", "usage", "request_id"})


def _choices(body: JSON) -> list[JSON]:
    """Return the `choices` in a response or stream event; empty if it has none.

    A text result (`result_format` `text`) becomes a single choice. Raises the
    InvokeError that fits the `code` of an error body, even with status 200, and
    InvokeServerUnavailableError if there is no `output`.
    """
    # DashScope reports some errors with status 200 and a `code` in the body.
    if body.get("code"):
        raise error_of(body)
    output = body.get("output")
    if not isinstance(output, dict):
        raise InvokeServerUnavailableError("Upstream response has no 'output'")
    if isinstance(output.get("text"), str):  # result_format `text`
        return [
            {
                "finish_reason": output.get("finish_reason"),
                "message": {"content": output["text"]},
            }
        ]
    return output.get("choices") or []


def _parse_reason(choice: JSON) -> str | None:
    """Return the finish reason; None while the answer continues."""
    reason = text_of(choice.get("finish_reason"))
    # While an answer continues, its reason is the string "null".
    return None if reason in ("null", "") else reason


def _position(choice: JSON, position: int) -> int:
    """Return the index of a choice; without one, its position in the list counts."""
    index = count(choice.get("index"))
    return position if index is None else index


def _parse_answer(message: JSON) -> AssistantPromptMessage:
    """Parse the message of a choice. Raises InvokeServerUnavailableError if its content
    has another type."""
    # The content parsers blame the client; in a response the fault is the provider's.
    try:
        content = _parse_content(message.get("content"), "content")
    except InvokeBadRequestError as error:
        problem = f"Invalid upstream response: {error}"
        raise InvokeServerUnavailableError(problem) from error
    return _parse_assistant(message, content)


@reads_answer
def parse_result(body: JSON) -> LLMResult:
    """Parse a complete generation response.

    Usage without counts is marked as estimated. Raises the InvokeError that fits the
    `code` of an error body, and InvokeServerUnavailableError if there is no `output` or
    no choice, or if a value has another type.
    """
    choices = _choices(body)
    if not choices:
        raise InvokeServerUnavailableError("Upstream response has no 'choices'")
    llm_choices: list[LLMChoice] = []
    for position, choice in enumerate(choices):
        llm_choices.append(
            LLMChoice(
                index=_position(choice, position),
                message=with_call_ids(
                    _parse_answer(choice.get("message") or {}),
                    text_of(body.get("request_id")),
                ),
                finish_reason=_parse_reason(choice),
                logprobs=choice.get("logprobs"),
            )
        )
    return LLMResult(
        id=text_of(body.get("request_id")),
        choices=llm_choices,
        usage=parse_usage(body.get("usage")) or LLMUsage(estimated=True),
        extra=passthrough_fields(FORMAT, unknown_fields(body, _KNOWN_RESULT_FIELDS)),
    )


def _dump_choice(choice: LLMChoice) -> JSON:
    """Return an answer, complete or a fragment, as an entry of `output.choices`.

    Without a finish reason the field is the string `null`, as in DashScope's own
    streams. A refusal is appended to the text; files are dropped.
    """
    message = choice.message
    # The format has no refusal field, so a refusal is written as text.
    body: JSON = {
        "role": "assistant",
        "content": message.text + (message.refusal or ""),
    }
    body |= without_empty(reasoning_content=message.thinking)
    if message.tool_calls:
        body["tool_calls"] = [
            _dump_call(call, index) for index, call in enumerate(message.tool_calls)
        ]
    # "pause" exists only in our types; a client of this format sees a normal end.
    reason = (
        "stop" if choice.finish_reason == "pause" else choice.finish_reason or "null"
    )
    return {
        "index": choice.index,
        "finish_reason": reason,
        "message": body,
        **without_empty(logprobs=choice.logprobs),
    }


def dump_result(result: LLMResult) -> JSON:
    """Convert a complete answer to a generation response, with all its choices.

    Fields in `extra` that came from DashScope take precedence.
    """
    return {
        "request_id": result.id,
        "output": {"choices": [_dump_choice(choice) for choice in result.choices]},
        "usage": dump_usage(result.usage),
        **result.extra.get(FORMAT, {}),
    }


# ------------------------------------------------------------------------------ streams


class StreamParser:
    """Converts the events of a stream with incremental output into chunks, one event at
    a time.

    Every event repeats the usage so far; only the event with the finish reason reports
    it.
    """

    def __init__(self) -> None:
        self._has_finished = False
        self._usage: Any = None
        # Choice -> reader of its tool calls.
        self._call_readers: dict[int, ToolCallReader] = {}

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        """Return one chunk for every choice in the event.

        Every event repeats the usage so far, so only a chunk with a finish reason has
        it. Raises like `parse_result` for an error event, but an event without choices
        returns nothing.
        """
        self._usage = event.get("usage") or self._usage
        chunks: list[LLMResultChunk] = []
        for position, choice in enumerate(_choices(event)):
            message = choice.get("message") or {}
            # The tool calls of a stream are fragments, so they are parsed separately
            # below.
            assistant_message = _parse_answer({**message, "tool_calls": None})
            calls = [
                _parse_call(call, i, is_fragment=True)
                for i, call in enumerate(message.get("tool_calls") or ())
            ]
            reason = _parse_reason(choice)
            self._has_finished = self._has_finished or reason is not None
            index = _position(choice, position)
            reader = self._call_readers.setdefault(index, ToolCallReader())
            delta = LLMResultChunkDelta(
                index=index,
                message=reader.read(
                    msgspec.structs.replace(assistant_message, tool_calls=calls),
                    text_of(event.get("request_id")),
                ),
                finish_reason=reason,
                logprobs=choice.get("logprobs"),
                usage=parse_usage(self._usage) if reason is not None else None,
            )
            chunks.append(
                LLMResultChunk(id=text_of(event.get("request_id")), delta=delta)
            )
        return chunks

    def finish(self, *, end_marker_seen: bool) -> list[LLMResultChunk]:
        """Check the end of the stream. Raises InvokeServerUnavailableError if it was
        cut off before a finish reason.

        `end_marker_seen` is True if the transport itself saw a regular end of the
        stream.
        """
        if not end_marker_seen and not self._has_finished:
            raise InvokeServerUnavailableError(
                "Upstream stream ended without a finish reason"
            )
        return []


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    """Yield the chunks of a complete stream of events.

    Raises InvokeServerUnavailableError if the stream is cut off before a finish reason
    or malformed, and the InvokeError that fits the `code` of an error event.
    """
    return parse_events(StreamParser(), events)


class StreamDumper:
    """Converts chunks to stream events with incremental output, one chunk at a time.

    The finish reason and the usage are kept for `finish`, since they belong in the last
    event. One instance per stream; events have no model and no time.
    """

    def __init__(self, *, response_id: str, model: str = "", created: int = 0) -> None:
        # DashScope's events carry neither a model name nor a creation time.
        del model, created
        self._id = response_id
        self._usage: LLMUsage | None = None
        self._call_indexes: dict[int, CallIndexes] = {}
        self._reasons: dict[int, str] = {}

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        """Return the event for one chunk, or nothing if the chunk has no content.

        Content is text, thinking, a tool call or a refusal; files are dropped. The
        finish reason is kept for `finish`.
        """
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        # The finish reason is held back: it must be in the last event, together with
        # the usage.
        if delta.finish_reason is not None:
            self._reasons[delta.index] = delta.finish_reason
        message = delta.message
        if not (
            message.text or message.thinking or message.tool_calls or message.refusal
        ):
            return []
        if message.tool_calls:
            indexes = self._call_indexes.setdefault(delta.index, CallIndexes())
            message = indexes.fill(message)
        choice = _dump_choice(
            LLMChoice(index=delta.index, message=message, logprobs=delta.logprobs)
        )
        return [{"request_id": self._id, "output": {"choices": [choice]}}]

    def finish(self) -> list[JSON]:
        """Return the last event, with the finish reason of each choice and the usage.

        Without a finish reason in the chunks it is `stop`. Unknown usage is written as
        zero counts.
        """
        choices = [
            _dump_choice(LLMChoice(index=index, finish_reason=reason))
            for index, reason in sorted((self._reasons or {0: "stop"}).items())
        ]
        usage = dump_usage(self._usage or LLMUsage())
        output = {"choices": choices}
        return [{"request_id": self._id, "output": output, "usage": usage}]


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    """Yield the event stream for a stream of chunks."""
    return dump_chunks(chunks, StreamDumper)


def error_of(body: Mapping[str, Any]) -> InvokeError:
    """Return the exception for an error body."""
    return provider_error(body)


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    """Return an error body with the code for an HTTP status: InvalidParameter below
    500, InternalError from 500."""
    code = "InvalidParameter" if status < 500 else "InternalError"
    return {"code": code, "message": message, **without_empty(request_id=request_id)}
