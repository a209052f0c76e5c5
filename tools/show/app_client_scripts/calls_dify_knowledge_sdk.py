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

from dify_knowledge_sdk.client import DifyDatasetClient

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


def wait_for_indexing(dataset: str, batch: str) -> Any:
    """Wait for a batch and return its final status. Raises TimeoutError after a
    minute."""
    for _ in range(600):
        (status,) = client.get_document_indexing_status(dataset, batch).data
        if status.indexing_status in ("completed", "error"):
            return status
        time.sleep(0.1)
    raise TimeoutError(batch)


def main() -> None:
    """Run all checks."""
    dataset = created_dataset()
    document = document_from_text(dataset)
    file = document_from_file(dataset)
    document_text(dataset, document)
    segments_of(dataset, document)
    metadata_fields(dataset, document)
    deletion(dataset, file)


def created_dataset() -> str:
    """Create and list a dataset. Returns its id."""
    description = "as the older client knows it"
    dataset = client.create_dataset(
        name="knowledge", permission="only_me", description=description
    )
    check("create a dataset", dataset.name == "knowledge", dataset.id)
    check("list datasets", client.list_datasets().total == 1)
    return dataset.id


def document_from_text(dataset: str) -> str:
    """Create a document from text and wait for its indexing. Returns its id."""
    rules = {
        "rules": {
            "pre_processing_rules": [{"id": "remove_urls_emails", "enabled": True}],
            # The separator is escaped: the server has to interpret it as two line
            # breaks.
            "segmentation": {"separator": "\\n\\n", "max_tokens": 300},
        }
    }
    created = client.create_document_by_text(
        dataset,
        "guide",
        GUIDE,
        process_rule_mode="custom",
        process_rule_config=rules,
    )
    check("a document by text", created.document.name == "guide", created.batch)
    check(
        "indexing of the text",
        wait_for_indexing(dataset, created.batch).indexing_status == "completed",
    )
    return created.document.id


def document_from_file(dataset: str) -> str:
    """Create a document from a file, then replace the file. Returns its id."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes.txt"
        path.write_text("Parcels to islands take a week.", "utf-8")
        file = client.create_document_by_file(dataset, str(path), name="islands")
        check(
            "a document by file",
            wait_for_indexing(dataset, file.batch).indexing_status == "completed",
            file.document.name,
        )
        # The file is replaced by another version with the same name.
        path.write_text("Parcels to islands take two weeks.", "utf-8")
        updated_file = client.update_document_by_file(
            dataset, file.document.id, str(path), name="islands"
        )
        check(
            "replace the file",
            wait_for_indexing(dataset, updated_file.batch).indexing_status
            == "completed",
        )
    return file.document.id


def document_text(dataset: str, document: str) -> None:
    """Change the text of a document, and list the documents."""
    text = client.update_document_by_text(
        dataset, document, "guide 2", GUIDE + "\n\nMore."
    )
    check(
        "replace the text",
        wait_for_indexing(dataset, text.batch).indexing_status == "completed",
        text.document.name,
    )
    check("list documents", client.list_documents(dataset).total == 2)


def segments_of(dataset: str, document: str) -> None:
    """List, add and delete segments."""
    segments = client.list_segments(dataset, document)
    check("list segments", len(segments.data) >= 4, len(segments.data))
    new = client.create_segments(dataset, document, [{"content": "We speak Dutch."}])
    check("add a segment", new.data[0].content == "We speak Dutch.")
    # Its update_segment is not tested: it expects a list of segments, but the API of
    # Dify and of Modelyard returns a single one.
    client.delete_segment(dataset, document, new.data[0].id)
    check(
        "delete a segment",
        len(client.list_segments(dataset, document).data) == len(segments.data),
    )


def metadata_fields(dataset: str, document: str) -> None:
    """Add, rename, set, list and delete a metadata field."""
    field = client.create_metadata_field(dataset, "number", "year")
    check("add a field", field.type == "number", field.id)
    check(
        "rename a field",
        client.update_metadata_field(dataset, field.id, "vintage").name == "vintage",
    )
    client.update_document_metadata(
        dataset,
        [
            {
                "document_id": document,
                "metadata_list": [{"id": field.id, "value": "2024", "name": "vintage"}],
            },
        ],
    )
    check(
        "list fields",
        [
            metadata_field.name
            for metadata_field in client.list_metadata_fields(dataset).doc_metadata
        ]
        == ["vintage"],
    )
    client.toggle_built_in_metadata_field(dataset, "enable")
    check(
        "built-in fields",
        client.list_metadata_fields(dataset).built_in_field_enabled is not None,
    )
    client.delete_metadata_field(dataset, field.id)
    check("delete a field", client.list_metadata_fields(dataset).doc_metadata == [])


def deletion(dataset: str, file: str) -> None:
    """Delete a document and the dataset."""
    client.delete_document(dataset, file)
    check("delete a document", client.list_documents(dataset).total == 1)
    client.delete_dataset(dataset)
    check("delete a dataset", client.list_datasets().total == 0)


main()
print(json.dumps(results))
