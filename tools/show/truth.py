"""Independent readers of vendor responses, which share no code with the product and
serve as the reference for tests.

Each reader takes one vendor's response, complete or as the events of a stream, and
returns a `Truth`.
"""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]


@dataclass
class Truth:
    """The facts of one response, independent of its format."""

    text: str = ""
    tools: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(name, arguments) of each call, with the arguments as canonical JSON."""
    thinking: str = ""
    signatures: list[str] = field(default_factory=list[str])
    finish: str = ""
    usage: dict[str, int] = field(default_factory=dict[str, int])
    """Token counts: prompt and completion are totals; cached, cache_write and reasoning
    are parts of them."""
    images: int = 0

    def without_tags(self) -> None:
        """Move thinking from the text to `thinking`: some servers write it between tags
        at the start of the text."""
        head, _, answer_text = self.text.lstrip().partition("</think>")
        if head.startswith("<think>"):  # an answer cut short may be all thought
            self.thinking += head.removeprefix("<think>")
            self.text = answer_text.lstrip()

    def settled(self) -> "Truth":
        """Return self with one spelling for the end at tool calls: not all formats
        distinguish it from a normal stop."""
        if self.tools and self.finish == "stop":
            self.finish = "tool_calls"
        return self


def canonical(arguments: Any) -> str:
    """Return arguments as JSON with sorted keys; text that is not valid JSON is
    returned unchanged."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            return arguments
    # Claude is given invalid arguments under this key; unwrap them again.
    if isinstance(arguments, dict) and arguments.keys() == {"INVALID_JSON"}:
        return str(arguments["INVALID_JSON"])
    return json.dumps(arguments or {}, sort_keys=True)


def number(value: Any) -> int:
    """Return a token count as an integer; 0 for anything that is not a finite number of
    at least 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        return 0
    return max(0, int(value))


def dig(body: Any, *path: str) -> Any:
    """Return the value at a path of keys; None if any step is missing."""
    for name in path:
        body = body.get(name) if isinstance(body, dict) else None
    return body


# -------------------------------------------------------------------------- OpenAI chat

# Other servers that use this format return finish reasons of their own.
_CHAT_FINISH = {
    "function_call": "tool_calls",
    "eos": "stop",
    "end_turn": "stop",
    "COMPLETE": "stop",
    "model_length": "length",
    "MAX_TOKENS": "length",
    "max_tokens": "length",
}


def read_chat(body: JSON) -> Truth:
    """Read a complete chat completion."""
    truth = Truth()
    choice = body["choices"][0]
    _add_chat_message(truth, choice.get("message") or {})
    reason = choice.get("finish_reason") or ""
    truth.finish = _CHAT_FINISH.get(reason, reason)
    truth.usage = chat_usage(body.get("usage"))
    return truth.settled()


def _add_chat_message(truth: Truth, message: JSON) -> None:
    """Add the facts of a message or of a stream's delta."""
    content = message.get("content")
    # Servers differ in the field for thinking; a server that sends both fields repeats
    # the text in them.
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    if isinstance(content, list):
        thinking += _add_chat_parts(truth, content)
    else:
        truth.text += content or ""
    truth.text += message.get("refusal") or ""
    details = message.get("reasoning_details") or ()
    truth.thinking += thinking or "".join(
        detail.get("text") or detail.get("summary") or "" for detail in details
    )
    signatures = (detail.get("signature") or detail.get("data") for detail in details)
    truth.signatures += filter(None, signatures)
    _add_chat_calls(truth, message)
    truth.images += len(message.get("images") or ())


def _add_chat_parts(truth: Truth, parts: Sequence[JSON]) -> str:
    """Add the text of content parts, and return the thinking in them."""
    thinking = ""
    for part in parts:
        if part.get("type") == "text":
            truth.text += part["text"]
        elif part.get("type") == "thinking":
            thinking += "".join(
                fragment.get("text", "") for fragment in part["thinking"]
            )
    return thinking


def _add_chat_calls(truth: Truth, message: JSON) -> None:
    """Add the calls of a complete message."""
    for call in message.get("tool_calls") or ():
        inner = call.get("function") or call.get("custom") or {}
        arguments = canonical(inner.get("arguments", inner.get("input")))
        truth.tools.append((inner.get("name") or "", arguments))
    # The format's older way to call a function, which some servers still use.
    if old := message.get("function_call"):
        truth.tools.append((old["name"], canonical(old.get("arguments"))))


