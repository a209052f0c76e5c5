"""Translate between Google's generateContent API (Gemini API and Vertex AI) and
modelyard's chat types.

Pure functions: no network, no clock. Google signs texts and calls as well as thoughts.
In our types such a signature is a thinking part without text that precedes the signed
block.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import msgspec

from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeError,
    InvokeServerUnavailableError,
    MalformedToolCallError,
)
from modelyard.base.fields import (
    MAX_TOOLS,
    count,
    expect_type,
    in_range,
    invalid_field,
    limited_list,
    nested_count,
    optional_field,
    passthrough_fields,
    required_field,
    short_repr,
    text_of,
    tier_name,
    unknown_fields,
    without_empty,
)
from modelyard.base.provider_errors import provider_error, raise_error_in
from modelyard.base.reader_errors import reads_answer, reads_request
from modelyard.models.arguments import INVALID_ARGUMENTS_KEY, as_object, as_text
from modelyard.models.call_indexes import CallIndexes
from modelyard.models.capabilities import Capabilities
from modelyard.models.citations import WholeText
from modelyard.models.google_sources import (
    citation_metadata,
    dump_sources,
    parse_sources,
)
from modelyard.models.llm import (
    LLMChoice,
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.media import checked_base64, checked_image, mime_type_of, part_of
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
    simplified_content,
)
from modelyard.models.service_tiers import served_tier
from modelyard.models.streams import dump_chunks, parse_events
from modelyard.models.types import JSON

FORMAT = "gemini"
_GENERATED_ID_PREFIX = "gcall_"
"""Prefix of the ids that modelyard generates for calls without one. They are never sent
to Google."""

# Google's name of a parameter -> (name in LLMRequest.model_parameters, type, lower and
# upper bound).
_PARAMETER_RANGES: dict[str, tuple[str, Any, float, float]] = {
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
PARAMETERS = (
    {"stop"}
    | frozenset(parameter for parameter, *_ in _PARAMETER_RANGES.values())
    | {
        "response_format",
        "thinking_budget",
        "reasoning_effort",
        "include_thoughts",
        "service_tier",
    }
)
# Fields with a reader below. Every other field passes through unchanged in `extra`.
_KNOWN_GENERATION_FIELDS = frozenset(_PARAMETER_RANGES) | {
    "stopSequences",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "thinkingConfig",
}
# Other fields are passed on unchanged to a provider of this format.
_KNOWN_FIELDS = frozenset(
    {
        "contents",
        "systemInstruction",
        "tools",
        "toolConfig",
        "generationConfig",
        "serviceTier",
        "model",
    }
)


def _camel_case_keys(body: JSON) -> JSON:
    """Return the object with camelCase keys. Google accepts snake_case too; the readers
    expect one spelling."""
    # Most bodies have no underscore at all, so the copy is avoided.
    if not any("_" in name for name in body):
        return body
    return {
        re.sub(r"_([a-z])", lambda match: match[1].upper(), name): value
        for name, value in body.items()
    }


# ----------------------------------------------------------------------------- requests


@reads_request
def parse_request(body: JSON, *, stream: bool = False) -> LLMRequest:
    """Parse the JSON body of a client's request. Raises InvokeBadRequestError that
    names the field.

    `stream` is passed by the caller: Google selects streaming by the URL, not in the
    body.
    """
    body = _camel_case_keys(body)
    contents = required_field(body, "contents", list)
    if not contents:
        raise InvokeBadRequestError(
            "'contents' must contain at least one content", param="contents"
        )
    messages: list[AnyPromptMessage] = []
    if (system := optional_field(body, "systemInstruction", dict)) is not None:
        parts = [
            block
            for block in _parse_parts(system, "systemInstruction")
            if not isinstance(block, ToolCall)
        ]
        messages.append(SystemPromptMessage(content=simplified_content(parts)))
    # Calls without a response so far, shared by all contents: a response follows in a
    # later content.
    waiting: list[tuple[str, str]] = []
    for index, content in enumerate(contents):
        messages += _parse_content(
            expect_type(content, dict, f"contents[{index}]"), index, waiting
        )
    config = _camel_case_keys(optional_field(body, "generationConfig", dict) or {})
    parameters, extra_config = _parse_config(config)
    if tier := optional_field(body, "serviceTier", str):
        parameters["service_tier"] = tier
    extra = unknown_fields(body, _KNOWN_FIELDS) | (
        {"generationConfig": extra_config} if extra_config else {}
    )
    choice = _parse_tool_config(
        _camel_case_keys(optional_field(body, "toolConfig", dict) or {}), extra
    )
    return LLMRequest(
        format=FORMAT,
        messages=messages,
        model_parameters=parameters,
        tools=limited_list(
            list(_parse_tools(optional_field(body, "tools", list) or ())),
            MAX_TOOLS,
            "tools",
        ),
        tool_choice=choice,
        stop=optional_field(config, "stopSequences", list, "generationConfig.") or [],
        stream=stream,
        extra=passthrough_fields(FORMAT, extra),
    )


def _parse_config(config: JSON) -> tuple[dict[str, Any], JSON]:
    """Return the parameters by their common names, and the fields that only this format
    has."""
    parameters: dict[str, Any] = {}
    for name, (parameter, value_type, low, high) in _PARAMETER_RANGES.items():
        value = optional_field(config, name, value_type, "generationConfig.")
        if value is None:
            continue
        # Booleans and lists have no range.
        if value_type in (int, float):
            in_range(value, low, high, f"generationConfig.{name}")
            # topK is a float in Google's schema but an int everywhere else. Other
            # values keep their type.
            value = (
                int(value)
                if parameter == "top_k" and value == int(value)
                else config[name]
            )
        parameters[parameter] = value
    if "modalities" in parameters:
        # Google writes modalities in capitals, our types in lower case.
        parameters["modalities"] = [
            str(modality).lower() for modality in parameters["modalities"]
        ]
    extra_config = unknown_fields(config, _KNOWN_GENERATION_FIELDS)
    _parse_response_format(config, parameters, extra_config)
    _parse_thinking_config(config, parameters)
    return parameters, extra_config


def _parse_thinking_config(config: JSON, parameters: dict[str, Any]) -> None:
    """Parse Google's `thinkingConfig` into common parameters.

    Budget, level (as `reasoning_effort`, in lower case) and `includeThoughts` are
    stored in `parameters`; without the object nothing is stored. Raises
    InvokeBadRequestError if `thinkingConfig` is not an object.
    """
    thinking = _camel_case_keys(
        optional_field(config, "thinkingConfig", dict, "generationConfig.") or {}
    )
    for wire_name, parameter in (
        ("thinkingBudget", "thinking_budget"),
        ("includeThoughts", "include_thoughts"),
    ):
        if wire_name in thinking:
            parameters[parameter] = thinking[wire_name]
    # thinkingLevel of the newer models is the same concept as an effort level.
    if level := thinking.get("thinkingLevel"):
        parameters["reasoning_effort"] = str(level).lower()


def _parse_response_format(
    config: JSON, parameters: dict[str, Any], extra_config: JSON
) -> None:
    """Parse the output format of a `generationConfig`.

    `parameters` gets `response_format` in OpenAI's form; `extra_config` gets what a
    Google upstream must receive unchanged: a schema in Google's dialect, or a media
    type other than JSON. Raises InvokeBadRequestError if `responseSchema` is not an
    object.
    """
    mime = config.get("responseMimeType")
    # responseJsonSchema is plain JSON Schema; it takes precedence over Google's own
    # dialect below.
    if (schema := config.get("responseJsonSchema")) is not None:
        parameters["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema},
        }
    elif (schema := config.get("responseSchema")) is not None:
        plain_schema = _normalise_schema(
            expect_type(schema, dict, "generationConfig.responseSchema")
        )
        parameters["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": plain_schema},
        }
        # The original schema is sent to Google unchanged. None removes the converted
        # one in `dump_request`.
        extra_config |= {"responseSchema": schema, "responseJsonSchema": None}
    elif mime == "application/json":
        parameters["response_format"] = {"type": "json_object"}
    elif mime:
        extra_config["responseMimeType"] = mime


def _normalise_schema(schema: Any) -> Any:
    """Return a schema in Google's dialect as plain JSON Schema.

    The dialect writes types in capitals and marks optional values by `nullable`.
    """
    if isinstance(schema, list):
        return [_normalise_schema(subschema) for subschema in schema]
    if not isinstance(schema, dict):
        return schema
    result = {
        key: _normalise_schema(value)
        for key, value in _camel_case_keys(schema).items()
        if key not in ("nullable", "enum")
    }
    # Enum values are data: their spelling must not be changed.
    if "enum" in schema:
        result["enum"] = schema["enum"]
    if isinstance(schema_type := schema.get("type"), str):
        result["type"] = (
            [schema_type.lower(), "null"]
            if schema.get("nullable")
            else schema_type.lower()
        )
    return result


def _parse_tool_config(config: JSON, extra: JSON) -> str | dict[str, Any] | None:
    """Return the tool choice of a `toolConfig`, or None if it has no mode.

    The choice is `auto`, `none`, `required`, the name of one forced function, or the
    list of allowed ones. Fields without a counterpart, and the whole object for the
    mode VALIDATED, are stored in `extra`. Raises InvokeBadRequestError for an unknown
    mode.
    """
    calling = _camel_case_keys(config.get("functionCallingConfig") or {})
    extra_fields = unknown_fields(config, frozenset({"functionCallingConfig"}))
    if extra_fields:
        extra["toolConfig"] = extra_fields
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
            # A single allowed function is the same as a forced one.
            if len(names) == 1:
                return {"name": names[0]}
            return {"mode": "required", "allowed": names} if names else "required"
        case "VALIDATED":
            # VALIDATED exists only at Google. The original is stored; other providers
            # see "auto".
            extra["toolConfig"] = config
            return "auto"
        case other:
            raise invalid_field(
                "toolConfig.functionCallingConfig.mode",
                other,
                "AUTO, ANY, NONE or VALIDATED",
            )


def _parse_tools(tools: Iterable[Any]) -> Iterator[PromptMessageTool]:
    """Yield the functions and hosted tools of Google's `tools` list.

    One entry may declare several functions. Each other key of an entry, such as
    `googleSearch`, becomes a tool of that type with its settings in `extra`. Raises
    InvokeBadRequestError if an entry or a declaration is invalid.
    """
    for tool_index, wire_tool in enumerate(tools):
        tool = _camel_case_keys(expect_type(wire_tool, dict, f"tools[{tool_index}]"))
        for number, declared in enumerate(tool.get("functionDeclarations") or ()):
            where = f"tools[{tool_index}].functionDeclarations[{number}]"
            yield _parse_declaration(
                _camel_case_keys(expect_type(declared, dict, where)), where
            )
        # Any other key is a tool that Google runs itself, such as googleSearch. It
        # keeps its own settings.
        for name, value in tool.items():
            if name != "functionDeclarations":
                yield PromptMessageTool(
                    name=name, type=name, extra={FORMAT: {name: value}}
                )


def _parse_declaration(body: JSON, where: str) -> PromptMessageTool:
    """Parse one of Google's `functionDeclarations`.

    `where` is its path for error messages. `parametersJsonSchema` takes precedence over
    `parameters`, which is converted to plain JSON Schema; the original stays in `extra`
    if the two differ. Raises InvokeBadRequestError if a field is missing or invalid.
    """
    extra_fields = unknown_fields(
        body, frozenset({"name", "description", "parameters", "parametersJsonSchema"})
    )
    schema = body.get("parametersJsonSchema")
    if schema is None and (google_schema := body.get("parameters")) is not None:
        schema = _normalise_schema(
            expect_type(google_schema, dict, f"{where}.parameters")
        )
        # The original is needed only if the conversion changed something.
        if schema != google_schema:
            extra_fields |= {"parameters": google_schema}
    return PromptMessageTool(
        name=required_field(body, "name", str, f"{where}."),
        description=optional_field(body, "description", str, f"{where}.") or "",
        parameters=schema if isinstance(schema, dict) else {},
        extra=passthrough_fields(FORMAT, extra_fields),
    )


# Roles whose message can be built from a text alone.
_TEXT_MESSAGE_CLASSES: dict[
    str, type[UserPromptMessage] | type[AssistantPromptMessage]
] = {"user": UserPromptMessage, "model": AssistantPromptMessage}


def _parse_content(
    content: JSON, content_index: int, waiting: list[tuple[str, str]]
) -> Iterator[AnyPromptMessage]:
    """Yield the messages of one content.

    `waiting` has the calls (name, id) without a response so far; it is updated in
    place.
    """
    messages = _parse_parts_of_content(content, content_index, waiting)
    if rest := unknown_fields(content, _CONTENT_FIELDS):
        # They belong to the content, of which the first message is a part.
        for message in messages:
            fields = {**message.extra.get(FORMAT, {}), "content": rest}
            yield msgspec.structs.replace(message, extra={FORMAT: fields})
            break
    yield from messages


_CONTENT_FIELDS = frozenset({"role", "parts"})


def _parse_parts_of_content(
    content: JSON, content_index: int, waiting: list[tuple[str, str]]
) -> Iterator[AnyPromptMessage]:
    """Yield the messages of one content, without fields of the content itself."""
    role = content.get("role") or "user"
    where = f"contents[{content_index}]"
    # Most contents are a single plain text.
    if (text := _only_text(content)) and role in ("user", "model"):
        yield _TEXT_MESSAGE_CLASSES[role](content=text)
    elif role == "model":
        # The content's index makes generated call ids unique within the request.
        blocks = _with_ids(_parse_parts(content, where), f"{content_index}")
        waiting += [
            (block.function.name, block.id)
            for block in blocks
            if isinstance(block, ToolCall)
        ]
        yield assistant_of(blocks)
    elif role in ("user", "function", "tool"):
        yield from _parse_user_content(content, where, waiting)
    else:
        raise invalid_field(f"{where}.role", role, "user or model")


def _parse_user_content(
    content: JSON, where: str, waiting: list[tuple[str, str]]
) -> Iterator[AnyPromptMessage]:
    """Yield the messages of a user content, which may mix tool responses and other
    parts. Each response becomes a separate message, in the same order."""
    parts: list[PromptMessageContent] = []
    for number, wire_part in enumerate(
        required_field(content, "parts", list, f"{where}.")
    ):
        part_path = f"{where}.parts[{number}]"
        part = _camel_case_keys(expect_type(wire_part, dict, part_path))
        response = part.get("functionResponse")
        if response is None:
            parts += [
                block
                for block in _parse_part(part, part_path)
                if not isinstance(block, ToolCall)
            ]
            continue
        # Parts before a response come first, so the order of the content is preserved.
        if parts:
            yield UserPromptMessage(content=simplified_content(parts))
            parts = []
        yield _parse_response(
            expect_type(response, dict, part_path), part_path, waiting
        )
    if parts:
        yield UserPromptMessage(content=simplified_content(parts))


def _parse_response(
    body: JSON, where: str, waiting: list[tuple[str, str]]
) -> ToolPromptMessage:
    """Parse a `functionResponse` into the result of an earlier call.

    `waiting` has the open calls as (name, id); the answered one is removed. It is found
    by the response's id, otherwise it is the oldest call of the same function. Raises
    InvokeBadRequestError if there is none.
    """
    name = required_field(body, "name", str, f"{where}.functionResponse.")
    # Ids are optional at Google. Without one, the oldest open call of that function is
    # answered.
    matched_call = next(
        (pending_call for pending_call in waiting if pending_call[1] == body.get("id")),
        None,
    )
    matched_call = matched_call or next(
        (pending_call for pending_call in waiting if pending_call[0] == name), None
    )
    if matched_call is None:
        raise invalid_field(
            f"{where}.functionResponse.name",
            name,
            "the name of a functionCall in an earlier content",
        )
    waiting.remove(matched_call)
    response = (
        optional_field(body, "response", dict, f"{where}.functionResponse.") or {}
    )
    # Google's convention: an object whose only key is `error` reports a failure.
    is_error = response.keys() == {"error"} and isinstance(response["error"], str)
    key = "error" if is_error else "result"
    # An object with only that key is unwrapped to its text; any other object stays
    # JSON.
    content = (
        response[key]
        if response.keys() == {key} and isinstance(response[key], str)
        else as_text(response)
    )
    known_fields = frozenset({"id", "name", "response", "parts"})
    extra_fields = unknown_fields(body, known_fields)
    files = [
        block
        for block in _parse_parts(body, f"{where}.functionResponse")
        if not isinstance(block, ToolCall)
    ]
    return ToolPromptMessage(
        content=[TextPromptMessageContent(data=content), *files] if files else content,
        name=name,
        tool_call_id=matched_call[1],
        is_error=is_error,
        extra=passthrough_fields(FORMAT, extra_fields),
    )


def _with_ids(
    blocks: list[PromptMessageContent | ToolCall], stem: str
) -> list[PromptMessageContent | ToolCall]:
    """Return the blocks with an id in every call. Other formats require one."""
    result: list[PromptMessageContent | ToolCall] = []
    calls = 0
    for block in blocks:
        if isinstance(block, ToolCall):
            call_with_id = (
                block
                if block.id
                else msgspec.structs.replace(
                    block, id=f"{_GENERATED_ID_PREFIX}{stem}_{calls}"
                )
            )
            result.append(call_with_id)
            calls += 1
        else:
            result.append(block)
    return result


def _parse_parts(
    content: JSON, where: str, origin: str = ""
) -> list[PromptMessageContent | ToolCall]:
    """Return the `parts` of a content as blocks, in order.

    `where` is the content's path for error messages, `origin` the wire format recorded
    in thoughts (empty in a request). Empty texts next to other blocks are dropped.
    Raises InvokeBadRequestError if a part is invalid.
    """
    blocks: list[PromptMessageContent | ToolCall] = []
    for number, part in enumerate(content.get("parts") or ()):
        part_path = f"{where}.parts[{number}]"
        blocks += _parse_part(
            _camel_case_keys(expect_type(part, dict, part_path)), part_path, origin
        )
    # Empty texts occur next to other parts and carry no information there. A lone one
    # is the content.
    return [block for block in blocks if not (len(blocks) > 1 and _is_empty(block))]


def _is_empty(block: PromptMessageContent | ToolCall) -> bool:
    """Return whether a block is a text without characters and vendor fields."""
    return (
        isinstance(block, TextPromptMessageContent)
        and not block.data
        and not block.extra
    )


def _parse_part(
    part: JSON, where: str, origin: str = ""
) -> list[PromptMessageContent | ToolCall]:
    """Return a part as blocks. Its signature, if there is one, becomes a thinking block
    before it."""
    signature = part.get("thoughtSignature") or ""
    if part.get("thought") is True and "text" in part:
        extra_fields = unknown_fields(
            part, frozenset({"text", "thought", "thoughtSignature"})
        )
        # A thought keeps its own signature. A signature without text is a redacted
        # thought.
        return [
            ThinkingPromptMessageContent(
                data=part["text"],
                signature=signature,
                redacted=bool(signature) and not part["text"],
                origin=origin,
                extra=passthrough_fields(FORMAT, extra_fields),
            )
        ]
    block = _parse_body(
        {name: value for name, value in part.items() if name != "thoughtSignature"},
        where,
    )
    if not signature:
        return [block]
    signed = ThinkingPromptMessageContent(signature=signature, origin=origin)
    # An empty text only transports the signature, so no text block is created for it.
    is_empty = isinstance(block, TextPromptMessageContent) and not block.data
    return [signed] if is_empty else [signed, block]


def _parse_body(part: JSON, where: str) -> PromptMessageContent | ToolCall:
    """Return the block of a part, its signature excluded.

    Texts, `functionCall`, `inlineData` and `fileData` have a counterpart, a part
    without fields is an empty text, and any other part becomes an opaque block. Raises
    InvokeBadRequestError if a field is missing or the data is not valid base64.
    """
    if "text" in part:
        extra_fields = unknown_fields(part, frozenset({"text", "thought"}))
        return TextPromptMessageContent(
            data=expect_type(part["text"], str, f"{where}.text"),
            extra=passthrough_fields(FORMAT, extra_fields),
        )
    if "functionCall" in part:
        called = expect_type(part["functionCall"], dict, f"{where}.functionCall")
        extra_fields = unknown_fields(called, frozenset({"id", "name", "args"}))
        return ToolCall(
            id=called.get("id") or "",
            function=ToolCallFunction(
                name=required_field(called, "name", str, f"{where}.functionCall."),
                arguments=as_text(called.get("args")),
            ),
            extra=passthrough_fields(FORMAT, extra_fields),
        )
    if "inlineData" in part:
        inline = _camel_case_keys(
            expect_type(part["inlineData"], dict, f"{where}.inlineData")
        )
        mime = required_field(inline, "mimeType", str, f"{where}.inlineData.")
        # Google accepts URL-safe base64 without padding; our types use the standard
        # alphabet.
        data = (
            required_field(inline, "data", str, f"{where}.inlineData.")
            .replace("-", "+")
            .replace("_", "/")
        )
        data += "=" * (-len(data) % 4)
        check = checked_image if mime.startswith("image/") else checked_base64
        extra_fields = unknown_fields(part, frozenset({"inlineData", "thought"}))
        data = check(data, f"{where}.inlineData.data")
        return part_of(
            mime,
            base64_data=data,
            filename=inline.get("displayName") or "",
            extra=passthrough_fields(FORMAT, extra_fields),
        )
    if "fileData" in part:
        file = _camel_case_keys(
            expect_type(part["fileData"], dict, f"{where}.fileData")
        )
        # Only URLs of videos may come without a media type.
        mime = file.get("mimeType") or "video/*"
        extra_fields = unknown_fields(part, frozenset({"fileData"}))
        return part_of(
            mime,
            url=required_field(file, "fileUri", str, f"{where}.fileData."),
            extra=passthrough_fields(FORMAT, extra_fields),
        )
    # An empty part is valid and means an empty text.
    if not part:
        return TextPromptMessageContent(data="")
    return OpaquePromptMessageContent(format=FORMAT, data=part)


def dump_request(request: LLMRequest, model: str, capabilities: Capabilities) -> JSON:
    """Build the body of generateContent; the model's name is part of the URL.

    Contents, tools and `generationConfig` are translated; stored vendor fields take
    precedence. `capabilities.drop` lists `generationConfig` fields to omit. Raises
    InvokeBadRequestError for a hosted tool of another provider.
    """
    del model
    system, contents = _dump_messages(request.messages)
    body: JSON = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    if tools := _dump_tools(request.tools):
        body["tools"] = tools
    # A copy, since `pop` below must not change the request.
    vendor_fields = dict(request.extra.get(FORMAT, {}))
    if config := _dump_tool_config(request.tool_choice):
        body["toolConfig"] = {"functionCallingConfig": config}
    if "toolConfig" in vendor_fields:
        # Translated settings and vendor settings are merged, so that neither removes
        # the other.
        body["toolConfig"] = {
            **body.get("toolConfig", {}),
            **vendor_fields.pop("toolConfig"),
        }
    generation = _dump_config(request) | vendor_fields.pop("generationConfig", {})
    for name in capabilities.drop:
        generation.pop(name, None)
    # None marks a field that a vendor field replaces; see `_parse_response_format`.
    generation = {
        name: value for name, value in generation.items() if value is not None
    }
    if generation:
        body["generationConfig"] = generation
    if tier := request.model_parameters.get("service_tier"):
        body["serviceTier"] = tier
    return body | vendor_fields


def _dump_config(request: LLMRequest) -> JSON:
    """Build the `generationConfig` of a request from its parameters.

    Parameters that Google does not have are left out. A JSON schema is written as
    `responseJsonSchema`. The object may be empty.
    """
    parameters = request.model_parameters
    config: JSON = {
        wire_name: parameters[parameter]
        for wire_name, (parameter, *_) in _PARAMETER_RANGES.items()
        if parameter in parameters
    }
    # OpenAI writes modalities in lower case, Google in upper case.
    if "responseModalities" in config:
        config["responseModalities"] = [
            str(modality).upper() for modality in config["responseModalities"]
        ]
    if request.stop:
        config["stopSequences"] = request.stop
    match parameters.get("response_format"):
        case {"type": "json_schema", "json_schema": named_schema}:
            config |= {
                "responseMimeType": "application/json",
                "responseJsonSchema": named_schema["schema"],
            }
        case {"type": "json_object"}:
            config["responseMimeType"] = "application/json"
        case _:
            pass
    if thinking := _dump_thinking_config(parameters):
        config["thinkingConfig"] = thinking
    return config


def _dump_thinking_config(parameters: Mapping[str, Any]) -> JSON:
    """Build Google's `thinkingConfig`; empty if thinking is not controlled.

    A budget takes precedence over an effort level. The effort `none` becomes a budget
    of 0, and `xhigh` the level `high`.
    """
    thinking: JSON = {}
    # Google accepts either a budget or a level, so the budget takes precedence.
    if (budget := parameters.get("thinking_budget")) is not None:
        thinking["thinkingBudget"] = budget
    elif effort := parameters.get("reasoning_effort"):
        thinking |= (
            {"thinkingBudget": 0}
            if effort == "none"
            else {"thinkingLevel": _LEVELS.get(effort, effort)}
        )
    if (include_thoughts := parameters.get("include_thoughts")) is not None:
        thinking["includeThoughts"] = include_thoughts
    return thinking


# Gemini has no level above `high`.
_LEVELS = {"xhigh": "high"}


def _dump_tools(tools: Iterable[PromptMessageTool]) -> list[JSON]:
    """Build Google's `tools` list.

    Consecutive functions share one `functionDeclarations` entry; each hosted tool has a
    separate entry. Raises InvokeBadRequestError for a hosted tool that did not come in
    Google's format.
    """
    wire_tools: list[JSON] = []
    for tool in tools:
        vendor_fields = tool.extra.get(FORMAT, {})
        # Such a tool runs at the provider. Its settings are known only if they came in
        # Google's format.
        if tool.type not in ("function", "custom"):
            if not vendor_fields:
                raise InvokeBadRequestError(
                    f"Tool {tool.name!r} is hosted by another provider; Google does not"
                    " support it",
                    param="tools",
                )
            wire_tools.append(vendor_fields)
            continue
        body: JSON = {"name": tool.name, **without_empty(description=tool.description)}
        # A stored schema in Google's dialect replaces the JSON Schema; only one of the
        # two is sent.
        if tool.parameters and "parameters" not in vendor_fields:
            body["parametersJsonSchema"] = tool.parameters
        # Consecutive functions share one entry, which is how Google declares them;
        # tools it runs itself stay separate.
        if not wire_tools or "functionDeclarations" not in wire_tools[-1]:
            wire_tools.append({"functionDeclarations": []})
        wire_tools[-1]["functionDeclarations"].append(body | vendor_fields)
    return wire_tools


def _dump_tool_config(choice: str | dict[str, Any] | None) -> JSON | None:
    """Build `functionCallingConfig`, or None if there is no tool choice.

    A list of allowed functions is written only if a call is required; otherwise the
    mode is AUTO without a restriction.
    """
    match choice:
        case None:
            return None
        case "required":
            return {"mode": "ANY"}
        case str():
            return {"mode": choice.upper()}
        case {"allowed": names}:
            # A choice that is not required cannot be restricted to some functions.
            return (
                {"mode": "ANY", "allowedFunctionNames": names}
                if choice.get("mode") == "required"
                else {"mode": "AUTO"}
            )
        case _:
            return {"mode": "ANY", "allowedFunctionNames": [choice["name"]]}


def _dump_messages(
    messages: Iterable[AnyPromptMessage],
) -> tuple[list[JSON], list[JSON]]:
    """Return the parts of the system instruction and the contents.

    Neighbouring messages of the same role are merged into one content.
    """
    system: list[JSON] = []
    contents: list[JSON] = []
    # Call id -> function name, of all calls so far.
    names: dict[str, str] = {}
    for message in messages:
        if isinstance(message, SystemPromptMessage):
            system += _dump_parts(message.parts)
            continue
        role, parts = _dump_message(message, names)
        if not parts:
            continue
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": role, "parts": parts})
        if message.extra:
            contents[-1] |= message.extra.get(FORMAT, {}).get("content") or {}
    return system, contents


def _dump_message(
    message: AssistantPromptMessage | ToolPromptMessage | UserPromptMessage,
    names: dict[str, str],
) -> tuple[str, list[JSON]]:
    """Return the role and the parts of a message. The calls of an assistant message are
    added to `names`."""
    match message:
        case AssistantPromptMessage():
            # Google identifies a response by the function's name, which the result may
            # not carry.
            names |= {call.id: call.function.name for call in message.tool_calls}
            return "model", _dump_blocks(_without_foreign_thoughts(message))
        case ToolPromptMessage():
            return "user", [_dump_response(message, names)]
        case UserPromptMessage():
            return "user", _dump_parts(message.parts) or [{"text": ""}]


def _without_foreign_thoughts(
    message: AssistantPromptMessage,
) -> Iterator[PromptMessageContent | ToolCall]:
    """Yield the blocks of an assistant message to send back, without thoughts signed by
    another provider."""
    blocks = (
        message.blocks
        if message.reasoning_content is None
        else [*message.parts, *message.tool_calls]
    )
    for block in blocks:
        if not isinstance(block, ThinkingPromptMessageContent) or block.origin in (
            "",
            FORMAT,
        ):
            yield block
    # The format has no refusal field, so a refusal is sent as text.
    if message.refusal:
        yield TextPromptMessageContent(data=message.refusal)


def _dump_response(message: ToolPromptMessage, names: Mapping[str, str]) -> JSON:
    """Build the `functionResponse` part for a tool result.

    `names` gives the function's name by call id, for results without a name. A JSON
    object is sent as it is, any other text under `result` or `error`. An id that
    modelyard generated is omitted.
    """
    text = message.text
    # Google requires an object as response. Text that is not a JSON object is wrapped.
    response = as_object(text) if text.lstrip().startswith("{") else None
    if response is None or "INVALID_JSON" in response:
        response = {"error" if message.is_error else "result": text}
    name = message.name or names.get(message.tool_call_id) or message.tool_call_id
    body: JSON = {"name": name, "response": response}
    # A generated id is unknown to Google and would not match any call.
    if message.tool_call_id and not message.tool_call_id.startswith(
        _GENERATED_ID_PREFIX
    ):
        body["id"] = message.tool_call_id
    if message.files:
        body["parts"] = _dump_parts(message.files)
    fields = message.extra.get(FORMAT, {})
    body |= {name: value for name, value in fields.items() if name != "content"}
    return {"functionResponse": body}


def _dump_blocks(blocks: Iterable[PromptMessageContent | ToolCall]) -> list[JSON]:
    """Return the blocks as parts, each with the signature that preceded it."""
    parts: list[JSON] = []
    signature = ""
    for block in blocks:
        if not isinstance(block, ThinkingPromptMessageContent):
            part = _dump_part(block)
        elif block.data or block.redacted:
            part = {
                "text": block.data,
                "thought": True,
                **without_empty(thoughtSignature=block.signature),
            }
        else:
            # A signature before another one has no block of its own.
            parts += _lone_signature(signature)
            signature = block.signature
            continue
        if part is None:
            continue
        # Only the first part after the signature carries it.
        if signature and not part.get("thought"):
            part = {**part, "thoughtSignature": signature}
            signature = ""
        parts.append(part)
    if signature:
        parts += _lone_signature(signature)
    return parts


def _lone_signature(signature: str) -> list[JSON]:
    """Return an empty text that carries a signature without a block, or nothing if
    there is no signature."""
    return [{"text": "", "thoughtSignature": signature}] if signature else []


def _dump_call(call: ToolCall) -> JSON:
    """Build the `functionCall` part for a tool call.

    Arguments are written as an object. An id that modelyard generated is omitted.
    """
    body: JSON = {
        "name": call.function.name,
        "args": as_object(call.function.arguments),
    }
    if call.id and not call.id.startswith(_GENERATED_ID_PREFIX):
        body["id"] = call.id
    return {"functionCall": body | call.extra.get(FORMAT, {})}


def _dump_parts(parts: Iterable[PromptMessageContent]) -> list[JSON]:
    """Return parts, without those that the format cannot express."""
    return [body for part in parts if (body := _dump_part(part)) is not None]


def _dump_part(part: PromptMessageContent | ToolCall) -> JSON | None:
    """Return a block as a part, or None if it has none in this format. Thoughts are
    written by `_dump_blocks`."""
    extra_fields = part.extra.get(FORMAT, {}) if part.extra else {}
    match part:
        case TextPromptMessageContent():
            return (
                {"text": part.data, **extra_fields}
                if part.data or extra_fields
                else None
            )
        case ToolCall():
            return _dump_call(part)
        case OpaquePromptMessageContent():
            return part.data if part.format == FORMAT else None
        case ThinkingPromptMessageContent():
            return None
        case _:
            return _dump_file(part) | extra_fields


def _dump_file(part: MultiModalPromptMessageContent) -> JSON:
    """Build a `fileData` part for a URL, or an `inlineData` part for base64.

    Without a media type, it is derived from the file's format or from the class of the
    part.
    """
    mime = part.mime_type
    if not mime:
        # The class name is the only hint if the file has no media type.
        media_type = {"Imag": "image", "Audi": "audio", "Vide": "video"}.get(
            type(part).__name__[:4], "application"
        )
        mime = (
            mime_type_of(part.format, media_type)
            if part.format
            else f"{media_type}/*"
            if part.url
            else "application/octet-stream"
        )
    if part.url:
        return {
            "fileData": {
                "fileUri": part.url,
                **({} if mime == "video/*" else {"mimeType": mime}),
            }
        }
    return {
        "inlineData": {
            "mimeType": mime,
            "data": part.base64_data,
            **without_empty(displayName=part.filename),
        }
    }


# ---------------------------------------------------------------------------- responses


def parse_usage(body: Any) -> LLMUsage | None:
    """Parse usageMetadata, or return None if it has no counts.

    Google counts thoughts and the input of its own tools separately; our totals include
    both.
    """
    if not isinstance(body, dict) or (
        count(body.get("promptTokenCount")) is None
        and not nested_count(body, "totalTokenCount")
    ):
        return None
    tools, thoughts = (
        nested_count(body, "toolUsePromptTokenCount"),
        nested_count(body, "thoughtsTokenCount"),
    )
    prompt = nested_count(body, "promptTokenCount") + tools
    completion = nested_count(body, "candidatesTokenCount") + thoughts
    return LLMUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=nested_count(body, "totalTokenCount") or prompt + completion,
        cached_tokens=nested_count(body, "cachedContentTokenCount"),
        audio_prompt_tokens=_modality_tokens(body.get("promptTokensDetails"), "AUDIO"),
        image_prompt_tokens=_modality_tokens(body.get("promptTokensDetails"), "IMAGE"),
        tool_prompt_tokens=tools,
        reasoning_tokens=thoughts,
        audio_completion_tokens=_modality_tokens(
            body.get("candidatesTokensDetails"), "AUDIO"
        ),
        image_completion_tokens=_modality_tokens(
            body.get("candidatesTokensDetails"), "IMAGE"
        ),
        # Vertex calls it the type of the traffic.
        service_tier=tier_name(body.get("serviceTier"))
        or _TIER_OF_TRAFFIC.get(str(body.get("trafficType")), ""),
        extra={FORMAT: body},
    )


_TIER_OF_TRAFFIC = {"ON_DEMAND_PRIORITY": "priority", "ON_DEMAND_FLEX": "flex"}


def _modality_tokens(details: Any, modality: str) -> int:
    """Return the tokens of one modality in Google's token details.

    `details` is a list such as `promptTokensDetails`; anything else counts as 0.
    """
    if not isinstance(details, list):
        return 0
    return sum(
        nested_count(detail, "tokenCount")
        for detail in details
        if isinstance(detail, dict) and detail.get("modality") == modality
    )


def dump_usage(usage: LLMUsage) -> JSON:
    """Build `usageMetadata` from token counts.

    An object that came from Google is returned unchanged. Otherwise thoughts and the
    input of hosted tools are taken out of our totals, because Google counts them
    separately. These two counts and the cached tokens are omitted if they are 0.
    """
    if raw_usage := usage.extra.get(FORMAT):
        return raw_usage
    body = {
        # The reverse of `parse_usage`: separate counts are taken out of the totals
        # again.
        "promptTokenCount": usage.prompt_tokens - usage.tool_prompt_tokens,
        "candidatesTokenCount": usage.completion_tokens - usage.reasoning_tokens,
        "totalTokenCount": usage.total_tokens,
    }
    return body | without_empty(
        serviceTier=served_tier(FORMAT, usage.service_tier) or None,
        cachedContentTokenCount=usage.cached_tokens or None,
        thoughtsTokenCount=usage.reasoning_tokens or None,
        toolUsePromptTokenCount=usage.tool_prompt_tokens or None,
        promptTokensDetails=_dump_audio(
            usage.audio_prompt_tokens, body["promptTokenCount"]
        ),
        candidatesTokensDetails=_dump_audio(
            usage.audio_completion_tokens, body["candidatesTokenCount"]
        ),
    )


def _dump_audio(audio_tokens: int, total: int) -> list[JSON]:
    """Return the counts of each modality, if some tokens are speech."""
    if not audio_tokens:
        return []
    counts = {"TEXT": total - audio_tokens, "AUDIO": audio_tokens}
    details: list[JSON] = []
    for modality, tokens in counts.items():
        if tokens > 0:
            details.append({"modality": modality, "tokenCount": tokens})
    return details


_FINISH_REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "LANGUAGE": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "MODEL_ARMOR": "content_filter",
}
# The reverse direction. "pause" has no value at Google; STOP is the closest.
_WIRE_FINISH_REASONS = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "pause": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
}
_KNOWN_CANDIDATE_FIELDS = frozenset({"content", "finishReason", "index"})
# Other fields are kept, so that a client of this format gets them unchanged.
_KNOWN_RESULT_FIELDS = frozenset(
    {"candidates", "usageMetadata", "modelVersion", "responseId"}
)


def _parse_reason(
    wire_reason: str | None, *, has_calls: bool
) -> tuple[str | None, JSON]:
    """Return the finish reason, and the vendor fields needed to restore it.

    The reason is None if Google gave none; an unknown one becomes `stop`. With
    `has_calls`, `stop` becomes `tool_calls`. The fields hold the original
    `finishReason` if `_WIRE_FINISH_REASONS` would not give it back.
    """
    if not wire_reason or wire_reason == "FINISH_REASON_UNSPECIFIED":
        return None, {}
    reason = _FINISH_REASONS.get(wire_reason, "stop")
    # The original reason is stored only if the reverse mapping would lose it, for example
    # RECITATION.
    reason_fields = (
        {"finishReason": wire_reason}
        if _WIRE_FINISH_REASONS[reason] != wire_reason
        else {}
    )
    return ("tool_calls" if has_calls and reason == "stop" else reason), reason_fields


def _parse_logprobs(body: Any) -> dict[str, Any] | None:
    """Return Google's log probabilities in the form that OpenAI uses, or None if there
    are none."""
    if not isinstance(body, dict):
        return None
    tops = body.get("topCandidates") or []
    content: list[JSON] = []
    for index, candidate in enumerate(body.get("chosenCandidates") or ()):
        alternatives = (
            (tops[index].get("candidates") or []) if index < len(tops) else []
        )
        content.append(
            {
                **_logprob(candidate),
                "top_logprobs": [_logprob(alternative) for alternative in alternatives],
            }
        )
    return {"content": content} if content else None


def _logprob(candidate: JSON) -> JSON:
    """Convert one of Google's token candidates to OpenAI's form.

    The result has `token`, `logprob` and the token's UTF-8 bytes; a missing probability
    becomes 0.0.
    """
    token = candidate.get("token") or ""
    return {
        "token": token,
        "logprob": candidate.get("logProbability") or 0.0,
        "bytes": list(token.encode()),
    }


@reads_answer
def parse_result(body: JSON) -> LLMResult:
    """Parse a complete `GenerateContentResponse`.

    A blocked prompt gives one artificial choice, finished with `content_filter`.
    Missing usage is marked as estimated. Raises an InvokeError for an `error` object,
    and InvokeServerUnavailableError if there are no candidates without a reason, as in
    a stream, or a part is invalid.
    """
    raise_error_in(body)
    candidates = body.get("candidates") or []
    block_reason = (body.get("promptFeedback") or {}).get("blockReason")
    # A blocked prompt has feedback but no candidates. It is a valid answer, unlike one
    # without either.
    if not isinstance(candidates, list) or not (candidates or block_reason):
        raise InvokeServerUnavailableError("Upstream response has no 'candidates'")
    stem = _call_id_prefix(body)
    choices = [
        _parse_candidate(candidate, position, stem)
        for position, candidate in enumerate(candidates)
    ]
    # Without candidates, the prompt itself was blocked.
    if not choices:
        # `blocked` lets `dump_result` omit this artificial choice again.
        blocked = {FORMAT: {"blocked": True}}
        choices = [LLMChoice(finish_reason="content_filter", extra=blocked)]
    return LLMResult(
        id=body.get("responseId") or "",
        model=body.get("modelVersion") or "",
        choices=choices,
        usage=parse_usage(body.get("usageMetadata")) or LLMUsage(estimated=True),
        extra=passthrough_fields(FORMAT, unknown_fields(body, _KNOWN_RESULT_FIELDS)),
    )


def _call_id_prefix(body: JSON) -> str:
    """Return the prefix of generated call ids: the same response always gives the same
    ids."""
    return (
        body.get("responseId")
        or hashlib.sha256(msgspec.json.encode(body)).hexdigest()[:20]
    )


def _parse_candidate(candidate: Any, position: int, stem: str) -> LLMChoice:
    """Parse one entry of a response's `candidates` into a choice.

    `position` is the index if the candidate states none, `stem` the base of generated
    call ids. Sources are attached to the last text. Raises InvokeServerUnavailableError
    if the candidate or one of its parts is invalid.
    """
    if not isinstance(candidate, dict):
        raise InvokeServerUnavailableError(
            f"Upstream response: candidates[{position}] must be an object, not"
            f" {short_repr(candidate)}"
        )
    _check_call(candidate)
    # The part readers blame the client by default; in a response the fault is the
    # provider's.
    try:
        blocks = _with_ids(
            _parse_parts(candidate.get("content") or {}, "content", FORMAT), stem
        )
    except InvokeBadRequestError as error:
        raise InvokeServerUnavailableError(
            f"Invalid upstream response: {error}"
        ) from error
    # Google attaches sources to the whole candidate, our types to a text part.
    _attach_sources(candidate, blocks)
    has_calls = any(isinstance(block, ToolCall) for block in blocks)
    reason, reason_fields = _parse_reason(
        candidate.get("finishReason"), has_calls=has_calls
    )
    return LLMChoice(
        index=count(candidate.get("index")) or position,
        message=assistant_of(blocks),
        finish_reason=reason,
        logprobs=_parse_logprobs(candidate.get("logprobsResult")),
        extra=passthrough_fields(
            FORMAT, unknown_fields(candidate, _KNOWN_CANDIDATE_FIELDS) | reason_fields
        ),
    )


def _check_call(candidate: JSON) -> None:
    """Raise MalformedToolCallError if the candidate ended with a call that Google could
    not read. Its text, if there is any, is not the answer."""
    if candidate.get("finishReason") == "MALFORMED_FUNCTION_CALL":
        message = text_of(candidate.get("finishMessage"))
        raise MalformedToolCallError(message or "The model wrote an invalid tool call")


def _attach_sources(
    candidate: JSON, blocks: list[PromptMessageContent | ToolCall]
) -> None:
    """Add the sources of a candidate to the texts among its blocks. Without a text they
    are dropped."""
    numbers = [
        number
        for number, block in enumerate(blocks)
        if isinstance(block, TextPromptMessageContent)
    ]
    texts = [
        block.data for block in blocks if isinstance(block, TextPromptMessageContent)
    ]
    for number, citation in parse_sources(candidate, texts):
        block = blocks[numbers[number]]
        if isinstance(block, TextPromptMessageContent):
            citations = [*block.citations, citation]
            blocks[numbers[number]] = msgspec.structs.replace(
                block, citations=citations
            )


def _answer_blocks(
    message: AssistantPromptMessage,
) -> list[PromptMessageContent | ToolCall]:
    """Return the blocks of an answer that this format can express.

    Opaque parts of other formats are dropped. A refusal is added as a text at the end,
    since Google has no field for it.
    """
    blocks = [
        block
        for block in message.blocks
        if not isinstance(block, OpaquePromptMessageContent) or block.format == FORMAT
    ]
    return (
        [*blocks, TextPromptMessageContent(data=message.refusal)]
        if message.refusal
        else blocks
    )


# Google sends its sources in either field, depending on where they are from.
_SOURCE_FIELDS = frozenset({"groundingMetadata", "citationMetadata"})


def _dump_logprobs(logprobs: JSON | None) -> JSON:
    """Build `logprobsResult` from log probabilities in OpenAI's form; empty if there are
    none."""
    tokens = (logprobs or {}).get("content") or ()
    if not tokens:
        return {}
    return {
        "logprobsResult": {
            "chosenCandidates": [_dump_logprob(token) for token in tokens],
            "topCandidates": [
                {
                    "candidates": [
                        _dump_logprob(alternative)
                        for alternative in token.get("top_logprobs") or ()
                    ]
                }
                for token in tokens
            ],
        }
    }


def _dump_logprob(token: JSON) -> JSON:
    """Return a token with its probability. Ids of tokens are the vendor's own."""
    return {
        "token": token.get("token") or "",
        "logProbability": token.get("logprob") or 0.0,
    }


