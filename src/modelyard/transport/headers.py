"""Header lines: those of an answer as a mapping, those of a request as bytes. Pure: no network, no clock."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from modelyard.base.errors import ConfigError

_Default = TypeVar("_Default")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_APART = frozenset({"set-cookie"})
"""Fields whose lines cannot be joined with commas: dates of cookies hold some themselves (RFC 6265, 3)."""
_OURS = frozenset({"content-length", "transfer-encoding", "connection", "expect", "upgrade", "te", "trailer"})
"""What says where a message ends and what becomes of its connection: the client's own business."""


class Headers(Mapping[str, str]):
    """Fields of an answer by name, in any case.

    Lines of the same name are joined with `, ` in the order in which they came (RFC 9110, 5.3). Those of `Set-Cookie`
    stay apart: `get_all` lists them, and as one value they stand in lines of their own.
    """

    __slots__ = ("_first", "_repeated")

    def __init__(self, first: Mapping[str, str], repeated: Mapping[str, Sequence[str]] | None = None) -> None:
        """`first`: the first line of each name, in lower case. `repeated`: all lines of those that came again."""
        self._first = first
        self._repeated = repeated or {}

    def __getitem__(self, name: str) -> str:
        key = name.lower()
        lines = self._repeated.get(key)
        if lines is None:
            return self._first[key]
        return ("\n" if key in _APART else ", ").join(lines)

    @overload
    def get(self, key: str, /) -> str | None: ...
    @overload
    def get(self, key: str, /, default: str | _Default) -> str | _Default: ...
    def get(self, key: str, /, default: Any = None) -> Any:
        name = key.lower()
        if name not in self._first:  # without this a field that is not there costs an exception
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
        """Every line of a name, in order; none where there is no such field."""
        key = name.lower()
        if key in self._repeated:
            return list(self._repeated[key])
        return [self._first[key]] if key in self._first else []

    def without(self, name: str) -> "Headers":
        """The same less one field."""
        key = name.lower()
        first = {each: value for each, value in self._first.items() if each != key}
        repeated = {each: lines for each, lines in self._repeated.items() if each != key}
        return Headers(first, repeated)


def dump_head(method: str, target: str, authority: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """A request's first line and headers, up to the length of its body.

    `host` and `accept-encoding` of the caller's stand in the place of ours. Raises ConfigError for a header that HTTP
    cannot carry, or that would say where the message ends.
    """
    names = {name.lower() for name, _ in headers}
    lines = [f"{method} {target} HTTP/1.1\r\n"]
    if "host" not in names:
        lines.append(f"host: {authority}\r\n")
    if "accept-encoding" not in names:
        lines.append("accept-encoding: identity\r\n")
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
            raise ConfigError(f"header {name!r} cannot be sent: it is no name of a header, or one that is ours to set")
        if "\r" in value or "\n" in value or "\0" in value:
            raise ConfigError(f"header {name!r} holds a line break; check the credential it is made of")
        lines.append(f"{name}: {value}\r\n")
    try:
        return "".join(lines).encode("latin-1")
    except UnicodeEncodeError as error:
        message = "a header holds characters that HTTP cannot carry; check the credential it is made of"
        raise ConfigError(message) from error
