"""`modelyard usage` and `modelyard explain`: what was used, what it cost, and why calls went where they went."""

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

from modelyard.cli.show import bad, good, json_option, note, print_json, print_table, settings_of
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.usage_row import UsageRow
from modelyard.runtime.usage_table import GROUPINGS, Spending, UsageTable
from modelyard.tenancy.caller import DEFAULT_TENANT

if TYPE_CHECKING:
    from modelyard.base.settings import Settings
    from modelyard.storage.database import Database

_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
tenant_option = click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose.")


@click.command()
@click.option("--by", default="provider,model", show_default=True, help=f"Add up by these: {', '.join(GROUPINGS)}.")
@click.option("--since", default="30d", show_default=True, help="How far back, as 90m, 24h, 30d.")
@click.option(
    "--rows", "most", type=click.IntRange(1, 100_000), help="The latest attempts, one a line, instead of sums."
)
@click.option("--export", type=click.Choice(["jsonl", "csv"]), help="Every attempt, to standard output.")
@tenant_option
@json_option
@click.pass_context
def usage(
    ctx: click.Context, by: str, since: str, most: int | None, export: str | None, tenant: str, as_json: bool
) -> None:
    """What was used, and what it cost. Every attempt counts, failed ones too."""
    begin = time.time() - _seconds(since)
    names = _fields(by)
    with _ledger(ctx) as (ledger, _):
        if export is not None:
            asyncio.run(_export(ledger.usage, tenant, begin, export))
        elif most is not None:
            rows = asyncio.run(ledger.usage.recent(tenant, most=most, since=begin))
            print_json([row.as_dict() for row in rows]) if as_json else _print_rows(rows)
        else:
            sums = asyncio.run(ledger.usage.summary(tenant, by=names, since=begin))
            if as_json:
                print_json([{**dict(zip(names, one.key, strict=True)), **_sum(one)} for one in sums])
            else:
                _print_sums(names, sums)


@contextmanager
def _ledger(ctx: click.Context) -> "Generator[tuple[Ledger, Database]]":
    """The ledger, with what killed processes left taken over, and the database that it is in."""
    from modelyard.storage.database import Database

    settings = settings_of(ctx)
    database = Database(settings.database_url)
    ledger: Ledger | None = None
    try:
        _take_over(settings)
        ledger = Ledger(database)
        yield ledger, database
    finally:
        if ledger is not None:
            ledger.close()
        database.close()


def _take_over(settings: "Settings") -> None:
    folder = Path(settings.home_path) / "ledger"
    if not any(folder.glob("*.lock")):
        return
    from modelyard.app import Modelyard

    async def take_over() -> None:
        async with Modelyard(settings) as yard:
            await yard.services.calls.recovery.run()

    asyncio.run(take_over())


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)([mhdw])", text)
    if match is None:
        raise click.UsageError(f"--since wants a number and m, h, d or w, as 24h, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def _fields(by: str) -> list[str]:
    names = [name.strip() for name in by.split(",") if name.strip()]
    if wrong := [name for name in names if name not in GROUPINGS] or (not names and ["nothing"]):
        raise click.UsageError(f"--by cannot add up by {', '.join(wrong)}; it knows {', '.join(GROUPINGS)}")
    return names


async def _export(usage: UsageTable, tenant: str, since: float, form: str) -> None:
    from modelyard.gateway.admin.usage import as_csv, as_lines

    write = as_csv if form == "csv" else as_lines
    is_first = True
    async with aclosing(usage.export(tenant, since=since, until=1e12)) as pages:
        async for page in pages:
            sys.stdout.buffer.write(write(page, is_first))
            is_first = False
    sys.stdout.flush()


def _sum(one: Spending) -> dict[str, object]:
    built = msgspec.to_builtins(one)
    return {key: value for key, value in built.items() if key != "key"}


def _print_sums(names: list[str], sums: list[Spending]) -> None:
    if not sums:
        note("nothing was used in that time")
        return
    columns = (*names, "calls", "attempts", "failed", "tokens in", "tokens out", "cost")
    others = [one for one in _OTHER_UNITS if any(getattr(line, one) for line in sums)]
    rows = [
        (
            *(_shown(name, value) for name, value in zip(names, one.key, strict=True)),
            f"{one.calls:,}",
            f"{one.attempts:,}",
            f"{one.failed:,}",
            f"{one.prompt_tokens:,}",
            f"{one.completion_tokens:,}",
            f"{one.cost:f} {one.currency}" + (f" + {one.unpriced:,} unpriced" if one.unpriced else ""),
            *(f"{getattr(one, unit):,g}" for unit in others),
        )
        for one in sums
    ]
    print_table("", (*columns, *others), rows, right=(*columns[len(names) :], *others))


_OTHER_UNITS = ("characters", "seconds", "searches")


def _shown(name: str, value: str) -> str:
    return datetime.fromtimestamp(int(value) * 86_400, UTC).strftime("%Y-%m-%d") if name == "day" else value


def _print_rows(rows: list[UsageRow]) -> None:
    print_table(
        "",
        ("time", "call", "try", "model", "credential", "status", "in", "out", "cost", "ms"),
        [
            (
                datetime.fromtimestamp(row.created_at).astimezone().strftime("%m-%d %H:%M:%S"),
                row.invocation[-6:],
                row.attempt,
                f"{row.provider}/{row.model}",
                row.credential or "-",
                good(row.status) if row.status in ("ok", "cached") else bad(row.status),
                row.prompt_tokens,
                f"{row.completion_tokens}{'~' if row.estimated else ''}",
                "?" if row.total_price is None else f"{row.total_price:f}",
                round(row.latency * 1000),
            )
            for row in rows
        ],
        right=("try", "in", "out", "cost", "ms"),
    )


@click.command()
@click.argument("call")
@tenant_option
@json_option
@click.pass_context
def explain(ctx: click.Context, call: str, tenant: str, as_json: bool) -> None:
    """Why a call went where it went: CALL is its x-request-id, or the call that `modelyard usage --rows 20 --json`
    shows."""
    from modelyard.base.clock import SystemClock
    from modelyard.runtime.traces import Traces

    with _ledger(ctx) as (ledger, database):
        found = asyncio.run(Traces(database, ledger.usage, SystemClock()).explain(tenant, call))
    if as_json:
        print_json(found)
        return
    click.secho(f"{call}  {found.get('asked_for', '')}  {found.get('status', '')}", bold=True)
    steps = [(step.get("ms", ""), step["what"], ", ".join(_details(step))) for step in found["decisions"]]
    print_table("", ("ms", "what", "why"), [(ms, what, why) for ms, what, why in steps], right=("ms",))
    columns = (
        "attempt", "model", "credential", "status", "ms", "first_chunk_ms", "prompt_tokens", "completion_tokens",
        "counted_by", "cost",
    )  # fmt: skip
    rows = [[str(one[name] if one[name] is not None else "-") for name in columns] for one in found["attempts"]]
    print_table("", columns, rows)


def _details(step: dict[str, Any]) -> list[str]:
    return [f"{key.rstrip('_')} {value}" for key, value in step.items() if key not in ("ms", "what") and value != {}]
