"""Tests for ID tokens: every way to forge one or to use one of another client."""

import asyncio
import base64
import hashlib
import hmac
import json
import warnings
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from modelyard.models.types import JSON
from modelyard.people.account import SignInError
from modelyard.people.identity_keys import ProviderKeys
from modelyard.people.identity_tokens import (
    authorization_address,
    check_token,
    find_key,
    read_keys,
    token_request,
)
from modelyard.testing import FakeClock

pytestmark = pytest.mark.anyio
NOW = 1_000_000
ISSUER, CLIENT, NONCE = "https://id.example", "modelyard", "once"
RSA, OTHER = RSAKey.generate_key(2048), RSAKey.generate_key(2048)
EC, ED = ECKey.generate_key("P-256"), OKPKey.generate_key("Ed25519")
EC_LARGE = ECKey.generate_key("P-384")


def encoded(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def entry(key: Key, name: str | None = "one", **extra: Any) -> dict[str, Any]:
    key_id_field = {"kid": name} if name is not None else {}
    return {**key.as_dict(private=False), **key_id_field, **extra}


def signed(
    key: Key = RSA,
    algorithm: str = "RS256",
    header: JSON | None = None,
    **claim_changes: Any,
) -> str:
    """Return a signed token. A claim of None is left out."""
    claims = {
        "iss": ISSUER, "aud": CLIENT, "sub": "1", "iat": NOW, "exp": NOW + 60, "nonce": NONCE, "email": "ada@example.com",
        **claim_changes,
    }  # fmt: skip
    claims = {name: value for name, value in claims.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library warns about the name EdDSA
        full_header = {"alg": algorithm, "kid": "one", **(header or {})}
        rules = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        return jwt.encode(
            {name: value for name, value in full_header.items() if value is not None},
            claims,
            key,
            None,
            rules,
        )


def claims_of(token: str, *keys: dict[str, Any], access_token: str = "") -> JSON:
    key_set = read_keys({"keys": list(keys) or [entry(RSA)]})
    key = find_key(key_set, token)
    if key is None:
        raise SignInError("no key")
    return check_token(
        token,
        key,
        issuer=ISSUER,
        client_id=CLIENT,
        nonce=NONCE,
        access_token=access_token,
        get_time=lambda: NOW,
    )


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (RSA, "RS256"),
        (RSA, "RS512"),
        (RSA, "PS256"),
        (EC, "ES256"),
        (EC_LARGE, "ES384"),
        (ED, "EdDSA"),
    ],
)
def test_tokens_signed_with_a_key_pair_are_accepted(key: Key, algorithm: str):
    assert claims_of(signed(key, algorithm), entry(key))["email"] == "ada@example.com"


@pytest.mark.parametrize("claim_changes", [
    {"iss": "https://evil.example"}, {"iss": None}, {"iss": [ISSUER]}, {"iss": f"{ISSUER}/"},
    {"aud": "somebody"}, {"aud": None}, {"aud": []}, {"aud": ["somebody"]}, {"aud": {CLIENT: 1}},
    {"aud": [CLIENT, "somebody"]}, {"aud": [CLIENT, "somebody"], "azp": "somebody"}, {"azp": "somebody"},
    {"exp": None}, {"exp": NOW - 61}, {"exp": "later"}, {"exp": True}, {"iat": None}, {"iat": NOW + 61}, {"iat": "now"},
    {"nbf": NOW + 61}, {"sub": None}, {"sub": 7},
])  # fmt: skip
def test_a_token_for_another_audience_or_time_is_refused(
    claim_changes: dict[str, Any],
):
    with pytest.raises(SignInError, match="Invalid identity token"):
        claims_of(signed(**claim_changes))


@pytest.mark.parametrize("nonce", ["another", None, "", [NONCE], 1])
def test_a_token_of_another_sign_in_is_refused(nonce: Any):
    with pytest.raises(SignInError, match="not for this sign-in"):
        claims_of(signed(nonce=nonce))


@pytest.mark.parametrize("claim_changes", [
    {"exp": NOW - 59}, {"iat": NOW + 59}, {"nbf": NOW + 59}, {"aud": [CLIENT]}, {"azp": CLIENT},
    {"aud": [CLIENT, "somebody"], "azp": CLIENT},
])  # fmt: skip
def test_clock_skew_of_a_minute_and_extra_audiences_are_accepted(
    claim_changes: dict[str, Any],
):
    assert claims_of(signed(**claim_changes))["sub"] == "1"


def test_the_access_token_hash_must_match_if_present():
    half = encoded(hashlib.sha256(b"access").digest()[:16])
    assert claims_of(signed(at_hash=half), access_token="access")
    for wrong_hash in (encoded(b"x" * 16), 7, ["a"]):
        with pytest.raises(SignInError, match="Invalid identity token"):
            claims_of(signed(at_hash=wrong_hash), access_token="access")


