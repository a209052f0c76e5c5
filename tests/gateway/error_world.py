"""A gateway with providers of four formats whose answers are scripted, and a caller of
each API."""

import http.client
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.testing import (
    Answer,
    Handler,
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    json_answer,
)
from tests.gateway.conftest import Running

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
KEY = "key-of-the-caller"
WIRES = {
    "oai": "openai",
    "ant": "anthropic",
    "gem": "gemini",
    "rsp": "openai_responses",
}
USUAL = {"x-modelyard-cache": "off"}
"""A header with which a request takes the usual way; it changes nothing else here."""
DIRECT: dict[str, str] = {}
"""No header: a plain chat is answered directly."""


class Reply:
    """A response of the gateway that has been read."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """The server-sent events as (name, data); `[DONE]` stays a text."""
        blocks = self.body.decode().split("\n\n")
        events = [_event_of(block) for block in blocks]
        return [(name, _data_of(data)) for name, data in events if data]


def _event_of(block: str) -> tuple[str, str]:
    """Return the name and the data of a server-sent event; empty if it has none."""
    name, data = "", ""
    for line in block.split("\n"):
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
    return name, data


def _data_of(text: str) -> Any:
    """Return the data of an event: JSON, or the text `[DONE]`."""
    return text if text == "[DONE]" else json.loads(text)


class World:
    """A gateway, one upstream for all providers, and a caller."""

    def __init__(
        self,
        start_gateway: Start,
        upstream: Play,
        *,
        keys: Iterable[str] = ("a",),
        **changes: Any,
    ) -> None:
        self.upstream = upstream(self.answer)
        self.script: list[Answer] = []
        self.by_path: dict[str, Answer] = {}
        self.lock = threading.Lock()
        settings = [
            ProviderSettings(
                name=name,
                base_url=self.upstream.url,
                wire=wire,
                credentials=[
                    CredentialSettings(name=key, values={"api_key": f"sk-{key}"})
                    for key in keys
                ],
            )
            for name, wire in WIRES.items()
        ]
        self.running = start_gateway(providers=settings, api_keys=[KEY], **changes)

    def answer(self, request: UpstreamRequest) -> Answer:
        """Return the answer for a path, else the next one of the script, else a usual
        one."""
        for path, answer in self.by_path.items():
            if request.path.endswith(path):
                return answer
        with self.lock:
            if self.script:
                return self.script.pop(0)
        if request.body and request.json.get("stream"):
            return stream(chat_events(["he", "llo"]))
        return chat_answer("hello")

    def call(
        self, path: str, document: Any, headers: dict[str, str] | None = None
    ) -> Reply:
        """Send a request with a JSON body and return the response."""
        return self.send(path, json.dumps(document), "application/json", headers)

    def send(
        self,
        path: str,
        body: str,
        content_type: str,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Send a request and return the response."""
        host = self.running.origin.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=30)
        sent = {"authorization": f"Bearer {KEY}", "content-type": content_type}
        try:
            connection.request("POST", path, body, {**sent, **(headers or {})})
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def chat(self, model: str, headers: dict[str, str] | None = None, **fields: Any):
        """Send a chat in OpenAI's format."""
        messages = [{"role": "user", "content": "hi"}]
        document = {"model": model, "messages": messages, **fields}
        return self.call("/v1/chat/completions", document, headers)

    def messages(
        self, model: str, headers: dict[str, str] | None = None, **fields: Any
    ):
        """Send a chat in Anthropic's format."""
        messages = [{"role": "user", "content": "hi"}]
        document = {"model": model, "max_tokens": 50, "messages": messages, **fields}
        return self.call("/v1/messages", document, headers)

    def responses(
        self, model: str, headers: dict[str, str] | None = None, **fields: Any
    ):
        """Send a chat in the format of OpenAI's Responses API."""
        document = {"model": model, "input": "hi", **fields}
        return self.call("/v1/responses", document, headers)

    def gemini(
        self,
        model: str,
        headers: dict[str, str] | None = None,
        *,
        is_stream: bool = False,
    ):
        """Send a chat in Google's format."""
        contents = [{"role": "user", "parts": [{"text": "hi"}]}]
        action = "streamGenerateContent?alt=sse" if is_stream else "generateContent"
        path = f"/v1beta/models/{model}:{action}"
        return self.call(path, {"contents": contents}, headers)

    @property
    def direct_calls(self) -> int:
        """How many calls the gateway has sent directly."""
        return self.running.yard.services.calls.direct.sent

    @property
    def paths(self) -> list[str]:
        """The paths that the upstream was asked for."""
        return [request.path for request in self.upstream.requests]


def stream(pieces: list[bytes], fault: str = "") -> Answer:
    """Return a streamed response of server-sent events."""
    return Answer(
        headers={"content-type": "text/event-stream"}, pieces=pieces, fault=fault
    )


def event(document: Any, name: str = "") -> bytes:
    """Return one server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(document)}\n\n".encode()


def openai_error(
    message: str, *, status: int = 400, code: Any = None, **fields: Any
) -> Answer:
    """Return an error response in OpenAI's format."""
    error = {"message": message, "type": "invalid_request_error", "code": code}
    return json_answer({"error": {**error, **fields}}, status=status)


def anthropic_error(status: int, error_type: str, message: str) -> Answer:
    """Return an error response in Anthropic's format."""
    error = {"type": error_type, "message": message}
    return json_answer({"type": "error", "error": error}, status=status)


def gemini_error(code: int, status: str, message: str) -> Answer:
    """Return an error response in Google's format."""
    error = {"code": code, "message": message, "status": status}
    return json_answer({"error": error}, status=code)
