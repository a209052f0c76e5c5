"""`/v1/datasets/…/pipeline/…`: what a RAG pipeline takes, what its sources offer, and its runs."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.gateway.answers import plain_events
from modelyard.gateway.http import Reply, StreamReply, json_reply, sse_reply
from modelyard.gateway.knowledge.calls import Asked, file_of
from modelyard.gateway.service.calls import ServiceError, error_document, list_of, mapping_of
from modelyard.gateway.service.events import ServiceEvents
from modelyard.gateway.service.parts import fed
from modelyard.knowledge.entities import Dataset
from modelyard.models.types import JSON
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.services import upload_id

_MOST_FILE = 15 << 20
_USER = "dataset-api"
"""Whose files and runs these are: keys of datasets name no user."""


class PipelineCalls:
    """Documents that come by a pipeline."""

    async def upload(self, asked: Asked) -> Reply:
        name, data = file_of(asked)
        if len(data) > _MOST_FILE:
            raise ServiceError(413, "file_too_large", f"File size exceeded: {_MOST_FILE >> 20} MB is the most.")
        if "." not in name.strip("."):
            raise ServiceError(415, "unsupported_file_type", "File type not allowed: its name has no ending.")
        stored = await asyncio.to_thread(asked.parts.files.add, asked.tenant, name, data, owner=_USER)
        made = datetime.fromtimestamp(stored.created_at, UTC).isoformat()
        return json_reply({
            "id": upload_id(stored.id), "name": stored.name, "size": stored.size,
            "extension": stored.extension.lstrip("."), "mime_type": stored.mime_type, "created_by": _USER,
            "created_at": made,
        }, status=201)  # fmt: skip

    async def sources(self, asked: Asked) -> Reply:
        told = (asked.request.query("is_published") or "true").lower()
        if told not in ("true", "false"):
            raise ServiceError(400, "invalid_param", f"is_published must be true or false, not {told[:20]!r}")
        is_draft = told == "false"
        pipelines = asked.parts.pipelines
        _, _, app = await pipelines.of(asked.tenant, asked.names["dataset"], is_draft=is_draft)
        return json_reply(pipelines.sources(asked.tenant, app))

    async def browse(self, asked: Asked) -> StreamReply:
        body = asked.body
        pipelines = asked.parts.pipelines
        _, _, app = await pipelines.of(asked.tenant, asked.names["dataset"], is_draft=_is_draft(body))
        events = pipelines.browse(
            asked.tenant, app, asked.names["node"], _text(body, "datasource_type"), mapping_of(body, "inputs"),
            str(body.get("credential_id") or ""), _USER,
        )  # fmt: skip

        async def pieces() -> AsyncGenerator[bytes, None]:
            async with aclosing(events):
                async for one in events:
                    yield plain_events(one)

        return sse_reply(pieces(), _last_words)

    async def run(self, asked: Asked) -> Reply | StreamReply:
        body = asked.body
        pipelines = asked.parts.pipelines
        mode = body.get("response_mode") or "blocking"
        if mode not in ("streaming", "blocking"):
            raise ServiceError(400, "invalid_param", "response_mode must be streaming or blocking")
        dataset, found, app = await pipelines.of(asked.tenant, asked.names["dataset"], is_draft=_is_draft(body))
        infos = list_of(body, "datasource_info_list")
        if not all(isinstance(one, dict) for one in infos):
            raise ServiceError(400, "invalid_param", "datasource_info_list must be a list of objects")
        started = await pipelines.run(
            found, app, dataset, root=_text(body, "start_node_id"), kind=_text(body, "datasource_type"),
            inputs=mapping_of(body, "inputs"), infos=infos, user=_USER, is_draft=_is_draft(body),
        )  # fmt: skip
        if mode == "streaming":
            return sse_reply(self._told(asked, started), _last_words)
        return json_reply(await asked.request.while_here(self._whole(asked, dataset, started)))

    @staticmethod
    async def _told(asked: Asked, started: list[RunRecord]) -> AsyncGenerator[bytes, None]:
        """One run's events after another's; the runs themselves go on side by side."""
        runs = asked.parts.pipelines.runs
        for run in started:
            told = ServiceEvents(run)
            async with aclosing(fed(runs, run, told)) as events:
                async for one in events:
                    yield plain_events(one)

    @staticmethod
    async def _whole(asked: Asked, dataset: Dataset, started: list[RunRecord]) -> JSON:
        """The documents that the runs made, once all have ended. Raises ServiceError where none made any."""
        runs, stored = asked.parts.pipelines.runs, asked.datasets.stored
        ended = [await runs.ended(run.tenant, run.id) for run in started]
        if all(run.status is Status.FAILED for run in ended):
            raise ServiceError(500, "pipeline_run_error", ended[0].error)
        documents: list[JSON] = []
        for run in ended:
            one = await stored.documents.get(run.tenant, dataset.id, str(run.system["document_id"]))
            documents.append({
                "id": one.id, "position": one.position, "name": one.name, "indexing_status": one.status.value,
                "data_source_type": run.system["datasource_type"], "error": one.error or None,
                "data_source_info": {key: value for key, value in one.source.items() if key != "kind"},
                "enabled": one.is_enabled,
            })  # fmt: skip
        return {
            "batch": ended[0].system["batch"],
            "dataset": {
                "id": dataset.id, "name": dataset.name, "description": dataset.description,
                "chunk_structure": dataset.settings.doc_form.value,
            },
            "documents": documents,
        }  # fmt: skip


def _text(body: JSON, name: str) -> str:
    value: Any = body.get(name)
    if not isinstance(value, str) or not value:
        raise ServiceError(400, "invalid_param", f"{name} is required")
    return value


def _is_draft(body: JSON) -> bool:
    return body.get("is_published") is False


def _last_words(error: ModelyardError) -> bytes:
    return plain_events({"event": "error", **error_document(error)})
