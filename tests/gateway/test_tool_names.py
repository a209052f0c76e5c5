"""Names and schemas of tools within each vendor's limits, and back."""

import json
import string
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import InvokeBadRequestError
from modelyard.models.capabilities import Capabilities
from modelyard.models.llm import (
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    fold,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    PromptMessageTool,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
)
from modelyard.providers.adaptation.adapter import Adaptation, adapt, restore
from modelyard.providers.adaptation.draft import Target
from modelyard.providers.adaptation.text_input import TextInput
from modelyard.providers.adaptation.tool_names import LIMITS, NameLimits, legal_name
from modelyard.providers.formats import CHAT

USER = UserPromptMessage(content="x")
TARGETS = ("openai", "anthropic", "gemini", "bedrock", "cohere", "ollama", "dashscope")
ODD_NAMES = ("a" * 80, "my.tool/name", "weather tool", "工具", "工 具", "", "-", "9x")


def target_of(name: str, **capabilities: Any) -> Target:
    chat_format, offered = CHAT[name], Capabilities(**capabilities)
    return Target(chat_format.name, "m", offered, None, chat_format.parameters)


def called(*calls: tuple[str, str], kind: str = "function") -> list[Any]:
    """Return a turn with calls (name, arguments) and their results."""
    tool_calls = [
        ToolCall(
            id=f"c{number}",
            type=kind,
            function=ToolCallFunction(name=name, arguments=arguments),
        )
        for number, (name, arguments) in enumerate(calls)
    ]
    results = [
        ToolPromptMessage(content="ok", tool_call_id=call.id, name=call.function.name)
        for call in tool_calls
    ]
    return [USER, AssistantPromptMessage(tool_calls=tool_calls), *results]


def restored(
    adaptation: Adaptation, calls: list[ToolCall], size: int = 1_000
) -> LLMResult:
    """Return an answer with these calls, in pieces of `size` characters, as the caller
    gets it."""

    def chunks() -> Iterator[LLMResultChunk]:
        for index, call in enumerate(calls):
            text = call.function.arguments
            first = ToolCall(
                id=call.id,
                index=index,
                function=ToolCallFunction(name=call.function.name),
            )
            fragments = [first]
            fragments += [
                ToolCall(
                    index=index,
                    function=ToolCallFunction(arguments=text[start : start + size]),
                )
                for start in range(0, len(text), size)
            ]
            for part in fragments:
                message = AssistantPromptMessage(tool_calls=[part])
                yield LLMResultChunk(delta=LLMResultChunkDelta(message=message))
        yield LLMResultChunk(delta=LLMResultChunkDelta(finish_reason="tool_calls"))

    makers = adaptation.restorers
    return fold(restore(chunks(), makers))


@pytest.mark.parametrize("target_name", TARGETS)
def test_odd_names_are_legal_unique_and_come_back(target_name: str):
    tools = [PromptMessageTool(name=name) for name in ODD_NAMES]
    messages = called(*[(name, "{}") for name in ODD_NAMES])
    request = LLMRequest(
        messages=messages, tools=tools, tool_choice={"name": "my.tool/name"}
    )
    adaptation = adapt(request, target_of(target_name))
    sent = adaptation.request
    names = [tool.name for tool in sent.tools]
    limits = LIMITS.get(CHAT[target_name].name, NameLimits(64))
    assert all(limits.accepts(name) for name in names)
    assert len(set(names)) == len(ODD_NAMES)
    answer = sent.messages[1]
    assert isinstance(answer, AssistantPromptMessage)
    assert [call.function.name for call in answer.tool_calls] == names
    assert [getattr(each, "name", "") for each in sent.messages[2:]] == names
    # Ollama has no choice of tools.
    forced = None if target_name == "ollama" else {"name": names[1]}
    assert sent.tool_choice == forced
    # The same in every turn.
    assert [
        tool.name for tool in adapt(request, target_of(target_name)).request.tools
    ] == names
    result = restored(adaptation, answer.tool_calls)
    assert tuple(call.function.name for call in result.tool_calls) == ODD_NAMES


@given(
    st.lists(st.text(max_size=90), unique=True, max_size=6),
    st.sampled_from(sorted(LIMITS)),
)
def test_adapted_names_are_restored(names: list[str], target_name: str):
    request = LLMRequest(
        messages=[USER], tools=[PromptMessageTool(name=name) for name in names]
    )
    adaptation = adapt(request, target_of(target_name))
    calls = [
        ToolCall(id=f"c{index}", function=ToolCallFunction(name=tool.name))
        for index, tool in enumerate(adaptation.request.tools)
    ]
    result = restored(adaptation, calls)
    assert [call.function.name for call in result.tool_calls] == names


