"""Tests for the real local models through the server, including bad input."""

import asyncio
import base64
import io
import os
import signal
import threading
import time
import wave
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from tools.show.model_crash import workers
from tools.show.proof import is_healthy

from modelyard.app import Modelyard
from modelyard.base.errors import (
    InvokeServerUnavailableError,
    NotReadyError,
    QueueFullError,
)
from modelyard.base.settings import Settings
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from tests.e2e.conftest import Served

CHAT = "local/qwen2.5-coder-0.5b"


@pytest.fixture
def api(served: Served) -> Any:
    client = openai.OpenAI(
        base_url=served.url, api_key="none", max_retries=0, timeout=120
    )
    yield client
    client.close()


def ask(api: Any, text: str, **options: Any) -> str:
    options = {"temperature": 0, "max_tokens": 40, **options}
    answer = api.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": text}], **options
    )
    return answer.choices[0].message.content or ""


def test_stop_words_end_an_answer(api: Any):
    assert "5" not in ask(api, "Count from 1 to 10, separated by commas.", stop=["5"])


def test_the_finish_reason_at_the_token_limit_is_length(api: Any):
    answer = api.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Tell a story."}],
        max_tokens=3,
    )
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == (
        "length",
        3,
    )


def test_a_named_tool_is_called_and_a_forbidden_one_is_not(api: Any):
    tool = {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Evaluate arithmetic",
            "parameters": {
                "type": "object",
                "properties": {"expression": {"type": "string"}},
                "required": ["expression"],
            },
        },
    }
    messages = [{"role": "user", "content": "What is 123 times 456?"}]
    for choice in (
        "required",
        {"type": "function", "function": {"name": "calculator"}},
    ):
        answer = api.chat.completions.create(
            model=CHAT,
            messages=messages,
            tools=[tool],
            tool_choice=choice,
            temperature=0,
        )
        (call,) = answer.choices[0].message.tool_calls
        assert (call.function.name, answer.choices[0].finish_reason) == (
            "calculator",
            "tool_calls",
        )
        assert "expression" in call.function.arguments
    answer = api.chat.completions.create(
        model=CHAT, messages=messages, tools=[tool], tool_choice="none", max_tokens=20
    )
    assert not answer.choices[0].message.tool_calls


def test_text_in_an_image_is_read_by_ocr_and_marked(api: Any):
    import cv2
    import numpy as np

    picture = np.full((120, 640, 3), 255, np.uint8)
    cv2.putText(
        picture, "INVOICE 4711", (20, 80), cv2.FONT_HERSHEY_SIMPLEX, 2, (0, 0, 0), 4
    )
    url = (
        "data:image/png;base64,"
        + base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()
    )
    content = [
        {
            "type": "text",
            "text": "Which number does the invoice have? Answer with the number.",
        },
        {"type": "image_url", "image_url": {"url": url}},
    ]
    answer = api.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": content}], temperature=0
    )
    assert "4711" in answer.choices[0].message.content


@pytest.mark.parametrize("audio_format", ["wav", "mp3", "flac", "opus", "pcm"])
def test_speech_in_every_format_can_be_transcribed(api: Any, audio_format: str):
    audio = api.audio.speech.create(
        model="default-tts",
        voice="nova",
        input="Please open the window.",
        response_format=audio_format,
    ).content
    if audio_format == "pcm":
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setparams((1, 2, 24_000, 0, "NONE", ""))
            file.writeframes(audio)
        audio = buffer.getvalue()
    transcript = api.audio.transcriptions.create(
        model="default-speech2text", file=("said", audio), language="en"
    ).text
    assert "window" in transcript.lower()


def test_a_transcript_has_times(api: Any):
    audio = api.audio.speech.create(
        model="default-tts",
        voice="af_heart",
        input="Good morning. How are you?",
        response_format="wav",
    ).content
    transcript = api.audio.transcriptions.create(
        model="default-speech2text",
        file=("a.wav", audio),
        response_format="verbose_json",
    )
    assert transcript.language == "en"
    assert 1 < transcript.duration < 6
    assert transcript.segments[0].end <= transcript.duration
    srt = api.audio.transcriptions.create(
        model="default-speech2text", file=("a.wav", audio), response_format="srt"
    )
    assert "00:00:00,000 -->" in srt


