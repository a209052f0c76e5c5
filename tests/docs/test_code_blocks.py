"""Every code block of the pages is run, and every command in their text could work."""

import asyncio
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import trustme
import yaml

from modelyard.app import Modelyard
from modelyard.base.settings import Settings, load_settings
from modelyard.workflow.dsl import load_mapping
from tests.docs.commands import Command, CommandError, check, check_route, commands_of
from tests.docs.pages import PAGES, ROOT, Block, all_blocks, normalised, text_of
from tests.docs.reader import Reader
from tests.docs.rules import (
    LOADED,
    NOT_RUN,
    SHELL,
    UncoveredBlockError,
    blocks_run_by,
    followed,
    reason_not_to_run,
    rule_of,
    uncovered_blocks,
)
from tests.knowledge.formats import pdf, xlsx

# The page on workflows runs the example of customer service.
pytestmark = pytest.mark.proof("docs", "customer-service")

SHELL_BLOCKS = [block for block in all_blocks() if block.language in SHELL]


def where(block: Block) -> str:
    return block.where


def test_a_law_every_block_is_run_by_something():
    assert uncovered_blocks() == []


def test_a_block_that_no_rule_covers_is_named():
    block = Block("README.md", 12, "ruby", "", "puts 1")
    with pytest.raises(UncoveredBlockError, match="README.md:12: .*'ruby'"):
        rule_of(block)


def test_every_reason_not_to_run_a_command_is_needed():
    commands = [command for block in SHELL_BLOCKS for command in commands_of(block)]
    reasons = {reason_not_to_run(command) for command in commands}
    assert set(NOT_RUN.values()) <= reasons


# ------------------------------------------------------------------ what could work


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=where)
def test_every_command_could_work(block: Block):
    for command in commands_of(block):
        try:
            check(command)
        except CommandError as error:
            pytest.fail(f"{block.where}: {command.line}: {error}")


_IN_TEXT = re.compile(r"`([^`]+)`")
_CALL = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/[^\s?]+)(?:\?\S*)?")
_COMPLETE_BY_READER = re.compile(r"Missing (?:argument|option|parameter)")


def commands_in_text(page: str) -> Iterator[str]:
    """Yield the commands and calls in backticks of a page's text."""
    text = re.sub(r"^ *```.*?^ *```$", "", text_of(page), flags=re.M | re.S)
    for fragment in _IN_TEXT.findall(text):
        yield from _alternatives(normalised(fragment))


def _alternatives(fragment: str) -> Iterator[str]:
    """Yield `app list` and `app export` for `app list | export`."""
    first, *variants = fragment.split(" | ")
    yield first
    for variant in variants:
        yield f"{first.rpartition(' ')[0]} {variant}"


def problem_in_text(fragment: str) -> str:
    """Return why a command or call in a page's text cannot work; empty if it can."""
    block = Block("", 0, "sh", "", fragment)
    try:
        if call := _CALL.fullmatch(fragment):
            check_route(call[1], call[2])
        elif fragment.startswith(("modelyard ", "make ")):
            check(Command(block, fragment, ""))
    except CommandError as error:
        return "" if _COMPLETE_BY_READER.search(str(error)) else str(error)
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_the_text_could_work(page: str):
    problems = {
        fragment: problem
        for fragment in commands_in_text(page)
        if (problem := problem_in_text(fragment))
    }
    assert problems == {}


def test_what_could_not_work_is_noticed():
    assert problem_in_text("modelyard serfe")
    assert problem_in_text("modelyard serve --colour red")
    assert problem_in_text("make everything")
    assert problem_in_text("GET /admin/v1/nothing")
    assert problem_in_text("DELETE /admin/v1/usage")
    assert problem_in_text("modelyard app versions NAME") == ""


# ----------------------------------------------------------------- configurations


@pytest.mark.parametrize("block", blocks_run_by(LOADED), ids=where)
def test_a_configuration_is_loaded(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "tests" / "data" / "dify_nimbus", "nimbus")
    trustme.CA().cert_pem.write_to_path("corp.pem")
    file = tmp_path / "modelyard.yaml"
    file.write_text(block.body.replace("/etc/ssl/corp.pem", "corp.pem"), "utf-8")
    if "models" in yaml.safe_load(block.body):  # a mapping for imported apps
        load_mapping(file)
        return
    variables = {"OPENAI_API_KEY": "sk-x", "OIDC_SECRET": "s", "MODELYARD_HOME": ".",
                 "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s"}  # fmt: skip
    settings = load_settings(variables)
    # Routes and limits are validated when the services are built, providers too.
    asyncio.run(_build(settings, tmp_path))


async def _build(settings: Settings, home: Path) -> None:
    """Build the services of the settings. No database is opened and nothing called."""
    changed = msgspec.structs.replace(settings, home=str(home), database="")
    await Modelyard(changed, environ={}).aclose()


# --------------------------------------------------------------------- readers


