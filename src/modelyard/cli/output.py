"""Helpers shared by commands: settings, opening the library, and output for people or,
with --json, for programs."""

import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from modelyard.base.settings import Settings, load_settings, settings_path

if TYPE_CHECKING:
    from modelyard.app import Modelyard

T = TypeVar("T")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, errors included."
)


def settings_of(ctx: click.Context) -> Settings:
    """Load the settings, from the file named by --config if there is one."""
    return load_settings(os.environ, config=ctx.find_root().obj)


def settings_file(ctx: click.Context) -> Path:
    """Return the path of the settings file. It need not exist."""
    return settings_path(os.environ, config=ctx.find_root().obj)


def run_with_modelyard(
    ctx: click.Context, work: Callable[["Modelyard"], Coroutine[Any, Any, T]]
) -> T:
    """Open the library, run an operation with it, and close it. Returns the operation's
    result."""
    # Imported here, so that `--help` does not load the library.
    import asyncio

    from modelyard.app import Modelyard

    async def run_operation() -> T:
        """Run the operation with the opened library."""
        async with Modelyard(settings_of(ctx)) as yard:
            return await work(yard)

    return asyncio.run(run_operation())


def print_json(document: Any) -> None:
    """Print a document as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    right_aligned: Sequence[str] = (),
) -> None:
    """Print a table, as wide as the terminal. Without a terminal it is wide enough for
    scripts to parse lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title or None,
        title_justify="left",
        header_style="bold",
        box=None,
        pad_edge=False,
    )
    table.padding = (0, 2, 0, 0)
    for index, column in enumerate(columns):
        # The first column holds names, which must stay in one piece.
        table.add_column(
            column,
            justify="right" if column in right_aligned else "left",
            overflow="fold",
            no_wrap=index == 0,
        )
    for row in rows:
        # Wrapped in Text: rich would interpret brackets in plain strings as markup.
        table.add_row(
            *(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row)
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def success_text(text: str) -> Any:
    """Return green text for a table cell."""
    from rich.text import Text

    return Text(text, style="green")


def failure_text(text: str) -> Any:
    """Return red text for a table cell."""
    from rich.text import Text

    return Text(text, style="red")


def print_note(text: str) -> None:
    """Print a message to standard error, so that piped output stays clean."""
    click.secho(text, err=True, dim=True)


def piped_input() -> str:
    """Return the piped input, or an empty string at a terminal."""
    # Standard input may be None if the program was started without one.
    return "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()  # pyright: ignore[reportUnnecessaryComparison]


def input_texts(arguments: Sequence[str], description: str) -> list[str]:
    """Return the arguments, or one text from a pipe. Raises UsageError if there is
    neither."""
    texts = list(arguments) or [text for text in [piped_input().strip()] if text]
    if not texts:
        raise click.UsageError(
            f"No {description}. Pass one as an argument or through standard input."
        )
    return texts
