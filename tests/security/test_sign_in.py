"""Tests for sign-in under attack.

Attempts are rate limited before the password is verified, and known users can still
sign in.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from modelyard.app import Modelyard
from modelyard.base.errors import NotFoundError
from modelyard.base.settings import OidcSettings, Settings
from modelyard.gateway.chat_page import visitors
from modelyard.people import passwords
from modelyard.people import sessions as sessions_module
from modelyard.people.account import SignInError
from modelyard.people.accounts import Accounts, SetUpError
from modelyard.people.passwords import BusyError
from modelyard.people.sign_in_limits import Attempts, TooManyTriesError, client_network
from modelyard.tenancy.caller import Role
from tests.gateway.conftest import Running, start_gateway

__all__ = ["start_gateway"]

PASSWORD = "a long enough word"
OWNER = "ada@example.org"
HOME = "192.0.2.1"


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Passwords that were verified; a mock verification takes 5 ms and no CPU."""
    verified_passwords: list[str] = []

    def verify(password: str, stored_hash: str) -> bool:
        verified_passwords.append(password)
        time.sleep(0.005)
        return stored_hash == f"hash of {password}"

    monkeypatch.setattr(passwords, "_verify", verify)
    monkeypatch.setattr(passwords, "_hash", lambda password: f"hash of {password}")
    return verified_passwords


