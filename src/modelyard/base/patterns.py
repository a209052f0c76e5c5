"""User-supplied patterns: regular expressions in linear time, and names with `*` and
`?`.

Python's `re` backtracks: `^(a+)+$` on forty characters keeps a process busy for hours.
Every pattern that is not part of this code is compiled here by RE2, whose time is
proportional to the text and the pattern.
"""

from functools import lru_cache
from typing import Any, cast

from modelyard.base.errors import ModelyardError

MAX_CHARACTERS = 4096
# RE2 compiles a short pattern with counted repetitions to a large program.
_MAX_MEMORY_BYTES = 1 << 20
_MAX_PROGRAM_SIZE = 20_000


class PatternError(ModelyardError):
    """A pattern is invalid, too long or too large."""

    code = "invalid_pattern"


class Pattern:
    """A user-supplied regular expression, compiled by RE2.

    Its methods return RE2 matches, which work like those of `re`. Lone surrogates in
    the searched text are replaced first, as RE2 reads UTF-8.
    """

    __slots__ = ("_compiled", "text")

    def __init__(self, text: str, compiled: Any) -> None:
        self.text = text
        self._compiled = compiled

    @property
    def size(self) -> int:
        """Number of instructions of its program: a search takes at most this many steps
        per character."""
        return self._compiled.programsize

    def search(self, text: str) -> Any:
        """Return the first match anywhere in the text, or None."""
        return self._compiled.search(_encodable(text))

    def match(self, text: str) -> Any:
        """Return a match at the start of the text, or None."""
        return self._compiled.match(_encodable(text))

    def fullmatch(self, text: str) -> Any:
        """Return a match of the entire text, or None."""
        return self._compiled.fullmatch(_encodable(text))


def compile_pattern(
    text: str, *, ignore_case: bool = False, dot_all: bool = False
) -> Pattern:
    """Compile a user-supplied regular expression for matching in linear time.

    `dot_all` lets `.` match a newline. Compiled patterns are cached. Raises
    PatternError with the reason if the text is longer than MAX_CHARACTERS, is not valid
    RE2 syntax (which has no lookaround and no back-references), or expands to too large
    a program.
    """
    if len(text) > MAX_CHARACTERS:
        raise PatternError(
            f"Pattern too long: {len(text):,} characters, maximum {MAX_CHARACTERS:,}"
        )
    return _compiled(text, ignore_case, dot_all)


@lru_cache(1024)
def _compiled(text: str, ignore_case: bool, dot_all: bool) -> Pattern:
    """Compile a pattern with RE2; results are cached by text and options.

    Raises PatternError if RE2 refuses it, or if its program exceeds the maximum size
    after its repetitions are expanded.
    """
    # Imported on first use, which keeps start-up fast.
    import re2 as untyped_re2

    # The package has no types.
    re2 = cast("Any", untyped_re2)
    options = re2.Options()
    options.log_errors = False  # it would write to stderr
    options.max_mem = _MAX_MEMORY_BYTES
    options.case_sensitive = not ignore_case
    options.dot_nl = dot_all
    try:
        compiled = re2.compile(_encodable(text), options)
    except re2.error as error:
        raise PatternError(_error_message(text, error)) from error
    pattern = Pattern(text, compiled)
    # A short pattern such as `(a{1000}){1000}` expands to a huge program.
    if pattern.size > _MAX_PROGRAM_SIZE:
        raise PatternError(
            f"Pattern {text[:80]!r} is too large after expanding its repetitions"
        )
    return pattern


def _error_message(text: str, error: Exception) -> str:
    """Return a message for the author of a pattern that RE2 refused.

    It contains RE2's reason, the position of the offending part where the text contains
    it, and a hint about unsupported syntax.
    """
    reason = error.args[0] if error.args else "invalid syntax"
    reason = (
        reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
    )
    # RE2 reports "problem: offending part"; the part shows the position.
    problem, _, part = reason.partition(": ")
    where = text.find(part) if part else -1
    position_hint = f" at character {where + 1}" if where >= 0 else ""
    return (
        f"Invalid pattern {text[:80]!r}: {reason}{position_hint}{_hint(text, problem)}"
    )


