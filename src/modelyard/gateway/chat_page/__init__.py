"""Public chat pages of apps."""
