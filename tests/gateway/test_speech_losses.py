"""Fields of speech requests that a provider's format lacks: named, or refused."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.testing import Answer, Handler, Upstream, UpstreamRequest, json_answer
from tests.gateway.conftest import Running

Start = Callable[..., Running]
Play = Callable[[Handler], Upstream]
# Provider -> a model, and the fields of a speech request that its format lacks.
SPEECH = {
    "openai": ("gpt-4o-mini-tts", {"user"}),
    "deepgram": ("aura-2-thalia-en", {"speed", "instructions", "user", "future_field"}),
    "elevenlabs": ("eleven_v3", {"instructions", "user", "future_field"}),
}
TRANSCRIPTION = {
    "openai": ("whisper-1", set[str]()),
    "deepgram": ("nova-3", {"temperature"}),
    "elevenlabs": ("scribe_v1", {"prompt"}),
}
FIELDS: dict[str, Any] = {
    "input": "hello",
    "response_format": "mp3",
    "voice": "v",
    "speed": 1.5,
    "instructions": "Whisper.",
    "user": "u",
    "future_field": 1,
}


def answer(request: UpstreamRequest) -> Answer:
    """Answer as the vendors of speech do."""
    if "listen" in request.path:
        alternative = {"transcript": "hi"}
        channel = {"alternatives": [alternative]}
        return json_answer(
            {"results": {"channels": [channel]}, "metadata": {"duration": 1.0}}
        )
    if "transcriptions" in request.path or "speech-to-text" in request.path:
        return json_answer({"text": "hi"})
    return Answer(body=b"ID3", headers={"content-type": "audio/mpeg"})


@pytest.fixture
def world(upstream: Play, start_gateway: Start) -> tuple[Running, Upstream]:
    """A gateway whose speech providers are one upstream."""
    server = upstream(answer)
    credential = CredentialSettings(values={"api_key": "k"})
    providers = [
        ProviderSettings(name=name, base_url=server.url, credentials=[credential])
        for name in SPEECH
    ]
    return start_gateway(providers=providers), server


def names_in(response: httpx.Response) -> set[str]:
    """Return the names of what was left out."""
    header = response.headers.get("x-modelyard-dropped")
    return set(header.split(", ")) if header else set()


@pytest.mark.parametrize("provider", SPEECH)
def test_fields_of_speech_arrive_or_are_named(
    world: tuple[Running, Upstream], provider: str
):
    running, server = world
    model, lost = SPEECH[provider]
    body = {"model": f"{provider}/{model}", **FIELDS}
    response = httpx.post(f"{running.url}/audio/speech", json=body, timeout=30)
    assert response.status_code == 200, response.text
    assert names_in(response) == lost
    sent = json.dumps(server.requests[-1].json)
    for name in {"speed", "instructions"} - lost:
        assert str(FIELDS[name]) in sent
    strict = httpx.post(
        f"{running.url}/audio/speech",
        json=body,
        headers={"x-modelyard-unsupported": "refuse"},
        timeout=30,
    )
    assert strict.status_code == 400
    assert len(server.requests) == 1


@pytest.mark.parametrize("provider", TRANSCRIPTION)
def test_fields_of_transcriptions_arrive_or_are_named(
    world: tuple[Running, Upstream], provider: str
):
    running, _ = world
    model, lost = TRANSCRIPTION[provider]
    fields = {
        "model": f"{provider}/{model}",
        "language": "en",
        "prompt": "Names.",
        "temperature": "0.5",
    }
    response = httpx.post(
        f"{running.url}/audio/transcriptions",
        data=fields,
        files={"file": ("a.wav", b"RIFF", "audio/wav")},
        timeout=30,
    )
    assert response.status_code == 200, response.text
    assert names_in(response) == lost