def test_an_unsigned_token_is_refused():
    header, claims, signature = signed().split(".")
    for algorithm in ("none", "None", "NONE", "nOnE", ""):
        unsigned_header = encoded({"alg": algorithm, "kid": "one"})
        for tail in ("", signature):
            with pytest.raises(SignInError, match="Invalid identity token"):
                claims_of(f"{unsigned_header}.{claims}.{tail}")
    with pytest.raises(SignInError, match="Invalid identity token"):
        claims_of(f"{header}.{claims}.")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_key_confusion_is_refused(algorithm: str):
    """The classic key confusion attack: the public key's text as an HMAC secret."""
    for secret in (
        RSA.as_pem(private=False),
        RSA.as_der(private=False),
        json.dumps(entry(RSA)).encode(),
    ):
        text = signed(RSA).split(".")
        forged = f"{encoded({'alg': algorithm, 'kid': 'one'})}.{text[1]}"
        digest = getattr(hashlib, f"sha{algorithm[2:]}")
        token = f"{forged}.{encoded(hmac.digest(secret, forged.encode(), digest))}"
        with pytest.raises(SignInError, match="Invalid identity token"):
            claims_of(token)


def test_a_symmetric_key_in_the_key_set_is_ignored():
    shared = OctKey.import_key("a secret that is long enough for it")
    with pytest.raises(SignInError, match="Invalid identity token"):
        claims_of(
            signed(shared, "HS256"), entry(RSA), {**shared.as_dict(), "kid": "one"}
        )


@pytest.mark.parametrize("header", [
    {"jwk": OTHER.as_dict(private=False)}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/cert"},
])  # fmt: skip
def test_a_key_embedded_in_a_token_is_not_used(header: dict[str, Any]):
    with pytest.raises(SignInError, match="Invalid identity token"):
        claims_of(signed(OTHER, header=header))


def test_a_modified_token_is_refused():
    header, claims, signature = signed().split(".")
    forged = encoded(
        {
            **json.loads(base64.urlsafe_b64decode(claims + "==")),
            "email": "eve@example.com",
        }
    )
    with pytest.raises(SignInError, match="Invalid identity token"):
        claims_of(f"{header}.{forged}.{signature}")
    with pytest.raises(SignInError, match="Invalid identity token"):
        claims_of(signed(OTHER))


def test_unknown_critical_headers_are_refused_and_others_ignored():
    assert claims_of(signed(header={"x-note": "hello"}))
    token = signed()
    forged = encoded({"alg": "RS256", "kid": "one", "crit": ["x-must"], "x-must": 1})
    with pytest.raises(SignInError, match="Invalid identity token"):
        claims_of(".".join([forged, *token.split(".")[1:]]))


@pytest.mark.parametrize("token", [
    "", ".", "..", "a.b.c", "🙂.🙂.🙂", f"{encoded([])}.x.y", f"{encoded({'alg': ['RS256']})}.x.y", f"{encoded({})}.x.y",
    f"{encoded(b'[' * 20_000)}.x.y", f"{encoded({'alg': 'RS256', 'kid': 'a' * 100_000})}.x.y",
    f"{encoded({'alg': 'RS256', 'kid': {}})}.x.y", "a" * 1_000_000, "a.b.c.d.e",
])  # fmt: skip
def test_a_malformed_token_is_refused(token: str):
    with pytest.raises(SignInError):
        claims_of(token)


def test_deeply_nested_claims_are_refused():
    deep = b'{"a":' + b"[" * 50_000 + b"}"
    with pytest.raises(SignInError, match="Invalid identity token"):
        claims_of(jws.serialize_compact({"alg": "RS256", "kid": "one"}, deep, RSA))


def names(keys: Sequence[Key]) -> list[str | None]:
    return [key.kid for key in keys]


