"""Splitting of a document's text into segments: by separators, as Dify's settings
define, or by structure.

Pure functions, linear in the text's length. Everything works on positions in the text,
so that each segment knows where it stands and no text is lost.
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
_STRIPPED_AT_START = " \t\r\n.。"
_MAX_PARENT_TOKENS = 10_000
STRUCTURE = Segmentation(separator="", max_tokens=2000)
STRUCTURE_CHILD = Segmentation(separator="", max_tokens=600)

Span = tuple[int, int]
Measure = Callable[[str], int]


@dataclass(slots=True)
class TextSegment:
    """A segment of a text. `text` is the range from `start` to `stop`; a later part of
    a table repeats the table's header."""

    start: int
    stop: int
    text: str
    heading: str = ""
    children: list["TextSegment"] = field(default_factory=list["TextSegment"])


def split(
    text: str, rule: ProcessRule, doc_form: DocForm = DocForm.TEXT
) -> list[TextSegment]:
    """Split a text by a rule into segments, with children if the document form is
    hierarchical."""
    rules = rule.effective
    if rule.mode == "structure":
        text_segments = _split_by_structure(text, rules, doc_form)
    elif doc_form is DocForm.HIERARCHICAL and rules.parent_mode == "full-doc":
        # One parent for the complete text, up to a maximum that models can still read.
        stop = _end_of_tokens(text, _MAX_PARENT_TOKENS)
        text_segments = [_text_segment(text, (0, stop))] if text.strip() else []
    else:
        text_segments = [
            _text_segment(text, span) for span in spans(text, rules.segmentation)
        ]
    # The structure mode makes the children itself.
    if doc_form is DocForm.HIERARCHICAL and rule.mode != "structure":
        for text_segment in text_segments:
            inner = spans(text_segment.text, rules.subchunk_segmentation)
            # Children's positions refer to the complete text.
            text_segment.children = [
                TextSegment(
                    text_segment.start + start,
                    text_segment.start + end,
                    text_segment.text[start:end],
                )
                for start, end in inner
            ]
    if rules.heading_context or rule.mode == "structure":
        _set_headings(text, text_segments)
    return text_segments


def _text_segment(text: str, span: Span) -> TextSegment:
    return TextSegment(span[0], span[1], text[span[0] : span[1]])


def _end_of_tokens(text: str, tokens: int) -> int:
    """Return the position at which about `tokens` tokens end."""
    if estimate(text) <= tokens:
        return len(text)
    # Estimated tokens grow with the length, so a binary search works; 64 characters are
    # precise enough.
    low, high = 0, min(len(text), tokens * 8)
    while high - low > 64:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if estimate(text[:middle]) <= tokens else (low, middle)
        )
    return low


# ------------------------------------------------------------------------------------------------
# by separators


def spans(text: str, rule: Segmentation) -> list[Span]:
    """Return the segments' positions, without leading blanks and full stops."""
    measure: Measure = len if rule.unit == "characters" else estimate
    separator = _decode_separator(rule.separator)
    size = max(1, rule.max_tokens)
    # An overlap as large as a segment would never advance.
    overlap = min(max(0, rule.chunk_overlap), size - 1)
    split_spans: list[Span] = []
    for part in _split_at(text, (0, len(text)), separator):
        # Only parts that are too large are split further; small parts stay separate, as
        # in Dify.
        if measure(text[part[0] : part[1]]) > size:
            split_spans += _split_recursively(
                text, part, _SEPARATORS, size, overlap, measure
            )
        else:
            split_spans.append(part)
    trimmed = (_trim(text, span) for span in split_spans)
    return [span for span in trimmed if span is not None]


def _decode_separator(separator: str) -> str:
    r"""Resolve escape sequences in a separator, as `\n`. An invalid sequence leaves it
    unchanged."""
    if "\\" not in separator:
        return separator
    try:
        return codecs.decode(
            separator.encode("latin-1", "backslashreplace"), "unicode_escape"
        )
    except UnicodeDecodeError:
        return separator


def _split_at(text: str, span: Span, separator: str) -> Iterator[Span]:
    """Yield the ranges between separators. A separator belongs to neither neighbour."""
    start, stop = span
    if not separator:
        yield span
        return
    while (separator_start := text.find(separator, start, stop)) >= 0:
        yield start, separator_start
        start = separator_start + len(separator)
    yield start, stop


