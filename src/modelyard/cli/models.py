"""`modelyard models`: every model there is; pull, verify, remove and measure those on this machine."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click

from modelyard.app.providers import weight_store
from modelyard.base.errors import ConfigError
from modelyard.cli.show import bad, good, json_option, note, print_json, print_table, run_with_yard, settings_of
from modelyard.models.entities import ModelPropertyKey
from modelyard.models.types import ModelType
from modelyard.providers.factory import catalog_definition
from modelyard.providers.local.weights import Progress, WeightStore, manifest
from modelyard.tenancy.caller import DEFAULT_TENANT

_MB = 1 << 20


@click.group(invoke_without_command=True)
@click.pass_context
def models(ctx: click.Context) -> None:
    """Models: list them; pull, verify, remove and measure local ones."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_models)


@models.command("list")
@click.option("--type", "kind", type=click.Choice([kind.value for kind in ModelType]), help="Only this model type.")
@click.option("--all", "every", is_flag=True, help="Those too that need a credential or weights first.")
@json_option
@click.pass_context
def list_models(ctx: click.Context, kind: str | None = None, every: bool = False, as_json: bool = False) -> None:
    """Every model that can be called."""

    async def rows(yard: Any) -> list[dict[str, Any]]:
        wanted = ModelType(kind) if kind else None
        ready = {
            (provider, model.model)
            for provider, model in yard.services.providers.manager.get_models(DEFAULT_TENANT, model_type=wanted)
        }
        return [
            {
                "model": f"{provider}/{model.model}",
                "type": model.model_type.value,
                "label": model.label.en_us,
                "context_size": model.context_size,
                "input_price": str(model.pricing.input) if model.pricing else None,
                "output_price": str(model.pricing.output) if model.pricing and model.pricing.output else None,
                "currency": model.pricing.currency if model.pricing else None,
                "ready": (provider, model.model) in ready,
                "description": model.description.en_us if model.description else None,
            }
            for provider, model in yard.services.providers.manager.get_models(
                DEFAULT_TENANT, model_type=wanted, ready=not every
            )
        ]

    found = run_with_yard(ctx, rows)
    if as_json:
        print_json(found)
        return
    if not found:
        note(
            "nothing is ready yet: `modelyard models pull small` brings local models, `modelyard providers add` others"
        )
        return
    print_table(
        "",
        ("model", "type", "context", "price in / out", "ready"),
        [
            (
                one["model"],
                one["type"],
                f"{one['context_size']:,}" if one["context_size"] else "",
                f"{one['input_price']} / {one['output_price'] or '-'} {one['currency']}" if one["input_price"] else "",
                good("yes") if one["ready"] else bad("no"),
            )
            for one in found
        ],
        right=("context",),
    )


@models.command()
@click.argument("names", nargs=-1)
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@json_option
@click.pass_context
def pull(ctx: click.Context, names: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Fetch the weights of local models: NAMES of models, or the sets mini, small (default) and large.

    An interrupted pull goes on where it stopped. Every file is checked against its hash.
    """
    store = weight_store(settings_of(ctx))
    chosen = manifest().chosen(names or ("small",))
    size = sum(file.size for model in chosen for file in manifest().files_of(model) if store.locate(file) is None)
    if not size and all(map(store.is_present, chosen)):
        print_json({"models": chosen, "notes": []}) if as_json else note(f"{', '.join(chosen)}: all here")
        return
    if as_json or quiet:
        notes = store.pull(chosen)
    else:
        with progress_bars() as progress:
            notes = store.pull(chosen, progress)
    if as_json:
        print_json({"models": chosen, "notes": notes})
    else:
        for line in notes:
            note(line)
        note(f'ready: {", ".join(chosen)}. Try `modelyard chat "Say hello"`.')


def _size(count: int) -> str:
    return f"{count / _MB:,.0f} MB" if count >= _MB else f"{max(1, count // 1024)} kB"


@contextmanager
def progress_bars() -> Generator[Progress]:
    """A bar a file at a terminal; a line a file elsewhere, as in the log of a build."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    told: set[str] = set()

    def tell(file: str, done: int, total: int, note: str = "") -> None:
        if done >= total and file not in told:
            told.add(file)
            console.print(f"{file}  {_size(total)}", highlight=False)

    if not console.is_terminal:
        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def update(file: str, done: int, total: int, note: str = "") -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file, total=total)
            bars.update(tasks[file], completed=done)

        yield update


