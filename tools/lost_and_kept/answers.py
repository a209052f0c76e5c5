"""The answers of the stand-ins: whole, and as their vendors stream them."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from modelyard.testing import Answer, stream_answer
from modelyard.transport.aws_events import CONTENT_TYPE, dump_event
from tools.lost_and_kept.formats import (
    ANTHROPIC,
    BEDROCK,
    CHAT,
    COHERE,
    DASHSCOPE,
    GEMINI,
    JSON,
    OLLAMA,
    RESPONSES,
    USAGE,
)

# JSON, so that it also answers a request for JSON.
TEXT = '{"ok": 1}'


def _chat(content: list[JSON] | None = None, **fields: Any) -> JSON:
    """Return a chat completion; `message` has further fields of the message, `choice` of
    the choice, `choices` further choices."""
    del content
    message = {"role": "assistant", "content": TEXT, **fields.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    choice |= fields.pop("choice", {})
    choices = [choice, *fields.pop("choices", [])]
    return {
        "id": "c1",
        "model": "m",
        "choices": choices,
        "usage": USAGE[CHAT],
        **fields,
    }


def _responses(content: list[JSON] | None = None, **fields: Any) -> JSON:
    """Return a response; `content` has the parts of its message, `items` what precedes
    that."""
    parts = content or [{"type": "output_text", "text": TEXT, "annotations": []}]
    item = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": parts,
    }
    output = [*fields.pop("items", []), item]
    return {
        "id": "resp_1",
        "model": "m",
        "status": "completed",
        "output": output,
        "usage": USAGE[RESPONSES],
        **fields,
    }


def _anthropic(content: list[JSON] | None = None, **fields: Any) -> JSON:
    """Return a message with these blocks."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content or [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE[ANTHROPIC],
        **fields,
    }


def _gemini(content: list[JSON] | None = None, **fields: Any) -> JSON:
    """Return a response with these parts; `candidate` has further fields of the
    candidate, `candidates` further ones."""
    parts = content or [{"text": TEXT}]
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    candidate |= {"index": 0, **fields.pop("candidate", {})}
    return {
        "candidates": [candidate, *fields.pop("candidates", [])],
        "usageMetadata": USAGE[GEMINI],
        "modelVersion": "m",
        "responseId": "r1",
        **fields,
    }


def _cohere(content: list[JSON] | None = None, **fields: Any) -> JSON:
    """Return a chat response with this content; `message` has further fields."""
    parts = content or [{"type": "text", "text": TEXT}]
    message = {"role": "assistant", "content": parts, **fields.pop("message", {})}
    return {
        "id": "c1",
        "message": message,
        "finish_reason": "COMPLETE",
        "usage": USAGE[COHERE],
        **fields,
    }


def _bedrock(content: list[JSON] | None = None, **fields: Any) -> JSON:
    """Return a response of Converse with these blocks."""
    message = {"role": "assistant", "content": content or [{"text": TEXT}]}
    return {
        "output": {"message": message},
        "stopReason": "end_turn",
        "usage": USAGE[BEDROCK],
        "metrics": {"latencyMs": 1},
        **fields,
    }


def _ollama(content: list[JSON] | None = None, **fields: Any) -> JSON:
    """Return a response of `/api/chat`; `message` has further fields."""
    del content
    message = {"role": "assistant", "content": TEXT, **fields.pop("message", {})}
    return {
        "model": "m",
        "message": message,
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 9,
        "eval_count": 9,
        **fields,
    }


def _dashscope(content: list[JSON] | None = None, **fields: Any) -> JSON:
    """Return a generation; `message` and `choice` have further fields."""
    del content
    message = {"role": "assistant", "content": TEXT, **fields.pop("message", {})}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    choice |= fields.pop("choice", {})
    choices = [choice, *fields.pop("choices", [])]
    output = {"choices": choices}
    return {"request_id": "r1", "output": output, "usage": USAGE[DASHSCOPE], **fields}


