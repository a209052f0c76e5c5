"""Local models of all six types, each in its own process."""
