"""Anthropic's Messages API: streams folded to documents, documents read."""

import json
from collections.abc import Sequence
from typing import Any

from tools.show.reader.facts import (
    JSON,
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
    without_nulls,
)

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "content_filter",
    "compaction": "pause",
}
_TEXT_DELTAS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "compaction_delta": "content",
}


def fold_anthropic(events: Sequence[JSON], problems: list[str]) -> JSON:
    """Return the message that a stream amounts to."""
    document: JSON = {}
    blocks: dict[int, JSON] = {}
    is_open, has_ended = -1, False
    for event in events:
        match event.get("type"):
            case "message_start":
                document = dict(event["message"])
            case "content_block_start":
                if event["index"] != len(blocks):
                    problems.append("the indexes of blocks have gaps")
                is_open = event["index"]
                blocks[is_open] = dict(event["content_block"])
            case "content_block_delta":
                if event["index"] != is_open:
                    problems.append("a delta of a block that is not open")
                block = blocks.setdefault(event["index"], {})
                _extend_block(block, event["delta"], problems)
            case "content_block_stop":
                is_open = -1
                _close_block(blocks.setdefault(event["index"], {}))
            case "message_delta":
                _end_message(document, event)
            case "message_stop":
                has_ended = True
            case _:
                pass
    if not document or not has_ended or is_open >= 0:
        problems.append("the message does not begin or end as it should")
    document["content"] = [blocks[index] for index in sorted(blocks)]
    return document


def _extend_block(block: JSON, delta: JSON, problems: list[str]) -> None:
    """Append a delta to its block."""
    kind = delta.get("type")
    if name := _TEXT_DELTAS.get(kind or ""):
        if name in ("text", "thinking") and block.get("type") != name:
            problems.append(f"{kind} in a block of {block.get('type')}")
        append(block, name, delta.get(name))
        for other in delta.keys() - {"type", name}:
            block[other] = delta[other]
    elif kind == "input_json_delta":
        append(block, "json", delta["partial_json"])
    elif kind == "citations_delta":
        block["citations"] = [*(block.get("citations") or []), delta["citation"]]


def _close_block(block: JSON) -> None:
    """Set the input of a call, which is complete now."""
    text = block.pop("json", "")
    if text:
        try:
            block["input"] = json.loads(text)
        except ValueError:
            block["input"] = text


def _end_message(document: JSON, event: JSON) -> None:
    """Add the end of a message. Counts that are null do not overwrite earlier ones."""
    document.update(event.get("delta") or {})
    usage = without_nulls(event.get("usage"))
    document["usage"] = {**(document.get("usage") or {}), **usage}
    for name in event.keys() - {"type", "delta", "usage"}:
        document[name] = event[name]


# ----------------------------------------------------------------------------- reading


def read_anthropic(document: JSON) -> Answer:
    """Read a message."""
    reason = document.get("stop_reason") or ""
    choice = Choice(
        finish=FINISH.get(reason, reason),
        stop_sequence=document.get("stop_sequence") or "",
        role=document.get("role") or "assistant",
    )
    for block in document.get("content") or ():
        _add_block(choice, block)
    return Answer(
        choices=[choice],
        id=document.get("id") or "",
        model=document.get("model") or "",
        tier=dig(document, "usage", "service_tier") or "",
        usage=anthropic_usage(document.get("usage")),
    )


def _add_block(choice: Choice, block: JSON) -> None:
    """Add one block."""
    match block.get("type"):
        case "text":
            text = block.get("text") or ""
            citations = [
                _citation(citation, len(text))
                for citation in block.get("citations") or ()
            ]
            choice.add("text", text, citations=citations)
        case "thinking":
            signature = plain_signature(block.get("signature"))
            choice.add("thinking", block.get("thinking") or "", signature=signature)
        # Encrypted thinking has no text; it goes back unchanged, like a signature.
        case "redacted_thinking":
            choice.add("thinking", signature=plain_signature(block["data"]))
        case "tool_use":
            name, signature = call_id(block.get("id"))
            if signature:
                choice.add("thinking", signature=signature)
            arguments = canonical(block.get("input"))
            choice.add("call", arguments, name=block["name"], id=name)
        case "image":
            source = block.get("source") or {}
            media = source.get("media_type") or ""
            choice.add("image", digest(source.get("data")), name=media)
        case kind:
            choice.add("server", canonical(block), name=str(kind))


def _citation(citation: JSON, length: int) -> Citation:
    """Read a citation. It stands for the whole text of its block."""
    source = citation.get("url") or ""
    file = citation.get("source") or citation.get("file_id") or ""
    title = citation.get("title") or citation.get("document_title") or ""
    quote = citation.get("cited_text") or ""
    return Citation(source, title, 0, length, quote, file)


def anthropic_usage(usage: Any) -> dict[str, int]:
    """Read token counts. Input tokens do not include the cached ones."""
    if not isinstance(usage, dict):
        return {}
    read = number(usage.get("cache_read_input_tokens"))
    write = number(usage.get("cache_creation_input_tokens"))
    return {
        "prompt": number(usage.get("input_tokens")) + read + write,
        "completion": number(usage.get("output_tokens")),
        "cached": read,
        "cache_write": write,
        "cache_write_1h": number(
            dig(usage, "cache_creation", "ephemeral_1h_input_tokens")
        ),
        "reasoning": number(dig(usage, "output_tokens_details", "thinking_tokens")),
        "searches": number(dig(usage, "server_tool_use", "web_search_requests")),
    }
