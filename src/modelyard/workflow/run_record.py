"""A run, as it is kept: what it was started with and what came of it, and what it has behind it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from modelyard.storage.database import Row
from modelyard.workflow.engine import Status, Step

_BODY = (
    "digest", "mode", "root", "inputs", "system", "environment", "conversation", "message", "variables", "depth",
    "created_from",
)  # fmt: skip
_RESULT = (
    "outputs", "error", "reasons", "total_tokens", "total_price", "total_steps", "exceptions_count", "elapsed",
)  # fmt: skip


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run as it was started, and what came of it."""

    tenant: str
    id: str
    app: str
    """The app's id; empty for one that was never imported."""
    digest: str = ""
    """Which version of the app's file."""
    mode: str = "workflow"
    root: str = ""
    user: str = ""
    api_key: str = ""
    """The id of the API key on whose behalf it runs; empty for callers of the app itself."""
    inputs: dict[str, Any] = {}
    """By variable; files as objects."""
    system: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    conversation: str = ""
    message: str = ""
    variables: dict[str, Any] = {}
    """Conversation variables as they were when it began."""
    depth: int = 0
    created_at: float = 0.0
    created_from: str = "service-api"
    # what came of it
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


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What a run that goes on has behind it."""

    steps: list[Step] = []
    """In the order in which they ended."""
    begun: list[str] = []
    """Steps with effects that were begun, and not ended."""
    events: int = 0
    """The number of the last event."""
    said: str = ""
    """The text that was shown."""


def dump_start(run: RunRecord) -> str:
    """What a run was started with, for its row; what has a column of its own is left out."""
    return _dump(run, _BODY)


def dump_result(run: RunRecord) -> str:
    """What came of a run, for its row."""
    return _dump(run, _RESULT)


def _dump(run: RunRecord, names: Sequence[str]) -> str:
    return msgspec.json.encode({name: getattr(run, name) for name in names}).decode()


def parse_record(row: Row) -> RunRecord:
    """A run, from its row."""
    values = msgspec.json.decode(row["body"])
    if row["result"]:
        values |= msgspec.json.decode(row["result"])
    values |= {
        "tenant": row["tenant"], "id": row["id"], "app": row["app"], "status": row["status"], "user": row["user"],
        "created_at": row["created_at"], "finished_at": row["finished_at"],
    }  # fmt: skip
    return msgspec.convert(values, RunRecord)
