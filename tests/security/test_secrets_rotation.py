"""Tests for `secrets rotate` with running servers.

Nothing fails, nothing is lost, and callers never see a key id.
"""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from modelyard.administration.administration import WITH_SECRET
from modelyard.app.storage import MASTER_KEY
from modelyard.base.errors import ConfigError
from modelyard.cli.tenants import secrets
from modelyard.storage.files import FileStore
from modelyard.storage.local_files import LocalFileStorage
from modelyard.storage.secrets import (
    KeyRing,
    SecretError,
    UnknownKeyError,
    load_key_ring,
    rotating,
    save_key_ring,
)
from modelyard.tenancy.resource_types import KINDS, StoredCredential
from modelyard.testing import Upstream, chat_answer
from tests.contract.conftest import database_url, postgres_url  # noqa: F401
from tests.gateway.conftest import Running, start_gateway  # noqa: F401
from tests.gateway.test_traffic import ask, chat

Start = Callable[..., Running]
OWNER = "owner-key-0123456789"


@pytest.fixture
def fine(upstream: Callable[..., Upstream]) -> Upstream:
    async def answer(request: Any) -> Any:
        return chat_answer("fine")

    return upstream(answer)


def _server(start: Start, url: str, home: Path, database: str) -> Running:
    from modelyard.base.settings import ProviderSettings

    model = {"name": "m", "input_price": 1, "output_price": 1}
    provider = ProviderSettings(name="own", base_url=url, models=[model])
    return start(
        providers=[provider], api_keys=[OWNER], home=str(home), database=database
    )


def _tenant(running: Running, name: str) -> str:
    """Create a tenant with a credential of its own; return its admin's key."""
    assert (
        ask(running, "POST", "/admin/v1/tenants", {"name": name}, key=OWNER).status
        == 201
    )
    key = ask(
        running,
        "POST",
        f"/admin/v1/keys?tenant={name}",
        {"name": "k", "role": "admin"},
        key=OWNER,
    ).json["key"]
    credential = {"name": "own", "provider": "own", "values": {"api_key": f"sk-{name}"}}
    assert (
        ask(running, "POST", "/admin/v1/credentials", credential, key=key).status == 201
    )
    return key


def _rotate(home: Path, database: str) -> None:
    environ = {
        "MODELYARD_HOME": str(home),
        "MODELYARD_DATABASE": database,
        "MODELYARD_LOCAL__ENABLED": "false",
    }
    result = CliRunner().invoke(
        secrets, ["rotate"], env=environ, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output


def test_two_servers_keep_working_during_key_rotation(
    start_gateway: Start,  # noqa: F811
    fine: Upstream,
    tmp_path: Path,
    database_url: str,  # noqa: F811
):
    home = tmp_path / "shared-home"
    servers = [_server(start_gateway, fine.url, home, database_url) for _ in range(2)]
    # PostgreSQL's database is shared with other tests.
    name = f"t-{abs(hash(str(tmp_path))) % 10**9}"
    key = _tenant(servers[0], name)
    servers[1].do(servers[1].yard.services.tenancy.directory.refresh())
    statuses: list[int] = []
    is_over = threading.Event()

    def call() -> None:
        while not is_over.is_set():
            statuses.extend(
                chat(server, key=key, model="own/m").status for server in servers
            )

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for number in range(2):
            _rotate(home, database_url)
            created_key = ask(
                servers[number % 2],
                "POST",
                f"/admin/v1/keys?tenant={name}",
                {"name": f"n{number}"},
                key=OWNER,
            )
            servers[1 - number % 2].do(
                servers[1 - number % 2].yard.services.tenancy.directory.refresh()
            )
            assert (
                chat(
                    servers[1 - number % 2], key=created_key.json["key"], model="own/m"
                ).status
                == 200
            )
    finally:
        is_over.set()
        caller.join()
    assert set(statuses) == {200}
    ring = load_key_ring(home / MASTER_KEY)
    assert len(ring.keys) == 3
    (credential_row,) = servers[0].do(
        servers[0].yard.services.storage.resources.list(name, StoredCredential.kind)
    )
    secret = msgspec.json.decode(credential_row.body, type=StoredCredential).secret
    assert ring.is_current(secret)
    assert f"sk-{name}" in ring.decrypt(
        secret, tenant=name, kind=credential_row.kind, row=credential_row.id
    )


def test_a_missing_master_key_is_a_503_without_key_ids(
    start_gateway: Start,  # noqa: F811
    fine: Upstream,
    tmp_path: Path,
):
    running = _server(start_gateway, fine.url, tmp_path / "home", "")
    key = _tenant(running, "acme")
    stranger = KeyRing({}).rotated()
    _encrypt_credential(running, stranger, "{}")
    messages = [{"role": "user", "content": "hi"}]
    contents = [{"parts": [{"text": "hi"}]}]
    for path, body in (
        ("/v1/chat/completions", {"model": "own/m", "messages": messages}),
        ("/v1/messages", {"model": "own/m", "max_tokens": 5, "messages": messages}),
        ("/v1beta/models/own%2Fm:generateContent", {"contents": contents}),
        ("/v2/chat", {"model": "own/m", "messages": messages}),
    ):
        refused = ask(running, "POST", path, body, key=key)
        assert refused.status == 503, path
        text = refused.body.decode()
        assert stranger.active not in text
        assert running.yard.services.storage.keys.active not in text
    # With the key back in the key file, the credential works again.
    home_key = tmp_path / "home" / MASTER_KEY
    save_key_ring(home_key, KeyRing({**load_key_ring(home_key).keys, **stranger.keys}))
    _encrypt_credential(running, stranger, '{"api_key": "sk-new"}')
    assert chat(running, key=key, model="own/m").status == 200


def _encrypt_credential(running: Running, key_ring: KeyRing, values: str) -> None:
    """Replace the tenant's credential values by ones that this key ring encrypted."""
    resources = running.yard.services.storage.resources
    (row,) = running.do(resources.list("acme", StoredCredential.kind))
    secret = key_ring.encrypt(values, tenant="acme", kind=row.kind, row=row.id)
    credential = msgspec.json.decode(row.body, type=StoredCredential)
    changed = msgspec.structs.replace(credential, secret=secret)
    body = msgspec.json.encode(changed).decode()
    running.do(resources.change(row, name=row.name, body=body))
    running.do(running.yard.services.tenancy.directory.refresh())


def test_a_damaged_credential_does_not_affect_others(
    start_gateway: Start,  # noqa: F811
    fine: Upstream,
    tmp_path: Path,
):
    running = _server(start_gateway, fine.url, tmp_path / "home", "")
    key = _tenant(running, "acme")
    (credential_row,) = running.do(
        running.yard.services.storage.resources.list("acme", StoredCredential.kind)
    )
    second = {"name": "second", "provider": "own", "values": {"api_key": "sk-second"}}
    assert ask(running, "POST", "/admin/v1/credentials", second, key=key).status == 201
    value = msgspec.json.decode(credential_row.body, type=StoredCredential)
    body = msgspec.json.encode(
        msgspec.structs.replace(value, secret=value.secret[:-4] + "AAAA")
    ).decode()
    running.do(
        running.yard.services.storage.resources.change(
            credential_row, name=credential_row.name, body=body
        )
    )
    running.do(running.yard.services.tenancy.directory.refresh())
    assert chat(running, key=key, model="own/m").status == 200
    assert fine.requests[-1].key == "sk-second"


def test_the_key_ring_rereads_its_file_only_after_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "master.key"
    ring = load_key_ring(path)
    newer = load_key_ring(path).rotated()
    row_identity = {"tenant": "t", "kind": "k", "row": "r"}
    sealed, digest = newer.encrypt("secret", **row_identity), newer.digest(b"key")
    reads: list[Path] = []
    real = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda file_path, *arguments: (
            reads.append(file_path),
            real(file_path, *arguments),
        )[1],
    )
    for _ in range(50):
        with pytest.raises(UnknownKeyError):
            ring.decrypt(sealed, **row_identity)
        assert not ring.matches(b"key", digest)
    assert not reads  # the file has not changed
    save_key_ring(path, newer)
    assert ring.matches(b"key", digest)
    assert ring.decrypt(sealed, **row_identity) == "secret"
    assert ring.active == newer.active
    assert len(reads) == 1
    path.write_text("nonsense")
    assert not ring.reload()  # an unreadable file is ignored
    assert ring.decrypt(sealed, **row_identity) == "secret"


