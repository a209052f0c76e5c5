"""OpenAI Chat Completions <-> our types. Pure: no network, no clock.

Beyond OpenAI's own words it reads and writes what the many servers of this format agree on: `reasoning_content` for
thoughts, and OpenRouter's `reasoning_details` for their signatures, so that a conversation can go on anywhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
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
from modelyard.models.arguments import as_text
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
from modelyard.models.reasoning import budget_of, effort_of
from modelyard.models.streams import dumped, parsed
from modelyard.models.types import JSON

FORMAT = "openai_chat"

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
_OTHERS: dict[str, type] = {
    "logprobs": bool, "response_format": dict, "parallel_tool_calls": bool, "reasoning_effort": str, "verbosity": str,
    "modalities": list, "service_tier": str, "metadata": dict,
}  # fmt: skip
_STRUCTURE = {
    "model", "messages", "tools", "tool_choice", "stop", "stream", "stream_options", "user", "max_completion_tokens",
    "functions", "function_call",
}  # fmt: skip
_KNOWN = frozenset(_STRUCTURE | set(_NUMBERS) | set(_OTHERS))
PARAMETERS = {"stop"} | frozenset(_NUMBERS) | frozenset(_OTHERS) | {"thinking_budget", "include_thoughts"}
"""What a request of this format can say."""
_MAX_MESSAGES = 10_000


# ------------------------------------------------------------------------------------------------ requests


@reads_request
def parse_request(body: JSON) -> LLMRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    messages = need(body, "messages", list)
    if not messages:
        raise InvokeBadRequestError("'messages' must hold at least one message", param="messages")
    if len(messages) > _MAX_MESSAGES:
        raise InvokeBadRequestError(f"'messages' holds more than {_MAX_MESSAGES:,} messages", param="messages")
    parameters = _parse_parameters(body)
    choice = body.get("tool_choice", body.get("function_call"))
    return LLMRequest(
        format=FORMAT,
        messages=_paired(_parse_messages(messages)),
        model_parameters=parameters,
        tools=_parse_tools(body),
        tool_choice=_parse_tool_choice(choice) if choice is not None else None,
        stop=_parse_stop(body.get("stop")),
        stream=may(body, "stream", bool) or False,
        user=may(body, "user", str),
        extra=kept(FORMAT, {key: value for key, value in body.items() if key not in _KNOWN and value is not None}),
    )


def _paired(messages: list[AnyPromptMessage]) -> list[AnyPromptMessage]:
    """The messages, each tool result with the call that it answers before it; raises where one has none."""
    calls: set[str] | None = None
    for place, message in enumerate(messages):
        if isinstance(message, AssistantPromptMessage):
            calls = (calls or set()) | {call.id or call.function.name for call in message.tool_calls}
        elif isinstance(message, ToolPromptMessage) and message.tool_call_id not in (calls or ()):
            where = f"messages[{place}].tool_call_id"
            raise wrong(where, message.tool_call_id, "the id of a tool call in an assistant's message before it")
    return messages


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


def _parse_tools(body: JSON) -> list[PromptMessageTool]:
    tools = [_parse_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools_of(body))]
    for place, function in enumerate(tools_of(body, "functions")):
        tools.append(_parse_function(typed(function, dict, f"functions[{place}]"), f"functions[{place}]", {}))
    return tools


def _parse_tool(tool: Any, where: str) -> PromptMessageTool:
    body = typed(tool, dict, where)
    kind = body.get("type", "function")
    if kind == "function":
        return _parse_function(need(body, "function", dict, f"{where}."), f"{where}.function", body)
    if kind == "custom":
        custom = need(body, "custom", dict, f"{where}.")
        name = need(custom, "name", str, f"{where}.custom.")
        rest = beyond(custom, frozenset({"name", "description"}))
        description = custom.get("description") or ""
        return PromptMessageTool(name=name, description=description, type="custom", extra=kept(FORMAT, rest))
    if not isinstance(kind, str):
        raise wrong(f"{where}.type", kind, "a string as 'function'")
    return PromptMessageTool(name=kind, type=kind, extra={FORMAT: body})


def _parse_function(function: JSON, where: str, around: JSON) -> PromptMessageTool:
    known = frozenset({"name", "description", "parameters", "strict"})
    strict = may(function, "strict", bool, f"{where}.")
    return PromptMessageTool(
        name=need(function, "name", str, f"{where}."),
        description=may(function, "description", str, f"{where}.") or "",
        parameters=may(function, "parameters", dict, f"{where}.") or {},
        strict=strict,
        cache_control=around.get("cache_control"),
        extra=kept(FORMAT, beyond(function, known)),
    )


def _parse_tool_choice(value: Any) -> str | dict[str, Any]:
    if isinstance(value, str):
        if value == "any":  # what Mistral calls it
            return "required"
        if value not in ("auto", "none", "required"):
            raise wrong("tool_choice", value, "auto, none, required or an object that names a function")
        return value
    choice = typed(value, dict, "tool_choice")
    match choice.get("type"):
        case "function" | "custom" as kind:
            inner = need(choice, kind, dict, "tool_choice.")
            return {"name": need(inner, "name", str, f"tool_choice.{kind}.")}
        case None if "name" in choice:  # `function_call` of old
            return {"name": need(choice, "name", str, "tool_choice.")}
        case "allowed_tools":
            allowed = need(choice, "allowed_tools", dict, "tool_choice.")
            tools = need(allowed, "tools", list, "tool_choice.allowed_tools.")
            names = [one.get("name") or (one.get("function") or {}).get("name") for one in tools]
            return {"mode": allowed.get("mode") or "auto", "allowed": names}
        case other:
            raise wrong("tool_choice.type", other, "function, custom or allowed_tools")


_SIMPLE: dict[Any, Any] = {
    "user": UserPromptMessage, "assistant": AssistantPromptMessage, "system": SystemPromptMessage,
}  # fmt: skip


def _parse_messages(messages: list[Any]) -> list[AnyPromptMessage]:
    """The messages; those of a role and a text alone, as most are, without looking further."""
    result: list[AnyPromptMessage] = []
    for place, one in enumerate(messages):
        if type(one) is dict and len(one) == 2 and type(text := one.get("content")) is str:
            role = one.get("role")
            if type(role) is str and role in _SIMPLE:
                result.append(_SIMPLE[role](content=text))
                continue
        result.append(_parse_message(one, f"messages[{place}]"))
    return result


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
            return UserPromptMessage(content=content, name=name, extra=kept(FORMAT, beyond(message, _PLAIN)))
        case "assistant":
            return parse_assistant(message, where)
        case "system" | "developer":
            rest = beyond(message, _PLAIN)
            if role == "developer":
                rest = {**rest, "role": role}
            content = _parse_content(message.get("content"), where)
            return SystemPromptMessage(content=content, name=name, extra=kept(FORMAT, rest))
        case "tool" | "function":
            return _parse_tool_message(message, where)
        case _:
            raise wrong(f"{where}.role", role, "system, developer, user, assistant or tool")


def _parse_tool_message(message: JSON, where: str) -> ToolPromptMessage:
    is_old = message["role"] == "function"
    content = message.get("content")
    rest = beyond(message, _TOOL) | ({"role": "function"} if is_old else {})
    return ToolPromptMessage(
        content=_parse_content(content, where) if content is not None else None,
        name=message.get("name"),
        tool_call_id=need(message, "name" if is_old else "tool_call_id", str, f"{where}."),
        cache_control=message.get("cache_control"),
        extra=kept(FORMAT, rest),
    )


_PLAIN = frozenset({"role", "content", "name"})
_TOOL = _PLAIN | {"tool_call_id", "cache_control"}
_ASSISTANT = _PLAIN | {
    "tool_calls", "refusal", "reasoning_content", "reasoning", "reasoning_details", "function_call", "audio", "images",
    "annotations",
}  # fmt: skip


def parse_assistant(message: JSON, where: str = "message") -> AssistantPromptMessage:
    """An assistant's message, from a request or from an answer."""
    calls = message.get("tool_calls") or ()
    content = message.get("content")
    is_silent = content is None and not calls
    if is_silent and where.startswith("messages") and not message.keys() & _ASSISTANT - _PLAIN:
        raise wrong(f"{where}.content", None, "a string, or tool_calls beside it")
    tool_calls = [_parse_call(call, f"{where}.tool_calls[{place}]") for place, call in enumerate(calls)]
    if old := message.get("function_call"):
        tool_calls.append(_parse_old_call(old))
    rest = beyond(message, _ASSISTANT)
    if message.get("reasoning_details") or message.get("images") or message.get("annotations") or message.get("audio"):
        return _rich_assistant(message, tool_calls, where, kept(FORMAT, rest))
    parts = _parse_content(content, where) if content is not None else None
    return AssistantPromptMessage(
        content=plain(parts) if isinstance(parts, list) else parts,
        name=message.get("name"),
        tool_calls=tool_calls,
        reasoning_content=message.get("reasoning_content") or message.get("reasoning"),
        refusal=message.get("refusal"),
        extra=kept(FORMAT, rest),
    )


