"""The server's side of a model's process: start it, call it, detect its exit, stop it."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator
from typing import IO, Any

import msgspec

from modelyard.base import errors
from modelyard.base.errors import (
    ContextTooLongError,
    InvokeError,
    InvokeServerUnavailableError,
    InvokeTimeoutError,
)
from modelyard.providers.local.messages import (
    HEADER,
    MAX_MESSAGE,
    CallEnd,
    CallRequest,
    Cancel,
    Failure,
    FromProcess,
    Load,
    Ready,
    ResultChunk,
    pack,
)

# Models have gigabytes, and the disk may be slow.
_LOAD_SECONDS = 120.0
# Error classes by name, to raise what the engine raised.
_ERROR_CLASSES: dict[str, type[InvokeError]] = {
    name: error_class
    for name, error_class in vars(errors).items()
    if isinstance(error_class, type) and issubclass(error_class, InvokeError)
}


class ModelProcess:
    """One loaded engine in its own process. Calls may run concurrently."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.load_seconds = 0.0
        # Response queue of each running call, by call id.
        self._response_queues: dict[int, asyncio.Queue[Any]] = {}
        self._last_call_id = 0
        self._decoder = msgspec.msgpack.Decoder(FromProcess)
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener_task: asyncio.Task[None] | None = None
        self._log: IO[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None before the start."""
        return self._process.pid if self._process else None

    @property
    def is_alive(self) -> bool:
        """Whether the process runs and its connection is open."""
        return (
            self._process is not None
            and self._process.returncode is None
            and self._writer is not None
        )

    async def start(self, load: Load) -> None:
        """Start the process and load its engine.

        Raises InvokeServerUnavailableError if that fails; no process is left behind
        then.
        """
        try:
            reader = await self._spawn(load)
            self.load_seconds = await self._wait_until_loaded(reader)
        except BaseException:
            await self.stop()
            raise
        self._listener_task = asyncio.create_task(
            self._listen(reader), name=f"listen to {self.name}"
        )

    async def _spawn(self, load: Load) -> asyncio.StreamReader:
        """Start the process and send it what to load."""
        # Created here, because the process may be killed and could not delete its own
        # folder.
        self._folder = tempfile.TemporaryDirectory(prefix="modelyard-")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        load = msgspec.structs.replace(
            load, options={**load.options, "folder": self._folder.name}
        )
        # A socket pair needs no address, so nobody else can connect.
        server_socket, worker_socket = socket.socketpair()
        # The worker's end is closed here; otherwise its exit would not be noticed.
        with worker_socket:
            server_socket.setblocking(False)
            reader, self._writer = await asyncio.open_connection(  # noqa: TID251
                sock=server_socket, limit=1 << 20
            )
            self._process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "modelyard.providers.local.worker",
                    str(worker_socket.fileno()),
                ),
                pass_fds=[worker_socket.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=_environment(load.options),
            )
        self._writer.write(pack(load))
        return reader

    async def _wait_until_loaded(self, reader: asyncio.StreamReader) -> float:
        """Wait until the engine is loaded and return the seconds that it took.

        Raises InvokeServerUnavailableError if it fails, InvokeTimeoutError after two
        minutes.
        """
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                message = await self._receive(reader)
        except TimeoutError:
            reason = f"Model {self.name!r} was not loaded within {_LOAD_SECONDS:.0f} s"
            raise InvokeTimeoutError(reason, provider="local") from None
        if isinstance(message, Ready):
            return message.seconds
        reason = (
            message.message
            if isinstance(message, Failure)
            else await self._exit_reason()
        )
        raise InvokeServerUnavailableError(
            f"Model {self.name!r} could not be loaded: {reason}", provider="local"
        )

    async def call(self, method: str, payload: Any) -> AsyncGenerator[Any, None]:
        """Yield the parts of a call's result. Closing the generator cancels the call in
        the process.

        Raises the InvokeError that the engine raised, or InvokeServerUnavailableError
        if the process exits.
        """
        if not self.is_alive or self._writer is None:
            raise await self._exit_error()
        self._last_call_id += 1
        number = self._last_call_id
        answers: asyncio.Queue[Any] = asyncio.Queue()
        self._response_queues[number] = answers
        is_over = False
        try:
            self._writer.write(
                pack(CallRequest(id=number, method=method, payload=payload))
            )
            while True:
                match await answers.get():
                    case ResultChunk(data=data):
                        yield data
                    case CallEnd():
                        is_over = True
                        return
                    case Failure() as failure:
                        is_over = True
                        raise error_of(failure)
                    # None in the queue means that the process has exited.
                    case _:
                        is_over = True
                        raise await self._exit_error()
        finally:
            del self._response_queues[number]
            # The consumer stopped early, so the engine need not finish.
            if not is_over and self.is_alive:
                self._writer.write(pack(Cancel(id=number)))

    async def stop(self) -> None:
        """Kill the process and wait for its exit."""
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
        # The listener ends by itself, because the connection is closed.
        if self._listener_task is not None:
            await self._listener_task
        if self._log is not None:
            self._log.close()
        if self._folder is not None:
            self._folder.cleanup()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Pass each message of the process to the call that waits for it.

        Ends when the connection does; all waiting calls are told then, and new ones
        fail at once.
        """
        try:
            while (message := await self._receive(reader)) is not None:
                if isinstance(message, ResultChunk | CallEnd | Failure) and (
                    waiting := self._response_queues.get(message.id)
                ):
                    waiting.put_nowait(message)
        except (OSError, msgspec.DecodeError):
            pass
        finally:
            # Without a writer `is_alive` is false, so new calls fail at once.
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
            # Wakes all calls that still wait for a result.
            for waiting in self._response_queues.values():
                waiting.put_nowait(None)

    async def _receive(self, reader: asyncio.StreamReader) -> FromProcess | None:
        """Return the next message of the process; None at the end of the connection.

        A length beyond the maximum counts as the end, too. Raises msgspec.DecodeError
        for a malformed message.
        """
        try:
            (size,) = HEADER.unpack(await reader.readexactly(HEADER.size))
            # Such a length means that the stream is out of step.
            if size > MAX_MESSAGE:
                return None
            return self._decoder.decode(await reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def _exit_reason(self) -> str:
        """Describe how the process ended."""
        if self._process is None:
            return "it was never started"
        code = await self._process.wait()
        exit_description = (
            f"it was killed by signal {-code}"
            if code < 0
            else f"it exited with status {code}"
        )
        return f"{exit_description}{self._last_line()}"

    async def _exit_error(self) -> InvokeServerUnavailableError:
        """Return the error for a call whose process has exited, with the reason."""
        return InvokeServerUnavailableError(
            f"The process of model {self.name!r} has exited:"
            f" {await self._exit_reason()}",
            provider="local",
        )

    def _last_line(self) -> str:
        """Return the last line of the process's log, in parentheses; may be empty."""
        if self._log is None or self._log.closed:
            return ""
        self._log.seek(0)
        lines = self._log.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""


def _environment(options: dict[str, Any]) -> dict[str, str]:
    """Return the environment of the process: only listed variables, since an engine
    needs no keys.

    It also limits the thread pools of numpy and similar libraries.
    """
    environment = {
        name: os.environ[name]
        for name in (
            "PATH",
            "HOME",
            "LANG",
            "LC_ALL",
            "TMPDIR",
            "LD_LIBRARY_PATH",
            "VIRTUAL_ENV",
            "PYTHONPATH",
        )
        if name in os.environ
    }
    threads = str(options.get("threads", 1))
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    # Weights come from the store only; Hugging Face libraries must not download any.
    return {
        **environment,
        **dict.fromkeys(pools, threads),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def default_threads() -> int:
    """Return half of the available cores.

    llama.cpp's threads wait for each other, so a single thread without a core stops all
    of them.
    """
    available = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 2
    )
    return max(1, available // 2)


def error_of(failure: Failure) -> InvokeError:
    """Return what the engine raised."""
    if failure.kind == ContextTooLongError.__name__:
        return ContextTooLongError(
            failure.message, provider="local", tokens=failure.tokens
        )
    error_class = _ERROR_CLASSES.get(failure.kind, InvokeServerUnavailableError)
    return error_class(failure.message, provider="local")
