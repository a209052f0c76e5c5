"""Extract the text of documents. Runs only inside the sandbox, because the parsers read
untrusted files."""
# This program imports nothing of ours, and the packages it uses have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import codecs
import io
import json
import re
from typing import Any

import office_packages  # pyright: ignore[reportMissingImports]
import pdf_text  # pyright: ignore[reportMissingImports]
import rich_text  # pyright: ignore[reportMissingImports]
import slide_extras  # pyright: ignore[reportMissingImports]
import spreadsheet_cells  # pyright: ignore[reportMissingImports]
import text_encodings  # pyright: ignore[reportMissingImports]
import word_text  # pyright: ignore[reportMissingImports]

_TEXT_EXTENSIONS = frozenset(
    [
        ".txt",
        ".md",
        ".markdown",
        ".mdx",
        ".htm",
        ".html",
        ".xml",
        ".py",
        ".js",
        ".ts",
        ".jsx",
        ".tsx",
        ".css",
        ".scss",
        ".less",
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
        ".pl",
        ".lua",
        ".r",
        ".swift",
        ".sh",
        ".bash",
        ".zsh",
        ".bat",
        ".ps1",
        ".sql",
        ".toml",
        ".ini",
        ".cfg",
        ".conf",
        ".env",
        ".log",
        ".rst",
        ".tex",
        ".tsv",
        ".vue",
        ".svelte",
        ".graphql",
        ".proto",
        ".dart",
        ".ex",
        ".exs",
        ".erl",
        ".hs",
        ".clj",
        ".jl",
        ".m",
        ".mm",
        ".gradle",
        ".cmake",
        ".dockerfile",
        ".make",
        ".mk",
        ".diff",
        ".patch",
        ".srt",
        ".svg",
    ]
)
_EXTENSION_BY_MEDIA_TYPE = {
    "text/plain": ".txt",
    "application/pdf": ".pdf",
    "text/csv": ".csv",
    "application/json": ".json",
    "text/html": ".html",
    "text/markdown": ".md",
}
# Limit in characters for the text, and in bytes for one file inside an archive.
_MAX_SIZE = 20_000_000
# Prefixes of the codec names that are allowed in messages.
_SAFE_CHARSETS = (
    "utf-8",
    "utf-16",
    "ascii",
    "iso8859",
    "cp125",
    "cp874",
    "cp866",
    "cp932",
    "cp949",
    "koi8",
    "mac-",
    "gb",
    "big5",
    "euc-",
    "shift-jis",
    "iso2022-jp",
)


class Unsupported(Exception):
    """The document cannot be read; the message says why."""

    pass


def extract(extension: Any, data: Any) -> Any:
    """Return the text of a document.

    `extension` is a lower-case file extension with its dot, or one of a few media
    types; the content is not examined to find the format. Raises Unsupported for
    another extension or a text of more than 20 million characters, and whatever the
    format's parser raises for a damaged file.
    """
    extension = _EXTENSION_BY_MEDIA_TYPE.get(extension, extension)
    reader = _READERS.get(extension)
    if reader is None and extension in _TEXT_EXTENSIONS:
        reader = text
    if reader is None:
        raise Unsupported("Unsupported Extension Type: %s" % (extension or "(none)"))
    result = reader(data)
    if len(result) > _MAX_SIZE:
        raise Unsupported("The document's text exceeds %d characters" % _MAX_SIZE)
    return result


# The longer mark first: that of UTF-32 starts with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Texts use more characters than the encodings have that they declare.
_WIDER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "big5": "big5hkscs",
    "iso-8859-1": "cp1252",
    "us-ascii": "cp1252",
}


guesses: Any = []
"""(codec, whether it is certain) of each text whose encoding was guessed. A process reads
one document."""


notes: Any = []
"""What a document has that its text leaves out, a sentence each."""


