"""Whether a process can serve requests, for load balancers and operators."""

from collections.abc import Callable

from modelyard.app.live_settings import LiveSettings
from modelyard.app.maintenance import MaintenanceTasks
from modelyard.app.shared_settings import SharedSettings
from modelyard.app.storage import StorageServices
from modelyard.gateway.operations.health import Problem
from modelyard.runtime.ledger import Ledger
from modelyard.workflow.runs import Runs


class Readiness:
    """Tells what keeps this process from serving requests."""

    def __init__(
        self,
        live_settings: LiveSettings,
        storage: StorageServices,
        ledger: Ledger,
        upkeep: MaintenanceTasks,
        shared_settings: SharedSettings,
        is_draining: Callable[[], bool],
        runs: Runs,
    ) -> None:
        self._live = live_settings
        self._storage = storage
        self._ledger = ledger
        self._upkeep = upkeep
        self._shared_settings = shared_settings
        self._is_draining = is_draining
        self._runs = runs

    def problem(self) -> Problem | None:
        """Return the worst problem at present, or None."""
        if self._is_draining():
            return Problem("The server is stopping")
        return self._refusing() or self._degrading()

    def _refusing(self) -> Problem | None:
        """Return why calls are refused, or None."""
        damage = self._storage.database.damage
        if damage is not None:
            return Problem(
                "The database is damaged; calls are refused until it is restored: "
                f"{damage}"
            )
        refusal = self._ledger.refusal
        # Callers are told about a full disk; details follow after the colon.
        if refusal is not None:
            cause = ", since the database's disk is full" if "full" in refusal else ""
            return Problem(f"Usage cannot be recorded{cause}: {refusal}")
        counting = self._storage.counting_trouble
        # Without limits of the operator, most calls are not counted anywhere.
        if counting is not None and self._live.current.limits:
            return Problem(f"Limits cannot be counted: {counting}")
        # With other rules than the other servers, this one must not answer.
        if self._shared_settings.problem is not None:
            return Problem(
                f"Changed settings cannot be used: {self._shared_settings.problem}"
            )
        return None

    def _degrading(self) -> Problem | None:
        """Return what does not work although calls are answered, or None."""
        storage = self._storage
        # The ledger's journal on the disk holds the rows of a server that is away.
        if storage.database.trouble is not None:
            return Problem(
                f"The database cannot be used: {storage.database.trouble}",
                takes_calls=True,
            )
        if storage.counting_trouble is not None:
            return Problem(
                f"Limits cannot be counted: {storage.counting_trouble}",
                takes_calls=True,
            )
        # Runs are accepted and wait; calls of models need no engine.
        if self._runs.problem:
            return Problem(
                f"Runs of workflows wait: {self._runs.problem}", takes_calls=True
            )
        if not self._upkeep.is_fresh:
            return Problem(
                "Changes to keys and limits are not received", takes_calls=True
            )
        return None
