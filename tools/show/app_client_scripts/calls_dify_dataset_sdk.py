"""Checks of a knowledge client; runs in an environment with only dify-dataset-sdk
installed.

The argument is a JSON object with the server's address and keys. Prints the checks as
one line of JSON.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dify_dataset_sdk import DifyDatasetClient
from dify_dataset_sdk._exceptions import DifyConflictError, DifyNotFoundError
from dify_dataset_sdk.datasets.models import RetrievalModel
from dify_dataset_sdk.documents.models import ProcessRule

GUIDE = "# Returns\n\nGoods can be sent back within 30 days.\n\n# Shipping\n\nParcels leave on the same day before noon.\n"
server_info = json.loads(sys.argv[1])
results: list[tuple[str, bool, str]] = []


def check(name: str, ok: Any, detail: Any = "") -> None:
    """Record a check; the detail is cut to 120 characters."""
    results.append((name, bool(ok), str(detail)[:120]))


# This client appends the version prefix itself.
client = DifyDatasetClient(
    api_key=server_info["datasets"],
    base_url=server_info["base"].removesuffix("/v1"),
)

# Hybrid search without a reranker: both local, no provider needed.
METHOD = RetrievalModel(
    search_method="hybrid_search",
    reranking_enable=False,
    top_k=3,
    score_threshold_enabled=False,
)


def wait_for_indexing(dataset: str, batch: str) -> Any:
    """Wait for a batch and return its final status. Raises TimeoutError after a
    minute."""
    for _ in range(600):
        (status,) = client.documents.get_indexing_status(dataset, batch).data
        if status.indexing_status in ("completed", "error"):
            return status
        time.sleep(0.1)
    raise TimeoutError(batch)


def main() -> None:
    """Run all checks."""
    embedding_models()
    dataset = dataset_settings()
    document = document_from_text(dataset)
    file = document_from_file(dataset)
    document_details(dataset, document, file)
    retrieval(dataset)
    segment = segments_of(dataset, document)
    child_chunks(dataset, file)
    deleted_segment(dataset, document, segment)
    metadata_fields(dataset, document)
    tags(dataset)
    deletion(dataset, file)


def embedding_models() -> None:
    """The local embedding models are listed."""
    models = client.models.list_embedding_models()
    names = [model["model"] for provider in models.data for model in provider["models"]]
    check("embedding models", "use-multilingual-v3" in names, names)


def dataset_settings() -> Any:
    """Create, list, get and change a dataset. Returns it."""
    dataset = client.datasets.create(
        name="guide",
        description="what customers ask",
        indexing_technique="high_quality",
        embedding_model="use-multilingual-v3",
        embedding_model_provider="local",
        retrieval_model=METHOD,
    )
    check(
        "create a dataset",
        dataset.name == "guide" and dataset.indexing_technique == "high_quality",
        dataset.id,
    )
    # A second dataset with the same name is a conflict.
    try:
        client.datasets.create(name="guide")
        check("a duplicate name", False)
    except DifyConflictError as error:
        check("a duplicate name", True, error)
    dataset_page = client.datasets.list(page=1, limit=10)
    check(
        "list datasets",
        dataset_page.total == 1 and not dataset_page.has_more,
        dataset_page.total,
    )
    check(
        "get a dataset",
        client.datasets.get(dataset.id).embedding_model == "use-multilingual-v3",
    )
    changed = client.datasets.update(
        dataset.id, description="returns and shipping", permission="all_team_members"
    )
    check(
        "change a dataset",
        changed.description == "returns and shipping"
        and changed.permission == "all_team_members",
    )
    return dataset


def document_from_text(dataset: Any) -> Any:
    """Create a document from text and wait for its indexing. Returns it."""
    created = client.documents.create_by_text(
        dataset.id, name="guide", text=GUIDE, process_rule=ProcessRule(mode="automatic")
    )
    check(
        "a document by text",
        created.document.name == "guide"
        and created.document.indexing_status in ("waiting", "indexing"),
        created.batch,
    )
    status = wait_for_indexing(dataset.id, created.batch)
    check(
        "indexing of the text",
        status.indexing_status == "completed"
        and status.completed_segments == status.total_segments,
        status,
    )
    return created.document


def document_from_file(dataset: Any) -> Any:
    """Create a document from a file with hierarchical segmentation: paragraphs are
    parents, their lines are child chunks. Then replace the file. Returns the document."""
    rule = ProcessRule.model_validate(
        {
            "mode": "hierarchical",
            "rules": {
                "pre_processing_rules": [
                    {"id": "remove_extra_spaces", "enabled": True}
                ],
                "segmentation": {"separator": "\n\n", "max_tokens": 500},
                "parent_mode": "paragraph",
                "subchunk_segmentation": {
                    "separator": "\n",
                    "max_tokens": 200,
                    "chunk_overlap": 0,
                },
            },
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "opening.md"
        path.write_text(
            "# Opening\n\nThe shop opens at nine.\n\nIt closes at six.\n", "utf-8"
        )
        file = client.documents.create_by_file(
            dataset.id, path, doc_form="hierarchical_model", process_rule=rule
        )
        check(
            "a document by file",
            file.document.doc_form == "hierarchical_model",
            file.document.name,
        )
        check(
            "indexing of the file",
            wait_for_indexing(dataset.id, file.batch).indexing_status == "completed",
        )
        # The file is replaced; the search below must find its new text.
        path.write_text(
            "# Opening\n\nThe shop opens at ten.\n\nIt closes at seven.\n", "utf-8"
        )
        updated_file = client.documents.update_by_file(
            dataset.id, file.document.id, path, name="hours"
        )
        check(
            "replace the file",
            wait_for_indexing(dataset.id, updated_file.batch).indexing_status
            == "completed"
            and updated_file.document.name == "hours",
        )
    return file.document


def document_details(dataset: Any, document: Any, file: Any) -> None:
    """List, find and get documents, and change the text of one."""
    documents = client.documents.list(dataset.id)
    check(
        "list documents",
        documents.total == 2,
        [document["name"] for document in documents.data],
    )
    check(
        "find documents by name",
        client.documents.list(dataset.id, keyword="gui").total == 1,
    )
    detail = client.documents.get(dataset.id, document.id)
    check("get a document", getattr(detail, "word_count", 0) or detail, detail)
    upload_file = client.documents.get_upload_file(dataset.id, file.id)
    check("URL of the file", upload_file["url"].startswith("http"), upload_file["name"])
    text = client.documents.update_by_text(
        dataset.id,
        document.id,
        name="guide 2",
        text=GUIDE + "\n# Gifts\n\nGifts are wrapped for free.\n",
    )
    check(
        "replace the text",
        wait_for_indexing(dataset.id, text.batch).indexing_status == "completed"
        and text.document.name == "guide 2",
    )


def retrieval(dataset: Any) -> None:
    """A search finds child chunks and changed text."""
    # The question is answered by a child chunk, whose parent segment is returned.
    answer = client.datasets.retrieve(
        dataset.id, query="When does the shop open?", retrieval_model=METHOD
    )
    first = answer.records[0]
    check("retrieve", "ten" in (first.segment.content or ""), first.segment.content)
    check(
        "the matching child",
        first.child_chunks and first.child_chunks[0].score > 0,
        first.child_chunks,
    )
    answer = client.datasets.retrieve(
        dataset.id, query="Are gifts wrapped?", retrieval_model=METHOD
    )
    check(
        "the changed text is found",
        "free" in (answer.records[0].segment.content or ""),
        answer.records[0].segment.content,
    )


def segments_of(dataset: Any, document: Any) -> Any:
    """List, add, get and change segments. Returns the added one."""
    segments = client.segments.list(dataset.id, document.id)
    texts = "".join(segment.content for segment in segments.data)
    # Small sections share a segment.
    headings = ("Returns", "Shipping", "Gifts")
    check(
        "list segments",
        segments.data[0].position == 1 and all(name in texts for name in headings),
        len(segments.data),
    )
    new = client.segments.create(
        dataset.id,
        document.id,
        [{"content": "We speak Dutch.", "keywords": ["dutch"]}],
    )
    check(
        "add a segment",
        new.data[0].content == "We speak Dutch." and new.data[0].keywords == ["dutch"],
        new.data[0].id,
    )
    fetched_segment = client.segments.get(dataset.id, document.id, new.data[0].id)
    check("get a segment", fetched_segment["data"]["content"] == "We speak Dutch.")
    client.segments.update(
        dataset.id, document.id, new.data[0].id, {"content": "We speak Danish."}
    )
    answer = client.datasets.retrieve(
        dataset.id, query="Danish", retrieval_model=METHOD
    )
    check(
        "change a segment",
        any("Danish" in (record.segment.content or "") for record in answer.records),
    )
    return new.data[0]


def child_chunks(dataset: Any, file: Any) -> None:
    """Add, list, change and delete a child chunk."""
    parent = client.segments.list(dataset.id, file.id).data[-1]
    child = client.segments.create_child_chunk(
        dataset.id, file.id, parent.id, "Closed on Sundays."
    )
    check("add a child", child["data"]["content"] == "Closed on Sundays.", child)
    children = client.segments.list_child_chunks(dataset.id, file.id, parent.id)
    check(
        "list children",
        len(children.data) >= 2,
        [child_chunk.content for child_chunk in children.data],
    )
    last = children.data[-1]
    changed = client.segments.update_child_chunk(
        dataset.id, file.id, parent.id, last.id, "Closed on Mondays."
    )
    check("change a child", changed["data"]["content"] == "Closed on Mondays.")
    last = client.segments.list_child_chunks(dataset.id, file.id, parent.id).data[-1]
    client.segments.delete_child_chunk(dataset.id, file.id, parent.id, last.id)
    check(
        "delete a child",
        len(client.segments.list_child_chunks(dataset.id, file.id, parent.id).data)
        == len(children.data) - 1,
    )


def deleted_segment(dataset: Any, document: Any, segment: Any) -> None:
    """Delete a segment."""
    client.segments.delete(dataset.id, document.id, segment.id)
    remaining = client.segments.list(dataset.id, document.id).data
    is_gone = all("Danish" not in segment.content for segment in remaining)
    check("delete a segment", is_gone)


def metadata_fields(dataset: Any, document: Any) -> None:
    """Add and rename a metadata field, filter a search by it, and delete it."""
    field = client.metadata.create(dataset.id, "string", "team")
    check("add a field", field.name == "team", field.id)
    check(
        "rename a field",
        client.metadata.update(dataset.id, field.id, "group").name == "group",
    )
    client.metadata.update_document_metadata(
        dataset.id,
        [
            {
                "document_id": document.id,
                "metadata_list": [{"id": field.id, "value": "care", "name": "group"}],
            },
        ],
    )
    # Only documents whose metadata field has this value may be found.
    filtered = RetrievalModel.model_validate(
        {
            "search_method": "hybrid_search",
            "reranking_enable": False,
            "top_k": 3,
            "score_threshold_enabled": False,
            "metadata_filtering_conditions": {
                "logical_operator": "and",
                "conditions": [
                    {"name": "group", "comparison_operator": "is", "value": "care"}
                ],
            },
        }
    )
    answer = client.datasets.retrieve(
        dataset.id, query="When does the shop open?", retrieval_model=filtered
    )
    check(
        "filter by a field",
        answer.records
        and all(record.segment.document_id == document.id for record in answer.records),
    )
    check(
        "built-in fields",
        client.metadata.toggle_built_in(dataset.id, "enable").get("result")
        == "success",
    )
    fields = client.metadata.list(dataset.id)
    check(
        "list fields",
        fields.built_in_field_enabled
        and [metadata_field.name for metadata_field in fields.doc_metadata]
        == ["group"],
    )
    client.metadata.delete(dataset.id, field.id)
    check("delete a field", client.metadata.list(dataset.id).doc_metadata == [])


def tags(dataset: Any) -> None:
    """Create, bind, rename, unbind and delete a tag."""
    tag = client.tags.create("shop")
    client.tags.bind_to_dataset(dataset.id, [tag.id])
    check(
        "tags",
        [dataset_tag.name for dataset_tag in client.tags.get_dataset_tags(dataset.id)]
        == ["shop"],
        tag,
    )
    check(
        "rename a tag",
        client.tags.update(tag.id, "store").name == "store"
        and client.tags.list()[0].name == "store",
    )
    client.tags.unbind_from_dataset(dataset.id, tag.id)
    client.tags.delete(tag.id)
    check("delete a tag", client.tags.list() == [])


def deletion(dataset: Any, file: Any) -> None:
    """Disable and delete a document, then delete the dataset."""
    # A disabled document stays stored but must not be found.
    client.documents.batch_update_status(dataset.id, "disable", [file.id])
    answer = client.datasets.retrieve(
        dataset.id, query="When does the shop open?", retrieval_model=METHOD
    )
    check(
        "disable a document",
        all(record.segment.document_id != file.id for record in answer.records),
    )
    client.documents.batch_update_status(dataset.id, "enable", [file.id])
    client.documents.delete(dataset.id, file.id)
    check("delete a document", client.documents.list(dataset.id).total == 1)
    client.datasets.delete(dataset.id)
    try:
        client.datasets.get(dataset.id)
        check("delete a dataset", False)
    except DifyNotFoundError:
        check("delete a dataset", True)


main()
print(json.dumps(results))
