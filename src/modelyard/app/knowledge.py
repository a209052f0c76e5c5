"""Knowledge, wired: where documents come from, what reads and embeds them, where they are searched."""

from dataclasses import dataclass
from functools import partial

import msgspec

from modelyard.app.live_settings import LiveSettings
from modelyard.app.network import NetworkParts
from modelyard.app.storage import StorageParts
from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError
from modelyard.base.settings import Settings
from modelyard.jail.sandbox import Jail, JailLimits
from modelyard.knowledge.answer import Answerer
from modelyard.knowledge.crawl import Gatherer
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.edit import SegmentEditor
from modelyard.knowledge.entities import Dataset, Document
from modelyard.knowledge.evaluations import Evaluations
from modelyard.knowledge.external import ExternalKnowledge
from modelyard.knowledge.index.base import Index
from modelyard.knowledge.index.memory import MemoryIndex
from modelyard.knowledge.ingest import Indexer
from modelyard.knowledge.models import RuntimeModels
from modelyard.knowledge.reindex import Reindexer
from modelyard.knowledge.retrieve import Retriever
from modelyard.knowledge.sources import SourceReader
from modelyard.knowledge.stored.stored import Stored, stored_in
from modelyard.knowledge.vectors import Embedder, Vectors
from modelyard.knowledge.visits import Manners, Visitor
from modelyard.providers.local.provider import OCR
from modelyard.providers.local.runtime import LocalRuntime
from modelyard.runtime.model_manager import ModelManager
from modelyard.storage.database import Database
from modelyard.tenancy.caller import Caller
from modelyard.tenancy.directory import Directory
from modelyard.transport.egress import Egress


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeParts:
    """Datasets: what is in them, what reads it, and what finds and answers from it."""

    stored: Stored
    datasets: Datasets
    indexer: Indexer
    indexes: "Indexes"
    retriever: Retriever
    answerer: Answerer
    gatherer: Gatherer
    external: ExternalKnowledge
    evaluations: Evaluations
    models: RuntimeModels
    jail: Jail
    """Where documents are read."""

    def begin(self) -> None:
        """Take up documents that were left, on the running loop."""
        self.indexer.begin()

    async def aclose(self) -> None:
        """Leave off indexing, and close the stores."""
        await self.indexer.aclose()
        await self.indexes.aclose()
        await self.jail.aclose()


class Indexes:
    """Where datasets are searched: each kind of store is opened when a dataset first needs it."""

    def __init__(self, live: LiveSettings, stored: Stored, database: Database, egress: Egress) -> None:
        self._live = live
        self._stored = stored
        self._database = database
        self._egress = egress
        self._open: dict[str, Index] = {}

    def of(self, dataset: Dataset) -> Index:
        """Raises ConfigError for a store that there is not."""
        name = dataset.settings.store or self._live.current.knowledge.store
        if name not in self._open:
            self._open[name] = self._opened(name)
        return self._open[name]

    def _opened(self, name: str) -> Index:
        chosen = self._live.current.knowledge
        changes, followers = self._stored.entries.changes, self._stored.followers
        match name:
            case "memory":
                return MemoryIndex(changes, megabytes=chosen.memory_mb, graph_from=chosen.graph_from)
            case "pgvector":
                from modelyard.knowledge.index.pgvector import PgVectorIndex
                from modelyard.storage.vectors import VectorTables

                return PgVectorIndex(changes, followers, VectorTables(self._database))
            case "qdrant":
                from modelyard.knowledge.index.qdrant import QdrantIndex

                return QdrantIndex(changes, followers, self._egress, chosen.qdrant_url, chosen.qdrant_api_key)
            case _:
                raise ConfigError(f"knowledge.store {name!r} is none; memory, pgvector and qdrant are")

    async def aclose(self) -> None:
        """Close those that were opened."""
        for index in self._open.values():
            await index.aclose()


def build_knowledge(
    live: LiveSettings,
    clock: Clock,
    *,
    network: NetworkParts,
    storage: StorageParts,
    directory: Directory,
    models: ModelManager,
    local: LocalRuntime,
    embedder: Embedder | None = None,
) -> KnowledgeParts:
    """`embedder` takes the place of the runtime's embedding models."""
    settings, egress = live.current, network.egress
    stored = stored_in(storage.database, clock.time)
    jail = _jail(settings)
    asks = RuntimeModels(models)
    embeds = embedder or asks
    reader = SourceReader(
        storage.files, jail, egress, most_mb=settings.knowledge.most_mb, ocr=partial(_text_in, local)
    )  # fmt: skip
    external = ExternalKnowledge(stored.externals, egress, storage.keys)
    indexes = Indexes(live, stored, storage.database, egress)
    indexer = Indexer(
        stored, embeds, reader, asks, at_once=settings.knowledge.at_once,
        caller_of=partial(_caller_of, directory, clock),
    )  # fmt: skip
    retriever = Retriever(stored, indexes.of, embeds, asks, asks, external)
    vectors = Vectors(embeds)
    datasets = Datasets(
        stored, indexer, retriever, storage.files, reader, indexes.of, SegmentEditor(stored, vectors),
        Reindexer(stored, vectors),
    )  # fmt: skip
    return KnowledgeParts(
        stored=stored, datasets=datasets, indexer=indexer, indexes=indexes, retriever=retriever,
        answerer=Answerer(retriever, asks, asks, asks),
        gatherer=Gatherer(egress, reader, Visitor(egress, jail, clock, _manners(settings))), external=external,
        evaluations=Evaluations(storage.kept, datasets, asks, clock.time), models=asks, jail=jail,
    )  # fmt: skip


def _jail(settings: Settings) -> Jail:
    chosen = settings.knowledge
    limits = JailLimits(memory_mb=chosen.document_memory_mb, document_seconds=chosen.document_seconds, at_once=2)
    return Jail(limits, is_enabled=settings.workflows.code)


def _manners(settings: Settings) -> Manners:
    chosen = settings.knowledge
    return Manners(
        delay_seconds=chosen.crawl_delay_seconds, own_sites=frozenset(chosen.crawl_own_sites),
        follows_nofollow=chosen.crawl_follows_nofollow,
    )  # fmt: skip


def _caller_of(directory: Directory, clock: Clock, document: Document) -> Caller | None:
    """Whose call the indexing of a document is; the tenant's own if its key is no longer valid."""
    if not document.api_key:
        return None
    caller = directory.caller_of_key(document.api_key, clock.time())
    return msgspec.structs.replace(caller, tenant=document.tenant) if caller is not None else None


async def _text_in(local: LocalRuntime, picture: bytes) -> str:
    """What a picture says, line by line."""
    return "\n".join(await local.only(OCR, "read", {"image": picture}))
