"""Doubles for tests of knowledge: an embedding model that is arithmetic, and what needs one."""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from modelyard.knowledge.analysis import terms
from modelyard.knowledge.models import normalised
from modelyard.knowledge.vectors import Embedded


class HashEmbedder:
    """No model: a vector is the sum of one random direction a word, so that texts with the same words are alike.

    `dimensions` can be changed on the way, as a model's do when it is replaced; `told` hears of every batch.
    """

    def __init__(
        self, dimensions: int = 64, *, seconds: float = 0.0, told: Callable[[Sequence[str]], None] | None = None
    ) -> None:
        self.dimensions = dimensions
        self.name = f"double/hash-{dimensions}"
        self.texts = 0
        self.error: Exception | None = None
        self._seconds = seconds
        self._told = told

    async def embed(self, tenant: str, model: str, texts: Sequence[str], *, is_query: bool = False) -> Embedded:
        del tenant, model
        if self.error is not None:
            raise self.error
        if self._seconds:
            await asyncio.sleep(self._seconds)
        made = Embedded(normalised(np.stack([self._vector(one) for one in texts])), self.name)
        if not is_query:
            self.texts += len(texts)
            if self._told is not None:
                self._told(texts)
        return made

    def _vector(self, text: str) -> np.ndarray:
        found = np.full(self.dimensions, 1e-3, np.float32)
        for term in set(terms(text)):
            found += _direction(term, self.dimensions)
        return found


@lru_cache(100_000)
def _direction(term: int, dimensions: int) -> np.ndarray:
    return np.random.default_rng(term).standard_normal(dimensions).astype(np.float32)
