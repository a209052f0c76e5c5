"""How each code block of the pages is run: by an existing test, by a reader, by the
product's own loader, or, where it cannot be run, by holding it to the command line.
"""

from dataclasses import dataclass

from tests.docs.commands import Command, commands_of
from tests.docs.pages import Block, all_blocks, blocks_of
from tests.e2e import test_readme
from tests.plugins import test_howto as plugin_howto
from tests.unit.providers import test_howto as provider_howto

TOUR = "tests/e2e/test_readme.py::test_the_tour_works_as_shown"
PYTHON = "tests/e2e/test_readme.py::test_the_readmes_python_runs"
PLUGIN = "tests/plugins/test_howto.py::test_the_page_works_as_written"
PROVIDER = "tests/unit/providers/test_howto.py::test_the_provider_of_the_how_to_works"
LOADED = "tests/docs/test_code_blocks.py::test_a_configuration_is_loaded"
FOLLOWED = "tests/docs/test_code_blocks.py::test_a_page_is_followed"
PARSED = "tests/docs/test_code_blocks.py::test_every_command_could_work"
NOT_CODE = frozenset({"text", "mermaid"})
SHELL = frozenset({"console", "sh"})

NOT_RUN = {
    "make ": "sets up an environment; its target exists",
    "modelyard serve": "serves until it is stopped; the reader's server is it",
    "modelyard worker": "executes runs until it is stopped",
    "modelyard run --model": "starts a program that is installed by its own means",
    "modelyard providers check openai": "calls the vendor",
    "modelyard models pull": "downloads; `make test` runs it before the tests",
    "modelyard models remove NAME": "NAME is a placeholder",
    "modelyard tools add-api shop https:": "loads from the network",
    "modelyard tools add-api pets https:": "loads from the network",
    "modelyard tools add-mcp docs https:": "loads from the network",
    "modelyard tools add-mcp files": "names a program that does not exist",
    "modelyard tools call pets/": "calls an API that does not exist",
    "modelyard knowledge add shop https:": "loads from the network",
    "modelyard knowledge add shop notes/ --watch": "goes on until it is stopped",
    "modelyard knowledge questions": "has a model write fifty questions",
    "modelyard knowledge eval": "measures with collections that are downloaded",
    "modelyard knowledge sync handbook confluence:": "names a server of others",
    "modelyard knowledge sync handbook s3:": "names a server that does not exist",
    "python -m pip download": "downloads packages",
    "python -m venv": "sets up an environment",
    ".venv/bin/pip install": "installs packages",
    "pip install": "installs packages",
    "tar cf carry.tar": "packs gigabytes",
    "MODELYARD_LOCAL__WEIGHTS=": "serves until it is stopped",
    "modelyard database restore ~/": "names a backup that does not exist",
    "modelyard plugin install ./some.difypkg": "names a package that does not exist",
    "modelyard plugin permission author/name": "names a plugin that does not exist",
    "modelyard plugin uninstall author/name": "names a plugin that does not exist",
    "modelyard plugin credential": "names a plugin that does not exist",
    "python examples/customer-service/": (
        "takes a minute; `make show WHAT=customer-service-app` runs it"
    ),
}
"""Beginnings of commands that a reader does not run, with the reason; they are held to
the command line."""


class UncoveredBlockError(Exception):
    """No rule says how a code block is run."""


@dataclass(frozen=True)
class Rule:
    """How a code block is run."""

    test: str
    """The pytest node id of what runs it; empty for what is not code."""
    summary: str


def rule_of(block: Block) -> Rule:
    """Return how a block is run. Raises UncoveredBlockError if nothing does."""
    if block.language in NOT_CODE:
        return Rule("", "no code")
    if _is_page(block, plugin_howto.PAGE.name):
        return Rule(PLUGIN, "followed from top to bottom")
    if block.language in SHELL:
        return _shell_rule(block)
    if block.language == "python" and block.body in test_readme.PYTHON:
        return Rule(PYTHON, "run")
    if block.language == "yaml":
        return _yaml_rule(block)
    raise UncoveredBlockError(
        f"{block.where}: no rule covers a block of the language {block.language!r}"
    )


def _is_page(block: Block, name: str) -> bool:
    return block.page.endswith(f"/{name}")


def _shell_rule(block: Block) -> Rule:
    if block.page == "README.md" and block.language == "console":
        return Rule(TOUR, "run, and the output compared")
    commands = commands_of(block)
    if not commands:
        raise UncoveredBlockError(f"{block.where}: there is no command in the block")
    ran = sum(not reason_not_to_run(command) for command in commands)
    if ran == 0:
        return Rule(PARSED, f"{len(commands)} commands parsed")
    parsed = f", {len(commands) - ran} parsed" if ran < len(commands) else ""
    return Rule(FOLLOWED, f"{ran} commands run{parsed}")


def _yaml_rule(block: Block) -> Rule:
    if _is_page(block, provider_howto.PAGE.name) and block.body.startswith("name:"):
        return Rule(PROVIDER, "called and priced")
    return Rule(LOADED, "loaded")


def uncovered_blocks() -> list[str]:
    """Return the blocks that no rule covers, each with its page and line."""
    problems: list[str] = []
    for block in all_blocks():
        try:
            rule_of(block)
        except UncoveredBlockError as error:
            problems.append(str(error))
    return problems


def blocks_run_by(test: str) -> list[Block]:
    """Return the blocks that a test runs; those without a rule are not among them."""
    return [block for block in all_blocks() if _test_of(block) == test]


def _test_of(block: Block) -> str:
    try:
        return rule_of(block).test
    except UncoveredBlockError:
        return ""


def reason_not_to_run(command: Command) -> str:
    """Return why a reader does not run a command; empty if they do."""
    for beginning, reason in NOT_RUN.items():
        if command.line.startswith(beginning):
            return reason
    return ""


def followed(page: str) -> list[Command]:
    """Return the commands of a page that a reader runs, in order."""
    return [
        command
        for block in blocks_of(page)
        if _test_of(block) == FOLLOWED
        for command in commands_of(block)
        if not reason_not_to_run(command)
    ]
