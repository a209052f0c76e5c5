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
        "attempts",
        "cost_nanos",
        "has_unknown_cost",
        "is_notable",
        "notes",
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
        self.notes: list[Decision] = []
        self.is_notable = False
        """Whether anything happened other than the first choice answering at once."""

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
        return [
            {
                "ms": round((decision.timestamp - started_at) * 1000, 3),
                "what": decision.action,
                **decision.details,
            }
            for decision in self.notes
        ]
