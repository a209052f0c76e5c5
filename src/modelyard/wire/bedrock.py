"""AWS Bedrock Converse and its stream <-> our types. Pure: no network, no clock.

An event is an object with one field, its name: `{"contentBlockDelta": {…}}`. Their binary frames are
`transport/aws_events.py`'s.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeError, InvokeServerUnavailableError, kind_of_error
from modelyard.base.fields import beyond, compact, count, counted, in_range, kept, may, need, tools_of, typed, wrong
from modelyard.base.shapes import reads_answer, reads_request
from modelyard.models.arguments import as_object, as_text
from modelyard.models.llm import LLMChoice, LLMRequest, LLMResult, LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.media import checked_base64, checked_image, format_of, mime_of
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
    plain,
)
from modelyard.models.reasoning import budget_of
from modelyard.models.streams import parsed
from modelyard.models.types import JSON

FORMAT = "bedrock"

_KNOWN = frozenset({
    "messages", "system", "inferenceConfig", "toolConfig", "modelId", "model", "stream", "outputConfig",
    "additionalModelRequestFields",
})  # fmt: skip
PARAMETERS = {"stop"} | frozenset({
    "max_tokens", "temperature", "top_p", "top_k", "thinking_budget", "reasoning_effort", "include_thoughts",
    "response_format",
})  # fmt: skip
_CACHE = {"type": "ephemeral"}
_FILES: dict[str, type[FilePromptMessageContent]] = {
    "image": ImagePromptMessageContent,
    "document": DocumentPromptMessageContent,
    "video": VideoPromptMessageContent,
    "audio": AudioPromptMessageContent,
}


# ------------------------------------------------------------------------------------------------ requests


@reads_request
def parse_request(body: JSON, *, stream: bool = False) -> LLMRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    turns = need(body, "messages", list)
    if not turns:
        raise InvokeBadRequestError("'messages' must hold at least one message", param="messages")
    messages: list[AnyPromptMessage] = []
    if system := may(body, "system", list):
        messages.append(SystemPromptMessage(content=plain(_parse_blocks(system, "system"))))
    seen: set[str] = set()
    for place, turn in enumerate(turns):
        messages += _parse_turn(typed(turn, dict, f"messages[{place}]"), f"messages[{place}]", seen)
    config = may(body, "inferenceConfig", dict) or {}
    parameters: dict[str, Any] = {}
    for theirs, ours, kind, high in (
        ("maxTokens", "max_tokens", int, 1 << 31),
        ("temperature", "temperature", float, 1),
        ("topP", "top_p", float, 1),
    ):
        if may(config, theirs, kind, "inferenceConfig.") is not None:
            in_range(config[theirs], 0, high, f"inferenceConfig.{theirs}")
            parameters[ours] = config[theirs]
    if form := ((may(body, "outputConfig", dict) or {}).get("textFormat") or {}).get("structure"):
        schema = form["jsonSchema"]
        inner = {**beyond(schema, frozenset({"schema"})), "schema": as_object(schema["schema"])}
        parameters["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", **inner}}
    more = dict(may(body, "additionalModelRequestFields", dict) or {})
    if (top_k := may(more, "top_k", int, "additionalModelRequestFields.")) is not None:
        parameters["top_k"] = more.pop("top_k")
        in_range(top_k, 0, 1 << 31, "additionalModelRequestFields.top_k")
    tools = may(body, "toolConfig", dict) or {}
    return LLMRequest(
        format=FORMAT,
        messages=messages,
        model_parameters=parameters,
        tools=list(_parse_tools(tools_of(tools, where="toolConfig."))),
        tool_choice=_parse_tool_choice(tools.get("toolChoice")),
        stop=may(config, "stopSequences", list, "inferenceConfig.") or [],
        stream=stream,
        extra=kept(FORMAT, beyond(body, _KNOWN) | ({"additionalModelRequestFields": more} if more else {})),
    )


def _parse_tools(tools: Iterable[Any]) -> Iterator[PromptMessageTool]:
    made: list[PromptMessageTool] = []
    for place, one in enumerate(tools):
        where = f"toolConfig.tools[{place}]"
        body = typed(one, dict, where)
        if "cachePoint" in body and made:
            made[-1] = msgspec.structs.replace(made[-1], cache_control=_CACHE)
            continue
        if "toolSpec" not in body:
            kind = next(iter(body), "tool")
            made.append(PromptMessageTool(name=kind, type=kind, extra={FORMAT: body}))
            continue
        spec = need(body, "toolSpec", dict, f"{where}.")
        tool = PromptMessageTool(
            name=need(spec, "name", str, f"{where}.toolSpec."),
            description=may(spec, "description", str, f"{where}.toolSpec.") or "",
            parameters=(may(spec, "inputSchema", dict, f"{where}.toolSpec.") or {}).get("json") or {},
            strict=may(spec, "strict", bool, f"{where}.toolSpec."),
        )
        made.append(tool)
    yield from made


def _parse_tool_choice(choice: Any) -> str | dict[str, Any] | None:
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
            raise wrong("toolConfig.toolChoice", other, "an object with auto, any or tool")


def _parse_turn(turn: JSON, where: str, seen: set[str]) -> Iterator[AnyPromptMessage]:
    role = turn.get("role")
    blocks = need(turn, "content", list, f"{where}.")
    if (text := _only_text(blocks)) and role in ("user", "assistant"):  # as most turns are
        yield UserPromptMessage(content=text) if role == "user" else AssistantPromptMessage(content=text)
        return
    if role == "assistant":
        parsed = _parse_answer(blocks, f"{where}.content", "")
        seen |= {one.id for one in parsed if isinstance(one, ToolCall)}
        yield assistant_of(parsed)
        return
    if role != "user":
        raise wrong(f"{where}.role", role, "user or assistant")
    waiting: list[Any] = []
    for place, block in enumerate(blocks):
        if "toolResult" not in typed(block, dict, f"{where}.content[{place}]"):
            waiting.append(block)
            continue
        if waiting:
            yield UserPromptMessage(content=plain(_parse_blocks(waiting, f"{where}.content")))
            waiting = []
        yield _parse_tool_result(block["toolResult"], f"{where}.content[{place}].toolResult", seen)
    if waiting:
        yield UserPromptMessage(content=plain(_parse_blocks(waiting, f"{where}.content")))


def _only_text(blocks: list[Any]) -> str | None:
    """The text of a turn that is a text and nothing more."""
    if len(blocks) != 1 or not isinstance(blocks[0], dict) or blocks[0].keys() != {"text"}:
        return None
    text = blocks[0]["text"]
    return text if isinstance(text, str) else None


def _parse_tool_result(body: Any, where: str, seen: set[str]) -> ToolPromptMessage:
    result = typed(body, dict, where)
    call = need(result, "toolUseId", str, f"{where}.")
    if call not in seen:
        raise wrong(f"{where}.toolUseId", call, "the id of a toolUse in an assistant's message before it")
    content = plain(_parse_blocks(may(result, "content", list, f"{where}.") or [], f"{where}.content"))
    is_error = result.get("status") == "error"
    return ToolPromptMessage(content=content, tool_call_id=call, is_error=is_error)


def _parse_blocks(blocks: Iterable[Any], where: str) -> list[PromptMessageContent]:
    parts: list[PromptMessageContent] = []
    for place, block in enumerate(blocks):
        body = typed(block, dict, f"{where}[{place}]")
        if "cachePoint" in body and parts:
            rest = beyond(body["cachePoint"], frozenset({"type"}))
            parts[-1] = msgspec.structs.replace(parts[-1], cache_control={**_CACHE, **rest})
        else:
            parts.append(_parse_block(body, f"{where}[{place}]"))
    return parts


def _parse_block(block: JSON, where: str) -> PromptMessageContent:
    if "text" in block:
        return TextPromptMessageContent(data=typed(block["text"], str, f"{where}.text"))
    if "json" in block:
        return TextPromptMessageContent(data=as_text(block["json"]), extra={FORMAT: {"json": True}})
    kind = next((name for name in _FILES if name in block), None)
    if kind is None:
        return OpaquePromptMessageContent(format=FORMAT, data=block)
    file = typed(block[kind], dict, f"{where}.{kind}")
    form = may(file, "format", str, f"{where}.{kind}.") or ""
    source = need(file, "source", dict, f"{where}.{kind}.")
    rest = beyond(file, frozenset({"format", "source", "name"}))
    fields: JSON = {"format": form, "mime_type": mime_of(form, kind), "filename": file.get("name") or ""}
    if isinstance(data := source.get("bytes"), str):
        check = checked_image if kind == "image" else checked_base64
        return _FILES[kind](base64_data=check(data, f"{where}.{kind}.source.bytes"), **fields, extra=kept(FORMAT, rest))
    address = (source.get("s3Location") or {}).get("uri") or ""
    own = rest if address else {**rest, "source": source}
    return _FILES[kind](url=address, **fields, extra=kept(FORMAT, own))


def _parse_answer(blocks: Iterable[Any], where: str, origin: str) -> list[PromptMessageContent | ToolCall]:
    """The blocks of a model's turn."""
    result: list[PromptMessageContent | ToolCall] = []
    for place, block in enumerate(blocks):
        here = f"{where}[{place}]"
        body = typed(block, dict, here)
        if "toolUse" in body and body["toolUse"].get("type") != "server_tool_use":
            used = typed(body["toolUse"], dict, f"{here}.toolUse")
            rest = beyond(used, frozenset({"toolUseId", "name", "input"}))
            function = ToolCallFunction(
                name=need(used, "name", str, f"{here}.toolUse."), arguments=as_text(used.get("input"))
            )
            result.append(ToolCall(id=used.get("toolUseId") or "", function=function, extra=kept(FORMAT, rest)))
        elif "reasoningContent" in body:
            result.append(_parse_thought(typed(body["reasoningContent"], dict, here), origin))
        elif "citationsContent" in body:
            result.append(_parse_cited(body["citationsContent"]))
        elif "cachePoint" in body and result and not isinstance(result[-1], ToolCall):
            result[-1] = msgspec.structs.replace(result[-1], cache_control=_CACHE)
        else:
            result.append(_parse_block(body, here))
    return result


