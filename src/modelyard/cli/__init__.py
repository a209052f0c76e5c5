"""The command line: arguments in, exit code out. A command's module is imported only
when the command runs."""

import json
import os
import sys
from importlib import import_module
from typing import Any, ClassVar

import click

from modelyard.base.errors import ModelyardError, suggestion
from modelyard.base.version import __version__

# Command → (module, line in `--help`). Help works without importing the modules, which
# keeps it fast.
COMMANDS = {
    "serve": (
        "serve",
        (
            "Start the server: every model you have, for OpenAI's, Anthropic's,"
            " Google's and Cohere's clients."
        ),
    ),
    "open": ("console", "Open the console of the server that runs here."),
    "chat": ("chat", "Chat with a model; reads from a pipe too."),
    "embed": ("calls", "Turn texts into vectors."),
    "rerank": ("calls", "Order documents by how well they answer a query."),
    "transcribe": ("calls", "Write down what a recording says."),
    "speak": ("calls", "Read a text aloud, into a file."),
    "moderate": ("calls", "Say what is wrong with a text, if anything."),
    "models": (
        "models",
        "Models: list them; pull, verify, remove and measure local ones.",
    ),
    "providers": ("providers", "Providers: list, show, add, check."),
    "workflow": ("workflows", "Workflows: run an exported app, draw it, check it."),
    "app": ("workflows", "Apps: import, list, export; keys for their callers."),
    "agent": ("agents", "Agents: give a model tools, and watch what it does."),
    "tools": (
        "agents",
        "Tools: list them, look at one, try it; add APIs and MCP servers.",
    ),
    "mcp": ("agents", "MCP: offer tools, apps and datasets to other programs' models."),
    "knowledge": (
        "knowledge",
        "Knowledge: add documents, search them, ask them, measure what is found.",
    ),
    "plugin": ("plugins", "Plugins: make, try, debug, pack, sign and install them."),
    "prices": ("prices", "Prices: what models cost, and where price lists disagree."),
    "usage": ("usage", "What was used, and what it cost."),
    "explain": ("usage", "Why a call went where it went, by its x-request-id."),
    "keys": ("tenants", "API keys: make, list, rotate, revoke."),
    "tenants": ("tenants", "Tenants: add, list, switch off."),
    "limits": ("tenants", "Limits: what may be used, and how fast."),
    "secrets": ("tenants", "The key that encrypts credentials: rotate it."),
    "database": ("database", "The database: check it, back it up, restore it."),
    "doctor": (
        "doctor",
        "What can run here, what is missing, and the command that brings it.",
    ),
}


class LazyGroup(click.Group):
    """A click group that imports each command's module on demand."""

    names: ClassVar[dict[str, tuple[str, str]]] = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of COMMANDS."""
        return list(self.names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module and return the command, or None if it is unknown."""
        if cmd_name not in self.names:
            return None
        module = import_module(f"modelyard.cli.{self.names[cmd_name][0]}")
        # A command whose name is a Python builtin or keyword has a trailing underscore
        # in its module.
        return getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the command list from COMMANDS, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.names.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises click.UsageError with similar names if it is
        unknown."""
        if args and not args[0].startswith("-") and args[0] not in self.names:
            raise click.UsageError(
                f"there is no command {args[0]!r};"
                f" {suggestion(args[0], self.names, label='there are')}",
                ctx,
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(
    __version__, prog_name="modelyard", message="%(prog)s %(version)s"
)
@click.option(
    "--config",
    metavar="FILE",
    help="Settings file; else $MODELYARD_CONFIG, else ~/.modelyard/modelyard.yaml.",
)
@click.pass_context
def root(ctx: click.Context, config: str | None) -> None:
    """Six model types behind one interface, answered on this machine with no key, for
    anybody's client.

    Start with `modelyard models pull small`, then `modelyard serve` or `modelyard
    chat`.
    """
    # Subcommands read the settings path from the context.
    ctx.obj = config


def main(arguments: list[str] | None = None) -> None:
    """Run a command line and exit. Tracebacks are shown only with MODELYARD_DEBUG."""
    command_arguments = sys.argv[1:] if arguments is None else arguments
    sys.exit(run(command_arguments))


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code.

    0 success, 1 a reported error, 2 wrong usage, 70 an internal error, 130 interrupted.
    """
    try:
        # Without standalone mode click raises instead of exiting, so that errors are
        # reported below.
        result: Any = root.main(arguments, prog_name="modelyard", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("", err=True)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has exited (`| head`). Closing stderr suppresses Python's
        # own message at exit.
        sys.stderr.close()
        return 0
    except ModelyardError as error:
        # Programs that ask for JSON get errors as JSON on standard output too.
        if "--json" in arguments:
            click.echo(
                json.dumps(
                    {"error": {"code": error.code, "message": str(error)}},
                    ensure_ascii=False,
                )
            )
        else:
            click.echo(
                click.style("error: ", fg="red", bold=True) + str(error), err=True
            )
        return 1
    except Exception as error:
        # EX_SOFTWARE of sysexits.h; the traceback is for developers.
        if os.environ.get("MODELYARD_DEBUG"):
            raise
        message = (
            f"something is wrong with Modelyard itself: {type(error).__name__}: {error}"
        )
        click.echo(f"{message}\nMODELYARD_DEBUG=1 shows where.", err=True)
        return 70
