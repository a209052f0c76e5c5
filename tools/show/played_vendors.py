"""Stand-ins for model vendors: they answer in the vendors' formats, chosen by the path of
a request, and play what its last message asks for.

The text of the user decides: `tools` calls the first tool twice in parallel, `think`
answers with thoughts, `think tools` with both, `again` says whether the thoughts came
back, and any other text is repeated. The key of a request decides about errors.
"""

import base64
import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.testing import Answer, UpstreamRequest, json_answer, stream_answer

FAULTS = {"bad": 401, "limited": 429, "broken": 500}
"""Keys that a vendor refuses, with the status."""
CITIES = ("Paris", "Rome")
THOUGHT = "Because the question is known."
JSON_TEXT = '{"city": "Paris"}'
_USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}


@dataclass
class Turn:
    """What a request asks for, in no vendor's format."""

    text: str = ""
    """The last message of the user."""
    tool: str = ""
    """The first tool that is offered."""
    results: list[str] = field(default_factory=list[str])
    """The results of tools that follow the last message of the user."""
    wants_json: bool = False
    has_thoughts: bool = False
    """Whether an earlier answer came with its thoughts."""


@dataclass
class Played:
    """What a vendor answers, in no vendor's format."""

    text: str = ""
    thought: str = ""
    calls: Sequence[tuple[str, str]] = ()
    """(name, arguments) of the calls of tools."""

    @property
    def halves(self) -> list[str]:
        """The text in two pieces, as a stream has it."""
        middle = len(self.text) // 2
        return [half for half in (self.text[:middle], self.text[middle:]) if half]


def play(turn: Turn) -> Played:
    """Return what a model answers."""
    if turn.results:
        return Played(text=" and ".join(turn.results))
    if "tools" in turn.text and turn.tool:
        calls = [(turn.tool, json.dumps({"city": city})) for city in CITIES]
        thought = THOUGHT if turn.text.startswith("think") else ""
        return Played(calls=calls, thought=thought)
    if turn.text.startswith("think"):
        return Played(text="Thought.", thought=THOUGHT)
    if turn.text.startswith("again"):
        return Played(text="with" if turn.has_thoughts else "without", thought=THOUGHT)
    if turn.wants_json:
        return Played(text=JSON_TEXT)
    return Played(text=f"You said: {turn.text}")


# -------------------------------------------------------------------------------- OpenAI


def _openai_turn(body: Any) -> Turn:
    """Read a request in OpenAI's chat format."""
    messages = body.get("messages") or []
    last = max(
        (index for index, message in enumerate(messages) if message["role"] == "user"),
        default=-1,
    )
    tools = body.get("tools") or []
    response_format = (body.get("response_format") or {}).get("type", "text")
    return Turn(
        text=_text(messages[last]["content"]) if last >= 0 else "",
        tool=tools[0]["function"]["name"] if tools else "",
        results=[
            _text(message["content"])
            for message in messages[last + 1 :]
            if message["role"] == "tool"
        ],
        wants_json=response_format != "text" or "with JSON" in json.dumps(messages),
        has_thoughts=any(
            THOUGHT in json.dumps(message)
            for message in messages
            if message["role"] == "assistant"
        ),
    )