def chat_usage(usage: Any) -> dict[str, int]:
    """Read token counts of the chat completions format; empty if the response has none."""
    if not isinstance(usage, dict):
        return {}
    reasoning_tokens = number(
        dig(usage, "completion_tokens_details", "reasoning_tokens")
    )
    prompt, completion = (
        number(usage.get("prompt_tokens")),
        number(usage.get("completion_tokens")),
    )
    is_apart = (
        reasoning_tokens
        and number(usage.get("total_tokens")) == prompt + completion + reasoning_tokens
    )  # so does xAI count
    return {
        "prompt": prompt,
        "completion": completion + (reasoning_tokens if is_apart else 0),
        "cached": number(dig(usage, "prompt_tokens_details", "cached_tokens"))
        or number(usage.get("prompt_cache_hit_tokens")),
        "cache_write": number(
            dig(usage, "prompt_tokens_details", "cache_write_tokens")
        ),
        "reasoning": number(dig(usage, "completion_tokens_details", "reasoning_tokens"))
        or number(usage.get("reasoning_tokens")),
    }


def read_chat_stream(events: Sequence[JSON]) -> Truth:
    """Read the chunks of a streamed chat completion. Only the first choice is read."""
    truth = Truth()
    calls = _StreamedCalls()
    for event in events:
        # Groq reports usage in a field of its own.
        stated = event.get("usage") or dig(event, "x_groq", "usage")
        if stated:
            truth.usage = chat_usage(stated)
        for choice in _first_choices(event.get("choices")):
            delta = choice.get("delta") or {}
            calls.add_delta(delta)
            _add_chat_message(truth, _without_calls(delta))
            if reason := choice.get("finish_reason"):
                truth.finish = _CHAT_FINISH.get(reason, reason)
    truth.tools = calls.complete()
    return truth.settled()


def _first_choices(choices: Any) -> list[Any]:
    """Return the entries of an event that belong to the first choice."""
    return [choice for choice in choices or () if not choice.get("index")]


def _without_calls(delta: JSON) -> JSON:
    """Return a delta without its calls, which `_StreamedCalls` reads."""
    return {
        key: value
        for key, value in delta.items()
        if key not in ("tool_calls", "function_call")
    }


@dataclass
class _StreamedCalls:
    """The calls of a streamed chat completion, which arrive in fragments."""

    calls: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    """Index to [name, arguments]."""
    last_index: int = -1

    def add_delta(self, delta: JSON) -> None:
        """Add the fragments of one delta."""
        for call in delta.get("tool_calls") or ():
            self._add_fragment(call)
        if old := delta.get("function_call"):
            entry = self.calls.setdefault(0, ["", ""])
            entry[0] += old.get("name") or ""
            entry[1] += old.get("arguments") or ""

    def _add_fragment(self, call: JSON) -> None:
        inner = call.get("function") or call.get("custom") or {}
        index = call.get("index")
        # Servers that send no index start a new call with each id and continue the
        # last call without one.
        if index is None:
            index = self.last_index + 1 if call.get("id") else self.last_index
        self.last_index = index
        entry = self.calls.setdefault(index, ["", ""])
        # Some servers repeat the name in every fragment.
        entry[0] = entry[0] or inner.get("name") or ""
        arguments = inner.get("arguments", inner.get("input"))
        if isinstance(arguments, str):
            entry[1] += arguments
        elif arguments:
            entry[1] += json.dumps(arguments)

    def complete(self) -> list[tuple[str, str]]:
        """Return (name, canonical arguments) of each call."""
        return [(name, canonical(arguments)) for name, arguments in self.calls.values()]


# OpenAI Responses


def read_responses(body: JSON) -> Truth:
    """Read a complete response of the Responses API."""
    truth = Truth()
    for item in body["output"]:
        _add_item(truth, item)
    _end_response(truth, body)
    return truth.settled()


