"""`modelyard knowledge source`: the stored sources of a dataset, which servers keep it in
step with."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from modelyard.base.errors import ConfigError
from modelyard.cli.output import (
    json_option,
    print_json,
    print_note,
    print_table,
    run_with_modelyard,
)
from modelyard.cli.secret_options import secret_option
from modelyard.cli.usage import tenant_option

if TYPE_CHECKING:
    from modelyard.app import Modelyard
    from modelyard.knowledge.stored.dataset_sources import StoredSource

_SETTING = click.option(
    "--set",
    "values",
    multiple=True,
    metavar="NAME=VALUE",
    help="Setting of the source, such as bucket=docs; lists are JSON, such as"
    ' urls=["https://example.com/"]; repeatable.',
)
_ACCESS = click.option(
    "--access",
    "rules",
    multiple=True,
    metavar="PREFIX=WHO",
    help="Who may read documents whose keys begin with PREFIX; repeatable.",
)
_TIMEZONE = click.option("--timezone", help="Time zone of the schedule. Default: UTC.")


@click.group("source")
def dataset_source() -> None:
    """Manage the sources of a dataset, which servers synchronise by schedule."""


@dataset_source.command("add")
@click.argument("dataset")
@click.argument("name")
@click.argument("connector")
@_SETTING
@secret_option
@_ACCESS
@click.option("--schedule", default="", help="Cron expression. Default: on request.")
@_TIMEZONE
@tenant_option
@click.pass_context
def add_source(
    ctx: click.Context,
    dataset: str,
    name: str,
    connector: str,
    values: tuple[str, ...],
    secrets: tuple[tuple[str, str], ...],
    rules: tuple[str, ...],
    schedule: str,
    timezone: str | None,
    tenant: str,
) -> None:
    """Add a source of the type CONNECTOR to DATASET: folder, s3, confluence,
    google_drive, or web, with its settings as --set and its credentials as --secret. One
    with a schedule is synchronised at once, if a server is running."""

    async def work(yard: "Modelyard") -> None:
        """Add the source and print its id."""
        # Imported here: the command line starts faster without the connectors.
        from modelyard.knowledge.connectors.dataset_sources import SourceDefinition

        record = await yard.knowledge.datasets.get_by_id_or_name(tenant, dataset)
        definition = SourceDefinition(
            name=name,
            connector=connector,
            settings=_settings(values),
            credentials=dict(secrets),
            access=list(rules),
            schedule=schedule,
            timezone=timezone or "UTC",
        )
        # Whoever can run the command line owns the server.
        added = await yard.knowledge.sources.add(record, definition, is_operators=True)
        click.echo(added.id)

    run_with_modelyard(ctx, work)


@dataset_source.command("list")
@click.argument("dataset")
@tenant_option
@json_option
@click.pass_context
def list_sources(ctx: click.Context, dataset: str, tenant: str, as_json: bool) -> None:
    """List the sources of DATASET with their last results."""

    async def work(yard: "Modelyard") -> None:
        """Print the sources without credentials."""
        record = await yard.knowledge.datasets.get_by_id_or_name(tenant, dataset)
        stored = await yard.knowledge.sources.list_all(record)
        if as_json:
            print_json([_described(source) for source in stored])
            return
        print_table(
            "",
            ["name", "address", "schedule", "last", "result"],
            [
                [
                    source.name,
                    source.address,
                    source.schedule,
                    _time(source.finished_at),
                    _result(source),
                ]
                for source in stored
            ],
        )

    run_with_modelyard(ctx, work)


@dataset_source.command("change")
@click.argument("dataset")
@click.argument("name")
@click.option("--rename", help="New name.")
@_SETTING
@secret_option
@_ACCESS
@click.option("--schedule", help="Cron expression; empty for requests alone.")
@_TIMEZONE
@click.option(
    "--enable/--disable", "enabled", default=None, help="Follow the schedule."
)
@tenant_option
@click.pass_context
def change_source(
    ctx: click.Context,
    dataset: str,
    name: str,
    rename: str | None,
    values: tuple[str, ...],
    secrets: tuple[tuple[str, str], ...],
    rules: tuple[str, ...],
    schedule: str | None,
    timezone: str | None,
    enabled: bool | None,
    tenant: str,
) -> None:
    """Change the source NAME of DATASET. What no option names stays; --access replaces all
    rules. A synchronisation that is under way starts again."""

    async def work(yard: "Modelyard") -> None:
        """Change the source."""
        from modelyard.knowledge.connectors.dataset_sources import SourceChange

        sources = yard.knowledge.sources
        record = await yard.knowledge.datasets.get_by_id_or_name(tenant, dataset)
        stored = await sources.get(record, name)
        # Settings are replaced as a whole: the others are sent along.
        change = SourceChange(
            name=rename,
            settings={**stored.settings, **_settings(values)},
            credentials=dict(secrets),
            access=list(rules) or None,
            schedule=schedule,
            timezone=timezone,
            enabled=enabled,
        )
        # Here the settings of the operator's own sources may be changed too.
        await sources.change(record, name, change, is_operators=True)

    run_with_modelyard(ctx, work)


@dataset_source.command("sync")
@click.argument("dataset")
@click.argument("name")
@tenant_option
@click.pass_context
def request_sync(ctx: click.Context, dataset: str, name: str, tenant: str) -> None:
    """Have the source NAME of DATASET synchronised by a running server, within seconds."""

    async def work(yard: "Modelyard") -> None:
        """Make the source due."""
        # A server does the work: this process ends before it would be indexed.
        record = await yard.knowledge.datasets.get_by_id_or_name(tenant, dataset)
        await yard.knowledge.sources.request(record, name)

    run_with_modelyard(ctx, work)


@dataset_source.command("remove")
@click.argument("dataset")
@click.argument("name")
@click.option(
    "--documents",
    type=click.Choice(["keep", "delete"]),
    required=True,
    help="What becomes of the documents that came from it.",
)
@tenant_option
@click.pass_context
def remove_source(
    ctx: click.Context, dataset: str, name: str, documents: str, tenant: str
) -> None:
    """Remove the source NAME of DATASET, and keep or delete its documents."""

    async def work(yard: "Modelyard") -> None:
        """Remove the source and tell how many documents it had."""
        record = await yard.knowledge.datasets.get_by_id_or_name(tenant, dataset)
        sources = yard.knowledge.sources
        count = await sources.remove(
            record, name, "delete" if documents == "delete" else "keep"
        )
        print_note(
            f"{count} documents were {'deleted' if documents == 'delete' else 'kept'}"
        )

    run_with_modelyard(ctx, work)


def _settings(values: Sequence[str]) -> dict[str, Any]:
    """Return options NAME=VALUE as settings. Raises ConfigError."""
    settings: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set expects NAME=VALUE, not {text[:80]!r}")
        # Settings are texts, but for a few that are yes or no, or numbers.
        lowered = value.lower()
        if lowered in ("true", "false"):
            settings[name] = lowered == "true"
        elif value.isascii() and value.isdigit():
            settings[name] = int(value)
        elif value.startswith("["):
            settings[name] = _list(name, value)
        else:
            settings[name] = value
    # Servers have another working directory than this command.
    if isinstance(path := settings.get("path"), str):
        settings["path"] = str(Path(path).absolute())
    return settings


def _list(name: str, value: str) -> list[str]:
    """Return a setting that is a list. Raises ConfigError."""
    try:
        return msgspec.json.decode(value, type=list[str])
    except msgspec.DecodeError as error:
        raise ConfigError(
            f'--set {name}: expected a list of texts as JSON, such as ["/docs/"]:'
            f" {error}"
        ) from error


def _described(stored: "StoredSource") -> dict[str, Any]:
    """Return a source for programs, without its credentials."""
    fields: dict[str, Any] = msgspec.to_builtins(stored)
    # Encrypted credentials are of no use outside, and leases of no interest.
    hidden = {"secret", "owner", "lease_until", "attempt", "tenant"}
    return {name: value for name, value in fields.items() if name not in hidden}


def _result(stored: "StoredSource") -> str:
    """Return the state of a source in a few words."""
    # The last report is of the synchronisation before.
    if stored.is_running:
        return "running"
    if stored.error:
        return f"error: {stored.error[:200]}"
    report = stored.report
    if report is None:
        return "not yet synchronised"
    return (
        f"{report['added']} added, {report['changed']} changed, {report['deleted']}"
        f" deleted, {report['same']} unchanged, {report['skipped']} skipped"
    )


def _time(seconds: float) -> str:
    if not seconds:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
