"""Documents of every format, created by real writers, with their expected content.

Also malicious and mislabelled files.
"""

import email.message
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ROWS = [
    ["Plan", "Price", "Seats"],
    ["Free", "0", "1"],
    ["Team", "12", "25"],
    ["Firm", "40", "250"],
]
FIRST = "Goods can be sent back within 30 days of delivery."
SECOND = "Parcels leave on the same day when they are ordered before noon."
CHINESE = "退款将在七个工作日内到账。"


@dataclass
class Case:
    name: str
    data: bytes
    kind: str
    texts: list[str] = field(default_factory=lambda: [FIRST, SECOND, CHINESE])
    headings: list[str] = field(default_factory=list[str])
    rows: list[list[str]] = field(default_factory=list[list[str]])
    pages: dict[str, int] = field(default_factory=dict[str, int])
    """Text → its page"""


def pdf() -> Case:
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table

    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    styles = getSampleStyleSheet()
    buffer = io.BytesIO()
    SimpleDocTemplate(buffer, pagesize=A4, title="Guide").build([
        Paragraph("Returns", styles["Heading1"]), Paragraph(FIRST, styles["Normal"]), PageBreak(),
        Paragraph(SECOND, styles["Normal"]), Table(ROWS), PageBreak(),
        Paragraph(CHINESE, ParagraphStyle("zh", fontName="STSong-Light")),
    ])  # fmt: skip
    return Case(
        "guide.pdf",
        buffer.getvalue(),
        ".pdf",
        rows=ROWS,
        pages={FIRST: 1, SECOND: 2, CHINESE: 3},
    )


def docx() -> Case:
    import docx as writer

    document = writer.Document()
    document.add_heading("Guide", 0)
    document.add_heading("Returns", 1)
    document.add_paragraph(FIRST)
    table = document.add_table(rows=0, cols=3)
    for row in ROWS:
        for cell, value in zip(table.add_row().cells, row, strict=True):
            cell.text = value
    document.add_heading("Shipping", 2)
    document.add_paragraph(SECOND)
    document.add_paragraph(CHINESE, style="List Bullet")
    buffer = io.BytesIO()
    document.save(buffer)
    return Case(
        "guide.docx",
        buffer.getvalue(),
        ".docx",
        headings=["# Guide", "# Returns", "## Shipping"],
        rows=ROWS,
    )


def pptx() -> Case:
    import pptx as writer
    from pptx.util import Inches

    deck = writer.Presentation()
    for title, text in (("Returns", FIRST), ("Shipping", SECOND), ("退款", CHINESE)):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = text
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Prices"
    table = slide.shapes.add_table(
        4, 3, Inches(1), Inches(2), Inches(6), Inches(2)
    ).table
    for row_index, row in enumerate(ROWS):
        for column, value in enumerate(row):
            table.cell(row_index, column).text = value
    slide.notes_slide.notes_text_frame.text = "Mention the discount."
    buffer = io.BytesIO()
    deck.save(buffer)
    return Case(
        "guide.pptx", buffer.getvalue(), ".pptx", [FIRST, SECOND, CHINESE, "Notes: Mention the discount."],
        ["# Returns", "# Shipping", "# Prices"], ROWS, {FIRST: 1, SECOND: 2, CHINESE: 3},
    )  # fmt: skip


def xlsx() -> Case:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "Prices"
    for row in ROWS:
        sheet.append([int(cell) if cell.isdigit() else cell for cell in row])
    notes_sheet = book.create_sheet("Notes")
    for paragraph in (FIRST, SECOND, CHINESE):
        notes_sheet.append([paragraph])
    buffer = io.BytesIO()
    book.save(buffer)
    return Case(
        "prices.xlsx",
        buffer.getvalue(),
        ".xlsx",
        headings=["# Prices", "# Notes"],
        rows=ROWS,
        pages={FIRST: 2},
    )


def xls() -> Case:
    import xlwt

    book = xlwt.Workbook()
    sheet = book.add_sheet("Prices")
    for row_index, row in enumerate([*ROWS, [FIRST], [SECOND], [CHINESE]]):
        for column, value in enumerate(row):
            sheet.write(row_index, column, int(value) if value.isdigit() else value)
    buffer = io.BytesIO()
    book.save(buffer)
    return Case(
        "prices.xls", buffer.getvalue(), ".xls", headings=["# Prices"], rows=ROWS
    )


def csv() -> Case:
    lines = [";".join(row) for row in [*ROWS, [FIRST, SECOND, CHINESE]]]
    return Case("prices.csv", "\r\n".join(lines).encode("utf-8-sig"), ".csv", rows=ROWS)