def _rich_assistant(message: JSON, calls: list[ToolCall], where: str, extra: dict[str, Any]) -> AssistantPromptMessage:
    """One with more than text and calls: signed thoughts, images, sources, speech."""
    content = message.get("content")
    parts = _parse_content(content, where) if content is not None else None
    blocks: list[Any] = [TextPromptMessageContent(data=parts)] if isinstance(parts, str) and parts else []
    if isinstance(parts, list):
        blocks += parts
    if annotations := message.get("annotations"):
        blocks = _cited(blocks, [_parse_annotation(one) for one in annotations if isinstance(one, dict)])
    for place, image in enumerate(message.get("images") or ()):
        blocks.append(_parse_part(image, f"{where}.images[{place}]"))
    if audio := message.get("audio"):
        rest = {key: value for key, value in audio.items() if key != "data"}
        data = audio.get("data") or ""
        blocks.append(AudioPromptMessageContent(base64_data=data, format="wav", extra=kept(FORMAT, rest)))
    details = message.get("reasoning_details") or ()
    thoughts, before = _parse_details(details)
    for call in calls:
        blocks += [*before.pop(call.id, ()), call]
    blocks = [*thoughts, *(one for waiting in before.values() for one in waiting), *blocks]
    said_apart = message.get("reasoning_content") or message.get("reasoning")
    has_text = any(thought.data for thought in thoughts)
    return assistant_of(
        blocks,
        name=message.get("name"),
        reasoning_content=None if has_text else said_apart,
        refusal=message.get("refusal"),
        extra=extra,
    )


def _cited(blocks: list[Any], citations: list[Citation]) -> list[Any]:
    """The blocks, their last text with its sources; in a stream the sources come alone."""
    if blocks and isinstance(blocks[-1], TextPromptMessageContent):
        return [*blocks[:-1], msgspec.structs.replace(blocks[-1], citations=citations)]
    return [*blocks, TextPromptMessageContent(data="", citations=citations)]


