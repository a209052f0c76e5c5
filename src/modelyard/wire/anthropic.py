"""Anthropic Messages <-> our types, with count_tokens. Pure: no network, no clock."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeError, InvokeServerUnavailableError, kind_of_error
from modelyard.base.fields import (
    beyond,
    compact,
    count,
    counted,
    in_range,
    kept,
    may,
    need,
    said,
    tools_of,
    typed,
    wrong,
)
from modelyard.base.shapes import reads_answer, reads_request
from modelyard.models.arguments import as_object, as_text
from modelyard.models.llm import LLMChoice, LLMRequest, LLMResult, LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.media import checked_base64, checked_image, mime_of, part_of
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
    plain,
)
from modelyard.models.reasoning import budget_of
from modelyard.models.streams import dumped, parsed
from modelyard.models.types import JSON

FORMAT = "anthropic"
DEFAULT_MAX_TOKENS = 8192
"""What a request gets that names no limit: this format must have one."""

_KNOWN = frozenset({
    "model", "messages", "system", "max_tokens", "temperature", "top_p", "top_k", "stop_sequences", "stream", "tools",
    "tool_choice", "thinking", "metadata", "output_format", "output_config", "service_tier",
})  # fmt: skip
PARAMETERS = {"stop"} | frozenset({
    "max_tokens", "temperature", "top_p", "top_k", "thinking_budget", "reasoning_effort", "response_format",
    "parallel_tool_calls", "service_tier", "include_thoughts",
})  # fmt: skip


# ------------------------------------------------------------------------------------------------ requests


@reads_request
def parse_request(body: JSON, *, is_count: bool = False) -> LLMRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    turns = need(body, "messages", list)
    if not turns:
        raise InvokeBadRequestError("'messages' must hold at least one message", param="messages")
    messages: list[AnyPromptMessage] = []
    if system := body.get("system"):
        messages.append(SystemPromptMessage(content=plain(_parse_texts(system, "system"))))
    seen: set[str] = set()
    for place, turn in enumerate(turns):
        messages += _parse_turn(turn, f"messages[{place}]", seen)
    choice, parallel = _parse_tool_choice(body.get("tool_choice"))
    parameters, rest = _parse_parameters(body, is_count=is_count)
    if parallel is not None:
        parameters["parallel_tool_calls"] = parallel
    metadata = may(body, "metadata", dict) or {}
    if metadata.keys() - {"user_id"}:
        rest["metadata"] = metadata
    return LLMRequest(
        format=FORMAT,
        messages=messages,
        model_parameters=parameters,
        tools=[_parse_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools_of(body))],
        tool_choice=choice,
        stop=[
            typed(word, str, f"stop_sequences[{i}]") for i, word in enumerate(may(body, "stop_sequences", list) or ())
        ],
        stream=may(body, "stream", bool) or False,
        user=may(metadata, "user_id", str, "metadata."),
        extra=kept(FORMAT, rest | beyond(body, _KNOWN)),
    )


def _parse_parameters(body: JSON, *, is_count: bool) -> tuple[dict[str, Any], JSON]:
    """Parameters by their usual names, and what of them only this format says."""
    parameters: dict[str, Any] = {}
    rest: JSON = {}
    if not is_count:
        parameters["max_tokens"] = need(body, "max_tokens", int)
        in_range(parameters["max_tokens"], 1, 1 << 31, "max_tokens")
    for name, low, high in (("temperature", 0, 1), ("top_p", 0, 1)):
        if (value := may(body, name, float)) is not None:
            in_range(value, low, high, name)
            parameters[name] = body[name]
    if (top_k := may(body, "top_k", int)) is not None:
        parameters["top_k"] = top_k
    if tier := may(body, "service_tier", str):
        parameters["service_tier"] = tier
    if (thinking := may(body, "thinking", dict)) is not None:
        kind = need(thinking, "type", str, "thinking.")
        budget = may(thinking, "budget_tokens", int, "thinking.")
        parameters["thinking_budget"] = 0 if kind == "disabled" else -1 if budget is None else budget
        if _dump_thinking(parameters["thinking_budget"]) != thinking:
            rest["thinking"] = thinking
    config = dict(may(body, "output_config", dict) or {})
    form = config.pop("format", None) or body.get("output_format")
    if form is not None:
        schema = need(typed(form, dict, "output_config.format"), "schema", dict, "output_config.format.")
        parameters["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    if effort := config.pop("effort", None):
        parameters["reasoning_effort"] = effort
    if config:
        rest["output_config"] = config
    return parameters, rest


def _parse_tool_choice(value: Any) -> tuple[str | dict[str, Any] | None, bool | None]:
    """Which tool, and whether several at once."""
    if value is None:
        return None, None
    choice = typed(value, dict, "tool_choice")
    alone = may(choice, "disable_parallel_tool_use", bool, "tool_choice.")
    parallel = None if alone is None else not alone
    match choice.get("type"):
        case "auto" | "none" as kind:
            return kind, parallel
        case "any":
            return "required", parallel
        case "tool":
            return {"name": need(choice, "name", str, "tool_choice.")}, parallel
        case other:
            raise wrong("tool_choice.type", other, "auto, any, tool or none")


_TOOL_KNOWN = frozenset({"name", "description", "input_schema", "type", "cache_control", "strict"})


def _parse_tool(tool: Any, where: str) -> PromptMessageTool:
    body = typed(tool, dict, where)
    kind = may(body, "type", str, f"{where}.") or "custom"
    name = may(body, "name", str, f"{where}.") or kind
    if kind != "custom":
        return PromptMessageTool(name=name, type=kind, extra={FORMAT: body})
    return PromptMessageTool(
        name=need(body, "name", str, f"{where}."),
        description=may(body, "description", str, f"{where}.") or "",
        parameters=need(body, "input_schema", dict, f"{where}."),
        strict=may(body, "strict", bool, f"{where}."),
        cache_control=may(body, "cache_control", dict, f"{where}."),
        extra=kept(FORMAT, beyond(body, _TOOL_KNOWN)),
    )


def _parse_texts(value: Any, where: str) -> list[PromptMessageContent]:
    if isinstance(value, str):
        return [TextPromptMessageContent(data=value)]
    return [_parse_block(one, f"{where}[{i}]") for i, one in enumerate(typed(value, list, where))]


def _parse_turn(turn: Any, where: str, seen: set[str]) -> Iterator[AnyPromptMessage]:
    """One turn as messages: the results of tools are messages of their own in our types."""
    body = typed(turn, dict, where)
    role = body.get("role")
    blocks = body.get("content")
    if (text := _only_text(blocks)) and role in ("user", "assistant"):  # as most turns are
        yield UserPromptMessage(content=text) if role == "user" else AssistantPromptMessage(content=text)
        return
    if isinstance(blocks, str):
        blocks = [{"type": "text", "text": blocks}] if blocks or role == "user" else []
    blocks = typed(blocks, list, f"{where}.content")
    match role:
        case "assistant":
            parsed = [_parse_assistant_block(one, f"{where}.content[{i}]") for i, one in enumerate(blocks)]
            seen |= {one.id for one in parsed if isinstance(one, ToolCall)}
            yield assistant_of(parsed)
        case "user":
            yield from _parse_user_turn(blocks, where, seen)
        case "system":
            content = plain(_parse_texts(blocks, f"{where}.content"))
            yield SystemPromptMessage(content=content, extra={FORMAT: {"inline": True}})
        case other:
            raise wrong(f"{where}.role", other, "user or assistant")


def _only_text(blocks: Any) -> str | None:
    """The text of a turn that is a text and nothing more, however it is written."""
    if isinstance(blocks, list) and len(blocks) == 1 and isinstance(blocks[0], dict) and len(blocks[0]) == 2:
        blocks = blocks[0].get("text") if blocks[0].get("type") == "text" else None
    return blocks if isinstance(blocks, str) else None


def _parse_user_turn(blocks: list[Any], where: str, seen: set[str]) -> Iterator[AnyPromptMessage]:
    waiting: list[PromptMessageContent] = []
    for place, one in enumerate(blocks):
        here = f"{where}.content[{place}]"
        block = typed(one, dict, here)
        if block.get("type") != "tool_result":
            waiting.append(_parse_block(block, here))
            continue
        if waiting:
            yield UserPromptMessage(content=plain(waiting))
            waiting = []
        yield _parse_tool_result(block, here, seen)
    if waiting:
        yield UserPromptMessage(content=plain(waiting))


def _parse_tool_result(block: JSON, where: str, seen: set[str]) -> ToolPromptMessage:
    call = need(block, "tool_use_id", str, f"{where}.")
    if call not in seen:
        raise wrong(f"{where}.tool_use_id", call, "the id of a tool_use block in an assistant's turn before it")
    content = block.get("content")
    known = frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})
    return ToolPromptMessage(
        content=plain(_parse_texts(content, f"{where}.content")) if content else None,
        tool_call_id=call,
        is_error=may(block, "is_error", bool, f"{where}.") or False,
        cache_control=may(block, "cache_control", dict, f"{where}."),
        extra=kept(FORMAT, beyond(block, known)),
    )


def _parse_assistant_block(one: Any, where: str, origin: str = "") -> PromptMessageContent | ToolCall:
    block = typed(one, dict, where)
    if block.get("type") == "tool_use":
        return ToolCall(
            id=need(block, "id", str, f"{where}."),
            function=ToolCallFunction(
                name=need(block, "name", str, f"{where}."), arguments=as_text(block.get("input"))
            ),
            cache_control=block.get("cache_control"),
            extra=kept(FORMAT, beyond(block, frozenset({"type", "id", "name", "input", "cache_control"}))),
        )
    return _parse_block(block, where, origin)


def _parse_block(one: Any, where: str, origin: str = "") -> PromptMessageContent:
    block = typed(one, dict, where)
    cache = block.get("cache_control")
    match block.get("type"):
        case "text":
            known = frozenset({"type", "text", "citations", "cache_control"})
            return TextPromptMessageContent(
                data=need(block, "text", str, f"{where}."),
                citations=[_parse_citation(cited) for cited in block.get("citations") or ()],
                cache_control=cache,
                extra=kept(FORMAT, beyond(block, known)),
            )
        case "thinking":
            return ThinkingPromptMessageContent(
                data=block.get("thinking") or "",
                signature=block.get("signature") or "",
                origin=origin,
                extra=kept(FORMAT, beyond(block, frozenset({"type", "thinking", "signature"}))),
            )
        case "redacted_thinking":
            return ThinkingPromptMessageContent(signature=block.get("data") or "", redacted=True, origin=origin)
        case "image" | "document" as kind if isinstance(block.get("source"), dict):
            return _parse_file(kind, block, where)
        case str():
            return OpaquePromptMessageContent(format=FORMAT, data=block, cache_control=None)
        case other:
            raise wrong(f"{where}.type", other, "a block's type, as text, image, document or tool_result")


def _parse_citation(cited: JSON) -> Citation:
    return Citation(
        url=cited.get("url") or "",
        title=cited.get("title") or cited.get("document_title") or "",
        quote=cited.get("cited_text") or "",
        extra={FORMAT: cited},
    )


def _parse_file(kind: str, block: JSON, where: str) -> PromptMessageContent:
    source = block["source"]
    known = frozenset({"type", "source", "cache_control", "title"})
    fields: JSON = {"cache_control": block.get("cache_control"), "filename": block.get("title") or ""}
    rest = beyond(block, known)
    here = f"{where}.source"
    match source.get("type"):
        case "base64":
            mime = need(source, "media_type", str, f"{here}.")
            data = need(source, "data", str, f"{here}.")
            check = checked_image if kind == "image" else checked_base64
            made = part_of(mime, base64_data=check(data, f"{here}.data"), **fields)
            return msgspec.structs.replace(made, extra=kept(FORMAT, rest))
        case "url":
            part = ImagePromptMessageContent if kind == "image" else DocumentPromptMessageContent
            return part(url=need(source, "url", str, f"{here}."), **fields, extra=kept(FORMAT, rest))
        case _:  # a file that was uploaded before, a text, a list of blocks: this format alone knows them
            part = ImagePromptMessageContent if kind == "image" else DocumentPromptMessageContent
            return part(**fields, extra={FORMAT: {**rest, "source": source}})


def dump_request(request: LLMRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    """The request as Anthropic wants it. Quirks: `drop`, `max_tokens` (where nobody named a limit), `structured`."""
    given = request.model_parameters
    system, turns = _dump_messages(request.messages)
    body: JSON = {"model": model, "max_tokens": given.get("max_tokens") or quirks.get("max_tokens", DEFAULT_MAX_TOKENS)}
    if system:
        body["system"] = system[0]["text"] if len(system) == 1 and system[0].keys() == {"type", "text"} else system
    body["messages"] = turns
    for name in ("temperature", "top_p", "top_k", "service_tier"):
        if name in given:
            body[name] = given[name]
    _dump_reasoning(body, given, adaptive=bool(quirks.get("adaptive_thinking")), is_own=request.format == FORMAT)
    if (form := given.get("response_format")) and form.get("type") == "json_schema":
        schema = {"type": "json_schema", "schema": form["json_schema"]["schema"]}
        if quirks.get("structured") == "output_format":
            body["output_format"] = schema
        else:
            body.setdefault("output_config", {})["format"] = schema
    body |= compact(
        tools=[_dump_tool(tool) for tool in request.tools],
        tool_choice=_dump_tool_choice(request.tool_choice, given.get("parallel_tool_calls")),
        stop_sequences=request.stop,
        metadata={"user_id": request.user} if request.user is not None else None,
        stream=request.stream or None,
    )
    own = request.extra.get(FORMAT, {})
    for name, value in own.items():
        both = isinstance(value, dict) and isinstance(body.get(name), dict) and name == "output_config"
        body[name] = {**body[name], **value} if both else value
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    return body


def _dump_reasoning(body: JSON, given: Mapping[str, Any], *, adaptive: bool, is_own: bool) -> None:
    """How hard to think. Models that do not adapt by themselves are given a budget for an effort."""
    budget, effort = given.get("thinking_budget"), given.get("reasoning_effort")
    if effort and (is_own or (effort != "none" and (adaptive or budget is not None))):
        body["output_config"] = {"effort": effort}
        budget = -1 if budget is None and not is_own else budget
    elif effort and budget is None:
        budget = budget_of(effort, least=1024)
    if budget is None:
        return
    body["thinking"] = _dump_thinking(budget)
    if budget >= body["max_tokens"]:
        body["max_tokens"] += budget  # the budget counts within the limit


def _dump_thinking(budget: int) -> JSON:
    if budget == 0:
        return {"type": "disabled"}
    return {"type": "adaptive"} if budget < 0 else {"type": "enabled", "budget_tokens": budget}


def _dump_tool(tool: PromptMessageTool) -> JSON:
    rest = tool.extra.get(FORMAT, {})
    if tool.type not in ("function", "custom"):
        if not rest:
            raise InvokeBadRequestError(
                f"tool {tool.name!r} is run by the provider of another format; Anthropic cannot run it", param="tools"
            )
        return rest
    body: JSON = {"name": tool.name, "input_schema": tool.parameters or {"type": "object", "properties": {}}}
    if tool.description:
        body["description"] = tool.description
    if tool.strict is not None:
        body["strict"] = tool.strict
    if tool.cache_control:
        body["cache_control"] = tool.cache_control
    return body | rest


def _dump_tool_choice(choice: str | dict[str, Any] | None, parallel: bool | None) -> JSON | None:
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
        case _:  # a choice among some: the nearest that this format has
            body = {"type": "any" if choice.get("mode") == "required" else "auto"}
    if body is not None and parallel is not None and body["type"] != "none":
        body["disable_parallel_tool_use"] = not parallel
    return body


def _dump_messages(messages: Iterable[AnyPromptMessage]) -> tuple[list[JSON], list[JSON]]:
    """The system's blocks, and turns that alternate: neighbours of one role become one turn."""
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
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return system, turns


