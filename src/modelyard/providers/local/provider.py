"""The six model types of this machine, each over the process that runs its model."""

import base64
import binascii
from array import array
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import ContextTooLongError, InvokeBadRequestError
from modelyard.models.base import (
    AnyModel,
    LargeLanguageModel,
    ModerationModel,
    RerankModel,
    Speech2TextModel,
    TextEmbeddingModel,
    TTSModel,
)
from modelyard.models.embedding import EmbeddingUsage, TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMResultChunkDelta
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    ImagePromptMessageContent,
    MultiModalPromptMessageContent,
    OpaquePromptMessageContent,
)
from modelyard.models.moderation import ModerationRequest, ModerationResult, ModerationUsage, ModerationVerdict
from modelyard.models.rerank import RerankDocument, RerankRequest, RerankResult, RerankUsage
from modelyard.models.speech2text import (
    Speech2TextRequest,
    Speech2TextResult,
    Speech2TextUsage,
    TranscriptSegment,
)
from modelyard.models.tokens import TokenCount, estimate_tokens
from modelyard.models.tts import TTSRequest, TTSResultChunk, TTSUsage
from modelyard.models.types import Credentials, ModelType
from modelyard.providers.local import hybrid, tool_calls
from modelyard.providers.local.runtime import LocalRuntime
from modelyard.wire import openai_chat

_LONGEST_TOKEN = 128  # characters; longer tokens hardly exist, so this refuses nothing that would have fit
_LONGEST_TEXT = 50_000  # characters
OCR = "pp-ocrv6"
_ENCODER = "use-multilingual-v3"
_CATEGORIES = {
    "harassment": ("harassment",),
    "hate": ("hate",),
    "threat": ("violence", "harassment/threatening"),
    "self-harm": ("self-harm",),
    "sexual": ("sexual",),
    "illicit": ("illicit",),
}
"""The classes that the moderation head tells apart, and the categories that each stands for."""


