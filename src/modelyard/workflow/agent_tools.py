"""Parsing of an app's tool list, in any format that app files use, into tool
references. Pure functions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_mapping
from modelyard.tools.manager import ToolRef

_LEGACY_TOOLS: Mapping[str, tuple[str, str]] = {
    "current_datetime": ("time", "current_time"),
    "current_time": ("time", "current_time"),
    "web_reader": ("webscraper", "webscraper"),
    "calculator": ("calculator", "calculate"),
    "eval_expression": ("calculator", "calculate"),
    "simple_code": ("code", "simple_code"),
}
"""Tool names in old app files, as `{"current_datetime": {"enabled": true}}`, by
provider and tool."""
_TOOL_TYPES = {
    "builtin": "builtin",
    "plugin": "plugin",
    "api": "api",
    "workflow": "workflow",
    "mcp": "mcp",
    "app": "workflow",
}


def parse_tool_list(
    tool_list: Sequence[Any] | Mapping[str, Any] | None,
) -> list[ToolRef]:
    """Return references to the enabled tools of an app's tool list, in order.

    Entries may be in the old or the current format, or short as `kind:provider/name`;
    others are ignored. Datasets have the kind `dataset-retrieval`.
    """
    tool_refs: list[ToolRef] = []
    if not isinstance(tool_list, Sequence) or isinstance(tool_list, str):
        return tool_refs
    for definition in tool_list:
        # Short form: `kind:provider/name`.
        if isinstance(definition, str) and definition:
            tool_type, _, qualified_name = definition.rpartition(":")
            provider, _, name = qualified_name.rpartition("/")
            tool_refs.append(ToolRef(kind=tool_type, provider=provider, name=name))
        elif is_mapping(definition):
            tool_refs += (
                _parse_legacy(definition)
                if _is_legacy(definition)
                else _parse_definition(definition)
            )
    return tool_refs


def requirements_of_parameters(
    parameters: Mapping[str, Any],
) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of the models, tools and datasets that the parameters of an
    agent strategy name. What comes from a variable is known only in a run."""
    for parameter in parameters.values():
        is_wrapped = is_mapping(parameter) and "value" in parameter
        value = parameter["value"] if is_wrapped else parameter
        # Strategies of plugins may have several models, under any names.
        if is_mapping(value) and value.get("provider") and value.get("model"):
            yield "model", f"{value['provider']}/{value['model']}"
    for reference in parse_tool_list(_unwrap_constant(parameters.get("tools"))):
        is_dataset = reference.kind == "dataset-retrieval"
        name = f"{reference.provider}/{reference.name}".lstrip("/")
        yield ("dataset", reference.name) if is_dataset else ("tool", name)
    datasets = _unwrap_constant(parameters.get("datasets"))
    for dataset in datasets if is_array(datasets) else ():
        yield "dataset", str(dataset)


def resolve_tool_inputs(tools: Any, resolve: Callable[[Any], Any]) -> Any:
    """Return an app's tool list with the values of parameters that the author has fixed.

    `resolve` returns the value of a parameter such as `{"type": "variable", "value":
    ["start", "n"]}`. Whatever it returns is a constant afterwards.
    """
    if not is_array(tools):
        return tools
    return [
        _with_inputs(definition, resolve) if is_mapping(definition) else definition
        for definition in tools
    ]


def tool_input_parameters(tools: Any) -> Iterator[Any]:
    """Yield the parameters of a tool list that `resolve_tool_inputs` resolves."""
    inputs: list[Any] = []
    # The same walk as for resolving, so that no parameter is forgotten in either.
    resolve_tool_inputs(tools, inputs.append)
    yield from inputs


def _with_inputs(
    definition: Mapping[str, Any], resolve: Callable[[Any], Any]
) -> dict[str, Any]:
    """Return a tool's entry with resolved parameters and settings."""
    changed = dict(definition)
    for section in ("parameters", "settings"):
        values = definition.get(section)
        if is_mapping(values):
            changed[section] = {
                name: _with_input(value, resolve) for name, value in values.items()
            }
    return changed


