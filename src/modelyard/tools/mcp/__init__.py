"""The Model Context Protocol, both ways: revision 2026-07-28, and those with a handshake down to 2024-11-05."""
