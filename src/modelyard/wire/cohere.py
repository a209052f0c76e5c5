"""Translate between Cohere's chat API (v2) and modelyard's chat types. Pure functions:
no network, no clock.

Vendor reference: docs.cohere.com/v2/reference/chat.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import (
    count,
    expect_type,
    in_range,
    invalid_field,
    nested_count,
    optional_field,
    passthrough_fields,
    required_field,
    text_of,
    texts_of,
    tools_of,
    unknown_fields,
    without_empty,
)
from modelyard.base.reader_errors import reads_answer, reads_request
from modelyard.models.arguments import as_text
from modelyard.models.call_indexes import CallIndexes
from modelyard.models.capabilities import Capabilities
from modelyard.models.citations import moved
from modelyard.models.llm import (
    LLMChoice,
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.media import from_url
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    Citation,
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
    assistant_of,
    simplified_content,
)
from modelyard.models.reasoning import budget_of
from modelyard.models.streams import dump_chunks, parse_events
from modelyard.models.tool_call_reader import ToolCallReader, with_call_ids
from modelyard.models.types import JSON

FORMAT = "cohere"

_Number = type[bool] | type[int] | type[float]

# Cohere's name of a parameter -> (name in LLMRequest.model_parameters, type, lower and
# upper bound).
_PARAMETER_RANGES: dict[str, tuple[str, _Number, float, float]] = {
    "temperature": ("temperature", float, 0, 2),
    "p": ("top_p", float, 0, 1),
    "k": ("top_k", int, 0, 500),
    "max_tokens": ("max_tokens", int, 1, 1 << 31),
    "seed": ("seed", int, 0, 1 << 63),
    "frequency_penalty": ("frequency_penalty", float, 0, 1),
    "presence_penalty": ("presence_penalty", float, 0, 1),
    "logprobs": ("logprobs", bool, 0, 1),
}
# Fields with a reader below. Every other field passes through unchanged in `extra`.
_KNOWN_FIELDS = frozenset(_PARAMETER_RANGES) | {
    "model",
    "messages",
    "tools",
    "tool_choice",
    "stop_sequences",
    "stream",
    "response_format",
    "thinking",
    "strict_tools",
}
PARAMETERS = (
    {"stop"}
    | frozenset(parameter for parameter, *_ in _PARAMETER_RANGES.values())
    | {
        "response_format",
        "thinking_budget",
        "reasoning_effort",
        "include_thoughts",
    }
)
# Marks a thinking part that was a `tool_plan`, so that it is written to that field and
# not into `content`.
_TOOL_PLAN_MARKER = {FORMAT: {"tool_plan": True}}


# ----------------------------------------------------------------------------- requests


@reads_request
def parse_request(body: JSON) -> LLMRequest:
    """Parse the body of a v2 chat request from a client.

    Fields without a reader are stored in `extra`, except nulls, so that `dump_request`
    writes them again. The model is read by the caller. Raises InvokeBadRequestError,
    which names the field where it was checked.
    """
    messages = required_field(body, "messages", list)
    if not messages:
        raise InvokeBadRequestError(
            "'messages' must contain at least one message", param="messages"
        )
    parameters = _parse_parameters(body)
    strict = optional_field(body, "strict_tools", bool)
    choice = optional_field(body, "tool_choice", str)
    if choice not in (None, "REQUIRED", "NONE"):
        raise invalid_field("tool_choice", choice, "REQUIRED or NONE")
    # Filled while the messages are parsed in order: a tool result may only answer an
    # earlier call.
    seen_call_ids: set[str] = set()
    return LLMRequest(
        format=FORMAT,
        messages=[
            _parse_message(message, f"messages[{index}]", seen_call_ids)
            for index, message in enumerate(messages)
        ],
        model_parameters=parameters,
        tools=[
            _parse_tool(tool, f"tools[{i}]", strict)
            for i, tool in enumerate(tools_of(body))
        ],
        tool_choice=choice.lower() if choice else None,
        stop=texts_of(body.get("stop_sequences"), "stop_sequences"),
        stream=optional_field(body, "stream", bool) or False,
        # Explicit nulls mean "not set"; passing them on could overwrite what
        # `dump_request` builds.
        extra=passthrough_fields(
            FORMAT,
            {
                name: value
                for name, value in unknown_fields(body, _KNOWN_FIELDS).items()
                if value is not None
            },
        ),
    )


def _parse_parameters(body: JSON) -> dict[str, Any]:
    """Return the sampling, format and thinking settings by their internal names.

    Raises InvokeBadRequestError if a value has another type or is outside the range in
    `_PARAMETER_RANGES`.
    """
    parameters: dict[str, Any] = {}
    for wire_name, (parameter, value_type, low, high) in _PARAMETER_RANGES.items():
        value = optional_field(body, wire_name, value_type)
        if value is None:
            continue
        # A bool has no range. For the others the original value is stored, so that an
        # int stays an int.
        if value_type is not bool:
            in_range(value, low, high, wire_name)
        parameters[parameter] = body[wire_name]
    if (response_format := optional_field(body, "response_format", dict)) is not None:
        parameters["response_format"] = _parse_format(response_format)
    if (thinking := optional_field(body, "thinking", dict)) is not None:
        parameters["thinking_budget"] = _parse_thinking_budget(thinking)
    return parameters


def _parse_thinking_budget(thinking: JSON) -> int:
    """Return the budget in tokens: -1 if the model chooses it, 0 if it does not think."""
    budget = optional_field(thinking, "token_budget", int, "thinking.")
    if thinking.get("type") == "disabled":
        return 0
    return -1 if budget is None else budget


def _parse_format(response_format: JSON) -> JSON:
    """Return the internal form of Cohere's `response_format`.

    With a schema it is a JSON schema format with the name `answer`, otherwise only a
    type, by default `text`. Raises InvokeBadRequestError if the schema is not an
    object.
    """
    # `json_schema` is the v2 name; `schema` is accepted for older clients.
    schema = response_format.get("json_schema") or response_format.get("schema")
    if schema is None:
        return {"type": response_format.get("type") or "text"}
    return {
        "type": "json_schema",
        # Cohere schemas have no name, but our response format requires one.
        "json_schema": {
            "name": "answer",
            "schema": expect_type(schema, dict, "response_format.json_schema"),
        },
    }


def _parse_tool(tool: Any, where: str, strict: bool | None) -> PromptMessageTool:
    """Parse one entry of Cohere's `tools`.

    `strict` is the request's `strict_tools`, which applies to all tools. `where` is the
    path for error messages. Raises InvokeBadRequestError if `function` or its name is
    missing, or a field has another type.
    """
    function = required_field(
        expect_type(tool, dict, where), "function", dict, f"{where}."
    )
    return PromptMessageTool(
        name=required_field(function, "name", str, f"{where}.function."),
        description=optional_field(function, "description", str, f"{where}.function.")
        or "",
        parameters=optional_field(function, "parameters", dict, f"{where}.function.")
        or {},
        strict=strict,
    )


def _parse_message(
    message: Any, where: str, seen_call_ids: set[str]
) -> AnyPromptMessage:
    """Parse one message of a request by its role.

    The ids of an assistant message's calls are added to `seen_call_ids`. Raises
    InvokeBadRequestError for an unknown role, invalid content, or a tool result whose
    `tool_call_id` is not among those ids.
    """
    body = expect_type(message, dict, where)
    content = body.get("content")
    parts = _parse_content(content, f"{where}.content") if content is not None else []
    extra = passthrough_fields(FORMAT, unknown_fields(body, _MESSAGE_FIELDS))
    match body.get("role"):
        case "user":
            return UserPromptMessage(content=simplified_content(parts), extra=extra)
        case "system":
            return SystemPromptMessage(content=simplified_content(parts), extra=extra)
        case "assistant":
            assistant_message = msgspec.structs.replace(
                _parse_assistant(body, parts), extra=extra
            )
            # The set is shared with the following messages, so it is updated in place.
            seen_call_ids |= {call.id for call in assistant_message.tool_calls}
            return assistant_message
        case "tool":
            call = required_field(body, "tool_call_id", str, f"{where}.")
            if call not in seen_call_ids:
                raise invalid_field(
                    f"{where}.tool_call_id",
                    call,
                    "the id of a tool call in an earlier assistant message",
                )
            return ToolPromptMessage(
                content=simplified_content(parts), tool_call_id=call, extra=extra
            )
        case other:
            raise invalid_field(
                f"{where}.role", other, "user, assistant, system or tool"
            )


_MESSAGE_FIELDS = frozenset(
    {
        "role",
        "content",
        "tool_call_id",
        "tool_calls",
        "tool_plan",
        "citations",
    }
)


def _parse_assistant(
    body: JSON, parts: list[PromptMessageContent]
) -> AssistantPromptMessage:
    """Build an assistant message from its JSON and its parsed content.

    The order is content, `tool_plan` (as thinking), tool calls. The citations are
    attached to the last text and dropped if there is none.
    """
    blocks: list[PromptMessageContent | ToolCall] = [*parts]
    # A plan is text about the tool calls, so it is modelled as thinking that precedes
    # them.
    if plan := text_of(body.get("tool_plan")):
        blocks.append(
            ThinkingPromptMessageContent(
                data=plan, origin=FORMAT, extra=_TOOL_PLAN_MARKER
            )
        )
    blocks += [_parse_call(call) for call in body.get("tool_calls") or ()]
    for citation in body.get("citations") or ():
        _attach(blocks, citation)
    return assistant_of(blocks)


def _attach(blocks: list[PromptMessageContent | ToolCall], citation: JSON) -> None:
    """Add a citation to the text in which it appears.

    Cohere attaches citations to the message, with the position of the content. Without
    one, or if that is a thought, it is the last text; without any text the citation is
    dropped.
    """
    position = count(citation.get("content_index"))
    texts = [
        (index, block)
        for index, block in enumerate(blocks)
        if isinstance(block, TextPromptMessageContent)
    ]
    if not texts:
        return
    index, text = next((item for item in texts if item[0] == position), texts[-1])
    cited = [*text.citations, _parse_citation(citation)]
    blocks[index] = msgspec.structs.replace(text, citations=cited)


def _parse_call(call: JSON) -> ToolCall:
    """Parse an entry of `tool_calls`; missing arguments become `{}`."""
    function = call.get("function") or {}
    called_function = ToolCallFunction(
        name=text_of(function.get("name")),
        arguments=as_text(function.get("arguments")),
    )
    return ToolCall(id=text_of(call.get("id")), function=called_function)


def _parse_citation(citation: JSON) -> Citation:
    """Parse a citation of an assistant message.

    URL and title are those of the first source, if it has a `document`. `start` and
    `end` are character positions in the text, or None. The quote is the document's
    text; the citation's own `text` repeats the words of the answer. The original is
    stored in `extra`.
    """
    # A citation may name several sources; our Citation has room for one. The original
    # is stored in `extra`.
    source = next(iter(citation.get("sources") or ()), {})
    document = source.get("document") or {}
    # A position in a thought is none in the text.
    is_placed = citation.get("type") not in ("THINKING_CONTENT", "PLAN")
    return Citation(
        url=str(document.get("url") or ""),
        title=str(document.get("title") or ""),
        quote=text_of(document.get("snippet") or document.get("text")),
        start=count(citation.get("start")) if is_placed else None,
        end=count(citation.get("end")) if is_placed else None,
        extra={FORMAT: citation},
    )


def _parse_content(content: Any, where: str) -> list[PromptMessageContent]:
    """Parse message content: a string, or a list of content objects.

    Raises InvokeBadRequestError for any other value, including None.
    """
    if isinstance(content, str):
        return [TextPromptMessageContent(data=content)]
    return [
        _parse_part(expect_type(part, dict, f"{where}[{i}]"), f"{where}[{i}]")
        for i, part in enumerate(expect_type(content, list, where))
    ]


def _parse_part(part: JSON, where: str) -> PromptMessageContent:
    """Parse one content object by its `type`.

    A type without a reader becomes an opaque part. Raises InvokeBadRequestError if
    `type` is not a string, a required field is missing, or a `data:` URL is not a valid
    image.
    """
    match part.get("type"):
        case "text":
            return TextPromptMessageContent(
                data=required_field(part, "text", str, f"{where}."),
                extra=passthrough_fields(
                    FORMAT, unknown_fields(part, frozenset({"type", "text"}))
                ),
            )
        case "thinking":
            return ThinkingPromptMessageContent(
                data=text_of(part.get("thinking")), origin=FORMAT
            )
        case "image_url":
            image = required_field(part, "image_url", dict, f"{where}.")
            url = required_field(image, "url", str, f"{where}.image_url.")
            fields = from_url(url, f"{where}.image_url.url", is_image=True)
            return ImagePromptMessageContent(
                **fields,
                detail=text_of(image.get("detail")),
                extra=passthrough_fields(
                    FORMAT, unknown_fields(part, frozenset({"type", "image_url"}))
                ),
            )
        case str():
            # A content type without a reader here (for example `document`) is preserved
            # verbatim.
            return OpaquePromptMessageContent(format=FORMAT, data=part)
        case other:
            raise invalid_field(f"{where}.type", other, "text, image_url or document")


def dump_request(request: LLMRequest, model: str, capabilities: Capabilities) -> JSON:
    """Build Cohere's request body. `capabilities.drop` lists fields to omit.

    Raises InvokeBadRequestError for content or tools that Cohere does not accept.
    """
    parameters = request.model_parameters
    body: JSON = {
        "model": model,
        "messages": [_dump_message(message) for message in request.messages],
    }
    body |= {
        wire_name: parameters[parameter]
        for wire_name, (parameter, *_) in _PARAMETER_RANGES.items()
        if parameter in parameters
    }
    if response_format := _dump_format(parameters.get("response_format")):
        body["response_format"] = response_format
    if thinking := _dump_thinking(parameters):
        body["thinking"] = thinking
    body |= _dump_tools(request.tools)
    body |= _dump_tool_choice(request)
    if request.stop:
        body["stop_sequences"] = request.stop
    body["stream"] = request.stream
    # Vendor fields come after the translated ones, so that an explicit vendor setting
    # takes effect.
    body |= request.extra.get(FORMAT, {})
    for name in capabilities.drop:
        body.pop(name, None)
    return body


def _dump_format(response_format: Any) -> JSON | None:
    """Return Cohere's `response_format`, or None if the request has none.

    A JSON schema becomes the type `json_object` with the schema; its name is dropped.
    """
    match response_format:
        case {"type": "json_schema", "json_schema": named_schema}:
            return {"type": "json_object", "json_schema": named_schema["schema"]}
        case {"type": format_type}:
            return {"type": format_type}
        case _:
            return None


def _dump_thinking(parameters: Mapping[str, Any]) -> JSON | None:
    """Return the `thinking` field, or None if the request does not control thinking."""
    effort = parameters.get("reasoning_effort")
    budget = parameters.get("thinking_budget")
    # An explicit token budget takes precedence over an effort level.
    if budget is None and effort is not None:
        # At most 31,000 tokens are requested; an unknown effort lets the model choose.
        budget = budget_of(effort, unknown=-1, max_budget=31_000)
    if budget is None:
        return None
    if budget > 0:
        return {"type": "enabled", "token_budget": budget}
    return {"type": "disabled" if budget == 0 else "enabled"}


def _dump_tools(tools: list[PromptMessageTool]) -> JSON:
    """Return the fields `tools` and `strict_tools`, or an empty dict without tools.

    `strict_tools` is set only if every tool is strict. Raises InvokeBadRequestError for
    a tool hosted by another provider.
    """
    if not tools:
        return {}
    body: JSON = {"tools": [_dump_tool(tool) for tool in tools]}
    # Cohere has one strictness flag for all tools; ours is per tool. It is set only if
    # all agree.
    if all(tool.strict for tool in tools):
        body["strict_tools"] = True
    return body


def _dump_tool_choice(request: LLMRequest) -> JSON:
    """Return `tool_choice`, and with a choice among some tools also `tools`."""
    choice = request.tool_choice
    if choice is None or choice == "auto":
        return {}
    if choice == "none":
        return {"tool_choice": "NONE"}
    if isinstance(choice, str):
        return {"tool_choice": "REQUIRED"}
    # Cohere cannot restrict the choice to some tools, so only the allowed tools are
    # sent.
    names = choice.get("allowed") or [choice["name"]]
    tools = [_dump_tool(tool) for tool in request.tools if tool.name in names]
    return {"tool_choice": "REQUIRED", "tools": tools}


def _dump_tool(tool: PromptMessageTool) -> JSON:
    """Return a tool as an entry of Cohere's `tools`.

    A tool without parameters gets an empty object schema. Raises InvokeBadRequestError
    for a tool hosted by another provider.
    """
    # Provider-hosted tools (such as another vendor's web search) have no Cohere
    # counterpart.
    if tool.type not in ("function", "custom"):
        raise InvokeBadRequestError(
            f"Tool {tool.name!r} is hosted by another provider; Cohere does not support it",
            param="tools",
        )
    function: JSON = {"name": tool.name, **without_empty(description=tool.description)}
    return {
        "type": "function",
        "function": {
            **function,
            "parameters": tool.parameters or {"type": "object", "properties": {}},
        },
    }


def _dump_message(message: AnyPromptMessage) -> JSON:
    """Return a message of the conversation as an entry of `messages`.

    Empty content becomes an empty string, except in an assistant message, which omits
    it. Raises InvokeBadRequestError for audio, video and documents.
    """
    extra_fields = message.extra.get(FORMAT, {}) if message.extra else {}
    if isinstance(message, AssistantPromptMessage):
        return {"role": "assistant", **_dump_assistant(message), **extra_fields}
    # A plain string is the shorter form that Cohere also accepts.
    content = (
        message.content
        if isinstance(message.content, str)
        else _dump_parts(message.parts)
    )
    body: JSON = {"role": message.role.value, "content": content or ""}
    if isinstance(message, ToolPromptMessage):
        body["tool_call_id"] = message.tool_call_id
    return body | extra_fields


def _dump_parts(parts: Iterable[PromptMessageContent]) -> list[JSON]:
    """Return the parts as Cohere content objects.

    Tool plans, empty thinking and opaque parts of other formats are omitted. Raises
    InvokeBadRequestError for audio, video and documents.
    """
    result: list[JSON] = []
    for part in parts:
        match part:
            case TextPromptMessageContent():
                extra_fields = part.extra.get(FORMAT, {})
                result.append({"type": "text", "text": part.data, **extra_fields})
            # Parts from `tool_plan` are excluded: `_dump_assistant` writes them to
            # their own field.
            case ThinkingPromptMessageContent() if part.data and not part.extra.get(
                FORMAT
            ):
                result.append({"type": "thinking", "thinking": part.data})
            case ImagePromptMessageContent():
                image = {"url": part.data, **without_empty(detail=part.detail)}
                extra_fields = part.extra.get(FORMAT, {})
                result.append({"type": "image_url", "image_url": image, **extra_fields})
            # Foreign opaque parts are dropped silently; only their own format can
            # interpret them.
            case OpaquePromptMessageContent():
                result += [part.data] if part.format == FORMAT else []
            case ThinkingPromptMessageContent():
                pass
            case _:
                content_type = (
                    type(part).__name__.removesuffix("PromptMessageContent").lower()
                )
                raise InvokeBadRequestError(
                    f"Cohere does not accept a {content_type} part; send text or images"
                )
    return result


def _dump_assistant(message: AssistantPromptMessage) -> JSON:
    """Return the fields of an assistant message except its role.

    Fields without content are omitted, and images are dropped. Raises
    InvokeBadRequestError for audio, video and documents.
    """
    body: JSON = {}
    parts = _answer_parts(message)
    # Cohere does not accept images in assistant messages.
    sendable_parts = [
        part for part in parts if not isinstance(part, ImagePromptMessageContent)
    ]
    if content := _dump_parts(sendable_parts):
        body["content"] = content
    plans = [
        part.data
        for part in parts
        if isinstance(part, ThinkingPromptMessageContent) and part.extra.get(FORMAT)
    ]
    if plans:
        body["tool_plan"] = "".join(plans)
    if message.tool_calls:
        body["tool_calls"] = [_dump_call(call) for call in message.tool_calls]
    if citations := _dump_citations(sendable_parts):
        body["citations"] = citations
    return body


def _answer_parts(message: AssistantPromptMessage) -> list[PromptMessageContent]:
    """Return the parts of an assistant message, with its separate reasoning as the
    first part and its refusal as the last."""
    parts = list(message.parts)
    if message.reasoning_content:
        parts.insert(0, ThinkingPromptMessageContent(data=message.reasoning_content))
    if message.refusal:
        # Cohere has no refusal field, so the refusal is sent as text.
        parts.append(TextPromptMessageContent(data=message.refusal))
    return parts


def _dump_citations(parts: Iterable[PromptMessageContent]) -> list[JSON]:
    """Return the citations of all text parts in one list, as the format requires. Each
    has the position of its text in the content."""
    citations: list[JSON] = []
    position = 0
    for part in parts:
        if isinstance(part, TextPromptMessageContent):
            citations += [
                _dump_citation(citation, part.data, position)
                for citation in part.citations
            ]
        # A plan, an empty thought or an opaque part is not in the content.
        position += len(_dump_parts([part]))
    return citations


def _dump_call(call: ToolCall) -> JSON:
    """Return a tool call of the model."""
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _dump_citation(citation: Citation, text: str, position: int) -> JSON:
    """Return a citation as an entry of `citations`, with the words of its `text` that
    it covers. `position` is that of the text in the content.

    A citation from Cohere is written unchanged. Any other gets one source of type
    `document`, and 0 for an unknown position.
    """
    # A citation that came from Cohere is written unchanged.
    if wire_citation := citation.extra.get(FORMAT):
        return wire_citation
    document = {
        "id": citation.url or citation.title,
        "url": citation.url,
        "title": citation.title,
        **without_empty(snippet=citation.quote),
    }
    source = {
        "type": "document",
        "id": citation.url or citation.title,
        "document": document,
    }
    start, end = citation.start or 0, citation.end or 0
    return {
        "start": start,
        "end": end,
        "text": text[start:end],
        "sources": [source],
        "content_index": position,
        "type": "TEXT_CONTENT",
    }


def _parse_logprobs(items: Any) -> dict[str, Any] | None:
    """Return Cohere's log probabilities in the form that OpenAI uses; None without.

    An item may be a piece of text of several tokens: its probability is the product.
    """
    entries: list[JSON] = []
    for item in items if isinstance(items, list) else ():
        values = item.get("logprobs") if isinstance(item, dict) else None
        if isinstance(values, list) and values:
            text = text_of(item.get("text"))
            entries.append(
                {
                    "token": text,
                    "logprob": sum(values),
                    "bytes": list(text.encode()),
                    "top_logprobs": [],
                }
            )
    return {"content": entries} if entries else None


def _dump_logprobs(logprobs: Mapping[str, Any] | None) -> list[JSON]:
    """Return log probabilities as Cohere writes them. The ids of the tokens are not
    known."""
    entries = (logprobs or {}).get("content") or ()
    return [
        _dump_logprob(entry.get("token"), entry.get("logprob")) for entry in entries
    ]


def _dump_logprob(token: Any, logprob: Any) -> JSON:
    """Return the log probability of one token."""
    return {"text": token, "token_ids": [], "logprobs": [logprob]}


# ---------------------------------------------------------------------------- responses


def parse_usage(body: Any) -> LLMUsage | None:
    """Parse a `usage` object, or return None if there is none.

    Uses `tokens` (everything processed); `billed_units` excludes what Cohere adds
    itself and is the fallback. The original object is stored in `extra`.
    """
    if not isinstance(body, dict):
        return None
    tokens = body.get("tokens") or body.get("billed_units")
    if not isinstance(tokens, dict):
        return None
    return LLMUsage.of(
        nested_count(tokens, "input_tokens"),
        nested_count(tokens, "output_tokens"),
        cached_tokens=nested_count(body, "cached_tokens"),
        searches=nested_count(body, "billed_units", "search_units"),
        extra={FORMAT: body},
    )


def dump_usage(usage: LLMUsage) -> JSON:
    """Return a `usage` object: the original one if it came from Cohere, otherwise one
    built from the counts."""
    tokens = {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
    }
    cached = {"cached_tokens": usage.cached_tokens} if usage.cached_tokens else {}
    return usage.extra.get(FORMAT) or {
        "billed_units": tokens,
        "tokens": tokens,
        **cached,
    }


_FINISH_REASONS = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}
# The reverse direction. "pause" has no Cohere value; COMPLETE is the closest.
_WIRE_FINISH_REASONS = {
    "stop": "COMPLETE",
    "length": "MAX_TOKENS",
    "tool_calls": "TOOL_CALL",
    "content_filter": "ERROR_TOXIC",
    "pause": "COMPLETE",
}
# Other fields are kept, so that a client of this format gets them unchanged.
_KNOWN_RESULT_FIELDS = frozenset({"id", "message", "finish_reason", "usage"})


def _parse_reason(end: JSON) -> tuple[str | None, JSON]:
    """Return the finish reason for Cohere's, and the fields that restore the original.

    `end` is the object with Cohere's `finish_reason`. Without a reason they are None
    and an empty dict; an unknown one is returned unchanged. Raises
    InvokeServerUnavailableError for ERROR and TIMEOUT, which report a failed
    generation.
    """
    wire_reason = text_of(end.get("finish_reason")) or None
    # These reasons report a failure of the model, which must be retried or failed over.
    if wire_reason in ("ERROR", "TIMEOUT"):
        detail = f": {end['error']}" if end.get("error") else ""
        raise InvokeServerUnavailableError(
            f"Upstream response ended with finish_reason {wire_reason}{detail}"
        )
    reason = _FINISH_REASONS.get(wire_reason or "", wire_reason)
    # The original reason is stored only if the reverse mapping would lose it, for
    # example STOP_SEQUENCE.
    if wire_reason and _WIRE_FINISH_REASONS.get(reason or "") != wire_reason:
        return reason, {"finish_reason": wire_reason}
    return reason, {}


@reads_answer
def parse_result(body: JSON) -> LLMResult:
    """Parse a complete chat response.

    Usage without counts is marked as estimated. Raises InvokeServerUnavailableError if
    there is no `message` object, a value is malformed, or the finish reason reports a
    failure (ERROR or TIMEOUT).
    """
    message = body.get("message")
    if not isinstance(message, dict):
        # An error body has its text in this field.
        detail = f": {message}" if isinstance(message, str) else ""
        raise InvokeServerUnavailableError(
            f"Upstream response has no 'message' object{detail}"
        )
    reason, extra_fields = _parse_reason(body)
    # The content parsers blame the client by default; in a response the fault is the
    # provider's.
    try:
        assistant_message = _parse_assistant(
            message, _parse_content(message.get("content") or [], "content")
        )
    except InvokeBadRequestError as error:
        raise InvokeServerUnavailableError(
            f"Invalid upstream response: {error}"
        ) from error
    return LLMResult(
        id=text_of(body.get("id")),
        choices=[
            LLMChoice(
                message=with_call_ids(assistant_message, text_of(body.get("id"))),
                finish_reason=reason,
                logprobs=_parse_logprobs(body.get("logprobs")),
                extra=passthrough_fields(FORMAT, extra_fields),
            )
        ],
        usage=parse_usage(body.get("usage")) or LLMUsage(estimated=True),
        extra=passthrough_fields(FORMAT, unknown_fields(body, _KNOWN_RESULT_FIELDS)),
    )


def dump_result(result: LLMResult) -> JSON:
    """Convert a complete answer to a chat response.

    The format has one answer only: choices after the first are dropped. An unknown
    finish reason becomes `COMPLETE`. Fields in `extra` that came from Cohere take
    precedence.
    """
    choice = result.choices[0]
    message = _without_files(choice.message)
    return {
        "id": result.id,
        "finish_reason": _WIRE_FINISH_REASONS.get(
            choice.finish_reason or "stop", "COMPLETE"
        ),
        "message": {"role": "assistant", **_dump_assistant(message)},
        "usage": dump_usage(result.usage),
        **without_empty(logprobs=_dump_logprobs(choice.logprobs)),
        **choice.extra.get(FORMAT, {}),
        **result.extra.get(FORMAT, {}),
    }


def _without_files(message: AssistantPromptMessage) -> AssistantPromptMessage:
    """Return an answer without images, audio and the like: this format has none."""
    if not message.files:
        return message
    file_type = MultiModalPromptMessageContent
    parts = [part for part in message.parts if not isinstance(part, file_type)]
    return msgspec.structs.replace(message, content=parts)


# ------------------------------------------------------------------------------ streams


class StreamParser:
    """Converts the events of a chat stream into chunks, one event at a time."""

    def __init__(self) -> None:
        self._id = ""
        self._has_finished = False
        # Positions of the texts in the content, in order.
        self._text_indexes: list[int] = []
        self._call_reader = ToolCallReader()

    def feed(self, event: JSON) -> list[LLMResultChunk]:
        """Return the chunks of one event; none for event types without content.

        A plan is thinking with the index -1; a citation is an empty text with the index
        of its text. Raises InvokeServerUnavailableError if `message-end` reports ERROR or
        TIMEOUT.
        """
        delta = event.get("delta") or {}
        message = delta.get("message") or {}
        index = count(event.get("index")) or 0
        match event.get("type"):
            case "message-start":
                # An empty chunk carries the response id to the consumer as early as
                # possible.
                self._id = text_of(event.get("id"))
                return [LLMResultChunk(id=self._id)]
            case "content-start" | "content-delta":
                return self._on_content(message.get("content") or {}, index, event)
            case "tool-plan-delta":
                # Index -1 separates the plan from the content blocks, which are
                # numbered from 0.
                plan = ThinkingPromptMessageContent(
                    data=text_of(message.get("tool_plan")),
                    index=-1,
                    origin=FORMAT,
                    extra=_TOOL_PLAN_MARKER,
                )
                return self._chunk(message=AssistantPromptMessage(content=[plan]))
            # The start event has the id and name, the deltas have argument text; both
            # become call fragments.
            case "tool-call-start" | "tool-call-delta":
                called = message.get("tool_calls") or {}
                function = called.get("function") or {}
                called_function = ToolCallFunction(
                    name=text_of(function.get("name")),
                    arguments=text_of(function.get("arguments")),
                )
                call = ToolCall(
                    id=text_of(called.get("id")),
                    function=called_function,
                    index=index,
                )
                calls = AssistantPromptMessage(tool_calls=[call])
                message = self._call_reader.read(calls, self._id)
                return self._chunk(message=message) if message.tool_calls else []
            case "citation-start":
                return self._on_citation(message.get("citations") or {})
            case "message-end":
                self._has_finished = True
                reason, extra_fields = _parse_reason(delta)
                usage = parse_usage(delta.get("usage"))
                return self._chunk(
                    finish_reason=reason,
                    usage=usage,
                    extra=passthrough_fields(FORMAT, extra_fields),
                )
            case _:
                return []

    def _chunk(self, **delta: Any) -> list[LLMResultChunk]:
        """Return a chunk with these fields."""
        return [LLMResultChunk(id=self._id, delta=LLMResultChunkDelta(**delta))]

    def _on_content(
        self, content: JSON, index: int, event: JSON
    ) -> list[LLMResultChunk]:
        """Return a chunk for a `content-start` or `content-delta` event."""
        part: PromptMessageContent | None = None
        if text := text_of(content.get("text")):
            if index not in self._text_indexes:
                self._text_indexes.append(index)
            part = TextPromptMessageContent(data=text, index=index)
        elif thinking := text_of(content.get("thinking")):
            part = ThinkingPromptMessageContent(
                data=thinking, index=index, origin=FORMAT
            )
        if part is None:
            return []
        item = event.get("logprobs")
        return self._chunk(
            message=AssistantPromptMessage(content=[part]),
            logprobs=_parse_logprobs([item]),
            # The ids of the tokens are known to this format alone.
            extra={FORMAT: {"logprobs": item}} if item else {},
        )

    def _on_citation(self, citation: JSON) -> list[LLMResultChunk]:
        """Return a chunk with an empty text that carries a citation to its text;
        thinking may precede that as a block of its own."""
        index = count(citation.get("content_index"))
        if index is None or index not in self._text_indexes:
            index = next(reversed(self._text_indexes), 0)
        part = TextPromptMessageContent(
            data="", citations=[_parse_citation(citation)], index=index
        )
        return self._chunk(message=AssistantPromptMessage(content=[part]))

    def finish(self, *, end_marker_seen: bool) -> list[LLMResultChunk]:
        """Check the end of the stream. Raises InvokeServerUnavailableError if it was
        cut off before `message-end`.

        `end_marker_seen` is True if the transport itself saw a regular end of the
        stream.
        """
        if not end_marker_seen and not self._has_finished:
            raise InvokeServerUnavailableError(
                "Upstream stream ended without message-end"
            )
        return []


def parse_stream(events: Iterable[JSON]) -> Iterator[LLMResultChunk]:
    """Yield the chunks of a whole event stream. Raises InvokeServerUnavailableError if
    it is cut off."""
    return parse_events(StreamParser(), events)


class StreamDumper:
    """Converts chunks into chat stream events, one chunk at a time.

    Content is streamed at once; tool calls are collected and sent complete by `finish`.
    """

    def __init__(self, *, response_id: str, model: str = "", created: int = 0) -> None:
        del model, created
        # Cohere's events carry neither a model name nor a creation time.
        self._id = response_id
        self._has_started = False
        self._open_block: tuple[str, Any] | None = None
        self._block_index = -1
        self._usage: LLMUsage | None = None
        self._end_fields: JSON = {"finish_reason": "COMPLETE"}
        self._citation_index = 0
        self._call_indexes = CallIndexes()
        self._call_fragments: dict[int, list[ToolCall]] = {}
        # Log probabilities of the chunk being written.
        self._logprobs: list[JSON] = []
        # Index of a text -> its content blocks, each with its pieces.
        self._texts: dict[Any, list[tuple[int, list[str]]]] = {}

    def feed(self, chunk: LLMResultChunk) -> list[JSON]:
        """Return the events that one chunk produces.

        The first call also returns `message-start`. Choices after the first are
        dropped. Tool calls, the finish reason and the usage are kept for `finish`.
        """
        delta = chunk.delta
        self._usage = delta.usage or self._usage
        # The format has one answer per stream, so further choices are dropped.
        if delta.index:
            return []
        events: list[JSON] = []
        if not self._has_started:
            self._has_started = True
            # The opening event has an empty message with all fields, as Cohere's own
            # stream does.
            message = {
                "role": "assistant",
                "content": [],
                "tool_plan": "",
                "tool_calls": [],
                "citations": [],
            }
            events.append(
                {"type": "message-start", "id": self._id, "delta": {"message": message}}
            )
        if own := delta.extra.get(FORMAT, {}).get("logprobs"):
            self._logprobs.append(own)
        else:
            self._logprobs += _dump_logprobs(delta.logprobs)
        for block in delta.message.blocks:
            if isinstance(block, ToolCall):
                index = self._call_indexes.index_of(block)
                self._call_fragments.setdefault(index, []).append(block)
            else:
                events += self._block(block)
        if delta.message.refusal:
            events += self._content("text", "refusal", delta.message.refusal)
        if delta.finish_reason:
            own_fields = delta.extra.get(FORMAT, {})
            self._end_fields = {
                "finish_reason": _WIRE_FINISH_REASONS.get(
                    delta.finish_reason, "COMPLETE"
                ),
                **unknown_fields(own_fields, frozenset({"logprobs"})),
            }
        return events

    def _block(self, block: PromptMessageContent) -> list[JSON]:
        """Return the events for one part of a chunk.

        Each citation is a pair of `citation-start` and `citation-end`, a tool plan is a
        `tool-plan-delta`. Files, opaque parts and empty thinking return nothing.
        """
        match block:
            case TextPromptMessageContent():
                events = (
                    self._content("text", block.index, block.data) if block.data else []
                )
                for citation in block.citations:
                    events += self._citation(citation, block.index)
                return events
            case ThinkingPromptMessageContent() if block.extra.get(FORMAT):
                # Tool plan deltas belong to no content block, so no block is opened for
                # them.
                return [
                    {
                        "type": "tool-plan-delta",
                        "delta": {"message": {"tool_plan": block.data}},
                    }
                ]
            case ThinkingPromptMessageContent() if block.data:
                return self._content("thinking", block.index, block.data)
            case _:
                return []

    def _citation(self, citation: Citation, block: Any) -> list[JSON]:
        """Return the pair of events of a citation in the text of a source's block; all
        of a stream are numbered."""
        index = self._citation_index
        self._citation_index += 1
        delta = {"message": {"citations": self._placed(citation, block)}}
        return [
            {"type": "citation-start", "index": index, "delta": delta},
            {"type": "citation-end", "index": index},
        ]

    def _placed(self, citation: Citation, block: Any) -> JSON:
        """Return a citation with the content block in which it begins: a text that
        something else interrupts becomes several."""
        position, text, offset = max(self._block_index, 0), "", 0
        for text_position, pieces in self._texts.get(block, ()):
            offset += len(text)
            position, text = text_position, "".join(pieces)
            if citation.start is None or citation.start < offset + len(text):
                break
        return _dump_citation(moved(citation, -offset), text, position)

    def _content(self, block_type: str, index: Any, text: str) -> list[JSON]:
        """Return a `content-delta`, after a `content-start` for a new block.

        The type and `index`, the source's own block number, identify a block: if either
        changes, the open block is closed first.
        """
        events: list[JSON] = []
        # A new content block starts whenever the type or the source block changes.
        if self._open_block != (block_type, index):
            events += self._close_block()
            self._open_block = (block_type, index)
            self._block_index += 1
            start = {"message": {"content": {"type": block_type, block_type: ""}}}
            events.append(
                {"type": "content-start", "index": self._block_index, "delta": start}
            )
            if block_type == "text":
                self._texts.setdefault(index, []).append((self._block_index, []))
        if block_type == "text":
            self._texts[index][-1][1].append(text)
        delta = {"message": {"content": {block_type: text}}}
        event: JSON = {
            "type": "content-delta",
            "index": self._block_index,
            "delta": delta,
        }
        # Each event has those of one piece of text.
        if len(self._logprobs) == 1:
            event["logprobs"] = self._logprobs[0]
        elif self._logprobs:
            event["logprobs"] = _joined_logprobs(self._logprobs)
        self._logprobs = []
        return [*events, event]

    def _close_block(self) -> list[JSON]:
        """Return the `content-end` of the open block, or nothing if none is open."""
        if self._open_block is None:
            return []
        self._open_block = None
        return [{"type": "content-end", "index": self._block_index}]

    def finish(self) -> list[JSON]:
        """Return the closing events: open content, collected tool calls, then
        `message-end` with the usage."""
        # Those that came after the text.
        if self._logprobs and self._open_block is not None:
            block_type, index = self._open_block
            late_events = self._content(block_type, index, "")
        else:
            late_events = []
        events = [*late_events, *self._close_block()]
        for call_index, fragments in enumerate(self._call_fragments.values()):
            # The first fragment has the id and the name; the others only add argument
            # text.
            first = fragments[0]
            start = {
                "id": first.id,
                "type": "function",
                "function": {"name": first.function.name, "arguments": ""},
            }
            text = "".join(fragment.function.arguments for fragment in fragments)
            delta = {"function": {"arguments": text}}
            events += [
                {
                    "type": "tool-call-start",
                    "index": call_index,
                    "delta": {"message": {"tool_calls": start}},
                },
                {
                    "type": "tool-call-delta",
                    "index": call_index,
                    "delta": {"message": {"tool_calls": delta}},
                },
                {"type": "tool-call-end", "index": call_index},
            ]
        end = {**self._end_fields, "usage": dump_usage(self._usage or LLMUsage())}
        return [*events, {"type": "message-end", "delta": end}]


def _joined_logprobs(items: list[JSON]) -> JSON:
    """Return the log probabilities of several pieces of text as those of one."""
    return {
        "text": "".join(str(item.get("text") or "") for item in items),
        "token_ids": [],
        "logprobs": [value for item in items for value in item["logprobs"]],
    }


def dump_stream(chunks: Iterable[LLMResultChunk]) -> Iterator[JSON]:
    """Convert a complete stream of chunks to events.

    The response id comes from the first chunk. An empty stream yields nothing.
    """
    return dump_chunks(chunks, StreamDumper)


def dump_error(status: int, message: str, request_id: str = "") -> JSON:
    """Return an error body. The format has no status field; `request_id` is optional."""
    del status
    return {**without_empty(id=request_id), "message": message}
