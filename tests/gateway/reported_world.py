"""A gateway with the providers that the reported cases name, all on one scripted server,
which answers each path in its own format."""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import httpx

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.testing import (
    Answer,
    Handler,
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    json_answer,
    stream_answer,
)
from tests.gateway.conftest import Running

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
JSON = dict[str, Any]
WIRES = {
    "oai": "openai",
    "ant": "anthropic",
    "gem": "gemini",
    "rsp": "openai_responses",
}
AWS = {"auth_method": "api_key", "api_key": "k", "aws_region": "us-east-1"}
HI: list[JSON] = [{"role": "user", "content": "hi"}]


class Vendors:
    """A gateway, one server for all its providers, and a caller."""

    def __init__(
        self, start_gateway: Start, upstream: Play, *catalogue: str, **changes: Any
    ) -> None:
        """`catalogue`: names of catalogue providers beside those named by format."""
        self.script: list[Answer] = []
        self.upstream = upstream(self.answer)
        named = [self._provider(name, wire=wire) for name, wire in WIRES.items()]
        known = [self._provider(name) for name in catalogue]
        own = changes.pop("providers", [])
        providers = [*named, *known, *own]
        self.running = start_gateway(providers=providers, **changes)

    def _provider(self, name: str, **fields: Any) -> ProviderSettings:
        """Return the settings of a provider at the scripted server."""
        values = {"api_key": "k"}
        if name == "bedrock":
            values = AWS
        elif name == "azure_openai":
            values = {**values, "endpoint": self.upstream.url.removesuffix("/v1")}
        return ProviderSettings(
            name=name,
            base_url=self.upstream.url,
            credentials=[CredentialSettings(values=values)],
            **fields,
        )

    def answer(self, request: UpstreamRequest) -> Answer:
        """Return the next answer of the script, else a usual one."""
        return self.script.pop(0) if self.script else plain_answer(request)

    def post(
        self, path: str, body: JSON, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a request with a JSON body."""
        url = self.running.origin + path
        return httpx.post(url, json=body, headers=dict(headers or {}), timeout=30)

    def ask(
        self, path: str, body: JSON, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a request that has to succeed."""
        answer = self.post(path, body, headers)
        assert answer.status_code == 200, answer.text
        return answer

    def chat(self, model: str, **fields: Any) -> httpx.Response:
        """Send a chat in OpenAI's format, which has to succeed."""
        body = {"model": model, "messages": HI, **fields}
        return self.ask("/v1/chat/completions", body)

    def messages(self, model: str, **fields: Any) -> httpx.Response:
        """Send a chat in Anthropic's format, which has to succeed."""
        body = {"model": model, "max_tokens": 2000, "messages": HI, **fields}
        return self.ask("/v1/messages", body)

    def responses(self, model: str, **fields: Any) -> httpx.Response:
        """Send a chat in the format of the Responses API, which has to succeed."""
        return self.ask("/v1/responses", {"model": model, "input": "hi", **fields})

    @property
    def sent(self) -> Any:
        """The body that the server got last."""
        return self.upstream.requests[-1].json

    @property
    def sent_text(self) -> str:
        """The body that the server got last, as text."""
        return json.dumps(self.sent, ensure_ascii=False)


def dropped(answer: httpx.Response) -> set[str]:
    """Return the fields that an answer says are left out."""
    names = answer.headers.get("x-modelyard-dropped", "")
    return {*names.split(", ")} - {""}


def events_in(answer: httpx.Response) -> list[Any]:
    """Return the data of a stream's events, without `[DONE]`."""
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def sse(*documents: Any) -> Answer:
    """Return a stream of events, which are named by their type if they have one."""
    return stream_answer([_event(document) for document in documents])


def _event(document: Any) -> bytes:
    """Return one server-sent event."""
    head = f"event: {document['type']}\n" if "type" in document else ""
    return f"{head}data: {json.dumps(document)}\n\n".encode()


# --------------------------------------------------------------- usual answers by format


def plain_answer(request: UpstreamRequest) -> Answer:
    """Answer "hello" in the format of the path, as a stream if that is asked for."""
    path = unquote(request.path.partition("?")[0])
    is_stream = bool(request.json.get("stream")) or "stream" in path.lower()
    answers = _streams() if is_stream else _wholes()
    kinds = ("enerateContent", "/messages", "/responses", "/converse", "/api/chat")
    return answers[next((kind for kind in kinds if kind in path), "")]


def _wholes() -> dict[str, Answer]:
    """Return a whole answer for a part of each format's path."""
    block = {"type": "text", "text": "hello"}
    return {
        "enerateContent": json_answer(gemini_document([{"text": "hello"}])),
        "/messages": json_answer(message(block)),
        "/responses": json_answer(response(text_item("hello"))),
        "/converse": json_answer(converse([{"text": "hello"}])),
        "/api/chat": json_answer(OLLAMA),
        "": chat_answer("hello"),
    }


def _streams() -> dict[str, Answer]:
    """Return a streamed answer for a part of each format's path."""
    return {
        "enerateContent": sse(gemini_document([{"text": "hello"}])),
        "/messages": message_stream({"type": "text", "text": "hello"}),
        "/responses": response_stream(text_item("hello")),
        "": stream_answer(chat_events(["hello"])),
    }


OLLAMA: JSON = {
    "model": "m",
    "message": {"role": "assistant", "content": "hello"},
    "done": True,
    "done_reason": "stop",
}


def gemini_document(
    parts: list[Any], *, finish: str = "STOP", **candidate: Any
) -> JSON:
    """Return an answer of Google's API, or one event of its stream."""
    content = {"role": "model", "parts": parts}
    fields = {"finishReason": finish} if finish else {}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10}
    candidates = [{"content": content, "index": 0, **fields, **candidate}]
    return {"candidates": candidates, "usageMetadata": usage, "responseId": "r1"}


