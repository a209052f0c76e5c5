"""The one text of a call `{"input": "…"}`, decoded while it arrives. No I/O.

A freeform tool takes text instead of JSON. Models whose API has none get a function with
one string, and the text is taken out of the arguments that they write.
"""

import re

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.json_types import JsonValue

FIELD = "input"
"""The name of the string property."""

_OPENING = re.compile(r'\{\s*"input"\s*:\s*"')
_PLAIN_OPENING = '{"input":"'
_SPECIAL = re.compile(r'["\\]')
_UNICODE = re.compile(r"\\u([0-9a-fA-F]{4})")
# RFC 8259, section 7.
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextInput:
    """Decodes the text of one call. Escapes may be cut anywhere between two pieces."""

    __slots__ = ("_buffer", "_state")

    def __init__(self) -> None:
        # `opening`: nothing decided; `text`: inside the string; `closed`: behind it;
        # `other`: not the expected object, so all of it is read at the end.
        self._state = "opening"
        self._buffer = ""

    def feed(self, piece: str) -> str:
        """Return the text that a piece of the arguments completes."""
        # Models may write more behind the string; a client must not see it.
        if self._state == "closed":
            return ""
        self._buffer += piece
        if self._state == "opening":
            self._find_opening()
        return self._decoded() if self._state == "text" else ""

    def finish(self) -> str:
        """Return the text that was held back, at the end of the arguments."""
        rest, self._buffer = self._buffer, ""
        is_held = self._state in ("opening", "other")
        self._state = "closed"
        return _lenient(rest) if is_held else ""

    def _find_opening(self) -> None:
        """Enter the string if its beginning is complete."""
        buffer = self._buffer.lstrip()
        if match := _OPENING.match(buffer):
            self._state = "text"
            self._buffer = buffer[match.end() :]
        # White space may stand anywhere before the string.
        elif not _PLAIN_OPENING.startswith("".join(self._buffer.split())):
            self._state = "other"

    def _decoded(self) -> str:
        """Return the decoded part of the buffer; an incomplete escape stays in it."""
        text = self._buffer
        decoded: list[str] = []
        position = 0
        while match := _SPECIAL.search(text, position):
            decoded.append(text[position : match.start()])
            position = match.start()
            # The string ends; what follows is not the text.
            if match[0] == '"':
                self._state, self._buffer = "closed", ""
                return "".join(decoded)
            escape = _escape_at(text, position)
            if escape is None:
                self._buffer = text[position:]
                return "".join(decoded)
            character, position = escape
            decoded.append(character)
        decoded.append(text[position:])
        self._buffer = ""
        return "".join(decoded)


def _escape_at(text: str, position: int) -> tuple[str, int] | None:
    """Return the character of an escape and the position behind it; None if the escape
    may be incomplete."""
    if len(text) < position + 2:
        return None
    letter = text[position + 1]
    if letter != "u":
        return _ESCAPES.get(letter, letter), position + 2
    match = _UNICODE.match(text, position)
    if match is None:
        is_cut = len(text) < position + 6
        return None if is_cut else (_REPLACEMENT, position + 2)
    code = int(match[1], 16)
    # JSON writes characters beyond U+FFFF as two escapes (RFC 8259, section 7).
    if not 0xD800 <= code < 0xE000:
        return chr(code), match.end()
    return _pair_at(text, match.end(), code)


def _pair_at(text: str, position: int, first: int) -> tuple[str, int] | None:
    """Return the character of a surrogate pair whose second half is at `position`; None
    if that may still come. A lone half becomes U+FFFD."""
    if first >= 0xDC00:
        return _REPLACEMENT, position
    if match := _UNICODE.match(text, position):
        second = int(match[1], 16)
        if 0xDC00 <= second < 0xE000:
            code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)
            return chr(code), match.end()
        return _REPLACEMENT, position
    rest = text[position : position + 6]
    # The second half may be in the next piece of the stream.
    may_follow = len(rest) < 6 and ("\\u".startswith(rest[:2]) or not rest)
    return None if may_follow else (_REPLACEMENT, position)


def _lenient(arguments: str) -> str:
    """Return the text of arguments that are not exactly the expected object.

    It is that of the field, or of the only field, or the arguments themselves: some
    models write the text alone.
    """
    try:
        value: JsonValue = decode_body(arguments)
    except BodyError:
        return arguments
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not value:
        return "" if value in (None, {}) else arguments
    # A model may have chosen another name for the only field.
    texts = [field for field in value.values() if isinstance(field, str)]
    field = value.get(FIELD)
    if isinstance(field, str):
        return field
    return texts[0] if len(texts) == len(value) == 1 else arguments
