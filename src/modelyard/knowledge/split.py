"""Documents' text into segments: by separators as Dify's settings say, or by structure. Pure; linear in the text.

Everything works on places of the text, so that each segment knows where it stands, and no text is lost on the way.
"""

import codecs
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from modelyard.knowledge.entities import DocForm, ProcessRule, Rules, Segmentation
from modelyard.models.tokens import estimate_tokens as estimate

_SEPARATORS = ("\n\n", "。", ". ", " ", "")
_LEADING = " \t\r\n.。"
_MOST_PARENT_TOKENS = 10_000
STRUCTURE = Segmentation(separator="", max_tokens=2000)
STRUCTURE_CHILD = Segmentation(separator="", max_tokens=600)

Span = tuple[int, int]
Measure = Callable[[str], int]


@dataclass(slots=True)
class Piece:
    """A segment to be. `text` is what stands from `start` to `stop`, with a table's head before later rows of it."""

    start: int
    stop: int
    text: str
    heading: str = ""
    children: list["Piece"] = field(default_factory=list["Piece"])


def split(text: str, rule: ProcessRule, form: DocForm = DocForm.TEXT) -> list[Piece]:
    rules = rule.effective
    if rule.mode == "structure":
        pieces = _by_structure(text, rules, form)
    elif form is DocForm.HIERARCHICAL and rules.parent_mode == "full-doc":
        stop = _within(text, _MOST_PARENT_TOKENS)
        pieces = [_piece(text, (0, stop))] if text.strip() else []
    else:
        pieces = [_piece(text, span) for span in spans(text, rules.segmentation)]
    if form is DocForm.HIERARCHICAL and rule.mode != "structure":
        for one in pieces:
            inner = spans(one.text, rules.subchunk_segmentation)
            one.children = [Piece(one.start + begin, one.start + end, one.text[begin:end]) for begin, end in inner]
    if rules.heading_context or rule.mode == "structure":
        _name_headings(text, pieces)
    return pieces


def _piece(text: str, span: Span) -> Piece:
    return Piece(span[0], span[1], text[span[0] : span[1]])


def _within(text: str, tokens: int) -> int:
    """Where so many tokens end, about."""
    if estimate(text) <= tokens:
        return len(text)
    low, high = 0, min(len(text), tokens * 8)
    while high - low > 64:
        middle = (low + high) // 2
        low, high = (middle, high) if estimate(text[:middle]) <= tokens else (low, middle)
    return low


# ------------------------------------------------------------------------------------------------ by separators


def spans(text: str, rule: Segmentation) -> list[Span]:
    """Places of the segments, without blanks and stops at their beginnings."""
    measure: Measure = len if rule.unit == "characters" else estimate
    separator = _decoded(rule.separator)
    size = max(1, rule.max_tokens)
    overlap = min(max(0, rule.chunk_overlap), size - 1)
    found: list[Span] = []
    for part in _parts(text, (0, len(text)), separator):
        if measure(text[part[0] : part[1]]) > size:
            found += _recursive(text, part, _SEPARATORS, size, overlap, measure)
        else:
            found.append(part)
    trimmed = (_trimmed(text, one) for one in found)
    return [one for one in trimmed if one is not None]


def _decoded(separator: str) -> str:
    if "\\" not in separator:
        return separator
    try:
        return codecs.decode(separator.encode("latin-1", "backslashreplace"), "unicode_escape")
    except UnicodeDecodeError:
        return separator


def _parts(text: str, span: Span, separator: str) -> Iterator[Span]:
    """Between separators; they belong to neither side."""
    start, stop = span
    if not separator:
        yield span
        return
    while (at := text.find(separator, start, stop)) >= 0:
        yield start, at
        start = at + len(separator)
    yield start, stop


def _recursive(
    text: str, span: Span, separators: Sequence[str], size: int, overlap: int, measure: Measure
) -> list[Span]:
    """By the first separator that there is; what is too large still by the ones after it."""
    start, stop = span
    place = next((at for at, one in enumerate(separators) if not one or text.find(one, start, stop) >= 0), -1)
    separator = separators[place]
    if not separator:
        return _windows(text, span, size, overlap, measure)
    rest = separators[place + 1 :]
    found: list[Span] = []
    waiting: list[Span] = []
    for part in _parts(text, span, separator):
        if part[0] == part[1]:
            continue
        if measure(text[part[0] : part[1]]) <= size:
            waiting.append(part)
            continue
        found += _merged(text, waiting, size, overlap, measure)
        waiting = []
        found += _recursive(text, part, rest, size, overlap, measure)
    return found + _merged(text, waiting, size, overlap, measure)


