"""Fact check of an answer against its sources: each sentence by its words and,
optionally, by a model's judgement.

By words, a sentence is supported as far as a window of a few source sentences contains
its words, weighted by how rare they are in the sources. All its numbers must occur
there, and a sentence that negates what the source affirms, or the reverse, is not
supported. This is cheap, explainable, and errs on the side of doubt.
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
_CITATION_MARK = re.compile(r"(?<!\s)\s*+\[(?:\d++(?:\s*+,\s*+\d++)*+)\]")
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|without|cannot|neither|nor)\b|n['’]t\b|不|没|無|无|非",
    re.IGNORECASE,
)
_FILLER_SENTENCE = re.compile(
    r"^(?:yes|no|sure|okay|of course|certainly)[.,!]?$", re.IGNORECASE
)
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen"
    " fourteen fifteen sixteen seventeen eighteen nineteen twenty"
)
_NUMBER_WORD_DIGITS = {
    number_word: str(number)
    for number, number_word in enumerate(_NUMBER_WORDS.split(" "))
}
_WORD = re.compile(r"[A-Za-z]+")
# Number of consecutive source sentences that together may support one sentence of the
# answer.
_WINDOW = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A sentence of an answer and how well the sources support it."""

    text: str
    start: int
    stop: int
    """End of the sentence, in characters of the answer."""
    score: float
    """Degree of support, 0 to 1."""
    is_supported: bool
    source: int
    """Index of the best supporting source; -1 if there is none."""
    quote: str = ""
    """The supporting passage of that source."""
    reason: str = ""


class EntailmentModel(Protocol):
    """A model that decides whether a text entails a statement."""

    async def entails(self, source: str, claim: str) -> bool | None:
        """Return whether the source entails the claim; None if undecided."""
        ...


def without_citation_marks(text: str) -> str:
    """Remove citation marks, as `[1]`."""
    return _CITATION_MARK.sub("", text)


def split_claims(answer: str) -> list[tuple[int, int, str]]:
    """Return the sentences of an answer that state something: (start, stop, text
    without citation marks)."""
    claim_spans: list[tuple[int, int, str]] = []
    for start, stop in sentences(answer, 0, len(answer)):
        text = (
            without_citation_marks(answer[start:stop]).strip().lstrip("-*•# ").strip()
        )
        # One-word replies state nothing, unless they contain a number.
        if (len(terms(text)) >= 2 and not _FILLER_SENTENCE.match(text)) or (
            text and _NUMBER.search(text)
        ):
            claim_spans.append((start, stop, text))
    return claim_spans


def check(answer: str, sources: Sequence[str], *, question: str = "") -> list[Claim]:
    """Check each sentence of an answer against the sources by its words.

    Words of `question` count little, as answers repeat them. Returns one claim per
    sentence that states something, with its score, the source that supports it best and
    the quotation found there.
    """
    windows = _SourceWindows(sources, question)
    claims: list[Claim] = []
    for start, stop, text in split_claims(answer):
        window, score = windows.best_match(text)
        source, quote, reason = -1, "", "no source mentions this"
        # Word overlap alone misses wrong numbers and negations.
        if window is not None:
            source, quote = window
            score, reason = _penalise_mismatches(text, quote, sources[source], score)
        is_supported = score >= SUPPORTED
        if not reason and not is_supported:
            reason = "the sources state something else"
        claims.append(
            Claim(
                text=text,
                start=start,
                stop=stop,
                score=round(score, 3),
                is_supported=is_supported,
                source=source,
                quote=quote.strip(),
                reason=reason,
            )
        )
    return claims


