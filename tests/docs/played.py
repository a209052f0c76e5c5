"""A server with OpenAI's API that plays the models of the pages: it answers at once, and
the same for the same question."""

import re
from collections.abc import Sequence
from typing import Any
from zlib import crc32

from modelyard.testing import (
    Answer,
    UpstreamRequest,
    chat_answer,
    chat_events,
    embedding_answer,
    json_answer,
    stream_answer,
)

_DIMENSIONS = 64
_REPLIES = {
    "category_id": '{"category_id": "order", "category_name": "Order status"}',
    "founded": "The documents do not say.",
    "warranty": "The warranty of a battery lasts two years [1].",
}
"""A text in the request, and the reply to it; the first that fits."""


def played(request: UpstreamRequest) -> Answer:
    """Answer a chat, an embedding or a rerank call."""
    document = request.json
    if request.path.endswith("/embeddings"):
        return embedding_answer([_vector(text) for text in document["input"]])
    if request.path.endswith("/rerank"):
        return json_answer({"results": _ranking(document)})
    reply = _reply(request.body.decode())
    if request.path.endswith("/responses"):
        return json_answer(_response(reply))
    if document.get("stream"):
        return stream_answer(chat_events([reply]))
    return chat_answer(reply)


def _reply(request_text: str) -> str:
    fitting = (reply for text, reply in _REPLIES.items() if text in request_text)
    return next(fitting, "Hello.")


def _response(reply: str) -> dict[str, Any]:
    """Return a complete response in the format of OpenAI's Responses API."""
    content = {"type": "output_text", "text": reply, "annotations": []}
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [content],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "model": "chat",
        "output": [message],
        "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
    }


def _vector(text: str) -> Sequence[float]:
    """Return a vector in which texts with the same words are near each other."""
    vector = [0.01] * _DIMENSIONS
    for token in text.lower().split():
        vector[crc32(token.strip(".,?!").encode()) % _DIMENSIONS] += 1.0
    return vector


def _ranking(document: dict[str, Any]) -> list[dict[str, float]]:
    """Score the documents by the long words of the query that they contain."""
    query = _long_words(document["query"])
    shared = [query & _long_words(text) for text in document["documents"]]
    scores = [len(terms) / max(1, len(query)) for terms in shared]
    return [
        {"index": index, "relevance_score": score} for index, score in enumerate(scores)
    ]


def _long_words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{5,}", text.lower()))
