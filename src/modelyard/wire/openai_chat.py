"""OpenAI Chat Completions <-> our types. Pure: no network, no clock."""

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)
from modelyard.base.fields import count, in_range, may, need, typed, wrong
from modelyard.models.llm import (
    LLMChoice,
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    AudioPromptMessageContent,
    Content,
    DocumentPromptMessageContent,
    ImagePromptMessageContent,
    MultiModalPromptMessageContent,
    PromptMessageContent,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
    VideoPromptMessageContent,
)
from modelyard.models.types import JSON

_NUMBERS: dict[str, tuple[type, float, float]] = {
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
_OTHERS: dict[str, type] = {"logprobs": bool, "response_format": dict, "parallel_tool_calls": bool, "logit_bias": dict}
_STRUCTURE = {
    "model", "messages", "tools", "tool_choice", "stop", "stream", "stream_options", "user", "max_completion_tokens",
}  # fmt: skip
_KNOWN = _STRUCTURE | set(_NUMBERS) | set(_OTHERS)
_MAX_MESSAGES = 10_000


# ------------------------------------------------------------------------------------------------ requests


def parse_request(body: JSON) -> LLMRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    messages = need(body, "messages", list)
    if not messages:
        raise InvokeBadRequestError("'messages' must hold at least one message", param="messages")
    if len(messages) > _MAX_MESSAGES:
        raise InvokeBadRequestError(f"'messages' holds more than {_MAX_MESSAGES:,} messages", param="messages")
    tools = body.get("tools")
    choice = body.get("tool_choice")
    return LLMRequest(
        messages=[_parse_message(message, f"messages[{place}]") for place, message in enumerate(messages)],
        model_parameters=_parse_parameters(body),
        tools=[_parse_tool(tool, f"tools[{i}]") for i, tool in enumerate(typed(tools, list, "tools"))] if tools else [],
        tool_choice=_parse_tool_choice(choice) if choice is not None else None,
        stop=_parse_stop(body.get("stop")),
        stream=may(body, "stream", bool) or False,
        user=may(body, "user", str),
        extra={key: value for key, value in body.items() if key not in _KNOWN},
    )


def _parse_parameters(body: JSON) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for name, value in body.items():
        if value is None:
            continue
        if name in _NUMBERS:
            kind, low, high = _NUMBERS[name]
            in_range(typed(value, kind, name), low, high, name)
            parameters[name] = value
        elif name in _OTHERS:
            parameters[name] = typed(value, _OTHERS[name], name)
    if (most := may(body, "max_completion_tokens", int)) is not None:
        in_range(most, 1, 1 << 31, "max_completion_tokens")
        parameters["max_tokens"] = most
    if "response_format" in parameters:
        _check_response_format(parameters["response_format"])
    return parameters


def _check_response_format(form: JSON) -> None:
    kind = need(form, "type", str, "response_format.")
    if kind not in ("text", "json_object", "json_schema"):
        raise wrong("response_format.type", kind, "text, json_object or json_schema")
    if kind == "json_schema":
        need(need(form, "json_schema", dict, "response_format."), "schema", dict, "response_format.json_schema.")


def _parse_stop(value: Any) -> list[str]:
    if value is None:
        return []
    words = [value] if isinstance(value, str) else typed(value, list, "stop")
    return [typed(word, str, f"stop[{place}]") for place, word in enumerate(words)]


def _parse_tool(tool: Any, where: str) -> PromptMessageTool:
    body = typed(tool, dict, where)
    if body.get("type", "function") != "function":
        raise wrong(f"{where}.type", body["type"], "'function'")
    function = need(body, "function", dict, f"{where}.")
    known = {"name", "description", "parameters"}
    return PromptMessageTool(
        name=need(function, "name", str, f"{where}.function."),
        description=may(function, "description", str, f"{where}.function.") or "",
        parameters=may(function, "parameters", dict, f"{where}.function.") or {},
        extra={key: value for key, value in function.items() if key not in known},
    )


def _parse_tool_choice(value: Any) -> str | dict[str, Any]:
    if isinstance(value, str):
        if value == "any":  # what Mistral calls it
            return "required"
        if value not in ("auto", "none", "required"):
            raise wrong("tool_choice", value, "auto, none, required or an object that names a function")
        return value
    choice = typed(value, dict, "tool_choice")
    if choice.get("type") != "function":
        return choice
    return {"name": need(need(choice, "function", dict, "tool_choice."), "name", str, "tool_choice.function.")}


def _parse_message(message: Any, where: str) -> AnyPromptMessage:
    if not isinstance(message, dict):
        raise wrong(where, message, "an object with role and content")
    role = message.get("role")
    name = message.get("name")
    if name is not None:
        typed(name, str, f"{where}.name")
    match role:
        case "user":
            content = _parse_content(message.get("content"), where)
            return UserPromptMessage(content=content, name=name, extra=_beyond(message, _PLAIN))
        case "assistant":
            return parse_assistant(message, where)
        case "system" | "developer":
            extra = _beyond(message, _PLAIN)
            if role == "developer":
                extra = {**extra, "role": role}
            return SystemPromptMessage(content=_parse_content(message.get("content"), where), name=name, extra=extra)
        case "tool":
            return ToolPromptMessage(
                content=_parse_content(message.get("content"), where),
                name=name,
                tool_call_id=need(message, "tool_call_id", str, f"{where}."),
                extra=_beyond(message, _TOOL),
            )
        case _:
            raise wrong(f"{where}.role", role, "system, developer, user, assistant or tool")


_PLAIN = frozenset({"role", "content", "name"})
_TOOL = _PLAIN | {"tool_call_id"}
_ASSISTANT = _PLAIN | {"tool_calls", "refusal", "reasoning_content", "reasoning", "function_call", "audio"}


def _beyond(body: JSON, known: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in known} if len(body.keys() - known) else {}


def parse_assistant(message: JSON, where: str = "message") -> AssistantPromptMessage:
    """An assistant's message, from a request or from an answer."""
    calls = message.get("tool_calls") or ()
    content = message.get("content")
    if content is None and not calls and where.startswith("messages") and not message.keys() & {"refusal", "audio"}:
        raise wrong(f"{where}.content", None, "a string, or tool_calls beside it")
    return AssistantPromptMessage(
        content=_parse_content(content, where) if content is not None else None,
        name=message.get("name"),
        tool_calls=[_parse_call(call, f"{where}.tool_calls[{place}]") for place, call in enumerate(calls)],
        reasoning_content=message.get("reasoning_content") or message.get("reasoning"),
        refusal=message.get("refusal"),
        extra={k: v for k, v in message.items() if k not in _ASSISTANT or (k in ("function_call", "audio") and v)},
    )


def _parse_call(call: Any, where: str) -> ToolCall:
    body = typed(call, dict, where)
    function = body.get("function") or {}
    index = body.get("index")
    return ToolCall(
        id=body.get("id") or "",
        type=body.get("type") or "function",
        function=ToolCallFunction(name=function.get("name") or "", arguments=function.get("arguments") or ""),
        index=index if isinstance(index, int) else None,
    )


def _parse_content(content: Any, where: str) -> Content:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(f"{where}.content", content, "a string or a list of parts")
    return [_parse_part(part, f"{where}.content[{place}]") for place, part in enumerate(content)]


def _parse_part(part: Any, where: str) -> PromptMessageContent:
    body = typed(part, dict, where)
    match body.get("type"):
        case "text":
            extra = _beyond(body, frozenset({"type", "text"}))
            return TextPromptMessageContent(data=need(body, "text", str, f"{where}."), extra=extra)
        case "image_url":
            image = need(body, "image_url", dict, f"{where}.")
            detail = image.get("detail") or "auto"
            if detail not in ("auto", "low", "high"):
                raise wrong(f"{where}.image_url.detail", detail, "auto, low or high")
            url = need(image, "url", str, f"{where}.image_url.")
            return ImagePromptMessageContent(**_file(url, f"{where}.image_url.url"), detail=detail)
        case "video_url":
            url = need(need(body, "video_url", dict, f"{where}."), "url", str, f"{where}.video_url.")
            return VideoPromptMessageContent(**_file(url, f"{where}.video_url.url"))
        case "input_audio":
            audio = need(body, "input_audio", dict, f"{where}.")
            form = need(audio, "format", str, f"{where}.input_audio.")
            data = _base64(need(audio, "data", str, f"{where}.input_audio."), f"{where}.input_audio.data")
            return AudioPromptMessageContent(base64_data=data, format=form, mime_type=f"audio/{form}")
        case "file":
            return _parse_file_part(need(body, "file", dict, f"{where}."), where)
        case "refusal":
            return TextPromptMessageContent(data=need(body, "refusal", str, f"{where}."), extra={"type": "refusal"})
        case str():  # a part that this format has elsewhere and we have no name for
            return TextPromptMessageContent(data="", extra=body)
        case other:
            raise wrong(f"{where}.type", other, "text, image_url, video_url, input_audio or file")


def _parse_file_part(file: JSON, where: str) -> DocumentPromptMessageContent:
    filename = may(file, "filename", str, f"{where}.file.") or ""
    if data := may(file, "file_data", str, f"{where}.file."):
        return DocumentPromptMessageContent(**_file(data, f"{where}.file.file_data"), filename=filename)
    return DocumentPromptMessageContent(filename=filename, extra={k: v for k, v in file.items() if k != "filename"})


def _file(url: str, where: str) -> dict[str, Any]:
    if not url.startswith("data:"):
        return {"url": url}
    head, comma, data = url[5:].partition(",")
    mime, _, encoding = head.partition(";")
    if not comma or "base64" not in encoding:
        raise wrong(where, url[:40], "an address, or data:<type>;base64,<bytes>")
    return {"base64_data": _base64(data, where), "mime_type": mime, "format": mime.rpartition("/")[2]}


def _base64(data: str, where: str) -> str:
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise wrong(where, data[:40], "base64") from error
    return data


def dump_request(request: LLMRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    """The request as a server of this format wants it. Quirks: `max_tokens_field`, `no_stream_options`, `drop`."""
    body: JSON = {"model": model, "messages": [_dump_message(message) for message in request.messages]}
    body.update(request.model_parameters)
    if "max_tokens" in body:
        body[quirks.get("max_tokens_field", "max_tokens")] = body.pop("max_tokens")
    if request.tools:
        body["tools"] = [_dump_tool(tool) for tool in request.tools]
    if (choice := request.tool_choice) is not None:
        named = isinstance(choice, dict) and choice.keys() == {"name"}
        body["tool_choice"] = {"type": "function", "function": choice} if named else choice
    if request.stop:
        body["stop"] = request.stop
    if request.user is not None:
        body["user"] = request.user
    body.update(request.extra)
    if request.stream:
        body["stream"] = True
        if not quirks.get("no_stream_options"):
            body["stream_options"] = {"include_usage": True}
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    return body


def _dump_tool(tool: PromptMessageTool) -> JSON:
    function: JSON = {"name": tool.name, **tool.extra}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}


def _dump_message(message: AnyPromptMessage) -> JSON:
    body: JSON = {"role": message.role.value, "content": _dump_content(message.content)}
    if message.name is not None:
        body["name"] = message.name
    if isinstance(message, AssistantPromptMessage):
        body.update(dump_assistant(message))
    elif isinstance(message, ToolPromptMessage):
        body["tool_call_id"] = message.tool_call_id
    if message.extra:
        body.update(message.extra)
    return body


def dump_assistant(message: AssistantPromptMessage) -> JSON:
    """What an assistant's message says beside its content."""
    body: JSON = {}
    if message.tool_calls:
        body["tool_calls"] = [_dump_call(call) for call in message.tool_calls]
    if message.reasoning_content:
        body["reasoning_content"] = message.reasoning_content
    if message.refusal is not None:
        body["refusal"] = message.refusal
    return body


def _dump_call(call: ToolCall) -> JSON:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    body: JSON = {"id": call.id, "type": call.type, "function": function}
    if call.index is not None:
        body["index"] = call.index
    return body


def _dump_content(content: Content) -> Any:
    return [_dump_part(part) for part in content] if isinstance(content, list) else content


def _dump_part(part: PromptMessageContent) -> JSON:
    match part:
        case TextPromptMessageContent():
            if part.extra.get("type") == "refusal":
                return {"type": "refusal", "refusal": part.data}
            if "type" in part.extra:
                return part.extra
            return {"type": "text", "text": part.data, **part.extra}
        case ImagePromptMessageContent():
            return {"type": "image_url", "image_url": {"url": part.data, "detail": part.detail}}
        case AudioPromptMessageContent():
            return {"type": "input_audio", "input_audio": {"data": part.base64_data, "format": part.format}}
        case VideoPromptMessageContent():
            return {"type": "video_url", "video_url": {"url": part.data}}
        case DocumentPromptMessageContent():
            return {"type": "file", "file": _dump_file(part)}


def _dump_file(part: MultiModalPromptMessageContent) -> JSON:
    file: JSON = dict(part.extra)
    if part.filename:
        file["filename"] = part.filename
    if part.base64_data or part.url:
        file["file_data"] = part.data
    return file


# ------------------------------------------------------------------------------------------------ answers


def parse_usage(body: Any) -> LLMUsage | None:
    """Usage as the provider counted it; None where it states none that can be believed."""
    if not isinstance(body, dict):
        return None
    prompt, completion = count(body.get("prompt_tokens")), count(body.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    return LLMUsage(
        prompt_tokens=prompt or 0,
        completion_tokens=completion or 0,
        total_tokens=count(body.get("total_tokens")) or (prompt or 0) + (completion or 0),
        cached_tokens=_detail(body, "prompt_tokens_details", "cached_tokens"),
        reasoning_tokens=_detail(body, "completion_tokens_details", "reasoning_tokens"),
    )


def _detail(body: JSON, part: str, name: str) -> int:
    details = body.get(part)
    return (count(details.get(name)) or 0) if isinstance(details, dict) else 0


def dump_usage(usage: LLMUsage) -> JSON:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


_RESULT_KNOWN = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint"})


def parse_result(body: JSON) -> LLMResult:
    """A whole answer. Raises InvokeError where it is none."""
    if isinstance(body.get("error"), dict):
        raise error_of(body["error"])
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise InvokeServerUnavailableError("the answer holds no choices")
    return LLMResult(
        id=body.get("id") or "",
        model=body.get("model") or "",
        created=count(body.get("created")) or 0,
        system_fingerprint=body.get("system_fingerprint"),
        choices=[_parse_choice(choice, place) for place, choice in enumerate(choices)],
        usage=parse_usage(body.get("usage")) or LLMUsage(estimated=True),
        extra=_beyond(body, _RESULT_KNOWN),
    )


def _parse_choice(choice: Any, place: int) -> LLMChoice:
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise InvokeServerUnavailableError("a choice of the answer holds no message")
    index = choice.get("index")
    return LLMChoice(
        index=index if isinstance(index, int) else place,
        message=parse_assistant(choice["message"]),
        finish_reason=choice.get("finish_reason"),
        logprobs=choice.get("logprobs"),
    )


def dump_result(result: LLMResult) -> JSON:
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
    return {**body, **result.extra} if result.extra else body


def _dump_choice(choice: LLMChoice) -> JSON:
    message = choice.message
    return {
        "index": choice.index,
        "message": {
            "role": "assistant",
            "content": _dump_content(message.content),
            "refusal": None,
            **dump_assistant(message),
            **message.extra,
        },
        "logprobs": choice.logprobs,
        "finish_reason": choice.finish_reason,
    }


# ------------------------------------------------------------------------------------------------ streams


class StreamParser:
    """Events of a stream, one at a time, into chunks."""

    def __init__(self) -> None:
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        get = event.get
        if get("error") and isinstance(event["error"], dict):
            raise error_of(event["error"])
        usage = parse_usage(event["usage"]) if get("usage") else None
        choices = get("choices") or ()
        deltas = [self._delta(choice, usage) for choice in choices]
        if usage is not None and not choices:
            deltas.append(LLMResultChunkDelta(usage=usage))
        return [
            LLMResultChunk(
                delta=delta,
                id=get("id") or "",
                model=get("model") or "",
                created=get("created") or 0,
                system_fingerprint=get("system_fingerprint"),
            )
            for delta in deltas
        ]

    def _delta(self, choice: JSON, usage: LLMUsage | None) -> LLMResultChunkDelta:
        reason = choice.get("finish_reason")
        if reason is not None:
            self._has_finished = True
        return LLMResultChunkDelta(
            index=choice.get("index") or 0,
            message=_parse_delta(choice.get("delta")),
            finish_reason=reason,
            logprobs=choice.get("logprobs"),
            usage=usage,
        )

    def finish(self, *, done: bool) -> None:
        """The body has ended; `done` where `[DONE]` was seen. A stream cut short must not look like a whole one."""
        if not done and not self._has_finished:
            raise InvokeServerUnavailableError("the stream broke off: neither a finish reason nor [DONE] came")


_EMPTY = AssistantPromptMessage()


def _parse_delta(delta: Any) -> AssistantPromptMessage:
    if not isinstance(delta, dict):
        return _EMPTY
    content = delta.get("content")
    if len(delta) == 1 and isinstance(content, str):  # nearly every chunk of a long answer
        return AssistantPromptMessage(content=content)
    return parse_assistant(delta)


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    parser = StreamParser()
    for event in events:
        yield from parser.feed(event)
    parser.finish(done=False)


class StreamDumper:
    """Chunks, one at a time, into events: the role first, usage last and only if it was asked for."""

    def __init__(self, *, response_id: str, created: int, model: str, include_usage: bool) -> None:
        self._head: JSON = {
            "id": response_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._include_usage = include_usage
        self._usage: LLMUsage | None = None
        self._begun: set[int] = set()

    def feed(self, chunk: LLMResultChunk) -> JSON | None:
        """The event for this chunk; None where it held usage alone."""
        delta = chunk.delta
        if delta.usage is not None:
            self._usage = delta.usage
        body = _dump_delta(delta.message)
        is_empty = not body and delta.finish_reason is None and delta.logprobs is None
        if is_empty and (delta.usage is not None or delta.index in self._begun):
            return None
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            body = {"role": "assistant", **({"content": ""} if not body else {}), **body}
        choice = {"index": delta.index, "delta": body, "logprobs": delta.logprobs, "finish_reason": delta.finish_reason}
        event = {**self._head, "choices": [choice]}
        if chunk.system_fingerprint is not None:
            event["system_fingerprint"] = chunk.system_fingerprint
        if self._include_usage:
            event["usage"] = None
        return event

    def finish(self) -> JSON | None:
        """The event with usage that ends a stream, if one was asked for."""
        if not self._include_usage:
            return None
        return {**self._head, "choices": [], "usage": dump_usage(self._usage or LLMUsage())}


def _dump_delta(message: AssistantPromptMessage) -> JSON:
    body: JSON = {}
    if message.content is not None:
        body["content"] = _dump_content(message.content)
    if message.tool_calls or message.reasoning_content or message.refusal is not None:
        body.update(dump_assistant(message))
    if message.tool_calls:
        body["tool_calls"] = [_dump_piece(call, place) for place, call in enumerate(message.tool_calls)]
    if message.extra:
        body.update(message.extra)
    return body


def _dump_piece(call: ToolCall, place: int) -> JSON:
    function: JSON = {}
    if call.function.name:
        function["name"] = call.function.name
    function["arguments"] = call.function.arguments
    body: JSON = {"index": place if call.index is None else call.index, "function": function}
    if call.id:
        body |= {"id": call.id, "type": call.type}
    return body


def dump_stream(chunks: Iterable[LLMResultChunk], *, include_usage: bool = True) -> Iterator[JSON]:
    """A stream as events. Head fields come from the first chunk."""
    dumper: StreamDumper | None = None
    for chunk in chunks:
        if dumper is None:
            dumper = StreamDumper(
                response_id=chunk.id, created=chunk.created, model=chunk.model, include_usage=include_usage
            )
        if (event := dumper.feed(chunk)) is not None:
            yield event
    if dumper is not None and (last := dumper.finish()) is not None:
        yield last


# ------------------------------------------------------------------------------------------------ errors

_BY_TYPE: dict[str, type[InvokeError]] = {
    "invalid_request_error": InvokeBadRequestError,
    "authentication_error": InvokeAuthorizationError,
    "permission_error": InvokeAuthorizationError,
    "rate_limit_error": InvokeRateLimitError,
    "rate_limit_exceeded": InvokeRateLimitError,
    "tokens": InvokeRateLimitError,
    "requests": InvokeRateLimitError,
    "insufficient_quota": InvokeRateLimitError,
}


def error_of(error: Mapping[str, Any]) -> InvokeError:
    """An error object inside an answer or a stream, by its type or code; OpenRouter puts an HTTP status there."""
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 500:
        kind = {401: InvokeAuthorizationError, 403: InvokeAuthorizationError, 429: InvokeRateLimitError}
        return kind.get(code, InvokeBadRequestError)(str(error.get("message") or f"status {code}"))
    for key in ("type", "code"):
        if kind := _BY_TYPE.get(str(error.get(key))):
            return kind(str(error.get("message") or error.get(key)))
    return InvokeServerUnavailableError(str(error.get("message") or "the provider reports an error"))
