"""The commands in code blocks, and whether they could work: each is held to the command
line, the Makefile, the routes and the files that exist, without being run."""

import itertools
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import get_type_hints
from urllib.parse import urlsplit

import click
from tools.reference import apis
from tools.show.__main__ import PROOFS

from modelyard.base.errors import ModelyardError
from modelyard.base.settings import Settings
from modelyard.cli import root
from modelyard.gateway.router import Router
from tests.docs.pages import ROOT, Block

SERVER = "http://127.0.0.1:8790"
"""Where pages say that the server is: the address of its default settings."""
_ASSIGNMENT = re.compile(r"([A-Z_]+)=(.*)", re.DOTALL)
_PLAIN_TOOLS = frozenset({"tar", "rm"})
_NO_SETTINGS = frozenset({"MODELYARD_HOME", "MODELYARD_CONFIG"})
"""Variables that the settings themselves are found with."""


@dataclass(frozen=True)
class Command:
    """A shell command in a code block."""

    block: Block
    line: str
    """The complete command, which may extend over several lines."""
    shown: str
    """The output that the page shows; empty if it shows none."""

    @property
    def arguments(self) -> list[str]:
        """The command and its arguments, without comments."""
        return shlex.split(self.line, comments=True)


class CommandError(Exception):
    """A command on a page cannot work."""


def commands_of(block: Block) -> list[Command]:
    """Return the commands of a `console` or `sh` block in order."""
    commands: list[Command] = []
    lines = block.body.splitlines()
    while lines:
        line = lines.pop(0)
        if not line.strip():
            continue
        line = line.removeprefix("$ ")
        while not _is_complete(line):
            line += f"\n{lines.pop(0)}"
        shown: list[str] = []
        while block.language == "console" and lines and not lines[0].startswith("$ "):
            shown.append(lines.pop(0))
        commands.append(Command(block, line, "\n".join(shown)))
    return commands


def _is_complete(line: str) -> bool:
    """Return whether a shell would run this line instead of asking for more."""
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return False
    return not line.endswith("\\")


def check(command: Command) -> None:
    """Check that a command could work. Raises CommandError that says why it cannot."""
    arguments = [argument for argument in command.arguments if argument != "&"]
    while arguments and (assignment := _ASSIGNMENT.fullmatch(arguments[0])):
        _check_variable(assignment[1])
        arguments.pop(0)
    name = arguments[0].removeprefix(".venv/bin/") if arguments else ""
    checker = _CHECKERS.get(name)
    if checker is not None:
        checker(arguments[1:])
    elif name not in _PLAIN_TOOLS:
        raise CommandError(f"nothing is known about the command {name!r}")


def _check_variable(name: str) -> None:
    """Check that a MODELYARD_ variable sets a setting that exists."""
    if name in _NO_SETTINGS or not name.startswith("MODELYARD_"):
        return
    section, _, field = name.removeprefix("MODELYARD_").lower().partition("__")
    hints = get_type_hints(Settings)
    if section not in hints or (field and field not in get_type_hints(hints[section])):
        raise CommandError(f"{name} sets no setting")


def _check_export(arguments: list[str]) -> None:
    for argument in arguments:
        _check_variable(argument.partition("=")[0])


def _check_modelyard(arguments: list[str]) -> None:
    """Have the real command line parse the arguments, without running anything."""
    command: click.Command = root
    context = None
    name, remaining = "modelyard", arguments
    while True:
        try:
            context = command.make_context(name, list(remaining), parent=context)
        except click.BadParameter as error:
            # The reader has files that do not exist here; all else is a mistake.
            if "does not exist" in error.format_message():
                return
            raise CommandError(error.format_message()) from error
        except click.ClickException as error:
            raise CommandError(error.format_message()) from error
        except click.exceptions.Exit:
            return  # --help and --version end the command line
        if not isinstance(command, click.Group):
            return
        name, command, remaining = _subcommand(command, context)


def _subcommand(
    group: click.Group, context: click.Context
) -> tuple[str, click.Command, list[str]]:
    arguments = [*context._protected_args, *context.args]
    try:
        name, command, remaining = group.resolve_command(context, arguments)
    except click.ClickException as error:
        raise CommandError(error.format_message()) from error
    if command is None:
        raise CommandError(f"{context.command_path} has no command {arguments[:1]}")
    return name or "", command, remaining


@cache
def make_targets() -> frozenset[str]:
    """Return the targets of the Makefile that people may call."""
    text = (ROOT / "Makefile").read_text("utf-8")
    return frozenset(re.findall(r"^([a-z]+):", text, re.MULTILINE))


def _check_make(arguments: list[str]) -> None:
    if arguments[0] not in make_targets():
        raise CommandError(f"the Makefile has no target {arguments[0]!r}")
    for argument in arguments[1:]:
        proof = argument.removeprefix("WHAT=")
        if proof != argument and proof not in {*PROOFS, "name"}:
            raise CommandError(f"there is no proof {proof!r}")


@cache
def router() -> Router:
    """Return the router over the tables of all APIs."""
    return Router(apis())


def check_route(method: str, path: str) -> None:
    """Check that a route exists. Placeholders as `{id}`, `NAME` and `…` stand for any
    value."""
    try:
        router().find(method, re.sub(r"\{\w+\}|…", "x", path))
    except ModelyardError as error:
        raise CommandError(f"{method} {path}: {error}") from error


def _check_curl(arguments: list[str]) -> None:
    """Check that the server has a route for a call with curl."""
    address = next(argument for argument in arguments if argument.startswith("http"))
    if not address.startswith(SERVER):
        raise CommandError(f"the server is at {SERVER}, not {address}")
    method = "POST" if {"-d", "-F"} & set(arguments) else "GET"
    if "-X" in arguments:
        method = arguments[arguments.index("-X") + 1]
    check_route(method, urlsplit(address).path)


def _check_python(arguments: list[str]) -> None:
    """Check that the files exist that Python runs or pip reads."""
    files = [after for before, after in itertools.pairwise(arguments) if before == "-r"]
    if arguments and arguments[0].startswith("examples/"):
        files.append(arguments[0])
    for file in files:
        if not (ROOT / file).is_file():
            raise CommandError(f"there is no file {file}")


_CHECKERS: dict[str, Callable[[list[str]], None]] = {
    "modelyard": _check_modelyard,
    "make": _check_make,
    "curl": _check_curl,
    "python": _check_python,
    "pip": _check_python,
    "export": _check_export,
}
