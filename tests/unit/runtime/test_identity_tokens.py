"""What an identity provider signs: each way in which a token may be forged or meant for somebody else."""

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
    """A token; None takes a claim away."""
    claims = {
        "iss": ISSUER, "aud": CLIENT, "sub": "1", "iat": NOW, "exp": NOW + 60, "nonce": NONCE, "email": "ada@example.com",
        **claim_changes,
    }  # fmt: skip
    claims = {name: value for name, value in claims.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about EdDSA's name
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
def test_what_a_provider_signs_with_a_key_pair_is_believed(key: Key, algorithm: str):
    assert claims_of(signed(key, algorithm), entry(key))["email"] == "ada@example.com"


@pytest.mark.parametrize("claim_changes", [
    {"iss": "https://evil.example"}, {"iss": None}, {"iss": [ISSUER]}, {"iss": f"{ISSUER}/"},
    {"aud": "somebody"}, {"aud": None}, {"aud": []}, {"aud": ["somebody"]}, {"aud": {CLIENT: 1}},
    {"aud": [CLIENT, "somebody"]}, {"aud": [CLIENT, "somebody"], "azp": "somebody"}, {"azp": "somebody"},
    {"exp": None}, {"exp": NOW - 61}, {"exp": "later"}, {"exp": True}, {"iat": None}, {"iat": NOW + 61}, {"iat": "now"},
    {"nbf": NOW + 61}, {"sub": None}, {"sub": 7},
])  # fmt: skip
def test_a_token_for_somebody_else_or_of_another_time_does_not_hold(
    claim_changes: dict[str, Any],
):
    with pytest.raises(SignInError, match="invalid identity token"):
        claims_of(signed(**claim_changes))


@pytest.mark.parametrize("nonce", ["another", None, "", [NONCE], 1])
def test_a_token_of_another_sign_in_is_not_for_this_one(nonce: Any):
    with pytest.raises(SignInError, match="not for this sign-in"):
        claims_of(signed(nonce=nonce))


@pytest.mark.parametrize("claim_changes", [
    {"exp": NOW - 59}, {"iat": NOW + 59}, {"nbf": NOW + 59}, {"aud": [CLIENT]}, {"azp": CLIENT},
    {"aud": [CLIENT, "somebody"], "azp": CLIENT},
])  # fmt: skip
def test_clocks_may_differ_by_a_minute_and_others_may_be_meant_too(
    claim_changes: dict[str, Any],
):
    assert claims_of(signed(**claim_changes))["sub"] == "1"


def test_the_hash_of_the_access_token_must_be_its_own_where_it_is_said():
    half = encoded(hashlib.sha256(b"access").digest()[:16])
    assert claims_of(signed(at_hash=half), access_token="access")
    for wrong_hash in (encoded(b"x" * 16), 7, ["a"]):
        with pytest.raises(SignInError, match="invalid identity token"):
            claims_of(signed(at_hash=wrong_hash), access_token="access")


def test_a_token_without_a_signature_proves_nothing():
    header, claims, signature = signed().split(".")
    for algorithm in ("none", "None", "NONE", "nOnE", ""):
        unsigned_header = encoded({"alg": algorithm, "kid": "one"})
        for tail in ("", signature):
            with pytest.raises(SignInError, match="invalid identity token"):
                claims_of(f"{unsigned_header}.{claims}.{tail}")
    with pytest.raises(SignInError, match="invalid identity token"):
        claims_of(f"{header}.{claims}.")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_no_secret_to_sign_with(algorithm: str):
    """The key confusion of old: whoever knows the public key could sign with its text."""
    for secret in (
        RSA.as_pem(private=False),
        RSA.as_der(private=False),
        json.dumps(entry(RSA)).encode(),
    ):
        text = signed(RSA).split(".")
        forged = f"{encoded({'alg': algorithm, 'kid': 'one'})}.{text[1]}"
        digest = getattr(hashlib, f"sha{algorithm[2:]}")
        token = f"{forged}.{encoded(hmac.digest(secret, forged.encode(), digest))}"
        with pytest.raises(SignInError, match="invalid identity token"):
            claims_of(token)


def test_a_shared_key_in_the_key_set_signs_nothing():
    shared = OctKey.import_key("a secret that is long enough for it")
    with pytest.raises(SignInError, match="invalid identity token"):
        claims_of(
            signed(shared, "HS256"), entry(RSA), {**shared.as_dict(), "kid": "one"}
        )


@pytest.mark.parametrize("header", [
    {"jwk": OTHER.as_dict(private=False)}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/cert"},
])  # fmt: skip
def test_a_key_that_a_token_brings_along_is_not_used(header: dict[str, Any]):
    with pytest.raises(SignInError, match="invalid identity token"):
        claims_of(signed(OTHER, header=header))


def test_a_changed_token_does_not_hold():
    header, claims, signature = signed().split(".")
    forged = encoded(
        {
            **json.loads(base64.urlsafe_b64decode(claims + "==")),
            "email": "eve@example.com",
        }
    )
    with pytest.raises(SignInError, match="invalid identity token"):
        claims_of(f"{header}.{forged}.{signature}")
    with pytest.raises(SignInError, match="invalid identity token"):
        claims_of(signed(OTHER))


def test_what_a_header_demands_to_be_known_must_be_and_what_it_merely_says_need_not():
    assert claims_of(signed(header={"x-note": "hello"}))
    token = signed()
    forged = encoded({"alg": "RS256", "kid": "one", "crit": ["x-must"], "x-must": 1})
    with pytest.raises(SignInError, match="invalid identity token"):
        claims_of(".".join([forged, *token.split(".")[1:]]))


@pytest.mark.parametrize("token", [
    "", ".", "..", "a.b.c", "🙂.🙂.🙂", f"{encoded([])}.x.y", f"{encoded({'alg': ['RS256']})}.x.y", f"{encoded({})}.x.y",
    f"{encoded(b'[' * 20_000)}.x.y", f"{encoded({'alg': 'RS256', 'kid': 'a' * 100_000})}.x.y",
    f"{encoded({'alg': 'RS256', 'kid': {}})}.x.y", "a" * 1_000_000, "a.b.c.d.e",
])  # fmt: skip
def test_what_is_no_token_is_said(token: str):
    with pytest.raises(SignInError):
        claims_of(token)


def test_claims_that_are_nested_without_end_are_refused():
    deep = b'{"a":' + b"[" * 50_000 + b"}"
    with pytest.raises(SignInError, match="invalid identity token"):
        claims_of(jws.serialize_compact({"alg": "RS256", "kid": "one"}, deep, RSA))


def names(keys: Sequence[Key]) -> list[str | None]:
    return [key.kid for key in keys]


def test_a_key_that_cannot_be_used_hides_no_other():
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the library warns about the weak one, which we refuse
        weak = RSAKey.generate_key(1024)
        broken: list[Any] = [
            None, 7, [], {}, {"kty": "new", "kid": "x"}, {"kty": ["RSA"]}, {"kty": "RSA", "n": "!", "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, entry(RSA, "x", use="odd", key_ops=["verify"]),
            entry(weak, "weak"),
        ]  # fmt: skip
        assert names(read_keys({"keys": [*broken, entry(RSA)]})) == ["one"]
    for document in ({}, {"keys": None}, {"keys": {}}):
        with pytest.raises(SignInError, match="invalid key set"):
            read_keys(document)


def test_the_key_is_the_one_that_a_token_names_and_that_may_sign_so():
    token = signed()
    keys = [entry(OTHER, "two"), entry(RSA, "one")]
    assert find_key(read_keys({"keys": keys}), token).kid == "one"  # type: ignore[union-attr]
    unfit = (
        [entry(OTHER, "two")], [entry(RSA, use="enc")], [entry(RSA, alg="PS256")], [entry(EC)], [],
    )  # fmt: skip
    for keys in unfit:
        assert find_key(read_keys({"keys": keys}), token) is None
    assert find_key(read_keys({"keys": [entry(EC_LARGE)]}), signed(EC, "ES256")) is None


def test_a_token_that_names_no_key_has_the_only_one_that_fits():
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


def test_the_browser_is_sent_with_a_challenge_and_not_with_what_answers_it():
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


def test_the_form_for_a_token_holds_what_proves_who_asks():
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


# ------------------------------------------------------------------------------------------------ keys that change


class KeySets:
    """A provider's key set, and how often it was asked for."""

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


async def test_a_new_key_is_fetched_once_it_is_used_but_not_for_every_unknown_name():
    sets, clock = KeySets(), FakeClock()
    keys = ProviderKeys(sets, clock)
    for _ in range(3):
        assert (await keys.find("a", signed())).kid == "one"
    assert sets.requests == 1
    clock.advance(30)
    sets.entries = [entry(RSA, "one"), entry(OTHER, "two")]
    assert (await keys.find("a", signed(OTHER, header={"kid": "two"}))).kid == "two"
    assert sets.requests == 2
    for number in range(
        20
    ):  # names that nobody has cost the provider one question in half a minute
        with pytest.raises(SignInError, match="does not match any key"):
            await keys.find("a", signed(OTHER, header={"kid": f"made-up-{number}"}))
        clock.advance(3)
    assert sets.requests == 3


async def test_a_key_that_is_withdrawn_is_believed_for_five_minutes_at_most():
    sets, clock = KeySets(), FakeClock()
    keys = ProviderKeys(sets, clock)
    await keys.find("a", signed())
    sets.entries = [entry(OTHER, "two")]
    clock.advance(300)
    with pytest.raises(SignInError, match="does not match any key"):
        await keys.find("a", signed())


async def test_many_who_come_at_once_ask_for_keys_once():
    sets = KeySets()
    keys = ProviderKeys(sets, FakeClock())
    assert (
        len(await asyncio.gather(*(keys.find("a", signed()) for _ in range(20)))) == 20
    )
    assert sets.requests == 1


async def test_a_provider_that_is_away_is_asked_again_by_the_next_who_comes():
    sets, clock = KeySets(), FakeClock()
    sets.is_away = True
    keys = ProviderKeys(sets, clock)
    with pytest.raises(SignInError, match="cannot be asked"):
        await keys.find("a", signed())
    sets.is_away = False
    clock.advance(1)
    assert (await keys.find("a", signed())).kid == "one"
