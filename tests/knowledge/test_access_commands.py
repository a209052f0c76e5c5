"""The commands that set access lists and follow sources."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.cli import run

Command = Callable[..., str]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command line in a home of its own, and returns what it prints."""
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path / "home"))
    for name in ("AWS_ACCESS_KEY_ID", "CONFLUENCE_USER"):
        monkeypatch.delenv(name, raising=False)

    def go(*arguments: str, exit_code: int = 0) -> str:
        capsys.readouterr()
        code = run(list(arguments))
        captured = capsys.readouterr()
        assert code == exit_code, captured
        return captured.out + captured.err

    return go


@pytest.fixture
def folder(tmp_path: Path, command: Command) -> Path:
    """A folder of two documents, and a dataset without any."""
    share = tmp_path / "share"
    share.mkdir()
    for name in ("pay.md", "tea.md"):
        (share / name).write_text(f"All about {name}.", "utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "start.md").write_text("Start.", "utf-8")
    command("knowledge", "add", "notes", str(empty), "--economy")
    return share


def test_a_folder_is_followed_and_its_lists_are_shown(command: Command, folder: Path):
    sync = ("knowledge", "sync", "notes", str(folder), "--access", "pay=group:hr,user:ada")  # fmt: skip
    assert "2 added, 0 changed" in command(*sync)
    assert "0 added, 0 changed, 0 deleted, 2 unchanged" in command(*sync)
    (folder / "empty.md").write_text("")
    skipped = command(*sync, exit_code=1)
    assert "1 skipped" in skipped
    assert "empty.md" in skipped
    listed = command("knowledge", "access", "notes", "pay.md")
    assert "ada, group hr" in listed
    for arguments, expected in (
        (("--everyone",), {"users": [], "groups": [], "everyone": True}),
        (("--user", "Ben@x.org"), {"users": ["ben@x.org"], "groups": [], "everyone": False}),
        (("--nobody",), {"users": [], "groups": [], "everyone": False}),
        (("--remove",), None),
    ):  # fmt: skip
        shown = command("knowledge", "access", "notes", "tea.md", *arguments, "--json")
        assert json.loads(shown)["documents"][0]["access"] == expected
    shown = command("knowledge", "access", "notes", "--default", "nobody", "--json")
    assert json.loads(shown)["default_access"] == "nobody"
    search = ("knowledge", "search", "notes", "all about", "--method", "full_text_search", "--json")  # fmt: skip
    for arguments, expected_count in (
        ((), 2),
        (("--as-user", "ada"), 1),
        (("--as-group", "hr"), 1),
        (("--as-user", "ben"), 0),
    ):
        hits = json.loads(command(*search, *arguments))["hits"]
        assert len(hits) == expected_count, arguments


def test_wrong_arguments_are_named(command: Command, folder: Path):
    access, sync = ("knowledge", "access", "notes"), ("knowledge", "sync", "notes")
    for arguments, exit_code, text in (
        ((*access, "--nobody"), 2, "Name the documents"),
        ((*access, "start.md", "--nobody", "--everyone"), 2, "or --nobody; or --remove"),
        ((*access, "none.md", "--nobody"), 1, "has no document 'none.md'"),
        ((*sync, str(folder / "none")), 1, "does not exist"),
        ((*sync, str(folder), "--access", "hr"), 1, "Invalid access rule 'hr'"),
        ((*sync, "s3://bucket/x"), 1, "AWS_ACCESS_KEY_ID"),
        ((*sync, "confluence:https://x.org/wiki/spaces/DOC"), 1, "CONFLUENCE_USER"),
        ((*sync, "confluence:https://x.org/wiki"), 1, "/wiki/spaces/KEY"),
    ):  # fmt: skip
        assert text in command(*arguments, exit_code=exit_code), arguments


def test_a_stored_source_is_managed(command: Command, folder: Path):
    source = ("knowledge", "source")
    added = command(
        *source, "add", "notes", "share", "folder", "--set", f"path={folder}",
        "--schedule", "0 * * * *", "--access", "pay=group:hr",
    )  # fmt: skip
    listed = json.loads(command(*source, "list", "notes", "--json"))
    assert [
        (entry["id"], entry["connector"], entry["schedule"]) for entry in listed
    ] == [(added.strip(), "folder", "0 * * * *")]
    assert "secret" not in listed[0]
    assert "not yet synchronised" in command(*source, "list", "notes")
    command(*source, "change", "notes", "share", "--rename", "files", "--disable")
    (listed,) = json.loads(command(*source, "list", "notes", "--json"))
    assert (listed["name"], listed["is_enabled"], listed["due_at"]) == ("files", False, None)  # fmt: skip
    command(*source, "sync", "notes", "files")
    (listed,) = json.loads(command(*source, "list", "notes", "--json"))
    assert listed["due_at"] is not None
    assert "0 documents were kept" in command(
        *source, "remove", "notes", "files", "--documents", "keep"
    )
    assert json.loads(command(*source, "list", "notes", "--json")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "notes", "x", "ftp"), "Unknown connector 'ftp'"),
        (("add", "notes", "x", "s3", "--set", "bucket"), "--set expects NAME=VALUE"),
        (("add", "notes", "x", "s3", "--set", "bucket=b"), "missing required field"),
        (("add", "notes", "x", "web", "--set", "urls=[x"), "--set urls: expected a list of texts"),
        (("add", "notes", "x", "web", "--set", 'urls=["x"]'), "'urls' must be http(s) URLs"),
        (("sync", "notes", "gone"), "does not exist in dataset 'notes'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_source_are_told(command: Command, folder: Path, arguments: tuple[str, ...], message: str):  # fmt: skip
    assert message in command("knowledge", "source", *arguments, exit_code=1)
