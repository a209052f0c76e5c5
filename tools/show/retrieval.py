"""nDCG@10 on six collections: full text, semantic, hybrid, reranked, with local models."""

import asyncio
import os
import tempfile
import time
from pathlib import Path

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
from modelyard.knowledge.evaluate import PRESETS, Collection, Scores, add_collection, evaluate, load_collection
from tools.show.proof import ROOT, Proof, weights_folder

ENGLISH, MANY = "bge-small-en-v1.5", "use-multilingual-v3"
# Whole abstracts and articles as one segment each, as the collections' published figures have them.
WHOLE = ProcessRule(mode="structure", rules=Rules(segmentation=Segmentation(max_tokens=6000)))
PARENTS = ProcessRule(mode="structure")
_RERANKED = 40  # questions a set: the cross-encoder takes seconds each on long texts
SETS = {
    "scifact": (ENGLISH, WHOLE, DocForm.TEXT), "xquad-en": (ENGLISH, WHOLE, DocForm.TEXT),
    "tau2-banking-kb": (ENGLISH, WHOLE, DocForm.TEXT), "covidqa-long": (ENGLISH, PARENTS, DocForm.HIERARCHICAL),
    "xquad-zh": (MANY, WHOLE, DocForm.TEXT), "cmrc2018-dev": (MANY, WHOLE, DocForm.TEXT),
}  # fmt: skip
FLOORS = {
    ("scifact", "full_text"): 0.675, ("scifact", "semantic"): 0.640, ("scifact", "hybrid"): 0.705,
    ("xquad-zh", "full_text"): 0.965, ("cmrc2018-dev", "full_text"): 0.98,
}  # fmt: skip
_HIT_5 = 0.75


def data_folder() -> Path:
    return Path(os.environ.get("MODELYARD_TEST_DATA", ROOT.parent / "shared" / "data")) / "ir"


def prove() -> Proof:
    proof = Proof()
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(_all(proof, home))
    return proof


async def _all(proof: Proof, home: str) -> None:
    settings = load_settings({})
    settings = msgspec.structs.replace(
        settings, home=home, local=msgspec.structs.replace(settings.local, weights=str(weights_folder()), threads=2)
    )
    proof.line("set", "full text  semantic    hybrid  by ranks | reranked (hybrid, same questions)")
    async with Modelyard(settings) as yard:
        for name, (model, rule, form) in SETS.items():
            collection = load_collection(data_folder() / name)
            begun = time.monotonic()
            chosen = DatasetSettings(
                embedding_model=model, embedding_model_provider="local", process_rule=rule, doc_form=form
            )
            datasets = yard.knowledge.datasets
            dataset = await datasets.create("default", name, settings=chosen)
            await add_collection(datasets, dataset, collection)
            await _measured(proof, datasets, dataset, collection, time.monotonic() - begun)
            if name == "covidqa-long":
                await _spans(proof, datasets, dataset, collection)


async def _measured(proof: Proof, datasets: Datasets, dataset: Dataset, collection: Collection, seconds: float) -> None:
    found: dict[str, Scores] = {}
    for name, settings in PRESETS.items():
        most = _RERANKED if name == "reranked" else 0
        found[name] = await evaluate(datasets, dataset, collection, settings, name=name, most=most)
    same = await evaluate(datasets, dataset, collection, PRESETS["hybrid"], most=_RERANKED)
    set_name = collection.name
    shown = "  ".join(f"{found[one].ndcg:>8.4f}" for one in ("full_text", "semantic", "hybrid", "hybrid_ranks"))
    ok = all(found[leg].ndcg >= floor for (name, leg), floor in FLOORS.items() if name == set_name)
    is_english = SETS[set_name][0] == ENGLISH
    if is_english:
        ok = ok and found["hybrid"].ndcg >= max(found["full_text"].ndcg, found["semantic"].ndcg)
    reranked = f"{found['reranked'].ndcg:.4f} ({same.ndcg:.4f}), {found['reranked'].milliseconds:,.0f} ms"
    proof.line(
        set_name,
        f"{shown} | {reranked}; {len(collection.corpus):,} documents in {seconds:,.0f} s, "
        f"hybrid {found['hybrid'].milliseconds:.1f} ms",
        ok,
    )
    proof.line("", f"hybrid recall@10 {found['hybrid'].recall:.3f}, MRR {found['hybrid'].mrr:.3f}")
    proof.figures[set_name] = {name: one.ndcg for name, one in found.items()}


async def _spans(proof: Proof, datasets: Datasets, dataset: Dataset, collection: Collection) -> None:
    """Of long papers: whether one of the first five segments holds the answer's very characters."""
    import gzip
    import json

    with gzip.open(data_folder() / collection.name / "answers.jsonl.gz", "rt", encoding="utf-8") as file:
        answers = {one["qid"]: one for one in map(json.loads, file)}
    texts = {one.id: one for one in collection.corpus}
    for name, settings in (("full_text", PRESETS["full_text"]), ("hybrid", PRESETS["hybrid"])):
        hits, asked = [0, 0], 0
        top = msgspec.structs.replace(settings, top_k=5)
        for query, answer in answers.items():
            found = await datasets.search(
                "default", [dataset.id], collection.queries[query], settings=top, counts=False
            )
            title = texts[answer["doc"]].title
            start = answer["answer_start"] + (len(title) + 1 if title else 0)
            stop = start + len(answer["text"].rstrip())
            places = [
                at
                for at, hit in enumerate(found.hits)
                if hit.document.metadata["id"] == answer["doc"]
                and hit.segment.start <= start
                and hit.segment.stop >= stop
            ]
            asked += 1
            hits[0] += bool(places and places[0] == 0)
            hits[1] += bool(places)
        share = hits[1] / asked
        proof.line(
            f"answers' characters, {name}",
            f"hit@1 {hits[0] / asked:.3f}, hit@5 {share:.3f} of {asked:,}",
            share >= _HIT_5 if name == "hybrid" else None,
        )
        proof.figures[f"covidqa_hit5_{name}"] = round(share, 4)
