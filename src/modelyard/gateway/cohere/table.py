"""Route tables of Cohere's API and of Jina's rerank API."""

from modelyard.base.clock import Clock
from modelyard.gateway.cohere import rerank, schemas, version_two
from modelyard.gateway.errors import COHERE, OPENAI, ErrorShape
from modelyard.gateway.table import DEVELOPER, Api, Row, Schema, json_or_events
from modelyard.runtime.model_manager import ModelManager


def api(manager: ModelManager, clock: Clock) -> Api:
    """Return version 2 of Cohere's API for the models of `manager`."""
    rows = (
        Row(
            method="POST",
            path="/v2/chat",
            auth=DEVELOPER,
            summary="Create a chat completion.",
            takes=Schema(schemas.CHAT_REQUEST),
            answer=json_or_events(schemas.CHAT_ANSWER),
            handler=version_two.chat_route(manager, clock),
            calls_model=True,
        ),
        Row(
            method="POST",
            path="/v2/embed",
            auth=DEVELOPER,
            summary="Create embeddings of texts or images.",
            takes=Schema(schemas.EMBED_REQUEST),
            answer=Schema(schemas.EMBED_ANSWER),
            handler=version_two.EmbedRoute(manager),
            calls_model=True,
        ),
        Row(
            method="POST",
            path="/v2/rerank",
            auth=DEVELOPER,
            summary="Rank documents by relevance to a query.",
            takes=Schema(schemas.RERANK_REQUEST),
            answer=Schema(schemas.RERANK_ANSWER),
            handler=version_two.RerankRoute(manager),
            calls_model=True,
        ),
    )
    return _api(
        "cohere",
        "Cohere's API",
        "Chat, embeddings and rerank, for Cohere's clients.",
        "/v2",
        COHERE,
        rows,
    )


def jina_api(manager: ModelManager) -> Api:
    """Return Jina's rerank API, which servers of open models also offer next to
    OpenAI's API."""
    rows = (
        Row(
            method="POST",
            path="/v1/rerank",
            auth=DEVELOPER,
            summary="Rank documents by relevance to a query.",
            takes=Schema(schemas.RERANK_REQUEST),
            answer=Schema(schemas.JINA_ANSWER),
            handler=rerank.Route(manager),
            calls_model=True,
        ),
    )
    # Errors are in OpenAI's format, as the path is part of the same /v1 prefix.
    return _api(
        "jina",
        "Jina's rerank",
        "Rerank in the format of Jina and of open-model servers.",
        "/v1/rerank",
        OPENAI,
        rows,
    )


def _api(
    name: str,
    title: str,
    description: str,
    prefix: str,
    errors: ErrorShape,
    rows: tuple[Row, ...],
) -> Api:
    """Return an API with one path prefix."""
    return Api(
        name=name,
        title=title,
        about=description,
        prefixes=(prefix,),
        errors=errors,
        rows=rows,
    )
