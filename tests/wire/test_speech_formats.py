"""The wire formats of speech: transcription and synthesis, in both directions."""

import base64
import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)
from modelyard.gateway.forms import parse_form
from modelyard.models.capabilities import Capabilities
from modelyard.models.http_payload import HttpPayload
from modelyard.models.speech2text import (
    Speech2TextRequest,
    Speech2TextResult,
    Speech2TextUsage,
    TranscriptSegment,
    TranscriptWord,
    reported_seconds,
)
from modelyard.models.tts import AUDIO_TYPES, TTSRequest
from modelyard.providers.speech_formats import SPEECH2TEXT, TTS
from modelyard.wire import dashscope_audio, deepgram, elevenlabs, openai_audio

DEFAULT = Capabilities()
VOICED = Capabilities(default_voice="house voice")

OPENAI_TRANSCRIPT: dict[str, Any] = {
    "task": "transcribe",
    "language": "english",
    "duration": 3.5,
    "text": "Hello there.",
    "segments": [
        {"id": 0, "start": 0.0, "end": 1.5, "text": "Hello", "avg_logprob": -0.2},
        {"id": 1, "start": 1.5, "end": 3, "text": " there."},
    ],
    "words": [
        {"word": "Hello", "start": 0.0, "end": 1.5},
        {"word": "there", "start": 1.5, "end": 3.0},
    ],
}
DEEPGRAM_TRANSCRIPT: dict[str, Any] = {
    "metadata": {"request_id": "r", "duration": 3.5, "channels": 1},
    "results": {
        "channels": [
            {
                "detected_language": "english",
                "alternatives": [
                    {
                        "transcript": "Hello there.",
                        "confidence": 0.99,
                        "words": [
                            {
                                "word": "hello",
                                "start": 0.0,
                                "end": 1.5,
                                "punctuated_word": "Hello",
                            },
                            {"word": "there", "start": 1.5, "end": 3},
                        ],
                    },
                    {"transcript": "Hollow there."},
                ],
            }
        ],
        "utterances": [
            {"start": 0.0, "end": 1.5, "transcript": "Hello"},
            {"start": 1.5, "end": 3.0, "transcript": " there."},
        ],
    },
}
ELEVENLABS_TRANSCRIPT: dict[str, Any] = {
    "language_code": "english",
    "language_probability": 0.98,
    "text": "Hello there.",
    "audio_duration_secs": 3.5,
    "words": [
        {"text": "Hello", "start": 0.0, "end": 1.5, "type": "word"},
        {"text": " ", "start": 1.5, "end": 1.5, "type": "spacing"},
        {"text": "there", "start": 1.5, "end": 3, "type": "word"},
        {"text": "(laughs)", "start": 3.0, "end": 3.4, "type": "audio_event"},
    ],
}
DASHSCOPE_TRANSCRIPT: dict[str, Any] = {
    "output": {
        "choices": [
            {
                "finish_reason": "stop",
                "message": {
                    "role": "assistant",
                    "annotations": [
                        {"type": "other"},
                        {"type": "audio_info", "language": "english"},
                    ],
                    "content": [{"text": "Hello "}, {"text": "there."}, {}],
                },
            }
        ]
    },
    "usage": {"seconds": 3.5, "output_tokens_details": {"text_tokens": 6}},
}
TRANSCRIPTS = {
    "openai": OPENAI_TRANSCRIPT,
    "deepgram": DEEPGRAM_TRANSCRIPT,
    "elevenlabs": ELEVENLABS_TRANSCRIPT,
    "dashscope": DASHSCOPE_TRANSCRIPT,
}
SEGMENTS = [
    TranscriptSegment(start=0.0, end=1.5, text="Hello"),
    TranscriptSegment(start=1.5, end=3.0, text=" there."),
]
WORDS = [
    TranscriptWord(start=0.0, end=1.5, word="Hello"),
    TranscriptWord(start=1.5, end=3.0, word="there"),
]


def test_a_transcript_is_recorded_for_every_format():
    assert TRANSCRIPTS.keys() == SPEECH2TEXT.keys()


