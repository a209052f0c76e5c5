"""Shared foundations for every layer: errors, settings, clock, ids and logging. Does
not depend on the model layer."""