def _add_item(truth: Truth, item: JSON) -> None:
    """Add the facts of one output item; other item types have none."""
    match item.get("type"):
        case "message":
            for part in item.get("content") or ():
                truth.text += part.get("text") or part.get("refusal") or ""
        case "function_call":
            truth.tools.append((item["name"], canonical(item["arguments"])))
        case "custom_tool_call":
            truth.tools.append((item["name"], canonical(item["input"])))
        case "reasoning":
            texts = [
                fragment["text"]
                for fragment in (item.get("content") or item.get("summary") or ())
            ]
            truth.thinking += "\n\n".join(texts)
            if item.get("encrypted_content"):
                truth.signatures.append(item["encrypted_content"])
        case "image_generation_call":
            truth.images += 1
        case _:
            pass


def _end_response(truth: Truth, body: JSON) -> None:
    """Add the finish reason and the token counts of the complete response."""
    # The API reports a reason only for incomplete responses.
    reason = dig(body, "incomplete_details", "reason")
    truth.finish = {
        "max_output_tokens": "length",
        "content_filter": "content_filter",
    }.get(reason or "", "stop")
    usage = body.get("usage")
    if isinstance(usage, dict):
        truth.usage = {
            "prompt": number(usage.get("input_tokens")),
            "completion": number(usage.get("output_tokens")),
            "cached": number(dig(usage, "input_tokens_details", "cached_tokens")),
            "cache_write": number(
                dig(usage, "input_tokens_details", "cache_write_tokens")
            ),
            "reasoning": number(
                dig(usage, "output_tokens_details", "reasoning_tokens")
            ),
        }


def read_responses_stream(events: Sequence[JSON]) -> Truth:
    """Read a stream by its deltas, which clients display, and not by the complete
    response that the last event repeats."""
    truth = Truth()
    deltas = _ItemDeltas()
    for event in events:
        match event.get("type"):
            # The final item has the metadata; its text is replaced by the sum of the
            # deltas.
            case "response.output_item.done":
                output_index = event.get("output_index") or 0
                _add_item(truth, deltas.fill(output_index, event["item"]))
            case "response.completed" | "response.incomplete":
                _end_response(truth, event["response"])
            case _:
                deltas.add(event)
    return truth.settled()


@dataclass
class _ItemDeltas:
    """The sums of the deltas of each output item, by its index in the output."""

    texts: dict[int, str] = field(default_factory=dict[int, str])
    calls: dict[int, str] = field(default_factory=dict[int, str])
    """The arguments of each call."""
    thoughts: dict[int, dict[int, str]] = field(
        default_factory=dict[int, dict[int, str]]
    )
    """The thinking of each item, by the index of its part."""

    def add(self, event: JSON) -> None:
        """Add the text of an event; events of other types have none."""
        output_index = event.get("output_index") or 0
        match event.get("type"):
            case "response.output_text.delta" | "response.refusal.delta":
                _extend(self.texts, output_index, event["delta"])
            case (
                "response.function_call_arguments.delta"
                | "response.custom_tool_call_input.delta"
            ):
                _extend(self.calls, output_index, event["delta"])
            case (
                "response.reasoning_summary_text.delta"
                | "response.reasoning_text.delta"
            ):
                part_index = event.get("summary_index", event.get("content_index")) or 0
                item_thoughts = self.thoughts.setdefault(output_index, {})
                _extend(item_thoughts, part_index, event["delta"])
            case _:
                pass

    def fill(self, output_index: int, final_item: JSON) -> JSON:
        """Return a copy of the final item with the sums of its deltas."""
        item = dict(final_item)
        if output_index in self.texts:
            item["content"] = [{"text": self.texts[output_index]}]
        if output_index in self.calls:
            is_function = item["type"] == "function_call"
            item["arguments" if is_function else "input"] = self.calls[output_index]
        if output_index in self.thoughts:
            item_thoughts = sorted(self.thoughts[output_index].items())
            item["content"] = [{"text": text} for _, text in item_thoughts]
        return item


def _extend(texts: dict[Any, str], key: Any, delta: str) -> None:
    """Append a delta to the text under a key."""
    texts[key] = texts.get(key, "") + delta


# Anthropic

_ANTHROPIC_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "content_filter",
    "compaction": "pause",
}


def read_anthropic(body: JSON) -> Truth:
    """Read a complete message."""
    truth = Truth()
    for block in body["content"]:
        _add_block(truth, block)
    reason = body.get("stop_reason") or ""
    truth.finish = _ANTHROPIC_FINISH.get(reason, reason)
    truth.usage = anthropic_usage(body.get("usage"))
    return truth.settled()


