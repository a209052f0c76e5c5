"""Parse documents of every supported format and compare them with their known content.
Malicious files must be contained by the sandbox."""

import asyncio
import re
import tempfile
import time
from typing import Any

from tests.knowledge.formats import (
    CASES,
    HARM,
    SCANNED,
    TYPED,
    missing_content,
    picture,
    scan,
)

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.sandbox.runner import Sandbox, SandboxError, SandboxLimits
from tools.show.proof import Proof

_LIMITS = SandboxLimits(memory_mb=1024, document_seconds=30.0)


async def _check_documents(proof: Proof) -> None:
    """Parse all format cases and malicious files in one sandbox and report the results."""
    sandbox = Sandbox(_LIMITS)
    try:
        passed = [await _check_case(proof, sandbox, name) for name in CASES]
        contained = [await _check_harm(proof, sandbox, name) for name in HARM]
        scans = await _check_ocr(proof)
        # The malicious files must not have damaged the sandbox process: it still parses
        # documents.
        document = await sandbox.read("a.md", b"# Still here")
        text = document["parts"][0]["text"]
        proof.line("the sandbox afterwards", text, text == "# Still here")
        proof.figures = {
            "formats": f"{sum(passed)} of {len(CASES)}",
            "held": f"{sum(contained)} of {len(HARM)}",
            "scans": scans,
        }
    finally:
        await sandbox.aclose()


async def _check_case(proof: Proof, sandbox: Sandbox, name: str) -> bool:
    """Parse a document of a format case; return whether all its content was found."""
    case = CASES[name]()
    started_at = time.perf_counter()
    document: dict[str, Any] = await sandbox.read(case.name, case.data)
    milliseconds = (time.perf_counter() - started_at) * 1000
    missing = missing_content(case, document["parts"])
    is_complete = not missing and document["kind"] == case.kind
    summary = (
        f"{len(case.texts)} texts, {len(case.headings)} headings,"
        f" {len(case.rows)} rows, {len(case.pages)} pages, {milliseconds:.0f} ms"
    )
    problem = f"{document['kind']}: {missing[:3]}"
    proof.line(name, summary if is_complete else problem, is_complete)
    return is_complete


async def _check_harm(proof: Proof, sandbox: Sandbox, name: str) -> bool:
    """Parse a malicious file; an error message or harmless text is correct, if it
    arrives in time. Returns whether it was."""
    file, make_bytes, expected_pattern = HARM[name]
    data = make_bytes()
    started_at = time.perf_counter()
    try:
        document = await sandbox.read(file, data)
        size = sum(len(part["text"]) for part in document["parts"])
        outcome = f"{size:,} characters" if document["parts"] else "no text"
    except SandboxError as error:
        outcome = str(error)
    seconds = time.perf_counter() - started_at
    # Five seconds of tolerance for stopping and restarting the sandbox.
    is_in_time = seconds < _LIMITS.document_seconds + 5
    is_contained = re.search(expected_pattern, outcome) is not None and is_in_time
    summary = f"{len(data):,} bytes, {seconds:.1f} s: {outcome[:90]}"
    proof.line(f"harm: {name}", summary, is_contained)
    return is_contained


async def _check_ocr(proof: Proof) -> str:
    """Check the local OCR on a PDF with scanned and typed pages, and on a single image."""
    passed_count = 0
    with tempfile.TemporaryDirectory() as home:
        async with Modelyard(Settings(home=home), environ={}) as yard:
            for name, data, pages in (
                # Page 2 has a text layer, so it is not sent to OCR.
                ("scan.pdf", scan(), {1: SCANNED[0], 2: TYPED, 3: SCANNED[1]}),
                ("photo.png", picture(SCANNED[0]), {1: SCANNED[0]}),
            ):
                started_at = time.perf_counter()
                read = await yard.knowledge.datasets.reader.parse(name, data)
                text_by_page = {
                    part.page: " ".join(part.text.split()) for part in read.parts
                }
                passed_count += text_by_page == pages
                proof.line(
                    f"OCR: {name}",
                    f"{len(text_by_page)} pages, {time.perf_counter() - started_at:.1f} s",
                    text_by_page == pages,
                )
    return f"{passed_count} of 2"


def prove() -> Proof:
    """Run all document checks."""
    proof = Proof()
    asyncio.run(_check_documents(proof))
    return proof
