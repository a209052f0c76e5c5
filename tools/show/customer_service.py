"""The README's customer-service workflow, live on the local model: four questions, each down its own way."""

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
    proof = Proof()
    port = free_port()
    text = FILE.read_text("utf-8").replace("127.0.0.1:8795", f"127.0.0.1:{port}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "models").symlink_to(weights_folder(), target_is_directory=True)
        file = home / "customer-service.yml"
        file.write_text(text, "utf-8")
        environ = {**os.environ, "MODELYARD_HOME": folder, "MODELYARD_EGRESS__PRIVATE": f"127.0.0.1:{port}"}
        command = [sys.executable, "-m", "modelyard", "workflow"]
        orders = subprocess.Popen([sys.executable, str(ROOT / "examples" / "workflows" / "orders.py"), str(port)])
        try:
            for question, way, wanted in QUESTIONS:
                began = time.monotonic()
                done = subprocess.run(
                    [*command, "run", str(file), "--query", question, "--model", "default"], env=environ,
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                seconds = time.monotonic() - began
                nodes = re.findall(r"✓ +[\d.]+ m?s +(.+?)  [a-z-]+", done.stderr)
                took = way in nodes
                said = " ".join(done.stdout.split())
                fine = done.returncode == 0 and took and re.search(wanted, said) is not None
                proof.line(question, f"{' > '.join(nodes)}: {said[:110]} ({seconds:.1f} s)", fine)
                if done.returncode:
                    proof.line("", done.stderr[-300:], ok=False)
        finally:
            orders.kill()
            orders.wait()
        drawn = subprocess.run([*command, "draw", str(FILE)], env=environ, capture_output=True, text=True, check=True)
    proof.line("its drawing", f"{len(drawn.stdout):,} bytes of SVG", drawn.stdout == DRAWING.read_text("utf-8"))
    return proof
