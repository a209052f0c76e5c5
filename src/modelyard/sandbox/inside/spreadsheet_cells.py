"""Read the cells of workbooks as people see them: with number formats, with the values of
merged cells in each row, and with formulas that have no value. Runs only inside the
sandbox.

Source: ECMA-376, part 1, sections 18.3.1.4 (cell), 18.3.1.40 (formula), 18.8.30 (number
formats).
"""
# This program imports nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import html
import io
import re
import zipfile
from typing import Any

import spreadsheet_links  # pyright: ignore[reportMissingImports]

_STYLED_CELL = re.compile(
    rb'<(?:\w{1,40}:)?c\s(?=[^<>]{0,200}?\bs="(\d{1,6})")'
    rb'[^<>]{0,200}?\br="([A-Z]{1,3})(\d{1,7})"'
)
# The order of attributes that nearly all programs write; a tenth of the other's time.
_USUAL_CELL = re.compile(rb'<c r="([A-Z]{1,3})(\d{1,7})" s="(\d{1,6})"')
# A formula whose value is missing or empty.
_FORMULA = re.compile(
    rb"<(?:\w{1,40}:)?c\s([^<>]{1,300})>\s{0,20}<(?:\w{1,40}:)?f(?:\s[^<>]{0,300})?>"
    rb"([^<>]{1,9000})</(?:\w{1,40}:)?f>\s{0,20}"
    rb"(?:<(?:\w{1,40}:)?v\s?/>|<(?:\w{1,40}:)?v></(?:\w{1,40}:)?v>)?\s{0,20}"
    rb"</(?:\w{1,40}:)?c>"
)
_POSITION = re.compile(r'\br="([A-Z]{1,3})(\d{1,7})"')
_FORMAT = re.compile(r"<(?:\w{1,40}:)?numFmt\s([^<>]{1,2000}?)/?>")
_STYLE = re.compile(r"<(?:\w{1,40}:)?xf\s([^<>]{1,2000})")
# Literal text, the currency of a locale, other conditions, and fillers of a format.
_LITERAL = re.compile(
    r'"([^"]{0,100})"|\\(.)|\[\$([^\]-]{0,20})[^\]]{0,20}\]|\[[^\]]{0,60}\]|[_*].'
)
_DIGITS = re.compile(r"[#0?](?:[#0?,]{0,40}[#0?])?(?:\.([#0?]{0,30}))?")
# The formats that workbooks use by number and do not write down.
_BUILT_IN = {
    3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 37: "#,##0", 38: "#,##0",
    39: "#,##0.00", 40: "#,##0.00",
}  # fmt: skip
# How far formulas may lie beyond the cells that have values.
_MARGIN = 200
_MAX_TITLES = 5


def tables(book: Any, data: Any) -> Any:
    """Return [(number from 1, name, titles, rows)] of the sheets that are not hidden, and
    the names of the hidden ones.

    `book` is a workbook of python_calamine, `data` its file. `titles` are the texts
    above a table.
    """
    details = _Details(data)
    found, hidden = [], []
    for number, sheet in enumerate(book.sheets_metadata, 1):
        # The name of the enumeration ends with the word too.
        if not str(sheet.visible).endswith(".Visible"):
            hidden.append(sheet.name)
            continue
        rows = _rows(
            book.get_sheet_by_name(sheet.name),
            details,
            sheet.name,
        )
        found.append((number, sheet.name, *_without_titles(rows)))
    return found, hidden


def _rows(sheet: Any, details: Any, name: Any) -> Any:
    """Return a sheet's rows of values, from its first used row and column."""
    rows, start = sheet.to_python(skip_empty_area=True), sheet.start
    text = details.text_of(name)
    formulas = _formulas(text)
    start = _enlarge(rows, start, formulas)
    if start is None:
        return rows
    _write_formats(rows, start, details.formats, text)
    for (row, column), formula in formulas.items():
        if (
            cell := _cell_of(
                rows,
                row - start[0],
                column - start[1],
            )
        ) is not None:
            cell[column - start[1]] = formula
    # A merged range has its value in the first cell alone. Each row must make sense by
    # itself, since it may become a segment of its own.
    _repeat_merged(rows, start, sheet.merged_cell_ranges or ())
    return spreadsheet_links.with_links(
        rows,
        start,
        details.links.get(name),
    )


