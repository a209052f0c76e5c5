"""Requests of the Chat Completions API: each as it is read and written, in full, and each
refused value with its words."""

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
from modelyard.wire import openai_chat

PNG = "iVBORw0KGgo="
PLAIN = Capabilities()
USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CACHE = {"type": "ephemeral"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def chat(**fields: Any) -> dict[str, dict[str, Any]]:
    """Return fields that only this format has, as our types keep them."""
    return {"openai_chat": fields}


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


def request(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **fields}


def written(body: dict[str, Any], capabilities: Capabilities = PLAIN) -> dict[str, Any]:
    """Return what a server gets for a request."""
    parsed = openai_chat.parse_request(body)
    return openai_chat.dump_request(parsed, "m", capabilities)


# ------------------------------------------------------------------------- whole requests

OWN = {
    "logit_bias": {"50": -1}, "store": False, "prompt_cache_key": "k", "prompt_cache_retention": "24h",
    "safety_identifier": "s", "prediction": {"type": "content", "content": "x"}, "web_search_options": {},
    "audio": {"voice": "alloy", "format": "wav"},
}  # fmt: skip
PARAMETERS = {
    "temperature": 1, "top_p": 0.5, "top_k": 7, "presence_penalty": -2, "frequency_penalty": 2.0, "max_tokens": 9,
    "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 4,
    "response_format": {"type": "json_schema", "json_schema": {"name": "r", "schema": SCHEMA, "strict": True}},
    "parallel_tool_calls": False, "reasoning_effort": "low", "verbosity": "high", "modalities": ["text", "audio"],
    "service_tier": "flex", "metadata": {"a": "b"},
}  # fmt: skip
WHOLE = {
    "model": "asked",
    "messages": [
        {"role": "developer", "content": "Be brief.", "name": "boss"},
        {"role": "user", "content": "Weather?", "name": "ann", "mood": "good"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ],
    **PARAMETERS, "max_tokens": 5, "max_completion_tokens": 9,
    "tools": [{"type": "function", "function": {
        "name": "look", "description": "Looks.", "parameters": SCHEMA, "strict": False}}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "stop": ["END", "FIN"], "stream": True, "stream_options": {"include_usage": False}, "user": "u1",
    **OWN, "ignored": None,
}  # fmt: skip


def test_a_whole_request_is_read_and_written():
    parsed = openai_chat.parse_request(WHOLE)
    assert parsed == LLMRequest(
        format="openai_chat",
        messages=[
            SystemPromptMessage(
                content="Be brief.", name="boss", extra=chat(role="developer")
            ),
            UserPromptMessage(content="Weather?", name="ann", extra=chat(mood="good")),
            AssistantPromptMessage(tool_calls=[call("c1", "look")]),
            ToolPromptMessage(content="sunny", tool_call_id="c1"),
        ],
        model_parameters=PARAMETERS,
        tools=[
            PromptMessageTool(
                name="look", description="Looks.", parameters=SCHEMA, strict=False
            )
        ],
        tool_choice={"name": "look"},
        stop=["END", "FIN"],
        stream=True,
        user="u1",
        extra=chat(**OWN),
    )
    # Ints for floats stay as they were sent.
    assert type(parsed.model_parameters["temperature"]) is int
    expected = {
        **WHOLE,
        "model": "m",
        "max_tokens": 9,
        # The answer's usage is always needed.
        "stream_options": {"include_usage": True},
    }
    for name in ("max_completion_tokens", "ignored"):
        del expected[name]
    assert openai_chat.dump_request(parsed, "m", PLAIN) == expected


def test_a_short_request_has_nothing_else():
    assert openai_chat.parse_request({"messages": [USER]}) == LLMRequest(
        format="openai_chat", messages=[UserPromptMessage(content="hi")]
    )
    assert written(request()) == request()
    nulls = dict.fromkeys(
        (*PARAMETERS, "stop", "stream", "user", "tools", "functions", "tool_choice", "max_completion_tokens", "other")
    )  # fmt: skip
    assert written(request(**nulls)) == request()


# ------------------------------------------------------------------------------- messages

AUDIO = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}}
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
# Message as it is sent -> as it is read. It is written as it was sent.
MESSAGES: dict[str, tuple[dict[str, Any], Any]] = {
    "system": ({"role": "system", "content": "s"}, SystemPromptMessage(content="s")),
    "named system": (
        {"role": "system", "content": "s", "name": "n", "x": 1},
        SystemPromptMessage(content="s", name="n", extra=chat(x=1)),
    ),
    "developer": (
        {"role": "developer", "content": [{"type": "text", "text": "s"}], "x": 1},
        SystemPromptMessage(content=[text("s")], extra=chat(x=1, role="developer")),
    ),
    "text parts": (
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "x": 1}]},
        UserPromptMessage(content=[text("a"), text("b", extra=chat(x=1))]),
    ),
    "cached text": (
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": CACHE}]},
        UserPromptMessage(content=[text("a", cache_control=CACHE)]),
    ),
    "image by address": (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]},
        UserPromptMessage(content=[ImagePromptMessageContent(url="https://a.example/b.png")]),
    ),
    "image": (
        {"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "high"},
             "cache_control": CACHE, "x": 1}]},
        UserPromptMessage(content=[ImagePromptMessageContent(
            base64_data=PNG, mime_type="image/png", format="png", detail="high", cache_control=CACHE,
            extra=chat(part={"x": 1}))]),
    ),
    "image of automatic detail": (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example", "detail": "auto"}}]},
        UserPromptMessage(content=[ImagePromptMessageContent(url="https://a.example", detail="auto")]),
    ),
    "image of low detail": (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example", "detail": "low"}}]},
        UserPromptMessage(content=[ImagePromptMessageContent(url="https://a.example", detail="low")]),
    ),
    "video": (
        {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,aGk="}, "fps": 2}]},
        UserPromptMessage(content=[VideoPromptMessageContent(
            base64_data="aGk=", mime_type="video/mp4", format="mp4", extra=chat(part={"fps": 2}))]),
    ),
    "audio": (
        {"role": "user", "content": [{**AUDIO, "x": 1}]},
        UserPromptMessage(content=[AudioPromptMessageContent(
            base64_data="aGk=", format="mp3", mime_type="audio/mpeg", extra=chat(part={"x": 1}))]),
    ),
    "audio of an unknown format": (
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "aGk=", "format": "odd"}}]},
        UserPromptMessage(content=[AudioPromptMessageContent(base64_data="aGk=", format="odd", mime_type="audio/odd")]),
    ),
    "file": (
        {"role": "user", "content": [
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}}]},
        UserPromptMessage(content=[DocumentPromptMessageContent(
            base64_data="aGk=", mime_type="application/pdf", format="pdf", filename="a.pdf")]),
    ),
    "file by id": (
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "f1"}, "x": 1, "cache_control": CACHE}]},
        UserPromptMessage(content=[DocumentPromptMessageContent(
            cache_control=CACHE, extra=chat(file_id="f1", part={"x": 1}))]),
    ),
    "file by address": (
        {"role": "user", "content": [{"type": "file", "file": {"file_data": "https://a.example/a.pdf", "file_id": "f"}}]},
        UserPromptMessage(content=[DocumentPromptMessageContent(url="https://a.example/a.pdf", extra=chat(file_id="f"))]),
    ),
    "part without a reader": (
        {"role": "user", "content": [{"type": "sticker", "sticker": {"id": 1}}]},
        UserPromptMessage(content=[OpaquePromptMessageContent(
            format="openai_chat", data={"type": "sticker", "sticker": {"id": 1}})]),
    ),
    "assistant": ({"role": "assistant", "content": "a"}, AssistantPromptMessage(content="a")),
    "assistant with all its fields": (
        {"role": "assistant", "content": "a", "name": "bot", "refusal": "no", "reasoning_content": "hm", "prefix": True,
         "tool_calls": [CALL]},
        AssistantPromptMessage(
            content="a", name="bot", refusal="no", reasoning_content="hm", extra=chat(prefix=True),
            tool_calls=[call("c1", "look")]),
    ),
    "refusal part": (
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        AssistantPromptMessage(content=[text("no", extra=chat(type="refusal"))]),
    ),
    "calls": (
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "c1", "type": "custom", "custom": {"name": "sql", "input": "select"}, "index": 0, "x": 1},
            {**CALL, "id": "c2", "index": 1, "cache_control": CACHE, "extra_content": {"google": 1}}]},
        AssistantPromptMessage(content="", tool_calls=[
            call("c1", "sql", "select", "custom", index=0, extra=chat(x=1)),
            call("c2", "look", index=1, cache_control=CACHE, extra=chat(extra_content={"google": 1}))]),
    ),
    "function call": (
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
        AssistantPromptMessage(tool_calls=[call("", "look", index=0, extra=chat(old=True))]),
    ),
    "earlier audio": (
        {"role": "assistant", "content": None, "audio": {"id": "a1"}},
        AssistantPromptMessage(content=[AudioPromptMessageContent(format="wav", extra=chat(id="a1"))]),
    ),
    "annotated": (
        {"role": "assistant", "content": "a b", "name": "bot", "refusal": "no", "x": 1, "annotations": [
            {"type": "url_citation", "url_citation": {
                "url": "u", "title": "t", "content": "c", "start_index": 1, "end_index": 2}}]},
        AssistantPromptMessage(
            name="bot", refusal="no", extra=chat(x=1),
            content=[text("a b", citations=[Citation(
                url="u", title="t", quote="c", start=1, end=2,
                extra=chat(type="url_citation", url_citation={
                    "url": "u", "title": "t", "content": "c", "start_index": 1, "end_index": 2}))])]),
    ),
    "images": (
        {"role": "assistant", "content": "a", "images": [
            {"type": "image_url", "image_url": {"url": "https://a.example/1.png"}}], "reasoning_content": "hm"},
        AssistantPromptMessage(
            reasoning_content="hm", content=[text("a"), ImagePromptMessageContent(url="https://a.example/1.png")]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_read_and_written(name: str):
    wire_message, message = MESSAGES[name]
    body = {"model": "m", "messages": [wire_message]}
    parsed = openai_chat.parse_request(body)
    assert parsed == LLMRequest(format="openai_chat", messages=[message])
    assert openai_chat.dump_request(parsed, "m", PLAIN) == body


# Message as it is sent -> as it is read, and as it is written then.
OTHER_FORMS: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "plain strings as parts": (
        {"role": "user", "content": ["a"]},
        UserPromptMessage(content=[text("a")]),
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
    ),
    "image as a string": (
        {"role": "user", "content": [{"type": "image_url", "image_url": "https://a.example/b.png"}]},
        UserPromptMessage(content=[ImagePromptMessageContent(url="https://a.example/b.png")]),
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]},
    ),
    "one text part of an assistant": (
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
        AssistantPromptMessage(content="a"),
        {"role": "assistant", "content": "a"},
    ),
    "two text parts of an assistant": (
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        AssistantPromptMessage(content=[text("a"), text("b")]),
        {"role": "assistant", "content": "ab"},
    ),
    "an empty assistant": (
        {"role": "assistant", "tool_calls": []},
        AssistantPromptMessage(),
        {"role": "assistant", "content": None},
    ),
    "reasoning": (
        {"role": "assistant", "content": "a", "reasoning": "hm"},
        AssistantPromptMessage(content="a", reasoning_content="hm"),
        {"role": "assistant", "content": "a", "reasoning_content": "hm"},
    ),
    "reasoning beside an image": (
        {"role": "assistant", "content": "a", "reasoning": "hm", "images": [
            {"type": "image_url", "image_url": "https://a.example/b"}]},
        AssistantPromptMessage(
            reasoning_content="hm", content=[text("a"), ImagePromptMessageContent(url="https://a.example/b")]),
        {"role": "assistant", "content": "a", "reasoning_content": "hm", "images": [
            {"type": "image_url", "image_url": {"url": "https://a.example/b"}}]},
    ),
    "a thinking part": (
        {"role": "assistant", "content": [{**THINKING, "closed": True}, {"type": "text", "text": "a"}]},
        AssistantPromptMessage(
            content=[ThinkingPromptMessageContent(data="hm", extra=chat(type="thinking", closed=True)), text("a")]),
        {"role": "assistant", "content": "a", "reasoning_content": "hm"},
    ),
    "thinking as Anthropic writes it": (
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "sig"}, "a"]},
        AssistantPromptMessage(content=[
            ThinkingPromptMessageContent(data="hm", signature="sig", extra=chat(type="thinking")), text("a")]),
        {"role": "assistant", "content": "a", "reasoning_content": "hm", "reasoning_details": [
            {"type": "reasoning.text", "text": "hm", "signature": "sig", "index": 0}]},
    ),
    "odd fragments of thinking": (
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": ["x", {"text": "a"}, {"type": "t"}, {"text": "b"}]}, "a"]},
        AssistantPromptMessage(content=[
            ThinkingPromptMessageContent(data="ab", extra=chat(type="thinking")), text("a")]),
        {"role": "assistant", "content": "a", "reasoning_content": "ab"},
    ),
    "thinking that is no text": (
        {"role": "assistant", "content": [{"type": "thinking", "thinking": 5}, "a"]},
        AssistantPromptMessage(content=[ThinkingPromptMessageContent(extra=chat(type="thinking")), text("a")]),
        {"role": "assistant", "content": "a"},
    ),
    "a call with an object": (
        {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": {"a": 1}}}]},
        AssistantPromptMessage(tool_calls=[call("c1", "look", '{"a":1}')]),
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}]},
    ),
    "a custom call without a type": (
        {"role": "assistant", "tool_calls": [{"id": "c1", "custom": {"name": "sql", "input": "x"}, "index": "1"}]},
        AssistantPromptMessage(tool_calls=[call("c1", "sql", "x", "custom")]),
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "custom", "custom": {"name": "sql", "input": "x"}}]},
    ),
    "a call without anything": (
        {"role": "assistant", "tool_calls": [{}, {"function": 5}]},
        AssistantPromptMessage(tool_calls=[call("", "", ""), call("", "", "")]),
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}] * 2},
    ),
    "a function call without anything": (
        {"role": "assistant", "function_call": {"x": 1}},
        AssistantPromptMessage(tool_calls=[call("", "", "", index=0, extra=chat(old=True))]),
        {"role": "assistant", "content": None, "function_call": {"name": "", "arguments": ""}},
    ),
    "a silent assistant with a refusal": (
        {"role": "assistant", "refusal": "no"},
        AssistantPromptMessage(refusal="no"),
        {"role": "assistant", "content": None, "refusal": "no"},
    ),
    "audio of an assistant": (
        {"role": "assistant", "content": "", "audio": {"id": "a1", "data": "aGk=", "transcript": "t", "expires_at": 1},
         "refusal": None},
        AssistantPromptMessage(content=[AudioPromptMessageContent(
            base64_data="aGk=", format="wav", extra=chat(id="a1", transcript="t", expires_at=1))]),
        {"role": "assistant", "content": None, "audio": {"id": "a1", "data": "aGk=", "transcript": "t", "expires_at": 1}},
    ),
    "sources beside calls": (
        {"role": "assistant", "content": None, "tool_calls": [CALL], "annotations": ["x", {"type": "odd"}]},
        AssistantPromptMessage(
            content=[text("", citations=[Citation(extra=chat(type="odd"))])], tool_calls=[call("c1", "look")]),
        {"role": "assistant", "content": "", "annotations": [{"type": "odd"}], "tool_calls": [CALL]},
    ),
    "sources after an image": (
        {"role": "assistant", "content": [{"type": "image_url", "image_url": "https://a.example/b"}], "annotations": [
            {"url_citation": {"start_index": "1"}}]},
        AssistantPromptMessage(content=[
            ImagePromptMessageContent(url="https://a.example/b"),
            text("", citations=[Citation(extra=chat(url_citation={"start_index": "1"}))])]),
        {"role": "assistant", "content": "", "images": [{"type": "image_url", "image_url": {"url": "https://a.example/b"}}],
         "annotations": [{"url_citation": {"start_index": "1"}}]},
    ),
    "sources of the last text alone": (
        {"role": "assistant", "content": ["a", "b"], "annotations": [{"url_citation": {"url": "u"}}]},
        AssistantPromptMessage(content=[
            text("a"), text("b", citations=[Citation(url="u", extra=chat(url_citation={"url": "u"}))])]),
        {"role": "assistant", "content": "ab", "annotations": [{"url_citation": {"url": "u"}}]},
    ),
    "a mark for the cache on a text": (
        {"role": "user", "content": "a", "cache_control": CACHE},
        UserPromptMessage(content=[text("a", cache_control=CACHE)]),
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": CACHE}]},
    ),
    "a mark for the cache on parts": (
        {"role": "system", "content": ["a", "b"], "cache_control": CACHE},
        SystemPromptMessage(content=[text("a"), text("b", cache_control=CACHE)]),
        {"role": "system", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": CACHE}]},
    ),
    "a mark for the cache on calls": (
        {"role": "assistant", "content": "a", "tool_calls": [CALL, {**CALL, "id": "c2"}], "cache_control": CACHE},
        AssistantPromptMessage(
            content="a", tool_calls=[call("c1", "look"), call("c2", "look", cache_control=CACHE)]),
        {"role": "assistant", "content": "a", "tool_calls": [CALL, {**CALL, "id": "c2", "cache_control": CACHE}]},
    ),
    "a mark for the cache on nothing": (
        {"role": "user", "content": "", "cache_control": CACHE},
        UserPromptMessage(content=""),
        {"role": "user", "content": ""},
    ),
    "a mark for the cache that is none": (
        {"role": "user", "content": "a", "cache_control": "yes"},
        UserPromptMessage(content="a"),
        {"role": "user", "content": "a"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_another_form_of_a_message_is_written_in_the_usual_one(name: str):
    wire_message, message, expected = OTHER_FORMS[name]
    parsed = openai_chat.parse_request({"messages": [wire_message]})
    assert parsed.messages == [message]
    assert openai_chat.dump_request(parsed, "m", PLAIN)["messages"] == [expected]


ENCRYPTED = {"type": "reasoning.encrypted"}
# Entries of `reasoning_details`, as vendors write them -> what is read from them.
DETAILS: dict[str, tuple[list[Any], list[Any]]] = {
    "text": (
        [{"type": "reasoning.text", "text": "hm", "signature": "s", "format": "anthropic-claude-v1", "id": "i", "index": 3}],
        [ThinkingPromptMessageContent(data="hm", signature="s", origin="anthropic", id="i", index=3)],
    ),
    "redacted": (
        [{**ENCRYPTED, "data": "d", "format": "anthropic-claude-v1", "index": 0}],
        [ThinkingPromptMessageContent(signature="d", redacted=True, origin="anthropic", index=0)],
    ),
    "redacted by Bedrock": (
        [{**ENCRYPTED, "data": "d", "format": "bedrock-converse-v1", "id": "c1", "index": 0}],
        [ThinkingPromptMessageContent(signature="d", redacted=True, origin="bedrock", id="c1", index=0)],
    ),
    "summary and its encrypted content": (
        [{"type": "reasoning.summary", "summary": "hm", "format": "openai-responses-v1", "id": "r1", "index": 0},
         {**ENCRYPTED, "data": "d", "format": "openai-responses-v1", "id": "r1", "index": 0}],
        [ThinkingPromptMessageContent(data="hm", signature="d", origin="openai_responses", id="r1", index=0)],
    ),
    "two thoughts": (
        [{**ENCRYPTED, "data": "d", "format": "openai-responses-v1", "id": "r1", "index": 0},
         {**ENCRYPTED, "data": "e", "format": "openai-responses-v1", "id": "r2", "index": 1}],
        [ThinkingPromptMessageContent(signature="d", origin="openai_responses", id="r1", index=0),
         ThinkingPromptMessageContent(signature="e", origin="openai_responses", id="r2", index=1)],
    ),
    "two signatures of one id": (
        [{**ENCRYPTED, "data": "d", "format": "openai-responses-v1", "id": "r1", "index": 0},
         {**ENCRYPTED, "data": "e", "format": "openai-responses-v1", "id": "r1", "index": 1}],
        [ThinkingPromptMessageContent(signature="d", origin="openai_responses", id="r1", index=0),
         ThinkingPromptMessageContent(signature="e", origin="openai_responses", id="r1", index=1)],
    ),
    "Gemini's without a call": (
        [{**ENCRYPTED, "data": "d", "format": "google-gemini-v1", "index": 0}],
        [ThinkingPromptMessageContent(signature="d", origin="gemini", index=0)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DETAILS)
def test_signed_reasoning_is_read_and_written(name: str):
    details, thoughts = DETAILS[name]
    message = {"role": "assistant", "content": "a", "reasoning_details": details}
    parsed = openai_chat.parse_request({"messages": [message]}).messages[0]
    assert parsed == AssistantPromptMessage(content=[*thoughts, text("a")])
    data = "".join(thought.data for thought in thoughts)
    plain = {"reasoning_content": data} if data else {}
    dumped = openai_chat.dump_assistant(AssistantPromptMessage(content=parsed.content))
    assert dumped == {"content": "a", **plain, "reasoning_details": details}


def test_a_signature_of_a_call_stands_before_it():
    """Gemini and plugins sign calls; OpenRouter names the call by the detail's id."""
    signed = {**ENCRYPTED, "data": "s"}
    message = {
        "role": "assistant",
        "content": "a",
        "tool_calls": [CALL, {**CALL, "id": "c2"}],
        "reasoning_details": [
            {**signed, "format": "google-gemini-v1", "id": "c2", "index": 0},
            {**signed, "format": "modelyard-plugin-v1", "id": "c1", "index": 1},
            {**signed, "format": "google-gemini-v1", "id": "gone", "index": 2},
            "odd",
        ],
    }
    parsed = openai_chat.parse_request({"messages": [message]}).messages[0]
    assert parsed == AssistantPromptMessage(
        content=[
            ThinkingPromptMessageContent(signature="s", origin="gemini", index=2),
            text("a"),
            ThinkingPromptMessageContent(signature="s", origin="plugin", index=1),
            ThinkingPromptMessageContent(signature="s", origin="gemini", index=0),
        ],
        tool_calls=[call("c1", "look", place=3), call("c2", "look")],
    )
    assert isinstance(parsed, AssistantPromptMessage)
    assert openai_chat.dump_assistant(parsed) == {
        "content": "a",
        "tool_calls": [CALL, {**CALL, "id": "c2"}],
        "reasoning_details": [
            {**signed, "format": "google-gemini-v1", "index": 2},
            {**signed, "format": "modelyard-plugin-v1", "index": 1, "id": "c1"},
            {**signed, "format": "google-gemini-v1", "index": 0, "id": "c2"},
        ],
    }


def test_details_repeat_the_plain_reasoning():
    details = [{"type": "reasoning.text", "text": "hm"}]
    message = {"content": "a", "reasoning_content": "hm", "reasoning_details": details}
    parsed = openai_chat.parse_assistant(message)
    assert parsed.reasoning_content is None
    assert parsed.content == [ThinkingPromptMessageContent(data="hm"), text("a")]
    # Without a signature they tell nothing else.
    expected = {"content": "a", "reasoning_content": "hm"}
    assert openai_chat.dump_assistant(parsed) == expected
    silent = openai_chat.parse_assistant({"content": "", "reasoning_details": details})
    assert silent.content == [ThinkingPromptMessageContent(data="hm")]
    hidden = [{**ENCRYPTED, "data": "d"}]
    both = {"content": "a", "reasoning": "hm", "reasoning_details": hidden}
    assert openai_chat.parse_assistant(both).reasoning_content == "hm"


# Fields of a thought -> its details, in a message and in a stream.
THOUGHTS: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "unsigned": ({"data": "hm"}, [], []),
    "unsigned with an origin": (
        {"data": "hm", "origin": "anthropic"},
        [],
        [{"type": "reasoning.text", "text": "hm", "format": "anthropic-claude-v1", "index": 0}],
    ),
    "nothing": ({"origin": "anthropic"}, [], []),
    "unknown origin": ({"data": "hm", "origin": "odd"}, [], []),
    "redacted with a text": (
        {"data": "hm", "signature": "s", "redacted": True},
        [{**ENCRYPTED, "data": "s", "index": 0}],
        [{**ENCRYPTED, "data": "s", "index": 0}],
    ),
    "OpenAI's nothing": ({"origin": "openai_responses", "id": "r1"}, [], []),
}  # fmt: skip


@pytest.mark.parametrize("name", THOUGHTS)
def test_a_thought_without_a_signature_gives_details_only_in_a_stream(name: str):
    fields, details, fragments = THOUGHTS[name]
    thought = ThinkingPromptMessageContent(**fields)
    message = AssistantPromptMessage(content=[thought, text("a")])
    plain = {"reasoning_content": thought.data} if thought.data else {}
    for expected, is_fragment in ((details, False), (fragments, True)):
        found = {"reasoning_details": expected} if expected else {}
        dumped = openai_chat.dump_assistant(message, is_fragment=is_fragment)
        assert dumped == {"content": "a", **plain, **found}


def test_details_are_numbered_and_a_redacted_thought_belongs_to_no_call():
    thoughts = [
        ThinkingPromptMessageContent(data="hm", signature="r"),
        ThinkingPromptMessageContent(signature="s", redacted=True),
    ]
    message = AssistantPromptMessage(
        content=[*thoughts], tool_calls=[call("c1", "look")]
    )
    assert openai_chat.dump_assistant(message) == {
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [CALL],
        "reasoning_details": [
            {"type": "reasoning.text", "text": "hm", "signature": "r", "index": 0},
            {**ENCRYPTED, "data": "s", "index": 1},
        ],
    }


def test_tool_results():
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {
            "role": "tool",
            "tool_call_id": "c1",
            "name": "look",
            "content": [{"type": "text", "text": "x"}],
            "cache_control": CACHE,
            "x": 1,
        },
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "find", "arguments": "{}"},
        },
        {"role": "function", "name": "find", "content": "found"},
    ]
    parsed = openai_chat.parse_request({"messages": messages})
    results = [m for m in parsed.messages if isinstance(m, ToolPromptMessage)]
    assert results == [
        ToolPromptMessage(
            content=[text("x")],
            name="look",
            tool_call_id="c1",
            cache_control=CACHE,
            extra=chat(x=1, name="look"),
        ),
        ToolPromptMessage(content="", tool_call_id="c1"),
        ToolPromptMessage(
            content="found",
            name="find",
            tool_call_id="find",
            extra=chat(role="function", name="find"),
        ),
    ]
    assert openai_chat.dump_request(parsed, "m", PLAIN)["messages"] == messages


def test_an_empty_tool_result_is_an_empty_text():
    messages = [
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1"},
    ]
    parsed = openai_chat.parse_request({"messages": messages})
    assert parsed.messages[1] == ToolPromptMessage(tool_call_id="c1")
    assert openai_chat.dump_request(parsed, "m", PLAIN)["messages"][1] == {
        "role": "tool",
        "tool_call_id": "c1",
        "content": "",
    }


def test_parts_of_other_formats():
    opaque = OpaquePromptMessageContent(format="anthropic", data={"type": "x"})
    own = OpaquePromptMessageContent(format="openai_chat", data={"type": "y"})
    audio = AudioPromptMessageContent(base64_data="aGk=", mime_type="audio/mpeg")
    image = ImagePromptMessageContent(base64_data=PNG, mime_type="image/png")
    thought = ThinkingPromptMessageContent(data="hm")
    user = UserPromptMessage(content=[opaque, audio, own, thought])
    answer = AssistantPromptMessage(content=[opaque, own, image, text("a"), audio])
    body = openai_chat.dump_request(
        LLMRequest(messages=[user, answer, UserPromptMessage()]), "m", PLAIN
    )
    url = f"data:image/png;base64,{PNG}"
    assert body["messages"] == [
        {"role": "user", "content": [AUDIO, {"type": "y"}, THINKING]},
        {
            "role": "assistant",
            "content": [{"type": "y"}, {"type": "text", "text": "a"}],
            "images": [{"type": "image_url", "image_url": {"url": url}}],
            "audio": {"data": "aGk="},
        },
        {"role": "user", "content": None},
    ]


def test_audio_by_address_is_refused():
    audio = AudioPromptMessageContent(url="https://a.example/a.mp3")
    asked = LLMRequest(messages=[UserPromptMessage(content=[audio])])
    with pytest.raises(InvokeBadRequestError) as caught:
        openai_chat.dump_request(asked, "m", PLAIN)
    assert str(caught.value) == (
        "Audio by URL is not supported in this format; send it as base64"
    )


# ---------------------------------------------------------------------------------- tools

HOSTED = {"type": "web_search", "web_search": {"depth": 1}}
# A tool as it is sent -> as it is read. It is written as it was sent.
WIRE_TOOLS: dict[str, tuple[dict[str, Any], PromptMessageTool]] = {
    "function": (
        {"type": "function", "function": {"name": "look"}},
        PromptMessageTool(name="look"),
    ),
    "whole function": (
        {"type": "function", "cache_control": CACHE, "function": {
            "name": "look", "description": "d", "parameters": SCHEMA, "strict": True, "x": 1}},
        PromptMessageTool(
            name="look", description="d", parameters=SCHEMA, strict=True, cache_control=CACHE, extra=chat(x=1)),
    ),
    "custom": (
        {"type": "custom", "custom": {"name": "sql", "description": "d", "format": {"type": "text"}}},
        PromptMessageTool(name="sql", description="d", type="custom", extra=chat(format={"type": "text"})),
    ),
    "short custom": (
        {"type": "custom", "custom": {"name": "sql"}},
        PromptMessageTool(name="sql", type="custom"),
    ),
    "hosted": (HOSTED, PromptMessageTool(name="web_search", type="web_search", extra=chat(**HOSTED))),
}  # fmt: skip


@pytest.mark.parametrize("name", WIRE_TOOLS)
def test_a_tool_is_read_and_written(name: str):
    wire_tool, expected = WIRE_TOOLS[name]
    parsed = openai_chat.parse_request(request(tools=[wire_tool]))
    assert parsed.tools == [expected]
    assert openai_chat.dump_request(parsed, "m", PLAIN)["tools"] == [wire_tool]


def test_tools_in_older_forms():
    parsed = openai_chat.parse_request(
        request(
            tools=[{"function": {"name": "a", "cache_control": CACHE}}],
            functions=[
                {"name": "b", "description": "d", "parameters": SCHEMA, "x": 1},
                {"name": "c", "cache_control": CACHE},
            ],
        )
    )
    assert parsed.tools == [
        PromptMessageTool(name="a", cache_control=CACHE),
        PromptMessageTool(
            name="b", description="d", parameters=SCHEMA, extra=chat(x=1)
        ),
        PromptMessageTool(name="c", cache_control=CACHE),
    ]
    body = openai_chat.dump_request(parsed, "m", PLAIN)
    assert "functions" not in body
    assert body["tools"][2] == {
        "type": "function",
        "function": {"name": "c"},
        "cache_control": CACHE,
    }


def test_a_tool_of_another_provider_is_refused():
    hosted = PromptMessageTool(name="s", type="google_search", extra={"gemini": {}})
    asked = LLMRequest(messages=[UserPromptMessage(content="hi")], tools=[hosted])
    with pytest.raises(InvokeBadRequestError) as caught:
        openai_chat.dump_request(asked, "m", PLAIN)
    assert str(caught.value) == (
        "Tool 's' is hosted by another provider; this provider does not support it"
    )
    assert caught.value.param == "tools"


LOOK = {"type": "function", "function": {"name": "look"}}
SQL = {"type": "custom", "custom": {"name": "sql"}}
ALLOWED = {"mode": "required", "tools": [LOOK, SQL]}
# Choice as it is sent -> as it is read, and as it is written.
CHOICES: dict[str, tuple[Any, Any, Any]] = {
    "auto": ("auto", "auto", "auto"),
    "none": ("none", "none", "none"),
    "required": ("required", "required", "required"),
    "any": ("any", "required", "required"),
    "function": (LOOK, {"name": "look"}, LOOK),
    "custom": (SQL, {"name": "sql"}, SQL),
    "deprecated": ({"name": "look"}, {"name": "look"}, LOOK),
    "allowed": (
        {"type": "allowed_tools", "allowed_tools": ALLOWED},
        {"mode": "required", "allowed": ["look", "sql"]},
        {"type": "allowed_tools", "allowed_tools": ALLOWED},
    ),
    "allowed, flat": (
        {"type": "allowed_tools", "allowed_tools": {"tools": [{"name": "sql"}, {}]}},
        {"mode": "auto", "allowed": ["sql", None]},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
            SQL, {"type": "function", "function": {"name": None}}]}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("field", ["tool_choice", "function_call"])
@pytest.mark.parametrize("name", CHOICES)
def test_a_tool_choice_is_read_and_written(name: str, field: str):
    sent, read, expected = CHOICES[name]
    parsed = openai_chat.parse_request(request(tools=[LOOK, SQL], **{field: sent}))
    assert parsed.tool_choice == read
    body = openai_chat.dump_request(parsed, "m", PLAIN)
    assert body == request(tools=[LOOK, SQL], tool_choice=expected)


# ----------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("text", {"type": "text"}),
        ("json_object", {"type": "json_object"}),
        ("XML", "XML"),
        ({"type": "text"}, {"type": "text"}),
        ({"type": "json_object", "x": 1}, {"type": "json_object", "x": 1}),
    ],
)
def test_response_formats(sent: Any, read: Any):
    parsed = openai_chat.parse_request(request(response_format=sent))
    assert parsed.model_parameters == {"response_format": read}


