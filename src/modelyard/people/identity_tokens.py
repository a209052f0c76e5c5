"""Tokens and requests of OpenID Connect, using Authlib and joserfc without their
network code.

Pure functions without network or clock. `oidc` decides what is fetched and when.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from modelyard.base.errors import ConfigError
from modelyard.models.types import JSON
from modelyard.people.account import SignInError

try:
    from authlib.oauth2 import auth, rfc7636
    from authlib.oauth2.rfc6749 import parameters
    from authlib.oidc import core
    from cryptography.exceptions import UnsupportedAlgorithm
    from joserfc import jwt
    from joserfc.errors import ClaimError, JoseError, UnsupportedAlgorithmError
    from joserfc.jwk import JWKRegistry, Key, RSAKey
    from joserfc.jws import JWSRegistry, extract_compact
except ImportError as missing:
    raise ConfigError(
        "Signing in at an identity provider needs Authlib: pip install 'modelyard[oidc]'"
    ) from missing

# Authlib has no types.
_auth: Any = auth
_core: Any = core
_parameters: Any = parameters
_rfc7636: Any = rfc7636

LEEWAY = 60
"""The tolerated difference in seconds between the provider's clock and ours."""
_ALGORITHMS = frozenset(
    {
        "RS256",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES256",
        "ES384",
        "ES512",
        "EdDSA",
    }
)
"""Signatures with a key pair only. With a symmetric algorithm, anybody who knows the
client secret could forge a token."""
# RFC 7518, 3.3.
_MIN_RSA_BITS = 2048
_UNUSABLE = (
    JoseError,
    UnsupportedAlgorithm,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RecursionError,
)
"""The exceptions that the libraries raise for invalid keys and tokens."""


class _Signatures(JWSRegistry):
    """Allows only our algorithms, and headers long enough to contain certificates."""

    max_header_length = 32 << 10
    max_signature_length = 4 << 10

    def get_alg(self, name: str):
        """Return an algorithm like the library does, but without its warning about
        EdDSA's new name (RFC 9864), because providers still use the old one."""
        if name not in _ALGORITHMS:
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")
        return self.algorithms[name]


# An unknown header field is no reason to refuse a token (RFC 7515, section 4), unless
# the header lists it as critical.
_SIGNATURES = _Signatures(algorithms=_ALGORITHMS, strict_check_header=False)


def authorization_address(
    endpoint: str,
    *,
    client_id: str,
    redirect_uri: str,
    state: str,
    nonce: str,
    verifier: str,
) -> str:
    """Return the address at which a browser signs in (RFC 6749, section 4.1.1, with
    PKCE). Raises ConfigError."""
    try:
        return _parameters.prepare_grant_uri(
            endpoint,
            client_id,
            "code",
            redirect_uri=redirect_uri,
            scope="openid email profile",
            state=state,
            nonce=nonce,
            # PKCE: a code that leaks from the browser's history or a log is worthless
            # without the verifier (RFC 7636).
            code_challenge=_rfc7636.create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
    except ValueError as error:
        raise ConfigError(
            f"Invalid authorization_endpoint of the identity provider: {error}"
        ) from error


def token_request(
    *, code: str, redirect_uri: str, verifier: str, client_id: str, client_secret: str
) -> bytes:
    """Return the form of a token request (RFC 6749, section 4.1.3). A client without a
    secret sends only its id."""
    token_parameters = _parameters.prepare_token_request(
        "authorization_code",
        redirect_uri=redirect_uri,
        code=code,
        code_verifier=verifier,
    )
    method = "client_secret_post" if client_secret else "none"
    _, _, body = _auth.ClientAuth(client_id, client_secret, method).prepare(
        "POST", "", {}, token_parameters
    )
    return str(body).encode()


def read_keys(document: Mapping[str, Any]) -> Sequence[Key]:
    """Return the public keys of a key set (RFC 7517). Keys that cannot be used are
    skipped, since others may sign as well."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise SignInError(
            "Invalid key set of the identity provider: no list 'keys' (RFC 7517)"
        )
    keys = (_read_key(entry) for entry in cast("list[Any]", entries))
    return [key for key in keys if key is not None]


def _read_key(entry: Any) -> Key | None:
    """Return one key; None if it is invalid or too weak."""
    if not isinstance(entry, dict):
        return None
    try:
        key = JWKRegistry.import_key(cast("dict[str, Any]", entry))
    except _UNUSABLE:
        return None
    return None if _is_weak(key) else key


def _is_weak(key: Key) -> bool:
    """Return whether a key is so short that its signatures could be forged."""
    return isinstance(key, RSAKey) and key.raw_value.key_size < _MIN_RSA_BITS


def find_key(keys: Sequence[Key], token: str) -> Key | None:
    """Return the key that a token is signed with; None if it is not in the set.

    If the token names no key, the only matching one is used. Raises SignInError if the
    text is not a token or its algorithm is not allowed.
    """
    try:
        header = extract_compact(token.encode(), registry=_SIGNATURES).headers()
        algorithm = str(header["alg"])
        _SIGNATURES.get_alg(algorithm)
    except _UNUSABLE as error:
        raise _invalid_token_error(error) from error
    # Match by algorithm as well, so that a key is never used with an algorithm it was
    # not made for.
    matching_keys = [key for key in keys if _matches_algorithm(algorithm, key)]
    name = header.get("kid")
    if name is None:
        return matching_keys[0] if len(matching_keys) == 1 else None
    # The key in a set of one need not have an id.
    candidates = [key for key in matching_keys if key.kid == name] or [
        key for key in matching_keys if key.kid is None
    ]
    return candidates[0] if candidates else None


def _matches_algorithm(algorithm: str, key: Key) -> bool:
    """Return whether the key can be used with the algorithm."""
    try:
        _SIGNATURES.get_alg(algorithm).check_key(key)
    except _UNUSABLE:
        return False
    return True


def check_token(
    token: str,
    key: Key,
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str,
    get_time: Callable[[], float],
) -> JSON:
    """Return the claims of a token after checking its signature, issuer, audience,
    authorised party, nonce and times (OpenID Connect Core, 3.1.3.7).

    Raises SignInError.
    """
    options: Any = {
        "iss": {"essential": True, "value": issuer},
        "aud": {"essential": True, "value": client_id},
    }
    params = {"client_id": client_id, "nonce": nonce, "access_token": access_token}
    try:
        decoded = jwt.decode(token, key, registry=_SIGNATURES)
        claims = _core.CodeIDToken(decoded.claims, decoded.header, options, params)
        claims.validate(now=int(get_time()), leeway=LEEWAY)
    except ClaimError as error:
        # A wrong nonce usually means a second tab or a replayed response, so the
        # message says to try again.
        if error.claim == "nonce":
            raise SignInError(
                "Identity token is not for this sign-in (wrong nonce); try again"
            ) from error
        raise _invalid_token_error(error) from error
    except _UNUSABLE as error:
        raise _invalid_token_error(error) from error
    return decoded.claims


def _invalid_token_error(error: Exception) -> SignInError:
    """Return the error for a token that is not valid."""
    return SignInError(f"Invalid identity token: {str(error)[:200]}")
