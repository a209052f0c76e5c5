"""Render simple Jinja2 templates in this process: those whose cost is bounded by the
size of their input.

Jinja2's parser reads the template; a small interpreter walks the tree and counts its
steps. It supports output, names, attributes and items of plain data, conditions, loops
over data, `set`, and filters that only shorten or copy. Everything else (calls, macros,
multiplication, other filters), and every error, is left to the sandbox, where Jinja2
itself decides the result.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from modelyard.base.json_types import is_array, is_object

_MAX_STEPS = 50_000
_MAX_TEMPLATE_CHARS = 200_000
_MAX_TEXT_CHARS = 1_000_000
_MAX_NUMBER = 2**53


class _UnsupportedTemplate(Exception):
    """The template cannot be rendered here; use the sandbox."""


class _Undefined:
    __slots__ = ()

    def __bool__(self) -> bool:
        return False


_UNDEFINED = _Undefined()
_EVALUATORS: dict[str, Callable[["_Evaluator", Any], Any]] = {}


def render_in_process(
    template: str, variables: Mapping[str, Any], *, max_chars: int
) -> str | None:
    """Render a template to at most `max_chars` characters. Returns None if the template
    needs the sandbox."""
    # Without any markup the template is its own output; Jinja2 drops one trailing
    # newline.
    if "{" not in template:
        return template.removesuffix("\n") if len(template) <= max_chars else None
    parsed = _parse(template)
    if parsed is None:
        return None
    render = _Renderer(variables, max_chars)
    try:
        render.body(parsed.body)
    except (_UnsupportedTemplate, RecursionError):
        return None
    return "".join(render.out)


@lru_cache(1024)
def _parse(template: str) -> Any:
    """Parse a template to Jinja2's tree; None if only the sandbox can render it.

    That is so for invalid templates and for more than 200,000 characters. Results are
    cached.
    """
    if len(template) > _MAX_TEMPLATE_CHARS:
        return None
    environment = _environment()
    # A syntax error is left to the sandbox too, which produces the error message.
    try:
        return environment.parse(template)
    except (_template_error(), RecursionError):
        return None


@lru_cache(1)
def _environment() -> Any:
    """Return Jinja2's environment, which only parses: nothing is rendered with it."""
    from jinja2 import Environment

    return Environment(autoescape=False)  # noqa: S701


@lru_cache(1)
def _template_error() -> type[Exception]:
    """Return Jinja2's error class. Imported late, since Jinja2 is slow to import."""
    from jinja2.exceptions import TemplateError

    return TemplateError


