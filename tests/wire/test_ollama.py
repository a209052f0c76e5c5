"""Ollama's chat format: requests, answers and streams in both directions."""

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
    DocumentPromptMessageContent,
    ImagePromptMessageContent,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
)
from modelyard.wire import ollama

DEFAULT = Capabilities()
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = ImagePromptMessageContent(base64_data=PIXEL)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
USER = UserPromptMessage(content="Hi.")


def parsed(*messages: Any, **fields: Any) -> LLMRequest:
    turns = list(messages) or [{"role": "user", "content": "Hi."}]
    return ollama.parse_request({"model": "qwen3", "messages": turns, **fields})


def dumped(*messages: Any, **fields: Any) -> dict[str, Any]:
    request = LLMRequest(messages=list(messages) or [USER], **fields)
    return json.loads(json.dumps(ollama.dump_request(request, "qwen3", DEFAULT)))


def call_of(name: str, arguments: str, **fields: Any) -> ToolCall:
    function = ToolCallFunction(name=name, arguments=arguments)
    return ToolCall(function=function, **fields)


# requests of callers


def test_the_fields_of_a_request():
    call = {"function": {"name": "look", "arguments": {"city": "Ulm"}}}
    request = ollama.parse_request(
        {
            "model": "qwen3",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi.", "images": [PIXEL]},
                {
                    "role": "assistant",
                    "content": "",
                    "thinking": "A city.",
                    "tool_calls": [call, {**call, "id": "c2"}],
                },
                {"role": "tool", "content": "rain", "tool_call_id": "c2"},
                {"role": "tool", "content": "sun", "tool_name": "look"},
                {"role": "assistant", "content": "Done."},
            ],
            "options": {
                "temperature": 0.5,
                "num_predict": 9,
                "top_k": 3,
                "stop": ["END"],
                "num_ctx": 4096,
            },
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "look",
                        "description": "d",
                        "parameters": SCHEMA,
                    },
                },
                {"function": {"name": "bare"}},
            ],
            "format": SCHEMA,
            "think": "low",
            "logprobs": True,
            "top_logprobs": 2,
            "stream": False,
            "keep_alive": "5m",
        }
    )
    calls = [
        call_of("look", '{"city":"Ulm"}', id="call_2_0"),
        call_of("look", '{"city":"Ulm"}', id="c2"),
    ]
    assert request == LLMRequest(
        format="ollama",
        messages=[
            SystemPromptMessage(content="Be brief."),
            UserPromptMessage(content=[TextPromptMessageContent(data="Hi."), IMAGE]),
            AssistantPromptMessage(reasoning_content="A city.", tool_calls=calls),
            ToolPromptMessage(content="rain", tool_call_id="c2", name="look"),
            ToolPromptMessage(content="sun", tool_call_id="call_2_0", name="look"),
            AssistantPromptMessage(content="Done."),
        ],
        model_parameters={
            "temperature": 0.5,
            "top_k": 3,
            "max_tokens": 9,
            "logprobs": True,
            "top_logprobs": 2,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA},
            },
            "reasoning_effort": "low",
        },
        tools=[
            PromptMessageTool(name="look", description="d", parameters=SCHEMA),
            PromptMessageTool(name="bare"),
        ],
        stop=["END"],
        extra={"ollama": {"keep_alive": "5m", "options": {"num_ctx": 4096}}},
    )


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, {}),
        ({"think": True}, {"thinking_budget": -1}),
        ({"think": False}, {"thinking_budget": 0}),
        ({"think": "high"}, {"reasoning_effort": "high"}),
        ({"think": None, "format": None}, {}),
        ({"format": ""}, {}),
        ({"format": "json"}, {"response_format": {"type": "json_object"}}),
    ],
)
def test_thinking_and_format_of_a_request(
    fields: dict[str, Any], parameters: dict[str, Any]
):
    request = parsed(**fields)
    assert request.model_parameters == parameters
    # Ollama streams unless it is told not to.
    assert request.stream is True


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(None, []), ("", []), ("END", ["END"]), (["a", "b"], ["a", "b"])],
)
def test_stop_is_a_text_or_a_list(stop: Any, expected: list[str]):
    assert parsed(options={"stop": stop}).stop == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi."}, "messages"),
        ({"options": []}, "options"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"top_k": 1.5}}, "options.top_k"),
        ({"options": {"stop": 5}}, "options.stop"),
        ({"options": {"stop": [5]}}, "options.stop[0]"),
        ({"format": "xml"}, "format"),
        ({"format": 5}, "format"),
        ({"think": 5}, "think"),
        ({"logprobs": "x"}, "logprobs"),
        ({"top_logprobs": True}, "top_logprobs"),
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"function": []}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": 5}}]}, "tools[0].function.name"),
    ],
)
def test_invalid_fields_are_named(fields: dict[str, Any], param: str):
    with pytest.raises(InvokeBadRequestError) as raised:
        ollama.parse_request({"messages": [{"role": "user"}], **fields})
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Hi.", "messages[0]"),
        ({"content": "a"}, "messages[0].role"),
        ({"role": "robot", "content": "a"}, "messages[0].role"),
        ({"role": "user", "content": ["a"]}, "messages[0].content"),
        ({"role": "user", "images": PIXEL}, "messages[0].images"),
        ({"role": "user", "images": [5]}, "messages[0].images[0]"),
        ({"role": "user", "images": ["%"]}, "messages[0].images"),
        ({"role": "user", "images": ["eA=="]}, "messages[0].images"),
        ({"role": "assistant", "thinking": 5}, "messages[0].thinking"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_name"),
        ({"role": "tool", "content": "x", "tool_name": "a"}, "messages[0].tool_name"),
    ],
)
def test_invalid_messages_are_named(message: Any, param: str):
    with pytest.raises(InvokeBadRequestError) as raised:
        parsed(message)
    assert raised.value.param == param


