"""JSON schemas of OpenAI's API, as far as it is supported
(https://platform.openai.com/docs/api-reference).

Requests may have other fields: they are passed on, refused, or named in
`x-modelyard-dropped`. Responses may have other fields too, as those of the provider are
kept.
"""

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
    string_enum,
)

# Embeddings have no completion, so its tokens are optional.
_USAGE = object_schema(
    {"prompt_tokens": INTEGER, "total_tokens": INTEGER}, completion_tokens=INTEGER
)
_MESSAGE = object_schema(
    {"role": TEXT},
    # Clients send null for an answer that consists of tool calls.
    content=any_of(TEXT, list_of(OBJECT), {"type": "null"}),
    name=TEXT,
    tool_call_id=TEXT,
)
_TOOL_CALL = object_schema(
    {"id": TEXT, "type": TEXT},
    function=object_schema({"name": TEXT, "arguments": TEXT}),
    custom=OBJECT,
)
# Tools that the vendor runs, such as a web search, have no function.
_TOOL = object_schema(
    {"type": TEXT},
    function=object_schema(
        {"name": TEXT},
        description=TEXT,
        parameters=OBJECT,
        strict=or_null(FLAG),
    ),
)

# OpenAI's clients send null for options that are not set.
CHAT_REQUEST = object_schema(
    {"model": TEXT, "messages": list_of(_MESSAGE)},
    stream=or_null(FLAG),
    temperature=or_null(NUMBER),
    top_p=or_null(NUMBER),
    n=or_null(INTEGER),
    max_tokens=or_null(INTEGER),
    max_completion_tokens=or_null(INTEGER),
    stop=any_of(TEXT, list_of(TEXT), {"type": "null"}),
    tools=or_null(list_of(_TOOL)),
    # Vendors extend these fields; what a model does not take is refused later.
    tool_choice=ANYTHING,
    response_format=ANYTHING,
    reasoning_effort=ANYTHING,
    stream_options=or_null(object_schema(include_usage=FLAG)),
    user=or_null(TEXT),
)
CHAT_ANSWER = object_schema(
    {
        "id": TEXT,
        "object": {"const": "chat.completion"},
        "choices": list_of(
            object_schema(
                {
                    "index": INTEGER,
                    "message": object_schema(
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
COMPLETION_REQUEST = object_schema(
    {"model": TEXT, "prompt": any_of(TEXT, list_of(ANYTHING))},
    stream=or_null(FLAG),
    max_tokens=or_null(INTEGER),
    temperature=or_null(NUMBER),
)
COMPLETION_ANSWER = object_schema(
    {
        "id": TEXT,
        "object": {"const": "text_completion"},
        "choices": list_of(
            object_schema({"index": INTEGER, "text": TEXT}, finish_reason=or_null(TEXT))
        ),
    },
    created=INTEGER,
    model=TEXT,
    usage=or_null(_USAGE),
)
RESPONSE_REQUEST = object_schema(
    {"model": TEXT},
    input=any_of(TEXT, list_of(OBJECT)),
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
RESPONSE_ANSWER = object_schema(
    {
        "id": TEXT,
        "object": {"const": "response"},
        "created_at": NUMBER,
        "model": TEXT,
        "status": string_enum(
            "completed", "failed", "in_progress", "cancelled", "queued", "incomplete"
        ),
        "output": list_of(
            object_schema(
                {"type": TEXT},
                id=TEXT,
                status=TEXT,
                role=TEXT,
                content=ANYTHING,
            )
        ),
    },
    error=or_null(OBJECT),
    incomplete_details=or_null(OBJECT),
    usage=or_null(OBJECT),
)
RESPONSE_REMOVED = object_schema(
    {"id": TEXT, "object": {"const": "response"}, "deleted": FLAG}
)
INPUT_ITEMS = object_schema(
    {
        "object": {"const": "list"},
        "data": list_of(OBJECT),
        "has_more": FLAG,
        "first_id": or_null(TEXT),
        "last_id": or_null(TEXT),
    },
)
INPUT_TOKENS = object_schema(
    {"object": {"const": "response.input_tokens"}, "input_tokens": INTEGER}
)
EMBEDDING_REQUEST = object_schema(
    {"model": TEXT, "input": any_of(TEXT, list_of(ANYTHING))},
    encoding_format=or_null(string_enum("float", "base64")),
    dimensions=or_null(INTEGER),
    user=or_null(TEXT),
)
EMBEDDING_ANSWER = object_schema(
    {
        "object": {"const": "list"},
        "data": list_of(
            object_schema(
                {
                    "object": TEXT,
                    "index": INTEGER,
                    # A text if the request asked for base64.
                    "embedding": any_of(list_of(NUMBER), TEXT),
                }
            )
        ),
        "model": TEXT,
        "usage": _USAGE,
    },
)
MODERATION_REQUEST = object_schema(
    {"input": any_of(TEXT, list_of(ANYTHING))}, model=or_null(TEXT)
)
MODERATION_ANSWER = object_schema(
    {
        "id": TEXT,
        "model": TEXT,
        "results": list_of(
            object_schema(
                {"flagged": FLAG, "categories": OBJECT, "category_scores": OBJECT}
            )
        ),
    },
)
SPEECH_REQUEST = object_schema(
    {"model": TEXT, "input": TEXT},
    voice=ANYTHING,
    response_format=or_null(TEXT),
    speed=or_null(NUMBER),
)
TRANSCRIPTION = object_schema(
    {"text": TEXT},
    language=or_null(TEXT),
    duration=ANYTHING,
    segments=ANYTHING,
    words=ANYTHING,
)
MODEL = object_schema(
    {
        "id": TEXT,
        "object": {"const": "model"},
        "created": INTEGER,
        "owned_by": TEXT,
    },
    model_type=TEXT,
    context_size=or_null(INTEGER),
    max_output=INTEGER,
    voices=list_of(TEXT),
    targets=list_of(TEXT),
    stands_for=TEXT,
)
_ANTHROPIC_MODEL = object_schema(
    {
        "type": {"const": "model"},
        "id": TEXT,
        "display_name": TEXT,
        "created_at": TEXT,
    },
    lifecycle=TEXT,
    max_input_tokens=or_null(INTEGER),
    max_tokens=or_null(INTEGER),
)
_GOOGLE_MODEL = object_schema(
    {
        "name": TEXT,
        "displayName": TEXT,
        "supportedGenerationMethods": list_of(TEXT),
    },
    baseModelId=TEXT,
    inputTokenLimit=INTEGER,
    outputTokenLimit=INTEGER,
)
ANY_MODEL = any_of(MODEL, _ANTHROPIC_MODEL, _GOOGLE_MODEL)
"""A model in the format that the client's headers tell."""
MODELS = any_of(
    object_schema({"object": {"const": "list"}, "data": list_of(MODEL)}),
    object_schema(
        {
            "data": list_of(_ANTHROPIC_MODEL),
            "has_more": FLAG,
            "first_id": or_null(TEXT),
            "last_id": or_null(TEXT),
        }
    ),
    object_schema({"models": list_of(_GOOGLE_MODEL)}, nextPageToken=TEXT),
)