def _add_block(truth: Truth, block: JSON) -> None:
    """Add the facts of one content block; other block types have none."""
    match block.get("type"):
        case "text":
            truth.text += block["text"]
        case "thinking":
            truth.thinking += block["thinking"]
            if block.get("signature"):
                truth.signatures.append(block["signature"])
        # Encrypted thinking has no text; it has to be sent back unchanged, like a
        # signature.
        case "redacted_thinking":
            truth.signatures.append(block["data"])
        case "tool_use":
            truth.tools.append((block["name"], canonical(block["input"])))
        case "image":
            truth.images += 1
        case _:
            pass


def anthropic_usage(usage: Any) -> dict[str, int]:
    """Read token counts; Anthropic's input tokens do not include the cached ones, so
    they are added."""
    if not isinstance(usage, dict):
        return {}
    read, write = (
        number(usage.get("cache_read_input_tokens")),
        number(usage.get("cache_creation_input_tokens")),
    )
    return {
        "prompt": number(usage.get("input_tokens")) + read + write,
        "completion": number(usage.get("output_tokens")),
        "cached": read,
        "cache_write": write,
        "reasoning": number(dig(usage, "output_tokens_details", "thinking_tokens")),
    }


def read_anthropic_stream(events: Sequence[JSON]) -> Truth:
    """Read the events of a streamed message."""
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
                _extend_block(blocks[event["index"]], event["delta"])
            case "message_delta":
                # The last event repeats some counts as null, which must not overwrite
                # the earlier ones.
                usage.update(_without_nulls(event.get("usage") or {}))
                reason = event["delta"].get("stop_reason") or ""
                truth.finish = _ANTHROPIC_FINISH.get(reason, reason)
            case _:
                pass
    for _, block in sorted(blocks.items()):
        _add_streamed_block(truth, block)
    truth.usage = anthropic_usage(usage)
    return truth.settled()


def _extend_block(block: JSON, delta: JSON) -> None:
    """Append a delta to its content block."""
    for name in ("text", "thinking", "signature"):
        if delta["type"] == f"{name}_delta":
            _extend(block, name, delta[name])
    if delta["type"] == "input_json_delta":
        block["json"] += delta["partial_json"]


def _without_nulls(fields: JSON) -> JSON:
    """Return the fields that are not null."""
    return {key: value for key, value in fields.items() if value is not None}


def _add_streamed_block(truth: Truth, block: JSON) -> None:
    """Add the facts of a block whose events have all been read."""
    # The input of a call arrives as fragments of JSON text and is complete only now.
    if block["json"] and block["type"] == "tool_use":
        is_valid = _is_json(block["json"])
        block["input"] = json.loads(block["json"]) if is_valid else block["json"]
    _add_block(truth, block)


