"""How a connection comes about: names become addresses, addresses are checked and raced, proxies are asked, TLS begun.

The race is Happy Eyeballs (RFC 8305): the families of addresses take turns, an attempt that has not connected after
250 ms gets company, and the first that connects wins. Both kinds of address are looked up by the system at once, in the
order that it prefers.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from modelyard.base.errors import ConfigError, InvokeConnectionError
from modelyard.transport.connection import Connection
from modelyard.transport.origins import Guard, Origin
from modelyard.transport.proxies import Proxy, Way

ATTEMPT_DELAY = 0.25
"""Seconds until the next address is tried beside those before it (RFC 8305, 5)."""

Attempt = Callable[[str], Awaitable[Connection]]


class ProxyRefusedError(InvokeConnectionError):
    """A proxy would not pass a request on."""


def tls_context(ca_file: str, *, verify: bool = True) -> ssl.SSLContext:
    """Trusts what the system does, where OpenSSL also heeds SSL_CERT_FILE, and beside it what is in `ca_file`.

    Raises ConfigError for a file without certificates.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"file {ca_file!r} cannot be read as certificates to trust: {error}") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def connected(way: Way, guard: Guard, tls: Callable[[], ssl.SSLContext], seconds: float) -> Connection:
    """A connection over which the origin can be asked. Raises OSError, and what `guard` raises.

    The guard is asked about all the addresses that the first host stands for before anything is connected to; then
    those very addresses are: a name that changes its mind gains nothing. What lies behind a proxy has no address here
    unless the URL holds one.
    """
    addresses = await _resolved(way.first)
    guard(way.first, addresses)
    if way.proxy is not None:
        guard(way.origin, await _written_addresses(way.origin))
    loop = asyncio.get_running_loop()

    async def attempt(address: str) -> Connection:
        _, connection = await loop.create_connection(lambda: Connection(way, loop), address, way.first.port)
        return connection

    connection = await first_connected(interleaved(addresses), attempt)
    try:
        if way.first.scheme == "https":
            await _secure(connection, way.first, tls())
        if way.is_tunnel and way.proxy is not None:
            await _ask_for_tunnel(connection, way.origin, way.proxy, seconds)
            await _secure(connection, way.origin, tls())
    except BaseException:
        connection.abort()
        raise
    return connection


async def first_connected(addresses: Sequence[str], attempt: Attempt, delay: float = ATTEMPT_DELAY) -> Connection:
    """The first connection that comes about; the others are closed. Raises OSError where none does."""
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
            await asyncio.wait(
                running, timeout=delay if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )  # one that failed makes room for the next at once
            winner = _winner(running, failures)
    finally:
        await _close_losers(running)
    if winner is None:
        raise _joined(failures)
    return winner


def interleaved(addresses: Sequence[str]) -> list[str]:
    """Each address once, the families in turn, beginning with that of the first (RFC 8305, 4)."""
    unique = list(dict.fromkeys(addresses))
    begins_with_six = ":" in unique[0]
    same = deque(address for address in unique if (":" in address) is begins_with_six)
    other = deque(address for address in unique if (":" in address) is not begins_with_six)
    turns: list[str] = []
    while same or other:
        turns += [family.popleft() for family in (same, other) if family]
    return turns


def _winner(running: list[asyncio.Future[Connection]], failures: list[OSError]) -> Connection | None:
    """The first of the attempts that has connected, taken out of the list; those that failed are, too."""
    for attempt in [one for one in running if one.done()]:
        running.remove(attempt)
        failure = attempt.exception()
        if failure is None:
            return attempt.result()
        if not isinstance(failure, OSError):
            raise failure
        failures.append(failure)
    return None


async def _close_losers(running: Sequence[asyncio.Future[Connection]]) -> None:
    for attempt in running:
        attempt.cancel()
    if running:
        await asyncio.wait(running)
    for attempt in running:
        if not attempt.cancelled() and attempt.exception() is None:
            attempt.result().abort()


def _joined(failures: Sequence[OSError]) -> OSError:
    reasons = list(dict.fromkeys(str(failure) for failure in failures))
    return OSError("; ".join(reasons) or "no address answered")


async def _resolved(origin: Origin) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        answers = await loop.getaddrinfo(origin.host, origin.port, type=1)  # SOCK_STREAM
    except UnicodeError as error:
        raise OSError(f"{origin.host!r} is no name that can be looked up") from error
    if not answers:
        raise OSError("the name has no address")
    return [str(address[0]) for *_, address in answers]


async def _written_addresses(origin: Origin) -> list[str]:
    """What a host that is written as an address stands for, in any way of writing one; nothing for a name."""
    loop = asyncio.get_running_loop()
    try:
        answers = await loop.getaddrinfo(origin.host, origin.port, type=1, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []
    return [str(address[0]) for *_, address in answers]


async def _secure(connection: Connection, origin: Origin, context: ssl.SSLContext) -> None:
    # The name that certificates hold ends in no dot, and knows no zone of an address (RFC 6066, 3).
    name = origin.host.rstrip(".").partition("%")[0]
    loop = asyncio.get_running_loop()
    transport = await loop.start_tls(connection.transport, connection, context, server_hostname=name)
    if transport is None:
        raise ConnectionResetError("the connection was closed while TLS began")
    connection.transport = transport


async def _ask_for_tunnel(connection: Connection, origin: Origin, proxy: Proxy, seconds: float) -> None:
    """CONNECT (RFC 9110, 9.3.6). Raises ProxyRefusedError."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    target = f"{host}:{origin.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"host: {target}"]
    if proxy.authorization:
        lines.append(f"proxy-authorization: {proxy.authorization}")
    connection.begin(is_bodiless=True)
    await connection.write("\r\n".join([*lines, "", ""]).encode("latin-1"), ())
    answer = connection.answer
    while not (answer.is_head_complete or answer.error):
        await answer.wait(seconds, "opened no tunnel")
    if not answer.is_head_complete:
        raise ProxyRefusedError(f"the proxy {proxy.origin.authority} opened no tunnel: {answer.error}")
    if not 200 <= answer.status < 300:
        raise proxy_refusal(proxy, origin, answer.status)
    if connection.is_spoiled:
        raise ProxyRefusedError(f"the proxy {proxy.origin.authority} sent bytes of its own into the tunnel")


def proxy_refusal(proxy: Proxy, origin: Origin, status: int) -> ProxyRefusedError:
    """What a proxy's status means, for whoever has to mend it. The proxy's password is not in it."""
    name = proxy.origin.authority
    if status != 407:
        return ProxyRefusedError(f"the proxy {name} refuses to connect to {origin.authority}: HTTP status {status}")
    if proxy.authorization:
        return ProxyRefusedError(f"the proxy {name} refuses the user name and password in its address (407)")
    return ProxyRefusedError(
        f"the proxy {name} wants a user name and password (407): write them into its address, as "
        "http://USER:PASSWORD@HOST:PORT"
    )
