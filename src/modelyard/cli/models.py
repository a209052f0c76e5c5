"""`modelyard models`: list models; pull, verify, remove, describe and benchmark local
ones."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from modelyard.app.providers import weight_store
from modelyard.base.errors import ConfigError
from modelyard.cli.output import (
    failure_text,
    json_option,
    print_json,
    print_note,
    print_table,
    run_with_modelyard,
    settings_of,
    success_text,
)
from modelyard.models.entities import ModelPropertyKey
from modelyard.models.types import ModelType
from modelyard.providers.factory import catalog_definition
from modelyard.providers.local.weights import Progress, WeightStore, manifest
from modelyard.tenancy.caller import DEFAULT_TENANT

if TYPE_CHECKING:
    from modelyard.app import Modelyard


_MB = 1 << 20


@click.group(invoke_without_command=True)
@click.pass_context
def models(ctx: click.Context) -> None:
    """Models: list them; pull, verify, remove and measure local ones."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_models)


@models.command("list")
@click.option(
    "--type",
    "kind",
    type=click.Choice([model_type.value for model_type in ModelType]),
    help="Only this model type.",
)
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="Those too that need a credential or weights first.",
)
@json_option
@click.pass_context
def list_models(
    ctx: click.Context,
    kind: str | None = None,
    every: bool = False,
    as_json: bool = False,
) -> None:
    """List the models that can be called. `--all` includes those that need a credential
    or weights first."""

    async def rows(yard: "Modelyard") -> list[dict[str, Any]]:
        """Return the models as rows for the table and for JSON."""
        model_type = ModelType(kind) if kind else None
        # Ready models are looked up separately, because with --all the list contains
        # others too.
        ready = {
            (provider, model.model)
            for provider, model in yard.services.providers.manager.get_models(
                DEFAULT_TENANT, model_type=model_type
            )
        }
        return [
            {
                "model": f"{provider}/{model.model}",
                "type": model.model_type.value,
                "label": model.label.en_us,
                "context_size": model.context_size,
                "input_price": str(model.pricing.input) if model.pricing else None,
                "output_price": (
                    str(model.pricing.output)
                    if model.pricing and model.pricing.output
                    else None
                ),
                "currency": model.pricing.currency if model.pricing else None,
                "ready": (provider, model.model) in ready,
                "description": model.description.en_us if model.description else None,
            }
            for provider, model in yard.services.providers.manager.get_models(
                DEFAULT_TENANT, model_type=model_type, ready=not every
            )
        ]

    model_rows = run_with_modelyard(ctx, rows)
    if as_json:
        print_json(model_rows)
        return
    if not model_rows:
        print_note(
            "nothing is ready yet: `modelyard models pull small` brings local models,"
            " `modelyard providers add` others"
        )
        return
    print_table(
        "",
        ("model", "type", "context", "price in / out", "ready"),
        [
            (
                row["model"],
                row["type"],
                f"{row['context_size']:,}" if row["context_size"] else "",
                (
                    f"{row['input_price']} / {row['output_price'] or '-'}"
                    f" {row['currency']}"
                    if row["input_price"]
                    else ""
                ),
                success_text("yes") if row["ready"] else failure_text("no"),
            )
            for row in model_rows
        ],
        right_aligned=("context",),
    )


@models.command()
@click.argument("names", nargs=-1)
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@json_option
@click.pass_context
def pull(
    ctx: click.Context, names: tuple[str, ...], quiet: bool, as_json: bool
) -> None:
    """Download the weights of local models: NAMES of models, or the sets mini, small
    (default) and large.

    An interrupted download resumes where it stopped. Every file is checked against its
    hash.
    """
    store = weight_store(settings_of(ctx))
    model_names = manifest().resolve_names(names or ("small",))
    # Only files that are missing count; models share files.
    size = sum(
        file.size
        for model in model_names
        for file in manifest().files_of(model)
        if store.locate(file) is None
    )
    if not size and all(map(store.is_present, model_names)):
        (
            print_json({"models": model_names, "notes": []})
            if as_json
            else print_note(f"{', '.join(model_names)}: all here")
        )
        return
    if as_json or quiet:
        notes = store.pull(model_names)
    else:
        with progress_bars() as progress:
            notes = store.pull(model_names, progress)
    if as_json:
        print_json({"models": model_names, "notes": notes})
    else:
        for line in notes:
            print_note(line)
        print_note(
            f'ready: {", ".join(model_names)}. Try `modelyard chat "Say hello"`.'
        )


def _size(count: int) -> str:
    """Format a size in bytes as MB or kB."""
    return f"{count / _MB:,.0f} MB" if count >= _MB else f"{max(1, count // 1024)} kB"


