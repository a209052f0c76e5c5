"""Text that is easily lost: links of sheets, boxes and controls of Word documents,
separators of tables, mails, RTF, and pictures that are no text."""

import io
from typing import Any

import docx
import openpyxl
import pytest

from modelyard.sandbox.runner import SandboxError
from tests.knowledge import formats
from tests.sandbox.conftest import Readers
from tests.sandbox.test_documents import packed, word_file

pytestmark = pytest.mark.proof("documents")

Document = tuple[str, bytes]
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


# ------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("Name;Preis\nApfel;12,50\nBirne;3,20\n", ["| Name | Preis |", "| Apfel | 12,50 |"]),
        ("Name;Preis\nApfel;12,50", ["| Name | Preis |", "| Apfel | 12,50 |"]),
        ("a,b\n1;2,3\n", ["| a | b |", "| 1;2 | 3 |"]),
        ("a\tb\n1, 2\t3\n", ["| a | b |", "| 1, 2 | 3 |"]),
        ("a|b\n1|2\n", ["| a | b |", "| 1 | 2 |"]),
        ('"a;b",c\n"1;2",3\n', ["| a;b | c |", "| 1;2 | 3 |"]),
        ("one\ntwo, three\nfour\n", ["| one |  |", "| two |  three |"]),
        ("one\ntwo\n", ["| one |", "| two |"]),
    ],
)  # fmt: skip
def test_the_separator_of_a_table_is_recognised(
    readers: Readers, text: str, rows: list[str]
):
    for extracted in readers.both(".csv", text.encode()):
        lines = extracted.splitlines()
        assert [lines[0], lines[2]] == rows


def test_a_long_cell_is_read(readers: Readers):
    data = f"a;b\n{'x' * 200_000};12,5\n".encode()
    for extracted in readers.both(".csv", data):
        assert extracted.endswith(f"| {'x' * 200_000} | 12,5 |")


def sheets() -> bytes:
    """Return a workbook whose cells have links."""
    book = openpyxl.Workbook()
    first: Any = book.active
    first.title = "One & two"
    # The used area does not begin at the first cell.
    first["C3"], first["D3"] = "name", "site"
    first["C4"], first["D4"] = 7, "Ada | Co"
    first["C4"].hyperlink = "https://x.example/?a=1&b=2"
    first["D4"].hyperlink = "https://x.example/d"
    first["D5"] = "https://x.example/same"
    first["D5"].hyperlink = "https://x.example/same"
    first["D6"] = "inside"
    first["D6"].hyperlink = "#Other!A1"
    book.create_sheet("Other")["A1"] = "plain"
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def test_links_of_cells_are_read(readers: Readers):
    for extracted in readers.both(".xlsx", sheets()):
        assert "| [7](https://x.example/?a=1&b=2) | [Ada \\| Co](https://x.example/d) |" in extracted  # fmt: skip
        assert "|  | https://x.example/same |" in extracted
        assert "plain" in extracted


def test_links_that_cannot_be_read_do_not_harm_the_cells(readers: Readers):
    from tests.sandbox.test_documents import sheet_file

    data = sheet_file('<row r="1"><c r="A1" t="inlineStr"><is><t>a</t></is></c></row>')
    assert readers.extract(".xlsx", data).startswith("| a |")


# --------------------------------------------------------------------------------- Word

_BOX = "<w:txbxContent><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:txbxContent>"
_BODY = (
    f'<w:document xmlns:w="{_WORD}" xmlns:v="urn:schemas-microsoft-com:vml"'
    ' xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    ' xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape">'
    "<w:body>{}</w:body></w:document>"
)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(
            "<w:p><w:r><w:t>Dear </w:t></w:r><w:sdt><w:sdtContent><w:r><w:t>Ada</w:t></w:r></w:sdtContent></w:sdt><w:r><w:t>!</w:t></w:r></w:p>",
            "Dear Ada!",
            id="control inside of a line",
        ),
        pytest.param(
            "<w:sdt><w:sdtContent><w:p><w:r><w:t>one</w:t></w:r></w:p><w:p><w:r><w:t>two</w:t></w:r></w:p></w:sdtContent></w:sdt>",
            "one\ntwo",
            id="control around paragraphs",
        ),
        pytest.param(
            "<w:p><w:r><w:t>text</w:t></w:r><w:r><mc:AlternateContent><mc:Choice Requires='wps'><wps:txbx>" + _BOX.format("box") + "</wps:txbx></mc:Choice><mc:Fallback><w:pict><v:textbox>" + _BOX.format("box") + "</v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r></w:p>",
            "text\nbox",
            id="text box in both forms",
        ),
        pytest.param(
            "<w:p><w:r><w:pict><v:textbox>" + _BOX.format("old") + "</v:textbox></w:pict></w:r></w:p>",
            "old",
            id="text box in the old form",
        ),
        pytest.param(
            "<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t><w:br w:type='page'/></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:r><w:instrText>PAGE</w:instrText></w:r></w:p>",
            "a\tb\nc",
            id="signs, deletions and fields",
        ),
        pytest.param(
            "<w:tbl><w:tr><w:tc><w:p><w:sdt><w:sdtContent><w:r><w:t>cell</w:t></w:r></w:sdtContent></w:sdt></w:p></w:tc></w:tr></w:tbl>",
            "| cell |\n| --- |",
            id="control in a cell",
        ),
    ],
)  # fmt: skip
def test_all_text_of_a_word_document_is_read(readers: Readers, body: str, text: str):
    assert readers.both(".docx", word_file(_BODY.format(body))) == [text, text]


