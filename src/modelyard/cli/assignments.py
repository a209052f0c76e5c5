"""Options and arguments of the form NAME=VALUE."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
"""The function of a command."""


# Generic in recent versions of click alone, so it has no type argument.
class Assignment(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A type of options that converts NAME=VALUE to (name, value).

    The value may be empty and may contain further equals signs.
    """

    name = "assignment"

    def __init__(self, form: str = "NAME=VALUE") -> None:
        self._form = form

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return (name, value). Raises click.BadParameter, a usage error."""
        # Only the first equals sign separates; keys in Base64 end with such signs.
        name, equals, text = str(value).partition("=")
        if not equals or not name.strip():
            self.fail(f"expected {self._form}, got {value!r}", param, ctx)
        return name, text


def assignments_option(flag: str, name: str, help: str) -> Callable[[F], F]:
    """Return the decorator of a repeatable option NAME=VALUE, whose pairs the command
    gets as `name`."""
    return click.option(
        flag, name, multiple=True, metavar="NAME=VALUE", type=Assignment(), help=help
    )
