"""`modelyard models`: list models; pull, verify, remove, describe and benchmark local
ones."""

from collections.abc import Generator, Iterator, Mapping, Sequence
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
from modelyard.models.entities import AIModelEntity, ModelPropertyKey
from modelyard.models.types import ModelType
from modelyard.providers.factory import catalog_definition
from modelyard.providers.local.weights import (
    Progress,
    WeightFile,
    WeightStore,
    manifest,
)
from modelyard.tenancy.caller import DEFAULT_TENANT

if TYPE_CHECKING:
    from modelyard.app import Modelyard


_MB = 1 << 20


@click.group(invoke_without_command=True)
@click.pass_context
def models(ctx: click.Context) -> None:
    """List models; pull, verify, remove and benchmark local ones."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_models)


@models.command("list")
@click.option(
    "--type",
    "type_name",
    type=click.Choice([model_type.value for model_type in ModelType]),
    help="Only this model type.",
)
@click.option(
    "--all",
    "includes_unready",
    is_flag=True,
    help="Include models that are not ready (no credential or weights).",
)
@json_option
@click.pass_context
def list_models(
    ctx: click.Context,
    type_name: str | None = None,
    includes_unready: bool = False,
    as_json: bool = False,
) -> None:
    """List the models that can be called."""

    async def rows(yard: "Modelyard") -> list[dict[str, Any]]:
        """Return the models as rows for the table and for JSON."""
        return _model_rows(yard, type_name, includes_unready=includes_unready)

    model_rows = run_with_modelyard(ctx, rows)
    if as_json:
        print_json(model_rows)
        return
    if not model_rows:
        print_note(
            "no model is ready yet: `modelyard models pull small` downloads local"
            " models, `modelyard providers add` adds others"
        )
        return
    print_table(
        "",
        ("model", "type", "context", "price in / out", "ready"),
        [_table_row(row) for row in model_rows],
        right_aligned=("context",),
    )


def _model_rows(
    yard: "Modelyard", type_name: str | None, *, includes_unready: bool
) -> list[dict[str, Any]]:
    """Return the models as printed with --json."""
    manager = yard.services.providers.manager
    model_type = ModelType(type_name) if type_name else None
    # Ready models are looked up separately, because with --all the list contains others
    # too.
    ready = {
        (provider, model.model)
        for provider, model in manager.get_models(DEFAULT_TENANT, model_type=model_type)
    }
    return [
        _model_as_dict(provider, model, is_ready=(provider, model.model) in ready)
        for provider, model in manager.get_models(
            DEFAULT_TENANT, model_type=model_type, ready=not includes_unready
        )
    ]


def _model_as_dict(
    provider: str, model: AIModelEntity, *, is_ready: bool
) -> dict[str, Any]:
    """Return a model as printed with --json."""
    pricing = model.pricing
    has_output_price = pricing is not None and pricing.output
    return {
        "model": f"{provider}/{model.model}",
        "type": model.model_type.value,
        "label": model.label.en_us,
        "context_size": model.context_size,
        "input_price": str(pricing.input) if pricing else None,
        "output_price": str(pricing.output) if pricing and has_output_price else None,
        "currency": pricing.currency if pricing else None,
        "ready": is_ready,
        "description": model.description.en_us if model.description else None,
    }


def _table_row(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return a model as a row of the table."""
    price = ""
    if row["input_price"]:
        price = f"{row['input_price']} / {row['output_price'] or '-'} {row['currency']}"
    return (
        row["model"],
        row["type"],
        f"{row['context_size']:,}" if row["context_size"] else "",
        price,
        success_text("yes") if row["ready"] else failure_text("no"),
    )


@models.command()
@click.argument("names", nargs=-1)
@click.option("--quiet", "-q", is_flag=True, help="Do not show progress bars.")
@json_option
@click.pass_context
def pull(
    ctx: click.Context, names: tuple[str, ...], quiet: bool, as_json: bool
) -> None:
    """Download the weights of local models: NAMES of models, or the sets mini, small
    (default) and large.

    An interrupted download resumes where it stopped. Every file is checked against its
    SHA-256 hash.
    """
    store = weight_store(settings_of(ctx))
    model_names = manifest().resolve_names(names or ("small",))
    if not _is_download_needed(store, model_names):
        if as_json:
            print_json({"models": model_names, "notes": []})
        else:
            print_note(f"{', '.join(model_names)}: already downloaded")
        return
    # Bars would be mixed with the output that a program reads.
    if as_json or quiet:
        notes = store.pull(model_names)
    else:
        with progress_bars() as progress:
            notes = store.pull(model_names, progress)
    if as_json:
        print_json({"models": model_names, "notes": notes})
        return
    for line in notes:
        print_note(line)
    print_note(f'ready: {", ".join(model_names)}. Try `modelyard chat "Say hello"`.')