@pytest.fixture
def gate(verified: list[str], monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that holds back the verification of wrong passwords until it is set."""
    opened, verify = threading.Event(), passwords._verify  # pyright: ignore[reportPrivateUsage]

    def waiting(password: str, stored_hash: str) -> bool:
        assert not password.startswith("wrong") or opened.wait(60)
        return verify(password, stored_hash)

    monkeypatch.setattr(passwords, "_verify", waiting)
    return opened


def run(work: Callable[[Modelyard], Awaitable[None]], home: Path) -> None:
    async def go() -> None:
        async with Modelyard(Settings(home=str(home)), environ={}) as yard:
            await work(yard)

    asyncio.run(go())


async def failed_sign_ins(
    accounts: Accounts, count: int, address: Callable[[int], str], email: str = OWNER
) -> list[type]:
    """Try wrong passwords in parallel; return the type of each outcome."""
    attempts = [
        accounts.sign_in(email, f"wrong {index:04}", address=address(index))
        for index in range(count)
    ]
    return [
        type(outcome)
        for outcome in await asyncio.gather(*attempts, return_exceptions=True)
    ]


def test_a_hundred_tries_at_once_are_five(tmp_path: Path, verified: list[str]):
    async def work(yard: Modelyard) -> None:
        await yard.services.tenancy.accounts.set_up(OWNER, "Ada", PASSWORD)
        ended = await failed_sign_ins(
            yard.services.tenancy.accounts, 100, lambda index: "198.51.100.1"
        )
        assert (ended.count(SignInError), ended.count(TooManyTriesError)) == (5, 95)
        assert len(verified) == 5

    run(work, tmp_path)


@pytest.mark.parametrize("email", [OWNER, "nobody@example.org"])
def test_tries_from_many_places_on_one_account_are_twenty_a_minute(
    tmp_path: Path, verified: list[str], email: str
):
    """The same holds for an unknown address, so the answers reveal nothing."""

    async def work(yard: Modelyard) -> None:
        await yard.services.tenancy.accounts.set_up(OWNER, "Ada", PASSWORD)
        # Few at a time, so that nobody is refused because the queue is full.
        for subnet in range(10):
            await failed_sign_ins(
                yard.services.tenancy.accounts,
                10,
                lambda index, subnet=subnet: f"198.51.{subnet}.{index}",
                email,
            )
        assert len(verified) == 20

    run(work, tmp_path)


def test_one_place_tries_thirty_a_minute_on_all_accounts(
    tmp_path: Path, verified: list[str]
):
    async def work(yard: Modelyard) -> None:
        for index in range(60):
            with contextlib.suppress(SignInError, TooManyTriesError):
                await yard.services.tenancy.accounts.sign_in(
                    f"n{index}@example.org", "wrong", address=f"2001:db8::1:{index:x}"
                )
        assert len(verified) == 30

    run(work, tmp_path)


def test_whoever_is_known_signs_in_whatever_strangers_do(
    tmp_path: Path, verified: list[str], gate: threading.Event
):
    """Known: signed in before from this address, or in this browser from anywhere."""

    async def work(yard: Modelyard) -> None:
        account = await yard.services.tenancy.accounts.set_up(OWNER, "Ada", PASSWORD)
        await yard.services.tenancy.accounts.sessions.open(account, "", HOME)
        device = yard.services.tenancy.accounts.sign_in.device_token(account)
        strangers = asyncio.ensure_future(
            failed_sign_ins(
                yard.services.tenancy.accounts,
                1000,
                lambda index: f"198.51.{index // 250}.{index % 250}",
            )
        )
        await asyncio.sleep(0.05)
        for sign_in_context in (
            {"address": HOME},
            {"address": "203.0.113.5", "device": device},
        ):
            _, session = await yard.services.tenancy.accounts.sign_in(
                OWNER, PASSWORD, **sign_in_context
            )
            assert session.account.email == OWNER
        gate.set()
        ended = await strangers
        assert ended.count(SignInError) <= 20
        assert set(ended) <= {SignInError, TooManyTriesError, BusyError}
        await yard.services.tenancy.accounts.sign_in(OWNER, PASSWORD, address=HOME)

    run(work, tmp_path)


def test_strangers_at_the_same_address_do_not_block_a_known_browser(
    tmp_path: Path, verified: list[str]
):
    async def work(yard: Modelyard) -> None:
        account = await yard.services.tenancy.accounts.set_up(OWNER, "Ada", PASSWORD)
        device = yard.services.tenancy.accounts.sign_in.device_token(account)
        await failed_sign_ins(yard.services.tenancy.accounts, 50, lambda index: HOME)
        with pytest.raises(TooManyTriesError):
            await yard.services.tenancy.accounts.sign_in(OWNER, PASSWORD, address=HOME)
        await yard.services.tenancy.accounts.sign_in(
            OWNER, PASSWORD, address=HOME, device=device
        )
        for _ in range(5):
            with pytest.raises(SignInError):
                await yard.services.tenancy.accounts.sign_in(
                    OWNER, "wrong", address=HOME, device=device
                )
        # A known browser has no more attempts than others.
        with pytest.raises(TooManyTriesError):
            await yard.services.tenancy.accounts.sign_in(
                OWNER, PASSWORD, address=HOME, device=device
            )

    run(work, tmp_path)


@pytest.mark.parametrize("forge", [
    lambda text: text[:-4] + "0000", lambda text: "9" + text, lambda text: f"²{text}", lambda text: "." * 400,
    lambda text: text.replace(".", "x"), lambda text: "1000." + text.partition(".")[2],
])  # fmt: skip
def test_an_unknown_or_foreign_device_cookie_is_ignored(
    tmp_path: Path, verified: list[str], forge: Any
):
    async def work(yard: Modelyard) -> None:
        ada = await yard.services.tenancy.accounts.set_up(OWNER, "Ada", PASSWORD)
        eve = msgspec.structs.replace(ada, email="eve@example.org")
        await failed_sign_ins(yard.services.tenancy.accounts, 5, lambda index: HOME)
        for device in (
            forge(yard.services.tenancy.accounts.sign_in.device_token(ada)),
            yard.services.tenancy.accounts.sign_in.device_token(eve),
        ):
            with pytest.raises(TooManyTriesError):
                await yard.services.tenancy.accounts.sign_in(
                    OWNER, PASSWORD, address=HOME, device=device
                )

    run(work, tmp_path)


def test_the_queue_of_password_verifications_is_limited(
    tmp_path: Path, verified: list[str]
):
    async def work(yard: Modelyard) -> None:
        attempts = [
            yard.services.tenancy.accounts.sign_in(
                f"n{index}@example.org",
                "wrong",
                address=f"198.51.{index // 250}.{index % 250}",
            )
            for index in range(500)
        ]
        ended = [
            type(outcome)
            for outcome in await asyncio.gather(*attempts, return_exceptions=True)
        ]
        assert ended.count(BusyError) > 100
        assert ended.count(BusyError) + ended.count(SignInError) == 500
        # A refused attempt does not count: the next one is verified.
        verified_before = len(verified)
        with pytest.raises(SignInError):
            await yard.services.tenancy.accounts.sign_in(
                "n499@example.org", "wrong", address="198.51.1.249"
            )
        assert len(verified) == verified_before + 1

    run(work, tmp_path)


def test_passwords_are_hashed_only_with_a_valid_invitation(
    tmp_path: Path, verified: list[str], monkeypatch: pytest.MonkeyPatch
):
    hashed_passwords: list[str] = []
    monkeypatch.setattr(
        passwords,
        "_hash",
        lambda password: hashed_passwords.append(password) or f"hash of {password}",
    )

    async def work(yard: Modelyard) -> None:
        ada = await yard.services.tenancy.accounts.set_up(OWNER, "Ada", PASSWORD)
        for token in ("x" * 43, ""):
            with pytest.raises(NotFoundError):
                await yard.services.tenancy.accounts.accept(token, "Eve", PASSWORD)
        with pytest.raises(SetUpError):
            await yard.services.tenancy.accounts.set_up(
                "eve@example.org", "Eve", PASSWORD
            )
        assert hashed_passwords == [PASSWORD]
        token = await yard.services.tenancy.accounts.invite(
            ada.caller, "bob@example.org", Role.VIEWER
        )
        await yard.services.tenancy.accounts.accept(token, "Bob", PASSWORD)
        assert hashed_passwords == [PASSWORD, PASSWORD]

    run(work, tmp_path)


def test_existing_and_unknown_accounts_take_equally_long():
    """Both compute one hash of the same cost."""
    nobodys, somebodys = passwords._dummy_hash(), passwords._hash(PASSWORD)  # pyright: ignore[reportPrivateUsage]
    assert nobodys.split("$")[:4] == somebodys.split("$")[:4]
    assert [len(part) for part in nobodys.split("$")] == [
        len(part) for part in somebodys.split("$")
    ]
    assert asyncio.run(passwords.verify_password(PASSWORD, somebodys))
    assert not asyncio.run(passwords.verify_password(PASSWORD, ""))


def test_passwords_are_hashed_as_asvs_asks():
    """ASVS 5, appendix C: at least 19 MiB, two rounds; two at once take under 50 MB."""
    _, name, _, parameters, *_ = passwords._hash(PASSWORD).split("$")  # pyright: ignore[reportPrivateUsage]
    memory, rounds, _ = (
        int(parameter.partition("=")[2]) for parameter in parameters.split(",")
    )
    assert name == "argon2id"
    assert memory >= 19_456
    assert rounds >= 2
    assert 2 * memory * 1024 < 50_000_000


def test_a_hash_with_old_parameters_is_accepted_and_renewed(tmp_path: Path):
    kdf = Argon2id(
        salt=b"sixteen bytes ok",
        length=32,
        iterations=3,
        lanes=1,
        memory_cost=64 * 1024,
    )
    earlier = kdf.derive_phc_encoded(PASSWORD.encode())

    async def work(yard: Modelyard) -> None:
        await yard.services.tenancy.accounts.set_up(OWNER, "Ada", PASSWORD)
        change = "UPDATE accounts SET password = ?"
        await yard.services.storage.database.transact(
            lambda connection: connection.execute(change, (earlier,))
        )
        for _ in range(2):
            await yard.services.tenancy.accounts.sign_in(OWNER, PASSWORD, address=HOME)
            (row,) = await yard.services.storage.database.fetch(
                "SELECT password FROM accounts"
            )
            assert not passwords.needs_rehash(row["password"])
        with pytest.raises(SignInError):
            await yard.services.tenancy.accounts.sign_in(
                OWNER, "another long word", address=HOME
            )

    run(work, tmp_path)


def test_attempt_windows_expire_and_names_are_dropped():
    clock_seconds = [0.0]
    attempts = Attempts(2, 60.0, lambda: clock_seconds[0])
    attempts.take("a")
    attempts.take("a")
    with pytest.raises(TooManyTriesError):
        attempts.take("a")
    attempts.give_back("a")
    attempts.take("a")
    clock_seconds[0] = 59.9
    with pytest.raises(TooManyTriesError):
        attempts.take("a")
    clock_seconds[0] = 60.1
    attempts.take("a")
    for index in range(20_000):
        attempts.take(f"n{index}")
    assert len(attempts._try_times) <= 10_000  # pyright: ignore[reportPrivateUsage]
    attempts.give_back("nobody")


@pytest.mark.parametrize(("address", "network"), [
    ("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
    ("", ""), ("unix", "unix"),
])  # fmt: skip
def test_client_networks(address: str, network: str):
    assert client_network(address) == network


# ----------------------------------------------------------------------------- sessions


def test_unknown_cookies_are_looked_up_off_the_event_loop_with_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def work(yard: Modelyard) -> None:
        account = await yard.services.tenancy.accounts.set_up(OWNER, "Ada", PASSWORD)
        valid_token, _ = await yard.services.tenancy.accounts.sessions.open(account)
        readers: Any = yard.services.storage.database._readers  # pyright: ignore[reportPrivateUsage]
        original_run, threads, gate = readers.run, set[str](), threading.Event()

        def slow(work: Any) -> Any:
            threads.add(threading.current_thread().name)
            assert gate.wait(30)
            return original_run(work)

        assert (
            await yard.services.tenancy.accounts.sessions.of_token(valid_token)
            is not None
        )
        monkeypatch.setattr(readers, "run", slow)
        asking = [
            asyncio.ensure_future(
                yard.services.tenancy.accounts.sessions.of_token(
                    f"unknown-cookie-{index:06}"
                )
            )
            for index in range(200)
        ]
        await asyncio.sleep(0)  # the loop runs while the database is blocked
        await asyncio.sleep(0)
        waiting = [lookup for lookup in asking if not lookup.done()]
        assert len(waiting) == 64
        # Two of the four readers: the others stay free for everybody else.
        assert len(threads) <= 2
        gate.set()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert sum(isinstance(outcome, BusyError) for outcome in ended) == 136
        assert all(name.startswith("modelyard-reader") for name in threads)
        for index in range(10_000, 15_000):
            sessions_module._cache_put(
                yard.services.tenancy.accounts.sessions._invalid_digests,
                str(index),
                0.0,
            )  # pyright: ignore[reportPrivateUsage]
        assert len(yard.services.tenancy.accounts.sessions._invalid_digests) <= 4096  # pyright: ignore[reportPrivateUsage]
        assert (
            await yard.services.tenancy.accounts.sessions.of_token(valid_token)
            is not None
        )

    run(work, tmp_path)


def test_a_session_that_ends_while_it_is_looked_up_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def work(yard: Modelyard) -> None:
        account = await yard.services.tenancy.accounts.set_up(OWNER, "Ada", PASSWORD)
        token, session = await yard.services.tenancy.accounts.sessions.open(account)
        readers: Any = yard.services.storage.database._readers  # pyright: ignore[reportPrivateUsage]
        original_run, has_read, may_go = (
            readers.run,
            threading.Event(),
            threading.Event(),
        )

        def slow(work: Any) -> Any:
            rows = original_run(work)
            has_read.set()
            assert may_go.wait(30)
            return rows

        monkeypatch.setattr(readers, "run", slow)
        asking = asyncio.ensure_future(
            yard.services.tenancy.accounts.sessions.of_token(token)
        )
        assert await asyncio.to_thread(has_read.wait, 30)
        await yard.services.tenancy.accounts.sessions.end(session)
        may_go.set()
        assert await asking is None
        assert await yard.services.tenancy.accounts.sessions.of_token(token) is None

    run(work, tmp_path)


# ---------------------------------------------------------------------------- over HTTP


def sign_in_from(
    running: Running, password: str, address: str, cookies: Any = None
) -> httpx.Response:
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(
        base_url=running.origin, transport=transport, cookies=cookies, timeout=60
    ) as client:
        body = {"email": OWNER, "password": password}
        return client.post(
            "/console/api/session", json=body, headers={"origin": running.origin}
        )


def test_the_owner_can_sign_in_while_strangers_try(
    start_gateway: Any, gate: threading.Event
):
    running = start_gateway()
    owner = {"email": OWNER, "name": "Ada", "password": PASSWORD}
    setup_response = httpx.post(
        f"{running.origin}/console/api/setup",
        json=owner,
        headers={"origin": running.origin},
        timeout=60,
    )
    assert setup_response.status_code == 201
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(
            target=lambda index=index: answers.append(
                sign_in_from(running, "wrong", f"127.0.{1 + index}.1")
            )
        )
        for index in range(40)
    ]
    for element in threads:
        element.start()
    assert sign_in_from(running, PASSWORD, "127.0.0.1").status_code == 200
    assert (
        sign_in_from(
            running, PASSWORD, "127.0.99.1", setup_response.cookies
        ).status_code
        == 200
    )
    gate.set()
    for element in threads:
        element.join(60)
    assert {answer.status_code for answer in answers} <= {401, 429}
    for element in answers:
        if element.status_code == 429:
            assert int(element.headers["retry-after"]) > 0
            assert element.json()["error"]["code"] == "too_many_tries"


def test_invitations_and_oidc_callbacks_are_limited_to_thirty_a_minute(
    start_gateway: Any,
):
    running = start_gateway(
        oidc=OidcSettings(issuer="http://127.0.0.1:9", client_id="x")
    )
    ended: list[int] = []
    with httpx.Client(
        base_url=running.origin, headers={"origin": running.origin}, timeout=60
    ) as client:
        for _ in range(20):
            body = {"token": "x" * 43, "name": "Eve", "password": PASSWORD}
            ended.append(
                client.post("/console/api/invitations/accept", json=body).status_code
            )
        for _ in range(20):
            ended.append(
                client.get("/console/api/oidc/callback?code=x&state=x").status_code
            )
    assert ended == [404] * 20 + [401] * 10 + [429] * 10


APP = yaml.safe_dump({
    "kind": "app", "version": "0.6.0", "app": {"name": "plain", "mode": "workflow"},
    "workflow": {"graph": {
        "nodes": [
            {"id": "start", "data": {"type": "start", "title": "s", "variables": []}},
            {"id": "end", "data": {"type": "end", "title": "e", "outputs": []}},
        ],
        "edges": [{"source": "start", "target": "end"}],
    }},
})  # fmt: skip


def test_invented_page_visitors_are_limited_by_address(
    start_gateway: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(visitors, "WRITES_A_MINUTE", 9)
    running = start_gateway()
    with httpx.Client(base_url=running.origin, timeout=60) as client:
        app = client.post("/admin/v1/apps", json={"file": APP}).json()
        page = client.patch(
            f"/admin/v1/apps/{app['id']}", json={"page": {"is_on": True}}
        ).json()["page"]["url"]
        path = page.removeprefix(running.origin)
        ended = [
            client.post(
                f"{path}/v1/chat-messages",
                json={},
                headers={"x-visitor": f"visitor-{index:020}"},
            )
            for index in range(10)
        ]
        assert [response.status_code for response in ended].count(400) == 9
        assert (ended[-1].status_code, ended[-1].json()["code"]) == (
            429,
            "too_many_requests",
        )
        assert int(ended[-1].headers["retry-after"]) > 0
        reading = client.get(
            f"{path}/v1/parameters", headers={"x-visitor": "visitor-of-the-page-x"}
        )
        assert reading.status_code == 200


def test_a_service_key_reaches_files_only_with_their_user(start_gateway: Any):
    running = start_gateway()
    with httpx.Client(base_url=running.origin, timeout=60) as client:
        keys: list[str] = []
        for name in ("one", "two"):
            app = client.post("/admin/v1/apps", json={"file": APP, "name": name}).json()
            keys.append(client.post(f"/admin/v1/apps/{app['id']}/keys").json()["key"])
        own_headers, other_headers = (
            {"authorization": f"Bearer {key}"} for key in keys
        )

        def uploaded(**user: str) -> str:
            files = {"file": ("a.txt", b"words")}
            upload_response = client.post(
                "/v1/files/upload", files=files, data=user, headers=own_headers
            )
            return f"/v1/files/{upload_response.json()['id']}/preview"

        hers, nobodys = uploaded(user="ada"), uploaded()
        for path, user, key_headers, status, code in (
            (hers, "ada", own_headers, 200, ""), (hers, "", own_headers, 404, "file_not_found"),
            (hers, "bob", own_headers, 403, "file_access_denied"), (hers, "ada", other_headers, 404, "file_not_found"),
            (hers, "", other_headers, 404, "file_not_found"), (nobodys, "", own_headers, 200, ""),
            (nobodys, "", other_headers, 404, "file_not_found"), (nobodys, "ada", other_headers, 404, "file_not_found"),
        ):  # fmt: skip
            response = client.get(
                path, params={"user": user} if user else {}, headers=key_headers
            )
            assert response.status_code == status, response.text
            assert not code or response.json()["code"] == code
