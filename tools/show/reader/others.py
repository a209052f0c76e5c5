"""Bedrock's Converse, Cohere's chat and Ollama: streams folded to documents, documents
read."""

from collections.abc import Callable, Sequence
from typing import Any

from tools.show.reader.facts import (
    JSON,
    UNENDED,
    Answer,
    Choice,
    Citation,
    append,
    call_id,
    canonical,
    dig,
    digest,
    number,
    plain_signature,
)

# ----------------------------------------------------------------------------- Bedrock

_BEDROCK_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "model_context_window_exceeded": "length",
}


def fold_bedrock(events: Sequence[JSON], problems: list[str]) -> JSON:
    """Return the response that a stream amounts to."""
    blocks: dict[int, JSON] = {}
    document: JSON = {}
    role = "assistant"
    for event in events:
        name, body = next(iter(event.items()))
        match name:
            case "messageStart":
                role = body.get("role") or role
            case "contentBlockStart":
                blocks[body["contentBlockIndex"]] = {
                    key: dict(value) for key, value in body.get("start", {}).items()
                }
            case "contentBlockDelta":
                block = blocks.setdefault(body["contentBlockIndex"], {})
                _extend_block(block, body["delta"])
            case "messageStop" | "metadata":
                document |= body
            case _:
                pass
    if "stopReason" not in document:
        problems.append(UNENDED)
    content = [blocks[index] for index in sorted(blocks)]
    return {**document, "output": {"message": {"role": role, "content": content}}}


def _extend_block(block: JSON, delta: JSON) -> None:
    """Append a delta to its block."""
    if "text" in delta:
        append(block, "text", delta["text"])
    elif "toolUse" in delta:
        append(block.setdefault("toolUse", {}), "input", delta["toolUse"]["input"])
    elif "citation" in delta:
        cited = dig(block, "citationsContent", "citations") or []
        block["citationsContent"] = {"citations": [*cited, delta["citation"]]}
    elif "reasoningContent" in delta:
        thought = block.setdefault("reasoningContent", {})
        _extend_thought(thought, delta["reasoningContent"])
    else:
        block |= {**delta, **block}


def _extend_thought(thought: JSON, delta: JSON) -> None:
    """Append a delta to a thought."""
    for name, value in delta.items():
        if name == "redactedContent":
            thought[name] = value
        else:
            append(thought.setdefault("reasoningText", {}), name, value)


def read_bedrock(document: JSON) -> Answer:
    """Read a Converse response."""
    message = dig(document, "output", "message") or {}
    reason = document.get("stopReason") or ""
    stop = dig(document, "additionalModelResponseFields", "stop_sequence")
    choice = Choice(
        finish=_BEDROCK_FINISH.get(reason, "stop") if reason else "",
        role=message.get("role") or "assistant",
        stop_sequence=stop if isinstance(stop, str) else "",
    )
    for block in message.get("content") or ():
        _add_block(choice, block)
    return Answer(
        choices=[choice],
        usage=_bedrock_usage(document.get("usage")),
        tier=dig(document, "serviceTier", "type") or "",
    )


def _add_block(choice: Choice, block: JSON) -> None:
    """Add one block."""
    for name, add in _BLOCKS.items():
        if name in block:
            add(choice, block)
            return
    for name in list(block)[:1]:
        choice.add("server", canonical(block[name]), name=name)


def _add_tool_use(choice: Choice, block: JSON) -> None:
    call = block["toolUse"]
    arguments = canonical(call.get("input"))
    if call.get("type") == "server_tool_use":
        choice.add("server", arguments, name=call["name"])
        return
    name, _ = call_id(call.get("toolUseId"))
    choice.add("call", arguments, name=call["name"], id=name)


def _add_cited(choice: Choice, block: JSON) -> None:
    content = block["citationsContent"]
    fragments = content.get("content") or ()
    # In a stream the text stands beside the sources.
    text = block.get("text") or ""
    text += "".join(fragment.get("text") or "" for fragment in fragments)
    citations = [
        _bedrock_citation(citation, len(text))
        for citation in content.get("citations") or ()
    ]
    choice.add("text", text, citations=citations)


def _add_thought(choice: Choice, block: JSON) -> None:
    thought = block["reasoningContent"]
    signature = dig(thought, "reasoningText", "signature")
    choice.add(
        "thinking",
        dig(thought, "reasoningText", "text") or "",
        signature=plain_signature(signature or thought.get("redactedContent")),
    )