def _text(content: Any) -> str:
    """Return the text of a message's content."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text") or "") for part in content or ())


def openai_chat(request: UpstreamRequest) -> Answer:
    """Answer a chat request, whole or as a stream."""
    body = request.json
    played = play(_openai_turn(body))
    calls = [
        {
            "index": index,
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for index, (name, arguments) in enumerate(played.calls)
    ]
    head = {"id": "c1", "created": 1_700_000_000, "model": body.get("model", "m")}
    reason = "tool_calls" if calls else "stop"
    if body.get("stream"):
        split = 0 if "whole" in request.headers.get("host", "") else 4
        return _sse(_openai_events(head, played, calls, reason, split))
    message = {"role": "assistant", "content": played.text or None}
    if played.thought:
        message["reasoning_content"] = played.thought
    if calls:
        message["tool_calls"] = [_without_index(call) for call in calls]
    choice = {"index": 0, "message": message, "finish_reason": reason}
    object_name = {"object": "chat.completion"}
    return json_answer({**head, **object_name, "choices": [choice], "usage": _USAGE})


def _without_index(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name != "index"}


def _openai_events(
    head: Mapping[str, Any],
    played: Played,
    calls: Sequence[Any],
    reason: str,
    split: int,
) -> Iterator[Any]:
    """Yield the events of a stream; arguments of calls arrive in two pieces, the first
    of `split` characters, or whole if it is 0."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": played.thought}] if played.thought else []
    deltas += [{"content": fragment} for fragment in played.halves]
    for call in calls:
        arguments = call["function"]["arguments"]
        size = split or len(arguments)
        first = {**call["function"], "arguments": arguments[:size]}
        deltas += [{"tool_calls": [{**call, "function": first}]}]
        if split:
            remainder = {"arguments": arguments[size:]}
            fragment = {"index": call["index"], "function": remainder}
            deltas += [{"tool_calls": [fragment]}]
    chunk = {**head, "object": "chat.completion.chunk"}
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        yield {**chunk, "choices": [choice]}
    last = {"index": 0, "delta": {}, "finish_reason": reason}
    yield {**chunk, "choices": [last], "usage": _USAGE}
    yield "[DONE]"


def _sse(events: Iterable[Any], names: bool = False) -> Answer:
    """Return events as a stream; with `names`, their type is the name of the event."""
    lines: list[bytes] = []
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        name = f"event: {event['type']}\n" if names else ""
        lines.append(f"{name}data: {data}\n\n".encode())
    return stream_answer(lines)


def openai_embeddings(request: UpstreamRequest) -> Answer:
    """Answer with a vector of length and number for each text."""
    body = request.json
    texts = body.get("input") or body.get("texts") or []
    texts = [texts] if isinstance(texts, str) else texts
    vectors = [vector_of(text) for text in texts]
    packed = body.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _packed(vector) if packed else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return json_answer(
        {"object": "list", "model": body.get("model"), "data": data, "usage": usage}
    )


def vector_of(text: Any) -> list[float]:
    """Return the vector of a text, or of its tokens: it is the same for the same text."""
    if isinstance(text, dict):
        text = text.get("text") or text.get("content")
    text = text if isinstance(text, str) else json.dumps(text)
    return [float(len(text)), float(sum(text.encode()) % 101), 0.5]


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def rerank(request: UpstreamRequest) -> Answer:
    """Answer with the documents by how many words they share with the query."""
    body = request.json
    texts = body.get("documents") or body.get("texts") or body.get("input") or []
    if isinstance(body.get("query"), dict):
        query, texts = body["query"]["text"], [text["text"] for text in texts]
    else:
        query = body.get("query", "")
    terms = set(query.split())
    scored = [
        {
            "index": index,
            "relevance_score": len(terms & set(_document(text).split())) / 10,
            **_returned_document(request, text),
        }
        for index, text in enumerate(texts)
    ]
    # Vendors have one of two names for it.
    named = [{**entry, "score": entry["relevance_score"]} for entry in scored]
    results = sorted(named, key=lambda entry: -entry["score"])
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    usage = {"total_tokens": 3}
    return json_answer(
        {"id": "r1", "results": results, "data": results, "meta": meta, "usage": usage}
    )


def _returned_document(request: UpstreamRequest, text: Any) -> dict[str, Any]:
    """Return the field with a document, which vendors have if they are asked for it."""
    if request.json.get("return_input"):
        return {"input": _document(text)}
    if not request.json.get("return_documents"):
        return {}
    is_plain = "voyage" in request.headers.get("host", "")
    return {"document": _document(text) if is_plain else {"text": _document(text)}}


