"""Datasets, documents and segments in the response format of the knowledge API.
Performs no I/O.

Times are whole seconds since 1970. Fields that this server does not support have a
neutral value, because clients expect them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.knowledge.entities import (
    Child,
    Dataset,
    DatasetSettings,
    DocForm,
    Document,
    Hit,
    Segment,
    Status,
)
from modelyard.knowledge.filters import BUILT_IN
from modelyard.models.types import JSON


def dataset_view(
    dataset: Dataset,
    counts: Mapping[str, Any] | None,
    tags: Sequence[Mapping[str, Any]],
    *,
    is_available: bool = True,
    externals: Mapping[str, Mapping[str, Any]] | None = None,
) -> JSON:
    """Return a dataset. `counts` are its document counts, or None if it is empty;
    `externals` are external APIs by id."""
    settings = dataset.settings
    retrieval = retrieval_view(settings)
    # The external API may have been deleted while datasets still refer to it.
    api = (externals or {}).get(settings.external_knowledge_api_id) or {}
    document_count = int(counts["documents"]) if counts else 0
    # Datasets that were created by a key without a user belong to the tenant.
    creator = dataset.created_by or dataset.tenant
    return {
        "id": dataset.id,
        "name": dataset.name,
        "description": dataset.description or None,
        "provider": settings.provider,
        "permission": settings.permission,
        "default_access": settings.default_access,
        "data_source_type": "upload_file" if counts else None,
        "indexing_technique": settings.indexing_technique.value,
        "app_count": 0,
        "document_count": document_count,
        "word_count": int(counts["words"]) if counts else 0,
        "created_by": creator,
        "author_name": creator,
        "created_at": int(dataset.created_at),
        "updated_by": creator,
        "updated_at": int(dataset.updated_at),
        "embedding_model": settings.embedding_model or None,
        "embedding_model_provider": settings.embedding_model_provider or None,
        "embedding_available": is_available,
        # Clients of different versions read either of the two names.
        "retrieval_model_dict": retrieval,
        "retrieval_model": retrieval,
        "summary_index_setting": msgspec.to_builtins(settings.summary_index_setting),
        "tags": [
            {"id": tag["tag"], "name": tag["name"], "type": "knowledge"} for tag in tags
        ],
        "doc_form": settings.doc_form.value,
        "external_knowledge_info": _external_knowledge_view(settings, api),
        "external_retrieval_model": msgspec.to_builtins(
            settings.external_retrieval_model
        ),
        "doc_metadata": [
            {"id": field.id, "name": field.name, "type": field.type}
            for field in settings.fields
        ],
        "built_in_field_enabled": settings.built_in_field_enabled,
        **_pipeline_fields(settings),
        "total_documents": document_count,
        "total_available_documents": int(counts["available"]) if counts else 0,
        "enable_api": True,
        "is_multimodal": False,
        "maintainer": None,
        "partial_member_list": settings.members,
    }


def _external_knowledge_view(settings: DatasetSettings, api: Mapping[str, Any]) -> JSON:
    """Return the external knowledge of a dataset. `api` is its external API, or empty."""
    return {
        "external_knowledge_id": settings.external_knowledge_id or None,
        "external_knowledge_api_id": settings.external_knowledge_api_id or None,
        "external_knowledge_api_name": api.get("name"),
        "external_knowledge_api_endpoint": api.get("endpoint"),
    }


def _pipeline_fields(settings: DatasetSettings) -> JSON:
    """Return the fields about a dataset's pipeline. A dataset with one counts as
    published."""
    return {
        "pipeline_id": settings.pipeline or None,
        "runtime_mode": "rag_pipeline" if settings.pipeline else "general",
        "chunk_structure": settings.doc_form.value,
        "icon_info": None,
        "is_published": bool(settings.pipeline),
    }


def retrieval_view(settings: DatasetSettings) -> JSON:
    """Return the retrieval settings."""
    retrieval = settings.retrieval_model
    reranking_model = retrieval.reranking_model
    return {
        "search_method": retrieval.search_method.value,
        "reranking_enable": retrieval.reranking_enable,
        "reranking_mode": retrieval.reranking_mode,
        # The object is always present; empty names mean that no reranking model is set.
        "reranking_model": {
            "reranking_provider_name": reranking_model.reranking_provider_name
            if reranking_model
            else "",
            "reranking_model_name": reranking_model.reranking_model_name
            if reranking_model
            else "",
        },
        "weights": msgspec.to_builtins(retrieval.weights),
        "top_k": retrieval.top_k,
        "score_threshold_enabled": retrieval.score_threshold_enabled,
        "score_threshold": retrieval.score_threshold,
    }


# Indexing steps that the API does not distinguish are displayed as one.
_DISPLAY_STATUS = {
    Status.WAITING: "queuing",
    Status.PAUSED: "paused",
    Status.ERROR: "error",
    Status.PARSING: "indexing",
    Status.CLEANING: "indexing",
    Status.SPLITTING: "indexing",
    Status.INDEXING: "indexing",
}


def display_status(document: Document) -> str:
    """Return the display status. While a document is not indexed, its indexing status
    comes before its flags."""
    if document.status in _DISPLAY_STATUS:
        return _DISPLAY_STATUS[document.status]
    return (
        "archived"
        if document.is_archived
        else "available"
        if document.is_enabled
        else "disabled"
    )


def metadata_view(document: Document, settings: DatasetSettings) -> list[JSON]:
    """Return the metadata of a document: its own values, then the built-in ones if they
    are enabled."""
    views: list[JSON] = [
        {
            "id": field.id,
            "name": field.name,
            "type": field.type,
            "value": document.metadata.get(field.name),
        }
        for field in settings.fields
        # Fields without a value are left out.
        if field.name in document.metadata
    ]
    if settings.built_in_field_enabled:
        values = {
            "document_name": document.name,
            "uploader": document.created_by,
            "upload_date": document.created_at,
            "last_update_date": document.updated_at,
            "source": document.source.get("kind", ""),
        }
        views += [
            {"id": "built-in", "name": name, "type": field_type, "value": values[name]}
            for name, field_type in BUILT_IN.items()
        ]
    return views


def source_info(document: Document) -> JSON:
    """Return the source of a document."""
    return {
        "upload_file_id": document.source.get("file"),
        "kind": document.source.get("kind"),
    }


def document_view(document: Document, settings: DatasetSettings) -> JSON:
    """Return a document as it appears in lists."""
    # Every field of Dify's API is there, because its clients read them without asking
    # whether they exist.
    return {
        "id": document.id,
        "position": document.position,
        "data_source_type": "upload_file",
        "data_source_info": source_info(document),
        "data_source_detail_dict": {},
        "dataset_process_rule_id": None,
        "name": document.name,
        "created_from": "api",
        "created_by": document.created_by or document.tenant,
        "created_at": int(document.created_at),
        "tokens": document.tokens,
        "indexing_status": document.status.value,
        "error": document.error or None,
        "enabled": document.is_enabled,
        "disabled_at": None,
        "disabled_by": None,
        "archived": document.is_archived,
        "display_status": display_status(document),
        "word_count": document.words,
        "hit_count": document.hits,
        "doc_form": document.form.value,
        "doc_metadata": metadata_view(document, settings),
        "summary_index_status": None,
        "need_summary": False,
    }


def document_detail(document: Document, settings: DatasetSettings) -> JSON:
    """Return a document with its splitting rule, its times and its statistics."""
    times = document.times
    started, completed = times.get("started"), times.get("completed")
    return {
        **document_view(document, settings),
        "data_source_info": {
            **source_info(document),
            "upload_file": {
                "id": document.source.get("file"),
                "name": document.name,
                "size": document.source.get("size"),
                # Without a dot, rpartition would return the whole name here.
                "extension": document.name.rpartition(".")[2]
                if "." in document.name
                else "",
                "mime_type": document.source.get("mime_type"),
                "created_by": document.created_by or document.tenant,
                "created_at": int(document.created_at),
            },
        },
        "dataset_process_rule": rule_view(document),
        "document_process_rule": rule_view(document),
        "doc_language": document.language or None,
        "doc_type": None,
        "completed_at": completed,
        "updated_at": int(document.updated_at),
        # The latency is known only after indexing has completed.
        "indexing_latency": round(completed - started, 3)
        if started and completed
        else None,
        "segment_count": document.segments,
        # A document that has not been split yet has no segments to divide by.
        "average_segment_length": document.words // document.segments
        if document.segments
        else 0,
    }


def rule_view(document: Document) -> JSON:
    """Return the splitting rule of a document, with defaults filled in."""
    return {
        "mode": document.rule.mode,
        "rules": msgspec.to_builtins(document.rule.effective),
    }


def indexing_view(document: Document) -> JSON:
    """Return the indexing status of a document with the time of each step."""
    times = document.times
    return {
        "id": document.id,
        "indexing_status": document.status.value,
        "processing_started_at": times.get("started"),
        # Cleaning and splitting are one step here, so both have the same time.
        "parsing_completed_at": times.get("parsed"),
        "cleaning_completed_at": times.get("split"),
        "splitting_completed_at": times.get("split"),
        "completed_at": times.get("completed"),
        # The time of a pause is not stored, so that of the last change stands in.
        "paused_at": document.updated_at if document.status is Status.PAUSED else None,
        "error": document.error or None,
        "stopped_at": None,
        "completed_segments": document.done,
        "total_segments": document.segments,
    }


def child_view(child: Child) -> JSON:
    """Return a child chunk."""
    return {
        "id": child.id,
        "segment_id": child.segment,
        "content": child.content,
        "position": child.position,
        # Despite the name these are characters, as in documents and segments.
        "word_count": len(child.content),
        "type": child.kind,
        "created_at": int(child.created_at),
        "updated_at": int(child.updated_at),
    }


def segment_view(segment: Segment, children: Sequence[Child] = ()) -> JSON:
    """Return a segment with its children."""
    return {
        "id": segment.id,
        "position": segment.position,
        "document_id": segment.document,
        "content": segment.content,
        "sign_content": segment.content,
        "answer": segment.answer or None,
        "word_count": segment.words,
        "tokens": segment.tokens,
        "keywords": segment.keywords,
        "index_node_id": segment.id,
        "index_node_hash": segment.digest,
        "hit_count": segment.hits,
        "enabled": segment.is_enabled,
        "disabled_at": None,
        "disabled_by": None,
        "status": "completed",
        # Segments do not record who added them, so the tenant stands in.
        "created_by": segment.tenant,
        "created_at": int(segment.created_at),
        "updated_at": int(segment.updated_at),
        "updated_by": None,
        "indexing_at": int(segment.created_at),
        "completed_at": int(segment.updated_at),
        "error": segment.error or None,
        "stopped_at": None,
        "child_chunks": [child_view(child) for child in children],
        "attachments": [],
        "summary": segment.summary or None,
        "page": segment.page or None,
        "heading": segment.heading or None,
        "start": segment.start,
        "stop": segment.stop,
    }


def hit_view(hit: Hit) -> JSON:
    """Return a search hit with its segment and document."""
    document = {
        "id": hit.document.id,
        "data_source_type": "upload_file",
        "name": hit.document.name,
        "doc_type": None,
        "doc_metadata": hit.document.metadata,
    }
    return {
        "segment": {**segment_view(hit.segment), "document": document},
        "child_chunks": [
            {
                "id": child.id,
                "content": child.content,
                "position": child.position,
                "score": child.score,
            }
            for child in hit.children
        ],
        "score": hit.score,
        "scores": hit.scores,
        "tsne_position": None,
        "files": [],
        "summary": hit.segment.summary or None,
    }


def is_hierarchical(document: Document) -> bool:
    """Return whether segments of the document have child chunks."""
    return document.form is DocForm.HIERARCHICAL
