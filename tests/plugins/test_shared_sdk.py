"""Plugins of different environments that share the SDK, and what keeps them apart."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tools.show.odd_plugins import BEHAVIOURS, odd_plugin

from modelyard.plugins.package import package_folder
from modelyard.plugins.sdk_environment import (
    link_bytecode,
    remove_bytecode,
    sdk_lines,
    site_packages,
    starts_alike,
)
from tests.plugins.conftest import PluginGateway

pytestmark = pytest.mark.proof("bench-plugins")

PACKAGES = "lib/python3.12/site-packages"


def environment(folder: Path, files: Mapping[str, str]) -> Path:
    """Write an environment with these packages' files."""
    packages = folder / PACKAGES
    packages.mkdir(parents=True)
    for name, text in files.items():
        path = packages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def package(folder: Path, name: str, *requirements: str) -> None:
    info = folder / PACKAGES / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = [f"Requires-Dist: {requirement}" for requirement in requirements]
    text = "\n".join(["Name: " + name, *lines, "", "Requires-Dist: described"])
    (info / "METADATA").write_text(text)


def test_the_sdk_and_what_it_needs_are_found_in_the_lines(tmp_path: Path):
    package(
        tmp_path,
        "dify-plugin",
        "Flask>=3",
        "httpx[socks]~=0.28",
        "brotli; extra == 'x'",
    )
    package(tmp_path, "flask", "jinja2 (>=3)", "absent; python_version < '3'")
    for name in ("httpx", "jinja2", "brotli", "openai"):
        package(tmp_path, name, "httpx" if name == "openai" else "flask")
    lines = [f"{name}==1.0 --hash=sha256:0" for name in ("brotli", "dify-plugin", "flask", "httpx", "jinja2", "openai")]  # fmt: skip
    expected = [line for line in lines if not line.startswith(("brotli", "openai"))]
    assert sdk_lines(tmp_path, lines) == expected
    # One of them was built from sources, which are not among the lines.
    assert sdk_lines(tmp_path, lines[:-2]) == []
    assert sdk_lines(tmp_path, [lines[2]]) == []
    assert sdk_lines(tmp_path / "none", lines) == []


@pytest.mark.parametrize(
    ("name", "text", "is_alike"),
    [
        ("paths.pth", "/somewhere/else\n", True),
        ("hook.pth", "# first\nimport hook\n", False),
        ("_virtualenv.pth", "import _virtualenv\n", True),
        ("sitecustomize.py", "", False),
        ("x-1.dist-info/entry_points.txt", "[console_scripts]\nx = x:main\n", True),
        ("x-1.dist-info/entry_points.txt", "[pydantic]\nx = x:plugin\n", False),
        ("x-1.dist-info/entry_points.txt", "[ gevent.plugins.x ]\nx = x\n", False),
        ("sdk-1.dist-info/entry_points.txt", "[pydantic]\nx = x:plugin\n", True),
    ],
)
def test_what_runs_as_an_interpreter_starts_keeps_a_plugin_apart(
    tmp_path: Path, name: str, text: str, *, is_alike: bool
):
    shared = {"_virtualenv.pth": "import _virtualenv\n", "gevent.py": ""}
    sdk = environment(
        tmp_path / "sdk",
        {**shared, "pydantic/__init__.py": "", "sdk-1.dist-info/METADATA": ""},
    )
    own = environment(tmp_path / "own", {**shared, name: text})
    assert starts_alike(own, sdk) is is_alike
    assert not starts_alike(tmp_path / "none", sdk)


def test_only_bytecode_of_the_same_files_is_linked(tmp_path: Path):
    """What a package brings as bytecode is deleted."""
    record = "same.py,,\nother.py,,\n../../out.py,,\n/abs.py,,\nin/deep.py,,\nx.txt,,\n"
    files = {"p-1.dist-info/RECORD": record, "other.py": "1", "in/deep.py": ""}
    first = environment(tmp_path / "first", {**files, "same.py": "x"})
    second = environment(tmp_path / "second", {**files, "in/__pycache__/deep.cpython-312.pyc": "brought"})  # fmt: skip
    for name in ("same.py", "in/deep.py"):
        (second / PACKAGES / name).unlink(missing_ok=True)
        os.link(first / PACKAGES / name, second / PACKAGES / name)
    for name in ("__pycache__/same", "__pycache__/other", "in/__pycache__/deep"):
        compiled = first / PACKAGES / f"{name}.cpython-312.pyc"
        compiled.parent.mkdir(exist_ok=True)
        compiled.write_text("compiled")
    remove_bytecode(second)
    link_bytecode(second, [tmp_path / "none", first])
    packages = site_packages(second)
    assert packages is not None
    found = {str(path.relative_to(packages)): path.read_text() for path in packages.rglob("*.pyc")}  # fmt: skip
    assert found == {
        "__pycache__/same.cpython-312.pyc": "compiled",
        "in/__pycache__/deep.cpython-312.pyc": "compiled",
    }


CODE = """
import importlib.metadata, sysconfig, {module}
beat_on()
for session, asked in requests():
    for value in (sys.prefix, sys.executable, sysconfig.get_path("purelib"), {module}.__file__):
        text(session, value)
    text(session, importlib.metadata.version("{module}"))
    end(session)
"""


def program_of(gateway: PluginGateway, pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")


def test_plugins_of_different_environments_are_forked_from_one_process(
    plugged: Callable[..., PluginGateway],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """A package that the SDK adapts to makes a plugin an interpreter of its own."""
    gateway = plugged()
    for name in ("sniffio", "simplejson"):
        monkeypatch.setitem(BEHAVIOURS, name, CODE.format(module=name))
        folder = odd_plugin(tmp_path / "odd", name)
        with (folder / "requirements.txt").open("a") as file:
            file.write(f"{name}\n")
        add = gateway.parts.installations.add("default", package_folder(folder))
        gateway.run_on_loop(add)
    gateway.install("toolbox")
    assert gateway.tool_text("add", a=1, b=2) == "3"
    for name in ("sniffio", "simplejson"):
        installed = gateway.plugins.find("default", f"odd/{name}")
        gateway.run_on_loop(gateway.parts.host.stop("default", installed.identifier))
        answers = gateway.call(
            f"odd/{name}", "tool", "invoke_tool",
            provider=name, tool="odd", credentials={}, tool_parameters={},
        )  # fmt: skip
        own = gateway.parts.host.packages.installed_environment(installed.identifier)
        assert own is not None
        prefix, executable, purelib, module, version = [answer["message"]["text"] for answer in answers]  # fmt: skip
        assert (prefix, executable) == (str(own.folder), str(own.python))
        assert purelib == str(own.packages)
        assert module.startswith(str(own.packages))
        assert version
        runtime = gateway.parts.host._runtimes["default", installed.identifier]  # type: ignore[attr-defined]
        program = program_of(gateway, runtime.instances[0].spawned.pid)
        assert ("--fork" in program) == (name == "sniffio")
