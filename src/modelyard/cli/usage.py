"""`modelyard usage`: what was used, and what it cost."""

import re
import time
from datetime import datetime

import click
import msgspec

from modelyard.cli.show import bad, good, json_option, note, print_json, print_table, settings_of
from modelyard.runtime.invocation import DEFAULT_TENANT
from modelyard.runtime.ledger import GROUPINGS, Ledger, Spending, UsageRow
from modelyard.storage.database import Database

_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@click.command()
@click.option("--by", default="provider,model", show_default=True, help=f"Add up by these: {', '.join(GROUPINGS)}.")
@click.option("--since", default="30d", show_default=True, help="How far back, as 90m, 24h, 30d.")
@click.option(
    "--rows", "most", type=click.IntRange(1, 100_000), help="The latest attempts, one a line, instead of sums."
)
@json_option
@click.pass_context
def usage(ctx: click.Context, by: str, since: str, most: int | None, as_json: bool) -> None:
    """What was used, and what it cost. Every attempt counts, failed ones too."""
    settings = settings_of(ctx)
    begin = time.time() - _seconds(since)
    names = _fields(by)
    database = Database(settings.database_path)
    try:
        ledger = Ledger(database)
        if most is not None:
            rows = ledger.recent(DEFAULT_TENANT, most=most, since=begin)
            print_json(rows) if as_json else _print_rows(rows)
        else:
            sums = ledger.summary(DEFAULT_TENANT, by=names, since=begin)
            if as_json:
                print_json([{**dict(zip(names, one.key, strict=True)), **_sum(one)} for one in sums])
            else:
                _print_sums(names, sums)
    finally:
        database.close()


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


def _sum(one: Spending) -> dict[str, object]:
    built = msgspec.to_builtins(one)
    return {key: value for key, value in built.items() if key != "key"}


def _print_sums(names: list[str], sums: list[Spending]) -> None:
    if not sums:
        note("nothing was used in that time")
        return
    columns = (*names, "attempts", "failed", "tokens in", "tokens out", "cost")
    rows = [
        (
            *one.key,
            f"{one.calls:,}",
            f"{one.failed:,}",
            f"{one.prompt_tokens:,}",
            f"{one.completion_tokens:,}",
            f"{one.cost:f} {one.currency}" + (f" + {one.unpriced:,} unpriced" if one.unpriced else ""),
        )
        for one in sums
    ]
    print_table("", columns, rows, right=columns[len(names) :])


def _print_rows(rows: list[UsageRow]) -> None:
    print_table(
        "",
        ("time", "call", "try", "model", "credential", "status", "in", "out", "cost", "ms"),
        [
            (
                datetime.fromtimestamp(one.created_at).astimezone().strftime("%m-%d %H:%M:%S"),
                one.invocation[-6:],
                one.attempt,
                f"{one.provider}/{one.model}",
                one.credential or "-",
                good(one.status) if one.status == "ok" else bad(one.status),
                one.prompt_tokens,
                f"{one.completion_tokens}{'~' if one.estimated else ''}",
                "?" if one.total_price is None else f"{one.total_price:f}",
                round(one.latency * 1000),
            )
            for one in rows
        ],
        right=("try", "in", "out", "cost", "ms"),
    )
