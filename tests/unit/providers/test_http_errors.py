import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import (
    ContextTooLongError,
    EndpointNotFoundError,
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    QuotaExhaustedError,
)
from modelyard.base.provider_waits import limit_reset, retry_after
from modelyard.providers.http_errors import error_of


@pytest.mark.parametrize(
    ("status", "body", "error_class"),
    [
        (400, b'{"error": {"message": "no"}}', InvokeBadRequestError),
        (
            400,
            b'{"error": {"message": "long", "code": "context_length_exceeded"}}',
            ContextTooLongError,
        ),
        (401, b'{"error": "no"}', InvokeAuthorizationError),
        (402, b"", QuotaExhaustedError),
        (403, b"<html>no</html>", InvokeAuthorizationError),
        (404, b'{"detail": "Not Found"}', EndpointNotFoundError),
        (408, b"", InvokeServerUnavailableError),
        (422, b"[" * 100_000, InvokeBadRequestError),
        (429, b'{"message": "slow"}', InvokeRateLimitError),
        (302, b"", InvokeServerUnavailableError),
        (500, b"\xff\xfe", InvokeServerUnavailableError),
        (529, b"{}", InvokeServerUnavailableError),
    ],
)
def test_the_status_decides_and_the_message_names_the_provider(
    status: int, body: bytes, error_class: type
):
    error = error_of(status, {}, body, provider="p")
    assert type(error) is error_class
    assert str(error).startswith("[p] ")
    assert "<html>" not in str(error)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:10 GMT"}, 10),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0),
        ({"retry-after": "999999999"}, 86_400),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-5"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_every_form(headers: dict[str, str], seconds: float | None):
    assert retry_after(headers, now_seconds=1_445_412_480.0) == seconds


@given(st.text(max_size=30))
def test_any_retry_after_is_none_or_a_sane_number(value: str):
    seconds = retry_after({"retry-after": value})
    assert seconds is None or 0 <= seconds <= 86_400


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "6m0s",
            },
            360,
        ),
        (
            {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m1.5s"},
            61.5,
        ),
        (
            {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"},
            0.12,
        ),
        (
            {"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "120ms"},
            None,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1445412490000"}, 10),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1445412490"}, 10),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9"}, 9),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2015-10-21T07:28:30Z",
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2015-10-21T07:28:10Z",
            },
            30,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "soon"}, None),
        ({"x-ratelimit-remaining": "0"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9999999999999"}, 86_400),
    ],
)
def test_the_reset_of_an_exhausted_limit(
    headers: dict[str, str], seconds: float | None
):
    wait = limit_reset(headers, now_seconds=1_445_412_480.0)
    assert wait == (seconds if seconds is None else pytest.approx(seconds))


def test_a_rate_limit_waits_for_the_reset_that_its_headers_name():
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "7s",
    }
    assert error_of(429, headers, b"{}", provider="p").retry_after == 7
    assert error_of(500, headers, b"{}", provider="p").retry_after is None


@given(st.text(max_size=30))
def test_any_reset_is_none_or_a_sane_number(value: str):
    seconds = limit_reset({"x-ratelimit-remaining": "0", "x-ratelimit-reset": value})
    assert seconds is None or 0 <= seconds <= 86_400
