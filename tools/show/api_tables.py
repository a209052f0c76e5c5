"""Every API by its table: each row described, every other method refused, every changed row noticed.

The last part works on a copy of the checkout: a row deleted, a field renamed, a verb changed must each fail a test.
"""

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import Settings
from modelyard.gateway.server import Gateway
from modelyard.gateway.table import METHODS
from tools.show.proof import ROOT, Proof

GATEWAY = "src/modelyard/gateway"
TESTS = ["tests/gateway/test_tables.py", "tests/house/test_house.py::test_the_reference_is_not_stale"]


@dataclass(frozen=True)
class Change:
    """A change to the product that some test must notice."""

    about: str
    file: str
    old: str
    new: str


CHANGES = (
    Change(
        "a row gone",
        f"{GATEWAY}/anthropic/table.py",
        'path="/v1/messages/count_tokens"',
        'path="/v1/messages/counted"',
    ),
    Change("a field renamed", f"{GATEWAY}/console_api/shapes.py", "    is_current: bool", "    is_this_one: bool"),
    Change("a wrong verb", f"{GATEWAY}/cohere/table.py", 'method="POST",\n            path="/v2/rerank"',
           'method="PUT",\n            path="/v2/rerank"'),
)  # fmt: skip


def prove() -> Proof:
    """The table of what was tried; green where every row holds and every change is noticed."""
    proof = Proof()
    asyncio.run(_rows(proof))
    _changes(proof)
    return proof


async def _rows(proof: Proof) -> None:
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as home:
        yard = Modelyard(Settings(home=home), environ={})
        gateway = gateway_for(yard.services)
        try:
            await _described(proof, gateway)
            await _methods(proof, gateway)
        finally:
            await yard.aclose()


async def _described(proof: Proof, gateway: Gateway) -> None:
    apis = gateway.router.apis
    undescribed = [api.name for api in apis if not all(row.summary for row in api.rows)]
    rows = sum(len(api.rows) for api in apis)
    proof.line("APIs and rows", f"{len(apis)}, {rows}")
    proof.line("APIs with rows that say nothing", ", ".join(undescribed) or "none", not undescribed)
    loose = [row.path for _, row in gateway.router.rows() if "{rest:path}" in row.path and not row.takes_any_method]
    proof.line("rows that take whatever is below them", len(loose), not loose)
    proof.figures |= {"apis": len(apis), "rows": rows, "undescribed": len(undescribed), "loose": len(loose)}


async def _methods(proof: Proof, gateway: Gateway) -> None:
    tried, wrong = 0, []
    for path in sorted({re.sub(r"\{\w+(:path)?\}", "x", row.path) for _, row in gateway.router.rows()}):
        taken = gateway.router.allowed(path)
        for method in (*METHODS, "BREW"):
            if method in taken and method != "OPTIONS":
                continue
            status, allow = await _ask(gateway, method, path)
            tried += 1
            expected = (204, taken) if method == "OPTIONS" else (405, taken) if method != "BREW" else (501, [])
            if set(METHODS) == set(taken):  # tenants' code says what methods mean
                continue
            if (status, allow) != expected:
                wrong.append(f"{method} {path}: {status} {allow}")
    proof.line("methods that paths do not take: tried", tried)
    proof.line("answered wrongly", wrong[:3] or "none", not wrong)
    proof.figures |= {"methods_tried": tried, "methods_wrong": len(wrong)}


async def _ask(gateway: Gateway, method: str, path: str) -> tuple[int, list[str]]:
    """(status, what `Allow` says)."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "query_string": b"", "scheme": "http",
        "headers": [(b"host", b"127.0.0.1:8790")], "client": ("127.0.0.1", 9),
    }  # fmt: skip
    await gateway(scope, receive, send)
    allow = dict(sent[0]["headers"]).get(b"allow", b"").decode()
    return sent[0]["status"], allow.split(", ") if allow else []


def _changes(proof: Proof) -> None:
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "node_modules", "__pycache__"))
        green = _tests_pass(copy)
        proof.line("the copy's tests, unchanged", "pass" if green else "fail", green)
        for change in CHANGES:
            file = copy / change.file
            text = file.read_text("utf-8")
            if change.old not in text:
                proof.line(change.about, "its place was not found", False)
                continue
            file.write_text(text.replace(change.old, change.new, 1), "utf-8")
            noticed = not _tests_pass(copy)
            file.write_text(text, "utf-8")
            proof.line(change.about, "a test fails" if noticed else "nobody notices", noticed)


def _tests_pass(copy: Path) -> bool:
    """Whether the tests of tables pass in the copy, with the copy's source."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS],
        cwd=copy, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{copy / 'src'}:{copy}", "HOME": str(copy)},
    )  # fmt: skip
    return ran.returncode == 0
