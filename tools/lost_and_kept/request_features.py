"""The features of requests, each in the formats that have it.

The fields are those of the vendors' references, as the official clients describe them:
openai 3.52, anthropic 2.11, google-genai 3.4, cohere 7.3, and AWS's API reference of
Converse.
"""

from collections.abc import Mapping
from typing import Any

from tools.lost_and_kept.features import (
    AUDIO,
    IMAGE,
    MARKER,
    PDF,
    TEXT_FILE,
    VIDEO,
    Feature,
    Place,
    Places,
)
from tools.lost_and_kept.formats import (
    ANTHROPIC,
    BEDROCK,
    CHAT,
    COHERE,
    DASHSCOPE,
    GEMINI,
    JSON,
    OLLAMA,
    RESPONSES,
)

# Where the texts of a conversation stand.
TEXT: Places = {
    CHAT: ("messages.*.content", "messages.*.content.*.text"),
    RESPONSES: (
        "input.*.content",
        "input.*.content.*.text",
        "input.*.output",
        "input.*.output.*.text",
        "instructions",
    ),
    ANTHROPIC: (
        "messages.*.content",
        "messages.*.content.*.text",
        "messages.*.content.*.content",
        "messages.*.content.*.content.*.text",
        "system",
        "system.*.text",
    ),
    GEMINI: (
        "contents.*.parts.*.text",
        "systemInstruction.parts.*.text",
        "contents.*.parts.*.functionResponse.response.*",
    ),
    COHERE: ("messages.*.content", "messages.*.content.*.text"),
    BEDROCK: (
        "messages.*.content.*.text",
        "messages.*.content.*.toolResult.content.*.text",
        "system.*.text",
    ),
    OLLAMA: ("messages.*.content",),
    DASHSCOPE: ("input.messages.*.content", "input.messages.*.content.*.text"),
}


def _at(locations: Mapping[str, str | tuple[Place, ...]]) -> Places:
    """Return places; one alone may be written as a text."""
    return {
        target: (location,) if isinstance(location, str) else location
        for target, location in locations.items()
    }


def _text(wanted: str) -> Places:
    """Return all places of texts, with what is wanted there."""
    return {
        target: tuple((str(location), wanted) for location in locations)
        for target, locations in TEXT.items()
    }


def _without(locations: Places, *targets: str) -> Places:
    """Return places without those of some targets."""
    return {name: value for name, value in locations.items() if name not in targets}


# --------------------------------------------------------------------------- content


def _turn(caller: str, *parts: JSON) -> JSON:
    """Return a request whose user sends some parts and a question."""
    if caller == GEMINI:
        return {"contents": [{"role": "user", "parts": [*parts, {"text": "?"}]}]}
    if caller == RESPONSES:
        content = [*parts, {"type": "input_text", "text": "?"}]
        return {"input": [{"role": "user", "content": content}]}
    content = [*parts, {"type": "text", "text": "?"}]
    return {"messages": [{"role": "user", "content": content}]}


def _turns(parts: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return for each caller a request with one part."""
    return {caller: _turn(caller, part) for caller, part in parts.items()}


def _earlier(answers: Mapping[str, Any]) -> dict[str, JSON]:
    """Return for each caller a conversation with an earlier answer: its message, or for
    the Responses API its item."""
    requests: dict[str, JSON] = {}
    for caller, answer in answers.items():
        if caller == GEMINI:
            turns: list[Any] = [{"role": "user", "parts": [{"text": "hi"}]}]
            turns += [answer, {"role": "user", "parts": [{"text": "?"}]}]
            requests[caller] = {"contents": turns}
        else:
            turns = [
                {"role": "user", "content": "hi"},
                answer,
                {"role": "user", "content": "?"},
            ]
            requests[caller] = {"input" if caller == RESPONSES else "messages": turns}
    return requests


def _results(results: Mapping[str, Any]) -> dict[str, JSON]:
    """Return for each caller a conversation in which a tool was called. `results` has
    the content of the tool's result, or the fields that differ from the usual."""
    requests: dict[str, JSON] = {}
    for caller, result in results.items():
        requests[caller] = _RESULT_BUILDERS[caller](result)
    return requests


_PARAMETERS: JSON = {"type": "object", "properties": {}}
FUNCTION: Mapping[str, JSON] = {
    CHAT: {"type": "function", "function": {"name": "f", "parameters": _PARAMETERS}},
    RESPONSES: {
        "type": "function",
        "name": "f",
        "parameters": _PARAMETERS,
        "strict": False,
    },
    ANTHROPIC: {"name": "f", "input_schema": _PARAMETERS},
    GEMINI: {
        "functionDeclarations": [{"name": "f", "parametersJsonSchema": _PARAMETERS}]
    },
    COHERE: {"type": "function", "function": {"name": "f", "parameters": _PARAMETERS}},
}


def _chat_result(result: JSON) -> JSON:
    call = {
        "id": "call1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
        **result.pop("call", {}),
    }
    return {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call1", "content": "done", **result},
        ],
        "tools": [FUNCTION[CHAT]],
    }


