"""Programs that run on plugins' own Python, and import nothing of ours."""
