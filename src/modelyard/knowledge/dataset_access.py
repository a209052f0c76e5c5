"""Who may read the documents of a dataset: setting access lists, and whether there are
any."""

from collections.abc import Mapping

from modelyard.knowledge.access import AccessList, principals_of_list
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.stored.repositories import KnowledgeStore
from modelyard.tenancy.reader import EVERYONE


class DatasetAccess:
    """The access lists of datasets."""

    def __init__(self, store: KnowledgeStore) -> None:
        self._store = store

    async def set(
        self, dataset: Dataset, lists: Mapping[str, AccessList | None]
    ) -> None:
        """Set the access lists of documents by their ids, all of them or none. None
        removes a list, so that the dataset's default applies.

        The change applies to the next search. Raises NotFoundError for an unknown
        document, InvokeBadRequestError for an invalid list.
        """
        readers = {
            document: principals_of_list(access) for document, access in lists.items()
        }
        await self._store.access.set(dataset, readers)

    async def is_protected(self, dataset: Dataset) -> bool:
        """Return whether some documents of the dataset may be read by some people only."""
        is_open = dataset.settings.default_access == EVERYONE
        return not is_open or await self._store.access.exist(dataset.id)
