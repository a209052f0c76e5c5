"""Requests of the Responses API: each as it is read and written, in full, and each refused
value with its words."""

import hashlib
from typing import Any

import pytest

from modelyard.base.errors import InvokeBadRequestError
from modelyard.models.capabilities import Capabilities
from modelyard.models.llm import LLMRequest
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
from modelyard.wire import openai_responses

PNG = "iVBORw0KGgo="
PLAIN = Capabilities()
HI = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
EMPTY_SCHEMA = {"type": "object", "properties": {}}


def own(**fields: Any) -> dict[str, dict[str, Any]]:
    """Return fields that only this format has, as our types keep them."""
    return {"openai_responses": fields}


def text(data: str, **fields: Any) -> TextPromptMessageContent:
    return TextPromptMessageContent(data=data, **fields)


def call(
    call_id: str,
    name: str,
    arguments: str = "{}",
    type: str = "function",
    **fields: Any,
) -> ToolCall:
    function = ToolCallFunction(name=name, arguments=arguments)
    return ToolCall(id=call_id, type=type, function=function, **fields)


def opaque(**data: Any) -> OpaquePromptMessageContent:
    return OpaquePromptMessageContent(format="openai_responses", data=data)


def request(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "input": [HI], **fields}


def parse(**fields: Any) -> LLMRequest:
    return openai_responses.parse_request(request(**fields))


def dump(parsed: LLMRequest, capabilities: Capabilities = PLAIN) -> dict[str, Any]:
    return openai_responses.dump_request(parsed, "m", capabilities)


# ------------------------------------------------------------------------- whole requests

FUNCTION = {"type": "function", "name": "look", "description": "d", "parameters": SCHEMA, "strict": False}  # fmt: skip
WHOLE = {
    "model": "m", "instructions": "Be brief.", "input": [HI], "tools": [FUNCTION],
    "tool_choice": {"type": "function", "name": "look"}, "temperature": 1, "top_p": 0.5, "max_output_tokens": 9,
    "parallel_tool_calls": False, "reasoning": {"effort": "low", "summary": "detailed", "x": 1},
    "text": {"format": {"type": "json_schema", "name": "r", "schema": SCHEMA, "strict": True}, "verbosity": "low", "y": 2},
    "stream": True, "user": "u1", "top_logprobs": 4, "service_tier": "flex", "metadata": {"a": "b"},
    "include": ["message.output_text.logprobs", "reasoning.encrypted_content"], "store": False, "prompt_cache_key": "k",
    "safety_identifier": "s", "truncation": "auto", "background": False, "max_tool_calls": 3,
}  # fmt: skip


def test_a_whole_request_is_read_and_written():
    sent = {**WHOLE, "stream_options": {"include_obfuscation": False}, "prompt": None}
    parsed = openai_responses.parse_request(sent)
    own_fields = {
        name: WHOLE[name]
        for name in ("include", "store", "prompt_cache_key", "safety_identifier", "truncation", "background", "max_tool_calls")
    }  # fmt: skip
    schema = {"name": "r", "schema": SCHEMA, "strict": True}
    assert parsed == LLMRequest(
        format="openai_responses",
        messages=[
            SystemPromptMessage(content="Be brief.", extra=own(instructions=True)),
            UserPromptMessage(content="hi"),
        ],
        model_parameters={
            "temperature": 1, "top_p": 0.5, "max_tokens": 9, "parallel_tool_calls": False, "reasoning_effort": "low",
            "include_thoughts": True, "verbosity": "low", "top_logprobs": 4, "logprobs": True, "service_tier": "flex",
            "metadata": {"a": "b"}, "response_format": {"type": "json_schema", "json_schema": schema},
        },
        tools=[PromptMessageTool(name="look", description="d", parameters=SCHEMA, strict=False)],
        tool_choice={"name": "look"},
        stream=True,
        user="u1",
        extra=own(reasoning={"summary": "detailed", "x": 1}, text={"y": 2}, **own_fields),
    )  # fmt: skip
    # Ints for floats stay as they were sent.
    assert type(parsed.model_parameters["temperature"]) is int
    assert dump(parsed) == WHOLE


def test_a_short_request_has_nothing_else():
    hi = UserPromptMessage(content="hi")
    expected = LLMRequest(format="openai_responses", messages=[hi])
    assert openai_responses.parse_request({"input": "hi"}) == expected
    assert parse() == expected
    assert dump(expected) == request()
    nulls = dict.fromkeys(name for name in WHOLE if name not in ("model", "input"))
    assert dump(parse(**nulls)) == request()


# Fields of a request -> its parameters and own fields. They are written as they were sent.
SETTINGS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"reasoning": {"summary": "auto"}}, {"include_thoughts": True}, {}),
    ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}, {}),
    ({"reasoning": {"x": 1}}, {}, {"reasoning": {"x": 1}}),
    ({"text": {"verbosity": "low"}}, {"verbosity": "low"}, {}),
    ({"text": {"format": {"type": "text"}}}, {"response_format": {"type": "text"}}, {}),
    ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}, {}),
    ({"text": {"x": 1}}, {}, {"text": {"x": 1}}),
    ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}, {"include": ["message.output_text.logprobs"]}),
    ({"include": ["x"]}, {}, {"include": ["x"]}),
    ({"conversation": "c"}, {}, {"conversation": "c"}),
    ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low", "include_thoughts": True}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "parameters", "own_fields"), SETTINGS)
