"""What documents say beside their plain text: formats and merged cells of sheets, notes
and changes of Word documents, charts of slides, and the like."""

import datetime
import email.message
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import docx
import matplotlib
import openpyxl
import pptx
import pytest
from pptx.chart.data import CategoryChartData, XyChartData
from pptx.enum.chart import XL_CHART_TYPE
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfbase import pdfmetrics, ttfonts
from reportlab.pdfgen.canvas import Canvas

from modelyard.sandbox.runner import SandboxError
from tests.sandbox.conftest import Readers
from tests.sandbox.test_documents import packed

pytestmark = pytest.mark.proof("documents")

_STRICT = (
    (b"http://schemas.openxmlformats.org/officeDocument/2006/", b"http://purl.oclc.org/ooxml/officeDocument/"),
    (b"http://schemas.openxmlformats.org/spreadsheetml/2006/main", b"http://purl.oclc.org/ooxml/spreadsheetml/main"),
    (b"http://schemas.openxmlformats.org/wordprocessingml/2006/main", b"http://purl.oclc.org/ooxml/wordprocessingml/main"),
    (b"http://schemas.openxmlformats.org/presentationml/2006/main", b"http://purl.oclc.org/ooxml/presentationml/main"),
    (b"http://schemas.openxmlformats.org/drawingml/2006/", b"http://purl.oclc.org/ooxml/drawingml/"),
)  # fmt: skip


