"""Translate between OpenAI's speech and transcription APIs and modelyard's types.

Pure functions: no network, no clock; only the boundary of a multipart form is random.
"""
# A hot path: documents are read as the decoder returns them, without type guards.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import (
    count,
    in_range,
    invalid_field,
    nested_count,
    optional_field,
    passthrough_fields,
    required_field,
    text_of,
)
from modelyard.base.reader_errors import reads_answer, reads_request
from modelyard.models.capabilities import Capabilities
from modelyard.models.http_payload import HttpPayload, as_form
from modelyard.models.speech2text import (
    Speech2TextRequest,
    Speech2TextResult,
    Speech2TextUsage,
    TranscriptSegment,
    reported_seconds,
    to_segments,
    to_words,
)
from modelyard.models.tts import AUDIO_TYPES, TTSRequest
from modelyard.models.types import JSON

FORMAT = "openai_audio"

_KNOWN_SPEECH_FIELDS = {
    "model",
    "input",
    "voice",
    "response_format",
    "speed",
    "instructions",
    "user",
    "stream_format",
}
_KNOWN_TRANSCRIPTION_FIELDS = {
    "model",
    "language",
    "prompt",
    "temperature",
    "response_format",
    "stream",
    "timestamp_granularities[]",
}
# OpenAI takes 4,096 characters, other services many more.
_MAX_CHARACTERS = 100_000
TRANSCRIPT_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")


# ------------------------------------------------------------------------------- speech


@reads_request
def parse_speech_request(body: JSON) -> TTSRequest:
    """Parse the JSON body of a client's request to `/v1/audio/speech`.

    The voice is a name or an object with an `id`; the format defaults to mp3. Raises
    InvokeBadRequestError that names the field if `input` is empty or has more than
    100,000 characters, for an unknown format, or for a speed outside 0.25 to 4.
    """
    text = required_field(body, "input", str)
    if not text.strip():
        raise InvokeBadRequestError("'input' must not be empty", param="input")
    if len(text) > _MAX_CHARACTERS:
        raise InvokeBadRequestError(
            f"'input' has {len(text):,} characters; at most {_MAX_CHARACTERS:,} are"
            " allowed",
            param="input",
        )
    audio_format = optional_field(body, "response_format", str) or "mp3"
    if audio_format not in AUDIO_TYPES:
        raise invalid_field(
            "response_format", audio_format, "one of " + ", ".join(AUDIO_TYPES)
        )
    speed = optional_field(body, "speed", float)
    in_range(speed, 0.25, 4, "speed")
    voice = body.get("voice")
    if voice in (None, ""):
        voice = "default"
    # A custom voice is an object with an id, a built-in voice a plain name.
    if isinstance(voice, dict):
        voice = required_field(voice, "id", str, "voice.")
    if not isinstance(voice, str):
        raise invalid_field("voice", voice, "the name of a voice")
    return TTSRequest(
        text=text,
        voice=voice,
        format=audio_format,
        speed=speed if speed is not None else 1.0,
        instructions=optional_field(body, "instructions", str),
        user=optional_field(body, "user", str),
        extra=passthrough_fields(
            FORMAT,
            {
                key: value
                for key, value in body.items()
                if key not in _KNOWN_SPEECH_FIELDS
            },
        ),
    )


def dump_speech_request(
    request: TTSRequest, model: str, capabilities: Capabilities
) -> JSON:
    """Build the body of a request to `/audio/speech`.

    The voice `default` is replaced by `capabilities.default_voice`, or by `alloy`. The
    speed is written only if it is not 1.0; speed and instructions take precedence over
    stored vendor fields. The fields in `capabilities.drop` are left out.
    """
    body: JSON = {
        "model": model,
        "input": request.text,
        "voice": (
            capabilities.default_voice or "alloy"
            if request.voice == "default"
            else request.voice
        ),
        "response_format": request.format,
        **request.extra.get(FORMAT, {}),
    }
    # Normal speed is the default, so it is not sent.
    if request.speed != 1.0:
        body["speed"] = request.speed
    if request.instructions is not None:
        body["instructions"] = request.instructions
    for name in capabilities.drop:
        body.pop(name, None)
    return body


# ------------------------------------------------------------------------ transcription