def _document(text: Any) -> str:
    return text if isinstance(text, str) else str(text.get("text", ""))


def speech(request: UpstreamRequest) -> Answer:
    """Answer with bytes that name the text."""
    body = request.json
    sound = f"sound of {body.get('input') or body.get('text')}".encode()
    return Answer(headers={"content-type": "audio/mpeg"}, body=sound)


def pictures(request: UpstreamRequest) -> Answer:
    """Answer with the address of a picture."""
    del request
    images = [{"url": "https://page.example/picture.png"}]
    return json_answer({"created": 1, "data": images, "images": images, "seed": 1})


def transcription(request: UpstreamRequest) -> Answer:
    """Answer with a fixed transcript if the request has a recording."""
    return json_answer({"text": "transcribed" if b"RECORDING" in request.body else ""})


def moderation(request: UpstreamRequest) -> Answer:
    """Flag texts that contain "bad"."""
    texts = request.json.get("input") or []
    texts = [texts] if isinstance(texts, str) else texts
    results = [
        {
            "flagged": "bad" in str(text),
            "categories": {"hate": "bad" in str(text)},
            "category_scores": {"hate": 0.9 if "bad" in str(text) else 0.1},
        }
        for text in texts
    ]
    return json_answer({"id": "m1", "model": "m", "results": results})


def model_list(request: UpstreamRequest) -> Answer:
    """Answer with one model."""
    del request
    model = {"id": "m", "object": "model", "created": 1, "owned_by": "played"}
    return json_answer({"object": "list", "data": [model], "models": []})


# ----------------------------------------------------------------------------- Anthropic


def _anthropic_turn(body: Any) -> Turn:
    """Read a request in Anthropic's format."""
    messages = body.get("messages") or []
    tools = body.get("tools") or []
    turn = Turn(wants_json="with JSON" in json.dumps(messages))
    turn.tool = tools[0]["name"] if tools else ""
    for message in messages:
        blocks = message["content"]
        if isinstance(blocks, str):
            blocks = [{"type": "text", "text": blocks}]
        if message["role"] == "assistant":
            turn.has_thoughts |= any(
                block.get("signature") == signature() for block in blocks
            )
        else:
            _read_anthropic_blocks(turn, blocks)
    return turn


def _read_anthropic_blocks(turn: Turn, blocks: Sequence[Any]) -> None:
    """Add a message of the user, or the results of tools, to what a request asks for."""
    results = [block for block in blocks if block["type"] == "tool_result"]
    if results:
        turn.results += [_text(block.get("content")) for block in results]
        return
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    turn.text, turn.results = "".join(texts), []


def signature() -> str:
    """Return the signature of a thought, which a vendor wants back unchanged."""
    return base64.b64encode(hashlib.sha256(THOUGHT.encode()).digest()).decode()


def anthropic_messages(request: UpstreamRequest) -> Answer:
    """Answer a request in Anthropic's format, whole or as a stream."""
    body = request.json
    played = play(_anthropic_turn(body))
    thinks = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
    blocks: list[dict[str, Any]] = []
    if played.thought and thinks:
        blocks.append(
            {"type": "thinking", "thinking": played.thought, "signature": signature()}
        )
    if played.text:
        blocks.append({"type": "text", "text": played.text})
    blocks += [
        {
            "type": "tool_use",
            "id": f"toolu_{index}",
            "name": name,
            "input": json.loads(arguments),
        }
        for index, (name, arguments) in enumerate(played.calls)
    ]
    reason = "tool_use" if played.calls else "end_turn"
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": blocks,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 11, "output_tokens": 5},
    }
    if body.get("stream"):
        return _sse(_anthropic_events(message), names=True)
    return json_answer(message)


