"""What an answer says, read straight from its bytes: an account of its own that shares no code with the product.

Each reader takes one vendor's answer, whole or as the events of a stream, and returns a `Truth`.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]


@dataclass
class Truth:
    text: str = ""
    tools: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Names and arguments, the arguments as canonical JSON."""
    thinking: str = ""
    signatures: list[str] = field(default_factory=list[str])
    finish: str = ""
    usage: dict[str, int] = field(default_factory=dict[str, int])
    """prompt, completion, cached, cache_write, reasoning: all that went in and came out, and how much of it was which."""
    images: int = 0

    def without_tags(self) -> None:
        """Some servers write thoughts into the text, between tags at its beginning."""
        head, _, rest = self.text.lstrip().partition("</think>")
        if head.startswith("<think>"):  # an answer cut short may be all thought
            self.thinking += head.removeprefix("<think>")
            self.text = rest.lstrip()

    def settled(self) -> "Truth":
        """Formats differ in whether a stop for calls is told apart: here it always is."""
        if self.tools and self.finish == "stop":
            self.finish = "tool_calls"
        return self


def canonical(arguments: Any) -> str:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            return arguments
    if isinstance(arguments, dict) and arguments.keys() == {"INVALID_JSON"}:
        return str(arguments["INVALID_JSON"])
    return json.dumps(arguments or {}, sort_keys=True)


def number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return 0
    return int(value)


def dig(body: Any, *path: str) -> Any:
    for name in path:
        body = body.get(name) if isinstance(body, dict) else None
    return body


# ------------------------------------------------------------------------------------------------ OpenAI chat

_CHAT_FINISH = {
    "function_call": "tool_calls", "eos": "stop", "end_turn": "stop", "COMPLETE": "stop", "model_length": "length",
    "MAX_TOKENS": "length", "max_tokens": "length",
}  # fmt: skip


def read_chat(body: JSON) -> Truth:
    truth = Truth()
    choice = body["choices"][0]
    _add_chat_message(truth, choice.get("message") or {})
    reason = choice.get("finish_reason") or ""
    truth.finish = _CHAT_FINISH.get(reason, reason)
    truth.usage = chat_usage(body.get("usage"))
    return truth.settled()


def _add_chat_message(truth: Truth, message: JSON) -> None:
    content = message.get("content")
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    if isinstance(content, list):
        for part in content:
            if part.get("type") == "text":
                truth.text += part["text"]
            elif part.get("type") == "thinking":
                thinking += "".join(one.get("text", "") for one in part["thinking"])
    else:
        truth.text += content or ""
    truth.text += message.get("refusal") or ""
    details = message.get("reasoning_details") or ()
    if not thinking:
        thinking = "".join(one.get("text") or one.get("summary") or "" for one in details)
    truth.thinking += thinking
    truth.signatures += [
        one.get("signature") or one.get("data") for one in details if one.get("signature") or one.get("data")
    ]
    for call in message.get("tool_calls") or ():
        inner = call.get("function") or call.get("custom") or {}
        truth.tools.append((inner.get("name") or "", canonical(inner.get("arguments", inner.get("input")))))
    if old := message.get("function_call"):
        truth.tools.append((old["name"], canonical(old.get("arguments"))))
    truth.images += len(message.get("images") or ())


def chat_usage(usage: Any) -> dict[str, int]:
    if not isinstance(usage, dict):
        return {}
    apart = number(dig(usage, "completion_tokens_details", "reasoning_tokens"))
    prompt, completion = number(usage.get("prompt_tokens")), number(usage.get("completion_tokens"))
    is_apart = apart and number(usage.get("total_tokens")) == prompt + completion + apart  # so does xAI count
    return {
        "prompt": prompt,
        "completion": completion + (apart if is_apart else 0),
        "cached": number(dig(usage, "prompt_tokens_details", "cached_tokens"))
        or number(usage.get("prompt_cache_hit_tokens")),
        "cache_write": number(dig(usage, "prompt_tokens_details", "cache_write_tokens")),
        "reasoning": number(dig(usage, "completion_tokens_details", "reasoning_tokens"))
        or number(usage.get("reasoning_tokens")),
    }


