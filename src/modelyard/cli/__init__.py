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
    "serve": ("serve", "Start the API server and the console."),
    "worker": ("worker", "Execute runs of workflows, without an API."),
    "open": ("console", "Open the console of the local server in the browser."),
    "run": (
        "agent_programs",
        "Run a coding agent with the models of a server: claude, codex, gemini, …",
    ),
    "chat": ("chat", "Chat with a model. Piped text is appended to the prompt."),
    "embed": ("model_calls", "Embed texts."),
    "rerank": ("model_calls", "Order documents by relevance to a query."),
    "transcribe": ("model_calls", "Transcribe an audio file."),
    "speak": ("model_calls", "Convert text to speech and write it to a file."),
    "moderate": ("model_calls", "Classify texts for harmful content."),
    "models": (
        "models",
        "List models; pull, verify, remove and benchmark local ones.",
    ),
    "providers": (
        "providers",
        "Manage providers and their credentials: list, show, add, check.",
    ),
    "workflow": (
        "workflows",
        "Run, draw and validate exported apps; works without a server.",
    ),
    "app": (
        "workflows",
        "Manage apps: create, import, publish, export; keys, pages and triggers.",
    ),
    "agent": ("agents", "Run agents: models with tools."),
    "tools": (
        "agents",
        "Manage tools: list, show and call them; add APIs and MCP servers.",
    ),
    "mcp": ("agents", "Serve tools, apps and datasets over MCP."),
    "knowledge": (
        "knowledge",
        "Manage and search documents; works without a server.",
    ),
    "plugin": ("plugins", "Create, test, debug, package, sign and install plugins."),
    "prices": ("prices", "Show model prices and compare price sources."),
    "usage": ("usage", "Show usage and cost."),
    "explain": ("usage", "Show the routing decisions of a call."),
    "keys": ("tenants", "Manage API keys: create, list, rotate, revoke."),
    "tenants": ("tenants", "Manage tenants: add, list, enable, disable."),
    "limits": ("tenants", "Manage rate limits and budgets."),
    "secrets": ("tenants", "Manage the master key, which encrypts credentials."),
    "database": ("database", "Check, back up and restore the database."),
    "doctor": (
        "doctor",
        "Check the installation and print the commands that fix it.",
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
                f"Unknown command {args[0]!r};"
                f" {suggestion(args[0], self.names, label='expected one of')}",
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
    help=(
        "Settings file. Default: $MODELYARD_CONFIG, otherwise"
        " ~/.modelyard/modelyard.yaml."
    ),
)
@click.pass_context
def root(ctx: click.Context, config: str | None) -> None:
    """LLM runtime and gateway with local models. Works offline and with the OpenAI,
    Anthropic, Google and Cohere clients.

    Start with `modelyard models pull small`, then `modelyard serve` or `modelyard
    chat`. Exit codes: 0 success, 1 error, 2 wrong usage, 70 internal error, 130
    interrupted.
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
                click.style("Error: ", fg="red", bold=True) + str(error), err=True
            )
        return 1
    except Exception as error:
        # EX_SOFTWARE of sysexits.h; the traceback is for developers.
        if os.environ.get("MODELYARD_DEBUG"):
            raise
        click.echo(
            f"Internal error: {type(error).__name__}: {error}\n"
            "Set MODELYARD_DEBUG=1 to print the traceback.",
            err=True,
        )
        return 70
