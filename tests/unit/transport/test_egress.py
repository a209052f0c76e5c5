"""Tests for the destinations that requests may reach.

The full list of hostile addresses runs in a separate network namespace, if one is
available.
"""

import asyncio
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tools.show.hostile_urls import CASES

from modelyard.testing import Answer, Upstream, UpstreamRequest, json_answer
from modelyard.transport.egress import (
    EgressClient,
    EgressError,
    EgressRefusedError,
    EgressRules,
    EgressTimeoutError,
    EgressTooLargeError,
    FetchedResponse,
    is_public,
    normal_url,
)

pytestmark = pytest.mark.proof("egress")

Make = Callable[..., Upstream]


def _networks() -> bool:
    return (
        os.geteuid() == 0
        and subprocess.run(
            ["unshare", "-n", "true"], check=False, capture_output=True
        ).returncode
        == 0
    )


@pytest.mark.skipif(not _networks(), reason="needs root, for a network of its own")
def test_no_hostile_url_reaches_an_internal_server():
    command = ["unshare", "-n", sys.executable, "-m", "tools.show.hostile_urls"]
    report = json.loads(
        subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.splitlines()[-1]
    )
    assert (report["reached"], report["connects"], report["public"]) == ([], 0, 200)
    assert (report["program_reached"], report["program_connects"]) == ([], 0)
    assert report["program_public"]
    assert report["naive"] > 20
    assert len(CASES) >= 70


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("10.1.2.3", False), ("100.64.0.1", False), ("168.63.129.16", False), ("0.0.0.0", False),
        ("255.255.255.255", False), ("192.88.99.1", False), ("2606:4700::1111", True), ("::1", False), ("fe80::1%eth0", False),
        ("::ffff:8.8.8.8", False), ("2002:a00:1::1", False), ("2001::1", False), ("fd00::1", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool):
    assert is_public(address) is public


def test_urls_are_normalized():
    assert (
        normal_url(" http://Exa-mple.ORG/ü?q=ö ")
        == "http://exa-mple.org/%C3%BC?q=%C3%B6"
    )
    assert normal_url("http://bücher.example") == "http://xn--bcher-kva.example/"


def running(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in an event loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **keywords: Any) -> None:
        asyncio.run(test(*arguments, **keywords))

    return run


def local(server: Upstream, **rules: object) -> EgressClient:
    host = server.url.removeprefix("http://").partition("/")[0]
    return EgressClient(EgressRules(private=frozenset({host}), **rules))  # type: ignore[arg-type]


@running
async def test_only_listed_private_addresses_are_reached(upstream: Make):
    server = upstream(lambda request: json_answer({"ok": True}))
    egress = local(server)
    assert (await egress.fetch("GET", server.url)).status == 200
    with pytest.raises(
        EgressRefusedError, match=r"Address blocked: '127\.0\.0\.1'|Port 1 of"
    ):
        await egress.fetch("GET", "http://127.0.0.1:1/")
    with pytest.raises(
        EgressRefusedError,
        match="does not resolve to a public address; add '127.0.0.1:80'",
    ):
        await egress.fetch("GET", "http://127.0.0.1/")
    await egress.aclose()


@running
async def test_redirects_drop_secrets_and_are_limited(upstream: Make):
    def echo_headers(request: UpstreamRequest) -> Answer:
        return json_answer({"headers": dict(request.headers), "method": request.method})

    second = upstream(echo_headers)

    def first(request: UpstreamRequest) -> Answer:
        if request.path.endswith("loop"):
            return json_answer({}, status=307, location="/loop")
        return json_answer({}, status=302, location=second.url + "/there")

    server = upstream(first)
    hosts = {
        upstream_server.url.removeprefix("http://").partition("/")[0]
        for upstream_server in (server, second)
    }
    egress = EgressClient(EgressRules(private=frozenset(hosts)))
    headers = [
        ("Authorization", "Bearer s3cret"),
        ("Cookie", "a=b"),
        ("X-Key", "k"),
        ("Accept", "text/html"),
    ]
    answer = await egress.fetch("POST", server.url, headers=headers, body=b"{}")
    received = json.loads(answer.body)
    assert received["method"] == "GET"
    assert received["headers"]["accept"] == "text/html"
    assert not {"authorization", "cookie", "x-key"} & set(received["headers"])
    with pytest.raises(EgressError, match="redirected more than 5 times"):
        await egress.fetch("GET", server.url.rstrip("/") + "/loop")
    await egress.aclose()


@running
async def test_answers_are_bounded_in_size_and_time(upstream: Make):
    import gzip

    bomb = gzip.compress(b"\0" * 50_000_000)

    def answer(request: UpstreamRequest) -> Answer:
        if request.path.endswith("zip"):
            return Answer(
                body=bomb,
                headers={"content-encoding": "gzip", "content-type": "text/plain"},
            )
        if request.path.endswith("small"):
            return Answer(
                body=gzip.compress(b"hello"), headers={"content-encoding": "gzip"}
            )
        if request.path.endswith("slow"):
            return Answer(body=b"x", delay=5.0)
        return Answer(body=b"x" * 3_000_000)

    server = upstream(answer)
    egress = local(server)
    base = server.url.rstrip("/")
    for path in ("/large", "/zip"):
        with pytest.raises(EgressTooLargeError, match="larger than"):
            await egress.fetch("GET", base + path, max_bytes=1_000_000)
    small_response: FetchedResponse = await egress.fetch("GET", base + "/small")
    assert (small_response.body, "content-encoding" in small_response.headers) == (
        b"hello",
        False,
    )
    with pytest.raises(EgressTimeoutError):
        await egress.fetch("GET", base + "/slow", read=0.2)
    egress.rules = EgressRules(private=egress.rules.private, seconds=0.2)
    with pytest.raises(EgressTimeoutError, match=r"timed out after 0\.2 s"):
        await egress.fetch("GET", base + "/slow")
    await egress.aclose()


@running
async def test_a_head_request_waits_for_no_body(upstream: Make):
    server = upstream(lambda request: json_answer({"ok": True}))
    egress = local(server)
    answer = await egress.fetch("HEAD", server.url)
    assert (answer.status, answer.body) == (200, b"")
    await egress.aclose()


@pytest.mark.parametrize(
    "header", [("X-A", "b\r\nX-Evil: 1"), ("X A", "b"), ("X-A\n", "b")]
)
@running
async def test_headers_that_would_break_a_request_are_refused(header: tuple[str, str]):
    egress = EgressClient()
    with pytest.raises(
        EgressError, match="contains characters that HTTP does not allow"
    ):
        await egress.fetch("GET", "http://example.com/", headers=[header])
    await egress.aclose()
