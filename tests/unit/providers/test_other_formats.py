"""Tests for wire formats other than OpenAI's, against mock servers."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from modelyard.app import Modelyard
from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)
from modelyard.base.settings import CredentialSettings, ProviderSettings, Settings
from modelyard.models.messages import (
    ImagePromptMessageContent,
    TextPromptMessageContent,
    UserPromptMessage,
)
from modelyard.testing import Answer, Handler, Upstream, UpstreamRequest, json_answer
from modelyard.transport.aws_events import dump_event

Start = Callable[[Handler], Upstream]


def calling(
    settings: Settings,
    server: Upstream,
    name: str,
    work: Callable[[Modelyard], Awaitable[Any]],
    **values: str,
) -> Any:
    origin = server.url.removesuffix("/v1")
    credential = CredentialSettings(values={"api_key": "k", **values})
    provider = ProviderSettings(name=name, base_url=origin, credentials=[credential])

    async def run_work() -> Any:
        options = msgspec.structs.replace(settings, providers=[provider], retries=0)
        async with Modelyard(options, environ={}) as yard:
            return await work(yard)

    return asyncio.run(run_work())


def test_deepgram_transcribes_and_synthesizes(upstream: Start, settings: Settings):
    def served(request: UpstreamRequest) -> Answer:
        if request.path.startswith("/speak"):
            return Answer(body=b"ID3")
        alternative = {
            "transcript": "good morning",
            "words": [{"word": "good", "start": 0.1, "end": 0.4}],
        }
        return json_answer(
            {
                "metadata": {"duration": 2.5},
                "results": {"channels": [{"alternatives": [alternative]}]},
            }
        )

    server = upstream(served)
    transcription = calling(
        settings,
        server,
        "deepgram",
        lambda yard: yard.transcribe(b"RIFF", model="deepgram/nova-3", language="en"),
    )
    assert (
        transcription.text,
        transcription.words[0].word,
        transcription.usage.seconds,
    ) == ("good morning", "good", 2.5)
    sound = calling(
        settings,
        server,
        "deepgram",
        lambda yard: yard.speak("hi", model="deepgram/aura-2", format="mp3"),
    )
    assert sound == b"ID3"
    listen, speak = server.requests
    assert (listen.headers["authorization"], listen.body) == ("Token k", b"RIFF")
    assert "model=nova-3" in listen.path
    assert "language=en" in listen.path
    assert "model=aura-2-thalia-en" in speak.path


def test_elevenlabs_transcribes_and_synthesizes(upstream: Start, settings: Settings):
    def served(request: UpstreamRequest) -> Answer:
        if "text-to-speech" in request.path:
            return Answer(body=b"ID3")
        return json_answer(
            {
                "text": "hello",
                "language_code": "eng",
                "words": [{"type": "word", "text": "hello", "start": 0, "end": 1.5}],
            }
        )

    server = upstream(served)
    transcription = calling(
        settings,
        server,
        "elevenlabs",
        lambda yard: yard.transcribe(b"RIFF", model="elevenlabs/scribe_v1"),
    )
    assert (
        transcription.text,
        transcription.usage.seconds,
        transcription.usage.estimated,
    ) == ("hello", 1.5, True)
    assert (
        calling(
            settings,
            server,
            "elevenlabs",
            lambda yard: yard.speak("hi", model="elevenlabs/eleven_v3", format="mp3"),
        )
        == b"ID3"
    )
    assert [request.headers["xi-api-key"] for request in server.requests] == ["k", "k"]
    with pytest.raises(InvokeBadRequestError, match="audio format 'flac'"):
        calling(
            settings,
            server,
            "elevenlabs",
            lambda yard: yard.speak("hi", model="elevenlabs/eleven_v3", format="flac"),
        )


def test_dashscope_uses_its_native_format_if_necessary(
    upstream: Start, settings: Settings
):
    def served(request: UpstreamRequest) -> Answer:
        if request.path.endswith("text-rerank"):
            return json_answer(
                {
                    "output": {"results": [{"index": 1, "relevance_score": 0.9}]},
                    "usage": {"total_tokens": 7},
                }
            )
        if "voice" in request.json["input"]:
            sound = base64.b64encode(b"\0\1").decode()
            event = (
                b'data: {"output": {"audio": {"data": "' + sound.encode() + b'"}}}\n\n'
            )
            return Answer(headers={"content-type": "text/event-stream"}, body=event)
        output = {"choices": [{"message": {"content": [{"text": "早上好"}]}}]}
        return json_answer({"output": output, "usage": {"seconds": 3}})

    server = upstream(served)

    def run(work: Callable[[Modelyard], Awaitable[Any]]) -> Any:
        return calling(settings, server, "tongyi", work)

    ranked = run(
        lambda yard: yard.rerank("q", ["a", "b"], model="tongyi/gte-rerank-v2")
    )
    assert ([doc.index for doc in ranked.docs], ranked.usage.tokens) == ([1], 7)
    assert (
        run(lambda yard: yard.transcribe(b"RIFF", model="tongyi/qwen3-asr-flash")).text
        == "早上好"
    )
    sound = run(lambda yard: yard.speak("hi", model="tongyi/qwen3-tts-flash"))
    assert sound[:4] == b"RIFF"
    assert sound[-2:] == b"\0\1"


def test_tei_embeds_and_reranks(upstream: Start, settings: Settings):
    def served(request: UpstreamRequest) -> Answer:
        if request.path == "/rerank":
            return json_answer([{"index": 1, "score": 0.9}, {"index": 0, "score": 0.1}])
        return json_answer([[0.5, 0.25]] * len(request.json["inputs"]))

    server = upstream(served)
    name = "huggingface_tei"
    embedded = calling(
        settings,
        server,
        name,
        lambda yard: yard.embed(["hello there", "b"], model=f"{name}/any"),
    )
    assert (embedded.embeddings, embedded.usage.estimated, embedded.usage.tokens) == (
        [[0.5, 0.25]] * 2,
        True,
        4,
    )
    ranked = calling(
        settings,
        server,
        name,
        lambda yard: yard.rerank("q", ["a", "b"], model=f"{name}/any", top_n=1),
    )
    assert [doc.index for doc in ranked.docs] == [1]


@pytest.mark.parametrize(
    "body",
    [b"[]", b'{"data": [{"embedding": "!!"}]}', b'{"data": 5}', b"5", b'[{"x": 1}]'],
)
def test_a_malformed_embedding_answer_is_a_server_error(
    upstream: Start, settings: Settings, body: bytes
):
    server = upstream(
        lambda request: Answer(headers={"content-type": "application/json"}, body=body)
    )
    for name in ("huggingface_tei", "cohere", "gemini", "openai", "ollama"):
        with pytest.raises(InvokeServerUnavailableError):
            calling(
                settings,
                server,
                name,
                lambda yard, name=name: yard.embed(["a"], model=f"{name}/m"),
            )


def test_bedrock_streams_binary_events_and_keeps_exception_types(
    upstream: Start, settings: Settings
):
    events = [("messageStart", b'{"role": "assistant"}')]
    events += [
        (
            "contentBlockDelta",
            b'{"contentBlockIndex": 0, "delta": {"text": "%s"}}' % fragment,
        )
        for fragment in (b"he", b"llo")
    ]
    end = [
        ("messageStop", b'{"stopReason": "end_turn"}'),
        ("metadata", b'{"usage": {"inputTokens": 3, "outputTokens": 2}}'),
    ]
    complete_body = b"".join(dump_event(*event) for event in [*events, *end])
    broken = b"".join(dump_event(*event) for event in events) + dump_event(
        "throttlingException", b'{"message": "slow"}', is_exception=True
    )
    bodies = [complete_body, broken]
    server = upstream(
        lambda request: Answer(
            headers={"content-type": "application/vnd.amazon.eventstream"},
            body=bodies.pop(0),
        )
    )

    def run() -> Any:
        keys = {
            "auth_method": "access_key",
            "aws_access_key_id": "a",
            "aws_secret_access_key": "s",
        }
        return calling(
            settings,
            server,
            "bedrock",
            lambda yard: yard.chat("hi", model="bedrock/some.model-v1:0"),
            **keys,
        )

    result = run()
    assert (
        result.text,
        result.usage.prompt_tokens,
        result.usage.completion_tokens,
    ) == ("hello", 3, 2)
    (request,) = server.requests
    assert request.path == "/model/some.model-v1%3A0/converse-stream"
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256")
    with pytest.raises(InvokeRateLimitError, match="slow"):
        run()


def test_dashscope_has_another_url_for_images(upstream: Start, settings: Settings):
    from tests.wire.test_laws import PIXEL

    server = upstream(
        lambda request: json_answer(
            {
                "output": {
                    "choices": [
                        {
                            "finish_reason": "stop",
                            "message": {"content": [{"text": "a dot"}]},
                        }
                    ]
                },
                "usage": {"input_tokens": 3, "output_tokens": 1},
            }
        )
    )
    image = ImagePromptMessageContent(
        base64_data=PIXEL, mime_type="image/png", format="png"
    )
    messages = [
        UserPromptMessage(content=[TextPromptMessageContent(data="what?"), image])
    ]
    provider = ProviderSettings(
        name="tongyi",
        wire="dashscope",
        base_url=server.url,
        credentials=[CredentialSettings(values={"api_key": "k"})],
    )

    async def work() -> Any:
        async with Modelyard(
            msgspec.structs.replace(settings, providers=[provider]), environ={}
        ) as yard:
            return await yard.chat(messages, model="tongyi/qwen-vl-max")

    assert asyncio.run(work()).text == "a dot"
    assert (
        server.requests[0].path == "/v1/services/aigc/multimodal-generation/generation"
    )
    assert (
        server.requests[0]
        .json["input"]["messages"][0]["content"][1]["image"]
        .startswith("data:image/png;base64,")
    )
