"""Agents of version 0.7 and apps without a graph, as their files describe them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tools.show.app_files.contract import Reading, Step
from tools.show.app_files.model_rules import history_messages
from tools.show.app_files.reading import ReadApp, ReadNode
from tools.show.app_files.values import Pool, references_in, render, text_of, value_at
from tools.show.app_files.world import (
    Message,
    agent_name,
    agent_text,
    agent_values,
    model_text,
    segments,
)

_VARIABLE = re.compile(r"\{\{([a-zA-Z_]\w{0,29})\}\}")
_MENTION = re.compile(r"\[§.*?§\]", re.DOTALL)
APP = ReadNode("app", "app", {}, "")
"""Stands for an app without a graph, as the one that asks."""


def agent_job(node: ReadNode, run: Reading) -> Step:
    """An agent of a package with a task: it asks its model with its prompt, the task and
    the outputs that the task names."""
    binding = node.mapping_of("agent_binding")
    package = run.app.packages[str(binding["package_ref"])]
    job = node.mapping_of("agent_job")
    prompt = str(package["soul"]["prompt"]["system_prompt"])
    task = str(job.get("workflow_prompt") or "")
    selectors = [
        *references_in(task),
        *(entry["selector"] for entry in job.get("previous_node_output_refs") or ()),
    ]
    values = [text_of(value_at(run.pool, selector)) for selector in selectors]
    run.ask_about(node, "model", [prompt, *values, *_author_texts(task)])
    name = agent_name(prompt)
    if not (declared := job.get("declared_outputs")):
        return Step({"text": agent_text(name), "files": []})
    properties = {str(output["name"]): _output_schema(output) for output in declared}
    schema = {"type": "object", "properties": properties}
    return Step(dict(agent_values(name, schema)))


def _output_schema(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a declared output."""
    match output.get("type"):
        case "array":
            item = output.get("array_item") or {"type": "string"}
            return {"type": "array", "items": _output_schema(item)}
        case "object":
            children = output.get("children") or ()
            properties = {
                str(child["name"]): _output_schema(child) for child in children
            }
            return {"type": "object", "properties": properties}
        case declared:
            return {"type": str(declared)}


def _author_texts(template: str) -> list[str]:
    """Return the texts of a template between its references and mentions."""
    plain = re.sub(r"\{\{#.*?#\}\}", "\0", _MENTION.sub("\0", template))
    return [text.strip() for text in plain.split("\0")]


def read_app_without_graph(run: Reading, inputs: Mapping[str, Any], query: str) -> str:
    """Return the answer of an app that is one prompt or one agent."""
    if run.app.mode == "agent":
        return _agent_app(run, inputs, query)
    if run.app.mode == "agent-chat":
        return _agent_chat(run, inputs, query)
    messages = _prompt(run, inputs, query)
    dataset_ids = dataset_ids_of(run.app)
    if dataset_ids:
        # The instructions around the segments are the product's own words.
        run.ask(APP, "dataset", [query, dataset_ids])
        found = [segment["content"] for segment in segments(query)]
        run.ask_about(APP, "model", [*found, *(message.text for message in messages)])
        return agent_text(agent_name("\n".join(message.text for message in messages)))
    run.ask(APP, "model", messages)
    return model_text(messages, run.script)


def _prompt(run: Reading, inputs: Mapping[str, Any], query: str) -> list[Message]:
    """Return the messages of a chat or completion app."""
    config = run.app.model_config
    is_chat = run.app.mode == "chat"
    pool: Pool = {"sys": {"query": query}}
    if config.get("prompt_type") == "advanced":
        entries: Sequence[Mapping[str, Any]] = config["chat_prompt_config"]["prompt"]
        messages = [
            Message(
                str(entry.get("role") or "user"),
                _with_inputs(
                    str(entry["text"]).replace("{{#query#}}", "{{#sys.query#}}"),
                    inputs,
                    pool,
                ),
                0,
            )
            for entry in entries
        ]
    else:
        text = _with_inputs(str(config.get("pre_prompt") or ""), inputs, pool)
        messages = [Message("system" if is_chat else "user", text, 0)]
    if is_chat:
        messages += history_messages({}, run)
        messages.append(Message("user", query, 0))
    return [message for message in messages if message.text]


def _with_inputs(template: str, inputs: Mapping[str, Any], pool: Pool) -> str:
    """Return a template of a simple app with the values of its form."""
    return _VARIABLE.sub(
        lambda match: text_of(inputs[match[1]]) if match[1] in inputs else match[0],
        render(template, pool),
    )


def dataset_ids_of(app: ReadApp) -> list[str]:
    """Return the enabled datasets of an app without a graph."""
    configs: Any = app.model_config.get("dataset_configs") or {}
    entries = (configs.get("datasets") or {}).get("datasets") or ()
    return [
        str(entry["dataset"]["id"])
        for entry in entries
        if entry["dataset"].get("enabled", True)
    ]


def _agent_chat(run: Reading, inputs: Mapping[str, Any], query: str) -> str:
    """Return the answer of an app of mode agent-chat."""
    pool: Pool = {"sys": {"query": query}}
    text = _with_inputs(str(run.app.model_config.get("pre_prompt") or ""), inputs, pool)
    run.ask_about(APP, "model", [text, query])
    return agent_text(agent_name(text))


def _agent_app(run: Reading, inputs: Mapping[str, Any], query: str) -> str:
    """Return the answer of an app of mode agent."""
    package = run.app.packages[str(run.app.agent["package_ref"])]
    prompt = _with_inputs(str(package["soul"]["prompt"]["system_prompt"]), inputs, {})
    run.ask_about(APP, "model", [prompt, query])
    return agent_text(agent_name(prompt))
