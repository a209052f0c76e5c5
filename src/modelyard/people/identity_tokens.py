"""What an identity provider signs, and what is asked of it: Authlib's and joserfc's code, without their networks.

Pure: no network, no clock. Who fetches and when is `oidc`'s to say.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from modelyard.base.errors import ConfigError
from modelyard.models.types import JSON
from modelyard.people.account import SignInError

try:
    from authlib.oauth2.auth import ClientAuth
    from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
    from authlib.oauth2.rfc7636 import create_s256_code_challenge
    from authlib.oidc.core import CodeIDToken
    from cryptography.exceptions import UnsupportedAlgorithm
    from joserfc import jwt
    from joserfc.errors import ClaimError, JoseError, UnsupportedAlgorithmError
    from joserfc.jwk import JWKRegistry, Key, RSAKey
    from joserfc.jws import JWSRegistry, extract_compact
except ImportError as missing:
    raise ConfigError("signing in at an identity provider needs Authlib: pip install 'modelyard[oidc]'") from missing

LEEWAY = 60
"""Seconds that the provider's clock and ours may differ by."""
_ALGORITHMS = frozenset({
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
})  # fmt: skip
"""Signatures with a key pair alone: a client's secret is no key that only the provider has."""
_LEAST_RSA_BITS = 2048
_UNUSABLE = (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What the libraries raise for keys and tokens that are none."""


class _Signatures(JWSRegistry):
    """Our algorithms, whatever the library recommends; a header may be as long as one with certificates in it."""

    max_header_length = 32 << 10
    max_signature_length = 4 << 10

    def get_alg(self, name: str):
        """As the library's, but without its warning about EdDSA's new name (RFC 9864): providers still use the old."""
        if name not in _ALGORITHMS:
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")
        return self.algorithms[name]


# A header that says what we do not know is no reason to refuse (RFC 7515, 4), unless it says that it must be known.
_SIGNATURES = _Signatures(algorithms=_ALGORITHMS, strict_check_header=False)


def authorization_address(
    endpoint: str, *, client_id: str, redirect_uri: str, state: str, nonce: str, verifier: str
) -> str:
    """Where a browser is sent to sign in (RFC 6749, 4.1.1, with PKCE). Raises ConfigError."""
    try:
        return prepare_grant_uri(
            endpoint, client_id, "code", redirect_uri=redirect_uri, scope="openid email profile", state=state,
            nonce=nonce, code_challenge=create_s256_code_challenge(verifier), code_challenge_method="S256",
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"the identity provider's authorization_endpoint is no address: {error}") from error


def token_request(*, code: str, redirect_uri: str, verifier: str, client_id: str, client_secret: str) -> bytes:
    """The form that is sent for a token (RFC 6749, 4.1.3); a client without a secret shows its name alone."""
    form = prepare_token_request("authorization_code", redirect_uri=redirect_uri, code=code, code_verifier=verifier)
    method = "client_secret_post" if client_secret else "none"
    _, _, body = ClientAuth(client_id, client_secret, method).prepare("POST", "", {}, form)
    return str(body).encode()


def read_keys(document: Mapping[str, Any]) -> Sequence[Key]:
    """The public keys of a key set (RFC 7517). One that cannot be used is left out: others sign too."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise SignInError("the identity provider's keys are no key set")
    keys = (_read_key(entry) for entry in cast("list[Any]", entries))
    return [key for key in keys if key is not None]


def _read_key(entry: Any) -> Key | None:
    if not isinstance(entry, dict):
        return None
    try:
        key = JWKRegistry.import_key(cast("dict[str, Any]", entry))
    except _UNUSABLE:
        return None
    is_weak = isinstance(key, RSAKey) and key.raw_value.key_size < _LEAST_RSA_BITS
    return None if is_weak else key


def find_key(keys: Sequence[Key], token: str) -> Key | None:
    """The key that a token says it is signed with; None where it is not among them.

    A token that names no key has the only one that fits. Raises SignInError for what is no token, or is signed in a
    way that proves nothing.
    """
    try:
        header = extract_compact(token.encode(), registry=_SIGNATURES).headers()
        algorithm = str(header["alg"])
        _SIGNATURES.get_alg(algorithm)
    except _UNUSABLE as error:
        raise _refused(error) from error
    fitting = [key for key in keys if _fits(algorithm, key)]
    name = header.get("kid")
    if name is None:
        return fitting[0] if len(fitting) == 1 else None
    # A set of a single key need not name it.
    named = [key for key in fitting if key.kid == name] or [key for key in fitting if key.kid is None]
    return named[0] if named else None


def _fits(algorithm: str, key: Key) -> bool:
    try:
        _SIGNATURES.get_alg(algorithm).check_key(key)
    except _UNUSABLE:
        return False
    return True


def check_token(
    token: str, key: Key, *, issuer: str, client_id: str, nonce: str, access_token: str, now: Callable[[], float]
) -> JSON:
    """What a token claims, once its signature, issuer, audience, party, nonce and times hold (OpenID Connect, 3.1.3.7).

    Raises SignInError.
    """
    options: Any = {"iss": {"essential": True, "value": issuer}, "aud": {"essential": True, "value": client_id}}
    params = {"client_id": client_id, "nonce": nonce, "access_token": access_token}
    try:
        decoded = jwt.decode(token, key, registry=_SIGNATURES)
        claims = CodeIDToken(decoded.claims, decoded.header, options, params)
        claims.validate(now=int(now()), leeway=LEEWAY)
    except ClaimError as error:
        if error.claim == "nonce":
            raise SignInError("what the identity provider says is not for this sign-in: try again") from error
        raise _refused(error) from error
    except _UNUSABLE as error:
        raise _refused(error) from error
    return decoded.claims


def _refused(error: Exception) -> SignInError:
    return SignInError(f"what the identity provider says does not hold: {str(error)[:200]}")