_BUILDERS: Mapping[str, Callable[..., JSON]] = {
    CHAT: _chat,
    RESPONSES: _responses,
    ANTHROPIC: _anthropic,
    GEMINI: _gemini,
    COHERE: _cohere,
    BEDROCK: _bedrock,
    OLLAMA: _ollama,
    DASHSCOPE: _dashscope,
}


def answer_of(target: str, *content: JSON, **fields: Any) -> JSON:
    """Return a vendor's answer with this content and further fields; without any it is
    one text."""
    return _BUILDERS[target](list(content) or None, **fields)


# ----------------------------------------------------------------------------- streams


def _halves(text: str) -> list[str]:
    """Return the two halves of a text; none of an empty one."""
    middle = len(text) // 2
    return [text[:middle], text[middle:]] if text else []


def _without(document: JSON, *names: str) -> JSON:
    """Return an object without some of its fields."""
    return {name: value for name, value in document.items() if name not in names}


def _chat_events(answer: JSON) -> Iterator[JSON]:
    """Yield the chunks of a chat completion."""
    head = {"id": answer["id"], "object": "chat.completion.chunk", "model": "m"}
    for choice in answer["choices"]:
        for chunk in _choice_chunks(choice):
            yield {**head, "choices": [chunk]}
    extra = _without(answer, "id", "model", "choices", "usage")
    yield {**head, "choices": [], "usage": answer["usage"], **extra}


def _choice_chunks(choice: JSON) -> Iterator[JSON]:
    """Yield what the chunks of a choice contain."""
    index = choice["index"]
    deltas = list(_chat_deltas(choice["message"]))
    for position, delta in enumerate(deltas):
        chunk = {"index": index, "delta": delta, "finish_reason": None}
        if position == len(deltas) - 1 and "logprobs" in choice:
            chunk["logprobs"] = choice["logprobs"]
        yield chunk
    remaining = _without(choice, "message", "logprobs")
    yield {**remaining, "delta": {}}


def _chat_deltas(message: JSON) -> Iterator[JSON]:
    """Yield the deltas of a message; what it cites follows the text."""
    yield {"role": "assistant", "content": ""}
    for half in _halves(message.get("reasoning_content") or ""):
        yield {"reasoning_content": half}
    for name, value in message.items():
        if name not in ("role", "content", "reasoning_content", "annotations"):
            yield {name: value}
    for half in _halves(message.get("content") or ""):
        yield {"content": half}
    if "annotations" in message:
        yield {"annotations": message["annotations"]}


def _responses_events(answer: JSON) -> Iterator[JSON]:
    """Yield the events of a response."""
    head = {**answer, "output": [], "status": "in_progress", "usage": None}
    yield {"type": "response.created", "response": head}
    for index, item in enumerate(answer["output"]):
        position = {"output_index": index, "item_id": item.get("id", "")}
        opened = {**item, "status": "in_progress"}
        if "content" in item:
            opened["content"] = []
        yield {"type": "response.output_item.added", "item": opened, **position}
        for number, part in enumerate(item.get("content") or ()):
            yield from _part_events(part, {**position, "content_index": number})
        for number, summary in enumerate(item.get("summary") or ()):
            yield {
                "type": "response.reasoning_summary_text.delta",
                "delta": summary["text"],
                "summary_index": number,
                **position,
            }
        if item["type"] == "function_call":
            yield {
                "type": "response.function_call_arguments.delta",
                "delta": item["arguments"],
                **position,
            }
        yield {"type": "response.output_item.done", "item": item, **position}
    kind = "incomplete" if answer["status"] == "incomplete" else "completed"
    yield {"type": f"response.{kind}", "response": answer}


