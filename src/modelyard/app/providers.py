"""Providers, wired: their definitions, the local models, and the credentials of whoever may use them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from modelyard.app.live_settings import LiveSettings
from modelyard.app.network import NetworkParts, network_of, proxies_of, proxy_names
from modelyard.app.provider_settings import configure_credentials, configured_providers, definitions_of, timeouts_of
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
from modelyard.tenancy.directory import Directory
from modelyard.tenancy.kinds import StoredCredential


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What a program adds in code to the providers that the settings name."""

    definitions: tuple[ProviderDefinition, ...] = ()
    builders: Mapping[str, Builder] = field(default_factory=dict[str, Builder])
    """A wire format's name → who makes the models that speak it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Providers by other settings: tried, and not yet in use."""

    factory: ModelProviderFactory
    configured: Sequence[ProviderSettings]
    """As they were tried: what lies in files may be another by the time that they are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderParts:
    """Who serves models, and with which credentials."""

    manager: ProviderManager
    weights: WeightStore
    local: LocalRuntime
    """Models that run on this machine."""
    factories: "Factories"
    environ: Mapping[str, str]
    """Where people keep keys whose providers have no credential in the settings."""

    def prepare(self, settings: Settings, clock: Clock) -> Prepared:
        """Providers for other settings, after all was tried that can be wrong with them.

        Raises ConfigError, CredentialsValidateFailedError, NotFoundError; nothing is changed then.
        """
        configured = configured_providers(settings)
        proxies_of(settings.network, self.environ)
        factory = self.factories.make(settings, configured)
        trial = ProviderManager(factory, clock, on_secret=redaction.add)
        configure_credentials(trial, configured, self.environ)
        return Prepared(factory, configured)

    def use(self, prepared: Prepared) -> None:
        """Go on with what `prepare` gave, and with the credentials of its settings."""
        self.manager.use(prepared.factory)
        configure_credentials(self.manager, prepared.configured, self.environ)


class Factories:
    """Makes the factory of providers that some settings ask for."""

    def __init__(self, network: NetworkParts, local: LocalRuntime, added: Added) -> None:
        self._network = network
        self._local = local
        self._added = added

    def make(self, settings: Settings, configured: Sequence[ProviderSettings]) -> ModelProviderFactory:
        """Raises ConfigError for a proxy, an address or a definition that is wrong."""
        clients, guarded = self._network.clients, self._network.guarded
        proxies, timeouts = proxy_names(configured), timeouts_of(settings)
        for proxy in proxies.values():  # what is wrong with one is found here, not at the first call
            clients.by(proxy)

        def models(definition: ProviderDefinition) -> Mapping[ModelType, Any]:
            client = clients.by(proxies.get(definition.name, ""))
            return http_models(definition, client, timeouts, guarded)

        definitions = [*definitions_of(settings, configured), *self._added.definitions]
        builders = {
            **dict.fromkeys(WIRES, models),
            "local": lambda definition: local_models(self._local),
            **self._added.builders,
        }
        return ModelProviderFactory(definitions, builders)


def build_providers(
    live: LiveSettings,
    environ: Mapping[str, str],
    clock: Clock,
    *,
    network: NetworkParts,
    keys: KeyRing,
    directory: Directory,
    added: Added,
) -> ProviderParts:
    """Raises ConfigError, CredentialsValidateFailedError, NotFoundError for settings that are wrong."""
    settings = live.current
    weights = weight_store(settings, environ)
    local = LocalRuntime(weights, _local_options(settings))
    factories = Factories(network, local, added)
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
    return ProviderParts(manager=manager, weights=weights, local=local, factories=factories, environ=environ)


def weight_store(settings: Settings, environ: Mapping[str, str] = os.environ) -> WeightStore:
    """Where the files of local models lie. Raises ConfigError for a proxy or a file of certificates that is wrong."""
    named = Path(settings.local.weights).expanduser() if settings.local.weights else None
    hub = hub_fetch(settings.local.hub, network_of(settings, environ)) if settings.local.hub else None
    return WeightStore(settings.home_path / "models", named_folder=named, hub=hub)


def _local_options(settings: Settings) -> LocalOptions:
    local = settings.local
    return LocalOptions(
        threads=local.threads,
        context=local.context,
        parallel=local.parallel,
        queue=local.queue,
        idle_seconds=local.idle_seconds,
    )


def _is_present(weights: WeightStore, provider: str, model: str) -> bool:
    """Whether a model can be called as far as this machine goes: all that others serve, and local ones with files."""
    return provider != "local" or weights.is_present(model)


def _unlock(keys: KeyRing, tenant: str, row: str, secret: str) -> str:
    """Raises SecretError."""
    return keys.decrypt(secret, tenant=tenant, kind=StoredCredential.kind, row=row)
