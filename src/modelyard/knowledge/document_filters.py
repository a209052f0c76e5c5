"""Which documents a search may return: metadata conditions and access lists, evaluated
over an inverted index in memory.

The index of a dataset is brought up to its generation by the documents that changed
since, never by reading all of them again. Reading and evaluating happen in threads, so
that a large dataset does not hold up the event loop.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Set
from typing import Any

import msgspec

from modelyard.knowledge.access import DefaultAccess
from modelyard.knowledge.entities import Condition, Conditions, Dataset
from modelyard.knowledge.filters import exact_texts, operator_of, text_of
from modelyard.knowledge.rows import FilterRow
from modelyard.knowledge.stored.documents import StoredDocuments

_MAX_INDEXED_DOCUMENTS = 1_000_000
"""Documents of all datasets whose metadata is in memory, about 1 kB each at most."""
_MAX_CACHED_RESULTS, _MAX_CACHED_IDS = 64, 1_000_000
_MIN_REBUILD = 1000
# Types of metadata values other than text. A text is its own key in a column.
_OTHER_TYPES = ("int", "float", "bool", "NoneType", "list", "dict")

_Key = str | tuple[str, str]
_Ids = set[str] | str
"""Ids of documents; a single id is stored without a set, which is ten times as
large."""


class MetadataIndex:
    """The filterable metadata of a dataset's searchable documents, by value.

    A column maps the values of one field to the documents that have them. Columns are
    built when a condition first names their field. Not safe for concurrent use: callers
    hold `lock`.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.generation = -1
        """The dataset's generation up to which changes were applied."""
        self._values: dict[str, dict[str, Any]] = {}
        self._readers: dict[str, list[str]] = {}
        """The access lists of the documents that have one."""
        self._readable: dict[str, set[str]] = {}
        """The documents whose access lists name a principal."""
        self._columns: dict[str, dict[_Key, _Ids]] = {}
        self._applied_count = 0

    def __len__(self) -> int:
        return len(self._values)

    @property
    def is_outdated(self) -> bool:
        """Whether more documents were applied than the index holds twice.

        Deleted documents are never reported. They do no harm, since no entry leads to
        them, but an index that is built again does not hold them.
        """
        return self._applied_count > 2 * len(self._values) + _MIN_REBUILD

    def apply(self, rows: list[FilterRow], generation: int) -> None:
        """Replace the metadata of changed documents; those that are not searchable are
        removed. Empties `rows`, whose order does not matter: each document is there
        once."""
        while rows:
            row = rows.pop()
            self._applied_count += 1
            # Its old values must be known to leave the columns, so they go first.
            self._remove(row.id)
            if row.is_searchable:
                self._add(row)
        self.generation = max(self.generation, generation)

    def _remove(self, document: str) -> None:
        """Remove a document from all columns; an unknown one is ignored."""
        values = self._values.pop(document, None)
        for principal in self._readers.pop(document, ()):
            self._readable[principal].discard(document)
            if not self._readable[principal]:
                del self._readable[principal]
        if values is None:
            return
        for field, column in self._columns.items():
            key = _key(values.get(field))
            ids = column[key]
            # A value that no document has any more would still be tested.
            if isinstance(ids, set) and len(ids) > 1:
                ids.discard(document)
            else:
                del column[key]

    def _add(self, row: FilterRow) -> None:
        self._values[row.id] = row.values
        if row.readers:
            self._readers[row.id] = row.readers
        for principal in row.readers:
            self._readable.setdefault(principal, set()).add(row.id)
        for field, column in self._columns.items():
            _insert(
                column,
                _key(row.values.get(field)),
                row.id,
            )

    def allowed(
        self,
        conditions: Conditions | None,
        principals: frozenset[str] | None,
        default: DefaultAccess,
    ) -> set[str]:
        """Return the ids of the documents that meet the conditions and that a reader
        with these principals may read; None may read all. `default` is the principal
        that may read documents without an access list."""
        ids = set(self._values) if conditions is None else self._matching(conditions)
        if principals is None:
            return ids
        listed = [self._readable.get(principal, ()) for principal in principals]
        # Documents are added, never taken away: a list that names nobody hides them.
        readable = set[str]().union(*listed)
        if default in principals:
            readable |= self._values.keys() - self._readers.keys()
        return ids & readable

    def _matching(self, conditions: Conditions) -> set[str]:
        """Return the ids of the documents that meet all conditions, or any of them."""
        matched = [self._meeting(condition) for condition in conditions.conditions]
        if conditions.logical_operator == "or":
            return set[str]().union(*matched)
        if not matched:
            return set(self._values)
        # The smallest set first: an intersection costs as much as its smaller side.
        matched.sort(key=len)
        return matched[0].intersection(*matched[1:])

    def _meeting(self, condition: Condition) -> set[str]:
        """Return the ids of the documents that meet one condition.

        Equality looks up the values; other operators test each distinct value once.
        """
        column = self._column(condition.name)
        texts = exact_texts(condition)
        keys = _matching_keys(texts) if texts is not None else self._keys(condition)
        found: set[str] = set()
        for key in keys:
            ids = column.get(key)
            if isinstance(ids, str):
                found.add(ids)
            elif ids is not None:
                found |= ids
        return found

    def _keys(self, condition: Condition) -> list[_Key]:
        """Return the keys of the values that meet a condition."""
        test, expected = operator_of(condition), condition.value
        name = condition.name
        return [
            key
            for key, ids in self._column(name).items()
            # Documents with one key have values that no operator tells apart.
            if test(self._values[_first(ids)].get(name), expected)
        ]

    def _column(self, field: str) -> dict[_Key, _Ids]:
        """Return the column of a field, which is built if it does not exist yet.

        Documents without the field are under the key of None.
        """
        column = self._columns.get(field)
        # Most fields are never filtered by, and cost no memory.
        if column is None:
            column = self._columns[field] = {}
            for document, values in self._values.items():
                _insert(
                    column,
                    _key(values.get(field)),
                    document,
                )
        return column


