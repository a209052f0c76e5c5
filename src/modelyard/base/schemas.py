"""Validation against user-supplied JSON schemas: nothing is fetched, and the work is
bounded in advance.

The validator is compiled code that cannot be interrupted, and a schema of a few hundred
bytes can require unlimited work: references that double at each step, patterns with
large repetitions, `anyOf` that tries every branch at every level of a tree. The work is
therefore estimated first (`_WorkEstimate`), counting each pair of schema and value node
once, and excessive work is refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import msgspec

from modelyard.base import cpu_work
from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import JsonValue
from modelyard.base.patterns import PatternError, compile_pattern

MAX_SCHEMA_BYTES = 256 << 10
# Schemas are walked recursively; Python's stack has 1,000 frames.
MAX_SCHEMA_DEPTH = 100
MAX_VALUE_DEPTH = 200
_MAX_WORK = 4_000_000
"""About a twentieth of a second. One unit is a node checked against a keyword, or half
a step of a pattern."""
# The larger limit applies to estimates that run in a thread.
MAX_PAIRS = 30_000
MAX_PAIRS_IN_THREAD = 1_000_000
_SMALL_COUNT = 2_000
"""Up to this many pairs, estimating is faster than starting a thread."""
_PATTERN_BYTES = 256 << 10
# Each one is compiled before any value is checked.
_MAX_PATTERNS = 200
_MAX_PATTERN_STEPS = 10_000
_UNKNOWN_STEPS = 2_000
_MAX_BACKTRACKS = 1_000
"""Maximum backtracks per match. Each may scan the rest of a text, at about 3 ns per
character."""
_BACKTRACKING_STEPS = 200

Draft = Literal["7", "2020-12"]


class SchemaError(ModelyardError):
    """The schema is invalid, or cannot be evaluated within bounds."""

    code = "invalid_schema"


class TooMuchWorkError(SchemaError):
    """The value is too large to be validated against this schema."""

    code = "too_large_for_schema"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Location and reason of the first violation, worded for the author of the value."""

    path: tuple[str | int, ...]
    message: str

    def where(self, separator: str, root_label: str) -> str:
        """Return the path joined by `separator`, or `root_label` if the value as a
        whole does not fit."""
        return separator.join(str(step) for step in self.path) or root_label


