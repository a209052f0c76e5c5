"""Modules that come with an extra: loaded when something of them is first used, so that all else works without them."""

from importlib import import_module
from typing import Any

from modelyard.base.errors import ConfigError


class _Lazy:
    def __init__(self, name: str, extra: str) -> None:
        self.__dict__.update(_name=name, _extra=extra)

    def __getattr__(self, attribute: str) -> Any:
        try:
            module = import_module(self._name)
        except ImportError as missing:
            raise ConfigError(f"this needs {self._name}: pip install 'modelyard[{self._extra}]'") from missing
        found = getattr(module, attribute)
        self.__dict__[attribute] = found  # the next time it is a plain look-up
        return found


def lazy(name: str, *, extra: str) -> Any:
    """Stands for a module. Raises ConfigError, which says what to install, at the first use where it is not there."""
    return _Lazy(name, extra)
