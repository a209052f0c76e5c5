"""Answers in the shapes that the vendors document, for facts that no recording has:
several choices, log probabilities, refusals, speech, images and some kinds of sources.

They are replayed and corrupted like recordings, and are counted apart.
"""

import base64
from typing import Any

from tools.show.exchanges import Exchange

JSON = dict[str, Any]
_TEXT = "Café ☕ is nice. Second sentence.\n"
_FIRST, _SECOND = _TEXT[:15], _TEXT[16:33]
# One pixel, and a few samples: enough for a hash.
_IMAGE = base64.b64encode(b"\x89PNG\r\n\x1a\n one pixel").decode()
_SPEECH = base64.b64encode(b"RIFF\x00\x00\x00\x00WAVEfmt samples").decode()
_URL = "https://example.com/coffee"


def constructed() -> tuple[Exchange, ...]:
    """Return the constructed exchanges, whole and streamed."""
    return (*_chat(), *_responses(), *_anthropic(), *_google(), *_others())


def _exchange(
    name: str, provider: str, wire: str, response: Any, *, is_stream: bool = False
) -> Exchange:
    """Return an exchange. A streamed response is the list of its events."""
    return Exchange(
        id=f"built/{wire}/{name}{'-stream' if is_stream else ''}",
        provider=provider,
        format=wire,
        status=200,
        request=None,
        response=response,
        events=tuple(response) if is_stream else None,
    )


# ------------------------------------------------------------------------ OpenAI's chat

_CHAT_USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 30,
    "total_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 6, "audio_tokens": 5},
}


def _tokens(*texts: str) -> list[JSON]:
    """Return log probabilities of tokens in OpenAI's form."""
    return [
        {
            "token": text,
            "logprob": -0.25,
            "bytes": list(text.encode()),
            "top_logprobs": [
                {"token": text, "logprob": -0.25, "bytes": list(text.encode())},
                {"token": "other", "logprob": -2.5, "bytes": list(b"other")},
            ],
        }
        for text in texts
    ]


def _chat_answer(*choices: JSON) -> JSON:
    """Return a chat completion."""
    return {
        "id": "chatcmpl-built",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-built",
        "system_fingerprint": "fp_built",
        "service_tier": "default",
        "choices": [
            {"index": index, "finish_reason": "stop", "logprobs": None, **choice}
            for index, choice in enumerate(choices)
        ],
        "usage": _CHAT_USAGE,
    }


def _chat_message(**fields: Any) -> JSON:
    """Return a choice with a message."""
    return {
        "message": {"role": "assistant", "content": None, "refusal": None, **fields}
    }


def _chat_chunks(*deltas: tuple[int, JSON, Any]) -> list[JSON]:
    """Return a stream of (index, delta, log probabilities)."""
    head = {
        "id": "chatcmpl-built",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "gpt-built",
        "system_fingerprint": "fp_built",
    }

    def chunk(index: int, delta: JSON, reason: Any, logprobs: Any = None) -> JSON:
        """Return one event."""
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        return {**head, "choices": [choice]}

    indexes = sorted({index for index, _, _ in deltas})
    return [
        *(
            chunk(index, {"role": "assistant", "content": ""}, None)
            for index in indexes
        ),
        *(chunk(index, delta, None, tokens) for index, delta, tokens in deltas),
        *(chunk(index, {}, "stop") for index in indexes),
        {**head, "choices": [], "usage": _CHAT_USAGE},
    ]


