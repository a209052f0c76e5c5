"""Authentication to providers: a key in a header, an AWS signature, or a Google access
token obtained with a key."""

import base64
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from modelyard.base.clock import Clock, SystemClock
from modelyard.base.errors import (
    ConfigError,
    InvokeAuthorizationError,
    InvokeBadRequestError,
)
from modelyard.base.json_types import is_object
from modelyard.models.types import JSON, Credentials, OperatorCredentials
from modelyard.transport.aws_signature import sign_v4
from modelyard.transport.http import HttpClient


class Auth(Protocol):
    """Creates the headers that authenticate a request to a provider."""

    async def headers(
        self, method: str, url: str, credentials: Credentials, body: Sequence[bytes]
    ) -> Mapping[str, str]:
        """Return the authentication headers. Raises ConfigError if the credential is
        not sufficient for them."""
        ...

    def ready_headers(self, credentials: Credentials) -> Mapping[str, str] | None:
        """Return the headers if they depend on the credential alone; None if the
        request has to be signed, or a token be fetched."""
        ...


@dataclass(frozen=True, slots=True)
class KeyAuth:
    """A key in a header, on its own or after a prefix."""

    field: str | None
    header: str = "authorization"
    prefix: str = "Bearer "

    async def headers(
        self, method: str, url: str, credentials: Credentials, body: Sequence[bytes]
    ) -> Mapping[str, str]:
        """Return the header with the key, or no header if the credential has no key."""
        return self.ready_headers(credentials)

    def ready_headers(self, credentials: Credentials) -> Mapping[str, str]:
        """Return the header with the key, or no header if the credential has no key."""
        # Local servers often need no key, so a missing one is not an error here.
        key = credentials.get(self.field) if self.field else None
        return {self.header: f"{self.prefix}{key}"} if key else {}


# ---------------------------------------------------------------------------------- AWS


@dataclass(frozen=True, slots=True)
class AwsAuth:
    """AWS signature version 4, or the API key if the credential has one instead."""

    service: str
    clock: Clock = field(default_factory=SystemClock)

    def ready_headers(self, credentials: Credentials) -> None:
        """Return None. The signature covers the request, so nothing is ready before it."""
        del credentials

    async def headers(
        self, method: str, url: str, credentials: Credentials, body: Sequence[bytes]
    ) -> Mapping[str, str]:
        """Return the signature headers. Raises ConfigError if the credential has
        neither an AWS key pair nor an API key."""
        if key := credentials.get("api_key"):
            return {"authorization": f"Bearer {key}"}
        access, secret = (
            credentials.get("aws_access_key_id"),
            credentials.get("aws_secret_access_key"),
        )
        if not access or not secret:
            raise ConfigError(
                "AWS requires 'aws_access_key_id' and 'aws_secret_access_key',"
                " or 'api_key'"
            )
        moment = datetime.datetime.fromtimestamp(self.clock.time(), datetime.UTC)
        try:
            host = urlsplit(url).netloc
        except ValueError as error:
            raise InvokeBadRequestError(
                f"Invalid URL in the credential: {error}"
            ) from error
        signed = {"host": host, "x-amz-date": moment.strftime("%Y%m%dT%H%M%SZ")}
        # Temporary credentials require their session token, which must be signed too.
        if token := credentials.get("aws_session_token"):
            signed["x-amz-security-token"] = token
        authorization = sign_v4(
            method,
            url,
            signed,
            body,
            access_key=access,
            secret_key=secret,
            region=credentials.get("aws_region") or "us-east-1",
            service=self.service,
            moment=moment,
        )
        # The HTTP client sets the host header itself.
        return {
            **{name: value for name, value in signed.items() if name != "host"},
            "authorization": authorization,
        }


