"""Corruptions of the gateway's answers, between the gateway and the caller. Each, alone,
must turn the proof `recordings` red wherever an answer has what it corrupts.

A corruption changes the bytes of a response. It names the kinds of facts that it aims
at: if the recording has none of them, or the caller's format has no place for them,
there is nothing to see.
"""

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from tools.show import answer_fields
from tools.show.answer_fields import JSON, Field
from tools.show.replay import Reply, events_of, is_error

Mutate = Callable[[str, list[JSON]], list[JSON] | None]
"""Changes the document (a list of one) or the events of an answer in a format. Returns
other parts, or None if it changed them in place."""


@dataclass(frozen=True, slots=True)
class Corruption:
    """One kind of corruption."""

    name: str
    kinds: tuple[str, ...]
    """Kinds of facts that it changes; `choice 1` stands for all of that choice."""
    mutate: Mutate

    def apply(self, ingress: str, reply: Reply, *, is_stream: bool) -> Reply | None:
        """Return the corrupted response; None if it has nothing to corrupt."""
        is_events = is_stream and reply.status == 200
        body = reply.body
        before = list(events_of(body)) if is_events else [json.loads(body)]
        after = copy.deepcopy(before)
        returned = self.mutate(ingress, after)
        after = after if returned is None else returned
        if after == before:
            return None
        return replace(reply, body=_encoded(after, reply.body, is_events=is_events))


def _encoded(parts: Sequence[JSON], original: bytes, *, is_events: bool) -> bytes:
    """Return a document, or a stream of events with the end marker of the original."""
    if not is_events:
        return json.dumps(parts[0]).encode()
    body = b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts)
    return body + (b"data: [DONE]\n\n" if b"data: [DONE]" in original else b"")


# ---------------------------------------------------------------------------- builders

Find = Callable[[str, JSON], Iterator[Field]]
Change = Callable[[Any], Any]


def _change(find: Find, change: Change, *, last_only: bool = False) -> Mutate:
    """Return a mutation that changes the values at answer_fields."""

    def mutate(name: str, parts: list[JSON]) -> None:
        matches = [spot for part in parts for spot in find(name, part)]
        for fields, key in matches[-1:] if last_only else matches:
            fields[key] = change(fields[key])

    return mutate


def _drop_keys(*names: str, events: tuple[str, ...] = ()) -> Mutate:
    """Return a mutation that drops fields, and events or deltas of some types."""

    def mutate(name: str, parts: list[JSON]) -> list[JSON]:
        for part in parts:
            for fields, key in list(answer_fields.keys(part, *names)):
                del fields[key]
        return [part for part in parts if not _is_of(part, events)]

    return mutate


def _is_of(part: JSON, types: tuple[str, ...]) -> bool:
    """Whether an event, or its delta, is of one of the types."""
    delta = part.get("delta")
    inner = delta.get("type") if isinstance(delta, dict) else ""
    return part.get("type") in types or inner in types


def _keys(*names: str) -> Find:
    """Return a search for fields with these names."""
    return lambda _, part: answer_fields.keys(part, *names)


def _call_part(position: int) -> Find:
    """Return a search for one field of calls: 1 name, 2 arguments, 3 id."""

    def find(name: str, part: JSON) -> Iterator[Field]:
        for call in answer_fields.calls(name, part):
            if answer_fields.at(call[0], str(call[position])):
                yield answer_fields.field_at(call[0], str(call[position]))

    return find


def _media(kind: str) -> Find:
    """Return a search for the data of files of one kind."""
    return lambda _, part: answer_fields.media(part, kind)


def _objects(parts: Sequence[JSON]) -> Iterator[JSON]:
    """Yield every object of all parts."""
    for part in parts:
        yield from answer_fields.objects(part)


def _counter(*names: str) -> Mutate:
    """Return a mutation that adds one to the counts with these names."""

    def mutate(name: str, parts: list[JSON]) -> None:
        del name
        for fields in _objects(parts):
            _add_one(fields, names)

    return mutate


def _add_one(fields: JSON, names: Sequence[str]) -> None:
    """Add one to the counts of an object that are not 0."""
    for key in names:
        count = fields.get(key)
        if isinstance(count, int) and count > 0:
            fields[key] = count + 1


# --------------------------------------------------------------------------- mutations

_POSITIONS = ("start_index", "end_index", "startIndex", "endIndex", "start", "end")


