"""Read the text of PDF pages: tables by the positions of their cells, words that were split
at line ends, and Arabic ligatures. Runs only inside the sandbox.

A page without gaps in its lines is read as PDFium has it, which is fast. Tables are what
has three or more columns: two are as often columns of prose.
"""
# This program imports nothing of ours, and the packages it uses have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import re
import unicodedata
from typing import Any

_SPLIT_WORD = re.compile("(\\w{1,60})[\ufffe\u00ad]\n?(\\w{1,60})")
_PRESENTATION_FORMS = re.compile("[\ufb1d-\ufdff\ufe70-\ufefc]{1,1000}")
# The forms of alef that make a ligature with the lam before them.
_SWAPPED = re.compile("[\u0622\u0623\u0625\u0627]\u0644")
_FROM_RIGHT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_MIN_COLUMNS = 3
_MIN_ROWS = 3
_MAX_SEGMENTS = 5000
_CELL_CHARS = 300
# Gaps between cells and between rows, in heights of the line.
_CELL_GAP = 0.9
_ROW_GAP = 3.0
# Prose in columns fills them; the cells of tables do not.
_MAX_FILL = 0.8
# Columns that are narrower, in heights of the line, hold no prose.
_PROSE_WIDTH = 12
# Of the width of the page: a line that is longer ends a table.
_MAX_LONE_CELL = 0.4


def page_text(page: Any, markdown_table: Any) -> Any:
    """Return the text of a page of pypdfium2; `markdown_table` writes rows."""
    reader = page.get_textpage()
    try:
        plain = reader.get_text_range()
        if _SWAPPED.search(plain):
            plain = _with_ligatures(reader, plain)
        # The columns of scripts that are written from the right have another order.
        elif not _FROM_RIGHT.search(plain) and (
            tables := _tables(reader, page.get_width())
        ):
            plain = _with_tables(reader, page, tables, markdown_table)
    finally:
        reader.close()
    return _mended(plain)


