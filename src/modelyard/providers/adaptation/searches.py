"""Searches of the web that another vendor has run, in the blocks of Anthropic's API.

Google names queries and pages in the metadata of an answer, OpenAI in an item and in the
citations of the text. Anthropic's clients know a search as two blocks: the use of a tool
of the server, and its result.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from modelyard.base.ids import new_id
from modelyard.base.json_types import is_array, is_object
from modelyard.models.llm import LLMResultChunk, LLMResultChunkDelta
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    Citation,
    OpaquePromptMessageContent,
    TextPromptMessageContent,
)
from modelyard.models.types import JSON
from modelyard.providers.adaptation.blocks import Block, blocks_of, with_blocks
from modelyard.providers.adaptation.draft import Draft
from modelyard.wire import anthropic, gemini
from modelyard.wire import openai_responses as responses

_OWN_ID = "srvtoolu_restored"
"""Beginning of the ids of searches that Anthropic has not run."""


class SearchRestorer:
    """Adds the searches to one answer, complete or streamed. The caller's format has a
    single choice."""

    __slots__ = ("_has_text", "_is_grounded", "_open_ids", "_pages", "_searches")

    def __init__(self) -> None:
        # Searches whose pages are not known yet.
        self._open_ids: list[str] = []
        self._pages: dict[str, Citation] = {}
        self._searches = 0
        self._is_grounded = False
        self._has_text = False

    def feed(self, chunk: LLMResultChunk) -> LLMResultChunk:
        """Return a chunk with the searches that are known by now."""
        delta = chunk.delta
        old = blocks_of(delta.message)
        new = self._restored(old, delta)
        usage = delta.usage
        # A vendor's own count is right; for the others the blocks are counted.
        if usage is not None and not usage.searches and self._searches:
            usage = msgspec.structs.replace(usage, searches=self._searches)
        if new == old and usage is delta.usage:
            return chunk
        delta = msgspec.structs.replace(
            delta,
            message=with_blocks(delta.message, new),
            usage=usage,
            extra=_without_grounding(delta.extra),
        )
        return msgspec.structs.replace(chunk, delta=delta)

    def finish(self) -> Iterable[LLMResultChunk]:
        """Yield the results of searches that had none, if no finish reason came."""
        # A stream may break off without a finish reason. A search without a result
        # would look unfinished to the client.
        if results := list(self._results(self._open_ids)):
            message = with_blocks(AssistantPromptMessage(), results)
            yield LLMResultChunk(delta=LLMResultChunkDelta(message=message))

    def _restored(self, old: list[Block], delta: LLMResultChunkDelta) -> list[Block]:
        """Return the blocks of a chunk with searches among them."""
        new = [new_block for block in old for new_block in self._translated(block)]
        grounded = list(self._of_grounding(delta))
        # A whole answer begins with its searches. A stream has its text already.
        new = [*new, *grounded] if self._has_text else [*grounded, *new]
        self._has_text = self._has_text or any(map(_is_text, old))
        return self._with_results(new) if delta.finish_reason is not None else new

    def _translated(self, block: Block) -> Iterator[Block]:
        """Yield what the caller gets for a block."""
        if isinstance(block, TextPromptMessageContent):
            self._add_pages(block.citations)
        item = _search_item(block)
        if item is None:
            yield block
            return
        action: Any = item.get("action")
        fields = action if is_object(action) else {}
        yield self._begin(str(fields.get("query") or fields.get("url") or ""))
        sources: Any = fields.get("sources")
        urls = [str(source.get("url") or "") for source in _objects(sources)]
        # The item names its own pages, so they need not wait for the answer's end.
        if urls:
            pages = [Citation(url=url) for url in urls]
            yield _result(self._open_ids.pop(), pages)

    def _of_grounding(self, delta: LLMResultChunkDelta) -> Iterator[Block]:
        """Yield the searches that Google names in the metadata of an answer."""
        metadata: Any = delta.extra.get(gemini.FORMAT, {}).get("groundingMetadata")
        if self._is_grounded or not is_object(metadata):
            return
        queries: Any = metadata.get("webSearchQueries")
        if not is_array(queries) or not queries:
            return
        # A stream may carry the same metadata more than once.
        self._is_grounded = True
        for query in queries:
            yield self._begin(str(query))
        pages = [_objects([chunk.get("web")]) for chunk in _grounding_chunks(metadata)]
        self._add_pages(
            Citation(url=str(web.get("uri") or ""), title=str(web.get("title") or ""))
            for chunk_pages in pages
            for web in chunk_pages
        )

    def _begin(self, query: str) -> OpaquePromptMessageContent:
        """Return the block of a search whose result follows."""
        search_id = new_id(_OWN_ID)
        self._open_ids.append(search_id)
        self._searches += 1
        return _opaque(
            type="server_tool_use",
            id=search_id,
            name="web_search",
            input={"query": query},
            caller={"type": "direct"},
        )

    def _add_pages(self, citations: Iterable[Citation]) -> None:
        """Remember the pages that an answer cites, each once."""
        for citation in citations:
            if citation.url:
                self._pages.setdefault(citation.url, citation)

    def _with_results(self, blocks: list[Block]) -> list[Block]:
        """Return the blocks at the end of an answer with the results of all searches,
        each behind its search if that is among them."""
        results = {
            result.data["tool_use_id"]: result for result in self._take_results()
        }
        merged: list[Block] = []
        for block in blocks:
            merged.append(block)
            if isinstance(block, OpaquePromptMessageContent):
                result = results.pop(block.data.get("id", ""), None)
                merged += [] if result is None else [result]
        return [*merged, *results.values()]

    def _take_results(self) -> list[OpaquePromptMessageContent]:
        """Return the results of all searches that wait for theirs."""
        waiting, self._open_ids = self._open_ids, []
        return list(self._results(waiting))

    def _results(self, search_ids: list[str]) -> Iterator[OpaquePromptMessageContent]:
        """Yield the results of searches. Nobody says which of several has found a page,
        so the last one has them all."""
        for search_id in search_ids:
            is_last = search_id == search_ids[-1]
            yield _result(search_id, self._pages.values() if is_last else ())


def _without_grounding(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of other formats without the searches, which are blocks now."""
    fields: Any = extra.get(gemini.FORMAT)
    if not is_object(fields) or "groundingMetadata" not in fields:
        return dict(extra)
    remaining = dict(fields)
    # Left in, the same searches would reach the client twice.
    del remaining["groundingMetadata"]
    return {**extra, gemini.FORMAT: remaining}


