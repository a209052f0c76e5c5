"""The shapes of the knowledge API's answers, as its clients know them."""

from modelyard.gateway.schemas import (
    ANYTHING,
    FLAG,
    INTEGER,
    NUMBER,
    OBJECT,
    TEXT,
    list_of,
    one_of,
    or_null,
    thing,
)
from modelyard.models.types import JSON

_STATUS = one_of("waiting", "parsing", "cleaning", "splitting", "indexing", "paused", "error", "completed")


def page_of(shape: JSON) -> JSON:
    """A page of a list."""
    return thing({"data": list_of(shape), "has_more": FLAG, "limit": INTEGER, "total": INTEGER, "page": INTEGER})


DATASET = thing(
    {
        "id": TEXT,
        "name": TEXT,
        "description": or_null(TEXT),
        "provider": one_of("vendor", "external"),
        "permission": one_of("only_me", "all_team_members", "partial_members"),
        "data_source_type": or_null(TEXT),
        "indexing_technique": one_of("high_quality", "economy"),
        "document_count": INTEGER,
        "word_count": INTEGER,
        "created_by": TEXT,
        "created_at": INTEGER,
        "updated_at": INTEGER,
        "embedding_model": or_null(TEXT),
        "embedding_model_provider": or_null(TEXT),
        "embedding_available": FLAG,
        "retrieval_model_dict": thing({"search_method": TEXT, "top_k": INTEGER}, score_threshold=or_null(NUMBER)),
        "tags": list_of(thing({"id": TEXT, "name": TEXT, "type": TEXT})),
        "doc_form": TEXT,
        "doc_metadata": list_of(thing({"id": TEXT, "name": TEXT, "type": TEXT})),
        "built_in_field_enabled": FLAG,
    },
    external_knowledge_info=OBJECT,
    external_retrieval_model=or_null(OBJECT),
    partial_member_list=list_of(TEXT),
)
DOCUMENT = thing(
    {
        "id": TEXT,
        "position": INTEGER,
        "data_source_type": TEXT,
        "name": TEXT,
        "created_from": TEXT,
        "created_by": TEXT,
        "created_at": INTEGER,
        "tokens": INTEGER,
        "indexing_status": _STATUS,
        "error": or_null(TEXT),
        "enabled": FLAG,
        "archived": FLAG,
        "display_status": one_of("queuing", "paused", "indexing", "error", "available", "disabled", "archived"),
        "word_count": INTEGER,
        "hit_count": INTEGER,
        "doc_form": TEXT,
        "doc_metadata": list_of(thing({"id": TEXT, "name": TEXT, "type": TEXT}, value=ANYTHING)),
    },
)
DOCUMENT_HANDED_IN = thing({"document": DOCUMENT, "batch": TEXT})
DOCUMENT_OR_METADATA = thing({"id": TEXT}, name=TEXT, doc_metadata=list_of(OBJECT), segment_count=INTEGER)
"""All of a document, or what the query's `metadata` leaves of it."""
INDEXING = thing({
    "data": list_of(thing(
        {"id": TEXT, "indexing_status": _STATUS, "completed_segments": INTEGER, "total_segments": INTEGER},
        error=or_null(TEXT), completed_at=or_null(NUMBER), paused_at=or_null(NUMBER),
    )),
})  # fmt: skip
ADDRESS = thing({"url": TEXT})
UPLOADED = thing(
    {"id": or_null(TEXT), "name": TEXT, "extension": TEXT, "url": TEXT, "download_url": TEXT}, size=or_null(INTEGER)
)
CHILD = thing({
    "id": TEXT, "segment_id": TEXT, "content": TEXT, "position": INTEGER, "word_count": INTEGER, "type": TEXT,
    "created_at": INTEGER, "updated_at": INTEGER,
})  # fmt: skip
SEGMENT = thing(
    {
        "id": TEXT, "position": INTEGER, "document_id": TEXT, "content": TEXT, "answer": or_null(TEXT),
        "word_count": INTEGER, "tokens": INTEGER, "keywords": list_of(TEXT), "hit_count": INTEGER, "enabled": FLAG,
        "status": TEXT, "created_at": INTEGER, "updated_at": INTEGER, "error": or_null(TEXT),
        "child_chunks": list_of(CHILD),
    },
    summary=or_null(TEXT), page=or_null(INTEGER), heading=or_null(TEXT),
)  # fmt: skip
SEGMENT_ANSWER = thing({"data": SEGMENT, "doc_form": TEXT})
SEGMENTS = thing({"data": list_of(SEGMENT), "doc_form": TEXT})
CHILD_ANSWER = thing({"data": CHILD})
CHILDREN = thing({
    "data": list_of(CHILD), "total": INTEGER, "total_pages": INTEGER, "page": INTEGER, "limit": INTEGER,
})  # fmt: skip
FOUND = thing({
    "query": thing({"content": TEXT}),
    "records": list_of(thing({"segment": SEGMENT, "child_chunks": list_of(OBJECT), "score": or_null(NUMBER)})),
    "notes": list_of(TEXT),
    "milliseconds": OBJECT,
})  # fmt: skip
ANSWERED = thing({"text": TEXT})
QUERIES = thing({"data": list_of(OBJECT)})
FIELD = thing({"id": TEXT, "name": TEXT, "type": one_of("string", "number", "time")})
FIELDS = thing({"doc_metadata": list_of(FIELD), "built_in_field_enabled": FLAG})
BUILT_IN_FIELDS = thing({"fields": list_of(thing({"name": TEXT, "type": TEXT}))})
DONE = thing({"result": one_of("success")})
TAG = thing({"id": TEXT, "name": TEXT, "type": TEXT, "binding_count": TEXT})
TAGS = list_of(TAG)
TAGS_OF = thing({"data": list_of(thing({"id": TEXT, "name": TEXT})), "total": INTEGER})
MODELS = thing({"data": list_of(thing({"provider": TEXT, "label": OBJECT, "status": TEXT, "models": list_of(OBJECT)}))})
PIPELINE_FILE = thing({"id": TEXT, "name": TEXT, "size": INTEGER, "extension": TEXT, "mime_type": TEXT})
PIPELINE_RUN = thing({"batch": TEXT, "dataset": thing({"id": TEXT, "name": TEXT}), "documents": list_of(OBJECT)})
EXTERNAL = thing({"records": list_of(thing({"content": TEXT, "score": or_null(NUMBER), "title": TEXT}))})

