"""What is taken out of a document's text before it is split. Pure."""

import re

from modelyard.knowledge.entities import Rules

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe]")
_MANY_LINES = re.compile(r"\n{3,}")
_BLANKS = re.compile("[\t\x0b\f\r \u00a0\u1680\u180e\u2000-\u200f\u202f\u205f\u3000]{2,}")
_EMAIL = re.compile(r"(?<![A-Za-z0-9_.+-])[A-Za-z0-9_.+-]++@[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)++")
_URL = re.compile(r"https?://[^\s)\]>\"']+")
_TARGET = re.compile(r"!?\[[^\]\n]{0,400}+\]\((?:https?://|mailto:)?[^)\s]+\)")


def clean(text: str, rules: Rules) -> str:
    """Always without control characters and marks that models take for their own; more as the rules say."""
    if "<|" in text or "|>" in text:
        text = text.replace("<|", "<").replace("|>", ">")
    text = _CONTROL.sub("", text)
    if rules.removes_extra_spaces:
        text = _BLANKS.sub(" ", _MANY_LINES.sub("\n\n", text))
    if rules.removes_urls_emails:
        text = _without_addresses(text)
    return text


def _without_addresses(text: str) -> str:
    """Where links of Markdown lead stays: without that they would be no links."""
    if "@" not in text and "://" not in text:
        return text
    pieces: list[str] = []
    at = 0
    for match in _TARGET.finditer(text):
        pieces += [_URL.sub("", _EMAIL.sub("", text[at : match.start()])), match[0]]
        at = match.end()
    pieces.append(_URL.sub("", _EMAIL.sub("", text[at:])))
    return "".join(pieces)
