"""Bytes over the network: the one client that goes out, who it may reach, event streams."""