def _responses_result(result: JSON) -> JSON:
    call = {
        "type": "function_call",
        "call_id": "call1",
        "name": "f",
        "arguments": "{}",
    }
    output = {
        "type": "function_call_output",
        "call_id": "call1",
        "output": "done",
        **result,
    }
    items = [{"role": "user", "content": "?"}, call, output]
    return {"input": items, "tools": [FUNCTION[RESPONSES]]}


def _anthropic_result(result: JSON) -> JSON:
    call = {
        "type": "tool_use",
        "id": "call1",
        "name": "f",
        "input": {},
        **result.pop("call", {}),
    }
    block = {
        "type": "tool_result",
        "tool_use_id": "call1",
        "content": "done",
        **result,
    }
    return {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [block]},
        ],
        "tools": [FUNCTION[ANTHROPIC]],
    }


def _gemini_result(result: JSON) -> JSON:
    response = {"id": "call1", "name": "f", "response": {"result": "done"}, **result}
    call = {"functionCall": {"id": "call1", "name": "f", "args": {}}}
    return {
        "contents": [
            {"role": "user", "parts": [{"text": "?"}]},
            {"role": "model", "parts": [call]},
            {"role": "user", "parts": [{"functionResponse": response}]},
        ],
        "tools": [FUNCTION[GEMINI]],
    }


def _cohere_result(result: JSON) -> JSON:
    return {**_chat_result(result), "tools": [FUNCTION[COHERE]]}


_RESULT_BUILDERS = {
    CHAT: _chat_result,
    RESPONSES: _responses_result,
    ANTHROPIC: _anthropic_result,
    GEMINI: _gemini_result,
    COHERE: _cohere_result,
}

_URL = f"https://example.com/{MARKER}"
_GOOGLE_FILE = f"https://generativelanguage.googleapis.com/v1beta/files/{MARKER}"


def _document(**fields: Any) -> JSON:
    source = {"type": "text", "media_type": "text/plain", "data": "A text."}
    return {"type": "document", "source": source, **fields}


def _file(data: str, media_type: str, **fields: Any) -> JSON:
    """Return a file part of a chat."""
    file_data = f"data:{media_type};base64,{data}"
    return {
        "type": "file",
        "file": {"filename": "a", "file_data": file_data, **fields},
    }


def _inline(data: str, media_type: str) -> JSON:
    return {"inlineData": {"mimeType": media_type, "data": data}}


def _input_file(data: str, media_type: str) -> JSON:
    return {
        "type": "input_file",
        "filename": "a",
        "file_data": f"data:{media_type};base64,{data}",
    }


def _source(kind: str, data: str, media_type: str) -> JSON:
    """Return a block of Anthropic's with a file in base64."""
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"type": kind, "source": source}


