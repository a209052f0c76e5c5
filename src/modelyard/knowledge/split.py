"""Splitting of a document's text into segments: by separators, as Dify's settings
define, or by structure.

Pure functions, linear in the text's length. Everything works on positions in the text,
so that each segment has its position and no text is lost.
"""

import codecs
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Self

from modelyard.knowledge.entities import DocForm, ProcessRule, Rules, Segmentation
from modelyard.models.tokens import estimate_tokens as estimate

_SEPARATORS = ("\n\n", "。", ". ", " ", "")
# Separators that are part of the text: the segment before them keeps them.
_SENTENCE_ENDS = frozenset("。．.！!？?；;…")
# Characters of a row that only divides: of a table's header, or of sections.
_RULE_CHARACTERS = frozenset("|-:+= \t\r\n")
# Segments smaller than one part in so many of the maximum are joined to a neighbour.
_SMALL_SHARE = 20
# Dify's limit for a parent that is the whole document.
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
    """Split a text into segments by a rule, as separators or as structure demand.

    The segments of a hierarchical document have children. With `heading_context`, and
    always by structure, each carries the path of its headings. A text of white space
    gives no segments.
    """
    rules = rule.effective
    # What is split automatically is split by structure: single lines, which Dify's
    # default makes, answer no question.
    is_structured = rule.mode in ("structure", "automatic")
    if is_structured:
        text_segments = _split_by_structure(text, rules, doc_form)
    else:
        text_segments = _split_by_separators(text, rules, doc_form)
    if rules.heading_context or is_structured:
        _set_headings(text, text_segments)
    return text_segments


def _split_by_separators(
    text: str, rules: Rules, doc_form: DocForm
) -> list[TextSegment]:
    """Split a text at the rule's separator, as Dify's settings define it.

    In a hierarchical document the segments are parents, each split further into
    children; with the parent mode `full-doc` there is one parent, of at most 10,000
    tokens. All positions refer to the whole text.
    """
    is_hierarchical = doc_form is DocForm.HIERARCHICAL
    if is_hierarchical and rules.parent_mode == "full-doc":
        # One parent for the complete text, up to a maximum that models can still read.
        stop = _end_of_tokens(text, _MAX_PARENT_TOKENS)
        text_segments = [_text_segment(text, (0, stop))] if text.strip() else []
    else:
        text_segments = [
            _text_segment(text, span) for span in spans(text, rules.segmentation)
        ]
    if not is_hierarchical:
        return text_segments
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
    return text_segments


def _text_segment(text: str, span: Span) -> TextSegment:
    return TextSegment(
        span[0],
        span[1],
        text[span[0] : span[1]],
    )


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
    """Return the positions of a text's segments by separator and size.

    Only parts larger than `max_tokens`, counted in the rule's unit, are split further
    and overlap. Surrounding blanks are left out, as are empty segments. A row that only
    divides belongs to the segment before it, and is left out where it does not fit.
    """
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
    trimmed = (_trim_blanks(text, span) for span in split_spans)
    return _attach_rules(
        text, [span for span in trimmed if span is not None], size, measure
    )


def _attach_rules(
    text: str, segment_spans: Iterable[Span], size: int, measure: Measure
) -> list[Span]:
    """Join each row that only divides to the segment before it.

    One that does not fit there, or that is before all text, is left out: it has no
    content that could be searched.
    """
    attached: list[Span] = []
    for start, stop in segment_spans:
        if not _is_rule(text[start:stop]):
            attached.append((start, stop))
            continue
        # The row below a table's header usually follows a segment with the header.
        if attached and measure(text[attached[-1][0] : stop]) <= size:
            attached[-1] = (attached[-1][0], stop)
    return attached


