"""The process of a model: loads one engine, serves calls over its socket, exits with
its parent.

Started as `python -m modelyard.providers.local.worker FD`. Anything that the engine
prints goes to standard error.
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

from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeError,
    InvokeServerUnavailableError,
)
from modelyard.providers.local.messages import (
    HEADER,
    CallEnd,
    CallRequest,
    Cancel,
    Failure,
    FromProcess,
    Load,
    Ready,
    ResultChunk,
    ToProcess,
    pack,
)


class Engine(Protocol):
    """Runs one type of model. Up to `parallel` calls of `answer` may run concurrently,
    in threads."""

    parallel: int

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None: ...

    def answer(
        self, method: str, payload: Any, is_cancelled: Callable[[], bool]
    ) -> Iterable[Any]:
        """Yield the parts of a result. Raises InvokeError for mistakes of the caller."""
        ...


class Worker:
    """Serves one engine over a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._decoder = msgspec.msgpack.Decoder(ToProcess)
        # Calls run in several threads, but messages must not be interleaved.
        self._sending = threading.Lock()
        self._cancelled: set[int] = set()

    def run(self) -> None:
        """Load the engine, then serve calls until the connection is closed."""
        load = self._receive()
        if not isinstance(load, Load):
            # Without a Load message the parent has exited or is not ours.
            return
        started_at = time.monotonic()
        try:
            engine = engine_class(load.engine)(load.files, load.options)
        except Exception as error:  # noqa: BLE001
            self._send_message(
                Failure(
                    id=0,
                    kind=_error_class_name(error),
                    message=f"{type(error).__name__}: {error}",
                )
            )
            return
        self._send_message(Ready(seconds=time.monotonic() - started_at))
        pool = ThreadPoolExecutor(engine.parallel)
        while (message := self._receive()) is not None:
            match message:
                case CallRequest():
                    pool.submit(self._answer, engine, message)
                case Cancel():
                    self._cancelled.add(message.id)
                case Load():
                    pass

    def _answer(self, engine: Engine, ask: CallRequest) -> None:
        """Run one call of the engine and send its results, then its end or its error.

        A cancelled call ends after its current result, without an error.
        """

        def is_cancelled() -> bool:
            """Return whether the parent has cancelled this call."""
            return ask.id in self._cancelled

        try:
            # The call may have been cancelled while it waited for a thread.
            if not is_cancelled():
                for data in engine.answer(ask.method, ask.payload, is_cancelled):
                    if is_cancelled():
                        break
                    self._send_message(ResultChunk(id=ask.id, data=data))
            self._send_message(CallEnd(id=ask.id))
        except Exception as error:  # noqa: BLE001
            name = type(error).__name__
            error_message = (
                str(error)
                if isinstance(error, InvokeError)
                else f"The model failed: {name}: {error}"
            )
            self._send_message(
                Failure(
                    id=ask.id,
                    kind=_error_class_name(error),
                    message=error_message,
                    tokens=getattr(error, "tokens", None),
                )
            )
        finally:
            self._cancelled.discard(ask.id)

    def _send_message(self, message: FromProcess) -> None:
        """Send a message; threads do so one after another."""
        with self._sending:
            self._connection.sendall(pack(message))

    def _receive(self) -> ToProcess | None:
        """Return the next message; None if the server has closed the connection."""
        head = self._read(HEADER.size)
        body = self._read(HEADER.unpack(head)[0]) if head else b""
        return self._decoder.decode(body) if body else None

    def _read(self, size: int) -> bytes:
        """Read exactly `size` bytes; empty if the connection was closed before."""
        data = bytearray()
        while missing := size - len(data):
            received = self._connection.recv(min(missing, 1 << 20))
            # An empty read means that the parent has closed the connection.
            if not received:
                return b""
            data += received
        return bytes(data)


def engine_class(name: str) -> type[Engine]:
    """Return the engine class of a module in `engines/`. Imported only here, since most
    engines are large."""
    return import_module(f"modelyard.providers.local.engines.{name}").Engine


def _error_class_name(error: Exception) -> str:
    """Return the name of the InvokeError class by which the server reports an error.

    A ValueError or TypeError of an engine counts as unusable input, other errors as a
    failure of the model.
    """
    if isinstance(error, InvokeError):
        return type(error).__name__
    # Engines raise these for unusable input.
    if isinstance(error, ValueError | TypeError):
        return InvokeBadRequestError.__name__
    return InvokeServerUnavailableError.__name__


def _die_with_parent() -> None:
    """Ask the Linux kernel to kill this process when its parent exits for any reason."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def main() -> None:
    """Run the worker on the file descriptor in the first argument."""
    _die_with_parent()
    # Ctrl-C reaches the whole group; the server decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    # The standard output is redirected, since engines print to it.
    os.dup2(2, 1)
    with suppress(BrokenPipeError, ConnectionResetError):
        Worker(connection).run()
    # Engines keep threads that would prevent a normal exit.
    os._exit(0)


if __name__ == "__main__":
    main()
