"""What is kept of a graph's run while it goes on, so that it can be taken up again."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from modelyard.workflow.graph import SOURCE
from modelyard.workflow.node import Update


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node that has run: what a run that is taken up again needs of it."""

    key: str
    node_id: str
    outputs: dict[str, Any] = {}
    handle: str = SOURCE
    updates: list[Update] = []
    metadata: dict[str, Any] = {}
    error: str = ""
    """Where it failed and its strategy let the run go on."""


class Recorder(Protocol):
    """Keeps what happened. The engine hands it steps and is handed them back."""

    def steps(self, path: str) -> Sequence[Step]:
        """Those of one graph's run that are over, in order."""
        ...

    def was_started(self, key: str) -> bool:
        """Whether a step with effects was begun before, and nobody knows whether it was finished."""
        ...

    async def about_to(self, key: str) -> None:
        """A step with effects begins: done when all that was recorded, this included, is safe."""
        ...

    def record(self, step: Step) -> None: ...

    def said(self) -> str | None:
        """The text that was shown before; None where this is the run's beginning."""
        ...
