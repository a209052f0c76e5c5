"""Indexing and search of 5,000 and 100,000 segments, compared with LlamaIndex and
Haystack on the same texts and vectors, and with NumPy's exact search as the lower
bound.

No model is called on any side: vectors are looked up in a table.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import knowledge_data
from modelyard.app import Modelyard
from modelyard.app.knowledge import KnowledgeServices
from modelyard.base.settings import KnowledgeSettings, Settings
from modelyard.knowledge.answer import ContextBuilder
from modelyard.knowledge.entities import (
    Condition,
    Conditions,
    Dataset,
    DatasetSettings,
    ProcessRule,
    RetrievalSettings,
    SearchMethod,
)
from modelyard.knowledge.index.base import IndexKey, IndexQuery
from modelyard.knowledge.index.memory import MemoryIndex
from modelyard.knowledge.vectors import EmbeddingResult
from modelyard.plugins.environment import uv_path

ROOT = Path(__file__).parents[1]
SMALL, LARGE = 5_000, 100_000
CONCURRENT_SEARCHES = 8
"""Number of concurrent searches in the concurrency measurement."""


class PrecomputedEmbedder:
    """An embedder that returns precomputed vectors instead of calling a model."""

    def __init__(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        self._vectors_by_text = dict(zip(texts, vectors, strict=True))

    async def embed(
        self, tenant: str, model: str, texts: Sequence[str], *, is_query: bool = False
    ) -> EmbeddingResult:
        """Return the precomputed vectors of the texts. Raises KeyError for an unknown
        text."""
        del tenant, model, is_query
        return EmbeddingResult(
            np.stack([self._vectors_by_text[text] for text in texts]), "known/vectors"
        )


async def _time_calls(
    work: Callable[[int], Awaitable[Any]], count: int
) -> tuple[float, float]:
    """Await `work(index)` `count` times and return the median and 95th percentile in
    milliseconds."""
    times: list[float] = []
    for index in range(count):
        started_at = time.perf_counter()
        await work(index)
        times.append((time.perf_counter() - started_at) * 1000)
    times.sort()
    return round(times[len(times) // 2], 3), round(times[int(len(times) * 0.95)], 3)


async def _run_sequentially(
    work: Callable[[int, Any], Awaitable[Any]], indexes: Sequence[int], settings: Any
) -> None:
    """Await `work(index, settings)` for each index, one after the other."""
    for index in indexes:
        await work(index, settings)


async def _measure_modelyard(
    texts: Sequence[str],
    vectors: np.ndarray,
    questions: Sequence[str],
    query_vectors: np.ndarray,
) -> dict[str, Any]:
    """Index the texts with Modelyard; return its figures: times, memory and recall."""
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=home, knowledge=KnowledgeSettings(graph_from=20_000))
        embedder = PrecomputedEmbedder(
            [*texts, *questions], np.concatenate([vectors, query_vectors])
        )
        async with Modelyard(settings, environ={}, embedder=embedder) as yard:
            parts = yard.knowledge
            dataset, figures = await _measure_indexing(parts, texts)
            index: Any = parts.indexes.of(dataset)
            assert isinstance(index, MemoryIndex)
            space = await _measure_loading(parts, index, dataset, figures)
            searches = _Searches(
                parts, index, space, dataset, questions, query_vectors, figures
            )
            await searches.measure()
            files = Path(home).glob("modelyard.db*")
            figures["disk_mb"] = sum(file.stat().st_size for file in files) >> 20
    # Read after the last search, when the index and its graph are in memory.
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    figures["rss_mb"] = pages * os.sysconf("SC_PAGESIZE") >> 20
    return figures


async def _measure_indexing(
    parts: KnowledgeServices, texts: Sequence[str]
) -> tuple[Dataset, dict[str, Any]]:
    """Index the texts as a dataset; return it with the figures of the indexing."""
    rule = ProcessRule(mode="structure")
    dataset = await parts.datasets.create(
        "default", "bench", settings=DatasetSettings(process_rule=rule)
    )
    # The batch number is the metadata of the filtered search: each batch holds 1 % of
    # the documents.
    batch_size = max(1, len(texts) // 100)
    rows = [
        (str(index), text, {"batch": index // batch_size})
        for index, text in enumerate(texts)
    ]
    started_at, spent = time.perf_counter(), time.process_time()
    added = await parts.datasets.add_texts(dataset, rows)
    await parts.datasets.wait(dataset, added[0].batch)
    figures = {
        "index_s": round(time.perf_counter() - started_at, 2),
        "index_cpu_s": round(time.process_time() - spent, 2),
    }
    return dataset, figures


async def _measure_loading(
    parts: KnowledgeServices,
    index: MemoryIndex,
    dataset: Dataset,
    figures: dict[str, Any],
) -> IndexKey:
    """Load the index into memory and add the times to `figures`; return its key.
    Loading is timed apart from building the search graph."""
    started_at = time.perf_counter()
    # Read the dataset again: indexing has changed its generation and vector space.
    dataset = await parts.stored.datasets.get("default", dataset.id)
    space = IndexKey(
        "default", dataset.id, dataset.space, dataset.dimensions, dataset.generation
    )
    await index.sync_to_generation(space)
    figures["load_s"] = round(time.perf_counter() - started_at, 2)
    # The graph is built in the background; wait until it is complete.
    spent = time.process_time()
    await index.wait_for_graphs()
    graph_seconds = time.perf_counter() - started_at - figures["load_s"]
    figures["graph_s"] = round(graph_seconds, 2)
    figures["graph_cpu_s"] = round(time.process_time() - spent, 2)
    return space


@dataclass
class _Searches:
    """The searches of one dataset; their times and the recall go to `figures`."""

    parts: KnowledgeServices
    index: MemoryIndex
    space: IndexKey
    dataset: Dataset
    questions: Sequence[str]
    query_vectors: np.ndarray
    figures: dict[str, Any]
    matrix: np.ndarray = field(init=False)
    """The vectors in the order in which the index stores them."""

    async def measure(self) -> None:
        """Measure the recall, the index, the dataset and NumPy."""
        # Recall needs the vectors in the order in which the index stores them.
        rows = await self.parts.stored.entries.changes(
            self.space.dataset, self.space.number, 0, self.space.generation
        )
        self.matrix = np.stack(
            [np.frombuffer(raw_vector, np.float32) for raw_vector in rows.vectors]
        )
        await self._measure_recall(rows.ids)
        # A filter that leaves one document in a hundred.
        await self._measure_index(set(rows.documents[7::100]))
        await self._measure_dataset()
        self._measure_numpy()

    async def _measure_recall(self, entry_ids: Sequence[Any]) -> None:
        """Count how many of the ten truly nearest entries the index finds."""
        row_by_entry = {entry: row_index for row_index, entry in enumerate(entry_ids)}
        exact = np.argsort(-(self.query_vectors @ self.matrix.T), axis=1)[:, :10]
        hits = 0
        for query_vector, nearest in zip(self.query_vectors, exact, strict=True):
            matches = await self.index.search(
                self.space, IndexQuery(vector=query_vector, limit=10)
            )
            rows = {row_by_entry[hit.entry] for hit in matches}
            hits += len(rows & set(nearest.tolist()))
        self.figures["recall_10"] = round(hits / (10 * len(self.questions)), 4)

    async def _search(self, **options: Any) -> None:
        """Search the index directly, without the dataset's database."""
        await self.index.search(self.space, IndexQuery(limit=10, **options))

    async def _measure_index(self, batch_documents: set[Any]) -> None:
        """Measure searches of the index: by vectors, by words, by both, and by vectors
        among `batch_documents`."""
        figures, count = self.figures, len(self.questions)
        texts, vectors = self.questions, self.query_vectors
        figures["semantic_ms"], figures["semantic_95_ms"] = await _time_calls(
            lambda index: self._search(vector=vectors[index]), count
        )
        figures["words_ms"], _ = await _time_calls(
            lambda index: self._search(text=texts[index]), count
        )
        figures["hybrid_ms"], figures["hybrid_95_ms"] = await _time_calls(
            lambda index: self._search(vector=vectors[index], text=texts[index]), count
        )
        figures["filtered_ms"], _ = await _time_calls(
            lambda index: self._search(
                vector=vectors[index], documents=batch_documents
            ),
            count,
        )

    async def _search_dataset(self, index: int, settings: RetrievalSettings) -> Any:
        """Search the dataset as the gateway does: load the dataset, embed the question,
        search both indexes, load segments and documents, count hits."""
        return await self.parts.datasets.search(
            "default", [self.dataset.id], self.questions[index], settings=settings
        )

    async def _measure_dataset(self) -> None:
        """Measure complete searches of the dataset."""
        figures, count = self.figures, len(self.questions)
        hybrid = RetrievalSettings(top_k=10)
        figures["whole_hybrid_ms"], figures["whole_hybrid_95_ms"] = await _time_calls(
            lambda index: self._search_dataset(index, hybrid), count
        )
        figures["whole_hybrid_at_once_ms"] = await self._time_concurrently(hybrid)
        semantic = RetrievalSettings(top_k=10, search_method=SearchMethod.SEMANTIC)
        figures["whole_semantic_ms"], _ = await _time_calls(
            lambda index: self._search_dataset(index, semantic), count
        )
        condition = Condition(name="batch", comparison_operator="=", value=7)
        filtered = RetrievalSettings(
            top_k=10, metadata_filtering_conditions=Conditions(conditions=[condition])
        )
        # Warm-up: the first filtered search is not part of the measurement.
        await self._search_dataset(0, filtered)
        figures["whole_filtered_ms"], _ = await _time_calls(
            lambda index: self._search_dataset(index, filtered), min(count, 60)
        )

        async def cited(index: int) -> None:
            """Search and build the context with citations, which is the work before the
            first citation."""
            retrieval = await self._search_dataset(index, hybrid)
            ContextBuilder().build(retrieval.hits)

        figures["first_citation_ms"], _ = await _time_calls(cited, count)

    async def _time_concurrently(self, settings: RetrievalSettings) -> float:
        """Return the milliseconds per search if several run at once."""
        count = len(self.questions)
        started_at = time.perf_counter()
        # Each of the concurrent tasks takes every eighth question.
        await asyncio.gather(
            *(
                _run_sequentially(
                    self._search_dataset,
                    range(first_index, count, CONCURRENT_SEARCHES),
                    settings,
                )
                for first_index in range(CONCURRENT_SEARCHES)
            )
        )
        return round((time.perf_counter() - started_at) * 1000 / count, 3)

    def _measure_numpy(self) -> None:
        """Measure NumPy's exact search over the same matrix, without any index or
        database."""
        times: list[float] = []
        for query_vector in self.query_vectors:
            started_at = time.perf_counter()
            scores = self.matrix @ query_vector
            np.argpartition(scores, len(scores) - 10)[-10:]
            times.append((time.perf_counter() - started_at) * 1000)
        self.figures["numpy_exact_ms"] = round(sorted(times)[len(times) // 2], 3)


def _peer(name: str, folder: Path, max_queries: int) -> dict[str, Any] | str:
    """Return a peer's figures, or the reason as a string if it cannot be installed or
    fails.

    `max_queries` is the number of questions it is asked.
    """
    python = folder.parent / name / "bin" / "python"
    # The environment is created on the first call and reused for the second size.
    if not python.exists():
        subprocess.run(
            [uv_path(), "venv", "-q", "-p", sys.executable, str(folder.parent / name)],
            check=True,
        )
        locked = str(ROOT / "requirements" / "clients" / f"{name}.txt")
        # Copies, not hard links: LlamaIndex's NLTK refuses files with more than one
        # name.
        command = [
            uv_path(),
            "pip",
            "install",
            "-q",
            "--link-mode",
            "copy",
            "-p",
            str(python),
            "--require-hashes",
            "-r",
            locked,
        ]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            return f"cannot be installed: {installed.stderr[-200:]}"
    script = str(ROOT / "bench" / "knowledge_peer.py")
    # No telemetry and no downloads: both would be part of the measured times.
    environ = {
        **os.environ,
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
    }
    completed = subprocess.run(
        [str(python), script, name, str(folder), str(max_queries)],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )
    return (
        json.loads(completed.stdout.splitlines()[-1])
        if completed.returncode == 0
        else f"broke: {completed.stderr[-300:]}"
    )


def measure(data: Path, *, cache: Path | None = None) -> dict[str, Any]:
    """Return the figures by number of segments, then by system.

    `cache` is the folder in which the vectors are stored for the next run.
    """
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        cache_folder = cache or Path(name)
        texts, vectors, questions, query_vectors = knowledge_data.load(
            data, cache_folder, LARGE
        )
        for size in (SMALL, LARGE):
            folder = Path(name) / str(size)
            folder.mkdir()
            subset, rows = texts[:size], vectors[:size]
            (folder / "texts.json").write_text(
                json.dumps({"texts": subset, "questions": questions}), "utf-8"
            )
            np.save(folder / "vectors.npy", rows)
            np.save(folder / "asked.npy", query_vectors)
            # Each system runs in its own process, so that the measured memory is its
            # own.
            completed = subprocess.run(
                [sys.executable, "-m", "bench.knowledge", str(folder)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            if completed.returncode:
                raise RuntimeError(completed.stderr[-1500:])
            figures[str(size)] = {
                "modelyard": json.loads(completed.stdout.splitlines()[-1])
            }
            for peer in ("llama-index", "haystack"):
                # The peers are slow with 100,000 segments, so they get fewer questions.
                figures[str(size)][peer] = _peer(
                    peer, folder, 40 if size == SMALL else 8
                )
    return figures


def main() -> None:
    """Measure Modelyard on the texts and vectors in the folder named by the first
    argument."""
    folder = Path(sys.argv[1])
    dataset_texts = json.loads((folder / "texts.json").read_text("utf-8"))
    vectors, query_vectors = (
        np.load(folder / "vectors.npy"),
        np.load(folder / "asked.npy"),
    )
    print(
        json.dumps(
            asyncio.run(
                _measure_modelyard(
                    dataset_texts["texts"],
                    vectors,
                    dataset_texts["questions"],
                    query_vectors,
                )
            )
        )
    )


if __name__ == "__main__":
    main()
