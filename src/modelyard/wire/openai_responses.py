"""OpenAI Responses <-> our types. Pure: no network, no clock.

An answer here is a list of items; neighbouring items of the model are one message in our types. Thoughts of other
providers travel as reasoning items whose ids say whose they are, so that their signatures find the way back.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeError, InvokeServerUnavailableError, kind_of_error
from modelyard.base.fields import beyond, compact, count, counted, in_range, kept, may, need, tools_of, typed, wrong
from modelyard.base.shapes import reads_answer, reads_request
from modelyard.models.llm import LLMChoice, LLMRequest, LLMResult, LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.media import checked_base64, format_of, from_url, mime_of
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
from modelyard.models.streams import dumped, parsed
from modelyard.models.types import JSON

FORMAT = "openai_responses"

_KNOWN = frozenset({
    "model", "input", "instructions", "tools", "tool_choice", "temperature", "top_p", "max_output_tokens",
    "parallel_tool_calls", "reasoning", "text", "stream", "user", "top_logprobs", "service_tier", "metadata",
    "stream_options",
})  # fmt: skip
PARAMETERS = frozenset({
    "temperature", "top_p", "max_tokens", "parallel_tool_calls", "reasoning_effort", "include_thoughts",
    "response_format", "verbosity", "top_logprobs", "logprobs", "service_tier", "metadata", "thinking_budget",
})  # fmt: skip


# ------------------------------------------------------------------------------------------------ requests


@reads_request
def parse_request(body: JSON) -> LLMRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    parameters, rest = _parse_parameters(body)
    choice = body.get("tool_choice")
    tool_choice = _parse_tool_choice(choice) if choice is not None else None
    messages: list[AnyPromptMessage] = []
    if (instructions := may(body, "instructions", str)) is not None:
        messages.append(SystemPromptMessage(content=instructions, extra={FORMAT: {"instructions": True}}))
    is_new = "previous_response_id" not in body and "conversation" not in body
    messages += parse_input(body.get("input"), is_new=is_new)
    return LLMRequest(
        format=FORMAT,
        messages=messages,
        model_parameters=parameters,
        tools=[_parse_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools_of(body))],
        tool_choice=tool_choice,
        stream=may(body, "stream", bool) or False,
        user=may(body, "user", str),
        extra=kept(FORMAT, rest | {k: v for k, v in beyond(body, _KNOWN).items() if v is not None}),
    )


def _parse_parameters(body: JSON) -> tuple[dict[str, Any], JSON]:
    parameters: dict[str, Any] = {}
    for name, kind, low, high in (("temperature", float, 0, 2), ("top_p", float, 0, 1), ("top_logprobs", int, 0, 20)):
        if may(body, name, kind) is not None:
            in_range(body[name], low, high, name)
            parameters[name] = body[name]
    if (most := may(body, "max_output_tokens", int)) is not None:
        in_range(most, 1, 1 << 31, "max_output_tokens")
        parameters["max_tokens"] = most
    for name, kind in (("parallel_tool_calls", bool), ("service_tier", str), ("metadata", dict)):
        if (value := may(body, name, kind)) is not None:
            parameters[name] = value
    if "message.output_text.logprobs" in (may(body, "include", list) or ()):
        parameters["logprobs"] = True
    return parameters, _parse_reasoning_config(body, parameters) | _parse_text_config(body, parameters)


def _parse_reasoning_config(body: JSON, parameters: dict[str, Any]) -> JSON:
    """Puts what has a name of ours among the parameters; gives back the rest."""
    reasoning = dict(may(body, "reasoning", dict) or {})
    if (effort := reasoning.pop("effort", None)) is not None:
        parameters["reasoning_effort"] = effort
    if reasoning.get("summary"):
        parameters["include_thoughts"] = True
    reasoning = {name: value for name, value in reasoning.items() if value is not None}
    usual = {"summary": "auto"} if parameters.get("include_thoughts") else {}
    return {} if reasoning == usual else {"reasoning": reasoning}


def _parse_text_config(body: JSON, parameters: dict[str, Any]) -> JSON:
    text = dict(may(body, "text", dict) or {})
    if (form := text.pop("format", None)) is not None:
        parameters["response_format"] = _parse_format(typed(form, dict, "text.format"))
    if (verbosity := text.pop("verbosity", None)) is not None:
        parameters["verbosity"] = verbosity
    return {"text": text} if text else {}


def _parse_format(form: JSON) -> JSON:
    kind = need(form, "type", str, "text.format.")
    if kind not in ("text", "json_object", "json_schema"):
        raise wrong("text.format.type", kind, "text, json_object or json_schema")
    if kind != "json_schema":
        return {"type": kind}
    need(form, "schema", dict, "text.format.")
    return {"type": kind, "json_schema": {name: value for name, value in form.items() if name != "type"}}


def _parse_tool_choice(value: Any) -> str | dict[str, Any]:
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise wrong("tool_choice", value, "auto, none, required or an object that names a tool")
        return value
    choice = typed(value, dict, "tool_choice")
    if choice.get("type") == "allowed_tools":
        names = [one.get("name") or one.get("type") for one in need(choice, "tools", list, "tool_choice.")]
        return {"mode": choice.get("mode") or "auto", "allowed": names}
    if choice.get("type") in ("function", "custom"):
        return {"name": need(choice, "name", str, "tool_choice.")}
    return {"name": need(choice, "type", str, "tool_choice.")}


def _parse_tool(tool: Any, where: str) -> PromptMessageTool:
    body = typed(tool, dict, where)
    kind = need(body, "type", str, f"{where}.")
    if kind == "custom":
        rest = beyond(body, frozenset({"type", "name", "description"}))
        name = need(body, "name", str, f"{where}.")
        return PromptMessageTool(
            name=name, type=kind, description=body.get("description") or "", extra=kept(FORMAT, rest)
        )
    if kind != "function":
        return PromptMessageTool(name=kind, type=kind, extra={FORMAT: body})
    rest = beyond(body, frozenset({"type", "name", "description", "parameters", "strict"}))
    if body.get("strict") is None:
        rest = {**rest, "strict_by_default": True}
    return PromptMessageTool(
        name=need(body, "name", str, f"{where}."),
        description=may(body, "description", str, f"{where}.") or "",
        parameters=may(body, "parameters", dict, f"{where}.") or {},
        strict=may(body, "strict", bool, f"{where}."),
        extra=kept(FORMAT, rest),
    )


_USER_ITEMS = frozenset({
    "item_reference", "mcp_approval_response", "computer_call_output", "local_shell_call_output", "shell_call_output",
    "apply_patch_call_output", "tool_search_output",
})  # fmt: skip


def parse_input(value: Any, *, is_new: bool = True) -> list[AnyPromptMessage]:
    """The input's items as messages. `is_new`: nothing went before, so each result needs its call here."""
    if isinstance(value, str):
        return [UserPromptMessage(content=value)]
    if value is None:
        raise wrong("input", None, "a string or a list of items")
    items = typed(value, list, "input")
    if not items and is_new:
        raise InvokeBadRequestError("'input' must hold at least one item", param="input")
    messages: list[AnyPromptMessage] = []
    blocks: list[PromptMessageContent | ToolCall] = []
    calls: set[str] = set()
    refusals: list[str] = []
    for place, one in enumerate(items):
        if type(one) is dict and len(one) == 2 and one.get("role") == "user" and type(one.get("content")) is str:
            if blocks or refusals:  # as most items are: a role and a text
                messages.append(assistant_of(blocks, refusal="".join(refusals) or None))
                blocks, refusals = [], []
            messages.append(UserPromptMessage(content=one["content"]))
            continue
        where = f"input[{place}]"
        item = typed(one, dict, where)
        kind = item.get("type") or "message"
        if _is_models(item, kind):
            parsed, refused = _parse_output_item(item, where)
            calls.add(str(item.get("call_id")))
            blocks += parsed
            refusals += refused
            continue
        if blocks or refusals:
            messages.append(assistant_of(blocks, refusal="".join(refusals) or None))
            blocks, refusals = [], []
        messages.append(_parse_input_item(item, kind, where, calls if is_new else None))
    if blocks or refusals:
        messages.append(assistant_of(blocks, refusal="".join(refusals) or None))
    return messages