def _parse_annotation(one: JSON) -> Citation:
    cited = one.get("url_citation")
    cited = cited if isinstance(cited, dict) else {}
    return Citation(
        url=cited.get("url") or "",
        title=cited.get("title") or "",
        quote=cited.get("content") or "",
        start=count(cited.get("start_index")),
        end=count(cited.get("end_index")),
        extra={FORMAT: one},
    )


_ORIGINS = {
    "anthropic-claude-v1": "anthropic",
    "google-gemini-v1": "gemini",
    "openai-responses-v1": "openai_responses",
    "bedrock-converse-v1": "bedrock",
}
_FORMATS = {origin: name for name, origin in _ORIGINS.items()}


def _parse_details(
    details: Sequence[Any],
) -> tuple[list[ThinkingPromptMessageContent], dict[str, list[ThinkingPromptMessageContent]]]:
    """Thoughts in order, and those that sign a call, by its id."""
    thoughts: list[ThinkingPromptMessageContent] = []
    before: dict[str, list[ThinkingPromptMessageContent]] = {}
    for one in details:
        if not isinstance(one, dict):
            continue
        thought = _parse_detail(one)
        if one.get("type") == "reasoning.encrypted" and thought.origin == "gemini" and thought.id:
            before.setdefault(thought.id, []).append(msgspec.structs.replace(thought, id=""))
        elif thoughts and thought.id and thoughts[-1].id == thought.id and not thoughts[-1].signature:
            thoughts[-1] = msgspec.structs.replace(thoughts[-1], signature=thought.signature)
        else:
            thoughts.append(thought)
    return thoughts, before


def _parse_detail(one: JSON) -> ThinkingPromptMessageContent:
    origin = _ORIGINS.get(one.get("format") or "", "")
    is_hidden = one.get("type") == "reasoning.encrypted"
    return ThinkingPromptMessageContent(
        data=one.get("text") or one.get("summary") or "",
        signature=(one.get("data") if is_hidden else one.get("signature")) or "",
        redacted=is_hidden and origin in ("anthropic", "bedrock"),
        id=one.get("id") or "",
        origin=origin,
        index=count(one.get("index")),
    )


def _dump_details(message: AssistantPromptMessage, *, is_piece: bool) -> list[JSON]:
    """Thoughts with what proves them; nothing where none has a proof. In a stream it may still come."""
    details: list[JSON] = []
    blocks = message.blocks
    for place, block in enumerate(blocks):
        if not isinstance(block, ThinkingPromptMessageContent):
            continue
        after = blocks[place + 1] if place + 1 < len(blocks) else None
        details += _dump_thought(block, after.id if isinstance(after, ToolCall) else "", len(details))
    is_proven = any("signature" in one or "data" in one or (is_piece and "format" in one) for one in details)
    return details if is_proven else []


def _dump_thought(thought: ThinkingPromptMessageContent, call: str, index: int) -> list[JSON]:
    form = {"format": _FORMATS[thought.origin]} if thought.origin in _FORMATS else {}
    index = index if thought.index is None else thought.index
    shared = {**form, **({"id": thought.id} if thought.id else {}), "index": index}
    if thought.origin == "openai_responses":
        shown = [{"type": "reasoning.summary", "summary": thought.data, **shared}] if thought.data else []
        hidden = [{"type": "reasoning.encrypted", "data": thought.signature, **shared}] if thought.signature else []
        return shown + hidden
    if thought.redacted or not thought.data:
        if not thought.signature:
            return []
        named = {"id": call} if call and not thought.redacted else {}
        return [{"type": "reasoning.encrypted", "data": thought.signature, **shared, **named}]
    signed = {"signature": thought.signature} if thought.signature else {}
    return [{"type": "reasoning.text", "text": thought.data, **signed, **shared}]


def _parse_call(call: Any, where: str) -> ToolCall:
    body = typed(call, dict, where)
    kind = body.get("type") or "function"
    inner = body.get("custom") if kind == "custom" else body.get("function")
    inner = inner if isinstance(inner, dict) else {}
    index = body.get("index")
    given = inner.get("input" if kind == "custom" else "arguments")
    return ToolCall(
        id=body.get("id") or "",
        type=kind,
        # Some servers give an object where text belongs.
        function=ToolCallFunction(name=inner.get("name") or "", arguments="" if given is None else as_text(given)),
        index=index if isinstance(index, int) else None,
        extra=kept(FORMAT, beyond(body, _CALL)),
    )


_CALL = frozenset({"id", "type", "function", "custom", "index"})


def _parse_old_call(call: Any) -> ToolCall:
    """`function_call`, as it was before there were several: its name stands for its id."""
    name, arguments = call.get("name") or "", call.get("arguments") or ""
    return ToolCall(
        type="function",
        function=ToolCallFunction(name=name, arguments=arguments),
        index=0,
        extra={FORMAT: {"old": True}},
    )


def _parse_content(content: Any, where: str) -> Content:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(f"{where}.content", content, "a string or a list of parts")
    return [_parse_part(part, f"{where}.content[{place}]") for place, part in enumerate(content)]


