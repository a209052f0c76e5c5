"""CPU cost of translating wire formats: a request and an answer of 2 kB, and one chunk
of a stream, for each format.

Reading decodes the bytes and builds Modelyard's types from them. It is compared with
msgspec's plain decoding of the same bytes in the same round. Writing goes from the
types to bytes and is compared with msgspec's plain encoding.
"""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec

from modelyard.models.capabilities import DEFAULT_CAPABILITIES
from modelyard.models.llm import (
    LLMChoice,
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    PromptMessageTool,
    SystemPromptMessage,
    TextPromptMessageContent,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
    UserPromptMessage,
    assistant_of,
)
from modelyard.wire import (
    anthropic,
    bedrock,
    cohere,
    dashscope,
    gemini,
    ollama,
    openai_chat,
    openai_completions,
    openai_responses,
)

MODULES: list[ModuleType] = [
    openai_chat,
    openai_responses,
    anthropic,
    gemini,
    bedrock,
    cohere,
    ollama,
    dashscope,
    openai_completions,
]
_ROUNDS = 7
# A measured round takes at least this many seconds of CPU, because the process clock is
# coarse.
_SECONDS = 0.03
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_TEXT = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. "
)


def request() -> LLMRequest:
    """Return a request of about 2 kB: a system prompt, a short conversation with a tool
    call, and a tool."""
    call = ToolCall(
        id="call_1", function=ToolCallFunction(name="look", arguments='{"city":"Oslo"}')
    )
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Its name"}},
        "required": ["city"],
    }
    return LLMRequest(
        messages=[
            SystemPromptMessage(content=_TEXT * 6),
            UserPromptMessage(content=_TEXT * 5),
            AssistantPromptMessage(tool_calls=[call]),
            ToolPromptMessage(content=_TEXT, tool_call_id="call_1", name="look"),
            AssistantPromptMessage(content=_TEXT * 3),
            UserPromptMessage(content=_TEXT * 4),
        ],
        model_parameters={"max_tokens": 512, "temperature": 0.5},
        tools=[
            PromptMessageTool(
                name="look", description="How is the weather there?", parameters=schema
            )
        ],
    )


def answer(module: ModuleType) -> LLMResult:
    """Return an answer of about 2 kB: a text and two tool calls."""
    calls = [
        ToolCall(
            id=f"call_{index}",
            function=ToolCallFunction(
                name="look", arguments='{"city":"' + "Oslo" * 20 + '"}'
            ),
        )
        for index in range(2)
    ]
    blocks: list[Any] = [TextPromptMessageContent(data=_TEXT * 20)]
    # The completions format knows plain text only, so it gets no tool calls.
    message = assistant_of(
        blocks if module is openai_completions else [*blocks, *calls]
    )
    usage = LLMUsage.of(700, 300, cached_tokens=128)
    return LLMResult(
        id="id-1",
        model="m",
        created=1,
        choices=[LLMChoice(message=message, finish_reason="stop")],
        usage=usage,
    )


def cpu_microseconds(work: Callable[[], Any]) -> float:
    """Return the microseconds of CPU for one run of `work`, the minimum of several
    rounds."""
    # Double the number of runs until a round is long enough to measure.
    times = 1
    while True:
        started_at = time.process_time()
        for _ in range(times):
            work()
        if time.process_time() - started_at > _SECONDS:
            break
        times *= 2
    # The minimum is the cost without interruptions by other processes.
    best_seconds = float("inf")
    for _ in range(_ROUNDS):
        started_at = time.process_time()
        for _ in range(times):
            work()
        best_seconds = min(best_seconds, (time.process_time() - started_at) / times)
    return best_seconds * 1e6


def measure() -> list[dict[str, Any]]:
    """Return one row per format, direction (read, write) and subject (request, answer,
    chunk)."""
    return [row for module in MODULES for row in _of_format(module)]


def _of_format(module: ModuleType) -> list[dict[str, Any]]:
    """Return the rows of one format."""
    llm_request, result = request(), answer(module)
    stated = _encode(module.dump_request(llm_request, "m", DEFAULT_CAPABILITIES))
    result_body = _encode(module.dump_result(result))
    text = LLMResultChunk(
        id="id-1",
        model="m",
        created=1,
        delta=LLMResultChunkDelta(
            message=AssistantPromptMessage(
                content=[TextPromptMessageContent(data="word ", index=0)]
            )
        ),
    )
    chunk_body = _encode(_chunk_event(module, text))
    parser = module.StreamParser()
    kwargs = {"response_id": "id-1", "created": 1, "model": "m"}
    dumper = module.StreamDumper(**kwargs)
    # The first chunk of a stream emits extra events; feed it now, so that only the
    # usual case is measured.
    dumper.feed(text)
    read = [
        ("request", stated, lambda: module.parse_request(_decode(stated))),
        ("answer", result_body, lambda: module.parse_result(_decode(result_body))),
        ("chunk", chunk_body, lambda: parser.feed(_decode(chunk_body))),
    ]
    write = [
        (
            "request",
            stated,
            lambda: _encode(
                module.dump_request(llm_request, "m", DEFAULT_CAPABILITIES)
            ),
        ),
        ("answer", result_body, lambda: _encode(module.dump_result(result))),
        ("chunk", chunk_body, lambda: [_encode(event) for event in dumper.feed(text)]),
    ]
    return [
        # `data=data` binds the bytes of this row; a plain closure would see the last
        # row's.
        *(
            _row(module, "read", subject, data, work, lambda data=data: _decode(data))
            for subject, data, work in read
        ),
        *(
            _row(module, "write", subject, data, work, _encoder(data))
            for subject, data, work in write
        ),
    ]


def _encoder(data: bytes) -> Callable[[], Any]:
    """Return a function that encodes the decoded document of `data` again."""
    document = _decode(data)
    return lambda: _encode(document)


def _chunk_event(module: ModuleType, chunk: LLMResultChunk) -> Any:
    """Return the event for a text chunk in the middle of a stream."""
    dumper = module.StreamDumper(response_id="id-1", created=1, model="m")
    # The first chunk opens the message in some formats; the last event of the second is
    # the usual case.
    dumper.feed(chunk)
    return dumper.feed(chunk)[-1]


def _row(
    module: ModuleType,
    direction: str,
    subject: str,
    data: bytes,
    work: Callable[[], Any],
    baseline: Callable[[], Any],
) -> dict[str, Any]:
    """Return the row of one measurement: its cost, the baseline's, and their ratio."""
    cost, yardstick = cpu_microseconds(work), cpu_microseconds(baseline)
    return {
        "format": module.FORMAT,
        "way": direction,
        "what": subject,
        "bytes": len(data),
        "us": round(cost, 2),
        "bare_us": round(yardstick, 2),
        "ratio": round(cost / yardstick, 1),
    }


def main() -> None:
    """Print the table."""
    print(
        f"{'format':<20} {'way':<6} {'what':<8} {'bytes':>6} {'µs':>8} {'bare':>8} {'ratio':>6}"
    )
    for row in measure():
        print(
            f"{row['format']:<20} {row['way']:<6} {row['what']:<8} {row['bytes']:>6} {row['us']:>8} {row['bare_us']:>8} {row['ratio']:>6}"
        )


if __name__ == "__main__":
    main()
