"""Property tests for every chat format: a round trip is lossless, streaming or not."""

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.models.capabilities import Capabilities
from modelyard.models.llm import (
    LLMChoice,
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
    fold,
)
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    ImagePromptMessageContent,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    ThinkingPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
    assistant_of,
)
from tests.wire.formats import EGRESS, MODULES

pytestmark = pytest.mark.proof("format-laws")

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PARAMETERS: dict[str, Any] = {
    "temperature": 0.5, "top_p": 0.25, "top_k": 7, "max_tokens": 99, "presence_penalty": 0.5, "seed": 3,
    "frequency_penalty": 0.25,
}  # fmt: skip
SIGNING = ("anthropic", "gemini", "openai_responses", "openai_chat")
"""Formats in which thinking has a signature."""

words = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]),
    min_size=1,
    max_size=12,
).filter(lambda text: bool(text.strip()))
arguments = st.dictionaries(
    st.sampled_from(["a", "b", "city"]),
    words | st.integers(-9, 9) | st.booleans(),
    max_size=2,
)
usages = st.builds(
    lambda uncached, cached, completion: LLMUsage.of(uncached + cached, completion, cached_tokens=cached),
    st.integers(1, 999), st.integers(0, 99), st.integers(1, 999),
)  # fmt: skip


@st.composite
def calls(draw: st.DrawFn, max_calls: int = 3) -> list[ToolCall]:
    return [
        ToolCall(
            id=f"call_{draw(st.uuids()).hex}",
            function=ToolCallFunction(
                name=draw(st.sampled_from(["look", "find"])),
                arguments=compact(draw(arguments)),
            ),
        )
        for _ in range(draw(st.integers(0, max_calls)))
    ]


def compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()


@st.composite
def answers(draw: st.DrawFn, name: str) -> LLMResult:
    """Generate an answer of a model with this format."""
    blocks: list[Any] = []
    if name in SIGNING and draw(st.booleans()):
        origin = "anthropic" if name == "openai_chat" else name
        thought = ThinkingPromptMessageContent(
            data=draw(words), signature=draw(words), origin=origin
        )
        blocks.append(
            msgspec.structs.replace(thought, id="rs_1")
            if name == "openai_responses"
            else thought
        )
    tool_calls = [] if name == "openai_completions" else draw(calls())
    if not tool_calls or draw(st.booleans()):
        blocks.append(TextPromptMessageContent(data=draw(words)))
    reason = "tool_calls" if tool_calls else draw(st.sampled_from(["stop", "length"]))
    # Google's and Ollama's calls have ids of their own; only Google's format transports
    # ours.
    usage = (
        draw(usages)
        if name not in ("ollama", "openai_completions")
        else LLMUsage.of(5, 7)
    )
    if name in ("gemini", "anthropic", "bedrock"):
        usage = msgspec.structs.replace(
            usage, total_tokens=usage.prompt_tokens + usage.completion_tokens
        )
    choice = LLMChoice(
        message=assistant_of([*blocks, *tool_calls]), finish_reason=reason
    )
    return LLMResult(id="id-1", model="m", created=5, choices=[choice], usage=usage)


@st.composite
def requests(draw: st.DrawFn, name: str) -> LLMRequest:
    """Generate a conversation that every format can express.

    Roles alternate, and tool results follow their calls.
    """
    messages: list[AnyPromptMessage] = []
    if draw(st.booleans()):
        messages.append(SystemPromptMessage(content=draw(words)))
    for _ in range(draw(st.integers(1, 3))):
        messages.append(UserPromptMessage(content=draw(user_content(name))))
        tool_calls = draw(calls())
        answer_text = draw(words) if not tool_calls or draw(st.booleans()) else None
        messages.append(
            AssistantPromptMessage(content=answer_text, tool_calls=tool_calls)
        )
        if tool_calls:
            messages += [
                ToolPromptMessage(content=draw(words), tool_call_id=call.id)
                for call in tool_calls
            ]
            messages.append(AssistantPromptMessage(content=draw(words)))
    messages.append(UserPromptMessage(content=draw(words)))
    parameter_names = draw(
        st.sets(
            st.sampled_from(
                sorted(set(PARAMETERS) & MODULES[name].PARAMETERS - {"max_tokens"})
            )
        )
    )
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [PromptMessageTool(name="look", description=draw(words), parameters=schema)]
    return LLMRequest(
        messages=messages,
        model_parameters={
            "max_tokens": 99,
            **{parameter: PARAMETERS[parameter] for parameter in parameter_names},
        },
        tools=tools if name not in ("openai_completions",) else [],
        stop=draw(st.lists(words, max_size=2))
        if "stop" in MODULES[name].PARAMETERS
        else [],
        stream=draw(st.booleans()),
    )


