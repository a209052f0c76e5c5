"""Jinja2 templates that can be rendered in this process: those whose cost is bounded by what they are given.

Jinja2's own parser reads the template; a small interpreter walks what it found, and counts. It knows output, names,
attributes and items of plain data, conditions, loops over data, `set`, and filters that only shorten or copy. Whatever
else stands in a template (calls, macros, arithmetic that multiplies, other filters), and whatever does not work out, is
left to the jail, where Jinja2 itself decides what comes of it.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

_MOST_STEPS = 50_000
_MOST_TEMPLATE = 200_000
_MOST_TEXT = 1_000_000
_MOST_NUMBER = 2**53


class _Elsewhere(Exception):
    """This template is not for here."""


class _Undefined:
    __slots__ = ()

    def __bool__(self) -> bool:
        return False


_UNDEFINED = _Undefined()
_TYPES: dict[str, Callable[["_Values", Any], Any]] = {}


def render_now(template: str, variables: Mapping[str, Any], *, most: int) -> str | None:
    """The text; None where this template is for the jail."""
    if "{" not in template:
        return template.removesuffix("\n") if len(template) <= most else None
    parsed = _parsed(template)
    if parsed is None:
        return None
    render = _Render(variables, most)
    try:
        render.body(parsed.body)
    except (_Elsewhere, RecursionError):
        return None
    return "".join(render.out)


@lru_cache(1024)
def _parsed(template: str) -> Any:
    if len(template) > _MOST_TEMPLATE:
        return None
    environment = _environment()
    try:
        return environment.parse(template)
    except (_template_error(), RecursionError):
        return None


@lru_cache(1)
def _environment() -> Any:
    from jinja2 import Environment

    return Environment(autoescape=False)  # noqa: S701  texts, not pages; and it only parses


@lru_cache(1)
def _template_error() -> type[Exception]:
    from jinja2.exceptions import TemplateError

    return TemplateError


class _Values:
    """What expressions come to, with the names that are in scope."""

    __slots__ = ("_steps", "scope")

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.scope: dict[str, Any] = dict(variables)
        self._steps = 0

    def count(self) -> None:
        """One more step, of statements too. Raises _Elsewhere where it is one too many."""
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise _Elsewhere

    def value(self, node: Any) -> Any:
        """Raises _Elsewhere for what is not known here."""
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise _Elsewhere
        compute = _TYPES.get(type(node).__name__)
        if compute is None:
            raise _Elsewhere
        return compute(self, node)

    def const(self, node: Any) -> Any:
        return node.value

    def name(self, node: Any) -> Any:
        return self.scope.get(node.name, _UNDEFINED)

    def getattr(self, node: Any) -> Any:
        return _member(self.value(node.node), node.attr)

    def getitem(self, node: Any) -> Any:
        holder, key = self.value(node.node), self.value(node.arg)
        if isinstance(holder, list) and isinstance(key, int) and not isinstance(key, bool):
            return holder[key] if -len(holder) <= key < len(holder) else _UNDEFINED
        if isinstance(key, str):
            return _member(holder, key)
        raise _Elsewhere

    def both(self, node: Any) -> Any:
        return self.value(node.left) and self.value(node.right)

    def either(self, node: Any) -> Any:
        return self.value(node.left) or self.value(node.right)

    def negate(self, node: Any) -> bool:
        return not self.value(node.node)

    def choose(self, node: Any) -> Any:
        if self.value(node.test):
            return self.value(node.expr1)
        return _UNDEFINED if node.expr2 is None else self.value(node.expr2)

    def add(self, node: Any) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        if isinstance(left, str) and isinstance(right, str) and len(left) + len(right) <= _MOST_TEXT:
            return left + right
        return _number(left) + _number(right)

    def subtract(self, node: Any) -> Any:
        return _number(self.value(node.left)) - _number(self.value(node.right))

    def concat(self, node: Any) -> str:
        pieces = [self.value(one) for one in node.nodes]
        if not all(isinstance(one, str | int) for one in pieces) or sum(len(str(one)) for one in pieces) > _MOST_TEXT:
            raise _Elsewhere
        return "".join(str(one) for one in pieces)

    def compare(self, node: Any) -> bool:
        left = self.value(node.expr)
        for operand in node.ops:
            right = self.value(operand.expr)
            if left is _UNDEFINED or right is _UNDEFINED:
                raise _Elsewhere
            try:
                if not _COMPARISONS[operand.op](left, right):
                    return False
            except (KeyError, TypeError):
                raise _Elsewhere from None
            left = right
        return True

    def items(self, node: Any) -> list[Any]:
        return [self.value(one) for one in node.items]

    def test(self, node: Any) -> bool:
        value = self.value(node.node)
        match node.name:
            case "defined":
                return value is not _UNDEFINED
            case "undefined":
                return value is _UNDEFINED
            case "none":
                return value is None
            case "string":
                return isinstance(value, str)
            case _:
                raise _Elsewhere

    def filter(self, node: Any) -> Any:
        apply = _FILTERS.get(node.name)
        if apply is None or node.kwargs or node.dyn_args or node.dyn_kwargs or node.node is None:
            raise _Elsewhere
        value, arguments = self.value(node.node), [self.value(one) for one in node.args]
        if node.name not in ("default", "d") and value is _UNDEFINED:
            raise _Elsewhere
        try:
            return apply(value, *arguments)
        except (TypeError, ValueError, IndexError, KeyError, OverflowError):
            raise _Elsewhere from None


class _Render:
    """Carries out statements, and collects what they say."""

    __slots__ = ("_most", "_size", "_values", "out")

    def __init__(self, variables: Mapping[str, Any], most: int) -> None:
        self._values = _Values(variables)
        self.out: list[str] = []
        self._most = most
        self._size = 0

    def body(self, nodes: Any) -> None:
        for node in nodes:
            self._statement(node)

    def _statement(self, node: Any) -> None:
        self._values.count()
        match type(node).__name__:
            case "Output":
                for one in node.nodes:
                    self._output(one)
            case "If":
                self._if(node)
            case "For":
                self._for(node)
            case "Assign":
                if type(node.target).__name__ != "Name":
                    raise _Elsewhere
                self._values.scope[node.target.name] = self._values.value(node.node)
            case _:
                raise _Elsewhere

    def _output(self, node: Any) -> None:
        if type(node).__name__ == "TemplateData":
            self._say(node.data)
            return
        value = self._values.value(node)
        match value:
            case _Undefined():
                return
            case str():
                self._say(value)
            case dict() | list():
                if _large(value, _MOST_TEXT):
                    raise _Elsewhere
                self._say(str(value))
            case _:
                self._say(str(value))

    def _if(self, node: Any) -> None:
        if self._values.value(node.test):
            self.body(node.body)
            return
        for branch in node.elif_:
            if self._values.value(branch.test):
                self.body(branch.body)
                return
        self.body(node.else_)

    def _for(self, node: Any) -> None:
        if node.recursive or type(node.target).__name__ != "Name" or "loop" in self._values.scope:
            raise _Elsewhere
        items = self._values.value(node.iter)
        if items is _UNDEFINED:
            items = []
        if not isinstance(items, list):
            raise _Elsewhere
        outer = self._values.scope
        if node.test is not None:
            items = [one for one in items if self._passes(node, one, outer)]
        for place, one in enumerate(items):
            self._values.scope = {**outer, node.target.name: one, "loop": _loop(place, len(items))}
            self.body(node.body)
        self._values.scope = outer
        if not items:
            self.body(node.else_)

    def _passes(self, node: Any, item: Any, outer: dict[str, Any]) -> bool:
        self._values.count()
        self._values.scope = {**outer, node.target.name: item}
        try:
            return bool(self._values.value(node.test))
        finally:
            self._values.scope = outer

    def _say(self, text: str) -> None:
        self._size += len(text)
        if self._size > self._most:
            raise _Elsewhere
        self.out.append(text)


def _member(holder: Any, name: str) -> Any:
    # An object's methods go before its keys in Jinja2: a key that is called like one is not for here.
    if not isinstance(holder, dict) or hasattr(dict, name):
        raise _Elsewhere
    return holder.get(name, _UNDEFINED)


def _loop(place: int, count: int) -> dict[str, Any]:
    return {
        "index": place + 1, "index0": place, "revindex": count - place, "revindex0": count - place - 1,
        "first": place == 0, "last": place == count - 1, "length": count,
    }  # fmt: skip


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MOST_NUMBER:
        raise _Elsewhere
    return value


def _large(value: Any, most: int) -> bool:
    total = 0
    todo = [value]
    while todo:
        one = todo.pop()
        total += len(one) if isinstance(one, str) else 8
        if total > most:
            return True
        if isinstance(one, dict):
            todo += one.values()
            todo += one.keys()
        elif isinstance(one, list):
            todo += one
    return False


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise _Elsewhere
    return value


def _default(value: Any, other: Any = "", is_falsy_too: Any = False) -> Any:
    return other if value is _UNDEFINED or (is_falsy_too and not value) else value


def _join(value: Any, between: Any = "") -> str:
    if not isinstance(value, list) or not isinstance(between, str):
        raise _Elsewhere
    if not all(isinstance(one, str | int | float) for one in value):
        raise _Elsewhere
    pieces = [str(one) for one in value]
    if sum(map(len, pieces)) + len(between) * len(pieces) > _MOST_TEXT:
        raise _Elsewhere
    return between.join(pieces)


def _replace(value: Any, old: Any, new: Any) -> str:
    text, old, new = _text(value), _text(old), _text(new)
    if len(text) + (text.count(old) if old else len(text) + 1) * len(new) > _MOST_TEXT:
        raise _Elsewhere
    return text.replace(old, new)


def _length(value: Any) -> int:
    if not isinstance(value, str | list | dict):
        raise _Elsewhere
    return len(value)


def _first(value: Any) -> Any:
    if not isinstance(value, list | str):
        raise _Elsewhere
    return value[0] if value else _UNDEFINED


def _last(value: Any) -> Any:
    if not isinstance(value, list | str):
        raise _Elsewhere
    return value[-1] if value else _UNDEFINED


def _as_string(value: Any) -> str:
    if isinstance(value, dict | list) and _large(value, _MOST_TEXT):
        raise _Elsewhere
    return str(value)


_FILTERS: Mapping[str, Callable[..., Any]] = {
    "default": _default, "d": _default, "join": _join, "replace": _replace, "length": _length, "count": _length,
    "first": _first, "last": _last, "string": _as_string, "upper": lambda value: _text(value).upper(),
    "lower": lambda value: _text(value).lower(), "trim": lambda value: _text(value).strip(),
}  # fmt: skip
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda left, right: left == right, "ne": lambda left, right: left != right,
    "lt": lambda left, right: left < right, "gt": lambda left, right: left > right,
    "lteq": lambda left, right: left <= right, "gteq": lambda left, right: left >= right,
    "in": lambda left, right: left in right, "notin": lambda left, right: left not in right,
}  # fmt: skip
_TYPES.update({
    "Const": _Values.const, "TemplateData": lambda values, node: node.data, "Name": _Values.name,
    "Getattr": _Values.getattr, "Getitem": _Values.getitem, "And": _Values.both, "Or": _Values.either,
    "Not": _Values.negate, "CondExpr": _Values.choose, "Add": _Values.add, "Sub": _Values.subtract,
    "Concat": _Values.concat, "Compare": _Values.compare, "List": _Values.items, "Test": _Values.test,
    "Filter": _Values.filter,
})  # fmt: skip
