"""Run the README's customer-service workflow on the local model. Four questions must
each take a different branch."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.show.proof import ROOT, Proof, free_port, weights_folder

FILE = ROOT / "examples" / "workflows" / "customer-service.yml"
DRAWING = ROOT / "docs" / "pictures" / "customer-service.svg"
QUESTIONS = (
    ("Where is my order 1042?", "Order found", r"desk lamp.*Friday"),
    ("I want my money back, the lamp is broken!", "Refund", r"within 14 days"),
    ("When do you open?", "Other", r"9|nine"),
    ("Has order 9999 been shipped?", "No such order", r"cannot find order 9999"),
)


def prove() -> Proof:
    """Run the four questions and compare the workflow's diagram with the committed one."""
    proof = Proof()
    port = free_port()
    # The example has a fixed port for its order service; use a free one instead.
    text = FILE.read_text("utf-8").replace("127.0.0.1:8795", f"127.0.0.1:{port}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        # Reuse the weights on this machine instead of downloading them.
        (home / "models").symlink_to(weights_folder(), target_is_directory=True)
        file = home / "customer-service.yml"
        file.write_text(text, "utf-8")
        # The order service is on loopback, which egress allows only if it is listed.
        environ = {
            **os.environ,
            "MODELYARD_HOME": folder,
            "MODELYARD_EGRESS__PRIVATE": f"127.0.0.1:{port}",
        }
        service = ROOT / "examples" / "workflows" / "orders.py"
        orders = subprocess.Popen([sys.executable, str(service), str(port)])
        try:
            for question, expected_branch, answer_pattern in QUESTIONS:
                _ask(proof, file, environ, question, expected_branch, answer_pattern)
        finally:
            orders.kill()
            orders.wait()
        drawing = subprocess.run(
            [*_COMMAND, "draw", str(FILE)],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
    proof.line(
        "its drawing",
        f"{len(drawing.stdout):,} bytes of SVG",
        drawing.stdout == DRAWING.read_text("utf-8"),
    )
    return proof


_COMMAND = (sys.executable, "-m", "modelyard", "workflow")


def _ask(
    proof: Proof,
    file: Path,
    environ: dict[str, str],
    question: str,
    expected_branch: str,
    answer_pattern: str,
) -> None:
    """Run the workflow with a question; it has to execute the node of the expected
    branch and to give an answer that matches the pattern."""
    started_at = time.monotonic()
    process = subprocess.run(
        [*_COMMAND, "run", str(file), "--query", question, "--model", "default"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started_at
    # The progress lines on stderr name the executed nodes.
    nodes = re.findall(r"✓ +[\d.]+ m?s +(.+?)  [a-z-]+", process.stderr)
    answer = " ".join(process.stdout.split())
    is_match = re.search(answer_pattern, answer) is not None
    proof.line(
        question,
        f"{' > '.join(nodes)}: {answer[:110]} ({seconds:.1f} s)",
        process.returncode == 0 and expected_branch in nodes and is_match,
    )
    if process.returncode:
        proof.line("", process.stderr[-300:], ok=False)
