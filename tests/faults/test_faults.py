"""Every way in which a provider can fail, streaming or not, in three wire formats.

Nothing hangs, the right error is returned or another model answers, and the ledger has
the right row.
"""

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tools.show.proof import free_port

from modelyard.base.settings import (
    CredentialSettings,
    ProviderSettings,
    Settings,
    TimeoutSettings,
)
from tests.faults.upstream import FAULTS, FORMATS, FaultyUpstream
from tests.gateway.conftest import Running

pytestmark = pytest.mark.proof("faults")

LIMITS = TimeoutSettings(
    connect=1.0,
    first_byte=1.0,
    between_bytes=0.6,
    first_token=1.0,
    between_tokens=0.6,
    total=1.6,
)
LONGEST = 30.0
"""Seconds that no call may take, on the busiest machine. One that hangs takes longer."""
KEY = "key-of-the-caller"

# Mode → (statuses for the caller if no stream had started, statuses of the ledger row).
# A stream that has started has status 200, and an error as its last event.
UNREACHABLE = ({502}, {"upstream_unreachable"})
LATE = ({504}, {"upstream_timeout"})
REFUSED = ({502}, {"upstream_authorization"})
_BAD_ROWS = {"invalid_request", "context_length_exceeded"}
LIMITED = ({429}, {"rate_limit_exceeded"})
DOWN = ({503}, {"upstream_unavailable"})
FINE = ({200}, {"ok"})
EXPECTED: dict[str, tuple[set[int], set[str]]] = {
    "healthy": FINE,
    "refused": UNREACHABLE,
    "reset": UNREACHABLE,
    "s401": REFUSED,
    "s403": REFUSED,
    # A caller in the provider's format gets its status.
    "s404": ({400, 404}, _BAD_ROWS),
    "s408": DOWN,
    "s413": ({400, 413}, _BAD_ROWS),
    "s422": ({400, 422}, _BAD_ROWS),
    "s429": LIMITED,
    "s429_retry_after": LIMITED,
    "s500": DOWN,
    "s502": DOWN,
    "s503": DOWN,
    "s529": DOWN,
    "s302": DOWN,
    "slow_headers": LATE,
    "drip_headers": LATE,
    "drip_body": LATE,
    "silence_midstream": LATE,
    "cut_midstream": UNREACHABLE,
    "end_midstream": DOWN,
    "half_close": UNREACHABLE,
    "garbage_sse": DOWN,
    "truncated_json": DOWN,
    "wrong_content_type": (FINE[0] | DOWN[0], FINE[1] | DOWN[1]),
    "html_with_200": DOWN,
    "oversized_line": DOWN,
    "gzip_bomb": DOWN,
    "nan_usage": (FINE[0] | DOWN[0], FINE[1] | DOWN[1]),
    "negative_usage": FINE,
    "huge_usage": FINE,
    "content_length_too_long": (UNREACHABLE[0] | LATE[0], UNREACHABLE[1] | LATE[1]),
    "content_length_too_short": (DOWN[0] | UNREACHABLE[0], DOWN[1] | UNREACHABLE[1]),
    "no_http": DOWN,
    "deep_json": DOWN,
    "huge_headers": DOWN,
    "error_in_stream": DOWN,
}
# These modes send something before they fail: a stream has started, and must end with
# an error rather than look complete.
BEGUN = {
    "silence_midstream", "cut_midstream", "end_midstream", "half_close", "content_length_too_long",
    "content_length_too_short", "truncated_json",
}  # fmt: skip
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "gemini": ""}
NAMES = {"openai": "nimbus", "anthropic": "cirrus", "gemini": "stratus"}
WIRES = {"openai": "openai", "anthropic": "anthropic", "gemini": "gemini"}