def _dump_tool_result(message: ToolPromptMessage) -> JSON:
    body: JSON = {"type": "tool_result", "tool_use_id": message.tool_call_id}
    if isinstance(message.content, str):
        body["content"] = message.content
    elif message.content:
        body["content"] = _dump_parts(message.content)
    if message.is_error:
        body["is_error"] = True
    if message.cache_control:
        body["cache_control"] = message.cache_control
    return body | message.extra.get(FORMAT, {})


def _dump_assistant(message: AssistantPromptMessage) -> list[JSON]:
    """The blocks of a turn in a request: thoughts only where Anthropic could have signed them."""
    blocks: list[JSON] = []
    for block in message.blocks if message.reasoning_content is None else [*message.parts, *message.tool_calls]:
        if isinstance(block, ToolCall):
            blocks.append(_dump_call(block))
        elif not isinstance(block, ThinkingPromptMessageContent) or block.origin in ("", FORMAT):
            blocks += _dump_parts([block])
    if message.refusal:
        blocks.append({"type": "text", "text": message.refusal})
    return blocks


def _dump_call(call: ToolCall) -> JSON:
    body = {"type": "tool_use", "id": call.id, "name": call.function.name, "input": as_object(call.function.arguments)}
    if call.cache_control:
        body["cache_control"] = call.cache_control
    return body | call.extra.get(FORMAT, {})