def _add_image(choice: Choice, block: JSON) -> None:
    media = f"image/{block['image'].get('format')}"
    data = dig(block, "image", "source", "bytes")
    choice.add("image", digest(data), name=media)


def _add_text(choice: Choice, block: JSON) -> None:
    choice.add("text", block["text"])


_BLOCKS: dict[str, Callable[[Choice, JSON], None]] = {
    "toolUse": _add_tool_use,
    "citationsContent": _add_cited,
    "text": _add_text,
    "reasoningContent": _add_thought,
    "image": _add_image,
}


def _bedrock_citation(citation: JSON, length: int) -> Citation:
    """Read a citation. It stands for the whole text of its block."""
    source = dig(citation, "location", "web", "url") or ""
    quotes = citation.get("sourceContent") or ()
    quote = "".join(part.get("text") or "" for part in quotes)
    title, file = citation.get("title") or "", citation.get("source") or ""
    return Citation(source, title, 0, length, quote, file)


def _bedrock_usage(usage: Any) -> dict[str, int]:
    """Read token counts. Cached tokens are not part of the input tokens."""
    if not isinstance(usage, dict):
        return {}
    read = number(usage.get("cacheReadInputTokens"))
    write = number(usage.get("cacheWriteInputTokens"))
    return {
        "prompt": number(usage.get("inputTokens")) + read + write,
        "completion": number(usage.get("outputTokens")),
        "total": number(usage.get("totalTokens")),
        "cached": read,
        "cache_write": write,
        "cache_write_1h": sum(
            number(detail.get("inputTokens"))
            for detail in usage.get("cacheDetails") or ()
            if detail.get("ttl") == "1h"
        ),
    }


# ------------------------------------------------------------------------------ Cohere

_COHERE_FINISH = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}


def fold_cohere(events: Sequence[JSON], problems: list[str]) -> JSON:
    """Return the response that a stream amounts to."""
    document: JSON = {}
    message: JSON = {}
    parts: dict[int, JSON] = {}
    calls: dict[int, JSON] = {}
    if _is_unbalanced(events):
        problems.append("a part begins that does not end")
    for event in events:
        index = event.get("index") or 0
        delta = dig(event, "delta", "message") or {}
        match event.get("type"):
            case "message-start":
                message |= delta
                document["id"] = event.get("id")
            case "content-start" | "content-delta":
                _extend_part(parts.setdefault(index, {}), delta.get("content") or {})
            case "tool-plan-delta":
                append(message, "tool_plan", delta.get("tool_plan"))
            case "tool-call-start":
                calls[index] = {
                    **delta["tool_calls"],
                    "function": dict(delta["tool_calls"]["function"]),
                }
            case "tool-call-delta":
                function = delta["tool_calls"]["function"]
                append(calls[index]["function"], "arguments", function["arguments"])
            case "citation-start":
                message["citations"] = [
                    *(message.get("citations") or []),
                    delta["citations"],
                ]
            case "message-end":
                document |= event["delta"]
            case _:
                pass
    if "finish_reason" not in document:
        problems.append(UNENDED)
    _close_message(message, parts, calls)
    return {**document, "message": message}


def _close_message(
    message: JSON, parts: dict[int, JSON], calls: dict[int, JSON]
) -> None:
    """Add the parts and calls of a stream to its message."""
    if not message.get("tool_plan"):
        message.pop("tool_plan", None)
    if parts:
        message["content"] = [parts[index] for index in sorted(parts)]
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]


def _is_unbalanced(events: Sequence[JSON]) -> bool:
    """Whether a part of a stream begins that does not end."""
    kinds = [str(event.get("type")) for event in events]
    return any(
        kinds.count(f"{kind}-start") != kinds.count(f"{kind}-end")
        for kind in ("content", "tool-call", "citation")
    )


def _extend_part(part: JSON, fragment: JSON) -> None:
    """Append a fragment to a content part."""
    for name, value in fragment.items():
        if name in ("text", "thinking"):
            append(part, name, value)
        else:
            part[name] = value