def _first(ids: _Ids) -> str:
    return ids if isinstance(ids, str) else next(iter(ids))


def _key(value: object) -> _Key:
    """Return the key of a metadata value: its text, with the type of values that are
    not text."""
    return value if isinstance(value, str) else (type(value).__name__, text_of(value))


def _matching_keys(texts: Iterable[str]) -> list[_Key]:
    """Return the keys of all values whose text is one of the given ones."""
    keys: list[_Key] = []
    for text in dict.fromkeys(texts):
        keys.append(text)
        keys.extend((type_name, text) for type_name in _OTHER_TYPES)
    return keys


def _insert(column: dict[_Key, _Ids], key: _Key, document: str) -> None:
    """Add a document to the ids of a key."""
    ids = column.get(key)
    if ids is None:
        column[key] = document
    elif isinstance(ids, set):
        ids.add(document)
    else:
        column[key] = {ids, document}


class DocumentFilters:
    """Determines which documents of a dataset a search may return."""

    def __init__(self, documents: StoredDocuments) -> None:
        self._documents = documents
        self._indexes: OrderedDict[str, MetadataIndex] = OrderedDict()
        self._results: OrderedDict[Any, Set[str]] = OrderedDict()

    async def allowed(
        self,
        dataset: Dataset,
        conditions: Conditions | None,
        principals: frozenset[str] | None,
    ) -> Set[str]:
        """Return the ids of the searchable documents that meet the conditions and that
        a reader with these principals may read; None may read all.

        The state is that of the dataset's generation or a later one. Ids of deleted
        documents may be among them. Raises StorageUnavailableError.
        """
        # The generation is part of the key: any change of the dataset makes older
        # results unreachable.
        # The default is a setting, whose change is no new generation.
        default = dataset.settings.default_access
        condition_key = msgspec.json.encode(conditions)
        key = (dataset.id, dataset.generation, default, principals, condition_key)
        if (cached := self._results.get(key)) is not None:
            self._results.move_to_end(key)
            return cached
        index = self._index(dataset.id)
        # One update at a time; searches of other datasets continue meanwhile.
        async with index.lock:
            await self._bring_up_to_date(index, dataset)
            allowed = frozenset(
                await asyncio.to_thread(index.allowed, conditions, principals, default)
            )
        self._remember(key, allowed)
        self._evict_indexes()
        return allowed

    def _index(self, dataset: str) -> MetadataIndex:
        """Return the metadata index of a dataset; a new one if there is none, or if
        too many of its documents were replaced."""
        index = self._indexes.get(dataset)
        if index is None or (index.is_outdated and not index.lock.locked()):
            index = self._indexes[dataset] = MetadataIndex()
        self._indexes.move_to_end(dataset)
        return index

    async def _bring_up_to_date(self, index: MetadataIndex, dataset: Dataset) -> None:
        """Apply the documents that changed since the index's generation."""
        if index.generation >= dataset.generation:
            return
        rows = await self._documents.filter_changes(
            dataset.tenant, dataset.id, index.generation
        )
        await asyncio.to_thread(index.apply, rows, dataset.generation)

    def _remember(self, key: Any, allowed: Set[str]) -> None:
        """Cache a result, and drop the least recently used ones beyond the limits."""
        self._results[key] = allowed
        # A result may hold nearly all documents, so the ids are limited too.
        total = sum(map(len, self._results.values()))
        while len(self._results) > 1 and (
            total > _MAX_CACHED_IDS or len(self._results) > _MAX_CACHED_RESULTS
        ):
            total -= len(self._results.popitem(last=False)[1])

    def _evict_indexes(self) -> None:
        """Drop the least recently used indexes beyond the limit, but never the last."""
        total = sum(map(len, self._indexes.values()))
        while total > _MAX_INDEXED_DOCUMENTS and len(self._indexes) > 1:
            total -= len(self._indexes.popitem(last=False)[1])