def _dump_parts(parts: Iterable[PromptMessageContent]) -> list[JSON]:
    return [block for part in parts if (block := _dump_part(part)) is not None]


def _dump_part(part: PromptMessageContent) -> JSON | None:
    rest = part.extra.get(FORMAT, {}) if part.extra else {}
    match part:
        case TextPromptMessageContent():
            if not part.data and not part.citations:
                return None  # refused by Anthropic, and says nothing
            body: JSON = {"type": "text", "text": part.data}
            if part.citations:
                body["citations"] = [_dump_citation(one) for one in part.citations]
        case ThinkingPromptMessageContent():
            if part.redacted:
                return {"type": "redacted_thinking", "data": part.signature}
            body = {"type": "thinking", "thinking": part.data, "signature": part.signature}
        case OpaquePromptMessageContent():
            return part.data if part.format == FORMAT else None
        case AudioPromptMessageContent() | VideoPromptMessageContent():
            raise InvokeBadRequestError(
                f"Anthropic takes no {type(part).__name__[:5].lower()}; send text, images or PDFs"
            )
        case ImagePromptMessageContent() | DocumentPromptMessageContent():
            body = _dump_file(part)
    if part.cache_control:
        body["cache_control"] = part.cache_control
    return body | rest


def _dump_file(part: MultiModalPromptMessageContent) -> JSON:
    is_image = isinstance(part, ImagePromptMessageContent)
    body: JSON = {"type": "image" if is_image else "document"}
    if part.filename and not is_image:
        body["title"] = part.filename
    if part.url:
        body["source"] = {"type": "url", "url": part.url}
    elif part.base64_data:
        mime = part.mime_type or mime_of(part.format, "image" if is_image else "application")
        body["source"] = {"type": "base64", "media_type": mime, "data": part.base64_data}
    return body


