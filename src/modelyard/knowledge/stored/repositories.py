"""All repositories of the knowledge package over one database."""

from collections.abc import Callable
from dataclasses import dataclass

from modelyard.knowledge.stored.access_lists import StoredAccessLists
from modelyard.knowledge.stored.dataset_sources import StoredSources
from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.knowledge.stored.documents import StoredDocuments
from modelyard.knowledge.stored.entries import StoredEntries
from modelyard.knowledge.stored.externals import StoredExternals
from modelyard.knowledge.stored.followers import IndexProgress
from modelyard.knowledge.stored.integrity import IntegrityCheck
from modelyard.knowledge.stored.leases import DocumentClaims
from modelyard.knowledge.stored.library import DocumentLibrary
from modelyard.knowledge.stored.publisher import Publisher
from modelyard.knowledge.stored.queries import StoredQueries
from modelyard.knowledge.stored.searches import SearchReader
from modelyard.knowledge.stored.segments import StoredSegments
from modelyard.knowledge.stored.tags import StoredTags
from modelyard.knowledge.stored.texts import StoredTexts
from modelyard.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeStore:
    """The repositories, for services that need several of them."""

    clock: Callable[[], float]
    datasets: StoredDatasets
    documents: StoredDocuments
    access: StoredAccessLists
    claims: DocumentClaims
    texts: StoredTexts
    segments: StoredSegments
    entries: StoredEntries
    followers: IndexProgress
    tags: StoredTags
    externals: StoredExternals
    sources: StoredSources
    queries: StoredQueries
    library: DocumentLibrary
    """Changes that span several repositories."""
    publisher: Publisher
    searches: SearchReader
    integrity: IntegrityCheck


def open_store(
    database: Database, clock: Callable[[], float], *, owner: str = ""
) -> KnowledgeStore:
    """Create the repositories. `owner` names the process that indexes documents; empty
    for this process."""
    datasets, documents = (
        StoredDatasets(database, clock),
        StoredDocuments(database, clock),
    )
    claims, texts, segments = (
        DocumentClaims(database, clock, owner=owner),
        StoredTexts(database),
        StoredSegments(database),
    )
    followers, queries = IndexProgress(database), StoredQueries(database, clock)
    entries, tags = StoredEntries(database, followers), StoredTags(database, datasets)
    return KnowledgeStore(
        clock=clock,
        datasets=datasets,
        documents=documents,
        access=StoredAccessLists(database, datasets),
        claims=claims,
        texts=texts,
        segments=segments,
        entries=entries,
        followers=followers,
        tags=tags,
        externals=StoredExternals(database),
        sources=StoredSources(database, clock, owner=owner),
        queries=queries,
        library=DocumentLibrary(
            database,
            datasets=datasets,
            documents=documents,
            claims=claims,
            texts=texts,
            segments=segments,
            entries=entries,
            followers=followers,
            tags=tags,
            queries=queries,
        ),
        publisher=Publisher(
            database,
            datasets=datasets,
            documents=documents,
            claims=claims,
            segments=segments,
            entries=entries,
        ),
        searches=SearchReader(
            database,
            datasets=datasets,
            documents=documents,
            segments=segments,
            entries=entries,
        ),
        integrity=IntegrityCheck(
            database,
            datasets=datasets,
            documents=documents,
            segments=segments,
            entries=entries,
        ),
    )
