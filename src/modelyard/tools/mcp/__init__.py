"""The Model Context Protocol, client and server: revision 2026-07-28, and the revisions
with a handshake back to 2024-11-05."""
