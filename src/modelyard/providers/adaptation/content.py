"""Content of messages that a target has no place for.

Text documents and search results become texts, and files known by an id go only to the
vendor that issued the id.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.json_types import is_array, is_object
from modelyard.models.messages import (
    AnyPromptMessage,
    AudioPromptMessageContent,
    DocumentPromptMessageContent,
    ImagePromptMessageContent,
    MultiModalPromptMessageContent,
    OpaquePromptMessageContent,
    PromptMessageContent,
    TextPromptMessageContent,
    ToolPromptMessage,
    UserPromptMessage,
    simplified_content,
)
from modelyard.models.types import JSON
from modelyard.providers.adaptation.draft import Draft
from modelyard.wire import anthropic, bedrock, cohere, gemini, openai_chat
from modelyard.wire import openai_responses as responses

# Both are OpenAI's own, so they share the ids of files.
_OPENAI = (openai_chat.FORMAT, responses.FORMAT)
# Formats whose documents may be plain texts.
_TAKE_TEXT_FILES = (gemini.FORMAT, bedrock.FORMAT)
# URLs of Google's stores of files, which only Google can open with the caller's rights.
_GOOGLE_FILES = ("https://generativelanguage.googleapis.com/", "gs://")


def adapt_content(draft: Draft) -> None:
    """Rewrite the parts of all messages that the target's format has no place for.

    Raises InvokeBadRequestError for a file that only its own vendor can read.
    """
    messages = draft.request.messages
    if any(isinstance(message.content, list) for message in messages):
        draft.change(messages=[_adapted(message, draft) for message in messages])
    _move_documents(draft)


def _adapted(
    message: AnyPromptMessage,
    draft: Draft,
) -> AnyPromptMessage:
    """Return a message whose parts have a place in the target's format."""
    content = message.content
    if not isinstance(content, list):
        return message
    parts = [part for each in content for part in _placed(each, draft)]
    if parts == content:
        return message
    # Calls of the assistant are placed between parts, so a list stays a list.
    is_plain = isinstance(message, UserPromptMessage | ToolPromptMessage)
    simplified = simplified_content(parts) if is_plain else parts
    return msgspec.structs.replace(message, content=simplified)


def _placed(
    part: PromptMessageContent,
    draft: Draft,
) -> Iterator[PromptMessageContent]:
    """Yield what stands for a part in the target's format."""
    match part:
        case OpaquePromptMessageContent() if part.format != draft.target.format:
            yield from _translated(part, draft)
        case DocumentPromptMessageContent():
            yield from _documents(part, draft)
        case MultiModalPromptMessageContent():
            _check_issuer(part, draft)
            yield part
        case _:
            yield part


# ---------------------------------------------------------------------------- documents


def _documents(
    part: DocumentPromptMessageContent,
    draft: Draft,
) -> Iterator[PromptMessageContent]:
    """Yield a document as the target takes it: unchanged, as texts and images, or by
    its id."""
    target = draft.target.format
    source = _anthropic_source(part)
    part = _with_citations(part, draft)
    if not source and target != anthropic.FORMAT and (context := _context_of(part)):
        yield TextPromptMessageContent(data=f"[About the next document: {context}]")
    if source and target != anthropic.FORMAT:
        yield from _from_source(part, source, draft)
    elif (text := _text_of(part)) is not None and target not in _TAKE_TEXT_FILES:
        yield _text_document(part, text, draft)
    elif file_id := _openai_file_id(part):
        yield _file_by_id(part, file_id, draft)
    else:
        _check_issuer(part, draft)
        _check_address(part, draft)
        yield part


def _context_of(part: MultiModalPromptMessageContent) -> str:
    """Return what a caller of Anthropic's format tells about a document."""
    return str(part.extra.get(anthropic.FORMAT, {}).get("context") or "")


