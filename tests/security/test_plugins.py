"""Plugins are not the server: who may install what, what an installation may bring, what a plugin may reach."""
# ruff: noqa: F811  its fixtures are those of another folder

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from modelyard.base.errors import PackageError, PluginError
from modelyard.base.settings import PluginSettings
from modelyard.plugins.bundle import read_bundle
from modelyard.plugins.environment import Environments
from modelyard.plugins.market import add_to_folder
from modelyard.plugins.package import Package, package_folder, write_package
from modelyard.plugins.requirements import asked_for, check_line, check_lock, listed
from modelyard.plugins.signature import generate_keys, sign
from modelyard.runtime.caller import ForbiddenError
from modelyard.runtime.plugins import Installer
from tests.gateway.conftest import start_gateway  # noqa: F401  a fixture of `plugged`
from tests.plugins.conftest import EXAMPLES, Plugged, environments, plugged  # noqa: F401  fixtures

Plug = Callable[..., Plugged]
OPERATORS = "sk-operator-key"
PRIVATE, PUBLIC = generate_keys()
TENANTS_ADMIN = Installer(is_operator=False, allows_unsigned=True)
CHOSEN = PluginSettings(debug_port=0)


# ------------------------------------------------------------------------------------------------ who may install


@pytest.fixture
def package() -> Package:
    return package_folder(EXAMPLES / "mockgpt")


def with_tenants(plug: Plug, **changes: Any) -> tuple[Plugged, Callable[..., httpx.Response]]:
    """A gateway with a second tenant, and who calls its admin API: the operator, or with `as_admin` the tenant's."""
    one = plug(chosen=msgspec.structs.replace(CHOSEN, **changes), api_keys=[OPERATORS])
    origin = one.running.origin
    operator = {"authorization": f"Bearer {OPERATORS}"}
    made = httpx.post(f"{origin}/admin/v1/tenants", json={"name": "acme"}, headers=operator)
    assert made.status_code == 201, made.text
    key = httpx.post(f"{origin}/admin/v1/keys?tenant=acme", json={"name": "a", "role": "owner"}, headers=operator)
    assert key.status_code == 201, key.text
    acme = {"authorization": f"Bearer {key.json()['key']}"}

    def call(method: str, path: str, *, as_admin: bool = False, **how: Any) -> httpx.Response:
        headers = acme if as_admin else operator
        return httpx.request(method, f"{origin}/admin/v1/{path}", headers=headers, timeout=60, **how)

    return one, call


def trusting(tmp_path: Path) -> list[str]:
    (tmp_path / "us.pem").write_bytes(PUBLIC)
    return [str(tmp_path / "us.pem")]


def test_a_tenants_admin_installs_nothing_that_nobody_trusted_has_signed(
    plugged: Plug, tmp_path: Path, package: Package
):
    add_to_folder(tmp_path / "market", EXAMPLES / "toolbox")
    one, call = with_tenants(plugged, public_keys=trusting(tmp_path), markets=[str(tmp_path / "market")])
    refused = [
        call("POST", "plugins", as_admin=True, content=package.data),
        call("POST", "plugins?unsigned=true", as_admin=True, content=package.data),
        call("POST", "plugins/market", as_admin=True, json={"id": "modelyard/toolbox"}),
        call("POST", "plugins/market?unsigned=true", as_admin=True, json={"id": "modelyard/toolbox"}),
        call("POST", "plugins", as_admin=True, content=sign(package.data, generate_keys()[0], now=1)),
    ]
    assert [one.status_code for one in refused] == [403] * 5, [one.text for one in refused]
    assert all("not signed with a key that the operator trusts" in one.text for one in refused)
    packages = tmp_path / "plugins" / "packages"
    assert not packages.exists() or not list(packages.rglob("*.difypkg")), "nothing refused is stored"
    signed = call("POST", "plugins", as_admin=True, content=sign(package.data, PRIVATE, now=1))
    assert signed.status_code == 201, signed.text
    one.do(one.plugins.settled())
    (there,) = call("GET", "plugins", as_admin=True).json()["data"]
    assert there["plugin_id"] == "modelyard/mockgpt"


