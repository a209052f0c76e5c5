"""A network in which stand-ins answer for every host, so that plugins that call fixed
addresses of vendors can be driven unchanged.

A plugin's connections pass the server's egress proxy. Here that proxy leads all of them
to one server on loopback, whose certificates are signed by an authority that the plugins
trust for as long as the block lasts.
"""

import asyncio
import os
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from modelyard.plugins.host import PluginHost
from modelyard.plugins.manifest import Hosts
from modelyard.testing import Handler, Upstream
from modelyard.transport.egress_proxy import EgressProxy
from modelyard.transport.origins import Origin

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_TRUST = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class PlayedNetwork:
    """The stand-ins of a network: one server with TLS, and one without."""

    secure: Upstream
    plain: Upstream

    def lead(self, host: PluginHost) -> None:
        """Lead all connections of a host's plugins to the stand-ins."""
        supervisors = host._supervisors  # pyright: ignore[reportPrivateUsage]
        make_proxy = supervisors._way_out  # pyright: ignore[reportPrivateUsage]
        assert make_proxy is not None

        def proxy(tenant: str, token: str, hosts: Hosts) -> EgressProxy:
            """Return a proxy with the rules of the real one for this server's files."""
            real = make_proxy(tenant, token, hosts)
            return self._proxy(real)

        supervisors._way_out = proxy  # pyright: ignore[reportPrivateUsage]

    def _proxy(self, real: EgressProxy) -> EgressProxy:
        secure, plain = self.secure.port, self.plain.port

        class ToStandIns(EgressProxy):
            """Connects to the stand-ins, whatever the origin."""

            async def _connect_checked(
                self, origin: Origin
            ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                port = plain if origin.scheme == "http" else secure
                return await asyncio.open_connection("127.0.0.1", port)

        return ToStandIns(
            real.rules, real.server_url, real.token, real.label, hosts=real.hosts
        )


@contextmanager
def played_network(handler: Handler, folder: Path) -> Generator[PlayedNetwork]:
    """Run the stand-ins, which all have one `handler`; certificates are written below
    `folder`. Plugins that are started meanwhile trust them."""
    authority = trustme.CA()
    bundle = folder / "certificates.pem"
    # Installers of packages go on to trust what they trusted.
    known = _CERTIFICATES.read_bytes() if _CERTIFICATES.is_file() else b""
    bundle.write_bytes(known + authority.cert_pem.bytes())
    bundle.chmod(0o644)
    before = {name: os.environ.get(name) for name in _TRUST}
    os.environ.update(dict.fromkeys(_TRUST, str(bundle)))
    try:
        with (
            Upstream(handler, _any_host(authority)) as secure,
            Upstream(handler) as plain,
        ):
            yield PlayedNetwork(secure, plain)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def _any_host(authority: trustme.CA) -> ssl.SSLContext:
    """Return a server's context with a certificate for each host that is asked for."""
    by_host: dict[str, ssl.SSLContext] = {}

    def context_for(host: str) -> ssl.SSLContext:
        if host not in by_host:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(host).configure_cert(context)
            by_host[host] = context
        return by_host[host]

    def choose(
        connection: ssl.SSLObject, host: str | None, context: ssl.SSLContext
    ) -> None:
        """Use the certificate of the host that the client names."""
        del context
        connection.context = context_for(host or "played.example")

    default = context_for("played.example")
    default.sni_callback = choose  # pyright: ignore[reportAttributeAccessIssue]
    return default
