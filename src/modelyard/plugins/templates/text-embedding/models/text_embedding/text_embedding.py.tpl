from dify_plugin import TextEmbeddingModel
from dify_plugin.entities.model import EmbeddingInputType
from dify_plugin.entities.model.text_embedding import EmbeddingUsage, TextEmbeddingResult
from dify_plugin.errors.model import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeServerUnavailableError,
)


class @CLASS@TextEmbeddingModel(TextEmbeddingModel):
    def _invoke(
        self,
        model: str,
        credentials: dict,
        texts: list[str],
        user: str | None = None,
        input_type: EmbeddingInputType = EmbeddingInputType.DOCUMENT,
    ) -> TextEmbeddingResult:
        """Vectors of letter counts. Call your model here."""
        tokens = sum(self.get_num_tokens(model, credentials, texts))
        usage = EmbeddingUsage(
            tokens=tokens, total_tokens=tokens, unit_price="0", price_unit="0.001", total_price="0",
            currency="USD", latency=0.0,
        )
        vectors = [[float(text.count(letter)) for letter in "etaoinshr"] for text in texts]
        return TextEmbeddingResult(model=model, embeddings=vectors, usage=usage)

    def get_num_tokens(self, model: str, credentials: dict, texts: list[str]) -> list[int]:
        return [max(1, len(text) // 4) for text in texts]

    def validate_credentials(self, model: str, credentials: dict) -> None:
        """Raise CredentialsValidateFailedError where the model may not be called."""

    @property
    def _invoke_error_mapping(self) -> dict[type[InvokeError], list[type[Exception]]]:
        """What your client raises, as what the caller can act on."""
        return {
            InvokeConnectionError: [ConnectionError],
            InvokeServerUnavailableError: [TimeoutError],
            InvokeAuthorizationError: [PermissionError],
            InvokeBadRequestError: [ValueError],
        }
