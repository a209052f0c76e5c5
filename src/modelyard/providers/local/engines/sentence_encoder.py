"""Universal Sentence Encoder Multilingual v3: embeddings, similarity, and modelyard's
moderation classifier on top."""

import threading
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import numpy as np

from modelyard.providers.local.engines.multilingual_encoder import (
    DIMENSIONS,
    MultilingualEncoder,
)

# Logits of unit vectors are too close together for the softmax. The classifier was
# trained with the same factor.
# unit vectors are too short for the softmax; the head is trained with the same factor
_SHARPNESS = 6.0
_BATCH = 64


class Engine:
    """Runs the sentence encoder on the CPU."""

    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        del options  # numpy's threads are bounded by the process's environment
        self._encoder = MultilingualEncoder(files["weights"], files["vocabulary"])
        self._head: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def answer(
        self, method: str, payload: Any, is_cancelled: Callable[[], bool]
    ) -> Iterator[Any]:
        """Yield the result of `embed`, `similarity` or `moderate` for all texts."""
        if method == "embed":
            yield pack_vectors(self._encode(payload["texts"], is_cancelled))
        elif method == "similarity":
            vectors = self._encode([payload["query"], *payload["docs"]], is_cancelled)
            # Vectors have length 1, so their product is the cosine similarity.
            yield (vectors[1:] @ vectors[0]).tolist() if len(vectors) > 1 else []
        else:
            yield self._moderate(self._encode(payload["texts"], is_cancelled))

    def _encode(self, texts: list[str], is_cancelled: Callable[[], bool]) -> np.ndarray:
        """Return the vectors of texts, scaled to length 1, a row each.

        If the call is cancelled, the remaining texts have no row.
        """
        rows = [np.zeros((0, DIMENSIONS), np.float32)]
        for start in range(0, len(texts), _BATCH):
            if is_cancelled():
                break
            rows.append(self._encoder.encode(texts[start : start + _BATCH]))
        return normalise(np.concatenate(rows))

    def _moderate(self, vectors: np.ndarray) -> list[dict[str, float]]:
        """Return the probability of each moderation class for each vector."""
        # Few deployments moderate, so the classifier is loaded on first use.
        if self._head is None:
            with (
                resources.files("modelyard.providers.local") / "moderation_head.npz"
            ).open("rb") as stream:
                self._head = dict(np.load(stream, allow_pickle=False))
        names = [str(name) for name in self._head["classes"]]
        logits = (
            vectors * _SHARPNESS @ self._head["weights"].astype(np.float32)
            + self._head["bias"]
        )
        # Softmax; subtracting the maximum avoids an overflow.
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        return [dict(zip(names, row.tolist(), strict=True)) for row in chances]


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors scaled to length 1. A zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def pack_vectors(vectors: np.ndarray) -> dict[str, Any]:
    """Return vectors as bytes of 32-bit floats, a tenth of the transfer cost of lists."""
    return {
        "dimensions": int(vectors.shape[1]),
        "data": vectors.astype("<f4").tobytes(),
    }
