"""Outputs that an agent node declares: their JSON schema for the model, the check of
what the model returned, and what happens if it does not fit. No I/O.

The declaration

    declared_outputs:
      - name: findings
        type: array
        array_item:
          type: object
          children: [{name: claim, type: string}]
      - name: confidence
        type: number
        required: false
        failure_strategy:
          retry: {enabled: true, max_retries: 2, retry_interval_ms: 500}
          on_failure: default_value
          default_value: 0.5

asks the model for

    {
      "type": "object",
      "properties": {
        "findings": {
          "type": "array",
          "items": {
            "type": "object",
            "properties": {"claim": {"type": "string"}},
            "required": ["claim"]
          }
        },
        "confidence": {"type": "number"}
      },
      "required": ["findings"]
    }

Each output is checked on its own. As long as one of those that do not fit has retries,
the whole agent runs again. After that the node fails if one of them has the strategy
`stop` or `fail_branch`; otherwise their default values take their places.

A model names a file by its address, or by the name that a tool has given it. An output
that names none gets the files of the tools.

Source: langgenius/dify, api/models/agent_config_entities.py (fields, defaults),
api/core/workflow/nodes/agent_v2/output_type_checker.py and
output_failure_orchestrator.py (rules).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_mapping
from modelyard.workflow.variables import File, file_of

_STOP, _DEFAULT_VALUE = "stop", "default_value"
# Each retry is a call of the model.
_MAX_RETRIES = 10


class OutputRetry(msgspec.Struct, kw_only=True):
    """How often the agent runs again if this output does not fit."""

    enabled: bool = False
    """Whether the agent runs again."""
    max_retries: int = 0
    """At most 10."""
    retry_interval_ms: float = 0.0
    """The pause before each."""


class FailureStrategy(msgspec.Struct, kw_only=True):
    """What happens if this output still does not fit after the retries."""

    retry: OutputRetry = msgspec.field(default_factory=OutputRetry)
    """Comes before everything else."""
    on_failure: str = _STOP
    """stop, default_value or fail_branch."""
    default_value: Any = None
    """The output's value with `default_value`."""


class ArrayItem(msgspec.Struct, kw_only=True):
    """The elements of an array output."""

    type: str = "object"
    """The type of each element; arrays of arrays do not exist."""
    description: str = ""
    """Tells the model what an element is."""
    children: "list[DeclaredOutput]" = []
    """The fields of an object."""


class OutputCheck(msgspec.Struct, kw_only=True):
    """Comparison of a file output with a sample file by a model."""

    enabled: bool = False
    """Whether the file is compared; it is not here."""


class DeclaredOutput(msgspec.Struct, kw_only=True):
    """An output of an agent node, or a field of an object output."""

    name: str
    """The name, an identifier."""
    type: str = "string"
    """string, number, boolean, object, array or file."""
    description: str = ""
    """Tells the model what the output is."""
    required: bool = True
    """Whether a missing value is a failure; otherwise it is None."""
    array_item: ArrayItem | None = None
    """The elements of an array; objects if it is missing."""
    children: "list[DeclaredOutput]" = []
    """The fields of an object."""
    check: OutputCheck | None = None
    """The check of a file."""
    failure_strategy: FailureStrategy = msgspec.field(default_factory=FailureStrategy)
    """What happens if the value does not fit."""


class OutputFailure(msgspec.Struct, frozen=True, kw_only=True):
    """An output that does not fit its declaration."""

    declared: DeclaredOutput
    """The output."""
    reason: str
    """Why its value does not fit."""


# --------------------------------------------------------------------------- the schema


def schema_of_outputs(outputs: Sequence[DeclaredOutput]) -> dict[str, Any]:
    """Return the JSON schema of an object with the outputs as its properties."""
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    required: list[str] = []
    for output in outputs:
        schema["properties"][output.name] = _schema_of(
            output.type, output.description, output.array_item, output.children
        )
        # Files come from tools as well, so the model need not name them.
        if output.required and not _is_of_files(output):
            required.append(output.name)
    # Older drafts of JSON schema forbid an empty list here.
    if required:
        schema["required"] = required
    return schema


def _schema_of(
    output_type: str,
    description: str,
    array_item: ArrayItem | None,
    children: Sequence[DeclaredOutput],
) -> dict[str, Any]:
    """Return the JSON schema of one value."""
    # Unknown types are passed on: the check of the value reports them.
    schema: dict[str, Any] = {"type": output_type}
    if output_type == "file":
        schema = _file_schema()
    elif output_type == "array":
        # Old files declare arrays without elements; these are objects.
        item = array_item or ArrayItem()
        schema["items"] = _schema_of(item.type, item.description, None, item.children)
    # An object without declared fields may have any.
    elif output_type == "object" and children:
        schema = schema_of_outputs(children)
    if description:
        schema["description"] = description
    return schema


def _file_schema() -> dict[str, Any]:
    """Return the JSON schema with which a model names a file."""
    return {
        "type": "object",
        "properties": {
            "url": {"type": "string", "description": "The address of a file."},
            "reference": {
                "type": "string",
                "description": "The name of a file that a tool returned.",
            },
        },
    }


def _is_of_files(output: DeclaredOutput) -> bool:
    """Return whether an output is a file or a list of files."""
    item = output.array_item
    return output.type == "file" or (
        output.type == "array" and item is not None and item.type == "file"
    )


# ---------------------------------------------------------------------------- the check


