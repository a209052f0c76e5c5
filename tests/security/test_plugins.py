"""Tests for plugin isolation.

Who may install one, what an installation may contain, what a plugin can reach.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tools.show.plugin_attacks import ISOLATION_ATTACKS, PRELUDE, attacker, wheelhouse

from modelyard.base.errors import PackageError, PluginError
from modelyard.base.settings import EgressSettings, PluginSettings
from modelyard.plugins import supervisors
from modelyard.plugins.bundle import read_bundle
from modelyard.plugins.connection import PluginDiedError
from modelyard.plugins.environment import Environments
from modelyard.plugins.market import add_to_folder
from modelyard.plugins.package import Package, package_folder, write_package
from modelyard.plugins.process import LocalRuntime
from modelyard.plugins.requirements import (
    check_line,
    check_lock,
    parse_requirements,
    read_requirements,
)
from modelyard.plugins.signature import generate_keys, sign
from modelyard.plugins.tenant_folders import (
    WorkFolderStore,
    change_owner,
    empty_folder,
    folder_size,
)
from modelyard.tenancy.caller import ForbiddenError
from modelyard.tenant_plugins.packages import Installer
from modelyard.testing import Answer, Upstream
from modelyard.transport.egress import EgressRules
from modelyard.transport.egress_proxy import EgressProxy
from tests.gateway.conftest import start_gateway  # noqa: F401
from tests.plugins.conftest import EXAMPLES, PluginGateway, environments, plugged  # noqa: F401

pytestmark = pytest.mark.proof("plugin-escape")

Plug = Callable[..., PluginGateway]
OPERATORS = "sk-operator-key"
PRIVATE, PUBLIC = generate_keys()
TENANTS_ADMIN = Installer(is_operator=False, allows_unsigned=True)
CHOSEN = PluginSettings(debug_port=0)


# ---------------------------------------------------------------------- who may install


@pytest.fixture
def package() -> Package:
    return package_folder(EXAMPLES / "mockgpt")


def gateway_with_tenants(
    plug: Plug, **changes: Any
) -> tuple[PluginGateway, Callable[..., httpx.Response]]:
    """A gateway with a second tenant, and a function to call its admin API.

    It calls as the operator, or with `as_admin` as the tenant's administrator.
    """
    gateway = plug(
        chosen=msgspec.structs.replace(CHOSEN, **changes), api_keys=[OPERATORS]
    )
    origin = gateway.running.origin
    operator = {"authorization": f"Bearer {OPERATORS}"}
    tenant_response = httpx.post(
        f"{origin}/admin/v1/tenants", json={"name": "acme"}, headers=operator
    )
    assert tenant_response.status_code == 201, tenant_response.text
    key = httpx.post(
        f"{origin}/admin/v1/keys?tenant=acme",
        json={"name": "a", "role": "owner"},
        headers=operator,
    )
    assert key.status_code == 201, key.text
    acme = {"authorization": f"Bearer {key.json()['key']}"}

    def call(
        method: str, path: str, *, as_admin: bool = False, **request_options: Any
    ) -> httpx.Response:
        headers = acme if as_admin else operator
        return httpx.request(
            method,
            f"{origin}/admin/v1/{path}",
            headers=headers,
            timeout=60,
            **request_options,
        )

    return gateway, call


def trusted_key_files(tmp_path: Path) -> list[str]:
    (tmp_path / "us.pem").write_bytes(PUBLIC)
    return [str(tmp_path / "us.pem")]


def test_a_tenants_admin_installs_nothing_that_nobody_trusted_has_signed(
    plugged: Plug,  # noqa: F811
    tmp_path: Path,
    package: Package,
):
    add_to_folder(tmp_path / "market", EXAMPLES / "toolbox")
    gateway, call = gateway_with_tenants(
        plugged,
        public_keys=trusted_key_files(tmp_path),
        markets=[str(tmp_path / "market")],
    )
    refused = [
        call("POST", "plugins", as_admin=True, content=package.data),
        call("POST", "plugins?unsigned=true", as_admin=True, content=package.data),
        call("POST", "plugins/market", as_admin=True, json={"id": "modelyard/toolbox"}),
        call(
            "POST",
            "plugins/market?unsigned=true",
            as_admin=True,
            json={"id": "modelyard/toolbox"},
        ),
        call(
            "POST",
            "plugins",
            as_admin=True,
            content=sign(package.data, generate_keys()[0], signed_at=1),
        ),
    ]
    assert [response.status_code for response in refused] == [403] * 5, [
        response.text for response in refused
    ]
    assert all(
        "not signed with a key that the operator trusts" in response.text
        for response in refused
    )
    packages = tmp_path / "plugins" / "packages"
    assert not packages.exists() or not list(packages.rglob("*.difypkg")), (
        "nothing refused is stored"
    )
    signed = call(
        "POST",
        "plugins",
        as_admin=True,
        content=sign(package.data, PRIVATE, signed_at=1),
    )
    assert signed.status_code == 201, signed.text
    gateway.run_on_loop(gateway.parts.installations.wait_until_idle())
    (installed_plugin,) = call("GET", "plugins", as_admin=True).json()["data"]
    assert installed_plugin["plugin_id"] == "modelyard/mockgpt"


def test_a_tenant_cannot_install_the_operators_unsigned_upload(
    plugged: Plug,  # noqa: F811
    package: Package,
):
    gateway, _ = gateway_with_tenants(plugged)
    gateway.run_on_loop(
        gateway.parts.packages.upload(
            package.data, Installer(is_operator=True, allows_unsigned=True)
        )
    )
    identifier = str(package.identifier)
    for work in (
        lambda: gateway.parts.installations.install(
            "acme", [identifier], TENANTS_ADMIN
        ),
        lambda: gateway.parts.packages.upload_bundle(bundle_of(package), TENANTS_ADMIN),
    ):
        with pytest.raises(ForbiddenError, match="not signed"):
            gateway.run_on_loop(work())
    gateway.run_on_loop(gateway.parts.installations.add("acme", package))
    with pytest.raises(ForbiddenError, match="not signed"):
        gateway.run_on_loop(
            gateway.parts.installations.upgrade(
                "acme", "modelyard/mockgpt", identifier, TENANTS_ADMIN, source="package"
            )
        )


def bundle_of(package: Package) -> bytes:
    manifest = (
        "type: bundle\nname: b\nversion: 0.0.1\nauthor: me\ndependencies:\n"
        f"- type: package\n  value: {{path: {package.checksum}}}\n"
    )
    data = write_package(
        {
            "manifest.yaml": manifest.encode(),
            f"_assets/{package.checksum}": package.data,
        }
    )
    assert read_bundle(data).packages()
    return data


def test_unsigned_plugins_need_confirmation_with_several_tenants(
    plugged: Plug,  # noqa: F811
    package: Package,
):
    gateway, call = gateway_with_tenants(plugged)
    unsaid = call("POST", "plugins", content=package.data)
    assert (unsaid.status_code, "--unsigned" in unsaid.text) == (403, True)
    # The console asks the operator for confirmation on this code.
    assert unsaid.json()["error"]["code"] == "unsigned_plugin"
    headers = {"x-api-key": gateway.yard.services.plugins.key}
    management_url = f"{gateway.running.origin}/plugin/acme/management/install"

    def daemon(**fields: str) -> httpx.Response:
        files = {"dify_pkg": ("m.difypkg", package.data)}
        return httpx.post(
            f"{management_url}/upload/package",
            files=files,
            data=fields,
            headers=headers,
        )

    # In the body of a 200, where clients of the daemon look for it.
    assert (daemon().status_code, daemon().json()["code"]) == (200, -403)
    uploaded = daemon(unsigned="true")
    assert uploaded.status_code == 200, uploaded.text
    identifiers = {"plugin_unique_identifiers": [str(package.identifier)]}
    assert (
        httpx.post(
            f"{management_url}/identifiers", json=identifiers, headers=headers
        ).json()["code"]
        == -403
    )
    bundled = {"dify_bundle": ("b.difybndl", bundle_of(package))}
    assert (
        httpx.post(
            f"{management_url}/upload/bundle", files=bundled, headers=headers
        ).json()["code"]
        == -403
    )
    response = call("POST", "plugins?unsigned=true", content=package.data)
    assert response.status_code == 201, response.text
    gateway.run_on_loop(gateway.parts.installations.wait_until_idle())


# ---------------------------------------------------------------- what may be installed

NOT_ASKED = (
    "./evil", "../evil", "/tmp/evil", "evil/", "file:///tmp/evil", "evil @ file:///tmp/evil", "evil@file:///tmp/evil",
    "evil @ https://example.org/evil-1-py3-none-any.whl", "https://example.org/evil.whl", "evil.whl", "./evil-1.tar.gz",
    "git+https://example.org/evil", "evil @ git+ssh://example.org/evil", "hg+file:///tmp/evil", "-e .", "-e ./evil",
    "--editable ./evil", "-r other.txt", "--requirement other.txt", "-c other.txt", "--index" "-url http://example.org",
    "-i http://example.org", "--extra-index" "-url http://example.org", "--find-links /tmp", "-f /tmp", "--no-binary :all:",
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
        parse_requirements(line + "\n", "requirements.txt")
    if "#" not in line:
        with pytest.raises(PackageError):
            check_line(line, "pyproject.toml")


@pytest.mark.parametrize("line", ASKED)
def test_common_requirements_are_accepted(line: str):
    assert parse_requirements(
        f"# a comment\n\n{line}  # why\n", "requirements.txt"
    ) == [line]


def test_continued_lines_are_joined_before_parsing():
    text = "httpx==0.28.1 \\\n    --hash=sha256:" + "a" * 64 + "\n"
    assert parse_requirements(text, "uv.lock") == [
        "httpx==0.28.1 --hash=sha256:" + "a" * 64
    ]
    with pytest.raises(PackageError, match="installer options"):
        parse_requirements("--ind\\\nex-url http://example.org\n", "requirements.txt")


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
def test_a_project_with_other_settings_is_refused(tmp_path: Path, text: str):
    with pytest.raises(PackageError):
        read_requirements(project(tmp_path, text))


@pytest.mark.parametrize(
    "source",
    ['{ git = "https://example.org/e" }', '{ directory = "./evil" }', '{ path = "e.whl" }', '{ editable = "./evil" }',
     '{ url = "https://example.org/e.whl" }', '{ registry = "/tmp/wheels" }', '{ registry = "file:///tmp" }', "3"],
)  # fmt: skip
def test_a_lock_with_another_source_is_refused(tmp_path: Path, source: str):
    lock = (
        f'version = 1\n[[package]]\nname = "evil"\nversion = "1"\nsource = {source}\n'
    )
    with pytest.raises(PackageError, match=r"uv\.lock"):
        check_lock(project(tmp_path, "", lock))


def test_nothing_is_built_while_a_plugin_is_installed(tmp_path: Path):
    """No `setup.py` runs: of a folder, a source distribution, or the plugin itself."""
    witness = tmp_path / "ran"
    evil = tmp_path / "one" / "evil"
    evil.mkdir(parents=True)
    (evil / "setup.py").write_text(
        f"open({str(witness)!r}, 'w')\nfrom setuptools import setup\nsetup(name='evil')\n"
    )
    (tmp_path / "one" / "setup.py").write_text((evil / "setup.py").read_text())
    wheels = source_distribution(tmp_path / "wheels", witness)
    plugin_environments = Environments(
        tmp_path / "environments", os.environ, wheelhouse=wheels
    )
    for text in ("dify_plugin\n./evil\n", "dify_plugin\n", "dify_plugin==9.9.9\n"):
        (tmp_path / "one" / "requirements.txt").write_text(text)
        with pytest.raises(PluginError, match="cannot be installed"):
            asyncio.run(plugin_environments.prepare(tmp_path / "one", name="me/one"))
    assert not witness.exists()


def test_modules_are_compiled_and_not_run_while_a_plugin_is_installed(tmp_path: Path):
    witness = tmp_path / "ran"
    program = f"open({str(witness)!r}, 'w')"
    (tmp_path / "wheels").mkdir()
    files = {
        "dify_plugin/begin.py": program,
        "dify_plugin/broken.py": "def (",
        "dify_plugin/deep.py": "(" * 5000,
        "hook.pth": f"import os; {program}",
    }
    wheels = wheelhouse(tmp_path / "wheels", **files)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "requirements.txt").write_text("dify_plugin\n")
    plugin_environments = Environments(
        tmp_path / "environments", os.environ, wheelhouse=wheels
    )
    environment = asyncio.run(
        plugin_environments.prepare(tmp_path / "one", name="me/one")
    )
    compiled = environment.folder.rglob("dify_plugin/__pycache__/*.pyc")
    assert {path.name.partition(".")[0] for path in compiled} == {"__init__", "begin"}
    assert not witness.exists()


def source_distribution(folder: Path, witness: Path) -> Path:
    """Create a wheelhouse with the SDK as a source distribution only.

    Building it leaves a witness file.
    """
    import io
    import tarfile

    folder.mkdir()
    with tarfile.open(folder / "dify_plugin-9.9.9.tar.gz", "w:gz") as archive:
        for name, text in (
            (
                "setup.py",
                f"open({str(witness)!r}, 'w')\nfrom setuptools import setup\nsetup(name='dify_plugin')\n",
            ),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: dify_plugin\nVersion: 9.9.9\n"),
        ):
            info = tarfile.TarInfo(f"dify_plugin-9.9.9/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return folder


# -------------------------------------------------------------- what a plugin can reach

SMALL = PluginSettings(debug_port=0, memory_mb=200, processes=16, disk_mb=32)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local wheelhouse instead of the index: installing is quick and offline."""
    return wheelhouse(tmp_path_factory.mktemp("wheels"))