def drop_restored_searches(draft: Draft) -> None:
    """Leave out searches of other vendors, which Anthropic would refuse: it can read
    only pages that it has encrypted itself."""
    if draft.target.format != anthropic.FORMAT:
        return
    messages = draft.request.messages
    adapted = [_without_searches(message, draft) for message in messages]
    if adapted != messages:
        # A message of nothing but searches would be empty, which Anthropic refuses.
        draft.change(messages=[message for message in adapted if message is not None])


def _without_searches(
    message: AnyPromptMessage, draft: Draft
) -> AnyPromptMessage | None:
    """Return a message without searches of other vendors; None if it has nothing else."""
    if not isinstance(message, AssistantPromptMessage):
        return message
    old = blocks_of(message)
    kept: list[Block] = []
    for block in old:
        if isinstance(block, OpaquePromptMessageContent) and _is_restored(block):
            # Reported, so that the caller knows that the model does not see these
            # pages.
            draft.drop(str(block.data.get("type")))
        else:
            kept.append(block)
    if kept == old:
        return message
    return with_blocks(message, kept) if kept else None


def _is_restored(block: OpaquePromptMessageContent) -> bool:
    """Whether a block is one of a search that Anthropic has not run."""
    # A search has an id of its own, and a result that of its search.
    name = str(block.data.get("tool_use_id") or block.data.get("id") or "")
    return block.format == anthropic.FORMAT and name.startswith(_OWN_ID)


def _search_item(block: Block) -> JSON | None:
    """Return a block as a search item of the Responses API; None for any other."""
    if not isinstance(block, OpaquePromptMessageContent):
        return None
    is_search = block.data.get("type") == "web_search_call"
    return block.data if is_search and block.format == responses.FORMAT else None


def _is_text(block: Block) -> bool:
    """Whether a block is a text with something in it."""
    return isinstance(block, TextPromptMessageContent) and bool(block.data)


def _grounding_chunks(metadata: JSON) -> list[JSON]:
    """Return the sources in Google's metadata."""
    return _objects(metadata.get("groundingChunks"))


def _objects(value: Any) -> list[JSON]:
    """Return the objects of a list that a vendor has sent."""
    return (
        [element for element in value if is_object(element)] if is_array(value) else []
    )


def _result(search_id: str, pages: Iterable[Citation]) -> OpaquePromptMessageContent:
    """Return the block with the pages of a search."""
    content = [
        {
            "type": "web_search_result",
            "url": page.url,
            "title": page.title,
            # Clients read this as a required field, though only Anthropic can fill it.
            "encrypted_content": "",
            "page_age": None,
        }
        for page in pages
    ]
    return _opaque(
        type="web_search_tool_result", tool_use_id=search_id, content=content
    )


def _opaque(**data: Any) -> OpaquePromptMessageContent:
    """Return a block of Anthropic's format."""
    return OpaquePromptMessageContent(format=anthropic.FORMAT, data=data)