def _set_positions(change: Change) -> Mutate:
    """Return a mutation of the positions of sources."""

    def mutate(name: str, parts: list[JSON]) -> None:
        for fields in _objects(parts):
            is_cohere = name == "cohere" and "sources" in fields
            names = _POSITIONS if is_cohere else _POSITIONS[:4]
            fields |= {
                key: change(fields[key])
                for key in names
                if isinstance(fields.get(key), int)
            }

    return mutate


def _only_first_choice(name: str, parts: list[JSON]) -> None:
    """Keep only the first of several choices."""
    for part in parts:
        for key in ("choices", "candidates"):
            if part.get(key):
                part[key] = [choice for choice in part[key] if not choice.get("index")][
                    :1
                ]


def _drop_server_blocks(name: str, parts: list[JSON]) -> list[JSON]:
    """Drop the steps of the vendor's own tools."""
    remaining: list[JSON] = []
    for part in parts:
        matches = list(answer_fields.server_blocks(name, part))
        for blocks, index in matches:
            if blocks != [part]:
                del blocks[index]
        if not any(blocks == [part] for blocks, _ in matches):
            remaining.append(part)
    return remaining


def _rename_server_tools(name: str, parts: list[JSON]) -> None:
    """Give the steps of the vendor's own tools another name."""
    for part in parts:
        for blocks, index in answer_fields.server_blocks(name, part):
            block = blocks[index]
            block = block.get("item") or block.get("content_block") or block
            if "type" in block:
                block["type"] = "other_tool"
            else:
                key = next(iter(block))
                block["otherTool"] = block.pop(key)


def _exchange_signatures(name: str, parts: list[JSON]) -> None:
    """Exchange two signatures."""
    matches = [spot for part in parts for spot in answer_fields.signatures(name, part)]
    for fields, key in matches[1:]:
        first, first_key = matches[0]
        if fields[key] != first[first_key]:
            fields[key], first[first_key] = first[first_key], fields[key]
            return


def _exchange_blocks(name: str, parts: list[JSON]) -> None:
    """Exchange the first two blocks of different kinds."""
    for blocks in _lists_of_blocks(parts):
        kinds = [_kind(name, block) for block in blocks]
        for index, (kind, following) in enumerate(itertools.pairwise(kinds)):
            if kind != following:
                blocks[index : index + 2] = blocks[index + 1], blocks[index]
                return


def _lists_of_blocks(parts: Sequence[JSON]) -> Iterator[list[Any]]:
    """Yield the lists of blocks of all parts."""
    for part in parts:
        document = part.get("response") or part
        contents = [
            candidate.get("content") or {}
            for candidate in document.get("candidates") or ()
        ]
        lists = [document.get("output"), document.get("content")]
        lists += [content.get("parts") for content in contents]
        yield from (blocks for blocks in lists if isinstance(blocks, list))


def _kind(name: str, block: JSON) -> str:
    """Return the kind of a block, for those whose order is compared."""
    if name == "gemini":
        if "functionCall" in block:
            return "call"
        return "thinking" if block.get("thought") else "text"
    return str(block.get("type"))


def _spoil_arguments(name: str, parts: list[JSON]) -> None:
    """Change the type of one argument."""
    fragments = [
        spot for part in parts for spot in answer_fields.argument_fragments(name, part)
    ]
    if fragments:
        fields, key = fragments[0]
        if isinstance(fields[key], str):
            fields[key] = fields[key].replace("{", '{"spoilt": "1", ', 1)
            return
    for part in parts:
        for call, _, arguments, _ in answer_fields.calls(name, part):
            if answer_fields.at(call, arguments) is None:
                continue
            fields, key = answer_fields.field_at(call, arguments)
            fields[key] = _with_other_type(fields[key])
            return


def _with_other_type(arguments: Any) -> Any:
    """Return arguments with one value of another type."""
    if isinstance(arguments, str):
        return arguments.replace("{", '{"spoilt": "1", ', 1) if arguments else "{1}"
    changed = dict(arguments or {})
    key = next(iter(changed), "spoilt")
    changed[key] = [changed.get(key)]
    return changed


def _drop_call(name: str, parts: list[JSON]) -> list[JSON]:
    """Drop the calls."""
    del name
    for fields in _objects(parts):
        fields.pop("tool_calls", None)
        for key in ("content", "output", "parts"):
            _drop_calls_in(fields, key)
    return [part for part in parts if not _is_call(part.get("item"))]


def _drop_calls_in(fields: JSON, key: str) -> None:
    """Drop the calls from a list of blocks."""
    if isinstance(fields.get(key), list):
        fields[key] = [block for block in fields[key] if not _is_call(block)]


