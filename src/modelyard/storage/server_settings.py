"""The settings that all servers on a database share, as numbered versions of a text."""

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import InvokeBadRequestError
from modelyard.storage.database import Database
from modelyard.storage.engine import Connection, DuplicateError
from modelyard.storage.file_storage import SERVER_SCOPE
from modelyard.storage.repository import Repository
from modelyard.storage.secrets import KeyRing

SETTINGS_TOPIC = "settings"
"""Signalled with each new version."""
_KEPT_VERSIONS = 20
"""Earlier versions that stay in the table, to see what was changed and by whom."""


class StoredSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the settings."""

    version: int
    text: str
    """YAML in the form of modelyard.yaml, with its secrets."""
    changed_at: float
    """In seconds since 1970."""
    changed_by: str


class ServerSettingsStore(Repository):
    """The versions. The texts are encrypted with the master key, since they hold keys of
    callers and providers."""

    def __init__(self, database: Database, keys: KeyRing, clock: Clock) -> None:
        super().__init__(database, "server_settings")
        self._keys = keys
        self._clock = clock

    async def version(self) -> int:
        """Return the number of the latest version; 0 before the first. Raises
        StorageUnavailableError."""
        return int((await self._rows("version"))[0]["version"])

    async def latest(self) -> StoredSettings | None:
        """Return the latest version; None before the first.

        Raises ConfigError if the master key is not the one that encrypted it, and
        StorageUnavailableError.
        """
        rows = await self._rows("latest")
        if not rows:
            return None
        row = rows[0]
        version = int(row["version"])
        return StoredSettings(
            version=version,
            text=self._keys.decrypt(row["sealed"], **_place(version)),
            changed_at=row["changed_at"],
            changed_by=row["changed_by"],
        )

    async def add(self, text: str, *, after: int, changed_by: str) -> int:
        """Store the version after another one and return its number.

        Raises InvokeBadRequestError if that one is not the latest any more, and
        StorageUnavailableError.
        """
        version = after + 1
        # Backups and replicas must not reveal the keys in the text.
        sealed = self._keys.encrypt(text, **_place(version))
        row = (version, sealed, self._clock.time(), changed_by)

        def work(connection: Connection) -> None:
            """Add the version, and tell the other servers."""
            self._step(connection, "add", *row)
            self._database.signals.send(connection, SETTINGS_TOPIC)

        try:
            await self._database.transact(work)
        except DuplicateError:
            raise InvokeBadRequestError(
                f"The settings were changed meanwhile: they have version {version} or"
                " later; load them again",
                param="version",
            ) from None
        await self._execute("forget", version - _KEPT_VERSIONS)
        return version


def _place(version: int) -> dict[str, str]:
    """Return what the encryption binds a text to, so that rows cannot be exchanged."""
    return {"tenant": SERVER_SCOPE, "kind": "settings", "row": str(version)}