def _is_models(item: JSON, kind: str) -> bool:
    """Whether the model said it, not the caller."""
    if kind == "message":
        return item.get("role") == "assistant"
    return kind not in _USER_ITEMS and kind not in ("function_call_output", "custom_tool_call_output")


def _parse_input_item(item: JSON, kind: str, where: str, calls: set[str] | None) -> AnyPromptMessage:
    match kind:
        case "message":
            return _parse_message(item, where)
        case "function_call_output" | "custom_tool_call_output":
            call = need(item, "call_id", str, f"{where}.")
            if calls is not None and call not in calls:
                raise wrong(f"{where}.call_id", call, "the call_id of a function_call before it")
            output = item.get("output")
            known = frozenset({"type", "call_id", "output", "id", "status"})
            return ToolPromptMessage(
                content=output if isinstance(output, str) else _parse_content(output, f"{where}.output"),
                tool_call_id=call,
                extra=kept(FORMAT, beyond(item, known) | ({"type": kind} if kind[0] == "c" else {})),
            )
        case _:
            return UserPromptMessage(content=[OpaquePromptMessageContent(format=FORMAT, data=item)])


def _parse_message(item: JSON, where: str) -> AnyPromptMessage:
    role = item.get("role")
    content = item.get("content")
    parts = content if isinstance(content, str) else _parse_content(content, f"{where}.content")
    rest = beyond(item, frozenset({"type", "role", "content", "status", "id"}))
    match role:
        case "user":
            return UserPromptMessage(content=parts, extra=kept(FORMAT, rest))
        case "system" | "developer":
            rest |= {"role": role} if role == "developer" else {}
            return SystemPromptMessage(content=parts, extra=kept(FORMAT, rest))
        case _:
            raise wrong(f"{where}.role", role, "user, assistant, system or developer")


def _parse_content(content: Any, where: str) -> Content:
    return [_parse_part(part, f"{where}[{i}]") for i, part in enumerate(typed(content, list, where))]


def _parse_part(part: Any, where: str) -> PromptMessageContent:
    body = typed(part, dict, where)
    match body.get("type"):
        case "input_text" | "output_text" | "text":
            return _parse_text(body, where)
        case "input_image" if isinstance(body.get("image_url"), str):
            fields = from_url(body["image_url"], f"{where}.image_url", is_image=True)
            detail = body.get("detail") or ""
            if detail not in ("", "auto", "low", "high", "original"):
                raise wrong(f"{where}.detail", detail, "auto, low or high")
            return ImagePromptMessageContent(**fields, detail=detail)
        case "input_file" if body.get("file_data") or body.get("file_url"):
            name = body.get("filename") or ""
            if url := body.get("file_url"):
                return DocumentPromptMessageContent(url=url, filename=name)
            return DocumentPromptMessageContent(**from_url(body["file_data"], f"{where}.file_data"), filename=name)
        case "input_audio":
            audio = need(body, "input_audio", dict, f"{where}.")
            form = need(audio, "format", str, f"{where}.input_audio.")
            data = checked_base64(need(audio, "data", str, f"{where}.input_audio."), f"{where}.input_audio.data")
            return AudioPromptMessageContent(base64_data=data, format=form, mime_type=mime_of(form, "audio"))
        case str():
            return OpaquePromptMessageContent(format=FORMAT, data=body)
        case other:
            raise wrong(f"{where}.type", other, "input_text, input_image, input_file or input_audio")


def _parse_text(body: JSON, where: str, item: JSON | None = None) -> TextPromptMessageContent:
    annotations = body.get("annotations") or ()
    return TextPromptMessageContent(
        data=need(body, "text", str, f"{where}."),
        citations=[_parse_annotation(one) for one in annotations],
        extra=kept(FORMAT, {"item": item} if item else {}),
    )


