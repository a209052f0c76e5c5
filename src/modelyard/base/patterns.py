"""Patterns that others write: regular expressions in linear time, and names with `*` and `?`.

Python's `re` goes back and tries again: `^(a+)+$` on forty characters keeps a process busy for hours. A pattern that is
not written in this code is compiled here, by RE2, whose time grows with the text and the pattern alone.
"""

from functools import lru_cache
from typing import Any

from modelyard.base.errors import ModelyardError

MOST_CHARACTERS = 4096
_MOST_MEMORY = 1 << 20
_MOST_PROGRAM = 20_000


class PatternError(ModelyardError):
    """A text is no pattern that can be used."""

    code = "invalid_pattern"


class Pattern:
    """A compiled pattern. Its methods answer with re2's matches, which are like those of `re`."""

    __slots__ = ("_compiled", "text")

    def __init__(self, text: str, compiled: Any) -> None:
        self.text = text
        self._compiled = compiled

    @property
    def size(self) -> int:
        """Instructions of its program: a search takes at most this many steps for each character."""
        return self._compiled.programsize

    def search(self, text: str) -> Any:
        return self._compiled.search(_encodable(text))

    def match(self, text: str) -> Any:
        return self._compiled.match(_encodable(text))

    def fullmatch(self, text: str) -> Any:
        return self._compiled.fullmatch(_encodable(text))


def compile_pattern(text: str, *, ignore_case: bool = False, dot_all: bool = False) -> Pattern:
    """A pattern that somebody else wrote. Raises PatternError that says what is wrong with it."""
    if len(text) > MOST_CHARACTERS:
        raise PatternError(f"a pattern of {len(text):,} characters; {MOST_CHARACTERS:,} are the most")
    return _compiled(text, ignore_case, dot_all)


@lru_cache(1024)
def _compiled(text: str, ignore_case: bool, dot_all: bool) -> Pattern:
    import re2

    options = re2.Options()
    options.log_errors = False  # it would write to stderr
    options.max_mem = _MOST_MEMORY
    options.case_sensitive = not ignore_case
    options.dot_nl = dot_all
    try:
        compiled = re2.compile(_encodable(text), options)
    except re2.error as error:
        raise PatternError(_explained(text, error)) from error
    pattern = Pattern(text, compiled)
    if pattern.size > _MOST_PROGRAM:
        raise PatternError(f"the pattern {text[:80]!r} is too large when its repetitions are written out")
    return pattern


def _explained(text: str, error: Exception) -> str:
    said = error.args[0] if error.args else "it cannot be read"
    said = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    problem, _, part = said.partition(": ")
    where = text.find(part) if part else -1
    place = f" at character {where + 1}" if where >= 0 else ""
    return f"the pattern {text[:80]!r} cannot be used: {said}{place}{_hint(text, problem)}"


def _hint(text: str, problem: str) -> str:
    is_lookaround = any(mark in text for mark in ("(?=", "(?!", "(?<=", "(?<!", "(?>", "(?P="))
    is_reference = "escape" in problem and any(f"\\{digit}" in text for digit in range(1, 10))
    return "; lookaround and back-references are not supported" if is_lookaround or is_reference else ""


def _encodable(text: str) -> str:
    """Half characters (lone surrogates) cannot be written as UTF-8, which is what RE2 reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def fits_glob(pattern: str, name: str) -> bool:
    """Whether a name fits a pattern of the shell's kind: `*`, `?`, `[a-z]`, `[!a-z]`. Case counts.

    Takes at most the product of both lengths, where a translation for `re` may take for ever. A pattern that is too
    long fits nothing but itself.
    """
    if len(pattern) > MOST_CHARACTERS:
        return pattern == name
    tokens = _glob(pattern)
    place = at = 0
    star, held = -1, 0
    while place < len(name):
        if at < len(tokens) and tokens[at] is None:
            star, held = at, place
            at += 1
        elif at < len(tokens) and (token := tokens[at]) is not None and _takes(token, name[place]):
            place += 1
            at += 1
        elif star >= 0:
            held += 1
            place, at = held, star + 1
        else:
            return False
    return all(one is None for one in tokens[at:])


_Token = tuple[bool, tuple[tuple[str, str], ...]] | None
"""Whether it takes the characters in its ranges or all others; None for any number of any."""

_ANY: _Token = (False, ())


def _takes(token: tuple[bool, tuple[tuple[str, str], ...]], character: str) -> bool:
    is_inside, ranges = token
    return any(low <= character <= high for low, high in ranges) == is_inside


@lru_cache(4096)
def _glob(pattern: str) -> tuple[_Token, ...]:
    tokens: list[_Token] = []
    place = 0
    while place < len(pattern):
        character = pattern[place]
        place += 1
        if character == "*":
            if not tokens or tokens[-1] is not None:
                tokens.append(None)
        elif character == "?":
            tokens.append(_ANY)
        elif character == "[" and (end := _end_of_set(pattern, place)) > 0:
            tokens.append(_set(pattern[place:end]))
            place = end + 1
        else:
            tokens.append((True, ((character, character),)))
    return tuple(tokens)


def _end_of_set(pattern: str, place: int) -> int:
    """Where the `]` of a set stands; one that stands first belongs to the set."""
    first = place + 1 if pattern[place : place + 1] == "!" else place
    return pattern.find("]", first + 1)


def _set(inside: str) -> _Token:
    is_inside = not inside.startswith("!")
    characters = inside if is_inside else inside[1:]
    ranges: list[tuple[str, str]] = []
    place = 0
    while place < len(characters):
        if place + 2 < len(characters) and characters[place + 1] == "-":
            ranges.append((characters[place], characters[place + 2]))
            place += 3
        else:
            ranges.append((characters[place], characters[place]))
            place += 1
    return is_inside, tuple(ranges)
