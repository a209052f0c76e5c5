"""Storage of one process: database, files, encryption keys and the state shared between
processes."""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.app.provider_settings import ADDED_PROVIDERS
from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError
from modelyard.base.log import redaction
from modelyard.base.private_files import repair
from modelyard.base.settings import FileSettings, Settings
from modelyard.storage.backups import files_of
from modelyard.storage.counters import Counters, DatabaseCounters, MemoryCounters
from modelyard.storage.database import Database, StorageUnavailableError
from modelyard.storage.database_clock import DatabaseClock
from modelyard.storage.database_files import DatabaseFileStorage
from modelyard.storage.file_storage import FileStorage
from modelyard.storage.files import FileStore
from modelyard.storage.local_files import LocalFileStorage
from modelyard.storage.moved_files import MovedFileStorage
from modelyard.storage.resources import Resources
from modelyard.storage.response_cache import (
    DatabaseResponseCache,
    FailSoftCache,
    MemoryResponseCache,
    ResponseCache,
)
from modelyard.storage.scoped_store import ScopedStore
from modelyard.storage.secrets import KeyRing, load_key_ring
from modelyard.transport.s3 import S3Credentials
from modelyard.transport.s3_files import S3FileStorage

if TYPE_CHECKING:
    from modelyard.storage.valkey_client import Valkey
    from modelyard.transport.http import HttpClient

logger = logging.getLogger("modelyard.app")

# Valkey speaks the protocol of Redis, and many URLs still name that.
_VALKEY_SCHEMES = ("valkey", "valkeys", "redis", "rediss")
_CLUSTER = "+cluster"
"""Added to the scheme for a cluster."""

MASTER_KEY = "master.key"
"""Name of the master key file in the home folder. It is used if the settings hold no
key."""
_MAX_CATALOG_BYTES = 256 << 20
"""Maximum size of the cached tool catalogs of remote tool servers, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageServices:
    """Storage services of one process, on local disk or on the engines named in the
    settings."""

    database: Database
    shared_clock: DatabaseClock
    """The one clock of all servers that share the database."""
    resources: Resources
    """The resources that tenants configure: providers, keys, apps, datasets and so on.
    """
    keys: KeyRing
    """Encrypts secrets and signs URLs."""
    file_storage: FileStorage
    """The bytes of files, by tenant and name."""
    files: FileStore
    scoped_store: ScopedStore
    """Short-lived records: tool results, samples and evaluations."""
    tool_catalogs: ScopedStore
    """Cached tool catalogs that remote tool servers returned."""
    valkey: "Valkey | None"
    """State shared between processes; None if the settings name no such server."""

    counts_elsewhere: bool = False
    """Whether limits are counted in the database or in Valkey, not in this process."""

    @property
    def counting_trouble(self) -> str | None:
        """Why limits cannot be counted at present, or None."""
        if self.valkey is not None:
            return self.valkey.trouble
        return self.database.trouble if self.counts_elsewhere else None

    async def check_files(self) -> None:
        """Check that files can be stored. A server that is away does not keep this one
        from starting: calls that need files fail until it is back.

        Raises ConfigError if files can never be stored.
        """
        try:
            await self.file_storage.check()
        except StorageUnavailableError as error:
            logger.warning("files unavailable", extra={"fields": {"error": str(error)}})

    async def aclose(self) -> None:
        """Commit pending writes and close all connections."""
        # Close Valkey first: the database close commits, and it must be the last step.
        if self.valkey is not None:
            await self.valkey.aclose()
        await self.file_storage.aclose()
        try:
            # `close` waits for the last commit, which must not hold up the loop.
            await asyncio.to_thread(self.database.close)
        except (
            RuntimeError
        ):  # the interpreter ends: there are no threads to be had any more
            self.database.close()


def build_storage(
    settings: Settings, clock: Clock, make_client: "Callable[[], HttpClient]"
) -> StorageServices:
    """Open all storage that the settings describe. `make_client` is for file servers.

    Raises ConfigError for invalid settings, and StorageUnavailableError if the database
    cannot be opened.
    """
    # Register the secrets before anything else runs, so that no log line can contain
    # them.
    redaction.add([*settings.api_keys, settings.master_key])
    # Tighten file permissions before the database and the key file are opened.
    repair(_private_files(settings))
    check_file_settings(settings)
    database = Database(settings.database_url, may_upgrade=settings.upgrade_database)
    keys = load_key_ring(settings.home_path / MASTER_KEY, settings.master_key)
    file_storage = file_storage_for(settings, database, clock, make_client)
    return StorageServices(
        database=database,
        shared_clock=DatabaseClock(database, clock.time),
        resources=Resources(database, clock),
        keys=keys,
        file_storage=file_storage,
        files=FileStore(file_storage, keys.digest, keys.matches),
        scoped_store=ScopedStore(database, clock),
        # Catalogs have their own store with a size limit, so that a large one cannot
        # displace other records.
        tool_catalogs=ScopedStore(database, clock, max_bytes=_MAX_CATALOG_BYTES),
        valkey=_valkey(settings),
        counts_elsewhere=bool(_counter_store(settings, database)),
    )


def _counter_store(settings: Settings, database: Database) -> str:
    """Return where limits are counted: the address of a Valkey, `database`, or an empty
    string for this process's memory."""
    # Several workers must see the same counters. The database is the shared store that
    # always exists.
    if not settings.shared and (settings.workers > 1 or database.is_shared):
        return "database"
    return settings.shared