def _cell_of(rows: Any, row: Any, column: Any) -> Any:
    """Return the row that has the cell, or None."""
    has_cell = 0 <= row < len(rows) and 0 <= column < len(rows[row])
    return rows[row] if has_cell else None


def _enlarge(rows: Any, start: Any, formulas: Any) -> Any:
    """Add empty cells where formulas are, which the reader does not count as used. Returns
    the new first position."""
    if not formulas:
        return start
    if start is None:
        start = min(row for row, _ in formulas), min(column for _, column in formulas)
    last_row = start[0] + len(rows) - 1
    last_column = start[1] + max((len(row) for row in rows), default=0) - 1
    # Far away formulas would make a table of millions of empty cells.
    near = [
        (row, column)
        for row, column in formulas
        if row <= last_row + _MARGIN and column <= last_column + _MARGIN
    ]
    first_row = min([start[0], *(row for row, _ in near)])
    first_column = min([start[1], *(column for _, column in near)])
    last_row = max([last_row, *(row for row, _ in near)])
    last_column = max([last_column, *(column for _, column in near)])
    left = [""] * (start[1] - first_column)
    rows[:] = [
        *([] for _ in range(start[0] - first_row)),
        *(left + row for row in rows),
    ]
    rows += [[] for _ in range(last_row - first_row + 1 - len(rows))]
    width = last_column - first_column + 1
    for row in rows:
        row += [""] * (width - len(row))
    return first_row, first_column


def _repeat_merged(rows: Any, start: Any, ranges: Any) -> Any:
    """Write the value of merged cells into each row that they cover, in their first
    column: a row is read alone."""
    for (first_row, first_column), (last_row, _) in ranges:
        row, column = first_row - start[0], first_column - start[1]
        if last_row == first_row or (source := _cell_of(rows, row, column)) is None:
            continue
        for covered in rows[row + 1 : last_row - start[0] + 1]:
            if column < len(covered) and covered[column] in ("", None):
                covered[column] = source[column]


def _without_titles(rows: Any) -> Any:
    """Return (titles, rows): the first rows with a single text, if a table of three or
    more columns follows."""
    titles = []
    for index, row in enumerate(rows):
        filled = [value for value in row if value not in ("", None)]
        if len(filled) >= 3 and titles:
            return titles, rows[index:]
        if len(filled) > 1 or len(titles) == _MAX_TITLES:
            break
        titles += [str(value) for value in filled]
    return [], rows


# ------------------------------------------------------------------- the workbook's file


class _Details:
    """What the parts of an XLSX workbook say about its cells. Empty for other formats."""

    def __init__(self, data: Any) -> None:
        self.formats: Any = {}
        self.links = spreadsheet_links.links_of(data)
        self._paths: Any = {}
        if data[:4] != b"PK\x03\x04":
            return
        self._book = zipfile.ZipFile(io.BytesIO(data))
        self._paths = spreadsheet_links.sheet_paths(self._book)
        self.formats = _formats(spreadsheet_links._read(self._book, "xl/styles.xml"))

    def text_of(self, name: Any) -> Any:
        """Return the XML of a sheet; empty if it is missing or too large."""
        path = self._paths.get(name)
        return spreadsheet_links.bytes_of(self._book, path) if path else b""


def _formulas(text: Any) -> Any:
    """Return the formulas without a value: (row, column) from 0 → `=FORMULA`."""
    formulas = {}
    if b"f>" not in text:
        return formulas
    for match in _FORMULA.finditer(text):
        attributes, formula = (
            item.decode("utf-8", "replace") for item in match.groups()
        )
        cell = _POSITION.search(attributes)
        # An empty text is the value of a formula that gives texts.
        if cell and 't="str"' not in attributes:
            place = int(cell[2]) - 1, spreadsheet_links._column(cell[1])
            formulas[place] = f"={html.unescape(formula)}"
    return formulas