class _Evaluator:
    """Evaluates expressions, given the names in scope."""

    __slots__ = ("_steps", "scope")

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.scope: dict[str, Any] = dict(variables)
        self._steps = 0

    def count(self) -> None:
        """Count one step. Raises _UnsupportedTemplate if there are too many."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise _UnsupportedTemplate

    def value(self, node: Any) -> Any:
        """Evaluate an expression node. Raises _UnsupportedTemplate for a node type that is not
        supported."""
        # Inlined from `count`, because this is the innermost loop.
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise _UnsupportedTemplate
        compute = _EVALUATORS.get(type(node).__name__)
        if compute is None:
            raise _UnsupportedTemplate
        return compute(self, node)

    def const(self, node: Any) -> Any:
        """Return the value of a literal."""
        return node.value

    def name(self, node: Any) -> Any:
        """Return a variable's value, or the undefined value."""
        return self.scope.get(node.name, _UNDEFINED)

    def getattr(self, node: Any) -> Any:
        """Evaluate `value.name`."""
        return _member(self.value(node.node), node.attr)

    def getitem(self, node: Any) -> Any:
        """Evaluate `value[key]` for list indexes and string keys."""
        holder, key = self.value(node.node), self.value(node.arg)
        # bool is a subclass of int, but not an index.
        if is_array(holder) and isinstance(key, int) and not isinstance(key, bool):
            return holder[key] if -len(holder) <= key < len(holder) else _UNDEFINED
        if isinstance(key, str):
            return _member(holder, key)
        raise _UnsupportedTemplate

    def both(self, node: Any) -> Any:
        """Evaluate `and`, which returns an operand as in Python."""
        return self.value(node.left) and self.value(node.right)

    def either(self, node: Any) -> Any:
        """Evaluate `or`, which returns an operand as in Python."""
        return self.value(node.left) or self.value(node.right)

    def negate(self, node: Any) -> bool:
        """Evaluate `not`."""
        return not self.value(node.node)

    def choose(self, node: Any) -> Any:
        """Evaluate a conditional expression."""
        if self.value(node.test):
            return self.value(node.expr1)
        return _UNDEFINED if node.expr2 is None else self.value(node.expr2)

    def add(self, node: Any) -> Any:
        """Evaluate `+` for two strings or two numbers."""
        left, right = self.value(node.left), self.value(node.right)
        # The length is checked before concatenating, so that memory stays bounded.
        if (
            isinstance(left, str)
            and isinstance(right, str)
            and len(left) + len(right) <= _MAX_TEXT_CHARS
        ):
            return left + right
        return _number(left) + _number(right)

    def subtract(self, node: Any) -> Any:
        """Evaluate `-` for two numbers."""
        return _number(self.value(node.left)) - _number(self.value(node.right))

    def concat(self, node: Any) -> str:
        """Evaluate `~`, which concatenates operands as text."""
        operands = [self.value(operand_node) for operand_node in node.nodes]
        if (
            not all(isinstance(operand, str | int) for operand in operands)
            or sum(len(str(operand)) for operand in operands) > _MAX_TEXT_CHARS
        ):
            raise _UnsupportedTemplate
        return "".join(str(operand) for operand in operands)

    def compare(self, node: Any) -> bool:
        """Evaluate a chain of comparisons."""
        left = self.value(node.expr)
        for operand in node.ops:
            right = self.value(operand.expr)
            # Jinja2 has special rules for comparing undefined values.
            if left is _UNDEFINED or right is _UNDEFINED:
                raise _UnsupportedTemplate
            try:
                if not _COMPARISONS[operand.op](left, right):
                    return False
            except (KeyError, TypeError):
                raise _UnsupportedTemplate from None
            left = right
        return True

    def items(self, node: Any) -> list[Any]:
        """Evaluate a list literal."""
        return [self.value(child) for child in node.items]

    def test(self, node: Any) -> bool:
        """Evaluate an `is` test: defined, undefined, none or string."""
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
                raise _UnsupportedTemplate

    def filter(self, node: Any) -> Any:
        """Apply one of the supported filters."""
        apply = _FILTERS.get(node.name)
        # Dynamic arguments could be of any size, and keyword arguments depend on the
        # filter.
        if (
            apply is None
            or node.kwargs
            or node.dyn_args
            or node.dyn_kwargs
            or node.node is None
        ):
            raise _UnsupportedTemplate
        value, arguments = (
            self.value(node.node),
            [self.value(argument) for argument in node.args],
        )
        # Only `default` accepts an undefined value.
        if node.name not in ("default", "d") and value is _UNDEFINED:
            raise _UnsupportedTemplate
        try:
            return apply(value, *arguments)
        except (TypeError, ValueError, IndexError, KeyError, OverflowError):
            raise _UnsupportedTemplate from None


