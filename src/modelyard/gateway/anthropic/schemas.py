"""JSON schemas of Anthropic's API, as far as it is supported
(https://docs.anthropic.com/en/api/messages)."""

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

_MESSAGE = object_schema(
    {
        "role": string_enum("user", "assistant", "system"),
        "content": any_of(TEXT, list_of(OBJECT)),
    }
)
COUNT_REQUEST = object_schema(
    {"model": TEXT, "messages": list_of(_MESSAGE)},
    system=any_of(TEXT, list_of(OBJECT)),
    tools=list_of(OBJECT),
    tool_choice=ANYTHING,
    thinking=ANYTHING,
)
# Unlike the OpenAI format, `max_tokens` is required.
REQUEST = object_schema(
    {"model": TEXT, "messages": list_of(_MESSAGE), "max_tokens": INTEGER},
    system=any_of(TEXT, list_of(OBJECT)),
    tools=list_of(OBJECT),
    tool_choice=ANYTHING,
    thinking=ANYTHING,
    stream=FLAG,
    temperature=NUMBER,
    top_p=NUMBER,
    top_k=INTEGER,
    stop_sequences=list_of(TEXT),
    metadata=OBJECT,
)
ANSWER = object_schema(
    {
        "id": TEXT,
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "model": TEXT,
        "content": list_of(object_schema({"type": TEXT})),
        "stop_reason": or_null(TEXT),
        "usage": object_schema({"input_tokens": INTEGER, "output_tokens": INTEGER}),
    },
    stop_sequence=or_null(TEXT),
)
COUNT = object_schema({"input_tokens": INTEGER})
