"""Retrieval evaluation with standard metrics on collections in BEIR's file layout, and
question sets generated from documents if there is no collection."""

import asyncio
import gzip
import json
import math
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from modelyard.base.concurrent import bounded_map
from modelyard.base.errors import ConfigError
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import (
    Dataset,
    Document,
    Hit,
    KeywordSetting,
    RetrievalSettings,
    SearchMethod,
    VectorSetting,
    Weights,
)
from modelyard.knowledge.ingest import Writer
from modelyard.tenancy.reader import UNRESTRICTED

_FILES = {
    "corpus": ("corpus.jsonl",),
    "queries": ("queries.jsonl",),
    "qrels": ("qrels.tsv", "qrels/test.tsv"),
}
_Parsed = TypeVar("_Parsed")
_DEPTH = 100
_QUESTION_PROMPT = (
    "Write one question that the following text answers and that makes sense without"
    " it, in the text's own language. Give the question alone.\n\n{text}"
)


class CorpusText(NamedTuple):
    """A document of a collection."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Collection:
    """An evaluation collection: a corpus, queries, and relevance judgements."""

    name: str
    corpus: list[CorpusText]
    queries: dict[str, str]
    qrels: dict[str, dict[str, float]]
    """Relevance by query id and document id."""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Mean scores over all questions. `ndcg`, `mrr` and `recall` are at a cutoff of 10."""

    settings: str
    questions: int
    ndcg: float
    recall: float
    recall_100: float
    mrr: float
    hit_1: float
    hit_5: float
    milliseconds: float
    """Median duration of a complete search."""
    milliseconds_95: float
    stages: dict[str, float] = {}
    """Mean milliseconds of each search stage."""
    cost: float = 0.0
    """Total cost of all questions, if their models have prices."""
    notes: int = 0
    """Number of questions whose search reported a degradation."""


def _lines(folder: Path, file_type: str) -> Iterator[str]:
    """Yield the lines of one of a collection's files, plain or compressed by gzip.

    `file_type` is a key of `_FILES`. Of its possible names the first existing one is
    read. Raises ConfigError if none exists.
    """
    for name in _FILES[file_type]:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                with (
                    gzip.open(path, "rt", encoding="utf-8")
                    if path.suffix == ".gz"
                    else path.open(encoding="utf-8")
                ) as file:
                    yield from _readable(file, path)
                return
    raise ConfigError(
        f"{str(folder)!r} is not in BEIR's layout: it has no"
        f" {' or '.join(_FILES[file_type])}"
    )


def _readable(file: Iterable[str], path: Path) -> Iterator[str]:
    """Yield the lines of a file. Raises ConfigError if it cannot be read or decoded."""
    try:
        yield from file
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}") from error


def load_collection(folder: Path) -> Collection:
    """Read a collection from a folder.

    Raises ConfigError if the folder is not in BEIR's layout, with the number of the
    first line that is not.
    """
    corpus = _parsed_lines(
        folder,
        "corpus",
        lambda record: CorpusText(
            str(record["_id"]), str(record.get("title") or ""), str(record["text"])
        ),
    )
    queries = dict(
        _parsed_lines(
            folder, "queries", lambda record: (str(record["_id"]), str(record["text"]))
        )
    )
    qrels = _load_qrels(
        folder,
        {text.id for text in corpus},
        queries,
    )
    return Collection(folder.name, corpus, queries, qrels)


