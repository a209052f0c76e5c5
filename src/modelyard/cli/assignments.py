"""Options and arguments of the form NAME=VALUE."""

from typing import Any

import click


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