@pytest.fixture(scope="module")
def faulty(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Running, FaultyUpstream]]:
    with FaultyUpstream() as upstream:
        credential = CredentialSettings(values={"api_key": "sk-faulty-canary"})
        models = [
            {"name": mode, "context_size": 1000, "input_price": 1, "output_price": 2}
            for mode in FAULTS
        ]
        providers = [
            ProviderSettings(
                name=name,
                base_url=f"http://127.0.0.1:{port}/v1",
                wire=WIRES[wire_format],
                credentials=[credential],
                models=listed,
            )
            for wire_format, name in NAMES.items()
            for name, port, listed in (
                (name, upstream.port, models),
                (f"{name}-gone", free_port(), [{"name": "refused"}]),
            )
        ]
        failover = {
            f"{name}{'-gone' if mode == 'refused' else ''}/{mode}": [f"{name}/healthy"]
            for name in NAMES.values()
            for mode in EXPECTED
            if mode != "healthy"
        }
        home = tmp_path_factory.mktemp("faults")
        settings = Settings(
            home=str(home),
            providers=providers,
            retries=0,
            timeouts=LIMITS,
            api_keys=[KEY],
        )
        plain = Running(settings)
        saved = Running(
            Settings(
                home=str(home / "2"),
                providers=providers,
                retries=0,
                timeouts=LIMITS,
                failover=failover,
                api_keys=[KEY],
            )
        )
        plain.saved = saved  # type: ignore[attr-defined]
        yield plain, upstream
        plain.close()
        saved.close()


