"""An application whose embedding model is a hash, for one coroutine per test."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.app import Modelyard
from modelyard.app.knowledge import KnowledgeServices
from modelyard.base.errors import ModelyardError
from modelyard.base.settings import Settings
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Dataset, DatasetSettings, Document
from modelyard.testing.knowledge import HashEmbedder


@dataclass
class Bench:
    """The application and its knowledge services."""

    yard: Modelyard
    parts: KnowledgeServices
    embedder: HashEmbedder
    written: list[str] = field(default_factory=list[str])

    @property
    def datasets(self) -> Datasets:
        return self.parts.datasets

    async def dataset(self, name: str = "d", **settings: Any) -> Dataset:
        return await self.datasets.create(
            "default", name, settings=DatasetSettings(**settings)
        )

    async def add(
        self, dataset: Dataset, *texts: str, **options: Any
    ) -> list[Document]:
        added = await self.datasets.add_texts(
            dataset,
            [(f"n{index}", text) for index, text in enumerate(texts)],
            **options,
        )
        return await self.datasets.wait(dataset, added[0].batch, 60)

    async def find(self, dataset: Dataset, query: str, **options: Any) -> Any:
        return await self.datasets.search("default", [dataset.id], query, **options)


@dataclass
class Models:
    """A mock reranker and a mock language model with fixed answers."""

    answers: dict[str, str] = field(default_factory=dict[str, str])
    error: ModelyardError | None = None
    prompts: list[str] = field(default_factory=list[str])

    async def rerank(self, tenant: str, model: str, query: str, docs: Any) -> Any:
        if self.error is not None:
            raise self.error
        query_terms = set(query.lower().split())
        scored = [
            (
                index,
                len(query_terms & set(doc.lower().split())) / max(1, len(query_terms)),
            )
            for index, doc in enumerate(docs)
        ]
        return sorted(scored, key=lambda pair: -pair[1])

    async def complete(self, tenant: str, model: str, prompt: str) -> str:
        self.prompts.append(prompt)
        if self.error is not None:
            raise self.error
        return next(
            (answer for part, answer in self.answers.items() if part in prompt), ""
        )

    async def stream_reply(self, tenant: str, model: str, prompt: str) -> Any:
        for token in (await self.complete(tenant, model, prompt)).split(" "):
            yield token + " "


Run = Callable[[Callable[[Bench], Awaitable[None]]], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def go(work: Callable[[Bench], Awaitable[None]], **changes: Any) -> None:
        async def run_work() -> None:
            settings = msgspec.convert(
                {"home": str(tmp_path / "home"), **changes}, Settings
            )
            embedder = HashEmbedder()
            async with Modelyard(settings, environ={}, embedder=embedder) as yard:
                parts = yard.knowledge
                await work(Bench(yard, parts, embedder))

        asyncio.run(run_work())

    return go
