"""How good retrieval is, in the field's numbers, on any collection in BEIR's layout; and question sets made from
documents, where there is none."""

import asyncio
import gzip
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from modelyard.base.errors import ConfigError
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset, Hit, RetrievalSettings, SearchMethod
from modelyard.knowledge.ingest import Writer

_FILES = {"corpus": ("corpus.jsonl",), "queries": ("queries.jsonl",), "qrels": ("qrels.tsv", "qrels/test.tsv")}
_DEPTH = 100
_QUESTION_PROMPT = (
    "Write one question that the following text answers and that makes sense without it, in the text's own language. "
    "Give the question alone.\n\n{text}"
)


class Text(NamedTuple):
    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Collection:
    name: str
    corpus: list[Text]
    queries: dict[str, str]
    qrels: dict[str, dict[str, float]]
    """Query → document → how relevant."""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Means over the questions. `ndcg`, `mrr` and `recall` are at 10."""

    settings: str
    questions: int
    ndcg: float
    recall: float
    recall_100: float
    mrr: float
    hit_1: float
    hit_5: float
    milliseconds: float
    """Median, of a whole question."""
    milliseconds_95: float
    stages: dict[str, float] = {}
    """Mean milliseconds by stage."""
    cost: float = 0.0
    """Of all the questions, where their models have prices."""
    notes: int = 0
    """Questions where something went otherwise than asked."""


def _lines(folder: Path, kind: str) -> Iterator[str]:
    for name in _FILES[kind]:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                with (
                    gzip.open(path, "rt", encoding="utf-8")
                    if path.suffix == ".gz"
                    else path.open(encoding="utf-8") as file
                ):
                    yield from file
                return
    raise ConfigError(f"{str(folder)!r} has no {' or '.join(_FILES[kind])}: it is not in BEIR's layout")


def load_collection(folder: Path) -> Collection:
    """Raises ConfigError for a folder in another layout."""
    try:
        corpus = [
            Text(str(one["_id"]), str(one.get("title") or ""), str(one["text"]))
            for one in map(json.loads, _lines(folder, "corpus"))
        ]
        queries = {str(one["_id"]): str(one["text"]) for one in map(json.loads, _lines(folder, "queries"))}
        qrels: dict[str, dict[str, float]] = {}
        for at, line in enumerate(_lines(folder, "qrels")):
            query, document, relevance = line.rstrip("\n").split("\t")
            if at or relevance not in ("score", "relevance"):
                qrels.setdefault(query, {})[document] = float(relevance)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigError(f"{str(folder)!r} cannot be read as a collection: {type(error).__name__}: {error}") from error
    return Collection(folder.name, corpus, queries, qrels)


# ------------------------------------------------------------------------------------------------ numbers


def ndcg(ranked: Sequence[str], relevant: Mapping[str, float], most: int = 10) -> float:
    """Normalised discounted cumulative gain (Järvelin, Kekäläinen 2002)."""
    gained = sum(relevant.get(one, 0.0) / math.log2(at + 2) for at, one in enumerate(ranked[:most]))
    ideal = sorted(relevant.values(), reverse=True)[:most]
    best = sum(value / math.log2(at + 2) for at, value in enumerate(ideal))
    return gained / best if best else 0.0


def recall(ranked: Sequence[str], relevant: Mapping[str, float], most: int) -> float:
    wanted = {one for one, value in relevant.items() if value > 0}
    return len(wanted & set(ranked[:most])) / len(wanted) if wanted else 0.0


def reciprocal_rank(ranked: Sequence[str], relevant: Mapping[str, float], most: int = 10) -> float:
    return next((1 / (at + 1) for at, one in enumerate(ranked[:most]) if relevant.get(one, 0) > 0), 0.0)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(slots=True)
class _Tally:
    rows: list[tuple[float, ...]] = field(default_factory=list[tuple[float, ...]])
    times: list[float] = field(default_factory=list[float])
    stages: dict[str, float] = field(default_factory=dict[str, float])
    notes: int = 0

    def scores(self, settings: str) -> Scores:
        count = max(1, len(self.rows))
        means = [round(sum(column) / count, 4) for column in zip(*self.rows, strict=True)] or [0.0] * 6
        return Scores(
            settings=settings, questions=len(self.rows), ndcg=means[0], recall=means[1], recall_100=means[2],
            mrr=means[3], hit_1=means[4], hit_5=means[5], milliseconds=round(percentile(self.times, 0.5), 2),
            milliseconds_95=round(percentile(self.times, 0.95), 2),
            stages={name: round(value / count, 2) for name, value in self.stages.items()}, notes=self.notes,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------ doing it


async def add_collection(
    datasets: Datasets,
    dataset: Dataset,
    collection: Collection,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Its corpus as documents, which carry its ids in their metadata. Raises ConfigError where one failed."""
    texts = [(one.id, f"{one.title}\n{one.text}".strip(), {"id": one.id}) for one in collection.corpus]
    texts = [one for one in texts if one[1]]
    added = await datasets.add_texts(dataset, texts)
    waiting = asyncio.ensure_future(datasets.wait(dataset, added[0].batch))
    try:
        while not waiting.done():
            counts = (await datasets.stored.documents.counts(dataset.tenant, dataset.id)).get(dataset.id)
            told(int(counts["available"]) if counts else 0, len(texts))
            await asyncio.wait([waiting], timeout=0.5)
    finally:
        waiting.cancel()
    failed = [one for one in waiting.result() if one.error]
    if failed:
        raise ConfigError(f"{len(failed)} documents cannot be indexed; the first: {failed[0].error}")
    told(len(texts), len(texts))


