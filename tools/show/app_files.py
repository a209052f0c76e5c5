"""All exported apps of the test data: each is imported and run with a scripted model;
apps that need more get stubs."""

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
"""Answers of models, URLs and tools for single files for which the general answer is
not sufficient."""
_FILE = {
    "dify_model_identity": "__dify__file__",
    "type": "document",
    "transfer_method": "local_file",
    "related_id": "f",
    "filename": "a.txt",
    "extension": ".txt",
    "mime_type": "text/plain",
    "size": 5,
}


def tiers() -> dict[str, str]:
    """Return the tier of each file, from the table in INDEX.md."""
    tier_by_file: dict[str, str] = {}
    for line in (FOLDER / "INDEX.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 5 and cells[1].endswith((".yml", ".yaml")):
            tier_by_file[cells[1]] = cells[4]
    return tier_by_file


class Answers:
    """Stands in for the people who answer forms. Subclasses fill `given` with the
    answers by node id."""

    async def answer(self, key: str) -> dict[str, Any] | None:
        """Return the answer to a form, or None if there is none."""
        return self.given.get(key)

    def __init__(self) -> None:
        self.given: dict[str, dict[str, Any]] = {}

    async def ask(self, key: str, form: Any, expires_at: float) -> dict[str, Any]:
        """Accept a form without presenting it to anyone."""
        return {}


class FirstAction(Answers):
    """Answers each form of an app with its first action and fills all its inputs."""

    def __init__(self, app: App) -> None:
        super().__init__()
        for node in app.nodes:
            if node.type == "human-input":
                inputs = {
                    form_input.output_variable_name: "filled in"
                    for form_input in node.data.inputs
                }
                self.given[node.id] = {
                    "inputs": inputs,
                    "action": node.data.user_actions[0].id,
                }


def inputs_for(app: App) -> dict[str, Any]:
    """Return a value for each variable of the app's start form, and for the fields that
    a trigger declares."""
    # An app may have several entry points; the first one is run.
    node = app.graph().nodes[app.roots[0]]
    inputs = {variable.variable: _form_value(variable) for variable in form_of(node)}
    for name in ("headers", "params", "body"):
        declared = getattr(node.data, name, None)
        for declared_field in declared if isinstance(declared, list) else ():
            is_object = declared_field.type == "object"
            inputs[declared_field.name] = {} if is_object else "x"
    return inputs


def _form_value(variable: Any) -> Any:
    """Return a valid value for a variable of a start form."""
    match variable.type:
        case "select":
            return str(variable.options[0]) if variable.options else ""
        case "number":
            return 3
        case "checkbox":
            return True
        case "file":
            return _FILE
        case "file-list":
            return [_FILE]
        case _:
            # A text must not exceed the length that the form allows.
            return "hello"[: variable.max_length or 5]


async def run_app(
    yard: Modelyard, model: ScriptedModel, app: App, tier: str, script: dict[str, Any]
) -> Outcome:
    """Run an app with the scripted answers and return its outcome."""
    model.answers[:] = [
        (model_entry[0], model_entry[1]) for model_entry in script.get("model", ())
    ]
    services = yard.services.workflows.services(app)
    services.files = MemoryFiles({"f": b"hello"})
    services.forms = FirstAction(app)
    # Apps of tiers A and B need nothing but a model; the others get stubs.
    if tier not in ("A", "B"):
        http = [
            (
                http_entry[0],
                200,
                {"content-type": "application/json"},
                str(http_entry[1]).encode(),
            )
            for http_entry in script.get("http", ())
        ]
        services.http, services.datasets = StubHttp(answers=http), StubDatasets()
        services.tools, services.agents = (
            StubTools(messages=script.get("tools", {})),
            StubAgents(),
        )
    inputs = {**inputs_for(app), **script.get("inputs", {})}
    return await run(
        app,
        services=services,
        inputs=inputs,
        query=script.get("query", "What is this?"),
    )


async def run_all() -> tuple[list[tuple[str, str, str, str]], float]:
    """Return ([(file, tier, status, reason)], seconds spent on importing)."""
    model = ScriptedModel()
    definition, builder = scripted_models(model)
    scripts: dict[str, Any] = yaml.safe_load(SCRIPTS.read_text("utf-8")) or {}
    results: list[tuple[str, str, str, str]] = []
    spent = 0.0
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=home, database=":memory:")
        async with Modelyard(
            settings,
            definitions=[definition],
            builders={"scripted": builder},
            environ={},
        ) as yard:
            for name, tier in sorted(tiers().items()):
                started_at = time.perf_counter()
                try:
                    app = load(
                        FOLDER / name, AppMapping(models={"*": "scripted/model"})
                    )
                except DslError as error:
                    results.append((name, tier, "not imported", str(error)[:200]))
                    continue
                spent += time.perf_counter() - started_at
                # Apps without a graph, such as plain chats, can only be imported.
                if not app.roots:
                    results.append(
                        (name, tier, "imported", "it has no graph: nothing to run")
                    )
                    continue
                try:
                    outcome = await run_app(
                        yard, model, app, tier, scripts.get(Path(name).stem, {})
                    )
                except Exception as error:  # noqa: BLE001
                    results.append(
                        (name, tier, "broke", f"{type(error).__name__}: {error}"[:200])
                    )
                    continue
                results.append(
                    (
                        name,
                        tier,
                        outcome.status.value,
                        outcome.error.replace("\n", " ")[:120],
                    )
                )
    return results, spent


def prove() -> Proof:
    """Import and run all apps and report each; apps of tiers A, B and C must succeed."""
    proof = Proof()
    results, spent = asyncio.run(run_all())
    for name, tier, status, reason in sorted(
        results, key=lambda result: (result[1], result[0])
    ):
        label = f"{tier}  {name[-70:]}"
        ok = _is_expected(tier, status)
        proof.line(label, f"{status}  {reason}".strip(), ok)
    imported = sum(result[2] != "not imported" for result in results)
    # The exact number of files guards against an index that lost some.
    proof.line(
        "imported",
        f"{imported} of {len(results)} in {spent * 1000:.0f} ms",
        imported == len(results) == 89,
    )
    by_tier = Counter(
        (tier, status == Status.SUCCEEDED.value) for _, tier, status, _ in results
    )
    tiers = sorted({tier for tier, _ in by_tier})
    for tier in tiers:
        succeeded, failed = by_tier[tier, True], by_tier[tier, False]
        proof.line(
            f"tier {tier}",
            f"{succeeded} of {succeeded + failed} succeeded",
            failed == 0 if tier in _REQUIRED_TIERS else None,
        )
    proof.figures |= {
        "imported": imported,
        "files": len(results),
        "succeeded": {tier: by_tier[tier, True] for tier in tiers},
    }
    return proof


_REQUIRED_TIERS = ("A", "B", "C")
"""Tiers whose apps need no external service, so that they have to succeed."""


def _is_expected(tier: str, status: str) -> bool | None:
    """Return whether an app passes; None if its result is only for information."""
    if tier in _REQUIRED_TIERS:
        return status == Status.SUCCEEDED.value
    # Other tiers need external services: their runs may fail, but the import may not.
    return False if status == "not imported" else None