@pytest.mark.parametrize("name", sorted(TRANSCRIPTS))
def test_every_format_reads_the_same_transcript(name: str):
    result = SPEECH2TEXT[name].parse(TRANSCRIPTS[name])
    tokens = 6 if name == "dashscope" else 0
    assert result == Speech2TextResult(
        text="Hello there.",
        language="english",
        segments=SEGMENTS if name in ("openai", "deepgram") else [],
        words=WORDS if name != "dashscope" else [],
        usage=Speech2TextUsage(seconds=3.5, completion_tokens=tokens),
    )
    # Times are numbers with a fraction, also where the server wrote whole numbers.
    for entry in (*result.segments, *result.words):
        assert (type(entry.start), type(entry.end)) == (float, float)


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("openai", {}, "Upstream response has no 'text'"),
        ("openai", [], "Upstream response has no 'text'"),
        ("openai", {"text": None}, "Upstream response has no 'text'"),
        ("openai", {"text": "a", "usage": [1]}, "The response does not match"),
        ("openai", {"text": "a", "segments": ["x"]}, "The response does not match"),
        ("deepgram", {}, "Upstream response has no transcript"),
        ("deepgram", "x", "Upstream response has no transcript"),
        ("deepgram", {"results": {"channels": []}}, "has no transcript"),
        ("deepgram", {"results": {"channels": [{}]}}, "has no transcript"),
        ("deepgram", {"results": ["x"]}, "The response does not match its format"),
        ("elevenlabs", {"detail": "x"}, "Upstream response has no 'text'"),
        ("elevenlabs", None, "Upstream response has no 'text'"),
        ("elevenlabs", {"text": "a", "words": [5]}, "The response does not match"),
        ("dashscope", {}, "Upstream response has no 'text'"),
        ("dashscope", {"output": {"choices": [{}]}}, "has no 'text'"),
        ("dashscope", [], "The response does not match its format"),
        ("dashscope", {"output": "x"}, "The response does not match its format"),
    ],
)
def test_a_response_without_a_transcript_is_the_providers_fault(
    name: str, body: Any, message: str
):
    with pytest.raises(InvokeServerUnavailableError, match=message):
        SPEECH2TEXT[name].parse(body)


@pytest.mark.parametrize(
    ("code", "error_class"),
    [
        ("InvalidApiKey", InvokeAuthorizationError),
        ("Throttling.RateQuota", InvokeRateLimitError),
        ("SomethingNew", InvokeServerUnavailableError),
    ],
)
def test_dashscope_reports_errors_of_speech_with_status_200(
    code: str, error_class: type[Exception]
):
    error = {"code": code, "message": "Not today.", "request_id": "r"}
    for parse in (dashscope_audio.parse_transcription, dashscope_audio.parse_speech):
        with pytest.raises(error_class, match=r"^Not today\.$") as raised:
            parse(error)
        assert type(raised.value) is error_class


# times and durations of a transcript


def test_words_and_segments_without_times_are_skipped():
    """ElevenLabs writes null for times that it does not know."""
    entry: dict[str, Any]
    for entry in ({}, {"start": None, "end": 1}, {"start": 0, "end": "soon"}):
        word = {"type": "word", "text": "x", "word": "x", "transcript": "x", **entry}
        segments = {"segments": [word], "words": [word]}
        alternative = {"transcript": "x", "words": [word]}
        bodies: dict[str, Any] = {
            "openai": {"text": "x", **segments},
            "elevenlabs": {"text": "x", **segments},
            "deepgram": {
                "results": {
                    "channels": [{"alternatives": [alternative]}],
                    "utterances": [word],
                }
            },
        }
        for name, body in bodies.items():
            result = SPEECH2TEXT[name].parse(body)
            assert (result.text, result.words, result.segments) == ("x", [], [])


def test_a_segment_needs_a_text():
    segments = [{"start": 0, "end": 1, "text": 5}, {"start": 0, "end": 1, "text": "a"}]
    result = openai_audio.parse_transcription({"text": "a", "segments": segments})
    assert result.segments == [TranscriptSegment(start=0.0, end=1.0, text="a")]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (12, 12.0),
        (2.5, 2.5),
        ("3.25", 3.25),
        (9_999_999, 9_999_999.0),
        (10_000_000, None),
        (10**400, None),
        (-1, None),
        (True, None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        (None, None),
        ([], None),
    ],
)
def test_only_a_plausible_duration_counts(value: Any, seconds: float | None):
    assert reported_seconds(value) == seconds


