"""Tests for AWS's binary event stream: round trips in any chunking; damaged data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.transport.aws_events import AwsEventStream, dump_event

events = st.lists(
    st.tuples(
        st.sampled_from(["messageStart", "contentBlockDelta", "métadata"]),
        st.binary(max_size=40),
    )
)


@given(events, st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_events_survive_any_chunking(
    expected_events: list[tuple[str, bytes]], sizes: list[int]
):
    data = b"".join(dump_event(name, payload) for name, payload in expected_events)
    stream, parsed_events, offset = AwsEventStream(), [], 0
    while offset < len(data):
        size = sizes[offset % len(sizes)]
        parsed_events += stream.feed(data[offset : offset + size])
        offset += size
    stream.finish()
    assert parsed_events == expected_events


def test_an_exception_keeps_its_type():
    data = dump_event("throttlingException", b'{"message": "slow"}', is_exception=True)
    assert AwsEventStream().feed(data) == [
        ("throttlingException", b'{"message": "slow"}')
    ]


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda data: b"\xff" + data[1:], "invalid length"),
        (lambda data: data[:9] + b"\0" + data[10:], "prelude does not match"),
        (
            lambda data: data[:-6] + b"\0\0" + data[-4:],
            "checksum of a message does not match",
        ),
    ],
)
def test_damaged_events_are_reported(damage: object, part: str):
    data = damage(dump_event("messageStart", b'{"role": "assistant"}'))  # type: ignore[operator]
    with pytest.raises(InvokeServerUnavailableError, match=part):
        AwsEventStream().feed(data)


def test_an_end_inside_a_message_is_a_broken_stream():
    stream = AwsEventStream()
    stream.feed(dump_event("messageStart", b"{}")[:-3])
    with pytest.raises(InvokeServerUnavailableError, match="ended in the middle"):
        stream.finish()