def html() -> Case:
    table = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in ROWS
    )
    text = (
        f"<!doctype html><html><head><title>Guide</title><script>var hidden = 'not said';</script></head><body>"
        f"<nav><a href='/'>Home</a></nav><h1>Returns</h1><p>{FIRST}</p><h2>Shipping</h2><p>{SECOND.replace('same', '<b>same</b>')}"
        f"</p><table>{table}</table><ul><li>{CHINESE}</li></ul><pre>x = 1\n  y = 2</pre><footer>Imprint</footer></body></html>"
    )
    return Case(
        "guide.html", text.encode(), ".html", [FIRST, SECOND, f"- {CHINESE}", "x = 1\n  y = 2"],
        ["# Returns", "## Shipping"], ROWS,
    )  # fmt: skip


def epub() -> Case:
    buffer = io.BytesIO()
    chapters = {
        "one": ("Returns", FIRST),
        "two": ("Shipping", SECOND),
        "three": ("退款", CHINESE),
    }
    with zipfile.ZipFile(buffer, "w") as book:
        book.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        book.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
            'full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
        )
        items = "".join(
            f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml"/>'
            for name in chapters
        )
        # The spine's order differs from the order of the names.
        spine = "".join(
            f'<itemref idref="{name}"/>' for name in ("one", "two", "three")
        )
        book.writestr(
            "OEBPS/content.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f"<dc:title>Guide</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>",
        )
        for name, (title, text) in chapters.items():
            page = f'<html xmlns="http://www.w3.org/1999/xhtml"><body><h1>{title}</h1><p>{text}</p></body></html>'
            book.writestr(f"OEBPS/{name}.xhtml", page)
    return Case(
        "guide.epub", buffer.getvalue(), ".epub", headings=["# Returns", "# Shipping"],
        pages={FIRST: 1, SECOND: 2, CHINESE: 3},
    )  # fmt: skip


def eml() -> Case:
    message = email.message.EmailMessage()
    message["From"], message["To"], message["Subject"] = (
        "ann@example.org",
        "bob@example.org",
        "Returns 退款",
    )
    message.set_content(f"{FIRST}\n{SECOND}\n{CHINESE}\n")
    message.add_attachment(
        b"1,2", maintype="text", subtype="csv", filename="prices.csv"
    )
    return Case(
        "mail.eml", message.as_bytes(), ".eml",
        [FIRST, SECOND, CHINESE, "Subject: Returns 退款", "From: ann@example.org", "Attachments: prices.csv"],
    )  # fmt: skip


def msg() -> Case:
    """Return an Outlook message: a compound file with the streams of such files."""
    body = f"{FIRST}\r\n{SECOND}\r\n{CHINESE}"
    streams = {
        "__properties_version1.0": bytes(32), "__substg1.0_0037001F": "Returns".encode("utf-16-le"),
        "__substg1.0_1000001F": body.encode("utf-16-le"), "__substg1.0_0C1A001F": "Ann".encode("utf-16-le"),
        "__substg1.0_0E04001F": "Bob".encode("utf-16-le"),
    }  # fmt: skip
    return Case(
        "mail.msg",
        compound(streams),
        ".msg",
        [FIRST, SECOND, CHINESE, "From: Ann", "To: Bob", "Subject: Returns"],
    )


def compound(streams: dict[str, bytes]) -> bytes:
    """Return a compound file (MS-CFB, version 3) with these streams at its root.

    Each stream is padded, so that none counts as small.
    """
    sector = 512
    padded = {
        name: data + bytes(-len(data) % sector + (4096 if len(data) < 4096 else 0))
        for name, data in streams.items()
    }
    padded = {name: data + bytes(-len(data) % sector) for name, data in padded.items()}
    entries = [("Root Entry", 5, -2, 0)]
    chain: list[int] = []
    body = b""
    for name, data in padded.items():
        entries.append((name, 2, len(chain), len(data)))
        count = len(data) // sector
        chain += [
            len(chain) + sector_index + 1 for sector_index in range(count - 1)
        ] + [-2]
        body += data
    directory_at = len(chain)
    directory = b""
    for entry_index, (name, object_type, start, size) in enumerate(entries):
        label = name.encode("utf-16-le") + b"\0\0"
        right_sibling = entry_index + 1 if 1 <= entry_index < len(entries) - 1 else -1
        child = 1 if object_type == 5 else -1
        directory += label.ljust(64, b"\0") + struct.pack(
            "<HBBiii", len(label), object_type, 1, -1, right_sibling, child
        )
        directory += bytes(36) + struct.pack("<iQ", start, size)
    directory += bytes(-len(directory) % sector)
    count = len(directory) // sector
    chain += [directory_at + sector_index + 1 for sector_index in range(count - 1)] + [
        -2
    ]
    tables = -(-(len(chain) + 4) // 128)
    tables_at = len(chain)
    chain += [-3] * tables
    table = struct.pack(f"<{len(chain)}i", *chain).ljust(tables * sector, b"\xff")
    header = (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
        + bytes(16)
        + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6)
        + bytes(6)
    )
    header += struct.pack("<IIiIIiIiI", 0, tables, directory_at, 0, 4096, -2, 0, -2, 0)
    header += struct.pack(
        "<109i",
        *[
            tables_at + table_index if table_index < tables else -1
            for table_index in range(109)
        ],
    )
    return header + body + directory + table