@contextmanager
def progress_bars() -> Generator[Progress]:
    """Yield a progress callback: a bar per file at a terminal, otherwise one line per
    finished file, as for build logs."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    reported_files: set[str] = set()

    def tell(file: str, done_bytes: int, total: int, note: str = "") -> None:
        """Print a line when a file is complete, once per file."""
        if done_bytes >= total and file not in reported_files:
            reported_files.add(file)
            console.print(f"{file}  {_size(total)}", highlight=False)

    if not console.is_terminal:
        yield tell
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def update(file: str, done_bytes: int, total: int, note: str = "") -> None:
            """Update the bar of a file, creating it at the first call."""
            if file not in tasks:
                tasks[file] = bars.add_task(file, total=total)
            bars.update(tasks[file], completed=done_bytes)

        yield update


def _local(ctx: click.Context, names: tuple[str, ...]) -> tuple[WeightStore, list[str]]:
    """Return the weight store and the model names; without names, all models that are
    present."""
    store = weight_store(settings_of(ctx))
    if names:
        return store, manifest().resolve_names(names)
    return store, [
        name
        for name, model in manifest().models.items()
        if model.files and store.is_present(name)
    ]


@models.command()
@click.argument("names", nargs=-1)
@json_option
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> int:
    """Check weight files against their hashes: all that are present, or those of NAMES.
    Exits with 1 if a required file is missing or damaged."""
    store, model_names = _local(ctx, names)
    # Keyed by name, so that shared files are hashed once.
    files = {
        file.name: file for model in model_names for file in manifest().files_of(model)
    }
    states = {
        name: (
            "missing"
            if store.locate(file) is None
            else "whole"
            if store.is_whole(file)
            else "wrong hash"
        )
        for name, file in files.items()
    }
    if as_json:
        print_json(states)
    else:
        rows = [
            (name, success_text(state) if state == "whole" else failure_text(state))
            for name, state in states.items()
        ]
        print_table("", ("file", "state"), rows)
        if any(state == "wrong hash" for state in states.values()):
            print_note(
                "delete what is wrong with `modelyard models remove NAME`, then pull it"
                " again"
            )
    return (
        0
        if all(
            state == "whole" or files[name].optional for name, state in states.items()
        )
        else 1
    )


@models.command()
@click.argument("names", nargs=-1, required=True)
@json_option
@click.pass_context
def remove(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Delete the weights of NAMES from the cache. Files shared with other models are
    retained."""
    store, model_names = _local(ctx, names)
    removed = [path for model in model_names for path in store.remove(model)]
    if as_json:
        print_json([path.name for path in removed])
    else:
        print_note(
            f"removed {', '.join(path.name for path in removed)}"
            if removed
            else "nothing of it was here"
        )


@models.command()
@click.argument("name")
@json_option
@click.pass_context
def card(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show a local model's purpose, licence, files and their origin."""
    entity = catalog_definition("local").entity
    # The provider prefix is optional here.
    model = next(
        (
            candidate
            for candidate in entity.models
            if candidate.model == name.removeprefix("local/")
        ),
        None,
    )
    if model is None:
        raise ConfigError(
            f"{name!r} is no local model; there are"
            f" {', '.join(candidate.model for candidate in entity.models)}"
        )
    files = manifest().files_of(model.model)
    if as_json:
        print_json(
            {
                "model": model.model,
                "description": model.description,
                "licence": model.licence,
                "files": files,
            }
        )
        return
    click.echo(f"{model.label.en_us}  ({model.model_type.value}, {model.licence})\n")
    click.echo(f"{model.description.en_us if model.description else ''}\n")
    for voice in model.model_properties.get(ModelPropertyKey.VOICES, ()):
        click.echo(f"{voice['mode']:<14} {voice['name']}")
    for file in files:
        click.echo(
            f"{file.name}  {file.size / _MB:,.1f} MB  {file.licence}\n  {file.notice}\n"
            f"  sha256 {file.sha256}"
        )


@models.command()
@click.option(
    "--seconds",
    type=click.FloatRange(1, 60),
    default=5.0,
    show_default=True,
    help="For each type.",
)
@json_option
@click.pass_context
def bench(ctx: click.Context, seconds: float, as_json: bool) -> None:
    """Measure the speed of the local models on this machine."""
    from modelyard.cli.model_bench import measure

    measurements = run_with_modelyard(ctx, lambda yard: measure(yard, seconds))
    if as_json:
        print_json(measurements)
    else:
        rows = [
            (
                measurement["type"],
                measurement["model"],
                f"{measurement['load_seconds']:.1f}",
                measurement["speed"],
                measurement["unit"],
            )
            for measurement in measurements
        ]
        print_table(
            "",
            ("type", "model", "load s", "speed", "unit"),
            rows,
            right_aligned=("load s", "speed"),
        )
