"""Tests for packages, checksums, signatures, bundles, marketplaces and environments.

Damaged or forged input is refused and leaves nothing behind.
"""

import asyncio
import io
import json
import os
import stat
import zipfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tools.show.odd_plugins import odd_plugin

from modelyard.base.errors import ConfigError, NotFoundError, PackageError, PluginError
from modelyard.plugins.bundle import read_bundle
from modelyard.plugins.declaration import load_declaration
from modelyard.plugins.environment import Environments, Python, choose, satisfies
from modelyard.plugins.identity import PluginIdentifier, version_sort_key
from modelyard.plugins.manifest import Permissions, read_manifest
from modelyard.plugins.market import Market, add_to_folder
from modelyard.plugins.package import (
    Package,
    checksum,
    folder_files,
    is_ignored,
    package_folder,
    read_package,
    write_package,
)
from modelyard.plugins.scaffold import CATEGORIES, ScaffoldOptions, create
from modelyard.plugins.signature import generate_keys, sign, verify
from modelyard.testing import Answer, Upstream
from modelyard.transport.egress import EgressClient
from tests.plugins.conftest import EXAMPLES

MANIFEST: dict[str, Any] = {
    "version": "0.0.1", "type": "plugin", "author": "me", "name": "x", "label": {"en_US": "X"}, "icon": "icon.svg",
    "resource": {"memory": 1, "permission": {}}, "plugins": {"tools": ["provider/x.yaml"]}, "meta": {"version": "0.0.1"},
}  # fmt: skip


def zipped(files: dict[str, bytes | str], **infos: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = infos.get(name, 0o644 << 16)
            archive.writestr(info, data)
    return buffer.getvalue()


GOOD = {"manifest.yaml": yaml.safe_dump(MANIFEST)}


# ----------------------------------------------------------------------------- packages


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not a zip", "invalid ZIP file"),
        (zipped({"other.txt": b"x"}), "contains no manifest.yaml"),
        (zipped({**GOOD, "../evil.py": b"x"}), "outside the package: '../evil.py'"),
        (zipped({**GOOD, "/etc/passwd": b"x"}), "outside the package: '/etc/passwd'"),
        (zipped({**GOOD, "a\\..\\b": b"x"}), "outside the package"),
        (
            zipped({**GOOD, "link": b"/etc"}, link=(stat.S_IFLNK | 0o777) << 16),
            "not a regular file",
        ),
        (zipped({"manifest.yaml": b"- a list"}), "expected a mapping"),
        (zipped({"manifest.yaml": b"a: [b"}), "invalid YAML"),
        (zipped(GOOD)[:-30], "invalid ZIP file"),
    ],
)
def test_invalid_packages_are_refused(data: bytes, reason: str):
    with pytest.raises(PackageError, match=reason):
        read_package(data)


def test_a_bomb_is_not_unpacked():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.yaml", GOOD["manifest.yaml"])
        archive.writestr("bomb", bytes(60 << 20))
    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(PackageError, match="unpacks to more than 52,428,800 bytes"):
        read_package(buffer.getvalue())


def test_duplicate_files_are_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("manifest.yaml", GOOD["manifest.yaml"])
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("manifest.yaml", GOOD["manifest.yaml"])
    with pytest.raises(PackageError, match="twice"):
        read_package(buffer.getvalue())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "1"}, "invalid version '1'; expected 1.2.3"),
        ({"name": "Big Name"}, "name 'Big Name' may contain"),
        ({"author": "a/b"}, "author 'a/b' may contain"),
        ({"type": "widget"}, "plugin or bundle, not 'widget'"),
        ({"plugins": {}}, "plugins is empty"),
        (
            {"plugins": {"tools": ["a"], "models": ["b"]}},
            "models cannot be combined",
        ),
        ({"plugins": {"tools": "provider/x.yaml"}}, "plugins.tools: Expected `array`"),
        (
            {"resource": {"permission": {"storage": {"enabled": True, "size": 3}}}},
            "must be 1024 or more",
        ),
        ({"meta": {"runner": {"language": "go"}}}, "language must be python, not 'go'"),
    ],
)
def test_an_invalid_manifest_is_refused_with_its_field(
    change: dict[str, Any], reason: str
):
    with pytest.raises(PackageError, match=reason):
        read_manifest({**MANIFEST, **change})