def _dump_candidate(choice: LLMChoice) -> JSON:
    """Build an entry of `candidates` from a choice.

    A finish reason without a counterpart becomes OTHER. The choice's vendor fields take
    precedence; original grounding or citation metadata replaces the citations of the
    texts.
    """
    vendor_fields = choice.extra.get(FORMAT, {})
    body: JSON = {
        "content": {
            "role": "model",
            "parts": _dump_blocks(_answer_blocks(choice.message)),
        }
    }
    if choice.finish_reason is not None:
        body["finishReason"] = _WIRE_FINISH_REASONS.get(choice.finish_reason, "OTHER")
    body["index"] = choice.index
    # Original metadata takes precedence over what would be rebuilt from it.
    if not vendor_fields.keys() & _SOURCE_FIELDS:
        body |= dump_sources(choice.message.parts)
    return body | _dump_logprobs(choice.logprobs) | vendor_fields


def dump_result(result: LLMResult) -> JSON:
    """Build a complete response body. Choices of a blocked prompt are omitted."""
    visible_choices = [
        choice
        for choice in result.choices
        if not choice.extra.get(FORMAT, {}).get("blocked")
    ]
    return {
        **(
            {"candidates": [_dump_candidate(choice) for choice in visible_choices]}
            if visible_choices
            else {}
        ),
        "usageMetadata": dump_usage(result.usage),
        "modelVersion": result.model,
        "responseId": result.id,
        **result.extra.get(FORMAT, {}),
    }


