"""What a rule for a node type needs and returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jinja2.sandbox import ImmutableSandboxedEnvironment

from tools.show.app_files.reading import ReadApp, ReadNode
from tools.show.app_files.values import Pool, render, value_at
from tools.show.app_files.world import Script

_JINJA = ImmutableSandboxedEnvironment()


@dataclass(slots=True)
class Step:
    """The result of a node."""

    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    handle: str = ""
    """The branch that is taken; empty for all edges."""


class Reading(Protocol):
    """What the rules need of the run that the walk describes."""

    app: ReadApp
    script: Script
    pool: Pool
    history: Sequence[tuple[str, str]]

    def ask(self, node: ReadNode, target: str, asked: Any) -> None:
        """Note a call of which everything is known from the file."""

    def ask_about(self, node: ReadNode, target: str, texts: Sequence[str]) -> None:
        """Note a call that the product words itself; it contains these texts."""

    def reviewed_code(self, node: ReadNode) -> Mapping[str, Any]:
        """Return the reviewed outputs of the next execution of a code node."""

    def observed_outputs(self, node: ReadNode) -> Mapping[str, Any]:
        """Return the outputs of this execution in the run of the product."""

    def note(self, problem: str) -> None:
        """Note what does not allow to expect a value."""

    def run_rounds(self, node: ReadNode) -> dict[str, Any]:
        """Run the inside of an iteration or a loop and return the node's outputs."""


Rule = Callable[[ReadNode, Reading], Step]


def rendered_jinja(
    source: str, variables: Sequence[Mapping[str, Any]], pool: Pool
) -> str:
    """Return a rendered Jinja template. The templates are of this repository's data."""
    values = {
        str(variable["variable"]): value_at(pool, variable.get("value_selector"))
        for variable in variables
    }
    return _JINJA.from_string(source).render(values)


def parameter_value(entry: Any, run: Reading) -> Any:
    """Return the value of a parameter: a constant, a variable or a template."""
    types = ("constant", "variable", "mixed")
    if not isinstance(entry, Mapping) or entry.get("type") not in types:
        return entry
    value = entry.get("value")
    if entry["type"] == "variable":
        return value_at(run.pool, value)
    return render(value, run.pool) if isinstance(value, str) else value
