"""Where an answer says what, in each caller's format: the fields that corruptions of an
answer change.

Each function takes a format and one document or event, and yields (object, key) pairs.
"""

from collections.abc import Callable, Iterator
from typing import Any

JSON = dict[str, Any]
Field = tuple[Any, Any]

_SERVER_WORDS = ("text", "thinking", "redacted_thinking", "tool_use", "image")
_ITEM_WORDS = (
    "message",
    "reasoning",
    "function_call",
    "custom_tool_call",
    "image_generation_call",
)


def objects(node: Any) -> Iterator[JSON]:
    """Yield every object of a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from objects(value)
    elif isinstance(node, list):
        for element in node:
            yield from objects(element)


def keys(part: Any, *names: str) -> Iterator[Field]:
    """Yield the fields with these names, if they are not empty."""
    for fields in objects(part):
        for name in names:
            if fields.get(name):
                yield fields, name


def _messages(part: JSON) -> Iterator[JSON]:
    """Yield messages and deltas of chat choices."""
    for choice in part.get("choices") or ():
        for name in ("message", "delta"):
            if isinstance(choice.get(name), dict):
                yield choice[name]


def texts(name: str, part: JSON) -> Iterator[Field]:
    """Yield the texts of an answer."""
    yield from _TEXTS[name](part)


def _chat_texts(part: JSON) -> Iterator[Field]:
    for message in _messages(part):
        if isinstance(message.get("content"), str) and message["content"]:
            yield message, "content"
        elif message.get("content"):
            yield from keys(message["content"], "text")


def _response_texts(part: JSON) -> Iterator[Field]:
    yield from _typed(part, ("output_text",), "text")
    if part.get("type") == "response.output_text.delta" and part.get("delta"):
        yield part, "delta"


def _google_texts(part: JSON) -> Iterator[Field]:
    for fields in _google_parts(part):
        if fields.get("text") and not fields.get("thought"):
            yield fields, "text"


_TEXTS: dict[str, Callable[[JSON], Iterator[Field]]] = {
    "openai_chat": _chat_texts,
    "openai_completions": lambda part: keys(part.get("choices"), "text"),
    "openai_responses": _response_texts,
    "anthropic": lambda part: _typed(part, ("text", "text_delta"), "text"),
    "gemini": _google_texts,
    "cohere": lambda part: keys(_cohere_message(part).get("content"), "text"),
}


def _cohere_message(part: JSON) -> JSON:
    """Return the message of an answer or event; in an error it is a text."""
    message = part.get("message") or (part.get("delta") or {}).get("message")
    return message if isinstance(message, dict) else {}


def _typed(part: JSON, types: tuple[str, ...], key: str) -> Iterator[Field]:
    """Yield the one field in objects of some types."""
    for fields in objects(part):
        if fields.get("type") in types and fields.get(key):
            yield fields, key


def _google_parts(part: JSON) -> Iterator[JSON]:
    """Yield the parts of all candidates."""
    for candidate in part.get("candidates") or ():
        yield from (candidate.get("content") or {}).get("parts") or ()


def thoughts(name: str, part: JSON) -> Iterator[Field]:
    """Yield the texts of reasoning."""
    yield from _THOUGHTS[name](part)


def _chat_thoughts(part: JSON) -> Iterator[Field]:
    for message in _messages(part):
        for key in ("reasoning_content", "reasoning"):
            if isinstance(message.get(key), str) and message[key]:
                yield message, key
        yield from keys(message.get("reasoning_details"), "text", "summary")
        for content in objects(message.get("content")):
            if content.get("type") == "thinking":
                yield from keys(content["thinking"], "text")


def _response_thoughts(part: JSON) -> Iterator[Field]:
    yield from _typed(part, ("summary_text", "reasoning_text"), "text")
    if "reasoning" in (part.get("type") or "") and part.get("delta"):
        yield part, "delta"


def _google_thoughts(part: JSON) -> Iterator[Field]:
    for fields in _google_parts(part):
        if fields.get("thought") and fields.get("text"):
            yield fields, "text"


_THOUGHTS: dict[str, Callable[[JSON], Iterator[Field]]] = {
    "openai_chat": _chat_thoughts,
    "openai_completions": lambda part: iter(()),
    "openai_responses": _response_thoughts,
    "anthropic": lambda part: _typed(part, ("thinking", "thinking_delta"), "thinking"),
    "gemini": _google_thoughts,
    "cohere": lambda part: keys(_cohere_message(part), "thinking", "tool_plan"),
}


def signatures(name: str, part: JSON) -> Iterator[Field]:
    """Yield the signatures of an answer, without those inside ids of calls."""
    yield from _SIGNATURES.get(name, _no_fields)(part)


def _no_fields(part: JSON) -> Iterator[Field]:
    del part
    return iter(())


def _chat_signatures(part: JSON) -> Iterator[Field]:
    for message in _messages(part):
        yield from keys(message.get("reasoning_details"), "signature", "data")


def _anthropic_signatures(part: JSON) -> Iterator[Field]:
    yield from _typed(part, ("redacted_thinking",), "data")
    yield from _typed(part, ("thinking", "signature_delta"), "signature")


_SIGNATURES: dict[str, Callable[[JSON], Iterator[Field]]] = {
    "openai_chat": _chat_signatures,
    "openai_responses": lambda part: keys(part, "encrypted_content"),
    "anthropic": _anthropic_signatures,
    "gemini": lambda part: keys(part, "thoughtSignature"),
}


Call = tuple[JSON, str, str, str]
"""(object, key of the name, key of the arguments, key of the id) of a call."""


def calls(name: str, part: JSON) -> Iterator[Call]:
    """Yield the calls and the fragments of calls."""
    if name in ("openai_chat", "cohere"):
        yield from _listed_calls(part)
    elif name == "gemini":
        keys_of_call = ("functionCall.name", "functionCall.args", "functionCall.id")
        called = [fields for fields in _google_parts(part) if "functionCall" in fields]
        for fields in called:
            yield fields, *keys_of_call
    else:
        yield from _typed_calls(name, part)


def _typed_calls(name: str, part: JSON) -> Iterator[Call]:
    """Yield the calls that are blocks with a type."""
    for fields in objects(part):
        if key_names := _CALLS.get((name, str(fields.get("type")))):
            yield fields, "name", *key_names


def _listed_calls(part: JSON) -> Iterator[Call]:
    """Yield the calls in lists named `tool_calls`; in Cohere's events it is one call."""
    for fields in objects(part):
        listed = fields.get("tool_calls") or ()
        if isinstance(listed, dict):
            listed = [listed]
        for call in listed:
            yield call, "function.name", "function.arguments", "id"


