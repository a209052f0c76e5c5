"""Tests for what a plugin needs to be installed: packages, an interpreter, vocabularies,
and for the credentials of its provider in the settings."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.app import Modelyard
from modelyard.base.errors import NotFoundError, PackageError, PluginError
from modelyard.base.settings import (
    CredentialSettings,
    PluginSettings,
    ProviderSettings,
    Settings,
)
from modelyard.plugins import environment
from modelyard.plugins.environment import Environments, Python, version_to_install
from modelyard.plugins.launcher import link_files
from modelyard.plugins.package import package_folder
from modelyard.plugins.requirements import (
    check_line,
    check_lock,
    normal_name,
    parse_requirements,
    read_requirements,
)
from tests.plugins.conftest import EXAMPLES, PluginGateway
from tests.plugins.test_commands import Run, run  # noqa: F401

Plug = Callable[..., PluginGateway]
INSTEAD = {"monday-sdk": "monday-sdk==1.3.1"}
FROM_GIT = "monday_sdk @ git+https://github.com/x/monday@v1.3.1"


# ------------------------------------------------------------------- packages from git


def test_a_package_from_a_repository_is_replaced_where_the_operator_says_so(
    tmp_path: Path,
):
    assert check_line(FROM_GIT, "x", INSTEAD) == "monday-sdk==1.3.1"
    assert check_line("Monday.SDK[all] @ https://x/y.whl", "x", INSTEAD) == (
        "monday-sdk==1.3.1"
    )
    # A package from the index keeps the version that the plugin names.
    assert check_line("monday-sdk==9", "x", INSTEAD) == "monday-sdk==9"
    text = f"httpx\n{FROM_GIT}\n"
    assert parse_requirements(text, "x", INSTEAD) == ["httpx", "monday-sdk==1.3.1"]
    with pytest.raises(PackageError, match=r"plugins\.substitutes"):
        parse_requirements(text, "x")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\ndependencies = ["monday-sdk"]\n'
        '[tool.uv.sources]\nmonday-sdk = { git = "https://github.com/x/monday" }\n'
    )
    (tmp_path / "uv.lock").write_text(
        '[[package]]\nname = "monday-sdk"\nversion = "1"\n'
        'source = { git = "https://github.com/x/monday?rev=v1#0" }\n'
    )
    check_lock(tmp_path, INSTEAD)
    assert read_requirements(tmp_path, INSTEAD) == ["monday-sdk"]
    with pytest.raises(PackageError, match="substitutes"):
        check_lock(tmp_path)
    with pytest.raises(PackageError, match=r"tool\.uv\.sources"):
        read_requirements(tmp_path)


@pytest.mark.parametrize(
    "line", ["-e .", "./x", "git+https://x/monday-sdk", "../a @ b"]
)
def test_what_has_no_name_is_never_replaced(line: str):
    with pytest.raises(PackageError, match="not allowed"):
        check_line(line, "x", INSTEAD)


@pytest.mark.parametrize("line", ["-e .", "a @ git+https://x", "./x.whl"])
def test_a_substitute_is_itself_a_package_of_the_index(line: str):
    with pytest.raises(PackageError, match=r"plugins\.substitutes"):
        check_line(FROM_GIT, "x", {"monday-sdk": line})


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True))
def test_names_are_compared_as_indexes_do(name: str):
    normal = normal_name(name)
    assert normal_name(normal) == normal
    for spelling in (name.upper(), name.replace("-", "_"), name.replace("_", ".")):
        assert normal_name(spelling) == normal


# ----------------------------------------------------------------------- interpreters


def test_the_preferred_version_that_fits_is_installed():
    assert version_to_install("") == "3.12"
    assert version_to_install(">=3.12") == "3.12"
    assert version_to_install(">=3.13") == "3.13"
    assert version_to_install("<3.12") == "3.11"
    assert version_to_install(">=3.99") == ""


def plugin_that_requires(folder: Path, python: str) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "p"\nversion = "1"\nrequires-python = "{python}"\n'
        'dependencies = ["dify_plugin"]\n'
    )
    return folder


def environments_without_it(tmp_path: Path, **options: Any) -> Environments:
    environments = Environments(
        tmp_path / "environments", {"PATH": "", "HOME": str(tmp_path)}, **options
    )
    # As on a machine that has another version only.
    environments._pythons = [Python(Path("/usr/bin/python3.11"), (3, 11, 2))]
    return environments


@pytest.mark.anyio
async def test_a_missing_interpreter_is_installed_by_uv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """uv is a script here, because the test must not download anything."""
    called = tmp_path / "called"
    uv = tmp_path / "uv"
    uv.write_text(
        "#!/bin/sh\n"
        f'echo "$UV_PYTHON_DOWNLOADS $UV_PYTHON_INSTALL_DIR $*" >> {called}\n'
        'test "$1" = python || { echo "error: that is far enough" >&2; exit 1; }\n'
    )
    uv.chmod(uv.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(environment, "uv_path", lambda: str(uv))
    source = plugin_that_requires(tmp_path / "plugin", ">=3.13")
    with pytest.raises(PluginError, match=r"requires Python >=3\.13"):
        # The script has installed nothing.
        await environments_without_it(tmp_path, downloads_python=True).prepare(
            source, name="me/p"
        )
    assert called.read_text() == (
        f"manual {tmp_path}/pythons python install --no-bin 3.13\n"
    )
    called.unlink()
    for options in ({}, {"downloads_python": True, "offline": True},
                    {"downloads_python": True, "wheelhouse": tmp_path}):  # fmt: skip
        with pytest.raises(PluginError, match="download_python"):
            await environments_without_it(tmp_path, **options).prepare(
                source, name="me/p"
            )
    assert not called.exists()


@pytest.mark.anyio
async def test_the_reason_why_no_interpreter_is_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'error: no route to host' >&2\nexit 2\n")
    uv.chmod(uv.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(environment, "uv_path", lambda: str(uv))
    source = plugin_that_requires(tmp_path / "plugin", ">=3.12")
    with pytest.raises(PluginError, match=r"Python 3\.12.*no route to host"):
        await environments_without_it(tmp_path, downloads_python=True).prepare(
            source, name="me/p"
        )


# ---------------------------------------------------------------------- vocabularies


def test_vocabularies_are_linked_and_never_through_the_plugins_links(tmp_path: Path):
    source, work, elsewhere = (tmp_path / name for name in ("source", "work", "else"))
    for folder in (source, work, elsewhere):
        folder.mkdir()
    (source / "9b5a").write_text("words")
    (source / "folder").mkdir()
    link_files(source, work)
    link_files(source, work)
    assert (work / ".tiktoken" / "9b5a").read_text() == "words"
    assert [path.name for path in (work / ".tiktoken").iterdir()] == ["9b5a"]
    # What the plugin keeps there itself stays, and is not replaced.
    (work / ".tiktoken" / "own").write_text("own")
    (work / ".tiktoken" / "9b5a").unlink()
    (work / ".tiktoken" / "9b5a").write_text("other")
    link_files(source, work)
    assert (work / ".tiktoken" / "9b5a").read_text() == "other"
    linked, filed = tmp_path / "linked", tmp_path / "filed"
    for plugin in (linked, filed):
        plugin.mkdir()
    (linked / ".tiktoken").symlink_to(elsewhere)
    (filed / ".tiktoken").touch()
    for plugin in (linked, filed):
        link_files(source, plugin)
    assert list(elsewhere.iterdir()) == []
    link_files(None, work)
    link_files(tmp_path / "missing", work)


def test_a_plugin_finds_the_vocabularies_and_may_add_some(
    plugged: Plug, tmp_path: Path
):
    folder = tmp_path / "vocabularies"
    folder.mkdir()
    (folder / "9b5ad71b").write_text("words")
    chosen = PluginSettings(debug_port=0, tiktoken_cache=str(folder))
    gateway = plugged(chosen=chosen)
    source = tmp_path / "source"
    files = package_folder(EXAMPLES / "toolbox").files
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    add = source / "tools" / "add.py"
    add.write_text(
        add.read_text()
        .replace(
            "def _invoke(",
            "def _cache(self):\n"
            "        import os, pathlib\n"
            "        folder = pathlib.Path(os.environ['TIKTOKEN_CACHE_DIR'])\n"
            "        (folder / 'new').write_text('x')\n"
            "        return (folder / '9b5ad71b').read_text()\n\n    def _invoke(",
            1,
        )
        .replace(
            "yield ", "yield self.create_text_message(self._cache())\n        yield ", 1
        )
    )
    gateway.run_on_loop(
        gateway.parts.installations.add("default", package_folder(source))
    )
    assert gateway.tool_text("add", a=1, b=2).startswith("words")


# --------------------------------------------------- providers of plugins in settings


def test_the_settings_may_name_a_provider_of_an_installed_plugin(
    plugged: Plug,
    run: Run,  # noqa: F811
    tmp_path: Path,
):
    home = tmp_path / "home"
    assert run("install", EXAMPLES / "mockgpt", "--all").returncode == 0
    key = ProviderSettings(
        name="mockgpt", credentials=[CredentialSettings(values={"api_key": "k"})]
    )
    gateway = plugged(home=str(home), providers=[key])
    providers = gateway.yard.services.providers
    status = providers.manager.get_provider("default", "mockgpt")
    assert [entry.values["api_key"] for entry in status.credentials] == ["k"]
    assert status.is_ready
    # It is gone with the plugin, and back with it.
    gateway.run_on_loop(
        gateway.parts.installations.uninstall("default", "modelyard/mockgpt")
    )
    assert providers.manager.credentials("default", "mockgpt") == []
    gateway.install("mockgpt")
    assert len(providers.manager.credentials("default", "mockgpt")) == 1


@pytest.mark.anyio
async def test_a_name_that_nothing_offers_is_still_an_error(settings: Settings):
    unknown = ProviderSettings(name="mockgtp", credentials=[])
    yard = Modelyard(msgspec.structs.replace(settings, providers=[unknown]))
    with pytest.raises(NotFoundError, match="'mockgtp' is neither in the catalogue"):
        async with yard:
            pass


def test_a_credential_that_does_not_fit_is_left_out_and_told(
    plugged: Plug,
    run: Run,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    strict = shutil.copytree(EXAMPLES / "mockgpt", tmp_path / "strict")
    form = strict / "provider" / "mockgpt.yaml"
    form.write_text(form.read_text().replace("required: false", "required: true"))
    assert run("install", strict, "--all").returncode == 0
    wrong = ProviderSettings(
        name="mockgpt",
        credentials=[
            CredentialSettings(values={}),
            CredentialSettings(values={"api_key": "k"}),
        ],
    )
    gateway = plugged(home=str(tmp_path / "home"), providers=[wrong])
    manager = gateway.yard.services.providers.manager
    assert len(manager.credentials("default", "mockgpt")) == 1
    assert "not usable" in caplog.text


def test_providers_add_takes_the_form_of_a_plugin(run: Run, tmp_path: Path):  # noqa: F811  # noqa: F811
    import subprocess
    import sys

    assert run("install", EXAMPLES / "mockgpt", "--all").returncode == 0

    def providers(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "modelyard", "providers", *arguments],
            env={**os.environ, "MODELYARD_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    added = providers("add", "mockgpt", "--api-key", "k")
    assert added.returncode == 0, added.stderr
    listed = json.loads(providers("list", "--json").stdout)
    (mine,) = [entry for entry in listed if entry["provider"] == "mockgpt"]
    assert (mine["ready"], len(mine["credentials"])) == (True, 1)
    assert "api_key" in providers("show", "mockgpt").stdout
    unknown = providers("add", "mockgtp", "--api-key", "k")
    assert unknown.returncode == 1
    assert "no installed plugin offers it" in unknown.stderr


# ------------------------------------------------------------------------- packages


def test_a_class_beside_a_source_is_no_file(tmp_path: Path):
    source = shutil.copytree(EXAMPLES / "toolbox", tmp_path / "toolbox")
    path = source / "tools" / "add.yaml"
    text = path.read_text()
    assert "source: tools/add.py" in text
    path.write_text(
        text.replace("source: tools/add.py", "source: tools/add.py, class: AddTool")
        if "{source" in text
        else text.rstrip() + "\n    class: AddTool\n"
    )
    assert package_folder(source).manifest.name == "toolbox"
    path.write_text(text.replace("source: tools/add.py", "source: tools/none.py"))
    with pytest.raises(PackageError, match=r"tools/none\.py"):
        package_folder(source)


def test_the_rules_of_a_linked_ignore_file_apply(tmp_path: Path):
    source = shutil.copytree(EXAMPLES / "toolbox", tmp_path / "toolbox")
    (tmp_path / "rules").write_text("*.log\n")
    (source / ".difyignore").symlink_to(tmp_path / "rules")
    (source / "x.log").write_text("x")
    files = package_folder(source).files
    assert "x.log" not in files
    assert ".difyignore" not in files
