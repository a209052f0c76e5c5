"""Requests to rows: a dictionary for paths without named parts, Starlette's routes for the others.

What a path answers besides its methods is RFC 9110's: 405 with `Allow` (15.5.6), HEAD as GET (9.3.2), OPTIONS (9.3.7),
501 for methods that nobody has heard of (15.6.2).
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.routing import Match, Route, compile_path

from modelyard.gateway.http import Reply, Request
from modelyard.gateway.table import (
    METHODS,
    NOBODY_IN_PARTICULAR,
    Api,
    ErrorShape,
    MethodNotAllowedError,
    NoSuchPathError,
    Row,
    UnknownMethodError,
    call_handler,
)

_LONGEST_GUESS = 120
"""Characters of an unknown path for which a like one is looked for: looking costs with the square of it."""
_NO_NAMES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Found:
    """The row that a request reaches, and what its path's named parts hold."""

    api: Api
    row: Row
    names: Mapping[str, str]


class _Place:
    """All rows of one path, of whichever APIs. Stands as the endpoint of a Starlette route."""

    __slots__ = ("path", "rows")

    def __init__(self, path: str) -> None:
        self.path = path
        self.rows: dict[str, tuple[Api, Row]] = {}

    def add(self, api: Api, row: Row) -> None:
        """Raises ValueError where another row has this method and path."""
        methods = METHODS if row.takes_any_method else (row.method,)
        for method in methods:
            if method in self.rows:
                raise ValueError(f"two rows for {method} {self.path}")
            self.rows[method] = (api, row)

    def row(self, method: str) -> tuple[Api, Row] | None:
        """HEAD reaches GET's, where it has none of its own."""
        served = self.rows.get(method)
        return self.rows.get("GET") if served is None and method == "HEAD" else served


class Router:
    """Where each request goes. Paths may end in a slash or not: it makes no difference."""

    def __init__(self, apis: Iterable[Api]) -> None:
        """Raises ValueError where two rows claim the same method of the same path."""
        self.apis = tuple(apis)
        self._exact: dict[str, _Place] = {}
        patterns: dict[str, tuple[_Place, Route]] = {}
        for api in self.apis:
            for row in api.rows:
                self._place(row.path, patterns).add(api, row)
        self._patterns = _by_beginning(patterns.values())

    def _place(self, path: str, patterns: dict[str, tuple[_Place, Route]]) -> _Place:
        if "{" not in path:
            return self._exact.setdefault(path, _Place(path))
        # Rows of one path may call its parts by different names; what matches is the same.
        like = compile_path(_unnamed(path))[0].pattern
        if like not in patterns:
            place = _Place(path)
            patterns[like] = (place, Route(path, endpoint=place))  # pyright: ignore[reportArgumentType]
        return patterns[like][0]

    def rows(self) -> Iterator[tuple[Api, Row]]:
        """Every row of every API."""
        for api in self.apis:
            for row in api.rows:
                yield api, row

    def find(self, method: str, path: str) -> Found:
        """Raises NoSuchPathError, MethodNotAllowedError, UnknownMethodError."""
        bare = path.rstrip("/") or "/"
        place = self._exact.get(bare)
        if place is not None and (served := place.row(method)) is not None:
            return Found(served[0], served[1], _NO_NAMES)
        return self._found_by_pattern(method, bare, place)

    def _found_by_pattern(self, method: str, path: str, exact: _Place | None) -> Found:
        places = [] if exact is None else [exact]
        for place, names in self._matching(path):
            served = place.row(method)
            if served is not None:
                api, row = served
                return Found(api, row, dict(zip(row.names, names, strict=True)))
            places.append(place)
        if method not in METHODS:
            raise UnknownMethodError(method)
        if not places:
            raise NoSuchPathError(path, self._nearest(path))
        allowed = _allowed(places)
        if method == "OPTIONS":
            api, _ = next(iter(places[0].rows.values()))
            # Anybody may ask for this: it does not enter as the API's callers do.
            return Found(replace(api, enter=call_handler), _options(path, allowed), _NO_NAMES)
        raise MethodNotAllowedError(method, path, allowed)

    def _matching(self, path: str) -> Iterator[tuple[_Place, tuple[str, ...]]]:
        """The places whose pattern a path fits, the most particular first, with what the named parts hold."""
        if "\n" in path:  # a regular expression's `$` would look past one at the end
            return
        scope = {"type": "http", "path": path, "method": "GET"}
        for beginning in _beginnings(path):
            for place, route in self._patterns.get(beginning, ()):
                match, child = route.matches(scope)
                if match is not Match.NONE:
                    yield place, tuple(child["path_params"].values())

    def allowed(self, path: str) -> list[str]:
        """The methods that a path takes, in `Allow`'s order; empty where there is nothing."""
        bare = path.rstrip("/") or "/"
        exact = self._exact.get(bare)
        places = [] if exact is None else [exact]
        places += [place for place, _ in self._matching(bare)]
        return _allowed(places) if places else []

    def _nearest(self, path: str) -> str | None:
        """A path that is written almost the same way; None where none is."""
        if len(path) > _LONGEST_GUESS:
            return None
        beginning = path[: path.find("/", 1) + 1]
        candidates = [known for known in self._exact if known.startswith(beginning)]
        near = difflib.get_close_matches(path, candidates, n=1, cutoff=0.75)
        return near[0] if near else None

    def errors_for(self, path: str, headers: Sequence[tuple[bytes, bytes]]) -> ErrorShape:
        """In whose words a request that reaches no row is refused: the client's own marks come before the path, since
        several vendors' clients share addresses."""
        named = _named_by(headers)
        by_name = {api.name: api for api in self.apis}
        if named in by_name:
            return by_name[named].errors
        best: tuple[int, Api | None] = (0, None)
        for api in self.apis:
            for prefix in api.prefixes:
                is_below = path == prefix or path.startswith(prefix.rstrip("/") + "/")
                if is_below and len(prefix) > best[0]:
                    best = (len(prefix), api)
        return (best[1] or self.apis[0]).errors


