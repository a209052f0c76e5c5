"""Models that can be called: tenants, policies, money."""
