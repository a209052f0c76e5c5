"""Tests for accounts and sign-in.

The first owner, sessions, cross-site requests, roles, invitations, and the audit log.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.app import Modelyard
from modelyard.base.email_addresses import checked_email
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.settings import Settings
from modelyard.people import passwords
from modelyard.people.accounts import Accounts, SetUpError
from modelyard.tenancy.caller import Role
from tests.gateway.conftest import Running

PASSWORD = "a long enough word"
Start = Callable[..., Running]


class Person:
    """A browser: it keeps cookies and sends the origin of its page."""

    def __init__(self, running: Running, **headers: str) -> None:
        all_headers = {"origin": running.origin, **headers}
        self.http = httpx.Client(
            base_url=running.origin,
            headers={k: v for k, v in all_headers.items() if v},
            timeout=30,
        )

    def __call__(self, method: str, path: str, status: int = 200, **body: Any) -> Any:
        answer = self.http.request(method, f"/console/api/{path}", json=body or None)
        assert answer.status_code == status, answer.text
        return answer.json()

    def sign_in(
        self,
        email: str = "ada@example.org",
        password: str = PASSWORD,
        status: int = 200,
    ) -> Any:
        return self("POST", "session", status, email=email, password=password)


@pytest.fixture
def running(start_gateway: Start) -> Running:
    return start_gateway()


@pytest.fixture
def person(running: Running) -> Iterator[Callable[..., Person]]:
    opened: list[Person] = []

    def make(**headers: str) -> Person:
        opened.append(Person(running, **headers))
        return opened[-1]

    yield make
    for opened_person in opened:
        opened_person.http.close()


@pytest.fixture
def owner(person: Callable[..., Person]) -> Person:
    account_owner = person()
    account_owner(
        "POST", "setup", 201, email="Ada@Example.org", name="Ada", password=PASSWORD
    )
    return account_owner


def test_sign_in_is_required_once_there_is_an_owner(
    running: Running, person: Callable[..., Person]
):
    visitor = person()
    assert visitor("GET", "session") == {"mode": "single", "account": None}
    assert httpx.get(f"{running.origin}/admin/v1/keys").status_code == 200
    account = visitor(
        "POST", "setup", 201, email="ada@example.org", name="Ada", password=PASSWORD
    )["account"]
    assert (account["email"], account["role"], account["tenant"]) == (
        "ada@example.org",
        "owner",
        "default",
    )
    assert visitor("GET", "session")["mode"] == "accounts"
    assert httpx.get(f"{running.origin}/admin/v1/keys").status_code == 401
    assert visitor.http.get("/admin/v1/keys").status_code == 200
    cookie = visitor.http.cookies.jar
    assert sorted((stored_cookie.name, stored_cookie.path, stored_cookie.has_nonstandard_attr("HttpOnly")) for stored_cookie in cookie) == [
        ("modelyard-device", "/console/api/session", True), ("modelyard-session", "/", True),
    ]  # fmt: skip


@pytest.mark.parametrize("headers", [
    {"x-forwarded-for": "203.0.113.7"}, {"host": "evil.example", "origin": "http://evil.example"},
])  # fmt: skip
def test_the_owner_is_set_up_at_the_machine_or_with_a_key(
    start_gateway: Start, headers: dict[str, str]
):
    running = start_gateway(api_keys=["sk-of-the-owner-of-this"])
    body = {"email": "eve@example.org", "name": "Eve", "password": PASSWORD}
    sent = {"origin": running.origin, **headers}
    url = f"{running.origin}/console/api/setup"
    assert httpx.post(url, json=body, headers=sent).status_code in (401, 403)
    assert (
        httpx.post(
            url,
            json=body,
            headers={**sent, "authorization": "Bearer sk-of-the-owner-of-this"},
        ).status_code
        == 201
    )


def test_fifty_concurrent_set_ups_create_one_owner(running: Running):
    answers: list[int] = []
    gate = threading.Barrier(50)

    def race(index: int) -> None:
        gate.wait(30)
        body = {"email": f"p{index}@example.org", "name": "x", "password": PASSWORD}
        answers.append(httpx.post(f"{running.origin}/console/api/setup", json=body, headers={"origin": running.origin}, timeout=60).status_code)  # fmt: skip

    threads = [threading.Thread(target=race, args=(index,)) for index in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [201] + [409] * 49
    owners = asyncio.run_coroutine_threadsafe(
        running.yard.services.tenancy.accounts.list_accounts("default"), running.loop
    ).result(5)
    assert len(owners) == 1


def test_wrong_passwords_reveal_nothing_and_are_rate_limited(
    owner: Person, person: Callable[..., Person]
):
    visitor = person()
    wrong_password = visitor.sign_in(password="another long word", status=401)
    unknown = visitor.sign_in(email="nobody@example.org", status=401)
    assert (
        wrong_password["error"]["message"]
        == unknown["error"]["message"]
        == "Invalid email or password"
    )
    for _ in range(4):
        visitor.sign_in(password="another long word", status=401)
    limited = visitor.http.post(
        "/console/api/session", json={"email": "ada@example.org", "password": PASSWORD}
    )
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "60")


def test_sessions_are_seen_and_ended_from_elsewhere(
    owner: Person, person: Callable[..., Person], running: Running
):
    other_browser = person(**{"user-agent": "Another browser"})
    other_browser.sign_in(email=" ADA@example.org ")
    listed = owner("GET", "sessions")["data"]
    assert sorted(session["agent"] for session in listed)[0] == "Another browser"
    away = next(session for session in listed if not session["is_current"])
    owner("DELETE", f"sessions/{away['id']}")
    assert other_browser("GET", "session")["account"] is None
    owner("DELETE", f"sessions/{away['id']}", 404)
    owner("DELETE", "session")
    assert owner("GET", "session")["account"] is None
    assert owner.http.get("/admin/v1/keys").status_code == 401


def test_another_password_ends_the_other_sessions(
    owner: Person, person: Callable[..., Person]
):
    other_browser = person()
    other_browser.sign_in()
    owner(
        "PATCH",
        "account",
        401,
        current_password="not this one",
        password="another long word",
    )
    owner("PATCH", "account", 400, current_password=PASSWORD, password="short")
    changed = owner(
        "PATCH",
        "account",
        name="Countess",
        current_password=PASSWORD,
        password="another long word",
    )
    assert changed["name"] == "Countess"
    assert other_browser("GET", "session")["account"] is None
    assert owner("GET", "session")["account"]["name"] == "Countess"
    other_browser.sign_in(password="another long word")


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 200), ({"origin": "https://evil.example"}, 403), ({"origin": "null"}, 403), ({"origin": ""}, 403),
    ({"origin": "", "sec-fetch-site": "same-origin"}, 200), ({"origin": "", "sec-fetch-site": "cross-site"}, 403),
    ({"origin": "", "sec-fetch-site": "same-site"}, 403),
])  # fmt: skip
def test_other_sites_pages_change_nothing(
    owner: Person, person: Callable[..., Person], headers: dict[str, str], status: int
):
    visitor = person(**headers)
    visitor.http.cookies.update(owner.http.cookies)
    response = visitor.http.post("/admin/v1/users", json={"name": "bob"})
    assert (response.status_code in (200, 201)) is (status == 200), response.text
    assert (
        visitor.http.request(
            "PATCH", "/console/api/account", json={"name": "x"}
        ).status_code
        == status
    )


def test_roles_hold_and_an_owner_stays(owner: Person, person: Callable[..., Person]):
    owner("POST", "invitations", 400, email="bob@example.org", role="king")
    owner("POST", "invitations", 400, email="nobody", role="viewer")
    token = owner("POST", "invitations", 201, email="Bob@example.org", role="viewer")[
        "token"
    ]
    bob = person()
    bob(
        "POST", "invitations/accept", 404, token="x" * 30, name="Eve", password=PASSWORD
    )
    account = bob(
        "POST", "invitations/accept", 201, token=token, name="Bob", password=PASSWORD
    )["account"]
    # The invitation has been used.
    bob("POST", "invitations/accept", 404, token=token, name="Bob", password=PASSWORD)
    # There is an account with this address.
    owner("POST", "invitations", 400, email="bob@example.org", role="viewer")
    assert bob.http.get("/admin/v1/usage").status_code == 200
    for method, path in (("GET", "accounts"), ("POST", "invitations"), ("GET", "audit"), ("PATCH", f"accounts/{account['id']}")):  # fmt: skip
        bob(method, path, 403, role="owner")
    assert bob.http.get("/admin/v1/keys").status_code == 403
    assert owner("PATCH", f"accounts/{account['id']}", role="admin")["role"] == "admin"
    me = owner("GET", "session")["account"]["id"]
    bob("PATCH", f"accounts/{me}", 403, role="viewer")
    bob("POST", "invitations", 403, email="eve@example.org", role="owner")
    owner("PATCH", f"accounts/{me}", 400, role="viewer")
    owner("PATCH", f"accounts/{me}", 400, is_enabled=False)
    owner("PATCH", "accounts/nobody", 404, role="viewer")
    owner("PATCH", f"accounts/{account['id']}", is_enabled=False)
    assert bob("GET", "session")["account"] is None
    bob.sign_in("bob@example.org", status=401)


def test_changes_are_in_the_audit_log(owner: Person):
    owner.http.post("/admin/v1/users", json={"name": "bob"})
    # Rejected, so nothing was changed.
    owner.http.post("/admin/v1/users", json={"name": 7})
    log = owner("GET", "audit")["data"]
    assert [(entry["who"], entry["what"]) for entry in log] == [
        ("ada@example.org", "post /admin/v1/users"), ("ada@example.org", "account.set_up"),
    ]  # fmt: skip
    assert owner("GET", "audit?what=account")["data"] == log[1:]
    assert owner("GET", f"audit?before={log[0]['at']}")["data"] == log[1:]
    owner("GET", "audit?before=noon", 400)
    owner("GET", "nothing", 404)


def test_what_a_browser_shows_is_replaced_in_time(tmp_path: Path):
    async def go() -> None:
        async with Modelyard(Settings(home=str(tmp_path)), environ={}) as yard:
            current_time = [1000.0]
            accounts = Accounts(yard.services.storage.database, lambda: current_time[0])
            account = await accounts.set_up("ada@example.org", "Ada", PASSWORD)
            first, session = await accounts.sessions.open(account)
            assert await accounts.sessions.renew(first) is None
            current_time[0] += 3601
            second = await accounts.sessions.renew(first)
            assert second is not None
            assert await accounts.sessions.renew(first) is None  # already renewed
            for token in (first, second):
                found_session = await accounts.sessions.of_token(token)
                assert found_session is not None
                assert found_session.id == session.id
            current_time[0] += 61
            assert await accounts.sessions.of_token(first) is None
            assert await accounts.sessions.of_token(second) is not None
            assert len(await accounts.sessions.of(account)) == 1
            # Every token of the session is revoked.
            await accounts.sessions.revoke(account, session.id)
            assert await accounts.sessions.of_token(second) is None
            third, _ = await accounts.sessions.open(account)
            current_time[0] += 15 * 86_400
            assert await accounts.sessions.of_token(third) is None
            with pytest.raises(SetUpError):
                await accounts.set_up("eve@example.org", "Eve", PASSWORD)
            token = await accounts.invite(
                account.caller, "late@example.org", Role.VIEWER
            )
            current_time[0] += 8 * 86_400
            with pytest.raises(Exception, match="has expired"):
                await accounts.accept(token, "Late", PASSWORD)

    asyncio.run(go())


@pytest.mark.parametrize(
    "password", ["", "short", "aaaaaaaaaaaa", "1234567890", "Qwertyuiop", "x" * 2000]
)
def test_passwords_that_are_none_are_refused(password: str):
    with pytest.raises(InvokeBadRequestError):
        passwords.checked_password(password)


@given(st.text(min_size=10, max_size=40))
def test_email_addresses_are_validated(text: str):
    try:
        email = checked_email(text)
    except InvokeBadRequestError:
        return
    assert email == email.strip().lower()
    assert email.count("@") >= 1
    assert not set(email) & set('<>"\n\r ')
