"""Tests for plain requests through the egress proxy: one per connection, and both sides
know it."""

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from modelyard.transport import egress_proxy
from modelyard.transport.egress import EgressRules
from modelyard.transport.egress_proxy import EgressProxy

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nfine"
"""What a server sends that keeps its connections open, whatever is asked of it."""


def running(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **keywords: Any) -> None:
        asyncio.run(test(*arguments, **keywords))

    return run


class Upstream:
    """A server that sends the same bytes for each request and never closes first."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.is_left = asyncio.Event()
        """Set when a client has closed its connection."""

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.is_left.set()
        finally:
            writer.close()


@asynccontextmanager
async def proxied(upstream: Upstream) -> AsyncIterator[tuple[str, str]]:
    """Start an upstream and a proxy that may reach it; yield their URLs."""
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rules = EgressRules(private=frozenset({f"127.0.0.1:{port}"}))
    proxy = EgressProxy(lambda: rules, lambda: "")
    listener = socket.create_server(("127.0.0.1", 0))
    proxy_port = listener.getsockname()[1]
    await proxy.start(listener)
    try:
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{proxy_port}"
    finally:
        proxy.close()
        server.close()


@asynccontextmanager
async def client_of(proxy: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(proxy=proxy, timeout=30, trust_env=False) as client:
        yield client


@running
async def test_a_client_may_make_many_requests():
    upstream = Upstream(_ANSWER)
    async with proxied(upstream) as (origin, proxy), client_of(proxy) as client:
        for _ in range(3):
            response = await client.get(f"{origin}/a")
            assert response.text == "fine"
            assert response.headers.get_list("connection") == ["close"]
    assert len(upstream.heads) == 3


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", _ANSWER),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    ],
)
@running
async def test_the_upstream_is_left_with_the_end_of_a_response(
    method: str, answer: bytes, monkeypatch: pytest.MonkeyPatch
):
    # That the client leaves must not be what ends it.
    monkeypatch.setattr(egress_proxy, "_HALF_CLOSED_SECONDS", 600.0)
    upstream = Upstream(answer)
    async with proxied(upstream) as (origin, proxy), client_of(proxy) as client:
        await client.request(method, origin)
        async with asyncio.timeout(30):
            await upstream.is_left.wait()


@running
async def test_interim_responses_come_before_the_final_one():
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    upstream = Upstream(interim + _ANSWER)
    async with proxied(upstream) as (origin, proxy), client_of(proxy) as client:
        response = await client.get(origin)
    assert (response.status_code, response.text) == (200, "fine")


@pytest.mark.parametrize(
    "answer", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000]
)
@running
async def test_what_is_no_response_is_a_bad_gateway(answer: bytes):
    upstream = Upstream(answer)
    async with proxied(upstream) as (origin, proxy), client_of(proxy) as client:
        response = await client.get(origin)
    assert response.status_code == 502
    assert response.text == "The upstream sent no HTTP response\n"


@running
async def test_the_upstream_is_left_when_the_client_has_left(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(egress_proxy, "_HALF_CLOSED_SECONDS", 0.01)
    # More is announced than ever comes.
    upstream = Upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfine")
    async with proxied(upstream) as (origin, proxy):
        port = int(proxy.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {origin}/ HTTP/1.1\r\n\r\n".encode())
        await reader.readuntil(b"fine")
        writer.close()
        async with asyncio.timeout(30):
            await upstream.is_left.wait()
