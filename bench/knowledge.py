"""Indexing and search of 5,000 and of 100,000 segments, beside LlamaIndex and Haystack on the same texts and vectors,
and beside NumPy's exact search as the limit. No model is called: vectors are looked up, on all sides."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import knowledge_data
from modelyard.app import Modelyard
from modelyard.app.knowledge import KnowledgeParts
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
from modelyard.knowledge.index.base import Question, Space
from modelyard.knowledge.index.memory import MemoryIndex
from modelyard.knowledge.vectors import Embedded
from modelyard.plugins.environment import uv_path

ROOT = Path(__file__).parents[1]
SMALL, LARGE = 5_000, 100_000
AT_ONCE = 8
"""Searches, where they are measured side by side."""


class Known:
    """Vectors that are known already, in the place of a model."""

    def __init__(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        self._known = dict(zip(texts, vectors, strict=True))

    async def embed(self, tenant: str, model: str, texts: Sequence[str], *, is_query: bool = False) -> Embedded:
        del tenant, model, is_query
        return Embedded(np.stack([self._known[one] for one in texts]), "known/vectors")


async def _timed(work: Callable[[int], Awaitable[Any]], count: int) -> tuple[float, float]:
    """Median and 95th percentile, milliseconds."""
    times: list[float] = []
    for at in range(count):
        began = time.perf_counter()
        await work(at)
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return round(times[len(times) // 2], 3), round(times[int(len(times) * 0.95)], 3)


async def _in_turn(work: Callable[[int, Any], Awaitable[Any]], places: Sequence[int], how: Any) -> None:
    for at in places:
        await work(at, how)


async def _ours(
    texts: Sequence[str], vectors: np.ndarray, questions: Sequence[str], asked: np.ndarray
) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=home, knowledge=KnowledgeSettings(graph_from=20_000))
        embedder = Known([*texts, *questions], np.concatenate([vectors, asked]))
        async with Modelyard(settings, environ={}, embedder=embedder) as yard:
            parts = yard.knowledge
            rule = ProcessRule(mode="structure")
            dataset = await parts.datasets.create("default", "bench", settings=DatasetSettings(process_rule=rule))
            batches = max(1, len(texts) // 100)  # 1 % of the documents each
            rows = [(str(at), text, {"batch": at // batches}) for at, text in enumerate(texts)]
            began, spent = time.perf_counter(), time.process_time()
            added = await parts.datasets.add_texts(dataset, rows)
            await parts.datasets.wait(dataset, added[0].batch)
            seen["index_s"], seen["index_cpu_s"] = (
                round(time.perf_counter() - began, 2),
                round(time.process_time() - spent, 2),
            )
            began = time.perf_counter()
            index: Any = parts.indexes.of(dataset)
            assert isinstance(index, MemoryIndex)
            dataset = await parts.stored.datasets.get("default", dataset.id)
            space = Space("default", dataset.id, dataset.space, dataset.dimensions, dataset.generation)
            await index.follow(space)
            seen["load_s"] = round(time.perf_counter() - began, 2)
            spent = time.process_time()
            await index.ready()
            seen["graph_s"] = round(time.perf_counter() - began - seen["load_s"], 2)
            seen["graph_cpu_s"] = round(time.process_time() - spent, 2)
            await _searched(seen, parts, index, space, dataset, texts, vectors, questions, asked)
            seen["disk_mb"] = sum(one.stat().st_size for one in Path(home).glob("modelyard.db*")) >> 20
    seen["rss_mb"] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20
    return seen


async def _searched(
    seen: dict[str, Any], parts: KnowledgeParts, index: MemoryIndex, space: Space, dataset: Dataset,
    texts: Sequence[str], vectors: np.ndarray, questions: Sequence[str], asked: np.ndarray,
) -> None:  # fmt: skip
    rows = await parts.stored.entries.changes(space.dataset, space.number, 0, space.generation)
    place = {entry: at for at, entry in enumerate(rows.ids)}
    matrix = np.stack([np.frombuffer(one, np.float32) for one in rows.vectors])
    count = len(questions)
    exact = np.argsort(-(asked @ matrix.T), axis=1)[:, :10]
    hits = 0
    for at in range(count):
        found = await index.search(space, Question(vector=asked[at], most=10))
        hits += len({place[one.entry] for one in found} & set(exact[at].tolist()))
    seen["recall_10"] = round(hits / (10 * count), 4)
    few = {one for one, batch in zip(rows.documents, range(len(rows.documents)), strict=True) if batch % 100 == 7}

    async def search(at: int, **how: Any) -> None:
        await index.search(space, Question(most=10, **how))

    seen["semantic_ms"], seen["semantic_95_ms"] = await _timed(lambda at: search(at, vector=asked[at]), count)
    seen["words_ms"], _ = await _timed(lambda at: search(at, text=questions[at]), count)
    seen["hybrid_ms"], seen["hybrid_95_ms"] = await _timed(
        lambda at: search(at, vector=asked[at], text=questions[at]), count
    )
    seen["filtered_ms"], _ = await _timed(lambda at: search(at, vector=asked[at], documents=few), count)

    # The whole way: dataset, vector of the question, both legs, segments and documents, hit counts.
    async def whole(at: int, settings: RetrievalSettings) -> Any:
        return await parts.datasets.search("default", [dataset.id], questions[at], settings=settings)

    hybrid = RetrievalSettings(top_k=10)
    seen["whole_hybrid_ms"], seen["whole_hybrid_95_ms"] = await _timed(lambda at: whole(at, hybrid), count)
    began = time.perf_counter()
    await asyncio.gather(*(_in_turn(whole, range(at, count, AT_ONCE), hybrid) for at in range(AT_ONCE)))
    seen["whole_hybrid_at_once_ms"] = round((time.perf_counter() - began) * 1000 / count, 3)
    semantic = RetrievalSettings(top_k=10, search_method=SearchMethod.SEMANTIC)
    seen["whole_semantic_ms"], _ = await _timed(lambda at: whole(at, semantic), count)
    condition = Conditions(conditions=[Condition(name="batch", comparison_operator="=", value=7)])
    filtered = RetrievalSettings(top_k=10, metadata_filtering_conditions=condition)
    await whole(0, filtered)
    seen["whole_filtered_ms"], _ = await _timed(lambda at: whole(at, filtered), min(count, 60))

    async def cited(at: int) -> None:
        found = await whole(at, hybrid)
        ContextBuilder().build(found.hits)

    seen["first_citation_ms"], _ = await _timed(cited, count)
    times: list[float] = []
    for at in range(count):
        began = time.perf_counter()
        scores = matrix @ asked[at]
        np.argpartition(scores, len(scores) - 10)[-10:]
        times.append((time.perf_counter() - began) * 1000)
    seen["numpy_exact_ms"] = round(sorted(times)[count // 2], 3)


def _peer(name: str, folder: Path, most: int) -> dict[str, Any] | str:
    """A peer's figures; why there are none, where it cannot be had."""
    python = folder.parent / name / "bin" / "python"
    if not python.exists():
        subprocess.run([uv_path(), "venv", "-q", "-p", sys.executable, str(folder.parent / name)], check=True)
        locked = str(ROOT / "requirements" / "clients" / f"{name}.txt")
        # Copies, not links: LlamaIndex's NLTK refuses files that have several names.
        command = [
            uv_path(), "pip", "install", "-q", "--link-mode", "copy", "-p", str(python), "--require-hashes", "-r",
            locked,
        ]  # fmt: skip
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            return f"cannot be installed: {installed.stderr[-200:]}"
    script = str(ROOT / "bench" / "knowledge_peer.py")
    environ = {**os.environ, "HAYSTACK_TELEMETRY_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(python), script, name, str(folder), str(most)], capture_output=True, text=True, check=False, env=environ
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else f"broke: {done.stderr[-300:]}"


def measure(data: Path, *, cache: Path | None = None) -> dict[str, Any]:
    """By size, then by who."""
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        place = cache or Path(name)
        texts, vectors, questions, asked = knowledge_data.load(data, place, LARGE)
        for size in (SMALL, LARGE):
            folder = Path(name) / str(size)
            folder.mkdir()
            some, rows = texts[:size], vectors[:size]
            (folder / "texts.json").write_text(json.dumps({"texts": some, "questions": questions}), "utf-8")
            np.save(folder / "vectors.npy", rows)
            np.save(folder / "asked.npy", asked)
            # In a process of its own, so that memory is that of the one thing.
            done = subprocess.run(
                [sys.executable, "-m", "bench.knowledge", str(folder)], cwd=ROOT, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(done.stderr[-1500:])
            seen[str(size)] = {"modelyard": json.loads(done.stdout.splitlines()[-1])}
            for peer in ("llama-index", "haystack"):
                seen[str(size)][peer] = _peer(peer, folder, 40 if size == SMALL else 8)
    return seen


def main() -> None:
    folder = Path(sys.argv[1])
    told = json.loads((folder / "texts.json").read_text("utf-8"))
    vectors, asked = np.load(folder / "vectors.npy"), np.load(folder / "asked.npy")
    print(json.dumps(asyncio.run(_ours(told["texts"], vectors, told["questions"], asked))))


if __name__ == "__main__":
    main()