def _is_call(block: Any) -> bool:
    """Whether a block is a call."""
    if not isinstance(block, dict):
        return False
    types = ("function_call", "custom_tool_call", "tool_use")
    return block.get("type") in types or "functionCall" in block


def _drop_calls(name: str, parts: list[JSON]) -> list[JSON]:
    """Drop the calls; the blocks of Anthropic's streams are numbered anew."""
    parts = _drop_call(name, parts)
    starts = [part for part in parts if _is_call(part.get("content_block"))]
    dropped = {start["index"] for start in starts}
    if name != "anthropic" or not dropped:
        return parts
    remaining = [part for part in parts if part.get("index", -1) not in dropped]
    _renumber(remaining, dropped)
    return remaining


def _refusal_into_text(name: str, parts: list[JSON]) -> None:
    """Move a refusal into the text."""
    del name
    for fields in list(_objects(parts)):
        if isinstance(fields.get("refusal"), str) and fields["refusal"]:
            _move_refusal(fields)
        if str(fields.get("type")).startswith("response.refusal"):
            fields["type"] = fields["type"].replace("refusal", "output_text")


def _renumber(parts: Sequence[JSON], dropped: Set[int]) -> None:
    """Number the blocks of a stream anew, without those that were dropped."""
    for part in parts:
        if "index" in part:
            part["index"] -= len([other for other in dropped if other < part["index"]])


def _move_refusal(fields: JSON) -> None:
    """Make a refusal a text."""
    refusal = fields["refusal"]
    if fields.get("type") == "refusal":
        fields |= {"type": "output_text", "text": refusal, "annotations": []}
        del fields["refusal"]
    else:
        fields["content"], fields["refusal"] = refusal, None


_REASONING = (
    ("completion_tokens", "reasoning_tokens"),
    ("output_tokens", "reasoning_tokens"),
    ("output_tokens", "thinking_tokens"),
    ("candidatesTokenCount", "thoughtsTokenCount"),
)
_CACHED = (
    ("prompt_tokens", "cached_tokens"),
    ("input_tokens", "cached_tokens"),
    ("input_tokens", "cache_read_input_tokens"),
    ("promptTokenCount", "cachedContentTokenCount"),
)


def _add_part(pairs: Sequence[tuple[str, str]], sign: int) -> Mutate:
    """Return a mutation that adds a part of a count to it, or takes it off. `pairs` are
    (name of the count, name of its part)."""

    def mutate(name: str, parts: list[JSON]) -> None:
        del name
        for fields in _objects(parts):
            for key, part in pairs:
                if isinstance(fields.get(key), int):
                    fields[key] += sign * _first_count(fields, part)

    return mutate


def _first_count(fields: JSON, name: str) -> int:
    """Return the first count with this name that is not 0, at any depth; otherwise 0."""
    counts = (inner.get(name) for inner in answer_fields.objects(fields))
    return next((count for count in counts if count), 0)


def _drop_last_key(name: str, parts: list[JSON]) -> None:
    """Drop the last field of a whole answer that says something."""
    if len(parts) != 1:
        return
    filled = [key for key, value in parts[0].items() if value not in (None, [], {}, "")]
    if filled:
        del parts[0][filled[-1]]


_ENDS = ("response.completed", "response.incomplete", "message_stop", "message-end")


def _drop_end(name: str, parts: list[JSON]) -> list[JSON] | None:
    """Drop the event that ends a stream."""
    if len(parts) < 2:
        return None
    return [part for part in parts if not _is_end(name, part)]


def _is_end(name: str, part: JSON) -> bool:
    """Whether an event ends a stream."""
    if name in ("openai_chat", "openai_completions", "gemini"):
        return any(
            True for _ in answer_fields.keys(part, "finish_reason", "finishReason")
        )
    return part.get("type") in _ENDS


def _drop_delta(position: int) -> Mutate:
    """Return a mutation that drops the first or the last event with text."""

    def mutate(name: str, parts: list[JSON]) -> list[JSON] | None:
        if len(parts) < 2:
            return None
        with_text = [
            index
            for index, part in enumerate(parts)
            if any(True for _ in answer_fields.texts(name, part))
            and not _is_summary(part)
        ]
        if not with_text:
            return None
        dropped = with_text[position]
        return parts[:dropped] + parts[dropped + 1 :]

    return mutate