def test_a_result_belongs_to_one_open_call():
    call = {"function": {"name": "look"}}
    turn = {"role": "assistant", "tool_calls": [call, {"function": {"name": "find"}}]}
    results = [
        {"role": "tool", "content": "1", "name": "find"},
        {"role": "tool", "content": "2"},
    ]
    messages = parsed(turn, *results).messages[1:]
    assert messages == [
        ToolPromptMessage(content="1", tool_call_id="call_0_1", name="find"),
        ToolPromptMessage(content="2", tool_call_id="call_0_0", name="look"),
    ]
    # Each call has one result.
    with pytest.raises(InvokeBadRequestError, match="a tool that was called in an ear"):
        parsed(turn, *results, {"role": "tool", "content": "3"})


# requests to Ollama


def test_the_body_of_a_request():
    body = dumped(
        SystemPromptMessage(content="Be brief."),
        AssistantPromptMessage(
            content="No.",
            refusal=" Never.",
            reasoning_content="Hm.",
            tool_calls=[
                call_of("look", '{"city":"Ulm"}', id="c1"),
                call_of("find", "not json"),
            ],
        ),
        ToolPromptMessage(content="sun", tool_call_id="c1"),
        model_parameters={
            "temperature": 0.5,
            "max_tokens": 9,
            "logprobs": True,
            "top_logprobs": 2,
            "response_format": {"type": "json_object"},
            "verbosity": "low",
        },
        tools=[
            PromptMessageTool(name="look", description="d", parameters=SCHEMA),
            PromptMessageTool(name="bare", type="custom"),
        ],
        stop=["END"],
        extra={"ollama": {"keep_alive": "5m", "options": {"num_ctx": 4096}}},
    )
    assert body == {
        "model": "qwen3",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "assistant",
                "content": "No. Never.",
                "thinking": "Hm.",
                "tool_calls": [
                    {
                        "id": "c1",
                        "function": {"name": "look", "arguments": {"city": "Ulm"}},
                    },
                    {
                        "function": {
                            "name": "find",
                            "arguments": {"INVALID_JSON": "not json"},
                        }
                    },
                ],
            },
            {
                "role": "tool",
                "content": "sun",
                "tool_name": "look",
                "tool_call_id": "c1",
            },
        ],
        "format": "json",
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "d", "parameters": SCHEMA},
            },
            {
                "type": "function",
                "function": {
                    "name": "bare",
                    "description": "",
                    "parameters": {"type": "object", "properties": {}},
                },
            },
        ],
        "options": {
            "temperature": 0.5,
            "num_predict": 9,
            "stop": ["END"],
            "num_ctx": 4096,
        },
        "stream": False,
        "keep_alive": "5m",
    }