def _dump_citation(one: Citation) -> JSON:
    if own := one.extra.get(FORMAT):
        return own
    cited = {"type": "web_search_result_location", "cited_text": one.quote, "url": one.url, "title": one.title}
    return {**cited, "encrypted_index": ""}


# ------------------------------------------------------------------------------------------------ answers


def parse_usage(body: Any) -> LLMUsage | None:
    """`input_tokens` leaves cached tokens out here; our `prompt_tokens` counts them."""
    if not isinstance(body, dict) or (count(body.get("input_tokens")) is None and not counted(body, "output_tokens")):
        return None
    read, write = counted(body, "cache_read_input_tokens"), counted(body, "cache_creation_input_tokens")
    prompt = counted(body, "input_tokens") + read + write
    completion = counted(body, "output_tokens")
    return LLMUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        cached_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=counted(body, "cache_creation", "ephemeral_1h_input_tokens"),
        reasoning_tokens=counted(body, "output_tokens_details", "thinking_tokens"),
        searches=counted(body, "server_tool_use", "web_search_requests"),
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    if own := usage.extra.get(FORMAT):
        return own
    fresh = max(0, usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens)
    body: JSON = {
        "input_tokens": fresh,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
    if usage.reasoning_tokens:
        body["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if usage.searches:
        body["server_tool_use"] = {"web_search_requests": usage.searches}
    return body


_REASONS = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length",
    "tool_use": "tool_calls", "pause_turn": "pause", "refusal": "content_filter", "compaction": "pause",
}  # fmt: skip
_STOPS = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "pause": "pause_turn",
    "content_filter": "refusal",
}  # fmt: skip
_RESULT_KNOWN = frozenset({"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"})


