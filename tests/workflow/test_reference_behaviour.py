"""Small differences from the reference implementation that an app's author would notice:
loops, comparisons, webhooks, unfinished reasoning and empty files."""

from typing import Any

import pytest

from modelyard.workflow.conditions import ConditionError, compare
from modelyard.workflow.engine import Status
from modelyard.workflow.node import NodeError
from modelyard.workflow.nodes.trigger import Parameter, WebhookData, declared_values
from modelyard.workflow.thinking import split_thinking
from modelyard.workflow.variables import File
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

START: dict[str, Any] = {"start": {"type": "start", "variables": []}}


# ------------------------------------------------------------------------------- loops


def loop(bench: Bench, operator: str, *conditions: tuple[list[str], str, Any]) -> Any:
    """Run a loop of at most four rounds, whose variable counts them."""
    breaks = [
        {"variable_selector": selector, "comparison_operator": comparison, "value": value}
        for selector, comparison, value in conditions
    ]  # fmt: skip
    nodes: dict[str, Any] = {
        **START,
        "all": {
            "type": "loop",
            "loop_count": 4,
            "start_node_id": "inner",
            "logical_operator": operator,
            "loop_variables": [{"label": "n", "var_type": "number", "value_type": "constant", "value": "0"}],
            "break_conditions": breaks,
        },
        "inner": {
            "in": "all",
            "type": "assigner",
            "version": "2",
            "items": [{"variable_selector": ["all", "n"], "input_type": "constant", "operation": "+=", "value": 1}],
        },
        "end": {"type": "end", "outputs": [{"variable": "n", "value_selector": ["all", "n"]}]},
    }  # fmt: skip
    outcome, _ = bench.run(app_of(nodes, ["start > all", "all > end"]))
    return outcome


GONE = (["gone", "x"], "=", "1")


def test_a_break_condition_that_cannot_be_evaluated_fails_the_loop(bench: Bench):
    outcome = loop(bench, "and", GONE)
    assert (outcome.status, outcome.error) == (
        Status.FAILED,
        "Break condition after round 1: Variable ['gone', 'x'] not found",
    )


@pytest.mark.parametrize("conditions", [(GONE, (["all", "n"], "=", "2")), ((["all", "n"], "=", "2"), GONE)])  # fmt: skip
def test_one_true_condition_of_several_ends_a_loop(bench: Bench, conditions: Any):
    # The missing variable fails the first round, since no condition is true yet.
    outcome = loop(bench, "or", *conditions)
    assert outcome.status is Status.FAILED
    assert "round 1: Variable ['gone', 'x'] not found" in outcome.error
    first_true = [(["all", "n"], "≥", "1"), GONE]
    for ordered in (first_true, first_true[::-1]):
        outcome = loop(bench, "or", *ordered)
        assert (outcome.status, outcome.outputs) == (Status.SUCCEEDED, {"n": 1})


def test_a_loop_without_conditions_runs_to_its_limit(bench: Bench):
    assert loop(bench, "and").outputs == {"n": 4}


@pytest.mark.parametrize(
    ("actual", "expected", "is_equal"),
    [
        (1, "1.0", True), (1, "1", True), (1, 1.0, True), (1, "1.5", False), (1, 1.5, False),
        (2**60 + 1, str(2**60 + 1), True), (2**60 + 1, str(2**60), False), (1.0, "1", True),
    ],
)  # fmt: skip
def test_numbers_are_equal_however_they_are_written(
    actual: Any, expected: Any, is_equal: bool
):
    assert compare("=", actual, expected) is is_equal
    assert compare("≠", actual, expected) is not is_equal


@pytest.mark.parametrize("expected", ["one", "", None, []])
def test_what_is_no_number_cannot_be_compared_with_one(expected: Any):
    with pytest.raises(ConditionError, match="is not a number"):
        compare("=", 1, expected)


# ---------------------------------------------------------------------------- webhooks