def test_what_the_operator_uploaded_is_not_a_tenants_to_install(plugged: Plug, package: Package):
    one, _ = with_tenants(plugged)
    one.do(one.plugins.upload(package.data, Installer(is_operator=True, allows_unsigned=True)))
    identifier = str(package.identifier)
    for work in (
        lambda: one.plugins.install("acme", [identifier], TENANTS_ADMIN),
        lambda: one.plugins.upload_bundle(bundle_of(package), TENANTS_ADMIN),
    ):
        with pytest.raises(ForbiddenError, match="not signed"):
            one.do(work())
    one.do(one.plugins.add("acme", package))
    with pytest.raises(ForbiddenError, match="not signed"):
        one.do(one.plugins.upgrade("acme", "modelyard/mockgpt", identifier, TENANTS_ADMIN, source="package"))


def bundle_of(package: Package) -> bytes:
    manifest = (
        "type: bundle\nname: b\nversion: 0.0.1\nauthor: me\ndependencies:\n"
        f"- type: package\n  value: {{path: {package.checksum}}}\n"
    )
    data = write_package({"manifest.yaml": manifest.encode(), f"_assets/{package.checksum}": package.data})
    assert read_bundle(data).packages()
    return data


def test_the_operator_has_to_say_it_once_there_are_several_tenants(plugged: Plug, package: Package):
    one, call = with_tenants(plugged)
    unsaid = call("POST", "plugins", content=package.data)
    assert (unsaid.status_code, "--unsigned" in unsaid.text) == (403, True)
    headers = {"x-api-key": one.yard.plugin_parts.key}
    there = f"{one.running.origin}/plugin/acme/management/install"

    def daemon(**fields: str) -> httpx.Response:
        files = {"dify_pkg": ("m.difypkg", package.data)}
        return httpx.post(f"{there}/upload/package", files=files, data=fields, headers=headers)

    assert (daemon().status_code, daemon().json()["code"]) == (403, -403)
    uploaded = daemon(unsigned="true")
    assert uploaded.status_code == 200, uploaded.text
    identifiers = {"plugin_unique_identifiers": [str(package.identifier)]}
    assert httpx.post(f"{there}/identifiers", json=identifiers, headers=headers).status_code == 403
    bundled = {"dify_bundle": ("b.difybndl", bundle_of(package))}
    assert httpx.post(f"{there}/upload/bundle", files=bundled, headers=headers).status_code == 403
    said = call("POST", "plugins?unsigned=true", content=package.data)
    assert said.status_code == 201, said.text
    one.do(one.plugins.settled())


# ------------------------------------------------------------------------------------------------ what may be installed

NOT_ASKED = (
    "./evil", "../evil", "/tmp/evil", "evil/", "file:///tmp/evil", "evil @ file:///tmp/evil", "evil@file:///tmp/evil",
    "evil @ https://example.org/evil-1-py3-none-any.whl", "https://example.org/evil.whl", "evil.whl", "./evil-1.tar.gz",
    "git+https://example.org/evil", "evil @ git+ssh://example.org/evil", "hg+file:///tmp/evil", "-e .", "-e ./evil",
    "--editable ./evil", "-r other.txt", "--requirement other.txt", "-c other.txt", "--index-url http://example.org",
    "-i http://example.org", "--extra-index-url http://example.org", "--find-links /tmp", "-f /tmp", "--no-binary :all:",
    "--pre", "--trusted-host example.org", "--config-settings x=y", "httpx --no-binary httpx", "httpx --hash=md5:00",
    "httpx --global-option=x", "httpx>=0.2 @ file:///x", "ﬁle==1", "httpx>=0.2 ./evil",
    "~/evil", "$HOME/evil", "C:\\evil", "httpx[@file:///x]", "httpx\x0c-e .", "httpx\u2028-e .",
)  # fmt: skip
ASKED = (
    "httpx", "httpx==0.28.1", "httpx>=0.27,<1", "httpx >= 0.27 , < 1", "httpx[http2,socks]~=0.27", "httpx (>=0.27)",
    "dify_plugin>=0.7.4,<0.11", "numpy==2.*", "x!=1.0", "a-b.c_d", "zope.interface===5.0", "torch==2.1.0+cpu",
    "tomli>=2; python_version < '3.11'", 'pywin32 ; sys_platform == "win32" and (os_name != "x" or extra == "y")',
    "httpx==0.28.1 --hash=sha256:" + "a" * 64 + " --hash=sha256:" + "b" * 64,
)  # fmt: skip


