"""Run the HTTP client against third-party sockets, TLS, proxy and parser code, and
compare expected and actual results."""

import asyncio
import tempfile
from pathlib import Path

from tools.show.http_cases import CASES, Case
from tools.show.http_world import ExternalServices, external_services, run_case
from tools.show.proof import Proof

_WIDTH = 110


def prove() -> Proof:
    """Run all cases and report each with its source."""
    proof = Proof()
    passed_count = 0
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-http-") as folder,
        external_services(Path(folder)) as external,
    ):
        for case in CASES:
            actual = _actual(external, case)
            is_held = actual == case.expected
            passed_count += is_held
            proof.line(case.name, _shown(case, actual), is_held)
    proof.figures |= {"cases": len(CASES), "held": passed_count}
    return proof


def _actual(external: ExternalServices, case: Case) -> object:
    """Return the result of a case; the error's type and message if it raises."""
    try:
        # Each case gets its own event loop, so that patched loop functions do not leak
        # into the next one.
        return asyncio.run(run_case(external, case.run))
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"


def _shown(case: Case, actual: object) -> str:
    """Return the source and result of a case. A failed case also shows the expected
    value."""
    if actual == case.expected:
        return f"{case.source}: expected and actual {repr(actual)[:_WIDTH]}"
    return f"{case.source}: expected {case.expected!r}, actual {repr(actual)[:500]}"