# (format, type of an object) → (key of its arguments, key of its id).
_CALLS = {
    ("openai_responses", "function_call"): ("arguments", "call_id"),
    ("openai_responses", "custom_tool_call"): ("input", "call_id"),
    ("anthropic", "tool_use"): ("input", "id"),
}


def argument_fragments(name: str, part: JSON) -> Iterator[Field]:
    """Yield the fragments of arguments in events of a stream."""
    if name == "anthropic":
        yield from _typed(part, ("input_json_delta",), "partial_json")
    elif name == "openai_responses":
        yield from _typed(part, _ARGUMENT_DELTAS, "delta")
    elif name in ("openai_chat", "cohere"):
        for call, _, arguments, _ in _listed_calls(part):
            if isinstance(at(call, arguments), str) and at(call, arguments):
                yield field_at(call, arguments)


_ARGUMENT_DELTAS = (
    "response.function_call_arguments.delta",
    "response.custom_tool_call_input.delta",
)


def at(fields: JSON, path: str) -> Any:
    """Return the value at a dotted path; None if there is none."""
    for key in path.split("."):
        fields = fields.get(key) if isinstance(fields, dict) else None  # type: ignore[assignment]
    return fields


def field_at(fields: JSON, path: str) -> Field:
    """Return the (object, key) of a dotted path."""
    *steps, last = path.split(".")
    for key in steps:
        fields = fields[key]
    return fields, last


def media(part: JSON, kind: str) -> Iterator[Field]:
    """Yield the data of images, or of audio."""
    for fields in objects(part):
        mime = str(fields.get("mimeType") or fields.get("media_type") or "")
        if mime.startswith(kind) and fields.get("data"):
            yield fields, "data"
        yield from _images(fields) if kind == "image" else _speech(fields)


def _images(fields: JSON) -> Iterator[Field]:
    """Yield the data of an image in OpenAI's forms."""
    if str(fields.get("url")).startswith("data:image"):
        yield fields, "url"
    if fields.get("type") == "image_generation_call" and fields.get("result"):
        yield fields, "result"


def _speech(fields: JSON) -> Iterator[Field]:
    """Yield the data of speech in OpenAI's form."""
    audio = fields.get("audio")
    if isinstance(audio, dict) and audio.get("data"):
        yield audio, "data"


def is_server_block(name: str, fields: Any) -> bool:
    """Whether an object is a step of a tool that the vendor runs."""
    if not isinstance(fields, dict):
        return False
    if name == "anthropic":
        return "type" in fields and fields["type"] not in _SERVER_WORDS
    if name == "openai_responses":
        return "type" in fields and fields["type"] not in _ITEM_WORDS
    if name == "gemini":
        words = ("text", "functionCall", "inlineData", "fileData")
        names = fields.keys() - {"thoughtSignature", "thought"}
        return bool(names) and not names & set(words)
    return False


def server_blocks(name: str, part: JSON) -> Iterator[tuple[list[Any], int]]:
    """Yield (list, index) of steps of the vendor's own tools, in whole answers from the
    last to the first. For an event of such a step, the list has only the event."""
    for blocks in _block_lists(name, part):
        for index in reversed(range(len(blocks))):
            if is_server_block(name, blocks[index]):
                yield blocks, index
    for key in ("item", "content_block"):
        if is_server_block(name, part.get(key)):
            yield [part], 0


def _block_lists(name: str, part: JSON) -> list[list[Any]]:
    """Return the lists of blocks of a whole answer."""
    lists: list[Any] = []
    if name == "anthropic":
        lists = [part.get("content")]
    elif name == "openai_responses":
        lists = [part.get("output"), (part.get("response") or {}).get("output")]
    elif name == "gemini":
        contents = [
            candidate.get("content") or {} for candidate in part.get("candidates") or ()
        ]
        lists = [content.get("parts") for content in contents]
    return [blocks for blocks in lists if blocks]
