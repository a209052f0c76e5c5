"""`modelyard serve`."""

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
from modelyard.app.upkeep import SettingsFile
from modelyard.base.clock import SystemClock
from modelyard.base.errors import ConfigError
from modelyard.base.log import configure_logging
from modelyard.base.modes import private_folder
from modelyard.base.settings import Settings
from modelyard.cli.door import Door, raise_file_limit, room_of
from modelyard.cli.http_protocol import GuardedConfig
from modelyard.cli.show import settings_file, settings_of
from modelyard.cli.workers import Peers, Supervisor
from modelyard.gateway.auth import check_bind, is_loopback
from modelyard.gateway.console_api.static import is_built
from modelyard.gateway.http import Ending
from modelyard.gateway.openai.models import listed
from modelyard.storage.database import Database, await_database
from modelyard.storage.resources import Resources
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller
from modelyard.tenancy.directory import Directory

_SWITCH_SECONDS = 0.0005
"""How long the loop waits for a thread that computes: each time, and a call lets go of the interpreter a few times.
Python's own 5 ms made a call beside one that repairs JSON take 37 ms; so, it takes 9."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGE_BLOCK = 4 << 20


def settle_process() -> None:
    """What a process sets once that is about to serve: its memory, and how its threads take turns."""
    # What is here now stays: the collector need not look at it again, nor look at all after every 700 objects, as it
    # would at every other call.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    _return_large_blocks()
    sys.setswitchinterval(_SWITCH_SECONDS)


def _return_large_blocks() -> None:
    """Give what a large body or a password's hash took back to the system as soon as it is done.

    glibc learns from the first such block to keep all that are not larger, one for each thread. Where the C library is
    another, it has no mallopt, and nothing is to be done. See mallopt(3).
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BLOCK)