def _parse_thought(body: JSON, origin: str) -> ThinkingPromptMessageContent:
    if "redactedContent" in body:
        return ThinkingPromptMessageContent(signature=body["redactedContent"] or "", redacted=True, origin=origin)
    said = body.get("reasoningText") or {}
    return ThinkingPromptMessageContent(
        data=said.get("text") or "", signature=said.get("signature") or "", origin=origin
    )


def _parse_cited(body: JSON) -> TextPromptMessageContent:
    text = "".join(one.get("text") or "" for one in body.get("content") or ())
    return TextPromptMessageContent(data=text, citations=[_parse_citation(one) for one in body.get("citations") or ()])


def _parse_citation(one: JSON) -> Citation:
    quote = "".join(part.get("text") or "" for part in one.get("sourceContent") or ())
    url = ((one.get("location") or {}).get("web") or {}).get("url") or ""
    return Citation(url=url, title=one.get("title") or "", quote=quote, extra={FORMAT: one})


def dump_request(request: LLMRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    """The request as Bedrock wants it; the model stands in its address. Quirks: `drop` (of inferenceConfig)."""
    given = request.model_parameters
    system, turns = _dump_messages(request.messages)
    body: JSON = {"messages": turns}
    if system:
        body["system"] = system
    config: JSON = {}
    for ours, theirs in (("max_tokens", "maxTokens"), ("temperature", "temperature"), ("top_p", "topP")):
        if ours in given:
            config[theirs] = given[ours]
    if request.stop:
        config["stopSequences"] = request.stop
    for name in quirks.get("drop", ()):
        config.pop(name, None)
    if config:
        body["inferenceConfig"] = config
    if tools := _dump_tools(request):
        body["toolConfig"] = tools
    if (form := given.get("response_format")) and form.get("type") == "json_schema":
        body["outputConfig"] = {"textFormat": _dump_format(form["json_schema"])}
    if more := _dump_more(given, model):
        body["additionalModelRequestFields"] = more
    for name, value in request.extra.get(FORMAT, {}).items():
        both = isinstance(value, dict) and isinstance(body.get(name), dict)
        body[name] = {**body[name], **value} if both else value
    return body


def _dump_format(form: JSON) -> JSON:
    schema = {"name": form.get("name") or "answer", **compact(description=form.get("description"))}
    return {"type": "json_schema", "structure": {"jsonSchema": {**schema, "schema": as_text(form["schema"])}}}


def _dump_more(given: Mapping[str, Any], model: str) -> JSON:
    """What Converse itself has no field for, in the words of the model's maker."""
    more: JSON = {}
    if "top_k" in given:
        more["top_k"] = given["top_k"]
    effort, budget = given.get("reasoning_effort"), given.get("thinking_budget")
    if effort is None and budget is None:
        return more
    if "anthropic" not in model:
        return more | ({"reasoning_effort": effort} if effort else {})
    if budget is None:
        budget = budget_of(effort or "", least=1024)
    thinking = (
        {"type": "enabled", "budget_tokens": budget}
        if budget > 0
        else {"type": "disabled" if budget == 0 else "adaptive"}
    )
    return {**more, "thinking": thinking}


def _dump_tools(request: LLMRequest) -> JSON:
    if not request.tools or request.tool_choice == "none":
        return {}
    tools: list[JSON] = []
    for tool in request.tools:
        if tool.type not in ("function", "custom"):
            if FORMAT not in tool.extra:
                raise InvokeBadRequestError(f"tool {tool.name!r} is run by another provider; Bedrock cannot run it")
            tools.append(tool.extra[FORMAT])
            continue
        spec: JSON = {"name": tool.name, **compact(description=tool.description, strict=tool.strict)}
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


def _dump_messages(messages: Iterable[AnyPromptMessage]) -> tuple[list[JSON], list[JSON]]:
    system: list[JSON] = []
    turns: list[JSON] = []
    for message in messages:
        match message:
            case SystemPromptMessage():
                system += _dump_parts(message.parts)
                continue
            case AssistantPromptMessage():
                role, blocks = "assistant", _dump_blocks(_history(message))
            case ToolPromptMessage():
                role, blocks = "user", [_dump_tool_result(message)]
            case UserPromptMessage():
                role, blocks = "user", _dump_parts(message.parts)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return system, turns


def _history(message: AssistantPromptMessage) -> Iterator[PromptMessageContent | ToolCall]:
    blocks = message.blocks if message.reasoning_content is None else [*message.parts, *message.tool_calls]
    for block in blocks:
        if not isinstance(block, ThinkingPromptMessageContent) or block.origin in ("", FORMAT, "anthropic"):
            yield block
    if message.refusal:
        yield TextPromptMessageContent(data=message.refusal)


def _dump_tool_result(message: ToolPromptMessage) -> JSON:
    content = _dump_parts(message.parts) or [{"text": "(empty)"}]
    status = {"status": "error"} if message.is_error else {}
    return {"toolResult": {"toolUseId": message.tool_call_id, "content": content, **status}}


def _dump_blocks(blocks: Iterable[PromptMessageContent | ToolCall]) -> list[JSON]:
    result: list[JSON] = []
    for block in blocks:
        if isinstance(block, ToolCall):
            used = {"toolUseId": block.id, "name": block.function.name, "input": as_object(block.function.arguments)}
            result.append({"toolUse": used | block.extra.get(FORMAT, {})})
        else:
            result += _dump_parts([block])
    return result


def _dump_parts(parts: Iterable[PromptMessageContent]) -> list[JSON]:
    result: list[JSON] = []
    for part in parts:
        if (body := _dump_part(part)) is None:
            continue
        result.append(body)
        if part.cache_control:
            result.append({"cachePoint": {"type": "default", **beyond(part.cache_control, frozenset({"type"}))}})
    return result


def _dump_part(part: PromptMessageContent) -> JSON | None:
    match part:
        case TextPromptMessageContent() if part.extra.get(FORMAT, {}).get("json"):
            return {"json": as_object(part.data)}
        case TextPromptMessageContent() if part.citations:
            cited = [_dump_citation(one) for one in part.citations]
            return {"citationsContent": {"content": [{"text": part.data}], "citations": cited}}
        case TextPromptMessageContent():
            return {"text": part.data} if part.data else None
        case ThinkingPromptMessageContent() if part.redacted:
            return {"reasoningContent": {"redactedContent": part.signature}}
        case ThinkingPromptMessageContent():
            return {"reasoningContent": {"reasoningText": {"text": part.data, **compact(signature=part.signature)}}}
        case OpaquePromptMessageContent():
            return part.data if part.format == FORMAT else None
        case _:
            return _dump_file(part)


def _dump_file(part: MultiModalPromptMessageContent) -> JSON:
    kind = next(name for name, made in _FILES.items() if isinstance(part, made))
    own = part.extra.get(FORMAT, {})
    if part.url.startswith("s3://"):
        source: JSON = {"s3Location": {"uri": part.url}}
    elif part.base64_data:
        source = {"bytes": part.base64_data}
    elif "source" in own:
        source = own["source"]
    else:
        raise InvokeBadRequestError(
            f"Bedrock fetches no {kind} from {part.url[:60]!r}; send its bytes, or an s3:// address"
        )
    body: JSON = {"format": part.format or format_of(part.mime_type)}
    if kind == "document":
        # Letters, digits, spaces, hyphens and brackets are all that a name may hold.
        name = "".join(one if one.isalnum() or one in " -()[]" else "-" for one in part.filename)
        body["name"] = name or "document"
    return {kind: {**body, "source": source, **{name: value for name, value in own.items() if name != "source"}}}


def _dump_citation(one: Citation) -> JSON:
    where = {"location": {"web": {"url": one.url}}} if one.url else {}
    quote = {"sourceContent": [{"text": one.quote}]} if one.quote else {}
    return one.extra.get(FORMAT) or {**compact(title=one.title), **quote, **where}


# ------------------------------------------------------------------------------------------------ answers


def parse_usage(body: Any) -> LLMUsage | None:
    """`inputTokens` leaves cached tokens out; ours counts them."""
    if not isinstance(body, dict) or count(body.get("inputTokens")) is None:
        return None
    read, write = counted(body, "cacheReadInputTokens"), counted(body, "cacheWriteInputTokens")
    prompt, completion = counted(body, "inputTokens") + read + write, counted(body, "outputTokens")
    return LLMUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        cached_tokens=read,
        cache_write_tokens=write,
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    fresh = max(0, usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens)
    return usage.extra.get(FORMAT) or {
        "inputTokens": fresh,
        "outputTokens": usage.completion_tokens,
        "totalTokens": usage.total_tokens,
        "cacheReadInputTokens": usage.cached_tokens,
        "cacheWriteInputTokens": usage.cache_write_tokens,
    }


_REASONS = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length",
    "tool_use": "tool_calls", "guardrail_intervened": "content_filter", "content_filtered": "content_filter",
    "pause_turn": "pause",
}  # fmt: skip
_STOPS = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "content_filtered",
    "pause": "end_turn",
}  # fmt: skip
_RESULT_KNOWN = frozenset({"output", "stopReason", "usage"})


