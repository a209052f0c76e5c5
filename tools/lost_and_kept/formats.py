"""The formats of callers and targets: how each is called, and how its vendor answers.

A target is a stand-in of the format's own vendor with a model of the catalogue.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]

CHAT = "openai_chat"
RESPONSES = "openai_responses"
ANTHROPIC = "anthropic"
GEMINI = "gemini"
COHERE = "cohere"
COMPLETIONS = "openai_completions"
BEDROCK = "bedrock"
OLLAMA = "ollama"
DASHSCOPE = "dashscope"

LABELS = {
    CHAT: "OpenAI chat",
    RESPONSES: "OpenAI responses",
    ANTHROPIC: "Anthropic",
    GEMINI: "Gemini",
    COHERE: "Cohere",
    COMPLETIONS: "OpenAI completions",
    BEDROCK: "Bedrock",
    OLLAMA: "Ollama",
    DASHSCOPE: "DashScope",
}


@dataclass(frozen=True)
class Caller:
    """A format in which the gateway is called."""

    path: str
    """`MODEL` stands for the model's name."""
    stream_path: str = ""
    """Path of streams, if it is another one."""
    body: JSON = field(default_factory=dict)
    """The smallest request."""


_TURN = [{"role": "user", "content": "hi"}]
CALLERS: Mapping[str, Caller] = {
    CHAT: Caller("/v1/chat/completions", body={"messages": _TURN}),
    RESPONSES: Caller("/v1/responses", body={"input": _TURN}),
    ANTHROPIC: Caller("/v1/messages", body={"messages": _TURN, "max_tokens": 4000}),
    GEMINI: Caller(
        "/v1beta/models/MODEL:generateContent",
        "/v1beta/models/MODEL:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    ),
    COHERE: Caller("/v2/chat", body={"messages": _TURN}),
    COMPLETIONS: Caller("/v1/completions", body={"prompt": "hi"}),
}


@dataclass(frozen=True)
class Target:
    """A format in which a vendor is called."""

    model: str
    """The model's name at the gateway: provider and model."""
    fields: frozenset[str]
    """The fields of a request that the vendor documents, on the top level."""
    inner: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Field with an object → the fields of that object."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CHAT_FIELDS = _names(
    "model messages tools tool_choice parallel_tool_calls temperature top_p n stop stream"
    " stream_options max_tokens max_completion_tokens presence_penalty frequency_penalty"
    " logit_bias logprobs top_logprobs user seed response_format service_tier store metadata"
    " modalities audio prediction reasoning_effort verbosity web_search_options"
    " safety_identifier prompt_cache_key prompt_cache_retention functions function_call"
)
_RESPONSES_FIELDS = _names(
    "model input instructions tools tool_choice parallel_tool_calls temperature top_p"
    " max_output_tokens max_tool_calls reasoning text stream stream_options user top_logprobs"
    " service_tier metadata include store truncation previous_response_id conversation prompt"
    " background safety_identifier prompt_cache_key prompt_cache_retention context_management"
)
_ANTHROPIC_FIELDS = _names(
    "model messages system max_tokens metadata stop_sequences stream temperature top_p top_k"
    " tools tool_choice thinking output_config service_tier container inference_geo"
    " cache_control speed context_management mcp_servers"
)
_GENERATION_FIELDS = _names(
    "stopSequences responseMimeType responseSchema responseJsonSchema responseModalities"
    " candidateCount maxOutputTokens temperature topP topK seed presencePenalty"
    " frequencyPenalty responseLogprobs logprobs speechConfig thinkingConfig imageConfig"
    " mediaResolution enableEnhancedCivicAnswers audioTimestamp"
)
_COHERE_FIELDS = _names(
    "model messages tools strict_tools documents citation_options response_format safety_mode"
    " max_tokens stop_sequences temperature seed frequency_penalty presence_penalty k p"
    " logprobs tool_choice thinking priority stream"
)

TARGETS: Mapping[str, Target] = {
    CHAT: Target("chat/gpt-reasoning", _CHAT_FIELDS),
    RESPONSES: Target("responses/gpt-reasoning", _RESPONSES_FIELDS),
    ANTHROPIC: Target("anthropic/claude-sonnet-4-5", _ANTHROPIC_FIELDS),
    GEMINI: Target(
        "gemini/gemini-3-pro-preview",
        _names(
            "contents systemInstruction tools toolConfig safetySettings generationConfig"
            " cachedContent serviceTier labels store"
        ),
        {"generationConfig": _GENERATION_FIELDS},
    ),
    COHERE: Target("cohere/command-a-reasoning-08-2025", _COHERE_FIELDS),
    BEDROCK: Target(
        "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0",
        _names(
            "messages system inferenceConfig toolConfig guardrailConfig promptVariables"
            " additionalModelRequestFields additionalModelResponseFieldPaths requestMetadata"
            " performanceConfig serviceTier outputConfig"
        ),
        {"inferenceConfig": _names("maxTokens temperature topP stopSequences")},
    ),
    OLLAMA: Target(
        "ollama/llama3.2",
        _names(
            "model messages tools format options stream keep_alive think logprobs top_logprobs"
        ),
    ),
    DASHSCOPE: Target(
        "dashscope/qwen3",
        _names("model input parameters"),
        {
            "parameters": _names(
                "result_format incremental_output temperature top_p top_k presence_penalty"
                " max_tokens seed n top_logprobs logprobs stop tools tool_choice"
                " enable_thinking thinking_budget response_format parallel_tool_calls"
            )
        },
    ),
}

USAGE: Mapping[str, JSON] = {
    CHAT: {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
    RESPONSES: {"input_tokens": 9, "output_tokens": 9, "total_tokens": 18},
    ANTHROPIC: {"input_tokens": 9, "output_tokens": 9},
    GEMINI: {"promptTokenCount": 9, "candidatesTokenCount": 9, "totalTokenCount": 18},
    COHERE: {"tokens": {"input_tokens": 9, "output_tokens": 9}},
    BEDROCK: {"inputTokens": 9, "outputTokens": 9, "totalTokens": 18},
    DASHSCOPE: {"input_tokens": 9, "output_tokens": 9},
}


def unknown_fields(target: str, body: JSON) -> list[str]:
    """Return the fields of a request that the target's vendor does not document."""
    known = TARGETS[target]
    unknown = [name for name in body if name not in known.fields]
    for name, inner in known.inner.items():
        unknown += [f"{name}.{key}" for key in body.get(name, {}) if key not in inner]
    return unknown


def target_of_path(path: str) -> str:
    """Return the target format that a request's path belongs to."""
    beginnings = {
        "/chat/completions": CHAT,
        "/responses": RESPONSES,
        "/messages": ANTHROPIC,
        "enerateContent": GEMINI,
        "/v2/chat": COHERE,
        "/converse": BEDROCK,
        "/api/chat": OLLAMA,
        "/services/aigc": DASHSCOPE,
    }
    return next(name for part, name in beginnings.items() if part in path)
