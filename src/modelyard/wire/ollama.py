"""Translate between Ollama's native chat API and modelyard's chat types. Pure
functions: no network, no clock.

Covers `/api/chat`, and the responses of `/api/generate`. Vendor reference:
docs.ollama.com/api.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import (
    count,
    expect_type,
    invalid_field,
    optional_field,
    passthrough_fields,
    required_field,
    text_of,
    texts_of,
    tools_of,
    unknown_fields,
    without_empty,
)
from modelyard.base.provider_errors import raise_error_in
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
from modelyard.models.media import checked_image
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    Content,
    ImagePromptMessageContent,
    PromptMessageContent,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
    simplified_content,
)
from modelyard.models.streams import dump_chunks, parse_events
from modelyard.models.types import JSON

FORMAT = "ollama"

# Ollama's option -> (name in LLMRequest.model_parameters, type). Ollama itself checks
# the ranges.
_OPTIONS: dict[str, tuple[str, type]] = {
    "temperature": ("temperature", float),
    "top_p": ("top_p", float),
    "top_k": ("top_k", int),
    "num_predict": ("max_tokens", int),
    "seed": ("seed", int),
    "presence_penalty": ("presence_penalty", float),
    "frequency_penalty": ("frequency_penalty", float),
}
PARAMETERS = (
    {"stop"}
    | frozenset(parameter for parameter, _ in _OPTIONS.values())
    | {
        "response_format",
        "reasoning_effort",
        "thinking_budget",
        "include_thoughts",
        "logprobs",
        "top_logprobs",
    }
)
# Fields with a reader below. Every other field passes through unchanged in `extra`.
_KNOWN_FIELDS = frozenset(
    {
        "model",
        "messages",
        "tools",
        "format",
        "options",
        "stream",
        "think",
        "logprobs",
        "top_logprobs",
    }
)


# ----------------------------------------------------------------------------- requests


@reads_request
def parse_request(body: JSON) -> LLMRequest:
    """Parse the JSON body of a client's request to `/api/chat`.

    Streaming is on unless `stream` is false. Calls without an id get one, and each tool
    result is matched to its call. Raises InvokeBadRequestError that names the field if
    `messages` is missing or empty, or if a value is invalid.
    """
    messages = required_field(body, "messages", list)
    if not messages:
        raise InvokeBadRequestError(
            "'messages' must contain at least one message", param="messages"
        )
    options = optional_field(body, "options", dict) or {}
    parameters = _parse_parameters(body, options)
    extra_fields = unknown_fields(body, _KNOWN_FIELDS)
    # Options without a counterpart (such as num_ctx) are preserved for an Ollama
    # upstream.
    if extra_options := unknown_fields(options, frozenset(_OPTIONS) | {"stop"}):
        extra_fields["options"] = extra_options
    return LLMRequest(
        format=FORMAT,
        messages=_parse_messages(messages),
        model_parameters=parameters,
        tools=[
            _parse_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools_of(body))
        ],
        stop=texts_of(options.get("stop"), "options.stop"),
        # Ollama streams by default.
        stream=body.get("stream") is not False,
        extra=passthrough_fields(FORMAT, extra_fields),
    )


def _parse_parameters(body: JSON, options: JSON) -> dict[str, Any]:
    """Return the request's parameters by their common names.

    `options` has the sampling parameters; log probabilities, `format` and `think` are
    fields of the body. A boolean `think` becomes a thinking budget of -1 or 0, a text
    becomes the reasoning effort. Raises InvokeBadRequestError if a value has another
    type.
    """
    parameters: dict[str, Any] = {}
    for wire_name, (parameter, value_type) in _OPTIONS.items():
        if optional_field(options, wire_name, value_type, "options.") is not None:
            parameters[parameter] = options[wire_name]
    # Unlike the sampling parameters, these are top-level fields of the request.
    for name, value_type in (("logprobs", bool), ("top_logprobs", int)):
        if (value := optional_field(body, name, value_type)) is not None:
            parameters[name] = value
    if (response_format := _parse_format(body.get("format"))) is not None:
        parameters["response_format"] = response_format
    match body.get("think"):
        case None:
            pass
        case bool() as is_thinking:
            # -1 means that the model chooses its thinking budget, 0 that it does not
            # think.
            parameters["thinking_budget"] = -1 if is_thinking else 0
        case effort:
            parameters["reasoning_effort"] = expect_type(effort, str, "think")
    return parameters


def _parse_format(output_format: Any) -> JSON | None:
    """Return Ollama's `format` as `response_format`, or None if it is not set.

    `json` becomes a JSON object without a schema; a schema gets the name `answer`.
    Raises InvokeBadRequestError for anything else.
    """
    match output_format:
        case None | "":
            return None
        case "json":
            return {"type": "json_object"}
        case dict() as schema:
            # Ollama's schemas have no name, but our response format requires one.
            return {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema},
            }
        case other:
            raise invalid_field("format", other, "'json' or a JSON schema")


def _parse_messages(messages: list[Any]) -> list[AnyPromptMessage]:
    """Parse the messages in order.

    Ollama's tool calls may lack ids: a result is matched to the earliest open call, by
    id or by tool name.
    """
    result: list[AnyPromptMessage] = []
    # Calls of earlier messages that have no result yet.
    waiting: list[ToolCall] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        body = expect_type(message, dict, where)
        parts = _parse_parts(body, f"{where}.")
        for part in parts:
            if isinstance(part, ImagePromptMessageContent):
                checked_image(part.base64_data, f"{where}.images")
        content = simplified_content(parts) or ""
        match body.get("role"):
            case "user":
                result.append(UserPromptMessage(content=content))
            case "system":
                result.append(SystemPromptMessage(content=content))
            case "assistant":
                # The message's index makes the generated call ids unique within the
                # request.
                assistant_message = _parse_assistant(body, f"{where}.", str(index))
                waiting += assistant_message.tool_calls
                result.append(assistant_message)
            case "tool":
                result.append(_parse_tool_result(body, content, where, waiting))
            case other:
                raise invalid_field(
                    f"{where}.role", other, "system, user, assistant or tool"
                )
    return result


def _parse_parts(body: JSON, where: str) -> list[PromptMessageContent]:
    """Return the text and the images of a message as parts of one content.

    `where` is the path of the message, with a dot. Raises InvokeBadRequestError if one
    of them has another type.
    """
    text = optional_field(body, "content", str, where)
    parts: list[PromptMessageContent] = []
    if text:
        parts.append(TextPromptMessageContent(data=text))
    for i, image in enumerate(optional_field(body, "images", list, where) or ()):
        data = expect_type(image, str, f"{where}images[{i}]")
        parts.append(ImagePromptMessageContent(base64_data=data))
    return parts


def _parse_tool_result(
    body: JSON, content: Content, where: str, waiting: list[ToolCall]
) -> ToolPromptMessage:
    """Parse a message with the role `tool` into the result of an earlier call.

    The call is found in `waiting` by its id, then by `tool_name`; a result with neither
    answers the oldest open call. The answered call is removed from `waiting`. Raises
    InvokeBadRequestError if no call matches.
    """
    name = body.get("tool_name") or body.get("name")
    call = next(
        (
            pending_call
            for pending_call in waiting
            if pending_call.id == body.get("tool_call_id")
        ),
        None,
    )
    # Without an id, the tool's name decides; without a name too, the oldest open call.
    call = call or next(
        (
            pending_call
            for pending_call in waiting
            if name in (None, pending_call.function.name)
        ),
        None,
    )
    if call is None:
        raise invalid_field(
            f"{where}.tool_name",
            name or None,
            "the name of a tool that was called in an earlier message",
        )
    # A call has one result, so that two calls of the same tool get different ones.
    waiting.remove(call)
    return ToolPromptMessage(
        content=content, tool_call_id=call.id, name=call.function.name
    )


def _parse_assistant(
    body: JSON, where: str, stem: str, first: int = 0
) -> AssistantPromptMessage:
    """Parse an assistant message of a request, a response or a stream line.

    A call without an id gets `call_<stem>_<number>`; numbers begin at `first`. Empty
    text and empty `thinking` become None. Raises InvokeBadRequestError, with `where` as
    the path of the message, if a text or an image has another type.
    """
    calls = [
        ToolCall(
            # Other formats require an id, so a missing one is generated from the stem
            # and the position.
            id=text_of(call.get("id")) or f"call_{stem}_{index}",
            function=ToolCallFunction(
                name=text_of((call.get("function") or {}).get("name")),
                arguments=as_text((call.get("function") or {}).get("arguments")),
            ),
        )
        for index, call in enumerate(body.get("tool_calls") or (), first)
    ]
    return AssistantPromptMessage(
        content=simplified_content(_parse_parts(body, where)),
        tool_calls=calls,
        reasoning_content=optional_field(body, "thinking", str, where) or None,
    )


def _parse_tool(tool: Any, where: str) -> PromptMessageTool:
    """Parse an entry of `tools`.

    `where` is its path for error messages. Raises InvokeBadRequestError if the entry,
    its `function` or the function's name is missing or has another type.
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


