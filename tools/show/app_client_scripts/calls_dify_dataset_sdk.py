"""Runs within an environment that holds dify-dataset-sdk alone."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GUIDE = (
    "# Returns\n\nGoods can be sent back within 30 days.\n\n# Shipping\n\nParcels leave on the same day before noon.\n"
)


def main() -> None:
    from dify_dataset_sdk import DifyDatasetClient
    from dify_dataset_sdk._exceptions import DifyConflictError, DifyNotFoundError
    from dify_dataset_sdk.datasets.models import RetrievalModel
    from dify_dataset_sdk.documents.models import ProcessRule

    told = json.loads(sys.argv[1])
    seen: list[tuple[str, bool, str]] = []

    def check(name: str, ok: Any, what: Any = "") -> None:
        seen.append((name, bool(ok), str(what)[:120]))

    client = DifyDatasetClient(api_key=told["datasets"], base_url=told["base"].removesuffix("/v1"))

    def done(dataset: str, batch: str) -> Any:
        for _ in range(600):
            (one,) = client.documents.get_indexing_status(dataset, batch).data
            if one.indexing_status in ("completed", "error"):
                return one
            time.sleep(0.1)
        raise TimeoutError(batch)

    models = client.models.list_embedding_models()
    names = [model["model"] for provider in models.data for model in provider["models"]]
    check("embedding models", "use-multilingual-v3" in names, names)
    method = RetrievalModel(
        search_method="hybrid_search", reranking_enable=False, top_k=3, score_threshold_enabled=False
    )
    one = client.datasets.create(
        name="guide",
        description="what customers ask",
        indexing_technique="high_quality",
        embedding_model="use-multilingual-v3",
        embedding_model_provider="local",
        retrieval_model=method,
    )
    check("create a dataset", one.name == "guide" and one.indexing_technique == "high_quality", one.id)
    try:
        client.datasets.create(name="guide")
        check("the same name again", False)
    except DifyConflictError as error:
        check("the same name again", True, error)
    found = client.datasets.list(page=1, limit=10)
    check("list datasets", found.total == 1 and not found.has_more, found.total)
    check("one dataset", client.datasets.get(one.id).embedding_model == "use-multilingual-v3")
    changed = client.datasets.update(one.id, description="returns and shipping", permission="all_team_members")
    check(
        "change a dataset", changed.description == "returns and shipping" and changed.permission == "all_team_members"
    )
    made = client.documents.create_by_text(one.id, name="guide", text=GUIDE, process_rule=ProcessRule(mode="automatic"))
    check(
        "a document by text",
        made.document.name == "guide" and made.document.indexing_status in ("waiting", "indexing"),
        made.batch,
    )
    status = done(one.id, made.batch)
    check(
        "its indexing",
        status.indexing_status == "completed" and status.completed_segments == status.total_segments,
        status,
    )
    rule = ProcessRule.model_validate(
        {
            "mode": "hierarchical",
            "rules": {
                "pre_processing_rules": [{"id": "remove_extra_spaces", "enabled": True}],
                "segmentation": {"separator": "\n\n", "max_tokens": 500},
                "parent_mode": "paragraph",
                "subchunk_segmentation": {"separator": "\n", "max_tokens": 200, "chunk_overlap": 0},
            },
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "opening.md"
        path.write_text("# Opening\n\nThe shop opens at nine.\n\nIt closes at six.\n", "utf-8")
        file = client.documents.create_by_file(one.id, path, doc_form="hierarchical_model", process_rule=rule)
        check("a document by file", file.document.doc_form == "hierarchical_model", file.document.name)
        check("its indexing, too", done(one.id, file.batch).indexing_status == "completed")
        path.write_text("# Opening\n\nThe shop opens at ten.\n\nIt closes at seven.\n", "utf-8")
        again = client.documents.update_by_file(one.id, file.document.id, path, name="hours")
        check(
            "the file again",
            done(one.id, again.batch).indexing_status == "completed" and again.document.name == "hours",
        )
    documents = client.documents.list(one.id)
    check("list documents", documents.total == 2, [each["name"] for each in documents.data])
    check("find documents by name", client.documents.list(one.id, keyword="gui").total == 1)
    detail = client.documents.get(one.id, made.document.id)
    check("one document", getattr(detail, "word_count", 0) or detail, detail)
    told_file = client.documents.get_upload_file(one.id, file.document.id)
    check("where its file is", told_file["url"].startswith("http"), told_file["name"])
    text = client.documents.update_by_text(
        one.id, made.document.id, name="guide 2", text=GUIDE + "\n# Gifts\n\nGifts are wrapped for free.\n"
    )
    check(
        "a document's other text",
        done(one.id, text.batch).indexing_status == "completed" and text.document.name == "guide 2",
    )
    answer = client.datasets.retrieve(one.id, query="When does the shop open?", retrieval_model=method)
    first = answer.records[0]
    check("retrieve", "ten" in (first.segment.content or ""), first.segment.content)
    check("with the child that was found", first.child_chunks and first.child_chunks[0].score > 0, first.child_chunks)
    answer = client.datasets.retrieve(one.id, query="Are gifts wrapped?", retrieval_model=method)
    check(
        "what was changed is found",
        "free" in (answer.records[0].segment.content or ""),
        answer.records[0].segment.content,
    )
    segments = client.segments.list(one.id, made.document.id)
    check("list segments", len(segments.data) > 2, len(segments.data))
    new = client.segments.create(one.id, made.document.id, [{"content": "We speak Dutch.", "keywords": ["dutch"]}])
    check(
        "add a segment", new.data[0].content == "We speak Dutch." and new.data[0].keywords == ["dutch"], new.data[0].id
    )
    got = client.segments.get(one.id, made.document.id, new.data[0].id)
    check("one segment", got["data"]["content"] == "We speak Dutch.")
    client.segments.update(one.id, made.document.id, new.data[0].id, {"content": "We speak Danish."})
    answer = client.datasets.retrieve(one.id, query="Danish", retrieval_model=method)
    check("change a segment", any("Danish" in (each.segment.content or "") for each in answer.records))
    parent = client.segments.list(one.id, file.document.id).data[-1]
    child = client.segments.create_child_chunk(one.id, file.document.id, parent.id, "Closed on Sundays.")
    check("add a child", child["data"]["content"] == "Closed on Sundays.", child)
    children = client.segments.list_child_chunks(one.id, file.document.id, parent.id)
    check("list children", len(children.data) >= 2, [each.content for each in children.data])
    last = children.data[-1]
    changed = client.segments.update_child_chunk(one.id, file.document.id, parent.id, last.id, "Closed on Mondays.")
    check("change a child", changed["data"]["content"] == "Closed on Mondays.")
    last = client.segments.list_child_chunks(one.id, file.document.id, parent.id).data[-1]
    client.segments.delete_child_chunk(one.id, file.document.id, parent.id, last.id)
    check(
        "delete a child",
        len(client.segments.list_child_chunks(one.id, file.document.id, parent.id).data) == len(children.data) - 1,
    )
    client.segments.delete(one.id, made.document.id, new.data[0].id)
    check(
        "delete a segment",
        all("Danish" not in each.content for each in client.segments.list(one.id, made.document.id).data),
    )
    field = client.metadata.create(one.id, "string", "team")
    check("add a field", field.name == "team", field.id)
    check("rename a field", client.metadata.update(one.id, field.id, "group").name == "group")
    client.metadata.update_document_metadata(
        one.id,
        [
            {"document_id": made.document.id, "metadata_list": [{"id": field.id, "value": "care", "name": "group"}]},
        ],
    )
    filtered = RetrievalModel.model_validate(
        {
            "search_method": "hybrid_search",
            "reranking_enable": False,
            "top_k": 3,
            "score_threshold_enabled": False,
            "metadata_filtering_conditions": {
                "logical_operator": "and",
                "conditions": [{"name": "group", "comparison_operator": "is", "value": "care"}],
            },
        }
    )
    answer = client.datasets.retrieve(one.id, query="When does the shop open?", retrieval_model=filtered)
    check(
        "filter by it", answer.records and all(each.segment.document_id == made.document.id for each in answer.records)
    )
    check("built-in fields", client.metadata.toggle_built_in(one.id, "enable").get("result") == "success")
    fields = client.metadata.list(one.id)
    check("list fields", fields.built_in_field_enabled and [each.name for each in fields.doc_metadata] == ["group"])
    client.metadata.delete(one.id, field.id)
    check("delete a field", client.metadata.list(one.id).doc_metadata == [])
    tag = client.tags.create("shop")
    client.tags.bind_to_dataset(one.id, [tag.id])
    check("tags", [each.name for each in client.tags.get_dataset_tags(one.id)] == ["shop"], tag)
    check("rename a tag", client.tags.update(tag.id, "store").name == "store" and client.tags.list()[0].name == "store")
    client.tags.unbind_from_dataset(one.id, tag.id)
    client.tags.delete(tag.id)
    check("delete a tag", client.tags.list() == [])
    client.documents.batch_update_status(one.id, "disable", [file.document.id])
    answer = client.datasets.retrieve(one.id, query="When does the shop open?", retrieval_model=method)
    check("switch a document off", all(each.segment.document_id != file.document.id for each in answer.records))
    client.documents.batch_update_status(one.id, "enable", [file.document.id])
    client.documents.delete(one.id, file.document.id)
    check("delete a document", client.documents.list(one.id).total == 1)
    client.datasets.delete(one.id)
    try:
        client.datasets.get(one.id)
        check("delete a dataset", False)
    except DifyNotFoundError:
        check("delete a dataset", True)
    print(json.dumps(seen))


main()
