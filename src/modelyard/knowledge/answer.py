"""Answers from documents: a context within a token budget, a streamed model answer,
citations that point to document, page and character range, and a fixed reply if the
documents do not contain the answer."""

import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from modelyard.base.errors import ModelyardError
from modelyard.knowledge import fact_check
from modelyard.knowledge.entities import Hit, RetrievalSettings
from modelyard.knowledge.fact_check import Claim
from modelyard.knowledge.retrieve import Reranker, Retrieval, Retriever, SearchRequest
from modelyard.knowledge.split import sentences
from modelyard.models.tokens import estimate_tokens

NOT_FOUND = {"en": "The documents do not say.", "zh": "文档中没有相关内容。"}
PROMPT = (
    "Answer the question from the sources below and from nothing else, in the"
    " question's language, in one to three sentences. After each sentence name the"
    " source that says it by its number, as [1]. If the sources do not answer the"
    " question, write only: {not_found}\n\nSources:\n{context}\n\nQuestion:"
    " {question}\nAnswer:"
)
_MAX_SENTENCES = 60
_ENTAILMENT_PROMPT = (
    "Does the source say that the statement is true? Answer with yes or no"
    " alone.\n\nSource: {source}\n\nStatement: {claim}\nAnswer:"
)
_CITATION_MARKS = re.compile(r"\[(\d+(?:\s*,\s*\d+)*)\]")
_HAN = re.compile(r"[\u3400-\u9fff]")
_NOT_FOUND_REPLY = re.compile(
    r"(?:documents?|sources?) do(?:es)? not (?:say|mention|contain|provide|answer)|"
    r"not (?:mentioned|found|provided|specified|stated) in the|no"
    r" information|文档中没有|没有提到|无法回答|未提及",
    re.IGNORECASE,
)