def dump_request(request: LLMRequest, model: str, capabilities: Capabilities) -> JSON:
    """Build Ollama's request body. `capabilities.drop` lists options to omit.

    Raises InvokeBadRequestError for content or tools that Ollama does not accept.
    """
    parameters = request.model_parameters
    names = _call_names(request.messages)
    body: JSON = {
        "model": model,
        "messages": [_dump_message(message, names) for message in request.messages],
        **_dump_format(parameters),
        **_dump_think(parameters),
    }
    for name in ("logprobs", "top_logprobs"):
        if name in parameters:
            body[name] = parameters[name]
    # Ollama has no tool choice: with "none" the tools are omitted.
    if request.tools and request.tool_choice != "none":
        body["tools"] = [_dump_tool(tool) for tool in request.tools]
    # A copy, since `pop` below must not change the request.
    vendor_fields = dict(request.extra.get(FORMAT, {}))
    options = _dump_options(request) | vendor_fields.pop("options", {})
    for name in capabilities.drop:
        options.pop(name, None)
    if options:
        body["options"] = options
    return {**body, "stream": request.stream, **vendor_fields}


def _call_names(messages: list[AnyPromptMessage]) -> dict[str, str]:
    """Return call id → tool name. Ollama identifies a tool result by the tool's name,
    which our result may not carry."""
    return {
        call.id: call.function.name
        for message in messages
        if isinstance(message, AssistantPromptMessage)
        for call in message.tool_calls
    }


