"""Tracking of damage to the database's pages."""

import logging

from modelyard.storage.engine import Engine, StorageUnavailableError

logger = logging.getLogger("modelyard.storage")


class PageHealth:
    """The known state of the pages. All users of the database report to it, from any
    thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.damage: str | None = None
        """Known damage, or None. While there is damage, nothing is written until a
        check passes."""

    def note_damage(self, problem: str) -> None:
        """Record damage. Only the first report is logged."""
        if self.damage is None:
            fields = {
                "database": self._engine.where,
                "problem": problem,
                "do": self._engine.recovery_advice(),
            }
            logger.critical(
                "the database is damaged: writes are disabled",
                extra={"fields": fields},
            )
        self.damage = problem

    def note_whole(self) -> None:
        """Record that a check found no damage, which allows writes again."""
        logger.warning(
            "the database is no longer damaged",
            extra={"fields": {"database": self._engine.where}},
        )
        self.damage = None

    def refuse_damage(self, error: Exception) -> None:
        """Raise StorageUnavailableError, and record the damage, if the engine's error
        reports unreadable pages."""
        if self._engine.is_damaged(error):
            self.note_damage(str(error))
            raise StorageUnavailableError(
                f"Database {self._engine.where!r} is damaged"
            ) from error
