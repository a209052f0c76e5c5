"""From a question to the segments that answer it: legs, fusion, rerank, threshold, diversity, in that order.

One meaning of scores: each stage's is 0 to 1, the last stage's is a hit's `score`, and that is what the threshold is
held against, once, at the end. docs/reference/retrieval.md says what each stage's 0 and 1 mean.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.lazy import lazy
from modelyard.knowledge import queries
from modelyard.knowledge.entities import (
    MOST_TOP_K,
    ChildHit,
    Conditions,
    Dataset,
    Document,
    Hit,
    RetrievalSettings,
    SearchMethod,
    Segment,
    Technique,
)
from modelyard.knowledge.filters import check, fits
from modelyard.knowledge.index.base import Found, Index, Question, Space
from modelyard.knowledge.ingest import Writer
from modelyard.knowledge.stored.searches import Searched
from modelyard.knowledge.stored.stored import Stored
from modelyard.knowledge.vectors import Embedder

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy", extra="knowledge")

logger = logging.getLogger("modelyard.knowledge")

_REMEMBERED = 1024
_MOST_ABOUT = 64  # datasets whose documents are remembered for filters
_REMEMBER_SECONDS = 600.0
_DAY = 86_400.0


class Reranker(Protocol):
    async def rerank(self, tenant: str, model: str, query: str, docs: Sequence[str]) -> Sequence[tuple[int, float]]:
        """(place in docs, score), best first."""
        ...


class External(Protocol):
    async def retrieve(
        self, dataset: Dataset, query: str, top_k: int, threshold: float, conditions: Conditions | None
    ) -> Sequence[Mapping[str, Any]]:
        """Records of another server: {content, score, title, metadata}."""
        ...


@dataclass(slots=True, kw_only=True)
class Retrieval:
    """What was found, and how."""

    query: str
    hits: list[Hit] = field(default_factory=list[Hit])
    notes: list[str] = field(default_factory=list[str])
    """What went otherwise than asked: a reranker that failed, a filter that no document meets."""
    milliseconds: dict[str, float] = field(default_factory=dict[str, float])
    """By stage."""
    queries: list[str] = field(default_factory=list[str])
    """What was looked for in the end."""

    def spent(self, stage: str, since: float) -> None:
        self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + (time.perf_counter() - since) * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Who asks what of which datasets, beyond their own settings."""

    tenant: str
    query: str
    settings: RetrievalSettings | None = None
    """For all of the datasets; each one's own where nothing is said."""
    conditions: Conditions | None = None
    automatic_filter: str = ""
    """A model that reads conditions out of the question."""
    user: str | None = None
    """Whose documents may be found: those for all, and those that name this user. None sees all."""
    transforms: Sequence[queries.Transform] = ()
    model: str = "default"
    """For transforms and choices."""
    mode: Literal["multiple", "single"] = "multiple"
    """Ask all datasets, or have the model choose one."""
    merge: RetrievalSettings | None = None
    """What is done with the hits of all the datasets together, where each was searched by its own settings."""
    source: str = "hit_testing"
    counts: bool = True
    """Whether hits are counted."""