@reads_request
def parse_transcription_request(
    fields: Mapping[str, str],
    audio: bytes,
    filename: str,
    lists: Mapping[str, list[str]] | None = None,
) -> Speech2TextRequest:
    """Parse a client's transcription form.

    `fields` are its text fields, `lists` all values of those whose names end with `[]`;
    `audio` is the uploaded file. Raises InvokeBadRequestError that names the field, also
    for a streamed transcript, which is not supported.
    """
    if fields.get("stream", "").lower() in ("true", "1"):
        raise InvokeBadRequestError("Transcripts are not streamed", param="stream")
    all_fields: dict[str, str | list[str]] = {**fields, **(lists or {})}
    granularities = all_fields.get("timestamp_granularities[]") or []
    temperature: float | None = None
    if fields.get("temperature"):
        # Form fields are always text, so numbers are converted here.
        try:
            temperature = float(fields["temperature"])
        except ValueError as error:
            raise invalid_field(
                "temperature", fields["temperature"], "a number"
            ) from error
        in_range(temperature, 0, 1, "temperature")
    if (
        transcript_format := fields.get("response_format") or "json"
    ) not in TRANSCRIPT_FORMATS:
        raise invalid_field(
            "response_format",
            transcript_format,
            "one of " + ", ".join(TRANSCRIPT_FORMATS),
        )
    if not audio:
        raise InvokeBadRequestError("'file' must not be empty", param="file")
    return Speech2TextRequest(
        audio=audio,
        filename=filename or "audio.wav",
        language=fields.get("language") or None,
        prompt=fields.get("prompt") or None,
        temperature=temperature,
        # Subtitle formats are built from segments, so the upstream must return them.
        segments=transcript_format in ("verbose_json", "srt", "vtt"),
        words="word" in granularities,
        extra=passthrough_fields(
            FORMAT,
            {
                name: value
                for name, value in all_fields.items()
                if name not in _KNOWN_TRANSCRIPTION_FIELDS
            },
        ),
    )


def dump_transcription(
    request: Speech2TextRequest, model: str, capabilities: Capabilities
) -> HttpPayload:
    """Build the multipart form for a transcription or translation.

    The task of the request decides the path. If segments or words are wanted,
    `verbose_json` is requested, except from models whose name starts with a prefix in
    `capabilities.plain_transcripts`. The fields in `capabilities.drop` are left out.
    """
    plain = model.startswith(capabilities.plain_transcripts)
    wants_times = (request.segments or request.words) and not plain
    # Only verbose_json has timestamps.
    fields: dict[str, str | list[str]] = {
        **request.extra.get(FORMAT, {}),
        "model": model,
        "response_format": "verbose_json" if wants_times else "json",
    }
    if request.words and wants_times:
        # Segments are the default, but not beside words.
        segments = ["segment"] if request.segments else []
        fields["timestamp_granularities[]"] = ["word", *segments]
    if request.language:
        fields["language"] = request.language
    if request.prompt:
        fields["prompt"] = request.prompt
    if request.temperature is not None:
        fields["temperature"] = str(request.temperature)
    for name in capabilities.drop:
        fields.pop(name, None)
        fields.pop(f"{name}[]", None)
    # Translation has its own endpoint but the same form.
    return as_form(
        (
            "/audio/translations"
            if request.task == "translate"
            else "/audio/transcriptions"
        ),
        fields,
        file=request.audio,
        filename=request.filename,
        mime_type=request.mime_type,
    )


@reads_answer
def parse_transcription(body: Any) -> Speech2TextResult:
    """Parse a transcription response.

    Incomplete segments and words are skipped. Usage is counted in tokens or in seconds
    of audio, depending on the model. Raises InvokeServerUnavailableError if the
    response has no `text`.
    """
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str):
        raise InvokeServerUnavailableError("Upstream response has no 'text'")
    return Speech2TextResult(
        text=text,
        language=text_of(body.get("language")) or None,
        segments=to_segments(
            (segment.get("start"), segment.get("end"), segment.get("text"))
            for segment in body.get("segments") or ()
        ),
        words=to_words(
            (word.get("start"), word.get("end"), word.get("word"))
            for word in body.get("words") or ()
        ),
        usage=_parse_usage(body),
    )


