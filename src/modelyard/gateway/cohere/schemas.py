"""The shapes of Cohere's API, version 2 (https://docs.cohere.com/reference/chat), and of Jina's rerank."""

from modelyard.gateway.schemas import (
    ANYTHING,
    FLAG,
    INTEGER,
    NUMBER,
    OBJECT,
    TEXT,
    either,
    list_of,
    or_null,
    thing,
)

CHAT_REQUEST = thing(
    {"model": TEXT, "messages": list_of(thing({"role": TEXT}))},
    stream=FLAG, tools=list_of(OBJECT), temperature=NUMBER, max_tokens=INTEGER, documents=list_of(ANYTHING),
)  # fmt: skip
CHAT_ANSWER = thing(
    {"id": TEXT, "finish_reason": TEXT, "message": thing({"role": {"const": "assistant"}}, content=ANYTHING)},
    usage=or_null(OBJECT),
)  # fmt: skip
EMBED_REQUEST = thing(
    {"model": TEXT}, texts=list_of(TEXT), images=list_of(TEXT), inputs=list_of(OBJECT), input_type=TEXT,
    embedding_types=list_of(TEXT),
)  # fmt: skip
EMBED_ANSWER = thing({"id": TEXT, "embeddings": OBJECT}, texts=list_of(TEXT), meta=OBJECT)
RERANK_REQUEST = thing({"model": TEXT, "query": ANYTHING, "documents": list_of(ANYTHING)}, top_n=or_null(INTEGER))
_RANKED = thing({"index": INTEGER, "relevance_score": NUMBER}, document=either(OBJECT, TEXT))
RERANK_ANSWER = thing({"id": TEXT, "results": list_of(_RANKED)}, meta=OBJECT)
JINA_ANSWER = thing({"results": list_of(_RANKED)}, id=TEXT, model=TEXT, usage=OBJECT)