@pytest.mark.parametrize("duration", [None, -5, "x", 1e300, {}, True])
def test_an_implausible_duration_is_not_billed(duration: Any):
    bodies: dict[str, Any] = {
        "openai": {"text": "a", "duration": duration},
        "deepgram": {**DEEPGRAM_TRANSCRIPT, "metadata": {"duration": duration}},
        "elevenlabs": {"text": "a", "audio_duration_secs": duration},
        "dashscope": {**DASHSCOPE_TRANSCRIPT, "usage": {"seconds": duration}},
    }
    for name, body in bodies.items():
        usage = SPEECH2TEXT[name].parse(body).usage
        assert usage == Speech2TextUsage(seconds=0.0, estimated=True), name


def test_elevenlabs_estimates_the_duration_by_the_last_word():
    body = {**ELEVENLABS_TRANSCRIPT, "audio_duration_secs": None}
    usage = elevenlabs.parse_transcription(body).usage
    assert usage == Speech2TextUsage(seconds=3.0, estimated=True)


@pytest.mark.parametrize(
    ("fields", "usage"),
    [
        (
            {
                "usage": {
                    "type": "tokens",
                    "input_tokens": 14,
                    "input_token_details": {"audio_tokens": 10, "text_tokens": 4},
                    "output_tokens": 45,
                }
            },
            Speech2TextUsage(
                prompt_tokens=14, audio_prompt_tokens=10, completion_tokens=45
            ),
        ),
        ({"usage": {"input_tokens": 0}}, Speech2TextUsage()),
        (
            {"usage": {"type": "duration", "seconds": 7}},
            Speech2TextUsage(seconds=7.0),
        ),
        ({"duration": "8.5"}, Speech2TextUsage(seconds=8.5)),
        ({"duration": 0, "usage": {"seconds": 7}}, Speech2TextUsage(seconds=7.0)),
        ({"duration": -1, "usage": {"seconds": 7}}, Speech2TextUsage(seconds=7.0)),
        ({"usage": {"prompt_audio_seconds": 9}}, Speech2TextUsage(seconds=9.0)),
        ({"x_groq": {"usage": {"seconds": 2.5}}}, Speech2TextUsage(seconds=2.5)),
        ({"x_groq": {"id": "r"}}, Speech2TextUsage(estimated=True)),
        ({}, Speech2TextUsage(estimated=True)),
    ],
)
def test_servers_of_openais_format_count_in_different_fields(
    fields: dict[str, Any], usage: Speech2TextUsage
):
    assert openai_audio.parse_transcription({"text": "a", **fields}).usage == usage


# transcripts for callers

times = st.integers(0, 36_000_000).map(lambda milliseconds: milliseconds / 1000)
sentences = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]))


@st.composite
def entries(draw: st.DrawFn, entry_class: type[Any], name: str) -> Any:
    start, end = sorted(draw(st.tuples(times, times)))
    return entry_class(start=start, end=end, **{name: draw(sentences)})


@st.composite
def transcripts(draw: st.DrawFn) -> Speech2TextResult:
    usage = draw(
        st.builds(Speech2TextUsage, seconds=st.integers(1, 9_999).map(float))
        | st.builds(
            lambda audio, text, completion: Speech2TextUsage(
                prompt_tokens=audio + text,
                audio_prompt_tokens=audio,
                completion_tokens=completion,
            ),
            st.integers(0, 99),
            st.integers(1, 99),
            st.integers(0, 99),
        )
    )
    return Speech2TextResult(
        text=draw(sentences),
        language=draw(st.none() | st.sampled_from(["en", "zh"])),
        segments=draw(
            st.lists(entries(TranscriptSegment, "text"), min_size=1, max_size=3)
        ),
        words=draw(st.lists(entries(TranscriptWord, "word"), max_size=3)),
        usage=usage,
    )


