"""File names in `Content-Disposition` headers (RFC 6266, RFC 8187). No I/O."""

import re
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message

from modelyard.base.charsets import codec_of

_MAX_HEADER_LENGTH = 8192
# File systems allow 255 bytes, of which a suffix needs some.
_MAX_NAME_LENGTH = 200
# Also line separators, and the marks that turn the writing direction: with them,
# `exe.txt` can be shown for a program.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


def file_name_of(header: str) -> str:
    """Return the file name that a `Content-Disposition` header states; empty if it
    states none.

    `filename*` has precedence over `filename`. The name has no folders, no control
    characters and at most 200 characters.
    """
    names: dict[str, str] = {}
    for key, value in _parameters(header[:_MAX_HEADER_LENGTH]):
        if key.lower() != "filename" or not value:
            continue
        # The parser returns (charset, language, text) for the extended form.
        if isinstance(value, tuple):
            names.setdefault("extended", _extended(*value))
        else:
            # A quote that is never closed is left over.
            names.setdefault("plain", _plain(value.strip('"')))
    # An extended name that cannot be decoded is empty.
    return safe_name(names.get("extended") or names.get("plain") or "")


def safe_name(name: str) -> str:
    """Return the last component of a name, without control characters, shortened to
    200 characters with its extension; empty for `.` and `..`."""
    name = _CONTROL_CHARACTERS.sub("", name)
    # Servers on Windows send backslashes, which must not lead into folders either.
    name = name.replace("\\", "/").rstrip("/").rpartition("/")[2].strip()
    return "" if name in (".", "..") else shortened(name, _MAX_NAME_LENGTH)


def shortened(name: str, length: int) -> str:
    """Return a file name of at most `length` characters that keeps its extension."""
    if len(name) <= length:
        return name
    stem, dot, extension = name.rpartition(".")
    # What is so long after a dot is the rest of a title, and no extension.
    if not dot or len(extension) > 20:
        return name[:length]
    return f"{stem[: length - len(extension) - 1]}.{extension}"


def _parameters(
    header: str,
) -> list[tuple[str, str | tuple[str | None, str | None, str]]]:
    """Return the parameters of a header in order, with quotes removed."""
    message = Message()
    # A line break would end the header.
    message["content-disposition"] = header.replace("\r", " ").replace("\n", " ")
    parameters = message.get_params([], "content-disposition")
    return [(str(key), value) for key, value in parameters]  # type: ignore[misc]


def _extended(charset: str | None, language: str | None, text: str) -> str:
    """Return the name of an extended parameter, whose percent-encoded bytes the parser
    has decoded as Latin-1; empty if they are not valid in its charset."""
    del language
    try:
        # `codec_of` only knows text encodings that decode in linear time.
        return text.encode("latin-1").decode(codec_of(charset or "utf-8"))
    except UnicodeError:
        return ""


def _plain(value: str) -> str:
    """Return the name of a plain parameter: many servers send UTF-8 or encoded words,
    although the standard has only ASCII."""
    if "=?" in value:
        return _encoded_words(value)
    try:
        # Headers are read as Latin-1.
        return value.encode("latin-1").decode("utf-8")
    # What is not UTF-8 was meant as Latin-1, in which it has been read.
    except UnicodeError:
        return value


def _encoded_words(value: str) -> str:
    """Return a text with its encoded words (RFC 2047) decoded."""
    try:
        parts = decode_header(value)
    except (HeaderParseError, ValueError):
        return value
    return "".join(
        part
        if isinstance(part, str)
        else part.decode(codec_of(charset or ""), "replace")
        for part, charset in parts
    )
