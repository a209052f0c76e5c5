"""All exported apps of the test data: imported, and run with a scripted model; those that need more, with stubs."""

import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.testing.workflows import (
    MemoryFiles,
    ScriptedModel,
    StubAgents,
    StubDatasets,
    StubHttp,
    StubTools,
    scripted_models,
)
from modelyard.workflow.dsl import App, AppMapping, DslError, load
from modelyard.workflow.engine import Outcome, Status
from modelyard.workflow.nodes.start import form_of
from modelyard.workflow.single_run import run
from tools.show.proof import ROOT, Proof

FOLDER = ROOT / "tests" / "data" / "dsl"
SCRIPTS = ROOT / "tests" / "data" / "dsl-scripts.yml"
"""What models, addresses and tools answer to single files, where a general answer does not do."""
_FILE = {
    "dify_model_identity": "__dify__file__", "type": "document", "transfer_method": "local_file", "related_id": "f",
    "filename": "a.txt", "extension": ".txt", "mime_type": "text/plain", "size": 5,
}  # fmt: skip


def tiers() -> dict[str, str]:
    """File → tier, of the index."""
    found: dict[str, str] = {}
    for line in (FOLDER / "INDEX.md").read_text("utf-8").splitlines():
        cells = [one.strip() for one in line.split("|")]
        if len(cells) > 5 and cells[1].endswith((".yml", ".yaml")):
            found[cells[1]] = cells[4]
    return found


class Answers:
    """Stands in for people: whoever is asked takes the first way."""

    async def answer(self, key: str) -> dict[str, Any] | None:
        return self.given.get(key)

    def __init__(self) -> None:
        self.given: dict[str, dict[str, Any]] = {}

    async def ask(self, key: str, form: Any, expires_at: float) -> dict[str, Any]:
        return {}


class FirstAction(Answers):
    def __init__(self, app: App) -> None:
        super().__init__()
        for node in app.nodes:
            if node.type == "human-input":
                inputs = {one.output_variable_name: "filled in" for one in node.data.inputs}
                self.given[node.id] = {"inputs": inputs, "action": node.data.user_actions[0].id}


def inputs_for(app: App) -> dict[str, Any]:
    """Something for each variable that the form asks for; triggers get what they declare."""
    node = app.graph().nodes[app.roots[0]]
    given: dict[str, Any] = {}
    for one in form_of(node):
        match one.type:
            case "select":
                given[one.variable] = str(one.options[0]) if one.options else ""
            case "number":
                given[one.variable] = 3
            case "checkbox":
                given[one.variable] = True
            case "file":
                given[one.variable] = _FILE
            case "file-list":
                given[one.variable] = [_FILE]
            case _:
                given[one.variable] = "hello"[: one.max_length or 5]
    for name in ("headers", "params", "body"):
        declared = getattr(node.data, name, None)
        if isinstance(declared, list):
            given |= {one.name: {} if one.type == "object" else "x" for one in declared}
    return given


async def ran(yard: Modelyard, model: ScriptedModel, app: App, tier: str, script: dict[str, Any]) -> Outcome:
    model.answers[:] = [(one[0], one[1]) for one in script.get("model", ())]
    services = yard.services.workflows.services(app)
    services.files = MemoryFiles({"f": b"hello"})
    services.forms = FirstAction(app)
    if tier not in ("A", "B"):
        http = [
            (one[0], 200, {"content-type": "application/json"}, str(one[1]).encode()) for one in script.get("http", ())
        ]
        services.http, services.datasets = StubHttp(answers=http), StubDatasets()
        services.tools, services.agents = StubTools(messages=script.get("tools", {})), StubAgents()
    inputs = {**inputs_for(app), **script.get("inputs", {})}
    return await run(app, services=services, inputs=inputs, query=script.get("query", "What is this?"))


async def all_of_them() -> tuple[list[tuple[str, str, str, str]], float]:
    """(file, tier, what came of it, why) of each; seconds to import them all."""
    model = ScriptedModel()
    definition, builder = scripted_models(model)
    scripts: dict[str, Any] = yaml.safe_load(SCRIPTS.read_text("utf-8")) or {}
    seen: list[tuple[str, str, str, str]] = []
    spent = 0.0
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=home, database=":memory:")
        async with Modelyard(settings, definitions=[definition], builders={"scripted": builder}, environ={}) as yard:
            for name, tier in sorted(tiers().items()):
                began = time.perf_counter()
                try:
                    app = load(FOLDER / name, AppMapping(models={"*": "scripted/model"}))
                except DslError as error:
                    seen.append((name, tier, "not imported", str(error)[:200]))
                    continue
                spent += time.perf_counter() - began
                if not app.roots:
                    seen.append((name, tier, "imported", "it has no graph: nothing to run"))
                    continue
                try:
                    outcome = await ran(yard, model, app, tier, scripts.get(Path(name).stem, {}))
                except Exception as error:  # noqa: BLE001  told in the table
                    seen.append((name, tier, "broke", f"{type(error).__name__}: {error}"[:200]))
                    continue
                seen.append((name, tier, outcome.status.value, outcome.error.replace("\n", " ")[:120]))
    return seen, spent


def prove() -> Proof:
    proof = Proof()
    seen, spent = asyncio.run(all_of_them())
    must = ("A", "B", "C")
    for name, tier, status, why in sorted(seen, key=lambda one: (one[1], one[0])):
        fine = status == Status.SUCCEEDED.value if tier in must else None if status != "not imported" else False
        proof.line(f"{tier}  {name[-70:]}", f"{status}  {why}".strip(), fine)
    imported = sum(one[2] != "not imported" for one in seen)
    proof.line("imported", f"{imported} of {len(seen)} in {spent * 1000:.0f} ms", imported == len(seen) == 89)
    by_tier = Counter((tier, status == Status.SUCCEEDED.value) for _, tier, status, _ in seen)
    for tier in sorted({tier for tier, _ in by_tier}):
        good, bad = by_tier[tier, True], by_tier[tier, False]
        proof.line(f"tier {tier}", f"{good} of {good + bad} succeeded", bad == 0 if tier in must else None)
    proof.figures |= {
        "imported": imported, "files": len(seen),
        "succeeded": {tier: by_tier[tier, True] for tier in sorted({tier for tier, _ in by_tier})},
    }  # fmt: skip
    return proof
