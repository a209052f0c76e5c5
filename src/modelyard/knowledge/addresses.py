"""Addresses as pages write them: where they lead, and which of them are the same. Pure."""

import re
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from modelyard.base.charsets import LABELS, codec_of
from modelyard.base.urls import join

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST_HOST = 253
"""Longer ones no name server knows, and preparing one with other letters takes time with the square of its length."""
_AROUND = "".join(map(chr, range(0x21)))
_BREAKS = str.maketrans("", "", "\t\r\n")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_CODECS = frozenset(LABELS.values())
_DOT = re.compile(r"%2e", re.IGNORECASE)
# Signs that stay as they are (WHATWG URL, 1.3); quote() keeps letters, digits and `_.-~` by itself. A backslash does
# not: the way out refuses it.
_IN_PATH = "%/:@!$&'()*+,;=[]|"
_IN_QUERY = "%/:@!$&()*+,;=[]|?^`{}"


def resolve(base: str, written: str, encoding: str = "utf-8") -> str:
    """The address that a browser would ask for, without its fragment; empty for what is no address of the web.

    `encoding` is that of the page where it is written: queries are sent in it (WHATWG URL, 4.4).
    """
    text = _slashed(written.strip(_AROUND).translate(_BREAKS))
    try:
        parts = urlsplit(join(base, text))
        place = _place(parts)
    except (ValueError, UnicodeError):
        return ""
    if not place:
        return ""
    path = quote(_without_dots(parts.path), _IN_PATH, errors="replace")
    return urlunsplit((parts.scheme.lower(), place, path or "/", _query(parts.query, encoding), ""))


def identity(url: str) -> str:
    """What two addresses share that are the same (RFC 3986, 6.2.2): asked for is the one that was written."""
    try:
        parts = urlsplit(resolve(url, url) or url)
    except ValueError:
        return url
    return urlunsplit((parts.scheme, parts.netloc, _plain(parts.path), _plain(parts.query), ""))


def site_of(url: str) -> str:
    """The origin of an address that `resolve` gave, as `https://example.org`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def place_of(url: str) -> str:
    """`host`, or `host:port` where the port is another than usual."""
    return urlsplit(url).netloc


def _slashed(text: str) -> str:
    """With slashes in the place of backslashes, as browsers read them, before the query."""
    scheme = _SCHEME.match(text)
    if scheme and scheme[0].lower() not in ("http:", "https:"):
        return text
    path, mark, rest = _cut(text)
    return path.replace("\\", "/") + mark + rest


def _cut(text: str) -> tuple[str, str, str]:
    found = re.search(r"[?#]", text)
    if found is None:
        return text, "", ""
    return text[: found.start()], found[0], text[found.end() :]


def _place(parts: SplitResult) -> str:
    """Host and port in their usual form; empty where it is none of the web. Raises ValueError."""
    scheme, host = parts.scheme.lower(), parts.hostname or ""
    if scheme not in _DEFAULT_PORTS or not host or len(host) > _LONGEST_HOST:
        return ""
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    shown = f"[{host}]" if ":" in host else host
    if parts.port not in (None, _DEFAULT_PORTS[scheme]):
        shown = f"{shown}:{parts.port}"
    # A name and a password stay: such an address is refused with a reason when it is asked for.
    account, sign, _ = parts.netloc.rpartition("@")
    return account + sign + shown


def _without_dots(path: str) -> str:
    """RFC 3986, 5.2.4; `%2e` is a dot, as browsers have it."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        plain = _DOT.sub(".", segment)
        if plain == "..":
            del kept[max(1, len(kept) - 1) :]
        elif plain != ".":
            kept.append(segment)
    ends_in_folder = _DOT.sub(".", segments[-1]) in (".", "..")
    return "/".join([*kept, ""]) if ends_in_folder else "/".join(kept)


def _query(query: str, encoding: str) -> str:
    # A page may name anything, and some of Python's codecs take hours for a short text: those of the list do not.
    codec = encoding if encoding in _CODECS else codec_of(encoding)
    if codec.startswith("utf-16"):
        codec = "utf-8"
    # What the encoding lacks is sent as a reference (Encoding, 4.3: the error mode `html`).
    return quote(query, _IN_QUERY, encoding=codec, errors="replace" if codec == "utf-8" else "xmlcharrefreplace")


def _plain(text: str) -> str:
    """Escapes in capitals, and none for what needs none."""

    def written(found: re.Match[str]) -> str:
        sign = unquote(found[0]) if int(found[1], 16) < 0x80 else ""
        return sign if sign in _UNRESERVED else found[0].upper()

    return _ESCAPE.sub(written, text)
