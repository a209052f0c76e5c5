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


async def adapted_stream(
    adaptation: Adaptation, chunks: AsyncGenerator[LLMResultChunk, None]
) -> AsyncGenerator[LLMResultChunk, None]:
    """Yield the chunks of an answer as the caller expects them. `chunks` answers the
    adapted request."""
    restorers = [make_restorer() for make_restorer in adaptation.restorers]
    async with aclosing(chunks) as answer:
        async for chunk in answer:
            for restorer in restorers:
                chunk = restorer.feed(chunk)
            yield chunk
    # What one restorer held back is restored by the later ones too.
    for position, restorer in enumerate(restorers):
        for chunk in restorer.finish():
            for later_restorer in restorers[position + 1 :]:
                chunk = later_restorer.feed(chunk)
            yield chunk


def restore(
    chunks: Iterable[LLMResultChunk], restorers: Iterable[Restorer]
) -> Iterable[LLMResultChunk]:
    """Return all chunks of a complete answer as the caller expects them."""
    for restorer in restorers:
        chunks = _restored(chunks, restorer)
    return chunks


def _restored(
    chunks: Iterable[LLMResultChunk], restorer: Restorer
) -> Iterator[LLMResultChunk]:
    """Yield chunks changed by one restorer, then what it held back."""
    for chunk in chunks:
        yield restorer.feed(chunk)
    yield from restorer.finish()
