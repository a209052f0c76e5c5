"""Tenants: what each has set up, who calls on whose behalf, and the keys that show it."""
