"""Applies the rules that adapt a request to its target.

A rule is a function that gets the draft. It removes or rewrites what the target would
refuse, reports what is lost, and may add a restorer that changes the answer back. A
rule raises InvokeBadRequestError for what neither can be carried nor left out.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.providers.adaptation.caching import adapt_cache_marks
from modelyard.providers.adaptation.citations import drop_foreign_citations
from modelyard.providers.adaptation.content import adapt_content
from modelyard.providers.adaptation.draft import Draft, Restorer, Target
from modelyard.providers.adaptation.limits import (
    limit_output,
    limit_stop_sequences,
    limit_temperature,
    shorten_names,
)
from modelyard.providers.adaptation.parameters import (
    adapt_metadata,
    adapt_service_tier,
    carry_shared_fields,
    keep_known_fields,
    report_unread_fields,
    report_unsupported_parameters,
)
from modelyard.providers.adaptation.required_reasoning import (
    place_required_reasoning,
)
from modelyard.providers.adaptation.roles import (
    adapt_developer_role,
    adapt_empty_turns,
    adapt_prefill,
    remove_empty_answers,
)
from modelyard.providers.adaptation.sampling import adapt_forced_tool, adapt_sampling
from modelyard.providers.adaptation.searches import drop_restored_searches
from modelyard.providers.adaptation.signatures import adapt_signatures
from modelyard.providers.adaptation.system_messages import adapt_system_messages
from modelyard.providers.adaptation.thinking import adapt_thinking, check_open_turn
from modelyard.providers.adaptation.tool_choice import (
    adapt_strict_tools,
    adapt_tool_choice,
)
from modelyard.providers.adaptation.tool_kinds import (
    adapt_tool_kinds,
    drop_fields_without_tools,
    restore_bedrock_tools,
)
from modelyard.providers.adaptation.tool_names import make_names_legal
from modelyard.providers.adaptation.tool_results import (
    mark_failed_results,
    move_files_of_answers,
    move_files_out_of_results,
)
from modelyard.providers.adaptation.tool_schemas import adapt_schemas
from modelyard.providers.adaptation.transcripts import restore_transcripts
from modelyard.providers.adaptation.unknown_content import drop_unknown_content
from modelyard.providers.adaptation.unread_details import report_unread_details

Rule = Callable[[Draft], None]

# In the order in which they are applied.
RULES: tuple[Rule, ...] = (
    adapt_tool_kinds,
    adapt_content,
    # Before files become messages of the user, which would end the turn.
    adapt_signatures,
    drop_restored_searches,
    drop_foreign_citations,
    mark_failed_results,
    move_files_out_of_results,
    move_files_of_answers,
    drop_unknown_content,
    adapt_tool_choice,
    adapt_strict_tools,
    drop_fields_without_tools,
    restore_bedrock_tools,
    adapt_schemas,
    make_names_legal,
    report_unsupported_parameters,
    carry_shared_fields,
    report_unread_fields,
    report_unread_details,
    adapt_service_tier,
    adapt_metadata,
    adapt_developer_role,
    remove_empty_answers,
    # Before turns are added; after files have left the results of tools.
    adapt_system_messages,
    place_required_reasoning,
    adapt_empty_turns,
    limit_output,
    adapt_thinking,
    check_open_turn,
    adapt_forced_tool,
    adapt_prefill,
    limit_temperature,
    adapt_sampling,
    limit_stop_sequences,
    shorten_names,
    adapt_cache_marks,
    restore_transcripts,
    # After everything that adds a field.
    keep_known_fields,
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
    for name in request.changed:
        draft.drop(name)
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
