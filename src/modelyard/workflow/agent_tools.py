"""An app's list of tools, in any of the shapes that files have, as references. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelyard.tools.manager import ToolRef

_OLD: Mapping[str, tuple[str, str]] = {
    "current_datetime": ("time", "current_time"), "current_time": ("time", "current_time"),
    "web_reader": ("webscraper", "webscraper"), "calculator": ("calculator", "calculate"),
    "eval_expression": ("calculator", "calculate"), "simple_code": ("code", "simple_code"),
}  # fmt: skip
"""What tools were called in the files of old: `{"current_datetime": {"enabled": true}}`."""
_KINDS = {
    "builtin": "builtin",
    "plugin": "plugin",
    "api": "api",
    "workflow": "workflow",
    "mcp": "mcp",
    "app": "workflow",
}


def tools_in(given: Any) -> list[ToolRef]:
    """Those that are switched on, in order; datasets are of the kind `dataset-retrieval`."""
    found: list[ToolRef] = []
    for one in given if isinstance(given, Sequence) and not isinstance(given, str) else ():
        if isinstance(one, str) and one:
            kind, _, rest = one.rpartition(":")
            provider, _, name = rest.rpartition("/")
            found.append(ToolRef(kind=kind, provider=provider, name=name))
        elif isinstance(one, Mapping):
            found += _old(one) if _is_old(one) else _new(one)
    return found


def _is_old(one: Mapping[str, Any]) -> bool:
    return len(one) == 1 and isinstance(next(iter(one.values())), Mapping)


def _old(one: Mapping[str, Any]) -> Iterator[ToolRef]:
    name, about = next(iter(one.items()))
    if not about.get("enabled", True):
        return
    if name in ("dataset", "dataset-retrieval"):
        for each in about.get("ids") or [about.get("id")]:
            if each:
                yield dataset_ref(str(each))
        return
    provider, tool = _OLD.get(name, ("", name))
    yield ToolRef(provider=provider, name=tool)


def _new(one: Mapping[str, Any]) -> Iterator[ToolRef]:
    if not one.get("enabled", True) or not one.get("tool_name"):
        return
    kind = str(one.get("provider_type") or one.get("type") or "builtin")
    provider = str(one.get("provider_id") or one.get("provider_name") or one.get("provider") or "")
    name = str(one["tool_name"])
    if kind == "dataset-retrieval":
        yield dataset_ref(provider or name)
        return
    extra = one.get("extra") if isinstance(one.get("extra"), Mapping) else {}
    yield ToolRef(
        kind=_KINDS.get(kind, kind), provider=provider, name=name, credential=str(one.get("credential_id") or ""),
        settings=_settings(one), description=str((extra or {}).get("description") or ""),
        needs_approval=bool(one.get("needs_approval")),
    )  # fmt: skip


def dataset_ref(name: str) -> ToolRef:
    return ToolRef(kind="dataset-retrieval", provider=name, name=name, alias=f"dataset_{name.replace('-', '_')}")


def _settings(one: Mapping[str, Any]) -> dict[str, Any]:
    """What whoever set the agent up filled in: it is not the model's to choose."""
    found: dict[str, Any] = {}
    for name, value in (one.get("settings") or {}).items():
        found[name] = value.get("value") if isinstance(value, Mapping) and "value" in value else value
    for name, value in (one.get("parameters") or {}).items():
        if isinstance(value, Mapping):
            if not value.get("auto", 1) and value.get("value") is not None:
                found[name] = _constant(value["value"])
        else:
            found[name] = value
    found |= one.get("tool_parameters") or {}
    return {name: value for name, value in found.items() if value is not None and value != ""}


def _constant(value: Any) -> Any:
    return value["value"] if isinstance(value, Mapping) and set(value) == {"type", "value"} else value