def _parse_reason(body: JSON) -> tuple[str | None, dict[str, Any]]:
    """Ours, and what this format says beside it."""
    own = body.get("stop_reason")
    reason = _REASONS.get(own, own) if own else None
    rest: JSON = {}
    if own and _STOPS.get(reason or "") != own:
        rest["stop_reason"] = own
    if body.get("stop_sequence") is not None:
        rest["stop_sequence"] = body["stop_sequence"]
    return reason, rest


@reads_answer
def parse_result(body: JSON, quirks: Mapping[str, Any] | None = None) -> LLMResult:
    """A whole answer. Raises InvokeError where it is none."""
    del quirks
    if body.get("type") == "error" or isinstance(body.get("error"), dict):
        raise error_of(body.get("error") or body)
    blocks = body.get("content")
    if not isinstance(blocks, list):
        raise InvokeServerUnavailableError("the answer holds no content")
    reason, rest = _parse_reason(body)
    try:
        message = assistant_of([_parse_assistant_block(one, f"content[{i}]", FORMAT) for i, one in enumerate(blocks)])
    except InvokeBadRequestError as error:
        raise InvokeServerUnavailableError(f"the answer cannot be read: {error}") from error
    return LLMResult(
        id=body.get("id") or "",
        model=body.get("model") or "",
        choices=[LLMChoice(message=message, finish_reason=reason, extra=kept(FORMAT, rest))],
        usage=parse_usage(body.get("usage")) or LLMUsage(estimated=True),
        extra=kept(FORMAT, beyond(body, _RESULT_KNOWN)),
    )


