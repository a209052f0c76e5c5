"""What a model does to a question before it is looked for: say it anew, widen it, take it apart, imagine an answer,
choose where to look, read conditions out of it. Each is a prompt and a reader of what came back, whatever came back."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from modelyard.knowledge.entities import Condition, Conditions
from modelyard.knowledge.filters import TESTS

Transform = Literal["rewrite", "expand", "decompose", "hyde"]
_MOST = 5
_NUMBERED = re.compile(r"^\s*(?:[-*•]|\d+[.)、:])?\s*(.*\S)\s*$")
_JSON = re.compile(r"\{.*\}|\[.*\]", re.DOTALL)
PROMPTS: Mapping[str, str] = {
    "rewrite": (
        "Write this question anew so that it can be looked up by itself: without greetings, with full names in the "
        "place of 'it' and 'that', in its own language. Give the question alone.\n\nQuestion: {query}"
    ),
    "expand": (
        "Give three other ways to ask this question, with other words for the same things, in its own language, a line "
        "each and nothing else.\n\nQuestion: {query}"
    ),
    "decompose": (
        "Split this question into the simple questions that must be answered first, at most four, in its own language, "
        "a line each and nothing else. If it is simple, give it as it is.\n\nQuestion: {query}"
    ),
    "hyde": (
        "Write a short passage, as it could stand in a document, that answers this question, in its own language."
        "\n\nQuestion: {query}"
    ),
}


def lines(answer: str, query: str) -> list[str]:
    """Questions as a model listed them, the one that was asked first."""
    found = [query]
    for line in answer.splitlines():
        match = _NUMBERED.match(line)
        text = match[1].strip('"“”') if match else ""
        if text and not text.endswith(":") and text not in found:
            found.append(text)
    return found[:_MOST]


def read(transform: Transform, answer: str, query: str) -> list[str]:
    """What is to be looked for; the question itself where nothing useful came back."""
    answer = answer.strip()
    if transform in ("expand", "decompose"):
        return lines(answer, query)
    if not answer:
        return [query]
    if transform == "hyde":
        return [query, answer[:2000]]
    return [answer.splitlines()[0].removeprefix("Question:").strip().strip('"') or query]


def choice_prompt(query: str, datasets: Sequence[tuple[str, str]]) -> str:
    """Which of these (name, description) should be searched."""
    listed = "\n".join(f"{at + 1}. {name}: {description}" for at, (name, description) in enumerate(datasets))
    return (
        "Which one of these collections of documents answers the question? Give its number alone.\n\n"
        f"{listed}\n\nQuestion: {query}\nNumber:"
    )


def chosen(answer: str, count: int) -> int | None:
    match = re.search(r"\d+", answer)
    place = int(match[0]) - 1 if match else -1
    return place if 0 <= place < count else None


def filter_prompt(query: str, fields: Sequence[tuple[str, str]]) -> str:
    listed = ", ".join(f"{name} ({kind})" for name, kind in fields)
    return (
        f"Documents have these fields: {listed}.\nRead out of the question which conditions it sets on them. Answer "
        "with a JSON list, empty where there are none, of objects with metadata_field_name, comparison_operator (one "
        f"of: {', '.join(TESTS)}) and metadata_field_value.\n\nQuestion: {query}\nJSON:"
    )


def conditions(answer: str, fields: Sequence[str], operator: Literal["and", "or"] = "and") -> Conditions | None:
    """Conditions as a model named them; those on fields or with operators that there are not are left out."""
    match = _JSON.search(answer)
    if match is None:
        return None
    try:
        told: Any = msgspec.json.decode(match[0])
    except msgspec.MsgspecError:
        return None
    if isinstance(told, dict):
        told = told.get("metadata_map", [told])
    found: list[Condition] = []
    for one in told if isinstance(told, list) else []:
        if not isinstance(one, Mapping):
            continue
        name, how = str(one.get("metadata_field_name", "")), str(one.get("comparison_operator", ""))
        if name in fields and how in TESTS:
            found.append(Condition(name=name, comparison_operator=how, value=one.get("metadata_field_value")))
    return Conditions(logical_operator=operator, conditions=found) if found else None