_IMAGE_PARTS = {
    CHAT: {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}},
    RESPONSES: {"type": "input_image", "image_url": f"data:image/png;base64,{IMAGE}"},
    ANTHROPIC: _source("image", IMAGE, "image/png"),
    GEMINI: _inline(IMAGE, "image/png"),
    COHERE: {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{IMAGE}"},
    },
}
_IMAGE_PLACES = _at(
    {
        CHAT: "messages.*.content.*.image_url.url",
        RESPONSES: "input.*.content.*.image_url",
        ANTHROPIC: "messages.*.content.*.source.data",
        GEMINI: "contents.*.parts.*.inlineData.data",
        COHERE: "messages.*.content.*.image_url.url",
        BEDROCK: "messages.*.content.*.image.source.bytes",
        OLLAMA: "messages.*.images.*",
        DASHSCOPE: "input.messages.*.content.*.image",
    }
)
_PDF_PLACES = _at(
    {
        CHAT: "messages.*.content.*.file.file_data",
        RESPONSES: "input.*.content.*.file_data",
        ANTHROPIC: "messages.*.content.*.source.data",
        GEMINI: "contents.*.parts.*.inlineData.data",
        BEDROCK: "messages.*.content.*.document.source.bytes",
    }
)

CONTENT = (
    Feature(
        "text document",
        _turns(
            {
                ANTHROPIC: _document(
                    source={
                        "type": "text",
                        "media_type": "text/plain",
                        "data": f"A text with {MARKER}.",
                    }
                ),
                CHAT: _file(TEXT_FILE, "text/plain"),
                RESPONSES: _input_file(TEXT_FILE, "text/plain"),
                GEMINI: _inline(TEXT_FILE, "text/plain"),
            }
        ),
        {
            ANTHROPIC: ("messages.*.content.*.source.data",),
            GEMINI: (("contents.*.parts.*.inlineData.data", TEXT_FILE),),
            BEDROCK: (("messages.*.content.*.document.source.bytes", TEXT_FILE),),
        },
        TEXT,
    ),
    Feature(
        "document of blocks",
        _turns(
            {
                ANTHROPIC: _document(
                    source={
                        "type": "content",
                        "content": [{"type": "text", "text": MARKER}],
                    }
                )
            }
        ),
        _at({ANTHROPIC: "messages.*.content.*.source.content.*.text"}),
        TEXT,
    ),
    Feature(
        "document title",
        _turns({ANTHROPIC: _document(title=MARKER)}),
        _at({ANTHROPIC: "messages.*.content.*.title"}),
        TEXT,
    ),
    Feature(
        "document context",
        _turns({ANTHROPIC: _document(context=MARKER)}),
        _at({ANTHROPIC: "messages.*.content.*.context"}),
        TEXT,
    ),
    Feature(
        "citations of a document",
        _turns(
            {
                ANTHROPIC: {
                    **_source("document", PDF, "application/pdf"),
                    "citations": {"enabled": True},
                }
            }
        ),
        _at(
            {
                ANTHROPIC: "messages.*.content.*.citations.enabled",
                BEDROCK: "messages.*.content.*.document.citations.enabled",
            }
        ),
        wanted=True,
    ),
    Feature(
        "PDF",
        _turns(
            {
                ANTHROPIC: _source("document", PDF, "application/pdf"),
                CHAT: _file(PDF, "application/pdf"),
                RESPONSES: _input_file(PDF, "application/pdf"),
                GEMINI: _inline(PDF, "application/pdf"),
            }
        ),
        _PDF_PLACES,
        wanted=PDF,
    ),
    Feature(
        "file name",
        _turns(
            {
                ANTHROPIC: {
                    **_source("document", PDF, "application/pdf"),
                    "title": f"{MARKER}",
                },
                CHAT: _file(PDF, "application/pdf", filename=f"{MARKER}.pdf"),
                RESPONSES: {
                    **_input_file(PDF, "application/pdf"),
                    "filename": f"{MARKER}.pdf",
                },
            }
        ),
        _at(
            {
                CHAT: "messages.*.content.*.file.filename",
                RESPONSES: "input.*.content.*.filename",
                ANTHROPIC: "messages.*.content.*.title",
                GEMINI: "contents.*.parts.*.inlineData.displayName",
                BEDROCK: "messages.*.content.*.document.name",
            }
        ),
    ),
    Feature(
        "document by URL",
        _turns(
            {
                ANTHROPIC: {
                    "type": "document",
                    "source": {"type": "url", "url": f"{_URL}.pdf"},
                },
                RESPONSES: {"type": "input_file", "file_url": f"{_URL}.pdf"},
                GEMINI: {
                    "fileData": {
                        "mimeType": "application/pdf",
                        "fileUri": f"{_URL}.pdf",
                    }
                },
            }
        ),
        _at(
            {
                ANTHROPIC: "messages.*.content.*.source.url",
                RESPONSES: "input.*.content.*.file_url",
                GEMINI: "contents.*.parts.*.fileData.fileUri",
            }
        ),
    ),
    Feature(
        "search result",
        _turns(
            {
                ANTHROPIC: {
                    "type": "search_result",
                    "source": "https://example.com",
                    "title": "Notes",
                    "content": [{"type": "text", "text": MARKER}],
                }
            }
        ),
        _at({ANTHROPIC: "messages.*.content.*.content.*.text"}),
        TEXT,
    ),
    Feature(
        "source of a search result",
        _turns(
            {
                ANTHROPIC: {
                    "type": "search_result",
                    "source": _URL,
                    "title": "Notes",
                    "content": [{"type": "text", "text": "x"}],
                }
            }
        ),
        _at({ANTHROPIC: "messages.*.content.*.source"}),
        TEXT,
    ),
    Feature(
        "uploaded file",
        _turns(
            {
                CHAT: {"type": "file", "file": {"file_id": MARKER}},
                RESPONSES: {"type": "input_file", "file_id": MARKER},
                ANTHROPIC: {
                    "type": "document",
                    "source": {"type": "file", "file_id": MARKER},
                },
                GEMINI: {
                    "fileData": {"mimeType": "application/pdf", "fileUri": _GOOGLE_FILE}
                },
            }
        ),
        _at(
            {
                CHAT: "messages.*.content.*.file.file_id",
                RESPONSES: "input.*.content.*.file_id",
                ANTHROPIC: "messages.*.content.*.source.file_id",
                GEMINI: "contents.*.parts.*.fileData.fileUri",
            }
        ),
    ),
    Feature(
        "uploaded image",
        _turns(
            {
                RESPONSES: {"type": "input_image", "file_id": MARKER},
                ANTHROPIC: {
                    "type": "image",
                    "source": {"type": "file", "file_id": MARKER},
                },
                GEMINI: {
                    "fileData": {"mimeType": "image/png", "fileUri": _GOOGLE_FILE}
                },
            }
        ),
        _at(
            {
                RESPONSES: "input.*.content.*.file_id",
                ANTHROPIC: "messages.*.content.*.source.file_id",
                GEMINI: "contents.*.parts.*.fileData.fileUri",
            }
        ),
    ),
    Feature("image", _turns(_IMAGE_PARTS), _IMAGE_PLACES, wanted=IMAGE),
    Feature(
        "image by URL",
        _turns(
            {
                CHAT: {"type": "image_url", "image_url": {"url": f"{_URL}.png"}},
                RESPONSES: {"type": "input_image", "image_url": f"{_URL}.png"},
                ANTHROPIC: {
                    "type": "image",
                    "source": {"type": "url", "url": f"{_URL}.png"},
                },
                GEMINI: {
                    "fileData": {"mimeType": "image/png", "fileUri": f"{_URL}.png"}
                },
                COHERE: {"type": "image_url", "image_url": {"url": f"{_URL}.png"}},
            }
        ),
        _at(
            {
                CHAT: "messages.*.content.*.image_url.url",
                RESPONSES: "input.*.content.*.image_url",
                ANTHROPIC: "messages.*.content.*.source.url",
                GEMINI: "contents.*.parts.*.fileData.fileUri",
                COHERE: "messages.*.content.*.image_url.url",
                DASHSCOPE: "input.messages.*.content.*.image",
            }
        ),
    ),
    Feature(
        "image detail",
        _turns(
            {
                CHAT: {
                    "type": "image_url",
                    "image_url": {
                        "url": f"data:image/png;base64,{IMAGE}",
                        "detail": "low",
                    },
                },
                RESPONSES: {**_IMAGE_PARTS[RESPONSES], "detail": "low"},
                COHERE: {
                    "type": "image_url",
                    "image_url": {
                        "url": f"data:image/png;base64,{IMAGE}",
                        "detail": "low",
                    },
                },
            }
        ),
        _at(
            {
                CHAT: "messages.*.content.*.image_url.detail",
                RESPONSES: "input.*.content.*.detail",
                COHERE: "messages.*.content.*.image_url.detail",
            }
        ),
        wanted="low",
    ),
    Feature(
        "audio",
        _turns(
            {
                CHAT: {
                    "type": "input_audio",
                    "input_audio": {"data": AUDIO, "format": "wav"},
                },
                RESPONSES: {
                    "type": "input_audio",
                    "input_audio": {"data": AUDIO, "format": "wav"},
                },
                GEMINI: _inline(AUDIO, "audio/wav"),
            }
        ),
        _at(
            {
                CHAT: "messages.*.content.*.input_audio.data",
                RESPONSES: "input.*.content.*.input_audio.data",
                GEMINI: "contents.*.parts.*.inlineData.data",
                BEDROCK: "messages.*.content.*.audio.source.bytes",
                DASHSCOPE: "input.messages.*.content.*.audio",
            }
        ),
        wanted=AUDIO,
    ),
    Feature(
        "video",
        _turns(
            {
                CHAT: {
                    "type": "video_url",
                    "video_url": {"url": f"data:video/mp4;base64,{VIDEO}"},
                },
                GEMINI: _inline(VIDEO, "video/mp4"),
            }
        ),
        _at(
            {
                # An extension of many servers; OpenAI itself has no videos.
                CHAT: "messages.*.content.*.video_url.url",
                GEMINI: "contents.*.parts.*.inlineData.data",
                BEDROCK: "messages.*.content.*.video.source.bytes",
                DASHSCOPE: "input.messages.*.content.*.video",
            }
        ),
        wanted=VIDEO,
    ),
    Feature(
        "video section",
        _turns(
            {
                GEMINI: {
                    **_inline(VIDEO, "video/mp4"),
                    "videoMetadata": {"startOffset": f"1{MARKER}"},
                }
            }
        ),
        _at({GEMINI: "contents.*.parts.*.videoMetadata.startOffset"}),
        wanted=f"1{MARKER}",
    ),
    Feature(
        "image in a tool result",
        _results(
            {
                RESPONSES: {"output": [_IMAGE_PARTS[RESPONSES]]},
                ANTHROPIC: {"content": [_IMAGE_PARTS[ANTHROPIC]]},
                GEMINI: {"parts": [_IMAGE_PARTS[GEMINI]]},
            }
        ),
        _at(
            {
                RESPONSES: "input.*.output.*.image_url",
                ANTHROPIC: "messages.*.content.*.content.*.source.data",
                GEMINI: "contents.*.parts.*.functionResponse.parts.*.inlineData.data",
                BEDROCK: "messages.*.content.*.toolResult.content.*.image.source.bytes",
            }
        ),
        _IMAGE_PLACES,
        wanted=IMAGE,
    ),
    Feature(
        "PDF in a tool result",
        _results(
            {
                RESPONSES: {"output": [_input_file(PDF, "application/pdf")]},
                ANTHROPIC: {"content": [_source("document", PDF, "application/pdf")]},
                GEMINI: {"parts": [_inline(PDF, "application/pdf")]},
            }
        ),
        _at(
            {
                RESPONSES: "input.*.output.*.file_data",
                ANTHROPIC: "messages.*.content.*.content.*.source.data",
                GEMINI: "contents.*.parts.*.functionResponse.parts.*.inlineData.data",
                BEDROCK: "messages.*.content.*.toolResult.content.*.document.source.bytes",
            }
        ),
        _PDF_PLACES,
        wanted=PDF,
    ),
    Feature(
        "document in a tool result",
        _results(
            {
                ANTHROPIC: {
                    "content": [
                        _document(
                            source={
                                "type": "text",
                                "media_type": "text/plain",
                                "data": MARKER,
                            }
                        )
                    ]
                },
                COHERE: {
                    "content": [
                        {"type": "document", "document": {"data": {"text": MARKER}}}
                    ]
                },
            }
        ),
        _at(
            {
                ANTHROPIC: "messages.*.content.*.content.*.source.data",
                COHERE: "messages.*.content.*.document.data.text",
            }
        ),
        TEXT,
    ),
    Feature(
        "search result in a tool result",
        _results(
            {
                ANTHROPIC: {
                    "content": [
                        {
                            "type": "search_result",
                            "source": "https://example.com",
                            "title": "Notes",
                            "content": [{"type": "text", "text": MARKER}],
                        }
                    ]
                }
            }
        ),
        _at({ANTHROPIC: "messages.*.content.*.content.*.content.*.text"}),
        TEXT,
    ),
    Feature(
        "failed tool call",
        _results(
            {
                ANTHROPIC: {"content": MARKER, "is_error": True},
                GEMINI: {"response": {"error": MARKER}},
            }
        ),
        {
            ANTHROPIC: (("messages.*.content.*.is_error", True),),
            GEMINI: ("contents.*.parts.*.functionResponse.response.error",),
            BEDROCK: (("messages.*.content.*.toolResult.status", "error"),),
        },
        _text(f"Error: {MARKER}"),
    ),
    Feature(
        "documents of the request",
        {COHERE: {"documents": [{"id": "d1", "data": {"text": MARKER}}]}},
        _at({COHERE: "documents.*.data.text"}),
        TEXT,
    ),
    Feature(
        "system message",
        {
            CHAT: {
                "messages": [
                    {"role": "system", "content": MARKER},
                    {"role": "user", "content": "hi"},
                ]
            },
            RESPONSES: {"instructions": MARKER},
            ANTHROPIC: {"system": MARKER},
            GEMINI: {"systemInstruction": {"parts": [{"text": MARKER}]}},
            COHERE: {
                "messages": [
                    {"role": "system", "content": MARKER},
                    {"role": "user", "content": "hi"},
                ]
            },
        },
        TEXT,
    ),
    Feature(
        "developer message",
        {
            CHAT: {
                "messages": [
                    {"role": "developer", "content": MARKER},
                    {"role": "user", "content": "hi"},
                ]
            },
            RESPONSES: {
                "input": [
                    {"role": "developer", "content": MARKER},
                    {"role": "user", "content": "hi"},
                ]
            },
        },
        _without(TEXT, ANTHROPIC, GEMINI, BEDROCK, COHERE, OLLAMA, DASHSCOPE),
        TEXT,
    ),
    Feature(
        "name of a speaker",
        {CHAT: {"messages": [{"role": "user", "name": MARKER, "content": "hi"}]}},
        _at({CHAT: "messages.*.name"}),
    ),
    Feature(
        "unknown part",
        _turns(
            {
                CHAT: {"type": MARKER.lower(), "data": MARKER},
                RESPONSES: {"type": MARKER.lower(), "data": MARKER},
                ANTHROPIC: {"type": MARKER.lower(), "data": MARKER},
                GEMINI: {MARKER.lower(): {"data": MARKER}},
                COHERE: {"type": MARKER.lower(), "data": MARKER},
            }
        ),
        _at(
            {
                CHAT: "messages.*.content.*.data",
                RESPONSES: "input.*.content.*.data",
                ANTHROPIC: "messages.*.content.*.data",
                GEMINI: f"contents.*.parts.*.{MARKER.lower()}.data",
                COHERE: "messages.*.content.*.data",
            }
        ),
    ),
    Feature(
        "unknown field of a part",
        _turns(
            {
                CHAT: {"type": "text", "text": "x", "future_field": MARKER},
                RESPONSES: {"type": "input_text", "text": "x", "future_field": MARKER},
                ANTHROPIC: {"type": "text", "text": "x", "future_field": MARKER},
                GEMINI: {"text": "x", "futureField": MARKER},
                COHERE: {"type": "text", "text": "x", "future_field": MARKER},
            }
        ),
        _at(
            {
                CHAT: "messages.*.content.*.future_field",
                RESPONSES: "input.*.content.*.future_field",
                ANTHROPIC: "messages.*.content.*.future_field",
                GEMINI: "contents.*.parts.*.futureField",
                COHERE: "messages.*.content.*.future_field",
            }
        ),
    ),
    Feature(
        "unknown field of a message",
        {
            CHAT: {
                "messages": [{"role": "user", "content": "hi", "future_field": MARKER}]
            },
            RESPONSES: {
                "input": [{"role": "user", "content": "hi", "future_field": MARKER}]
            },
            ANTHROPIC: {
                "messages": [{"role": "user", "content": "hi", "future_field": MARKER}]
            },
            GEMINI: {
                "contents": [
                    {"role": "user", "parts": [{"text": "hi"}], "futureField": MARKER}
                ]
            },
            COHERE: {
                "messages": [{"role": "user", "content": "hi", "future_field": MARKER}]
            },
        },
        _at(
            {
                CHAT: "messages.*.future_field",
                RESPONSES: "input.*.future_field",
                ANTHROPIC: "messages.*.future_field",
                GEMINI: "contents.*.futureField",
                COHERE: "messages.*.future_field",
            }
        ),
    ),
)

