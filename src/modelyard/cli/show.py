"""What commands share: settings, the library, and output for people or, with --json, for programs."""

import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from modelyard.base.settings import Settings, load_settings, settings_path

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def settings_of(ctx: click.Context) -> Settings:
    return load_settings(os.environ, config=ctx.find_root().obj)


def settings_file(ctx: click.Context) -> Path:
    """Where the settings are read from, whether it is there or not."""
    return settings_path(os.environ, config=ctx.find_root().obj)


def run_with_yard(ctx: click.Context, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Do something with the library: opened before, closed after."""
    import asyncio

    from modelyard.app import Modelyard

    async def whole() -> T:
        async with Modelyard(settings_of(ctx)) as yard:
            return await work(yard)

    return asyncio.run(whole())


def print_json(document: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()
) -> None:
    """A table as wide as the terminal; elsewhere as wide as it needs, so that scripts can cut lines apart."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    table.padding = (0, 2, 0, 0)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def good(text: str) -> Any:
    from rich.text import Text

    return Text(text, style="green")


def bad(text: str) -> Any:
    from rich.text import Text

    return Text(text, style="red")


def note(text: str) -> None:
    """A line beside the output: on standard error, so that pipes stay clean."""
    click.secho(text, err=True, dim=True)


def piped_input() -> str:
    """What is piped in; nothing at a terminal."""
    return "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()  # pyright: ignore[reportUnnecessaryComparison]


def texts_given(arguments: Sequence[str], what: str) -> list[str]:
    """Texts from the arguments, else one from the pipe. Raises UsageError where there is neither."""
    given = list(arguments) or [text for text in [piped_input().strip()] if text]
    if not given:
        raise click.UsageError(f"there is no {what}: give it as an argument or pipe it in")
    return given