def _windows(text: str, span: Span, size: int, overlap: int, measure: Measure) -> list[Span]:
    start, stop = span
    if measure is not len:  # a token is four characters of Latin script, one of the others
        share = max(1.0, (stop - start) / max(1, measure(text[start:stop])))
        size, overlap = max(1, int(size * share)), int(overlap * share)
    step = max(1, size - overlap)
    return [(at, min(at + size, stop)) for at in range(start, max(start + 1, stop - overlap), step)]


def _merged(text: str, parts: Sequence[Span], size: int, overlap: int, measure: Measure) -> list[Span]:
    """Neighbours together up to the size; each begins with as much of the one before as overlaps."""
    found: list[Span] = []
    if not parts:
        return found
    sizes = [measure(text[start:stop]) for start, stop in parts]
    first = 0
    whole = 0
    for place in range(len(parts)):
        # What stands between belongs to both: the text from the first one's start is what counts.
        reach = parts[place][1] - parts[first][0] if measure is len else whole + sizes[place]
        if place > first and reach > size:
            found.append((parts[first][0], parts[place - 1][1]))
            while first < place and (
                _reach(parts, sizes, first, place - 1, measure) > overlap
                or _reach(parts, sizes, first, place, measure) > size
            ):
                whole -= sizes[first]
                first += 1
        whole += sizes[place]
    found.append((parts[first][0], parts[-1][1]))
    return found


def _reach(parts: Sequence[Span], sizes: Sequence[int], first: int, last: int, measure: Measure) -> int:
    if last < first:
        return 0
    return parts[last][1] - parts[first][0] if measure is len else sum(sizes[first : last + 1])


def _trimmed(text: str, span: Span) -> Span | None:
    start, stop = span
    while start < stop and text[start] in _LEADING:
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return (start, stop) if start < stop else None


# ------------------------------------------------------------------------------------------------ by structure

_FENCE = re.compile(r"^(```+|~~~+)")
_HEADING = re.compile(r"^(#{1,6})\s+(.*\S)")
_SENTENCE = re.compile(r"[。！？；…]+[」』”’）)]*|(?<![.!?])[.!?]++[\"'”’)\]]*(?=\s)|\n")


@dataclass(slots=True)
class _Block:
    kind: str
    """heading, code, table, text"""
    start: int
    stop: int
    level: int = 0


def blocks(text: str) -> list[_Block]:
    """Headings, code, tables and paragraphs, in order."""
    found: list[_Block] = []
    at = 0
    fence = ""
    current: _Block | None = None
    for line in text.splitlines(keepends=True):
        start, at = at, at + len(line)
        bare = line.strip()
        if fence:
            if current is not None:
                current.stop = at
            if bare.startswith(fence) and not bare.strip(fence[0]):
                fence, current = "", None
            continue
        kind = _kind(bare)
        if kind == "fence":
            matched = _FENCE.match(bare)
            fence = matched[1] if matched else "```"
            current = _Block("code", start, at)
            found.append(current)
        elif kind == "blank":
            current = None
        elif kind == "heading":
            matched = _HEADING.match(bare)
            found.append(_Block("heading", start, at, len(matched[1]) if matched else 1))
            current = None
        elif current is not None and current.kind == kind:
            current.stop = at
        else:
            current = _Block(kind, start, at)
            found.append(current)
    return found


def _kind(line: str) -> str:
    if not line:
        return "blank"
    if line.startswith(("```", "~~~")):
        return "fence"
    if line[0] == "#" and _HEADING.match(line):
        return "heading"
    return "table" if line[0] == "|" and line[-1] == "|" else "text"


def _by_structure(text: str, rules: Rules, form: DocForm) -> list[Piece]:
    parent = rules.segmentation if rules.segmentation.max_tokens != Segmentation().max_tokens else STRUCTURE
    pieces = _packed(text, blocks(text), parent)
    if form is DocForm.HIERARCHICAL:
        inner = rules.subchunk_segmentation
        inner = inner if inner.max_tokens != Rules().subchunk_segmentation.max_tokens else STRUCTURE_CHILD
        for one in pieces:
            within = [
                _Block(each.kind, max(each.start, one.start), min(each.stop, one.stop), each.level)
                for each in blocks_between(text, one.start, one.stop)
            ]
            one.children = _packed(text, within, inner)
    return pieces


def blocks_between(text: str, start: int, stop: int) -> list[_Block]:
    found = blocks(text[start:stop])
    for one in found:
        one.start += start
        one.stop += start
    return found


