"""Resources that contain an encrypted secret next to plain fields. The secret is bound
to its row."""

from typing import Any

import msgspec

from modelyard.storage.resources import Resources
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy.directory import Directory


class SealedRows:
    """Stores and reads such resources. Every method takes the tenant it acts for and
    reaches nothing else."""

    def __init__(
        self, resources: Resources, directory: Directory, keys: KeyRing
    ) -> None:
        self._resources = resources
        self._directory = directory
        self._keys = keys

    async def save(
        self,
        tenant: str,
        kind: str,
        name: str,
        secret: Any,
        value: Any,
        *,
        id: str = "",
    ) -> str:
        """Store `value` with `secret` encrypted in it, replacing the row `id` if one is
        given. Returns the row's id.

        Raises NotFoundError if there is no such row, InvokeBadRequestError if the name
        is in use.
        """
        text = msgspec.json.encode(secret).decode()

        def body(row: str) -> str:
            """Return the row's JSON with the secret encrypted."""
            # The ciphertext is bound to tenant, type and row, so it cannot be copied
            # into another row.
            sealed = self._keys.encrypt(text, tenant=tenant, kind=kind, row=row)
            return msgspec.json.encode(
                msgspec.structs.replace(value, secret=sealed)
            ).decode()

        if id:
            old = await self._resources.get(tenant, kind, id)
            row = await self._resources.change(old, name=name, body=body(id))
        else:
            row = await self._resources.add(tenant, kind, name, body)
        await self._directory.refresh()
        return row.id

    def read(self, tenant: str, kind: str, id: str, sealed: str) -> Any:
        """Return the decrypted secret. Raises SecretError."""
        return msgspec.json.decode(
            self._keys.decrypt(sealed, tenant=tenant, kind=kind, row=id)
        )

    async def remove(self, tenant: str, kind: str, id: str) -> None:
        """Delete a resource. Raises NotFoundError."""
        await self._resources.remove(tenant, kind, id)
        await self._directory.refresh()
