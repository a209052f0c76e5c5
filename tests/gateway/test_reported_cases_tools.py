"""Reported cases of tools: each kind arrives in a form that the vendor takes, and its
calls come back as what the caller has declared."""

import json
import re
from typing import Any

import pytest

from modelyard.testing import Answer, json_answer
from tests.gateway.reported_world import (
    HI,
    JSON,
    Play,
    Start,
    Vendors,
    chat_stream,
    dropped,
    events_in,
    gemini_document,
    message,
    message_stream,
)

OBJECT = {"type": "object", "properties": {}}
FUNCTION = {
    "type": "function",
    "name": "exec_command",
    "parameters": OBJECT,
    "strict": False,
}
CHAT_FUNCTION = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": OBJECT},
}
PATCH = "*** Begin Patch\n*** Add File: patched.txt\n+hello\n*** End Patch"


@pytest.fixture
def vendors(start_gateway: Start, upstream: Play) -> Vendors:
    return Vendors(start_gateway, upstream, "openai", "anthropic", "bedrock", "gemini")


# ------------------------------------------------------------- kinds of tools: 2.1, 2.2

# What a target calls a tool of Codex; any other is left out and named.
CODEX_TOOLS: dict[str, tuple[JSON, dict[str, str]]] = {
    "namespace": (
        {"type": "namespace", "name": "multi_agent_v1", "description": "d",
         "tools": [{**FUNCTION, "name": "spawn"}]},
        dict.fromkeys(("oai", "ant", "gem"), "multi_agent_v1__spawn"),
    ),
    "web_search": (
        {"type": "web_search", "external_web_access": True},
        {"ant": "web_search_20250305"},
    ),
    "tool_search": (
        {"type": "tool_search", "execution": "client", "description": "d"},
        dict.fromkeys(("oai", "ant", "gem"), "tool_search"),
    ),
    "code_interpreter": (
        {"type": "code_interpreter", "container": {"type": "auto"}},
        dict.fromkeys(("oai", "ant", "gem"), "code_interpreter"),
    ),
    "local_shell": (
        {"type": "local_shell"},
        dict.fromkeys(("oai", "ant", "gem"), "local_shell"),
    ),
    "computer_use_preview": (
        {"type": "computer_use_preview", "display_width": 10, "display_height": 10,
         "environment": "browser"},
        {},
    ),
    "image_generation": ({"type": "image_generation"}, {}),
    "mcp": (
        {"type": "mcp", "server_label": "nowhere", "server_url": "https://example.org"},
        {},
    ),
}  # fmt: skip


@pytest.mark.case("2.1")
@pytest.mark.parametrize("provider", ["oai", "ant", "gem"])
@pytest.mark.parametrize("kind", CODEX_TOOLS)
def test_no_tool_costs_the_caller_the_others(
    vendors: Vendors, kind: str, provider: str
):
    tool, names = CODEX_TOOLS[kind]
    answer = vendors.responses(f"{provider}/agent", tools=[FUNCTION, tool])
    assert '"exec_command"' in vendors.sent_text
    if provider in names:
        assert f'"{names[provider]}"' in vendors.sent_text
        assert dropped(answer) == set()
    else:
        assert dropped(answer) == {kind}
        assert kind not in vendors.sent_text


@pytest.mark.case("2.1")
@pytest.mark.parametrize("value", ["text", 5, [], {"type": 5}, None])
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("computer_use_preview", "environment"),
        ("web_search", "filters"),
        ("local_shell", "parameters"),
        ("shell", "environment"),
        ("tool_search", "execution"),
    ],
)
def test_an_odd_field_of_a_tool_is_no_failure(
    vendors: Vendors, kind: str, field: str, value: Any
):
    tools = [FUNCTION, {"type": kind, field: value}]
    vendors.responses("ant/agent", tools=tools)
    assert "exec_command" in vendors.sent_text


@pytest.mark.case("2.2")
@pytest.mark.parametrize("provider", ["oai", "ant", "gem"])
def test_tools_in_an_input_item_are_offered(vendors: Vendors, provider: str):
    item = {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}
    items = [item, {"role": "user", "content": "x"}]
    answer = vendors.responses(f"{provider}/agent", input=items)
    assert dropped(answer) == set()
    assert "exec_command" in json.dumps(vendors.sent["tools"])
    turns = vendors.sent.get("messages") or vendors.sent["contents"]
    assert len(turns) == 1
    assert "x" in json.dumps(turns)


