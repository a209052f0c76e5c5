"""Read documents for datasets as Markdown, one part per page, slide, sheet or chapter.
Runs only inside the sandbox.

The format is recognised by content, not by name. Markdown preserves headings, tables
and code.
"""
# This program imports nothing of ours, and the packages it uses have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import io
import re
from typing import Any

import document_formats  # pyright: ignore[reportMissingImports]
import html_text  # pyright: ignore[reportMissingImports]
import mail_text  # pyright: ignore[reportMissingImports]
import office_packages  # pyright: ignore[reportMissingImports]
import pdf_text  # pyright: ignore[reportMissingImports]
import rich_text  # pyright: ignore[reportMissingImports]
import slide_extras  # pyright: ignore[reportMissingImports]
import word_text  # pyright: ignore[reportMissingImports]

# Office documents and EPUBs are ZIP files, which can unpack to any size.
_MAX_UNPACKED = 512 << 20
# Text in XML is compressed to a tenth or less, but hardly to a two-hundredth.
_MAX_RATIO = 200
# A file with a smaller unpacked size is not a bomb, whatever its ratio.
_BOMB_THRESHOLD = 32 << 20
_MAX_PARTS = 100_000
# Each note is shown to whoever has uploaded the document.
_MAX_NOTES = 20
# Extensions of source code, which becomes a fenced code block.
_CODE_EXTENSIONS = frozenset(
    {
        ".py",
        ".js",
        ".ts",
        ".jsx",
        ".tsx",
        ".go",
        ".rs",
        ".java",
        ".kt",
        ".kts",
        ".scala",
        ".c",
        ".h",
        ".cc",
        ".cpp",
        ".hpp",
        ".cs",
        ".rb",
        ".php",
        ".sh",
        ".sql",
        ".swift",
        ".lua",
        ".r",
        ".pl",
        ".css",
        ".scss",
        ".vue",
        ".toml",
        ".ini",
        ".yaml",
        ".yml",
        ".dart",
        ".ex",
        ".exs",
        ".hs",
        ".jl",
        ".proto",
    }
)
# Magic bytes of archive formats.
_ARCHIVES = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"7z\xbc\xaf", "7z"),
    (b"Rar!", "rar"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_IMAGES = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"II*\0", ".tiff"),
    (b"MM\0*", ".tiff"),
)
IMAGE_EXTENSIONS = frozenset([extension for _, extension in _IMAGES])
# Text recognition was trained with scans of this resolution.
_DPI = 200
# Pixels of the longer side, whatever size a page claims.
_MAX_IMAGE_SIDE = 2400


def read(name: Any, data: Any) -> Any:
    """Return {"kind", "title", "parts": [{"text", "page"}], "scanned": pages that are
    images, "notes": what the text leaves out}.

    Raises document_formats.Unsupported.
    """
    extension = recognise(name, data)
    # An image has no text; the caller recognises its text from the picture.
    if extension in IMAGE_EXTENSIONS:
        return {
            "kind": extension,
            "title": "",
            "parts": [],
            "scanned": [1],
            "notes": [],
        }
    reader = _READERS.get(extension)
    if reader is not None:
        title, parts = reader(data)
    elif extension in _CODE_EXTENSIONS:
        title, parts = (
            "",
            [
                (
                    0,
                    "```%s\n%s\n```"
                    % (extension[1:], document_formats.text(data).rstrip("\n")),
                )
            ],
        )
    else:
        title, parts = "", [(0, document_formats.text(data))]
    if len(parts) > _MAX_PARTS:
        raise document_formats.Unsupported(
            "The document has more than %d pages" % _MAX_PARTS
        )
    text_parts = [
        {"text": text, "page": page}
        for page, text in parts
        if text is not None and text.strip()
    ]
    # A part without text (None) is a scanned page.
    scanned = [page for page, text in parts if text is None]
    return {
        "kind": extension,
        "title": title,
        "parts": text_parts,
        "scanned": scanned,
        "notes": document_formats.notes[:_MAX_NOTES],
    }