class Server(uvicorn.Server):
    """Says that it is ready when it is. When it ends, callers whose time is over are told why.

    A second signal ends it at once, with the exit code that a shell gives to one that a signal ended. A worker does not
    heed it: what sends signals to a whole group of processes would send it two, its supervisor's among them.
    """

    def __init__(self, config: GuardedConfig, door: Door, ending: Ending, grace: float, *, is_worker: bool) -> None:
        super().__init__(config)
        self.welcome = ""
        self._door = door
        self._ending = ending
        self._grace = grace
        self._is_worker = is_worker

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Loops keep track of every async generator, to close those that are forgotten. Ours are all closed where they
        # are used, a call makes nine of them, and the bookkeeping costs a tenth of a call.
        sys.set_asyncgen_hooks(firstiter=None, finalizer=None)
        settle_process()
        await super().startup(sockets)
        if self.started:
            self._door.open()
            if self.welcome:
                click.echo(self.welcome)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            super().handle_exit(sig, frame)
        elif not self._is_worker:
            # What calls cost so far lies on disk, and whatever this process started ends with it.
            os._exit(128 + sig)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No new connections; those that run get the grace; then they are cut, in the words of their formats."""
        for listening in self.servers:
            listening.close()
        for each in sockets or ():
            each.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        await _until(lambda: not state.tasks, self._grace)
        self._ending.is_over = True
        for task in list(state.tasks):
            task.cancel()
        await _until(lambda: not state.tasks, _LAST_WORDS_SECONDS)
        for connection in list(state.connections):
            connection.shutdown()
        await _until(lambda: not state.connections, _LAST_WORDS_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()
        self._door.close()
        await self.lifespan.shutdown()


_LAST_WORDS_SECONDS = 2.0


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait, but no longer than that."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.05)


@click.command()
@click.option("--host", help="Address to listen on; others than loopback need an API key.  [127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [8790]")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes that answer.  [1]")
@click.option("--database", help="A path, or postgresql://USER:PASSWORD@HOST/NAME for several machines.")
@click.option("--shared", help="What limits are shared through: database, or valkey://HOST:PORT.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[info]")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="[text]")
@click.option("--worker", type=int, hidden=True, help="The listening socket's descriptor.")
@click.option("--supervisor", type=int, hidden=True, help="Who started this worker.")
@click.pass_context
def serve(ctx: click.Context, worker: int | None, supervisor: int | None, **given: Any) -> None:
    """Start the server, for OpenAI's clients at http://127.0.0.1:8790/v1 and for Anthropic's, Google's and Cohere's at
    http://127.0.0.1:8790. It needs no key there.

    Stop it with Ctrl-C: calls that are running get ten seconds to end; a second time ends them at once. Changes to
    modelyard.yaml are taken up while it runs.
    """
    given = {key: value for key, value in given.items() if value is not None}
    settings = msgspec.structs.replace(settings_of(ctx), **given)
    configure_logging(settings.log_level, settings.log_format)

    def load() -> Settings:
        return msgspec.structs.replace(settings_of(ctx), **given)

    if worker is not None:
        await_database(settings.database_url, settings.database_wait_seconds)
        with socket.socket(fileno=worker) as listening:
            _run(ctx, settings, load, listening, supervisor=supervisor)
        return
    await_database(settings.database_url, settings.database_wait_seconds)
    _check_bind(settings)
    with _listen(settings.host, settings.port) as listening:
        if settings.workers > 1:
            _supervise(settings, listening, given)
            return
        with _only_server(settings):
            _run(ctx, settings, load, listening)


def _check_bind(settings: Settings) -> None:
    """Raises ConfigError for an address that others can reach, where no key is needed."""
    if settings.api_keys or is_loopback(settings.host):
        return
    database = Database(settings.database_url, may_upgrade=settings.upgrade_database)
    try:
        directory = Directory(Resources(database, SystemClock()))
        asyncio.run(directory.refresh())
        check_bind(settings.host, is_open=not directory.has_keys)
    finally:
        database.close()


def _supervise(settings: Settings, listening: socket.socket, given: dict[str, Any]) -> None:
    arguments = ["serve"]
    for key, value in {**given, "workers": settings.workers}.items():
        arguments += [f"--{key.replace('_', '-')}", str(value)]
    origin = _origin(settings.host, listening.getsockname()[1])
    click.echo(click.style(f"Modelyard starts {settings.workers} workers at {origin}/v1", bold=True))
    Supervisor(listening, settings.workers, arguments, patience=settings.grace_seconds + 20.0).run()


def _run(
    ctx: click.Context, settings: Settings, load: Any, listening: socket.socket, *, supervisor: int | None = None
) -> None:
    yard = Modelyard(settings)
    asyncio.run(yard.open())
    peers = Peers(settings.home_path / "run") if settings.workers > 1 else None
    state: dict[str, Server] = {}
    upkeep, followed = yard.services.upkeep, SettingsFile(settings_file(ctx), load, yard.reload)

    def start() -> None:
        upkeep.start()
        followed.begin(upkeep)
        if peers is not None:
            upkeep.every(1.0, partial(_tell, peers, yard))
        if supervisor is not None:
            upkeep.every(1.0, partial(_stop_with, supervisor, lambda: state["server"].should_exit))

    gateway = gateway_for(
        yard.services,
        on_start=start,
        is_draining=lambda: state["server"].should_exit,
        others=peers.others if peers else lambda: (),
        settings_file=settings_file(ctx),
        environ=os.environ,
    )
    door = Door(settings.connections, room_of(settings.connections, raise_file_limit()))
    config = GuardedConfig(gateway, door, loop="auto", backlog=2048)
    server = state["server"] = Server(
        config, door, gateway.ending, settings.grace_seconds, is_worker=supervisor is not None
    )
    if supervisor is None:
        server.welcome = _welcome(yard, settings.host, listening.getsockname()[1])
    config.load()
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve(sockets=[listening]))
    finally:
        if peers is not None:
            peers.leave()


def _tell(peers: Peers, yard: Modelyard) -> None:
    peers.tell(yard.services.calls.metrics.snapshot())


def _stop_with(supervisor: int, is_stopping: Callable[[], bool]) -> None:
    """A worker whose supervisor is gone, however it went, stops as it would have been told to."""
    if os.getppid() != supervisor and not is_stopping():
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _only_server(settings: Settings) -> Generator[None]:
    """Limits that are counted in this process hold only where there is no other."""
    if settings.shared or settings.database.startswith("postgres"):
        yield
        return
    path = settings.home_path / "serve.lock"
    private_folder(path.parent)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another server runs with the home folder {str(Path(settings.home).expanduser())!r}, and each would "
                "count limits for itself; start all of them with --shared database, or set another MODELYARD_HOME"
            ) from None
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)


def _listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another port with --port or MODELYARD_PORT"
        ) from error


def _origin(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _welcome(yard: Modelyard, host: str, port: int) -> str:
    origin = _origin(host, port)
    aliases = [
        (model["id"], model["stands_for"])
        for model in listed(yard.services.calls.models, Caller(tenant=DEFAULT_TENANT))
        if "stands_for" in model
    ]
    lines = [click.style(f"Modelyard is ready at {origin}/v1", bold=True), ""]
    if is_built():
        lines += [f"  The console: {origin}/console", ""]
    lines += [f"  {alias:<24}{name}" for alias, name in aliases]
    if not any(name.startswith("local/") for _, name in aliases):
        lines.append("  No local models yet: `modelyard models pull small` brings all six types.")
    lines += [
        "",
        f"  curl {origin}/v1/chat/completions -H 'content-type: application/json' \\",
        '    -d \'{"model": "default", "messages": [{"role": "user", "content": "Say hello"}]}\'',
        "",
        f"  Anthropic's, Google's and Cohere's clients take {origin} as their base URL.",
        "",
    ]
    return "\n".join(lines)
