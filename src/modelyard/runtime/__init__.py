"""Callable models with tenants, routing policies, limits and cost accounting."""