def _is_summary(part: JSON) -> bool:
    """Whether an event repeats what the deltas said."""
    kind = part.get("type") or ""
    return kind.endswith((".done", ".completed", ".incomplete", ".added"))


def _drop_item_end(name: str, parts: list[JSON]) -> list[JSON] | None:
    """Drop the events that end items and blocks, while their deltas stay."""
    ends = ("response.output_item.done", "content_block_stop", "content-end")
    return [part for part in parts if part.get("type") not in ends]


def _null_finish(name: str, parts: list[JSON]) -> None:
    """Take the finish reason away."""
    for part in parts:
        for fields, key in list(
            answer_fields.keys(part, "finish_reason", "finishReason", "stop_reason")
        ):
            fields[key] = None


_OTHER_FINISH = {
    "anthropic": "max_tokens",
    "gemini": "MAX_TOKENS",
    "cohere": "MAX_TOKENS",
}


def _other_finish(name: str, parts: list[JSON]) -> None:
    """Replace the finish reason by the one for a limit, or the reverse."""
    other = _OTHER_FINISH.get(name, "length")
    names = ("finish_reason", "finishReason", "stop_reason")
    for part in parts:
        # A list, because the loop changes what is searched.
        for fields, key in list(answer_fields.keys(part, *names)):
            fields[key] = "pause_turn" if fields[key] == other else other
        if name == "openai_responses":
            _set_incomplete(part.get("response") or part)


def _set_incomplete(response: JSON) -> None:
    """Make a complete response incomplete, or the reverse."""
    if response.get("object") == "response" and response.get("output"):
        details = response.get("incomplete_details")
        reason = {"reason": "max_output_tokens"}
        response["incomplete_details"] = None if details else reason


def _answer_id(name: str, part: JSON) -> Iterator[Field]:
    """Yield the id of the answer."""
    for fields in (part, part.get("response"), part.get("message")):
        if not isinstance(fields, dict):
            continue
        for key in ("id", "responseId"):
            if isinstance(fields.get(key), str) and fields[key]:
                yield fields, key


def _model(name: str, part: JSON) -> Iterator[Field]:
    """Yield the name of the model."""
    for fields in (part, part.get("response"), part.get("message")):
        if isinstance(fields, dict):
            for key in ("model", "modelVersion"):
                if isinstance(fields.get(key), str) and fields[key]:
                    yield fields, key


def _role(name: str, part: JSON) -> Iterator[Field]:
    """Yield the roles of messages of the model."""
    for fields, key in answer_fields.keys(part, "role"):
        if fields[key] in ("assistant", "model"):
            yield fields, key


def _citation_names(name: str, part: JSON) -> Iterator[Field]:
    """Yield titles of sources."""
    for fields in answer_fields.objects(part):
        is_source = any(
            key in fields for key in ("url", "uri", "file_id", "filename", "cited_text")
        )
        if is_source and isinstance(fields.get("title"), str) and fields["title"]:
            yield fields, "title"


def _boom(fields: JSON) -> None:
    """Replace the words of an error."""
    for name in ("message", "error"):
        if isinstance(fields.get(name), str):
            fields[name] = "boom"


def _spoil_error_words(name: str, parts: list[JSON]) -> None:
    """Replace the words of an error."""
    for part in parts:
        failed = part.get("response")
        for fields in (part, part.get("error"), failed and failed.get("error")):
            if isinstance(fields, dict) and _is_failure(part):
                _boom(fields)


def _is_failure(part: JSON) -> bool:
    """Whether a document or event reports an error."""
    is_cohere = isinstance(part.get("message"), str)
    return is_error(part) or is_cohere or part.get("type") == "response.failed"


def _spoil_error_type(name: str, parts: list[JSON]) -> None:
    """Replace the type of an error by another, or its shape by another format's."""
    if len(parts) != 1:
        return
    part = parts[0]
    inner = part.get("error")
    if isinstance(inner, dict):
        inner["status" if name == "gemini" else "type"] = "other_error"
    elif name == "cohere" and isinstance(part.get("message"), str):
        part["error"] = {"message": part.pop("message")}


def _end_well(name: str, parts: list[JSON]) -> list[JSON] | None:
    """Let a stream that reports an error end as if nothing had happened."""
    remaining = [part for part in parts if not _is_failure(part)]
    return remaining if len(parts) > 1 else None