class ChatModel(Protocol):
    """A chat model that streams its answer."""

    def stream_reply(
        self, tenant: str, model: str, prompt: str
    ) -> AsyncGenerator[str, None]:
        """Stream the model's answer to a prompt as text chunks. Raises ModelyardError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A cited source: the segment, and its position in the document."""

    number: int
    document: str
    document_name: str
    segment: str
    page: int
    start: int
    stop: int
    """End of the cited range, in characters of the document's text."""
    score: float
    text: str
    heading: str = ""
    dataset: str = ""
    source: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Context:
    """The sources as prompt text, and the citations they are numbered by."""

    text: str
    citations: list[Citation]
    tokens: int
    omitted_count: int
    """Number of hits that did not fit into the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextBuilder:
    """Builds the numbered source text of a prompt from hits, in the configured order."""

    max_tokens: int = 2000
    order: Literal["score", "document", "ends"] = "score"
    """`score` is best first; `document` is reading order; `ends` puts the best hits
    first and last, where models attend most."""
    shows_metadata: bool = True
    min_tokens: int = 40
    """A truncated hit is left out if fewer tokens of it would remain."""

    def build(self, hits: Sequence[Hit]) -> Context:
        """Build the prompt context from hits, best first, within `max_tokens`.

        A hit that does not fit is cut at the end of a sentence, and omitted if less
        than `min_tokens` remain. Omitted hits are counted in the result; sources are
        numbered from 1 in the final order.
        """
        selected: list[tuple[Hit, str, int]] = []
        used = 0
        for hit in hits:
            head = self._source_heading(hit)
            # Six tokens are reserved for the source's number and the line breaks around
            # it.
            room = self.max_tokens - used - estimate_tokens(head) - 6
            text, stop = hit.text, hit.segment.stop
            # A hit that does not fit is truncated at a sentence; a later, shorter one
            # may still fit as a whole.
            if estimate_tokens(text) > room:
                text = truncate_to_tokens(text, room)
                stop = hit.segment.start + len(text)
                if not text or estimate_tokens(text) < self.min_tokens:
                    continue
            selected.append((hit, text, stop))
            used += estimate_tokens(text) + estimate_tokens(head) + 6
        ordered = self._ordered(selected)
        citations = [
            self._citation(index + 1, *excerpt) for index, excerpt in enumerate(ordered)
        ]
        lines = [
            f"[{index + 1}] {self._source_heading(hit)}\n{text}"
            for index, (hit, text, _) in enumerate(ordered)
        ]
        return Context("\n\n".join(lines), citations, used, len(hits) - len(selected))

    def _source_heading(self, hit: Hit) -> str:
        """Return the line above a source in the prompt: document, page and heading.

        The page and the heading are left out if unknown. Empty if `shows_metadata` is
        off.
        """
        if not self.shows_metadata:
            return ""
        page = f", page {hit.segment.page}" if hit.segment.page else ""
        heading = f": {hit.segment.heading}" if hit.segment.heading else ""
        return f"{hit.document.name or hit.title}{page}{heading}"

    def _ordered(
        self, excerpts: list[tuple[Hit, str, int]]
    ) -> list[tuple[Hit, str, int]]:
        """Arrange the selected excerpts, given best first, as `order` demands.

        `document` sorts by position in the documents; `ends` puts the best ones at the
        beginning and the end and the weakest in the middle; `score` leaves the order as
        it is.
        """
        if self.order == "document":
            return sorted(
                excerpts,
                key=lambda excerpt: (
                    excerpt[0].document.position,
                    excerpt[0].segment.position,
                ),
            )
        # Even ranks in order, then odd ranks reversed: relevance falls towards the
        # middle.
        return (
            [*excerpts[::2], *excerpts[1::2][::-1]]
            if self.order == "ends"
            else excerpts
        )

    @staticmethod
    def _citation(number: int, hit: Hit, text: str, stop: int) -> Citation:
        """Return the citation of an excerpt; `stop` is its end in the document.

        Of the document's source only the URL and the path are included.
        """
        segment = hit.segment
        return Citation(
            number=number,
            document=hit.document.id,
            document_name=hit.document.name or hit.title,
            segment=segment.id,
            page=segment.page,
            start=segment.start,
            stop=stop,
            score=round(hit.score, 4),
            text=text,
            heading=segment.heading,
            dataset=hit.dataset.id,
            source={
                key: value
                for key, value in hit.document.source.items()
                if key in ("url", "path")
            },
        )


def truncate_to_tokens(text: str, tokens: int) -> str:
    """Truncate a text to at most `tokens` tokens, at the end of a sentence.

    Returns an empty text if not even the first sentence fits.
    """
    cut_position = 0
    for start, stop in sentences(text, 0, len(text)):
        del start
        if estimate_tokens(text[:stop]) > tokens:
            break
        cut_position = stop
    return text[:cut_position].rstrip()


@dataclass(slots=True, kw_only=True)
class Answer:
    """An answer with its citations, its checked claims and its timings."""

    text: str = ""
    citations: list[Citation] = field(default_factory=list[Citation])
    """The citations that support the answer."""
    sources: list[Citation] = field(default_factory=list[Citation])
    """All sources that were in the prompt."""
    is_found: bool = True
    """False if the documents do not contain the answer."""
    is_quotation: bool = False
    """The model found no answer; the text is a sentence of a source instead."""
    claims: list[Claim] = field(default_factory=list[Claim])
    notes: list[str] = field(default_factory=list[str])
    milliseconds: dict[str, float] = field(default_factory=dict[str, float])


Event = tuple[Literal["sources", "text", "answer"], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """Options for answering a question."""

    model: str = "default"
    prompt: str = PROMPT
    """The prompt template, with the placeholders {context}, {question} and {not_found}.
    """
    context: ContextBuilder = ContextBuilder()
    min_rerank_score: float = 0.05
    """Minimum rerank score, 0 to 1, of the best segment or its best sentence. Below it
    the answer is "not found" without a model call."""
    min_term_share: float = 0.15
    """The same minimum without a rerank model: the share of the question's terms that
    the best hit contains."""
    min_quote_score: float = 0.5
    """If the model declines to answer, but the rerank score of the best sentence
    reaches this, the sentence is quoted as the answer. Small models decline too
    readily."""
    checks: Literal["off", "words", "model"] = "words"
    """How each sentence is checked against the sources: not at all, by its words, or
    also by a model's judgement."""
    drops_unsupported: bool = False
    """Remove sentences that no source supports."""
    safety: Callable[[str], str] | None = None
    """Returns why a source must not be shown to a model; empty if it may be."""


