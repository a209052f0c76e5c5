"""Answers out of documents: a context within a budget, a model's answer as it comes, citations that point to document,
page and characters; and a plain word where the documents do not say."""

import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from modelyard.base.errors import ModelyardError
from modelyard.knowledge import facts
from modelyard.knowledge.entities import Hit, RetrievalSettings
from modelyard.knowledge.facts import Claim
from modelyard.knowledge.retrieve import Asking, Reranker, Retrieval, Retriever
from modelyard.knowledge.split import sentences
from modelyard.models.tokens import estimate_tokens

NOT_FOUND = {"en": "The documents do not say.", "zh": "文档中没有相关内容。"}
PROMPT = (
    "Answer the question from the sources below and from nothing else, in the question's language, in one to three "
    "sentences. After each sentence name the source that says it by its number, as [1]. If the sources do not answer "
    "the question, write only: {not_found}\n\nSources:\n{context}\n\nQuestion: {question}\nAnswer:"
)
_SENTENCES = 60
_JUDGE = (
    "Does the source say that the statement is true? Answer with yes or no alone.\n\nSource: {source}\n\n"
    "Statement: {claim}\nAnswer:"
)
_MARKS = re.compile(r"\[(\d+(?:\s*,\s*\d+)*)\]")
_HAN = re.compile(r"[\u3400-\u9fff]")
_NOTHING = re.compile(
    r"(?:documents?|sources?) do(?:es)? not (?:say|mention|contain|provide|answer)|"
    r"not (?:mentioned|found|provided|specified|stated) in the|no information|文档中没有|没有提到|无法回答|未提及",
    re.IGNORECASE,
)


