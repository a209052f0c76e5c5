"""HTTP headers that belong to a model call and not to a connection: beta names, ids of
requests and sessions, rate limits. No I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

import msgspec

HeaderLines = Iterable[tuple[bytes, bytes]]
"""Header lines with names in lower case."""
LIST_HEADERS = frozenset({"anthropic-beta", "openai-beta"})
"""Headers whose value is a list of names, separated by commas."""
_ANSWER_CHANGING = LIST_HEADERS | {"anthropic-version"}
# The first one that is present counts.
_SESSION_HEADERS = ("x-claude-code-session-id", "session-id", "session_id")


class CallHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """The headers of one call that a vendor's API defines, in either direction."""

    vendor: str = ""
    """The vendor whose API defines the names; empty if there are no headers."""
    values: dict[str, str] = {}
    """Lower-case name → value; several lines are joined."""
    account: dict[str, str] = {}
    """Headers that choose an account of the vendor. They fit the caller's own
    credential only, not that of the operator."""
    query: str = ""
    """Parameters of the URL that belong to the call, encoded."""
    dropped: tuple[str, ...] | None = None
    """With an answer: the fields of the request that its server did not get; None if
    that is not known."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to pass on."""
        return not (self.values or self.account or self.query)

    @property
    def session(self) -> str:
        """The id of the agent's session; empty if it sent none."""
        return next(
            (self.values[name] for name in _SESSION_HEADERS if name in self.values), ""
        )

    def names_in(self, header: str) -> list[str]:
        """Return the names in a header that is a list; empty without the header."""
        return split_names(self.values.get(header, ""))

    def for_later_callers(self) -> "CallHeaders":
        """Return what also holds for callers who get the same answer from a cache."""
        if self.dropped is None:
            return NO_HEADERS
        return CallHeaders(dropped=self.dropped)

    def changing_answers(self) -> "CallHeaders":
        """Return only what changes the answer, for the key of a cached one."""
        items = self.values.items()
        values = {name: value for name, value in items if name in _ANSWER_CHANGING}
        if not values:
            return NO_HEADERS
        return CallHeaders(vendor=self.vendor, values=values)


NO_HEADERS = CallHeaders()


def split_names(value: str) -> list[str]:
    """Return the names in a comma-separated value, each once, in their order."""
    names = (name.strip() for name in value.split(","))
    return list(dict.fromkeys(name for name in names if name))


def merge_headers(
    first: Mapping[str, str], second: Mapping[str, str]
) -> dict[str, str]:
    """Return both groups of headers. The second takes precedence; lists of names are
    joined."""
    merged = dict(first)
    for name, value in second.items():
        if name in LIST_HEADERS and name in merged:
            value = ",".join(split_names(f"{merged[name]},{value}"))
        merged[name] = value
    return merged


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRules:
    """The headers of a vendor's API that are passed on. Everything else stays here: keys,
    cookies, and what belongs to the connection."""

    vendor: str
    request_names: frozenset[bytes] = frozenset()
    request_prefixes: tuple[bytes, ...] = ()
    account_names: frozenset[bytes] = frozenset()
    """Request headers that choose an account of the vendor."""
    query_names: frozenset[str] = frozenset()
    """Parameters of the URL that belong to the call."""
    answer_names: frozenset[bytes] = frozenset()
    answer_prefixes: tuple[bytes, ...] = ()

    def of_request(self, lines: HeaderLines, query: bytes = b"") -> CallHeaders:
        """Return what is passed on of a caller's request."""
        names, prefixes = self.request_names, self.request_prefixes
        values: dict[str, str] = {}
        account: dict[str, str] = {}
        for name, value in lines:
            if name in names or (prefixes and name.startswith(prefixes)):
                _add(values, name, value)
            elif name in self.account_names:
                _add(account, name, value)
        passed_query = self._passed_query(query) if query else ""
        # Most calls have none; the shared object is recognised by its identity.
        if not (values or account or passed_query):
            return NO_HEADERS
        return CallHeaders(
            vendor=self.vendor, values=values, account=account, query=passed_query
        )

    def of_answer(self, lines: HeaderLines) -> CallHeaders:
        """Return what is passed on of a provider's response."""
        names, prefixes = self.answer_names, self.answer_prefixes
        if not names and not prefixes:
            return NO_HEADERS
        values: dict[str, str] = {}
        for name, value in lines:
            if name in names or (prefixes and name.startswith(prefixes)):
                _add(values, name, value)
        return CallHeaders(vendor=self.vendor, values=values) if values else NO_HEADERS

    def _passed_query(self, query: bytes) -> str:
        """Return the parameters of the URL that are passed on."""
        if not self.query_names:
            return ""
        # Parameters are few; without a limit, a long query would cost time.
        try:
            pairs = parse_qsl(query.decode("latin-1"), max_num_fields=100)
        except ValueError:
            return ""
        return urlencode([pair for pair in pairs if pair[0] in self.query_names])


NO_RULES = HeaderRules(vendor="")


def _add(values: dict[str, str], raw_name: bytes, raw_value: bytes) -> None:
    """Add a header line; the lines of one name are joined (RFC 9110, 5.3).

    An empty value, or one that no header can carry, is left out.
    """
    value = raw_value.decode("latin-1").strip(" \t")
    if not value or not value.isprintable():
        return
    name = raw_name.decode("latin-1")
    if name in LIST_HEADERS:
        value = ",".join(split_names(f"{values.get(name, '')},{value}"))
    elif name in values:
        value = f"{values[name]}, {value}"
    values[name] = value