def _hint(text: str, problem: str) -> str:
    """Return a hint for lookaround and back-references; empty if there are none.

    `problem` is RE2's description of the error: a digit after a backslash counts as a
    back-reference only if RE2 complains about an escape.
    """
    is_lookaround = any(
        mark in text for mark in ("(?=", "(?!", "(?<=", "(?<!", "(?>", "(?P=")
    )
    is_reference = "escape" in problem and any(
        f"\\{digit}" in text for digit in range(1, 10)
    )
    return (
        "; lookaround and back-references are not supported"
        if is_lookaround or is_reference
        else ""
    )


def _encodable(text: str) -> str:
    """Replace lone surrogates, which cannot be encoded as the UTF-8 that RE2 reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def matches_glob(pattern: str, name: str) -> bool:
    """Return whether a name matches a shell-style pattern: `*`, `?`, `[a-z]`, `[!a-z]`.
    Case-sensitive.

    Takes at most the product of both lengths, unlike a translation to `re`. A pattern
    that is too long matches only itself.
    """
    if len(pattern) > MAX_CHARACTERS:
        return pattern == name
    tokens = _parse_glob(pattern)
    name_index = token_index = 0
    # Position of the last `*`, and how much of the name it has absorbed so far.
    star, star_name_index = -1, 0
    while name_index < len(name):
        if token_index < len(tokens) and tokens[token_index] is None:
            star, star_name_index = token_index, name_index
            token_index += 1
        elif (
            token_index < len(tokens)
            and (token := tokens[token_index]) is not None
            and _token_matches(token, name[name_index])
        ):
            name_index += 1
            token_index += 1
        elif star >= 0:
            # Mismatch: let the last `*` absorb one more character and continue after
            # it.
            star_name_index += 1
            name_index, token_index = star_name_index, star + 1
        else:
            return False
    # What remains of the pattern must be able to match nothing.
    return all(remaining_token is None for remaining_token in tokens[token_index:])


_Token = tuple[bool, tuple[tuple[str, str], ...]] | None
"""(Whether the ranges are included or excluded, character ranges); None stands for `*`.
"""

_ANY: _Token = (False, ())


def _token_matches(
    token: tuple[bool, tuple[tuple[str, str], ...]], character: str
) -> bool:
    """Return whether a character fits one token of a glob pattern.

    A token is (is_inside, ranges): the character must be in one of the inclusive
    ranges, or in none of them if `is_inside` is False.
    """
    is_inside, ranges = token
    return any(low <= character <= high for low, high in ranges) == is_inside


@lru_cache(4096)
def _parse_glob(pattern: str) -> tuple[_Token, ...]:
    """Parse a glob pattern into tokens, one for each part that matches a character.

    None stands for `*`; consecutive stars become one. An opening bracket without a
    closing one is an ordinary character.
    """
    tokens: list[_Token] = []
    index = 0
    while index < len(pattern):
        character = pattern[index]
        index += 1
        if character == "*":
            # Consecutive stars are equivalent to one and would only multiply the work.
            if not tokens or tokens[-1] is not None:
                tokens.append(None)
        elif character == "?":
            tokens.append(_ANY)
        elif character == "[" and (end := _end_of_set(pattern, index)) > 0:
            tokens.append(_parse_set(pattern[index:end]))
            index = end + 1
        else:
            tokens.append((True, ((character, character),)))
    return tuple(tokens)


def _end_of_set(pattern: str, start: int) -> int:
    """Return the index of the `]` that closes a set, or -1. A `]` in first position
    belongs to the set."""
    first = start + 1 if pattern[start : start + 1] == "!" else start
    return pattern.find("]", first + 1)


def _parse_set(set_body: str) -> _Token:
    """Parse the body of a glob's character set, the text between the brackets.

    A leading `!` negates the set. `a-z` is a range; a hyphen at the end is an ordinary
    character.
    """
    is_inside = not set_body.startswith("!")
    characters = set_body if is_inside else set_body[1:]
    ranges: list[tuple[str, str]] = []
    index = 0
    while index < len(characters):
        # `a-z` is a range; a hyphen at the end is an ordinary character.
        if index + 2 < len(characters) and characters[index + 1] == "-":
            ranges.append((characters[index], characters[index + 2]))
            index += 3
        else:
            ranges.append((characters[index], characters[index]))
            index += 1
    return is_inside, tuple(ranges)