class _Renderer:
    """Executes statements and collects their output."""

    __slots__ = ("_most", "_size", "_values", "out")

    def __init__(self, variables: Mapping[str, Any], max_chars: int) -> None:
        self._values = _Evaluator(variables)
        self.out: list[str] = []
        self._most = max_chars
        self._size = 0

    def body(self, nodes: Any) -> None:
        """Execute a list of statements."""
        for node in nodes:
            self._statement(node)

    def _statement(self, node: Any) -> None:
        """Execute a text output, an `if`, a `for`, or a `set` of one name.

        Raises _UnsupportedTemplate for other statements and beyond the maximum number
        of steps.
        """
        self._values.count()
        match type(node).__name__:
            case "Output":
                for child in node.nodes:
                    self._output(child)
            case "If":
                self._if(node)
            case "For":
                self._for(node)
            case "Assign":
                if type(node.target).__name__ != "Name":
                    raise _UnsupportedTemplate
                self._values.scope[node.target.name] = self._values.value(node.node)
            case _:
                raise _UnsupportedTemplate

    def _output(self, node: Any) -> None:
        """Write literal text, or the value of an expression as Jinja2 would.

        An undefined value gives nothing. Raises _UnsupportedTemplate if the text would
        be too long.
        """
        if type(node).__name__ == "TemplateData":
            self._append_output(node.data)
            return
        value = self._values.value(node)
        match value:
            case _Undefined():
                return
            case str():
                self._append_output(value)
            case _:
                self._append_output(_as_string(value))

    def _if(self, node: Any) -> None:
        """Execute the first branch whose condition holds, or else the `else` branch."""
        branches = [(node.test, node.body)]
        branches += ((branch.test, branch.body) for branch in node.elif_)
        for test, body in branches:
            if self._values.value(test):
                self.body(body)
                return
        self.body(node.else_)

    def _for(self, node: Any) -> None:
        """Execute a loop over a list, or its `else` branch if nothing passes.

        An undefined value counts as an empty list. Assignments in the body do not
        outlast an iteration. Raises _UnsupportedTemplate for nested or recursive loops,
        unpacking, and values other than lists.
        """
        # Nested loops and unpacking are left to the sandbox: `loop` would need its
        # parent.
        if (
            node.recursive
            or type(node.target).__name__ != "Name"
            or "loop" in self._values.scope
        ):
            raise _UnsupportedTemplate
        items = self._values.value(node.iter)
        # Jinja2 treats an undefined iterable as empty.
        if items is _UNDEFINED:
            items = list[Any]()
        if not is_array(items):
            raise _UnsupportedTemplate
        outer = self._values.scope
        if node.test is not None:
            # The loop's own filter decides before counting, because `loop.length`
            # counts only what passes.
            items = [element for element in items if self._passes(node, element, outer)]
        for index, element in enumerate(items):
            # Each iteration has a fresh scope: assignments inside do not leak out.
            self._values.scope = {
                **outer,
                node.target.name: element,
                "loop": _loop_variables(index, len(items)),
            }
            self.body(node.body)
        self._values.scope = outer
        if not items:
            self.body(node.else_)

    def _passes(self, node: Any, item: Any, outer: dict[str, Any]) -> bool:
        """Return whether an element passes the `if` of a loop's header.

        Counts one step; the scope is `outer` again afterwards.
        """
        self._values.count()
        self._values.scope = {**outer, node.target.name: item}
        try:
            return bool(self._values.value(node.test))
        finally:
            self._values.scope = outer

    def _append_output(self, text: str) -> None:
        """Append text. Raises _UnsupportedTemplate beyond the output limit."""
        self._size += len(text)
        if self._size > self._most:
            raise _UnsupportedTemplate
        self.out.append(text)


def _member(holder: Any, name: str) -> Any:
    """Return the value of a dict's key, or the undefined value.

    Raises _UnsupportedTemplate for other objects and for the names of dict's
    attributes.
    """
    # In Jinja2, methods of dict take precedence over keys: a key with such a name is
    # left to the sandbox.
    if not is_object(holder) or hasattr(dict, name):
        raise _UnsupportedTemplate
    return holder.get(name, _UNDEFINED)


def _loop_variables(index: int, count: int) -> dict[str, Any]:
    """Return the attributes of Jinja2's `loop` for the iteration `index` of `count`.

    `index` counts from 0. `cycle`, `previtem` and other attributes are not included.
    """
    return {
        "index": index + 1,
        "index0": index,
        "revindex": count - index,
        "revindex0": count - index - 1,
        "first": index == 0,
        "last": index == count - 1,
        "length": count,
    }


def _number(value: Any) -> Any:
    """Return the value if it is a number of at most 2**53 in absolute terms.

    Raises _UnsupportedTemplate otherwise, also for booleans.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Beyond 2**53 floats are inexact, and integers could grow without limit.
    if not is_number or abs(value) > _MAX_NUMBER:
        raise _UnsupportedTemplate
    return value


def _is_larger_than(value: Any, max_chars: int) -> bool:
    """Return whether nested data exceeds a size, estimated in characters.

    Strings count with their length, anything else as 8; stops as soon as the size is
    exceeded.
    """
    total = 0
    # An explicit stack: the data may be nested deeply.
    todo = [value]
    while todo:
        current = todo.pop()
        total += len(current) if isinstance(current, str) else 8
        if total > max_chars:
            return True
        if isinstance(current, dict):
            todo += current.values()
            todo += current.keys()
        elif isinstance(current, list):
            todo += current
    return False


def _text(value: Any) -> str:
    """Return the value if it is a text of acceptable length."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT_CHARS:
        raise _UnsupportedTemplate
    return value