def render_pages(data: Any, pages: Any) -> Any:
    """Render pages of a PDF as base64 PNG in greyscale, sharp enough for text
    recognition. Pages count from 1."""
    import base64

    import pypdfium2

    with pypdfium2.PdfDocument(data) as document:
        images = []
        for number in pages:
            page = document[number - 1]
            # The scale is limited by the longer side, so that a huge page size cannot
            # exhaust memory.
            bitmap = page.render(
                scale=min(_DPI / 72, _MAX_IMAGE_SIDE / max(*page.get_size(), 1.0)),
                grayscale=True,
            )
            images.append(base64.b64encode(_png(bitmap)).decode())
            page.close()
        return images


def _png(bitmap: Any) -> Any:
    """Encode a greyscale PDFium bitmap of 8 bits per pixel as a PNG file."""
    import struct
    import zlib

    wide, high, step = bitmap.width, bitmap.height, bitmap.stride
    rows = bytes(bitmap.buffer)
    # PNG rows start with a filter byte; bitmap rows may be padded to the stride.
    plain = b"".join(
        [
            b"\0" + rows[row_index * step : row_index * step + wide]
            for row_index in range(high)
        ]
    )
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(plain, 1)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            struct.pack(">I", len(payload))
            + name
            + payload
            + struct.pack(">I", zlib.crc32(name + payload))
            for name, payload in chunks
        ]
    )


