"""`modelyard usage` and `modelyard explain`: usage, costs, and routing decisions of
calls."""

import asyncio
import re
import sys
import time
from collections.abc import Generator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from modelyard.cli.output import (
    failure_text,
    json_option,
    print_json,
    print_note,
    print_table,
    settings_of,
    success_text,
)
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.usage_row import UsageRow
from modelyard.runtime.usage_table import GROUPINGS, UsageSummary, UsageTable
from modelyard.tenancy.caller import DEFAULT_TENANT

if TYPE_CHECKING:
    from modelyard.base.settings import Settings
    from modelyard.storage.database import Database

# Suffix of a period → seconds.
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
tenant_option = click.option(
    "--tenant", default=DEFAULT_TENANT, show_default=True, help="Tenant to act on."
)


@click.command()
@click.option(
    "--by",
    default="provider,model",
    show_default=True,
    help=f"Group by these fields, separated by commas: {', '.join(GROUPINGS)}.",
)
@click.option(
    "--since",
    default="30d",
    show_default=True,
    help="Time range up to now: a number and m, h, d or w, for example 90m or 24h.",
)
@click.option(
    "--rows",
    "max_rows",
    metavar="N",
    type=click.IntRange(1, 100_000),
    help="Print the latest N attempts instead of totals.",
)
@click.option(
    "--export",
    type=click.Choice(["jsonl", "csv"]),
    help="Write every attempt to standard output in this format.",
)
@tenant_option
@json_option
@click.pass_context
def usage(
    ctx: click.Context,
    by: str,
    since: str,
    max_rows: int | None,
    export: str | None,
    tenant: str,
    as_json: bool,
) -> None:
    """Show usage and cost. Counts every call once, including refused ones."""
    start_time = time.time() - _seconds(since)
    names = _fields(by)
    with _ledger(ctx) as (ledger, _):
        table = ledger.usage
        # The three forms exclude each other: an export, single attempts, or sums.
        if export is not None:
            asyncio.run(_export(table, tenant, start_time, export))
        elif max_rows is not None:
            rows = asyncio.run(table.recent(tenant, limit=max_rows, since=start_time))
            _print_attempts(rows, as_json=as_json)
        else:
            sums = asyncio.run(table.summary(tenant, by=names, since=start_time))
            _print_totals(names, sums, as_json=as_json)


def _print_attempts(rows: list[UsageRow], *, as_json: bool) -> None:
    """Print single attempts as a table or JSON."""
    if as_json:
        print_json([row.as_dict() for row in rows])
    else:
        _print_rows(rows)


def _print_totals(names: list[str], sums: list[UsageSummary], *, as_json: bool) -> None:
    """Print sums, which are grouped by these names, as a table or JSON."""
    if not as_json:
        _print_sums(names, sums)
        return
    print_json(
        [
            {**dict(zip(names, summary.key, strict=True)), **_amounts(summary)}
            for summary in sums
        ]
    )


@contextmanager
def _ledger(ctx: click.Context) -> "Generator[tuple[Ledger, Database]]":
    """Open the ledger and its database, after importing records of processes that were
    killed."""
    from modelyard.storage.database import Database

    settings = settings_of(ctx)
    database = Database(settings.database_url)
    ledger: Ledger | None = None
    try:
        # Before the ledger opens, so that sums include what a killed server did not
        # write.
        _import_orphaned_records(settings)
        ledger = Ledger(database)
        yield ledger, database
    finally:
        if ledger is not None:
            ledger.close()
        database.close()


def _import_orphaned_records(settings: "Settings") -> None:
    """Import usage records that processes left on disk, if there are any."""
    folder = Path(settings.home_path) / "ledger"
    # Opening the whole runtime is slow; usually there is nothing to import.
    if not any(folder.glob("*.lock")):
        return
    from modelyard.app import Modelyard

    async def take_over() -> None:
        """Run the recovery."""
        async with Modelyard(settings) as yard:
            await yard.services.calls.recovery.run()

    asyncio.run(take_over())


def _seconds(text: str) -> float:
    """Parse a period such as 24h. Raises click.UsageError."""
    match = re.fullmatch(r"(\d+)([mhdw])", text)
    if match is None:
        raise click.UsageError(
            f"--since: expected a number and m, h, d or w, for example 24h, got {text!r}"
        )
    return int(match[1]) * _UNITS[match[2]]


def _fields(by: str) -> list[str]:
    """Parse the list of groupings. Raises click.UsageError for an unknown or empty one."""
    names = [name.strip() for name in by.split(",") if name.strip()]
    accepted_names = ", ".join(GROUPINGS)
    if not names:
        raise click.UsageError(f"--by: no field; expected some of {accepted_names}")
    if invalid_names := [name for name in names if name not in GROUPINGS]:
        raise click.UsageError(
            f"--by: unknown field {', '.join(invalid_names)}; expected some of"
            f" {accepted_names}"
        )
    return names


async def _export(
    usage: UsageTable, tenant: str, since: float, export_format: str
) -> None:
    """Write all attempts to standard output, page by page."""
    from modelyard.gateway.admin.usage import as_csv, as_lines

    write = as_csv if export_format == "csv" else as_lines
    is_first = True
    # A time in the distant future, for an export without an end.
    async with aclosing(usage.export(tenant, since=since, until=1e12)) as pages:
        async for page in pages:
            # CSV needs a header line before the first page.
            sys.stdout.buffer.write(write(page, is_first))
            is_first = False
    sys.stdout.flush()


