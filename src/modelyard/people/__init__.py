"""People: accounts, how they sign in, their sessions, and the log of what they changed."""
