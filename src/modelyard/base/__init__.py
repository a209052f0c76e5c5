"""What every layer may use: errors, settings, clock, ids, log. Knows nothing of models."""
