"""Tests for the knowledge nodes on real datasets.

Retrieved segments have the shape that apps read, and pipelines end in a dataset.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.knowledge.entities import (
    DatasetSettings,
    ProcessRule,
    Rules,
    Segmentation,
)
from modelyard.testing.knowledge import HashEmbedder
from modelyard.testing.workflows import ScriptedModel, scripted_models
from modelyard.workflow.dsl import AppMapping, loads
from modelyard.workflow.nodes.knowledge_retrieval import RetrievalData
from modelyard.workflow.services import TenantDatasets, mapped_model
from modelyard.workflow.single_run import outcome_of, stream
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

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


def test_the_model_that_chooses_a_dataset_is_the_one_of_the_mapping(tmp_path: Path):
    model = ScriptedModel(answers=[("Which one", "2")])
    definition, builder = scripted_models(model)

    async def work() -> None:
        async with Modelyard(
            Settings(home=str(tmp_path)),
            definitions=[definition],
            builders={"scripted": builder},
            environ={},
            embedder=HashEmbedder(),
        ) as yard:
            await create_dataset(yard, "shop", ("Parcels leave before noon.", {}))
            await create_dataset(yard, "zoo", ("The lynx sleeps at noon.", {}))
            # The file names a model of another provider; the mapping has a substitute.
            app = loads(SINGLE, mapping=AppMapping(models={"*": "scripted/model"}))
            assert {f"{need.kind} {need.name}" for need in app.requirements} == {
                "model tongyi/qwen-plus-chat",
                "model tongyi/qwen-filter",
                "dataset shop",
                "dataset zoo",
            }
            datasets = yard.services.workflows.services(app).datasets
            assert datasets is not None
            data = app.levels[""].nodes["find"].data
            segments = await datasets.retrieve("noon", data, files=[])
            assert [segment["title"] for segment in segments] == ["zoo0"]
            assert len(model.requests) == 1

    asyncio.run(work())


SINGLE = """
app: {name: Find, mode: workflow}
workflow:
  graph:
    nodes:
      - {id: start, data: {type: start, title: Start}}
      - id: find
        data:
          type: knowledge-retrieval
          title: Find
          query_variable_selector: [sys, query]
          dataset_ids: [shop, zoo]
          retrieval_mode: single
          single_retrieval_config: {model: {provider: tongyi, name: qwen-plus-chat, mode: chat}}
          metadata_filtering_mode: automatic
          metadata_model_config: {provider: tongyi, name: qwen-filter}
          multiple_retrieval_config: {top_k: 4}
    edges: [{source: start, target: find}]
"""


@pytest.mark.parametrize(
    ("mappings", "expected"),
    [
        ([], None),
        ([{}], None),
        ([{"*": "a/b"}], "a/b"),
        ([{"gpt": "short", "*": "any"}], "short"),
        ([{"openai/gpt": "own", "gpt": "short"}], "own"),
        ([{"langgenius/openai/openai/gpt": "full", "openai/gpt": "own"}], "full"),
        ([{"other": "x"}, {"gpt": "second"}], "second"),
        ([{"*": "first"}, {"gpt": "second"}], "first"),
    ],
)
def test_the_most_specific_name_of_the_first_mapping_counts(
    mappings: list[dict[str, str]], expected: str | None
):
    assert mapped_model("langgenius/openai/openai", "gpt", mappings) == expected


def test_conditions_on_metadata_take_the_values_of_variables(bench: Bench):
    values = [
        "{{#start.team#}}", "{{#fill.years#}}", "{{#fill.year#}}", "team {{#start.team#}}",
        ["{{#start.team#}}", "red"], 5, None,
    ]  # fmt: skip
    conditions = [
        {"name": "x", "comparison_operator": "in", "value": value} for value in values
    ]
    app = app_of(
        {
            "start": {"type": "start", "variables": [{"variable": "team", "type": "text-input"}]},
            "fill": {"type": "code", "code_language": "python3", "variables": [],
                     "code": "def main():\n    return {'years': [2023, 2024], 'year': 2024}",
                     "outputs": {"years": {"type": "array[number]"}, "year": {"type": "number"}}},
            "find": {"type": "knowledge-retrieval", "query_variable_selector": ["start", "team"], "dataset_ids": ["d"],
                     "metadata_filtering_mode": "manual", "metadata_filtering_conditions": {"conditions": conditions}},
            "end": {"type": "end", "outputs": []},
        },
        ["start > fill", "fill > find", "find > end"],
    )  # fmt: skip
    assert app.warnings == []
    bench.run(app, inputs={"team": "a, b {{#env.KEY#}}"})
    ((_, data),) = bench.datasets.seen
    rendered = [each.value for each in data.metadata_filtering_conditions.conditions]
    # A value is data: what looks like a reference in it stays text.
    team = "a, b {{#env.KEY#}}"
    assert rendered == [
        team,
        [2023, 2024],
        2024,
        f"team {team}",
        [team, "red"],
        5,
        None,
    ]
