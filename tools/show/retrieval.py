"""Measure nDCG@10 on six collections: full text, semantic, hybrid and reranked search,
with local models.

Four more are measured if their folders are there, in BEIR's layout: cranfield, cisi,
drcd-test and rgb-zh. They come in no package.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modelyard.app import Modelyard
from modelyard.base.settings import load_settings
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import (
    Dataset,
    DatasetSettings,
    DocForm,
    ProcessRule,
    Rules,
    Segmentation,
)
from modelyard.knowledge.evaluate import (
    PRESETS,
    Collection,
    Scores,
    add_collection,
    evaluate,
    load_collection,
)
from tools.show.proof import ROOT, Proof, weights_folder

ENGLISH, MANY = "bge-small-en-v1.5", "use-multilingual-v3"
# One segment per abstract or article, as in the published figures of these collections.
UNSPLIT = ProcessRule(
    mode="structure", rules=Rules(segmentation=Segmentation(max_tokens=6000))
)
PARENTS = ProcessRule(mode="structure")
_MAX_RERANKED_QUERIES = (
    40  # questions a set: the cross-encoder takes seconds each on long texts
)
SETS = {
    "scifact": (ENGLISH, UNSPLIT, DocForm.TEXT),
    "xquad-en": (ENGLISH, UNSPLIT, DocForm.TEXT),
    "tau2-banking-kb": (ENGLISH, UNSPLIT, DocForm.TEXT),
    "covidqa-long": (ENGLISH, PARENTS, DocForm.HIERARCHICAL),
    "xquad-zh": (MANY, UNSPLIT, DocForm.TEXT),
    "cmrc2018-dev": (MANY, UNSPLIT, DocForm.TEXT),
}
OPTIONAL_SETS = {
    "cranfield": (ENGLISH, UNSPLIT, DocForm.TEXT),
    "cisi": (ENGLISH, UNSPLIT, DocForm.TEXT),
    "drcd-test": (MANY, UNSPLIT, DocForm.TEXT),
    "rgb-zh": (MANY, UNSPLIT, DocForm.TEXT),
}
ALL_SETS = {**SETS, **OPTIONAL_SETS}
# Lowest acceptable nDCG@10 by collection and search method.
FLOORS = {
    ("scifact", "full_text"): 0.675,
    ("scifact", "semantic"): 0.640,
    ("scifact", "hybrid"): 0.705,
    ("xquad-zh", "full_text"): 0.965,
    ("cmrc2018-dev", "full_text"): 0.98,
}
_HIT_5 = 0.75
# Hybrid search may be this much worse than the better leg of a collection, and must be
# this much better than reciprocal ranks on average.
_LEG_LOSS, _RANKS_GAIN = 0.005, 0.01
_RERANK_LOSS = 0.01
_CHINESE = 0.97


def data_folder() -> Path:
    """Return the folder with the retrieval collections; MODELYARD_TEST_DATA overrides
    its parent."""
    return (
        Path(os.environ.get("MODELYARD_TEST_DATA", ROOT.parent / "shared" / "data"))
        / "ir"
    )


def prove() -> Proof:
    """Index and evaluate every collection in a temporary home folder."""
    proof = Proof()
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(_evaluate_all(proof, home))
    return proof


async def _evaluate_all(proof: Proof, home: str) -> None:
    """Create a dataset for each collection, index it and measure it."""
    settings = load_settings({})
    settings = msgspec.structs.replace(
        settings,
        home=home,
        local=msgspec.structs.replace(
            settings.local, weights=str(weights_folder()), threads=2
        ),
    )
    proof.line(
        "set",
        "full text  semantic    hybrid  by ranks | reranked (hybrid, same questions)",
    )
    async with Modelyard(settings) as yard:
        for name, (model, rule, doc_form) in ALL_SETS.items():
            if name in OPTIONAL_SETS and not (data_folder() / name).exists():
                proof.line(name, "not measured: its folder is absent")
                continue
            collection = load_collection(data_folder() / name)
            started_at = time.monotonic()
            dataset_settings = DatasetSettings(
                embedding_model=model,
                embedding_model_provider="local",
                process_rule=rule,
                doc_form=doc_form,
            )
            datasets = yard.knowledge.datasets
            dataset = await datasets.create("default", name, settings=dataset_settings)
            await add_collection(datasets, dataset, collection)
            await _evaluate_collection(
                proof, datasets, dataset, collection, time.monotonic() - started_at
            )
            if name == "covidqa-long":
                await _check_answer_spans(proof, datasets, dataset, collection)
    measured = [proof.figures[name] for name in ALL_SETS if name in proof.figures]
    gains = [figures["hybrid"] - figures["hybrid_ranks"] for figures in measured]
    mean_gain = sum(gains) / len(gains)
    proof.line(
        "hybrid over reciprocal ranks, mean",
        f"{mean_gain:+.4f}",
        mean_gain >= _RANKS_GAIN,
    )


async def _evaluate_collection(
    proof: Proof,
    datasets: Datasets,
    dataset: Dataset,
    collection: Collection,
    seconds: float,
) -> None:
    """Evaluate every search preset on one collection and report the scores."""
    scores: dict[str, Scores] = {}
    for name, settings in PRESETS.items():
        max_queries = _MAX_RERANKED_QUERIES if name == "reranked" else 0
        scores[name] = await evaluate(
            datasets,
            dataset,
            collection,
            settings,
            name=name,
            max_questions=max_queries,
        )
    # Reranking is measured on fewer questions, so hybrid search is measured on the same
    # ones for comparison.
    hybrid_same_queries = await evaluate(
        datasets,
        dataset,
        collection,
        PRESETS["hybrid"],
        max_questions=_MAX_RERANKED_QUERIES,
    )
    set_name = collection.name
    summary = "  ".join(
        f"{scores[preset_name].ndcg:>8.4f}"
        for preset_name in ("full_text", "semantic", "hybrid", "hybrid_ranks")
    )
    ok = all(
        scores[leg].ndcg >= floor
        for (name, leg), floor in FLOORS.items()
        if name == set_name
    )
    best_leg = max(scores["full_text"].ndcg, scores["semantic"].ndcg)
    ok = ok and scores["hybrid"].ndcg >= best_leg - _LEG_LOSS
    # Pairs of characters alone reach this on most Chinese collections.
    if ALL_SETS[set_name][0] == MANY and scores["full_text"].ndcg >= _CHINESE:
        ok = ok and scores["hybrid"].ndcg >= _CHINESE
    ok = ok and scores["reranked"].ndcg >= hybrid_same_queries.ndcg - _RERANK_LOSS
    reranked = f"{scores['reranked'].ndcg:.4f} ({hybrid_same_queries.ndcg:.4f}), {scores['reranked'].milliseconds:,.0f} ms"
    proof.line(
        set_name,
        f"{summary} | {reranked}; {len(collection.corpus):,} documents in {seconds:,.0f} s, "
        f"hybrid {scores['hybrid'].milliseconds:.1f} ms",
        ok,
    )
    proof.line(
        "",
        f"hybrid recall@10 {scores['hybrid'].recall:.3f}, MRR {scores['hybrid'].mrr:.3f}",
    )
    proof.figures[set_name] = {name: score.ndcg for name, score in scores.items()}


async def _check_answer_spans(
    proof: Proof, datasets: Datasets, dataset: Dataset, collection: Collection
) -> None:
    """For long papers, report how often one of the first five segments contains the
    exact characters of the answer."""
    spans = _answer_spans(collection)
    for name in ("full_text", "hybrid"):
        settings = msgspec.structs.replace(PRESETS[name], top_k=5)
        indexes: list[int | None] = []
        for query, span in spans.items():
            retrieval = await datasets.search(
                "default",
                [dataset.id],
                collection.queries[query],
                settings=settings,
                counts=False,
            )
            indexes.append(_index_of_span(retrieval.hits, span))
        first_rate = indexes.count(0) / len(indexes)
        hit_rate = sum(index is not None for index in indexes) / len(indexes)
        proof.line(
            f"characters of the answers, {name}",
            f"hit@1 {first_rate:.3f}, hit@5 {hit_rate:.3f} of {len(indexes):,}",
            hit_rate >= _HIT_5 if name == "hybrid" else None,
        )
        proof.figures[f"covidqa_hit5_{name}"] = round(hit_rate, 4)


@dataclass(frozen=True, slots=True)
class _AnswerSpan:
    """The characters of an answer in the indexed text of its document."""

    document: str
    start: int
    stop: int


def _answer_spans(collection: Collection) -> dict[str, _AnswerSpan]:
    """Return where the answer to each query is."""
    import gzip
    import json

    documents = {document.id: document for document in collection.corpus}
    spans: dict[str, _AnswerSpan] = {}
    path = data_folder() / collection.name / "answers.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for answer in map(json.loads, file):
            title = documents[answer["doc"]].title
            # Indexed text starts with the title and a newline, so answer positions
            # shift by that.
            start = answer["answer_start"] + (len(title) + 1 if title else 0)
            stop = start + len(answer["text"].rstrip())
            spans[answer["qid"]] = _AnswerSpan(answer["doc"], start, stop)
    return spans


def _index_of_span(hits: Sequence[Any], span: _AnswerSpan) -> int | None:
    """Return the index of the first hit that contains all characters of an answer."""
    for index, hit in enumerate(hits):
        is_same_document = hit.document.metadata["id"] == span.document
        is_around = hit.segment.start <= span.start and hit.segment.stop >= span.stop
        if is_same_document and is_around:
            return index
    return None
