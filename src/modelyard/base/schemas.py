"""Values held to JSON schemas that others wrote: nothing is fetched, and the work is bounded before it is done.

The validator is compiled code that cannot be interrupted, and a schema of a few hundred bytes can ask for more work
than there is time in the world: references that double at each step, patterns with large repetitions, `anyOf` that
tries each branch at each level of a tree. So the work is added up first (`_Work`), each pair of a schema's node and a
value's node once, and what would be too much is refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import msgspec

from modelyard.base import computing
from modelyard.base.errors import ModelyardError
from modelyard.base.patterns import PatternError, compile_pattern

MOST_SCHEMA_BYTES = 256 << 10
MOST_SCHEMA_DEPTH = 100
MOST_VALUE_DEPTH = 200
_MOST_WORK = 4_000_000
"""About a twentieth of a second: a node held to a keyword is a unit, and so is half a step of a pattern."""
MOST_PAIRS = 30_000
MOST_PAIRS_APART = 1_000_000
_FEW = 2_000
"""Pairs that are added up faster than a thread is started."""
_PATTERN_BYTES = 256 << 10
_MOST_PATTERNS = 200
_MOST_PATTERN_STEPS = 10_000
_UNKNOWN_STEPS = 2_000
_MOST_BACKTRACKS = 1_000
"""Each may look at the rest of a text, in a third of a hundredth of a microsecond for each character."""
_BACKTRACKING_STEPS = 200

Draft = Literal["7", "2020-12"]


class SchemaError(ModelyardError):
    """A schema that is none, or one that cannot be followed within bounds."""

    code = "invalid_schema"


class TooMuchWorkError(SchemaError):
    """A value is too large to be held to this schema."""

    code = "too_large_for_schema"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where a value does not fit, and why, in words for whoever wrote it."""

    path: tuple[str | int, ...]
    message: str

    def where(self, separator: str, whole: str) -> str:
        return separator.join(str(step) for step in self.path) or whole


class Schema:
    """A compiled schema. Make it with `compiled`."""

    __slots__ = ("_document", "_is_simple", "_size", "_validator")

    def __init__(self, document: Any, draft: Draft) -> None:
        self._document = document
        nodes = list(_schemas_in(document))
        self._is_simple = not any("$ref" in one or "pattern" in one or "patternProperties" in one for one in nodes)
        self._size = _count(document, MOST_SCHEMA_BYTES)
        backtracks = any(_backtracks(pattern) for one in nodes for pattern in _patterns_of(one))
        self._validator = _validator(document, draft, _backtracking() if backtracks else _linear())

    def mismatch(self, value: Any, *, most: int = MOST_PAIRS) -> Mismatch | None:
        """The first thing that does not fit; None where all does. Raises TooMuchWorkError, SchemaError.

        Off the loop `most` may be MOST_PAIRS_APART."""
        self._check_work(value, most)
        return self._first(value)

    async def mismatch_apart(self, value: Any) -> Mismatch | None:
        """As `mismatch`, for larger values: the adding up, which is most of it, is done off the loop."""
        if _count(value, _FEW + 1) <= _FEW and self._size <= _FEW:
            return self.mismatch(value)
        await computing.apart(self._check_work, value, MOST_PAIRS_APART)
        return self._first(value)

    def _check_work(self, value: Any, most_pairs: int) -> None:
        try:
            nodes = _count(value, most_pairs + 1)
            if nodes > most_pairs:
                raise TooMuchWorkError(f"more than {most_pairs:,} values are too many to be held to a JSON schema")
            if not self._is_simple or self._size * nodes > _MOST_WORK:
                _Work(self._document, most_pairs).of(self._document, value)
        except RecursionError as error:
            raise TooMuchWorkError("it is nested too deeply to be held to a JSON schema") from error

    def _first(self, value: Any) -> Mismatch | None:
        try:
            error: Any = next(iter(self._validator.iter_errors(value)), None)
        except RecursionError as error:
            raise TooMuchWorkError("it is nested too deeply to be held to a JSON schema") from error
        except (ValueError, TypeError, UnicodeError) as error:
            raise SchemaError(f"it cannot be held to a JSON schema: {str(error)[:200]}") from error
        return None if error is None else Mismatch(tuple(error.instance_path), error.message[:300])