def _parse_annotation(one: JSON) -> Citation:
    return Citation(
        url=one.get("url") or "",
        title=one.get("title") or one.get("filename") or "",
        start=count(one.get("start_index")),
        end=count(one.get("end_index")),
        extra={FORMAT: one},
    )


def _parse_output_item(item: JSON, where: str) -> tuple[list[PromptMessageContent | ToolCall], list[str]]:
    """What the model made, as blocks, and its refusals."""
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
            form = item.get("output_format") or "png"
            own = {"item": {name: value for name, value in item.items() if name != "result"}}
            image = ImagePromptMessageContent(
                base64_data=item["result"], format=form, mime_type=mime_of(form, "image"), extra={FORMAT: own}
            )
            return [image], []
        case _:
            return [OpaquePromptMessageContent(format=FORMAT, data=item)], []


def _parse_output_message(item: JSON, where: str) -> tuple[list[PromptMessageContent | ToolCall], list[str]]:
    own = beyond(item, frozenset({"type", "role", "content", "status"}))
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "output_text", "text": content}] if content else []
    blocks: list[PromptMessageContent | ToolCall] = []
    refusals: list[str] = []
    for place, one in enumerate(typed(content, list, f"{where}.content")):
        here = f"{where}.content[{place}]"
        part = typed(one, dict, here)
        if part.get("type") == "refusal":
            refusals.append(need(part, "refusal", str, f"{here}."))
        elif part.get("type") in ("output_text", "input_text", "text"):
            blocks.append(_parse_text(part, here, own))
        else:
            blocks.append(_parse_part(part, here))
    return blocks, refusals


def _parse_call(item: JSON, where: str, kind: str, field: str) -> ToolCall:
    rest = beyond(item, frozenset({"type", "call_id", "name", field, "status"}))
    return ToolCall(
        id=need(item, "call_id", str, f"{where}."),
        type=kind,
        function=ToolCallFunction(name=need(item, "name", str, f"{where}."), arguments=item.get(field) or ""),
        extra=kept(FORMAT, {name: value for name, value in rest.items() if value is not None}),
    )


_ORIGINS = ("anthropic", "gemini", "bedrock")


def _parse_reasoning(item: JSON) -> ThinkingPromptMessageContent:
    summary = [one.get("text") or "" for one in item.get("summary") or ()]
    content = [one.get("text") or "" for one in item.get("content") or ()]
    item_id = item.get("id") or ""
    origin = next((name for name in _ORIGINS if item_id.startswith(f"rs_{name}_")), FORMAT)
    thought = ThinkingPromptMessageContent(
        data="\n\n".join(content or summary),
        signature=item.get("encrypted_content") or "",
        redacted=item_id.startswith(tuple(f"rs_{name}_redacted_" for name in _ORIGINS)),
        id=item_id if origin == FORMAT else "",
        origin=origin,
    )
    own = {name: value for name, value in item.items() if value is not None and name != "status"}
    if origin == FORMAT and _dump_reasoning(thought, item_id) != own:
        return msgspec.structs.replace(thought, extra={FORMAT: {"item": own}})
    return thought