def _with_citations(
    part: DocumentPromptMessageContent,
    draft: Draft,
) -> DocumentPromptMessageContent:
    """Return a document whose citations are asked for in the target's words. Only
    Bedrock has some, for real documents."""
    if draft.is_same_format:
        return part
    if not _asks_for_citations(part.extra.get(anthropic.FORMAT, {})):
        return part
    if draft.target.format != bedrock.FORMAT or not part.base64_data:
        draft.drop("citations")
        return part
    extra = {**part.extra, bedrock.FORMAT: {"citations": {"enabled": True}}}
    return msgspec.structs.replace(part, extra=extra)


def _check_address(
    part: DocumentPromptMessageContent,
    draft: Draft,
) -> None:
    """Raise InvokeBadRequestError for a document by a URL that OpenAI's chat format,
    which has none, would take for its content."""
    is_chat = draft.target.format == openai_chat.FORMAT and not draft.is_same_format
    if is_chat and part.url:
        raise InvokeBadRequestError(
            f"Model {draft.target.model!r} cannot download the document from"
            f" {part.url[:100]!r}; send it as base64"
        )


def _anthropic_source(part: MultiModalPromptMessageContent) -> JSON:
    """Return the source of a file of Anthropic's format that is neither data nor a URL;
    empty for any other file."""
    source = part.extra.get(anthropic.FORMAT, {}).get("source")
    return source if is_object(source) else {}


def _from_source(
    part: DocumentPromptMessageContent,
    source: JSON,
    draft: Draft,
) -> Iterator[PromptMessageContent]:
    """Yield a document of Anthropic's format as texts and images.

    Raises InvokeBadRequestError for an uploaded file. Source: the document block of
    Anthropic's Messages API.
    """
    match source.get("type"):
        case "text":
            yield _text_document(part, str(source.get("data") or ""), draft)
        case "content":
            heading = _document_heading(part)
            content: Any = source.get("content")
            yield from _blocks(heading, content, draft, part.cache_control)
        case "file":
            raise _foreign_file(str(source.get("file_id") or ""), draft)
        case other:
            raise InvokeBadRequestError(
                f"A document with a source of type {other!r} cannot be sent to a model"
                f" of the format {draft.target.format}; send its text or base64"
            )


def _text_document(
    part: DocumentPromptMessageContent,
    text: str,
    draft: Draft,
) -> PromptMessageContent:
    """Return a document of plain text in the form that the target reads."""
    if draft.target.format == anthropic.FORMAT:
        source = {"type": "text", "media_type": "text/plain", "data": text}
        extra = {anthropic.FORMAT: {"source": source}}
        return DocumentPromptMessageContent(
            filename=part.filename, cache_control=part.cache_control, extra=extra
        )
    heading = _document_heading(part)
    return TextPromptMessageContent(
        data=f"{heading}\n{text}", cache_control=part.cache_control
    )


def _document_heading(part: DocumentPromptMessageContent) -> str:
    """Return the lines that introduce a document: its title, and what the caller tells
    about it."""
    heading = _heading("Document", part.filename)
    context = _context_of(part)
    return f"{heading}\n[Context: {context}]" if context else heading


def _text_of(part: DocumentPromptMessageContent) -> str | None:
    """Return the text of a document that is plain text; None for any other."""
    mime_type = part.mime_type.partition(";")[0]
    if not mime_type.startswith("text/") or not part.base64_data:
        return None
    try:
        return base64.b64decode(part.base64_data).decode("utf-8", "replace")
    except binascii.Error:
        return None


def _heading(
    kind: str,
    title: str,
    source: str = "",
) -> str:
    """Return the line that introduces an attached text."""
    named = f"{kind}: {title}" if title else kind
    return f"[{named} ({source})]" if source else f"[{named}]"


# ------------------------------------------------------------------------ files by id


def _openai_file_id(part: MultiModalPromptMessageContent) -> str:
    """Return the id of a file that was uploaded to OpenAI; empty for any other file."""
    if part.base64_data or part.url:
        return ""
    return str(part.extra.get(openai_chat.FORMAT, {}).get("file_id") or "")