def _chat() -> list[Exchange]:
    """Return chat completions."""
    source = {
        "type": "url_citation",
        "url_citation": {
            "url": _URL,
            "title": "Coffee",
            "start_index": 16,
            "end_index": 33,
        },
    }
    audio = {
        "id": "audio_built",
        "data": _SPEECH,
        "transcript": "Hello",
        "expires_at": 1_700_003_600,
    }
    image = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{_IMAGE}"},
    }
    logprobs = {"content": _tokens("He", "llo"), "refusal": None}
    complete = {
        "two-choices": _chat_answer(
            _chat_message(content="Hello"), _chat_message(content="Good day")
        ),
        "logprobs": _chat_answer(
            {**_chat_message(content="Hello"), "logprobs": logprobs}
        ),
        "refusal": _chat_answer(_chat_message(refusal="I cannot help with that.")),
        "audio": _chat_answer(_chat_message(audio=audio)),
        "image": _chat_answer(_chat_message(content="Here.", images=[image])),
        "sources": _chat_answer(_chat_message(content=_TEXT, annotations=[source])),
    }
    streams = {
        "two-choices": _chat_chunks(
            (0, {"content": "Hel"}, None),
            (1, {"content": "Good "}, None),
            (0, {"content": "lo"}, None),
            (1, {"content": "day"}, None),
        ),
        "logprobs": _chat_chunks(
            (0, {"content": "He"}, {"content": _tokens("He")}),
            (0, {"content": "llo"}, {"content": _tokens("llo")}),
        ),
        "refusal": _chat_chunks(
            (0, {"refusal": "I cannot "}, None), (0, {"refusal": "help."}, None)
        ),
        "sources": _chat_chunks(
            (0, {"content": _TEXT[:10]}, None),
            (0, {"content": _TEXT[10:]}, None),
            (0, {"annotations": [source]}, None),
        ),
        "image": _chat_chunks(
            (0, {"content": "Here."}, None), (0, {"images": [image]}, None)
        ),
    }
    return _both("openai", "openai_chat", complete, streams)


def _both(
    provider: str, wire: str, complete: dict[str, JSON], streams: dict[str, list[JSON]]
) -> list[Exchange]:
    """Return whole and streamed exchanges."""
    return [
        *(_exchange(name, provider, wire, body) for name, body in complete.items()),
        *(
            _exchange(name, provider, wire, events, is_stream=True)
            for name, events in streams.items()
        ),
    ]


# ------------------------------------------------------------------- OpenAI's Responses


def _response(*output: JSON) -> JSON:
    """Return a response."""
    return {
        "id": "resp_built",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": "gpt-built",
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 20,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 30,
            "output_tokens_details": {"reasoning_tokens": 6},
            "total_tokens": 50,
        },
        "metadata": {},
    }


def _item(part: JSON) -> JSON:
    """Return a message with one part."""
    return {
        "id": "msg_built",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }


def _response_stream(part: JSON, deltas: list[JSON]) -> list[JSON]:
    """Return a stream of a response with one message."""
    empty = {**_response(), "status": "in_progress", "usage": None}
    where = {"item_id": "msg_built", "output_index": 0, "content_index": 0}
    events = [
        {"type": "response.created", "response": empty},
        {"type": "response.in_progress", "response": empty},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**_item(part), "content": [], "status": "in_progress"},
        },
        *({**where, **delta} for delta in deltas),
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": _item(part),
        },
        {"type": "response.completed", "response": _response(_item(part))},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _responses() -> list[Exchange]:
    """Return responses."""
    sources = [
        {
            "type": "url_citation",
            "url": _URL,
            "title": "Coffee",
            "start_index": 16,
            "end_index": 33,
        },
        {
            "type": "file_citation",
            "file_id": "file-built",
            "filename": "coffee.pdf",
            "index": 33,
        },
    ]
    cited = {
        "type": "output_text",
        "text": _TEXT,
        "annotations": sources,
        "logprobs": [],
    }
    likely = {
        "type": "output_text",
        "text": "Hello",
        "annotations": [],
        "logprobs": _tokens("He", "llo"),
    }
    refusal = {"type": "refusal", "refusal": "I cannot help."}
    image = {
        "id": "ig_built",
        "type": "image_generation_call",
        "status": "completed",
        "output_format": "png",
        "result": _IMAGE,
    }
    complete = {
        "sources": _response(_item(cited)),
        "logprobs": _response(_item(likely)),
        "refusal": _response(_item(refusal)),
        "image": _response(image),
    }
    text_delta = "response.output_text.delta"
    streams = {
        "sources": _response_stream(
            cited,
            [
                {"type": text_delta, "delta": _TEXT, "logprobs": []},
                *(
                    {
                        "type": "response.output_text.annotation.added",
                        "annotation_index": index,
                        "annotation": source,
                    }
                    for index, source in enumerate(sources)
                ),
            ],
        ),
        "logprobs": _response_stream(
            likely,
            [
                {"type": text_delta, "delta": "He", "logprobs": _tokens("He")},
                {"type": text_delta, "delta": "llo", "logprobs": _tokens("llo")},
            ],
        ),
        "refusal": _response_stream(
            refusal,
            [
                {"type": "response.refusal.delta", "delta": "I cannot "},
                {"type": "response.refusal.delta", "delta": "help."},
            ],
        ),
    }
    return _both("openai", "openai_responses", complete, streams)


