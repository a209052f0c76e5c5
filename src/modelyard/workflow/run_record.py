"""The stored form of a run: how it was started, its result, and its history."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.storage.database import Row
from modelyard.tenancy.reader import ANYBODY, Reader
from modelyard.workflow.engine import Status, Step

# Fields in the JSON columns; the other fields have columns of their own.
_BODY = (
    "digest",
    "mode",
    "root",
    "inputs",
    "system",
    "environment",
    "conversation",
    "message",
    "variables",
    "depth",
    "created_from",
    "reader",
)
_RESULT = (
    "outputs",
    "error",
    "reasons",
    "total_tokens",
    "total_price",
    "total_steps",
    "exceptions_count",
    "elapsed",
)


HIDES_SOURCES = "hides_sources"
"""Mark in a run's system variables; see `RunRecord.hides_sources`."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run: how it was started, and its result so far."""

    tenant: str
    id: str
    app: str
    """The app's id; empty for an app that was never imported."""
    digest: str = ""
    """Digest of the app version that the run executes."""
    mode: str = "workflow"
    root: str = ""
    user: str = ""
    api_key: str = ""
    """Id of the API key whose limits apply; empty for callers of the app's own API."""
    inputs: dict[str, Any] = {}
    """Values by variable name; files as objects."""
    system: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    conversation: str = ""
    message: str = ""
    variables: dict[str, Any] = {}
    """Conversation variables at the start of the run."""
    depth: int = 0
    created_at: float = 0.0
    created_from: str = "service-api"
    reader: Reader = ANYBODY
    """On whose behalf the run reads documents, also after it was resumed."""
    # The result so far
    status: Status = Status.RUNNING
    outputs: dict[str, Any] = {}
    error: str = ""
    reasons: list[dict[str, Any]] = []
    total_tokens: int = 0
    total_price: float = 0.0
    total_steps: int = 0
    exceptions_count: int = 0
    elapsed: float = 0.0
    finished_at: float | None = None
    epoch: int = 0
    """How often the run was claimed, when this process claimed it."""

    @property
    def hides_sources(self) -> bool:
        """Whether the app does not show what its answers were made from."""
        return bool(self.system.get(HIDES_SOURCES))


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has done before it is resumed."""

    steps: list[Step] = []
    """In the order in which they finished."""
    begun: list[str] = []
    """Keys of steps with effects that had started and not finished."""
    events: int = 0
    """The number of the last event."""
    said: str = ""
    """The response text that clients have received."""
    seconds: float = 0.0
    """The time that the run has been active."""
    fruitless_starts: int = 0
    """How often the run was started or resumed since a node last ended."""


def dump_start(run: RunRecord) -> str:
    """Return the start of a run as JSON for its row, without the fields that have
    columns."""
    return _dump(run, _BODY)


def dump_result(run: RunRecord) -> str:
    """Return the result of a run as JSON for its row."""
    return _dump(run, _RESULT)


def _dump(run: RunRecord, names: Sequence[str]) -> str:
    """Return the named fields as JSON."""
    # msgspec encodes nested structs and files as JSON.
    return msgspec.json.encode({name: getattr(run, name) for name in names}).decode()


def parse_record(row: Row) -> RunRecord:
    """Return the run of a row."""
    values = msgspec.json.decode(row["body"])
    # A run that has not ended or paused yet has no result.
    if row["result"]:
        values |= msgspec.json.decode(row["result"])
    # Columns have priority over the JSON, because they are updated alone.
    values |= {
        "tenant": row["tenant"],
        "id": row["id"],
        "app": row["app"],
        "status": row["status"],
        "user": row["user"],
        "created_at": row["created_at"],
        "finished_at": row["finished_at"],
        "epoch": row["epoch"],
    }
    return msgspec.convert(values, RunRecord)