class Talker(Protocol):
    """A model that answers as it goes."""

    def talk(self, tenant: str, model: str, prompt: str) -> AsyncGenerator[str, None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    number: int
    document: str
    document_name: str
    segment: str
    page: int
    start: int
    stop: int
    """Characters of the document's text."""
    score: float
    text: str
    heading: str = ""
    dataset: str = ""
    source: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Context:
    text: str
    citations: list[Citation]
    tokens: int
    left_out: int
    """Hits that did not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextBuilder:
    """Hits as one text for a model, each with its number, best first unless said otherwise."""

    most_tokens: int = 2000
    order: Literal["score", "document", "ends"] = "score"
    """`document` as they stand in their documents; `ends` puts the best first and last, where models look most."""
    shows_metadata: bool = True
    least_tokens: int = 40
    """What is left of a hit that is cut must have so many; else it is left out."""

    def build(self, hits: Sequence[Hit]) -> Context:
        kept: list[tuple[Hit, str, int]] = []
        used = 0
        for hit in hits:
            head = self._head(hit)
            room = self.most_tokens - used - estimate_tokens(head) - 6
            text, stop = hit.text, hit.segment.stop
            if estimate_tokens(text) > room:
                text = cut(text, room)
                stop = hit.segment.start + len(text)
                if not text or estimate_tokens(text) < self.least_tokens:
                    continue
            kept.append((hit, text, stop))
            used += estimate_tokens(text) + estimate_tokens(head) + 6
        ordered = self._ordered(kept)
        citations = [self._citation(at + 1, *one) for at, one in enumerate(ordered)]
        lines = [f"[{at + 1}] {self._head(hit)}\n{text}" for at, (hit, text, _) in enumerate(ordered)]
        return Context("\n\n".join(lines), citations, used, len(hits) - len(kept))

    def _head(self, hit: Hit) -> str:
        if not self.shows_metadata:
            return ""
        page = f", page {hit.segment.page}" if hit.segment.page else ""
        heading = f": {hit.segment.heading}" if hit.segment.heading else ""
        return f"{hit.document.name or hit.title}{page}{heading}"

    def _ordered(self, kept: list[tuple[Hit, str, int]]) -> list[tuple[Hit, str, int]]:
        if self.order == "document":
            return sorted(kept, key=lambda one: (one[0].document.position, one[0].segment.position))
        return [*kept[::2], *kept[1::2][::-1]] if self.order == "ends" else kept

    @staticmethod
    def _citation(number: int, hit: Hit, text: str, stop: int) -> Citation:
        one = hit.segment
        return Citation(
            number=number, document=hit.document.id, document_name=hit.document.name or hit.title, segment=one.id,
            page=one.page, start=one.start, stop=stop, score=round(hit.score, 4), text=text, heading=one.heading,
            dataset=hit.dataset.id,
            source={key: value for key, value in hit.document.source.items() if key in ("url", "path")},
        )  # fmt: skip


def cut(text: str, tokens: int) -> str:
    """As many whole sentences from the beginning as fit."""
    kept = 0
    for start, stop in sentences(text, 0, len(text)):
        del start
        if estimate_tokens(text[:stop]) > tokens:
            break
        kept = stop
    return text[:kept].rstrip()


@dataclass(slots=True, kw_only=True)
class Answer:
    text: str = ""
    citations: list[Citation] = field(default_factory=list[Citation])
    """Those that the answer rests on."""
    sources: list[Citation] = field(default_factory=list[Citation])
    """All that the model was shown."""
    is_found: bool = True
    """False where the documents do not say."""
    claims: list[Claim] = field(default_factory=list[Claim])
    notes: list[str] = field(default_factory=list[str])
    milliseconds: dict[str, float] = field(default_factory=dict[str, float])


Event = tuple[Literal["sources", "text", "answer"], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How questions are answered."""

    model: str = "default"
    prompt: str = PROMPT
    """With {context}, {question} and {not_found} in it."""
    context: ContextBuilder = ContextBuilder()
    least_relevance: float = 0.05
    """What a rerank model must say of the best segment, or of the best sentence of one; else the documents do not say,
    and no model is asked."""
    least_words: float = 0.15
    """The same where there is no rerank model: of how much of the question's words is there."""
    quotes_from: float = 0.5
    """Where the rerank model is so sure of a sentence and the answering model says that there is nothing, the sentence
    is the answer. Small models give up too early."""
    checks: Literal["off", "words", "model"] = "words"
    """Hold each sentence against the sources: by its words, or by a model's judgement too."""
    drops_unsupported: bool = False
    """Leave out sentences that nothing supports."""
    safety: Callable[[str], str] | None = None
    """Says why a source must not be shown to a model; nothing where it may."""


class Answerer:
    def __init__(
        self, retriever: Retriever, talker: Talker, judge: Any = None, reranker: Reranker | None = None
    ) -> None:
        self._retriever = retriever
        self._talker = talker
        self._judge = judge
        self._reranker = reranker

    async def ask(self, datasets: Sequence[str], asked: Asking, manner: Manner | None = None) -> Answer:
        """The whole answer."""
        async with aclosing(self.stream(datasets, asked, manner)) as events:
            async for kind, value in events:
                if kind == "answer":
                    return value
        raise AssertionError("unreachable: a stream ends with its answer")

    async def stream(
        self, datasets: Sequence[str], asked: Asking, manner: Manner | None = None
    ) -> AsyncGenerator[Event, None]:
        """`sources` as soon as there are any, `text` piece by piece, and `answer` at the end."""
        manner = manner or Manner()
        begun = time.perf_counter()
        settings = asked.settings or RetrievalSettings(top_k=5, reranking_enable=True, rerank_candidates=20)
        found = await self._retriever.search(datasets, replace(asked, settings=settings))
        answer = Answer(notes=list(found.notes), milliseconds=dict(found.milliseconds))
        hits = self._safe(found.hits, manner, answer)
        quoted = await self._best_sentence(hits, asked, settings)
        if not hits or not _is_relevant(hits, quoted, manner, found):
            answer.text, answer.is_found = not_found(asked.query), False
            answer.milliseconds["whole"] = _since(begun)
            yield "text", answer.text
            yield "answer", answer
            return
        context = manner.context.build(hits)
        answer.sources = context.citations
        answer.milliseconds["first_citation"] = _since(begun)
        yield "sources", context.citations
        prompt = (
            manner.prompt.replace("{context}", context.text)
            .replace("{not_found}", not_found(asked.query))
            .replace("{question}", asked.query)
        )
        pieces: list[str] = []
        talking = time.perf_counter()
        async with aclosing(self._talker.talk(asked.tenant, manner.model, prompt)) as talk:
            async for piece in talk:
                if not pieces:
                    answer.milliseconds["first_text"] = _since(begun)
                pieces.append(piece)
                yield "text", piece
        answer.milliseconds["generate"] = _since(talking)
        answer.text = "".join(pieces).strip()
        if _gives_up(answer.text) and quoted is not None and quoted[1] >= manner.quotes_from:
            answer.text = quoted[0]
            answer.notes.append("the model found no answer; the sentence is a quotation")
        await self._checked(answer, asked, manner)
        answer.milliseconds["whole"] = _since(begun)
        yield "answer", answer

    async def _best_sentence(
        self, hits: Sequence[Hit], asked: Asking, settings: RetrievalSettings
    ) -> tuple[str, float] | None:
        """What the rerank model thinks answers best, and how sure it is; None where there is none, or for languages
        that it may not read."""
        model = settings.reranker
        if self._reranker is None or model is None or _HAN.search(asked.query):
            return None
        every = [
            text
            for hit in hits[:3]
            for start, stop in sentences(hit.text, 0, len(hit.text))
            if len(text := hit.text[start:stop].strip()) > 15
        ][:_SENTENCES]
        if not every:
            return None
        try:
            order = await self._reranker.rerank(asked.tenant, model, asked.query, every)
        except ModelyardError:
            return None
        return (every[order[0][0]], order[0][1]) if order else None

    @staticmethod
    def _safe(hits: Sequence[Hit], manner: Manner, answer: Answer) -> list[Hit]:
        if manner.safety is None:
            return list(hits)
        kept: list[Hit] = []
        for one in hits:
            if reason := manner.safety(one.text):
                answer.notes.append(f"a segment of {one.document.name!r} was left out: {reason}")
            else:
                kept.append(one)
        return kept

    async def _checked(self, answer: Answer, asked: Asking, manner: Manner) -> None:
        """What the answer rests on, and whether it does."""
        if _gives_up(answer.text):
            answer.text, answer.is_found, answer.citations = not_found(asked.query), False, []
            return
        checking = time.perf_counter()
        texts = [one.text for one in answer.sources]
        answer.claims = facts.check(answer.text, texts, question=asked.query)
        if manner.checks == "model" and self._judge is not None:
            judge = _Judge(self._judge, asked.tenant, manner.model)
            answer.claims = await facts.judged(answer.claims, texts, judge)
        if manner.drops_unsupported:
            answer.text = _without(answer.text, [one for one in answer.claims if not one.is_supported])
            answer.claims = [one for one in answer.claims if one.is_supported]
            if not answer.text:
                answer.text, answer.is_found = not_found(asked.query), False
        answer.citations = cited(answer.text, answer.claims, answer.sources) if answer.is_found else []
        if manner.checks == "off":
            answer.claims = []
        answer.milliseconds["check"] = _since(checking)


class _Judge:
    """Entailment by asking a model."""

    def __init__(self, writer: Any, tenant: str, model: str) -> None:
        self._writer = writer
        self._tenant = tenant
        self._model = model

    async def entails(self, source: str, claim: str) -> bool | None:
        try:
            told = await self._writer.write(self._tenant, self._model, _JUDGE.format(source=source, claim=claim))
        except ModelyardError:
            return None
        word = told.strip().lower()
        return True if word.startswith(("yes", "是")) else False if word.startswith(("no", "否", "不")) else None


def not_found(question: str) -> str:
    return NOT_FOUND["zh" if _HAN.search(question) else "en"]


def _gives_up(text: str) -> bool:
    return not text or (len(text) < 200 and _NOTHING.search(text) is not None)


def _is_relevant(hits: Sequence[Hit], quoted: tuple[str, float] | None, manner: Manner, found: Retrieval) -> bool:
    """Whether any of it may hold the answer."""
    reranked = [one.scores["rerank"] for one in hits if "rerank" in one.scores]
    if reranked and quoted is not None:
        return max(*reranked, quoted[1]) >= manner.least_relevance
    words = [one.scores["full_text"] for one in hits if "full_text" in one.scores]
    return not words or max(words) >= manner.least_words


def cited(text: str, claims: Sequence[Claim], sources: Sequence[Citation]) -> list[Citation]:
    """The sources that an answer rests on: those that say its sentences, and those that it names and that say some."""
    rests: dict[int, float] = {}
    for one in claims:
        if one.source >= 0:
            rests[one.source] = max(rests.get(one.source, 0.0), one.score)
    named = {int(number) - 1 for match in _MARKS.finditer(text) for number in match[1].split(",")}
    for place in named:
        if 0 <= place < len(sources) and place in rests:
            rests[place] += 0.05  # of equals, the one that the model names
    if not rests:
        fallback = [place for place in sorted(named) if 0 <= place < len(sources)] or [0]
        return [sources[fallback[0]]] if sources else []
    best = max(rests.values())
    return [sources[place] for place in sorted(rests, key=lambda one: -rests[one]) if rests[place] >= best / 2]


def _without(text: str, claims: Sequence[Claim]) -> str:
    for one in sorted(claims, key=lambda each: -each.start):
        text = text[: one.start] + text[one.stop :]
    return text.strip()


def _since(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 2)