def strict(data: bytes) -> bytes:
    """Return an Office document with the namespaces of Strict Open XML."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:  # fmt: skip
        for name in source.namelist():
            content = source.read(name)
            for transitional, namespace in _STRICT:
                content = content.replace(transitional, namespace)
            target.writestr(name, content)
    return buffer.getvalue()


# ------------------------------------------------------------------------------- sheets


def saved(book: Any) -> bytes:
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def prices() -> bytes:
    """Return a workbook with a title, merged cells, formulas without values, and a hidden
    sheet."""
    book = openpyxl.Workbook()
    sheet: Any = book.active
    sheet.title = "Prices"
    sheet["A1"] = "Price list"
    sheet.merge_cells("A1:D1")
    sheet.append(["Region", "Item", "Net", "Gross"])
    for row in (["North", "Lamp", 10], [None, "Cable", 4], ["South", "Desk", 100]):
        sheet.append([*row, f"=C{sheet.max_row + 1}*1.23"])
    sheet.merge_cells("A3:A4")
    hidden: Any = book.create_sheet("Hidden")
    hidden.sheet_state = "hidden"
    hidden["A1"] = "secret margin 40%"
    return saved(book)


@pytest.mark.parametrize("make", [bytes, strict])
def test_a_sheet_is_read_as_it_is_seen(readers: Readers, make: Any):
    data = make(prices())
    table = (
        "Price list\n\n| Region | Item | Net | Gross |\n| --- | --- | --- | --- |\n"
        "| North | Lamp | 10 | =C3*1.23 |\n| North | Cable | 4 | =C4*1.23 |\n"
        "| South | Desk | 100 | =C5*1.23 |"
    )
    assert readers.both(".xlsx", data) == [table, f"# Prices\n\n{table}"]


def test_hidden_sheets_are_named(readers: Readers):
    notes = readers.notes(".xlsx", prices())
    assert notes == ["Hidden sheets were left out: Hidden"]


@pytest.mark.parametrize(
    ("value", "code", "text"),
    [
        (0.125, "0.0%", "12.5%"),
        (0.4, "0%", "40%"),
        (1234567.891, '#,##0.00 "€"', "1,234,567.89 €"),
        (1234567, "#,##0", "1,234,567"),
        (-5, "[$$-409]#,##0.00;[Red]-[$$-409]#,##0.00", "-$5.00"),
        (7.5, '_-* #,##0.00 [$€-407]_-;-* #,##0.00 [$€-407]_-', "7.50 €"),
        (3, "0.00", "3"),
        (2.25, "General", "2.25"),
        (12, "0.00E+00", "12"),
        (datetime.date(2026, 3, 4), "d. mmm yyyy", "2026-03-04"),
        ("12", "0%", "12"),
        (True, "0%", "True"),
        (1234.5, "#,##0.##", "1,234.5"),
        (5, '0 "a|b"', "5 a\\|b"),
    ],
)  # fmt: skip
def test_numbers_are_read_in_their_format(
    readers: Readers, value: Any, code: str, text: str
):
    book = openpyxl.Workbook()
    sheet: Any = book.active
    sheet["B2"] = value
    sheet["B2"].number_format = code
    for extracted in readers.both(".xlsx", saved(book)):
        assert f"| {text} |" in extracted


def test_formulas_outside_of_the_values_are_read(readers: Readers):
    book = openpyxl.Workbook()
    sheet: Any = book.active
    sheet["B2"], sheet["A1"], sheet["D4"], sheet["A9000"] = 7, '=B2&"<"', "=B2", "=B2"
    for extracted in readers.both(".xlsx", saved(book)):
        rows = [line for line in extracted.splitlines() if line.startswith("|")]
        assert rows[0] == '| =B2&"<" |  |  |  |'
        assert rows[2:] == ["|  | 7 |  |  |", "|  |  |  | =B2 |"]


def test_a_sheet_of_formulas_alone_is_read(readers: Readers):
    book = openpyxl.Workbook()
    sheet: Any = book.active
    sheet["C3"] = "=1+1"
    assert readers.extract(".xlsx", saved(book)).startswith("| =1+1 |")


# --------------------------------------------------------------------------------- Word

_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006"
_NOTES = {
    "footnotes": f'<w:footnotes xmlns:w="{_WORD}"><w:footnote w:id="2"><w:p><w:r><w:t>Only in the EU.</w:t></w:r></w:p></w:footnote></w:footnotes>',
    "endnotes": f'<w:endnotes xmlns:w="{_WORD}"><w:endnote w:id="2"><w:p><w:r><w:t>See page 9.</w:t></w:r></w:p></w:endnote></w:endnotes>',
}  # fmt: skip


def word_document(body: str, parts: dict[str, str] | None = None) -> bytes:
    """Return a Word document; `parts` are the other parts of its package by the names of
    their relationships."""
    document = docx.Document()
    buffer = io.BytesIO()
    document.save(buffer)
    with zipfile.ZipFile(buffer) as package:
        files: dict[str, Any] = {
            name: package.read(name) for name in package.namelist()
        }
    files["word/document.xml"] = (
        f'<w:document xmlns:w="{_WORD}" xmlns:m="{_OFFICE}/math"><w:body>{body}</w:body></w:document>'
    )
    for number, (name, content) in enumerate((parts or {}).items()):
        # The kind of a part is the name without its digits.
        kind = name.rstrip("0123456789")
        if f"word/{name}.xml" in files:
            files[f"word/{name}.xml"] = content
            continue
        target = f"{name}x.xml"
        files[f"word/{target}"] = content
        _add(
            files,
            "[Content_Types].xml",
            f'<Override PartName="/word/{target}" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.{kind}+xml"/>',
        )
        _add(
            files,
            "word/_rels/document.xml.rels",
            f'<Relationship Id="rIdx{number}" Type="{_OFFICE}/relationships/{kind}" Target="{target}"/>',
        )
    return packed(files)


def _add(files: dict[str, Any], name: str, element: str) -> None:
    """Insert an element at the end of a part."""
    start, end, tail = files[name].rpartition(b"</")
    files[name] = start + element.encode() + end + tail


def paragraph(content: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}{content}</w:p>"


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def reference(name: str, identifier: int = 2) -> str:
    return f'<w:r><w:{name}Reference w:id="{identifier}"/></w:r>'


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(
            run("Covered for two years.") + reference("footnote") + run(" Next."),
            "Covered for two years. [Only in the EU.] Next.",
            id="after a sentence",
        ),
        pytest.param(
            run("Lamps") + reference("footnote") + run(" are covered. Next") + reference("endnote") + run(" one. End."),
            "Lamps are covered. [Only in the EU.] Next one. [See page 9.] End.",
            id="inside of sentences",
        ),
        pytest.param(
            run("a") + reference("footnote") + run("b") + reference("endnote"),
            "ab [Only in the EU.] [See page 9.]",
            id="without an end",
        ),
        pytest.param(run("a.") + reference("footnote", 7), "a.", id="missing note"),
        pytest.param(
            run("a.") + '<w:del w:id="9" w:author="x"><w:r><w:delText>DELETED</w:delText></w:r></w:del>'
            f'<w:ins w:id="10" w:author="x">{run(" INSERTED")}</w:ins>',
            "a. INSERTED",
            id="tracked changes",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [bytes, strict])
def test_notes_and_changes_of_a_word_document_are_read(
    readers: Readers, make: Any, body: str, text: str
):
    data = make(word_document(paragraph(body), _NOTES))
    assert readers.both(".docx", data) == [text, text]


def _argument(name: str, text: str) -> str:
    return f"<m:{name}><m:r><m:t>{text}</m:t></m:r></m:{name}>"


@pytest.mark.parametrize(
    ("equation", "text"),
    [
        ("<m:r><m:t>a²+b²=c²</m:t></m:r>", "a²+b²=c²"),
        (f"<m:f>{_argument('num', 'a+b')}{_argument('den', '2')}</m:f>", "(a+b)/2"),
        (f"<m:sSup>{_argument('e', 'x')}{_argument('sup', 'n+1')}</m:sSup>", "x^(n+1)"),
        (f"<m:sSubSup>{_argument('e', 'x')}{_argument('sub', 'i')}{_argument('sup', '2')}</m:sSubSup>", "x_i^2"),
        (f"<m:rad><m:radPr/><m:deg/>{_argument('e', '(a)(b)')}</m:rad>", "√((a)(b))"),
        (f"<m:nary><m:naryPr><m:chr m:val='∑'/></m:naryPr>{_argument('sub', 'i=1')}{_argument('sup', 'n')}{_argument('e', 'i')}</m:nary>", "∑_(i=1)^n i"),
        (f"<m:nary>{_argument('e', 'x')}</m:nary>", "∫ x"),
        (f"<m:d><m:dPr><m:begChr m:val='['/><m:endChr m:val=']'/></m:dPr>{_argument('e', 'a')}{_argument('e', 'b')}</m:d>", "[a|b]"),
        (f"<m:func>{_argument('fName', 'sin')}{_argument('e', 'x')}</m:func>", "sin x"),
        (f"<m:limLow>{_argument('e', 'lim')}{_argument('lim', 'n→∞')}</m:limLow>", "lim_(n→∞)"),
        (f"<m:m><m:mr>{_argument('e', '1')}{_argument('e', '0')}</m:mr><m:mr>{_argument('e', '0')}{_argument('e', '1')}</m:mr></m:m>", "[1, 0; 0, 1]"),
        (f"<m:sPre>{_argument('sub', '1')}{_argument('sup', '2')}{_argument('e', 'H')}</m:sPre>", "_1^2H"),
        (f"<m:eqArr>{_argument('e', 'x=1')}{_argument('e', 'y=2')}</m:eqArr>", "x=1; y=2"),
    ],
)  # fmt: skip
def test_equations_are_read_as_a_line(readers: Readers, equation: str, text: str):
    body = f"{run('It is ')}<m:oMath>{equation}</m:oMath>{run(' here.')}"
    line = f"It is {text} here."
    assert readers.both(".docx", word_document(paragraph(body))) == [line, line]


def test_merged_cells_are_read_once_in_a_row(readers: Readers):
    document = docx.Document()
    table = document.add_table(4, 3)
    for row in range(4):
        for column in range(3):
            table.cell(row, column).text = f"{'ABC'[column]}{row}"
    table.cell(0, 0).merge(table.cell(0, 2)).text = "wide"
    table.cell(1, 0).merge(table.cell(2, 0)).text = "tall"
    for extracted in readers.both(".docx", saved(document)):
        assert extracted.splitlines() == [
            "| wide |  |  |", "| --- | --- | --- |", "| tall | B1 | C1 |",
            "| tall | B2 | C2 |", "| A3 | B3 | C3 |",
        ]  # fmt: skip


def test_deleted_rows_are_left_out(readers: Readers):
    row = "<w:tr>{}<w:tc>" + paragraph(run("{}")) + "</w:tc></w:tr>"
    deleted = '<w:trPr><w:del w:id="1" w:author="x"/></w:trPr>'
    indented = '<w:trPr><w:gridBefore w:val="1"/></w:trPr>'
    rows = (row.format("", "a"), row.format(deleted, "b"), row.format(indented, "c"))
    body = f"<w:tbl>{''.join(rows)}</w:tbl>"
    for extracted in readers.both(".docx", word_document(body)):
        assert extracted.splitlines() == ["| a |  |", "| --- | --- |", "|  | c |"]


def test_headers_and_footers_are_read_once(readers: Readers):
    document = docx.Document()
    document.add_paragraph("Body.")
    document.sections[0].header.paragraphs[0].text = "Handbook, edition 3"
    document.add_section()
    document.sections[1].header.is_linked_to_previous = False
    document.sections[1].header.paragraphs[0].text = "Handbook, edition 3"
    document.sections[0].footer.paragraphs[0].text = "Confidential"
    lines = ["Handbook, edition 3", "Body.", "Confidential"]
    for extracted in readers.both(".docx", saved(document)):
        assert [line for line in extracted.splitlines() if line] == lines


def test_page_numbers_are_no_text(readers: Readers):
    field = '<w:fldSimple w:instr=" PAGE "><w:r><w:t>1</w:t></w:r></w:fldSimple>'
    footer = f'<w:ftr xmlns:w="{_WORD}">{paragraph(run("Page ") + field)}{paragraph(run("- 2 -"))}{paragraph(run("Draft"))}</w:ftr>'
    data = word_document(paragraph(run("Body.")), {"footer1": footer})
    assert readers.both(".docx", data) == ["Body.\nDraft"] * 2


def _level(number: int, number_format: str, text: str, start: int = 1) -> str:
    return f'<w:lvl w:ilvl="{number}"><w:start w:val="{start}"/><w:numFmt w:val="{number_format}"/><w:lvlText w:val="{text}"/></w:lvl>'


def _item(identifier: int, level: int, text: str) -> str:
    return f'<w:p><w:pPr><w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{identifier}"/></w:numPr></w:pPr>{run(text)}</w:p>'


_NUMBERING = (
    f'<w:numbering xmlns:w="{_WORD}">'
    f'<w:abstractNum w:abstractNumId="1">{_level(0, "decimal", "%1.", 3)}{_level(1, "decimal", "%1.%2")}{_level(2, "lowerLetter", "%3)")}</w:abstractNum>'
    f'<w:abstractNum w:abstractNumId="2">{_level(0, "upperRoman", "%1.")}{_level(1, "bullet", "x")}{_level(2, "none", "")}</w:abstractNum>'
    '<w:num w:numId="1"><w:abstractNumId w:val="1"/></w:num>'
    '<w:num w:numId="2"><w:abstractNumId w:val="2"/></w:num>'
    '<w:num w:numId="3"><w:abstractNumId w:val="2"/><w:lvlOverride w:ilvl="0"><w:startOverride w:val="9"/></w:lvlOverride></w:num>'
    "</w:numbering>"
)  # fmt: skip


def test_lists_are_numbered(readers: Readers):
    items = [
        (1, 0, "3. a"), (1, 1, "3.1 b"), (1, 1, "3.2 c"), (1, 2, "a) d"), (1, 2, "b) e"),
        (1, 0, "4. f"), (1, 1, "4.1 g"), (2, 0, "I. h"), (2, 1, "- i"), (2, 2, "j"),
        (3, 0, "IX. k"), (3, 0, "X. l"), (0, 0, "m"), (77, 0, "n"),
    ]  # fmt: skip
    body = "".join(_item(identifier, level, text.split()[-1]) for identifier, level, text in items)  # fmt: skip
    data = word_document(body, {"numbering": _NUMBERING})
    lines = "\n".join(text for _, _, text in items)
    assert readers.both(".docx", data) == [lines, lines]


def test_comments_and_pictures_are_named(readers: Readers):
    comment = f'<w:comments xmlns:w="{_WORD}"><w:comment w:id="1">{paragraph(run("Why?"))}</w:comment></w:comments>'
    data = word_document(paragraph(run("a")), {"comments": comment})
    assert readers.notes(".docx", data) == ["Comments were left out: 1"]
    assert readers.extract(".docx", data) == "a"


# ------------------------------------------------------------------------------- slides


def deck(kind: Any, data: Any, title: str = "") -> bytes:
    """Return a deck of a slide with a chart."""
    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[5])
    slide.shapes.title.text = "Quarterly revenue"
    inch = 914_400
    chart: Any = slide.shapes.add_chart(kind, inch, inch, inch, inch, data)
    if title:
        chart.chart.has_title = True
        chart.chart.chart_title.text_frame.text = title
    return saved(presentation)


def columns() -> CategoryChartData:
    data: Any = CategoryChartData()
    data.categories = ["Q1", "Q2"]
    data.add_series("Revenue", (12, 15))
    data.add_series("Cost", (None, 7.5))
    return data


@pytest.mark.parametrize("make", [bytes, strict])
def test_a_chart_is_read_as_a_table(readers: Readers, make: Any):
    data = make(deck(XL_CHART_TYPE.COLUMN_CLUSTERED, columns(), "In millions"))
    table = (
        "|  | Revenue | Cost |\n| --- | --- | --- |\n| Q1 | 12 |  |\n| Q2 | 15 | 7.5 |"
    )
    for extracted in readers.both(".pptx", data):
        assert "Quarterly revenue" in extracted
        assert "In millions\n" in extracted
        assert extracted.endswith(table)


def test_points_of_a_chart_are_read(readers: Readers):
    data = XyChartData()
    series = data.add_series("Growth")
    series.add_data_point(1, 2.5)
    series.add_data_point(2, 3)
    for extracted in readers.both(".pptx", deck(XL_CHART_TYPE.XY_SCATTER, data)):
        assert extracted.endswith(
            "|  | Growth |\n| --- | --- |\n| 1 | 2.5 |\n| 2 | 3 |"
        )


def test_comments_of_slides_are_read(readers: Readers):
    with zipfile.ZipFile(io.BytesIO(deck(XL_CHART_TYPE.PIE, columns()))) as package:
        files: dict[str, Any] = {
            name: package.read(name) for name in package.namelist()
        }
    relations = "ppt/slides/_rels/slide1.xml.rels"
    _add(
        files,
        relations,
        f'<Relationship Id="rId90" Type="{_OFFICE}/relationships/comments" Target="../comments/comment1.xml"/>',
    )
    _add(
        files,
        relations,
        '<Relationship Id="rId91" Type="http://schemas.microsoft.com/office/2018/10/relationships/comments" Target="/ppt/comments/modern.xml"/>',
    )
    _add(
        files,
        relations,
        f'<Relationship Id="rId92" Type="{_OFFICE}/relationships/comments" Target="../../../etc/passwd"/>',
    )
    files["ppt/comments/comment1.xml"] = (
        '<p:cmLst xmlns:p="p"><p:cm><p:text>Check this</p:text></p:cm></p:cmLst>'
    )
    files["ppt/comments/modern.xml"] = (
        '<n:cmLst xmlns:n="n" xmlns:a="a"><n:cm><n:replyLst><n:reply><n:txBody><a:p><a:r><a:t>Yes</a:t></a:r></a:p></n:txBody></n:reply></n:replyLst>'
        '<n:txBody><a:p><a:r><a:t>Is it so?</a:t></a:r></a:p></n:txBody></n:cm></n:cmLst>'
    )  # fmt: skip
    for extracted in readers.both(".pptx", packed(files)):
        comments = [
            line for line in extracted.splitlines() if line.startswith("Comment")
        ]
        assert comments == ["Comment: Check this", "Comment: Is it so?", "Comment: Yes"]


# -------------------------------------------------------------------------------- pages

_CONTENT = (
    "<h1>Returns</h1><p>" + "Goods may be returned within thirty days. " * 20 + "</p>"
)
_LINKS = "".join(f'<li><a href="/{name}">{name}</a></li>' for name in "abcdefgh")


@pytest.mark.parametrize(
    "surrounding",
    [
        '<div id="cookie-banner"><p>SURROUNDING We use cookies.</p><button>Accept all</button></div>',
        '<section class="gdpr_consent">SURROUNDING</section>',
        '<div role="navigation">SURROUNDING</div>',
        "<div hidden>SURROUNDING</div>",
        f'<div class="main-menu"><ul><li><a href="/">SURROUNDING</a></li>{_LINKS}</ul></div>',
        "<ul>" + "".join(f'<li><a hreflang="{code}" href="/{code}">SURROUNDING {code}</a></li>' for code in ("de", "fr", "it", "es", "pl")) + "</ul>",
        '<div id="p-lang"><ul><li><a href="/x">SURROUNDING</a></li></ul></div>',
    ],
)  # fmt: skip
def test_what_surrounds_a_page_is_left_out(readers: Readers, surrounding: str):
    page = f"<html><body>{surrounding}{_CONTENT}{surrounding}</body></html>"
    extracted = readers.index(".html", page.encode())
    assert "SURROUNDING" not in extracted
    assert extracted.startswith("# Returns")


@pytest.mark.parametrize(
    "content",
    [
        f"<div class='cookie-policy'>{_CONTENT}</div><p>short</p>",
        f"<div class='navigation'>{_CONTENT}</div>",
        f"<body class='cookie-consent'>{_CONTENT}</body>",
        f"<form>{_CONTENT}</form>",
        f"{_CONTENT}<div class='menu'><p>Returns and soup, without any link.</p></div>",
        f"{_CONTENT}<ul><li><a href='/a'>Returns</a></li></ul>",
    ],
)
def test_content_is_kept_whatever_it_is_called(readers: Readers, content: str):
    extracted = readers.index(".html", f"<html><body>{content}</body></html>".encode())
    assert "Goods may be returned" in extracted
    assert extracted.count("Returns") == content.count("Returns")


def test_cells_have_no_styles_and_keep_their_lines_apart(readers: Readers):
    page = (
        "<table><tr><th>Name</th><th>Also</th></tr><tr><td><style>.x{line-height:inherit}</style>"
        "Bufflehead<br>(Bucephala <i>albeola</i>)<script>f()</script></td>"
        "<td><ul><li>one</li><li>two <b>bold</b></li></ul></td></tr></table>"
    )
    assert readers.index(".html", page.encode()).splitlines() == [
        "| Name | Also |", "| --- | --- |",
        "| Bufflehead<br>(Bucephala albeola) | one<br>two bold |",
    ]  # fmt: skip


# ---------------------------------------------------------------------------------- PDF

_STOCK = (
    ("Product", "Location", "Expected", "Actual"), ("SKU-8847", "A-12", "450", ""),
    ("", "B-07", "", "289"), ("SKU-9201", "C-15", "780", "778"),
)  # fmt: skip
_STOCK_TABLE = (
    "| Product | Location | Expected | Actual |\n| --- | --- | --- | --- |\n"
    "| SKU-8847 | A-12 | 450 |  |\n|  | B-07 |  | 289 |\n| SKU-9201 | C-15 | 780 | 778 |"
)


def drawn(
    texts: Iterable[tuple[float, float, str]], font: str = "Helvetica", **options: Any
) -> bytes:
    """Return a PDF of a page with texts at (x, y)."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, **options)
    canvas.setFont(font, 12)
    for x, y, text in texts:
        canvas.drawString(x, y, text)
    canvas.save()
    return buffer.getvalue()


