"""Builds the provider services: definitions, local models and credentials."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from modelyard.app.live_settings import LiveSettings
from modelyard.app.network import NetworkServices, network_of, proxies_of, proxy_names
from modelyard.app.provider_settings import (
    check_plugin_providers,
    configure_credentials,
    configured_providers,
    definitions_of,
    plugin_providers,
    timeouts_of,
)
from modelyard.base.clock import Clock
from modelyard.base.log import redaction
from modelyard.base.settings import ProviderSettings, Settings
from modelyard.models.types import ModelType
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.factory import Builder, ModelProviderFactory
from modelyard.providers.http_provider import WIRES, http_models
from modelyard.providers.local.hub import hub_fetch
from modelyard.providers.local.provider import local_models
from modelyard.providers.local.runtime import LocalOptions, LocalRuntime
from modelyard.providers.local.weights import WeightStore
from modelyard.runtime.provider_manager import ProviderManager
from modelyard.storage.secrets import KeyRing
from modelyard.tenancy.caller import DEFAULT_TENANT
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.resource_types import Installation, StoredCredential


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedProviders:
    """Providers that a program adds in code."""

    definitions: tuple[ProviderDefinition, ...] = ()
    builders: Mapping[str, Builder] = field(default_factory=dict[str, Builder])
    """Wire format → builder of the models that use it."""


@dataclass(frozen=True, slots=True)
class PreparedProviders:
    """Providers for changed settings: validated and not yet in use."""

    factory: ModelProviderFactory
    configured: Sequence[ProviderSettings]
    """As validated: files may have changed by the time the settings are applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderServices:
    """The providers, local models and credentials."""

    manager: ProviderManager
    weights: WeightStore
    local: LocalRuntime
    """Models that run on this machine."""
    factories: "Factories"
    environ: Mapping[str, str]
    """Environment variables with API keys, for providers without a credential in the
    settings."""
    directory: Directory

    async def load(self, live_settings: LiveSettings) -> None:
        """Load the tenants' resources, and check the providers in the settings.

        Raises StorageUnavailableError, and NotFoundError for a provider that nothing
        offers.
        """
        await self.directory.refresh()
        self.check_names(live_settings.current)

    def check_names(self, settings: Settings) -> None:
        """Raise NotFoundError if the settings name a provider that nothing offers. The
        directory has to be read before, since plugins may offer it."""
        names = [
            entry.name
            for entry in plugin_providers(settings, configured_providers(settings))
        ]
        installations = self.directory.of(DEFAULT_TENANT, Installation)
        check_plugin_providers(
            names,
            [installation.provider for _, installation in installations],
            [
                entity.provider
                for entity in self.manager.factory_of(DEFAULT_TENANT).get_providers()
            ],
        )

    def prepare(self, settings: Settings, clock: Clock) -> PreparedProviders:
        """Validate changed settings and return their providers.

        Raises ConfigError, CredentialsValidateFailedError or NotFoundError; then
        nothing is changed.
        """
        # Read once; the same list is used when the settings are applied.
        configured = configured_providers(settings)
        # Called only for their errors.
        self.check_names(settings)
        proxies_of(settings.network, self.environ)
        factory = self.factories.make(settings, configured)
        # Credentials are validated on a throw-away manager.
        trial = ProviderManager(factory, clock, on_secret=redaction.add)
        configure_credentials(trial, configured, self.environ)
        return PreparedProviders(factory, configured)

    def use(self, prepared: PreparedProviders) -> None:
        """Switch to prepared providers and their credentials."""
        # The credentials follow the factory that knows their providers.
        self.manager.replace_factory(prepared.factory)
        configure_credentials(self.manager, prepared.configured, self.environ)


class Factories:
    """Builds provider factories from settings."""

    def __init__(
        self, network: NetworkServices, local: LocalRuntime, added: AddedProviders
    ) -> None:
        self._network = network
        self._local = local
        self._added = added

    def make(
        self, settings: Settings, configured: Sequence[ProviderSettings]
    ) -> ModelProviderFactory:
        """Return the factory of the configured providers. Raises ConfigError for an
        invalid proxy, address or definition."""
        clients, guarded = self._network.clients, self._network.guarded
        proxies, timeouts = proxy_names(configured), timeouts_of(settings)
        # Creates the clients now: an invalid proxy is reported at the start, not at the
        # first call.
        for proxy in (
            proxies.values()
        ):  # what is wrong with one is found here, not at the first call
            clients.by(proxy)

        def models(definition: ProviderDefinition) -> Mapping[ModelType, Any]:
            """Return the models of a provider that is reached over HTTP."""
            client = clients.by(proxies.get(definition.name, ""))
            return http_models(definition, client, timeouts, guarded)

        definitions = [*definitions_of(settings, configured), *self._added.definitions]
        # Builders of the program replace those with the same name.
        builders: dict[str, Builder] = {
            **dict.fromkeys(WIRES, models),
            "local": lambda definition: local_models(self._local),
            **self._added.builders,
        }
        return ModelProviderFactory(definitions, builders)


def build_providers(
    live_settings: LiveSettings,
    environ: Mapping[str, str],
    clock: Clock,
    *,
    network: NetworkServices,
    keys: KeyRing,
    directory: Directory,
    added: AddedProviders,
) -> ProviderServices:
    """Build the provider services.

    Raises ConfigError, CredentialsValidateFailedError or NotFoundError for invalid
    settings.
    """
    settings = live_settings.current
    weights = weight_store(settings, environ)
    local = LocalRuntime(weights, _local_options(settings))
    factories = Factories(network, local, added)
    # Includes providers that the command line added.
    configured = configured_providers(settings)
    manager = ProviderManager(
        factories.make(settings, configured),
        clock,
        on_secret=redaction.add,
        is_present=partial(_is_present, weights),
        directory=directory,
        unlock=partial(_unlock, keys),
    )
    configure_credentials(manager, configured, environ)
    return ProviderServices(
        manager=manager,
        weights=weights,
        local=local,
        factories=factories,
        environ=environ,
        directory=directory,
    )


def weight_store(
    settings: Settings, environ: Mapping[str, str] = os.environ
) -> WeightStore:
    """Return the store of local model files. Raises ConfigError for an invalid proxy or
    certificate file."""
    # An operator may keep the files of local models in another folder.
    custom_folder = (
        Path(settings.local.weights).expanduser() if settings.local.weights else None
    )
    hub = (
        hub_fetch(settings.local.hub, network_of(settings, environ))
        if settings.local.hub
        else None
    )
    return WeightStore(
        settings.home_path / "models", named_folder=custom_folder, hub=hub
    )


def _local_options(settings: Settings) -> LocalOptions:
    """Return the options of the local runtime."""
    local = settings.local
    return LocalOptions(
        threads=local.threads,
        context=local.context,
        parallel=local.parallel,
        queue=local.queue,
        idle_seconds=local.idle_seconds,
    )


def _is_present(weights: WeightStore, provider: str, model: str) -> bool:
    """Return whether a model can be called on this machine: any remote model, and local
    ones whose files are present."""
    return provider != "local" or weights.is_present(model)


def _unlock(keys: KeyRing, tenant: str, row: str, secret: str) -> str:
    """Decrypt a stored credential. Raises SecretError."""
    return keys.decrypt(secret, tenant=tenant, kind=StoredCredential.kind, row=row)
