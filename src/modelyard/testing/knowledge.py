"""Test double for knowledge: an embedding model that is computed from hashes."""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from modelyard.knowledge.analysis import terms
from modelyard.knowledge.models import normalise
from modelyard.knowledge.vectors import EmbeddingResult


class HashEmbedder:
    """Embedder without a model. A vector is the sum of one random direction per word,
    so texts with common words are similar.

    `dimensions` may be changed later, as if the model were replaced. `on_embed` is
    called with every batch of documents.
    """

    def __init__(
        self,
        dimensions: int = 64,
        *,
        seconds: float = 0.0,
        on_embed: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        self.dimensions = dimensions
        self.name = f"double/hash-{dimensions}"
        self.texts = 0
        self.error: Exception | None = None
        self._seconds = seconds
        self._on_embed = on_embed

    async def embed(
        self, tenant: str, model: str, texts: Sequence[str], *, is_query: bool = False
    ) -> EmbeddingResult:
        """Return the vectors of the texts. Raises `error` if it is set."""
        del tenant, model
        if self.error is not None:
            raise self.error
        if self._seconds:
            await asyncio.sleep(self._seconds)
        embedding = EmbeddingResult(
            normalise(np.stack([self._vector(text) for text in texts])), self.name
        )
        # Only documents are counted; queries would blur what tests check about
        # indexing.
        if not is_query:
            self.texts += len(texts)
            if self._on_embed is not None:
                self._on_embed(texts)
        return embedding

    def _vector(self, text: str) -> np.ndarray:
        """Return the vector of a text before normalisation."""
        # Not zero: the vector of an empty text could not be normalised.
        vector = np.full(self.dimensions, 1e-3, np.float32)
        for term in set(terms(text)):
            vector += _direction(term, self.dimensions)
        return vector


@lru_cache(100_000)
def _direction(term: int, dimensions: int) -> np.ndarray:
    """Return the random direction of a term; the same term always gives the same
    direction."""
    return np.random.default_rng(term).standard_normal(dimensions).astype(np.float32)
