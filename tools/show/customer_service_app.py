"""Run the how-to's customer-service example on the local model: knowledge, agent, tools
and answer in one workflow."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.show.proof import ROOT, Proof, weights_folder

SCRIPT = ROOT / "examples" / "customer-service" / "customer_service.py"
QUESTIONS = (
    ("Where is my order 1042?", "1042", "order_lookup", r"on its way", ""),
    (
        "I want my money back for order 1077.",
        "1077",
        "refund_process",
        r"Refund of order 1077 has begun",
        "",
    ),
    (
        "My desk lamp flickers. Please report the problem.",
        "",
        "technical_support",
        r"Ticket T-\d+ is open",
        "",
    ),
    ("What does delivery cost?", "", "", "", r"4\.90"),
)
"""(question, order number, expected tool, pattern of the tool's result, pattern of the
answer)."""


def prove() -> Proof:
    """Ask all questions and check the tool call, its result, the answer, the sources
    and the token usage."""
    proof = Proof()
    with tempfile.TemporaryDirectory() as folder:
        # Reuse the weights on this machine instead of downloading them.
        (Path(folder) / "models").symlink_to(weights_folder(), target_is_directory=True)
        environ = {**os.environ, "MODELYARD_HOME": folder}
        for question, order, tool, observed, answered in QUESTIONS:
            started_at = time.monotonic()
            process = subprocess.run(
                [sys.executable, str(SCRIPT), question, "--order", order],
                env=environ,
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.monotonic() - started_at
            if process.returncode:
                proof.line(question, process.stderr[-400:], ok=False)
                continue
            output = json.loads(process.stdout)
            actions = [action["tool"] for action in output["actions"]]
            observations = " ".join(
                action["observation"] for action in output["actions"]
            )
            # An empty pattern matches everything, so cases may leave out the tool
            # result or the answer.
            fine = (
                actions == ([tool] if tool else [])
                and re.search(observed, observations)
                and re.search(answered, output["text"])
                and output["workflow"] == "customer service"
                and len(output["sources"]) == 2
                and output["usage"]["tokens"] > 0
            )
            summary = f"{', '.join(actions) or 'no tool'}; {', '.join(output['sources'])}; {output['usage']['tokens']} tokens; {seconds:.1f} s"
            proof.line(question, summary, bool(fine))
            proof.line("", f"“{' '.join(output['text'].split())[:140]}”")
    proof.figures["questions"] = len(QUESTIONS)
    return proof
