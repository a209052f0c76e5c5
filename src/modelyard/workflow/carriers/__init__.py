"""Carriers of runs: this process itself, and durable engines."""