@pytest.mark.case("2.2")
@pytest.mark.parametrize("provider", ["oai", "ant", "gem"])
def test_an_unknown_item_is_named_and_no_empty_message(vendors: Vendors, provider: str):
    items = [{"type": "brand_new", "value": 1}, {"role": "user", "content": "x"}]
    answer = vendors.responses(f"{provider}/agent", input=items)
    assert dropped(answer) == {"brand_new"}
    turns = vendors.sent.get("messages") or vendors.sent["contents"]
    assert len(turns) == 1


# --------------------------------------------------------------------- freeform: 2.3


@pytest.mark.case("2.3")
def test_codexs_patch_comes_back_as_a_custom_call(vendors: Vendors):
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
    tool = {
        "type": "custom",
        "name": "apply_patch",
        "description": "FREEFORM",
        "format": grammar,
    }
    use = {"type": "tool_use", "id": "toolu_1", "name": "apply_patch"}
    used = {**use, "input": {"input": PATCH}}
    vendors.script = [message_stream(used, stop_reason="tool_use")]
    events = events_in(vendors.responses("ant/patcher", stream=True, tools=[tool]))
    (sent_tool,) = vendors.sent["tools"]
    assert sent_tool["input_schema"] == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
    }
    assert "start: /.+/" in sent_tool["description"]
    kind = "response.custom_tool_call_input"
    deltas = [e["delta"] for e in events if e["type"] == f"{kind}.delta"]
    assert "".join(deltas) == PATCH
    assert [e["input"] for e in events if e["type"] == f"{kind}.done"] == [PATCH]
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["name"]) == ("custom_tool_call", "apply_patch")
    assert item["input"] == PATCH
    output = {"type": "custom_tool_call_output", "call_id": item["call_id"]}
    turn = [{"role": "user", "content": "hi"}, item, {**output, "output": "Done"}]
    vendors.responses("ant/patcher", input=turn, tools=[tool])
    _, call, result = vendors.sent["messages"]
    assert call["content"][0]["input"] == {"input": PATCH}
    assert call["content"][0]["id"] == result["content"][0]["tool_use_id"]
    assert "Done" in json.dumps(result)


# ----------------------------------------------------------------- parallel calls: 2.4

CITIES = ["Beijing", "Shanghai", "Guangzhou"]


def weather(number: int, index: int | None, *, has_id: bool = True) -> JSON:
    """Return a delta with one complete call."""
    arguments = json.dumps({"city": CITIES[number]})
    call: JSON = {"type": "function"}
    call["function"] = {"name": "get_weather", "arguments": arguments}
    if has_id:
        call["id"] = f"call_{number}"
    if index is not None:
        call["index"] = index
    return {"tool_calls": [call]}


NUMBERINGS: dict[str, list[JSON]] = {
    "index 0": [weather(number, 0) for number in range(3)],
    "no index": [weather(number, None) for number in range(3)],
    "no index and no id": [weather(n, None, has_id=False) for n in range(3)],
    "from 1 on": [weather(number, number + 1) for number in range(3)],
    "after a text": [
        weather(0, 0), {"content": "and"}, weather(1, 0), {"content": "and"},
        weather(2, 0),
    ],
}  # fmt: skip


def calls_in(path: str, events: list[Any]) -> list[tuple[str, Any]]:
    """Return the calls of a stream in the format of a path: name and arguments."""
    readers = {
        "chat": _chat_calls,
        "messages": _message_calls,
        "responses": _response_calls,
        "gemini": _gemini_calls,
    }
    return readers[path](events)


