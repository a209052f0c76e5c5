"""The features of answers, each as the vendors that have it write it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.lost_and_kept.answers import TEXT, answer_of
from tools.lost_and_kept.features import AUDIO, IMAGE, MARKER, Places
from tools.lost_and_kept.formats import (
    ANTHROPIC,
    BEDROCK,
    CALLERS,
    CHAT,
    COHERE,
    COMPLETIONS,
    DASHSCOPE,
    GEMINI,
    JSON,
    OLLAMA,
    RESPONSES,
    USAGE,
)


@dataclass(frozen=True)
class AnswerFeature:
    """A feature of answers."""

    name: str
    answers: Mapping[str, JSON]
    """Target → an answer that has the feature."""
    own: Places
    """Caller's format → the places that it has for the feature."""
    adapted: Places = field(default_factory=dict)
    """Caller's format → the places in which the feature has another form."""
    wanted: Any = MARKER
    requests: Mapping[str, JSON] = field(default_factory=dict)
    """Caller's format → the fields that ask for the feature."""
    unspecific: bool = False
    """Whether the vendors' answers differ in what is wanted, so that each caller has
    its own value in each place."""


def _at(locations: Mapping[str, Any]) -> Places:
    return {
        name: location if isinstance(location, tuple) else (location,)
        for name, location in locations.items()
    }


_URL = f"https://example.com/{MARKER}"
# Characters of one to four bytes in UTF-8, one of them two units of UTF-16.
CITED = "wahr ist"
SPOKEN = f"Grün: äö € 😀 {CITED}."
_START = SPOKEN.index(CITED)
_END = _START + len(CITED)
_START_BYTE = len(SPOKEN[:_START].encode())
_END_BYTE = _START_BYTE + len(CITED.encode())
TEXT_PLACES: Places = _at(
    {
        CHAT: "choices.*.message.content",
        RESPONSES: "output.*.content.*.text",
        ANTHROPIC: "content.*.text",
        GEMINI: "candidates.*.content.parts.*.text",
        COHERE: "message.content.*.text",
        COMPLETIONS: "choices.*.text",
    }
)


def _openai_annotation(start: int, end: int) -> JSON:
    return {"url": _URL, "title": "T", "start_index": start, "end_index": end}


