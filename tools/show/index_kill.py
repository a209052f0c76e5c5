"""300 times kill -9 during indexing, update and delete: no document lost or doubled, index and database agree."""

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
from modelyard.app.knowledge import KnowledgeParts
from modelyard.base.settings import Settings
from modelyard.knowledge.entities import Dataset, Document, RetrievalSettings, SearchMethod, Status
from modelyard.knowledge.index.base import Space
from modelyard.testing.knowledge import HashEmbedder
from tools.show.proof import ROOT, Proof

KILLS = 300
_LIVE = 60
_LARGE = 9  # every so many documents is large: indexed in several batches


@dataclass(frozen=True)
class Step:
    kind: str
    document: int
    version: int


def steps(count: int) -> list[Step]:
    """The same plan in every process."""
    chance = random.Random(7)
    live: dict[int, int] = {}
    found: list[Step] = []
    added = 0
    for _ in range(count):
        kind = chance.choice(("add", "add", "update", "delete") if len(live) < _LIVE else ("update", "delete"))
        if kind == "add" or not live:
            number, added = added, added + 1
            live[number] = 0
            found.append(Step("add", number, 0))
            continue
        number = chance.choice(sorted(live))
        if kind == "delete":
            found.append(Step("delete", number, live.pop(number)))
        else:
            live[number] += 1
            found.append(Step("update", number, live[number]))
    return found


def mark(number: int, version: int) -> str:
    return f"d{number}v{version}x"


def text_of(number: int, version: int) -> str:
    count = 150 if number % _LARGE == 0 else 1 + number % 7
    filler = " ".join(f"word{(number * 31 + at) % 977}" for at in range(150))
    return "\n\n".join(f"# Part {at}\n\n{mark(number, version)} part{at} {filler}" for at in range(count))


def parts_of(number: int) -> int:
    return 150 if number % _LARGE == 0 else 1 + number % 7


# ------------------------------------------------------------------------------------------------ the worker


