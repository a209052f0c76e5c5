import time

from dify_plugin import TextEmbeddingModel
from dify_plugin.entities.model import EmbeddingInputType, PriceType
from dify_plugin.entities.model.text_embedding import (
    EmbeddingUsage,
    TextEmbeddingResult,
)
from dify_plugin.errors.model import InvokeBadRequestError, InvokeError

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Letters(TextEmbeddingModel):
    """How often each letter occurs, as a vector of length one."""

    def _invoke(
        self,
        model: str,
        credentials: dict,
        texts: list[str],
        user: str | None = None,
        input_type: EmbeddingInputType = EmbeddingInputType.DOCUMENT,
    ) -> TextEmbeddingResult:
        begun = time.perf_counter()
        tokens = sum(self.get_num_tokens(model, credentials, texts))
        price = self.get_price(model, credentials, PriceType.INPUT, tokens)
        usage = EmbeddingUsage(
            tokens=tokens,
            total_tokens=tokens,
            unit_price=price.unit_price,
            price_unit=price.unit,
            total_price=price.total_amount,
            currency=price.currency,
            latency=time.perf_counter() - begun,
        )
        return TextEmbeddingResult(
            model=model, embeddings=[_vector(text) for text in texts], usage=usage
        )

    def get_num_tokens(
        self, model: str, credentials: dict, texts: list[str]
    ) -> list[int]:
        return [max(1, len(text) // 4) for text in texts]

    def validate_credentials(self, model: str, credentials: dict) -> None:
        """Needs none."""

    @property
    def _invoke_error_mapping(self) -> dict[type[InvokeError], list[type[Exception]]]:
        return {InvokeBadRequestError: [ValueError]}


def _vector(text: str) -> list[float]:
    counts = [text.lower().count(letter) for letter in LETTERS]
    length = sum(count * count for count in counts) ** 0.5 or 1.0
    return [count / length for count in counts]
