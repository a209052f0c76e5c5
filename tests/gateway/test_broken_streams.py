"""A stream that breaks off ends in the event that its format has for that, whatever the
cause; and how streams are read on the way."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from modelyard.base.settings import TimeoutSettings
from modelyard.testing import Answer, chat_events, json_answer
from modelyard.wire.openai_passthrough import StreamInspector
from tests.gateway.error_world import (
    DIRECT,
    USUAL,
    Play,
    Reply,
    Start,
    World,
    event,
    stream,
)

WAYS = pytest.mark.parametrize("headers", [DIRECT, USUAL], ids=["direct", "usual"])
BEGINNING = chat_events(["partial ", "answer"], sends_done=False)[:3]
OVERLOADED = {
    "error": {"message": "Overloaded", "type": "overloaded_error", "code": 529}
}
CAUSES: dict[str, Callable[[], Answer]] = {
    "an error of the provider": lambda: stream([*BEGINNING, event(OVERLOADED)]),
    "a truncated stream": lambda: stream(BEGINNING),
    "a closed connection": lambda: stream(BEGINNING, "cut"),
    "silence": lambda: stream(BEGINNING, "stall"),
    "no JSON": lambda: stream([*BEGINNING, b"data: {nonsense}\n\n"]),
}


@pytest.fixture
def world(start_gateway: Start, upstream: Play) -> World:
    timeouts = TimeoutSettings(between_bytes=0.5, between_tokens=0.5)
    world = World(start_gateway, upstream, timeouts=timeouts)
    # A connection to the provider is idle from now on.
    assert world.chat("oai/m").status == 200
    return world


def check_failed_response(reply: Reply) -> Any:
    """Check the events of a failed Responses stream, and return the response."""
    events = [data for _, data in reply.events]
    assert [name for name, _ in reply.events] == [data["type"] for data in events]
    numbers = [data["sequence_number"] for data in events]
    assert numbers == list(range(len(events)))
    assert events[-1]["type"] == "response.failed"
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert set(response["error"]) == {"code", "message"}
    assert response["object"] == "response"
    return response


@pytest.mark.case("5.1")
@pytest.mark.parametrize("cause", CAUSES)
@WAYS
def test_every_format_has_its_last_event(
    world: World, headers: dict[str, str], cause: str
):
    world.script = [CAUSES[cause]()]
    response = check_failed_response(world.responses("oai/m", headers, stream=True))
    text = response["output"][0]["content"][0]["text"]
    assert text == "partial answer"
    assert response["output"][0]["status"] == "incomplete"
    assert response["error"]["code"] == "server_error"
    assert response["error"]["message"]

    world.script = [CAUSES[cause]()]
    name, data = world.messages("oai/m", headers, stream=True).events[-1]
    assert (name, data["type"]) == ("error", "error")
    assert data["error"]["type"] in ("overloaded_error", "api_error")

    world.script = [CAUSES[cause]()]
    reply = world.chat("oai/m", headers, stream=True)
    assert reply.events[-1][0] == ""
    assert reply.events[-1][1]["error"]["type"] == "server_error"
    assert "[DONE]" not in [data for _, data in reply.events]

    world.script = [CAUSES[cause]()]
    name, data = world.call("/v2/chat", chat_document(stream=True), headers).events[-1]
    assert (name, data["type"]) == ("message-end", "message-end")
    assert data["delta"]["finish_reason"] == "ERROR"


def chat_document(**fields: Any) -> Any:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": "oai/m", "messages": messages, **fields}


@pytest.mark.case("5.1")
@pytest.mark.parametrize("cause", CAUSES)
def test_a_gemini_stream_ends_with_an_error_object(world: World, cause: str):
    contents = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    path = "/v1beta/models/oai/m:streamGenerateContent"
    world.script = [CAUSES[cause]()]
    reply = world.call(f"{path}?alt=sse", contents)
    _, last = reply.events[-1]
    assert last["error"]["status"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL")
    # Google's clients read errors outside of events, up to the end of the response.
    assert json.loads(reply.body.rpartition(b"\n")[2]) == last
    world.script = [CAUSES[cause]()]
    items = world.call(path, contents).json
    assert "candidates" in items[0]
    assert set(items[-1]) == {"error"}


def test_the_code_of_a_refusal_inside_a_stream_is_told(world: World):
    error = {"message": "Slow down", "type": "rate_limit_error", "code": None}
    world.script = [stream([*BEGINNING, event({"error": error})])]
    response = check_failed_response(world.responses("oai/m", stream=True))
    assert response["error"] == {
        "code": "rate_limit_exceeded",
        "message": "Slow down",
    }


def test_an_error_after_a_finished_item_keeps_it(world: World):
    events = [
        {"id": "c", "choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]},
        {"id": "c", "choices": [{"index": 0, "delta": {"content": "part"}}]},
        OVERLOADED,
    ]
    world.script = [stream([event(document) for document in events])]
    response = check_failed_response(world.responses("oai/m", stream=True))
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]


def test_a_stream_that_the_server_stops_ends_in_its_format(
    start_gateway: Start, upstream: Play
):
    world = World(start_gateway, upstream)
    for call in (world.responses, world.messages, world.chat):
        world.script = [stream(BEGINNING, "stall")]
        replies: list[Reply] = []
        reply = stopped(world, call, replies)
        name, data = reply.events[-1]
        if call == world.responses:
            check_failed_response(reply)
        else:
            assert data["error"]["message"]
            assert name == ("error" if call == world.messages else "")
        world.running.gateway.ending.is_over = False


def stopped(world: World, call: Callable[..., Reply], replies: list[Reply]) -> Reply:
    """Return the response to a call during which the server stops."""
    import threading

    thread = threading.Thread(
        target=lambda: replies.append(call("oai/m", USUAL, stream=True))
    )
    count = len(world.upstream.requests)
    thread.start()
    wait_for_answer(world, count)
    world.running.stop_running_calls()
    thread.join(20)
    return replies[0]


def wait_for_answer(world: World, count: int) -> None:
    """Wait until the upstream has got one more request and the gateway a chunk."""
    import time

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        running = world.running.yard.services.calls.queue.running
        if len(world.upstream.requests) > count and running:
            # The chunks are on their way through the loopback interface.
            world.running.do(breathe())
            return
        time.sleep(0.01)
    raise AssertionError("The upstream was not called")


async def breathe() -> None:
    """Let the server's event loop read what has arrived."""
    import asyncio

    await asyncio.sleep(0.3)