def stock() -> list[tuple[float, float, str]]:
    return [
        (x, 700 - 18 * index, text)
        for index, row in enumerate(_STOCK)
        for x, text in zip((60, 180, 300, 400), row, strict=True)
        if text
    ]


@pytest.mark.parametrize("is_by_column", [False, True])
def test_a_table_without_lines_is_read_by_positions(
    readers: Readers, is_by_column: bool
):
    title, end = (
        "This is the stock of all our places as counted in spring.",
        "The end of it.",
    )
    cells = sorted(stock()) if is_by_column else stock()
    data = drawn([(60, 760, title), *cells, (60, 560, end)])
    text = f"{title}\n\n{_STOCK_TABLE}\n\n{end}"
    assert readers.both(".pdf", data) == [text, text]


def test_columns_of_prose_are_no_table(readers: Readers):
    lines = ["This is a line of prose that", "fills its column as far as the", "words of it allow in the end"]  # fmt: skip
    for count in (2, 3):
        texts = [
            (40 + 180 * column, 700 - 16 * row, line)
            for column in range(count)
            for row, line in enumerate(lines)
        ]
        text = "\n".join(lines * count)
        assert readers.both(".pdf", drawn(texts)) == [text, text]


def test_words_split_at_line_ends_are_joined(readers: Readers):
    lines = ("Sed diam nonumy eir-", "mod tempor, a well-", "known case. It is well-known in the EU-", "Zone.")  # fmt: skip
    data = drawn((60, 700 - 14 * row, line) for row, line in enumerate(lines))
    for extracted in readers.both(".pdf", data):
        text = " ".join(extracted.split())
        assert (
            text
            == "Sed diam nonumy eirmod tempor, a well-known case. It is well-known in the EU-Zone."
        )


