"""The local models' speed, as `modelyard models bench` measures it."""

import json
from typing import Any

from tools.show.proof import modelyard, own_home


def measure(seconds: float = 4.0) -> list[dict[str, Any]]:
    with own_home() as environ:
        return json.loads(modelyard("models", "bench", "--json", "--seconds", str(seconds), environ=environ))
