"""JSON that is nearly JSON, as models write it: mended where that takes little, never at any price.

The mender reads back and forth: on a hostile text its time grows with the square of the length, and a tool call of
61 kB kept a process busy for over a minute. Every character that it looks at is counted here, and a text that takes too
many is left as it is.
"""

from functools import cache
from typing import Any, SupportsIndex

MOST_CHARACTERS = 64 << 10
_MOST_LOOKS = 100_000


class NotMendedError(ValueError):
    """The text is too long, too deep or too broken."""


def mended(text: str) -> Any:
    """What a nearly-JSON text means. Raises NotMendedError, ImportError where the mender is not installed."""
    if len(text) > MOST_CHARACTERS:
        raise NotMendedError(f"{len(text):,} characters that are no JSON; at most {MOST_CHARACTERS:,} are mended")
    try:
        return _parser()(text, None, False, try_valid_json_suffix=True).parse()
    except NotMendedError:
        raise
    except (ValueError, RecursionError, IndexError) as error:
        raise NotMendedError(f"it is no JSON and cannot be mended: {str(error)[:200]}") from error


class _Counted(str):
    """A text that counts how much of it is read, and stops whoever reads too much."""

    __slots__ = ("looks",)
    looks: list[int]

    def _spend(self, looks: int) -> None:
        self.looks[0] -= looks
        if self.looks[0] < 0:
            raise NotMendedError("it is too broken to be mended")

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        found = str.__getitem__(self, key)
        self._spend(1 + len(found) // 32)
        return found

    def __iter__(self) -> Any:
        self._spend(len(self))
        return str.__iter__(self)

    def find(self, *given: Any) -> int:
        found = str.find(self, *given)
        start = given[1] if len(given) > 1 else 0
        self._spend(1 + ((found if found >= 0 else len(self)) - start) // 32)
        return found


@cache
def _parser() -> Any:
    from json_repair.json_parser import JSONParser

    base: Any = JSONParser

    class Parser(base):
        def __init__(self, text: str, *given: Any, **more: Any) -> None:
            self._looks = [_MOST_LOOKS]
            super().__init__(text, *given, **more)

        @property
        def json_str(self) -> str:
            return self._text

        @json_str.setter
        def json_str(self, text: Any) -> None:
            self._looks[0] -= len(text) // 32  # it was written anew
            self._text = _Counted(text)
            self._text.looks = self._looks

    return Parser
