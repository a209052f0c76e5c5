"""Segments that somebody writes, or changes, by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import few, may
from modelyard.base.ids import new_uuid
from modelyard.knowledge import prepare
from modelyard.knowledge.entities import MOST_KEYWORDS, Child, Dataset, DocForm, Document, Segment, Technique
from modelyard.knowledge.rows import DocumentPart, Indexed
from modelyard.knowledge.stored.stored import Stored
from modelyard.knowledge.vectors import Vectors
from modelyard.models.tokens import estimate_tokens


class SegmentEditor:
    def __init__(self, stored: Stored, vectors: Vectors) -> None:
        self._stored = stored
        self._vectors = vectors

    async def add(self, dataset: Dataset, document: Document, given: Sequence[Mapping[str, Any]]) -> list[Segment]:
        made = [self._segment(document, one) for one in given]
        return await self.put(dataset, document, made, is_new=True)

    @staticmethod
    def _segment(document: Document, given: Mapping[str, Any]) -> Segment:
        content = str(given.get("content") or "")
        if not content.strip():
            raise InvokeBadRequestError("Content is empty", param="content")
        answer = str(given.get("answer") or "")
        if document.form is DocForm.QA and not answer.strip():
            raise InvokeBadRequestError("Answer is required", param="answer")
        keywords = may(dict(given), "keywords", list)
        return Segment(
            tenant=document.tenant, dataset=document.dataset, document=document.id, id="", content=content,
            answer=answer, keywords=[str(one) for one in few(keywords, MOST_KEYWORDS, "keywords")],
        )  # fmt: skip

    async def change(self, dataset: Dataset, document: Document, one: Segment, *, splits_anew: bool = True) -> Segment:
        children: dict[str, Sequence[str]] = {}
        if document.form is DocForm.HIERARCHICAL and not splits_anew:
            kept, _ = await self._stored.segments.children(one.tenant, one.id)
            children[one.id] = [each.content for each in kept]
        (changed,) = await self.put(dataset, document, [one], is_new=False, children=children)
        return changed

    async def set_children(self, dataset: Dataset, document: Document, one: Segment, contents: Sequence[str]) -> None:
        """A segment's children as they are listed here."""
        await self.put(dataset, document, [one], is_new=False, children={one.id: contents})

    async def put(
        self, dataset: Dataset, document: Document, segments: Sequence[Segment], *, is_new: bool,
        children: Mapping[str, Sequence[str]] | None = None,
    ) -> list[Segment]:  # fmt: skip
        """Segments that somebody wrote, or wrote anew: split into children where the document is, embedded, kept.

        `children` are a segment's by its id, where they are not to be split anew.
        """
        now = self._stored.now()
        indexed = Indexed()
        texts: dict[str, str] = {}
        for one in segments:
            words = len(one.content) + len(one.answer)
            tokens = estimate_tokens(one.content) + estimate_tokens(one.answer)
            kept = msgspec.structs.replace(
                one, words=words, tokens=tokens, digest=prepare.digest_of(one.content), updated_at=now,
                id=one.id or new_uuid(), created_at=one.created_at or now,
                keywords=one.keywords or self._keywords(dataset, one),
            )  # fmt: skip
            indexed.segments.append(kept)
            self._enter(dataset, document, kept, indexed, texts, (children or {}).get(kept.id))
        if texts:
            await self._vectors.fill(dataset, indexed, texts)
        return await self._stored.publisher.put_segments(document, indexed, is_new=is_new)

    @staticmethod
    def _keywords(dataset: Dataset, one: Segment) -> list[str]:
        return prepare.keywords(one.content) if dataset.settings.indexing_technique is Technique.ECONOMY else []

    def _enter(
        self, dataset: Dataset, document: Document, one: Segment, indexed: Indexed, texts: dict[str, str],
        given: Sequence[str] | None,
    ) -> None:  # fmt: skip
        now = self._stored.now()
        pieces: Sequence[str] = given if given is not None else ()
        if given is None and document.form is DocForm.HIERARCHICAL:
            pieces = [
                piece.text
                for parent in prepare.cut([DocumentPart(text=one.content)], document)[0]
                for piece in parent.children
            ]
        for place, text in enumerate(pieces):
            child = Child(
                tenant=one.tenant, dataset=one.dataset, document=one.document, segment=one.id, id=new_uuid(),
                position=place + 1, content=text, kind="automatic" if given is None else "customized", created_at=now,
                updated_at=now,
            )  # fmt: skip
            indexed.children.append(child)
            if one.is_enabled:
                self._one(dataset, one.id, child.id, prepare.searched(one.heading, text), "", indexed, texts)
        if one.is_enabled and not pieces:
            self._one(dataset, one.id, "", prepare.searched(one.heading, one.content), one.answer, indexed, texts)
        if one.is_enabled and one.summary:
            self._one(dataset, one.id, "", one.summary, "", indexed, texts)

    @staticmethod
    def _one(
        dataset: Dataset, segment: str, child: str, text: str, more: str, indexed: Indexed, texts: dict[str, str]
    ) -> None:
        made = prepare.entry(segment, child, text, f"{text}\n{more}" if more else text)
        indexed.entries.append(made)
        if dataset.settings.uses_vectors:
            texts[made.digest] = text
