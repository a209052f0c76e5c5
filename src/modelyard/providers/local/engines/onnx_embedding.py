"""BERT-like embedding models as ONNX: the first token's vector, normalised."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from modelyard.providers.local.engines.onnx_text import TextModel
from modelyard.providers.local.engines.sentence_encoder import normalised, packed

_BATCH = 16


class Engine:
    parallel = 1

    def __init__(self, files: dict[str, str], options: dict[str, Any]) -> None:
        self._model = TextModel(files["model"], files["tokenizer"], int(options["threads"]))

    def answer(self, method: str, payload: Any, is_cancelled: Callable[[], bool]) -> Iterator[Any]:
        del method
        texts: list[str] = payload["texts"]
        rows: list[np.ndarray] = []
        for begin in range(0, len(texts), _BATCH):
            if is_cancelled():
                return
            rows.append(self._model.run(texts[begin : begin + _BATCH])[:, 0])
        yield packed(normalised(np.concatenate(rows)))
