"""OpenAI's Responses API: streams folded to documents, documents read."""

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
    dig,
    digest,
    number,
    plain_signature,
)

_ENDS = ("response.completed", "response.incomplete", "response.failed")
# Event with a fragment → name of the item's field that it extends.
_ITEM_DELTAS = {
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
    "response.mcp_call_arguments.delta": "arguments",
    "response.code_interpreter_call_code.delta": "code",
}
_PART_DELTAS = {
    "response.output_text.delta": ("content", "content_index", "text"),
    "response.refusal.delta": ("content", "content_index", "refusal"),
    "response.reasoning_text.delta": ("content", "content_index", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", "text"),
}


def fold_responses(events: Sequence[JSON], problems: list[str]) -> JSON:
    """Return the response that a stream amounts to: the last event's, with the items
    that came as deltas."""
    fold = _Fold()
    for event in events:
        fold.add(event)
    problems += fold.problems
    last, identity = fold.last, fold.identity
    if not last:
        problems.append(UNENDED)
    output = _output(last, fold.items, fold.deltas, problems)
    document = {**last, **identity, "output": output}
    # Some vendors give each event another id, so the response has none.
    if last and identity and _identity_of(last) != identity:
        for name in identity:
            del document[name]
    return document


class _Fold:
    """The events of a stream so far."""

    def __init__(self) -> None:
        self.last: JSON = {}
        self.identity: JSON = {}
        self.items: dict[int, JSON] = {}
        self.deltas = _Deltas()
        self.problems: list[str] = []
        self._sequence = -1

    def add(self, event: JSON) -> None:
        """Add an event."""
        self._check_sequence(event.get("sequence_number"))
        kind, index = event.get("type") or "", event.get("output_index") or 0
        if kind == "response.output_item.added":
            self.deltas.open.add(index)
        elif kind == "response.output_item.done":
            if index not in self.deltas.open:
                self.problems.append("an item ends that did not begin")
            self.items[index] = event["item"]
        elif kind == "response.created":
            self.identity = self.identity or _identity_of(event["response"])
        elif kind in _ENDS:
            self.last = event["response"]
        else:
            self.deltas.add(event)

    def _check_sequence(self, number_of_event: Any) -> None:
        """Note an event whose number is not higher than the one before."""
        if not isinstance(number_of_event, int):
            return
        if number_of_event <= self._sequence:
            self.problems.append("sequence numbers do not rise")
        self._sequence = number_of_event


def _identity_of(response: JSON) -> JSON:
    """Return the id and the time of a response."""
    return {name: response[name] for name in ("id", "created_at") if response.get(name)}


def _output(
    last: JSON, items: dict[int, JSON], fold: "_Deltas", problems: list[str]
) -> list[JSON]:
    """Return the items of a streamed response, with the text that the deltas add up
    to."""
    final = last.get("output") or []
    if items and final and len(final) != len(items):
        problems.append(f"{len(items)} items ended, but the response has {len(final)}")
    if len(fold.open) > len(items):
        problems.append("an item does not end")
    output: list[JSON] = []
    for position, index in enumerate(sorted(items)):
        item = fold.filled(index, items[index], problems)
        if position < len(final) and _content_of(final[position]) != _content_of(
            items[index]
        ):
            problems.append("the last event has another item than the item's own event")
        output.append(item)
    return [item for item in output or final if not _is_empty(item)]


def _has_text(item: JSON) -> bool:
    """Whether an item is a message with a text."""
    is_message = item.get("type") == "message"
    return is_message and any(part.get("text") for part in item.get("content") or ())


def _is_empty(item: JSON) -> bool:
    """Whether an item is a message without a text, which says nothing."""
    if item.get("type") != "message":
        return False
    return not any(
        part.get("text") or part.get("refusal") or part.get("type") not in _TEXTS
        for part in item.get("content") or ()
    )


_TEXTS = ("output_text", "refusal")


def _content_of(item: JSON) -> JSON:
    """Return what an item says, without what a server may leave out of the last event."""
    return {
        name: item.get(name)
        for name in ("type", "id", "call_id", "name", "arguments", "content", "summary")
        if item.get(name)
    }


class _Deltas:
    """The fragments of each item."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.fields: dict[int, JSON] = {}
        self.parts: dict[int, dict[tuple[str, int, str], str]] = {}
        self.annotations: dict[int, dict[int, list[Any]]] = {}
        self.logprobs: dict[int, dict[int, list[Any]]] = {}

    def add(self, event: JSON) -> None:
        """Add the fragment of an event; events of other types have none."""
        kind, index = event.get("type") or "", event.get("output_index") or 0
        if field := _ITEM_DELTAS.get(kind):
            append(self.fields.setdefault(index, {}), field, event["delta"])
        elif place := _PART_DELTAS.get(kind):
            field, position, text = place
            key = (field, event.get(position) or 0, text)
            parts = self.parts.setdefault(index, {})
            parts[key] = parts.get(key, "") + event["delta"]
            if event.get("logprobs"):
                tokens = self.logprobs.setdefault(index, {})
                tokens.setdefault(key[1], []).extend(event["logprobs"])
        elif kind == "response.output_text.annotation.added":
            part = event.get("content_index") or 0
            texts = self.annotations.setdefault(index, {})
            texts.setdefault(part, []).append(event["annotation"])

    def filled(self, index: int, item: JSON, problems: list[str]) -> JSON:
        """Return an item with what its fragments add up to; other words in it are a
        problem."""
        filled = dict(item)
        if index not in self.parts and _has_text(item):
            problems.append("a text came without deltas")
        for field, text in self.fields.get(index, {}).items():
            if item.get(field) and item[field] != text:
                problems.append(f"{field} differ from their deltas")
            filled[field] = text
        for key, text in self.parts.get(index, {}).items():
            _fill_part(filled, key, text, problems)
        for position, texts in self.annotations.get(index, {}).items():
            stated = dig(_at(filled.get("content"), position), "annotations")
            if len(stated or ()) != len(texts):
                problems.append("annotations differ from their events")
        return filled


def _fill_part(
    item: JSON, key: tuple[str, int, str], text: str, problems: list[str]
) -> None:
    """Set the text of a part to what its deltas add up to."""
    field, position, name = key
    elements = [dict(part) for part in item.get(field) or ()]
    if position >= len(elements):
        problems.append(f"{field} has deltas, but no part {position}")
        elements += [{"type": "text"}] * (position + 1 - len(elements))
    if elements[position].get(name) != text:
        problems.append(f"{name} in {field} differs from its deltas")
    elements[position] = {**elements[position], name: text}
    item[field] = elements


def _at(parts: Any, position: int) -> Any:
    """Return a part; None if there is none."""
    return parts[position] if parts and position < len(parts) else None


# ----------------------------------------------------------------------------- reading


def read_responses(document: JSON) -> Answer:
    """Read a response."""
    choice = Choice(role="assistant")
    # The API reports a reason only for incomplete responses.
    reason = dig(document, "incomplete_details", "reason")
    reasons = {"max_output_tokens": "length", "content_filter": "content_filter"}
    choice.finish = reasons.get(reason or "", "stop")
    for item in document.get("output") or ():
        _add_item(choice, item)
    # A compacted conversation has the user's messages in it too.
    if document.get("object") == "response.compaction":
        choice.role = "assistant"
    return Answer(
        choices=[choice],
        id=document.get("id") or "",
        model=document.get("model") or "",
        created=number(document.get("created_at")),
        tier=document.get("service_tier") or "",
        usage=_usage(document.get("usage")),
    )


def _add_item(choice: Choice, item: JSON) -> None:
    """Add the blocks of one item."""
    match item.get("type"):
        case "message":
            choice.role = item.get("role") or choice.role
            for part in item.get("content") or ():
                _add_part(choice, part)
        case "function_call" | "custom_tool_call":
            _add_call(choice, item)
        case "reasoning":
            parts = item.get("content") or item.get("summary") or ()
            text = "\n\n".join(part.get("text") or "" for part in parts)
            signature = plain_signature(item.get("encrypted_content"))
            choice.add("thinking", text, signature=signature)
        case "image_generation_call":
            media = f"image/{item.get('output_format') or 'png'}"
            choice.add("image", digest(item.get("result")), name=media)
        case kind:
            choice.add("server", canonical(item), name=str(kind))


def _add_call(choice: Choice, item: JSON) -> None:
    """Add a call, after a signature in its id."""
    is_custom = item["type"] == "custom_tool_call"
    arguments = canonical(item.get("input" if is_custom else "arguments"))
    name, signature = call_id(item.get("call_id"))
    if signature:
        choice.add("thinking", signature=signature)
    choice.add("call", arguments, name=item["name"], id=name)


def _add_part(choice: Choice, part: JSON) -> None:
    """Add one part of a message."""
    if part.get("type") == "refusal":
        choice.add("refusal", part.get("refusal") or "")
        return
    annotations = part.get("annotations") or ()
    choice.add(
        "text",
        part.get("text") or "",
        citations=[_citation(annotation) for annotation in annotations],
    )
    for token in part.get("logprobs") or ():
        choice.logprobs.append((token["token"], round(token["logprob"], 5)))
        choice.alternatives.append(
            [
                (top["token"], round(top["logprob"], 5))
                for top in token.get("top_logprobs") or ()
            ]
        )


def _citation(annotation: JSON) -> Citation:
    """Read an annotation."""
    source, file = annotation.get("url") or "", annotation.get("file_id") or ""
    title = annotation.get("title") or annotation.get("filename") or ""
    start, end = annotation.get("start_index"), annotation.get("end_index")
    # Without an extent it has no position.
    if not start and not end:
        start = end = None
    return Citation(source, title, start, end, file=file)


def _usage(usage: Any) -> dict[str, int]:
    """Read token counts; empty if the response has none."""
    if not isinstance(usage, dict):
        return {}
    inputs, outputs = "input_tokens_details", "output_tokens_details"
    return {
        "prompt": number(usage.get("input_tokens")),
        "completion": number(usage.get("output_tokens")),
        "total": number(usage.get("total_tokens")),
        "cached": number(dig(usage, inputs, "cached_tokens")),
        "cache_write": number(dig(usage, inputs, "cache_write_tokens")),
        "reasoning": number(dig(usage, outputs, "reasoning_tokens")),
        "audio_prompt": number(dig(usage, inputs, "audio_tokens")),
        "audio_completion": number(dig(usage, outputs, "audio_tokens")),
    }
