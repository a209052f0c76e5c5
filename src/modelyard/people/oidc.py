"""OpenID Connect: people sign in at an identity provider, by the code flow with PKCE (RFC 7636).

What it says of them is believed where its signature holds, it was said for this client, for this browser's nonce, now,
and the address is one that the provider has verified.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError
from modelyard.models.types import JSON
from modelyard.people.account import SignInError
from modelyard.tenancy.caller import Role
from modelyard.transport.egress import Egress, EgressError

_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_CONNECT, _READ = 10.0, 15.0
_MOST = 1 << 20
_KNOWN_SECONDS = 3600.0


class Pending(msgspec.Struct, frozen=True):
    """What a browser keeps while somebody is at the provider."""

    state: str
    nonce: str
    verifier: str
    link: str = ""
    """For which account somebody was signed in meanwhile: signed, and bound to the state."""


class Person(msgspec.Struct, frozen=True):
    email: str
    name: str


class Oidc:
    def __init__(
        self, egress: Egress, clock: Clock, *, issuer: str, client_id: str, client_secret: str, label: str = "",
        role: Role | None = None, domains: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Raises ConfigError where the extra that brings Authlib is not installed."""
        # Here and not above: Authlib comes with an extra, and only who signs in elsewhere needs it.
        from modelyard.people import identity_tokens
        from modelyard.people.identity_keys import ProviderKeys

        self._egress = egress
        self._clock = clock
        self._issuer = issuer.rstrip("/")
        self._client = client_id
        self._secret = client_secret
        self.label = label or self._issuer.partition("://")[2]
        self.role = role
        self._domains = [one.lower() for one in domains]
        self._about: JSON | None = None
        self._about_at = float("-inf")
        self._tokens = identity_tokens
        self._keys = ProviderKeys(lambda address: self._ask("GET", address), clock)

    async def begin(self, back: str) -> tuple[str, Pending]:
        """(where the browser is to go, what it is to keep); `back` is where the provider sends it afterwards."""
        about = await self._description()
        pending = Pending(secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48))
        address = self._tokens.authorization_address(
            str(about["authorization_endpoint"]), client_id=self._client, redirect_uri=back, state=pending.state,
            nonce=pending.nonce, verifier=pending.verifier,
        )  # fmt: skip
        return address, pending

    async def end(self, pending: Pending, *, code: str, state: str, back: str) -> Person:
        """Who came back. Raises SignInError that says what is wrong with it."""
        is_whole = bool(pending.state and pending.nonce and pending.verifier)
        if not is_whole or not secrets.compare_digest(state.encode(), pending.state.encode()):
            raise SignInError("this sign-in was not begun in this browser: try again")
        about = await self._description()
        form = self._tokens.token_request(
            code=code, redirect_uri=back, verifier=pending.verifier, client_id=self._client, client_secret=self._secret
        )
        answer = await self._ask("POST", str(about["token_endpoint"]), form)
        token = str(answer.get("id_token") or "")
        key = await self._keys.find(str(about["jwks_uri"]), token)
        claims = self._tokens.check_token(
            token, key, issuer=str(about["issuer"]), client_id=self._client, nonce=pending.nonce,
            access_token=str(answer.get("access_token") or ""), now=self._clock.time,
        )  # fmt: skip
        return self._person(claims)

    def _person(self, claims: Mapping[str, Any]) -> Person:
        email = str(claims.get("email") or "").strip().lower()
        if not email or claims.get("email_verified") not in (True, "true"):
            raise SignInError("the identity provider names no address that it has verified")
        if self._domains and email.rpartition("@")[2] not in self._domains:
            raise SignInError(f"{email} is of no domain that may sign in here")
        return Person(email, str(claims.get("name") or claims.get("preferred_username") or ""))

    async def _description(self) -> JSON:
        """The provider's own description. Raises ConfigError where it is none, or another's."""
        now = self._clock.monotonic()
        if self._about is None or now - self._about_at > _KNOWN_SECONDS:
            about = await self._ask("GET", f"{self._issuer}/.well-known/openid-configuration")
            if str(about.get("issuer") or "").rstrip("/") != self._issuer:
                raise ConfigError(f"{self._issuer} describes itself as {str(about.get('issuer'))[:200]!r}")
            missing = [name for name in _ENDPOINTS if not isinstance(about.get(name), str)]
            if missing:
                raise ConfigError(f"{self._issuer} does not say its {', '.join(missing)}")
            self._about, self._about_at = about, now
        return self._about

    async def _ask(self, verb: str, url: str, body: bytes = b"") -> JSON:
        headers = {"accept": "application/json"}
        if body:
            headers["content-type"] = "application/x-www-form-urlencoded"
        try:
            # The operator named the issuer: its host may be private. What its description leads to must be public, or
            # listed, and is not followed any further: what is sent holds secrets.
            answer = await self._egress.fetch(
                verb, url, headers=list(headers.items()), body=body, connect=_CONNECT, read=_READ, most_bytes=_MOST,
                most_redirects=0, operators=self._issuer,
            )  # fmt: skip
            document = msgspec.json.decode(answer.body)
        except (EgressError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SignInError(f"the identity provider cannot be asked: {error}") from error
        if not isinstance(document, dict) or answer.status >= 400:
            told = document.get("error_description") or document.get("error") if isinstance(document, dict) else ""
            raise SignInError(f"the identity provider refuses: {str(told or answer.status)[:200]}")
        return document
