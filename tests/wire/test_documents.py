"""Documents with many fields: what a format reads of them it writes again."""

import json
from typing import Any

import pytest

from modelyard.models.capabilities import Capabilities
from modelyard.models.llm import fold
from tests.wire.formats import MODULES

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
REQUESTS: dict[str, dict[str, Any]] = {
    "openai_chat": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief.", "name": "boss"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look.", "x_mark": 1},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                    {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
                ],
            },
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}, "x_call": 2},
                    {"id": "c2", "type": "custom", "custom": {"name": "run", "input": "ls"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "ok"},
            {"role": "tool", "tool_call_id": "c2", "content": "ok"},
            {"role": "user", "content": "Go on."},
        ],
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "d", "parameters": SCHEMA, "strict": True, "x_f": 3}},
            {"type": "custom", "custom": {"name": "run", "description": "r"}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "temperature": 0.5,
        "max_tokens": 99,
        "stop": ["x"],
        "user": "alice",
    },
    "anthropic": {
        "model": "m",
        "max_tokens": 4096,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}, "title": "t", "citations": {"enabled": True}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "s1"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"city": "Oslo"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "no", "is_error": True},
                    {"type": "text", "text": "Go on."},
                ],
            },
        ],
        "tools": [{"name": "look", "description": "d", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "tool", "name": "look"},
        "stop_sequences": ["x"],
        "metadata": {"user_id": "alice"},
        "thinking": {"type": "enabled", "budget_tokens": 2048},
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "Look."},
                    {"inlineData": {"mimeType": "image/png", "data": PIXEL}},
                    {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
                    {"fileData": {"mimeType": "application/pdf", "fileUri": "https://x.example/a.pdf"}},
                ],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "Hm.", "thought": True},
                    {"text": "I look."},
                    {"functionCall": {"name": "look", "args": {"city": "Oslo"}}, "thoughtSignature": "c2ln"},
                ],
            },
            {"role": "user", "parts": [{"functionResponse": {"name": "look", "response": {"result": "ok"}}}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "look", "description": "d", "parametersJsonSchema": SCHEMA}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
        "generationConfig": {
            "temperature": 0.5, "topP": 0.25, "topK": 7, "maxOutputTokens": 99, "seed": 3, "stopSequences": ["x"],
            "thinkingConfig": {"includeThoughts": True, "thinkingBudget": 2048},
        },
    },
    "openai_responses": {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look."},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "low"},
                    {"type": "input_file", "file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "s1"},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "run", "input": "ls"},
            {"type": "function_call_output", "call_id": "c1", "output": "ok"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "ok"},
            {"role": "user", "content": "Go on."},
        ],
        "tools": [
            {"type": "function", "name": "look", "description": "d", "parameters": SCHEMA, "strict": True},
            {"type": "custom", "name": "run", "description": "r"},
        ],
        "tool_choice": {"type": "function", "name": "look"},
        "temperature": 0.5,
        "max_output_tokens": 99,
        "reasoning": {"effort": "low", "summary": "auto"},
    },
    "bedrock": {
        "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"text": "Look."},
                    {"image": {"format": "png", "source": {"bytes": PIXEL}}},
                    {"document": {"format": "pdf", "name": "a", "source": {"bytes": "AAAA"}}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s1"}}},
                    {"text": "I look."},
                    {"toolUse": {"toolUseId": "c1", "name": "look", "input": {"city": "Oslo"}}},
                ],
            },
            {"role": "user", "content": [{"toolResult": {"toolUseId": "c1", "content": [{"text": "no"}], "status": "error"}}, {"text": "Go on."}]},
        ],
        "toolConfig": {
            "tools": [{"toolSpec": {"name": "look", "description": "d", "inputSchema": {"json": SCHEMA}}}],
            "toolChoice": {"tool": {"name": "look"}},
        },
        "inferenceConfig": {"temperature": 0.5, "topP": 0.25, "maxTokens": 99, "stopSequences": ["x"]},
    },
}  # fmt: skip

