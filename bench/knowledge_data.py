"""100,000 real sentences with vectors for the knowledge benchmark, cut from the
retrieval collections.

20,000 of them and the questions are embedded by bge-small (384 dimensions). The other
vectors lie between near neighbours of those, with noise, because embedding all of them
would take longer than the benchmark.
"""

import gzip
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tools.show.proof import weights_folder

SETS = ("scifact", "covidqa-long", "tau2-banking-kb", "xquad-en")
DIMENSIONS = 384
QUERIES = 300
# Number of sentences that are embedded by the model; the other vectors are synthetic.
REAL = 20_000


def sentences_of(folder: Path, max_sentences: int) -> list[str]:
    """Return distinct sentences of the collections.

    If there are fewer than `max_sentences`, pairs of neighbouring sentences fill the
    list.
    """
    fragments = [
        fragment
        for text in _texts(folder)
        for fragment in _fragments(text)
        if _is_plain(fragment)
    ]
    sentences = list(dict.fromkeys(fragments))
    # Adjacent sentences are joined into new, plausible texts until there are enough.
    pairs = zip(fragments[::2], fragments[1::2], strict=False)
    missing_count = max(0, max_sentences - len(sentences))
    joined = (f"{left} {right}" for left, right in pairs)
    sentences += itertools.islice(joined, missing_count)
    return sentences[:max_sentences]


def _texts(folder: Path) -> Iterator[str]:
    """Yield the texts of all documents of the collections."""
    for name in SETS:
        path = folder / name / "corpus.jsonl.gz"
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)["text"]


def _fragments(text: str) -> list[str]:
    """Split a text after its sentences; fragments that are too short or too long for a
    sentence are left out."""
    fragments = [part.strip() for part in re.split(r"(?<=[.!?])\s+", text)]
    return [fragment for fragment in fragments if 30 < len(fragment) < 600]


def _is_plain(fragment: str) -> bool:
    """Return False for Markdown headings, tables, code fences and control tokens."""
    is_markup = fragment.startswith(("#", "|", "`", "~"))
    return fragment.isprintable() and not is_markup and "<|" not in fragment


def questions_of(folder: Path) -> list[str]:
    """Return QUERIES questions of the collections, in a fixed random order."""
    questions: list[str] = []
    for name in SETS:
        with gzip.open(
            folder / name / "queries.jsonl.gz", "rt", encoding="utf-8"
        ) as file:
            questions += [json.loads(line)["text"] for line in file][:QUERIES]
    # A fixed seed: each run asks the same questions.
    chance = np.random.default_rng(5)
    return [questions[index] for index in chance.permutation(len(questions))[:QUERIES]]


def load(
    data: Path, cache: Path, count: int = 100_000
) -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
    """Return (texts, vectors, questions, question vectors).

    The vectors are float32 of length 1, with shapes (count, 384) and (300, 384).
    `cache` is a folder in which they are stored for the next run.
    """
    texts, questions = sentences_of(data, count), questions_of(data)
    vectors_file = cache / f"vectors-{len(texts)}.npy"
    if not vectors_file.exists():
        np.save(vectors_file, np.concatenate(_vectors(texts, questions)))
    vectors = np.load(vectors_file)
    # The file holds the vectors of the texts, followed by those of the questions.
    return texts, vectors[: len(texts)], questions, vectors[len(texts) :]


def _vectors(texts: list[str], questions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of the texts and of the questions, partly synthetic."""
    # Imported here, because the model runtime is needed only if the vectors are not
    # cached.
    from modelyard.providers.local.engines.onnx_text import TextModel

    name = "bge-small-en-v1.5-int8"
    model = TextModel(
        str(weights_folder() / f"{name}.onnx"),
        str(weights_folder() / f"{name}.tokenizer.json"),
        2,
    )
    real = [*texts[:REAL], *questions]
    # Texts of similar length share a batch, which avoids padding.
    order = sorted(range(len(real)), key=lambda index: len(real[index]))
    vectors = np.zeros((len(real), DIMENSIONS), np.float32)
    for batch_start in range(0, len(order), 32):
        indexes = order[batch_start : batch_start + 32]
        # The first token's output is the sentence vector of bge models.
        vectors[indexes] = model.run([real[index] for index in indexes])[:, 0]
    vectors = _unit(vectors)
    base_vectors, query_vectors = (
        vectors[: len(texts[:REAL])],
        vectors[len(texts[:REAL]) :],
    )
    chance = np.random.default_rng(3)
    synthetic_batches: list[np.ndarray] = []
    # Synthetic vectors: a random point between a real vector and one of its five
    # nearest neighbours, plus noise.
    for _ in range(0, max(0, len(texts) - len(base_vectors)), 2000):
        indexes = chance.integers(0, len(base_vectors), 2000)
        # The nearest entry is the vector itself, so it is skipped.
        neighbours = np.argpartition(
            -(base_vectors[indexes] @ base_vectors.T), 6, axis=1
        )[:, 1:6]
        partner_indexes = neighbours[np.arange(2000), chance.integers(0, 5, 2000)]
        fraction = chance.random((2000, 1), np.float32)
        noise = chance.standard_normal((2000, base_vectors.shape[1]), np.float32) * 0.02
        synthetic_batches.append(
            _unit(
                fraction * base_vectors[indexes]
                + (1 - fraction) * base_vectors[partner_indexes]
                + noise
            )
        )
    return np.concatenate([base_vectors, *synthetic_batches])[: len(texts)].astype(
        np.float32
    ), query_vectors.astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors scaled to length 1; zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