def _is_json(text: str) -> bool:
    """Return whether the text is valid JSON."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


# Google

_GOOGLE_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "": ""}
_GOOGLE_FILTERS = {
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "LANGUAGE",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "MODEL_ARMOR",
}


def read_gemini(body: JSON) -> Truth:
    """Read a complete response, which has the same shape as one event of a stream."""
    return read_gemini_stream([body])


def read_gemini_stream(events: Sequence[JSON]) -> Truth:
    """Read the events of a streamed response. Only the first candidate is read."""
    truth = Truth()
    usage: Any = None
    calls: list[JSON] = []
    for event in events:
        usage = event.get("usageMetadata") or usage
        candidates = event.get("candidates") or ()
        for candidate in _first_choices(candidates):
            _add_google_candidate(truth, calls, candidate)
        # A blocked prompt has no candidates at all; the reason is in the feedback.
        if not candidates and dig(event, "promptFeedback", "blockReason"):
            truth.finish = "content_filter"
    truth.tools = [(call["name"], canonical(call["args"])) for call in calls]
    if isinstance(usage, dict):
        truth.usage = _google_usage(usage)
    return truth.settled()


def _add_google_candidate(truth: Truth, calls: list[JSON], candidate: JSON) -> None:
    """Add the parts and the finish reason of a candidate; its calls go to `calls`."""
    for part in dig(candidate, "content", "parts") or ():
        if "functionCall" not in part:
            _add_google_part(truth, part)
            continue
        if part.get("thoughtSignature"):
            truth.signatures.append(part["thoughtSignature"])
        _add_google_call(calls, part["functionCall"])
    reason = candidate.get("finishReason") or ""
    if reason in _GOOGLE_FILTERS:
        truth.finish = "content_filter"
    elif reason:
        truth.finish = _GOOGLE_FINISH.get(reason, "stop")


def _google_usage(usage: JSON) -> dict[str, int]:
    """Read token counts. Google counts the prompts of built-in tools and the thinking
    separately, so they are added."""
    thoughts = number(usage.get("thoughtsTokenCount"))
    return {
        "prompt": number(usage.get("promptTokenCount"))
        + number(usage.get("toolUsePromptTokenCount")),
        "completion": number(usage.get("candidatesTokenCount")) + thoughts,
        "cached": number(usage.get("cachedContentTokenCount")),
        "cache_write": 0,
        "reasoning": thoughts,
    }


def _add_google_call(calls: list[JSON], part: JSON) -> None:
    """Add a complete call, or a fragment to the call that is open."""
    if part.get("name") or not calls:
        arguments = dict(part.get("args") or {})
        calls.append({"name": part.get("name") or "", "args": arguments})
    for partial in part.get("partialArgs") or ():
        _add_google_argument(calls[-1]["args"], partial)


def _add_google_argument(arguments: JSON, partial: JSON) -> None:
    """Add a fragment to the arguments of a call.

    Fragments in the recordings extend strings one level deep and lists in them,
    addressed by a JSON path.
    """
    path = partial["jsonPath"].removeprefix("$.")
    steps = path.replace("[", ".").replace("]", "").split(".")
    container: Any = arguments
    # Walk down the path and create the missing objects and lists on the way.
    for step, following in itertools.pairwise(steps):
        new_container: Any = [] if following.isdigit() else {}
        if not _has_key(container, step):
            _put(container, step, new_container)
        container = container[_key_of(container, step)]
    value = _google_value(partial)
    # A later fragment for the same position continues the string.
    if _has_key(container, steps[-1]) and isinstance(value, str):
        container[_key_of(container, steps[-1])] += value
    else:
        _put(container, steps[-1], value)


def _google_value(partial: JSON) -> Any:
    """Return the value of a fragment, which is in a field named for its type."""
    for value_field in ("stringValue", "numberValue", "boolValue"):
        if value_field in partial:
            return partial[value_field]
    return None


def _key_of(container: Any, step: str) -> Any:
    """Return a step of a path as an index of a list or a key of an object."""
    return int(step) if isinstance(container, list) else step


def _has_key(container: Any, step: str) -> bool:
    """Return whether a list is long enough for the step, or an object has the key."""
    if isinstance(container, list):
        return int(step) < len(container)
    return step in container


def _put(container: Any, step: str, value: Any) -> None:
    """Set the value at a step; a list without that position is extended by it."""
    if isinstance(container, list) and not _has_key(container, step):
        container.append(value)
    else:
        container[_key_of(container, step)] = value


def _add_google_part(truth: Truth, part: JSON) -> None:
    """Add the facts of a part that is not a call."""
    if signature := part.get("thoughtSignature"):
        truth.signatures.append(signature)
    if "text" in part:
        if part.get("thought"):
            truth.thinking += part["text"]
        else:
            truth.text += part["text"]
    elif str(dig(part, "inlineData", "mimeType") or "").startswith("image/"):
        truth.images += 1


# Other vendors


def read_bedrock(body: JSON) -> Truth:
    """Read a complete Converse response."""
    truth = Truth()
    for block in body["output"]["message"]["content"]:
        _add_bedrock_block(truth, block)
    _end_bedrock(truth, body.get("stopReason"), body.get("usage"))
    return truth.settled()


def _add_bedrock_block(truth: Truth, block: JSON) -> None:
    """Add the facts of one content block."""
    if "text" in block:
        truth.text += block["text"]
    elif "toolUse" in block:
        call = block["toolUse"]
        # Tools that run on the server are not calls to the caller's tools.
        if call.get("type") != "server_tool_use":
            truth.tools.append((call["name"], canonical(call["input"])))
    elif "citationsContent" in block:
        fragments = block["citationsContent"].get("content") or ()
        truth.text += "".join(fragment.get("text", "") for fragment in fragments)
    elif "reasoningContent" in block:
        _add_bedrock_thought(truth, block["reasoningContent"])


def _add_bedrock_thought(truth: Truth, thought: JSON) -> None:
    """Add the text and the signature of a block of thinking."""
    truth.thinking += dig(thought, "reasoningText", "text") or ""
    signature = dig(thought, "reasoningText", "signature") or thought.get(
        "redactedContent"
    )
    if signature:
        truth.signatures.append(signature)


def _end_bedrock(truth: Truth, reason: Any, usage: Any) -> None:
    """Add the finish reason and the token counts; cached tokens are not part of
    Bedrock's input tokens."""
    truth.finish = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "tool_use": "tool_calls",
        "guardrail_intervened": "content_filter",
        "content_filtered": "content_filter",
        "model_context_window_exceeded": "length",
    }.get(reason or "", "stop")
    if isinstance(usage, dict):
        read, write = (
            number(usage.get("cacheReadInputTokens")),
            number(usage.get("cacheWriteInputTokens")),
        )
        truth.usage = {
            "prompt": number(usage.get("inputTokens")) + read + write,
            "completion": number(usage.get("outputTokens")),
            "cached": read,
            "cache_write": write,
            "reasoning": 0,
        }