def _parse_reason(own: str | None) -> tuple[str | None, JSON]:
    if not own:
        return None, {}
    reason = _REASONS.get(own, "stop")
    return reason, {"stopReason": own} if _STOPS[reason] != own else {}


@reads_answer
def parse_result(body: JSON, quirks: Mapping[str, Any] | None = None) -> LLMResult:
    """A whole answer. Raises InvokeError where it is none."""
    del quirks
    message = (body.get("output") or {}).get("message")
    if not isinstance(message, dict):
        raise InvokeServerUnavailableError("the answer holds no message")
    try:
        said = assistant_of(_parse_answer(message.get("content") or (), "content", FORMAT))
    except InvokeBadRequestError as error:
        raise InvokeServerUnavailableError(f"the answer cannot be read: {error}") from error
    reason, rest = _parse_reason(body.get("stopReason"))
    return LLMResult(
        choices=[LLMChoice(message=said, finish_reason=reason, extra=kept(FORMAT, rest))],
        usage=parse_usage(body.get("usage")) or LLMUsage(estimated=True),
        extra=kept(FORMAT, beyond(body, _RESULT_KNOWN)),
    )


def dump_result(result: LLMResult) -> JSON:
    choice = result.choices[0]
    blocks = list(choice.message.blocks)
    if choice.message.refusal:
        blocks.append(TextPromptMessageContent(data=choice.message.refusal))
    return {
        "output": {"message": {"role": "assistant", "content": _dump_blocks(_showable(blocks))}},
        "stopReason": _STOPS.get(choice.finish_reason or "stop", "end_turn"),
        "usage": dump_usage(result.usage),
        "metrics": {"latencyMs": round(result.usage.latency * 1000)},
        **choice.extra.get(FORMAT, {}),
        **result.extra.get(FORMAT, {}),
    }


