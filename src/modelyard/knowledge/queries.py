"""Query transformation by a model: rewriting, expansion, decomposition, hypothetical
answers (HyDE), the choice of a dataset, and metadata conditions. Each has a prompt and
a tolerant parser for the model's reply."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from modelyard.base.json_types import is_array, is_mapping, is_object
from modelyard.knowledge.entities import Condition, Conditions
from modelyard.knowledge.filters import OPERATORS

Transform = Literal["rewrite", "expand", "decompose", "hyde"]
_MAX_QUERIES = 5
_LIST_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)、:])?\s*(.*\S)\s*$")
_JSON = re.compile(r"\{.*\}|\[.*\]", re.DOTALL)
PROMPTS: Mapping[str, str] = {
    "rewrite": (
        "Write this question anew so that it can be looked up by itself: without"
        " greetings, with full names in the place of 'it' and 'that', in its own"
        " language. Give the question alone.\n\nQuestion: {query}"
    ),
    "expand": (
        "Give three other ways to ask this question, with other words for the same"
        " things, in its own language, a line each and nothing else.\n\nQuestion:"
        " {query}"
    ),
    "decompose": (
        "Split this question into the simple questions that must be answered first, at"
        " most four, in its own language, a line each and nothing else. If it is"
        " simple, give it as it is.\n\nQuestion: {query}"
    ),
    "hyde": (
        "Write a short passage, as it could stand in a document, that answers this"
        " question, in its own language.\n\nQuestion: {query}"
    ),
}


def list_queries(answer: str, query: str) -> list[str]:
    """Parse a reply that lists questions, one per line. The original question comes
    first; at most five are returned."""
    questions = [query]
    for line in answer.splitlines():
        match = _LIST_LINE.match(line)
        text = match[1].strip('"“”') if match else ""
        # A line that ends with a colon introduces the list.
        if text and not text.endswith(":") and text not in questions:
            questions.append(text)
    return questions[:_MAX_QUERIES]


def parse_transform(transform: Transform, answer: str, query: str) -> list[str]:
    """Parse the reply to a transform into search queries; the original question if the
    reply is unusable."""
    answer = answer.strip()
    if transform in ("expand", "decompose"):
        return list_queries(answer, query)
    if not answer:
        return [query]
    # The original question stays first, because the hypothetical passage may be wrong.
    if transform == "hyde":
        return [query, answer[:2000]]
    return [
        answer.splitlines()[0].removeprefix("Question:").strip().strip('"') or query
    ]


def choice_prompt(query: str, datasets: Sequence[tuple[str, str]]) -> str:
    """Return the prompt that asks which of the datasets (name, description) to search."""
    listed = "\n".join(
        f"{index + 1}. {name}: {description}"
        for index, (name, description) in enumerate(datasets)
    )
    return (
        "Which one of these collections of documents answers the question? Give its"
        f" number alone.\n\n{listed}\n\nQuestion: {query}\nNumber:"
    )


def parse_choice(answer: str, count: int) -> int | None:
    """Parse the chosen number into an index below `count`; None if the reply names
    none."""
    match = re.search(r"\d+", answer)
    index = int(match[0]) - 1 if match else -1
    return index if 0 <= index < count else None


def filter_prompt(query: str, fields: Sequence[tuple[str, str]]) -> str:
    """Return the prompt that asks for metadata conditions in a question. `fields` are
    (name, type)."""
    listed = ", ".join(f"{name} ({type_name})" for name, type_name in fields)
    return (
        f"Documents have these fields: {listed}.\nRead out of the question which"
        " conditions it sets on them. Answer with a JSON list, empty where there are"
        " none, of objects with metadata_field_name, comparison_operator (one of:"
        f" {', '.join(OPERATORS)}) and metadata_field_value.\n\nQuestion:"
        f" {query}\nJSON:"
    )


def parse_conditions(
    answer: str, fields: Sequence[str], operator: Literal["and", "or"] = "and"
) -> Conditions | None:
    """Parse metadata conditions from a model's reply; None if there are none.

    Conditions with unknown fields or operators are dropped.
    """
    # Models surround the JSON with text or a code fence.
    match = _JSON.search(answer)
    if match is None:
        return None
    try:
        decoded: Any = msgspec.json.decode(match[0])
    except msgspec.MsgspecError:
        return None
    if is_object(decoded):
        # Some models wrap the list in an object, or return a single object.
        decoded = decoded.get("metadata_map", [decoded])
    parsed_conditions: list[Condition] = []
    for record in decoded if is_array(decoded) else []:
        if not is_mapping(record):
            continue
        name, operator_name = (
            str(record.get("metadata_field_name", "")),
            str(record.get("comparison_operator", "")),
        )
        if name in fields and operator_name in OPERATORS:
            parsed_conditions.append(
                Condition(
                    name=name,
                    comparison_operator=operator_name,
                    value=record.get("metadata_field_value"),
                )
            )
    return (
        Conditions(logical_operator=operator, conditions=parsed_conditions)
        if parsed_conditions
        else None
    )
