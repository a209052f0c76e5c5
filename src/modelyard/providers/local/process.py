"""The server's side of a model's process: start it, ask it, notice when it dies, stop it."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator
from typing import IO, Any

import msgspec

from modelyard.base import errors
from modelyard.base.errors import InvokeError, InvokeServerUnavailableError, InvokeTimeoutError
from modelyard.providers.local.messages import (
    HEADER,
    MAX_MESSAGE,
    Ask,
    Cancel,
    End,
    Failure,
    FromProcess,
    Load,
    Piece,
    Ready,
    pack,
)

_LOAD_SECONDS = 120.0
_KINDS: dict[str, type[InvokeError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, InvokeError)
}


class ModelProcess:
    """One engine, loaded, in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.load_seconds = 0.0
        self._answers: dict[int, asyncio.Queue[Any]] = {}
        self._last = 0
        self._decoder = msgspec.msgpack.Decoder(FromProcess)
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._log: IO[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None and self._writer is not None

    async def start(self, load: Load) -> None:
        """Raises InvokeServerUnavailableError where the engine does not load; nothing is left running then."""
        try:
            reader = await self._spawn(load)
            self.load_seconds = await self._loaded(reader)
        except BaseException:
            await self.stop()
            raise
        self._listening = asyncio.create_task(self._listen(reader), name=f"listen to {self.name}")

    async def _spawn(self, load: Load) -> asyncio.StreamReader:
        """Start the process and tell it what to load."""
        # Ours to clean up: the process may be killed at any time.
        self._folder = tempfile.TemporaryDirectory(prefix="modelyard-")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        load = msgspec.structs.replace(load, options={**load.options, "folder": self._folder.name})
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 20)  # noqa: TID251
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "modelyard.providers.local.worker", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=_environment(load.options),
            )
        self._writer.write(pack(load))
        return reader

    async def _loaded(self, reader: asyncio.StreamReader) -> float:
        """Seconds that the engine took to load. Raises InvokeServerUnavailableError where it did not."""
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                message = await self._receive(reader)
        except TimeoutError:
            said = f"model {self.name!r} did not load within {_LOAD_SECONDS:.0f} s"
            raise InvokeTimeoutError(said, provider="local") from None
        if isinstance(message, Ready):
            return message.seconds
        said = message.message if isinstance(message, Failure) else await self._end()
        raise InvokeServerUnavailableError(f"model {self.name!r} does not load: {said}", provider="local")

    async def ask(self, method: str, payload: Any) -> AsyncGenerator[Any, None]:
        """The pieces of an answer. Closing the generator cancels the call in the process.

        Raises the InvokeError that the engine raised, or InvokeServerUnavailableError where the process dies.
        """
        if not self.is_alive or self._writer is None:
            raise await self._death()
        self._last += 1
        number = self._last
        answers: asyncio.Queue[Any] = asyncio.Queue()
        self._answers[number] = answers
        is_over = False
        try:
            self._writer.write(pack(Ask(id=number, method=method, payload=payload)))
            while True:
                match await answers.get():
                    case Piece(data=data):
                        yield data
                    case End():
                        is_over = True
                        return
                    case Failure() as failure:
                        is_over = True
                        raise _KINDS.get(failure.kind, InvokeServerUnavailableError)(failure.message, provider="local")
                    case _:
                        is_over = True
                        raise await self._death()
        finally:
            del self._answers[number]
            if not is_over and self.is_alive:
                self._writer.write(pack(Cancel(id=number)))

    async def stop(self) -> None:
        """End the process and wait for it."""
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
        if self._listening is not None:
            await self._listening
        if self._log is not None:
            self._log.close()
        if self._folder is not None:
            self._folder.cleanup()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while (message := await self._receive(reader)) is not None:
                if isinstance(message, Piece | End | Failure) and (waiting := self._answers.get(message.id)):
                    waiting.put_nowait(message)
        except (OSError, msgspec.DecodeError):
            pass
        finally:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
            for waiting in self._answers.values():
                waiting.put_nowait(None)

    async def _receive(self, reader: asyncio.StreamReader) -> FromProcess | None:
        try:
            (size,) = HEADER.unpack(await reader.readexactly(HEADER.size))
            if size > MAX_MESSAGE:
                return None
            return self._decoder.decode(await reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def _end(self) -> str:
        """How the process ended, in words."""
        if self._process is None:
            return "it was never started"
        code = await self._process.wait()
        how = f"it was killed by signal {-code}" if code < 0 else f"it ended with status {code}"
        return f"{how}{self._last_line()}"

    async def _death(self) -> InvokeServerUnavailableError:
        return InvokeServerUnavailableError(
            f"the process of model {self.name!r} is gone: {await self._end()}", provider="local"
        )

    def _last_line(self) -> str:
        if self._log is None or self._log.closed:
            return ""
        self._log.seek(0)
        lines = self._log.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""


def _environment(options: dict[str, Any]) -> dict[str, str]:
    """An allow-list: an engine needs no key of anybody's. Thread pools of numpy and its kin are held down too."""
    kept = {
        name: os.environ[name]
        for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH")
        if name in os.environ
    }
    threads = str(options.get("threads", 1))
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**kept, **dict.fromkeys(pools, threads), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def default_threads() -> int:
    """Half the cores we may use: llama.cpp's threads wait for each other, and one without a core stops them all."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, available // 2)