def _showable(blocks: Iterable[PromptMessageContent | ToolCall]) -> Iterator[PromptMessageContent | ToolCall]:
    for block in blocks:
        if not isinstance(block, MultiModalPromptMessageContent) or block.base64_data:
            yield block


# ------------------------------------------------------------------------------------------------ streams


class StreamParser:
    """Events of a stream, one at a time, into chunks."""

    def __init__(self, quirks: Mapping[str, Any] | None = None) -> None:
        del quirks
        self._calls: dict[int, int] = {}
        self._server: dict[int, JSON] = {}
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        for name, body in event.items():
            if name.endswith("Exception"):
                raise error_of(name, body)
            index = count(body.get("contentBlockIndex")) or 0 if isinstance(body, dict) else 0
            match name:
                case "contentBlockStart":
                    return self._on_start(body.get("start") or {}, index)
                case "contentBlockDelta":
                    return self._on_delta(body.get("delta") or {}, index)
                case "contentBlockStop" if index in self._server:
                    return self._part(OpaquePromptMessageContent(format=FORMAT, data=self._server.pop(index)))
                case "messageStop":
                    self._has_finished = True
                    reason, rest = _parse_reason(body.get("stopReason"))
                    rest |= beyond(body, frozenset({"stopReason", "p"}))
                    return self._chunk(finish_reason=reason, extra=kept(FORMAT, rest))
                case "metadata":
                    rest = kept(FORMAT, beyond(body, frozenset({"usage", "p"})))
                    delta = LLMResultChunkDelta(usage=parse_usage(body.get("usage")))
                    return [LLMResultChunk(delta=delta, extra=rest)]
                case _:
                    pass
        return []

    def finish(self, *, done: bool) -> list[LLMResultChunk]:
        """The body has ended. A stream cut short must not look like a whole one."""
        if not done and not self._has_finished:
            raise InvokeServerUnavailableError("the stream broke off: no messageStop came")
        return []

    @staticmethod
    def _chunk(**delta: Any) -> list[LLMResultChunk]:
        return [LLMResultChunk(delta=LLMResultChunkDelta(**delta))]

    def _part(self, part: PromptMessageContent) -> list[LLMResultChunk]:
        return self._chunk(message=AssistantPromptMessage(content=[part]))

    def _on_start(self, start: JSON, index: int) -> list[LLMResultChunk]:
        used = start.get("toolUse")
        if not isinstance(used, dict):
            return []
        if used.get("type") == "server_tool_use":
            self._server[index] = {"toolUse": {**used, "input": ""}}
            return []
        self._calls[index] = len(self._calls)
        rest = kept(FORMAT, beyond(used, frozenset({"toolUseId", "name"})))
        function = ToolCallFunction(name=used.get("name") or "")
        call = ToolCall(id=used.get("toolUseId") or "", function=function, index=self._calls[index], extra=rest)
        return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))

    def _on_delta(self, delta: JSON, index: int) -> list[LLMResultChunk]:
        if "text" in delta:
            return self._part(TextPromptMessageContent(data=delta["text"], index=index))
        if "toolUse" in delta:
            piece = delta["toolUse"].get("input") or ""
            if index in self._server:
                self._server[index]["toolUse"]["input"] += piece
                return []
            call = ToolCall(function=ToolCallFunction(arguments=piece), index=self._calls.get(index, 0))
            return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))
        if "reasoningContent" in delta:
            body = delta["reasoningContent"]
            if "redactedContent" in body:
                hidden = ThinkingPromptMessageContent(
                    signature=body["redactedContent"], redacted=True, index=index, origin=FORMAT
                )
                return self._part(hidden)
            thought = ThinkingPromptMessageContent(
                data=body.get("text") or "", signature=body.get("signature") or "", index=index, origin=FORMAT
            )
            return self._part(thought)
        if "citation" in delta:
            cited = [_parse_citation(delta["citation"])]
            return self._part(TextPromptMessageContent(data="", citations=cited, index=index))
        return []


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    return parsed(StreamParser(), events)


