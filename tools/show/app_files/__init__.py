"""All app files of the test data: each is imported and run in a scripted world, and its
outputs and questions are compared with what an independent reader finds in the file.

- `corpus.py`: the files, their scripts and what people have read in them.
- `reading.py`, `values.py`, `conditions.py`, `contract.py`, `rules.py` with the files
    of rules, `agents.py`, `walk.py`: the reader. It shares no code with the product.
- `inputs.py`: with what a run starts. `imports.py`: what an import has to name.
- `world.py`: models, addresses, tools, datasets and people, whose answers show what they
    were asked.
- `runs.py`: a run by the product. `checks.py`: the comparison. `stored.py`: the same runs
    in the journal, taken up again by another process.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.testing.workflows import scripted_models
from modelyard.workflow.dsl import App, AppMapping, DslError, dump, load, loads
from tools.show.app_files.agents import read_app_without_graph
from tools.show.app_files.checks import findings
from tools.show.app_files.corpus import FOLDER, OWN_TIER, Case, cases, tiers
from tools.show.app_files.imports import unnamed_needs
from tools.show.app_files.inputs import attached_files, inputs_of
from tools.show.app_files.reading import ReadApp
from tools.show.app_files.rules import RULES
from tools.show.app_files.runs import Shown, Start, run_app
from tools.show.app_files.stored import StoredRuns, is_storable
from tools.show.app_files.walk import Expected, Walk
from tools.show.app_files.world import Turn, WorldModel
from tools.show.proof import Proof

__all__ = ["FOLDER", "cases", "prove", "run_all", "tiers"]

MAPPING = AppMapping(models={"*": "scripted/model"})
"""Every model of the files is the scripted one."""
_EXPORTED = 89
"""The number of files guards against an index that lost some."""
_MODES = frozenset(
    {"chat", "agent-chat", "completion", "workflow", "advanced-chat", "agent"}
)
"""The modes of apps in the format."""
_AT_ONCE = 8
"""Files that run at the same time: one of them sleeps for half a minute."""


@dataclass(slots=True)
class Result:
    """The result of one file."""

    case: Case
    status: str
    problems: list[str] = field(default_factory=list[str])
    import_seconds: float = 0.0
    ran: set[str] = field(default_factory=set[str])
    """The types of the nodes that ran."""


def expectation(case: Case, shown: Shown, start: Start) -> Expected:
    """Return what the run of a file has to show."""
    script, app, turn = case.script, case.app, start.turn
    walk = Walk(app, script, case.reviewed, shown.observed, turn)
    root = script.root or next(iter(app.roots()), "")
    if root:
        return walk.expected(root, start.inputs, _system_values(app, turn))
    text = read_app_without_graph(walk, start.inputs, turn.query)
    outputs = {"answer": text, "files": []}
    # The nodes of such an app are the product's own.
    return Expected(
        "succeeded",
        outputs,
        walk.calls,
        shown.ran,
        walk.problems,
        is_chat=True,
        said=text,
    )


def _system_values(app: ReadApp, turn: Turn) -> dict[str, object]:
    """Return the `sys.*` variables of a run that is not stored."""
    values: dict[str, object] = {
        "files": list(turn.files),
        "user_id": "",
        "app_id": "",
        "workflow_id": "",
        "workflow_run_id": "RUN",
    }
    if app.is_chat:
        values |= {"query": turn.query, "dialogue_count": turn.number}
        values["conversation_id"] = "RUN"
    return values


async def check(yard: Modelyard, model: WorldModel, case: Case) -> Result:
    """Import and run a file, and return what is wrong with it."""
    started_at = time.perf_counter()
    try:
        app = load(case.path, MAPPING)
        # The variants run what an export of the app imports again.
        if case.is_variant:
            app = loads(dump(app, with_secrets=True), name=case.name, mapping=MAPPING)
    except DslError as error:
        return Result(case, "not imported", [str(error)[:300]])
    seconds = time.perf_counter() - started_at
    if not case.app.is_runnable:
        problems = [] if case.reviewed.reason else ["it has nothing to run; say why"]
        return Result(case, "imported", problems, seconds)
    try:
        turns = await observe(yard, model, case, app)
    except Exception as error:  # noqa: BLE001 - any error is the finding
        return Result(case, "broke", [f"{type(error).__name__}: {error}"[:300]])
    problems = unnamed_needs(case.app, app) + [
        problem
        for shown, expected in turns
        for problem in findings(shown, expected, case.reviewed)
    ]
    names = {name for shown, _ in turns for name in shown.ran} & case.app.nodes.keys()
    ran = {case.app.nodes[name].type for name in names}
    return Result(case, turns[-1][0].status, problems, seconds, ran)


async def observe(
    yard: Modelyard, model: WorldModel, case: Case, app: App
) -> list[tuple[Shown, Expected]]:
    """Run a file; return (what the run has shown, what it has to show) of each turn."""
    script = case.script
    root = script.root or next(iter(case.app.roots()), "")
    inputs = inputs_of(case.app, root, script)
    turn = Turn(script.query, files=attached_files(script))
    turns: list[tuple[Shown, Expected]] = []
    for following in (*script.turns, ""):
        start = Start(case.app, script, inputs, turn)
        shown = await run_app(yard, model, app, start)
        expected = expectation(case, shown, start)
        turns.append((shown, expected))
        turn = Turn(
            following,
            number=turn.number + 1,
            conversation=shown.conversation,
            history=[*turn.history, (turn.query, str(shown.outputs.get("answer")))],
        )
    return turns


@asynccontextmanager
async def scripted_yard(
    *, has_file: bool = False
) -> AsyncGenerator[tuple[Modelyard, WorldModel]]:
    """Open an application in a temporary home, whose only model is scripted. Its
    database is in memory, unless it has a file, as many stored runs at once need it."""
    model = WorldModel()
    definition, builder = scripted_models(model)
    with tempfile.TemporaryDirectory() as home:
        async with Modelyard(
            Settings(home=home, database=f"{home}/runs.db" if has_file else ":memory:"),
            definitions=[definition],
            builders={"scripted": builder},
            environ={},
        ) as yard:
            yield yard, model


async def run_all(selected: Sequence[Case] | None = None) -> list[Result]:
    """Return the results of the files, by default of all."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def check_one(case: Case) -> Result:
        """Check a file when it is its turn."""
        async with at_once:
            return await check(yard, model, case)

    async with scripted_yard() as (yard, model):
        chosen = cases() if selected is None else selected
        # The longest first: it only sleeps, while the others work.
        chosen = sorted(chosen, key=lambda case: -case.script.seconds)
        # Each task has a context of its own, in which the model keeps its state.
        return await asyncio.gather(*map(check_one, chosen))


