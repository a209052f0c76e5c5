"""The pages of documentation in parts: code blocks, and sentences of the text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    path.relative_to(ROOT).as_posix()
    for pattern in (
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs/*.md",
        "docs/how-to/*.md",
    )
    for path in sorted(ROOT.glob(pattern))
)
"""The pages that people write, as paths below the repository. Generated reference pages
and design notes are not among them."""

_FENCE = re.compile(r" *```")
_LIST_ITEM = re.compile(r" *(?:[-*]|\d+\.) ")
_SENTENCE_END = re.compile(r"(?<=[.:;!?])\s+(?=[^a-z\s])|(?<=[.!?]\*\*)\s+")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    page: str
    line: int
    """Number of the line with the opening fence, from 1."""
    language: str
    """What the fence names first; empty if it names nothing."""
    file: str
    """What the fence names second: the file that the block is; empty without one."""
    body: str

    @property
    def where(self) -> str:
        """The page and line, as editors open them."""
        return f"{self.page}:{self.line}"


@cache
def text_of(page: str) -> str:
    """Return the Markdown source of a page."""
    return (ROOT / page).read_text("utf-8")


@cache
def blocks_of(page: str) -> tuple[Block, ...]:
    """Return the fenced code blocks of a page in order; those inside lists lose their
    indentation."""
    blocks: list[Block] = []
    opening, body = None, list[str]()
    for number, line in enumerate(text_of(page).splitlines(), start=1):
        if not _FENCE.match(line):
            body.append(line)
        elif opening is None:
            opening, body = (number, line), []
        else:
            blocks.append(_block(page, *opening, body))
            opening = None
    if opening is not None:
        raise ValueError(f"{page}:{opening[0]}: the code block does not end")
    return tuple(blocks)


def _block(page: str, number: int, fence: str, body: list[str]) -> Block:
    indent = len(fence) - len(fence.lstrip())
    language, _, file = fence.strip().removeprefix("```").partition(" ")
    source = "".join(f"{line[indent:]}\n" for line in body)
    return Block(page, number, language, file.strip(), source)


def all_blocks() -> list[Block]:
    """Return the code blocks of all pages."""
    return [block for page in PAGES for block in blocks_of(page)]


def normalised(text: str) -> str:
    """Return a text on one line, with links as their labels: what quotes are compared
    with."""
    return " ".join(_LINK.sub(r"\1", text).split())


@cache
def sentences_of(page: str) -> tuple[str, ...]:
    """Return the sentences of a page without its headings and code blocks; a row of a
    table is one paragraph."""
    return tuple(
        sentence
        for paragraph in _paragraphs(page)
        for sentence in _SENTENCE_END.split(paragraph)
    )


def _paragraphs(page: str) -> Iterator[str]:
    """Yield paragraphs, list items and rows of tables as normalised text."""
    lines: list[str] = []
    in_block = False
    for line in text_of(page).splitlines():
        is_fence = bool(_FENCE.match(line))
        in_block ^= is_fence
        begins = not line.strip() or line.startswith(("|", "#"))
        if begins or is_fence or _LIST_ITEM.match(line):
            yield from _joined(lines)
            lines = []
        if not (in_block or is_fence or line.startswith(("#", "|--"))):
            lines.append(line)
    yield from _joined(lines)


def _joined(lines: list[str]) -> Iterator[str]:
    text = normalised("\n".join(lines))
    if text:
        yield text