_FINISHES = ("finish",)
_TEXT = ("text",)
CORRUPTIONS: tuple[Corruption, ...] = (
    Corruption(
        "sources dropped",
        ("citations",),
        _drop_keys(
            "annotations",
            "citations",
            "citationMetadata",
            "groundingMetadata",
            events=(
                "citations_delta",
                "citation-start",
                "response.output_text.annotation.added",
            ),
        ),
    ),
    Corruption(
        "positions of sources shifted",
        ("citations.spans",),
        _set_positions(lambda position: position + 1),
    ),
    Corruption(
        "positions of sources at nothing",
        ("citations.spans",),
        _set_positions(lambda position: 0),
    ),
    Corruption(
        "titles of sources changed",
        ("citations",),
        _change(_citation_names, lambda title: "other"),
    ),
    Corruption(
        "log probabilities dropped",
        ("logprobs",),
        _drop_keys("logprobs", "logprobsResult"),
    ),
    Corruption(
        "ratings and filters dropped",
        ("safety", "prompt_safety"),
        _drop_keys(
            "safetyRatings",
            "promptFeedback",
            "prompt_filter_results",
            "content_filter_results",
        ),
    ),
    Corruption(
        "fingerprint dropped", ("fingerprint",), _drop_keys("system_fingerprint")
    ),
    Corruption("tier dropped", ("tier",), _drop_keys("service_tier", "serviceTier")),
    Corruption("other choices dropped", ("choice 1",), _only_first_choice),
    Corruption("steps of server tools dropped", ("server_tools",), _drop_server_blocks),
    Corruption("server tools renamed", ("server_tools",), _rename_server_tools),
    Corruption(
        "stop sequence dropped",
        ("stop_sequence",),
        _change(_keys("stop_sequence"), lambda _: None),
    ),
    Corruption(
        "ids of calls all the same",
        ("call.ids",),
        _change(_call_part(3), lambda _: "same"),
    ),
    Corruption("id of the answer changed", ("id",), _change(_answer_id, lambda _: "x")),
    Corruption("model renamed", ("model",), _change(_model, lambda _: "other")),
    Corruption(
        "time at nothing",
        ("created",),
        _change(_keys("created", "created_at"), lambda _: 0),
    ),
    Corruption("role changed", ("role",), _change(_role, lambda _: "user")),
    Corruption(
        "bytes of images replaced",
        ("image",),
        _change(
            _media("image"),
            lambda data: data.split(",")[0] + ",AAAA" if "," in data else "AAAA",
        ),
    ),
    Corruption(
        "bytes of audio replaced",
        ("audio",),
        _change(_media("audio"), lambda _: "AAAA"),
    ),
    Corruption(
        "newlines removed from reasoning",
        ("thinking",),
        _change(answer_fields.thoughts, lambda text: text.replace("\n", "")),
    ),
    Corruption(
        "reasoning dropped",
        ("thinking",),
        _change(answer_fields.thoughts, lambda _: ""),
    ),
    Corruption("signatures exchanged", ("signatures",), _exchange_signatures),
    Corruption(
        "signatures dropped",
        ("signatures",),
        _change(answer_fields.signatures, lambda _: ""),
    ),
    Corruption(
        "a signature changed",
        ("signatures",),
        _change(answer_fields.signatures, lambda text: text[:-5] + "A" + text[-4:]),
    ),
    Corruption("blocks exchanged", ("order",), _exchange_blocks),
    Corruption("type of an argument changed", ("call.arguments",), _spoil_arguments),
    Corruption("calls dropped", ("call.names",), _drop_calls),
    Corruption(
        "calls renamed", ("call.names",), _change(_call_part(1), lambda _: "other")
    ),
    Corruption("refusal moved into text", ("refusal",), _refusal_into_text),
    Corruption("finish reason dropped", _FINISHES, _null_finish),
    Corruption("finish reason changed", _FINISHES, _other_finish),
    Corruption(
        "text truncated",
        _TEXT,
        _change(answer_fields.texts, lambda text: text[:-1], last_only=True),
    ),
    Corruption("first delta of a text dropped", _TEXT, _drop_delta(0)),
    Corruption("last delta of a text dropped", _TEXT, _drop_delta(-1)),
    Corruption("ends of items dropped", _TEXT, _drop_item_end),
    Corruption("end of a stream dropped", _FINISHES, _drop_end),
    Corruption(
        "prompt tokens changed",
        ("usage.prompt",),
        _counter("prompt_tokens", "input_tokens", "promptTokenCount"),
    ),
    Corruption(
        "completion tokens changed",
        ("usage.completion",),
        _counter("completion_tokens", "output_tokens", "candidatesTokenCount"),
    ),
    Corruption(
        "total tokens at nothing",
        ("usage.total",),
        _change(_keys("total_tokens", "totalTokenCount"), lambda _: 0),
    ),
    Corruption(
        "cached tokens changed",
        ("usage.cached",),
        _counter("cached_tokens", "cache_read_input_tokens", "cachedContentTokenCount"),
    ),
    Corruption(
        "cache writes changed",
        ("usage.cache_write",),
        _counter("cache_write_tokens", "cache_creation_input_tokens"),
    ),
    Corruption(
        "cache writes for an hour changed",
        ("usage.cache_write_1h",),
        _counter("ephemeral_1h_input_tokens"),
    ),
    Corruption(
        "reasoning tokens changed",
        ("usage.reasoning",),
        _counter("reasoning_tokens", "thoughtsTokenCount", "thinking_tokens"),
    ),
    Corruption(
        "tokens of speech changed",
        ("usage.audio_prompt", "usage.audio_completion"),
        _change(
            lambda _, part: (
                (fields, key)
                for fields in answer_fields.objects(part)
                for key in ("audio_tokens", "tokenCount")
                if fields.get(key)
                and (key == "audio_tokens" or fields.get("modality") == "AUDIO")
            ),
            lambda count: count + 1,
        ),
    ),
    Corruption(
        "tokens of tools changed",
        ("usage.tool_prompt",),
        _counter("toolUsePromptTokenCount"),
    ),
    Corruption(
        "number of searches changed",
        ("usage.searches",),
        _counter("web_search_requests"),
    ),
    Corruption(
        "reasoning counted twice", ("usage.reasoning",), _add_part(_REASONING, 1)
    ),
    Corruption(
        "cached tokens not in the prompt", ("usage.cached",), _add_part(_CACHED, -1)
    ),
    Corruption("a field dropped", ("document",), _drop_last_key),
    Corruption("words of an error changed", ("error.words",), _spoil_error_words),
    Corruption("type of an error changed", ("error.status",), _spoil_error_type),
    Corruption("an error becomes a good end", ("error",), _end_well),
)
"""Corruptions of documents and events."""