@given(transcripts())
def test_a_verbose_transcript_survives_a_round_trip(result: Speech2TextResult):
    document = openai_audio.dump_transcription_result(result, "verbose_json")
    assert ("words" in document) == bool(result.words)
    parsed_result = openai_audio.parse_transcription(json.loads(json.dumps(document)))
    assert parsed_result == result


@given(transcripts())
def test_a_plain_transcript_keeps_text_and_usage(result: Speech2TextResult):
    document = openai_audio.dump_transcription_result(result)
    assert isinstance(document, dict)
    assert openai_audio.parse_transcription(document) == Speech2TextResult(
        text=result.text, usage=result.usage
    )


def test_the_usage_of_a_transcript_has_every_count():
    usage = Speech2TextUsage(
        prompt_tokens=14, audio_prompt_tokens=10, completion_tokens=45
    )
    result = Speech2TextResult(text="a", usage=usage)
    assert openai_audio.dump_transcription_result(result) == {
        "text": "a",
        "usage": {
            "type": "tokens",
            "input_tokens": 14,
            "input_token_details": {"audio_tokens": 10, "text_tokens": 4},
            "output_tokens": 45,
            "total_tokens": 59,
        },
    }


def test_a_transcript_without_segments_is_one_subtitle():
    result = Speech2TextResult(text=" Hi. ", usage=Speech2TextUsage(seconds=61.0005))
    dump = openai_audio.dump_transcription_result
    assert dump(result, "srt") == "1\n00:00:00,000 --> 00:01:01,000\nHi.\n\n"
    assert dump(result, "vtt") == ("WEBVTT\n\n00:00:00.000 --> 00:01:01.000\nHi.\n\n")


def test_subtitles_are_numbered_and_longer_than_a_day():
    segments = [
        TranscriptSegment(start=59.9996, end=3599.9996, text="a"),
        TranscriptSegment(start=3600, end=90_000.007, text="b"),
    ]
    result = Speech2TextResult(text="ab", segments=segments)
    assert openai_audio.dump_transcription_result(result, "srt") == (
        "1\n00:01:00,000 --> 01:00:00,000\na\n\n2\n01:00:00,000 --> 25:00:00,007\nb\n\n"
    )


# requests for transcripts


def form_of(payload: HttpPayload) -> tuple[dict[str, str], str, bytes | None]:
    """Return the fields, the name and the bytes of the file in a multipart form."""
    form = parse_form(
        payload.content_type, b"".join(payload.body), error_message="Not a form"
    )
    return form.fields, form.filename, form.file


def query_of(payload: HttpPayload) -> tuple[str, dict[str, str]]:
    """Return the path and the fields of the query; each field may occur once."""
    parts = urlsplit(payload.path)
    fields = parse_qs(parts.query, strict_parsing=True)
    assert all(len(values) == 1 for values in fields.values())
    return parts.path, {name: values[0] for name, values in fields.items()}


def json_of(payload: HttpPayload) -> dict[str, Any]:
    assert payload.content_type == "application/json"
    return json.loads(b"".join(payload.body))


FULL = Speech2TextRequest(
    audio=b"\x00RIFF",
    filename="talk.mp3",
    mime_type="audio/mpeg",
    language="en",
    prompt="Modelyard, vLLM",
    temperature=0.25,
    segments=True,
    words=True,
)
PLAIN = Speech2TextRequest(audio=b"x")


@pytest.mark.parametrize("name", sorted(set(SPEECH2TEXT) - {"openai"}))
def test_only_openais_format_translates(name: str):
    request = Speech2TextRequest(audio=b"x", task="translate")
    with pytest.raises(InvokeBadRequestError, match="does not support audio transl"):
        SPEECH2TEXT[name].dump(request, "m", DEFAULT)
    translation = SPEECH2TEXT["openai"].dump(request, "m", DEFAULT)
    assert translation.path == "/audio/translations"


def test_the_form_of_an_openai_transcription():
    payload = openai_audio.dump_transcription(FULL, "whisper-1", DEFAULT)
    assert payload.path == "/audio/transcriptions"
    assert b"content-type: audio/mpeg\r\n" in payload.body[0]
    assert form_of(payload) == (
        {
            "model": "whisper-1",
            "response_format": "verbose_json",
            "timestamp_granularities[]": "segment",
            "language": "en",
            "prompt": "Modelyard, vLLM",
            "temperature": "0.25",
        },
        "talk.mp3",
        b"\x00RIFF",
    )
    plain = openai_audio.dump_transcription(PLAIN, "whisper-1", DEFAULT)
    assert b"content-type: application/octet-stream\r\n" in plain.body[0]
    assert form_of(plain) == (
        {"model": "whisper-1", "response_format": "json"},
        "audio.wav",
        b"x",
    )