def _chat_calls(events: list[Any]) -> list[tuple[str, Any]]:
    calls: dict[int, list[str]] = {}
    for event in events:
        for choice in event["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                entry = calls.setdefault(call["index"], ["", ""])
                entry[0] += call["function"].get("name") or ""
                entry[1] += call["function"].get("arguments") or ""
    assert list(calls) == [0, 1, 2]
    return [(name, json.loads(text)) for name, text in calls.values()]


def _message_calls(events: list[Any]) -> list[tuple[str, Any]]:
    names: dict[int, str] = {}
    texts: dict[int, str] = {}
    for event in events:
        block = event.get("content_block") or {}
        if block.get("type") == "tool_use":
            names[event["index"]] = block["name"]
        delta = event.get("delta") or {}
        if delta.get("type") == "input_json_delta":
            texts[event["index"]] = (
                texts.get(event["index"], "") + delta["partial_json"]
            )
    return [(name, json.loads(texts[index])) for index, name in names.items()]


def _response_calls(events: list[Any]) -> list[tuple[str, Any]]:
    items = events[-1]["response"]["output"]
    calls = [item for item in items if item["type"] == "function_call"]
    return [(call["name"], json.loads(call["arguments"])) for call in calls]


def _gemini_calls(events: list[Any]) -> list[tuple[str, Any]]:
    parts = [
        part for event in events for part in event["candidates"][0]["content"]["parts"]
    ]
    calls = [part["functionCall"] for part in parts if "functionCall" in part]
    return [(call["name"], call["args"]) for call in calls]


@pytest.mark.case("2.4")
@pytest.mark.parametrize("caller", ["chat", "messages", "responses", "gemini"])
@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_three_calls_stay_three(vendors: Vendors, numbering: str, caller: str):
    deltas = NUMBERINGS[numbering]
    vendors.script = [chat_stream({"role": "assistant"}, *deltas, finish="tool_calls")]
    model = "oai/par0"
    if caller == "chat":
        answer = vendors.chat(model, stream=True, tools=[CHAT_FUNCTION])
    elif caller == "messages":
        tools = [{"name": "get_weather", "input_schema": OBJECT}]
        answer = vendors.messages(model, stream=True, tools=tools)
    elif caller == "responses":
        tools = [{**FUNCTION, "name": "get_weather"}]
        answer = vendors.responses(model, stream=True, tools=tools)
    else:
        path = f"/v1beta/models/{model}:streamGenerateContent?alt=sse"
        contents = [{"role": "user", "parts": [{"text": "x"}]}]
        answer = vendors.ask(path, {"contents": contents})
    expected = [("get_weather", {"city": city}) for city in CITIES]
    assert calls_in(caller, events_in(answer)) == expected


# ------------------------------------------------------------------- companions: 2.6


@pytest.mark.case("2.6")
@pytest.mark.parametrize("tools", [None, []])
@pytest.mark.parametrize("model", ["openai/gpt-4.1", "anthropic/claude-sonnet-4-5"])
def test_a_choice_without_tools_is_left_out(vendors: Vendors, model: str, tools: Any):
    fields = {} if tools is None else {"tools": tools}
    vendors.chat(model, tool_choice="auto", parallel_tool_calls=True, **fields)
    words = {"tool_choice", "parallel_tool_calls", "tools"}
    assert not words & vendors.sent.keys()


@pytest.mark.case("2.6", "2.1")
@pytest.mark.parametrize("choice", ["auto", {"type": "image_generation"}])
def test_a_choice_goes_with_the_last_tool(vendors: Vendors, choice: Any):
    tools = [{"type": "image_generation"}]
    answer = vendors.responses("openai/gpt-4.1", tools=tools, tool_choice=choice)
    assert vendors.upstream.requests[-1].path.endswith("/responses")
    answer = vendors.responses("ant/m", tools=tools, tool_choice=choice)
    assert dropped(answer) == {"image_generation", "tool_choice"}
    assert not {"tool_choice", "tools"} & vendors.sent.keys()


# ------------------------------------------------------------------ smaller cases: 2.7

ODD_NAMES = ["n" * 80, "my.tool/name", "weather tool", "工具"]
LEGAL = {
    "openai/gpt-4.1": r"[a-zA-Z0-9_-]{1,64}",
    "anthropic/claude-sonnet-4-5": r"[a-zA-Z0-9_-]{1,128}",
    "gemini/gemini-2.5-flash": r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}",
}


def called(model: str, name: str) -> Answer:
    """Return a call of a function, in the format of the model's provider."""
    if model.startswith("anthropic"):
        use = {"type": "tool_use", "id": "c1", "name": name, "input": {}}
        return json_answer(message(use, stop_reason="tool_use"))
    if model.startswith("gemini"):
        part = {"functionCall": {"name": name, "args": {}}}
        return json_answer(gemini_document([part]))
    call = {"id": "c1", "type": "function"}
    function = {"name": name, "arguments": "{}"}
    calls = [{**call, "function": function}]
    answered = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": answered, "finish_reason": "tool_calls"}
    return json_answer({"id": "c", "choices": [choice]})


