"""JSON schemas of the knowledge API's requests and responses."""

from modelyard.gateway.schemas import (
    ANYTHING,
    FLAG,
    INTEGER,
    NUMBER,
    OBJECT,
    TEXT,
    list_of,
    object_schema,
    or_null,
    string_enum,
)
from modelyard.models.types import JSON

_STATUS = string_enum(
    "waiting",
    "parsing",
    "cleaning",
    "splitting",
    "indexing",
    "paused",
    "error",
    "completed",
)


def page_schema(shape: JSON) -> JSON:
    """Return the schema of one page of a list."""
    return object_schema(
        {
            "data": list_of(shape),
            "has_more": FLAG,
            "limit": INTEGER,
            "total": INTEGER,
            "page": INTEGER,
        }
    )


DATASET = object_schema(
    {
        "id": TEXT,
        "name": TEXT,
        "description": or_null(TEXT),
        "provider": string_enum("vendor", "external"),
        "permission": string_enum("only_me", "all_team_members", "partial_members"),
        "default_access": string_enum("everyone", "nobody"),
        "data_source_type": or_null(TEXT),
        "indexing_technique": string_enum("high_quality", "economy"),
        "document_count": INTEGER,
        "word_count": INTEGER,
        "created_by": TEXT,
        "created_at": INTEGER,
        "updated_at": INTEGER,
        "embedding_model": or_null(TEXT),
        "embedding_model_provider": or_null(TEXT),
        "embedding_available": FLAG,
        "retrieval_model_dict": object_schema(
            {"search_method": TEXT, "top_k": INTEGER}, score_threshold=or_null(NUMBER)
        ),
        "tags": list_of(object_schema({"id": TEXT, "name": TEXT, "type": TEXT})),
        "doc_form": TEXT,
        "doc_metadata": list_of(
            object_schema({"id": TEXT, "name": TEXT, "type": TEXT})
        ),
        "built_in_field_enabled": FLAG,
    },
    external_knowledge_info=OBJECT,
    external_retrieval_model=or_null(OBJECT),
    partial_member_list=list_of(TEXT),
)
DOCUMENT = object_schema(
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
        "display_status": string_enum(
            "queuing",
            "paused",
            "indexing",
            "error",
            "available",
            "disabled",
            "archived",
        ),
        "word_count": INTEGER,
        "hit_count": INTEGER,
        "doc_form": TEXT,
        "doc_metadata": list_of(
            object_schema({"id": TEXT, "name": TEXT, "type": TEXT}, value=ANYTHING)
        ),
    },
)
DOCUMENT_HANDED_IN = object_schema({"document": DOCUMENT, "batch": TEXT})
DOCUMENT_OR_METADATA = object_schema(
    {"id": TEXT}, name=TEXT, doc_metadata=list_of(OBJECT), segment_count=INTEGER
)
"""A complete document, or the part that the query parameter `metadata` selects."""
INDEXING = object_schema(
    {
        "data": list_of(
            object_schema(
                {
                    "id": TEXT,
                    "indexing_status": _STATUS,
                    "completed_segments": INTEGER,
                    "total_segments": INTEGER,
                },
                error=or_null(TEXT),
                completed_at=or_null(NUMBER),
                paused_at=or_null(NUMBER),
            )
        ),
    }
)
ADDRESS = object_schema({"url": TEXT})
UPLOADED = object_schema(
    {
        "id": or_null(TEXT),
        "name": TEXT,
        "extension": TEXT,
        "url": TEXT,
        "download_url": TEXT,
    },
    size=or_null(INTEGER),
)
CHILD = object_schema(
    {
        "id": TEXT,
        "segment_id": TEXT,
        "content": TEXT,
        "position": INTEGER,
        "word_count": INTEGER,
        "type": TEXT,
        "created_at": INTEGER,
        "updated_at": INTEGER,
    }
)
SEGMENT = object_schema(
    {
        "id": TEXT,
        "position": INTEGER,
        "document_id": TEXT,
        "content": TEXT,
        "answer": or_null(TEXT),
        "word_count": INTEGER,
        "tokens": INTEGER,
        "keywords": list_of(TEXT),
        "hit_count": INTEGER,
        "enabled": FLAG,
        "status": TEXT,
        "created_at": INTEGER,
        "updated_at": INTEGER,
        "error": or_null(TEXT),
        "child_chunks": list_of(CHILD),
    },
    summary=or_null(TEXT),
    page=or_null(INTEGER),
    heading=or_null(TEXT),
)
SEGMENT_ANSWER = object_schema({"data": SEGMENT, "doc_form": TEXT})
SEGMENTS = object_schema({"data": list_of(SEGMENT), "doc_form": TEXT})
SEGMENT_IMPORT = object_schema(
    {
        "job_id": TEXT,
        "job_status": string_enum("waiting", "processing", "completed", "error"),
        "total": INTEGER,
        "added": INTEGER,
        "failed": INTEGER,
        "errors": list_of(object_schema({"line": INTEGER, "message": TEXT})),
        "error": or_null(TEXT),
    }
)
CHILD_ANSWER = object_schema({"data": CHILD})
CHILDREN = object_schema(
    {
        "data": list_of(CHILD),
        "total": INTEGER,
        "total_pages": INTEGER,
        "page": INTEGER,
        "limit": INTEGER,
    }
)
FOUND = object_schema(
    {
        "query": object_schema({"content": TEXT}),
        "records": list_of(
            object_schema(
                {
                    "segment": SEGMENT,
                    "child_chunks": list_of(OBJECT),
                    "score": or_null(NUMBER),
                }
            )
        ),
        "notes": list_of(TEXT),
        "milliseconds": OBJECT,
    }
)
ANSWERED = object_schema({"text": TEXT})
QUERIES = object_schema({"data": list_of(OBJECT)})
FIELD = object_schema(
    {"id": TEXT, "name": TEXT, "type": string_enum("string", "number", "time")}
)
FIELDS = object_schema({"doc_metadata": list_of(FIELD), "built_in_field_enabled": FLAG})
BUILT_IN_FIELDS = object_schema(
    {"fields": list_of(object_schema({"name": TEXT, "type": TEXT}))}
)
ACCESS = object_schema(users=list_of(TEXT), groups=list_of(TEXT), everyone=FLAG)
ACCESS_ANSWER = object_schema(
    {"access": or_null(ACCESS), "default_access": string_enum("everyone", "nobody")}
)
DONE = object_schema({"result": string_enum("success")})
TAG = object_schema({"id": TEXT, "name": TEXT, "type": TEXT, "binding_count": TEXT})
TAGS = list_of(TAG)
TAGS_OF = object_schema(
    {"data": list_of(object_schema({"id": TEXT, "name": TEXT})), "total": INTEGER}
)
MODELS = object_schema(
    {
        "data": list_of(
            object_schema(
                {
                    "provider": TEXT,
                    "label": OBJECT,
                    "status": TEXT,
                    "models": list_of(OBJECT),
                }
            )
        )
    }
)
PIPELINE_FILE = object_schema(
    {"id": TEXT, "name": TEXT, "size": INTEGER, "extension": TEXT, "mime_type": TEXT}
)
PIPELINE_RUN = object_schema(
    {
        "batch": TEXT,
        "dataset": object_schema({"id": TEXT, "name": TEXT}),
        "documents": list_of(OBJECT),
    }
)
EXTERNAL = object_schema(
    {
        "records": list_of(
            object_schema({"content": TEXT, "score": or_null(NUMBER), "title": TEXT})
        )
    }
)

