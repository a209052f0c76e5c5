"""An app file as it is written: its nodes, edges and variables, without the product's
loader."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT_TYPES = ("start", "trigger-webhook", "trigger-schedule", "trigger-plugin")
_ROOTS = frozenset({*ROOT_TYPES, "datasource"})
_STARTS = {"iteration": "iteration-start", "loop": "loop-start"}
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,29}")
_REFERENCE = re.compile(r"\{\{#([^{}#]+)#\}\}")


@dataclass(frozen=True, slots=True)
class ReadNode:
    """A node of the file."""

    id: str
    type: str
    data: Mapping[str, Any]
    container: str
    """The id of the iteration or loop that it is in; empty outside."""

    def list_of(self, name: str) -> list[Any]:
        """Return a list of the node's data; an empty one if it is absent."""
        return list(self.data.get(name) or ())

    def mapping_of(self, name: str) -> Mapping[str, Any]:
        """Return a mapping of the node's data; an empty one if it is absent."""
        return self.data.get(name) or {}


@dataclass(frozen=True, slots=True)
class ReadEdge:
    """An edge of the file."""

    source: str
    handle: str
    target: str


@dataclass(slots=True)
class ReadApp:
    """An app file."""

    name: str
    mode: str
    version: str
    nodes: dict[str, ReadNode] = field(default_factory=dict[str, ReadNode])
    edges: list[ReadEdge] = field(default_factory=list[ReadEdge])
    environment: dict[str, Any] = field(default_factory=dict[str, Any])
    conversation: dict[str, Any] = field(default_factory=dict[str, Any])
    conversation_types: dict[str, str] = field(default_factory=dict[str, str])
    model_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The settings of an app without a graph."""
    packages: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The agents of a file of version 0.7."""
    pipeline_variables: list[Mapping[str, Any]] = field(
        default_factory=list[Mapping[str, Any]]
    )
    """The inputs that a pipeline declares, with the source that each belongs to."""
    agent: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The section of an app that is one agent."""

    @property
    def is_chat(self) -> bool:
        """Whether the app has conversations."""
        return self.mode in ("chat", "agent-chat", "advanced-chat", "agent")

    @property
    def is_runnable(self) -> bool:
        """Whether the file has a graph, a prompt or an agent."""
        return bool(self.roots() or self.model_config or self.mode == "agent")

    def roots(self) -> list[str]:
        """Return the nodes with which a run can start."""
        return [
            node.id
            for node in self.nodes.values()
            if node.type in _ROOTS and not node.container
        ]

    def inside(self, container: str) -> list[ReadNode]:
        """Return the nodes that are directly in a container."""
        return [node for node in self.nodes.values() if node.container == container]

    def first_inside(self, container: ReadNode) -> str:
        """Return the node with which a round of a container starts."""
        start_type = _STARTS[container.type]
        inside = self.inside(container.id)
        starts = [node for node in inside if node.type == start_type]
        # Old files mark the first node instead.
        starts += [node for node in inside if node.data.get("isIterationStart")]
        stated_id = str(container.data.get("start_node_id") or "")
        return starts[0].id if starts else stated_id


def read(path: Path) -> ReadApp:
    """Read an app file."""
    document: Any = yaml.load(path.read_text("utf-8-sig"), yaml.CSafeLoader)
    about: Mapping[str, Any] = document.get("app") or {}
    app = ReadApp(
        name=path.name,
        mode=str(about.get("mode") or "workflow"),
        version=str(document.get("version") or ""),
        model_config=document.get("model_config") or {},
        packages=document.get("agent_packages") or {},
        agent=document.get("agent") or {},
    )
    workflow: Mapping[str, Any] = document.get("workflow") or {}
    _read_graph(app, workflow.get("graph") or {})
    app.pipeline_variables = list(workflow.get("rag_pipeline_variables") or ())
    for variable in workflow.get("environment_variables") or ():
        app.environment[str(variable["name"])] = variable.get("value")
    for variable in workflow.get("conversation_variables") or ():
        app.conversation[str(variable["name"])] = variable.get("value")
        app.conversation_types[str(variable["name"])] = str(variable["value_type"])
    return app


def _read_graph(app: ReadApp, graph: Mapping[str, Any]) -> None:
    """Add the nodes and edges of a graph to an app."""
    entries = [
        entry
        for entry in graph.get("nodes") or ()
        if (entry.get("data") or {}).get("type") and entry.get("type") != "custom-note"
    ]
    # Some files name nodes by their titles instead of their ids.
    titles = _titles(entries)
    for entry in entries:
        data: dict[str, Any] = _with_ids(entry["data"], titles)
        container = (
            data.get("iteration_id")
            or data.get("loop_id")
            or entry.get("parentId")
            or ""
        )
        node_id = str(entry["id"])
        app.nodes[node_id] = ReadNode(
            node_id, str(data["type"]), data, str(container) if container else ""
        )
    app.edges = list(_edges(graph, app.nodes))


def _titles(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the ids of nodes by their titles; the root is also called by its type."""
    titles: dict[str, str] = {}
    for entry in entries:
        data: Mapping[str, Any] = entry["data"]
        titles[str(data.get("title")).casefold()] = str(entry["id"])
        if data["type"] in _ROOTS:
            titles.setdefault(str(data["type"]), str(entry["id"]))
    ids = {str(entry["id"]) for entry in entries}
    return {title: titles[title] for title in titles if title not in ids}


def _edges(
    graph: Mapping[str, Any], nodes: Mapping[str, ReadNode]
) -> Iterator[ReadEdge]:
    """Yield the edges whose ends exist."""
    for edge in graph.get("edges") or ():
        source, target = str(edge.get("source")), str(edge.get("target"))
        if source in nodes and target in nodes:
            handle = edge.get("sourceHandle")
            text = (
                str(handle).lower() if isinstance(handle, bool) else str(handle or "")
            )
            # Both spellings occur.
            text = "__timeout" if text == "__timeout__" else text
            yield ReadEdge(source, text or "source", target)


def _with_ids(value: Any, titles: Mapping[str, str]) -> Any:
    """Return data in which selectors and templates that name a title name the id."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: _reference(match[1], titles), value)
    if isinstance(value, Mapping):
        return {str(key): _with_ids(value[key], titles) for key in value}
    if not isinstance(value, list):
        return value
    is_selector = len(value) > 1 and all(isinstance(step, str) for step in value)
    if is_selector and value[0].casefold() in titles and _NAME.fullmatch(value[1]):
        return [titles[value[0].casefold()], *value[1:]]
    return [_with_ids(element, titles) for element in value]


def _reference(selector: str, titles: Mapping[str, str]) -> str:
    """Return a reference of a template, with an id instead of a title."""
    title, dot, path = selector.partition(".")
    return "{{#" + titles.get(title.casefold(), title) + dot + path + "#}}"
