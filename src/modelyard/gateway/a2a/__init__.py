"""A2A protocol: published apps as agents for other agents."""
