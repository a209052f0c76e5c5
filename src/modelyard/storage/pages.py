"""Whether the database's pages can be trusted."""

import logging

from modelyard.storage.engine import Engine, StorageUnavailableError

logger = logging.getLogger("modelyard.storage")


class Pages:
    """What is known of them. All who use the database report here, from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.damage: str | None = None
        """What is wrong with them, where that is known: nothing is written until a check finds them whole."""

    def note_damage(self, problem: str) -> None:
        """Remember what is wrong; the first time it is said in the log."""
        if self.damage is None:
            fields = {"database": self._engine.where, "problem": problem, "do": self._engine.ways_back()}
            logger.critical("the database is damaged: nothing is written to it", extra={"fields": fields})
        self.damage = problem

    def note_whole(self) -> None:
        """A check found nothing wrong any more."""
        logger.warning("the database's pages are whole again", extra={"fields": {"database": self._engine.where}})
        self.damage = None

    def refuse_damage(self, error: Exception) -> None:
        """Raises StorageUnavailableError where the engine's error says that pages cannot be read."""
        if self._engine.is_damaged(error):
            self.note_damage(str(error))
            raise StorageUnavailableError(f"database {self._engine.where!r} is damaged") from error
