"""Changing what tenants have set up: what may be written, by whom, and what is wrong with it."""
