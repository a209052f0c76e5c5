"""DashScope's own generation API, for Tongyi and Qwen <-> our types. Pure: no network, no clock."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeError, InvokeServerUnavailableError, kind_of_error
from modelyard.base.fields import beyond, compact, count, counted, in_range, kept, may, need, tools_of, typed, wrong
from modelyard.base.shapes import reads_answer, reads_request
from modelyard.models.arguments import as_text
from modelyard.models.llm import LLMChoice, LLMRequest, LLMResult, LLMResultChunk, LLMResultChunkDelta, LLMUsage
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
    plain,
)
from modelyard.models.reasoning import budget_of
from modelyard.models.streams import dumped, parsed
from modelyard.models.types import JSON

FORMAT = "dashscope"

_NUMBERS: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "top_k": (int, 0, 1 << 31),
    "presence_penalty": (float, -2, 2),
    "max_tokens": (int, 1, 1 << 31),
    "seed": (int, 0, (1 << 31) - 1),
    "n": (int, 1, 4),
    "top_logprobs": (int, 0, 5),
}
_KNOWN = frozenset(_NUMBERS) | {
    "result_format", "incremental_output", "stop", "tools", "tool_choice", "enable_thinking", "thinking_budget",
    "response_format", "logprobs", "parallel_tool_calls",
}  # fmt: skip
PARAMETERS = {"stop"} | frozenset(_NUMBERS) | {
    "response_format", "reasoning_effort", "thinking_budget", "include_thoughts", "logprobs", "parallel_tool_calls",
}  # fmt: skip
_FILES: dict[str, type[FilePromptMessageContent]] = {
    "image": ImagePromptMessageContent,
    "audio": AudioPromptMessageContent,
    "video": VideoPromptMessageContent,
}


def has_files(request: LLMRequest) -> bool:
    """Whether the request goes to the multimodal address."""
    return any(message.files for message in request.messages)


# ------------------------------------------------------------------------------------------------ requests


@reads_request
def parse_request(body: JSON, *, stream: bool = False) -> LLMRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    given = need(body, "input", dict)
    messages = given.get("messages")
    if messages is None and isinstance(given.get("prompt"), str):
        messages = [{"role": "user", "content": given["prompt"]}]
    turns: list[Any] = typed(messages, list, "input.messages")
    if not turns:
        raise InvokeBadRequestError("'input.messages' must hold at least one message", param="input.messages")
    config = may(body, "parameters", dict) or {}
    parameters: dict[str, Any] = {}
    for name, (kind, low, high) in _NUMBERS.items():
        if may(config, name, kind, "parameters.") is not None:
            in_range(config[name], low, high, f"parameters.{name}")
            parameters[name] = config[name]
    for name, kind in (("response_format", dict), ("logprobs", bool), ("parallel_tool_calls", bool)):
        if (value := may(config, name, kind, "parameters.")) is not None:
            parameters[name] = value
    if (thinks := may(config, "enable_thinking", bool, "parameters.")) is not None:
        parameters["thinking_budget"] = config.get("thinking_budget", -1) if thinks else 0
    stop = config.get("stop") or []
    choice = config.get("tool_choice")
    tools = tools_of(config, where="parameters.")
    return LLMRequest(
        format=FORMAT,
        messages=[_parse_message(one, f"input.messages[{place}]") for place, one in enumerate(turns)],
        model_parameters=parameters,
        tools=[_parse_tool(tool, f"parameters.tools[{i}]") for i, tool in enumerate(tools)],
        tool_choice={"name": choice["function"]["name"]} if isinstance(choice, dict) else choice,
        stop=[stop] if isinstance(stop, str) else stop,
        stream=stream,
        extra=kept(FORMAT, beyond(config, _KNOWN)),
    )


def _parse_tool(tool: Any, where: str) -> PromptMessageTool:
    function = need(typed(tool, dict, where), "function", dict, f"{where}.")
    return PromptMessageTool(
        name=need(function, "name", str, f"{where}.function."),
        description=may(function, "description", str, f"{where}.function.") or "",
        parameters=may(function, "parameters", dict, f"{where}.function.") or {},
    )


def _parse_message(message: Any, where: str) -> AnyPromptMessage:
    body = typed(message, dict, where)
    content = _parse_content(body.get("content"), f"{where}.content")
    match body.get("role"):
        case "user":
            return UserPromptMessage(content=content)
        case "system":
            return SystemPromptMessage(content=content)
        case "assistant":
            return _parse_assistant(body, content)
        case "tool":
            name = may(body, "name", str, f"{where}.")
            call = may(body, "tool_call_id", str, f"{where}.") or name or ""
            return ToolPromptMessage(content=content, tool_call_id=call, name=name)
        case other:
            raise wrong(f"{where}.role", other, "system, user, assistant or tool")


def _parse_content(content: Any, where: str) -> Content:
    if content is None or isinstance(content, str):
        return content or None
    parts = typed(content, list, where)
    return plain([_parse_part(typed(one, dict, f"{where}[{i}]"), f"{where}[{i}]") for i, one in enumerate(parts)])


def _parse_part(part: JSON, where: str) -> PromptMessageContent:
    if isinstance(part.get("text"), str):
        return TextPromptMessageContent(data=part["text"])
    for kind, made in _FILES.items():
        if isinstance(url := part.get(kind), str):
            return made(**from_url(url, f"{where}.{kind}", is_image=kind == "image"))
    return OpaquePromptMessageContent(format=FORMAT, data=part)


def _parse_assistant(body: JSON, content: Content) -> AssistantPromptMessage:
    calls = [_parse_call(one, place) for place, one in enumerate(body.get("tool_calls") or ())]
    if isinstance(content, list) and all(isinstance(part, TextPromptMessageContent) for part in content):
        content = "".join(part.data for part in content if isinstance(part, TextPromptMessageContent)) or None
    return AssistantPromptMessage(
        content=content, tool_calls=calls, reasoning_content=body.get("reasoning_content") or None
    )


def _parse_call(call: JSON, place: int, *, is_piece: bool = False) -> ToolCall:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    return ToolCall(
        id=call.get("id") or "",
        function=ToolCallFunction(
            name=function.get("name") or "",
            arguments=(arguments or "") if isinstance(arguments, str | None) else as_text(arguments),
        ),
        index=count(call.get("index", place)) if is_piece else None,
    )


def dump_request(request: LLMRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    """The request as DashScope wants it. Quirks: `drop` (of parameters)."""
    given = request.model_parameters
    is_multimodal = has_files(request)
    config: JSON = {"result_format": "message"}
    config |= {name: given[name] for name in _NUMBERS if name in given}
    config |= {name: given[name] for name in ("response_format", "logprobs", "parallel_tool_calls") if name in given}
    effort, budget = given.get("reasoning_effort"), given.get("thinking_budget")
    if budget is None and effort is not None:
        budget = budget_of(effort, unknown=-1)
    if budget is not None:
        config |= {"enable_thinking": budget != 0, **({"thinking_budget": budget} if budget > 0 else {})}
    if request.stop:
        config["stop"] = request.stop
    if request.tools:
        config["tools"] = [_dump_tool(tool) for tool in request.tools]
    match request.tool_choice:
        case None:
            pass
        case {"name": name}:
            config["tool_choice"] = {"type": "function", "function": {"name": name}}
        case choice:
            config["tool_choice"] = choice if choice in ("auto", "none") else "auto"
    if request.stream:
        config["incremental_output"] = True
    config |= request.extra.get(FORMAT, {})
    for name in quirks.get("drop", ()):
        config.pop(name, None)
    messages = [_dump_message(message, in_parts=is_multimodal) for message in request.messages]
    return {"model": model, "input": {"messages": messages}, "parameters": config}


def _dump_tool(tool: PromptMessageTool) -> JSON:
    if tool.type not in ("function", "custom"):
        raise InvokeBadRequestError(
            f"tool {tool.name!r} is run by another provider; DashScope cannot run it", param="tools"
        )
    function: JSON = {"name": tool.name, "description": tool.description}
    return {
        "type": "function",
        "function": {**function, "parameters": tool.parameters or {"type": "object", "properties": {}}},
    }


def _dump_message(message: AnyPromptMessage, *, in_parts: bool) -> JSON:
    content: Any = message.text
    if in_parts:
        content = [made for part in message.parts if (made := _dump_part(part)) is not None]
    body: JSON = {"role": message.role.value, "content": content}
    if isinstance(message, AssistantPromptMessage):
        body |= compact(reasoning_content=message.thinking)
        if message.tool_calls:
            body["tool_calls"] = [_dump_call(call, place) for place, call in enumerate(message.tool_calls)]
    elif isinstance(message, ToolPromptMessage):
        body |= {"tool_call_id": message.tool_call_id, **compact(name=message.name)}
    return body


def _dump_call(call: ToolCall, place: int) -> JSON:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {
        "id": call.id,
        "type": "function",
        "index": place if call.index is None else call.index,
        "function": function,
    }


def _dump_part(part: PromptMessageContent) -> JSON | None:
    match part:
        case TextPromptMessageContent():
            return {"text": part.data}
        case ThinkingPromptMessageContent():
            return None
        case OpaquePromptMessageContent():
            return part.data if part.format == FORMAT else None
        case _:
            kind = next((name for name, made in _FILES.items() if isinstance(part, made)), None)
            if kind is None:
                raise InvokeBadRequestError("DashScope takes no documents; send text, images, audio or video")
            return {kind: part.data}


# ------------------------------------------------------------------------------------------------ answers


def parse_usage(body: Any) -> LLMUsage | None:
    if not isinstance(body, dict) or count(body.get("input_tokens")) is None:
        return None
    return LLMUsage.of(
        counted(body, "input_tokens"),
        counted(body, "output_tokens"),
        cached_tokens=counted(body, "prompt_tokens_details", "cached_tokens"),
        image_prompt_tokens=counted(body, "image_tokens"),
        audio_prompt_tokens=counted(body, "audio_tokens"),
        reasoning_tokens=counted(body, "output_tokens_details", "reasoning_tokens"),
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    return usage.extra.get(FORMAT) or {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


_RESULT_KNOWN = frozenset({"output", "usage", "request_id"})


def _choices(body: JSON) -> list[JSON]:
    if body.get("code"):
        raise error_of(body)
    output = body.get("output")
    if not isinstance(output, dict):
        raise InvokeServerUnavailableError("the answer holds no output")
    if isinstance(output.get("text"), str):  # result_format `text`
        return [{"finish_reason": output.get("finish_reason"), "message": {"content": output["text"]}}]
    return output.get("choices") or []


def _parse_reason(choice: JSON) -> str | None:
    reason = choice.get("finish_reason")
    return None if reason in (None, "null", "") else reason


@reads_answer
def parse_result(body: JSON, quirks: Mapping[str, Any] | None = None) -> LLMResult:
    """A whole answer. Raises InvokeError where it is none."""
    del quirks
    choices = _choices(body)
    if not choices:
        raise InvokeServerUnavailableError("the answer holds no choices")
    made: list[LLMChoice] = []
    for place, one in enumerate(choices):
        message = one.get("message") or {}
        said = _parse_assistant(message, _parse_content(message.get("content"), "content"))
        made.append(
            LLMChoice(
                index=count(one.get("index")) or place,
                message=said,
                finish_reason=_parse_reason(one),
                logprobs=one.get("logprobs"),
            )
        )
    return LLMResult(
        id=body.get("request_id") or "",
        choices=made,
        usage=parse_usage(body.get("usage")) or LLMUsage(estimated=True),
        extra=kept(FORMAT, beyond(body, _RESULT_KNOWN)),
    )


def _dump_choice(choice: LLMChoice) -> JSON:
    message = choice.message
    body: JSON = {"role": "assistant", "content": message.text + (message.refusal or "")}
    body |= compact(reasoning_content=message.thinking)
    if message.tool_calls:
        body["tool_calls"] = [_dump_call(call, place) for place, call in enumerate(message.tool_calls)]
    reason = "stop" if choice.finish_reason == "pause" else choice.finish_reason or "null"
    return {"index": choice.index, "finish_reason": reason, "message": body, **compact(logprobs=choice.logprobs)}


def dump_result(result: LLMResult) -> JSON:
    return {
        "request_id": result.id,
        "output": {"choices": [_dump_choice(choice) for choice in result.choices]},
        "usage": dump_usage(result.usage),
        **result.extra.get(FORMAT, {}),
    }


# ------------------------------------------------------------------------------------------------ streams


class StreamParser:
    """Events of a stream with incremental output, one at a time, into chunks. Usage stands in every one."""

    def __init__(self, quirks: Mapping[str, Any] | None = None) -> None:
        del quirks
        self._has_finished = False
        self._usage: Any = None

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        self._usage = event.get("usage") or self._usage
        chunks: list[LLMResultChunk] = []
        for place, choice in enumerate(_choices(event)):
            message = choice.get("message") or {}
            said = _parse_assistant({**message, "tool_calls": None}, _parse_content(message.get("content"), "content"))
            calls = [_parse_call(one, i, is_piece=True) for i, one in enumerate(message.get("tool_calls") or ())]
            reason = _parse_reason(choice)
            self._has_finished = self._has_finished or reason is not None
            delta = LLMResultChunkDelta(
                index=count(choice.get("index")) or place,
                message=AssistantPromptMessage(
                    content=said.content, tool_calls=calls, reasoning_content=said.reasoning_content
                ),
                finish_reason=reason,
                logprobs=choice.get("logprobs"),
                usage=parse_usage(self._usage) if reason is not None else None,
            )
            chunks.append(LLMResultChunk(id=event.get("request_id") or "", delta=delta))
        return chunks

    def finish(self, *, done: bool) -> list[LLMResultChunk]:
        """The body has ended. A stream cut short must not look like a whole one."""
        if not done and not self._has_finished:
            raise InvokeServerUnavailableError("the stream broke off: no finish reason came")
        return []


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    return parsed(StreamParser(), events)


class StreamDumper:
    """Chunks, one at a time, into events."""

    def __init__(self, *, response_id: str, model: str = "", created: int = 0) -> None:
        del model, created
        self._id = response_id
        self._usage: LLMUsage | None = None
        self._end: LLMResultChunkDelta | None = None

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        if delta.finish_reason is not None:
            self._end = delta
        message = delta.message
        if not (message.text or message.thinking or message.tool_calls or message.refusal):
            return []
        choice = _dump_choice(LLMChoice(index=delta.index, message=message, logprobs=delta.logprobs))
        return [{"request_id": self._id, "output": {"choices": [choice]}}]

    def finish(self) -> list[JSON]:
        """The last event has the reason and the usage."""
        end = self._end or LLMResultChunkDelta(finish_reason="stop")
        choice = _dump_choice(LLMChoice(index=end.index, finish_reason=end.finish_reason))
        usage = dump_usage(self._usage or LLMUsage())
        return [{"request_id": self._id, "output": {"choices": [choice]}, "usage": usage}]


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    return dumped(chunks, StreamDumper)


def error_of(body: Mapping[str, Any]) -> InvokeError:
    """An error object, by its code."""
    kind = kind_of_error(None, body.get("code"))
    return kind(str(body.get("message") or body.get("code")))


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    code = "InvalidParameter" if status < 500 else "InternalError"
    return {"code": code, "message": message, **compact(request_id=request_id)}
