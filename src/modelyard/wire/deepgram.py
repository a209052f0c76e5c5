"""Deepgram listen and speak <-> our types. Pure: no network, no clock."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.models.sending import Sending, as_json
from modelyard.models.speech2text import (
    Speech2TextRequest,
    Speech2TextResult,
    Speech2TextUsage,
    TranscriptSegment,
    TranscriptWord,
)
from modelyard.models.tts import TTSRequest

FORMAT = "deepgram"

_ENCODINGS = {
    "mp3": {"encoding": "mp3"},
    "wav": {"encoding": "linear16", "container": "wav"},
    "pcm": {"encoding": "linear16", "container": "none", "sample_rate": "24000"},
    "flac": {"encoding": "flac"},
    "opus": {"encoding": "opus", "container": "ogg"},
    "aac": {"encoding": "aac"},
}


def dump_transcription(request: Speech2TextRequest, model: str, quirks: Mapping[str, Any]) -> Sending:
    """The recording itself is the body; all else stands in the address."""
    del quirks
    if request.task == "translate":
        raise InvokeBadRequestError("Deepgram transcribes and does not translate")
    query = {"model": model, "smart_format": "true", "punctuate": "true"}
    if request.segments:
        query["utterances"] = "true"
    query |= {"language": request.language} if request.language else {"detect_language": "true"}
    if request.prompt:
        query["keyterm"] = request.prompt
    return Sending(
        path=f"/listen?{urlencode(query)}",
        body=[request.audio],
        content_type=request.mime_type or "application/octet-stream",
    )


def parse_transcription(body: Any) -> Speech2TextResult:
    results = body.get("results") if isinstance(body, dict) else None
    channels = (results or {}).get("channels") or ()
    if not channels or not channels[0].get("alternatives"):
        raise InvokeServerUnavailableError("the answer holds no transcript")
    best = channels[0]["alternatives"][0]
    words = [
        TranscriptWord(start=one["start"], end=one["end"], word=one.get("punctuated_word") or one["word"])
        for one in best.get("words") or ()
    ]
    segments = [
        TranscriptSegment(start=one["start"], end=one["end"], text=one["transcript"])
        for one in (results or {}).get("utterances") or ()
    ]
    return Speech2TextResult(
        text=best.get("transcript") or "",
        language=channels[0].get("detected_language"),
        segments=segments,
        words=words,
        usage=Speech2TextUsage(seconds=float((body.get("metadata") or {}).get("duration") or 0)),
    )


def dump_speech(request: TTSRequest, model: str, quirks: Mapping[str, Any]) -> Sending:
    """A voice is part of a model's name here: `aura-2` and `thalia` are `aura-2-thalia-en`."""
    voice = quirks.get("default_voice", "thalia-en") if request.voice == "default" else request.voice
    name = voice if voice.startswith("aura") else f"{model}-{voice}"
    return as_json(f"/speak?{urlencode({'model': name, **_ENCODINGS[request.format]})}", {"text": request.text})
