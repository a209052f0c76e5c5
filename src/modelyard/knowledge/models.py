"""Access of the knowledge package to the runtime's models: metered, limited and retried
like any other call of the tenant."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from modelyard.base.errors import InvokeServerUnavailableError, NotFoundError
from modelyard.base.lazy import lazy_module
from modelyard.knowledge.reranking import check_query_length
from modelyard.knowledge.vectors import EmbeddingResult
from modelyard.models.embedding import EmbeddingInputType, TextEmbeddingRequest
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from modelyard.models.rerank import RerankRequest
from modelyard.models.types import ModelType
from modelyard.runtime.model_manager import ModelManager
from modelyard.tenancy.caller import Caller

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy", extra="knowledge")


class KnowledgeModels:
    """Calls embedding, rerank and chat models on behalf of datasets."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager
        self.cost = Decimal(0)
        """Total cost of all calls so far, summed without currency conversion."""

    def find(self, tenant: str, name: str, model_type: ModelType) -> Any:
        """Return a model by `provider/model`; also accepts provider names of Dify's
        plugins. Raises NotFoundError."""
        caller = Caller(tenant=tenant)
        try:
            return self._manager.find(caller, name, model_type)
        except NotFoundError:
            provider, _, model = name.rpartition("/")
            # Dify writes `organisation/plugin/provider`: try again with the last part
            # alone.
            if "/" not in provider:
                raise
        return self._manager.find(
            caller, f"{provider.rpartition('/')[2]}/{model}", model_type
        )

    async def embed(
        self, tenant: str, model: str, texts: Sequence[str], *, is_query: bool = False
    ) -> EmbeddingResult:
        """Embed texts with a model and return normalised vectors. Raises InvokeError
        and NotFoundError."""
        instance = self.find(tenant, model, ModelType.TEXT_EMBEDDING)
        input_type = (
            EmbeddingInputType.QUERY if is_query else EmbeddingInputType.DOCUMENT
        )
        # Most models refuse blank texts: a placeholder keeps the positions aligned.
        sent = [text if text.strip() else "-" for text in texts]
        result = await instance.invoke_text_embedding(
            TextEmbeddingRequest(texts=sent, input_type=input_type)
        )
        self.cost += result.usage.total_price or 0
        try:
            # NumPy raises ValueError for rows of unequal length.
            vectors = np.array(result.embeddings, np.float32)
        except ValueError as error:
            raise InvokeServerUnavailableError(
                f"Model {model!r} returned vectors of different lengths"
            ) from error
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise InvokeServerUnavailableError(
                f"Model {model!r} returned {len(vectors)} vectors for {len(texts)} texts"
            )
        return EmbeddingResult(normalise(vectors), instance.name)

    async def rerank(
        self, tenant: str, model: str, query: str, docs: Sequence[str]
    ) -> Sequence[tuple[int, float]]:
        """Return (index in docs, score), best first. Raises InvokeError,
        NotFoundError, and QueryTooLongError without a call of the model."""
        instance = self.find(tenant, model, ModelType.RERANK)
        schema = instance.schema
        check_query_length(query, model, schema.context_size if schema else None)
        result = await instance.invoke_rerank(
            RerankRequest(query=query, docs=list(docs))
        )
        self.cost += result.usage.total_price or 0
        return [(document.index, document.score) for document in result.docs]

    async def stream_reply(
        self, tenant: str, model: str, prompt: str
    ) -> AsyncGenerator[str, None]:
        """Stream a chat model's answer to a prompt as text chunks."""
        instance = self.find(tenant, model, ModelType.LLM)
        parameters = {"max_tokens": 512, "temperature": 0.0}
        request = LLMRequest(
            messages=[UserPromptMessage(content=prompt)],
            model_parameters=parameters,
            stream=True,
        )
        async with aclosing(instance.stream_llm(request)) as chunks:
            async for chunk in chunks:
                if text := chunk.delta.message.text:
                    yield text

    async def complete(self, tenant: str, model: str, prompt: str) -> str:
        """Return a chat model's complete answer to a prompt. Raises InvokeError and
        NotFoundError."""
        instance = self.find(tenant, model, ModelType.LLM)
        request = LLMRequest(
            messages=[UserPromptMessage(content=prompt)],
            model_parameters={"max_tokens": 1024},
        )
        result = await instance.invoke_llm(request)
        self.cost += result.usage.total_price or 0
        return result.text


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Scale each vector to length 1, so that a dot product is the cosine."""
    # The lower bound avoids a division by zero for zero vectors.
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
