"""llama.cpp, through xllamacpp: chat with streaming, grammars, a prompt cache and several requests at once."""

import http.client  # noqa: TID251 - to a socket of this machine's file system
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xllamacpp as _xllamacpp

from modelyard.base.errors import ContextTooLongError, InvokeBadRequestError, InvokeServerUnavailableError

xllamacpp: Any = _xllamacpp  # a C extension without a word about its types


class Engine:
    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        self.parallel = int(options["parallel"]) + 1  # one more, so that tokens can be counted while chats run
        self._socket = str(Path(options["folder"]) / "llama.sock")
        parameters = xllamacpp.CommonParams()
        parameters.model.path = files["model"]
        parameters.n_parallel = int(options["parallel"])
        parameters.n_ctx = int(options["context"]) * parameters.n_parallel  # the slots share it out evenly
        parameters.use_jinja = True
        parameters.verbosity = -1
        parameters.warmup = False
        # By default it would listen on a TCP port of loopback, where anybody on this machine could call it.
        parameters.hostnames = [self._socket]
        for cpu in (parameters.cpuparams, parameters.cpuparams_batch):
            cpu.n_threads = int(options["threads"])
            cpu.poll = 0  # spinning at barriers collapses as soon as another process wants the core
        self._server = xllamacpp.Server(parameters)

    def answer(self, method: str, payload: Any, is_cancelled: Callable[[], bool]) -> Iterator[Any]:
        if method == "count":
            yield self._count(payload)
        else:
            yield from self._chat(payload, is_cancelled)

    def _chat(self, body: dict[str, Any], is_cancelled: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        is_left = threading.Event()

        def on_event(event: Any) -> bool:
            events.put(event)
            return is_left.is_set() or is_cancelled()  # true ends the generation

        def run() -> None:
            try:
                events.put(self._server.handle_chat_completions(body, on_event))
            except Exception as error:  # noqa: BLE001  foreign code
                events.put(error)
            events.put(None)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            while (event := events.get()) is not None:
                for one in event if isinstance(event, list) else [event]:
                    yield _checked(one)
        finally:
            is_left.set()
            thread.join()

    def _count(self, body: dict[str, Any]) -> int:
        prompt = self._post("/apply-template", body)["prompt"]
        return len(self._post("/tokenize", {"content": prompt, "add_special": True})["tokens"])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection = _UnixConnection(self._socket)
        try:
            connection.request("POST", path, json.dumps(body))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return _checked(answer)


class _UnixConnection(http.client.HTTPConnection):  # noqa: TID251
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def _checked(event: Any) -> dict[str, Any]:
    """An event of llama.cpp's. Raises our error for what it says went wrong."""
    if isinstance(event, Exception):
        raise InvokeBadRequestError(str(event)) if isinstance(event, ValueError) else event
    if not isinstance(event, dict):
        raise InvokeServerUnavailableError("llama.cpp sent something that is no event")
    error = event.get("error")
    if not error:
        return event
    message = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error":
        raise ContextTooLongError(
            f"the request has {error.get('n_prompt_tokens')} tokens; the model's context holds {error.get('n_ctx')}"
        )
    if int(error.get("code") or 500) < 500:
        raise InvokeBadRequestError(message)
    raise InvokeServerUnavailableError(message)
