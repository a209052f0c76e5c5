"""Reads the `quirks` of a provider file as capabilities, and reports mistakes with
their lines."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import yaml

from modelyard.base.errors import ConfigError, suggestion
from modelyard.base.json_types import is_object
from modelyard.base.yaml_lines import line_of_mistake, unknown_field, yaml_lines
from modelyard.models.capabilities import (
    DEFAULT_CAPABILITIES,
    Capabilities,
    InputTypeField,
    Thinking,
)

_FAMILIES = Path(__file__).with_name("catalog") / "_families.yaml"
"""Quirks of models that several providers serve, by the name of a list."""


@dataclass(frozen=True, slots=True)
class ModelQuirks:
    """The quirks of a provider's models, by patterns of their names.

    A pattern is one of `fnmatch`. All that match a name apply, a later one before an
    earlier one, and before the provider's own.
    """

    provider_quirks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    families: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    def of(self, model: str) -> dict[str, Any]:
        """Return all quirks that apply to a model by its name."""
        quirks = dict(self.provider_quirks)
        for pattern, family_quirks in self.families:
            if fnmatchcase(model.lower(), pattern):
                quirks |= family_quirks
        return quirks

    def capabilities_of(self, model: str) -> Capabilities:
        """Return what the server accepts for a model."""
        return msgspec.convert(self.of(model), Capabilities)


def read_capabilities(
    document: Mapping[str, Any], path: Path
) -> tuple[Capabilities, ModelQuirks, dict[str, Capabilities]]:
    """Return the capabilities of a provider, the quirks of its models by their names,
    and the capabilities of listed models with quirks of their own.

    Each quirk of a model replaces the provider's of the same name. Raises ConfigError
    for an unknown name or a wrong value; it names the file, the line and what is
    accepted.
    """
    provider_quirks: Any = document.get("quirks") or {}
    capabilities = _checked(provider_quirks, path, "$.quirks")
    families = ModelQuirks(provider_quirks, _families(document, path))
    by_model: dict[str, Capabilities] = {}
    models: Iterable[Any] = document.get("models") or ()
    for index, model in enumerate(models):
        # A model may be listed by name only.
        if not is_object(model) or not model.get("quirks"):
            continue
        # Checked by themselves first, since a mistake in them has its own line.
        _checked(
            model["quirks"],
            path,
            f"$.models[{index}].quirks",
        )
        name = str(model.get("name") or model.get("model"))
        by_model[name] = msgspec.convert(
            {**families.of(name), **model["quirks"]}, Capabilities
        )
    return capabilities, families, by_model


def capabilities_with(
    quirks: Any, name: str, families: ModelQuirks | None, source: str
) -> Capabilities:
    """Return the capabilities of a model that is declared with quirks of its own, in
    addition to those of its family.

    Raises ConfigError that names `source`, the model and what is accepted.
    """
    try:
        msgspec.convert(quirks, Capabilities)
    except msgspec.ValidationError as error:
        reason, field_path = _reason_and_path(error)
        hint = _hint(field_path, reason, quirks)
        raise ConfigError(
            f"{source}: model {name!r}: quirks{field_path}: {reason}{hint}"
        ) from error
    of_family = families.of(name) if families is not None else {}
    return msgspec.convert({**of_family, **quirks}, Capabilities)


def _families(
    document: Mapping[str, Any], path: Path
) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """Return the patterns of model names with their quirks: those of the shared lists
    that the file names, then its own. Raises ConfigError for a mistake."""
    result: list[tuple[str, Mapping[str, Any]]] = []
    for name in document.get("families") or ():
        result += _shared_families(str(name), path)
    own: Any = document.get("model_quirks") or {}
    if not is_object(own):
        raise ConfigError(f"{path}: 'model_quirks' must map patterns to quirks")
    for pattern, quirks in own.items():
        _checked(quirks, path, f"$.model_quirks.{pattern}")
        result.append((str(pattern).lower(), quirks))
    return tuple(result)


def _shared_families(name: str, path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Return a shared list. Raises ConfigError if there is none of this name."""
    lists = _read_shared_families()
    if name not in lists:
        known = suggestion(name, lists, label="expected one of")
        raise ConfigError(f"{path}: unknown entry of 'families' {name!r}; {known}")
    return list(lists[name].items())


@lru_cache(1)
def _read_shared_families() -> dict[str, dict[str, Any]]:
    """Return all shared lists. Raises ConfigError for a mistake in them."""
    lists = yaml.safe_load(_FAMILIES.read_text("utf-8"))
    for name, families in lists.items():
        for pattern, quirks in families.items():
            _checked(
                quirks,
                _FAMILIES,
                f"$.{name}.{pattern}",
            )
    return lists


def _checked(quirks: Any, path: Path, yaml_path: str) -> Capabilities:
    """Return the quirks at `yaml_path` of a file as capabilities.

    Raises ConfigError with the line of the first mistake.
    """
    if not quirks:
        return DEFAULT_CAPABILITIES
    try:
        return msgspec.convert(quirks, Capabilities)
    except msgspec.ValidationError as error:
        reason, field_path = _reason_and_path(error)
        # The loader does not keep the lines, so the file is parsed again.
        lines = yaml_lines(path.read_text("utf-8"))
        line = line_of_mistake(lines, yaml_path + field_path, reason)
        location = f"{path}:{line}: {yaml_path[2:]}{field_path}"
        hint = _hint(field_path, reason, quirks)
        raise ConfigError(f"{location}: {reason}{hint}") from error


def _reason_and_path(error: msgspec.ValidationError) -> tuple[str, str]:
    """Return what is wrong and the path of the field, which begins with a full stop."""
    # msgspec appends the path to its message: "reason - at `$.path`".
    reason, _, inner_path = str(error).partition(" - at `$")
    return reason, inner_path.rstrip("`")


def _hint(field_path: str, reason: str, quirks: Any) -> str:
    """Return what would be right, as the end of a message.

    Empty if msgspec's `reason` says it already, as for a wrong type.
    """
    if name := unknown_field(reason):
        nested = {".input_type": InputTypeField, ".thinking": Thinking}
        struct_type = nested.get(field_path, Capabilities)
        return f"; {suggestion(name, struct_type.__struct_fields__)}"
    field = field_path.removeprefix(".")
    field_type = get_type_hints(Capabilities).get(field)
    if get_origin(field_type) is Literal:
        choices = get_args(field_type)
        return f"; {suggestion(str(quirks[field]), choices, label='expected one of')}"
    return ""