def test_omitted_manifest_fields_have_defaults():
    manifest = read_manifest(
        {**MANIFEST, "resource": {"memory": 1, "permission": None}}
    )
    assert manifest.permissions.allowed_names() == []
    assert manifest.category == "tool"


def test_permissions_are_granted_within_those_requested():
    requested_permissions = load_declaration(EXAMPLES / "toolbox").manifest.permissions
    assert requested_permissions.restricted_to(
        ["storage", "model.llm", "endpoint"]
    ).allowed_names() == ["storage", "model.llm"]
    assert Permissions().restricted_to(["tool"]).allowed_names() == []


def test_a_missing_file_is_named(tmp_path: Path):
    create(tmp_path / "one", ScaffoldOptions(name="one", author="me", category="tool"))
    (tmp_path / "one" / "tools" / "one.py").unlink()
    with pytest.raises(PackageError, match=r"'tools/one\.py' does not exist"):
        package_folder(tmp_path / "one")
    (tmp_path / "one" / "tools" / "one.yaml").unlink()
    with pytest.raises(PackageError, match=r"'tools/one\.yaml' does not exist"):
        package_folder(tmp_path / "one")
    with pytest.raises(PackageError, match=r"manifest\.yaml is missing"):
        package_folder(tmp_path)


def test_a_declaration_that_names_files_outside_is_refused(tmp_path: Path):
    create(tmp_path / "one", ScaffoldOptions(name="one", author="me", category="tool"))
    path = tmp_path / "one" / "manifest.yaml"
    path.write_text(path.read_text().replace("provider/one.yaml", "../../etc/passwd"))
    with pytest.raises(PackageError, match="is outside"):
        package_folder(tmp_path / "one")


def test_ignore_files_are_respected(tmp_path: Path):
    create(tmp_path / "one", ScaffoldOptions(name="one", author="me", category="tool"))
    for name in (".env", "notes.tmp", "deep/notes.tmp", "kept/keep.tmp", "build/x"):
        (tmp_path / "one" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "one" / name).write_text("x")
    (tmp_path / "one" / ".difyignore").write_text("*.tmp\n/build\n!kept/keep.tmp\n")
    names = folder_files(tmp_path / "one")
    assert ".env" not in names
    assert "notes.tmp" not in names
    assert "deep/notes.tmp" not in names
    assert "build/x" not in names
    assert "kept/keep.tmp" in names


def test_rules_that_plugins_share_by_a_link_are_read(tmp_path: Path):
    create(tmp_path / "one", ScaffoldOptions(name="one", author="me", category="tool"))
    (tmp_path / "shared").write_text("*.tmp\n")
    link = tmp_path / "one" / ".difyignore"
    link.unlink(missing_ok=True)
    link.symlink_to("../shared")
    (tmp_path / "one" / "notes.tmp").write_text("x")
    names = folder_files(tmp_path / "one")
    assert "notes.tmp" not in names
    assert ".difyignore" not in names
    # Any other link could bring in files from elsewhere.
    (tmp_path / "one" / "other").symlink_to("../shared")
    with pytest.raises(PackageError, match="'other' is a link"):
        folder_files(tmp_path / "one")


@pytest.mark.parametrize(
    ("rule", "name", "ignored"),
    [
        ("*.pyc", "a/b.pyc", True),
        ("/a", "a", True),
        ("/a", "b/a", False),
        ("a/**/c", "a/x/y/c", True),
        ("a/*", "b/a", False),
    ],
)
def test_ignore_rules_match_as_in_git(rule: str, name: str, ignored: bool):
    assert is_ignored(name, [rule], is_folder=False) is ignored


NAMES = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}\.[a-z]{1,3}", fullmatch=True)


@given(st.dictionaries(NAMES, st.binary(max_size=200), max_size=8))
def test_packages_round_trip_with_an_order_independent_checksum(
    files: dict[str, bytes],
):
    files = {"manifest.yaml": GOOD["manifest.yaml"].encode(), **files}
    package = read_package(write_package(files))
    assert package.files == files
    assert package.checksum == checksum(dict(reversed(files.items())))


