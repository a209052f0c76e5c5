"""Several prompts in one request for text completions: one call and one choice each."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from modelyard.gateway.chat_response import ChatBackend
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, LLMUsage
from modelyard.models.passthrough import PassthroughRequest, to_parsed_request

# One request must not take all connections to a provider.
_CALLS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class SeveralPrompts:
    """Answers a request by one call for each of `requests`. The choices of a call get
    the indexes after those of the previous ones."""

    instance: ChatBackend
    requests: Sequence[LLMRequest]

    @property
    def model(self) -> str:
        """Name of the model that answers."""
        return self.instance.model

    async def invoke_llm(self, request: LLMRequest, /) -> LLMResult:
        """Return one response with the choices of all calls and the sum of their usage.

        Raises the first error; the other calls are cancelled then.
        """
        del request
        permits = asyncio.Semaphore(_CALLS_AT_ONCE)

        async def call(prompt_request: LLMRequest) -> LLMResult:
            """Make one call when it is its turn."""
            async with permits:
                return await self.instance.invoke_llm(prompt_request)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(call(prompt_request))
                    for prompt_request in self.requests
                ]
        # The caller knows one call, so it gets one error.
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return _joined([task.result() for task in tasks], self._choices_each())

    async def stream_llm(
        self, request: LLMRequest, /
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Yield the responses one after the other, with the usage so far."""
        del request
        each, total = self._choices_each(), LLMUsage()
        for number, prompt_request in enumerate(self.requests):
            usage = LLMUsage()
            async with aclosing(self.instance.stream_llm(prompt_request)) as chunks:
                async for chunk in chunks:
                    shifted = _shifted(chunk, number * each)
                    # Each call reports its own usage; the stream has that of all calls so far.
                    if shifted.delta.usage is not None:
                        usage = shifted.delta.usage
                        shifted = shifted.with_usage(total.plus(usage))
                    yield shifted
            total = total.plus(usage)

    def stream_verbatim(
        self, request: PassthroughRequest, /
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Yield the same as `stream_llm`: what several calls answer cannot be passed
        through."""
        return self.stream_llm(to_parsed_request(request))

    def _choices_each(self) -> int:
        """Return how many choices each prompt gets."""
        return self.requests[0].model_parameters.get("n") or 1


def _shifted(chunk: LLMResultChunk, offset: int) -> LLMResultChunk:
    """Return a chunk whose choice has a higher index."""
    delta = msgspec.structs.replace(chunk.delta, index=chunk.delta.index + offset)
    return msgspec.structs.replace(chunk, delta=delta)


def _joined(results: Sequence[LLMResult], each: int) -> LLMResult:
    """Return one result with the choices of all, in the order of the prompts."""
    # Identity and headers are those of the first call.
    usage = results[0].usage
    for result in results[1:]:
        usage = usage.plus(result.usage)
    choices = [
        msgspec.structs.replace(choice, index=number * each + choice.index)
        for number, result in enumerate(results)
        for choice in result.choices
    ]
    return msgspec.structs.replace(results[0], choices=choices, usage=usage)
