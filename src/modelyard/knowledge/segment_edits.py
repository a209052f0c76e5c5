"""Creating and changing segments by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.fields import limited_list, optional_field
from modelyard.base.ids import new_uuid
from modelyard.knowledge import prepare
from modelyard.knowledge.entities import (
    MAX_KEYWORDS,
    Child,
    Dataset,
    DocForm,
    Document,
    Segment,
    Technique,
)
from modelyard.knowledge.rows import DocumentPart, IndexContent
from modelyard.knowledge.stored.repositories import KnowledgeStore
from modelyard.knowledge.vectors import DatasetEmbedder
from modelyard.models.tokens import estimate_tokens


class SegmentEditor:
    """Writes segments that a user creates or edits, and keeps the index consistent with
    them."""

    def __init__(self, store: KnowledgeStore, vectors: DatasetEmbedder) -> None:
        self._store = store
        self._vectors = vectors

    async def add(
        self,
        dataset: Dataset,
        document: Document,
        field_values: Sequence[Mapping[str, Any]],
    ) -> list[Segment]:
        """Add segments to a document and index them.

        `field_values` are the request's objects with `content`, `answer` and
        `keywords`. Returns the stored segments. Raises InvokeBadRequestError if one of
        them is invalid, before any is stored.
        """
        new_segments = [self._segment(document, values) for values in field_values]
        return await self.index_segments(dataset, document, new_segments, is_new=True)

    @staticmethod
    def _segment(document: Document, values: Mapping[str, Any]) -> Segment:
        """Return a new segment, not yet stored, from the values of a request.

        The values are `content`, `answer` and `keywords`. Raises InvokeBadRequestError,
        which names the field, if the content is empty, a question and answer document
        gets no answer, or there are too many keywords.
        """
        content = str(values.get("content") or "")
        if not content.strip():
            raise InvokeBadRequestError("Content is empty", param="content")
        answer = str(values.get("answer") or "")
        if document.form is DocForm.QA and not answer.strip():
            raise InvokeBadRequestError("Answer is required", param="answer")
        keywords = optional_field(dict(values), "keywords", list)
        return Segment(
            tenant=document.tenant,
            dataset=document.dataset,
            document=document.id,
            id="",
            content=content,
            answer=answer,
            keywords=[
                str(keyword)
                for keyword in limited_list(keywords, MAX_KEYWORDS, "keywords")
            ],
        )

    async def change(
        self,
        dataset: Dataset,
        document: Document,
        replacement: Segment,
        *,
        splits_anew: bool = True,
    ) -> Segment:
        """Update a segment. With `splits_anew=False`, the children of a parent segment
        stay as they are."""
        children: dict[str, Sequence[str]] = {}
        # Pass the current children explicitly, so that they are not regenerated from
        # the new text.
        if document.form is DocForm.HIERARCHICAL and not splits_anew:
            existing_children, _ = await self._store.segments.list_children(
                replacement.tenant, replacement.id
            )
            children[replacement.id] = [child.content for child in existing_children]
        (changed,) = await self.index_segments(
            dataset, document, [replacement], is_new=False, children=children
        )
        return changed

    async def set_children(
        self,
        dataset: Dataset,
        document: Document,
        segment: Segment,
        contents: Sequence[str],
    ) -> None:
        """Replace a segment's children by the listed texts."""
        await self.index_segments(
            dataset, document, [segment], is_new=False, children={segment.id: contents}
        )

    async def index_segments(
        self,
        dataset: Dataset,
        document: Document,
        segments: Sequence[Segment],
        *,
        is_new: bool,
        children: Mapping[str, Sequence[str]] | None = None,
    ) -> list[Segment]:
        """Store new or changed segments: split them into children if the document has
        them, embed them, and update the index.

        `children` maps a segment's id to its child texts, if these are not to be
        generated.
        """
        current_time = self._store.clock()
        builder = _ContentBuilder(dataset, document)
        for segment in segments:
            char_count = len(segment.content) + len(segment.answer)
            tokens = estimate_tokens(segment.content) + estimate_tokens(segment.answer)
            # A new segment has neither an id nor a creation time yet.
            updated_segment = msgspec.structs.replace(
                segment,
                words=char_count,
                tokens=tokens,
                digest=prepare.digest_of(segment.content),
                updated_at=current_time,
                id=segment.id or new_uuid(),
                created_at=segment.created_at or current_time,
                keywords=segment.keywords or self._keywords(dataset, segment),
            )
            builder.add(
                updated_segment,
                (children or {}).get(updated_segment.id),
                self._store.clock(),
            )
        # All texts are embedded in one batch.
        if builder.texts:
            await self._vectors.fill_vectors(dataset, builder.indexed, builder.texts)
        return await self._store.publisher.write_segments(
            document, builder.indexed, is_new=is_new
        )

    @staticmethod
    def _keywords(dataset: Dataset, segment: Segment) -> list[str]:
        """Return keywords for a segment; none unless the dataset is economy."""
        return (
            prepare.keywords(segment.content)
            if dataset.settings.indexing_technique is Technique.ECONOMY
            else []
        )


