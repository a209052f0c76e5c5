"""Stored versions of app files, by digest. Files with secrets are encrypted."""

from collections.abc import Callable

from modelyard.base.errors import ConfigError
from modelyard.storage.database import Database
from modelyard.storage.repository import Repository
from modelyard.storage.secrets import KeyRing

_SEALED = "!sealed "
"""Start of an encrypted file. No app file starts with a tag, so older files, which are
stored as they are, cannot be mistaken for one."""
_SECRET_TYPE = "app_document"  # noqa: S105


class AppDocuments(Repository):
    """Repository of app files. A run that is resumed after a crash uses the file
    version with which it started."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        keys: KeyRing | None = None,
    ) -> None:
        """Without `keys`, files with secrets are refused."""
        super().__init__(database, "app_documents")
        self._clock = clock
        self._keys = keys

    async def save(
        self, tenant: str, digest: str, text: str, *, has_secrets: bool = False
    ) -> None:
        """Store an app file under its digest. Raises StorageUnavailableError."""
        body = self._sealed(tenant, digest, text) if has_secrets else text
        await self._execute("put_document", tenant, digest, body, self._clock())

    async def find(self, tenant: str, digest: str) -> str | None:
        """Return an app file by its digest, or None. Raises StorageUnavailableError, and
        SecretError if it cannot be decrypted."""
        rows = await self._rows("document", tenant=tenant, digest=digest)
        if not rows:
            return None
        body: str = rows[0]["body"]
        return self._opened(tenant, digest, body) if body.startswith(_SEALED) else body

    async def reencrypt_all(self, keys: KeyRing) -> int:
        """Encrypt the files of all tenants with the ring's active key. Returns how many
        were changed."""
        self._keys = keys
        count = 0
        for row in await self._rows("sealed_documents"):
            tenant, digest = row["tenant"], row["digest"]
            # One at a time, since files are large.
            for document in await self._rows("document", tenant=tenant, digest=digest):
                body: str = document["body"]
                if keys.is_current(body.removeprefix(_SEALED)):
                    continue
                sealed = self._sealed(
                    tenant,
                    digest,
                    self._opened(tenant, digest, body),
                )
                await self._execute("reseal_document", sealed, tenant, digest)
                count += 1
        return count

    def _sealed(self, tenant: str, digest: str, text: str) -> str:
        """Return a file encrypted."""
        return _SEALED + self._ring().encrypt(
            text,
            tenant=tenant,
            kind=_SECRET_TYPE,
            row=digest,
        )

    def _opened(self, tenant: str, digest: str, body: str) -> str:
        """Return a file decrypted. Raises SecretError."""
        return self._ring().decrypt(
            body.removeprefix(_SEALED),
            tenant=tenant,
            kind=_SECRET_TYPE,
            row=digest,
        )

    def _ring(self) -> KeyRing:
        """Return the keys. Raises ConfigError if the server has none."""
        if self._keys is None:
            raise ConfigError("App files with secrets need a master key")
        return self._keys
