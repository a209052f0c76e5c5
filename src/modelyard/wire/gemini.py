"""Google's generateContent and its stream, for Gemini API and Vertex AI <-> our types. Pure: no network, no clock.

Google signs texts and calls as well as thoughts. In our types such a signature is a thought without text that stands
before what it signs.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeError, InvokeServerUnavailableError, kind_of_error
from modelyard.base.fields import (
    MOST_TOOLS,
    beyond,
    compact,
    count,
    counted,
    few,
    in_range,
    kept,
    may,
    need,
    said,
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
    Citation,
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
    assistant_of,
    plain,
)
from modelyard.models.streams import dumped, parsed
from modelyard.models.types import JSON

FORMAT = "gemini"
_MADE = "gcall_"
"""What the ids begin with that we gave to calls without one; Google never gets to see them."""

_NAMES: dict[str, tuple[str, type, float, float]] = {
    "temperature": ("temperature", float, 0, 2),
    "topP": ("top_p", float, 0, 1),
    "topK": ("top_k", float, 0, 1 << 31),
    "maxOutputTokens": ("max_tokens", int, 1, 1 << 31),
    "presencePenalty": ("presence_penalty", float, -2, 2),
    "frequencyPenalty": ("frequency_penalty", float, -2, 2),
    "seed": ("seed", int, -(1 << 63), 1 << 63),
    "candidateCount": ("n", int, 1, 128),
    "logprobs": ("top_logprobs", int, 0, 20),
    "responseLogprobs": ("logprobs", bool, 0, 1),
    "responseModalities": ("modalities", list, 0, 0),
}
PARAMETERS = {"stop"} | frozenset(ours for ours, *_ in _NAMES.values()) | {
    "response_format", "thinking_budget", "reasoning_effort", "include_thoughts", "parallel_tool_calls",
}  # fmt: skip
_GENERATION_KNOWN = frozenset(_NAMES) | {
    "stopSequences", "responseMimeType", "responseSchema", "responseJsonSchema", "thinkingConfig",
}  # fmt: skip
_KNOWN = frozenset({"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "model"})


def _camel(body: JSON) -> JSON:
    """Google takes names in both spellings; we read one."""
    if not any("_" in name for name in body):
        return body
    return {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): value for name, value in body.items()}


# ------------------------------------------------------------------------------------------------ requests


@reads_request
def parse_request(body: JSON, *, stream: bool = False) -> LLMRequest:
    """A request as a client sends it. Raises InvokeBadRequestError that names the field."""
    body = _camel(body)
    contents = need(body, "contents", list)
    if not contents:
        raise InvokeBadRequestError("'contents' must hold at least one content", param="contents")
    messages: list[AnyPromptMessage] = []
    if (system := may(body, "systemInstruction", dict)) is not None:
        parts = [one for one in _parse_parts(system, "systemInstruction") if not isinstance(one, ToolCall)]
        messages.append(SystemPromptMessage(content=plain(parts)))
    waiting: list[tuple[str, str]] = []
    for place, content in enumerate(contents):
        messages += _parse_content(typed(content, dict, f"contents[{place}]"), place, waiting)
    config = _camel(may(body, "generationConfig", dict) or {})
    parameters, rest = _parse_config(config)
    extra = beyond(body, _KNOWN) | ({"generationConfig": rest} if rest else {})
    choice = _parse_tool_config(_camel(may(body, "toolConfig", dict) or {}), extra)
    return LLMRequest(
        format=FORMAT,
        messages=messages,
        model_parameters=parameters,
        tools=few(list(_parse_tools(may(body, "tools", list) or ())), MOST_TOOLS, "tools"),
        tool_choice=choice,
        stop=may(config, "stopSequences", list, "generationConfig.") or [],
        stream=stream,
        extra=kept(FORMAT, extra),
    )


def _parse_config(config: JSON) -> tuple[dict[str, Any], JSON]:
    parameters: dict[str, Any] = {}
    for name, (ours, kind, low, high) in _NAMES.items():
        if (value := may(config, name, kind, "generationConfig.")) is None:
            continue
        if kind in (int, float):
            in_range(value, low, high, f"generationConfig.{name}")
            value = int(value) if ours == "top_k" and value == int(value) else config[name]
        parameters[ours] = value
    if "modalities" in parameters:
        parameters["modalities"] = [str(one).lower() for one in parameters["modalities"]]
    rest = beyond(config, _GENERATION_KNOWN)
    _parse_response_format(config, parameters, rest)
    thinking = _camel(may(config, "thinkingConfig", dict, "generationConfig.") or {})
    for theirs, ours in (("thinkingBudget", "thinking_budget"), ("includeThoughts", "include_thoughts")):
        if theirs in thinking:
            parameters[ours] = thinking[theirs]
    if level := thinking.get("thinkingLevel"):
        parameters["reasoning_effort"] = str(level).lower()
    return parameters, rest


def _parse_response_format(config: JSON, parameters: dict[str, Any], rest: JSON) -> None:
    mime = config.get("responseMimeType")
    if (schema := config.get("responseJsonSchema")) is not None:
        parameters["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    elif (schema := config.get("responseSchema")) is not None:
        plain_schema = _lowered(typed(schema, dict, "generationConfig.responseSchema"))
        parameters["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": plain_schema},
        }
        rest |= {"responseSchema": schema, "responseJsonSchema": None}
    elif mime == "application/json":
        parameters["response_format"] = {"type": "json_object"}
    elif mime:
        rest["responseMimeType"] = mime


def _lowered(schema: Any) -> Any:
    """Google's own schemas write types in capitals, and `nullable` beside them."""
    if isinstance(schema, list):
        return [_lowered(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _lowered(value) for key, value in _camel(schema).items() if key not in ("nullable", "enum")}
    if "enum" in schema:
        result["enum"] = schema["enum"]
    if isinstance(kind := schema.get("type"), str):
        result["type"] = [kind.lower(), "null"] if schema.get("nullable") else kind.lower()
    return result


def _parse_tool_config(config: JSON, extra: JSON) -> str | dict[str, Any] | None:
    calling = _camel(config.get("functionCallingConfig") or {})
    rest = beyond(config, frozenset({"functionCallingConfig"}))
    if rest:
        extra["toolConfig"] = rest
    mode = calling.get("mode")
    names = calling.get("allowedFunctionNames") or []
    match mode:
        case None | "MODE_UNSPECIFIED":
            return None
        case "AUTO":
            return "auto"
        case "NONE":
            return "none"
        case "ANY":
            if len(names) == 1:
                return {"name": names[0]}
            return {"mode": "required", "allowed": names} if names else "required"
        case "VALIDATED":
            extra["toolConfig"] = config
            return "auto"
        case other:
            raise wrong("toolConfig.functionCallingConfig.mode", other, "AUTO, ANY, NONE or VALIDATED")


def _parse_tools(tools: Iterable[Any]) -> Iterator[PromptMessageTool]:
    for place, one in enumerate(tools):
        tool = _camel(typed(one, dict, f"tools[{place}]"))
        for number, declared in enumerate(tool.get("functionDeclarations") or ()):
            where = f"tools[{place}].functionDeclarations[{number}]"
            yield _parse_declaration(_camel(typed(declared, dict, where)), where)
        for name, value in tool.items():
            if name != "functionDeclarations":
                yield PromptMessageTool(name=name, type=name, extra={FORMAT: {name: value}})


def _parse_declaration(body: JSON, where: str) -> PromptMessageTool:
    rest = beyond(body, frozenset({"name", "description", "parameters", "parametersJsonSchema"}))
    schema = body.get("parametersJsonSchema")
    if schema is None and (own := body.get("parameters")) is not None:
        schema = _lowered(typed(own, dict, f"{where}.parameters"))
        if schema != own:
            rest |= {"parameters": own}
    return PromptMessageTool(
        name=need(body, "name", str, f"{where}."),
        description=may(body, "description", str, f"{where}.") or "",
        parameters=schema if isinstance(schema, dict) else {},
        extra=kept(FORMAT, rest),
    )


def _parse_content(content: JSON, place: int, waiting: list[tuple[str, str]]) -> Iterator[AnyPromptMessage]:
    """One content as messages. `waiting` are calls (name, id) that no response answered yet."""
    role = content.get("role") or "user"
    if (text := _only_text(content)) and role in ("user", "model"):  # as most contents are
        yield UserPromptMessage(content=text) if role == "user" else AssistantPromptMessage(content=text)
        return
    where = f"contents[{place}]"
    if role == "model":
        blocks = _with_ids(_parse_parts(content, where), f"{place}")
        waiting += [(one.function.name, one.id) for one in blocks if isinstance(one, ToolCall)]
        yield assistant_of(blocks)
        return
    if role not in ("user", "function", "tool"):
        raise wrong(f"{where}.role", role, "user or model")
    parts: list[PromptMessageContent] = []
    for number, one in enumerate(need(content, "parts", list, f"{where}.")):
        here = f"{where}.parts[{number}]"
        part = _camel(typed(one, dict, here))
        if (answered := part.get("functionResponse")) is not None:
            if parts:
                yield UserPromptMessage(content=plain(parts))
                parts = []
            yield _parse_response(typed(answered, dict, here), here, waiting)
        else:
            parts += [block for block in _parse_part(part, here) if not isinstance(block, ToolCall)]
    if parts:
        yield UserPromptMessage(content=plain(parts))


def _parse_response(body: JSON, where: str, waiting: list[tuple[str, str]]) -> ToolPromptMessage:
    name = need(body, "name", str, f"{where}.functionResponse.")
    found = next((one for one in waiting if one[1] == body.get("id")), None)
    found = found or next((one for one in waiting if one[0] == name), None)
    if found is None:
        raise wrong(f"{where}.functionResponse.name", name, "the name of a functionCall in a content before it")
    waiting.remove(found)
    given = may(body, "response", dict, f"{where}.functionResponse.") or {}
    is_error = given.keys() == {"error"} and isinstance(given["error"], str)
    key = "error" if is_error else "result"
    content = given[key] if given.keys() == {key} and isinstance(given[key], str) else as_text(given)
    rest = beyond(body, frozenset({"id", "name", "response"}))
    return ToolPromptMessage(
        content=content, name=name, tool_call_id=found[1], is_error=is_error, extra=kept(FORMAT, rest)
    )


def _with_ids(blocks: list[PromptMessageContent | ToolCall], stem: str) -> list[PromptMessageContent | ToolCall]:
    """The blocks, each call with an id: other formats cannot do without."""
    result: list[PromptMessageContent | ToolCall] = []
    calls = 0
    for block in blocks:
        if isinstance(block, ToolCall):
            made = block if block.id else msgspec.structs.replace(block, id=f"{_MADE}{stem}_{calls}")
            result.append(made)
            calls += 1
        else:
            result.append(block)
    return result


def _parse_parts(content: JSON, where: str, origin: str = "") -> list[PromptMessageContent | ToolCall]:
    blocks: list[PromptMessageContent | ToolCall] = []
    for number, part in enumerate(content.get("parts") or ()):
        here = f"{where}.parts[{number}]"
        blocks += _parse_part(_camel(typed(part, dict, here)), here, origin)
    return [one for one in blocks if not (len(blocks) > 1 and _is_empty(one))]


def _is_empty(block: PromptMessageContent | ToolCall) -> bool:
    return isinstance(block, TextPromptMessageContent) and not block.data and not block.extra


def _parse_part(part: JSON, where: str, origin: str = "") -> list[PromptMessageContent | ToolCall]:
    """A part as blocks: its signature, where it has one, comes first."""
    signature = part.get("thoughtSignature") or ""
    if part.get("thought") is True and "text" in part:
        rest = beyond(part, frozenset({"text", "thought", "thoughtSignature"}))
        return [
            ThinkingPromptMessageContent(
                data=part["text"],
                signature=signature,
                redacted=bool(signature) and not part["text"],
                origin=origin,
                extra=kept(FORMAT, rest),
            )
        ]
    block = _parse_body({name: value for name, value in part.items() if name != "thoughtSignature"}, where)
    if not signature:
        return [block]
    signed = ThinkingPromptMessageContent(signature=signature, origin=origin)
    is_empty = isinstance(block, TextPromptMessageContent) and not block.data
    return [signed] if is_empty else [signed, block]


def _parse_body(part: JSON, where: str) -> PromptMessageContent | ToolCall:
    if "text" in part:
        rest = beyond(part, frozenset({"text", "thought"}))
        return TextPromptMessageContent(data=typed(part["text"], str, f"{where}.text"), extra=kept(FORMAT, rest))
    if "functionCall" in part:
        called = typed(part["functionCall"], dict, f"{where}.functionCall")
        rest = beyond(called, frozenset({"id", "name", "args"}))
        return ToolCall(
            id=called.get("id") or "",
            function=ToolCallFunction(
                name=need(called, "name", str, f"{where}.functionCall."), arguments=as_text(called.get("args"))
            ),
            extra=kept(FORMAT, rest),
        )
    if "inlineData" in part:
        inline = _camel(typed(part["inlineData"], dict, f"{where}.inlineData"))
        mime = need(inline, "mimeType", str, f"{where}.inlineData.")
        data = need(inline, "data", str, f"{where}.inlineData.").replace("-", "+").replace("_", "/")
        data += "=" * (-len(data) % 4)
        check = checked_image if mime.startswith("image/") else checked_base64
        rest = beyond(part, frozenset({"inlineData", "thought"}))
        data = check(data, f"{where}.inlineData.data")
        return part_of(mime, base64_data=data, filename=inline.get("displayName") or "", extra=kept(FORMAT, rest))
    if "fileData" in part:
        file = _camel(typed(part["fileData"], dict, f"{where}.fileData"))
        mime = file.get("mimeType") or "video/*"  # only addresses of videos come without
        rest = beyond(part, frozenset({"fileData"}))
        return part_of(mime, url=need(file, "fileUri", str, f"{where}.fileData."), extra=kept(FORMAT, rest))
    if not part:
        return TextPromptMessageContent(data="")
    return OpaquePromptMessageContent(format=FORMAT, data=part)


def dump_request(request: LLMRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    """The request as Google wants it; the model stands in its address. Quirks: `drop` (of generationConfig)."""
    del model
    system, contents = _dump_messages(request.messages)
    body: JSON = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    if tools := _dump_tools(request.tools):
        body["tools"] = tools
    own = dict(request.extra.get(FORMAT, {}))
    if config := _dump_tool_config(request.tool_choice):
        body["toolConfig"] = {"functionCallingConfig": config}
    if "toolConfig" in own:
        body["toolConfig"] = {**body.get("toolConfig", {}), **own.pop("toolConfig")}
    generation = _dump_config(request) | own.pop("generationConfig", {})
    for name in quirks.get("drop", ()):
        generation.pop(name, None)
    generation = {name: value for name, value in generation.items() if value is not None}
    if generation:
        body["generationConfig"] = generation
    return body | own


def _dump_config(request: LLMRequest) -> JSON:
    given = request.model_parameters
    config: JSON = {theirs: given[ours] for theirs, (ours, *_) in _NAMES.items() if ours in given}
    if "responseModalities" in config:
        config["responseModalities"] = [str(one).upper() for one in config["responseModalities"]]
    if request.stop:
        config["stopSequences"] = request.stop
    match given.get("response_format"):
        case {"type": "json_schema", "json_schema": form}:
            config |= {"responseMimeType": "application/json", "responseJsonSchema": form["schema"]}
        case {"type": "json_object"}:
            config["responseMimeType"] = "application/json"
        case _:
            pass
    thinking: JSON = {}
    if (budget := given.get("thinking_budget")) is not None:
        thinking["thinkingBudget"] = budget
    elif effort := given.get("reasoning_effort"):
        thinking |= {"thinkingBudget": 0} if effort == "none" else {"thinkingLevel": _LEVELS.get(effort, effort)}
    if (shown := given.get("include_thoughts")) is not None:
        thinking["includeThoughts"] = shown
    if thinking:
        config["thinkingConfig"] = thinking
    return config


_LEVELS = {"xhigh": "high"}


def _dump_tools(tools: Iterable[PromptMessageTool]) -> list[JSON]:
    found: list[JSON] = []
    for tool in tools:
        rest = tool.extra.get(FORMAT, {})
        if tool.type not in ("function", "custom"):
            if not rest:
                raise InvokeBadRequestError(
                    f"tool {tool.name!r} is run by the provider of another format; Google cannot run it", param="tools"
                )
            found.append(rest)
            continue
        body: JSON = {"name": tool.name, **compact(description=tool.description)}
        if tool.parameters and "parameters" not in rest:
            body["parametersJsonSchema"] = tool.parameters
        if not found or "functionDeclarations" not in found[-1]:
            found.append({"functionDeclarations": []})
        found[-1]["functionDeclarations"].append(body | rest)
    return found


def _dump_tool_config(choice: str | dict[str, Any] | None) -> JSON | None:
    match choice:
        case None:
            return None
        case "required":
            return {"mode": "ANY"}
        case str():
            return {"mode": choice.upper()}
        case {"allowed": names}:
            return (
                {"mode": "ANY", "allowedFunctionNames": names} if choice.get("mode") == "required" else {"mode": "AUTO"}
            )
        case _:
            return {"mode": "ANY", "allowedFunctionNames": [choice["name"]]}


def _dump_messages(messages: Iterable[AnyPromptMessage]) -> tuple[list[JSON], list[JSON]]:
    """The system's parts, and contents: neighbours of one role become one."""
    system: list[JSON] = []
    contents: list[JSON] = []
    names: dict[str, str] = {}
    for message in messages:
        match message:
            case SystemPromptMessage():
                system += _dump_parts(message.parts)
                continue
            case AssistantPromptMessage():
                names |= {call.id: call.function.name for call in message.tool_calls}
                role, parts = "model", _dump_blocks(_history(message))
            case ToolPromptMessage():
                role, parts = "user", [_dump_response(message, names)]
            case UserPromptMessage():
                role, parts = "user", _dump_parts(message.parts) or [{"text": ""}]
        if not parts:
            continue
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": role, "parts": parts})
    return system, contents


def _history(message: AssistantPromptMessage) -> Iterator[PromptMessageContent | ToolCall]:
    """What goes back: no thoughts that another provider signed."""
    blocks = message.blocks if message.reasoning_content is None else [*message.parts, *message.tool_calls]
    for block in blocks:
        if not isinstance(block, ThinkingPromptMessageContent) or block.origin in ("", FORMAT):
            yield block
    if message.refusal:
        yield TextPromptMessageContent(data=message.refusal)


def _dump_response(message: ToolPromptMessage, names: Mapping[str, str]) -> JSON:
    text = message.text
    response = as_object(text) if text.lstrip().startswith("{") else {}
    if not response or "INVALID_JSON" in response:
        response = {"error" if message.is_error else "result": text}
    name = message.name or names.get(message.tool_call_id) or message.tool_call_id
    body: JSON = {"name": name, "response": response}
    if message.tool_call_id and not message.tool_call_id.startswith(_MADE):
        body["id"] = message.tool_call_id
    if message.files:
        body["parts"] = _dump_parts(message.files)
    return {"functionResponse": body | message.extra.get(FORMAT, {})}


def _dump_blocks(blocks: Iterable[PromptMessageContent | ToolCall]) -> list[JSON]:
    """Parts, each with the signature that stood before it."""
    parts: list[JSON] = []
    signature = ""
    for block in blocks:
        if isinstance(block, ThinkingPromptMessageContent):
            if not block.data and not block.redacted:
                if signature:  # nothing followed the one before
                    parts.append({"text": "", "thoughtSignature": signature})
                signature = block.signature
                continue
            part: JSON | None = {"text": block.data, "thought": True, **compact(thoughtSignature=block.signature)}
        elif isinstance(block, ToolCall):
            part = _dump_call(block)
        else:
            part = _dump_part(block)
        if part is None:
            continue
        if signature and not part.get("thought"):
            part = {**part, "thoughtSignature": signature}
            signature = ""
        parts.append(part)
    if signature:
        parts.append({"text": "", "thoughtSignature": signature})
    return parts


def _dump_call(call: ToolCall) -> JSON:
    body: JSON = {"name": call.function.name, "args": as_object(call.function.arguments)}
    if call.id and not call.id.startswith(_MADE):
        body["id"] = call.id
    return {"functionCall": body | call.extra.get(FORMAT, {})}


def _dump_parts(parts: Iterable[PromptMessageContent]) -> list[JSON]:
    return [body for part in parts if (body := _dump_part(part)) is not None]


def _dump_part(part: PromptMessageContent) -> JSON | None:
    rest = part.extra.get(FORMAT, {}) if part.extra else {}
    match part:
        case TextPromptMessageContent():
            return {"text": part.data, **rest} if part.data or rest else None
        case OpaquePromptMessageContent():
            return part.data if part.format == FORMAT else None
        case ThinkingPromptMessageContent():
            return None
        case _:
            return _dump_file(part) | rest


def _dump_file(part: MultiModalPromptMessageContent) -> JSON:
    mime = part.mime_type
    if not mime:
        kind = {"Imag": "image", "Audi": "audio", "Vide": "video"}.get(type(part).__name__[:4], "application")
        mime = mime_of(part.format, kind) if part.format else f"{kind}/*" if part.url else "application/octet-stream"
    if part.url:
        return {"fileData": {"fileUri": part.url, **({} if mime == "video/*" else {"mimeType": mime})}}
    return {"inlineData": {"mimeType": mime, "data": part.base64_data, **compact(displayName=part.filename)}}


# ------------------------------------------------------------------------------------------------ answers


def parse_usage(body: Any) -> LLMUsage | None:
    """Google counts thoughts and its own tools' input apart; ours are the sums."""
    if not isinstance(body, dict) or (
        count(body.get("promptTokenCount")) is None and not counted(body, "totalTokenCount")
    ):
        return None
    tools, thoughts = counted(body, "toolUsePromptTokenCount"), counted(body, "thoughtsTokenCount")
    prompt = counted(body, "promptTokenCount") + tools
    completion = counted(body, "candidatesTokenCount") + thoughts
    return LLMUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=counted(body, "totalTokenCount") or prompt + completion,
        cached_tokens=counted(body, "cachedContentTokenCount"),
        audio_prompt_tokens=_of_kind(body.get("promptTokensDetails"), "AUDIO"),
        image_prompt_tokens=_of_kind(body.get("promptTokensDetails"), "IMAGE"),
        tool_prompt_tokens=tools,
        reasoning_tokens=thoughts,
        audio_completion_tokens=_of_kind(body.get("candidatesTokensDetails"), "AUDIO"),
        image_completion_tokens=_of_kind(body.get("candidatesTokensDetails"), "IMAGE"),
        extra={FORMAT: body},
    )


def _of_kind(details: Any, kind: str) -> int:
    if not isinstance(details, list):
        return 0
    return sum(counted(one, "tokenCount") for one in details if isinstance(one, dict) and one.get("modality") == kind)


def dump_usage(usage: LLMUsage) -> JSON:
    if own := usage.extra.get(FORMAT):
        return own
    body = {
        "promptTokenCount": usage.prompt_tokens - usage.tool_prompt_tokens,
        "candidatesTokenCount": usage.completion_tokens - usage.reasoning_tokens,
        "totalTokenCount": usage.total_tokens,
    }
    return body | compact(
        cachedContentTokenCount=usage.cached_tokens or None,
        thoughtsTokenCount=usage.reasoning_tokens or None,
        toolUsePromptTokenCount=usage.tool_prompt_tokens or None,
    )


_REASONS = {
    "STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter", "PROHIBITED_CONTENT": "content_filter", "SPII": "content_filter",
    "LANGUAGE": "content_filter", "IMAGE_SAFETY": "content_filter", "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "MODEL_ARMOR": "content_filter",
}  # fmt: skip
_STOPS = {"stop": "STOP", "tool_calls": "STOP", "pause": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
_CANDIDATE_KNOWN = frozenset({"content", "finishReason", "index"})
_RESULT_KNOWN = frozenset({"candidates", "usageMetadata", "modelVersion", "responseId"})


def _parse_reason(own: str | None, *, has_calls: bool) -> tuple[str | None, JSON]:
    if not own or own == "FINISH_REASON_UNSPECIFIED":
        return None, {}
    reason = _REASONS.get(own, "stop")
    rest = {"finishReason": own} if _STOPS[reason] != own else {}
    return ("tool_calls" if has_calls and reason == "stop" else reason), rest


def _parse_logprobs(body: Any) -> dict[str, Any] | None:
    """As OpenAI writes them."""
    if not isinstance(body, dict):
        return None
    tops = body.get("topCandidates") or []
    content: list[JSON] = []
    for place, one in enumerate(body.get("chosenCandidates") or ()):
        others = (tops[place].get("candidates") or []) if place < len(tops) else []
        content.append({**_logprob(one), "top_logprobs": [_logprob(other) for other in others]})
    return {"content": content} if content else None


def _logprob(one: JSON) -> JSON:
    token = one.get("token") or ""
    return {"token": token, "logprob": one.get("logProbability") or 0.0, "bytes": list(token.encode())}


def _sources(candidate: JSON) -> list[Citation]:
    grounding = candidate.get("groundingMetadata") or {}
    found = [one.get("web") or one.get("retrievedContext") or {} for one in grounding.get("groundingChunks") or ()]
    cited = (candidate.get("citationMetadata") or {}).get("citations") or ()
    found += [one for one in cited if isinstance(one, dict)]
    return [
        Citation(url=one["uri"], title=one.get("title") or "", quote=one.get("text") or "")
        for one in found
        if one.get("uri")
    ]


@reads_answer
def parse_result(body: JSON, quirks: Mapping[str, Any] | None = None) -> LLMResult:
    """A whole answer. Raises InvokeError where it is none."""
    del quirks
    if isinstance(body.get("error"), dict):
        raise error_of(body["error"])
    candidates = body.get("candidates") or []
    if not isinstance(candidates, list) or (
        not candidates and "promptFeedback" not in body and "usageMetadata" not in body
    ):
        raise InvokeServerUnavailableError("the answer holds no candidates")
    stem = _stem(body)
    choices = [_parse_candidate(one, place, stem) for place, one in enumerate(candidates)]
    if not choices:  # the prompt itself was blocked
        reason = "content_filter" if (body.get("promptFeedback") or {}).get("blockReason") else "stop"
        choices = [LLMChoice(finish_reason=reason, extra={FORMAT: {"blocked": True}})]
    return LLMResult(
        id=body.get("responseId") or "",
        model=body.get("modelVersion") or "",
        choices=choices,
        usage=parse_usage(body.get("usageMetadata")) or LLMUsage(estimated=True),
        extra=kept(FORMAT, beyond(body, _RESULT_KNOWN)),
    )


def _stem(body: JSON) -> str:
    """What the ids of this answer's calls are made of: the same for the same answer, another for another."""
    return body.get("responseId") or hashlib.sha256(msgspec.json.encode(body)).hexdigest()[:20]


def _parse_candidate(candidate: Any, place: int, stem: str) -> LLMChoice:
    if not isinstance(candidate, dict):
        raise InvokeServerUnavailableError(f"a candidate of the answer is no object but {said(candidate)}")
    try:
        blocks = _with_ids(_parse_parts(candidate.get("content") or {}, "content", FORMAT), stem)
    except InvokeBadRequestError as error:
        raise InvokeServerUnavailableError(f"the answer cannot be read: {error}") from error
    sources = _sources(candidate)
    if (
        sources
        and (last := max((i for i, one in enumerate(blocks) if isinstance(one, TextPromptMessageContent)), default=-1))
        >= 0
    ):
        blocks[last] = msgspec.structs.replace(blocks[last], citations=sources)
    has_calls = any(isinstance(block, ToolCall) for block in blocks)
    reason, rest = _parse_reason(candidate.get("finishReason"), has_calls=has_calls)
    return LLMChoice(
        index=count(candidate.get("index")) or place,
        message=assistant_of(blocks),
        finish_reason=reason,
        logprobs=_parse_logprobs(candidate.get("logprobsResult")),
        extra=kept(FORMAT, beyond(candidate, _CANDIDATE_KNOWN) | rest),
    )


def _answer_blocks(message: AssistantPromptMessage) -> list[PromptMessageContent | ToolCall]:
    blocks = [one for one in message.blocks if not isinstance(one, OpaquePromptMessageContent) or one.format == FORMAT]
    return [*blocks, TextPromptMessageContent(data=message.refusal)] if message.refusal else blocks


def _dump_sources(message: AssistantPromptMessage) -> JSON:
    cited = [one for part in message.parts if isinstance(part, TextPromptMessageContent) for one in part.citations]
    sources = [
        compact(uri=one.url, title=one.title, startIndex=one.start, endIndex=one.end) for one in cited if one.url
    ]
    return {"citationMetadata": {"citations": sources}} if sources else {}


def _dump_candidate(choice: LLMChoice) -> JSON:
    own = choice.extra.get(FORMAT, {})
    body: JSON = {"content": {"role": "model", "parts": _dump_blocks(_answer_blocks(choice.message))}}
    if choice.finish_reason is not None:
        body["finishReason"] = _STOPS.get(choice.finish_reason, "OTHER")
    body["index"] = choice.index
    if not own.keys() & {"groundingMetadata", "citationMetadata"}:
        body |= _dump_sources(choice.message)
    return body | own


def dump_result(result: LLMResult) -> JSON:
    shown = [choice for choice in result.choices if not choice.extra.get(FORMAT, {}).get("blocked")]
    return {
        **({"candidates": [_dump_candidate(choice) for choice in shown]} if shown else {}),
        "usageMetadata": dump_usage(result.usage),
        "modelVersion": result.model,
        "responseId": result.id,
        **result.extra.get(FORMAT, {}),
    }


def dump_token_count(tokens: int) -> JSON:
    return {"totalTokens": tokens}


def parse_token_count(body: JSON) -> int | None:
    return count(body.get("totalTokens"))


# ------------------------------------------------------------------------------------------------ streams


_PLAIN = frozenset({"content", "index"})


def _only_text(content: Any) -> str | None:
    """The text of a content that is that and nothing more."""
    parts = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(parts, list) or len(parts) != 1 or not isinstance(parts[0], dict) or parts[0].keys() != {"text"}:
        return None
    text = parts[0]["text"]
    return text if isinstance(text, str) else None


class StreamParser:
    """Events of a stream, one at a time, into chunks. Usage stands in every event; the last one's holds."""

    def __init__(self, quirks: Mapping[str, Any] | None = None) -> None:
        del quirks
        self._blocks: dict[int, tuple[str, int]] = {}  # a candidate's number → kind and number of its last block
        self._calls: dict[int, int] = {}
        self._begun: dict[int, JSON] = {}  # a candidate's number → the call whose pieces are coming in
        self._stem = ""
        self._usage: Any = None
        self._told: Any = None
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        if isinstance(event.get("error"), dict):
            raise error_of(event["error"])
        self._stem = self._stem or _stem(event)
        self._usage = event.get("usageMetadata") or self._usage
        rest = kept(FORMAT, beyond(event, _RESULT_KNOWN))
        head: JSON = {"id": event.get("responseId") or "", "model": event.get("modelVersion") or "", "extra": rest}
        chunks = [
            LLMResultChunk(delta=self._candidate(one, place), **head)
            for place, one in enumerate(event.get("candidates") or ())
        ]
        if not chunks and (event.get("promptFeedback") or {}).get("blockReason"):
            self._has_finished = True
            blocked = LLMResultChunkDelta(
                finish_reason="content_filter", usage=self._said_last(), extra={FORMAT: {"blocked": True}}
            )
            return [LLMResultChunk(delta=blocked, **head)]
        return chunks or ([LLMResultChunk(**head)] if rest else [])

    def _said_last(self) -> LLMUsage | None:
        self._told = self._usage
        return parse_usage(self._usage)

    def _candidate(self, candidate: Any, place: int) -> LLMResultChunkDelta:
        if not isinstance(candidate, dict):
            raise InvokeServerUnavailableError(f"a candidate of the stream is no object but {said(candidate)}")
        index = count(candidate.get("index")) or place
        if candidate.keys() <= _PLAIN and (text := _only_text(candidate.get("content"))) is not None:
            block = self._numbered(TextPromptMessageContent(data=text), index)  # nearly every chunk of a long answer
            return LLMResultChunkDelta(index=index, message=AssistantPromptMessage(content=[block]))
        try:
            blocks = _parse_parts(self._whole_calls(candidate.get("content") or {}, index), "content", FORMAT)
        except InvokeBadRequestError as error:
            raise InvokeServerUnavailableError(f"the stream cannot be read: {error}") from error
        numbered = [self._numbered(block, index) for block in blocks]
        if sources := _sources(candidate):
            kind, number = self._blocks.get(index, ("text", 0))
            numbered.append(
                TextPromptMessageContent(data="", citations=sources, index=number if kind == "text" else number + 1)
            )
        reason, rest = _parse_reason(candidate.get("finishReason"), has_calls=index in self._calls)
        if reason is not None:
            self._has_finished = True
        return LLMResultChunkDelta(
            index=index,
            message=assistant_of(numbered),
            finish_reason=reason,
            logprobs=_parse_logprobs(candidate.get("logprobsResult")),
            usage=self._said_last() if reason is not None else None,
            extra=kept(FORMAT, beyond(candidate, _CANDIDATE_KNOWN) | rest),
        )

    def _whole_calls(self, content: JSON, index: int) -> JSON:
        """The content, its calls whole: Gemini 3 may send a call's arguments in pieces, each with the path it is at."""
        parts = content.get("parts") or ()
        if not any("functionCall" in part for part in parts if isinstance(part, dict)):
            return content
        whole: list[Any] = []
        for part in parts:
            called = part.get("functionCall")
            if called is None or (index not in self._begun and not called.get("willContinue")):
                whole.append(part)
                continue
            begun = self._begun.setdefault(index, {**part, "functionCall": {"args": {}}})
            for name in ("id", "name"):
                if called.get(name):
                    begun["functionCall"][name] = called[name]
            begun["functionCall"]["args"] |= called.get("args") or {}
            for piece in called.get("partialArgs") or ():
                _place(begun["functionCall"]["args"], piece)
            if not called.get("willContinue"):
                whole.append(self._begun.pop(index))
        return {**content, "parts": whole}

    def _numbered(self, block: Any, index: int) -> Any:
        """The block with the number of the part that it is, or that it goes on with."""
        if isinstance(block, ToolCall):
            number = self._calls[index] = self._calls.get(index, -1) + 1
            self._blocks[index] = ("call", self._blocks.get(index, ("", -1))[1])
            return msgspec.structs.replace(block, index=number, id=block.id or f"{_MADE}{self._stem}_{number}")
        kind = "text" if isinstance(block, TextPromptMessageContent) else "other"
        if isinstance(block, ThinkingPromptMessageContent):
            kind = "thought" if block.data and not block.signature else "signature"
        last, number = self._blocks.get(index, ("", -1))
        if kind != last or kind in ("other", "signature"):
            number += 1
        self._blocks[index] = (kind, number)
        return msgspec.structs.replace(block, index=number)

    def finish(self, *, done: bool) -> list[LLMResultChunk]:
        """The body has ended. A stream cut short must not look like a whole one."""
        if not done and not self._has_finished:
            raise InvokeServerUnavailableError("the stream broke off: no finishReason came")
        if self._usage is not None and self._usage != self._told:
            return [LLMResultChunk(delta=LLMResultChunkDelta(usage=self._said_last()))]
        return []


_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\['([^']*)'\]")


def _place(arguments: JSON, piece: JSON) -> None:
    """Put a piece of an argument where its JSON path says; texts go on where they left off."""
    value = next((piece[kind] for kind in ("stringValue", "numberValue", "boolValue") if kind in piece), None)
    steps = [name or quoted or int(place) for name, place, quoted in _STEP.findall(piece.get("jsonPath") or "")]
    here: Any = arguments
    for place, step in enumerate(steps):
        is_last = place == len(steps) - 1
        fresh: Any = value if is_last else [] if isinstance(steps[place + 1], int) else {}
        if isinstance(here, list):
            if not isinstance(step, int) or step > len(here):
                return
            if step == len(here):
                here.append(fresh)
            elif is_last:
                here[step] = here[step] + value if isinstance(value, str) and isinstance(here[step], str) else value
            here = here[step]
        elif isinstance(here, dict):
            if is_last and isinstance(value, str) and isinstance(here.get(step), str):
                here[step] += value
            elif is_last or step not in here:
                here[step] = fresh
            here = here[step]


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    return parsed(StreamParser(), events)


class StreamDumper:
    """Chunks, one at a time, into events. A call goes out whole, since Google's come so."""

    def __init__(self, *, response_id: str, model: str, created: int = 0) -> None:
        del created
        self._head: JSON = {"modelVersion": model, "responseId": response_id}
        self._usage: LLMUsage | None = None
        self._ends: dict[int, JSON] = {}
        self._calls: dict[int, dict[int, list[ToolCall]]] = {}
        self._signed: dict[tuple[int, int], ThinkingPromptMessageContent] = {}
        self._signature: dict[int, ThinkingPromptMessageContent] = {}
        self._extra: JSON = {}

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        self._extra |= chunk.extra.get(FORMAT, {})
        own = delta.extra.get(FORMAT, {}) if delta.extra else {}
        if own.get("blocked"):
            return []
        if delta.finish_reason is not None:
            reason = _STOPS.get(delta.finish_reason, "OTHER")
            self._ends[delta.index] = {"finishReason": reason, **self._ends.get(delta.index, {}), **own}
        elif own:
            self._ends[delta.index] = {**self._ends.get(delta.index, {}), **own}
        parts = _dump_blocks(self._ready(delta))
        if not parts:
            return []
        return [{"candidates": [{"content": {"role": "model", "parts": parts}, "index": delta.index}], **self._head}]

    def _ready(self, delta: LLMResultChunkDelta) -> Iterator[PromptMessageContent | ToolCall]:
        """What can go out now: calls and signatures wait for what belongs to them."""
        index = delta.index
        for block in _answer_blocks(delta.message):
            if isinstance(block, ToolCall):
                calls = self._calls.setdefault(index, {})
                number = block.index if block.index is not None else len(calls)
                if number not in calls and index in self._signature:
                    self._signed[index, number] = self._signature.pop(index)
                calls.setdefault(number, []).append(block)
            elif isinstance(block, ThinkingPromptMessageContent) and not block.data and not block.redacted:
                if index in self._signature:
                    yield self._signature.pop(index)
                self._signature[index] = block
            else:
                if index in self._signature and not isinstance(block, ThinkingPromptMessageContent):
                    yield self._signature.pop(index)
                yield block

    def finish(self) -> list[JSON]:
        candidates: list[JSON] = []
        for index in sorted({*self._ends, *self._calls, *self._signature}):
            blocks: list[PromptMessageContent | ToolCall] = []
            for number, pieces in self._calls.get(index, {}).items():
                if signed := self._signed.get((index, number)):
                    blocks.append(signed)
                arguments = "".join(piece.function.arguments for piece in pieces)
                function = ToolCallFunction(name=pieces[0].function.name, arguments=arguments)
                blocks.append(msgspec.structs.replace(pieces[0], function=function))
            if index in self._signature:
                blocks.append(self._signature[index])
            content = {"content": {"role": "model", "parts": _dump_blocks(blocks)}}
            candidates.append({**content, "index": index, **self._ends.get(index, {})})
        ending: JSON = {"candidates": candidates} if candidates else {}
        return [{**ending, "usageMetadata": dump_usage(self._usage or LLMUsage()), **self._head, **self._extra}]


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    return dumped(chunks, StreamDumper)


# ------------------------------------------------------------------------------------------------ errors


def error_of(error: Mapping[str, Any]) -> InvokeError:
    """An error object inside an answer or a stream, by its status."""
    code = error.get("code")
    kind = kind_of_error(code if isinstance(code, int) else None, error.get("status"))
    return kind(str(error.get("message") or error.get("status") or "the provider reports an error"))


_STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    413: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    del request_id
    word = _STATUSES.get(status) or ("INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    return {"error": {"code": status, "message": message, "status": word}}