def _file_by_id(
    part: DocumentPromptMessageContent,
    file_id: str,
    draft: Draft,
) -> PromptMessageContent:
    """Return a file known by its id in the words of the target's format.

    Raises InvokeBadRequestError if another vendor issued the id.
    """
    if draft.target.format == openai_chat.FORMAT:
        return part
    if draft.target.format == responses.FORMAT:
        return OpaquePromptMessageContent(
            format=responses.FORMAT, data={"type": "input_file", "file_id": file_id}
        )
    raise _foreign_file(file_id, draft)


def _check_issuer(
    part: MultiModalPromptMessageContent,
    draft: Draft,
) -> None:
    """Raise InvokeBadRequestError for a file that only another vendor can read."""
    target = draft.target.format
    source = _anthropic_source(part)
    if source.get("type") == "file" and target != anthropic.FORMAT:
        raise _foreign_file(str(source.get("file_id") or ""), draft)
    if part.url.startswith(_GOOGLE_FILES) and target != gemini.FORMAT:
        raise _foreign_file(part.url, draft)
    # Audio of an earlier answer, which OpenAI's chat format knows by its id.
    audio_id = part.extra.get(openai_chat.FORMAT, {}).get("id")
    is_audio = isinstance(part, AudioPromptMessageContent) and not part.base64_data
    if is_audio and audio_id and target != openai_chat.FORMAT:
        raise _foreign_file(str(audio_id), draft)


def _foreign_file(
    file_id: str,
    draft: Draft,
) -> InvokeBadRequestError:
    """Return the error for a file that was uploaded to another vendor."""
    return InvokeBadRequestError(
        f"The file {file_id[:100]!r} was uploaded to another provider, and model"
        f" {draft.target.model!r} cannot read it; send its content instead"
    )


# --------------------------------------------------------------------- foreign parts


def _translated(
    part: OpaquePromptMessageContent,
    draft: Draft,
) -> Iterator[PromptMessageContent]:
    """Yield what stands for a part that only another format has.

    Raises InvokeBadRequestError for a file that only its own vendor can read.
    """
    data, kind = part.data, str(part.data.get("type") or "")
    if part.format == anthropic.FORMAT and kind == "search_result":
        yield from _search_result(data, draft)
    elif part.format == cohere.FORMAT and kind == "document":
        yield TextPromptMessageContent(data=_cohere_text(data.get("document")))
    elif file_id := _id_of_file(data):
        yield from _foreign_id(part, file_id, draft)
    else:
        # Without any equivalent; a later rule leaves it out by name.
        yield part


def _search_result(
    data: JSON,
    draft: Draft,
) -> Iterator[PromptMessageContent]:
    """Yield what stands for a search result of Anthropic's format."""
    title = str(data.get("title") or "")
    source = str(data.get("source") or "")
    heading = _heading("Search result", title, source)
    if _asks_for_citations(data):
        draft.drop("citations")
    mark: Any = data.get("cache_control")
    yield from _blocks(
        heading,
        data.get("content"),
        draft,
        mark if is_object(mark) else None,
    )


def _asks_for_citations(fields: JSON) -> bool:
    """Whether a document or search result of Anthropic's format is to be cited."""
    settings: Any = fields.get("citations")
    return is_object(settings) and settings.get("enabled") is True


def _blocks(
    heading: str,
    content: Any,
    draft: Draft,
    mark: JSON | None = None,
) -> Iterator[PromptMessageContent]:
    """Yield a list of Anthropic's text and image blocks as parts, after a heading.

    `content` may also be a string. A block of another type is left out by name. `mark`
    is the cache marker of the whole.
    """
    blocks: list[Any] = content if is_array(content) else []
    texts = [content] if isinstance(content, str) else []
    texts += [str(block.get("text")) for block in blocks if _is_text(block)]
    # Texts first: the heading belongs to them.
    yield TextPromptMessageContent(
        data="\n".join([heading, *texts]), cache_control=mark
    )
    others = [block for block in blocks if not _is_text(block)]
    for block in others:
        if (image := _image_of(block)) is not None:
            yield image
        else:
            draft.drop(_kind_of(block))


