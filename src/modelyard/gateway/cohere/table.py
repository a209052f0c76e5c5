"""Cohere's API and Jina's rerank: what is served of them, and by whom."""

from modelyard.base.clock import Clock
from modelyard.gateway.cohere import rerank, schemas, version_two
from modelyard.gateway.errors import COHERE, OPENAI, ErrorShape
from modelyard.gateway.table import DEVELOPER, Api, Row, Schema, whole_or_events
from modelyard.runtime.model_manager import ModelManager


def api(manager: ModelManager, clock: Clock) -> Api:
    """Version 2 of the API on these models."""
    rows = (
        Row(
            method="POST",
            path="/v2/chat",
            auth=DEVELOPER,
            summary="Answer a chat.",
            takes=Schema(schemas.CHAT_REQUEST),
            answer=whole_or_events(schemas.CHAT_ANSWER),
            handler=version_two.ChatRoute(manager, clock),
        ),
        Row(
            method="POST",
            path="/v2/embed",
            auth=DEVELOPER,
            summary="Turn texts or images into vectors.",
            takes=Schema(schemas.EMBED_REQUEST),
            answer=Schema(schemas.EMBED_ANSWER),
            handler=version_two.EmbedRoute(manager),
        ),
        Row(
            method="POST",
            path="/v2/rerank",
            auth=DEVELOPER,
            summary="Order documents by how well they answer.",
            takes=Schema(schemas.RERANK_REQUEST),
            answer=Schema(schemas.RERANK_ANSWER),
            handler=version_two.RerankRoute(manager),
        ),
    )
    return _api("cohere", "Cohere's API", "Chat, embeddings and rerank, for Cohere's clients.", "/v2", COHERE, rows)


def jina_api(manager: ModelManager) -> Api:
    """The rerank that Jina, and servers of open models, offer beside OpenAI's API."""
    rows = (
        Row(
            method="POST",
            path="/v1/rerank",
            auth=DEVELOPER,
            summary="Order documents by how well they answer.",
            takes=Schema(schemas.RERANK_REQUEST),
            answer=Schema(schemas.JINA_ANSWER),
            handler=rerank.Route(manager),
        ),
    )
    return _api("jina", "Jina's rerank", "Rerank, as servers of open models offer it.", "/v1/rerank", OPENAI, rows)


def _api(name: str, title: str, about: str, prefix: str, errors: ErrorShape, rows: tuple[Row, ...]) -> Api:
    return Api(name=name, title=title, about=about, prefixes=(prefix,), errors=errors, rows=rows)
