"""The HTTP client beside sockets, TLS, a proxy and parsers that others wrote: what is expected, and what is so."""

import asyncio
import tempfile
from pathlib import Path

from tools.show.http_cases import CASES, Case
from tools.show.http_world import Others, in_world, others
from tools.show.proof import Proof

_WIDTH = 110


def prove() -> Proof:
    proof = Proof()
    held = 0
    with tempfile.TemporaryDirectory(prefix="modelyard-http-") as folder, others(Path(folder)) as outside:
        for case in CASES:
            actual = _actual(outside, case)
            is_held = actual == case.expected
            held += is_held
            proof.line(case.name, _shown(case, actual), is_held)
    proof.figures |= {"cases": len(CASES), "held": held}
    return proof


def _actual(outside: Others, case: Case) -> object:
    try:
        return asyncio.run(in_world(outside, case.run))
    except Exception as error:  # noqa: BLE001  one that breaks is one that does not hold
        return f"{type(error).__name__}: {error}"


def _shown(case: Case, actual: object) -> str:
    if actual == case.expected:
        return f"{case.source}: expected and actual {repr(actual)[:_WIDTH]}"
    return f"{case.source}: expected {case.expected!r}, actual {repr(actual)[:500]}"