class Prisoner:
    """A gateway with a plugin that runs given code, for two tenants."""

    def __init__(self, plug: Plug, folder: Path, wheels: Path, **changes: Any) -> None:
        plugin_settings = msgspec.structs.replace(
            SMALL, wheelhouse=str(wheels), **changes.pop("chosen", {})
        )
        self.gateway = plug(chosen=plugin_settings, **changes)
        self.folder = folder
        self.home = self.gateway.yard.settings.home_path
        for tenant in ("acme", "globex"):
            self.gateway.run_on_loop(
                self.gateway.parts.installations.add(
                    tenant, package_folder(attacker(folder))
                )
            )

    async def _run_in_plugin(
        self,
        tenant: str,
        code: str,
        variables: dict[str, Any],
        plugin: str = "attacker",
    ) -> list[Any]:
        parameters = {"code": PRELUDE + code, "around": variables}
        data = {
            "provider": plugin,
            "tool": "odd",
            "credentials": {},
            "tool_parameters": parameters,
        }
        stream = self.gateway.plugins.call(
            tenant, f"odd/{plugin}", "tool", "invoke_tool", data
        )
        return [chunk["message"]["text"] async for chunk in stream]

    def run_code(
        self,
        code: str,
        tenant: str = "acme",
        *,
        plugin: str = "attacker",
        **variables: Any,
    ) -> dict[str, Any]:
        """Run code; return `got` (its result), or `how` (the reason of a refusal)."""
        first_text, answer = self.gateway.run_on_loop(
            self._run_in_plugin(tenant, code, variables, plugin)
        )
        assert first_text == "began"
        return json.loads(answer)

    def refusal_of(self, code: str, tenant: str = "acme", **variables: Any) -> str:
        answer = self.run_code(code, tenant, **variables)
        assert answer.get("refused"), f"{code!r}: {answer}"
        return str(answer["how"])

    def runtime(self, tenant: str = "acme") -> LocalRuntime:
        identifier = self.gateway.plugins.find(tenant, "odd/attacker").identifier
        return self.gateway.parts.host._runtimes[tenant, identifier]  # type: ignore[attr-defined,return-value]


