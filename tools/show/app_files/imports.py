"""What the import of a file has to say: the models, tools and datasets that it needs."""

from collections.abc import Iterator
from typing import Any

from modelyard.workflow.dsl import App
from tools.show.app_files.agents import dataset_ids_of
from tools.show.app_files.reading import ReadApp, ReadNode


def unnamed_needs(read: ReadApp, app: App) -> list[str]:
    """Return what a file needs and its import does not name."""
    named = [f"{need.kind} {need.name}" for need in app.requirements]
    return [
        f"the import does not name the {kind} {name}, which {owner} needs"
        for kind, name, owner in sorted(_needs(read))
        if not any(line.startswith(kind) and name in line for line in named)
    ]


def _needs(read: ReadApp) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, name, what needs it)."""
    for node in read.nodes.values():
        for kind, name in _needs_of_node(node):
            yield kind, name, node.id
    if name := (read.model_config.get("model") or {}).get("name"):
        yield "model", str(name), "the app"
    for dataset_id in dataset_ids_of(read):
        yield "dataset", dataset_id, "the app"
    for package in read.packages.values():
        yield "model", str(package["soul"]["model"]["model"]), "an agent"


def _needs_of_node(node: ReadNode) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of what a node needs."""
    models = [node.data.get("model")]
    if node.data.get("retrieval_mode") == "single":
        models.append(node.mapping_of("single_retrieval_config").get("model"))
    yield from _named("model", "name", models)
    if node.type == "tool":
        provider = node.data.get("provider_id") or node.data.get("provider_name")
        yield "tool", str(provider)
    yield from (("dataset", str(name)) for name in node.list_of("dataset_ids"))
    parameters = node.mapping_of("agent_parameters")
    values = [entry.get("value") for entry in parameters.values()]
    yield from _named("model", "model", values)
    for value in values:
        # Files that are broken on purpose have texts instead of tools.
        yield from _named("tool", "tool_name", value if isinstance(value, list) else [])


def _named(kind: str, key: str, entries: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) for the entries that have a name and are not switched off."""
    for entry in entries:
        if isinstance(entry, dict) and entry.get(key) and entry.get("enabled", True):
            yield kind, str(entry[key])