def _is_download_needed(store: WeightStore, model_names: Sequence[str]) -> bool:
    """Tell whether a file of the models is missing. Models share files."""
    files = [file for model in model_names for file in manifest().files_of(model)]
    missing_bytes = sum(file.size for file in files if store.locate(file) is None)
    return bool(missing_bytes) or not all(map(store.is_present, model_names))


def _size(count: int) -> str:
    """Format a size in bytes as MB or kB."""
    return f"{count / _MB:,.0f} MB" if count >= _MB else f"{max(1, count // 1024)} kB"


@contextmanager
def progress_bars() -> Generator[Progress]:
    """Yield a progress callback: a bar per file at a terminal, otherwise one line per
    finished file, as for build logs."""
    # Imported late: rich is slow to import, and other commands have no bars.
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

    def report(file: str, done_bytes: int, total: int, note: str = "") -> None:
        """Print a line when a file is complete, once per file."""
        if done_bytes >= total and file not in reported_files:
            reported_files.add(file)
            console.print(f"{file}  {_size(total)}", highlight=False)

    # In a log, every movement of a bar would become a line of its own.
    if not console.is_terminal:
        yield report
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
    # Names are checked against the manifest, so that a typing error is not a model
    # without files.
    if names:
        return store, manifest().resolve_names(names)
    return store, list(_present_models(store))


def _present_models(store: WeightStore) -> Iterator[str]:
    """Yield the names of the models whose files are all in the store."""
    for name, model in manifest().models.items():
        if model.files and store.is_present(name):
            yield name


_STATE_LABELS = {"whole": "ok", "missing": "missing", "wrong hash": "wrong hash"}
"""State of a weight file, as in the JSON output → label in the table."""


@models.command()
@click.argument("names", nargs=-1)
@json_option
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> int:
    """Verify checksums of downloaded weights; all models if no NAMES are given. Exit
    code 1: a required file is missing or damaged."""
    store, model_names = _local(ctx, names)
    # Keyed by name, so that shared files are hashed once.
    files = {
        file.name: file for model in model_names for file in manifest().files_of(model)
    }
    states = {name: _state(store, file) for name, file in files.items()}
    if as_json:
        print_json(states)
    else:
        _print_states(states)
    bad_names = [name for name, state in states.items() if state != "whole"]
    return 0 if all(files[name].optional for name in bad_names) else 1


def _state(store: WeightStore, file: WeightFile) -> str:
    """Return the state of a weight file, as printed with --json."""
    if store.locate(file) is None:
        return "missing"
    return "whole" if store.is_whole(file) else "wrong hash"


def _print_states(states: Mapping[str, str]) -> None:
    """Print the state of each file, and how to replace damaged ones."""
    rows = [
        (
            name,
            (success_text if state == "whole" else failure_text)(_STATE_LABELS[state]),
        )
        for name, state in states.items()
    ]
    print_table("", ("file", "state"), rows)
    if "wrong hash" in states.values():
        print_note(
            "delete damaged files with `modelyard models remove NAME`, then run"
            " `modelyard models pull NAME`"
        )


@models.command()
@click.argument("names", nargs=-1, required=True)
@json_option
@click.pass_context
def remove(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Delete the weights of NAMES. Files that another model shares are kept."""
    store, model_names = _local(ctx, names)
    removed = [path for model in model_names for path in store.remove(model)]
    if as_json:
        print_json([path.name for path in removed])
    else:
        print_note(
            f"removed {', '.join(path.name for path in removed)}"
            if removed
            else "no downloaded files to remove"
        )


@models.command()
@click.argument("name")
@json_option
@click.pass_context
def card(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show a local model's card: purpose, licence, files, sources."""
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
            f"Unknown local model {name!r}; expected one of"
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
    help="Duration per model type in seconds.",
)
@json_option
@click.pass_context
def bench(ctx: click.Context, seconds: float, as_json: bool) -> None:
    """Benchmark the local models: seconds to load, and speed per second."""
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
