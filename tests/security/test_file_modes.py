"""Tests for file modes: files are private from their creation.

Files that an earlier version left open to others are repaired.
"""

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelyard.app import Modelyard
from modelyard.base.private_files import (
    make_private,
    open_to_others,
    private_folder,
    repair,
    write_private,
)
from modelyard.base.settings import ProviderSettings
from modelyard.storage import backups, rejected_records
from modelyard.storage.files import FileStore
from modelyard.storage.local_files import LocalFileStorage
from modelyard.testing import Upstream, chat_answer
from tests.gateway.conftest import Running, start_gateway  # noqa: F401
from tests.gateway.test_traffic import ask, chat

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lax() -> Iterator[None]:
    """The umask of most systems."""
    previous_umask = os.umask(0o022)
    yield
    os.umask(previous_umask)


def _readable_by_others(folder: Path) -> list[str]:
    """Return what other users could reach and read below a folder, except links."""
    readable_paths: list[str] = []
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) or not mode & 0o077:
            continue
        parent_folders = path.relative_to(folder).parents
        if not any(
            (folder / parent).stat().st_mode & 0o077 == 0
            for parent in parent_folders
            if str(parent) != "."
        ):
            readable_paths.append(f"{path.relative_to(folder)} {stat.S_IMODE(mode):o}")
    return readable_paths


@pytest.mark.usefixtures("lax")
def test_everything_a_server_writes_is_its_owners_alone(
    start_gateway: Callable[..., Running],  # noqa: F811
    upstream: Callable[..., Upstream],
    tmp_path: Path,
):
    """Property: it holds for everything in the home folder of a well-used server."""

    async def answer(request: Any) -> Any:
        return chat_answer("fine")

    home = tmp_path / "made" / "home"
    running = start_gateway(upstream(answer), home=str(home))
    assert chat(running).status == 200
    asyncio.run(running.yard.services.storage.files.add("default", "a.txt", b"secret"))
    ask(
        running,
        "POST",
        "/admin/v1/credentials",
        {"name": "c", "provider": "openai", "values": {"api_key": "sk-x"}},
    )
    running.flush()
    backups.back_up(home / "modelyard.db")
    rejected_records.save_rejected(home / "ledger", "x", [(b"r", "why")])
    from modelyard.app.provider_settings import add_provider

    add_provider(home, ProviderSettings(name="openai"))
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {
        "modelyard.db",
        "modelyard.db-wal",
        "master.key",
        "files",
        "ledger",
        "backups",
    } <= {path.name for path in home.iterdir()}
    # The folder's mode may be somebody else's choice; its contents are private all the
    # same.
    home.chmod(0o755)
    assert [
        readable_path
        for readable_path in _readable_by_others(home)
        if not readable_path.startswith(("plugins", "models"))
    ] == []


@pytest.mark.usefixtures("lax")
def test_permissions_of_an_older_home_are_repaired_and_logged(
    settings: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    yard = Modelyard(settings, environ={})
    asyncio.run(yard.services.storage.files.add("default", "a.txt", b"secret"))
    asyncio.run(yard.aclose())
    (tmp_path / "modelyard.yaml").write_text("api_keys: [x]\n")
    for name in ("modelyard.db", "files", "modelyard.yaml", "ledger"):
        (tmp_path / name).chmod(0o755)
    with caplog.at_level("WARNING"):
        asyncio.run(Modelyard(settings, environ={}).aclose())
    for name in ("modelyard.db", "files", "modelyard.yaml", "ledger"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0, name
    assert [record.message for record in caplog.records].count(
        "removed other users' access to private files"
    ) == 1
    caplog.clear()
    with caplog.at_level("WARNING"):
        asyncio.run(Modelyard(settings, environ={}).aclose())
    assert "removed other users' access" not in caplog.text


@pytest.mark.usefixtures("lax")
def test_the_file_mode_helpers(tmp_path: Path):
    folder = private_folder(tmp_path / "a" / "b")
    assert {
        stat.S_IMODE(directory.stat().st_mode) for directory in (folder, folder.parent)
    } == {0o700}
    write_private(folder / "x", b"1")
    assert stat.S_IMODE((folder / "x").stat().st_mode) == 0o600
    loose = tmp_path / "loose"
    loose.write_text("x")
    link = tmp_path / "link"
    link.symlink_to(loose)
    assert not make_private(link)  # no following of foreign links
    assert list(open_to_others(loose)) == ["its group", "everybody"]
    repair([loose, tmp_path / "nothing"])
    assert list(open_to_others(loose)) == []
    store = FileStore(LocalFileStorage(tmp_path / "files"), lambda data: "k:0")
    asyncio.run(store.add("t", "name", b"data"))
    assert _readable_by_others(tmp_path / "files") == []


def test_the_image_installs_locked_packages_and_is_unprivileged():
    """The image: hashed packages, no network builds, no root, a private home."""
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
    lines = dockerfile.splitlines()
    commands = _install_commands(lines)
    assert commands
    for command in commands:
        is_hashed = "--require-hashes" in command and "-r requirements/" in command
        is_own = "--no-deps" in command and "--no-build-isolation" in command
        assert is_hashed or is_own, command
    assert any(line.startswith("USER ") and "root" not in line for line in lines)
    manifest = (ROOT / "deploy" / "kubernetes" / "modelyard.yaml").read_text()
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    assert "readOnlyRootFilesystem: true" in manifest
    assert "runAsNonRoot: true" in manifest
    assert "read_only: true" in compose
    assert "no-new-privileges" in compose


def _install_commands(lines: list[str]) -> list[str]:
    """Return the `pip install` commands of a Dockerfile."""
    commands = [command.strip() for line in lines for command in line.split("&&")]
    return [command for command in commands if "pip install" in command]


def test_every_package_of_the_image_is_locked_with_its_hash():
    locked = (ROOT / "requirements" / "image.txt").read_text()
    packages = [
        line
        for line in locked.splitlines()
        if line and not line.startswith((" ", "#", "-"))
    ]
    assert all(line.rstrip(" \\").partition("==")[2] for line in packages)
    assert locked.count("--hash=sha256:") >= len(packages)
    for name in ("msgspec", "uvicorn", "psycopg", "cryptography"):
        assert any(line.startswith(f"{name}==") for line in packages), name