DATASET_REQUEST = thing(
    name=TEXT, description=or_null(TEXT), permission=or_null(TEXT), provider=or_null(TEXT),
    indexing_technique=or_null(TEXT), embedding_model=or_null(TEXT), embedding_model_provider=or_null(TEXT),
    retrieval_model=or_null(OBJECT), doc_form=or_null(TEXT), process_rule=or_null(OBJECT),
)  # fmt: skip
TEXT_REQUEST = thing(
    name=TEXT, text=TEXT, indexing_technique=or_null(TEXT), doc_form=or_null(TEXT), doc_language=or_null(TEXT),
    process_rule=or_null(OBJECT), original_document_id=or_null(TEXT),
)  # fmt: skip
QUERY_REQUEST = thing({"query": TEXT}, retrieval_model=or_null(OBJECT), external_retrieval_model=or_null(OBJECT))
ASK_REQUEST = thing({"query": TEXT}, model=or_null(TEXT), check=or_null(TEXT), stream=or_null(FLAG))
IDS_REQUEST = thing({"document_ids": list_of(TEXT)})
SEGMENTS_REQUEST = thing({"segments": list_of(thing(content=TEXT, answer=or_null(TEXT), keywords=list_of(TEXT)))})
SEGMENT_REQUEST = thing({"segment": thing(content=TEXT, answer=or_null(TEXT), enabled=FLAG)})
CHILD_REQUEST = thing({"content": TEXT})
FIELD_REQUEST = thing({"name": TEXT}, type=one_of("string", "number", "time"))
METADATA_REQUEST = thing({"operation_data": list_of(OBJECT)})
TAG_REQUEST = thing({"name": TEXT}, tag_id=TEXT)
BINDING_REQUEST = thing({"target_id": TEXT}, tag_ids=list_of(TEXT), tag_id=TEXT)
RUN_REQUEST = thing(inputs=OBJECT, datasource_type=TEXT, start_node_id=TEXT, datasource_info_list=list_of(OBJECT),
                    response_mode=TEXT, is_published=FLAG)  # fmt: skip
EXTERNAL_REQUEST = thing({"knowledge_id": TEXT, "query": TEXT}, retrieval_setting=OBJECT, metadata_condition=OBJECT)
