"""`modelyard run`: starts a coding agent whose model calls go to a Modelyard server."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import click

from modelyard.base.errors import ConfigError, suggestion
from modelyard.base.ids import new_id
from modelyard.base.private_files import private_folder
from modelyard.base.settings import Settings
from modelyard.cli.output import print_note, settings_of

_KEY_VARIABLE = "MODELYARD_API_KEY"
_NO_KEY = "none"
"""What agents send to a server without keys; without any key they refuse to start."""
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where an agent sends its calls: the server's origin, the key, the model (empty
    for the agent's own choice), and headers of every call."""

    origin: str
    key: str = _NO_KEY
    model: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Launch:
    """What a program is started with: environment variables beside those of this
    process, arguments before the user's, and the texts of temporary files whose paths
    are in environment variables."""

    environ: Mapping[str, str]
    arguments: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict[str, str])


def _claude(target: Target) -> Launch:
    """Return how Claude Code is started: it speaks Anthropic's format.

    https://docs.anthropic.com/en/docs/claude-code/llm-gateway
    """
    environ = {
        "ANTHROPIC_BASE_URL": target.origin,
        "ANTHROPIC_AUTH_TOKEN": target.key,
        "ANTHROPIC_CUSTOM_HEADERS": _header_lines(target, "\n"),
    }
    if target.model:
        # Titles, summaries and subagents have models of their own.
        for name in ("MODEL", "SMALL_FAST_MODEL", *_CLAUDE_TIERS):
            environ[f"ANTHROPIC_{name}"] = target.model
    return Launch(environ)


_CLAUDE_TIERS = (
    "DEFAULT_OPUS_MODEL",
    "DEFAULT_SONNET_MODEL",
    "DEFAULT_HAIKU_MODEL",
)


def _codex(target: Target) -> Launch:
    """Return how Codex is started: it speaks OpenAI's Responses format. Each `-c` sets
    a value of its settings file; JSON texts are TOML texts too."""
    provider = "model_providers.modelyard"
    values = {
        "model_provider": "modelyard",
        f"{provider}.name": "Modelyard",
        f"{provider}.base_url": f"{target.origin}/v1",
        # Other users of the machine can read arguments, but not the environment.
        f"{provider}.env_key": _KEY_VARIABLE,
        f"{provider}.wire_api": "responses",
    }
    if target.model:
        values["model"] = target.model
    headers = {f"{provider}.http_headers.{n}": v for n, v in target.headers.items()}
    options = [
        option
        for name, value in (values | headers).items()
        for option in ("-c", f"{name}={json.dumps(value)}")
    ]
    return Launch({_KEY_VARIABLE: target.key}, options)


def _gemini(target: Target) -> Launch:
    """Return how Gemini CLI is started: it speaks Google's format.

    It takes a key without a question only if a settings file says so. That is given as
    the system's default, below the user's own settings. Raises ConfigError if those
    say that it signs in with Google, since it would then not use the server.
    """
    environ = {
        "GOOGLE_GEMINI_BASE_URL": target.origin,
        "GEMINI_API_KEY": target.key,
        "GEMINI_CLI_CUSTOM_HEADERS": _header_lines(target, ", "),
    }
    if target.model:
        environ["GEMINI_MODEL"] = target.model
    chosen = _gemini_sign_in(Path("~/.gemini/settings.json").expanduser())
    if chosen not in ("", _GEMINI_BY_KEY):
        raise ConfigError(
            f"Gemini CLI signs in by {chosen!r}; choose an API key with its command"
            " /auth, or remove 'security.auth' in ~/.gemini/settings.json"
        )
    settings: dict[str, object] = {
        "security": {"auth": {"selectedType": _GEMINI_BY_KEY}}
    }
    if target.model:
        settings["modelConfigs"] = {
            "customOverrides": [
                {"match": {"model": name}, "modelConfig": {"model": target.model}}
                for name in _GEMINI_CALLS
            ]
        }
    files = {"GEMINI_CLI_SYSTEM_DEFAULTS_PATH": json.dumps(settings)}
    return Launch(environ, files=files)


_GEMINI_BY_KEY = "gemini-api-key"
_GEMINI_CALLS = (
    "base",
    "chat-compression-default",
    "chat-compression-3-pro",
    "chat-compression-3-flash",
    "chat-compression-3.1-flash-lite",
    "chat-compression-2.5-pro",
    "chat-compression-2.5-flash",
    "chat-compression-2.5-flash-lite",
    "agent-history-provider-summarizer",
)
"""Its kinds of calls that have models of their own: searches, summaries and others are
kinds of `base`."""


