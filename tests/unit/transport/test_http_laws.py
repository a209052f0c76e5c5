"""Property tests: the client agrees with h11, and decompression reverses compression.

Both hold for any chunking.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.transport.connection import Connection
from modelyard.transport.origins import parse_url
from modelyard.transport.proxies import NO_PROXIES
from modelyard.transport.unpacking import (
    CHUNK_BYTES,
    BombError,
    Decompressor,
    UnpackError,
)

SLOW = [HealthCheck.too_slow]
"""For machines that are busy with other work."""


class Sink:
    """A mock transport that only records whether it was aborted."""

    def __init__(self) -> None:
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


Read = tuple[int, list[tuple[str, str]], bytes]


def read_with_client(
    chunks: Sequence[bytes], *, is_bodiless: bool = False
) -> Read | None:
    """Return what our client reads; None if it rejects the response or needs more."""
    connection = Connection(NO_PROXIES.route_to(parse_url("http://x/")[0]), None)  # type: ignore[arg-type]
    sink: Any = Sink()
    connection.connection_made(sink)
    connection.begin(is_bodiless=is_bodiless)
    for chunk in chunks:
        if chunk and not sink.is_aborted:
            connection.data_received(chunk)
    connection.connection_lost(None)
    answer = connection.answer
    if answer.error is not None or not answer.is_complete:
        return None
    headers = [
        (name, value)
        for name in answer.headers
        for value in answer.headers.get_all(name)
    ]
    return answer.status, sorted(headers), answer.take()


def read_with_h11(chunks: Sequence[bytes], method: str = "GET") -> Read | None:
    """Return what h11 reads; None if it rejects the response or needs more."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    parser.send(h11.EndOfMessage())
    # An empty chunk stands for the end of the connection.
    waiting = [*[chunk for chunk in chunks if chunk], b""]
    try:
        events = list(_h11_events(parser, waiting))
    except h11.RemoteProtocolError:
        return None
    if not events or not isinstance(events[-1], h11.EndOfMessage):
        return None
    status, headers, body = 0, [], b""
    for event in events[:-1]:
        if isinstance(event, h11.Response):
            status = event.status_code
            headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in event.headers
            ]
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    return status, sorted(headers), body


def _h11_events(parser: h11.Connection, waiting: list[bytes]) -> Iterator[h11.Event]:
    """Yield the events of a response up to its end, or until the data is used up."""
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            if not waiting:
                return
            parser.receive_data(waiting.pop(0))
            continue
        if not isinstance(event, h11.Event):
            return
        yield event
        if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return


def _split(message: bytes, positions: Sequence[int]) -> list[bytes]:
    cuts = sorted(
        {0, len(message), *(position % (len(message) + 1) for position in positions)}
    )
    return [message[start:end] for start, end in pairwise(cuts)]


NAMES = st.from_regex(r"[a-z!#$%&'*+.^_`|~-]{1,12}", fullmatch=True).filter(
    lambda name: (
        name
        not in (
            "content-length",
            "transfer-encoding",
            "connection",
            "upgrade",
            "keep-alive",
        )
    )
)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f" + "".join(map(chr, range(128, 161)))), max_size=20)  # fmt: skip
PLACES = st.lists(st.integers(0, 10_000), max_size=8)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """A valid response as h11 writes it, sometimes after interim responses."""
    writer = h11.Connection(h11.SERVER)
    writer.receive_data(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    writer.next_event()
    writer.next_event()
    output = b""
    for status in draw(st.lists(st.sampled_from([100, 102, 103]), max_size=2)):
        output += (
            writer.send(
                h11.InformationalResponse(status_code=status, headers=[("link", "a")])
            )
            or b""
        )
    headers = draw(st.lists(st.tuples(NAMES, VALUES), max_size=6))
    body = draw(st.lists(st.binary(min_size=1, max_size=50), max_size=4))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    lines = [(name, value.encode("latin-1")) for name, value in headers]
    if framing == "length":
        lines.append(("content-length", str(sum(map(len, body))).encode()))
    elif framing == "chunked":
        lines.append(("transfer-encoding", b"chunked"))
    else:
        lines.append(("connection", b"close"))
    status = draw(st.sampled_from([200, 201, 302, 404, 500, 599]))
    output += (
        writer.send(h11.Response(status_code=status, headers=lines, reason=b"Fine"))
        or b""
    )
    for body_chunk in body:
        output += writer.send(h11.Data(data=body_chunk)) or b""
    trailers = draw(
        st.lists(
            st.tuples(NAMES, VALUES.map(lambda text: text.encode("latin-1"))),
            max_size=2,
        )
    )
    return output + (
        writer.send(h11.EndOfMessage(headers=trailers if framing == "chunked" else []))
        or b""
    )


@settings(max_examples=300, suppress_health_check=SLOW)
@given(answers(), PLACES)
def test_responses_are_read_as_h11_reads_them_in_any_chunking(
    message: bytes, cut_positions: list[int]
):
    expected = read_with_h11([message])
    assert expected is not None
    assert read_with_client(_split(message, cut_positions)) == expected


SNIPPETS = st.sampled_from([
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b"\0", b"0", b"1", b"5", b"chunked", b"gzip", b"Content-Length: 3\r\n",
    b"content-length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"transfer-encoding: gzip\r\n", b" folded\r\n", b"HTTP/1.0",
    b"HTTP/1.1 200 OK\r\n", b"0\r\n\r\n", b"3;x=y\r\nabc\r\n", b"\xff", b"Connection: close\r\n", b"-", b"+", b"HTTP/1.1 103 Hints\r\n\r\n",
    b"HTTP/1.1 101 S\r\n", b"Upgrade: x\r\nConnection: upgrade\r\n", b"099", b"204", b"304",
])  # fmt: skip
EDITS = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 6), SNIPPETS),
    min_size=1,
    max_size=4,
)