# ------------------------------------------------------------------ how streams are read


def in_lines(document: Any) -> bytes:
    """Return an event whose JSON is spread over several data lines."""
    lines = json.dumps(document, indent=1).split("\n")
    return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"


@pytest.mark.case("5.3")
@WAYS
@pytest.mark.parametrize("stream_end", [b"", b"data: [DONE]\n\n"])
def test_data_in_several_lines_is_one_event(
    world: World, headers: dict[str, str], stream_end: bytes
):
    documents = [
        json.loads(line.removeprefix(b"data: "))
        for line in chat_events(["he", "llo"], sends_done=False)
    ]
    body = b"".join(in_lines(document) for document in documents) + stream_end
    # Cut between any two bytes.
    pieces = [body[index : index + 7] for index in range(0, len(body), 7)]
    for call in (world.chat, world.messages, world.responses):
        world.script = [stream(pieces)]
        reply = call("oai/m", headers, stream=True)
        assert reply.status == 200
        texts = json.dumps([data for _, data in reply.events])
        assert "error" not in [name for name, _ in reply.events]
        assert '"he"' in texts
        assert '"llo"' in texts


def test_the_inspector_leaves_an_event_in_several_lines_to_the_parser():
    inspector = StreamInspector(wants_usage=True)
    block = b'data: {"choices":\ndata: []}\n\n'
    assert inspector.feed(block) is None
    assert inspector.unread == block


@pytest.mark.case("5.3")
@pytest.mark.parametrize(
    "feedback", [{}, {"promptFeedback": {}}, {"usageMetadata": {"promptTokenCount": 3}}]
)
def test_an_empty_gemini_answer_is_an_error_streamed_or_not(
    world: World, feedback: Any
):
    document = {"candidates": [], **feedback}
    world.script = [json_answer(document)]
    complete = world.chat("gem/m")
    world.script = [stream([event(document)])]
    streamed = world.chat("gem/m", stream=True)
    assert complete.status == streamed.status == 503
    assert complete.json["error"]["code"] == streamed.json["error"]["code"]


def test_a_blocked_gemini_prompt_is_an_answer(world: World):
    document = {"candidates": [], "promptFeedback": {"blockReason": "SAFETY"}}
    world.script = [json_answer(document)]
    reply = world.chat("gem/m")
    assert reply.json["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.case("5.3")
@WAYS
def test_a_messages_stream_begins_with_an_estimate_of_the_input(
    world: World, headers: dict[str, str]
):
    text = "one two three four " * 100
    messages = [{"role": "user", "content": text}]
    world.script = [stream(chat_events(["he", "llo"], prompt=432))]
    reply = world.messages("oai/m", headers, messages=messages, stream=True)
    by_type = {data["type"]: data for _, data in reply.events}
    start = by_type["message_start"]["message"]["usage"]
    assert 200 < start["input_tokens"] < 1000
    assert start["output_tokens"] == 0
    assert by_type["message_delta"]["usage"]["input_tokens"] == 432


def test_an_error_line_of_an_old_server_is_an_error(world: World):
    line = b'error: {"code":500,"message":"broken","type":"server_error"}\n\n'
    world.script = [stream([*BEGINNING, line])]
    _, last = world.chat("oai/m", stream=True).events[-1]
    assert last["error"]["message"] == "broken"