@dataclass(frozen=True, slots=True)
class LocalLargeLanguageModel(LargeLanguageModel):
    runtime: LocalRuntime

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        if (request.model_parameters.get("n") or 1) > 1:
            raise InvokeBadRequestError("local models give one answer at a time; leave 'n' out", param="n")
        names = {tool.name for tool in request.tools}
        reader = tool_calls.ToolCallReader(names) if names and request.tool_choice != "none" else None
        body = await self._body(model, request)
        parser = openai_chat.StreamParser()
        async with aclosing(
            self.runtime.ask(model, "chat", {**body, "stream": True, "stream_options": _USAGE})
        ) as events:
            async for event in events:
                for chunk in parser.feed({**event, "model": model}):
                    for shown in _read(chunk, reader):
                        yield shown
        parser.finish(done=False)

    async def count_tokens(self, model: str, credentials: Credentials, request: LLMRequest) -> TokenCount:
        """By the model's own template and vocabulary."""
        body = await self._body(model, request)
        return TokenCount(await self.runtime.only(model, "count", body), estimated=False)

    async def _body(self, model: str, request: LLMRequest) -> dict[str, Any]:
        self._check_length(request)
        messages = [await self._with_text_of_images(message) for message in request.messages]
        ready = tool_calls.prepared(msgspec.structs.replace(request, messages=messages, extra={}))
        return openai_chat.dump_request(msgspec.structs.replace(ready, stream=False), model, {})

    def _check_length(self, request: LLMRequest) -> None:
        """Refuse what cannot fit before anybody spends a minute on cutting 20 MB into tokens."""
        length = sum(len(message.text) for message in request.messages)
        if length > self.runtime.context * _LONGEST_TOKEN:
            raise ContextTooLongError(
                f"the request has {length:,} characters; the model's context holds {self.runtime.context:,} tokens",
                provider="local",
            )

    async def _with_text_of_images(self, message: AnyPromptMessage) -> AnyPromptMessage:
        if not isinstance(message.content, list):
            return message
        for part in message.content:
            if isinstance(part, OpaquePromptMessageContent) and not isinstance(message, AssistantPromptMessage):
                raise InvokeBadRequestError(f"local chat models cannot read parts of type {part.data.get('type')!r}")
        texts = [message.text, *[await self._read_file(file) for file in message.files]]
        return msgspec.structs.replace(message, content="\n\n".join(text for text in texts if text))

    async def _read_file(self, file: MultiModalPromptMessageContent) -> str:
        if not isinstance(file, ImagePromptMessageContent):
            raise InvokeBadRequestError("local chat models read text, and the text in pictures; no other files")
        if not file.base64_data:
            raise InvokeBadRequestError("local models read pictures sent as data: addresses, not by link")
        try:
            image = base64.b64decode(file.base64_data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvokeBadRequestError("the picture is not base64") from error
        lines = await self.runtime.only(OCR, "read", {"image": image})
        # The model does not see the picture, and must not sound as if it did.
        return "[Text found in an attached picture by OCR:\n" + ("\n".join(lines) or "none") + "\n]"


_USAGE = {"include_usage": True}


def _read(chunk: LLMResultChunk, reader: tool_calls.ToolCallReader | None) -> list[LLMResultChunk]:
    """A chunk as the caller should see it: a call that is written out in the text becomes a call."""
    delta = chunk.delta
    if delta.usage is not None:
        delta = msgspec.structs.replace(delta, usage=msgspec.structs.replace(delta.usage, extra={}))
    chunk = msgspec.structs.replace(chunk, delta=delta, extra={})  # llama.cpp's timings are its own affair
    if reader is None or delta.message.tool_calls:
        return [chunk]
    text, calls = reader.feed(delta.message.text), []
    if delta.finish_reason is not None:
        rest, calls = reader.finish()
        text += rest
    if not (text or calls or delta.finish_reason or delta.usage):
        return []
    message = AssistantPromptMessage(content=text or None, tool_calls=calls)
    reason = "tool_calls" if calls else delta.finish_reason
    new = LLMResultChunkDelta(index=delta.index, message=message, finish_reason=reason, usage=delta.usage)
    return [msgspec.structs.replace(chunk, delta=new)]


@dataclass(frozen=True, slots=True)
class LocalTextEmbeddingModel(TextEmbeddingModel):
    runtime: LocalRuntime

    async def invoke(
        self, model: str, credentials: Credentials, request: TextEmbeddingRequest
    ) -> AsyncGenerator[TextEmbeddingResult, None]:
        check_lengths(request.texts, "input")
        answer = await self.runtime.only(model, "embed", {"texts": request.texts})
        width = answer["dimensions"]
        if request.dimensions is not None and request.dimensions > width:
            raise InvokeBadRequestError(
                f"'dimensions' must be at most {width} for {model!r}, not {request.dimensions}", param="dimensions"
            )
        numbers = array("f", answer["data"])
        rows = [numbers[begin : begin + width].tolist() for begin in range(0, len(numbers), width)]
        tokens = sum(map(estimate_tokens, request.texts))
        yield TextEmbeddingResult(
            model=model,
            embeddings=[shortened(row, request.dimensions) for row in rows],
            usage=EmbeddingUsage(tokens=tokens, total_tokens=tokens, estimated=True),
        )


def check_lengths(texts: Sequence[str], param: str) -> None:
    """Refuse what would keep the encoder from everybody else for many seconds, and says little as one vector."""
    longest = max(map(len, texts), default=0)
    if longest > _LONGEST_TEXT:
        raise InvokeBadRequestError(
            f"a text has {longest:,} characters; local models take {_LONGEST_TEXT:,} at once, so cut it into segments",
            provider="local",
            param=param,
        )


def shortened(vector: list[float], dimensions: int | None) -> list[float]:
    """The first so many numbers, at length 1 again."""
    if dimensions is None or dimensions >= len(vector):
        return vector
    head = vector[:dimensions]
    length = sum(number * number for number in head) ** 0.5
    return [number / length for number in head] if length else head


@dataclass(frozen=True, slots=True)
class LocalRerankModel(RerankModel):
    runtime: LocalRuntime

    async def invoke(
        self, model: str, credentials: Credentials, request: RerankRequest
    ) -> AsyncGenerator[RerankResult, None]:
        check_lengths([request.query, *request.docs], "documents")
        asked = {"query": request.query, "docs": request.docs}
        if hybrid.needs_hybrid(request.query):
            similarity = await self.runtime.only(_ENCODER, "similarity", asked)
            scores = hybrid.blend(similarity, hybrid.bm25(request.query, request.docs))
        else:
            scores = await self.runtime.only(model, "score", asked)
        docs = [
            RerankDocument(index=place, text=text, score=score)
            for place, (text, score) in enumerate(zip(request.docs, scores, strict=True))
            if request.score_threshold is None or score >= request.score_threshold
        ]
        docs.sort(key=lambda doc: -doc.score)
        tokens = sum(estimate_tokens(request.query) + estimate_tokens(doc) for doc in request.docs)
        yield RerankResult(
            model=model, docs=docs[: request.top_n], usage=RerankUsage(tokens=tokens, searches=1, estimated=True)
        )


@dataclass(frozen=True, slots=True)
class LocalModerationModel(ModerationModel):
    runtime: LocalRuntime

    async def invoke(
        self, model: str, credentials: Credentials, request: ModerationRequest
    ) -> AsyncGenerator[ModerationResult, None]:
        check_lengths(request.texts, "input")
        scores = await self.runtime.only(model, "moderate", {"texts": request.texts})
        usage = ModerationUsage(texts=len(request.texts))
        yield ModerationResult(model=model, verdicts=[verdict_of(one) for one in scores], usage=usage)


def verdict_of(scores: Mapping[str, float]) -> ModerationVerdict:
    """Flagged where `safe` is not the likeliest class."""
    likeliest = max(scores, key=lambda name: scores[name])
    by_category = {category: scores.get(name, 0.0) for name, all_of in _CATEGORIES.items() for category in all_of}
    meant = _CATEGORIES.get(likeliest, ())
    return ModerationVerdict(
        flagged=likeliest != "safe",
        categories={category: category in meant for category in by_category},
        category_scores={category: round(score, 6) for category, score in by_category.items()},
    )


@dataclass(frozen=True, slots=True)
class LocalSpeech2TextModel(Speech2TextModel):
    runtime: LocalRuntime

    async def invoke(
        self, model: str, credentials: Credentials, request: Speech2TextRequest
    ) -> AsyncGenerator[Speech2TextResult, None]:
        asked = {
            "audio": request.audio,
            "language": request.language,
            "prompt": request.prompt,
            "task": request.task,
        }
        segments: list[TranscriptSegment] = []
        language, seconds = request.language, 0.0
        async with aclosing(self.runtime.ask(model, "transcribe", asked)) as windows:
            async for window in windows:
                language, seconds = window["language"], window["seconds"]
                segments.extend(TranscriptSegment(**one) for one in window["segments"])
        yield Speech2TextResult(
            model=model,
            text=joined([segment.text for segment in segments]),
            language=language,
            segments=segments,
            usage=Speech2TextUsage(seconds=seconds),
        )


def joined(texts: list[str]) -> str:
    """Segments as one text: Chinese and Japanese do not put spaces between them."""
    whole = ""
    for text in texts:
        gap = "" if not whole or hybrid.needs_hybrid(whole[-1]) or hybrid.needs_hybrid(text[0]) else " "
        whole += gap + text
    return whole


@dataclass(frozen=True, slots=True)
class LocalTTSModel(TTSModel):
    runtime: LocalRuntime

    async def invoke(
        self, model: str, credentials: Credentials, request: TTSRequest
    ) -> AsyncGenerator[TTSResultChunk, None]:
        asked = {"text": request.text, "voice": request.voice, "format": request.format, "speed": request.speed}
        async with aclosing(self.runtime.ask(model, "speak", asked)) as pieces:
            async for piece in pieces:
                if piece:
                    yield TTSResultChunk(model=model, audio=piece)
        yield TTSResultChunk(model=model, usage=TTSUsage(characters=len(request.text)))


def local_models(runtime: LocalRuntime) -> Mapping[ModelType, AnyModel]:
    return {
        ModelType.LLM: LocalLargeLanguageModel(runtime),
        ModelType.TEXT_EMBEDDING: LocalTextEmbeddingModel(runtime),
        ModelType.RERANK: LocalRerankModel(runtime),
        ModelType.SPEECH2TEXT: LocalSpeech2TextModel(runtime),
        ModelType.MODERATION: LocalModerationModel(runtime),
        ModelType.TTS: LocalTTSModel(runtime),
    }
