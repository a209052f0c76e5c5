"""Trains the local moderation head on the sentence encoder's vectors, and says how it does on held-out phrases.

    python tools/train_moderation_head.py

Writes src/modelyard/providers/local/moderation_head.npz (about 15 kB): softmax regression, no randomness in it.
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
    found = np.asarray(encoder.encode(texts), np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True) * SHARPNESS


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


def main() -> None:
    phrases = yaml.safe_load((ROOT / "tools/moderation_phrases.yaml").read_text("utf-8"))
    classes = list(phrases["train"])
    texts = [text for name in classes for text in phrases["train"][name]]
    wanted = np.array([classes.index(name) for name in classes for _ in phrases["train"][name]])
    paths = weight_store(Settings()).paths("use-multilingual-v3-moderation")
    encoder = MultilingualEncoder(paths["weights"], paths["vocabulary"])
    x, y = vectors(encoder, texts), np.eye(len(classes))[wanted]
    weights, bias = np.zeros((x.shape[1], len(classes))), np.zeros(len(classes))
    for _ in range(STEPS):
        gradient = (softmax(x @ weights + bias) - y) / len(x)
        weights -= RATE * (x.T @ gradient + DECAY * weights)
        bias -= RATE * gradient.sum(0)
    np.savez_compressed(
        HEAD, classes=np.array(classes), weights=weights.astype(np.float16), bias=bias.astype(np.float32)
    )
    held = [(name, text) for name, all_of in phrases["held_out"].items() for text in all_of]
    chances = softmax(vectors(encoder, [text for _, text in held]) @ weights + bias)
    safe = classes.index("safe")
    flagged = chances.argmax(1) != safe
    bad = np.array([name != "safe" for name, _ in held])
    right_class = np.array([classes[row.argmax()] == name for row, (name, _) in zip(chances, held, strict=True)])
    print(f"trained on {len(texts)} phrases; {HEAD.stat().st_size:,} bytes")
    print(
        f"held out: {(flagged & bad).sum()}/{bad.sum()} caught, {(flagged & ~bad).sum()}/{(~bad).sum()} false alarms,"
    )
    print(f"          {(right_class & bad).sum()}/{bad.sum()} in the right class")
    for row, (name, text), wrong in zip(chances, held, flagged != bad, strict=True):
        if wrong:
            print(f"  {name:<11} taken for {classes[row.argmax()]:<11} {row.max():.2f}  {text}")


if __name__ == "__main__":
    main()
