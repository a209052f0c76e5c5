"""Tests for tools with OAuth: redirects in a browser, tokens per user, refreshing."""

from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.tenancy.resource_types import ToolCredential
from tests.plugins.conftest import PluginGateway

NAME = "modelyard/toolbox/toolbox"


class Connected:
    def __init__(self, gateway: PluginGateway) -> None:
        self.gateway = gateway
        self.credentials = gateway.parts.credentials
        self.origin = gateway.running.origin
        self.admin = httpx.Client(base_url=f"{self.origin}/admin/v1/oauth", timeout=30)

    def browser(self) -> httpx.Client:
        return httpx.Client(base_url=self.origin, timeout=30)

    def begin(self, **body: str) -> str:
        answer = self.admin.post("/connections", json={"provider": NAME, **body})
        assert answer.status_code == 201, answer.text
        return answer.json()["url"]

    def connect(self, code: str, **body: str) -> None:
        with self.browser() as browser:
            redirect = browser.get(self.begin(**body))
            assert redirect.status_code == 302
            back = parse_qs(urlsplit(redirect.headers["location"]).query)[
                "redirect_uri"
            ][0]
            assert browser.get(back, params={"code": code}).status_code == 200

    def token(self, user: str = "", id: str = "") -> object:
        return self.gateway.run_on_loop(
            self.credentials.find("default", NAME, id, user)
        )[0].get("token")


@pytest.fixture
def connected(plugged: Callable[..., PluginGateway]) -> Iterator[Connected]:
    gateway = plugged()
    gateway.install("toolbox")
    connection = Connected(gateway)
    created_client = connection.admin.post(
        "/clients", json={"provider": NAME, "values": {"client_id": "yard"}}
    )
    assert (created_client.status_code, created_client.json()["redirect_uri"]) == (
        201,
        f"{connection.origin}/oauth/callback/{NAME}",
    )
    yield connection
    connection.admin.close()


def test_the_oauth_flow_yields_a_token(connected: Connected):
    with connected.browser() as browser:
        redirect = browser.get(connected.begin())
        target = urlsplit(redirect.headers["location"])
        assert (target.netloc, parse_qs(target.query)["client_id"]) == (
            "auth.example",
            ["yard"],
        )
        assert "HttpOnly; SameSite=Lax" in redirect.headers["set-cookie"]
        back = browser.get(f"/oauth/callback/{NAME}", params={"code": "seven"})
        assert (back.status_code, "Connected" in back.text) == (200, True)
        assert back.headers["content-security-policy"].startswith("default-src 'none'")
        # The state has been used.
        assert (
            browser.get(f"/oauth/callback/{NAME}", params={"code": "eight"}).status_code
            == 400
        )
    assert connected.token() == "for-seven"


def test_users_have_their_own_tokens_and_share_the_tenants(connected: Connected):
    connected.connect("all")
    connected.connect("ada", user="ada")
    assert (connected.token("ada"), connected.token("bob"), connected.token()) == (
        "for-ada",
        "for-all",
        "for-all",
    )
    connected.connect("ada-again", user="ada")
    user_credentials = connected.credentials.usable("default", NAME, "ada")
    assert (len(user_credentials), connected.token("ada")) == (2, "for-ada-again")
    with pytest.raises(NotFoundError):
        connected.token("bob", user_credentials[0][0].id)


def test_a_sign_in_replaces_no_credential_that_was_entered(connected: Connected):
    """The label is refused as the sign-in starts, and again as it ends."""
    with connected.browser() as browser:
        url = connected.begin(name="mine")
        entered = connected.credentials.add("default", NAME, "mine", {"token": "good"})
        entered_id = connected.gateway.run_on_loop(entered)
        redirect = browser.get(url)
        location = parse_qs(urlsplit(redirect.headers["location"]).query)
        ended = browser.get(location["redirect_uri"][0], params={"code": "late"})
        assert ended.status_code == 400
    again = connected.admin.post(
        "/connections", json={"provider": NAME, "name": "mine"}
    )
    assert again.status_code == 400
    assert f"has a credential 'mine' already, with the id '{entered_id}'" in again.text
    assert connected.token() == "good"


def test_an_expired_token_is_refreshed_once(connected: Connected):
    connected.connect("old")
    credential, value = connected.credentials.usable("default", NAME)[0]
    soon = ToolCredential(
        provider=NAME,
        type="oauth2",
        expires_at=connected.gateway.yard.services.clock.time() + 5,
    )
    assert value.expires_at == 2_000_000_000
    resource_kind = ToolCredential.kind
    rows = connected.gateway.parts.rows
    connected.gateway.run_on_loop(
        rows.save(
            "default",
            resource_kind,
            credential.name,
            {"token": "old"},
            soon,
            id=credential.id,
        )
    )
    assert [connected.token() for _ in range(3)] == ["old-again"] * 3
    assert connected.credentials.usable("default", NAME)[0][1].expires_at == -1


def test_errors_are_shown_on_a_page(connected: Connected):
    with connected.browser() as browser:
        for path in (
            "/oauth/begin/none.at-all",
            "/oauth/begin/x",
            f"/oauth/callback/{NAME}?code=1",
        ):
            answer = browser.get(path)
            assert (answer.status_code, "Start again" in answer.text) == (400, True), (
                path
            )
        browser.get(connected.begin())
        refused = browser.get(f"/oauth/callback/{NAME}?error=<b>denied</b>")
        assert (refused.status_code, "&lt;b&gt;denied" in refused.text) == (400, True)
        wrong_provider = browser.get("/oauth/callback/modelyard/other/other?code=1")
        assert "another provider" in wrong_provider.text
    ticket = connected.credentials.ticket("default", NAME, "x")
    body, _, signature = ticket.partition(".")
    for text in (f"{body}.{'0' * len(signature)}", f"x{body}.{signature}", body):
        with pytest.raises(InvokeBadRequestError):
            connected.credentials.read(text)
    assert (
        connected.admin.post(
            "/clients", json={"provider": NAME, "values": {}}
        ).status_code
        == 400
    )
    assert (
        connected.admin.post(
            "/connections", json={"provider": "modelyard/none/none"}
        ).status_code
        == 404
    )
    assert connected.admin.post("/dance", json={"provider": NAME}).status_code == 404
    connected.gateway.install("shelf")
    unsupported = connected.admin.post(
        "/connections", json={"provider": "modelyard/shelf/shelf"}
    )
    assert (unsupported.status_code, "does not support OAuth" in unsupported.text) == (
        400,
        True,
    )