def test_concurrent_rotations_lose_no_key(tmp_path: Path):
    path = tmp_path / "master.key"
    load_key_ring(path)
    with (
        rotating(path),
        pytest.raises(ConfigError, match="another process"),
        rotating(path),
    ):
        pytest.fail("two at once")
    with rotating(path):
        pass


def test_every_secret_is_encrypted_again():
    """Property: the rotation covers everything that stores a secret."""
    assert {
        resource_class
        for resource_class in KINDS.values()
        if "secret" in resource_class.__struct_fields__
    } == set(WITH_SECRET)
    assert len(WITH_SECRET) >= 6


def test_concurrent_changes_are_not_overwritten_by_a_rotation(
    start_gateway: Start,  # noqa: F811
    fine: Upstream,
    tmp_path: Path,
):
    running = _server(start_gateway, fine.url, tmp_path / "home", "")
    _tenant(running, "acme")
    yard = running.yard
    (stale,) = running.do(
        yard.services.storage.resources.list("acme", StoredCredential.kind)
    )
    value = msgspec.json.decode(stale.body, type=StoredCredential)
    body = msgspec.json.encode(msgspec.structs.replace(value, weight=7.0)).decode()
    running.do(
        yard.services.storage.resources.change(stale, name=stale.name, body=body)
    )
    newer = yard.services.storage.keys.rotated()

    async def encrypt() -> bool:
        return await yard.services.tenancy.administration._encrypt_row(
            newer, StoredCredential, stale
        )

    assert asyncio.run_coroutine_threadsafe(encrypt(), running.loop).result(5)
    (updated_row,) = running.do(
        yard.services.storage.resources.list("acme", StoredCredential.kind)
    )
    credential = msgspec.json.decode(updated_row.body, type=StoredCredential)
    assert (credential.weight, newer.is_current(credential.secret)) == (7.0, True)


def test_signed_urls_survive_a_rotation(tmp_path: Path):
    path = tmp_path / "master.key"
    ring = load_key_ring(path)
    files = FileStore(LocalFileStorage(tmp_path / "files"), ring.digest, ring.matches)
    query_fields = dict(
        part.partition("=")[::2]
        for part in files.sign("preview", "t", "x", seconds=60).split("&")
    )
    save_key_ring(path, ring.rotated())
    assert ring.reload()
    assert files.is_signed(
        "preview", "t", "x", query_fields["until"], query_fields["sign"]
    )
    for invalid_signature in (
        "",
        "k1:",
        ":",
        "k:é",
        query_fields["sign"][:-1],
        f"{ring.active}:0",
    ):
        assert not files.is_signed(
            "preview", "t", "x", query_fields["until"], invalid_signature
        )
    assert ring.matches_any(b"text", ring.digest(b"text").partition(":")[2])
    assert not ring.matches_any(b"text", "é")


def test_a_secret_error_is_not_a_500():
    from modelyard.gateway.errors import status_of

    assert status_of(SecretError("x"))[0] == 503
    assert status_of(UnknownKeyError("x"))[0] == 503
