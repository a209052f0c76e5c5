"""Access lists of documents: who may read a document, as principals that are stored
with it."""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.tenancy.reader import (
    EVERYONE,
    MAX_PRINCIPALS,
    checked_names,
    group_principal,
    user_principal,
)

DefaultAccess = Literal["everyone", "nobody"]
"""Who may read the documents of a dataset that have no access list."""
_NOBODY = "nobody"
"""Stands in lists that grant nobody anything: an empty column means that there is no
list. No reader has this principal."""


class AccessList(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may read a document: the named users and groups, or everyone in the tenant."""

    users: list[str] = []
    groups: list[str] = []
    everyone: bool = False


def principals_of_list(access: AccessList | None) -> list[str]:
    """Return an access list as principals, sorted; empty for no list.

    Raises InvokeBadRequestError if a name is invalid, or there are too many.
    """
    if access is None:
        return []
    principals = {
        *map(user_principal, checked_names(access.users, "users")),
        *map(group_principal, checked_names(access.groups, "groups")),
        *([EVERYONE] if access.everyone else []),
    }
    if len(principals) > MAX_PRINCIPALS:
        raise InvokeBadRequestError(
            f"An access list may have at most {MAX_PRINCIPALS:,} users and groups, got"
            f" {len(principals):,}"
        )
    # Sorted, so that equal lists are equal texts, and a source can be compared.
    return sorted(principals) or [_NOBODY]


def list_of_principals(principals: Sequence[str]) -> AccessList | None:
    """Return stored principals as an access list; None if there is none."""
    if not principals:
        return None
    return AccessList(
        users=_names(principals, "user:"),
        groups=_names(principals, "group:"),
        everyone=EVERYONE in principals,
    )


def _names(
    principals: Iterable[str],
    prefix: str,
) -> list[str]:
    return [name.removeprefix(prefix) for name in principals if name.startswith(prefix)]


def may_read(
    principals: frozenset[str] | None, readers: Collection[str], default: DefaultAccess
) -> bool:
    """Return whether a reader with these principals may read a document.

    `readers` is the document's access list, empty for none; `default` is the dataset's.
    None stands for a reader to whom access lists do not apply. A reader without
    principals, who is disabled, may read nothing.
    """
    if principals is None:
        return True
    return not principals.isdisjoint(readers or (default,))