def _write_formats(rows: Any, start: Any, formats: Any, text: Any) -> Any:
    """Replace numbers by what their format shows, if it has more than digits."""
    if not formats:
        return
    columns: Any = {}
    for style, letters, number in _styled_cells(text):
        show = formats.get(style)
        if show is None:
            continue
        if letters not in columns:
            columns[letters] = spreadsheet_links._column(letters.decode()) - start[1]
        column = columns[letters]
        values = _cell_of(
            rows,
            int(number) - 1 - start[0],
            column,
        )
        if values is not None and type(values[column]) in (int, float):
            values[column] = show(values[column])


def _styled_cells(text: Any) -> Any:
    """Return an iterable of (style, letters of the column, number of the row) of a sheet's
    cells."""
    if b'<c r="' not in text:
        return _STYLED_CELL.findall(text)
    return (match.group(3, 1, 2) for match in _USUAL_CELL.finditer(text))


def _formats(styles: Any) -> Any:
    """Return the styles whose numbers have a percent sign, a currency or thousands:
    number of the style as bytes → function of the value."""
    codes = dict(_BUILT_IN)
    for found in _FORMAT.findall(styles):
        attributes = spreadsheet_links._attributes(found)
        if attributes.get("numFmtId", "").isdecimal():
            codes[int(attributes["numFmtId"][:9])] = attributes.get("formatCode", "")
    block = styles.partition("cellXfs")[2].partition("cellXfs>")[0]
    formats = {}
    for index, found in enumerate(_STYLE.findall(block)):
        identifier = spreadsheet_links._attributes(found).get("numFmtId", "")
        show = _shower(
            codes.get(int(identifier[:9]) if identifier.isdecimal() else 0, "")
        )
        if show is not None:
            formats[b"%d" % index] = show
    return formats


def _shower(code: Any) -> Any:
    """Return the function that shows a number in a format; None if digits alone, dates or
    fractions are shown."""
    # The sections after the first are for negative numbers, zero and text.
    literals: Any = []

    def keep(match: Any) -> Any:
        """Put a literal aside, and leave a mark in its place."""
        literals.append(match[1] or match[2] or match[3] or "")
        return "\0"

    plain = _LITERAL.sub(keep, code).split(";")[0]
    digits = _DIGITS.search(plain)
    if digits is None or "E+" in plain or "/" in plain:
        return None
    pieces = iter(literals)
    before = _with_literals(plain[: digits.start()], pieces)
    after = _with_literals(plain[digits.end() :], pieces)
    separator = "," if "," in digits[0] else ""
    if not (separator or before.strip() or after.strip()) or after.startswith(","):
        return None
    number = _number_shower(
        separator,
        digits[1] or "",
        100 if "%" in after else 1,
    )
    before, after = before.lstrip(), after.rstrip()

    def show(value: Any) -> Any:
        """Return the number with its signs."""
        return f"{'-' if value < 0 else ''}{before}{number(value)}{after}"

    return show


def _number_shower(separator: Any, decimals: Any, factor: Any) -> Any:
    """Return the function that writes the digits of a number without its sign. `decimals`
    are the places after the point, as the format has them."""
    pattern = f"{{:{separator}.{len(decimals)}f}}"
    is_optional = decimals.endswith("#")

    def digits_of(value: Any) -> Any:
        """Return the digits, without the places that need not be shown."""
        text = pattern.format(abs(value) * factor)
        return text.rstrip("0").rstrip(".") if is_optional else text

    return digits_of


def _with_literals(plain: Any, literals: Any) -> Any:
    """Return a piece of a format with its literal texts written in again."""
    return "".join(next(literals, "") if sign == "\0" else sign for sign in plain)