@pytest.mark.parametrize("line", NOT_ASKED)
def test_a_requirement_names_a_released_package_and_nothing_else(line: str):
    with pytest.raises(PackageError):
        listed(line + "\n", "requirements.txt")
    if "#" not in line:
        with pytest.raises(PackageError):
            check_line(line, "pyproject.toml")


@pytest.mark.parametrize("line", ASKED)
def test_what_packages_usually_ask_for_is_taken(line: str):
    assert listed(f"# a comment\n\n{line}  # why\n", "requirements.txt") == [line]


def test_lines_are_joined_before_they_are_read():
    text = "httpx==0.28.1 \\\n    --hash=sha256:" + "a" * 64 + "\n"
    assert listed(text, "uv.lock") == ["httpx==0.28.1 --hash=sha256:" + "a" * 64]
    with pytest.raises(PackageError, match="options of the installer"):
        listed("--index\\\n-url http://example.org\n", "requirements.txt")


def project(tmp_path: Path, text: str, lock: str = "") -> Path:
    (tmp_path / "pyproject.toml").write_text(text)
    if lock:
        (tmp_path / "uv.lock").write_text(lock)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        '[project]\nname = "x"\ndependencies = ["evil @ file:///tmp/evil"]\n',
        '[project]\nname = "x"\ndependencies = ["evil"]\n[tool.uv.sources]\nevil = { path = "./evil" }\n',
        '[project]\nname = "x"\ndependencies = ["evil"]\n[tool.uv.sources]\nevil = { git = "https://example.org/e" }\n',
        '[project]\nname = "x"\ndependencies = ["evil"]\n[tool.uv.sources]\nevil = { index = "mine" }\n',
        '[project]\nname = "x"\ndynamic = ["dependencies"]\n',
        '[project]\nname = "x"\n',
        'project = 3\n',
        '[project]\nname = "x"\ndependencies = [3]\n',
        "[[[",
    ],
)  # fmt: skip
def test_a_project_that_asks_for_more_is_refused(tmp_path: Path, text: str):
    with pytest.raises(PackageError):
        asked_for(project(tmp_path, text))


@pytest.mark.parametrize(
    "source",
    ['{ git = "https://example.org/e" }', '{ directory = "./evil" }', '{ path = "e.whl" }', '{ editable = "./evil" }',
     '{ url = "https://example.org/e.whl" }', '{ registry = "/tmp/wheels" }', '{ registry = "file:///tmp" }', "3"],
)  # fmt: skip
def test_a_lock_that_takes_a_package_from_elsewhere_is_refused(tmp_path: Path, source: str):
    lock = f'version = 1\n[[package]]\nname = "evil"\nversion = "1"\nsource = {source}\n'
    with pytest.raises(PackageError, match=r"uv\.lock"):
        check_lock(project(tmp_path, "", lock))


def test_nothing_is_built_while_a_plugin_is_installed(tmp_path: Path):
    """`setup.py` of a folder, of a source distribution, and the plugin's own: none of them runs."""
    witness = tmp_path / "ran"
    evil = tmp_path / "one" / "evil"
    evil.mkdir(parents=True)
    (evil / "setup.py").write_text(f"open({str(witness)!r}, 'w')\nfrom setuptools import setup\nsetup(name='evil')\n")
    (tmp_path / "one" / "setup.py").write_text((evil / "setup.py").read_text())
    wheels = source_distribution(tmp_path / "wheels", witness)
    made = Environments(tmp_path / "environments", os.environ, wheelhouse=wheels)
    for text in ("dify_plugin\n./evil\n", "dify_plugin\n", "dify_plugin==9.9.9\n"):
        (tmp_path / "one" / "requirements.txt").write_text(text)
        with pytest.raises(PluginError, match="cannot be installed"):
            asyncio.run(made.prepare(tmp_path / "one", name="me/one"))
    assert not witness.exists()


def source_distribution(folder: Path, witness: Path) -> Path:
    """A wheelhouse that has the SDK as a source distribution alone; building it leaves a witness."""
    import io
    import tarfile

    folder.mkdir()
    with tarfile.open(folder / "dify_plugin-9.9.9.tar.gz", "w:gz") as archive:
        for name, text in (
            ("setup.py", f"open({str(witness)!r}, 'w')\nfrom setuptools import setup\nsetup(name='dify_plugin')\n"),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: dify_plugin\nVersion: 9.9.9\n"),
        ):
            info = tarfile.TarInfo(f"dify_plugin-9.9.9/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return folder
