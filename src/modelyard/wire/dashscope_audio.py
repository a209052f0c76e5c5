"""DashScope's speech models behind its generation address: qwen-asr and qwen-tts <-> our types. Pure."""

import base64
from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, InvokeServerUnavailableError
from modelyard.base.fields import counted
from modelyard.models.sending import Sending, as_json
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult, Speech2TextUsage
from modelyard.models.tts import TTSRequest

FORMAT = "dashscope"
_PATH = "/services/aigc/multimodal-generation/generation"


def dump_transcription(request: Speech2TextRequest, model: str, quirks: Mapping[str, Any]) -> Sending:
    del quirks
    if request.task == "translate":
        raise InvokeBadRequestError("DashScope transcribes and does not translate")
    address = f"data:{request.mime_type or 'audio/wav'};base64,{base64.b64encode(request.audio).decode()}"
    options: dict[str, Any] = {"enable_itn": True}
    if request.language:
        options["language"] = request.language
    messages: list[dict[str, Any]] = []
    if request.prompt:
        messages.append({"role": "system", "content": [{"text": request.prompt}]})
    messages.append({"role": "user", "content": [{"audio": address}]})
    body = {"model": model, "input": {"messages": messages}, "parameters": {"asr_options": options}}
    return as_json(_PATH, body)


def parse_transcription(body: Any) -> Speech2TextResult:
    choices = (body.get("output") or {}).get("choices") or [{}]
    message = choices[0].get("message") or {}
    parts = message.get("content")
    if not isinstance(parts, list):
        raise InvokeServerUnavailableError("the answer holds no text")
    notes = [one for one in message.get("annotations") or () if one.get("type") == "audio_info"]
    return Speech2TextResult(
        text="".join(part.get("text") or "" for part in parts),
        language=notes[0].get("language") if notes else None,
        usage=Speech2TextUsage(
            seconds=float(counted(body, "usage", "seconds")),
            completion_tokens=counted(body, "usage", "output_tokens_details", "text_tokens"),
        ),
    )


def dump_speech(request: TTSRequest, model: str, quirks: Mapping[str, Any]) -> Sending:
    voice = quirks.get("default_voice", "Cherry") if request.voice == "default" else request.voice
    if request.format not in ("wav", "pcm"):
        raise InvokeBadRequestError(f"DashScope speaks wav and pcm, not {request.format!r}", param="response_format")
    given = {"text": request.text, "voice": voice, **request.extra.get(FORMAT, {})}
    return as_json(_PATH, {"model": model, "input": given})


def parse_speech(event: Any) -> bytes:
    """The sound in one event of the stream: 24 kHz, 16 bit, one channel, without a header."""
    audio = (event.get("output") or {}).get("audio") or {}
    data = audio.get("data")
    return base64.b64decode(data) if isinstance(data, str) and data else b""
