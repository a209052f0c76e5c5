"""Odd values for proofs: texts of all of Unicode, numbers that JSON cannot express, deep,
long and mixed structures. Each can be written as Python, as JavaScript and as JSON.

Everything is drawn from a `random.Random`, so that a seed gives the same values in every
process.
"""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.base.json_types import is_mapping

UNKNOWN: Any = object()
"""Instead of an expected value, if only the end of the run is known."""
DEEP = 2000
"""Levels of a structure that no parser with a recursion limit reads."""
MAX_DEPTH, MAX_INTEGER_BITS = 200, 1023
"""What a run can store, as docs/design/0021-exported-apps.md states it."""

# Characters that break encoders, parsers, terminals, databases and templates.
_POOLS: Sequence[str] = (
    "abc XYZ 019 .,;:!?",
    "äéñß Ωж 東京 ไทย हिन्दी עברית العربية",
    "😀👩‍👩‍👧‍👦🇩🇪𝔘𐍈",
    "e\u0301\u0323\u0489\u20dd\u0e31\ufe0f\U000e0100",
    "\u202e\u202d\u2066\u2067\u2069\u200f\u061c",
    "\u200b\u200c\u200d\u2060\u00ad\ufeff\u3000\u00a0",
    "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\n\t",
    "\x01\x02\x07\x08\x0e\x1b\x7f\x9f",
    "\0",
    "\ud800\udbff\udc00\udfff\ud83d\ude00",
    "\ufffe\uffff\U0001ffff\U0010ffff\ufdd0\ue000\U000f0000",
    "\"'\\`$&<>%{}[]/",
)
_MARKUP: Sequence[str] = (
    "{{#env.SECRET#}}",
    "{{ 7 * 7 }}",
    "{% for x in y %}",
    "{#",
    "</think>",
    "data: [DONE]\n\n",
    "\r\n\r\n",
    "%00%ff",
    "\\ud800",
    "\\u0000",
    "${x}",
    "'; DROP TABLE runs; --",
)
_NUMBERS: Sequence[Any] = (
    0, 1, -1, 255, 2**31, 2**53 - 1, -(2**53 - 1), 0.5, -2.25, 1e15, 0.1,
)  # fmt: skip
_KEYS: Sequence[str] = (
    "", " ", "a", "a.b", "#", "__proto__", "constructor", "0", "é", "\ud800", "a\0b",
    "{{#env.SECRET#}}", "\U0001f600", "\u202e",
)  # fmt: skip


@dataclass(frozen=True)
class Odd:
    """An odd value in the languages in which it may come from outside."""

    label: str
    value: Any
    """The value in Python; UNKNOWN if it exists only in another language."""
    python: str
    """An expression, for which PYTHON_HELPERS are defined."""
    javascript: str
    """An expression, for which JAVASCRIPT_HELPERS are defined."""
    json: str
    """A JSON text, or one that some parsers take for JSON, such as NaN."""


PYTHON_HELPERS = """
nan, inf = float('nan'), float('inf')
def deep_list(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value
def deep_object(levels):
    value = {}
    for _ in range(levels):
        value = {'a': value}
    return value
"""
JAVASCRIPT_HELPERS = """
function deep_list(levels) { let v = []; for (let i = 0; i < levels; i++) v = [v]; return v }
function deep_object(levels) { let v = {}; for (let i = 0; i < levels; i++) v = {a: v}; return v }
function cyclic() { const v = {}; v.self = v; return v }
"""


def text(chance: random.Random) -> str:
    """Return a text of 0 to about 60 characters from several pools, sometimes with
    markup, rarely a long one."""
    pieces: list[str] = []
    for _ in range(chance.randint(0, 6)):
        if chance.random() < 0.15:
            pieces.append(chance.choice(_MARKUP))
        else:
            pool = chance.choice(_POOLS)
            pieces += chance.choices(pool, k=chance.randint(1, 10))
    if chance.random() < 0.04:
        pieces *= 200
    return _joined_pairs("".join(pieces))


def _joined_pairs(text: str) -> str:
    """Return a text in which two surrogates that belong together are one character, as
    every JSON parser reads them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def stored_text(text: str) -> str:
    """Return how a run stores a text: U+FFFD for lone surrogates, no NUL."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if "\ud800" <= char <= "\udfff" else char
        for char in text
        if char != "\0"
    )


def stored(value: Any, depth: int = 0) -> Any:
    """Return how a run stores a value; UNKNOWN if it cannot."""
    match value:
        case None | bool():
            return value
        case str():
            return stored_text(value)
        case int():
            return value if value.bit_length() <= MAX_INTEGER_BITS else UNKNOWN
        case float():
            return value if math.isfinite(value) else UNKNOWN
        case list() | tuple() | dict() if depth < MAX_DEPTH:
            return _stored_container(value, depth + 1)
        case _:
            return UNKNOWN


def _stored_container(value: Any, depth: int) -> Any:
    """Return how a run stores a list or an object; UNKNOWN if it cannot."""
    if is_mapping(value):
        entries = {stored_text(str(key)): stored(element, depth) for key, element in value.items()}  # fmt: skip
        return UNKNOWN if _has_unknown(entries.values()) else entries
    elements = [stored(element, depth) for element in value]
    return UNKNOWN if _has_unknown(elements) else elements


