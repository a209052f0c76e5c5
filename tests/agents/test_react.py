"""Tests for the ReAct parser: valid and broken replies, in any and random chunking."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.agents.react_parser import Action, ReactParser, parse_action

pytestmark = pytest.mark.proof("agent-cases")

ACTION = {"action": "weather", "action_input": {"city": "Paris"}}
PARIS = Action("weather", {"city": "Paris"})
CORPUS: list[tuple[str, Action | None, str | None]] = [
    ('Thought: I look.\nAction:\n```json\n{"action": "weather", "action_input": {"city": "Paris"}}\n```', PARIS, None),
    ('Thought: I look.\nAction:\n```\n{"action": "weather", "action_input": {"city": "Paris"}}\n```\nObservation: x', PARIS, None),
    ('action: {"action": "weather", "action_input": "Paris"}', Action("weather", "Paris"), None),
    ('ACTION:\n[{"action": "weather", "action_input": {"city": "Paris"}}]', PARIS, None),
    ('{"action": "weather", "action_input": {"city": "Paris"}}', PARIS, None),
    ('{"name": "weather", "arguments": {"city": "Paris"}}', PARIS, None),
    ('{"tool": "weather", "parameters": {"city": "Paris"}}', PARIS, None),
    ('{"tool_name": "weather", "tool_input": {"city": "Paris"}}', PARIS, None),
    ("Action: {'action': 'weather', 'action_input': {'city': 'Paris',}}", PARIS, None),
    ('Action: {"action": "weather", "action_input": {"city": "Paris"', PARIS, None),
    ('Action: {"action": "weather", "action_input": {"city": "Paris"}}\nAction: {"action": "weather", "action_input": {"city": "Rome"}}', PARIS, None),
    ("Action: weather\nAction Input: Paris", Action("weather", "Paris"), None),
    ('Action: weather\nAction Input: {"city": "Paris"}\nObservation: sunny\nFinal Answer: sunny', PARIS, None),
    ('**Thought:** hm\n**Action:** weather\n**Action Input:** "Paris"', Action("weather", "Paris"), None),
    ("Action: `weather`\nAction Input: ```json\n{\"city\": \"Paris\"}\n```", PARIS, None),
    ("Action: weather", Action("weather", {}), None),
    ("Thought: I know.\nFinal Answer: Sunny.\nAnd warm.", None, "Sunny.\nAnd warm."),
    ("### Final Answer: Sunny.\n\n", None, "Sunny."),
    ('{"action": "Final Answer", "action_input": "It is \\"hot\\"\\n\\u00e9 \\ud83d\\ude00 \\/"}', None, 'It is "hot"\né 😀 /'),
    ('```json\n{"action": "final_answer", "action_input": {"a": [1]}}\n```', None, '{"a": [1]}'),
    ('{"action": "Final Answer", "action_input": "cut of', None, "cut of"),
    ("Action: Final Answer\nAction Input: hello\nthere", None, "hello\nthere"),
    ("Thought: no form at all, just words.", None, None),
    ('The object {"city": "Paris"} and {not json} and [1, 2] and `code` are text.', None, None),
    ("Here: ```python\nprint({1: 2})\n``` that was code.", None, None),
    ("", None, None),
    ("```", None, None),
    ("{{{{", None, None),
    ("Observation: I made this up\nAction: weather", None, None),
    ("思考：我看一下。\nAction: {\"action\": \"weather\", \"action_input\": {\"city\": \"巴黎\"}}", Action("weather", {"city": "巴黎"}), None),
]  # fmt: skip


def read(text: str, cuts: list[int]) -> tuple[Action | None, str | None, str, str]:
    reader = ReactParser(["weather"])
    fragments: list[tuple[str, str]] = []
    start = 0
    for end in [*sorted(set(cuts)), len(text)]:
        fragments += reader.feed(text[start:end])
        start = end
    fragments += reader.finish()
    thoughts, answers = (
        "".join(fragment for kind, fragment in fragments if kind == wanted_kind)
        for wanted_kind in ("thought", "answer")
    )
    return reader.action, reader.answer, thoughts, answers


@pytest.mark.parametrize(("text", "action", "answer"), CORPUS)
def test_replies_are_read(text: str, action: Action | None, answer: str | None):
    result = read(text, [])
    assert result[:2] == (action, answer)
    assert result[3] == (answer or "")


@pytest.mark.parametrize("text", [text for text, _, _ in CORPUS])
def test_the_chunking_of_a_reply_makes_no_difference(text: str):
    complete_result = read(text, [])
    for cut in range(len(text)):
        assert read(text, [cut]) == complete_result
    assert read(text, list(range(len(text)))) == complete_result


SIGNS = st.text(alphabet="abA:{}[]\"'`\\\n ,tFinalAnswerctioinput", max_size=120)
LABELS = st.lists(
    st.sampled_from(["Thought: ", "Action: ", "\nAction Input: ", "Final Answer: ", "\nObservation: ", "```", json.dumps(ACTION)]) | SIGNS,
    max_size=8,
)  # fmt: skip


@given(LABELS, st.lists(st.integers(0, 300), max_size=12))
def test_any_text_in_any_chunking(parts: list[str], cuts: list[int]):
    text = "".join(parts)
    assert read(text, [cut for cut in cuts if cut < len(text)]) == read(text, [])


@given(st.text(max_size=60))
def test_a_final_answer_is_streamed_as_it_is_written(answer: str):
    text = json.dumps({"action": "Final Answer", "action_input": answer})
    assert read(text, list(range(len(text))))[1] == answer


def test_values_that_are_not_an_action():
    for value in (
        None,
        1,
        "x",
        [],
        {},
        {"a": 1},
        {"city": "Paris"},
        {"name": 5},
        {"action": ""},
        {"name": "other"},
    ):
        assert parse_action(value, ["weather"]) is None
    assert parse_action({"name": "weather"}, ["weather"]) == Action("weather", {})
