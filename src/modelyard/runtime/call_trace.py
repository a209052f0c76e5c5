"""The trace of one call: its attempts, what they used, and the routing decisions."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Decision(NamedTuple):
    """One routing decision."""

    timestamp: float
    """The time in the clock's monotonic seconds."""
    action: str
    """The kind of decision in a word or two: chose, failed, waited, cached, refused,
    and so on."""
    details: dict[str, Any]


class CallTrace:
    """The trace of one invocation, shared by all its attempts."""

    __slots__ = (
        "_choice",
        "_notes",
        "attempts",
        "cost_nanos",
        "has_unknown_cost",
        "is_notable",
        "prompt_tokens",
        "requested_model",
        "tokens",
    )

    def __init__(self) -> None:
        self.requested_model = ""
        """The model that the limits count the call against, as `provider/model`."""
        self.attempts = 0
        self.tokens = 0
        self.cost_nanos = 0
        self.has_unknown_cost = False
        """Whether an attempt used something whose cost is unknown."""
        self.prompt_tokens = -1
        """The approximate number of prompt tokens; -1 until it has been computed."""
        self._notes: list[Decision] | None = None
        self._choice: tuple[float, str, str, int] | None = None
        self.is_notable = False
        """Whether anything happened other than the first choice answering at once."""

    @property
    def notes(self) -> list[Decision]:
        """The decisions so far, in their order."""
        notes = self._notes
        if notes is None:
            notes = self._notes = []
        if self._choice is not None:
            timestamp, deployment, strategy, count = self._choice
            self._choice = None
            details = {"deployment": deployment, "by": strategy, "of": count}
            notes.append(Decision(timestamp, "chose", details))
        return notes

    def note_choice(
        self, timestamp: float, deployment: str, strategy: str, count: int
    ) -> None:
        """Add the usual decision: a deployment was chosen from several by a strategy.

        Nobody reads it after most calls, so it is written out when it is read.
        """
        # A second choice follows a failure, after which the trace is read anyway.
        if self._choice is None:
            self._choice = timestamp, deployment, strategy, count
        else:
            self.note(timestamp, "chose", deployment=deployment, by=strategy, of=count)

    def next_attempt(self) -> int:
        """Return the number of the next attempt, starting at 1."""
        self.attempts += 1
        return self.attempts

    def note(
        self, timestamp: float, action: str, *, is_notable: bool = False, **details: Any
    ) -> None:
        """Add a decision. `timestamp` is in monotonic seconds; a notable decision makes
        the whole trace notable."""
        self.notes.append(Decision(timestamp, action, details))
        if is_notable:
            self.is_notable = True

    def spend(self, tokens: int, nanos: int) -> None:
        """Add the tokens and the cost (in billionths) of an attempt."""
        self.tokens += tokens
        self.cost_nanos += nanos

    def decisions(self, started_at: float) -> Sequence[dict[str, Any]]:
        """Return the decisions with milliseconds since `started_at`, as JSON values."""
        return [_decision_fields(decision, started_at) for decision in self.notes]


def _decision_fields(decision: Decision, started_at: float) -> dict[str, Any]:
    """Return a decision as a JSON value."""
    milliseconds = round((decision.timestamp - started_at) * 1000, 3)
    return {"ms": milliseconds, "what": decision.action, **decision.details}
