"""Addresses that lead to internal hosts, and a network in which all internal hosts
answer.

Run with `unshare -n`: the loopback interface then carries the addresses of cloud
metadata services and private networks, their IPv6 equivalents, and names resolve by
script.
"""

import asyncio
import ipaddress
import itertools
import json
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INSIDE = (
    "169.254.169.254",
    "10.0.0.1",
    "192.168.1.1",
    "172.16.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "fd00:ec2::254",
    "fe80::1",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fc00::1",
    "::ffff:0:1",
)
PUBLIC = "93.184.215.14"
NAMES: dict[str, list[str]] = {
    "inside.test": ["169.254.169.254"],
    "metadata.test": ["169.254.169.254"],
    "many.test": [PUBLIC, "10.0.0.1"],
    "mapped.test": ["::ffff:10.0.0.1"],
    "six.test": ["fd00:ec2::254"],
    "public.test": [PUBLIC],
    "loop.test": ["127.0.0.1"],
    "nat64.test": ["64:ff9b::a9fe:a9fe"],
}
"""Scripted names. `rebind.test` alternates between a public and an internal address."""

CASES: tuple[str, ...] = (
    # loopback and its spellings
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://0/",
    "http://0.0.0.0/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://localhost./",
    "http://127.0.0.1./",
    "http://127.127.127.127/",
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://①②⑦.⓪.⓪.①/",
    "http://１２７.０.０.１/",
    "http://127。0。0。1/",
    "http://%31%32%37.0.0.1/",
    # metadata services
    "http://169.254.169.254/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[fd00:ec2::254]/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[::a9fe:a9fe]/",
    "http://[fe80::1%25lo]/",
    "http://[fe80::1]/",
    "http://[2001:0:a9fe:a9fe::1]/",
    # private networks
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://240.0.0.1/",
    "http://192.0.2.1/",
    "http://[fc00::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://[::ffff:0:169.254.169.254]/",
    # names
    "http://inside.test/",
    "http://many.test/",
    "http://mapped.test/",
    "http://six.test/",
    "http://loop.test/",
    "http://nat64.test/",
    "http://rebind.test/",
    "http://INSIDE.TEST./",
    # what parsers read differently
    "http://public.test@169.254.169.254/",
    "http://169.254.169.254#@public.test/",
    "http://public.test\\@169.254.169.254/",
    "http://169.254.169.254\\.public.test/",
    "http:\\\\169.254.169.254/",
    "http:169.254.169.254/",
    "http:/169.254.169.254/",
    "http:///169.254.169.254/",
    "//169.254.169.254/",
    "http://public.test:80@169.254.169.254/",
    "\thttp://169.254.169.254/",
    "http://169.254.169.254\t/",
    "http://169.254.169.254%00.public.test/",
    "http://169.254.169.254?@public.test/",
    "http://user:pass@127.0.0.1/",
    "http://[::1]public.test/",
    "http://public.test:22/",
    "http://169.254.169.254:80/",
    # other schemes
    "file:///etc/passwd",
    "gopher://127.0.0.1:80/_GET%20/",
    "ftp://127.0.0.1/",
    "dict://127.0.0.1:80/",
    "data:text/plain,x",
    # redirects, from a public address
    "http://public.test/to/http://169.254.169.254/",
    "http://public.test/to/http://127.0.0.1/",
    "http://public.test/to/http://[::1]/",
    "http://public.test/to/http://inside.test/",
    "http://public.test/to///169.254.169.254/",
    "http://public.test/to/file:///etc/passwd",
    "http://public.test/to/http://public.test/to/http://10.0.0.1/",
    "http://public.test/to/http://rebind.test/",
    "http://public.test/loop",
    "http://public.test/to/http://[64:ff9b::a9fe:a9fe]/",
    "http://public.test/to/http://[::ffff:10.0.0.1]/",
    "http://public.test/to/http://2852039166/",
    # more likenesses
    "http://[64:ff9b::169.254.169.254]/",
    "http://0x0/",
    "http://[fd12:3456::1]/",
    "http://[::ffff:100.100.100.200]/",
    "http://metadata.test/",
    "http://metadata.test.:80/",
)
connects: list[str] = []
"""Internal addresses to which a connection was made."""
publics: list[str] = []
"""Requests that arrived at the public address."""


