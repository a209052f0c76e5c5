"""Request routing: a dictionary for paths without parameters, Starlette's patterns for
the others.

Answers for unsupported methods follow RFC 9110: 405 with `Allow` (15.5.6), HEAD as GET
(9.3.2), OPTIONS (9.3.7), and 501 for unknown methods (15.6.2).
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.routing import compile_path

from modelyard.gateway.azure_paths import DEPLOYMENT, served_path
from modelyard.gateway.http import Reply, Request
from modelyard.gateway.table import (
    METHODS,
    NO_AUTH,
    Api,
    ErrorShape,
    MethodNotAllowedError,
    NoSuchPathError,
    Row,
    UnknownMethodError,
    call_handler,
)
from modelyard.gateway.vendor_paths import (
    VENDORS,
    api_named_by,
    api_named_by_path,
    is_shared_path,
)

_MAX_SUGGESTION_LENGTH = 120
"""Maximum length of an unknown path for which a similar one is searched. The cost grows
with the square of the length."""
_CALL_APIS = frozenset((*VENDORS, "service"))
"""APIs whose requests are mostly calls of models or apps."""
# Shared, since most paths have no named parts.
_NO_NAMES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """The row that a request reaches, with the values of its path parameters."""

    api: Api
    row: Row
    names: Mapping[str, str]


class _PathEntry:
    """All rows of one path, of any API."""

    __slots__ = ("path", "rows")

    def __init__(self, path: str) -> None:
        self.path = path
        self.rows: dict[str, tuple[Api, Row]] = {}

    def add(self, api: Api, row: Row) -> None:
        """Add a row. Raises ValueError if another row has the same method and path."""
        methods = METHODS if row.takes_any_method else (row.method,)
        for method in methods:
            if method in self.rows:
                raise ValueError(f"Duplicate route {method} {self.path}")
            self.rows[method] = (api, row)

    def row(self, method: str) -> tuple[Api, Row] | None:
        """Return the row for a method, or None. HEAD falls back to GET."""
        served = self.rows.get(method)
        return self.rows.get("GET") if served is None and method == "HEAD" else served


_Pattern = tuple[_PathEntry, re.Pattern[str]]
"""The rows of a path with parameters, and what matches it. Its groups are the values of
the parameters, which are all text."""


class Router:
    """Maps requests to rows. A trailing slash in the path is ignored."""

    def __init__(self, apis: Iterable[Api]) -> None:
        """Build the index. Raises ValueError if two rows have the same method and path."""
        self.apis = tuple(apis)
        self._api_by_name = {api.name: api for api in self.apis}
        self._exact: dict[str, _PathEntry] = {}
        patterns: dict[str, _Pattern] = {}
        for api in self.apis:
            for row in api.rows:
                self._path_entry(row.path, patterns).add(api, row)
        self._patterns = _by_literal_prefix(patterns.values())

    def _path_entry(self, path: str, patterns: dict[str, _Pattern]) -> _PathEntry:
        """Return the entry of a path, creating it if necessary."""
        if "{" not in path:
            return self._exact.setdefault(path, _PathEntry(path))
        # Rows of one path may name its parameters differently.
        numbered_path = _numbered_parameters(path)
        if numbered_path not in patterns:
            patterns[numbered_path] = (_PathEntry(path), compile_path(path)[0])
        return patterns[numbered_path][0]

    def rows(self) -> Iterator[tuple[Api, Row]]:
        """Yield every row of every API."""
        for api in self.apis:
            for row in api.rows:
                yield api, row

    def find(self, method: str, path: str) -> RouteMatch:
        """Return the row that a request reaches, with its path parameters.

        Exact paths come before patterns, specific patterns before general ones; HEAD
        falls back to GET. Raises UnknownMethodError (501) on any path, NoSuchPathError
        (404) or MethodNotAllowedError (405).
        """
        normalised_path, deployment = served_path(path.rstrip("/") or "/")
        if deployment:
            found = self.find(method, normalised_path)
            return replace(found, names={**found.names, DEPLOYMENT: deployment})
        exact_entry = self._exact.get(normalised_path)
        # Most requests end here: one dictionary look-up, no pattern matching.
        if exact_entry is not None and (served := exact_entry.row(method)) is not None:
            return RouteMatch(served[0], served[1], _NO_NAMES)
        return self._find_by_pattern(method, normalised_path, exact_entry)

    def _find_by_pattern(
        self, method: str, path: str, exact: _PathEntry | None
    ) -> RouteMatch:
        """Return the row of a request whose path no exact entry answers.

        `exact` is the entry of the very path, which lacks the method, or None. OPTIONS
        is answered for every known path. Raises UnknownMethodError, NoSuchPathError
        with a similar path, or MethodNotAllowedError with the allowed methods.
        """
        # The exact entry lacks the method, but a pattern of the same path may have it.
        path_entries = [] if exact is None else [exact]
        for path_entry, names in self._matching(path):
            served = path_entry.row(method)
            if served is not None:
                api, row = served
                return RouteMatch(
                    api,
                    row,
                    dict(zip(row.names, names, strict=True)),
                )
            path_entries.append(path_entry)
        # Order matters: an unknown method is 501 on any path, even on one that does not
        # exist.
        if method not in METHODS:
            raise UnknownMethodError(method)
        if not path_entries:
            raise NoSuchPathError(path, self._nearest(path))
        allowed = _allowed(path_entries)
        if method == "OPTIONS":
            api, _ = next(iter(path_entries[0].rows.values()))
            # OPTIONS needs no credentials, so it bypasses the API's `enter`.
            return RouteMatch(
                replace(api, enter=call_handler), _options(path, allowed), _NO_NAMES
            )
        raise MethodNotAllowedError(method, path, allowed)

    def _matching(self, path: str) -> Iterator[tuple[_PathEntry, tuple[str, ...]]]:
        """Yield entries whose pattern matches the path, most specific first, with the
        values of the path parameters."""
        # A regular expression's `$` also matches before a final line break.
        if "\n" in path:
            return
        # Only patterns that share the path's literal prefix are tried.
        for beginning in _literal_prefixes(path):
            for path_entry, pattern in self._patterns.get(beginning, ()):
                match = pattern.match(path)
                if match is not None:
                    yield path_entry, match.groups()

    def allowed(self, path: str) -> list[str]:
        """Return the methods that a path supports, in the order of `Allow`. Empty if
        the path does not exist."""
        normalised_path, _ = served_path(path.rstrip("/") or "/")
        exact = self._exact.get(normalised_path)
        path_entries = [] if exact is None else [exact]
        path_entries += [
            path_entry for path_entry, _ in self._matching(normalised_path)
        ]
        return _allowed(path_entries) if path_entries else []

    def is_for_apps_only(
        self, path: str, headers: Sequence[tuple[bytes, bytes]]
    ) -> bool:
        """Return whether only the apps' API has the path, while a vendor's client means
        an endpoint of the vendor there."""
        if not is_shared_path(path, headers):
            return False
        normalised_path = path.rstrip("/") or "/"
        exact = self._exact.get(normalised_path)
        path_entries = [] if exact is None else [exact]
        path_entries += [entry for entry, _ in self._matching(normalised_path)]
        apis = {api.name for entry in path_entries for api, _ in entry.rows.values()}
        return apis == {"service"}

    def _nearest(self, path: str) -> str | None:
        """Return a known path with a similar spelling, or None."""
        if len(path) > _MAX_SUGGESTION_LENGTH:
            return None
        # Comparing only paths with the same first segment keeps the candidates few.
        beginning = path[: path.find("/", 1) + 1]
        candidates = [
            known_path for known_path in self._exact if known_path.startswith(beginning)
        ]
        close_matches = difflib.get_close_matches(path, candidates, n=1, cutoff=0.75)
        return close_matches[0] if close_matches else None

    def errors_for(
        self, path: str, headers: Sequence[tuple[bytes, bytes]]
    ) -> ErrorShape:
        """Return the error format for a request that reaches no row."""
        return self.api_meant(path, headers).errors

    def is_meant_as_call(
        self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]]
    ) -> bool:
        """Return whether a request that reaches no row was most likely meant as a call of
        a model or an app."""
        # The root is what browsers and health checks ask for.
        if method != "POST" or len(path) < 2:
            return False
        # A base URL without the version is a usual mistake.
        if method in self.allowed(f"/v1{path}"):
            return True
        return self.api_meant(path, headers).name in _CALL_APIS

    def api_meant(self, path: str, headers: Sequence[tuple[bytes, bytes]]) -> Api:
        """Return the API that a request means which reaches no row.

        The client's own headers are checked before the path, because several vendors'
        APIs share paths.
        """
        api_name = api_named_by(headers) or api_named_by_path(path)
        if api_name in self._api_by_name:
            return self._api_by_name[api_name]
        # Otherwise the longest matching prefix decides; the first API is the default.
        best_match: tuple[int, Api | None] = (0, None)
        for api in self.apis:
            for prefix in api.prefixes:
                is_below = path == prefix or path.startswith(prefix.rstrip("/") + "/")
                if is_below and len(prefix) > best_match[0]:
                    best_match = (len(prefix), api)
        return best_match[1] or self.apis[0]


def _options(path: str, allowed: Sequence[str]) -> Row:
    """Return a row that answers OPTIONS for a path."""
    headers = {"allow": ", ".join(allowed)}

    async def answer(request: Request) -> Reply:
        """Answer 204 with the `Allow` header."""
        del request
        return Reply(b"", 204, headers=headers)

    return Row(
        method="OPTIONS",
        path=path,
        auth=NO_AUTH,
        handler=answer,
        status=204,
        summary="List the allowed methods of the path.",
    )


def _allowed(path_entries: Sequence[_PathEntry]) -> list[str]:
    """Return the value list of `Allow` for a path: GET implies HEAD, and OPTIONS is
    always included."""
    methods = {method for path_entry in path_entries for method in path_entry.rows} | {
        "OPTIONS"
    }
    if "GET" in methods:
        methods.add("HEAD")
    return [method for method in METHODS if method in methods]


def _numbered_parameters(path: str) -> str:
    """Return the path with numbered parameters, so that paths that match the same
    requests become equal."""
    fragments = path.split("{")
    numbered = [fragments[0]]
    for number, fragment in enumerate(fragments[1:]):
        part, _, suffix = fragment.partition("}")
        _, colon, converter = part.partition(":")
        numbered.append(f"p{number}{colon}{converter}}}{suffix}")
    return "{".join(numbered)


def _literal_prefixes(path: str) -> tuple[str, ...]:
    """Return the path's literal prefixes under which patterns are indexed, longest
    first: three segments down to none."""
    segments = path.split("/")[1:4]
    return tuple("/".join(segments[:count]) for count in range(len(segments), -1, -1))


def _by_literal_prefix(
    patterns: Iterable[_Pattern],
) -> dict[str, list[_Pattern]]:
    """Index patterns by the segments before their first parameter (three at most). Each
    list is ordered most specific first."""
    patterns_by_prefix: dict[str, list[_Pattern]] = {}
    for path_entry, pattern in patterns:
        literal: list[str] = []
        for segment in path_entry.path.split("/")[1:4]:
            if "{" in segment:
                break
            literal.append(segment)
        patterns_by_prefix.setdefault("/".join(literal), []).append(
            (path_entry, pattern)
        )
    for group in patterns_by_prefix.values():
        group.sort(key=lambda pair: _specificity(pair[0].path))
    return patterns_by_prefix


def _specificity(path: str) -> tuple[Any, ...]:
    """Return a sort key that puts specific patterns first.

    Literal text ranks before a parameter with text around it, that before a plain
    parameter, and that before a parameter that accepts slashes.
    """
    ranks: list[int] = []
    for segment in path.split("/")[1:]:
        if "{" not in segment:
            ranks.append(0)
        elif ":path}" in segment:
            ranks.append(4 if segment.endswith("}") else 3)
        else:
            ranks.append(2 if segment.startswith("{") and segment.endswith("}") else 1)
    # The final 5 sorts a path after longer ones that begin with the same segments.
    return (*ranks, 5)
