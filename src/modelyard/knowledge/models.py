"""The runtime's models, as knowledge uses them: metered, limited and retried like any other call of the tenant's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from modelyard.base.errors import InvokeServerUnavailableError, NotFoundError
from modelyard.base.lazy import lazy
from modelyard.knowledge.vectors import Embedded
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
    np = lazy("numpy", extra="knowledge")


class RuntimeModels:
    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager
        self.cost = Decimal(0)
        """What all calls came to so far, in their models' currencies."""

    def find(self, tenant: str, name: str, kind: ModelType) -> Any:
        """By `provider/model`, also where the provider is named as Dify's plugins are. Raises NotFoundError."""
        caller = Caller(tenant=tenant)
        try:
            return self._manager.find(caller, name, kind)
        except NotFoundError:
            provider, _, model = name.rpartition("/")
            if "/" not in provider:
                raise
        return self._manager.find(caller, f"{provider.rpartition('/')[2]}/{model}", kind)

    async def embed(self, tenant: str, model: str, texts: Sequence[str], *, is_query: bool = False) -> Embedded:
        instance = self.find(tenant, model, ModelType.TEXT_EMBEDDING)
        kind = EmbeddingInputType.QUERY if is_query else EmbeddingInputType.DOCUMENT
        # A blank text is refused by most: it is one that nothing is like.
        sent = [one if one.strip() else "-" for one in texts]
        result = await instance.invoke_text_embedding(TextEmbeddingRequest(texts=sent, input_type=kind))
        self.cost += result.usage.total_price or 0
        try:
            vectors = np.array(result.embeddings, np.float32)
        except ValueError as error:
            raise InvokeServerUnavailableError(f"model {model!r} gave vectors of different lengths") from error
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise InvokeServerUnavailableError(f"model {model!r} gave {len(vectors)} vectors for {len(texts)} texts")
        return Embedded(normalised(vectors), instance.name)

    async def rerank(self, tenant: str, model: str, query: str, docs: Sequence[str]) -> Sequence[tuple[int, float]]:
        instance = self.find(tenant, model, ModelType.RERANK)
        result = await instance.invoke_rerank(RerankRequest(query=query, docs=list(docs)))
        self.cost += result.usage.total_price or 0
        return [(one.index, one.score) for one in result.docs]

    async def talk(self, tenant: str, model: str, prompt: str) -> AsyncGenerator[str, None]:
        """What a model answers, as it comes."""
        instance = self.find(tenant, model, ModelType.LLM)
        parameters = {"max_tokens": 512, "temperature": 0.0}
        request = LLMRequest(messages=[UserPromptMessage(content=prompt)], model_parameters=parameters, stream=True)
        async with aclosing(instance.stream_llm(request)) as chunks:
            async for chunk in chunks:
                if text := chunk.delta.message.text:
                    yield text

    async def write(self, tenant: str, model: str, prompt: str) -> str:
        instance = self.find(tenant, model, ModelType.LLM)
        request = LLMRequest(messages=[UserPromptMessage(content=prompt)], model_parameters={"max_tokens": 1024})
        result = await instance.invoke_llm(request)
        self.cost += result.usage.total_price or 0
        return result.text


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Each of length 1, so that a product is a cosine."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