def ids_of(hits: Sequence[Hit]) -> list[str]:
    """Documents in the order of their best segments, by the collection's ids."""
    return list(dict.fromkeys(str(one.document.metadata.get("id", one.document.name)) for one in hits))


async def evaluate(
    datasets: Datasets, dataset: Dataset, collection: Collection, settings: RetrievalSettings, *, name: str = "",
    most: int = 0, spent: Callable[[], Any] = lambda: 0,
) -> Scores:  # fmt: skip
    """Ask every question, or the first `most`, and hold what is found against what should be."""
    trial, before = Trial(datasets, dataset, settings, name), spent()
    asked = [one for one in collection.queries if one in collection.qrels]
    for query in asked[: most or None]:
        await trial.ask(collection.queries[query], collection.qrels[query])
    return msgspec.structs.replace(trial.scores(), cost=float(spent() - before))


class Trial:
    """A way to search, asked one question after another."""

    def __init__(self, datasets: Datasets, dataset: Dataset, settings: RetrievalSettings, name: str = "") -> None:
        self.name = name or settings.search_method.value
        self._datasets = datasets
        self._dataset = dataset
        self._settings = msgspec.structs.replace(
            settings, top_k=_DEPTH, candidates=max(settings.candidates, _DEPTH), score_threshold_enabled=False
        )
        self._tally = _Tally()

    async def ask(
        self, query: str, relevant: Mapping[str, float], id_of: Callable[[Hit], str] | None = None
    ) -> list[str]:
        """Documents in the order in which they were found. `id_of` says how `relevant` names them."""
        begun, tally = time.perf_counter(), self._tally
        found = await self._datasets.search(
            self._dataset.tenant, [self._dataset.id], query, settings=self._settings, counts=False
        )
        tally.times.append((time.perf_counter() - begun) * 1000)
        for stage, took in found.milliseconds.items():
            tally.stages[stage] = tally.stages.get(stage, 0.0) + took
        tally.notes += bool(found.notes)
        ranked = ids_of(found.hits) if id_of is None else list(dict.fromkeys(map(id_of, found.hits)))
        tally.rows.append((
            ndcg(ranked, relevant), recall(ranked, relevant, 10), recall(ranked, relevant, 100),
            reciprocal_rank(ranked, relevant), float(relevant.get(ranked[0], 0) > 0) if ranked else 0.0,
            float(any(relevant.get(one, 0) > 0 for one in ranked[:5])),
        ))  # fmt: skip
        return ranked

    def scores(self) -> Scores:
        return self._tally.scores(self.name)


PRESETS: Mapping[str, RetrievalSettings] = {
    "full_text": RetrievalSettings(search_method=SearchMethod.FULL_TEXT),
    "semantic": RetrievalSettings(search_method=SearchMethod.SEMANTIC),
    "hybrid": RetrievalSettings(),
    "hybrid_ranks": RetrievalSettings(fusion="ranks"),
    "reranked": RetrievalSettings(reranking_enable=True, rerank_candidates=20),
}
"""What `modelyard knowledge eval` compares side by side."""


async def questions_of(
    datasets: Datasets, dataset: Dataset, writer: Writer, *, most: int = 50, model: str = "default"
) -> Collection:
    """A question a document, written by a model from a segment out of its middle: a set to measure settings by."""
    documents, _ = await datasets.stored.documents.listed(dataset.tenant, dataset.id, state="available", most=most)
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, float]] = {}
    corpus: list[Text] = []
    for at, one in enumerate(documents):
        segments, _ = await datasets.stored.segments.listed(dataset.tenant, one.id, most=1000)
        if not segments:
            continue
        corpus.append(Text(one.id, one.name, await datasets.text(one)))
        picked = max(segments[len(segments) // 4 : len(segments) * 3 // 4 + 1], key=lambda each: each.words)
        told = await writer.write(dataset.tenant, model, _QUESTION_PROMPT.format(text=picked.content))
        lines = [line.strip() for line in told.splitlines() if line.strip()]
        if lines:
            queries[f"q{at + 1}"] = lines[0]
            qrels[f"q{at + 1}"] = {one.id: 1.0}
    return Collection(dataset.name, corpus, queries, qrels)


def save_collection(collection: Collection, folder: Path) -> None:
    """In BEIR's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {
        "corpus.jsonl": [{"_id": one.id, "title": one.title, "text": one.text} for one in collection.corpus],
        "queries.jsonl": [{"_id": name, "text": text} for name, text in collection.queries.items()],
    }
    for name, values in rows.items():
        lines = [json.dumps(one, ensure_ascii=False) for one in values]
        (folder / name).write_text("\n".join([*lines, ""]), "utf-8")
    lines = ["query-id\tcorpus-id\tscore"]
    lines += [f"{query}\t{one}\t{score:g}" for query, found in collection.qrels.items() for one, score in found.items()]
    (folder / "qrels.tsv").write_text("\n".join([*lines, ""]), "utf-8")
