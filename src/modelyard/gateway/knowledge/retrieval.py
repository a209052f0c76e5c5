"""What a dataset answers to a question."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from modelyard.gateway.http import Reply, StreamReply, encode, json_reply, sse_reply
from modelyard.gateway.knowledge import shapes
from modelyard.gateway.knowledge.calls import Asked, DatasetParts, converted
from modelyard.gateway.service.calls import (
    ServiceError,
    error_document,
)
from modelyard.knowledge.answer import Manner
from modelyard.knowledge.entities import (
    ExternalRetrieval,
    RetrievalSettings,
)
from modelyard.knowledge.retrieve import Asking


class RetrievalCalls:
    """Searches in a dataset, and answers from it."""

    def __init__(self, parts: DatasetParts) -> None:
        self._parts = parts

    async def retrieve(self, asked: Asked) -> Reply:
        dataset, body = await asked.dataset(), asked.body
        query = body.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ServiceError(400, "invalid_param", "query is required")
        if len(query) > 4000:
            raise ServiceError(400, "invalid_param", "query has more than 4,000 characters")
        settings = None
        if body.get("retrieval_model") is not None:
            settings = converted(body["retrieval_model"], RetrievalSettings, "retrieval_model")
        if body.get("external_retrieval_model") is not None:
            wanted = converted(body["external_retrieval_model"], ExternalRetrieval, "external_retrieval_model")
            kept = msgspec.structs.replace(dataset.settings, external_retrieval_model=wanted)
            dataset = msgspec.structs.replace(dataset, settings=kept)
        found = await asked.datasets.search(asked.tenant, [dataset.id], query, settings=settings)
        return json_reply({
            "query": {"content": query}, "records": [shapes.record_shape(one) for one in found.hits],
            "notes": found.notes, "milliseconds": {name: round(ms, 2) for name, ms in found.milliseconds.items()},
        })  # fmt: skip

    async def ask(self, asked: Asked) -> Reply | StreamReply:
        """An answer with its citations, whole or in events: `sources`, `text`, `answer`. Ours."""
        dataset, body = await asked.dataset(), asked.body
        query = body.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ServiceError(400, "invalid_param", "query is required")
        checks = body.get("check") or "words"
        if checks not in ("off", "words", "model"):
            raise ServiceError(400, "invalid_param", "check must be off, words or model")
        settings = None
        if body.get("retrieval_model") is not None:
            settings = converted(body["retrieval_model"], RetrievalSettings, "retrieval_model")
        asking = Asking(tenant=asked.tenant, query=query, settings=settings, source="ask")
        manner = Manner(model=str(body.get("model") or "default"), checks=checks)
        answerer = self._parts.answerer
        if not body.get("stream"):
            return json_reply(msgspec.to_builtins(await answerer.ask([dataset.id], asking, manner)))
        events = answerer.stream([dataset.id], asking, manner)

        async def pieces() -> AsyncGenerator[bytes, None]:
            async with aclosing(events):
                async for kind, value in events:
                    yield b"data: " + encode({"event": kind, "data": msgspec.to_builtins(value)}) + b"\n\n"

        return sse_reply(pieces(), lambda error: b"data: " + encode(error_document(error)) + b"\n\n")

    async def queries(self, asked: Asked) -> Reply:
        dataset = await asked.dataset()
        rows = await asked.datasets.stored.queries.newest(asked.tenant, dataset.id, asked.number("limit", 20))
        return json_reply({"data": [dict(row) for row in rows]})
