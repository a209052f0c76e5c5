"""BERT-like embedding models as ONNX: the normalised vector of the first token."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from modelyard.providers.local.engines.onnx_text import TextModel
from modelyard.providers.local.engines.sentence_encoder import normalise, pack_vectors

_BATCH = 16


class Engine:
    """Runs the embedding model on the CPU."""

    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        self._model = TextModel(
            files["model"], files["tokenizer"], int(options["threads"])
        )

    def answer(
        self, method: str, payload: Any, is_cancelled: Callable[[], bool]
    ) -> Iterator[Any]:
        """Yield the packed vectors of all texts, or nothing if the request is
        cancelled."""
        del method
        texts: list[str] = payload["texts"]
        rows: list[np.ndarray] = []
        for start in range(0, len(texts), _BATCH):
            if is_cancelled():
                return
            # The first token ([CLS]) stands for the whole text in these models.
            rows.append(self._model.run(texts[start : start + _BATCH])[:, 0])
        yield pack_vectors(normalise(np.concatenate(rows)))