def text(data: Any) -> Any:
    """Decode bytes as text: by a byte order mark, as UTF-8, by what a page declares in
    itself, or by a guess, which is noted in `guesses`. Never fails."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    declared = text_encodings.declared_label(data) if data.lstrip()[:1] == b"<" else ""
    # ISO-2022-JP consists of ASCII characters.
    if not (declared and data.isascii()):
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            pass
    if declared and is_charset(declared):
        return data.decode(_WIDER.get(declared, declared), "replace")
    codec, is_certain = text_encodings.guess(data)
    guesses.append((codec, is_certain))
    return data.decode(codec, "replace")


def _json(data: Any) -> Any:
    """Return JSON with one member on each line, so that it can be split."""
    return json.dumps(json.loads(text(data)), indent=2, ensure_ascii=False)


def _yaml(data: Any) -> Any:
    """Return YAML without anchors and comments."""
    import yaml

    return yaml.dump(yaml.safe_load(text(data)), allow_unicode=True, sort_keys=False)


def _pdf(data: Any) -> Any:
    """Return the text of a PDF's pages, each on lines of its own."""
    pages = []
    document = open_pdf(data)
    # PDFium objects hold native memory and are closed at once.
    for page in document:
        pages.append(pdf_text.page_text(page, _markdown_table))
        page.close()
    return "\n".join(pages)


def open_pdf(data: Any) -> Any:
    """Return the document of pypdfium2. Raises Unsupported if the file is damaged or
    requires a password; an empty one is tried."""
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(data, autoclose=True)
    except pypdfium2.PdfiumError as error:
        error_text = str(error).lower()
        if "password" in error_text or "security" in error_text:
            raise Unsupported("The PDF is encrypted and requires a password") from None
        raise Unsupported(
            "The document cannot be read: the PDF is damaged: %s" % error
        ) from None


def _docx(data: Any) -> Any:
    """Return the paragraphs, content controls and tables of a Word document in their
    order, after its headers and before its footers.

    One line per paragraph; tables are Markdown, and empty ones are left out.
    """
    document = word_text.open_document(data)
    notes.extend(document.omissions())
    blocks = document.margins("header")
    # Iterating over the body keeps paragraphs and tables in their order; python-docx
    # lists them separately.
    for part in document.body.iterchildren():
        if part.tag.endswith(("}p", "}sdt")):
            blocks.append(document.block_text(part))
        elif part.tag.endswith("}tbl"):
            table = _markdown_table(document.rows(part))
            if table:
                blocks.append(table)
    return "\n".join([*blocks, *document.margins("footer")])


def _cell(value: Any) -> Any:
    """Return a table cell's value as text for a Markdown table.

    None is empty, whole floats are written as integers, and line breaks and pipes are
    escaped.
    """
    if value is None:
        return ""
    # Most cells are texts without any of these.
    if isinstance(value, str) and "\n" not in value and "|" not in value:
        return value
    # Spreadsheets store integers as floats.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).replace("\n", "<br>").replace("|", "\\|")


def _markdown_table(rows: Any) -> Any:
    """Return rows as a Markdown table with the first row as the header; empty rows are
    dropped."""
    rows = [[_cell(value) for value in row] for row in rows]
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return ""
    width = max(len(row) for row in rows)
    lines = [
        "| {} |".format(" | ".join(row + [""] * (width - len(row)))) for row in rows
    ]
    return "\n".join(
        [lines[0], "| {} |".format(" | ".join(["---"] * width)), *lines[1:]]
    )


def _csv(data: Any) -> Any:
    """Return a CSV file as a Markdown table."""
    return _markdown_table(delimited_rows(text(data)))


# The module's own limit is 128 KB, and a cell may hold a whole document.
_MAX_CELL = 10_000_000
_DELIMITERS = ",;\t|"
# A delimiter shows within the first rows.
_CHARS_TO_COMPARE = 20_000


def delimited_rows(body: Any) -> Any:
    """Return the rows of a delimited text; the delimiter is a comma, a semicolon, a tab
    or a pipe, whichever makes the first rows most alike."""
    import csv

    # The limit of the module holds for all readers of the process.
    csv.field_size_limit(_MAX_CELL)
    return csv.reader(_lines(body), delimiter=_delimiter(csv, body))


def _lines(body: Any) -> Any:
    """Yield the lines of a text with their ends. A StringIO would take four bytes for
    each character."""
    start = 0
    while start < len(body):
        end = body.find("\n", start) + 1 or len(body)
        yield body[start:end]
        start = end


