"""The proof `recordings` can fail: each corruption of an answer turns it red.

The whole proof corrupts all recordings. Here a few of each kind are enough: for each
corruption and caller's format the first answer that it changes.
"""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from tools.show.constructed import constructed
from tools.show.corruptions import CORRUPTIONS, REPLY_CORRUPTIONS, aims_at, corrupted
from tools.show.exchanges import Exchange, exchanges
from tools.show.reader import FORMATS
from tools.show.reader.compare import ADDED, NOT_SAYABLE, differences, expected_facts
from tools.show.replay import Reply, compare, recorded, replay
from tools.show.sent_requests import (
    compare_request,
    normalized,
    send_recorded,
    with_request,
)

pytestmark = pytest.mark.proof("recordings")

_SAMPLE_STEP = 40
"""Every fortieth recording: about sixty, of all formats."""


_RARE = ("stream_error", "failed_error_streaming", "anthropic_web_search_tool")
"""Recordings with what a small sample may lack: streams that break off, searches."""


def sample() -> list[Exchange]:
    supported = [exchange for exchange in exchanges() if exchange.format in FORMATS]
    failed = [exchange for exchange in supported if exchange.status != 200][::8]
    rare = [
        exchange for exchange in supported if any(name in exchange.id for name in _RARE)
    ]
    rare += [
        exchange
        for exchange in supported
        if exchange.is_stream and recorded(exchange).error is not None
    ]
    return [*supported[::_SAMPLE_STEP], *failed, *rare, *constructed()]


async def replies_of(
    recordings: Sequence[Exchange],
) -> list[tuple[Exchange, str, Reply]]:
    return [answered async for answered in replay(recordings)]


@pytest.fixture(scope="module")
def answered() -> list[tuple[Exchange, str, Reply]]:
    return asyncio.run(replies_of(sample()))


def test_a_sample_of_recordings_passes(answered: list[tuple[Exchange, str, Reply]]):
    failures = [
        (exchange.id, ingress, outcome.problems)
        for exchange, ingress, reply in answered
        if (outcome := compare(exchange, ingress, reply)).problems
    ]
    assert not failures
    assert len(answered) > 200


def test_every_corruption_turns_the_proof_red(
    answered: list[tuple[Exchange, str, Reply]],
):
    missed: list[tuple[str, str, str]] = []
    seen: set[tuple[str, str, bool]] = set()
    for exchange, ingress, reply in answered:
        compared_kinds = compare(exchange, ingress, reply).compared
        for name, kinds, spoilt in corrupted(
            ingress, reply, is_stream=exchange.is_stream
        ):
            cell = (name, ingress, exchange.is_stream)
            if cell in seen or not aims_at(kinds, compared_kinds):
                continue
            seen.add(cell)
            if not compare(exchange, ingress, spoilt).problems:
                missed.append((name, exchange.id, ingress))
    assert not missed
    names = {name for name, _, _ in seen}
    all_names = [
        *(corruption.name for corruption in CORRUPTIONS),
        *(name for name, _, _ in REPLY_CORRUPTIONS),
    ]
    assert len(set(all_names)) == len(all_names) >= 50
    assert sorted({*all_names} - names) == []


def test_recorded_requests_arrive_as_they_were_sent():
    requests = with_request(list(exchanges()))[::25]
    outcomes = asyncio.run(send_recorded(requests))
    assert not [(sent.exchange.id, sent.problems) for sent in outcomes if sent.problems]
    assert len(outcomes) > 60


def test_a_changed_request_is_noticed():
    exchange = next(
        exchange
        for exchange in with_request(list(exchanges()))
        if exchange.format == "anthropic" and exchange.request.get("tools")
    )
    reply = Reply(200, {}, b"{}")
    same = compare_request(exchange, reply, [dict(exchange.request)])
    assert not same.problems
    for changed in (
        {**exchange.request, "tools": exchange.request["tools"][1:]},
        {**exchange.request, "messages": exchange.request["messages"][:-1]},
        {**exchange.request, "max_tokens": 1},
    ):
        assert compare_request(exchange, reply, [changed]).problems
    # A field that the response names as left out is no loss.
    without = {
        name: value for name, value in exchange.request.items() if name != "tools"
    }
    dropped = Reply(200, {"x-modelyard-dropped": "tools"}, b"{}")
    assert not compare_request(exchange, dropped, [without]).problems


def test_spellings_of_one_request_are_the_same():
    short = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    long = {
        "model": "n",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "stream": False,
        "stop": [],
    }
    for name in ("openai_chat", "anthropic"):
        assert normalized(name, short) == normalized(name, long)


def test_the_readers_share_no_code_with_the_formats():
    folder = Path(__file__).parents[2] / "tools" / "show" / "reader"
    for path in folder.glob("*.py"):
        assert not re.search(
            r"^(from|import) modelyard", path.read_text(), re.MULTILINE
        )


def test_what_a_format_has_no_place_for_is_named_with_its_reason():
    facts = {"text": "a", "tier": "flex", "logprobs": [("a", -1.0)]}
    expected, unsaid = expected_facts(facts, "anthropic", is_same=False)
    assert expected == {"text": "a"}
    assert unsaid.keys() == {"tier", "logprobs"}
    assert differences(expected, {"text": "b"}, unsaid, "anthropic")
    # In the same format everything has a place.
    same, unsaid = expected_facts(facts, "anthropic", is_same=True)
    assert same == facts
    assert not unsaid
    assert all(NOT_SAYABLE.values())
    assert all(ADDED.values())
