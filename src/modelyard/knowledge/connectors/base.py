"""The interface of all connectors, and what they share."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.knowledge.access import AccessList


class SourceItem(msgspec.Struct, frozen=True, kw_only=True):
    """A document at its source, as a listing describes it."""

    key: str
    """Identifies it at the source, also after it was renamed there if the source can."""
    name: str
    """Its name with an extension, which tells the format."""
    revision: str
    """Changes with the content: a tag, a version, or a size with a time."""
    url: str = ""
    """Where people open it."""
    access: AccessList | None = None
    """Who may read it; None if the source has no permissions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePage:
    """A part of the changes since a cursor."""

    items: Sequence[SourceItem] = ()
    """Documents that exist, changed or not."""
    removed: Sequence[str] = ()
    """Keys of documents that no longer exist."""
    covers: tuple[str, str | None] | None = None
    """A range of keys that `items` lists completely: after the first, up to and
    including the second, None for the end. What is known within it and not listed no
    longer exists."""
    cursor: str
    """Where to continue after this page."""


class SourceError(ModelyardError):
    """The source cannot be listed or read at the moment: the synchronisation stops, and
    continues at the same page the next time."""

    status = 502
    code = "source_unavailable"


class ItemError(InvokeBadRequestError):
    """One document cannot be read, and could not be the next time; the others can."""

    code = "source_item_unreadable"


class Source(Protocol):
    """A place with documents."""

    @property
    def name(self) -> str:
        """Identifies the source within a dataset: an address without credentials."""
        ...

    def changes(self, cursor: str) -> AsyncGenerator[SourcePage, None]:
        """Yield the changes after a cursor; an empty one means everything.

        The last page's cursor is where the next synchronisation starts. Raises
        SourceError.
        """
        ...

    async def fetch(self, item: SourceItem) -> bytes:
        """Return the content of a document. Raises SourceError, or ItemError if this
        document alone cannot be read."""
        ...


@runtime_checkable
class RemembersRevisions(Protocol):
    """A source that asks its server only for what has changed since the stored
    revisions."""

    def remember(self, revisions: Mapping[str, str]) -> None:
        """Take the revisions of the dataset's documents, by key, before a pass. That of a
        document that has to be read again is empty."""
        ...


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may read the documents of a source without permissions, by the beginnings of
    their keys. Without a rule for a key, the dataset's default applies."""

    by_prefix: Mapping[str, AccessList] = field(default_factory=dict[str, AccessList])

    def find(self, key: str) -> AccessList | None:
        """Return the access list of the longest prefix of a key."""
        prefixes = [prefix for prefix in self.by_prefix if key.startswith(prefix)]
        return self.by_prefix[max(prefixes, key=len)] if prefixes else None


def parse_rules(texts: Sequence[str]) -> AccessRules:
    """Parse rules of the form `PREFIX=user:NAME,group:NAME`, or `PREFIX=everyone` and
    `PREFIX=nobody`. Raises InvokeBadRequestError."""
    by_prefix: dict[str, AccessList] = {}
    for text in texts:
        # Keys may contain the sign, names of groups should not.
        prefix, equals, names = text.rpartition("=")
        entries = [name.strip() for name in names.split(",")]
        if not equals or not all(map(_is_entry, entries)):
            raise InvokeBadRequestError(
                f"Invalid access rule {text[:80]!r}; expected"
                " PREFIX=user:NAME,group:NAME, PREFIX=everyone or PREFIX=nobody"
            )
        by_prefix[prefix] = AccessList(
            users=_named(entries, "user:"),
            groups=_named(entries, "group:"),
            everyone="everyone" in entries,
        )
    return AccessRules(by_prefix)


def _is_entry(entry: str) -> bool:
    kind, _, name = entry.partition(":")
    return entry in ("everyone", "nobody") or (kind in ("user", "group") and name != "")


def _named(entries: Sequence[str], kind: str) -> list[str]:
    return [entry.removeprefix(kind) for entry in entries if entry.startswith(kind)]
