"""Knowledge, wired: where documents come from, what reads and embeds them, where they are searched."""

from typing import TYPE_CHECKING

import msgspec

from modelyard.base.errors import ConfigError
from modelyard.base.ids import new_id
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
from modelyard.knowledge.stored.stored import stored_in
from modelyard.knowledge.vectors import Embedder, Vectors
from modelyard.knowledge.visits import Manners, Visitor
from modelyard.providers.local.provider import OCR
from modelyard.runtime import api_keys
from modelyard.runtime.caller import Caller
from modelyard.runtime.tenancy import DatasetKey, Known

if TYPE_CHECKING:
    from modelyard.app import Modelyard


class KnowledgeParts:
    def __init__(self, yard: "Modelyard", *, embedder: Embedder | None = None) -> None:
        chosen = yard.settings.knowledge
        self._yard = yard
        self.stored = stored_in(yard.database, yard.clock.time)
        limits = JailLimits(memory_mb=chosen.document_memory_mb, document_seconds=chosen.document_seconds, at_once=2)
        self.jail = Jail(limits, is_enabled=yard.settings.workflows.code)
        self.models = RuntimeModels(yard.models)
        self._indexes: dict[str, Index] = {}
        reader = SourceReader(
            yard.files, self.jail, yard.workflow_parts.egress, most_mb=chosen.most_mb, ocr=self._text_in
        )
        manners = Manners(
            delay_seconds=chosen.crawl_delay_seconds, own_sites=frozenset(chosen.crawl_own_sites),
            follows_nofollow=chosen.crawl_follows_nofollow,
        )  # fmt: skip
        visitor = Visitor(yard.workflow_parts.egress, self.jail, yard.clock, manners)
        self.gatherer = Gatherer(yard.workflow_parts.egress, reader, visitor)
        self.external = ExternalKnowledge(self.stored.externals, yard.workflow_parts.egress, yard.keys)
        made = embedder or self.models
        self.indexer = Indexer(
            self.stored, made, reader, self.models, at_once=chosen.at_once, caller_of=self._caller_of
        )
        self.retriever = Retriever(self.stored, self.index_of, made, self.models, self.models, self.external)
        self.answerer = Answerer(self.retriever, self.models, self.models, self.models)
        vectors = Vectors(made)
        self.datasets = Datasets(
            self.stored, self.indexer, self.retriever, yard.files, reader, self.index_of,
            SegmentEditor(self.stored, vectors), Reindexer(self.stored, vectors),
        )  # fmt: skip
        self.evaluations = Evaluations(yard.workflow_parts.tools.kept, self.datasets, self.models, yard.clock.time)

    def index_of(self, dataset: Dataset) -> Index:
        """Where a dataset is searched. Raises ConfigError for a store that there is not."""
        name = dataset.settings.store or self._yard.settings.knowledge.store
        if (known := self._indexes.get(name)) is None:
            known = self._indexes[name] = self._made(name)
        return known

    def _made(self, name: str) -> Index:
        chosen = self._yard.settings.knowledge
        match name:
            case "memory":
                return MemoryIndex(
                    self.stored.entries.changes, megabytes=chosen.memory_mb, graph_from=chosen.graph_from
                )
            case "pgvector":
                from modelyard.knowledge.index.pgvector import PgVectorIndex
                from modelyard.storage.vectors import VectorTables

                changes, followers = self.stored.entries.changes, self.stored.followers
                return PgVectorIndex(changes, followers, VectorTables(self._yard.database))
            case "qdrant":
                from modelyard.knowledge.index.qdrant import QdrantIndex

                return QdrantIndex(
                    self.stored.entries.changes, self.stored.followers, self._yard.workflow_parts.egress,
                    chosen.qdrant_url, chosen.qdrant_api_key,
                )  # fmt: skip
            case _:
                raise ConfigError(f"knowledge.store {name!r} is none; memory, pgvector and qdrant are")

    def _caller_of(self, document: Document) -> Caller | None:
        """Whose call the indexing of a document is; the tenant's own if its key is no longer valid."""
        if not document.api_key:
            return None
        caller = self._yard.directory.caller_of_key(document.api_key, self._yard.clock.time())
        return msgspec.structs.replace(caller, tenant=document.tenant) if caller is not None else None

    # keys of a tenant's datasets

    async def make_key(self, tenant: str) -> str:
        """A key; it is shown this once."""
        row, key = api_keys.mint_for("dataset")
        stored = DatasetKey(digest=self._yard.keys.digest(key.encode()), hint=api_keys.hint(key))
        body = msgspec.json.encode(stored).decode()
        await self._yard.resources.add(tenant, DatasetKey.kind, new_id("datasetkey"), lambda _: body, id=row)
        await self._yard.directory.refresh()
        return key

    def keys(self, tenant: str) -> list[tuple[Known, DatasetKey]]:
        return list(self._yard.directory.of(tenant, DatasetKey))

    async def revoke_key(self, tenant: str, row: str) -> None:
        """Raises NotFoundError."""
        await self._yard.resources.remove(tenant, DatasetKey.kind, row)
        await self._yard.directory.refresh()

    def tenant_of_key(self, shown: str) -> str | None:
        """Whose key this is; None where it is nobody's."""
        row = api_keys.id_for("dataset", shown)
        found = self._yard.directory.wherever(DatasetKey, row) if row else None
        if found is None or not self._yard.keys.matches(shown.encode(), found[1].digest):
            return None
        return found[0] if self._yard.directory.is_enabled(found[0]) else None

    async def _text_in(self, picture: bytes) -> str:
        return "\n".join(await self._yard.local.only(OCR, "read", {"image": picture}))

    def begin(self) -> None:
        """Take up documents that were left, on the running loop."""
        self.indexer.begin()

    async def aclose(self) -> None:
        await self.indexer.aclose()
        for one in self._indexes.values():
            await one.aclose()
        await self.jail.aclose()
