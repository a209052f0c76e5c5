"""Items, parts and tools of a type that nobody knows: left out by name or refused, and
never an empty message."""

import json
from typing import Any

import pytest

from modelyard.base.errors import InvokeBadRequestError
from modelyard.models.capabilities import Capabilities
from modelyard.providers.adaptation.adapter import adapt
from modelyard.providers.adaptation.draft import Target
from modelyard.providers.formats import CHAT

STRANGE: dict[str, Any] = {"type": "brand_new", "value": 1}
CHAT_TEXT = {"role": "user", "content": "x"}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat part": (
        "openai",
        {"messages": [{"role": "user", "content": [STRANGE]}, CHAT_TEXT]},
    ),
    "chat answer part": (
        "openai",
        {"messages": [{"role": "assistant", "content": [STRANGE]}, CHAT_TEXT]},
    ),
    "chat tool": ("openai", {"messages": [CHAT_TEXT], "tools": [STRANGE]}),
    "item": ("openai_responses", {"input": [STRANGE, CHAT_TEXT]}),
    "item part": (
        "openai_responses",
        {"input": [{"role": "user", "content": [STRANGE]}, CHAT_TEXT]},
    ),
    "item answer part": (
        "openai_responses",
        {"input": [{"role": "assistant", "content": [STRANGE]}, CHAT_TEXT]},
    ),
    "responses tool": ("openai_responses", {"input": "x", "tools": [STRANGE]}),
    "tool in an item": (
        "openai_responses",
        {"input": [{"type": "additional_tools", "tools": [STRANGE]}, CHAT_TEXT]},
    ),
    "tool in a namespace": (
        "openai_responses",
        {
            "input": "x",
            "tools": [{"type": "namespace", "name": "n", "tools": [STRANGE]}],
        },
    ),
    "block": (
        "anthropic",
        {
            "max_tokens": 9,
            "messages": [{"role": "user", "content": [STRANGE]}, CHAT_TEXT],
        },
    ),
    "answer block": (
        "anthropic",
        {
            "max_tokens": 9,
            "messages": [{"role": "assistant", "content": [STRANGE]}, CHAT_TEXT],
        },
    ),
    "messages tool": (
        "anthropic",
        {"max_tokens": 9, "messages": [CHAT_TEXT], "tools": [STRANGE]},
    ),
    "gemini part": (
        "gemini",
        {
            "contents": [
                {"role": "model", "parts": [{"brandNew": {}}]},
                {"role": "user", "parts": [{"text": "x"}]},
            ]
        },
    ),
    "gemini tool": (
        "gemini",
        {
            "contents": [{"role": "user", "parts": [{"text": "x"}]}],
            "tools": [{"brandNew": {}}],
        },
    ),
    "cohere part": (
        "cohere",
        {"messages": [{"role": "user", "content": [STRANGE]}, CHAT_TEXT]},
    ),
}
FOREIGN = ("openai", "openai_responses", "anthropic", "gemini", "bedrock", "cohere")


def parse(name: str, body: dict[str, Any]) -> Any:
    from tests.wire.formats import MODULES

    return MODULES[CHAT[name].name].parse_request({"model": "m", **body})


def target_of(name: str) -> Target:
    chat_format = CHAT[name]
    return Target(chat_format.name, "m", Capabilities(), None, chat_format.parameters)


@pytest.mark.parametrize("target_name", FOREIGN)
@pytest.mark.parametrize("case", REQUESTS)
def test_an_unknown_type_is_named_and_leaves_nothing_empty(case: str, target_name: str):
    source, body = REQUESTS[case]
    if source == target_name:
        return
    adaptation = adapt(parse(source, body), target_of(target_name))
    assert {name.lower().replace("_", "") for name in adaptation.dropped} == {
        "brandnew"
    }
    assert len(adaptation.request.messages) == 1
    assert not adaptation.request.tools
    chat_format = CHAT[target_name]
    sent = chat_format.dump_request(adaptation.request, "m", Capabilities())
    assert "value" not in json.dumps(sent)


@pytest.mark.parametrize("case", REQUESTS)
def test_the_same_format_gets_it_unchanged(case: str):
    source, body = REQUESTS[case]
    adaptation = adapt(parse(source, body), target_of(source))
    assert adaptation.dropped == ()
    sent = CHAT[source].dump_request(adaptation.request, "m", Capabilities())
    text = json.dumps(sent)
    assert "brand_new" in text or "brandNew" in text


def test_a_request_of_which_nothing_is_left_is_refused():
    request = parse("openai_responses", {"input": [STRANGE]})
    with pytest.raises(InvokeBadRequestError, match="brand_new"):
        adapt(request, target_of("openai"))


def test_tools_in_an_item_are_merged():
    function: dict[str, Any] = {
        "type": "function",
        "name": "exec_command",
        "parameters": {},
    }
    item: dict[str, Any] = {
        "type": "additional_tools",
        "role": "developer",
        "tools": [function],
    }
    request = parse("openai_responses", {"input": [item, CHAT_TEXT]})
    adaptation = adapt(request, target_of("openai"))
    assert [tool.name for tool in adaptation.request.tools] == ["exec_command"]
    assert [message.text for message in adaptation.request.messages] == ["x"]
    assert adaptation.dropped == ()


@pytest.mark.parametrize(("source", "body"), [
    ("openai", {"messages": [{"role": "x", "content": "x"}]}),
    ("openai", {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "x"}]}]}),
    ("openai", {"messages": [CHAT_TEXT], "tool_choice": {"type": "x"}}),
    ("openai", {"messages": [{"role": "user", "content": [{"type": 1}]}]}),
    ("openai_responses", {"input": [{"role": "x", "content": "x"}]}),
    ("openai_responses", {"input": "x", "text": {"format": {"type": "x"}}}),
    ("anthropic", {"max_tokens": 9, "messages": [{"role": "x", "content": "x"}]}),
    ("anthropic", {"max_tokens": 9, "messages": [CHAT_TEXT], "tool_choice": {"type": "x"}}),
    ("gemini", {"contents": [{"role": "x", "parts": [{"text": "x"}]}]}),
    ("cohere", {"messages": [{"role": "x", "content": "x"}]}),
])  # fmt: skip
def test_unknown_roles_and_choices_are_refused(source: str, body: dict[str, Any]):
    with pytest.raises(InvokeBadRequestError):
        parse(source, body)