def recognise(name: Any, data: Any) -> Any:
    """Return the extension that fits the content, whatever the file is called. Raises
    document_formats.Unsupported."""
    declared = name[name.rfind(".") :].lower() if "." in name else ""
    head = data[:4096]
    # First of all: an archive begins with the first file in it, which may be a
    # document.
    if head[257:262] == b"ustar":
        raise document_formats.Unsupported(
            "Tar archives are not supported; unpack it and add its files"
        )
    # The PDF header may be preceded by other bytes.
    if b"%PDF-" in head[:1024]:
        return ".pdf"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _recognise_zip(data)
    if head[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        return _recognise_ole(data)
    archive_format = _match_magic(head, _ARCHIVES)
    if archive_format:
        raise document_formats.Unsupported(
            "%s archives are not supported; unpack it and add its files"
            % archive_format
        )
    image_extension = _match_magic(head, _IMAGES)
    if image_extension:
        return image_extension
    if head.startswith(rich_text.SIGNATURE):
        return ".rtf"
    # UTF-16 text contains zero bytes, but starts with a byte order mark.
    if b"\0" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise document_formats.Unsupported(
            "The file is neither text nor a document of a supported format"
        )
    return _recognise_text(declared, head)


def _match_magic(head: Any, signatures: Any) -> Any:
    """Return the name of the first (magic bytes, name) that the head starts with; "" if
    there is none."""
    for magic, name in signatures:
        if head.startswith(magic):
            return name
    return ""


def _recognise_text(declared: Any, head: Any) -> Any:
    """Return the extension of a text file, from its name and its beginning.

    `declared` is the name's lower-case extension with its dot, or empty. HTML is
    recognised first, then a known extension counts, then XML, an email or JSON;
    otherwise `.txt`.
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return ".html"
    # Text formats cannot be told apart reliably, so the declared extension counts.
    if declared in _TEXTUAL or declared in _CODE_EXTENSIONS:
        return declared
    if start.startswith(b"<?xml"):
        return ".xml"
    if re.match(
        rb"(?i)(return-path|received|from|mime-version|date|subject|to|message-id|delivered-to): ",
        start,
    ):
        return ".eml"
    return (
        ".json"
        if start[:1] in (b"{", b"[") and declared not in (".txt", ".md")
        else ".txt"
    )


def _recognise_zip(data: Any) -> Any:
    """Return the extension of an Office document or EPUB, by its ZIP entries.

    Raises document_formats.Unsupported if the file is damaged, would unpack to too
    much, or is another kind of archive.
    """
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            entries = package.infolist()
            names = {entry.filename for entry in entries}
            total_size = sum(entry.file_size for entry in entries)
            # A decompression bomb is large both absolutely and in proportion to its
            # packed size.
            if total_size > _MAX_UNPACKED or (
                total_size > _BOMB_THRESHOLD and total_size > _MAX_RATIO * len(data)
            ):
                raise document_formats.Unsupported(
                    "The unpacked size of %d MB exceeds the limit for documents"
                    % (total_size >> 20)
                )
            mime = package.read("mimetype")[:80] if "mimetype" in names else b""
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise document_formats.Unsupported("The file is damaged: %s" % error) from None
    # Office formats are zip files that differ in one entry.
    for marker, extension in (
        ("word/document.xml", ".docx"),
        ("ppt/presentation.xml", ".pptx"),
        ("xl/workbook.xml", ".xlsx"),
        ("xl/workbook.bin", ".xlsb"),
    ):
        if marker in names:
            return extension
    if b"epub" in mime:
        return ".epub"
    if b"spreadsheet" in mime:
        return ".ods"
    raise document_formats.Unsupported(
        "Zip archives are not supported; unpack it and add its files"
    )


def _recognise_ole(data: Any) -> Any:
    """Return `.xls` or `.msg` for an OLE compound file, by its streams.

    Raises document_formats.Unsupported for encrypted documents and other legacy Office
    formats.
    """
    import olefile

    with olefile.OleFileIO(io.BytesIO(data)) as file:
        # Legacy Office files are OLE compound files that differ in one stream.
        for stream, extension in (
            ("Workbook", ".xls"),
            ("Book", ".xls"),
            ("__properties_version1.0", ".msg"),
        ):
            if file.exists(stream):
                return extension
        if file.exists("EncryptedPackage"):
            raise document_formats.Unsupported("The document is encrypted")
    raise document_formats.Unsupported(
        "This legacy Office format is not supported; save it as DOCX or PPTX"
    )


# ------------------------------------------------------------------------------ formats


def _pdf(data: Any) -> Any:
    """Return (title, [(page number, text)]) of a PDF.

    The text is None for a page that has objects but no text, such as a scan. Raises
    document_formats.Unsupported if the file is damaged or requires a password.
    """
    document = document_formats.open_pdf(data)
    title = ""
    try:
        title = document.get_metadata_value("Title") or ""
    except Exception:
        pass
    parts = []
    for number, page in enumerate(document, 1):
        text = pdf_text.page_text(page, document_formats._markdown_table)
        # No text but some object: the page is an image of text.
        is_scanned = (
            not text.strip() and next(page.get_objects(max_depth=1), None) is not None
        )
        parts.append((number, None if is_scanned else text))
        page.close()
    return title, parts


def _docx(data: Any) -> Any:
    """Return (title, [(0, Markdown)]) of a Word document."""
    package = word_text.open_document(data)
    document_formats.notes.extend(package.omissions())
    blocks = [_docx_block(element, package) for element in package.body.iterchildren()]
    blocks = [
        *package.margins("header"),
        *(block for block in blocks if block is not None),
        *package.margins("footer"),
    ]
    return package.title, [(0, "\n".join(blocks))]


def _docx_block(element: Any, package: Any) -> Any:
    """Return a paragraph, a table or a content control as Markdown; None for other
    elements."""
    if element.tag.endswith("}p"):
        return _paragraph(element, package)
    if element.tag.endswith("}tbl"):
        return "\n%s\n" % document_formats._markdown_table(package.rows(element))
    # Content controls hold text that is neither paragraph nor table.
    if element.tag.endswith("}sdt"):
        return package.block_text(element)
    return None


def _paragraph(paragraph: Any, package: Any) -> Any:
    """Return a Word paragraph as Markdown, depending on its style.

    `Title` and `Heading 1` to `Heading 9` become headings and list styles bullet
    points, unless they have numbers; other text is returned unchanged.
    """
    text = package.block_text(paragraph)
    style = package.style_name(paragraph)
    if text.strip():
        if style == "Title":
            return "\n# %s\n" % text
        match = re.match(r"[Hh]eading (\d)", style)
        if match:
            return "\n%s %s\n" % ("#" * min(6, int(match[1])), text)
        if style.startswith("List") and not _NUMBERED.match(text):
            return "- %s" % text
    return text


_NUMBERED = re.compile(r"-|\(?(?:\d{1,6}|[A-Za-z]{1,4})[.)]|[^\w\s]")


def _sheets(data: Any) -> Any:
    """Return ("", [(number, Markdown)]) of a workbook, one part per sheet.

    A part has the sheet's name as a heading and its table. Numbers count from 1; empty
    sheets are left out.
    """
    return "", [
        (number, "# %s\n\n%s" % (name, table))
        for number, name, table in document_formats.workbook_tables(data)
    ]


def _csv(data: Any) -> Any:
    """Return ("", [(0, Markdown table)]) of a delimited text file.

    The delimiter is guessed: comma, semicolon, tab or pipe.
    """
    rows = document_formats.delimited_rows(document_formats.text(data))
    return "", [(0, document_formats._markdown_table(rows))]


def _epub(data: Any) -> Any:
    """Return the book's chapters in reading order."""
    import posixpath
    import zipfile
    from urllib.parse import unquote

    with zipfile.ZipFile(io.BytesIO(data)) as book:
        names = set(book.namelist())
        # The container names the package file, which lists the files and their order.
        package = (
            _xml(book.read("META-INF/container.xml"))
            .find(".//{*}rootfile")
            .get("full-path")
        )
        opf = _xml(book.read(package))
        files = {
            manifest_item.get("id"): manifest_item.get("href")
            for manifest_item in opf.iterfind(".//{*}manifest/{*}item")
        }
        title = (opf.findtext(".//{*}title") or "").strip()
        parts = []
        for item in opf.iterfind(".//{*}spine/{*}itemref"):
            chapter_path = _joined_path(
                posixpath.dirname(package),
                unquote(files.get(item.get("idref")) or ""),
            )
            if chapter_path in names:
                parts.append(
                    (len(parts) + 1, html_text.page(book.read(chapter_path))[1][0][1])
                )
    return title, parts


def _xml(data: Any) -> Any:
    """Return the root of an XML document without expanding its entities.

    Nothing outside of it is loaded. Raises lxml's XMLSyntaxError if it is malformed.
    """
    import lxml.etree as etree

    # Entities are not expanded: a few lines of them can stand for gigabytes ("billion
    # laughs").
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, huge_tree=False, load_dtd=False
    )
    return etree.fromstring(data, parser)


