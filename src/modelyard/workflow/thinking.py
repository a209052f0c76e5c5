"""Thoughts between `<think>` and `</think>`, wherever they stand in a text, told apart from what is said. Pure."""

import re

_OPEN = re.compile(r"<think(?:\s[^<>]{0,400})?>", re.IGNORECASE)
_CLOSE = re.compile(r"</think\s{0,40}>", re.IGNORECASE)
_MAY_OPEN = re.compile(r"<(?:t(?:h(?:i(?:n(?:k(?:\s[^<>]{0,400})?)?)?)?)?)?$", re.IGNORECASE)
_MAY_CLOSE = re.compile(r"<(?:/(?:t(?:h(?:i(?:n(?:k\s{0,40})?)?)?)?)?)?$", re.IGNORECASE)
_EMPTY_LINES = re.compile(r"\n{3,}")


class ThinkFilter:
    """Takes the pieces of one text; gives back (thought, said). Only what may still become a tag is held back."""

    def __init__(self) -> None:
        self._held = ""
        self._is_inside = False
        self._has_said = False

    def feed(self, piece: str) -> tuple[str, str]:
        self._held += piece
        thought: list[str] = []
        said: list[str] = []
        while self._held:
            pattern, may = (_CLOSE, _MAY_CLOSE) if self._is_inside else (_OPEN, _MAY_OPEN)
            if match := pattern.search(self._held):
                self._put(self._held[: match.start()], thought, said)
                self._held = self._held[match.end() :]
                self._is_inside = not self._is_inside
                if not self._is_inside:
                    thought.append("\n")  # several thoughts stand on lines of their own
                continue
            partly = may.search(self._held)
            keep = partly.start() if partly else len(self._held)
            self._put(self._held[:keep], thought, said)
            self._held = self._held[keep:]
            break
        return "".join(thought), "".join(said)

    def finish(self) -> tuple[str, str]:
        """What was held back. A thought that was never closed is one all the same."""
        held, self._held = self._held, ""
        return (held, "") if self._is_inside else ("", held)

    def _put(self, text: str, thought: list[str], said: list[str]) -> None:
        if self._is_inside:
            thought.append(text)
            return
        if not self._has_said:
            text = text.lstrip()
        if text:
            self._has_said = True
            said.append(text)


def separated(text: str) -> tuple[str, str]:
    """(thoughts, text) of a whole answer."""
    if "<" not in text:
        return "", _EMPTY_LINES.sub("\n\n", text).strip()
    filter_ = ThinkFilter()
    thought, said = filter_.feed(text)
    more, rest = filter_.finish()
    return (thought + more).strip(), _EMPTY_LINES.sub("\n\n", said + rest).strip()
