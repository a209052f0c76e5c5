"""The six types of local models, each calling the process that runs its model."""

import base64
import binascii
from array import array
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.call_headers import NO_HEADERS, CallHeaders
from modelyard.base.errors import (
    ContextTooLongError,
    InvokeBadRequestError,
    TokenCounts,
)
from modelyard.models.base import (
    AnyModel,
    LargeLanguageModel,
    ModerationModel,
    RerankModel,
    Speech2TextModel,
    TextEmbeddingModel,
    TTSModel,
)
from modelyard.models.capabilities import DEFAULT_CAPABILITIES
from modelyard.models.embedding import (
    EmbeddingUsage,
    TextEmbeddingRequest,
    TextEmbeddingResult,
)
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMResultChunkDelta
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    ImagePromptMessageContent,
    MultiModalPromptMessageContent,
)
from modelyard.models.moderation import (
    ModerationRequest,
    ModerationResult,
    ModerationUsage,
    ModerationVerdict,
)
from modelyard.models.rerank import (
    RerankDocument,
    RerankRequest,
    RerankResult,
    RerankUsage,
)
from modelyard.models.speech2text import (
    Speech2TextRequest,
    Speech2TextResult,
    Speech2TextUsage,
    TranscriptSegment,
)
from modelyard.models.tokens import TokenCount, estimate_tokens
from modelyard.models.tts import TTSRequest, TTSResultChunk, TTSUsage
from modelyard.models.types import Credentials, ModelType
from modelyard.providers.adaptation.adapter import adapt, adapted_stream
from modelyard.providers.adaptation.draft import Target
from modelyard.providers.local import hybrid, tool_calls
from modelyard.providers.local.runtime import LocalRuntime
from modelyard.wire import openai_chat

# characters; longer tokens hardly exist, so this refuses nothing that would have fit
_MAX_TOKEN_CHARS = 128
_MAX_TEXT_CHARS = 50_000  # characters
OCR = "pp-ocrv6"
_SENTENCE_ENCODER = "use-multilingual-v3"
_CATEGORIES = {
    "harassment": ("harassment",),
    "hate": ("hate",),
    "threat": ("violence", "harassment/threatening"),
    "self-harm": ("self-harm",),
    "sexual": ("sexual",),
    "illicit": ("illicit",),
}
"""Classes of the moderation classifier, and the OpenAI categories that each stands for.
"""


