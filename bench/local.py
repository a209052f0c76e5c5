"""Speed of the local models, as measured by `modelyard models bench`."""

import json
from typing import Any

from tools.show.proof import modelyard, temporary_home


def measure(seconds: float = 4.0) -> list[dict[str, Any]]:
    """Return a row per local model, each measured for `seconds`."""
    with temporary_home() as environ:
        return json.loads(
            modelyard(
                "models", "bench", "--json", "--seconds", str(seconds), environ=environ
            )
        )
