"""100,000 real sentences with vectors for the knowledge bench: cut out of the retrieval collections; 20,000 of them and
the questions embedded by bge-small (384 numbers), the others set between near neighbours of those, with noise: to embed
all of them would take longer than the bench."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
from tools.show.proof import weights_folder

SETS = ("scifact", "covidqa-long", "tau2-banking-kb", "xquad-en")
DIMENSIONS = 384
QUERIES = 300
REAL = 20_000


def sentences_of(folder: Path, most: int) -> list[str]:
    """Sentences of the collections, and where these are too few, neighbours together."""
    every: list[str] = []
    for name in SETS:
        with gzip.open(folder / name / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
            for line in file:
                text = json.loads(line)["text"]
                every += [one.strip() for one in re.split(r"(?<=[.!?])\s+", text) if 30 < len(one.strip()) < 600]
    every = [one for one in every if one.isprintable() and not one.startswith(("#", "|", "`", "~")) and "<|" not in one]
    found = list(dict.fromkeys(every))
    pairs = (f"{one} {other}" for one, other in zip(every[::2], every[1::2], strict=False))
    for one in pairs:
        if len(found) >= most:
            break
        found.append(one)
    return found[:most]


def questions_of(folder: Path) -> list[str]:
    found: list[str] = []
    for name in SETS:
        with gzip.open(folder / name / "queries.jsonl.gz", "rt", encoding="utf-8") as file:
            found += [json.loads(line)["text"] for line in file][:QUERIES]
    chance = np.random.default_rng(5)
    return [found[at] for at in chance.permutation(len(found))[:QUERIES]]


def load(data: Path, cache: Path, count: int = 100_000) -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
    """(texts, vectors, questions, their vectors): float32, of length 1, shapes (count, 384) and (300, 384)."""
    texts, questions = sentences_of(data, count), questions_of(data)
    kept = cache / f"vectors-{len(texts)}.npy"
    if not kept.exists():
        np.save(kept, np.concatenate(_vectors(texts, questions)))
    vectors = np.load(kept)
    return texts, vectors[: len(texts)], questions, vectors[len(texts) :]


def _vectors(texts: list[str], questions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    from modelyard.providers.local.engines.onnx_text import TextModel

    name = "bge-small-en-v1.5-int8"
    model = TextModel(str(weights_folder() / f"{name}.onnx"), str(weights_folder() / f"{name}.tokenizer.json"), 2)
    real = [*texts[:REAL], *questions]
    order = sorted(range(len(real)), key=lambda at: len(real[at]))
    vectors = np.zeros((len(real), DIMENSIONS), np.float32)
    for begin in range(0, len(order), 32):
        places = order[begin : begin + 32]
        vectors[places] = model.run([real[at] for at in places])[:, 0]
    vectors = _unit(vectors)
    known, asked = vectors[: len(texts[:REAL])], vectors[len(texts[:REAL]) :]
    chance = np.random.default_rng(3)
    more: list[np.ndarray] = []
    for _ in range(0, max(0, len(texts) - len(known)), 2000):
        places = chance.integers(0, len(known), 2000)
        near = np.argpartition(-(known[places] @ known.T), 6, axis=1)[:, 1:6]
        other = near[np.arange(2000), chance.integers(0, 5, 2000)]
        share = chance.random((2000, 1), np.float32)
        noise = chance.standard_normal((2000, known.shape[1]), np.float32) * 0.02
        more.append(_unit(share * known[places] + (1 - share) * known[other] + noise))
    return np.concatenate([known, *more])[: len(texts)].astype(np.float32), asked.astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
