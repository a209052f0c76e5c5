"""What translation costs: CPU for a request and an answer of 2 kB and for one chunk of a stream, a format at a time.

Reading is decoding the bytes and making our types of them; its yardstick is msgspec's bare decoding of the same bytes,
measured in the same round. Writing is the way back, to bytes; its yardstick is msgspec's bare encoding.
"""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec

from modelyard.models.llm import LLMChoice, LLMRequest, LLMResult, LLMResultChunk, LLMResultChunkDelta, LLMUsage
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
    openai_chat, openai_responses, anthropic, gemini, bedrock, cohere, ollama, dashscope, openai_completions,
]  # fmt: skip
_ROUNDS = 7
_SECONDS = 0.03
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. "


def request() -> LLMRequest:
    """About 2 kB: a system prompt, a short conversation with a call in it, a tool."""
    call = ToolCall(id="call_1", function=ToolCallFunction(name="look", arguments='{"city":"Oslo"}'))
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
        tools=[PromptMessageTool(name="look", description="How is the weather there?", parameters=schema)],
    )


def answer(module: ModuleType) -> LLMResult:
    """About 2 kB: a text and two calls."""
    calls = [
        ToolCall(id=f"call_{place}", function=ToolCallFunction(name="look", arguments='{"city":"' + "Oslo" * 20 + '"}'))
        for place in range(2)
    ]
    blocks: list[Any] = [TextPromptMessageContent(data=_TEXT * 20)]
    message = assistant_of(blocks if module is openai_completions else [*blocks, *calls])
    usage = LLMUsage.of(700, 300, cached_tokens=128)
    return LLMResult(
        id="id-1", model="m", created=1, choices=[LLMChoice(message=message, finish_reason="stop")], usage=usage
    )


def spent(work: Callable[[], Any]) -> float:
    """Microseconds of CPU for one run, the least of several rounds."""
    times = 1
    while True:
        begun = time.process_time()
        for _ in range(times):
            work()
        if time.process_time() - begun > _SECONDS:
            break
        times *= 2
    best = float("inf")
    for _ in range(_ROUNDS):
        begun = time.process_time()
        for _ in range(times):
            work()
        best = min(best, (time.process_time() - begun) / times)
    return best * 1e6


def measure() -> list[dict[str, Any]]:
    return [row for module in MODULES for row in _of_format(module)]


def _of_format(module: ModuleType) -> list[dict[str, Any]]:
    asked, result = request(), answer(module)
    stated = _encode(module.dump_request(asked, "m", {}))
    said = _encode(module.dump_result(result))
    text = LLMResultChunk(
        id="id-1", model="m", created=1,
        delta=LLMResultChunkDelta(message=AssistantPromptMessage(content=[TextPromptMessageContent(data="word ", index=0)])),
    )  # fmt: skip
    piece = _encode(_chunk_event(module, text))
    parser = module.StreamParser()
    kwargs = {"response_id": "id-1", "created": 1, "model": "m"}
    dumper = module.StreamDumper(**kwargs)
    dumper.feed(text)
    read = [
        ("request", stated, lambda: module.parse_request(_decode(stated))),
        ("answer", said, lambda: module.parse_result(_decode(said))),
        ("chunk", piece, lambda: parser.feed(_decode(piece))),
    ]
    write = [
        ("request", stated, lambda: _encode(module.dump_request(asked, "m", {}))),
        ("answer", said, lambda: _encode(module.dump_result(result))),
        ("chunk", piece, lambda: [_encode(event) for event in dumper.feed(text)]),
    ]
    return [
        *(_row(module, "read", what, data, work, lambda data=data: _decode(data)) for what, data, work in read),
        *(_row(module, "write", what, data, work, _encoder(data)) for what, data, work in write),
    ]


def _encoder(data: bytes) -> Callable[[], Any]:
    document = _decode(data)
    return lambda: _encode(document)


def _chunk_event(module: ModuleType, chunk: LLMResultChunk) -> Any:
    """The event that a piece of text is: what a long stream is made of."""
    dumper = module.StreamDumper(response_id="id-1", created=1, model="m")
    dumper.feed(chunk)
    return dumper.feed(chunk)[-1]


def _row(
    module: ModuleType, way: str, what: str, data: bytes, work: Callable[[], Any], bare: Callable[[], Any]
) -> dict[str, Any]:
    cost, yardstick = spent(work), spent(bare)
    return {
        "format": module.FORMAT,
        "way": way,
        "what": what,
        "bytes": len(data),
        "us": round(cost, 2),
        "bare_us": round(yardstick, 2),
        "ratio": round(cost / yardstick, 1),
    }


def main() -> None:
    print(f"{'format':<20} {'way':<6} {'what':<8} {'bytes':>6} {'µs':>8} {'bare':>8} {'ratio':>6}")
    for row in measure():
        print(
            f"{row['format']:<20} {row['way']:<6} {row['what']:<8} {row['bytes']:>6} {row['us']:>8} {row['bare_us']:>8} {row['ratio']:>6}"
        )


if __name__ == "__main__":
    main()
