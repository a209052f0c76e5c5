"""Cleaning of a document's text before it is split. Pure functions."""

import re

from modelyard.knowledge.entities import Rules

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe]")
_REPEATED_LINE_BREAKS = re.compile(r"\n{3,}")
_REPEATED_BLANKS = re.compile(
    "[\t\x0b\f\r \u00a0\u1680\u180e\u2000-\u200f\u202f\u205f\u3000]{2,}"
)
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9_.+-])[A-Za-z0-9_.+-]++@[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)++"
)
_URL = re.compile(r"https?://[^\s)\]>\"']+")
_MARKDOWN_LINK = re.compile(r"!?\[[^\]\n]{0,400}+\]\((?:https?://|mailto:)?[^)\s]+\)")


def clean(text: str, rules: Rules) -> str:
    """Return the cleaned text. Control characters are always removed; extra spaces and
    addresses as the rules say.

    `<|` and `|>` are always defused, because models may read them as special tokens.
    """
    if "<|" in text or "|>" in text:
        text = text.replace("<|", "<").replace("|>", ">")
    text = _CONTROL.sub("", text)
    if rules.removes_extra_spaces:
        text = _REPEATED_BLANKS.sub(" ", _REPEATED_LINE_BREAKS.sub("\n\n", text))
    if rules.removes_urls_emails:
        text = _without_addresses(text)
    return text


def _without_addresses(text: str) -> str:
    """Remove URLs and email addresses, except the targets of Markdown links, which
    would otherwise be broken."""
    # Most texts contain neither, and the expressions are expensive.
    if "@" not in text and "://" not in text:
        return text
    fragments: list[str] = []
    position = 0
    for match in _MARKDOWN_LINK.finditer(text):
        fragments += [
            _URL.sub("", _EMAIL.sub("", text[position : match.start()])),
            match[0],
        ]
        position = match.end()
    fragments.append(_URL.sub("", _EMAIL.sub("", text[position:])))
    return "".join(fragments)
