"""What is kept: the database, its statements and its migrations."""
