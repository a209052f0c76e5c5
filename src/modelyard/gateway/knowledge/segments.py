"""Segments of a document, and the smaller pieces within them."""

from collections.abc import Callable
from typing import Any

import msgspec

from modelyard.base.fields import few
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge import shapes
from modelyard.gateway.knowledge.calls import Asked
from modelyard.gateway.service.calls import (
    ServiceError,
    list_of,
)
from modelyard.knowledge.entities import (
    MOST_KEYWORDS,
    Document,
    Segment,
)
from modelyard.models.types import JSON


class SegmentCalls:
    """A document's segments and their children."""

    async def _segment_shape(self, asked: Asked, one: Segment, document: Document) -> JSON:
        children = []
        if shapes.is_hierarchical(document):
            children, _ = await asked.datasets.stored.segments.children(asked.tenant, one.id)
        return shapes.segment_shape(one, children)

    async def segments(self, asked: Asked) -> Reply:
        _, document = await asked.document()
        page, limit = asked.number("page", 1, 100_000), asked.number("limit", 20)
        found, total = await asked.datasets.stored.segments.listed(
            asked.tenant, document.id, keyword=asked.request.query("keyword") or "", most=limit, skip=(page - 1) * limit
        )
        data = [await self._segment_shape(asked, one, document) for one in found]
        return json_reply({
            "data": data, "doc_form": document.form.value, "total": total, "has_more": page * limit < total,
            "limit": limit, "page": page,
        })  # fmt: skip

    async def add_segments(self, asked: Asked) -> Reply:
        dataset, document = await asked.document()
        given = list_of(asked.body, "segments")
        if not given or not all(isinstance(one, dict) for one in given):
            raise ServiceError(400, "invalid_param", "Segments is required")
        made = await asked.datasets.segments.add(dataset, document, given)
        data = [await self._segment_shape(asked, one, document) for one in made]
        return json_reply({"data": data, "doc_form": document.form.value})

    async def segment(self, asked: Asked) -> Reply:
        _, document, segment = await asked.segment()
        shape = await self._segment_shape(asked, segment, document)
        return json_reply({"data": shape, "doc_form": document.form.value})

    async def change_segment(self, asked: Asked) -> Reply:
        dataset, document, segment = await asked.segment()
        given = asked.body.get("segment")
        if not isinstance(given, dict):
            raise ServiceError(400, "invalid_param", "segment must be an object")
        changed: dict[str, Any] = {}
        for name in ("content", "answer", "summary"):
            if given.get(name) is not None:
                changed[name] = str(given[name])
        if given.get("keywords") is not None:
            changed["keywords"] = [str(one) for one in few(list_of(given, "keywords"), MOST_KEYWORDS, "keywords")]
        if given.get("enabled") is not None:
            changed["is_enabled"] = bool(given["enabled"])
        if "content" in changed and not changed["content"].strip():
            raise ServiceError(400, "invalid_param", "Content is empty")
        splits = "content" in changed and changed["content"] != segment.content
        one = await asked.datasets.segments.change(
            dataset, document, msgspec.structs.replace(segment, **changed),
            splits_anew=bool(given.get("regenerate_child_chunks")) or splits,
        )  # fmt: skip
        return json_reply({"data": await self._segment_shape(asked, one, document), "doc_form": document.form.value})

    async def delete_segment(self, asked: Asked) -> Reply:
        _, _, segment = await asked.segment()
        await asked.datasets.stored.publisher.delete_segment(segment)
        return Reply(b"", status=204)

    async def children(self, asked: Asked) -> Reply:
        _, _, segment = await asked.segment()
        page, limit = asked.number("page", 1, 100_000), asked.number("limit", 20)
        found, total = await asked.datasets.stored.segments.children(
            asked.tenant, segment.id, keyword=asked.request.query("keyword") or "", most=limit, skip=(page - 1) * limit
        )
        return json_reply({
            "data": [shapes.child_shape(one) for one in found], "total": total, "total_pages": -(-total // limit),
            "page": page, "limit": limit,
        })  # fmt: skip

    def _content(self, asked: Asked) -> str:
        content = asked.body.get("content")
        if not isinstance(content, str) or not content.strip():
            raise ServiceError(400, "invalid_param", "content is required")
        return content

    async def _set_children(self, asked: Asked, change: Callable[[list[str]], None]) -> list[JSON]:
        dataset, document, segment = await asked.segment()
        if not shapes.is_hierarchical(document):
            raise ServiceError(400, "invalid_param", "only hierarchical documents have child chunks")
        kept, _ = await asked.datasets.stored.segments.children(asked.tenant, segment.id)
        contents = [one.content for one in kept]
        change(contents)
        await asked.datasets.segments.set_children(dataset, document, segment, contents)
        found, _ = await asked.datasets.stored.segments.children(asked.tenant, segment.id)
        return [shapes.child_shape(one) for one in found]

    async def add_child(self, asked: Asked) -> Reply:
        content = self._content(asked)
        return json_reply({"data": (await self._set_children(asked, lambda kept: kept.append(content)))[-1]})

    async def _place(self, asked: Asked) -> int:
        _, _, segment = await asked.segment()
        await asked.datasets.stored.segments.child(asked.tenant, segment.id, asked.names["child"])
        kept, _ = await asked.datasets.stored.segments.children(asked.tenant, segment.id)
        return next(at for at, one in enumerate(kept) if one.id == asked.names["child"])

    async def change_child(self, asked: Asked) -> Reply:
        content, place = self._content(asked), await self._place(asked)

        def change(kept: list[str]) -> None:
            kept[place] = content

        return json_reply({"data": (await self._set_children(asked, change))[place]})

    async def delete_child(self, asked: Asked) -> Reply:
        place = await self._place(asked)

        def change(kept: list[str]) -> None:
            del kept[place]

        await self._set_children(asked, change)
        return Reply(b"", status=204)
