"""What translation costs in each format, beside the bare parse of the same bytes."""

import subprocess
import sys

from bench import formats

from tools.show.proof import ROOT, Proof

_AIM = 5.0
_MOST_MICROSECONDS = 60.0
"""Nobody should wait for a translation: more than this for 2 kB is a defect, whatever the machine."""


def prove() -> Proof:
    proof = Proof()
    rows = formats.measure()
    for row in rows:
        what = f"{row['format']}: {row['way']} a {row['what']} of {row['bytes']:,} bytes"
        proof.line(
            what, f"{row['us']} µs; bare {row['bare_us']} µs; {row['ratio']} times", row["us"] < _MOST_MICROSECONDS
        )
    read = [row for row in rows if row["way"] == "read"]
    within = [row for row in read if row["ratio"] < _AIM]
    proof.line("aimed at: reading under 5 times the bare parse", f"{len(within)} of {len(read)} rows")
    loaded = subprocess.run(
        [sys.executable, "-c", "import modelyard.app, sys; print([n for n in sys.modules if n.split('.')[0] in "
         "('openai', 'anthropic', 'cohere', 'google', 'boto3', 'botocore', 'dashscope', 'pydantic')])"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    proof.line("vendors' packages that the product loads", loaded, loaded == "[]")
    proof.figures = {"rows": rows, "reading_under_5_times": [len(within), len(read)]}
    return proof
