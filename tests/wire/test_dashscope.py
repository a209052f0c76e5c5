"""DashScope's chat format: requests, answers and streams in both directions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)
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
from modelyard.wire import dashscope

DEFAULT = Capabilities()
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
USER = UserPromptMessage(content="Hi.")


def parsed(*messages: Any, **parameters: Any) -> LLMRequest:
    """Return the request with these messages and parameters."""
    turns = list(messages) or [{"role": "user", "content": "Hi."}]
    return dashscope.parse_request(
        {"model": "qwen-max", "input": {"messages": turns}, "parameters": parameters}
    )


def dumped(*messages: Any, **fields: Any) -> dict[str, Any]:
    request = LLMRequest(messages=list(messages) or [USER], **fields)
    return json.loads(json.dumps(dashscope.dump_request(request, "qwen-max", DEFAULT)))


def answer(*choices: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"request_id": "r", "output": {"choices": list(choices)}, **fields}


def call_of(name: str, arguments: str, **fields: Any) -> ToolCall:
    function = ToolCallFunction(name=name, arguments=arguments)
    return ToolCall(function=function, **fields)


# requests of callers


def test_the_fields_of_a_request():
    call = {"id": "c1", "function": {"name": "look", "arguments": {"city": "Ulm"}}}
    request = dashscope.parse_request(
        {
            "model": "qwen-max",
            "input": {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [{"text": "Hi."}]},
                    {
                        "role": "assistant",
                        "content": [{"text": "Let "}, {"text": "me see."}],
                        "reasoning_content": "A city.",
                        "tool_calls": [call],
                    },
                    {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
                    {"role": "tool", "content": "", "name": "look"},
                ]
            },
            "parameters": {
                "result_format": "message",
                "incremental_output": True,
                "temperature": 1,
                "top_p": 0.5,
                "max_tokens": 9,
                "seed": 3,
                "stop": "END",
                "logprobs": True,
                "top_logprobs": 2,
                "parallel_tool_calls": False,
                "response_format": {"type": "json_object"},
                "enable_thinking": True,
                "thinking_budget": 50,
                "enable_search": True,
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "look",
                            "description": "d",
                            "parameters": SCHEMA,
                        },
                    },
                    {"type": "function", "function": {"name": "bare"}},
                ],
                "tool_choice": {"type": "function", "function": {"name": "look"}},
            },
        },
        stream=True,
    )
    assert request == LLMRequest(
        format="dashscope",
        messages=[
            SystemPromptMessage(content="Be brief."),
            UserPromptMessage(content="Hi."),
            AssistantPromptMessage(
                content="Let me see.",
                reasoning_content="A city.",
                tool_calls=[call_of("look", '{"city":"Ulm"}', id="c1")],
            ),
            ToolPromptMessage(content="sunny", tool_call_id="c1"),
            # Without an id, the name of the tool identifies its result.
            ToolPromptMessage(tool_call_id="look", name="look"),
        ],
        model_parameters={
            "temperature": 1,
            "top_p": 0.5,
            "max_tokens": 9,
            "seed": 3,
            "top_logprobs": 2,
            "response_format": {"type": "json_object"},
            "logprobs": True,
            "parallel_tool_calls": False,
            "thinking_budget": 50,
        },
        tools=[
            PromptMessageTool(name="look", description="d", parameters=SCHEMA),
            PromptMessageTool(name="bare"),
        ],
        tool_choice={"name": "look"},
        stop=["END"],
        stream=True,
        extra={"dashscope": {"enable_search": True}},
    )


def test_a_prompt_is_a_message_of_the_user():
    request = dashscope.parse_request({"input": {"prompt": "Hi."}})
    assert request == LLMRequest(format="dashscope", messages=[USER])


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, {}),
        ({"enable_thinking": False, "thinking_budget": 9}, {"thinking_budget": 0}),
        ({"enable_thinking": True}, {"thinking_budget": -1}),
        ({"enable_thinking": True, "thinking_budget": None}, {"thinking_budget": -1}),
        ({"enable_thinking": True, "thinking_budget": 9}, {"thinking_budget": 9}),
    ],
)
def test_the_thinking_of_a_request(fields: dict[str, Any], parameters: dict[str, Any]):
    assert parsed(**fields).model_parameters == parameters


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(None, []), ("", []), ("END", ["END"]), (["a", "b"], ["a", "b"]), ([], [])],
)
def test_stop_is_a_text_or_a_list(stop: Any, expected: list[str]):
    assert parsed(stop=stop).stop == expected


@pytest.mark.parametrize("choice", [None, "auto", "none", "required"])
def test_a_mode_of_tool_choice(choice: str | None):
    assert parsed(tool_choice=choice).tool_choice == choice


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": "Hi."}, "input"),
        ({"input": {}}, "input.messages"),
        ({"input": {"prompt": 5}}, "input.messages"),
        ({"input": {"messages": {}}}, "input.messages"),
        ({"input": {"messages": []}}, "input.messages"),
        ({"input": {"prompt": "a"}, "parameters": []}, "parameters"),
    ],
)
def test_a_request_needs_messages(body: dict[str, Any], param: str):
    with pytest.raises(InvokeBadRequestError) as raised:
        dashscope.parse_request(body)
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Hi.", "input.messages[0]"),
        ({"content": "a"}, "input.messages[0].role"),
        ({"role": "robot"}, "input.messages[0].role"),
        ({"role": "user", "content": 5}, "input.messages[0].content"),
        ({"role": "user", "content": ["a"]}, "input.messages[0].content[0]"),
        ({"role": "tool", "name": 5}, "input.messages[0].name"),
        ({"role": "tool", "tool_call_id": 5}, "input.messages[0].tool_call_id"),
        (
            {"role": "user", "content": [{"image": "data:image/png;base64,eA=="}]},
            "input.messages[0].content[0].image",
        ),
        (
            {"role": "user", "content": [{"audio": "data:audio/wav,x"}]},
            "input.messages[0].content[0].audio",
        ),
    ],
)
def test_invalid_messages_are_named(message: Any, param: str):
    with pytest.raises(InvokeBadRequestError) as raised:
        parsed(message)
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"top_p": "x"}, "top_p"),
        ({"n": 5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": 6}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"response_format": "json"}, "response_format"),
        ({"enable_thinking": "yes"}, "enable_thinking"),
        ({"enable_thinking": True, "thinking_budget": "9"}, "thinking_budget"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"stop": [[1, 2]]}, "stop[0]"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": ["look"]}, "tool_choice"),
        ({"tool_choice": {}}, "tool_choice.function"),
        ({"tool_choice": {"function": {}}}, "tool_choice.function.name"),
        ({"tools": {}}, "tools"),
        ({"tools": ["look"]}, "tools[0]"),
        ({"tools": [{}]}, "tools[0].function"),
        ({"tools": [{"function": {}}]}, "tools[0].function.name"),
        (
            {"tools": [{"function": {"name": "a", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
    ],
)
def test_invalid_parameters_are_named(parameters: dict[str, Any], param: str):
    with pytest.raises(InvokeBadRequestError) as raised:
        parsed(**parameters)
    assert raised.value.param == f"parameters.{param}"


# files


def test_parts_of_every_type_survive_a_round_trip():
    content = [
        {"text": "Look:"},
        {"image": f"data:image/png;base64,{PIXEL}"},
        {"image": "https://a.example/x.png"},
        {"audio": "https://a.example/x.mp3"},
        {"video": "data:video/mp4;base64,eA=="},
        {"video": ["https://a.example/1.png", "https://a.example/2.png"], "fps": 2},
    ]
    request = parsed({"role": "user", "content": content})
    assert request.messages[0].parts == [
        TextPromptMessageContent(data="Look:"),
        ImagePromptMessageContent(
            base64_data=PIXEL, mime_type="image/png", format="png"
        ),
        ImagePromptMessageContent(url="https://a.example/x.png"),
        AudioPromptMessageContent(url="https://a.example/x.mp3"),
        VideoPromptMessageContent(
            base64_data="eA==", mime_type="video/mp4", format="mp4"
        ),
        OpaquePromptMessageContent(format="dashscope", data=content[-1]),
    ]
    body = dashscope.dump_request(request, "qwen-vl-max", DEFAULT)
    assert body["input"]["messages"] == [{"role": "user", "content": content}]


def test_a_video_of_frames_alone_goes_to_the_multimodal_endpoint():
    content = [{"video": ["https://a.example/1.png"]}, {"text": "What is this?"}]
    request = parsed({"role": "user", "content": content})
    assert dashscope.has_files(request)
    body = dashscope.dump_request(request, "qwen-vl-max", DEFAULT)
    assert body["input"]["messages"][0]["content"] == content


def test_parts_of_other_formats_need_no_multimodal_endpoint():
    foreign = OpaquePromptMessageContent(format="anthropic", data={"type": "x"})
    text = TextPromptMessageContent(data="a")
    message = UserPromptMessage(content=[foreign, text])
    assert not dashscope.has_files(LLMRequest(messages=[message]))
    assert dumped(message)["input"]["messages"] == [{"role": "user", "content": "a"}]
    # Beside an image they are left out too, as is thinking.
    image = ImagePromptMessageContent(url="https://a.example/x.png")
    thought = ThinkingPromptMessageContent(data="Hm.")
    message = UserPromptMessage(content=[foreign, thought, text, image])
    assert dumped(message)["input"]["messages"][0]["content"] == [
        {"text": "a"},
        {"image": "https://a.example/x.png"},
    ]


def test_one_file_makes_every_content_a_list():
    image = ImagePromptMessageContent(url="https://a.example/x.png")
    messages = dumped(
        SystemPromptMessage(content="Be brief."),
        UserPromptMessage(content=[image]),
        AssistantPromptMessage(content="No.", refusal=" I will not."),
        AssistantPromptMessage(tool_calls=[call_of("look", "{}", id="c1")]),
        ToolPromptMessage(content="ok", tool_call_id="c1", name="look"),
    )["input"]["messages"]
    function = {"name": "look", "arguments": "{}"}
    call = {"id": "c1", "type": "function", "index": 0, "function": function}
    assert messages == [
        {"role": "system", "content": [{"text": "Be brief."}]},
        {"role": "user", "content": [{"image": "https://a.example/x.png"}]},
        {"role": "assistant", "content": [{"text": "No."}, {"text": " I will not."}]},
        {"role": "assistant", "content": [], "tool_calls": [call]},
        {
            "role": "tool",
            "content": [{"text": "ok"}],
            "tool_call_id": "c1",
            "name": "look",
        },
    ]


def test_documents_are_refused():
    document = DocumentPromptMessageContent(base64_data="eA==", format="pdf")
    with pytest.raises(InvokeBadRequestError, match="does not accept documents"):
        dumped(UserPromptMessage(content=[document]))


# requests to DashScope


def test_the_body_of_a_request():
    tools = [
        PromptMessageTool(name="look", description="d"),
        PromptMessageTool(name="b"),
    ]
    body = dumped(
        USER,
        AssistantPromptMessage(
            content="No.", refusal=" Never.", reasoning_content="Hm"
        ),
        model_parameters={
            "temperature": 0.5,
            "top_k": 9,
            "frequency_penalty": 1,
            "thinking_budget": 7,
            "logprobs": True,
        },
        tools=tools,
        tool_choice="none",
        stop=["END"],
        stream=True,
        extra={"dashscope": {"enable_search": True}, "cohere": {"documents": []}},
    )
    nothing = {"type": "object", "properties": {}}
    assert body == {
        "model": "qwen-max",
        "input": {
            "messages": [
                {"role": "user", "content": "Hi."},
                {
                    "role": "assistant",
                    "content": "No. Never.",
                    "reasoning_content": "Hm",
                },
            ]
        },
        "parameters": {
            "result_format": "message",
            "temperature": 0.5,
            "top_k": 9,
            "logprobs": True,
            "enable_thinking": True,
            "thinking_budget": 7,
            "stop": ["END"],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "look",
                        "description": "d",
                        "parameters": nothing,
                    },
                },
                {
                    "type": "function",
                    "function": {"name": "b", "description": "", "parameters": nothing},
                },
            ],
            "tool_choice": "none",
            "incremental_output": True,
            "enable_search": True,
        },
    }


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({}, {}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        (
            {"reasoning_effort": "low"},
            {"enable_thinking": True, "thinking_budget": 1024},
        ),
        ({"reasoning_effort": "strange"}, {"enable_thinking": True}),
        (
            {"thinking_budget": 0, "reasoning_effort": "high"},
            {"enable_thinking": False},
        ),
        ({"thinking_budget": -1}, {"enable_thinking": True}),
        (
            {"thinking_budget": 5},
            {"enable_thinking": True, "thinking_budget": 5},
        ),
    ],
)
def test_effort_and_budget_control_thinking(
    parameters: dict[str, Any], fields: dict[str, Any]
):
    config = dumped(model_parameters=parameters)["parameters"]
    assert config == {"result_format": "message", **fields}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "auto"),
        ({"allowed": ["a", "b"]}, "auto"),
        ({"name": "a"}, {"type": "function", "function": {"name": "a"}}),
    ],
)
def test_the_nearest_tool_choice_is_sent(choice: Any, expected: Any):
    assert dumped(tool_choice=choice)["parameters"]["tool_choice"] == expected


def test_parameters_that_a_server_rejects_are_dropped():
    request = LLMRequest(messages=[USER], model_parameters={"seed": 1, "top_k": 2})
    capabilities = Capabilities(drop=("seed", "absent"))
    body = dashscope.dump_request(request, "m", capabilities)
    assert body["parameters"] == {"result_format": "message", "top_k": 2}


def test_tools_of_other_providers_are_refused():
    tool = PromptMessageTool(name="web_search", type="web_search")
    with pytest.raises(InvokeBadRequestError, match="hosted by another") as raised:
        dumped(tools=[tool])
    assert raised.value.param == "tools"


# answers


def test_the_fields_of_an_answer():
    usage = {
        "input_tokens": 20,
        "output_tokens": 9,
        "total_tokens": 29,
        "image_tokens": 5,
        "audio_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 8},
        "output_tokens_details": {"reasoning_tokens": 3},
    }
    logprobs = {"content": [{"token": "a", "logprob": -0.5}]}
    message = {
        "role": "assistant",
        "content": [{"text": "A"}, {"image": "https://a.example/x.png"}],
        "reasoning_content": "Hm.",
    }
    body = answer(
        {"finish_reason": "stop", "message": message, "logprobs": logprobs},
        {"finish_reason": "null", "message": {"content": ""}},
        usage=usage,
        status_code=200,
    )
    assert dashscope.parse_result(body) == LLMResult(
        id="r",
        choices=[
            LLMChoice(
                message=AssistantPromptMessage(
                    content=[
                        TextPromptMessageContent(data="A"),
                        ImagePromptMessageContent(url="https://a.example/x.png"),
                    ],
                    reasoning_content="Hm.",
                ),
                finish_reason="stop",
                logprobs=logprobs,
            ),
            LLMChoice(index=1),
        ],
        usage=LLMUsage.of(
            20,
            9,
            cached_tokens=8,
            image_prompt_tokens=5,
            audio_prompt_tokens=4,
            reasoning_tokens=3,
            extra={"dashscope": usage},
        ),
        extra={"dashscope": {"status_code": 200}},
    )


def test_an_answer_as_plain_text():
    body = {"output": {"text": "Hi.", "finish_reason": "length"}, "usage": {"x": 1}}
    assert dashscope.parse_result(body) == LLMResult(
        choices=[
            LLMChoice(
                message=AssistantPromptMessage(content="Hi."), finish_reason="length"
            )
        ],
        usage=LLMUsage(estimated=True),
    )


def test_the_index_of_a_choice_counts_more_than_its_position():
    body = answer(
        {"index": 1, "message": {"content": "b"}},
        {"index": 0, "message": {"content": "a"}},
        {"message": {"content": "c"}},
    )
    texts = [(choice.index, choice.message.text) for choice in
             dashscope.parse_result(body).choices]  # fmt: skip
    assert texts == [(1, "b"), (0, "a"), (2, "c")]
    deltas = [chunk.delta for chunk in dashscope.StreamParser().feed(body)]
    assert [(delta.index, delta.message.text) for delta in deltas] == texts


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Upstream response has no 'output'"),
        ({"output": "x"}, "Upstream response has no 'output'"),
        ({"output": {}}, "Upstream response has no 'choices'"),
        (answer(), "Upstream response has no 'choices'"),
        (answer({"message": {"content": 5}}), "Invalid upstream response: 'content'"),
        (answer({"message": {"content": [5]}}), "Invalid upstream response"),
        (answer({"message": {"content": [{"image": "data:x"}]}}), "Invalid upstream"),
        (answer({"message": "x"}), "The response does not match its format"),
        (answer({"message": {"tool_calls": [5]}}), "The response does not match"),
    ],
)
def test_an_invalid_answer_is_the_providers_fault(body: Any, message: str):
    with pytest.raises(InvokeServerUnavailableError, match=message):
        dashscope.parse_result(body)


ERRORS: list[tuple[dict[str, Any], type[InvokeError], str]] = [
    ({"code": "InvalidApiKey", "message": "No."}, InvokeAuthorizationError, "No."),
    ({"code": "Throttling", "message": "Slow."}, InvokeRateLimitError, "Slow."),
    ({"code": "InvalidParameter", "message": "x"}, InvokeBadRequestError, "x"),
    ({"code": "Odd", "message": ""}, InvokeServerUnavailableError, "Odd"),
    ({"code": 500}, InvokeServerUnavailableError, "500"),
]


@pytest.mark.parametrize(("body", "error_class", "message"), ERRORS)
def test_an_error_may_have_status_200(
    body: dict[str, Any], error_class: type[InvokeError], message: str
):
    with pytest.raises(error_class) as raised:
        dashscope.parse_result(body)
    assert (type(raised.value), str(raised.value)) == (error_class, message)
    # The same inside a stream, after the answer has begun.
    start = answer({"finish_reason": "null", "message": {"content": "He"}})
    chunks = dashscope.parse_stream([start, body])
    assert next(chunks).text == "He"
    with pytest.raises(error_class) as raised:
        next(chunks)
    assert (type(raised.value), str(raised.value)) == (error_class, message)


def test_the_answer_that_callers_get():
    logprobs = {"content": []}
    message = AssistantPromptMessage(
        content="No.",
        refusal=" Never.",
        reasoning_content="Hm.",
        tool_calls=[call_of("look", "{}", id="c1")],
    )
    result = LLMResult(
        id="r",
        choices=[
            LLMChoice(message=message, finish_reason="pause", logprobs=logprobs),
            LLMChoice(index=1),
        ],
        usage=LLMUsage.of(20, 9, cached_tokens=8, reasoning_tokens=3),
        extra={"dashscope": {"status_code": 200}, "cohere": {"x": 1}},
    )
    function = {"name": "look", "arguments": "{}"}
    call = {"id": "c1", "type": "function", "index": 0, "function": function}
    assert dashscope.dump_result(result) == {
        "request_id": "r",
        "output": {
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {
                        "role": "assistant",
                        "content": "No. Never.",
                        "reasoning_content": "Hm.",
                        "tool_calls": [call],
                    },
                    "logprobs": logprobs,
                },
                {
                    "index": 1,
                    "finish_reason": "null",
                    "message": {"role": "assistant", "content": ""},
                },
            ]
        },
        "usage": {
            "input_tokens": 20,
            "output_tokens": 9,
            "total_tokens": 29,
            "prompt_tokens_details": {"cached_tokens": 8},
            "output_tokens_details": {"reasoning_tokens": 3},
        },
        "status_code": 200,
    }


def test_usage_of_dashscope_is_written_unchanged():
    usage = {"input_tokens": 1, "output_tokens": 2, "plugins": {"search": {"count": 1}}}
    parsed_usage = dashscope.parse_usage(usage)
    assert parsed_usage is not None
    assert dashscope.dump_usage(parsed_usage) == usage
    for nothing in (None, [], {}, {"input_tokens": "1"}):
        assert dashscope.parse_usage(nothing) is None


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "InvalidParameter"), (499, "InvalidParameter"), (500, "InternalError")],
)
def test_the_error_that_callers_get(status: int, code: str):
    error = {"code": code, "message": "No."}
    assert dashscope.dump_error(status, "No.") == error
    with_id = dashscope.dump_error(status, "No.", "r")
    assert with_id == {**error, "request_id": "r"}


# streams


def event(
    content: Any = "", reason: str | None = "null", **fields: Any
) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **fields}
    choice = {"finish_reason": reason, "message": message}
    return answer(choice, usage={"input_tokens": 5, "output_tokens": 2})


def test_a_stream_of_text_and_calls():
    events = [
        event("He", reasoning_content="Hm"),
        event([{"text": "llo"}], None),
        event(
            tool_calls=[
                {
                    "index": 0,
                    "id": "c1",
                    "function": {"name": "look", "arguments": '{"ci'},
                }
            ]
        ),
        event(tool_calls=[{"index": 0, "id": "", "function": {"arguments": 'ty":1}'}}]),
        event(tool_calls=[{"index": None, "id": "c2", "function": {"name": "b"}}]),
        event(tool_calls=[{"index": 2, "function": {"name": "c", "arguments": None}}]),
        event("", "tool_calls"),
    ]
    chunks = list(dashscope.parse_stream(events))
    # Every event repeats the usage; it counts once.
    assert [chunk.delta.usage is None for chunk in chunks] == [True] * 6 + [False]
    result = fold(chunks)
    assert result.id == "r"
    assert result.usage == LLMUsage.of(
        5, 2, extra={"dashscope": {"input_tokens": 5, "output_tokens": 2}}
    )
    assert result.message.tool_calls[2].id.startswith("call_")
    assert result.choices == [
        LLMChoice(
            message=AssistantPromptMessage(
                content="Hello",
                reasoning_content="Hm",
                tool_calls=[
                    call_of("look", '{"city":1}', id="c1"),
                    call_of("b", "", id="c2"),
                    # A call without an id gets one, which its result can name.
                    call_of("c", "", id=result.message.tool_calls[2].id),
                ],
            ),
            finish_reason="tool_calls",
        )
    ]


def test_usage_may_come_before_the_finish_reason():
    events = [event("Hi."), answer({"finish_reason": "stop", "message": {}})]
    assert fold(dashscope.parse_stream(events)).usage.total_tokens == 7


def test_events_without_choices_are_read():
    parser = dashscope.StreamParser()
    assert parser.feed({"output": {}, "usage": {"input_tokens": 1}}) == []
    [chunk] = parser.feed(answer({"finish_reason": "stop", "message": {}}))
    assert chunk.delta.usage == LLMUsage.of(
        1, 0, extra={"dashscope": {"input_tokens": 1}}
    )


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], "ended without a finish reason"),
        ([event("He")], "ended without a finish reason"),
        ([event("He"), {"usage": {}}], "Upstream response has no 'output'"),
        ([event(5)], "Invalid upstream response: 'content' must be a list"),
        ([event(tool_calls=["x"])], "The response does not match its format"),
        ([[]], "The response does not match its format"),
    ],
)
def test_a_broken_stream_is_the_providers_fault(events: list[Any], message: str):
    with pytest.raises(InvokeServerUnavailableError, match=message):
        list(dashscope.parse_stream(events))


def test_a_regular_end_needs_no_finish_reason():
    parser = dashscope.StreamParser()
    parser.feed(event("He"))
    assert parser.finish(end_marker_seen=True) == []


def chunk_of(
    reason: str | None = None, index: int = 0, usage: Any = None, **message: Any
) -> LLMResultChunk:
    return LLMResultChunk(
        id="r",
        delta=LLMResultChunkDelta(
            index=index,
            message=AssistantPromptMessage(**message),
            finish_reason=reason,
            usage=usage,
        ),
    )


def test_the_stream_that_callers_get():
    chunks = [
        chunk_of(content="He", reasoning_content="Hm"),
        chunk_of(),
        chunk_of(refusal=" No."),
        chunk_of("length", usage=LLMUsage.of(5, 2)),
    ]
    first, second, end = dashscope.dump_stream(chunks)
    assert first == {
        "request_id": "r",
        "output": {
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "null",
                    "message": {
                        "role": "assistant",
                        "content": "He",
                        "reasoning_content": "Hm",
                    },
                }
            ]
        },
    }
    assert second["output"]["choices"][0]["message"]["content"] == " No."
    assert end["usage"]["total_tokens"] == 7
    assert end["output"]["choices"] == [
        {
            "index": 0,
            "finish_reason": "length",
            "message": {"role": "assistant", "content": ""},
        }
    ]


def test_a_stream_without_an_end_stops():
    *_, end = dashscope.dump_stream([chunk_of(content="Hi.")])
    assert end["output"]["choices"][0]["finish_reason"] == "stop"
    assert end["usage"]["total_tokens"] == 0
    assert list(dashscope.dump_stream([])) == []


answer_texts = st.text(min_size=1, max_size=5)


@given(
    st.lists(
        st.tuples(answer_texts, st.sampled_from(["stop", "length"])),
        min_size=1,
        max_size=4,
    )
)
def test_several_answers_survive_a_stream(answers: list[tuple[str, str]]):
    choices = [
        LLMChoice(
            index=index,
            message=AssistantPromptMessage(content=text),
            finish_reason=reason,
            logprobs={"content": [{"token": text}]},
        )
        for index, (text, reason) in enumerate(answers)
    ]
    result = LLMResult(id="r", choices=choices, usage=LLMUsage.of(5, 2))
    events = json.loads(json.dumps(list(dashscope.dump_stream(result.as_chunks()))))
    assert fold(dashscope.parse_stream(events)).choices == choices
    body = json.loads(json.dumps(dashscope.dump_result(result)))
    assert dashscope.parse_result(body).choices == choices
