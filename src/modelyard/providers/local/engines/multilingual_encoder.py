"""The forward pass of Google's Universal Sentence Encoder Multilingual v3 in numpy, and
its vocabulary.

Yang et al., "Multilingual Universal Sentence Encoder for Semantic Retrieval" (2019),
the convolutional variant. Each token's embedding is concatenated with the outputs of
convolutions over its neighbours. The sum over a text passes through a small network
with shortcuts. The weight file has float32 values, and the embedding table in six bits
per number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor

DIMENSIONS = 512
_WIDTH = 256  # what each convolution gives per piece
# piece n is row n // 17 of chunk n % 17: as the original spread its table over machines
_CHUNKS = 17
_UNKNOWN, _BEGIN, _END = 0, 1, 2
# Tokens in one pass: enough to use the weights for many texts at a time, and few enough
# to fit a processor's cache.
_PIECES_PER_PASS = 384

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Vocabulary:
    """The encoder's vocabulary; texts are split into tokens by SentencePiece, Google's
    own library."""

    def __init__(self, path: str) -> None:
        self._processor: Any = SentencePieceProcessor(model_file=path)

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text's tokens between the start and the end token, with
        at least one token in between.

        SentencePiece counts a run of unknown characters as one token. Here every such
        character counts, which keeps the vectors equal to those that datasets have
        stored.
        """
        token_ids: list[int] = self._processor.encode(text)
        if _UNKNOWN in token_ids:
            token_ids = self._expand_unknown(text, token_ids)
        return [_BEGIN, *(token_ids or [_UNKNOWN]), _END]

    def _expand_unknown(self, text: str, token_ids: list[int]) -> list[int]:
        """Return the ids with the unknown token repeated for each character of an
        unknown run."""
        # The same split as text, to learn how many characters an unknown token covers.
        spellings: list[str] = self._processor.encode(text, out_type=str)
        expanded_ids: list[int] = []
        for token_id, spelling in zip(token_ids, spellings, strict=True):
            times = len(spelling) if token_id == _UNKNOWN else 1
            expanded_ids.extend([token_id] * times)
        return expanded_ids


@dataclass(frozen=True, slots=True)
class _Convolution:
    """Two convolutions over the neighbouring tokens in `steps`, each added to its
    input."""

    steps: Integers
    """Positions of the neighbours relative to a token."""
    weights: tuple[Floats, Floats]
    biases: tuple[Floats, Floats]

    def apply(self, inputs: Floats, layout: "_PaddedLayout") -> Floats:
        """Apply both convolutions. Inputs and outputs have one row per token."""
        rows = inputs
        for weights, bias in zip(self.weights, self.biases, strict=True):
            # Rows are spread out with zeros between texts, so that no window reaches
            # into another text.
            padded = np.zeros((layout.length, _WIDTH), np.float32)
            padded[layout.positions] = rows
            # Gathers the neighbours of every token, so that the convolution becomes one
            # matrix product.
            windows = padded[layout.positions[:, None] + self.steps]
            shaped = windows.reshape(len(rows), -1) @ weights
            shaped += bias
            # ReLU in place, plus the shortcut.
            rows = rows + np.maximum(shaped, 0, out=shaped)
        return rows


class _PaddedLayout:
    """Places the tokens of several texts in one column, with space between texts. A
    window at the edge of a text sees zeros."""

    gap = 2  # the widest window reaches two pieces to each side

    def __init__(self, lengths: Integers) -> None:
        self.lengths = lengths
        self.starts = np.cumsum(lengths) - lengths
        # Each text is preceded by one gap more than the text before it.
        padding_before = np.repeat(np.arange(1, len(lengths) + 1) * self.gap, lengths)
        self.positions: Integers = np.arange(lengths.sum()) + padding_before
        # One gap before every text, and one after the last.
        self.length = int(lengths.sum()) + (len(lengths) + 1) * self.gap


