"""The shapes of Google's API, as far as it is served (https://ai.google.dev/api/generate-content)."""

from modelyard.gateway.schemas import ANYTHING, INTEGER, NUMBER, OBJECT, TEXT, list_of, thing

_CONTENT = thing(role=TEXT, parts=list_of(OBJECT))
REQUEST = thing(
    {"contents": list_of(_CONTENT)},
    systemInstruction=ANYTHING, generationConfig=OBJECT, tools=list_of(OBJECT), toolConfig=OBJECT,
    safetySettings=list_of(OBJECT),
)  # fmt: skip
ANSWER = thing(
    {"usageMetadata": OBJECT, "modelVersion": TEXT},
    candidates=list_of(thing(content=_CONTENT, finishReason=TEXT, index=INTEGER)), responseId=TEXT,
    promptFeedback=OBJECT,
)  # fmt: skip
COUNT_REQUEST = thing(contents=list_of(_CONTENT), generateContentRequest=OBJECT)
COUNT = thing({"totalTokens": INTEGER})
_VECTOR = thing({"values": list_of(NUMBER)})
EMBED_REQUEST = thing({"content": _CONTENT}, taskType=TEXT, outputDimensionality=INTEGER)
EMBED_ANSWER = thing({"embedding": _VECTOR})
BATCH_REQUEST = thing({"requests": list_of(OBJECT)})
BATCH_ANSWER = thing({"embeddings": list_of(_VECTOR)})
MODEL = thing(
    {"name": TEXT, "displayName": TEXT, "supportedGenerationMethods": list_of(TEXT)},
    baseModelId=TEXT, inputTokenLimit=INTEGER, outputTokenLimit=INTEGER,
)  # fmt: skip
MODELS = thing({"models": list_of(MODEL)})
