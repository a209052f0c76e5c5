"""Plugins as plain processes, `python -m main` in an environment of their requirements:
what the plugin host is compared with."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from modelyard.base.errors import ModelyardError, NotFoundError, PluginError
from modelyard.models.types import JSON
from modelyard.plugins.connection import PluginCall, PluginConnection, PluginDiedError
from modelyard.plugins.environment import uv_path

_START_SECONDS = 120.0
_MAX_ERROR_CHARS = 300


class _NoServices:
    """A host that grants no requests of plugins."""

    async def answer(
        self, call: PluginCall, request_type: str, request: JSON
    ) -> AsyncIterator[JSON]:
        """Refuse a request. Raises NotFoundError."""
        del call, request
        raise NotFoundError(f"There is no {request_type} here")
        yield {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a first call ended."""

    is_answered: bool
    """Whether the plugin answered, be it with an error of its own."""
    text: str = ""
    """The class of the plugin's error, or why there was no answer."""


async def first_answer(
    answers: AsyncGenerator[JSON, None], seconds: float = 30.0
) -> Ending:
    """Wait for the first answer to a call, which is closed then. An error of the
    plugin's own code is an answer: it started and understood the call."""
    try:
        async with asyncio.timeout(seconds), aclosing(answers):
            async for _ in answers:
                return Ending(is_answered=True)
    except PluginError as error:
        text = f"{error.kind} {error.reason}".strip()[:_MAX_ERROR_CHARS]
        return Ending(is_answered=bool(error.kind), text=text)
    except ModelyardError as error:
        return Ending(is_answered=False, text=str(error)[:_MAX_ERROR_CHARS])
    except TimeoutError:
        return Ending(is_answered=False, text=f"no answer within {seconds:g} s")
    # A session that ends without a message was served, too.
    return Ending(is_answered=True)


class PlainPlugin:
    """A plugin's process, with its connection."""

    def __init__(
        self, process: asyncio.subprocess.Process, connection: PluginConnection
    ) -> None:
        self._process = process
        self._connection = connection

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def call(self, call: PluginCall) -> AsyncGenerator[JSON, None]:
        """Send a call and stream the answers. Raises PluginError."""
        return self._connection.call(call)

    async def wait_until_ready(self) -> None:
        """Wait for the first heartbeat. Raises PluginError if the process exits before
        it, or takes too long."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                await asyncio.shield(self._connection.ready)
        except TimeoutError:
            raise PluginError(f"Not ready within {_START_SECONDS:g} s") from None


@asynccontextmanager
async def plain_plugin(
    folder: Path, python: Path, module: str
) -> AsyncGenerator[PlainPlugin]:
    """Start a plugin that lies in `folder` and yield it; its process ends with the
    block. `module` is its entry point."""
    with tempfile.TemporaryDirectory(prefix="modelyard-plain-") as home:
        process = await asyncio.create_subprocess_exec(
            str(python),
            "-m",
            module,
            cwd=folder,
            env=_variables(Path(home)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        writer = process.stdin
        assert writer is not None
        connection = PluginConnection(
            folder.name, writer.write, _NoServices(), time.monotonic
        )
        reading = asyncio.ensure_future(_read(process, connection))
        try:
            yield PlainPlugin(process, connection)
        finally:
            # Plugins start processes of their own, which are in the same session.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            reading.cancel()


def _variables(home: Path) -> Mapping[str, str]:
    """Return the variables of a plain process, with a home folder that it may fill."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "TMPDIR": str(home),
        "INSTALL_METHOD": "local",
        "PYTHONUNBUFFERED": "1",
        # The plugin's folder is used again.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


async def _read(
    process: asyncio.subprocess.Process, connection: PluginConnection
) -> None:
    """Pass the output of a process to its connection until it ends."""
    stdout, stderr = process.stdout, process.stderr
    assert stdout is not None
    assert stderr is not None
    errors = asyncio.ensure_future(_last_text(stderr))
    while data := await stdout.read(65_536):
        connection.feed(data)
    text = await errors
    connection.end(PluginDiedError(f"Exited: {text[-_MAX_ERROR_CHARS:]}"))


async def _last_text(stream: asyncio.StreamReader) -> str:
    """Read a stream to its end and return its last part."""
    text = b""
    while data := await stream.read(65_536):
        text = (text + data)[-8192:]
    return text.decode("utf-8", "replace").strip()


async def plain_environment(folder: Path, target: Path, python: Path) -> Path:
    """Create the environment of a plugin's requirements as its author would, with
    everything that installers can do, and return its Python. `python` is the
    interpreter that it is based on.

    Raises PluginError with the end of uv's output.
    """
    project = target / "project"
    shutil.copytree(folder, project, symlinks=True)
    command = [uv_path(), "sync", "--frozen", "--no-dev", "--no-install-project"]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--python",
        str(python),
        cwd=project,
        env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(target / "environment")},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, output = await process.communicate()
    if process.returncode:
        text = output.decode("utf-8", "replace").strip()
        raise PluginError(f"uv: {text[-_MAX_ERROR_CHARS:]}")
    return target / "environment" / "bin" / "python"