# ---------------------------------------------------------------------------- Anthropic


def _anthropic() -> list[Exchange]:
    """Return messages."""
    cited = {
        "type": "char_location",
        "cited_text": "Coffee is nice",
        "document_index": 0,
        "document_title": "coffee.txt",
        "file_id": None,
        "start_char_index": 3,
        "end_char_index": 17,
    }
    usage = {
        "input_tokens": 10,
        "output_tokens": 30,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 6,
        "cache_creation": {
            "ephemeral_5m_input_tokens": 2,
            "ephemeral_1h_input_tokens": 4,
        },
        "server_tool_use": {"web_search_requests": 2},
        "service_tier": "standard",
    }
    message: JSON = {
        "id": "msg_built",
        "type": "message",
        "role": "assistant",
        "model": "claude-built",
        "content": [
            {"type": "text", "text": _FIRST, "citations": [cited]},
            {"type": "text", "text": " " + _SECOND, "citations": None},
        ],
        "stop_reason": "stop_sequence",
        "stop_sequence": "END",
        "usage": usage,
    }
    start = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    events: list[JSON] = [
        {"type": "message_start", "message": start},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": "", "citations": []},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "citations_delta", "citation": cited},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": _FIRST[:6]},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": _FIRST[6:]},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "text_delta", "text": " " + _SECOND},
        },
        {"type": "content_block_stop", "index": 1},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "stop_sequence", "stop_sequence": "END"},
            "usage": usage,
        },
        {"type": "message_stop"},
    ]
    return _both("anthropic", "anthropic", {"sources": message}, {"sources": events})


# ------------------------------------------------------------------------------- Google


def _google_answer(*candidates: JSON) -> JSON:
    """Return a response."""
    return {
        "candidates": [
            {"index": index, "finishReason": "STOP", **candidate}
            for index, candidate in enumerate(candidates)
        ],
        "usageMetadata": {
            "promptTokenCount": 14,
            "toolUsePromptTokenCount": 6,
            "candidatesTokenCount": 24,
            "thoughtsTokenCount": 6,
            "totalTokenCount": 50,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 11},
                {"modality": "AUDIO", "tokenCount": 3},
            ],
            "candidatesTokensDetails": [
                {"modality": "TEXT", "tokenCount": 19},
                {"modality": "AUDIO", "tokenCount": 5},
            ],
        },
        "modelVersion": "gemini-built",
        "responseId": "built",
    }


def _content(*parts: JSON) -> JSON:
    """Return a candidate with parts."""
    return {"content": {"role": "model", "parts": list(parts)}}


def _google() -> list[Exchange]:
    """Return Google's responses."""
    first_end = len(_FIRST.encode())
    grounding = {
        "groundingChunks": [
            {"web": {"uri": _URL, "title": "Coffee"}},
            {"web": {"uri": f"{_URL}/2", "title": "More"}},
        ],
        "groundingSupports": [
            {
                "segment": {"endIndex": first_end, "text": _FIRST},
                "groundingChunkIndices": [0],
            },
            {
                "segment": {
                    "startIndex": first_end + 1,
                    "endIndex": first_end + 18,
                    "text": _SECOND,
                },
                "groundingChunkIndices": [0, 1],
            },
        ],
    }
    image = {"inlineData": {"mimeType": "image/png", "data": _IMAGE}}
    speech = {"inlineData": {"mimeType": "audio/wav", "data": _SPEECH}}
    ratings = [{"category": "HARM_CATEGORY_HARASSMENT", "probability": "NEGLIGIBLE"}]
    logprobs = {
        "chosenCandidates": [{"token": "Hello", "logProbability": -0.25}],
        "topCandidates": [
            {
                "candidates": [
                    {"token": "Hello", "logProbability": -0.25},
                    {"token": "Hi", "logProbability": -2.5},
                ]
            }
        ],
    }
    text = {"text": _TEXT}
    complete = {
        "sources": _google_answer({**_content(text), "groundingMetadata": grounding}),
        "two-candidates": _google_answer(
            _content({"text": "Hello"}), _content({"text": "Good day"})
        ),
        "files": _google_answer(_content({"text": "Here."}, image, speech)),
        "ratings": _google_answer({**_content(text), "safetyRatings": ratings}),
        "logprobs": _google_answer(
            {**_content({"text": "Hello"}), "logprobsResult": logprobs}
        ),
    }
    head = {"modelVersion": "gemini-built", "responseId": "built"}
    begin = {**head, "candidates": [{**_content({"text": _TEXT[:10]}), "index": 0}]}
    rest = {**_content({"text": _TEXT[10:]}), "groundingMetadata": grounding}
    streams = {
        "sources": [begin, _google_answer(rest)],
        "files": [
            {**head, "candidates": [{**_content({"text": "Here."}), "index": 0}]},
            _google_answer(_content(image, speech)),
        ],
    }
    return _both("google", "gemini", complete, streams)


