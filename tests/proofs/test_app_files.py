"""The proof `app-files` can fail: whatever of a run is corrupted, it finds."""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tools.show import app_files
from tools.show.app_files.checks import findings
from tools.show.app_files.corpus import Case, cases
from tools.show.app_files.imports import unnamed_needs
from tools.show.app_files.runs import Shown
from tools.show.app_files.values import render
from tools.show.app_files.walk import Expected, ExpectedCall, Observed, Reviewed
from tools.show.app_files.world import Call, Message

from modelyard.workflow import nodes
from modelyard.workflow.dsl import load
from modelyard.workflow.node import NodeContext, NodeResult

FILES = (
    "knowledge.yml",
    "files.yml",
    "http.yml",
    "agent-jobs.yml",
    "chat.yml",
    "assigners.yml",
)
"""Files that ask models, datasets, addresses and agents; some are chats."""

INSERTED = (
    "as given",
    "What is {{this}}?",
    "Text in paper.txt",
    "Segment",
    "Model answer",
)
"""Texts that come into prompts from inputs, files, datasets and earlier answers."""

Observation = tuple[Case, Shown, Expected]


async def _observe() -> list[Observation]:
    selected = [case for case in cases() if case.name in FILES]
    async with app_files.scripted_yard() as (yard, model):
        return [
            (case, shown, expected)
            for case in selected
            for shown, expected in await app_files.observe(
                yard, model, case, load(case.path, app_files.MAPPING)
            )
        ]


@pytest.fixture(scope="module")
def observations() -> list[Observation]:
    """Return true runs, which the tests corrupt."""
    observations = asyncio.run(_observe())
    assert len(observations) > len(FILES) + 4
    for case, shown, expected in observations:
        assert findings(shown, expected, case.reviewed) == []
    return observations


def problems_with(observation: Observation, **changes: Any) -> list[str]:
    case, shown, expected = observation
    return findings(replace(shown, **changes), expected, case.reviewed)


@pytest.mark.parametrize("value", [None, "", [], {}, "something else", 0, False])
def test_another_value_of_any_output_is_found(
    observations: list[Observation], value: Any
):
    for observation in observations:
        outputs = observation[1].outputs
        for name in outputs:
            if json.dumps(outputs[name]) != json.dumps(value):
                problems = problems_with(observation, outputs={**outputs, name: value})
                assert any(name in problem for problem in problems), name


def test_missing_additional_and_swapped_outputs_are_found(
    observations: list[Observation],
):
    for observation in observations:
        outputs = observation[1].outputs
        names = list(outputs)
        for name in names:
            fewer = {key: outputs[key] for key in names if key != name}
            assert (
                f"output {name} is missing"
                in problems_with(observation, outputs=fewer)[0]
            )
        for first, second in itertools.pairwise(names):
            swapped = {**outputs, first: outputs[second], second: outputs[first]}
            assert problems_with(observation, outputs=swapped)
        assert problems_with(observation, outputs={**outputs, "more": 1})


def test_a_truncated_text_is_found(observations: list[Observation]):
    count = 0
    for observation in observations:
        outputs = observation[1].outputs
        for name, value in outputs.items():
            if isinstance(value, str):
                count += 1
                assert problems_with(observation, outputs={**outputs, name: value[:-1]})
    assert count > 5


def test_another_streamed_text_is_found(observations: list[Observation]):
    observation = next(
        candidate for candidate in observations if candidate[0].name == "knowledge.yml"
    )
    answer = observation[1].said
    assert answer == observation[1].outputs["answer"]
    for other_answer in ("", answer[:-1], answer + answer):
        assert problems_with(observation, said=other_answer)


def _with_message(calls: list[Call], index: int, message: Message | None) -> list[Call]:
    """Return calls in which the last message of one is another one, or left out."""
    messages = [*calls[index].asked[:-1], *([message] if message else [])]
    return [*calls[:index], Call("model", messages), *calls[index + 1 :]]