def _delimiter(csv: Any, body: Any) -> Any:
    """Return the delimiter of a text. `csv` is the module of that name."""
    head = body[:_CHARS_TO_COMPARE]
    # The last row is probably cut.
    if len(body) > len(head):
        head = head[: head.rfind("\n") + 1]
    best, best_score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        rows = csv.reader(_lines(head), delimiter=delimiter)
        widths = [len(row) for row in rows if row]
        width = max(set(widths), key=widths.count, default=1)
        # Columns that all rows have come first, then the number of columns.
        score = (widths.count(width) / len(widths), width) if width > 1 else (0.0, 0)
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _msg(data: Any) -> Any:
    """Return an Outlook message with the lines of its head and its attachments."""
    # That module needs this one.
    import mail_text  # pyright: ignore[reportMissingImports]

    return "\n\n".join(found for _, found in mail_text.msg(data)[1])


def _excel(data: Any) -> Any:
    """Return the sheets of an XLSX, XLS or ODS workbook as Markdown tables.

    Each is followed by an empty line; names of sheets and empty sheets are left out.
    """
    return "".join(f"{table}\n\n" for _, _, table in workbook_tables(data))


def workbook_tables(data: Any) -> Any:
    """Return [(number from 1, name, Markdown)] of a workbook's sheets that have cells.
    Hidden sheets are left out and named in `notes`."""
    from python_calamine import CalamineWorkbook

    book = CalamineWorkbook.from_filelike(io.BytesIO(data))
    sheets, hidden = spreadsheet_cells.tables(book, data)
    if hidden:
        notes.append("Hidden sheets were left out: %s" % ", ".join(hidden))
    tables = [
        (number, name, "\n\n".join([*titles, _markdown_table(rows)]))
        for number, name, titles, rows in sheets
    ]
    return [found for found in tables if found[2]]


def is_charset(name: Any) -> Any:
    """Return whether the name is a text encoding that decodes in linear time.

    Other codecs (compression, punycode, idna) can take hours for a small message, or
    are not text encodings at all.
    """
    try:
        return codecs.lookup(name).name.replace("_", "-").startswith(_SAFE_CHARSETS)
    except (LookupError, ValueError):
        return False


def with_safe_charsets(data: Any) -> Any:
    """Replace unsafe charset names in the encoded words of a message's headers by
    UTF-8."""

    def mended(match: Any) -> Any:
        """Return the encoded word unchanged if its charset is safe, else with UTF-8 as
        its charset."""
        return (
            match[0]
            if is_charset(match[1].decode("latin-1"))
            else b"=?utf-8" + match[2]
        )

    return re.sub(rb"=\?([^?*\s]{1,60})((?:\*[^?\s]{0,20})?\?[bBqQ]\?)", mended, data)


def part_text(body: Any) -> Any:
    """Return the text of a message part, decoded by its declared charset.

    `body` is an EmailMessage. If the charset is unknown or unsafe, the part is changed
    to declare UTF-8.
    """
    # An unsafe charset would be looked up by the email package while it decodes the
    # content.
    if not is_charset(body.get_content_charset("utf-8")):
        body.set_param("charset", "utf-8")
    return body.get_content()


def _eml(data: Any) -> Any:
    """Return the head, the body and the attachments of an email message.

    The plain text body is preferred; an HTML body is converted to Markdown.
    """
    # That module needs this one.
    import mail_text  # pyright: ignore[reportMissingImports]

    return "\n\n".join(found for _, found in mail_text.eml(data)[1])


def _vtt(data: Any) -> Any:
    """Return the cues of a WebVTT file as `speaker "text"`, with consecutive cues of
    one speaker joined."""

    cues = []
    for line in text(data).splitlines():
        # Cues with a voice tag name the speaker; others are plain text.
        match = re.match(r"<v ([^>]+)>(.*?)(?:</v>)?$", line.strip())
        if match:
            cues.append([match[1], match[2]])
        elif (
            line.strip()
            and "-->" not in line
            and not line.startswith(("WEBVTT", "NOTE"))
            and not line.strip().isdigit()
        ):
            cues.append(["", line.strip()])
    merged = []
    for speaker, utterance in cues:
        if merged and merged[-1][0] == speaker:
            merged[-1][1] += " " + utterance
        else:
            merged.append([speaker, utterance])
    return "\n".join(
        (f'{speaker} "{utterance}"').strip() for speaker, utterance in merged
    )


