"""Chat completions and text completions: streams folded to documents, documents read."""

from collections.abc import Sequence
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
    data_url,
    dig,
    digest,
    number,
    plain_signature,
)

# Other servers that use this format return finish reasons of their own.
_FINISH = {
    "function_call": "tool_calls",
    "eos": "stop",
    "end_turn": "stop",
    "COMPLETE": "stop",
    "model_length": "length",
    "MAX_TOKENS": "length",
    "max_tokens": "length",
}
_IDENTITY = ("id", "created", "model")
_JOINED = ("content", "reasoning_content", "reasoning", "refusal", "text")


def fold_chat(events: Sequence[JSON], problems: list[str]) -> JSON:
    """Return the completion that the chunks of a stream amount to."""
    document: JSON = {}
    choices: dict[int, JSON] = {}
    for event in events:
        _extend_document(document, event)
        for choice in event.get("choices") or ():
            index = choice.get("index") or 0
            _extend_choice(choices.setdefault(index, {"index": index}), choice)
    for choice in choices.values():
        if not choice.get("finish_reason"):
            problems.append(UNENDED)
        choice["message"] = _closed_message(choice.get("message") or {})
    document["choices"] = [choices[index] for index in sorted(choices)]
    return document


def _extend_document(document: JSON, event: JSON) -> None:
    """Add the fields of an event. Its id, time and model are those of the first one."""
    for name, value in event.items():
        is_stated = name in _IDENTITY and document.get(name)
        if name != "choices" and value is not None and not is_stated:
            document[name] = value


def _extend_choice(choice: JSON, chunk: JSON) -> None:
    """Add one chunk of a choice."""
    for name, value in chunk.items():
        # Some servers repeat the message so far beside the delta.
        if name in ("index", "delta", "message") or value is None:
            continue
        if name == "logprobs":
            _extend_logprobs(choice, value)
        elif name == "text":
            append(choice, name, value)
        else:
            choice[name] = value
    _extend_message(choice.setdefault("message", {}), chunk.get("delta") or {})


def _extend_logprobs(choice: JSON, logprobs: JSON) -> None:
    """Add the log probabilities of one chunk."""
    target = choice.setdefault("logprobs", {})
    for name, value in logprobs.items():
        if isinstance(value, list):
            target[name] = [*(target.get(name) or []), *value]


def _extend_message(message: JSON, delta: JSON) -> None:
    """Add one delta to a message."""
    for name, value in delta.items():
        if value is None:
            message.setdefault(name, None)
        elif name == "tool_calls":
            _extend_calls(message.setdefault("calls", {}), value)
        elif name in ("function_call", "audio"):
            message[name] = _extended(message.get(name) or {}, value)
        elif name in _JOINED and isinstance(value, str):
            _extend_content(message, name, value)
        elif isinstance(value, list):
            _extend_list(message, name, value)
        else:
            message[name] = value


def _extended(fields: JSON, fragment: JSON) -> JSON:
    """Return an object with a fragment added: of a call in the older form, or of
    speech."""
    for name, value in fragment.items():
        if name in ("name", "arguments", "data", "transcript"):
            append(fields, name, value)
        else:
            fields[name] = value
    return fields


def _extend_content(message: JSON, name: str, text: str) -> None:
    """Append a text, which may follow content parts."""
    if isinstance(message.get(name), list):
        _extend_list(message, name, [{"type": "text", "text": text}] if text else [])
    else:
        append(message, name, text)


def _extend_list(message: JSON, name: str, values: list[Any]) -> None:
    """Append list elements. Fragments of the same part of a content, or of reasoning,
    are joined."""
    before = message.get(name) or []
    if isinstance(before, str):
        before = [{"type": "text", "text": before}]
    elements: list[Any] = [*before]
    for value in values:
        if not elements or not _is_joined(name, elements[-1], value):
            elements.append(dict(value) if isinstance(value, dict) else value)
    message[name] = elements


def _is_joined(name: str, last: Any, value: Any) -> bool:
    """Join a fragment to the last element of a list; return whether it belongs there."""
    if name == "content" and _is_same_part(last, value):
        _join_part(last, value)
        return True
    if name == "reasoning_details" and _is_same_detail(last, value):
        _join_detail(last, value)
        return True
    return False


def _is_same_part(last: Any, part: Any) -> bool:
    """Whether a content part continues the last one."""
    return (
        isinstance(last, dict)
        and isinstance(part, dict)
        and last.get("type") == part.get("type")
        and part.get("type") in ("text", "thinking")
    )


def _join_part(last: JSON, part: JSON) -> None:
    """Append a fragment to a content part."""
    if part["type"] == "text":
        append(last, "text", part["text"])
        return
    fragments = [*last["thinking"], *part["thinking"]]
    text = "".join(fragment.get("text") or "" for fragment in fragments)
    last["thinking"] = [{"type": "text", "text": text}]
    for name in part.keys() - {"type", "thinking"}:
        last[name] = part[name]