def test_every_field_of_a_transcription_form_reaches_openai():
    lists = {
        "timestamp_granularities[]": ["word", "segment"],
        "known_speaker_names[]": ["Ann", "Bob"],
    }
    fields = {
        "model": "gpt-4o-transcribe-diarize",
        "response_format": "verbose_json",
        "timestamp_granularities[]": "segment",
        "known_speaker_names[]": "Bob",
        "chunking_strategy": "auto",
        "stream": "false",
    }
    request = openai_audio.parse_transcription_request(fields, b"x", "a.wav", lists)
    extra = {"known_speaker_names[]": ["Ann", "Bob"], "chunking_strategy": "auto"}
    assert request == Speech2TextRequest(
        audio=b"x",
        filename="a.wav",
        segments=True,
        words=True,
        extra={"openai_audio": extra},
    )
    payload = openai_audio.dump_transcription(request, "m", DEFAULT)
    form = parse_form(
        payload.content_type, b"".join(payload.body), error_message="Not a form"
    )
    assert form.lists == lists
    assert form.fields["chunking_strategy"] == "auto"
    again = openai_audio.parse_transcription_request(
        form.fields, form.file or b"", form.filename, form.lists
    )
    assert again == request
    # Words alone are asked for without segments.
    alone = Speech2TextRequest(audio=b"x", words=True)
    payload = openai_audio.dump_transcription(alone, "m", DEFAULT)
    assert form_of(payload)[0]["timestamp_granularities[]"] == "word"


def test_the_names_in_a_form_cannot_break_out_of_their_headers():
    name = 'x"\r\ncontent-type: text/html\r\n\r\n'
    request = Speech2TextRequest(
        audio=b"x", filename=name, extra={"openai_audio": {name: "value"}}
    )
    payload = openai_audio.dump_transcription(request, "m", DEFAULT)
    fields, filename, file = form_of(payload)
    flat = "xcontent-type: text/html"
    assert fields == {flat: "value", "model": "m", "response_format": "json"}
    assert (filename, file) == (flat, b"x")


@pytest.mark.parametrize(
    ("model", "response_format"),
    [("gpt-4o-transcribe", "json"), ("whisper-1", "verbose_json")],
)
def test_a_model_without_times_is_asked_for_plain_json(
    model: str, response_format: str
):
    capabilities = Capabilities(plain_transcripts=("gpt-4o",))
    fields, _, _ = form_of(openai_audio.dump_transcription(FULL, model, capabilities))
    assert fields["response_format"] == response_format
    assert ("timestamp_granularities[]" in fields) == (model == "whisper-1")


def test_the_query_of_a_deepgram_transcription():
    payload = deepgram.dump_transcription(FULL, "nova-3", DEFAULT)
    assert (payload.body, payload.content_type) == ([b"\x00RIFF"], "audio/mpeg")
    assert query_of(payload) == (
        "/listen",
        {
            "model": "nova-3",
            "smart_format": "true",
            "punctuate": "true",
            "utterances": "true",
            "language": "en",
            "keyterm": "Modelyard, vLLM",
        },
    )
    plain = deepgram.dump_transcription(PLAIN, "nova-3", DEFAULT)
    assert plain.content_type == "application/octet-stream"
    assert query_of(plain)[1] == {
        "model": "nova-3",
        "smart_format": "true",
        "punctuate": "true",
        "detect_language": "true",
    }


def test_the_form_of_an_elevenlabs_transcription():
    payload = elevenlabs.dump_transcription(FULL, "scribe_v1", DEFAULT)
    assert payload.path == "/speech-to-text"
    assert form_of(payload) == (
        {"model_id": "scribe_v1", "language_code": "en", "temperature": "0.25"},
        "talk.mp3",
        b"\x00RIFF",
    )
    plain = elevenlabs.dump_transcription(PLAIN, "scribe_v1", DEFAULT)
    assert form_of(plain) == ({"model_id": "scribe_v1"}, "audio.wav", b"x")