# --------------------------------------------------------------------- earlier answers

HISTORY = (
    Feature(
        "citations of an earlier answer",
        _earlier(
            {
                RESPONSES: {
                    "role": "assistant",
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "content": [
                        {
                            "type": "output_text",
                            "text": "Yes.",
                            "annotations": [
                                {
                                    "type": "url_citation",
                                    "url": _URL,
                                    "title": "T",
                                    "start_index": 0,
                                    "end_index": 4,
                                }
                            ],
                        }
                    ],
                },
                ANTHROPIC: {
                    "role": "assistant",
                    "content": [
                        {
                            "type": "text",
                            "text": "Yes.",
                            "citations": [
                                {
                                    "type": "web_search_result_location",
                                    "url": _URL,
                                    "title": "T",
                                    "cited_text": "Y",
                                    "encrypted_index": "e",
                                }
                            ],
                        }
                    ],
                },
                COHERE: {
                    "role": "assistant",
                    "content": "Yes.",
                    "citations": [
                        {
                            "start": 0,
                            "end": 4,
                            "text": "Yes.",
                            "sources": [
                                {
                                    "type": "document",
                                    "id": "d1",
                                    "document": {"url": _URL, "title": "T"},
                                }
                            ],
                        }
                    ],
                },
            }
        ),
        _at(
            {
                RESPONSES: "input.*.content.*.annotations.*.url",
                ANTHROPIC: "messages.*.content.*.citations.*.url",
                COHERE: "messages.*.citations.*.sources.*.document.url",
                BEDROCK: (
                    "messages.*.content.*.citationsContent.citations.*.location.web.url"
                ),
            }
        ),
    ),
    Feature(
        "refusal of an earlier answer",
        _earlier(
            {
                CHAT: {"role": "assistant", "content": None, "refusal": MARKER},
                RESPONSES: {
                    "role": "assistant",
                    "type": "message",
                    "content": [{"type": "refusal", "refusal": MARKER}],
                },
            }
        ),
        _at({CHAT: "messages.*.refusal", RESPONSES: "input.*.content.*.refusal"}),
        TEXT,
    ),
    Feature(
        "signed thoughts of an earlier answer",
        _earlier(
            {
                RESPONSES: {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [],
                    "encrypted_content": MARKER,
                },
                ANTHROPIC: {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": MARKER},
                        {"type": "text", "text": "Yes."},
                    ],
                },
                GEMINI: {
                    "role": "model",
                    "parts": [{"text": "Yes.", "thoughtSignature": MARKER}],
                },
            }
        ),
        _at(
            {
                RESPONSES: "input.*.encrypted_content",
                ANTHROPIC: "messages.*.content.*.signature",
                GEMINI: "contents.*.parts.*.thoughtSignature",
                # Claude accepts its own signatures there.
                BEDROCK: (
                    "messages.*.content.*.reasoningContent.reasoningText.signature"
                ),
            }
        ),
        {
            COHERE: (("messages.*.content.*.thinking", "Hm."),),
            OLLAMA: (("messages.*.thinking", "Hm."),),
            DASHSCOPE: (("input.messages.*.reasoning_content", "Hm."),),
        },
    ),
    Feature(
        "thoughts of an earlier answer",
        _earlier(
            {
                CHAT: {
                    "role": "assistant",
                    "content": "Yes.",
                    "reasoning_content": MARKER,
                },
                COHERE: {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": MARKER},
                        {"type": "text", "text": "Yes."},
                    ],
                },
            }
        ),
        _at(
            {
                CHAT: "messages.*.reasoning_content",
                COHERE: "messages.*.content.*.thinking",
                OLLAMA: "messages.*.thinking",
                DASHSCOPE: "input.messages.*.reasoning_content",
                BEDROCK: "messages.*.content.*.reasoningContent.reasoningText.text",
            }
        ),
    ),
    Feature(
        "plan before earlier calls",
        {
            COHERE: {
                "messages": [
                    {"role": "user", "content": "?"},
                    {
                        "role": "assistant",
                        "tool_plan": MARKER,
                        "tool_calls": [
                            {
                                "id": "call1",
                                "type": "function",
                                "function": {"name": "f", "arguments": "{}"},
                            }
                        ],
                    },
                    {"role": "tool", "tool_call_id": "call1", "content": "done"},
                ],
                "tools": [FUNCTION[COHERE]],
            }
        },
        _at(
            {
                COHERE: "messages.*.tool_plan",
                OLLAMA: "messages.*.thinking",
                DASHSCOPE: "input.messages.*.reasoning_content",
            }
        ),
    ),
    Feature(
        "audio of an earlier answer",
        _earlier(
            {CHAT: {"role": "assistant", "content": None, "audio": {"id": MARKER}}}
        ),
        _at({CHAT: "messages.*.audio.id"}),
    ),
    Feature(
        "search run by the vendor in an earlier answer",
        _earlier(
            {
                RESPONSES: {
                    "type": "web_search_call",
                    "id": f"ws_{MARKER}",
                    "status": "completed",
                    "action": {"type": "search", "query": MARKER},
                },
                ANTHROPIC: {
                    "role": "assistant",
                    "content": [
                        {
                            "type": "server_tool_use",
                            "id": "srvtoolu_1",
                            "name": "web_search",
                            "input": {"query": MARKER},
                        },
                        {
                            "type": "web_search_tool_result",
                            "tool_use_id": "srvtoolu_1",
                            "content": [],
                        },
                        {"type": "text", "text": "Yes."},
                    ],
                },
                GEMINI: {
                    "role": "model",
                    "parts": [
                        {"executableCode": {"language": "PYTHON", "code": MARKER}},
                        {"text": "Yes."},
                    ],
                },
            }
        ),
        _at(
            {
                RESPONSES: "input.*.action.query",
                ANTHROPIC: "messages.*.content.*.input.query",
                GEMINI: "contents.*.parts.*.executableCode.code",
            }
        ),
        # The gateway's own search is a function for the model.
        _at(
            {
                CHAT: "messages.*.tool_calls.*.function.arguments",
                ANTHROPIC: "messages.*.content.*.input.query",
                GEMINI: "contents.*.parts.*.functionCall.args.query",
                COHERE: "messages.*.tool_calls.*.function.arguments",
                BEDROCK: "messages.*.content.*.toolUse.input.query",
                OLLAMA: "messages.*.tool_calls.*.function.arguments.query",
                DASHSCOPE: "input.messages.*.tool_calls.*.function.arguments",
            }
        ),
    ),
    Feature(
        "image of an earlier answer",
        _earlier(
            {
                RESPONSES: {
                    "type": "image_generation_call",
                    "id": "ig_1",
                    "status": "completed",
                    "result": IMAGE,
                },
                GEMINI: {"role": "model", "parts": [_IMAGE_PARTS[GEMINI]]},
            }
        ),
        _at(
            {
                RESPONSES: "input.*.result",
                GEMINI: "contents.*.parts.*.inlineData.data",
            }
        ),
        _IMAGE_PLACES,
        wanted=IMAGE,
    ),
)
