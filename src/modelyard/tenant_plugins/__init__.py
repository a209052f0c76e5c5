"""Plugins of tenants: installation, credentials, endpoints, subscriptions and calls."""