def _part_events(part: JSON, position: JSON) -> Iterator[JSON]:
    """Yield the events of a part of a message."""
    if part["type"] == "refusal":
        yield {"type": "response.refusal.delta", "delta": part["refusal"], **position}
        return
    for half in _halves(part["text"]):
        event = {"type": "response.output_text.delta", "delta": half, **position}
        if part.get("logprobs") and half == _halves(part["text"])[1]:
            event["logprobs"] = part["logprobs"]
        yield event
    for annotation in part.get("annotations") or ():
        yield {
            "type": "response.output_text.annotation.added",
            "annotation": annotation,
            **position,
        }


def _anthropic_events(answer: JSON) -> Iterator[JSON]:
    """Yield the events of a message."""
    usage = {**answer["usage"], "output_tokens": 1}
    end_names = ("stop_reason", "stop_sequence", "content", "usage")
    head = {name: value for name, value in answer.items() if name not in end_names}
    yield {"type": "message_start", "message": {**head, "content": [], "usage": usage}}
    for index, block in enumerate(answer["content"]):
        start, deltas = _block_events(block)
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    end = {name: answer[name] for name in ("stop_reason", "stop_sequence")}
    yield {"type": "message_delta", "delta": end, "usage": answer["usage"]}
    yield {"type": "message_stop"}