class Retriever:
    def __init__(
        self,
        stored: Stored,
        index_of: Callable[[Dataset], Index],
        embedder: Embedder,
        reranker: Reranker | None = None,
        writer: Writer | None = None,
        external: External | None = None,
    ) -> None:
        self._stored = stored
        self._index_of = index_of
        self._embedder = embedder
        self._reranker = reranker
        self._writer = writer
        self._external = external
        self._vectors: OrderedDict[tuple[str, str, str], tuple[float, np.ndarray]] = OrderedDict()
        self._met: OrderedDict[Any, frozenset[str] | set[str]] = OrderedDict()
        self._documents: dict[str, tuple[int, dict[str, dict[str, Any]]]] = {}

    async def search(self, datasets: Sequence[str], asked: Asking) -> Retrieval:
        """Hits of all the datasets as one list, best first. Raises NotFoundError, InvokeError."""
        begun = time.perf_counter()
        if not asked.query.strip():
            raise InvokeBadRequestError("the question is empty", param="query")
        found = Retrieval(query=asked.query)
        known = await self._stored.searches.of(asked.tenant, datasets)
        if asked.mode == "single" and len(known) > 1:
            known = [await self._chosen(known, asked, found)]
        found.queries = await self._transformed(asked, found)
        lists = [await self._one(each, asked, found) for each in known]
        own = known[0].dataset.settings.retrieval_model if len(known) == 1 else RetrievalSettings()
        settings = asked.merge or asked.settings or own
        if len(known) > 1 or asked.merge is not None:
            hits = await self._merged([hit for some in lists for hit in some], settings, asked, found)
        else:
            hits = lists[0] if lists else []
        found.hits = hits[: settings.top_k]
        if asked.counts:
            self._stored.library.count_hits({one.segment.id: one.document.id for one in found.hits if one.document.id})
            for each in known:
                self._stored.queries.remember(asked.tenant, each.dataset.id, asked.query, asked.source)
        found.spent("whole", begun)
        return found

    # before

    async def _chosen(self, known: Sequence[Searched], asked: Asking, found: Retrieval) -> Searched:
        begun = time.perf_counter()
        prompt = queries.choice_prompt(asked.query, [(each.dataset.name, each.dataset.description) for each in known])
        place = queries.chosen(await self._written(asked, prompt, found), len(known))
        found.spent("choose", begun)
        if place is None:
            found.notes.append(f"the model chose no dataset; {known[0].dataset.name!r} was searched")
        return known[place or 0]

    async def _written(self, asked: Asking, prompt: str, found: Retrieval) -> str:
        """What a model says; nothing, and a note, where it cannot."""
        if self._writer is None:
            found.notes.append("there is no model to ask")
            return ""
        try:
            return await self._writer.write(asked.tenant, asked.model, prompt)
        except ModelyardError as error:
            found.notes.append(f"the model could not be asked: {error}")
            return ""

    async def _transformed(self, asked: Asking, found: Retrieval) -> list[str]:
        wanted = [asked.query]
        for transform in asked.transforms:
            begun = time.perf_counter()
            answer = await self._written(asked, queries.PROMPTS[transform].format(query=wanted[0]), found)
            made = queries.read(transform, answer, wanted[0])
            wanted = made if transform == "rewrite" else list(dict.fromkeys([*wanted, *made]))
            found.spent(transform, begun)
        return wanted

    async def _vector(self, dataset: Dataset, query: str) -> np.ndarray:
        key = (dataset.tenant, dataset.settings.embedding, query)
        now = time.monotonic()
        known = self._vectors.get(key)
        if known is not None and now - known[0] < _REMEMBER_SECONDS:
            return known[1]
        made = await self._embedder.embed(dataset.tenant, dataset.settings.embedding, [query], is_query=True)
        vector = made.vectors[0]
        if dataset.dimensions and len(vector) != dataset.dimensions:
            raise InvokeBadRequestError(
                f"embedding model {made.model!r} gives vectors of {len(vector)} numbers; dataset {dataset.name!r} was "
                f"indexed by {dataset.model!r} with {dataset.dimensions}: index it anew, or name that model again"
            )
        self._vectors[key] = (now, vector)
        while len(self._vectors) > _REMEMBERED:
            self._vectors.popitem(last=False)
        return vector

    # one dataset

    async def _one(self, searched: Searched, asked: Asking, found: Retrieval) -> list[Hit]:
        dataset = searched.dataset
        settings = asked.settings or dataset.settings.retrieval_model
        if not 1 <= settings.top_k <= MOST_TOP_K:
            raise InvokeBadRequestError(f"top_k is 1 to {MOST_TOP_K}, not {settings.top_k}", param="top_k")
        conditions = await self._conditions(dataset, settings, asked, found)
        if dataset.settings.provider == "external":
            return await self._elsewhere(dataset, asked, conditions, found)
        documents = await self._allowed(searched, conditions, asked.user)
        if documents is not None and not documents:
            found.notes.append(f"no document of {dataset.name!r} may be searched or meets the conditions")
            return []
        lists = [await self._looked(dataset, query, settings, documents, asked.user, found) for query in found.queries]
        hits = lists[0] if len(lists) == 1 else _best_of(lists)
        hits = await self._reranked(hits, settings, asked, found)
        return await self._finished(hits, settings, found)

    async def _conditions(
        self, dataset: Dataset, settings: RetrievalSettings, asked: Asking, found: Retrieval
    ) -> Conditions | None:
        conditions = asked.conditions or settings.metadata_filtering_conditions
        if conditions is None and asked.automatic_filter:
            fields = [(one.name, one.type) for one in dataset.settings.fields]
            if fields:
                begun = time.perf_counter()
                prompt = queries.filter_prompt(asked.query, fields)
                answer = await self._written(replace(asked, model=asked.automatic_filter), prompt, found)
                conditions = queries.conditions(answer, [name for name, _ in fields])
                found.spent("filter", begun)
        if conditions is not None and conditions.conditions:
            check(conditions)
            return conditions
        return None

    async def _allowed(
        self, searched: Searched, conditions: Conditions | None, user: str | None
    ) -> Collection[str] | None:
        """Documents that may be found; None for all that have entries."""
        if conditions is None and not searched.has_exceptions:
            return None
        dataset = searched.dataset
        key = (dataset.id, dataset.generation, user, msgspec.json.encode(conditions))
        if (known := self._met.get(key)) is not None:
            self._met.move_to_end(key)
            return known
        about = await self._about(dataset)
        found = {
            name
            for name, one in about.items()
            if _may_read(user, one["readers"]) and (conditions is None or fits(one, conditions))
        }
        self._met[key] = found
        if len(self._met) > _MOST_ABOUT:
            self._met.popitem(last=False)
        return found

    async def _about(self, dataset: Dataset) -> dict[str, dict[str, Any]]:
        """What filters look at, of all documents that are switched on. Remembered until the dataset changes."""
        known = self._documents.get(dataset.id)
        if known is not None and known[0] == dataset.generation:
            return known[1]
        about: dict[str, dict[str, Any]] = {}
        for row in await self._stored.documents.about(dataset.tenant, dataset.id):
            about[row["id"]] = {
                "document_name": row["name"], "uploader": row["created_by"], "upload_date": row["created_at"],
                "last_update_date": row["updated_at"],
                "source": msgspec.json.decode(row["source"]).get("kind", ""), **msgspec.json.decode(row["metadata"]),
                "readers": msgspec.json.decode(row["readers"]),
            }  # fmt: skip
        if len(self._documents) > _MOST_ABOUT:
            self._documents.clear()
        self._documents[dataset.id] = (dataset.generation, about)
        return about

    async def _looked(
        self, dataset: Dataset, query: str, settings: RetrievalSettings, documents: Collection[str] | None,
        user: str | None, found: Retrieval,
    ) -> list[Hit]:  # fmt: skip
        method = settings.search_method
        if dataset.settings.indexing_technique is Technique.ECONOMY or not dataset.dimensions:
            method = SearchMethod.KEYWORD
        vector: np.ndarray | None = None
        if method in (SearchMethod.SEMANTIC, SearchMethod.HYBRID):
            begun = time.perf_counter()
            vector = await self._vector(dataset, query)
            found.spent("embed", begun)
        share, _ = settings.weights.shares if settings.weights is not None else (0.5, 0.5)
        space = Space(dataset.tenant, dataset.id, dataset.space, dataset.dimensions, dataset.generation)
        index = self._index_of(dataset)
        wanted = max(settings.top_k, settings.rerank_candidates if settings.reranker else 0)
        if settings.mmr is not None:
            wanted = max(wanted, settings.top_k * 5)
        most = wanted + 8
        while True:
            asked = Question(
                vector=vector, text=None if method is SearchMethod.SEMANTIC else query, meaning=share,
                fusion="ranks" if settings.fusion == "ranks" else "weights", most=most,
                candidates=max(settings.candidates, most), documents=documents,
            )  # fmt: skip
            begun = time.perf_counter()
            entries = await index.search(space, asked)
            found.spent("search", begun)
            begun = time.perf_counter()
            hits = await self._filled(dataset, entries, user)
            found.spent("fetch", begun)
            # Children share segments, and some of what was found is gone or switched off meanwhile: look for more.
            if len(hits) >= wanted or len(entries) < most or most > 20 * wanted:
                return hits[:wanted]
            most *= 4

    async def _filled(self, dataset: Dataset, entries: Sequence[Found], user: str | None) -> list[Hit]:
        """Segments of what was found, each once, with its children that were."""
        details = await self._stored.searches.details(dataset.tenant, dataset.id, [one.entry for one in entries])
        hits: dict[str, Hit] = {}
        for one in entries:
            detail = details.of_entries.get(one.entry)
            document = details.documents.get(detail.segment.document) if detail else None
            if detail is None or document is None or not document.is_enabled or document.is_archived:
                continue
            if not _may_read(user, document.readers):  # its readers were named while others were looked for
                continue
            child = detail.child
            shown = (
                [ChildHit(id=child.id, content=child.content, position=child.position, score=one.score)]
                if child
                else []
            )
            known = hits.get(detail.segment.id)
            if known is not None:
                known.children.extend(shown)
                continue
            scores = {
                name: value
                for name, value in (("semantic", one.semantic), ("full_text", one.words))
                if value is not None
            }
            hits[detail.segment.id] = Hit(
                segment=detail.segment, document=document, dataset=dataset, score=one.score, scores=scores,
                children=shown, entry=one.entry,
            )  # fmt: skip
        return list(hits.values())

    async def _elsewhere(
        self, dataset: Dataset, asked: Asking, conditions: Conditions | None, found: Retrieval
    ) -> list[Hit]:
        if self._external is None:
            raise InvokeBadRequestError("other servers' knowledge cannot be asked here")
        begun = time.perf_counter()
        wanted = dataset.settings.external_retrieval_model
        threshold = wanted.score_threshold if wanted.score_threshold_enabled else 0.0
        records = await self._external.retrieve(dataset, asked.query, wanted.top_k, threshold, conditions)
        found.spent("external", begun)
        hits: list[Hit] = []
        for place, one in enumerate(records):
            given = one.get("metadata")
            metadata: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
            title = str(one.get("title") or "")
            segment = Segment(
                tenant=dataset.tenant, dataset=dataset.id, document="", id="", position=place + 1,
                content=str(one.get("content") or ""),
            )  # fmt: skip
            document = Document(tenant=dataset.tenant, dataset=dataset.id, id="", name=title, metadata=metadata)
            score = float(one.get("score") or 0.0)
            hits.append(Hit(segment=segment, document=document, dataset=dataset, score=score, title=title))
        return hits

    # after

    async def _reranked(
        self, hits: list[Hit], settings: RetrievalSettings, asked: Asking, found: Retrieval
    ) -> list[Hit]:
        model = settings.reranker
        if model is None or not hits:
            return hits
        begun = time.perf_counter()
        if self._reranker is None:
            found.notes.append("there is no rerank model; the order is that of the search")
            return hits
        some = _different(hits)[: settings.rerank_candidates]
        try:
            order = await self._reranker.rerank(asked.tenant, model, asked.query, [one.text for one in some])
        except ModelyardError as error:
            logger.warning("a rerank model failed", extra={"fields": {"model": model, "error": str(error)}})
            found.notes.append(f"rerank model {model!r} failed, so the order is that of the search: {error}")
            return hits
        finally:
            found.spent("rerank", begun)
        return [
            msgspec.structs.replace(
                some[place], score=min(1.0, max(0.0, score)), scores={**some[place].scores, "rerank": score}
            )
            for place, score in order
        ]

    async def _finished(self, hits: list[Hit], settings: RetrievalSettings, found: Retrieval) -> list[Hit]:
        if settings.recency_days:
            hits = _by_recency(hits, settings.recency_days, self._stored.now())
        threshold = settings.threshold
        if threshold > 0:
            hits = [one for one in hits if one.score >= threshold]
        if settings.mmr is not None and len(hits) > 1:
            begun = time.perf_counter()
            hits = await self._diverse(hits, settings)
            found.spent("diversity", begun)
        return hits[: settings.top_k]

    async def _diverse(self, hits: list[Hit], settings: RetrievalSettings) -> list[Hit]:
        vectors = await self._stored.entries.vectors([one.entry for one in hits])
        width = max((len(one) for one in vectors.values()), default=0)
        if not width:
            return hits
        rows = [np.frombuffer(vectors.get(one.entry) or bytes(width), np.float32) for one in hits]
        order = mmr(np.stack(rows), [one.score for one in hits], settings.mmr or 0.0, settings.top_k)
        return [hits[place] for place in order]

    async def _merged(self, hits: list[Hit], settings: RetrievalSettings, asked: Asking, found: Retrieval) -> list[Hit]:
        """Of several datasets: by the rerank model where there is one, else by scores, which all are 0 to 1."""
        hits = sorted(hits, key=lambda one: -one.score)
        hits = await self._reranked(hits, settings, asked, found)
        threshold = settings.threshold
        return [one for one in hits if one.score >= threshold] if threshold > 0 else hits


