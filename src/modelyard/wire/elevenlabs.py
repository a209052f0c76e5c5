"""Translate speech requests for ElevenLabs' speech-to-text and text-to-speech APIs.
Pure functions."""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import text_of
from modelyard.base.reader_errors import reads_answer
from modelyard.models.capabilities import Capabilities
from modelyard.models.http_payload import HttpPayload, as_form, as_json
from modelyard.models.speech2text import (
    Speech2TextRequest,
    Speech2TextResult,
    Speech2TextUsage,
    TranscriptWord,
    reported_seconds,
    to_words,
)
from modelyard.models.tts import TTSRequest
from modelyard.models.types import JSON

FORMAT = "elevenlabs"

# Audio format -> ElevenLabs' output_format, which includes sample rate and bit rate.
_FORMATS = {
    "mp3": "mp3_44100_128",
    "pcm": "pcm_24000",
    "opus": "opus_48000_64",
    "wav": "wav_24000",
}


def dump_transcription(
    request: Speech2TextRequest, model: str, _capabilities: Capabilities
) -> HttpPayload:
    """Build a transcription request. Raises InvokeBadRequestError for a translation,
    which ElevenLabs does not offer."""
    if request.task == "translate":
        raise InvokeBadRequestError("ElevenLabs does not support audio translation")
    fields = {"model_id": model}
    if request.language:
        fields["language_code"] = request.language
    if request.temperature is not None:
        fields["temperature"] = str(request.temperature)
    return as_form(
        "/speech-to-text",
        fields,
        file=request.audio,
        filename=request.filename,
        mime_type=request.mime_type,
    )


@reads_answer
def parse_transcription(body: Any) -> Speech2TextResult:
    """Parse a transcription response. Raises InvokeServerUnavailableError if it has no
    text."""
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str):
        raise InvokeServerUnavailableError("Upstream response has no 'text'")
    # The list also has spacing and audio events; only words have a meaning in our type.
    transcript_words = to_words(
        (token.get("start"), token.get("end"), token.get("text"))
        for token in body.get("words") or ()
        if token.get("type") == "word"
    )
    return Speech2TextResult(
        text=text,
        language=text_of(body.get("language_code")) or None,
        words=transcript_words,
        usage=_parse_usage(body, transcript_words),
    )


def _parse_usage(
    body: JSON, transcript_words: Sequence[TranscriptWord]
) -> Speech2TextUsage:
    """Return the usage. Without a stated duration it is estimated as the end of the last
    word."""
    seconds = reported_seconds(body.get("audio_duration_secs"))
    if seconds is not None:
        return Speech2TextUsage(seconds=seconds)
    last_end = transcript_words[-1].end if transcript_words else 0.0
    return Speech2TextUsage(seconds=last_end, estimated=True)


def dump_speech(
    request: TTSRequest, model: str, capabilities: Capabilities
) -> HttpPayload:
    """Build a speech request. Raises InvokeBadRequestError for an audio format that is
    not offered.

    `capabilities.default_voice` replaces the voice `default`.
    """
    if request.format not in _FORMATS:
        raise InvokeBadRequestError(
            f"Unsupported audio format {request.format!r}; ElevenLabs supports"
            f" {', '.join(_FORMATS)}",
            param="response_format",
        )
    # ElevenLabs identifies voices by id, not by name.
    voice = (
        capabilities.default_voice or "21m00Tcm4TlvDq8ikWAM"
        if request.voice == "default"
        else request.voice
    )
    body: dict[str, Any] = {"text": request.text, "model_id": model}
    if request.speed != 1.0:
        body["voice_settings"] = {"speed": request.speed}
    path = f"/text-to-speech/{quote(voice, safe='')}/stream?output_format={_FORMATS[request.format]}"  # noqa: E501
    return as_json(path, body | request.extra.get(FORMAT, {}))