def test_extraction_is_atomic(tmp_path: Path):
    package = package_folder(EXAMPLES / "mockgpt")
    package.extract(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "main.py").read_bytes() == package.files["main.py"]
    package.extract(tmp_path / "a" / "b")  # another process was faster
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_identifiers_are_parsed_and_versions_sorted():
    identifier = PluginIdentifier.parse(f"me/x:1.2.3@{'a' * 64}")
    assert (identifier.id, identifier.folder) == ("me/x", f"me/x-1.2.3@{'a' * 64}")
    with pytest.raises(PackageError, match="is not a plugin identifier"):
        PluginIdentifier.parse("me/x")
    assert sorted(["1.0.0", "0.9.0", "1.0.0-beta", "1.0.10", "1.0.2"], key=version_sort_key) == [
        "0.9.0", "1.0.0-beta", "1.0.0", "1.0.2", "1.0.10",
    ]  # fmt: skip


# --------------------------------------------------------------------------- signatures


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    return generate_keys()


def test_a_signature_is_right_until_a_byte_changes(keys: tuple[bytes, bytes]):
    private, public = keys
    plain = package_folder(EXAMPLES / "mockgpt")
    signed = sign(plain.data, private, category="partner", signed_at=1_700_000_000)
    signature = verify(signed, [("k", public)])
    assert (signature.key, signature.category, signature.signed_at) == (
        "k",
        "partner",
        1_700_000_000,
    )
    assert read_package(signed).checksum != plain.checksum
    signed_again = sign(signed, private, signed_at=1_700_000_001)
    assert len(read_package(signed_again).files) == len(read_package(signed).files)
    files = dict(read_package(signed).files)
    files["main.py"] += b" "
    with zipfile.ZipFile(io.BytesIO(signed)) as archive:
        comment = archive.comment
    with pytest.raises(PackageError, match="package was modified"):
        verify(write_package(files, comment=comment), [("k", public)])
    with pytest.raises(PackageError, match="not signed"):
        verify(plain.data, [("k", public)])
    with pytest.raises(PackageError, match="no public key is configured"):
        verify(signed, [])
    with pytest.raises(PackageError, match="Public key 'k' cannot be read"):
        verify(signed, [("k", b"rubbish")])
    with pytest.raises(PackageError, match="private key cannot be read"):
        sign(plain.data, b"rubbish", signed_at=0)
    with pytest.raises(PackageError, match="Unknown category 'x'"):
        sign(plain.data, private, category="x", signed_at=0)


# ------------------------------------------------------------- bundles and marketplaces


def bundle(*dependencies: Any, **files: bytes) -> bytes:
    manifest = {
        "type": "bundle",
        "name": "b",
        "version": "0.0.1",
        "author": "me",
        "dependencies": list(dependencies),
    }
    return write_package({"manifest.yaml": yaml.safe_dump(manifest).encode(), **files})


def test_a_bundle_contains_its_packages():
    package = package_folder(EXAMPLES / "mockgpt")
    inner = {"type": "package", "value": {"path": package.checksum}}
    data = bundle(inner, **{f"_assets/{package.checksum}": package.data})
    assert [
        inner_package.identifier for inner_package in read_bundle(data).packages()
    ] == [package.identifier]
    with pytest.raises(PackageError, match="lists 'gone', which it does not contain"):
        read_bundle(bundle({"type": "package", "value": {"path": "gone"}})).packages()
    with pytest.raises(PackageError, match="Invalid dependency"):
        read_bundle(bundle({"type": "ftp", "value": {}}))
    with pytest.raises(PackageError, match="a plugin, not a bundle"):
        read_bundle(package.data)


def market_of(*locations: str) -> Market:
    return Market(locations, EgressClient())


