"""Tests for permissions that are asked for when a plugin is installed."""

import io
import json
import os
import pty
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import InvokeBadRequestError
from modelyard.plugins.manifest import read_manifest
from modelyard.plugins.market import add_to_folder
from modelyard.plugins.package import package_folder
from modelyard.plugins.scaffold import PERMISSIONS
from modelyard.tenancy.resource_types import Installation
from modelyard.tenant_plugins.grants import (
    ALL_REQUESTS,
    Grant,
    describe_requests,
    granted_fields,
)
from tests.plugins.conftest import EXAMPLES, PluginGateway
from tests.plugins.test_commands import Run, run  # noqa: F401

NAMES = st.lists(st.sampled_from(PERMISSIONS), unique=True)
GRANTS = st.none() | st.builds(
    Grant, permissions=st.none() | NAMES, has_network=st.booleans()
)


def manifest_that_requests(names: list[str], **network: Any) -> Any:
    permission: dict[str, Any] = {"model": {"enabled": True}, "network": network}
    for name in names:
        kind, _, model = name.partition(".")
        if model:
            permission["model"][model] = True
        else:
            permission[kind] = {
                "enabled": True,
                **({"size": 4096} if kind == "storage" else {}),
            }
    document = {
        "version": "0.0.1", "author": "me", "name": "x", "plugins": {"tools": ["x.yaml"]},
        "resource": {"permission": permission},
    }  # fmt: skip
    return read_manifest(document, "manifest.yaml")


@given(before=NAMES, later=NAMES, grant=GRANTS)
def test_a_version_never_gets_what_nobody_has_granted(
    before: list[str], later: list[str], grant: Grant | None
):
    first = manifest_that_requests(before)
    if grant is not None and not {*(grant.permissions or ())} <= {*before}:
        with pytest.raises(InvokeBadRequestError, match="does not request"):
            granted_fields(first, None, grant)
        return
    granted, has_network = granted_fields(first, None, grant)
    installed = Installation(plugin="x", granted=granted, has_network=has_network)
    # An upgrade without a decision leaves both as they were.
    second = manifest_that_requests(later)
    for undecided in (None, ALL_REQUESTS):
        assert granted_fields(second, installed, undecided) == (granted, has_network)
    if grant is None:
        assert set(granted or ()) == set(before)
        assert has_network


def test_what_a_plugin_requests_is_said_in_words():
    requests = describe_requests(manifest_that_requests(list(PERMISSIONS)))
    assert set(requests) == {*PERMISSIONS, "network"}
    assert "any host" in requests["network"]
    named = describe_requests(manifest_that_requests([], hosts=["api.example"]))
    assert named == {"network": "connect to api.example"}
    assert describe_requests(manifest_that_requests([], enabled=False)) == {}


# --------------------------------------------------------------------- command line


def newer_toolbox(folder: Path, **permission: Any) -> Path:
    """The example with a later version, which requests more."""
    subprocess.run(["cp", "-r", str(EXAMPLES / "toolbox"), str(folder)], check=True)
    path = folder / "manifest.yaml"
    document = yaml.safe_load(path.read_text())
    document["version"] = "0.0.2"
    document["resource"]["permission"] |= permission
    path.write_text(yaml.safe_dump(document))
    return folder


def permissions_of(run: Run) -> Any:  # noqa: F811
    return json.loads(run("permission", "modelyard/toolbox", "--json").stdout)


def test_permissions_are_refused_at_installation_and_an_upgrade_adds_none(
    run: Run,  # noqa: F811
    tmp_path: Path,
):
    result = run("install", EXAMPLES / "toolbox", "--none", "--no-network")
    assert result.returncode == 0
    assert "not granted: " in result.stderr
    assert "no network" in result.stderr
    shown = permissions_of(run)
    assert (shown["granted"], shown["network"], shown["hosts"]) == ([], False, [])
    run("permission", "modelyard/toolbox", "--all", "--network")
    shown = permissions_of(run)
    assert (shown["granted"], shown["network"]) == (shown["asks"], True)
    run("permission", "modelyard/toolbox", "--grant", "storage")
    newer = newer_toolbox(tmp_path / "newer", endpoint={"enabled": True})
    upgraded = run("upgrade", "modelyard/toolbox", newer)
    assert "not granted: " in upgraded.stderr
    assert "endpoint" in upgraded.stderr
    assert permissions_of(run)["granted"] == ["storage"]


def test_without_a_terminal_what_is_requested_now_is_granted_and_no_more(
    run: Run,  # noqa: F811
    tmp_path: Path,
):
    assert run("install", EXAMPLES / "toolbox").returncode == 0
    before = permissions_of(run)
    assert before["granted"] == before["asks"]
    run("upgrade", "modelyard/toolbox", newer_toolbox(tmp_path / "newer", endpoint={"enabled": True}))  # fmt: skip
    after = permissions_of(run)
    assert (after["granted"], "endpoint" in after["asks"]) == (before["granted"], True)