def read_chat_stream(events: Sequence[JSON]) -> Truth:
    truth = Truth()
    calls: dict[int, list[str]] = {}
    last = -1
    for event in events:
        stated = event.get("usage") or dig(event, "x_groq", "usage")
        if stated:
            truth.usage = chat_usage(stated)
        for choice in event.get("choices") or ():
            if choice.get("index"):
                continue
            delta = choice.get("delta") or {}
            for call in delta.get("tool_calls") or ():
                inner = call.get("function") or call.get("custom") or {}
                place = call.get("index")
                if place is None:
                    place = last + 1 if call.get("id") else last
                last = place
                entry = calls.setdefault(place, ["", ""])
                entry[0] = entry[0] or inner.get("name") or ""  # some servers say it in every piece
                given = inner.get("arguments", inner.get("input"))
                entry[1] += given if isinstance(given, str) else json.dumps(given) if given else ""
            if old := delta.get("function_call"):
                entry = calls.setdefault(0, ["", ""])
                entry[0] += old.get("name") or ""
                entry[1] += old.get("arguments") or ""
            rest = {key: value for key, value in delta.items() if key not in ("tool_calls", "function_call")}
            _add_chat_message(truth, rest)
            if reason := choice.get("finish_reason"):
                truth.finish = _CHAT_FINISH.get(reason, reason)
    truth.tools = [(name, canonical(arguments)) for name, arguments in calls.values()]
    return truth.settled()


# ------------------------------------------------------------------------------------------------ OpenAI Responses


def read_responses(body: JSON) -> Truth:
    truth = Truth()
    for item in body["output"]:
        _add_item(truth, item)
    _end_response(truth, body)
    return truth.settled()


def _add_item(truth: Truth, item: JSON) -> None:
    match item.get("type"):
        case "message":
            for part in item.get("content") or ():
                truth.text += part.get("text") or part.get("refusal") or ""
        case "function_call":
            truth.tools.append((item["name"], canonical(item["arguments"])))
        case "custom_tool_call":
            truth.tools.append((item["name"], canonical(item["input"])))
        case "reasoning":
            texts = [one["text"] for one in (item.get("content") or item.get("summary") or ())]
            truth.thinking += "\n\n".join(texts)
            if item.get("encrypted_content"):
                truth.signatures.append(item["encrypted_content"])
        case "image_generation_call":
            truth.images += 1
        case _:
            pass


def _end_response(truth: Truth, body: JSON) -> None:
    why = dig(body, "incomplete_details", "reason")
    truth.finish = {"max_output_tokens": "length", "content_filter": "content_filter"}.get(why or "", "stop")
    usage = body.get("usage")
    if isinstance(usage, dict):
        truth.usage = {
            "prompt": number(usage.get("input_tokens")),
            "completion": number(usage.get("output_tokens")),
            "cached": number(dig(usage, "input_tokens_details", "cached_tokens")),
            "cache_write": number(dig(usage, "input_tokens_details", "cache_write_tokens")),
            "reasoning": number(dig(usage, "output_tokens_details", "reasoning_tokens")),
        }


def read_responses_stream(events: Sequence[JSON]) -> Truth:
    """By the deltas, not by the whole answer that the last event repeats: clients show the deltas."""
    truth = Truth()
    texts: dict[int, str] = {}
    calls: dict[int, str] = {}
    thoughts: dict[int, dict[int, str]] = {}
    for event in events:
        place = event.get("output_index") or 0
        match event.get("type"):
            case "response.output_text.delta" | "response.refusal.delta":
                texts[place] = texts.get(place, "") + event["delta"]
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                calls[place] = calls.get(place, "") + event["delta"]
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                number_ = event.get("summary_index", event.get("content_index")) or 0
                mine = thoughts.setdefault(place, {})
                mine[number_] = mine.get(number_, "") + event["delta"]
            case "response.output_item.done":
                item = dict(event["item"])
                if place in texts:
                    item["content"] = [{"text": texts[place]}]
                if place in calls:
                    item["arguments" if item["type"] == "function_call" else "input"] = calls[place]
                if place in thoughts:
                    item["content"] = [{"text": text} for _, text in sorted(thoughts[place].items())]
                _add_item(truth, item)
            case "response.completed" | "response.incomplete":
                _end_response(truth, event["response"])
            case _:
                pass
    return truth.settled()


