"""Rows of a CSV file that become segments. Pure: no I/O."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from modelyard.base.charsets import LABELS, decode, has_byte_order_mark, is_utf8
from modelyard.base.errors import InvokeBadRequestError
from modelyard.knowledge.entities import DocForm

MAX_FILE_BYTES = 10 << 20
MAX_ROWS = 20_000
_DELIMITERS = ",;\t"
# Dify's templates name the columns like this; in other languages the order decides.
_CONTENT_NAMES = ("content", "question", "text", "segment", "segment content")
_ANSWER_NAMES = ("answer",)


class SegmentRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the file."""

    line: int
    """Its number in the file, from 1, as spreadsheets count."""
    content: str
    answer: str = ""


class RowError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a row cannot become a segment."""

    line: int
    message: str


def read_segment_table(
    data: bytes, form: DocForm, *, encoding: str = "", has_header: bool = True
) -> tuple[list[SegmentRow], list[RowError]]:
    """Return the rows of a CSV file, and those that cannot become segments of a document
    of this form. Empty rows are skipped.

    The columns are found by the names in the first row, `content` (or `question`) and
    `answer`; without such names, or without a header, the first column is the content
    and the second one the answer. The delimiter is a comma, a semicolon or a tab.
    Raises InvokeBadRequestError if the file is not a usable CSV file.
    """
    lines = _lines(_text(data, encoding))
    header = next(lines, None) if has_header else None
    if has_header and header is None:
        raise InvokeBadRequestError("The CSV file is empty", param="file")
    columns = _columns(header[1] if header is not None else ())
    rows, errors = _sorted_out(lines, columns, form)
    # A file without rows is more likely a mistake than a wish.
    if not rows and not errors:
        raise InvokeBadRequestError(
            "The CSV file has no rows" + (" below its header" if has_header else ""),
            param="file",
        )
    return rows, errors


def _sorted_out(
    lines: Iterator[tuple[int, list[str]]], columns: tuple[int, int], form: DocForm
) -> tuple[list[SegmentRow], list[RowError]]:
    """Return the rows, and those that cannot become segments. Raises
    InvokeBadRequestError for too many."""
    rows: list[SegmentRow] = []
    errors: list[RowError] = []
    for number, cells in lines:
        # Spreadsheets leave empty rows at the end, and people between sections.
        if not any(cell.strip() for cell in cells):
            continue
        if len(rows) + len(errors) >= MAX_ROWS:
            raise InvokeBadRequestError(
                f"The CSV file has more than {MAX_ROWS:,} rows; split it", param="file"
            )
        row = _row(number, cells, columns)
        if problem := _problem(row, form):
            errors.append(RowError(line=number, message=problem))
        else:
            rows.append(row)
    return rows, errors


def _text(data: bytes, encoding: str) -> str:
    """Return the file's text. Raises InvokeBadRequestError if it is too large or in an
    encoding that has to be named."""
    if len(data) > MAX_FILE_BYTES:
        raise InvokeBadRequestError(
            f"The CSV file is larger than {MAX_FILE_BYTES >> 20} MB; split it",
            param="file",
        )
    if encoding and encoding.strip().lower() not in LABELS:
        raise InvokeBadRequestError(
            f"Unknown encoding {encoding[:40]!r}; expected a label such as utf-8,"
            " windows-1252, gb18030 or shift_jis",
            param="encoding",
        )
    # A guess would store wrong characters that nobody notices.
    if not encoding and not has_byte_order_mark(data) and not is_utf8(data):
        raise InvokeBadRequestError(
            "The CSV file is not UTF-8; save it as UTF-8, or name its encoding in"
            " 'encoding'",
            param="file",
        )
    # PostgreSQL cannot store NUL characters.
    return decode(data, encoding).replace("\0", "")


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of each record; a record with line breaks has the
    number of its first line. Raises InvokeBadRequestError for invalid CSV."""
    # `newline=""` leaves line breaks inside of quotes as they are.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InvokeBadRequestError(
                f"Line {number} of the CSV file cannot be read: {error}", param="file"
            ) from error
        if cells is None:
            return
        yield number, cells


def _delimiter(text: str) -> str:
    """Return the delimiter that occurs most often in the first line, outside of
    quotes; a comma if none does."""
    # Not `csv.Sniffer`: its patterns take quadratic time on text made for that.
    counts = dict.fromkeys(_DELIMITERS, 0)
    is_quoted = False
    for char in text[:100_000]:
        if char == '"':
            is_quoted = not is_quoted
        elif char in "\r\n" and not is_quoted:
            break
        elif char in counts and not is_quoted:
            counts[char] += 1
    return max(counts, key=lambda delimiter: counts[delimiter])


def _columns(header: Sequence[str]) -> tuple[int, int]:
    """Return the indexes of the content and the answer."""
    names = [cell.strip().lower() for cell in header]
    content = _index(names, _CONTENT_NAMES)
    answer = _index(names, _ANSWER_NAMES)
    # With one name alone, the other column is the other one of the first two.
    if content is None:
        content = 1 if answer == 0 else 0
    if answer is None:
        answer = 0 if content == 1 else 1
    return content, answer


def _index(names: Sequence[str], expected: Sequence[str]) -> int | None:
    """Return the index of the first column with one of these names; None without one."""
    return next(
        (names.index(name) for name in expected if name in names),
        None,
    )


def _row(number: int, cells: Sequence[str], columns: tuple[int, int]) -> SegmentRow:
    """Return a record as a row; missing cells are empty."""
    content, answer = (cells[index] if index < len(cells) else "" for index in columns)
    return SegmentRow(line=number, content=content, answer=answer)


def _problem(row: SegmentRow, form: DocForm) -> str:
    """Return why a row cannot become a segment; an empty text if it can."""
    if not row.content.strip():
        return "The content is empty"
    if form is DocForm.QA and not row.answer.strip():
        return "The answer is empty, which a document of questions and answers requires"
    return ""


def values_of(row: SegmentRow, form: DocForm) -> dict[str, Any]:
    """Return the values of a new segment. Only documents of questions and answers have
    answers."""
    answer = {"answer": row.answer} if form is DocForm.QA else {}
    return {"content": row.content, **answer}
