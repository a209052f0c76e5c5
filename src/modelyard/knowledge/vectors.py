"""Vectors of texts: a batch at a time, each text by its digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from modelyard.base.lazy import lazy
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.rows import Indexed

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy", extra="knowledge")

BATCH = 64


@dataclass(frozen=True, slots=True)
class Embedded:
    """`vectors`: float32, each of length 1, shape (texts, dimensions)."""

    vectors: np.ndarray
    model: str


class Embedder(Protocol):
    async def embed(self, tenant: str, model: str, texts: Sequence[str], *, is_query: bool = False) -> Embedded: ...


class Vectors:
    """By the models that datasets name."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def made(
        self, dataset: Dataset, digests: Sequence[str], texts: Mapping[str, str]
    ) -> tuple[dict[str, bytes], str]:
        """Vectors of a batch by digest, and the model that made them. Raises InvokeError."""
        wanted = [texts[digest] for digest in digests]
        embedded = await self._embedder.embed(dataset.tenant, dataset.settings.embedding, wanted)
        vectors = map(bytes, embedded.vectors.astype(np.float32))
        return dict(zip(digests, vectors, strict=True)), embedded.model

    async def fill(self, dataset: Dataset, indexed: Indexed, texts: Mapping[str, str]) -> None:
        """Give the entries of a document their vectors. Raises InvokeError."""
        digests = list(texts)
        known: dict[str, bytes] = {}
        for begin in range(0, len(digests), BATCH):
            made, indexed.model = await self.made(dataset, digests[begin : begin + BATCH], texts)
            known.update(made)
            indexed.dimensions = len(next(iter(made.values()))) // 4
        for entry in indexed.entries:
            entry.vector = known.get(entry.digest, b"")
