"""Property tests for the frontier, the order of answers, templates and replay."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from modelyard.sandbox.templates import render_in_process
from modelyard.testing.workflows import StubTools
from modelyard.workflow.engine import GraphEngine, Outcome, Status, Step
from modelyard.workflow.events import AnyEvent, NodeRunStreamChunk, TextReplaced
from modelyard.workflow.graph import SOURCE, Edge, EdgeState, Frontier, Graph
from modelyard.workflow.node import RunContext, Services
from modelyard.workflow.thinking import ThinkFilter, split_thinking
from modelyard.workflow.variables import (
    VariablePool,
    WorkflowError,
    from_object,
    to_object,
)
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("node-cases")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, dict[str, list[str]]]:
    """Generate an acyclic graph, and the handles of each node."""
    count = draw(st.integers(1, 14))
    names = [f"n{index}" for index in range(count)]
    handles = {
        name: draw(st.sampled_from([[SOURCE], [SOURCE], ["a", "b"], ["a", "b", "c"]]))
        for name in names
    }
    edges: list[Edge] = []
    for index, name in enumerate(names):
        for target in names[index + 1 :]:
            if draw(st.integers(0, 3)) == 0:
                edges.append(Edge(name, target, draw(st.sampled_from(handles[name]))))
    return Graph(
        root="n0", nodes={name: object() for name in names}, edges=tuple(edges)
    ), handles


@given(graphs(), st.randoms(use_true_random=False))
def test_every_reachable_node_runs_exactly_once(
    made: tuple[Graph, dict[str, list[str]]], choose: random.Random
):
    graph, handles = made
    frontier = Frontier(graph)
    ready, ran, chosen_handles = frontier.start(), list[str](), dict[str, str | None]()
    while ready:
        node = ready.pop(choose.randrange(len(ready)))
        ran.append(node)
        chosen_handles[node] = (
            choose.choice(handles[node]) if handles[node] != [SOURCE] else None
        )
        ready += frontier.finish(node, chosen_handles[node]).ready
    assert len(ran) == len(set(ran))
    assert EdgeState.UNKNOWN not in frontier.edges
    # The executed nodes are those that a walk along the taken edges reaches, in any
    # order.
    reached, todo = {"n0"}, ["n0"]
    while todo:
        node = todo.pop()
        for edge_index in graph.outgoing[node]:
            edge = graph.edges[edge_index]
            if (
                chosen_handles[node] is None or edge.handle == chosen_handles[node]
            ) and edge.target not in reached:
                reached.add(edge.target)
                todo.append(edge.target)
    assert set(ran) == reached
    assert frontier.skipped | set(ran) | (set(graph.nodes) - graph.reachable) == set(
        graph.nodes
    )
    assert not frontier.skipped & set(ran)


@pytest.mark.parametrize(
    ("edges", "finished", "ready"),
    [
        pytest.param(
            ["start > a", "start > if", "a > join", "if:x > join"],
            ["start", "a", "if:y"],
            ["join"],
            id="after_a_taken_edge_the_last_one_is_skipped",
        ),
        pytest.param(
            [
                "start:x > a",
                "start:x > b",
                "a > c",
                "b > c",
                "c > join",
                "start:y > d",
                "d > join",
            ],
            ["start:y", "d"],
            ["join"],
            id="behind_two_skipped_branches",
        ),
        pytest.param(
            ["start > a", "unconnected > a"],
            ["start"],
            ["a"],
            id="with_an_edge_from_an_unconnected_node",
        ),
        pytest.param(
            ["start > a", "start > if", "if:x > b", "b > join", "a > join"],
            ["start", "if:y"],
            [],
            id="while_another_edge_is_undecided",
        ),
    ],
)
def test_a_node_is_ready_once_all_its_edges_are_decided_and_one_is_taken(
    edges: list[str], finished: list[str], ready: list[str]
):
    """The last node to finish makes these nodes ready, and none of them is skipped."""
    parsed_edges: list[Edge] = []
    for edge in edges:
        left, _, target = edge.partition(" > ")
        source, _, handle = left.partition(":")
        parsed_edges.append(Edge(source, target, handle or SOURCE))
    names = dict.fromkeys(
        name for edge in parsed_edges for name in (edge.source, edge.target)
    )
    graph = Graph(
        root="start", nodes=dict.fromkeys(names, object()), edges=parsed_edges
    )
    frontier = Frontier(graph)
    last_ready: list[str] = []
    for node in finished:
        name, _, handle = node.partition(":")
        last_ready = frontier.finish(name, handle or None).ready
    assert last_ready == ready
    assert not frontier.skipped & {*ready, "join"}


@given(graphs())
def test_a_node_cannot_be_finished_twice_or_before_it_ran(
    made: tuple[Graph, dict[str, list[str]]],
):
    graph, _ = made
    frontier = Frontier(graph)
    frontier.finish("n0")
    with pytest.raises(WorkflowError, match="is not running"):
        frontier.finish("n0")


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("a", "b"), ("b", "c"), ("c", "b")], "Cycle in graph: 'b', 'c'"),
        ([("a", "a")], "Cycle in graph: 'a'"),
        ([("a", "z")], "refers to an unknown node"),
    ],
)
def test_an_invalid_graph_is_refused(edges: list[tuple[str, str]], message: str):
    with pytest.raises(WorkflowError, match=message):
        Graph(
            root="a",
            nodes=dict.fromkeys("abc", object()),
            edges=[Edge(*edge) for edge in edges],
        )


def test_a_ladder_of_diamonds_does_not_enumerate_its_paths():
    nodes: dict[str, Any] = {"start": {"type": "start"}}
    edges: list[str] = []
    previous_node = "start"
    for index in range(60):
        for side in "ab":
            nodes[f"{side}{index}"] = {
                "type": "template-transform",
                "template": side,
                "variables": [],
            }
            edges.append(f"{previous_node} > {side}{index}")
        nodes[f"j{index}"] = {
            "type": "variable-aggregator",
            "variables": [[f"a{index}", "output"]],
        }
        edges += [f"a{index} > j{index}", f"b{index} > j{index}"]
        previous_node = f"j{index}"
    nodes["answer"] = {"type": "answer", "answer": "{{#" + previous_node + ".output#}}"}
    app = app_of(nodes, [*edges, f"{previous_node} > answer"], mode="advanced-chat")
    outcome, _ = run(app)
    assert outcome.outputs["answer"] == "a"


class _Sandbox:
    def render_in_process(
        self, template: str, variables: Any, *, max_chars: int
    ) -> str | None:
        return render_in_process(template, variables, max_chars=max_chars)


def run(app: Any, recorder: Any = None, **inputs: Any) -> tuple[Any, list[AnyEvent]]:
    async def work() -> tuple[Any, list[AnyEvent]]:
        events: list[AnyEvent] = []
        context = RunContext(run_id="r", services=Services(sandbox=_Sandbox()))  # type: ignore[arg-type]
        pool = VariablePool({app.roots[0]: inputs, "sys": {"query": "q", "files": []}})
        engine = GraphEngine(
            app.graph(), pool, context, events.append, recorder=recorder
        )
        return await engine.execute(), events

    return asyncio.run(work())


@given(
    st.lists(st.sampled_from(["t0", "t1", "t2", "t3"]), min_size=1, max_size=6),
    st.integers(0, 3),
)
@settings(max_examples=50)
def test_streamed_text_equals_the_answers(shown_nodes: list[str], behind: int):
    nodes: dict[str, Any] = {"start": {"type": "start"}}
    edges = []
    for index in range(4):
        nodes[f"t{index}"] = {
            "type": "template-transform",
            "template": f"[{index}]",
            "variables": [],
        }
        edges.append(f"start > t{index}" if index else "start > t0")
        edges.append(f"t{index} > answer")
    nodes["answer"] = {
        "type": "answer",
        "answer": "-".join("{{#" + node_id + ".output#}}" for node_id in shown_nodes)
        + f"+{behind}",
    }
    outcome, events = run(app_of(nodes, edges, mode="advanced-chat"))
    streamed_text = "".join(
        event.chunk for event in events if isinstance(event, NodeRunStreamChunk)
    )
    assert streamed_text == outcome.outputs["answer"]


# ------------------------------------------------------------------------------- replay


class _Recorder:
    def __init__(
        self, steps: Sequence[Step] = (), shown_text: str | None = None
    ) -> None:
        self.kept: list[Step] = []
        self._steps = steps
        self._said = shown_text

    def steps(self, path: str) -> list[Step]:
        return [
            step
            for step in self._steps
            if step.key[: len(step.key) - len(step.node_id)] == path
        ]

    def was_started(self, key: str) -> bool:
        return False

    async def mark_started(self, key: str) -> None: ...

    def record(self, step: Step) -> None:
        self.kept.append(step)

    async def confirm(self) -> None:
        return None

    def shown_text(self) -> str | None:
        return self._said


REPLAYED = {
    "start": {"type": "start", "variables": [{"variable": "l", "type": "json_object"}]},
    "a": {"type": "template-transform", "template": "A", "variables": []},
    "b": {"type": "template-transform", "template": "B{{ x }}", "variables": [{"variable": "x", "value_selector": ["a", "output"]}]},
    "if": {"type": "if-else", "cases": [{"case_id": "y", "logical_operator": "and", "conditions": [{"variable_selector": ["b", "output"], "comparison_operator": "is", "value": "BA"}]}]},
    "it": {"type": "iteration", "iterator_selector": ["start", "l", "items"], "output_selector": ["w", "output"], "start_node_id": "w"},
    "w": {"type": "template-transform", "in": "it", "template": "<{{ x }}>", "variables": [{"variable": "x", "value_selector": ["it", "item"]}]},
    "loop": {"type": "loop", "loop_count": 3, "start_node_id": "add", "loop_variables": [{"label": "n", "var_type": "number", "value_type": "constant", "value": 0}]},
    "add": {"type": "assigner", "version": "2", "in": "loop", "items": [{"variable_selector": ["loop", "n"], "input_type": "constant", "operation": "+=", "value": 2}]},
    "no": {"type": "answer", "answer": "no"},
    "answer": {"type": "answer", "answer": "{{#b.output#}} {{#it.output#}} {{#loop.n#}}"},
}  # fmt: skip
EDGES = [
    "start > a",
    "a > b",
    "b > if",
    "if:y > it",
    "if:false > no",
    "it > loop",
    "loop > answer",
]


@given(st.integers(0, 30))
@settings(max_examples=31, deadline=None)
def test_a_run_resumed_at_any_step_has_the_same_outcome(cut: int):
    app = app_of(REPLAYED, EDGES, mode="advanced-chat")
    full_recorder = _Recorder()
    outcome, _ = run(app, full_recorder, l={"items": ["x", "y", "z"]})
    assert outcome.outputs["answer"] == "BA - <x>\n- <y>\n- <z> 6"
    steps = full_recorder.kept[:cut]
    resumed_recorder = _Recorder(steps, shown_text="")
    resumed, events = run(app, resumed_recorder, l={"items": ["x", "y", "z"]})
    assert (resumed.status, resumed.outputs) == (Status.SUCCEEDED, outcome.outputs)
    replayed_keys = {step.key for step in steps}
    assert not [step.key for step in resumed_recorder.kept if step.key in replayed_keys]
    assert {step.key for step in resumed_recorder.kept} | replayed_keys == {
        step.key for step in full_recorder.kept
    }
    displayed_text = ""
    for event in events:
        if isinstance(event, NodeRunStreamChunk):
            displayed_text += event.chunk
        elif type(event).__name__ == "TextReplaced":
            displayed_text = event.text  # type: ignore[union-attr]
    assert displayed_text == outcome.outputs["answer"]


@pytest.mark.parametrize(
    ("shown_text", "replaced"), [("BA - <x> 6", []), ("BA", ["BA - <x> 6"])]
)
def test_shown_text_is_not_repeated_and_is_replaced_if_it_differs(
    shown_text: str, replaced: list[str]
):
    app = app_of(REPLAYED, EDGES, mode="advanced-chat")
    full_recorder = _Recorder()
    run(app, full_recorder, l={"items": ["x"]})
    _, events = run(
        app, _Recorder(full_recorder.kept, shown_text=shown_text), l={"items": ["x"]}
    )
    assert not [event for event in events if isinstance(event, NodeRunStreamChunk)]
    assert [
        event.text for event in events if isinstance(event, TextReplaced)
    ] == replaced


def test_a_resumed_run_has_the_tokens_of_all_that_ran(bench: Bench):
    """Tokens are complete wherever the run was interrupted.

    A finished container counts as a whole, an unfinished one by its inner nodes.
    """
    app = app_of(
        {
            "start": {"type": "start", "variables": [{"variable": "l", "type": "json_object"}]},
            "it": {"type": "iteration", "iterator_selector": ["start", "l", "items"], "output_selector": ["llm", "text"], "start_node_id": "llm"},
            "llm": {"type": "llm", "in": "it", "prompt_template": [{"role": "user", "text": "{{#it.item#}}"}]},
            "end": {"type": "end", "outputs": []},
        },
        ["start > it", "it > end"],
    )  # fmt: skip

    async def tokens_of(recorder: _Recorder) -> int:
        context = RunContext(run_id="r", services=bench.services(app))
        pool = VariablePool({"start": {"l": {"items": ["x", "y"]}}, "sys": {}})
        engine = GraphEngine(
            app.graph(), pool, context, lambda event: None, recorder=recorder
        )
        assert (await engine.execute()).status is Status.SUCCEEDED
        return context.tokens

    full_recorder = _Recorder()
    all_tokens = bench.do(tokens_of(full_recorder))
    steps = full_recorder.kept
    assert all_tokens > 0
    assert [step.node_id for step in steps] == ["start", "llm", "llm", "it", "end"]
    for cut in range(len(steps) + 1):
        assert bench.do(tokens_of(_Recorder(steps[:cut]))) == all_tokens, cut


class _StartedRecorder(_Recorder):
    """The recorder of a process that was killed while a node was executing."""

    def was_started(self, key: str) -> bool:
        return key == "pay"


@pytest.mark.parametrize(
    ("on_resume", "recorder", "status", "calls"),
    [
        ("fail", _StartedRecorder(), Status.FAILED, 0),
        ("repeat", _StartedRecorder(), Status.SUCCEEDED, 1),
        ("fail", _Recorder(), Status.SUCCEEDED, 1),
    ],
)
def test_a_node_that_may_have_acted_is_repeated_only_where_it_may_be(
    on_resume: str, recorder: _Recorder, status: Status, calls: int
):
    tool_data = {"type": "tool", "provider_id": "bank", "tool_name": "pay"}
    app = app_of(
        {
            "start": {"type": "start"},
            "pay": {**tool_data, "on_resume": on_resume},
            "end": {"type": "end", "outputs": []},
        },
        ["start > pay", "pay > end"],
    )
    tools = StubTools()

    async def work() -> Outcome:
        context = RunContext(run_id="r", services=Services(tools=tools))
        pool = VariablePool({"start": {}, "sys": {}})
        engine = GraphEngine(
            app.graph(), pool, context, lambda event: None, recorder=recorder
        )
        return await engine.execute()

    outcome = asyncio.run(work())
    assert (outcome.status, len(tools.seen)) == (status, calls)
    if status is Status.FAILED:
        assert outcome.error_type == "InterruptedStep"


# -------------------------------------------------------------------------------- texts

PIECES = [
    "a", " ", "\n", "{{ x }}", "{{ n }}", "{{ l }}", "{{ d.k }}", "{{ d['k'] }}", "{{ gone }}", "{{ l[0] }}", "{{ l[9] }}",
    "{{ x|upper }}", "{{ x|default('d') }}", "{{ gone|default('d') }}", "{{ l|join(', ') }}", "{{ l|length }}",
    "{{ n + 1 }}", "{{ n - 1 }}", "{{ x ~ n }}", "{{ 'y' if n > 2 else 'z' }}", "{{ n > 1 and x }}", "{{ not n }}",
    "{% if n == 3 %}three{% elif gone %}g{% else %}other{% endif %}", "{% for i in l %}{{ loop.index }}{{ i }}{% endfor %}",
    "{% for i in l if i != 'p' %}{{ i }}{% else %}none{% endfor %}", "{% set y = n %}{{ y }}", "{{ y }}", "{{ none }}",
    "{{ x is defined }}", "{{ gone is defined }}", "{{ 'p' in l }}", "{{ d }}", "{{ x|replace('a', 'bb') }}", "{# note #}",
    "{{ x|trim }}", "{{ l|first }}", "{{ d.items }}", "{{ x * 3 }}", "{{ x.upper() }}", "{%- if n -%} t {%- endif -%}",
    "{{ b }}", "{{ f }}", "{{ d.gone }}", "{{ d.gone.more }}", "{% for i in gone %}x{% endfor %}", "{{ x[0] }}", "{{ -n }}",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.fixed_dictionaries({
        "x": st.sampled_from([" ab ", "", "Ünï"]), "n": st.sampled_from([0, 2, 3]),
        "l": st.lists(st.sampled_from(["p", "q"]), max_size=3), "d": st.just({"k": "v", "o": [1]}),
        "none": st.none(), "b": st.booleans(), "f": st.sampled_from([1.0, 0.25]),
    }),
)  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_in_process_rendering_matches_jinja(template: str, variables: dict[str, Any]):
    rendered = render_in_process(template, variables, max_chars=10_000)
    if rendered is not None:
        assert rendered == ImmutableSandboxedEnvironment().from_string(template).render(
            **variables
        )


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 1000000000 }}", "{% for i in range(100000000) %}x{% endfor %}", "{{ x.__class__ }}",
        "{% for a in l %}{% for b in l %}{% for c in l %}{{ x }}{% endfor %}{% endfor %}{% endfor %}",
        "{% set x = x + x %}" * 60, "{{ x|center(100000000) }}", "{{ l|tojson * 500 }}", "{{ [[[[1]]]]|pprint }}",
        "{{ (" + "(" * 5000 + ")" * 5000 + ") }}", "{% include 'x' %}", "{{ x|replace('a', x)|replace('a', x)|replace('a', x) }}",
    ],
)  # fmt: skip
def test_expensive_templates_are_not_rendered_in_process(template: str):
    assert (
        render_in_process(
            template, {"x": "a" * 1000, "l": list(range(60))}, max_chars=400_000
        )
        is None
    )


def test_in_process_rendering_has_a_step_limit():
    template = "{% for a in l %}{% if a %}{% endif %}{% endfor %}"
    assert render_in_process(template, {"l": [0] * 100}, max_chars=400_000) == ""
    assert render_in_process(template, {"l": [0] * 30_000}, max_chars=400_000) is None


@given(
    st.lists(
        st.sampled_from(
            [
                "<think>",
                "</think>",
                "<thi",
                "nk>",
                "a",
                "\n\n\n",
                "<",
                "<THINK x>",
                " b",
            ]
        ),
        max_size=12,
    )
)
def test_thinking_is_separated_in_any_chunking(fragments: list[str]):
    text = "".join(fragments)
    filter_ = ThinkFilter()
    thought, answer_text = "", ""
    for fragment in fragments:
        delta = filter_.feed(fragment)
        thought, answer_text = thought + delta[0], answer_text + delta[1]
    delta = filter_.finish()
    thought, answer_text = thought + delta[0], answer_text + delta[1]
    single_filter = ThinkFilter()
    fed_parts, finished_parts = single_filter.feed(text), single_filter.finish()
    assert (thought, answer_text) == (
        fed_parts[0] + finished_parts[0],
        fed_parts[1] + finished_parts[1],
    )
    # Reasoning that does not end is the answer if there is no other.
    is_unclosed = single_filter.is_open and not answer_text.strip()
    assert split_thinking(text)[0] == ("" if is_unclosed else thought.strip())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
)


@given(JSON)
def test_values_round_trip_through_objects(value: Any):
    assert from_object(to_object(value)) == value
