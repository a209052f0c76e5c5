"""The wire formats of speech by name: the functions that translate transcriptions and
speech synthesis.

These calls differ in path, body and content type, so the functions return all three.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.models.capabilities import Capabilities
from modelyard.models.http_payload import HttpPayload, as_json
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tts import TTSRequest
from modelyard.wire import dashscope_audio, deepgram, elevenlabs, openai_audio


@dataclass(frozen=True, slots=True)
class Speech2TextFormat:
    """A wire format for transcription."""

    dump: Callable[[Speech2TextRequest, str, Capabilities], HttpPayload]
    parse: Callable[[Any], Speech2TextResult]
    read: frozenset[str]
    """The fields of a request that it sends, as in `unread_transcription_fields`."""


_TIMES = "timestamp_granularities"
SPEECH2TEXT: Mapping[str, Speech2TextFormat] = {
    "openai": Speech2TextFormat(
        openai_audio.dump_transcription,
        openai_audio.parse_transcription,
        frozenset(
            {
                "language",
                "prompt",
                "temperature",
                _TIMES,
                "extra",
            }
        ),
    ),
    "deepgram": Speech2TextFormat(
        deepgram.dump_transcription,
        deepgram.parse_transcription,
        # It tells the times of words unasked.
        frozenset(
            {
                "language",
                "prompt",
                _TIMES,
            }
        ),
    ),
    "elevenlabs": Speech2TextFormat(
        elevenlabs.dump_transcription,
        elevenlabs.parse_transcription,
        # It tells the times of words unasked.
        frozenset(
            {
                "language",
                "temperature",
                _TIMES,
            }
        ),
    ),
    "dashscope": Speech2TextFormat(
        dashscope_audio.dump_transcription,
        dashscope_audio.parse_transcription,
        frozenset(
            {
                "language",
                "prompt",
            }
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class TTSFormat:
    """A wire format for speech synthesis."""

    dump: Callable[[TTSRequest, str, Capabilities], HttpPayload]
    parse_event: Callable[[Any], bytes] | None = None
    """Extracts the audio from an event, if the audio comes as events instead of raw
    bytes."""
    headers: Mapping[str, str] | None = None
    read: frozenset[str] = frozenset()
    """The fields of a request that it sends, as in `unread_speech_fields`."""


def _openai_speech(
    request: TTSRequest, model: str, capabilities: Capabilities
) -> HttpPayload:
    """Return the request for speech in OpenAI's format."""
    body = openai_audio.dump_speech_request(request, model, capabilities)
    return as_json("/audio/speech", body)


TTS: Mapping[str, TTSFormat] = {
    "openai": TTSFormat(
        _openai_speech,
        read=frozenset(
            {
                "speed",
                "instructions",
                "extra",
            }
        ),
    ),
    "deepgram": TTSFormat(deepgram.dump_speech),
    "elevenlabs": TTSFormat(
        elevenlabs.dump_speech,
        read=frozenset(
            {
                "speed",
            }
        ),
    ),
    "dashscope": TTSFormat(
        dashscope_audio.dump_speech,
        dashscope_audio.parse_speech,
        {"x-dashscope-sse": "enable"},
    ),
}