def _block_events(block: JSON) -> tuple[JSON, list[JSON]]:
    """Return how a block starts, and its deltas."""
    match block["type"]:
        case "text":
            deltas: list[JSON] = [
                {"type": "text_delta", "text": half} for half in _halves(block["text"])
            ]
            deltas += [
                {"type": "citations_delta", "citation": citation}
                for citation in block.get("citations") or ()
            ]
            return {"type": "text", "text": ""}, deltas
        case "thinking":
            deltas = [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
            return {"type": "thinking", "thinking": "", "signature": ""}, deltas
        case "tool_use" | "server_tool_use":
            delta = {
                "type": "input_json_delta",
                "partial_json": json.dumps(block["input"]),
            }
            return {**block, "input": {}}, [delta]
        case _:
            return block, []


def _gemini_events(answer: JSON) -> Iterator[JSON]:
    """Yield a response for each part, and a last one with everything else."""
    head = {"modelVersion": "m", "responseId": answer["responseId"]}
    ends: list[JSON] = []
    for candidate in answer.get("candidates") or ():
        index = candidate["index"]
        for part in candidate["content"]["parts"]:
            content = {"role": "model", "parts": [part]}
            yield {"candidates": [{"content": content, "index": index}], **head}
        ends.append(
            {**candidate, "content": {"role": "model", "parts": [{"text": ""}]}}
        )
    yield {**answer, "candidates": ends}


def _cohere_events(answer: JSON) -> Iterator[JSON]:
    """Yield the events of a chat response."""
    yield {"type": "message-start", "id": answer["id"], "delta": {"message": {}}}
    message = answer["message"]
    if plan := message.get("tool_plan"):
        yield {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": plan}}}
    logprobs = list(answer.get("logprobs") or ())
    for index, part in enumerate(message.get("content") or ()):
        yield from _content_events(part, index, logprobs)
    for index, citation in enumerate(message.get("citations") or ()):
        delta = {"message": {"citations": citation}}
        yield {"type": "citation-start", "index": index, "delta": delta}
        yield {"type": "citation-end", "index": index}
    for index, call in enumerate(message.get("tool_calls") or ()):
        delta = {"message": {"tool_calls": call}}
        yield {"type": "tool-call-start", "index": index, "delta": delta}
        yield {"type": "tool-call-end", "index": index}
    end = {"finish_reason": answer["finish_reason"], "usage": answer["usage"]}
    yield {"type": "message-end", "delta": end}


def _content_events(part: JSON, index: int, logprobs: list[JSON]) -> Iterator[JSON]:
    """Yield the events of a content part; a text takes the next log probabilities."""
    kind = part["type"]
    for name, text in (("content-start", ""), ("content-delta", part[kind])):
        content = {"type": kind, kind: text}
        event = {"type": name, "index": index}
        if text and logprobs:
            event["logprobs"] = logprobs.pop(0)
        yield {**event, "delta": {"message": {"content": content}}}
    yield {"type": "content-end", "index": index}


def _bedrock_events(answer: JSON) -> Iterator[JSON]:
    """Yield the events of ConverseStream."""
    yield {"messageStart": {"role": "assistant"}}
    for index, block in enumerate(answer["output"]["message"]["content"]):
        for delta in _converse_deltas(block):
            yield {"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}}
        yield {"contentBlockStop": {"contentBlockIndex": index}}
    yield {"messageStop": {"stopReason": answer["stopReason"]}}
    metadata = {
        name: value
        for name, value in answer.items()
        if name not in ("output", "stopReason")
    }
    yield {"metadata": metadata}


def _converse_deltas(block: JSON) -> Iterator[JSON]:
    """Yield the deltas of a block."""
    if "text" in block:
        yield {"text": block["text"]}
    elif "reasoningContent" in block:
        content = block["reasoningContent"]
        if "redactedContent" in content:
            yield {"reasoningContent": content}
        for name, value in content.get("reasoningText", {}).items():
            yield {"reasoningContent": {name: value}}
    elif "citationsContent" in block:
        cited = block["citationsContent"]
        for fragment in cited["content"]:
            yield {"text": fragment["text"]}
        for citation in cited["citations"]:
            yield {"citation": citation}


def _ollama_events(answer: JSON) -> Iterator[JSON]:
    """Yield the lines of a chat."""
    message = answer["message"]
    end_fields = {
        name: value
        for name, value in answer.items()
        if name not in ("message", "logprobs")
    }
    first = {**message, "content": ""}
    yield {"model": "m", "message": first, "done": False}
    delta = {"role": "assistant", "content": message["content"]}
    line: JSON = {"model": "m", "message": delta, "done": False}
    if "logprobs" in answer:
        line["logprobs"] = answer["logprobs"]
    yield line
    yield {**end_fields, "message": {"role": "assistant", "content": ""}}


def _dashscope_events(answer: JSON) -> Iterator[JSON]:
    """Yield the events of a generation with incremental output."""
    for choice in answer["output"]["choices"]:
        begun = {**choice, "finish_reason": "null"}
        yield {"request_id": "r1", "output": {"choices": [begun]}}
        end = {
            "index": choice["index"],
            "finish_reason": choice["finish_reason"],
            "message": {"role": "assistant", "content": ""},
        }
        yield {
            "request_id": "r1",
            "output": {"choices": [end]},
            "usage": answer["usage"],
        }


_EVENTS: Mapping[str, Callable[[JSON], Iterator[JSON]]] = {
    CHAT: _chat_events,
    RESPONSES: _responses_events,
    ANTHROPIC: _anthropic_events,
    GEMINI: _gemini_events,
    COHERE: _cohere_events,
    BEDROCK: _bedrock_events,
    OLLAMA: _ollama_events,
    DASHSCOPE: _dashscope_events,
}


def events_of_answer(target: str, answer: JSON) -> Iterator[JSON]:
    """Yield the events in which a vendor streams an answer."""
    return _EVENTS[target](answer)


def streamed(target: str, answer: JSON) -> Answer:
    """Return an answer as its vendor streams it."""
    events = list(events_of_answer(target, answer))
    if target == BEDROCK:
        frames = [
            dump_event(name, json.dumps(body).encode())
            for event in events
            for name, body in event.items()
        ]
        return Answer(headers={"content-type": CONTENT_TYPE}, pieces=frames)
    if target == OLLAMA:
        lines = [json.dumps(event).encode() + b"\n" for event in events]
        return Answer(headers={"content-type": "application/x-ndjson"}, pieces=lines)
    chunks = [_server_sent(event) for event in events]
    if target == CHAT:
        chunks.append(b"data: [DONE]\n\n")
    return stream_answer(chunks)


def _server_sent(event: JSON) -> bytes:
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()