@dataclass(frozen=True, slots=True)
class LocalLargeLanguageModel(LargeLanguageModel):
    """Local chat models."""

    runtime: LocalRuntime

    def unsupported(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> list[str]:
        """Return the names of the request's fields that are left out."""
        return list(adapt(request, _chat_target(model)).dropped)

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Call the model with a request as it accepts it, and yield the answer as the
        caller expects it. Raises InvokeBadRequestError, ContextTooLongError."""
        adaptation = adapt(request, _chat_target(model))
        answer = self._invoke(model, adaptation.request)
        headers = CallHeaders(dropped=adaptation.dropped)
        async with aclosing(adapted_stream(adaptation, answer)) as chunks:
            async for chunk in chunks:
                yield msgspec.structs.replace(chunk, headers=headers)
                headers = NO_HEADERS

    async def _invoke(
        self, model: str, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Call the model and yield its response as chunks.

        Raises InvokeBadRequestError for `n` above 1 or files that it cannot read,
        ContextTooLongError for a too long request.
        """
        if (request.model_parameters.get("n") or 1) > 1:
            raise InvokeBadRequestError(
                "Local models generate one choice per request; omit 'n'", param="n"
            )
        names = {tool.name for tool in request.tools}
        # Small models write calls as text, so the reader looks for them there.
        reader = (
            tool_calls.ToolCallParser(names)
            if names and request.tool_choice != "none"
            else None
        )
        body = await self._body(model, request)
        # llama.cpp answers in OpenAI's format.
        parser = openai_chat.StreamParser()
        async with aclosing(
            self.runtime.call(
                model,
                "chat",
                {**body, "stream": True, "stream_options": _STREAM_OPTIONS},
            )
        ) as events:
            async for event in events:
                for chunk in parser.feed({**event, "model": model}):
                    for visible_chunk in _with_tool_calls(chunk, reader):
                        yield visible_chunk
        # Raises if the stream ended without a finish reason.
        parser.finish(end_marker_seen=False)

    async def count_tokens(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> TokenCount:
        """Count the tokens with the model's own chat template and vocabulary."""
        adapted_request = adapt(request, _chat_target(model)).request
        body = await self._body(model, adapted_request)
        return TokenCount(
            await self.runtime.call_once(model, "count", body), estimated=False
        )

    async def _body(self, model: str, request: LLMRequest) -> dict[str, Any]:
        """Return a request as llama.cpp's body, which is OpenAI's.

        Text in images is read by OCR, and tool calls are prepared for a small model.
        Raises ContextTooLongError if it cannot fit, InvokeBadRequestError for content
        that is not supported.
        """
        self._check_length(model, request)
        messages = [
            await self._with_text_of_images(message) for message in request.messages
        ]
        # Fields of other vendors have no meaning for llama.cpp.
        ready = tool_calls.prepare_request(
            msgspec.structs.replace(request, messages=messages, extra={})
        )
        return openai_chat.dump_request(
            msgspec.structs.replace(ready, stream=False), model, DEFAULT_CAPABILITIES
        )

    def _check_length(self, model: str, request: LLMRequest) -> None:
        """Raise ContextTooLongError if the request cannot fit, before much time is
        spent on tokenizing it."""
        length = sum(len(message.text) for message in request.messages)
        window = self.runtime.window(model)
        if length > window.tokens * _MAX_TOKEN_CHARS:
            raise ContextTooLongError(
                f"The request has {length:,} characters; the model's context is"
                f" limited to {window.tokens:,} tokens {window.reason}".rstrip(),
                provider="local",
                tokens=TokenCounts(limit=window.tokens),
            )

    async def _with_text_of_images(self, message: AnyPromptMessage) -> AnyPromptMessage:
        """Return a message of plain text, with the text in its images appended.

        Raises InvokeBadRequestError for other files.
        """
        if not isinstance(message.content, list):
            return message
        # The model reads no images, so the text in them is appended.
        texts = [message.text, *[await self._read_file(file) for file in message.files]]
        return msgspec.structs.replace(
            message, content="\n\n".join(text for text in texts if text)
        )

    async def _read_file(self, file: MultiModalPromptMessageContent) -> str:
        """Return a note with the text that OCR finds in an image.

        Raises InvokeBadRequestError for another type of file, an image by URL, or
        invalid base64.
        """
        if not isinstance(file, ImagePromptMessageContent):
            raise InvokeBadRequestError(
                "Local chat models support text and the text in images, but no"
                " other files"
            )
        if not file.base64_data:
            raise InvokeBadRequestError("Local models accept images as data: URLs only")
        try:
            image = base64.b64decode(file.base64_data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvokeBadRequestError("The image is not valid base64") from error
        lines = await self.runtime.call_once(OCR, "read", {"image": image})
        # The note keeps the model from answering as if it saw the image.
        return (
            "[Text found in an attached picture by OCR:\n"
            + ("\n".join(lines) or "none")
            + "\n]"
        )


# Without usage, a streamed call could not be counted.
_STREAM_OPTIONS = {"include_usage": True}


def _chat_target(model: str) -> Target:
    """Return what chat requests are adapted to: functions are the only tools, and no
    caller's own format is spoken."""
    parameters = frozenset(openai_chat.PARAMETERS)
    return Target("local", model, DEFAULT_CAPABILITIES, None, parameters)


def _with_tool_calls(
    chunk: LLMResultChunk, reader: tool_calls.ToolCallParser | None
) -> list[LLMResultChunk]:
    """Return the chunks that the caller sees: a tool call written as text becomes a
    ToolCall."""
    delta = chunk.delta
    if delta.usage is not None:
        delta = msgspec.structs.replace(
            delta, usage=msgspec.structs.replace(delta.usage, extra={})
        )
    # llama.cpp's timings are not passed on.
    chunk = msgspec.structs.replace(chunk, delta=delta, extra={})
    # A call that llama.cpp already recognised needs no second parser.
    if reader is None or delta.message.tool_calls:
        return [chunk]
    text, calls = reader.feed(delta.message.text), []
    if delta.finish_reason is not None:
        remaining_text, calls = reader.finish()
        text += remaining_text
    # The reader holds all text back, so there is nothing to report yet.
    if not (text or calls or delta.finish_reason or delta.usage):
        return []
    message = AssistantPromptMessage(content=text or None, tool_calls=calls)
    # llama.cpp reports "stop" for a call that it took for text.
    reason = "tool_calls" if calls else delta.finish_reason
    new = LLMResultChunkDelta(
        index=delta.index, message=message, finish_reason=reason, usage=delta.usage
    )
    return [msgspec.structs.replace(chunk, delta=new)]


@dataclass(frozen=True, slots=True)
class LocalTextEmbeddingModel(TextEmbeddingModel):
    """Local embedding models."""

    runtime: LocalRuntime

    async def invoke(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> AsyncGenerator[TextEmbeddingResult, None]:
        """Yield the embeddings of all texts as one result; token counts are estimated.

        Raises InvokeBadRequestError if a text is too long or more dimensions are
        requested than the model has.
        """
        check_lengths(request.texts, "input")
        answer = await self.runtime.call_once(model, "embed", {"texts": request.texts})
        width = answer["dimensions"]
        if request.dimensions is not None and request.dimensions > width:
            raise InvokeBadRequestError(
                f"'dimensions' must be at most {width} for {model!r}, not"
                f" {request.dimensions}",
                param="dimensions",
            )
        # The process sends all vectors as one block of 32-bit floats.
        numbers = array("f", answer["data"])
        rows = [
            numbers[start : start + width].tolist()
            for start in range(0, len(numbers), width)
        ]
        tokens = sum(map(estimate_tokens, request.texts))
        yield TextEmbeddingResult(
            model=model,
            embeddings=[truncate_vector(row, request.dimensions) for row in rows],
            usage=EmbeddingUsage(tokens=tokens, total_tokens=tokens, estimated=True),
        )


def check_lengths(texts: Sequence[str], param: str) -> None:
    """Raise InvokeBadRequestError for a text that is too long.

    It would block the encoder for many seconds, and one vector cannot represent so much
    text.
    """
    longest = max(map(len, texts), default=0)
    if longest <= _MAX_TEXT_CHARS:
        return
    problem = (
        f"A text has {longest:,} characters; local models accept at most"
        f" {_MAX_TEXT_CHARS:,}, so split it into segments"
    )
    raise InvokeBadRequestError(problem, provider="local", param=param)


def truncate_vector(vector: list[float], dimensions: int | None) -> list[float]:
    """Return the first `dimensions` numbers of a vector, scaled to length 1 again."""
    if dimensions is None or dimensions >= len(vector):
        return vector
    head = vector[:dimensions]
    length = sum(number * number for number in head) ** 0.5
    return [number / length for number in head] if length else head


@dataclass(frozen=True, slots=True)
class LocalRerankModel(RerankModel):
    """Local rerank models."""

    runtime: LocalRuntime

    async def invoke(
        self, model: str, credentials: Credentials, request: RerankRequest
    ) -> AsyncGenerator[RerankResult, None]:
        """Yield the documents above the score threshold, best first, as one result."""
        check_lengths([request.query, *request.docs], "documents")
        payload = {"query": request.query, "docs": request.docs}
        # The cross-encoder reads English only; other scripts use the sentence encoder
        # and keywords.
        if hybrid.needs_hybrid(request.query):
            similarity = await self.runtime.call_once(
                _SENTENCE_ENCODER, "similarity", payload
            )
            scores = hybrid.combine_scores(
                similarity, hybrid.bm25(request.query, request.docs)
            )
        else:
            scores = await self.runtime.call_once(model, "score", payload)
        docs = [
            RerankDocument(index=index, text=text, score=score)
            for index, (text, score) in enumerate(
                zip(request.docs, scores, strict=True)
            )
            if request.score_threshold is None or score >= request.score_threshold
        ]
        docs.sort(key=lambda doc: -doc.score)
        tokens = sum(
            estimate_tokens(request.query) + estimate_tokens(doc)
            for doc in request.docs
        )
        yield RerankResult(
            model=model,
            docs=docs[: request.top_n],
            usage=RerankUsage(tokens=tokens, searches=1, estimated=True),
        )


@dataclass(frozen=True, slots=True)
class LocalModerationModel(ModerationModel):
    """Local moderation models."""

    runtime: LocalRuntime

    async def invoke(
        self, model: str, credentials: Credentials, request: ModerationRequest
    ) -> AsyncGenerator[ModerationResult, None]:
        """Yield the verdicts of all texts as one result."""
        check_lengths(request.texts, "input")
        scores = await self.runtime.call_once(
            model, "moderate", {"texts": request.texts}
        )
        usage = ModerationUsage(texts=len(request.texts))
        yield ModerationResult(
            model=model,
            verdicts=[verdict_of(class_scores) for class_scores in scores],
            usage=usage,
        )


def verdict_of(scores: Mapping[str, float]) -> ModerationVerdict:
    """Return the verdict for a text. It is flagged if `safe` is not the most likely
    class."""
    likeliest = max(scores, key=lambda name: scores[name])
    by_category = {
        category: scores.get(name, 0.0)
        for name, all_of in _CATEGORIES.items()
        for category in all_of
    }
    flagged_categories = _CATEGORIES.get(likeliest, ())
    return ModerationVerdict(
        flagged=likeliest != "safe",
        categories={
            category: category in flagged_categories for category in by_category
        },
        category_scores={
            category: round(score, 6) for category, score in by_category.items()
        },
    )


@dataclass(frozen=True, slots=True)
class LocalSpeech2TextModel(Speech2TextModel):
    """Local transcription models."""

    runtime: LocalRuntime

    async def invoke(
        self, model: str, credentials: Credentials, request: Speech2TextRequest
    ) -> AsyncGenerator[Speech2TextResult, None]:
        """Yield the transcript as one result."""
        payload = {
            "audio": request.audio,
            "language": request.language,
            "prompt": request.prompt,
            "task": request.task,
        }
        segments: list[TranscriptSegment] = []
        language, seconds = request.language, 0.0
        async with aclosing(self.runtime.call(model, "transcribe", payload)) as windows:
            async for window in windows:
                language, seconds = window["language"], window["seconds"]
                # The process returns one window of 30 seconds after another.
                segments.extend(
                    TranscriptSegment(**segment) for segment in window["segments"]
                )
        yield Speech2TextResult(
            model=model,
            text=join_segments([segment.text for segment in segments]),
            language=language,
            segments=segments,
            usage=Speech2TextUsage(seconds=seconds),
        )


def join_segments(texts: list[str]) -> str:
    """Join the texts of segments. No space is written between Chinese or Japanese
    segments."""
    full_text = ""
    for text in texts:
        gap = (
            ""
            if not full_text
            or hybrid.needs_hybrid(full_text[-1])
            or hybrid.needs_hybrid(text[0])
            else " "
        )
        full_text += gap + text
    return full_text


@dataclass(frozen=True, slots=True)
class LocalTTSModel(TTSModel):
    """Local speech synthesis models."""

    runtime: LocalRuntime

    async def invoke(
        self, model: str, credentials: Credentials, request: TTSRequest
    ) -> AsyncGenerator[TTSResultChunk, None]:
        """Yield the audio in chunks, then the usage."""
        payload = {
            "text": request.text,
            "voice": request.voice,
            "format": request.format,
            "speed": request.speed,
        }
        async with aclosing(self.runtime.call(model, "speak", payload)) as audio_chunks:
            async for audio_chunk in audio_chunks:
                # File formats that cannot be streamed yield empty chunks until the end.
                if audio_chunk:
                    yield TTSResultChunk(model=model, audio=audio_chunk)
        yield TTSResultChunk(model=model, usage=TTSUsage(characters=len(request.text)))


def local_models(runtime: LocalRuntime) -> Mapping[ModelType, AnyModel]:
    """Return the callable local models, one per model type."""
    return {
        ModelType.LLM: LocalLargeLanguageModel(runtime),
        ModelType.TEXT_EMBEDDING: LocalTextEmbeddingModel(runtime),
        ModelType.RERANK: LocalRerankModel(runtime),
        ModelType.SPEECH2TEXT: LocalSpeech2TextModel(runtime),
        ModelType.MODERATION: LocalModerationModel(runtime),
        ModelType.TTS: LocalTTSModel(runtime),
    }
