"""Applies the rules that adapt a request to its target.

A rule is a function that gets the draft. It removes or rewrites what the target would
refuse, reports what is lost, and may add a restorer that changes the answer back. A
rule raises InvokeBadRequestError for what neither can be carried nor left out.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.providers.adaptation.content import adapt_content
from modelyard.providers.adaptation.draft import Draft, Restorer, Target
from modelyard.providers.adaptation.parameters import report_unsupported_parameters
from modelyard.providers.adaptation.tool_kinds import (
    adapt_tool_kinds,
    drop_fields_without_tools,
    restore_bedrock_tools,
)
from modelyard.providers.adaptation.tool_names import make_names_legal
from modelyard.providers.adaptation.tool_results import move_files_out_of_results
from modelyard.providers.adaptation.tool_schemas import adapt_schemas
from modelyard.providers.adaptation.unknown_content import drop_unknown_content

Rule = Callable[[Draft], None]

# In the order in which they are applied.
RULES: tuple[Rule, ...] = (
    adapt_tool_kinds,
    adapt_content,
    move_files_out_of_results,
    drop_unknown_content,
    drop_fields_without_tools,
    restore_bedrock_tools,
    adapt_schemas,
    make_names_legal,
    report_unsupported_parameters,
)


@dataclass(frozen=True, slots=True)
class Adaptation:
    """An adapted request, and what it takes to restore its answer."""

    request: LLMRequest
    dropped: tuple[str, ...]
    """The caller's fields that are left out, named in `x-modelyard-dropped`."""
    restorers: tuple[Callable[[], Restorer], ...] = ()


def adapt(request: LLMRequest, target: Target) -> Adaptation:
    """Return the request as the target accepts it.

    Raises InvokeBadRequestError if something can neither be carried nor left out.
    """
    draft = Draft(request, target)
    for rule in RULES:
        rule(draft)
    return Adaptation(draft.request, tuple(draft.dropped), tuple(draft.restorers))


class RestorerChain:
    """Restores the chunks of one answer by several restorers, one after the other."""

    __slots__ = ("_restorers",)

    def __init__(self, makers: Iterable[Callable[[], Restorer]]) -> None:
        """`makers` are those of an adaptation."""
        self._restorers = [make_restorer() for make_restorer in makers]

    def feed(self, chunk: LLMResultChunk) -> LLMResultChunk:
        """Return a chunk as the caller expects it."""
        for restorer in self._restorers:
            chunk = restorer.feed(chunk)
        return chunk

    def finish(self) -> Iterator[LLMResultChunk]:
        """Yield what was held back. The later restorers restore it too."""
        for position, restorer in enumerate(self._restorers, 1):
            for chunk in restorer.finish():
                for later_restorer in self._restorers[position:]:
                    chunk = later_restorer.feed(chunk)
                yield chunk


async def adapted_stream(
    adaptation: Adaptation, chunks: AsyncGenerator[LLMResultChunk, None]
) -> AsyncGenerator[LLMResultChunk, None]:
    """Yield the chunks of an answer as the caller expects them. `chunks` answers the
    adapted request."""
    chain = RestorerChain(adaptation.restorers)
    async with aclosing(chunks) as answer:
        async for chunk in answer:
            yield chain.feed(chunk)
    for chunk in chain.finish():
        yield chunk


def restore(
    chunks: Iterable[LLMResultChunk], makers: Iterable[Callable[[], Restorer]]
) -> Iterator[LLMResultChunk]:
    """Yield all chunks of a complete answer as the caller expects them."""
    chain = RestorerChain(makers)
    for chunk in chunks:
        yield chain.feed(chunk)
    yield from chain.finish()