def _split_recursively(
    text: str,
    span: Span,
    separators: Sequence[str],
    size: int,
    overlap: int,
    measure: Measure,
) -> list[Span]:
    """Split at the first separator that occurs; parts that are still too large at the
    following separators."""
    start, stop = span
    separator_index = next(
        (
            index
            for index, candidate in enumerate(separators)
            if not candidate or text.find(candidate, start, stop) >= 0
        ),
        -1,
    )
    separator = separators[separator_index]
    # The empty separator ends the list: no boundary is left, so cut at fixed sizes.
    if not separator:
        return _fixed_windows(text, span, size, overlap, measure)
    finer_separators = separators[separator_index + 1 :]
    split_spans: list[Span] = []
    waiting: list[Span] = []
    for part in _split_at(text, span, separator):
        if part[0] == part[1]:
            continue
        if measure(text[part[0] : part[1]]) <= size:
            waiting.append(part)
            continue
        # Merge the small parts collected so far, to keep the order.
        split_spans += _merge_spans(text, waiting, size, overlap, measure)
        waiting = []
        split_spans += _split_recursively(
            text, part, finer_separators, size, overlap, measure
        )
    return split_spans + _merge_spans(text, waiting, size, overlap, measure)


def _fixed_windows(
    text: str, span: Span, size: int, overlap: int, measure: Measure
) -> list[Span]:
    start, stop = span
    # Convert tokens to characters: a token is about four characters of Latin script, or
    # one of others.
    if measure is not len:
        chars_per_token = max(1.0, (stop - start) / max(1, measure(text[start:stop])))
        size, overlap = (
            max(1, int(size * chars_per_token)),
            int(overlap * chars_per_token),
        )
    step = max(1, size - overlap)
    # The last window ends at the text's end; another that would only repeat the overlap
    # is avoided.
    return [
        (window_start, min(window_start + size, stop))
        for window_start in range(start, max(start + 1, stop - overlap), step)
    ]


def _merge_spans(
    text: str, parts: Sequence[Span], size: int, overlap: int, measure: Measure
) -> list[Span]:
    """Merge adjacent parts up to the size. Each result starts with as much of the
    previous one as the overlap permits."""
    merged_spans: list[Span] = []
    if not parts:
        return merged_spans
    sizes = [measure(text[start:stop]) for start, stop in parts]
    first = 0
    total_size = 0
    for part_index in range(len(parts)):
        # The text between parts belongs to the result, so the distance from the first
        # start counts.
        merged_size = (
            parts[part_index][1] - parts[first][0]
            if measure is len
            else total_size + sizes[part_index]
        )
        if part_index > first and merged_size > size:
            # Drop parts at the front until the overlap is small enough and the new part
            # fits.
            merged_spans.append((parts[first][0], parts[part_index - 1][1]))
            while first < part_index and (
                _combined_size(parts, sizes, first, part_index - 1, measure) > overlap
                or _combined_size(parts, sizes, first, part_index, measure) > size
            ):
                total_size -= sizes[first]
                first += 1
        total_size += sizes[part_index]
    merged_spans.append((parts[first][0], parts[-1][1]))
    return merged_spans


def _combined_size(
    parts: Sequence[Span], sizes: Sequence[int], first: int, last: int, measure: Measure
) -> int:
    """Return the size of the parts `first` to `last`, including the text between them."""
    if last < first:
        return 0
    return (
        parts[last][1] - parts[first][0]
        if measure is len
        else sum(sizes[first : last + 1])
    )


def _trim(text: str, span: Span) -> Span | None:
    start, stop = span
    while start < stop and text[start] in _STRIPPED_AT_START:
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return (start, stop) if start < stop else None


# ------------------------------------------------------------------------- by structure

_FENCE = re.compile(r"^(```+|~~~+)")
_HEADING = re.compile(r"^(#{1,6})\s+(.*\S)")
_SENTENCE = re.compile(
    r"[。！？；…]+[」』”’）)]*|(?<![.!?])[.!?]++[\"'”’)\]]*(?=\s)|\n"
)


@dataclass(slots=True)
class _Block:
    """A block of a Markdown text."""

    kind: str
    """One of heading, code, table, text."""
    start: int
    stop: int
    level: int = 0