class StreamDumper:
    """Chunks, one at a time, into events."""

    def __init__(self, *, response_id: str = "", model: str = "", created: int = 0) -> None:
        del response_id, model, created
        self._has_begun = False
        self._open: tuple[str, Any] | None = None
        self._number = -1
        self._usage: LLMUsage | None = None
        self._stop: JSON = {"stopReason": "end_turn"}
        self._extra: JSON = {}
        self._calls: dict[int, list[ToolCall]] = {}

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        if delta.index:
            return []  # one answer alone has a place here
        events: list[JSON] = []
        if not self._has_begun:
            self._has_begun = True
            events.append({"messageStart": {"role": "assistant"}})
        for place, block in enumerate(delta.message.blocks):
            if isinstance(block, ToolCall):
                self._calls.setdefault(place if block.index is None else block.index, []).append(block)
            else:
                events += self._block(block)
        if delta.message.refusal:
            events += self._delta(("text", "refusal"), {"text": delta.message.refusal})
        if delta.finish_reason:
            own = delta.extra.get(FORMAT, {})
            self._stop = {"stopReason": _STOPS.get(delta.finish_reason, "end_turn"), **own}
        self._extra |= chunk.extra.get(FORMAT, {})
        return events

    def _block(self, block: PromptMessageContent) -> list[JSON]:
        match block:
            case TextPromptMessageContent():
                key = ("text", block.index)
                events = self._delta(key, {"text": block.data}) if block.data else []
                for one in block.citations:
                    events += self._delta(key, {"citation": _dump_citation(one)})
                return events
            case ThinkingPromptMessageContent() if block.redacted:
                return self._delta(
                    ("thinking", block.index), {"reasoningContent": {"redactedContent": block.signature}}
                )
            case ThinkingPromptMessageContent():
                said = compact(text=block.data), compact(signature=block.signature)
                key = ("thinking", block.index)
                return [event for one in said if one for event in self._delta(key, {"reasoningContent": one})]
            case _:
                return []

    def _delta(self, key: tuple[str, Any], delta: JSON) -> list[JSON]:
        events: list[JSON] = []
        if self._open != key:
            events += self._closed()
            self._open, self._number = key, self._number + 1
        return [*events, {"contentBlockDelta": {"contentBlockIndex": self._number, "delta": delta}}]

    def _closed(self) -> list[JSON]:
        if self._open is None:
            return []
        self._open = None
        return [{"contentBlockStop": {"contentBlockIndex": self._number}}]

    def finish(self) -> list[JSON]:
        events = self._closed()
        for pieces in self._calls.values():
            self._number += 1
            used = {"toolUseId": pieces[0].id, "name": pieces[0].function.name, **pieces[0].extra.get(FORMAT, {})}
            events.append({"contentBlockStart": {"contentBlockIndex": self._number, "start": {"toolUse": used}}})
            text = "".join(piece.function.arguments for piece in pieces)
            delta = {"toolUse": {"input": text}}
            events.append({"contentBlockDelta": {"contentBlockIndex": self._number, "delta": delta}})
            events.append({"contentBlockStop": {"contentBlockIndex": self._number}})
        events.append({"messageStop": self._stop})
        usage = dump_usage(self._usage or LLMUsage())
        events.append({"metadata": {"usage": usage, "metrics": {"latencyMs": 0}, **self._extra}})
        return events


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    dumper = StreamDumper()
    for chunk in chunks:
        yield from dumper.feed(chunk)
    yield from dumper.finish()


# ------------------------------------------------------------------------------------------------ errors


def error_of(name: str, body: Any) -> InvokeError:
    """An exception in the middle of a stream, by its name."""
    word = name[:1].upper() + name[1:]
    message = body.get("message") if isinstance(body, dict) else None
    return kind_of_error(None, word)(str(message or word))


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    del status, request_id
    return {"message": message}