class Answerer:
    """Answers questions from datasets: retrieval, prompt, streamed answer, fact check."""

    def __init__(
        self,
        retriever: Retriever,
        talker: ChatModel,
        judge: Any = None,
        reranker: Reranker | None = None,
    ) -> None:
        self._retriever = retriever
        self._talker = talker
        self._judge = judge
        self._reranker = reranker

    async def answer(
        self,
        datasets: Sequence[str],
        request: SearchRequest,
        manner: AnswerOptions | None = None,
    ) -> Answer:
        """Answer a question from datasets, and return the complete answer.

        `manner` holds the options; None means the defaults. If no source is relevant
        enough the answer is the fixed "not found" reply and no model is called. Raises
        what `stream` raises.
        """
        async with aclosing(self.stream(datasets, request, manner)) as events:
            async for event_type, value in events:
                if event_type == "answer":
                    return value
        raise AssertionError("Unreachable: the stream ends with an `answer` event")

    async def stream(
        self,
        datasets: Sequence[str],
        request: SearchRequest,
        manner: AnswerOptions | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Stream the answer to a question as (event type, value) events.

        `sources` with the citations comes once, unless no source is relevant enough;
        then `text` for each chunk of the answer, and `answer` with the complete,
        checked Answer at the end. `manner` holds the options; None means the defaults.
        Raises NotFoundError for an unknown dataset, InvokeError if a model call fails.
        """
        manner = manner or AnswerOptions()
        started_at = time.perf_counter()
        # Without settings of the caller, rerank generously: a better first source
        # matters more than the delay.
        settings = request.settings or RetrievalSettings(
            top_k=5, reranking_enable=True, rerank_candidates=20
        )
        retrieval = await self._retriever.search(
            datasets, replace(request, settings=settings)
        )
        answer = Answer(
            notes=list(retrieval.notes), milliseconds=dict(retrieval.milliseconds)
        )
        hits = self._filter_safe(retrieval.hits, manner, answer)
        quoted = await self._best_sentence(hits, request, settings)
        # If no source is relevant enough, reply that nothing was found and do not call
        # the model.
        if not hits or not _is_relevant(hits, quoted, manner, retrieval):
            answer.text, answer.is_found = not_found_reply(request.query), False
            answer.milliseconds["whole"] = _elapsed_ms(started_at)
            yield "text", answer.text
            yield "answer", answer
            return
        context = manner.context.build(hits)
        answer.sources = context.citations
        answer.milliseconds["first_citation"] = _elapsed_ms(started_at)
        yield "sources", context.citations
        prompt = _fill_prompt(manner.prompt, context.text, request.query)
        chunks: list[str] = []
        talking = time.perf_counter()
        async with aclosing(
            self._talker.stream_reply(request.tenant, manner.model, prompt)
        ) as talk:
            async for chunk in talk:
                if not chunks:
                    answer.milliseconds["first_text"] = _elapsed_ms(started_at)
                chunks.append(chunk)
                yield "text", chunk
        answer.milliseconds["generate"] = _elapsed_ms(talking)
        answer.text = "".join(chunks).strip()
        _prefer_quotation(answer, quoted, manner)
        await self._check_claims(answer, request, manner)
        answer.milliseconds["whole"] = _elapsed_ms(started_at)
        yield "answer", answer

    async def _best_sentence(
        self, hits: Sequence[Hit], request: SearchRequest, settings: RetrievalSettings
    ) -> tuple[str, float] | None:
        """Return the sentence that the rerank model scores highest, with its score.

        None without a rerank model, or if the question is in Chinese, which the model
        may not support.
        """
        model = settings.reranker
        if self._reranker is None or model is None or _HAN.search(request.query):
            return None
        candidates = [
            text
            for hit in hits[:3]
            for start, stop in sentences(hit.text, 0, len(hit.text))
            # Very short sentences are headings or fragments.
            if len(text := hit.text[start:stop].strip()) > 15
        ][:_MAX_SENTENCES]
        if not candidates:
            return None
        try:
            order = await self._reranker.rerank(
                request.tenant, model, request.query, candidates
            )
        except ModelyardError:
            # A failing rerank model only costs the quotation, never the answer.
            return None
        return (candidates[order[0][0]], order[0][1]) if order else None

    @staticmethod
    def _filter_safe(
        hits: Sequence[Hit], manner: AnswerOptions, answer: Answer
    ) -> list[Hit]:
        """Return the hits that the safety check of `manner` does not object to.

        For each omitted hit a note with the reason is added to `answer`. Without a
        safety check all hits are returned.
        """
        if manner.safety is None:
            return list(hits)
        safe_hits: list[Hit] = []
        for hit in hits:
            if reason := manner.safety(hit.text):
                answer.notes.append(
                    f"Segment of document {hit.document.name!r} omitted: {reason}"
                )
            else:
                safe_hits.append(hit)
        return safe_hits

    async def _check_claims(
        self, answer: Answer, request: SearchRequest, manner: AnswerOptions
    ) -> None:
        """Check the answer's claims, and set its citations."""
        if _is_not_found_reply(answer.text):
            answer.text, answer.is_found, answer.citations = (
                not_found_reply(request.query),
                False,
                [],
            )
            return
        checking = time.perf_counter()
        texts = [citation.text for citation in answer.sources]
        answer.claims = fact_check.check(answer.text, texts, question=request.query)
        if manner.checks == "model" and self._judge is not None:
            judge = _EntailmentModel(self._judge, request.tenant, manner.model)
            answer.claims = await fact_check.combine_with_entailment(
                answer.claims, texts, judge
            )
        if manner.drops_unsupported:
            _drop_unsupported(answer, request.query)
        # Citations need the claims, even if the claims themselves are not reported.
        answer.citations = (
            supporting_citations(answer.text, answer.claims, answer.sources)
            if answer.is_found
            else []
        )
        if manner.checks == "off":
            answer.claims = []
        answer.milliseconds["check"] = _elapsed_ms(checking)


class _EntailmentModel:
    """An entailment check that asks a chat model."""

    def __init__(self, writer: Any, tenant: str, model: str) -> None:
        self._writer = writer
        self._tenant = tenant
        self._model = model

    async def entails(self, source: str, claim: str) -> bool | None:
        """Return whether the source supports the claim; None if the model fails or its
        reply is unclear."""
        try:
            reply = await self._writer.complete(
                self._tenant,
                self._model,
                _ENTAILMENT_PROMPT.format(source=source, claim=claim),
            )
        except ModelyardError:
            return None
        verdict = reply.strip().lower()
        return (
            True
            if verdict.startswith(("yes", "是"))
            else False
            if verdict.startswith(("no", "否", "不"))
            else None
        )


def not_found_reply(question: str) -> str:
    """Return the "not found" reply in the question's language."""
    return NOT_FOUND["zh" if _HAN.search(question) else "en"]


def _is_not_found_reply(text: str) -> bool:
    return not text or (len(text) < 200 and _NOT_FOUND_REPLY.search(text) is not None)


_PLACEHOLDER = re.compile(r"\{(?:context|not_found|question)\}")


def _fill_prompt(template: str, context: str, question: str) -> str:
    """Return a prompt template with its placeholders filled in.

    The placeholders are `{context}`, `{not_found}` (the fixed reply in the question's
    language) and `{question}`. All are replaced at once, so that nothing inside the
    context or the question is.
    """
    texts = {
        "{context}": context,
        "{not_found}": not_found_reply(question),
        "{question}": question,
    }
    return _PLACEHOLDER.sub(lambda match: texts[match[0]], template)


def _prefer_quotation(
    answer: Answer, quoted: tuple[str, float] | None, manner: AnswerOptions
) -> None:
    """Replace a model's refusal by a confident quotation, if there is one."""
    if (
        _is_not_found_reply(answer.text)
        and quoted is not None
        and quoted[1] >= manner.min_quote_score
    ):
        answer.text, answer.is_quotation = quoted[0], True
        answer.notes.append("The model found no answer; the sentence is a quotation")


def _is_relevant(
    hits: Sequence[Hit],
    quoted: tuple[str, float] | None,
    manner: AnswerOptions,
    retrieval: Retrieval,
) -> bool:
    """Return whether any hit is relevant enough to try to answer."""
    reranked = [hit.scores["rerank"] for hit in hits if "rerank" in hit.scores]
    if reranked and quoted is not None:
        return max(*reranked, quoted[1]) >= manner.min_rerank_score
    # Without rerank scores, rely on the share of the question's terms; without that,
    # trust the vector search.
    keyword_scores = [
        hit.scores["full_text"] for hit in hits if "full_text" in hit.scores
    ]
    return not keyword_scores or max(keyword_scores) >= manner.min_term_share


def supporting_citations(
    text: str, claims: Sequence[Claim], sources: Sequence[Citation]
) -> list[Citation]:
    """Return the sources that support an answer's sentences, best first.

    `claims` are the checked sentences of `text`; `sources` are numbered from 1 in the
    text, as `[1]`. Sources that the answer names rank slightly higher; those with less
    than half of the best score are left out. If nothing supports a sentence, the first
    source that the text names is returned, or else the first of all.
    """
    support: dict[int, float] = {}
    for claim in claims:
        if claim.source >= 0:
            support[claim.source] = max(support.get(claim.source, 0.0), claim.score)
    named_indexes = _named_sources(text, len(sources))
    if not support:
        # Without support, the first source that the model names, or else the best hit.
        return [sources[named_indexes[0] if named_indexes else 0]] if sources else []
    for index in named_indexes:
        if index in support:
            # Of equally good sources, prefer the one that the model names.
            support[index] += 0.05
    best_score = max(support.values())
    # Weak sources are dropped: below half of the best score.
    return [
        sources[index]
        for index in sorted(support, key=lambda index: -support[index])
        if support[index] >= best_score / 2
    ]


def _named_sources(text: str, source_count: int) -> list[int]:
    """Return the indexes of the sources that a text names, as `[1]`, in ascending
    order."""
    named_indexes = {
        int(number) - 1
        for match in _CITATION_MARKS.finditer(text)
        for number in match[1].split(",")
    }
    return [index for index in sorted(named_indexes) if 0 <= index < source_count]


def _drop_unsupported(answer: Answer, question: str) -> None:
    """Remove the sentences that no source supports."""
    unsupported = [claim for claim in answer.claims if not claim.is_supported]
    answer.text = _remove_claims(answer.text, unsupported)
    answer.claims = [claim for claim in answer.claims if claim.is_supported]
    # If every sentence was dropped, the documents do not support any answer.
    if not answer.text:
        answer.text, answer.is_found = not_found_reply(question), False


def _remove_claims(text: str, claims: Sequence[Claim]) -> str:
    """Return a text without the ranges of the given claims, stripped at both ends.

    Claims hold character positions in this very text.
    """
    # From the end, so that the positions of the earlier claims stay valid.
    for claim in sorted(claims, key=lambda claim_to_sort: -claim_to_sort.start):
        text = text[: claim.start] + text[claim.stop :]
    return text.strip()


def _elapsed_ms(started_at: float) -> float:
    return round((time.perf_counter() - started_at) * 1000, 2)
