"""Kill the process 300 times with SIGKILL during indexing, update and delete. No
document may be lost or duplicated, and index and database must agree."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard.app import Modelyard
from modelyard.app.knowledge import KnowledgeServices
from modelyard.base.settings import Settings
from modelyard.knowledge.entities import (
    Dataset,
    Document,
    RetrievalSettings,
    SearchMethod,
    Status,
)
from modelyard.knowledge.index.base import IndexKey
from modelyard.testing.knowledge import HashEmbedder
from tools.show.proof import ROOT, Proof

KILLS = 300
_MAX_LIVE_DOCUMENTS = 60
# Large documents are indexed in several batches, so a kill can hit them halfway.
_LARGE_DOCUMENT_INTERVAL = (
    9  # every so many documents is large: indexed in several batches
)


@dataclass(frozen=True)
class Step:
    """One step of the plan: add, update or delete a document."""

    kind: str
    document: int
    version: int


def steps(count: int) -> list[Step]:
    """Return the plan of the first `count` steps. It is the same in every process."""
    # A fixed seed, because every worker process computes the plan again.
    chance = random.Random(7)
    live_versions: dict[int, int] = {}
    plan: list[Step] = []
    added = 0
    for _ in range(count):
        action = chance.choice(
            ("add", "add", "update", "delete")
            if len(live_versions) < _MAX_LIVE_DOCUMENTS
            else ("update", "delete")
        )
        if action == "add" or not live_versions:
            number, added = added, added + 1
            live_versions[number] = 0
            plan.append(Step("add", number, 0))
            continue
        number = chance.choice(sorted(live_versions))
        if action == "delete":
            plan.append(Step("delete", number, live_versions.pop(number)))
        else:
            live_versions[number] += 1
            plan.append(Step("update", number, live_versions[number]))
    return plan


def mark(number: int, version: int) -> str:
    """Return a term that occurs only in this version of the document."""
    return f"d{number}v{version}x"


def text_of(number: int, version: int) -> str:
    """Return the document's text. Every part contains the mark and its own number."""
    count = 150 if number % _LARGE_DOCUMENT_INTERVAL == 0 else 1 + number % 7
    tokens = (f"word{(number * 31 + index) % 977}" for index in range(150))
    filler = " ".join(tokens)
    parts = (
        f"# Part {index}\n\n{mark(number, version)} part{index} {filler}"
        for index in range(count)
    )
    return "\n\n".join(parts)


def parts_of(number: int) -> int:
    """Return the number of parts of a document."""
    return 150 if number % _LARGE_DOCUMENT_INTERVAL == 0 else 1 + number % 7


# --------------------------------------------------------------------------- the worker


def _append_line(path: Path, line: str) -> None:
    """Append a line and flush it to disk, so that it survives a kill."""
    with path.open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


async def _open(
    home: Path, embed_log: Path | None
) -> tuple[Modelyard, KnowledgeServices]:
    """Open Modelyard with an embedder that logs each embedded text to `embed_log`."""

    def log_texts(texts: Sequence[str]) -> None:
        """Append the hashes of embedded texts to the log."""
        if embed_log is not None:
            with embed_log.open("a") as file:
                file.writelines(f"{hash_of(text)}\n" for text in texts)

    embedder = HashEmbedder(seconds=0.004, on_embed=log_texts)
    yard = Modelyard(Settings(home=str(home)), environ={}, embedder=embedder)
    return yard, yard.knowledge


def hash_of(text: str) -> str:
    """Return the first seven words of a text, as its key in the embedding log."""
    return " ".join(text.split()[:7])


async def run_worker(home: Path) -> None:
    """Run the steps of the plan that are not done yet, until the process is killed."""
    # Check consistency before anything else repairs it.
    yard, parts = await _open(home, home / "embedded.log")
    async with yard:
        await _check_consistency(parts)
        print("ready", flush=True)
        datasets = parts.datasets
        parts.start()
        dataset = await parts.stored.datasets.find_by_name(
            "default", "killed"
        ) or await datasets.create("default", "killed")
        # Completed steps are logged after they succeed; the step after the last one may
        # be half done.
        completed_steps = _completed_steps(home)
        for step_index, step in enumerate(steps(20_000)):
            if step_index < completed_steps:
                continue
            await _step(parts, dataset, step)
            _append_line(home / "done.log", f"{step_index}")


def _completed_steps(home: Path) -> int:
    """Return how many steps have been logged. On a loaded machine, none may be done
    before the last kill."""
    log = home / "done.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


async def _find_document(
    parts: KnowledgeServices, dataset: Dataset, number: int
) -> Document | None:
    """Return the document with this number, or None. Raises RuntimeError if there are
    several."""
    # The angle brackets make the number unambiguous in a keyword search.
    documents, _ = await parts.stored.documents.list_page(
        "default", dataset.id, keyword=f"<{number}>"
    )
    if len(documents) > 1:
        raise RuntimeError(f"document {number} is there {len(documents)} times")
    return documents[0] if documents else None