def _may_read(user: str | None, readers: Collection[str]) -> bool:
    """Where nobody is named, all may; and None is somebody who sees all."""
    return user is None or not readers or user in readers


def mmr(vectors: np.ndarray, scores: Sequence[float], relevance: float, most: int) -> list[int]:
    """Places in the order of maximal marginal relevance (Carbonell, Goldstein 1998)."""
    left = list(range(len(scores)))
    taken: list[int] = []
    nearest = np.full(len(scores), 0.0)
    while left and len(taken) < most:
        best = max(left, key=lambda at: relevance * scores[at] - (1 - relevance) * float(nearest[at]))
        taken.append(best)
        left.remove(best)
        nearest = np.maximum(nearest, vectors @ vectors[best])
    return taken


def _by_recency(hits: Sequence[Hit], half_life: float, now: float) -> list[Hit]:
    def aged(one: Hit) -> Hit:
        days = max(0.0, now - one.document.updated_at) / _DAY
        return msgspec.structs.replace(one, score=one.score * 0.5 ** (days / half_life))

    return sorted(map(aged, hits), key=lambda one: -one.score)


def _best_of(lists: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Of several questions, each segment with the best that any gave it."""
    best: dict[str, Hit] = {}
    for one in (hit for some in lists for hit in some):
        known = best.get(one.segment.id)
        if known is None or one.score > known.score:
            best[one.segment.id] = one
    return sorted(best.values(), key=lambda one: -one.score)


def _different(hits: Sequence[Hit]) -> list[Hit]:
    """Those with words of their own: the same twice is not worth a model's time."""
    seen: set[str] = set()
    found: list[Hit] = []
    for one in hits:
        if one.text not in seen:
            seen.add(one.text)
            found.append(one)
    return found
