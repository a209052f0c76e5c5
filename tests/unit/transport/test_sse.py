from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.transport.sse import EventStream

line = st.text(
    st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12
)
datas = st.lists(st.lists(line, min_size=1, max_size=3), max_size=6)


def written(events: list[list[str]], end: str) -> bytes:
    return "".join(
        f": comment{end}event: x{end}"
        + "".join(f"data: {text}{end}" for text in event)
        + end
        for event in events
    ).encode()


@given(datas, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 400)))
def test_events_are_the_same_in_any_chunking(
    events: list[list[str]], end: str, cuts: list[int]
):
    body = written(events, end)
    boundaries = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    stream = EventStream()
    received = [
        data for a, b in pairwise(boundaries) for data in stream.feed(body[a:b])
    ]
    received += stream.finish()
    assert received == ["\n".join(event).encode() for event in events]


def test_a_last_event_without_its_blank_line_counts():
    stream = EventStream()
    assert stream.feed(b"data: a") == []
    assert stream.finish() == [b"a"]
    assert stream.finish() == []


def test_an_endless_event_is_refused():
    stream = EventStream(max_event_bytes=1000)
    with pytest.raises(InvokeServerUnavailableError, match="exceeds 1,000 bytes"):
        for _ in range(100):
            stream.feed(b"x" * 100)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_event_of_two_lines_is_one_event_in_any_chunking(end: str):
    """A CR at the end of a chunk may be the first half of a CRLF."""
    body = written([["a", "b"], ["c"]], end)
    for cut in range(len(body) + 1):
        stream = EventStream()
        received = [*stream.feed(body[:cut]), *stream.feed(body[cut:])]
        assert [*received, *stream.finish()] == [b"a\nb", b"c"], cut
