"""Resources that hold a secret beside plain words: it lies in them encrypted, bound to its row."""

from typing import Any

import msgspec

from modelyard.storage.resources import Resources
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy.directory import Directory


class SealedRows:
    """Every method is given the tenant that it acts for, and reaches nothing else."""

    def __init__(self, resources: Resources, directory: Directory, keys: KeyRing) -> None:
        self._resources = resources
        self._directory = directory
        self._keys = keys

    async def keep(self, tenant: str, kind: str, name: str, secret: Any, value: Any, *, id: str = "") -> str:  # noqa: A002  the field's word
        """Store `value` with `secret` encrypted in it; in the place of the row with this id, where one is given.

        The row's id. Raises NotFoundError where there is no such row, InvokeBadRequestError where the name is taken.
        """
        text = msgspec.json.encode(secret).decode()

        def body(row: str) -> str:
            sealed = self._keys.encrypt(text, tenant=tenant, kind=kind, row=row)
            return msgspec.json.encode(msgspec.structs.replace(value, secret=sealed)).decode()

        if id:
            old = await self._resources.one(tenant, kind, id)
            row = await self._resources.change(old, name=name, body=body(id))
        else:
            row = await self._resources.add(tenant, kind, name, body)
        await self._directory.refresh()
        return row.id

    def read(self, tenant: str, kind: str, id: str, sealed: str) -> Any:  # noqa: A002
        """What was kept as `secret`. Raises SecretError."""
        return msgspec.json.decode(self._keys.decrypt(sealed, tenant=tenant, kind=kind, row=id))

    async def remove(self, tenant: str, kind: str, id: str) -> None:  # noqa: A002
        """Raises NotFoundError."""
        await self._resources.remove(tenant, kind, id)
        await self._directory.refresh()