def test_a_marketplace_folder_is_searched_for_the_latest_version(tmp_path: Path):
    for version in ("0.0.1", "0.0.10", "0.0.9"):
        create(
            tmp_path / version,
            ScaffoldOptions(
                name="one", author="me", category="tool", description="Counts beans."
            ),
        )
        path = tmp_path / version / "manifest.yaml"
        path.write_text(
            path.read_text().replace(
                "version: 0.0.1\ntype", f"version: {version}\ntype"
            )
        )
        add_to_folder(tmp_path / "market", tmp_path / version)
    add_to_folder(tmp_path / "market", EXAMPLES / "mockgpt")

    async def work() -> None:
        market = market_of(str(tmp_path / "market"))
        assert [
            (listing.plugin, listing.version)
            for _, listing in await market.search("beans")
        ] == [("me/one", "0.0.10")]
        assert len(await market.search("")) == 2
        assert read_package(await market.fetch("me/one")).manifest.version == "0.0.10"
        assert (
            read_package(await market.fetch("me/one", "0.0.9")).manifest.version
            == "0.0.9"
        )
        with pytest.raises(NotFoundError, match=r"Plugin 'me/two' is not listed"):
            await market.fetch("me/two")
        with pytest.raises(NotFoundError, match="no plugin market is configured"):
            await market_of().fetch("me/two")

    asyncio.run(work())


def test_a_marketplace_url_and_a_release(
    tmp_path: Path, upstream: Callable[..., Upstream]
):
    add_to_folder(tmp_path, EXAMPLES / "mockgpt")

    def answer(request: Any) -> Answer:
        if request.path.startswith("/v1/me/repo/releases/download/1.0/"):
            return Answer(
                status=302,
                headers={"location": f"/v1/files/{request.path.rpartition('/')[2]}"},
            )
        path = tmp_path / request.path.rpartition("/")[2]
        return Answer(body=path.read_bytes()) if path.is_file() else Answer(status=404)

    server = upstream(answer)

    async def work() -> None:
        client = EgressClient()
        market = Market([server.url], client, github=server.url)
        assert [listing.plugin for _, listing in await market.search("mock")] == [
            "modelyard/mockgpt"
        ]
        data = await market.fetch("modelyard/mockgpt")
        assert read_package(data).manifest.name == "mockgpt"
        assert (
            await market.github("me/repo:1.0/modelyard-mockgpt-0.0.1.difypkg") == data
        )
        with pytest.raises(PluginError, match="HTTP status 404"):
            await market.github("me/repo:1.0/nothing.difypkg")
        with pytest.raises(PackageError, match="is not a release file"):
            await market.github("nonsense")
        await client.aclose()

    asyncio.run(work())


def test_a_marketplace_that_names_outside_files_is_refused(tmp_path: Path):
    listed = {
        "plugin": "a/b",
        "version": "1.0.0",
        "checksum": "0" * 64,
        "file": "../secret",
    }
    (tmp_path / "index.json").write_text(json.dumps({"plugins": [listed]}))
    with pytest.raises(PackageError, match="outside its folder"):
        asyncio.run(market_of(str(tmp_path)).fetch("a/b"))
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(PackageError, match="not a package index"):
        asyncio.run(market_of(str(tmp_path)).search())


# ------------------------------------------------------------------------- environments


def test_the_first_matching_python_is_selected():
    interpreters = [Python(Path("/a"), (3, 12, 1)), Python(Path("/b"), (3, 11, 7))]
    assert choose(interpreters, ">=3.12") is interpreters[0]
    assert choose(interpreters, "<3.12,>=3.11") is interpreters[1]
    assert choose(interpreters, "") is interpreters[0]
    assert choose(interpreters, ">=3.13") is None
    assert satisfies((3, 12), "~=3.11")
    assert not satisfies((3, 12), "==3.11")


