"""Many streams whose provider sends an event a second, and many connections without a
request: what each of them costs in memory, and that every byte arrives.

The upstream and the callers share one process and one clock, so what was sent and what
arrived is compared byte by byte.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httptools
import uvloop
from bench.processes import tree_memory_mb

from modelyard.cli.connection_limits import raise_file_limit
from tools.show.memory import count_entries, gauge
from tools.show.proof import Proof, free_port, running, serve_command
from tools.show.truth_log import home_with

_STREAMS = 1000
_EVENTS = 12
_EVENT_SECONDS = 1.0
_MAX_STREAM_KB = 20.0
_IDLE_CONNECTIONS = 10_000
_MAX_IDLE_MB = 60.0
_MAX_GROWTH_KB = 3.0
"""How much more memory a stream of the third round may seem to take than one of the
second. Interpreter and C library keep what was freed for the next streams, so the first
rounds say nothing about what is lost with each stream."""
_WARM_UP_CALLS = 300
_SPARE_DESCRIPTORS = 4
"""Files that threads of the database may have opened meanwhile."""
_CONNECTIONS_AT_ONCE = 200
"""How many connections are opened before the next ones wait."""
_SAMPLES = 5
_SAMPLE_SECONDS = 0.3
_KEY = "key-of-the-callers"
_ROUNDS = ("first", "second", "third")
_SETTINGS: dict[str, Any] = {
    # All connections come from one address, and none may be closed for its age.
    "connections": {
        "idle_per_address": 20_000,
        "head_seconds": 600.0,
        "idle_seconds": 600.0,
    },
    "api_keys": [_KEY],
}
_PATIENCE_SECONDS = 60.0
"""How long anything may take that has no goal of its own."""
_STREAM_HEAD = (
    # Unused connections are closed after a few seconds, for which the proof waits.
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nkeep-alive: timeout=10\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_END = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"gpt-5-mini",'
    b'"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}'
    b"\n\ndata: [DONE]\n\n"
)
"""What follows the last event in the same write: the usage and the end marker."""


@dataclass(slots=True)
class _Transcript:
    """One stream: what was sent and what arrived, with the times of both."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    sent_at: list[float] = field(default_factory=list[float])
    """When each event was sent, in seconds of the event loop's clock."""
    received_at: list[float] = field(default_factory=list[float])
    status: int = 0
    is_complete: bool = False
    """Whether the end of the body has arrived."""

    @property
    def max_delay(self) -> float:
        """The longest time in seconds between sending and receiving an event."""
        delays = zip(self.sent_at, self.received_at, strict=False)
        return max((arrived - sent for sent, arrived in delays), default=0.0)


def _event(stream: int, number: int) -> bytes:
    """Return an event of a chat stream that no other stream has."""
    text = f" {stream}.{number}." + chr(97 + (stream + number) % 26) * (number % 40)
    finish = "stop" if number == _EVENTS - 1 else None
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    event = {
        "id": f"chatcmpl-{stream}",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-5-mini",
        "choices": [choice],
    }
    return b"data: " + json.dumps(event).encode() + b"\n\n"


class _SlowUpstream(asyncio.Protocol):
    """One connection of the upstream. A request names its stream in `user`."""

    transcripts: ClassVar[dict[int, _Transcript]] = {}
    may_finish: ClassVar[asyncio.Event] = asyncio.Event()
    """Set when the streams have been measured; their last events wait for it."""

    def connection_made(self, transport: Any) -> None:
        """Create the request parser."""
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def data_received(self, data: bytes) -> None:
        """Feed the request parser."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Collect the body of the request."""
        self._body += body

    def on_message_complete(self) -> None:
        """Start the stream."""
        request, self._body = json.loads(self._body), b""
        self._stream = int(request["user"])
        self._gap = _EVENT_SECONDS if self._stream >= 0 else 0.0
        self.transcripts[self._stream].sent.clear()
        self._transport.write(_STREAM_HEAD)
        # Spread over the first interval: otherwise the server would be measured in
        # bursts.
        share = max(0, self._stream % _STREAMS) / _STREAMS
        self._loop().call_later(self._gap * share, self._send, 0)

    def _send(self, number: int) -> None:
        """Send an event, and the next one after the interval."""
        if self._transport.is_closing():
            return
        transcript = self.transcripts[self._stream]
        is_last = number == _EVENTS - 1
        # The measurement may take longer than the stream.
        if is_last and self._stream >= 0 and not self.may_finish.is_set():
            self._loop().call_later(self._gap, self._send, number)
            return
        data = _event(self._stream, number) + (_END if is_last else b"")
        transcript.sent += data
        transcript.sent_at.append(self._loop().time())
        frame = b"%x\r\n%b\r\n" % (len(data), data)
        self._transport.write(frame + (b"0\r\n\r\n" if is_last else b""))
        if not is_last:
            self._loop().call_later(self._gap, self._send, number + 1)

    @staticmethod
    def _loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()


