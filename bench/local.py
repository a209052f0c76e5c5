"""The local models' speed, as `modelyard models bench` measures it."""

import json
import os
import subprocess
import sys
from typing import Any

from tools.show.proof import own_home


def measure(seconds: float = 4.0) -> list[dict[str, Any]]:
    with own_home() as environ:
        done = subprocess.run(
            [sys.executable, "-m", "modelyard", "models", "bench", "--json", "--seconds", str(seconds)],
            env={**os.environ, **environ}, check=True, capture_output=True, text=True,
        )  # fmt: skip
    return json.loads(done.stdout)
