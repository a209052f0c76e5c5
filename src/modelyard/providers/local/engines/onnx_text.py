"""A text transformer as ONNX with its tokenizer file, shared by embedding and rerank
models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as _onnxruntime
from tokenizers import Tokenizer

onnxruntime: Any = _onnxruntime  # without types

# These models have no positions beyond.
_MAX_TOKENS = 512


def session(path: str, threads: int) -> Any:
    """Open an ONNX model on the CPU with this number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would occupy cores that other processes need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(path, options, providers=providers)


class TextModel:
    """A text model and its tokenizer. Inputs longer than 512 tokens are truncated."""

    def __init__(self, model: str, tokenizer: str, threads: int) -> None:
        self._session = session(model, threads)
        self._tokenizer: Any = Tokenizer.from_file(tokenizer)
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.enable_padding()
        self._inputs = {model_input.name for model_input in self._session.get_inputs()}

    def run(self, texts: Sequence[str | tuple[str, str]]) -> np.ndarray:
        """Return the model's first output for texts or pairs of texts."""
        encoded = self._tokenizer.encode_batch(list(texts))
        fed = {
            "input_ids": np.array([encoding.ids for encoding in encoded], np.int64),
            "attention_mask": np.array(
                [encoding.attention_mask for encoding in encoded], np.int64
            ),
            "token_type_ids": np.array(
                [encoding.type_ids for encoding in encoded], np.int64
            ),
        }
        # Some models have no token types, and ONNX rejects unknown inputs.
        return self._session.run(
            None, {name: value for name, value in fed.items() if name in self._inputs}
        )[0]
