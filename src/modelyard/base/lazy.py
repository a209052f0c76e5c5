"""Modules of optional dependencies, imported at first use so that everything else works
without them."""

from importlib import import_module
from typing import Any

from modelyard.base.errors import ConfigError


class _LazyModule:
    def __init__(self, name: str, extra: str) -> None:
        # Written to `__dict__` directly: the attributes must exist without
        # `__getattr__` being called.
        self.__dict__.update(_name=name, _extra=extra)

    def __getattr__(self, attribute: str) -> Any:
        """Import the module at the first access. Raises ConfigError without the
        package."""
        try:
            module = import_module(self._name)
        except ImportError as missing:
            raise ConfigError(
                f"The package {self._name} is missing: pip install"
                f" 'modelyard[{self._extra}]'"
            ) from missing
        member = getattr(module, attribute)
        # Cached, so that the next access does not call `__getattr__`.
        self.__dict__[attribute] = member
        return member


def lazy_module(name: str, *, extra: str) -> Any:
    """Return a stand-in for a module that is imported when an attribute is first read.

    Raises ConfigError at first use, naming the extra to install, if the module is
    missing.
    """
    return _LazyModule(name, extra)