def dump_request(request: LLMRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    """The request as OpenAI wants it. Quirks: `drop`."""
    given = request.model_parameters
    body: JSON = {"model": model}
    messages = list(request.messages)
    if messages and messages[0].extra.get(FORMAT, {}).get("instructions"):
        body["instructions"] = messages.pop(0).text
    body["input"] = list(_dump_input(messages))
    for name in ("temperature", "top_p", "parallel_tool_calls", "top_logprobs", "service_tier", "metadata"):
        if name in given:
            body[name] = given[name]
    choice = request.tool_choice
    body |= compact(
        max_output_tokens=given.get("max_tokens"),
        include=["message.output_text.logprobs"] if given.get("logprobs") else None,
        reasoning=_dump_effort(given) or None,
        text=_dump_text_config(given) or None,
        tools=[_dump_tool(tool) for tool in request.tools],
        tool_choice=_dump_tool_choice(choice, request.tools) if choice is not None else None,
        user=request.user,
        stream=request.stream or None,
    )
    for name, value in request.extra.get(FORMAT, {}).items():
        both = isinstance(value, dict) and isinstance(body.get(name), dict)
        body[name] = {**body[name], **value} if both else value
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    return body


def _dump_text_config(given: Mapping[str, Any]) -> JSON:
    form = given.get("response_format")
    shape = {"format": {"type": form["type"], **form.get("json_schema", {})}} if form else {}
    return {**shape, **compact(verbosity=given.get("verbosity"))}


def _dump_effort(given: Mapping[str, Any]) -> JSON:
    effort, budget = given.get("reasoning_effort"), given.get("thinking_budget")
    if effort is None and budget is not None:
        effort = effort_of(budget)
    return compact(effort=effort, summary="auto" if given.get("include_thoughts") else None)


def _dump_tool(tool: PromptMessageTool) -> JSON:
    rest = dict(tool.extra.get(FORMAT, {}))
    if tool.type == "custom":
        return {"type": "custom", "name": tool.name, **compact(description=tool.description), **rest}
    if tool.type != "function":
        if not rest:
            raise InvokeBadRequestError(
                f"tool {tool.name!r} is run by the provider of another format; this one cannot run it", param="tools"
            )
        return rest
    # Where nothing is said, this format takes a schema as strict; the others do not.
    by_default = rest.pop("strict_by_default", False)
    strict = {} if by_default and tool.strict is None else {"strict": bool(tool.strict)}
    body: JSON = {"type": "function", "name": tool.name, **compact(description=tool.description)}
    return {**body, "parameters": tool.parameters or {"type": "object", "properties": {}}, **strict, **rest}


def _dump_tool_choice(choice: str | dict[str, Any], tools: Sequence[PromptMessageTool]) -> Any:
    if isinstance(choice, str):
        return choice
    kinds = {tool.name: tool.type for tool in tools}
    if "allowed" in choice:
        allowed = [_named(name, kinds) for name in choice["allowed"]]
        return {"type": "allowed_tools", "mode": choice["mode"], "tools": allowed}
    return _named(choice["name"], kinds)


def _named(name: str, kinds: Mapping[str, str]) -> JSON:
    kind = kinds.get(name, "function")
    return {"type": kind, "name": name} if kind in ("function", "custom") else {"type": kind}


def _dump_input(messages: Iterable[AnyPromptMessage]) -> Iterator[JSON]:
    customs: set[str] = set()
    for message in messages:
        match message:
            case AssistantPromptMessage():
                customs |= {call.id for call in message.tool_calls if call.type == "custom"}
                yield from _dump_history(message)
            case ToolPromptMessage():
                output = message.content if isinstance(message.content, str) else _dump_parts(message.parts)
                kind = "custom_tool_call_output" if message.tool_call_id in customs else "function_call_output"
                rest = message.extra.get(FORMAT, {})
                yield {"type": kind, "call_id": message.tool_call_id, "output": output or "", **rest}
            case SystemPromptMessage() | UserPromptMessage():
                own = [one for one in message.parts if isinstance(one, OpaquePromptMessageContent)]
                if own and len(own) == len(message.parts) and own[0].data.get("type") in _USER_ITEMS:
                    yield from (one.data for one in own if one.format == FORMAT)
                    continue
                content = message.content if isinstance(message.content, str) else _dump_parts(message.parts)
                rest = {k: v for k, v in message.extra.get(FORMAT, {}).items() if k != "instructions"}
                yield {"role": message.role.value, "content": content, **rest}


def _dump_parts(parts: Iterable[PromptMessageContent]) -> list[JSON]:
    return [body for part in parts if (body := _dump_part(part)) is not None]


def _dump_part(part: PromptMessageContent) -> JSON | None:
    match part:
        case TextPromptMessageContent():
            return {"type": "input_text", "text": part.data}
        case ImagePromptMessageContent():
            return {"type": "input_image", "image_url": part.data, **compact(detail=part.detail)}
        case AudioPromptMessageContent():
            form = part.format or format_of(part.mime_type)
            return {"type": "input_audio", "input_audio": {"data": part.base64_data, "format": form}}
        case DocumentPromptMessageContent():
            where = {"file_url": part.url} if part.url else {"file_data": part.data}
            own = part.extra.get(FORMAT)
            return own or {"type": "input_file", **compact(filename=part.filename), **where}
        case OpaquePromptMessageContent():
            return part.data if part.format == FORMAT else None
        case VideoPromptMessageContent():
            raise InvokeBadRequestError("OpenAI's Responses take no video; send text, images, audio or files")
        case ThinkingPromptMessageContent():
            return None


def _dump_history(message: AssistantPromptMessage) -> Iterator[JSON]:
    """What the model said before, as items; thoughts only where OpenAI could have written them."""
    blocks = message.blocks if message.reasoning_content is None else [*message.parts, *message.tool_calls]
    fitting = [
        block
        for block in blocks
        if not isinstance(block, ThinkingPromptMessageContent)
        or (block.origin in ("", FORMAT) and (block.signature or block.id))
    ]
    for item in _items(fitting, "", message.refusal):
        if item["type"] == "message" and "id" not in item:
            yield {
                "role": "assistant",
                **{name: value for name, value in item.items() if name not in ("type", "status")},
            }
        else:
            ours = item["type"] in ("function_call", "custom_tool_call", "message") and "id" not in item
            yield {name: value for name, value in item.items() if name != "status" or not ours}


def _items(blocks: Iterable[PromptMessageContent | ToolCall], stem: str, refusal: str | None) -> Iterator[JSON]:
    """Blocks as items. `stem` is what made ids end with; where empty, none are made."""
    message: JSON | None = None
    number = 0
    for block in blocks:
        if isinstance(block, TextPromptMessageContent):
            own = block.extra.get(FORMAT, {}).get("item") or {}
            if message is not None and not (own and own.get("id") == message.get("id")):
                yield message
                message = None
            if message is None:
                made = {"id": own.get("id") or f"msg_{stem}_{number}"} if own.get("id") or stem else {}
                message = {"type": "message", **made, "role": "assistant", "status": "completed", "content": [], **own}
                number += 1
            message["content"].append(_dump_text(block))
            continue
        if message is not None:
            yield message
            message = None
        if (item := _dump_item(block, f"{stem}_{number}" if stem else "")) is not None:
            number += 1
            yield item
    if refusal:
        made = {"id": f"msg_{stem}_{number}"} if stem else {}
        message = message or {"type": "message", **made, "role": "assistant", "status": "completed", "content": []}
        message["content"].append({"type": "refusal", "refusal": refusal})
    if message is not None:
        yield message


def _dump_text(part: TextPromptMessageContent) -> JSON:
    annotations = [_dump_annotation(one, len(part.data)) for one in part.citations]
    return {"type": "output_text", "text": part.data, "annotations": annotations, "logprobs": []}


def _dump_annotation(one: Citation, length: int) -> JSON:
    if own := one.extra.get(FORMAT):
        return own
    end = length if one.end is None else one.end
    place = {"start_index": one.start or 0, "end_index": end}
    return {"type": "url_citation", "url": one.url, "title": one.title, **place}


def _dump_item(block: PromptMessageContent | ToolCall, stem: str) -> JSON | None:
    match block:
        case ToolCall():
            return _dump_call(block, stem)
        case ThinkingPromptMessageContent():
            own = block.extra.get(FORMAT, {}).get("item")
            return own or _dump_reasoning(block, block.id or _made_id(block, stem))
        case OpaquePromptMessageContent():
            return block.data if block.format == FORMAT else None
        case ImagePromptMessageContent():
            made = {"id": f"ig_{stem}"} if stem else {}
            own = block.extra.get(FORMAT, {}).get("item") or {
                "type": "image_generation_call",
                **made,
                "status": "completed",
            }
            return {**own, "result": block.base64_data or block.url}
        case _:
            return None


def _made_id(thought: ThinkingPromptMessageContent, stem: str) -> str:
    """An id that says whose thought it is, and whether it can be read."""
    whose = f"{thought.origin}_" if thought.origin in _ORIGINS else ""
    hidden = "redacted_" if thought.redacted and whose else ""
    tail = stem or hashlib.sha256((thought.signature + thought.data).encode()).hexdigest()[:24]
    return f"rs_{whose}{hidden}{tail}"


def _dump_call(call: ToolCall, stem: str) -> JSON:
    is_custom = call.type == "custom"
    own = call.extra.get(FORMAT, {})
    made = {"id": f"{'ctc' if is_custom else 'fc'}_{stem}"} if stem else {}
    return {
        "type": "custom_tool_call" if is_custom else "function_call",
        **made,
        "call_id": call.id,
        "name": call.function.name,
        "input" if is_custom else "arguments": call.function.arguments,
        "status": "completed",
        **own,
    }


def _dump_reasoning(thought: ThinkingPromptMessageContent, item_id: str) -> JSON:
    summary = [{"type": "summary_text", "text": thought.data}] if thought.data else []
    hidden = {"encrypted_content": thought.signature} if thought.signature else {}
    return {"type": "reasoning", "id": item_id, "summary": summary, **hidden}


# ------------------------------------------------------------------------------------------------ answers


def parse_usage(body: Any) -> LLMUsage | None:
    if not isinstance(body, dict) or (count(body.get("input_tokens")) is None and not counted(body, "output_tokens")):
        return None
    prompt, completion = counted(body, "input_tokens"), counted(body, "output_tokens")
    return LLMUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=counted(body, "total_tokens") or prompt + completion,
        cached_tokens=counted(body, "input_tokens_details", "cached_tokens"),
        cache_write_tokens=counted(body, "input_tokens_details", "cache_write_tokens"),
        audio_prompt_tokens=counted(body, "input_tokens_details", "audio_tokens"),
        reasoning_tokens=counted(body, "output_tokens_details", "reasoning_tokens"),
        audio_completion_tokens=counted(body, "output_tokens_details", "audio_tokens"),
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    if own := usage.extra.get(FORMAT):
        return own
    into = {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens}
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": into,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


_RESULT_KNOWN = frozenset({
    "id", "object", "created_at", "model", "output", "usage", "status", "incomplete_details", "error", "output_text",
})  # fmt: skip


def _parse_reason(body: JSON, *, has_calls: bool) -> tuple[str, JSON]:
    status = body.get("status") or "completed"
    why = (body.get("incomplete_details") or {}).get("reason")
    if why == "content_filter":
        return "content_filter", {}
    if status == "incomplete" or why:
        return "length", {} if why == "max_output_tokens" else {"incomplete_details": body.get("incomplete_details")}
    rest = {} if status == "completed" else {"status": status}
    return ("tool_calls" if has_calls else "stop"), rest


@reads_answer
def parse_result(body: JSON, quirks: Mapping[str, Any] | None = None) -> LLMResult:
    """A whole answer. Raises InvokeError where it is none, or tells of a failure."""
    del quirks
    if isinstance(body.get("error"), dict):
        raise error_of(body["error"])
    items = body.get("output")
    if not isinstance(items, list):
        raise InvokeServerUnavailableError("the answer holds no output")
    blocks: list[PromptMessageContent | ToolCall] = []
    refusals: list[str] = []
    logprobs: list[Any] = []
    try:
        for place, item in enumerate(items):
            parsed, refused = _parse_output_item(typed(item, dict, f"output[{place}]"), f"output[{place}]")
            blocks += parsed
            refusals += refused
            for part in (item.get("content") or ()) if item.get("type") == "message" else ():
                logprobs += part.get("logprobs") or ()
    except InvokeBadRequestError as error:
        raise InvokeServerUnavailableError(f"the answer cannot be read: {error}") from error
    reason, rest = _parse_reason(body, has_calls=any(isinstance(block, ToolCall) for block in blocks))
    choice = LLMChoice(
        message=assistant_of(blocks, refusal="".join(refusals) or None),
        finish_reason=reason,
        logprobs={"content": logprobs} if logprobs else None,
    )
    return LLMResult(
        id=body.get("id") or "",
        model=body.get("model") or "",
        created=int(body.get("created_at") or 0),
        choices=[choice],
        usage=parse_usage(body.get("usage")) or LLMUsage(estimated=True),
        extra=kept(FORMAT, beyond(body, _RESULT_KNOWN) | rest),
    )


_ECHOED = (
    "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "previous_response_id", "reasoning",
    "temperature", "text", "tool_choice", "tools", "top_p", "truncation", "user", "store", "service_tier",
    "top_logprobs", "max_tool_calls", "background", "prompt_cache_key", "safety_identifier",
)  # fmt: skip


def echo_of(body: JSON) -> JSON:
    """What an answer repeats of its request, with what OpenAI fills in where the request is silent."""
    silent = {
        "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True,
        "previous_response_id": None, "reasoning": {"effort": None, "summary": None}, "temperature": 1.0,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "truncation": "disabled", "store": True,
    }  # fmt: skip
    said = {name: body[name] for name in _ECHOED if body.get(name) is not None}
    return {**silent, **said}


def dump_result(result: LLMResult, echo: JSON | None = None) -> JSON:
    choice = result.choices[0]
    output = list(_items(choice.message.blocks, result.id, choice.message.refusal))
    _put_logprobs(output, choice.logprobs)
    head = _head(result.id, result.created, result.model, echo)
    return {
        **head,
        **_dump_reason(choice.finish_reason),
        "output": output,
        "usage": dump_usage(result.usage),
        **result.extra.get(FORMAT, {}),
    }


def _put_logprobs(output: list[JSON], logprobs: dict[str, Any] | None) -> None:
    texts = [part for item in output if item.get("type") == "message" for part in item["content"] if "logprobs" in part]
    if logprobs and texts:
        texts[-1]["logprobs"] = logprobs.get("content") or []


def _head(response_id: str, created: int, model: str, echo: JSON | None) -> JSON:
    head: JSON = {"id": response_id, "object": "response", "created_at": created, "status": "in_progress"}
    return {**head, "error": None, "incomplete_details": None, "model": model, "output": [], **(echo or echo_of({}))}


def _dump_reason(reason: str | None) -> JSON:
    why = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason or "")
    if why:
        return {"status": "incomplete", "incomplete_details": {"reason": why}}
    return {"status": "completed"}


