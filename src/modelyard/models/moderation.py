"""Moderation: a list of texts in, a verdict with category scores per text out."""

from typing import Any

import msgspec

from modelyard.models.types import Chunk, ModelUsage


class ModerationUsage(ModelUsage, frozen=True, kw_only=True):
    """Usage of a moderation call."""

    texts: int = 0


class ModerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to moderate texts."""

    texts: list[str]
    user: str | None = None
    extra: dict[str, Any] = {}


class ModerationVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one text."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    """Scores from 0 to 1."""


class ModerationResult(Chunk, frozen=True, kw_only=True):
    """The verdicts on all texts of a request."""

    verdicts: list[ModerationVerdict]
    """One per text, in order."""
    id: str = ""
    usage: ModerationUsage = ModerationUsage()

    @property
    def flagged(self) -> bool:
        """Return whether any text was flagged."""
        return any(verdict.flagged for verdict in self.verdicts)

    @property
    def usage_or_none(self) -> ModerationUsage:
        """Return the usage."""
        return self.usage

    def with_usage(self, usage: ModelUsage) -> "ModerationResult":
        """Return the result with its usage replaced."""
        return msgspec.structs.replace(self, usage=usage)
