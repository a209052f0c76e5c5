"""Vectors and words in Qdrant, over its REST interface: a collection a vector length, a dataset's points by a payload.

Words are sparse vectors whose values are BM25's shares; what a term weighs is worked out here, of the dataset's own
counts, so that scores mean the same as in every other store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from modelyard.base.errors import ConfigError
from modelyard.base.lazy import lazy
from modelyard.knowledge.analysis import split_counted
from modelyard.knowledge.index.base import ReadChanges, Space
from modelyard.knowledge.index.bm25 import K1, B
from modelyard.knowledge.index.follower import Follower
from modelyard.knowledge.rows import Changes
from modelyard.knowledge.stored.followers import Followers
from modelyard.models.types import JSON
from modelyard.storage.database import StorageUnavailableError
from modelyard.transport.egress import Egress, EgressError

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy", extra="knowledge")

_AT_ONCE = 256
_MOST_ANSWER = 64 << 20


class QdrantIndex(Follower):
    name = "qdrant"

    def __init__(self, read: ReadChanges, followers: Followers, egress: Egress, url: str, api_key: str = "") -> None:
        super().__init__(read, followers)
        if not url.startswith(("http://", "https://")):
            raise ConfigError("knowledge.store qdrant needs knowledge.qdrant_url, as http://HOST:6333")
        self._egress = egress
        self._url = url.rstrip("/")
        self._headers = [("content-type", "application/json"), *([("api-key", api_key)] if api_key else [])]
        self._made: set[str] = set()
        self._making = asyncio.Lock()

    async def _ask(self, method: str, path: str, body: JSON | None = None, *, may_miss: bool = False) -> Any:
        """What it answers; None for what is not there. Raises StorageUnavailableError."""
        data = msgspec.json.encode(body) if body is not None else b""
        try:
            answer = await self._egress.fetch(
                method, f"{self._url}{path}", headers=self._headers, body=data, most_bytes=_MOST_ANSWER
            )
        except EgressError as error:
            raise StorageUnavailableError(f"Qdrant at {self._url} cannot be reached: {error}") from error
        if answer.status == 404 and may_miss:
            return None
        if not 200 <= answer.status < 300:
            said = answer.body[:300].decode("utf-8", "replace")
            raise StorageUnavailableError(f"Qdrant at {self._url} answers with status {answer.status}: {said}")
        return msgspec.json.decode(answer.body).get("result")

    async def _collection(self, dimensions: int) -> str:
        name = f"modelyard-{dimensions}"
        if name in self._made:
            return name
        async with self._making:
            if name not in self._made and await self._ask("GET", f"/collections/{name}", may_miss=True) is None:
                vectors = {"meaning": {"size": dimensions, "distance": "Cosine"}} if dimensions else {}
                await self._ask("PUT", f"/collections/{name}", {"vectors": vectors, "sparse_vectors": {"words": {}}})
                for field, schema in (("space", {"type": "keyword", "is_tenant": True}), ("document", "keyword")):
                    await self._ask(
                        "PUT", f"/collections/{name}/index?wait=true", {"field_name": field, "field_schema": schema}
                    )
            self._made.add(name)
        return name

    @staticmethod
    def _filter(space: Space, documents: Collection[str] | None = None, entries: Sequence[int] | None = None) -> JSON:
        must: list[JSON] = [{"key": "space", "match": {"value": f"{space.dataset}/{space.number}"}}]
        if documents is not None:
            must.append({"key": "document", "match": {"any": sorted(documents)}})
        if entries is not None:
            must.append({"has_id": list(entries)})
        return {"must": must}

    # changes

    async def put(self, space: Space, changes: Changes) -> None:
        name = await self._collection(space.dimensions)
        if changes.is_whole:
            await self._ask("POST", f"/collections/{name}/points/delete?wait=true", {"filter": self._filter(space)})
        for begin in range(0, len(changes.removed), _AT_ONCE * 4):
            gone = changes.removed[begin : begin + _AT_ONCE * 4]
            await self._ask("POST", f"/collections/{name}/points/delete?wait=true", {"points": gone})
        average = await self.average(space, changes)
        for begin in range(0, len(changes.ids), _AT_ONCE):
            places = range(begin, min(begin + _AT_ONCE, len(changes.ids)))
            points = _points(space, changes, places, average)
            await self._ask("PUT", f"/collections/{name}/points?wait=true", {"points": points})

    # search

    async def _query(self, space: Space, query: Any, using: str, most: int, condition: JSON) -> Mapping[int, float]:
        name = await self._collection(space.dimensions)
        body = {
            "query": query, "using": using, "filter": condition, "limit": most, "with_payload": False,
            "with_vector": False,
        }  # fmt: skip
        found = await self._ask("POST", f"/collections/{name}/points/query", body)
        return {int(one["id"]): float(one["score"]) for one in found["points"]}

    async def nearest(
        self, space: Space, vector: np.ndarray, most: int, documents: Collection[str] | None
    ) -> Mapping[int, float]:
        return await self._query(space, vector.tolist(), "meaning", most, self._filter(space, documents))

    async def cosines(self, space: Space, vector: np.ndarray, entries: Sequence[int]) -> Mapping[int, float]:
        condition = self._filter(space, entries=entries)
        return await self._query(space, vector.tolist(), "meaning", len(entries), condition)

    async def matching(
        self, space: Space, weights: Mapping[int, float], average: float, most: int, documents: Collection[str] | None
    ) -> Mapping[int, float]:
        del average  # the shares are stored
        query = {"indices": list(weights), "values": list(weights.values())}
        return await self._query(space, query, "words", most, self._filter(space, documents))

    async def sums(
        self, space: Space, weights: Mapping[int, float], average: float, entries: Sequence[int]
    ) -> Mapping[int, float]:
        del average
        query = {"indices": list(weights), "values": list(weights.values())}
        return await self._query(space, query, "words", len(entries), self._filter(space, entries=entries))

    async def points(self, space: Space) -> int:
        name = await self._collection(space.dimensions)
        body = {"filter": self._filter(space), "exact": True}
        return int((await self._ask("POST", f"/collections/{name}/points/count", body))["count"])

    async def delete(self, dataset: str, number: int | None) -> None:
        listed = await self._ask("GET", "/collections")
        spaces = (
            [f"{dataset}/{number}"] if number is not None
            else [f"{dataset}/{at}" for at in range(await self._last_space(dataset) + 1)]
        )  # fmt: skip
        condition = {"must": [{"key": "space", "match": {"any": spaces}}]}
        for one in listed["collections"]:
            if one["name"].startswith("modelyard-"):
                path = f"/collections/{one['name']}/points/delete?wait=true"
                await self._ask("POST", path, {"filter": condition})

    async def _last_space(self, dataset: str) -> int:
        """The highest number that a space of the dataset was known by."""
        numbers = await self._followers.spaces(self.name, dataset)
        return max(numbers, default=0)

    async def aclose(self) -> None:
        """Its connections are the egress client's."""


def _points(space: Space, changes: Changes, places: range, average: float) -> list[JSON]:
    """With shares by the mean length as it is now: it changes little with every document."""
    points: list[JSON] = []
    for at in places:
        terms, counts, _ = split_counted([changes.terms[at]])
        norm = K1 * (1 - B + B * changes.lengths[at] / average)
        shares = counts * (K1 + 1) / (counts + norm)
        vector: JSON = {"words": {"indices": terms.tolist(), "values": shares.tolist()}}
        if changes.vectors[at] and space.dimensions:
            vector["meaning"] = np.frombuffer(changes.vectors[at], np.float32).tolist()
        payload = {"space": f"{space.dataset}/{space.number}", "document": changes.documents[at]}
        points.append({"id": changes.ids[at], "vector": vector, "payload": payload})
    return points