def _packed(text: str, found: Sequence[_Block], rule: Segmentation) -> list[Piece]:
    """Blocks together up to the size; a heading begins anew once a piece is half full, and never ends one."""
    measure: Measure = len if rule.unit == "characters" else estimate
    size = rule.max_tokens
    pieces: list[Piece] = []
    start = stop = -1
    used = 0

    def close() -> None:
        nonlocal start, used
        if start >= 0 and (trimmed := _trimmed_plain(text, (start, stop))) is not None:
            pieces.append(_piece(text, trimmed))
        start, used = -1, 0

    for place, block in enumerate(found):
        length = measure(text[block.start : block.stop])
        ahead = length
        if block.kind == "heading" and place + 1 < len(found):
            ahead += min(size // 4, measure(text[found[place + 1].start : found[place + 1].stop]))
        is_new_part = block.kind == "heading" and used > size // 2
        if start >= 0 and (used + ahead > size or is_new_part):
            close()
        if length > size:
            lead = start if start >= 0 else block.start
            start, used = -1, 0
            pieces += _cut(text, block, lead, size, measure)
            continue
        if start < 0:
            start = block.start
        stop = block.stop
        used += length
    close()
    return _with_overlap(text, pieces, rule, measure)


def _trimmed_plain(text: str, span: Span) -> Span | None:
    start, stop = span
    while start < stop and text[start].isspace():
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return (start, stop) if start < stop else None


def _cut(text: str, block: _Block, lead: int, size: int, measure: Measure) -> list[Piece]:
    """One block that is too large: a table by rows with its head before each part, code by lines, text by sentences."""
    if block.kind == "table":
        return _cut_table(text, block, lead, size, measure)
    if block.kind == "code":
        units: Iterable[Span] = _parts(text, (lead, block.stop), "\n")
    else:
        units = sentences(text, lead, block.stop)
    small: list[Span] = []
    for start, stop in units:
        if measure(text[start:stop]) > size:
            small += _recursive(text, (start, stop), (" ", ""), size, 0, measure)
        elif stop > start:
            small.append((start, stop))
    trimmed = (_trimmed_plain(text, one) for one in _merged(text, small, size, 0, measure))
    return [_piece(text, one) for one in trimmed if one is not None]


def _cut_table(text: str, block: _Block, lead: int, size: int, measure: Measure) -> list[Piece]:
    rows = [one for one in _parts(text, (block.start, block.stop), "\n") if one[0] < one[1]]
    has_rule = len(rows) > 2 and set(text[rows[1][0] : rows[1][1]]) <= set("|-: ")
    head = text[rows[0][0] : rows[1][1]] if has_rule else ""
    room = max(1, size - measure(head))
    cut = _merged(text, rows[2:] if has_rule else rows, room, 0, measure)
    pieces: list[Piece] = []
    for start, stop in cut:
        if not pieces:
            pieces.append(_piece(text, (lead, stop)))
            continue
        body = text[start:stop]
        pieces.append(Piece(start, stop, f"{head}\n{body}" if head else body))
    return pieces


def sentences(text: str, start: int, stop: int) -> Iterator[Span]:
    """Each with what ends it; full stops of Latin script only before a blank."""
    at = start
    for match in _SENTENCE.finditer(text, start, stop):
        yield at, match.end()
        at = match.end()
    if at < stop:
        yield at, stop


def _with_overlap(text: str, pieces: list[Piece], rule: Segmentation, measure: Measure) -> list[Piece]:
    if not rule.chunk_overlap:
        return pieces
    for before, one in pairwise(pieces):
        if one.text != text[one.start : one.stop]:
            continue
        start = one.start
        for begin, end in reversed(list(sentences(text, before.start, before.stop))):
            if measure(text[begin : one.start]) > rule.chunk_overlap or end <= begin:
                break
            start = begin
        if start < one.start:
            one.start, one.text = start, text[start : one.stop].lstrip()
    return pieces


def _name_headings(text: str, pieces: Iterable[Piece]) -> None:
    """Which headings a piece stands below, as `Guide › Refunds`."""
    if "#" not in text:
        return
    places: list[int] = []
    paths: list[str] = []
    path: list[tuple[int, str]] = []
    for block in blocks(text):
        if block.kind != "heading":
            continue
        title = text[block.start : block.stop].strip().lstrip("#").strip()
        path = [one for one in path if one[0] < block.level] + [(block.level, title)]
        places.append(block.start)
        paths.append(" › ".join(name for _, name in path))
    for one in pieces:
        at = bisect_right(places, one.start) - 1
        one.heading = paths[at] if at >= 0 else ""
        for child in one.children:
            at = bisect_right(places, child.start) - 1
            child.heading = paths[at] if at >= 0 else ""