# ------------------------------------------------------------------------------------------------ Anthropic

_ANTHROPIC_FINISH = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "model_context_window_exceeded": "length",
    "tool_use": "tool_calls", "pause_turn": "pause", "refusal": "content_filter", "compaction": "pause",
}  # fmt: skip


def read_anthropic(body: JSON) -> Truth:
    truth = Truth()
    for block in body["content"]:
        _add_block(truth, block)
    reason = body.get("stop_reason") or ""
    truth.finish = _ANTHROPIC_FINISH.get(reason, reason)
    truth.usage = anthropic_usage(body.get("usage"))
    return truth.settled()


def _add_block(truth: Truth, block: JSON) -> None:
    match block.get("type"):
        case "text":
            truth.text += block["text"]
        case "thinking":
            truth.thinking += block["thinking"]
            if block.get("signature"):
                truth.signatures.append(block["signature"])
        case "redacted_thinking":
            truth.signatures.append(block["data"])
        case "tool_use":
            truth.tools.append((block["name"], canonical(block["input"])))
        case "image":
            truth.images += 1
        case _:
            pass


def anthropic_usage(usage: Any) -> dict[str, int]:
    if not isinstance(usage, dict):
        return {}
    read, write = number(usage.get("cache_read_input_tokens")), number(usage.get("cache_creation_input_tokens"))
    return {
        "prompt": number(usage.get("input_tokens")) + read + write,
        "completion": number(usage.get("output_tokens")),
        "cached": read,
        "cache_write": write,
        "reasoning": number(dig(usage, "output_tokens_details", "thinking_tokens")),
    }


def read_anthropic_stream(events: Sequence[JSON]) -> Truth:
    truth = Truth()
    usage: JSON = {}
    blocks: dict[int, JSON] = {}
    for event in events:
        match event.get("type"):
            case "message_start":
                usage.update(event["message"].get("usage") or {})
            case "content_block_start":
                blocks[event["index"]] = {**event["content_block"], "json": ""}
            case "content_block_delta":
                block, delta = blocks[event["index"]], event["delta"]
                for name in ("text", "thinking", "signature"):
                    if delta["type"] == f"{name}_delta":
                        block[name] = block.get(name, "") + delta[name]
                if delta["type"] == "input_json_delta":
                    block["json"] += delta["partial_json"]
            case "message_delta":
                usage.update({key: value for key, value in (event.get("usage") or {}).items() if value is not None})
                reason = event["delta"].get("stop_reason") or ""
                truth.finish = _ANTHROPIC_FINISH.get(reason, reason)
            case _:
                pass
    for _, block in sorted(blocks.items()):
        if block["json"] and block["type"] == "tool_use":
            block["input"] = json.loads(block["json"]) if _is_json(block["json"]) else block["json"]
        _add_block(truth, block)
    truth.usage = anthropic_usage(usage)
    return truth.settled()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------------------------------ Google

_GOOGLE_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "": ""}
_GOOGLE_FILTERS = {
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT", "MODEL_ARMOR",
}  # fmt: skip


def read_gemini(body: JSON) -> Truth:
    return read_gemini_stream([body])


