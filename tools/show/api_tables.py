"""Every API by its table: each row has a description, every other method is refused,
and every changed row fails a test.

The last part works on a copy of the checkout: a changed path, a renamed field and a
changed method must each fail a test.
"""

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import Settings
from modelyard.gateway.server import Gateway
from modelyard.gateway.table import METHODS
from tools.show.proof import ROOT, Proof

_Response = tuple[int, list[str]]
"""Status, and the methods of the `Allow` header."""
_Header = tuple[bytes, bytes]
# Its prefix tells an app's caller from the client of a vendor with the same path.
_APP_KEY: _Header = (b"authorization", b"Bearer app-0123456789")

GATEWAY = "src/modelyard/gateway"
TESTS = [
    "tests/gateway/test_tables.py",
    "tests/house/test_house.py::test_the_reference_is_not_stale",
]


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
    Change(
        "a field renamed",
        f"{GATEWAY}/console_api/shapes.py",
        "    is_current: bool",
        "    is_this_one: bool",
    ),
    Change(
        "a wrong verb",
        f"{GATEWAY}/cohere/table.py",
        'method="POST",\n            path="/v2/rerank"',
        'method="PUT",\n            path="/v2/rerank"',
    ),
)


def prove() -> Proof:
    """Check all tables and report the results; succeeds if every row is correct and
    every change is noticed."""
    proof = Proof()
    asyncio.run(_check_rows(proof))
    _check_changes(proof)
    return proof


async def _check_rows(proof: Proof) -> None:
    """Check descriptions and methods of a gateway with default settings."""
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as home:
        yard = Modelyard(Settings(home=home), environ={})
        gateway = gateway_for(yard.services)
        try:
            await _check_descriptions(proof, gateway)
            await _check_methods(proof, gateway)
        finally:
            await yard.aclose()


async def _check_descriptions(proof: Proof, gateway: Gateway) -> None:
    """Report rows without a summary and rows that accept any path below them."""
    apis = gateway.router.apis
    undescribed = [api.name for api in apis if not all(row.summary for row in api.rows)]
    rows = sum(len(api.rows) for api in apis)
    proof.line("APIs and rows", f"{len(apis)}, {rows}")
    proof.line(
        "APIs with undescribed rows",
        ", ".join(undescribed) or "none",
        not undescribed,
    )
    # A path parameter that takes any remainder hides the real routes from the table.
    loose = [
        row.path
        for _, row in gateway.router.rows()
        if "{rest:path}" in row.path and not row.takes_any_method
    ]
    proof.line("rows that accept any path below them", len(loose), not loose)
    proof.figures |= {
        "apis": len(apis),
        "rows": rows,
        "undescribed": len(undescribed),
        "loose": len(loose),
    }


async def _check_methods(proof: Proof, gateway: Gateway) -> None:
    """Call each path with every method that it does not have, and with an unknown one."""
    tried_count = 0
    wrong_answers: list[str] = []
    paths = {
        re.sub(r"\{\w+(:path)?\}", "x", row.path) for _, row in gateway.router.rows()
    }
    for path in sorted(paths):
        allowed_methods = gateway.router.allowed(path)
        # Tenants' code decides what each method of such a path does.
        is_decided_by_tenant = set(METHODS) == set(allowed_methods)
        for method in _unsupported_methods(allowed_methods):
            responses = await _responses(gateway, method, path)
            tried_count += len(responses)
            expected = _expected_responses(gateway, method, path, allowed_methods)
            if responses != expected and not is_decided_by_tenant:
                wrong_answers.append(f"{method} {path}: {responses}")
    proof.line("unsupported methods tried", tried_count)
    proof.line("wrong responses", wrong_answers[:3] or "none", not wrong_answers)
    proof.figures |= {"methods_tried": tried_count, "methods_wrong": len(wrong_answers)}


def _unsupported_methods(allowed_methods: list[str]) -> list[str]:
    """Return the methods that a path does not have, an unknown one, and OPTIONS, which
    is answered for every path and is tried even if it is in the table."""
    return [
        method
        for method in (*METHODS, "BREW")
        if method not in allowed_methods or method == "OPTIONS"
    ]


async def _responses(gateway: Gateway, method: str, path: str) -> list[_Response]:
    """Call a path with the key of an app, and without any."""
    return [
        await _ask(gateway, method, path, (_APP_KEY,)),
        await _ask(gateway, method, path, ()),
    ]


def _expected_responses(
    gateway: Gateway, method: str, path: str, allowed_methods: list[str]
) -> list[_Response]:
    """Return what both calls of a method that a path does not have must get.

    RFC 9110: a known but unsupported method is 405 with `Allow`, an unknown method is
    501.
    """
    if method == "OPTIONS":
        return [(204, allowed_methods)] * 2
    if method == "BREW":
        return [(501, [])] * 2
    refused = (405, allowed_methods)
    # Without an app's key, a vendor's endpoint is meant that this server lacks.
    is_missing = gateway.router.is_for_apps_only(path, ())
    return [refused, (404, []) if is_missing else refused]


async def _ask(
    gateway: Gateway, method: str, path: str, headers: Sequence[_Header]
) -> _Response:
    """Call the gateway without a network and return (status, methods in the `Allow`
    header)."""
    sent: list[Any] = []

    async def receive() -> Any:
        """Return an empty request body."""
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        """Record what the gateway sends."""
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "scheme": "http",
        "headers": [(b"host", b"127.0.0.1:8790"), *headers],
        "client": ("127.0.0.1", 9),
    }
    await gateway(scope, receive, send)
    allow = dict(sent[0]["headers"]).get(b"allow", b"").decode()
    return sent[0]["status"], allow.split(", ") if allow else []


def _check_changes(proof: Proof) -> None:
    """Apply each change to a copy of the checkout and report whether a test fails."""
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            ROOT,
            copy,
            ignore=shutil.ignore_patterns(
                ".git", ".venv", "node_modules", "__pycache__"
            ),
        )
        # If the unchanged copy fails, the results below would mean nothing.
        green = _tests_pass(copy)
        proof.line("the copy's tests, unchanged", "pass" if green else "fail", green)
        for change in CHANGES:
            file = copy / change.file
            text = file.read_text("utf-8")
            if change.old not in text:
                proof.line(change.about, "the place to change was not found", False)
                continue
            file.write_text(text.replace(change.old, change.new, 1), "utf-8")
            noticed = not _tests_pass(copy)
            file.write_text(text, "utf-8")
            proof.line(
                change.about, "a test fails" if noticed else "nobody notices", noticed
            )


def _tests_pass(copy: Path) -> bool:
    """Return whether the tests of the tables pass in the copy, with the copy's source."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{copy / 'src'}:{copy}",
            "HOME": str(copy),
        },
    )
    return ran.returncode == 0
