"""The APIs described, for people and for programs."""