def _answer_blocks(message: AssistantPromptMessage) -> list[JSON]:
    blocks: list[JSON] = []
    for block in message.blocks:
        if isinstance(block, ToolCall):
            blocks.append(_dump_call(block))
        elif not isinstance(block, AudioPromptMessageContent | VideoPromptMessageContent):
            blocks += _dump_parts([block])
    if message.refusal:
        blocks.append({"type": "text", "text": message.refusal})
    return blocks


def _dump_reason(reason: str | None, extra: dict[str, Any], *, has_calls: bool = False) -> JSON:
    own = _STOPS.get(reason or "", reason)
    if own == "end_turn" and has_calls:
        own = "tool_use"  # some providers say `stop` when they call
    return {"stop_reason": own, "stop_sequence": None, **extra.get(FORMAT, {})}


def dump_result(result: LLMResult) -> JSON:
    choice = result.choices[0]
    return {
        "id": result.id,
        "type": "message",
        "role": "assistant",
        "model": result.model,
        "content": _answer_blocks(choice.message),
        **_dump_reason(choice.finish_reason, choice.extra, has_calls=bool(choice.message.tool_calls)),
        "usage": dump_usage(result.usage),
        **result.extra.get(FORMAT, {}),
    }


def dump_token_count(tokens: int) -> JSON:
    return {"input_tokens": tokens}


def parse_token_count(body: JSON) -> int | None:
    return count(body.get("input_tokens"))


# ------------------------------------------------------------------------------------------------ streams


class StreamParser:
    """Events of a stream, one at a time, into chunks."""

    def __init__(self, quirks: Mapping[str, Any] | None = None) -> None:
        del quirks
        self._id = self._model = ""
        self._usage: JSON = {}
        self._blocks: dict[int, JSON] = {}
        self._json: dict[int, list[str]] = {}
        self._calls = 0
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        match event.get("type"):
            case "content_block_delta":
                return self._on_delta(_index(event), typed_event(event, "delta"))
            case "content_block_start":
                return self._on_start(_index(event), typed_event(event, "content_block"))
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
                pass  # `ping`, and whatever may come
        return []

    def finish(self, *, done: bool) -> list[LLMResultChunk]:
        """The body has ended. A stream cut short must not look like a whole one."""
        if not done and not self._has_finished:
            raise InvokeServerUnavailableError("the stream broke off: no message_stop came")
        return []

    def _chunk(self, **delta: Any) -> list[LLMResultChunk]:
        return [LLMResultChunk(id=self._id, model=self._model, delta=LLMResultChunkDelta(**delta))]

    def _part(self, part: PromptMessageContent) -> list[LLMResultChunk]:
        return self._chunk(message=AssistantPromptMessage(content=[part]))

    def _on_message(self, message: JSON) -> list[LLMResultChunk]:
        self._id, self._model = message.get("id") or "", message.get("model") or ""
        self._usage = dict(message.get("usage") or {})
        rest = beyond(message, _RESULT_KNOWN)
        return [LLMResultChunk(id=self._id, model=self._model, extra={FORMAT: {**rest, "start_usage": self._usage}})]

    def _on_start(self, index: int, block: JSON) -> list[LLMResultChunk]:
        self._blocks[index] = block
        match block.get("type"):
            case "text" | "thinking" | "redacted_thinking":
                part = _parse_block(block, "content_block", FORMAT)
                is_silent = not getattr(part, "data", "") and not getattr(part, "signature", "") and not part.extra
                return [] if is_silent else self._part(msgspec.structs.replace(part, index=index))
            case "tool_use":
                block["call"] = self._calls
                self._calls += 1
                function = ToolCallFunction(name=block.get("name") or "")
                rest = kept(FORMAT, beyond(block, frozenset({"type", "id", "name", "input", "call"})))
                call = ToolCall(id=block.get("id") or "", function=function, index=block["call"], extra=rest)
                return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))
            case _:
                return []

    def _on_delta(self, index: int, delta: JSON) -> list[LLMResultChunk]:
        match delta.get("type"):
            case "text_delta":
                return self._part(TextPromptMessageContent(data=delta.get("text") or "", index=index))
            case "thinking_delta":
                data = delta.get("thinking") or ""
                rest = kept(FORMAT, beyond(delta, frozenset({"type", "thinking"})))
                return self._part(ThinkingPromptMessageContent(data=data, index=index, origin=FORMAT, extra=rest))
            case "signature_delta":
                signed = delta.get("signature") or ""
                return self._part(ThinkingPromptMessageContent(signature=signed, index=index, origin=FORMAT))
            case "citations_delta":
                cited = [_parse_citation(delta.get("citation") or {})]
                return self._part(TextPromptMessageContent(data="", citations=cited, index=index))
            case "input_json_delta":
                return self._on_json(index, delta.get("partial_json") or "")
            case _:
                return self._on_other(index, delta)

    def _on_json(self, index: int, piece: str) -> list[LLMResultChunk]:
        block = self._blocks.get(index, {})
        self._json.setdefault(index, []).append(piece)
        if "call" not in block or not piece:
            return []
        call = ToolCall(function=ToolCallFunction(arguments=piece), index=block["call"])
        return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))

    def _on_other(self, index: int, delta: JSON) -> list[LLMResultChunk]:
        """A kind of delta that is new to us: its texts go on with those of the block."""
        block = self._blocks.get(index, {})
        for name, value in delta.items():
            if name == "type":
                continue
            before = block.get(name)
            block[name] = before + value if isinstance(before, str) and isinstance(value, str) else value
        return []

    def _on_stop(self, index: int) -> list[LLMResultChunk]:
        block = self._blocks.pop(index, {})
        text = "".join(self._json.pop(index, ()))
        match block.get("type"):
            case "text" | "thinking" | "redacted_thinking" | None:
                return []
            case "tool_use":
                if text:
                    return []
                call = ToolCall(function=ToolCallFunction(arguments=as_text(block.get("input"))), index=block["call"])
                return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))
            case _:
                if text:
                    block = {**block, "input": as_object(text)}
                return self._part(OpaquePromptMessageContent(format=FORMAT, data=block))

    def _on_end(self, event: JSON) -> list[LLMResultChunk]:
        delta = typed_event(event, "delta")
        stated = event.get("usage")
        if isinstance(stated, dict):
            self._usage |= {name: value for name, value in stated.items() if value is not None}
        reason, rest = _parse_reason(delta)
        more = beyond(delta, frozenset({"stop_reason", "stop_sequence"}))
        more |= beyond(event, frozenset({"type", "delta", "usage"}))
        more = {name: value for name, value in more.items() if value is not None}
        chunk = LLMResultChunk(
            id=self._id,
            model=self._model,
            delta=LLMResultChunkDelta(finish_reason=reason, usage=parse_usage(self._usage), extra=kept(FORMAT, rest)),
            extra=kept(FORMAT, more),
        )
        return [chunk]