def test_arabic_ligatures_are_read_in_their_order(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
):
    words = [
        "\u0627\ufef9\u0646\u062a\u0627\u062c",
        "\u0627\u0644\u0623\u0648\u0644",
        "\ufe8d\ufefb",
    ]
    original = ttfonts.makeToUnicodeCMap

    def as_two_letters(*arguments: Any) -> str:
        """Say of the ligature that it is two letters, as most programs do."""
        return original(*arguments).replace("<FEF9>", "<06440625>")

    monkeypatch.setattr(ttfonts, "makeToUnicodeCMap", as_two_letters)
    font = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    pdfmetrics.registerFont(ttfonts.TTFont("Arabic", str(font)))
    # Letters are drawn from the left.
    data = drawn(((100, 700 - 30 * row, word_document[::-1]) for row, word_document in enumerate(words)), "Arabic")  # fmt: skip
    text = "\u0627\u0644\u0625\u0646\u062a\u0627\u062c\n\u0627\u0644\u0623\u0648\u0644\n\u0627\u0644\u0627"
    assert readers.both(".pdf", data) == [text, text]


def test_an_empty_password_is_tried(readers: Readers):
    texts = [(60, 700, "For all.")]
    data = drawn(texts, encrypt=StandardEncryption("", ownerPassword="o"))
    assert readers.both(".pdf", data) == ["For all."] * 2
    data = drawn(texts, encrypt=StandardEncryption("u", ownerPassword="o"))
    for read in (readers.extract, readers.index):
        with pytest.raises(SandboxError, match="encrypted and requires a password"):
            read(".pdf", data)