@st.composite
def user_content(draw: st.DrawFn, name: str) -> Any:
    text = draw(words)
    if name in ("openai_completions", "ollama") or draw(st.booleans()):
        return text
    image = ImagePromptMessageContent(
        base64_data=PIXEL, mime_type="image/png", format="png"
    )
    return [TextPromptMessageContent(data=text), image]


def bare(value: Any) -> Any:
    """Return a value without the fields that a reader adds.

    These are where it was read, its format, and names that distinguish tool results.
    """
    built = _without_reader_fields(msgspec.to_builtins(value))
    if isinstance(value, list):
        return [alike(message) for message in built]
    return alike(built)


def _without_reader_fields(node: Any) -> Any:
    """Return a document without the fields that a reader adds, at every level."""
    if isinstance(node, list):
        return [_without_reader_fields(child) for child in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _without_reader_fields(child)
        for key, child in node.items()
        if key not in ("extra", "index", "origin")
    }


def alike(message: Any) -> Any:
    """Normalize a message.

    One text equals a list of one text, and a schema without `strict` is not strict.
    """
    content = message.get("content")
    if (
        isinstance(content, list)
        and len(content) == 1
        and content[0]["type"] == "text"
        and not content[0]["citations"]
    ):
        message["content"] = content[0]["data"]
    if "strict" in message:
        message["strict"] = bool(message["strict"])
    return message


CHAT = [name for name in MODULES if name != "openai_completions"]
relaxed = settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    deadline=None,
)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", sorted(CHAT))
@relaxed
@given(st.data())
def test_a_request_survives_a_round_trip(name: str, data: st.DataObject):
    request = data.draw(requests(name))
    module = MODULES[name]
    body = through_json(module.dump_request(request, "m", Capabilities()))
    stream = (
        {"stream": request.stream} if name in ("gemini", "bedrock", "dashscope") else {}
    )
    parsed_request = module.parse_request(body, **stream)
    assert parsed_request.format == name
    expected, actual = bare(request.messages), bare(parsed_request.messages)
    if name in ("gemini", "ollama"):  # names identify results
        for message in [*expected, *actual]:
            message.pop("name")
    # Calls have no ids: a result belongs to the first open call of its name.
    if name == "ollama":
        expected, actual = without_ids(expected), without_ids(actual)
    assert actual == expected
    assert bare(parsed_request.tools) == bare(request.tools)
    assert parsed_request.model_parameters == request.model_parameters
    assert (parsed_request.stop, parsed_request.stream) == (
        request.stop,
        request.stream,
    )


def without_ids(messages: list[Any]) -> list[Any]:
    for message in messages:
        message.pop("tool_call_id", None)
        for call in message.get("tool_calls") or ():
            call.pop("id")
    return messages


def same(expected_result: LLMResult, actual_result: LLMResult, name: str) -> None:
    expected, actual = bare(expected_result.message), bare(actual_result.message)
    for message in (expected, actual):
        for call in message.get("tool_calls", ()):
            if name == "ollama":
                call.pop("id")
    assert actual == expected
    assert actual_result.finish_reason == expected_result.finish_reason
    for count in (
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "cached_tokens",
        "reasoning_tokens",
    ):
        assert getattr(actual_result.usage, count) == getattr(
            expected_result.usage, count
        ), count


@pytest.mark.parametrize("name", sorted(MODULES))
@relaxed
@given(st.data())
def test_an_answer_survives_a_round_trip(name: str, data: st.DataObject):
    result = data.draw(answers(name))
    module = MODULES[name]
    same(result, module.parse_result(through_json(module.dump_result(result))), name)


@st.composite
def cut(draw: st.DrawFn, result: LLMResult) -> list[LLMResultChunk]:
    """Split an answer into a stream: texts, thinking and arguments are cut."""
    deltas: list[LLMResultChunkDelta] = []
    for block_index, block in enumerate(result.message.blocks):
        if isinstance(block, ToolCall):
            call_index = result.message.tool_calls.index(block)
            deltas += _cut_call(draw, block, call_index)
        elif isinstance(block, ThinkingPromptMessageContent):
            deltas += _cut_thinking(draw, block, block_index)
        elif isinstance(block, TextPromptMessageContent):
            deltas += _cut_text(draw, block, block_index)
    deltas.append(
        LLMResultChunkDelta(finish_reason=result.finish_reason, usage=result.usage)
    )
    return [
        LLMResultChunk(
            id=result.id, model=result.model, created=result.created, delta=delta
        )
        for delta in deltas
    ]