def _default(value: Any, fallback: Any = "", is_falsy_too: Any = False) -> Any:
    """Apply Jinja2's `default` filter."""
    return fallback if value is _UNDEFINED or (is_falsy_too and not value) else value


def _join(value: Any, separator: Any = "") -> str:
    """Apply Jinja2's `join` filter to a list of strings and numbers.

    Raises _UnsupportedTemplate for anything else and for a result of more than a
    million characters.
    """
    if not is_array(value) or not isinstance(separator, str):
        raise _UnsupportedTemplate
    if not all(isinstance(element, str | int | float) for element in value):
        raise _UnsupportedTemplate
    texts = [str(element) for element in value]
    if sum(map(len, texts)) + len(separator) * len(texts) > _MAX_TEXT_CHARS:
        raise _UnsupportedTemplate
    return separator.join(texts)


def _replace(value: Any, old: Any, new: Any) -> str:
    """Apply Jinja2's `replace` filter without a count.

    Raises _UnsupportedTemplate unless all three are strings, and if the result could
    exceed a million characters.
    """
    text, old, new = _text(value), _text(old), _text(new)
    # Without an old text, the new one stands between all characters.
    occurrences = text.count(old) if old else len(text) + 1
    # Upper bound of the result's length before it is built.
    if len(text) + occurrences * len(new) > _MAX_TEXT_CHARS:
        raise _UnsupportedTemplate
    return text.replace(old, new)


def _length(value: Any) -> int:
    """Apply Jinja2's `length` filter."""
    if isinstance(value, str) or is_array(value) or is_object(value):
        return len(value)
    raise _UnsupportedTemplate


def _first(value: Any) -> Any:
    """Apply Jinja2's `first` filter; undefined for an empty value."""
    if is_array(value) or isinstance(value, str):
        return value[0] if value else _UNDEFINED
    raise _UnsupportedTemplate


def _last(value: Any) -> Any:
    """Apply Jinja2's `last` filter; undefined for an empty value."""
    if is_array(value) or isinstance(value, str):
        return value[-1] if value else _UNDEFINED
    raise _UnsupportedTemplate


def _as_string(value: Any) -> str:
    """Apply Jinja2's `string` filter."""
    is_nested = is_object(value) or is_array(value)
    # The textual form of nested data may be much larger than expected.
    if is_nested and _is_larger_than(value, _MAX_TEXT_CHARS):
        raise _UnsupportedTemplate
    return str(value)


def _upper(value: Any) -> str:
    """Apply Jinja2's `upper` filter."""
    return _text(value).upper()


def _lower(value: Any) -> str:
    """Apply Jinja2's `lower` filter."""
    return _text(value).lower()


def _trim(value: Any) -> str:
    """Apply Jinja2's `trim` filter."""
    return _text(value).strip()


_FILTERS: Mapping[str, Callable[..., Any]] = {
    "default": _default,
    "d": _default,
    "join": _join,
    "replace": _replace,
    "length": _length,
    "count": _length,
    "first": _first,
    "last": _last,
    "string": _as_string,
    "upper": _upper,
    "lower": _lower,
    "trim": _trim,
}
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda left, right: left == right,
    "ne": lambda left, right: left != right,
    "lt": lambda left, right: left < right,
    "gt": lambda left, right: left > right,
    "lteq": lambda left, right: left <= right,
    "gteq": lambda left, right: left >= right,
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}
# Filled after the classes are defined, because it refers to their methods.
_EVALUATORS.update(
    {
        "Const": _Evaluator.const,
        "TemplateData": lambda values, node: node.data,
        "Name": _Evaluator.name,
        "Getattr": _Evaluator.getattr,
        "Getitem": _Evaluator.getitem,
        "And": _Evaluator.both,
        "Or": _Evaluator.either,
        "Not": _Evaluator.negate,
        "CondExpr": _Evaluator.choose,
        "Add": _Evaluator.add,
        "Sub": _Evaluator.subtract,
        "Concat": _Evaluator.concat,
        "Compare": _Evaluator.compare,
        "List": _Evaluator.items,
        "Test": _Evaluator.test,
        "Filter": _Evaluator.filter,
    }
)
