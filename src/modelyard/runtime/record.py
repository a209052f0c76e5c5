"""What has happened to one call so far: its attempts, what they used, and why it went where it went."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Note(NamedTuple):
    at: float
    """On the clock's monotonic time."""
    what: str
    """One word: chose, failed, waited, cached, refused …"""
    details: dict[str, Any]


class Record:
    """One for each invocation, shared by all its attempts."""

    __slots__ = ("asked", "attempts", "cost_nanos", "is_notable", "notes", "prompt_tokens", "tokens")

    def __init__(self) -> None:
        self.asked = ""
        """The model that its limits know the call by, as `provider/model`."""
        self.attempts = 0
        self.tokens = 0
        self.cost_nanos = 0
        self.prompt_tokens = -1
        """About how many go in; -1 until somebody asks."""
        self.notes: list[Note] = []
        self.is_notable = False
        """Whether something other than the first choice, served at once, happened."""

    def next_attempt(self) -> int:
        self.attempts += 1
        return self.attempts

    def note(self, at: float, what: str, *, is_notable: bool = False, **details: Any) -> None:
        self.notes.append(Note(at, what, details))
        if is_notable:
            self.is_notable = True

    def spend(self, tokens: int, nanos: int) -> None:
        self.tokens += tokens
        self.cost_nanos += nanos

    def story(self, begun: float) -> Sequence[dict[str, Any]]:
        """The notes with milliseconds since the call began."""
        return [{"ms": round((one.at - begun) * 1000, 3), "what": one.what, **one.details} for one in self.notes]
