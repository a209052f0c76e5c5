"""A model's own process: loads one engine, answers what comes over its socket, ends with its parent.

Started as `python -m modelyard.providers.local.worker FD`. Whatever the engine prints goes to standard error.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeError, InvokeServerUnavailableError
from modelyard.providers.local.messages import (
    HEADER,
    Ask,
    Cancel,
    End,
    Failure,
    FromProcess,
    Load,
    Piece,
    Ready,
    ToProcess,
    pack,
)


class Engine(Protocol):
    """What runs one kind of model. `parallel` calls of `answer` may run at once."""

    parallel: int

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None: ...

    def answer(self, method: str, payload: Any, is_cancelled: Callable[[], bool]) -> Iterable[Any]:
        """Yields pieces of an answer. Raises InvokeError for what the caller did wrong."""
        ...


class Worker:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._decoder = msgspec.msgpack.Decoder(ToProcess)
        self._sending = threading.Lock()
        self._cancelled: set[int] = set()

    def run(self) -> None:
        load = self._receive()
        if not isinstance(load, Load):
            return
        begun = time.monotonic()
        try:
            engine = engine_class(load.engine)(load.files, load.options)
        except Exception as error:  # noqa: BLE001  foreign code: whatever an engine says while it loads
            self._send(Failure(id=0, kind=_kind(error), message=f"{type(error).__name__}: {error}"))
            return
        self._send(Ready(seconds=time.monotonic() - begun))
        pool = ThreadPoolExecutor(engine.parallel)
        while (message := self._receive()) is not None:
            match message:
                case Ask():
                    pool.submit(self._answer, engine, message)
                case Cancel():
                    self._cancelled.add(message.id)
                case Load():
                    pass

    def _answer(self, engine: Engine, ask: Ask) -> None:
        def is_cancelled() -> bool:
            return ask.id in self._cancelled

        try:
            if not is_cancelled():
                for data in engine.answer(ask.method, ask.payload, is_cancelled):
                    if is_cancelled():
                        break
                    self._send(Piece(id=ask.id, data=data))
            self._send(End(id=ask.id))
        except Exception as error:  # noqa: BLE001  foreign code: an engine's own errors are many
            name = type(error).__name__
            said = str(error) if isinstance(error, InvokeError) else f"the model failed: {name}: {error}"
            self._send(Failure(id=ask.id, kind=_kind(error), message=said))
        finally:
            self._cancelled.discard(ask.id)

    def _send(self, message: FromProcess) -> None:
        with self._sending:
            self._connection.sendall(pack(message))

    def _receive(self) -> ToProcess | None:
        head = self._read(HEADER.size)
        body = self._read(HEADER.unpack(head)[0]) if head else b""
        return self._decoder.decode(body) if body else None

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._connection.recv(min(size - len(data), 1 << 20))
            if not piece:
                return b""
            data += piece
        return bytes(data)


def engine_class(name: str) -> type[Engine]:
    return import_module(f"modelyard.providers.local.engines.{name}").Engine


def _kind(error: Exception) -> str:
    if isinstance(error, InvokeError):
        return type(error).__name__
    if isinstance(error, ValueError | TypeError):
        return InvokeBadRequestError.__name__
    return InvokeServerUnavailableError.__name__


def _die_with_parent() -> None:
    """On Linux the kernel ends us with our parent, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def main() -> None:
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the server decides when we end
    connection = socket.socket(fileno=int(sys.argv[1]))
    os.dup2(2, 1)
    with suppress(BrokenPipeError, ConnectionResetError):
        Worker(connection).run()
    # Engines keep threads of their own that do not end when asked.
    os._exit(0)


if __name__ == "__main__":
    main()