def _cut_call(
    draw: st.DrawFn, call: ToolCall, call_index: int
) -> Iterator[LLMResultChunkDelta]:
    """Yield the name of a call, then fragments of its arguments."""
    function = ToolCallFunction(name=call.function.name)
    start = msgspec.structs.replace(call, function=function, index=call_index)
    yield delta_of(tool_calls=[start])
    for fragment in draw(text_fragments(call.function.arguments)):
        function = ToolCallFunction(arguments=fragment)
        yield delta_of(tool_calls=[ToolCall(function=function, index=call_index)])


def _cut_thinking(
    draw: st.DrawFn, block: ThinkingPromptMessageContent, block_index: int
) -> Iterator[LLMResultChunkDelta]:
    """Yield fragments of the thinking, then its signature."""
    for fragment in draw(text_fragments(block.data)):
        part = msgspec.structs.replace(
            block, data=fragment, signature="", index=block_index
        )
        yield delta_of(content=[part])
    yield delta_of(content=[msgspec.structs.replace(block, data="", index=block_index)])


def _cut_text(
    draw: st.DrawFn, block: TextPromptMessageContent, block_index: int
) -> Iterator[LLMResultChunkDelta]:
    """Yield fragments of a text, all as strings or all as parts."""
    as_string = draw(st.booleans())
    for fragment in draw(text_fragments(block.data)):
        part = TextPromptMessageContent(data=fragment, index=block_index)
        yield delta_of(content=fragment if as_string else [part])


def delta_of(**message: Any) -> LLMResultChunkDelta:
    return LLMResultChunkDelta(message=AssistantPromptMessage(**message))


@st.composite
def text_fragments(draw: st.DrawFn, text: str) -> Sequence[str]:
    positions = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=3)))
    cuts = [0, *(position for position in positions if position < len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts) if end > start]


@pytest.mark.parametrize("name", sorted(MODULES))
@relaxed
@given(st.data())
def test_a_stream_folds_to_the_same_answer_after_a_round_trip(
    name: str, data: st.DataObject
):
    result = data.draw(answers(name))
    chunks = data.draw(cut(result))
    module = MODULES[name]
    same(result, fold(chunks), name)
    # In Google's format, thinking that is signed only at its end would be the signature
    # of the next part, so it is sent whole.
    if name == "gemini":
        chunks = list(result.as_chunks())
    events = through_json(list(module.dump_stream(chunks)))
    same(result, fold(module.parse_stream(events)), name)


