"""Tests for services that are away: what goes on, what is refused, and what the server
says about itself."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.show.servers import Postgres, Valkey

from modelyard.testing import Upstream, chat_answer
from tests.gateway.conftest import Running
from tests.gateway.test_traffic import ask, chat

pytestmark = pytest.mark.xdist_group("outages")

Start = Callable[..., Running]
_SECONDS = 30.0
_KEY = "sk-owner-0123456789"
_LIMITS = {"calls": {"unit": "requests", "amount": 10_000, "per": "key"}}


def wait_for_health(running: Running, status: int, text: str) -> None:
    """Wait until the server says this of itself."""
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        ready = ask(running, "GET", "/health/ready")
        if (ready.status, ready.json["status"]) == (status, text):
            return
        time.sleep(0.05)
    raise AssertionError(f"{ready.status} {ready.body!r}")


def wait_for_chat(running: Running, status: int) -> Any:
    """Call until the answer has this status, and return it."""
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        if (answer := chat(running, key=_KEY)).status == status:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{answer.status} {answer.body!r}")


@pytest.fixture
def server(upstream: Callable[..., Upstream]) -> Upstream:
    return upstream(lambda request: chat_answer("fine"))


def test_calls_go_on_while_postgresql_is_away(
    start_gateway: Start, server: Upstream, tmp_path: Path
):
    """A balancer must not take all servers out because of one that they share."""
    with Postgres(tmp_path / "postgres") as postgres:
        running = start_gateway(server, database=postgres.url, api_keys=[_KEY])
        wait_for_health(running, 200, "ok")
        assert chat(running, key=_KEY).status == 200
        postgres.kill()
        for _ in range(20):
            assert chat(running, key=_KEY).status == 200
        wait_for_health(running, 200, "degraded")
        # Nothing tells strangers where the database is.
        refused = ask(running, "GET", "/admin/v1/usage", key=_KEY)
        assert (refused.status, refused.json["error"]["code"]) == (
            503,
            "storage_unavailable",
        )
        assert "postgres" not in refused.body.decode().lower()
        postgres.start()
        wait_for_health(running, 200, "ok")
        assert len(running.flush()) == 21
        running.close()


@pytest.mark.parametrize("limits", [_LIMITS, {}], ids=["limited", "unlimited"])
def test_a_server_without_its_counters_says_whether_it_takes_calls(
    start_gateway: Start, server: Upstream, tmp_path: Path, limits: Any
):
    with Valkey(tmp_path / "valkey") as valkey:
        running = start_gateway(
            server, shared=valkey.url, api_keys=[_KEY], limits=limits
        )
        wait_for_chat(running, 200)
        wait_for_health(running, 200, "ok")
        valkey.stop()
        if limits:
            refused = wait_for_chat(running, 503)
            assert refused.json["error"]["code"] == "storage_unavailable"
            assert "127.0.0.1" not in refused.body.decode()
            wait_for_health(running, 503, "unavailable")
        else:
            wait_for_health(running, 200, "degraded")
            assert chat(running, key=_KEY).status == 200
        running.close()