def dump_token_count(tokens: int) -> JSON:
    """Build the response of countTokens."""
    return {"totalTokens": tokens}


def parse_token_count(body: JSON) -> int | None:
    """Parse the response of countTokens.

    Returns None if `totalTokens` is missing or not a plausible count.
    """
    return count(body.get("totalTokens"))


# ------------------------------------------------------------------------------ streams


# Keys of a candidate that only continues the text; such events take a short path.
_TEXT_EVENT_KEYS = frozenset({"content", "index"})


def _only_text(content: Any) -> str | None:
    """Return the text of a content with exactly one plain text part, otherwise None."""
    parts = content.get("parts") if isinstance(content, dict) else None
    if (
        not isinstance(parts, list)
        or len(parts) != 1
        or not isinstance(parts[0], dict)
        or parts[0].keys() != {"text"}
    ):
        return None
    text = parts[0]["text"]
    return text if isinstance(text, str) else None


class StreamParser:
    """Converts the events of a stream into chunks, one event at a time.

    Every event repeats the usage so far; the last one counts.
    """

    def __init__(self) -> None:
        # Candidate index -> type and index of its last block.
        self._blocks: dict[int, tuple[str, int]] = {}
        # Candidate index -> number of a text block -> its pieces, for the positions of
        # sources.
        self._texts: dict[int, dict[int, list[str]]] = {}
        # Candidate index -> index of its last call.
        self._calls: dict[int, int] = {}
        # Candidate index -> part with the call whose fragments are being received.
        self._open_calls: dict[int, JSON] = {}
        self._call_id_prefix = ""
        self._usage: Any = None
        # The usage that was last put into a chunk, to avoid reporting it twice.
        self._reported_usage: Any = None
        self._has_finished = False

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        """Return the chunks for one event. Raises an InvokeError if the event reports
        an error."""
        raise_error_in(event)
        # Generated ids are based on the first event, so that they are stable within the
        # stream.
        self._call_id_prefix = self._call_id_prefix or _call_id_prefix(event)
        self._usage = event.get("usageMetadata") or self._usage
        extra_fields = passthrough_fields(
            FORMAT, unknown_fields(event, _KNOWN_RESULT_FIELDS)
        )
        head: JSON = {
            "id": event.get("responseId") or "",
            "model": event.get("modelVersion") or "",
            "extra": extra_fields,
        }
        chunks = [
            LLMResultChunk(delta=self._candidate(candidate, position), **head)
            for position, candidate in enumerate(event.get("candidates") or ())
        ]
        # A blocked prompt ends the stream without any candidate.
        if not chunks and (event.get("promptFeedback") or {}).get("blockReason"):
            self._has_finished = True
            blocked = LLMResultChunkDelta(
                finish_reason="content_filter",
                usage=self._take_usage(),
                extra={FORMAT: {"blocked": True}},
            )
            return [LLMResultChunk(delta=blocked, **head)]
        # An event without candidates may still carry fields of the response.
        return chunks or ([LLMResultChunk(**head)] if extra_fields else [])

    def _take_usage(self) -> LLMUsage | None:
        """Return the usage so far, and mark it as reported."""
        self._reported_usage = self._usage
        return parse_usage(self._usage)

    def _candidate(self, candidate: Any, position: int) -> LLMResultChunkDelta:
        """Return the delta for one candidate of a stream event.

        `position` is the index if the candidate states none. A finish reason marks the
        stream as finished and brings the usage along. Raises
        InvokeServerUnavailableError if the candidate is not an object or has an invalid
        part.
        """
        if not isinstance(candidate, dict):
            raise InvokeServerUnavailableError(
                f"Upstream stream: candidates[{position}] must be an object, not"
                f" {short_repr(candidate)}"
            )
        index = count(candidate.get("index")) or position
        if (
            candidate.keys() <= _TEXT_EVENT_KEYS
            and (text := _only_text(candidate.get("content"))) is not None
        ):
            # Nearly every chunk of a long answer takes this path.
            block = self._with_block_index(TextPromptMessageContent(data=text), index)
            return LLMResultChunkDelta(
                index=index, message=AssistantPromptMessage(content=[block])
            )
        _check_call(candidate)
        try:
            blocks = _parse_parts(
                self._with_complete_calls(candidate.get("content") or {}, index),
                "content",
                FORMAT,
            )
        except InvokeBadRequestError as error:
            raise InvokeServerUnavailableError(
                f"Invalid upstream stream: {error}"
            ) from error
        numbered = [self._with_block_index(block, index) for block in blocks]
        numbered += self._sources(candidate, index)
        # Google reports STOP also for calls, so the calls seen so far decide.
        reason, reason_fields = _parse_reason(
            candidate.get("finishReason"), has_calls=index in self._calls
        )
        if reason is not None:
            self._has_finished = True
        return LLMResultChunkDelta(
            index=index,
            message=assistant_of(numbered),
            finish_reason=reason,
            logprobs=_parse_logprobs(candidate.get("logprobsResult")),
            usage=self._take_usage() if reason is not None else None,
            extra=passthrough_fields(
                FORMAT,
                unknown_fields(candidate, _KNOWN_CANDIDATE_FIELDS) | reason_fields,
            ),
        )

    def _with_complete_calls(self, content: JSON, index: int) -> JSON:
        """Return the content with complete calls only.

        Gemini 3 may split a call's arguments over several events; each fragment has a
        JSON path.
        """
        parts = content.get("parts") or ()
        if not any("functionCall" in part for part in parts if isinstance(part, dict)):
            return content
        complete_parts: list[Any] = []
        for part in parts:
            called = part.get("functionCall")
            # A part outside of a split call passes through unchanged.
            if called is None or (
                index not in self._open_calls and not called.get("willContinue")
            ):
                complete_parts.append(part)
                continue
            self._extend_open_call(index, part, called)
            if not called.get("willContinue"):
                complete_parts.append(self._open_calls.pop(index))
        return {**content, "parts": complete_parts}

    def _extend_open_call(self, index: int, part: JSON, called: JSON) -> None:
        """Add an event's fragment of a call to the open call of candidate `index`."""
        open_part = self._open_calls.setdefault(
            index, {**part, "functionCall": {"args": {}}}
        )
        open_call = open_part["functionCall"]
        for name in ("id", "name"):
            if called.get(name):
                open_call[name] = called[name]
        # An event may carry complete arguments and fragments together.
        open_call["args"] |= called.get("args") or {}
        for fragment in called.get("partialArgs") or ():
            _store_fragment(open_call["args"], fragment)

    def _with_block_index(self, block: Any, index: int) -> Any:
        """Return the block with the index of the content block that it starts or
        continues."""
        if isinstance(block, ToolCall):
            number = self._calls[index] = self._calls.get(index, -1) + 1
            # A call ends the current text or thought: a later one starts a new block.
            self._blocks[index] = ("call", self._blocks.get(index, ("", -1))[1])
            return msgspec.structs.replace(
                block,
                index=number,
                id=block.id or f"{_GENERATED_ID_PREFIX}{self._call_id_prefix}_{number}",
            )
        block_type = "text" if isinstance(block, TextPromptMessageContent) else "other"
        if isinstance(block, ThinkingPromptMessageContent):
            block_type = (
                "thought" if block.data and not block.signature else "signature"
            )
        last, number = self._blocks.get(index, ("", -1))
        # Signatures and other blocks are complete in one event, so they are never
        # continued.
        if block_type != last or block_type in ("other", "signature"):
            number += 1
        self._blocks[index] = (block_type, number)
        if block_type == "text":
            pieces = self._texts.setdefault(index, {}).setdefault(number, [])
            pieces.append(block.data)
        return msgspec.structs.replace(block, index=number)

    def _sources(self, candidate: JSON, index: int) -> list[TextPromptMessageContent]:
        """Return the sources of a candidate, as empty texts that continue the texts
        that they are for."""
        texts = self._texts.get(index, {})
        numbers = list(texts)
        joined = ["".join(pieces) for pieces in texts.values()]
        return [
            TextPromptMessageContent(
                data="", citations=[citation], index=numbers[number]
            )
            for number, citation in parse_sources(candidate, joined)
        ]

    def finish(self, *, end_marker_seen: bool) -> list[LLMResultChunk]:
        """Return the last chunk, with usage that came after the finish reason.

        Raises InvokeServerUnavailableError if the stream was cut off. `end_marker_seen`
        is True if the transport itself saw a regular end.
        """
        if not end_marker_seen and not self._has_finished:
            raise InvokeServerUnavailableError(
                "Upstream stream ended without finishReason"
            )
        if self._usage is not None and self._usage != self._reported_usage:
            return [LLMResultChunk(delta=LLMResultChunkDelta(usage=self._take_usage()))]
        return []