async def _step(parts: KnowledgeServices, dataset: Dataset, step: Step) -> None:
    """Perform a step as a caller who was interrupted would: check first, then do only
    what is missing."""
    datasets, document = (
        parts.datasets,
        await _find_document(parts, dataset, step.document),
    )
    match step.kind:
        case "add":
            if document is None:
                (document,) = await datasets.add_texts(
                    dataset, [(f"<{step.document}>", text_of(step.document, 0))]
                )
        case "update":
            assert document is not None, step
            # The metadata contains the version: if it matches, the update has already
            # been applied.
            if document.metadata.get("version") != step.version:
                document = await datasets.update_text(
                    dataset,
                    document,
                    text=text_of(step.document, step.version),
                    metadata={"version": step.version},
                )
        case _:
            if document is not None:
                await datasets.delete_documents(dataset, [document.id])
            return
    (ended,) = await datasets.wait(dataset, document.batch)
    if ended.status is not Status.COMPLETED:
        raise RuntimeError(f"{step}: {ended.status} {ended.error}")


async def _check_consistency(parts: KnowledgeServices) -> None:
    """Check the consistency of database and index after a kill. Raises RuntimeError."""
    dataset = await parts.stored.datasets.find_by_name("default", "killed")
    if dataset is None:
        return
    if problems := await parts.stored.integrity.problems("default", dataset.id):
        raise RuntimeError(f"the database does not agree with itself: {problems}")
    # Each entry in the database must have exactly one vector in the index.
    index = parts.indexes.of(dataset)
    space = IndexKey(
        "default", dataset.id, dataset.space, dataset.dimensions, dataset.generation
    )
    entries, indexed = (
        await parts.stored.entries.count(dataset.id, dataset.space),
        await index.count(space),
    )
    if entries != indexed:
        raise RuntimeError(f"{entries} entries, {indexed} in the index")


# ---------------------------------------------------------------------------- the proof


