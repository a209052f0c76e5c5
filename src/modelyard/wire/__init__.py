"""Their JSON <-> our types. One file a format, pure functions, both directions: no network, no clock."""