class _Caller(asyncio.Protocol):
    """One connection of a caller."""

    def __init__(self) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the response is complete or the connection is lost."""
        self._transcript = _Transcript()

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def request(self, data: bytes, transcript: _Transcript) -> None:
        """Send a request, and write down its response."""
        self._transcript = transcript
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Feed the response parser."""
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        """Write down the status."""
        self._transcript.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Write down what has arrived, and when."""
        transcript = self._transcript
        transcript.received += body
        event_count = transcript.received.count(b"\n\n")
        now = asyncio.get_running_loop().time()
        # Several events in one read have arrived at the same time.
        new_count = min(event_count, _EVENTS) - len(transcript.received_at)
        transcript.received_at += [now] * new_count

    def on_message_complete(self) -> None:
        """The response is complete."""
        self._transcript.is_complete = True
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more arrives."""
        del exc
        self._finish()

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


def _chat_request(stream: int) -> bytes:
    """Return a complete request for a stream."""
    body = json.dumps(
        {
            "model": "openai/gpt-5-mini",
            "stream": True,
            "stream_options": {"include_usage": True},
            "user": str(stream),
            "messages": [{"role": "user", "content": "Speak slowly."}],
        }
    ).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        b"authorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    return head % (_KEY.encode(), len(body)) + body


_HEALTH_REQUEST = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


@dataclass(frozen=True, slots=True)
class _ServerState:
    """What the server holds at one moment."""

    megabytes: float
    descriptors: int
    tasks: float
    in_flight: float


@dataclass(slots=True)
class _World:
    """A server process, and connections to it."""

    pid: int
    port: int

    async def connect(self, count: int) -> list[_Caller]:
        """Open connections, not all at once."""
        callers = list[_Caller]()
        while len(callers) < count:
            batch = min(_CONNECTIONS_AT_ONCE, count - len(callers))
            callers += await asyncio.gather(*(self._connect() for _ in range(batch)))
        return callers

    async def _connect(self) -> _Caller:
        loop = asyncio.get_running_loop()
        _, caller = await loop.create_connection(_Caller, "127.0.0.1", self.port)
        return caller

    async def megabytes(self) -> float:
        """Return the median of several measurements of the server's memory."""
        samples = list[float]()
        for _ in range(_SAMPLES):
            samples.append(await asyncio.to_thread(tree_memory_mb, self.pid))
            await asyncio.sleep(_SAMPLE_SECONDS)
        return statistics.median(samples)

    async def state(self) -> _ServerState:
        """Return what the server holds now."""
        return _ServerState(
            megabytes=await self.megabytes(),
            descriptors=count_entries(self.pid, "fd"),
            tasks=await self.gauge("modelyard_tasks"),
            in_flight=await self.gauge("modelyard_in_flight"),
        )

    async def gauge(self, name: str) -> float:
        """Return the value of a gauge of the server."""
        return await asyncio.to_thread(gauge, self.port, name, key=_KEY)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> bool:
        """Wait until a condition holds; return False if it does not within a minute."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if await condition():
                return True
            await asyncio.sleep(0.1)
        return False


@dataclass(slots=True)
class _Round:
    """Many streams at the same time."""

    transcripts: list[_Transcript]
    megabytes: float
    """Memory of the server while all streams were running."""
    running_count: int
    """Calls in flight at that time."""


async def _run_streams(world: _World) -> _Round:
    """Run all streams at once to their ends, and measure the server meanwhile."""
    transcripts = [_Transcript() for _ in range(_STREAMS)]
    _SlowUpstream.transcripts |= dict(enumerate(transcripts))
    _SlowUpstream.may_finish.clear()
    callers = await world.connect(_STREAMS)
    for number, caller in enumerate(callers):
        caller.request(_chat_request(number), transcripts[number])

    async def have_all_begun() -> bool:
        """Return whether every stream has its first event."""
        return all(transcript.received_at for transcript in transcripts)

    await world.until(have_all_begun)
    megabytes = await world.megabytes()
    running_count = int(await world.gauge("modelyard_in_flight"))
    _SlowUpstream.may_finish.set()
    await asyncio.wait(
        [caller.finished for caller in callers],
        timeout=_EVENTS * _EVENT_SECONDS + _PATIENCE_SECONDS,
    )
    for caller in callers:
        caller.transport.close()
    return _Round(transcripts, megabytes, running_count)


async def _warm_up(world: _World) -> None:
    """Make some calls, so that caches are filled and code has run."""
    callers = await world.connect(4)
    for caller in callers:
        for number in range(_WARM_UP_CALLS // len(callers)):
            transcript = _Transcript()
            _SlowUpstream.transcripts[-1 - number] = transcript
            caller.finished = asyncio.get_running_loop().create_future()
            caller.request(_chat_request(-1 - number), transcript)
            await caller.finished
        caller.transport.close()


async def _idle(world: _World, request: bytes) -> tuple[int, float]:
    """Open many connections, and answer one request on each if there is one. Return the
    number of connections that are open then, and the server's megabytes."""
    callers = await world.connect(_IDLE_CONNECTIONS)
    for start in range(0, len(callers) if request else 0, _CONNECTIONS_AT_ONCE):
        batch = callers[start : start + _CONNECTIONS_AT_ONCE]
        for caller in batch:
            caller.request(request, _Transcript())
        await asyncio.wait([caller.finished for caller in batch], timeout=60)
    megabytes = await world.megabytes()
    open_count = sum(not caller.transport.is_closing() for caller in callers)
    for caller in callers:
        caller.transport.close()
    return open_count, megabytes