def markdown() -> Case:
    lines = ["# Returns", "", FIRST, "", "## Shipping", "", SECOND, "", CHINESE, ""]
    lines += [
        "| " + " | ".join(row) + " |" for row in [ROWS[0], ["---"] * 3, *ROWS[1:]]
    ]
    return Case(
        "guide.md",
        "\n".join(lines).encode(),
        ".md",
        headings=["# Returns", "## Shipping"],
        rows=ROWS,
    )


def text() -> Case:
    return Case("guide.txt", f"{FIRST}\n{SECOND}\n{CHINESE}".encode("gb18030"), ".txt")


def json_() -> Case:
    return Case(
        "guide.json",
        json.dumps({"a": [FIRST, SECOND], "b": {"c": CHINESE}}).encode(),
        ".json",
    )


def xml() -> Case:
    return Case(
        "guide.xml",
        f"<?xml version='1.0'?><guide><p>{FIRST}</p><p n='2'>{SECOND}</p>{CHINESE}</guide>".encode(),
        ".xml",
    )


def code() -> Case:
    return Case(
        "tool.py",
        f'def main():\n    """{FIRST}"""\n    return "{SECOND} {CHINESE}"\n'.encode(),
        ".py",
    )


def mislabelled_file() -> Case:
    """An HTML page with the file name of a PDF."""
    return Case("guide.pdf", html().data, ".html", headings=["# Returns"])


CASES: dict[str, Callable[[], Case]] = {
    "PDF": pdf, "DOCX": docx, "PPTX": pptx, "XLSX": xlsx, "XLS": xls, "CSV": csv, "HTML": html, "EPUB": epub,
    "EML": eml, "MSG": msg, "Markdown": markdown, "TXT (GB 18030)": text, "JSON": json_, "XML": xml, "code": code,
    "HTML that says it is PDF": mislabelled_file,
}  # fmt: skip


# ---------------------------------------------------------------------- malicious files


def _zip(names: dict[str, bytes], level: int = 9) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=level
    ) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _nested(levels: int) -> bytes:
    data = bytes(1 << 20)
    for level in range(levels):
        data = _zip({f"{level}-{copy}.zip": data for copy in range(8)})
    return data


def _encrypted_pdf() -> bytes:
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer, encrypt=StandardEncryption("secret", canPrint=0))
    canvas.drawString(72, 720, FIRST)
    canvas.save()
    return buffer.getvalue()


def _outlines_pdf() -> bytes:
    """Return a PDF with a drawing and no text."""
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    canvas.rect(72, 72, 200, 200, fill=1)
    canvas.save()
    return buffer.getvalue()


SCANNED = ["Goods can be sent back within 30 days.", "Parcels leave on the same day."]
TYPED = "A page with text of its own."


def picture(text: str) -> bytes:
    """Return an image of a line of text for OCR."""
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("L", (1240, 400), 255)
    ImageDraw.Draw(page).text((60, 120), text, fill=0, font=ImageFont.load_default(40))
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def scan() -> bytes:
    """Return a PDF whose first and last pages are images."""
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    for page_index, text in enumerate(SCANNED):
        if page_index:
            canvas.drawString(80, 700, TYPED)
            canvas.showPage()
        canvas.drawImage(ImageReader(io.BytesIO(picture(text))), 0, 300, 595, 192)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _entity_bomb() -> bytes:
    entities = "".join(
        f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' for level in range(1, 12)
    )
    return f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "ha">{entities}]><x>&l11;</x>'.encode()


def _docx_with(document: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(docx().data)) as old:
        return _zip(
            {
                name: old.read(name) if name != "word/document.xml" else document
                for name in old.namelist()
            }
        )


