"""Policy that joins simultaneous embedding calls into one call to the provider and
splits the result among the callers."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.models.embedding import (
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
    TokenIds,
)
from modelyard.models.tokens import estimate_tokens
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.pipeline import Call


@dataclass(slots=True, eq=False)
class _BatchWaiter:
    """A caller whose texts are part of a batch."""

    texts: list[str]
    done: "asyncio.Future[TextEmbeddingResult]"


@dataclass(slots=True, eq=False)
class _Batch:
    """Calls that will be sent as one: the same model, credential and options."""

    invocation: Invocation
    waiting: list[_BatchWaiter] = field(default_factory=list[_BatchWaiter])
    size: int = 0
    timer: asyncio.TimerHandle | None = None
    task: "asyncio.Task[None] | None" = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The batching policy. It is innermost, so that each caller still has its own
    attempts, limits and ledger rows."""

    max_texts: Callable[[Invocation], int]
    """Returns how many texts the model accepts at once; below 2, calls are not joined.
    """
    # How long a batch stays open for further calls, in seconds.
    seconds: float = 0.003
    _open: dict[tuple[Any, ...], _Batch] = field(
        default_factory=dict[tuple[Any, ...], _Batch]
    )
    # Tasks are referenced here, because the event loop holds them only weakly.
    _running: "set[asyncio.Task[None]]" = field(default_factory=set)  # pyright: ignore[reportUnknownVariableType]

    def __call__(self, invocation: Invocation, call_next: Call) -> Chunks:
        if invocation.model_type is not ModelType.TEXT_EMBEDDING or self.seconds <= 0:
            return call_next(invocation)
        max_texts = self.max_texts(invocation)
        # A call that fills a batch on its own gains nothing from waiting.
        if max_texts < 2 or len(invocation.request.texts) >= max_texts:
            return call_next(invocation)
        return self._join_batch(invocation, call_next, max_texts)

    async def _join_batch(
        self, invocation: Invocation, call_next: Call, max_texts: int
    ) -> Chunks:
        """Add the call to an open batch and wait for its share of the result."""
        request: TextEmbeddingRequest = invocation.request
        # Only calls that would send identical options may be joined; the tenant and the
        # credential are part of the key.
        key = (
            invocation.tenant,
            invocation.provider,
            invocation.model,
            invocation.credential_id,
            request.dimensions,
            request.input_type,
            request.unsupported,
            # Providers refuse a list of texts and token ids.
            isinstance(request.texts[0], TokenIds),
            msgspec.json.encode(request.extra),
        )
        batch = self._open.get(key)
        # The texts do not fit into the open batch, so send it now and open another.
        if batch is not None and batch.size + len(request.texts) > max_texts:
            self._send(key, batch, call_next)
            batch = None
        if batch is None:
            batch = self._open[key] = _Batch(invocation)
            loop = asyncio.get_running_loop()
            batch.timer = loop.call_later(
                self.seconds, self._send, key, batch, call_next
            )
        mine = _BatchWaiter(request.texts, asyncio.get_running_loop().create_future())
        batch.waiting.append(mine)
        batch.size += len(request.texts)
        if batch.size >= max_texts:
            self._send(key, batch, call_next)
        try:
            yield await mine.done
        except asyncio.CancelledError:
            # Other callers may still wait for their results; the call is cancelled only
            # if all of them have been cancelled too.
            if batch.task is not None and all(
                waiter.done.done() for waiter in batch.waiting
            ):
                batch.task.cancel()
            raise

    def _send(self, key: tuple[Any, ...], batch: _Batch, call_next: Call) -> None:
        """Send a batch, unless it was sent already. Called by the timer or when the
        batch is full."""
        if self._open.get(key) is batch:
            del self._open[key]
        if batch.timer is not None:
            batch.timer.cancel()
        # Callers that were cancelled while the batch was open are left out.
        if batch.task is None:
            batch.waiting = [
                waiter for waiter in batch.waiting if not waiter.done.done()
            ]
            if batch.waiting:
                batch.task = asyncio.ensure_future(self._call(batch, call_next))
                self._running.add(batch.task)
                batch.task.add_done_callback(self._running.discard)

    async def _call(self, batch: _Batch, call_next: Call) -> None:
        """Call the provider with all texts and give each caller its result or the
        error."""
        texts = [text for waiter in batch.waiting for text in waiter.texts]
        request = msgspec.structs.replace(batch.invocation.request, texts=texts)
        try:
            async with aclosing(
                call_next(msgspec.structs.replace(batch.invocation, request=request))
            ) as chunks:
                async for result in chunks:
                    _distribute(result, batch.waiting)
            # A provider's stream may end without a result; its callers must not wait
            # forever.
            _fail(batch.waiting, _no_embeddings_error(batch.invocation))
        except BaseException as error:
            _fail(batch.waiting, error)
            # Cancellation and interrupts must still end this task; ordinary errors have
            # reached the callers.
            if not isinstance(error, Exception):
                raise


def _no_embeddings_error(invocation: Invocation) -> InvokeServerUnavailableError:
    """Return the error for a call that ended without a result."""
    return InvokeServerUnavailableError(
        f"Model {invocation.model!r} returned no embeddings"
    )


def _fail(waiting: list[_BatchWaiter], error: BaseException) -> None:
    """Give the error to each caller that has no result yet; cancel the callers if the
    call was cancelled."""
    for waiter in waiting:
        if waiter.done.done():
            continue
        if isinstance(error, asyncio.CancelledError):
            waiter.done.cancel()
        else:
            waiter.done.set_exception(error)


def _distribute(result: TextEmbeddingResult, waiting: list[_BatchWaiter]) -> None:
    """Give each caller its vectors and its share of the usage. The shares add up
    exactly to the total."""
    # The provider reports one total, so it is divided by the estimated tokens of each
    # caller.
    weights = [
        sum(estimate_tokens(text) for text in waiter.texts) or 1 for waiter in waiting
    ]
    tokens = proportional_shares(result.usage.tokens, weights)
    totals = proportional_shares(result.usage.total_tokens, weights)
    prices = _prices(result.usage.total_price, weights)
    offset = 0
    for waiter, count, total, price in zip(
        waiting, tokens, totals, prices, strict=True
    ):
        vectors = result.embeddings[offset : offset + len(waiter.texts)]
        offset += len(waiter.texts)
        usage: EmbeddingUsage = msgspec.structs.replace(
            result.usage, tokens=count, total_tokens=total, total_price=price
        )
        if not waiter.done.done():
            waiter.done.set_result(
                msgspec.structs.replace(result, embeddings=vectors, usage=usage)
            )


def proportional_shares(total: int, weights: list[int]) -> list[int]:
    """Divide an integer in proportion to the weights. The shares add up to `total`."""
    total_weight, parts, assigned, cumulative_weight = sum(weights), list[int](), 0, 0
    for weight in weights:
        cumulative_weight += weight
        # Rounding the cumulative sum, not each share, makes the rounding errors cancel
        # out.
        share = total * cumulative_weight // total_weight - assigned
        assigned += share
        parts.append(share)
    return parts


def _prices(total: Decimal | None, weights: list[int]) -> list[Decimal | None]:
    """Divide a price exactly, in units of 1e-9 or smaller; None stays None."""
    if total is None:
        return [None] * len(weights)
    exponent = min(int(total.as_tuple().exponent), -9)
    unit = Decimal(1).scaleb(exponent)
    return [part * unit for part in proportional_shares(int(total / unit), weights)]