def check_outputs(
    outputs: Sequence[DeclaredOutput], value: Any, files: Sequence[File]
) -> tuple[dict[str, Any], list[OutputFailure]]:
    """Return (outputs by name, those that do not fit).

    `value` is the model's answer as JSON, `files` are those that the agent's tools
    returned. An optional output without a value is None.
    """
    answer: Mapping[str, Any] = value if is_mapping(value) else EMPTY_OBJECT
    results: dict[str, Any] = {}
    failures: list[OutputFailure] = []
    for output in outputs:
        # A value that is null counts as missing.
        result = answer.get(output.name)
        if _is_of_files(output):
            result = _files_of(output, result, files)
        reason = _mismatch_of(output, result)
        # The value that does not fit must not reach later nodes.
        if reason:
            failures.append(OutputFailure(declared=output, reason=reason))
            result = None
        results[output.name] = result
    return results, failures


def _mismatch_of(output: DeclaredOutput, value: Any) -> str:
    """Return why a value does not fit an output; empty if it does."""
    if value is None:
        return "it is missing" if output.required else ""
    if output.type != "array":
        return _type_mismatch(output.type, value)
    if not is_array(value):
        return _type_mismatch("array", value)
    # The first element that does not fit is enough for the message.
    item_type = (output.array_item or ArrayItem()).type
    for index, element in enumerate(value):
        reason = _type_mismatch(item_type, element)
        if reason:
            return f"element {index}: {reason}"
    return ""


def _type_mismatch(output_type: str, value: Any) -> str:
    """Return why a value is not of a type; empty if it is."""
    match output_type:
        case "string":
            fits = isinstance(value, str)
        case "number":
            # In Python a boolean is an integer, too.
            fits = isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            fits = isinstance(value, bool)
        case "object":
            fits = is_mapping(value)
        case "array":
            fits = is_array(value)
        case "file":
            fits = isinstance(value, File)
        case _:
            return f"the type {output_type!r} is unknown"
    return "" if fits else f"expected {output_type}, got {_type_name(value)}"


def _type_name(value: Any) -> str:
    """Return the name of a JSON value's type."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if is_mapping(value) else "array" if is_array(value) else "nothing"


def _files_of(output: DeclaredOutput, value: Any, files: Sequence[File]) -> Any:
    """Return the file, or the list of files, that an answer names.

    An answer that names none means the files of the agent's tools.
    """
    if output.type == "array":
        # What names no file stays as it is, so that the check reports it.
        named = value if is_array(value) else []
        named_files = [_file_of(element, files) or element for element in named]
        return named_files or list(files)
    # Of several files the last one is most likely the result.
    return _file_of(value, files) or value or (files[-1] if files else None)


def _file_of(value: Any, files: Sequence[File]) -> File | None:
    """Return the file that a value names: by address, or a tool's file by name or id."""
    if isinstance(value, File):
        return value
    if not is_mapping(value):
        return None
    # Tools show the model the names of their files, some also the ids.
    reference = str(value.get("reference") or "")
    for file in files:
        if reference and reference in (file.filename, file.related_id):
            return file
    url = str(value.get("url") or value.get("remote_url") or "")
    # A model may invent addresses of local files.
    if not url.startswith(("http://", "https://")):
        return None
    name = url.partition("?")[0].rpartition("/")[2]
    return file_of(
        {
            "type": "document",
            "transfer_method": "remote_url",
            "remote_url": url,
            "filename": name,
            "extension": f".{name.rpartition('.')[2]}" if "." in name else "",
        }
    )


# ------------------------------------------------------------------------ the decisions


def retries_of(failures: Sequence[OutputFailure]) -> tuple[int, float]:
    """Return (how often the agent runs again, the pause between in seconds)."""
    retries = [
        failure.declared.failure_strategy.retry
        for failure in failures
        if failure.declared.failure_strategy.retry.enabled
    ]
    # The loop runs as a whole, so the most patient output decides.
    count = max((retry.max_retries for retry in retries), default=0)
    pause = max((retry.retry_interval_ms for retry in retries), default=0.0)
    # Files are written by others, so their numbers are held within bounds.
    return min(max(0, count), _MAX_RETRIES), max(0.0, pause) / 1000


def default_values(failures: Sequence[OutputFailure]) -> dict[str, Any] | None:
    """Return the values in place of the failed outputs; None if the node fails: one of
    them has another strategy."""
    strategies = [failure.declared.failure_strategy for failure in failures]
    # One output without a default value is enough to fail.
    if any(strategy.on_failure != _DEFAULT_VALUE for strategy in strategies):
        return None
    return {
        failure.declared.name: _default_of(failure.declared) for failure in failures
    }


def _default_of(declared: DeclaredOutput) -> Any:
    """Return the default value of an output; a file's description becomes a file."""
    value = declared.failure_strategy.default_value
    # Authors describe default files in the way that models do.
    if declared.type == "file":
        return _file_of(value, ()) or value
    return value


def describe_failures(failures: Sequence[OutputFailure]) -> str:
    """Return the names of the outputs that do not fit, with the reasons."""
    return "; ".join(
        f"{failure.declared.name}: {failure.reason}" for failure in failures
    )


def schema_note(schema: Mapping[str, Any]) -> str:
    """Return the sentence that asks a model for an answer of this schema."""
    encoded = msgspec.json.encode(dict(schema)).decode()
    return (
        "When the task is done, answer with one JSON object that fits this JSON schema,"
        f" and with nothing else:\n{encoded}"
    )
