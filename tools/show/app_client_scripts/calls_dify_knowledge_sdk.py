"""Checks of a knowledge client; runs in an environment with only dify-knowledge-sdk
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

GUIDE = "# Returns\n\nGoods can be sent back within 30 days.\n\n# Shipping\n\nParcels leave on the same day before noon.\n"


def main() -> None:
    """Run all checks and print [[name, ok, detail], ...]."""
    from dify_knowledge_sdk.client import DifyDatasetClient

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

    def wait_for_indexing(dataset: str, batch: str) -> Any:
        """Wait for a batch and return its final status. Raises TimeoutError after a
        minute."""
        for _ in range(600):
            (status,) = client.get_document_indexing_status(dataset, batch).data
            if status.indexing_status in ("completed", "error"):
                return status
            time.sleep(0.1)
        raise TimeoutError(batch)

    dataset = client.create_dataset(
        name="knowledge",
        permission="only_me",
        description="as the older client knows it",
    )
    check("create a dataset", dataset.name == "knowledge", dataset.id)
    check("list datasets", client.list_datasets().total == 1)
    rules = {
        "rules": {
            "pre_processing_rules": [{"id": "remove_urls_emails", "enabled": True}],
            # The separator is escaped: the server has to interpret it as two line
            # breaks.
            "segmentation": {"separator": "\\n\\n", "max_tokens": 300},
        }
    }
    created = client.create_document_by_text(
        dataset.id,
        "guide",
        GUIDE,
        process_rule_mode="custom",
        process_rule_config=rules,
    )
    check("a document by text", created.document.name == "guide", created.batch)
    check(
        "its indexing",
        wait_for_indexing(dataset.id, created.batch).indexing_status == "completed",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes.txt"
        path.write_text("Parcels to islands take a week.", "utf-8")
        file = client.create_document_by_file(dataset.id, str(path), name="islands")
        check(
            "a document by file",
            wait_for_indexing(dataset.id, file.batch).indexing_status == "completed",
            file.document.name,
        )
        # The file is replaced by another version with the same name.
        path.write_text("Parcels to islands take two weeks.", "utf-8")
        updated_file = client.update_document_by_file(
            dataset.id, file.document.id, str(path), name="islands"
        )
        check(
            "the file again",
            wait_for_indexing(dataset.id, updated_file.batch).indexing_status
            == "completed",
        )
    text = client.update_document_by_text(
        dataset.id, created.document.id, "guide 2", GUIDE + "\n\nMore."
    )
    check(
        "a document's other text",
        wait_for_indexing(dataset.id, text.batch).indexing_status == "completed",
        text.document.name,
    )
    check("list documents", client.list_documents(dataset.id).total == 2)
    segments = client.list_segments(dataset.id, created.document.id)
    check("list segments", len(segments.data) >= 4, len(segments.data))
    new = client.create_segments(
        dataset.id, created.document.id, [{"content": "We speak Dutch."}]
    )
    check("add a segment", new.data[0].content == "We speak Dutch.")
    # Its update_segment is not tested: it expects a list of segments, but the API of
    # Dify and of Modelyard returns a single one.
    client.delete_segment(dataset.id, created.document.id, new.data[0].id)
    check(
        "delete a segment",
        len(client.list_segments(dataset.id, created.document.id).data)
        == len(segments.data),
    )
    field = client.create_metadata_field(dataset.id, "number", "year")
    check("add a field", field.type == "number", field.id)
    check(
        "rename a field",
        client.update_metadata_field(dataset.id, field.id, "vintage").name == "vintage",
    )
    client.update_document_metadata(
        dataset.id,
        [
            {
                "document_id": created.document.id,
                "metadata_list": [{"id": field.id, "value": "2024", "name": "vintage"}],
            },
        ],
    )
    check(
        "list fields",
        [
            metadata_field.name
            for metadata_field in client.list_metadata_fields(dataset.id).doc_metadata
        ]
        == ["vintage"],
    )
    client.toggle_built_in_metadata_field(dataset.id, "enable")
    check(
        "built-in fields",
        client.list_metadata_fields(dataset.id).built_in_field_enabled is not None,
    )
    client.delete_metadata_field(dataset.id, field.id)
    check("delete a field", client.list_metadata_fields(dataset.id).doc_metadata == [])
    client.delete_document(dataset.id, file.document.id)
    check("delete a document", client.list_documents(dataset.id).total == 1)
    client.delete_dataset(dataset.id)
    check("delete a dataset", client.list_datasets().total == 0)
    print(json.dumps(results))


main()