def _mended(text: Any) -> Any:
    """Return a text with usual line ends, joined words and letters without shapes."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\ufffe" in text or "\u00ad" in text:
        known = text.lower()
        text = _SPLIT_WORD.sub(lambda match: _joined(match, known), text)
        # PDFium marks the hyphens at line ends with this character.
        text = text.replace("\ufffe", "-")
    return _PRESENTATION_FORMS.sub(
        lambda match: unicodedata.normalize("NFKC", match[0]), text
    )


def _joined(match: Any, known: Any) -> Any:
    """Return a word that was split at the end of a line. The hyphen stays if the page has
    the word with it elsewhere, and before names and numbers."""
    first, second = match[1], match[2]
    is_compound = f"{first}-{second}".lower() in known
    if is_compound or not second[0].islower() or not first[-1].isalpha():
        return f"{first}-{second}"
    return first + second


def _with_ligatures(reader: Any, text: Any) -> Any:
    """Return a text in which the letters of ligatures have the order in which they are
    read. PDFium writes them as they are drawn; both have the box of the ligature."""
    import pypdfium2.raw

    drawn = "".join(
        chr(pypdfium2.raw.FPDFText_GetUnicode(reader, index))
        for index in range(reader.count_chars())
    )
    pairs, drawn_pairs = (list(_SWAPPED.finditer(found)) for found in (text, drawn))
    # The text may lack characters of the page, so that only the pairs' order is the same.
    if len(pairs) != len(drawn_pairs):
        return text
    characters = list(text)
    for pair, drawn_pair in zip(pairs, drawn_pairs, strict=True):
        first = drawn_pair.start()
        if reader.get_charbox(first) == reader.get_charbox(first + 1):
            characters[pair.start() : pair.end()] = reversed(pair[0])
    return "".join(characters)


# ------------------------------------------------------------------------------- tables


def _tables(reader: Any, width: Any) -> Any:
    """Return the tables of a page from top to bottom, as (rows of cells, columns). A cell is
    (left, bottom, right, top), a column (left, right)."""
    count = reader.count_rects()
    if not _MIN_ROWS * 2 <= count <= _MAX_SEGMENTS:
        return []
    lines = _lines([reader.get_rect(index) for index in range(count)])
    if sum(len(cells) > 1 for cells in lines) < _MIN_ROWS:
        return []
    found = []
    for rows in _runs(lines, width):
        columns = _columns(rows)
        if _is_table(rows, columns):
            found.append((rows, columns))
    return found


def _lines(boxes: Any) -> Any:
    """Return the lines of a page from top to bottom, each as its cells from left to right:
    boxes with gaps between them."""
    lines: Any = []
    for box in sorted(boxes, key=lambda box: -(box[1] + box[3])):
        middle = (box[1] + box[3]) / 2
        # A box belongs to the line whose first box it is beside.
        if lines and lines[-1][0][1] <= middle <= lines[-1][0][3]:
            lines[-1].append(box)
        else:
            lines.append([box])
    return [_cells(line) for line in lines]


def _cells(line: Any) -> Any:
    """Return the boxes of a line, those without a gap between them joined."""
    line.sort()
    height = max(box[3] - box[1] for box in line)
    cells = [line[0]]
    for box in line[1:]:
        last = cells[-1]
        if box[0] - last[2] > _CELL_GAP * height:
            cells.append(box)
        else:
            cells[-1] = (
                *(last[0], min(last[1], box[1])),
                *(max(last[2], box[2]), max(last[3], box[3])),
            )
    return cells


def _runs(lines: Any, width: Any) -> Any:
    """Yield runs of lines that may be the rows of a table."""
    run: Any = []
    for cells in lines:
        is_lone = len(cells) == 1
        is_long = is_lone and cells[0][2] - cells[0][0] > _MAX_LONE_CELL * width
        if run and (is_long or _is_apart(run[-1], cells)):
            yield _trimmed(run)
            run = []
        # A table does not begin with a line of one cell: that is its title.
        if not is_long and (run or not is_lone):
            run.append(cells)
    yield _trimmed(run)


def _is_apart(above: Any, cells: Any) -> Any:
    """Return whether there is more space between two lines than in a table."""
    height = max(cell[3] - cell[1] for cell in (*above, *cells))
    return above[0][1] - cells[0][3] > _ROW_GAP * height


def _trimmed(run: Any) -> Any:
    """Return a run without the lines of one cell at its end."""
    while run and len(run[-1]) == 1:
        run = run[:-1]
    return run


def _columns(rows: Any) -> Any:
    """Return the columns of a table: the extents of cells that lie below one another."""
    columns: Any = []
    for left, right in sorted((cell[0], cell[2]) for row in rows for cell in row):
        if columns and left <= columns[-1][1]:
            columns[-1] = (columns[-1][0], max(columns[-1][1], right))
        else:
            columns.append((left, right))
    return columns


def _is_table(rows: Any, columns: Any) -> Any:
    """Return whether rows and columns are those of a table, not of prose."""
    if len(rows) < _MIN_ROWS or len(columns) < _MIN_COLUMNS:
        return False
    # Two cells of a row in one column mean that a wide cell hides the columns.
    return all(
        len({_column_of(cell, columns) for cell in row}) == len(row) for row in rows
    ) and _has_short_cells([cell for row in rows for cell in row], columns)


def _has_short_cells(cells: Any, columns: Any) -> Any:
    """Return whether cells leave much of their columns empty, as prose does not."""
    # No width is zero, by which it would be divided.
    widths = [right - left or 1.0 for left, right in columns]
    fills = [(cell[2] - cell[0]) / widths[_column_of(cell, columns)] for cell in cells]
    height = max(cell[3] - cell[1] for cell in cells)
    is_narrow = max(widths) < _PROSE_WIDTH * height
    return is_narrow or sum(fills) <= _MAX_FILL * len(fills)


def _column_of(cell: Any, columns: Any) -> Any:
    """Return the index of the column that has a cell."""
    return next(index for index, (_, right) in enumerate(columns) if cell[0] <= right)


def _with_tables(reader: Any, page: Any, tables: Any, markdown_table: Any) -> Any:
    """Return the text of a page with its tables in their places."""
    left, bottom, right, top = page.get_bbox()
    blocks = []
    for rows, columns in tables:
        upper = max(cell[3] for cell in rows[0])
        blocks.append(_text_between(reader, (left, upper, right, top)))
        blocks.append(markdown_table(_texts(reader, rows, columns)))
        top = min(cell[1] for cell in rows[-1])
    blocks.append(_text_between(reader, (left, bottom, right, top)))
    return "\n\n".join(block for block in blocks if block)


def _text_between(reader: Any, box: Any) -> Any:
    """Return the text in a band of the page."""
    left, bottom, right, top = box
    if top <= bottom:
        return ""
    # A character belongs to a band that it touches; the edges are those of the table.
    return reader.get_text_bounded(
        left,
        bottom + 0.5,
        right,
        top - 0.5,
    ).strip()


def _texts(reader: Any, rows: Any, columns: Any) -> Any:
    """Return the texts of the cells, in as many columns in each row."""
    table = []
    for row in rows:
        texts = [""] * len(columns)
        for cell in row:
            # The lines above and below may touch the cell.
            margin = (cell[3] - cell[1]) / 4
            text = _bounded(
                reader, cell[0], cell[1] + margin, cell[2], cell[3] - margin
            )
            texts[_column_of(cell, columns)] = " ".join(text.split())
        table.append(texts)
    return table


def _bounded(reader: Any, left: Any, bottom: Any, right: Any, top: Any) -> Any:
    """Return the text in a box. PDFium is called once, not for the length too."""
    import ctypes

    import pypdfium2.raw

    buffer = (ctypes.c_ushort * _CELL_CHARS)()
    count = pypdfium2.raw.FPDFText_GetBoundedText(
        reader, left, top, right, bottom, buffer, _CELL_CHARS
    )
    if count >= _CELL_CHARS:
        return reader.get_text_bounded(left, bottom, right, top)
    return bytes(buffer)[: 2 * count].decode("utf-16-le", "replace").rstrip("\0")
