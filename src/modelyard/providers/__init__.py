"""Vendors: what each declares of itself, and how to speak to it."""