def _plain_xml(data: Any) -> Any:
    """Return each element with text or attributes on its own line."""
    root = _xml(data)
    lines = []
    # An explicit stack instead of recursion: documents may be nested deeply.
    stack = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        if not isinstance(node.tag, str):
            continue
        name = node.tag.rpartition("}")[2]
        text = " ".join((node.text or "").split())
        attributes = " ".join(
            "%s=%s" % (key.rpartition("}")[2], value)
            for key, value in node.attrib.items()
        )
        if text or attributes:
            lines.append(
                "%s%s%s"
                % (
                    name,
                    " (%s)" % attributes if attributes else "",
                    ": %s" % text if text else "",
                )
            )
        tail = " ".join((node.tail or "").split())
        if tail:
            lines.append(tail)
        stack.extend((child, depth + 1) for child in reversed(list(node)))
    return "", [(0, "\n".join(lines))]


_DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
_PRESENTATION = "http://schemas.openxmlformats.org/presentationml/2006/main"
_PPTX_NAMESPACES = {"a": _DRAWING, "p": _PRESENTATION}
_PPTX_RELATION_ID = (
    "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
)


def _pptx(data: Any) -> Any:
    """Return one part per slide: its title, texts, tables, charts,
    comments and notes."""
    import zipfile

    parts = []
    data = office_packages.transitional(data)
    with zipfile.ZipFile(io.BytesIO(data)) as deck:
        names = set(deck.namelist())
        for number, slide_path in enumerate(_slide_paths(deck), 1):
            if slide_path not in names:
                continue
            blocks = _slide(_xml(deck.read(slide_path)))
            blocks += slide_extras.charts_and_comments(
                deck, slide_path, document_formats._markdown_table
            )
            blocks += _slide_notes(deck, names, slide_path)
            parts.append((number, "\n\n".join(block for block in blocks if block)))
    return "", parts


