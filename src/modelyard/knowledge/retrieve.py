"""Retrieval: from a question to the segments that answer it, by search legs, fusion,
rerank, threshold and diversity.

Scores have one meaning: each stage's score is 0 to 1, the last stage's is the hit's
`score`, and the threshold applies to that, once, at the end.
docs/reference/retrieval.md explains what 0 and 1 mean in each stage.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.base.json_types import is_mapping
from modelyard.base.lazy import lazy_module
from modelyard.knowledge import access, queries
from modelyard.knowledge.document_filters import DocumentFilters
from modelyard.knowledge.entities import (
    MAX_TOP_K,
    ChildHit,
    Conditions,
    Dataset,
    Document,
    ExternalRetrieval,
    Hit,
    RetrievalSettings,
    SearchMethod,
    Segment,
    Technique,
)
from modelyard.knowledge.filters import check
from modelyard.knowledge.index.base import Index, IndexHit, IndexKey, IndexQuery
from modelyard.knowledge.ingest import Writer
from modelyard.knowledge.reranking import (
    QueryTooLongError,
    combined_order,
    finds_nothing,
)
from modelyard.knowledge.rows import EntryContent
from modelyard.knowledge.stored.repositories import KnowledgeStore
from modelyard.knowledge.stored.searches import SearchTarget
from modelyard.knowledge.vectors import Embedder
from modelyard.tenancy.reader import ANYBODY, EVERYONE, Reader, own_principals

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy", extra="knowledge")

logger = logging.getLogger("modelyard.knowledge")

_MAX_CACHED_VECTORS = 1024
_VECTOR_CACHE_SECONDS = 600.0
_DAY = 86_400.0


class Reranker(Protocol):
    """A model that orders documents by their relevance to a query."""

    async def rerank(
        self, tenant: str, model: str, query: str, docs: Sequence[str]
    ) -> Sequence[tuple[int, float]]:
        """Return (index in docs, score), best first. Raises ModelyardError."""
        ...


class ExternalSearch(Protocol):
    """A search on another server."""

    async def retrieve(
        self,
        dataset: Dataset,
        query: str,
        top_k: int,
        threshold: float,
        conditions: Conditions | None,
    ) -> Sequence[Mapping[str, Any]]:
        """Return the server's records: {content, score, title, metadata}."""
        ...


PrincipalsOf = Callable[[str, Reader], frozenset[str] | None]
"""(tenant, reader) → the reader's principals now; None if access lists do not apply."""