def read_bedrock_stream(events: Sequence[JSON]) -> Truth:
    """Read the events of a streamed Converse response."""
    truth = Truth()
    blocks: dict[int, JSON] = {}
    reason, usage = None, None
    for event in events:
        if start := event.get("contentBlockStart"):
            blocks[start["contentBlockIndex"]] = {**start.get("start", {}), "json": ""}
        elif block_delta := event.get("contentBlockDelta"):
            # Text blocks have no start event, so the block may not exist yet.
            block = blocks.setdefault(block_delta["contentBlockIndex"], {"json": ""})
            _extend_bedrock_block(block, block_delta["delta"])
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


def _extend_bedrock_block(block: JSON, delta: JSON) -> None:
    """Append a delta to its content block."""
    if "text" in delta:
        _extend(block, "text", delta["text"])
    elif "toolUse" in delta:
        block["json"] += delta["toolUse"]["input"]
    elif "reasoningContent" in delta:
        thought = block.setdefault("reasoningContent", {"reasoningText": {}})
        thought_delta = delta["reasoningContent"]
        for name in ("text", "signature"):
            if name in thought_delta:
                _extend(thought["reasoningText"], name, thought_delta[name])
        if "redactedContent" in thought_delta:
            thought["redactedContent"] = thought_delta["redactedContent"]


def read_cohere(body: JSON) -> Truth:
    """Read a complete chat response of the v2 API."""
    truth = Truth()
    _add_cohere_message(truth, body.get("message") or {})
    _end_cohere(truth, body.get("finish_reason"), body.get("usage"))
    return truth.settled()


def _add_cohere_message(truth: Truth, message: JSON) -> None:
    """Add the facts of a message or of a stream's delta. The plan before tool calls
    counts as thinking."""
    truth.thinking += message.get("tool_plan") or ""
    content = message.get("content") or ()
    for part in [content] if isinstance(content, dict) else content:
        truth.text += part.get("text") or ""
        truth.thinking += part.get("thinking") or ""
    for call in message.get("tool_calls") or ():
        truth.tools.append(
            (call["function"]["name"], canonical(call["function"]["arguments"]))
        )


def _end_cohere(truth: Truth, reason: Any, usage: Any) -> None:
    """Add the finish reason and the token counts."""
    truth.finish = {
        "COMPLETE": "stop",
        "STOP_SEQUENCE": "stop",
        "MAX_TOKENS": "length",
        "TOOL_CALL": "tool_calls",
    }.get(reason or "", "stop")
    # Some responses report only the billed tokens.
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
    """Read the events of a streamed chat response."""
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
                _end_cohere(
                    truth,
                    event["delta"].get("finish_reason"),
                    event["delta"].get("usage"),
                )
            case _:
                pass
    truth.tools = [
        (name, canonical(arguments)) for _, (name, arguments) in sorted(calls.items())
    ]
    return truth.settled()


def read_ollama(body: JSON) -> Truth:
    """Read a complete response, which has the same shape as one line of a stream."""
    return read_ollama_stream([body])


