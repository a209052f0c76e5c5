"""`modelyard worker`: executes runs of workflows, without an API."""

import asyncio
import os
import signal
from functools import partial
from typing import Any

import click
import msgspec

from modelyard.app import Modelyard
from modelyard.app.carriers import carrier_problem
from modelyard.app.maintenance import SettingsFileWatcher
from modelyard.base.errors import ConfigError
from modelyard.base.log import configure_logging
from modelyard.base.settings import Settings
from modelyard.cli.output import settings_file, settings_of
from modelyard.cli.serve import single_server_lock, tune_process
from modelyard.storage.database import await_database

_LOOK_SECONDS = 0.05


@click.command()
@click.option(
    "--at-once",
    type=click.IntRange(1, 100_000),
    help=(
        "Maximum number of runs that this worker executes at once. Default:"
        " workflows.at_once."
    ),
)
@click.option(
    "--database",
    help=(
        "SQLite path or postgresql://USER:PASSWORD@HOST/NAME. PostgreSQL is required for"
        " several machines."
    ),
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Minimum level of log messages. Default: info.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Format of log messages. Default: text.",
)
@click.pass_context
def worker(ctx: click.Context, at_once: int | None, **overrides: Any) -> None:
    """Execute runs of workflows, without an API.

    Needs an engine as carrier (`workflows.carrier: dbos` or `temporal`) and the
    database, files and master key of the servers that accept the runs. It takes part in
    their other background work too: triggers, mails and indexing.

    Stop it with Ctrl-C or SIGTERM: it takes no further runs, lets running nodes end for
    up to `grace_seconds`, and leaves the rest of its runs to other processes. A second
    signal ends it at once.
    """
    # Options that were not set must not override the settings file.
    overrides = {key: value for key, value in overrides.items() if value is not None}

    def load() -> Settings:
        """Read the settings, with the options of this command line."""
        settings = msgspec.structs.replace(settings_of(ctx), **overrides)
        return _worker_settings(settings, at_once)

    settings = load()
    configure_logging(settings.log_level, settings.log_format)
    _check(settings)
    await_database(settings.database_url, settings.database_wait_seconds)
    with single_server_lock(settings):
        yard = Modelyard(settings)
        watcher = SettingsFileWatcher(settings_file(ctx), load, yard.reload)
        asyncio.run(_work(yard, watcher))


def _worker_settings(settings: Settings, at_once: int | None) -> Settings:
    """Return the settings with what differs in a worker."""
    workflows = msgspec.structs.replace(settings.workflows, execute=True)
    if at_once is not None:
        workflows = msgspec.structs.replace(workflows, at_once=at_once)
    # Plugins that are being debugged connect to a server.
    plugins = msgspec.structs.replace(settings.plugins, debug_port=0)
    return msgspec.structs.replace(settings, workflows=workflows, plugins=plugins)


def _check(settings: Settings) -> None:
    """Raise ConfigError if no run would ever reach this worker."""
    if settings.workflows.carrier == "embedded":
        raise ConfigError(
            "workflows.carrier is embedded, so servers execute their runs themselves and"
            " a worker would get none; set it to dbos or temporal"
        )
    if problem := carrier_problem(settings):
        raise ConfigError(problem)


async def _work(yard: Modelyard, watcher: SettingsFileWatcher) -> None:
    """Execute runs until a signal arrives."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, partial(_end, ended, signal_number))
    async with yard:
        upkeep = yard.services.upkeep
        upkeep.start()
        watcher.start_watching(upkeep)
        tune_process()
        workflows = yard.settings.workflows
        click.echo(
            f"Modelyard executes runs of workflows, given by {workflows.carrier}, at most"
            f" {workflows.at_once} at once"
        )
        await ended.wait()
        # As a server does when it is told to stop.
        yard.runs.leave()
        await _drain(yard)


def _end(ended: asyncio.Event, signal_number: int) -> None:
    """Begin to end at the first signal, and end at the second."""
    if ended.is_set():
        # What runs have done is recorded, and child processes end with this one.
        os._exit(128 + signal_number)
    ended.set()


async def _drain(yard: Modelyard) -> None:
    """Wait until the running nodes have ended, for at most the grace period."""
    loop = asyncio.get_running_loop()
    until = loop.time() + yard.settings.grace_seconds
    while yard.runs.count and loop.time() < until:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_SECONDS)
