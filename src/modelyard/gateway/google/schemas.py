"""JSON schemas of Google's API, as far as it is supported
(https://ai.google.dev/api/generate-content)."""

from modelyard.gateway.schemas import (
    ANYTHING,
    INTEGER,
    NUMBER,
    OBJECT,
    TEXT,
    list_of,
    object_schema,
)

_CONTENT = object_schema(role=TEXT, parts=list_of(OBJECT))
REQUEST = object_schema(
    {"contents": list_of(_CONTENT)},
    systemInstruction=ANYTHING,
    generationConfig=OBJECT,
    tools=list_of(OBJECT),
    toolConfig=OBJECT,
    safetySettings=list_of(OBJECT),
)
ANSWER = object_schema(
    {"usageMetadata": OBJECT, "modelVersion": TEXT},
    # A response without candidates is valid: the prompt can be blocked.
    candidates=list_of(
        object_schema(content=_CONTENT, finishReason=TEXT, index=INTEGER)
    ),
    responseId=TEXT,
    promptFeedback=OBJECT,
)
COUNT_REQUEST = object_schema(contents=list_of(_CONTENT), generateContentRequest=OBJECT)
COUNT = object_schema({"totalTokens": INTEGER})
_VECTOR = object_schema({"values": list_of(NUMBER)})
EMBED_REQUEST = object_schema(
    {"content": _CONTENT}, taskType=TEXT, outputDimensionality=INTEGER
)
EMBED_ANSWER = object_schema({"embedding": _VECTOR})
BATCH_REQUEST = object_schema({"requests": list_of(OBJECT)})
BATCH_ANSWER = object_schema({"embeddings": list_of(_VECTOR)})
MODEL = object_schema(
    {"name": TEXT, "displayName": TEXT, "supportedGenerationMethods": list_of(TEXT)},
    baseModelId=TEXT,
    inputTokenLimit=INTEGER,
    outputTokenLimit=INTEGER,
)
MODELS = object_schema({"models": list_of(MODEL)}, nextPageToken=TEXT)