def test_the_body_of_a_dashscope_transcription():
    payload = dashscope_audio.dump_transcription(FULL, "qwen3-asr-flash", DEFAULT)
    assert payload.path == "/services/aigc/multimodal-generation/generation"
    assert json_of(payload) == {
        "model": "qwen3-asr-flash",
        "input": {
            "messages": [
                {"role": "system", "content": [{"text": "Modelyard, vLLM"}]},
                {
                    "role": "user",
                    "content": [{"audio": "data:audio/mpeg;base64,AFJJRkY="}],
                },
            ]
        },
        "parameters": {"asr_options": {"enable_itn": True, "language": "en"}},
    }
    plain = dashscope_audio.dump_transcription(PLAIN, "qwen3-asr-flash", DEFAULT)
    assert json_of(plain) == {
        "model": "qwen3-asr-flash",
        "input": {
            "messages": [
                {"role": "user", "content": [{"audio": "data:audio/wav;base64,eA=="}]}
            ]
        },
        "parameters": {"asr_options": {"enable_itn": True}},
    }


@pytest.mark.parametrize(
    ("fields", "audio", "param", "message"),
    [
        ({}, b"", "file", "'file' must not be empty"),
        ({"stream": "True"}, b"x", "stream", "Transcripts are not streamed"),
        ({"temperature": "hot"}, b"x", "temperature", "must be a number, not 'hot'"),
        ({"temperature": "nan"}, b"x", "temperature", "must be between 0 and 1"),
        ({"temperature": "1.5"}, b"x", "temperature", "must be between 0 and 1"),
        (
            {"response_format": "doc"},
            b"x",
            "response_format",
            "must be one of json, text, srt, verbose_json, vtt, not 'doc'",
        ),
    ],
)
def test_invalid_transcription_forms_are_named(
    fields: dict[str, str], audio: bytes, param: str, message: str
):
    with pytest.raises(InvokeBadRequestError, match=message) as raised:
        openai_audio.parse_transcription_request(fields, audio, "a.wav")
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("fields", "segments", "words"),
    [
        ({}, False, False),
        ({"response_format": "json"}, False, False),
        ({"response_format": "text"}, False, False),
        ({"response_format": "srt"}, True, False),
        ({"response_format": "vtt"}, True, False),
        ({"response_format": "verbose_json"}, True, False),
        ({"timestamp_granularities[]": "segment"}, False, False),
        (
            {"response_format": "verbose_json", "timestamp_granularities[]": "word"},
            True,
            True,
        ),
    ],
)
def test_the_format_of_a_transcript_decides_which_times_are_needed(
    fields: dict[str, str], segments: bool, words: bool
):
    request = openai_audio.parse_transcription_request(fields, b"x", "")
    assert request == Speech2TextRequest(
        audio=b"x", filename="audio.wav", segments=segments, words=words
    )


# requests for speech


@pytest.mark.parametrize("name", sorted(TTS))
def test_every_format_sends_the_text_and_the_voice(name: str):
    request = TTSRequest(text="Guten Tag, 你好", voice="anna/b")
    payload = TTS[name].dump(request, "m", DEFAULT)
    sent = unquote(payload.path) + json.dumps(json_of(payload), ensure_ascii=False)
    assert "Guten Tag, 你好" in sent
    assert "anna/b" in sent
    # A voice is one segment of a path or one value of a query, whatever is in it.
    assert "anna/b" not in payload.path


@pytest.mark.parametrize(
    ("name", "voice", "house_voice"),
    [
        ("openai", "alloy", "house voice"),
        ("deepgram", "m-thalia-en", "m-house voice"),
        ("elevenlabs", "21m00Tcm4TlvDq8ikWAM", "house voice"),
        ("dashscope", "Cherry", "house voice"),
    ],
)
def test_every_format_has_a_voice_of_its_own(name: str, voice: str, house_voice: str):
    for capabilities, expected in ((DEFAULT, voice), (VOICED, house_voice)):
        payload = TTS[name].dump(TTSRequest(text="a"), "m", capabilities)
        assert voice_of(name, payload) == expected