class _SourceWindows:
    """All windows of the sources, with the weights of their terms."""

    def __init__(self, sources: Sequence[str], question: str) -> None:
        self._windows = [
            (source_index, text)
            for source_index, source in enumerate(sources)
            for text in _windows(source)
        ]
        self._term_counts = [
            Counter(terms(_numbers_as_digits(text))) for _, text in self._windows
        ]
        # Number of windows that contain each term, for the inverse weights.
        self._frequencies: Counter[int] = Counter()
        for term_counts in self._term_counts:
            self._frequencies.update(term_counts.keys())
        self._question_terms = set(terms(_numbers_as_digits(question)))

    def best_match(self, claim: str) -> tuple[tuple[int, str] | None, float]:
        """Return the window (index of the source, text) that covers a claim's terms
        best, and the weighted share of the terms that it contains.

        The window is None if no window contains any of them.
        """
        weights = {
            term: self._weight(term) for term in set(terms(_numbers_as_digits(claim)))
        }
        total_weight = sum(weights.values()) or 1.0
        best_score, best_window = 0.0, None
        for window, window_terms in zip(self._windows, self._term_counts, strict=True):
            covered_weight = sum(
                weight for term, weight in weights.items() if term in window_terms
            )
            score = covered_weight / total_weight
            if score > best_score:
                best_score, best_window = score, window
        return best_window, best_score

    def _weight(self, term: int) -> float:
        """Return the inverse document frequency of a term, reduced for terms of the
        question."""
        frequency = self._frequencies.get(term, 0)
        weight = math.log(1 + (len(self._windows) + 0.5) / (frequency + 0.5))
        return weight * (0.25 if term in self._question_terms else 1.0)


def _windows(source: str) -> list[str]:
    """Return all windows of a source: each sentence together with the next one.

    Windows overlap; the last one is the last sentence alone. Sentences of white space
    only are ignored.
    """
    spans = [
        span
        for span in sentences(source, 0, len(source))
        if source[span[0] : span[1]].strip()
    ]
    # Windows overlap: each starts one sentence after the previous one.
    return [
        source[spans[index][0] : spans[min(index + _WINDOW, len(spans)) - 1][1]]
        for index in range(len(spans))
    ]


def _numbers_as_digits(text: str) -> str:
    """Replace small number words by digits, so that `three` matches `3`."""
    return _WORD.sub(
        lambda match: _NUMBER_WORD_DIGITS.get(match[0].lower(), match[0]), text
    )


def normalised_numbers(text: str) -> set[str]:
    """Return the numbers in a text in one notation, including small number words."""
    numbers = {number.replace(",", "").rstrip(".:") for number in _NUMBER.findall(text)}
    return numbers | {
        _NUMBER_WORD_DIGITS[number_word]
        for number_word in re.findall(r"[a-z]+", text.lower())
        if number_word in _NUMBER_WORD_DIGITS
    }


def _penalise_mismatches(
    claim: str, quote: str, source: str, score: float
) -> tuple[float, str]:
    """Lower a word-based score for wrong numbers or a mismatched negation. Returns the
    score and the reason."""
    missing = normalised_numbers(claim) - normalised_numbers(quote)
    # A number that no part of the source contains is the stronger sign of an error.
    if missing and missing - normalised_numbers(source):
        return (
            min(score, 0.2),
            (
                "not in the sources:"
                f" {', '.join(sorted(missing - normalised_numbers(source)))}"
            ),
        )
    if missing:
        return (
            min(score, 0.5),
            f"the sources use {', '.join(sorted(missing))} in another context",
        )
    if bool(_NEGATION.search(claim)) != bool(
        _NEGATION.search(_closest_sentence(claim, quote))
    ):
        return min(score, 0.4), "either the statement or the source is a negation"
    return score, ""


def _closest_sentence(claim: str, quote: str) -> str:
    """Return the sentence of the quote that shares the most terms with the claim."""
    claim_terms = set(terms(claim))
    spans = [quote[start:stop] for start, stop in sentences(quote, 0, len(quote))]
    return max(
        spans,
        key=lambda sentence: len(claim_terms & set(terms(sentence))),
        default=quote,
    )


async def combine_with_entailment(
    claims: Sequence[Claim], sources: Sequence[str], judge: EntailmentModel
) -> list[Claim]:
    """Combine the word-based check with a model's judgement.

    A sentence is supported if both agree. If the model is undecided, the word-based
    result stands.
    """
    judged_claims: list[Claim] = []
    for claim in claims:
        verdict = (
            await judge.entails(sources[claim.source], claim.text)
            if claim.source >= 0
            else None
        )
        if verdict is None:
            judged_claims.append(claim)
            continue
        # The mean of both, with the verdict as 0 or 1.
        score = round((claim.score + float(verdict)) / 2, 3)
        reason = claim.reason or (
            "" if verdict else "the model does not confirm it from the source"
        )
        judged_claims.append(
            Claim(
                text=claim.text,
                start=claim.start,
                stop=claim.stop,
                score=score,
                is_supported=claim.is_supported and verdict,
                source=claim.source,
                quote=claim.quote,
                reason=reason,
            )
        )
    return judged_claims