@pytest.mark.parametrize("name", EGRESS)
@relaxed
@given(st.data())
def test_interleaved_calls_are_not_mixed_up(name: str, data: st.DataObject):
    """Some servers interleave the chunks of parallel calls."""
    tool_calls = data.draw(
        calls(max_calls=3).filter(lambda drawn_calls: len(drawn_calls) > 1)
    )
    first = [
        delta_of(
            tool_calls=[
                msgspec.structs.replace(
                    call,
                    function=ToolCallFunction(name=call.function.name),
                    index=index,
                )
            ]
        )
        for index, call in enumerate(tool_calls)
    ]
    halves = [
        (index, call.function.arguments[: len(call.function.arguments) // 2])
        for index, call in enumerate(tool_calls)
    ]
    rests = [
        (index, call.function.arguments[len(call.function.arguments) // 2 :])
        for index, call in enumerate(tool_calls)
    ]
    later = [
        delta_of(
            tool_calls=[
                ToolCall(function=ToolCallFunction(arguments=fragment), index=index)
            ]
        )
        for index, fragment in [*halves, *rests]
    ]
    end = LLMResultChunkDelta(finish_reason="tool_calls", usage=LLMUsage.of(1, 1))
    chunks = [
        LLMResultChunk(id="i", model="m", delta=delta)
        for delta in [*first, *later, end]
    ]
    folded = fold(
        MODULES[name].parse_stream(
            through_json(list(MODULES[name].dump_stream(chunks)))
        )
    )
    assert [call.function for call in folded.tool_calls] == [
        call.function for call in tool_calls
    ]


def unnumbered(
    call_id: str, name: str = "", arguments: str = ""
) -> LLMResultChunkDelta:
    """Return a fragment of a tool call without an index, as some servers send it."""
    function = ToolCallFunction(name=name, arguments=arguments)
    return delta_of(tool_calls=[ToolCall(id=call_id, function=function)])


@pytest.mark.parametrize("name", sorted(CHAT))
@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param(
            [
                unnumbered("a", "look", '{"x": '),
                unnumbered("", "", "1}"),
                unnumbered("b", "find", '{"y": 2}'),
                unnumbered("c", "look", '{"z": 3}'),
            ],
            id="new ids",
        ),
        pytest.param(
            [
                unnumbered("a", "look", '{"x": 1}'),
                unnumbered("b", "find", '{"y": '),
                unnumbered("b", "", "2}"),
                unnumbered("c", "look", '{"z": 3}'),
            ],
            id="an id in each fragment",
        ),
        pytest.param(
            [
                unnumbered("", "look", '{"x": 1}'),
                unnumbered("", "find", '{"y": 2}'),
                unnumbered("", "look", '{"z": 3}'),
            ],
            id="no ids",
        ),
    ],
)
def test_calls_without_an_index_stay_apart_in_a_stream(
    name: str, deltas: list[LLMResultChunkDelta]
):
    end = LLMResultChunkDelta(finish_reason="tool_calls", usage=LLMUsage.of(1, 1))
    chunks = [LLMResultChunk(id="i", model="m", delta=delta) for delta in deltas]
    chunks.append(LLMResultChunk(id="i", model="m", delta=end))
    module = MODULES[name]
    events = through_json(list(module.dump_stream(chunks)))
    for result in (fold(chunks), fold(module.parse_stream(events))):
        functions = [
            (call.function.name, json.loads(call.function.arguments))
            for call in result.tool_calls
        ]
        assert functions == [("look", {"x": 1}), ("find", {"y": 2}), ("look", {"z": 3})]


def continued(name: str, answer: dict[str, Any], result: LLMResult) -> dict[str, Any]:
    """Return the caller's next request: the answer, with results of its calls."""
    ids = [call.id for call in result.tool_calls]
    match name:
        case "openai_chat":
            return _continued_chat(answer, ids)
        case "anthropic":
            return _continued_messages(answer, ids)
        case "gemini":
            return _continued_contents(answer)
        case _:
            return _continued_input(answer, ids)


def _continued_chat(answer: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """Return the next request of OpenAI's chat format."""
    results = [
        {"role": "tool", "tool_call_id": call_id, "content": "ok"} for call_id in ids
    ]
    return {
        "messages": [
            {"role": "user", "content": "hi"},
            answer["choices"][0]["message"],
            *results,
            {"role": "user", "content": "on"},
        ]
    }


def _continued_messages(answer: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """Return the next request of Anthropic's format."""
    results = [
        {"type": "tool_result", "tool_use_id": call_id, "content": "ok"}
        for call_id in ids
    ]
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": answer["content"]},
        {"role": "user", "content": [*results, {"type": "text", "text": "on"}]},
    ]
    return {"messages": messages, "max_tokens": 9}


def _continued_contents(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the next request of Google's format, which names calls and has no ids."""
    content = answer["candidates"][0]["content"]
    names = [
        part["functionCall"]["name"]
        for part in content["parts"]
        if "functionCall" in part
    ]
    results = [
        {"functionResponse": {"name": name, "response": {"result": "ok"}}}
        for name in names
    ]
    first = {"role": "user", "parts": [{"text": "hi"}]}
    last = {"role": "user", "parts": [*results, {"text": "on"}]}
    return {"contents": [first, content, last]}


def _continued_input(answer: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """Return the next request of OpenAI's Responses format."""
    results = [
        {"type": "function_call_output", "call_id": call_id, "output": "ok"}
        for call_id in ids
    ]
    question = {"role": "user", "content": "hi"}
    return {"input": [question, *answer["output"], *results]}


@pytest.mark.parametrize("source", EGRESS)
@pytest.mark.parametrize("target", EGRESS)
@relaxed
@given(st.data())
def test_thinking_signatures_survive_any_format(
    source: str, target: str, data: st.DataObject
):
    """A caller of `target` gets an answer of `source` and returns it.

    The signature must arrive unchanged.
    """
    result = data.draw(answers(source))
    wire_answer = through_json(MODULES[target].dump_result(result))
    arrived = MODULES[target].parse_request(continued(target, wire_answer, result))
    sent = json.dumps(
        MODULES[source].dump_request(arrived, "m", Capabilities()), ensure_ascii=False
    )
    for part in result.message.parts:
        if isinstance(part, ThinkingPromptMessageContent) and part.signature:
            assert json.dumps(part.signature, ensure_ascii=False)[1:-1] in sent


@given(st.lists(usages, max_size=5))
def test_usage_adds_up(usage_list: list[LLMUsage]):
    total = sum(usage_list, LLMUsage.empty_usage())
    assert total.prompt_tokens == sum(usage.prompt_tokens for usage in usage_list)
    assert total.cached_tokens == sum(usage.cached_tokens for usage in usage_list)
    assert total.total_price is None or total.total_price == Decimal(0)
