"""Laws: of the frontier, of answers' order, of templates, of what is replayed."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from modelyard.jail.templates import render_now
from modelyard.workflow.engine import GraphEngine, Status, Step
from modelyard.workflow.events import AnyEvent, NodeRunStreamChunk, TextReplaced
from modelyard.workflow.graph import SOURCE, Edge, EdgeState, Frontier, Graph
from modelyard.workflow.node import RunContext, Services
from modelyard.workflow.thinking import ThinkFilter, separated
from modelyard.workflow.variables import VariablePool, WorkflowError, from_object, to_object
from tests.workflow.building import app_of


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, dict[str, list[str]]]:
    """A graph without circles, and which handles each node has."""
    count = draw(st.integers(1, 14))
    names = [f"n{place}" for place in range(count)]
    handles = {name: draw(st.sampled_from([[SOURCE], [SOURCE], ["a", "b"], ["a", "b", "c"]])) for name in names}
    edges: list[Edge] = []
    for place, name in enumerate(names):
        for target in names[place + 1 :]:
            if draw(st.integers(0, 3)) == 0:
                edges.append(Edge(name, target, draw(st.sampled_from(handles[name]))))
    return Graph(root="n0", nodes={name: object() for name in names}, edges=tuple(edges)), handles


@given(graphs(), st.randoms(use_true_random=False))
def test_every_node_runs_at_most_once_and_none_is_forgotten(
    made: tuple[Graph, dict[str, list[str]]], choose: random.Random
):
    graph, handles = made
    frontier = Frontier(graph)
    ready, ran, chosen = frontier.start(), list[str](), dict[str, str | None]()
    while ready:
        node = ready.pop(choose.randrange(len(ready)))
        ran.append(node)
        chosen[node] = choose.choice(handles[node]) if handles[node] != [SOURCE] else None
        ready += frontier.finish(node, chosen[node]).ready
    assert len(ran) == len(set(ran))
    assert EdgeState.UNKNOWN not in frontier.edges
    # What ran is what a walk along the taken edges reaches, whatever the order.
    reached, todo = {"n0"}, ["n0"]
    while todo:
        node = todo.pop()
        for place in graph.outgoing[node]:
            edge = graph.edges[place]
            if (chosen[node] is None or edge.handle == chosen[node]) and edge.target not in reached:
                reached.add(edge.target)
                todo.append(edge.target)
    assert set(ran) == reached
    assert frontier.skipped | set(ran) | (set(graph.nodes) - graph.reachable) == set(graph.nodes)
    assert not frontier.skipped & set(ran)


@given(graphs())
def test_a_node_cannot_be_finished_twice_or_before_it_ran(made: tuple[Graph, dict[str, list[str]]]):
    graph, _ = made
    frontier = Frontier(graph)
    frontier.finish("n0")
    with pytest.raises(WorkflowError, match="was not running"):
        frontier.finish("n0")


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("a", "b"), ("b", "c"), ("c", "b")], "make a circle through 'b', 'c'"),
        ([("a", "a")], "make a circle through 'a'"),
        ([("a", "z")], "names a node that is not there"),
    ],
)
def test_a_graph_that_cannot_be_run_is_refused(edges: list[tuple[str, str]], message: str):
    with pytest.raises(WorkflowError, match=message):
        Graph(root="a", nodes=dict.fromkeys("abc", object()), edges=[Edge(*one) for one in edges])


def test_a_ladder_of_diamonds_is_answered_without_listing_its_paths():
    nodes: dict[str, Any] = {"start": {"type": "start"}}
    edges: list[str] = []
    before = "start"
    for place in range(60):
        for side in "ab":
            nodes[f"{side}{place}"] = {"type": "template-transform", "template": side, "variables": []}
            edges.append(f"{before} > {side}{place}")
        nodes[f"j{place}"] = {"type": "variable-aggregator", "variables": [[f"a{place}", "output"]]}
        edges += [f"a{place} > j{place}", f"b{place} > j{place}"]
        before = f"j{place}"
    nodes["answer"] = {"type": "answer", "answer": "{{#" + before + ".output#}}"}
    app = app_of(nodes, [*edges, f"{before} > answer"], mode="advanced-chat")
    outcome, _ = run(app)
    assert outcome.outputs["answer"] == "a"


class _Sandbox:
    def render_now(self, template: str, variables: Any, *, most: int) -> str | None:
        return render_now(template, variables, most=most)


def run(app: Any, recorder: Any = None, **inputs: Any) -> tuple[Any, list[AnyEvent]]:
    async def work() -> tuple[Any, list[AnyEvent]]:
        events: list[AnyEvent] = []
        context = RunContext(run_id="r", services=Services(sandbox=_Sandbox()))  # type: ignore[arg-type]
        pool = VariablePool({app.roots[0]: inputs, "sys": {"query": "q", "files": []}})
        engine = GraphEngine(app.graph(), pool, context, events.append, recorder=recorder)
        return await engine.execute(), events

    return asyncio.run(work())


@given(st.lists(st.sampled_from(["t0", "t1", "t2", "t3"]), min_size=1, max_size=6), st.integers(0, 3))
@settings(max_examples=50)
def test_what_is_said_is_what_the_answers_are(shown: list[str], behind: int):
    nodes: dict[str, Any] = {"start": {"type": "start"}}
    edges = []
    for place in range(4):
        nodes[f"t{place}"] = {"type": "template-transform", "template": f"[{place}]", "variables": []}
        edges.append(f"start > t{place}" if place else "start > t0")
        edges.append(f"t{place} > answer")
    nodes["answer"] = {"type": "answer", "answer": "-".join("{{#" + one + ".output#}}" for one in shown) + f"+{behind}"}
    outcome, events = run(app_of(nodes, edges, mode="advanced-chat"))
    said = "".join(one.chunk for one in events if isinstance(one, NodeRunStreamChunk))
    assert said == outcome.outputs["answer"]


# ------------------------------------------------------------------------------------------------ replay


class _Recorder:
    def __init__(self, steps: Sequence[Step] = (), said: str | None = None) -> None:
        self.kept: list[Step] = []
        self._steps = steps
        self._said = said

    def steps(self, path: str) -> list[Step]:
        return [one for one in self._steps if one.key[: len(one.key) - len(one.node_id)] == path]

    def was_started(self, key: str) -> bool:
        return False

    async def about_to(self, key: str) -> None: ...

    def record(self, step: Step) -> None:
        self.kept.append(step)

    def said(self) -> str | None:
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
EDGES = ["start > a", "a > b", "b > if", "if:y > it", "if:false > no", "it > loop", "loop > answer"]


@given(st.integers(0, 30))
@settings(max_examples=31, deadline=None)
def test_a_run_that_goes_on_from_any_step_ends_as_if_nothing_had_happened(cut: int):
    app = app_of(REPLAYED, EDGES, mode="advanced-chat")
    whole = _Recorder()
    outcome, _ = run(app, whole, l={"items": ["x", "y", "z"]})
    assert outcome.outputs["answer"] == "BA - <x>\n- <y>\n- <z> 6"
    steps = whole.kept[:cut]
    again = _Recorder(steps, said="")
    resumed, events = run(app, again, l={"items": ["x", "y", "z"]})
    assert (resumed.status, resumed.outputs) == (Status.SUCCEEDED, outcome.outputs)
    done = {one.key for one in steps}
    assert not [one.key for one in again.kept if one.key in done]
    assert {one.key for one in again.kept} | done == {one.key for one in whole.kept}
    said = ""
    for event in events:
        if isinstance(event, NodeRunStreamChunk):
            said += event.chunk
        elif type(event).__name__ == "TextReplaced":
            said = event.text  # type: ignore[union-attr]
    assert said == outcome.outputs["answer"]


@pytest.mark.parametrize(("shown", "replaced"), [("BA - <x> 6", []), ("BA", ["BA - <x> 6"])])
def test_what_was_shown_before_is_not_said_twice_and_is_taken_back_where_it_differs(shown: str, replaced: list[str]):
    app = app_of(REPLAYED, EDGES, mode="advanced-chat")
    whole = _Recorder()
    run(app, whole, l={"items": ["x"]})
    _, events = run(app, _Recorder(whole.kept, said=shown), l={"items": ["x"]})
    assert not [event for event in events if isinstance(event, NodeRunStreamChunk)]
    assert [event.text for event in events if isinstance(event, TextReplaced)] == replaced


# ------------------------------------------------------------------------------------------------ texts

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
def test_a_template_rendered_here_is_what_jinja_makes_of_it(template: str, variables: dict[str, Any]):
    here = render_now(template, variables, most=10_000)
    if here is not None:
        assert here == ImmutableSandboxedEnvironment().from_string(template).render(**variables)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 1000000000 }}", "{% for i in range(100000000) %}x{% endfor %}", "{{ x.__class__ }}",
        "{% for a in l %}{% for b in l %}{% for c in l %}{{ x }}{% endfor %}{% endfor %}{% endfor %}",
        "{% set x = x + x %}" * 60, "{{ x|center(100000000) }}", "{{ l|tojson * 500 }}", "{{ [[[[1]]]]|pprint }}",
        "{{ (" + "(" * 5000 + ")" * 5000 + ") }}", "{% include 'x' %}", "{{ x|replace('a', x)|replace('a', x)|replace('a', x) }}",
    ],
)  # fmt: skip
def test_what_could_take_long_is_not_rendered_here(template: str):
    assert render_now(template, {"x": "a" * 1000, "l": list(range(60))}, most=400_000) is None


def test_a_template_takes_so_many_steps_here_and_no_more():
    template = "{% for a in l %}{% if a %}{% endif %}{% endfor %}"
    assert render_now(template, {"l": [0] * 100}, most=400_000) == ""
    assert render_now(template, {"l": [0] * 30_000}, most=400_000) is None


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<thi", "nk>", "a", "\n\n\n", "<", "<THINK x>", " b"]), max_size=12
    )
)
def test_thoughts_come_apart_alike_however_the_text_is_cut(pieces: list[str]):
    text = "".join(pieces)
    filter_ = ThinkFilter()
    thought, said = "", ""
    for piece in pieces:
        more = filter_.feed(piece)
        thought, said = thought + more[0], said + more[1]
    more = filter_.finish()
    thought, said = thought + more[0], said + more[1]
    whole = ThinkFilter()
    one, other = whole.feed(text), whole.finish()
    assert (thought, said) == (one[0] + other[0], one[1] + other[1])
    assert separated(text)[0] == thought.strip()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(JSON)
def test_values_go_to_objects_and_back(value: Any):
    assert from_object(to_object(value)) == value