def _kind_of(block: Any) -> str:
    """Return the type of a block, for the report of what is left out."""
    kind: Any = block.get("type") if is_object(block) else None
    return str(kind or "content")


def _is_text(block: Any) -> bool:
    """Whether a block is a text."""
    return is_object(block) and block.get("type") == "text"


def _image_of(block: Any) -> ImagePromptMessageContent | None:
    """Return an image block of Anthropic's format as a part; None for any other."""
    source: Any = block.get("source") if is_object(block) else None
    if not is_object(source) or not is_object(block) or block.get("type") != "image":
        return None
    if source.get("type") == "url":
        return ImagePromptMessageContent(url=str(source.get("url") or ""))
    if source.get("type") != "base64":
        return None
    return ImagePromptMessageContent(
        mime_type=str(source.get("media_type") or "image/png"),
        base64_data=str(source.get("data") or ""),
    )


def _id_of_file(data: JSON) -> str:
    """Return the id of an uploaded file that a foreign part refers to, else empty."""
    file: Any = data.get("file")
    nested = file.get("file_id") if is_object(file) else None
    return str(data.get("file_id") or nested or "")


def _foreign_id(
    part: OpaquePromptMessageContent,
    file_id: str,
    draft: Draft,
) -> Iterator[PromptMessageContent]:
    """Yield a file of the Responses API for OpenAI's chat format, which has the same
    ids. Raises InvokeBadRequestError for any other."""
    is_openai = part.format in _OPENAI and draft.target.format in _OPENAI
    if not is_openai or part.data.get("type") != "input_file":
        raise _foreign_file(file_id, draft)
    yield DocumentPromptMessageContent(extra={openai_chat.FORMAT: {"file_id": file_id}})


# ------------------------------------------------------------------ Cohere's documents


def _move_documents(draft: Draft) -> None:
    """Move the documents of a Cohere request into its last user message.

    Cohere has them beside the messages. Source: `documents` of Cohere's chat API.
    """
    extra = draft.request.extra.get(cohere.FORMAT)
    if draft.target.format == cohere.FORMAT or not extra or "documents" not in extra:
        return
    documents: Any = extra["documents"]
    if not is_array(documents):
        raise InvokeBadRequestError(
            "'documents' must be a list of strings or objects", param="documents"
        )
    rest = {name: value for name, value in extra.items() if name != "documents"}
    draft.change(
        extra={**draft.request.extra, cohere.FORMAT: rest},
        messages=_with_documents(draft.request.messages, documents),
    )
    # It asks for citations of the documents, which no other format can be told to make.
    if "citation_options" in rest:
        draft.drop("citation_options")


def _with_documents(
    messages: list[AnyPromptMessage],
    documents: Iterable[Any],
) -> list[AnyPromptMessage]:
    """Return the messages with texts of the documents before the last user text."""
    texts = [TextPromptMessageContent(data=_cohere_text(entry)) for entry in documents]
    for index in reversed(range(len(messages))):
        message = messages[index]
        if isinstance(message, UserPromptMessage):
            content = [*texts, *message.parts]
            changed = msgspec.structs.replace(message, content=content)
            return [*messages[:index], changed, *messages[index + 1 :]]
    return [*messages, UserPromptMessage(content=[*texts])]


def _cohere_text(entry: Any) -> str:
    """Return a document of Cohere's format as text: a string, or an object whose `data`
    has a text and other fields."""
    data: Any = entry.get("data", entry) if is_object(entry) else entry
    if not is_object(data):
        return f"{_heading('Document', '')}\n{data}"
    title = str(
        data.get("title") or (entry.get("id") if is_object(entry) else "") or ""
    )
    lines = [
        str(value) if name in ("text", "snippet") else f"{name}: {value}"
        for name, value in data.items()
        if name != "title"
    ]
    return "\n".join([_heading("Document", title), *lines])
