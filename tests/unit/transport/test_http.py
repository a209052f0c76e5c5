"""Tests for the HTTP client against a real server that misbehaves."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from modelyard.base.errors import (
    ConfigError,
    InvokeConnectionError,
    InvokeServerUnavailableError,
    InvokeTimeoutError,
)
from modelyard.testing import Answer, Handler, Upstream, json_answer, stream_answer
from modelyard.transport.http import HttpClient, Timeouts
from modelyard.transport.origins import check_address, parse_url

Start = Callable[[Handler], Upstream]
QUICK = Timeouts(connect=0.5, first_byte=0.3, between_bytes=0.3)


async def get(client: HttpClient, url: str, timeouts: Timeouts = QUICK) -> bytes:
    response = await client.send("GET", url, headers={}, timeouts=timeouts)
    return await response.read()


async def with_client(work: Callable[[HttpClient], object]) -> object:
    client = HttpClient()
    try:
        return await work(client)  # type: ignore[misc]
    finally:
        await client.aclose()


def run(work: Callable[[HttpClient], object]) -> object:
    return asyncio.run(with_client(work))  # type: ignore[arg-type]


def test_a_connection_is_reused(upstream: Start):
    server = upstream(lambda request: json_answer({"path": request.path}))

    async def work(client: HttpClient):
        for _ in range(5):
            await get(client, server.url + "/x")
        return server.connections

    assert run(work) == 1
    assert len(server.requests) == 5


def test_concurrent_requests_use_several_connections(upstream: Start):
    server = upstream(lambda request: Answer(body=b"x", delay=0.05))

    async def work(client: HttpClient):
        await asyncio.gather(*(get(client, server.url) for _ in range(5)))
        return server.connections

    assert run(work) == 5


def test_as_many_connections_are_kept_as_were_needed_at_once(upstream: Start):
    """With fewer, each call of a busy server would connect anew."""
    server = upstream(lambda request: Answer(body=b"x", delay=0.05))

    async def work(client: HttpClient):
        for _ in range(2):
            await asyncio.gather(
                *(get(client, server.url, Timeouts()) for _ in range(150))
            )
        return server.connections

    assert run(work) == 150


async def until_there_are(count: int, client: HttpClient) -> None:
    """Wait until a client has only so many connections."""
    async with asyncio.timeout(30):
        while client.connections > count:  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.02)


def test_the_pool_shrinks_when_a_burst_is_over(upstream: Start):
    server = upstream(lambda request: Answer(body=b"x", delay=0.05))

    async def work():
        client = HttpClient(idle_seconds=0.2)
        await asyncio.gather(*(get(client, server.url) for _ in range(5)))
        assert client.connections == 5
        # Without a call: nobody asks for a connection.
        await until_there_are(0, client)
        # The timer has stopped with the last one, and starts again with the next.
        await get(client, server.url)
        assert client.connections == 1
        await until_there_are(0, client)
        await client.aclose()

    asyncio.run(work())


def test_each_idle_connection_expires_at_its_own_time(upstream: Start):
    server = upstream(lambda request: Answer(body=b"x", delay=0.05))
    short = upstream(
        lambda request: Answer(body=b"x", headers={"keep-alive": "timeout=1"})
    )

    async def work():
        client = HttpClient(idle_seconds=60)
        await asyncio.gather(*(get(client, server.url) for _ in range(3)))
        await get(client, short.url)
        await until_there_are(3, client)
        await client.aclose()

    asyncio.run(work())


def test_a_body_is_read_in_any_chunking(upstream: Start):
    body_chunks = [bytes([n]) * 70_000 for n in range(20)]
    server = upstream(lambda request: stream_answer(body_chunks))
    assert run(lambda client: get(client, server.url)) == b"".join(body_chunks)


def test_a_slow_reader_causes_backpressure(upstream: Start):
    body_chunks = [b"x" * 65_536] * 400
    server = upstream(lambda request: stream_answer(body_chunks))

    async def work(client: HttpClient):
        response = await client.send("GET", server.url, headers={})
        await asyncio.sleep(0.3)
        # The only way to observe backpressure.
        buffered_bytes = response._answer._buffered
        total = 0
        async with aclosing(response.chunks()) as chunks:
            async for chunk in chunks:
                total += len(chunk)
        response.close()
        return buffered_bytes, total

    buffered_bytes, total = run(work)  # type: ignore[misc]
    assert buffered_bytes < 2_000_000
    assert total == 400 * 65_536


@pytest.mark.parametrize(
    ("answer", "error_class", "part"),
    [
        (
            Answer(fault="hang_up"),
            InvokeConnectionError,
            "closed the connection without a response",
        ),
        (
            Answer(body=b"half", fault="cut"),
            InvokeConnectionError,
            "before its response was complete",
        ),
        (
            stream_answer([b"a"], fault="cut"),
            InvokeConnectionError,
            "before its response was complete",
        ),
        (
            stream_answer([b"a"], fault="stall"),
            InvokeTimeoutError,
            "sent nothing more within 0.3 s",
        ),
        (Answer(delay=2), InvokeTimeoutError, "sent no response within 0.3 s"),
        (
            Answer(body=b"SSH-2.0-OpenSSH_9\r\n", fault="raw"),
            InvokeServerUnavailableError,
            "does not speak HTTP",
        ),
        (
            Answer(headers={"x": "y" * 100_000}),
            InvokeServerUnavailableError,
            "bytes of headers",
        ),
        (
            Answer(headers={"content-encoding": "gzip"}, body=b"x"),
            InvokeServerUnavailableError,
            "compressed",
        ),
    ],
)
def test_each_fault_is_a_specific_error(
    upstream: Start, answer: Answer, error_class: type, part: str
):
    server = upstream(lambda request: answer)
    with pytest.raises(error_class, match=part):
        run(lambda client: get(client, server.url))


def test_an_answer_that_is_too_large_is_cut_off(upstream: Start):
    server = upstream(lambda request: stream_answer([b"x" * 10_000] * 100))

    async def work(client: HttpClient):
        response = await client.send("GET", server.url, headers={})
        return await response.read(max_bytes=50_000)

    with pytest.raises(InvokeServerUnavailableError, match="larger than 50,000 bytes"):
        run(work)


def test_a_closed_keep_alive_connection_is_replaced(upstream: Start):
    server = upstream(lambda request: Answer(body=b"x"))

    async def work(client: HttpClient):
        await get(client, server.url)
        for writer in list(server._writers):
            server._loop.call_soon_threadsafe(writer.close)
        await asyncio.sleep(0.05)
        return await get(client, server.url)

    assert run(work) == b"x"


def test_an_unreachable_server_is_a_connection_error():
    with pytest.raises(InvokeConnectionError, match="cannot be reached"):
        run(lambda client: get(client, "http://127.0.0.1:1/"))
    with pytest.raises(InvokeConnectionError, match=r"name\.invalid cannot be reached"):
        run(lambda client: get(client, "http://name.invalid/"))


def test_cancelling_reaches_the_socket(upstream: Start):
    server = upstream(lambda request: stream_answer([b"x"] * 1000, gap=0.02))

    async def work(client: HttpClient):
        response = await client.send("GET", server.url, headers={})
        async with aclosing(response.chunks()) as chunks:
            await anext(chunks)
        response.close()
        return await asyncio.to_thread(server.cut_by_client.wait, 5)

    assert run(work) is True


def test_a_slot_is_released_however_a_request_ends(upstream: Start):
    server = upstream(
        lambda request: (
            Answer(fault="hang_up")
            if b"bad" in request.path.encode()
            else Answer(body=b"x")
        )
    )

    async def work():
        client = HttpClient(max_connections=1)
        for _ in range(3):
            with pytest.raises(InvokeConnectionError):
                await get(client, server.url + "/bad")
            assert await get(client, server.url + "/good") == b"x"
        open_response = await client.send("GET", server.url, headers={})
        with pytest.raises(
            InvokeServerUnavailableError, match="All upstream connections are in use"
        ):
            await get(client, server.url, Timeouts(connect=0.05))
        open_response.close()
        await client.aclose()

    asyncio.run(work())


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/",
        "http://",
        "no address",
        "http://u:p@x/",
        "http://x:99999/",
        "http://x/a b",
        "http://x/ü",
    ],
)
def test_invalid_urls_are_refused(url: str):
    with pytest.raises(ConfigError):
        parse_url(url)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1%eth0", "fd00:ec2::254"],
)
def test_metadata_services_are_never_called(address: str):
    with pytest.raises(ConfigError, match="metadata"):
        check_address("x", address)


def test_line_breaks_in_headers_are_refused(upstream: Start):
    server = upstream(lambda request: Answer(body=b"x"))

    async def work(client: HttpClient):
        await client.send(
            "GET", server.url, headers={"authorization": "Bearer a\r\nx: y"}
        )

    with pytest.raises(ConfigError, match="line break"):
        run(work)
    assert server.requests == []