def _dump_options(request: LLMRequest) -> JSON:
    """Build Ollama's `options` from the parameters and the stop sequences.

    Parameters that Ollama does not have are left out. The object may be empty.
    """
    parameters = request.model_parameters
    options: JSON = {
        wire_name: parameters[parameter]
        for wire_name, (parameter, _) in _OPTIONS.items()
        if parameter in parameters
    }
    if request.stop:
        options["stop"] = request.stop
    return options


def _dump_format(parameters: Mapping[str, Any]) -> JSON:
    """Build Ollama's `format` field from `response_format`.

    The value is the schema itself, or `json`. Returns an empty object for plain text.
    """
    match parameters.get("response_format"):
        case {"type": "json_schema", "json_schema": named_schema}:
            return {"format": named_schema["schema"]}
        case {"type": "json_object"}:
            return {"format": "json"}
        case _:
            return {}


def _dump_think(parameters: Mapping[str, Any]) -> JSON:
    """Return `think`, or nothing if the request does not control thinking."""
    effort = parameters.get("reasoning_effort")
    # Some models accept these three levels; any other effort simply enables thinking.
    if effort in ("low", "medium", "high"):
        return {"think": effort}
    if effort is not None:
        return {"think": effort != "none"}
    budget = parameters.get("thinking_budget")
    return {} if budget is None else {"think": budget != 0}