# Nearly all fields accept null, because clients send null for options that are not set.
DATASET_REQUEST = object_schema(
    name=TEXT,
    description=or_null(TEXT),
    permission=or_null(TEXT),
    default_access=or_null(TEXT),
    provider=or_null(TEXT),
    indexing_technique=or_null(TEXT),
    embedding_model=or_null(TEXT),
    embedding_model_provider=or_null(TEXT),
    retrieval_model=or_null(OBJECT),
    doc_form=or_null(TEXT),
    process_rule=or_null(OBJECT),
)
TEXT_REQUEST = object_schema(
    name=TEXT,
    text=TEXT,
    indexing_technique=or_null(TEXT),
    doc_form=or_null(TEXT),
    doc_language=or_null(TEXT),
    process_rule=or_null(OBJECT),
    original_document_id=or_null(TEXT),
    access=or_null(ACCESS),
)
QUERY_REQUEST = object_schema(
    {"query": TEXT},
    retrieval_model=or_null(OBJECT),
    external_retrieval_model=or_null(OBJECT),
)
ASK_REQUEST = object_schema(
    {"query": TEXT}, model=or_null(TEXT), check=or_null(TEXT), stream=or_null(FLAG)
)
IDS_REQUEST = object_schema({"document_ids": list_of(TEXT)})
ACCESS_CHANGES = object_schema(
    {
        "documents": list_of(
            object_schema({"document_id": TEXT, "access": or_null(ACCESS)})
        )
    }
)
SEGMENTS_REQUEST = object_schema(
    {
        "segments": list_of(
            object_schema(content=TEXT, answer=or_null(TEXT), keywords=list_of(TEXT))
        )
    }
)
SEGMENT_REQUEST = object_schema(
    {"segment": object_schema(content=TEXT, answer=or_null(TEXT), enabled=FLAG)}
)
CHILD_REQUEST = object_schema({"content": TEXT})
FIELD_REQUEST = object_schema(
    {"name": TEXT}, type=string_enum("string", "number", "time")
)
METADATA_REQUEST = object_schema({"operation_data": list_of(OBJECT)})
TAG_REQUEST = object_schema({"name": TEXT}, tag_id=TEXT)
BINDING_REQUEST = object_schema({"target_id": TEXT}, tag_ids=list_of(TEXT), tag_id=TEXT)
RUN_REQUEST = object_schema(
    inputs=OBJECT,
    datasource_type=TEXT,
    start_node_id=TEXT,
    datasource_info_list=list_of(OBJECT),
    response_mode=TEXT,
    is_published=FLAG,
)
EXTERNAL_REQUEST = object_schema(
    {"knowledge_id": TEXT, "query": TEXT},
    retrieval_setting=OBJECT,
    metadata_condition=OBJECT,
)
