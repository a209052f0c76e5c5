"""URLs as web pages contain them: resolving them, and telling which of them are equal.
Pure functions."""

import re
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from modelyard.base.charsets import LABELS, codec_of
from modelyard.base.urls import join

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_HOST_LENGTH = 253
"""Maximum length in characters. DNS allows no longer names, and IDNA encoding takes
time quadratic in the length."""
_STRIPPED_CHARACTERS = "".join(map(chr, range(0x21)))
_REMOVED_CHARACTERS = str.maketrans("", "", "\t\r\n")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)
_CODECS = frozenset(LABELS.values())
_ESCAPED_DOT = re.compile(r"%2e", re.IGNORECASE)
# Characters that are not escaped (WHATWG URL, 1.3); quote() always keeps letters,
# digits and `_.-~`. A backslash is escaped, because the egress client refuses it.
_SAFE_IN_PATH = "%/:@!$&'()*+,;=[]|"
_SAFE_IN_QUERY = "%/:@!$&()*+,;=[]|?^`{}"


def resolve(base: str, reference: str, encoding: str = "utf-8") -> str:
    """Return the absolute URL that a browser would request, without the fragment; empty
    if it is not an http(s) URL.

    `encoding` is that of the page that contains the reference: query strings are
    encoded in it (WHATWG URL, 4.4).
    """
    # Browsers strip surrounding blanks and control characters, and remove tabs and line
    # breaks anywhere.
    text = _with_forward_slashes(
        reference.strip(_STRIPPED_CHARACTERS).translate(_REMOVED_CHARACTERS)
    )
    try:
        parts = urlsplit(join(base, text))
        host_and_port = _normal_host_and_port(parts)
    except (ValueError, UnicodeError):
        return ""
    if not host_and_port:
        return ""
    path = quote(_remove_dot_segments(parts.path), _SAFE_IN_PATH, errors="replace")
    return urlunsplit(
        (
            parts.scheme.lower(),
            host_and_port,
            path or "/",
            _query(parts.query, encoding),
            "",
        )
    )


def normalized_url(url: str) -> str:
    """Return the normalised form that equivalent URLs share (RFC 3986, 6.2.2). It is
    for comparing, not for requesting."""
    try:
        parts = urlsplit(resolve(url, url) or url)
    except ValueError:
        return url
    return urlunsplit(
        (
            parts.scheme,
            parts.netloc,
            _normalise_escapes(parts.path),
            _normalise_escapes(parts.query),
            "",
        )
    )


def origin_of(url: str) -> str:
    """Return the origin of a URL that `resolve` returned, as `https://example.org`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def host_and_port(url: str) -> str:
    """Return `host`, or `host:port` if the port is not the scheme's default."""
    return urlsplit(url).netloc


def _with_forward_slashes(text: str) -> str:
    """Replace backslashes before the query by slashes, as browsers do for http and
    https."""
    scheme = _SCHEME.match(text)
    # Other schemes, as `mailto:`, give backslashes no special meaning.
    if scheme and scheme[0].lower() not in ("http:", "https:"):
        return text
    path, mark, query_and_fragment = _split_at_query(text)
    return path.replace("\\", "/") + mark + query_and_fragment


def _split_at_query(text: str) -> tuple[str, str, str]:
    """Split a URL at its first `?` or `#`, as (before, that character, after).

    The last two are empty if there is neither.
    """
    match = re.search(r"[?#]", text)
    if match is None:
        return text, "", ""
    return text[: match.start()], match[0], text[match.end() :]


def _normal_host_and_port(parts: SplitResult) -> str:
    """Return host and port in normal form; empty if it is not an http(s) URL. Raises
    ValueError."""
    scheme, host = parts.scheme.lower(), parts.hostname or ""
    if scheme not in _DEFAULT_PORTS or not host or len(host) > _MAX_HOST_LENGTH:
        return ""
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    display_host = f"[{host}]" if ":" in host else host
    if parts.port not in (None, _DEFAULT_PORTS[scheme]):
        display_host = f"{display_host}:{parts.port}"
    # User name and password stay: such a URL is refused with a reason when it is
    # requested.
    account, at_sign, _ = parts.netloc.rpartition("@")
    return account + at_sign + display_host


def _remove_dot_segments(path: str) -> str:
    """Remove dot segments from a path (RFC 3986, 5.2.4). `%2e` counts as a dot, as in
    browsers."""
    resolved_segments: list[str] = []
    segments = path.split("/")
    for segment in segments:
        plain = _ESCAPED_DOT.sub(".", segment)
        if plain == "..":
            # The leading empty segment stays, so that the path remains absolute.
            del resolved_segments[max(1, len(resolved_segments) - 1) :]
        elif plain != ".":
            resolved_segments.append(segment)
    ends_in_folder = _ESCAPED_DOT.sub(".", segments[-1]) in (".", "..")
    # A final `.` or `..` names a folder: the result ends with a slash.
    return (
        "/".join([*resolved_segments, ""])
        if ends_in_folder
        else "/".join(resolved_segments)
    )


def _query(query: str, encoding: str) -> str:
    """Return a query string with its characters percent-encoded as browsers send it.

    `encoding` is that of the page. UTF-16, and names the web does not know as
    encodings, count as UTF-8. Characters that the encoding lacks become numeric
    character references.
    """
    # A page may name any encoding, and some of Python's codecs are extremely slow; only
    # codecs of the web's list are used.
    codec = encoding if encoding in _CODECS else codec_of(encoding)
    # The URL standard never encodes queries in UTF-16.
    if codec.startswith("utf-16"):
        codec = "utf-8"
    # Characters that the encoding lacks are sent as numeric references (Encoding
    # standard, 4.3, error mode `html`).
    return quote(
        query,
        _SAFE_IN_QUERY,
        encoding=codec,
        errors="replace" if codec == "utf-8" else "xmlcharrefreplace",
    )


def _normalise_escapes(text: str) -> str:
    """Normalise percent-escapes: upper-case digits, and no escapes for unreserved
    characters."""

    def normalise_escape(match: re.Match[str]) -> str:
        """Return the normalised form of one percent-escape."""
        # Bytes from 0x80 are part of a multi-byte character: only ASCII can be decoded
        # on its own.
        decoded_char = unquote(match[0]) if int(match[1], 16) < 0x80 else ""
        return decoded_char if decoded_char in _UNRESERVED else match[0].upper()

    return _ESCAPE.sub(normalise_escape, text)