class Seen:
    def __init__(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        seconds: float,
        *,
        is_cut: bool,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.seconds = seconds
        self.is_cut = is_cut

    @property
    def has_error(self) -> bool:
        return b'"error"' in self.body or self.is_cut


def ask(origin: str, wire_format: str, mode: str, *, stream: bool) -> Seen:
    """Call in the provider's own wire format, as its client would."""
    name = f"{NAMES[wire_format]}{'-gone' if mode == 'refused' else ''}/{mode}"
    path, body = (
        PATHS[wire_format],
        {
            "model": name,
            "stream": stream,
            "messages": [{"role": "user", "content": "hi"}],
        },
    )
    if wire_format == "anthropic":
        body["max_tokens"] = 50
    if wire_format == "gemini":
        path = f"/v1beta/models/{name}:" + (
            "streamGenerateContent?alt=sse" if stream else "generateContent"
        )
        body = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    connection = http.client.HTTPConnection(
        origin.removeprefix("http://"), timeout=LONGEST
    )
    started_at = time.monotonic()
    try:
        connection.request(
            "POST",
            path,
            json.dumps(body),
            {"content-type": "application/json", "authorization": f"Bearer {KEY}"},
        )
        answer = connection.getresponse()
        try:
            read, is_cut = answer.read(), False
        except http.client.IncompleteRead as error:
            read, is_cut = error.partial, True
        headers = {key.lower(): value for key, value in answer.getheaders()}
        return Seen(
            answer.status, read, headers, time.monotonic() - started_at, is_cut=is_cut
        )
    finally:
        connection.close()


def row_of(running: Running, response: Seen) -> list[Any]:
    """Return the ledger rows of a call."""
    running.do(running.yard.services.calls.ledger.flush())
    return running.do(
        running.yard.services.calls.ledger.usage.of_invocation(
            "default", response.headers["x-request-id"]
        )
    )


CASES = [
    (mode, wire_format, stream)
    for mode in EXPECTED
    for wire_format in FORMATS
    for stream in (False, True)
]


DIRECT_FORMATS = ("openai", "anthropic")
"""The formats whose plain calls are answered straight from the protocol class."""


def ask_directly(
    running: Running, wire_format: str, mode: str, *, stream: bool
) -> Seen:
    """Call when a connection to the provider is idle, so that nothing has to be awaited."""
    calls = running.yard.services.calls.direct
    ask(running.origin, wire_format, "healthy", stream=False)
    sent = calls.sent
    response = ask(running.origin, wire_format, mode, stream=stream)
    assert calls.sent == sent + 1
    return response


@pytest.mark.parametrize(("mode", "wire_format", "stream"), CASES)
def test_a_fault_is_an_error_in_time_and_one_row(
    faulty: tuple[Running, FaultyUpstream], mode: str, wire_format: str, stream: bool
):
    running, _ = faulty
    running.yard.services.providers.manager.health.clear()
    response = ask(running.origin, wire_format, mode, stream=stream)
    check_fault(running, response, mode, stream=stream)


@pytest.mark.parametrize(
    ("mode", "wire_format", "stream"),
    [case for case in CASES if case[0] != "refused" and case[1] in DIRECT_FORMATS],
)
def test_a_fault_of_a_direct_call_is_an_error_in_time_and_one_row(
    faulty: tuple[Running, FaultyUpstream], mode: str, wire_format: str, stream: bool
):
    running, _ = faulty
    running.yard.services.providers.manager.health.clear()
    response = ask_directly(running, wire_format, mode, stream=stream)
    check_fault(running, response, mode, stream=stream)
    calls = running.yard.services.calls
    assert not calls.direct.running
    assert calls.metrics.in_flight.values[()] == 0
    assert calls.queue.running == 0


def check_fault(running: Running, response: Seen, mode: str, *, stream: bool) -> None:
    """Check the response to a faulty call, and its row."""
    assert response.seconds < LONGEST
    statuses, rows = EXPECTED[mode]
    has_begun = stream and response.status == 200 and mode in BEGUN
    assert response.status in statuses or has_begun, response.body
    if response.status != 200 or has_begun:
        assert response.has_error
    assert b"sk-faulty-canary" not in response.body
    if mode == "s429_retry_after":
        assert response.headers["retry-after"] == "7"
    (row,) = row_of(running, response)
    assert row.status in rows or (has_begun and row.status != "ok")
    assert 0 <= row.prompt_tokens < 10**10
    assert 0 <= row.completion_tokens < 10**10
    assert row.total_price is None or 0 <= row.total_price < 10**9


@pytest.mark.parametrize(
    ("mode", "wire_format", "stream"), [case for case in CASES if case[0] != "healthy"]
)
def test_another_model_answers_where_nothing_had_begun(
    faulty: tuple[Running, FaultyUpstream], mode: str, wire_format: str, stream: bool
):
    running = faulty[0].saved  # type: ignore[attr-defined]
    running.yard.services.providers.manager.health.clear()
    response = ask(running.origin, wire_format, mode, stream=stream)
    check_failover(running, response, mode, stream=stream)


@pytest.mark.parametrize(
    ("mode", "wire_format", "stream"),
    [
        case
        for case in CASES
        if case[0] not in ("healthy", "refused") and case[1] in DIRECT_FORMATS
    ],
)
def test_another_model_answers_a_direct_call_where_nothing_had_begun(
    faulty: tuple[Running, FaultyUpstream], mode: str, wire_format: str, stream: bool
):
    running = faulty[0].saved  # type: ignore[attr-defined]
    running.yard.services.providers.manager.health.clear()
    response = ask_directly(running, wire_format, mode, stream=stream)
    check_failover(running, response, mode, stream=stream)


def check_failover(
    running: Running, response: Seen, mode: str, *, stream: bool
) -> None:
    """Check that another model has answered if that was possible, and the rows."""
    assert response.seconds < LONGEST
    rows = row_of(running, response)
    if stream and mode in BEGUN:
        assert response.has_error or rows[-1].status == "ok"
        return
    if "ok" in EXPECTED[mode][1] and len(rows) == 1:
        return
    if EXPECTED[mode][1] == _BAD_ROWS:
        # Another model would fail too.
        assert response.status in EXPECTED[mode][0]
        return
    late_statuses = EXPECTED[mode][0] & LATE[0]
    assert response.status == 200 or late_statuses, response.body
    if response.status == 200:
        assert b"hello" in response.body
        assert [row.status for row in rows][-1] == "ok"
        assert len(rows) == 2


def test_nothing_is_left_open(faulty: tuple[Running, FaultyUpstream]):
    running, upstream = faulty
    for mode in ("silence_midstream", "drip_body", "no_http"):
        ask(running.origin, "openai", mode, stream=True)
    until = time.monotonic() + 5
    while upstream.open > 40 and time.monotonic() < until:
        time.sleep(0.05)
    assert upstream.open <= 40  # pooled connections, not one per fault
    counts = running.yard.services.calls.metrics.in_flight.values
    assert counts[()] == 0
