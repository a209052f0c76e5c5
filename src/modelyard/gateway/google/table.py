"""Google's API: what is served of it, and by whom."""

from collections.abc import Iterator

from modelyard.base.clock import Clock
from modelyard.gateway.errors import GOOGLE
from modelyard.gateway.google.generate_content import ModelCalls, ModelList
from modelyard.gateway.table import DEVELOPER, Api, Row
from modelyard.runtime.model_manager import ModelManager

_VERSIONS = ("/v1beta", "/v1")
"""Clients say one or the other."""


def api(manager: ModelManager, clock: Clock) -> Api:
    """The API on these models."""
    calls, models = ModelCalls(manager, clock), ModelList(manager)
    rows = [
        Row(method="GET", path="/v1beta/models", auth=DEVELOPER, summary="List the models that the caller may call.",
            handler=models.all),
        Row(method="GET", path="/v1beta/models/{model:path}", auth=DEVELOPER, summary="Get one model.",
            handler=models.named),
    ]  # fmt: skip
    for version in _VERSIONS:
        rows += _of_model(version, calls)
    return Api(
        name="google", title="Google's API", about="Generated content and embeddings, for Google's clients.",
        prefixes=("/v1beta",), errors=GOOGLE, rows=tuple(rows),
    )  # fmt: skip


def _of_model(version: str, calls: ModelCalls) -> Iterator[Row]:
    """What may be asked of a model, below one version's address."""
    asked = (
        ("generateContent", "Answer a chat.", calls.generate),
        ("streamGenerateContent", "Answer a chat, piece by piece.", calls.stream),
        ("countTokens", "Count a request's tokens.", calls.count),
        ("embedContent", "Turn a text into a vector.", calls.embed),
        ("batchEmbedContents", "Turn texts into vectors.", calls.embed_many),
    )
    for verb, summary, handler in asked:
        path = f"{version}/models/{{model:path}}:{verb}"
        yield Row(method="POST", path=path, auth=DEVELOPER, summary=summary, handler=handler)
    yield Row(
        method="POST", path=f"{version}/models/{{model:path}}", auth=DEVELOPER, handler=calls.unknown_verb,
        summary="Say which verbs there are: this one needs one.", errors=(404,),
    )  # fmt: skip
