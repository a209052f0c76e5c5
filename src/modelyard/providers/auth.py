"""How a provider is shown who is calling: a key in a header, a signature (AWS), a token got for a key (Google)."""

import base64
import datetime
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlencode, urlsplit

from modelyard.base.clock import Clock, SystemClock
from modelyard.base.errors import ConfigError, InvokeAuthorizationError, InvokeBadRequestError
from modelyard.models.types import JSON, Credentials, OperatorCredentials
from modelyard.transport.http import HttpClient


class Auth(Protocol):
    async def headers(
        self, method: str, url: str, credentials: Credentials, body: Sequence[bytes]
    ) -> Mapping[str, str]:
        """What the request must carry. Raises ConfigError where the credential cannot make it."""
        ...


@dataclass(frozen=True, slots=True)
class KeyAuth:
    """A key in a header, as it is or behind a word."""

    field: str | None
    header: str = "authorization"
    prefix: str = "Bearer "

    async def headers(
        self, method: str, url: str, credentials: Credentials, body: Sequence[bytes]
    ) -> Mapping[str, str]:
        key = credentials.get(self.field) if self.field else None
        return {self.header: f"{self.prefix}{key}"} if key else {}


# ------------------------------------------------------------------------------------------------ AWS


def sign_v4(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: Sequence[bytes],
    *,
    access_key: str,
    secret_key: str,
    region: str,
    service: str,
    moment: datetime.datetime,
) -> str:
    """The value of `authorization` for these headers, which must hold host and x-amz-date.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    parts = urlsplit(url)
    digest = hashlib.sha256()
    for piece in body:
        digest.update(piece)
    names = sorted(headers)
    query = "&".join(
        f"{quote(unquote(name), safe='-_.~')}={quote(unquote(value), safe='-_.~')}"
        for name, _, value in sorted(one.partition("=") for one in parts.query.split("&") if one)
    )
    canonical = "\n".join(
        [
            method,
            quote(parts.path or "/", safe="/-_.~"),  # what is percent-encoded in the address is so once more here
            query,
            *(f"{name}:{' '.join(headers[name].split())}" for name in names),
            "",
            ";".join(names),
            digest.hexdigest(),
        ]
    )
    day = moment.strftime("%Y%m%d")
    scope = f"{day}/{region}/{service}/aws4_request"
    signed = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{moment.strftime('%Y%m%dT%H%M%SZ')}\n{scope}\n{signed}"
    key = f"AWS4{secret_key}".encode()
    for step in (day, region, service, "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"


@dataclass(frozen=True, slots=True)
class AwsAuth:
    """Signature version 4; where the credential holds an API key instead, that."""

    service: str
    clock: Clock = field(default_factory=SystemClock)

    async def headers(
        self, method: str, url: str, credentials: Credentials, body: Sequence[bytes]
    ) -> Mapping[str, str]:
        if key := credentials.get("api_key"):
            return {"authorization": f"Bearer {key}"}
        access, secret = credentials.get("aws_access_key_id"), credentials.get("aws_secret_access_key")
        if not access or not secret:
            raise ConfigError("AWS needs 'aws_access_key_id' and 'aws_secret_access_key', or an 'api_key'")
        moment = datetime.datetime.fromtimestamp(self.clock.time(), datetime.UTC)
        try:
            host = urlsplit(url).netloc
        except ValueError as error:
            raise InvokeBadRequestError(f"the address in the credential cannot be read: {error}") from error
        signed = {"host": host, "x-amz-date": moment.strftime("%Y%m%dT%H%M%SZ")}
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
        return {**{name: value for name, value in signed.items() if name != "host"}, "authorization": authorization}


# ------------------------------------------------------------------------------------------------ Google

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_MOST_TOKENS = 1024
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass(slots=True)
class GoogleAuth:
    """A token for a service account's key (RFC 7523), kept until shortly before it ends. Or an API key, as it is.

    The key says where tokens are had: a tenant's is asked for there through the guarded client.
    """

    client: HttpClient
    clock: Clock = field(default_factory=SystemClock)
    guarded: HttpClient | None = None
    _tokens: dict[tuple[bool, bytes], tuple[str, float]] = field(
        default_factory=dict[tuple[bool, bytes], tuple[str, float]]
    )
    """By the digest of the whole key, so that nobody gets a token who does not have the key."""

    async def headers(
        self, method: str, url: str, credentials: Credentials, body: Sequence[bytes]
    ) -> Mapping[str, str]:
        given = credentials.get("service_account_key")
        if not given:
            key = credentials.get("api_key")
            return {"x-goog-api-key": key} if key else {}
        is_operators = isinstance(credentials, OperatorCredentials)
        key = (is_operators, hashlib.sha256(given.encode()).digest())
        known = self._tokens.get(key)
        if known is None or known[1] < self.clock.time():
            if len(self._tokens) >= _MOST_TOKENS:
                self._tokens.clear()
            client = self.client if is_operators or self.guarded is None else self.guarded
            known = self._tokens[key] = await self._exchange(client, read_account(given))
        return {"authorization": f"Bearer {known[0]}"}

    async def _exchange(self, client: HttpClient, account: JSON) -> tuple[str, float]:
        now = int(self.clock.time())
        address = account.get("token_uri") or "https://oauth2.googleapis.com/token"
        claims = {"iss": account["client_email"], "scope": _SCOPE, "aud": address, "iat": now, "exp": now + 3600}
        form = urlencode({"grant_type": _GRANT, "assertion": _signed(claims, account)}).encode()
        sent = {"content-type": "application/x-www-form-urlencoded"}
        try:
            response = await client.send("POST", address, headers=sent, body=[form])
            said = json.loads(await response.read(most=1 << 20))
        except (ValueError, RecursionError) as error:
            raise InvokeAuthorizationError("Google's answer to the service account is not JSON") from error
        if response.status != 200 or not isinstance(said, dict) or "access_token" not in said:
            named = said if isinstance(said, dict) else {}
            reason = str(named.get("error_description") or named.get("error") or f"status {response.status}")[:300]
            raise InvokeAuthorizationError(f"Google gave no token for the service account: {reason}")
        return str(said["access_token"]), now + _seconds(said.get("expires_in")) - 120


def _seconds(given: Any) -> float:
    """How long a token holds; an hour where nothing sensible is said."""
    return min(float(given), 86_400.0) if isinstance(given, int | float) and given > 0 else 3600.0


def read_account(given: str) -> JSON:
    """A service account's key: its JSON, or that in base64. Raises ConfigError where it is none."""
    text = given.strip()
    try:
        if not text.startswith("{"):
            text = base64.b64decode(text, validate=True).decode()
        account = json.loads(text)
        if not isinstance(account, dict) or not account.keys() >= {"client_email", "private_key"}:
            raise ValueError("it has no client_email and private_key")
    except ValueError as error:
        raise ConfigError(f"'service_account_key' is no key of a service account: {error}") from None
    return account