def _local(ctx: click.Context, names: tuple[str, ...]) -> tuple[WeightStore, list[str]]:
    store = weight_store(settings_of(ctx))
    if names:
        return store, manifest().chosen(names)
    return store, [name for name, model in manifest().models.items() if model.files and store.is_present(name)]


@models.command()
@click.argument("names", nargs=-1)
@json_option
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> int:
    """Check every weight file against its hash: all that are here, or those of NAMES."""
    store, chosen = _local(ctx, names)
    files = {file.name: file for model in chosen for file in manifest().files_of(model)}
    states = {
        name: "missing" if store.locate(file) is None else "whole" if store.is_whole(file) else "wrong hash"
        for name, file in files.items()
    }
    if as_json:
        print_json(states)
    else:
        rows = [(name, good(state) if state == "whole" else bad(state)) for name, state in states.items()]
        print_table("", ("file", "state"), rows)
        if any(state == "wrong hash" for state in states.values()):
            note("delete what is wrong with `modelyard models remove NAME`, then pull it again")
    return 0 if all(state == "whole" or files[name].optional for name, state in states.items()) else 1


@models.command()
@click.argument("names", nargs=-1, required=True)
@json_option
@click.pass_context
def remove(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Delete the weights of NAMES from the cache; files that another model shares stay."""
    store, chosen = _local(ctx, names)
    removed = [path for model in chosen for path in store.remove(model)]
    if as_json:
        print_json([path.name for path in removed])
    else:
        note(f"removed {', '.join(path.name for path in removed)}" if removed else "nothing of it was here")


@models.command()
@click.argument("name")
@json_option
@click.pass_context
def card(ctx: click.Context, name: str, as_json: bool) -> None:
    """What a local model is good for, its licence, its files and where they come from."""
    entity = catalog_definition("local").entity
    model = next((one for one in entity.models if one.model == name.removeprefix("local/")), None)
    if model is None:
        raise ConfigError(f"{name!r} is no local model; there are {', '.join(one.model for one in entity.models)}")
    files = manifest().files_of(model.model)
    if as_json:
        print_json({"model": model.model, "description": model.description, "licence": model.licence, "files": files})
        return
    click.echo(f"{model.label.en_us}  ({model.model_type.value}, {model.licence})\n")
    click.echo(f"{model.description.en_us if model.description else ''}\n")
    for voice in model.model_properties.get(ModelPropertyKey.VOICES, ()):
        click.echo(f"{voice['mode']:<14} {voice['name']}")
    for file in files:
        click.echo(f"{file.name}  {file.size / _MB:,.1f} MB  {file.licence}\n  {file.notice}\n  sha256 {file.sha256}")


@models.command()
@click.option("--seconds", type=click.FloatRange(1, 60), default=5.0, show_default=True, help="For each type.")
@json_option
@click.pass_context
def bench(ctx: click.Context, seconds: float, as_json: bool) -> None:
    """How fast the local models are here."""
    from modelyard.cli.model_bench import measure

    found = run_with_yard(ctx, lambda yard: measure(yard, seconds))
    if as_json:
        print_json(found)
    else:
        rows = [(one["type"], one["model"], f"{one['load_seconds']:.1f}", one["speed"], one["unit"]) for one in found]
        print_table("", ("type", "model", "load s", "speed", "unit"), rows, right=("load s", "speed"))
