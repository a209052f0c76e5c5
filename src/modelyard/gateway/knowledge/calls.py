"""Shared code of the knowledge API's routes: their dependencies, the request object,
and readers for request bodies."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from modelyard.base.fields import whole_number
from modelyard.base.json_types import is_array, is_object
from modelyard.base.number_bounds import check_numbers
from modelyard.gateway.auth import Authenticator
from modelyard.gateway.forms import Form
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.gateway.service.calls import ServiceError, read_object
from modelyard.knowledge.answer import Answerer
from modelyard.knowledge.connectors.dataset_sources import DatasetSources
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset, Document, Segment
from modelyard.knowledge.evaluations import Evaluations
from modelyard.knowledge.external import ExternalKnowledge
from modelyard.knowledge.models import KnowledgeModels
from modelyard.knowledge.segment_imports import SegmentImports
from modelyard.knowledge.stored.documents import document_not_found
from modelyard.models.types import JSON
from modelyard.storage.files import FileStore
from modelyard.tenancy.caller import Caller
from modelyard.workflow.pipelines import Pipelines

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetParts:
    """Dependencies of the knowledge API's routes."""

    datasets: Datasets
    external: ExternalKnowledge
    models: KnowledgeModels
    answerer: Answerer
    listed: Callable[[str, str], Sequence[Mapping[str, Any]]]
    """(tenant, model type) → providers with their models, in the format of the API."""
    caller_of_key: Callable[[str], Caller | None]
    """API key of a dataset → its caller, or None."""
    gatekeeper: Authenticator
    files: FileStore
    origin: Callable[[], str]
    pipelines: Pipelines
    evaluations: Evaluations
    sources: DatasetSources
    imports: SegmentImports


@dataclass(slots=True)
class DatasetRequest:
    """A request to the knowledge API, with its tenant and its parsed body."""

    http_request: Request
    tenant: str
    parts: DatasetParts
    names: dict[str, str]
    body: JSON
    form: Form | None = None

    def number(self, name: str, default: int, maximum: int = 100) -> int:
        """Return a positive number from the query, at most `maximum`.

        Raises ServiceError.
        """
        text = self.http_request.query(name)
        if text is None or text == "":
            return default
        value = whole_number(text)
        if not value:
            raise ServiceError(
                400,
                "invalid_param",
                f"{name!r} must be a number of at least 1, not {text[:20]!r}",
            )
        # A value over the maximum is reduced, not refused.
        return min(maximum, value)

    @property
    def datasets(self) -> Datasets:
        """The dataset service."""
        return self.parts.datasets

    async def searched_dataset(self) -> Dataset:
        """Return the dataset of the path, for searches: access lists restrict what they
        find. All other routes use `dataset`.

        Raises NotFoundError.
        """
        return await self.datasets.store.datasets.get(
            self.tenant, self.names["dataset"]
        )

    async def dataset(self) -> Dataset:
        """Return the dataset of the path, all of whose documents the caller may manage.

        Raises NotFoundError, ServiceError.
        """
        dataset = await self.searched_dataset()
        if not await self.manages(dataset):
            raise ServiceError(
                403,
                "forbidden",
                f"Dataset {dataset.name!r} has access lists: only administrators and"
                " callers with a dataset key manage its documents",
            )
        return dataset

    async def manages(self, dataset: Dataset) -> bool:
        """Return whether the caller may see and change all documents of a dataset."""
        return (
            self.http_request.caller.sees_all_documents
            or not await self.datasets.access.is_protected(dataset)
        )

    async def document(self) -> tuple[Dataset, Document]:
        """Return the document of the path with its dataset. Callers who do not manage
        the dataset may read what their searches may find.

        Raises NotFoundError, ServiceError.
        """
        if self.http_request.method != "GET":
            dataset = await self.dataset()
        else:
            dataset = await self.searched_dataset()
        document = await self.datasets.store.documents.get(
            self.tenant, dataset.id, self.names["document"]
        )
        retriever, reader = self.datasets.retriever, self.http_request.caller.reader
        if not retriever.may_read(dataset, document, reader) and not (
            await self.manages(dataset)
        ):
            # In the words of a document that does not exist.
            raise document_not_found(document.id)
        return dataset, document

    async def segment(self) -> tuple[Dataset, Document, Segment]:
        """Return the segment of the path with its document and dataset.

        Raises NotFoundError.
        """
        dataset, document = await self.document()
        return (
            dataset,
            document,
            # The lookup by document makes sure that the segment belongs to it.
            await self.datasets.store.segments.get(
                self.tenant, document.id, self.names["segment"]
            ),
        )

    def payload(self) -> JSON:
        """Return the JSON body, or the field `data` of a form."""
        if self.form is None:
            return self.body
        text = self.form.fields.get("data") or "{}"
        return {
            **read_object(text.encode()),
            # Clients may send the name as a form field of its own.
            **(
                {"name": self.form.fields["name"]} if "name" in self.form.fields else {}
            ),
        }


Handler = Callable[[DatasetRequest], Awaitable[Reply | StreamReply]]


def convert_value(value: Any, target_type: type[T], name: str) -> T:
    """Convert a value to a type.

    Raises ServiceError with the path and the reason.
    """
    try:
        # Not strict: numbers may arrive as strings.
        result = msgspec.convert(_without_none(value), target_type, strict=False)
        check_numbers(result, is_signed=True)
        return result
    except msgspec.ValidationError as error:
        raise ServiceError(400, "invalid_param", f"{name}: {error}") from error


def _without_none(value: Any) -> Any:
    """Drop null values, which some clients send for options that are not set."""
    if is_object(value):
        remaining = {
            key: _without_none(member)
            for key, member in value.items()
            if member is not None
        }
        # These clients send an empty reranking mode too.
        return {
            key: member
            for key, member in remaining.items()
            if member or key != "reranking_mode"
        }
    return [_without_none(element) for element in value] if is_array(value) else value


def page_reply(data: Sequence[Any], total: int, page: int, limit: int) -> Reply:
    """Return one page of a list in the API's format."""
    return json_reply(
        {
            "data": data,
            "has_more": page * limit < total,
            "limit": limit,
            "total": total,
            "page": page,
        }
    )


def uploaded_file(request: DatasetRequest) -> tuple[str, bytes]:
    """Return name and content of the uploaded file.

    Raises ServiceError.
    """
    form = request.form
    if form is None or form.file is None:
        raise ServiceError(400, "no_file_uploaded", "Please upload your file.")
    # One of several would be stored, and the others lost.
    if form.file_count > 1:
        raise ServiceError(
            400, "too_many_files", f"Only one file is allowed, not {form.file_count}."
        )
    if not form.filename:
        raise ServiceError(
            400, "filename_not_exists_error", "The specified filename does not exist."
        )
    return form.filename, form.file
