"""A transformer over text as ONNX, with its tokenizer file: what embedding and rerank models share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

_MAX_TOKENS = 512


def session(path: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads take the core from whoever needs it next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class TextModel:
    def __init__(self, model: str, tokenizer: str, threads: int) -> None:
        self._session = session(model, threads)
        self._tokenizer: Any = Tokenizer.from_file(tokenizer)
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.enable_padding()
        self._inputs = {one.name for one in self._session.get_inputs()}

    def run(self, texts: Sequence[str | tuple[str, str]]) -> np.ndarray:
        """The model's first output for texts or pairs of texts."""
        encoded = self._tokenizer.encode_batch(list(texts))
        fed = {
            "input_ids": np.array([one.ids for one in encoded], np.int64),
            "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
            "token_type_ids": np.array([one.type_ids for one in encoded], np.int64),
        }
        return self._session.run(None, {name: value for name, value in fed.items() if name in self._inputs})[0]
