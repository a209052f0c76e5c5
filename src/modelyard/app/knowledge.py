"""Builds the knowledge services: loading, reading, embedding, indexing and searching
documents."""

from dataclasses import dataclass
from functools import partial

import msgspec

from modelyard.app.live_settings import LiveSettings
from modelyard.app.network import NetworkServices
from modelyard.app.storage import StorageServices
from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError, InvokeBadRequestError
from modelyard.base.settings import Settings
from modelyard.knowledge.answer import Answerer
from modelyard.knowledge.connectors.dataset_sources import DatasetSources
from modelyard.knowledge.connectors.scheduler import SourceScheduler
from modelyard.knowledge.connectors.sync import SourceSync
from modelyard.knowledge.connectors.web import WebAccess
from modelyard.knowledge.crawl import SourceLoader
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset, Document
from modelyard.knowledge.evaluations import Evaluations
from modelyard.knowledge.external import ExternalKnowledge
from modelyard.knowledge.index.base import Index
from modelyard.knowledge.index.memory import MemoryIndex
from modelyard.knowledge.ingest import Indexer
from modelyard.knowledge.models import KnowledgeModels
from modelyard.knowledge.polite_fetch import CrawlPolicy, PageFetcher
from modelyard.knowledge.reindex import Reindexer
from modelyard.knowledge.retrieve import Retriever
from modelyard.knowledge.segment_edits import SegmentEditor
from modelyard.knowledge.segment_imports import SegmentImports
from modelyard.knowledge.sources import SourceReader
from modelyard.knowledge.stored.repositories import KnowledgeStore, open_store
from modelyard.knowledge.vectors import DatasetEmbedder, Embedder
from modelyard.providers.local.provider import OCR
from modelyard.providers.local.runtime import LocalRuntime
from modelyard.runtime.model_manager import ModelManager
from modelyard.sandbox.runner import Sandbox, SandboxLimits
from modelyard.storage.database import Database
from modelyard.tenancy.caller import Caller
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.memberships import Memberships
from modelyard.transport.egress import EgressClient
from modelyard.workflow.nodes.trigger import ScheduleData
from modelyard.workflow.schedule import ScheduleError, schedule_of


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeServices:
    """The knowledge services: datasets, indexing, retrieval and answers."""

    stored: KnowledgeStore
    datasets: Datasets
    indexer: Indexer
    indexes: "Indexes"
    retriever: Retriever
    answerer: Answerer
    gatherer: SourceLoader
    external: ExternalKnowledge
    evaluations: Evaluations
    imports: SegmentImports
    source_sync: SourceSync
    sources: DatasetSources
    source_scheduler: SourceScheduler
    models: KnowledgeModels
    sandbox: Sandbox
    """The sandbox in which documents are parsed."""

    def start(self) -> None:
        """Resume the indexing of unfinished documents, on the running event loop."""
        self.indexer.start()

    async def aclose(self) -> None:
        """Stop indexing and close the indexes."""
        await self.imports.aclose()
        await self.source_scheduler.aclose()
        # The indexer goes before the indexes and the sandbox, which it uses.
        await self.indexer.aclose()
        await self.indexes.aclose()
        await self.sandbox.aclose()


class Indexes:
    """The search indexes. Each index type is opened when a dataset first needs it."""

    def __init__(
        self,
        live_settings: LiveSettings,
        knowledge_store: KnowledgeStore,
        database: Database,
        egress: EgressClient,
    ) -> None:
        self._live = live_settings
        self._stored = knowledge_store
        self._database = database
        self._egress = egress
        self._open: dict[str, Index] = {}

    def of(self, dataset: Dataset) -> Index:
        """Return the index of a dataset. Raises ConfigError for an unknown index type."""
        # A dataset may name its own index type.
        name = dataset.settings.store or self._live.current.knowledge.store
        # Opened once and shared by all datasets of this type.
        if name not in self._open:
            self._open[name] = self._open_index(name)
        return self._open[name]

    def _open_index(self, name: str) -> Index:
        """Open an index. Raises ConfigError."""
        knowledge_settings = self._live.current.knowledge
        changes, followers = self._stored.entries.changes, self._stored.followers
        match name:
            case "memory":
                return MemoryIndex(
                    changes,
                    megabytes=knowledge_settings.memory_mb,
                    graph_from=knowledge_settings.graph_from,
                )
            case "pgvector":
                # Imported here, because most servers use only one type of index.
                from modelyard.knowledge.index.pgvector import PgVectorIndex
                from modelyard.storage.vectors import VectorTables

                return PgVectorIndex(changes, followers, VectorTables(self._database))
            case "qdrant":
                from modelyard.knowledge.index.qdrant import QdrantIndex

                return QdrantIndex(
                    changes,
                    followers,
                    self._egress,
                    knowledge_settings.qdrant_url,
                    knowledge_settings.qdrant_api_key,
                )
            case _:
                raise ConfigError(
                    f"knowledge.store: unknown store {name!r}; expected memory, pgvector or"
                    " qdrant"
                )

    async def aclose(self) -> None:
        """Close the indexes that were opened."""
        for index in self._open.values():
            await index.aclose()