def read_ollama_stream(events: Sequence[JSON]) -> Truth:
    """Read the lines of a streamed response of the chat or generate endpoint."""
    truth = Truth()
    for event in events:
        message = event.get("message") or {}
        truth.text += message.get("content") or event.get("response") or ""
        truth.thinking += message.get("thinking") or event.get("thinking") or ""
        for call in message.get("tool_calls") or ():
            truth.tools.append(
                (call["function"]["name"], canonical(call["function"]["arguments"]))
            )
        # Only the last line has the reason and the counts.
        if event.get("done"):
            truth.finish = {"length": "length"}.get(
                event.get("done_reason") or "stop", "stop"
            )
            truth.usage = {
                "prompt": number(event.get("prompt_eval_count")),
                "completion": number(event.get("eval_count")),
                "cached": 0,
                "cache_write": 0,
                "reasoning": 0,
            }
    return truth.settled()


def read_completion(body: JSON) -> Truth:
    """Read a complete text completion, which has the same shape as a chunk of a stream."""
    return read_completion_stream([body])


def read_completion_stream(events: Sequence[JSON]) -> Truth:
    """Read the chunks of a streamed text completion. Only the first choice is read."""
    truth = Truth()
    for event in events:
        if event.get("usage"):
            truth.usage = chat_usage(event["usage"])
        for choice in _first_choices(event.get("choices")):
            truth.text += choice.get("text") or ""
            if reason := choice.get("finish_reason"):
                truth.finish = _CHAT_FINISH.get(reason, reason)
    return truth.settled()


Reader = Callable[[Any], Truth]
# Format to (reader of complete responses, reader of a stream's events).
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


def differences(
    expected: Truth, actual: Truth, actual_format: str, *, is_same: bool
) -> list[str]:
    """Return what `actual` lacks or changes compared with `expected`; empty if nothing.

    `actual_format` is the format of `actual`: what it cannot express is not a
    difference. Google's format cannot express cache writes or a pause; OpenAI's chat
    format cannot express a pause. `is_same` means that both have the same format.
    """
    problems: list[str] = []
    if expected.text != actual.text:
        problems.append(f"text {expected.text[:60]!r} became {actual.text[:60]!r}")
    if expected.tools != actual.tools:
        problems.append(f"calls {expected.tools} became {actual.tools}"[:200])
    problems += _thinking_differences(expected, actual, is_same=is_same)
    if expected.images > actual.images:
        problems.append(f"{expected.images} images became {actual.images}")
    has_pause = is_same or actual_format == "anthropic"
    expected_finish = _expected_finish(expected, has_pause=has_pause)
    if expected_finish and expected_finish != actual.finish:
        problems.append(f"finish {expected_finish} became {actual.finish}")
    return problems + _usage_differences(expected, actual, actual_format)


def _thinking_differences(
    expected: Truth, actual: Truth, *, is_same: bool
) -> list[str]:
    """Return the differences in the thinking and its signatures."""
    problems: list[str] = []
    # Formats split thinking differently, so whitespace is ignored between formats. In
    # the same format it must be unchanged: vendors get it back byte by byte.
    spaced = (expected.thinking, actual.thinking)
    thoughts = spaced if is_same else tuple("".join(text.split()) for text in spaced)
    if thoughts[0] != thoughts[1]:
        problems.append(
            f"thinking {expected.thinking[:60]!r} became {actual.thinking[:60]!r}"
        )
    lost_signatures = [
        signature[:20]
        for signature in expected.signatures
        if signature not in actual.signatures
    ]
    if lost_signatures:
        problems.append(f"signatures lost: {lost_signatures[:3]}")
    elif is_same and expected.signatures != actual.signatures:
        problems.append("signatures stand in another order, or twice")
    return problems


def _expected_finish(expected: Truth, *, has_pause: bool) -> str:
    """Return the finish reason as a format states it. A pause in the middle of a turn
    reads as a normal end in formats that do not have it."""
    if expected.finish != "pause" or has_pause:
        return expected.finish
    return "tool_calls" if expected.tools else "stop"


def _usage_differences(expected: Truth, actual: Truth, actual_format: str) -> list[str]:
    """Return the token counts that changed."""
    problems: list[str] = []
    for name, count in expected.usage.items():
        # These formats have no field for tokens written to a cache.
        if name == "cache_write" and actual_format in ("gemini", "cohere", "ollama"):
            continue
        actual_count = actual.usage.get(name, 0)
        if count != actual_count:
            problems.append(f"{name} tokens {count} became {actual_count}")
    return problems