def read_gemini_stream(events: Sequence[JSON]) -> Truth:
    truth = Truth()
    usage: Any = None
    calls: list[JSON] = []
    for event in events:
        usage = event.get("usageMetadata") or usage
        for candidate in event.get("candidates") or ():
            if candidate.get("index"):
                continue
            for part in dig(candidate, "content", "parts") or ():
                if "functionCall" in part:
                    if part.get("thoughtSignature"):
                        truth.signatures.append(part["thoughtSignature"])
                    _add_google_call(calls, part["functionCall"])
                else:
                    _add_google_part(truth, part)
            if own := candidate.get("finishReason"):
                truth.finish = "content_filter" if own in _GOOGLE_FILTERS else _GOOGLE_FINISH.get(own, "stop")
        if not event.get("candidates") and dig(event, "promptFeedback", "blockReason"):
            truth.finish = "content_filter"
    truth.tools = [(call["name"], canonical(call["args"])) for call in calls]
    if isinstance(usage, dict):
        thoughts = number(usage.get("thoughtsTokenCount"))
        truth.usage = {
            "prompt": number(usage.get("promptTokenCount")) + number(usage.get("toolUsePromptTokenCount")),
            "completion": number(usage.get("candidatesTokenCount")) + thoughts,
            "cached": number(usage.get("cachedContentTokenCount")),
            "cache_write": 0,
            "reasoning": thoughts,
        }
    return truth.settled()


def _add_google_call(calls: list[JSON], part: JSON) -> None:
    """A call, whole or a piece of the one that is open. Recorded pieces fill strings one level deep, and lists in them."""
    if part.get("name") or not calls:
        calls.append({"name": part.get("name") or "", "args": dict(part.get("args") or {})})
    for piece in part.get("partialArgs") or ():
        here: Any = calls[-1]["args"]
        steps = piece["jsonPath"].removeprefix("$.").replace("[", ".").replace("]", "").split(".")
        value = next((piece[kind] for kind in ("stringValue", "numberValue", "boolValue") if kind in piece), None)
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            key: Any = int(step) if isinstance(here, list) else step
            known = key < len(here) if isinstance(here, list) else key in here
            if following is not None:
                if not known:
                    fresh: Any = [] if following.isdigit() else {}
                    here.append(fresh) if isinstance(here, list) else here.__setitem__(key, fresh)
                here = here[key]
            elif known and isinstance(value, str):
                here[key] += value
            elif isinstance(here, list) and not known:
                here.append(value)
            else:
                here[key] = value


def _add_google_part(truth: Truth, part: JSON) -> None:
    if signature := part.get("thoughtSignature"):
        truth.signatures.append(signature)
    if "text" in part:
        if part.get("thought"):
            truth.thinking += part["text"]
        else:
            truth.text += part["text"]
    elif str(dig(part, "inlineData", "mimeType") or "").startswith("image/"):
        truth.images += 1


# ------------------------------------------------------------------------------------------------ the others


def read_bedrock(body: JSON) -> Truth:
    truth = Truth()
    for block in body["output"]["message"]["content"]:
        _add_bedrock_block(truth, block)
    _end_bedrock(truth, body.get("stopReason"), body.get("usage"))
    return truth.settled()


def _add_bedrock_block(truth: Truth, block: JSON) -> None:
    if "text" in block:
        truth.text += block["text"]
    elif "toolUse" in block:
        if block["toolUse"].get("type") != "server_tool_use":
            truth.tools.append((block["toolUse"]["name"], canonical(block["toolUse"]["input"])))
    elif "citationsContent" in block:
        truth.text += "".join(one.get("text", "") for one in block["citationsContent"].get("content") or ())
    elif "reasoningContent" in block:
        thought = block["reasoningContent"]
        truth.thinking += dig(thought, "reasoningText", "text") or ""
        signature = dig(thought, "reasoningText", "signature") or thought.get("redactedContent")
        if signature:
            truth.signatures.append(signature)


