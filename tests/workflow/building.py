"""Builds workflows from few lines: nodes by id, edges as `a > b` or `a:handle > b`."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from modelyard.workflow.dsl import App, AppMapping, loads

MODEL = {
    "provider": "openai",
    "name": "gpt-4o",
    "mode": "chat",
    "completion_params": {},
}


def document(
    nodes: Mapping[str, Mapping[str, Any]],
    edges: Sequence[str],
    *,
    mode: str = "workflow",
    **workflow_fields: Any,
) -> dict[str, Any]:
    graph_nodes: list[dict[str, Any]] = []
    for name, data in nodes.items():
        data = dict(data)
        container_id = data.pop("in", None)
        if data["type"] in ("llm", "question-classifier", "parameter-extractor"):
            data.setdefault("model", MODEL)
        data.setdefault("title", name)
        node: dict[str, Any] = {"id": name, "type": "custom", "data": data}
        if container_id:
            container_type = nodes[container_id]["type"]
            data[f"{container_type}_id"] = container_id
            node["parentId"] = container_id
        graph_nodes.append(node)
    links: list[dict[str, Any]] = []
    for edge in edges:
        left, _, target = edge.partition(">")
        source, _, handle = left.strip().partition(":")
        links.append(
            {
                "source": source,
                "target": target.strip(),
                "sourceHandle": handle or "source",
            }
        )
    return {
        "kind": "app", "version": "0.6.0", "app": {"name": "test", "mode": mode},
        "workflow": {"graph": {"nodes": graph_nodes, "edges": links}, **workflow_fields},
    }  # fmt: skip


def app_of(
    nodes: Mapping[str, Mapping[str, Any]],
    edges: Sequence[str],
    **document_options: Any,
) -> App:
    text = yaml.dump(
        document(nodes, edges, **document_options),
        Dumper=getattr(yaml, "CDumper", yaml.Dumper),
        allow_unicode=True,
    )
    return loads(
        text, name="test.yml", mapping=AppMapping(models={"*": "scripted/model"})
    )
