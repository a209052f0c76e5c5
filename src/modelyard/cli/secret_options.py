"""The option `--secret`: a value given directly, from an environment variable, or from a
hidden prompt."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_FROM_VARIABLE = "env:"


class SecretValue(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A type of options that converts NAME=VALUE, NAME=env:VARIABLE and NAME to (name,
    value)."""

    name = "secret"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return (name, value). Raises click.BadParameter, a usage error, whose message
        contains no value."""
        name, equals, text = str(value).partition("=")
        name = name.strip()
        if not name:
            self.fail("expected NAME=VALUE, NAME=env:VARIABLE or NAME", param, ctx)
        # Written to the terminal and not to the output, which may be JSON.
        if not equals:
            return name, str(click.prompt(name, hide_input=True, err=True))
        if not text.startswith(_FROM_VARIABLE):
            return name, text
        variable = text.removeprefix(_FROM_VARIABLE)
        if not (secret := os.environ.get(variable, "")):
            self.fail(
                f"environment variable {variable!r} for {name!r} is not set",
                param,
                ctx,
            )
        return name, secret


def secret_option(function: F) -> F:
    """Add the option `--secret`; the values come as (name, value) in `secrets`."""
    return click.option(
        "--secret",
        "secrets",
        type=SecretValue(),
        multiple=True,
        metavar="NAME[=VALUE]",
        help="Value of a secret variable, repeatable: NAME=env:VARIABLE, NAME for a"
        " hidden prompt, or NAME=VALUE, which other users of the machine can see.",
    )(function)