def _end_bedrock(truth: Truth, reason: Any, usage: Any) -> None:
    truth.finish = {
        "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls",
        "guardrail_intervened": "content_filter", "content_filtered": "content_filter",
        "model_context_window_exceeded": "length",
    }.get(reason or "", "stop")  # fmt: skip
    if isinstance(usage, dict):
        read, write = number(usage.get("cacheReadInputTokens")), number(usage.get("cacheWriteInputTokens"))
        truth.usage = {
            "prompt": number(usage.get("inputTokens")) + read + write,
            "completion": number(usage.get("outputTokens")),
            "cached": read,
            "cache_write": write,
            "reasoning": 0,
        }


def read_bedrock_stream(events: Sequence[JSON]) -> Truth:
    truth = Truth()
    blocks: dict[int, JSON] = {}
    reason, usage = None, None
    for event in events:
        if start := event.get("contentBlockStart"):
            blocks[start["contentBlockIndex"]] = {**start.get("start", {}), "json": ""}
        elif piece := event.get("contentBlockDelta"):
            block, delta = blocks.setdefault(piece["contentBlockIndex"], {"json": ""}), piece["delta"]
            if "text" in delta:
                block["text"] = block.get("text", "") + delta["text"]
            elif "toolUse" in delta:
                block["json"] += delta["toolUse"]["input"]
            elif "reasoningContent" in delta:
                thought = block.setdefault("reasoningContent", {"reasoningText": {}})
                inner = delta["reasoningContent"]
                for name in ("text", "signature"):
                    if name in inner:
                        thought["reasoningText"][name] = thought["reasoningText"].get(name, "") + inner[name]
                if "redactedContent" in inner:
                    thought["redactedContent"] = inner["redactedContent"]
        elif stop := event.get("messageStop"):
            reason = stop.get("stopReason")
        elif meta := event.get("metadata"):
            usage = meta.get("usage")
    for _, block in sorted(blocks.items()):
        if "toolUse" in block:
            block["toolUse"] = {**block["toolUse"], "input": block["json"]}
        _add_bedrock_block(truth, block)
    _end_bedrock(truth, reason, usage)
    return truth.settled()


def read_cohere(body: JSON) -> Truth:
    truth = Truth()
    _add_cohere_message(truth, body.get("message") or {})
    _end_cohere(truth, body.get("finish_reason"), body.get("usage"))
    return truth.settled()


def _add_cohere_message(truth: Truth, message: JSON) -> None:
    truth.thinking += message.get("tool_plan") or ""
    content = message.get("content") or ()
    for part in [content] if isinstance(content, dict) else content:
        truth.text += part.get("text") or ""
        truth.thinking += part.get("thinking") or ""
    for call in message.get("tool_calls") or ():
        truth.tools.append((call["function"]["name"], canonical(call["function"]["arguments"])))


def _end_cohere(truth: Truth, reason: Any, usage: Any) -> None:
    truth.finish = {"COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}.get(
        reason or "", "stop"
    )
    tokens = dig(usage, "tokens") or dig(usage, "billed_units")
    if isinstance(tokens, dict):
        truth.usage = {
            "prompt": number(tokens.get("input_tokens")),
            "completion": number(tokens.get("output_tokens")),
            "cached": number(dig(usage, "cached_tokens")),
            "cache_write": 0,
            "reasoning": 0,
        }


def read_cohere_stream(events: Sequence[JSON]) -> Truth:
    truth = Truth()
    calls: dict[int, list[str]] = {}
    for event in events:
        message = dig(event, "delta", "message") or {}
        match event.get("type"):
            case "content-start" | "content-delta":
                _add_cohere_message(truth, {"content": message.get("content")})
            case "tool-plan-delta":
                truth.thinking += message.get("tool_plan") or ""
            case "tool-call-start" | "tool-call-delta":
                function = message["tool_calls"]["function"]
                entry = calls.setdefault(event.get("index") or 0, ["", ""])
                entry[0] += function.get("name") or ""
                entry[1] += function.get("arguments") or ""
            case "message-end":
                _end_cohere(truth, event["delta"].get("finish_reason"), event["delta"].get("usage"))
            case _:
                pass
    truth.tools = [(name, canonical(arguments)) for _, (name, arguments) in sorted(calls.items())]
    return truth.settled()