def check_file_settings(settings: Settings) -> None:
    """Raise ConfigError if files cannot be stored, or other servers would not find
    this server's."""
    files = settings.files
    # Named before a connection is tried, which would say less.
    if files.problem:
        raise ConfigError(files.problem)
    if settings.is_shared and files.storage == "local" and not files.shared:
        raise ConfigError(
            f"files.storage is local, and other servers on the same database would not"
            f" find the files in {str(file_folder(settings))!r}: set files.storage to"
            " database or s3, or files.shared to true if all servers mount this folder"
        )


def file_folder(settings: Settings) -> Path:
    """Return the folder of local files."""
    # Network file systems are usually mounted elsewhere.
    folder = settings.files.folder
    return Path(folder).expanduser() if folder else settings.home_path / "files"


def file_storage_for(
    settings: Settings,
    database: Database,
    clock: Clock,
    make_client: "Callable[[], HttpClient]",
) -> FileStorage:
    """Return the storage of files that the settings select."""
    storage_name = settings.files.storage
    folder = file_folder(settings)
    if (storage_name or ("" if settings.is_shared else "local")) == "local":
        return LocalFileStorage(folder, is_shared=settings.files.shared)
    storage: FileStorage
    if storage_name == "s3":
        storage = _s3_storage(settings.files, clock, make_client())
    else:
        storage = DatabaseFileStorage(database, get_time=clock.time)
    # Files of an earlier version, or of another setting, must stay readable.
    return MovedFileStorage(storage, folder) if folder.is_dir() else storage


def _s3_storage(files: FileSettings, clock: Clock, client: "HttpClient") -> FileStorage:
    """Return the storage in a bucket. The operator has named the server, so it may be in
    a private network."""
    # Errors of the server could repeat what was sent.
    redaction.add([files.secret_key, files.session_token])
    credentials = S3Credentials(
        access_key=files.access_key,
        secret_key=files.secret_key,
        session_token=files.session_token,
        region=files.region,
    )
    return S3FileStorage(
        # Its connections are closed after the check at the start, so it has its own.
        client,
        files.bucket,
        credentials=credentials,
        get_time=clock.time,
        endpoint=files.endpoint,
        prefix=files.prefix,
        uses_path_style=files.path_style,
    )


def counters_for(
    settings: Settings, storage: StorageServices, clock: Clock, owner: str
) -> Counters:
    """Return the rate-limit counters: in memory for a single process, otherwise in a
    store that all processes share.

    `owner` identifies this process in the reservations that it makes.
    """
    shared = _counter_store(settings, storage.database)
    if not shared:
        return MemoryCounters(clock)
    if shared == "database":
        return DatabaseCounters(storage.database, clock, owner=owner)
    # The Valkey client is imported only if it is configured: most installations do not
    # need it.
    from modelyard.storage.valkey import ValkeyCounters

    return ValkeyCounters(_require_valkey(storage.valkey), clock, owner=owner)


def response_cache_for(
    settings: Settings, storage: StorageServices, clock: Clock
) -> ResponseCache:
    """Return the response cache that the settings select."""
    match settings.cache.store:
        case "memory":
            return MemoryResponseCache(clock, max_bytes=settings.cache.megabytes << 20)
        case "database":
            # A cache that is unavailable must not fail a call, so remote stores are
            # wrapped to log and continue.
            return FailSoftCache(
                DatabaseResponseCache(storage.database, clock), _log_cache_failure
            )
        case "shared":
            from modelyard.storage.valkey import ValkeyResponseCache

            return FailSoftCache(
                ValkeyResponseCache(_require_valkey(storage.valkey)), _log_cache_failure
            )


def _valkey(settings: Settings) -> "Valkey | None":
    """Return the Valkey client, or None if neither the counters nor the cache need it.

    Raises ConfigError if the address has an unknown scheme.
    """
    shared = settings.shared
    is_needed = settings.cache.store == "shared" or shared not in ("", "database")
    if not is_needed:
        return None
    scheme, separator, _ = shared.partition("://")
    if not separator or scheme.removesuffix(_CLUSTER) not in _VALKEY_SCHEMES:
        raise ConfigError(
            f"shared: unknown store {scheme!r}; expected 'database', valkey://HOST:PORT,"
            " valkey+cluster://HOST:PORT,HOST:PORT or nothing"
        )
    from modelyard.storage.valkey_client import connect

    return connect(shared)


def _require_valkey(valkey: "Valkey | None") -> "Valkey":
    """Return the client, or raise ConfigError if the settings name no server."""
    if valkey is None:
        raise ConfigError("shared: no server is set; expected valkey://HOST:PORT")
    return valkey


def _log_cache_failure(error: StorageUnavailableError) -> None:
    """Log that the response cache is unavailable; the call continues without it."""
    logger.warning(
        "response cache unavailable", extra={"fields": {"error": str(error)}}
    )


def _private_files(settings: Settings) -> list[Path]:
    """Return the files and folders that hold secrets or callers' content.

    Earlier versions created some of them with the default permissions of the system.
    """
    home = settings.home_path
    names = [
        "modelyard.yaml",
        "files",
        "ledger",
        "backups",
        "run",
        "serve.lock",
        ADDED_PROVIDERS,
    ]
    if (
        os.geteuid() != 0
    ):  # as root, plugins may run as users of their own, who have to reach their folders
        names.append("plugins")
    # A database URL names an external server, which has no local files to protect.
    database: Sequence[Path] = (
        [] if "://" in settings.database_url else files_of(Path(settings.database_url))
    )
    return [*(home / name for name in names), *database]
