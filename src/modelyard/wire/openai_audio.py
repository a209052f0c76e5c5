"""OpenAI speech and transcription <-> our types. Pure: no network, no clock but for a form's random border."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import count, counted, in_range, kept, may, need, wrong
from modelyard.base.shapes import reads_request
from modelyard.models.sending import Sending, as_form
from modelyard.models.speech2text import (
    Speech2TextRequest,
    Speech2TextResult,
    Speech2TextUsage,
    TranscriptSegment,
    TranscriptWord,
)
from modelyard.models.tts import AUDIO_TYPES, TTSRequest
from modelyard.models.types import JSON

FORMAT = "openai_audio"

_SPEECH_KNOWN = {"model", "input", "voice", "response_format", "speed", "instructions", "user", "stream_format"}
_MAX_CHARACTERS = 100_000
TRANSCRIPT_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")


# ------------------------------------------------------------------------------------------------ speech


@reads_request
def parse_speech_request(body: JSON) -> TTSRequest:
    text = need(body, "input", str)
    if not text.strip():
        raise InvokeBadRequestError("'input' is empty; there is nothing to say", param="input")
    if len(text) > _MAX_CHARACTERS:
        raise InvokeBadRequestError(
            f"'input' has {len(text):,} characters; at most {_MAX_CHARACTERS:,} at once", param="input"
        )
    form = may(body, "response_format", str) or "mp3"
    if form not in AUDIO_TYPES:
        raise wrong("response_format", form, "one of " + ", ".join(AUDIO_TYPES))
    speed = may(body, "speed", float)
    in_range(speed, 0.25, 4, "speed")
    voice = body.get("voice") or "default"
    if isinstance(voice, dict):
        voice = need(voice, "id", str, "voice.")
    if not isinstance(voice, str):
        raise wrong("voice", voice, "a voice's name")
    return TTSRequest(
        text=text,
        voice=voice,
        format=form,
        speed=speed if speed is not None else 1.0,
        instructions=may(body, "instructions", str),
        user=may(body, "user", str),
        extra=kept(FORMAT, {key: value for key, value in body.items() if key not in _SPEECH_KNOWN}),
    )


def dump_speech_request(request: TTSRequest, model: str, quirks: Mapping[str, Any]) -> JSON:
    body: JSON = {
        "model": model,
        "input": request.text,
        "voice": quirks.get("default_voice", "alloy") if request.voice == "default" else request.voice,
        "response_format": request.format,
        **request.extra.get(FORMAT, {}),
    }
    if request.speed != 1.0:
        body["speed"] = request.speed
    if request.instructions is not None:
        body["instructions"] = request.instructions
    return body


# ------------------------------------------------------------------------------------------------ transcription


@reads_request
def parse_transcription_request(fields: Mapping[str, str], audio: bytes, filename: str) -> Speech2TextRequest:
    """A form as a client sends it; `fields` are its text fields."""
    temperature: float | None = None
    if fields.get("temperature"):
        try:
            temperature = float(fields["temperature"])
        except ValueError as error:
            raise wrong("temperature", fields["temperature"], "a number") from error
        in_range(temperature, 0, 1, "temperature")
    if (form := fields.get("response_format") or "json") not in TRANSCRIPT_FORMATS:
        raise wrong("response_format", form, "one of " + ", ".join(TRANSCRIPT_FORMATS))
    if not audio:
        raise InvokeBadRequestError("'file' is empty; there is nothing to transcribe", param="file")
    return Speech2TextRequest(
        audio=audio,
        filename=filename or "audio.wav",
        language=fields.get("language") or None,
        prompt=fields.get("prompt") or None,
        temperature=temperature,
        segments=form in ("verbose_json", "srt", "vtt"),
        words="word" in (fields.get("timestamp_granularities[]") or ""),
    )


def dump_transcription(request: Speech2TextRequest, model: str, quirks: Mapping[str, Any]) -> Sending:
    """The form as a server wants it. Quirks: `plain_transcripts`, of models that answer in plain JSON alone."""
    plain = any(model.startswith(str(name)) for name in quirks.get("plain_transcripts", ()))
    wants_times = (request.segments or request.words) and not plain
    fields = {"model": model, "response_format": "verbose_json" if wants_times else "json"}
    if request.words and wants_times:
        fields["timestamp_granularities[]"] = "word"
    if request.language:
        fields["language"] = request.language
    if request.prompt:
        fields["prompt"] = request.prompt
    if request.temperature is not None:
        fields["temperature"] = str(request.temperature)
    return as_form(
        "/audio/translations" if request.task == "translate" else "/audio/transcriptions",
        fields,
        file=request.audio,
        filename=request.filename,
        mime_type=request.mime_type,
    )


def parse_transcription(body: Any) -> Speech2TextResult:
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str):
        raise InvokeServerUnavailableError("the answer holds no text")
    segments = [
        TranscriptSegment(start=float(one["start"]), end=float(one["end"]), text=str(one["text"]))
        for one in body.get("segments") or ()
        if {"start", "end", "text"} <= one.keys()
    ]
    words = [
        TranscriptWord(start=float(one["start"]), end=float(one["end"]), word=str(one["word"]))
        for one in body.get("words") or ()
        if {"start", "end", "word"} <= one.keys()
    ]
    return Speech2TextResult(
        text=text, language=body.get("language"), segments=segments, words=words, usage=_parse_usage(body)
    )


def _parse_usage(body: JSON) -> Speech2TextUsage:
    usage = body.get("usage") or {}
    if usage.get("type") == "tokens" or count(usage.get("input_tokens")) is not None:
        return Speech2TextUsage(
            prompt_tokens=counted(usage, "input_tokens"),
            audio_prompt_tokens=counted(usage, "input_token_details", "audio_tokens"),
            completion_tokens=counted(usage, "output_tokens"),
        )
    groq = (body.get("x_groq") or {}).get("usage") or {}
    seconds = body.get("duration") or usage.get("seconds") or usage.get("prompt_audio_seconds") or groq.get("seconds")
    return Speech2TextUsage(seconds=_seconds(seconds), estimated=seconds is None)


def _seconds(value: Any) -> float:
    """A length as another party states it; nothing where it is none."""
    try:
        seconds = float(value or 0)
    except (TypeError, ValueError):
        return 0.0
    return seconds if 0 <= seconds < 1e7 else 0.0


def dump_transcription_result(result: Speech2TextResult, response_format: str = "json") -> JSON | str:
    """JSON for `json` and `verbose_json`, text for the others."""
    match response_format:
        case "text":
            return result.text + "\n"
        case "srt":
            return "".join(_cue(place, one, ",") for place, one in enumerate(_segments(result), 1))
        case "vtt":
            return "WEBVTT\n\n" + "".join(_cue(None, one, ".") for one in _segments(result))
        case "verbose_json":
            segments = [{"id": place, **msgspec.to_builtins(one)} for place, one in enumerate(_segments(result))]
            words = {"words": [msgspec.to_builtins(one) for one in result.words]} if result.words else {}
            return {
                "task": "transcribe",
                "language": result.language,
                "duration": result.usage.seconds,
                "text": result.text,
                "segments": segments,
                **words,
                "usage": _dump_usage(result.usage),
            }
        case _:
            return {"text": result.text, "usage": _dump_usage(result.usage)}


def _dump_usage(usage: Speech2TextUsage) -> JSON:
    if not usage.prompt_tokens:
        return {"type": "duration", "seconds": round(usage.seconds)}
    heard = {"audio_tokens": usage.audio_prompt_tokens, "text_tokens": usage.prompt_tokens - usage.audio_prompt_tokens}
    tokens = {"input_tokens": usage.prompt_tokens, "input_token_details": heard}
    total = usage.prompt_tokens + usage.completion_tokens
    return {"type": "tokens", **tokens, "output_tokens": usage.completion_tokens, "total_tokens": total}


def _segments(result: Speech2TextResult) -> list[TranscriptSegment]:
    return result.segments or [TranscriptSegment(start=0.0, end=result.usage.seconds, text=result.text)]


def _cue(number: int | None, segment: TranscriptSegment, point: str) -> str:
    head = f"{number}\n" if number is not None else ""
    return f"{head}{_clock(segment.start, point)} --> {_clock(segment.end, point)}\n{segment.text.strip()}\n\n"


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
