"""/admin/v1/sources/DATASET: what a dataset is kept in step with."""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.admin.requests import tenant_of
from modelyard.gateway.admin.source_shapes import (
    ConnectorView,
    SourceRemoved,
    SourceView,
    SyncReportView,
)
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.knowledge.connectors.dataset_sources import (
    DatasetSources,
    Removal,
    SourceChange,
    SourceDefinition,
)
from modelyard.knowledge.connectors.types import CONNECTORS
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset
from modelyard.knowledge.stored.dataset_sources import StoredSource

InputT = TypeVar("InputT")
_REMOVALS: dict[str, Removal] = {"keep": "keep", "delete": "delete"}


@dataclass(frozen=True, slots=True)
class SourceRoutes:
    """Routes for the sources of a dataset. All are for administrators: credentials,
    access rules and the names of documents are theirs."""

    datasets: Datasets
    sources: DatasetSources

    async def connectors(self, request: Request) -> Reply:
        """List the types of sources with the fields of their settings."""
        # Folders are missing: they can be added on the command line only.
        views = [
            ConnectorView(
                name=name,
                settings=msgspec.json.schema(connector.settings),
                credentials=msgspec.json.schema(connector.credentials),
            )
            for name, connector in CONNECTORS.items()
            if not connector.is_operators_alone
        ]
        return json_reply({"data": views})

    async def list_sources(self, request: Request) -> Reply:
        """List the sources of a dataset, by name.

        Raises NotFoundError.
        """
        stored = await self.sources.list_all(await self._dataset(request))
        return json_reply({"data": [self._view(source) for source in stored]})

    async def add(self, request: Request) -> Reply:
        """Add a source; one with a schedule is synchronised at once.

        Raises NotFoundError, InvokeBadRequestError, ConflictError.
        """
        dataset = await self._dataset(request)
        # Never as the operator: a tenant's source must not reach private addresses.
        definition = await _body(request, SourceDefinition)
        added = await self.sources.add(dataset, definition)
        return json_reply(self._view(added), status=201)

    async def show(self, request: Request) -> Reply:
        """Return a source.

        Raises NotFoundError.
        """
        dataset = await self._dataset(request)
        stored = await self.sources.get(dataset, request.names["source"])
        return json_reply(self._view(stored))

    async def change(self, request: Request) -> Reply:
        """Change a source. A synchronisation that is under way starts again.

        Raises NotFoundError, InvokeBadRequestError, ConflictError.
        """
        dataset = await self._dataset(request)
        change = await _body(request, SourceChange)
        changed = await self.sources.change(dataset, request.names["source"], change)
        return json_reply(self._view(changed))

    async def synchronise(self, request: Request) -> Reply:
        """Have a source synchronised as soon as a server is free.

        Raises NotFoundError.
        """
        dataset = await self._dataset(request)
        stored = await self.sources.request(dataset, request.names["source"])
        return json_reply(self._view(stored))

    async def remove(self, request: Request) -> Reply:
        """Remove a source; its documents are kept or deleted, as the query says.

        Raises NotFoundError, InvokeBadRequestError.
        """
        dataset = await self._dataset(request)
        # There is no default: both may be the wrong one.
        removal = _REMOVALS.get(request.query("documents") or "")
        if removal is None:
            raise InvokeBadRequestError(
                "'documents' must be keep or delete: say what becomes of the documents"
                " that came from the source",
                param="documents",
            )
        name = request.names["source"]
        count = await self.sources.remove(dataset, name, removal)
        return json_reply(
            SourceRemoved(
                id=name,
                deleted=True,
                documents=count,
                documents_deleted=removal == "delete",
            )
        )

    async def _dataset(self, request: Request) -> Dataset:
        """Return the dataset of the request's path. Raises NotFoundError."""
        return await self.datasets.get_by_id_or_name(
            tenant_of(request), request.names["id"]
        )

    def _view(self, stored: StoredSource) -> SourceView:
        """Return the view of a source. Raises SecretError."""
        # Stored as JSON, and validated again here.
        report: Any = stored.report
        return SourceView(
            id=stored.id,
            name=stored.name,
            connector=stored.connector,
            address=stored.address,
            settings=dict(stored.settings),
            credentials=self.sources.masked_credentials(stored),
            access=stored.access,
            schedule=stored.schedule,
            timezone=stored.timezone,
            enabled=stored.is_enabled,
            state=self._state(stored),
            next_at=stored.due_at,
            started_at=stored.started_at or None,
            finished_at=stored.finished_at or None,
            report=report and msgspec.convert(report, SyncReportView),
            error=stored.error,
        )

    def _state(self, stored: StoredSource) -> Literal["idle", "waiting", "running"]:
        """Return what a source does at the moment."""
        # A due source waits until a server is free, which takes seconds.
        if stored.is_running:
            return "running"
        return "waiting" if self.sources.is_due(stored) else "idle"


async def _body(request: Request, body_type: type[InputT]) -> InputT:
    """Return the body of a request as its type. Raises InvokeBadRequestError."""
    try:
        return msgspec.convert(await request.json(), body_type)
    except msgspec.ValidationError as error:
        raise InvokeBadRequestError(str(error)) from error
