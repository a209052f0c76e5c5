"""The headers by which a trusted caller names the user on whose behalf it reads
documents: `X-Modelyard-User` and `X-Modelyard-Groups`.

Names are percent-encoded UTF-8, because headers are ASCII; groups are separated by
commas.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from modelyard.base.errors import InvokeBadRequestError
from modelyard.tenancy.caller import Caller
from modelyard.tenancy.reader import reader_of

USER, GROUPS = b"x-modelyard-user", b"x-modelyard-groups"


def with_named_reader(
    caller: Caller, scope: Mapping[str, Any], user: str = ""
) -> Caller:
    """Return the caller reading on behalf of the user that the headers of a request
    name; unchanged without these headers. `scope` is the request in ASGI form.

    `user` is the user if the headers name none, for trusted callers whose requests have
    such a field. Raises ForbiddenError if the caller may not speak for users,
    InvokeBadRequestError if a header is invalid or there are several.
    """
    headers = scope["headers"]
    users, groups = _lines(headers, USER), _lines(headers, GROUPS)
    if not users and not groups:
        # Without the right, the field is no identity: anybody can write it.
        is_trusted = bool(user) and caller.speaks_for_users
        return caller.speaking_for(reader_of(user)) if is_trusted else caller
    # The header is written by the program, a field of the body perhaps by its users.
    named_user = _decoded(users[0]) if users else user
    group_names = map(_decoded, groups[0].split(b",") if groups else ())
    return caller.speaking_for(reader_of(named_user, filter(None, group_names)))


def _lines(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the value of a header, at most one. Raises InvokeBadRequestError."""
    values = [value for header, value in headers if header == name]
    # Of two values, proxies and servers may read different ones.
    if len(values) > 1:
        raise InvokeBadRequestError(f"{name.decode()!r} was sent twice")
    return values


def _decoded(name: bytes) -> str:
    """Return a percent-decoded name. Raises InvokeBadRequestError if it is not UTF-8."""
    try:
        return unquote_to_bytes(name.strip(b" \t")).decode()
    except UnicodeDecodeError as error:
        raise InvokeBadRequestError(
            "'X-Modelyard-User' and 'X-Modelyard-Groups' must be percent-encoded UTF-8"
        ) from error
