"""Tests for deeply nested input: a proper error wherever a body is parsed."""

import msgspec
import pytest

from modelyard.base.bounded_json import (
    MAX_DEPTH,
    BodyError,
    check_value_count,
    decode_body,
)
from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.http import read_json
from modelyard.gateway.service.calls import ServiceError, read_object
from modelyard.models.arguments import INVALID_ARGUMENTS_KEY, as_object


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 900, 100_000])
@pytest.mark.parametrize(("read", "raises"), [
    (decode_body, BodyError), (read_json, InvokeBadRequestError), (read_object, ServiceError),
])  # fmt: skip
def test_deep_json_is_refused(levels: int, read: object, raises: type[Exception]):
    with pytest.raises(raises, match="nested deeper than|more than|JSON"):
        read(nested(levels))


def test_allowed_depth_is_parsed():
    assert decode_body(nested(MAX_DEPTH)) == msgspec.json.decode(nested(MAX_DEPTH))
    assert decode_body(b"[" + b"[1]," * 1000 + b'"[[["]')[-1] == "[[["


HOSTILE = [
    b"[" + b"[]," * 100_000 + b"1]", b"[" + b"{}," * 100_000 + b"1]", b"[" + b"1," * 400_000 + b"1]",
    b"[" + b"1.2345678901234567890123e-300," * 10_000 + b"1]", b"[" + b'"",' * 400_000 + b"1]",
    b"[" + (b"1" * 4000 + b",") * 2_000 + b"1]",
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_a_body_with_too_many_values_is_refused_before_parsing(body: bytes):
    for encoded_body in (body, body.decode()):
        with pytest.raises(BodyError, match="more than|too many"):
            decode_body(encoded_body)


def test_large_flat_bodies_are_accepted():
    text = 'a, [b], {c}, \\ and "d"' * 100_000
    assert decode_body(msgspec.json.encode({"a": text, "b": [1.5] * 5_000})) == {
        "a": text,
        "b": [1.5] * 5_000,
    }
    tokens = [list(range(100)) for _ in range(2_000)]
    assert decode_body(msgspec.json.encode(tokens)) == tokens


def test_provider_answers_have_higher_limits():
    vectors = {
        "data": [
            {"embedding": [0.012345678901234567] * 1024, "index": index}
            for index in range(400)
        ]
    }
    check_value_count(
        msgspec.json.encode(vectors), containers=250_000, values=10_000_000
    )
    with pytest.raises(BodyError):
        check_value_count(msgspec.json.encode(vectors))


def test_deeply_nested_tool_arguments_are_refused():
    assert INVALID_ARGUMENTS_KEY in as_object(nested(900).decode())
