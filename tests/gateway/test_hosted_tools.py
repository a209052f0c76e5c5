"""Tests for the Responses API's hosted tools on models whose provider has none.

The gateway executes them and answers in the format of the API.
"""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from openai import OpenAI
from tools.show.app_clients import serving

from modelyard.app import Modelyard
from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.openai.hosted_tools import (
    HostedModel,
    HostedTools,
    HostedToolSet,
)
from modelyard.knowledge.entities import DatasetSettings, Technique
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMResultChunkDelta
from modelyard.models.messages import (
    AssistantPromptMessage,
    PromptMessageTool,
    ToolCall,
    ToolCallFunction,
)
from modelyard.models.types import Chunks
from modelyard.testing.agents import ScriptedChatModel
from modelyard.tools.entities import ToolContext
from modelyard.tools.function import tool
from modelyard.tools.manager import ToolManager
from modelyard.wire.openai_responses import FORMAT

CODE = "print('so:')\n6 * 7"


@tool
def web_search(query: str) -> str:
    """Search the web."""
    return f"Three pages speak of {query}."


MODEL = ScriptedChatModel(replies=[])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    async def prepare(yard: Modelyard) -> None:
        settings = DatasetSettings(indexing_technique=Technique.ECONOMY)
        dataset = await yard.knowledge.datasets.create(
            "default", "guide", settings=settings
        )
        added = await yard.knowledge.datasets.add_texts(
            dataset, [("shipping", "Parcels leave before noon.")]
        )
        await yard.knowledge.datasets.wait(dataset, added[0].batch, 30)
        yard.tools.functions.add(web_search)

    with serving(prepare=prepare, model=MODEL) as served_apps:
        yield served_apps


@pytest.fixture
def client(served: dict[str, str]) -> Iterator[OpenAI]:
    with OpenAI(base_url=served["base"], api_key="any", max_retries=0) as openai_client:
        yield openai_client


def script(*replies: Any) -> None:
    MODEL.replies[:] = list(replies)
    MODEL.requests.clear()


def test_code_is_run_and_the_answer_continues(client: OpenAI):
    script(
        {"text": "Let me count.", "calls": [["code_interpreter", {"code": CODE}]]},
        "It is 42.",
    )
    answer = client.responses.create(
        model="scripted/model",
        input="6 times 7?",
        tools=[{"type": "code_interpreter", "container": {"type": "auto"}}],
    )
    assert [item.type for item in answer.output] == [
        "message",
        "code_interpreter_call",
        "message",
    ]
    call: Any = answer.output[1]
    assert (call.code, call.status, call.outputs[0].logs) == (
        CODE,
        "completed",
        "so:\n42\n",
    )
    assert answer.output_text.endswith("It is 42.")
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
    assert [tool.name for tool in MODEL.requests[0].tools] == ["code_interpreter"]
    # The next turn includes the tool call and its output.
    script("As I said, 42.")
    client.responses.create(
        model="scripted/model", input="again?", previous_response_id=answer.id
    )
    texts = [message.text for message in MODEL.requests[0].messages]
    assert "so:\n42\n" in texts
    assert any(
        message.tool_calls
        for message in MODEL.requests[0].messages
        if hasattr(message, "tool_calls")
    )


def test_hosted_tools_stream_items(client: OpenAI):
    script(
        {"text": "Hm. ", "calls": [["file_search", {"query": "parcels"}]]},
        "Before noon.",
    )
    tools: Any = [{"type": "file_search", "vector_store_ids": ["guide"]}]
    with client.responses.create(
        model="scripted/model", input="When?", tools=tools, stream=True
    ) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert "response.function_call_arguments.delta" not in kinds
    items = [
        event.item for event in events if event.type == "response.output_item.done"
    ]
    assert [item.type for item in items] == ["message", "file_search_call", "message"]
    search_call: Any = items[1]
    assert (search_call.queries, search_call.results[0].text, search_call.results[0].filename) == (["parcels"], "Parcels leave before noon.", "shipping")  # fmt: skip


@pytest.mark.case("2.1")
def test_the_callers_functions_are_returned_to_the_caller(client: OpenAI):
    script(
        {"calls": [["web_search", {"query": "rain"}], ["open_door", {}]]}, "It is open."
    )
    door: Any = {
        "type": "function",
        "name": "open_door",
        "parameters": {"type": "object", "properties": {}},
    }
    answer = client.responses.create(
        model="scripted/model", input="go", tools=[{"type": "web_search"}, door]
    )
    assert sorted(item.type for item in answer.output) == [
        "function_call",
        "web_search_call",
    ]
    call: Any = next(item for item in answer.output if item.type == "function_call")
    assert len(MODEL.requests) == 1
    output: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "opened"}
    ]
    answer = client.responses.create(
        model="scripted/model",
        input=output,
        previous_response_id=answer.id,
        tools=[{"type": "web_search"}, door],
    )
    assert answer.output_text == "It is open."


