"""For developers: measuring weights, training the moderation head, showing what was promised."""