def _properties(data: Any) -> Any:
    """Return the entries of a Java properties file as `key: value` lines.

    A key ends at the first `=` or `:`. Comments and empty lines are kept; escapes and
    continued lines are not interpreted.
    """
    lines = []
    for line in text(data).splitlines():
        line = line.strip()
        if not line or line.startswith(("#", "!")):
            lines.append(line)
            continue
        # The first of the two separators ends the key.
        separator_indexes = [
            index for index in (line.find("="), line.find(":")) if index >= 0
        ]
        cut = min(separator_indexes) if separator_indexes else len(line)
        lines.append(f"{line[:cut].strip()}: {line[cut + 1 :].strip()}")
    return "\n".join(lines)


def _epub(data: Any) -> Any:
    """Return the text of an EPUB's pages, separated by empty lines.

    Pages have the order of the archive, not the reading order. Raises Unsupported if a
    page is larger than _MAX_SIZE.
    """
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as book:
        names = [
            entry_name
            for entry_name in book.namelist()
            if entry_name.lower().endswith((".xhtml", ".html", ".htm"))
        ]
        pages = []
        for name in names:
            # The size is checked before reading, because a small archive can hold huge
            # files.
            if book.getinfo(name).file_size > _MAX_SIZE:
                raise Unsupported("A page of the book exceeds %d bytes" % _MAX_SIZE)
            pages.append(_html_to_text(text(book.read(name)), re))
    return "\n\n".join(page for page in pages if page)


def _html_to_text(markup: Any, re: Any) -> Any:
    """Return the text of HTML, without empty lines.

    Scripts, styles and the head are left out; blocks and `br` end a line. `re` is the
    module of that name.
    """
    import html

    markup = re.sub(r"(?is)<(script|style|head)[^>]*>.*?</\1>", "", markup)
    markup = re.sub(r"(?i)</(p|div|h\d|li|tr)>|<br[^>]*>", "\n", markup)
    lines = [
        line.strip()
        for line in html.unescape(re.sub(r"<[^>]*>", "", markup)).splitlines()
    ]
    return "\n".join(line for line in lines if line)


def _pptx(data: Any) -> Any:
    """Return the text of the slides in order, each with its charts and comments."""
    import zipfile

    slides = []
    data = office_packages.transitional(data)
    with zipfile.ZipFile(io.BytesIO(data)) as deck:
        names = [
            entry_name
            for entry_name in deck.namelist()
            if re.fullmatch(r"ppt/slides/slide\d+\.xml", entry_name)
        ]
        # Numeric order: `slide10` comes after `slide9`.
        for name in sorted(
            names, key=lambda entry_name: int(re.findall(r"\d+", entry_name)[0])
        ):
            if deck.getinfo(name).file_size > _MAX_SIZE:
                raise Unsupported("A slide exceeds %d bytes" % _MAX_SIZE)
            extras = slide_extras.charts_and_comments(deck, name, _markdown_table)
            slides.append("\n".join([_slide_text(text(deck.read(name))), *extras]))
    return "\n\n".join(slides)


def _slide_text(xml: Any) -> Any:
    """Return the text of a slide, one line per paragraph. Text runs are matched by
    regular expression, so no XML entities are expanded."""
    lines = []
    for paragraph in re.split(r"</a:p>", xml):
        runs = re.findall(r"<a:t>([^<]*)</a:t>", paragraph)
        lines.append("".join(_unescaped(run) for run in runs))
    return "\n".join(line for line in lines if line.strip())


def _unescaped(escaped_text: Any) -> Any:
    """Return text with HTML's entities replaced."""
    import html

    return html.unescape(escaped_text)


_READERS = {
    ".json": _json,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".pdf": _pdf,
    ".docx": _docx,
    ".csv": _csv,
    ".xlsx": _excel,
    ".xls": _excel,
    ".ods": _excel,
    ".eml": _eml,
    ".vtt": _vtt,
    ".properties": _properties,
    ".epub": _epub,
    ".pptx": _pptx,
    ".msg": _msg,
    ".rtf": rich_text.text_of,
}