def _model_calls(shown: Shown) -> Iterator[tuple[int, list[Message]]]:
    for index, call in enumerate(shown.calls):
        if call.target == "model":
            yield index, call.asked


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda message: message._replace(text=""),
        lambda message: message._replace(text=" \n"),
        lambda message: None,
    ],
    ids=["empty", "blank", "missing"],
)
def test_an_empty_message_to_a_model_is_found(
    observations: list[Observation], corrupt: Callable[[Message], Message | None]
):
    for observation in observations:
        shown = observation[1]
        for index, messages in _model_calls(shown):
            calls = _with_message(shown.calls, index, corrupt(messages[-1]))
            assert problems_with(observation, calls=calls)


def test_a_question_that_asks_nothing_is_found_even_if_it_is_expected():
    nothing = [Message("system", " ", 0), Message("user", "", 0)]
    shown = Shown(
        "succeeded", {}, "", [Call("model", nothing)], [], _nothing_observed()
    )
    expected = Expected("succeeded", {}, [_exact(nothing)], [], [])
    assert findings(shown, expected, Reviewed()) == ["a model is asked nothing"]


def test_an_input_that_is_dropped_from_a_prompt_is_found(
    observations: list[Observation],
):
    dropped = 0
    for observation in observations:
        shown = observation[1]
        for index, messages in _model_calls(shown):
            for number, text in itertools.product(range(len(messages)), INSERTED):
                changed = list(messages)
                if text not in changed[number].text:
                    continue
                dropped += 1
                shorter = changed[number].text.replace(text, "")
                changed[number] = changed[number]._replace(text=shorter)
                calls = [*shown.calls]
                calls[index] = Call("model", changed)
                assert problems_with(observation, calls=calls)
    assert dropped > 10


def test_a_file_that_is_not_sent_is_found(observations: list[Observation]):
    [observation] = [
        candidate for candidate in observations if candidate[0].name == "files.yml"
    ]
    [(index, messages)] = _model_calls(observation[1])
    assert messages[-1].files == 1
    without_files = messages[-1]._replace(files=0)
    assert problems_with(
        observation, calls=_with_message(observation[1].calls, index, without_files)
    )


def test_calls_too_many_and_too_few_are_found(observations: list[Observation]):
    for observation in observations:
        calls = observation[1].calls
        for index, call in enumerate(calls):
            assert problems_with(
                observation, calls=[*calls[:index], *calls[index + 1 :]]
            )
            assert problems_with(observation, calls=[*calls, call])


def test_another_part_of_a_request_is_found(observations: list[Observation]):
    [observation] = [
        candidate for candidate in observations if candidate[0].name == "http.yml"
    ]
    calls = observation[1].calls
    for index, call in enumerate(calls):
        for name in ("method", "address", "query", "headers", "body"):
            if call.asked[name]:
                changed_call = Call("http", {**call.asked, name: None})
                assert problems_with(
                    observation,
                    calls=[*calls[:index], changed_call, *calls[index + 1 :]],
                )


def test_another_conversation_variable_is_found(observations: list[Observation]):
    assigner_observations = [
        assigner_observations
        for assigner_observations in observations
        if assigner_observations[0].name == "assigners.yml"
    ]
    assert len(assigner_observations) == 3
    for observation in assigner_observations:
        variables = observation[1].conversation
        for name in variables:
            for changes in ({name: "another"}, {name: None}):
                assert problems_with(observation, conversation={**variables, **changes})
        assert problems_with(observation, conversation={})


def test_another_status_and_other_nodes_are_found(observations: list[Observation]):
    for observation in observations:
        assert problems_with(observation, status="failed", error="why")
        ran = observation[1].ran
        assert problems_with(observation, ran=[*ran, "more"])
        if observation[2].ran is not ran:
            assert problems_with(observation, ran=ran[1:])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(JSON, JSON)
@example(0, False)
@example([1], [1.0])
def test_two_values_count_as_equal_only_if_they_are(left: Any, right: Any):
    shown = Shown("succeeded", {"x": left}, "", [], [], _nothing_observed())
    expected = Expected("succeeded", {"x": right}, [], [], [])
    reviewed = Reviewed(empty={"x": "any"} if right in (None, "", [], {}) else {})
    is_same = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert (findings(shown, expected, reviewed) == []) == is_same


