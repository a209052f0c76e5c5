"""Developer tools: measuring model weights, training the moderation head, and the
proofs of `make show`."""
