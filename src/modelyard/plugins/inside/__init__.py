"""Programs that run on a plugin's own Python. They import nothing else from modelyard."""