def test_a_permission_that_is_not_requested_is_refused_before_anything_is_installed(
    run: Run,  # noqa: F811
):
    result = run("install", EXAMPLES / "mockgpt", "--grant", "storage")
    assert result.returncode != 0
    assert "does not request 'storage'" in result.stderr
    assert json.loads(run("list", "--json").stdout) == []


def answer_at_terminal(home: Path, answers: str, *arguments: str) -> tuple[int, str]:
    """Run a command at a terminal, type, and return (status, everything printed)."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "modelyard", "plugin", *arguments],
            env={**os.environ, "MODELYARD_HOME": str(home), "TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.write(ours, answers.encode())
        os.close(theirs)
        printed = b""
        # The end of the program closes the terminal, which is an error of reading.
        try:
            while chunk := os.read(ours, 65536):
                printed += chunk
        except OSError:
            pass
        return process.wait(120), printed.decode()
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    ("answers", "is_installed", "granted", "network"),
    [
        ("all\n", True, ["storage", "model.llm"], True),
        ("none\n", True, [], False),
        ("some\ny\nn\nn\n", True, ["storage"], False),
        ("cancel\n", False, [], True),
    ],
)
def test_at_a_terminal_it_asks_before_it_installs(
    run: Run,  # noqa: F811
    tmp_path: Path,
    answers: str,
    is_installed: bool,
    granted: list[str],
    network: bool,
):
    folder = newer_toolbox(tmp_path / "asking")
    path = folder / "manifest.yaml"
    document = yaml.safe_load(path.read_text())
    document["resource"]["permission"] = {
        "storage": {"enabled": True, "size": 4096},
        "model": {"enabled": True, "llm": True},
    }
    path.write_text(yaml.safe_dump(document))
    status, printed = answer_at_terminal(
        tmp_path / "home", answers, "install", str(folder)
    )
    assert "modelyard/toolbox 0.0.2 requests:" in printed
    assert "storage: store data on this server, up to 4,096 bytes" in printed
    assert (status == 0, bool(json.loads(run("list", "--json").stdout))) == (
        is_installed,
        is_installed,
    )
    if is_installed:
        shown = permissions_of(run)
        assert (shown["granted"], shown["network"]) == (granted, network)


# -------------------------------------------------------------------------- admin API


def zipped(folder: Path) -> bytes:
    return package_folder(folder).data


def test_the_admin_api_shows_what_a_package_requests_and_installs_less(
    plugged: Callable[..., PluginGateway], tmp_path: Path
):
    add_to_folder(tmp_path / "market", EXAMPLES / "toolbox")
    gateway = plugged()
    admin = f"{gateway.running.origin}/admin/v1"
    data = zipped(EXAMPLES / "toolbox")
    shown = httpx.post(f"{admin}/plugins/inspect", content=data).json()
    assert shown["plugin_id"] == "modelyard/toolbox"
    assert (shown["signed_by"], shown["installed_version"]) == (None, None)
    assert {"storage", "model.llm", "network"} <= set(shown["requests"])
    assert gateway.plugins.installed("default") == []

    query = "granted=storage&network=false"
    started = httpx.post(f"{admin}/plugins?{query}", content=data, timeout=60)
    assert started.status_code == 201
    gateway.run_on_loop(gateway.parts.installations.wait_until_idle())
    (view,) = httpx.get(f"{admin}/plugins").json()["data"]
    assert (view["granted"], view["network"], view["hosts"]) == (["storage"], False, [])
    assert "model.llm" in view["asked"]
    changed = httpx.patch(
        f"{admin}/plugins/{view['id']}", json={"granted": [], "network": True}
    ).json()
    assert (changed["granted"], changed["network"], changed["hosts"]) == (
        [],
        True,
        None,
    )
    # Without `network` it stays as it is.
    again = httpx.patch(f"{admin}/plugins/{view['id']}", json={"granted": ["storage"]})
    assert again.json()["network"] is True
    shown = httpx.post(f"{admin}/plugins/inspect", content=data).json()
    assert shown["installed_version"] == view["version"]


@pytest.mark.parametrize(
    "query", ["granted=root", "granted=storage,root", "network=no"]
)
def test_a_wrong_decision_is_refused_by_the_admin_api(
    plugged: Callable[..., PluginGateway], query: str
):
    gateway = plugged()
    answer = httpx.post(
        f"{gateway.running.origin}/admin/v1/plugins?{query}",
        content=zipped(EXAMPLES / "toolbox"),
    )
    assert answer.status_code == 400, answer.text
    assert gateway.plugins.installed("default") == []


def test_a_package_that_is_none_is_not_inspected(
    plugged: Callable[..., PluginGateway],
):
    gateway = plugged()
    address = f"{gateway.running.origin}/admin/v1/plugins/inspect"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    for content in (b"", b"{}", b"nonsense", buffer.getvalue()):
        assert httpx.post(address, content=content).status_code == 400
