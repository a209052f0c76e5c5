"""API keys for a tenant's datasets. They give access to the datasets and to nothing
else of the tenant."""

import msgspec

from modelyard.base.ids import new_id
from modelyard.storage.resources import Resources
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy import api_keys
from modelyard.tenancy.caller import Caller, Role
from modelyard.tenancy.directory import CachedResource, Directory
from modelyard.tenancy.resource_types import DatasetKey

_PREFIX = "dataset"


class DatasetKeys:
    """Creates, lists, revokes and verifies dataset keys. Only a key's digest is stored."""

    def __init__(
        self, resources: Resources, directory: Directory, keys: KeyRing
    ) -> None:
        self._resources = resources
        self._directory = directory
        self._keys = keys

    async def create(self, tenant: str, *, speaks_for_users: bool = False) -> str:
        """Create a key and return it; it cannot be read again later.

        With `speaks_for_users` its caller may name the user on whose behalf it
        searches. Raises StorageUnavailableError.
        """
        row, key = api_keys.generate_resource_key(_PREFIX)
        dataset_key = DatasetKey(
            digest=self._keys.digest(key.encode()),
            hint=api_keys.hint(key),
            speaks_for_users=speaks_for_users,
        )
        body = msgspec.json.encode(dataset_key).decode()
        await self._resources.add(
            tenant, DatasetKey.kind, new_id("datasetkey"), lambda _: body, id=row
        )
        # The directory is refreshed so that the key works at once in this process.
        await self._directory.refresh()
        return key

    def list_keys(self, tenant: str) -> list[tuple[CachedResource, DatasetKey]]:
        """Return the tenant's keys with their hints, not the keys themselves."""
        return list(self._directory.of(tenant, DatasetKey))

    async def revoke(self, tenant: str, row: str) -> None:
        """Revoke a key. Raises NotFoundError or StorageUnavailableError."""
        await self._resources.remove(tenant, DatasetKey.kind, row)
        await self._directory.refresh()

    def caller_of(self, presented_key: str) -> Caller | None:
        """Return the caller that presents a key; None if the key is invalid or its
        tenant is disabled."""
        row = api_keys.id_for(_PREFIX, presented_key)
        if not row:
            return None
        # The checksum was right, so look the row up; the tenant follows from the row
        # and not from the request.
        owned = self._directory.get_any_tenant(DatasetKey, row)
        if owned is None:
            return None
        tenant, key = owned
        if not self._keys.matches(
            presented_key.encode(), key.digest
        ) or not self._directory.is_enabled(tenant):
            return None
        return Caller(
            tenant=tenant,
            role=Role.DEVELOPER,
            manages_datasets=True,
            speaks_for_users=key.speaks_for_users,
        )