def _parse_part(part: Any, where: str) -> PromptMessageContent:
    body = {"type": "text", "text": part} if isinstance(part, str) else typed(part, dict, where)
    kind = body.get("type")
    reader = _PARTS.get(kind) if isinstance(kind, str) else None
    if reader is not None:
        found = reader(body, where)
        cache = body.get("cache_control")
        return msgspec.structs.replace(found, cache_control=cache) if cache else found
    if isinstance(kind, str):  # a part that this format has elsewhere and we have no name for
        return OpaquePromptMessageContent(format=FORMAT, data=body)
    raise wrong(f"{where}.type", kind, "text, image_url, video_url, input_audio or file")


def _parse_text(body: JSON, where: str) -> PromptMessageContent:
    rest = beyond(body, frozenset({"type", "text", "cache_control"}))
    return TextPromptMessageContent(data=need(body, "text", str, f"{where}."), extra=kept(FORMAT, rest))


def _parse_image(body: JSON, where: str) -> PromptMessageContent:
    image = body.get("image_url")
    image = {"url": image} if isinstance(image, str) else need(body, "image_url", dict, f"{where}.")
    detail = image.get("detail") or ""
    if detail not in ("", "auto", "low", "high"):
        raise wrong(f"{where}.image_url.detail", detail, "auto, low or high")
    url = need(image, "url", str, f"{where}.image_url.")
    fields = from_url(url, f"{where}.image_url.url", is_image=True)
    return ImagePromptMessageContent(**fields, detail=detail)


def _parse_video(body: JSON, where: str) -> PromptMessageContent:
    url = need(need(body, "video_url", dict, f"{where}."), "url", str, f"{where}.video_url.")
    return VideoPromptMessageContent(**from_url(url, f"{where}.video_url.url"))


def _parse_audio(body: JSON, where: str) -> PromptMessageContent:
    audio = need(body, "input_audio", dict, f"{where}.")
    form = need(audio, "format", str, f"{where}.input_audio.")
    data = checked_base64(need(audio, "data", str, f"{where}.input_audio."), f"{where}.input_audio.data")
    return AudioPromptMessageContent(base64_data=data, format=form, mime_type=mime_of(form, "audio"))


def _parse_file(body: JSON, where: str) -> PromptMessageContent:
    file = need(body, "file", dict, f"{where}.")
    filename = may(file, "filename", str, f"{where}.file.") or ""
    rest = beyond(file, frozenset({"filename", "file_data"}))
    fields = {}
    if data := may(file, "file_data", str, f"{where}.file."):
        fields = from_url(data, f"{where}.file.file_data")
    return DocumentPromptMessageContent(**fields, filename=filename, extra=kept(FORMAT, rest))


def _parse_refusal(body: JSON, where: str) -> PromptMessageContent:
    return TextPromptMessageContent(data=need(body, "refusal", str, f"{where}."), extra={FORMAT: {"type": "refusal"}})


def _parse_thinking(body: JSON, where: str) -> PromptMessageContent:
    """Mistral's, and what Anthropic's look like when somebody puts them here."""
    thinking = body.get("thinking")
    if isinstance(thinking, list):
        thinking = "".join(one.get("text") or "" for one in thinking if isinstance(one, dict))
    rest = beyond(body, frozenset({"type", "thinking", "signature"}))
    return ThinkingPromptMessageContent(
        data=thinking if isinstance(thinking, str) else "",
        signature=body.get("signature") or "",
        extra={FORMAT: {"type": "thinking", **rest}},
    )


_PARTS = {
    "text": _parse_text,
    "image_url": _parse_image,
    "video_url": _parse_video,
    "input_audio": _parse_audio,
    "file": _parse_file,
    "refusal": _parse_refusal,
    "thinking": _parse_thinking,
}