_FITTING: list[tuple[str, Any, Any]] = [
    ("number", 1.5, 1.5), ("number", "2", 2), ("boolean", False, False), ("boolean", "yes", True),
    ("string", "x", "x"), ("object", {"a": 1}, {"a": 1}), ("object", '{"a": 1}', {"a": 1}),
    ("array[number]", [1, 2], [1, 2]), ("array[string]", [], []), ("array[object]", [{"a": 1}], [{"a": 1}]),
    ("file", {"any": 1}, {"any": 1}), ("number", None, None),
]  # fmt: skip
_OTHER: list[tuple[str, Any, str]] = [
    ("number", True, "boolean 'True'"), ("number", "x", "string 'x'"), ("number", [1], "array"),
    ("boolean", 1, "integer '1'"), ("boolean", "maybe", "string 'maybe'"), ("string", 1, "integer '1'"),
    ("object", "[1]", "string '[1]'"), ("object", [], "array"), ("array[string]", ["a", 1], "array"),
    ("array[number]", '["a"]', "string"), ("array[boolean]", {"a": 1}, "object"),
]  # fmt: skip


@pytest.mark.parametrize(("type_name", "value", "converted"), _FITTING)
def test_fields_of_a_webhook_have_their_types(
    type_name: str, value: Any, converted: Any
):
    data = WebhookData(body=[Parameter(name="v", type=type_name)])
    assert declared_values(data, {"v": value}) == {"v": converted}


@pytest.mark.parametrize(("type_name", "value", "described"), _OTHER)
def test_a_field_of_another_type_is_refused(type_name: str, value: Any, described: str):
    data = WebhookData(body=[Parameter(name="v", type=type_name)])
    with pytest.raises(NodeError) as refusal:
        declared_values(data, {"v": value})
    assert str(refusal.value).startswith(f"v must be {type_name}, not {described}")


# --------------------------------------------------------------------------- reasoning


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>all of it", ("", "all of it")),
        ("<think>\n\n", ("", "")),
        ("answer <think>cut", ("cut", "answer")),
        ("<think>a</think>b", ("a", "b")),
        ("<think>a</think><think>cut", ("", "a\ncut")),
    ],
)
def test_reasoning_that_does_not_end_is_the_answer_if_there_is_no_other(
    text: str, parts: tuple[str, str]
):
    assert split_thinking(text) == parts


@pytest.mark.parametrize("reasoning_format", ["tagged", "separated"])
def test_an_answer_with_an_unclosed_tag_is_not_empty(
    bench: Bench, reasoning_format: str
):
    bench.model.answers.append((".", "<think>It is blue."))
    llm = {
        "type": "llm",
        "reasoning_format": reasoning_format,
        "prompt_template": [{"role": "user", "text": "q"}],
    }
    app = app_of(
        {**START, "x": llm, "answer": {"type": "answer", "answer": "{{#x.text#}}"}},
        ["start > x", "x > answer"],
        mode="advanced-chat",
    )
    outcome, _ = bench.run(app, query="q")
    assert outcome.outputs["answer"].removeprefix("<think>") == "It is blue."


# --------------------------------------------------------------------------- empty files


def test_an_empty_file_is_an_empty_part_of_a_form(bench: Bench):
    bench.files.contents["f"] = b""
    request = {
        "type": "http-request",
        "method": "post",
        "url": "http://x.example/",
        "body": {"type": "form-data", "data": [{"key": "doc", "type": "file", "file": ["sys", "files"]}]},
    }  # fmt: skip
    app = app_of({**START, "h": request}, ["start > h"], mode="advanced-chat")
    file = File(type="document", related_id="f", filename="a.txt", extension=".txt")
    outcome, _ = bench.run(app, query="q", files=[file])
    assert outcome.status is Status.SUCCEEDED, outcome.error
    [(_, _, _, body)] = bench.http.seen
    head, _, content = body.partition(b"\r\n\r\n")
    assert b'name="doc"; filename="a.txt"' in head
    assert content.startswith(b"\r\n--")