def parse_blocks(text: str) -> list[_Block]:
    """Return the headings, code blocks, tables and paragraphs of a text, in order."""
    found_blocks: list[_Block] = []
    position = 0
    fence = ""
    current: _Block | None = None
    for line in text.splitlines(keepends=True):
        start, position = position, position + len(line)
        stripped_line = line.strip()
        # Inside a code block nothing else is recognised, until its closing fence.
        if fence:
            if current is not None:
                current.stop = position
            if stripped_line.startswith(fence) and not stripped_line.strip(fence[0]):
                fence, current = "", None
            continue
        line_type = _line_type(stripped_line)
        if line_type == "fence":
            matched = _FENCE.match(stripped_line)
            fence = matched[1] if matched else "```"
            current = _Block("code", start, position)
            found_blocks.append(current)
        elif line_type == "blank":
            current = None
        elif line_type == "heading":
            matched = _HEADING.match(stripped_line)
            found_blocks.append(
                _Block("heading", start, position, len(matched[1]) if matched else 1)
            )
            current = None
        elif current is not None and current.kind == line_type:
            # Consecutive lines of the same type form one block.
            current.stop = position
        else:
            current = _Block(line_type, start, position)
            found_blocks.append(current)
    return found_blocks


def _line_type(line: str) -> str:
    if not line:
        return "blank"
    if line.startswith(("```", "~~~")):
        return "fence"
    if line[0] == "#" and _HEADING.match(line):
        return "heading"
    return "table" if line[0] == "|" and line[-1] == "|" else "text"


def _split_by_structure(
    text: str, rules: Rules, doc_form: DocForm
) -> list[TextSegment]:
    # Dify's default sizes mean that nothing was configured.
    parent = (
        rules.segmentation
        if rules.segmentation.max_tokens != Segmentation().max_tokens
        else STRUCTURE
    )
    text_segments = _pack_blocks(text, parse_blocks(text), parent)
    if doc_form is DocForm.HIERARCHICAL:
        inner = rules.subchunk_segmentation
        inner = (
            inner
            if inner.max_tokens != Rules().subchunk_segmentation.max_tokens
            else STRUCTURE_CHILD
        )
        for text_segment in text_segments:
            # A parent may start or end within a block: only the part inside counts.
            inner_blocks = [
                _Block(
                    block.kind,
                    max(block.start, text_segment.start),
                    min(block.stop, text_segment.stop),
                    block.level,
                )
                for block in blocks_between(text, text_segment.start, text_segment.stop)
            ]
            text_segment.children = _pack_blocks(text, inner_blocks, inner)
    return text_segments


def blocks_between(text: str, start: int, stop: int) -> list[_Block]:
    """Return the blocks of a text range, with positions in the complete text."""
    shifted_blocks = parse_blocks(text[start:stop])
    for block in shifted_blocks:
        block.start += start
        block.stop += start
    return shifted_blocks


def _pack_blocks(
    text: str, block_list: Sequence[_Block], rule: Segmentation
) -> list[TextSegment]:
    """Combine blocks up to the size. A heading starts a new segment once the current
    one is half full, and never ends one."""
    measure: Measure = len if rule.unit == "characters" else estimate
    size = rule.max_tokens
    text_segments: list[TextSegment] = []
    start = stop = -1
    used = 0

    def close() -> None:
        """Finish the current segment, unless it is empty."""
        nonlocal start, used
        if start >= 0 and (trimmed := _trim_blanks(text, (start, stop))) is not None:
            text_segments.append(_text_segment(text, trimmed))
        start, used = -1, 0

    for block_index, block in enumerate(block_list):
        length = measure(text[block.start : block.stop])
        # A heading must fit together with the beginning of its first block.
        ahead = length
        if block.kind == "heading" and block_index + 1 < len(block_list):
            ahead += min(
                size // 4,
                measure(
                    text[
                        block_list[block_index + 1].start : block_list[
                            block_index + 1
                        ].stop
                    ]
                ),
            )
        is_new_part = block.kind == "heading" and used > size // 2
        if start >= 0 and (used + ahead > size or is_new_part):
            close()
        # An oversized block is split, together with the small blocks before it.
        if length > size:
            leading_start = start if start >= 0 else block.start
            start, used = -1, 0
            text_segments += _split_block(text, block, leading_start, size, measure)
            continue
        if start < 0:
            start = block.start
        stop = block.stop
        used += length
    close()
    return _add_overlap(text, text_segments, rule, measure)


def _trim_blanks(text: str, span: Span) -> Span | None:
    start, stop = span
    while start < stop and text[start].isspace():
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return (start, stop) if start < stop else None


