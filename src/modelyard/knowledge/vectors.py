"""Embedding of texts in batches. Texts are identified by their digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from modelyard.base.lazy import lazy_module
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.rows import IndexContent

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy", extra="knowledge")

BATCH = 64


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """The result of an embedding call. `vectors` is float32, normalised to length 1, of
    shape (texts, dimensions)."""

    vectors: np.ndarray
    model: str


class Embedder(Protocol):
    async def embed(
        self, tenant: str, model: str, texts: Sequence[str], *, is_query: bool = False
    ) -> EmbeddingResult:
        """Embed texts. `is_query` selects the model's query mode, if it has one. Raises
        InvokeError."""
        ...


class DatasetEmbedder:
    """Embeds texts with the model that a dataset's settings name."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def embed_batch(
        self, dataset: Dataset, digests: Sequence[str], texts: Mapping[str, str]
    ) -> tuple[dict[str, bytes], str]:
        """Embed one batch. Returns the vectors by digest, and the name of the model
        that made them. Raises InvokeError."""
        batch_texts = [texts[digest] for digest in digests]
        embedded = await self._embedder.embed(
            dataset.tenant, dataset.settings.embedding, batch_texts
        )
        vectors = map(bytes, embedded.vectors.astype(np.float32))
        return dict(zip(digests, vectors, strict=True)), embedded.model

    async def fill_vectors(
        self, dataset: Dataset, indexed: IndexContent, texts: Mapping[str, str]
    ) -> None:
        """Set the vectors of a document's entries. Raises InvokeError."""
        digests = list(texts)
        vectors_by_digest: dict[str, bytes] = {}
        # The keys are distinct, so identical texts are embedded once.
        for start in range(0, len(digests), BATCH):
            new_vectors, indexed.model = await self.embed_batch(
                dataset, digests[start : start + BATCH], texts
            )
            vectors_by_digest.update(new_vectors)
            # float32 takes four bytes per dimension.
            indexed.dimensions = len(next(iter(new_vectors.values()))) // 4
        for entry in indexed.entries:
            entry.vector = vectors_by_digest.get(entry.digest, b"")
