"""Sandbox for untrusted code, templates and document parsers: forked child processes
confined by the kernel."""
