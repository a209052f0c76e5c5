"""On whose behalf documents are read. A reader is part of the caller of a request, and
is stored with the runs that the caller starts."""

from collections.abc import Iterable

import msgspec

from modelyard.base.errors import InvokeBadRequestError

EVERYONE = "everyone"
"""The principal that every reader of a tenant has."""
MAX_PRINCIPALS = 1000
"""Maximum number of groups of a reader, and of entries of an access list."""
_MAX_LENGTH = 256


class Reader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whoever reads documents. Without users and groups it is anybody, who reads only
    what everyone may read."""

    users: tuple[str, ...] = ()
    """Names of one person, such as a user's name and an email address."""
    groups: tuple[str, ...] = ()
    """Groups that a trusted caller has named. Those of the directory are looked up at
    each search."""
    is_unrestricted: bool = False
    """Whether access lists do not apply, as for administrators' evaluations."""


ANYBODY = Reader()
UNRESTRICTED = Reader(is_unrestricted=True)


def reader_of(user: str, groups: Iterable[str] = ()) -> Reader:
    """Return the reader for a user and groups that a trusted caller names. Raises
    InvokeBadRequestError if a name is invalid."""
    names = checked_names(groups, "groups")
    return Reader(
        users=checked_names([user], "user") if user else (), groups=tuple(names)
    )


def checked_names(
    names: Iterable[str],
    field: str,
) -> tuple[str, ...]:
    """Return the distinct names of users or groups in their normal form. Raises
    InvokeBadRequestError if one is invalid or there are too many."""
    normal_names = tuple(dict.fromkeys(normal_name(name) for name in names))
    if len(normal_names) > MAX_PRINCIPALS:
        raise InvokeBadRequestError(
            f"'{field}' may have at most {MAX_PRINCIPALS:,} names, got"
            f" {len(normal_names):,}",
            param=field,
        )
    for name in normal_names:
        if not name or len(name) > _MAX_LENGTH or not name.isprintable():
            raise InvokeBadRequestError(
                f"'{field}' must contain names of 1 to {_MAX_LENGTH} printable"
                f" characters, not {name[:40]!r}",
                param=field,
            )
    return normal_names


def normal_name(name: str) -> str:
    """Return the name of a user or a group as it is compared: email addresses in small
    letters, everything else as it is."""
    name = name.strip()
    # Directories write the same address differently; other names may differ by case.
    return name.lower() if "@" in name else name


def user_principal(name: str) -> str:
    """Return the principal of a user, as access lists contain it."""
    return f"user:{normal_name(name)}"


def group_principal(name: str) -> str:
    """Return the principal of a group, as access lists contain it."""
    return f"group:{normal_name(name)}"


def own_principals(
    tenant: str,
    reader: Reader,
) -> frozenset[str] | None:
    """Return the principals that a reader names itself, without those of a directory;
    None if access lists do not apply."""
    del tenant
    if reader.is_unrestricted:
        return None
    users = map(user_principal, reader.users)
    return frozenset({EVERYONE, *users, *map(group_principal, reader.groups)})