def _with_status_500(reply: Reply) -> Reply | None:
    """Return an error with another status."""
    return None if reply.status == 200 else replace(reply, status=500)


def _boom_document(reply: Reply) -> Reply | None:
    """Return every error as the same one."""
    body = b'{"error": {"message": "boom"}}'
    return None if reply.status == 200 else replace(reply, status=500, body=body)


def _without_vendor_headers(reply: Reply) -> Reply | None:
    """Return a response without the vendor's headers."""
    names = ("x-request-id", "request-id")
    kept = {
        name: value
        for name, value in reply.headers.items()
        if name not in names and "ratelimit" not in name
    }
    return None if kept == reply.headers else replace(reply, headers=kept)


def _without_done(reply: Reply) -> Reply | None:
    """Return a stream without its end marker."""
    body = reply.body.replace(b"data: [DONE]\n\n", b"")
    return None if body == reply.body else replace(reply, body=body)


REPLY_CORRUPTIONS: tuple[
    tuple[str, tuple[str, ...], Callable[[Reply], Reply | None]], ...
] = (
    ("status of an error changed", ("error.status",), _with_status_500),
    ("every error the same", ("error.status",), _boom_document),
    ("headers of the vendor dropped", ("headers",), _without_vendor_headers),
    ("end marker dropped", ("done",), _without_done),
)
"""Corruptions of statuses, headers and bytes: (name, kinds of facts, function)."""


def corrupted(
    ingress: str, reply: Reply, *, is_stream: bool
) -> Iterator[tuple[str, tuple[str, ...], Reply]]:
    """Yield (name, kinds of facts, corrupted response) for each corruption that finds
    something to corrupt."""
    for corruption in CORRUPTIONS:
        spoilt = corruption.apply(ingress, reply, is_stream=is_stream)
        if spoilt is not None:
            yield corruption.name, corruption.kinds, spoilt
    for name, kinds, change in REPLY_CORRUPTIONS:
        spoilt = change(reply)
        if spoilt is not None:
            yield name, kinds, spoilt


def aims_at(kinds: Sequence[str], compared: frozenset[str]) -> bool:
    """Whether the facts of an answer include one of these kinds."""
    return any(
        kind in compared or any(name.startswith(f"{kind}: ") for name in compared)
        for kind in kinds
    )