ANSWERS: dict[str, dict[str, Any]] = {
    "openai_chat": {
        "id": "a1", "object": "chat.completion", "created": 5, "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "See Oslo.",
                    "refusal": None,
                    "annotations": [
                        {"type": "url_citation", "url_citation": {"url": "https://x.example", "title": "X", "start_index": 4, "end_index": 8}},
                    ],
                    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
                },
                "logprobs": {"content": [{"token": "See", "logprob": -0.5, "bytes": [83], "top_logprobs": []}]},
                "finish_reason": "tool_calls",
            },
        ],
        "usage": {
            "prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 3},
        },
        "system_fingerprint": "fp", "service_tier": "flex",
    },
    "anthropic": {
        "id": "a1", "type": "message", "role": "assistant", "model": "m",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s1"},
            {"type": "redacted_thinking", "data": "r1"},
            {"type": "text", "text": "See Oslo.", "citations": None},
            {"type": "tool_use", "id": "c1", "name": "look", "input": {"city": "Oslo"}, "caller": {"type": "direct"}},
        ],
        "stop_reason": "tool_use", "stop_sequence": None, "stop_details": None, "container": None,
        "usage": {"input_tokens": 6, "output_tokens": 20, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3},
    },
    "gemini": {
        "responseId": "a1", "modelVersion": "m",
        "candidates": [
            {
                "index": 0,
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "Hm.", "thought": True},
                        {"text": "See Oslo."},
                        {"functionCall": {"name": "look", "args": {"city": "Oslo"}}, "thoughtSignature": "c2ln"},
                    ],
                },
                "finishReason": "STOP",
                "logprobsResult": {
                    "topCandidates": [{"candidates": [{"token": "See", "logProbability": -0.5}]}],
                    "chosenCandidates": [{"token": "See", "logProbability": -0.5}],
                },
            },
        ],
        "usageMetadata": {
            "promptTokenCount": 10, "candidatesTokenCount": 15, "totalTokenCount": 30,
            "cachedContentTokenCount": 4, "thoughtsTokenCount": 5,
        },
    },
    "bedrock": {
        "output": {
            "message": {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s1"}}},
                    {"text": "See Oslo."},
                    {"toolUse": {"toolUseId": "c1", "name": "look", "input": {"city": "Oslo"}}},
                ],
            },
        },
        "stopReason": "tool_use",
        "usage": {"inputTokens": 6, "outputTokens": 20, "totalTokens": 33, "cacheReadInputTokens": 4, "cacheWriteInputTokens": 3},
        "metrics": {"latencyMs": 0},
    },
    "openai_responses": {
        "id": "resp_1", "object": "response", "created_at": 5, "status": "completed", "model": "m",
        "output": [
            {
                "type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}],
                "encrypted_content": "s1",
            },
            {
                "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                "content": [
                    {
                        "type": "output_text", "text": "See Oslo.", "logprobs": [],
                        "annotations": [{"type": "url_citation", "url": "https://x.example", "title": "X", "start_index": 4, "end_index": 8}],
                    },
                ],
            },
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": "{}", "status": "completed"},
        ],
        "usage": {
            "input_tokens": 10, "output_tokens": 20, "total_tokens": 30,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens_details": {"reasoning_tokens": 5},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_written_as_it_was_read(name: str):
    module = MODULES[name]
    request = module.parse_request(REQUESTS[name])
    assert module.dump_request(request, "m", Capabilities()) == REQUESTS[name]


FUNCTIONS = {
    "mode": "auto",
    "tools": [{"type": "function", "function": {"name": "look"}}],
}
TOOL_CHOICES: dict[str, tuple[tuple[str, ...], list[Any]]] = {
    "openai_chat": (
        ("tool_choice",),
        ["auto", "none", "required", {"type": "custom", "custom": {"name": "run"}}, {"type": "allowed_tools", "allowed_tools": FUNCTIONS}],
    ),
    "anthropic": (
        ("tool_choice",),
        [{"type": "auto"}, {"type": "any"}, {"type": "none"}, {"type": "auto", "disable_parallel_tool_use": True}],
    ),
    "gemini": (("toolConfig", "functionCallingConfig"), [{"mode": "AUTO"}, {"mode": "NONE"}, {"mode": "ANY"}]),
    "openai_responses": (
        ("tool_choice",),
        ["auto", "none", "required", {"type": "custom", "name": "run"}, {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]}],
    ),
    "bedrock": (("toolConfig", "toolChoice"), [{"auto": {}}, {"any": {}}]),
}  # fmt: skip
"""The path of the field in a request, and its values."""


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        (name, choice)
        for name, (_, choices) in TOOL_CHOICES.items()
        for choice in choices
    ],
)
def test_a_choice_of_tools_is_written_as_it_was_read(name: str, choice: Any):
    module, (*parents, field) = MODULES[name], TOOL_CHOICES[name][0]
    body = json.loads(json.dumps(REQUESTS[name]))
    # With thinking, some formats let a model choose freely only.
    body.pop("thinking", None)
    part = body
    for parent in parents:
        part = part[parent]
    part[field] = choice
    assert module.dump_request(module.parse_request(body), "m", Capabilities()) == body


def check_answer(name: str, document: dict[str, Any]) -> None:
    """Check that a document is the one of ANSWERS."""
    expected = ANSWERS[name]
    # This format also repeats the settings of the request.
    if name == "openai_responses":
        assert document["tool_choice"] == "auto"
        document = {field: document[field] for field in expected}
    assert document == expected


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_written_as_it_was_read(name: str):
    module = MODULES[name]
    check_answer(name, module.dump_result(module.parse_result(ANSWERS[name])))


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_the_same_after_a_stream(name: str):
    module = MODULES[name]
    result = module.parse_result(ANSWERS[name])
    events = json.loads(json.dumps(list(module.dump_stream(result.as_chunks()))))
    check_answer(name, module.dump_result(fold(module.parse_stream(events))))