@given(st.text(alphabet=string.ascii_letters + "_", min_size=1, max_size=64))
def test_legal_names_stay(name: str):
    assert legal_name(name, NameLimits(64)) == name


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40), st.integers(1, 7))
def test_a_freeform_text_survives_its_wrapping(text: str, size: int):
    tool = PromptMessageTool(name="p", type="custom")
    history = called(("p", text), kind="custom")
    request = LLMRequest(messages=history, tools=[tool])
    adaptation = adapt(request, target_of("anthropic"))
    wrapped = adaptation.request.messages[1]
    assert isinstance(wrapped, AssistantPromptMessage)
    assert wrapped.tool_calls[0].type == "function"
    assert json.loads(wrapped.tool_calls[0].function.arguments) == {"input": text}
    # Models may write escapes for everything.
    arguments = json.dumps({"input": text})
    function = ToolCallFunction(name="p", arguments=arguments)
    result = restored(adaptation, [ToolCall(id="c", function=function)], size)
    (call,) = result.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == (
        "custom",
        "p",
        text,
    )


@pytest.mark.parametrize(("arguments", "expected"), [
    ("*** Begin Patch\nx", "*** Begin Patch\nx"),
    ('{"patch": "x"}', "x"),
    ('"x"', "x"),
    ('{"note": 1, "input": "x"}', "x"),
    ('{ "input" : "a\nb"}', "a\nb"),
    ('{"input": "\\ud83d"}', "\N{REPLACEMENT CHARACTER}"),
    ('{"input": "cut', "cut"),
    ("{}", ""),
    ("", ""),
])  # fmt: skip
def test_unusual_arguments_of_a_freeform_tool(arguments: str, expected: str):
    text = TextInput()
    decoded = "".join(text.feed(piece) for piece in arguments) + text.finish()
    assert decoded == expected


def test_converse_gets_the_tools_of_the_history():
    adaptation = adapt(LLMRequest(messages=called(("f", "{}"))), target_of("bedrock"))
    body = CHAT["bedrock"].dump_request(adaptation.request, "m", Capabilities())
    (spec,) = body["toolConfig"]["tools"]
    assert spec["toolSpec"]["name"] == "f"
    tools = [PromptMessageTool(name="f")]
    request = LLMRequest(messages=called(("f", "{}")), tools=tools, tool_choice="none")
    adaptation = adapt(request, target_of("bedrock"))
    body = CHAT["bedrock"].dump_request(adaptation.request, "m", Capabilities())
    assert "toolChoice" not in body["toolConfig"]
    assert adaptation.dropped == ("tool_choice",)


def test_too_many_tools_are_refused_before_they_are_sent():
    tools = [PromptMessageTool(name=f"t{number}") for number in range(129)]
    request = LLMRequest(messages=[USER], tools=tools)
    with pytest.raises(InvokeBadRequestError, match="at most 128 tools"):
        adapt(request, target_of("openai", max_tools=128))
    assert len(adapt(request, target_of("openai")).request.tools) == 129


SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "anyOf": [
        {"$ref": "#/$defs/first"},
        {"properties": {"b": {"type": "array"}, "a": {}}, "required": ["a", "b"]},
    ],
    "$defs": {
        "first": {
            "properties": {"a": {"const": "x", "multipleOf": 2}},
            "required": ["a"],
        }
    },
}


@pytest.mark.parametrize("target_name", ["openai", "anthropic", "gemini"])
def test_schemas_are_objects_without_alternatives(target_name: str):
    tool = PromptMessageTool(name="f", parameters=SCHEMA)
    adaptation = adapt(
        LLMRequest(messages=[USER], tools=[tool]), target_of(target_name)
    )
    schema = adaptation.request.tools[0].parameters
    assert (schema["type"], schema["required"]) == ("object", ["a"])
    assert set(schema["properties"]) == {"a", "b"}
    assert schema["properties"]["b"]["items"] == {}
    assert "anyOf" not in schema
    if target_name == "gemini":
        assert schema["properties"]["a"]["enum"] == ["x"]
        assert "multipleOf: 2" in schema["properties"]["a"]["description"]
        assert "$schema" not in schema