def _is_same_detail(last: Any, detail: JSON) -> bool:
    """Whether a reasoning detail continues the last one."""
    return (
        isinstance(last, dict)
        and last.get("type") == detail.get("type")
        and last.get("index") == detail.get("index")
        and last.get("id") == detail.get("id", last.get("id"))
        and not (last.get("signature") and detail.get("text"))
        and not (last.get("data") and detail.get("data"))
    )


def _join_detail(last: JSON, detail: JSON) -> None:
    """Append a fragment to a reasoning detail."""
    for name, value in detail.items():
        if name in ("text", "summary", "signature", "data"):
            append(last, name, value)
        elif value is not None:
            last[name] = value


def _extend_calls(calls: JSON, fragments: Sequence[JSON]) -> None:
    """Add fragments of calls."""
    for fragment in fragments:
        _extend_call(calls, fragment)


def _extend_call(calls: JSON, call: JSON) -> None:
    """Add a fragment of a call."""
    target = calls.setdefault(_call_index(calls, call), {})
    kind = "custom" if "custom" in call else "function"
    for name, value in call.items():
        if name not in ("index", kind) and value is not None:
            target[name] = value or target.get(name)
    inner, fragment = target.setdefault(kind, {}), call.get(kind) or {}
    # Some servers repeat the name in every fragment.
    inner["name"] = inner.get("name") or fragment.get("name") or ""
    for name in fragment.keys() & {"arguments", "input"}:
        text = fragment[name]
        append(inner, name, text if isinstance(text, str | None) else canonical(text))


def _call_index(calls: JSON, call: JSON) -> int:
    """Return the index of a fragment's call. Servers that send no index start a new
    call with each id."""
    count = len(calls)
    if call.get("index") is not None:
        return call["index"]
    return count if call.get("id") or not count else count - 1


def _closed_message(message: JSON) -> JSON:
    """Return a message with its calls as a list."""
    calls = message.pop("calls", None)
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return message


# ----------------------------------------------------------------------------- reading


def read_chat(document: JSON) -> Answer:
    """Read a chat completion."""
    answer = Answer(
        id=document.get("id") or "",
        model=document.get("model") or "",
        created=_seconds(document.get("created")),
        tier=document.get("service_tier") or "",
        fingerprint=document.get("system_fingerprint") or "",
        prompt_safety=document.get("prompt_filter_results"),
        usage=chat_usage(document.get("usage") or dig(document, "x_groq", "usage")),
    )
    answer.choices = [_read_choice(choice) for choice in document.get("choices") or ()]
    return answer


def _seconds(value: Any) -> int:
    """Return a time; 0 for one that is not a number of seconds."""
    seconds = number(value)
    return seconds if seconds < 10**11 else 0


def _read_choice(fields: JSON) -> Choice:
    """Read one choice."""
    reason = fields.get("finish_reason") or ""
    choice = Choice(
        finish=_FINISH.get(reason, reason),
        safety=fields.get("content_filter_results"),
    )
    for field in ("content", "refusal"):
        _add_logprobs(choice, dig(fields, "logprobs", field))
    message = fields.get("message") or {}
    choice.role = message.get("role") or "assistant"
    _add_reasoning(choice, message)
    _add_content(choice, message)
    if message.get("refusal"):
        choice.add("refusal", message["refusal"])
    for image in message.get("images") or ():
        media, content = data_url(dig(image, "image_url", "url") or "")
        choice.add("image", content, name=media)
    if dig(message, "audio", "data"):
        choice.add("audio", digest(message["audio"]["data"]))
        if transcript := message["audio"].get("transcript"):
            choice.add("transcript", transcript)
    _add_calls(choice, message)
    return choice


def _add_logprobs(choice: Choice, tokens: Any) -> None:
    """Add log probabilities of tokens."""
    for token in tokens or ():
        choice.logprobs.append(_logprob(token))
        alternatives = [_logprob(top) for top in token.get("top_logprobs") or ()]
        choice.alternatives.append(alternatives)


def _logprob(entry: Any) -> tuple[Any, float]:
    """Return a token with its probability, rounded: formats write different digits."""
    return entry["token"], round(entry["logprob"], 5)


def _add_reasoning(choice: Choice, message: JSON) -> None:
    """Add reasoning. A server that sends several of the fields repeats the text in
    them."""
    text = message.get("reasoning_content") or message.get("reasoning") or ""
    details = message.get("reasoning_details") or ()
    texts = [_detail_text(detail) for detail in details]
    is_repeated = not text or text == "".join(texts)
    if not is_repeated:
        choice.add("thinking", text)
    for detail, detail_text in zip(details, texts, strict=True):
        shown = detail_text if is_repeated else ""
        signature = detail.get("signature") or detail.get("data")
        if shown or signature:
            choice.add("thinking", shown, signature=plain_signature(signature))