def _with_input(value: Any, resolve: Callable[[Any], Any]) -> Any:
    """Return a parameter with its resolved value; one that the model chooses is left
    as it is."""
    if not is_mapping(value) or not is_mapping(value.get("value")):
        return value
    typed = value["value"]
    if value.get("auto") or set(typed) < {"type", "value"}:
        return value
    return {**value, "value": {"type": "constant", "value": resolve(typed)}}


def _is_legacy(definition: Mapping[str, Any]) -> bool:
    """Return whether a tool is written in the form of old files."""
    # Old files have one object per tool, with the tool's name as its only key.
    return len(definition) == 1 and isinstance(next(iter(definition.values())), Mapping)


def _parse_legacy(definition: Mapping[str, Any]) -> Iterator[ToolRef]:
    """Yield the tool references of an entry in the old format, named by its only key.

    A disabled entry yields none, a dataset entry one per dataset.
    """
    name, options = next(iter(definition.items()))
    if not options.get("enabled", True):
        return
    if name in ("dataset", "dataset-retrieval"):
        # A dataset tool has either one id or a list of them.
        for dataset_id in options.get("ids") or [options.get("id")]:
            if dataset_id:
                yield dataset_ref(str(dataset_id))
        return
    provider, tool = _LEGACY_TOOLS.get(name, ("", name))
    yield ToolRef(provider=provider, name=tool)


def _parse_definition(definition: Mapping[str, Any]) -> Iterator[ToolRef]:
    """Yield the reference of a tool entry in the current format of Dify.

    An entry that is disabled or has no `tool_name` yields none.
    """
    if not definition.get("enabled", True) or not definition.get("tool_name"):
        return
    tool_type = str(
        definition.get("provider_type") or definition.get("type") or "builtin"
    )
    provider = str(
        # Files of different versions name the provider differently. The id comes first,
        # since it is exact.
        definition.get("provider_id")
        or definition.get("provider_name")
        or definition.get("provider")
        or ""
    )
    name = str(definition["tool_name"])
    if tool_type == "dataset-retrieval":
        yield dataset_ref(provider or name)
        return
    extra = definition.get("extra")
    yield ToolRef(
        kind=_TOOL_TYPES.get(tool_type, tool_type),
        provider=provider,
        name=name,
        credential=str(definition.get("credential_id") or ""),
        settings=_settings(definition),
        description=str(extra.get("description") or "") if is_mapping(extra) else "",
        needs_approval=bool(definition.get("needs_approval")),
    )


def dataset_ref(name: str) -> ToolRef:
    """Return a tool reference that searches a dataset."""
    # The alias is what the model sees: tool names may not contain hyphens everywhere.
    return ToolRef(
        kind="dataset-retrieval",
        provider=name,
        name=name,
        alias=f"dataset_{name.replace('-', '_')}",
    )


def _settings(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that the agent's author has fixed, so that the model does
    not choose them."""
    settings: dict[str, Any] = {
        name: _setting_value(value)
        for name, value in (definition.get("settings") or EMPTY_OBJECT).items()
    }
    settings |= _fixed_parameters(definition.get("parameters") or {})
    settings |= definition.get("tool_parameters") or {}
    # Empty values mean that the author left the field blank.
    return {
        name: value
        for name, value in settings.items()
        if value is not None and value != ""
    }


def _setting_value(value: Any) -> Any:
    """Return a setting's value, which may be wrapped as `{"value": …}`."""
    if is_mapping(value) and "value" in value:
        return _unwrap_constant(value["value"])
    return value


def _fixed_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters whose value the model does not choose."""
    fixed: dict[str, Any] = {}
    for name, value in parameters.items():
        if not is_mapping(value):
            fixed[name] = value
        # `auto` means that the model chooses the value.
        elif not value.get("auto", 1) and value.get("value") is not None:
            fixed[name] = _unwrap_constant(value["value"])
    return fixed


def _unwrap_constant(value: Any) -> Any:
    """Return the value of a constant written as `{"type": …, "value": …}`.

    Any other value is returned unchanged.
    """
    return (
        value["value"]
        if is_mapping(value) and {"type", "value"} <= set(value)
        else value
    )
