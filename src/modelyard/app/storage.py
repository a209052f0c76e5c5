"""Where this process keeps things: the database, files, the keys that encrypt, and what several processes share."""

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.app.provider_settings import ADDED_PROVIDERS
from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError
from modelyard.base.log import redaction
from modelyard.base.modes import repair
from modelyard.base.settings import Settings
from modelyard.storage.answers import Answers, DatabaseAnswers, MemoryAnswers, Patient
from modelyard.storage.backups import files_of
from modelyard.storage.counters import Counters, DatabaseCounters, MemoryCounters
from modelyard.storage.database import Database, StorageUnavailableError
from modelyard.storage.files import FileStore
from modelyard.storage.kept import Kept
from modelyard.storage.resources import Resources
from modelyard.storage.secrets import KeyRing, load_key_ring

if TYPE_CHECKING:
    from modelyard.storage.valkey import Valkey

logger = logging.getLogger("modelyard.app")

MASTER_KEY = "master.key"
"""In the home folder: what encrypts credentials, where the settings hold none."""
_VALKEY_SCHEMES = ("valkey://", "valkeys://", "redis://", "rediss://")
_MOST_OFFERED = 256 << 20
"""Bytes of what servers of tools have offered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageParts:
    """What lies on disk, or on the engines that the settings name."""

    database: Database
    resources: Resources
    """What tenants set up."""
    keys: KeyRing
    """What encrypts secrets and signs addresses."""
    files: FileStore
    kept: Kept
    """Small things that are kept for a while: results of tools, samples, evaluations."""
    offered: Kept
    """What servers of tools said that they offer."""
    valkey: "Valkey | None"
    """What processes share; None where the settings name no such server."""

    async def aclose(self) -> None:
        """Commit what is waiting, and close."""
        if self.valkey is not None:
            await self.valkey.aclose()
        try:
            await asyncio.to_thread(self.database.close)
        except RuntimeError:  # the interpreter ends: there are no threads to be had any more
            self.database.close()


def build_storage(settings: Settings, clock: Clock) -> StorageParts:
    """Raises ConfigError, and StorageUnavailableError where the database cannot be opened."""
    redaction.add([*settings.api_keys, settings.master_key])
    repair(_private_files(settings))
    database = Database(settings.database_url, may_upgrade=settings.upgrade_database)
    keys = load_key_ring(settings.home_path / MASTER_KEY, settings.master_key)
    return StorageParts(
        database=database,
        resources=Resources(database, clock),
        keys=keys,
        files=FileStore(settings.home_path / "files", keys.digest, keys.matches),
        kept=Kept(database, clock),
        offered=Kept(database, clock, most_bytes=_MOST_OFFERED),
        valkey=_valkey(settings),
    )


def counters_for(settings: Settings, storage: StorageParts, clock: Clock, owner: str) -> Counters:
    """Where limits are counted: in this process where it is alone, else where all processes see it.

    `owner` names this process in what it has reserved.
    """
    shared = settings.shared
    if not shared and (settings.workers > 1 or storage.database.is_shared):
        shared = "database"
    if not shared:
        return MemoryCounters(clock)
    if shared == "database":
        return DatabaseCounters(storage.database, clock, owner=owner)
    from modelyard.storage.valkey import ValkeyCounters

    return ValkeyCounters(_needed(storage.valkey), clock, owner=owner)


def answers_for(settings: Settings, storage: StorageParts, clock: Clock) -> Answers:
    """Where answers lie that may be given again."""
    match settings.cache.store:
        case "memory":
            return MemoryAnswers(clock, most_bytes=settings.cache.megabytes << 20)
        case "database":
            return Patient(DatabaseAnswers(storage.database, clock), _warn_of_cache)
        case "shared":
            from modelyard.storage.valkey import ValkeyAnswers

            return Patient(ValkeyAnswers(_needed(storage.valkey)), _warn_of_cache)


def _valkey(settings: Settings) -> "Valkey | None":
    """Raises ConfigError for an address that is none."""
    shared = settings.shared
    is_needed = settings.cache.store == "shared" or shared not in ("", "database")
    if not is_needed:
        return None
    if not shared.startswith(_VALKEY_SCHEMES):
        scheme = shared.partition("://")[0]
        raise ConfigError(f"shared {scheme!r} is not known; it is empty, 'database', or valkey://HOST:PORT")
    from modelyard.storage.valkey import Valkey

    return Valkey(shared)


def _needed(valkey: "Valkey | None") -> "Valkey":
    if valkey is None:
        raise ConfigError("shared names no server; it is valkey://HOST:PORT")
    return valkey


def _warn_of_cache(error: StorageUnavailableError) -> None:
    logger.warning("the cache cannot be used", extra={"fields": {"error": str(error)}})


def _private_files(settings: Settings) -> list[Path]:
    """What holds secrets, or what callers said: earlier versions left some of it to the system's usual modes."""
    home = settings.home_path
    names = ["modelyard.yaml", "files", "ledger", "backups", "run", "serve.lock", ADDED_PROVIDERS]
    if os.geteuid() != 0:  # as root, plugins may run as users of their own, who have to reach their folders
        names.append("plugins")
    database = [] if "://" in settings.database_url else files_of(Path(settings.database_url))
    return [*(home / name for name in names), *database]