def _detail_text(detail: JSON) -> str:
    """Return the text of a part of reasoning, or its summary."""
    return detail.get("text") or detail.get("summary") or ""


def _add_content(choice: Choice, message: JSON) -> None:
    """Add texts, with their sources, and thinking in content parts."""
    content = message.get("content") or ()
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for part in content:
        _add_part(choice, part)
    sources = [_citation(annotation) for annotation in message.get("annotations") or ()]
    if not sources:
        return
    texts = [block for block in choice.blocks if block.kind == "text"]
    if not texts:
        choice.add("text", "")
        texts = choice.blocks[-1:]
    texts[0].citations += sources


def _add_part(choice: Choice, part: JSON) -> None:
    """Add one part of a content."""
    kind = part.get("type") or ""
    if kind == "text":
        choice.add("text", part["text"])
    elif kind == "thinking":
        fragments = part.get("thinking") or ()
        text = "".join(fragment.get("text") or "" for fragment in fragments)
        choice.add("thinking", text)
    else:
        choice.add("server", canonical(part), name=kind)


def _citation(annotation: JSON) -> Citation:
    """Read an annotation of a text."""
    kind = annotation.get("type") or ""
    inner = annotation.get(kind) or annotation
    # OpenRouter's parsed documents are no sources of a text.
    if kind == "file":
        return Citation("", file=inner.get("hash") or "")
    source, file = inner.get("url") or "", inner.get("file_id") or ""
    title = inner.get("title") or inner.get("filename") or inner.get("name") or ""
    start, end = inner.get("start_index"), inner.get("end_index")
    # Without an extent it has no position.
    if not start and not end:
        start = end = None
    quote = inner.get("content")
    return Citation(
        source, title, start, end, quote if isinstance(quote, str) else "", file
    )


def _add_calls(choice: Choice, message: JSON) -> None:
    """Add calls, also those in the format's older field."""
    for call in message.get("tool_calls") or ():
        inner = call.get("function") or call.get("custom") or {}
        arguments = canonical(inner.get("arguments", inner.get("input")))
        name, _ = call_id(call.get("id"))
        choice.add("call", arguments, name=inner.get("name") or "", id=name)
    if old := message.get("function_call"):
        choice.add("call", canonical(old.get("arguments")), name=old.get("name") or "")


def chat_usage(usage: Any) -> dict[str, int]:
    """Read token counts; empty if the answer has none."""
    if not isinstance(usage, dict):
        return {}
    prompt = number(usage.get("prompt_tokens"))
    completion = number(usage.get("completion_tokens"))
    reasoning = number(dig(usage, "completion_tokens_details", "reasoning_tokens"))
    # xAI counts reasoning apart from the completion.
    total = number(usage.get("total_tokens"))
    is_apart = reasoning and total == prompt + completion + reasoning
    prompt_details = usage.get("prompt_tokens_details")
    return {
        "prompt": prompt,
        "completion": completion + (reasoning if is_apart else 0),
        "total": total,
        "cached": number(dig(prompt_details, "cached_tokens"))
        or number(usage.get("prompt_cache_hit_tokens")),
        "cache_write": number(dig(prompt_details, "cache_write_tokens")),
        "reasoning": reasoning or number(usage.get("reasoning_tokens")),
        "audio_prompt": number(dig(prompt_details, "audio_tokens")),
        "audio_completion": number(
            dig(usage, "completion_tokens_details", "audio_tokens")
        ),
    }


# --------------------------------------------------------------------- text completions


def read_completion(document: JSON) -> Answer:
    """Read a text completion."""
    answer = Answer(
        id=document.get("id") or "",
        model=document.get("model") or "",
        created=_seconds(document.get("created")),
        fingerprint=document.get("system_fingerprint") or "",
        usage=chat_usage(document.get("usage")),
    )
    answer.choices = [
        _completion_choice(fields) for fields in document.get("choices") or ()
    ]
    return answer


def _completion_choice(fields: JSON) -> Choice:
    """Read one choice of a text completion."""
    reason = fields.get("finish_reason") or ""
    choice = Choice(finish=_FINISH.get(reason, reason), role="assistant")
    choice.add("text", fields.get("text") or "")
    logprobs = fields.get("logprobs") or {}
    tokens = logprobs.get("tokens") or ()
    chosen = logprobs.get("token_logprobs") or ()
    choice.logprobs = [
        (token, round(value or 0.0, 5))
        for token, value in zip(tokens, chosen, strict=False)
    ]
    for top in logprobs.get("top_logprobs") or ():
        likely = (top or {}).items()
        choice.alternatives.append(
            [(token, round(value, 5)) for token, value in likely]
        )
    return choice
