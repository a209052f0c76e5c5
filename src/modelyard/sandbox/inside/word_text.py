"""Read the text of Word documents: paragraphs with their numbers, notes, equations, content
controls and text boxes, tables, headers and footers. Runs only inside the sandbox.

Source: ECMA-376, part 1, sections 17.3 (paragraphs), 17.4 (tables), 17.5 (content
controls), 17.11 (notes), 17.13.5 (revisions) and 17.16 (fields).
"""
# This program imports nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import io
import re
from typing import Any

import office_packages  # pyright: ignore[reportMissingImports]
import word_math  # pyright: ignore[reportMissingImports]
import word_numbering  # pyright: ignore[reportMissingImports]

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_COMPATIBILITY = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_EQUATIONS = frozenset([f"{_MATH}oMath", f"{_MATH}oMathPara"])
_REFERENCES = {
    f"{_W}footnoteReference": "footnotes",
    f"{_W}endnoteReference": "endnotes",
}
# XML has no zero characters, so that they can mark where a note belongs.
_MARK = re.compile("\0([0-9]{1,9})\0")
_SENTENCE_END = re.compile(r"[.!?](?=[\s\0]|$)|[\u3002\uff01\uff1f]")
_PAGE_NUMBER = re.compile(r"\b(?:PAGE|NUMPAGES|SECTIONPAGES)\b")
_MAX_PAGE_LETTERS = 12
_MAX_COLUMNS = 1000
PARAGRAPH, BOX = f"{_W}p", f"{_W}txbxContent"
# Text that is deleted, moved away or only instructs; boxes are read after their paragraph.
_SKIPPED = frozenset(
    [
        *(f"{_W}del", f"{_W}moveFrom", f"{_W}instrText", f"{_W}delText"),
        *(f"{_W}pPr", f"{_W}rPr", f"{_W}sdtPr", BOX),
    ]
)
_CHARACTERS = {
    f"{_W}tab": "\t",
    f"{_W}cr": "\n",
    f"{_W}noBreakHyphen": "-",
}


class WordText:
    """The text of a document that python-docx has opened."""

    def __init__(self, document: Any) -> None:
        self.body = document.element.body
        self.title = document.core_properties.title or ""
        self._parts: Any = {}
        for relation in document.part.rels.values():
            if not relation.is_external:
                name = relation.reltype.rpartition("/")[2]
                self._parts.setdefault(name, []).append(relation.target_part)
        self._numbering = word_numbering.Numbering(
            self._first("numbering"), self._first("styles")
        )
        self._notes = {name: self._read_notes(name) for name in _REFERENCES.values()}
        # The notes that the paragraph refers to.
        self._pending: Any = []

    def _first(self, name: Any) -> Any:
        """Return the root element of a part; None if there is none."""
        return _root(self._parts[name][0]) if name in self._parts else None

    def _read_notes(self, name: Any) -> Any:
        """Return the texts of the footnotes or endnotes by their ids."""
        root = self._first(name)
        return {
            note.get(f"{_W}id"): " ".join(_plain_text(note).split())
            for note in (() if root is None else root)
            if isinstance(note.tag, str)
        }

    def margins(self, name: Any) -> Any:
        """Return the lines of all headers or footers, `header` or `footer`, once each.
        Page numbers are left out."""
        lines: Any = {}
        for part in self._parts.get(name, ()):
            for paragraph in _paragraphs(_root(part)):
                line = _plain_text(paragraph).strip()
                if line and not _is_page_number(paragraph, line):
                    lines[line] = True
        return list(lines)

    def omissions(self) -> Any:
        """Return sentences about what the text leaves out."""
        comments = self._first("comments")
        counts = (
            ("Comments", 0 if comments is None else len(comments)),
            ("Pictures", len({part.partname for part in self._parts.get("image", ())})),
        )
        return [f"{name} were left out: {count}" for name, count in counts if count]

    def style_name(self, paragraph: Any) -> Any:
        """Return the name of a paragraph's style; "" if it has none."""
        return self._numbering.style_name(paragraph)

    def block_text(self, element: Any) -> Any:
        """Return the text of all paragraphs of an element, which may be one itself, with
        the text boxes that are anchored in them: a line for each paragraph."""
        lines = []
        for paragraph in _paragraphs(element):
            lines.append(self._paragraph_text(paragraph))
            lines += [self.block_text(box) for box in _boxes(paragraph)]
        return "\n".join(lines)

    def _paragraph_text(self, paragraph: Any) -> Any:
        """Return a paragraph with its number, and its notes after their sentences."""
        self._pending = []
        text = _inline_text(paragraph, self._mark)
        if self._pending:
            text = _with_notes(text, self._pending)
        if not text.strip():
            return text
        label = self._numbering.label(paragraph)
        return f"{label} {text}" if label else text

    def _mark(self, reference: Any) -> Any:
        """Return the mark of a note that is written at the end of the sentence."""
        notes = self._notes[_REFERENCES[reference.tag]]
        self._pending.append(notes.get(reference.get(f"{_W}id"), ""))
        return f"\0{len(self._pending) - 1}\0"

    def rows(self, table: Any) -> Any:
        """Return the texts of a table's cells. A cell over several columns is in the first
        of them, one over several rows in each of these."""
        rows: Any = []
        above: Any = []
        for row in _rows(table):
            cells = self._cells(row, above)
            rows.append(cells)
            above = cells
        return rows

    def _cells(self, row: Any, above: Any) -> Any:
        """Return the texts of a row; `above` are those of the row before."""
        cells = [""] * _span(row.find(f"{_W}trPr"), "gridBefore", 0)
        for cell in _below(row, f"{_W}tc"):
            properties = cell.find(f"{_W}tcPr")
            merge = None if properties is None else properties.find(f"{_W}vMerge")
            if merge is not None and merge.get(f"{_W}val") != "restart":
                text = above[len(cells)] if len(cells) < len(above) else ""
            else:
                text = self.block_text(cell)
            cells += [text] + [""] * (_span(properties, "gridSpan", 1) - 1)
        return cells


