"""One proof a goal: prints its table, then one line of JSON with the figures; succeeds only if the goal holds."""
