"""Settings in the database: read at the start, changed through the API, and followed by
every server."""

import asyncio
import logging
from collections.abc import Mapping

from modelyard.app.reload import Reload
from modelyard.base.errors import (
    ConfigError,
    InvokeBadRequestError,
    ModelyardError,
    NotFoundError,
)
from modelyard.base.settings import Settings
from modelyard.base.shared_settings import changed_at_start_only, with_shared
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.server_settings import ServerSettingsStore, StoredSettings

logger = logging.getLogger("modelyard.app")


class SharedSettings:
    """The settings that all servers on a database share.

    The settings file is their seed: until somebody changes them through the API, each
    server uses its own file. From then on the database has them, and the file has what
    takes effect at a start only.
    """

    def __init__(
        self,
        own: Settings,
        store: ServerSettingsStore,
        reload: Reload,
        environ: Mapping[str, str],
    ) -> None:
        """`own` are the settings of this server's file and variables."""
        self._own = own
        self._store = store
        self._reload = reload
        self._environ = environ
        self._text: str | None = None
        self._lock = asyncio.Lock()
        self.version = 0
        """The version in use; 0 if the database has none."""
        self.problem: str | None = None
        """Why this server cannot use the latest version; None if it does. A server with
        other settings than the others must not answer."""

    @property
    def is_stored(self) -> bool:
        """Whether the settings lie in the database, and not in the file alone."""
        return self._own.are_stored

    def apply_own(self, own: Settings) -> None:
        """Take over changed settings of this server's file: those that are not in the
        database. Raises ConfigError; then nothing changes."""
        # Validated as a whole: the two sources may contradict each other.
        self._reload.apply(self._merged(own, self._text))
        self._own = own
        if self._text is not None:
            logger.warning(
                "the settings in the database take precedence over the settings file",
                extra={"fields": {"version": self.version}},
            )

    async def refresh(self) -> None:
        """Take over the latest version, if it is a new one. Settings that this server
        cannot use are reported by `problem`.

        Raises StorageUnavailableError.
        """
        if not self.is_stored or await self._store.version() == self.version:
            return
        async with self._lock:
            try:
                await self._take_over()
            # A provider's file that only other servers have, a variable that is missing.
            except StorageUnavailableError:
                raise
            except ModelyardError as error:
                if self.problem is None:
                    fields = {"error": str(error)}
                    logger.error("shared settings not usable", extra={"fields": fields})
                self.problem = str(error)

    async def _take_over(self) -> None:
        """Apply the latest version. Raises ModelyardError; then nothing changes."""
        stored = await self._store.latest()
        if stored is None or stored.version == self.version:
            return
        self._reload.apply(self._merged(self._own, stored.text))
        self.version, self._text, self.problem = stored.version, stored.text, None
        fields = {"version": stored.version, "changed_by": stored.changed_by}
        logger.info("shared settings applied", extra={"fields": fields})

    def _merged(self, own: Settings, text: str | None) -> Settings:
        """Return a server's settings with the stored ones. Raises ConfigError."""
        return own if text is None else with_shared(own, text, self._environ)

    async def latest(self) -> StoredSettings | None:
        """Return the latest version, also one that this server cannot use; None if the
        settings file is still their seed. Raises StorageUnavailableError."""
        return await self._store.latest()

    async def change(self, old: str, new: str, *, after: int, changed_by: str) -> None:
        """Store a new version and use it. `after` is the version that `old` is.

        Raises InvokeBadRequestError, and nothing changes, if the text has mistakes, if
        it changes what takes effect at a start only, or if somebody was faster.
        """
        try:
            self._reload.check(self._merged(self._own, new))
        # A provider that nothing offers is a mistake in the text too.
        except (ConfigError, NotFoundError) as error:
            raise InvokeBadRequestError(str(error), param="text") from error
        if fixed := changed_at_start_only(old, new):
            raise InvokeBadRequestError(
                f"{', '.join(fixed)}: takes effect at a start only, so running servers"
                " would not follow; change it in the settings file of each server and"
                " restart them one after the other",
                param="text",
            )
        # Stored only after all checks, since every server takes it over at once.
        await self._store.add(new, after=after, changed_by=changed_by)
        await self.refresh()