def build_knowledge(
    live_settings: LiveSettings,
    clock: Clock,
    *,
    network: NetworkServices,
    storage: StorageServices,
    directory: Directory,
    memberships: Memberships,
    models: ModelManager,
    local: LocalRuntime,
    embedder: Embedder | None = None,
) -> KnowledgeServices:
    """Build the knowledge services. `embedder` replaces the embedding models of the
    runtime."""
    settings, egress = live_settings.current, network.egress
    # One store of documents for all services.
    knowledge_store = open_store(storage.database, storage.shared_clock)
    sandbox = _sandbox(settings)
    runtime_models = KnowledgeModels(models)
    # The runtime's models serve embeddings, reranking and answers unless a program
    # brings its own embedder.
    embeds = embedder or runtime_models
    # Documents are parsed in the sandbox, images are read by a local model.
    reader = SourceReader(
        storage.files,
        sandbox,
        egress,
        max_mb=settings.knowledge.most_mb,
        ocr=partial(_recognise_text, local),
    )
    external = ExternalKnowledge(knowledge_store.externals, egress, storage.keys)
    indexes = Indexes(live_settings, knowledge_store, storage.database, egress)
    indexer = Indexer(
        knowledge_store,
        embeds,
        reader,
        runtime_models,
        at_once=settings.knowledge.at_once,
        caller_of=partial(_caller_of, directory, clock),
    )
    retriever = Retriever(
        knowledge_store,
        indexes.of,
        embeds,
        runtime_models,
        runtime_models,
        external,
        memberships.principals_of,
    )
    vectors = DatasetEmbedder(embeds)
    # Editing and reindexing share the same vectors.
    datasets = Datasets(
        knowledge_store,
        indexer,
        retriever,
        storage.files,
        reader,
        indexes.of,
        SegmentEditor(knowledge_store, vectors),
        Reindexer(knowledge_store, vectors),
    )
    web = PageFetcher(egress, sandbox, clock, _crawl_rules(settings))
    sync, sources, scheduler = _stored_sources(storage, egress, clock, datasets, web)
    return KnowledgeServices(
        stored=knowledge_store,
        datasets=datasets,
        indexer=indexer,
        indexes=indexes,
        retriever=retriever,
        answerer=Answerer(retriever, runtime_models, runtime_models, runtime_models),
        gatherer=SourceLoader(egress, reader, web),
        external=external,
        evaluations=Evaluations(
            storage.scoped_store, datasets, runtime_models, clock.time
        ),
        imports=SegmentImports(storage.scoped_store, datasets, clock.time),
        source_sync=sync,
        sources=sources,
        source_scheduler=scheduler,
        models=runtime_models,
        sandbox=sandbox,
    )


def _stored_sources(
    storage: StorageServices,
    egress: EgressClient,
    clock: Clock,
    datasets: Datasets,
    fetcher: PageFetcher,
) -> tuple[SourceSync, DatasetSources, SourceScheduler]:
    """Return what synchronises datasets, their stored sources, and what does it by
    schedule."""
    sync = SourceSync(datasets, storage.scoped_store)
    store = datasets.store.sources
    # The fetcher is that of crawls, so that delays between requests are kept together.
    web = WebAccess(fetcher=fetcher, reader=datasets.reader)
    sources = DatasetSources(
        store, datasets, storage.keys, egress, web, clock.time, _next_time
    )
    return sync, sources, SourceScheduler(store, sources, sync, datasets)


def _next_time(cron: str, timezone: str, moment: float) -> float | None:
    """Return the next time of a schedule; None if there is none. Raises
    InvokeBadRequestError."""
    # The nodes of workflows and the sources of datasets understand the same schedules.
    data = ScheduleData(mode="cron", cron_expression=cron, timezone=timezone)
    try:
        return schedule_of(data).next(moment)
    except ScheduleError as error:
        raise InvokeBadRequestError(str(error), param="schedule") from error


def _sandbox(settings: Settings) -> Sandbox:
    """Return the sandbox for documents; its limits differ from those for code nodes."""
    knowledge_settings = settings.knowledge
    limits = SandboxLimits(
        memory_mb=knowledge_settings.document_memory_mb,
        document_seconds=knowledge_settings.document_seconds,
        at_once=2,
    )
    return Sandbox(limits, is_enabled=settings.workflows.code)


def _crawl_rules(settings: Settings) -> CrawlPolicy:
    """Return the rules for crawling web sites."""
    knowledge_settings = settings.knowledge
    return CrawlPolicy(
        delay_seconds=knowledge_settings.crawl_delay_seconds,
        own_sites=frozenset(knowledge_settings.crawl_own_sites),
        follows_nofollow=knowledge_settings.crawl_follows_nofollow,
    )


def _caller_of(directory: Directory, clock: Clock, document: Document) -> Caller | None:
    """Return the caller of a document's indexing; None (the tenant itself) if its API
    key is not valid any more."""
    # Documents without a key belong to the tenant itself.
    if not document.api_key:
        return None
    caller = directory.caller_of_key(document.api_key, clock.time())
    return (
        msgspec.structs.replace(caller, tenant=document.tenant)
        if caller is not None
        else None
    )


async def _recognise_text(local: LocalRuntime, picture: bytes) -> str:
    """Return the text in an image, line by line."""
    return "\n".join(await local.call_once(OCR, "read", {"image": picture}))
