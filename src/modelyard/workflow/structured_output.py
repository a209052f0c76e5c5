"""Structured output of a model as an object: mended where a model did not keep to the
form, and held to the schema afterwards."""

import re
from collections.abc import Mapping
from typing import Any

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.json_repair import RepairError, repair_json, run_in_thread_if_large
from modelyard.base.json_types import is_array, is_object
from modelyard.base.schemas import SchemaError, TooMuchWorkError, compile_schema
from modelyard.workflow.thinking import split_thinking

# Models put JSON into a code fence even if they are told not to.
_FENCE = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\r?\n?(.*?)```", re.DOTALL)


class StructuredOutputError(ValueError):
    """The answer is not JSON and cannot be mended, or does not match the schema."""


async def structured_output(
    text: str, schema: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """Return (the answer as JSON, what was mended in it). Raises StructuredOutputError.

    Reasoning and a code fence around the JSON are removed, and slightly invalid JSON is
    repaired. A list around the object that the schema asks for is removed as well.
    """
    value, repairs = await run_in_thread_if_large(len(text), parsed_json, text)
    if is_array(value) and not _allows_array(schema):
        # Models sometimes wrap the only object in a list.
        first = next((element for element in value if is_object(element)), None)
        if first is not None:
            value = first
            repairs.append("list removed")
    await _check(value, schema)
    return value, repairs


def parsed_json(text: str) -> tuple[Any, list[str]]:
    """Return (the JSON of an answer, what was mended). Raises StructuredOutputError."""
    try:
        return decode_body(text), []
    except BodyError as error:
        # The problem of the whole answer is reported, not that of a half-mended one.
        problem = str(error)
    repairs: list[str] = []
    answer = split_thinking(text)[1] if "<think" in text.lower() else text.strip()
    if answer != text.strip():
        repairs.append("reasoning removed")
    if (fence := _FENCE.search(answer)) is not None and not _starts_json(answer):
        answer = fence[1].strip()
        repairs.append("code fence removed")
    try:
        return decode_body(answer), repairs
    except BodyError:
        return _repaired(answer, problem), [*repairs, "JSON repaired"]


def _starts_json(text: str) -> bool:
    """Return whether a text is JSON from its start: a fence is then part of a value."""
    return text[:1] in ("{", "[")


def _repaired(text: str, problem: str) -> Any:
    """Return the repaired JSON of a text. Raises StructuredOutputError with `problem`,
    the reason why it had to be repaired, if that is impossible."""
    try:
        value = repair_json(text)
    except (ImportError, RepairError) as error:
        raise StructuredOutputError(problem) from error
    # The repair finds an empty text in what holds no JSON at all.
    if value in ("", None):
        raise StructuredOutputError(problem)
    return value


def _allows_array(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema may ask for a list."""
    kind = schema.get("type")
    kinds = kind if is_array(kind) else [kind]
    return "object" not in kinds or "array" in kinds


async def _check(value: Any, schema: Mapping[str, Any]) -> None:
    """Raise StructuredOutputError if a value does not match the schema."""
    try:
        compiled = compile_schema(schema, is_lenient=True)
        mismatch = await compiled.mismatch_async(value)
    except (SchemaError, TooMuchWorkError) as error:
        raise StructuredOutputError(str(error)) from error
    if mismatch is not None:
        raise StructuredOutputError(
            f"{mismatch.where('/', 'the answer')}: {mismatch.message}"
        )
