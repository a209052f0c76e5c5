"""The forward pass of Google's Universal Sentence Encoder Multilingual v3 in numpy, and its vocabulary.

Yang et al., "Multilingual Universal Sentence Encoder for Semantic Retrieval" (2019), the convolutional variant: each
piece's embedding stands beside what convolutions over its neighbours make of it; the sum over a text goes through a
small network with shortcuts. The weights' file holds float32, and the embedding table in six bits a number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor

DIMENSIONS = 512
_WIDTH = 256  # what each convolution gives per piece
_CHUNKS = 17  # piece n is row n // 17 of chunk n % 17: as the original spread its table over machines
_UNKNOWN, _BEGIN, _END = 0, 1, 2
# Pieces in one pass: enough that reading the weights is spread over many texts, and all of it fits a processor's cache.
_PIECES_PER_PASS = 384

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Vocabulary:
    """Texts cut into the encoder's pieces by SentencePiece, Google's own library."""

    def __init__(self, path: str) -> None:
        self._processor: Any = SentencePieceProcessor(model_file=path)

    def cut(self, text: str) -> list[int]:
        """The numbers of a text's pieces between those that begin and end it; never none in between.

        SentencePiece counts a run of unknown characters as one piece. Here each of them counts, as in the vectors
        that datasets have stored.
        """
        pieces: list[int] = self._processor.encode(text)
        if _UNKNOWN in pieces:
            pieces = self._with_each_unknown(text, pieces)
        return [_BEGIN, *(pieces or [_UNKNOWN]), _END]

    def _with_each_unknown(self, text: str, pieces: list[int]) -> list[int]:
        """The unknown run `pieces` names once, named once for each of its characters."""
        spellings: list[str] = self._processor.encode(text, out_type=str)
        counted: list[int] = []
        for piece, spelling in zip(pieces, spellings, strict=True):
            times = len(spelling) if piece == _UNKNOWN else 1
            counted.extend([piece] * times)
        return counted


@dataclass(frozen=True, slots=True)
class _Convolution:
    """Two convolutions over as many neighbouring pieces as `steps` has, each added to what went in."""

    steps: Integers
    """Where the neighbours are, counted from a piece."""
    weights: tuple[Floats, Floats]
    biases: tuple[Floats, Floats]

    def apply(self, inputs: Floats, layout: "_Layout") -> Floats:
        """One row a piece in, one row a piece out."""
        rows = inputs
        for weights, bias in zip(self.weights, self.biases, strict=True):
            padded = np.zeros((layout.length, _WIDTH), np.float32)
            padded[layout.places] = rows
            windows = padded[layout.places[:, None] + self.steps]
            shaped = windows.reshape(len(rows), -1) @ weights
            shaped += bias
            rows = rows + np.maximum(shaped, 0, out=shaped)
        return rows


class _Layout:
    """Several texts' pieces in one column, with room between texts: a window at a text's edge sees nothing."""

    room = 2  # the widest window reaches two pieces to each side

    def __init__(self, lengths: Integers) -> None:
        self.lengths = lengths
        self.starts = np.cumsum(lengths) - lengths
        before = np.repeat(np.arange(1, len(lengths) + 1) * self.room, lengths)
        self.places = np.arange(lengths.sum()) + before
        self.length = int(lengths.sum()) + (len(lengths) + 1) * self.room


class MultilingualEncoder:
    """Texts to vectors of 512 numbers, of length one."""

    def __init__(self, weights: str, vocabulary: str) -> None:
        self._vocabulary = Vocabulary(vocabulary)
        with np.load(weights, allow_pickle=False) as archive:
            self._table = _read_table(archive)
            self._step, self._lowest = archive["scale"][:, None], archive["lo"][:, None]
            self._convolutions = [
                _read_convolution(archive, 2, (0, 1)),
                _read_convolution(archive, 3, (-1, 0, 1)),
                _read_convolution(archive, 5, (-2, -1, 0, 1, 2)),
            ]
            self._entrance = _read_entrance(archive)
            self._entrance_norm = _read_together(archive, "ln_g"), _read_together(archive, "ln_b")
            names = ("ln_g", "ln_b", "cnn_W", "cnn_b", "d0", "d1", "d2", "d3", "p1", "p3")
            self._weights: dict[str, Floats] = {name: archive[name] for name in names}
            self._epsilon = float(archive["eps"])

    def encode(self, texts: Sequence[str]) -> Floats:
        """One row a text; a text's vector does not depend on the texts beside it."""
        cut = [self._vocabulary.cut(text) for text in texts]
        rows = [np.zeros((0, DIMENSIONS), np.float32)]
        rows.extend(self._pass(group) for group in _groups(cut))
        return np.concatenate(rows)

    def _pass(self, texts: list[list[int]]) -> Floats:
        layout = _Layout(np.array([len(pieces) for pieces in texts], np.int64))
        pieces = np.array([piece for text in texts for piece in text], np.int64)
        features = self._features(pieces, layout)
        sums = np.add.reduceat(features, layout.starts, axis=0)
        return self._finish(sums, layout.lengths.astype(np.float32)[:, None])

    def _features(self, pieces: Integers, layout: _Layout) -> Floats:
        """What stands for each piece: its embedding, and what each convolution makes of its surroundings."""
        chunks = pieces % _CHUNKS
        embedded = self._table[chunks, pieces // _CHUNKS].astype(np.float32)
        embedded *= self._step[chunks]
        embedded += self._lowest[chunks]
        weights, bias = self._entrance
        entered = embedded @ weights
        entered += bias
        # The three entrances are normalised together, as one row.
        self._normalise(entered, *self._entrance_norm)
        columns = [embedded]
        for number, convolution in enumerate(self._convolutions):
            inputs = entered[:, number * _WIDTH : (number + 1) * _WIDTH]
            columns.append(convolution.apply(inputs, layout))
        features = np.concatenate(columns, axis=1)
        self._normalise(features, self._weights["ln_g"], self._weights["ln_b"])
        return features

    def _finish(self, sums: Floats, lengths: Floats) -> Floats:
        """Texts' vectors, from the sums of their pieces' features."""
        named = self._weights
        # A sum and a linear map can change places: so the map is applied once a text, not once a piece.
        text = (sums @ named["cnn_W"] + lengths * named["cnn_b"]) / np.sqrt(lengths)
        hidden = np.maximum(text @ named["d0"], 0)
        middle = np.maximum(hidden @ named["d1"] + text @ named["p1"], 0)
        hidden = np.maximum(middle @ named["d2"], 0)
        vectors = np.tanh(hidden @ named["d3"] + middle @ named["p3"])
        return vectors / np.sqrt(np.maximum(np.square(vectors).sum(1, keepdims=True), self._epsilon))

    def _normalise(self, rows: Floats, gain: Floats, bias: Floats) -> None:
        """Layer normalisation, in place."""
        rows -= rows.mean(1, keepdims=True)
        variance = np.einsum("ij,ij->i", rows, rows)[:, None] / rows.shape[1]
        rows /= np.sqrt(variance + self._epsilon)
        rows *= gain
        rows += bias


def _groups(texts: list[list[int]]) -> Iterator[list[list[int]]]:
    """Texts as they follow each other, as many together as one pass takes; a longer one alone."""
    group: list[list[int]] = []
    size = 0
    for pieces in texts:
        if group and size + len(pieces) > _PIECES_PER_PASS:
            yield group
            group, size = [], 0
        group.append(pieces)
        size += len(pieces)
    if group:
        yield group


def _read_table(archive: Any) -> npt.NDArray[np.uint8]:
    """The embedding table, chunk by chunk: 66 MB, and never twice in memory."""
    first = archive["q1"]
    table = np.empty((_CHUNKS, *first.shape), np.uint8)
    table[0] = first
    for number in range(1, _CHUNKS):
        table[number] = archive[f"q{number + 1}"]
    return table


def _read_convolution(archive: Any, width: int, steps: tuple[int, ...]) -> _Convolution:
    return _Convolution(
        steps=np.array(steps, np.int64),
        weights=(archive[f"w1_{width}"], archive[f"w2_{width}"]),
        biases=(archive[f"b1_{width}"], archive[f"b2_{width}"]),
    )


def _read_entrance(archive: Any) -> tuple[Floats, Floats]:
    """The map from an embedding to the inputs of all three convolutions, side by side."""
    return _read_together(archive, "proj", axis=1), _read_together(archive, "proj_b")


def _read_together(archive: Any, name: str, axis: int = 0) -> Floats:
    return np.concatenate([archive[f"{name}{width}"] for width in (2, 3, 5)], axis=axis)
