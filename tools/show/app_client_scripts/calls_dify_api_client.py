"""Runs within an environment that holds dify-api-client alone."""

import json
import sys
import time
import urllib.request
from typing import Any

GUIDE = (
    "# Returns\n\nGoods can be sent back within 30 days.\n\n# Shipping\n\nParcels leave on the same day before noon.\n"
)


def main() -> None:
    from dify_client import DifyClient
    from dify_client.models import dataset as shapes

    told = json.loads(sys.argv[1])
    seen: list[tuple[str, bool, str]] = []

    def check(name: str, ok: Any, what: Any = "") -> None:
        seen.append((name, bool(ok), str(what)[:120]))

    client = DifyClient(api_key=told["datasets"], api_base=told["base"])

    def sent(path: str, body: Any = None, method: str = "POST") -> Any:
        """What this client has no method for."""
        data = json.dumps(body).encode() if body is not None else None
        headers = {"authorization": f"Bearer {told['datasets']}", "content-type": "application/json"}
        request = urllib.request.Request(told["base"] + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")

    dataset = sent("/datasets", {"name": "api client"})["id"]

    def done(batch: str) -> str:
        for _ in range(600):
            status = sent(f"/datasets/{dataset}/documents/{batch}/indexing-status", method="GET")["data"][0][
                "indexing_status"
            ]
            if status in ("completed", "error"):
                return status
            time.sleep(0.1)
        raise TimeoutError(batch)

    rule = shapes.ProcessRule(mode="automatic")
    local = {"embedding_model": "use-multilingual-v3", "embedding_model_provider": "local"}
    made = client.create_document_by_text(
        dataset,
        shapes.CreateDocumentByTextRequest(
            name="guide",
            text=GUIDE,
            indexing_technique="high_quality",
            process_rule=rule,
            **local,
        ),
    )
    check("a document by text", made.document.name == "guide", made.batch)
    check("its indexing", done(made.batch) == "completed")
    file = client.create_document_by_file(
        dataset,
        ("notes.md", b"# Notes\n\nParcels to islands take a week.", "text/markdown"),
        shapes.CreateDocumentByFileRequest(
            indexing_technique="high_quality",
            process_rule=rule,
            **local,
        ),
    )
    check("a document by file", done(file.batch) == "completed", file.document.name)
    documents = client.get_documents(dataset)
    check("list documents", documents.total == 2, [one.name for one in documents.data])
    added = client.add_chunk_to_document(
        dataset,
        made.document.id,
        shapes.AddChunkToDocumentRequest(segments=[shapes.Segment(content="We speak Dutch.", keywords=["dutch"])]),
    )
    check("add a segment", added.data[0].keywords == ["dutch"], added.data[0].id)
    segments = client.get_segments(dataset, made.document.id, shapes.GetSegmentsRequest())
    check("list segments", segments.total >= 3, segments.total)
    changed = client.update_segment(
        dataset, made.document.id, added.data[0].id, shapes.UpdateSegmentRequest(content="We speak Danish.")
    )
    check("change a segment", changed.data.content == "We speak Danish.")
    field = client.create_document_metadata(dataset, shapes.CreateDocumentMetadataRequest(type="string", name="team"))
    check("add a field", field.name == "team", field.id)
    client.update_document_metadata(
        dataset,
        shapes.UpdateDocumentMetadataRequest(
            operation_data=[
                shapes.DocumentMetadataOperationData(
                    document_id=made.document.id,
                    metadata_list=[
                        shapes.DocumentMetadataUpdate(id=field.id, name="team", value="care"),
                    ],
                ),
            ]
        ),
    )
    fields = client.get_metadata_list(dataset)
    check("list fields", [(one.name, one.count) for one in fields.doc_metadata] == [("team", 1)], fields.doc_metadata)
    print(json.dumps(seen))


main()