def _split_block(
    text: str, block: _Block, leading_start: int, size: int, measure: Measure
) -> list[TextSegment]:
    """Split a block that is too large: tables by rows with repeated header, code by
    lines, text by sentences."""
    if block.kind == "table":
        return _split_table(text, block, leading_start, size, measure)
    if block.kind == "code":
        units: Iterable[Span] = _split_at(text, (leading_start, block.stop), "\n")
    else:
        units = sentences(text, leading_start, block.stop)
    small_spans: list[Span] = []
    for start, stop in units:
        # A single line or sentence may be too large as well.
        if measure(text[start:stop]) > size:
            small_spans += _split_recursively(
                text, (start, stop), (" ", ""), size, 0, measure
            )
        elif stop > start:
            small_spans.append((start, stop))
    trimmed = (
        _trim_blanks(text, span)
        for span in _merge_spans(text, small_spans, size, 0, measure)
    )
    return [_text_segment(text, span) for span in trimmed if span is not None]


def _split_table(
    text: str, block: _Block, leading_start: int, size: int, measure: Measure
) -> list[TextSegment]:
    rows = [
        row_span
        for row_span in _split_at(text, (block.start, block.stop), "\n")
        if row_span[0] < row_span[1]
    ]
    # A Markdown table has a delimiter row after its header.
    has_rule = len(rows) > 2 and set(text[rows[1][0] : rows[1][1]]) <= set("|-: ")
    head = text[rows[0][0] : rows[1][1]] if has_rule else ""
    # The repeated header reduces the space for rows.
    room = max(1, size - measure(head))
    cut = _merge_spans(text, rows[2:] if has_rule else rows, room, 0, measure)
    text_segments: list[TextSegment] = []
    for start, stop in cut:
        if not text_segments:
            text_segments.append(_text_segment(text, (leading_start, stop)))
            continue
        body = text[start:stop]
        text_segments.append(
            TextSegment(start, stop, f"{head}\n{body}" if head else body)
        )
    return text_segments


def sentences(text: str, start: int, stop: int) -> Iterator[Span]:
    """Yield sentences with their closing punctuation. In Latin script a full stop ends
    a sentence only before a blank."""
    sentence_start = start
    for match in _SENTENCE.finditer(text, start, stop):
        yield sentence_start, match.end()
        sentence_start = match.end()
    # The text may end without punctuation.
    if sentence_start < stop:
        yield sentence_start, stop


def _add_overlap(
    text: str, text_segments: list[TextSegment], rule: Segmentation, measure: Measure
) -> list[TextSegment]:
    if not rule.chunk_overlap:
        return text_segments
    for previous, text_segment in pairwise(text_segments):
        # Parts of a table with a repeated header are not extended.
        if text_segment.text != text[text_segment.start : text_segment.stop]:
            continue
        start = text_segment.start
        # Move the start back by complete sentences of the previous segment.
        for start_of_sentence, end in reversed(
            list(sentences(text, previous.start, previous.stop))
        ):
            if (
                measure(text[start_of_sentence : text_segment.start])
                > rule.chunk_overlap
                or end <= start_of_sentence
            ):
                break
            start = start_of_sentence
        if start < text_segment.start:
            text_segment.start, text_segment.text = (
                start,
                text[start : text_segment.stop].lstrip(),
            )
    return text_segments


def _set_headings(text: str, text_segments: Iterable[TextSegment]) -> None:
    """Set the path of headings above each segment and child, as `Guide › Refunds`."""
    if "#" not in text:
        return
    heading_starts: list[int] = []
    paths: list[str] = []
    path: list[tuple[int, str]] = []
    for block in parse_blocks(text):
        if block.kind != "heading":
            continue
        title = text[block.start : block.stop].strip().lstrip("#").strip()
        # A heading closes all headings of the same or a deeper level.
        path = [ancestor for ancestor in path if ancestor[0] < block.level] + [
            (block.level, title)
        ]
        heading_starts.append(block.start)
        paths.append(" › ".join(name for _, name in path))
    for text_segment in text_segments:
        # The last heading at or before the segment's start applies.
        heading_index = bisect_right(heading_starts, text_segment.start) - 1
        text_segment.heading = paths[heading_index] if heading_index >= 0 else ""
        for child in text_segment.children:
            heading_index = bisect_right(heading_starts, child.start) - 1
            child.heading = paths[heading_index] if heading_index >= 0 else ""
