"""How fast the local models are on this machine: one figure a type."""

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
    """For each type that has a local model: seconds to load, and the speed once loaded."""
    found: list[dict[str, Any]] = []
    for kind, (unit, work) in _WORK.items():
        try:
            instance = yard.services.calls.models.get_default_model_instance(DEFAULT_TENANT, kind)
        except NotFoundError:
            continue
        if instance.provider != "local":
            continue
        await work(yard)
        process = yard.services.providers.local.process_of(instance.model)
        speed = await _rate(lambda work=work: work(yard), seconds)
        line = {"type": kind.value, "model": instance.name, "speed": round(speed, 2), "unit": unit}
        found.append({**line, "load_seconds": round(process.load_seconds, 2) if process else 0.0})
    return found


async def _rate(work: Callable[[], Awaitable[float]], seconds: float) -> float:
    begun, done = time.monotonic(), 0.0
    while time.monotonic() - begun < seconds:
        done += await work()
    return done / (time.monotonic() - begun)


async def _chat(yard: Modelyard) -> float:
    result = await yard.chat("Write a short story about a fox.", max_tokens=48, temperature=0)
    return result.usage.completion_tokens


async def _embed(yard: Modelyard) -> float:
    return len((await yard.embed([f"{_TEXT} {number}" for number in range(64)])).embeddings)


async def _rerank(yard: Modelyard) -> float:
    return len((await yard.rerank("Where does the dog sleep?", [_PASSAGE] * 8)).docs)


async def _speak(yard: Modelyard) -> float:
    return (len(await yard.speak(_TEXT, format="pcm")) / 2) / 24_000


async def _moderate(yard: Modelyard) -> float:
    return len((await yard.moderate([f"{_TEXT} {number}" for number in range(32)])).verdicts)


class _Recording:
    """Made once, by the speaker."""

    wav: bytes = b""


async def _transcribe(yard: Modelyard) -> float:
    if not _Recording.wav:
        _Recording.wav = await yard.speak(_PASSAGE)
    return (await yard.transcribe(_Recording.wav)).usage.seconds


_WORK: dict[ModelType, tuple[str, Callable[[Modelyard], Awaitable[float]]]] = {
    ModelType.LLM: ("tokens/s", _chat),
    ModelType.TEXT_EMBEDDING: ("sentences/s", _embed),
    ModelType.RERANK: ("passages/s", _rerank),
    ModelType.TTS: ("seconds of speech/s", _speak),
    ModelType.SPEECH2TEXT: ("seconds of recording/s", _transcribe),
    ModelType.MODERATION: ("texts/s", _moderate),
}
