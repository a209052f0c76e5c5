"""Parallel tool calls, however their server numbers and names them."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.models.llm import LLMResult, fold
from modelyard.models.tool_call_reader import JsonEnd
from modelyard.wire import anthropic, cohere, gemini, openai_chat, openai_responses

CITIES = ("Beijing", "Shanghai", "Guangzhou")
EXPECTED = [("get_weather", {"city": city}) for city in CITIES]
ANSWERS: dict[str, Any] = {
    "chat": openai_chat,
    "responses": openai_responses,
    "messages": anthropic,
    "gemini": gemini,
}


def event(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c1", "model": "m", "choices": [choice]}


def fragment(
    index: int | None = None, call_id: str = "", name: str = "", text: str = ""
) -> dict[str, Any]:
    call: dict[str, Any] = {"type": "function", "function": {"arguments": text}}
    if name:
        call["function"]["name"] = name
    if call_id:
        call["id"] = call_id
    if index is not None:
        call["index"] = index
    return event({"tool_calls": [call]})


def full_arguments(number: int) -> str:
    return json.dumps({"city": CITIES[number]})


def argument_pieces(number: int) -> list[str]:
    text = full_arguments(number)
    return [text[:4], text[4:9], text[9:]]


def complete(
    indexes: Iterable[int | None], ids: Iterable[str], name: str = "get_weather"
) -> list[dict[str, Any]]:
    return [
        fragment(index, call_id, name, full_arguments(number))
        for number, (index, call_id) in enumerate(zip(indexes, ids, strict=True))
    ]


def in_pieces(
    indexes: Iterable[int | None], ids: Iterable[str], *, repeated: bool = False
) -> list[dict[str, Any]]:
    fragments: list[dict[str, Any]] = []
    for number, (index, call_id) in enumerate(zip(indexes, ids, strict=True)):
        fragments.append(fragment(index, call_id, "get_weather"))
        name = "get_weather" if repeated else ""
        again = call_id if repeated else ""
        fragments += [
            fragment(index, again, name, argument_piece)
            for argument_piece in argument_pieces(number)
        ]
    return fragments


IDS = ["a", "b", "c"]
STREAMS: dict[str, list[dict[str, Any]]] = {
    "index 0 always": complete([0, 0, 0], IDS),
    "no index": complete([None] * 3, IDS),
    "no index and no id": complete([None] * 3, [""] * 3),
    "index 0 and no id": complete([0, 0, 0], [""] * 3),
    "from 1 on": complete([1, 2, 3], IDS),
    "one id for all": complete([0, 1, 2], ["x", "x", "x"]),
    "empty ids": complete([0, 1, 2], ["", "", ""]),
    "pieces under index 0": in_pieces([0, 0, 0], IDS),
    "pieces without index": in_pieces([None] * 3, IDS),
    "pieces under index 0 without ids": in_pieces([0, 0, 0], [""] * 3),
    "pieces with everything repeated": in_pieces([0, 0, 0], IDS, repeated=True),
    "pieces from 1 on": in_pieces([1, 2, 3], IDS),
    "text between": [
        complete([0], ["a"])[0],
        event({"content": "and"}),
        fragment(0, "b", "get_weather", full_arguments(1)),
        event({"content": "and"}),
        fragment(0, "c", "get_weather", full_arguments(2)),
    ],
    "late ids": [
        part
        for number, call_id in enumerate(IDS)
        for part in (
            fragment(number, "", "get_weather"),
            fragment(number, call_id, "", full_arguments(number)),
        )
    ],
    "late names": [
        part
        for number, call_id in enumerate(IDS)
        for part in (
            fragment(number, call_id),
            fragment(number, "", "get_weather", full_arguments(number)),
        )
    ],
    "a new id in every fragment": [
        part
        for number in range(3)
        for part in (
            fragment(number, f"{number}-", "get_weather"),
            *[
                fragment(number, f"{number}-{position}", "", argument_piece)
                for position, argument_piece in enumerate(argument_pieces(number))
            ],
        )
    ],
    "interleaved": [fragment(number, IDS[number], "get_weather") for number in range(3)]
    + [
        fragment(number, "", "", argument_pieces(number)[position])
        for position in range(3)
        for number in range(3)
    ],
}


def calls_of(result: LLMResult) -> list[tuple[str, Any]]:
    return [
        (call.function.name, json.loads(call.function.arguments))
        for call in result.tool_calls
    ]


@pytest.mark.parametrize("target", ANSWERS)
@pytest.mark.parametrize("stream", STREAMS)
def test_three_calls_are_three_in_every_answer(stream: str, target: str):
    documents = [*STREAMS[stream], event({}, "tool_calls")]
    chunks = list(openai_chat.parse_stream(documents))
    module = ANSWERS[target]
    written = list(module.dump_stream(chunks))
    result = fold(list(module.parse_stream(json.loads(json.dumps(written)))))
    assert calls_of(result) == EXPECTED
    ids = [call.id for call in result.tool_calls]
    assert len(set(ids)) == 3
    assert all(ids)
    assert calls_of(fold(chunks)) == EXPECTED


def test_chat_numbers_them_from_zero():
    chunks = openai_chat.parse_stream([*STREAMS["from 1 on"], event({}, "tool_calls")])
    choices = [
        choice
        for written in openai_chat.dump_stream(list(chunks))
        for choice in written["choices"]
    ]
    calls = [choice["delta"].get("tool_calls") or () for choice in choices]
    assert [call["index"] for delta in calls for call in delta] == [0, 1, 2]


def test_a_complete_answer_without_ids_gets_some():
    function: dict[str, Any] = {"name": "f", "arguments": "{}"}
    message: dict[str, Any] = {
        "role": "assistant",
        "tool_calls": [{"function": function}] * 2,
    }
    body: dict[str, Any] = {
        "id": "c",
        "choices": [{"message": message, "finish_reason": "stop"}],
    }
    ids = [call.id for call in openai_chat.parse_result(body).tool_calls]
    assert len(set(ids)) == 2
    assert all(ids)


def item_events(index_of: Callable[[int], int], *, added: bool) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    for number, call_id in enumerate(IDS):
        item: dict[str, Any] = {
            "type": "function_call",
            "id": f"fc_{call_id}",
            "call_id": call_id,
            "name": "get_weather",
            "arguments": full_arguments(number),
        }
        position = {"output_index": index_of(number)}
        if added:
            begun = {**item, "arguments": ""}
            kind = "response.output_item.added"
            documents.append({"type": kind, "item": begun, **position})
        kind = "response.output_item.done"
        documents.append({"type": kind, "item": item, **position})
    end: dict[str, Any] = {"id": "r", "status": "completed", "output": []}
    return [*documents, {"type": "response.completed", "response": end}]


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("is_numbered", [False, True])
def test_items_at_one_position_are_several_calls(is_numbered: bool, added: bool):
    documents = item_events(lambda number: number * is_numbered, added=added)
    result = fold(list(openai_responses.parse_stream(documents)))
    assert calls_of(result) == EXPECTED
    assert [call.id for call in result.tool_calls] == IDS


def test_coheres_calls_under_index_zero():
    documents: list[dict[str, Any]] = [{"type": "message-start", "id": "m"}]
    for number, call_id in enumerate(IDS):
        function: dict[str, Any] = {
            "name": "get_weather",
            "arguments": full_arguments(number),
        }
        called: dict[str, Any] = {
            "id": call_id,
            "type": "function",
            "function": function,
        }
        delta: dict[str, Any] = {"message": {"tool_calls": called}}
        documents.append({"type": "tool-call-start", "index": 0, "delta": delta})
    end: dict[str, Any] = {"finish_reason": "TOOL_CALL"}
    documents.append({"type": "message-end", "delta": end})
    assert calls_of(fold(list(cohere.parse_stream(documents)))) == EXPECTED


JSON_VALUES = st.recursive(
    st.text(alphabet='ab"\\{}[]é', max_size=6) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), JSON_VALUES, max_size=3), st.integers(1, 5))
def test_the_end_of_an_object_is_found_in_any_pieces(value: Any, size: int):
    text = json.dumps(value)
    end = JsonEnd()
    for position in range(0, len(text), size):
        assert not end.is_complete
        end.feed(text[position : position + size])
    assert end.is_complete