def _parse_usage(body: JSON) -> Speech2TextUsage:
    """Return the usage of a transcription: token counts or seconds of audio.

    Seconds come from `duration`, from `usage`, or from Groq's `x_groq`. If there are
    neither tokens nor seconds, the usage is marked as estimated.
    """
    usage = body.get("usage") or {}
    # Newer models count tokens, the others seconds of audio.
    if usage.get("type") == "tokens" or count(usage.get("input_tokens")) is not None:
        return Speech2TextUsage(
            prompt_tokens=nested_count(usage, "input_tokens"),
            audio_prompt_tokens=nested_count(
                usage, "input_token_details", "audio_tokens"
            ),
            completion_tokens=nested_count(usage, "output_tokens"),
        )
    # Servers of this format report the duration under different names; Groq nests it.
    groq = (body.get("x_groq") or {}).get("usage") or {}
    fields = (
        body.get("duration"),
        usage.get("seconds"),
        usage.get("prompt_audio_seconds"),
        groq.get("seconds"),
    )
    # A zero is no duration: some servers write it where they measured none.
    seconds = next(filter(None, map(reported_seconds, fields)), None)
    return Speech2TextUsage(seconds=seconds or 0.0, estimated=seconds is None)


def dump_transcription_result(
    result: Speech2TextResult, response_format: str = "json"
) -> JSON | str:
    """Build the transcript in the format that the client asked for.

    `text`, `srt` and `vtt` give text, `verbose_json` gives JSON with segments and
    words; any other value gives JSON with text and usage. A transcript without segments
    becomes a single one for subtitles.
    """
    match response_format:
        case "text":
            return result.text + "\n"
        case "srt":
            # SRT numbers its cues from 1 and has a decimal comma; WebVTT has neither.
            return "".join(
                _cue(cue_number, segment, ",")
                for cue_number, segment in enumerate(_segments(result), 1)
            )
        case "vtt":
            return "WEBVTT\n\n" + "".join(
                _cue(None, segment, ".") for segment in _segments(result)
            )
        case "verbose_json":
            segments = [
                {"id": index, **msgspec.to_builtins(segment)}
                for index, segment in enumerate(_segments(result))
            ]
            word_fields = (
                {
                    "words": [
                        msgspec.to_builtins(transcript_word)
                        for transcript_word in result.words
                    ]
                }
                if result.words
                else {}
            )
            return {
                "task": "transcribe",
                # A result without a measured duration reports what the usage says.
                "language": result.language,
                "duration": result.usage.seconds,
                "text": result.text,
                "segments": segments,
                **word_fields,
                "usage": _dump_usage(result.usage),
            }
        case _:
            return {"text": result.text, "usage": _dump_usage(result.usage)}


def _dump_usage(usage: Speech2TextUsage) -> JSON:
    """Build `usage` of a transcription.

    It has the type `tokens` if prompt tokens were counted, otherwise `duration` in
    whole seconds.
    """
    # Without prompt tokens the model counts seconds.
    if not usage.prompt_tokens:
        return {"type": "duration", "seconds": round(usage.seconds)}
    input_details = {
        "audio_tokens": usage.audio_prompt_tokens,
        "text_tokens": usage.prompt_tokens - usage.audio_prompt_tokens,
    }
    tokens = {"input_tokens": usage.prompt_tokens, "input_token_details": input_details}
    total = usage.prompt_tokens + usage.completion_tokens
    return {
        "type": "tokens",
        **tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": total,
    }


def _segments(result: Speech2TextResult) -> list[TranscriptSegment]:
    """Return the segments of a transcript.

    Without any, one segment has the whole text, from 0 to the measured duration in
    seconds.
    """
    # Without segments, the whole text becomes one segment over the whole duration.
    return result.segments or [
        TranscriptSegment(start=0.0, end=result.usage.seconds, text=result.text)
    ]


def _cue(number: int | None, segment: TranscriptSegment, point: str) -> str:
    """Return one subtitle cue, followed by a blank line.

    `number` precedes the cue in SRT and is None for WebVTT; `point` is the decimal
    separator of its timestamps.
    """
    head = f"{number}\n" if number is not None else ""
    return (
        f"{head}{_timestamp(segment.start, point)} -->"
        f" {_timestamp(segment.end, point)}\n{segment.text.strip()}\n\n"
    )


def _timestamp(seconds: float, point: str) -> str:
    """Return seconds as `HH:MM:SS`, `point` and three digits of milliseconds."""
    milliseconds = round(seconds * 1000)
    # Minutes are not limited to 59 here; hours are split off below.
    minutes, remaining_ms = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{remaining_ms // 1000:02}{point}{remaining_ms % 1000:03}"  # noqa: E501