def test_dumping_leaves_the_request_as_it_is():
    extra = {"ollama": {"options": {"num_ctx": 1, "seed": 2}}}
    request = LLMRequest(messages=[USER], extra=extra)
    capabilities = Capabilities(drop=("seed", "absent"))
    body = ollama.dump_request(request, "m", capabilities)
    assert body["options"] == {"num_ctx": 1}
    assert extra == {"ollama": {"options": {"num_ctx": 1, "seed": 2}}}


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({}, {}),
        ({"reasoning_effort": "low"}, {"think": "low"}),
        ({"reasoning_effort": "minimal"}, {"think": True}),
        ({"reasoning_effort": "none"}, {"think": False}),
        ({"reasoning_effort": "high", "thinking_budget": 0}, {"think": "high"}),
        ({"thinking_budget": -1}, {"think": True}),
        ({"thinking_budget": 99}, {"think": True}),
        ({"thinking_budget": 0}, {"think": False}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA},
                }
            },
            {"format": SCHEMA},
        ),
    ],
)
def test_effort_budget_and_format(parameters: dict[str, Any], fields: dict[str, Any]):
    body = dumped(model_parameters=parameters)
    message = {"role": "user", "content": "Hi."}
    assert body == {"model": "qwen3", "messages": [message], "stream": False, **fields}


def test_without_tool_choice_the_tools_of_none_are_omitted():
    tools = [PromptMessageTool(name="look")]
    assert "tools" in dumped(tools=tools, tool_choice="auto")
    assert "tools" not in dumped(tools=tools, tool_choice="none")


def test_tools_of_other_providers_are_refused():
    tool = PromptMessageTool(name="web_search", type="web_search")
    with pytest.raises(InvokeBadRequestError, match="hosted by another") as raised:
        dumped(tools=[tool])
    assert raised.value.param == "tools"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            ImagePromptMessageContent(url="https://a.example/x.png"),
            "Ollama does not download images; send them as base64",
        ),
        (
            DocumentPromptMessageContent(base64_data="eA==", format="pdf"),
            "Ollama accepts text and images only",
        ),
    ],
)
def test_files_that_ollama_cannot_read_are_refused(file: Any, message: str):
    calling = AssistantPromptMessage(tool_calls=[call_of("look", "{}", id="c1")])
    for messages in (
        [UserPromptMessage(content=[file])],
        [calling, ToolPromptMessage(content=[file], tool_call_id="c1")],
    ):
        with pytest.raises(InvokeBadRequestError) as raised:
            dumped(*messages)
        assert str(raised.value) == message


def test_images_of_every_role_survive_a_round_trip():
    content = [TextPromptMessageContent(data="See:"), IMAGE]
    messages = [
        SystemPromptMessage(content=content),
        UserPromptMessage(content=[IMAGE]),
        AssistantPromptMessage(
            content=content, tool_calls=[call_of("look", "{}", id="c1")]
        ),
        ToolPromptMessage(content=content, tool_call_id="c1", name="look"),
    ]
    body = dumped(*messages)
    assert [message["images"] for message in body["messages"]] == [[PIXEL]] * 4
    assert ollama.parse_request(body).messages == messages


@given(st.permutations(["c0", "c1", "c2"]))
def test_results_of_one_tool_stay_with_their_calls(order: list[str]):
    """Parallel calls of one tool may end in any order."""
    calls = [call_of("look", f'{{"n":{n}}}', id=f"c{n}") for n in range(3)]
    results = [
        ToolPromptMessage(content=f"of {call_id}", tool_call_id=call_id, name="look")
        for call_id in order
    ]
    messages = [USER, AssistantPromptMessage(tool_calls=calls), *results]
    assert ollama.parse_request(dumped(*messages)).messages == messages


# answers


