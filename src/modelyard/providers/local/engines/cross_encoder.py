"""ms-marco-MiniLM as ONNX: scores from 0 to 1 for how well each document answers a
query."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from modelyard.providers.local.engines.onnx_text import TextModel

# The longest text of a batch decides the length of all, which are padded.
_BATCH = 16


class Engine:
    """Runs the cross-encoder on the CPU."""

    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        self._model = TextModel(
            files["model"], files["tokenizer"], int(options["threads"])
        )

    def answer(
        self, method: str, payload: Any, is_cancelled: Callable[[], bool]
    ) -> Iterator[Any]:
        """Yield the scores of all documents as one list, or nothing if the request is
        cancelled."""
        del method
        pairs = [(payload["query"], doc) for doc in payload["docs"]]
        # Documents of similar length share a batch, since all are padded to the
        # longest.
        order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][1]))
        scores = np.zeros(len(pairs), np.float64)
        for start in range(0, len(order), _BATCH):
            if is_cancelled():
                return
            batch_indexes = order[start : start + _BATCH]
            scores[batch_indexes] = self._model.run(
                [pairs[index] for index in batch_indexes]
            ).reshape(-1)
        # The model returns logits; the logistic function maps them to 0 to 1.
        yield (1 / (1 + np.exp(-scores))).tolist()
