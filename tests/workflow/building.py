"""Workflows from a few lines: nodes by id, edges as `a > b` or `a:handle > b`."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from modelyard.workflow.dsl import App, AppMapping, loads

MODEL = {"provider": "openai", "name": "gpt-4o", "mode": "chat", "completion_params": {}}


def document(
    nodes: Mapping[str, Mapping[str, Any]], edges: Sequence[str], *, mode: str = "workflow", **more: Any
) -> dict[str, Any]:
    made: list[dict[str, Any]] = []
    for name, data in nodes.items():
        data = dict(data)
        inside = data.pop("in", None)
        if data["type"] in ("llm", "question-classifier", "parameter-extractor"):
            data.setdefault("model", MODEL)
        data.setdefault("title", name)
        node: dict[str, Any] = {"id": name, "type": "custom", "data": data}
        if inside:
            kind = nodes[inside]["type"]
            data[f"{kind}_id"] = inside
            node["parentId"] = inside
        made.append(node)
    links: list[dict[str, Any]] = []
    for edge in edges:
        left, _, target = edge.partition(">")
        source, _, handle = left.strip().partition(":")
        links.append({"source": source, "target": target.strip(), "sourceHandle": handle or "source"})
    return {
        "kind": "app", "version": "0.6.0", "app": {"name": "test", "mode": mode},
        "workflow": {"graph": {"nodes": made, "edges": links}, **more},
    }  # fmt: skip


def app_of(nodes: Mapping[str, Mapping[str, Any]], edges: Sequence[str], **how: Any) -> App:
    text = yaml.dump(document(nodes, edges, **how), allow_unicode=True)
    return loads(text, name="test.yml", mapping=AppMapping(models={"*": "scripted/model"}))