class _CanaryHandler(BaseHTTPRequestHandler):
    """Answer with a canary at internal addresses. At the public address, say hello or
    redirect."""

    def do_GET(self) -> None:
        """Answer a request according to the local address at which it arrived."""
        # Read the body first, or the connection could not be reused.
        self.rfile.read(int(self.headers.get("content-length") or 0))
        local_address = self.connection.getsockname()[0]
        # IPv6 link-local addresses have a zone suffix (`%lo`), which is not part of the
        # address.
        if ipaddress.ip_address(
            local_address.partition("%")[0]
        ) != ipaddress.ip_address(PUBLIC):
            self._send_body(200, b"canary")
        elif self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", self.path[4:])
            self.send_header("content-length", "0")
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(307)
            self.send_header("location", "/loop")
            self.send_header("content-length", "0")
            self.end_headers()
        else:
            publics.append(f"{self.command} {self.path}")
            self._send_body(200, b"hello")

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _send_body(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *details: Any) -> None:
        """Suppress the request log."""
        ...


class _Server(ThreadingHTTPServer):
    """HTTP server that records connections to internal addresses."""

    daemon_threads = True

    def get_request(self) -> Any:
        """Accept a connection and record its local address if that is internal."""
        request, address = super().get_request()
        local_address = request.getsockname()[0]
        # Reduce the IPv4-mapped IPv6 notation to plain IPv4 before the comparison.
        if local_address.removeprefix("::ffff:") != PUBLIC:
            connects.append(local_address)
        return request, address


