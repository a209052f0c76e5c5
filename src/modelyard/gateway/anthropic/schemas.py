"""The shapes of Anthropic's API, as far as it is served (https://docs.anthropic.com/en/api/messages)."""

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

_MESSAGE = thing({"role": one_of("user", "assistant", "system"), "content": either(TEXT, list_of(OBJECT))})
COUNT_REQUEST = thing(
    {"model": TEXT, "messages": list_of(_MESSAGE)},
    system=either(TEXT, list_of(OBJECT)), tools=list_of(OBJECT), tool_choice=ANYTHING, thinking=ANYTHING,
)  # fmt: skip
REQUEST = thing(
    {"model": TEXT, "messages": list_of(_MESSAGE), "max_tokens": INTEGER},
    system=either(TEXT, list_of(OBJECT)), tools=list_of(OBJECT), tool_choice=ANYTHING, thinking=ANYTHING,
    stream=FLAG, temperature=NUMBER, top_p=NUMBER, top_k=INTEGER, stop_sequences=list_of(TEXT), metadata=OBJECT,
)  # fmt: skip
ANSWER = thing(
    {
        "id": TEXT, "type": {"const": "message"}, "role": {"const": "assistant"}, "model": TEXT,
        "content": list_of(thing({"type": TEXT})), "stop_reason": or_null(TEXT),
        "usage": thing({"input_tokens": INTEGER, "output_tokens": INTEGER}),
    },
    stop_sequence=or_null(TEXT),
)  # fmt: skip
COUNT = thing({"input_tokens": INTEGER})
