"""Opening of connections: name resolution, address checks, connection racing, proxies
and TLS.

Racing follows Happy Eyeballs (RFC 8305): address families alternate, an attempt that
has not connected after 250 ms is joined by another, and the first to connect wins. IPv4
and IPv6 addresses come from one system look-up, in the system's order of preference.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from modelyard.base.errors import ConfigError, InvokeConnectionError
from modelyard.transport.connection import Connection
from modelyard.transport.origins import Guard, Origin
from modelyard.transport.proxies import Proxy, Route

ATTEMPT_DELAY = 0.25
"""Seconds before the next address is tried in parallel (RFC 8305, section 5)."""

Attempt = Callable[[str], Awaitable[Connection]]


class ProxyRefusedError(InvokeConnectionError):
    """A proxy refused to forward a request."""


def tls_context(ca_file: str, *, verify: bool = True) -> ssl.SSLContext:
    """Create a TLS context that trusts the system's certificates, `SSL_CERT_FILE`, and
    those in `ca_file`.

    Raises ConfigError for a file without certificates.
    """
    context = trusting_context(ca_file)
    # HTTP/2 must not be negotiated: the client speaks HTTP/1.1 only.
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def trusting_context(ca_file: str) -> ssl.SSLContext:
    """Create a TLS context for any protocol that trusts the system's certificates and
    those in `ca_file`. Raises ConfigError for a file without certificates."""
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"CA file {ca_file!r} cannot be loaded: {error}"
            ) from error
    return context


async def connected_socket(
    origin: Origin, guard: Guard, seconds: float
) -> socket.socket:
    """Return a socket that is connected to an origin, for protocols other than HTTP.

    As for HTTP, the guard checks all addresses before any connection, and only these
    are connected to. `seconds` is the timeout for each address. Raises OSError, and what
    `guard` raises.
    """
    addresses = await _resolve(origin)
    guard(origin, addresses)
    failures: list[OSError] = []
    for address in interleaved(addresses):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        candidate = socket.socket(family, socket.SOCK_STREAM)
        candidate.setblocking(False)
        try:
            async with asyncio.timeout(seconds):
                loop = asyncio.get_running_loop()
                await loop.sock_connect(candidate, (address, origin.port))
        # A timeout is an OSError as well.
        except OSError as error:
            candidate.close()
            failures.append(error)
        except BaseException:
            candidate.close()
            raise
        else:
            return candidate
    raise _combined_error(failures)


async def connect_upstream(
    route: Route, guard: Guard, tls: Callable[[], ssl.SSLContext], seconds: float
) -> Connection:
    """Open a connection over which the origin can be reached. Raises OSError, and what
    `guard` raises.

    The guard checks all addresses of the first host before any connection, and exactly
    these addresses are used, so a changing DNS answer cannot bypass it. A destination
    behind a proxy has a known address only if the URL contains one.
    """
    addresses = await _resolve(route.first_hop)
    guard(route.first_hop, addresses)
    # The proxy resolves names itself, so only literal addresses of the destination can
    # be checked here.
    if route.proxy is not None:
        guard(route.origin, await _literal_addresses(route.origin))
    loop = asyncio.get_running_loop()

    async def attempt(address: str) -> Connection:
        """Connect to one address of the first host."""
        _, connection = await loop.create_connection(
            lambda: Connection(route, loop), address, route.first_hop.port
        )
        return connection

    connection = await race_connections(interleaved(addresses), attempt)
    try:
        if route.first_hop.scheme == "https":
            await _start_tls(connection, route.first_hop, tls())
        # TLS runs through the tunnel to the origin, in addition to TLS with an https
        # proxy.
        if route.is_tunnel and route.proxy is not None:
            await _open_tunnel(connection, route.origin, route.proxy, seconds)
            await _start_tls(connection, route.origin, tls())
    except BaseException:
        connection.abort()
        raise
    return connection


async def race_connections(
    addresses: Sequence[str], attempt: Attempt, delay: float = ATTEMPT_DELAY
) -> Connection:
    """Return the first connection that succeeds and close the others. Raises OSError if
    none does."""
    if len(addresses) == 1:
        return await attempt(addresses[0])
    waiting = deque(addresses)
    running: list[asyncio.Future[Connection]] = []
    failures: list[OSError] = []
    winner: Connection | None = None
    try:
        while winner is None and (waiting or running):
            if waiting:
                running.append(asyncio.ensure_future(attempt(waiting.popleft())))
            # A failed attempt ends the wait, so the next address is tried immediately.
            await asyncio.wait(
                running,
                timeout=delay if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            winner = _take_winner(running, failures)
    finally:
        # Also on cancellation: no attempt may be left running.
        await _close_losers(running)
    if winner is None:
        raise _combined_error(failures)
    return winner


def interleaved(addresses: Sequence[str]) -> list[str]:
    """Return the distinct addresses with alternating families, starting with that of
    the first (RFC 8305, section 4)."""
    unique = list(dict.fromkeys(addresses))
    # Only IPv6 addresses contain a colon.
    begins_with_six = ":" in unique[0]
    first_family = deque(
        address for address in unique if (":" in address) is begins_with_six
    )
    second_family = deque(
        address for address in unique if (":" in address) is not begins_with_six
    )
    turns: list[str] = []
    while first_family or second_family:
        turns += [
            family.popleft() for family in (first_family, second_family) if family
        ]
    return turns


def _take_winner(
    running: list[asyncio.Future[Connection]], failures: list[OSError]
) -> Connection | None:
    """Remove finished attempts from `running` and return the first connection among
    them, or None.

    Failures are appended to `failures`; errors other than OSError are raised.
    """
    for attempt in [future for future in running if future.done()]:
        # What is left in `running` will be closed, so the winner must not be in it.
        running.remove(attempt)
        failure = attempt.exception()
        if failure is None:
            return attempt.result()
        if not isinstance(failure, OSError):
            raise failure
        failures.append(failure)
    return None


async def _close_losers(running: Sequence[asyncio.Future[Connection]]) -> None:
    """Cancel attempts that are still running and abort those that connected.

    Returns once all of them have ended.
    """
    for attempt in running:
        attempt.cancel()
    if running:
        # Unlike `gather`, `wait` raises none of their errors.
        await asyncio.wait(running)
    # An attempt may have succeeded before it could be cancelled.
    for attempt in running:
        if not attempt.cancelled() and attempt.exception() is None:
            attempt.result().abort()


def _combined_error(failures: Sequence[OSError]) -> OSError:
    reasons = list(dict.fromkeys(str(failure) for failure in failures))
    return OSError("; ".join(reasons) or "No address accepted the connection")


async def _resolve(origin: Origin) -> list[str]:
    """Return the addresses of an origin's host, in the system's order.

    Raises OSError if the name is invalid, cannot be resolved or has no address.
    """
    loop = asyncio.get_running_loop()
    try:
        # Type 1 is SOCK_STREAM.
        # Without it, each address would come once for every kind of socket.
        answers = await loop.getaddrinfo(origin.host, origin.port, type=1)
    except UnicodeError as error:
        raise OSError(f"{origin.host!r} is not a valid host name") from error
    if not answers:
        raise OSError("The host name has no address")
    return [str(address[0]) for *_, address in answers]


async def _literal_addresses(origin: Origin) -> list[str]:
    """Return the addresses of a host that is written as an address in any notation, or
    nothing for a name."""
    loop = asyncio.get_running_loop()
    try:
        answers = await loop.getaddrinfo(
            origin.host, origin.port, type=1, flags=socket.AI_NUMERICHOST
        )
    except (OSError, UnicodeError):
        return []
    return [str(address[0]) for *_, address in answers]


async def _start_tls(
    connection: Connection, origin: Origin, context: ssl.SSLContext
) -> None:
    """Start TLS on a connection, with the origin's host as the server name.

    Replaces the connection's transport. Raises OSError, of which ssl.SSLError is a
    kind, if the handshake fails, for example because of the certificate.
    """
    # Certificates contain names without a trailing dot and addresses without a zone
    # (RFC 6066, section 3).
    name = origin.host.rstrip(".").partition("%")[0]
    loop = asyncio.get_running_loop()
    # The event loop returns a new transport that encrypts on top of the old one.
    transport = await loop.start_tls(
        connection.transport, connection, context, server_hostname=name
    )
    if transport is None:
        raise ConnectionResetError("The connection was closed during the TLS handshake")
    connection.transport = transport


async def _open_tunnel(
    connection: Connection, origin: Origin, proxy: Proxy, seconds: float
) -> None:
    """Open a tunnel with CONNECT (RFC 9110, section 9.3.6). Raises ProxyRefusedError."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    target = f"{host}:{origin.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"host: {target}"]
    if proxy.authorization:
        lines.append(f"proxy-authorization: {proxy.authorization}")
    connection.begin(is_bodiless=True)
    await connection.write("\r\n".join([*lines, "", ""]).encode("latin-1"), ())
    answer = connection.answer
    while not (answer.is_head_complete or answer.error):
        await answer.wait(seconds, "did not open a tunnel")
    if not answer.is_head_complete:
        raise ProxyRefusedError(
            f"The proxy {proxy.origin.authority} did not open a tunnel: {answer.error}"
        )
    if not 200 <= answer.status < 300:
        raise proxy_refusal(proxy, origin, answer.status)
    # Bytes before TLS starts could be mistaken for the origin's.
    if connection.is_spoiled:
        raise ProxyRefusedError(
            f"The proxy {proxy.origin.authority} sent data of its own into the tunnel"
        )


def proxy_refusal(proxy: Proxy, origin: Origin, status: int) -> ProxyRefusedError:
    """Return the error for a proxy's status, worded for the operator. It never contains
    the proxy's password."""
    name = proxy.origin.authority
    if status != 407:
        return ProxyRefusedError(
            f"The proxy {name} refused to connect to {origin.authority}: HTTP"
            f" status {status}"
        )
    if proxy.authorization:
        return ProxyRefusedError(
            f"The proxy {name} rejected the user name and password in its URL (407)"
        )
    return ProxyRefusedError(
        f"The proxy {name} requires a user name and password (407); add them to"
        " its URL: http://USER:PASSWORD@HOST:PORT"
    )
