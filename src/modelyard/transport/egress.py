"""The client for addresses that people name: nodes, tools, files by address, imports. It reaches the public network,
and of the private one only what an administrator listed.

The name is resolved once, all its addresses are checked, and only those are connected to: for each hop of each request.
No proxy, which would look names up itself, no credentials in addresses, few ports, bounded redirects, time and bytes.
"""

import asyncio
import ipaddress
import unicodedata
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit, urlunsplit

from modelyard.base.errors import ConfigError, InvokeBadRequestError, InvokeError, InvokeTimeoutError, ModelyardError
from modelyard.transport.http import AnswerTooLargeError, HttpClient, Response, Timeouts
from modelyard.transport.origins import Origin, check_address, parse_url
from modelyard.transport.proxies import Network
from modelyard.transport.unpacking import is_plain

_MOST_REDIRECTS = 5
_MOST_URL = 8192
_MOST_HOST = 253
"""Longer ones no name server knows, and preparing one with other letters takes time with the square of its length."""
_V4_CLOSED = tuple(ipaddress.IPv4Network(one) for one in (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/3", "168.63.129.16/32",
))  # fmt: skip
_V6_OPEN = ipaddress.IPv6Network("2000::/3")
"""All that is routed on the public network. Mapped, NAT64, unique local and link-local addresses lie outside."""
_V6_CLOSED = tuple(ipaddress.IPv6Network(one) for one in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_KEPT_ELSEWHERE = frozenset({"accept", "accept-language", "content-type", "user-agent"})
"""Headers that go along where a redirect leads to another origin; whatever may prove who asks does not."""
_OURS = frozenset({
    "host", "content-length", "connection", "transfer-encoding", "accept-encoding", "proxy-authorization", "te",
    "upgrade", "keep-alive", "trailer", "expect",
})  # fmt: skip


class EgressError(ModelyardError):
    """A request to somewhere on the network failed."""

    code = "egress_failed"


class EgressRefusedError(EgressError):
    """The address must not be reached from here. Nothing was connected to."""

    code = "egress_refused"


class AddressRefusedError(InvokeBadRequestError):
    """The same of a model call: the address in the credential must not be reached. Another credential may serve."""

    code = "egress_refused"
    failover = True


class EgressTimeoutError(EgressError):
    code = "egress_timeout"


class EgressTooLargeError(EgressError):
    code = "egress_too_large"


def is_public(address: str) -> bool:
    """Whether it lies on the public network, by our own list: the standard library's changes between releases."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _V4_CLOSED)
    return "%" not in address and ip in _V6_OPEN and not any(ip in network for network in _V6_CLOSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRules:
    ports: frozenset[int] = frozenset({80, 443})
    private: frozenset[str] = frozenset()
    """`host:port` that may be reached although they are not public, as written in requests."""
    seconds: float = 600.0
    """Of a whole request, its redirects included."""

    def is_listed(self, origin: Origin) -> bool:
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        return f"{host}:{origin.port}".lower() in self.private

    def check(self, origin: Origin, addresses: Sequence[str]) -> None:
        """Raises EgressRefusedError."""
        if self.is_listed(origin):
            try:
                for address in addresses:
                    check_address(origin.host, address)
            except ConfigError as error:
                raise EgressRefusedError(str(error)) from error
            return
        self.check_port(origin)
        for address in addresses:
            if not is_public(address):
                # Not which address: what a private name server knows is nothing for whoever guesses names.
                raise EgressRefusedError(
                    f"host {origin.host!r} is no public address; an administrator can list "
                    f"'{origin.host}:{origin.port}' under egress.private"
                )

    def check_port(self, origin: Origin) -> None:
        if origin.port not in self.ports and not self.is_listed(origin):
            ports = ", ".join(str(one) for one in sorted(self.ports))
            raise EgressRefusedError(
                f"port {origin.port} of {origin.host!r} must not be called; {ports} may, and what is listed under "
                "egress.private"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A whole answer, its body as it was before it was compressed."""

    status: int
    headers: Mapping[str, str]
    """As `transport.headers.Headers` joins their lines."""
    body: bytes
    url: str
    """Where it came from in the end."""


class Streamed:
    """An answer as it comes."""

    def __init__(self, response: Response, url: str, most: int) -> None:
        self.status = response.status
        self.headers = response.headers
        self.url = url
        self._response = response
        self._most = most

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Raises EgressError."""
        async for piece in _unpacked(self._response, self.url, self._most):
            yield piece

    async def whole(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])


@dataclass(slots=True)
class _Hop:
    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    was: Origin | None = field(default=None)
    operators: Origin | None = field(default=None)


class GuardedClient(HttpClient):
    """The client of model calls, for addresses that a tenant named. It shares no connection with the operator's."""

    def __init__(self, rules: Callable[[], EgressRules], network: Network | None = None) -> None:
        super().__init__(
            guard=lambda origin, addresses: rules().check(origin, addresses), network=network, is_direct=True
        )
        self._rules = rules

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Sequence[bytes] = (),
        timeouts: Timeouts | None = None,
    ) -> Response:
        """As the client's own; AddressRefusedError for an address that must not be reached."""
        try:
            url = normal_url(url)
            # Each time, and not at a connection alone: one that is open may not be allowed any more.
            self._rules().check_port(_parsed(url)[0])
            return await super().send(method, url, headers=headers, body=body, timeouts=timeouts)
        except EgressRefusedError as error:
            raise AddressRefusedError(str(error)) from error