def _gemini_sign_in(path: Path) -> str:
    """Return how the user's settings say that Gemini CLI signs in, or an empty text."""
    try:
        settings = json.loads(path.read_text("utf-8"))
        return str(settings["security"]["auth"]["selectedType"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _opencode(target: Target) -> Launch:
    """Return how opencode is started: it speaks OpenAI's chat format. Its settings come
    in an environment variable, in addition to its files."""
    options = {
        "baseURL": f"{target.origin}/v1",
        "apiKey": target.key,
        "headers": dict(target.headers),
    }
    provider: dict[str, object] = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Modelyard",
        "options": options,
    }
    settings: dict[str, object] = {"provider": {"modelyard": provider}}
    if target.model:
        # Without this it keeps pictures to itself.
        modalities = {"input": ["text", "image"], "output": ["text"]}
        model = {"name": target.model, "attachment": True, "modalities": modalities}
        provider["models"] = {target.model: model}
        settings["model"] = f"modelyard/{target.model}"
        # Without this it may take a model of another provider for titles.
        settings["small_model"] = settings["model"]
    return Launch({"OPENCODE_CONFIG_CONTENT": json.dumps(settings)})


def _qwen(target: Target) -> Launch:
    """Return how Qwen Code is started: it speaks OpenAI's chat format. Headers can only
    be set in a settings file."""
    headers = dict(target.headers)
    # By their names it takes most models for such that see no pictures.
    generation = {"customHeaders": headers, "modalities": {"image": True}}
    settings = {"model": {"generationConfig": generation}}
    environ = {
        "OPENAI_BASE_URL": f"{target.origin}/v1",
        "OPENAI_API_KEY": target.key,
    }
    if target.model:
        environ["OPENAI_MODEL"] = target.model
    files = {"QWEN_CODE_SYSTEM_DEFAULTS_PATH": json.dumps(settings)}
    return Launch(environ, ["--auth-type", "openai"], files)


def _header_lines(target: Target, separator: str) -> str:
    """Return the headers as `Name: value` with this separator between them."""
    return separator.join(f"{name}: {value}" for name, value in target.headers.items())


PROGRAMS: Mapping[str, Callable[[Target], Launch]] = {
    "claude": _claude,
    "codex": _codex,
    "gemini": _gemini,
    "opencode": _opencode,
    "qwen": _qwen,
}


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
    envvar=_KEY_VARIABLE,
    default="",
    help=f"API key of the server. Default: ${_KEY_VARIABLE}.",
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
    launch = PROGRAMS[program](Target(origin, key or _NO_KEY, model, headers))
    command = [executable, *launch.arguments, *arguments]
    # Printing needs no server, so none is started for it.
    if prints_launch:
        _print_launch(launch, command)
        return 0
    with _server_at(origin, can_start=origin == local_origin, config=_config(ctx)):
        # Here a refused key is explained; the agent would only show a failed call.
        _check_key(origin, key)
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
    # Imported here, so that `--help` does not load them.
    import asyncio

    from modelyard.base.errors import InvokeError
    from modelyard.transport.http import HttpClient, Timeouts

    async def request() -> int:
        """Send the request and leave the body alone."""
        client = HttpClient()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            response = await client.send(
                "GET",
                f"{origin}{path}",
                headers=headers,
                timeouts=Timeouts(first_byte=10),
            )
            response.close()
            return response.status
        finally:
            await client.aclose()

    try:
        return asyncio.run(request())
    except InvokeError:
        return None


def _check_key(origin: str, key: str) -> None:
    """Raise ConfigError if the server does not accept the key."""
    if _status(origin, "/v1/models", key) not in (401, 403):
        return
    if key:
        raise ConfigError(f"The server at {origin} does not accept the key")
    raise ConfigError(
        f"The server at {origin} requires an API key; pass --key or set"
        f" {_KEY_VARIABLE} (`modelyard keys create NAME` creates one)"
    )


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
            raise ConfigError(
                "The server did not start; `modelyard serve` shows the reason"
            )
        time.sleep(0.1)


@contextmanager
def temporary_files(
    files: Mapping[str, str], home: Path
) -> Generator[dict[str, str], None, None]:
    """Write the texts to temporary files until the block ends. Yields their paths by
    the same names.

    They are in the home folder, since Gemini CLI reads no settings of the system from
    a folder in which others may write.
    """
    if files:
        private_folder(home)
    with tempfile.TemporaryDirectory(
        prefix="run-", dir=home if files else None
    ) as folder:
        paths: dict[str, str] = {}
        for name, text in files.items():
            path = Path(folder) / f"{name.lower()}.json"
            path.write_text(text, "utf-8")
            paths[name] = str(path)
        yield paths


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
