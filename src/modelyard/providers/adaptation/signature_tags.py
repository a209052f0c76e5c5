"""Signatures of thoughts that name their issuer, for callers of another format.

A signature is valid only at the server that issued it. A caller of another format sends
it back without saying where it is from, so it gets a short mark. The mark consists of
characters of base64, in a multiple of four: clients of Google's API decode signatures.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

_MARK = "mYardSig"
# The tag is part of a call's id, whose length some vendors limit.
_LETTERS = {
    "anthropic": "a",
    "bedrock": "b",
    "cohere": "c",
    "dashscope": "d",
    "gemini": "g",
    "openai_chat": "o",
    "ollama": "l",
    "plugin": "p",
    "openai_responses": "r",
    "": "u",
}
_FORMATS = {letter: name for name, letter in _LETTERS.items()}
_TAG = re.compile(rf"{_MARK}([a-z])([a-z])([RV])0([0-9a-f]{{4}})")
# In an id of a tool call: the text is base64, or is any text in base64.
_ID_MARKS = {"__sigb_": True, "__sigu_": False}
_ID_LIMIT = 64_000
"""Longest signature in an id, in characters."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who issued a signature."""

    format: str
    """The format of the server that sent it."""
    origin: str
    """The format of the vendor behind that server, as in the part's `origin`."""
    family: str
    """Four hexadecimal digits for the provider's family of models."""
    redacted: bool = False


def family_code(family: str) -> str:
    """Return the code of a family's name."""
    return hashlib.sha256(family.encode()).hexdigest()[:4]


def tag_of(issuer: Issuer) -> str:
    """Return the mark that precedes a signature."""
    server = _LETTERS.get(issuer.format, "u")
    vendor = _LETTERS.get(issuer.origin, "u")
    hidden = "R" if issuer.redacted else "V"
    return f"{_MARK}{server}{vendor}{hidden}0{issuer.family}"


def read_tag(signature: str) -> tuple[Issuer | None, str]:
    """Return the issuer of a marked signature, and the signature as it was issued; None
    for one without a mark."""
    match = _TAG.match(signature)
    if match is None:
        return None, signature
    server, vendor, hidden, family = match.groups()
    formats = _FORMATS.get(server, ""), _FORMATS.get(vendor, "")
    return Issuer(*formats, family, hidden == "R"), signature[match.end() :]


def id_with_signature(call_id: str, signature: str) -> str:
    """Return the id of a tool call with a signature in it, of letters, digits, `-` and
    `_` only.

    Clients return ids unchanged, while many throw away parts without text. A signature
    that is too long for an id is left out.
    """
    if len(signature) > _ID_LIMIT:
        return call_id
    try:
        is_canonical = (
            base64.b64encode(base64.b64decode(signature, validate=True)).decode()
            == signature
        )
    except (binascii.Error, ValueError):
        is_canonical = False
    if is_canonical:
        text = signature.translate(str.maketrans("+/", "-_")).rstrip("=")
        return f"{call_id}__sigb_{text}"
    text = base64.urlsafe_b64encode(signature.encode()).decode().rstrip("=")
    return f"{call_id}__sigu_{text}"


def split_id(call_id: str) -> tuple[str, str]:
    """Return the id of a tool call as it was issued, and the signature in it; empty if
    it has none, or a client changed it."""
    for mark, is_base64 in _ID_MARKS.items():
        plain_id, separator, text = call_id.partition(mark)
        if not separator:
            continue
        padded = text + "=" * (-len(text) % 4)
        try:
            decoded = base64.b64decode(padded, altchars=b"-_", validate=True)
            if is_base64:
                return plain_id, base64.b64encode(decoded).decode()
            return plain_id, decoded.decode()
        except (binascii.Error, ValueError):
            return plain_id, ""
    return call_id, ""
