"""Tests for sign-in with an identity provider, including everything it can do wrong.

A mock provider signs real tokens.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from modelyard.base.settings import OidcSettings
from modelyard.tenancy.reader import Reader
from modelyard.testing import Answer, Upstream, UpstreamRequest, json_answer
from tests.gateway.conftest import Running

Start = Callable[..., Running]
KEY, OTHER = (RSAKey.generate_key(2048) for _ in range(2))
SECRET = "s3cret-s3cret-s3cret-s3cret-s3cret"


class Provider:
    """A mock identity provider: `says` overrides claims, `signs` is the signing key."""

    def __init__(self) -> None:
        self.says: dict[str, Any] = {}
        self.signs: Any = KEY
        self.algorithm = "RS256"
        self.name = "one"
        self.keys = {"one": KEY}
        self.key_requests = 0
        self.issuer = ""
        self.asked: dict[str, str] = {}
        self.nonce = ""
        self.status = 200

    def __call__(self, request: UpstreamRequest) -> Answer:
        if request.path.endswith("/.well-known/openid-configuration"):
            return json_answer({
                "issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token", "jwks_uri": f"{self.issuer}/keys",
            })  # fmt: skip
        if request.path.endswith("/keys"):
            self.key_requests += 1
            entries = [
                {**key.as_dict(), "kid": name, "use": "sig", "alg": "RS256"}
                for name, key in self.keys.items()
            ]
            return json_answer({"keys": entries})
        self.asked = {
            name: values[0] for name, values in parse_qs(request.body.decode()).items()
        }
        if self.status != 200:
            return json_answer(
                {"error": "invalid_grant", "error_description": "the code is spent"},
                status=self.status,
            )
        current_time = int(time.time())
        claims = {
            "iss": self.issuer, "aud": "modelyard", "sub": "1", "iat": current_time, "exp": current_time + 60, "nonce": self.nonce,
            "email": "Ada@example.com", "email_verified": True, "name": "Ada", **self.says,
        }  # fmt: skip
        token = jwt.encode(
            {"alg": self.algorithm, "kid": self.name},
            claims,
            self.signs,
            [self.algorithm],
        )
        return json_answer(
            {"access_token": "x", "token_type": "Bearer", "id_token": token}
        )


@pytest.fixture
def provider() -> Iterator[Provider]:
    played = Provider()
    with Upstream(played) as upstream:
        played.issuer = upstream.url
        yield played


@pytest.fixture
def start(
    start_gateway: Start, provider: Provider
) -> Iterator[Callable[..., httpx.Client]]:
    clients: list[httpx.Client] = []

    def open_client(**overrides: Any) -> httpx.Client:
        usual: dict[str, Any] = {
            "issuer": provider.issuer, "client_id": "modelyard", "client_secret": "s3cret-s3cret", "role": "viewer",
        }  # fmt: skip
        settings = OidcSettings(**{**usual, **overrides})
        clients.append(
            httpx.Client(base_url=start_gateway(oidc=settings).origin, timeout=20)
        )
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()


def sign_in(client: httpx.Client, provider: Provider, **changes: str) -> httpx.Response:
    """Follow the redirect to the provider and back, as a browser does."""
    redirect = client.get("/console/api/oidc/begin")
    assert redirect.status_code == 303, redirect.text
    location = urlsplit(redirect.headers["location"])
    query = {name: values[0] for name, values in parse_qs(location.query).items()}
    assert (query["response_type"], query["code_challenge_method"]) == ("code", "S256")
    provider.nonce = query["nonce"]
    answered = client.get(
        "/console/api/oidc/callback",
        params={"code": "c", "state": query["state"], **changes},
    )
    if provider.asked:
        digest = hashlib.sha256(provider.asked["code_verifier"].encode()).digest()
        assert (
            base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            == query["code_challenge"]
        )
        assert (
            provider.asked["redirect_uri"]
            == query["redirect_uri"]
            == f"{client.base_url}/console/api/oidc/callback"
        )
        assert provider.asked["client_secret"] == "s3cret-s3cret"
    return answered


def test_a_provider_user_is_signed_in_and_keeps_one_account(
    start: Any, provider: Provider
):
    client = start()
    assert (
        client.get("/console/api/session").json()["elsewhere"].startswith("127.0.0.1")
    )
    for _ in range(2):
        answered = sign_in(client, provider)
        assert (answered.status_code, answered.headers["location"]) == (303, "/console")
        cookie = answered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        account = client.get("/console/api/session").json()["account"]
        assert (account["email"], account["name"], account["role"]) == (
            "ada@example.com",
            "Ada",
            "viewer",
        )
        provider.says = {"name": "Somebody else"}
    refused = client.post("/console/api/session", json={"email": "ada@example.com", "password": ""},
                          headers={"origin": str(client.base_url).rstrip("/")})  # fmt: skip
    assert refused.status_code == 401, "an account without a password takes none"


@pytest.mark.parametrize(("claim", "groups"), [
    (["staff", "Board", 7, " "], {"group:staff", "group:Board"}), ("staff", {"group:staff"}),
    ({"a": 1}, set()), (7, set()), (None, set()),
])  # fmt: skip
def test_the_providers_groups_count_for_documents(
    start_gateway: Start, provider: Provider, claim: Any, groups: set[str]
):
    """Those of the last sign-in, in the claim that the settings name."""
    settings = OidcSettings(
        issuer=provider.issuer, client_id="modelyard", client_secret="s3cret-s3cret",
        role="viewer", groups_claim="roles",
    )  # fmt: skip
    running = start_gateway(oidc=settings)
    memberships = running.yard.services.tenancy.memberships
    ada = Reader(users=("ada@example.com",))
    always = {"everyone", "user:ada@example.com"}
    with httpx.Client(base_url=running.origin, timeout=20) as client:
        for says, expected in (
            ({"roles": claim, "groups": ["no"]}, groups),
            ({}, set()),
        ):
            provider.says = says
            assert sign_in(client, provider).status_code == 303
            assert memberships.principals_of("default", ada) == always | expected


@pytest.mark.parametrize(("claim_overrides", "signing_key", "expected_text"), [
    ({"nonce": "another"}, KEY, "not for this sign-in"), ({"aud": "somebody"}, KEY, "Invalid identity token"),
    ({"iss": "https://evil.example"}, KEY, "Invalid identity token"), ({"exp": 1}, KEY, "Invalid identity token"), ({}, OTHER, "Invalid identity token"),
    ({"exp": None}, KEY, "Invalid identity token"), ({"iat": None}, KEY, "Invalid identity token"), ({"iat": 1 << 40}, KEY, "Invalid identity token"),
    ({"aud": ["modelyard", "somebody"]}, KEY, "Invalid identity token"), ({"azp": "somebody"}, KEY, "Invalid identity token"),
    ({"email_verified": False}, KEY, "verified"), ({"email": ""}, KEY, "verified"),
])  # fmt: skip
def test_what_does_not_hold_signs_nobody_in(
    start: Any,
    provider: Provider,
    claim_overrides: Any,
    signing_key: Any,
    expected_text: str,
):
    client = start()
    provider.says, provider.signs = claim_overrides, signing_key
    answered = sign_in(client, provider)
    assert (answered.status_code, expected_text in answered.text) == (401, True), (
        answered.text
    )
    assert "modelyard-session" not in client.cookies
    assert "default-src 'none'" in answered.headers["content-security-policy"]


def test_the_clients_own_secret_signs_nothing(start: Any, provider: Provider):
    client = start()
    provider.signs, provider.algorithm = OctKey.import_key(SECRET), "HS256"
    assert "Invalid identity token" in sign_in(client, provider).text


def test_new_signing_keys_are_fetched_and_keys_are_cached(
    start: Any, provider: Provider
):
    client = start()
    for _ in range(2):
        assert sign_in(client, provider).status_code == 303
    assert provider.key_requests == 1
    provider.keys, provider.signs, provider.name = (
        {"one": KEY, "two": OTHER},
        OTHER,
        "two",
    )
    # The keys were just fetched, and are not fetched again for every such token.
    refused = sign_in(client, provider)
    assert (refused.status_code, "does not match any key" in refused.text) == (
        401,
        True,
    )
    assert provider.key_requests == 1


def test_a_way_back_that_was_not_begun_here_leads_nowhere(
    start: Any, provider: Provider
):
    client = start()
    assert (
        "not started in this browser" in sign_in(client, provider, state="forged").text
    )
    client.cookies.clear()
    answered = client.get("/console/api/oidc/callback?code=c&state=s")
    assert (answered.status_code, "not found or expired" in answered.text) == (
        401,
        True,
    )
    client.cookies.set("modelyard-oidc", "bm8ganNvbg==")
    assert client.get("/console/api/oidc/callback?code=c&state=s").status_code == 401
    error_page = client.get(
        "/console/api/oidc/callback?error=access_denied&error_description=<script>no</script>"
    )
    assert "&lt;script&gt;no" in error_page.text


def test_the_settings_decide_who_may_sign_in(start: Any, provider: Provider):
    assert "No account exists" in sign_in(start(role=""), provider).text
    assert "is not allowed" in sign_in(start(domains=["corp.example"]), provider).text
    provider.status = 400
    assert "the code is spent" in sign_in(start(), provider).text


def test_a_provider_that_is_another_or_away_is_said(start: Any, provider: Provider):
    client = start()
    provider.issuer = "https://evil.example"
    assert "Issuer mismatch" in client.get("/console/api/oidc/begin").text
    assert (
        "Request to the identity provider failed"
        in start(issuer="http://127.0.0.1:9/x").get("/console/api/oidc/begin").text
    )


def test_without_a_provider_there_are_no_oidc_routes(start_gateway: Start):
    with httpx.Client(base_url=start_gateway().origin) as client:
        assert client.get("/console/api/oidc/begin").status_code == 404
        assert "elsewhere" not in client.get("/console/api/session").json()


def test_an_invitation_of_another_tenant_does_not_capture_a_provider_user(
    start: Any, provider: Provider
):
    """An administrator can accept an invitation for any address.

    So the account does not prove who owns the address.
    """
    client = start()
    origin = {"origin": str(client.base_url).rstrip("/")}
    assert client.post("/admin/v1/tenants", json={"name": "acme"}).status_code == 201
    invited = client.post(
        "/console/api/invitations", json={"email": "ada@example.com", "role": "viewer"},
        headers={"x-modelyard-tenant": "acme"},
    )  # fmt: skip
    accepted = {
        "token": invited.json()["token"],
        "name": "Ada",
        "password": "a long enough word",
    }
    with httpx.Client(base_url=client.base_url, timeout=20) as other_client:
        response = other_client.post(
            "/console/api/invitations/accept", json=accepted, headers=origin
        )
        assert (response.status_code, response.json()["account"]["tenant"]) == (
            201,
            "acme",
        )
        refused = sign_in(client, provider)
        assert (refused.status_code, "sign in with the password" in refused.text) == (
            401,
            True,
        ), refused.text
        assert "modelyard-session" not in client.cookies
        # A user who is signed in to another account does not link this one.
        provider.says = {"email": "bob@example.com"}
        assert sign_in(client, provider).status_code == 303
        provider.says = {}
        assert sign_in(client, provider).status_code == 401
        # A user who signed in with the password and has the address links them, once.
        assert sign_in(other_client, provider).status_code == 303
        client.cookies.clear()
        assert sign_in(client, provider).status_code == 303
        assert client.get("/console/api/session").json()["account"]["tenant"] == "acme"