_CITED_ANSWERS: Mapping[str, JSON] = {
    CHAT: answer_of(
        CHAT,
        message={
            "content": SPOKEN,
            "annotations": [
                {
                    "type": "url_citation",
                    "url_citation": _openai_annotation(_START, _END),
                }
            ],
        },
    ),
    RESPONSES: answer_of(
        RESPONSES,
        {
            "type": "output_text",
            "text": SPOKEN,
            "annotations": [
                {"type": "url_citation", **_openai_annotation(_START, _END)}
            ],
        },
    ),
    ANTHROPIC: answer_of(
        ANTHROPIC,
        {"type": "text", "text": SPOKEN[:_START]},
        {
            "type": "text",
            "text": CITED,
            "citations": [
                {
                    "type": "web_search_result_location",
                    "url": _URL,
                    "title": "T",
                    "cited_text": "Q",
                    "encrypted_index": "e",
                }
            ],
        },
        {"type": "text", "text": SPOKEN[_END:]},
    ),
    GEMINI: answer_of(
        GEMINI,
        {"text": SPOKEN},
        candidate={
            "groundingMetadata": {
                "groundingChunks": [{"web": {"uri": _URL, "title": "T"}}],
                "groundingSupports": [
                    {
                        "segment": {"startIndex": _START_BYTE, "endIndex": _END_BYTE},
                        "groundingChunkIndices": [0],
                    }
                ],
            }
        },
    ),
    COHERE: answer_of(
        COHERE,
        {"type": "text", "text": SPOKEN},
        message={
            "citations": [
                {
                    "start": _START,
                    "end": _END,
                    "text": CITED,
                    "sources": [
                        {
                            "type": "document",
                            "id": "d1",
                            "document": {"url": _URL, "title": "T"},
                        }
                    ],
                }
            ]
        },
    ),
    BEDROCK: answer_of(
        BEDROCK,
        {"text": SPOKEN[:_START]},
        {
            "citationsContent": {
                "content": [{"text": CITED}],
                "citations": [{"title": "T", "location": {"web": {"url": _URL}}}],
            }
        },
        {"text": SPOKEN[_END:]},
    ),
}
_URL_PLACES = _at(
    {
        CHAT: "choices.*.message.annotations.*.url_citation.url",
        RESPONSES: "output.*.content.*.annotations.*.url",
        ANTHROPIC: "content.*.citations.*.url",
        GEMINI: (
            "candidates.*.citationMetadata.citations.*.uri",
            "candidates.*.groundingMetadata.groundingChunks.*.web.uri",
        ),
        COHERE: "message.citations.*.sources.*.document.url",
    }
)
_N = {"n": 2}
_LOGPROB = {"token": TEXT, "logprob": -0.3125, "bytes": [1], "top_logprobs": []}
_THOUGHT = {"type": "thinking", "thinking": MARKER, "signature": "c2ln"}
_SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": MARKER}
_GEMINI_IMAGE = {"inlineData": {"mimeType": "image/png", "data": IMAGE}}
_GEMINI_AUDIO = {"inlineData": {"mimeType": "audio/wav", "data": AUDIO}}
_SEARCH_BLOCKS = (
    {
        "type": "server_tool_use",
        "id": "srvtoolu_1",
        "name": "web_search",
        "input": {"query": MARKER},
    },
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
    {"type": "text", "text": TEXT},
)


def _with_usage(target: str, **counts: Any) -> JSON:
    """Return an answer with further counts."""
    name = "usageMetadata" if target == GEMINI else "usage"
    return answer_of(target, **{name: {**USAGE[target], **counts}})


