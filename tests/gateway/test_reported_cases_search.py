"""Searches of the web by tools of every format, on servers of every format."""

from typing import Any

import anthropic
import pytest

from modelyard.testing import Answer, json_answer
from tests.gateway.reported_world import (
    HI,
    JSON,
    Play,
    Start,
    Vendors,
    dropped,
    events_in,
    gemini_document,
    message,
    response,
    response_stream,
    sse,
    text_item,
)

SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
FORCED = {"type": "tool", "name": "web_search"}
SCHEMA = {"type": "object", "properties": {}}
PAGE = {"url": "https://example.org/a", "title": "Releases"}
GROUNDING = {
    "webSearchQueries": ["newest release"],
    "groundingChunks": [{"web": {"uri": PAGE["url"], "title": PAGE["title"]}}],
}
CITED = {"type": "url_citation", "start_index": 0, "end_index": 3, **PAGE}
CALL = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "query": "newest release"},
}


@pytest.fixture
def vendors(start_gateway: Start, upstream: Play) -> Vendors:
    return Vendors(start_gateway, upstream, "openai", "openrouter")


def searched(provider: str, *, is_stream: bool) -> Answer:
    """Return an answer with a search, in the provider's format."""
    if provider == "rsp":
        items = CALL, text_item("4.2 is out.", CITED)
        if is_stream:
            return response_stream(*items)
        return json_answer(response(*items))
    if not is_stream:
        parts = [{"text": "4.2 is out."}]
        return json_answer(gemini_document(parts, groundingMetadata=GROUNDING))
    first = gemini_document([{"text": "4.2 is out."}], finish="")
    return sse(first, gemini_document([{"text": ""}], groundingMetadata=GROUNDING))


def search_in(content: list[Any]) -> tuple[Any, Any]:
    """Return the blocks of a search, and check that they belong together."""
    (use,) = [block for block in content if block["type"] == "server_tool_use"]
    kind = "web_search_tool_result"
    (result,) = [block for block in content if block["type"] == kind]
    assert result["tool_use_id"] == use["id"]
    return use, result


@pytest.mark.case("2.5")
@pytest.mark.parametrize("provider", ["gem", "rsp"])
def test_a_search_by_the_upstream_is_told_in_anthropics_blocks(
    vendors: Vendors, provider: str
):
    vendors.script = [searched(provider, is_stream=False)]
    answer = vendors.messages(f"{provider}/m", tools=[SEARCH], tool_choice=FORCED)
    document = answer.json()
    kinds = [block["type"] for block in document["content"]]
    assert kinds == ["server_tool_use", "web_search_tool_result", "text"]
    use, result = search_in(document["content"])
    assert (use["name"], use["input"]) == ("web_search", {"query": "newest release"})
    assert result["content"] == [
        {
            "type": "web_search_result",
            "page_age": None,
            "encrypted_content": "",
            **PAGE,
        }
    ]
    assert document["stop_reason"] == "end_turn"
    assert document["usage"]["server_tool_use"]["web_search_requests"] == 1
    # Google cannot be forced to search. OpenAI cites for a part of the text, Anthropic
    # for the whole block.
    lost = {"gem": "tool_choice", "rsp": "citation_positions"}
    assert dropped(answer) == {lost[provider]}


@pytest.mark.case("2.5")
@pytest.mark.parametrize("provider", ["gem", "rsp"])
def test_a_streamed_search_is_read_by_anthropics_client(
    vendors: Vendors, provider: str
):
    vendors.script = [searched(provider, is_stream=True)]
    with (
        anthropic.Anthropic(
            base_url=vendors.running.origin, api_key="none", max_retries=0
        ) as client,
        client.messages.stream(
            model=f"{provider}/m", max_tokens=99, messages=HI, tools=[SEARCH]
        ) as stream,
    ):
        final = stream.get_final_message()
    content = [block.model_dump() for block in final.content]
    use, result = search_in(content)
    assert use["input"] == {"query": "newest release"}
    assert [page["url"] for page in result["content"]] == [PAGE["url"]]
    texts = [block["text"] for block in content if block["type"] == "text"]
    assert texts == ["4.2 is out."]


@pytest.mark.case("2.5")
@pytest.mark.parametrize("second", ["ant", "gem", "oai", "rsp"])
def test_a_restored_search_goes_back_to_nobody(vendors: Vendors, second: str):
    vendors.script = [searched("rsp", is_stream=False)]
    content = vendors.messages("rsp/m", tools=[SEARCH]).json()["content"]
    history = [
        *HI,
        {"role": "assistant", "content": content},
        {"role": "user", "content": "and now?"},
    ]
    answer = vendors.messages(f"{second}/m", messages=history)
    assert {"server_tool_use", "web_search_tool_result"} <= dropped(answer)
    assert "4.2 is out." in vendors.sent_text
    for word in ("srvtoolu", "encrypted", "web_search_result"):
        assert word not in vendors.sent_text


