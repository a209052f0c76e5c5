"""The text of documents. Runs in the jail alone: parsers read what strangers wrote."""

import codecs
import io
import json
import re
from typing import Any

_TEXTS = frozenset(
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
_MIMES = {
    "text/plain": ".txt", "application/pdf": ".pdf", "text/csv": ".csv", "application/json": ".json",
    "text/html": ".html", "text/markdown": ".md",
}  # fmt: skip
_MOST = 20_000_000
_CHARSETS = (
    "utf-8", "utf-16", "ascii", "iso8859", "cp125", "cp874", "cp866", "cp932", "cp949", "koi8", "mac-", "gb", "big5",
    "euc-", "shift-jis", "iso2022-jp",
)  # fmt: skip


class Unsupported(Exception):
    pass


def extract(extension: Any, data: Any) -> Any:
    """Text; Unsupported for what cannot be read."""
    extension = _MIMES.get(extension, extension)
    reader = _READERS.get(extension)
    if reader is None and extension in _TEXTS:
        reader = text
    if reader is None:
        raise Unsupported("Unsupported Extension Type: %s" % (extension or "(none)"))
    result = reader(data)
    if len(result) > _MOST:
        raise Unsupported("the document's text is longer than %d characters" % _MOST)
    return result


def text(data: Any) -> Any:
    for encoding in ("utf-8-sig",):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            pass
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    try:
        from charset_normalizer import from_bytes

        best = from_bytes(data[:200_000]).best()
        if best is not None:
            return data.decode(best.encoding, "replace")
    except ImportError:
        pass
    for encoding in ("gb18030", "latin-1"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", "replace")


def _json(data: Any) -> Any:
    return json.dumps(json.loads(text(data)), indent=2, ensure_ascii=False)


def _yaml(data: Any) -> Any:
    import yaml

    return yaml.dump(yaml.safe_load(text(data)), allow_unicode=True, sort_keys=False)


def _pdf(data: Any) -> Any:
    import pypdfium2

    document = pypdfium2.PdfDocument(data, autoclose=True)
    pages = []
    for page in document:
        reader = page.get_textpage()
        pages.append(reader.get_text_range())
        reader.close()
        page.close()
    return "".join(pages)


def _docx(data: Any) -> Any:
    import docx
    from docx.table import Table
    from docx.text.paragraph import Paragraph

    document = docx.Document(io.BytesIO(data))
    pieces = []
    for part in document.element.body.iterchildren():
        if part.tag.endswith("}p"):
            pieces.append(Paragraph(part, document).text)
        elif part.tag.endswith("}tbl"):
            table = _rows([[cell.text for cell in row.cells] for row in Table(part, document).rows])
            if table:
                pieces.append(table)
    return "\n".join(pieces)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).replace("\n", "<br>").replace("|", "\\|")


def _rows(rows: Any) -> Any:
    """A table in Markdown: its first row is the head; empty rows are left out."""
    rows = [[_cell(one) for one in row] for row in rows]
    rows = [row for row in rows if any(one.strip() for one in row)]
    if not rows:
        return ""
    width = max(len(row) for row in rows)
    lines = ["| {} |".format(" | ".join(row + [""] * (width - len(row)))) for row in rows]
    return "\n".join([lines[0], "| {} |".format(" | ".join(["---"] * width)), *lines[1:]])


def _csv(data: Any) -> Any:
    import csv

    return _rows(list(csv.reader(io.StringIO(text(data)))))


def _excel(data: Any) -> Any:
    from python_calamine import CalamineWorkbook

    book = CalamineWorkbook.from_filelike(io.BytesIO(data))
    tables = [_rows(book.get_sheet_by_name(name).to_python()) for name in book.sheet_names]
    return "".join(f"{one}\n\n" for one in tables if one)


def is_charset(name: Any) -> Any:
    """Whether it names an encoding of text that is read in the time it takes to look at it. Others take hours for a
    small message, or are none."""
    try:
        return codecs.lookup(name).name.replace("_", "-").startswith(_CHARSETS)
    except (LookupError, ValueError):
        return False


def safe_words(data: Any) -> Any:
    """A message whose headers name such encodings alone."""

    def mended(found: Any) -> Any:
        return found[0] if is_charset(found[1].decode("latin-1")) else b"=?utf-8" + found[2]

    return re.sub(rb"=\?([^?*\s]{1,60})((?:\*[^?\s]{0,20})?\?[bBqQ]\?)", mended, data)


def said(body: Any) -> Any:
    """What a part of a message says."""
    if not is_charset(body.get_content_charset("utf-8")):
        body.set_param("charset", "utf-8")
    return body.get_content()


def _eml(data: Any) -> Any:
    import email
    import email.policy

    message = email.message_from_bytes(safe_words(data), policy=email.policy.default)
    lines = [f"{name}: {message[name]}" for name in ("From", "To", "Subject", "Date") if message[name]]
    body = message.get_body(preferencelist=("plain", "html"))
    return "\n".join([*lines, "", said(body) if body is not None else ""])


def _vtt(data: Any) -> Any:
    """`Speaker "what was said"`, one line as long as the same one speaks."""

    found = []
    for line in text(data).splitlines():
        match = re.match(r"<v ([^>]+)>(.*?)(?:</v>)?$", line.strip())
        if match:
            found.append([match[1], match[2]])
        elif (
            line.strip()
            and "-->" not in line
            and not line.startswith(("WEBVTT", "NOTE"))
            and not line.strip().isdigit()
        ):
            found.append(["", line.strip()])
    merged = []
    for speaker, said in found:
        if merged and merged[-1][0] == speaker:
            merged[-1][1] += " " + said
        else:
            merged.append([speaker, said])
    return "\n".join((f'{speaker} "{said}"').strip() for speaker, said in merged)


def _properties(data: Any) -> Any:
    lines = []
    for line in text(data).splitlines():
        line = line.strip()
        if not line or line.startswith(("#", "!")):
            lines.append(line)
            continue
        places = [place for place in (line.find("="), line.find(":")) if place >= 0]
        cut = min(places) if places else len(line)
        lines.append(f"{line[:cut].strip()}: {line[cut + 1 :].strip()}")
    return "\n".join(lines)


def _epub(data: Any) -> Any:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as book:
        names = [one for one in book.namelist() if one.lower().endswith((".xhtml", ".html", ".htm"))]
        pages = []
        for name in names:
            if book.getinfo(name).file_size > _MOST:
                raise Unsupported("a page of the book is larger than %d bytes" % _MOST)
            pages.append(_bare(text(book.read(name)), re))
    return "\n\n".join(one for one in pages if one)


def _bare(markup: Any, re: Any) -> Any:
    import html

    markup = re.sub(r"(?is)<(script|style|head)[^>]*>.*?</\1>", "", markup)
    markup = re.sub(r"(?i)</(p|div|h\d|li|tr)>|<br[^>]*>", "\n", markup)
    lines = [one.strip() for one in html.unescape(re.sub(r"<[^>]*>", "", markup)).splitlines()]
    return "\n".join(one for one in lines if one)


def _pptx(data: Any) -> Any:
    """Slides' texts, in order."""
    import zipfile

    slides = []
    with zipfile.ZipFile(io.BytesIO(data)) as deck:
        names = [one for one in deck.namelist() if re.fullmatch(r"ppt/slides/slide\d+\.xml", one)]
        for name in sorted(names, key=lambda one: int(re.findall(r"\d+", one)[0])):
            if deck.getinfo(name).file_size > _MOST:
                raise Unsupported("a slide is larger than %d bytes" % _MOST)
            xml = text(deck.read(name))
            lines = [
                "".join(_unescaped(one) for one in re.findall(r"<a:t>([^<]*)</a:t>", line))
                for line in re.split(r"</a:p>", xml)
            ]
            slides.append("\n".join(one for one in lines if one.strip()))
    return "\n\n".join(slides)


def _unescaped(one: Any) -> Any:
    import html

    return html.unescape(one)


_READERS = {
    ".json": _json, ".yaml": _yaml, ".yml": _yaml, ".pdf": _pdf, ".docx": _docx, ".csv": _csv, ".xlsx": _excel,
    ".xls": _excel, ".ods": _excel, ".eml": _eml, ".vtt": _vtt, ".properties": _properties, ".epub": _epub,
    ".pptx": _pptx,
}  # fmt: skip
