"""HTTP header fields: a response's as a mapping, a request's as bytes. No I/O."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from modelyard.base.errors import ConfigError

_Default = TypeVar("_Default")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNJOINABLE = frozenset({"set-cookie"})
"""Fields whose lines cannot be joined with commas, because cookie dates contain commas
(RFC 6265, section 3)."""
_FRAMING_HEADERS = frozenset(
    {
        "content-length",
        "transfer-encoding",
        "connection",
        "expect",
        "upgrade",
        "te",
        "trailer",
    }
)
"""Fields that control framing and the connection; they are set by the client only."""


class Headers(Mapping[str, str]):
    """The header fields of a response, with case-insensitive names.

    Repeated lines are joined with `, ` in their order (RFC 9110, section 5.3).
    `Set-Cookie` lines are joined with newlines; `get_all` returns them as a list.
    """

    __slots__ = ("_first", "_repeated")

    def __init__(
        self,
        first: Mapping[str, str],
        repeated: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`first`: the first line of each name in lower case. `repeated`: all lines of
        the names that occurred more than once."""
        self._first = first
        self._repeated = repeated or {}

    def __getitem__(self, name: str) -> str:
        key = name.lower()
        # Most responses have no repeated fields, so `repeated` is usually empty.
        lines = self._repeated.get(key)
        if lines is None:
            return self._first[key]
        return ("\n" if key in _UNJOINABLE else ", ").join(lines)

    @overload
    def get(self, key: str, /) -> str | None:
        """Return a field's value, or None."""
        ...

    @overload
    def get(self, key: str, /, default: str | _Default) -> str | _Default:
        """Return a field's value, or the default."""
        ...

    def get(self, key: str, /, default: Any = None) -> Any:
        """Return a field's value, or `default` if it is missing."""
        name = key.lower()
        # Checked first, so that a missing field does not cost an exception.
        if name not in self._first:
            return default
        return self[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"

    def get_all(self, name: str) -> list[str]:
        """Return every line of a field in order; an empty list if it is missing."""
        key = name.lower()
        if key in self._repeated:
            return list(self._repeated[key])
        return [self._first[key]] if key in self._first else []

    def without(self, name: str) -> "Headers":
        """Return the fields without one of them."""
        key = name.lower()
        first = {
            field_name: value
            for field_name, value in self._first.items()
            if field_name != key
        }
        repeated = {
            field_name: lines
            for field_name, lines in self._repeated.items()
            if field_name != key
        }
        return Headers(first, repeated)


def dump_head(
    method: str, target: str, authority: str, headers: Sequence[tuple[str, str]]
) -> bytes:
    """Encode the request line and headers, without the content length and the final
    empty line.

    The caller's `host` and `accept-encoding` replace the defaults. Raises ConfigError
    for a header that HTTP cannot carry, or that controls framing.
    """
    names = {name.lower() for name, _ in headers}
    lines = [f"{method} {target} HTTP/1.1\r\n"]
    if "host" not in names:
        lines.append(f"host: {authority}\r\n")
    if "accept-encoding" not in names:
        # Compression is not requested unless the caller asks for it.
        lines.append("accept-encoding: identity\r\n")
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or name.lower() in _FRAMING_HEADERS:
            raise ConfigError(
                f"Header {name!r} cannot be sent: the name is invalid, or"
                " reserved for the HTTP client"
            )
        # A line break would let a value inject further headers.
        if "\r" in value or "\n" in value or "\0" in value:
            raise ConfigError(
                f"Header {name!r} contains a line break; check the credential in it"
            )
        lines.append(f"{name}: {value}\r\n")
    try:
        return "".join(lines).encode("latin-1")
    except UnicodeEncodeError as error:
        message = (
            "A header contains characters that HTTP does not allow; check the"
            " credential in it"
        )
        raise ConfigError(message) from error
