"""Headers of a call between the caller and the vendor whose API it uses."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.call_headers import CallHeaders
from modelyard.models.vendor_headers import rules_of


def call_headers_of(scope: Mapping[str, Any], wire_format: str) -> CallHeaders:
    """Return the headers of a request that go along with its call. `scope` is the
    request in ASGI form."""
    rules = rules_of(wire_format)
    return rules.of_request(scope["headers"], scope.get("query_string", b""))


def reply_headers(headers: CallHeaders, vendor: str) -> dict[str, str]:
    """Return the headers of a provider's response for a caller of a vendor's API; empty
    if they are another vendor's."""
    return headers.values if headers.vendor == vendor else {}