def read_cohere(document: JSON) -> Answer:
    """Read a chat response of the v2 API. The plan before calls counts as thinking."""
    message = document.get("message") or {}
    reason = document.get("finish_reason") or ""
    choice = Choice(
        finish=_COHERE_FINISH.get(reason, "stop") if reason else "",
        role=message.get("role") or "assistant",
    )
    _add_message(choice, message)
    return Answer(
        choices=[choice],
        id=document.get("id") or "",
        usage=_cohere_usage(document.get("usage")),
    )


def _add_message(choice: Choice, message: JSON) -> None:
    """Add the blocks of a message."""
    parts = message.get("content") or ()
    thoughts = [message.get("tool_plan"), *(part.get("thinking") for part in parts)]
    for thought in filter(None, thoughts):
        choice.add("thinking", thought)
    text = "".join(part.get("text") or "" for part in parts)
    if text:
        cited = message.get("citations") or ()
        citations = [
            source for entry in cited for source in _cohere_citations(entry, parts)
        ]
        choice.add("text", text, citations=citations)
    for call in message.get("tool_calls") or ():
        _add_function_call(choice, call)


def _add_function_call(choice: Choice, call: JSON) -> None:
    """Add a call."""
    function = call["function"]
    name, _ = call_id(call.get("id"))
    arguments = canonical(function.get("arguments"))
    choice.add("call", arguments, name=function["name"], id=name)


def _cohere_citations(citation: JSON, parts: Sequence[JSON]) -> list[Citation]:
    """Read a citation, which may have several sources."""
    extent = _cohere_extent(citation, parts)
    cited: list[Citation] = []
    for source in citation.get("sources") or ():
        document = source.get("document") or {}
        address, file = document.get("url") or "", source.get("id") or ""
        title = document.get("title") or ""
        quote = document.get("text") or document.get("snippet") or ""
        file = "" if address else file
        cited.append(Citation(address, title, *extent, quote=quote, file=file))
    return cited


def _cohere_extent(
    citation: JSON, parts: Sequence[JSON]
) -> tuple[int, int] | tuple[None, None]:
    """Return the position of a citation, which counts in the content that it names, as
    one in the whole text."""
    earlier = parts[: citation.get("content_index") or 0]
    offset = sum(len(part.get("text") or "") for part in earlier)
    start, end = citation.get("start") or 0, citation.get("end")
    return (start + offset, end + offset) if end else (None, None)


def _cohere_usage(usage: Any) -> dict[str, int]:
    """Read token counts. Some responses report only the billed tokens."""
    tokens = dig(usage, "tokens") or dig(usage, "billed_units")
    if not isinstance(tokens, dict):
        return {}
    return {
        "prompt": number(tokens.get("input_tokens")),
        "completion": number(tokens.get("output_tokens")),
        "cached": number(dig(usage, "cached_tokens")),
    }


# ------------------------------------------------------------------------------ Ollama


def fold_ollama(events: Sequence[JSON], problems: list[str]) -> JSON:
    """Return the response that the lines of a stream amount to."""
    document: JSON = {}
    message: JSON = {}
    for event in events:
        _extend_fields(document, event)
        _extend_fields(message, event.get("message") or {})
    if not document.get("done"):
        problems.append(UNENDED)
    return {**document, "message": message} if message else document


def _extend_fields(fields: JSON, fragment: JSON) -> None:
    """Add a fragment of an answer or of its message."""
    for name, value in fragment.items():
        if name in ("response", "thinking", "content"):
            append(fields, name, value)
        elif name == "tool_calls":
            fields[name] = [*(fields.get(name) or []), *value]
        elif name != "message":
            fields[name] = value


def read_ollama(document: JSON) -> Answer:
    """Read a response of the chat or generate endpoint."""
    message = document.get("message") or {}
    reason = document.get("done_reason") or "stop"
    choice = Choice(
        finish="length" if reason == "length" else "stop",
        role=message.get("role") or "assistant",
    )
    if thinking := message.get("thinking") or document.get("thinking"):
        choice.add("thinking", thinking)
    if text := message.get("content") or document.get("response"):
        choice.add("text", text)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = canonical(function.get("arguments"))
        choice.add("call", arguments, name=function["name"], id=call.get("id") or "")
    return Answer(
        choices=[choice],
        model=document.get("model") or "",
        usage={
            "prompt": number(document.get("prompt_eval_count")),
            "completion": number(document.get("eval_count")),
        },
    )