# ------------------------------------------------------------------------------- others


def _others() -> list[Exchange]:
    """Return answers of Bedrock, Cohere and of text completions."""
    cited = {
        "title": "coffee.txt",
        "source": "coffee",
        "sourceContent": [{"text": "Coffee is nice"}],
        "location": {"documentChar": {"documentIndex": 0, "start": 3, "end": 17}},
    }
    bedrock = {
        "output": {
            "message": {
                "role": "assistant",
                "content": [
                    {
                        "citationsContent": {
                            "content": [{"text": _FIRST}],
                            "citations": [cited],
                        }
                    },
                    {"text": " " + _SECOND},
                ],
            }
        },
        "stopReason": "end_turn",
        "usage": {"inputTokens": 20, "outputTokens": 30, "totalTokens": 50},
        "metrics": {"latencyMs": 1},
    }
    completion = {
        "id": "cmpl-built",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "gpt-built",
        "choices": [
            {
                "index": index,
                "text": text,
                "finish_reason": "stop",
                "logprobs": {
                    "tokens": [text],
                    "token_logprobs": [-0.25],
                    "top_logprobs": [{text: -0.25, "other": -2.5}],
                    "text_offset": [0],
                },
            }
            for index, text in enumerate(("Hello", "Good day"))
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50},
    }
    return [
        _exchange("sources", "bedrock", "bedrock", bedrock),
        _exchange("choices", "other", "openai_completions", completion),
        *_cohere(),
    ]


def _cohere() -> list[Exchange]:
    """Return Cohere's answers with sources."""
    citation = {
        "start": 16,
        "end": 33,
        "text": _SECOND,
        "sources": [
            {
                "type": "document",
                "id": "doc:0",
                "document": {"id": "doc:0", "title": "Coffee", "url": _URL},
            }
        ],
        "type": "TEXT_CONTENT",
    }
    usage = {
        "billed_units": {"input_tokens": 20, "output_tokens": 30},
        "tokens": {"input_tokens": 20, "output_tokens": 30},
        "cached_tokens": 4,
    }
    complete = {
        "id": "built",
        "message": {
            "role": "assistant",
            "content": [{"type": "text", "text": _TEXT}],
            "citations": [citation],
        },
        "finish_reason": "COMPLETE",
        "usage": usage,
    }

    def message(**fields: Any) -> JSON:
        """Return a delta of a message."""
        return {"delta": {"message": fields}}

    events: list[JSON] = [
        {
            "type": "message-start",
            "id": "built",
            **message(role="assistant", content=[], tool_calls=[], citations=[]),
        },
        {
            "type": "content-start",
            "index": 0,
            **message(content={"type": "text", "text": ""}),
        },
        {"type": "content-delta", "index": 0, **message(content={"text": _TEXT})},
        {"type": "citation-start", "index": 0, **message(citations=citation)},
        {"type": "citation-end", "index": 0},
        {"type": "content-end", "index": 0},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}},
    ]
    return _both("cohere", "cohere", {"sources": complete}, {"sources": events})