@pytest.mark.case("2.5")
def test_anthropics_own_search_comes_and_goes_unchanged(vendors: Vendors):
    page = {"type": "web_search_result", "page_age": None, **PAGE}
    blocks = [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search",
         "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1",
         "content": [{**page, "encrypted_content": "ENC"}]},
        {"type": "text", "text": "It is.", "citations": None},
    ]  # fmt: skip
    vendors.script = [json_answer(message(*blocks))]
    content = vendors.messages("ant/m", tools=[SEARCH]).json()["content"]
    assert content == blocks
    history = [*HI, {"role": "assistant", "content": content}, *HI]
    answer = vendors.messages("ant/m", tools=[SEARCH], messages=history)
    assert dropped(answer) == set()
    assert "ENC" in vendors.sent_text


@pytest.mark.case("2.5")
def test_a_search_without_pages_has_an_empty_result(vendors: Vendors):
    vendors.script = [response_stream(CALL, text_item("Nothing."))]
    events = events_in(vendors.messages("rsp/m", tools=[SEARCH], stream=True))
    starts = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    assert search_in(starts)[1]["content"] == []


ANTHROPIC_TOOLS = {
    "code_execution": {"type": "code_execution_20250825", "name": "code_execution"},
    "memory": {"type": "memory_20250818", "name": "memory"},
    "tool_search_tool_regex": {
        "type": "tool_search_tool_regex_20251119",
        "name": "tool_search_tool_regex",
    },
    "web_fetch": {"type": "web_fetch_20250910", "name": "web_fetch"},
    "web_search": SEARCH,
}
# What stands for a tool at a provider; any other is left out and named.
EQUIVALENTS = {
    ("code_execution", "rsp"): "code_interpreter",
    ("memory", "oai"): "memory",
    ("memory", "rsp"): "memory",
    ("memory", "gem"): "memory",
    ("web_fetch", "gem"): "urlContext",
    ("code_execution", "gem"): "codeExecution",
    ("web_search", "gem"): "googleSearch",
    ("web_search", "rsp"): "web_search",
}


@pytest.mark.case("2.5")
@pytest.mark.parametrize("provider", ["oai", "rsp", "gem"])
@pytest.mark.parametrize("name", ANTHROPIC_TOOLS)
def test_a_hosted_tool_of_anthropic_becomes_the_upstreams_or_is_named(
    vendors: Vendors, name: str, provider: str
):
    tool = ANTHROPIC_TOOLS[name]
    answer = vendors.messages(f"{provider}/m", tools=[tool])
    equivalent = EQUIVALENTS.get((name, provider))
    assert dropped(answer) == (set() if equivalent else {name})
    if equivalent:
        assert f'"{equivalent}"' in vendors.sent_text
    else:
        assert "tools" not in vendors.sent
    # It costs the caller no other tool.
    function = {"name": "exec_command", "input_schema": SCHEMA}
    vendors.messages(f"{provider}/m", tools=[function, tool])
    assert "exec_command" in vendors.sent_text


@pytest.mark.case("2.5")
@pytest.mark.parametrize(
    ("tool", "equivalents"),
    [
        ("googleSearch", {"rsp": '"web_search"', "ant": "web_search_20250305"}),
        ("urlContext", {}),
        ("codeExecution", {"rsp": "code_interpreter"}),
        ("fileSearch", {}),
    ],
)
@pytest.mark.parametrize("provider", ["oai", "rsp", "ant"])
def test_a_hosted_tool_of_google_becomes_the_upstreams_or_is_named(
    vendors: Vendors, provider: str, tool: str, equivalents: dict[str, str]
):
    body: JSON = {
        "contents": [{"role": "user", "parts": [{"text": "x"}]}],
        "tools": [{"functionDeclarations": [{"name": "exec_command"}]}, {tool: {}}],
    }
    answer = vendors.ask(f"/v1beta/models/{provider}/m:generateContent", body)
    assert "exec_command" in vendors.sent_text
    assert dropped(answer) == (set() if provider in equivalents else {tool})
    assert equivalents.get(provider, "exec_command") in vendors.sent_text


@pytest.mark.case("2.5")
@pytest.mark.parametrize(
    "model", ["oai/m", "openai/gpt-4.1", "ant/m", "gem/m", "rsp/m"]
)
def test_a_tool_of_openrouter_goes_to_openrouter_alone(vendors: Vendors, model: str):
    function = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
    tools = [function, {"type": "openrouter:web_search"}]
    answer = vendors.chat(model, tools=tools)
    assert "openrouter" not in vendors.sent_text
    assert dropped(answer) == {"openrouter:web_search"}
    assert dropped(vendors.chat("openrouter/some/model", tools=tools)) == set()
    assert vendors.sent["tools"] == tools


@pytest.mark.case("2.5")
@pytest.mark.parametrize("provider", ["ant", "gem", "rsp"])
def test_search_options_of_chat_are_named_elsewhere(vendors: Vendors, provider: str):
    answer = vendors.chat(f"{provider}/m", web_search_options={})
    assert dropped(answer) == {"web_search_options"}
    vendors.chat("oai/m", web_search_options={})
    assert vendors.sent["web_search_options"] == {}