@dataclass(slots=True, kw_only=True)
class Retrieval:
    """The result of a search, with notes and timings."""

    query: str
    hits: list[Hit] = field(default_factory=list[Hit])
    notes: list[str] = field(default_factory=list[str])
    """Degradations: for example a reranker that failed, or a filter that no document
    meets."""
    milliseconds: dict[str, float] = field(default_factory=dict[str, float])
    """Duration of each stage."""
    queries: list[str] = field(default_factory=list[str])
    """The queries that were searched after all transforms."""

    def add_duration(self, stage: str, since: float) -> None:
        """Add the time since `since` to a stage's duration."""
        self.milliseconds[stage] = (
            self.milliseconds.get(stage, 0.0) + (time.perf_counter() - since) * 1000
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A search of datasets, with settings that override the datasets' own."""

    tenant: str
    query: str
    settings: RetrievalSettings | None = None
    """Used for all datasets; None means each dataset's own settings."""
    external: ExternalRetrieval | None = None
    """Used for external datasets; None means the dataset's own settings."""
    conditions: Conditions | None = None
    automatic_filter: str = ""
    """Name of a model that derives metadata conditions from the question; empty for
    none."""
    reader: Reader = ANYBODY
    """On whose behalf documents are searched: only what this reader may read is found.
    By default what everyone may read."""
    transforms: Sequence[queries.Transform] = ()
    model: str = "default"
    """The model for transforms and for the choice of a dataset."""
    mode: Literal["multiple", "single"] = "multiple"
    """Search all datasets, or have the model choose one."""
    merge: RetrievalSettings | None = None
    """Settings for merging the hits if each dataset was searched with its own settings.
    """
    source: str = "hit_testing"
    counts: bool = True
    """Whether the search is recorded in the hit counters and the query history."""


class _Scope(NamedTuple):
    """What a search of a dataset may find."""

    documents: Collection[str] | None
    """Ids of documents; None for all."""
    reader: Reader
    hides_others: bool = False
    """Whether the scores must tell nothing of other documents."""


class Retriever:
    """Searches datasets for a question."""

    def __init__(
        self,
        store: KnowledgeStore,
        index_of: Callable[[Dataset], Index],
        embedder: Embedder,
        reranker: Reranker | None = None,
        writer: Writer | None = None,
        external: ExternalSearch | None = None,
        principals_of: PrincipalsOf = own_principals,
    ) -> None:
        self._store = store
        self._index_of = index_of
        self._embedder = embedder
        self._reranker = reranker
        self._writer = writer
        self._external = external
        self._principals_of = principals_of
        self._vectors: OrderedDict[tuple[str, str, str], tuple[float, np.ndarray]] = (
            OrderedDict()
        )
        self._filters = DocumentFilters(store.documents)

    async def search(
        self, datasets: Sequence[str], search_request: SearchRequest
    ) -> Retrieval:
        """Search datasets and return their hits as one list, best first.

        In mode `single` a model chooses one of several datasets. Queries are
        transformed once for all datasets. What went wrong without failing the search is
        in the result's `notes`. Raises NotFoundError for an unknown dataset,
        InvokeBadRequestError for an empty query, InvokeError for a failed model call.
        """
        started_at = time.perf_counter()
        if not search_request.query.strip():
            raise InvokeBadRequestError("'query' must not be empty", param="query")
        retrieval = Retrieval(query=search_request.query)
        targets = await self._store.searches.targets(search_request.tenant, datasets)
        if search_request.mode == "single" and len(targets) > 1:
            targets = [await self._choose_dataset(targets, search_request, retrieval)]
        # Queries are transformed once for all datasets.
        retrieval.queries = await self._transform_query(search_request, retrieval)
        lists = [
            await self._search_dataset(target, search_request, retrieval)
            for target in targets
        ]
        settings = _merge_settings(targets, search_request)
        # Hits of several datasets are ordered again together; those of one dataset
        # already have their final order.
        if len(targets) > 1 or search_request.merge is not None:
            hits = await self._merge_datasets(
                [hit for dataset_hits in lists for hit in dataset_hits],
                settings,
                search_request,
                retrieval,
            )
        else:
            hits = lists[0] if lists else []
        retrieval.hits = hits[: settings.top_k]
        if search_request.counts:
            self._record_search(targets, search_request, retrieval)
        retrieval.add_duration("whole", started_at)
        return retrieval

    def _record_search(
        self,
        targets: Sequence[SearchTarget],
        search_request: SearchRequest,
        retrieval: Retrieval,
    ) -> None:
        """Update the hit counters and the query history."""
        # Hits of external servers have no document to count.
        self._store.library.count_hits(
            {
                hit.segment.id: hit.document.id
                for hit in retrieval.hits
                if hit.document.id
            }
        )
        for target in targets:
            self._store.queries.record(
                search_request.tenant,
                target.dataset.id,
                search_request.query,
                search_request.source,
            )

    # Before the search

    async def _choose_dataset(
        self,
        targets: Sequence[SearchTarget],
        search_request: SearchRequest,
        retrieval: Retrieval,
    ) -> SearchTarget:
        """Have a model choose the one dataset that suits the question best.

        If its reply is unusable or the call fails, the first dataset is searched and
        the result gets a note.
        """
        started_at = time.perf_counter()
        prompt = queries.choice_prompt(
            search_request.query,
            [(target.dataset.name, target.dataset.description) for target in targets],
        )
        target_index = queries.parse_choice(
            await self._ask_model(search_request, prompt, retrieval), len(targets)
        )
        retrieval.add_duration("choose", started_at)
        # A useless reply of the model must not fail the search.
        if target_index is None:
            retrieval.notes.append(
                "The model selected no dataset;"
                f" {targets[0].dataset.name!r} was searched"
            )
        return targets[target_index or 0]

    async def _ask_model(
        self, search_request: SearchRequest, prompt: str, retrieval: Retrieval
    ) -> str:
        """Return a model's reply; on failure an empty text, with a note in the result."""
        if self._writer is None:
            retrieval.notes.append("No chat model is configured")
            return ""
        try:
            return await self._writer.complete(
                search_request.tenant, search_request.model, prompt
            )
        except ModelyardError as error:
            retrieval.notes.append(f"The model request failed: {error}")
            return ""

    async def _transform_query(
        self, search_request: SearchRequest, retrieval: Retrieval
    ) -> list[str]:
        """Return the queries to search for: the question, as the transforms change it.

        A rewrite replaces the question; the other transforms add queries. Each is one
        model call; a call that fails gives a note in the result.
        """
        search_queries = [search_request.query]
        for transform in search_request.transforms:
            started_at = time.perf_counter()
            answer = await self._ask_model(
                search_request,
                queries.PROMPTS[transform].format(query=search_queries[0]),
                retrieval,
            )
            new_queries = queries.parse_transform(transform, answer, search_queries[0])
            # A rewrite replaces the question; the other transforms add queries to it.
            search_queries = (
                new_queries
                if transform == "rewrite"
                else list(dict.fromkeys([*search_queries, *new_queries]))
            )
            retrieval.add_duration(transform, started_at)
        return search_queries

    async def _vector(self, dataset: Dataset, query: str) -> np.ndarray:
        """Return the embedding of a query, cached for ten minutes.

        Raises InvokeBadRequestError if the model's vectors have another length than the
        dataset's index, ModelyardError if the model fails.
        """
        key = (dataset.tenant, dataset.settings.embedding, query)
        current_time = time.monotonic()
        cached = self._vectors.get(key)
        # Repeated questions are frequent, for example on each page of results.
        if cached is not None and current_time - cached[0] < _VECTOR_CACHE_SECONDS:
            return cached[1]
        embedded = await self._embedder.embed(
            dataset.tenant, dataset.settings.embedding, [query], is_query=True
        )
        vector = embedded.vectors[0]
        # Vectors of another model cannot be compared, even if they happened to have the
        # same length.
        if dataset.dimensions and len(vector) != dataset.dimensions:
            raise InvokeBadRequestError(
                f"Embedding model {embedded.model!r} returned vectors of {len(vector)}"
                f" dimensions, but dataset {dataset.name!r} was indexed by"
                f" {dataset.model!r} with {dataset.dimensions}: reindex the dataset, or"
                " set its embedding model to that model again"
            )
        self._vectors[key] = (current_time, vector)
        while len(self._vectors) > _MAX_CACHED_VECTORS:
            self._vectors.popitem(last=False)
        return vector

    # One dataset

    async def _search_dataset(
        self,
        searched: SearchTarget,
        search_request: SearchRequest,
        retrieval: Retrieval,
    ) -> list[Hit]:
        """Search one dataset and return its hits, best first.

        The request's settings take precedence over the dataset's. Returns no hits, with
        a note in the result, if no document meets the conditions. Raises
        InvokeBadRequestError for an invalid `top_k` or condition.
        """
        dataset = searched.dataset
        settings = search_request.settings or dataset.settings.retrieval_model
        if not 1 <= settings.top_k <= MAX_TOP_K:
            raise InvokeBadRequestError(
                f"top_k must be between 1 and {MAX_TOP_K}, got {settings.top_k}",
                param="top_k",
            )
        conditions = await self._conditions(
            dataset, settings, search_request, retrieval
        )
        if dataset.settings.provider == "external":
            # Its documents have no lists here, so that the default decides.
            if not self._may_search(dataset, search_request.reader):
                return []
            return await self._search_external(
                dataset, search_request, conditions, retrieval
            )
        scope = await self._scope(searched, conditions, search_request.reader)
        # An empty set differs from None, which means no restriction.
        if scope.documents is not None and not scope.documents:
            retrieval.notes.append(
                f"Dataset {dataset.name!r} has no document that is searchable and meets"
                " the conditions"
            )
            return []
        # Each transformed query is searched, and the best score of each segment counts.
        lists = [
            await self._search_index(dataset, query, settings, scope, retrieval)
            for query in retrieval.queries
        ]
        hits = lists[0] if len(lists) == 1 else _merge_queries(lists)
        hits = await self._rerank(hits, settings, search_request, retrieval)
        return await self._post_process(hits, settings, retrieval)

    async def _conditions(
        self,
        dataset: Dataset,
        settings: RetrievalSettings,
        search_request: SearchRequest,
        retrieval: Retrieval,
    ) -> Conditions | None:
        """Return the metadata conditions of a search; None if there are none.

        Those of the request come before those of the dataset. Without either, a model
        may derive them from the question, if the request asks for that and the dataset
        has metadata fields. Raises InvokeBadRequestError for invalid conditions.
        """
        # Conditions of the request take precedence over those of the dataset.
        conditions = search_request.conditions or settings.metadata_filtering_conditions
        if conditions is None and search_request.automatic_filter:
            fields = [
                (metadata_field.name, metadata_field.type)
                for metadata_field in dataset.settings.fields
            ]
            if fields:
                started_at = time.perf_counter()
                prompt = queries.filter_prompt(search_request.query, fields)
                answer = await self._ask_model(
                    replace(search_request, model=search_request.automatic_filter),
                    prompt,
                    retrieval,
                )
                conditions = queries.parse_conditions(
                    answer, [name for name, _ in fields]
                )
                retrieval.add_duration("filter", started_at)
        if conditions is not None and conditions.conditions:
            check(conditions)
            return conditions
        return None

    async def _scope(
        self, searched: SearchTarget, conditions: Conditions | None, reader: Reader
    ) -> _Scope:
        """Return what a search of the reader may find in a dataset."""
        dataset = searched.dataset
        principals = self._principals_of(dataset.tenant, reader)
        is_open = dataset.settings.default_access == EVERYONE
        # A disabled reader has no principals, and may not read open documents either.
        hides_others = principals is not None and (
            searched.has_exceptions or not is_open or not principals
        )
        # Disabled documents are hidden from everybody, access lists or not.
        if conditions is None and not searched.has_exceptions and not hides_others:
            return _Scope(None, reader)
        documents = await self._filters.allowed(dataset, conditions, principals)
        return _Scope(documents, reader, hides_others)

    async def readable_documents(
        self, dataset: Dataset, reader: Reader
    ) -> Collection[str] | None:
        """Return the ids of the documents of a dataset that a reader's searches may
        find; None for all documents."""
        (target,) = await self._store.searches.targets(dataset.tenant, [dataset.id])
        return (await self._scope(target, None, reader)).documents

    def _may_search(self, dataset: Dataset, reader: Reader) -> bool:
        """Return whether a reader may read documents of a dataset without lists."""
        principals = self._principals_of(dataset.tenant, reader)
        return access.may_read(principals, (), dataset.settings.default_access)

    def may_read(self, dataset: Dataset, document: Document, reader: Reader) -> bool:
        """Return whether a reader's searches may find a document."""
        principals = self._principals_of(dataset.tenant, reader)
        return _is_readable(dataset, document, principals)

    async def _search_index(
        self,
        dataset: Dataset,
        query: str,
        settings: RetrievalSettings,
        scope: _Scope,
        retrieval: Retrieval,
    ) -> list[Hit]:
        """Search a dataset's index for one query; return its segments, best first.

        Economy datasets, and those without vectors, are searched by words only. If
        several entries share a segment or may not be shown, the search is repeated with
        a larger limit until there are enough hits or no more entries.
        """
        method = _search_method(dataset, settings)
        vector: np.ndarray | None = None
        if method in (SearchMethod.SEMANTIC, SearchMethod.HYBRID):
            started_at = time.perf_counter()
            vector = await self._vector(dataset, query)
            retrieval.add_duration("embed", started_at)
        semantic_weight, _ = (
            settings.weights.shares if settings.weights is not None else (0.5, 0.5)
        )
        space = IndexKey(
            dataset.tenant,
            dataset.id,
            dataset.space,
            dataset.dimensions,
            dataset.generation,
        )
        index = self._index_of(dataset)
        required_count = _candidate_count(settings)
        # A few extra entries usually make up for children that share a segment.
        limit = required_count + 8
        while True:
            index_query = IndexQuery(
                vector=vector,
                text=None if method is SearchMethod.SEMANTIC else query,
                semantic_weight=semantic_weight,
                fusion=settings.effective_fusion,
                limit=limit,
                candidates=max(settings.candidates, limit),
                documents=scope.documents,
                hides_others=scope.hides_others,
            )
            started_at = time.perf_counter()
            entries = await index.search(space, index_query)
            retrieval.add_duration("search", started_at)
            started_at = time.perf_counter()
            hits = await self._load_segments(dataset, entries, scope.reader)
            retrieval.add_duration("fetch", started_at)
            # Children share segments, and some entries may have been deleted or
            # disabled meanwhile: search for more.
            if (
                len(hits) >= required_count
                or len(entries) < limit
                # A filter that hides nearly everything must not read the whole index.
                or limit > 20 * required_count
            ):
                return hits[:required_count]
            limit *= 4

    async def _load_segments(
        self, dataset: Dataset, entries: Sequence[IndexHit], reader: Reader
    ) -> list[Hit]:
        """Load the segments of index entries: each once, with its matching children.
        Entries that may not be shown are skipped."""
        details = await self._store.searches.load_entries(
            dataset.tenant, dataset.id, [entry.entry for entry in entries]
        )
        # Looked up after the rows were read: groups may have changed meanwhile too.
        principals = self._principals_of(dataset.tenant, reader)
        hits: dict[str, Hit] = {}
        for entry in entries:
            detail = details.of_entries.get(entry.entry)
            if detail is None:
                continue
            document = details.documents.get(detail.segment.document)
            # Its list may have changed since the allowed documents were determined.
            if document is None or not _is_readable(dataset, document, principals):
                continue
            child_hits = _child_hits(detail, entry.score)
            existing_hit = hits.get(detail.segment.id)
            # Entries are ordered by score, so the first entry of a segment determines
            # its score.
            if existing_hit is not None:
                existing_hit.children.extend(child_hits)
                continue
            hits[detail.segment.id] = Hit(
                segment=detail.segment,
                document=document,
                dataset=dataset,
                score=entry.score,
                scores=_stage_scores(entry),
                children=child_hits,
                entry=entry.entry,
            )
        return list(hits.values())

    async def _search_external(
        self,
        dataset: Dataset,
        search_request: SearchRequest,
        conditions: Conditions | None,
        retrieval: Retrieval,
    ) -> list[Hit]:
        """Search an external knowledge base and return its records as hits.

        The limit and the threshold are those of the dataset's external settings. Raises
        InvokeBadRequestError if external knowledge is not available, ModelyardError if
        the server fails.
        """
        if self._external is None:
            raise InvokeBadRequestError(
                f"Dataset {dataset.name!r} is external, but external knowledge is not"
                " available here"
            )
        started_at = time.perf_counter()
        external_settings = _external_settings(dataset, search_request)
        threshold = (
            external_settings.score_threshold
            if external_settings.score_threshold_enabled
            else 0.0
        )
        records = await self._external.retrieve(
            dataset,
            search_request.query,
            external_settings.top_k,
            threshold,
            conditions,
        )
        retrieval.add_duration("external", started_at)
        return [
            _external_hit(dataset, record, position=index + 1)
            for index, record in enumerate(records)
        ]

    # After the search

    async def _rerank(
        self,
        hits: list[Hit],
        settings: RetrievalSettings,
        search_request: SearchRequest,
        retrieval: Retrieval,
    ) -> list[Hit]:
        """Order hits by the scores of the rerank model, limited to 0 to 1.

        Only the best candidates, each text once, are sent and returned. Without a model
        the hits are returned unchanged; also, with a note in the result, if none is
        available, its call fails, or the query is too long for it. Hits have the
        model's scores; their order is of the model and of the search.
        """
        model = settings.reranker
        if model is None or not hits:
            return hits
        started_at = time.perf_counter()
        if self._reranker is None:
            retrieval.notes.append(
                "No rerank model is configured; hits are in search order"
            )
            return hits
        # Rerank models are billed by document: identical texts are sent once.
        candidates = _deduplicate(hits)[: settings.rerank_candidates]
        try:
            order = await self._reranker.rerank(
                search_request.tenant,
                model,
                search_request.query,
                [hit.text for hit in candidates],
            )
        except QueryTooLongError as error:
            retrieval.notes.append(f"Hits are in search order: {error}")
            return hits
        except ModelyardError as error:
            logger.warning(
                "rerank model failed",
                extra={"fields": {"model": model, "error": str(error)}},
            )
            retrieval.notes.append(
                f"Rerank model {model!r} failed; hits are in search order: {error}"
            )
            return hits
        finally:
            retrieval.add_duration("rerank", started_at)
        if finds_nothing([score for _, score in order]):
            retrieval.notes.append(
                f"Rerank model {model!r} finds that no hit fits the question"
            )
        combined = combined_order(
            [candidates[index].score for index, _ in order],
            [score for _, score in order],
        )
        return [
            msgspec.structs.replace(
                # Some models return scores outside of 0 to 1.
                candidates[index],
                score=min(1.0, max(0.0, score)),
                scores={**candidates[index].scores, "rerank": score},
            )
            for index, score in (order[position] for position in combined)
        ]

    async def _post_process(
        self, hits: list[Hit], settings: RetrievalSettings, retrieval: Retrieval
    ) -> list[Hit]:
        """Apply recency, threshold and diversity, in this order, and cut at `top_k`."""
        # Recency changes the scores, so it comes before the threshold.
        if settings.recency_days:
            hits = _by_recency(hits, settings.recency_days, self._store.clock())
        threshold = settings.threshold
        if threshold > 0:
            hits = [hit for hit in hits if hit.score >= threshold]
        if settings.mmr is not None and len(hits) > 1:
            started_at = time.perf_counter()
            # Diversity selects among the hits that passed the threshold.
            hits = await self._diversify(hits, settings)
            retrieval.add_duration("diversity", started_at)
        return hits[: settings.top_k]

    async def _diversify(
        self, hits: list[Hit], settings: RetrievalSettings
    ) -> list[Hit]:
        """Reorder hits by maximal marginal relevance, at most `top_k` of them.

        An entry without a stored vector counts as similar to none. If no entry has one,
        the hits are returned unchanged.
        """
        vectors = await self._store.entries.vectors([hit.entry for hit in hits])
        width = max((len(vector) for vector in vectors.values()), default=0)
        if not width:
            return hits
        # Entries without a vector count as dissimilar to everything.
        rows = [
            np.frombuffer(vectors.get(hit.entry) or bytes(width), np.float32)
            for hit in hits
        ]
        order = mmr(
            np.stack(rows),
            [hit.score for hit in hits],
            settings.mmr or 0.0,
            settings.top_k,
        )
        return [hits[index] for index in order]

    async def _merge_datasets(
        self,
        hits: list[Hit],
        settings: RetrievalSettings,
        search_request: SearchRequest,
        retrieval: Retrieval,
    ) -> list[Hit]:
        """Merge the hits of several datasets: by the rerank model if there is one,
        otherwise by score."""
        hits = sorted(hits, key=lambda hit: -hit.score)
        hits = await self._rerank(hits, settings, search_request, retrieval)
        threshold = settings.threshold
        return (
            [hit for hit in hits if hit.score >= threshold] if threshold > 0 else hits
        )


def _merge_settings(
    targets: Sequence[SearchTarget], search_request: SearchRequest
) -> RetrievalSettings:
    """Return the settings for the joined hits of all datasets."""
    if (settings := search_request.merge or search_request.settings) is not None:
        return settings
    if len(targets) == 1:
        dataset = targets[0].dataset
        settings = dataset.settings.retrieval_model
        # The other server was asked for this many records.
        if dataset.settings.provider == "external":
            external_settings = _external_settings(dataset, search_request)
            return msgspec.structs.replace(settings, top_k=external_settings.top_k)
        return settings
    return RetrievalSettings()


def _external_settings(
    dataset: Dataset, search_request: SearchRequest
) -> ExternalRetrieval:
    return search_request.external or dataset.settings.external_retrieval_model


def _search_method(dataset: Dataset, settings: RetrievalSettings) -> SearchMethod:
    """Return the search method, which is full text for a dataset without vectors."""
    # Without vectors only the full-text search is possible, whatever the settings say.
    if (
        dataset.settings.indexing_technique is Technique.ECONOMY
        or not dataset.dimensions
    ):
        return SearchMethod.KEYWORD
    return settings.search_method


def _candidate_count(settings: RetrievalSettings) -> int:
    """Return how many hits the search must find: the rerank model and the diversity
    stage need more candidates than are returned."""
    count = settings.top_k
    if settings.reranker:
        count = max(count, settings.rerank_candidates)
    if settings.mmr is not None:
        count = max(count, settings.top_k * 5)
    return count


def _is_readable(
    dataset: Dataset, document: Document, principals: frozenset[str] | None
) -> bool:
    """Return whether a search with these principals may return a document."""
    if not document.is_enabled or document.is_archived:
        return False
    default = dataset.settings.default_access
    return access.may_read(principals, document.readers, default)


def _child_hits(detail: EntryContent, score: float) -> list[ChildHit]:
    """Return the child segment that an entry stands for, as a list of at most one hit.

    The list is empty if the entry stands for its whole segment.
    """
    child = detail.child
    if child is None:
        return []
    return [
        ChildHit(
            id=child.id, content=child.content, position=child.position, score=score
        )
    ]


def _stage_scores(entry: IndexHit) -> dict[str, float]:
    """Return the scores of the search legs that found an entry."""
    scores = {"semantic": entry.semantic, "full_text": entry.keyword_score}
    return {name: score for name, score in scores.items() if score is not None}


def _external_hit(dataset: Dataset, record: Mapping[str, Any], position: int) -> Hit:
    """Return a record of another server as a hit: a segment without ids."""
    raw_metadata = record.get("metadata")
    metadata: dict[str, Any] = dict(raw_metadata) if is_mapping(raw_metadata) else {}
    title = str(record.get("title") or "")
    segment = Segment(
        tenant=dataset.tenant,
        dataset=dataset.id,
        document="",
        id="",
        position=position,
        content=str(record.get("content") or ""),
    )
    document = Document(
        tenant=dataset.tenant, dataset=dataset.id, id="", name=title, metadata=metadata
    )
    return Hit(
        segment=segment,
        document=document,
        dataset=dataset,
        score=float(record.get("score") or 0.0),
        title=title,
    )


def mmr(
    vectors: np.ndarray, scores: Sequence[float], relevance: float, limit: int
) -> list[int]:
    """Return indexes in the order of maximal marginal relevance.

    The method is that of Carbonell and Goldstein (1998). `vectors` has one row per
    element of `scores`. `relevance` is the weight of an element's own score, against
    its similarity to those already chosen. At most `limit` indexes are returned.
    """
    remaining = list(range(len(scores)))
    selected_indexes: list[int] = []
    nearest = np.full(len(scores), 0.0)
    while remaining and len(selected_indexes) < limit:
        best_index = max(
            remaining,
            key=lambda index: (
                relevance * scores[index] - (1 - relevance) * float(nearest[index])
            ),
        )
        selected_indexes.append(best_index)
        remaining.remove(best_index)
        # Only the similarity to the closest selected vector counts.
        nearest = np.maximum(nearest, vectors @ vectors[best_index])
    return selected_indexes


def _by_recency(
    hits: Sequence[Hit], half_life: float, current_time: float
) -> list[Hit]:
    """Return hits ordered by their scores after ageing.

    A score is halved for every `half_life` days since the document's last update;
    `current_time` is in Unix seconds.
    """

    def aged(hit: Hit) -> Hit:
        """Return the hit with its score reduced by the document's age."""
        days = max(0.0, current_time - hit.document.updated_at) / _DAY
        return msgspec.structs.replace(hit, score=hit.score * 0.5 ** (days / half_life))

    return sorted(map(aged, hits), key=lambda hit: -hit.score)


def _merge_queries(lists: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Merge the hits of several queries: each segment with its best score."""
    best_hits: dict[str, Hit] = {}
    for query_hit in (hit for query_hits in lists for hit in query_hits):
        previous_hit = best_hits.get(query_hit.segment.id)
        if previous_hit is None or query_hit.score > previous_hit.score:
            best_hits[query_hit.segment.id] = query_hit
    return sorted(best_hits.values(), key=lambda hit: -hit.score)


def _deduplicate(hits: Sequence[Hit]) -> list[Hit]:
    """Remove hits with identical text, keeping the first."""
    seen_texts: set[str] = set()
    distinct_hits: list[Hit] = []
    for hit in hits:
        if hit.text not in seen_texts:
            seen_texts.add(hit.text)
            distinct_hits.append(hit)
    return distinct_hits