@settings(max_examples=400, suppress_health_check=SLOW)
@given(answers(), EDITS, PLACES)
def test_damaged_responses_are_not_read_differently_than_by_h11(
    message: bytes, edits: list[tuple[int, int, bytes]], cut_positions: list[int]
):
    for position, cut, snippet in edits:
        index = position % (len(message) + 1)
        message = message[:index] + snippet + message[index + cut :]
    mine, h11_result = (
        read_with_client(_split(message, cut_positions)),
        read_with_h11([message]),
    )
    if mine is not None and h11_result is not None:
        assert mine == h11_result
    assert read_with_client([message]) == mine  # in any chunking


@settings(suppress_health_check=SLOW)
@given(answers(), PLACES)
def test_an_answer_to_head_has_no_body(message: bytes, cut_positions: list[int]):
    head = (
        message[: message.rindex(b"Fine\r\n")]
        + message[message.rindex(b"Fine\r\n") :].partition(b"\r\n\r\n")[0]
        + b"\r\n\r\n"
    )
    read = read_with_client(_split(head, cut_positions), is_bodiless=True)
    assert read is not None
    assert read == read_with_h11([head], "HEAD")


@given(
    st.binary(max_size=3000),
    st.integers(1, 60),
    st.sampled_from(["gzip", "deflate", "bare", "members"]),
    PLACES,
)
def test_decompression_round_trip_in_any_chunking(
    part: bytes, times: int, encoding: str, cut_positions: list[int]
):
    plain = part * times
    raw_deflate = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(plain),
        "deflate": zlib.compress(plain),
        "bare": raw_deflate.compress(plain) + raw_deflate.flush(),
        "members": gzip.compress(plain[:9]) + gzip.compress(plain[9:]),
    }[encoding]
    unpacking = Decompressor("gzip" if encoding in ("gzip", "members") else "deflate")
    unpacked_chunks = [
        chunk
        for packed_chunk in _split(packed, cut_positions)
        for chunk in unpacking.feed(packed_chunk)
    ]
    unpacking.finish()
    assert b"".join(unpacked_chunks) == plain
    assert all(len(chunk) <= CHUNK_BYTES for chunk in unpacked_chunks)


@given(st.binary(min_size=1, max_size=300), st.integers(1, 40))
def test_a_truncated_compressed_body_is_an_error(plain: bytes, cut: int):
    packed = gzip.compress(plain)
    unpacking = Decompressor("gzip")
    with pytest.raises(UnpackError, match="truncated"):
        list(unpacking.feed(packed[: max(1, len(packed) - cut)]))
        unpacking.finish()


def test_a_bomb_is_detected_by_its_ratio_but_compressible_text_is_not():
    bomb = Decompressor("gzip")
    output_bytes = 0
    with pytest.raises(BombError, match="1/200 of its size"):
        for chunk in bomb.feed(gzip.compress(b" " * 50_000_000)):
            output_bytes += len(chunk)
    assert output_bytes <= 12_000_000
    text = b"".join(
        b'{"id": %d, "text": "the same again and again"}' % number
        for number in range(100_000)
    )
    packed = gzip.compress(text)
    assert len(text) > 3_000_000
    assert b"".join(Decompressor("gzip").feed(packed)) == text
