"""The recorder interface: stores the progress of a graph run for its resumption."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from modelyard.workflow.graph import SOURCE
from modelyard.workflow.node import Update


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished node: the part of its result that a resumed run needs."""

    key: str
    node_id: str
    outputs: dict[str, Any] = {}
    handle: str = SOURCE
    updates: list[Update] = []
    metadata: dict[str, Any] = {}
    error: str = ""
    """Set if the node failed and its error strategy let the run continue."""


class Recorder(Protocol):
    """Stores the finished steps of a run and returns them when it is resumed."""

    def steps(self, path: str) -> Sequence[Step]:
        """Return the finished steps of the graph at a path, in order."""
        ...

    def was_started(self, key: str) -> bool:
        """Return whether a step with effects had started before a crash, so that it may
        have been executed."""
        ...

    async def mark_started(self, key: str) -> None:
        """Wait until everything recorded so far, and the start of this step with
        effects, is stored."""
        ...

    async def confirm(self) -> None:
        """Wait until it is certain that the run still belongs to this process. Raises
        WorkflowError if it does not."""
        ...

    def record(self, step: Step) -> None:
        """Store a finished step."""
        ...

    def shown_text(self) -> str | None:
        """Return the text that clients have received before a resumption; None for a
        first start."""
        ...
