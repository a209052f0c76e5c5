from dify_plugin import RerankModel
from dify_plugin.entities.model.rerank import RerankDocument, RerankResult
from dify_plugin.errors.model import InvokeBadRequestError, InvokeError


class Overlap(RerankModel):
    """The share of the query's words that a document holds."""

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
        wanted = set(query.lower().split())
        scores = [
            len(wanted & set(doc.lower().split())) / max(1, len(wanted)) for doc in docs
        ]
        ranked = sorted(range(len(docs)), key=lambda place: -scores[place])
        kept = [
            place
            for place in ranked
            if score_threshold is None or scores[place] >= score_threshold
        ][:top_n]
        documents = [
            RerankDocument(index=place, text=docs[place], score=scores[place])
            for place in kept
        ]
        return RerankResult(model=model, docs=documents)

    def validate_credentials(self, model: str, credentials: dict) -> None:
        """Needs none."""

    @property
    def _invoke_error_mapping(self) -> dict[type[InvokeError], list[type[Exception]]]:
        return {InvokeBadRequestError: [ValueError]}
