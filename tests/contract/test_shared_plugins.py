"""Plugins of several servers on one database: what one installs, upgrades, restricts or
removes, all have."""

import asyncio
import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tools.show.odd_plugins import odd_plugin

from modelyard.base.errors import ModelyardError, NotFoundError, PackageError
from modelyard.base.settings import PluginSettings
from modelyard.plugins.package import Package, package_folder
from modelyard.plugins.shared_packages import SharedPackages
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.file_storage import SERVER_SCOPE, one_chunk
from modelyard.storage.local_files import LocalFileStorage
from tests.conftest import make_settings
from tests.gateway.conftest import Running
from tests.plugins.conftest import PluginGateway, environments

__all__ = ["environments"]
pytestmark = pytest.mark.proof("three-nodes")
KEY = "k:" + base64.b64encode(bytes(range(32))).decode()
TOOL = {"provider": "fine", "tool": "odd", "credentials": {}, "tool_parameters": {}}


def fine_plugin(folder: Path, version: str, text: str) -> Package:
    """A plugin whose tool answers with a text."""
    path = odd_plugin(folder / version, "fine")
    for name, old, new in (
        ("main.py", "'fine'", repr(text)),
        ("manifest.yaml", "version: 0.0.1\ntype", f"version: {version}\ntype"),
    ):
        source = (path / name).read_text()
        assert old in source
        (path / name).write_text(source.replace(old, new))
    return package_folder(path)


@pytest.fixture
def servers(
    tmp_path: Path, weights_folder: Path, environments: Path, postgres_url: str
) -> Iterator[Callable[[], PluginGateway]]:
    started: list[Running] = []

    def start() -> PluginGateway:
        home = tmp_path / f"home{len(started)}"
        (home / "plugins").mkdir(parents=True)
        (home / "plugins" / "environments").symlink_to(environments)
        settings = make_settings(
            home, weights_folder, database=postgres_url, master_key=KEY
        )
        chosen = msgspec.structs.replace(PluginSettings(), debug_port=0)
        started.append(Running(msgspec.structs.replace(settings, plugins=chosen)))
        return PluginGateway(started[-1])

    yield start
    for running in started:
        running.close()


def said(gateway: PluginGateway, tenant: str) -> str:
    chunks = gateway.call("odd/fine", "tool", "invoke_tool", tenant, **TOOL)
    return "".join(chunk["message"]["text"] for chunk in chunks if chunk["type"] == "text")  # fmt: skip


def test_plugins_are_the_same_everywhere(servers: Callable[[], PluginGateway], tmp_path: Path):  # fmt: skip
    first, second = servers(), servers()
    tenant = f"plugins-{time.time_ns()}"
    old, new = (
        fine_plugin(tmp_path, version, f"said by {version}")
        for version in ("0.0.1", "0.0.2")
    )
    # Uploaded at one, installed at the other.
    first.run_on_loop(first.parts.packages.upload(old.data))
    [package] = second.run_on_loop(
        second.parts.packages.admitted([str(old.identifier)], _operator())
    )
    second.run_on_loop(second.parts.installations.add(tenant, package))
    assert (said(first, tenant), said(second, tenant)) == ("said by 0.0.1",) * 2
    # An upgrade that was answered is in force everywhere, without a wait.
    first.run_on_loop(first.parts.installations.add(tenant, new))
    assert (said(second, tenant), said(first, tenant)) == ("said by 0.0.2",) * 2
    # A server that is started later fetches what it needs.
    third = servers()
    assert said(third, tenant) == "said by 0.0.2"
    second.run_on_loop(
        second.parts.installations.grant(tenant, "odd/fine", [], has_network=False)
    )
    time.sleep(1.0)  # what the page promises
    for gateway in (first, third):
        installed = gateway.plugins.find(tenant, "odd/fine")
        assert installed.installation.has_network is False
    third.run_on_loop(third.parts.installations.uninstall(tenant, "odd/fine"))
    time.sleep(1.0)
    for gateway in (first, second):
        with pytest.raises(NotFoundError, match="is not installed"):
            said(gateway, tenant)
    # The key of the interface is one for all.
    assert len({gateway.parts.key for gateway in (first, second, third)}) == 1


def _operator() -> Any:
    from modelyard.tenant_plugins.packages import Installer

    return Installer(is_operator=True, allows_unsigned=True)


def test_another_package_in_the_place_of_one_is_refused(tmp_path: Path):
    async def work() -> None:
        storage = LocalFileStorage(tmp_path / "files", is_shared=True)
        packages = SharedPackages(storage)
        old, new = (fine_plugin(tmp_path, version, "x") for version in ("0.0.1", "0.0.2"))  # fmt: skip
        await packages.put(old)
        assert (await packages.get(old.identifier)).data == old.data
        name = f"plugins/{old.identifier.folder}.difypkg"
        for data, message in ((new.data, "in the place of odd/fine:0.0.1"), (b"no zip", "odd/fine")):  # fmt: skip
            await storage.write(SERVER_SCOPE, name, one_chunk(data))
            with pytest.raises(PackageError, match=message):
                await packages.get(old.identifier)
        await packages.remove(old.identifier)
        assert not await packages.has(old.identifier)
        with pytest.raises(NotFoundError):
            await packages.get(old.identifier)

    asyncio.run(work())


def test_a_package_that_cannot_be_shared_is_not_installed(servers: Callable[[], PluginGateway], tmp_path: Path):  # fmt: skip
    gateway = servers()
    tenant = f"away-{time.time_ns()}"

    class Away(LocalFileStorage):
        async def write(self, *arguments: Any, **options: Any) -> Any:
            raise StorageUnavailableError("the object storage is away")

    gateway.parts.host.packages._shared = SharedPackages(Away(tmp_path / "away"))  # pyright: ignore[reportPrivateUsage]
    package = fine_plugin(tmp_path, "0.0.3", "never")
    with pytest.raises(StorageUnavailableError, match="is away"):
        gateway.run_on_loop(gateway.parts.installations.add(tenant, package))
    with pytest.raises(ModelyardError, match="is not installed"):
        said(gateway, tenant)


def test_a_server_that_cannot_fetch_yet_gets_the_plugin_when_it_can(servers: Callable[[], PluginGateway], tmp_path: Path):  # fmt: skip
    first, second = servers(), servers()
    tenant = f"later-{time.time_ns()}"
    packages = second.parts.host.packages
    shared = packages._shared  # pyright: ignore[reportPrivateUsage]
    assert shared is not None

    class Away(SharedPackages):
        async def get(self, identifier: Any) -> Package:
            raise StorageUnavailableError("away")

    packages._shared = Away(LocalFileStorage(tmp_path / "none"))  # pyright: ignore[reportPrivateUsage]
    package = fine_plugin(tmp_path, "0.0.4", "late")
    first.run_on_loop(first.parts.installations.add(tenant, package))
    with pytest.raises(NotFoundError):
        said(second, tenant)
    packages._shared = shared  # pyright: ignore[reportPrivateUsage]
    deadline = time.monotonic() + 30
    while not any(plugin.plugin_id == "odd/fine" for plugin in second.plugins.installed(tenant)):  # fmt: skip
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert said(second, tenant) == "late"