class MultilingualEncoder:
    """Encodes texts as vectors of 512 numbers with length 1."""

    def __init__(self, weights: str, vocabulary: str) -> None:
        self._vocabulary = Vocabulary(vocabulary)
        with np.load(weights, allow_pickle=False) as archive:
            self._table = _read_table(archive)
            # The table is quantised: value = number * scale + lowest, per chunk.
            self._scale, self._lowest = (
                archive["scale"][:, None],
                archive["lo"][:, None],
            )
            # Convolutions over 2, 3 and 5 neighbouring tokens.
            self._convolutions = [
                _read_convolution(archive, 2, (0, 1)),
                _read_convolution(archive, 3, (-1, 0, 1)),
                _read_convolution(
                    archive,
                    5,
                    (-2, -1, 0, 1, 2),
                ),
            ]
            self._input_projection = _read_input_projection(archive)
            self._input_norm = (
                _read_concatenated(archive, "ln_g"),
                _read_concatenated(archive, "ln_b"),
            )
            names = (
                "ln_g",
                "ln_b",
                "cnn_W",
                "cnn_b",
                "d0",
                "d1",
                "d2",
                "d3",
                "p1",
                "p3",
            )
            self._weights: dict[str, Floats] = {name: archive[name] for name in names}
            self._epsilon = float(archive["eps"])

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return one row per text. A text's vector does not depend on the other texts."""
        cut = [self._vocabulary.tokenize(text) for text in texts]
        # The empty row makes the result well-formed for no texts at all.
        rows = [np.zeros((0, DIMENSIONS), np.float32)]
        rows.extend(self._encode_group(group) for group in _groups(cut))
        return np.concatenate(rows)

    def _encode_group(self, texts: list[list[int]]) -> Floats:
        """Return the vectors of texts, given as token ids; one row per text."""
        layout = _PaddedLayout(
            np.array([len(token_ids) for token_ids in texts], np.int64)
        )
        token_ids = np.array(
            [token_id for text in texts for token_id in text], np.int64
        )
        features = self._features(token_ids, layout)
        # Tokens of one text are consecutive, so `reduceat` sums each text.
        sums = np.add.reduceat(features, layout.starts, axis=0)
        return self._finish(sums, layout.lengths.astype(np.float32)[:, None])

    def _features(self, token_ids: Integers, layout: _PaddedLayout) -> Floats:
        """Return the features of each token: its embedding and the output of every
        convolution."""
        chunks = token_ids % _CHUNKS
        # Only the needed rows of the table are converted to floats.
        embedded = self._table[chunks, token_ids // _CHUNKS].astype(np.float32)
        embedded *= self._scale[chunks]
        embedded += self._lowest[chunks]
        weights, bias = self._input_projection
        entered = embedded @ weights
        entered += bias
        # The inputs of all three convolutions are normalised together, as one row.
        self._normalise(entered, *self._input_norm)
        columns = [embedded]
        for number, convolution in enumerate(self._convolutions):
            inputs = entered[:, number * _WIDTH : (number + 1) * _WIDTH]
            columns.append(convolution.apply(inputs, layout))
        features = np.concatenate(columns, axis=1)
        self._normalise(
            features,
            self._weights["ln_g"],
            self._weights["ln_b"],
        )
        return features

    def _finish(self, sums: Floats, lengths: Floats) -> Floats:
        """Return the vectors of texts from the sums of their tokens' features."""
        weights = self._weights
        # A sum and a linear map commute, so the map is applied once per text instead of
        # once per token.
        text = (sums @ weights["cnn_W"] + lengths * weights["cnn_b"]) / np.sqrt(lengths)
        hidden = np.maximum(text @ weights["d0"], 0)
        # Two blocks of two layers, each with a projected shortcut around it.
        middle = np.maximum(hidden @ weights["d1"] + text @ weights["p1"], 0)
        hidden = np.maximum(middle @ weights["d2"], 0)
        vectors = np.tanh(hidden @ weights["d3"] + middle @ weights["p3"])
        # The lower bound avoids a division by zero.
        return vectors / np.sqrt(
            np.maximum(np.square(vectors).sum(1, keepdims=True), self._epsilon)
        )

    def _normalise(self, rows: Floats, gain: Floats, bias: Floats) -> None:
        """Apply layer normalisation in place."""
        rows -= rows.mean(1, keepdims=True)
        variance = np.einsum("ij,ij->i", rows, rows)[:, None] / rows.shape[1]
        rows /= np.sqrt(variance + self._epsilon)
        rows *= gain
        rows += bias


def _groups(texts: list[list[int]]) -> Iterator[list[list[int]]]:
    """Yield consecutive texts in groups that fit one pass. A longer text forms its own
    group."""
    group: list[list[int]] = []
    size = 0
    for token_ids in texts:
        if group and size + len(token_ids) > _PIECES_PER_PASS:
            yield group
            group, size = [], 0
        group.append(token_ids)
        size += len(token_ids)
    if group:
        yield group


def _read_table(archive: Any) -> npt.NDArray[np.uint8]:
    """Read the embedding table chunk by chunk. It has 66 MB and is never in memory
    twice."""
    first = archive["q1"]
    table = np.empty((_CHUNKS, *first.shape), np.uint8)
    table[0] = first
    for number in range(1, _CHUNKS):
        table[number] = archive[f"q{number + 1}"]
    return table


def _read_convolution(archive: Any, width: int, steps: tuple[int, ...]) -> _Convolution:
    """Read the two convolutions of a width from the weight file.

    `steps` are the offsets of the neighbours they cover, as (-1, 0, 1) for width 3.
    """
    return _Convolution(
        steps=np.array(steps, np.int64),
        weights=(archive[f"w1_{width}"], archive[f"w2_{width}"]),
        biases=(archive[f"b1_{width}"], archive[f"b2_{width}"]),
    )


def _read_input_projection(archive: Any) -> tuple[Floats, Floats]:
    """Return weights and bias of the map from an embedding to the inputs of all three
    convolutions."""
    return _read_concatenated(archive, "proj", axis=1), _read_concatenated(
        archive, "proj_b"
    )


def _read_concatenated(archive: Any, name: str, axis: int = 0) -> Floats:
    """Return the filters of all widths as one array."""
    return np.concatenate([archive[f"{name}{width}"] for width in (2, 3, 5)], axis=axis)
