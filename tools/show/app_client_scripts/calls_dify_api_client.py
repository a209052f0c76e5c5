"""Checks of a knowledge client; runs in an environment with only dify-api-client
installed.

The argument is a JSON object with the server's address and keys. Prints the checks as
one line of JSON.
"""

import json
import sys
import time
import urllib.request
from typing import Any

from dify_client import DifyClient
from dify_client.models import dataset as shapes

GUIDE = "# Returns\n\nGoods can be sent back within 30 days.\n\n# Shipping\n\nParcels leave on the same day before noon.\n"
server_info = json.loads(sys.argv[1])
results: list[tuple[str, bool, str]] = []


def check(name: str, ok: Any, detail: Any = "") -> None:
    """Record a check; the detail is cut to 120 characters."""
    results.append((name, bool(ok), str(detail)[:120]))


client = DifyClient(api_key=server_info["datasets"], api_base=server_info["base"])


def sent(path: str, body: Any = None, method: str = "POST") -> Any:
    """Call an endpoint that this client has no method for and return its JSON."""
    data = json.dumps(body).encode() if body is not None else None
    headers = {
        "authorization": f"Bearer {server_info['datasets']}",
        "content-type": "application/json",
    }
    request = urllib.request.Request(
        server_info["base"] + path, data, headers, method=method
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"{}")


dataset = sent("/datasets", {"name": "api client"})["id"]


def wait_for_indexing(batch: str) -> str:
    """Wait for a batch and return its indexing status. Raises TimeoutError after a
    minute."""
    path = f"/datasets/{dataset}/documents/{batch}/indexing-status"
    for _ in range(600):
        status = sent(path, method="GET")["data"][0]["indexing_status"]
        if status in ("completed", "error"):
            return status
        time.sleep(0.1)
    raise TimeoutError(batch)


def main() -> None:
    """Run all checks."""
    document = documents()
    segments_of(document)
    metadata_fields(document)


def documents() -> str:
    """Create a document from text and one from a file, and list them. Returns the id of
    the first one."""
    rule = shapes.ProcessRule(mode="automatic")
    # The local embedding model, so that indexing needs no provider.
    local = {
        "embedding_model": "use-multilingual-v3",
        "embedding_model_provider": "local",
    }
    created = client.create_document_by_text(
        dataset,
        shapes.CreateDocumentByTextRequest(
            name="guide",
            text=GUIDE,
            indexing_technique="high_quality",
            process_rule=rule,
            **local,
        ),
    )
    check("a document by text", created.document.name == "guide", created.batch)
    check("indexing of the text", wait_for_indexing(created.batch) == "completed")
    file = client.create_document_by_file(
        dataset,
        ("notes.md", b"# Notes\n\nParcels to islands take a week.", "text/markdown"),
        shapes.CreateDocumentByFileRequest(
            indexing_technique="high_quality",
            process_rule=rule,
            **local,
        ),
    )
    check(
        "a document by file",
        wait_for_indexing(file.batch) == "completed",
        file.document.name,
    )
    documents = client.get_documents(dataset)
    # Both documents, the one from text and the one from a file, must be listed.
    check(
        "list documents",
        documents.total == 2,
        [document.name for document in documents.data],
    )
    return created.document.id


def segments_of(document: str) -> None:
    """Add, list and change segments."""
    added = client.add_chunk_to_document(
        dataset,
        document,
        shapes.AddChunkToDocumentRequest(
            segments=[shapes.Segment(content="We speak Dutch.", keywords=["dutch"])]
        ),
    )
    check("add a segment", added.data[0].keywords == ["dutch"], added.data[0].id)
    segments = client.get_segments(dataset, document, shapes.GetSegmentsRequest())
    # The small sections of the document share one.
    check("list segments", segments.total == 2, segments.total)
    changed = client.update_segment(
        dataset,
        document,
        added.data[0].id,
        shapes.UpdateSegmentRequest(content="We speak Danish."),
    )
    check("change a segment", changed.data.content == "We speak Danish.")


def metadata_fields(document: str) -> None:
    """Add a metadata field, set it on one document, and count its uses."""
    field = client.create_document_metadata(
        dataset, shapes.CreateDocumentMetadataRequest(type="string", name="team")
    )
    check("add a field", field.name == "team", field.id)
    # Set the new field on one document; the list below must count that use.
    client.update_document_metadata(
        dataset,
        shapes.UpdateDocumentMetadataRequest(
            operation_data=[
                shapes.DocumentMetadataOperationData(
                    document_id=document,
                    metadata_list=[
                        shapes.DocumentMetadataUpdate(
                            id=field.id, name="team", value="care"
                        ),
                    ],
                ),
            ]
        ),
    )
    fields = client.get_metadata_list(dataset)
    check(
        "list fields",
        [
            (metadata_field.name, metadata_field.count)
            for metadata_field in fields.doc_metadata
        ]
        == [("team", 1)],
        fields.doc_metadata,
    )


main()
print(json.dumps(results))