async def _measure_streams(proof: Proof, world: _World) -> None:
    """Measure rounds of streams, and what is left of them."""
    await _warm_up(world)
    before = await world.state()
    # The first round opens its connections to the upstream, the others have them.
    rounds = [await _run_streams(world) for _ in _ROUNDS]
    for label, report in zip(_ROUNDS, rounds, strict=True):
        _judge_streams(proof, label, report, before)
    growth = (rounds[2].megabytes - rounds[1].megabytes) * 1024 / _STREAMS
    proof.line(
        "kB that are lost with each stream, at most",
        f"{growth:.1f}",
        growth <= _MAX_GROWTH_KB,
    )

    async def is_over() -> bool:
        """Return whether the connections are closed, those to the upstream too."""
        descriptors = count_entries(world.pid, "fd")
        return descriptors <= before.descriptors + _SPARE_DESCRIPTORS

    await world.until(is_over)
    _judge_rest(proof, before, await world.state())


async def _measure_idle(proof: Proof, world: _World) -> None:
    """Measure connections without a request, and between two requests."""
    await _warm_up(world)
    # For both, since the second ones use memory that the first ones have freed.
    before = await world.megabytes()
    for label, request in (("silent", b""), ("kept_alive", _HEALTH_REQUEST)):
        count, during = await _idle(world, request)
        megabytes = during - before
        proof.line(
            f"MB for {_IDLE_CONNECTIONS:,} connections, {label.replace('_', ' ')}",
            f"{megabytes:.1f}",
            megabytes <= _MAX_IDLE_MB,
        )
        proof.line("  open at that time", count, count == _IDLE_CONNECTIONS)
        proof.figures[f"{label}_mb"] = round(megabytes, 1)


def _judge_streams(
    proof: Proof, label: str, report: _Round, before: _ServerState
) -> None:
    """Judge what the streams of one round cost, and whether all of it has arrived."""
    kilobytes = (report.megabytes - before.megabytes) * 1024 / _STREAMS
    proof.line(
        f"kB for each of {_STREAMS:,} streams, {label} round",
        f"{kilobytes:.1f}",
        kilobytes <= _MAX_STREAM_KB,
    )
    proof.line(
        "  in flight at that time",
        report.running_count,
        report.running_count == _STREAMS,
    )
    complete = sum(
        transcript.is_complete
        and transcript.status == 200
        and len(transcript.received_at) == _EVENTS
        and transcript.received == transcript.sent
        for transcript in report.transcripts
    )
    proof.line("  received to the last byte", complete, complete == _STREAMS)
    delay = max(transcript.max_delay for transcript in report.transcripts)
    proof.line("  longest delay of an event", f"{delay * 1000:.0f} ms")
    proof.figures[f"{label}_kb"] = round(kilobytes, 1)
    proof.figures[f"{label}_delay_ms"] = round(delay * 1000)


def _judge_rest(proof: Proof, before: _ServerState, after: _ServerState) -> None:
    """Judge what is left when everything is over."""
    left = after.megabytes - before.megabytes
    proof.line(
        "memory before, after", f"{before.megabytes:.1f} MB, {after.megabytes:.1f} MB"
    )
    proof.line(
        "tasks before, after",
        f"{before.tasks:.0f}, {after.tasks:.0f}",
        after.tasks <= before.tasks,
    )
    proof.line("calls in flight after", f"{after.in_flight:.0f}", not after.in_flight)
    proof.line(
        "descriptors before, after",
        f"{before.descriptors}, {after.descriptors}",
        after.descriptors <= before.descriptors + _SPARE_DESCRIPTORS,
    )
    proof.figures["left_mb"] = round(left, 1)


def prove() -> Proof:
    """Measure a server process with many streams and many idle connections."""
    proof = Proof()
    raise_file_limit()
    uvloop.run(_prove(proof))
    return proof


async def _prove(proof: Proof) -> None:
    """Run the upstream, and a server for each measurement: the second one would use
    memory that the first one has left."""
    loop = asyncio.get_running_loop()
    upstream = await loop.create_server(
        _SlowUpstream, "127.0.0.1", 0, backlog=2 * _STREAMS
    )
    upstream_port = upstream.sockets[0].getsockname()[1]
    for measure in (_measure_streams, _measure_idle):
        with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
            environ = home_with(
                Path(folder), f"http://127.0.0.1:{upstream_port}/v1", **_SETTINGS
            )
            port = free_port()
            with running(serve_command(), port, environ=environ) as (process, _):
                await measure(proof, _World(process.pid, port))
    upstream.close()
