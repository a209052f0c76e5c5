"""Index in Qdrant over its REST API: one collection per vector length, a dataset's
points selected by a payload field.

Full-text terms are sparse vectors whose values are BM25's term-frequency shares. The
term weights are computed here from the dataset's own counts, so that scores mean the
same as in every other store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.base.errors import ConfigError
from modelyard.base.lazy import lazy_module
from modelyard.knowledge.analysis import decode_term_counts
from modelyard.knowledge.index.base import IndexKey, ReadChanges
from modelyard.knowledge.index.bm25 import K1, B
from modelyard.knowledge.index.follower import ExternalIndex
from modelyard.knowledge.rows import IndexDelta
from modelyard.knowledge.stored.followers import IndexProgress
from modelyard.models.types import JSON
from modelyard.storage.database import StorageUnavailableError
from modelyard.transport.egress import EgressClient, EgressError

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy", extra="knowledge")

_BATCH_POINTS = 256
_MAX_RESPONSE_BYTES = 64 << 20


class QdrantIndex(ExternalIndex):
    """Vector and full-text index in Qdrant."""

    name = "qdrant"

    def __init__(
        self,
        read: ReadChanges,
        followers: IndexProgress,
        egress: EgressClient,
        url: str,
        api_key: str = "",
    ) -> None:
        super().__init__(read, followers)
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                "knowledge.store 'qdrant' requires knowledge.qdrant_url, for example"
                " http://HOST:6333"
            )
        self._egress = egress
        self._url = url.rstrip("/")
        self._headers = [
            ("content-type", "application/json"),
            *([("api-key", api_key)] if api_key else []),
        ]
        self._existing_collections: set[str] = set()
        self._creation_lock = asyncio.Lock()

    async def _request(
        self,
        method: str,
        path: str,
        body: JSON | None = None,
        *,
        may_miss: bool = False,
    ) -> Any:
        """Send a request and return its result; None for status 404 if `may_miss`.
        Raises StorageUnavailableError."""
        data = msgspec.json.encode(body) if body is not None else b""
        try:
            answer = await self._egress.fetch(
                method,
                f"{self._url}{path}",
                headers=self._headers,
                body=data,
                max_bytes=_MAX_RESPONSE_BYTES,
            )
        except EgressError as error:
            raise StorageUnavailableError(
                f"Qdrant at {self._url} cannot be reached: {error}"
            ) from error
        if answer.status == 404 and may_miss:
            return None
        if not 200 <= answer.status < 300:
            error_text = answer.body[:300].decode("utf-8", "replace")
            raise StorageUnavailableError(
                f"Qdrant at {self._url} returned status {answer.status}: {error_text}"
            )
        return msgspec.json.decode(answer.body).get("result")

    async def _ensure_collection(self, dimensions: int) -> str:
        """Return the name of the collection for a vector length, creating it.

        It has the vector `meaning` (cosine distance; none for length 0), the sparse
        vector `words`, and payload indexes on `space` and `document`. Raises
        StorageUnavailableError if Qdrant refuses or does not answer.
        """
        name = f"modelyard-{dimensions}"
        # Collections are never deleted, so an existing one is remembered for the life
        # of the process.
        if name in self._existing_collections:
            return name
        # One creation at a time; the check is repeated for those that waited.
        async with self._creation_lock:
            if (
                name not in self._existing_collections
                and await self._request("GET", f"/collections/{name}", may_miss=True)
                is None
            ):
                vectors = (
                    {"meaning": {"size": dimensions, "distance": "Cosine"}}
                    if dimensions
                    else {}
                )
                await self._request(
                    "PUT",
                    f"/collections/{name}",
                    {"vectors": vectors, "sparse_vectors": {"words": {}}},
                )
                # `is_tenant` lets Qdrant store a dataset's points together.
                for field, schema in (
                    ("space", {"type": "keyword", "is_tenant": True}),
                    ("document", "keyword"),
                ):
                    await self._request(
                        "PUT",
                        f"/collections/{name}/index?wait=true",
                        {"field_name": field, "field_schema": schema},
                    )
            self._existing_collections.add(name)
        return name

    @staticmethod
    def _filter(
        space: IndexKey,
        documents: Collection[str] | None = None,
        entries: Sequence[int] | None = None,
    ) -> JSON:
        """Return Qdrant's filter object for the points of a space.

        It can be restricted to documents by their ids and to entries by their point
        ids; None means no restriction.
        """
        must: list[JSON] = [
            {"key": "space", "match": {"value": f"{space.dataset}/{space.number}"}}
        ]
        if documents is not None:
            must.append({"key": "document", "match": {"any": sorted(documents)}})
        if entries is not None:
            must.append({"has_id": list(entries)})
        return {"must": must}

    # Changes

    async def apply_changes(self, space: IndexKey, changes: IndexDelta) -> None:
        """Write the changed entries in batches and delete removed ones."""
        name = await self._ensure_collection(space.dimensions)
        # A full snapshot replaces all points of the space.
        if changes.is_snapshot:
            await self._request(
                "POST",
                f"/collections/{name}/points/delete?wait=true",
                {"filter": self._filter(space)},
            )
        for start in range(0, len(changes.removed), _BATCH_POINTS * 4):
            removed_ids = changes.removed[start : start + _BATCH_POINTS * 4]
            await self._request(
                "POST",
                f"/collections/{name}/points/delete?wait=true",
                {"points": removed_ids},
            )
        # The mean length goes into the stored values, so it must be known before the
        # points are written.
        average = await self.mean_length_after(space, changes)
        for start in range(0, len(changes.ids), _BATCH_POINTS):
            indexes = range(start, min(start + _BATCH_POINTS, len(changes.ids)))
            points = _points(space, changes, indexes, average)
            await self._request(
                "PUT", f"/collections/{name}/points?wait=true", {"points": points}
            )

    # Search

    async def _query(
        self, space: IndexKey, query: Any, using: str, limit: int, condition: JSON
    ) -> Mapping[int, float]:
        """Run Qdrant's `points/query` and return the score of each entry found.

        `using` names the vector, `meaning` or `words`; `condition` is a filter object.
        Raises StorageUnavailableError if Qdrant refuses or does not answer.
        """
        name = await self._ensure_collection(space.dimensions)
        body = {
            "query": query,
            "using": using,
            "filter": condition,
            "limit": limit,
            "with_payload": False,
            "with_vector": False,
        }
        result = await self._request("POST", f"/collections/{name}/points/query", body)
        return {int(point["id"]): float(point["score"]) for point in result["points"]}

    async def nearest(
        self,
        space: IndexKey,
        vector: np.ndarray,
        limit: int,
        documents: Collection[str] | None,
    ) -> Mapping[int, float]:
        """Return the nearest entries with their cosine similarity."""
        return await self._query(
            space, vector.tolist(), "meaning", limit, self._filter(space, documents)
        )

    async def cosines(
        self, space: IndexKey, vector: np.ndarray, entries: Sequence[int]
    ) -> Mapping[int, float]:
        """Return the cosine similarity of the given entries."""
        condition = self._filter(space, entries=entries)
        return await self._query(
            space, vector.tolist(), "meaning", len(entries), condition
        )

    async def matching(
        self,
        space: IndexKey,
        weights: Mapping[int, float],
        average: float,
        limit: int,
        documents: Collection[str] | None,
    ) -> Mapping[int, float]:
        """Return the entries with the highest BM25 sums."""
        # The stored values already contain the mean length.
        del average
        query = {"indices": list(weights), "values": list(weights.values())}
        return await self._query(
            space, query, "words", limit, self._filter(space, documents)
        )

    async def sums(
        self,
        space: IndexKey,
        weights: Mapping[int, float],
        average: float,
        entries: Sequence[int],
    ) -> Mapping[int, float]:
        """Return the BM25 sums of the given entries."""
        del average
        query = {"indices": list(weights), "values": list(weights.values())}
        return await self._query(
            space, query, "words", len(entries), self._filter(space, entries=entries)
        )

    async def count_points(self, space: IndexKey) -> int:
        """Return the exact number of points in the space."""
        name = await self._ensure_collection(space.dimensions)
        body = {"filter": self._filter(space), "exact": True}
        return int(
            (await self._request("POST", f"/collections/{name}/points/count", body))[
                "count"
            ]
        )

    async def delete(self, dataset: str, number: int | None) -> None:
        """Delete the points of one space, or of all spaces of the dataset, from every
        collection."""
        # The vector length of a deleted space is unknown here, so all collections are
        # cleaned.
        listed = await self._request("GET", "/collections")
        spaces = (
            [f"{dataset}/{number}"]
            if number is not None
            else [
                f"{dataset}/{space_number}"
                for space_number in range(await self._last_space(dataset) + 1)
            ]
        )
        condition = {"must": [{"key": "space", "match": {"any": spaces}}]}
        for collection in listed["collections"]:
            # The server may hold collections of other applications.
            if collection["name"].startswith("modelyard-"):
                path = f"/collections/{collection['name']}/points/delete?wait=true"
                await self._request("POST", path, {"filter": condition})

    async def _last_space(self, dataset: str) -> int:
        """Return the highest space number that is recorded for the dataset."""
        numbers = await self._index_progress.spaces(self.name, dataset)
        return max(numbers, default=0)

    async def aclose(self) -> None:
        """Do nothing: the connections belong to the egress client."""


def _points(
    space: IndexKey, changes: IndexDelta, indexes: range, average: float
) -> list[JSON]:
    """Return Qdrant points for some of the changed entries.

    The shares use the current mean length; it changes so little with each document that
    old points stay valid.
    """
    points: list[JSON] = []
    for index in indexes:
        terms, counts, _ = decode_term_counts([changes.terms[index]])
        norm = K1 * (1 - B + B * changes.lengths[index] / average)
        shares = counts * (K1 + 1) / (counts + norm)
        vector: JSON = {"words": {"indices": terms.tolist(), "values": shares.tolist()}}
        # A point without this vector cannot be found by it, which is correct for
        # entries without one.
        if changes.vectors[index] and space.dimensions:
            vector["meaning"] = np.frombuffer(
                changes.vectors[index], np.float32
            ).tolist()
        payload = {
            "space": f"{space.dataset}/{space.number}",
            "document": changes.documents[index],
        }
        points.append({"id": changes.ids[index], "vector": vector, "payload": payload})
    return points
