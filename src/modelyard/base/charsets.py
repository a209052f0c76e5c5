"""Decode external bytes by the character encoding they declare. The only module that
trusts a declared encoding name.

Names are those of the WHATWG Encoding Standard (https://encoding.spec.whatwg.org/), as
browsers use them. Other Python codecs are not accepted: some are not text encodings,
and some (`punycode`, `idna`) need minutes for a small input.
"""

import codecs
import re

from modelyard.base import cpu_work

_CODECS = {
    "utf-8": "utf-8 utf8 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8",
    "utf-16-le": "utf-16le utf-16 ucs-2 csunicode iso-10646-ucs-2 unicode unicodefeff",
    "utf-16-be": "utf-16be unicodefffe",
    # Pages that call themselves ASCII or Latin-1 are mostly Windows-1252, which is what
    # the standard reads them as.
    "cp1252": (
        "windows-1252 cp1252 x-cp1252 ascii us-ascii ansi_x3.4-1968 iso-8859-1"
        " iso8859-1 iso88591 iso_8859-1 latin1 latin-1 l1 cp819 ibm819 iso-ir-100"
        " csisolatin1"
    ),
    "iso8859_2": "iso-8859-2 iso8859-2 iso88592 iso_8859-2 latin2 l2 csisolatin2",
    "iso8859_3": "iso-8859-3 iso8859-3 iso88593 iso_8859-3 latin3 l3 csisolatin3",
    "iso8859_4": "iso-8859-4 iso8859-4 iso88594 iso_8859-4 latin4 l4 csisolatin4",
    "iso8859_5": "iso-8859-5 iso8859-5 iso88595 iso_8859-5 cyrillic csisolatincyrillic",
    "iso8859_6": (
        "iso-8859-6 iso8859-6 iso88596 iso_8859-6 arabic ecma-114 asmo-708"
        " csisolatinarabic"
    ),
    "iso8859_7": (
        "iso-8859-7 iso8859-7 iso88597 iso_8859-7 greek greek8 ecma-118 elot_928"
        " csisolatingreek"
    ),
    "iso8859_8": (
        "iso-8859-8 iso8859-8 iso88598 iso_8859-8 iso-8859-8-i hebrew visual logical"
        " csisolatinhebrew"
    ),
    "iso8859_10": "iso-8859-10 iso8859-10 iso885910 latin6 l6 csisolatin6",
    "iso8859_13": "iso-8859-13 iso8859-13 iso885913",
    "iso8859_14": "iso-8859-14 iso8859-14 iso885914",
    "iso8859_15": "iso-8859-15 iso8859-15 iso885915 iso_8859-15 latin9 l9 csisolatin9",
    "iso8859_16": "iso-8859-16",
    "cp1254": (
        "windows-1254 cp1254 x-cp1254 iso-8859-9 iso8859-9 iso88599 iso_8859-9 latin5"
        " l5 csisolatin5"
    ),
    "cp1250": "windows-1250 cp1250 x-cp1250",
    "cp1251": "windows-1251 cp1251 x-cp1251",
    "cp1253": "windows-1253 cp1253 x-cp1253",
    "cp1255": "windows-1255 cp1255 x-cp1255",
    "cp1256": "windows-1256 cp1256 x-cp1256",
    "cp1257": "windows-1257 cp1257 x-cp1257",
    "cp1258": "windows-1258 cp1258 x-cp1258",
    "cp874": "windows-874 dos-874 tis-620 iso-8859-11 iso8859-11 iso885911",
    "cp866": "ibm866 cp866 866 csibm866",
    "koi8_r": "koi8-r koi koi8 koi8_r cskoi8r",
    "koi8_u": "koi8-u koi8-ru",
    "mac_roman": "macintosh mac x-mac-roman csmacintosh",
    "mac_cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    # A superset, as are the codecs for Shift_JIS and EUC-KR: pages use more than they
    # declare.
    "gb18030": (
        "gb18030 gbk gb2312 gb_2312 gb_2312-80 chinese x-gbk csgb2312 iso-ir-58"
        " csiso58gb231280"
    ),
    "big5hkscs": "big5 big5-hkscs cn-big5 x-x-big5 csbig5",
    "euc_jp": "euc-jp x-euc-jp cseucpkdfmtjapanese",
    "iso2022_jp": "iso-2022-jp csiso2022jp",
    "cp932": "shift_jis shift-jis sjis x-sjis ms932 ms_kanji windows-31j csshiftjis",
    "cp949": (
        "euc-kr korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 windows-949"
        " cseuckr csksc56011987"
    ),
}
"""Python codec → the labels that select it. All of these codecs decode in linear time.
"""
LABELS = {label: codec for codec, labels in _CODECS.items() for label in labels.split()}
# Quotes are optional, and some servers write blanks around the equals sign.
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\"';,\s]{1,40})", re.IGNORECASE)
# Byte order marks, checked before the declared label.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MAX_BYTES_ON_LOOP = 1 << 16
"""Maximum bytes decoded on the event loop; longer input is decoded in a thread."""


def codec_of(label: str) -> str:
    """Return the Python codec for an encoding label, or UTF-8 if the label is unknown."""
    return LABELS.get(label.strip().lower(), "utf-8")


def charset_of(content_type: str) -> str:
    """Return the charset parameter of a content type, or an empty string if it has
    none."""
    # Only the start is searched, so that a huge header costs nothing.
    match = _CHARSET.search(content_type[:1000])
    return match[1] if match else ""


def has_byte_order_mark(data: bytes) -> bool:
    """Return whether the data starts with a byte order mark."""
    return any(data.startswith(mark) for mark, _ in _BYTE_ORDER_MARKS)


def is_utf8(data: bytes) -> bool:
    """Return whether the data is valid UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def decode(data: bytes, label: str = "") -> str:
    """Decode bytes to text. Never raises: invalid bytes become U+FFFD.

    A byte order mark takes precedence over `label`.
    """
    for mark, codec in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(codec, "replace")
    return data.decode(codec_of(label), "replace")


async def decode_async(data: bytes, label: str = "") -> str:
    """Decode like `decode`, but in a thread for large input so that the event loop is
    not blocked."""
    if len(data) <= _MAX_BYTES_ON_LOOP:
        return decode(data, label)
    return await cpu_work.run_in_thread(decode, data, label)