@pytest.fixture
def prisoner(plugged: Plug, tmp_path: Path, wheels: Path) -> Prisoner:  # noqa: F811
    return Prisoner(plugged, tmp_path / "odd", wheels)


def test_a_plugin_reads_and_writes_what_is_its_own_and_nothing_else(prisoner: Prisoner):
    key = prisoner.home / "master.key"
    key.touch()
    prisoner.run_code(
        "open(os.environ['HOME'] + '/secret', 'w').write('canary')", "globex"
    )
    other_tenant_file = next(prisoner.home.glob("plugins/work/globex/*/*/secret"))
    for path in (
        key,
        prisoner.home,
        other_tenant_file,
        "/etc/passwd",
        "/etc/shadow",
        Path.home() / ".ssh",
        __file__,
        "/proc/1/environ",
    ):
        prisoner.refusal_of(
            "os.listdir(path) if os.path.isdir(path) else open(path).read()",
            path=str(path),
        )
    code = prisoner.gateway.parts.host.packages.folder(
        prisoner.gateway.plugins.find("acme", "odd/attacker").identifier
    )
    venv = prisoner.gateway.parts.host.environments.folder.resolve()
    for path in (
        code / "main.py",
        prisoner.home / "new",
        other_tenant_file,
        os.__file__,
        *venv.glob("*/pyvenv.cfg"),
    ):
        prisoner.refusal_of("open(path, 'a')", path=str(path))
    fine = prisoner.run_code(
        "import tempfile\nopen(os.environ['HOME'] + '/a', 'w').write('mine')\nopen('main.py').read()\n"
        "f = tempfile.NamedTemporaryFile()\nf.write(b'x')\nfound = open(os.environ['HOME'] + '/a').read(), os.listdir('.')"
    )  # fmt: skip
    assert "mine" in fine["got"]
    assert "main.py" in fine["got"]


