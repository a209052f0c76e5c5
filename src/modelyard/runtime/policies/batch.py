"""Join embedding calls that come at the same time: one call to the provider, each caller's share given back exactly."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.models.embedding import EmbeddingUsage, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.tokens import estimate_tokens
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call


@dataclass(slots=True, eq=False)
class _Waiting:
    texts: list[str]
    done: "asyncio.Future[TextEmbeddingResult]"


@dataclass(slots=True, eq=False)
class _Batch:
    """Calls that will be one: the same model with the same credential, asked in the same way."""

    invocation: Invocation
    waiting: list[_Waiting] = field(default_factory=list[_Waiting])
    size: int = 0
    timer: asyncio.TimerHandle | None = None
    task: "asyncio.Task[None] | None" = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Stands next to the provider, so that every caller has attempts, limits and rows of its own."""

    most: Callable[[Invocation], int]
    """Texts that the model takes at once; below 2, calls are not joined."""
    seconds: float = 0.003
    _open: dict[tuple[Any, ...], _Batch] = field(default_factory=dict[tuple[Any, ...], _Batch])
    _running: "set[asyncio.Task[None]]" = field(default_factory=set)  # pyright: ignore[reportUnknownVariableType]

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        if invocation.model_type is not ModelType.TEXT_EMBEDDING or self.seconds <= 0:
            return call_next(invocation)
        most = self.most(invocation)
        if most < 2 or len(invocation.request.texts) >= most:
            return call_next(invocation)
        return self._joined(invocation, call_next, most)

    async def _joined(self, invocation: Invocation, call_next: Call, most: int) -> Chunks:
        request: TextEmbeddingRequest = invocation.request
        key = (
            invocation.tenant, invocation.provider, invocation.model, invocation.credential_id, request.dimensions,
            request.input_type, msgspec.json.encode(request.extra),
        )  # fmt: skip
        batch = self._open.get(key)
        if batch is not None and batch.size + len(request.texts) > most:
            self._send(key, batch, call_next)
            batch = None
        if batch is None:
            batch = self._open[key] = _Batch(invocation)
            loop = asyncio.get_running_loop()
            batch.timer = loop.call_later(self.seconds, self._send, key, batch, call_next)
        mine = _Waiting(request.texts, asyncio.get_running_loop().create_future())
        batch.waiting.append(mine)
        batch.size += len(request.texts)
        if batch.size >= most:
            self._send(key, batch, call_next)
        try:
            yield await mine.done
        except asyncio.CancelledError:
            # The others still want theirs; with nobody left, the call itself is ended.
            if batch.task is not None and all(one.done.done() for one in batch.waiting):
                batch.task.cancel()
            raise

    def _send(self, key: tuple[Any, ...], batch: _Batch, call_next: Call) -> None:
        if self._open.get(key) is batch:
            del self._open[key]
        if batch.timer is not None:
            batch.timer.cancel()
        if batch.task is None:
            batch.waiting = [one for one in batch.waiting if not one.done.done()]
            if batch.waiting:
                batch.task = asyncio.ensure_future(self._call(batch, call_next))
                self._running.add(batch.task)
                batch.task.add_done_callback(self._running.discard)

    async def _call(self, batch: _Batch, call_next: Call) -> None:
        texts = [text for one in batch.waiting for text in one.texts]
        request = msgspec.structs.replace(batch.invocation.request, texts=texts)
        try:
            async with aclosing(call_next(msgspec.structs.replace(batch.invocation, request=request))) as chunks:
                async for result in chunks:
                    _share(result, batch.waiting)
        except BaseException as error:
            for one in batch.waiting:
                if not one.done.done():
                    one.done.cancel() if isinstance(error, asyncio.CancelledError) else one.done.set_exception(error)
            if not isinstance(error, Exception):
                raise


def _share(result: TextEmbeddingResult, waiting: list[_Waiting]) -> None:
    """Each caller's vectors, and its share of the usage: shares add up to the whole, to the last token."""
    weights = [sum(estimate_tokens(text) for text in one.texts) or 1 for one in waiting]
    tokens = shares(result.usage.tokens, weights)
    totals = shares(result.usage.total_tokens, weights)
    prices = _prices(result.usage.total_price, weights)
    place = 0
    for one, count, total, price in zip(waiting, tokens, totals, prices, strict=True):
        vectors = result.embeddings[place : place + len(one.texts)]
        place += len(one.texts)
        usage: EmbeddingUsage = msgspec.structs.replace(
            result.usage, tokens=count, total_tokens=total, total_price=price
        )
        if not one.done.done():
            one.done.set_result(msgspec.structs.replace(result, embeddings=vectors, usage=usage))


def shares(total: int, weights: list[int]) -> list[int]:
    """Parts of a whole by weight; they add up to it."""
    whole, parts, given, seen = sum(weights), list[int](), 0, 0
    for weight in weights:
        seen += weight
        here = total * seen // whole - given
        given += here
        parts.append(here)
    return parts


def _prices(total: Decimal | None, weights: list[int]) -> list[Decimal | None]:
    if total is None:
        return [None] * len(weights)
    exponent = min(int(total.as_tuple().exponent), -9)
    unit = Decimal(1).scaleb(exponent)
    return [part * unit for part in shares(int(total / unit), weights)]
