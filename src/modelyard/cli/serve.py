"""`modelyard serve`: starts the server, with one or several worker processes."""

import asyncio
import ctypes
import fcntl
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec
import uvicorn

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.app.maintenance import SettingsFileWatcher
from modelyard.base.clock import SystemClock
from modelyard.base.errors import ConfigError
from modelyard.base.log import configure_logging
from modelyard.base.private_files import private_folder
from modelyard.base.settings import Settings
from modelyard.cli.accepting import Acceptor
from modelyard.cli.connection_limits import (
    ConnectionLimiter,
    capacity_for,
    raise_file_limit,
)
from modelyard.cli.http_protocol import GuardedConfig
from modelyard.cli.output import settings_file, settings_of
from modelyard.cli.workers import Supervisor, WorkerMetricsFiles
from modelyard.gateway.auth import check_bind, is_loopback
from modelyard.gateway.console_api.static import is_built
from modelyard.gateway.http import Shutdown
from modelyard.gateway.model_lists import list_models
from modelyard.storage.database import Database, await_database
from modelyard.storage.resources import Resources
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tenancy.directory import Directory

_THREAD_SWITCH_SECONDS = 0.0005
"""How long the event loop waits for a computing thread to release the interpreter.

A call switches threads a few times. With Python's default of 5 ms, a call next to JSON
repair took 37 ms; with this value it takes 9 ms.
"""
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# Blocks of at least 4 MiB are mapped separately and returned to the system when freed.
_LARGE_BLOCK = 4 << 20


def tune_process() -> None:
    """Tune a process that is about to serve: garbage collection, memory and thread
    switching."""
    # Objects that exist now stay alive: exclude them from collection, and collect less
    # often than every 700 objects, which would be every other call.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    _return_large_blocks()
    sys.setswitchinterval(_THREAD_SWITCH_SECONDS)


def _return_large_blocks() -> None:
    """Make glibc return the memory of large bodies and password hashes to the system at
    once.

    By default glibc raises its threshold after the first large block and keeps later
    ones, one per thread.
    """
    _tune_malloc({_M_MMAP_THRESHOLD: _LARGE_BLOCK, _M_TRIM_THRESHOLD: 2 * _LARGE_BLOCK})


def share_heap() -> None:
    """Make all threads allocate from one heap. Must be called before threads start.

    By default glibc gives each thread a heap of its own, and none of them uses what
    another one has freed. The threads of a server wait for the interpreter far more than
    they would for the heap.
    """
    _tune_malloc({_M_ARENA_MAX: 1})


def _tune_malloc(options: dict[int, int]) -> None:
    """Set options of glibc's memory allocation, see mallopt(3). Other C libraries have
    none and need none."""
    with suppress(OSError, AttributeError):
        # CDLL(None) is the running program, including its C library.
        library = ctypes.CDLL(None)
        for option, value in options.items():
            library.mallopt(option, value)