class Schema:
    """A compiled schema. Create it with `compile_schema`."""

    __slots__ = ("_document", "_is_simple", "_size", "_validator")

    def __init__(self, document: Any, draft: Draft) -> None:
        self._document = document
        nodes = list(_schemas_in(document))
        # Without references and patterns the work is at most schema size times value
        # size.
        self._is_simple = not any(
            "$ref" in node or "pattern" in node or "patternProperties" in node
            for node in nodes
        )
        self._size = _count(document, MAX_SCHEMA_BYTES)
        # The backtracking engine is slower, so it is used only if a pattern requires
        # it.
        backtracks = any(
            _backtracks(pattern) for node in nodes for pattern in _patterns_of(node)
        )
        self._validator = _validator(
            document, draft, _backtracking() if backtracks else _linear()
        )

    def mismatch(self, value: Any, *, max_pairs: int = MAX_PAIRS) -> Mismatch | None:
        """Return the first violation, or None if the value is valid.

        `max_pairs` may be MAX_PAIRS_IN_THREAD outside an event loop. Raises
        TooMuchWorkError or SchemaError.
        """
        self._check_work(value, max_pairs)
        return self._first_mismatch(value)

    async def mismatch_async(self, value: Any) -> Mismatch | None:
        """Return the first violation, or None; for values too large for the event loop.

        The work estimate, which is most of the work, runs in a thread, so up to
        MAX_PAIRS_IN_THREAD values are accepted. Raises TooMuchWorkError or SchemaError,
        as `mismatch` does.
        """
        if (
            _count(value, _SMALL_COUNT + 1) <= _SMALL_COUNT
            and self._size <= _SMALL_COUNT
        ):
            return self.mismatch(value)
        await cpu_work.run_in_thread(self._check_work, value, MAX_PAIRS_IN_THREAD)
        return self._first_mismatch(value)

    def _check_work(self, value: Any, max_pairs: int) -> None:
        """Raise TooMuchWorkError if validating the value would exceed the work limit.

        The value may have at most `max_pairs` values in all. A schema without
        references and patterns needs no exact estimate while its size times the value's
        stays below the limit. Raises SchemaError if the estimate meets a bad reference.
        """
        try:
            nodes = _count(value, max_pairs + 1)
            if nodes > max_pairs:
                raise TooMuchWorkError(
                    "Too many values for JSON schema validation: more than"
                    f" {max_pairs:,}"
                )
            # A cheap upper bound first; the exact estimate only if the bound is too
            # high.
            if not self._is_simple or self._size * nodes > _MAX_WORK:
                _WorkEstimate(self._document, max_pairs).estimate(self._document, value)
        except RecursionError as error:
            raise TooMuchWorkError(_TOO_DEEP) from error

    def _first_mismatch(self, value: Any) -> Mismatch | None:
        """Return the first violation the validator reports, or None for a valid value.

        Does not check the amount of work. Raises TooMuchWorkError if the value is
        nested too deeply, SchemaError if the validator itself fails.
        """
        try:
            # Only the first error is needed, so the iterator is not exhausted.
            error: Any = next(iter(self._validator.iter_errors(value)), None)
        except RecursionError as error:
            raise TooMuchWorkError(_TOO_DEEP) from error
        except (ValueError, TypeError, UnicodeError) as error:
            raise SchemaError(
                f"JSON schema validation failed: {str(error)[:200]}"
            ) from error
        return (
            None
            if error is None
            else Mismatch(tuple(error.instance_path), error.message[:300])
        )


_TOO_DEEP = "Nested too deeply for JSON schema validation"


def is_large(value: Any) -> bool:
    """Return whether validation would take longer than starting a thread for it."""
    try:
        return _count(value, _SMALL_COUNT + 1) > _SMALL_COUNT
    # Nested too deeply: the validation refuses it without any work.
    except TooMuchWorkError:
        return False


def compile_schema(
    schema: Any, *, draft: Draft = "2020-12", is_lenient: bool = False
) -> Schema:
    """Compile a JSON schema, cached by its content.

    `draft` selects the rules of draft 7 or 2020-12. Patterns that cannot be matched in
    linear time are aborted after a number of steps; `is_lenient` removes them instead.
    Raises SchemaError if the schema is invalid, too large or too deep, or refers to
    anything outside itself.
    """
    try:
        body = msgspec.json.encode(schema)
    except RecursionError as error:
        raise SchemaError("The schema is nested too deeply") from error
    except (TypeError, ValueError, OverflowError, UnicodeError) as error:
        raise SchemaError(f"The schema is not JSON: {str(error)[:200]}") from error
    if len(body) > MAX_SCHEMA_BYTES:
        raise SchemaError(
            f"Schema too large: {len(body):,} bytes, maximum {MAX_SCHEMA_BYTES:,}"
        )
    return _compile_cached(body, draft, is_lenient)


@lru_cache(256)
def _compile_cached(body: bytes, draft: Draft, is_lenient: bool) -> Schema:
    """Compile a schema from its JSON text, caching the result.

    Raises SchemaError if it is neither an object nor a boolean, is nested deeper than
    MAX_SCHEMA_DEPTH, has a reference that leaves it, or an unusable pattern. With
    `is_lenient`, unusable patterns are removed.
    """
    # Decoded from the bytes: the cached schema must not share objects that a caller may
    # modify.
    document: JsonValue = msgspec.json.decode(body)
    if not isinstance(document, dict | bool):
        raise SchemaError("A schema must be an object, true or false")
    if _depth(document) > MAX_SCHEMA_DEPTH:
        raise SchemaError(f"The schema is nested deeper than {MAX_SCHEMA_DEPTH} levels")
    for node in _schemas_in(document):
        _check_references(node, is_root=node is document)
    _check_patterns(document, is_lenient=is_lenient)
    return Schema(document, draft)


