"""Translate speech requests for DashScope's generation API (qwen-asr and qwen-tts).
Pure functions."""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import base64
from typing import Any

from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeServerUnavailableError,
)
from modelyard.base.fields import (
    nested_count,
    text_of,
)
from modelyard.base.provider_errors import provider_error
from modelyard.base.reader_errors import reads_answer
from modelyard.models.capabilities import Capabilities
from modelyard.models.http_payload import HttpPayload, as_json
from modelyard.models.speech2text import (
    Speech2TextRequest,
    Speech2TextResult,
    Speech2TextUsage,
    reported_seconds,
)
from modelyard.models.tts import TTSRequest

FORMAT = "dashscope"
_PATH = "/services/aigc/multimodal-generation/generation"


def dump_transcription(
    request: Speech2TextRequest, model: str, _capabilities: Capabilities
) -> HttpPayload:
    """Build a transcription request. Raises InvokeBadRequestError for a translation,
    which DashScope does not offer."""
    if request.task == "translate":
        raise InvokeBadRequestError("DashScope does not support audio translation")
    # The recording is sent inline in a data URL, which needs a media type.
    address = f"data:{request.mime_type or 'audio/wav'};base64,{base64.b64encode(request.audio).decode()}"  # noqa: E501
    options: dict[str, Any] = {"enable_itn": True}
    if request.language:
        options["language"] = request.language
    messages: list[dict[str, Any]] = []
    # The prompt with vocabulary hints is sent as a system message.
    if request.prompt:
        messages.append({"role": "system", "content": [{"text": request.prompt}]})
    messages.append({"role": "user", "content": [{"audio": address}]})
    body = {
        "model": model,
        "input": {"messages": messages},
        "parameters": {"asr_options": options},
    }
    return as_json(_PATH, body)


@reads_answer
def parse_transcription(body: Any) -> Speech2TextResult:
    """Parse a transcription response. Raises InvokeServerUnavailableError if it has no
    text, and the InvokeError that fits the `code` of an error body."""
    _check_error(body)
    choices = (body.get("output") or {}).get("choices") or [{}]
    message = choices[0].get("message") or {}
    parts = message.get("content")
    if not isinstance(parts, list):
        raise InvokeServerUnavailableError("Upstream response has no 'text'")
    # The detected language is in an annotation of the message.
    notes = [
        annotation
        for annotation in message.get("annotations") or ()
        if annotation.get("type") == "audio_info"
    ]
    seconds = reported_seconds((body.get("usage") or {}).get("seconds"))
    return Speech2TextResult(
        text="".join(text_of(part.get("text")) for part in parts),
        language=text_of(notes[0].get("language")) or None if notes else None,
        usage=Speech2TextUsage(
            seconds=seconds or 0.0,
            estimated=seconds is None,
            completion_tokens=nested_count(
                body, "usage", "output_tokens_details", "text_tokens"
            ),
        ),
    )


def _check_error(body: Any) -> None:
    """Raise the InvokeError that fits the `code` of an error, if the body has one.

    DashScope reports some errors with status 200.
    """
    if body.get("code"):
        raise provider_error(body)


def dump_speech(
    request: TTSRequest, model: str, capabilities: Capabilities
) -> HttpPayload:
    """Build a speech request. Raises InvokeBadRequestError for an audio format other
    than wav and pcm.

    `capabilities.default_voice` replaces the voice `default`.
    """
    voice = (
        capabilities.default_voice or "Cherry"
        if request.voice == "default"
        else request.voice
    )
    if request.format not in ("wav", "pcm"):
        raise InvokeBadRequestError(
            f"Unsupported audio format {request.format!r}; DashScope supports wav and pcm",
            param="response_format",
        )
    speech_input = {
        "text": request.text,
        "voice": voice,
        **request.extra.get(FORMAT, {}),
    }
    return as_json(_PATH, {"model": model, "input": speech_input})


@reads_answer
def parse_speech(event: Any) -> bytes:
    """Return the audio in one event of the stream, empty if there is none.

    PCM: 24 kHz, 16 bit, mono, without a header. Raises the InvokeError that fits the
    `code` of an error event.
    """
    _check_error(event)
    audio = (event.get("output") or {}).get("audio") or {}
    data = audio.get("data")
    return base64.b64decode(data) if isinstance(data, str) and data else b""
