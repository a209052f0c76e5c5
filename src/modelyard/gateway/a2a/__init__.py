"""Apps as agents that other agents call."""