@pytest.mark.parametrize(
    ("sent", "read"), [("END", ["END"]), (["a", ""], ["a", ""]), ([], []), ("", [""])]
)
def test_stop_sequences(sent: Any, read: list[str]):
    parsed = openai_chat.parse_request(request(stop=sent))
    assert parsed.stop == read
    expected = request(stop=read) if read else request()
    assert openai_chat.dump_request(parsed, "m", PLAIN) == expected


INTEGERS = {
    "top_k": (-1, 2147483648), "max_tokens": (1, 2147483648), "seed": (-(2**63), 2**63), "n": (1, 128),
    "top_logprobs": (0, 20), "max_completion_tokens": (1, 2147483648),
}  # fmt: skip
FLOATS = {
    "temperature": (0.0, 2.0), "top_p": (0.0, 1.0), "presence_penalty": (-2.0, 2.0), "frequency_penalty": (-2.0, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("name", [*INTEGERS, *FLOATS])
def test_a_number_is_accepted_within_its_range_alone(name: str):
    stored = "max_tokens" if name == "max_completion_tokens" else name
    low, high = (INTEGERS | FLOATS)[name]
    for value in (low, high):
        parsed = openai_chat.parse_request(request(**{name: value}))
        assert parsed.model_parameters == {stored: value}
    for value in (low - 1, high + 1):
        with pytest.raises(InvokeBadRequestError) as caught:
            openai_chat.parse_request(request(**{name: value}))
        expected = f"between {low:g} and {high:g}"
        assert str(caught.value) == f"'{name}' must be {expected}, not {value}"
        assert caught.value.param == name


# Style of a server, parameters -> the fields that it gets.
REASONING: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("effort", {"reasoning_effort": "low", "thinking_budget": 5, "include_thoughts": True}, {"reasoning_effort": "low"}),
    ("effort", {"thinking_budget": 0}, {"reasoning_effort": "none"}),
    ("effort", {"thinking_budget": 5000}, {"reasoning_effort": "medium"}),
    ("effort", {"thinking_budget": -1, "include_thoughts": False}, {}),
    ("openrouter", {"reasoning_effort": "low", "thinking_budget": 5, "include_thoughts": False},
     {"reasoning": {"effort": "low", "max_tokens": 5, "exclude": True}}),
    ("openrouter", {"include_thoughts": True}, {}),
    ("openrouter", {"thinking_budget": 0, "include_thoughts": True}, {"reasoning": {"max_tokens": 0}}),
    ("thinking", {"reasoning_effort": "low", "include_thoughts": True}, {"thinking": {"type": "enabled"}}),
    ("thinking", {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
    ("thinking", {"thinking_budget": 0}, {"thinking": {"type": "disabled"}}),
    ("thinking", {"thinking_budget": 1}, {"thinking": {"type": "enabled"}}),
    ("thinking", {"include_thoughts": False}, {}),
    ("thinking_effort", {"reasoning_effort": "high"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
    ("thinking_effort", {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
    ("thinking_effort", {"thinking_budget": 0}, {"thinking": {"type": "disabled"}}),
    ("thinking_effort", {}, {}),
    ("enable_thinking", {"reasoning_effort": "low"}, {"enable_thinking": True, "thinking_budget": 1024}),
    ("enable_thinking", {"reasoning_effort": "odd"}, {"enable_thinking": True}),
    ("enable_thinking", {"reasoning_effort": "none"}, {"enable_thinking": False}),
    ("enable_thinking", {"reasoning_effort": "none", "thinking_budget": 7}, {"enable_thinking": False, "thinking_budget": 7}),
    ("enable_thinking", {"thinking_budget": 0}, {"enable_thinking": False}),
    ("enable_thinking", {"thinking_budget": 1}, {"enable_thinking": True, "thinking_budget": 1}),
    ("enable_thinking", {"thinking_budget": -1}, {"enable_thinking": True}),
    ("enable_thinking", {"thinking_budget": -1, "reasoning_effort": "low"}, {"enable_thinking": True, "thinking_budget": 1024}),
    ("enable_thinking", {"thinking_budget": 0, "reasoning_effort": "low"}, {"enable_thinking": False}),
    ("enable_thinking", {"include_thoughts": True}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("style", "parameters", "expected"), REASONING)
def test_thinking_is_controlled_as_the_server_has_it(
    style: Any, parameters: dict[str, Any], expected: dict[str, Any]
):
    asked = LLMRequest(
        messages=[UserPromptMessage(content="hi")],
        model_parameters={**parameters, "top_p": 0.5},
    )
    before = dict(asked.model_parameters)
    body = openai_chat.dump_request(asked, "m", Capabilities(reasoning=style))
    assert body == request(top_p=0.5, **expected)
    # The same request may go to another server next.
    assert asked.model_parameters == before


def test_capabilities_change_what_a_server_gets():
    body = request(
        max_tokens=5,
        seed=1,
        stream=True,
        tool_choice="required",
        top_k=2,
        logit_bias={},
    )
    capabilities = Capabilities(
        max_tokens_field="max_completion_tokens",
        drop=("seed", "absent"),
        rename={"absent": "x", "top_k": "k", "logit_bias": "bias"},
        no_stream_options=True,
        required_tool_choice="any",
    )
    assert written(body, capabilities) == request(
        max_completion_tokens=5, stream=True, tool_choice="any", k=2, bias={}
    )


EARLIER = {
    "role": "assistant",
    "content": "a",
    "reasoning_details": [
        {"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0}
    ],
}
SILENT = {"role": "assistant", "content": "a"}


def test_earlier_thoughts_stand_where_the_server_expects_them():
    def sent(message: Any, **capabilities: Any) -> Any:
        body = {"model": "m", "messages": [message]}
        return written(body, Capabilities(**capabilities))["messages"][0]

    assert sent(EARLIER) == {**EARLIER, "reasoning_content": "hm"}
    assert sent(EARLIER, reasoning_field="r") == {**EARLIER, "r": "hm"}
    assert sent(EARLIER, reasoning_field="") == SILENT
    plain = {**SILENT, "reasoning_content": "hm"}
    assert sent(plain) == plain
    assert sent(plain, reasoning_field="r") == {**SILENT, "r": "hm"}
    assert sent(plain, reasoning_field="") == SILENT
    assert sent(SILENT, reasoning_field="r") == SILENT


def test_a_thinking_part_stays_in_the_content():
    content = [THINKING, {"type": "text", "text": "a"}]
    body = {"model": "m", "messages": [{"role": "assistant", "content": content}]}
    capabilities = Capabilities(thinking_parts=True)
    assert written(body, capabilities)["messages"] == body["messages"]
    # Details of other vendors have no place beside such parts.
    signed = {"model": "m", "messages": [EARLIER]}
    assert written(signed, capabilities)["messages"] == [SILENT]


# -------------------------------------------------------------------------------- refusals

LONG = [USER] * 10_001


def user(part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


def assistant(**fields: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", **fields}]}


def tool(**fields: Any) -> dict[str, Any]:
    answer = {"role": "assistant", "tool_calls": [CALL]}
    return {"messages": [answer, {"role": "tool", **fields}]}


IMAGE_TYPES = "the bytes of an image, as PNG, JPEG, GIF or WebP"
PARTS = "text, image_url, video_url, input_audio or file"
ROLES = "system, developer, user, assistant or tool"
# Change of a request -> the words that refuse it. They begin with the field's name.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "'messages' is required: a list"),
    ({"messages": "hi"}, "'messages' must be a list, not 'hi'"),
    ({"messages": []}, "'messages' must contain at least one message"),
    ({"messages": LONG}, "'messages' has 10,001 messages; at most 10,000 are allowed"),
    ({"messages": ["hi"]}, "'messages[0]' must be an object with role and content, not 'hi'"),
    ({"messages": [None]}, "'messages[0]' is required: an object with role and content"),
    ({"messages": [USER, {"role": "robot", "content": ""}]}, f"'messages[1].role' must be {ROLES}, not 'robot'"),
    ({"messages": [{"content": ""}]}, f"'messages[0].role' is required: {ROLES}"),
    ({"messages": [{**USER, "name": 5}]}, "'messages[0].name' must be a string, not 5"),
    ({"messages": [{"role": "user"}]}, "'messages[0].content' is required: a string or a list of parts"),
    ({"messages": [{"role": "system", "content": 5}]}, "'messages[0].content' must be a string or a list of parts, not 5"),
    ({"messages": [{"role": "developer"}]}, "'messages[0].content' is required: a string or a list of parts"),
    (assistant(), "'messages[1].content' is required: a string, unless 'tool_calls' is set"),
    (assistant(name="x", content=None), "'messages[1].content' is required: a string, unless 'tool_calls' is set"),
    (assistant(content=5), "'messages[1].content' must be a string or a list of parts, not 5"),
    (assistant(content=[5]), "'messages[1].content[0]' must be an object, not 5"),
    (assistant(content=[5], images=[1]), "'messages[1].content[0]' must be an object, not 5"),
    (assistant(images=["", 5]), "'messages[1].images[1]' must be an object, not 5"),
    (assistant(tool_calls=[CALL, 5]), "'messages[1].tool_calls[1]' must be an object, not 5"),
    (assistant(tool_calls=[{"type": "odd"}]), "'messages[1].tool_calls[0].type' must be function or custom, not 'odd'"),
    (tool(content=""), "'messages[1].tool_call_id' is required: a string"),
    (tool(content="", tool_call_id="c9"),
     "'messages[1].tool_call_id' must be the id of a tool call in an earlier assistant message, not 'c9'"),
    (tool(content=5, tool_call_id="c1"), "'messages[1].content' must be a string or a list of parts, not 5"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c1"}, assistant(tool_calls=[CALL])["messages"][1]]},
     "'messages[0].tool_call_id' must be the id of a tool call in an earlier assistant message, not 'c1'"),
    ({"messages": [{"role": "function", "content": "x"}]}, "'messages[0].name' is required: a string"),
    (user(5), "'messages[0].content[0]' must be an object, not 5"),
    (user({}), f"'messages[0].content[0].type' is required: {PARTS}"),
    (user({"type": 5}), f"'messages[0].content[0].type' must be {PARTS}, not 5"),
    (user({"type": "text"}), "'messages[0].content[0].text' is required: a string"),
    (user({"type": "image_url"}), "'messages[0].content[0].image_url' is required: an object"),
    (user({"type": "image_url", "image_url": {}}), "'messages[0].content[0].image_url.url' is required: a string"),
    (user({"type": "image_url", "image_url": {"url": "u", "detail": "huge"}}),
     "'messages[0].content[0].image_url.detail' must be auto, low or high, not 'huge'"),
    (user({"type": "image_url", "image_url": "data:x"}),
     "'messages[0].content[0].image_url.url' must be an address, or data:<type>;base64,<bytes>, not 'data:x'"),
    (user({"type": "image_url", "image_url": "data:image/png;base64,!"}),
     "'messages[0].content[0].image_url.url' must be base64, not '!'"),
    (user({"type": "image_url", "image_url": "data:image/png;base64,aGk="}),
     f"'messages[0].content[0].image_url.url' must be {IMAGE_TYPES}, not 'aGk='"),
    (user({"type": "video_url"}), "'messages[0].content[0].video_url' is required: an object"),
    (user({"type": "video_url", "video_url": {}}), "'messages[0].content[0].video_url.url' is required: a string"),
    (user({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,!"}}),
     "'messages[0].content[0].video_url.url' must be base64, not '!'"),
    (user({"type": "input_audio"}), "'messages[0].content[0].input_audio' is required: an object"),
    (user({"type": "input_audio", "input_audio": {"data": ""}}),
     "'messages[0].content[0].input_audio.format' is required: a string"),
    (user({"type": "input_audio", "input_audio": {"format": "wav"}}),
     "'messages[0].content[0].input_audio.data' is required: a string"),
    (user({"type": "input_audio", "input_audio": {"format": "wav", "data": "!"}}),
     "'messages[0].content[0].input_audio.data' must be base64, not '!'"),
    (user({"type": "file"}), "'messages[0].content[0].file' is required: an object"),
    (user({"type": "file", "file": {"filename": 5}}), "'messages[0].content[0].file.filename' must be a string, not 5"),
    (user({"type": "file", "file": {"file_data": 5}}), "'messages[0].content[0].file.file_data' must be a string, not 5"),
    (user({"type": "file", "file": {"file_data": "data:a;base64,!"}}),
     "'messages[0].content[0].file.file_data' must be base64, not '!'"),
    (user({"type": "refusal"}), "'messages[0].content[0].refusal' is required: a string"),
    ({"temperature": "hot"}, "'temperature' must be a number, not 'hot'"),
    ({"top_k": 1.5}, "'top_k' must be a whole number, not 1.5"),
    ({"top_p": True}, "'top_p' must be a number, not True"),
    ({"max_completion_tokens": "9"}, "'max_completion_tokens' must be a whole number, not '9'"),
    ({"logprobs": "yes"}, "'logprobs' must be true or false, not 'yes'"),
    ({"parallel_tool_calls": 1}, "'parallel_tool_calls' must be true or false, not 1"),
    ({"reasoning_effort": 1}, "'reasoning_effort' must be a string, not 1"),
    ({"verbosity": 1}, "'verbosity' must be a string, not 1"),
    ({"modalities": "text"}, "'modalities' must be a list, not 'text'"),
    ({"service_tier": 1}, "'service_tier' must be a string, not 1"),
    ({"metadata": []}, "'metadata' must be an object, not []"),
    ({"response_format": 5}, "'response_format' must be an object, not 5"),
    ({"response_format": {}}, "'response_format.type' is required: a string"),
    ({"response_format": {"type": "xml"}}, "'response_format.type' must be text, json_object or json_schema, not 'xml'"),
    ({"response_format": {"type": "json_schema"}}, "'response_format.json_schema' is required: an object"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}},
     "'response_format.json_schema.schema' is required: an object"),
    ({"stop": 5}, "'stop' must be a list, not 5"),
    ({"stop": ["a", 1]}, "'stop[1]' must be a string, not 1"),
    ({"stream": "yes"}, "'stream' must be true or false, not 'yes'"),
    ({"user": 5}, "'user' must be a string, not 5"),
    ({"tools": "x"}, "'tools' must be a list, not 'x'"),
    ({"tools": [{}] * 1025}, "'tools' has 1,025 entries; maximum 1,024"),
    ({"tools": [5]}, "'tools[0]' must be an object, not 5"),
    ({"tools": [HOSTED, {"type": "function"}]}, "'tools[1].function' is required: an object"),
    ({"tools": [{"function": {}}]}, "'tools[0].function.name' is required: a string"),
    ({"tools": [{"function": {"name": "a", "description": 5}}]}, "'tools[0].function.description' must be a string, not 5"),
    ({"tools": [{"function": {"name": "a", "parameters": 5}}]}, "'tools[0].function.parameters' must be an object, not 5"),
    ({"tools": [{"function": {"name": "a", "strict": 5}}]}, "'tools[0].function.strict' must be true or false, not 5"),
    ({"tools": [{"type": "custom"}]}, "'tools[0].custom' is required: an object"),
    ({"tools": [{"type": "custom", "custom": {}}]}, "'tools[0].custom.name' is required: a string"),
    ({"tools": [{"type": 5}]}, "'tools[0].type' must be a string such as 'function', not 5"),
    ({"functions": 5}, "'functions' must be a list, not 5"),
    ({"functions": [5]}, "'functions[0]' must be an object, not 5"),
    ({"functions": [{}]}, "'functions[0].name' is required: a string"),
    ({"tool_choice": "maybe"},
     "'tool_choice' must be auto, none, required or an object that names a function, not 'maybe'"),
    ({"tool_choice": 5}, "'tool_choice' must be an object, not 5"),
    ({"tool_choice": {"type": "function"}}, "'tool_choice.function' is required: an object"),
    ({"tool_choice": {"type": "function", "function": {}}}, "'tool_choice.function.name' is required: a string"),
    ({"tool_choice": {"type": "custom", "custom": {}}}, "'tool_choice.custom.name' is required: a string"),
    ({"tool_choice": {"name": 5}}, "'tool_choice.name' must be a string, not 5"),
    ({"tool_choice": {}}, "'tool_choice.type' is required: function, custom or allowed_tools"),
    ({"tool_choice": {"type": "odd"}}, "'tool_choice.type' must be function, custom or allowed_tools, not 'odd'"),
    ({"tool_choice": {"type": "allowed_tools"}}, "'tool_choice.allowed_tools' is required: an object"),
    ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "'tool_choice.allowed_tools.tools' is required: a list"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"), REFUSED, ids=lambda value: str(value)[:60]
)
def test_a_refusal_names_the_field_and_what_would_be_right(
    change: dict[str, Any], words: str
):
    with pytest.raises(InvokeBadRequestError) as caught:
        openai_chat.parse_request(request(**change))
    assert type(caught.value) is InvokeBadRequestError
    assert str(caught.value) == words
    assert caught.value.param == words.split("'")[1]


def test_as_many_messages_and_tools_as_allowed():
    assert len(openai_chat.parse_request({"messages": LONG[1:]}).messages) == 10_000
    assert len(openai_chat.parse_request(request(tools=[HOSTED] * 1024)).tools) == 1024


def test_an_odd_value_without_a_check_is_a_bad_request():
    with pytest.raises(
        InvokeBadRequestError, match="A value in the request has an invalid type"
    ):
        openai_chat.parse_request(assistant(tool_calls=5))
