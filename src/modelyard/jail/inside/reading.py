"""Documents as they are taken into datasets: recognised by what they hold, not by their name; as Markdown, so that
headings, tables and code stay what they are; a part a page, slide, sheet or chapter. Runs in the jail alone."""

import io
import re
from typing import Any

import documents  # pyright: ignore[reportMissingImports]

_MOST_UNPACKED = 512 << 20
_MOST_RATIO = 200
_SMALL = 32 << 20  # what unpacks to less is no bomb, however well it was packed
_MOST_PARTS = 100_000
_SKIPPED = frozenset(
    {"script", "style", "noscript", "template", "svg", "nav", "footer", "aside", "form", "iframe", "button", "head"}
)
_CODE = frozenset({
    ".py", ".js", ".ts", ".jsx", ".tsx", ".go", ".rs", ".java", ".kt", ".kts", ".scala", ".c", ".h", ".cc", ".cpp",
    ".hpp", ".cs", ".rb", ".php", ".sh", ".sql", ".swift", ".lua", ".r", ".pl", ".css", ".scss", ".vue", ".toml",
    ".ini", ".yaml", ".yml", ".dart", ".ex", ".exs", ".hs", ".jl", ".proto",
})  # fmt: skip
_ARCHIVES = (
    (b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"7z\xbc\xaf", "7z"), (b"Rar!", "rar"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)  # fmt: skip
_IMAGES = (
    (b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"II*\0", ".tiff"), (b"MM\0*", ".tiff"),
)  # fmt: skip
PICTURES = frozenset([kind for _, kind in _IMAGES])
_DOTS, _LONGEST = 200, 2400  # an inch; pixels of the longer side, whatever size a page claims


def read(name: Any, data: Any) -> Any:
    """{"kind", "title", "parts": [{"text", "page"}], "scanned": pages that are pictures}. Raises
    documents.Unsupported."""
    kind = recognise(name, data)
    if kind in PICTURES:
        return {"kind": kind, "title": "", "parts": [], "scanned": [1]}
    reader = _READERS.get(kind)
    if reader is not None:
        title, parts = reader(data)
    elif kind in _CODE:
        title, parts = "", [(0, "```%s\n%s\n```" % (kind[1:], documents.text(data).rstrip("\n")))]
    else:
        title, parts = "", [(0, documents.text(data))]
    if len(parts) > _MOST_PARTS:
        raise documents.Unsupported("the document has more than %d pages" % _MOST_PARTS)
    found = [{"text": text, "page": page} for page, text in parts if text is not None and text.strip()]
    scanned = [page for page, text in parts if text is None]
    return {"kind": kind, "title": title, "parts": found, "scanned": scanned}


def pictures(data: Any, pages: Any) -> Any:
    """Pages of a PDF as PNG in base64, in grey, sharp enough to be read."""
    import base64

    import pypdfium2

    with pypdfium2.PdfDocument(data) as document:
        found = []
        for number in pages:
            page = document[number - 1]
            bitmap = page.render(scale=min(_DOTS / 72, _LONGEST / max(*page.get_size(), 1.0)), grayscale=True)
            found.append(base64.b64encode(_png(bitmap)).decode())
            page.close()
        return found


def _png(bitmap: Any) -> Any:
    import struct
    import zlib

    wide, high, step = bitmap.width, bitmap.height, bitmap.stride
    rows = bytes(bitmap.buffer)
    plain = b"".join([b"\0" + rows[at * step : at * step + wide] for at in range(high)])
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(plain, 1)),
        (b"IEND", b""),
    )  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join([
        struct.pack(">I", len(one)) + name + one + struct.pack(">I", zlib.crc32(name + one)) for name, one in chunks
    ])  # fmt: skip