def test_a_plugins_environment_has_no_secrets(
    prisoner: Prisoner, monkeypatch: pytest.MonkeyPatch
):
    names = set(eval(prisoner.run_code("found = sorted(os.environ)")["got"]))
    allowed_names = {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "HOME", "TMPDIR", "INSTALL_METHOD", "PYTHONUNBUFFERED",
             "PYTHONDONTWRITEBYTECODE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "TIKTOKEN_CACHE_DIR"}  # fmt: skip
    assert {name for name in names if "proxy" not in name.lower()} <= allowed_names


def test_a_plugins_tenants_share_nothing(prisoner: Prisoner):
    """Neither memory nor files nor output; each tenant has its own process and user."""
    prisoner.run_code(
        "import builtins\nbuiltins.canary = 'canary'\nopen('/dev/shm/canary', 'w')\nopen(os.environ['TMPDIR'] + '/canary', 'w')\n"
        "os.write(1, b'canary of globex\\n')", "globex",
    )  # fmt: skip
    assert (
        prisoner.run_code("import builtins\nfound = builtins.canary", "globex")["got"]
        == "canary"
    )
    assert (
        prisoner.run_code("import builtins\nfound = hasattr(builtins, 'canary')")["got"]
        == "False"
    )
    assert (
        prisoner.run_code(
            "found = os.listdir('/dev/shm') + os.listdir(os.environ['TMPDIR'])"
        )["got"]
        == "[]"
    )
    identifier = prisoner.gateway.plugins.find("acme", "odd/attacker").identifier
    host = prisoner.gateway.parts.host
    assert "canary of globex" in str(host.lines("globex", identifier))
    assert not host.lines("acme", identifier)
    users = {
        tenant: prisoner.run_code("found = os.getuid()", tenant)["got"]
        for tenant in ("acme", "globex")
    }
    if os.geteuid() == 0:
        assert len({"0", *users.values()}) == 3, users
    other_pid = prisoner.runtime("globex").instances[0].spawned.pid
    prisoner.refusal_of("os.kill(other, 0)", other=other_pid)


def test_logs_are_shown_only_to_their_tenant(
    plugged: Plug,  # noqa: F811
    tmp_path: Path,
    wheels: Path,
):
    gateway, call = gateway_with_tenants(plugged, wheelhouse=str(wheels))
    plugin_package = package_folder(attacker(tmp_path / "odd"))
    for tenant in ("default", "acme"):
        gateway.run_on_loop(gateway.parts.installations.add(tenant, plugin_package))
        text = f"of {tenant}\n"
        code = f"import os\nos.write(1, {text.encode()!r})"
        data = {
            "provider": "attacker",
            "tool": "odd",
            "credentials": {},
            "tool_parameters": {"code": code, "around": {}},
        }
        gateway.run_on_loop(
            gateway.plugins.call_once(
                tenant, "odd/attacker", "tool", "invoke_tool", data
            )
        )
    (acme_plugin,) = call("GET", "plugins", as_admin=True).json()["data"]
    (default_plugin,) = call("GET", "plugins").json()["data"]
    read = {
        "admin": call("GET", f"plugins/{acme_plugin['id']}/logs", as_admin=True).text,
        "operator": call("GET", f"plugins/{default_plugin['id']}/logs").text,
        "operator of acme": call(
            "GET", f"plugins/{acme_plugin['id']}/logs?tenant=acme"
        ).text,
    }
    assert [("of acme" in text, "of default" in text) for text in read.values()] == [
        (True, False), (False, True), (True, False),
    ]  # fmt: skip
    assert (
        call("GET", f"plugins/{default_plugin['id']}/logs", as_admin=True).status_code
        == 404
    )
    assert (
        call(
            "GET", f"plugins/{default_plugin['id']}/logs?tenant=default", as_admin=True
        ).status_code
        == 404
    )


KERNEL = {
    name: code
    for name, code in ISOLATION_ATTACKS.items()
    if "call(" in code
    and not any(target in code for target in ("victim", "server", "beside"))
}


def test_unneeded_system_calls_are_refused(prisoner: Prisoner):
    assert len(KERNEL) >= 9
    for code in KERNEL.values():
        prisoner.refusal_of(code, shared=0)
    for code in ("socket.socket(socket.AF_UNIX)", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
                 "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
                 "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)", "os.setuid(0)"):  # fmt: skip
        prisoner.refusal_of(code)
    fine = "a, b = socket.socketpair()\na.send(b'x')\nfound = b.recv(1), subprocess.run(['/bin/echo', 'x'], capture_output=True).stdout"
    assert prisoner.run_code(fine)["got"] == "(b'x', b'x\\n')"


def test_plugins_of_one_tenant_do_not_reach_each_other(prisoner: Prisoner):
    """They share a supervisor and a user, but each sees only its own part."""
    other_folder = attacker(prisoner.folder, "other")
    prisoner.gateway.run_on_loop(
        prisoner.gateway.parts.installations.add("acme", package_folder(other_folder))
    )
    code = prisoner.gateway.parts.host.packages.folder(
        prisoner.gateway.plugins.find("acme", "odd/other").identifier
    )
    data = {"provider": "other", "tool": "odd", "credentials": {}}
    write_code = (
        "open(os.environ['HOME'] + '/kept', 'w').write('canary')\nfound = os.getpid()"
    )
    call = {**data, "tool_parameters": {"code": PRELUDE + write_code, "around": {}}}

    async def read_texts() -> list[str]:
        stream = prisoner.gateway.plugins.call(
            "acme", "odd/other", "tool", "invoke_tool", call
        )
        return [chunk["message"]["text"] async for chunk in stream]

    pid = int(json.loads(prisoner.gateway.run_on_loop(read_texts())[1])["got"])
    stored_file = next(prisoner.home.glob("plugins/work/acme/*other/*/kept"))
    for path in (
        stored_file,
        stored_file.parent,
        code / "main.py",
        f"/proc/{pid}/environ",
    ):
        prisoner.refusal_of(
            "os.listdir(path) if os.path.isdir(path) else open(path).read()",
            path=str(path),
        )
    prisoner.refusal_of("open(path, 'w')", path=str(stored_file))
    prisoner.refusal_of("os.kill(pid, 0)", pid=pid)


def _supervisor_module() -> Any:
    """Return the supervisor's program as a module that leaves other processes alone."""
    import importlib.util

    real = Path(supervisors.__file__).with_name("supervisor.py")
    spec = importlib.util.spec_from_file_location("supervisor_under_test", real)
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
        sys.modules.pop("confine", None)
    # The test process has other children.
    module._children, module._reap = (lambda parent: []), (lambda: True)
    return module


def test_a_zygotes_reports_are_trusted_only_for_its_children(tmp_path: Path):
    """The zygote runs code of an environment.

    It must not get another process killed by reporting it as a plugin.
    """
    module = _supervisor_module()
    victim = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    try:
        for pid in (victim.pid, 1, os.getpid()):
            supervisor_host_end, host = socket.socketpair(
                socket.AF_UNIX, socket.SOCK_SEQPACKET
            )
            supervisor_zygote_end, zygote = socket.socketpair(
                socket.AF_UNIX, socket.SOCK_SEQPACKET
            )
            with supervisor_host_end, host, supervisor_zygote_end, zygote:
                supervisor = module.Supervisor(
                    supervisor_host_end, supervisor_zygote_end, 999_999_999
                )
                zygote.send(
                    json.dumps({"event": "spawned", "id": 1, "pid": pid}).encode()
                )
                assert not supervisor._handle_zygote_event(), "it is given up"
                zygote.send(
                    json.dumps(
                        {"event": "exited", "id": 1, "pid": pid, "status": 0}
                    ).encode()
                )
                supervisor._handle_zygote_event()
                for rubbish in (
                    b"{",
                    b"[]",
                    b"[" * 100_000,
                    b'{"event": "spawned", "id": "x", "pid": 1}',
                ):
                    zygote.send(rubbish)
                    assert not supervisor._handle_zygote_event()
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_the_exit_of_a_plugin_that_does_not_exist_changes_nothing():
    module = _supervisor_module()
    pair = (socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor_host_end, host = socket.socketpair(*pair)
    supervisor_zygote_end, zygote = socket.socketpair(*pair)
    plugin = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    with supervisor_host_end, host, supervisor_zygote_end, zygote:
        # This process stands in for the zygote: the plugin is its child.
        supervisor = module.Supervisor(
            supervisor_host_end, supervisor_zygote_end, os.getpid()
        )

        def report(event: str, number: int, pid: int) -> bool:
            message = {"event": event, "id": number, "pid": pid, "status": 0}
            zygote.send(json.dumps(message).encode())
            return supervisor._handle_zygote_event()

        try:
            assert report("spawned", 1, plugin.pid)
            assert json.loads(host.recv(1000))["pid"] == plugin.pid
            for number, pid in ((2, plugin.pid), (1, 999_999_999)):
                assert report("exited", number, pid)
                assert json.loads(host.recv(1000)) == {
                    "event": "not_found",
                    "error": f"plugin {number} has no process {pid}",
                }
                assert plugin.poll() is None
            assert not report("spawned", 2, plugin.pid), "it is plugin 1 already"
            # The plugin is registered as before: its own exit is taken.
            assert report("exited", 1, plugin.pid)
            exited = {"event": "exited", "id": 1, "status": 0}
            assert json.loads(host.recv(1000)) == exited
            assert plugin.wait(60) == -signal.SIGKILL
            # One that was gone before it could be registered.
            assert report("exited", 3, 999_999_999)
            assert json.loads(host.recv(1000))["id"] == 3
        finally:
            plugin.kill()
            plugin.wait()


# ------------------------------------------------------------------------------- egress


def test_a_plugin_reaches_only_what_the_egress_rules_allow(
    prisoner: Prisoner, upstream: Callable[..., Upstream]
):
    server = upstream(lambda request: Answer(body=b"canary"))
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    origin = prisoner.gateway.running.origin
    gateway_port = int(origin.rpartition(":")[2])
    prisoner.refusal_of("socket.create_connection(('127.0.0.1', port), 2)", port=port)
    prisoner.refusal_of(
        "socket.create_connection(('127.0.0.1', port), 2)", port=gateway_port
    )
    for code in (
        code for name, code in ISOLATION_ATTACKS.items() if name.startswith("go out")
    ):
        prisoner.refusal_of(code, port=port, origin=origin, debug_port=port)
    prisoner.refusal_of(
        "urllib.request.urlopen('http://127.0.0.1:%d/' % port, timeout=5)", port=port
    )
    assert not server.requests


def test_a_plugin_reaches_listed_hosts_and_this_servers_files(
    plugged: Plug,  # noqa: F811
    tmp_path: Path,
    wheels: Path,
    upstream: Callable[..., Upstream],
):
    server = upstream(lambda request: Answer(body=b"canary"))
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    egress = EgressSettings(private=[f"127.0.0.1:{port}"])
    prisoner = Prisoner(plugged, tmp_path / "odd", wheels, egress=egress)
    plain = "found = urllib.request.urlopen('http://127.0.0.1:%d/x' % port, timeout=5).read()"
    assert prisoner.run_code(plain, port=port)["got"] == "b'canary'"
    request = "b'GET /x HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n'"
    tunnel = f"found = proxied('CONNECT 127.0.0.1:%d HTTP/1.1\\r\\n' % port, {request})"
    assert "200 Connection established" in prisoner.run_code(tunnel, port=port)["got"]
    yard = prisoner.gateway.yard
    stored_file = asyncio.run(
        yard.services.storage.files.add("acme", "a.txt", b"canary of a file")
    )
    query = yard.services.storage.files.sign("read", "acme", stored_file.id, seconds=60)
    url = f"{prisoner.gateway.running.origin}/files/{stored_file.id}?{query}"
    assert (
        "canary"
        in prisoner.run_code(
            "found = urllib.request.urlopen(url, timeout=5).read()", url=url
        )["got"]
    )


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.1\r\n", 403),
        ("CONNECT 127.0.0.1 HTTP/1.1\r\n", 400),
        ("CONNECT 127.0.0.1:99999 HTTP/1.1\r\n", 400),
        ("CONNECT user@127.0.0.1:80 HTTP/1.1\r\n", 400),
        ("rubbish\r\n", 400),
        ("GET http://x/ HTTP/1.1\r\nno header\r\n", 400),
        ("GET https://example.org/ HTTP/1.1\r\n", 400),
        ("GET ftp://example.org/ HTTP/1.1\r\n", 403),
        ("GET http://u:p@127.0.0.1/ HTTP/1.1\r\n", 403),
        ("POST http://OWN/files/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", 403),
        ("POST http://OWN/files/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n", 400),
        ("POST http://OWN/files/x HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n", 400),
        ("POST http://OWN/files/x HTTP/1.1\r\nContent-Length: +3\r\n", 400),
        ("GET http://OWN/files%2f..%2fadmin HTTP/1.1\r\n", 403),
        ("GET http://OWN/files//x HTTP/1.1\r\n", 403),
        ("GET http://OWN/admin/v1/settings?/files/ HTTP/1.1\r\n", 403),
        ("CONNECT OWN HTTP/1.1\r\n", 403),
    ],
)  # fmt: skip
def test_ambiguous_requests_to_the_egress_proxy_are_refused(head: str, status: int):
    async def work() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as gateway_socket:
            where = f"127.0.0.1:{gateway_socket.getsockname()[1]}"
            egress_proxy = EgressProxy(EgressRules, lambda: f"http://{where}")
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            await egress_proxy.start(listener)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write((head.replace("OWN", where) + "\r\n").encode())
            answer = await reader.read()
            writer.close()
            egress_proxy.close()
            gateway_socket.setblocking(False)
            with pytest.raises(BlockingIOError):  # nobody connected
                gateway_socket.accept()
            return answer

    assert asyncio.run(work()).startswith(f"HTTP/1.1 {status} ".encode())