def test_the_fields_of_an_answer():
    body = {
        "model": "qwen3",
        "created_at": "2025-07-01T00:00:00Z",
        "message": {
            "role": "assistant",
            "content": "Hi.",
            "thinking": "Hm.",
            "images": [PIXEL],
        },
        "done": True,
        "done_reason": "length",
        "logprobs": [{"token": "Hi", "logprob": -0.5}],
        "total_duration": 123,
        "prompt_eval_count": 5,
        "eval_count": 2,
    }
    result = ollama.parse_result(body)
    assert result == LLMResult(
        model="qwen3",
        choices=[
            LLMChoice(
                message=AssistantPromptMessage(
                    content=[TextPromptMessageContent(data="Hi."), IMAGE],
                    reasoning_content="Hm.",
                ),
                finish_reason="length",
                logprobs={"content": [{"token": "Hi", "logprob": -0.5}]},
            )
        ],
        usage=LLMUsage.of(5, 2),
        extra={
            "ollama": {
                "created_at": "2025-07-01T00:00:00Z",
                "total_duration": 123,
                "prompt_eval_count": 5,
                "eval_count": 2,
            }
        },
    )
    assert ollama.dump_result(result) == body
    events = list(ollama.dump_stream(result.as_chunks()))
    assert fold(ollama.parse_stream(events)) == result


def test_an_answer_of_generate():
    body = {"model": "m", "response": "Hi.", "thinking": "Hm.", "eval_count": 2}
    assert ollama.parse_result(body) == LLMResult(
        model="m",
        choices=[
            LLMChoice(
                message=AssistantPromptMessage(content="Hi.", reasoning_content="Hm."),
                finish_reason="stop",
            )
        ],
        usage=LLMUsage.of(0, 2),
        extra={"ollama": {"eval_count": 2}},
    )
    usage = ollama.parse_result({"response": ""}).usage
    assert usage == LLMUsage(estimated=True)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "stop"),
        ({"done_reason": "stop"}, "stop"),
        ({"done_reason": "length"}, "length"),
        ({"done_reason": "load"}, "stop"),
        ({"done": False}, None),
    ],
)
def test_the_finish_reason_of_an_answer(fields: dict[str, Any], reason: str | None):
    result = ollama.parse_result({"message": {"content": "a"}, **fields})
    assert result.finish_reason == reason
    message = {"tool_calls": [{"function": {"name": "look"}}]}
    result = ollama.parse_result({"message": message, **fields})
    assert result.finish_reason == ("tool_calls" if reason == "stop" else reason)


def test_calls_without_ids_get_the_same_ids_each_time():
    message = {"tool_calls": [{"function": {"name": "a"}}, {"function": {"name": "b"}}]}
    first, second = (ollama.parse_result({"message": message}) for _ in range(2))
    ids = [call.id for call in first.tool_calls]
    assert ids == [call.id for call in second.tool_calls]
    assert len(set(ids)) == 2
    assert [call.function.arguments for call in first.tool_calls] == ["{}", "{}"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "model not loaded"}, "^model not loaded$"),
        ({}, "Upstream response has no 'message'"),
        ({"message": "Hi."}, "Upstream response has no 'message'"),
        ({"message": {"content": 5}}, "Invalid upstream response: 'message.content'"),
        ({"message": {"thinking": []}}, "Invalid upstream response"),
        ({"message": {"images": [5]}}, "Invalid upstream response"),
        ({"message": {"tool_calls": [5]}}, "The response does not match its format"),
    ],
)
def test_an_invalid_answer_is_the_providers_fault(body: Any, message: str):
    with pytest.raises(InvokeServerUnavailableError, match=message):
        ollama.parse_result(body)
    # The same inside a stream, after the answer has begun.
    chunks = ollama.parse_stream([{"message": {"content": "He"}, "done": False}, body])
    assert next(chunks).text == "He"
    with pytest.raises(InvokeServerUnavailableError, match=message):
        next(chunks)


