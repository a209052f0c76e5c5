"""One file a node type. The folder is the list: a type's file bears its name."""

from functools import lru_cache
from importlib import import_module, util

from modelyard.workflow.node import Node

_ALIASES = {
    "variable-assigner": "variable_aggregator",  # what old exports call it
    "trigger-webhook": "trigger",
    "trigger-schedule": "trigger",
    "trigger-plugin": "trigger",
    "datasource": "datasource",
    "iteration-start": "start_of",
    "loop-start": "start_of",
    "loop-end": "start_of",
    "if-else": "if_else",
}


@lru_cache(128)
def node_class(kind: str, version: str = "1") -> type[Node] | None:
    """The class of a type; None where there is no such type."""
    name = _ALIASES.get(kind, kind.replace("-", "_"))
    if not name.isidentifier() or name.startswith("_"):
        return None
    path = f"{__name__}.{name}"
    if util.find_spec(path) is None:
        return None
    kinds: dict[str, type[Node]] = import_module(path).NODES
    return kinds.get(f"{kind}@{version}") or kinds.get(kind)


def node_types() -> list[str]:
    """Every type that there is."""
    from pkgutil import iter_modules

    found: set[str] = set()
    for module in iter_modules(__path__):
        found |= {name.partition("@")[0] for name in import_module(f"{__name__}.{module.name}").NODES}
    return sorted(found)
