"""Datasets, documents and segments as callers of the knowledge API know them. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.knowledge.entities import Child, Dataset, DatasetSettings, DocForm, Document, Hit, Segment, Status
from modelyard.knowledge.filters import BUILT_IN
from modelyard.models.types import JSON


def dataset_shape(
    one: Dataset, counts: Mapping[str, Any] | None, tags: Sequence[Mapping[str, Any]], *, is_available: bool = True,
    externals: Mapping[str, Mapping[str, Any]] | None = None,
) -> JSON:  # fmt: skip
    settings = one.settings
    retrieval = retrieval_shape(settings)
    api = (externals or {}).get(settings.external_knowledge_api_id) or {}
    return {
        "id": one.id, "name": one.name, "description": one.description or None, "provider": settings.provider,
        "permission": settings.permission, "data_source_type": "upload_file" if counts else None,
        "indexing_technique": settings.indexing_technique.value, "app_count": 0,
        "document_count": int(counts["documents"]) if counts else 0,
        "word_count": int(counts["words"]) if counts else 0,
        "created_by": one.created_by or one.tenant, "author_name": one.created_by or one.tenant,
        "created_at": int(one.created_at), "updated_by": one.created_by or one.tenant,
        "updated_at": int(one.updated_at),
        "embedding_model": settings.embedding_model or None,
        "embedding_model_provider": settings.embedding_model_provider or None, "embedding_available": is_available,
        "retrieval_model_dict": retrieval, "retrieval_model": retrieval,
        "summary_index_setting": msgspec.to_builtins(settings.summary_index_setting),
        "tags": [{"id": tag["tag"], "name": tag["name"], "type": "knowledge"} for tag in tags],
        "doc_form": settings.doc_form.value,
        "external_knowledge_info": {
            "external_knowledge_id": settings.external_knowledge_id or None,
            "external_knowledge_api_id": settings.external_knowledge_api_id or None,
            "external_knowledge_api_name": api.get("name"), "external_knowledge_api_endpoint": api.get("endpoint"),
        },
        "external_retrieval_model": msgspec.to_builtins(settings.external_retrieval_model),
        "doc_metadata": [{"id": each.id, "name": each.name, "type": each.type} for each in settings.fields],
        "built_in_field_enabled": settings.built_in_field_enabled, "pipeline_id": settings.pipeline or None,
        "runtime_mode": "rag_pipeline" if settings.pipeline else "general", "chunk_structure": settings.doc_form.value,
        "icon_info": None, "is_published": bool(settings.pipeline),
        "total_documents": int(counts["documents"]) if counts else 0,
        "total_available_documents": int(counts["available"]) if counts else 0, "enable_api": True,
        "is_multimodal": False, "maintainer": None, "partial_member_list": settings.members,
    }  # fmt: skip


def retrieval_shape(settings: DatasetSettings) -> JSON:
    one = settings.retrieval_model
    named = one.reranking_model
    return {
        "search_method": one.search_method.value, "reranking_enable": one.reranking_enable,
        "reranking_mode": one.reranking_mode,
        "reranking_model": {
            "reranking_provider_name": named.reranking_provider_name if named else "",
            "reranking_model_name": named.reranking_model_name if named else "",
        },
        "weights": msgspec.to_builtins(one.weights), "top_k": one.top_k,
        "score_threshold_enabled": one.score_threshold_enabled, "score_threshold": one.score_threshold,
    }  # fmt: skip


_DISPLAYED = {
    Status.WAITING: "queuing", Status.PAUSED: "paused", Status.ERROR: "error",
    Status.PARSING: "indexing", Status.CLEANING: "indexing", Status.SPLITTING: "indexing", Status.INDEXING: "indexing",
}  # fmt: skip


def displayed(one: Document) -> str:
    if one.status in _DISPLAYED:
        return _DISPLAYED[one.status]
    return "archived" if one.is_archived else "available" if one.is_enabled else "disabled"


def metadata_shape(one: Document, settings: DatasetSettings) -> list[JSON]:
    found: list[JSON] = [
        {"id": each.id, "name": each.name, "type": each.type, "value": one.metadata.get(each.name)}
        for each in settings.fields
        if each.name in one.metadata
    ]
    if settings.built_in_field_enabled:
        values = {
            "document_name": one.name, "uploader": one.created_by, "upload_date": one.created_at,
            "last_update_date": one.updated_at, "source": one.source.get("kind", ""),
        }  # fmt: skip
        found += [
            {"id": "built-in", "name": name, "type": kind, "value": values[name]} for name, kind in BUILT_IN.items()
        ]
    return found


def source_info(one: Document) -> JSON:
    return {"upload_file_id": one.source.get("file"), "kind": one.source.get("kind")}


def document_shape(one: Document, settings: DatasetSettings) -> JSON:
    return {
        "id": one.id, "position": one.position, "data_source_type": "upload_file",
        "data_source_info": source_info(one), "data_source_detail_dict": {}, "dataset_process_rule_id": None,
        "name": one.name, "created_from": "api", "created_by": one.created_by or one.tenant,
        "created_at": int(one.created_at), "tokens": one.tokens, "indexing_status": one.status.value,
        "error": one.error or None, "enabled": one.is_enabled, "disabled_at": None, "disabled_by": None,
        "archived": one.is_archived, "display_status": displayed(one), "word_count": one.words, "hit_count": one.hits,
        "doc_form": one.form.value, "doc_metadata": metadata_shape(one, settings), "summary_index_status": None,
        "need_summary": False,
    }  # fmt: skip


def document_detail(one: Document, settings: DatasetSettings) -> JSON:
    times = one.times
    started, completed = times.get("started"), times.get("completed")
    return {
        **document_shape(one, settings), "data_source_info": {**source_info(one), "upload_file": {
            "id": one.source.get("file"), "name": one.name, "size": one.source.get("size"),
            "extension": one.name.rpartition(".")[2] if "." in one.name else "",
            "mime_type": one.source.get("mime_type"), "created_by": one.created_by or one.tenant,
            "created_at": int(one.created_at),
        }},
        "dataset_process_rule": rule_shape(one), "document_process_rule": rule_shape(one),
        "doc_language": one.language or None, "doc_type": None, "completed_at": completed,
        "updated_at": int(one.updated_at),
        "indexing_latency": round(completed - started, 3) if started and completed else None,
        "segment_count": one.segments,
        "average_segment_length": one.words // one.segments if one.segments else 0,
    }  # fmt: skip


def rule_shape(one: Document) -> JSON:
    return {"mode": one.rule.mode, "rules": msgspec.to_builtins(one.rule.effective)}


def indexing_shape(one: Document) -> JSON:
    times = one.times
    return {
        "id": one.id, "indexing_status": one.status.value, "processing_started_at": times.get("started"),
        "parsing_completed_at": times.get("parsed"), "cleaning_completed_at": times.get("split"),
        "splitting_completed_at": times.get("split"), "completed_at": times.get("completed"),
        "paused_at": one.updated_at if one.status is Status.PAUSED else None, "error": one.error or None,
        "stopped_at": None, "completed_segments": one.done, "total_segments": one.segments,
    }  # fmt: skip


def child_shape(one: Child) -> JSON:
    return {
        "id": one.id, "segment_id": one.segment, "content": one.content, "position": one.position,
        "word_count": len(one.content), "type": one.kind, "created_at": int(one.created_at),
        "updated_at": int(one.updated_at),
    }  # fmt: skip


def segment_shape(one: Segment, children: Sequence[Child] = ()) -> JSON:
    return {
        "id": one.id, "position": one.position, "document_id": one.document, "content": one.content,
        "sign_content": one.content, "answer": one.answer or None, "word_count": one.words, "tokens": one.tokens,
        "keywords": one.keywords, "index_node_id": one.id, "index_node_hash": one.digest, "hit_count": one.hits,
        "enabled": one.is_enabled, "disabled_at": None, "disabled_by": None, "status": "completed",
        "created_by": one.tenant, "created_at": int(one.created_at), "updated_at": int(one.updated_at),
        "updated_by": None, "indexing_at": int(one.created_at), "completed_at": int(one.updated_at),
        "error": one.error or None, "stopped_at": None, "child_chunks": [child_shape(each) for each in children],
        "attachments": [], "summary": one.summary or None, "page": one.page or None, "heading": one.heading or None,
        "start": one.start, "stop": one.stop,
    }  # fmt: skip


def record_shape(hit: Hit) -> JSON:
    """A hit of the retrieval tester."""
    document = {
        "id": hit.document.id, "data_source_type": "upload_file", "name": hit.document.name, "doc_type": None,
        "doc_metadata": hit.document.metadata,
    }  # fmt: skip
    return {
        "segment": {**segment_shape(hit.segment), "document": document},
        "child_chunks": [
            {"id": one.id, "content": one.content, "position": one.position, "score": one.score} for one in hit.children
        ],
        "score": hit.score, "scores": hit.scores, "tsne_position": None, "files": [],
        "summary": hit.segment.summary or None,
    }  # fmt: skip


def is_hierarchical(one: Document) -> bool:
    return one.form is DocForm.HIERARCHICAL