@pytest.mark.parametrize(
    ("call", "status", "part"),
    [
        (lambda api: ask(api, "word " * 20_000), 400, "the model's context is limited to"),
        (lambda api: ask(api, "x" * 20_000_000), 400, "20,000,000 characters"),
        (lambda api: ask(api, "hi", n=2), 400, "omit 'n'"),
        (lambda api: ask(api, "hi", temperature=2.5), 400, "between 0 and 2"),
        (lambda api: ask(api, "hi", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "odd"}}}), 400, "odd"),
        (lambda api: ask_parts(api, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}), 400, "data: URLs only"),
        (lambda api: ask_parts(api, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}), 400, "the bytes of an image"),
        (lambda api: ask_parts(api, {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}), 400, "no other files"),
        (lambda api: ask_parts(api, {"type": "hologram"}), 400, "'hologram'"),
        (lambda api: api.audio.speech.create(model="default-tts", voice="af_hart", input="x"), 400, "did you mean 'af_heart'"),
        (lambda api: api.audio.speech.create(model="default-tts", voice="nova", input="x", response_format="aac"), 400, "wav, mp3, flac, opus or pcm"),
        (lambda api: api.audio.speech.create(model="default-tts", voice="nova", input="☃☃"), 400, "nothing to synthesise"),
        (lambda api: transcribe(api, b"this is no audio at all"), 400, "not audio in a supported format"),
        (lambda api: transcribe(api, b""), 400, "must not be empty"),
        (lambda api: transcribe(api, silence(0)), 400, "no sound"),
        (lambda api: transcribe(api, silence(16_000), language="klingon"), 400, "Unknown language 'klingon'"),
        (lambda api: api.embeddings.create(model="default-text-embedding", input="x" * 20_000_000), 400, "split it into segments"),
        (lambda api: api.moderations.create(input="x" * 60_000), 400, "split it into segments"),
        (lambda api: ask_parts(api, {"type": "image_url", "image_url": {"url": "data:image/png;base64," + huge_picture()}}), 400, "more than 40,000,000 pixels"),
        (lambda api: api.embeddings.create(model="default-text-embedding", input="x", dimensions=9999), 400, "at most 512"),
        (lambda api: api.chat.completions.create(model="local/qwen2.5-coder-1.5b-x", messages=[{"role": "user", "content": "x"}]), 404, "qwen2.5-coder"),
    ],
)  # fmt: skip
def test_each_kind_of_bad_input_is_named(api: Any, call: Any, status: int, part: str):
    with pytest.raises(openai.APIStatusError) as caught:
        call(api)
    assert caught.value.status_code == status
    assert part in caught.value.message
    assert "Traceback" not in caught.value.message


def ask_parts(api: Any, part: dict[str, Any]) -> Any:
    return api.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": [part]}]
    )


def transcribe(api: Any, audio: bytes, **options: Any) -> Any:
    return api.audio.transcriptions.create(
        model="default-speech2text", file=("a.wav", audio), **options
    )


def huge_picture() -> str:
    """Return a PNG of a few hundred bytes that claims to be 20,000 by 20,000 pixels."""
    import struct
    import zlib

    def png_chunk(chunk_type: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data))
            + chunk_type
            + data
            + struct.pack(">I", zlib.crc32(chunk_type + data))
        )

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    body = (
        png_chunk(b"IHDR", head)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 60_001))
        + png_chunk(b"IEND", b"")
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def silence(samples: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(b"\0\0" * samples)
    return buffer.getvalue()


def test_a_long_prompt_does_not_block_the_server(api: Any, served: Served):
    finished = threading.Event()
    thread = threading.Thread(
        target=lambda: (ask(api, "word " * 1500, max_tokens=1), finished.set())
    )
    thread.start()
    answered_meanwhile = 0
    while not finished.is_set():
        assert is_healthy(served.port)
        answered_meanwhile += not finished.is_set()
        time.sleep(0.05)
    thread.join()
    # Of a server that waits for the prompt, at most one answer would come before its end.
    assert answered_meanwhile > 3


@pytest.mark.proof("model-crash")
def test_a_killed_model_is_an_error_and_the_next_call_works(api: Any, served: Served):
    ask(api, "hi", max_tokens=1)
    stream = api.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Write a long story."}],
        stream=True,
        max_tokens=500,
    )
    chunks = [chunk for _, chunk in zip(range(4), stream, strict=False)]
    victims = [
        pid
        for pid in workers(served.pid)
        if Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    ]
    chat = max(
        victims, key=lambda pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    )
    os.kill(chat, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="signal 9"):
        chunks.extend(stream)
    assert len(chunks) >= 4
    assert ask(api, "Say hello.")


