"""Database repositories of the knowledge package: one for each table, and transactions
that span several of them."""