class Egress:
    def __init__(self, rules: EgressRules | None = None, network: Network | None = None) -> None:
        self.rules = rules or EgressRules()
        # The rules are asked anew at each connection, so that a reload reaches what is open too.
        self._clients = {
            verify: HttpClient(
                verify=verify, guard=self._guard, network=network, is_direct=True, keep_idle=4, max_connections=256
            )
            for verify in (True, False)
        }
        self._operators = HttpClient(network=network, keep_idle=4, max_connections=256)
        """For places that the operator named. Its connections serve nobody else."""

    def _guard(self, origin: Origin, addresses: Sequence[str]) -> None:
        self.rules.check(origin, addresses)

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        verify: bool = True,
        connect: float = 5.0,
        read: float = 60.0,
        most_bytes: int = 10 << 20,
        most_redirects: int = _MOST_REDIRECTS,
        operators: str = "",
    ) -> Fetched:
        """Send a request, follow where it is led, take the whole answer. Raises EgressError.

        `operators`: an address that the operator wrote. Its origin may be private; whatever that leads to may not.
        """
        hop = _Hop(method.upper(), url, [one for one in headers if one[0].lower() not in _OURS], body)
        hop.operators = _parsed(normal_url(operators))[0] if operators else None
        timeouts = Timeouts(connect=connect, first_byte=read, between_bytes=read)
        try:
            async with asyncio.timeout(self.rules.seconds):
                for _ in range(most_redirects + 1):
                    response = await self._send(hop, timeouts, verify=verify)
                    location = response.headers.get("location")
                    if response.status not in (301, 302, 303, 307, 308) or not location:
                        return await _whole(response, hop.url, most_bytes)
                    response.close()
                    hop = _next(hop, response.status, location)
        except TimeoutError:
            raise EgressTimeoutError(f"{_shown(url)} took longer than {self.rules.seconds:g} s") from None
        raise EgressError(f"{_shown(url)} redirects more than {most_redirects} times")

    async def fetch_once(
        self, method: str, url: str, *, headers: Sequence[tuple[str, str]] = (), most_bytes: int = 10 << 20
    ) -> Fetched:
        """Send a request and take the whole answer; a redirect is an answer like others, for callers who decide about
        each step. Raises EgressError."""
        hop = _Hop(method.upper(), url, [one for one in headers if one[0].lower() not in _OURS])
        timeouts = Timeouts(connect=5.0, first_byte=60.0, between_bytes=60.0)
        try:
            async with asyncio.timeout(self.rules.seconds):
                response = await self._send(hop, timeouts, verify=True)
                return await _whole(response, hop.url, most_bytes)
        except TimeoutError:
            raise EgressTimeoutError(f"{_shown(url)} took longer than {self.rules.seconds:g} s") from None

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        connect: float = 5.0,
        read: float = 60.0,
        most_bytes: int = 64 << 20,
    ) -> AsyncGenerator[Streamed, None]:
        """Send a request and take its answer as it comes; what is led elsewhere is followed with the method it has.
        Raises EgressError."""
        hop = _Hop(method.upper(), url, [one for one in headers if one[0].lower() not in _OURS], body)
        timeouts = Timeouts(connect=connect, first_byte=read, between_bytes=read)
        for _ in range(_MOST_REDIRECTS + 1):
            response = await self._send(hop, timeouts, verify=True)
            location = response.headers.get("location")
            if response.status in (307, 308) and location:
                response.close()
                hop = _next(hop, response.status, location)
                continue
            try:
                yield Streamed(response, hop.url, most_bytes)
            finally:
                response.close()
            return
        raise EgressError(f"{_shown(url)} redirects more than {_MOST_REDIRECTS} times")

    async def _send(self, hop: _Hop, timeouts: Timeouts, *, verify: bool) -> Response:
        hop.url = normal_url(hop.url)
        origin, _ = _parsed(hop.url)
        if hop.was is not None and hop.was != origin:
            hop.headers = [one for one in hop.headers if one[0].lower() in _KEPT_ELSEWHERE]
        is_operators = origin == hop.operators
        if not is_operators:
            self.rules.check_port(origin)
        if not any(name.lower() == "user-agent" for name, _ in hop.headers):
            hop.headers = [*hop.headers, ("user-agent", "modelyard")]
        for name, value in hop.headers:
            if not name.isascii() or any(sign in name for sign in " :\r\n\0") or not value.isprintable():
                raise EgressError(f"header {name!r} holds what HTTP cannot carry")
        hop.was = origin
        client = self._operators if is_operators else self._clients[verify]
        try:
            return await client.send(
                hop.method, hop.url, headers=_joined(hop.headers), body=[hop.body] if hop.body else (),
                timeouts=timeouts,
            )  # fmt: skip
        except InvokeTimeoutError as error:
            raise EgressTimeoutError(str(error)) from error
        except (InvokeError, ConfigError) as error:
            raise EgressError(str(error)) from error

    async def aclose(self) -> None:
        for client in (*self._clients.values(), self._operators):
            await client.aclose()