def test_a_tool_failure_is_returned_to_the_model(client: OpenAI):
    script(
        {
            "calls": [
                ["code_interpreter", {"code": "print(1)\nraise ValueError('no luck')"}]
            ]
        },
        "It failed.",
    )
    tools: Any = [{"type": "code_interpreter", "container": {"type": "auto"}}]
    answer = client.responses.create(model="scripted/model", input="x", tools=tools)
    call: Any = answer.output[0]
    assert (call.status, answer.output_text) == ("failed", "It failed.")
    assert "1\nValueError: no luck (line 2)" in call.outputs[0].logs


def test_the_number_of_hosted_calls_is_limited(client: OpenAI):
    script(
        *[{"calls": [["web_search", {"query": str(index)}]]} for index in range(3)],
        "Enough.",
    )
    answer = client.responses.create(
        model="scripted/model",
        input="x",
        tools=[{"type": "web_search"}],
        max_tool_calls=3,
    )
    assert [item.type for item in answer.output] == ["web_search_call"] * 3 + [
        "message"
    ]
    assert MODEL.requests[-1].tools == []


@pytest.mark.parametrize(("tool", "expected_text"), [
    ({"type": "file_search", "vector_store_ids": []}, "vector_store_ids"),
    ({"type": "mcp"}, "server_label"),
])  # fmt: skip
def test_unavailable_tools_are_refused(
    served: dict[str, str], tool: dict[str, Any], expected_text: str
):
    body = {"model": "scripted/model", "input": "x", "tools": [tool]}
    answer = httpx.post(f"{served['base']}/responses", json=body, timeout=30)
    assert (answer.status_code, expected_text in answer.json()["error"]["message"]) == (
        400,
        True,
    ), answer.text


class RegisteredServers:
    """Tools of an MCP server that the tenant has registered."""

    async def list(self, tenant: str, kind: str) -> list[Any]:
        del tenant, kind
        return [SimpleNamespace(provider="shop", name="search")]


def test_a_registered_server_is_not_used_with_an_approval_that_nobody_gives():
    hosted = HostedTools(RegisteredServers(), None)  # type: ignore[arg-type]
    declared = PromptMessageTool(
        name="mcp",
        type="mcp",
        extra={FORMAT: {"type": "mcp", "server_label": "shop"}},
    )
    request = LLMRequest(messages=[], tools=[declared])
    with pytest.raises(InvokeBadRequestError, match="require_approval"):
        asyncio.run(hosted.prepare("default", request, None))


KEYS: list[str] = []


@tool
async def save(text: str, context: ToolContext) -> str:
    """Save a text."""
    KEYS.append(context.key)
    return f"saved {text}"


class UnnumberedModel:
    """A model whose calls have neither an index nor an id of their own."""

    model = "unnumbered"

    def __init__(self, *turns: list[tuple[str, str]]) -> None:
        self.turns = list(turns)

    async def stream_llm(self, request: LLMRequest) -> Chunks:
        for name, text in self.turns.pop(0):
            function = ToolCallFunction(name=name, arguments=f'{{"text": "{text}"}}')
            message = AssistantPromptMessage(tool_calls=[ToolCall(function=function)])
            yield LLMResultChunk(delta=LLMResultChunkDelta(message=message))
        yield LLMResultChunk(delta=LLMResultChunkDelta(finish_reason="tool_calls"))


def test_calls_without_index_and_id_are_not_taken_for_one_another():
    """Neither by the tools, which tell repetitions by a key, nor when those of the
    caller are told from the hosted ones."""
    KEYS.clear()
    hosted = HostedToolSet({"save": save}, {"save": {"type": "web_search"}})
    turns = [("save", "a"), ("save", "b")], [("save", "c"), ("theirs", "d")]
    model: Any = HostedModel(
        UnnumberedModel(*turns),  # type: ignore[arg-type]
        HostedTools(ToolManager(), None),  # type: ignore[arg-type]
        hosted,
        ToolContext(key="call"),
    )
    result = asyncio.run(model.invoke_llm(LLMRequest(messages=[])))
    assert len(KEYS) == len(set(KEYS)) == 3
    assert all(key.startswith("call/") for key in KEYS)
    assert [call.function.name for call in result.tool_calls] == ["theirs"]
    assert result.tool_calls[0].function.arguments == '{"text": "d"}'
