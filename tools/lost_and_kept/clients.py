"""Puts streamed answers together as a vendor's client does, without the gateway's own
readers."""

import json
from collections.abc import Iterable
from typing import Any

from tools.lost_and_kept.formats import (
    ANTHROPIC,
    CHAT,
    COHERE,
    COMPLETIONS,
    GEMINI,
    JSON,
    RESPONSES,
)

_COMMENT = ": x-modelyard-dropped: "


def events_of(text: str) -> list[JSON]:
    """Return the events of a stream."""
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def named_in(text: str, events: Iterable[JSON]) -> str:
    """Return the names of what a streamed answer has lost."""
    for line in text.splitlines():
        if line.startswith(_COMMENT):
            return line.removeprefix(_COMMENT)
    named = [event.get("x-modelyard-dropped") for event in events]
    return next((name for name in named if name), "")


def joined(caller: str, events: list[JSON]) -> JSON:
    """Return a streamed answer in the form of a whole one."""
    return _READERS[caller](events)


def _merge(complete: JSON, delta: JSON) -> None:
    """Add a delta: texts and lists are joined, objects merged, other values replaced."""
    for name, value in delta.items():
        before = complete.get(name)
        if name in ("index", "id", "type", "role") or before is None:
            complete[name] = value
        elif isinstance(before, str) and isinstance(value, str):
            complete[name] = before + value
        elif isinstance(before, list) and isinstance(value, list):
            complete[name] = [*before, *value]
        elif isinstance(before, dict) and isinstance(value, dict):
            complete[name] = merged = dict(before)
            _merge(merged, value)
        elif value is not None:
            complete[name] = value


def _with_values(document: JSON, left_out: str) -> JSON:
    """Return the fields of an object that have a value, without one of them."""
    return {
        name: value
        for name, value in document.items()
        if name != left_out and value is not None
    }


def _chat(events: list[JSON]) -> JSON:
    complete: JSON = {}
    choices: dict[int, JSON] = {}
    for event in events:
        for chunk in event.get("choices") or ():
            choice = choices.setdefault(chunk["index"], {"message": {}})
            _merge(choice["message"], chunk.get("delta") or {})
            _merge(choice, _with_values(chunk, "delta"))
        complete |= _with_values(event, "choices")
    return {**complete, "choices": list(choices.values())}


def _completions(events: list[JSON]) -> JSON:
    choices: dict[int, JSON] = {}
    complete: JSON = {}
    for event in events:
        for chunk in event.get("choices") or ():
            choice = choices.setdefault(chunk["index"], {"text": ""})
            choice["text"] += chunk["text"]
            choice["finish_reason"] = chunk["finish_reason"]
        complete |= _with_values(event, "choices")
    return {**complete, "choices": list(choices.values())}


def _responses(events: list[JSON]) -> JSON:
    return events[-1]["response"]


def _anthropic(events: list[JSON]) -> JSON:
    complete: JSON = {}
    blocks: list[JSON] = []
    for event in events:
        match event["type"]:
            case "message_start":
                complete = dict(event["message"])
            case "content_block_start":
                blocks.append(dict(event["content_block"]))
            case "content_block_delta":
                _add_delta(blocks[event["index"]], event["delta"])
            case "message_delta":
                remaining = {
                    name: value
                    for name, value in event.items()
                    if name not in ("type", "delta")
                }
                complete |= event["delta"] | remaining
            case _:
                pass
    return {**complete, "content": blocks}


def _add_delta(block: JSON, delta: JSON) -> None:
    """Add a delta to a block."""
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] += delta["signature"]
        case _:
            block["partial_json"] = (
                block.get("partial_json", "") + delta["partial_json"]
            )


def _gemini(events: list[JSON]) -> JSON:
    complete: JSON = {}
    candidates: dict[int, JSON] = {}
    for event in events:
        for chunk in event.get("candidates") or ():
            candidate = candidates.setdefault(
                chunk["index"], {"content": {"parts": []}}
            )
            parts = candidate["content"]["parts"]
            for part in chunk["content"]["parts"]:
                _add_part(parts, part)
            candidate |= _with_values(chunk, "content")
        complete |= _with_values(event, "candidates")
    return {**complete, "candidates": list(candidates.values())}


def _add_part(parts: list[JSON], part: JSON) -> None:
    """Add a part; a text continues the one before, and so does a thought."""
    is_continued = bool(parts) and parts[-1].keys() == part.keys()
    if is_continued and part.keys() in ({"text"}, {"text", "thought"}):
        parts[-1] = {**part, "text": parts[-1]["text"] + part["text"]}
    else:
        parts.append(part)


def _cohere(events: list[JSON]) -> JSON:
    message: JSON = {"content": [], "citations": [], "tool_calls": [], "tool_plan": ""}
    complete: JSON = {"message": message, "logprobs": []}
    for event in events:
        delta: Any = event.get("delta") or {}
        part: JSON = delta.get("message") or {}
        match event["type"]:
            case "content-start":
                message["content"].append(dict(part["content"]))
            case "content-delta":
                block = message["content"][event["index"]]
                for name, text in part["content"].items():
                    block[name] = block.get(name, "") + text
                if "logprobs" in event:
                    complete["logprobs"].append(event["logprobs"])
            case "citation-start":
                message["citations"].append(part["citations"])
            case "tool-plan-delta":
                message["tool_plan"] += part["tool_plan"]
            case "tool-call-start":
                message["tool_calls"].append(part["tool_calls"])
            case "message-end":
                complete |= delta
            case _:
                pass
    return complete


_READERS = {
    CHAT: _chat,
    COMPLETIONS: _completions,
    RESPONSES: _responses,
    ANTHROPIC: _anthropic,
    GEMINI: _gemini,
    COHERE: _cohere,
}