def _is_rule(segment: str) -> bool:
    """Return whether a text only divides others, as the row below a table's header."""
    return _RULE_CHARACTERS.issuperset(segment)


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
    """Yield the ranges between separators. The end of a sentence belongs to the range
    before it, any other separator to neither neighbour."""
    start, stop = span
    if not separator:
        yield span
        return
    mark = separator.rstrip()
    kept_length = len(mark) if mark and _SENTENCE_ENDS.issuperset(mark) else 0
    while (separator_start := text.find(separator, start, stop)) >= 0:
        yield start, separator_start + kept_length
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
    """Cut a range into windows of a fixed size, each overlapping the previous one.

    With a measure in tokens, sizes are converted by the range's mean number of
    characters per token.
    """
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
        for window_start in range(
            start,
            max(start + 1, stop - overlap),
            step,
        )
    ]


def _merge_spans(
    text: str, parts: Sequence[Span], size: int, overlap: int, measure: Measure
) -> list[Span]:
    """Merge adjacent parts up to the size. Each result starts with as much of the
    previous one as the overlap permits."""
    merged_spans: list[Span] = []
    if not parts:
        return merged_spans
    measured = _MeasuredParts.of(text, parts, measure)
    first = 0
    for part_index in range(1, len(parts)):
        if measured.combined_size(first, part_index) > size:
            merged_spans.append((parts[first][0], parts[part_index - 1][1]))
            first = measured.overlap_start(first, part_index, size, overlap)
    merged_spans.append((parts[first][0], parts[-1][1]))
    return merged_spans


@dataclass(frozen=True, slots=True)
class _MeasuredParts:
    """Adjacent parts of a text with their sizes."""

    parts: Sequence[Span]
    totals: Sequence[int] | None
    """The size of all parts before each one, in tokens; None if sizes are characters."""

    @classmethod
    def of(cls, text: str, parts: Sequence[Span], measure: Measure) -> Self:
        """Measure each part of the text once."""
        # In characters the positions themselves are the sizes.
        if measure is len:
            return cls(parts, None)
        # Sums from the start, so that a range's size is one subtraction.
        sizes = (measure(text[start:stop]) for start, stop in parts)
        return cls(parts, list(accumulate(sizes, initial=0)))

    def overlap_start(self, first: int, last: int, size: int, overlap: int) -> int:
        """Return the first part of the next span, which ends with the part `last`.

        Parts are dropped at the front until the overlap with the previous span is small
        enough and the part `last` fits.
        """
        while first < last and (
            self.combined_size(first, last - 1) > overlap
            or self.combined_size(first, last) > size
        ):
            first += 1
        return first

    def combined_size(self, first: int, last: int) -> int:
        """Return the size of the parts `first` to `last`; in characters, that of the
        text between them is included. Takes constant time."""
        if self.totals is None:
            return self.parts[last][1] - self.parts[first][0]
        return self.totals[last + 1] - self.totals[first]


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
    parser = _BlockParser()
    position = 0
    for line in text.splitlines(keepends=True):
        start, position = position, position + len(line)
        parser.add_line(line.strip(), start, position)
    return parser.blocks