def _linear() -> Any:
    """Return options for the linear-time pattern engine, with memory limits."""
    import jsonschema_rs

    return jsonschema_rs.RegexOptions(
        size_limit=_PATTERN_BYTES, dfa_size_limit=_PATTERN_BYTES
    )


def _backtracking() -> Any:
    r"""Return options for lookaround and back-references, as in `^(?=.*\d).{8,}$` of
    imported apps, with a backtrack limit."""
    import jsonschema_rs

    return jsonschema_rs.FancyRegexOptions(
        backtrack_limit=_MAX_BACKTRACKS,
        size_limit=_PATTERN_BYTES,
        dfa_size_limit=_PATTERN_BYTES,
    )


def _validator(document: Any, draft: Draft, limits: Any) -> Any:
    """Build the compiled validator for a schema.

    Nothing is fetched, and `format` is not validated. `limits` selects and bounds the
    pattern engine. Raises SchemaError, with the place in the schema where the library
    reports one.
    """
    import jsonschema_rs

    validator_class = (
        jsonschema_rs.Draft7Validator
        if draft == "7"
        else jsonschema_rs.Draft202012Validator
    )
    try:
        # `offline` keeps the validator from fetching remote references.
        # In JSON Schema 2020-12 `format` is an annotation that need not be checked.
        return validator_class(
            document, offline=True, validate_formats=False, pattern_options=limits
        )
    except jsonschema_rs.ValidationError as error:
        where = "/".join(str(step) for step in error.instance_path)
        raise SchemaError(
            f"{where}: {error.message[:300]}" if where else error.message[:300]
        ) from error
    except (jsonschema_rs.ReferencingError, ValueError, TypeError) as error:
        raise SchemaError(str(error)[:300]) from error


# ------------------------------------------------------------------ what is in a schema

_SAME_VALUE_KEYWORDS = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
"""Keywords whose schemas apply to the same value."""
_SAME_VALUE_BY_NAME = ("dependentSchemas", "dependencies")
# Keywords whose schemas apply to members or elements of the value.
_CHILD_KEYWORDS = (
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
)
_KEYWORDS_BY_NAME = (
    "properties",
    "patternProperties",
    "$defs",
    "definitions",
    *_SAME_VALUE_BY_NAME,
)


def _as_list(value: JsonValue) -> Sequence[JsonValue]:
    """Return a keyword's value as a list: `type` may be one name or several."""
    return value if isinstance(value, list) else (value,)


