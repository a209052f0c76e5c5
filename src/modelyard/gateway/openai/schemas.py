"""The shapes of OpenAI's API, as far as it is served (https://platform.openai.com/docs/api-reference).

Requests may hold fields that are not named here: they are passed on, refused or named in `x-modelyard-dropped`. Answers
may too, since what a provider says beyond them is carried.
"""

from modelyard.gateway.schemas import (
    ANYTHING,
    FLAG,
    INTEGER,
    NUMBER,
    OBJECT,
    TEXT,
    either,
    list_of,
    one_of,
    or_null,
    thing,
)

_USAGE = thing({"prompt_tokens": INTEGER, "total_tokens": INTEGER}, completion_tokens=INTEGER)
_MESSAGE = thing({"role": TEXT}, content=either(TEXT, list_of(OBJECT), {"type": "null"}), name=TEXT, tool_call_id=TEXT)
_TOOL_CALL = thing({"id": TEXT, "type": TEXT}, function=thing({"name": TEXT, "arguments": TEXT}), custom=OBJECT)
_TOOL = thing({"type": TEXT}, function=thing({"name": TEXT}, description=TEXT, parameters=OBJECT, strict=or_null(FLAG)))

CHAT_REQUEST = thing(
    {"model": TEXT, "messages": list_of(_MESSAGE)},
    stream=or_null(FLAG),
    temperature=or_null(NUMBER),
    top_p=or_null(NUMBER),
    n=or_null(INTEGER),
    max_tokens=or_null(INTEGER),
    max_completion_tokens=or_null(INTEGER),
    stop=either(TEXT, list_of(TEXT), {"type": "null"}),
    tools=or_null(list_of(_TOOL)),
    tool_choice=ANYTHING,
    response_format=ANYTHING,
    reasoning_effort=ANYTHING,
    stream_options=or_null(thing(include_usage=FLAG)),
    user=or_null(TEXT),
)
CHAT_ANSWER = thing(
    {
        "id": TEXT,
        "object": {"const": "chat.completion"},
        "choices": list_of(
            thing(
                {
                    "index": INTEGER,
                    "message": thing(
                        {"role": TEXT},
                        content=ANYTHING,
                        refusal=or_null(TEXT),
                        tool_calls=or_null(list_of(_TOOL_CALL)),
                        reasoning_content=or_null(TEXT),
                    ),
                },
                finish_reason=or_null(TEXT),
                logprobs=or_null(OBJECT),
            )
        ),
    },
    created=INTEGER,
    model=TEXT,
    usage=or_null(_USAGE),
    system_fingerprint=or_null(TEXT),
)
COMPLETION_REQUEST = thing(
    {"model": TEXT, "prompt": either(TEXT, list_of(ANYTHING))},
    stream=or_null(FLAG),
    max_tokens=or_null(INTEGER),
    temperature=or_null(NUMBER),
)
COMPLETION_ANSWER = thing(
    {
        "id": TEXT,
        "object": {"const": "text_completion"},
        "choices": list_of(thing({"index": INTEGER, "text": TEXT}, finish_reason=or_null(TEXT))),
    },
    created=INTEGER,
    model=TEXT,
    usage=or_null(_USAGE),
)
RESPONSE_REQUEST = thing(
    {"model": TEXT},
    input=either(TEXT, list_of(OBJECT)),
    instructions=or_null(TEXT),
    stream=or_null(FLAG),
    store=or_null(FLAG),
    previous_response_id=or_null(TEXT),
    tools=or_null(list_of(OBJECT)),
    max_output_tokens=or_null(INTEGER),
    temperature=or_null(NUMBER),
    reasoning=or_null(OBJECT),
    text=or_null(OBJECT),
    metadata=or_null(OBJECT),
)
RESPONSE_ANSWER = thing(
    {
        "id": TEXT,
        "object": {"const": "response"},
        "created_at": NUMBER,
        "model": TEXT,
        "status": one_of("completed", "failed", "in_progress", "cancelled", "queued", "incomplete"),
        "output": list_of(thing({"type": TEXT}, id=TEXT, status=TEXT, role=TEXT, content=ANYTHING)),
    },
    error=or_null(OBJECT),
    incomplete_details=or_null(OBJECT),
    usage=or_null(OBJECT),
)
RESPONSE_REMOVED = thing({"id": TEXT, "object": {"const": "response"}, "deleted": FLAG})
INPUT_ITEMS = thing(
    {
        "object": {"const": "list"},
        "data": list_of(OBJECT),
        "has_more": FLAG,
        "first_id": or_null(TEXT),
        "last_id": or_null(TEXT),
    },
)
INPUT_TOKENS = thing({"object": {"const": "response.input_tokens"}, "input_tokens": INTEGER})
EMBEDDING_REQUEST = thing(
    {"model": TEXT, "input": either(TEXT, list_of(ANYTHING))},
    encoding_format=or_null(one_of("float", "base64")),
    dimensions=or_null(INTEGER),
    user=or_null(TEXT),
)
EMBEDDING_ANSWER = thing(
    {
        "object": {"const": "list"},
        "data": list_of(thing({"object": TEXT, "index": INTEGER, "embedding": either(list_of(NUMBER), TEXT)})),
        "model": TEXT,
        "usage": _USAGE,
    },
)
MODERATION_REQUEST = thing({"input": either(TEXT, list_of(ANYTHING))}, model=or_null(TEXT))
MODERATION_ANSWER = thing(
    {
        "id": TEXT,
        "model": TEXT,
        "results": list_of(thing({"flagged": FLAG, "categories": OBJECT, "category_scores": OBJECT})),
    },
)
SPEECH_REQUEST = thing(
    {"model": TEXT, "input": TEXT},
    voice=ANYTHING,
    response_format=or_null(TEXT),
    speed=or_null(NUMBER),
)
TRANSCRIPTION = thing({"text": TEXT}, language=or_null(TEXT), duration=ANYTHING, segments=ANYTHING, words=ANYTHING)
MODEL = thing(
    {"id": TEXT, "object": {"const": "model"}, "created": INTEGER, "owned_by": TEXT},
    model_type=TEXT,
    context_size=or_null(INTEGER),
    voices=list_of(TEXT),
    targets=list_of(TEXT),
    stands_for=TEXT,
)
MODELS = thing({"object": {"const": "list"}, "data": list_of(MODEL)})