def test_links_and_headings_of_a_word_document_are_read(readers: Readers):
    document = docx.Document()
    document.add_heading("Top", 1)
    document.add_paragraph("point", style="List Bullet")
    buffer = io.BytesIO()
    document.save(buffer)
    assert readers.index(".docx", buffer.getvalue()).split() == ["#", "Top", "-", "point"]  # fmt: skip


# ------------------------------------------------------------------------- RTF and mails


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (rb"{\rtf1\ansi\deff0{\fonttbl{\f0 Arial;}}\f0 Hello \b bold\b0  word\par next}", "Hello bold word\nnext"),
        (rb"{\rtf1\ansi\ansicpg1252 Gr\'fc\'dfe \emdash  {\*\generator Word;}\tab x}", "Gr\u00fc\u00dfe \u2014 \tx"),
        (rb"{\rtf1\ansi\ansicpg1251 \'cf\'f0\'e8\'e2\'e5\'f2}", "\u041f\u0440\u0438\u0432\u0435\u0442"),
        (rb"{\rtf1{\fonttbl{\f0\fcharset0 A;}{\f1\fcharset128 B;}}\f1\'93\'fa\'96\'7b \f0\'e9}", "\u65e5\u672c \u00e9"),
        (rb"{\rtf1{\fonttbl{\f1\fcharset128 B;}}\f1\'83A}", "\u30a2"),
        (rb"{\rtf1\uc1 \u26085?\u26412?\u-10179?\u-8704?}", "\u65e5\u672c\U0001f600"),
        (rb"{\rtf1\trowd a\cell b\cell\row c\cell\row}", "a | b\nc"),
        (rb"{\rtf1 a\{b\}\\c{\pict ffd8ffe0}{\info{\title T}}}", "a{b}\\c"),
        (rb"{\rtf1 {\field{\*\fldinst HYPERLINK x}{\fldrslt link}} end", "link end"),
        (rb"{\rtf1 \u99999999999 \'zz }}} \ansicpg99999 a", ""),
    ],
)  # fmt: skip
def test_rtf_is_read_as_text(readers: Readers, source: bytes, text: str):
    extracted = readers.both(".rtf", source)
    assert extracted[0] == extracted[1]
    if text:
        assert extracted[0] == text


def test_an_outlook_message_is_read_by_both_readers(readers: Readers):
    data = formats.msg().data
    extracted, indexed = readers.both(".msg", data)
    assert extracted == indexed
    assert "Subject: " in extracted


def test_a_broken_outlook_message_is_an_error(readers: Readers):
    with pytest.raises(SandboxError, match="cannot be read"):
        readers.extract(".msg", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))


@pytest.mark.parametrize(
    ("text", "indexed"),
    [
        ("a ![p](data:image/png;base64,iVBORw0KGgo=) b", "a ![p]() b"),
        ('<img src="data:image/svg+xml;charset=utf-8;base64,AAAA"> b', '<img src=""> b'),
        ("[p]: data:image/png;base64,AAAA\n\nNext words.", "[p]: \n\nNext words."),
        ("data:text/plain;base64,AAAA", "data:text/plain;base64,AAAA"),
    ],
)  # fmt: skip
def test_pictures_inside_of_markdown_are_not_indexed(
    readers: Readers, text: str, indexed: str
):
    assert readers.index(".md", text.encode()) == indexed
    assert readers.extract(".md", text.encode()) == text


def test_a_folder_of_bytes_is_no_word_document(readers: Readers):
    with pytest.raises(SandboxError):
        readers.extract(".docx", packed({"a": "b"}))
