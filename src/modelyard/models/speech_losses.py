"""Fields of speech requests that a provider's format does not read."""

from collections.abc import Collection, Mapping
from typing import Any

from modelyard.models.speech2text import Speech2TextRequest
from modelyard.models.tts import TTSRequest

_CALLER = "openai_audio"
"""The format in which the gateway is called."""


def unread_speech_fields(
    request: TTSRequest,
    read: Collection[str],
) -> list[str]:
    """Return the fields of a speech request that are not in `read`, and those that only
    the caller's format has, unless `extra` is in it."""
    fields: dict[str, Any] = {
        "speed": request.speed if request.speed != 1.0 else None,
        "instructions": request.instructions,
        "user": request.user,
    }
    return [*_unread(fields, read), *_foreign(request.extra, read)]


def unread_transcription_fields(
    request: Speech2TextRequest,
    read: Collection[str],
) -> list[str]:
    """Return the fields of a transcription request that are not in `read`, and those
    that only the caller's format has, unless `extra` is in it."""
    fields: dict[str, Any] = {
        "language": request.language,
        "prompt": request.prompt,
        "temperature": request.temperature,
        "timestamp_granularities": (request.words or request.segments) or None,
        "user": request.user,
    }
    return [*_unread(fields, read), *_foreign(request.extra, read)]


def _unread(
    fields: Mapping[str, Any],
    read: Collection[str],
) -> list[str]:
    """Return the names of the fields with a value that are not read."""
    return [
        name for name, value in fields.items() if value is not None and name not in read
    ]


def _foreign(
    extra: Mapping[str, Any],
    read: Collection[str],
) -> list[str]:
    """Return the names of the fields that only the caller's format has."""
    fields: Mapping[str, Any] = extra.get(_CALLER) or {}
    if "extra" in read:
        return []
    return [name for name, value in fields.items() if value is not None]
