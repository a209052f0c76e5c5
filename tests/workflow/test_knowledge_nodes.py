"""Tests for the knowledge nodes on real datasets.

Retrieved segments have the shape that apps read, and pipelines end in a dataset.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.knowledge.entities import (
    DatasetSettings,
    ProcessRule,
    Rules,
    Segmentation,
)
from modelyard.testing.knowledge import HashEmbedder
from modelyard.workflow.dsl import loads
from modelyard.workflow.nodes.knowledge_retrieval import RetrievalData
from modelyard.workflow.services import TenantDatasets
from modelyard.workflow.single_run import outcome_of, stream

LINES = ProcessRule(
    mode="custom",
    rules=Rules(segmentation=Segmentation(separator="\n\n", max_tokens=200)),
)
PIPELINE = """
kind: rag_pipeline
version: 0.1.0
rag_pipeline: {name: Intake}
workflow:
  graph:
    nodes:
      - {id: source, data: {type: datasource, title: Source}}
      - {id: keep, data: {type: knowledge-index, title: Keep, chunk_structure: CHUNKS, index_chunk_variable_selector: [source, chunks]}}
    edges: [{source: source, target: keep}]
"""


def in_yard(tmp_path: Path, work: Any) -> None:
    async def run_work() -> None:
        async with Modelyard(
            Settings(home=str(tmp_path)), environ={}, embedder=HashEmbedder()
        ) as yard:
            await work(yard)

    asyncio.run(run_work())


async def create_dataset(
    yard: Modelyard, name: str, *texts: tuple[str, Mapping[str, Any]]
) -> str:
    datasets = yard.knowledge.datasets
    dataset = await datasets.create(
        "default", name, settings=DatasetSettings(process_rule=LINES)
    )
    added = await datasets.add_texts(
        dataset,
        [
            (f"{name}{index}", text, dict(metadata))
            for index, (text, metadata) in enumerate(texts)
        ],
    )
    await datasets.wait(dataset, added[0].batch, 30)
    return dataset.id


def test_the_retrieval_node_returns_segments_as_apps_read_them(tmp_path: Path):
    async def work(yard: Modelyard) -> None:
        shop = await create_dataset(
            yard,
            "shop",
            ("Parcels leave before noon.", {"year": 2024}),
            ("Gifts are wrapped.", {"year": 2020}),
        )
        zoo = await create_dataset(yard, "zoo", ("The lynx sleeps at noon.", {}))
        nodes = TenantDatasets(
            yard.knowledge.datasets, "default", "app", [{"9f0c": "zoo"}]
        )

        async def retrieve(**data: Any) -> list[dict[str, Any]]:
            retrieval_data = msgspec.convert(
                {"dataset_ids": [shop], **data}, RetrievalData
            )
            return await nodes.retrieve(
                data.get("query", "When do parcels leave?"), retrieval_data, files=[]
            )

        (first, *_) = await retrieve(multiple_retrieval_config={"top_k": 2})
        _check_segment(first)
        segments = await retrieve(
            dataset_ids=[shop, "9f0c"],
            query="noon",
            multiple_retrieval_config={"top_k": 5},
        )
        metadata = [segment["metadata"] for segment in segments]
        assert {fields["dataset_id"] for fields in metadata} == {shop, zoo}
        positions = [fields["position"] for fields in metadata]
        assert positions == list(range(1, len(segments) + 1))
        await _check_options(retrieve)

    in_yard(tmp_path, work)


def _check_segment(segment: dict[str, Any]) -> None:
    """A segment has the fields that Dify's apps read."""
    assert segment["content"] == "Parcels leave before noon."
    assert segment["title"] == "shop0"
    metadata = segment["metadata"]
    expected = {
        "_source": "knowledge",
        "position": 1,
        "dataset_name": "shop",
        "retriever_from": "workflow",
    }
    assert {name: metadata[name] for name in expected} == expected
    assert metadata["doc_metadata"]["year"] == 2024
    assert metadata["segment_word_count"] == len(segment["content"])


async def _check_options(
    retrieve: Callable[..., Awaitable[list[dict[str, Any]]]],
) -> None:
    """Filters, thresholds, rerank models and unknown datasets have their effect."""
    condition = {"name": "year", "comparison_operator": "<", "value": "2022"}
    filtered = await retrieve(
        metadata_filtering_mode="manual",
        multiple_retrieval_config={"top_k": 5},
        metadata_filtering_conditions={"conditions": [condition]},
    )
    assert [segment["content"] for segment in filtered] == ["Gifts are wrapped."]
    strict = {"top_k": 5, "score_threshold": 0.95}
    assert await retrieve(multiple_retrieval_config=strict) == []
    # The rerank model is not installed, so the order of the search remains.
    unknown_reranker = {
        "top_k": 1,
        "reranking_mode": "reranking_model",
        "reranking_model": {"provider": "langgenius/jina/jina", "model": "x"},
    }
    assert len(await retrieve(multiple_retrieval_config=unknown_reranker)) == 1
    assert await retrieve(dataset_ids=["gone"]) == []


def test_an_exported_pipeline_ends_in_a_dataset(tmp_path: Path):
    async def work(yard: Modelyard) -> None:
        datasets = yard.knowledge.datasets
        for chunk_structure, chunks in (
            ("text_model", ["Parcels leave before noon.", "Gifts are wrapped."]),
            ("hierarchical_model", {"parent_child_chunks": [{"parent_content": "All of shipping.", "child_contents": ["by ship", "by train"]}]}),
            ("qa_model", {"qa_chunks": [{"question": "When?", "answer": "At noon."}]}),
        ):  # fmt: skip
            app = loads(
                PIPELINE.replace("CHUNKS", chunk_structure).replace(
                    "Intake", chunk_structure
                )
            )
            last = None
            async for event in stream(app, yard, inputs={"chunks": chunks}):
                last = event
            outcome = outcome_of(last)
            assert outcome.error == "", outcome.error
            dataset = await datasets.get_by_id_or_name("default", app.name)
            documents, _ = await datasets.store.documents.list_page(
                "default", dataset.id
            )
            await datasets.wait(dataset, documents[0].batch, 30)
            retrieval = await datasets.search(
                "default", [dataset.id], "train noon gifts"
            )
            assert retrieval.hits, chunk_structure
            if chunk_structure == "hierarchical_model":
                assert retrieval.hits[0].children[0].content == "by train"
            # The same content is the same document: a run that resumes after a crash
            # does not add it twice.
            async for _ in stream(app, yard, inputs={"chunks": chunks}):
                pass
            assert (await datasets.store.documents.list_page("default", dataset.id))[
                1
            ] == 1

    in_yard(tmp_path, work)
