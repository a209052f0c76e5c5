"""ms-marco-MiniLM as ONNX: how well each document answers a query, 0 to 1."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from modelyard.providers.local.engines.onnx_text import TextModel

_BATCH = 16


class Engine:
    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        self._model = TextModel(files["model"], files["tokenizer"], int(options["threads"]))

    def answer(self, method: str, payload: Any, is_cancelled: Callable[[], bool]) -> Iterator[Any]:
        del method
        pairs = [(payload["query"], doc) for doc in payload["docs"]]
        # Documents of like length together: a batch is as slow as its longest.
        order = sorted(range(len(pairs)), key=lambda place: len(pairs[place][1]))
        scores = np.zeros(len(pairs), np.float64)
        for begin in range(0, len(order), _BATCH):
            if is_cancelled():
                return
            places = order[begin : begin + _BATCH]
            scores[places] = self._model.run([pairs[place] for place in places]).reshape(-1)
        yield (1 / (1 + np.exp(-scores))).tolist()
