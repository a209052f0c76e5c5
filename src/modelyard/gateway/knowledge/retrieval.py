"""Retrieval routes: search a dataset, and answer questions from it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from modelyard.gateway.http import Reply, StreamReply, encode, json_reply, sse_reply
from modelyard.gateway.keep_alive import SSE_COMMENT
from modelyard.gateway.knowledge import shapes
from modelyard.gateway.knowledge.calls import (
    DatasetParts,
    DatasetRequest,
    convert_value,
)
from modelyard.gateway.service.calls import (
    ServiceError,
    error_document,
)
from modelyard.knowledge.answer import AnswerOptions
from modelyard.knowledge.entities import (
    ExternalRetrieval,
    RetrievalSettings,
)
from modelyard.knowledge.retrieve import SearchRequest


class RetrievalCalls:
    """Routes that search a dataset or answer from it."""

    def __init__(self, parts: DatasetParts) -> None:
        self._parts = parts

    async def retrieve(self, request: DatasetRequest) -> Reply:
        """Search the dataset.

        Raises NotFoundError, ServiceError.
        """
        dataset, body = await request.searched_dataset(), request.body
        query = body.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ServiceError(400, "invalid_param", "'query' is required")
        if len(query) > 4000:
            raise ServiceError(
                400, "invalid_param", "'query' has more than 4,000 characters"
            )
        # Without settings in the request, those of the dataset apply.
        settings = None
        if body.get("retrieval_model") is not None:
            settings = convert_value(
                body["retrieval_model"], RetrievalSettings, "retrieval_model"
            )
        external_settings = None
        if body.get("external_retrieval_model") is not None:
            external_settings = convert_value(
                body["external_retrieval_model"],
                ExternalRetrieval,
                "external_retrieval_model",
            )
        retrieval = await request.datasets.search(
            request.tenant,
            [dataset.id],
            query,
            settings=settings,
            external=external_settings,
            reader=request.http_request.caller.reader,
        )
        return json_reply(
            {
                "query": {"content": query},
                "records": [shapes.hit_view(hit) for hit in retrieval.hits],
                "notes": retrieval.notes,
                "milliseconds": {
                    name: round(ms, 2) for name, ms in retrieval.milliseconds.items()
                },
            }
        )

    async def ask(self, request: DatasetRequest) -> Reply | StreamReply:
        """Answer a question with citations, complete or as the events `sources`,
        `text`, `answer`. An extension of the original API.

        Raises NotFoundError, ServiceError.
        """
        dataset, body = await request.searched_dataset(), request.body
        query = body.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ServiceError(400, "invalid_param", "'query' is required")
        # By default the answer is checked word by word against its sources, which needs
        # no model call.
        checks = body.get("check") or "words"
        if checks not in ("off", "words", "model"):
            raise ServiceError(
                400, "invalid_param", "'check' must be off, words or model"
            )
        settings = None
        if body.get("retrieval_model") is not None:
            settings = convert_value(
                body["retrieval_model"], RetrievalSettings, "retrieval_model"
            )
        asking = SearchRequest(
            tenant=request.tenant,
            query=query,
            settings=settings,
            source="ask",
            reader=request.http_request.caller.reader,
        )
        manner = AnswerOptions(model=str(body.get("model") or "default"), checks=checks)
        answerer = self._parts.answerer
        if not body.get("stream"):
            return json_reply(
                msgspec.to_builtins(await answerer.answer([dataset.id], asking, manner))
            )
        events = answerer.stream([dataset.id], asking, manner)

        async def event_chunks() -> AsyncGenerator[bytes, None]:
            """Yield the events as SSE."""
            async with aclosing(events):
                async for event_name, value in events:
                    yield (
                        b"data: "
                        + encode(
                            {"event": event_name, "data": msgspec.to_builtins(value)}
                        )
                        + b"\n\n"
                    )

        return sse_reply(
            event_chunks(),
            lambda error: b"data: " + encode(error_document(error)) + b"\n\n",
            keep_alive=SSE_COMMENT,
        )

    async def queries(self, request: DatasetRequest) -> Reply:
        """List the latest queries to the dataset."""
        dataset = await request.dataset()
        rows = await request.datasets.store.queries.newest(
            request.tenant, dataset.id, request.number("limit", 20)
        )
        return json_reply({"data": [dict(row) for row in rows]})