def is_large(value: Any) -> bool:
    """Whether holding it to a schema takes longer than starting a thread for that."""
    try:
        return _count(value, _FEW + 1) > _FEW
    except TooMuchWorkError:
        return False  # it is refused at once


def compiled(schema: Any, *, draft: Draft = "2020-12", is_lenient: bool = False) -> Schema:
    """A schema, made once for each content. Raises SchemaError that says what is wrong with it.

    Patterns that cannot be matched in linear time are given up after some steps; `is_lenient` leaves them out.
    """
    try:
        body = msgspec.json.encode(schema)
    except RecursionError as error:
        raise SchemaError("the schema is nested too deeply") from error
    except (TypeError, ValueError, OverflowError, UnicodeError) as error:
        raise SchemaError(f"the schema is no JSON: {str(error)[:200]}") from error
    if len(body) > MOST_SCHEMA_BYTES:
        raise SchemaError(f"a schema of {len(body):,} bytes; {MOST_SCHEMA_BYTES:,} are the most")
    return _compiled(body, draft, is_lenient)


@lru_cache(256)
def _compiled(body: bytes, draft: Draft, is_lenient: bool) -> Schema:
    document = msgspec.json.decode(body)
    if not isinstance(document, dict | bool):
        raise SchemaError("a schema must be an object, true or false")
    if _depth(document) > MOST_SCHEMA_DEPTH:
        raise SchemaError(f"the schema is nested deeper than {MOST_SCHEMA_DEPTH} levels")
    for node in _schemas_in(document):
        _check_references(node, is_root=node is document)
    _check_patterns(document, is_lenient=is_lenient)
    return Schema(document, draft)


def _linear() -> Any:
    import jsonschema_rs

    return jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES, dfa_size_limit=_PATTERN_BYTES)


def _backtracking() -> Any:
    """Lookaround and back-references, as exported apps have them in `^(?=.*\\d).{8,}$`; given up after some steps."""
    import jsonschema_rs

    return jsonschema_rs.FancyRegexOptions(
        backtrack_limit=_MOST_BACKTRACKS, size_limit=_PATTERN_BYTES, dfa_size_limit=_PATTERN_BYTES
    )


def _validator(document: Any, draft: Draft, limits: Any) -> Any:
    import jsonschema_rs

    kind = jsonschema_rs.Draft7Validator if draft == "7" else jsonschema_rs.Draft202012Validator
    try:
        return kind(document, offline=True, validate_formats=False, pattern_options=limits)
    except jsonschema_rs.ValidationError as error:
        where = "/".join(str(step) for step in error.instance_path)
        raise SchemaError(f"{where}: {error.message[:300]}" if where else error.message[:300]) from error
    except (jsonschema_rs.ReferencingError, ValueError, TypeError) as error:
        raise SchemaError(str(error)[:300]) from error


# ------------------------------------------------------------------------------------------ what is in a schema

_HERE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
"""Keywords whose schemas are held against the same value."""
_HERE_BY_NAME = ("dependentSchemas", "dependencies")
_BELOW = (
    "additionalProperties", "unevaluatedProperties", "propertyNames", "items", "prefixItems", "additionalItems",
    "unevaluatedItems", "contains",
)  # fmt: skip
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", *_HERE_BY_NAME)


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else (value,)


