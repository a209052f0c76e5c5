"""The interface that a provider implements: one class a model type, one method that streams."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import ClassVar, Generic, TypeVar

from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tokens import TokenCount, count_prompt
from modelyard.models.tts import TTSRequest, TTSResultChunk
from modelyard.models.types import Credentials, ModelType
from modelyard.models.verbatim import VerbatimRequest

RequestT = TypeVar("RequestT")
ChunkT = TypeVar("ChunkT")


class AIModel(ABC, Generic[RequestT, ChunkT]):
    """What a provider implements for one model type.

    `invoke` yields chunks; a model that cannot stream yields once. Closing the generator ends the call upstream.
    It raises InvokeError and its kinds, and nothing else that comes from outside.
    """

    model_type: ClassVar[ModelType]

    @abstractmethod
    def invoke(self, model: str, credentials: Credentials, request: RequestT) -> AsyncGenerator[ChunkT, None]: ...


class LargeLanguageModel(AIModel[LLMRequest, LLMResultChunk]):
    model_type = ModelType.LLM

    def unsupported(self, model: str, credentials: Credentials, request: LLMRequest) -> list[str]:
        """The parameters of the request that the model's server has no word for, or refuses."""
        del model, credentials, request
        return []

    def speaks(self, model: str, credentials: Credentials, format: str) -> bool:  # noqa: A002  the field's word
        """Whether a request that came in this wire format is sent on in it."""
        del model, credentials, format
        return False

    takes_verbatim: ClassVar[bool] = False
    """Whether `invoke` may be given a request as it came, too."""

    def passes_on(self, model: str, credentials: Credentials, request: VerbatimRequest) -> bool:
        """Whether such a request would be passed on as it came; else it is read in full."""
        del model, credentials, request
        return False

    async def count_tokens(self, model: str, credentials: Credentials, request: LLMRequest) -> TokenCount:
        """Prompt tokens of a request before it is sent; says whether they were counted or estimated."""
        del credentials
        return count_prompt(model, request.messages, request.tools)


class TextEmbeddingModel(AIModel[TextEmbeddingRequest, TextEmbeddingResult]):
    model_type = ModelType.TEXT_EMBEDDING


class RerankModel(AIModel[RerankRequest, RerankResult]):
    model_type = ModelType.RERANK


class Speech2TextModel(AIModel[Speech2TextRequest, Speech2TextResult]):
    model_type = ModelType.SPEECH2TEXT


class ModerationModel(AIModel[ModerationRequest, ModerationResult]):
    model_type = ModelType.MODERATION


class TTSModel(AIModel[TTSRequest, TTSResultChunk]):
    model_type = ModelType.TTS


AnyModel = LargeLanguageModel | TextEmbeddingModel | RerankModel | Speech2TextModel | ModerationModel | TTSModel
