"""Models that plugins call through their host: calls of tools arrive complete, and the
thoughts before them reach the vendor again."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tools.show.played_vendors import (
    CITIES,
    THOUGHT,
    anthropic_messages,
    openai_chat,
    signature,
)

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMResultChunkDelta
from modelyard.models.messages import (
    AssistantPromptMessage,
    ThinkingPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    UserPromptMessage,
)
from modelyard.plugins.connection import PluginCall
from modelyard.tenant_plugins.host_answers import (
    HostAnswer,
    keep_thoughts,
    with_thoughts,
)
from modelyard.testing import Answer, Upstream, UpstreamRequest
from tests.plugins.conftest import PluginGateway

pytestmark = pytest.mark.proof("plugin-kinds")


def vendor(request: UpstreamRequest) -> Answer:
    is_anthropic = request.path.endswith("/messages")
    return anthropic_messages(request) if is_anthropic else openai_chat(request)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(vendor) as started:
        yield started


@pytest.fixture
def toolbox(plugged: Callable[..., PluginGateway], upstream: Upstream) -> PluginGateway:
    def provider(name: str, base_url: str) -> ProviderSettings:
        credentials = [CredentialSettings(values={"api_key": "sk-1"})]
        return ProviderSettings(name=name, base_url=base_url, credentials=credentials)

    base = upstream.url
    gateway = plugged(
        providers=[
            provider("deepseek", base),
            provider("anthropic", base.removesuffix("/v1")),
        ]
    )
    gateway.install("toolbox")
    return gateway


@pytest.mark.parametrize("stream", ["stream", ""])
def test_an_sdk_plugin_gets_all_calls_complete(
    toolbox: PluginGateway, upstream: Upstream, stream: str
):
    upstream.requests.clear()
    model = f"deepseek/deepseek-chat/{stream}"
    count, answer = json.loads(toolbox.tool_text("ask", what="calls", text=model))
    assert (count, answer) == (2, "sun in Paris and sun in Rome")
    # The vendor gets back the thoughts, which the plugin has not sent.
    messages = upstream.requests[-1].json["messages"]
    assert messages[1]["reasoning_content"] == THOUGHT
    cities = [
        json.loads(call["function"]["arguments"])["city"]
        for call in messages[1]["tool_calls"]
    ]
    assert cities == list(CITIES)


def delta(**message: Any) -> LLMResultChunk:
    return LLMResultChunk(
        model="m", delta=LLMResultChunkDelta(message=AssistantPromptMessage(**message))
    )


def tool_call(call_id: str, arguments: str, **fields: Any) -> ToolCall:
    function = ToolCallFunction(name="weather", arguments=arguments)
    return ToolCall(id=call_id, function=function, **fields)


def test_texts_are_passed_on_at_once_and_calls_at_the_end():
    answer = HostAnswer()
    written = [
        list(answer.write(chunk))
        for chunk in (
            delta(content="Let me "),
            delta(content=None, tool_calls=[tool_call("a", '{"x"', index=0)]),
            delta(content="see."),
            delta(content=None, tool_calls=[tool_call("", ": 1}", index=0)]),
            delta(content=None, tool_calls=[tool_call("b", "{}", index=1)]),
        )
    ]
    texts = [
        [document["delta"]["message"]["content"] for document in documents]
        for documents in written
    ]
    assert texts == [["Let me "], [], ["see."], [], []]
    assert not any(
        document["delta"]["message"]["tool_calls"]
        for documents in written
        for document in documents
    )
    (last,) = answer.finish()
    calls = last["delta"]["message"]["tool_calls"]
    assert [(call["id"], call["function"]["arguments"]) for call in calls] == [
        ("a", '{"x": 1}'),
        ("b", "{}"),
    ]
    assert last["delta"]["index"] == 2


def plugin_call() -> PluginCall:
    return PluginCall(tenant="t", type="tool", action="invoke_tool", data={})


THINKING = ThinkingPromptMessageContent(
    data=THOUGHT, signature=signature(), origin="anthropic"
)


def sent_back(call: PluginCall, text: str, *ids: str) -> AssistantPromptMessage:
    calls = [tool_call(call_id, "{}") for call_id in ids]
    message = AssistantPromptMessage(content=text, tool_calls=calls)
    request = LLMRequest(messages=[UserPromptMessage(content="x"), message])
    restored = with_thoughts(call, request).messages[1]
    assert isinstance(restored, AssistantPromptMessage)
    return restored


def test_thoughts_belong_to_their_answer_alone():
    call = plugin_call()
    answer = AssistantPromptMessage(
        content=[THINKING], tool_calls=[tool_call("a", "{}"), tool_call("b", "{}")]
    )
    keep_thoughts(call, answer)
    keep_thoughts(call, AssistantPromptMessage(content=[THINKING]))
    assert sent_back(call, "", "a", "b") == answer
    assert sent_back(call, "", "a").thinking == ""
    assert sent_back(plugin_call(), "", "a", "b").thinking == ""
    changed = sent_back(call, "I call.", "a", "b")
    assert (changed.parts[0], changed.text) == (THINKING, "I call.")


def test_the_thoughts_of_long_loops_are_bounded():
    call = plugin_call()
    for index in range(100):
        calls = [tool_call(str(index), "{}")]
        keep_thoughts(
            call, AssistantPromptMessage(content=[THINKING], tool_calls=calls)
        )
    assert len(call.answers) == 64
    assert sent_back(call, "", "99").thinking == THOUGHT
    assert sent_back(call, "", "0").thinking == ""
