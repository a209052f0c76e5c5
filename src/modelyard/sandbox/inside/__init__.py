"""Programs that run inside the sandbox processes. They import only each other, nothing
else from modelyard."""
