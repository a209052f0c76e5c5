"""Tenancy setup: configured resources, their administration, and user accounts."""

from dataclasses import dataclass

from modelyard.administration.administration import Administration
from modelyard.app.live_settings import LiveSettings
from modelyard.app.storage import StorageServices
from modelyard.base.clock import Clock
from modelyard.people.accounts import Accounts
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.tenancy.dataset_keys import DatasetKeys
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.memberships import Memberships


@dataclass(frozen=True, slots=True, kw_only=True)
class TenancyServices:
    """Services for tenants, their resources and the people who administer them."""

    directory: Directory
    """In-memory view of all tenants' resources. Calls read it and never wait for the
    database."""
    administration: Administration
    accounts: Accounts
    dataset_keys: DatasetKeys
    memberships: Memberships
    """The groups of users, for access lists of documents."""


def build_tenancy(
    live_settings: LiveSettings,
    clock: Clock,
    storage: StorageServices,
    directory: Directory,
    providers: ProviderManager,
) -> TenancyServices:
    """Build the tenancy services.

    `providers` validates the credentials and custom models that administrators submit.
    """
    keys, resources = storage.keys, storage.resources
    administration = Administration(resources, directory, keys, providers, clock)
    accounts = Accounts(
        storage.database,
        clock.time,
        monotonic=clock.monotonic,
        admits=directory.admits,
        create_signature=keys.digest,
        is_signed=keys.matches,
    )
    # Administration needs to know whether API keys are configured; the settings can
    # change at run time, so it asks each time.
    administration.configure_ownership(
        accounts, lambda: bool(live_settings.current.api_keys)
    )
    dataset_keys = DatasetKeys(resources, directory, keys)
    return TenancyServices(
        directory=directory,
        administration=administration,
        accounts=accounts,
        dataset_keys=dataset_keys,
        memberships=Memberships(directory, resources, clock.time),
    )
