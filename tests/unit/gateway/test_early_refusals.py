"""Tests for refusals that are decided by the first bytes of a request."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.gateway import early_refusals
from modelyard.gateway.early_refusals import EarlyRefusals
from modelyard.gateway.errors import ANTHROPIC
from modelyard.runtime.overload import LoadController, OverloadedError
from modelyard.tenancy.caller import Caller

ID = "req_" + "0" * 27
BODY = b'{"model": "m"}'
LINE = b"POST /v1/messages HTTP/1.1"
HEADERS = (
    b"Host: example.com",
    b"Authorization: Bearer sk-one",
    b"Content-Type: application/json",
    b"Content-Length: %d" % len(BODY),
)


def request(
    *headers: bytes, line: bytes = LINE, body: bytes = BODY, separator: bytes = b"\r\n"
) -> bytes:
    return separator.join((line, *headers)) + b"\r\n\r\n" + body


def overloaded() -> LoadController:
    """Return a controller that refuses every call of the tenant 'loud'."""
    controller = LoadController(0.01)
    for step in range(5):
        for _ in range(20):
            controller.refusal("loud")
        controller.observe(0.03, 0.03 * step)
    while controller.refusal("loud") is None:
        pass
    return controller


def stored(controller: LoadController | None = None) -> EarlyRefusals:
    """Return refusals with one that is stored."""
    early = EarlyRefusals(controller or overloaded())
    error = OverloadedError("busy", retry_after=1.0)
    headers = [
        (b"host", b"example.com"),
        (b"authorization", b"Bearer sk-one"),
    ]
    scope = {
        "method": "POST",
        "raw_path": b"/v1/messages",
        "query_string": b"",
        "http_version": "1.1",
        "headers": headers,
    }
    early.store(scope, Caller(tenant="loud"), ANTHROPIC.reply(error, ID), ID)
    return early


def test_a_further_request_gets_the_same_answer_with_an_id_of_its_own():
    early = stored()
    assert early.is_active
    responses = [early.response(request(*HEADERS)) for _ in range(2)]
    assert responses[0] is not None
    assert responses[0] != responses[1]
    head, _, body = responses[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 503 Service Unavailable"
    assert b"retry-after: 1" in lines
    assert b"content-length: %d" % len(body) in lines
    request_id = next(line for line in lines if line.startswith(b"x-request-id: "))
    # Anthropic's format repeats the id in the body.
    assert request_id.partition(b": ")[2] in body
    assert ID.encode() not in responses[0]


def test_the_callers_calls_are_counted_as_refused():
    controller = overloaded()
    refused_before = controller.refused_calls
    stored(controller).response(request(*HEADERS))
    assert controller.refused_calls == refused_before + 1


@pytest.mark.parametrize(
    "data",
    [
        request(*HEADERS, line=b"POST /v1/messages?beta=true HTTP/1.1"),
        request(*HEADERS, line=b"GET /v1/messages HTTP/1.1"),
        request(*HEADERS, line=b"POST /v1/messages HTTP/1.0"),
        request(HEADERS[0], b"Authorization: Bearer sk-two", *HEADERS[2:]),
        request(HEADERS[0], *HEADERS[2:]),
        request(*HEADERS, b"X-Api-Key: sk-one"),
        request(*HEADERS, b"X-Modelyard-Tenant: other"),
        request(*HEADERS, b"Transfer-Encoding: chunked"),
        request(*HEADERS, b"Expect: 100-continue"),
        request(*HEADERS, b"Connection: close"),
        request(*HEADERS, b"Content-Length: 3"),
        request(*HEADERS, b"Content-Length : 3"),
        request(*HEADERS, b"X-Fold: a\r\n b"),
        request(*HEADERS, b"X-Break: a\nContent-Length: 0"),
        request(*HEADERS[:3]),
        request(*HEADERS[:3], b"Content-Length: -1"),
        request(*HEADERS[:3], b"Content-Length: 1_4"),
        request(*HEADERS, body=BODY[:-1]),
        request(*HEADERS, body=BODY + b"G"),
        request(*HEADERS) + request(*HEADERS),
        request(*HEADERS)[:40],
        request(*HEADERS, separator=b"\n"),
        b"\r\n" + request(*HEADERS),
        b"",
    ],
)
def test_a_request_that_is_not_exactly_recognised_is_parsed(data: bytes):
    early = stored()
    assert early.response(data) is None
    # A recognised head in between changes nothing.
    assert early.response(request(*HEADERS)) is not None
    assert early.response(data) is None


def test_names_of_headers_may_have_capitals_and_connections_are_kept():
    headers = [header.partition(b":") for header in HEADERS]
    lower = [name.lower() + b":" + value for name, _, value in headers]
    response = stored().response(request(*lower, b"Connection: Keep-Alive"))
    assert response is not None


def test_an_admitted_call_is_parsed():
    controller = overloaded()
    early = stored(controller)
    for step in range(100):
        controller.observe(0.001, 0.2 + 0.001 * step)
    assert early.response(request(*HEADERS)) is None
    assert controller.refusal("loud") is None


def test_a_stored_answer_expires():
    controller = overloaded()
    early = stored(controller)
    assert early.response(request(*HEADERS)) is not None
    for step in range(300):
        while controller.refusal("loud") is None:
            pass
        controller.observe(0.01, 0.2 + 0.001 * step)
    while controller.refusal("loud") is None:
        pass
    assert early.response(request(*HEADERS)) is None


def test_the_number_of_stored_answers_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(early_refusals, "_MAX_STORED", 2)
    early = stored()
    for length in range(10):
        headers = [*HEADERS[:3], b"Content-Length: %d" % length]
        early.response(request(*headers, body=b"x" * length))
        assert len(early._heads) <= 2  # pyright: ignore[reportPrivateUsage]
    assert early.response(request(*HEADERS)) is not None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_a_changed_request_is_refused_only_if_its_length_is_unchanged(
    index: int, change: bytes
):
    data = request(*HEADERS)
    index %= len(data)
    changed = data[:index] + change + data[index + len(change) :]
    early = stored()
    if early.response(changed) is not None:
        head, _, body = changed.partition(b"\r\n\r\n")
        assert head.startswith(LINE + b"\r\n")
        assert b"Bearer sk-one" in head
        assert len(body) == len(BODY)