# A step of a JSON path: `.name`, `[0]` or `['name']`.
_JSON_PATH_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\['([^']*)'\]")


def _store_fragment(arguments: JSON, fragment: JSON) -> None:
    """Store a fragment at its JSON path inside the arguments. A string is appended to
    the string already there.

    A path that does not fit the arguments, or has a gap, is ignored.
    """
    value = next(
        (
            fragment[value_field]
            for value_field in ("stringValue", "numberValue", "boolValue")
            if value_field in fragment
        ),
        None,
    )
    steps: list[str | int] = [
        name or quoted or int(index_text)
        for name, index_text, quoted in _JSON_PATH_STEP.findall(
            fragment.get("jsonPath") or ""
        )
    ]
    if not steps:
        return
    container: Any = arguments
    for step, next_step in pairwise(steps):
        container = _child_container(container, step, next_step)
    _store_value(container, steps[-1], value)


def _child_container(container: Any, step: str | int, next_step: str | int) -> Any:
    """Return the value at `step`, or None if the container cannot have one.

    A missing value is created as a list or an object, depending on the next step.
    """
    new_container: Any = [] if isinstance(next_step, int) else {}
    if isinstance(container, dict):
        return container.setdefault(step, new_container)
    if (
        not isinstance(container, list)
        or not isinstance(step, int)
        or step > len(container)
    ):
        return None
    if step == len(container):
        container.append(new_container)
    return container[step]


