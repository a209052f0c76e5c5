"""Runs within an environment that holds dify-knowledge-sdk alone."""

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
    from dify_knowledge_sdk.client import DifyDatasetClient

    told = json.loads(sys.argv[1])
    seen: list[tuple[str, bool, str]] = []

    def check(name: str, ok: Any, what: Any = "") -> None:
        seen.append((name, bool(ok), str(what)[:120]))

    client = DifyDatasetClient(api_key=told["datasets"], base_url=told["base"].removesuffix("/v1"))

    def done(dataset: str, batch: str) -> Any:
        for _ in range(600):
            (one,) = client.get_document_indexing_status(dataset, batch).data
            if one.indexing_status in ("completed", "error"):
                return one
            time.sleep(0.1)
        raise TimeoutError(batch)

    one = client.create_dataset(name="knowledge", permission="only_me", description="as the older client knows it")
    check("create a dataset", one.name == "knowledge", one.id)
    check("list datasets", client.list_datasets().total == 1)
    rules = {
        "rules": {
            "pre_processing_rules": [{"id": "remove_urls_emails", "enabled": True}],
            "segmentation": {"separator": "\\n\\n", "max_tokens": 300},
        }
    }
    made = client.create_document_by_text(one.id, "guide", GUIDE, process_rule_mode="custom", process_rule_config=rules)
    check("a document by text", made.document.name == "guide", made.batch)
    check("its indexing", done(one.id, made.batch).indexing_status == "completed")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes.txt"
        path.write_text("Parcels to islands take a week.", "utf-8")
        file = client.create_document_by_file(one.id, str(path), name="islands")
        check("a document by file", done(one.id, file.batch).indexing_status == "completed", file.document.name)
        path.write_text("Parcels to islands take two weeks.", "utf-8")
        again = client.update_document_by_file(one.id, file.document.id, str(path), name="islands")
        check("the file again", done(one.id, again.batch).indexing_status == "completed")
    text = client.update_document_by_text(one.id, made.document.id, "guide 2", GUIDE + "\n\nMore.")
    check("a document's other text", done(one.id, text.batch).indexing_status == "completed", text.document.name)
    check("list documents", client.list_documents(one.id).total == 2)
    segments = client.list_segments(one.id, made.document.id)
    check("list segments", len(segments.data) >= 4, len(segments.data))
    new = client.create_segments(one.id, made.document.id, [{"content": "We speak Dutch."}])
    check("add a segment", new.data[0].content == "We speak Dutch.")
    # Its update_segment reads the answer as a list of segments; the API, Dify's and ours, gives one.
    client.delete_segment(one.id, made.document.id, new.data[0].id)
    check("delete a segment", len(client.list_segments(one.id, made.document.id).data) == len(segments.data))
    field = client.create_metadata_field(one.id, "number", "year")
    check("add a field", field.type == "number", field.id)
    check("rename a field", client.update_metadata_field(one.id, field.id, "vintage").name == "vintage")
    client.update_document_metadata(
        one.id,
        [
            {"document_id": made.document.id, "metadata_list": [{"id": field.id, "value": "2024", "name": "vintage"}]},
        ],
    )
    check("list fields", [each.name for each in client.list_metadata_fields(one.id).doc_metadata] == ["vintage"])
    client.toggle_built_in_metadata_field(one.id, "enable")
    check("built-in fields", client.list_metadata_fields(one.id).built_in_field_enabled is not None)
    client.delete_metadata_field(one.id, field.id)
    check("delete a field", client.list_metadata_fields(one.id).doc_metadata == [])
    client.delete_document(one.id, file.document.id)
    check("delete a document", client.list_documents(one.id).total == 1)
    client.delete_dataset(one.id)
    check("delete a dataset", client.list_datasets().total == 0)
    print(json.dumps(seen))


main()
