"""Every format in and out, compared with what was written; files that mean harm, held."""

import asyncio
import re
import tempfile
import time
from typing import Any

from tests.knowledge.formats import CASES, HARM, SCANNED, TYPED, fits, picture, scan

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.jail.sandbox import Jail, JailError, JailLimits
from tools.show.proof import Proof

_LIMITS = JailLimits(memory_mb=1024, document_seconds=30.0)


async def _seen(proof: Proof) -> None:
    jail = Jail(_LIMITS)
    try:
        good = 0
        for name, make in CASES.items():
            case = make()
            began = time.perf_counter()
            told: dict[str, Any] = await jail.read(case.name, case.data)
            took = (time.perf_counter() - began) * 1000
            missing = fits(case, told["parts"])
            fine = not missing and told["kind"] == case.kind
            good += fine
            what = f"{len(case.texts)} texts, {len(case.headings)} headings, {len(case.rows)} rows, {len(case.pages)} pages"
            proof.line(name, f"{what}, {took:.0f} ms" if fine else f"{told['kind']}: {missing[:3]}", fine)
        held = 0
        for name, (file, make_bytes, wanted) in HARM.items():
            data = make_bytes()
            began = time.perf_counter()
            try:
                told = await jail.read(file, data)
                said = f"{sum(len(one['text']) for one in told['parts']):,} characters"
                if not told["parts"]:
                    said = "no text"
            except JailError as error:
                said = str(error)
            took = time.perf_counter() - began
            fine = re.search(wanted, said) is not None and took < _LIMITS.document_seconds + 5
            held += fine
            proof.line(f"harm: {name}", f"{len(data):,} bytes, {took:.1f} s: {said[:90]}", fine)
        scans = await _scanned(proof)
        # What was done to the jail's process by all that: it still reads.
        told = await jail.read("a.md", b"# Still here")
        proof.line("the jail afterwards", told["parts"][0]["text"], told["parts"][0]["text"] == "# Still here")
        proof.figures = {"formats": f"{good} of {len(CASES)}", "held": f"{held} of {len(HARM)}", "scans": scans}
    finally:
        await jail.aclose()


async def _scanned(proof: Proof) -> str:
    """Pages that are pictures, by the local OCR: a PDF with a typed page between them, and a picture by itself."""
    good = 0
    with tempfile.TemporaryDirectory() as home:
        async with Modelyard(Settings(home=home), environ={}) as yard:
            for name, data, pages in (
                ("scan.pdf", scan(), {1: SCANNED[0], 2: TYPED, 3: SCANNED[1]}),
                ("photo.png", picture(SCANNED[0]), {1: SCANNED[0]}),
            ):
                began = time.perf_counter()
                read = await yard.knowledge.datasets.reader.parse(name, data)
                seen = {part.page: " ".join(part.text.split()) for part in read.parts}
                good += seen == pages
                proof.line(f"OCR: {name}", f"{len(seen)} pages, {time.perf_counter() - began:.1f} s", seen == pages)
    return f"{good} of 2"


def prove() -> Proof:
    proof = Proof()
    asyncio.run(_seen(proof))
    return proof
