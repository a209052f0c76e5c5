"""Packages without wheels are built, confined: what their build code can reach while a
plugin is installed."""

import asyncio
import hashlib
import io
import json
import os
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tools.show.plugin_attacks import wheelhouse

from modelyard.base.errors import PluginError
from modelyard.plugins.environment import Environment, Environments
from modelyard.plugins.requirements import requirement_name
from modelyard.plugins.source_packages import source_packages, split_lines

# A backend that lies in its own sources, so that no build tool has to be installed. What
# its attempts come to is a module of the package that it builds.
_BACKEND = """import json
import os
import socket
import sys
import zipfile

ATTEMPTS = %s


def attempt(work):
    try:
        return str(work())[:100] or "done"
    except BaseException as error:
        return "refused: " + type(error).__name__


def tried():
    secret, witness, port, foreign = (ATTEMPTS[name] for name in ("secret", "witness", "port", "foreign"))
    return {
        "reads": attempt(lambda: open(secret).read()),
        "lists": attempt(lambda: os.listdir(os.path.dirname(secret))),
        "writes": attempt(lambda: open(witness, "w").write("x")),
        "connects": attempt(lambda: socket.create_connection(("127.0.0.1", port), 2)),
        "changes": attempt(lambda: open(foreign, "a").write("x")),
        "links": attempt(lambda: os.symlink("/etc/passwd", os.path.join(os.getcwd(), "link"))),
        "processes": attempt(lambda: os.kill(ATTEMPTS["pid"], 0)),
        "variables": sorted(name for name in os.environ if "SECRET" in name),
    }


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    if ATTEMPTS["fails"]:
        raise SystemExit("I will not be built")
    name = "sourced-1.0-py3-none-any.whl"
    files = {
        "sourced.py": "TRIED = " + repr(json.dumps(tried())),
        "sourced-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: sourced\\nVersion: 1.0\\n",
        "sourced-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "dify_plugin/__init__.py": "TAKEN = True",
    }
    record = "".join(f"{path},,\\n" for path in files) + "sourced-1.0.dist-info/RECORD,,\\n"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr("sourced-1.0.dist-info/RECORD", record)
    return name
"""
_PROJECT = """[project]
name = "sourced"
version = "1.0"

[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
_PLUGIN = """[project]
name = "one"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["dify-plugin", "sourced"]
"""
_LOCK = """version = 1
requires-python = ">=3.11"

[[package]]
name = "one"
version = "0.1.0"
source = { virtual = "." }
dependencies = [{ name = "dify-plugin" }, { name = "sourced" }]

[[package]]
name = "dify-plugin"
version = "9.9.9"
source = { registry = "https://index.example/simple" }
wheels = [{ url = "https://files.example/dify_plugin-9.9.9-py3-none-any.whl", hash = "sha256:%s" }]

[[package]]
name = "sourced"
version = "1.0"
source = { registry = "https://index.example/simple" }
sdist = { url = "https://files.example/sourced-1.0.tar.gz", hash = "sha256:%s" }
"""


def source_distribution(folder: Path, **attempts: Any) -> Path:
    """Write a package without a wheel and return its file."""
    target = folder / "sourced-1.0.tar.gz"
    with tarfile.open(target, "w:gz") as archive:
        for name, text in (
            ("pyproject.toml", _PROJECT),
            ("backend.py", _BACKEND % repr(attempts)),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: sourced\nVersion: 1.0\n"),
        ):
            info = tarfile.TarInfo(f"sourced-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return target


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def installed(
    folder: Path, *, fails: bool = False, digests: str = "", **attempts: Any
) -> Environment:
    """Install a plugin whose lock file has the package, and return its environment."""
    packages = folder / "wheels"
    packages.mkdir()
    wheelhouse(packages)
    sources = source_distribution(packages, fails=fails, **attempts)
    (wheel,) = packages.glob("*.whl")
    plugin = folder / "plugin"
    plugin.mkdir()
    (plugin / "pyproject.toml").write_text(_PLUGIN)
    (plugin / "uv.lock").write_text(_LOCK % (digest(wheel), digests or digest(sources)))
    environ = {**os.environ, "MODELYARD_SECRET": "canary"}
    environments = Environments(folder / "environments", environ, wheelhouse=packages)
    return asyncio.run(environments.prepare(plugin, name="me/one"))


def test_build_code_reaches_nothing_but_its_sources(tmp_path: Path):
    secret, foreign = tmp_path / "secret.key", tmp_path / "foreign.txt"
    witness = tmp_path / "witness"
    secret.write_text("canary")
    foreign.write_text("as it was")
    with socket.create_server(("127.0.0.1", 0)) as server:
        environment = installed(
            tmp_path,
            secret=str(secret),
            foreign=str(foreign),
            witness=str(witness),
            port=server.getsockname()[1],
            pid=os.getpid(),
        )
    (module,) = environment.folder.glob("lib/python*/site-packages/sourced.py")
    values: dict[str, Any] = {}
    exec(module.read_text(), values)
    tried = json.loads(values["TRIED"])
    assert tried.pop("variables") == []
    assert {name for name, result in tried.items() if "refused" not in result} == set()
    assert not witness.exists()
    assert foreign.read_text() == "as it was"
    # Nor does it replace files of other packages.
    sdk = module.with_name("dify_plugin") / "__init__.py"
    assert sdk.read_text() == ""
    assert not list((tmp_path / "environments").glob(".sources-*"))


def test_a_package_that_cannot_be_built_is_named(tmp_path: Path):
    with pytest.raises(PluginError, match=r"Building sourced==1.0 from sources failed"):
        installed(tmp_path, fails=True)
    assert not list((tmp_path / "environments").glob("*/modelyard.json"))


def test_sources_with_another_digest_are_not_built(tmp_path: Path):
    with pytest.raises(PluginError, match="(?i)hash"):
        installed(tmp_path, digests="0" * 64, fails=True)


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ('name = "A_b"\nsource = { registry = "x" }\nsdist = { url = "y" }', {"a-b"}),
        ('name = "a"\nsource = { registry = "x" }\nsdist = { url = "y" }\nwheels = [{ url = "z" }]', set()),
        ('name = "a"\nsource = { registry = "x" }', set()),
        ('name = "a"\nsource = { virtual = "." }\nsdist = { url = "y" }', set()),
        ("name = [", set()),
    ],
)  # fmt: skip
def test_packages_without_wheels_are_those_of_the_lock(
    tmp_path: Path, package: str, names: set[str]
):
    (tmp_path / "uv.lock").write_text(f"version = 1\n[[package]]\n{package}\n")
    assert source_packages(tmp_path) == names
    assert source_packages(tmp_path / "none") == set()


def test_lines_are_told_apart_by_their_names():
    resolved = 'a-b==1 --hash=sha256:00\nc==2 ; python_version < "3.13"\nd.e==3\n'
    wheels, built = split_lines(resolved, frozenset({"a-b", "d-e"}))
    assert wheels == ['c==2 ; python_version < "3.13"']
    assert [requirement_name(line) for line in built] == ["a-b", "d-e"]