def _named(node: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
    found = node.get(keyword)
    return found if isinstance(found, dict) else {}


def _schemas_in(document: Any) -> Iterator[dict[str, Any]]:
    """All objects that stand where a schema does, whatever a property is called."""
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield node
        for keyword in (*_HERE, *_BELOW):
            if keyword in node:
                waiting.extend(_each(node[keyword]))
        for keyword in _BY_NAME:
            waiting.extend(_named(node, keyword).values())


def _check_references(node: Mapping[str, Any], *, is_root: bool) -> None:
    """Only what stands in the schema itself is followed."""
    if "$dynamicRef" in node or "$recursiveRef" in node:
        raise SchemaError("$dynamicRef and $recursiveRef are not supported; $ref with '#/…' is")
    reference = node.get("$ref")
    if reference is not None and not (isinstance(reference, str) and reference.startswith("#")):
        raise SchemaError(f"$ref {str(reference)[:100]!r} leads elsewhere; only '#/…' in the schema itself is followed")
    if not is_root and isinstance(node.get("$id"), str) and not node["$id"].startswith("#"):
        raise SchemaError(f"$id {node['$id'][:100]!r} inside a schema is not supported; only '#/…' is followed")


def _check_patterns(document: Any, *, is_lenient: bool) -> None:
    """Holds each pattern, and all of them together, to what can be matched in linear time."""
    count = steps = 0
    for node in list(_schemas_in(document)):
        for pattern in _patterns_of(node):
            count += 1
            steps += _steps(pattern)
            fits = steps <= _MOST_PATTERN_STEPS and count <= _MOST_PATTERNS
            problem = _problem_of(pattern, is_linear=is_lenient) if fits else _TOO_MANY
            if problem and not is_lenient:
                raise SchemaError(problem)
            if problem:
                _leave_out(node, pattern)


_TOO_MANY = (
    f"the schema's patterns are too many or too large; at most {_MOST_PATTERNS} of {_MOST_PATTERN_STEPS:,} steps "
    "together can be used"
)


def _patterns_of(node: Mapping[str, Any]) -> list[str]:
    own = node.get("pattern")
    return [*([own] if isinstance(own, str) else []), *_named(node, "patternProperties")]


def _leave_out(node: dict[str, Any], pattern: str) -> None:
    if node.get("pattern") == pattern:
        del node["pattern"]
    if pattern in _named(node, "patternProperties"):
        del node["patternProperties"][pattern]
        node.pop("additionalProperties", None)  # nobody knows which ones are left


def _problem_of(pattern: str, *, is_linear: bool) -> str | None:
    if _can_be_read(pattern, _linear) or (not is_linear and _backtracks(pattern)):
        return None
    return _words_for(pattern)


def _backtracks(pattern: str) -> bool:
    """Whether a pattern can be matched, but not in linear time."""
    return not _can_be_read(pattern, _linear) and _can_be_read(pattern, _backtracking)


@lru_cache(2048)
def _can_be_read(pattern: str, limits: Callable[[], Any]) -> bool:
    import jsonschema_rs

    try:
        jsonschema_rs.Draft202012Validator({"pattern": pattern}, offline=True, pattern_options=limits())
    except (jsonschema_rs.ValidationError, ValueError):
        return False
    return True


def _words_for(pattern: str) -> str:
    try:
        compile_pattern(pattern)
    except PatternError as error:
        return str(error)
    return f"the pattern {pattern[:80]!r} cannot be used; it is broken or too large"


@lru_cache(1024)
def _steps(pattern: str) -> int:
    """How many steps a pattern may take for each character of a text."""
    try:
        return compile_pattern(pattern).size
    except PatternError:
        # The other engine may know it, this one does not.
        return _BACKTRACKING_STEPS if _backtracks(pattern) else _UNKNOWN_STEPS


def _depth(document: Any) -> int:
    deepest, waiting = 0, [(document, 1)]
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        if isinstance(node, dict):
            waiting.extend((one, depth + 1) for one in node.values())
        elif isinstance(node, list):
            waiting.extend((one, depth + 1) for one in node)
    return deepest


def _count(document: Any, most: int) -> int:
    """How many values are in it; counts no further than `most`. Raises TooMuchWorkError where it goes too deep."""
    count, level, depth = 1, [document], 0
    while level and count <= most:
        depth += 1
        if depth > MOST_VALUE_DEPTH:
            raise TooMuchWorkError(f"it is nested deeper than {MOST_VALUE_DEPTH} levels")
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
        count += len(below)
        level = [one for one in below if isinstance(one, dict | list)]
    return count


# ---------------------------------------------------------------------------------------------- adding up


class _Work:
    """How much a validator has to do at most. Raises TooMuchWorkError, SchemaError for references in a circle."""

    def __init__(self, root: Any, most_pairs: int) -> None:
        self._root = root
        self._left = most_pairs
        self._known: dict[tuple[int, int], int | None] = {}
        self._kept: list[Any] = []

    def of(self, node: Any, value: Any) -> int:
        if not isinstance(node, dict):
            return 1
        pair = (id(node), id(value))
        if pair in self._known:
            known = self._known[pair]
            if known is None:
                raise SchemaError("the schema's references go round in a circle")
            return known
        self._left -= 1
        if self._left < 0:
            raise TooMuchWorkError("it is too large to be held to this JSON schema")
        self._known[pair] = None
        total = self._here(node, value)
        if isinstance(value, dict):
            total += self._object(node, value)
        elif isinstance(value, list):
            total += self._list(node, value)
        if total > _MOST_WORK:
            raise TooMuchWorkError("it takes too much work to hold this to its JSON schema")
        self._known[pair] = total
        return total

    def _here(self, node: dict[str, Any], value: Any) -> int:
        total = 1 + len(node)
        if isinstance(value, str) and isinstance(node.get("pattern"), str):
            total += 2 * _steps(node["pattern"]) * len(value)
        options = node.get("enum")
        if isinstance(options, list):
            total += len(options)
        if "$ref" in node:
            total += self.of(self._target(node["$ref"]), value)
        for keyword in _HERE:
            if keyword in node:
                total += sum(self.of(one, value) for one in _each(node[keyword]))
        for keyword in _HERE_BY_NAME:
            total += sum(self.of(one, value) for one in _named(node, keyword).values())
        return total

    def _object(self, node: dict[str, Any], value: dict[str, Any]) -> int:
        total = len(value)
        properties = _named(node, "properties")
        few, other = (properties, value) if len(properties) < len(value) else (value, properties)
        total += sum(self.of(properties[name], value[name]) for name in few if name in other)
        names = sum(len(name) for name in value)
        for pattern, rule in _named(node, "patternProperties").items():
            total += 2 * _steps(pattern) * names
            total += sum(self.of(rule, one) for one in value.values())
        for keyword in ("additionalProperties", "unevaluatedProperties"):
            if isinstance(node.get(keyword), dict):
                total += sum(self.of(node[keyword], one) for one in value.values())
        if isinstance(node.get("propertyNames"), dict):
            total += sum(self.of(node["propertyNames"], name) for name in value)
        return total

    def _list(self, node: dict[str, Any], value: list[Any]) -> int:
        total = len(value)
        for keyword in ("items", "prefixItems"):
            rules = node.get(keyword)
            if isinstance(rules, list):
                total += sum(self.of(rule, one) for rule, one in zip(rules, value, strict=False))
        for keyword in ("items", "additionalItems", "unevaluatedItems", "contains"):
            if isinstance(node.get(keyword), dict):
                total += sum(self.of(node[keyword], one) for one in value)
        return total

    def _target(self, reference: str) -> Any:
        found = _pointed(self._root, reference)
        self._kept.append(found)
        return found


def _pointed(root: Any, reference: str) -> Any:
    """What `#`, `#/a/b` or `#name` leads to. Raises SchemaError."""
    from urllib.parse import unquote

    path = unquote(reference[1:])
    if not path:
        return root
    if not path.startswith("/"):
        named = (one for one in _schemas_in(root) if path in (one.get("$anchor"), str(one.get("$id", ""))[1:]))
        found = next(named, None)
        if found is None:
            raise SchemaError(f"$ref {reference[:100]!r} leads nowhere")
        return found
    here = root
    for step in path[1:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(here, dict) and name in here:
            here = here[name]
        elif isinstance(here, list) and name.isascii() and name.isdigit() and len(name) < 7 and int(name) < len(here):
            here = here[int(name)]
        else:
            raise SchemaError(f"$ref {reference[:100]!r} leads nowhere")
    return here