def _many_tables(count: int) -> bytes:
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    cells = (
        f"<w:tbl><w:tr><w:tc><w:p><w:r><w:t>{index * 7919 % 1000003:x}</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
        for index in range(count)
    )
    return _docx_with(
        f"<w:document {space}><w:body>{''.join(cells)}</w:body></w:document>".encode()
    )


def _tar(compress: Callable[[bytes], bytes]) -> bytes:
    return compress(_tar_of("zeros.txt", bytes(64 << 20)))


def _tar_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        tar_info = tarfile.TarInfo(name)
        tar_info.size = len(content)
        archive.addfile(tar_info, io.BytesIO(content))
    return buffer.getvalue()


HARM: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "encrypted PDF": ("a.pdf", _encrypted_pdf, "encrypted"),
    "broken PDF": ("a.pdf", lambda: pdf().data[:900], "damaged"),
    "PDF of nothing but lines": ("a.pdf", _outlines_pdf, "no text"),
    "picture that is none": ("a.png", lambda: b"\x89PNG\r\n\x1a\n" + b"rubbish" * 40, "no text"),
    "DOCX bomb": ("a.docx", lambda: _docx_with(b"<a>" + bytes(700 << 20)), "unpacked size"),
    "zip bomb": ("a.zip", lambda: _zip({"a.txt": bytes(700 << 20)}), "unpacked size"),
    "zip of zips": ("a.zip", lambda: _nested(3), "Zip archives are not supported"),
    "gzip bomb": ("a.txt", lambda: gzip.compress(bytes(256 << 20), 9), "gzip archives"),
    "xz bomb": ("a.txt", lambda: lzma.compress(bytes(256 << 20), preset=1), "xz archives"),
    "tar.gz bomb": ("a.tgz", lambda: _tar(lambda data: gzip.compress(data, 1)), "gzip archives"),
    "tar": ("a.tar", lambda: _tar(lambda data: data[: 1 << 20]), "Tar archives"),
    "tar of a PDF": ("a.pdf", lambda: _tar_of("a.pdf", pdf().data), "Tar archives"),
    "billion laughs": ("a.xml", _entity_bomb, ""),
    "billion laughs in DOCX": ("a.docx", lambda: _docx_with(_entity_bomb()), "cannot be read|no text"),
    "broken DOCX": ("a.docx", lambda: docx().data[:3000], "damaged"),
    # It is read on fast machines: its text is no larger than the file.
    "10⁶ tables": ("a.docx", lambda: _many_tables(1_000_000), "characters|exceed|memory|CPU time|cannot be read"),
    "HTML of 200,000 levels": ("a.html", lambda: b"<html>" + b"<div>" * 200_000 + b"deep", ""),
    "program": ("a.txt", lambda: b"\x7fELF" + bytes(range(256)) * 20, "neither text"),
    "empty": ("a.txt", lambda: b" \n\t\n", "no text"),
}  # fmt: skip


def missing_content(case: Case, parts: list[dict[str, Any]]) -> list[str]:
    """Return the expected content that the parsed document lacks."""
    full_text = "\n".join(part["text"] for part in parts)
    flat = _flat(full_text)
    lines = [line.strip() for line in full_text.splitlines()]
    return [
        *(
            snippet
            for snippet in case.texts
            if _flat(snippet) not in flat and snippet not in full_text
        ),
        *(heading for heading in case.headings if heading not in lines),
        *(" | ".join(row) for row in case.rows if not _has_row(lines, row)),
        *_misplaced_texts(case, parts),
    ]


def _flat(text: str) -> str:
    """Return a text with each run of white space as one space."""
    return " ".join(text.split())


def _has_row(lines: list[str], row: list[str]) -> bool:
    """Return whether a line has the cells of a row in order.

    The line is a row of a table, or plain text as in PDF.
    """
    return any(_in_order(row, line) for line in lines)


def _misplaced_texts(case: Case, parts: list[dict[str, Any]]) -> list[str]:
    """Return the expected texts that are not on their page."""
    misplaced: list[str] = []
    for expected_text, page in case.pages.items():
        pages = [
            part["page"]
            for part in parts
            if _flat(expected_text) in _flat(part["text"])
        ]
        if page not in pages:
            misplaced.append(f"{expected_text[:20]} on page {page}, not {pages}")
    return misplaced


def _flat(text: str) -> str:
    """Return a text with each run of white space as one space."""
    return " ".join(text.split())


def _in_order(row: list[str], line: str) -> bool:
    position = 0
    for cell in row:
        position = line.find(cell, position)
        if position < 0:
            return False
        position += len(cell)
    return True