def dump_request(request: LLMRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    """The request as a server of this format wants it.

    Quirks: `max_tokens_field`, `no_stream_options`, `drop` (fields the server refuses), `rename` (fields it calls
    otherwise), `reasoning` (how it is told to think), `reasoning_field` (where it wants its thoughts back; empty:
    nowhere), `thinking_parts` (its thoughts are parts of the content), `required_tool_choice` (its word for
    `required`).
    """
    body: JSON = {"model": model, "messages": [_dump_message(message, quirks) for message in request.messages]}
    parameters = dict(request.model_parameters)
    _REASONING[quirks.get("reasoning", "effort")](parameters)
    if "max_tokens" in parameters:
        parameters[quirks.get("max_tokens_field", "max_tokens")] = parameters.pop("max_tokens")
    body.update(parameters)
    if request.tools:
        body["tools"] = [_dump_tool(tool) for tool in request.tools]
    if (choice := request.tool_choice) is not None:
        body["tool_choice"] = _dump_tool_choice(choice, quirks)
    if request.stop:
        body["stop"] = request.stop
    if request.user is not None:
        body["user"] = request.user
    if request.extra:
        body.update(request.extra.get(FORMAT) or {})
    if request.stream:
        body["stream"] = True
        if not quirks.get("no_stream_options"):
            body["stream_options"] = {"include_usage": True}
    for name in quirks.get("drop", ()):
        body.pop(name, None)
    for name, other in quirks.get("rename", {}).items():
        if name in body:
            body[other] = body.pop(name)
    return body


def _effort(parameters: dict[str, Any]) -> None:
    """`reasoning_effort`, as OpenAI; a budget becomes the effort that is nearest."""
    parameters.pop("include_thoughts", None)
    budget = parameters.pop("thinking_budget", None)
    if budget is None or "reasoning_effort" in parameters or budget < 0:
        return
    parameters["reasoning_effort"] = effort_of(budget)


def _openrouter(parameters: dict[str, Any]) -> None:
    shown = parameters.pop("include_thoughts", None)
    effort, budget = parameters.pop("reasoning_effort", None), parameters.pop("thinking_budget", None)
    reasoning = compact(effort=effort, max_tokens=budget, exclude=True if shown is False else None)
    if reasoning:
        parameters["reasoning"] = reasoning


def _switch(parameters: dict[str, Any]) -> None:
    """`thinking: {type: enabled}`: Zhipu, Volcengine, Moonshot, DeepSeek."""
    parameters.pop("include_thoughts", None)
    effort, budget = parameters.pop("reasoning_effort", None), parameters.pop("thinking_budget", None)
    if effort is not None or budget is not None:
        parameters["thinking"] = {"type": "disabled" if effort == "none" or budget == 0 else "enabled"}


def _enable_thinking(parameters: dict[str, Any]) -> None:
    """`enable_thinking` and `thinking_budget`: DashScope, SiliconFlow."""
    parameters.pop("include_thoughts", None)
    effort, budget = parameters.pop("reasoning_effort", None), parameters.pop("thinking_budget", None)
    if effort is None and budget is None:
        return
    parameters["enable_thinking"] = not (effort == "none" or budget == 0)
    if budget is None or budget < 0:
        budget = budget_of(effort or "", unknown=0)
    if budget:
        parameters["thinking_budget"] = budget


_REASONING = {
    "effort": _effort, "openrouter": _openrouter, "thinking": _switch, "enable_thinking": _enable_thinking,
}  # fmt: skip


def _dump_tool_choice(choice: str | dict[str, Any], quirks: Mapping[str, Any]) -> Any:
    if choice == "required":
        return quirks.get("required_tool_choice", "required")
    if isinstance(choice, str):
        return choice
    if "allowed" in choice:
        tools = [{"type": "function", "function": {"name": name}} for name in choice["allowed"]]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": tools}}
    return {"type": "function", "function": {"name": choice["name"]}}


def _dump_tool(tool: PromptMessageTool) -> JSON:
    rest = tool.extra.get(FORMAT, {})
    if tool.type == "custom":
        return {"type": "custom", "custom": {"name": tool.name, **compact(description=tool.description), **rest}}
    if tool.type != "function":
        if not rest:
            raise InvokeBadRequestError(
                f"tool {tool.name!r} is run by the provider of another format; this one cannot run it", param="tools"
            )
        return rest
    function: JSON = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    cached = {"cache_control": tool.cache_control} if tool.cache_control else {}
    return {"type": "function", "function": function | rest, **cached}


def _dump_message(message: AnyPromptMessage, quirks: Mapping[str, Any]) -> JSON:
    body: JSON = {"role": message.role.value}
    if isinstance(message, AssistantPromptMessage):
        thinks_inside = bool(quirks.get("thinking_parts"))
        body |= dump_assistant(message, with_details=not thinks_inside, thinks_inside=thinks_inside)
        field = quirks.get("reasoning_field", "reasoning_content")
        if field != "reasoning_content" and (thoughts := body.pop("reasoning_content", None)) and field:
            body[field] = thoughts
        if not field:
            body.pop("reasoning_details", None)
    elif isinstance(message, ToolPromptMessage):
        body["content"] = "" if message.content is None else _dump_content(message.content)
        body["tool_call_id"] = message.tool_call_id
        if message.cache_control:
            body["cache_control"] = message.cache_control
    else:
        body["content"] = _dump_content(message.content)
    if message.name is not None:
        body["name"] = message.name
    if message.extra:
        body.update(message.extra.get(FORMAT) or {})
        if body["role"] == "function":
            body.pop("tool_call_id", None)
    return body


def dump_assistant(
    message: AssistantPromptMessage,
    *,
    with_details: bool = True,
    thinks_inside: bool = False,
    is_piece: bool = False,
) -> JSON:
    """What an assistant's message says, its role left out."""
    content = message.content
    if isinstance(content, list):
        body: JSON = _dump_rich(message, content, thinks_inside=thinks_inside)
        if with_details and (details := _dump_details(message, is_piece=is_piece)):
            body["reasoning_details"] = details
    else:
        body = {"content": content}
        if message.reasoning_content:
            body["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        calls = message.tool_calls
        if "old" in calls[0].extra.get(FORMAT, {}):
            called = calls[0].function
            body["function_call"] = {"name": called.name, "arguments": called.arguments}
        else:
            body["tool_calls"] = [_dump_call(call) for call in calls]
    if message.refusal is not None:
        body["refusal"] = message.refusal
    return body


def _dump_rich(message: AssistantPromptMessage, parts: list[PromptMessageContent], *, thinks_inside: bool) -> JSON:
    texts = [part for part in parts if isinstance(part, TextPromptMessageContent)]
    shown = [part for part in parts if isinstance(part, ImagePromptMessageContent)]
    spoken = next((part for part in parts if isinstance(part, AudioPromptMessageContent)), None)
    own = [
        part
        for part in parts
        if (isinstance(part, OpaquePromptMessageContent) and part.format == FORMAT)
        or (isinstance(part, ThinkingPromptMessageContent) and part.extra.get(FORMAT) and thinks_inside)
    ]
    if own or any(part.extra.get(FORMAT) or part.cache_control for part in texts):
        kinds = (TextPromptMessageContent, *([ThinkingPromptMessageContent] if thinks_inside else []))
        content: Any = [_dump_part(part) for part in parts if part in own or isinstance(part, kinds)]
    else:
        content = "".join([part.data for part in texts]) if texts else None
    body: JSON = {"content": content}
    if not thinks_inside and (thoughts := message.thinking):
        body["reasoning_content"] = thoughts
    if shown:
        body["images"] = [_dump_part(part) for part in shown]
    if annotations := _dump_annotations(texts):
        body["annotations"] = annotations
    if spoken is not None:
        data = {"data": spoken.base64_data} if spoken.base64_data else {}
        body["audio"] = {**data, **spoken.extra.get(FORMAT, {})}
    return body


def _dump_annotations(texts: list[TextPromptMessageContent]) -> list[JSON]:
    annotations: list[JSON] = []
    before = 0
    for text in texts:
        length = len(text.data)
        annotations += [one.extra.get(FORMAT) or _dump_citation(one, before, length) for one in text.citations]
        before += length
    return annotations


def _dump_citation(one: Citation, before: int, length: int) -> JSON:
    """Places count characters of the whole answer here, of one part in our types."""
    start = before + (one.start or 0)
    end = before + (length if one.end is None else one.end)
    cited = compact(url=one.url, title=one.title, content=one.quote)
    return {
        "type": "url_citation",
        "url_citation": {"url": "", "title": "", "start_index": start, "end_index": end} | cited,
    }


def _dump_call(call: ToolCall) -> JSON:
    body: JSON = {"id": call.id, "type": call.type}
    if call.type == "custom":
        body["custom"] = {"name": call.function.name, "input": call.function.arguments}
    else:
        body["function"] = {"name": call.function.name, "arguments": call.function.arguments}
    if call.index is not None:
        body["index"] = call.index
    return body | call.extra.get(FORMAT, {}) if call.extra else body


def _dump_content(content: Content) -> Any:
    if not isinstance(content, list):
        return content
    return [
        _dump_part(part)
        for part in content
        if not isinstance(part, OpaquePromptMessageContent) or part.format == FORMAT
    ]


def _dump_part(part: PromptMessageContent) -> JSON:
    body = _dump_bare(part)
    if part.cache_control:
        body = {**body, "cache_control": part.cache_control}
    return body


def _dump_bare(part: PromptMessageContent) -> JSON:
    rest = part.extra.get(FORMAT, {}) if part.extra else {}
    match part:
        case TextPromptMessageContent():
            if rest.get("type") == "refusal":
                return {"type": "refusal", "refusal": part.data}
            return {"type": "text", "text": part.data, **rest}
        case ThinkingPromptMessageContent():
            return {"type": "thinking", "thinking": [{"type": "text", "text": part.data}], **rest}
        case ImagePromptMessageContent():
            detail = {"detail": part.detail} if part.detail else {}
            return {"type": "image_url", "image_url": {"url": part.data, **detail}}
        case AudioPromptMessageContent():
            if not part.base64_data:
                raise InvokeBadRequestError("audio at an address cannot be sent in this format; send its bytes")
            form = part.format or format_of(part.mime_type)
            return {"type": "input_audio", "input_audio": {"data": part.base64_data, "format": form}}
        case VideoPromptMessageContent():
            return {"type": "video_url", "video_url": {"url": part.data}}
        case DocumentPromptMessageContent():
            return {"type": "file", "file": _dump_file(part, rest)}
        case OpaquePromptMessageContent():
            return part.data


def _dump_file(part: MultiModalPromptMessageContent, rest: JSON) -> JSON:
    file: JSON = dict(rest)
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
    reasoning = counted(body, "completion_tokens_details", "reasoning_tokens") or counted(body, "reasoning_tokens")
    completion = completion or 0
    if reasoning and counted(body, "total_tokens") == (prompt or 0) + completion + reasoning:
        completion += reasoning  # xAI leaves it out of `completion_tokens`, as the sum tells
    return LLMUsage(
        prompt_tokens=prompt or 0,
        completion_tokens=completion,
        total_tokens=count(body.get("total_tokens")) or (prompt or 0) + completion,
        cached_tokens=counted(body, "prompt_tokens_details", "cached_tokens")
        or counted(body, "prompt_cache_hit_tokens"),  # DeepSeek's word
        cache_write_tokens=counted(body, "prompt_tokens_details", "cache_write_tokens"),
        audio_prompt_tokens=counted(body, "prompt_tokens_details", "audio_tokens"),
        image_prompt_tokens=counted(body, "prompt_tokens_details", "image_tokens"),
        reasoning_tokens=reasoning,
        audio_completion_tokens=counted(body, "completion_tokens_details", "audio_tokens"),
        image_completion_tokens=counted(body, "completion_tokens_details", "image_tokens"),
        searches=counted(body, "num_search_queries"),  # Perplexity's
        total_price=_stated_cost(body.get("cost")),
        extra={FORMAT: body},
    )


def _stated_cost(cost: Any) -> Decimal | None:
    """What the call cost in dollars, where the server itself says: OpenRouter and Perplexity do."""
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < 1e6:
        return None
    return Decimal(str(cost))


def dump_usage(usage: LLMUsage) -> JSON:
    if own := usage.extra.get(FORMAT):
        return own
    into = {"cached_tokens": usage.cached_tokens}
    if usage.cache_write_tokens:
        into["cache_write_tokens"] = usage.cache_write_tokens
    if usage.audio_prompt_tokens:
        into["audio_tokens"] = usage.audio_prompt_tokens
    if usage.image_prompt_tokens:
        into["image_tokens"] = usage.image_prompt_tokens
    out = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.audio_completion_tokens:
        out["audio_tokens"] = usage.audio_completion_tokens
    if usage.image_completion_tokens:
        out["image_tokens"] = usage.image_completion_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": into,
        "completion_tokens_details": out,
    }


_RESULT_KNOWN = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint"})
_CHUNK_KNOWN = _RESULT_KNOWN | {"obfuscation"}  # random letters against those who count bytes: not ours to keep
_CHOICE_KNOWN = frozenset({"index", "message", "delta", "finish_reason", "logprobs"})

# Other words for the same, as servers of this format have them.
_REASONS = {
    "function_call": "tool_calls", "eos": "stop", "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length",
    "model_length": "length", "COMPLETE": "stop", "MAX_TOKENS": "length", "tool_call": "tool_calls",
    "sensitive": "content_filter", "network_error": "stop",
}  # fmt: skip


@reads_answer
def parse_result(body: JSON, quirks: Mapping[str, Any] | None = None) -> LLMResult:
    """A whole answer. Raises InvokeError where it is none."""
    del quirks
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
        extra=kept(FORMAT, beyond(body, _RESULT_KNOWN)),
    )