def _anthropic_events(message: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the events of a stream."""
    yield {
        "type": "message_start",
        "message": {**message, "content": [], "stop_reason": None},
    }
    for index, block in enumerate(message["content"]):
        start, deltas = _anthropic_block(block)
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 5}}
    yield {"type": "message_stop"}


def _anthropic_block(block: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """Return the start of a block and its deltas."""
    match block["type"]:
        case "thinking":
            start = {"type": "thinking", "thinking": "", "signature": ""}
            thought = {"type": "thinking_delta", "thinking": block["thinking"]}
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return start, [thought, signed]
        case "text":
            text = block["text"]
            fragments = (text[:3], text[3:])
            return {"type": "text", "text": ""}, [
                {"type": "text_delta", "text": fragment} for fragment in fragments
            ]
        case _:
            text = json.dumps(block["input"])
            return {**block, "input": {}}, [
                {"type": "input_json_delta", "partial_json": fragment}
                for fragment in (text[:4], text[4:])
            ]


# -------------------------------------------------------------------------------- Ollama


def ollama_chat(request: UpstreamRequest) -> Answer:
    """Answer a chat request in Ollama's format, whole or as lines."""
    body = request.json
    turn = _openai_turn(body)
    turn.wants_json = turn.wants_json or bool(body.get("format"))
    played = play(turn)
    message: dict[str, Any] = {"role": "assistant", "content": played.text}
    message["tool_calls"] = [
        {"function": {"name": name, "arguments": json.loads(arguments)}}
        for name, arguments in played.calls
    ]
    end = {
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 11,
        "eval_count": 5,
    }
    head = {"model": body["model"], "created_at": "2026-01-01T00:00:00Z"}
    empty = {"role": "assistant", "content": ""}
    thought = {"thinking": played.thought} if played.thought else {}
    if not body.get("stream", True):
        return json_answer({**head, "message": {**message, **thought}, **end})
    lines: list[Any] = []
    if thought:
        lines.append({**head, "message": {**empty, **thought}, "done": False})
    lines.append({**head, "message": message, "done": False})
    lines += [{**head, "message": empty, **end}]
    pieces = [json.dumps(line).encode() + b"\n" for line in lines]
    return Answer(headers={"content-type": "application/x-ndjson"}, pieces=pieces)


def ollama_embed(request: UpstreamRequest) -> Answer:
    """Answer with vectors in Ollama's format."""
    body = request.json
    texts = body.get("input") or body.get("prompt") or []
    texts = [texts] if isinstance(texts, str) else texts
    vectors = [vector_of(text) for text in texts]
    first = {"embedding": vectors[0]} if vectors else {}
    return json_answer(
        {"embeddings": vectors, **first, "prompt_eval_count": len(texts)}
    )


# -------------------------------------------------------------------------------- Gemini


def _gemini_turn(body: Any) -> Turn:
    """Read a request in Gemini's format."""
    config = body.get("generationConfig") or {}
    tools = body.get("tools") or ()
    declared = [
        function["name"]
        for tool in tools
        for function in tool.get("functionDeclarations") or ()
    ]
    turn = Turn(tool=declared[0] if declared else "")
    turn.wants_json = "json" in str(config.get("responseMimeType", ""))
    for content in body.get("contents") or ():
        _read_gemini_content(turn, content.get("role"), content.get("parts") or [])
    return turn


def _read_gemini_content(turn: Turn, role: str, parts: Sequence[Any]) -> None:
    """Add a message in Gemini's format to what a request asks for."""
    results = [part["functionResponse"] for part in parts if "functionResponse" in part]
    if role == "model":
        turn.has_thoughts |= any("thoughtSignature" in part for part in parts)
    elif results:
        turn.results += [json.dumps(result["response"]) for result in results]
    else:
        turn.text = "".join(part.get("text") or "" for part in parts)
        turn.results = []
        turn.wants_json |= "with JSON" in turn.text


def gemini_generate(request: UpstreamRequest) -> Answer:
    """Answer a request in Gemini's format, whole or as a stream."""
    played = play(_gemini_turn(request.json))
    parts: list[dict[str, Any]] = []
    if played.thought:
        parts.append({"text": played.thought, "thought": True})
    if played.text:
        parts.append({"text": played.text, "thoughtSignature": signature()})
    parts += [
        {"functionCall": {"name": name, "args": json.loads(arguments)}}
        for name, arguments in played.calls
    ]
    candidate = {
        "content": {"role": "model", "parts": parts},
        "finishReason": "STOP",
        "index": 0,
    }
    usage = {"promptTokenCount": 11, "candidatesTokenCount": 5, "totalTokenCount": 16}
    document = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m"}
    if "streamGenerateContent" in request.path:
        return _sse([document])
    return json_answer(document)


def gemini_embed(request: UpstreamRequest) -> Answer:
    """Answer with a vector for each content."""
    requests = request.json.get("requests") or []
    texts = [
        "".join(part["text"] for part in item["content"]["parts"]) for item in requests
    ]
    return json_answer({"embeddings": [{"values": vector_of(text)} for text in texts]})


def gemini_count(request: UpstreamRequest) -> Answer:
    """Answer with a number of tokens."""
    del request
    return json_answer({"totalTokens": 7})


# -------------------------------------------------------------------------------- Cohere


def cohere_chat(request: UpstreamRequest) -> Answer:
    """Answer a request in Cohere's second format, whole or as a stream."""
    body = request.json
    played = play(_openai_turn(body))
    calls = [
        {
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for index, (name, arguments) in enumerate(played.calls)
    ]
    usage = {
        "billed_units": {"input_tokens": 11, "output_tokens": 5},
        "tokens": {"input_tokens": 11, "output_tokens": 5},
    }
    reason = "TOOL_CALL" if calls else "COMPLETE"
    content = [{"type": "text", "text": played.text}] if played.text else []
    message: dict[str, Any] = {"role": "assistant", "content": content}
    message |= {"tool_calls": calls} if calls else {}
    if not body.get("stream"):
        return json_answer(
            {"id": "c1", "message": message, "finish_reason": reason, "usage": usage}
        )
    return _sse(_cohere_events(played, calls, reason, usage), names=True)


def _cohere_events(
    played: Played, calls: Sequence[Any], reason: str, usage: Any
) -> Iterator[Any]:
    """Yield the events of a stream."""
    start = {
        "role": "assistant",
        "content": [],
        "tool_plan": "",
        "tool_calls": [],
        "citations": [],
    }
    yield {"type": "message-start", "id": "c1", "delta": {"message": start}}
    if played.text:
        text = {"type": "text", "text": ""}
        yield {
            "type": "content-start",
            "index": 0,
            "delta": {"message": {"content": text}},
        }
        for fragment in played.halves:
            delta = {"message": {"content": {"text": fragment}}}
            yield {"type": "content-delta", "index": 0, "delta": delta}
        yield {"type": "content-end", "index": 0}
    for index, call in enumerate(calls):
        begun = {**call, "function": {**call["function"], "arguments": ""}}
        yield {
            "type": "tool-call-start",
            "index": index,
            "delta": {"message": {"tool_calls": begun}},
        }
        remainder = {"function": {"arguments": call["function"]["arguments"]}}
        yield {
            "type": "tool-call-delta",
            "index": index,
            "delta": {"message": {"tool_calls": remainder}},
        }
        yield {"type": "tool-call-end", "index": index}
    yield {
        "type": "message-end",
        "id": "c1",
        "delta": {"finish_reason": reason, "usage": usage},
    }


def cohere_first_chat(request: UpstreamRequest) -> Answer:
    """Answer a request in Cohere's first format, whole or as lines."""
    body = request.json
    text = body.get("message") or ""
    played = play(Turn(text=text, wants_json="with JSON" in text))
    units = {"input_tokens": 11, "output_tokens": 5}
    response = {
        "text": played.text,
        "generation_id": "g1",
        "response_id": "r1",
        "finish_reason": "COMPLETE",
        "chat_history": [],
        "meta": {"billed_units": units, "tokens": units},
    }
    if not body.get("stream"):
        return json_answer(response)
    lines: list[Any] = [{"event_type": "stream-start", "generation_id": "g1"}]
    lines += [{"event_type": "text-generation", "text": text} for text in played.halves]
    end = {"event_type": "stream-end", "finish_reason": "COMPLETE"}
    lines.append({**end, "response": response})
    pieces = [
        json.dumps({"is_finished": line is lines[-1], **line}).encode() + b"\n"
        for line in lines
    ]
    return Answer(headers={"content-type": "application/stream+json"}, pieces=pieces)


def cohere_tokens(request: UpstreamRequest) -> Answer:
    """Answer with a token for each word."""
    strings = str(request.json.get("text") or "").split()
    tokens = [*range(len(strings))]
    return json_answer({"tokens": tokens, "token_strings": strings})


def cohere_embed(request: UpstreamRequest) -> Answer:
    """Answer with vectors in Cohere's format."""
    texts = request.json.get("texts") or []
    vectors = [vector_of(text) for text in texts]
    by_type = bool(request.json.get("embedding_types"))
    meta = {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": len(texts)},
    }
    return json_answer(
        {
            "id": "e1",
            "texts": texts,
            "embeddings": {"float": vectors} if by_type else vectors,
            "response_type": "embeddings_by_type" if by_type else "embeddings_floats",
            "meta": meta,
        }
    )


# ------------------------------------------------------------------------------ dispatch

_ROUTES: Sequence[tuple[str, Callable[[UpstreamRequest], Answer]]] = (
    (r"/chat/completions", openai_chat),
    (r"/messages", anthropic_messages),
    (r"/api/chat", ollama_chat),
    (r"/api/embed(dings)?", ollama_embed),
    (r":(streamG|g)enerateContent", gemini_generate),
    (r":batchEmbedContents", gemini_embed),
    (r":countTokens", gemini_count),
    (r"/v2/chat", cohere_chat),
    (r"/v1/chat", cohere_first_chat),
    (r"/v1/tokenize", cohere_tokens),
    (r"/v[12]/embed", cohere_embed),
    (r"/embeddings", openai_embeddings),
    (r"/rerank(ing)?", rerank),
    (r"/images/generations", pictures),
    (r"/audio/speech", speech),
    (r"/audio/transcriptions", transcription),
    (r"/moderations", moderation),
    (r"/models(/[^/]+)?|/api/tags", model_list),
)


def answer(request: UpstreamRequest) -> Answer:
    """Answer a request in the format of its path, or with the error of its key."""
    if request.method == "HEAD":
        return Answer(status=404)
    path = request.path.partition("?")[0]
    if (status := FAULTS.get(key_of(request))) is not None:
        return refusal(status)
    for pattern, handle in _ROUTES:
        if re.search(pattern + "$", path):
            return handle(request)
    return json_answer({"error": {"message": f"No such path: {path}"}}, status=404)


def key_of(request: UpstreamRequest) -> str:
    """Return the key of a request, wherever vendors have it."""
    for name in (
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "xi-api-key",
    ):
        if value := request.headers.get(name, ""):
            return value.rpartition(" ")[2]
    match = re.search(r"[?&](?:api_)?key=([^&]*)", request.path)
    return match[1] if match else ""


def refusal(status: int) -> Answer:
    """Return an error as most vendors write it."""
    texts = {
        401: ("Incorrect API key provided", "authentication_error", "invalid_api_key"),
        429: (
            "Rate limit reached for requests",
            "rate_limit_error",
            "rate_limit_exceeded",
        ),
        500: ("The server had an error", "api_error", "internal_error"),
    }
    message, kind, code = texts[status]
    error = {"message": message, "type": kind, "code": code, "param": None}
    return json_answer(
        {"type": "error", "error": error, "message": message}, status=status
    )
