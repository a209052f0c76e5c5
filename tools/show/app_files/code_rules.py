"""Code nodes: their outputs are those that a person has read in the code."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.show.app_files.contract import Reading, Step
from tools.show.app_files.reading import ReadNode
from tools.show.app_files.values import text_of, value_at

_INPUT = re.compile(r"<<(\w+(?:\.\w+)*)(\|\w+)?>>")


def code(node: ReadNode, run: Reading) -> Step:
    """What a person has read in the code: the reviewed outputs, with `<<name>>` for the
    inputs."""
    inputs = {
        str(variable["variable"]): value_at(run.pool, variable.get("value_selector"))
        for variable in node.list_of("variables")
    }
    reviewed = run.reviewed_code(node)
    filling = _Filling(inputs, node, run)
    return Step(filling.fill(reviewed, run.observed_outputs(node)))


@dataclass(frozen=True, slots=True)
class _Filling:
    """Fills reviewed values with the inputs of a code node."""

    inputs: Mapping[str, Any]
    node: ReadNode
    run: Reading

    def fill(self, value: Any, seen: Any) -> Any:
        """Return a reviewed value with the inputs. `seen` is what the run has there."""
        if isinstance(value, Mapping):
            if set(value) == {"observed"}:
                return self._observed(value["observed"], seen)
            return {key: self.fill(value[key], _element(seen, key)) for key in value}
        if isinstance(value, list):
            return [
                self.fill(element, _element(seen, index))
                for index, element in enumerate(value)
            ]
        return _filled_text(value, self.inputs)

    def _observed(self, pattern: str, seen: Any) -> Any:
        """Return a value that no reader can know; note it if it does not fit."""
        if not re.fullmatch(pattern, str(seen), re.DOTALL):
            self.run.note(
                f"{self.node.id} returns {seen!r}, which does not fit {pattern}"
            )
        return seen


def _element(value: Any, key: Any) -> Any:
    """Return an element of what the run has; None if there is no such element."""
    try:
        return value[key]
    except (KeyError, IndexError, TypeError):
        return None


def _filled_text(value: Any, inputs: Mapping[str, Any]) -> Any:
    """Return a reviewed text with inputs; another value as it is."""
    if not isinstance(value, str):
        return value
    # A value that is nothing but one input keeps its type.
    if (match := _INPUT.fullmatch(value)) and not match[2]:
        return _input(inputs, match[1])
    return _INPUT.sub(lambda found: _input_text(inputs, found), value)


def _input(inputs: Mapping[str, Any], path: str) -> Any:
    """Return an input, or an element in it."""
    value: Any = inputs
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def _input_text(inputs: Mapping[str, Any], reference: re.Match[str]) -> str:
    """Return an input as text; in base64 or as JSON if the reviewed value says so."""
    value = _input(inputs, reference[1])
    match reference[2]:
        case "|base64":
            return base64.b64encode(text_of(value).encode()).decode()
        case "|json":
            return json.dumps(value)
        case _:
            return text_of(value)
