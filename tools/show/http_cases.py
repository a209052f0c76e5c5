"""Cases of the HTTP client, taken from standards and from the behaviour of mature
clients. Each case states its expected result and runs against the servers in
`http_world`."""

import asyncio
import gzip
import os
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from modelyard.base.errors import ModelyardError
from modelyard.transport.egress import EgressClient, EgressRules
from modelyard.transport.http import HttpClient, Timeouts
from modelyard.transport.origins import parse_url
from modelyard.transport.proxies import NetworkConfig, proxies_from
from tools.show.http_world import (
    ENCODED_CREDENTIALS,
    HANG_UP,
    PASSWORD,
    USER,
    ReceivedRequest,
    Reply,
    World,
    answer,
    fetch_body,
)

Run = Callable[[World], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """A case: its name, the standard behind it, the expected result and the coroutine
    that produces the actual one."""

    name: str
    source: str
    expected: object
    run: Run


CASES: list[Case] = []
WRONG_PASSWORD = "not-it-at-all"
"""A password that the proxy rejects."""


def case(name: str, source: str, expected: object) -> Callable[[Run], Run]:
    """Register the decorated coroutine as a case."""

    def register(run: Run) -> Run:
        """Append the case to CASES and return the coroutine unchanged."""
        CASES.append(Case(name, source, expected, run))
        return run

    return register


async def refusal(work: Awaitable[object], *parts: str) -> str:
    """Return the class name of the error that `work` raises, if its message contains
    all `parts`; else a description of the mismatch."""
    try:
        result = await work
    except ModelyardError as error:
        missing = [part for part in parts if part not in str(error)]
        # An error message must never contain a proxy password, in any encoding.
        if any(
            secret in str(error)
            for secret in (PASSWORD, ENCODED_CREDENTIALS, WRONG_PASSWORD)
        ):
            return f"the password is told: {error}"
        return (
            f"{type(error).__name__} without {missing[0]!r}: {error}"
            if missing
            else type(error).__name__
        )
    return f"no error: {result!r}"


# ------------------------------------------------------------------------------ headers


@case(
    "repeated lines are joined in order", "RFC 9110, 5.3", ["a, b", "a, b", ["a", "b"]]
)
async def _(world: World) -> object:
    server = await world.server(answer(b"x", "Warning: a", "X-Other: 1", "warning:b"))
    response = await world.client().send("GET", server.url(), headers={})
    await response.read()
    headers = response.headers
    return [headers["warning"], headers["WARNING"], headers.get_all("Warning")]


@case(
    "equal and empty lines count too",
    "RFC 9110, 5.3",
    ["1, 1, , 1", ["1", "1", "", "1"]],
)
async def _(world: World) -> object:
    server = await world.server(answer(b"x", "n: 1", "n: 1", "n:", "n: 1"))
    response = await world.client().send("GET", server.url(), headers={})
    await response.read()
    return [response.headers["n"], response.headers.get_all("n")]


@case(
    "Set-Cookie stays a list",
    "RFC 6265, 3",
    [["a=1; Expires=Wed, 09 Jun 2027", "b=2"], 2],
)
async def _(world: World) -> object:
    server = await world.server(
        answer(b"x", "Set-Cookie: a=1; Expires=Wed, 09 Jun 2027", "set-cookie: b=2")
    )
    response = await world.client().send("GET", server.url(), headers={})
    await response.read()
    return [
        response.headers.get_all("Set-Cookie"),
        len(response.headers["set-cookie"].split("\n")),
    ]


@case(
    "names in any case; spaces around values are none of theirs",
    "RFC 9112, 5.1",
    ["a b", True, None],
)
async def _(world: World) -> object:
    server = await world.server(answer(b"x", "X-Mixed-Case: \t a b \t "))
    response = await world.client().send("GET", server.url(), headers={})
    await response.read()
    headers = response.headers
    is_present = "X-mixed-CASE" in headers
    return [headers["x-MIXED-case"], is_present, headers.get("no")]


@case("a folded line is refused", "RFC 9112, 5.2", "InvokeServerUnavailableError")
async def _(world: World) -> object:
    server = await world.server(answer(b"x", "x-long: a\r\n b"))
    # Obsolete line folding is a known vector for header smuggling.
    return await refusal(
        fetch_body(world.client(), server.url()), "does not speak HTTP"
    )


@case(
    "a space before the colon, a bare CR, a bare LF, NUL: refused",
    "RFC 9112, 2.2 and 5.1",
    4,
)
async def _(world: World) -> object:
    refused = 0
    # Each of these lines is parsed differently by different implementations, which
    # enables smuggling.
    for line in ("x : a", "x: a\rb", "x: a\nb: c", "x: a\0b"):
        server = await world.server(answer(b"x", line))
        refused += (
            await refusal(fetch_body(world.client(), server.url()))
            == "InvokeServerUnavailableError"
        )
    return refused


def _endless_head(filler: str, count: int) -> list[bytes]:
    """Return a response head with a line repeated `count` times and without an end."""
    return [b"HTTP/1.1 200 OK\r\n", *[filler.encode()] * count]


@case(
    "heads without an end are cut off: long lines, many lines, one name, interim answers",
    "RFC 9110, 5.4",
    4,
)
async def _(world: World) -> object:
    refused = 0
    # Attacks on memory: a head that grows without end, in four shapes.
    for reply_chunks in (
        [*_endless_head("x: ", 1), *[b"y" * 60_000] * 30],
        _endless_head("x-line: " + "y" * 500 + "\r\n", 2000),
        _endless_head("a:\r\n", 200_000)[:1] + [b"a:\r\n" * 10_000] * 20,
        [b"HTTP/1.1 102 Processing\r\n\r\n" * 500] * 40,
    ):
        # Bind the loop variable as a default, since the server calls the script later.
        server = await world.server(
            lambda request, reply_chunks=reply_chunks: Reply(reply_chunks)
        )
        error_name = await refusal(
            fetch_body(world.client(), server.url()),
            "more than 65,536 bytes of headers",
        )
        refused += error_name == "InvokeServerUnavailableError"
    return refused


# ------------------------------------------------------------------------------ framing

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@case("a length and chunks together are an error, in either order", "RFC 9112, 6.1", 2)
async def _(world: World) -> object:
    refused = 0
    lines = ["content-length: 3", "transfer-encoding: chunked"]
    # A message with both framings is ambiguous and may hide a second response.
    for order in (lines, lines[::-1]):
        head = "\r\n".join(["HTTP/1.1 200 OK", *order, "", ""]).encode()
        server = await world.server(head + b"3\r\nabc\r\n0\r\n\r\n")
        refused += (
            await refusal(fetch_body(world.client(), server.url()))
            == "InvokeServerUnavailableError"
        )
    return refused


@case("lengths that differ, or are no number, are an error", "RFC 9112, 6.3", 6)
async def _(world: World) -> object:
    refused = 0
    for lines in (["1", "2"], ["+1"], ["-1"], ["0x1"], ["1, 2"], ["9" * 30]):
        head = "".join(f"content-length: {line}\r\n" for line in lines)
        server = await world.server(f"HTTP/1.1 200 OK\r\n{head}\r\nxx".encode())
        refused += (
            await refusal(fetch_body(world.client(), server.url()))
            == "InvokeServerUnavailableError"
        )
    return refused


@case(
    "a transfer coding that is not `chunked` alone is an error",
    "RFC 9112, 6.1 and 7",
    5,
)
async def _(world: World) -> object:
    refused = 0
    # Only `chunked`, exactly once, tells where the body ends.
    for line in ("gzip", "gzip, chunked", "chunked, chunked", "identity", "xchunked"):
        server = await world.server(
            f"HTTP/1.1 200 OK\r\ntransfer-encoding: {line}\r\n\r\n0\r\n\r\n".encode()
        )
        refused += (
            await refusal(fetch_body(world.client(), server.url()))
            == "InvokeServerUnavailableError"
        )
    return refused


@case(
    "no HTTP at all, HTTP/2.0, status 099, a protocol switched unasked: refused",
    "RFC 9110, 15.2.2",
    4,
)
async def _(world: World) -> object:
    refused = 0
    for reply_bytes in (
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 099 X\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\nxx",
    ):
        server = await world.server(reply_bytes)
        refused += (
            await refusal(fetch_body(world.client(), server.url()))
            == "InvokeServerUnavailableError"
        )
    return refused


@case(
    "interim answers are passed over, their headers too",
    "RFC 9110, 15.2",
    [200, b"x", False],
)
async def _(world: World) -> object:
    interim_responses = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\ncontent-length: 5\r\n\r\n"
    server = await world.server(
        lambda request: Reply((interim_responses, answer(b"x")))
    )
    response = await world.client().send("GET", server.url(), headers={})
    return [response.status, await response.read(), "link" in response.headers]


@case(
    "trailers are read and dropped; the connection serves on",
    "RFC 9110, 6.5",
    [b"abc", "text/plain", 1],
)
async def _(world: World) -> object:
    body = b"3;ext=1\r\nabc\r\n0\r\nContent-Type: evil/evil\r\nX-Sum: 1\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
    server = await world.server(head + body)
    client = world.client()
    response = await client.send("GET", server.url(), headers={})
    read = await response.read()
    # The second request shows that the connection is in sync after the trailers.
    await fetch_body(client, server.url())
    return [read, response.headers["content-type"], server.opened]


@case("trailers and extensions without an end are cut off", "RFC 9112, 7.1", 3)
async def _(world: World) -> object:
    refused = 0
    # Trailers and chunk extensions count towards the same limit as the headers.
    for reply_chunks in (
        [CHUNKED + b"0\r\n", *[b"x: " + b"y" * 500 + b"\r\n"] * 2000],
        [CHUNKED + b"0\r\nx: ", *[b"y" * 50_000] * 20],
        [CHUNKED + b"1;ext=", *[b"y" * 50_000] * 20],
    ):
        server = await world.server(
            lambda request, reply_chunks=reply_chunks: Reply(reply_chunks)
        )
        error_name = await refusal(
            fetch_body(world.client(), server.url()), "bytes of headers"
        )
        refused += error_name == "InvokeServerUnavailableError"
    return refused


@case(
    "204, 304 and HEAD have no body, whatever their length says; one connection",
    "RFC 9112, 6.3",
    [b"", b"", b"", b"x", 1],
)
async def _(world: World) -> object:
    def script(request: ReceivedRequest) -> bytes:
        """Answer with a Content-Length of 1 in all cases, but send a body only for GET
        on `/`."""
        status = {"/204": "204 No Content", "/304": "304 Not Modified"}.get(
            request.target, "200 OK"
        )
        head = f"HTTP/1.1 {status}\r\ncontent-length: 1\r\n\r\n".encode()
        return head + (
            b"x" if request.target == "/" and request.method == "GET" else b""
        )

    server, client = await world.server(script), world.client()
    bodies = [await fetch_body(client, server.url(path)) for path in ("/204", "/304")]
    bodies += [
        await fetch_body(client, server.url(), "HEAD"),
        await fetch_body(client, server.url()),
    ]
    # One connection in total proves that no body was expected where none is allowed.
    return [*bodies, server.opened]


@case(
    "a body that ends with the connection is whole; half of a known length is not",
    "RFC 9112, 6.3 and 8",
    [b"abc", "InvokeConnectionError"],
)
async def _(world: World) -> object:
    open_end = await world.server(
        lambda request: Reply((b"HTTP/1.1 200 OK\r\n\r\n", b"abc"), closes=True)
    )
    half = await world.server(
        lambda request: Reply(
            (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",), closes=True
        )
    )
    client = world.client()
    error_name = await refusal(
        fetch_body(client, half.url()), "before its response was complete"
    )
    return [await fetch_body(client, open_end.url()), error_name]


@case("bytes behind an answer answer nothing", "RFC 9112, 9.2", [b"x", False, b"y", 2])
async def _(world: World) -> object:
    # The second response belongs to no request; it must not be used for the next one.
    smuggled = answer(b"x") + answer(b"evil", "x-evil: 1")
    server = await world.server(
        lambda request: answer(b"y") if request.target == "/second" else smuggled
    )
    client = world.client()
    response = await client.send("GET", server.url(), headers={})
    first = await response.read()
    second = await fetch_body(client, server.url("/second"))
    return [first, "x-evil" in response.headers, second, server.opened]


# ------------------------------------------------------------------------------ keeping


@case(
    "a connection is kept, and closed where either says so",
    "RFC 9112, 9.3 and 9.6",
    [1, 2, 2, 1],
)
async def _(world: World) -> object:
    opened = []
    # HTTP/1.1 keeps connections by default, HTTP/1.0 only on request.
    for reply in (
        answer(b"x"),
        answer(b"x", "Connection: close"),
        b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx",
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx",
    ):
        server, client = await world.server(reply), world.client()
        for _ in range(2):
            await fetch_body(client, server.url())
        opened.append(server.opened)
    return opened


@case(
    "Keep-Alive: timeout=… is heeded: 9 s reused, 1 s gone after 1.1, 0 never kept",
    "RFC 2068, 19.7.1",
    [1, 2, 2],
)
async def _(world: World) -> object:
    opened = []
    # The server announces its idle timeout; a longer idle connection must not be
    # reused.
    for line, pause in (
        ("timeout=9, max=5", 0.0),
        ("timeout=1", 1.1),
        ("timeout=0", 0.0),
    ):
        server, client = (
            await world.server(answer(b"x", f"Keep-Alive: {line}")),
            world.client(),
        )
        await fetch_body(client, server.url())
        await asyncio.sleep(pause)
        await fetch_body(client, server.url())
        opened.append(server.opened)
    return opened


def _hang_up_on_first_connection() -> Callable[[ReceivedRequest], bytes | Reply]:
    """Return a script that closes the first connection without a response when `/again`
    is requested on it."""
    return lambda request: (
        HANG_UP
        if request.connection == 1 and request.target == "/again"
        else answer(b"x")
    )


@case(
    "closed while idle: the next request gets a fresh one, a POST too",
    "RFC 9112, 9.3.1",
    [b"x", b"x", 2],
)
async def _(world: World) -> object:
    bodies = []
    opened = 0
    for method in ("GET", "POST"):
        server, client = await world.server(answer(b"x")), world.client()
        await fetch_body(client, server.url())
        # The server closes the idle connection before the second request.
        await server.close_all()
        bodies.append(await fetch_body(client, server.url(), method))
        opened = server.opened
    return [*bodies, opened]


@case(
    "closed when asked, without a byte: GET and a keyed POST are repeated once, a POST is not",
    "RFC 9112, 9.3.1",
    [b"x", 2, b"x", 2, "InvokeConnectionError", 1],
)
async def _(world: World) -> object:
    results: list[object] = []
    # Only idempotent requests may be repeated: the server may already have processed
    # the first one.
    for method, headers in (
        ("GET", {}),
        ("POST", {"Idempotency-Key": "k"}),
        ("POST", {}),
    ):
        server, client = (
            await world.server(_hang_up_on_first_connection()),
            world.client(),
        )
        await fetch_body(client, server.url())
        work = fetch_body(client, server.url("/again"), method, headers=headers)
        results.append(
            await refusal(work) if (method, headers) == ("POST", {}) else await work
        )
        results.append(sum(request.target == "/again" for request in server.seen))
    return results


@case(
    "one retry, not two; none once a byte has come",
    "RFC 9112, 9.3.1",
    ["InvokeConnectionError", 2, "InvokeConnectionError", 1],
)
async def _(world: World) -> object:
    results: list[object] = []
    for reply in (HANG_UP, Reply((b"HTTP/1.1 200",), closes=True)):
        server = await world.server(
            lambda request, reply=reply: (
                reply if request.target == "/again" else answer(b"x")
            )
        )
        client = world.client()
        # Fill the pool with three connections, so that a second retry would be
        # possible.
        await asyncio.gather(*(fetch_body(client, server.url()) for _ in range(3)))
        results.append(await refusal(fetch_body(client, server.url("/again"))))
        results.append(sum(request.target == "/again" for request in server.seen))
    return results


# ------------------------------------------------------------------------- coded bodies


@case(
    "gzip, deflate, bare deflate and gzip in two members are unpacked; nothing was asked for",
    "RFC 9110, 8.4.1",
    [b"a" * 200_000] * 4 + [["identity"]],
)
async def _(world: World) -> object:
    text = b"a" * 200_000
    # Some servers send `deflate` without the zlib header.
    raw_deflate = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(text), "DEFLATE": zlib.compress(text), "deflate": raw_deflate.compress(text) + raw_deflate.flush(),
        "x-gzip": gzip.compress(text[:77]) + gzip.compress(text[77:]),
    }  # fmt: skip
    bodies: list[object] = []
    for coding, body in packed.items():
        server = await world.server(answer(body, f"Content-Encoding: {coding}"))
        bodies.append(await fetch_body(world.client(), server.url()))
    return [*bodies, world.servers[0].seen[0].values("accept-encoding")]


@case(
    "br and zstd, which nobody asked for, two codings, and what breaks off: errors",
    "RFC 9110, 8.4",
    5,
)
async def _(world: World) -> object:
    refused = 0
    compressed = gzip.compress(b"hello" * 100)
    for coding, body in (
        ("br", b"x"),
        ("zstd", b"x"),
        ("gzip, gzip", compressed),
        ("gzip", compressed[:-9]),
        ("gzip", b"none"),
    ):
        server = await world.server(answer(body, f"content-encoding: {coding}"))
        error_name = await refusal(
            fetch_body(world.client(), server.url()), "compressed"
        )
        refused += error_name == "InvokeServerUnavailableError"
    return refused


@case(
    "bombs go off within their bounds: what is too large, what grows a thousandfold; in pieces of 64 KiB",
    "RFC 9110, 8.4",
    ["ResponseTooLargeError", "ResponseTooLargeError", True],
)
async def _(world: World) -> object:
    # Compresses well, but not suspiciously so: only the size limit applies.
    modest = b"".join(
        b'{"id": %d, "text": "again and again"}' % number for number in range(100_000)
    )
    largest = 0

    async def read(plain: bytes, max_bytes: int) -> None:
        """Read a gzip response of at most `max_bytes` unpacked bytes and record the
        size of the largest chunk."""
        nonlocal largest
        server = await world.server(
            answer(gzip.compress(plain), "content-encoding: gzip")
        )
        response = await world.client().send("GET", server.url(), headers={})
        try:
            async for chunk in response.chunks(max_bytes=max_bytes):
                largest = max(largest, len(chunk))
        finally:
            response.close()

    large = await refusal(
        read(modest, 1_000_000), "larger than 1,000,000 bytes after decompression"
    )
    # Zeros compress about a thousandfold, so the limit on the compression ratio applies
    # first.
    grown = await refusal(read(b"\0" * 50_000_000, 1 << 30), "1/200 of its size")
    return [large, grown, 0 < largest <= 65_536]


# --------------------------------------------------------------------------- connecting


@case(
    "the first address drops packets: the second answers, begun 250 ms later",
    "RFC 8305, 5",
    [b"x", True],
)
async def _(world: World) -> object:
    server = await world.server(answer(b"x"), host="127.0.0.2")
    world.silent_port(server.port, "127.0.0.3")
    world.names({"two.test": ["127.0.0.3", "127.0.0.2"]})
    started_at = time.monotonic()
    body = await fetch_body(world.client(), server.url(host="two.test"))
    # Happy Eyeballs starts the second attempt after 250 ms.
    return [body, time.monotonic() - started_at >= 0.24]


@case("the first address refuses: the second answers", "RFC 8305, 5", b"x")
async def _(world: World) -> object:
    server = await world.server(answer(b"x"), host="127.0.0.2")
    world.names({"two.test": ["127.0.0.3", "127.0.0.2"]})
    return await fetch_body(world.client(), server.url(host="two.test"))


@case(
    "one time limit covers all addresses; what was begun is closed",
    "RFC 8305, 5",
    ["InvokeTimeoutError", 0],
)
async def _(world: World) -> object:
    spare = await world.server(answer(b"x"))
    addresses = [f"127.0.0.{number}" for number in range(2, 6)]
    # No address accepts, so the single limit must end all attempts.
    for address in addresses:
        world.silent_port(spare.port, address)
    world.names({"many.test": addresses})
    client = world.client()
    work = client.send(
        "GET", spare.url(host="many.test"), headers={}, timeouts=Timeouts(connect=0.9)
    )
    error_name = await refusal(work, "timed out after 0.9 s")
    return [error_name, client.connections]


@case(
    "losers are closed; the families take turns",
    "RFC 8305, 4",
    [b"x", 1, ["::2", "127.0.0.3", "::3"]],
)
async def _(world: World) -> object:
    server = await world.server(answer(b"x"), host="127.0.0.2")
    world.names({"many.test": ["::2", "::3", "127.0.0.3", "127.0.0.2"]})
    attempted_hosts: list[str] = []
    loop = asyncio.get_running_loop()
    real = loop.create_connection

    async def create(factory: object, host: str, port: int, **kwargs: object) -> object:
        """Record the host and create the real connection."""
        attempted_hosts.append(host)
        return await real(factory, host, port, **kwargs)  # type: ignore[arg-type, call-overload]

    loop.create_connection = create  # type: ignore[method-assign, assignment]
    try:
        client = world.client()
        # The attempts alternate between IPv6 and IPv4.
        return [
            await fetch_body(client, server.url(host="many.test")),
            client.connections,
            attempted_hosts[:3],
        ]
    finally:
        loop.create_connection = real  # type: ignore[method-assign]


@case(
    "one forbidden address among several: nothing is connected to, by provider and by tenant",
    "RFC 8305; egress rules",
    ["ConfigError", "EgressRefusedError", 0],
)
async def _(world: World) -> object:
    server = await world.server(answer(b"x"))
    # One forbidden address is enough to refuse the name, or DNS rebinding could select
    # it.
    world.names(
        {
            "mixed.test": ["127.0.0.1", "169.254.169.254"],
            "inner.test": ["93.184.215.14", "10.0.0.1"],
        }
    )
    metadata_error = await refusal(
        fetch_body(world.client(), server.url(host="mixed.test")), "metadata"
    )
    egress = EgressClient(EgressRules(ports=frozenset({server.port})))
    world.stack.push_async_callback(egress.aclose)
    private_error = await refusal(
        egress.fetch("GET", server.url(host="inner.test")), "Address blocked"
    )
    return [metadata_error, private_error, server.opened]


@case("an IPv6 literal is an address like any", "RFC 3986, 3.2.2", [b"x", True])
async def _(world: World) -> object:
    server = await world.server(answer(b"x"), host="::1")
    body = await fetch_body(world.client(), server.url("/v1", host="[::1]"))
    return [body, server.seen[0].values("host") == [f"[::1]:{server.port}"]]


# ---------------------------------------------------------------------------------- TLS


@case(
    "TLS: the name is sent, verified against our own CA, and refused without it",
    "RFC 6066, 3; RFC 9110, 4.3.4",
    [b"x", b"x", ["tls.test", None], "InvokeConnectionError"],
)
async def _(world: World) -> object:
    names: list[object] = []
    # The callback receives the server name that the client sends; None for an IP
    # address.
    world.others.context.sni_callback = lambda sock, name, context: names.append(name)
    world.stack.callback(setattr, world.others.context, "sni_callback", None)
    server = await world.server(answer(b"x"), tls=True)
    world.names({"tls.test": ["127.0.0.1"]})
    client = world.client(trusts=True)
    bodies = [
        await fetch_body(client, server.url(host=host))
        for host in ("tls.test", "127.0.0.1")
    ]
    error_name = await refusal(
        fetch_body(world.client(), server.url(host="tls.test")),
        "CERTIFICATE_VERIFY_FAILED",
    )
    return [*bodies, names[:2], error_name]


@case(
    "TLS: a certificate for another name is refused; a dot at the end is no other name",
    "RFC 9525, 6.3",
    ["InvokeConnectionError", b"x"],
)
async def _(world: World) -> object:
    server = await world.server(answer(b"x"), tls=True)
    world.names({"other.test": ["127.0.0.1"], "tls.test.": ["127.0.0.1"]})
    client = world.client(trusts=True)
    error_name = await refusal(
        fetch_body(client, server.url(host="other.test")), "not valid for 'other.test'"
    )
    return [error_name, await fetch_body(client, server.url(host="tls.test."))]


@case(
    "SSL_CERT_FILE is heeded; a CA file that is none is said so",
    "OpenSSL",
    [b"x", "ConfigError"],
)
async def _(world: World) -> object:
    server = await world.server(answer(b"x"), tls=True)
    previous_ca_file = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = world.others.ca_file
    try:
        # No `trusts`: the CA must come from the environment variable alone.
        body = await fetch_body(world.client(), server.url(host="localhost"))
    finally:
        os.environ.pop("SSL_CERT_FILE")
        if previous_ca_file is not None:
            os.environ["SSL_CERT_FILE"] = previous_ca_file
    # A private key is not a certificate, so loading it as CA file must fail with a
    # clear error.
    misconfigured_client = HttpClient(
        network=NetworkConfig(ca_file=str(world.others.folder / "key.pem"))
    )
    world.stack.push_async_callback(misconfigured_client.aclose)
    return [
        body,
        await refusal(
            fetch_body(misconfigured_client, server.url(host="localhost")),
            "cannot be loaded",
        ),
    ]


# ------------------------------------------------------------------------------ proxies


def _proxy_address(port: int, user: str = "") -> str:
    """Return the address of a local proxy, with optional credentials."""
    return f"http://{user}@127.0.0.1:{port}" if user else f"http://127.0.0.1:{port}"


@case(
    "https by CONNECT through proxy.py, with user and password; one tunnel serves two",
    "RFC 9110, 9.3.6",
    [b"x", b"x", "/secure", [], 1],
)
async def _(world: World) -> object:
    server = await world.server(answer(b"x"), tls=True)
    client = world.client(
        trusts=True,
        environ={
            "HTTPS_PROXY": _proxy_address(
                world.others.strict_proxy, ENCODED_CREDENTIALS
            )
        },
    )
    bodies = [
        await fetch_body(client, server.url("/secure", host="localhost"))
        for _ in range(2)
    ]
    return [
        *bodies,
        server.seen[0].target,
        server.seen[0].values("proxy-authorization"),
        server.opened,
    ]


@case("http in the absolute form through proxy.py", "RFC 9112, 3.2.2", [b"x", True, []])
async def _(world: World) -> object:
    server = await world.server(answer(b"x"))
    client = world.client(
        environ={
            "http_proxy": _proxy_address(world.others.strict_proxy, ENCODED_CREDENTIALS)
        }
    )
    body = await fetch_body(client, server.url("/plain?q=1"))
    return [
        body,
        bool(server.seen[0].values("via")),
        server.seen[0].values("proxy-authorization"),
    ]


@case(
    "what a proxy is sent: whole address, host, and who asks",
    "RFC 9112, 3.2.2",
    ["http://x.test:81/a?b=c", ["x.test:81"], 1],
)
async def _(world: World) -> object:
    proxy = await world.server(answer(b"x"))
    client = world.client(
        environ={"ALL_PROXY": _proxy_address(proxy.port, ENCODED_CREDENTIALS)}
    )
    await fetch_body(client, "http://x.test:81/a?b=c")
    proxied_request = proxy.seen[0]
    return [
        proxied_request.target,
        proxied_request.values("host"),
        len(proxied_request.values("proxy-authorization")),
    ]


@case(
    "a proxy that is itself reached over TLS: for http, and TLS within TLS for https",
    "RFC 9110, 9.3.6",
    [b"x", b"x"],
)
async def _(world: World) -> object:
    secure, plain = (
        await world.server(answer(b"x"), tls=True),
        await world.server(answer(b"x")),
    )
    proxy = f"https://localhost:{world.others.tls_proxy}"
    client = world.client(
        trusts=True, environ={"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy}
    )
    return [
        await fetch_body(client, secure.url(host="localhost")),
        await fetch_body(client, plain.url()),
    ]


@case(
    "a missing and a wrong password are told apart, and never repeated in the message",
    "RFC 9110, 15.5.8",
    ["ProxyRefusedError"] * 4,
)
async def _(world: World) -> object:
    server = await world.server(answer(b"x"))
    error_names = []
    # No credentials and wrong credentials need different corrections, so the messages
    # differ.
    for user, expected_text in (
        ("", "requires a user name"),
        (f"{USER}:{WRONG_PASSWORD}", "rejected the user name"),
    ):
        proxy = _proxy_address(world.others.strict_proxy, user)
        client = world.client(
            trusts=True, environ={"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy}
        )
        error_names.append(
            await refusal(fetch_body(client, server.url()), expected_text, "(407)")
        )
        tunnelled = server.url().replace("http:", "https:")
        error_names.append(
            await refusal(fetch_body(client, tunnelled), expected_text, "(407)")
        )
    return error_names


@case(
    "a proxy that refuses, hangs up, is silent, is not there, or slips bytes into the tunnel: errors that name it",
    "RFC 9110, 9.3.6",
    [
        "ProxyRefusedError",
        "ProxyRefusedError",
        "InvokeTimeoutError",
        "InvokeConnectionError",
        "ProxyRefusedError",
    ],
)
async def _(world: World) -> object:
    error_names = []
    for reply, seconds in (
        (answer(b"no", status="403 Forbidden"), 20),
        (HANG_UP, 20),
        (Reply(()), 0.5),
        (None, 20),
        (b"HTTP/1.1 200 OK\r\n\r\nstray bytes", 20),
    ):
        proxy = await world.server(lambda request, reply=reply: reply or HANG_UP)
        # Stop the proxy, so that its port refuses connections.
        if reply is None:
            await proxy.__aexit__()
        client = world.client(environ={"HTTPS_PROXY": _proxy_address(proxy.port)})
        work = client.send(
            "GET", "https://x.test/", headers={}, timeouts=Timeouts(connect=seconds)
        )
        error_names.append(await refusal(work, f"127.0.0.1:{proxy.port}"))
    return error_names


@case(
    "NO_PROXY: names, suffixes, ports, addresses, networks, `*`; and what is not meant",
    "curl, requests",
    [True] * 11 + [False] * 5,
)
async def _(world: World) -> object:
    direct = []
    for entry, url in (
        ("a.test", "http://a.test/"), ("a.test", "https://b.a.test/"), (".a.test", "http://b.a.test/"),
        ("*.a.test", "http://b.a.test/"), ("x, A.Test", "http://a.TEST./"), ("a.test:8080", "http://a.test:8080/"),
        ("10.1.0.0/16", "http://10.1.2.3/"), ("fd00::/8", "http://[fd00::1]:81/"), ("[::1]", "http://[::1]/"),
        ("127.0.0.1:81", "http://127.0.0.1:81/"), ("*", "https://any.test/"),
        ("a.test", "http://nota.test/"), ("a.test:8080", "http://a.test/"), ("10.1.0.0/16", "http://10.2.2.3/"),
        ("::1", "http://[::2]/"), ("", "http://a.test/"),
    ):  # fmt: skip
        # A proxy address without a scheme means `http://`.
        proxies = proxies_from(
            {"http_proxy": "p.test:3128", "https_proxy": "p.test", "no_proxy": entry}
        )
        direct.append(proxies.route_to(parse_url(url)[0]).proxy is None)
    return direct


@case(
    "NO_PROXY reaches the server by itself, where the proxy is dead",
    "curl, requests",
    [b"x", "InvokeConnectionError"],
)
async def _(world: World) -> object:
    server = await world.server(answer(b"x"))
    proxy = {"HTTP_PROXY": _proxy_address(1)}
    direct = world.client(environ={**proxy, "NO_PROXY": "other.test,127.0.0.0/8"})
    return [
        await fetch_body(direct, server.url()),
        await refusal(fetch_body(world.client(environ=proxy), server.url())),
    ]


@case(
    "lower case wins, empty switches off, ALL_PROXY fills in, HTTP_PROXY of a CGI's caller is not heeded",
    "curl, requests, httpoxy",
    ["low", None, "all", "all", None, "low", "up"],
)
async def _(world: World) -> object:
    proxy_hosts = []
    for environ in (
        # An empty lower-case variable disables the proxy even if the upper-case one is
        # set.
        {"http_proxy": "low:1", "HTTP_PROXY": "up:1"}, {"http_proxy": "", "HTTP_PROXY": "up:1"},
        {"ALL_PROXY": "all:1"}, {"http_proxy": "", "all_proxy": "all:1", "HTTP_PROXY": "up:1"},
        # In a CGI process HTTP_PROXY comes from a request header (httpoxy), so only the
        # lower-case variable counts.
        {"HTTP_PROXY": "up:1", "REQUEST_METHOD": "GET"}, {"http_proxy": "low:1", "REQUEST_METHOD": "GET"},
        {"HTTP_PROXY": "http://up:1"},
    ):  # fmt: skip
        proxy = proxies_from(environ).http
        proxy_hosts.append(proxy and proxy.origin.host)
    return proxy_hosts


@case(
    "addresses that tenants name never go by a proxy, whose lookups nobody checks",
    "egress rules",
    [b"x", 0],
)
async def _(world: World) -> object:
    server, proxy = (
        await world.server(answer(b"x")),
        await world.server(answer(b"by proxy")),
    )
    rules = EgressRules(private=frozenset({f"127.0.0.1:{server.port}"}))
    egress = EgressClient(
        rules, NetworkConfig(proxies_from({"HTTP_PROXY": _proxy_address(proxy.port)}))
    )
    world.stack.push_async_callback(egress.aclose)
    return [(await egress.fetch("GET", server.url())).body, proxy.opened]


@case(
    "requests carry one Host, one length and no line breaks; h11 reads each",
    "RFC 9112, 3.2",
    [["mine.test"], ["3"], "ConfigError", "ConfigError", "ConfigError"],
)
async def _(world: World) -> object:
    server, client = await world.server(answer(b"x")), world.client()
    await fetch_body(
        client, server.url(), "POST", headers={"Host": "mine.test"}, body=[b"a", b"bc"]
    )
    received_request = server.seen[0]
    # Line breaks in names or values would inject headers; a second length would make
    # the framing ambiguous.
    invalid_headers = ({"x": "a\r\nb: c"}, {"x\r\nb": "c"}, {"Content-Length": "7"})
    refused = [
        await refusal(fetch_body(client, server.url(), headers=headers))
        for headers in invalid_headers
    ]
    return [
        received_request.values("host"),
        received_request.values("content-length"),
        *refused,
    ]
