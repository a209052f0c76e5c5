"""The interface for providers: one class per model type with a single streaming method."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import ClassVar, Generic, TypeVar

from modelyard.models.answer_formats import AnswerModes
from modelyard.models.embedding import TextEmbeddingRequest, TextEmbeddingResult
from modelyard.models.exchange import Exchange, PreparedExchange
from modelyard.models.llm import LLMRequest, LLMResultChunk
from modelyard.models.moderation import ModerationRequest, ModerationResult
from modelyard.models.passthrough import PassthroughRequest
from modelyard.models.rerank import RerankRequest, RerankResult
from modelyard.models.speech2text import Speech2TextRequest, Speech2TextResult
from modelyard.models.tokens import TokenCount, count_prompt
from modelyard.models.tts import TTSRequest, TTSResultChunk
from modelyard.models.types import Credentials, ModelType

RequestT = TypeVar("RequestT")
ChunkT = TypeVar("ChunkT")


class AIModel(ABC, Generic[RequestT, ChunkT]):
    """A provider's implementation of one model type.

    `invoke` yields chunks; a model without streaming yields once. Closing the generator
    ends the upstream call. External failures are raised as InvokeError or a subclass.
    """

    model_type: ClassVar[ModelType]

    @abstractmethod
    def invoke(
        self, model: str, credentials: Credentials, request: RequestT
    ) -> AsyncGenerator[ChunkT, None]:
        """Call the model and yield its chunks. Raises InvokeError."""
        ...

    def unsupported(
        self, model: str, credentials: Credentials, request: RequestT
    ) -> list[str]:
        """Return the request's fields that are left out, because the model's server
        does not support them."""
        del model, credentials, request
        return []


class LargeLanguageModel(AIModel[LLMRequest, LLMResultChunk]):
    """A chat model."""

    model_type = ModelType.LLM

    def answer_modes(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AnswerModes:
        """Return what the model's server offers for answers of a given form."""
        del model, credentials, request
        return AnswerModes()

    def supports_format(
        self, model: str, credentials: Credentials, format: str
    ) -> bool:
        """Return whether a request received in this wire format is forwarded in the
        same format."""
        del model, credentials, format
        return False

    @property
    def knowledge_version(self) -> int:
        """Changes whenever something was learnt about what servers accept; 0 as long as
        nothing was."""
        return 0

    accepts_passthrough: ClassVar[bool] = False
    """Whether `invoke` also accepts a request in its original bytes."""

    def can_pass_through(
        self, model: str, credentials: Credentials, request: PassthroughRequest
    ) -> bool:
        """Return whether such a request would be forwarded unchanged; otherwise it is
        parsed completely."""
        del model, credentials, request
        return False

    def exchange(
        self,
        model: str,
        credentials: Credentials,
        request: LLMRequest | PassthroughRequest,
    ) -> Exchange | None:
        """Return the call as an exchange that is driven by callbacks; None if it has to
        be awaited. Raises InvokeError if the request cannot be translated."""
        del model, credentials, request
        return None

    def prepare(
        self, model: str, credentials: Credentials, request: PassthroughRequest
    ) -> PreparedExchange | None:
        """Return what makes exchanges of requests that have the format and the
        parameters of this one; None if each needs to be looked at."""
        del model, credentials, request
        return None

    async def count_tokens(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> TokenCount:
        """Return the prompt tokens of a request before it is sent, and whether they are
        counted or estimated."""
        # The default needs no network; providers with a counting endpoint override it.
        del credentials
        return count_prompt(model, request.messages, request.tools)


class TextEmbeddingModel(AIModel[TextEmbeddingRequest, TextEmbeddingResult]):
    """An embedding model."""

    model_type = ModelType.TEXT_EMBEDDING


class RerankModel(AIModel[RerankRequest, RerankResult]):
    """A rerank model."""

    model_type = ModelType.RERANK


class Speech2TextModel(AIModel[Speech2TextRequest, Speech2TextResult]):
    """A speech recognition model."""

    model_type = ModelType.SPEECH2TEXT


class ModerationModel(AIModel[ModerationRequest, ModerationResult]):
    """A moderation model."""

    model_type = ModelType.MODERATION


class TTSModel(AIModel[TTSRequest, TTSResultChunk]):
    """A speech synthesis model."""

    model_type = ModelType.TTS


AnyModel = (
    LargeLanguageModel
    | TextEmbeddingModel
    | RerankModel
    | Speech2TextModel
    | ModerationModel
    | TTSModel
)
