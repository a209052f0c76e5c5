"""The engine that carries runs, as the settings choose it."""

import importlib.util
from dataclasses import dataclass

from modelyard.app.storage import StorageServices
from modelyard.base.errors import ConfigError
from modelyard.base.settings import Settings
from modelyard.workflow.carrier import Engine
from modelyard.workflow.journal import DatabaseJournal

_PACKAGES = {"dbos": "dbos", "temporal": "temporalio"}
"""Carrier → the package that it needs. The extra is called like the carrier."""


def carrier_problem(settings: Settings) -> str:
    """Return why runs cannot be carried as the settings say; empty if they can be, as
    far as this can be seen without a connection."""
    carrier = settings.workflows.carrier
    package = _PACKAGES.get(carrier)
    if package is None:
        if settings.workflows.execute:
            return ""
        return (
            "workflows.execute is false, but with workflows.carrier embedded nobody else"
            " could execute runs; set workflows.carrier to dbos or temporal"
        )
    if importlib.util.find_spec(package) is None:
        return (
            f"workflows.carrier is {carrier}, whose package is missing:"
            f" pip install 'modelyard[{carrier}]'"
        )
    if carrier == "dbos" and not dbos_url(settings).startswith("postgres"):
        return (
            "workflows.carrier is dbos, which needs PostgreSQL: set database, or"
            " workflows.dbos.database, to postgresql://USER:PASSWORD@HOST/NAME"
        )
    return ""


def dbos_url(settings: Settings) -> str:
    """Return the database that DBOS uses."""
    return settings.workflows.dbos.database or settings.database_url


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Builds the engine of the settings."""

    settings: Settings
    storage: StorageServices

    def build(self, journal: DatabaseJournal) -> Engine | None:
        """Return the engine; None for the embedded carrier. Raises ConfigError."""
        problem = carrier_problem(self.settings)
        if problem:
            raise ConfigError(problem)
        match self.settings.workflows.carrier:
            case "dbos":
                return self._dbos(journal)
            case "temporal":
                return self._temporal(journal)
            case _:
                return None

    @property
    def _max_runs(self) -> int:
        """The number of runs that this process executes at once."""
        workflows = self.settings.workflows
        return workflows.at_once if workflows.execute else 0

    def _dbos(self, journal: DatabaseJournal) -> Engine:
        """Return DBOS on PostgreSQL."""
        # Imported here because the package is optional.
        from modelyard.workflow.carriers.dbos_engine import DbosEngine, DbosSetup
        from modelyard.workflow.carriers.executors import Executors

        setup = DbosSetup(
            url=dbos_url(self.settings),
            max_runs=self._max_runs,
            max_tenant_runs=self.settings.workflows.dbos.tenant_runs,
        )
        executors = Executors(self.storage.database, self.storage.shared_clock)
        return DbosEngine(setup, executors, journal.owner)

    def _temporal(self, journal: DatabaseJournal) -> Engine:
        """Return the Temporal server."""
        # Imported here because the package is optional.
        from modelyard.workflow.carriers.temporal_engine import (
            TemporalEngine,
            TemporalSetup,
        )

        temporal = self.settings.workflows.temporal
        setup = TemporalSetup(
            address=temporal.address,
            namespace=temporal.namespace,
            task_queue=temporal.task_queue,
            api_key=temporal.api_key,
            tls=temporal.tls,
            max_runs=self._max_runs,
            grace_seconds=self.settings.grace_seconds,
            owner=journal.owner,
        )
        return TemporalEngine(setup)
