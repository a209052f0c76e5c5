"""Accounts of people: sign-in, sessions, and the audit log of their changes."""
