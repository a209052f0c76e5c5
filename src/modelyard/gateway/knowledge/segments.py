"""Segment routes: the segments of a document, and the child chunks of hierarchical
segments."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from modelyard.base.cpu_work import run_in_thread
from modelyard.base.fields import limited_list, short_repr
from modelyard.base.json_types import is_object
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge import shapes
from modelyard.gateway.knowledge.calls import DatasetRequest, uploaded_file
from modelyard.gateway.service.calls import (
    ServiceError,
    list_of,
)
from modelyard.knowledge.entities import (
    MAX_KEYWORDS,
    Document,
    Segment,
)
from modelyard.knowledge.segment_imports import ImportJob
from modelyard.knowledge.segment_table import read_segment_table
from modelyard.models.types import JSON


class SegmentCalls:
    """Routes for the segments of a document and their child chunks."""

    async def _segment_view(
        self, request: DatasetRequest, segment: Segment, document: Document
    ) -> JSON:
        """Return a segment in the API's format, with its children if the document is
        hierarchical."""
        if not shapes.is_hierarchical(document):
            return shapes.segment_view(segment, [])
        segments = request.datasets.store.segments
        children, _ = await segments.list_children(request.tenant, segment.id)
        return shapes.segment_view(segment, children)

    async def segments(self, request: DatasetRequest) -> Reply:
        """List the segments of a document, filtered by keyword.

        Raises NotFoundError, ServiceError.
        """
        _, document = await request.document()
        page, limit = request.number("page", 1, 100_000), request.number("limit", 20)
        segments, total = await request.datasets.store.segments.list_page(
            request.tenant,
            document.id,
            keyword=request.http_request.query("keyword") or "",
            limit=limit,
            skip=(page - 1) * limit,
        )
        data = [
            await self._segment_view(request, segment, document) for segment in segments
        ]
        return json_reply(
            {
                "data": data,
                "doc_form": document.form.value,
                "total": total,
                "has_more": page * limit < total,
                "limit": limit,
                "page": page,
            }
        )

    async def add_segments(self, request: DatasetRequest) -> Reply:
        """Add segments to a document.

        Raises NotFoundError, ServiceError.
        """
        dataset, document = await request.document()
        segment_bodies = list_of(request.body, "segments")
        if not segment_bodies or not all(
            isinstance(segment_body, dict) for segment_body in segment_bodies
        ):
            raise ServiceError(400, "invalid_param", "Segments is required")
        new_segments = await request.datasets.segments.add(
            dataset, document, segment_bodies
        )
        data = [
            await self._segment_view(request, segment, document)
            for segment in new_segments
        ]
        return json_reply({"data": data, "doc_form": document.form.value})

    async def import_segments(self, request: DatasetRequest) -> Reply:
        """Start to add the rows of a CSV file as segments.

        Raises NotFoundError, ServiceError, InvokeBadRequestError.
        """
        dataset, document = await request.document()
        _, data = uploaded_file(request)
        fields = request.form.fields if request.form is not None else {}
        # A large file takes long to read, so it is read outside of the event loop.
        rows, errors = await run_in_thread(
            read_segment_table,
            data,
            document.form,
            encoding=fields.get("encoding", ""),
            has_header=_flag(fields, "has_header", default=True),
        )
        job = await request.parts.imports.start(dataset, document, rows, errors)
        return json_reply(_import_view(job))

    async def import_status(self, request: DatasetRequest) -> Reply:
        """Return the progress of an import.

        Raises NotFoundError.
        """
        _, document = await request.document()
        job = await request.parts.imports.find(document, request.names["job"])
        return json_reply(_import_view(job))

    async def segment(self, request: DatasetRequest) -> Reply:
        """Return one segment.

        Raises NotFoundError.
        """
        _, document, segment = await request.segment()
        shape = await self._segment_view(request, segment, document)
        return json_reply({"data": shape, "doc_form": document.form.value})

    async def change_segment(self, request: DatasetRequest) -> Reply:
        """Change a segment. Fields that are left out keep their value.

        Raises NotFoundError, ServiceError.
        """
        dataset, document, segment = await request.segment()
        segment_body = request.body.get("segment")
        if not is_object(segment_body):
            raise ServiceError(400, "invalid_param", "'segment' must be an object")
        # Collect only what the request sets, so that everything else stays.
        changed: dict[str, Any] = {}
        for name in ("content", "answer", "summary"):
            if segment_body.get(name) is not None:
                changed[name] = str(segment_body[name])
        if segment_body.get("keywords") is not None:
            changed["keywords"] = [
                str(keyword)
                for keyword in limited_list(
                    list_of(segment_body, "keywords"), MAX_KEYWORDS, "keywords"
                )
            ]
        if segment_body.get("enabled") is not None:
            changed["is_enabled"] = bool(segment_body["enabled"])
        if "content" in changed and not changed["content"].strip():
            raise ServiceError(400, "invalid_param", "Content is empty")
        # New content makes the old children wrong, so they are split again.
        splits = "content" in changed and changed["content"] != segment.content
        changed_segment = await request.datasets.segments.change(
            dataset,
            document,
            msgspec.structs.replace(segment, **changed),
            splits_anew=bool(segment_body.get("regenerate_child_chunks")) or splits,
        )
        return json_reply(
            {
                "data": await self._segment_view(request, changed_segment, document),
                "doc_form": document.form.value,
            }
        )

    async def delete_segment(self, request: DatasetRequest) -> Reply:
        """Delete a segment.

        Raises NotFoundError.
        """
        _, _, segment = await request.segment()
        await request.datasets.store.publisher.delete_segment(segment)
        return Reply(b"", status=204)

    async def children(self, request: DatasetRequest) -> Reply:
        """List the child chunks of a segment, filtered by keyword.

        Raises NotFoundError, ServiceError.
        """
        _, _, segment = await request.segment()
        page, limit = request.number("page", 1, 100_000), request.number("limit", 20)
        children, total = await request.datasets.store.segments.list_children(
            request.tenant,
            segment.id,
            keyword=request.http_request.query("keyword") or "",
            limit=limit,
            skip=(page - 1) * limit,
        )
        return json_reply(
            {
                # The negated division rounds up.
                "data": [shapes.child_view(child) for child in children],
                "total": total,
                "total_pages": -(-total // limit),
                "page": page,
                "limit": limit,
            }
        )

    def _content(self, request: DatasetRequest) -> str:
        """Return the content of a child chunk's request.

        Raises ServiceError.
        """
        content = request.body.get("content")
        if not isinstance(content, str) or not content.strip():
            raise ServiceError(400, "invalid_param", "'content' is required")
        return content

    async def _set_children(
        self, request: DatasetRequest, change: Callable[[list[str]], None]
    ) -> list[JSON]:
        """Apply `change` to the contents of all children, and return the new children.

        Raises NotFoundError, ServiceError if the document is not hierarchical.
        """
        dataset, document, segment = await request.segment()
        if not shapes.is_hierarchical(document):
            raise ServiceError(
                400, "invalid_param", "Only hierarchical documents have child chunks"
            )
        # Children are stored and indexed as a whole, so a change replaces the complete
        # list.
        old_children, _ = await request.datasets.store.segments.list_children(
            request.tenant, segment.id
        )
        contents = [child.content for child in old_children]
        change(contents)
        await request.datasets.segments.set_children(
            dataset, document, segment, contents
        )
        new_children, _ = await request.datasets.store.segments.list_children(
            request.tenant, segment.id
        )
        return [shapes.child_view(child) for child in new_children]

    async def add_child(self, request: DatasetRequest) -> Reply:
        """Add a child chunk at the end of a segment.

        Raises NotFoundError, ServiceError.
        """
        content = self._content(request)
        return json_reply(
            {
                "data": (
                    await self._set_children(
                        request, lambda contents: contents.append(content)
                    )
                )[-1]
            }
        )

    async def _child_index(self, request: DatasetRequest) -> int:
        """Return the index of the child chunk of the path.

        Raises NotFoundError.
        """
        _, _, segment = await request.segment()
        # Only checks that the child exists; the list below is searched for its index.
        await request.datasets.store.segments.get_child(
            request.tenant, segment.id, request.names["child"]
        )
        children, _ = await request.datasets.store.segments.list_children(
            request.tenant, segment.id
        )
        return next(
            index
            for index, child in enumerate(children)
            if child.id == request.names["child"]
        )

    async def change_child(self, request: DatasetRequest) -> Reply:
        """Replace the content of a child chunk.

        Raises NotFoundError, ServiceError.
        """
        content, index = self._content(request), await self._child_index(request)

        def change(contents: list[str]) -> None:
            """Replace the content at the index."""
            contents[index] = content

        return json_reply({"data": (await self._set_children(request, change))[index]})

    async def delete_child(self, request: DatasetRequest) -> Reply:
        """Delete a child chunk.

        Raises NotFoundError, ServiceError.
        """
        index = await self._child_index(request)

        def change(contents: list[str]) -> None:
            """Remove the content at the index."""
            del contents[index]

        await self._set_children(request, change)
        return Reply(b"", status=204)


def _import_view(job: ImportJob) -> JSON:
    """Return an import in the API's format; the names of the first two fields are those
    of Dify's jobs."""
    return {
        "job_id": job.id,
        "job_status": job.status,
        "total": job.total,
        "added": job.added,
        "failed": job.failed,
        "errors": [msgspec.to_builtins(error) for error in job.errors],
        "error": job.error or None,
    }


def _flag(fields: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Return a flag of a form. Raises ServiceError for anything but true and false."""
    text = fields.get(name, "").strip().lower()
    if text in ("", "true", "false"):
        return default if not text else text == "true"
    raise ServiceError(
        400, "invalid_param", f"{name!r} must be true or false, not {short_repr(text)}"
    )
