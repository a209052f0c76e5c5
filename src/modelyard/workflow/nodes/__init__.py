"""Node types, one module for each. A module is found by the type's name, so there is no
registry to maintain."""

from functools import lru_cache
from importlib import import_module, util

from modelyard.base.struct_types import prepare_struct_types
from modelyard.workflow.node import Node

_ALIASES = {
    "variable-assigner": "variable_aggregator",  # name in old exports
    "trigger-webhook": "trigger",
    "trigger-schedule": "trigger",
    "trigger-plugin": "trigger",
    "datasource": "datasource",
    "iteration-start": "container_markers",
    "loop-start": "container_markers",
    "loop-end": "container_markers",
    "if-else": "if_else",
    "agent@2": "agent_v2",
}


@lru_cache(128)
def node_class(node_type: str, version: str = "1") -> type[Node] | None:
    """Return the class of a node type and version; None if the type does not exist."""
    name = _ALIASES.get(f"{node_type}@{version}") or _ALIASES.get(
        node_type, node_type.replace("-", "_")
    )
    # The name comes from a DSL file: it must not lead outside this package or to a
    # private module.
    if not name.isidentifier() or name.startswith("_"):
        return None
    path = f"{__name__}.{name}"
    if util.find_spec(path) is None:
        return None
    # Each module maps `type` or `type@version` to a class.
    kinds: dict[str, type[Node]] = import_module(path).NODES
    # Files are read in threads, and several may need the node's data type at once.
    prepare_struct_types()
    # A class registered for this version has priority over the type's default class.
    return kinds.get(f"{node_type}@{version}") or kinds.get(node_type)


def node_types() -> list[str]:
    """Return the names of all node types, sorted."""
    from pkgutil import iter_modules

    type_names: set[str] = set()
    for module in iter_modules(__path__):
        names = import_module(f"{__name__}.{module.name}").NODES
        # A later version of a node has the same type, as in `agent@2`.
        type_names |= {name.partition("@")[0] for name in names}
    return sorted(type_names)
