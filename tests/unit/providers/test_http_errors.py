import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import (
    ContextTooLongError,
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)
from modelyard.providers.http_errors import error_of, retry_after


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
        (402, b"", InvokeAuthorizationError),
        (403, b"<html>no</html>", InvokeAuthorizationError),
        (404, b'{"detail": "Not Found"}', InvokeBadRequestError),
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