def _has_unknown(elements: Any) -> bool:
    """Return whether one of the elements cannot be stored."""
    return any(element is UNKNOWN for element in elements)


def value(chance: random.Random, depth: int = 0) -> Any:
    """Return a JSON value of at most four levels with odd texts and keys."""
    choice = chance.random()
    if depth > 2 or choice < 0.45:
        return text(chance)
    if choice < 0.6:
        return chance.choice(_NUMBERS)
    if choice < 0.68:
        return chance.choice((None, True, False))
    size = chance.randint(0, 4)
    if choice < 0.84:
        return [value(chance, depth + 1) for _ in range(size)]
    return {chance.choice(_KEYS): value(chance, depth + 1) for _ in range(size)}


def odd_text(chance: random.Random) -> Odd:
    """Return an odd text."""
    return written("text", text(chance))


def odd_value(chance: random.Random) -> Odd:
    """Return an odd value: mostly a random one, often one of SPECIAL."""
    if chance.random() < 0.4:
        return chance.choice(SPECIAL)
    return written("value", value(chance))


def written(label: str, value: Any) -> Odd:
    """Return a JSON value with its texts in all languages."""
    document = json.dumps(value)
    return Odd(label, value, ascii(value), document, document)


def _special(
    label: str, value: Any, python: str, javascript: str, document: str
) -> Odd:
    return Odd(label, value, python, javascript, document)


def _deep(levels: int, *, is_object: bool) -> Any:
    """Return a structure of so many levels."""
    value: Any = {} if is_object else []
    for _ in range(levels):
        value = {"a": value} if is_object else [value]
    return value


SPECIAL: Sequence[Odd] = (
    _special("NaN", math.nan, "nan", "NaN", "NaN"),
    _special("infinity", [math.inf], "[inf]", "[Infinity]", "[1e999]"),
    _special("-infinity", {"a": -math.inf}, "{'a': -inf}", "({a: -Infinity})", '{"a": -Infinity}'),
    _special("integer of 5,000 digits", 10**5000, "10**5000", "10n**5000n", "1" + "0" * 5000),
    _special("integer beyond a float", 2**1024, "2**1024", "2n**1024n", str(2**1024)),
    _special("integer of 64 bits", 2**64, "2**64", "2n**64n", str(2**64)),
    _special("deep list", _deep(DEEP, is_object=False), f"deep_list({DEEP})", f"deep_list({DEEP})", "[" * DEEP + "]" * DEEP),
    _special("deep object", _deep(DEEP, is_object=True), f"deep_object({DEEP})", f"deep_object({DEEP})", '{"a":' * DEEP + "{}" + "}" * DEEP),
    _special("bytes", b"\xff\xfe\0", "b'\\xff\\xfe\\0'", "new Uint8Array([255, 254, 0])", "\xff\xfe"),
    _special("set", UNKNOWN, "{1, 'a'}", "new Set([1, 'a'])", "{1, 2}"),
    _special("function", UNKNOWN, "print", "print", "undefined"),
    _special("cycle", UNKNOWN, "(lambda l: (l.append(l), l)[1])([])", "cyclic()", "[" * 100_000),
    _special("complex", UNKNOWN, "1j", "Symbol('a')", "1j"),
    _special("generator", UNKNOWN, "(x for x in 'ab')", "(function* () { yield 1 })()", "..."),
    _special("keys of other types", UNKNOWN, "{1: 'a', None: 'b', 2.5: 'c', (1, 2): 'd', True: 'e'}", "new Map([[1, 'a']])", "{1: 2}"),
    _special("doubled keys", UNKNOWN, "{'a': 1, 'a ': 2}", "({a: 1, a: 2})", '{"a": 1, "a": {}}'),
    _special("prototype", UNKNOWN, "{'__proto__': {'x': 1}}", "({__proto__: {x: 1}, constructor: null})", '{"__proto__": {"x": 1}}'),
    _special("list of 100,000", list(range(100_000)), "list(range(100000))", "[...Array(100000).keys()]", json.dumps(list(range(100_000)))),
    _special("object of 20,000", {str(n): n for n in range(20_000)}, "{str(n): n for n in range(20000)}", "Object.fromEntries([...Array(20000).keys()].map(n => [n, n]))", json.dumps({str(n): n for n in range(20_000)})),
    _special("text of 1 MB", "x\u00e9" * 500_000, "'x\\xe9' * 500000", "'x\\xe9'.repeat(500000)", json.dumps("x\u00e9" * 500_000)),
    _special("lone surrogates", "\ud800" * 3 + "a\udfff", "'\\ud800' * 3 + 'a\\udfff'", "'\\ud800'.repeat(3) + 'a\\udfff'", '"\\ud800\\ud800\\ud800a\\udfff"'),
    _special("nothing", None, "None", "undefined", ""),
    _special("minus zero", 0.0, "0.0", "-0", "-0"),
)  # fmt: skip
BIG: Odd = _special(
    "text of 50 MB", UNKNOWN, "'x' * (50 << 20)", "'x'.repeat(50 << 20)", ""
)
"""A text that is larger than a run may store. Its text is built where it is sent."""