def open_document(data: Any) -> Any:
    """Return the WordText of a file. Raises what python-docx and zipfile raise for damaged
    files."""
    import docx

    return WordText(docx.Document(io.BytesIO(office_packages.transitional(data))))


def _root(part: Any) -> Any:
    """Return the root element of a part of the package."""
    import lxml.etree as etree

    element = getattr(part, "element", None)
    if element is not None:
        return element
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, huge_tree=False, load_dtd=False
    )
    return etree.fromstring(part.blob, parser)


def _plain_text(element: Any) -> Any:
    """Return the text of an element without numbers and references to notes."""
    return "\n".join(
        _inline_text(paragraph, _without_mark) for paragraph in _paragraphs(element)
    )


def _without_mark(_reference: Any) -> Any:
    """Return what is written for a note where notes are not shown."""
    return ""


def _is_page_number(paragraph: Any, line: Any) -> Any:
    """Return whether a line says little more than the number of the page."""
    letters = sum(character.isalpha() for character in line)
    if not letters:
        return True
    fields = "".join(
        [
            *(field.text or "" for field in paragraph.iter(f"{_W}instrText")),
            *(
                field.get(f"{_W}instr", "")
                for field in paragraph.iter(f"{_W}fldSimple")
            ),
        ]
    )
    return letters <= _MAX_PAGE_LETTERS and bool(_PAGE_NUMBER.search(fields))


def _with_notes(text: Any, notes: Any) -> Any:
    """Return a text with its notes in brackets, each after the sentence that has its
    mark."""
    fragments, waiting, done = [], [], 0
    for match in _MARK.finditer(text):
        before = text[done : match.start()]
        # Notes of earlier sentences come before this one's.
        if waiting and (end := _SENTENCE_END.search(before)):
            fragments += [before[: end.end()], *waiting]
            before, waiting = before[end.end() :], []
        fragments.append(before)
        note = f" [{notes[int(match[1])]}]" if notes[int(match[1])] else ""
        is_at_end = _SENTENCE_END.fullmatch(before.rstrip()[-1:])
        if is_at_end and not waiting:
            fragments.append(note)
        else:
            waiting.append(note)
        done = match.end()
    rest = text[done:]
    end = _SENTENCE_END.search(rest)
    cut = end.end() if end else len(rest.rstrip())
    return "".join(
        [
            *fragments,
            rest[:cut],
            *waiting,
            rest[cut:],
        ]
    )


def _rows(table: Any) -> Any:
    """Yield the rows of a table that are not deleted."""
    for row in _below(table, f"{_W}tr"):
        properties = row.find(f"{_W}trPr")
        if properties is None or properties.find(f"{_W}del") is None:
            yield row


def _below(element: Any, tag: Any) -> Any:
    """Yield the children with a tag; those in content controls count as children."""
    for child in element.iterchildren():
        if child.tag == tag:
            yield child
        elif child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins"):
            yield from _below(child, tag)


def _span(properties: Any, name: Any, default: Any) -> Any:
    """Return a number of columns that a row or a cell states."""
    found = None if properties is None else properties.find(f"{_W}{name}")
    text = "" if found is None else found.get(f"{_W}val", "")
    is_number = text.isascii() and text.isdecimal()
    return min(int(text[:6]), _MAX_COLUMNS) if is_number else default


def _paragraphs(element: Any) -> Any:
    """Yield the paragraphs of an element that are in no text box below it."""
    if element.tag == PARAGRAPH:
        yield element
        return
    for child in element.iterchildren():
        # The tag of a comment or a processing instruction is a function.
        if child.tag != BOX and isinstance(child.tag, str):
            yield from _paragraphs(child)


def _boxes(element: Any) -> Any:
    """Yield the text boxes below an element. Most are written twice, for programs of
    different age; the newer form comes first."""
    for child in element.iterchildren():
        if child.tag == BOX:
            yield child
        elif child.tag == f"{_COMPATIBILITY}AlternateContent":
            boxes = (list(_boxes(choice)) for choice in child.iterchildren())
            yield from next(
                (choice_boxes for choice_boxes in boxes if choice_boxes), []
            )
        elif isinstance(child.tag, str):
            yield from _boxes(child)


def _inline_text(element: Any, mark: Any) -> Any:
    """Return the text of a paragraph, with that of its content controls and equations.

    `mark` returns what is written for a reference to a note.
    """
    return "".join(_child_text(child, mark) for child in element.iterchildren())


def _child_text(child: Any, mark: Any) -> Any:
    """Return the text of an element inside of a paragraph."""
    tag = child.tag
    if tag == f"{_W}t":
        return child.text or ""
    if tag in _SKIPPED or not isinstance(tag, str):
        return ""
    if tag in _CHARACTERS:
        return _CHARACTERS[tag]
    if tag == f"{_W}br":
        # Breaks of pages and columns are no breaks of lines.
        return "" if child.get(f"{_W}type") else "\n"
    if tag in _REFERENCES:
        return mark(child)
    return word_math.linear(child) if tag in _EQUATIONS else _inline_text(child, mark)