def read_ollama(body: JSON) -> Truth:
    return read_ollama_stream([body])


def read_ollama_stream(events: Sequence[JSON]) -> Truth:
    truth = Truth()
    for event in events:
        message = event.get("message") or {}
        truth.text += message.get("content") or event.get("response") or ""
        truth.thinking += message.get("thinking") or event.get("thinking") or ""
        for call in message.get("tool_calls") or ():
            truth.tools.append((call["function"]["name"], canonical(call["function"]["arguments"])))
        if event.get("done"):
            truth.finish = {"length": "length"}.get(event.get("done_reason") or "stop", "stop")
            truth.usage = {
                "prompt": number(event.get("prompt_eval_count")),
                "completion": number(event.get("eval_count")),
                "cached": 0,
                "cache_write": 0,
                "reasoning": 0,
            }
    return truth.settled()


def read_completion(body: JSON) -> Truth:
    return read_completion_stream([body])


def read_completion_stream(events: Sequence[JSON]) -> Truth:
    truth = Truth()
    for event in events:
        if event.get("usage"):
            truth.usage = chat_usage(event["usage"])
        for choice in event.get("choices") or ():
            if choice.get("index"):
                continue
            truth.text += choice.get("text") or ""
            if reason := choice.get("finish_reason"):
                truth.finish = _CHAT_FINISH.get(reason, reason)
    return truth.settled()


Reader = Callable[[Any], Truth]
READERS: dict[str, tuple[Reader, Reader]] = {
    "openai_chat": (read_chat, read_chat_stream),
    "openai_responses": (read_responses, read_responses_stream),
    "anthropic": (read_anthropic, read_anthropic_stream),
    "gemini": (read_gemini, read_gemini_stream),
    "bedrock": (read_bedrock, read_bedrock_stream),
    "cohere": (read_cohere, read_cohere_stream),
    "ollama": (read_ollama, read_ollama_stream),
    "openai_completions": (read_completion, read_completion_stream),
}


def differences(said: Truth, seen: Truth, seen_in: str, *, is_same: bool) -> list[str]:
    """What the second account lacks or changes; nothing where both say the same.

    `seen_in` is the format of the second: what it has no words for is not held against it. Google's has none for
    writing to a cache, nor for a pause; OpenAI's chat none for a pause.
    """
    found: list[str] = []
    if said.text != seen.text:
        found.append(f"text {said.text[:60]!r} became {seen.text[:60]!r}")
    if said.tools != seen.tools:
        found.append(f"calls {said.tools} became {seen.tools}"[:200])
    # Formats part thoughts in different ways; what stays in its own is sent back to its vendor byte by byte.
    spaced = (said.thinking, seen.thinking)
    thoughts = spaced if is_same else tuple("".join(text.split()) for text in spaced)
    if thoughts[0] != thoughts[1]:
        found.append(f"thinking {said.thinking[:60]!r} became {seen.thinking[:60]!r}")
    if lost := [one[:20] for one in said.signatures if one not in seen.signatures]:
        found.append(f"signatures lost: {lost[:3]}")
    elif is_same and said.signatures != seen.signatures:
        found.append("signatures stand in another order, or twice")
    if said.images > seen.images:
        found.append(f"{said.images} images became {seen.images}")
    wanted = said.finish
    if wanted == "pause" and not (is_same or seen_in == "anthropic"):
        wanted = "tool_calls" if said.tools else "stop"
    if wanted and wanted != seen.finish:
        found.append(f"finish {wanted} became {seen.finish}")
    for name, count in said.usage.items():
        if name == "cache_write" and seen_in in ("gemini", "cohere", "ollama"):
            continue
        if count != seen.usage.get(name, 0):
            found.append(f"{name} tokens {count} became {seen.usage.get(name, 0)}")
    return found
