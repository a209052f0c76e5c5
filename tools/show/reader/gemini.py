"""Google's generateContent: streams folded to documents, documents read."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tools.show.reader.facts import (
    JSON,
    UNENDED,
    Answer,
    Block,
    Choice,
    Citation,
    call_id,
    canonical,
    dig,
    digest,
    number,
    plain_signature,
)

_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "": ""}
_FILTERS = {
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


def fold_gemini(events: Sequence[JSON], problems: list[str]) -> JSON:
    """Return the response that a stream amounts to."""
    document: JSON = {}
    candidates: dict[int, JSON] = {}
    for event in events:
        document |= {
            name: value for name, value in event.items() if name != "candidates"
        }
        for candidate in event.get("candidates") or ():
            index = candidate.get("index") or 0
            _extend_candidate(candidates.setdefault(index, {}), candidate)
    if not all(candidate.get("finishReason") for candidate in candidates.values()):
        problems.append(UNENDED)
    if candidates:
        document["candidates"] = [candidates[index] for index in sorted(candidates)]
    return document


def _extend_candidate(candidate: JSON, chunk: JSON) -> None:
    """Add one chunk of a candidate."""
    for name, value in chunk.items():
        if name == "content":
            _extend_content(candidate.setdefault("content", {"parts": []}), value)
        elif name in ("groundingMetadata", "citationMetadata", "logprobsResult"):
            candidate[name] = _merged(candidate.get(name) or {}, value)
        else:
            candidate[name] = value


def _extend_content(content: JSON, chunk: JSON) -> None:
    """Add one chunk of a content."""
    if "role" in chunk:
        content["role"] = chunk["role"]
    for part in chunk.get("parts") or ():
        _add_part(content["parts"], part)


def _merged(before: JSON, after: JSON) -> JSON:
    """Return both objects as one. Lists are joined, without repeated elements."""
    merged = dict(before)
    for name, value in after.items():
        old = merged.get(name)
        if isinstance(old, list) and isinstance(value, list):
            merged[name] = old + [element for element in value if element not in old]
        else:
            merged[name] = value
    return merged


def _add_part(parts: list[JSON], part: JSON) -> None:
    """Add a part, or the fragment of the last one."""
    last = parts[-1] if parts else {}
    call = part.get("functionCall")
    if _is_continued(last, part):
        last["text"] += part["text"]
    elif isinstance(call, dict) and not call.get("name") and "functionCall" in last:
        _extend_call(last["functionCall"], call)
    elif isinstance(call, dict) and call.keys() & {"partialArgs", "willContinue"}:
        parts.append({**part, "functionCall": _opened(call)})
    # An empty text without a signature says nothing.
    elif part != {"text": ""}:
        parts.append(dict(part))


def _is_continued(last: JSON, part: JSON) -> bool:
    """Whether a part continues the text of the last one."""
    is_text = _is_plain(part) and _is_plain(last)
    return is_text and bool(last.get("thought")) == bool(part.get("thought"))


def _opened(call: JSON) -> JSON:
    """Return the first fragment of a call as a call."""
    opened = {"name": call.get("name"), "args": dict(call.get("args") or {})}
    if call.get("id"):
        opened["id"] = call["id"]
    _extend_call(opened, call)
    return opened


def _is_plain(part: JSON) -> bool:
    """Whether a part is only text."""
    return "text" in part and part.keys() <= {"text", "thought"}


def _extend_call(call: JSON, fragment: JSON) -> None:
    """Add the arguments of a fragment to a call."""
    for partial in fragment.get("partialArgs") or ():
        _set_argument(call["args"], partial)


def _set_argument(arguments: JSON, partial: JSON) -> None:
    """Add a fragment to the arguments, which are addressed by a JSON path."""
    path = partial["jsonPath"].removeprefix("$.")
    steps = path.replace("[", ".").replace("]", "").split(".")
    container: Any = arguments
    for step, following in itertools.pairwise(steps):
        empty: Any = [] if following.isdigit() else {}
        if not _has(container, step):
            _put(container, step, empty)
        container = container[_key(container, step)]
    value = next(
        (
            partial[name]
            for name in ("stringValue", "numberValue", "boolValue")
            if name in partial
        ),
        None,
    )
    if _has(container, steps[-1]) and isinstance(value, str):
        container[_key(container, steps[-1])] += value
    else:
        _put(container, steps[-1], value)


def _key(container: Any, step: str) -> Any:
    """Return a step as an index of a list or a key of an object."""
    return int(step) if isinstance(container, list) else step


def _has(container: Any, step: str) -> bool:
    """Whether the container has the step."""
    if isinstance(container, list):
        return int(step) < len(container)
    return step in container


def _put(container: Any, step: str, value: Any) -> None:
    """Set the value at a step."""
    if isinstance(container, list) and not _has(container, step):
        container.append(value)
    else:
        container[_key(container, step)] = value


# ----------------------------------------------------------------------------- reading


def read_gemini(document: JSON) -> Answer:
    """Read a response."""
    answer = Answer(
        id=document.get("responseId") or "",
        model=document.get("modelVersion") or "",
        tier=dig(document, "usageMetadata", "serviceTier") or "",
        prompt_safety=dig(document, "promptFeedback", "safetyRatings"),
        usage=_usage(document.get("usageMetadata")),
    )
    answer.choices = [
        _read_candidate(candidate) for candidate in document.get("candidates") or ()
    ]
    # A blocked prompt has no candidates; the reason is in the feedback.
    if not answer.choices and dig(document, "promptFeedback", "blockReason"):
        answer.choices = [Choice(finish="content_filter")]
    return answer


def _read_candidate(candidate: JSON) -> Choice:
    """Read one candidate."""
    reason = candidate.get("finishReason") or ""
    finish = "content_filter" if reason in _FILTERS else _FINISH.get(reason, "stop")
    role = dig(candidate, "content", "role") or "model"
    choice = Choice(
        finish=finish,
        role="assistant" if role == "model" else role,
        safety=candidate.get("safetyRatings"),
    )
    for part in dig(candidate, "content", "parts") or ():
        _read_part(choice, part)
    _add_logprobs(choice, candidate.get("logprobsResult"))
    _add_citations(choice, candidate)
    return choice


def _read_part(choice: Choice, part: JSON) -> None:
    """Add one part. A signature belongs to its part."""
    signature = plain_signature(part.get("thoughtSignature"))
    if part.get("thought"):
        choice.add("thinking", part.get("text") or "", signature=signature)
        return
    if signature:
        choice.add("thinking", signature=signature)
    if "functionCall" in part:
        call = part["functionCall"]
        name, _ = call_id(call.get("id"))
        choice.add("call", canonical(call.get("args")), name=call["name"], id=name)
    elif "text" in part:
        choice.add("text", part["text"])
    elif "inlineData" in part:
        _read_file(choice, part["inlineData"])
    else:
        names = [name for name in part if name != "thoughtSignature"]
        for name in names[:1]:
            choice.add("server", canonical(part.get(name)), name=name)


def _read_file(choice: Choice, data: JSON) -> None:
    """Add a file; of audio, formats name no media type."""
    media, content = data.get("mimeType") or "", digest(data.get("data"))
    kind = media.partition("/")[0]
    if kind == "audio":
        choice.add("audio", content)
    else:
        choice.add("image" if kind == "image" else "file", content, name=media)


def _add_logprobs(choice: Choice, result: Any) -> None:
    """Add log probabilities."""
    for token in dig(result, "chosenCandidates") or ():
        choice.logprobs.append((token["token"], round(token["logProbability"], 5)))
    for top in dig(result, "topCandidates") or ():
        choice.alternatives.append(
            [
                (token["token"], round(token["logProbability"], 5))
                for token in top.get("candidates") or ()
            ]
        )


def _add_citations(choice: Choice, candidate: JSON) -> None:
    """Add sources. Their positions count bytes of UTF-8 in one part."""
    texts = [block for block in choice.blocks if block.kind == "text"]
    if not texts:
        return
    grounding = candidate.get("groundingMetadata") or {}
    chunks = grounding.get("groundingChunks") or ()
    supported = list(_supported(grounding))
    for index, segment in supported:
        if index < len(chunks):
            _cite(texts, segment, _source(chunks[index]))
    used = {index for index, _ in supported}
    # Sources of no segment in particular.
    texts[0].citations += [
        _source(chunk) for index, chunk in enumerate(chunks) if index not in used
    ]
    _add_recited(texts, candidate.get("citationMetadata") or {})


def _add_recited(texts: list[Block], metadata: JSON) -> None:
    """Add the sources that an answer recites."""
    for cited in metadata.get("citationSources") or metadata.get("citations") or ():
        source = Citation(cited.get("uri") or "", cited.get("title") or "")
        _cite(texts, cited, source)


def _supported(grounding: JSON) -> Iterator[tuple[int, JSON]]:
    """Yield (number of a source, segment that it supports)."""
    for support in grounding.get("groundingSupports") or ():
        for index in support.get("groundingChunkIndices") or ():
            yield index, support.get("segment") or {}


def _source(chunk: JSON) -> Citation:
    """Return a source without its position."""
    inner = next(iter(chunk.values())) if chunk else {}
    return Citation(
        inner.get("uri") or "",
        inner.get("title") or "",
        quote=inner.get("text") or "",
        file=inner.get("fileSearchStore") or "",
    )


def _cite(texts: list[Block], segment: JSON, source: Citation) -> None:
    """Add a source to the text that it covers."""
    whole = "".join(block.text for block in texts).encode()
    start, end = number(segment.get("startIndex")), number(segment.get("endIndex"))
    words = segment.get("text") or ""
    # Where the part is not named, the position may count within a later part.
    if words and whole[start:end] != words.encode() and words.encode() in whole:
        start = whole.index(words.encode())
        end = start + len(words.encode())
    first = len(whole[:start].decode(errors="ignore"))
    last = len(whole[:end].decode(errors="ignore"))
    is_placed = end > 0
    placed = replace(source, start=first, end=last) if is_placed else source
    texts[0].citations.append(placed)


def _usage(usage: Any) -> dict[str, int]:
    """Read token counts. Prompts of built-in tools and thoughts are counted apart."""
    if not isinstance(usage, dict):
        return {}
    thoughts = number(usage.get("thoughtsTokenCount"))
    tools = number(usage.get("toolUsePromptTokenCount"))
    return {
        "prompt": number(usage.get("promptTokenCount")) + tools,
        "completion": number(usage.get("candidatesTokenCount")) + thoughts,
        "total": number(usage.get("totalTokenCount")),
        "cached": number(usage.get("cachedContentTokenCount")),
        "reasoning": thoughts,
        "tool_prompt": tools,
        "audio_prompt": _modality(usage, "promptTokensDetails", "AUDIO"),
        "audio_completion": _modality(usage, "candidatesTokensDetails", "AUDIO"),
    }


def _modality(usage: JSON, field: str, modality: str) -> int:
    """Return the count of one kind of content."""
    return sum(
        number(detail.get("tokenCount"))
        for detail in usage.get(field) or ()
        if detail.get("modality") == modality
    )
