"""Tenants and people, wired: what is set up, who may change it, and who signs in."""

from dataclasses import dataclass

from modelyard.administration.administration import Administration
from modelyard.app.live_settings import LiveSettings
from modelyard.app.storage import StorageParts
from modelyard.base.clock import Clock
from modelyard.people.accounts import Accounts
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.tenancy.dataset_keys import DatasetKeys
from modelyard.tenancy.directory import Directory


@dataclass(frozen=True, slots=True, kw_only=True)
class TenancyParts:
    """Whose everything is."""

    directory: Directory
    """What tenants set up, in memory: calls look here and never wait for the database."""
    administration: Administration
    accounts: Accounts
    dataset_keys: DatasetKeys


def build_tenancy(
    live: LiveSettings, clock: Clock, storage: StorageParts, directory: Directory, providers: ProviderManager
) -> TenancyParts:
    """`providers` are asked what credentials and models that somebody sets up may be."""
    keys, resources = storage.keys, storage.resources
    administration = Administration(resources, directory, keys, providers, clock)
    accounts = Accounts(
        storage.database, clock.time, monotonic=clock.monotonic, admits=directory.admits, sign=keys.digest,
        is_signed=keys.matches,
    )  # fmt: skip
    administration.use(accounts, lambda: bool(live.current.api_keys))
    dataset_keys = DatasetKeys(resources, directory, keys)
    return TenancyParts(
        directory=directory, administration=administration, accounts=accounts, dataset_keys=dataset_keys
    )