# ----------------------------------------------------------------- messages and Markdown


def message(*attachments: tuple[str, bytes]) -> email.message.EmailMessage:
    result = email.message.EmailMessage()
    result["From"], result["Subject"] = "Ann <ann@example.org>", "Prices"
    result.set_content("See below.\n")
    for name, data in attachments:
        result.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)  # fmt: skip
    return result


def test_attachments_of_readable_types_are_read(readers: Readers):
    inner = message(("inner.txt", b"Deep text."))
    outer = message(
        ("a.csv", b"x,y\n1,2\n"), ("b.xlsx", prices()), ("c.bin", b"\0\1\2")
    )
    outer.add_attachment(inner)
    extracted = readers.both(".eml", outer.as_bytes())
    for text in extracted:
        assert "Attachments: a.csv, b.xlsx, c.bin, message.eml" in text
        assert "Attachment a.csv:\n\n| x | y |" in text
        assert "| North | Cable | 4 |" in text
        assert "Attachment inner.txt:\n\nDeep text." in text
    notes = readers.notes(".eml", outer.as_bytes())
    assert notes[0] == "Hidden sheets were left out: Hidden"
    assert notes[1].startswith(
        "Attachment c.bin was not read: The file is neither text"
    )


def test_messages_within_messages_end(readers: Readers):
    nested = message()
    for _ in range(8):
        outer = message()
        outer.add_attachment(nested)
        nested = outer
    extracted, _ = readers.both(".eml", nested.as_bytes())
    assert extracted.count("Subject: Prices") == 4
    assert readers.notes(".eml", nested.as_bytes()) == ["Attachment message.eml was not read: nested"]  # fmt: skip


def test_no_more_than_fifty_attachments_are_read(readers: Readers):
    data = message(*((f"{number}.txt", b"text") for number in range(52))).as_bytes()
    assert readers.extract(".eml", data).count("Attachment ") == 50
    assert readers.notes(".eml", data) == [
        "Attachments after the first 50 were not read"
    ]


def test_settings_in_front_of_markdown_are_no_text(readers: Readers):
    front = '---\ntitle: "My page"\ntags:\n  - a\n- b\n\n# note\n---\n'
    assert readers.index(".md", f"{front}# Text\n".encode()) == "# Text\n"
    rule = "---\nThis is a text between rules.\n---\nMore.\n"
    assert readers.index(".md", rule.encode()) == rule