def _index(event: JSON) -> int:
    return count(event.get("index")) or 0


def typed_event(event: JSON, name: str) -> JSON:
    """The object of this name in an event. Raises InvokeServerUnavailableError where there is none."""
    value = event.get(name)
    if not isinstance(value, dict):
        raise InvokeServerUnavailableError(f"an event of the stream has no {name!r} but {said(value)}")
    return value


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    return parsed(StreamParser(), events)


class StreamDumper:
    """Chunks, one at a time, into events. Blocks come one after another here, each opened and closed."""

    def __init__(self, *, response_id: str, model: str, created: int = 0) -> None:
        del created
        self._id, self._model = response_id, model
        self._has_begun = False
        self._open: tuple[str, Any] | None = None
        self._number = -1
        self._usage: LLMUsage | None = None
        self._reason: str | None = None
        self._reason_extra: dict[str, Any] = {}
        self._extra: JSON = {}
        self._live: int | None = None  # the call that is written as it comes
        self._waiting: dict[int, list[ToolCall]] = {}  # calls that must wait until it is done
        self._has_calls = False

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        events: list[JSON] = []
        delta = chunk.delta
        rest = chunk.extra.get(FORMAT, {}) if chunk.extra else {}
        if not self._has_begun:
            events.append(self._start(dict(rest)))
        elif rest:
            self._extra |= rest
        self._usage = delta.usage or self._usage
        if delta.index:
            return events  # one answer alone has a place here
        message = delta.message
        if isinstance(message.content, str) and not message.tool_calls and message.reasoning_content is None:
            if message.content:
                events += self._text(("text", None), message.content)
        else:
            for block in message.blocks:
                events += self._block(block)
        if message.refusal:
            events += self._text(("refusal", None), message.refusal)
        self._reason = delta.finish_reason or self._reason
        self._reason_extra = delta.extra or self._reason_extra
        return events

    def _start(self, rest: JSON) -> JSON:
        self._has_begun = True
        usage = rest.pop("start_usage", None) or {"input_tokens": 0, "output_tokens": 0}
        message = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
            **rest,
        }
        return {"type": "message_start", "message": message}

    def _block(self, block: PromptMessageContent | ToolCall) -> list[JSON]:
        match block:
            case TextPromptMessageContent():
                events = self._text(("text", block.index), block.data) if block.data else []
                for cited in block.citations:
                    events += self._delta(
                        ("text", block.index), {"type": "text", "text": "", "citations": []},
                        {"type": "citations_delta", "citation": _dump_citation(cited)},
                    )  # fmt: skip
                return events
            case ThinkingPromptMessageContent() if not block.redacted:
                return self._thought(block)
            case ToolCall():
                return self._call(block)
            case AudioPromptMessageContent() | VideoPromptMessageContent():
                return []
            case _:
                whole = _dump_part(block)
                return self._whole(whole) if whole is not None else []

    def _text(self, key: tuple[str, Any], text: str) -> list[JSON]:
        return self._delta(key, {"type": "text", "text": ""}, {"type": "text_delta", "text": text})

    def _thought(self, thought: ThinkingPromptMessageContent) -> list[JSON]:
        key = ("thinking", thought.index)
        start = {"type": "thinking", "thinking": "", "signature": ""}
        events: list[JSON] = []
        if thought.data:
            rest = thought.extra.get(FORMAT, {})
            events += self._delta(key, start, {"type": "thinking_delta", "thinking": thought.data, **rest})
        if thought.signature:
            events += self._delta(key, start, {"type": "signature_delta", "signature": thought.signature})
        return events

    def _call(self, call: ToolCall) -> list[JSON]:
        index = call.index if call.index is not None else -1 - len(self._waiting)
        self._has_calls = True
        if self._live is None:
            self._live = index
        if index != self._live:
            self._waiting.setdefault(index, []).append(call)
            return []
        return self._write_call(index, [call])

    def _write_call(self, index: int, pieces: list[ToolCall]) -> list[JSON]:
        first = pieces[0]
        start = {
            "type": "tool_use",
            "id": first.id,
            "name": first.function.name,
            "input": {},
            **first.extra.get(FORMAT, {}),
        }
        events = self._opened(("call", index), start)
        text = "".join(piece.function.arguments for piece in pieces)
        if text:
            events.append(self._event({"type": "input_json_delta", "partial_json": text}))
        return events

    def _delta(self, key: tuple[str, Any], start: JSON, delta: JSON) -> list[JSON]:
        events = self._opened(key, start)
        events.append(self._event(delta))
        return events

    def _event(self, delta: JSON) -> JSON:
        return {"type": "content_block_delta", "index": self._number, "delta": delta}

    def _opened(self, key: tuple[str, Any], start: JSON) -> list[JSON]:
        if self._open == key:
            return []
        events = self._closed() if key[0] != "waiting" else []
        self._number += 1
        self._open = key
        return [*events, {"type": "content_block_start", "index": self._number, "content_block": start}]

    def _closed(self) -> list[JSON]:
        """What ends the open block, and the calls that waited behind it."""
        if self._open is None:
            return []
        events: list[JSON] = [{"type": "content_block_stop", "index": self._number}]
        was_call = self._open[0] == "call"
        self._open = None
        if was_call:
            waiting, self._waiting, self._live = self._waiting, {}, None
            for index, pieces in waiting.items():
                events += self._write_call(index, pieces)
                events.append({"type": "content_block_stop", "index": self._number})
                self._open = None
        return events

    def _whole(self, block: JSON) -> list[JSON]:
        events = self._opened(("whole", self._number), block)
        return [*events, *self._closed()]

    def finish(self) -> list[JSON]:
        events: list[JSON] = [] if self._has_begun else [self._start({})]
        events += self._closed()
        reason = _dump_reason(self._reason, self._reason_extra, has_calls=self._has_calls)
        self._extra.pop("start_usage", None)
        usage = dump_usage(self._usage or LLMUsage())
        events.append({"type": "message_delta", "delta": reason, "usage": usage, **self._extra})
        events.append({"type": "message_stop"})
        return events


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    return dumped(chunks, StreamDumper)


# ------------------------------------------------------------------------------------------------ errors


def error_of(error: Mapping[str, Any]) -> InvokeError:
    """An error object inside an answer or a stream, by its type."""
    kind = kind_of_error(None, error.get("type"))
    return kind(str(error.get("message") or error.get("type") or "the provider reports an error"))


_KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 529: "overloaded_error",
}  # fmt: skip


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    kind = _KINDS.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, **compact(request_id=request_id)}