def test_settings_are_read_and_written(
    fields: dict[str, Any], parameters: dict[str, Any], own_fields: dict[str, Any]
):
    parsed = parse(**fields)
    assert parsed.model_parameters == parameters
    assert parsed.extra == (own(**own_fields) if own_fields else {})
    assert dump(parsed) == request(**fields)


def test_null_settings_are_left_out():
    parsed = parse(
        reasoning={"effort": None, "summary": None, "generate_summary": None},
        text={"format": None, "verbosity": None},
    )
    assert (parsed.model_parameters, parsed.extra) == ({}, {})


# Parameters of other formats -> fields of this one.
PARAMETERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"thinking_budget": 5000}, {"reasoning": {"effort": "medium"}}),
    ({"thinking_budget": 5000, "reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
    ({"thinking_budget": -1}, {}),
    ({"include_thoughts": False}, {}),
    ({"logprobs": True}, {"include": ["message.output_text.logprobs"]}),
    ({"logprobs": False}, {}),
    ({"response_format": {"type": "text"}}, {"text": {"format": {"type": "text"}}}),
    ({"seed": 1, "top_k": 2}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "fields"), PARAMETERS)
def test_parameters_of_other_formats(
    parameters: dict[str, Any], fields: dict[str, Any]
):
    asked = LLMRequest(
        messages=[UserPromptMessage(content="hi")], model_parameters=parameters
    )
    assert dump(asked) == request(**fields)


def test_fields_of_the_caller_win_and_a_server_may_drop_some():
    asked = LLMRequest(
        messages=[UserPromptMessage(content="hi")],
        model_parameters={"verbosity": "low", "reasoning_effort": "low", "top_p": 0.5},
        extra=own(text={"verbosity": "high", "x": 1}, reasoning="odd", top_p={}, y=2),
    )
    expected = {"text": {"verbosity": "high", "x": 1}, "reasoning": "odd", "top_p": {}}
    assert dump(asked) == request(**expected, y=2)
    dropped = Capabilities(drop=("top_p", "y", "absent", "reasoning", "text"))
    assert dump(asked, dropped) == request()


# ---------------------------------------------------------------------------------- items

FUNCTION_CALL = {
    "type": "function_call",
    "call_id": "c1",
    "name": "look",
    "arguments": "{}",
}
SHELL = {
    "type": "local_shell_call",
    "id": "sh1",
    "call_id": "c1",
    "status": "completed",
    "action": {"type": "exec"},
}
ANNOTATION = {
    "type": "url_citation",
    "url": "u",
    "title": "t",
    "start_index": 0,
    "end_index": 1,
}
# Items as they are sent -> as they are read. They are written as they were sent.
ITEMS: dict[str, tuple[list[Any], list[Any]]] = {
    "user": ([HI], [UserPromptMessage(content="hi")]),
    "user with a field": ([{**HI, "x": 1}], [UserPromptMessage(content="hi", extra=own(x=1))]),
    "system": ([{"role": "system", "content": "s"}], [SystemPromptMessage(content="s")]),
    "developer": (
        [{"role": "developer", "content": [{"type": "input_text", "text": "s"}], "x": 1}],
        [SystemPromptMessage(content=[text("s")], extra=own(x=1, role="developer"))],
    ),
    "text with a field": (
        [{"role": "user", "content": [{"type": "input_text", "text": "a", "cache": 1}]}],
        [UserPromptMessage(content=[text("a", extra=own(part={"cache": 1}))])],
    ),
    "image": (
        [{"role": "user", "content": [
            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "high", "x": 1}]}],
        [UserPromptMessage(content=[ImagePromptMessageContent(
            base64_data=PNG, mime_type="image/png", format="png", detail="high", extra=own(part={"x": 1}))])],
    ),
    "images by address": (
        [{"role": "user", "content": [
            {"type": "input_image", "image_url": "https://a.example/1"},
            {"type": "input_image", "image_url": "https://a.example/2", "detail": "low"},
            {"type": "input_image", "image_url": "https://a.example/3", "detail": "auto"},
            {"type": "input_image", "image_url": "https://a.example/4", "detail": "original"}]}],
        [UserPromptMessage(content=[
            ImagePromptMessageContent(url="https://a.example/1"),
            ImagePromptMessageContent(url="https://a.example/2", detail="low"),
            ImagePromptMessageContent(url="https://a.example/3", detail="auto"),
            ImagePromptMessageContent(url="https://a.example/4", detail="original")])],
    ),
    "image by id": (
        [{"role": "user", "content": [{"type": "input_image", "file_id": "f", "detail": "low"}]}],
        [UserPromptMessage(content=[opaque(type="input_image", file_id="f", detail="low")])],
    ),
    "file": (
        [{"role": "user", "content": [
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk=", "x": 1}]}],
        [UserPromptMessage(content=[DocumentPromptMessageContent(
            base64_data="aGk=", mime_type="application/pdf", format="pdf", filename="a.pdf", extra=own(part={"x": 1}))])],
    ),
    "file by address": (
        [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a.example/a.pdf"}]}],
        [UserPromptMessage(content=[DocumentPromptMessageContent(url="https://a.example/a.pdf")])],
    ),
    "named file by address": (
        [{"role": "user", "content": [{"type": "input_file", "filename": "a", "file_url": "https://a.example/a.pdf"}]}],
        [UserPromptMessage(content=[DocumentPromptMessageContent(url="https://a.example/a.pdf", filename="a")])],
    ),
    "file by id": (
        [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}],
        [UserPromptMessage(content=[opaque(type="input_file", file_id="f")])],
    ),
    "audio": (
        [{"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}, "x": 1}]}],
        [UserPromptMessage(content=[AudioPromptMessageContent(
            base64_data="aGk=", format="mp3", mime_type="audio/mpeg", extra=own(part={"x": 1}))])],
    ),
    "part without a reader": (
        [{"role": "user", "content": [{"type": "sticker", "x": 1}]}],
        [UserPromptMessage(content=[opaque(type="sticker", x=1)])],
    ),
    "item without a reader": (
        [{"type": "item_reference", "id": "i"}, HI],
        [UserPromptMessage(content=[opaque(type="item_reference", id="i")]), UserPromptMessage(content="hi")],
    ),
    "short answer": (
        [{"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]}],
        [AssistantPromptMessage(content="a")],
    ),
    "answer": (
        [{"type": "message", "id": "m1", "role": "assistant", "status": "completed", "phase": "final", "content": [
            {"type": "output_text", "text": "a", "annotations": [ANNOTATION], "logprobs": []},
            {"type": "output_text", "text": "b", "annotations": [], "logprobs": []}]}],
        [AssistantPromptMessage(content=[
            text("a", extra=own(item={"id": "m1", "phase": "final"}), citations=[Citation(
                url="u", title="t", start=0, end=1, extra=own(**ANNOTATION))]),
            text("b", extra=own(item={"id": "m1", "phase": "final"}))])],
    ),
    "refusal": (
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
        [AssistantPromptMessage(refusal="no")],
    ),
    "thoughts, calls and their results": (
        [{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "e"},
         FUNCTION_CALL,
         {"type": "custom_tool_call", "id": "ctc1", "call_id": "c2", "name": "sql", "input": "x", "status": "completed"},
         {"type": "function_call_output", "call_id": "c1", "output": "ok", "x": 1},
         {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "t"}]}],
        [AssistantPromptMessage(
            content=[ThinkingPromptMessageContent(data="hm", signature="e", id="rs_1", origin="openai_responses")],
            tool_calls=[call("c1", "look"), call("c2", "sql", "x", "custom", extra=own(id="ctc1"))]),
         ToolPromptMessage(content="ok", tool_call_id="c1", extra=own(x=1)),
         ToolPromptMessage(content=[text("t")], tool_call_id="c2", extra=own(type="custom_tool_call_output"))],
    ),
    "two answers": (
        [FUNCTION_CALL, {"type": "function_call_output", "call_id": "c1", "output": ""},
         {**FUNCTION_CALL, "call_id": "c2"}, {"type": "function_call_output", "call_id": "c1", "output": "late"}],
        [AssistantPromptMessage(tool_calls=[call("c1", "look")]), ToolPromptMessage(content="", tool_call_id="c1"),
         AssistantPromptMessage(tool_calls=[call("c2", "look")]), ToolPromptMessage(content="late", tool_call_id="c1")],
    ),
    "reasoning with its text": (
        [{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}], "content": [
            {"type": "reasoning_text", "text": "a"}, {"type": "reasoning_text", "text": "b"}]}],
        [AssistantPromptMessage(content=[ThinkingPromptMessageContent(
            data="a\n\nb", id="rs_1", origin="openai_responses", extra=own(item={
                "type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}], "content": [
                    {"type": "reasoning_text", "text": "a"}, {"type": "reasoning_text", "text": "b"}]}))])],
    ),
    "image of the model": (
        [{"type": "image_generation_call", "id": "ig1", "status": "completed", "output_format": "webp", "result": "aGk="}],
        [AssistantPromptMessage(content=[ImagePromptMessageContent(
            base64_data="aGk=", format="webp", mime_type="image/webp", extra=own(item={
                "type": "image_generation_call", "id": "ig1", "status": "completed", "output_format": "webp"}))])],
    ),
    "search of the provider": (
        [{"type": "web_search_call", "id": "ws1", "status": "completed", "action": {"type": "search"}}],
        [AssistantPromptMessage(content=[
            opaque(type="web_search_call", id="ws1", status="completed", action={"type": "search"})])],
    ),
    "shell of the client": (
        [SHELL, {"type": "local_shell_call_output", "id": "o1", "call_id": "c1", "output": "done"}],
        [AssistantPromptMessage(tool_calls=[call(
            "c1", "local_shell", '{"type":"exec"}', "local_shell", extra=own(id="sh1", status="completed"))]),
         ToolPromptMessage(content="done", tool_call_id="c1", extra=own(item={
             "type": "local_shell_call_output", "id": "o1", "call_id": "c1", "output": "done"}))],
    ),
    "search of tools by the client": (
        [{"type": "tool_search_call", "call_id": "c1", "status": "completed", "execution": "client", "arguments": {"q": 1}},
         {"type": "tool_search_output", "call_id": "c1", "tools": [{"name": "a"}], "execution": "client"}],
        [AssistantPromptMessage(tool_calls=[call(
            "c1", "tool_search", '{"q":1}', "tool_search", extra=own(execution="client", status="completed"))]),
         ToolPromptMessage(content='[{"name":"a"}]', tool_call_id="c1", extra=own(item={
             "type": "tool_search_output", "call_id": "c1", "tools": [{"name": "a"}], "execution": "client"}))],
    ),
    "search of tools by the provider": (
        [{"type": "tool_search_call", "call_id": None, "execution": "server", "arguments": {}},
         {"type": "tool_search_call", "call_id": "c1", "execution": "server", "arguments": {}}],
        [AssistantPromptMessage(content=[
            opaque(type="tool_search_call", call_id=None, execution="server", arguments={}),
            opaque(type="tool_search_call", call_id="c1", execution="server", arguments={})])],
    ),
    "result of an unknown client's call": (
        [{"type": "shell_call_output", "call_id": "c9", "output": []}],
        [UserPromptMessage(content=[opaque(type="shell_call_output", call_id="c9", output=[])])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ITEMS)
def test_items_are_read_and_written(name: str):
    items, messages = ITEMS[name]
    body = {"model": "m", "input": items}
    parsed = openai_responses.parse_request(body)
    assert parsed == LLMRequest(format="openai_responses", messages=messages)
    assert dump(parsed) == body


# Items as they are sent -> as they are read, and as they are written then.
OTHER_FORMS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "message with an id": (
        {"type": "message", "id": "m1", "status": "completed", **HI}, [UserPromptMessage(content="hi")], [HI]),
    "text of another type": (
        {"role": "user", "content": [{"type": "text", "text": "a", "annotations": [], "logprobs": None}]},
        [UserPromptMessage(content=[text("a")])],
        [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
    ),
    "answer as a string": (
        {"role": "assistant", "content": "a"},
        [AssistantPromptMessage(content="a")],
        [{"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]}],
    ),
    "empty answer": ({"role": "assistant", "content": ""}, [], []),
    "texts of other types in an answer": (
        {"role": "assistant", "content": [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}, {
            "type": "refusal", "refusal": "n"}, {"type": "refusal", "refusal": "o"}]},
        [AssistantPromptMessage(content=[text("a"), text("b")], refusal="no")],
        [{"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]},
         {"role": "assistant", "content": [
             {"type": "output_text", "text": "b", "annotations": [], "logprobs": []}, {"type": "refusal", "refusal": "no"}]}],
    ),
    "an odd part in an answer": (
        {"role": "assistant", "content": [{"type": "sticker"}]},
        [AssistantPromptMessage(content=[opaque(type="sticker")])],
        [{"type": "sticker"}],
    ),
    "call with a status and nulls": (
        {**FUNCTION_CALL, "arguments": None, "status": "completed", "id": None, "namespace": "n"},
        [AssistantPromptMessage(tool_calls=[call("c1", "look", "", extra=own(namespace="n"))])],
        [{**FUNCTION_CALL, "arguments": "", "namespace": "n"}],
    ),
    "reasoning with a status": (
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e", "status": "completed", "content": None},
        [AssistantPromptMessage(content=[
            ThinkingPromptMessageContent(signature="e", id="rs_1", origin="openai_responses")])],
        [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"}],
    ),
    "paragraphs of a summary": (
        {"type": "reasoning", "id": "rs_1", "summary": [{"text": "a"}, {}, {"text": "b"}]},
        [AssistantPromptMessage(content=[ThinkingPromptMessageContent(
            data="a\n\n\n\nb", id="rs_1", origin="openai_responses", extra=own(item={
                "type": "reasoning", "id": "rs_1", "summary": [{"text": "a"}, {}, {"text": "b"}]}))])],
        [{"type": "reasoning", "id": "rs_1", "summary": [{"text": "a"}, {}, {"text": "b"}]}],
    ),
    "thought of another provider": (
        {"type": "reasoning", "id": "rs_anthropic_x", "summary": [], "encrypted_content": "e"},
        [AssistantPromptMessage(content=[ThinkingPromptMessageContent(signature="e", origin="anthropic")])],
        [],
    ),
    "hidden thought of another provider": (
        {"type": "reasoning", "id": "rs_bedrock_redacted_x", "summary": [], "encrypted_content": "e"},
        [AssistantPromptMessage(content=[ThinkingPromptMessageContent(signature="e", origin="bedrock", redacted=True)])],
        [],
    ),
    "a cited file": (
        {"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": [
            {"type": "file_citation", "filename": "f", "file_id": "i", "index": 3}]}]},
        [AssistantPromptMessage(content=[text("a", citations=[Citation(
            title="f", extra=own(type="file_citation", filename="f", file_id="i", index=3))])])],
        [{"role": "assistant", "content": [{"type": "output_text", "text": "a", "logprobs": [], "annotations": [
            {"type": "file_citation", "filename": "f", "file_id": "i", "index": 3}]}]}],
    ),
    "an image without a format": (
        {"type": "image_generation_call", "result": "aGk="},
        [AssistantPromptMessage(content=[ImagePromptMessageContent(
            base64_data="aGk=", format="png", mime_type="image/png", extra=own(item={"type": "image_generation_call"}))])],
        [{"type": "image_generation_call", "result": "aGk="}],
    ),
    "an image that failed": (
        {"type": "image_generation_call", "result": None},
        [AssistantPromptMessage(content=[opaque(type="image_generation_call", result=None)])],
        [{"type": "image_generation_call", "result": None}],
    ),
    "a file with both an address and data": (
        {"role": "user", "content": [{"type": "input_file", "file_url": "https://a.example", "file_data": "data:"}]},
        [UserPromptMessage(content=[DocumentPromptMessageContent(url="https://a.example")])],
        [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a.example"}]}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_another_form_of_an_item_is_written_in_the_usual_one(name: str):
    item, messages, expected = OTHER_FORMS[name]
    parsed = openai_responses.parse_request({"input": [item]})
    assert parsed.messages == messages
    assert dump(parsed)["input"] == expected


@pytest.mark.parametrize("field", ["previous_response_id", "conversation"])
def test_a_result_may_answer_a_call_that_the_provider_stores(field: str):
    items = [
        {"type": "function_call_output", "call_id": "c1", "output": "ok"},
        {"type": "shell_call_output", "call_id": "c2", "output": "done"},
        {"type": "shell_call_output", "output": "odd"},
    ]
    parsed = parse(input=items, **{field: "r"})
    assert parsed.messages == [
        ToolPromptMessage(content="ok", tool_call_id="c1"),
        ToolPromptMessage(content="done", tool_call_id="c2", extra=own(item=items[1])),
        UserPromptMessage(content=[opaque(**items[2])]),
    ]
    assert dump(parsed) == request(input=items, **{field: "r"})
    assert parse(input=[], **{field: "r"}).messages == []


def test_only_the_first_message_is_the_instructions():
    first = SystemPromptMessage(content="s", extra=own(instructions=True))
    hi = UserPromptMessage(content="hi")
    assert dump(LLMRequest(messages=[first, hi])) == request(instructions="s")
    later = dump(LLMRequest(messages=[hi, first]))
    assert later == request(input=[HI, {"role": "system", "content": "s"}])
    assert dump(LLMRequest(messages=[])) == request(input=[])


def test_messages_of_other_formats():
    foreign = OpaquePromptMessageContent(format="anthropic", data={"type": "x"})
    reference = opaque(type="item_reference", id="i")
    other = OpaquePromptMessageContent(format="anthropic", data=reference.data)
    thought = ThinkingPromptMessageContent(data="hm")
    audio = AudioPromptMessageContent(base64_data="aGk=", mime_type="audio/mpeg")
    image = ImagePromptMessageContent(base64_data=PNG, mime_type="image/png")
    citation = Citation(url="u", title="t", quote="q")
    messages = [
        UserPromptMessage(content=[foreign, thought, audio, text("a")]),
        UserPromptMessage(content=[reference, text("a")]),
        UserPromptMessage(content=[reference, other]),
        UserPromptMessage(content=[]),
        AssistantPromptMessage(
            content=[
                thought,
                ThinkingPromptMessageContent(data="s", signature="x", origin="gemini"),
                ThinkingPromptMessageContent(data="own", id="rs_1"),
                ThinkingPromptMessageContent(signature="sig"),
                text("a", citations=[citation]),
                image,
                foreign,
                audio,
            ],
            reasoning_content="left out",
            tool_calls=[call("c1", "sql", "x", "custom"), call("c2", "look")],
        ),
        ToolPromptMessage(tool_call_id="c1"),
        ToolPromptMessage(content="b", tool_call_id="c2"),
    ]
    # The same thought gets the same id every time.
    digest = hashlib.sha256(b"sig").hexdigest()[:24]
    span = {"start_index": 0, "end_index": 0}
    annotation = {"type": "url_citation", "url": "u", "title": "t", **span}
    assert dump(LLMRequest(messages=messages))["input"] == [
        {"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}}, {"type": "input_text", "text": "a"}]},
        {"role": "user", "content": [reference.data, {"type": "input_text", "text": "a"}]},
        reference.data,
        {"role": "user", "content": []},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "own"}]},
        {"type": "reasoning", "id": f"rs_{digest}", "summary": [], "encrypted_content": "sig"},
        {"role": "assistant", "content": [
            {"type": "output_text", "text": "a", "annotations": [annotation], "logprobs": []}]},
        {"type": "image_generation_call", "status": "completed", "result": PNG},
        {"type": "custom_tool_call", "call_id": "c1", "name": "sql", "input": "x"},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": ""},
        {"type": "function_call_output", "call_id": "c2", "output": "b"},
    ]  # fmt: skip


def test_a_call_of_the_client_with_a_question_alone():
    search = call("c1", "tool_search", "find me", "tool_search")
    patch = call("c2", "apply_patch", "odd", "apply_patch")
    messages = [AssistantPromptMessage(tool_calls=[search, patch])]
    assert dump(LLMRequest(messages=messages))["input"] == [
        {
            "type": "tool_search_call",
            "call_id": "c1",
            "status": "completed",
            "execution": "client",
            "arguments": {"query": "find me"},
        },
        {
            "type": "apply_patch_call",
            "call_id": "c2",
            "status": "completed",
            "operation": {"INVALID_JSON": "odd"},
        },
    ]


def test_a_video_is_refused():
    video = VideoPromptMessageContent(url="https://a.example/a.mp4")
    with pytest.raises(InvokeBadRequestError) as caught:
        dump(LLMRequest(messages=[UserPromptMessage(content=[video])]))
    assert str(caught.value) == (
        "The Responses API does not accept video; send text, images, audio or files"
    )


# ---------------------------------------------------------------------------------- tools

SEARCH = {"type": "web_search", "filters": {"allowed_domains": ["a.example"]}}
CUSTOM = {
    "type": "custom",
    "name": "sql",
    "description": "d",
    "format": {"type": "text"},
}
# A tool as it is sent -> as it is read. It is written as it was sent.
WIRE_TOOLS: dict[str, tuple[dict[str, Any], PromptMessageTool]] = {
    "function": (FUNCTION, PromptMessageTool(name="look", description="d", parameters=SCHEMA, strict=False)),
    "function, strict by default": (
        {"type": "function", "name": "look", "parameters": EMPTY_SCHEMA, "x": 1},
        PromptMessageTool(name="look", parameters=EMPTY_SCHEMA, extra=own(x=1, strict_by_default=True)),
    ),
    "strict function": (
        {"type": "function", "name": "look", "parameters": SCHEMA, "strict": True, "defer_loading": True},
        PromptMessageTool(name="look", parameters=SCHEMA, strict=True, extra=own(defer_loading=True)),
    ),
    "custom": (CUSTOM, PromptMessageTool(name="sql", description="d", type="custom", extra=own(format={"type": "text"}))),
    "short custom": ({"type": "custom", "name": "sql"}, PromptMessageTool(name="sql", type="custom")),
    "hosted": (SEARCH, PromptMessageTool(name="web_search", type="web_search", extra=own(**SEARCH))),
}  # fmt: skip


@pytest.mark.parametrize("name", WIRE_TOOLS)
def test_a_tool_is_read_and_written(name: str):
    wire_tool, expected = WIRE_TOOLS[name]
    parsed = parse(tools=[wire_tool])
    assert parsed.tools == [expected]
    assert dump(parsed)["tools"] == [wire_tool]
    assert openai_responses.parse_tools([wire_tool], "x") == [expected]


def test_tools_of_other_formats():
    asked = LLMRequest(
        messages=[UserPromptMessage(content="hi")],
        tools=[PromptMessageTool(name="look")],
    )
    expected = {"type": "function", "name": "look", "parameters": EMPTY_SCHEMA}
    assert dump(asked) == request(tools=[{**expected, "strict": False}])
    hosted = PromptMessageTool(name="s", type="google_search", extra={"gemini": {}})
    with pytest.raises(InvokeBadRequestError) as caught:
        dump(LLMRequest(messages=[], tools=[hosted]))
    assert str(caught.value) == (
        "Tool 's' is hosted by another provider; this provider does not support it"
    )
    assert caught.value.param == "tools"


def test_nothing_of_a_tool_is_lost_by_writing_it_twice():
    parsed = parse(tools=[{"type": "function", "name": "look"}])
    assert dump(parsed) == dump(parsed)


LOOK = {"type": "function", "name": "look"}
SQL = {"type": "custom", "name": "sql"}
# Choice as it is sent -> as it is read, and as it is written.
CHOICES: dict[str, tuple[Any, Any, Any]] = {
    "auto": ("auto", "auto", "auto"),
    "none": ("none", "none", "none"),
    "required": ("required", "required", "required"),
    "function": (LOOK, {"name": "look"}, LOOK),
    "custom": (SQL, {"name": "sql"}, SQL),
    "hosted": (
        {"type": "web_search"},
        {"name": "web_search"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]},
    ),
    "hosted, by itself": (
        {"type": "code_interpreter"}, {"name": "code_interpreter"}, {"type": "code_interpreter"}),
    "allowed": (
        {"type": "allowed_tools", "mode": "required", "tools": [LOOK, SQL, {"type": "web_search"}]},
        {"mode": "required", "allowed": ["look", "sql", "web_search"]},
        {"type": "allowed_tools", "mode": "required", "tools": [LOOK, SQL, {"type": "web_search"}]},
    ),
    "allowed without a mode": (
        {"type": "allowed_tools", "tools": []},
        {"mode": "auto", "allowed": []},
        {"type": "allowed_tools", "mode": "auto", "tools": []},
    ),
    "unknown": (
        {"type": "function", "name": "gone"}, {"name": "gone"}, {"type": "function", "name": "gone"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_a_tool_choice_is_read_and_written(name: str):
    sent, read, expected = CHOICES[name]
    tools = [FUNCTION, CUSTOM, SEARCH, {"type": "code_interpreter", "container": "c"}]
    parsed = parse(tools=tools, tool_choice=sent)
    assert parsed.tool_choice == read
    assert dump(parsed) == request(tools=tools, tool_choice=expected)


# -------------------------------------------------------------------------------- refusals


def user(part: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [part]}]}


def answer(*parts: Any) -> dict[str, Any]:
    return {"input": [HI, {"role": "assistant", "content": [*parts]}]}


IMAGE_TYPES = "the bytes of an image, as PNG, JPEG, GIF or WebP"
PARTS = "input_text, input_image, input_file or input_audio"
ROLES = "user, assistant, system or developer"
OUTPUT = {"type": "function_call_output", "call_id": "c1"}
# Change of a request -> the words that refuse it. They begin with the field's name.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "'input' is required: a string or a list of items"),
    ({"input": 5}, "'input' must be a list, not 5"),
    ({"input": []}, "'input' must contain at least one item"),
    ({"input": [HI, 5]}, "'input[1]' must be an object, not 5"),
    ({"input": [{"role": "robot", "content": "x"}]}, f"'input[0].role' must be {ROLES}, not 'robot'"),
    ({"input": [{"content": "x"}]}, f"'input[0].role' is required: {ROLES}"),
    ({"input": [{"role": "user"}]}, "'input[0].content' is required: a list"),
    ({"input": [{"role": "developer", "content": 5}]}, "'input[0].content' must be a list, not 5"),
    (user(5), "'input[0].content[0]' must be an object, not 5"),
    (user({}), f"'input[0].content[0].type' is required: {PARTS}"),
    (user({"type": 5}), f"'input[0].content[0].type' must be {PARTS}, not 5"),
    (user({"type": "input_text"}), "'input[0].content[0].text' is required: a string"),
    (user({"type": "input_image", "image_url": "u", "detail": "huge"}),
     "'input[0].content[0].detail' must be auto, low or high, not 'huge'"),
    (user({"type": "input_image", "image_url": "data:x"}),
     "'input[0].content[0].image_url' must be an address, or data:<type>;base64,<bytes>, not 'data:x'"),
    (user({"type": "input_image", "image_url": "data:image/png;base64,aGk="}),
     f"'input[0].content[0].image_url' must be {IMAGE_TYPES}, not 'aGk='"),
    (user({"type": "input_file", "file_data": "data:a;base64,!"}),
     "'input[0].content[0].file_data' must be base64, not '!'"),
    (user({"type": "input_audio"}), "'input[0].content[0].input_audio' is required: an object"),
    (user({"type": "input_audio", "input_audio": {"data": ""}}),
     "'input[0].content[0].input_audio.format' is required: a string"),
    (user({"type": "input_audio", "input_audio": {"format": "wav"}}),
     "'input[0].content[0].input_audio.data' is required: a string"),
    (user({"type": "input_audio", "input_audio": {"format": "wav", "data": "!"}}),
     "'input[0].content[0].input_audio.data' must be base64, not '!'"),
    ({"input": [HI, {"role": "assistant"}]}, "'input[1].content' is required: a list"),
    (answer(5), "'input[1].content[0]' must be an object, not 5"),
    (answer({"type": "refusal"}), "'input[1].content[0].refusal' is required: a string"),
    (answer({"type": "refusal", "refusal": ""}, {"type": "output_text"}), "'input[1].content[1].text' is required: a string"),
    (answer({}), f"'input[1].content[0].type' is required: {PARTS}"),
    ({"input": [{"type": "function_call", "name": "a"}]}, "'input[0].call_id' is required: a string"),
    ({"input": [{"type": "custom_tool_call", "call_id": "c1"}]}, "'input[0].name' is required: a string"),
    ({"input": [{"type": "function_call_output", "output": ""}]}, "'input[0].call_id' is required: a string"),
    ({"input": [HI, {**OUTPUT, "output": ""}]},
     "'input[1].call_id' must be the call_id of an earlier function_call, not 'c1'"),
    ({"input": [FUNCTION_CALL, {**OUTPUT, "type": "custom_tool_call_output"}]}, "'input[1].output' is required: a list"),
    ({"input": [FUNCTION_CALL, {**OUTPUT, "output": [5]}]}, "'input[1].output[0]' must be an object, not 5"),
    ({"instructions": 5}, "'instructions' must be a string, not 5"),
    ({"temperature": "hot"}, "'temperature' must be a number, not 'hot'"),
    ({"temperature": 2.1}, "'temperature' must be between 0 and 2, not 2.1"),
    ({"temperature": -0.1}, "'temperature' must be between 0 and 2, not -0.1"),
    ({"top_p": 1.1}, "'top_p' must be between 0 and 1, not 1.1"),
    ({"top_p": -1}, "'top_p' must be between 0 and 1, not -1"),
    ({"top_logprobs": 21}, "'top_logprobs' must be between 0 and 20, not 21"),
    ({"top_logprobs": -1}, "'top_logprobs' must be between 0 and 20, not -1"),
    ({"top_logprobs": 1.5}, "'top_logprobs' must be a whole number, not 1.5"),
    ({"max_output_tokens": 0}, "'max_output_tokens' must be between 1 and 2.14748e+09, not 0"),
    ({"max_output_tokens": 2**31 + 1}, "'max_output_tokens' must be between 1 and 2.14748e+09, not 2147483649"),
    ({"max_output_tokens": "9"}, "'max_output_tokens' must be a whole number, not '9'"),
    ({"parallel_tool_calls": 1}, "'parallel_tool_calls' must be true or false, not 1"),
    ({"service_tier": 1}, "'service_tier' must be a string, not 1"),
    ({"metadata": []}, "'metadata' must be an object, not []"),
    ({"include": "x"}, "'include' must be a list, not 'x'"),
    ({"reasoning": 5}, "'reasoning' must be an object, not 5"),
    ({"text": 5}, "'text' must be an object, not 5"),
    ({"text": {"format": 5}}, "'text.format' must be an object, not 5"),
    ({"text": {"format": {}}}, "'text.format.type' is required: a string"),
    ({"text": {"format": {"type": "xml"}}}, "'text.format.type' must be text, json_object or json_schema, not 'xml'"),
    ({"text": {"format": {"type": "json_schema"}}}, "'text.format.schema' is required: an object"),
    ({"stream": "yes"}, "'stream' must be true or false, not 'yes'"),
    ({"user": 5}, "'user' must be a string, not 5"),
    ({"tools": 5}, "'tools' must be a list, not 5"),
    ({"tools": [{}] * 1025}, "'tools' has 1,025 entries; maximum 1,024"),
    ({"tools": [SEARCH, 5]}, "'tools[1]' must be an object, not 5"),
    ({"tools": [{}]}, "'tools[0].type' is required: a string"),
    ({"tools": [{"type": "custom"}]}, "'tools[0].name' is required: a string"),
    ({"tools": [{"type": "function"}]}, "'tools[0].name' is required: a string"),
    ({"tools": [{**LOOK, "description": 5}]}, "'tools[0].description' must be a string, not 5"),
    ({"tools": [{**LOOK, "parameters": 5}]}, "'tools[0].parameters' must be an object, not 5"),
    ({"tools": [{**LOOK, "strict": 5}]}, "'tools[0].strict' must be true or false, not 5"),
    ({"tool_choice": "maybe"}, "'tool_choice' must be auto, none, required or an object that names a tool, not 'maybe'"),
    ({"tool_choice": 5}, "'tool_choice' must be an object, not 5"),
    ({"tool_choice": {}}, "'tool_choice.type' is required: a string"),
    ({"tool_choice": {"type": "function"}}, "'tool_choice.name' is required: a string"),
    ({"tool_choice": {"type": "custom", "name": 5}}, "'tool_choice.name' must be a string, not 5"),
    ({"tool_choice": {"type": "allowed_tools"}}, "'tool_choice.tools' is required: a list"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"), REFUSED, ids=lambda value: str(value)[:60]
)
def test_a_refusal_names_the_field_and_what_would_be_right(
    change: dict[str, Any], words: str
):
    with pytest.raises(InvokeBadRequestError) as caught:
        parse(**change)
    assert type(caught.value) is InvokeBadRequestError
    assert str(caught.value) == words
    assert caught.value.param == words.split("'")[1]


def test_numbers_at_the_ends_of_their_ranges():
    for fields in (
        {"temperature": 0, "top_p": 0, "top_logprobs": 0, "max_output_tokens": 1},
        {"temperature": 2, "top_p": 1, "top_logprobs": 20, "max_output_tokens": 2**31},
    ):
        assert dump(parse(**fields)) == request(**fields)


def test_a_list_of_tools_elsewhere_is_bounded_too():
    for tools, words in (
        (5, "'x.tools' must be a list, not 5"),
        ([SEARCH, 5], "'x.tools[1]' must be an object, not 5"),
        ([{}] * 1025, "'x.tools' has 1,025 entries; maximum 1,024"),
    ):
        with pytest.raises(InvokeBadRequestError) as caught:
            openai_responses.parse_tools(tools, "x.tools")
        assert str(caught.value) == words
    assert len(openai_responses.parse_tools([SEARCH] * 1024, "x")) == 1024
