"""Tests for the text of documents, and for decompression bombs.

A bomb gives a clear error, and the next document can be read.
"""

import asyncio
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping

import docx
import pytest

from modelyard.sandbox.runner import Sandbox, SandboxError, SandboxLimits

pytestmark = pytest.mark.proof("documents")

Read = Callable[[str, bytes], str]


@pytest.fixture(scope="module")
def read() -> Iterator[Read]:
    with asyncio.Runner() as runner:

        async def make() -> Sandbox:
            return Sandbox(SandboxLimits(document_seconds=3.0, memory_mb=192))

        sandbox = runner.run(make())
        yield lambda extension, data: runner.run(sandbox.extract(extension, data)).text
        runner.run(sandbox.aclose())


def packed(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def word_file(body: str | bytes | None = None) -> bytes:
    """Return a .docx file; `body` replaces its document XML."""
    document = docx.Document()
    document.add_paragraph("First, ünïcode.")
    table = document.add_table(2, 2)
    for row, texts in zip(
        table.rows, (("name", "age"), ("Ada\nL.", "36")), strict=True
    ):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.text = text
    document.add_paragraph("Last.")
    buffer = io.BytesIO()
    document.save(buffer)
    if body is None:
        return buffer.getvalue()
    with zipfile.ZipFile(buffer) as archive:
        return packed(
            {
                **{name: archive.read(name) for name in archive.namelist()},
                "word/document.xml": body,
            }
        )


def sheet_file(cells: str | bytes) -> bytes:
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    return packed({
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="One" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": cells if isinstance(cells, bytes) else f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>',
    })  # fmt: skip


def pdf_file(text: str) -> bytes:
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
    parts = [
        "<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    pdf_text, offsets = "%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        offsets.append(len(pdf_text))
        pdf_text += f"{number} 0 obj\n{part}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    pdf_text += f"xref\n0 {len(parts) + 1}\n0000000000 65535 f \n{table}"
    return f"{pdf_text}trailer << /Size 6 /Root 1 0 R >>\nstartxref\n{pdf_text.index('xref')}\n%%EOF".encode()


SLIDE = "<p:sld><a:p><a:r><a:t>A &amp; </a:t></a:r><a:r><a:t>B</a:t></a:r></a:p><a:p><a:r><a:t>C</a:t></a:r></a:p></p:sld>"


@pytest.mark.parametrize(
    ("extension", "data", "text"),
    [
        (".txt", "héllo".encode(), "héllo"),
        (".md", "\ufeffhi".encode("utf-8-sig"), "\ufeffhi"),
        (".txt", "日本".encode("utf-16"), "日本"),
        ("text/plain", b"by its type", "by its type"),
        (".json", b'{"b":[1,"\xc3\xa4"]}', '{\n  "b": [\n    1,\n    "ä"\n  ]\n}'),
        (".yaml", b"b: 1\na: [x, y]", "b: 1\na:\n- x\n- y\n"),
        (".csv", b"name,age\n\n\"A|b\",1\n,", "| name | age |\n| --- | --- |\n| A\\|b | 1 |"),
        (".docx", word_file(), "First, ünïcode.\n| name | age |\n| --- | --- |\n| Ada<br>L. | 36 |\nLast."),
        (".pdf", pdf_file("Hello from a page"), "Hello from a page"),
        (".pptx", packed({"ppt/slides/slide10.xml": "<a:t>ten</a:t>", "ppt/slides/slide2.xml": SLIDE}), "A & B\nC\n\nten"),
        (".epub", packed({"a.xhtml": "<head><title>x</title></head><h1>One</h1><p>two &lt;3</p>"}), "One\ntwo <3"),
        (".eml", b"From: a@b.c\nSubject: =?utf-8?q?h=C3=A4?=\n\nthe body", "From: a@b.c\nSubject: hä\n\nthe body"),
        (".vtt", b"WEBVTT\n\n1\n00:00 --> 00:01\n<v Ada>Hi.</v>\n\n00:01 --> 00:02\n<v Ada>There.\n\n<v Bo>Yes.", 'Ada "Hi. There."\nBo "Yes."'),
        (".properties", b"# c\na=1\nb: 2\nc", "# c\na: 1\nb: 2\nc: "),
        (".xlsx", sheet_file('<row r="1"><c r="A1" t="inlineStr"><is><t>n</t></is></c></row><row r="3"><c r="A3"><v>2</v></c></row>'),
         "| n |\n| --- |\n| 2 |\n\n"),
    ],
)  # fmt: skip
def test_the_text_is_read(read: Read, extension: str, data: bytes, text: str):
    assert read(extension, data) == text


_LAUGHS = '<!DOCTYPE d [<!ENTITY a0 "ha">{}]><d>&a20;</d>'.format(
    "".join(f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 21))
)
_PEEK = '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
_WORDS = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


@pytest.mark.parametrize(
    ("extension", "make", "error_pattern"),
    [
        (".docx", lambda: word_file(b"<a>" + bytes(400_000_000)), "memory|cannot be read|exited"),
        (".xlsx", lambda: sheet_file(b"<a>" + b"<row/>" * 60_000_000), "memory|cannot be read|exited|time limit"),
        (".docx", lambda: word_file(_LAUGHS), "cannot be read"),
        (".json", lambda: b"[" * 50_000 + b"]" * 50_000, "cannot be read: RecursionError"),
        (".yaml", lambda: b"[" * 50_000, "cannot be read|time limit"),
        (".yaml", lambda: b"a: !!python/object/apply:os.system [id]", "cannot be read: ConstructorError"),
        (".csv", lambda: b"x" * 30_000_000, "cannot be read"),
        (".epub", lambda: packed({"a.html": b"<script>" * 2_000_000}), "limit of 3 s exceeded"),
        (".epub", lambda: packed({"a.html": bytes(30_000_000)}), "exceeds"),
        (".pdf", lambda: b"%PDF-1.4 nothing of the kind", "cannot be read"),
        (".docx", lambda: b"PK\x03\x04 broken", "cannot be read"),
        (".xyz", lambda: b"?", "Unsupported Extension Type: .xyz"),
        ("", lambda: b"?", r"Unsupported Extension Type: \(none\)"),
        (".txt", lambda: b"x" * 20_000_001, "exceeds"),
    ],
)  # fmt: skip
def test_a_bomb_is_an_error_and_the_next_document_is_read(
    read: Read, extension: str, make: Callable[[], bytes], error_pattern: str
):
    with pytest.raises(SandboxError, match=error_pattern):
        read(extension, make())
    assert read(".txt", b"still here") == "still here"


def test_what_a_document_refers_to_is_not_read(read: Read):
    body = f'{_PEEK}<w:document xmlns:w="{_WORDS}"><w:body><w:p><w:r><w:t>a&x;b</w:t></w:r></w:p></w:body></w:document>'
    assert "root:" not in read(".docx", word_file(body))


def test_an_archive_cannot_escape_its_folder(read: Read):
    assert read(".epub", packed({"../../../tmp/x.html": "<p>inside</p>"})) == "inside"
