"""Policy that answers from the response cache.

Exact matches are answered if the request is deterministic or the caller asked for it;
embeddings are cached text by text; a tenant may also enable semantic matches. The key
contains everything that was asked. Tenants are separated by the store, not by the key.
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
from modelyard.base.errors import InvokeServerUnavailableError, ModelyardError
from modelyard.models.embedding import (
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
)
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.messages import UserPromptMessage
from modelyard.models.moderation import ModerationResult
from modelyard.models.passthrough import to_parsed_request
from modelyard.models.rerank import RerankResult
from modelyard.models.types import ZERO, Chunks, ModelType, ModelUsage
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.ledger import Ledger
from modelyard.runtime.pipeline import Call
from modelyard.storage.response_cache import ResponseCache

logger = logging.getLogger("modelyard.cache")

# Sorted, so that the digest of a request does not depend on the order of its fields.
_encode = msgspec.msgpack.Encoder(decimal_format="string", order="deterministic").encode
# Only these types have answers that depend on nothing but the request.
_KINDS: dict[ModelType, Any] = {
    ModelType.LLM: LLMResultChunk,
    ModelType.RERANK: RerankResult,
    ModelType.MODERATION: ModerationResult,
}
# Built once: building a decoder costs more than using it.
_DECODERS = {
    model_type: msgspec.msgpack.Decoder(list[chunk])
    for model_type, chunk in _KINDS.items()
}
_VECTOR = msgspec.msgpack.Decoder(list[float])
_MAX_CHUNKS = 20_000


@dataclass(slots=True)
class _SemanticIndex:
    """Vectors of answered questions for one tenant, model and conversation prefix."""

    entries: OrderedDict[str, list[float]] = field(
        default_factory=OrderedDict[str, list[float]]
    )

    def nearest(self, vector: Sequence[float]) -> tuple[str, float]:
        """Return the name and the similarity of the nearest question; ("", -1) if there
        is none."""
        nearest_name, score = "", -1.0
        for name, candidate in self.entries.items():
            # The vectors have length 1, so the dot product is the cosine similarity.
            # NumPy would be faster, but belongs to the extras: the core has none.
            similarity = math.fsum(map(float.__mul__, vector, candidate))
            if similarity > score:
                nearest_name, score = name, similarity
        return nearest_name, score

    def add(self, name: str, vector: list[float], max_entries: int) -> None:
        """Add a question; the oldest ones are dropped beyond `max_entries`."""
        self.entries[name] = vector
        while len(self.entries) > max_entries:
            self.entries.popitem(last=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Semantic:
    """Settings and indexes of the semantic cache, which answers questions with the same
    meaning."""

    embed: Callable[[str, str], Awaitable[Sequence[float]]]
    """(tenant, text) → a vector."""
    threshold: float
    max_entries: int = 1000
    _indexes: dict[tuple[str, str], _SemanticIndex] = field(
        default_factory=dict[tuple[str, str], _SemanticIndex]
    )

    def index_for(self, tenant: str, prefix_key: str) -> _SemanticIndex:
        """Return the index for a tenant and a conversation prefix; create it if needed."""
        # Callers write the prefixes of conversations, so there is no end to them.
        if len(self._indexes) > 1000:
            self._indexes.clear()
        return self._indexes.setdefault((tenant, prefix_key), _SemanticIndex())


@dataclass(frozen=True, slots=True)
class _EmbeddedQuestion:
    """The question of a call as a unit vector, with the index that it belongs to."""

    semantic: Semantic
    index: _SemanticIndex
    vector: list[float]

    def add(self, name: str) -> None:
        """Add the question to the index, under the name of its stored answer."""
        self.index.add(name, self.vector, self.semantic.max_entries)


@dataclass(frozen=True, slots=True)
class Cache:
    """The caching policy."""

    response_cache: ResponseCache
    seconds: Callable[[Invocation], float]
    """Returns how many seconds an answer to this call may be reused; 0 for not at all.
    Depends on settings, route and caller."""
    ledger: Ledger
    clock: Clock
    semantic: Semantic | None = None

    def applies_to(self, invocation: Invocation) -> bool:
        """Return whether the answer may come from the cache or go to it."""
        return invocation.cache != "off" and self.seconds(invocation) > 0

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        if invocation.cache == "off" or (seconds := self.seconds(invocation)) <= 0:
            return call_next(invocation)
        if isinstance(invocation.request, TextEmbeddingRequest):
            return self._embeddings(invocation, call_next, seconds)
        # The key is built from the parsed request, so a passthrough request is parsed
        # here.
        invocation = msgspec.structs.replace(
            invocation, request=to_parsed_request(invocation.request)
        )
        if invocation.model_type not in _KINDS or not _may_repeat(invocation):
            return call_next(invocation)
        return self._exact(invocation, call_next, seconds)

    async def _exact(
        self, invocation: Invocation, call_next: Call, seconds: float
    ) -> Chunks:
        """Answer from the cache by exact key, then by meaning; otherwise make the call
        and store the answer."""
        name = _digest(invocation)
        is_refresh = invocation.cache == "refresh"
        cached_chunks = None if is_refresh else await self._get(invocation, name)
        # Embedding the question costs a call, so it is done only after an exact miss.
        question: _EmbeddedQuestion | None = None
        if cached_chunks is None:
            question = await self._embed_question(invocation)
        if question is not None and not is_refresh:
            cached_chunks = await self._get_similar(invocation, question)
        if cached_chunks is not None:
            self._book(invocation, cached_chunks)
            for chunk in cached_chunks:
                yield chunk
            return
        # The answer is streamed to the caller while it is collected; a very long one is
        # not cached.
        collected: list[Any] = []
        async with aclosing(call_next(invocation)) as chunks:
            async for chunk in chunks:
                if len(collected) < _MAX_CHUNKS:
                    collected.append(chunk)
                yield chunk
        if collected and len(collected) < _MAX_CHUNKS and _is_complete(collected):
            await self._put(invocation, name, collected, seconds, question)

    async def _put(
        self,
        invocation: Invocation,
        name: str,
        chunks: list[Any],
        seconds: float,
        question: "_EmbeddedQuestion | None",
    ) -> None:
        """Store a complete answer for `seconds`, and the vector of its question."""
        # Rate limits and ids of this one response are not those of a later caller.
        chunks = [
            msgspec.structs.replace(chunk, headers=chunk.headers.for_later_callers())
            for chunk in chunks
        ]
        await self.response_cache.put(invocation.tenant, name, _encode(chunks), seconds)
        # The index entry follows the answer, so that it never points to a missing one.
        if question is not None:
            question.add(name)

    async def _embed_question(
        self, invocation: Invocation
    ) -> "_EmbeddedQuestion | None":
        """Return the question of the call as a vector; None without a semantic cache or
        a plain question, or if the embedding fails."""
        if self.semantic is None or not (question := _question(invocation)):
            return None
        index = self.semantic.index_for(
            invocation.tenant, _conversation_prefix_key(invocation)
        )
        vector = await self._vector(self.semantic, invocation.tenant, question)
        if vector is None:
            return None
        return _EmbeddedQuestion(self.semantic, index, vector)

    async def _get_similar(
        self, invocation: Invocation, question: "_EmbeddedQuestion"
    ) -> list[Any] | None:
        """Return the stored chunks for the most similar question; None if it is not
        similar enough."""
        nearest_name, score = question.index.nearest(question.vector)
        if score >= question.semantic.threshold:
            return await self._get(invocation, nearest_name, meaning=round(score, 4))
        return None

    async def _get(
        self, invocation: Invocation, name: str, **details: Any
    ) -> list[Any] | None:
        """Return the stored chunks and note the hit; None if nothing is stored or it
        cannot be decoded."""
        body = await self.response_cache.get(invocation.tenant, name)
        if body is None:
            return None
        try:
            cached_chunks = _DECODERS[invocation.model_type].decode(body)
        # Another version of the server has written it.
        except msgspec.MsgspecError:
            return None
        invocation.record.note(
            self.clock.monotonic(), "cached", is_notable=True, **details
        )
        return cached_chunks

    async def _vector(
        self, semantic: Semantic, tenant: str, question: str
    ) -> list[float] | None:
        """Return the unit vector of a question; None if the embedding fails."""
        try:
            vector = await semantic.embed(tenant, question)
        # The cache is only an optimisation: without the vector, the model is called as
        # usual.
        except ModelyardError as error:
            logger.warning(
                "semantic cache: embedding failed",
                extra={"fields": {"error": str(error)}},
            )
            return None
        length = (
            math.sqrt(math.fsum(component * component for component in vector)) or 1.0
        )
        return [component / length for component in vector]

    def _book(self, invocation: Invocation, chunks: Sequence[Any]) -> None:
        """Record a ledger row at no cost for an answer from the cache."""
        usage = next(
            (
                chunk.usage_or_none
                for chunk in reversed(chunks)
                if chunk.usage_or_none is not None
            ),
            None,
        )
        if usage is not None:
            usage = msgspec.structs.replace(
                usage, total_price=ZERO, price_source="cache"
            )
        self._add_cached_row(invocation, usage)

    def _add_cached_row(self, invocation: Invocation, usage: ModelUsage | None) -> None:
        """Add a ledger row for an answer from the cache."""
        self.ledger.add(
            invocation,
            attempt=0,
            created_at=self.clock.time(),
            status="cached",
            usage=usage,
            latency=0.0,
        )

    # embeddings, text by text

    async def _embeddings(
        self, invocation: Invocation, call_next: Call, seconds: float
    ) -> Chunks:
        """Return embeddings, calling the model only for the texts that are not cached."""
        request: TextEmbeddingRequest = invocation.request
        names = [_text_digest(invocation, text) for text in request.texts]
        vectors_by_name = (
            {}
            if invocation.cache == "refresh"
            else await self._vectors(invocation.tenant, names)
        )
        missing = [
            index for index, name in enumerate(names) if name not in vectors_by_name
        ]
        fresh = _FreshEmbeddings(invocation.model)
        if missing:
            # Each distinct text is embedded once, even if the request repeats it.
            texts = list(dict.fromkeys(request.texts[index] for index in missing))
            await fresh.load(invocation, call_next, texts)
            fresh_by_name = {
                names[index]: fresh.vectors[request.texts[index]] for index in missing
            }
            vectors_by_name |= fresh_by_name
            await self._put_vectors(invocation.tenant, fresh_by_name, seconds)
        if len(missing) < len(names):
            invocation.record.note(
                self.clock.monotonic(),
                "cached",
                is_notable=True,
                texts=len(names) - len(missing),
                of=len(names),
            )
        # If the model was called, the inner policies have recorded the usage already.
        if not missing:
            self._add_cached_row(invocation, fresh.usage)
        yield TextEmbeddingResult(
            model=fresh.model,
            embeddings=[vectors_by_name[name] for name in names],
            usage=fresh.usage,
        )

    async def _put_vectors(
        self, tenant: str, vectors: dict[str, list[float]], seconds: float
    ) -> None:
        """Store vectors by name for `seconds`."""
        for name, vector in vectors.items():
            await self.response_cache.put(tenant, name, _encode(vector), seconds)

    async def _vectors(
        self, tenant: str, names: Sequence[str]
    ) -> dict[str, list[float]]:
        """Return the cached vectors by name."""
        vectors: dict[str, list[float]] = {}
        for name in dict.fromkeys(names):
            if (body := await self.response_cache.get(tenant, name)) is not None:
                vectors[name] = _VECTOR.decode(body)
        return vectors


@dataclass(slots=True)
class _FreshEmbeddings:
    """The vectors that the model returned for texts that were not cached, and their
    usage; no cost if the model was not called."""

    model: str
    usage: EmbeddingUsage = field(
        default_factory=lambda: EmbeddingUsage(total_price=ZERO, price_source="cache")
    )
    vectors: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    async def load(
        self, invocation: Invocation, call_next: Call, texts: list[str]
    ) -> None:
        """Call the model for distinct texts."""
        request = msgspec.structs.replace(invocation.request, texts=texts)
        async with aclosing(
            call_next(msgspec.structs.replace(invocation, request=request))
        ) as chunks:
            async for chunk in chunks:
                self.usage, self.model = chunk.usage, chunk.model
                self.vectors |= dict(zip(texts, chunk.embeddings, strict=True))
        # A provider's stream may end without a chunk.
        if not self.vectors:
            raise InvokeServerUnavailableError(
                f"Model {invocation.model!r} returned no embeddings"
            )


def _may_repeat(invocation: Invocation) -> bool:
    """Return whether the answer may be reused: temperature 0, or the caller allows it
    explicitly."""
    request = invocation.request
    if not isinstance(request, LLMRequest) or invocation.cache in ("on", "refresh"):
        return True
    return request.model_parameters.get("temperature") == 0


def _is_complete(chunks: Sequence[Any]) -> bool:
    """Return whether the answer is complete. Truncated or filtered answers are not
    cached."""
    if not isinstance(chunks[0], LLMResultChunk):
        return True
    reasons = {chunk.delta.finish_reason for chunk in chunks} - {None}
    return bool(reasons) and reasons <= {"stop", "tool_calls"}


def _digest(invocation: Invocation) -> str:
    """Return the cache key of a request."""
    request = invocation.request
    if isinstance(request, LLMRequest):
        # Streaming, the user's name, the handling of unsupported parameters and the ids
        # in headers do not change the answer.
        request = msgspec.structs.replace(
            request,
            stream=False,
            user=None,
            unsupported="drop",
            headers=request.headers.changing_answers(),
        )
    key_fields = (
        invocation.provider,
        invocation.model,
        invocation.route,
        invocation.model_type.value,
        request,
    )
    return hashlib.blake2b(_encode(key_fields), digest_size=20).hexdigest()


def _text_digest(invocation: Invocation, text: str) -> str:
    """Return the cache key of one text of an embedding request."""
    request: TextEmbeddingRequest = invocation.request
    key_fields = (
        invocation.provider,
        invocation.model,
        invocation.route,
        "text",
        text,
        request.dimensions,
        request.input_type.value,
        request.extra,
    )
    return hashlib.blake2b(_encode(key_fields), digest_size=20).hexdigest()


def _question(invocation: Invocation) -> str:
    """Return the last user message if it is text only; otherwise an empty string, which
    disables the semantic cache."""
    request = invocation.request
    # With tools, the same question can need a different call.
    if not isinstance(request, LLMRequest) or request.tools or not request.messages:
        return ""
    last = request.messages[-1]
    return (
        last.text
        if isinstance(last, UserPromptMessage) and isinstance(last.content, str)
        else ""
    )


def _conversation_prefix_key(invocation: Invocation) -> str:
    """Return the key of everything before the last message: the same question in
    another conversation is a different one."""
    request: LLMRequest = invocation.request
    prefix_request = msgspec.structs.replace(request, messages=request.messages[:-1])
    return _digest(msgspec.structs.replace(invocation, request=prefix_request))
