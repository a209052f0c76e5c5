"""Citations of earlier answers: only those that the target can read are sent on."""

import msgspec

from modelyard.models.messages import (
    AnyPromptMessage,
    Citation,
    PromptMessageContent,
    TextPromptMessageContent,
)
from modelyard.providers.adaptation.draft import Draft, fields_of
from modelyard.wire import anthropic

_WITH_CITATIONS = frozenset({"openai_responses", "cohere", "bedrock"})
"""Formats that take citations of any vendor."""
_REPORTED_NAMES = {"openai_chat": "annotations", "openai_responses": "annotations"}


def drop_foreign_citations(draft: Draft) -> None:
    """Leave out the citations of earlier answers that the target cannot read, and report
    them under the name that the caller's format has for them."""
    messages = [_readable_message(message, draft) for message in draft.request.messages]
    if messages != draft.request.messages:
        draft.change(messages=messages)
        draft.drop(_REPORTED_NAMES.get(draft.request.format, "citations"))


def _readable_message(message: AnyPromptMessage, draft: Draft) -> AnyPromptMessage:
    """Return a message whose texts have only citations that the target can read."""
    content = message.content
    # Only the parts of a message can have citations; a plain text has none.
    if not isinstance(content, list):
        return message
    parts = [_readable_part(part, draft) for part in content]
    # Most messages cite nothing, and need no copy.
    if parts == content:
        return message
    return msgspec.structs.replace(message, content=parts)


def _readable_part(part: PromptMessageContent, draft: Draft) -> PromptMessageContent:
    """Return a part with only citations that the target can read."""
    if not isinstance(part, TextPromptMessageContent) or not part.citations:
        return part
    readable = [
        citation for citation in part.citations if _is_readable(citation, draft)
    ]
    return msgspec.structs.replace(part, citations=readable)


def _is_readable(citation: Citation, draft: Draft) -> bool:
    """Return whether the target accepts a citation."""
    if draft.target.format != anthropic.FORMAT:
        return draft.is_same_format or draft.target.format in _WITH_CITATIONS
    # Anthropic takes back only what it has written, and refuses a page without the index
    # that it has encrypted: the gateway's own citations of other vendors' pages lack it.
    original = fields_of(citation.extra, anthropic.FORMAT)
    is_page = original.get("type") == "web_search_result_location"
    return bool(original) and (not is_page or bool(original.get("encrypted_index")))
