"""Read the hyperlinks of XLSX workbooks, which the reader of the cells leaves out. Runs
only inside the sandbox.

Source: ECMA-376, part 1, sections 18.2.19 (sheet), 18.3.1.47 (hyperlink); part 2,
section 9.3 (relationships).
"""
# This program imports nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import html
import io
import re
import zipfile
from typing import Any

# Against archives that expand to far more than their own size.
_MAX_SIZE = 50_000_000
# Attributes are bounded, so that the search stays linear if a tag has no end.
_SHEET = re.compile(r"<(?:\w{1,40}:)?sheet\s([^<>]{1,8000}?)/?>")
_RELATIONSHIP = re.compile(r"<(?:\w{1,40}:)?Relationship\s([^<>]{1,8000}?)/?>")
_HYPERLINK = re.compile(r"<(?:\w{1,40}:)?hyperlink\s([^<>]{1,8000}?)/?>")
_ATTRIBUTE = re.compile(r"([\w:]{1,60})\s?=\s?(?:\"([^\"]*)\"|'([^']*)')")
_CELL = re.compile(r"\$?([A-Z]{1,3})\$?(\d{1,7})")


def with_links(rows: Any, start: Any, links: Any) -> Any:
    """Return rows of values in which a cell with a link is `[text](address)`.

    `start` is the position of the first value in the sheet, (row, column) from 0.
    """
    if not links or start is None:
        return rows
    return [
        [
            _linked(value, links.get((start[0] + row, start[1] + column)))
            for column, value in enumerate(values)
        ]
        for row, values in enumerate(rows)
    ]


def _linked(value: Any, address: Any) -> Any:
    """Return a cell's value with its address, unless it is the text itself."""
    if not address or value == address:
        return value
    # The reader returns all numbers as floats, but people see `5` in the cell.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"[{'' if value is None else value}]({address})"


def links_of(data: Any) -> Any:
    """Return the links of a workbook: name of a sheet → (row, column) from 0 → address.

    Empty for other formats than XLSX. Links to places inside of the workbook have no
    address and are left out.
    """
    if data[:4] != b"PK\x03\x04":
        return {}
    with zipfile.ZipFile(io.BytesIO(data)) as book:
        return {
            name: _sheet_links(book, path) for name, path in sheet_paths(book).items()
        }


def sheet_paths(book: Any) -> Any:
    """Return the parts of a workbook that hold its sheets: name of a sheet → path."""
    targets = _targets(book, "xl/_rels/workbook.xml.rels")
    paths = {}
    for match in _SHEET.findall(_read(book, "xl/workbook.xml")):
        sheet = _attributes(match)
        target = targets.get(sheet.get("id"), "")
        # A target is relative to the workbook's folder unless it begins with a slash.
        path = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
        paths[sheet.get("name")] = path
    return paths


def _sheet_links(book: Any, path: Any) -> Any:
    """Return the links of a sheet: (row, column) → address."""
    folder, _, name = path.rpartition("/")
    addresses = _targets(book, f"{folder}/_rels/{name}.rels")
    # Most sheets have no links, and are not read.
    if not addresses:
        return {}
    links = {}
    for match in _HYPERLINK.findall(_read(book, path)):
        attributes = _attributes(match)
        cell = _CELL.match(attributes.get("ref", ""))
        address = addresses.get(attributes.get("id"))
        if cell and address:
            links[int(cell[2]) - 1, _column(cell[1])] = address
    return links


def _column(letters: Any) -> Any:
    """Return the index of a column from 0."""
    index = 0
    for letter in letters:
        index = index * 26 + ord(letter) - ord("A") + 1
    return index - 1


def _targets(book: Any, path: Any) -> Any:
    """Return the relationships of a part: id → target."""
    relationships = [
        _attributes(match) for match in _RELATIONSHIP.findall(_read(book, path))
    ]
    return {
        relationship.get("Id"): relationship.get("Target", "")
        for relationship in relationships
    }


def _read(book: Any, path: Any) -> Any:
    """Return a part of the workbook as text; "" if it is missing or too large."""
    return bytes_of(book, path).decode("utf-8", "replace")


def bytes_of(book: Any, path: Any) -> Any:
    """Return a part of the workbook; b"" if it is missing or too large."""
    try:
        if book.getinfo(path).file_size > _MAX_SIZE:
            return b""
    except KeyError:
        return b""
    return book.read(path)


def _attributes(text: Any) -> Any:
    """Return the attributes of an element by their names without a prefix."""
    return {
        name.rpartition(":")[2]: html.unescape(double or single)
        for name, double, single in _ATTRIBUTE.findall(text)
    }
