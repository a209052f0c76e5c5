"""Untrusted code, templates and parsers run here and nowhere else: forked children, shut in by the kernel."""
