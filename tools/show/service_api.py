"""Read the documentation of the service API: its endpoints, their statuses and error
codes, and the shapes of responses."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tools.show.proof import ROOT

_TOKEN = re.compile(r"\s*([A-Za-z_][\w-]*|\d+|[{}\[\]()|&,:?<>-])")


@dataclass(frozen=True)
class Shape:
    """The documented shape of a JSON value.

    `kind` is object, list, any, ref, one of, all of, enum, or the name of a JSON type.
    """

    kind: str
    fields: dict[str, tuple["Shape", bool]] = field(
        default_factory=dict[str, tuple["Shape", bool]]
    )
    """Field name to (its shape, whether it may be absent)."""
    of: tuple["Shape", ...] = ()
    words: tuple[str, ...] = ()


class _Reader:
    """Recursive descent parser of the compact notation `{name?:string, list:integer[],
    one:A|B, both:A&B, of:string{x,y}}`."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._at = 0

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, expected: str = "") -> str:
        """Consume and return the next token. Raises ValueError if it is not `expected`."""
        token = self._next
        if expected and token != expected:
            raise ValueError(f"{expected!r} is expected, not {token!r} at {self._at}")
        self._at += 1
        return token

    def read(self) -> Shape:
        """Parse alternatives, separated by `|`, which binds weakest."""
        parts = [self._both()]
        while self._next == "|":
            self._take()
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Shape("one of", of=tuple(parts))

    def _both(self) -> Shape:
        """Parse intersections, separated by `&`."""
        parts = [self._one()]
        while self._next == "&":
            self._take()
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else Shape("all of", of=tuple(parts))

    def _one(self) -> Shape:
        """Parse a single shape with any number of `[]` after it."""
        shape = self._object() if self._next == "{" else self._named()
        while self._next == "[":
            self._take("[")
            self._take("]")
            shape = Shape("list", of=(shape,))
        return shape

    def _object(self) -> Shape:
        """Parse `{name: shape, name?: shape}`."""
        self._take("{")
        fields: dict[str, tuple[Shape, bool]] = {}
        while self._next != "}":
            name = self._take()
            may_lack = self._next == "?"
            if may_lack:
                self._take()
            self._take(":")
            fields[name] = (self.read(), may_lack)
            if self._next == ",":
                self._take()
        self._take("}")
        return Shape("object", fields)

    def _named(self) -> Shape:
        """Parse a type name or a reference, with its optional choices in braces."""
        name = self._take()
        # Skip a format such as `string(uuid)`: only the type is checked.
        if self._next == "(":
            while self._take() != ")":
                pass
        choices: list[str] = []
        if self._next == "{":
            self._take()
            while self._next != "}":
                token = self._take()
                if token != ",":
                    choices.append(token)
            self._take("}")
        if name in ("string", "integer", "number", "boolean", "object", "any", "None"):
            return Shape(name, words=tuple(choices))
        return Shape("ref", words=(name,))


@dataclass(frozen=True)
class Endpoint:
    """One documented endpoint."""

    method: str
    path: str
    what: str
    query: tuple[str, ...]
    body: str | None
    answers: dict[int, dict[str, Any]]

    @property
    def name(self) -> str:
        """The method and the path, as the documentation lists them."""
        return f"{self.method} {self.path}"

    @property
    def is_of_datasets(self) -> bool:
        """Whether the endpoint belongs to the knowledge API."""
        return self.path.startswith(("/datasets", "/workspaces"))


class Description:
    """The documented API: named shapes and endpoints."""

    def __init__(self) -> None:
        document = json.loads(
            (ROOT / "tests" / "data" / "service_api.json").read_text("utf-8")
        )
        self.source: str = document["source"]
        self.shapes = {
            name: _Reader(text).read() for name, text in document["schemas"].items()
        }
        self.endpoints = {
            endpoint.name: endpoint
            for endpoint in (
                Endpoint(
                    operation["method"],
                    operation["path"],
                    operation["what"],
                    tuple(
                        part["name"] for part in operation["query"] if part["required"]
                    ),
                    (operation["body"] or {}).get("type"),
                    {
                        int(code): response
                        for code, response in operation["answers"].items()
                    },
                )
                for operation in document["endpoints"]
            )
        }

    def shape_of(self, endpoint: Endpoint, status: int) -> Shape | None:
        """Return the documented shape of a response; None if it has no JSON body."""
        text = endpoint.answers[status].get("json")
        return _Reader(text).read() if text else None

    def problems(
        self, value: Any, shape: Shape, path: str = "", *, may_be_null: bool = True
    ) -> Iterator[str]:
        """Yield the differences between a value and its documented shape: missing
        fields and wrong types.

        Null is accepted unless `may_be_null` is False: the documentation does not mark
        nullable fields.
        """
        if value is None and may_be_null:
            return
        match shape.kind:
            case "ref":
                yield from self.problems(value, self.shapes[shape.words[0]], path)
            case "all of":
                for inner in shape.of:
                    yield from self.problems(value, inner, path)
            case "one of":
                if not any(self._matches(value, option, path) for option in shape.of):
                    yield f"{path} matches none of the documented alternatives"
            case "list":
                yield from self._list_problems(value, shape, path)
            case "object" if shape.fields:
                yield from self._object_problems(value, shape, path)
            case _:
                yield from _of_type(value, shape, path)

    def _matches(self, value: Any, shape: Shape, path: str) -> bool:
        """Return whether a value has no differences from a shape."""
        return next(self.problems(value, shape, path), None) is None

    def _list_problems(self, value: Any, shape: Shape, path: str) -> Iterator[str]:
        """Yield the differences of a list's elements."""
        if not isinstance(value, list):
            yield f"{path} must be a list"
            return
        # The first elements are enough: all elements of a list come from the same code.
        for element in value[:3]:
            yield from self.problems(element, shape.of[0], f"{path}[]")

    def _object_problems(self, value: Any, shape: Shape, path: str) -> Iterator[str]:
        """Yield the missing fields of an object, and the differences of the others."""
        if not isinstance(value, dict):
            yield f"{path} must be an object"
            return
        for name, (inner, _) in shape.fields.items():
            if name in value:
                yield from self.problems(value[name], inner, f"{path}.{name}")
            else:
                yield f"{path}.{name} is missing"


def _of_type(value: Any, shape: Shape, path: str) -> Iterator[str]:
    """Yield a problem if the value is not of the shape's JSON type or not one of its
    choices."""
    is_type = {
        "string": isinstance(value, str),
        # In Python a boolean is an integer; in JSON it is not.
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": isinstance(value, bool),
        "object": isinstance(value, dict),
        "any": True,
        "None": value is None,
    }
    if not is_type[shape.kind]:
        yield f"{path} must be {shape.kind}, not {str(value)[:40]!r}"
    elif (
        shape.words
        and shape.kind == "string"
        and value not in shape.words
        and value != ""
    ):
        yield f"{path} must be one of {', '.join(shape.words)}, not {str(value)[:40]!r}"
