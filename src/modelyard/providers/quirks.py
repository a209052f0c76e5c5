"""Reads the `quirks` of a provider file as capabilities, and reports mistakes with
their lines."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from modelyard.base.errors import ConfigError, suggestion
from modelyard.base.json_types import is_object
from modelyard.base.yaml_lines import line_of_mistake, unknown_field, yaml_lines
from modelyard.models.capabilities import (
    DEFAULT_CAPABILITIES,
    Capabilities,
    InputTypeField,
)


def read_capabilities(
    document: Mapping[str, Any], path: Path
) -> tuple[Capabilities, dict[str, Capabilities]]:
    """Return the capabilities of a provider, and of those of its models that differ.

    Each quirk of a model replaces the provider's of the same name. Raises ConfigError
    for an unknown name or a wrong value; it names the file, the line and what is
    accepted.
    """
    provider_quirks: Any = document.get("quirks") or {}
    capabilities = _checked(provider_quirks, path, "$.quirks")
    by_model: dict[str, Capabilities] = {}
    models: Iterable[Any] = document.get("models") or ()
    for index, model in enumerate(models):
        # A model may be listed by name only.
        if not is_object(model) or not model.get("quirks"):
            continue
        # Checked by themselves first, since a mistake in them has its own line.
        _checked(model["quirks"], path, f"$.models[{index}].quirks")
        name = str(model.get("name") or model.get("model"))
        by_model[name] = msgspec.convert(
            {**provider_quirks, **model["quirks"]}, Capabilities
        )
    return capabilities, by_model


def _checked(quirks: Any, path: Path, yaml_path: str) -> Capabilities:
    """Return the quirks at `yaml_path` of a file as capabilities.

    Raises ConfigError with the line of the first mistake.
    """
    if not quirks:
        return DEFAULT_CAPABILITIES
    try:
        return msgspec.convert(quirks, Capabilities)
    except msgspec.ValidationError as error:
        # msgspec appends the path to its message: "reason - at `$.path`".
        reason, _, inner_path = str(error).partition(" - at `$")
        field_path = inner_path.rstrip("`")
        # The loader does not keep the lines, so the file is parsed again.
        lines = yaml_lines(path.read_text("utf-8"))
        line = line_of_mistake(lines, yaml_path + field_path, reason)
        location = f"{path}:{line}: {yaml_path[2:]}{field_path}"
        hint = _hint(field_path, reason, quirks)
        raise ConfigError(f"{location}: {reason}{hint}") from error


def _hint(field_path: str, reason: str, quirks: Any) -> str:
    """Return what would be right, as the end of a message.

    Empty if msgspec's `reason` says it already, as for a wrong type.
    """
    if name := unknown_field(reason):
        struct_type = InputTypeField if field_path else Capabilities
        return f"; {suggestion(name, struct_type.__struct_fields__)}"
    field = field_path.removeprefix(".")
    field_type = get_type_hints(Capabilities).get(field)
    if get_origin(field_type) is Literal:
        choices = get_args(field_type)
        return f"; {suggestion(str(quirks[field]), choices, label='expected one of')}"
    return ""