def _parse_choice(choice: Any, place: int) -> LLMChoice:
    if not isinstance(choice, dict) or not isinstance(choice.get("message") or {}, dict):
        raise InvokeServerUnavailableError("a choice of the answer holds no message")
    if choice.get("message") is None and choice.get("finish_reason") is None:
        raise InvokeServerUnavailableError("a choice of the answer holds no message")
    if isinstance(choice.get("error"), dict):  # OpenRouter: what one of its providers said
        raise error_of(choice["error"])
    index = choice.get("index")
    reason, extra = _parse_reason(choice)
    return LLMChoice(
        index=index if isinstance(index, int) else place,
        message=_read(parse_assistant, choice.get("message") or {}),
        finish_reason=reason,
        logprobs=choice.get("logprobs"),
        extra=extra,
    )


def _read(parse: Any, message: JSON) -> AssistantPromptMessage:
    """What a server sent that we cannot read is the server's mistake, not the caller's."""
    try:
        return parse(message)
    except InvokeBadRequestError as error:
        raise InvokeServerUnavailableError(f"the answer cannot be read: {error}") from error


def _parse_reason(choice: JSON) -> tuple[str | None, dict[str, Any]]:
    reason = choice.get("finish_reason")
    rest = beyond(choice, _CHOICE_KNOWN)
    if reason in _REASONS:
        return _REASONS[reason], {FORMAT: {**rest, "finish_reason": reason}}
    return reason or None, kept(FORMAT, {key: value for key, value in rest.items() if value is not None})


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
    return {**body, **result.extra.get(FORMAT, {})} if result.extra else body


