"""Cost of translating each wire format, compared with the plain parse of the same
bytes."""

import subprocess
import sys

from bench import formats

from tools.show.proof import ROOT, Proof

_AIM = 5.0
_MAX_MICROSECONDS = 60.0
"""Upper bound for 2 kB in microseconds, on any machine: a slower translation would be
noticeable to users."""


def prove() -> Proof:
    """Run the benchmark of formats and report each row; a row above the upper bound
    fails."""
    proof = Proof()
    rows = formats.measure()
    for row in rows:
        label = (
            f"{row['format']}: {row['way']} a {row['what']} of {row['bytes']:,} bytes"
        )
        proof.line(
            label,
            f"{row['us']} µs; bare {row['bare_us']} µs; {row['ratio']} times",
            row["us"] < _MAX_MICROSECONDS,
        )
    read = [row for row in rows if row["way"] == "read"]
    rows_within_aim = [row for row in read if row["ratio"] < _AIM]
    proof.line(
        "target: parsing under 5 times the bare JSON parse",
        f"{len(rows_within_aim)} of {len(read)} rows",
    )
    # Vendors' SDKs would make imports slow, so the product must not load any of them.
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import modelyard.app, sys; print([n for n in sys.modules if n.split('.')[0] in "
            "('openai', 'anthropic', 'cohere', 'google', 'boto3', 'botocore', 'dashscope', 'pydantic')])",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    proof.line("vendors' SDKs that the product imports", loaded, loaded == "[]")
    proof.figures = {
        "rows": rows,
        "reading_under_5_times": [len(rows_within_aim), len(read)],
    }
    return proof
