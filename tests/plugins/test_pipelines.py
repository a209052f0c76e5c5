"""Tests for RAG pipelines in the knowledge API: uploads, plugin sources, errors."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from modelyard.testing.knowledge import HashEmbedder
from tests.plugins.conftest import PluginGateway

_SPLIT = "def main(text, by):\n    parts = text if isinstance(text, list) else [text]\n    return {'chunks': [c for t in parts for c in t.split(by) if c.strip()]}"


def pipeline() -> str:
    """Return a pipeline for notes of a plugin source or for files.

    It splits at the separator in the caller's inputs.
    """

    def chunker(text: list[str]) -> dict[str, Any]:
        return {
            "type": "code", "code_language": "python3", "code": _SPLIT, "outputs": {"chunks": {"type": "array[string]"}},
            "variables": [
                {"variable": "text", "value_selector": text},
                {"variable": "by", "value_selector": ["rag", "shared", "by"]},
            ],
        }  # fmt: skip

    def index(chunks: list[str]) -> dict[str, Any]:
        return {
            "type": "knowledge-index",
            "index_chunk_variable_selector": chunks,
            "chunk_structure": "text_model",
        }

    nodes: dict[str, dict[str, Any]] = {
        "notes": {
            "type": "datasource", "provider_type": "online_document", "plugin_id": "modelyard/shelf",
            "provider_name": "shelf", "datasource_name": "notes",
        },
        "files": {"type": "datasource", "provider_type": "local_file", "fileExtensions": ["txt"]},
        "read": {"type": "document-extractor", "variable_selector": ["files", "file"]},
        "cut_notes": chunker(["notes", "content"]), "cut_files": chunker(["read", "text"]),
        "keep_notes": index(["cut_notes", "chunks"]), "keep_files": index(["cut_files", "chunks"]),
    }  # fmt: skip
    edges = [("notes", "cut_notes"), ("cut_notes", "keep_notes"), ("files", "read"), ("read", "cut_files"), ("cut_files", "keep_files")]  # fmt: skip
    variables = [
        {
            "belong_to_node_id": "shared",
            "variable": "by",
            "type": "text-input",
            "label": "Split at",
            "required": True,
        },
        {
            "belong_to_node_id": "notes",
            "variable": "mood",
            "type": "select",
            "label": "Mood",
            "options": ["a", "b"],
        },
    ]
    return yaml.dump({
        "kind": "rag_pipeline", "version": "0.1.0", "rag_pipeline": {"name": "Intake"},
        "workflow": {
            "rag_pipeline_variables": variables,
            "graph": {
                "nodes": [{"id": name, "data": {"title": name.title(), **data}} for name, data in nodes.items()],
                "edges": [{"source": source, "target": target} for source, target in edges],
            },
        },
    })  # fmt: skip


class PipelineClient:
    def __init__(self, gateway: PluginGateway) -> None:
        self.gateway = gateway
        self.key = gateway.run_on_loop(
            gateway.yard.services.tenancy.dataset_keys.create("default")
        )
        self.http = httpx.Client(
            base_url=gateway.running.url,
            headers={"authorization": f"Bearer {self.key}"},
            timeout=60,
        )
        self.admin = httpx.Client(base_url=gateway.running.origin, timeout=60)
        added = self.admin.post("/admin/v1/apps", json={"file": pipeline()}).json()
        self.app, self.dataset = added["id"], added["dataset"]
        self.base = f"/datasets/{self.dataset}/pipeline"

    def run(self, **body: Any) -> httpx.Response:
        return self.http.post(
            f"{self.base}/run",
            json={"inputs": {"by": ". "}, "is_published": True, **body},
        )

    def segments(self, document: str) -> list[str]:
        for _ in range(200):
            document_view = self.http.get(
                f"/datasets/{self.dataset}/documents/{document}"
            ).json()
            if document_view["indexing_status"] in ("completed", "error"):
                break
            time.sleep(0.02)
        assert document_view["indexing_status"] == "completed", document_view
        segments = self.http.get(
            f"/datasets/{self.dataset}/documents/{document}/segments"
        ).json()["data"]
        return [segment["content"] for segment in segments]


@pytest.fixture
def called(plugged: Callable[..., PluginGateway]) -> Iterator[PipelineClient]:
    gateway = plugged(embedder=HashEmbedder())
    pipeline_client = PipelineClient(gateway)
    yield pipeline_client
    pipeline_client.http.close()
    pipeline_client.admin.close()


def test_a_file_becomes_a_document_of_the_dataset(called: PipelineClient):
    up = called.http.post(
        "/datasets/pipeline/file-upload",
        files={"file": ("guide.txt", b"One. Two. Three.")},
    )
    assert (up.status_code, up.json()["name"], up.json()["size"]) == (
        201,
        "guide.txt",
        16,
    )
    info = [{"reference": up.json()["id"], "name": "Guide"}]
    result = called.run(
        datasource_type="local_file", start_node_id="files", datasource_info_list=info
    ).json()
    (document,) = result["documents"]
    assert (document["name"], document["data_source_type"], document["error"]) == (
        "Guide",
        "local_file",
        None,
    )
    assert result["dataset"]["id"] == called.dataset
    assert called.segments(document["id"]) == ["One", "Two", "Three."]
    status = called.http.get(
        f"/datasets/{called.dataset}/documents/{result['batch']}/indexing-status"
    ).json()
    assert [status_row["id"] for status_row in status["data"]] == [document["id"]]


def test_a_run_streams_its_nodes(called: PipelineClient):
    up = called.http.post(
        "/datasets/pipeline/file-upload", files={"file": ("a.txt", b"One. Two")}
    ).json()
    body = {
        "datasource_type": "local_file",
        "start_node_id": "files",
        "response_mode": "streaming",
    }
    with called.http.stream(
        "POST", f"{called.base}/run",
        json={**body, "inputs": {"by": ". "}, "datasource_info_list": [{"reference": up["id"]}]},
    ) as answer:  # fmt: skip
        events = [
            json.loads(line[6:])
            for line in answer.iter_lines()
            if line.startswith("data: ")
        ]
    assert [event["event"] for event in events if event["event"].startswith("workflow")] == ["workflow_started", "workflow_finished"]  # fmt: skip
    assert [event["data"]["node_id"] for event in events if event["event"] == "node_started"] == ["files", "read", "cut_files", "keep_files"]  # fmt: skip


def test_a_plugins_data_source_is_browsed_and_imported(
    called: PipelineClient,
):
    called.gateway.install("shelf")
    called.gateway.run_on_loop(
        called.gateway.parts.credentials.add(
            "default", "modelyard/shelf/shelf", "mine", {"token": "x"}
        )
    )
    notes, files = called.http.get(f"{called.base}/datasource-plugins").json()
    assert (notes["node_id"], notes["datasource_type"], notes["plugin_id"]) == ("notes", "online_document", "modelyard/shelf")  # fmt: skip
    assert [
        (credential["name"], credential["is_default"])
        for credential in notes["credentials"]
    ] == [("mine", True)]
    assert [variable["variable"] for variable in notes["user_input_variables"]] == [
        "by",
        "mood",
    ]
    assert [variable["variable"] for variable in files["user_input_variables"]] == [
        "by"
    ]
    body = {"inputs": {}, "datasource_type": "online_document", "is_published": True}
    response = called.http.post(f"{called.base}/datasource/nodes/notes/run", json=body)
    (event,) = [
        json.loads(line[6:])
        for line in response.text.splitlines()
        if line.startswith("data: ")
    ]
    pages = event["data"][0]["pages"]
    assert (event["event"], [page["page_name"] for page in pages]) == (
        "datasource_completed",
        ["Note 1", "Note 2", "Note 3"],
    )
    infos = [{"workspace_id": "shelf", "page": page} for page in pages[:2]]
    result = called.run(
        datasource_type="online_document",
        start_node_id="notes",
        datasource_info_list=infos,
    ).json()
    assert [document["name"] for document in result["documents"]] == [
        "Note 1",
        "Note 2",
    ]
    assert called.segments(result["documents"][1]["id"]) == ["Call the plumber."]


def test_a_document_that_cannot_be_fetched_gets_a_reason(called: PipelineClient):
    called.gateway.install("shelf")
    infos = [{"workspace_id": "shelf", "page": {"page_id": "nine", "type": "page"}}]
    response = called.run(
        datasource_type="online_document",
        start_node_id="notes",
        datasource_info_list=infos,
    )
    assert (response.status_code, response.json()["code"]) == (
        500,
        "pipeline_run_error",
    )
    (failed_document,) = called.http.get(
        f"/datasets/{called.dataset}/documents"
    ).json()["data"]
    assert (failed_document["indexing_status"], failed_document["name"]) == (
        "error",
        "nine",
    )
    assert failed_document["error"]


def test_invalid_requests_get_an_error(called: PipelineClient):
    nowhere = "00000000-0000-0000-0000-000000000000"
    plain = called.http.post(
        "/datasets", json={"name": "plain", "indexing_technique": "economy"}
    ).json()["id"]
    info = [{"reference": nowhere}]
    page = {"datasource_type": "online_document", "start_node_id": "notes"}
    for path, body, status, message in (
        (f"{called.base}/run", {**page, "start_node_id": ""}, 400, "'start_node_id' is required"),
        (f"{called.base}/run", {**page, "start_node_id": "nope"}, 404, "no datasource node 'nope'"),
        (f"{called.base}/run", {**page, "datasource_type": "local_file"}, 400, "has datasource type online_document"),
        (f"{called.base}/run", {**page, "datasource_type": "x"}, 400, "datasource_type must be"),
        (f"{called.base}/run", {**page, "datasource_info_list": [{"page": 1}]}, 400, "'page' with its 'page_id'"),
        (f"{called.base}/run", {**page, "datasource_info_list": [7]}, 400, "a list of objects"),
        (f"{called.base}/run", page, 400, "contains no documents"),
        (f"{called.base}/run", {**page, "response_mode": "x"}, 400, "response_mode must be"),
        (f"{called.base}/run", {"datasource_type": "local_file", "start_node_id": "files", "datasource_info_list": info}, 400, "not found"),
        (f"{called.base}/datasource/nodes/files/run", {"datasource_type": "local_file"}, 400, "cannot be browsed"),
        (f"{called.base}/datasource/nodes/notes/run", {"datasource_type": "online_document"}, 404, "is installed"),
        (f"/datasets/{plain}/pipeline/run", page, 404, "does not belong to a pipeline"),
        (f"/datasets/{nowhere}/pipeline/run", page, 404, "does not exist"),
        ("/datasets/pipeline/file-upload", {}, 400, "upload your file"),
    ):  # fmt: skip
        response = called.http.post(path, json=body)
        assert (response.status_code, message in response.json()["message"]) == (
            status,
            True,
        ), (path, body, response.text)
    missing = called.http.post(f"{called.base}/run", json={**page, "inputs": {}, "datasource_info_list": [{"workspace_id": "shelf", "page": {"page_id": "1"}}]})  # fmt: skip
    assert (missing.status_code, missing.json()["message"]) == (
        400,
        "by is required in input form",
    )
    odd = called.http.post(
        "/datasets/pipeline/file-upload", files={"file": ("noending", b"x")}
    )
    assert odd.status_code == 415


def test_a_draft_is_tested_before_publication(called: PipelineClient):
    changed = pipeline().replace("Split at", "Cut at")
    saved = called.admin.put(
        f"/admin/v1/apps/{called.app}/file", json={"file": changed}
    ).json()
    assert (saved["has_draft"], saved["is_published"]) == (True, True)

    def label(**query: str) -> str:
        listed = called.http.get(
            f"{called.base}/datasource-plugins", params=query
        ).json()
        return listed[1]["user_input_variables"][0]["label"]

    assert (label(), label(is_published="false")) == ("Split at", "Cut at")
    called.admin.post(
        f"/admin/v1/apps/{called.app}/publish",
        json={"name": "two", "note": "Another word."},
    )
    assert label() == "Cut at"
