import pytest

from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)
from modelyard.models.capabilities import Capabilities
from modelyard.wire import openai_chat

USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"messages": None}, "'messages' is required"),
        ({"messages": []}, "at least one message"),
        ({"messages": ["hi"]}, "messages[0]' must be an object"),
        (
            {"messages": [{"role": "robot", "content": ""}]},
            "'messages[0].role' must be system",
        ),
        ({"messages": [{"role": "user"}]}, "'messages[0].content' is required"),
        (
            {"messages": [{"role": "user", "content": [{"type": 5}]}]},
            "messages[0].content[0].type",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": "data:x"}}
                        ],
                    }
                ]
            },
            "base64",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"temperature": "hot"}, "'temperature' must be a number, not 'hot'"),
        ({"temperature": 9}, "between 0 and 2"),
        ({"max_tokens": 1.5}, "'max_tokens' must be a whole number"),
        ({"n": 0}, "between 1 and 128"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream": "yes"}, "true or false"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_each_error_names_its_field(change: dict[str, object], part: str):
    with pytest.raises(InvokeBadRequestError) as caught:
        openai_chat.parse_request({"messages": [USER], **change})
    assert part in str(caught.value)
    assert caught.value.param


def test_unknown_fields_are_passed_through():
    request = openai_chat.parse_request(
        {"messages": [{**USER, "mood": "good"}], "logit_bias": {}, "future": {"x": 1}}
    )
    body = openai_chat.dump_request(request, "m", Capabilities())
    assert body["future"] == {"x": 1}
    assert body["messages"][0]["mood"] == "good"


def test_capabilities_rename_and_drop_fields():
    request = openai_chat.parse_request(
        {"messages": [USER], "max_tokens": 5, "seed": 1, "stream": True}
    )
    body = openai_chat.dump_request(
        request,
        "m",
        Capabilities(
            max_tokens_field="max_completion_tokens",
            drop=("seed",),
            no_stream_options=True,
        ),
    )
    assert body["max_completion_tokens"] == 5
    assert not body.keys() & {"max_tokens", "seed", "stream_options"}


def test_an_interrupted_stream_does_not_look_complete():
    parser = openai_chat.StreamParser()
    list(parser.feed({"choices": [{"delta": {"content": "half"}}]}))
    with pytest.raises(InvokeServerUnavailableError, match="ended without"):
        parser.finish(end_marker_seen=False)


def test_an_error_inside_a_stream_is_raised_by_its_type():
    with pytest.raises(InvokeRateLimitError, match="slow"):
        list(
            openai_chat.StreamParser().feed(
                {"error": {"type": "rate_limit_error", "message": "slow"}}
            )
        )


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": -1},
        {"prompt_tokens": 1e308},
        {"prompt_tokens": "9"},
        5,
    ],
)
def test_implausible_usage_is_ignored(usage: object):
    assert openai_chat.parse_usage(usage) is None