def _slide_paths(deck: Any) -> Any:
    """Yield the slides' paths in order, which is in the presentation, not in the file
    names."""
    links = {
        relationship.get("Id"): relationship.get("Target")
        for relationship in _xml(deck.read("ppt/_rels/presentation.xml.rels"))
    }
    references = _xml(deck.read("ppt/presentation.xml")).iterfind(
        ".//p:sldIdLst/p:sldId", _PPTX_NAMESPACES
    )
    for reference in references:
        yield _joined_path("ppt", links.get(reference.get(_PPTX_RELATION_ID)))


def _joined_path(folder: Any, target: Any) -> Any:
    """Return the path of a part, from the folder of what refers to it."""
    import posixpath

    return posixpath.normpath(posixpath.join(folder, target or ""))


def _slide_notes(deck: Any, names: Any, slide_path: Any) -> Any:
    """Return the speaker notes, which are linked from the slide's relationships."""
    import posixpath

    folder = posixpath.dirname(slide_path)
    rels = "%s/_rels/%s.rels" % (folder, posixpath.basename(slide_path))
    if rels not in names:
        return []
    blocks = []
    for link in _xml(deck.read(rels)):
        notes_path = _joined_path(folder, link.get("Target"))
        is_notes = (link.get("Type") or "").endswith("/notesSlide")
        if not is_notes or notes_path not in names:
            continue
        texts = _body_texts(_xml(deck.read(notes_path)))
        if texts:
            blocks.append("Notes: %s" % "\n".join(texts))
    return blocks


def _body_texts(tree: Any) -> Any:
    """Return the texts of the body shapes; empty ones are left out."""
    texts = [
        _shape_text(shape)
        for shape in tree.iterfind(".//p:sp", _PPTX_NAMESPACES)
        if _role(shape) == "body"
    ]
    return [text for text in texts if text]


def _slide(tree: Any) -> Any:
    """Return the texts and tables of a slide as Markdown blocks."""
    blocks = []
    for shape in tree.iter(
        "{%s}sp" % _PRESENTATION, "{%s}graphicFrame" % _PRESENTATION
    ):
        if shape.tag.endswith("}sp"):
            blocks.append(_text_block(shape))
        else:
            blocks.extend(_tables(shape))
    return blocks


def _text_block(shape: Any) -> Any:
    """Return a shape's text; a title becomes a Markdown heading."""
    text = _shape_text(shape)
    if text and _role(shape) in ("title", "ctrTitle"):
        return "# %s" % " ".join(text.split())
    return text


def _tables(frame: Any) -> Any:
    """Return the tables of a graphic frame as Markdown."""
    tables = []
    for table in frame.iterfind(".//a:tbl", _PPTX_NAMESPACES):
        rows = table.iterfind("a:tr", _PPTX_NAMESPACES)
        cells = [_row_texts(row) for row in rows]
        tables.append(document_formats._markdown_table(cells))
    return tables


def _row_texts(row: Any) -> Any:
    """Return the texts of a table row's cells."""
    return [_shape_text(cell) for cell in row.iterfind("a:tc", _PPTX_NAMESPACES)]


def _role(shape: Any) -> Any:
    """Return the role of a placeholder on a slide; empty for other shapes."""
    placeholder = shape.find("./p:nvSpPr/p:nvPr/p:ph", _PPTX_NAMESPACES)
    return "" if placeholder is None else placeholder.get("type") or "body"


