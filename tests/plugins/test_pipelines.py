"""RAG pipelines through the knowledge API: a file that is uploaded, a page of a plugin's source; what goes wrong."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from modelyard.testing.knowledge import HashEmbedder
from tests.plugins.conftest import Plugged

_SPLIT = "def main(text, by):\n    parts = text if isinstance(text, list) else [text]\n    return {'chunks': [c for t in parts for c in t.split(by) if c.strip()]}"


def pipeline() -> str:
    """Notes of the shelf, or files; split at what the caller says."""

    def chunker(text: list[str]) -> dict[str, Any]:
        return {
            "type": "code", "code_language": "python3", "code": _SPLIT, "outputs": {"chunks": {"type": "array[string]"}},
            "variables": [
                {"variable": "text", "value_selector": text},
                {"variable": "by", "value_selector": ["rag", "shared", "by"]},
            ],
        }  # fmt: skip

    def index(chunks: list[str]) -> dict[str, Any]:
        return {"type": "knowledge-index", "index_chunk_variable_selector": chunks, "chunk_structure": "text_model"}

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
        {"belong_to_node_id": "shared", "variable": "by", "type": "text-input", "label": "Split at", "required": True},
        {"belong_to_node_id": "notes", "variable": "mood", "type": "select", "label": "Mood", "options": ["a", "b"]},
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


class Called:
    def __init__(self, one: Plugged) -> None:
        self.one = one
        self.key = one.do(one.yard.services.tenancy.dataset_keys.make("default"))
        self.http = httpx.Client(base_url=one.running.url, headers={"authorization": f"Bearer {self.key}"}, timeout=60)
        self.admin = httpx.Client(base_url=one.running.origin, timeout=60)
        added = self.admin.post("/admin/v1/apps", json={"file": pipeline()}).json()
        self.app, self.dataset = added["id"], added["dataset"]
        self.base = f"/datasets/{self.dataset}/pipeline"

    def run(self, **body: Any) -> httpx.Response:
        return self.http.post(f"{self.base}/run", json={"inputs": {"by": ". "}, "is_published": True, **body})

    def segments(self, document: str) -> list[str]:
        for _ in range(200):
            told = self.http.get(f"/datasets/{self.dataset}/documents/{document}").json()
            if told["indexing_status"] in ("completed", "error"):
                break
            time.sleep(0.02)
        assert told["indexing_status"] == "completed", told
        found = self.http.get(f"/datasets/{self.dataset}/documents/{document}/segments").json()["data"]
        return [one["content"] for one in found]


@pytest.fixture
def called(plugged: Callable[..., Plugged]) -> Iterator[Called]:
    one = plugged(embedder=HashEmbedder())
    found = Called(one)
    yield found
    found.http.close()
    found.admin.close()


def test_a_file_becomes_a_document_of_the_dataset(called: Called):
    up = called.http.post("/datasets/pipeline/file-upload", files={"file": ("guide.txt", b"One. Two. Three.")})
    assert (up.status_code, up.json()["name"], up.json()["size"]) == (201, "guide.txt", 16)
    info = [{"reference": up.json()["id"], "name": "Guide"}]
    told = called.run(datasource_type="local_file", start_node_id="files", datasource_info_list=info).json()
    (document,) = told["documents"]
    assert (document["name"], document["data_source_type"], document["error"]) == ("Guide", "local_file", None)
    assert told["dataset"]["id"] == called.dataset
    assert called.segments(document["id"]) == ["One", "Two", "Three."]
    status = called.http.get(f"/datasets/{called.dataset}/documents/{told['batch']}/indexing-status").json()
    assert [one["id"] for one in status["data"]] == [document["id"]]


def test_a_run_streams_its_nodes(called: Called):
    up = called.http.post("/datasets/pipeline/file-upload", files={"file": ("a.txt", b"One. Two")}).json()
    body = {"datasource_type": "local_file", "start_node_id": "files", "response_mode": "streaming"}
    with called.http.stream(
        "POST", f"{called.base}/run",
        json={**body, "inputs": {"by": ". "}, "datasource_info_list": [{"reference": up["id"]}]},
    ) as answer:  # fmt: skip
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert [one["event"] for one in events if one["event"].startswith("workflow")] == ["workflow_started", "workflow_finished"]  # fmt: skip
    assert [one["data"]["node_id"] for one in events if one["event"] == "node_started"] == ["files", "read", "cut_files", "keep_files"]  # fmt: skip


def test_a_plugins_source_is_looked_into_and_its_pages_are_taken(called: Called):
    called.one.install("shelf")
    called.one.do(called.one.parts.credentials.add("default", "modelyard/shelf/shelf", "mine", {"token": "x"}))
    notes, files = called.http.get(f"{called.base}/datasource-plugins").json()
    assert (notes["node_id"], notes["datasource_type"], notes["plugin_id"]) == ("notes", "online_document", "modelyard/shelf")  # fmt: skip
    assert [(one["name"], one["is_default"]) for one in notes["credentials"]] == [("mine", True)]
    assert [one["variable"] for one in notes["user_input_variables"]] == ["by", "mood"]
    assert [one["variable"] for one in files["user_input_variables"]] == ["by"]
    body = {"inputs": {}, "datasource_type": "online_document", "is_published": True}
    seen = called.http.post(f"{called.base}/datasource/nodes/notes/run", json=body)
    (event,) = [json.loads(line[6:]) for line in seen.text.splitlines() if line.startswith("data: ")]
    pages = event["data"][0]["pages"]
    assert (event["event"], [one["page_name"] for one in pages]) == (
        "datasource_completed",
        ["Note 1", "Note 2", "Note 3"],
    )
    infos = [{"workspace_id": "shelf", "page": page} for page in pages[:2]]
    told = called.run(datasource_type="online_document", start_node_id="notes", datasource_info_list=infos).json()
    assert [one["name"] for one in told["documents"]] == ["Note 1", "Note 2"]
    assert called.segments(told["documents"][1]["id"]) == ["Call the plumber."]


def test_a_document_that_cannot_be_had_says_why(called: Called):
    called.one.install("shelf")
    infos = [{"workspace_id": "shelf", "page": {"page_id": "nine", "type": "page"}}]
    told = called.run(datasource_type="online_document", start_node_id="notes", datasource_info_list=infos)
    assert (told.status_code, told.json()["code"]) == (500, "pipeline_run_error")
    (kept,) = called.http.get(f"/datasets/{called.dataset}/documents").json()["data"]
    assert (kept["indexing_status"], kept["name"]) == ("error", "nine")
    assert kept["error"]


def test_what_callers_do_wrong_is_said(called: Called):
    nowhere = "00000000-0000-0000-0000-000000000000"
    plain = called.http.post("/datasets", json={"name": "plain", "indexing_technique": "economy"}).json()["id"]
    info = [{"reference": nowhere}]
    page = {"datasource_type": "online_document", "start_node_id": "notes"}
    for path, body, status, words in (
        (f"{called.base}/run", {**page, "start_node_id": ""}, 400, "start_node_id is required"),
        (f"{called.base}/run", {**page, "start_node_id": "nope"}, 404, "no datasource node 'nope'"),
        (f"{called.base}/run", {**page, "datasource_type": "local_file"}, 400, "is a source of type online_document"),
        (f"{called.base}/run", {**page, "datasource_type": "x"}, 400, "datasource_type must be"),
        (f"{called.base}/run", {**page, "datasource_info_list": [{"page": 1}]}, 400, "'page' with its 'page_id'"),
        (f"{called.base}/run", {**page, "datasource_info_list": [7]}, 400, "a list of objects"),
        (f"{called.base}/run", page, 400, "names nothing"),
        (f"{called.base}/run", {**page, "response_mode": "x"}, 400, "response_mode must be"),
        (f"{called.base}/run", {"datasource_type": "local_file", "start_node_id": "files", "datasource_info_list": info}, 400, "was not uploaded here"),
        (f"{called.base}/datasource/nodes/files/run", {"datasource_type": "local_file"}, 400, "files are uploaded"),
        (f"{called.base}/datasource/nodes/notes/run", {"datasource_type": "online_document"}, 404, "is installed"),
        (f"/datasets/{plain}/pipeline/run", page, 404, "is filled by no pipeline"),
        (f"/datasets/{nowhere}/pipeline/run", page, 404, "does not exist"),
        ("/datasets/pipeline/file-upload", {}, 400, "upload your file"),
    ):  # fmt: skip
        told = called.http.post(path, json=body)
        assert (told.status_code, words in told.json()["message"]) == (status, True), (path, body, told.text)
    missing = called.http.post(f"{called.base}/run", json={**page, "inputs": {}, "datasource_info_list": [{"workspace_id": "shelf", "page": {"page_id": "1"}}]})  # fmt: skip
    assert (missing.status_code, missing.json()["message"]) == (400, "by is required in input form")
    odd = called.http.post("/datasets/pipeline/file-upload", files={"file": ("noending", b"x")})
    assert odd.status_code == 415


def test_a_draft_is_tried_before_it_is_published(called: Called):
    changed = pipeline().replace("Split at", "Cut at")
    saved = called.admin.put(f"/admin/v1/apps/{called.app}/file", json={"file": changed}).json()
    assert (saved["has_draft"], saved["is_published"]) == (True, True)

    def label(**query: str) -> str:
        listed = called.http.get(f"{called.base}/datasource-plugins", params=query).json()
        return listed[1]["user_input_variables"][0]["label"]

    assert (label(), label(is_published="false")) == ("Split at", "Cut at")
    called.admin.post(f"/admin/v1/apps/{called.app}/publish", json={"name": "two", "note": "Another word."})
    assert label() == "Cut at"