def _store_value(container: Any, step: str | int, value: Any) -> None:
    """Store a value in a list or object, at the last step of a JSON path.

    A string extends the string already there. In a list, the index after the last
    element appends. A larger index, or a container of another type, is ignored.
    """
    if isinstance(container, list):
        if not isinstance(step, int) or step > len(container):
            return
        if step == len(container):
            container.append(value)
        else:
            container[step] = _extended(container[step], value)
    elif isinstance(container, dict):
        container[step] = _extended(container.get(step), value)


def _extended(existing: Any, value: Any) -> Any:
    """Return the value after another piece of it: texts are joined."""
    if isinstance(existing, str) and isinstance(value, str):
        return existing + value
    return value


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    """Yield the chunks of a whole event stream. Raises InvokeServerUnavailableError if
    it is cut off."""
    return parse_events(StreamParser(), events)


class StreamDumper:
    """Converts chunks into stream events, one chunk at a time.

    Google does not split calls, so their fragments are collected and sent complete by
    `finish`.
    """

    def __init__(self, *, response_id: str, model: str, created: int = 0) -> None:
        del created
        self._head: JSON = {"modelVersion": model, "responseId": response_id}
        self._usage: LLMUsage | None = None
        self._end_fields: dict[int, JSON] = {}
        # Per choice: the whole text, its sources, and its log probabilities.
        self._texts: dict[int, WholeText] = {}
        self._citations: dict[int, list[Citation]] = {}
        self._logprobs: dict[int, list[JSON]] = {}
        self._call_indexes: dict[int, CallIndexes] = {}
        self._call_fragments: dict[int, dict[int, list[ToolCall]]] = {}
        # Signature of a call by (choice, call), and the signature of a choice whose
        # block has not come yet.
        self._call_signatures: dict[tuple[int, int], ThinkingPromptMessageContent] = {}
        self._pending_signatures: dict[int, ThinkingPromptMessageContent] = {}
        self._extra: JSON = {}

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        """Return the event for one chunk, or nothing if it has no part to send.

        Calls, signatures, finish reasons and usage are held back; `finish` sends them.
        Signatures go out earlier if the block that they sign arrives.
        """
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        self._extra |= chunk.extra.get(FORMAT, {})
        vendor_fields = delta.extra.get(FORMAT, {}) if delta.extra else {}
        # A blocked prompt has no candidate in this format; see `finish`.
        if vendor_fields.get("blocked"):
            return []
        if delta.finish_reason is not None:
            reason = _WIRE_FINISH_REASONS.get(delta.finish_reason, "OTHER")
            # The finish reason is held back: it belongs in the last event, together
            # with the usage.
            self._end_fields[delta.index] = {
                "finishReason": reason,
                **self._end_fields.get(delta.index, {}),
                **vendor_fields,
            }
        elif vendor_fields:
            self._end_fields[delta.index] = {
                **self._end_fields.get(delta.index, {}),
                **vendor_fields,
            }
        if delta.logprobs:
            tokens = self._logprobs.setdefault(delta.index, [])
            tokens += delta.logprobs.get("content") or ()
        self._hold_sources(delta)
        parts = _dump_blocks(self._sendable_blocks(delta))
        if not parts:
            return []
        return [
            {
                "candidates": [
                    {"content": {"role": "model", "parts": parts}, "index": delta.index}
                ],
                **self._head,
            }
        ]

    def _hold_sources(self, delta: LLMResultChunkDelta) -> None:
        """Store the sources of a chunk until `finish`, where their positions can be
        counted in bytes."""
        text = self._texts.setdefault(delta.index, WholeText())
        content = delta.message.content
        if not isinstance(content, list):
            text.add(content or "")
            return
        for part in content:
            if isinstance(part, TextPromptMessageContent):
                citations = self._citations.setdefault(delta.index, [])
                citations += text.place(part)

    def _sendable_blocks(
        self, delta: LLMResultChunkDelta
    ) -> Iterator[PromptMessageContent | ToolCall]:
        """Yield the blocks that can be sent now. Calls and signatures wait for what
        belongs to them."""
        index = delta.index
        for block in _answer_blocks(delta.message):
            if isinstance(block, ToolCall):
                self._hold_call(index, block)
                continue
            is_thought = isinstance(block, ThinkingPromptMessageContent)
            if is_thought and not block.data and not block.redacted:
                # Two signatures in a row: the first one has no block.
                yield from self._take_signature(index)
                self._pending_signatures[index] = block
                continue
            if not is_thought:
                # What follows a call comes after it.
                yield from self._complete_calls(index)
                yield from self._take_signature(index)
            yield block

    def _take_signature(self, index: int) -> Iterator[ThinkingPromptMessageContent]:
        """Yield the signature of a choice whose block has not come yet, if any."""
        if index in self._pending_signatures:
            yield self._pending_signatures.pop(index)

    def _complete_calls(self, index: int) -> Iterator[PromptMessageContent | ToolCall]:
        """Yield the calls of a choice whose arguments are complete, with their
        signatures, and hold them no longer."""
        calls = self._call_fragments.get(index, {})
        for number in list(calls):
            call = _joined(calls[number])
            arguments = call.function.arguments
            # Fragments of it may follow as long as it is no complete object.
            if not arguments or INVALID_ARGUMENTS_KEY in as_object(arguments):
                return
            del calls[number]
            if signature := self._call_signatures.pop((index, number), None):
                yield signature
            yield call

    def _hold_call(self, index: int, fragment: ToolCall) -> None:
        """Store a fragment of a call until `finish`. A signature directly before a call
        belongs to that call."""
        calls = self._call_fragments.setdefault(index, {})
        indexes = self._call_indexes.setdefault(index, CallIndexes())
        number = indexes.index_of(fragment)
        if number not in calls and index in self._pending_signatures:
            signature = self._pending_signatures.pop(index)
            self._call_signatures[index, number] = signature
        calls.setdefault(number, []).append(fragment)

    def finish(self) -> list[JSON]:
        """Return the last event of the stream.

        It has a candidate for each choice with held-back calls, signatures or a finish
        reason, and always `usageMetadata` (zero counts if none were reported).
        """
        indexes = {*self._end_fields, *self._call_fragments, *self._pending_signatures}
        candidates = [self._last_candidate(index) for index in sorted(indexes)]
        ending: JSON = {"candidates": candidates} if candidates else {}
        return [
            {
                **ending,
                "usageMetadata": dump_usage(self._usage or LLMUsage()),
                **self._head,
                **self._extra,
            }
        ]

    def _last_candidate(self, index: int) -> JSON:
        """Build the closing entry of a candidate.

        It has the calls and signatures held back during the stream, the finish reason,
        and the vendor fields.
        """
        parts = _dump_blocks(self._held_blocks(index))
        vendor_fields = self._end_fields.get(index, {})
        candidate: JSON = {"content": {"role": "model", "parts": parts}, "index": index}
        # Original metadata takes precedence over what would be rebuilt from it.
        if not vendor_fields.keys() & _SOURCE_FIELDS:
            text = self._texts.get(index, WholeText()).text
            candidate |= citation_metadata(self._citations.get(index, ()), text)
        candidate |= _dump_logprobs({"content": self._logprobs.get(index)})
        return candidate | vendor_fields

    def _held_blocks(self, index: int) -> list[PromptMessageContent | ToolCall]:
        """Return the complete calls of a candidate with their signatures, and the
        signature that no block followed."""
        blocks: list[PromptMessageContent | ToolCall] = []
        for number, fragments in self._call_fragments.get(index, {}).items():
            if signature := self._call_signatures.get((index, number)):
                blocks.append(signature)
            blocks.append(_joined(fragments))
        if index in self._pending_signatures:
            blocks.append(self._pending_signatures[index])
        return blocks


def _joined(fragments: list[ToolCall]) -> ToolCall:
    """Return a call from its fragments."""
    arguments = "".join([fragment.function.arguments for fragment in fragments])
    function = ToolCallFunction(name=fragments[0].function.name, arguments=arguments)
    return msgspec.structs.replace(fragments[0], function=function)


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    """Yield the event stream for a stream of chunks."""
    return dump_chunks(chunks, StreamDumper)


# ------------------------------------------------------------------------------- errors


def error_of(error: Mapping[str, Any]) -> InvokeError:
    """Return the exception for Google's `Status` error object. The caller raises it."""
    return provider_error(error)


_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    """Build Google's error body for an HTTP status.

    `status` selects the name, such as RESOURCE_EXHAUSTED for 429; other statuses become
    INVALID_ARGUMENT below 500 and INTERNAL from 500 on. The format has no request id,
    so `request_id` is ignored.
    """
    del request_id
    status_name = _STATUSES.get(status) or (
        "INVALID_ARGUMENT" if status < 500 else "INTERNAL"
    )
    return {"error": {"code": status, "message": message, "status": status_name}}
