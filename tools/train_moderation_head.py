"""Train the local moderation head on the vectors of the sentence encoder, and print its
results on held-out phrases.

    python tools/train_moderation_head.py

Writes src/modelyard/providers/local/moderation_head.npz (about 15 kB): softmax
regression without any randomness.
"""

from pathlib import Path

import numpy as np
import yaml

from modelyard.app.providers import weight_store
from modelyard.base.settings import Settings
from modelyard.providers.local.engines.multilingual_encoder import MultilingualEncoder

ROOT = Path(__file__).parents[1]
HEAD = ROOT / "src/modelyard/providers/local/moderation_head.npz"
SHARPNESS, STEPS, RATE, DECAY = 6.0, 2000, 1.0, 1e-3


def vectors(encoder: MultilingualEncoder, texts: list[str]) -> np.ndarray:
    """Return the vectors of the texts, scaled to a common length.

    The length acts as an inverse temperature: longer vectors give more decided
    probabilities.
    """
    embeddings = np.asarray(encoder.encode(texts), np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True) * SHARPNESS


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of each row."""
    # Subtract the maximum of each row, so that the exponential does not overflow.
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


def main() -> None:
    """Train, write the head and print the evaluation."""
    phrases = yaml.safe_load(
        (ROOT / "tools/moderation_phrases.yaml").read_text("utf-8")
    )
    classes = list(phrases["train"])
    texts = [text for name in classes for text in phrases["train"][name]]
    class_indexes = np.array(
        [classes.index(name) for name in classes for _ in phrases["train"][name]]
    )
    paths = weight_store(Settings()).paths("use-multilingual-v3-moderation")
    encoder = MultilingualEncoder(paths["weights"], paths["vocabulary"])
    x, y = vectors(encoder, texts), np.eye(len(classes))[class_indexes]
    weights, bias = np.zeros((x.shape[1], len(classes))), np.zeros(len(classes))
    # Full-batch gradient descent with weight decay: deterministic, and fast enough for
    # this amount of data.
    for _ in range(STEPS):
        gradient = (softmax(x @ weights + bias) - y) / len(x)
        weights -= RATE * (x.T @ gradient + DECAY * weights)
        bias -= RATE * gradient.sum(0)
    # Half precision is enough for the weights and halves the size of the file.
    np.savez_compressed(
        HEAD,
        classes=np.array(classes),
        weights=weights.astype(np.float16),
        bias=bias.astype(np.float32),
    )
    # These phrases took no part in the training.
    held_out = [
        (name, text) for name, all_of in phrases["held_out"].items() for text in all_of
    ]
    chances = softmax(vectors(encoder, [text for _, text in held_out]) @ weights + bias)
    safe = classes.index("safe")
    # Any class other than "safe" counts as flagged.
    flagged = chances.argmax(1) != safe
    is_harmful = np.array([name != "safe" for name, _ in held_out])
    right_class = np.array(
        [
            classes[row.argmax()] == name
            for row, (name, _) in zip(chances, held_out, strict=True)
        ]
    )
    print(f"trained on {len(texts)} phrases; {HEAD.stat().st_size:,} bytes")
    print(
        f"held out: {(flagged & is_harmful).sum()}/{is_harmful.sum()} caught, {(flagged & ~is_harmful).sum()}/{(~is_harmful).sum()} false alarms,"
    )
    print(
        f"          {(right_class & is_harmful).sum()}/{is_harmful.sum()} in the right class"
    )
    for row, (name, text), is_misjudged in zip(
        chances, held_out, flagged != is_harmful, strict=True
    ):
        if is_misjudged:
            print(
                f"  {name:<11} taken for {classes[row.argmax()]:<11} {row.max():.2f}  {text}"
            )


if __name__ == "__main__":
    main()
