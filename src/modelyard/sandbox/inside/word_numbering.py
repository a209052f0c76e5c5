"""Number the headings and list items of Word documents, which store only how to count.
Runs only inside the sandbox.

Source: ECMA-376, part 1, sections 17.9 (numbering) and 17.7.4.17 (styles).
"""
# This program imports nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import re
from typing import Any

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_PLACE = re.compile(r"%([1-9])")
_ROMAN = (
    *((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc")),
    *((50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i")),
)
# Numbers above these are written in digits.
_MAX_ROMAN = 4000
_MAX_LETTERS = 260
_MAX_BASES = 20


class Numbering:
    """The counters of a document. Paragraphs are to be given in their order."""

    def __init__(self, numbering: Any, styles: Any) -> None:
        self._styles = _styles(styles)
        self._abstract: Any = {}
        # Number of a list → (definition, level → start).
        self._lists: Any = {}
        # Definition → counters of its nine levels.
        self._counters: Any = {}
        self._restarted: Any = set()
        # Style → (number of the list, level).
        self._known: Any = {}
        if numbering is not None:
            self._read(numbering)

    def _read(self, numbering: Any) -> Any:
        """Read the definitions of lists."""
        for definition in numbering.iterfind(f"{_W}abstractNum"):
            levels = {
                _number(level.get(f"{_W}ilvl")): _Level(level)
                for level in definition.iterfind(f"{_W}lvl")
            }
            self._abstract[definition.get(f"{_W}abstractNumId")] = levels
        for item in numbering.iterfind(f"{_W}num"):
            starts = {
                _number(override.get(f"{_W}ilvl")): _number(_value(override, "startOverride"))
                for override in item.iterfind(f"{_W}lvlOverride")
                if _value(override, "startOverride") is not None
            }  # fmt: skip
            self._lists[item.get(f"{_W}numId")] = _value(item, "abstractNumId"), starts

    def style_name(self, paragraph: Any) -> Any:
        """Return the name of a paragraph's style; "" if it has none."""
        style = self._styles.get(_value(paragraph.find(f"{_W}pPr"), "pStyle"))
        return style[0] if style else ""

    def label(self, paragraph: Any) -> Any:
        """Return the number of a paragraph, such as `3.2` or `b)`; `-` for bullet points
        and "" for paragraphs without a number."""
        identifier, level_number = self._place(paragraph)
        definition, starts = self._lists.get(identifier, (None, {}))
        levels = self._abstract.get(definition, {})
        level = levels.get(level_number)
        if level is None or level.format == "none":
            return ""
        if level.format == "bullet":
            return "-"
        counters = self._counters.setdefault(definition, {})
        # A list that starts anew does so once.
        if level_number in starts and (identifier, level_number) not in self._restarted:
            self._restarted.add((identifier, level_number))
            counters[level_number] = starts[level_number] - 1
        counters[level_number] = counters.get(level_number, level.start - 1) + 1
        for deeper in [number for number in counters if number > level_number]:
            del counters[deeper]
        return _PLACE.sub(
            lambda match: _count(
                levels,
                counters,
                int(match[1]) - 1,
            ),
            level.text,
        ).strip()

    def _place(self, paragraph: Any) -> Any:
        """Return (number of the list, level) of a paragraph, which its style may state."""
        properties = paragraph.find(f"{_W}pPr")
        if properties is None:
            return None, 0
        own = properties.find(f"{_W}numPr")
        name = _value(properties, "pStyle")
        if name not in self._known:
            self._known[name] = self._inherited(name)
        inherited, level = self._known[name]
        if own is None:
            return inherited, level
        identifier = _value(own, "numId")
        own_level = _value(own, "ilvl")
        return (
            inherited if identifier is None else identifier,
            level if own_level is None else _number(own_level),
        )

    def _inherited(self, style: Any) -> Any:
        """Return (number of the list, level) of a style or those that it is based on."""
        first, identifier, level = style, None, None
        for _ in range(_MAX_BASES):
            found = self._styles.get(style)
            if found is None:
                break
            _, base, style_identifier, style_level = found
            level = style_level if level is None else level
            if style_identifier is not None:
                identifier = style_identifier
                break
            style = base
        if level is None and identifier is not None:
            level = self._linked_level(identifier, first)
        return identifier, _number(level)

    def _linked_level(self, identifier: Any, style: Any) -> Any:
        """Return the level of a list that names the style."""
        definition, _ = self._lists.get(identifier, (None, {}))
        for number, level in self._abstract.get(definition, {}).items():
            if level.style == style:
                return number
        return 0


class _Level:
    """How a level of a list counts."""

    def __init__(self, level: Any) -> None:
        start = _value(level, "start")
        self.start = 1 if start is None else _number(start)
        self.format = _value(level, "numFmt") or "decimal"
        self.text = _value(level, "lvlText") or ""
        self.style = _value(level, "pStyle")


def _styles(styles: Any) -> Any:
    """Return the styles: id → (name, id of its base, number of its list, level)."""
    found: Any = {}
    for style in () if styles is None else styles.iterfind(f"{_W}style"):
        properties = style.find(f"{_W}pPr")
        numbers = None if properties is None else properties.find(f"{_W}numPr")
        found[style.get(f"{_W}styleId")] = (
            _value(style, "name") or "",
            _value(style, "basedOn"),
            _value(numbers, "numId"),
            _value(numbers, "ilvl"),
        )
    return found


def _value(element: Any, name: Any) -> Any:
    """Return the value of a child element; None if it is missing."""
    child = None if element is None else element.find(f"{_W}{name}")
    return None if child is None else child.get(f"{_W}val")


def _number(text: Any) -> Any:
    """Return a number of up to six digits; 0 for anything else."""
    if isinstance(text, int):
        return text
    is_number = isinstance(text, str) and text.isascii() and text.isdecimal()
    return int(text[:6]) if is_number else 0


def _count(levels: Any, counters: Any, number: Any) -> Any:
    """Return the counter of a level in its format."""
    level = levels.get(number)
    if level is None:
        return ""
    count = counters.get(number, level.start)
    text = _FORMATS.get(level.format, str)(count)
    return text.upper() if level.format.startswith("upper") else text


def _roman(count: Any) -> Any:
    """Return a number in small Roman digits."""
    if not 0 < count < _MAX_ROMAN:
        return str(count)
    text = ""
    for value, digits in _ROMAN:
        times, count = divmod(count, value)
        text += digits * times
    return text


def _letters(count: Any) -> Any:
    """Return a number as letters: a to z, then aa, bb and so on."""
    if not 0 < count <= _MAX_LETTERS:
        return str(count)
    return chr(ord("a") + (count - 1) % 26) * ((count - 1) // 26 + 1)


_FORMATS: Any = {
    "lowerRoman": _roman, "upperRoman": _roman, "lowerLetter": _letters,
    "upperLetter": _letters, "decimalZero": "{:02}".format,
}  # fmt: skip
