"""Separates reasoning between `<think>` and `</think>` from the answer text. No I/O."""

import re

# Attributes and spaces are bounded, so that a search stays linear in a text with many
# unfinished tags.
_OPEN = re.compile(r"<think(?:\s[^<>]{0,400})?>", re.IGNORECASE)
# Some models write blanks within the tag.
_CLOSE = re.compile(r"</think\s{0,40}>", re.IGNORECASE)
# These match a tag that is cut off at the end of the text received so far.
_MAY_OPEN = re.compile(
    r"<(?:t(?:h(?:i(?:n(?:k(?:\s[^<>]{0,400})?)?)?)?)?)?$", re.IGNORECASE
)
_MAY_CLOSE = re.compile(
    r"<(?:/(?:t(?:h(?:i(?:n(?:k\s{0,40})?)?)?)?)?)?$", re.IGNORECASE
)
# Where reasoning was taken out, the blank lines before and after it remain.
_EMPTY_LINES = re.compile(r"\n{3,}")


class ThinkFilter:
    """Splits the chunks of a text into (reasoning, answer). Only text that may become a
    tag is held back."""

    def __init__(self) -> None:
        self._buffer = ""
        self._is_inside = False
        self._has_text = False

    def feed(self, chunk: str) -> tuple[str, str]:
        """Return the (reasoning, answer) text that is certain after this chunk."""
        self._buffer += chunk
        thought: list[str] = []
        text_parts: list[str] = []
        while self._buffer:
            pattern, partial_pattern = (
                (_CLOSE, _MAY_CLOSE) if self._is_inside else (_OPEN, _MAY_OPEN)
            )
            # A complete tag: everything before it is certain.
            if match := pattern.search(self._buffer):
                self._put(
                    self._buffer[: match.start()],
                    thought,
                    text_parts,
                )
                self._buffer = self._buffer[match.end() :]
                self._is_inside = not self._is_inside
                if not self._is_inside:
                    # Each thought starts on a new line.
                    thought.append("\n")
                continue
            # The end of the buffer may be the start of a tag: keep it for the next
            # chunk.
            partly = partial_pattern.search(self._buffer)
            keep = partly.start() if partly else len(self._buffer)
            self._put(
                self._buffer[:keep],
                thought,
                text_parts,
            )
            self._buffer = self._buffer[keep:]
            break
        return "".join(thought), "".join(text_parts)

    @property
    def is_open(self) -> bool:
        """Whether the reasoning has not ended."""
        return self._is_inside

    def finish(self) -> tuple[str, str]:
        """Return the text that was held back. Reasoning without a closing tag counts as
        reasoning."""
        # What looked like the start of a tag was text: no more can follow.
        buffered, self._buffer = self._buffer, ""
        return (buffered, "") if self._is_inside else ("", buffered)

    def _put(self, text: str, thought: list[str], text_parts: list[str]) -> None:
        """Append text to the reasoning or to the answer; the answer does not start with
        blank lines."""
        if self._is_inside:
            thought.append(text)
            return
        # Models often start their answer with blank lines after the reasoning.
        if not self._has_text:
            text = text.lstrip()
        if text:
            self._has_text = True
            text_parts.append(text)


def split_thinking(text: str) -> tuple[str, str]:
    """Return (reasoning, answer) of a complete text. If all of it is reasoning that
    does not end, it is the answer: the model has forgotten to close the tag."""
    # Without an angle bracket there cannot be a tag.
    if "<" not in text:
        return "", _EMPTY_LINES.sub("\n\n", text).strip()
    filter_ = ThinkFilter()
    thought, answer_text = filter_.feed(text)
    # An unclosed tag or a partial one is still in the buffer.
    last_thought, last_text = filter_.finish()
    thought, answer = (thought + last_thought).strip(), answer_text + last_text
    if filter_.is_open and not answer.strip():
        thought, answer = "", thought
    return thought, _EMPTY_LINES.sub("\n\n", answer).strip()