def test_an_egress_proxy_that_closes_reports_no_error():
    reported: list[Any] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        egress_proxy = EgressProxy(EgressRules, lambda: "http://127.0.0.1:1")
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        await egress_proxy.start(listener)
        # The proxy waits for the rest of the request.
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"CONNECT ")
        await asyncio.sleep(0.1)
        assert egress_proxy._connections
        egress_proxy.close()
        await asyncio.sleep(0.1)
        writer.close()
        await writer.wait_closed()

    asyncio.run(work())
    assert reported == []


def test_the_egress_proxy_requires_its_password():
    async def work(authorization: str) -> bytes:
        egress_proxy = EgressProxy(EgressRules, lambda: "http://127.0.0.1:1", "word")
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        await egress_proxy.start(listener)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"CONNECT 10.0.0.1:443 HTTP/1.1\r\nProxy-Authorization: {authorization}\r\n\r\n".encode()
        )
        answer = await reader.read()
        writer.close()
        egress_proxy.close()
        return answer

    assert asyncio.run(work("Basic bm9ib2R5OndvcmQ=")).startswith(b"HTTP/1.1 407 ")
    assert asyncio.run(work("Basic wörd")).startswith(b"HTTP/1.1 407 ")
    assert asyncio.run(work("Basic cGx1Z2luOndvcmQ=")).startswith(b"HTTP/1.1 403 ")


