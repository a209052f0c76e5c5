"""Ollama's own chat (`/api/chat`, and the answers of `/api/generate`) <-> our types. Pure: no network, no clock."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import beyond, compact, count, counted, kept, may, need, tools_of, typed, wrong
from modelyard.base.shapes import reads_answer, reads_request
from modelyard.models.arguments import as_object, as_text
from modelyard.models.llm import LLMChoice, LLMRequest, LLMResult, LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.media import checked_image
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    ImagePromptMessageContent,
    PromptMessageContent,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
    plain,
)
from modelyard.models.streams import dumped, parsed
from modelyard.models.types import JSON

FORMAT = "ollama"

_OPTIONS: dict[str, tuple[str, type]] = {
    "temperature": ("temperature", float),
    "top_p": ("top_p", float),
    "top_k": ("top_k", int),
    "num_predict": ("max_tokens", int),
    "seed": ("seed", int),
    "presence_penalty": ("presence_penalty", float),
    "frequency_penalty": ("frequency_penalty", float),
}
PARAMETERS = {"stop"} | frozenset(ours for ours, _ in _OPTIONS.values()) | {
    "response_format", "reasoning_effort", "thinking_budget", "include_thoughts", "logprobs", "top_logprobs",
}  # fmt: skip
_KNOWN = frozenset({
    "model", "messages", "tools", "format", "options", "stream", "think", "logprobs", "top_logprobs",
})  # fmt: skip


# ------------------------------------------------------------------------------------------------ requests


@reads_request
def parse_request(body: JSON) -> LLMRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    messages = need(body, "messages", list)
    if not messages:
        raise InvokeBadRequestError("'messages' must hold at least one message", param="messages")
    options = may(body, "options", dict) or {}
    parameters: dict[str, Any] = {}
    for theirs, (ours, kind) in _OPTIONS.items():
        if may(options, theirs, kind, "options.") is not None:
            parameters[ours] = options[theirs]
    for name, kind in (("logprobs", bool), ("top_logprobs", int)):
        if (value := may(body, name, kind)) is not None:
            parameters[name] = value
    match body.get("format"):
        case None | "":
            pass
        case "json":
            parameters["response_format"] = {"type": "json_object"}
        case dict() as schema:
            parameters["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        case other:
            raise wrong("format", other, "'json' or a JSON schema")
    match body.get("think"):
        case None:
            pass
        case bool() as wanted:
            parameters["thinking_budget"] = -1 if wanted else 0
        case effort:
            parameters["reasoning_effort"] = typed(effort, str, "think")
    stop = options.get("stop") or []
    rest = beyond(body, _KNOWN)
    if more := beyond(options, frozenset(_OPTIONS) | {"stop"}):
        rest["options"] = more
    return LLMRequest(
        format=FORMAT,
        messages=_parse_messages(messages),
        model_parameters=parameters,
        tools=[_parse_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools_of(body))],
        stop=[stop] if isinstance(stop, str) else stop,
        stream=body.get("stream") is not False,
        extra=kept(FORMAT, rest),
    )


def _parse_messages(messages: list[Any]) -> list[AnyPromptMessage]:
    """The messages; calls have no ids here, so results belong to the calls before them in order, or by name."""
    result: list[AnyPromptMessage] = []
    waiting: list[ToolCall] = []
    for place, one in enumerate(messages):
        where = f"messages[{place}]"
        body = typed(one, dict, where)
        text = may(body, "content", str, f"{where}.") or ""
        parts: list[PromptMessageContent] = [TextPromptMessageContent(data=text)] if text else []
        for number, image in enumerate(may(body, "images", list, f"{where}.") or ()):
            here = f"{where}.images[{number}]"
            parts.append(ImagePromptMessageContent(base64_data=checked_image(typed(image, str, here), here)))
        match body.get("role"):
            case "user":
                result.append(UserPromptMessage(content=plain(parts) or ""))
            case "system":
                result.append(SystemPromptMessage(content=text))
            case "assistant":
                said = _parse_assistant(body, str(place))
                waiting += said.tool_calls
                result.append(said)
            case "tool":
                result.append(_parse_tool_result(body, text, where, waiting))
            case other:
                raise wrong(f"{where}.role", other, "system, user, assistant or tool")
    return result


def _parse_tool_result(body: JSON, text: str, where: str, waiting: list[ToolCall]) -> ToolPromptMessage:
    name = body.get("tool_name") or body.get("name")
    call = next((one for one in waiting if one.id == body.get("tool_call_id")), None)
    call = call or next((one for one in waiting if name in (None, one.function.name)), None)
    if call is None:
        raise wrong(f"{where}.tool_name", name or "nothing", "the name of a tool that was called before it")
    waiting.remove(call)
    return ToolPromptMessage(content=text, tool_call_id=call.id, name=call.function.name)


def _parse_assistant(body: JSON, stem: str, first: int = 0) -> AssistantPromptMessage:
    calls = [
        ToolCall(
            id=one.get("id") or f"call_{stem}_{place}",
            function=ToolCallFunction(
                name=(one.get("function") or {}).get("name") or "",
                arguments=as_text((one.get("function") or {}).get("arguments")),
            ),
        )
        for place, one in enumerate(body.get("tool_calls") or (), first)
    ]
    return AssistantPromptMessage(
        content=body.get("content") or None, tool_calls=calls, reasoning_content=body.get("thinking") or None
    )


def _parse_tool(tool: Any, where: str) -> PromptMessageTool:
    function = need(typed(tool, dict, where), "function", dict, f"{where}.")
    return PromptMessageTool(
        name=need(function, "name", str, f"{where}.function."),
        description=may(function, "description", str, f"{where}.function.") or "",
        parameters=may(function, "parameters", dict, f"{where}.function.") or {},
    )


def dump_request(request: LLMRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    """The request as Ollama wants it. Quirks: `drop` (of options)."""
    given = request.model_parameters
    names = {
        call.id: call.function.name
        for one in request.messages
        if isinstance(one, AssistantPromptMessage)
        for call in one.tool_calls
    }
    body: JSON = {"model": model, "messages": [_dump_message(one, names) for one in request.messages]}
    options: JSON = {theirs: given[ours] for theirs, (ours, _) in _OPTIONS.items() if ours in given}
    if request.stop:
        options["stop"] = request.stop
    match given.get("response_format"):
        case {"type": "json_schema", "json_schema": form}:
            body["format"] = form["schema"]
        case {"type": "json_object"}:
            body["format"] = "json"
        case _:
            pass
    if (effort := given.get("reasoning_effort")) is not None:
        body["think"] = False if effort == "none" else effort if effort in ("low", "medium", "high") else True
    elif (budget := given.get("thinking_budget")) is not None:
        body["think"] = budget != 0
    body |= {name: given[name] for name in ("logprobs", "top_logprobs") if name in given}
    if request.tools and request.tool_choice != "none":
        body["tools"] = [_dump_tool(tool) for tool in request.tools]
    own = dict(request.extra.get(FORMAT, {}))
    options |= own.pop("options", {})
    for name in quirks.get("drop", ()):
        options.pop(name, None)
    if options:
        body["options"] = options
    return {**body, "stream": request.stream, **own}


def _dump_tool(tool: PromptMessageTool) -> JSON:
    if tool.type not in ("function", "custom"):
        raise InvokeBadRequestError(
            f"tool {tool.name!r} is run by another provider; Ollama cannot run it", param="tools"
        )
    function: JSON = {"name": tool.name, "description": tool.description}
    return {
        "type": "function",
        "function": {**function, "parameters": tool.parameters or {"type": "object", "properties": {}}},
    }


def _dump_message(message: AnyPromptMessage, names: Mapping[str, str]) -> JSON:
    body: JSON = {"role": message.role.value, "content": message.text}
    if isinstance(message, AssistantPromptMessage):
        body |= compact(thinking=message.thinking)
        if message.tool_calls:
            body["tool_calls"] = [_dump_call(call) for call in message.tool_calls]
    elif isinstance(message, ToolPromptMessage):
        body["tool_name"] = message.name or names.get(message.tool_call_id, "")
        return body
    images = [one for one in message.files if isinstance(one, ImagePromptMessageContent)]
    if any(not one.base64_data for one in images):
        raise InvokeBadRequestError("Ollama fetches no images; send their bytes")
    if len(images) < len(message.files):
        raise InvokeBadRequestError("Ollama takes text and images, no other files")
    if images:
        body["images"] = [one.base64_data for one in images]
    return body


def _dump_call(call: ToolCall) -> JSON:
    function = {"name": call.function.name, "arguments": as_object(call.function.arguments)}
    return {**compact(id=call.id), "function": function}


# ------------------------------------------------------------------------------------------------ answers

_RESULT_KNOWN = frozenset({"model", "message", "done", "done_reason", "response", "thinking", "logprobs"})
_REASONS = {"stop": "stop", "length": "length"}


def parse_usage(body: JSON) -> LLMUsage | None:
    if count(body.get("prompt_eval_count")) is None and count(body.get("eval_count")) is None:
        return None
    return LLMUsage.of(counted(body, "prompt_eval_count"), counted(body, "eval_count"))


def _message_of(body: JSON) -> JSON:
    if isinstance(body.get("message"), dict):
        return body["message"]
    if isinstance(body.get("response"), str):
        return {"content": body["response"], "thinking": body.get("thinking")}
    raise InvokeServerUnavailableError("the answer holds no message")


def _stem(body: JSON) -> str:
    return hashlib.sha256(msgspec.json.encode(body)).hexdigest()[:16]


def _parse_reason(body: JSON, *, has_calls: bool) -> str | None:
    if not body.get("done"):
        return None
    reason = _REASONS.get(body.get("done_reason") or "stop", "stop")
    return "tool_calls" if has_calls and reason == "stop" else reason


def _parse_logprobs(body: JSON) -> dict[str, Any] | None:
    return {"content": body["logprobs"]} if body.get("logprobs") else None


@reads_answer
def parse_result(body: JSON, quirks: Mapping[str, Any] | None = None) -> LLMResult:
    """A whole answer. Raises InvokeError where it is none."""
    del quirks
    if isinstance(body.get("error"), str):
        raise InvokeServerUnavailableError(body["error"])
    message = _parse_assistant(_message_of(body), _stem(body))
    reason = _parse_reason({"done": True, **body}, has_calls=bool(message.tool_calls))
    return LLMResult(
        model=body.get("model") or "",
        choices=[LLMChoice(message=message, finish_reason=reason, logprobs=_parse_logprobs(body))],
        usage=parse_usage(body) or LLMUsage(estimated=True),
        extra=kept(FORMAT, beyond(body, _RESULT_KNOWN)),
    )


def _dump_end(reason: str | None, usage: LLMUsage, extra: dict[str, Any]) -> JSON:
    counts = {"prompt_eval_count": usage.prompt_tokens, "eval_count": usage.completion_tokens}
    nanoseconds = round(usage.latency * 1e9)
    own = extra.get(FORMAT, {})
    done = {"done": True, "done_reason": "length" if reason == "length" else "stop", "total_duration": nanoseconds}
    return {**done, **own, **counts}


def _dump_answer(message: AssistantPromptMessage) -> JSON:
    body: JSON = {
        "role": "assistant",
        "content": message.text + (message.refusal or ""),
        **compact(thinking=message.thinking),
    }
    images = [one.base64_data for one in message.files if isinstance(one, ImagePromptMessageContent)]
    if images:
        body["images"] = images
    return body


def dump_result(result: LLMResult) -> JSON:
    choice = result.choices[0]
    message = _dump_answer(choice.message)
    if choice.message.tool_calls:
        message["tool_calls"] = [_dump_call(call) for call in choice.message.tool_calls]
    logprobs = {"logprobs": choice.logprobs.get("content")} if choice.logprobs else {}
    head: JSON = {"model": result.model, "created_at": "", "message": message, **logprobs}
    return {**head, **_dump_end(choice.finish_reason, result.usage, result.extra)}


# ------------------------------------------------------------------------------------------------ streams


class StreamParser:
    """Lines of a stream, one at a time, into chunks."""

    def __init__(self, quirks: Mapping[str, Any] | None = None) -> None:
        del quirks
        self._calls = 0
        self._stem = ""
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        if isinstance(event.get("error"), str):
            raise InvokeServerUnavailableError(event["error"])
        self._stem = self._stem or _stem(event)
        message = _parse_assistant(_message_of(event), self._stem, self._calls)
        calls = [msgspec.structs.replace(call, index=self._calls + i) for i, call in enumerate(message.tool_calls)]
        self._calls += len(calls)
        is_last = bool(event.get("done"))
        self._has_finished = self._has_finished or is_last
        delta = LLMResultChunkDelta(
            message=msgspec.structs.replace(message, tool_calls=calls),
            finish_reason=_parse_reason(event, has_calls=bool(self._calls)),
            logprobs=_parse_logprobs(event),
            usage=parse_usage(event) if is_last else None,
        )
        extra = kept(FORMAT, beyond(event, _RESULT_KNOWN)) if is_last else {}
        return [LLMResultChunk(model=event.get("model") or "", delta=delta, extra=extra)]

    def finish(self, *, done: bool) -> list[LLMResultChunk]:
        """The body has ended. A stream cut short must not look like a whole one."""
        if not done and not self._has_finished:
            raise InvokeServerUnavailableError("the stream broke off: no line with 'done' came")
        return []


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    return parsed(StreamParser(), events)


class StreamDumper:
    """Chunks, one at a time, into lines. A call goes out whole."""

    def __init__(self, *, response_id: str = "", model: str, created: int = 0) -> None:
        del response_id, created
        self._head: JSON = {"model": model, "created_at": ""}
        self._usage: LLMUsage | None = None
        self._reason: str | None = None
        self._calls: dict[int, list[ToolCall]] = {}
        self._extra: dict[str, Any] = {}

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        if delta.index:
            return []  # one answer alone has a place here
        for place, call in enumerate(delta.message.tool_calls):
            self._calls.setdefault(place if call.index is None else call.index, []).append(call)
        self._reason = delta.finish_reason or self._reason
        self._extra = chunk.extra or self._extra
        message = _dump_answer(delta.message)
        if not message["content"] and "thinking" not in message and "images" not in message:
            return []
        return [{**self._head, "message": message, "done": False}]

    def finish(self) -> list[JSON]:
        events: list[JSON] = []
        if self._calls:
            whole: list[JSON] = []
            for pieces in self._calls.values():
                text = "".join(piece.function.arguments for piece in pieces)
                function = ToolCallFunction(name=pieces[0].function.name, arguments=text)
                whole.append(_dump_call(msgspec.structs.replace(pieces[0], function=function)))
            message = {"role": "assistant", "content": "", "tool_calls": whole}
            events.append({**self._head, "message": message, "done": False})
        end = _dump_end(self._reason, self._usage or LLMUsage(), self._extra)
        return [*events, {**self._head, "message": {"role": "assistant", "content": ""}, **end}]


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    return dumped(chunks, StreamDumper)


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    del status, request_id
    return {"error": message}