def _dump_tool(tool: PromptMessageTool) -> JSON:
    """Build an entry of `tools`.

    A function without parameters gets an empty object schema. Raises
    InvokeBadRequestError for a hosted tool, since Ollama runs none.
    """
    # Provider-hosted tools of another vendor have no Ollama counterpart.
    if tool.type not in ("function", "custom"):
        raise InvokeBadRequestError(
            f"Tool {tool.name!r} is hosted by another provider; Ollama does not support it",
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


def _dump_message(message: AnyPromptMessage, names: Mapping[str, str]) -> JSON:
    """Build an entry of `messages`.

    `names` gives a tool's name by call id, for results without a name. Raises
    InvokeBadRequestError for files other than images, and for images that are only a
    URL.
    """
    body: JSON = {"role": message.role.value, "content": message.text}
    if isinstance(message, ToolPromptMessage):
        body["tool_name"] = message.name or names.get(message.tool_call_id, "")
        # Only the id distinguishes two calls of the same tool.
        body |= without_empty(tool_call_id=message.tool_call_id)
    if isinstance(message, AssistantPromptMessage):
        # The format has no refusal field, so a refusal is written as text.
        body["content"] += message.refusal or ""
        body |= without_empty(thinking=message.thinking)
        if message.tool_calls:
            body["tool_calls"] = [_dump_call(call) for call in message.tool_calls]
    if images := _dump_images(message):
        body["images"] = images
    return body


def _dump_images(message: AnyPromptMessage) -> list[str]:
    """Return the images of a message in base64. Raises InvokeBadRequestError for other
    files, and for images that are only a URL."""
    files = message.files
    images = [file for file in files if isinstance(file, ImagePromptMessageContent)]
    # An image with only a URL would have to be downloaded, which Ollama does not do.
    if any(not image.base64_data for image in images):
        raise InvokeBadRequestError(
            "Ollama does not download images; send them as base64"
        )
    if len(images) < len(files):
        raise InvokeBadRequestError("Ollama accepts text and images only")
    return [image.base64_data for image in images]


def _dump_call(call: ToolCall) -> JSON:
    """Build an entry of `tool_calls`, with the arguments as an object.

    The id is written only if there is one.
    """
    function = {
        "name": call.function.name,
        "arguments": as_object(call.function.arguments),
    }
    return {**without_empty(id=call.id), "function": function}


# ---------------------------------------------------------------------------- responses

# Other fields are kept, so that a client of this format gets them unchanged.
_KNOWN_RESULT_FIELDS = frozenset(
    {"model", "message", "done", "done_reason", "response", "thinking", "logprobs"}
)
# Ollama ends an answer with tool calls as `stop`, too.
_FINISH_REASONS = {"stop": "stop", "length": "length"}


def parse_usage(body: JSON) -> LLMUsage | None:
    """Parse the token counts, or return None if there are none."""
    counts = (count(body.get("prompt_eval_count")), count(body.get("eval_count")))
    if counts == (None, None):
        return None
    prompt_tokens, completion_tokens = counts
    return LLMUsage.of(prompt_tokens or 0, completion_tokens or 0)


def _response_message(body: JSON) -> JSON:
    """Return the message of a response or stream line.

    A response of `/api/generate` is given the shape of a message. Raises
    InvokeServerUnavailableError if there is neither `message` nor `response`.
    """
    if isinstance(body.get("message"), dict):
        return body["message"]
    # `/api/generate` has no message: its text is directly in the response.
    if isinstance(body.get("response"), str):
        return {"content": body["response"], "thinking": body.get("thinking")}
    raise InvokeServerUnavailableError("Upstream response has no 'message'")


def _parse_answer(message: JSON, stem: str, first: int = 0) -> AssistantPromptMessage:
    """Parse the message of a response or stream line, as `_parse_assistant`. Raises
    InvokeServerUnavailableError if a value has another type."""
    # The field readers blame the client; in a response the fault is the provider's.
    try:
        return _parse_assistant(message, "message.", stem, first)
    except InvokeBadRequestError as error:
        raise InvokeServerUnavailableError(
            f"Invalid upstream response: {error}"
        ) from error


def _call_id_prefix(body: JSON) -> str:
    """Return a prefix for the ids of calls, the same for the same answer."""
    return hashlib.sha256(msgspec.json.encode(body)).hexdigest()[:16]


def _parse_reason(body: JSON, *, has_calls: bool) -> str | None:
    """Return the finish reason, or None while `done` is not set.

    Any other `done_reason` than `length` counts as `stop`, and as `tool_calls` if the
    answer has calls.
    """
    if not body.get("done"):
        return None
    reason = _FINISH_REASONS.get(body.get("done_reason") or "stop", "stop")
    # Ollama reports "stop" also for tool calls; our types distinguish the two.
    return "tool_calls" if has_calls and reason == "stop" else reason


def _parse_logprobs(body: JSON) -> dict[str, Any] | None:
    """Return log probabilities in the form of the chat format."""
    return {"content": body["logprobs"]} if body.get("logprobs") else None


def _dump_logprobs(logprobs: dict[str, Any] | None) -> JSON:
    """Return log probabilities in Ollama's form."""
    return {"logprobs": logprobs.get("content")} if logprobs else {}


@reads_answer
def parse_result(body: JSON) -> LLMResult:
    """Parse a complete response of `/api/chat` or `/api/generate`.

    Usage is marked as estimated if there are no token counts. Raises
    InvokeServerUnavailableError for an `error` (Ollama may report one with status 200)
    and for a response without a message.
    """
    # Ollama may report an error with status 200.
    if isinstance(body.get("error"), str):
        raise_error_in(body)
    message = _parse_answer(_response_message(body), _call_id_prefix(body))
    # A complete response counts as done even if the server omits the flag.
    reason = _parse_reason({"done": True, **body}, has_calls=bool(message.tool_calls))
    return LLMResult(
        model=text_of(body.get("model")),
        choices=[
            LLMChoice(
                message=message, finish_reason=reason, logprobs=_parse_logprobs(body)
            )
        ],
        usage=parse_usage(body) or LLMUsage(estimated=True),
        extra=passthrough_fields(FORMAT, unknown_fields(body, _KNOWN_RESULT_FIELDS)),
    )


def _dump_end(reason: str | None, usage: LLMUsage, extra: dict[str, Any]) -> JSON:
    """Build the closing fields of a response or of a stream's last line.

    `done_reason` is `length` or `stop`, `total_duration` is in nanoseconds. Vendor
    fields in `extra` replace these, but not the token counts.
    """
    counts = {
        "prompt_eval_count": usage.prompt_tokens,
        "eval_count": usage.completion_tokens,
    }
    nanoseconds = round(usage.latency * 1e9)
    vendor_fields = extra.get(FORMAT, {})
    end_fields = {
        "done": True,
        "done_reason": "length" if reason == "length" else "stop",
        "total_duration": nanoseconds,
    }
    # Counts come last: those of this call take precedence over stored vendor fields.
    return {**end_fields, **vendor_fields, **counts}


def _dump_answer(message: AssistantPromptMessage) -> JSON:
    """Build the `message` of a response, without its tool calls.

    A refusal is appended to the text, because Ollama has no field for it. Images are
    written as base64.
    """
    body: JSON = {
        "role": "assistant",
        # The format has no refusal field, so a refusal is written as text.
        "content": message.text + (message.refusal or ""),
        **without_empty(thinking=message.thinking),
    }
    images = [
        file.base64_data
        for file in message.files
        if isinstance(file, ImagePromptMessageContent)
    ]
    if images:
        body["images"] = images
    return body


def dump_result(result: LLMResult) -> JSON:
    """Build a complete response body. Only the first choice is written: Ollama has no
    `n` parameter."""
    choice = result.choices[0]
    message = _dump_answer(choice.message)
    if choice.message.tool_calls:
        message["tool_calls"] = [_dump_call(call) for call in choice.message.tool_calls]
    # The field is part of the format; it stays empty because this module has no clock.
    head: JSON = {
        "model": result.model,
        "created_at": "",
        "message": message,
        **_dump_logprobs(choice.logprobs),
    }
    return {**head, **_dump_end(choice.finish_reason, result.usage, result.extra)}


# ------------------------------------------------------------------------------ streams


class StreamParser:
    """Converts the lines of a chat stream into chunks, one line at a time."""

    def __init__(self) -> None:
        self._calls = 0
        self._call_id_prefix = ""
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        """Return the chunk for one line of a stream.

        Calls are numbered across lines, and those without an id get one. Usage comes
        with the line that has `done`. Raises InvokeServerUnavailableError if the line
        has an `error`, or neither `message` nor `response`.
        """
        if isinstance(event.get("error"), str):
            raise_error_in(event)
        # Generated ids are based on the first line, so that they are stable within the
        # stream.
        self._call_id_prefix = self._call_id_prefix or _call_id_prefix(event)
        message = _parse_answer(
            _response_message(event), self._call_id_prefix, self._calls
        )
        # Calls are numbered across lines: each line may carry further complete calls.
        calls = [
            msgspec.structs.replace(call, index=self._calls + i)
            for i, call in enumerate(message.tool_calls)
        ]
        self._calls += len(calls)
        is_last = bool(event.get("done"))
        self._has_finished = self._has_finished or is_last
        delta = LLMResultChunkDelta(
            message=msgspec.structs.replace(message, tool_calls=calls),
            finish_reason=_parse_reason(event, has_calls=bool(self._calls)),
            logprobs=_parse_logprobs(event),
            usage=parse_usage(event) if is_last else None,
        )
        extra = (
            passthrough_fields(FORMAT, unknown_fields(event, _KNOWN_RESULT_FIELDS))
            if is_last
            else {}
        )
        return [
            LLMResultChunk(model=text_of(event.get("model")), delta=delta, extra=extra)
        ]

    def finish(self, *, end_marker_seen: bool) -> list[LLMResultChunk]:
        """Check the end of the stream. Raises InvokeServerUnavailableError if no line
        had `done`.

        `end_marker_seen` is True if the transport itself saw a regular end of the
        stream.
        """
        if not end_marker_seen and not self._has_finished:
            raise InvokeServerUnavailableError(
                "Upstream stream ended without a line with 'done'"
            )
        return []


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    """Yield the chunks of a whole stream. Raises InvokeServerUnavailableError if it
    is cut off."""
    return parse_events(StreamParser(), events)


class StreamDumper:
    """Converts chunks into stream lines, one chunk at a time.

    Ollama does not split tool calls, so their fragments are collected and sent complete
    by `finish`.
    """

    def __init__(self, *, response_id: str = "", model: str, created: int = 0) -> None:
        del response_id, created
        self._head: JSON = {"model": model, "created_at": ""}
        self._usage: LLMUsage | None = None
        self._reason: str | None = None
        self._call_indexes = CallIndexes()
        self._call_fragments: dict[int, list[ToolCall]] = {}
        self._extra: dict[str, Any] = {}

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        """Return the line for one chunk, or nothing if it has no content.

        Content is text, thinking, images or log probabilities. Tool calls, the finish
        reason and usage wait for `finish`. Chunks of a choice other than the first are
        dropped, except for their usage.
        """
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        # The format has one answer per stream, so further choices are dropped.
        if delta.index:
            return []
        for call in delta.message.tool_calls:
            index = self._call_indexes.index_of(call)
            self._call_fragments.setdefault(index, []).append(call)
        self._reason = delta.finish_reason or self._reason
        self._extra = chunk.extra or self._extra
        message = _dump_answer(delta.message)
        logprobs = _dump_logprobs(delta.logprobs)
        has_content = bool(message["content"] or logprobs)
        if not has_content and message.keys() <= {"role", "content"}:
            return []
        return [{**self._head, "message": message, **logprobs, "done": False}]

    def finish(self) -> list[JSON]:
        """Return the collected tool calls, then the line with `done`, the reason and
        the token counts."""
        events: list[JSON] = []
        if self._call_fragments:
            complete_calls: list[JSON] = []
            for fragments in self._call_fragments.values():
                text = "".join(fragment.function.arguments for fragment in fragments)
                # The first fragment has the name; the others only add argument text.
                function = ToolCallFunction(
                    name=fragments[0].function.name, arguments=text
                )
                complete_calls.append(
                    _dump_call(msgspec.structs.replace(fragments[0], function=function))
                )
            message = {"role": "assistant", "content": "", "tool_calls": complete_calls}
            events.append({**self._head, "message": message, "done": False})
        end = _dump_end(self._reason, self._usage or LLMUsage(), self._extra)
        return [
            *events,
            {**self._head, "message": {"role": "assistant", "content": ""}, **end},
        ]


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    """Yield the stream lines for a stream of chunks."""
    return dump_chunks(chunks, StreamDumper)


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    """Return an error body. The format has neither a status nor a request id."""
    del status, request_id
    return {"error": message}