def test_the_answer_that_callers_get():
    message = AssistantPromptMessage(
        content="No.", refusal=" Never.", tool_calls=[call_of("look", "{}", id="c1")]
    )
    result = LLMResult(
        model="m",
        choices=[LLMChoice(message=message, finish_reason="tool_calls"), LLMChoice()],
        usage=LLMUsage.of(5, 2, latency=0.25),
        extra={"ollama": {"load_duration": 7}, "cohere": {"x": 1}},
    )
    assert ollama.dump_result(result) == {
        "model": "m",
        "created_at": "",
        "message": {
            "role": "assistant",
            "content": "No. Never.",
            "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": {}}}],
        },
        "done": True,
        "done_reason": "stop",
        "total_duration": 250_000_000,
        "load_duration": 7,
        "prompt_eval_count": 5,
        "eval_count": 2,
    }
    assert ollama.dump_error(500, "No.", "r") == {"error": "No."}


# streams


def test_a_stream_of_text_and_calls():
    call = {"function": {"name": "look", "arguments": {"n": 1}}}
    events: list[Any] = [
        {"model": "m", "message": {"content": "He", "thinking": "Hm"}, "done": False},
        {"message": {"content": "llo"}, "logprobs": [{"token": "x"}], "done": False},
        {"message": {"content": "", "tool_calls": [call]}, "done": False},
        {"message": {"content": "", "tool_calls": [call, call]}, "done": False},
        {
            "message": {"content": ""},
            "done": True,
            "done_reason": "stop",
            "eval_duration": 9,
            "prompt_eval_count": 5,
            "eval_count": 2,
        },
    ]
    result = fold(ollama.parse_stream(events))
    assert result.usage == LLMUsage.of(5, 2)
    assert result.finish_reason == "tool_calls"
    assert (result.model, result.text) == ("m", "Hello")
    assert result.message.reasoning_content == "Hm"
    assert result.choices[0].logprobs == {"content": [{"token": "x"}]}
    assert len({call.id for call in result.tool_calls}) == 3
    functions = [call.function for call in result.tool_calls]
    assert functions == [ToolCallFunction(name="look", arguments='{"n":1}')] * 3
    assert result.extra["ollama"]["eval_duration"] == 9


@pytest.mark.parametrize("events", [[], [{"message": {"content": "He"}}]])
def test_a_stream_that_is_cut_off_is_the_providers_fault(events: list[Any]):
    with pytest.raises(InvokeServerUnavailableError, match="ended without a line with"):
        list(ollama.parse_stream(events))
    parser = ollama.StreamParser()
    assert parser.finish(end_marker_seen=True) == []


def chunk_of(
    reason: str | None = None, index: int = 0, **fields: Any
) -> LLMResultChunk:
    usage, logprobs = fields.pop("usage", None), fields.pop("logprobs", None)
    delta = LLMResultChunkDelta(
        index=index,
        message=AssistantPromptMessage(**fields),
        finish_reason=reason,
        usage=usage,
        logprobs=logprobs,
    )
    return LLMResultChunk(model="m", delta=delta)


def test_the_stream_that_callers_get():
    logprobs = {"content": [{"token": "He"}]}
    chunks = [
        chunk_of(content="He", logprobs=logprobs),
        chunk_of(),
        chunk_of(reasoning_content="Hm"),
        chunk_of(content=[IMAGE]),
        chunk_of(refusal=" No."),
        chunk_of(logprobs=logprobs),
        chunk_of(tool_calls=[call_of("look", '{"n":', id="c1", index=0)]),
        chunk_of(tool_calls=[call_of("", "1}", index=0)]),
        chunk_of("stop", index=1, content="dropped", usage=LLMUsage.of(5, 2)),
        chunk_of("length"),
    ]
    head = {"model": "m", "created_at": ""}
    call = {"id": "c1", "function": {"name": "look", "arguments": {"n": 1}}}
    messages: list[dict[str, Any]] = [
        {"content": "He"},
        {"content": "", "thinking": "Hm"},
        {"content": "", "images": [PIXEL]},
        {"content": " No."},
        {"content": ""},
        {"content": "", "tool_calls": [call]},
    ]
    lines: list[dict[str, Any]] = [
        {**head, "message": {"role": "assistant", **message}, "done": False}
        for message in messages
    ]
    lines[0]["logprobs"] = lines[4]["logprobs"] = [{"token": "He"}]
    end = {
        **head,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "length",
        "total_duration": 0,
        "prompt_eval_count": 5,
        "eval_count": 2,
    }
    assert list(ollama.dump_stream(chunks)) == [*lines, end]
