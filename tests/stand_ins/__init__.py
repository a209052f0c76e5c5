"""Stand-ins for the vendors' APIs on loopback: they refuse what the vendors document as
refused, and play a scripted model that drives a coding agent through a session."""