async def run_stored(
    selected: Sequence[Case], *, is_interrupted: bool
) -> tuple[int, Mapping[str, str]]:
    """Run files as a server does. Returns the number of those that are compared, and
    name → how the stored run differs from the engine's own."""
    count = 0
    async with scripted_yard(has_file=True) as (yard, model):
        stored = StoredRuns(yard, model)
        for case in selected:
            read = case.app
            if read.is_runnable and is_storable(read.mode, case.script):
                await stored.add(case.name, load(case.path, MAPPING), read, case.script)
                count += 1
        return count, await stored.compare(is_interrupted=is_interrupted)


def _prove_stored(proof: Proof) -> None:
    """Add lines about the runs that a server stores."""
    selected = [case for case in cases() if not case.is_variant]
    for is_interrupted in (False, True):
        count, differing = asyncio.run(
            run_stored(selected, is_interrupted=is_interrupted)
        )
        label = "taken up by another process" if is_interrupted else "stored"
        line = f"{count - len(differing)} of {count} end as the engine's own runs"
        proof.line(f"runs, {label}", line, not differing)
        for name, difference in differing.items():
            proof.line(f"  {name[-70:]}", difference, ok=False)


def prove() -> Proof:
    """Import and run all files, and compare each with what its reader found."""
    proof = Proof()
    results = asyncio.run(run_all())
    _prove_stored(proof)
    for result in sorted(
        results, key=lambda result: (result.case.tier, result.case.name)
    ):
        label = f"{result.case.tier}  {result.case.name[-70:]}"
        note = result.problems[0] if result.problems else result.case.reviewed.reason
        proof.line(label, f"{result.status}  {note}".strip(), not result.problems)
    _count_imports(proof, results)
    _count_types(proof, results)
    for name, groups in (
        ("tier", _by_tier(results)),
        ("version", _by_version(results)),
    ):
        for group, (fitting, total) in sorted(groups.items()):
            line = f"{fitting} of {total} as their files say"
            proof.line(f"{name} {group}", line, fitting == total)
    return proof


def _count_imports(proof: Proof, results: Sequence[Result]) -> None:
    """Add a line and figures about the import of all files."""
    results = [result for result in results if not result.case.is_variant]
    exported = [result for result in results if result.case.tier != OWN_TIER]
    imported = sum(result.status != "not imported" for result in results)
    seconds = sum(result.import_seconds for result in results)
    proof.line(
        "imported",
        f"{imported} of {len(results)} in {seconds * 1000:.0f} ms",
        imported == len(results) and len(exported) == _EXPORTED,
    )
    statuses = Counter(result.status for result in results)
    proof.figures |= {"imported": imported, "files": len(results), "ended": statuses}


def _count_types(proof: Proof, results: Sequence[Result]) -> None:
    """Add lines about the node types and the modes of apps that ran."""
    ran = {node_type for result in results for node_type in result.ran}
    missing = sorted(RULES.keys() - ran)
    shown = f"{len(ran)}; without a run: {', '.join(missing) or 'none'}"
    proof.line("node types", shown, not missing)
    modes = {result.case.app.mode for result in results if result.status != "imported"}
    without = sorted(_MODES - modes)
    shown = f"{len(modes)}; without a run: {', '.join(without) or 'none'}"
    proof.line("modes", shown, not without)


def _by_tier(results: Sequence[Result]) -> dict[str, tuple[int, int]]:
    """Return (files without a finding, files) for each tier."""
    return _grouped(results, [result.case.tier for result in results])


def _by_version(results: Sequence[Result]) -> dict[str, tuple[int, int]]:
    """Return (files without a finding, files) for each version of the format."""
    return _grouped(results, [result.case.app.version or "none" for result in results])


def _grouped(
    results: Sequence[Result], names: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Return (files without a finding, files) for each name."""
    counts: dict[str, tuple[int, int]] = {}
    for name, result in zip(names, results, strict=True):
        fitting, total = counts.get(name, (0, 0))
        counts[name] = (fitting + (not result.problems), total + 1)
    return counts
