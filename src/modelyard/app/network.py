"""Outgoing connections: clients for addresses of the operator, guarded clients for
addresses of tenants."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard.app.live_settings import LiveSettings
from modelyard.app.provider_settings import egress_rules
from modelyard.base.errors import ConfigError
from modelyard.base.log import redaction
from modelyard.base.settings import NetworkSettings, ProviderSettings, Settings
from modelyard.providers.definition import load_definition
from modelyard.transport.egress import EgressClient, GuardedClient
from modelyard.transport.http import HttpClient
from modelyard.transport.proxies import (
    NO_PROXIES,
    NO_PROXY_SETTING,
    NetworkConfig,
    Proxies,
    exceptions_from,
    parse_exceptions,
    parse_proxy,
    proxies_from,
)

logger = logging.getLogger("modelyard.app")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkServices:
    """All clients for outgoing connections."""

    clients: "Clients"
    """For addresses that the operator configured: providers, trace collectors."""
    guarded: GuardedClient
    """For model calls to addresses that tenants configured."""
    egress: EgressClient
    """For all other addresses that tenants name."""

    async def aclose(self) -> None:
        """Close all connections."""
        await self.clients.aclose()
        await self.guarded.aclose()
        await self.egress.aclose()


def build_network(
    live_settings: LiveSettings, environ: Mapping[str, str]
) -> NetworkServices:
    """Build the clients. Raises ConfigError for an invalid proxy or a missing
    certificate file."""
    settings = live_settings.current
    clients = Clients(settings, environ)
    egress = EgressClient(egress_rules(settings), clients.network)

    def apply(changed: Settings) -> None:
        """Apply changed egress rules and proxies."""
        egress.rules = egress_rules(changed)
        clients.use(proxies_of(changed.network, environ))

    live_settings.on_change(apply)
    # The rules are read at each request, so that changes take effect at once.
    guarded = GuardedClient(lambda: egress.rules, clients.network)
    return NetworkServices(clients=clients, guarded=guarded, egress=egress)


class Clients:
    """HTTP clients by proxy. `shared` is for everything that has no proxy of its own."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Raise ConfigError for an invalid proxy or a missing certificate file."""
        self.network = network_of(settings, environ)
        self.shared = HttpClient(network=self.network)
        self._own: dict[str, HttpClient] = {}
        self.use(self.network.proxies)

    def use(self, proxies: Proxies) -> None:
        """Switch to other proxies. Requests in progress are not affected."""
        # Passwords in proxy URLs must not appear in logs.
        redaction.add(proxies.secrets)
        self.network.proxies = proxies
        # Only for the log: names without passwords.
        configured_proxies = (proxies.http, proxies.https)
        names = sorted(
            {
                proxy.origin.authority
                for proxy in configured_proxies
                if proxy is not None
            }
        )
        if names:
            logger.info(
                "providers are reached through a proxy",
                extra={"fields": {"proxy": ", ".join(names)}},
            )

    def by(self, proxy: str) -> HttpClient:
        """Return the client for a proxy; `shared` for an empty one. Raises ConfigError."""
        if not proxy:
            return self.shared
        # One client per proxy, so that its connections are reused.
        client = self._own.get(proxy)
        if client is None:
            proxies = _one_proxy(proxy, "A provider's 'proxy'")
            redaction.add(proxies.secrets)
            client = HttpClient(network=NetworkConfig(proxies, self.network.ca_file))
            self._own[proxy] = client
        return client

    def separate(self) -> HttpClient:
        """Return a client without a proxy of its own that shares no connections. Whoever
        asks for it closes it."""
        return HttpClient(network=self.network, keep_idle=16, max_connections=64)

    async def aclose(self) -> None:
        """Close the connections of all clients."""
        for client in (self.shared, *self._own.values()):
            await client.aclose()


def network_of(settings: Settings, environ: Mapping[str, str]) -> NetworkConfig:
    """Return the network settings of the configuration and the environment. Raises
    ConfigError."""
    ca_file = settings.network.ca_file and str(
        Path(settings.network.ca_file).expanduser()
    )
    # Reported at the start instead of at the first connection.
    if ca_file and not Path(ca_file).is_file():
        raise ConfigError(f"network.ca_file {ca_file!r} does not exist")
    return NetworkConfig(proxies_of(settings.network, environ), ca_file)


def proxies_of(network: NetworkSettings, environ: Mapping[str, str]) -> Proxies:
    """Return the proxies for everything without a proxy of its own. Raises ConfigError."""
    # Explicitly no proxy: the environment variables are ignored.
    if network.proxy == NO_PROXY_SETTING:
        return NO_PROXIES
    base_proxies = (
        _one_proxy(network.proxy, "network.proxy")
        if network.proxy
        else proxies_from(environ)
    )
    exceptions, covers_nothing = parse_exceptions(
        network.no_proxy or exceptions_from(environ)
    )
    # Exceptions always apply, wherever the proxies come from.
    return Proxies(base_proxies.http, base_proxies.https, exceptions, covers_nothing)


def proxy_names(configured: Sequence[ProviderSettings]) -> dict[str, str]:
    """Return provider name → its own proxy."""
    return {
        provider.name
        or load_definition(Path(provider.path).expanduser()).name: provider.proxy
        for provider in configured
        if provider.proxy
    }


def _one_proxy(text: str, setting_name: str) -> Proxies:
    """Return one proxy for both schemes. `setting_name` is used in error messages.
    Raises ConfigError."""
    if text == NO_PROXY_SETTING:
        return NO_PROXIES
    proxy = parse_proxy(text, setting_name)
    return Proxies(proxy, proxy)
