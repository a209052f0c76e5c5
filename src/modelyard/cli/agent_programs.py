"""`modelyard run`: starts a coding agent whose model calls go to a Modelyard server."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import click

from modelyard.base.errors import ConfigError, suggestion
from modelyard.base.ids import new_id
from modelyard.base.settings import Settings
from modelyard.cli.agent_launches import (
    KEY_VARIABLE,
    NO_KEY,
    PROGRAMS,
    Launch,
    Target,
    temporary_files,
)
from modelyard.cli.output import print_note, settings_of

# The first start applies all migrations, and may import large packages.
_START_SECONDS = 60.0


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option(
    "--model", default="", help="Model that the agent uses. Default: its own."
)
@click.option(
    "--server",
    metavar="URL",
    default="",
    help="Server to use. Default: the local one; started if it does not run.",
)
@click.option(
    "--key",
    envvar=KEY_VARIABLE,
    default="",
    help=f"API key of the server. Default: ${KEY_VARIABLE}.",
)
@click.option(
    "--project", default="", help="Project to which the usage of the agent is booked."
)
@click.option(
    "--session",
    default="",
    help="Session to which the usage is booked. Default: a new one.",
)
@click.option(
    "--print",
    "prints_launch",
    is_flag=True,
    help="Print the environment variables and the command instead of running it.",
)
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(
    ctx: click.Context,
    model: str,
    server: str,
    key: str,
    project: str,
    session: str,
    prints_launch: bool,
    program: str,
    arguments: tuple[str, ...],
) -> int:
    """Run a coding agent with the models of a server.

    PROGRAM is claude, codex, gemini, opencode or qwen, as `modelyard run --model
    openai/gpt-5-mini -- claude`. Its own arguments follow it. The exit code is the
    program's.
    """
    executable = _executable(program)
    headers = {"x-modelyard-session": session or new_id("agent")}
    if project:
        headers["x-modelyard-project"] = project
    settings = settings_of(ctx)
    local_origin = _local_origin(settings)
    origin = _origin(server) if server else local_origin
    target = Target(origin, key or NO_KEY, model, headers)
    # Printing needs no server, so none is started for it.
    if prints_launch:
        launch = PROGRAMS[program](target)
        _print_launch(launch, [executable, *launch.arguments, *arguments])
        return 0
    with _server_at(origin, can_start=origin == local_origin, config=_config(ctx)):
        # Here a refused key is explained; the agent would only show a failed call.
        _check_key(origin, key)
        launch = PROGRAMS[program](_with_sizes(target))
        command = [executable, *launch.arguments, *arguments]
        with temporary_files(launch.files, settings.home_path) as paths:
            return _run_program(command, {**launch.environ, **paths})


def _executable(program: str) -> str:
    """Return the path of a program. Raises ConfigError if it is unknown or not
    installed."""
    if program not in PROGRAMS:
        hint = suggestion(program, PROGRAMS, label="expected one of")
        raise ConfigError(f"Unknown program {program!r}; {hint}")
    if (path := shutil.which(program)) is None:
        raise ConfigError(f"Program {program!r} is not installed or not on the PATH")
    return path


def _local_origin(settings: Settings) -> str:
    """Return the origin of the local server, by the settings."""
    # A server that listens on all interfaces is reached by the loopback address.
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _origin(server: str) -> str:
    """Return the origin of a URL that names a server; `/v1` at its end is left out.

    Raises ConfigError if it is no such URL.
    """
    url = urlsplit(server)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"Invalid URL {server!r}; expected http://HOST:PORT")
    return server.rstrip("/").removesuffix("/v1")


def _config(ctx: click.Context) -> str | None:
    """Return the settings file that the command line names, or None."""
    config: str | None = ctx.find_root().obj
    return config


def _status(origin: str, path: str, key: str = "") -> int | None:
    """Return the status of a GET request, or None if no server answers."""
    reply = _get(origin, path, key)
    return None if reply is None else reply[0]


def _with_sizes(target: Target) -> Target:
    """Return the target with the sizes of its model, as far as the server states them."""
    reply = None
    if target.model:
        path = f"/v1/models/{quote(target.model, safe='/')}"
        reply = _get(target.origin, path, target.key)
    # A model that the server does not list is refused when it is called.
    if reply is None or reply[0] != 200:
        return target
    details = json.loads(reply[1])
    return replace(
        target,
        context_size=details.get("context_size") or 0,
        max_output=details.get("max_output") or 0,
    )


def _get(origin: str, path: str, key: str = "") -> tuple[int, bytes] | None:
    """Return the status and the body of a GET request, or None if no server answers."""
    # Imported here, so that `--help` does not load them.
    import asyncio

    from modelyard.base.errors import InvokeError
    from modelyard.transport.http import HttpClient, Timeouts

    async def request() -> tuple[int, bytes]:
        """Send the request and read the answer."""
        client = HttpClient()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            response = await client.send(
                "GET",
                f"{origin}{path}",
                headers=headers,
                timeouts=Timeouts(first_byte=10),
            )
            return response.status, await response.read()
        finally:
            await client.aclose()

    try:
        return asyncio.run(request())
    except InvokeError:
        return None


_KEY_HELP = (
    f"pass --key or set {KEY_VARIABLE} (`modelyard keys create NAME` creates one)"
)


def _check_key(origin: str, key: str) -> None:
    """Raise ConfigError if the server does not accept the key."""
    if _status(origin, "/v1/models", key) not in (401, 403):
        return
    problem = "does not accept the key" if key else f"requires an API key; {_KEY_HELP}"
    raise ConfigError(f"The server at {origin} {problem}")


@contextmanager
def _server_at(
    origin: str, *, can_start: bool, config: str | None
) -> Generator[None, None, None]:
    """Start the local server if none answers, until the block ends.

    Raises ConfigError if none answers and `can_start` is false, or if it does not
    start.
    """
    # A server that ran before goes on when the agent ends.
    if _status(origin, "/health") is not None:
        yield
        return
    if not can_start:
        raise ConfigError(f"No server answers at {origin}")
    print_note(f"Starting a server at {origin} for the time of the agent")
    options = ["--config", config] if config else []
    command = [sys.executable, "-m", "modelyard", *options, "serve"]
    # A group of its own: Ctrl-C in the terminal is meant for the agent.
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_start(server, origin)
        yield
    finally:
        server.terminate()
        server.wait()


def _await_start(server: "subprocess.Popen[bytes]", origin: str) -> None:
    """Wait until the server answers. Raises ConfigError if it ends or is too slow."""
    deadline = time.monotonic() + _START_SECONDS
    while _status(origin, "/health") is None:
        # With invalid settings it ends at once, and need not be waited for.
        if server.poll() is not None or time.monotonic() > deadline:
            problem = "The server did not start; `modelyard serve` shows the reason"
            raise ConfigError(problem)
        time.sleep(0.1)


def _run_program(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a program in this terminal and return its exit code, or 128 and the number of
    the signal that ended it."""
    program = subprocess.Popen(command, env={**os.environ, **environ})
    # Ctrl-C reaches the program too, which decides what it means.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = program.wait()
    finally:
        signal.signal(signal.SIGINT, previous)
    # Python reports a signal as a negative number, shells add it to 128.
    return code if code >= 0 else 128 - code


def _print_launch(launch: Launch, command: Sequence[str]) -> None:
    """Print what would run, as a shell accepts it."""
    import shlex

    for name, text in launch.files.items():
        click.echo(f"# The file that {name} names contains: {text}")
    for name, value in launch.environ.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    click.echo(shlex.join([Path(command[0]).name, *command[1:]]))
