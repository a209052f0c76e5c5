"""Administration: creating and changing the resources of tenants, with validation and
permissions."""