def _appended(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


async def _opened(home: Path, counted: Path | None) -> tuple[Modelyard, KnowledgeParts]:
    def told(texts: Sequence[str]) -> None:
        if counted is not None:
            with counted.open("a") as file:
                file.writelines(f"{hash_of(one)}\n" for one in texts)

    embedder = HashEmbedder(seconds=0.004, told=told)
    yard = Modelyard(Settings(home=str(home)), environ={}, embedder=embedder)
    return yard, yard.knowledge


def hash_of(text: str) -> str:
    return " ".join(text.split()[:7])


async def work(home: Path) -> None:
    yard, parts = await _opened(home, home / "embedded.log")
    async with yard:
        await _agrees(parts)
        print("ready", flush=True)
        datasets = parts.datasets
        parts.begin()
        dataset = await parts.stored.datasets.named("default", "killed") or await datasets.create("default", "killed")
        done = len((home / "done.log").read_text().splitlines()) if (home / "done.log").exists() else 0
        for at, step in enumerate(steps(20_000)):
            if at < done:
                continue
            await _step(parts, dataset, step)
            _appended(home / "done.log", f"{at}")


async def _found(parts: KnowledgeParts, dataset: Dataset, number: int) -> Document | None:
    found, _ = await parts.stored.documents.listed("default", dataset.id, keyword=f"<{number}>")
    if len(found) > 1:
        raise RuntimeError(f"document {number} is there {len(found)} times")
    return found[0] if found else None


async def _step(parts: KnowledgeParts, dataset: Dataset, step: Step) -> None:
    """As a caller that was cut off does it again: looks first, then does what is not done."""
    datasets, known = parts.datasets, await _found(parts, dataset, step.document)
    match step.kind:
        case "add":
            if known is None:
                (known,) = await datasets.add_texts(dataset, [(f"<{step.document}>", text_of(step.document, 0))])
        case "update":
            assert known is not None, step
            if known.metadata.get("version") != step.version:
                known = await datasets.update_text(
                    dataset, known, text=text_of(step.document, step.version), metadata={"version": step.version}
                )
        case _:
            if known is not None:
                await datasets.delete_documents(dataset, [known.id])
            return
    (ended,) = await datasets.wait(dataset, known.batch)
    if ended.status is not Status.COMPLETED:
        raise RuntimeError(f"{step}: {ended.status} {ended.error}")


async def _agrees(parts: KnowledgeParts) -> None:
    """After every kill: what is found is whole, and of one version. Raises RuntimeError."""
    dataset = await parts.stored.datasets.named("default", "killed")
    if dataset is None:
        return
    if wrong := await parts.stored.integrity.problems("default", dataset.id):
        raise RuntimeError(f"the database does not agree with itself: {wrong}")
    index = parts.indexes.of(dataset)
    space = Space("default", dataset.id, dataset.space, dataset.dimensions, dataset.generation)
    entries, indexed = await parts.stored.entries.count(dataset.id, dataset.space), await index.count(space)
    if entries != indexed:
        raise RuntimeError(f"{entries} entries, {indexed} in the index")


# ------------------------------------------------------------------------------------------------ the proof


def prove() -> Proof:
    proof = Proof()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        chance = random.Random(11)
        began = time.monotonic()
        problem = ""
        kills = 0
        while kills < KILLS and not problem:
            process = subprocess.Popen(
                [sys.executable, "-m", "tools.show.index_kill", str(home)], cwd=ROOT, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            if process.stdout.readline().strip() != "ready":
                problem = process.stderr.read()[-600:] or "it did not start"
                process.kill()
            else:
                time.sleep(chance.uniform(0.0, 0.35))
                if process.poll() is not None:
                    problem = process.stderr.read()[-600:]
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
            process.stdout.close()
            process.stderr.close()
        proof.line("kills", f"{kills} in {time.monotonic() - began:.0f} s", kills == KILLS)
        proof.line("at each start after one: database and index agree", problem or "always", not problem)
        asyncio.run(_account(proof, home))
    proof.figures["kills"] = kills
    return proof


async def _account(proof: Proof, home: Path) -> None:
    """What should be there beside what is."""
    done = len((home / "done.log").read_text().splitlines())
    yard, parts = await _opened(home, home / "embedded.log")
    async with yard:
        dataset = await parts.datasets.find("default", "killed")
        parts.begin()
        # The step that was cut off, once more.
        await _step(parts, dataset, steps(done + 1)[done])
        expected: dict[int, int] = {}
        for step in steps(done + 1):
            if step.kind == "delete":
                expected.pop(step.document)
            else:
                expected[step.document] = step.version
        documents, total = await parts.stored.documents.listed("default", dataset.id, most=100_000)
        names = Counter(one.name for one in documents)
        lost = [one for one in expected if f"<{one}>" not in names]
        extra = [one for one in names if int(one.strip("<>")) not in expected]
        doubled = [one for one, count in names.items() if count > 1]
        proof.line("steps", f"{done + 1:,}: {dict(Counter(one.kind for one in steps(done + 1)))}")
        proof.line("documents lost", lost or "0", not lost)
        proof.line("documents that should be gone", extra or "0", not extra)
        proof.line("documents doubled", doubled or "0", not doubled)
        wrong = await _wrong_content(parts, dataset, documents, expected)
        proof.line("segments wrong, missing or doubled", wrong[:3] or "0", not wrong)
        missed, stale = await _searched(parts, dataset, expected, steps(done + 1))
        proof.line("documents not found by their own word", missed[:3] or "0", not missed)
        proof.line("old versions and deleted documents that are found", stale[:3] or "0", not stale)
        problems = await parts.stored.integrity.problems("default", dataset.id)
        proof.line("index and database", problems or "agree", not problems)
        counts = Counter((home / "embedded.log").read_text().splitlines())
        again = sum(count - 1 for count in counts.values())
        # One batch may be under way when the process is killed, in each of the groups that run at once.
        most = KILLS * 64
        proof.line("texts embedded, of those again after a kill", f"{sum(counts.values()):,}, {again:,}", again <= most)
        left = [
            row["document"] for row in await yard.services.storage.database.fetch("SELECT document FROM staged_vectors")
        ]
        proof.line("vectors left behind", len(left), not left)
        proof.figures.update(
            documents=total, lost=len(lost), doubled=len(doubled), wrong=len(wrong), embedded=sum(counts.values()),
            embedded_again=again, steps=done + 1,
        )  # fmt: skip


async def _wrong_content(
    parts: KnowledgeParts, dataset: Dataset, documents: Sequence[Document], expected: dict[int, int]
) -> list[str]:
    wrong: list[str] = []
    for one in documents:
        number = int(one.name.strip("<>"))
        segments, count = await parts.stored.segments.listed("default", one.id, most=10_000)
        wanted = mark(number, expected.get(number, -1))
        told = [part for segment in segments for part in segment.content.split() if part.startswith("part")]
        marks = {part for segment in segments for part in segment.content.split() if part.startswith(f"d{number}v")}
        places = [int(part.removeprefix("part")) for part in told]
        if marks != {wanted} or places != list(range(parts_of(number))) or count != one.segments:
            wrong.append(f"{one.name}: {sorted(marks)[:2]}, {len(places)} parts of {parts_of(number)}")
        entries = await parts.stored.entries.of(one.id, dataset.space)
        if Counter(row["segment"] for row in entries) != Counter(segment.id for segment in segments):
            wrong.append(f"{one.name}: {len(entries)} entries for {count} segments")
    return wrong


async def _searched(
    parts: KnowledgeParts, dataset: Dataset, expected: dict[int, int], plan: Sequence[Step]
) -> tuple[list[str], list[str]]:
    settings = RetrievalSettings(search_method=SearchMethod.FULL_TEXT, top_k=5)

    async def names(word: str) -> set[Any]:
        found = await parts.datasets.search("default", [dataset.id], word, settings=settings, counts=False)
        return {hit.document.name for hit in found.hits}

    missed = [one for one, version in expected.items() if await names(mark(one, version)) != {f"<{one}>"}]
    old = {(step.document, step.version) for step in plan if expected.get(step.document) != step.version}
    stale = [f"{one}" for one in sorted(old)[-400:] if await names(mark(*one))]
    return [str(one) for one in missed], stale


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1])))
