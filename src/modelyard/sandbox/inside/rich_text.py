"""Read the text of RTF documents. Runs only inside the sandbox.

Source: Rich Text Format (RTF) Specification 1.9.1, Microsoft, 2008.
"""
# This program imports nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import re
from typing import Any

SIGNATURE = b"{\\rtf"
_TOKEN = re.compile(
    r"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\(.)|([{}])|([^\\{}\r\n]+)|[\r\n]+",
    re.DOTALL,
)
# Groups that hold no text of the document.
_DESTINATIONS = frozenset(
    [
        "fonttbl",
        "colortbl",
        "stylesheet",
        "info",
        "pict",
        "object",
        "themedata",
        "colorschememapping",
        "datastore",
        "latentstyles",
        "listtable",
        "xmlnstbl",
        "listoverridetable",
        "rsidtbl",
        "generator",
        "fldinst",
        "revtbl",
        "filetbl",
        "header",
        "headerl",
        "headerr",
        "headerf",
        "footer",
        "footerl",
        "footerr",
        "footerf",
        "nonshppict",
        "bkmkstart",
        "bkmkend",
        "pntext",
        "listtext",
        "ftnsep",
        "ftnsepc",
        "ftncn",
        "aftnsep",
        "aftnsepc",
        "aftncn",
        "template",
    ]
)
_TEXTS = {
    "par": "\n",
    "line": "\n",
    "sect": "\n",
    "page": "\n",
    "row": "\n",
    "tab": "\t",
    "cell": " | ",
    "nestcell": " | ",
    "nestrow": "\n",
    "bullet": "\u2022",
    "emdash": "\u2014",
    "endash": "\u2013",
    "lquote": "\u2018",
    "rquote": "\u2019",
    "ldblquote": "\u201c",
    "rdblquote": "\u201d",
    "emspace": "\u2003",
}
_SYMBOLS = {"~": "\u00a0", "_": "\u2011", "-": "", "\n": "\n", "\r": "\n"}
# Number of a font's character set → codec.
_CHARSETS = {
    0: "cp1252",
    77: "mac_roman",
    128: "cp932",
    129: "cp949",
    134: "gb18030",
    136: "big5",
    161: "cp1253",
    162: "cp1254",
    163: "cp1258",
    177: "cp1255",
    178: "cp1256",
    186: "cp1257",
    204: "cp1251",
    222: "cp874",
    238: "cp1250",
}
_MULTIBYTE = frozenset(["cp932", "cp949", "gb18030", "big5", "cp936", "cp950"])


class _Reader:
    """The state of a document that is being read."""

    def __init__(self) -> None:
        self.fragments: Any = []
        self.pending = b""
        self.default_codec = "cp1252"
        self.fonts: Any = {}
        self.font = None
        # (is skipped, replacement characters after \u, font, is in the font table)
        self.state: Any = (False, 1, None, False)
        self.stack: Any = []
        self.skip: Any = 0

    def flush(self) -> Any:
        """Decode the bytes that were written as escapes."""
        if self.pending:
            self.fragments.append(self.pending.decode(self.codec(), "replace"))
            self.pending = b""

    def codec(self) -> Any:
        """Return the codec of the current font."""
        return self.fonts.get(self.state[2]) or self.default_codec

    def say(self, text: Any) -> Any:
        """Append text, unless it replaces a character that has been written."""
        if self.state[0]:
            return
        # The second byte of a character may be written as plain text.
        if text and self.pending and self.is_half():
            self.pending += text[0].encode("latin-1", "replace")
            text = text[1:]
        self.flush()
        dropped = min(self.skip, len(text))
        self.skip -= dropped
        self.fragments.append(text[dropped:])

    def is_half(self) -> Any:
        """Return whether the pending bytes end inside of a character."""
        if self.codec() not in _MULTIBYTE:
            return False
        try:
            self.pending.decode(self.codec())
        except UnicodeDecodeError as error:
            return error.end == len(self.pending)
        return False

    def byte(self, number: Any) -> Any:
        """Append a byte that is written as an escape."""
        if self.state[0]:
            return
        if self.skip:
            self.skip -= 1
            return
        self.pending += bytes([number])

    def brace(self, char: Any) -> Any:
        """Begin or end a group."""
        # Pending bytes are in the font of the group that ends or is interrupted here.
        self.flush()
        self.skip = 0
        if char == "{":
            self.stack.append(self.state)
        elif self.stack:
            self.state = self.stack.pop()

    def word(self, name: Any, number: Any) -> Any:
        """Handle a control word with its number, which may be None."""
        is_skipped, replaced, font, is_table = self.state
        if name == "u" and number is not None and not is_skipped:
            self.flush()
            # The number is a signed 16-bit integer: large code units are negative.
            self.fragments.append(chr(number % 65536))
            # A replacement follows for programs without Unicode; `\uc` tells its
            # length.
            self.skip = replaced
        elif name == "uc":
            self.state = (is_skipped, max(0, number or 0), font, is_table)
        elif name == "ansicpg" and number:
            self.default_codec = _known_codec("cp%d" % number)
        elif name == "f":
            self.flush()
            self.state = (is_skipped, replaced, number, is_table)
        elif name == "fcharset" and is_table and number in _CHARSETS:
            self.fonts[font] = _CHARSETS[number]
        elif name in _DESTINATIONS:
            self.state = (True, replaced, font, name == "fonttbl")
        elif name in _TEXTS:
            self.say(_TEXTS[name])

    def symbol(self, char: Any) -> Any:
        """Handle a backslash before a character that is no letter."""
        if char == "*":
            # Programs that do not know the destination are to leave it out.
            self.state = (True, *self.state[1:])
        else:
            self.say(_SYMBOLS.get(char, char))


def _known_codec(name: Any) -> Any:
    """Return the name of a codec; cp1252 if there is none."""
    try:
        return "utf-8" if name == "cp65001" else ("".encode(name) or True) and name
    except LookupError:
        return "cp1252"


def text_of(data: Any) -> Any:
    """Return the text of an RTF document, a line for each paragraph and each row of a
    table. Never fails: what is no RTF gives the text outside of its control words."""
    reader = _Reader()
    for match in _TOKEN.finditer(data.decode("latin-1")):
        word, number, escape, symbol, brace, text = match.groups()
        if word:
            reader.word(word, None if number is None else int(number))
        elif escape:
            reader.byte(int(escape, 16))
        elif symbol:
            reader.symbol(symbol)
        elif brace:
            reader.brace(brace)
        elif text:
            reader.say(text)
    reader.flush()
    # Characters beyond the first plane are written as two surrogates.
    joined = "".join(reader.fragments).encode("utf-16", "surrogatepass")
    lines = [line.rstrip() for line in joined.decode("utf-16", "replace").splitlines()]
    # Each cell ends with a separator, also the last one of a row.
    return "\n".join(line.removesuffix(" |") for line in lines).strip()
