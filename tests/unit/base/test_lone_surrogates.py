"""A text that was cut inside of an emoji has a lone surrogate. What others send as JSON
is read with U+FFFD in its place, instead of being refused or lost."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.bounded_json import BodyError, decode_body, decode_json
from modelyard.plugins.connection import PluginCall, PluginConnection

# Surrogates are frequent, and so are the characters of escapes.
_TEXT = st.text(
    st.one_of(
        st.sampled_from('\ud800\udbff\udc00\udfff\\"u'),
        st.characters(exclude_categories=()),
    )
)


def _mended(text: str) -> str:
    """Return the text with U+FFFD for each surrogate that is not half of a pair."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(_TEXT)
def test_escaped_surrogates_are_read_as_replacement_characters(text: str):
    document = {"a": [text], "b": "\\ud800"}
    expected = {"a": [_mended(text)], "b": "\\ud800"}
    assert decode_body(json.dumps(document)) == expected
    assert decode_body(json.dumps(document).encode()) == expected


@pytest.mark.parametrize("end", ["", "n", "\n", "ab"])
def test_half_of_a_pair_is_read_at_the_end_of_a_document(end: str):
    assert (
        decode_body(json.dumps("a\ud83d" + end)) == "a\N{REPLACEMENT CHARACTER}" + end
    )


@given(_TEXT)
def test_surrogates_in_a_text_that_python_holds_are_read_too(text: str):
    document = json.dumps([text], ensure_ascii=False)
    assert decode_json(document) == [_mended(text)]


@pytest.mark.parametrize("body", ['["\\ud800', '["\\ud800" 1]', "[\\ud800]", '"\\ud8"'])
def test_what_is_no_json_is_refused_with_and_without_surrogates(body: str):
    with pytest.raises(BodyError):
        decode_body(body)


def test_a_message_of_a_plugin_is_not_lost():
    async def work() -> None:
        sent: list[bytes] = []
        connection = PluginConnection("a/b", sent.append, _NoCalls(), lambda: 0.0)  # pyright: ignore[reportArgumentType]
        answers = connection.call(
            PluginCall(tenant="t", type="tool", action="a", data={})
        )
        first = asyncio.ensure_future(anext(answers))
        await asyncio.sleep(0)
        session = msgspec.json.decode(sent[0])["session_id"]
        data = {"type": "stream", "data": {"text": "cut \ud83d"}}
        line = {"event": "session", "session_id": session, "data": data}
        connection.feed(json.dumps(line).encode() + b"\n")
        async with asyncio.timeout(10):
            assert await first == {"text": "cut \N{REPLACEMENT CHARACTER}"}
        await answers.aclose()

    asyncio.run(work())


class _NoCalls:
    """A plugin's requests to its host; there are none."""

    def answer(self, *arguments: Any) -> Any:
        raise AssertionError(arguments)