def recognise(name: Any, data: Any) -> Any:
    """The extension that its content has, whatever it is called."""
    declared = name[name.rfind(".") :].lower() if "." in name else ""
    head = data[:4096]
    if b"%PDF-" in head[:1024]:
        return ".pdf"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zipped(data)
    if head[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        return _compound(data)
    for magic, what in _ARCHIVES:
        if head.startswith(magic):
            raise documents.Unsupported("a %s archive holds other files; unpack it, and add those" % what)
    for magic, what in _IMAGES:
        if head.startswith(magic):
            return what
    if b"\0" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise documents.Unsupported("the file is neither text nor a document of a known format")
    if data[257:262] == b"ustar":
        raise documents.Unsupported("a tar archive holds other files; unpack it, and add those")
    return _textual(declared, head)


def _textual(declared: Any, head: Any) -> Any:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return ".html"
    if declared in _TEXTUAL or declared in _CODE:
        return declared
    if start.startswith(b"<?xml"):
        return ".xml"
    if re.match(rb"(?i)(return-path|received|from|mime-version|date|subject|to|message-id|delivered-to): ", start):
        return ".eml"
    return ".json" if start[:1] in (b"{", b"[") and declared not in (".txt", ".md") else ".txt"


def _zipped(data: Any) -> Any:
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            entries = package.infolist()
            names = {one.filename for one in entries}
            whole = sum(one.file_size for one in entries)
            if whole > _MOST_UNPACKED or (whole > _SMALL and whole > _MOST_RATIO * len(data)):
                raise documents.Unsupported("it unpacks to %d MB: more than a document may" % (whole >> 20))
            mime = package.read("mimetype")[:80] if "mimetype" in names else b""
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise documents.Unsupported("the file is broken: %s" % error) from None
    for marker, kind in (
        ("word/document.xml", ".docx"), ("ppt/presentation.xml", ".pptx"), ("xl/workbook.xml", ".xlsx"),
        ("xl/workbook.bin", ".xlsb"),
    ):  # fmt: skip
        if marker in names:
            return kind
    if b"epub" in mime:
        return ".epub"
    if b"spreadsheet" in mime:
        return ".ods"
    raise documents.Unsupported("a zip archive holds other files; unpack it, and add those")


def _compound(data: Any) -> Any:
    import olefile

    with olefile.OleFileIO(io.BytesIO(data)) as file:
        for stream, kind in (("Workbook", ".xls"), ("Book", ".xls"), ("__properties_version1.0", ".msg")):
            if file.exists(stream):
                return kind
        if file.exists("EncryptedPackage"):
            raise documents.Unsupported("the document is encrypted")
    raise documents.Unsupported("an old Office file of this kind cannot be read; save it as DOCX or PPTX")


# ------------------------------------------------------------------------------------------------ formats


def _pdf(data: Any) -> Any:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data, autoclose=True)
    except pypdfium2.PdfiumError as error:
        told = str(error).lower()
        if "password" in told or "security" in told:
            raise documents.Unsupported("the PDF is encrypted: it needs a password") from None
        raise documents.Unsupported("the PDF is broken: %s" % error) from None
    title = ""
    try:
        title = document.get_metadata_value("Title") or ""
    except Exception:
        pass
    parts = []
    for number, page in enumerate(document, 1):
        reader = page.get_textpage()
        text = reader.get_text_range().replace("\r\n", "\n").replace("\ufffe", "-")
        is_scanned = not text.strip() and next(page.get_objects(max_depth=1), None) is not None
        parts.append((number, None if is_scanned else text))
        reader.close()
        page.close()
    return title, parts


def _docx(data: Any) -> Any:
    import docx
    from docx.table import Table
    from docx.text.paragraph import Paragraph

    document = docx.Document(io.BytesIO(data))
    pieces = []
    for part in document.element.body.iterchildren():
        if part.tag.endswith("}p"):
            pieces.append(_paragraph(Paragraph(part, document)))
        elif part.tag.endswith("}tbl"):
            rows = [[cell.text for cell in row.cells] for row in Table(part, document).rows]
            pieces.append("\n%s\n" % documents._rows(rows))
        elif part.tag.endswith("}sdt"):
            pieces.append("".join(part.itertext()))
    title = document.core_properties.title or ""
    return title, [(0, "\n".join(pieces))]