def _dump_choice(choice: LLMChoice) -> JSON:
    message = choice.message
    body: JSON = {"role": "assistant", "content": None, "refusal": None, **dump_assistant(message)}
    if message.extra:
        body |= message.extra.get(FORMAT, {})
    return {
        "index": choice.index,
        "message": body,
        "logprobs": choice.logprobs,
        "finish_reason": _dump_reason(choice.finish_reason),
        **choice.extra.get(FORMAT, {}),
    }


def _dump_reason(reason: str | None) -> str | None:
    return "stop" if reason == "pause" else reason


# ------------------------------------------------------------------------------------------------ streams


class StreamParser:
    """Events of a stream, one at a time, into chunks."""

    def __init__(self, quirks: Mapping[str, Any] | None = None) -> None:
        del quirks
        self._has_finished = False
        self._named: set[tuple[int, int]] = set()

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        get = event.get
        if get("error") and isinstance(event["error"], dict):
            raise error_of(event["error"])
        stated = get("usage") or (event["x_groq"].get("usage") if isinstance(get("x_groq"), dict) else None)
        usage = parse_usage(stated) if stated else None
        choices = get("choices") or ()
        deltas = [self._delta(choice, usage) for choice in choices]
        if usage is not None and not choices:
            deltas.append(LLMResultChunkDelta(usage=usage))
        rest = beyond(event, _CHUNK_KNOWN)
        return [
            LLMResultChunk(
                delta=delta,
                id=get("id") or "",
                model=get("model") or "",
                created=get("created") or 0,
                system_fingerprint=get("system_fingerprint"),
                extra={FORMAT: rest} if rest else {},
            )
            for delta in deltas
        ]

    def _delta(self, choice: Any, usage: LLMUsage | None) -> LLMResultChunkDelta:
        if not isinstance(choice, dict):
            raise InvokeServerUnavailableError(f"a choice of the stream is no object but {said(choice)}")
        if isinstance(choice.get("error"), dict):
            raise error_of(choice["error"])
        reason, extra = _parse_reason(choice)
        if reason is not None:
            self._has_finished = True
        message = _parse_delta(choice.get("delta"))
        if message.tool_calls:
            message = self._named_once(message, choice.get("index") or 0)
        return LLMResultChunkDelta(
            index=choice.get("index") or 0,
            message=message,
            finish_reason=reason,
            logprobs=choice.get("logprobs"),
            usage=usage,
            extra=extra,
        )

    def _named_once(self, message: AssistantPromptMessage, choice: int) -> AssistantPromptMessage:
        """Some servers name a call in each of its pieces; whoever joins them would double the name."""
        calls: list[ToolCall] = []
        for call in message.tool_calls:
            key = (choice, call.index if call.index is not None else -1)
            if call.function.name and key in self._named and call.index is not None:
                call = msgspec.structs.replace(call, function=ToolCallFunction(arguments=call.function.arguments))
            elif call.function.name:
                self._named.add(key)
            calls.append(call)
        return msgspec.structs.replace(message, tool_calls=calls)

    def finish(self, *, done: bool) -> list[LLMResultChunk]:
        """The body has ended; `done` where `[DONE]` was seen. A stream cut short must not look like a whole one."""
        if not done and not self._has_finished:
            raise InvokeServerUnavailableError("the stream broke off: neither a finish reason nor [DONE] came")
        return []


