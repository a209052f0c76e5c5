"""Structured output of models that do not keep to the form."""

import asyncio
from typing import Any

import pytest

from modelyard.workflow.engine import Outcome, Status
from modelyard.workflow.events import AnyEvent, NodeRunFailed
from modelyard.workflow.structured_output import (
    StructuredOutputError,
    parsed_json,
    structured_output,
)
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("workflow-cases")

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}
LIST_SCHEMA = {"type": "array", "items": {"type": "string"}}

ODD_ANSWERS = [
    ('```json\n{"name": "Ann"}\n```', ["code fence removed"]),
    ('Sure!\n```\n{"name": "Ann"}\n```\nBye', ["code fence removed"]),
    ('```JSON\r\n{"name": "Ann"}\r\n```', ["code fence removed"]),
    ('{"name": "Ann",}', ["JSON repaired"]),
    ("{'name': 'Ann'}", ["JSON repaired"]),
    ('{name: "Ann"}', ["JSON repaired"]),
    ('Here it is: {"name": "Ann"}', ["JSON repaired"]),
    ('{"name": "Ann"', ["JSON repaired"]),
    ('<think>{"name": "Bob"}</think>\n{"name": "Ann"}', ["reasoning removed"]),
    ('[{"name": "Ann"}]', ["list removed"]),
    (
        "<think>hm</think>```json\n{'name': 'Ann',}\n```",
        ["reasoning removed", "code fence removed", "JSON repaired"],
    ),
    ('{"name": "Ann"}', []),
    ('  {"name": "Ann"}\n', []),
]


def run_llm(bench: Bench, answer: str) -> tuple[Outcome, list[AnyEvent]]:
    bench.model.answers.append((".", answer))
    llm = {
        "type": "llm",
        "prompt_template": [{"role": "user", "text": "answer"}],
        "structured_output_enabled": True,
        "structured_output": {"schema": SCHEMA},
    }
    end = {"type": "end", "outputs": [{"variable": "n", "value_selector": ["m", "structured_output", "name"]}]}  # fmt: skip
    app = app_of(
        {"start": {"type": "start"}, "m": llm, "end": end}, ["start > m", "m > end"]
    )
    return bench.run(app)


@pytest.mark.parametrize(("answer", "repairs"), ODD_ANSWERS)
def test_an_answer_is_mended_and_the_node_says_how(
    bench: Bench, answer: str, repairs: list[str]
):
    outcome, events = run_llm(bench, answer)
    assert outcome.outputs == {"n": "Ann"}, outcome.error
    [ended] = [
        event
        for event in events
        if getattr(event, "node_id", "") == "m" and hasattr(event, "process_data")
    ]
    process = ended.process_data  # type: ignore[union-attr]
    assert process.get("structured_output_repairs", []) == repairs


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("I do not know", "Failed to parse structured output"),
        ("", "Failed to parse structured output"),
        ('{"name": 5}', "name"),
        ('```json\n{"other": "Ann"}\n```', "name"),
        ("[]", "the answer"),
    ],
)
def test_an_answer_that_does_not_match_fails_the_node(
    bench: Bench, answer: str, message: str
):
    outcome, events = run_llm(bench, answer)
    assert outcome.status is Status.FAILED
    assert message in outcome.error
    [failed] = [event for event in events if isinstance(event, NodeRunFailed)]
    assert failed.error_type == "OutputParserError"


@pytest.mark.parametrize("answer", ['["a", "b"]', '```\n["a", "b",]\n```'])
def test_a_schema_may_ask_for_a_list(answer: str):
    value, _ = asyncio.run(structured_output(answer, LIST_SCHEMA))
    assert value == ["a", "b"]


def test_a_fence_inside_a_value_stays():
    value: Any = {"name": "```json\n{}\n```"}
    answer = '{"name": "```json\\n{}\\n```"}'
    assert asyncio.run(structured_output(answer, SCHEMA)) == (value, [])


def test_hostile_answers_are_refused():
    for answer in ("[" * 100_000, "{" * 70_000, "x" * 100_000):
        with pytest.raises(StructuredOutputError):
            parsed_json(answer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("2", "2"),
        ("second", "2"),
        ('"second".', "2"),
        ("{'category_id': '2', 'category_name': 'second'}", "2"),
        ('```json\n{"category_id": 2, "category_name": "second"}\n```', "2"),
        ('<think>1</think>{"category_id": "2", "category_name": "x",}', "2"),
        ('{"category_id": "9", "category_name": "x"}', "1"),
    ],
)
def test_a_classifier_understands_the_same_answers(
    bench: Bench, answer: str, expected: str
):
    bench.model.answers.append((".", answer))
    classes = [{"id": "1", "name": "first"}, {"id": "2", "name": "second"}]
    app = app_of(
        {
            "start": {"type": "start"},
            "c": {"type": "question-classifier", "query_variable_selector": ["sys", "workflow_run_id"], "classes": classes},
            "one": {"type": "end", "outputs": [{"variable": "id", "value_selector": ["c", "class_id"]}]},
            "two": {"type": "end", "outputs": [{"variable": "id", "value_selector": ["c", "class_id"]}]},
        },
        ["start > c", "c:1 > one", "c:2 > two"],
    )  # fmt: skip
    outcome, _ = bench.run(app)
    assert outcome.outputs == {"id": expected}, outcome.error
