"""Translate speech requests for Deepgram's listen and speak APIs. Pure functions: no
network, no clock."""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any
from urllib.parse import urlencode

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import text_of
from modelyard.base.reader_errors import reads_answer
from modelyard.models.capabilities import Capabilities
from modelyard.models.http_payload import HttpPayload, as_json
from modelyard.models.speech2text import (
    Speech2TextRequest,
    Speech2TextResult,
    Speech2TextUsage,
    reported_seconds,
    to_segments,
    to_words,
)
from modelyard.models.tts import TTSRequest

FORMAT = "deepgram"

# Audio format -> the query parameters that select it. Deepgram separates encoding and
# container.
_ENCODINGS = {
    "mp3": {"encoding": "mp3"},
    "wav": {"encoding": "linear16", "container": "wav"},
    "pcm": {"encoding": "linear16", "container": "none", "sample_rate": "24000"},
    "flac": {"encoding": "flac"},
    "opus": {"encoding": "opus", "container": "ogg"},
    "aac": {"encoding": "aac"},
}


def dump_transcription(
    request: Speech2TextRequest, model: str, _capabilities: Capabilities
) -> HttpPayload:
    """Build a transcription request. The recording is the raw body, the options are in
    the query string.

    Raises InvokeBadRequestError for a translation, which Deepgram does not offer.
    """
    if request.task == "translate":
        raise InvokeBadRequestError("Deepgram does not support audio translation")
    query = {"model": model, "smart_format": "true", "punctuate": "true"}
    # Utterances are Deepgram's segments; it computes them only on request.
    if request.segments:
        query["utterances"] = "true"
    query |= (
        {"language": request.language}
        if request.language
        else {"detect_language": "true"}
    )
    if request.prompt:
        query["keyterm"] = request.prompt
    return HttpPayload(
        path=f"/listen?{urlencode(query)}",
        body=[request.audio],
        content_type=request.mime_type or "application/octet-stream",
    )


@reads_answer
def parse_transcription(body: Any) -> Speech2TextResult:
    """Parse a transcription response. Raises InvokeServerUnavailableError if it has no
    transcript."""
    results = body.get("results") if isinstance(body, dict) else None
    channels = (results or {}).get("channels") or ()
    if not channels or not channels[0].get("alternatives"):
        raise InvokeServerUnavailableError("Upstream response has no transcript")
    # Only the first channel is read; alternatives are ordered by confidence.
    alternative = channels[0]["alternatives"][0]
    seconds = reported_seconds((body.get("metadata") or {}).get("duration"))
    return Speech2TextResult(
        text=text_of(alternative.get("transcript")),
        language=text_of(channels[0].get("detected_language")) or None,
        segments=to_segments(
            (utterance.get("start"), utterance.get("end"), utterance.get("transcript"))
            for utterance in (results or {}).get("utterances") or ()
        ),
        words=to_words(
            (
                word.get("start"),
                word.get("end"),
                word.get("punctuated_word") or word.get("word"),
            )
            for word in alternative.get("words") or ()
        ),
        usage=Speech2TextUsage(seconds=seconds or 0.0, estimated=seconds is None),
    )


def dump_speech(
    request: TTSRequest, model: str, capabilities: Capabilities
) -> HttpPayload:
    """Build a speech request. A voice is part of Deepgram's model name: `aura-2` and
    `thalia-en` give `aura-2-thalia-en`.

    `capabilities.default_voice` replaces the voice `default`.
    """
    voice = (
        capabilities.default_voice or "thalia-en"
        if request.voice == "default"
        else request.voice
    )
    name = voice if voice.startswith("aura") else f"{model}-{voice}"
    return as_json(
        f"/speak?{urlencode({'model': name, **_ENCODINGS[request.format]})}",
        {"text": request.text},
    )
