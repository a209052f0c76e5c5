"""llama.cpp through xllamacpp: chat with streaming, grammars, a prompt cache and
concurrent requests."""

import http.client  # noqa: TID251
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xllamacpp as _xllamacpp

from modelyard.base.errors import (
    ContextTooLongError,
    InvokeBadRequestError,
    InvokeServerUnavailableError,
    TokenCounts,
)
from modelyard.base.json_types import JsonValue

xllamacpp: Any = _xllamacpp  # a C extension without a word about its types


class Engine:
    """Runs a chat model with llama.cpp. `files` has the GGUF file under `model`."""

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        # One thread more than slots, so that tokens can be counted while all slots
        # generate.
        self.parallel = int(options["parallel"]) + 1
        self._socket = str(Path(options["folder"]) / "llama.sock")
        parameters = xllamacpp.CommonParams()
        parameters.model.path = files["model"]
        parameters.n_parallel = int(options["parallel"])
        # The slots share the context equally.
        parameters.n_ctx = int(options["context"]) * parameters.n_parallel
        # The progress of reading a prompt is told after each batch. On a processor larger
        # ones are not faster.
        parameters.n_batch = 256
        parameters.use_jinja = True
        parameters.verbosity = -1
        # A warm-up run would delay loading.
        parameters.warmup = False
        # The default is a TCP port on the loopback interface, which every user of this
        # machine could call. A Unix socket in our own folder is private.
        parameters.hostnames = [self._socket]
        for cpu in (parameters.cpuparams, parameters.cpuparams_batch):
            cpu.n_threads = int(options["threads"])
            cpu.poll = 0  # spinning at barriers collapses as soon as another process wants the core
        self._context_reason = str(options["context_reason"])
        self._server = xllamacpp.Server(parameters)

    def answer(
        self, method: str, payload: Any, is_cancelled: Callable[[], bool]
    ) -> Iterator[Any]:
        """Yield the token count (`count`) or the events of a chat completion."""
        if method == "count":
            yield self._count(payload)
        else:
            yield from self._chat(payload, is_cancelled)

    def _chat(
        self, body: dict[str, Any], is_cancelled: Callable[[], bool]
    ) -> Iterator[dict[str, Any]]:
        """Yield the events of a chat completion in llama.cpp's server format.

        `body` is an OpenAI request. Closing the iterator, or `is_cancelled`, ends the
        generation at the next token. Raises the InvokeError for an error that llama.cpp
        reports.
        """
        # llama.cpp delivers events through a callback; the queue turns that into an
        # iterator.
        events: queue.SimpleQueue[JsonValue | Exception] = queue.SimpleQueue()
        is_abandoned = threading.Event()

        def on_event(event: Any) -> bool:
            """Queue an event; return True to stop the generation."""
            events.put(event)
            return is_abandoned.is_set() or is_cancelled()  # true ends the generation

        def run() -> None:
            """Run the request. Ends the queue with None, after the exception if there
            was one."""
            try:
                # Reading a long prompt takes minutes, in which nothing would come.
                asked = {**body, "return_progress": bool(body.get("stream"))}
                events.put(self._server.handle_chat_completions(asked, on_event))
            except Exception as error:  # noqa: BLE001
                events.put(error)
            events.put(None)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            while (event := events.get()) is not None:
                for item in event if isinstance(event, list) else [event]:
                    checked = self._check_event(item)
                    # Only shows that a long prompt is being read.
                    checked.pop("prompt_progress", None)
                    yield checked
        finally:
            # The callback sees the flag at the next token, so the thread ends soon.
            is_abandoned.set()
            thread.join()

    def _count(self, body: dict[str, Any]) -> int:
        """Return the number of tokens of the prompt that the chat template renders."""
        # The prompt must be counted as the model's own chat template renders it.
        prompt = self._post("/apply-template", body)["prompt"]
        return len(
            self._post("/tokenize", {"content": prompt, "add_special": True})["tokens"]
        )

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request over llama.cpp's Unix socket; return the JSON response.

        Raises the InvokeError for an error that it reports.
        """
        connection = _UnixConnection(self._socket)
        try:
            connection.request("POST", path, json.dumps(body))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return self._check_event(answer)

    def _check_event(self, event: JsonValue | Exception) -> dict[str, Any]:
        """Return an event of llama.cpp. Raises the InvokeError for an error that it
        reports."""
        return _check_event(event, self._context_reason)


class _UnixConnection(http.client.HTTPConnection):  # noqa: TID251
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect to the Unix socket instead of a TCP port."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def _check_event(
    event: JsonValue | Exception, context_reason: str = ""
) -> dict[str, Any]:
    """Return an event of llama.cpp. Raises the InvokeError for an error that it
    reports. `context_reason`: why the context has its size."""
    if isinstance(event, Exception):
        # llama.cpp's binding raises ValueError for invalid requests.
        raise (
            InvokeBadRequestError(str(event))
            if isinstance(event, ValueError)
            else event
        )
    if not isinstance(event, dict):
        raise InvokeServerUnavailableError("llama.cpp sent an invalid event")
    error = event.get("error")
    if not error:
        return event
    message = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error":
        counts = TokenCounts(error.get("n_prompt_tokens"), limit=error.get("n_ctx"))
        raise ContextTooLongError(
            f"The request has {counts.input} tokens; the model's context is limited to"
            f" {counts.limit} {context_reason}".rstrip(),
            tokens=counts,
        )
    # The code is an HTTP status: below 500 the request is at fault.
    if int(error.get("code") or 500) < 500:
        raise InvokeBadRequestError(message)
    raise InvokeServerUnavailableError(message)