class Server(uvicorn.Server):
    """uvicorn server that prints a welcome text when ready, and tells clients why they
    are cut off at shutdown.

    A second signal ends the process at once, with the exit code that a shell reports
    for that signal. Workers ignore the second one: a signal to the process group
    reaches them twice, directly and through the supervisor.
    """

    def __init__(
        self,
        config: GuardedConfig,
        door: ConnectionLimiter,
        ending: Shutdown,
        grace: float,
        *,
        is_worker: bool,
    ) -> None:
        super().__init__(config)
        self.welcome = ""
        self._door = door
        self._ending = ending
        self._grace = grace
        self._is_worker = is_worker
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tune the process, start uvicorn, and start checking connection limits."""
        # Event loops track async generators to close forgotten ones. Here all are
        # closed where they are used; a call creates nine of them, and tracking takes a
        # tenth of its time.
        sys.set_asyncgen_hooks(firstiter=None, finalizer=None)
        tune_process()
        # An empty list: the sockets are not uvicorn's to listen on.
        await super().startup([])
        if self.started:
            self._door.open()
            for listening in sockets or ():
                self._accept_from(listening)
            if self.welcome:
                click.echo(self.welcome)

    def _accept_from(self, listening: socket.socket) -> None:
        """Start accepting the connections of a socket."""
        config = self.config
        create_protocol = partial(
            config.http_protocol_class,  # pyright: ignore[reportArgumentType]  loaded by now
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        listening.listen(config.backlog)
        listening.setblocking(False)
        acceptor = Acceptor(
            listening,
            create_protocol,
            self._door.free_places,
            asyncio.get_running_loop(),
        )
        acceptor.start()
        self._acceptors.append(acceptor)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown at the first signal and exit at the second."""
        if not self.should_exit:
            super().handle_exit(sig, frame)
        elif not self._is_worker:
            # Usage records are on disk already, and child processes end with this one.
            os._exit(128 + sig)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, wait for running requests and runs up to the grace
        period, then cut them with an error in their API's format."""
        for acceptor in self._acceptors:
            acceptor.close()
        for bound_socket in sockets or ():
            bound_socket.close()
        self._ending.begin()
        state = self.server_state
        # Idle connections close now, active ones after their response.
        for connection in list(state.connections):
            connection.shutdown()
        await _until(
            lambda: not state.tasks and self._ending.is_idle,
            self._grace,
        )
        # Cancelled requests read this flag and answer with the shutdown error.
        self._ending.is_over = True
        for task in list(state.tasks):
            task.cancel()
        await _until(lambda: not state.tasks, _FINAL_RESPONSE_SECONDS)
        for connection in list(state.connections):
            connection.shutdown()
        await _until(lambda: not state.connections, _FINAL_RESPONSE_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()
        # The application closes last: requests used it until here.
        self._door.close()
        await self.lifespan.shutdown()


_FINAL_RESPONSE_SECONDS = 2.0


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until the condition is true, for at most the given seconds."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


@click.command()
@click.option(
    "--host",
    help=(
        "Address to listen on. Addresses other than loopback require an API key."
        " Default: 127.0.0.1."
    ),
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on. Default: 8790.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Number of worker processes. Default: 1.",
)
@click.option(
    "--database",
    help=(
        "SQLite path or postgresql://USER:PASSWORD@HOST/NAME. PostgreSQL is required for"
        " several machines."
    ),
)
@click.option(
    "--shared",
    help=(
        "Store for shared rate-limit counters: `database`, valkey://HOST:PORT or"
        " valkey+cluster://HOST:PORT,HOST:PORT."
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
@click.option(
    "--worker",
    type=int,
    hidden=True,
    help="File descriptor of the listening socket.",
)
@click.option(
    "--supervisor",
    type=int,
    hidden=True,
    help="Process id of the supervisor that started this worker.",
)
@click.pass_context
def serve(
    ctx: click.Context, worker: int | None, supervisor: int | None, **overrides: Any
) -> None:
    """Start the API server and the console.

    OpenAI clients use the base URL http://127.0.0.1:8790/v1; Anthropic, Google and
    Cohere clients use http://127.0.0.1:8790. No API key is needed on loopback.

    Stop the server with Ctrl-C: running calls have 10 seconds to finish; a second Ctrl-C
    stops it at once. Options override the settings file. Changes to modelyard.yaml are
    applied without a restart.
    """
    # Options that were not set must not override the settings file.
    overrides = {key: value for key, value in overrides.items() if value is not None}
    settings = msgspec.structs.replace(settings_of(ctx), **overrides)
    configure_logging(settings.log_level, settings.log_format)

    def load() -> Settings:
        """Read the settings again, with the same command-line overrides."""
        return msgspec.structs.replace(settings_of(ctx), **overrides)

    if worker is not None:
        # The supervisor has checked address and lock already; a worker only inherits
        # the socket.
        await_database(settings.database_url, settings.database_wait_seconds)
        with socket.socket(fileno=worker) as listening:
            _run(ctx, settings, load, listening, supervisor=supervisor)
        return
    await_database(settings.database_url, settings.database_wait_seconds)
    # Before listening, so that an unprotected server is never reachable.
    _check_bind(settings)
    with _listen(settings.host, settings.port) as listening:
        if settings.workers > 1:
            _supervise(settings, listening, overrides)
            return
        with single_server_lock(settings):
            _run(ctx, settings, load, listening)


def _check_bind(settings: Settings) -> None:
    """Raise ConfigError if the address is reachable from other machines and no key is
    required."""
    if settings.api_keys or is_loopback(settings.host):
        return
    # Keys created by `modelyard keys` are in the database, not in the settings.
    database = Database(settings.database_url, may_upgrade=settings.upgrade_database)
    try:
        directory = Directory(Resources(database, SystemClock()))
        asyncio.run(directory.refresh())
        check_bind(settings.host, is_open=not directory.has_keys)
    finally:
        database.close()


def _supervise(
    settings: Settings, listening: socket.socket, overrides: dict[str, Any]
) -> None:
    """Run workers with the same options as this command line."""
    arguments = ["serve"]
    for key, value in {**overrides, "workers": settings.workers}.items():
        arguments += [f"--{key.replace('_', '-')}", str(value)]
    origin = _origin(settings.host, listening.getsockname()[1])
    click.echo(
        click.style(
            f"Starting Modelyard with {settings.workers} workers at {origin}/v1",
            bold=True,
        )
    )
    # Workers need the grace period plus time to send errors and close the application.
    Supervisor(
        listening, settings.workers, arguments, patience=settings.grace_seconds + 20.0
    ).run()


def _run(
    ctx: click.Context,
    settings: Settings,
    load: Callable[[], Settings],
    listening: socket.socket,
    *,
    supervisor: int | None = None,
) -> None:
    """Open the runtime and serve on the socket until a signal arrives."""
    share_heap()
    yard = Modelyard(settings)
    asyncio.run(yard.open())
    # Worker processes share their metrics through files, so that any of them can report
    # all.
    metrics_files = (
        WorkerMetricsFiles(settings.home_path / "run") if settings.workers > 1 else None
    )
    state: dict[str, Server] = {}
    watcher = SettingsFileWatcher(settings_file(ctx), load, yard.reload)

    # The server does not exist yet when the gateway is built; it is looked up when
    # needed.
    def is_stopping() -> bool:
        """Tell whether the server has been told to stop."""
        return state["server"].should_exit

    gateway = gateway_for(
        yard.services,
        on_start=partial(
            _start_tasks, yard, watcher, metrics_files, supervisor, is_stopping
        ),
        is_draining=is_stopping,
        peer_metrics=metrics_files.read_others if metrics_files else lambda: (),
        settings_file=settings_file(ctx),
        environ=os.environ,
    )
    door = ConnectionLimiter(
        settings.connections, capacity_for(settings.connections, raise_file_limit())
    )
    config = GuardedConfig(gateway, door, loop="auto", backlog=2048)
    server = state["server"] = Server(
        config,
        door,
        gateway.ending,
        settings.grace_seconds,
        is_worker=supervisor is not None,
    )
    if supervisor is None:
        server.welcome = _welcome(yard, settings.host, listening.getsockname()[1])
    config.load()
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve(sockets=[listening]))
    finally:
        # A stopped worker's file must not be counted any more.
        if metrics_files is not None:
            metrics_files.remove_own()


def _start_tasks(
    yard: Modelyard,
    watcher: SettingsFileWatcher,
    metrics_files: WorkerMetricsFiles | None,
    supervisor: int | None,
    is_stopping: Callable[[], bool],
) -> None:
    """Start the background tasks of a process, once its server is up."""
    upkeep = yard.services.upkeep
    upkeep.start()
    watcher.start_watching(upkeep)
    if metrics_files is not None:
        upkeep.run_periodically(1.0, partial(_publish_metrics, metrics_files, yard))
    if supervisor is not None:
        upkeep.run_periodically(1.0, partial(_stop_with, supervisor, is_stopping))


def _publish_metrics(metrics_files: WorkerMetricsFiles, yard: Modelyard) -> None:
    """Publish this process's metrics to the other workers."""
    metrics_files.publish(yard.services.calls.metrics.snapshot())


def _stop_with(supervisor: int, is_stopping: Callable[[], bool]) -> None:
    """Stop this worker if its supervisor no longer exists, however that ended."""
    # An orphan gets another parent process.
    if os.getppid() != supervisor and not is_stopping():
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def single_server_lock(settings: Settings) -> Generator[None]:
    """Hold the home folder's lock. Raises ConfigError if another server holds it.

    Limits counted in memory are correct only with one server. Not needed if counters
    are shared.
    """
    if settings.shared or settings.database.startswith("postgres"):
        yield
        return
    path = settings.home_path / "serve.lock"
    private_folder(path.parent)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            # The kernel releases the lock when the process ends, even if it crashes.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                "Another server uses the home folder"
                f" {str(Path(settings.home).expanduser())!r}, and limits would be"
                " counted separately by each; start all of them with --shared database,"
                " or set another MODELYARD_HOME"
            ) from None
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)