class _ContentBuilder:
    """Collects segments with their children and index entries, and the texts to embed."""

    def __init__(self, dataset: Dataset, document: Document) -> None:
        self._uses_vectors = dataset.settings.uses_vectors
        self._document = document
        self.indexed = IndexContent()
        self.texts: dict[str, str] = {}
        """Text by digest."""

    def add(
        self,
        segment: Segment,
        custom_children: Sequence[str] | None,
        current_time: float,
    ) -> None:
        """Add a segment. Its children are `custom_children`, or else those that the
        document's rule splits it into."""
        self.indexed.segments.append(segment)
        child_texts = (
            custom_children
            if custom_children is not None
            else self._split_children(segment)
        )
        for index, text in enumerate(child_texts):
            child = Child(
                tenant=segment.tenant,
                dataset=segment.dataset,
                document=segment.document,
                segment=segment.id,
                id=new_uuid(),
                position=index + 1,
                content=text,
                kind="automatic" if custom_children is None else "customized",
                created_at=current_time,
                updated_at=current_time,
            )
            self.indexed.children.append(child)
            # A disabled segment keeps its children, but has no index entries.
            if segment.is_enabled:
                searchable = prepare.searchable_text(segment.heading, text)
                self._add_entry(segment.id, child.id, searchable)
        if not segment.is_enabled:
            return
        # Children are searched instead of their parent; only a segment without children
        # has an entry for its own text.
        if not child_texts:
            searchable = prepare.searchable_text(segment.heading, segment.content)
            self._add_entry(segment.id, "", searchable, segment.answer)
        # A summary is an additional way to find the segment.
        if segment.summary:
            self._add_entry(segment.id, "", segment.summary)

    def _split_children(self, segment: Segment) -> list[str]:
        """Return the child texts of a segment by the document's splitting rule.

        The list is empty unless the document is hierarchical.
        """
        if self._document.form is not DocForm.HIERARCHICAL:
            return []
        parents, _ = prepare.split_document(
            [DocumentPart(text=segment.content)], self._document
        )
        return [child.text for parent in parents for child in parent.children]

    def _add_entry(self, segment: str, child: str, text: str, answer: str = "") -> None:
        """Add an index entry for a segment or one of its children.

        `child` is empty for the segment itself. Full-text search covers `text` and
        `answer`; the vector, in a dataset that has vectors, is of `text` alone.
        """
        # Question and answer are both searched by words; the vector is of the question
        # alone.
        new_entry = prepare.build_entry(
            segment, child, text, f"{text}\n{answer}" if answer else text
        )
        self.indexed.entries.append(new_entry)
        if self._uses_vectors:
            self.texts[new_entry.digest] = text
