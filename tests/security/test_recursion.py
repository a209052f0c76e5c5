"""What is nested too deeply is an error with words, wherever a body is read."""

import msgspec
import pytest

from modelyard.base.bodies import MOST_DEPTH, BodyError, decode_body
from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.http import read_json
from modelyard.gateway.service_calls import ServiceError, read_object
from modelyard.models.arguments import BROKEN, as_object


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize("levels", [MOST_DEPTH + 1, 900, 100_000])
@pytest.mark.parametrize(("read", "raises"), [
    (decode_body, BodyError), (read_json, InvokeBadRequestError), (read_object, ServiceError),
])  # fmt: skip
def test_deep_json_is_refused(levels: int, read: object, raises: type[Exception]):
    with pytest.raises(raises, match="nested deeper than|JSON"):
        read(nested(levels))


def test_depth_that_is_allowed_is_read():
    assert decode_body(nested(MOST_DEPTH)) == msgspec.json.decode(nested(MOST_DEPTH))
    assert decode_body(b"[" + b"[1]," * 1000 + b'"[[["]')[-1] == "[[["


def test_deep_arguments_of_a_model_are_no_object():
    assert BROKEN in as_object(nested(900).decode())
