"""The composition of all parts: from settings to a server or a library."""

from modelyard.app.modelyard import Modelyard

__all__ = ["Modelyard"]
