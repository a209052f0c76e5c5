"""Everything, wired: settings in, a server or a library out."""

from modelyard.app.modelyard import Modelyard

__all__ = ["Modelyard"]
