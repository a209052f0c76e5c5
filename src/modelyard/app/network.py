"""The clients for what operators name: one for all, and one for each proxy that a provider has to itself."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelyard.base.errors import ConfigError
from modelyard.base.log import redaction
from modelyard.base.settings import NetworkSettings, ProviderSettings, Settings
from modelyard.providers.definition import load_definition
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


class Clients:
    """`shared` serves all that has no proxy of its own, by what the settings and the variables say."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Raises ConfigError for a proxy that cannot be read, or a file of certificates that is not there."""
        self._environ = environ
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
