"""What a vendor's prompt cache would read of a request.

A prompt is a list of blocks in the order in which the vendor processes them. Tokens
are estimated from the length of the text, since only ratios are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

_CHARACTERS_PER_TOKEN = 4


def tokens_of(text: str) -> int:
    """Return about how many tokens a text has."""
    return len(text) // _CHARACTERS_PER_TOKEN


@dataclass
class CacheUse:
    """The tokens of a prompt: all of them, those read, and those written."""

    total: int = 0
    read: int = 0
    written: int = 0

    def add(self, other: "CacheUse") -> None:
        """Add the tokens of another prompt."""
        self.total += other.total
        self.read += other.read
        self.written += other.written


@dataclass
class PrefixCache:
    """A cache of automatic prefixes, as OpenAI's and Google's: whatever an earlier
    request began with alike is read, in steps of 128 tokens from 1,024 on."""

    least: int = 1024
    step: int = 128
    _prompts: list[str] = field(default_factory=list[str])

    def use(self, blocks: Sequence[str]) -> CacheUse:
        """Return what is read of a prompt, and remember it."""
        prompt = "".join(blocks)
        common = max((_common(prompt, each) for each in self._prompts), default=0)
        self._prompts.append(prompt)
        read = tokens_of(prompt[:common]) // self.step * self.step
        return CacheUse(tokens_of(prompt), read if read >= self.least else 0)


def _common(first: str, second: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass
class MarkedCache:
    """A cache of marked prefixes, as Anthropic's: a prefix is written up to each mark,
    and read if it ends at most twenty blocks before a mark of a later request."""

    least: int = 1024
    lookback: int = 20
    _prefixes: set[str] = field(default_factory=set[str])

    def use(self, blocks: Sequence[str], marks: Sequence[int]) -> CacheUse:
        """Return what is read and written of a prompt. `marks` are the indexes of the
        marked blocks."""
        read_blocks = 0
        for mark in marks:
            for index in range(mark, max(-1, mark - self.lookback), -1):
                if "".join(blocks[: index + 1]) in self._prefixes:
                    read_blocks = max(read_blocks, index + 1)
                    break
        read = tokens_of("".join(blocks[:read_blocks]))
        for mark in marks:
            prefix = "".join(blocks[: mark + 1])
            if tokens_of(prefix) >= self.least:
                self._prefixes.add(prefix)
        marked = tokens_of("".join(blocks[: max(marks) + 1])) if marks else 0
        return CacheUse(tokens_of("".join(blocks)), read, max(marked - read, 0))
