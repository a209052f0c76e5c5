"""Cohere chat (v2) <-> our types. Pure: no network, no clock."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import beyond, compact, count, counted, in_range, kept, may, need, tools_of, typed, wrong
from modelyard.base.shapes import reads_answer, reads_request
from modelyard.models.arguments import as_text
from modelyard.models.llm import LLMChoice, LLMRequest, LLMResult, LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.media import from_url
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    Citation,
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
    assistant_of,
    plain,
)
from modelyard.models.reasoning import budget_of
from modelyard.models.streams import dumped, parsed
from modelyard.models.types import JSON

FORMAT = "cohere"

_NUMBERS: dict[str, tuple[str, type, float, float]] = {
    "temperature": ("temperature", float, 0, 2),
    "p": ("top_p", float, 0, 1),
    "k": ("top_k", int, 0, 500),
    "max_tokens": ("max_tokens", int, 1, 1 << 31),
    "seed": ("seed", int, 0, 1 << 63),
    "frequency_penalty": ("frequency_penalty", float, 0, 1),
    "presence_penalty": ("presence_penalty", float, 0, 1),
    "logprobs": ("logprobs", bool, 0, 1),
}
_KNOWN = frozenset(_NUMBERS) | {
    "model", "messages", "tools", "tool_choice", "stop_sequences", "stream", "response_format", "thinking",
    "strict_tools",
}  # fmt: skip
PARAMETERS = {"stop"} | frozenset(ours for ours, *_ in _NUMBERS.values()) | {
    "response_format", "thinking_budget", "reasoning_effort", "include_thoughts",
}  # fmt: skip
_PLAN = {FORMAT: {"tool_plan": True}}


# ------------------------------------------------------------------------------------------------ requests


@reads_request
def parse_request(body: JSON) -> LLMRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    messages = need(body, "messages", list)
    if not messages:
        raise InvokeBadRequestError("'messages' must hold at least one message", param="messages")
    parameters: dict[str, Any] = {}
    for theirs, (ours, kind, low, high) in _NUMBERS.items():
        if (value := may(body, theirs, kind)) is not None:
            if kind is not bool:
                in_range(value, low, high, theirs)
            parameters[ours] = body[theirs]
    if (form := may(body, "response_format", dict)) is not None:
        parameters["response_format"] = _parse_format(form)
    if (thinking := may(body, "thinking", dict)) is not None:
        budget = may(thinking, "token_budget", int, "thinking.")
        parameters["thinking_budget"] = 0 if thinking.get("type") == "disabled" else -1 if budget is None else budget
    strict = may(body, "strict_tools", bool)
    choice = may(body, "tool_choice", str)
    if choice not in (None, "REQUIRED", "NONE"):
        raise wrong("tool_choice", choice, "REQUIRED or NONE")
    seen: set[str] = set()
    return LLMRequest(
        format=FORMAT,
        messages=[_parse_message(one, f"messages[{place}]", seen) for place, one in enumerate(messages)],
        model_parameters=parameters,
        tools=[_parse_tool(one, f"tools[{i}]", strict) for i, one in enumerate(tools_of(body))],
        tool_choice={"REQUIRED": "required", "NONE": "none"}[choice] if choice else None,
        stop=may(body, "stop_sequences", list) or [],
        stream=may(body, "stream", bool) or False,
        extra=kept(FORMAT, {name: value for name, value in beyond(body, _KNOWN).items() if value is not None}),
    )


def _parse_format(form: JSON) -> JSON:
    schema = form.get("json_schema") or form.get("schema")
    if schema is None:
        return {"type": form.get("type") or "text"}
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": typed(schema, dict, "response_format.json_schema")},
    }


def _parse_tool(tool: Any, where: str, strict: bool | None) -> PromptMessageTool:
    function = need(typed(tool, dict, where), "function", dict, f"{where}.")
    return PromptMessageTool(
        name=need(function, "name", str, f"{where}.function."),
        description=may(function, "description", str, f"{where}.function.") or "",
        parameters=may(function, "parameters", dict, f"{where}.function.") or {},
        strict=strict,
    )


def _parse_message(message: Any, where: str, seen: set[str]) -> AnyPromptMessage:
    body = typed(message, dict, where)
    content = body.get("content")
    parts = _parse_content(content, f"{where}.content") if content is not None else []
    match body.get("role"):
        case "user":
            return UserPromptMessage(content=plain(parts))
        case "system":
            return SystemPromptMessage(content=plain(parts))
        case "assistant":
            said = _parse_assistant(body, parts)
            seen |= {call.id for call in said.tool_calls}
            return said
        case "tool":
            call = need(body, "tool_call_id", str, f"{where}.")
            if call not in seen:
                raise wrong(f"{where}.tool_call_id", call, "the id of a tool call in an assistant's message before it")
            return ToolPromptMessage(content=plain(parts), tool_call_id=call)
        case other:
            raise wrong(f"{where}.role", other, "user, assistant, system or tool")


def _parse_assistant(body: JSON, parts: list[PromptMessageContent]) -> AssistantPromptMessage:
    blocks: list[PromptMessageContent | ToolCall] = [*parts]
    if plan := body.get("tool_plan"):
        blocks.append(ThinkingPromptMessageContent(data=plan, origin=FORMAT, extra=_PLAN))
    blocks += [_parse_call(call) for call in body.get("tool_calls") or ()]
    if cited := [_parse_citation(one) for one in body.get("citations") or ()]:
        last = max((i for i, one in enumerate(blocks) if isinstance(one, TextPromptMessageContent)), default=None)
        if last is not None:
            blocks[last] = msgspec.structs.replace(blocks[last], citations=cited)
    return assistant_of(blocks)


def _parse_call(call: JSON) -> ToolCall:
    function = call.get("function") or {}
    named = ToolCallFunction(name=function.get("name") or "", arguments=as_text(function.get("arguments")))
    return ToolCall(id=call.get("id") or "", function=named)


def _parse_citation(one: JSON) -> Citation:
    source = next(iter(one.get("sources") or ()), {})
    document = source.get("document") or {}
    return Citation(
        url=str(document.get("url") or ""),
        title=str(document.get("title") or ""),
        quote=one.get("text") or "",
        start=count(one.get("start")),
        end=count(one.get("end")),
        extra={FORMAT: one},
    )


def _parse_content(content: Any, where: str) -> list[PromptMessageContent]:
    if isinstance(content, str):
        return [TextPromptMessageContent(data=content)]
    return [
        _parse_part(typed(one, dict, f"{where}[{i}]"), f"{where}[{i}]")
        for i, one in enumerate(typed(content, list, where))
    ]


def _parse_part(part: JSON, where: str) -> PromptMessageContent:
    match part.get("type"):
        case "text":
            return TextPromptMessageContent(data=need(part, "text", str, f"{where}."))
        case "thinking":
            return ThinkingPromptMessageContent(data=part.get("thinking") or "", origin=FORMAT)
        case "image_url":
            image = need(part, "image_url", dict, f"{where}.")
            url = need(image, "url", str, f"{where}.image_url.")
            fields = from_url(url, f"{where}.image_url.url", is_image=True)
            return ImagePromptMessageContent(**fields, detail=image.get("detail") or "")
        case str():
            return OpaquePromptMessageContent(format=FORMAT, data=part)
        case other:
            raise wrong(f"{where}.type", other, "text, image_url or document")


def dump_request(request: LLMRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    """The request as Cohere wants it. Quirks: `drop`."""
    given = request.model_parameters
    body: JSON = {"model": model, "messages": [_dump_message(one) for one in request.messages]}
    body |= {theirs: given[ours] for theirs, (ours, *_) in _NUMBERS.items() if ours in given}
    match given.get("response_format"):
        case {"type": "json_schema", "json_schema": form}:
            body["response_format"] = {"type": "json_object", "json_schema": form["schema"]}
        case {"type": kind}:
            body["response_format"] = {"type": kind}
        case _:
            pass
    effort, budget = given.get("reasoning_effort"), given.get("thinking_budget")
    if budget is None and effort is not None:
        budget = budget_of(effort, unknown=-1, most=31_000)
    if budget is not None:
        kind = "disabled" if budget == 0 else "enabled"
        body["thinking"] = {"type": kind, **({"token_budget": budget} if budget > 0 else {})}
    if request.tools:
        body["tools"] = [_dump_tool(tool) for tool in request.tools]
        if all(tool.strict for tool in request.tools):
            body["strict_tools"] = True
    if request.tool_choice == "none":
        body["tool_choice"] = "NONE"
    elif request.tool_choice is not None and request.tool_choice != "auto":
        body["tool_choice"] = "REQUIRED"
        if isinstance(request.tool_choice, dict):  # a choice among tools is made by showing no others
            names = request.tool_choice.get("allowed") or [request.tool_choice["name"]]
            body["tools"] = [_dump_tool(tool) for tool in request.tools if tool.name in names]
    if request.stop:
        body["stop_sequences"] = request.stop
    body["stream"] = request.stream
    body |= request.extra.get(FORMAT, {})
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    return body


def _dump_tool(tool: PromptMessageTool) -> JSON:
    if tool.type not in ("function", "custom"):
        raise InvokeBadRequestError(
            f"tool {tool.name!r} is run by another provider; Cohere cannot run it", param="tools"
        )
    function: JSON = {"name": tool.name, **compact(description=tool.description)}
    return {
        "type": "function",
        "function": {**function, "parameters": tool.parameters or {"type": "object", "properties": {}}},
    }


def _dump_message(message: AnyPromptMessage) -> JSON:
    if isinstance(message, AssistantPromptMessage):
        return {"role": "assistant", **_dump_assistant(message)}
    content = message.content if isinstance(message.content, str) else _dump_parts(message.parts)
    body: JSON = {"role": message.role.value, "content": content or ""}
    if isinstance(message, ToolPromptMessage):
        body["tool_call_id"] = message.tool_call_id
    return body


def _dump_parts(parts: Iterable[PromptMessageContent]) -> list[JSON]:
    result: list[JSON] = []
    for part in parts:
        match part:
            case TextPromptMessageContent():
                result.append({"type": "text", "text": part.data})
            case ThinkingPromptMessageContent() if part.data and not part.extra.get(FORMAT):
                result.append({"type": "thinking", "thinking": part.data})
            case ImagePromptMessageContent():
                image = {"url": part.data, **compact(detail=part.detail)}
                result.append({"type": "image_url", "image_url": image})
            case OpaquePromptMessageContent():
                result += [part.data] if part.format == FORMAT else []
            case ThinkingPromptMessageContent():
                pass
            case _:
                kind = type(part).__name__.removesuffix("PromptMessageContent").lower()
                raise InvokeBadRequestError(f"Cohere takes no {kind}; send text or images")
    return result


def _dump_assistant(message: AssistantPromptMessage) -> JSON:
    body: JSON = {}
    parts = list(message.parts)
    if message.reasoning_content:
        parts.insert(0, ThinkingPromptMessageContent(data=message.reasoning_content))
    if message.refusal:
        parts.append(TextPromptMessageContent(data=message.refusal))
    shown = [part for part in parts if not isinstance(part, ImagePromptMessageContent)]
    if content := _dump_parts(shown):
        body["content"] = content
    plans = [one.data for one in parts if isinstance(one, ThinkingPromptMessageContent) and one.extra.get(FORMAT)]
    if plans:
        body["tool_plan"] = "".join(plans)
    if message.tool_calls:
        body["tool_calls"] = [_dump_call(call) for call in message.tool_calls]
    cited = [one for part in parts if isinstance(part, TextPromptMessageContent) for one in part.citations]
    if cited:
        body["citations"] = [_dump_citation(one) for one in cited]
    return body


def _dump_call(call: ToolCall) -> JSON:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _dump_citation(one: Citation) -> JSON:
    if own := one.extra.get(FORMAT):
        return own
    document = {"id": one.url or one.title, "url": one.url, "title": one.title}
    source = {"type": "document", "id": one.url or one.title, "document": document}
    return {"start": one.start or 0, "end": one.end or 0, "text": one.quote, "sources": [source]}


# ------------------------------------------------------------------------------------------------ answers


def parse_usage(body: Any) -> LLMUsage | None:
    """Tokens as they were; `billed_units`, which leave out what Cohere put in itself, stay in `extra`."""
    if not isinstance(body, dict):
        return None
    tokens = body.get("tokens") or body.get("billed_units")
    if not isinstance(tokens, dict):
        return None
    return LLMUsage.of(
        counted(tokens, "input_tokens"),
        counted(tokens, "output_tokens"),
        cached_tokens=counted(body, "cached_tokens"),
        searches=counted(body, "billed_units", "search_units"),
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    tokens = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
    cached = {"cached_tokens": usage.cached_tokens} if usage.cached_tokens else {}
    return usage.extra.get(FORMAT) or {"billed_units": tokens, "tokens": tokens, **cached}


_REASONS = {
    "COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}  # fmt: skip
_STOPS = {
    "stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL", "content_filter": "ERROR_TOXIC",
    "pause": "COMPLETE",
}  # fmt: skip
_RESULT_KNOWN = frozenset({"id", "message", "finish_reason", "usage"})


def _parse_reason(own: str | None) -> tuple[str | None, JSON]:
    if own in ("ERROR", "TIMEOUT"):
        raise InvokeServerUnavailableError(f"the model ended with {own}")
    reason = _REASONS.get(own or "", own)
    return reason, {"finish_reason": own} if own and _STOPS.get(reason or "") != own else {}


@reads_answer
def parse_result(body: JSON, quirks: Mapping[str, Any] | None = None) -> LLMResult:
    """A whole answer. Raises InvokeError where it is none."""
    del quirks
    message = body.get("message")
    if not isinstance(message, dict):
        raise InvokeServerUnavailableError(
            f"the answer holds no message{': ' + message if isinstance(message, str) else ''}"
        )
    reason, rest = _parse_reason(body.get("finish_reason"))
    try:
        said = _parse_assistant(message, _parse_content(message.get("content") or [], "content"))
    except InvokeBadRequestError as error:
        raise InvokeServerUnavailableError(f"the answer cannot be read: {error}") from error
    return LLMResult(
        id=body.get("id") or "",
        choices=[LLMChoice(message=said, finish_reason=reason, extra=kept(FORMAT, rest))],
        usage=parse_usage(body.get("usage")) or LLMUsage(estimated=True),
        extra=kept(FORMAT, beyond(body, _RESULT_KNOWN)),
    )


def dump_result(result: LLMResult) -> JSON:
    choice = result.choices[0]
    return {
        "id": result.id,
        "finish_reason": _STOPS.get(choice.finish_reason or "stop", "COMPLETE"),
        "message": {"role": "assistant", **_dump_assistant(choice.message)},
        "usage": dump_usage(result.usage),
        **choice.extra.get(FORMAT, {}),
        **result.extra.get(FORMAT, {}),
    }


# ------------------------------------------------------------------------------------------------ streams


class StreamParser:
    """Events of a stream, one at a time, into chunks."""

    def __init__(self, quirks: Mapping[str, Any] | None = None) -> None:
        del quirks
        self._id = ""
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        delta = event.get("delta") or {}
        message = delta.get("message") or {}
        index = count(event.get("index")) or 0
        match event.get("type"):
            case "message-start":
                self._id = event.get("id") or ""
                return [LLMResultChunk(id=self._id)]
            case "content-start" | "content-delta":
                return self._on_content(message.get("content") or {}, index)
            case "tool-plan-delta":
                plan = ThinkingPromptMessageContent(
                    data=message.get("tool_plan") or "", index=-1, origin=FORMAT, extra=_PLAN
                )
                return self._chunk(message=AssistantPromptMessage(content=[plan]))
            case "tool-call-start" | "tool-call-delta":
                called = message.get("tool_calls") or {}
                function = called.get("function") or {}
                named = ToolCallFunction(name=function.get("name") or "", arguments=function.get("arguments") or "")
                call = ToolCall(id=called.get("id") or "", function=named, index=index)
                return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))
            case "citation-start":
                cited = [_parse_citation(message.get("citations") or {})]
                part = TextPromptMessageContent(data="", citations=cited, index=0)
                return self._chunk(message=AssistantPromptMessage(content=[part]))
            case "message-end":
                self._has_finished = True
                reason, rest = _parse_reason(delta.get("finish_reason"))
                usage = parse_usage(delta.get("usage"))
                return self._chunk(finish_reason=reason, usage=usage, extra=kept(FORMAT, rest))
            case _:
                return []

    def _chunk(self, **delta: Any) -> list[LLMResultChunk]:
        return [LLMResultChunk(id=self._id, delta=LLMResultChunkDelta(**delta))]

    def _on_content(self, content: JSON, index: int) -> list[LLMResultChunk]:
        part: PromptMessageContent | None = None
        if text := content.get("text"):
            part = TextPromptMessageContent(data=text, index=index)
        elif thinking := content.get("thinking"):
            part = ThinkingPromptMessageContent(data=thinking, index=index, origin=FORMAT)
        return self._chunk(message=AssistantPromptMessage(content=[part])) if part is not None else []

    def finish(self, *, done: bool) -> list[LLMResultChunk]:
        """The body has ended. A stream cut short must not look like a whole one."""
        if not done and not self._has_finished:
            raise InvokeServerUnavailableError("the stream broke off: no message-end came")
        return []


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    return parsed(StreamParser(), events)


class StreamDumper:
    """Chunks, one at a time, into events."""

    def __init__(self, *, response_id: str, model: str = "", created: int = 0) -> None:
        del model, created
        self._id = response_id
        self._has_begun = False
        self._open: tuple[str, Any] | None = None
        self._number = -1
        self._usage: LLMUsage | None = None
        self._end: JSON = {"finish_reason": "COMPLETE"}
        self._calls: dict[int, list[ToolCall]] = {}

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        if delta.index:
            return []  # one answer alone has a place here
        events: list[JSON] = []
        if not self._has_begun:
            self._has_begun = True
            message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
            events.append({"type": "message-start", "id": self._id, "delta": {"message": message}})
        for place, block in enumerate(delta.message.blocks):
            if isinstance(block, ToolCall):
                self._calls.setdefault(place if block.index is None else block.index, []).append(block)
            else:
                events += self._block(block)
        if delta.message.refusal:
            events += self._content("text", "refusal", delta.message.refusal)
        if delta.finish_reason:
            self._end = {"finish_reason": _STOPS.get(delta.finish_reason, "COMPLETE"), **delta.extra.get(FORMAT, {})}
        return events

    def _block(self, block: PromptMessageContent) -> list[JSON]:
        match block:
            case TextPromptMessageContent():
                events = self._content("text", block.index, block.data) if block.data else []
                for place, one in enumerate(block.citations):
                    message = {"message": {"citations": _dump_citation(one)}}
                    events += [
                        {"type": "citation-start", "index": place, "delta": message},
                        {"type": "citation-end", "index": place},
                    ]
                return events
            case ThinkingPromptMessageContent() if block.extra.get(FORMAT):
                return [{"type": "tool-plan-delta", "delta": {"message": {"tool_plan": block.data}}}]
            case ThinkingPromptMessageContent() if block.data:
                return self._content("thinking", block.index, block.data)
            case _:
                return []

    def _content(self, kind: str, index: Any, text: str) -> list[JSON]:
        events: list[JSON] = []
        if self._open != (kind, index):
            events += self._closed()
            self._open, self._number = (kind, index), self._number + 1
            start = {"message": {"content": {"type": kind, kind: ""}}}
            events.append({"type": "content-start", "index": self._number, "delta": start})
        delta = {"message": {"content": {kind: text}}}
        return [*events, {"type": "content-delta", "index": self._number, "delta": delta}]

    def _closed(self) -> list[JSON]:
        if self._open is None:
            return []
        self._open = None
        return [{"type": "content-end", "index": self._number}]

    def finish(self) -> list[JSON]:
        events = self._closed()
        for place, pieces in enumerate(self._calls.values()):
            first = pieces[0]
            start = {"id": first.id, "type": "function", "function": {"name": first.function.name, "arguments": ""}}
            text = "".join(piece.function.arguments for piece in pieces)
            delta = {"function": {"arguments": text}}
            events += [
                {"type": "tool-call-start", "index": place, "delta": {"message": {"tool_calls": start}}},
                {"type": "tool-call-delta", "index": place, "delta": {"message": {"tool_calls": delta}}},
                {"type": "tool-call-end", "index": place},
            ]
        end = {**self._end, "usage": dump_usage(self._usage or LLMUsage())}
        return [*events, {"type": "message-end", "delta": end}]


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    return dumped(chunks, StreamDumper)


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    del status
    return {**compact(id=request_id), "message": message}
