"""Give an answer again: to the same question where chance plays no part or the caller asked for it, to the same text
for embeddings, and, where a tenant wants that, to a question that means the same.

The key holds everything that was asked; whose it is is no part of the key but of the store, which keeps tenants apart.
"""

import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.base.clock import Clock
from modelyard.base.errors import ModelyardError
from modelyard.models.embedding import EmbeddingUsage, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.messages import UserPromptMessage
from modelyard.models.moderation import ModerationResult
from modelyard.models.rerank import RerankResult
from modelyard.models.types import ZERO, Chunks, ModelType
from modelyard.models.verbatim import plain
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.pipeline import Call
from modelyard.storage.answers import Answers

logger = logging.getLogger("modelyard.cache")

_encode = msgspec.msgpack.Encoder(decimal_format="string", order="deterministic").encode
_KINDS: dict[ModelType, Any] = {
    ModelType.LLM: LLMResultChunk,
    ModelType.RERANK: RerankResult,
    ModelType.MODERATION: ModerationResult,
}
_DECODERS = {kind: msgspec.msgpack.Decoder(list[chunk]) for kind, chunk in _KINDS.items()}
_VECTOR = msgspec.msgpack.Decoder(list[float])
_MOST_CHUNKS = 20_000


@dataclass(slots=True)
class _Meant:
    """Questions that were answered, as vectors, for one tenant, model and beginning of the conversation."""

    entries: OrderedDict[str, list[float]] = field(default_factory=OrderedDict[str, list[float]])

    def nearest(self, vector: Sequence[float]) -> tuple[str, float]:
        best, score = "", -1.0
        for name, other in self.entries.items():
            near = math.fsum(map(float.__mul__, vector, other))
            if near > score:
                best, score = name, near
        return best, score

    def add(self, name: str, vector: list[float], most: int) -> None:
        self.entries[name] = vector
        while len(self.entries) > most:
            self.entries.popitem(last=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Semantic:
    """Answer questions that mean the same as one that was answered."""

    embed: Callable[[str, str], Awaitable[Sequence[float]]]
    """(tenant, text) → a vector."""
    threshold: float
    most: int = 1000
    _known: dict[tuple[str, str], _Meant] = field(default_factory=dict[tuple[str, str], _Meant])

    def among(self, tenant: str, place: str) -> _Meant:
        if len(self._known) > 1000:
            self._known.clear()
        return self._known.setdefault((tenant, place), _Meant())


@dataclass(frozen=True, slots=True)
class Cache:
    answers: Answers
    seconds: Callable[[Invocation], float]
    """How long an answer to this call may be given again, 0 for not at all: by settings, route and caller."""
    ledger: Ledger
    clock: Clock
    semantic: Semantic | None = None

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        if invocation.cache == "off" or (seconds := self.seconds(invocation)) <= 0:
            return call_next(invocation)
        if isinstance(invocation.request, TextEmbeddingRequest):
            return self._embeddings(invocation, call_next, seconds)
        invocation = msgspec.structs.replace(invocation, request=plain(invocation.request))
        if invocation.model_type not in _KINDS or not _may_repeat(invocation):
            return call_next(invocation)
        return self._exact(invocation, call_next, seconds)

    async def _exact(self, invocation: Invocation, call_next: Call, seconds: float) -> Chunks:
        name = _digest(invocation)
        found = None if invocation.cache == "refresh" else await self._get(invocation, name)
        vector: list[float] | None = None
        meant: _Meant | None = None
        if found is None and self.semantic is not None and (question := _question(invocation)):
            meant = self.semantic.among(invocation.tenant, _place(invocation))
            vector = await self._vector(invocation.tenant, question)
            if vector is not None and invocation.cache != "refresh":
                near, score = meant.nearest(vector)
                if score >= self.semantic.threshold:
                    found = await self._get(invocation, near, meaning=round(score, 4))
        if found is not None:
            self._book(invocation, found)
            for chunk in found:
                yield chunk
            return
        kept: list[Any] = []
        async with aclosing(call_next(invocation)) as chunks:
            async for chunk in chunks:
                if len(kept) < _MOST_CHUNKS:
                    kept.append(chunk)
                yield chunk
        if kept and len(kept) < _MOST_CHUNKS and _is_whole(kept):
            await self.answers.put(invocation.tenant, name, _encode(kept), seconds)
            if meant is not None and vector is not None and self.semantic is not None:
                meant.add(name, vector, self.semantic.most)

    async def _get(self, invocation: Invocation, name: str, **details: Any) -> list[Any] | None:
        body = await self.answers.get(invocation.tenant, name)
        if body is None:
            return None
        try:
            found = _DECODERS[invocation.model_type].decode(body)
        except msgspec.MsgspecError:  # written by another version
            return None
        invocation.record.note(self.clock.monotonic(), "cached", is_notable=True, **details)
        return found

    async def _vector(self, tenant: str, question: str) -> list[float] | None:
        if self.semantic is None:
            return None
        try:
            vector = await self.semantic.embed(tenant, question)
        except ModelyardError as error:  # without it the model is asked, as it would have been
            logger.warning("the semantic cache could not embed a question", extra={"fields": {"error": str(error)}})
            return None
        length = math.sqrt(math.fsum(one * one for one in vector)) or 1.0
        return [one / length for one in vector]

    def _book(self, invocation: Invocation, chunks: Sequence[Any]) -> None:
        """A row of its own: what was said again, at no cost."""
        usage = next((chunk.spent for chunk in reversed(chunks) if chunk.spent is not None), None)
        if usage is not None:
            usage = msgspec.structs.replace(usage, total_price=ZERO, price_source="cache")
        self.ledger.add(invocation, attempt=0, created_at=self.clock.time(), status="cached", usage=usage, latency=0.0)

    # embeddings, text by text

    async def _embeddings(self, invocation: Invocation, call_next: Call, seconds: float) -> Chunks:
        request: TextEmbeddingRequest = invocation.request
        names = [_text_digest(invocation, text) for text in request.texts]
        found = {} if invocation.cache == "refresh" else await self._vectors(invocation.tenant, names)
        missing = [place for place, name in enumerate(names) if name not in found]
        usage, model = EmbeddingUsage(total_price=ZERO, price_source="cache"), invocation.model
        if missing:
            texts = list(dict.fromkeys(request.texts[place] for place in missing))
            asked = msgspec.structs.replace(request, texts=texts)
            fresh: dict[str, list[float]] = {}
            async with aclosing(call_next(msgspec.structs.replace(invocation, request=asked))) as chunks:
                async for chunk in chunks:
                    usage, model = chunk.usage, chunk.model
                    fresh |= dict(zip(texts, chunk.embeddings, strict=True))
            for place in missing:
                found[names[place]] = fresh[request.texts[place]]
            for name in {names[place] for place in missing}:
                await self.answers.put(invocation.tenant, name, _encode(found[name]), seconds)
        if len(missing) < len(names):
            invocation.record.note(
                self.clock.monotonic(), "cached", is_notable=True, texts=len(names) - len(missing), of=len(names)
            )
        if not missing:
            self.ledger.add(
                invocation, attempt=0, created_at=self.clock.time(), status="cached", usage=usage, latency=0.0
            )
        yield TextEmbeddingResult(model=model, embeddings=[found[name] for name in names], usage=usage)

    async def _vectors(self, tenant: str, names: Sequence[str]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for name in dict.fromkeys(names):
            if (body := await self.answers.get(tenant, name)) is not None:
                found[name] = _VECTOR.decode(body)
        return found


def _may_repeat(invocation: Invocation) -> bool:
    """Whether chance plays no part, or the caller does not mind."""
    request = invocation.request
    if not isinstance(request, LLMRequest) or invocation.cache in ("on", "refresh"):
        return True
    return request.model_parameters.get("temperature") == 0


def _is_whole(chunks: Sequence[Any]) -> bool:
    """Answers that were cut, or that a filter ended, are not given again."""
    if not isinstance(chunks[0], LLMResultChunk):
        return True
    reasons = {chunk.delta.finish_reason for chunk in chunks} - {None}
    return bool(reasons) and reasons <= {"stop", "tool_calls"}


def _digest(invocation: Invocation) -> str:
    request = invocation.request
    if isinstance(request, LLMRequest):
        # How it is delivered, and for whom, is not what is asked.
        request = msgspec.structs.replace(request, stream=False, user=None, unsupported="drop")
    asked = (invocation.provider, invocation.model, invocation.route, invocation.model_type.value, request)
    return hashlib.blake2b(_encode(asked), digest_size=20).hexdigest()


def _text_digest(invocation: Invocation, text: str) -> str:
    request: TextEmbeddingRequest = invocation.request
    asked = (
        invocation.provider, invocation.model, invocation.route, "text", text, request.dimensions,
        request.input_type.value, request.extra,
    )  # fmt: skip
    return hashlib.blake2b(_encode(asked), digest_size=20).hexdigest()


def _question(invocation: Invocation) -> str:
    """The caller's last words, where they are words alone."""
    request = invocation.request
    if not isinstance(request, LLMRequest) or request.tools or not request.messages:
        return ""
    last = request.messages[-1]
    return last.text if isinstance(last, UserPromptMessage) and isinstance(last.content, str) else ""


def _place(invocation: Invocation) -> str:
    """All but the last words: the same question in another conversation is another question."""
    request: LLMRequest = invocation.request
    before = msgspec.structs.replace(request, messages=request.messages[:-1])
    return _digest(msgspec.structs.replace(invocation, request=before))