def _amounts(summary: UsageSummary) -> dict[str, object]:
    """Return a sum's amounts without its key."""
    built = msgspec.to_builtins(summary)
    return {key: value for key, value in built.items() if key != "key"}


def _print_sums(names: list[str], sums: list[UsageSummary]) -> None:
    """Print sums as a table."""
    if not sums:
        print_note("no usage in this time range")
        return
    columns = (*names, "calls", "failed", "refused", "attempts")
    columns = (*columns, "tokens in", "tokens out", "cost")
    # Units of other model types get a column only if they occur.
    used_units = [
        unit for unit in _OTHER_UNITS if any(getattr(line, unit) for line in sums)
    ]
    rows = [
        (
            *(
                _display_value(name, value)
                for name, value in zip(names, summary.key, strict=True)
            ),
            f"{summary.calls:,}",
            f"{summary.failed:,}",
            f"{summary.refused:,}",
            f"{summary.attempts:,}",
            f"{summary.prompt_tokens:,}",
            f"{summary.completion_tokens:,}",
            f"{summary.cost:f} {summary.currency}"
            + (f" + {summary.unpriced:,} unpriced" if summary.unpriced else ""),
            *(f"{getattr(summary, unit):,g}" for unit in used_units),
        )
        for summary in sums
    ]
    print_table(
        "",
        (*columns, *used_units),
        rows,
        right_aligned=(*columns[len(names) :], *used_units),
    )


_OTHER_UNITS = ("characters", "seconds", "searches")


def _display_value(name: str, value: str) -> str:
    """Return the display form of a grouping value; days are stored as days since 1970."""
    return (
        datetime.fromtimestamp(int(value) * 86_400, UTC).strftime("%Y-%m-%d")
        if name == "day"
        else value
    )


def _print_rows(rows: list[UsageRow]) -> None:
    """Print attempts as a table. `~` marks an estimated token count, `?` an unknown
    price."""
    print_table(
        "",
        (
            "time",
            "call",
            "try",
            "model",
            "credential",
            "status",
            "in",
            "out",
            "cost",
            "ms",
        ),
        [
            (
                datetime.fromtimestamp(row.created_at)
                .astimezone()
                .strftime("%m-%d %H:%M:%S"),
                row.invocation[-6:],
                row.attempt,
                f"{row.provider}/{row.model}",
                row.credential or "-",
                success_text(row.status)
                if row.status in ("ok", "cached")
                else failure_text(row.status),
                row.prompt_tokens,
                f"{row.completion_tokens}{'~' if row.estimated else ''}",
                "?" if row.total_price is None else f"{row.total_price:f}",
                round(row.latency * 1000),
            )
            for row in rows
        ],
        right_aligned=("try", "in", "out", "cost", "ms"),
    )


@click.command()
@click.argument("call")
@tenant_option
@json_option
@click.pass_context
def explain(ctx: click.Context, call: str, tenant: str, as_json: bool) -> None:
    """Show the routing decisions of a call. CALL is the x-request-id, or the invocation
    of an attempt in `modelyard usage --rows 20 --json`."""
    from modelyard.base.clock import SystemClock
    from modelyard.runtime.traces import Traces

    with _ledger(ctx) as (ledger, database):
        explanation = asyncio.run(
            Traces(database, ledger.usage, SystemClock()).explain(
                tenant, call, is_operator=True
            )
        )
    if as_json:
        print_json(explanation)
        return
    click.secho(
        f"{call}  {explanation.get('asked_for', '')}  {explanation.get('status', '')}",
        bold=True,
    )
    # Decisions have different fields; all beyond time and name are listed as text.
    steps = [
        (step.get("ms", ""), step["what"], ", ".join(_details(step)))
        for step in explanation["decisions"]
    ]
    print_table(
        "",
        ("ms", "decision", "details"),
        steps,
        right_aligned=("ms",),
    )
    columns = (
        "attempt",
        "model",
        "credential",
        "status",
        "ms",
        "first_chunk_ms",
        "prompt_tokens",
        "completion_tokens",
        "counted_by",
        "cost",
    )
    if (refusal := explanation["refusal"]) is not None:
        _print_refusal(refusal)
        return
    rows = [
        [str(attempt[name] if attempt[name] is not None else "-") for name in columns]
        for attempt in explanation["attempts"]
    ]
    print_table("", columns, rows)


def _print_refusal(refusal: dict[str, Any]) -> None:
    """Print why a call was answered without an attempt."""
    names = ("outcome", "status", "code", "message", "route", "key", "key_fingerprint")
    rows = [(name, str(refusal[name])) for name in names if refusal[name]]
    print_table("", ("field", "value"), rows)


def _details(step: dict[str, Any]) -> list[str]:
    """Return a decision's details as text. Trailing underscores of field names are
    removed."""
    return [
        f"{key.rstrip('_')} {value}"
        for key, value in step.items()
        if key not in ("ms", "what") and value != {}
    ]