# ------------------------------------------------------------------------------------------------ streams


class StreamParser:
    """Events of a stream, one at a time, into chunks."""

    def __init__(self, quirks: Mapping[str, Any] | None = None) -> None:
        del quirks
        self._id = self._model = ""
        self._created = 0
        self._calls: dict[int, int] = {}  # an item's place in the output → which call it is
        self._told: set[int] = set()  # items that deltas came for
        self._summaries: dict[int, int] = {}
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        kind = event.get("type")
        place = count(event.get("output_index")) or 0
        match kind:
            case "response.output_text.delta":
                return self._on_text(event, place)
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                return self._on_arguments(event, place)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return self._on_thought(event, place)
            case "response.refusal.delta":
                self._told.add(place)
                return self._chunk(message=AssistantPromptMessage(refusal=event.get("delta") or ""))
            case "response.output_text.annotation.added":
                cited = [_parse_annotation(event.get("annotation") or {})]
                return self._part(TextPromptMessageContent(data="", citations=cited, index=_text_index(event, place)))
            case "response.output_item.added":
                return self._on_added(event.get("item") or {}, place)
            case "response.output_item.done":
                return self._on_item(event.get("item") or {}, place)
            case "response.created" | "response.in_progress" | "response.queued":
                self._on_head(event.get("response") or {})
            case "response.completed" | "response.incomplete" | "response.done":
                return self._on_end(event.get("response") or {})
            case "response.failed":
                body = event.get("response") or {}
                raise error_of(body.get("error") or {"message": "the response failed"})
            case "error":
                raise error_of(event.get("error") or event)
            case _:
                pass
        return []

    def finish(self, *, done: bool) -> list[LLMResultChunk]:
        """The body has ended. A stream cut short must not look like a whole one."""
        if not done and not self._has_finished:
            raise InvokeServerUnavailableError("the stream broke off: no response.completed came")
        return []

    def _chunk(self, **delta: Any) -> list[LLMResultChunk]:
        made = LLMResultChunkDelta(**delta)
        return [LLMResultChunk(id=self._id, model=self._model, created=self._created, delta=made)]

    def _part(self, part: PromptMessageContent) -> list[LLMResultChunk]:
        return self._chunk(message=AssistantPromptMessage(content=[part]))

    def _on_head(self, body: JSON) -> None:
        self._id, self._model = body.get("id") or self._id, body.get("model") or self._model
        self._created = int(body.get("created_at") or self._created)

    def _on_text(self, event: JSON, place: int) -> list[LLMResultChunk]:
        self._told.add(place)
        part = TextPromptMessageContent(data=event.get("delta") or "", index=_text_index(event, place))
        logprobs = event.get("logprobs")
        return self._chunk(
            message=AssistantPromptMessage(content=[part]), logprobs={"content": logprobs} if logprobs else None
        )

    def _on_arguments(self, event: JSON, place: int) -> list[LLMResultChunk]:
        self._told.add(place)
        function = ToolCallFunction(arguments=event.get("delta") or "")
        call = ToolCall(function=function, index=self._calls.get(place, 0))
        return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))

    def _on_thought(self, event: JSON, place: int) -> list[LLMResultChunk]:
        data = event.get("delta") or ""
        number = count(event.get("summary_index", event.get("content_index"))) or 0
        if place in self._told and number != self._summaries.get(place):
            data = "\n\n" + data
        self._summaries[place] = number
        self._told.add(place)
        return self._part(ThinkingPromptMessageContent(data=data, index=place * 100, origin=FORMAT))

    def _on_added(self, item: JSON, place: int) -> list[LLMResultChunk]:
        if item.get("type") not in ("function_call", "custom_tool_call"):
            return []
        is_custom = item["type"] == "custom_tool_call"
        self._calls[place] = len(self._calls)
        rest = beyond(item, frozenset({"type", "call_id", "name", "arguments", "input", "status"}))
        call = ToolCall(
            id=item.get("call_id") or "",
            type="custom" if is_custom else "function",
            function=ToolCallFunction(name=item.get("name") or ""),
            index=self._calls[place],
            extra=kept(FORMAT, {name: value for name, value in rest.items() if value is not None}),
        )
        return self._chunk(message=AssistantPromptMessage(tool_calls=[call]))

    def _on_item(self, item: JSON, place: int) -> list[LLMResultChunk]:
        """What the deltas left out."""
        try:
            blocks, refusals = _parse_output_item(item, "item")
        except InvokeBadRequestError as error:
            raise InvokeServerUnavailableError(f"the stream cannot be read: {error}") from error
        chunks: list[LLMResultChunk] = []
        told = place in self._told
        for number, block in enumerate(blocks):
            match block:
                case TextPromptMessageContent():
                    data = "" if told else block.data
                    cited = [] if told else block.citations
                    more = {"data": data, "citations": cited, "index": place * 100 + number}
                    chunks += self._part(msgspec.structs.replace(block, **more))
                case ThinkingPromptMessageContent():
                    data = "" if told else block.data
                    chunks += self._part(msgspec.structs.replace(block, data=data, index=place * 100))
                case ToolCall():
                    chunks += self._late_call(item, place, block, told=told)
                case _:
                    chunks += self._part(block)
        if refusals and not told:
            chunks += self._chunk(message=AssistantPromptMessage(refusal="".join(refusals)))
        return chunks

    def _late_call(self, item: JSON, place: int, call: ToolCall, *, told: bool) -> list[LLMResultChunk]:
        chunks: list[LLMResultChunk] = [] if place in self._calls else self._on_added(item, place)
        if told or not call.function.arguments:
            return chunks
        function = ToolCallFunction(arguments=call.function.arguments)
        late = ToolCall(function=function, index=self._calls[place])
        return chunks + self._chunk(message=AssistantPromptMessage(tool_calls=[late]))

    def _on_end(self, body: JSON) -> list[LLMResultChunk]:
        self._has_finished = True
        if isinstance(body.get("error"), dict):
            raise error_of(body["error"])
        self._on_head(body)
        reason, rest = _parse_reason(body, has_calls=bool(self._calls))
        chunk = LLMResultChunk(
            id=self._id,
            model=self._model,
            created=self._created,
            delta=LLMResultChunkDelta(finish_reason=reason, usage=parse_usage(body.get("usage"))),
            extra=kept(FORMAT, beyond(body, _RESULT_KNOWN) | rest),
        )
        return [chunk]