def _options(path: str, allowed: Sequence[str]) -> Row:
    """What a path takes, for whoever asks."""
    headers = {"allow": ", ".join(allowed)}

    async def answer(request: Request) -> Reply:
        del request
        return Reply(b"", 204, headers=headers)

    return Row(
        method="OPTIONS", path=path, auth=NOBODY_IN_PARTICULAR, handler=answer, status=204,
        summary="Say what the path takes.",
    )  # fmt: skip


def _named_by(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The API that a client's headers name; empty where they name none."""
    for name, value in headers:
        if name == b"anthropic-version":
            return "anthropic"
        if name == b"x-goog-api-key":
            return "google"
        if name == b"authorization":
            _, _, key = value.partition(b" ")
            if key.strip().startswith(b"app-"):
                return "service"
            if key.strip().startswith(b"dataset-"):
                return "knowledge"
    return ""


def _allowed(places: Sequence[_Place]) -> list[str]:
    """What `Allow` says of a path: HEAD goes with GET, OPTIONS with everything."""
    methods = {method for place in places for method in place.rows} | {"OPTIONS"}
    if "GET" in methods:
        methods.add("HEAD")
    return [method for method in METHODS if method in methods]


def _unnamed(path: str) -> str:
    """A path with its named parts numbered: two paths that match the same are then the same."""
    pieces = path.split("{")
    numbered = [pieces[0]]
    for number, piece in enumerate(pieces[1:]):
        part, _, rest = piece.partition("}")
        _, colon, kind = part.partition(":")
        numbered.append(f"p{number}{colon}{kind}}}{rest}")
    return "{".join(numbered)


def _beginnings(path: str) -> tuple[str, ...]:
    """The literal beginnings by which patterns are kept, longest first: three segments, two, one, none."""
    segments = path.split("/")[1:4]
    return tuple("/".join(segments[:count]) for count in range(len(segments), -1, -1))


def _by_beginning(patterns: Iterable[tuple[_Place, Route]]) -> dict[str, list[tuple[_Place, Route]]]:
    """Patterns by the segments before their first named part, of three at most; the most particular first."""
    kept: dict[str, list[tuple[_Place, Route]]] = {}
    for place, route in patterns:
        literal: list[str] = []
        for segment in place.path.split("/")[1:4]:
            if "{" in segment:
                break
            literal.append(segment)
        kept.setdefault("/".join(literal), []).append((place, route))
    for places in kept.values():
        places.sort(key=lambda pair: _particularity(pair[0].path))
    return kept


def _particularity(path: str) -> tuple[Any, ...]:
    """What sorts a pattern before those that take more: literal text before a part with text around it, that before a
    bare named part, that before one that takes slashes."""
    ranks: list[int] = []
    for segment in path.split("/")[1:]:
        if "{" not in segment:
            ranks.append(0)
        elif ":path}" in segment:
            ranks.append(4 if segment.endswith("}") else 3)
        else:
            ranks.append(2 if segment.startswith("{") and segment.endswith("}") else 1)
    return (*ranks, 5)
