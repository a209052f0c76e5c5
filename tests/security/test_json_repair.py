"""Tests for JSON repair: limited effort, and reading time linear in the length."""

import asyncio
import time
from contextlib import suppress

import pytest

from modelyard.agents.react_parser import ReactParser
from modelyard.base.json_repair import (
    MAX_CHARACTERS,
    RepairError,
    repair_json,
    run_in_thread_if_large,
)
from modelyard.tools.entities import ToolParameterError
from modelyard.tools.values import read_arguments
from modelyard.workflow.nodes.parameter_extractor import first_object
from modelyard.workflow.thinking import ThinkFilter

SIZE = 61_000


@pytest.mark.parametrize(("text", "means"), [
    ('{"a": 1,}', {"a": 1}), ("{'a': 'b'}", {"a": "b"}), ('{"a": [1, 2', {"a": [1, 2]}), ("{a: true}", {"a": True}),
    ('```json\n{"a": 1,}\n```', {"a": 1}),
])  # fmt: skip
def test_nearly_valid_json_is_repaired(text: str, means: object):
    assert repair_json(text) == means


HOSTILE = [
    '{"a": "' + '"' * SIZE, '{"a": "' + '",' * (SIZE // 2), '{"a": ' + '"b":' * (SIZE // 4), "{" + "a " * (SIZE // 2),
    '{"a": "' + '\\"' * (SIZE // 2), "[" * SIZE, '{"a": "' + 'b " c ' * (SIZE // 6), "[" + "(" * SIZE,
    "[" + "/*" * (SIZE // 2), '{"a"' + " " * SIZE, '{"a":b' + ' "' * (SIZE // 2), '{"a": "b" "c" ' * (SIZE // 14),
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_text_takes_bounded_work(text: str):
    cpu_start = time.process_time()
    with suppress(RepairError):  # repairing it in time is fine too
        repair_json(text)
    assert time.process_time() - cpu_start < 1  # took minutes before


def test_long_texts_are_repaired_only_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
):
    cut = '{"items": [' + ", ".join(
        '{"name": "a", "text": "some words, here"}' for _ in range(1_000)
    )
    # However slow the machine is.
    monkeypatch.setattr("modelyard.base.json_repair._MAX_SECONDS", 60.0)

    async def mend_both() -> object:
        with pytest.raises(RepairError, match="at most"):
            repair_json(cut)
        assert repair_json('{"a": 1,}') == {"a": 1}
        return await run_in_thread_if_large(len(cut), repair_json, cut)

    repaired = asyncio.run(mend_both())
    assert isinstance(repaired, dict)
    assert len(repaired["items"]) == 1_000


def test_readers_of_model_output_give_up_on_hostile_text():
    assert first_object("{" * (2 << 20)) is None
    with pytest.raises(ToolParameterError, match="at most|more than|must be"):
        read_arguments("[" + "[]," * 200_000 + "1]", {"properties": {"a": {}, "b": {}}})


def test_texts_that_are_too_long_are_not_repaired():
    with pytest.raises(RepairError, match="at most"):
        repair_json("{" + "a" * MAX_CHARACTERS)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "```",
        "```x",
        "Action: ",
        "Action Input: ",
        "Final Answer: ",
        "Final Answer: a",
        '{"a": "',
    ],
)
@pytest.mark.parametrize("filler", ["a", " ", "\n", "`", ":", "{", "["])
def test_the_react_reader_is_linear(prefix: str, filler: str):
    cpu_start = time.process_time()
    reader = ReactParser(["t"])
    for char in prefix + filler * 30_000:
        reader.feed(char)
    reader.finish()
    assert time.process_time() - cpu_start < 3


@pytest.mark.parametrize(
    "fragment", ["<think ", "<", "<think>", "</think ", "<think  ", " "]
)
def test_the_think_filter_is_linear(fragment: str):
    cpu_start = time.process_time()
    reader = ThinkFilter()
    for char in "<think " + fragment * 3_000:
        reader.feed(char)
    ThinkFilter().feed(fragment * 15_000)
    assert time.process_time() - cpu_start < 3
