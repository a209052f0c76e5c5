"""Keep-alives of streams, in every format, and the official clients that skip them.

A plain HTTP client records a stream whose upstream is silent until the keep-alives have
come; then the recorded response is played to the official client.
"""

import asyncio
import gc
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import cohere
import httpx
import openai
import pytest
from google import genai
from google.genai import types

from modelyard.base.settings import (
    CredentialSettings,
    ProviderSettings,
    TimeoutSettings,
)
from modelyard.gateway.errors import KEEP_ALIVES
from modelyard.testing import Answer, Handler, Upstream, chat_events, error_answer
from tests.faults.upstream import events as upstream_events
from tests.gateway.conftest import Running

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
MODEL = "acme/m"
MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
CHAT = {"model": MODEL, "messages": MESSAGES, "stream": True}
GOOGLE_PATH = f"/v1beta/models/{MODEL}:streamGenerateContent"
COMMENT = b": keep-alive\n\n"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
# Format → path, request, keep-alive.
FORMATS: dict[str, tuple[str, Any, bytes]] = {
    "chat": ("/v1/chat/completions", CHAT, COMMENT),
    # The parameter makes the request one that is parsed.
    "parsed chat": ("/v1/chat/completions", {**CHAT, "n": 1}, COMMENT),
    "completions": (
        "/v1/completions",
        {"model": MODEL, "prompt": "hi", "stream": True},
        COMMENT,
    ),
    "responses": (
        "/v1/responses",
        {"model": MODEL, "input": "hi", "stream": True},
        COMMENT,
    ),
    "anthropic": ("/v1/messages", {**CHAT, "max_tokens": 50}, PING),
    "google": (f"{GOOGLE_PATH}?alt=sse", CONTENTS, b"\n\n"),
    "google's array": (GOOGLE_PATH, CONTENTS, b"\n"),
    "cohere": ("/v2/chat", CHAT, COMMENT),
}
pytestmark = [
    pytest.mark.proof("clients"),
    # Third-party libraries may emit warnings.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect garbage, so that unclosed connections are reported in their own test."""
    yield
    gc.collect()


class Script:
    """The pieces of an upstream's answer, each of which is sent when the test says so.

    Waiting blocks the upstream's thread, which serves a single request.
    """

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._permits = threading.Semaphore(0)

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.wait()
            yield piece
        self.wait()

    def wait(self) -> None:
        """Wait for the test."""
        assert self._permits.acquire(timeout=30)

    def go_on(self, count: int = 1) -> None:
        """Let further pieces be sent, or the answer end."""
        self._permits.release(count)


class Recorder:
    """A gateway in front of a scripted upstream, and the stream that it sends."""

    def __init__(
        self,
        start_gateway: Start,
        upstream: Play,
        *,
        wire: str = "openai",
        keep_alive: float = 0.05,
    ) -> None:
        self.server = upstream(lambda request: error_answer(500))
        provider = ProviderSettings(
            name="acme",
            base_url=self.server.url,
            wire=wire,
            credentials=[CredentialSettings(values={"api_key": "sk-canary"})],
            models=[{"name": "m", "context_size": 1000}],
        )
        self.running = start_gateway(
            providers=[provider], timeouts=TimeoutSettings(keep_alive=keep_alive)
        )

    def play(self, pieces: list[bytes], *, fault: str = "") -> None:
        """Let the upstream answer the next request with these pieces."""
        self.script = Script(pieces)
        answer = Answer(
            headers={"content-type": "text/event-stream"},
            pieces=self.script,  # type: ignore[arg-type]
            fault=fault,
        )
        self.server.handler = lambda request: answer

    def request(self, path: str, document: Any) -> http.client.HTTPResponse:
        """Send the request and read the head of the response."""
        host = self.running.origin.removeprefix("http://")
        self._connection = http.client.HTTPConnection(host, timeout=30)
        headers = {"content-type": "application/json"}
        self._connection.request("POST", path, json.dumps(document), headers)
        self.response = self._connection.getresponse()
        self.body = b""
        return self.response

    def start(self, path: str, document: Any) -> None:
        """Send a request that is answered with a stream."""
        response = self.request(path, document)
        assert response.status == 200

    def read_past(self, text: bytes, count: int = 1) -> bytes:
        """Read until `text` has come that many times; return what was read."""
        received = b""
        while received.count(text) < count:
            data = self.response.read1()
            assert data, received
            received += data
        self.body += received
        return received

    def finish(self) -> bytes:
        """Read the rest of the body and return all of it."""
        self.body += self.response.read()
        self.close()
        return self.body

    def close(self) -> None:
        """Close the connection, which the response has a part of."""
        self.response.close()
        self._connection.close()


def record(recorder: Recorder, name: str) -> bytes:
    """Return the body of a stream with keep-alives before and between its events."""
    path, document, keep_alive = FORMATS[name]
    recorder.start(path, document)
    first_bytes = recorder.read_past(keep_alive, 2)
    assert first_bytes.replace(keep_alive, b"") == b""
    # The role, and the first text.
    recorder.script.go_on(2)
    recorder.read_past(b'"he"')
    recorder.read_past(keep_alive, 2)
    recorder.script.go_on(20)
    return recorder.finish()


@pytest.fixture
def recorded(request: Any, start_gateway: Start, upstream: Play) -> bytes:
    """The body of a stream in the format that is the fixture's parameter."""
    recorder = Recorder(start_gateway, upstream)
    recorder.play(chat_events(["he", "llo"]))
    return record(recorder, request.param)


@pytest.fixture
def player(upstream: Play, recorded: bytes) -> Upstream:
    """A server that answers every request with the recorded stream."""
    # Cut after keep-alives, so that clients read them apart from the events.
    pieces = [
        piece + b"\n\n" for piece in recorded.removesuffix(b"\n\n").split(b"\n\n")
    ]
    answer = Answer(headers={"content-type": "text/event-stream"}, pieces=pieces)
    return upstream(lambda request: answer)


@pytest.mark.case("5.2")
def test_the_table_has_the_bytes_of_each_format():
    assert KEEP_ALIVES == {
        "openai": COMMENT,
        "anthropic": PING,
        "gemini": b"\n\n",
        "cohere": COMMENT,
    }


@pytest.mark.case("5.2")
@pytest.mark.parametrize("recorded", ["chat", "parsed chat"], indirect=True)
def test_openais_client_skips_them_in_a_chat(player: Upstream):
    with openai.OpenAI(base_url=player.url, api_key="none", max_retries=0) as client:
        chunks = list(
            client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert ("".join(texts), chunks[-1].choices[0].finish_reason) == ("hello", "stop")


@pytest.mark.parametrize("recorded", ["completions"], indirect=True)
def test_openais_client_skips_them_in_a_completion(player: Upstream):
    with openai.OpenAI(base_url=player.url, api_key="none", max_retries=0) as client:
        chunks = list(client.completions.create(model="m", prompt="hi", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "hello"


@pytest.mark.case("5.2")
@pytest.mark.parametrize("recorded", ["responses"], indirect=True)
def test_openais_client_skips_them_in_a_response(player: Upstream):
    with (
        openai.OpenAI(base_url=player.url, api_key="none", max_retries=0) as client,
        client.responses.stream(model="m", input="hi") as stream,
    ):
        types_of_events = [event.type for event in stream]
        assert stream.get_final_response().output_text == "hello"
    assert types_of_events[0] == "response.created"


@pytest.mark.case("5.2")
@pytest.mark.parametrize("recorded", ["anthropic"], indirect=True)
def test_anthropics_client_skips_them(player: Upstream):
    with (
        anthropic.Anthropic(
            base_url=player.url.removesuffix("/v1"), api_key="none", max_retries=0
        ) as client,
        client.messages.stream(model="m", max_tokens=5, messages=MESSAGES) as stream,
    ):
        assert "".join(stream.text_stream) == "hello"
        assert stream.get_final_message().stop_reason == "end_turn"


def google_client(player: Upstream) -> genai.Client:
    options = types.HttpOptions(base_url=player.url.removesuffix("/v1"))
    return genai.Client(api_key="none", http_options=options)


@pytest.mark.case("5.2")
@pytest.mark.parametrize("recorded", ["google"], indirect=True)
def test_googles_client_skips_them(player: Upstream):
    client = google_client(player)
    chunks = client.models.generate_content_stream(model="m", contents="hi")
    assert "".join(chunk.text or "" for chunk in chunks) == "hello"


@pytest.mark.parametrize("recorded", ["google"], indirect=True)
def test_googles_asynchronous_client_skips_them(player: Upstream):
    async def chat() -> str:
        client = google_client(player).aio
        stream = await client.models.generate_content_stream(model="m", contents="hi")
        return "".join([chunk.text or "" async for chunk in stream])

    assert asyncio.run(chat()) == "hello"


@pytest.mark.parametrize("recorded", ["google's array"], indirect=True)
def test_googles_array_stays_valid_json(recorded: bytes):
    texts = [
        part["text"]
        for response in json.loads(recorded)
        for part in response["candidates"][0]["content"].get("parts", ())
    ]
    assert "".join(texts) == "hello"


@pytest.mark.parametrize("recorded", ["cohere"], indirect=True)
def test_coheres_client_skips_them(player: Upstream):
    url = player.url.removesuffix("/v1")
    with httpx.Client() as connections:
        client = cohere.ClientV2(api_key="none", base_url=url, httpx_client=connections)
        events = list(client.chat_stream(model="m", messages=MESSAGES))
    texts = [
        event.delta.message.content.text
        for event in events
        if event.type == "content-delta"
    ]
    assert ("".join(texts), events[-1].type) == ("hello", "message-end")


def message_of(name: str, data: bytes) -> str:
    """Return the message of an error in a format."""
    document, end = json.JSONDecoder().raw_decode(data.decode())
    # In a stream Google's clients find the same error outside of events.
    rest = data.decode()[end:].strip()
    assert not rest or (name == "google" and json.loads(rest) == document)
    if name == "google's array":
        (document,) = document
    # In a stream that has begun, it stands in the last event's response or delta.
    if name == "cohere":
        return (
            document["delta"]["error"] if "delta" in document else document["message"]
        )
    return document.get("response", document)["error"]["message"]


# The names of the events with which a stream breaks off, in formats that have names.
LAST_EVENTS = {
    "anthropic": b"event: error",
    "responses": b"event: response.failed",
}


def test_an_error_after_a_keep_alive_is_the_last_event(
    start_gateway: Start, upstream: Play
):
    recorder = Recorder(start_gateway, upstream)
    for name, (path, document, keep_alive) in FORMATS.items():
        recorder.play([], fault="cut")
        recorder.start(path, document)
        recorder.read_past(keep_alive)
        recorder.script.go_on()
        body = recorder.finish().replace(keep_alive, b"").strip()
        # Nothing else is sent, in particular no end of the answer.
        earlier, _, data = body.rpartition(b"data: ")
        assert earlier.rstrip().endswith(LAST_EVENTS.get(name, b""))
        assert "closed" in message_of(name, data)
    statuses = [row.status for row in recorder.running.flush()]
    assert statuses == ["upstream_unreachable"] * len(FORMATS)


def test_an_early_error_has_its_own_status(start_gateway: Start, upstream: Play):
    recorder = Recorder(start_gateway, upstream, keep_alive=10.0)
    recorder.server.handler = lambda request: error_answer(400, "no such luck")
    for name, (path, document, _) in FORMATS.items():
        response = recorder.request(path, document)
        content_type = response.getheader("content-type")
        assert (name, response.status, content_type) == (name, 400, "application/json")
        message = message_of(name.removeprefix("google's "), recorder.finish())
        assert "no such luck" in message


def test_without_keep_alives_the_head_waits_for_the_first_event(
    start_gateway: Start, upstream: Play
):
    events = chat_events(["hello"])
    recorder = Recorder(start_gateway, upstream, keep_alive=0.0)
    recorder.play(events)
    recorder.script.go_on(20)
    path, document, keep_alive = FORMATS["chat"]
    recorder.request(path, document)
    assert keep_alive not in recorder.finish()


@pytest.mark.case("5.2")
def test_pings_of_an_upstream_are_replaced_by_the_gateways_own(
    start_gateway: Start, upstream: Play
):
    recorder = Recorder(start_gateway, upstream, wire="anthropic")
    recorder.play([PING, PING, PING, *upstream_events("anthropic")])
    path, document, keep_alive = FORMATS["anthropic"]
    recorder.start(path, document)
    recorder.script.go_on(3)
    assert recorder.read_past(keep_alive, 2).replace(keep_alive, b"") == b""
    recorder.script.go_on(20)
    body = recorder.finish()
    assert body.replace(keep_alive, b"").startswith(b"event: message_start\n")
    assert b"event: message_stop\n" in body


def test_a_client_that_leaves_during_silence_ends_the_call(
    start_gateway: Start, upstream: Play
):
    recorder = Recorder(start_gateway, upstream)
    recorder.play([])
    path, document, keep_alive = FORMATS["chat"]
    recorder.start(path, document)
    recorder.read_past(keep_alive)
    recorder.close()
    running = recorder.running
    rows = running.flush()
    for _ in range(500):
        if rows:
            break
        running.do(asyncio.sleep(0.01))
        rows = running.flush()
    assert [row.status for row in rows] == ["cancelled"]
    recorder.script.go_on()
