"""What is documented of the service API, read: its endpoints, their statuses and codes, and the shapes of answers."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tools.show.proof import ROOT

_TOKEN = re.compile(r"\s*([A-Za-z_][\w-]*|\d+|[{}\[\]()|&,:?<>-])")


@dataclass(frozen=True)
class Shape:
    """`kind`: object, list, any, ref, one of, all of, enum, or a JSON type's name."""

    kind: str
    fields: dict[str, tuple["Shape", bool]] = field(default_factory=dict[str, tuple["Shape", bool]])
    """Name → its shape, and whether it may be absent."""
    of: tuple["Shape", ...] = ()
    words: tuple[str, ...] = ()


class _Reader:
    """`{name?:string, list:integer[], one:A|B, both:A&B, of:string{x,y}}` → Shape."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._at = 0

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, wanted: str = "") -> str:
        token = self._next
        if wanted and token != wanted:
            raise ValueError(f"{wanted!r} is expected, not {token!r} at {self._at}")
        self._at += 1
        return token

    def read(self) -> Shape:
        parts = [self._both()]
        while self._next == "|":
            self._take()
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Shape("one of", of=tuple(parts))

    def _both(self) -> Shape:
        parts = [self._one()]
        while self._next == "&":
            self._take()
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else Shape("all of", of=tuple(parts))

    def _one(self) -> Shape:
        found = self._object() if self._next == "{" else self._named()
        while self._next == "[":
            self._take("[")
            self._take("]")
            found = Shape("list", of=(found,))
        return found

    def _object(self) -> Shape:
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
        name = self._take()
        if self._next == "(":
            while self._take() != ")":
                pass
        words: list[str] = []
        if self._next == "{":
            self._take()
            while self._next != "}":
                word = self._take()
                if word != ",":
                    words.append(word)
            self._take("}")
        if name in ("string", "integer", "number", "boolean", "object", "any", "None"):
            return Shape(name, words=tuple(words))
        return Shape("ref", words=(name,))


@dataclass(frozen=True)
class Endpoint:
    method: str
    path: str
    what: str
    query: tuple[str, ...]
    body: str | None
    answers: dict[int, dict[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_of_datasets(self) -> bool:
        return self.path.startswith(("/datasets", "/workspaces"))


class Description:
    def __init__(self) -> None:
        told = json.loads((ROOT / "tests" / "data" / "service_api.json").read_text("utf-8"))
        self.source: str = told["source"]
        self.shapes = {name: _Reader(text).read() for name, text in told["schemas"].items()}
        self.endpoints = {
            one.name: one
            for one in (
                Endpoint(
                    each["method"], each["path"], each["what"],
                    tuple(part["name"] for part in each["query"] if part["required"]),
                    (each["body"] or {}).get("type"), {int(code): told for code, told in each["answers"].items()},
                )
                for each in told["endpoints"]
            )
        }  # fmt: skip

    def shape_of(self, endpoint: Endpoint, status: int) -> Shape | None:
        text = endpoint.answers[status].get("json")
        return _Reader(text).read() if text else None

    def problems(  # noqa: C901  one case a kind
        self, value: Any, shape: Shape, at: str = "", *, may_be_null: bool = True
    ) -> Iterator[str]:
        """Where a value is not what is documented: fields that lack, and values of another type."""
        if value is None and may_be_null:
            return
        match shape.kind:
            case "ref":
                yield from self.problems(value, self.shapes[shape.words[0]], at)
            case "all of":
                for one in shape.of:
                    yield from self.problems(value, one, at)
            case "one of":
                if all(any(True for _ in self.problems(value, one, at)) for one in shape.of):
                    yield f"{at} is none of what is documented"
            case "list":
                if not isinstance(value, list):
                    yield f"{at} must be a list"
                    return
                for one in value[:3]:
                    yield from self.problems(one, shape.of[0], f"{at}[]")
            case "object" if shape.fields:
                if not isinstance(value, dict):
                    yield f"{at} must be an object"
                    return
                for name, (one, _) in shape.fields.items():
                    if name not in value:
                        yield f"{at}.{name} lacks"
                    else:
                        yield from self.problems(value[name], one, f"{at}.{name}")
            case _:
                yield from _of_type(value, shape, at)


def _of_type(value: Any, shape: Shape, at: str) -> Iterator[str]:
    fits = {
        "string": isinstance(value, str),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": isinstance(value, bool), "object": isinstance(value, dict), "any": True, "None": value is None,
    }  # fmt: skip
    if not fits[shape.kind]:
        yield f"{at} must be {shape.kind}, not {str(value)[:40]!r}"
    elif shape.words and shape.kind == "string" and value not in shape.words and value != "":
        yield f"{at} must be one of {', '.join(shape.words)}, not {str(value)[:40]!r}"