def voice_of(name: str, payload: HttpPayload) -> str:
    """Return the voice, from the field in which a format has it."""
    match name:
        case "deepgram":
            return query_of(payload)[1]["model"]
        case "elevenlabs":
            return unquote(payload.path.split("/")[2])
        case "dashscope":
            return json_of(payload)["input"]["voice"]
        case _:
            return json_of(payload)["voice"]


def test_the_body_of_openai_speech():
    request = TTSRequest(
        text="Hi.",
        voice="nova",
        format="flac",
        speed=1.5,
        instructions="Whisper.",
        extra={"openai_audio": {"speed": 9, "lang": "en"}, "elevenlabs": {"seed": 1}},
    )
    payload = TTS["openai"].dump(request, "tts-1", DEFAULT)
    assert payload.path == "/audio/speech"
    assert json_of(payload) == {
        "model": "tts-1",
        "input": "Hi.",
        "voice": "nova",
        "response_format": "flac",
        "lang": "en",
        "speed": 1.5,
        "instructions": "Whisper.",
    }


@pytest.mark.parametrize(
    ("audio_format", "fields"),
    [
        ("mp3", {"encoding": "mp3"}),
        ("wav", {"encoding": "linear16", "container": "wav"}),
        (
            "pcm",
            {"encoding": "linear16", "container": "none", "sample_rate": "24000"},
        ),
        ("flac", {"encoding": "flac"}),
        ("opus", {"encoding": "opus", "container": "ogg"}),
        ("aac", {"encoding": "aac"}),
    ],
)
def test_deepgram_has_every_audio_format(audio_format: str, fields: dict[str, str]):
    request = TTSRequest(text="Hi.", voice="luna-en", format=audio_format)
    payload = deepgram.dump_speech(request, "aura-2", DEFAULT)
    assert query_of(payload) == ("/speak", {"model": "aura-2-luna-en", **fields})
    assert json_of(payload) == {"text": "Hi."}


def test_a_voice_of_deepgram_may_name_its_model():
    request = TTSRequest(text="Hi.", voice="aura-asteria-en", format="mp3")
    payload = deepgram.dump_speech(request, "aura-2", DEFAULT)
    assert query_of(payload)[1]["model"] == "aura-asteria-en"


@pytest.mark.parametrize(
    ("audio_format", "output_format"),
    [
        ("mp3", "mp3_44100_128"),
        ("pcm", "pcm_24000"),
        ("opus", "opus_48000_64"),
        ("wav", "wav_24000"),
    ],
)
def test_elevenlabs_names_formats_with_their_rates(
    audio_format: str, output_format: str
):
    request = TTSRequest(text="Hi.", voice="a b/c?", format=audio_format)
    payload = elevenlabs.dump_speech(request, "eleven_v3", DEFAULT)
    assert payload.path == (
        f"/text-to-speech/a%20b%2Fc%3F/stream?output_format={output_format}"
    )
    assert json_of(payload) == {"text": "Hi.", "model_id": "eleven_v3"}


def test_the_speed_of_elevenlabs_is_a_setting_of_the_voice():
    request = TTSRequest(
        text="Hi.", format="mp3", speed=0.75, extra={"elevenlabs": {"seed": 7}}
    )
    assert json_of(elevenlabs.dump_speech(request, "eleven_v3", DEFAULT)) == {
        "text": "Hi.",
        "model_id": "eleven_v3",
        "voice_settings": {"speed": 0.75},
        "seed": 7,
    }


def test_the_body_of_dashscope_speech():
    request = TTSRequest(
        text="Hi.",
        voice="Ethan",
        format="pcm",
        extra={"dashscope": {"language_type": "English"}, "openai_audio": {"x": 1}},
    )
    payload = TTS["dashscope"].dump(request, "qwen3-tts-flash", DEFAULT)
    assert TTS["dashscope"].headers == {"x-dashscope-sse": "enable"}
    assert payload.path == "/services/aigc/multimodal-generation/generation"
    assert json_of(payload) == {
        "model": "qwen3-tts-flash",
        "input": {"text": "Hi.", "voice": "Ethan", "language_type": "English"},
    }


