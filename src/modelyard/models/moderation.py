"""Moderation: texts in, a verdict and scores by category for each out."""

from typing import Any

import msgspec

from modelyard.models.types import Chunk, ModelUsage


class ModerationUsage(ModelUsage, frozen=True, kw_only=True):
    texts: int = 0


class ModerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    texts: list[str]
    user: str | None = None
    extra: dict[str, Any] = {}


class ModerationVerdict(msgspec.Struct, frozen=True, kw_only=True):
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    """0 to 1."""


class ModerationResult(Chunk, frozen=True, kw_only=True):
    verdicts: list[ModerationVerdict]
    """One for each text, in order."""
    id: str = ""
    usage: ModerationUsage = ModerationUsage()

    @property
    def flagged(self) -> bool:
        return any(verdict.flagged for verdict in self.verdicts)

    @property
    def spent(self) -> ModerationUsage:
        return self.usage

    def priced(self, usage: ModelUsage) -> "ModerationResult":
        return msgspec.structs.replace(self, usage=usage)