def _subschemas(node: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
    """Return the schemas by name of a keyword; empty if it is malformed."""
    subschemas: JsonValue = node.get(keyword)
    return subschemas if isinstance(subschemas, dict) else {}


def _schemas_in(document: JsonValue) -> Iterator[dict[str, Any]]:
    """Yield all objects in schema position, whatever the property names are."""
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield node
        for keyword in (*_SAME_VALUE_KEYWORDS, *_CHILD_KEYWORDS):
            if keyword in node:
                waiting.extend(_as_list(node[keyword]))
        for keyword in _KEYWORDS_BY_NAME:
            waiting.extend(_subschemas(node, keyword).values())


def _check_references(node: Mapping[str, Any], *, is_root: bool) -> None:
    """Raise SchemaError for references that leave the schema itself."""
    if "$dynamicRef" in node or "$recursiveRef" in node:
        raise SchemaError(
            "$dynamicRef and $recursiveRef are not supported; use $ref with '#/…'"
        )
    reference = node.get("$ref")
    if reference is not None and not (
        isinstance(reference, str) and reference.startswith("#")
    ):
        raise SchemaError(
            f"External $ref {str(reference)[:100]!r} is not supported; only '#/…'"
            " within the schema is"
        )
    # A nested `$id` would change what `#` refers to below it.
    if (
        not is_root
        and isinstance(node.get("$id"), str)
        and not node["$id"].startswith("#")
    ):
        raise SchemaError(
            f"$id {node['$id'][:100]!r} in a subschema is not supported; only '#…' is"
        )


def _check_patterns(document: Any, *, is_lenient: bool) -> None:
    """Check each pattern, and all of them together, against the limits for linear-time
    matching."""
    patterns = [
        (node, pattern)
        for node in _schemas_in(document)
        for pattern in _patterns_of(node)
    ]
    total_steps = 0
    for count, (node, pattern) in enumerate(patterns, start=1):
        # The totals count across the whole schema, since every pattern may run on
        # every value.
        total_steps += _steps(pattern)
        if total_steps > _MAX_PATTERN_STEPS or count > _MAX_PATTERNS:
            problem = _TOO_MANY
        else:
            problem = _problem_of(pattern, is_linear=is_lenient)
        if problem is None:
            continue
        if not is_lenient:
            raise SchemaError(problem)
        _remove_pattern(node, pattern)


_TOO_MANY = (
    f"The schema has too many or too large patterns; the maximum is {_MAX_PATTERNS}"
    f" patterns with {_MAX_PATTERN_STEPS:,} steps in total"
)


def _patterns_of(node: Mapping[str, Any]) -> list[str]:
    """Return the patterns in one schema object: `pattern` and `patternProperties`."""
    pattern = node.get("pattern")
    return [
        *([pattern] if isinstance(pattern, str) else []),
        *_subschemas(node, "patternProperties"),
    ]


def _remove_pattern(node: dict[str, Any], pattern: str) -> None:
    """Remove a pattern from a schema object, in place, so that it constrains nothing.

    With a key of `patternProperties` its subschema goes too, and so does
    `additionalProperties`, which would reject the property names that the pattern
    allowed.
    """
    if node.get("pattern") == pattern:
        del node["pattern"]
    if pattern in _subschemas(node, "patternProperties"):
        del node["patternProperties"][pattern]
        # The property names covered by the removed pattern are unknown now, so
        # `additionalProperties` would reject valid ones.
        node.pop("additionalProperties", None)


def _problem_of(pattern: str, *, is_linear: bool) -> str | None:
    """Return why a pattern cannot be used; None if it can."""
    if _can_be_read(pattern, _linear) or (not is_linear and _backtracks(pattern)):
        return None
    return _pattern_error(pattern)


def _backtracks(pattern: str) -> bool:
    """Return whether a pattern can be matched, but only by the backtracking engine."""
    return not _can_be_read(pattern, _linear) and _can_be_read(pattern, _backtracking)


@lru_cache(2048)
def _can_be_read(pattern: str, limits: Callable[[], Any]) -> bool:
    """Return whether a pattern compiles in the engine that `limits` selects.

    `limits` is `_linear` or `_backtracking`. Results are cached.
    """
    import jsonschema_rs

    try:
        # The only reliable test is to compile the pattern in the engine itself.
        jsonschema_rs.Draft202012Validator(
            {"pattern": pattern}, offline=True, pattern_options=limits()
        )
    except (jsonschema_rs.ValidationError, ValueError):
        return False
    return True


def _pattern_error(pattern: str) -> str:
    """Return the message for a pattern that no engine accepts.

    It is RE2's own explanation where RE2 refuses the pattern too, otherwise a general
    one.
    """
    try:
        compile_pattern(pattern)
    except PatternError as error:
        return str(error)
    return f"Invalid pattern {pattern[:80]!r}: malformed or too large"


@lru_cache(1024)
def _steps(pattern: str) -> int:
    """Return the maximum number of steps a pattern may take per character of text."""
    try:
        return compile_pattern(pattern).size
    except PatternError:
        # The pattern may be valid in the other engine but not in RE2: use a fixed
        # estimate.
        return _BACKTRACKING_STEPS if _backtracks(pattern) else _UNKNOWN_STEPS


def _depth(document: JsonValue) -> int:
    """Return the nesting depth of a JSON document, 1 for a scalar.

    It is iterative, so that no document exhausts the stack.
    """
    deepest = 0
    waiting: list[tuple[JsonValue, int]] = [(document, 1)]
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        if isinstance(node, dict):
            waiting.extend((child, depth + 1) for child in node.values())
        elif isinstance(node, list):
            waiting.extend((child, depth + 1) for child in node)
    return deepest


def _count(document: JsonValue, limit: int) -> int:
    """Return the number of values in a document, counting no further than `limit`.

    Raises TooMuchWorkError if it is nested too deeply.
    """
    count, depth = 1, 0
    level: Sequence[JsonValue] = [document]
    # Breadth first without recursion, so that deep input cannot exhaust the stack.
    while level and count <= limit:
        depth += 1
        if depth > MAX_VALUE_DEPTH:
            raise TooMuchWorkError(f"Nested deeper than {MAX_VALUE_DEPTH} levels")
        children = _children_of(level)
        count += len(children)
        level = [child for child in children if isinstance(child, dict | list)]
    return count


def _children_of(nodes: Sequence[JsonValue]) -> list[JsonValue]:
    """Return the members and elements of all objects and lists among the nodes."""
    children: list[JsonValue] = []
    for node in nodes:
        if isinstance(node, dict):
            children.extend(node.values())
        elif isinstance(node, list):
            children.extend(node)
    return children


# ---------------------------------------------------------------------------- adding up


class _WorkEstimate:
    """Upper bound of a validator's work. Raises TooMuchWorkError, or SchemaError for
    circular references."""

    def __init__(self, root: Any, max_pairs: int) -> None:
        self._root = root
        self._remaining_pairs = max_pairs
        self._totals: dict[tuple[int, int], int | None] = {}
        # Referenced nodes are held so that their `id` stays unique while pairs are
        # cached by it.
        self._referenced: list[Any] = []

    def estimate(self, node: JsonValue, value: JsonValue) -> int:
        """Return the work units for checking `value` against the schema `node`."""
        if not isinstance(node, dict):
            return 1
        pair = (id(node), id(value))
        if pair in self._totals:
            cached_total = self._totals[pair]
            if cached_total is None:
                raise SchemaError("Circular $ref in the schema")
            return cached_total
        # Each pair is evaluated once; None marks one in progress, so meeting it again
        # is a cycle.
        self._remaining_pairs -= 1
        if self._remaining_pairs < 0:
            raise TooMuchWorkError("Too large to validate against this JSON schema")
        self._totals[pair] = None
        total = self._same_value_work(node, value)
        if isinstance(value, dict):
            total += self._object_work(node, value)
        elif isinstance(value, list):
            total += self._list_work(node, value)
        if total > _MAX_WORK:
            raise TooMuchWorkError("Too much work to validate against this JSON schema")
        self._totals[pair] = total
        return total

    def _same_value_work(self, node: dict[str, Any], value: JsonValue) -> int:
        """Return the work units of the keywords that apply to the value itself.

        They are the keyword count, a string's pattern, the options of `enum`, a
        followed `$ref` and the applicators, as `anyOf`.
        """
        total = 1 + len(node)
        if isinstance(value, str) and isinstance(node.get("pattern"), str):
            # Two units per step of a pattern, for each character.
            total += 2 * _steps(node["pattern"]) * len(value)
        options: JsonValue = node.get("enum")
        if isinstance(options, list):
            total += len(options)
        if "$ref" in node:
            total += self.estimate(self._target(node["$ref"]), value)
        return total + self._applicator_work(node, value)

    def _applicator_work(self, node: dict[str, Any], value: JsonValue) -> int:
        """Return the work of the subschemas that apply to the same value."""
        total = 0
        for keyword in _SAME_VALUE_KEYWORDS:
            if keyword in node:
                total += sum(
                    self.estimate(subschema, value)
                    for subschema in _as_list(node[keyword])
                )
        for keyword in _SAME_VALUE_BY_NAME:
            total += sum(
                self.estimate(subschema, value)
                for subschema in _subschemas(node, keyword).values()
            )
        return total

    def _object_work(self, node: dict[str, Any], value: dict[str, Any]) -> int:
        """Return the work units of the keywords that apply to an object's members.

        Counted are the members, named and pattern properties, property names, and
        additional properties as if every member were one.
        """
        total = len(value) + self._properties_work(node, value)
        if "patternProperties" in node:
            total += self._pattern_properties_work(node, value)
        for keyword in ("additionalProperties", "unevaluatedProperties"):
            if isinstance(node.get(keyword), dict):
                total += sum(
                    self.estimate(node[keyword], member) for member in value.values()
                )
        if isinstance(node.get("propertyNames"), dict):
            total += sum(self.estimate(node["propertyNames"], name) for name in value)
        return total

    def _properties_work(self, node: dict[str, Any], value: dict[str, Any]) -> int:
        """Return the work units of `properties`, for the names that the value has."""
        properties = _subschemas(node, "properties")
        # Iterate over the smaller of the two mappings.
        smaller, larger = (
            (properties, value) if len(properties) < len(value) else (value, properties)
        )
        return sum(
            self.estimate(properties[name], value[name])
            for name in smaller
            if name in larger
        )

    def _pattern_properties_work(
        self, node: dict[str, Any], value: dict[str, Any]
    ) -> int:
        """Return the work units of `patternProperties`.

        Every pattern is counted as matched against every name, and its subschema as
        applied to every member.
        """
        total = 0
        name_chars = sum(len(name) for name in value)
        for pattern, rule in _subschemas(node, "patternProperties").items():
            total += 2 * _steps(pattern) * name_chars
            total += sum(self.estimate(rule, member) for member in value.values())
        return total

    def _list_work(self, node: dict[str, Any], value: list[Any]) -> int:
        """Return the work units of the keywords that apply to a list's elements.

        A list of schemas, as in `prefixItems` or draft 7's `items`, applies by
        position; a single schema to all elements.
        """
        total = len(value)
        for keyword in ("items", "prefixItems"):
            # A list of schemas applies by position, a single schema to all elements.
            rules: JsonValue = node.get(keyword)
            if isinstance(rules, list):
                total += sum(
                    self.estimate(rule, element)
                    for rule, element in zip(rules, value, strict=False)
                )
        for keyword in ("items", "additionalItems", "unevaluatedItems", "contains"):
            if isinstance(node.get(keyword), dict):
                total += sum(self.estimate(node[keyword], element) for element in value)
        return total

    def _target(self, reference: str) -> Any:
        """Return what a `$ref` points to, and remember it. Raises SchemaError."""
        target = _resolve_reference(self._root, reference)
        self._referenced.append(target)
        return target


def _resolve_reference(root: JsonValue, reference: str) -> JsonValue:
    """Return the node that `#`, `#/a/b` or `#name` refers to. Raises SchemaError if
    there is none."""
    from urllib.parse import unquote

    path = unquote(reference[1:])
    if not path:
        return root
    if not path.startswith("/"):
        return _named_schema(root, path, reference)
    current_node: JsonValue = root
    for step in path[1:].split("/"):
        # Unescape a JSON pointer token; `~1` must come first (RFC 6901, section 4).
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(current_node, dict) and name in current_node:
            current_node = current_node[name]
        elif (
            isinstance(current_node, list)
            and _is_index(name)
            and int(name) < len(current_node)
        ):
            current_node = current_node[int(name)]
        else:
            raise _unresolved(reference)
    return current_node


def _is_index(text: str) -> bool:
    """Return whether a step of a JSON pointer is the index of an array."""
    return text.isascii() and text.isdigit() and len(text) < 7


def _named_schema(root: Any, name: str, reference: str) -> dict[str, Any]:
    """Return the schema with an anchor, or with an `$id` that is a fragment. Raises
    SchemaError if there is none."""
    for node in _schemas_in(root):
        if name in (node.get("$anchor"), str(node.get("$id", ""))[1:]):
            return node
    raise _unresolved(reference)


def _unresolved(reference: str) -> SchemaError:
    """Return the error for a `$ref` that points to nothing."""
    return SchemaError(f"Unresolved $ref {reference[:100]!r}")
