"""Cohere's chat format: requests, answers and streams in both directions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.models.capabilities import Capabilities
from modelyard.models.llm import (
    LLMChoice,
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
    fold,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    AudioPromptMessageContent,
    Citation,
    DocumentPromptMessageContent,
    ImagePromptMessageContent,
    OpaquePromptMessageContent,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
    VideoPromptMessageContent,
)
from modelyard.wire import cohere

DEFAULT = Capabilities()
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
USER = UserPromptMessage(content="Hi.")
NO_PARAMETERS = {"type": "object", "properties": {}}


def parsed(*messages: Any, **fields: Any) -> LLMRequest:
    turns = list(messages) or [{"role": "user", "content": "Hi."}]
    return cohere.parse_request({"model": "command-a", "messages": turns, **fields})


def dumped(*messages: Any, **fields: Any) -> dict[str, Any]:
    request = LLMRequest(messages=list(messages) or [USER], **fields)
    return json.loads(json.dumps(cohere.dump_request(request, "command-a", DEFAULT)))


def call_of(name: str, arguments: str, **fields: Any) -> ToolCall:
    function = ToolCallFunction(name=name, arguments=arguments)
    return ToolCall(function=function, **fields)


def plan_of(text: str) -> ThinkingPromptMessageContent:
    """Return the part into which a tool plan is read."""
    return ThinkingPromptMessageContent(
        data=text, origin="cohere", extra={"cohere": {"tool_plan": True}}
    )


SOURCE = {
    "type": "document",
    "id": "doc:0",
    "document": {"url": "https://a.example", "title": "A", "snippet": "…"},
}
WIRE_CITATION = {"start": 0, "end": 5, "text": "Hello", "sources": [SOURCE]}
CITATION = Citation(
    url="https://a.example",
    title="A",
    quote="…",
    start=0,
    end=5,
    extra={"cohere": WIRE_CITATION},
)


# requests of callers


def test_the_fields_of_a_request():
    call = {"id": "c1", "function": {"name": "look", "arguments": '{"city":"Ulm"}'}}
    function = {"name": "look", "description": "d", "parameters": SCHEMA}
    request = cohere.parse_request(
        {
            "model": "command-a",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hi."}]},
                {
                    "role": "assistant",
                    "tool_plan": "I will look.",
                    "tool_calls": [call],
                },
                {
                    "role": "tool",
                    "tool_call_id": "c1",
                    "content": [{"type": "document", "document": {"data": "sun"}}],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm."},
                        {"type": "text", "text": "Hello."},
                    ],
                    "citations": [WIRE_CITATION],
                },
                {"role": "user"},
            ],
            "temperature": 1,
            "p": 0.5,
            "k": 3,
            "max_tokens": 9,
            "seed": 3,
            "frequency_penalty": 0.5,
            "presence_penalty": 0.25,
            "logprobs": True,
            "stop_sequences": ["END"],
            "response_format": {"type": "json_object", "json_schema": SCHEMA},
            "thinking": {"type": "enabled", "token_budget": 50},
            "strict_tools": True,
            "tools": [
                {"type": "function", "function": function},
                {"type": "function", "function": {"name": "bare"}},
            ],
            "tool_choice": "REQUIRED",
            "stream": True,
            "safety_mode": "OFF",
            "priority": None,
        }
    )
    opaque = {"type": "document", "document": {"data": "sun"}}
    assert request == LLMRequest(
        format="cohere",
        messages=[
            SystemPromptMessage(content="Be brief."),
            UserPromptMessage(content="Hi."),
            AssistantPromptMessage(
                content=[plan_of("I will look.")],
                tool_calls=[call_of("look", '{"city":"Ulm"}', id="c1")],
            ),
            ToolPromptMessage(
                content=[OpaquePromptMessageContent(format="cohere", data=opaque)],
                tool_call_id="c1",
            ),
            AssistantPromptMessage(
                content=[
                    ThinkingPromptMessageContent(data="Hm.", origin="cohere"),
                    TextPromptMessageContent(data="Hello.", citations=[CITATION]),
                ]
            ),
            UserPromptMessage(),
        ],
        model_parameters={
            "temperature": 1,
            "top_p": 0.5,
            "top_k": 3,
            "max_tokens": 9,
            "seed": 3,
            "frequency_penalty": 0.5,
            "presence_penalty": 0.25,
            "logprobs": True,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA},
            },
            "thinking_budget": 50,
        },
        tools=[
            PromptMessageTool(
                name="look", description="d", parameters=SCHEMA, strict=True
            ),
            PromptMessageTool(name="bare", strict=True),
        ],
        tool_choice="required",
        stop=["END"],
        stream=True,
        extra={"cohere": {"safety_mode": "OFF"}},
    )


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, {}),
        ({"thinking": {"type": "enabled"}}, {"thinking_budget": -1}),
        ({"thinking": {"type": "disabled", "token_budget": 9}}, {"thinking_budget": 0}),
        ({"thinking": {"token_budget": 9}}, {"thinking_budget": 9}),
        ({"response_format": {}}, {"response_format": {"type": "text"}}),
        (
            {"response_format": {"type": "json_object"}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": SCHEMA},
                }
            },
        ),
    ],
)
def test_thinking_and_format_of_a_request(
    fields: dict[str, Any], parameters: dict[str, Any]
):
    request = parsed(**fields)
    assert request.model_parameters == parameters
    assert (request.stream, request.tool_choice, request.stop) == (False, None, [])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"p": "x"}, "p"),
        ({"k": 501}, "k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 1}, "logprobs"),
        ({"seed": 1.5}, "seed"),
        ({"stop_sequences": 5}, "stop_sequences"),
        ({"stop_sequences": ["a", 5]}, "stop_sequences[1]"),
        ({"response_format": "json"}, "response_format"),
        (
            {"response_format": {"json_schema": "x"}},
            "response_format.json_schema",
        ),
        ({"thinking": True}, "thinking"),
        ({"thinking": {"token_budget": "x"}}, "thinking.token_budget"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {}}, "tool_choice"),
        ({"strict_tools": "yes"}, "strict_tools"),
        ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": None}}]}, "tools[0].function.name"),
        (
            {"tools": [{"function": {"name": "a", "description": 5}}]},
            "tools[0].function.description",
        ),
    ],
)
def test_invalid_fields_are_named(fields: dict[str, Any], param: str):
    with pytest.raises(InvokeBadRequestError) as raised:
        cohere.parse_request({"messages": [{"role": "user"}], **fields})
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Hi.", "messages[0]"),
        ({"content": "a"}, "messages[0].role"),
        ({"role": "robot"}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": ["a"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": 5}]}, "messages[0].content[0].type"),
        (
            {"role": "user", "content": [{"type": "text"}]},
            "messages[0].content[0].text",
        ),
        (
            {"role": "user", "content": [{"type": "image_url"}]},
            "messages[0].content[0].image_url",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "tool", "tool_call_id": "c9"}, "messages[0].tool_call_id"),
    ],
)
def test_invalid_messages_are_named(message: Any, param: str):
    with pytest.raises(InvokeBadRequestError) as raised:
        parsed(message)
    assert raised.value.param == param


def test_content_of_every_type_survives_a_round_trip():
    content = [
        {"type": "text", "text": "Look:"},
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"},
        },
        {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}},
        {"type": "document", "document": {"data": "sun"}},
    ]
    request = parsed({"role": "user", "content": content})
    assert request.messages[0].parts == [
        TextPromptMessageContent(data="Look:"),
        ImagePromptMessageContent(
            base64_data=PIXEL, mime_type="image/png", format="png", detail="low"
        ),
        ImagePromptMessageContent(url="https://a.example/x.png"),
        OpaquePromptMessageContent(format="cohere", data=content[-1]),
    ]
    body = cohere.dump_request(request, "command-a", DEFAULT)
    assert body["messages"] == [{"role": "user", "content": content}]


# requests to Cohere


def test_the_body_of_a_request():
    tools = [
        PromptMessageTool(name="look", description="d", parameters=SCHEMA, strict=True),
        PromptMessageTool(name="bare", type="custom", strict=True),
    ]
    foreign = OpaquePromptMessageContent(format="anthropic", data={"type": "x"})
    image = ImagePromptMessageContent(url="https://a.example/x.png")
    body = dumped(
        SystemPromptMessage(content=""),
        UserPromptMessage(content=[foreign, TextPromptMessageContent(data="Hi.")]),
        AssistantPromptMessage(
            content=[image, TextPromptMessageContent(data="No.", citations=[CITATION])],
            refusal=" Never.",
            reasoning_content="Hm.",
        ),
        AssistantPromptMessage(
            content=[
                plan_of("I will "),
                plan_of("look."),
                ThinkingPromptMessageContent(signature="s", origin="anthropic"),
            ],
            tool_calls=[call_of("look", "{}", id="c1")],
        ),
        ToolPromptMessage(content="sun", tool_call_id="c1"),
        model_parameters={
            "temperature": 0.5,
            "top_p": 0.5,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA},
            },
            "thinking_budget": 7,
        },
        tools=tools,
        tool_choice="none",
        stop=["END"],
        stream=True,
        extra={"cohere": {"safety_mode": "OFF"}, "dashscope": {"x": 1}},
    )
    function = {"name": "look", "arguments": "{}"}
    assert body == {
        "model": "command-a",
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": [{"type": "text", "text": "Hi."}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm."},
                    {"type": "text", "text": "No."},
                    {"type": "text", "text": " Never."},
                ],
                "citations": [WIRE_CITATION],
            },
            {
                "role": "assistant",
                "tool_plan": "I will look.",
                "tool_calls": [{"id": "c1", "type": "function", "function": function}],
            },
            {"role": "tool", "content": "sun", "tool_call_id": "c1"},
        ],
        "temperature": 0.5,
        "p": 0.5,
        "response_format": {"type": "json_object", "json_schema": SCHEMA},
        "thinking": {"type": "enabled", "token_budget": 7},
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "d", "parameters": SCHEMA},
            },
            {
                "type": "function",
                "function": {"name": "bare", "parameters": NO_PARAMETERS},
            },
        ],
        "strict_tools": True,
        "tool_choice": "NONE",
        "stop_sequences": ["END"],
        "stream": True,
        "safety_mode": "OFF",
    }


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({}, {}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        (
            {"reasoning_effort": "low"},
            {"thinking": {"type": "enabled", "token_budget": 1024}},
        ),
        (
            {"reasoning_effort": "xhigh"},
            {"thinking": {"type": "enabled", "token_budget": 31_000}},
        ),
        ({"reasoning_effort": "strange"}, {"thinking": {"type": "enabled"}}),
        (
            {"thinking_budget": 0, "reasoning_effort": "high"},
            {"thinking": {"type": "disabled"}},
        ),
        ({"thinking_budget": -1}, {"thinking": {"type": "enabled"}}),
        (
            {"response_format": {"type": "json_object"}},
            {"response_format": {"type": "json_object"}},
        ),
        ({"response_format": None}, {}),
    ],
)
def test_effort_budget_and_format(parameters: dict[str, Any], fields: dict[str, Any]):
    body = dumped(model_parameters=parameters)
    message = {"role": "user", "content": "Hi."}
    expected = {"model": "command-a", "messages": [message], "stream": False, **fields}
    assert body == expected


@pytest.mark.parametrize(
    ("choice", "expected", "names"),
    [
        (None, None, ["a", "b"]),
        ("auto", None, ["a", "b"]),
        ("none", "NONE", ["a", "b"]),
        ("required", "REQUIRED", ["a", "b"]),
        ({"name": "b"}, "REQUIRED", ["b"]),
        ({"allowed": ["a"]}, "REQUIRED", ["a"]),
    ],
)
def test_a_choice_among_tools_leaves_the_others_out(
    choice: Any, expected: str | None, names: list[str]
):
    tools = [PromptMessageTool(name="a", strict=True), PromptMessageTool(name="b")]
    body = dumped(tools=tools, tool_choice=choice)
    assert body.get("tool_choice") == expected
    assert [tool["function"]["name"] for tool in body["tools"]] == names
    # The flag counts for all tools, so it is set only if all are strict.
    assert "strict_tools" not in body


def test_parameters_that_a_server_rejects_are_dropped():
    request = LLMRequest(messages=[USER], model_parameters={"seed": 1, "top_k": 2})
    body = cohere.dump_request(request, "m", Capabilities(drop=("seed", "absent")))
    assert (body["k"], "seed" in body) == (2, False)


def test_tools_of_other_providers_are_refused():
    tool = PromptMessageTool(name="web_search", type="web_search")
    with pytest.raises(InvokeBadRequestError, match="hosted by another") as raised:
        dumped(tools=[tool])
    assert raised.value.param == "tools"


@pytest.mark.parametrize(
    ("part_class", "name"),
    [
        (AudioPromptMessageContent, "audio"),
        (VideoPromptMessageContent, "video"),
        (DocumentPromptMessageContent, "document"),
    ],
)
def test_files_that_cohere_cannot_read_are_refused(part_class: type[Any], name: str):
    part = part_class(base64_data="eA==", mime_type="x/y")
    for message in (
        UserPromptMessage(content=[part]),
        AssistantPromptMessage(content=[part]),
    ):
        with pytest.raises(
            InvokeBadRequestError,
            match=f"^Cohere does not accept a {name} part; send text or images$",
        ):
            dumped(message)


# answers


def test_the_fields_of_an_answer():
    usage = {
        "billed_units": {"input_tokens": 5, "output_tokens": 2, "search_units": 1},
        "tokens": {"input_tokens": 496, "output_tokens": 28},
        "cached_tokens": 16,
    }
    body: dict[str, Any] = {
        "id": "r",
        "finish_reason": "STOP_SEQUENCE",
        "message": {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm."},
                {"type": "text", "text": "Hello."},
            ],
            "citations": [WIRE_CITATION],
        },
        "usage": usage,
        "logprobs": [{"text": "Hello", "token_ids": [1]}],
    }
    result = cohere.parse_result(body)
    text = TextPromptMessageContent(data="Hello.", citations=[CITATION])
    assert result == LLMResult(
        id="r",
        choices=[
            LLMChoice(
                message=AssistantPromptMessage(
                    content=[
                        ThinkingPromptMessageContent(data="Hm.", origin="cohere"),
                        text,
                    ]
                ),
                finish_reason="stop",
                extra={"cohere": {"finish_reason": "STOP_SEQUENCE"}},
            )
        ],
        usage=LLMUsage.of(
            496, 28, cached_tokens=16, searches=1, extra={"cohere": usage}
        ),
        extra={"cohere": {"logprobs": [{"text": "Hello", "token_ids": [1]}]}},
    )
    # What came from Cohere returns to its clients as it was.
    assert cohere.dump_result(result) == body


REASONS = {
    "COMPLETE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
    "STOP_SEQUENCE": "stop",
    "USER_CANCEL": "USER_CANCEL",
}


@pytest.mark.parametrize(("wire_reason", "reason"), REASONS.items())
def test_every_finish_reason_survives_a_round_trip(wire_reason: str, reason: str):
    message = {"role": "assistant", "content": [{"type": "text", "text": "Hi."}]}
    body = {"id": "r", "message": message, "finish_reason": wire_reason}
    result = cohere.parse_result(body)
    assert result.finish_reason == reason
    assert cohere.dump_result(result)["finish_reason"] == wire_reason
    *_, end = cohere.dump_stream(result.as_chunks())
    assert end["delta"]["finish_reason"] == wire_reason


@pytest.mark.parametrize(
    ("reason", "wire_reason"),
    [(None, "COMPLETE"), ("pause", "COMPLETE"), ("strange", "COMPLETE")],
)
def test_reasons_that_cohere_does_not_have(reason: str | None, wire_reason: str):
    result = LLMResult(choices=[LLMChoice(finish_reason=reason)])
    assert cohere.dump_result(result)["finish_reason"] == wire_reason
    *_, end = cohere.dump_stream(result.as_chunks())
    assert end["delta"]["finish_reason"] == wire_reason


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Upstream response has no 'message' object$"),
        ({"message": "no such model"}, "has no 'message' object: no such model$"),
        ({"message": {"content": 5}}, "Invalid upstream response: 'content' must be"),
        ({"message": {"content": [{"type": "text"}]}}, "Invalid upstream response"),
        ({"message": {"tool_calls": [5]}}, "The response does not match its format"),
        ({"message": {"citations": 5}}, "The response does not match its format"),
        ({"message": {}, "finish_reason": "ERROR"}, "with finish_reason ERROR$"),
        ({"message": {}, "finish_reason": "TIMEOUT"}, "with finish_reason TIMEOUT$"),
        ({"message": {}, "finish_reason": ["COMPLETE"]}, "does not match its format"),
    ],
)
def test_an_invalid_answer_is_the_providers_fault(body: Any, message: str):
    with pytest.raises(InvokeServerUnavailableError, match=message):
        cohere.parse_result(body)


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ({"tokens": {"input_tokens": 5, "output_tokens": 2}}, (5, 2)),
        ({"billed_units": {"input_tokens": 5.0, "output_tokens": 2}}, (5, 2)),
        ({"tokens": {}, "billed_units": {"input_tokens": 5}}, (5, 0)),
        ({"tokens": {"input_tokens": -1, "output_tokens": "2"}}, (0, 0)),
        ({"tokens": 5}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_the_tokens_of_an_answer(body: Any, counts: tuple[int, int] | None):
    usage = cohere.parse_usage(body)
    if counts is None:
        assert usage is None
        result = cohere.parse_result({"message": {}, "usage": body})
        assert result.usage == LLMUsage(estimated=True)
    else:
        assert usage == LLMUsage.of(*counts, extra={"cohere": body})
        assert cohere.dump_usage(usage) == body


def test_usage_of_other_formats_has_every_count():
    tokens = {"input_tokens": 5, "output_tokens": 2}
    usage = {"billed_units": tokens, "tokens": tokens}
    assert cohere.dump_usage(LLMUsage.of(5, 2)) == usage
    cached = cohere.dump_usage(LLMUsage.of(5, 2, cached_tokens=3))
    assert cached == {**usage, "cached_tokens": 3}


@pytest.mark.parametrize(
    ("wire_citation", "citation"),
    [
        ({}, Citation()),
        ({"sources": []}, Citation()),
        ({"sources": [{"type": "tool"}], "text": "a"}, Citation()),
        ({"sources": [{"document": {"text": "a"}}]}, Citation(quote="a")),
        ({"sources": [{"document": {"title": 5}}]}, Citation(title="5")),
        ({"start": -1, "end": 9}, Citation(end=9)),
    ],
)
def test_a_citation_may_lack_its_source(
    wire_citation: dict[str, Any], citation: Citation
):
    content = [{"type": "text", "text": "a"}]
    message = {"content": content, "citations": [wire_citation]}
    [part] = cohere.parse_result({"message": message}).message.parts
    assert isinstance(part, TextPromptMessageContent)
    fields = [
        (read.url, read.title, read.quote, read.start, read.end)
        for read in (*part.citations, citation)
    ]
    assert fields[0] == fields[1]
    assert part.citations[0].extra == {"cohere": wire_citation}


def test_citations_without_a_text_are_left_out():
    message = {"citations": [WIRE_CITATION], "tool_plan": "Hm."}
    result = cohere.parse_result({"message": message})
    assert result.message == AssistantPromptMessage(content=[plan_of("Hm.")])


def test_citations_of_other_formats_name_a_document():
    citation = Citation(url="https://a.example", title="A", quote="Hi")
    nameless = Citation(title="B", start=1, end=2)
    text = TextPromptMessageContent(data="Hi.", citations=[citation, nameless])
    message = AssistantPromptMessage(content=[text])
    body = cohere.dump_result(LLMResult(choices=[LLMChoice(message=message)]))
    address = "https://a.example"
    assert body["message"]["citations"] == [
        {
            "start": 0,
            "end": 0,
            "text": "",
            "content_index": 0,
            "type": "TEXT_CONTENT",
            "sources": [
                {
                    "type": "document",
                    "id": address,
                    "document": {
                        "id": address,
                        "url": address,
                        "title": "A",
                        "snippet": "Hi",
                    },
                }
            ],
        },
        {
            "start": 1,
            "end": 2,
            "text": "i",
            "content_index": 0,
            "type": "TEXT_CONTENT",
            "sources": [
                {
                    "type": "document",
                    "id": "B",
                    "document": {"id": "B", "url": "", "title": "B"},
                }
            ],
        },
    ]


THOUGHT_AND_TEXTS = [
    {"type": "thinking", "thinking": "Hm."},
    {"type": "text", "text": "One. "},
    {"type": "text", "text": "Two."},
]


@pytest.mark.parametrize(
    ("place", "part", "position"),
    [
        ({"content_index": 1, "type": "TEXT_CONTENT"}, 1, (0, 3)),
        ({"content_index": 2}, 2, (0, 3)),
        ({}, 2, (0, 3)),
        # Neither a thought nor a plan is a text.
        ({"content_index": 0, "type": "THINKING_CONTENT"}, 2, (None, None)),
        ({"type": "PLAN"}, 2, (None, None)),
        ({"content_index": 9}, 2, (0, 3)),
    ],
)
def test_a_citation_belongs_to_the_content_that_it_names(
    place: dict[str, Any], part: int, position: tuple[int | None, int | None]
):
    source = {"document": {"url": "https://a.example"}}
    cited = {"start": 0, "end": 3, "sources": [source], **place}
    message = {"content": THOUGHT_AND_TEXTS, "citations": [cited]}
    whole = cohere.parse_result({"message": message}).message.parts
    events = [
        *(
            event("content-start", index, content=content)
            for index, content in enumerate(THOUGHT_AND_TEXTS)
        ),
        event("citation-start", 0, citations=cited),
        end_of("COMPLETE"),
    ]
    streamed = fold(cohere.parse_stream(events)).message.parts
    for parts in (whole, streamed):
        citations = [getattr(each, "citations", []) for each in parts]
        assert [len(each) for each in citations].index(1) == part
        [citation] = citations[part]
        assert (citation.start, citation.end) == position


def test_a_text_that_a_thought_interrupts_is_several_contents():
    """A citation then stands in the one in which it begins."""
    late = Citation(url="https://a.example", start=6, end=9)
    parts = [
        TextPromptMessageContent(data="One. "),
        ThinkingPromptMessageContent(data="Hm."),
        TextPromptMessageContent(data="Two.", citations=[late]),
    ]
    chunks = [
        LLMResultChunk(
            delta=LLMResultChunkDelta(message=AssistantPromptMessage(content=[part]))
        )
        for part in parts
    ]
    [started] = [
        each["delta"]["message"]["citations"]
        for each in cohere.dump_stream(chunks)
        if each["type"] == "citation-start"
    ]
    assert (started["content_index"], started["text"]) == (2, "wo.")
    assert (started["start"], started["end"]) == (1, 4)


def test_the_error_that_callers_get():
    assert cohere.dump_error(400, "No.") == {"message": "No."}
    assert cohere.dump_error(500, "No.", "r") == {"id": "r", "message": "No."}


# streams


def event(kind: str, index: int | None = None, **message: Any) -> dict[str, Any]:
    fields = {} if index is None else {"index": index}
    return {"type": kind, **fields, "delta": {"message": message}}


def end_of(reason: str, **fields: Any) -> dict[str, Any]:
    return {"type": "message-end", "delta": {"finish_reason": reason, **fields}}


USAGE = {"tokens": {"input_tokens": 5, "output_tokens": 2}}
TEXT_STREAM = [
    {"type": "message-start", "id": "r", "delta": {"message": {"role": "assistant"}}},
    event("content-start", 0, content={"type": "thinking", "thinking": ""}),
    event("content-delta", 0, content={"thinking": "Hm."}),
    {"type": "content-end", "index": 0},
    event("content-start", 1, content={"type": "text", "text": "He"}),
    event("content-delta", 1, content={"text": "llo."}),
    event("citation-start", 0, citations=WIRE_CITATION),
    {"type": "citation-end", "index": 0},
    event("citation-start", 1, citations={**WIRE_CITATION, "start": 3}),
    {"type": "citation-end", "index": 1},
    {"type": "content-end", "index": 1},
    {"type": "debug", "prompt": "…"},
    end_of("STOP_SEQUENCE", usage=USAGE),
]


def test_a_stream_of_thinking_and_cited_text():
    result = fold(cohere.parse_stream(TEXT_STREAM))
    later = Citation(
        url="https://a.example",
        title="A",
        quote="…",
        start=3,
        end=5,
        extra={"cohere": {**WIRE_CITATION, "start": 3}},
    )
    assert result == LLMResult(
        id="r",
        choices=[
            LLMChoice(
                message=AssistantPromptMessage(
                    content=[
                        ThinkingPromptMessageContent(data="Hm.", origin="cohere"),
                        TextPromptMessageContent(
                            data="Hello.", citations=[CITATION, later]
                        ),
                    ]
                ),
                finish_reason="stop",
                extra={"cohere": {"finish_reason": "STOP_SEQUENCE"}},
            )
        ],
        usage=LLMUsage.of(5, 2, extra={"cohere": USAGE}),
    )


def test_a_stream_returns_to_coheres_clients_as_it_was():
    events = list(cohere.dump_stream(cohere.parse_stream(TEXT_STREAM)))
    start = {"content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    expected: list[dict[str, Any]] = [
        event("message-start", role="assistant", **start) | {"id": "r"},
        *TEXT_STREAM[1:4],
        event("content-start", 1, content={"type": "text", "text": ""}),
        event("content-delta", 1, content={"text": "He"}),
        *TEXT_STREAM[5:11],
        TEXT_STREAM[-1],
    ]
    assert events == expected


def test_a_stream_of_a_plan_and_calls():
    events = [
        {"type": "message-start", "id": "r"},
        event("tool-plan-delta", tool_plan="I will "),
        event("tool-plan-delta", tool_plan="look."),
        event(
            "tool-call-start",
            0,
            tool_calls={"id": "c1", "function": {"name": "look", "arguments": ""}},
        ),
        event("tool-call-delta", 0, tool_calls={"function": {"arguments": '{"n":'}}),
        event("tool-call-delta", 0, tool_calls={"function": {"arguments": "1}"}}),
        {"type": "tool-call-end", "index": 0},
        event("tool-call-start", 1, tool_calls={"id": "c2", "function": {"name": "b"}}),
        event("tool-call-delta", 1, tool_calls=None),
        end_of("TOOL_CALL"),
    ]
    result = fold(cohere.parse_stream(events))
    assert result.message == AssistantPromptMessage(
        content=[plan_of("I will look.")],
        tool_calls=[call_of("look", '{"n":1}', id="c1"), call_of("b", "", id="c2")],
    )
    assert result.finish_reason == "tool_calls"
    parsed_again = fold(cohere.parse_stream(cohere.dump_stream(result.as_chunks())))
    assert parsed_again.message == result.message


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], "ended without message-end"),
        (TEXT_STREAM[:-1], "ended without message-end"),
        (
            [end_of("ERROR", error="out of memory")],
            "finish_reason ERROR: out of memory$",
        ),
        ([end_of("TIMEOUT")], "with finish_reason TIMEOUT$"),
        ([{"type": "content-delta", "delta": "x"}], "does not match its format"),
        ([event("content-delta", content=["x"])], "does not match its format"),
        ([event("citation-start", citations=["x"])], "does not match its format"),
        ([[]], "does not match its format"),
    ],
)
def test_a_broken_stream_is_the_providers_fault(events: list[Any], message: str):
    with pytest.raises(InvokeServerUnavailableError, match=message):
        list(cohere.parse_stream(events))


def test_a_regular_end_needs_no_last_event():
    parser = cohere.StreamParser()
    parser.feed(TEXT_STREAM[0])
    assert parser.finish(end_marker_seen=True) == []


def chunk_of(
    reason: str | None = None, index: int = 0, **message: Any
) -> LLMResultChunk:
    usage = message.pop("usage", None)
    delta = LLMResultChunkDelta(
        index=index,
        message=AssistantPromptMessage(**message),
        finish_reason=reason,
        usage=usage,
    )
    return LLMResultChunk(id="r", delta=delta)


def test_the_stream_that_callers_get():
    image = ImagePromptMessageContent(url="https://a.example/x.png")
    chunks = [
        chunk_of(reasoning_content="Hm"),
        chunk_of(content="He"),
        chunk_of(content="llo"),
        chunk_of(content=[image, ThinkingPromptMessageContent(signature="s")]),
        chunk_of(index=1, content="dropped", usage=LLMUsage.of(5, 2)),
        chunk_of(tool_calls=[call_of("look", "{", id="c1", index=0)]),
        chunk_of(tool_calls=[call_of("", "}", index=0)]),
        chunk_of(refusal="No."),
        chunk_of("length"),
    ]
    events = list(cohere.dump_stream(chunks))
    call = {"id": "c1", "type": "function"}
    tokens = {"input_tokens": 5, "output_tokens": 2}
    assert events[1:] == [
        event("content-start", 0, content={"type": "thinking", "thinking": ""}),
        event("content-delta", 0, content={"thinking": "Hm"}),
        {"type": "content-end", "index": 0},
        event("content-start", 1, content={"type": "text", "text": ""}),
        event("content-delta", 1, content={"text": "He"}),
        event("content-delta", 1, content={"text": "llo"}),
        {"type": "content-end", "index": 1},
        event("content-start", 2, content={"type": "text", "text": ""}),
        event("content-delta", 2, content={"text": "No."}),
        {"type": "content-end", "index": 2},
        event(
            "tool-call-start",
            0,
            tool_calls={**call, "function": {"name": "look", "arguments": ""}},
        ),
        event("tool-call-delta", 0, tool_calls={"function": {"arguments": "{}"}}),
        {"type": "tool-call-end", "index": 0},
        end_of("MAX_TOKENS", usage={"billed_units": tokens, "tokens": tokens}),
    ]
    assert events[0]["id"] == "r"
    assert list(cohere.dump_stream([])) == []


sources = st.builds(
    Citation,
    url=st.sampled_from(["", "https://a.example"]),
    title=st.text(max_size=3),
    quote=st.text(max_size=3),
    start=st.integers(0, 9),
    end=st.integers(9, 19),
)


@given(st.text(min_size=1, max_size=9), st.lists(sources, min_size=1, max_size=3))
def test_citations_survive_a_stream_and_an_answer(text: str, citations: list[Citation]):
    thought = ThinkingPromptMessageContent(data="Hm.", origin="cohere")
    part = TextPromptMessageContent(data=text, citations=citations)
    message = AssistantPromptMessage(content=[thought, part])
    choice = LLMChoice(message=message, finish_reason="stop")
    result = LLMResult(id="r", choices=[choice])
    streamed = fold(cohere.parse_stream(cohere.dump_stream(result.as_chunks())))
    complete = cohere.parse_result(cohere.dump_result(result))
    for read in (streamed, complete):
        first, second = read.message.parts
        assert first == thought
        assert isinstance(second, TextPromptMessageContent)
        assert second.data == text
        fields = [
            (cited.url, cited.title, cited.quote, cited.start, cited.end)
            for cited in second.citations
        ]
        assert fields == [
            (cited.url, cited.title, cited.quote, cited.start, cited.end)
            for cited in citations
        ]
