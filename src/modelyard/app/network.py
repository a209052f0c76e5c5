"""How this process reaches others: the clients for what operators name, and the guarded ways for what tenants name."""

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
from modelyard.transport.egress import Egress, GuardedClient
from modelyard.transport.http import HttpClient
from modelyard.transport.proxies import (
    NO_PROXIES,
    NONE,
    Network,
    Proxies,
    exceptions_from,
    parse_exceptions,
    parse_proxy,
    proxies_from,
)

logger = logging.getLogger("modelyard.app")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkParts:
    """Every way out of this process."""

    clients: "Clients"
    """To what the operator named: providers, collectors of traces."""
    guarded: GuardedClient
    """Of model calls to addresses that tenants named."""
    egress: Egress
    """Of everything else that tenants named."""

    async def aclose(self) -> None:
        """Close all connections."""
        await self.clients.aclose()
        await self.guarded.aclose()
        await self.egress.aclose()


def build_network(live: LiveSettings, environ: Mapping[str, str]) -> NetworkParts:
    """Raises ConfigError for a proxy that cannot be read, or a file of certificates that is not there."""
    settings = live.current
    clients = Clients(settings, environ)
    egress = Egress(egress_rules(settings), clients.network)

    def take_up(changed: Settings) -> None:
        egress.rules = egress_rules(changed)
        clients.use(proxies_of(changed.network, environ))

    live.on_change(take_up)
    guarded = GuardedClient(lambda: egress.rules, clients.network)
    return NetworkParts(clients=clients, guarded=guarded, egress=egress)


class Clients:
    """`shared` serves all that has no proxy of its own, by what the settings and the variables say."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Raises ConfigError for a proxy that cannot be read, or a file of certificates that is not there."""
        self.network = network_of(settings, environ)
        self.shared = HttpClient(network=self.network)
        self._own: dict[str, HttpClient] = {}
        self.use(self.network.proxies)

    def use(self, proxies: Proxies) -> None:
        """Go on by other proxies. Requests that are under way end as they began."""
        redaction.add(proxies.secrets)
        self.network.proxies = proxies
        known = (proxies.http, proxies.https)
        names = sorted({proxy.origin.authority for proxy in known if proxy is not None})
        if names:
            logger.info("providers are reached by a proxy", extra={"fields": {"proxy": ", ".join(names)}})

    def by(self, proxy: str) -> HttpClient:
        """The client for a provider whose settings name a proxy; `shared` where they name none. Raises ConfigError."""
        if not proxy:
            return self.shared
        client = self._own.get(proxy)
        if client is None:
            proxies = _one_proxy(proxy, "a provider's 'proxy'")
            redaction.add(proxies.secrets)
            client = HttpClient(network=Network(proxies, self.network.ca_file))
            self._own[proxy] = client
        return client

    async def aclose(self) -> None:
        for client in (self.shared, *self._own.values()):
            await client.aclose()


def network_of(settings: Settings, environ: Mapping[str, str]) -> Network:
    """What settings and variables say of the network. Raises ConfigError."""
    ca_file = settings.network.ca_file and str(Path(settings.network.ca_file).expanduser())
    if ca_file and not Path(ca_file).is_file():
        raise ConfigError(f"network.ca_file {ca_file!r} does not exist")
    return Network(proxies_of(settings.network, environ), ca_file)


def proxies_of(network: NetworkSettings, environ: Mapping[str, str]) -> Proxies:
    """By which proxies all is reached that has none to itself. Raises ConfigError."""
    if network.proxy == NONE:
        return NO_PROXIES
    said = _one_proxy(network.proxy, "network.proxy") if network.proxy else proxies_from(environ)
    exceptions, covers_nothing = parse_exceptions(network.no_proxy or exceptions_from(environ))
    return Proxies(said.http, said.https, exceptions, covers_nothing)


def proxy_names(configured: Sequence[ProviderSettings]) -> dict[str, str]:
    """The proxies that providers have to themselves, by the provider's name."""
    return {one.name or load_definition(Path(one.path).expanduser()).name: one.proxy for one in configured if one.proxy}


def _one_proxy(text: str, named: str) -> Proxies:
    if text == NONE:
        return NO_PROXIES
    proxy = parse_proxy(text, named)
    return Proxies(proxy, proxy)