# ---------------------------------------------------------------------- resource limits


def test_an_endless_call_is_terminated_and_delays_nobody_else(
    plugged: Plug,  # noqa: F811
    tmp_path: Path,
    wheels: Path,
):
    """The tenant's plugin is replaced; another tenant's plugin answers meanwhile."""
    prisoner = Prisoner(plugged, tmp_path / "odd", wheels, chosen={"call_seconds": 8.0})
    spinning = asyncio.run_coroutine_threadsafe(
        prisoner._run_in_plugin("acme", "while True: pass", {}),
        prisoner.gateway.running.loop,
    )
    first = prisoner.run_code("found = os.getpid()", "globex")["got"]
    assert not spinning.done()
    with pytest.raises(PluginDiedError, match="Call exceeded 8 s"):
        spinning.result(60)
    assert prisoner.run_code("found = 'again'")["got"] == "again"
    assert prisoner.run_code("found = os.getpid()", "globex")["got"] == first


def test_a_plugin_over_its_disk_limit_is_terminated_and_emptied(prisoner: Prisoner):
    with pytest.raises(PluginDiedError, match="Disk limit of 32 MB exceeded"):
        prisoner.gateway.run_on_loop(
            prisoner._run_in_plugin(
                "acme",
                "n = 0\nwhile True:\n    n += 1\n    open(os.environ['HOME'] + '/f%d' % n, 'wb').write(bytes(1 << 20)); time.sleep(0.01)",
                {},
            )
        )
    assert (
        "'f1'" not in prisoner.run_code("found = os.listdir(os.environ['HOME'])")["got"]
    )


