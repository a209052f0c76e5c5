"""Sign-in at an OpenID Connect provider, by the authorization code flow with PKCE (RFC
7636).

A provider's statement is accepted only if its signature is valid, it was issued for
this client and this browser's nonce, it has not expired, and the provider has verified
the mail address.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError
from modelyard.base.json_types import is_array, is_object
from modelyard.models.types import JSON
from modelyard.people.account import SignInError
from modelyard.tenancy.caller import Role
from modelyard.transport.egress import EgressClient, EgressError

_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
# A browser waits for the sign-in, and would give up later.
_CONNECT, _READ = 10.0, 15.0
# A key set has some kilobytes; more comes from no identity provider.
_MAX_BYTES = 1 << 20
# Identity providers change this document rarely.
_DISCOVERY_SECONDS = 3600.0


class PendingSignIn(msgspec.Struct, frozen=True):
    """What a browser keeps, in a cookie, while the person is at the provider."""

    state: str
    nonce: str
    verifier: str
    link: str = ""
    """The account that was signed in at the time, if any: a signature that is bound to
    `state`."""


class Person(msgspec.Struct, frozen=True):
    """A person whom the provider has authenticated."""

    email: str
    name: str
    groups: tuple[str, ...] = ()
    """The groups that the provider names, for access lists of documents."""


class Oidc:
    """A client of one identity provider."""

    def __init__(
        self,
        egress: EgressClient,
        clock: Clock,
        *,
        issuer: str,
        client_id: str,
        client_secret: str,
        label: str = "",
        role: Role | None = None,
        domains: Sequence[str] = (),
        groups_claim: str = "groups",
    ) -> None:
        """Create the client. `role` is for people without an account, `domains` limits
        the mail addresses, `groups_claim` names the claim with a person's groups.

        Raises ConfigError if Authlib, an optional dependency, is not installed.
        """
        # Imported here, because Authlib is an optional dependency that only this
        # sign-in needs.
        from modelyard.people import identity_tokens
        from modelyard.people.identity_keys import ProviderKeys

        self._egress = egress
        self._clock = clock
        self._issuer = issuer.rstrip("/")
        self._client = client_id
        self._secret = client_secret
        self.label = label or self._issuer.partition("://")[2]
        self.role = role
        self._domains = [domain.lower() for domain in domains]
        self._groups_claim = groups_claim
        self._discovery: JSON | None = None
        self._discovery_at = float("-inf")
        self._tokens = identity_tokens
        self._keys = ProviderKeys(lambda address: self._ask("GET", address), clock)

    async def begin(self, back: str) -> tuple[str, PendingSignIn]:
        """Return the address to redirect the browser to, and what it has to keep. The
        provider redirects back to `back`."""
        discovery = await self._description()
        pending = PendingSignIn(
            secrets.token_urlsafe(24),
            secrets.token_urlsafe(24),
            secrets.token_urlsafe(48),
        )
        address = self._tokens.authorization_address(
            str(discovery["authorization_endpoint"]),
            client_id=self._client,
            redirect_uri=back,
            state=pending.state,
            nonce=pending.nonce,
            verifier=pending.verifier,
        )
        return address, pending

    async def end(
        self, pending: PendingSignIn, *, code: str, state: str, back: str
    ) -> Person:
        """Return the person who came back from the provider. Raises SignInError with
        the reason."""
        is_complete = bool(pending.state and pending.nonce and pending.verifier)
        # The state ties the response to this browser; compared in constant time.
        if not is_complete or not secrets.compare_digest(
            state.encode(), pending.state.encode()
        ):
            raise SignInError("This sign-in was not started in this browser; try again")
        discovery = await self._description()
        token_form = self._tokens.token_request(
            code=code,
            redirect_uri=back,
            verifier=pending.verifier,
            client_id=self._client,
            client_secret=self._secret,
        )
        answer = await self._ask("POST", str(discovery["token_endpoint"]), token_form)
        token = str(answer.get("id_token") or "")
        key = await self._keys.find(str(discovery["jwks_uri"]), token)
        claims = self._tokens.check_token(
            token,
            key,
            issuer=str(discovery["issuer"]),
            client_id=self._client,
            nonce=pending.nonce,
            access_token=str(answer.get("access_token") or ""),
            get_time=self._clock.time,
        )
        return self._person(claims)

    def _person(self, claims: Mapping[str, Any]) -> Person:
        """Return the person described by the claims. Raises SignInError without a
        verified address in an allowed domain."""
        email = str(claims.get("email") or "").strip().lower()
        # Some providers send the string "true" instead of a boolean.
        if not email or claims.get("email_verified") not in (True, "true"):
            raise SignInError(
                "The identity provider returned no verified email address"
            )
        if self._domains and email.rpartition("@")[2] not in self._domains:
            raise SignInError(f"Email domain of {email} is not allowed")
        name = str(claims.get("name") or claims.get("preferred_username") or "")
        return Person(email, name, _groups(claims.get(self._groups_claim)))

    async def _description(self) -> JSON:
        """Return the provider's discovery document, cached for an hour. Raises
        ConfigError if it is invalid or another issuer's."""
        current_time = self._clock.monotonic()
        if (
            self._discovery is None
            or current_time - self._discovery_at > _DISCOVERY_SECONDS
        ):
            discovery = await self._ask(
                "GET", f"{self._issuer}/.well-known/openid-configuration"
            )
            # The issuer must match exactly, or one provider could speak for another.
            if str(discovery.get("issuer") or "").rstrip("/") != self._issuer:
                raise ConfigError(
                    f"Issuer mismatch: expected {self._issuer!r}, got"
                    f" {str(discovery.get('issuer'))[:200]!r}"
                )
            missing = [
                name for name in _ENDPOINTS if not isinstance(discovery.get(name), str)
            ]
            if missing:
                raise ConfigError(
                    f"Discovery document of {self._issuer} lacks {', '.join(missing)}"
                )
            self._discovery, self._discovery_at = discovery, current_time
        return self._discovery

    async def _ask(self, verb: str, url: str, body: bytes = b"") -> JSON:
        """Send a request to the provider and return its JSON. Raises SignInError."""
        headers = {"accept": "application/json"}
        if body:
            headers["content-type"] = "application/x-www-form-urlencoded"
        try:
            # The operator configured the issuer, so its host may be private. Addresses
            # from its discovery document must be public or listed. Redirects are
            # refused, because the request contains secrets.
            answer = await self._egress.fetch(
                verb,
                url,
                headers=list(headers.items()),
                body=body,
                connect=_CONNECT,
                read=_READ,
                max_bytes=_MAX_BYTES,
                max_redirects=0,
                operators=self._issuer,
            )
            document = msgspec.json.decode(answer.body)
        except (
            EgressError,
            msgspec.DecodeError,
            UnicodeDecodeError,
            RecursionError,
        ) as error:
            raise SignInError(
                f"Request to the identity provider failed: {error}"
            ) from error
        if not is_object(document) or answer.status >= 400:
            reason = (
                document.get("error_description") or document.get("error")
                if is_object(document)
                else ""
            )
            raise SignInError(
                f"The identity provider returned an error:"
                f" {str(reason or answer.status)[:200]}"
            )
        return document


def _groups(claim: Any) -> tuple[str, ...]:
    """Return the groups in a claim: a list of names, or one name. Anything else names
    none."""
    # Providers send a single group as a text.
    names = [claim] if isinstance(claim, str) else claim
    if not is_array(names):
        return ()
    return tuple(name for name in names if isinstance(name, str) and name.strip())