ANSWERS = (
    AnswerFeature(
        "text",
        {name: answer_of(name) for name in (*USAGE, OLLAMA)},
        TEXT_PLACES,
        wanted=TEXT,
    ),
    AnswerFeature("citation", _CITED_ANSWERS, _URL_PLACES),
    AnswerFeature(
        "place of a citation",
        _CITED_ANSWERS,
        {
            CHAT: (("cited", CITED),),
            RESPONSES: (("cited", CITED),),
            GEMINI: (("cited", CITED),),
            COHERE: (("cited", CITED),),
        },
        # Its citations belong to a whole block.
        {ANTHROPIC: (("cited", CITED),), RESPONSES: (("cited", CITED),)},
        wanted=CITED,
    ),
    AnswerFeature(
        "citation of a document",
        {
            ANTHROPIC: answer_of(
                ANTHROPIC,
                {
                    "type": "text",
                    "text": TEXT,
                    "citations": [
                        {
                            "type": "char_location",
                            "document_index": 0,
                            "document_title": MARKER,
                            "cited_text": "Q",
                            "start_char_index": 0,
                            "end_char_index": 1,
                        }
                    ],
                },
            ),
            RESPONSES: answer_of(
                RESPONSES,
                {
                    "type": "output_text",
                    "text": TEXT,
                    "annotations": [
                        {
                            "type": "file_citation",
                            "file_id": "file_1",
                            "filename": MARKER,
                            "index": 3,
                        }
                    ],
                },
            ),
            BEDROCK: answer_of(
                BEDROCK,
                {
                    "citationsContent": {
                        "content": [{"text": TEXT}],
                        "citations": [
                            {
                                "title": MARKER,
                                "location": {"documentChar": {"documentIndex": 0}},
                            }
                        ],
                    }
                },
            ),
        },
        _at(
            {
                ANTHROPIC: (
                    "content.*.citations.*.document_title",
                    "content.*.citations.*.title",
                ),
                RESPONSES: (
                    "output.*.content.*.annotations.*.filename",
                    "output.*.content.*.annotations.*.title",
                ),
                COHERE: "message.citations.*.sources.*.document.title",
                CHAT: "choices.*.message.annotations.*.url_citation.title",
                GEMINI: "candidates.*.citationMetadata.citations.*.title",
            }
        ),
    ),
    AnswerFeature(
        "logprobs",
        {
            CHAT: answer_of(CHAT, choice={"logprobs": {"content": [_LOGPROB]}}),
            RESPONSES: answer_of(
                RESPONSES,
                {
                    "type": "output_text",
                    "text": TEXT,
                    "annotations": [],
                    "logprobs": [_LOGPROB],
                },
            ),
            GEMINI: answer_of(
                GEMINI,
                candidate={
                    "logprobsResult": {
                        "chosenCandidates": [
                            {"token": TEXT, "logProbability": -0.3125}
                        ],
                        "topCandidates": [{"candidates": []}],
                    }
                },
            ),
            COHERE: answer_of(
                COHERE,
                logprobs=[{"text": TEXT, "token_ids": [1], "logprobs": [-0.3125]}],
            ),
            OLLAMA: answer_of(OLLAMA, logprobs=[_LOGPROB]),
            DASHSCOPE: answer_of(
                DASHSCOPE, choice={"logprobs": {"content": [_LOGPROB]}}
            ),
        },
        _at(
            {
                CHAT: "choices.*.logprobs.content.*.logprob",
                RESPONSES: "output.*.content.*.logprobs.*.logprob",
                GEMINI: "candidates.*.logprobsResult.chosenCandidates.*.logProbability",
                COHERE: "logprobs.*.logprobs.*",
            }
        ),
        wanted=-0.3125,
        requests={
            CHAT: {"logprobs": True},
            RESPONSES: {"include": ["message.output_text.logprobs"]},
            GEMINI: {"generationConfig": {"responseLogprobs": True}},
            COHERE: {"logprobs": True},
        },
    ),
    AnswerFeature(
        "several choices",
        {
            CHAT: answer_of(
                CHAT,
                choices=[
                    {
                        "index": 1,
                        "message": {"role": "assistant", "content": MARKER},
                        "finish_reason": "stop",
                    }
                ],
            ),
            GEMINI: answer_of(
                GEMINI,
                candidates=[
                    {
                        "content": {"role": "model", "parts": [{"text": MARKER}]},
                        "finishReason": "STOP",
                        "index": 1,
                    }
                ],
            ),
            DASHSCOPE: answer_of(
                DASHSCOPE,
                choices=[
                    {
                        "index": 1,
                        "message": {"role": "assistant", "content": MARKER},
                        "finish_reason": "stop",
                    }
                ],
            ),
        },
        _at(
            {
                CHAT: "choices.1.message.content",
                GEMINI: "candidates.1.content.parts.*.text",
                COMPLETIONS: "choices.1.text",
            }
        ),
        requests={
            CHAT: _N,
            COMPLETIONS: _N,
            GEMINI: {"generationConfig": {"candidateCount": 2}},
        },
    ),
    AnswerFeature(
        "thoughts",
        {
            CHAT: answer_of(CHAT, message={"reasoning_content": MARKER}),
            RESPONSES: answer_of(
                RESPONSES,
                items=[
                    {
                        "type": "reasoning",
                        "id": "rs_1",
                        "summary": [{"type": "summary_text", "text": MARKER}],
                    }
                ],
            ),
            ANTHROPIC: answer_of(ANTHROPIC, _THOUGHT, {"type": "text", "text": TEXT}),
            GEMINI: answer_of(
                GEMINI, {"text": MARKER, "thought": True}, {"text": TEXT}
            ),
            COHERE: answer_of(
                COHERE,
                {"type": "thinking", "thinking": MARKER},
                {"type": "text", "text": TEXT},
            ),
            BEDROCK: answer_of(
                BEDROCK,
                {"reasoningContent": {"reasoningText": {"text": MARKER}}},
                {"text": TEXT},
            ),
            OLLAMA: answer_of(OLLAMA, message={"thinking": MARKER}),
            DASHSCOPE: answer_of(DASHSCOPE, message={"reasoning_content": MARKER}),
        },
        _at(
            {
                CHAT: "choices.*.message.reasoning_content",
                RESPONSES: "output.*.summary.*.text",
                ANTHROPIC: "content.*.thinking",
                GEMINI: "candidates.*.content.parts.*.text",
                COHERE: "message.content.*.thinking",
            }
        ),
    ),
    AnswerFeature(
        "signature of thoughts",
        {
            RESPONSES: answer_of(
                RESPONSES,
                items=[
                    {
                        "type": "reasoning",
                        "id": "rs_1",
                        "summary": [],
                        "encrypted_content": MARKER,
                    }
                ],
            ),
            ANTHROPIC: answer_of(ANTHROPIC, _SIGNED, {"type": "text", "text": TEXT}),
            GEMINI: answer_of(
                GEMINI,
                {"text": "Hm.", "thought": True, "thoughtSignature": MARKER},
                {"text": TEXT},
            ),
            BEDROCK: answer_of(
                BEDROCK,
                {
                    "reasoningContent": {
                        "reasoningText": {"text": "Hm.", "signature": MARKER}
                    }
                },
                {"text": TEXT},
            ),
        },
        _at(
            {
                CHAT: (
                    "choices.*.message.reasoning_details.*.signature",
                    "choices.*.message.reasoning_details.*.data",
                ),
                RESPONSES: "output.*.encrypted_content",
                ANTHROPIC: ("content.*.signature", "content.*.data"),
                GEMINI: "candidates.*.content.parts.*.thoughtSignature",
            }
        ),
    ),
    AnswerFeature(
        "hidden thoughts",
        {
            ANTHROPIC: answer_of(
                ANTHROPIC,
                {"type": "redacted_thinking", "data": MARKER},
                {"type": "text", "text": TEXT},
            ),
            BEDROCK: answer_of(
                BEDROCK,
                {"reasoningContent": {"redactedContent": MARKER}},
                {"text": TEXT},
            ),
        },
        _at(
            {
                CHAT: "choices.*.message.reasoning_details.*.data",
                RESPONSES: "output.*.encrypted_content",
                ANTHROPIC: "content.*.data",
                GEMINI: "candidates.*.content.parts.*.thoughtSignature",
            }
        ),
    ),
    AnswerFeature(
        "plan before calls",
        {COHERE: answer_of(COHERE, message={"tool_plan": MARKER})},
        _at({COHERE: "message.tool_plan"}),
        _at(
            {
                CHAT: "choices.*.message.reasoning_content",
                RESPONSES: "output.*.summary.*.text",
                ANTHROPIC: "content.*.thinking",
                GEMINI: "candidates.*.content.parts.*.text",
            }
        ),
    ),
    AnswerFeature(
        "image",
        {
            CHAT: answer_of(
                CHAT,
                message={
                    "images": [
                        {
                            "type": "image_url",
                            "image_url": {"url": f"data:image/png;base64,{IMAGE}"},
                        }
                    ]
                },
            ),
            RESPONSES: answer_of(
                RESPONSES,
                items=[
                    {
                        "type": "image_generation_call",
                        "id": "ig_1",
                        "status": "completed",
                        "result": IMAGE,
                    }
                ],
            ),
            GEMINI: answer_of(GEMINI, {"text": TEXT}, _GEMINI_IMAGE),
        },
        _at(
            {
                CHAT: "choices.*.message.images.*.image_url.url",
                RESPONSES: "output.*.result",
                GEMINI: "candidates.*.content.parts.*.inlineData.data",
            }
        ),
        # A block of its requests.
        _at({ANTHROPIC: "content.*.source.data"}),
        wanted=IMAGE,
    ),
    AnswerFeature(
        "audio",
        {
            CHAT: answer_of(
                CHAT,
                message={
                    "content": None,
                    "audio": {"id": "a1", "data": AUDIO, "transcript": "t"},
                },
            ),
            GEMINI: answer_of(GEMINI, _GEMINI_AUDIO),
        },
        _at(
            {
                CHAT: "choices.*.message.audio.data",
                GEMINI: "candidates.*.content.parts.*.inlineData.data",
            }
        ),
        wanted=AUDIO,
    ),
    AnswerFeature(
        "transcript of audio",
        {
            CHAT: answer_of(
                CHAT,
                message={
                    "content": None,
                    "audio": {"id": "a1", "data": AUDIO, "transcript": MARKER},
                },
            )
        },
        _at({CHAT: "choices.*.message.audio.transcript"}),
        {name: location for name, location in TEXT_PLACES.items() if name != CHAT},
    ),
    AnswerFeature(
        "search run by the vendor",
        {
            RESPONSES: answer_of(
                RESPONSES,
                items=[
                    {
                        "type": "web_search_call",
                        "id": "ws_1",
                        "status": "completed",
                        "action": {"type": "search", "query": MARKER},
                    }
                ],
            ),
            ANTHROPIC: answer_of(ANTHROPIC, *_SEARCH_BLOCKS),
        },
        _at({RESPONSES: "output.*.action.query", ANTHROPIC: "content.*.input.query"}),
        # In a stream the input comes in pieces.
        _at({ANTHROPIC: "content.*.partial_json"}),
    ),
    AnswerFeature(
        "code run by the vendor",
        {
            RESPONSES: answer_of(
                RESPONSES,
                items=[
                    {
                        "type": "code_interpreter_call",
                        "id": "ci_1",
                        "status": "completed",
                        "code": MARKER,
                        "container_id": "c",
                        "outputs": [],
                    }
                ],
            ),
            GEMINI: answer_of(
                GEMINI,
                {"executableCode": {"language": "PYTHON", "code": MARKER}},
                {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
                {"text": TEXT},
            ),
        },
        _at(
            {
                RESPONSES: "output.*.code",
                GEMINI: "candidates.*.content.parts.*.executableCode.code",
            }
        ),
    ),
    AnswerFeature(
        "refusal",
        {
            CHAT: answer_of(CHAT, message={"content": None, "refusal": MARKER}),
            RESPONSES: answer_of(RESPONSES, {"type": "refusal", "refusal": MARKER}),
        },
        _at(
            {
                CHAT: "choices.*.message.refusal",
                RESPONSES: "output.*.content.*.refusal",
            }
        ),
        {
            name: location
            for name, location in TEXT_PLACES.items()
            if name not in (CHAT, RESPONSES)
        },
    ),
    AnswerFeature(
        "end at the output limit",
        {
            CHAT: answer_of(CHAT, choice={"finish_reason": "length"}),
            RESPONSES: answer_of(
                RESPONSES,
                status="incomplete",
                incomplete_details={"reason": "max_output_tokens"},
            ),
            ANTHROPIC: answer_of(ANTHROPIC, stop_reason="max_tokens"),
            GEMINI: answer_of(GEMINI, candidate={"finishReason": "MAX_TOKENS"}),
            COHERE: answer_of(COHERE, finish_reason="MAX_TOKENS"),
            BEDROCK: answer_of(BEDROCK, stopReason="max_tokens"),
            OLLAMA: answer_of(OLLAMA, done_reason="length"),
            DASHSCOPE: answer_of(DASHSCOPE, choice={"finish_reason": "length"}),
        },
        {
            CHAT: (("choices.*.finish_reason", "length"),),
            RESPONSES: (("incomplete_details.reason", "max_output_tokens"),),
            ANTHROPIC: (("stop_reason", "max_tokens"),),
            GEMINI: (("candidates.*.finishReason", "MAX_TOKENS"),),
            COHERE: (("finish_reason", "MAX_TOKENS"),),
            COMPLETIONS: (("choices.*.finish_reason", "length"),),
        },
    ),
    AnswerFeature(
        "end by a filter",
        {
            CHAT: answer_of(CHAT, choice={"finish_reason": "content_filter"}),
            RESPONSES: answer_of(
                RESPONSES,
                status="incomplete",
                incomplete_details={"reason": "content_filter"},
            ),
            ANTHROPIC: answer_of(ANTHROPIC, stop_reason="refusal"),
            GEMINI: answer_of(GEMINI, candidate={"finishReason": "SAFETY"}),
            BEDROCK: answer_of(BEDROCK, stopReason="guardrail_intervened"),
        },
        {
            CHAT: (("choices.*.finish_reason", "content_filter"),),
            RESPONSES: (("incomplete_details.reason", "content_filter"),),
            ANTHROPIC: (("stop_reason", "refusal"),),
            GEMINI: (("candidates.*.finishReason", "SAFETY"),),
            COHERE: (("finish_reason", "ERROR_TOXIC"),),
            COMPLETIONS: (("choices.*.finish_reason", "content_filter"),),
        },
    ),
    AnswerFeature(
        "stop sequence that was met",
        {
            ANTHROPIC: answer_of(
                ANTHROPIC, stop_reason="stop_sequence", stop_sequence=MARKER
            )
        },
        _at({ANTHROPIC: "stop_sequence"}),
    ),
    AnswerFeature(
        "cached tokens",
        {
            CHAT: _with_usage(CHAT, prompt_tokens_details={"cached_tokens": 7}),
            RESPONSES: _with_usage(
                RESPONSES, input_tokens_details={"cached_tokens": 7}
            ),
            ANTHROPIC: _with_usage(ANTHROPIC, cache_read_input_tokens=7),
            GEMINI: _with_usage(GEMINI, cachedContentTokenCount=7),
            COHERE: _with_usage(COHERE, cached_tokens=7),
            BEDROCK: _with_usage(BEDROCK, cacheReadInputTokens=7),
            DASHSCOPE: _with_usage(
                DASHSCOPE, prompt_tokens_details={"cached_tokens": 7}
            ),
        },
        _at(
            {
                CHAT: "usage.prompt_tokens_details.cached_tokens",
                RESPONSES: "usage.input_tokens_details.cached_tokens",
                ANTHROPIC: "usage.cache_read_input_tokens",
                GEMINI: "usageMetadata.cachedContentTokenCount",
                COHERE: "usage.cached_tokens",
                COMPLETIONS: "usage.prompt_tokens_details.cached_tokens",
            }
        ),
        wanted=7,
        requests={
            name: {"stream_options": {"include_usage": True}}
            for name in (CHAT, COMPLETIONS)
        },
    ),
    AnswerFeature(
        "tokens written to the cache",
        {
            ANTHROPIC: _with_usage(ANTHROPIC, cache_creation_input_tokens=7),
            BEDROCK: _with_usage(BEDROCK, cacheWriteInputTokens=7),
        },
        _at(
            {
                CHAT: "usage.prompt_tokens_details.cache_write_tokens",
                RESPONSES: "usage.input_tokens_details.cache_write_tokens",
                ANTHROPIC: "usage.cache_creation_input_tokens",
            }
        ),
        wanted=7,
        requests={CHAT: {"stream_options": {"include_usage": True}}},
    ),
    AnswerFeature(
        "tokens of thoughts",
        {
            CHAT: _with_usage(CHAT, completion_tokens_details={"reasoning_tokens": 7}),
            RESPONSES: _with_usage(
                RESPONSES, output_tokens_details={"reasoning_tokens": 7}
            ),
            ANTHROPIC: _with_usage(
                ANTHROPIC, output_tokens_details={"thinking_tokens": 7}
            ),
            GEMINI: _with_usage(GEMINI, thoughtsTokenCount=7),
            DASHSCOPE: _with_usage(
                DASHSCOPE, output_tokens_details={"reasoning_tokens": 7}
            ),
        },
        _at(
            {
                CHAT: "usage.completion_tokens_details.reasoning_tokens",
                RESPONSES: "usage.output_tokens_details.reasoning_tokens",
                ANTHROPIC: "usage.output_tokens_details.thinking_tokens",
                GEMINI: "usageMetadata.thoughtsTokenCount",
                COMPLETIONS: "usage.completion_tokens_details.reasoning_tokens",
            }
        ),
        wanted=7,
        requests={
            name: {"stream_options": {"include_usage": True}}
            for name in (CHAT, COMPLETIONS)
        },
    ),
    AnswerFeature(
        "service tier",
        {
            CHAT: answer_of(CHAT, service_tier="priority"),
            RESPONSES: answer_of(RESPONSES, service_tier="priority"),
            ANTHROPIC: _with_usage(ANTHROPIC, service_tier="priority"),
            GEMINI: _with_usage(GEMINI, serviceTier="priority"),
            BEDROCK: answer_of(BEDROCK, serviceTier={"type": "priority"}),
        },
        _at(
            {
                CHAT: "service_tier",
                RESPONSES: "service_tier",
                ANTHROPIC: "usage.service_tier",
                GEMINI: "usageMetadata.serviceTier",
            }
        ),
        wanted="priority",
        requests={CHAT: {"stream_options": {"include_usage": True}}},
    ),
    AnswerFeature(
        "safety ratings",
        {
            GEMINI: answer_of(
                GEMINI,
                candidate={
                    "safetyRatings": [{"category": MARKER, "probability": "LOW"}]
                },
            )
        },
        _at({GEMINI: "candidates.*.safetyRatings.*.category"}),
    ),
    AnswerFeature(
        "search suggestions",
        {
            GEMINI: answer_of(
                GEMINI,
                candidate={
                    "groundingMetadata": {
                        "searchEntryPoint": {"renderedContent": MARKER}
                    }
                },
            )
        },
        _at(
            {
                GEMINI: (
                    "candidates.*.groundingMetadata.searchEntryPoint.renderedContent"
                )
            }
        ),
    ),
    AnswerFeature(
        "unknown field",
        {
            CHAT: answer_of(CHAT, future_field=MARKER),
            RESPONSES: answer_of(RESPONSES, future_field=MARKER),
            ANTHROPIC: answer_of(ANTHROPIC, future_field=MARKER),
            GEMINI: answer_of(GEMINI, futureField=MARKER),
        },
        _at(
            {
                CHAT: "future_field",
                RESPONSES: "future_field",
                ANTHROPIC: "future_field",
                GEMINI: "futureField",
            }
        ),
        requests={CHAT: {"stream_options": {"include_usage": True}}},
    ),
    AnswerFeature(
        "unknown part",
        {
            RESPONSES: answer_of(
                RESPONSES, items=[{"type": "future", "id": "f1", "data": MARKER}]
            ),
            ANTHROPIC: answer_of(
                ANTHROPIC,
                {"type": "future", "data": MARKER},
                {"type": "text", "text": TEXT},
            ),
            GEMINI: answer_of(GEMINI, {"future": {"data": MARKER}}, {"text": TEXT}),
        },
        _at(
            {
                RESPONSES: "output.*.data",
                ANTHROPIC: "content.*.data",
                GEMINI: "candidates.*.content.parts.*.future.data",
            }
        ),
    ),
)

__all__ = ["ANSWERS", "CALLERS"]