def test_what_nobody_has_read_is_found(observations: list[Observation]):
    case, shown, expected = observations[0]
    nothing = replace(expected, outputs=dict.fromkeys(expected.outputs))
    empty = replace(shown, outputs=dict.fromkeys(shown.outputs))
    # An output that the file leaves empty needs a reason, and a reason an empty output.
    assert any(
        "nothing says why" in line for line in findings(empty, nothing, case.reviewed)
    )
    wrongly = Reviewed(empty={"answer": "a reason"})
    assert findings(shown, expected, wrongly)
    assert findings(shown, expected, Reviewed(ends="failed"))
    assert findings(shown, expected, Reviewed(error="no such error"))
    noted = replace(expected, problems=["not reviewed"])
    assert findings(shown, noted, case.reviewed) == ["not reviewed"]


def _problems(name: str) -> list[str]:
    """Return what the proof finds in one file."""
    selected = [case for case in cases() if case.name == name]
    [result] = asyncio.run(app_files.run_all(selected))
    return result.problems


def test_an_end_node_without_values_makes_the_proof_fail(
    monkeypatch: pytest.MonkeyPatch,
):
    def compute(self: Any, context: NodeContext) -> NodeResult:
        return NodeResult(outputs=dict.fromkeys(o.variable for o in self.data.outputs))

    monkeypatch.setattr(nodes.end.EndNode, "compute", compute)
    problems = _problems("aggregator.yml")
    assert any("output plain is null" in problem for problem in problems)


def test_a_prompt_without_its_inputs_makes_the_proof_fail(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(nodes.llm, "render", lambda text, *_, **__: text)
    problems = _problems("aggregator.yml")
    assert any("other has to ask" in problem for problem in problems)


def _exact(messages: list[Message]) -> ExpectedCall:
    return ExpectedCall("n", "model", messages, True)


def _nothing_observed() -> Observed:
    return Observed()


def test_the_reader_prints_values_as_the_format_does():
    pool = {
        "n": {
            "t": "x",
            "list": ["a", "b"],
            "numbers": [1, True, None],
            "object": {"ü": 1},
        }
    }
    template = "{{#n.t#}} {{#n.list#}} {{#n.numbers#}} {{#n.object#}} {{#n.no#}} {{#n.object.ü#}}"
    printed = 'x ["a", "b"] [1, True, None] {"ü": 1} n.no {{#n.object.ü#}}'
    assert render(template, pool) == printed


@pytest.mark.parametrize(
    "name",
    ["knowledge.yml", "agent-strategy.yml", "agent-app.yml", "chat-knowledge.yml"],
)
def test_a_need_that_the_import_does_not_name_is_found(name: str):
    [case] = [case for case in cases() if case.name == name]
    app = load(case.path, app_files.MAPPING)
    assert unnamed_needs(case.app, app) == []
    app.levels.clear()
    assert unnamed_needs(case.app, app)


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_stored_run_ends_as_the_engines_own(is_interrupted: bool):
    names = ("iterations.yml", "failures.yml", "files.yml", "http.yml", "defaults.yml")
    selected = [case for case in cases() if case.name in names and not case.is_variant]
    stored = app_files.run_stored(selected, is_interrupted=is_interrupted)
    count, differing = asyncio.run(stored)
    assert (count > 3, differing) == (True, {})


def test_a_stored_run_that_differs_is_found(monkeypatch: pytest.MonkeyPatch):
    (case,) = [
        case for case in cases() if case.name == "http.yml" and not case.is_variant
    ]
    real = app_files.stored.run_app

    async def changed(*arguments: Any) -> Shown:
        shown = await real(*arguments)
        name = next(iter(shown.outputs))
        return replace(shown, outputs={**shown.outputs, name: "another"})

    monkeypatch.setattr(app_files.stored, "run_app", changed)
    _, differing = asyncio.run(app_files.run_stored([case], is_interrupted=False))
    assert "other outputs" in differing["http.yml"]
