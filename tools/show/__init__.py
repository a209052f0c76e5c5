"""One proof a goal. Each prints its table, then one line of JSON with the figures, and succeeds only if the goal holds."""