def _joined(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """One of each name: several values of one stand behind each other."""
    joined: dict[str, str] = {}
    names: dict[str, str] = {}
    for name, value in headers:
        known = names.setdefault(name.lower(), name)
        joined[known] = f"{joined[known]}, {value}" if known in joined else value
    return joined


def normal_url(url: str) -> str:
    """An address that all readers read alike. Raises EgressRefusedError for one that they would not."""
    url = url.strip()
    if len(url) > _MOST_URL:
        raise EgressRefusedError(f"an address of {len(url):,} characters is not called; {_MOST_URL:,} are the most")
    if any(sign in url for sign in "\\\t\r\n\0 ") or any(unicodedata.category(sign) == "Cc" for sign in url):
        raise EgressRefusedError(f"address {_shown(url)} holds characters that must be percent-encoded")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise EgressRefusedError(f"address {_shown(url)} cannot be read: {error}") from error
    if parts.scheme not in ("http", "https") or not url.lower().startswith(f"{parts.scheme}://") or not parts.netloc:
        raise EgressRefusedError(f"address {_shown(url)} must start with http:// or https:// and name a host")
    if "@" in parts.netloc:
        raise EgressRefusedError("an address must not carry a user name or password; use a header")
    host = parts.hostname or ""
    if "%" in host or not host or len(host) > _MOST_HOST:
        raise EgressRefusedError(f"address {_shown(url)} names no host that can be called")
    try:
        port = parts.port
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError) as error:
        raise EgressRefusedError(f"address {_shown(url)} names no host that can be called: {error}") from error
    shown = f"[{ascii_host}]" if ":" in ascii_host else ascii_host
    netloc = shown if port is None else f"{shown}:{port}"
    return urlunsplit((parts.scheme, netloc, _quoted(parts.path) or "/", _quoted(parts.query), ""))


def _quoted(text: str) -> str:
    if text.isascii():
        return text
    return "".join(sign if sign.isascii() else "".join(f"%{byte:02X}" for byte in sign.encode()) for sign in text)


def _parsed(url: str) -> tuple[Origin, str]:
    try:
        return parse_url(url)
    except ConfigError as error:
        raise EgressRefusedError(str(error)) from error


def _next(hop: _Hop, status: int, location: str) -> _Hop:
    try:
        url = urljoin(hop.url, location)
    except ValueError as error:
        raise EgressRefusedError(f"{_shown(hop.url)} redirects to an address that cannot be read: {error}") from error
    if status == 303 or (status in (301, 302) and hop.method == "POST"):
        headers = [one for one in hop.headers if one[0].lower() != "content-type"]
        return _Hop("HEAD" if hop.method == "HEAD" else "GET", url, headers, b"", hop.was, hop.operators)
    return _Hop(hop.method, url, hop.headers, hop.body, hop.was, hop.operators)


async def _whole(response: Response, url: str, most: int) -> Fetched:
    try:
        body = b"".join([piece async for piece in _unpacked(response, url, most)])
    finally:
        response.close()
    headers = response.headers
    if not is_plain(headers.get("content-encoding", "")):
        headers = headers.without("content-encoding")
    return Fetched(status=response.status, headers=headers, body=body, url=url)


async def _unpacked(response: Response, url: str, most: int) -> AsyncGenerator[bytes, None]:
    """The body as it was before it was compressed. Raises EgressError."""
    try:
        async with aclosing(response.pieces(most=most)) as pieces:
            async for piece in pieces:
                yield piece
    except InvokeTimeoutError as error:
        raise EgressTimeoutError(str(error)) from error
    except AnswerTooLargeError as error:
        raise EgressTooLargeError(f"{_shown(url)}: {error}") from error
    except InvokeError as error:
        raise EgressError(str(error)) from error


def _shown(url: str) -> str:
    """An address for a message: without its query, which may hold secrets."""
    return repr(url.partition("?")[0][:200])