def test_the_least_recently_used_plugin_is_stopped(
    plugged: Plug,  # noqa: F811
    tmp_path: Path,
    wheels: Path,
):
    prisoner = Prisoner(plugged, tmp_path / "odd", wheels, chosen={"running": 1})
    prisoner.run_code("found = 1")
    assert len(prisoner.runtime().instances) == 1
    prisoner.run_code("found = 1", "globex")
    assert not prisoner.runtime().instances
    assert prisoner.run_code("found = 'again'")["got"] == "again"


# -------------------------------------------------------------- missing kernel features


def test_no_plugin_starts_without_confinement(
    plugged: Plug,  # noqa: F811
    tmp_path: Path,
    wheels: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The supervisor sees a kernel without Landlock."""
    program = tmp_path / "supervisor.py"
    real = Path(supervisors.__file__).with_name("supervisor.py")
    text = real.read_text().replace("os.path.abspath(__file__)", repr(str(real)))
    program.write_text(
        text.replace(
            "import confine ", "import confine\nconfine.landlock_abi = lambda: 0\n"
        )
    )
    monkeypatch.setattr(supervisors, "_SUPERVISOR_SCRIPT", program)
    prisoner = Prisoner(plugged, tmp_path / "odd", wheels)
    with pytest.raises(
        PluginError,
        match="cannot be confined on this machine, so none is started: .*not support Landlock",
    ):
        prisoner.run_code("found = 1")
    trusting = Prisoner(plugged, tmp_path / "odd", wheels, chosen={"unconfined": True})
    assert trusting.run_code("found = open('/etc/hostname').read() and 1")["got"] == "1"
    assert "no confinement" in trusting.gateway.parts.host.confined.describe()


def test_landlock_and_seccomp_confine_without_namespaces(
    plugged: Plug,  # noqa: F811
    tmp_path: Path,
    wheels: Path,
    monkeypatch: pytest.MonkeyPatch,
    upstream: Callable[..., Upstream],
):
    """As for users without namespaces: the plugin reaches one port.

    Other files stay as they are.
    """
    program = tmp_path / "supervisor.py"
    real = Path(supervisors.__file__).with_name("supervisor.py")
    text = real.read_text().replace("os.path.abspath(__file__)", repr(str(real)))
    refuse = "import confine\ndef _no(): raise OSError('refused')\nconfine.unshare_namespaces = _no\n"
    program.write_text(text.replace("import confine ", refuse))
    monkeypatch.setattr(supervisors, "_SUPERVISOR_SCRIPT", program)
    server = upstream(lambda request: Answer(body=b"canary"))
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    egress = EgressSettings(private=[f"127.0.0.1:{port}"])
    prisoner = Prisoner(plugged, tmp_path / "odd", wheels, egress=egress)
    key = prisoner.home / "master.key"
    key.touch(0o600)
    key.chmod(0o600)
    prisoner.refusal_of("open(path).read()", path=str(key))
    prisoner.run_code("os.chmod(path, 0o666)\nfound = 1", path=str(key))
    assert key.stat().st_mode & 0o777 == 0o600
    confined = prisoner.gateway.parts.host.confined
    assert (confined.network, confined.namespaces) == ("port", False)
    prisoner.refusal_of("socket.create_connection(('127.0.0.1', port), 2)", port=port)
    for code in (
        "os.kill(server, 0)",
        "open('/proc/%d/environ' % server)",
        "os.listdir('/dev/shm')",
    ):
        prisoner.refusal_of(code, server=os.getpid())
    assert (
        prisoner.run_code(
            "found = urllib.request.urlopen('http://127.0.0.1:%d/x' % port, timeout=5).read()",
            port=port,
        )["got"]
        == "b'canary'"
    )


# ------------------------------------------------------------------------------ folders


def test_a_link_in_a_plugins_folder_is_not_followed_by_the_server(tmp_path: Path):
    """Nothing outside is emptied, chowned or counted through links of a plugin."""
    outside_folder = tmp_path / "kept"
    outside_folder.mkdir()
    (outside_folder / "file").write_bytes(bytes(1 << 20))
    quarters = WorkFolderStore(tmp_path / "work")
    quarter = quarters.get("acme", "odd/one")
    (quarter.tmp / "link").symlink_to(outside_folder)
    (quarter.tmp / "file").symlink_to(outside_folder / "file")
    assert folder_size(quarter.tmp, 1 << 30) < 1 << 16
    change_owner(quarter.tmp, 12345)
    assert (outside_folder / "file").stat().st_uid == os.geteuid()
    empty_folder(quarter.tmp)
    quarters.remove("acme", "odd/one")
    assert (outside_folder / "file").is_file()
    assert not quarter.work.exists()


def test_each_tenant_keeps_its_own_system_user(tmp_path: Path):
    if os.geteuid() != 0:
        assert WorkFolderStore(tmp_path).user("acme") is None
        return
    first, second = WorkFolderStore(tmp_path), WorkFolderStore(tmp_path)
    assert first.user("acme") != second.user("globex")
    assert WorkFolderStore(tmp_path).user("acme") == first.user("acme")
    paths = {
        first.get(tenant, "a/b").work
        for tenant in ("acme", "..", "a/../b", "Acme", ".tmp")
    }
    assert len(paths) == 5
    assert all(
        path.resolve().is_relative_to(tmp_path.resolve()) and ".." not in path.parts
        for path in paths
    )