# ------------------------------------------------------------------------------- Google

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# Tenants bring credentials of their own, so their number is unlimited.
_MAX_CACHED_TOKENS = 1024
_GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass(slots=True)
class GoogleAuth:
    """An access token for a service account's key (RFC 7523), cached until shortly
    before it expires. An API key is sent as it is.

    The key names the token endpoint. For a tenant's key that endpoint is called with
    the guarded client.
    """

    client: HttpClient
    clock: Clock = field(default_factory=SystemClock)
    guarded: HttpClient | None = None
    _tokens: dict[tuple[bool, bytes], tuple[str, float]] = field(
        default_factory=dict[tuple[bool, bytes], tuple[str, float]]
    )
    """Token and expiry time by digest of the complete key: only a caller with the same
    key gets the cached token."""

    def ready_headers(self, credentials: Credentials) -> None:
        """Return None. A token may have to be fetched first."""
        del credentials

    async def headers(
        self, method: str, url: str, credentials: Credentials, body: Sequence[bytes]
    ) -> Mapping[str, str]:
        """Return the header with the token or the API key.

        Raises ConfigError for an unusable key, InvokeAuthorizationError if Google
        issues no token.
        """
        account_key = credentials.get("service_account_key")
        if not account_key:
            key = credentials.get("api_key")
            return {"x-goog-api-key": key} if key else {}
        # Operators' and tenants' tokens are cached separately, since they come through
        # different clients.
        is_operators = isinstance(credentials, OperatorCredentials)
        key = (is_operators, hashlib.sha256(account_key.encode()).digest())
        cached_token = self._tokens.get(key)
        if cached_token is None or cached_token[1] < self.clock.time():
            # The limit keeps memory bounded; emptying the cache only costs new token
            # requests.
            if len(self._tokens) >= _MAX_CACHED_TOKENS:
                self._tokens.clear()
            client = (
                self.client if is_operators or self.guarded is None else self.guarded
            )
            cached_token = self._tokens[key] = await self._exchange(
                client, read_account(account_key)
            )
        return {"authorization": f"Bearer {cached_token[0]}"}

    async def _exchange(self, client: HttpClient, account: JSON) -> tuple[str, float]:
        """Exchange a signed JWT for an access token (RFC 7523).

        `account` is the service account's key. Returns the token and the Unix time
        until which it may be used, two minutes before it expires. Raises
        InvokeAuthorizationError if the endpoint returns no token.
        """
        issued_at = int(self.clock.time())
        # The endpoint comes from the key, which a tenant may have written: see the
        # class.
        address = account.get("token_uri") or "https://oauth2.googleapis.com/token"
        claims = {
            "iss": account["client_email"],
            "scope": _SCOPE,
            "aud": address,
            "iat": issued_at,
            "exp": issued_at + 3600,
        }
        form_body = urlencode(
            {"grant_type": _GRANT_TYPE, "assertion": signed_jwt(claims, account)}
        ).encode()
        sent = {"content-type": "application/x-www-form-urlencoded"}
        try:
            # A token response is small; the limit protects against any other server at
            # that URL.
            response = await client.send(
                "POST", address, headers=sent, body=[form_body]
            )
            token_response = json.loads(await response.read(max_bytes=1 << 20))
        except (ValueError, RecursionError) as error:
            raise InvokeAuthorizationError(
                "Google's token response for the service account is not JSON"
            ) from error
        if (
            response.status != 200
            or not is_object(token_response)
            or "access_token" not in token_response
        ):
            error_fields: JSON = token_response if is_object(token_response) else {}
            reason = str(
                error_fields.get("error_description")
                or error_fields.get("error")
                or f"status {response.status}"
            )[:300]
            raise InvokeAuthorizationError(
                f"Google returned no token for the service account: {reason}"
            )
        # Two minutes of reserve: the token must still be valid when the request
        # arrives.
        return (
            str(token_response["access_token"]),
            issued_at + _token_lifetime(token_response.get("expires_in")) - 120,
        )


def _token_lifetime(lifetime: Any) -> float:
    """Return the lifetime of a token in seconds: at most one day, and one hour if no
    usable value is given."""
    return (
        min(float(lifetime), 86_400.0)
        if isinstance(lifetime, int | float) and lifetime > 0
        else 3600.0
    )


def read_account(account_key: str) -> JSON:
    """Parse a service account's key: JSON, or JSON in base64. Raises ConfigError if it
    is neither."""
    text = account_key.strip()
    try:
        if not text.startswith("{"):
            text = base64.b64decode(text, validate=True).decode()
        account = json.loads(text)
        if not is_object(account) or not account.keys() >= {
            "client_email",
            "private_key",
        }:
            raise ValueError("client_email or private_key is missing")
    except ValueError as error:
        raise ConfigError(
            f"'service_account_key' is not a service account key: {error}"
        ) from None
    return account


def signed_jwt(claims: JSON, account: JSON) -> str:
    """Return a JSON web token, signed with RS256."""
    # Imported here because the import takes 30 ms and few providers need it.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    try:
        key: Any = serialization.load_pem_private_key(
            account["private_key"].encode(), None
        )
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError("Not an RSA key")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"Invalid private_key of the service account: {error}"
        ) from None
    head = {"alg": "RS256", "typ": "JWT", "kid": account.get("private_key_id") or ""}
    # Both parts are compact JSON in URL-safe base64 without padding (RFC 7515).
    text = b".".join(
        _base64url(json.dumps(part, separators=(",", ":")).encode())
        for part in (head, claims)
    )
    return b".".join(
        [text, _base64url(key.sign(text, padding.PKCS1v15(), hashes.SHA256()))]
    ).decode()


def _base64url(data: bytes) -> bytes:
    """Return bytes as RFC 7515 writes them, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def build_auth(
    style: Mapping[str, Any],
    key_field: str | None,
    client: HttpClient,
    guarded: HttpClient | None = None,
) -> Auth:
    """Create the authentication that a provider file's `auth` section describes.

    `key_field` is the credential field with the key, used where the section names none;
    `guarded` is the HTTP client for addresses that tenants choose. Raises ConfigError
    for an unknown style.
    """
    match style.get("style", "key"):
        case "key":
            header = style.get("header", "authorization")
            # Only the standard header has a scheme before the key.
            default = "Bearer " if header == "authorization" else ""
            return KeyAuth(
                style.get("field", key_field), header, style.get("prefix", default)
            )
        case "aws":
            return AwsAuth(style.get("service", "bedrock"))
        case "google":
            return GoogleAuth(client, guarded=guarded)
        case other:
            raise ConfigError(f"auth.style must be key, aws or google, not {other!r}")