def _listen(host: str, port: int) -> socket.socket:
    """Return the listening socket. Raises ConfigError if the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
        # Connections inherit it. Without, the second write of a response waits for the
        # client to confirm the first, which takes 40 ms; asyncio sets it only where the
        # protocol of the socket is stated.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror}; choose another port"
            " with --port or MODELYARD_PORT"
        ) from error


def _origin(host: str, port: int) -> str:
    """Return the origin of an address, with brackets around IPv6."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _welcome(yard: Modelyard, host: str, port: int) -> str:
    """Return the text that is printed when the server is ready."""
    origin = _origin(host, port)
    aliases = [
        (model.id, model.details["stands_for"])
        for model in list_models(
            yard.services.calls.models, Caller(tenant=DEFAULT_TENANT)
        )
        if "stands_for" in model.details
    ]
    lines = [click.style(f"Modelyard is ready at {origin}/v1", bold=True), ""]
    if is_built():
        lines += [f"  Console: {origin}/console", ""]
    lines += [f"  {alias:<24}{name}" for alias, name in aliases]
    # Newcomers start without a key of any provider; local models need none.
    if not any(name.startswith("local/") for _, name in aliases):
        lines.append(
            "  No local models yet: `modelyard models pull small` downloads all six"
            " types."
        )
    lines += [
        "",
        f"  curl {origin}/v1/chat/completions -H 'content-type: application/json' \\",
        (
            '    -d \'{"model": "default", "messages": [{"role": "user", "content":'
            ' "Say hello"}]}\''
        ),
        "",
        (f"  Base URL for Anthropic, Google and Cohere clients: {origin}"),
        "",
    ]
    return "\n".join(lines)
