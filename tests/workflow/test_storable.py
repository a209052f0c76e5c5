"""Laws for the boundary of a run: whatever a node, a caller or an app file delivers can
be written, or it is an error that names its variable."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.workflow.dsl import DslError, parse_yaml
from modelyard.workflow.events import (
    NodeRunAgentLog,
    dump_event,
    parse_event,
)
from modelyard.workflow.nodes.start import InputError
from modelyard.workflow.storable import (
    UnstorableError,
    loggable,
    loggable_event,
    storable,
    storable_text,
)
from modelyard.workflow.variables import MISSING, File
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("workflow-cases")

# Text of any code points, surrogates and NUL included.
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)
ODD = (
    st.floats()
    | st.integers()
    | st.integers(400, 4000).map(lambda power: 10**power)
    | st.binary(max_size=4)
    | st.frozensets(st.integers(), max_size=2)
    | st.just(MISSING)
    | st.just(File(type="image"))
)
VALUES = st.recursive(
    st.none() | st.booleans() | TEXTS | ODD,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXTS | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_every_value_is_written_or_refused(value: Any):
    try:
        mended = storable(value, "node.output")
    except UnstorableError as error:
        assert "node.output" in str(error)
        return
    text = msgspec.json.encode(mended)
    assert b"\\u0000" not in text
    assert storable(mended, "node.output") == mended


@given(VALUES)
def test_the_log_takes_every_value(value: Any):
    msgspec.json.encode(loggable(value))


@given(TEXTS)
def test_text_changes_only_where_it_cannot_be_stored(text: str):
    mended = storable_text(text)
    expected = [
        "\N{REPLACEMENT CHARACTER}" if "\ud800" <= char <= "\udfff" else char
        for char in text
        if char != "\0"
    ]
    assert mended == "".join(expected)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "is nan, which JSON cannot express"),
        (-math.inf, "is -inf, which JSON cannot express"),
        pytest.param(10**5000, "is an integer of more than 1023 bits", id="huge"),
        (b"x", "has the type 'bytes'"),
        ({1, 2}, "has the type 'set'"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [{"k": value}]])
def test_a_refused_value_is_named(value: Any, reason: str, wrap: Any):
    with pytest.raises(UnstorableError, match="Variable n.x") as caught:
        storable(wrap(value), "n.x")
    assert str(caught.value) == f"Variable n.x {reason}"


def test_nesting_is_limited():
    value: Any = "leaf"
    for _ in range(200):
        value = [value]
    assert storable(value, "n.x") == value
    with pytest.raises(UnstorableError, match="nested deeper than 200 levels"):
        storable([value], "n.x")


def test_keys_become_texts_as_in_json():
    value = {1: "a", None: "b", 2: {2.5: "c", False: "d"}, "\ud800": "e"}
    assert storable(value, "n.x") == {
        "1": "a",
        "null": "b",
        "2": {"2.5": "c", "false": "d"},
        "\N{REPLACEMENT CHARACTER}": "e",
    }


def test_an_event_that_a_node_makes_can_be_written():
    event = NodeRunAgentLog(
        id="x",
        node_id="agent",
        node_type="agent",
        title="a\ud83d",
        data={"huge": 10**5000, "text": "b\udc00", "set": {1}, True: "t"},
        message_id="m",
    )
    written = parse_event(dump_event(loggable_event(event)))
    assert isinstance(written, NodeRunAgentLog)
    assert (written.title, written.data["text"]) == (
        "a\N{REPLACEMENT CHARACTER}",
        "b\N{REPLACEMENT CHARACTER}",
    )


def test_an_ordinary_event_is_not_copied():
    event = NodeRunAgentLog(id="x", node_id="n", node_type="agent", message_id="m")
    assert loggable_event(event) is event


def test_an_app_file_cannot_bring_lone_surrogates_into_a_run():
    with pytest.raises(DslError, match="invalid Unicode"):
        parse_yaml('{"title": "\\ud83d x"}')


@pytest.mark.parametrize("value", [math.nan, math.inf, {"deep": [b"x"]}])
def test_inputs_that_cannot_be_stored_are_refused(bench: Bench, value: Any):
    app = app_of(
        {
            "start": {
                "type": "start",
                "variables": [{"variable": "v", "type": "unknown"}],
            },
            "end": {"type": "end", "outputs": []},
        },
        ["start > end"],
    )
    with pytest.raises(InputError, match="Variable v"):
        bench.run(app, inputs={"v": value})