TYPED = {
    "modelyard providers add openai": "sk-none",
    "modelyard tools add-api pets openapi.yaml": "secret",
}
"""What a reader types at the prompt of a command, by its beginning."""
EXIT_CODES = {'modelyard knowledge ask shop "Who founded': "3"}
"""The exit code of a command that does not end with 0, by its beginning."""
PLACEHOLDERS = {
    "req_1a1fdd30731c93bc1eb73d70024": r"call_[0-9a-f]+",
    "$KEY": r"mdy_[\w-]+",
    "app-…": r"app-[\w-]{20,}",
    "APP-ID": r"app_\w+",
    "DATASET-ID": r"handbook ([0-9a-f-]{36}),",
    "DOCUMENT-ID": r" ([0-9a-f-]{36})\n",
    "FvQ3PIb9mG4isJIhpfcIYjFT": r"/triggers/webhook/([\w-]+)",
}
"""What a reader replaces by a value that was printed before."""
CHANGES_WITH_EACH_RUN = re.compile(r"\d|It's in the warehouse")
"""Pieces of shown output that nobody can expect again: times, ids, a model's words."""
_OPENAPI = """
openapi: 3.1.0
info: {title: Pets, version: "1"}
servers: [{url: "https://pets.example"}]
components: {securitySchemes: {key: {type: http, scheme: bearer}}}
paths:
  /pets/{id}:
    get:
      operationId: getPet
      parameters: [{name: id, in: path, required: true, schema: {type: integer}}]
      responses: {"200": {description: The pet}}
"""


def bring_documents(reader: Reader) -> None:
    """Create the files that docs/how-to/ask-documents.md adds."""
    (reader.folder / "handbook.pdf").write_bytes(pdf().data)
    (reader.folder / "prices.xlsx").write_bytes(xlsx().data)
    with sqlite3.connect(reader.folder / "shop.db") as database:
        database.execute("CREATE TABLE articles (id INTEGER, name TEXT, text TEXT)")
        database.execute("INSERT INTO articles VALUES (1, 'cable', 'Cables are long.')")
    database.close()


def bring_handbook(reader: Reader) -> None:
    """Create the folder that docs/how-to/keep-permissions.md adds."""
    folder = reader.folder / "handbook"
    folder.mkdir()
    for name in ("salaries", "welcome"):
        (folder / f"{name}.md").write_text(f"All about {name}.", "utf-8")


def bring_share(reader: Reader) -> None:
    """Create the folders that docs/how-to/connect-sources.md names."""
    for name in ("notes/a.md", "share/hr/pay.md", "share/open/tea.md"):
        file = reader.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"All about {name}.", "utf-8")


def bring_api(reader: Reader) -> None:
    """Create the OpenAPI document of docs/how-to/use-agents.md, and an app."""
    (reader.folder / "openapi.yaml").write_text(_OPENAPI, "utf-8")
    type_in(reader, "modelyard app import examples/workflows/morning-report.yml")


def bring_tenant(reader: Reader) -> None:
    """Create the tenant that other pages created."""
    type_in(reader, "modelyard tenants add acme")


def bring_call(reader: Reader) -> None:
    """Make a call whose request id can be explained."""
    type_in(reader, 'modelyard embed "a sunny day"')
    type_in(reader, "modelyard usage --rows 1 --json")


def type_in(reader: Reader, line: str) -> str:
    """Run a command that is not on the page."""
    return reader.run(Command(Block("before", 0, "sh", "", line), line, ""))


BROUGHT: dict[str, Callable[[Reader], None]] = {
    "docs/how-to/ask-documents.md": bring_documents,
    "docs/how-to/connect-sources.md": bring_share,
    "docs/how-to/keep-permissions.md": bring_handbook,
    "docs/how-to/limits.md": bring_tenant,
    "docs/how-to/upgrade.md": bring_tenant,
    "docs/how-to/use-agents.md": bring_api,
    "docs/how-to/see-what-happens.md": bring_call,
}
"""What a reader of a page has before."""


def starting_with(values: dict[str, str], line: str) -> str:
    """Return the value of the key with which a line starts; empty without one."""
    return next((text for key, text in values.items() if line.startswith(key)), "")


@pytest.fixture
def reader(tmp_path: Path, weights_folder: Path) -> Iterator[Reader]:
    page_reader = Reader(tmp_path, weights_folder)
    yield page_reader
    page_reader.close()


@pytest.mark.parametrize("page", [page for page in PAGES if followed(page)])
def test_a_page_is_followed(page: str, reader: Reader):
    commands = followed(page)
    if page in BROUGHT:
        BROUGHT[page](reader)
    for command in commands:
        if command.line.startswith("curl"):
            reader.serve()
        output = reader.run(
            command,
            answer=starting_with(TYPED, command.line),
            exit_code=int(starting_with(EXIT_CODES, command.line) or 0),
            values={
                key: PLACEHOLDERS[key] for key in PLACEHOLDERS if key in command.line
            },
        )
        for fragment in expected_fragments(command):
            assert fragment in output, f"{command.block.where}: {output}"


def expected_fragments(command: Command) -> list[str]:
    """Return the pieces of shown output that do not change from run to run."""
    return [
        fragment
        for line in command.shown.splitlines()
        for fragment in re.split(r"\s{2,}", line.strip())
        if fragment and not CHANGES_WITH_EACH_RUN.search(fragment)
    ]
