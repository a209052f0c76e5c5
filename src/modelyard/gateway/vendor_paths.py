"""Which vendor's API a client means by its headers, where several APIs share a path."""

import re
from collections.abc import Mapping, Sequence

Headers = Sequence[tuple[bytes, bytes]]

VENDORS: Mapping[str, str] = {
    "openai": "OpenAI",
    "anthropic": "Anthropic",
    "google": "Google",
    "cohere": "Cohere",
}
"""Name of an API whose clients are a vendor's own → the vendor."""
_SHARED_PATHS = ("/v1/conversations", "/v1/files", "/v1/messages")
"""Paths of the apps' API below which OpenAI and Anthropic have endpoints as well."""
MISSING_ENDPOINTS = frozenset((("POST", "/v1/responses/compact"),))
"""(method, path) of endpoints that a vendor has below a path with a parameter of ours."""
# Their paths are also those of others, so a path does not tell the vendor.
_SEVERAL_VENDORS = frozenset(("service", "knowledge"))
# Headers that only one vendor's clients send.
_BY_HEADER = {b"anthropic-version": "anthropic", b"x-goog-api-key": "google"}
# Headers that the official clients send beside the key.
_BY_CLIENT = {
    b"x-goog-api-client": "google",
    b"x-stainless-lang": "openai",
    b"openai-organization": "openai",
    b"openai-project": "openai",
}


# Google's names of a model's methods, under the version that its paths share with
# OpenAI's. A name in the path may have line breaks, which no route accepts.
_GOOGLE_METHOD = re.compile(r"/v1/models/.+:[A-Za-z]+", re.DOTALL)


def api_named_by_path(path: str) -> str:
    """Return the name of the API that a path belongs to whose beginning several APIs
    share, or an empty string."""
    return "google" if _GOOGLE_METHOD.fullmatch(path) else ""


def api_named_by(headers: Headers) -> str:
    """Return the name of the API that the client's headers indicate, or an empty
    string."""
    of_client = ""
    for name, value in headers:
        if api := _BY_HEADER.get(name):
            return api
        if name == b"authorization" and (api := _api_named_by_key(value)):
            return api
        if name == b"x-fern-sdk-name" and value == b"cohere":
            return "cohere"
        of_client = _BY_CLIENT.get(name, of_client)
    # Anthropic's client sends the headers of OpenAI's, but also its version.
    return of_client


def _api_named_by_key(authorization: bytes) -> str:
    """Return the name of the API that a bearer key belongs to, or an empty string. Keys
    of apps and datasets have distinct prefixes."""
    _, _, key = authorization.partition(b" ")
    key = key.strip()
    if key.startswith(b"app-"):
        return "service"
    return "knowledge" if key.startswith(b"dataset-") else ""


def is_meant_for_another(row_api: str, headers: Headers) -> bool:
    """Return whether a request that reaches a row of `row_api` comes from the client of
    a vendor that has another endpoint at this path."""
    return row_api in _SEVERAL_VENDORS and api_named_by(headers) in VENDORS


def is_shared_path(path: str, headers: Headers) -> bool:
    """Return whether a vendor has endpoints below the path, and the client does not
    present the key of an app or of a dataset."""
    is_shared = any(
        path == shared or path.startswith(f"{shared}/") for shared in _SHARED_PATHS
    )
    return is_shared and api_named_by(headers) not in _SEVERAL_VENDORS
