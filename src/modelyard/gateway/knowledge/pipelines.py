"""`/v1/datasets/…/pipeline/…`: file upload, datasources and runs of a knowledge
pipeline."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.gateway.chat_response import plain_events
from modelyard.gateway.http import Reply, StreamReply, json_reply, sse_reply
from modelyard.gateway.knowledge.calls import DatasetRequest, uploaded_file
from modelyard.gateway.service.calls import (
    ServiceError,
    error_document,
    list_of,
    mapping_of,
)
from modelyard.gateway.service.dependencies import translate_events
from modelyard.gateway.service.events import ServiceEvents
from modelyard.knowledge.entities import Dataset
from modelyard.models.types import JSON
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.services import upload_id

# As large as Dify's default for one uploaded file.
_MAX_FILE_BYTES = 15 << 20
_USER = "dataset-api"
"""Owner of the files and runs: dataset keys have no user."""


class PipelineCalls:
    """Routes for documents that a knowledge pipeline adds."""

    async def upload(self, request: DatasetRequest) -> Reply:
        """Store a file for a pipeline run.

        Raises ServiceError.
        """
        name, data = uploaded_file(request)
        if len(data) > _MAX_FILE_BYTES:
            raise ServiceError(
                413,
                "file_too_large",
                f"File size exceeded: {_MAX_FILE_BYTES >> 20} MB is the limit.",
            )
        # The type of a file is derived from its extension.
        if "." not in name.strip("."):
            raise ServiceError(
                415,
                "unsupported_file_type",
                "File type not allowed: its name has no extension.",
            )
        stored_file = await request.parts.files.add(
            request.tenant, name, data, owner=_USER
        )
        created_at = datetime.fromtimestamp(stored_file.created_at, UTC).isoformat()
        return json_reply(
            {
                "id": upload_id(stored_file.id),
                "name": stored_file.name,
                "size": stored_file.size,
                "extension": stored_file.extension.lstrip("."),
                "mime_type": stored_file.mime_type,
                "created_by": _USER,
                "created_at": created_at,
            },
            status=201,
        )

    async def sources(self, request: DatasetRequest) -> Reply:
        """List the datasource nodes of the pipeline; of the draft with
        `is_published=false`.

        Raises NotFoundError, ServiceError.
        """
        published_option = (
            request.http_request.query("is_published") or "true"
        ).lower()
        if published_option not in ("true", "false"):
            raise ServiceError(
                400,
                "invalid_param",
                f"is_published must be true or false, not {published_option[:20]!r}",
            )
        is_draft = published_option == "false"
        pipelines = request.parts.pipelines
        _, _, app = await pipelines.find_for_dataset(
            request.tenant, (await request.dataset()).id, is_draft=is_draft
        )
        return json_reply(pipelines.sources(request.tenant, app))

    async def browse(self, request: DatasetRequest) -> StreamReply:
        """Run a datasource node to list its documents, and stream its events.

        Raises NotFoundError, ServiceError.
        """
        body = request.body
        pipelines = request.parts.pipelines
        _, _, app = await pipelines.find_for_dataset(
            request.tenant, (await request.dataset()).id, is_draft=_is_draft(body)
        )
        events = pipelines.browse(
            request.tenant,
            app,
            request.names["node"],
            _text(body, "datasource_type"),
            mapping_of(body, "inputs"),
            str(body.get("credential_id") or ""),
            _USER,
        )

        async def event_chunks() -> AsyncGenerator[bytes, None]:
            """Yield the events as SSE."""
            async with aclosing(events):
                async for event in events:
                    yield plain_events(event)

        return sse_reply(event_chunks(), _error_event)

    async def run(self, request: DatasetRequest) -> Reply | StreamReply:
        """Run the pipeline, once for each document in `datasource_info_list`.

        Returns a stream of events, or the documents after all runs have ended. Raises
        NotFoundError, ServiceError.
        """
        body = request.body
        pipelines = request.parts.pipelines
        mode = body.get("response_mode") or "blocking"
        if mode not in ("streaming", "blocking"):
            raise ServiceError(
                400, "invalid_param", "response_mode must be streaming or blocking"
            )
        dataset, app_record, app = await pipelines.find_for_dataset(
            request.tenant, (await request.dataset()).id, is_draft=_is_draft(body)
        )
        infos = list_of(body, "datasource_info_list")
        if not all(isinstance(info, dict) for info in infos):
            raise ServiceError(
                400, "invalid_param", "datasource_info_list must be a list of objects"
            )
        started = await pipelines.run(
            app_record,
            app,
            dataset,
            root=_text(body, "start_node_id"),
            source_type=_text(body, "datasource_type"),
            inputs=mapping_of(body, "inputs"),
            infos=infos,
            user=_USER,
            is_draft=_is_draft(body),
        )
        # The runs are independent of this request; streaming only follows them.
        if mode == "streaming":
            return sse_reply(self._run_events(request, started), _error_event)
        return json_reply(
            await request.http_request.cancel_on_disconnect(
                self._created_documents(request, dataset, started)
            )
        )

    @staticmethod
    async def _run_events(
        request: DatasetRequest, started: list[RunRecord]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the events of one run after another. The runs themselves are
        concurrent."""
        runs = request.parts.pipelines.runs
        for run in started:
            translator = ServiceEvents(run)
            async with aclosing(translate_events(runs, run, translator)) as events:
                async for event in events:
                    yield plain_events(event)

    @staticmethod
    async def _created_documents(
        request: DatasetRequest, dataset: Dataset, started: list[RunRecord]
    ) -> JSON:
        """Return the documents that the runs created, after all have ended.

        Raises ServiceError if all failed.
        """
        runs, store = request.parts.pipelines.runs, request.datasets.store
        ended = [await runs.wait_until_ended(run.tenant, run.id) for run in started]
        # A partial failure is reported by the status of each document.
        if all(run.status is Status.FAILED for run in ended):
            raise ServiceError(500, "pipeline_run_error", ended[0].error)
        documents: list[JSON] = []
        for run in ended:
            # Each run created its document before it started.
            document = await store.documents.get(
                run.tenant, dataset.id, str(run.system["document_id"])
            )
            documents.append(
                {
                    "id": document.id,
                    "position": document.position,
                    "name": document.name,
                    "indexing_status": document.status.value,
                    "data_source_type": run.system["datasource_type"],
                    "error": document.error or None,
                    # `kind` is an internal marker of the source.
                    "data_source_info": {
                        key: value
                        for key, value in document.source.items()
                        if key != "kind"
                    },
                    "enabled": document.is_enabled,
                }
            )
        return {
            "batch": ended[0].system["batch"],
            "dataset": {
                "id": dataset.id,
                "name": dataset.name,
                "description": dataset.description,
                "chunk_structure": dataset.settings.doc_form.value,
            },
            "documents": documents,
        }


def _text(body: JSON, name: str) -> str:
    """Return a required text of the body.

    Raises ServiceError.
    """
    value: Any = body.get(name)
    if not isinstance(value, str) or not value:
        raise ServiceError(400, "invalid_param", f"{name!r} is required")
    return value


def _is_draft(body: JSON) -> bool:
    """Return whether the request addresses the draft; the published version is the
    default."""
    return body.get("is_published") is False


def _error_event(error: ModelyardError) -> bytes:
    """Return the last event of a stream that failed."""
    return plain_events({"event": "error", **error_document(error)})