def test_an_unusable_key_does_not_hide_others():
    with warnings.catch_warnings():
        # The library warns about the weak key, which is refused.
        warnings.simplefilter("ignore")
        weak = RSAKey.generate_key(1024)
        broken: list[Any] = [
            None, 7, [], {}, {"kty": "new", "kid": "x"}, {"kty": ["RSA"]}, {"kty": "RSA", "n": "!", "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, entry(RSA, "x", use="odd", key_ops=["verify"]),
            entry(weak, "weak"),
        ]  # fmt: skip
        assert names(read_keys({"keys": [*broken, entry(RSA)]})) == ["one"]
    for document in ({}, {"keys": None}, {"keys": {}}):
        with pytest.raises(SignInError, match="Invalid key set"):
            read_keys(document)


def test_the_key_matches_the_tokens_key_id_and_algorithm():
    token = signed()
    keys = [entry(OTHER, "two"), entry(RSA, "one")]
    assert find_key(read_keys({"keys": keys}), token).kid == "one"  # type: ignore[union-attr]
    unfit = (
        [entry(OTHER, "two")], [entry(RSA, use="enc")], [entry(RSA, alg="PS256")], [entry(EC)], [],
    )  # fmt: skip
    for keys in unfit:
        assert find_key(read_keys({"keys": keys}), token) is None
    assert find_key(read_keys({"keys": [entry(EC_LARGE)]}), signed(EC, "ES256")) is None


def test_a_token_without_a_key_id_uses_the_only_matching_key():
    token = signed(header={"kid": None})
    assert (
        find_key(read_keys({"keys": [entry(EC, "two"), entry(RSA, "one")]}), token).kid
        == "one"
    )  # type: ignore[union-attr]
    assert (
        find_key(read_keys({"keys": [entry(OTHER, "two"), entry(RSA, "one")]}), token)
        is None
    )
    assert find_key(read_keys({"keys": [entry(RSA, None)]}), signed()) is not None


def test_the_redirect_has_the_challenge_and_not_the_verifier():
    address = authorization_address(
        "https://id.example/authorize?tenant=a%20b", client_id="c & d", redirect_uri="https://here.example/back?x=1",
        state="s", nonce="n", verifier="v" * 43,
    )  # fmt: skip
    query = {
        name: values[0] for name, values in parse_qs(urlsplit(address).query).items()
    }
    challenge = encoded(hashlib.sha256(b"v" * 43).digest())
    assert query == {
        "tenant": "a b", "response_type": "code", "client_id": "c & d", "redirect_uri": "https://here.example/back?x=1",
        "scope": "openid email profile", "state": "s", "nonce": "n", "code_challenge": challenge,
        "code_challenge_method": "S256",
    }  # fmt: skip


def test_the_token_request_has_the_verifier_and_the_secret():
    token_fields = {
        "code": "c&d=e",
        "redirect_uri": "https://here.example",
        "verifier": "v",
        "client_id": "me",
    }
    with_secret = parse_qs(
        token_request(**token_fields, client_secret="h&ush").decode()
    )
    assert with_secret == {
        "grant_type": ["authorization_code"], "redirect_uri": ["https://here.example"], "code": ["c&d=e"],
        "code_verifier": ["v"], "client_id": ["me"], "client_secret": ["h&ush"],
    }  # fmt: skip
    without_secret = parse_qs(token_request(**token_fields, client_secret="").decode())
    assert without_secret == {
        name: value for name, value in with_secret.items() if name != "client_secret"
    }


# ------------------------------------------------------------------------- key rotation


class KeySets:
    """A provider's key set that counts how often it is requested."""

    def __init__(self) -> None:
        self.entries = [entry(RSA, "one")]
        self.requests = 0
        self.is_away = False

    async def __call__(self, address: str) -> JSON:
        self.requests += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise SignInError("the identity provider cannot be asked")
        return {"keys": self.entries}


async def test_a_new_key_is_fetched_but_not_for_every_unknown_id():
    sets, clock = KeySets(), FakeClock()
    keys = ProviderKeys(sets, clock)
    for _ in range(3):
        assert (await keys.find("a", signed())).kid == "one"
    assert sets.requests == 1
    clock.advance(30)
    sets.entries = [entry(RSA, "one"), entry(OTHER, "two")]
    assert (await keys.find("a", signed(OTHER, header={"kid": "two"}))).kid == "two"
    assert sets.requests == 2
    # Unknown key ids cause at most one request to the provider in 30 seconds.
    for number in range(20):
        with pytest.raises(SignInError, match="does not match any key"):
            await keys.find("a", signed(OTHER, header={"kid": f"made-up-{number}"}))
        clock.advance(3)
    assert sets.requests == 3


async def test_a_withdrawn_key_is_accepted_for_at_most_five_minutes():
    sets, clock = KeySets(), FakeClock()
    keys = ProviderKeys(sets, clock)
    await keys.find("a", signed())
    sets.entries = [entry(OTHER, "two")]
    clock.advance(300)
    with pytest.raises(SignInError, match="does not match any key"):
        await keys.find("a", signed())


async def test_concurrent_sign_ins_fetch_the_keys_once():
    sets = KeySets()
    keys = ProviderKeys(sets, FakeClock())
    assert (
        len(await asyncio.gather(*(keys.find("a", signed()) for _ in range(20)))) == 20
    )
    assert sets.requests == 1


async def test_an_unavailable_provider_is_asked_again_at_the_next_sign_in():
    sets, clock = KeySets(), FakeClock()
    sets.is_away = True
    keys = ProviderKeys(sets, clock)
    with pytest.raises(SignInError, match="cannot be asked"):
        await keys.find("a", signed())
    sets.is_away = False
    clock.advance(1)
    assert (await keys.find("a", signed())).kid == "one"
