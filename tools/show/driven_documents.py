"""Documents of real datasource plugins: browsed and imported through the knowledge API, and
their text compared."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import httpx
import yaml

from tools.show.driven_models import GOOD_KEY, expect
from tools.show.played_services import CONTENT
from tools.show.real_plugins import filled_fields

_INDEX_SECONDS = 60.0
_CODE = (
    "def main(text):\n"
    "    parts = text if isinstance(text, list) else [text]\n"
    "    return {'chunks': [part for part in parts if part.strip()]}"
)


class Gateway(Protocol):
    """A running gateway."""

    client: httpx.Client

    def install(self, folder: Path) -> Any:
        """Pack and install a plugin."""
        ...

    def uninstall(self, plugin: str) -> None:
        """Remove a plugin."""
        ...

    def store_credential(self, provider: str, values: Mapping[str, Any]) -> None:
        """Store a credential of a datasource."""
        ...

    def dataset_key(self) -> str:
        """Return a key for the knowledge API."""
        ...


@dataclass(frozen=True, kw_only=True)
class DocumentCase:
    """A datasource whose documents are imported."""

    source_type: str
    """As pipelines have it, such as `website_crawl`."""
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What a person enters before browsing."""
    credentials: tuple[str, ...] = ()
    """Fields of a credential that is signed in for; empty if the plugin has a form."""


DOCUMENTS: Mapping[str, DocumentCase] = {
    "datasources/firecrawl_datasource": DocumentCase(
        source_type="website_crawl",
        inputs={"url": "https://page.example", "limit": 1},
    ),
    "datasources/tavily_datasource": DocumentCase(
        source_type="website_crawl", inputs={"query": "fountain"}
    ),
    "datasources/notion_datasource": DocumentCase(source_type="online_document"),
    "datasources/box_datasource": DocumentCase(
        source_type="online_drive", credentials=("access_token", "refresh_token")
    ),
}
"""One of each type at least."""


def pipeline(plugin: str, provider: str, datasource: str, source_type: str) -> str:
    """Return the file of a pipeline that keeps what a datasource offers, unsplit."""
    nodes: dict[str, dict[str, Any]] = {
        "source": {
            "type": "datasource",
            "provider_type": source_type,
            "plugin_id": plugin,
            "provider_name": provider,
            "datasource_name": datasource,
        },
        "read": {
            "type": "document-extractor",
            "variable_selector": ["source", "file"],
        },
        "chunks": {
            "type": "code",
            "code_language": "python3",
            "code": _CODE,
            "outputs": {"chunks": {"type": "array[string]"}},
        },
        "keep": {
            "type": "knowledge-index",
            "index_chunk_variable_selector": ["chunks", "chunks"],
            "chunk_structure": "text_model",
            "indexing_technique": "economy",
        },
    }
    path = ["source", "chunks", "keep"]
    text = ["source", "content"]
    # A drive offers files, which have to be read.
    if source_type == "online_drive":
        path.insert(1, "read")
        text = ["read", "text"]
    nodes["chunks"]["variables"] = [{"variable": "text", "value_selector": text}]
    graph = {
        "nodes": [
            {"id": name, "data": {"title": name, **nodes[name]}} for name in path
        ],
        "edges": [
            {"source": source, "target": target} for source, target in pairwise(path)
        ],
    }
    return yaml.dump(
        {
            "kind": "rag_pipeline",
            "version": "0.1.0",
            "rag_pipeline": {"name": f"{plugin} {datasource}"},
            "workflow": {"rag_pipeline_variables": [], "graph": graph},
        }
    )


class _Intake:
    """A pipeline with its dataset, used as a client of the knowledge API does."""

    def __init__(self, gateway: Gateway, source_type: str, file: str) -> None:
        added = gateway.client.post("/admin/v1/apps", json={"file": file})
        expect(added.status_code == 201, added.text)
        self._dataset = added.json()["dataset"]
        self._path = f"/v1/datasets/{self._dataset}"
        self._client = gateway.client
        self._headers = {"authorization": f"Bearer {gateway.dataset_key()}"}
        self._source_type = source_type

    def _post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        answer = self._client.post(
            f"{self._path}{path}",
            json={**body, "datasource_type": self._source_type, "is_published": True},
            headers=self._headers,
        )
        expect(answer.status_code == 200, answer.text)
        return answer

    def _get(self, path: str) -> Any:
        return self._client.get(f"{self._path}{path}", headers=self._headers).json()

    def offers(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Browse the source and return what it offers, as its documents' sources."""
        path = "/pipeline/datasource/nodes/source/run"
        lines = self._post(path, {"inputs": inputs}).text.splitlines()
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        expect(events[-1]["event"] == "datasource_completed", events)
        return _sources(self._source_type, events[-1]["data"])

    def texts(self, sources: list[Any]) -> list[str]:
        """Import documents and return the texts of their segments."""
        body: dict[str, Any] = {
            "start_node_id": "source",
            "inputs": {},
            "datasource_info_list": sources,
        }
        documents = self._post("/pipeline/run", body).json()["documents"]
        expect(bool(documents), body)
        return [text for item in documents for text in self._segments(item["id"])]

    def _segments(self, document: str) -> list[str]:
        until = time.monotonic() + _INDEX_SECONDS
        view = self._get(f"/documents/{document}")
        while view["indexing_status"] not in ("completed", "error"):
            expect(time.monotonic() < until, view)
            time.sleep(0.1)
            view = self._get(f"/documents/{document}")
        expect(view["indexing_status"] == "completed", view)
        segments = self._get(f"/documents/{document}/segments")["data"]
        return [segment["content"] for segment in segments]


def _sources(source_type: str, offered: Any) -> list[Any]:
    """Return what a person chooses of an offer: all of it."""
    if source_type == "online_document":
        return [
            {"workspace_id": workspace["workspace_id"], "page": page}
            for workspace in offered
            for page in workspace["pages"]
        ]
    if source_type == "online_drive":
        return [
            {**file, "bucket": bucket.get("bucket")}
            for bucket in offered
            for file in bucket["files"]
        ]
    # Crawlers have several names for the address of a page.
    return [
        {**page, "url": page.get("source_url") or page.get("url")} for page in offered
    ]


def document_checks(
    gateway: Gateway, folder: Path, name: str
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the check that what a datasource offers becomes documents with its text."""
    case = DOCUMENTS[name]
    installed = gateway.install(folder / name)
    try:
        provider = installed.declaration.datasource

        def becomes_documents() -> None:
            """The text of the documents is that of the source."""
            secrets = [
                item.name for item in provider.credentials_schema if item.is_secret
            ]
            values = {
                **filled_fields(provider.credentials_schema, ""),
                **dict.fromkeys((*secrets, *case.credentials), GOOD_KEY),
            }
            plugin, own_name = installed.plugin_id, provider.identity.name
            gateway.store_credential(f"{plugin}/{own_name}", values)
            datasource = provider.datasources[0].identity.name
            file = pipeline(plugin, own_name, datasource, case.source_type)
            intake = _Intake(gateway, case.source_type, file)
            texts = intake.texts(intake.offers(case.inputs))
            # Pages may begin with their title.
            expect(len(texts) == 1 and texts[0].strip().endswith(CONTENT), texts)

        yield f"{case.source_type} to documents", becomes_documents
    finally:
        gateway.uninstall(installed.plugin_id)