def folder_with(tmp_path: Path, name: str, **files: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    for file, text in files.items():
        (folder / file.replace("__", ".")).write_text(text)
    return folder


def test_plugins_with_the_same_dependencies_share_an_environment(
    environments: Path, tmp_path: Path
):
    environment_manager = Environments(environments, os.environ)
    first_folder = folder_with(
        tmp_path, "one", requirements__txt="dify_plugin>=0.7.4,<0.11\n"
    )
    two = folder_with(
        tmp_path,
        "two",
        requirements__txt="# the same, said otherwise\ndify_plugin<0.11,>=0.7.4\n",
    )

    async def work() -> None:
        first, second = [
            await environment_manager.prepare(folder, name=folder.name)
            for folder in (first_folder, two)
        ]
        assert first == second
        assert first.python.is_file()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dify_plugin>=0.7.4\nno-such-package-at-all==1.0\n", "no-such-package-at-all"),
        ("dify_plugin==99\n", "dify-plugin==99"),
        ("msgspec\n", "does not depend on dify_plugin"),
        ("this is ( no requirement\n", "cannot be installed"),
    ],
)
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_failed_installation_is_named_and_leaves_nothing(
    tmp_path: Path,
    text: str,
    reason: str,
    run: Callable[[Coroutine[Any, Any, Any]], Any],
):
    environment_manager = Environments(tmp_path / "environments", os.environ)
    source = folder_with(tmp_path, "one", requirements__txt=text)
    with pytest.raises(PluginError, match=reason) as caught:
        run(environment_manager.prepare(source, name="me/one"))
    assert str(caught.value).startswith("Plugin 'me/one': ")
    left = [
        path.name
        for path in (tmp_path / "environments").iterdir()
        if not path.name.startswith((".cache", ".lock"))
    ]
    assert left in ([], [".resolved"])


def test_a_missing_python_version_is_reported(tmp_path: Path):
    environment_manager = Environments(tmp_path / "environments", os.environ)
    text = '[project]\nname = "x"\nversion = "1"\nrequires-python = ">=3.99"\ndependencies = ["dify_plugin"]\n'
    source = folder_with(tmp_path, "one", pyproject__toml=text)
    with pytest.raises(
        PluginError,
        match=r"requires Python >=3\.99; installed versions: 3\.",
    ):
        asyncio.run(environment_manager.prepare(source, name="me/one"))


def test_only_packages_of_the_wheelhouse_are_installed(tmp_path: Path):
    (tmp_path / "wheels").mkdir()
    environment_manager = Environments(
        tmp_path / "environments", os.environ, wheelhouse=tmp_path / "wheels"
    )
    source = folder_with(tmp_path, "one", requirements__txt="dify_plugin\n")
    with pytest.raises(PluginError, match="dify-plugin"):
        asyncio.run(environment_manager.prepare(source, name="me/one"))


def test_unused_environments_are_removed(tmp_path: Path):
    environment_manager = Environments(tmp_path, {})
    for name in ("old", "used", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "modelyard.json").write_text("{}")
        if name != "new":
            os.utime(tmp_path / name / "modelyard.json", (1, 1))
    assert environment_manager.collect(["used"], older_than=3600) == ["old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "used"]


# ------------------------------------------------------------- templates of new plugins


def test_a_class_that_a_plugin_names_is_no_file(tmp_path: Path):
    folder = odd_plugin(tmp_path, "fine")
    tool = folder / "provider" / "tool.yaml"
    source = "{source: provider/odd.py"
    tool.write_text(tool.read_text().replace(source, f"{source}, class: OddTool"))
    assert package_folder(folder).manifest.id == "odd/fine"
    tool.write_text(tool.read_text().replace(source, "{source: provider/none.py"))
    with pytest.raises(PackageError, match=r"Source file 'provider/none\.py'"):
        package_folder(folder)


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_template_is_valid(tmp_path: Path, category: str):
    create(
        tmp_path / "new",
        ScaffoldOptions(
            name="new",
            author="me",
            category=category,
            permissions=("storage", "model.tts"),
        ),
    )
    package: Package = package_folder(tmp_path / "new")
    assert package.manifest.permissions.storage.size == 1_048_576
    assert package.manifest.permissions.allows("model.tts")
    assert "@" not in "".join(name for name in package.files)
    for name, data in package.files.items():
        if name.endswith(".py"):
            compile(data, name, "exec")


def test_invalid_answers_are_named(tmp_path: Path):
    valid_options: dict[str, Any] = {"name": "x", "author": "me", "category": "tool"}
    for change, reason in (
        ({"name": "X Y"}, "Name 'X Y'"),
        ({"author": ""}, "Author ''"),
        ({"category": "tol"}, "did you mean 'tool'"),
        ({"permissions": ("storag",)}, "did you mean 'storage'"),
    ):
        with pytest.raises(ConfigError, match=reason):
            create(tmp_path / "new", ScaffoldOptions(**{**valid_options, **change}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ConfigError, match="not empty"):
        create(tmp_path / "full", ScaffoldOptions(**valid_options))
