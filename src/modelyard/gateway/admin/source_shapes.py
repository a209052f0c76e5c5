"""Response types of the admin API for the sources of datasets. Times are in seconds
since 1970."""

from typing import Any, Literal

import msgspec


class SyncReportView(msgspec.Struct, frozen=True, kw_only=True):
    """What a synchronisation did, in numbers of documents."""

    added: int
    changed: int
    deleted: int
    same: int
    permissions: int
    """Documents whose access list alone has changed."""
    skipped: int
    reasons: list[str]
    """Why documents were skipped; the first ten."""


class SourceView(msgspec.Struct, frozen=True, kw_only=True):
    """A source of a dataset."""

    id: str
    name: str
    connector: str
    address: str
    """What its documents name as their origin."""
    settings: dict[str, Any]
    credentials: dict[str, str]
    """A mask for each stored credential. A mask that is sent back keeps the value."""
    access: list[str]
    schedule: str
    timezone: str
    enabled: bool
    state: Literal["idle", "waiting", "running"]
    next_at: float | None
    """The next synchronisation; null if it is synchronised on request alone."""
    started_at: float | None
    finished_at: float | None
    """Start of the last synchronisation, and end of the last one that ended."""
    report: SyncReportView | None
    """The last synchronisation that ended; null before the first one."""
    error: str
    """Why it stopped before its end; empty if it did not."""


class SourceRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """Confirmation that a source was removed."""

    id: str
    deleted: bool
    documents: int
    """Number of the source's documents."""
    documents_deleted: bool
    """Whether they were deleted too, or stay as they are."""


class ConnectorView(msgspec.Struct, frozen=True, kw_only=True):
    """A type of sources that can be added."""

    name: str
    settings: dict[str, Any]
    """JSON schema of the settings."""
    credentials: dict[str, Any]
    """JSON schema of the credentials."""
