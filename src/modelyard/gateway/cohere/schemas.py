"""JSON schemas of Cohere's API, version 2 (https://docs.cohere.com/reference/chat), and
of Jina's rerank API."""

from modelyard.gateway.schemas import (
    ANYTHING,
    FLAG,
    INTEGER,
    NUMBER,
    OBJECT,
    TEXT,
    any_of,
    list_of,
    object_schema,
    or_null,
)

CHAT_REQUEST = object_schema(
    {"model": TEXT, "messages": list_of(object_schema({"role": TEXT}))},
    stream=FLAG,
    tools=list_of(OBJECT),
    temperature=NUMBER,
    max_tokens=INTEGER,
    documents=list_of(ANYTHING),
)
CHAT_ANSWER = object_schema(
    {
        "id": TEXT,
        "finish_reason": TEXT,
        "message": object_schema({"role": {"const": "assistant"}}, content=ANYTHING),
    },
    usage=or_null(OBJECT),
)
EMBED_REQUEST = object_schema(
    {"model": TEXT},
    texts=list_of(TEXT),
    images=list_of(TEXT),
    inputs=list_of(OBJECT),
    input_type=TEXT,
    embedding_types=list_of(TEXT),
)
EMBED_ANSWER = object_schema(
    {"id": TEXT, "embeddings": OBJECT}, texts=list_of(TEXT), meta=OBJECT
)
RERANK_REQUEST = object_schema(
    {"model": TEXT, "query": ANYTHING, "documents": list_of(ANYTHING)},
    top_n=or_null(INTEGER),
)
# A ranked document is an object or a text.
_RANKED = object_schema(
    {"index": INTEGER, "relevance_score": NUMBER}, document=any_of(OBJECT, TEXT)
)
RERANK_ANSWER = object_schema({"id": TEXT, "results": list_of(_RANKED)}, meta=OBJECT)
JINA_ANSWER = object_schema(
    {"results": list_of(_RANKED)}, id=TEXT, model=TEXT, usage=OBJECT
)