def _text_index(event: JSON, place: int) -> int:
    return place * 100 + (count(event.get("content_index")) or 0)


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    return parsed(StreamParser(), events)


class StreamDumper:
    """Chunks, one at a time, into events: items one after another, each opened, filled and closed."""

    def __init__(self, *, response_id: str, created: int, model: str, echo: JSON | None = None) -> None:
        self._head = _head(response_id, created, model, echo)
        self._stem = response_id
        self._sequence = -1
        self._has_begun = False
        self._open: tuple[str, Any] | None = None
        self._item: JSON = {}
        self._output: list[JSON] = []
        self._usage: LLMUsage | None = None
        self._reason: str | None = None
        self._extra: JSON = {}
        self._logprobs: list[Any] = []
        self._live: int | None = None
        self._waiting: dict[int, list[ToolCall]] = {}
        self._done: dict[tuple[str, Any], JSON] = {}

    @property
    def output(self) -> list[JSON]:
        """The items that are complete."""
        return self._output

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        events = [] if self._has_begun else self._start()
        delta = chunk.delta
        if chunk.extra:
            self._extra |= chunk.extra.get(FORMAT, {})
        self._usage = delta.usage or self._usage
        if delta.index:
            return events  # one answer alone has a place here
        message = delta.message
        if delta.logprobs:
            self._logprobs += delta.logprobs.get("content") or ()
        if isinstance(message.content, str) and not message.tool_calls and message.reasoning_content is None:
            if message.content:
                events += self._text(("text", None), message.content, {})
        else:
            for block in message.blocks:
                events += self._block(block)
        if message.refusal:
            events += self._refusal(message.refusal)
        self._reason = delta.finish_reason or self._reason
        return events

    def _event(self, kind: str, **fields: Any) -> JSON:
        self._sequence += 1
        return {"type": kind, "sequence_number": self._sequence, **fields}

    def _start(self) -> list[JSON]:
        self._has_begun = True
        return [
            self._event("response.created", response=self._head),
            self._event("response.in_progress", response=self._head),
        ]

    def _block(self, block: PromptMessageContent | ToolCall) -> list[JSON]:
        match block:
            case TextPromptMessageContent():
                own = block.extra.get(FORMAT, {}).get("item") or {}
                key = ("text", block.index)
                if self._open == key:
                    self._item |= own
                events = self._text(key, block.data, own) if block.data else []
                for one in block.citations:
                    events += self._annotation(key, _dump_annotation(one, len(self._written())))
                return events
            case ThinkingPromptMessageContent():
                return self._thought(block)
            case ToolCall():
                return self._call(block)
            case _:
                item = _dump_item(block, f"{self._stem}_{len(self._output)}")
                return self._whole(item) if item is not None else []

    def _opened(self, key: tuple[str, Any], item: JSON) -> list[JSON]:
        if self._open == key:
            return []
        events = self._closed()
        self._open, self._item = key, item
        shown = {"output_index": len(self._output), "item": {**item}}
        return [*events, self._event("response.output_item.added", **shown)]

    def _where(self) -> JSON:
        return {"item_id": self._item.get("id") or "", "output_index": len(self._output)}

    def _written(self) -> str:
        content = self._item.get("content") or ()
        return content[0].get("text") or "" if content else ""

    def _text(self, key: tuple[str, Any], text: str, own: JSON) -> list[JSON]:
        events: list[JSON] = []
        if self._open != key:
            made = {"id": f"msg_{self._stem}_{len(self._output)}", "type": "message", "role": "assistant"}
            events += self._opened(key, {**made, "status": "in_progress", "content": [], **own})
            part: JSON = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._item["content"] = [part]
            events.append(self._event("response.content_part.added", **self._where(), content_index=0, part={**part}))
        self._item["content"][0]["text"] += text
        delta = self._event("response.output_text.delta", **self._where(), content_index=0, delta=text, logprobs=[])
        return [*events, delta]

    def _annotation(self, key: tuple[str, Any], annotation: JSON) -> list[JSON]:
        if self._open != key:
            return []
        annotations = self._item["content"][0]["annotations"]
        annotations.append(annotation)
        where = {**self._where(), "content_index": 0, "annotation_index": len(annotations) - 1}
        return [self._event("response.output_text.annotation.added", **where, annotation=annotation)]

    def _refusal(self, text: str) -> list[JSON]:
        key = ("refusal", None)
        events: list[JSON] = []
        if self._open != key:
            made = {"id": f"msg_{self._stem}_{len(self._output)}", "type": "message", "role": "assistant"}
            events += self._opened(key, {**made, "status": "in_progress", "content": []})
            self._item["content"] = [{"type": "refusal", "refusal": ""}]
            part = {"type": "refusal", "refusal": ""}
            events.append(self._event("response.content_part.added", **self._where(), content_index=0, part=part))
        self._item["content"][0]["refusal"] += text
        return [*events, self._event("response.refusal.delta", **self._where(), content_index=0, delta=text)]

    def _thought(self, thought: ThinkingPromptMessageContent) -> list[JSON]:
        key = ("thinking", thought.index)
        events: list[JSON] = []
        own = thought.extra.get(FORMAT, {}).get("item")
        if self._open != key and key in self._done and not thought.data:
            # Its last word came when another item had begun: the whole answer at the end has it.
            self._done[key] |= own or compact(encrypted_content=thought.signature)
            return events
        if self._open != key:
            item_id = thought.id or _made_id(thought, f"{self._stem}_{len(self._output)}")
            events += self._opened(key, {"type": "reasoning", "id": item_id, "summary": []})
        if thought.id:
            self._item["id"] = thought.id
        if thought.data:
            summary = self._item["summary"]
            if not summary:
                part = {"type": "summary_text", "text": ""}
                events.append(
                    self._event("response.reasoning_summary_part.added", **self._where(), summary_index=0, part=part)
                )
                summary.append({"type": "summary_text", "text": ""})
            summary[0]["text"] += thought.data
            told = {**self._where(), "summary_index": 0, "delta": thought.data}
            events.append(self._event("response.reasoning_summary_text.delta", **told))
        if thought.signature:
            self._item["encrypted_content"] = self._item.get("encrypted_content", "") + thought.signature
        if own:
            self._item |= own
        return events

    def _call(self, call: ToolCall) -> list[JSON]:
        index = call.index if call.index is not None else -1 - len(self._waiting)
        if self._live is None:
            self._live = index
        if index != self._live:
            self._waiting.setdefault(index, []).append(call)
            return []
        return self._write_call(index, [call])

    def _write_call(self, index: int, pieces: list[ToolCall]) -> list[JSON]:
        first = pieces[0]
        empty = msgspec.structs.replace(first, function=ToolCallFunction(name=first.function.name))
        item = {**_dump_call(empty, f"{self._stem}_{len(self._output)}"), "status": "in_progress"}
        events = self._opened(("call", index), item)
        is_custom = self._item["type"] == "custom_tool_call"
        field = "input" if is_custom else "arguments"
        if text := "".join(piece.function.arguments for piece in pieces):
            self._item[field] += text
            kind = "response.custom_tool_call_input.delta" if is_custom else "response.function_call_arguments.delta"
            events.append(self._event(kind, **self._where(), delta=text))
        return events

    def _whole(self, item: JSON) -> list[JSON]:
        return [*self._opened(("whole", len(self._output)), item), *self._closed()]

    def _closed(self) -> list[JSON]:
        """What ends the open item, and the calls that waited behind it."""
        if self._open is None:
            return []
        key = self._open
        kind, _ = key
        item, where = self._item, self._where()
        events = self._last_words(kind, item, where)
        if "status" in item and item["status"] == "in_progress":
            item = {**item, "status": "completed"}
        events.append(self._event("response.output_item.done", output_index=len(self._output), item=item))
        self._output.append(item)
        self._done[key] = item
        self._open = None
        if kind == "call":
            waiting, self._waiting, self._live = self._waiting, {}, None
            for index, pieces in waiting.items():
                events += self._write_call(index, pieces)
                self._open = ("late", index)
                events += self._closed_late()
        return events

    def _closed_late(self) -> list[JSON]:
        events = self._last_words("call", self._item, self._where())
        item = {**self._item, "status": "completed"}
        events.append(self._event("response.output_item.done", output_index=len(self._output), item=item))
        self._output.append(item)
        self._open = None
        return events

    def _last_words(self, kind: str, item: JSON, where: JSON) -> list[JSON]:
        match kind:
            case "text":
                part = item["content"][0]
                part["logprobs"], self._logprobs = self._logprobs, []
                done = {"text": part["text"], "logprobs": part["logprobs"]}
                return [
                    self._event("response.output_text.done", **where, content_index=0, **done),
                    self._event("response.content_part.done", **where, content_index=0, part=part),
                ]
            case "refusal":
                part = item["content"][0]
                return [
                    self._event("response.refusal.done", **where, content_index=0, refusal=part["refusal"]),
                    self._event("response.content_part.done", **where, content_index=0, part=part),
                ]
            case "thinking" if item.get("summary"):
                part = item["summary"][0]
                return [
                    self._event("response.reasoning_summary_text.done", **where, summary_index=0, text=part["text"]),
                    self._event("response.reasoning_summary_part.done", **where, summary_index=0, part=part),
                ]
            case "call" if item["type"] == "custom_tool_call":
                return [self._event("response.custom_tool_call_input.done", **where, input=item["input"])]
            case "call":
                named = {"name": item["name"], "arguments": item["arguments"]}
                return [self._event("response.function_call_arguments.done", **where, **named)]
            case _:
                return []

    def response(self) -> JSON:
        """The whole answer, as the last event carries it."""
        usage = dump_usage(self._usage) if self._usage is not None else None
        whole = {**self._head, **_dump_reason(self._reason), "output": self._output, "usage": usage}
        return whole | self._extra

    def finish(self) -> list[JSON]:
        events = [] if self._has_begun else self._start()
        events += self._closed()
        whole = self.response()
        kind = "response.incomplete" if whole["status"] == "incomplete" else "response.completed"
        return [*events, self._event(kind, response=whole)]


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    return dumped(chunks, StreamDumper)


# ------------------------------------------------------------------------------------------------ errors


def error_of(error: Mapping[str, Any]) -> InvokeError:
    """An error object inside an answer or a stream, by its type or code."""
    code = error.get("code")
    kind = kind_of_error(code if isinstance(code, int) else None, code, error.get("type"))
    return kind(str(error.get("message") or code or "the provider reports an error"))