def names_in(body: Any) -> list[str]:
    """Return the names of the functions in a request of any format."""
    declared = [
        each
        for tool in body["tools"]
        for each in tool.get("functionDeclarations", [tool.get("function", tool)])
    ]
    return [each["name"] for each in declared]


@pytest.mark.case("2.7")
@pytest.mark.parametrize("model", LEGAL)
@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_is_legal_there_and_itself_here(
    vendors: Vendors, name: str, model: str
):
    tools = [
        {"type": "function", "function": {"name": each, "parameters": OBJECT}}
        for each in ODD_NAMES
    ]
    choice = {"type": "function", "function": {"name": name}}
    vendors.chat(model, tools=tools, tool_choice=choice)
    legal_names = names_in(vendors.sent)
    assert len(set(legal_names)) == len(ODD_NAMES)
    assert all(re.fullmatch(LEGAL[model], each) for each in legal_names)
    legal = legal_names[ODD_NAMES.index(name)]
    chosen = {key: vendors.sent[key] for key in vendors.sent if "tool" in key.lower()}
    assert json.dumps(chosen, ensure_ascii=False).count(f'"{legal}"') == 2
    vendors.script = [called(model, legal)]
    answered = vendors.chat(model, tools=tools).json()["choices"][0]["message"]
    assert [call["function"]["name"] for call in answered["tool_calls"]] == [name]
    result = {"role": "tool", "tool_call_id": answered["tool_calls"][0]["id"]}
    history = [*HI, answered, {**result, "content": "ok"}]
    vendors.chat(model, tools=tools, messages=history)
    turns = vendors.sent.get("messages") or vendors.sent["contents"]
    assert f'"{legal}"' in json.dumps(turns, ensure_ascii=False)
    assert legal == name or f'"{name}"' not in vendors.sent_text


@pytest.mark.case("2.7")
def test_bedrock_gets_the_tools_of_the_history(vendors: Vendors):
    call = {"id": "c1", "type": "function"}
    call["function"] = {"name": "f", "arguments": "{}"}  # type: ignore[assignment]
    history = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": " "},
    ]
    model = "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0"
    vendors.chat(model, messages=history)
    (tool,) = vendors.sent["toolConfig"]["tools"]
    assert tool["toolSpec"]["name"] == "f"
    # Bedrock refuses blank texts, in results too.
    assert '"text": " "' not in vendors.sent_text


@pytest.mark.case("2.7")
def test_a_forced_tool_beside_thinking_is_parted(vendors: Vendors):
    answer = vendors.messages(
        "anthropic/claude-sonnet-4-5",
        max_tokens=4000,
        tools=[{"name": "f", "input_schema": OBJECT}],
        tool_choice={"type": "tool", "name": "f"},
        thinking={"type": "enabled", "budget_tokens": 2000},
    )
    assert vendors.sent["tool_choice"] == {"type": "tool", "name": "f"}
    assert "thinking" not in vendors.sent
    assert dropped(answer) == {"thinking"}


@pytest.mark.case("2.7")
@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": " \n"}],
        [{"role": "user", "content": [{"type": "text", "text": " "}]}],
        [{"role": "system", "content": " "}, {"role": "user", "content": "\t"}],
        [*HI, {"role": "assistant", "content": " "}, *HI],
        [*HI, {"role": "assistant", "content": " "}],
        [{"role": "assistant", "content": "\n"}, {"role": "user", "content": " "}],
        [{"role": "user", "content": [{"type": "text", "text": " "}, {"type": "text", "text": "x"}]}],
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "model",
    [
        "ant/m",
        "anthropic/claude-sonnet-4-5",
        "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0",
    ],
)
def test_claude_gets_no_blank_text_and_no_empty_conversation(
    vendors: Vendors, model: str, messages: Any
):
    vendors.chat(model, messages=messages)
    assert vendors.sent["messages"][0]["role"] == "user"
    system = vendors.sent.get("system", "x")
    system = [{"text": system}] if isinstance(system, str) else system
    blocks = [block for turn in vendors.sent["messages"] for block in turn["content"]]
    assert blocks
    assert all(block["text"].strip() for block in [*system, *blocks])
