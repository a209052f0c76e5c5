"""Benchmark of the local models: one figure per model type."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from modelyard.app import Modelyard
from modelyard.base.errors import NotFoundError
from modelyard.models.types import ModelType
from modelyard.tenancy.caller import DEFAULT_TENANT

_TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on in the afternoon sun."
_PASSAGE = " ".join([_TEXT] * 5)


async def measure(yard: Modelyard, seconds: float) -> list[dict[str, Any]]:
    """Measure each model type whose default model is local: seconds to load, and
    throughput once loaded."""
    measurements: list[dict[str, Any]] = []
    for model_type, (unit, work) in _WORK.items():
        try:
            instance = yard.services.calls.models.get_default_model_instance(
                DEFAULT_TENANT, model_type
            )
        except NotFoundError:
            continue
        if instance.provider != "local":
            continue
        # The first call loads the model, so it is not part of the measured rate.
        await work(yard)
        process = yard.services.providers.local.process_of(instance.model)
        speed = await _rate(lambda work=work: work(yard), seconds)
        line = {
            "type": model_type.value,
            "model": instance.name,
            "speed": round(speed, 2),
            "unit": unit,
        }
        measurements.append(
            {**line, "load_seconds": round(process.load_seconds, 2) if process else 0.0}
        )
    return measurements


async def _rate(work: Callable[[], Awaitable[float]], seconds: float) -> float:
    """Repeat the operation for the given seconds and return units per second."""
    start_time, processed_units = time.monotonic(), 0.0
    while time.monotonic() - start_time < seconds:
        processed_units += await work()
    return processed_units / (time.monotonic() - start_time)


async def _chat(yard: Modelyard) -> float:
    """Generate text and return the number of tokens."""
    result = await yard.chat(
        "Write a short story about a fox.", max_tokens=48, temperature=0
    )
    return result.usage.completion_tokens


async def _embed(yard: Modelyard) -> float:
    """Embed 64 different sentences and return their number. They differ, so that no
    cache helps."""
    return len(
        (await yard.embed([f"{_TEXT} {number}" for number in range(64)])).embeddings
    )


async def _rerank(yard: Modelyard) -> float:
    """Rerank 8 passages and return their number."""
    return len((await yard.rerank("Where does the dog sleep?", [_PASSAGE] * 8)).docs)


async def _speak(yard: Modelyard) -> float:
    """Synthesise speech and return its length in seconds."""
    # PCM: 2 bytes per sample, 24,000 samples per second.
    return (len(await yard.speak(_TEXT, format="pcm")) / 2) / 24_000


async def _moderate(yard: Modelyard) -> float:
    """Moderate 32 texts and return their number."""
    return len(
        (await yard.moderate([f"{_TEXT} {number}" for number in range(32)])).verdicts
    )


class _Recording:
    """The recording for the transcription benchmark. It is synthesised once and then
    reused."""

    wav: bytes = b""


async def _transcribe(yard: Modelyard) -> float:
    """Transcribe the recording and return its length in seconds."""
    if not _Recording.wav:
        _Recording.wav = await yard.speak(_PASSAGE)
    return (await yard.transcribe(_Recording.wav)).usage.seconds


# Model type → (unit, operation). An operation returns how many units it processed.
_WORK: dict[ModelType, tuple[str, Callable[[Modelyard], Awaitable[float]]]] = {
    ModelType.LLM: ("tokens/s", _chat),
    ModelType.TEXT_EMBEDDING: ("sentences/s", _embed),
    ModelType.RERANK: ("passages/s", _rerank),
    ModelType.TTS: ("seconds of speech/s", _speak),
    ModelType.SPEECH2TEXT: ("seconds of recording/s", _transcribe),
    ModelType.MODERATION: ("texts/s", _moderate),
}
