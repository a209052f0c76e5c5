"""What routes of the knowledge API share: what they work with, one request, and readers of what callers send."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from modelyard.base.fields import whole_number
from modelyard.base.numbers import check_numbers
from modelyard.gateway.auth import Gatekeeper
from modelyard.gateway.forms import Form
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.gateway.service.calls import ServiceError, read_object
from modelyard.knowledge.answer import Answerer
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset, Document, Segment
from modelyard.knowledge.evaluations import Evaluations
from modelyard.knowledge.external import ExternalKnowledge
from modelyard.knowledge.models import RuntimeModels
from modelyard.models.types import JSON
from modelyard.storage.files import FileStore
from modelyard.workflow.pipelines import Pipelines

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetParts:
    datasets: Datasets
    external: ExternalKnowledge
    models: RuntimeModels
    answerer: Answerer
    listed: Callable[[str, str], Sequence[Mapping[str, Any]]]
    """(tenant, model type) → providers with their models, as the API lists them."""
    tenant_of_key: Callable[[str], str | None]
    """Whose dataset key this is."""
    gatekeeper: Gatekeeper
    files: FileStore
    origin: Callable[[], str]
    pipelines: Pipelines
    evaluations: Evaluations


@dataclass(slots=True)
class Asked:
    """One request."""

    request: Request
    tenant: str
    parts: DatasetParts
    names: dict[str, str]
    body: JSON
    form: Form | None = None

    def number(self, name: str, default: int, most: int = 100) -> int:
        text = self.request.query(name)
        if text is None or text == "":
            return default
        value = whole_number(text)
        if not value:
            raise ServiceError(400, "invalid_param", f"{name} must be a number from 1, not {text[:20]!r}")
        return min(most, value)

    @property
    def datasets(self) -> Datasets:
        return self.parts.datasets

    async def dataset(self) -> Dataset:
        return await self.datasets.stored.datasets.get(self.tenant, self.names["dataset"])

    async def document(self) -> tuple[Dataset, Document]:
        dataset = await self.dataset()
        return dataset, await self.datasets.stored.documents.get(self.tenant, dataset.id, self.names["document"])

    async def segment(self) -> tuple[Dataset, Document, Segment]:
        dataset, document = await self.document()
        return (
            dataset,
            document,
            await self.datasets.stored.segments.get(self.tenant, document.id, self.names["segment"]),
        )

    def given(self) -> JSON:
        """What a form's `data` says, or the body."""
        if self.form is None:
            return self.body
        text = self.form.fields.get("data") or "{}"
        return {
            **read_object(text.encode()),
            **({"name": self.form.fields["name"]} if "name" in self.form.fields else {}),
        }


Handler = Callable[[Asked], Awaitable[Reply | StreamReply]]


def converted(value: Any, kind: type[T], name: str) -> T:
    """Raises ServiceError with the place and the reason."""
    try:
        found = msgspec.convert(_without_none(value), kind, strict=False)
        check_numbers(found, is_signed=True)
        return found
    except msgspec.ValidationError as error:
        raise ServiceError(400, "invalid_param", f"{name}: {error}") from error


def _without_none(value: Any) -> Any:
    """What some clients send for what they do not say."""
    if isinstance(value, dict):
        kept = {key: _without_none(one) for key, one in value.items() if one is not None}
        return {key: one for key, one in kept.items() if one or key != "reranking_mode"}
    return [_without_none(one) for one in value] if isinstance(value, list) else value


def page_of(data: Sequence[Any], total: int, page: int, limit: int) -> Reply:
    return json_reply({"data": data, "has_more": page * limit < total, "limit": limit, "total": total, "page": page})


def file_of(asked: Asked) -> tuple[str, bytes]:
    """(name, content) of what was uploaded. Raises ServiceError."""
    form = asked.form
    if form is None or form.file is None:
        raise ServiceError(400, "no_file_uploaded", "Please upload your file.")
    if not form.filename:
        raise ServiceError(400, "filename_not_exists_error", "The specified filename does not exist.")
    return form.filename, form.file