# in this process, with a short queue and a short idle time


def in_process(settings: Settings, work: Any, **local: Any) -> Any:
    options = msgspec.structs.replace(
        settings, retries=0, local=msgspec.structs.replace(settings.local, **local)
    )

    async def run_work() -> Any:
        async with Modelyard(options, environ={}) as yard:
            return await work(yard)

    return asyncio.run(run_work())


def test_a_full_queue_refuses_at_once(settings: Settings):
    async def work(yard: Modelyard) -> list[Any]:
        calls = [
            yard.chat("Tell a story.", model=CHAT, max_tokens=30) for _ in range(6)
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = in_process(settings, work, parallel=1, queue=2)
    refused = [outcome for outcome in outcomes if isinstance(outcome, QueueFullError)]
    assert len(refused) == 3
    assert sum(hasattr(outcome, "text") for outcome in outcomes) == 3


def test_an_idle_model_is_unloaded_and_loads_again(settings: Settings):
    async def work(yard: Modelyard) -> tuple[int | None, bool, int]:
        await yard.embed("a")
        process = yard.services.providers.local.process_of("use-multilingual-v3")
        assert process
        pid = process.pid
        await asyncio.sleep(0.6)
        is_gone = (
            yard.services.providers.local.process_of("use-multilingual-v3") is None
            and not Path(f"/proc/{pid}").exists()
        )
        return pid, is_gone, len((await yard.embed("b")).embeddings)

    _, is_gone, count = in_process(settings, work, idle_seconds=0.2)
    assert (is_gone, count) == (True, 1)


def test_nothing_is_left_behind(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def work(yard: Modelyard) -> int | None:
        await yard.chat("hi", model=CHAT, max_tokens=1)
        process = yard.services.providers.local.process_of("qwen2.5-coder-0.5b")
        return process.pid if process else None

    pid = in_process(settings, work)
    assert pid
    assert not Path(f"/proc/{pid}").exists()
    assert not list(tmp_path.glob("modelyard-*"))


def test_models_that_share_their_weights_share_a_process(settings: Settings):
    async def work(yard: Modelyard) -> bool:
        await yard.embed("a")
        await yard.moderate("a")
        return yard.services.providers.local.process_of(
            "use-multilingual-v3"
        ) is yard.services.providers.local.process_of("use-multilingual-v3-moderation")

    assert in_process(settings, work)


def test_tokens_are_counted_by_the_models_own_template(settings: Settings):
    async def work(yard: Modelyard) -> tuple[int, int, bool]:
        request = LLMRequest(
            messages=[UserPromptMessage(content="hello world")],
            model_parameters={"max_tokens": 1},
        )
        token_count = await yard.model(CHAT).count_tokens(request)
        used = (await yard.model(CHAT).invoke_llm(request)).usage.prompt_tokens
        return token_count.tokens, used, token_count.estimated

    token_count, used, estimated = in_process(settings, work)
    assert (token_count, estimated) == (used, False)


def test_leaving_a_stream_ends_the_generation(settings: Settings):
    async def work(yard: Modelyard) -> float:
        stream = yard.stream("Write a very long story.", model=CHAT, max_tokens=1000)
        await anext(stream)
        await stream.aclose()
        started_at = time.monotonic()
        await yard.chat("Say hi.", model=CHAT, max_tokens=2)
        return time.monotonic() - started_at

    # With one slot, a generation that continued would take far longer.
    assert in_process(settings, work, parallel=1) < 5


def test_missing_weights_errors_say_how_to_get_them(settings: Settings, tmp_path: Path):
    with pytest.raises(NotReadyError, match=r"modelyard models pull smollm2-135m"):
        in_process(
            settings,
            lambda yard: yard.chat("x", model="local/smollm2-135m"),
            weights=str(tmp_path),
        )


def test_broken_weights_are_an_error_and_leave_no_process(
    settings: Settings, tmp_path: Path
):
    from modelyard.providers.local.weights import manifest

    (file,) = manifest().files_of("smollm2-135m")
    with (tmp_path / file.name).open("wb") as broken:
        broken.truncate(file.size)
    with pytest.raises(InvokeServerUnavailableError, match="could not be loaded"):
        in_process(
            settings,
            lambda yard: yard.chat("x", model="local/smollm2-135m"),
            weights=str(tmp_path),
        )
