"""The how-to's customer service, live on the local model: knowledge, agent, tools and answer in one workflow."""

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
    ("I want my money back for order 1077.", "1077", "refund_process", r"Refund of order 1077 has begun", ""),
    ("My desk lamp flickers. Please report the problem.", "", "technical_support", r"Ticket T-\d+ is open", ""),
    ("What does delivery cost?", "", "", "", r"4\.90"),
)
"""(question, order, the tool that is called, what it says, what the answer holds)."""


def prove() -> Proof:
    proof = Proof()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").symlink_to(weights_folder(), target_is_directory=True)
        environ = {**os.environ, "MODELYARD_HOME": folder}
        for question, order, tool, observed, answered in QUESTIONS:
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, str(SCRIPT), question, "--order", order],
                env=environ,
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.monotonic() - began
            if done.returncode:
                proof.line(question, done.stderr[-400:], ok=False)
                continue
            said = json.loads(done.stdout)
            actions = [one["tool"] for one in said["actions"]]
            seen = " ".join(one["observation"] for one in said["actions"])
            fine = (
                actions == ([tool] if tool else []) and re.search(observed, seen) and re.search(answered, said["text"])
                and said["workflow"] == "customer service" and len(said["sources"]) == 2 and said["usage"]["tokens"] > 0
            )  # fmt: skip
            told = f"{', '.join(actions) or 'no tool'}; {', '.join(said['sources'])}; {said['usage']['tokens']} tokens; {seconds:.1f} s"
            proof.line(question, told, bool(fine))
            proof.line("", f"“{' '.join(said['text'].split())[:140]}”")
    proof.figures["questions"] = len(QUESTIONS)
    return proof
