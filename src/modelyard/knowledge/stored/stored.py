"""All repositories of knowledge over one database."""

from collections.abc import Callable
from dataclasses import dataclass

from modelyard.knowledge.stored.claims import Claims
from modelyard.knowledge.stored.datasets import StoredDatasets
from modelyard.knowledge.stored.documents import StoredDocuments
from modelyard.knowledge.stored.entries import StoredEntries
from modelyard.knowledge.stored.externals import StoredExternals
from modelyard.knowledge.stored.followers import Followers
from modelyard.knowledge.stored.integrity import Integrity
from modelyard.knowledge.stored.library import Library
from modelyard.knowledge.stored.publisher import Publisher
from modelyard.knowledge.stored.queries import StoredQueries
from modelyard.knowledge.stored.searches import Searches
from modelyard.knowledge.stored.segments import StoredSegments
from modelyard.knowledge.stored.tags import StoredTags
from modelyard.knowledge.stored.texts import StoredTexts
from modelyard.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """For whoever needs several."""

    now: Callable[[], float]
    datasets: StoredDatasets
    documents: StoredDocuments
    claims: Claims
    texts: StoredTexts
    segments: StoredSegments
    entries: StoredEntries
    followers: Followers
    tags: StoredTags
    externals: StoredExternals
    queries: StoredQueries
    library: Library
    """What changes several of them at once."""
    publisher: Publisher
    searches: Searches
    integrity: Integrity


def stored_in(database: Database, now: Callable[[], float], *, owner: str = "") -> Stored:
    """`owner` names the process that works on documents; this one, where it is empty."""
    datasets, documents = StoredDatasets(database, now), StoredDocuments(database, now)
    claims, texts, segments = Claims(database, now, owner=owner), StoredTexts(database), StoredSegments(database)
    followers, queries = Followers(database), StoredQueries(database, now)
    entries, tags = StoredEntries(database, followers), StoredTags(database, datasets)
    return Stored(
        now=now, datasets=datasets, documents=documents, claims=claims, texts=texts, segments=segments,
        entries=entries, followers=followers, tags=tags, externals=StoredExternals(database), queries=queries,
        library=Library(
            database, datasets=datasets, documents=documents, claims=claims, texts=texts, segments=segments,
            entries=entries, followers=followers, tags=tags, queries=queries,
        ),
        publisher=Publisher(
            database, datasets=datasets, documents=documents, claims=claims, segments=segments, entries=entries
        ),
        searches=Searches(database, datasets=datasets, documents=documents, segments=segments, entries=entries),
        integrity=Integrity(database, datasets=datasets, documents=documents, segments=segments, entries=entries),
    )  # fmt: skip
