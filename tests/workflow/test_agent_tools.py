"""Parameters of an agent's tools that the author of the app has set."""

from typing import Any

import pytest

from modelyard.testing.workflows import StubTools
from modelyard.tools.entities import ToolNotFoundError
from modelyard.tools.manager import ToolRef
from modelyard.workflow.agent_tools import parse_tool_list, resolve_tool_inputs
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Status
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("workflow-cases")


class BindingTools(StubTools):
    """Tools that record how they are bound, and are not available."""

    manager: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.bound: list[ToolRef] = []

    async def bind(self, ref: ToolRef) -> Any:
        self.bound.append(ref)
        raise ToolNotFoundError("none")

    def results(self, key: str) -> Any:
        del key


def agent_app(parameters: Any, settings: Any = None, provider: str = "") -> App:
    tool = {
        "enabled": True,
        "provider_name": "time",
        "tool_name": "timestamp_to_localtime",
        "type": "builtin",
        "parameters": parameters,
        "settings": settings or {},
    }
    model = {"provider": "x", "model": "m", "mode": "chat", "completion_params": {}}
    return app_of(
        {
            "start": {"type": "start", "variables": [{"variable": "n", "type": "number"}, {"variable": "q", "type": "text-input"}]},
            "g": {
                "type": "agent",
                "agent_strategy_provider_name": provider,
                "agent_strategy_name": "function_calling",
                "agent_parameters": {
                    "model": {"type": "constant", "value": model},
                    "tools": {"type": "constant", "value": [tool]},
                    "query": {"type": "constant", "value": "use the tool"},
                },
            },
        },
        ["start > g"],
    )  # fmt: skip


def fixed(kind: str, value: Any) -> dict[str, Any]:
    return {"auto": 0, "value": {"type": kind, "value": value}}


INPUTS = {"n": 0, "q": "{{#start.n#}}"}
CASES = [
    pytest.param(fixed("variable", ["start", "n"]), 0, id="variable"),
    pytest.param(fixed("mixed", "at {{#start.n#}} h"), "at 0 h", id="mixed"),
    pytest.param(fixed("constant", 7), 7, id="constant"),
    pytest.param(fixed("constant", ["a", "b"]), ["a", "b"], id="constant list"),
    pytest.param(fixed("constant", "{{#start.n#}}"), "{{#start.n#}}", id="constant text"),
    # A value is data, and not rendered again.
    pytest.param(fixed("variable", ["start", "q"]), "{{#start.n#}}", id="value"),
    pytest.param({"auto": 0, "value": "plain"}, "plain", id="old form"),
]  # fmt: skip


@pytest.mark.parametrize(("parameter", "expected"), CASES)
def test_a_tool_gets_the_values_that_its_parameters_stand_for(
    bench: Bench, parameter: Any, expected: Any
):
    tools = BindingTools()
    bench.tools = tools
    bench.run(agent_app({"timestamp": parameter}, {"zone": parameter}), inputs=INPUTS)
    [ref] = tools.bound
    assert ref.settings == {"timestamp": expected, "zone": expected}


@pytest.mark.parametrize(("parameter", "expected"), CASES)
def test_a_strategy_of_a_plugin_gets_the_values_too(
    bench: Bench, parameter: Any, expected: Any
):
    app = agent_app({"timestamp": parameter}, provider="a/b/c")
    outcome, _ = bench.run(app, inputs=INPUTS)
    assert outcome.status is Status.SUCCEEDED, outcome.error
    [(_, parameters)] = bench.agents.seen
    [ref] = parse_tool_list(parameters["tools"])
    assert ref.settings == {"timestamp": expected}


@pytest.mark.parametrize(
    "parameter",
    [
        {"auto": 1, "value": {"type": "variable", "value": ["start", "n"]}},
        fixed("variable", ["nowhere", "n"]),
        {"auto": 0, "value": None},
    ],
)
def test_what_the_author_leaves_open_is_left_to_the_model(bench: Bench, parameter: Any):
    tools = BindingTools()
    bench.tools = tools
    bench.run(agent_app({"timestamp": parameter}), inputs=INPUTS)
    assert tools.bound[0].settings == {}


def test_the_node_refers_to_the_variables_of_its_tools():
    app = agent_app(
        {
            "a": fixed("variable", ["start", "n"]),
            "b": fixed("mixed", "{{#start.q#}}"),
            "c": {"auto": 1, "value": {"type": "variable", "value": ["other", "x"]}},
        }
    )
    node = app.graph().nodes["g"]
    assert {("start", "n"), ("start", "q")} <= set(node.references())
    assert ("other", "x") not in node.references()


@pytest.mark.parametrize("tools", [None, "text", [], ["builtin:time/now"], [{"a": {}}]])
def test_odd_tool_lists_stay_as_they_are(tools: Any):
    assert resolve_tool_inputs(tools, lambda parameter: 1 / 0) == tools


def test_the_import_names_what_an_agent_needs():
    parameters = {
        "model": {
            "type": "constant",
            "value": {"provider": "acme/llm/llm", "model": "big", "mode": "chat"},
        },
        "critic": {"type": "constant", "value": {"provider": "acme", "model": "small"}},
        "tools": {
            "type": "constant",
            "value": [
                {"enabled": True, "provider_name": "time", "tool_name": "now"},
                {"enabled": False, "provider_name": "mail", "tool_name": "send"},
                {"dataset": {"enabled": True, "id": "books"}},
                "not a tool",
            ],
        },
        "datasets": {"type": "constant", "value": ["papers"]},
        "query": {"type": "variable", "value": ["sys", "query"]},
        "instruction": {"type": "constant", "value": "acme/llm"},
    }
    agent = {
        "type": "agent",
        "title": "Ask",
        "agent_strategy_provider_name": "acme/agents/agents",
        "agent_strategy_name": "loop",
        "agent_parameters": parameters,
    }
    nodes = {"start": {"type": "start"}, "a": agent}
    app = app_of(nodes, ["start > a"], mode="advanced-chat")
    assert {(need.kind, need.name, need.node) for need in app.requirements} == {
        ("strategy", "acme/agents/agents/loop", "Ask"),
        ("model", "acme/llm/llm/big", "Ask"),
        ("model", "acme/small", "Ask"),
        ("tool", "time/now", "Ask"),
        ("tool", "not a tool", "Ask"),
        ("dataset", "books", "Ask"),
        ("dataset", "papers", "Ask"),
    }


@pytest.mark.parametrize(
    "parameters",
    [{}, {"tools": None}, {"tools": "x"}, {"datasets": "x"}, {"model": "x"}],
)
def test_an_agent_without_readable_parameters_needs_nothing(parameters: dict[str, Any]):
    agent = {"type": "agent", "title": "Ask", "agent_parameters": parameters}
    app = app_of({"start": {"type": "start"}, "a": agent}, ["start > a"])
    assert app.requirements == []
