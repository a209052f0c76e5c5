from dify_plugin import RerankModel
from dify_plugin.entities.model.rerank import RerankDocument, RerankResult
from dify_plugin.errors.model import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeServerUnavailableError,
)


class @CLASS@RerankModel(RerankModel):
    def _invoke(
        self,
        model: str,
        credentials: dict,
        query: str,
        docs: list[str],
        score_threshold: float | None = None,
        top_n: int | None = None,
        user: str | None = None,
    ) -> RerankResult:
        """By common words. Call your model here."""
        wanted = set(query.lower().split())
        scores = [len(wanted & set(doc.lower().split())) / max(1, len(wanted)) for doc in docs]
        order = sorted(range(len(docs)), key=lambda place: -scores[place])
        kept = [place for place in order if score_threshold is None or scores[place] >= score_threshold][:top_n]
        found = [RerankDocument(index=place, text=docs[place], score=scores[place]) for place in kept]
        return RerankResult(model=model, docs=found)

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