_EMPTY = AssistantPromptMessage()


def _parse_delta(delta: Any) -> AssistantPromptMessage:
    if not isinstance(delta, dict):
        return _EMPTY
    content = delta.get("content")
    if len(delta) == 1 and isinstance(content, str):  # nearly every chunk of a long answer
        return AssistantPromptMessage(content=content)
    message = _read(parse_assistant, {key: value for key, value in delta.items() if key != "role"})
    if not isinstance(message.content, list):
        return message
    # In a stream Mistral's thoughts come as parts: the pieces of one thought are told by their kind.
    parts = [
        msgspec.structs.replace(part, index=0)
        if isinstance(part, ThinkingPromptMessageContent) and part.index is None
        else part
        for part in message.content
    ]
    return msgspec.structs.replace(message, content=parts)


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    return parsed(StreamParser(), events)


class StreamDumper:
    """Chunks, one at a time, into events: the role first, usage last and only if it was asked for. `has_begun` where
    the caller has the first events already: clients that add pieces up would double a role said twice."""

    def __init__(
        self, *, response_id: str, created: int, model: str, include_usage: bool = True, has_begun: bool = False
    ) -> None:
        self._head: JSON = {
            "id": response_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._include_usage = include_usage
        self._usage: LLMUsage | None = None
        self._begun: set[int] = {0} if has_begun else set()
        self._extra: JSON = {}

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        """The events for this chunk; none where it held usage alone."""
        delta = chunk.delta
        if delta.usage is not None:
            self._usage = delta.usage
        rest = chunk.extra.get(FORMAT, {}) if chunk.extra else {}
        body = _dump_delta(delta.message)
        is_empty = not body and delta.finish_reason is None and delta.logprobs is None and not delta.extra
        if is_empty and (delta.usage is not None or delta.index in self._begun):
            self._extra = rest
            return []
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            body = {"role": "assistant", **({"content": ""} if not body else {}), **body}
        reason = _dump_reason(delta.finish_reason)
        choice = {"index": delta.index, "delta": body, "logprobs": delta.logprobs, "finish_reason": reason}
        if delta.extra:
            choice |= delta.extra.get(FORMAT, {})
        event = {**self._head, "choices": [choice]}
        if chunk.system_fingerprint is not None:
            event["system_fingerprint"] = chunk.system_fingerprint
        if self._include_usage:
            event["usage"] = None
        if rest:
            event |= rest
        return [event]

    def finish(self) -> list[JSON]:
        """The event with usage that ends a stream, if one was asked for."""
        if not self._include_usage:
            return []
        usage = dump_usage(self._usage) if self._usage is not None else None
        return [{**self._head, "choices": [], "usage": usage, **self._extra}] if usage or self._extra else []


def _dump_delta(message: AssistantPromptMessage) -> JSON:
    content = message.content
    if isinstance(content, list) and len(content) == 1 and not message.tool_calls:
        only = content[0]
        if isinstance(only, TextPromptMessageContent) and not only.citations and not only.extra:
            content = only.data  # nearly every chunk of a long answer that came in blocks
    if isinstance(content, list):
        said_so_far = dump_assistant(message, is_piece=True)
        body: JSON = {key: value for key, value in said_so_far.items() if value not in (None, "")}
    else:
        body = {} if content is None else {"content": content}
        if message.reasoning_content:
            body["reasoning_content"] = message.reasoning_content
        if message.refusal is not None:
            body["refusal"] = message.refusal
    if message.tool_calls:
        calls = message.tool_calls
        if "old" in calls[0].extra.get(FORMAT, {}):
            body["function_call"] = compact(name=calls[0].function.name) | {"arguments": calls[0].function.arguments}
        else:
            body["tool_calls"] = [_dump_piece(call, place) for place, call in enumerate(calls)]
    if message.extra:
        body.update(message.extra.get(FORMAT, {}))
    return body


def _dump_piece(call: ToolCall, place: int) -> JSON:
    body: JSON = {"index": place if call.index is None else call.index}
    if call.type == "custom":
        body["custom"] = compact(name=call.function.name) | {"input": call.function.arguments}
    else:
        body["function"] = compact(name=call.function.name) | {"arguments": call.function.arguments}
    if call.id:
        body |= {"id": call.id, "type": call.type}
    return body | call.extra.get(FORMAT, {}) if call.extra else body


def dump_stream(chunks: Iterable[LLMResultChunk], *, include_usage: bool = True) -> Iterator[JSON]:
    return dumped(chunks, partial(StreamDumper, include_usage=include_usage))


# ------------------------------------------------------------------------------------------------ errors


def error_of(error: Mapping[str, Any]) -> InvokeError:
    """An error object inside an answer or a stream, by its type or code; OpenRouter puts an HTTP status there."""
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else None
    kind = kind_of_error(status, code, error.get("type"))
    return kind(str(error.get("message") or error.get("type") or code or "the provider reports an error"))