def message(*blocks: JSON, stop_reason: str = "end_turn") -> JSON:
    """Return an answer of Anthropic's API."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": list(blocks),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }


def message_stream(*blocks: JSON, stop_reason: str = "end_turn") -> Answer:
    """Return an answer of Anthropic's API as a stream; each text comes in one piece."""
    events: list[JSON] = [
        {"type": "message_start", "message": {**message(), "stop_reason": None}}
    ]
    for index, block in enumerate(blocks):
        events += _block_events(index, block)
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    usage = {"output_tokens": 3}
    events.append({"type": "message_delta", "delta": delta, "usage": usage})
    return sse(*events, {"type": "message_stop"})


def _block_events(index: int, block: JSON) -> list[JSON]:
    """Return the events of one block."""
    start, deltas = block, list[JSON]()
    if block["type"] == "text":
        start = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": block["text"]}]
    elif block["type"] == "tool_use":
        start = {**block, "input": {}}
        text = json.dumps(block["input"])
        deltas = [{"type": "input_json_delta", "partial_json": text}]
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": d} for d in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text_item(text: str, *annotations: JSON) -> JSON:
    """Return a message item of the Responses API."""
    part = {"type": "output_text", "text": text, "annotations": list(annotations)}
    item = {"type": "message", "id": "msg_1", "role": "assistant"}
    return {**item, "status": "completed", "content": [part]}


def response(*items: JSON) -> JSON:
    """Return an answer of the Responses API."""
    usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m"}
    return {**head, "status": "completed", "output": list(items), "usage": usage}


def response_stream(*items: JSON) -> Answer:
    """Return an answer of the Responses API as a stream of complete items."""
    events = [
        {"type": "response.output_item.done", "output_index": index, "item": item}
        for index, item in enumerate(items)
    ]
    started = {**response(), "status": "in_progress", "usage": None}
    documents = [
        {"type": "response.created", "response": started},
        *events,
        {"type": "response.completed", "response": response(*items)},
    ]
    return sse(*({**each, "sequence_number": n} for n, each in enumerate(documents)))


def converse(content: list[JSON]) -> JSON:
    """Return an answer of Bedrock's Converse API."""
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10},
    }


def chat_chunk(delta: JSON, finish: str | None = None) -> JSON:
    """Return one chunk of a stream in OpenAI's chat format."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "choices": [choice]}


def chat_stream(*deltas: JSON, finish: str = "stop") -> Answer:
    """Return a stream in OpenAI's chat format."""
    chunks = [chat_chunk(delta) for delta in deltas]
    answer = sse(*chunks, chat_chunk({}, finish))
    return stream_answer([*(answer.pieces or ()), b"data: [DONE]\n\n"])