def _paragraph(one: Any) -> Any:
    text = one.text
    style = (one.style.name or "") if one.style is not None else ""
    if text.strip():
        if style == "Title":
            return "\n# %s\n" % text
        match = re.match(r"Heading (\d)", style)
        if match:
            return "\n%s %s\n" % ("#" * min(6, int(match[1])), text)
        if style.startswith("List"):
            return "- %s" % text
    return text


def _sheets(data: Any) -> Any:
    import python_calamine

    book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
    parts = []
    for number, name in enumerate(book.sheet_names, 1):
        rows = book.get_sheet_by_name(name).to_python(skip_empty_area=True)
        table = documents._rows(rows)
        if table:
            parts.append((number, "# %s\n\n%s" % (name, table)))
    return "", parts


def _csv(data: Any) -> Any:
    import csv

    body = documents.text(data)
    csv.field_size_limit(10_000_000)
    try:
        dialect = csv.Sniffer().sniff(body[:20_000], ",;\t|")
    except csv.Error:
        dialect = csv.excel
    return "", [(0, documents._rows(csv.reader(io.StringIO(body), dialect)))]


def _html(data: Any) -> Any:
    import lxml.html

    parser = lxml.html.HTMLParser(huge_tree=False, remove_comments=True, encoding="utf-8")
    tree = lxml.html.document_fromstring(documents.text(data).encode("utf-8", "replace"), parser=parser)
    title = (tree.findtext(".//title") or "").strip()
    body = tree.find("body")
    body = tree if body is None else body
    for name in ("main", "article"):
        found = body.findall(".//%s" % name)
        if len(found) == 1 and len(found[0].text_content().strip()) > 200:
            body = found[0]
            break
    lines = []
    _markup(body, lines)
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", "".join(lines)) if "```" not in "".join(lines) else "".join(lines)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    if title and not text.startswith("# "):
        text = "# %s\n\n%s" % (title, text)
    return title, [(0, text)]


_BLOCKS = frozenset(
    {
        "p",
        "div",
        "section",
        "article",
        "main",
        "header",
        "ul",
        "ol",
        "dl",
        "dt",
        "dd",
        "blockquote",
        "figure",
        "figcaption",
        "tr",
        "address",
        "details",
        "summary",
    }
)


def _markup(node: Any, out: Any, depth: Any = 0) -> Any:
    """What a page says, as Markdown."""
    tag = node.tag if isinstance(node.tag, str) else ""
    if tag in _SKIPPED or not tag or depth > 200:
        return
    if re.fullmatch(r"h[1-6]", tag):
        words = " ".join(node.text_content().split())
        if words:
            out.append("\n\n%s %s\n\n" % ("#" * int(tag[1]), words))
        return
    if tag == "pre":
        out.append("\n\n```\n%s\n```\n\n" % node.text_content().strip("\n"))
        return
    if tag == "table" and not node.findall(".//table"):
        rows = [[" ".join(cell.text_content().split()) for cell in row.iter("td", "th")] for row in node.iter("tr")]
        out.append("\n\n%s\n\n" % documents._rows(rows))
        return
    if tag == "br":
        out.append("\n")
    elif tag == "li":
        out.append("\n- ")
    elif tag in _BLOCKS:
        out.append("\n\n" if tag == "p" else "\n")
    if node.text:
        out.append(re.sub(r"\s+", " ", node.text))
    for child in node:
        _markup(child, out, depth + 1)
        if child.tail:
            out.append(re.sub(r"\s+", " ", child.tail))
    if tag in _BLOCKS or tag == "li":
        out.append("\n\n" if tag == "p" else "\n")


def _epub(data: Any) -> Any:
    """Its chapters in the order in which they are read."""
    import posixpath
    import zipfile
    from urllib.parse import unquote

    with zipfile.ZipFile(io.BytesIO(data)) as book:
        names = set(book.namelist())
        package = _xml(book.read("META-INF/container.xml")).find(".//{*}rootfile").get("full-path")
        opf = _xml(book.read(package))
        files = {one.get("id"): one.get("href") for one in opf.iterfind(".//{*}manifest/{*}item")}
        title = (opf.findtext(".//{*}title") or "").strip()
        parts = []
        for item in opf.iterfind(".//{*}spine/{*}itemref"):
            place = posixpath.normpath(
                posixpath.join(posixpath.dirname(package), unquote(files.get(item.get("idref")) or ""))
            )
            if place in names:
                parts.append((len(parts) + 1, _html(book.read(place))[1][0][1]))
    return title, parts


def _xml(data: Any) -> Any:
    import lxml.etree as etree

    # Entities stay what they are: a few lines of them can stand for gigabytes.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False, load_dtd=False)
    return etree.fromstring(data, parser)


def _plain_xml(data: Any) -> Any:
    """Each element that says something on a line of its own, below the names of those around it."""
    root = _xml(data)
    lines = []
    stack = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        if not isinstance(node.tag, str):
            continue
        name = node.tag.rpartition("}")[2]
        words = " ".join((node.text or "").split())
        given = " ".join("%s=%s" % (key.rpartition("}")[2], value) for key, value in node.attrib.items())
        if words or given:
            lines.append("%s%s%s" % (name, " (%s)" % given if given else "", ": %s" % words if words else ""))
        tail = " ".join((node.tail or "").split())
        if tail:
            lines.append(tail)
        stack.extend((child, depth + 1) for child in reversed(list(node)))
    return "", [(0, "\n".join(lines))]


def _pptx(data: Any) -> Any:
    """A part a slide: its title, texts, tables and notes."""
    import posixpath
    import zipfile

    space = {
        "a": "http://schemas.openxmlformats.org/drawingml/2006/main",
        "p": "http://schemas.openxmlformats.org/presentationml/2006/main",
    }
    relation = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
    parts = []
    with zipfile.ZipFile(io.BytesIO(data)) as deck:
        names = set(deck.namelist())
        links = {one.get("Id"): one.get("Target") for one in _xml(deck.read("ppt/_rels/presentation.xml.rels"))}
        listed = _xml(deck.read("ppt/presentation.xml")).iterfind(".//p:sldIdLst/p:sldId", space)
        for number, one in enumerate(listed, 1):
            place = posixpath.normpath(posixpath.join("ppt", links.get(one.get(relation)) or ""))
            if place not in names:
                continue
            lines = _slide(_xml(deck.read(place)), space)
            rels = "%s/_rels/%s.rels" % (posixpath.dirname(place), posixpath.basename(place))
            if rels in names:
                for link in _xml(deck.read(rels)):
                    notes = posixpath.normpath(posixpath.join(posixpath.dirname(place), link.get("Target") or ""))
                    if (link.get("Type") or "").endswith("/notesSlide") and notes in names:
                        said = [
                            _words(each, space)
                            for each in _xml(deck.read(notes)).iterfind(".//p:sp", space)
                            if _role(each, space) == "body"
                        ]
                        lines += ["Notes: %s" % "\n".join(x for x in said if x)] if any(said) else []
            parts.append((number, "\n\n".join(one for one in lines if one)))
    return "", parts


def _slide(tree: Any, space: Any) -> Any:
    lines = []
    for shape in tree.iter("{%s}sp" % space["p"], "{%s}graphicFrame" % space["p"]):
        if shape.tag.endswith("}sp"):
            words = _words(shape, space)
            if words:
                lines.append(
                    "# %s" % " ".join(words.split()) if _role(shape, space) in ("title", "ctrTitle") else words
                )
            continue
        for table in shape.iterfind(".//a:tbl", space):
            rows = [
                [_words(cell, space) for cell in row.iterfind("a:tc", space)] for row in table.iterfind("a:tr", space)
            ]
            lines.append(documents._rows(rows))
    return lines


def _role(shape: Any, space: Any) -> Any:
    found = shape.find("./p:nvSpPr/p:nvPr/p:ph", space)
    return "" if found is None else found.get("type") or "body"


def _words(node: Any, space: Any) -> Any:
    lines = [
        "".join(run.text or "" for run in line.iter("{%s}t" % space["a"])) for line in node.iter("{%s}p" % space["a"])
    ]
    return "\n".join(one for one in lines if one.strip())


def _eml(data: Any) -> Any:
    import email
    import email.policy

    message = email.message_from_bytes(documents.safe_words(data), policy=email.policy.default)
    lines = ["%s: %s" % (name, message[name]) for name in ("From", "To", "Cc", "Subject", "Date") if message[name]]
    body = message.get_body(preferencelist=("plain", "html"))
    said = documents.said(body) if body is not None else ""
    if body is not None and body.get_content_type() == "text/html":
        said = _html(said.encode("utf-8"))[1][0][1]
    names = [one.get_filename() or "" for one in message.iter_attachments()]
    if any(names):
        lines.append("Attachments: %s" % ", ".join(one for one in names if one))
    return str(message["Subject"] or ""), [(0, "\n".join([*lines, "", said]))]


def _msg(data: Any) -> Any:
    """An Outlook message: its properties are streams of a compound file."""
    import olefile

    with olefile.OleFileIO(io.BytesIO(data)) as file:

        def property_of(number: Any) -> Any:
            for kind, encoding in (("001F", "utf-16-le"), ("001E", "cp1252")):
                name = "__substg1.0_%s%s" % (number, kind)
                if file.exists(name):
                    return file.openstream(name).read().decode(encoding, "replace").rstrip("\0")
            return ""

        subject = property_of("0037")
        sender = " ".join(one for one in (property_of("0C1A"), property_of("0C1F")) if one)
        head = [("From", sender), ("To", property_of("0E04")), ("Cc", property_of("0E03")), ("Subject", subject)]
        body = property_of("1000")
        if not body and file.exists("__substg1.0_10130102"):
            body = _html(file.openstream("__substg1.0_10130102").read())[1][0][1]
    lines = ["%s: %s" % one for one in head if one[1]]
    return subject, [(0, "\n".join([*lines, "", body]))]


def _json(data: Any) -> Any:
    """As it is, with a line a value; what is no JSON is text."""
    import json

    body = documents.text(data)
    try:
        return "", [(0, json.dumps(json.loads(body), indent=1, ensure_ascii=False))]
    except (ValueError, RecursionError):
        pass
    try:  # a value a line
        values = [json.loads(line) for line in body.splitlines() if line.strip()]
        return "", [(0, "\n".join(json.dumps(one, ensure_ascii=False) for one in values))]
    except (ValueError, RecursionError):
        return "", [(0, body)]


def _vtt(data: Any) -> Any:
    return "", [(0, documents._vtt(data))]


_READERS = {
    ".pdf": _pdf, ".docx": _docx, ".xlsx": _sheets, ".xls": _sheets, ".xlsb": _sheets, ".ods": _sheets, ".csv": _csv,
    ".tsv": _csv, ".html": _html, ".htm": _html, ".xhtml": _html, ".epub": _epub, ".xml": _plain_xml,
    ".pptx": _pptx, ".eml": _eml, ".msg": _msg, ".json": _json, ".jsonl": _json, ".vtt": _vtt,
}  # fmt: skip
_TEXTUAL = frozenset({
    ".txt", ".md", ".markdown", ".mdx", ".rst", ".log", ".csv", ".tsv", ".html", ".htm", ".xhtml", ".xml", ".json",
    ".jsonl", ".eml", ".vtt", ".srt", ".tex", ".org", ".adoc", ".properties", ".svg",
})  # fmt: skip