def set_up() -> None:
    """Add all addresses to the loopback interface and start a server on them."""

    def ip(*arguments: str) -> None:
        """Run the `ip` command. Errors are ignored."""
        subprocess.run(["ip", *arguments], check=False, capture_output=True)

    ip("link", "set", "lo", "up")
    for address in (*INSIDE, PUBLIC):
        ip(
            "addr",
            "add",
            f"{address}/{128 if ':' in address else 32}",
            "dev",
            "lo",
            # Without `nodad`, a new IPv6 address is unusable until duplicate address
            # detection ends.
            *(["nodad"] if ":" in address else []),
        )
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        server_class = type("Server", (_Server,), {"address_family": family})
        if family == socket.AF_INET6:
            server_class = type("Server6", (server_class,), {"server_bind": _only_six})
        server = server_class((host, 80), _CanaryHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()


def _only_six(server: Any) -> None:
    """Bind to IPv6 only, so that the IPv4 server can use the same port."""
    server.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    ThreadingHTTPServer.server_bind(server)


def install_scripted_resolver() -> Callable[..., Any]:
    """Replace `socket.getaddrinfo` with a scripted resolver and return the original
    function."""
    real = socket.getaddrinfo
    lookup_counts: Counter[str] = Counter()

    def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        """Resolve scripted names; pass everything else to the system's resolver."""
        name = host.decode() if isinstance(host, bytes) else str(host)
        name = name.rstrip(".").lower()
        lookup_counts[name] += 1
        addresses = _scripted_addresses(name, lookup_counts[name])
        if not addresses:
            return real(host, port, *args, **kwargs)
        resolved = (real(address, port, *args, **kwargs) for address in addresses)
        return list(itertools.chain.from_iterable(resolved))

    socket.getaddrinfo = look_up  # type: ignore[assignment]
    return real


def _scripted_addresses(name: str, lookup_number: int) -> Sequence[str]:
    """Return the scripted addresses of a name; empty if it is not scripted.
    `lookup_number` is 1 for the first look-up of the name."""
    # DNS rebinding: the name is public at the check and internal at the connect.
    if name == "rebind.test":
        return [PUBLIC] if lookup_number % 2 else ["169.254.169.254"]
    return NAMES.get(name, [])


def count_naive_hits() -> int:
    """Return the number of addresses whose canary a client without any protection
    reaches."""
    reached = 0
    for url in CASES:
        with suppress(Exception):
            # Without an empty ProxyHandler, urllib would use a proxy from the
            # environment.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(url.strip(), timeout=2) as answer:
                reached += b"canary" in answer.read()
    return reached


async def guarded() -> tuple[list[str], int]:
    """Try all addresses with the egress client. Return those that it reached, and the
    status of the public address (0 if blocked)."""
    from modelyard.transport.egress import EgressClient, EgressError

    reached: list[str] = []
    egress = EgressClient()
    for url in CASES:
        for _ in range(2):  # the second time a name may stand for another address
            try:
                answer = await egress.fetch("GET", url, connect=2, read=2)
            except EgressError:
                continue
            if b"canary" in answer.body or answer.body not in (b"hello", b""):
                reached.append(url)
    try:
        public = (await egress.fetch("GET", "http://public.test/")).status
    except EgressError:
        public = 0
    await egress.aclose()
    return reached, public


_PYTHON = """
import socket
import urllib.parse
import urllib.request

def attempts(url):
    yield lambda: urllib.request.urlopen(url, timeout=2).read()
    yield lambda: connected(urllib.parse.urlsplit(url).hostname)

def connected(host):
    with socket.create_connection((host, 80), 2) as connection:
        connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        return b"".join(iter(lambda: connection.recv(65536), b""))

def main(urls):
    reached, bodies = [], {}
    for url in urls * 2:
        for attempt in attempts(url):
            try:
                body = attempt()
            except Exception:
                continue
            bodies[url] = body.decode("latin-1")
            if b"canary" in body:
                reached.append(url)
    return {"reached": reached, "public": "hello" in bodies.get("http://public.test/", "")}
"""
_JAVASCRIPT = """
async function main({ urls }) {
  const reached = [], bodies = {};
  for (const url of [...urls, ...urls]) {
    try { bodies[url] = await (await fetch(url)).text(); } catch (error) { continue; }
    if (bodies[url].includes("canary")) reached.push(url);
  }
  return { reached, public: (bodies["http://public.test/"] || "").includes("hello") };
}
"""


async def tried_by_programs() -> tuple[list[str], bool]:
    """Try all addresses with programs in the sandbox that may use the network. Return
    those that they reached, and whether both reached the public address."""
    from modelyard.sandbox.program_network import NetworkAccess
    from modelyard.sandbox.runner import Sandbox, SandboxLimits
    from modelyard.transport.egress import EgressRules
    from modelyard.transport.egress_proxy import EgressProxy

    sandbox = Sandbox(SandboxLimits(seconds=120.0))
    reached: list[str] = []
    is_public = True
    inputs = {"urls": [*CASES, "http://public.test/"]}
    try:
        for language, code in (("python3", _PYTHON), ("javascript", _JAVASCRIPT)):
            access = NetworkAccess(connector=EgressProxy(EgressRules, lambda: ""))
            result = await sandbox.run_code(language, code, inputs, network=access)
            reached += [f"{language}: {url}" for url in result["reached"]]
            is_public = is_public and result["public"]
    finally:
        await sandbox.aclose()
    return reached, is_public


def main() -> int:
    """Compare an unprotected client with the egress client and with programs in the
    sandbox, and print the result as JSON."""
    set_up()
    install_scripted_resolver()
    naive_reached = count_naive_hits()
    # Discard the connects of the unprotected client.
    connects.clear()
    reached, public = asyncio.run(guarded())
    client_connects = len(connects)
    program_reached, program_public = asyncio.run(tried_by_programs())
    result = {
        "naive": naive_reached,
        "reached": reached,
        "connects": client_connects,
        "public": public,
        "program_reached": program_reached,
        "program_connects": len(connects) - client_connects,
        "program_public": program_public,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