@pytest.mark.parametrize(
    ("name", "supported"),
    [("elevenlabs", {"mp3", "pcm", "opus", "wav"}), ("dashscope", {"wav", "pcm"})],
)
def test_an_audio_format_that_is_not_offered_is_refused(name: str, supported: set[str]):
    refused: set[str] = set()
    for audio_format in AUDIO_TYPES:
        request = TTSRequest(text="a", format=audio_format)
        try:
            TTS[name].dump(request, "m", DEFAULT)
        except InvokeBadRequestError as error:
            assert error.param == "response_format"
            assert str(error).startswith(f"Unsupported audio format '{audio_format}'")
            refused.add(audio_format)
    assert refused == AUDIO_TYPES.keys() - supported


@given(st.lists(st.binary(max_size=9), max_size=4))
def test_the_audio_of_dashscopes_events_adds_up(pieces: list[bytes]):
    events = [
        {"output": {"audio": {"data": base64.b64encode(piece).decode()}}}
        for piece in pieces
    ]
    # The last event has the address of the whole file and no data.
    events.append({"output": {"audio": {"data": "", "url": "https://a.example/x"}}})
    audio = b"".join(map(dashscope_audio.parse_speech, events))
    assert audio == b"".join(pieces)


@pytest.mark.parametrize(
    "event", [{}, {"output": {}}, {"output": {"audio": None}}, {"usage": {"a": 1}}]
)
def test_an_event_without_audio_is_no_audio(event: dict[str, Any]):
    assert dashscope_audio.parse_speech(event) == b""


@pytest.mark.parametrize(
    "event",
    [
        [],
        {"output": "x"},
        {"output": {"audio": ["x"]}},
        {"output": {"audio": {"data": "A"}}},
    ],
)
def test_audio_that_cannot_be_read_is_the_providers_fault(event: Any):
    with pytest.raises(InvokeServerUnavailableError, match="does not match its format"):
        dashscope_audio.parse_speech(event)


speech_requests = st.builds(
    TTSRequest,
    text=sentences.filter(lambda text: bool(text.strip())),
    voice=st.sampled_from(["nova", "my voice", "声音"]),
    format=st.sampled_from(sorted(AUDIO_TYPES)),
    speed=st.floats(0.25, 4),
    instructions=st.none() | sentences,
    extra=st.sampled_from([{}, {"openai_audio": {"lang": "en", "seed": 3}}]),
)


@given(speech_requests)
def test_a_speech_request_survives_a_round_trip(request: TTSRequest):
    body = openai_audio.dump_speech_request(request, "m", DEFAULT)
    body = json.loads(json.dumps(body))
    assert openai_audio.parse_speech_request(body) == request


def test_a_speech_request_has_the_defaults_of_openai():
    body = {"model": "m", "input": "Hi.", "user": "u", "stream_format": "audio"}
    assert openai_audio.parse_speech_request(body) == TTSRequest(
        text="Hi.", voice="default", format="mp3", speed=1.0, user="u"
    )
    voice = {"voice": {"id": "voice_123"}}
    assert openai_audio.parse_speech_request(body | voice).voice == "voice_123"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"input": None}, "input", "'input' is required: a string"),
        ({"input": " \n"}, "input", "'input' must not be empty"),
        ({"voice": {}}, "voice.id", "'voice.id' is required: a string"),
        ({"voice": {"id": 5}}, "voice.id", "'voice.id' must be a string, not 5"),
        ({"voice": ["a"]}, "voice", "'voice' must be the name of a voice"),
        ({"voice": False}, "voice", "'voice' must be the name of a voice, not F"),
        ({"speed": "fast"}, "speed", "'speed' must be a number, not 'fast'"),
        ({"speed": 0.2}, "speed", "'speed' must be between 0.25 and 4, not 0.2"),
        ({"instructions": 5}, "instructions", "'instructions' must be a string"),
    ],
)
def test_invalid_speech_fields_are_named(
    fields: dict[str, Any], param: str, message: str
):
    with pytest.raises(InvokeBadRequestError, match=message) as raised:
        openai_audio.parse_speech_request({"input": "Hi.", **fields})
    assert raised.value.param == param