def _parsed_lines(
    folder: Path, file_type: str, parse: Callable[[Any], _Parsed]
) -> list[_Parsed]:
    """Return what `parse` makes of the JSON value of each line of a file. Raises
    ConfigError with the number of the first line that it cannot read."""
    parsed: list[_Parsed] = []
    for number, line in enumerate(_lines(folder, file_type), 1):
        try:
            parsed.append(parse(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(folder, file_type, number, error) from error
    return parsed


def _load_qrels(
    folder: Path, documents: Container[str], queries: Container[str]
) -> dict[str, dict[str, float]]:
    """Read the relevance judgements of a collection. Raises ConfigError with the line's
    number for a line of another form, and for a query or document that the collection
    does not contain: it would count as not found."""
    qrels: dict[str, dict[str, float]] = {}
    for number, line in enumerate(_lines(folder, "qrels"), 1):
        try:
            query, document, relevance = line.rstrip("\n").split("\t")
            # The header line is optional in some collections.
            if number == 1 and relevance in ("score", "relevance"):
                continue
            qrels.setdefault(query, {})[document] = float(relevance)
            if query not in queries:
                raise ValueError(f"The collection has no query {query[:80]!r}")
            if document not in documents:
                raise ValueError(f"The collection has no document {document[:80]!r}")
        except ValueError as error:
            raise _unreadable(folder, "qrels", number, error) from error
    return qrels


def _unreadable(
    folder: Path, file_type: str, number: int, error: Exception
) -> ConfigError:
    return ConfigError(
        f"Collection {str(folder)!r}, {_FILES[file_type][0]}, line {number}:"
        f" {type(error).__name__}: {error}"
    )


# ------------------------------------------------------------------------------------------------
# metrics


def ndcg(
    ranked: Sequence[str], relevant: Mapping[str, float], cutoff: int = 10
) -> float:
    """Return the normalised discounted cumulative gain at a cutoff (Järvelin,
    Kekäläinen 2002); 0 without relevant documents."""
    # Ranks start at 0, hence the offset of 2 in the logarithm.
    gained = sum(
        relevant.get(document_id, 0.0) / math.log2(rank + 2)
        for rank, document_id in enumerate(ranked[:cutoff])
    )
    ideal = sorted(relevant.values(), reverse=True)[:cutoff]
    ideal_gain = sum(value / math.log2(rank + 2) for rank, value in enumerate(ideal))
    return gained / ideal_gain if ideal_gain else 0.0


def recall(ranked: Sequence[str], relevant: Mapping[str, float], cutoff: int) -> float:
    """Return the share of the relevant documents that are among the first `cutoff`
    hits; 0 if there are none."""
    relevant_ids = {document_id for document_id, value in relevant.items() if value > 0}
    return (
        len(relevant_ids & set(ranked[:cutoff])) / len(relevant_ids)
        if relevant_ids
        else 0.0
    )


def reciprocal_rank(
    ranked: Sequence[str], relevant: Mapping[str, float], cutoff: int = 10
) -> float:
    """Return the reciprocal rank of the first relevant document; 0 if none is among the
    first `cutoff`."""
    return next(
        (
            1 / (rank + 1)
            for rank, document_id in enumerate(ranked[:cutoff])
            if relevant.get(document_id, 0) > 0
        ),
        0.0,
    )


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return a percentile by the nearest-rank method. `fraction` is 0 to 1; the result
    is 0 for no values."""
    ordered = sorted(values)
    return (
        ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else 0.0
    )


@dataclass(slots=True)
class _ScoreTally:
    """Accumulates the metrics of single questions."""

    rows: list[tuple[float, ...]] = field(default_factory=list[tuple[float, ...]])
    times: list[float] = field(default_factory=list[float])
    stages: dict[str, float] = field(default_factory=dict[str, float])
    notes: int = 0

    def scores(self, settings: str) -> Scores:
        """Return the means over all questions so far."""
        count = max(1, len(self.rows))
        means = [
            round(sum(column) / count, 4) for column in zip(*self.rows, strict=True)
        ] or [0.0] * 6
        return Scores(
            settings=settings,
            questions=len(self.rows),
            ndcg=means[0],
            recall=means[1],
            recall_100=means[2],
            mrr=means[3],
            hit_1=means[4],
            hit_5=means[5],
            milliseconds=round(percentile(self.times, 0.5), 2),
            milliseconds_95=round(percentile(self.times, 0.95), 2),
            stages={
                name: round(value / count, 2) for name, value in self.stages.items()
            },
            notes=self.notes,
        )


# ------------------------------------------------------------------------------------------------
# evaluation runs


async def add_collection(
    datasets: Datasets,
    dataset: Dataset,
    collection: Collection,
    on_progress: Callable[[int, int], None] = lambda completed_count, of: None,
) -> None:
    """Add a collection's corpus to a dataset and wait for its indexing. `on_progress`
    is called with (indexed, total).

    The collection's ids are stored in the metadata. Raises ConfigError if a document
    cannot be indexed.
    """
    texts = [
        (text.id, f"{text.title}\n{text.text}".strip(), {"id": text.id})
        for text in collection.corpus
    ]
    # Some collections contain empty documents, which a dataset refuses.
    texts = [document_text for document_text in texts if document_text[1]]
    added = await datasets.add_texts(dataset, texts)
    waiting = asyncio.ensure_future(datasets.wait(dataset, added[0].batch))
    try:
        # Poll the counts for progress while the wait runs in the background.
        while not waiting.done():
            counts = (
                await datasets.store.documents.counts(dataset.tenant, dataset.id)
            ).get(dataset.id)
            on_progress(int(counts["available"]) if counts else 0, len(texts))
            await asyncio.wait([waiting], timeout=0.5)
    finally:
        waiting.cancel()
    failed = [document for document in waiting.result() if document.error]
    if failed:
        raise ConfigError(
            f"{len(failed)} documents could not be indexed; first error: {failed[0].error}"
        )
    on_progress(len(texts), len(texts))


def document_ids(hits: Sequence[Hit]) -> list[str]:
    """Return the documents' collection ids in the order of their best segments, without
    duplicates."""
    return list(
        dict.fromkeys(
            str(hit.document.metadata.get("id", hit.document.name)) for hit in hits
        )
    )


async def evaluate(
    datasets: Datasets,
    dataset: Dataset,
    collection: Collection,
    settings: RetrievalSettings,
    *,
    name: str = "",
    max_questions: int = 0,
    spent: Callable[[], Any] = lambda: 0,
) -> Scores:
    """Evaluate retrieval settings on a collection. With `max_questions`, only the first
    questions are used.

    `spent` returns the accumulated cost of model calls, read before and after.
    """
    trial, cost_before = RetrievalRun(datasets, dataset, settings, name), spent()
    # Queries without judgements cannot be scored.
    judged_queries = [
        query_id for query_id in collection.queries if query_id in collection.qrels
    ]
    for query in judged_queries[: max_questions or None]:
        await trial.ask(collection.queries[query], collection.qrels[query])
    return msgspec.structs.replace(trial.scores(), cost=float(spent() - cost_before))


class RetrievalRun:
    """One search configuration under evaluation, run question by question."""

    def __init__(
        self,
        datasets: Datasets,
        dataset: Dataset,
        settings: RetrievalSettings,
        name: str = "",
    ) -> None:
        self.name = name or settings.search_method.value
        self._datasets = datasets
        self._dataset = dataset
        # The metrics need a deep ranking without a threshold, whatever the settings
        # say.
        self._settings = msgspec.structs.replace(
            settings,
            top_k=_DEPTH,
            candidates=max(settings.candidates, _DEPTH),
            score_threshold_enabled=False,
        )
        self._tally = _ScoreTally()

    async def ask(
        self,
        query: str,
        relevant: Mapping[str, float],
        id_of: Callable[[Hit], str] | None = None,
    ) -> list[str]:
        """Run one question and return the ranked document ids. `id_of` maps a hit to
        the ids that `relevant` uses."""
        started_at, tally = time.perf_counter(), self._tally
        # Evaluation searches do not count as hits of the segments.
        retrieval = await self._datasets.search(
            self._dataset.tenant,
            [self._dataset.id],
            query,
            settings=self._settings,
            counts=False,
            # Whoever evaluates a dataset sees all of it.
            reader=UNRESTRICTED,
        )
        tally.times.append((time.perf_counter() - started_at) * 1000)
        for stage, took in retrieval.milliseconds.items():
            tally.stages[stage] = tally.stages.get(stage, 0.0) + took
        tally.notes += bool(retrieval.notes)
        ranked = (
            document_ids(retrieval.hits)
            if id_of is None
            else list(dict.fromkeys(map(id_of, retrieval.hits)))
        )
        tally.rows.append(
            (
                ndcg(ranked, relevant),
                recall(ranked, relevant, 10),
                recall(ranked, relevant, 100),
                reciprocal_rank(ranked, relevant),
                float(relevant.get(ranked[0], 0) > 0) if ranked else 0.0,
                float(
                    any(relevant.get(document_id, 0) > 0 for document_id in ranked[:5])
                ),
            )
        )
        return ranked

    def scores(self) -> Scores:
        """Return the mean scores of the questions so far."""
        return self._tally.scores(self.name)


PRESETS: Mapping[str, RetrievalSettings] = {
    "full_text": RetrievalSettings(search_method=SearchMethod.FULL_TEXT),
    "semantic": RetrievalSettings(search_method=SearchMethod.SEMANTIC),
    "hybrid": RetrievalSettings(),
    "hybrid_ranks": RetrievalSettings(fusion="ranks"),
    "reranked": RetrievalSettings(reranking_enable=True, rerank_candidates=20),
}
"""The search configurations that `modelyard knowledge eval` compares."""


def _with_share(share: float) -> RetrievalSettings:
    """Return hybrid settings with a share of the vector score, from 0 to 1."""
    weights = Weights(
        vector_setting=VectorSetting(vector_weight=share),
        keyword_setting=KeywordSetting(keyword_weight=1 - share),
    )
    return RetrievalSettings(weights=weights)


# Which share is best depends on the texts and on the embedding model: from 0.3, if the
# model knows the language badly, to 0.85. Finer steps change little.
SHARES: Mapping[str, float] = {
    f"hybrid_{round(share * 100)}": share for share in (0.1, 0.3, 0.5, 0.7, 0.9)
}
"""Shares of the vector score in a hybrid search, by the names of their presets."""
SHARE_PRESETS: Mapping[str, RetrievalSettings] = {
    name: _with_share(share) for name, share in SHARES.items()
}
"""Hybrid searches from which the share of a dataset is chosen."""


def best_share(scores: Iterable[Scores]) -> tuple[float, float] | None:
    """Return the share of the vector score with the highest nDCG, and that nDCG. Of
    equal ones the most even share is returned; None if no share was evaluated."""
    evaluated = [
        (score.ndcg, -abs(SHARES[score.settings] - 0.5), SHARES[score.settings])
        for score in scores
        if score.settings in SHARES
    ]
    if not evaluated:
        return None
    ndcg_at_10, _, share = max(evaluated)
    return share, ndcg_at_10


_QUESTIONS_AT_ONCE = 8


async def generate_questions(
    datasets: Datasets,
    dataset: Dataset,
    writer: Writer,
    *,
    max_questions: int = 50,
    model: str = "default",
) -> Collection:
    """Generate one question per document with a model, as an evaluation set for the
    dataset."""
    documents, _ = await datasets.store.documents.list_page(
        dataset.tenant, dataset.id, state="available", limit=max_questions
    )
    # A model takes a second or more for each document, so several are asked at once.
    results = await bounded_map(
        lambda document: _generate_question(datasets, document, writer, model),
        documents,
        limit=_QUESTIONS_AT_ONCE,
    )
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, float]] = {}
    corpus: list[CorpusText] = []
    # Numbers follow the documents' order, so that two runs can be compared.
    for number, result in enumerate(results, 1):
        if result is None:
            continue
        text, question = result
        corpus.append(text)
        if question:
            queries[f"q{number}"] = question
            qrels[f"q{number}"] = {text.id: 1.0}
    return Collection(dataset.name, corpus, queries, qrels)


async def _generate_question(
    datasets: Datasets, document: Document, writer: Writer, model: str
) -> tuple[CorpusText, str] | None:
    """Return a document's text and a question that it answers; the question is empty if
    the model writes none. Returns None for a document without segments."""
    segments, _ = await datasets.store.segments.list_page(
        document.tenant, document.id, limit=1000
    )
    if not segments:
        return None
    text = CorpusText(
        document.id,
        document.name,
        await datasets.text(document),
    )
    # The longest segment from the middle half: the beginning is often boilerplate.
    picked = max(
        segments[len(segments) // 4 : len(segments) * 3 // 4 + 1],
        key=lambda segment: segment.words,
    )
    reply = await writer.complete(
        document.tenant, model, _QUESTION_PROMPT.format(text=picked.content)
    )
    # The model may add explanations: only its first line is used.
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    return text, lines[0] if lines else ""


def save_collection(collection: Collection, folder: Path) -> None:
    """Write a collection to a folder in BEIR's layout, creating the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {
        "corpus.jsonl": [
            {
                "_id": text.id,
                "title": text.title,
                "text": text.text,
            }
            for text in collection.corpus
        ],
        "queries.jsonl": [
            {"_id": name, "text": text} for name, text in collection.queries.items()
        ],
    }
    for name, values in rows.items():
        lines = [json.dumps(record, ensure_ascii=False) for record in values]
        (folder / name).write_text("\n".join([*lines, ""]), "utf-8")
    lines = ["query-id\tcorpus-id\tscore"]
    lines += [
        f"{query}\t{document_id}\t{score:g}"
        for query, relevances in collection.qrels.items()
        for document_id, score in relevances.items()
    ]
    (folder / "qrels.tsv").write_text("\n".join([*lines, ""]), "utf-8")
