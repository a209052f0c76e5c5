"""Keys of a tenant's datasets: whoever shows one may work with them, and with nothing else of the tenant's."""

import msgspec

from modelyard.base.ids import new_id
from modelyard.storage.resources import Resources
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy import api_keys
from modelyard.tenancy.directory import Directory, Known
from modelyard.tenancy.kinds import DatasetKey

_PREFIX = "dataset"


class DatasetKeys:
    """Makes, lists and takes away keys, and says whose one is. What is stored is a key's digest."""

    def __init__(self, resources: Resources, directory: Directory, keys: KeyRing) -> None:
        self._resources = resources
        self._directory = directory
        self._keys = keys

    async def make(self, tenant: str) -> str:
        """A new key; it is shown this once. Raises StorageUnavailableError."""
        row, key = api_keys.mint_for(_PREFIX)
        stored = DatasetKey(digest=self._keys.digest(key.encode()), hint=api_keys.hint(key))
        body = msgspec.json.encode(stored).decode()
        await self._resources.add(tenant, DatasetKey.kind, new_id("datasetkey"), lambda _: body, id=row)
        await self._directory.refresh()
        return key

    def all(self, tenant: str) -> list[tuple[Known, DatasetKey]]:
        """The tenant's keys, without what they are."""
        return list(self._directory.of(tenant, DatasetKey))

    async def revoke(self, tenant: str, row: str) -> None:
        """Raises NotFoundError, StorageUnavailableError."""
        await self._resources.remove(tenant, DatasetKey.kind, row)
        await self._directory.refresh()

    def tenant_of(self, shown: str) -> str | None:
        """Whose key this is; None where it is nobody's, or the tenant is switched off."""
        row = api_keys.id_for(_PREFIX, shown)
        if not row:
            return None
        owned = self._directory.wherever(DatasetKey, row)
        if owned is None:
            return None
        tenant, key = owned
        if not self._keys.matches(shown.encode(), key.digest) or not self._directory.is_enabled(tenant):
            return None
        return tenant