def _signed(claims: JSON, account: JSON) -> str:
    """A JSON web token, signed with RS256."""
    # Imported where it is needed: it takes 30 ms, and few providers want it.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    try:
        key: Any = serialization.load_pem_private_key(account["private_key"].encode(), None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError("it is no RSA key")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"the service account's private_key cannot be read: {error}") from None
    head = {"alg": "RS256", "typ": "JWT", "kid": account.get("private_key_id") or ""}
    text = b".".join(_web64(json.dumps(part, separators=(",", ":")).encode()) for part in (head, claims))
    return b".".join([text, _web64(key.sign(text, padding.PKCS1v15(), hashes.SHA256()))]).decode()


def _web64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def build_auth(
    style: Mapping[str, Any], key_field: str | None, client: HttpClient, guarded: HttpClient | None = None
) -> Auth:
    """What a provider file's `auth` says. Raises ConfigError for a style that does not exist."""
    match style.get("style", "key"):
        case "key":
            header = style.get("header", "authorization")
            default = "Bearer " if header == "authorization" else ""
            return KeyAuth(style.get("field", key_field), header, style.get("prefix", default))
        case "aws":
            return AwsAuth(style.get("service", "bedrock"))
        case "google":
            return GoogleAuth(client, guarded=guarded)
        case other:
            raise ConfigError(f"auth.style must be key, aws or google, not {other!r}")
