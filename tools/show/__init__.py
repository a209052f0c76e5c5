"""One proof per goal: a module prints its table and one line of JSON with the figures,
and succeeds only if the goal holds."""
