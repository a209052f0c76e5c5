"""Maps a provider's error responses to exceptions, with the wait that their headers ask
for. What an error means is decided in `modelyard.base.provider_errors`."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.bounded_json import decode_json
from modelyard.base.errors import (
    EndpointNotFoundError,
    InvokeError,
    InvokeRateLimitError,
)
from modelyard.base.json_types import is_object
from modelyard.base.log import redaction
from modelyard.base.provider_errors import error_fields_in, provider_error
from modelyard.base.provider_waits import limit_reset, retry_after


def error_of(
    status: int, headers: Mapping[str, str], body: bytes, *, provider: str
) -> InvokeError:
    """Return the exception for a provider's error response.

    A key that the provider repeats in its message is redacted. The wait that the
    headers or the body ask for is kept in `retry_after`.
    """
    error = provider_error(
        _error_fields(body),
        status=status,
        # AWS names the error type in a header.
        aws_type=headers.get("x-amzn-errortype", "").partition(":")[0],
        body=body,
        retry_after=retry_after(headers),
    )
    if error.retry_after is None and isinstance(error, InvokeRateLimitError):
        error.retry_after = limit_reset(headers)
    # A redirect could lead to another host, with the key in its headers.
    if 300 <= status < 400:
        error.answer = None
        error.reason = (
            f"The server sent a redirect (HTTP status {status}), which is not"
            " followed; check the base URL"
        )
    elif isinstance(error, EndpointNotFoundError):
        error.reason = (
            f"The server does not have this API (HTTP status {status}:"
            f" {error.reason[:200]}); check the base URL"
        )
    # Some providers repeat the rejected key in the message.
    error.reason = redaction.redact(error.reason)
    return error.with_provider(provider)


def is_object_body(body: bytes) -> bool:
    """Return whether a response body is a JSON object, as an API's errors are."""
    return bool(_error_fields(body))


def _error_fields(body: bytes) -> dict[str, Any]:
    """Return the object with an error's fields in the body of an error response; empty
    if the body is not a JSON object."""
    try:
        document = decode_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    fields = error_fields_in(document)
    if fields is not None:
        return fields
    return document if is_object(document) else {}