class _BlockParser:
    """Collects the lines of a Markdown text to blocks."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self._fence = ""
        """The opening fence of the code block that is being read."""
        self._current: _Block | None = None
        """The block that the next line continues if it has the same type."""

    def add_line(self, line: str, start: int, stop: int) -> None:
        """Add a line, without the white space around it. `start` and `stop` are its
        position in the text."""
        # Inside a code block nothing else is recognised, until its closing fence.
        if self._fence:
            self._add_code(line, stop)
            return
        line_type = _line_type(line)
        if line_type == "blank":
            self._current = None
            return
        # Consecutive lines of the same type form one block.
        if self._current is not None and self._current.kind == line_type:
            self._current.stop = stop
            return
        block = _block_of_line(line_type, line, start, stop)
        self.blocks.append(block)
        if line_type == "fence":
            self._fence = _opening_fence(line)
        # Two headings are two blocks.
        self._current = None if line_type == "heading" else block

    def _add_code(self, line: str, stop: int) -> None:
        self.blocks[-1].stop = stop
        if line.startswith(self._fence) and not line.strip(self._fence[0]):
            self._fence, self._current = "", None


def _block_of_line(line_type: str, line: str, start: int, stop: int) -> _Block:
    """Return the block that starts with a line."""
    if line_type == "fence":
        return _Block("code", start, stop)
    if line_type == "heading":
        matched = _HEADING.match(line)
        return _Block(
            "heading",
            start,
            stop,
            len(matched[1]) if matched else 1,
        )
    return _Block(line_type, start, stop)


def _opening_fence(line: str) -> str:
    matched = _FENCE.match(line)
    return matched[1] if matched else "```"


def _line_type(line: str) -> str:
    """Return the type of a Markdown line: blank, fence, heading, table or text.

    The line comes without the white space around it.
    """
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
    """Split a Markdown text by its blocks: headings, paragraphs, tables and code.

    A size that the rules leave at Dify's default is replaced by this mode's own. In a
    hierarchical document each segment gets children, packed from the blocks inside it.
    """
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
    packer = _BlockPacker(text, rule.max_tokens, measure)
    for block_index, block in enumerate(block_list):
        next_block = (
            block_list[block_index + 1] if block_index + 1 < len(block_list) else None
        )
        packer.add(block, next_block)
    packer.close()
    joined = _join_small(text, packer.text_segments, rule.max_tokens, measure)
    return _add_overlap(text, joined, rule, measure)


def _join_small(
    text: str, text_segments: Iterable[TextSegment], size: int, measure: Measure
) -> list[TextSegment]:
    """Join segments that are too small to answer a question to the one before them, as
    far as both fit in the maximum.

    Rows that only divide are never a segment: one that does not fit is left out.
    """
    joined: list[TextSegment] = []
    lengths: list[int] = []
    for text_segment in text_segments:
        is_rule, length = _is_rule(text_segment.text), measure(text_segment.text)
        # Either may be the small one: a title before a long table, or a last line.
        smaller = min(length, lengths[-1]) if lengths else size
        if (
            (is_rule or smaller * _SMALL_SHARE < size)
            and joined
            and _fits(
                text,
                joined[-1],
                text_segment,
                size,
                measure,
            )
        ):
            previous = joined[-1]
            previous.text += text[previous.stop : text_segment.stop]
            previous.stop = text_segment.stop
            lengths[-1] = measure(previous.text)
        elif not is_rule:
            joined.append(text_segment)
            lengths.append(length)
    return joined


def _fits(
    text: str,
    previous: TextSegment,
    following: TextSegment,
    size: int,
    measure: Measure,
) -> bool:
    """Return whether a segment can be joined to the one before it within `size`."""
    if not _is_plain(text, following):
        return False
    added = text[previous.stop : following.stop]
    return measure(previous.text) + measure(added) <= size


def _is_plain(text: str, text_segment: TextSegment) -> bool:
    """Return whether a segment is a range of the text, without a table's header that
    was repeated."""
    return text_segment.text == text[text_segment.start : text_segment.stop]


class _BlockPacker:
    """Combines the blocks of a text to segments of at most `size`, as `measure` counts
    it."""

    def __init__(self, text: str, size: int, measure: Measure) -> None:
        self._text = text
        self._size = size
        self._measure = measure
        self._start = self._stop = -1
        self._used = 0
        self.text_segments: list[TextSegment] = []

    def add(self, block: _Block, next_block: _Block | None) -> None:
        """Add a block to the current segment or to a new one."""
        length = self._length(block)
        is_heading = block.kind == "heading"
        # A heading must fit together with the beginning of its first block.
        ahead = length
        if is_heading and next_block is not None:
            ahead += min(self._size // 4, self._length(next_block))
        is_new_part = is_heading and self._used > self._size // 2
        if self._start >= 0 and (self._used + ahead > self._size or is_new_part):
            self.close()
        # An oversized block is split; the segment before it was closed above.
        if length > self._size:
            self.text_segments += _split_block(
                self._text, block, self._size, self._measure
            )
            return
        if self._start < 0:
            self._start = block.start
        self._stop = block.stop
        self._used += length

    def close(self) -> None:
        """Finish the current segment, unless it is empty."""
        if self._start >= 0:
            trimmed = _trim_blanks(self._text, (self._start, self._stop))
            if trimmed is not None:
                self.text_segments.append(_text_segment(self._text, trimmed))
        self._start, self._used = -1, 0

    def _length(self, block: _Block) -> int:
        return self._measure(self._text[block.start : block.stop])


def _trim_blanks(text: str, span: Span) -> Span | None:
    """Return a range without white space at both ends; None if nothing is left."""
    start, stop = span
    while start < stop and text[start].isspace():
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return (start, stop) if start < stop else None


def _split_block(
    text: str, block: _Block, size: int, measure: Measure
) -> list[TextSegment]:
    """Split a block that is too large: tables by rows with repeated header, code by
    lines, text by sentences."""
    if block.kind == "table":
        return _split_table(text, block, size, measure)
    if block.kind == "code":
        units: Iterable[Span] = _split_at(
            text,
            (block.start, block.stop),
            "\n",
        )
    else:
        units = sentences(text, block.start, block.stop)
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
    text: str, block: _Block, size: int, measure: Measure
) -> list[TextSegment]:
    """Split a table that is too large by rows, repeating its header in each part.

    Without a delimiter row the table has no header to repeat. A segment's positions are
    those of its own rows; only the first one's include the header.
    """
    rows = [
        row_span
        for row_span in _split_at(
            text,
            (block.start, block.stop),
            "\n",
        )
        if row_span[0] < row_span[1]
    ]
    # A Markdown table has a delimiter row after its header.
    has_rule = len(rows) > 2 and set(text[rows[1][0] : rows[1][1]]) <= set("|-: ")
    head = text[rows[0][0] : rows[1][1]] if has_rule else ""
    # The repeated header reduces the space for rows.
    room = max(1, size - measure(head))
    cut = _merge_spans(
        text,
        rows[2:] if has_rule else rows,
        room,
        0,
        measure,
    )
    text_segments: list[TextSegment] = []
    for start, stop in cut:
        if not text_segments:
            text_segments.append(_text_segment(text, (block.start, stop)))
            continue
        body = text[start:stop]
        text_segments.append(
            TextSegment(
                start,
                stop,
                f"{head}\n{body}" if head else body,
            )
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
    """Extend each segment, in place, by the last sentences of the one before it.

    Whole sentences are taken, up to the rule's overlap in units of `measure`. Parts of
    a table with a repeated header stay as they are.
    """
    if not rule.chunk_overlap:
        return text_segments
    for previous, text_segment in pairwise(text_segments):
        # Parts of a table with a repeated header are not extended.
        if not _is_plain(text, text_segment):
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
    headings = _HeadingPaths(text)
    for text_segment in text_segments:
        text_segment.heading = headings.at(text_segment.start)
        for child in text_segment.children:
            child.heading = headings.at(child.start)


class _HeadingPaths:
    """The headings of a text with the path of the headings above each."""

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._paths: list[str] = []
        path: list[tuple[int, str]] = []
        for block in parse_blocks(text):
            if block.kind != "heading":
                continue
            title = text[block.start : block.stop].strip().lstrip("#").strip()
            # A heading closes all headings of the same or a deeper level.
            path = [ancestor for ancestor in path if ancestor[0] < block.level]
            path.append((block.level, title))
            self._starts.append(block.start)
            self._paths.append(" › ".join(name for _, name in path))

    def at(self, position: int) -> str:
        """Return the path of the last heading at or before a position; "" before the
        first heading."""
        heading_index = bisect_right(self._starts, position) - 1
        return self._paths[heading_index] if heading_index >= 0 else ""
