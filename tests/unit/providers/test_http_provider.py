"""Tests for all six model types over HTTP, against a mock provider."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from modelyard.app import Modelyard
from modelyard.base.errors import (
    ConfigError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeServerUnavailableError,
    NoCredentialAvailableError,
)
from modelyard.base.settings import CredentialSettings, ProviderSettings, Settings
from modelyard.models.messages import PromptMessageTool
from modelyard.testing import (
    Answer,
    Handler,
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    embedding_answer,
    error_answer,
    json_answer,
    stream_answer,
)

Start = Callable[[Handler], Upstream]


def calling(
    settings: Settings,
    server: Upstream,
    work: Callable[[Modelyard], Awaitable[Any]],
    **changes: Any,
) -> Any:
    provider = ProviderSettings(
        name="openai",
        base_url=server.url,
        credentials=[CredentialSettings(values={"api_key": "sk-test-key"})],
    )
    options = msgspec.structs.replace(
        settings, providers=[provider], retries=0, **changes
    )

    async def run_work() -> Any:
        async with Modelyard(options, environ={}) as yard:
            return await work(yard)

    return asyncio.run(run_work())


def test_chat_sends_the_request_and_reads_the_answer(
    upstream: Start, settings: Settings
):
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
    }
    server = upstream(lambda request: stream_answer(chat_events(["he", "llo"])))
    tool = PromptMessageTool(name="f", description="d", parameters={"type": "object"})
    result = calling(
        settings, server,
        lambda yard: yard.chat("hi", model="openai/gpt-5.1", tools=[tool], stop=["x"], user="u", max_tokens=9),
    )  # fmt: skip
    assert (
        result.text,
        result.usage.prompt_tokens,
        result.usage.completion_tokens,
    ) == ("hello", 7, 2)
    # 7 × 1.25 and 2 × 10 dollars per million, rounded to 7 places.
    assert str(result.usage.total_price) == "0.0000288"
    (request,) = server.requests
    assert (request.path, request.key) == ("/v1/chat/completions", "sk-test-key")
    body = request.json
    assert (
        body["model"],
        body["stop"],
        body["user"],
        body["max_completion_tokens"],
    ) == ("gpt-5.1", ["x"], "u", 9)
    assert body["tools"][0]["function"]["name"] == "f"
    assert body["stream_options"] == {"include_usage": True}
    server.handler = lambda request: chat_answer("", tool_calls=[call])
    result = calling(
        settings, server, lambda yard: yard.chat("hi", model="openai/gpt-5")
    )
    assert result.tool_calls[0].function.name == "f"


def test_the_other_five_types(upstream: Start, settings: Settings):
    def handler(request: UpstreamRequest) -> Answer:
        match request.path:
            case "/v1/embeddings":
                return embedding_answer([[1.0, 0.0] for _ in request.json["input"]])
            case "/v1/moderations":
                return json_answer(
                    {
                        "results": [
                            {"flagged": True, "categories": {}, "category_scores": {}}
                        ]
                    }
                )
            case "/v1/audio/speech":
                return stream_answer([b"RIFF", b"data"])
            case "/v1/audio/transcriptions":
                assert b'name="model"\r\n\r\nwhisper-1' in request.body
                assert b"the recording" in request.body
                return json_answer({"text": "words", "duration": 2.5})
            case _:
                return json_answer({"results": [{"index": 1, "relevance_score": 0.9}]})

    server = upstream(handler)

    async def work(yard: Modelyard) -> list[Any]:
        return [
            (
                await yard.embed(["a", "b"], model="openai/text-embedding-3-small")
            ).embeddings,
            (await yard.moderate("x", model="openai/omni-moderation-latest")).flagged,
            await yard.speak("hi", model="openai/tts-1"),
            await yard.transcribe(b"the recording", model="openai/whisper-1"),
        ]

    embeddings, flagged, audio, transcript = calling(settings, server, work)
    assert (embeddings, flagged, audio) == ([[1.0, 0.0], [1.0, 0.0]], True, b"RIFFdata")
    assert (transcript.text, str(transcript.usage.total_price)) == (
        "words",
        "0.0002500",
    )


@pytest.mark.parametrize(
    ("answer", "error_class", "part"),
    [
        (error_answer(400, "wrong"), InvokeBadRequestError, r"\[openai\] wrong"),
        (error_answer(500, "down"), InvokeServerUnavailableError, r"\[openai\] down"),
        (
            Answer(body=b"not json", headers={"content-type": "application/json"}),
            InvokeServerUnavailableError,
            "not JSON",
        ),
        (json_answer([]), InvokeServerUnavailableError, "not an object"),
        (json_answer({}), InvokeServerUnavailableError, "no 'choices'"),
        (json_answer({"choices": [5]}), InvokeServerUnavailableError, "no 'message'"),
        (stream_answer([b"data: {\n\n"]), InvokeServerUnavailableError, "not JSON"),
        (
            stream_answer([b"data: 5\n\n"]),
            InvokeServerUnavailableError,
            "not an object",
        ),
        (
            stream_answer([b"data: " + b"[" * 200_000 + b"\n\n"]),
            InvokeServerUnavailableError,
            "not JSON",
        ),
        (
            stream_answer(chat_events(["a"], sends_done=False)[:2]),
            InvokeServerUnavailableError,
            "ended without",
        ),
        (
            stream_answer(chat_events(["a", "b"])[:3], fault="cut"),
            InvokeConnectionError,
            "before its response was complete",
        ),
        (Answer(fault="hang_up"), InvokeConnectionError, "without a response"),
    ],
)
def test_each_failure_is_one_of_our_errors(
    upstream: Start,
    settings: Settings,
    answer: Answer,
    error_class: type[InvokeError],
    part: str,
):
    server = upstream(lambda request: answer)
    with pytest.raises(error_class, match=part):
        calling(settings, server, lambda yard: yard.chat("hi", model="openai/gpt-5"))


def test_a_missing_embedding_is_an_error(upstream: Start, settings: Settings):
    server = upstream(lambda request: embedding_answer([[1.0]]))
    with pytest.raises(
        InvokeServerUnavailableError, match="Expected 2 embeddings, got 1"
    ):
        calling(
            settings,
            server,
            lambda yard: yard.embed(["a", "b"], model="openai/text-embedding-3-small"),
        )


def test_a_call_ends_at_its_deadline(upstream: Start, settings: Settings):
    server = upstream(
        lambda request: stream_answer(chat_events(["x"] * 1000), gap=0.05)
    )
    with pytest.raises(InvokeError, match="deadline"):
        calling(
            settings,
            server,
            lambda yard: yard.chat("hi", model="openai/gpt-5", timeout=0.3),
        )
    assert server.cut_by_client.wait(5)


def test_checking_a_provider_uses_every_credential(upstream: Start, settings: Settings):
    server = upstream(
        lambda request: (
            json_answer({"data": [{"id": "m1"}]}) if request.key else error_answer(401)
        )
    )
    assert calling(settings, server, lambda yard: yard.check_provider("openai")) == {
        "credential-1": ["m1"]
    }
    server.handler = lambda request: error_answer(401, "bad key")
    with pytest.raises(InvokeError, match="bad key"):
        calling(settings, server, lambda yard: yard.check_provider("openai"))


def test_a_missing_credential_error_says_how_to_add_one(settings: Settings):
    async def work() -> None:
        async with Modelyard(settings, environ={}) as yard:
            with pytest.raises(
                NoCredentialAvailableError, match="modelyard providers add openai"
            ):
                await yard.chat("hi", model="openai/gpt-5")
            with pytest.raises(ConfigError, match="has no credential"):
                await yard.check_provider("openai")

    asyncio.run(work())


def test_keys_in_the_usual_variables_are_found(upstream: Start, settings: Settings):
    server = upstream(lambda request: chat_answer("ok"))

    async def work() -> str:
        environ = {
            "OPENAI_API_KEY": "sk-from-environment",
            "OPENAI_BASE_URL": server.url,
        }
        async with Modelyard(settings, environ=environ) as yard:
            return (await yard.chat("hi", model="gpt-5")).text

    assert asyncio.run(work()) == "ok"
    assert server.requests[0].key == "sk-from-environment"


def test_a_new_name_with_a_base_url_is_an_openai_compatible_server(
    upstream: Start, settings: Settings
):
    server = upstream(lambda request: chat_answer("ok", model=request.json["model"]))
    provider = ProviderSettings(
        name="vllm",
        base_url=server.url,
        models=[{"name": "Qwen/Qwen3-8B", "context_size": 1000, "input_price": 1}],
    )

    async def work() -> list[str]:
        options = msgspec.structs.replace(settings, providers=[provider])
        async with Modelyard(options, environ={}) as yard:
            names = ("vllm/Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "vllm/any-other")
            return [(await yard.chat("hi", model=name)).model for name in names]

    assert asyncio.run(work()) == ["Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "any-other"]
    assert server.requests[0].key == ""