def prove() -> Proof:
    """Kill the worker repeatedly, then compare the dataset with the plan."""
    proof = Proof()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        # Another seed than that of the plan; it only decides when to kill.
        chance = random.Random(11)
        started_at = time.monotonic()
        problem = ""
        kills = 0
        while kills < KILLS and not problem:
            process = subprocess.Popen(
                [sys.executable, "-m", "tools.show.index_kill", str(home)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            assert process.stderr is not None
            # The worker prints `ready` after its consistency check.
            if process.stdout.readline().strip() != "ready":
                problem = process.stderr.read()[-600:] or "it did not start"
                process.kill()
            else:
                time.sleep(chance.uniform(0.0, 0.35))
                # A worker that ended by itself has failed.
                if process.poll() is not None:
                    problem = process.stderr.read()[-600:]
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
            process.stdout.close()
            process.stderr.close()
        proof.line(
            "kills", f"{kills} in {time.monotonic() - started_at:.0f} s", kills == KILLS
        )
        proof.line(
            "after each restart: database and index agree",
            problem or "always",
            not problem,
        )
        asyncio.run(_compare_with_plan(proof, home))
    proof.figures["kills"] = kills
    return proof


async def _compare_with_plan(proof: Proof, home: Path) -> None:
    """Compare the expected documents with the actual ones and report the differences."""
    completed_steps = _completed_steps(home)
    plan = steps(completed_steps + 1)
    yard, parts = await _open(home, home / "embedded.log")
    async with yard:
        dataset = await parts.datasets.get_by_id_or_name("default", "killed")
        parts.start()
        # Repeat the step that the last kill interrupted.
        await _step(parts, dataset, plan[completed_steps])
        proof.line(
            "steps", f"{len(plan):,}: {dict(Counter(step.kind for step in plan))}"
        )
        proof.figures["steps"] = len(plan)
        expected = _expected_versions(plan)
        await _report_documents(proof, parts, dataset, expected)
        await _report_search(proof, parts, dataset, expected, plan)
        problems = await parts.stored.integrity.problems("default", dataset.id)
        proof.line("index and database", problems or "agree", not problems)
        _report_embeddings(proof, home)
        await _report_staged_vectors(proof, yard)


def _expected_versions(plan: Sequence[Step]) -> dict[int, int]:
    """Replay the plan; return the expected version of each document."""
    expected: dict[int, int] = {}
    for step in plan:
        if step.kind == "delete":
            expected.pop(step.document)
        else:
            expected[step.document] = step.version
    return expected


async def _report_documents(
    proof: Proof, parts: KnowledgeServices, dataset: Dataset, expected: dict[int, int]
) -> None:
    """Report lost, superfluous and duplicate documents, and wrong content."""
    documents, total = await parts.stored.documents.list_page(
        "default", dataset.id, limit=100_000
    )
    names = Counter(document.name for document in documents)
    lost = [number for number in expected if f"<{number}>" not in names]
    extra = [name for name in names if int(name.strip("<>")) not in expected]
    doubled = [name for name, count in names.items() if count > 1]
    proof.line("documents lost", lost or "0", not lost)
    proof.line("deleted documents that still exist", extra or "0", not extra)
    proof.line("documents doubled", doubled or "0", not doubled)
    content_problems = await _wrong_content(parts, dataset, documents, expected)
    proof.line(
        "segments wrong, missing or doubled",
        content_problems[:3] or "0",
        not content_problems,
    )
    proof.figures.update(
        documents=total,
        lost=len(lost),
        doubled=len(doubled),
        wrong=len(content_problems),
    )


async def _report_search(
    proof: Proof,
    parts: KnowledgeServices,
    dataset: Dataset,
    expected: dict[int, int],
    plan: Sequence[Step],
) -> None:
    """Report documents that a search misses, and outdated ones that it finds."""
    missed, stale = await _check_search(parts, dataset, expected, plan)
    proof.line(
        "documents not found by their unique term", missed[:3] or "0", not missed
    )
    proof.line(
        "outdated versions and deleted documents that are found",
        stale[:3] or "0",
        not stale,
    )


def _report_embeddings(proof: Proof, home: Path) -> None:
    """Report how many texts were embedded again after a kill; each should be embedded
    once."""
    counts = Counter((home / "embedded.log").read_text().splitlines())
    repeated_count = sum(count - 1 for count in counts.values())
    # At each kill one batch may be in progress in each of the concurrent groups, and is
    # embedded again.
    max_repeated = KILLS * 64
    proof.line(
        "texts embedded, of those again after a kill",
        f"{sum(counts.values()):,}, {repeated_count:,}",
        repeated_count <= max_repeated,
    )
    proof.figures.update(embedded=sum(counts.values()), embedded_again=repeated_count)


async def _report_staged_vectors(proof: Proof, yard: Modelyard) -> None:
    """Report staged vectors, which are temporary and must be deleted by the recovery."""
    rows = await yard.services.storage.database.fetch(
        "SELECT document FROM staged_vectors"
    )
    proof.line("staged vectors not deleted", len(rows), not rows)


async def _wrong_content(
    parts: KnowledgeServices,
    dataset: Dataset,
    documents: Sequence[Document],
    expected: dict[int, int],
) -> list[str]:
    """Return the documents whose segments or index entries are wrong, missing or
    duplicated."""
    problems: list[str] = []
    for document in documents:
        number = int(document.name.strip("<>"))
        expected_mark = mark(number, expected.get(number, -1))
        segments, count = await parts.stored.segments.list_page(
            "default", document.id, limit=10_000
        )
        contents = [segment.content for segment in segments]
        problem = _wrong_terms(number, " ".join(contents).split(), expected_mark)
        if problem or count != document.segments:
            problems.append(f"{document.name}: {problem or f'{count} segments stored'}")
        entries = await parts.stored.entries.list_of_document(
            document.id, dataset.space
        )
        indexed = Counter(row["segment"] for row in entries)
        if indexed != Counter(segment.id for segment in segments):
            problems.append(
                f"{document.name}: {len(entries)} entries for {count} segments"
            )
    return problems


def _wrong_terms(number: int, terms: Sequence[str], expected_mark: str) -> str:
    """Return why the terms of a document are not of one version, complete and in order;
    "" if they are."""
    marks = {term for term in terms if term.startswith(f"d{number}v")}
    part_labels = [term for term in terms if term.startswith("part")]
    part_indexes = [int(label.removeprefix("part")) for label in part_labels]
    part_count = parts_of(number)
    if marks == {expected_mark} and part_indexes == list(range(part_count)):
        return ""
    return f"{sorted(marks)[:2]}, {len(part_indexes)} parts of {part_count}"


async def _check_search(
    parts: KnowledgeServices,
    dataset: Dataset,
    expected: dict[int, int],
    plan: Sequence[Step],
) -> tuple[list[str], list[str]]:
    """Return the documents not found by their own mark, and the old or deleted versions
    that are still found."""
    settings = RetrievalSettings(search_method=SearchMethod.FULL_TEXT, top_k=5)

    async def names(term: str) -> set[Any]:
        """Return the names of the documents that a full-text search for the term finds."""
        result = await parts.datasets.search(
            "default", [dataset.id], term, settings=settings, counts=False
        )
        return {hit.document.name for hit in result.hits}

    # The mark of the current version must find exactly its own document.
    missed = [
        number
        for number, version in expected.items()
        if await names(mark(number, version)) != {f"<{number}>"}
    ]
    old = {
        (step.document, step.version)
        for step in plan
        if expected.get(step.document) != step.version
    }
    # The 400 highest document numbers are enough as a sample.
    stale = [
        f"{number_and_version}"
        for number_and_version in sorted(old)[-400:]
        if await names(mark(*number_and_version))
    ]
    return [str(number) for number in missed], stale


if __name__ == "__main__":
    asyncio.run(run_worker(Path(sys.argv[1])))
