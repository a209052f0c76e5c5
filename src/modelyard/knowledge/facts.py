"""Whether what was answered is in the sources: each sentence by its words, and, where wanted, by a model's judgement.

By words, a sentence is supported as far as some place of the sources says the same: its words, weighed by how rare they
are in the sources, within a window of a few sentences; every number of it must be there; and where one side denies and
the other does not, it is not supported. That is cheap, explains itself, and errs on the side of doubt.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from modelyard.knowledge.analysis import terms
from modelyard.knowledge.split import sentences

SUPPORTED = 0.7
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_MARK = re.compile(r"(?<!\s)\s*+\[(?:\d++(?:\s*+,\s*+\d++)*+)\]")
_DENIAL = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|without|cannot|neither|nor)\b|n['’]t\b|不|没|無|无|非", re.IGNORECASE
)
_EMPTY = re.compile(r"^(?:yes|no|sure|okay|of course|certainly)[.,!]?$", re.IGNORECASE)
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_WORDS_OF_NUMBERS = {word: str(at) for at, word in enumerate(_NUMBERS.split(" "))}
_WORD = re.compile(r"[A-Za-z]+")
_WINDOW = 2  # sentences of a source that may together say what one sentence of an answer says


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A sentence of an answer, and what the sources say of it."""

    text: str
    start: int
    stop: int
    """Characters of the answer."""
    score: float
    """0 to 1."""
    is_supported: bool
    source: int
    """Place in the sources of what says it best; -1 where there is nothing."""
    quote: str = ""
    """What that says."""
    reason: str = ""


class Judge(Protocol):
    async def entails(self, source: str, claim: str) -> bool | None:
        """Whether the source says so; None where it cannot be told."""
        ...


def plain(text: str) -> str:
    """Without marks of citations."""
    return _MARK.sub("", text)


def claims_of(answer: str) -> list[tuple[int, int, str]]:
    """Sentences of an answer that say something: (start, stop, text without marks)."""
    found: list[tuple[int, int, str]] = []
    for start, stop in sentences(answer, 0, len(answer)):
        text = plain(answer[start:stop]).strip().lstrip("-*•# ").strip()
        if (len(terms(text)) >= 2 and not _EMPTY.match(text)) or (text and _NUMBER.search(text)):
            found.append((start, stop, text))
    return found


def check(answer: str, sources: Sequence[str], *, question: str = "") -> list[Claim]:
    """Each sentence beside the sources. Words of the question need no source: an answer repeats them."""
    windows = [(place, text) for place, source in enumerate(sources) for text in _windows(source)]
    known = [Counter(terms(_digits(text))) for _, text in windows]
    counts: Counter[int] = Counter()
    for one in known:
        counts.update(one.keys())
    asked = set(terms(_digits(question)))

    def weight(term: int) -> float:
        return math.log(1 + (len(windows) + 0.5) / (counts.get(term, 0) + 0.5)) * (0.25 if term in asked else 1.0)

    found: list[Claim] = []
    for start, stop, text in claims_of(answer):
        wanted = set(terms(_digits(text)))
        whole = sum(map(weight, wanted)) or 1.0
        best, at = 0.0, -1
        for place, held in enumerate(known):
            score = sum(weight(term) for term in wanted if term in held) / whole
            if score > best:
                best, at = score, place
        reason = "" if at >= 0 else "nothing in the sources speaks of it"
        if at >= 0:
            best, reason = _doubted(text, windows[at][1], sources[windows[at][0]], best)
        found.append(Claim(
            text=text, start=start, stop=stop, score=round(best, 3), is_supported=best >= SUPPORTED,
            source=windows[at][0] if at >= 0 else -1, quote=windows[at][1].strip() if at >= 0 else "",
            reason=reason or ("" if best >= SUPPORTED else "the sources say something else"),
        ))  # fmt: skip
    return found


def _windows(source: str) -> list[str]:
    spans = [one for one in sentences(source, 0, len(source)) if source[one[0] : one[1]].strip()]
    return [source[spans[at][0] : spans[min(at + _WINDOW, len(spans)) - 1][1]] for at in range(len(spans))]


def _digits(text: str) -> str:
    """Small numbers in digits, however they are written."""
    return _WORD.sub(lambda match: _WORDS_OF_NUMBERS.get(match[0].lower(), match[0]), text)


def numbers_of(text: str) -> set[str]:
    """Numbers in one way of writing them."""
    found = {one.replace(",", "").rstrip(".:") for one in _NUMBER.findall(text)}
    return found | {
        _WORDS_OF_NUMBERS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _WORDS_OF_NUMBERS
    }


def _doubted(claim: str, quote: str, source: str, score: float) -> tuple[float, str]:
    """The score after what words alone do not show, and why it fell."""
    missing = numbers_of(claim) - numbers_of(quote)
    if missing and missing - numbers_of(source):
        return min(score, 0.2), f"the sources do not say {', '.join(sorted(missing - numbers_of(source)))}"
    if missing:
        return min(score, 0.5), f"the sources say {', '.join(sorted(missing))} of something else"
    if bool(_DENIAL.search(claim)) != bool(_DENIAL.search(_nearest(claim, quote))):
        return min(score, 0.4), "one of the two denies it"
    return score, ""


def _nearest(claim: str, quote: str) -> str:
    """The sentence that shares most words with it."""
    wanted = set(terms(claim))
    spans = [quote[start:stop] for start, stop in sentences(quote, 0, len(quote))]
    return max(spans, key=lambda one: len(wanted & set(terms(one))), default=quote)


async def judged(claims: Sequence[Claim], sources: Sequence[str], judge: Judge) -> list[Claim]:
    """The same with a model's say: a sentence stands where words and model agree, or where the model cannot tell."""
    found: list[Claim] = []
    for one in claims:
        verdict = await judge.entails(sources[one.source], one.text) if one.source >= 0 else None
        if verdict is None:
            found.append(one)
            continue
        score = round((one.score + float(verdict)) / 2, 3)
        reason = one.reason or ("" if verdict else "a model reads the source otherwise")
        found.append(Claim(
            text=one.text, start=one.start, stop=one.stop, score=score, is_supported=one.is_supported and verdict,
            source=one.source, quote=one.quote, reason=reason,
        ))  # fmt: skip
    return found