def _shape_text(node: Any) -> Any:
    """Return the paragraphs below a DrawingML element, one per line.

    Empty paragraphs are left out.
    """
    lines = [
        "".join(run.text or "" for run in line.iter("{%s}t" % _DRAWING))
        for line in node.iter("{%s}p" % _DRAWING)
    ]
    return "\n".join(paragraph for paragraph in lines if paragraph.strip())


def _json(data: Any) -> Any:
    """Return JSON with one value per line; anything that is not JSON is returned as
    text."""
    import json

    body = document_formats.text(data)
    try:
        return "", [(0, json.dumps(json.loads(body), indent=1, ensure_ascii=False))]
    except (ValueError, RecursionError):
        pass
    # JSON Lines: one value per line.
    try:
        values = [json.loads(line) for line in body.splitlines() if line.strip()]
        return "", [
            (0, "\n".join(json.dumps(value, ensure_ascii=False) for value in values))
        ]
    except (ValueError, RecursionError):
        return "", [(0, body)]


def _vtt(data: Any) -> Any:
    """Return subtitles as one page without a title."""
    return "", [(0, document_formats._vtt(data))]


def _rtf(data: Any) -> Any:
    """Return rich text as one page without a title."""
    return "", [(0, rich_text.text_of(data))]


def _markdown(data: Any) -> Any:
    """Return Markdown without the pictures that are written into it, in base64: they
    are no text to search in, and without the YAML settings in front of it."""
    text = _INLINE_PICTURE.sub("", document_formats.text(data))
    title, start = _front_matter(text)
    return title, [(0, text[start:])]


def _front_matter(text: Any) -> Any:
    """Return (title, index of the first character after the settings of a page), ("", 0)
    without settings. A rule may begin a text too: settings have lines as YAML has."""
    lines = text[:100_000].splitlines(keepends=True)[: _MAX_SETTINGS + 2]
    if not lines or lines[0].lstrip("\ufeff").rstrip() != "---":
        return "", 0
    title, length = "", len(lines[0])
    for line in lines[1:]:
        length += len(line)
        if line.rstrip() == "---":
            return title, length
        if not _SETTING.match(line.rstrip()):
            break
        name, _, value = line.partition(":")
        if name.rstrip() == "title":
            title = value.strip().strip("\"'")
    return "", 0


_INLINE_PICTURE = re.compile(
    r"data:image/[\w.+-]{1,40}(?:;[\w=.-]{1,60}){0,4};base64,[A-Za-z0-9+/=_-]*",
    re.IGNORECASE,
)
_SETTING = re.compile(r"(?:[\w-]{1,80}[ \t]{0,20}:|[ \t#-]|$)")
_MAX_SETTINGS = 200
_READERS = {
    ".pdf": _pdf,
    ".docx": _docx,
    ".xlsx": _sheets,
    ".xls": _sheets,
    ".xlsb": _sheets,
    ".ods": _sheets,
    ".csv": _csv,
    ".tsv": _csv,
    ".html": html_text.page,
    ".htm": html_text.page,
    ".xhtml": html_text.page,
    ".epub": _epub,
    ".xml": _plain_xml,
    ".pptx": _pptx,
    ".eml": mail_text.eml,
    ".msg": mail_text.msg,
    ".json": _json,
    ".jsonl": _json,
    ".vtt": _vtt,
    ".rtf": _rtf,
    ".md": _markdown,
    ".markdown": _markdown,
    ".mdx": _markdown,
}
_TEXTUAL = frozenset(
    {
        ".txt",
        ".md",
        ".markdown",
        ".mdx",
        ".rst",
        ".log",
        ".csv",
        ".tsv",
        ".html",
        ".htm",
        ".xhtml",
        ".xml",
        ".json",
        ".jsonl",
        ".eml",
        ".vtt",
        ".srt",
        ".tex",
        ".org",
        ".adoc",
        ".properties",
        ".svg",
    }
)
