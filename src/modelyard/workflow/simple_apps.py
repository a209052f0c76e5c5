"""Converts apps that consist of one prompt (chat, completion, agent-chat) into an
equivalent graph. No I/O."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.base.json_types import EMPTY_OBJECT, is_mapping

START, RETRIEVAL, MODEL, AGENT, ANSWER = "start", "retrieval", "llm", "agent", "answer"
_VARIABLE = re.compile(r"\{\{([a-zA-Z_][a-zA-Z0-9_]{0,29})\}\}")
# Special tokens of chat templates, which a prompt must not contain.
_SPECIAL_TOKENS = re.compile(r"<\|[^|>]{0,40}\|>")
_CONTEXT = """Use the text between the <context></context> tags as what you know.

<context>
{{#context#}}
</context>

Where it does not hold the answer, say that you do not know. Do not speak of the context itself. Answer in the \
language of the question.
"""  # noqa: E501


def nodes_of_model_config(
    mode: str, config: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (nodes, edges) in the format of a workflow's DSL file."""
    form_fields = _form_fields(mode, config)
    names = {form_field["variable"] for form_field in form_fields}
    # An app may list datasets that are disabled.
    datasets = _datasets(config)
    nodes = [
        _node(START, {"type": "start", "title": "Start", "variables": form_fields})
    ]
    # An agent gets the datasets as tools instead.
    if datasets and mode != "agent-chat":
        nodes.append(_node(RETRIEVAL, _retrieval(config, datasets, mode, names)))
    if mode == "agent-chat":
        nodes.append(_node(AGENT, _agent(config, names)))
    else:
        nodes.append(
            _node(MODEL, _llm(config, mode, names, has_context=bool(datasets)))
        )
    # The answer shows the text of whichever node produces it.
    answer_source = AGENT if mode == "agent-chat" else MODEL
    nodes.append(
        _node(
            ANSWER,
            {
                "type": "answer",
                "title": "Answer",
                "answer": "{{#" + answer_source + ".text#}}",
            },
        )
    )
    ids = [node["id"] for node in nodes]
    # Apps of this type are a simple chain of nodes.
    edges = [
        {"source": source, "target": target}
        for source, target in itertools.pairwise(ids)
    ]
    return nodes, edges


def _form_fields(mode: str, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the fields of the app's input form in the format of a start node."""
    form_fields = [
        _variable(declaration)
        for declaration in config.get("user_input_form") or ()
        if is_mapping(declaration) and declaration
    ]
    names = {form_field["variable"] for form_field in form_fields}
    # Old completion apps use `{{query}}` without declaring it.
    uses_query = "{{query}}" in str(config.get("pre_prompt") or "")
    if mode == "completion" and "query" not in names and uses_query:
        form_fields.append(
            {
                "variable": "query",
                "label": "query",
                "type": "paragraph",
                "required": True,
            }
        )
    return form_fields


def _node(name: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return a node in the DSL format."""
    return {"id": name, "type": "custom", "data": data}


def _variable(declaration: Mapping[str, Any]) -> dict[str, Any]:
    """Return a form field in the format of a start node."""
    # Dify stores each field as an object with its type as the only key.
    field_type, declared = next(iter(declaration.items()))
    field: Mapping[str, Any] = declared if is_mapping(declared) else {}
    return {
        **field,
        "type": field_type,
        "variable": str(field.get("variable") or field.get("label") or ""),
    }


def _replace_variables(text: str, names: set[str]) -> str:
    """Replace `{{name}}` of form fields by selectors."""
    text = _SPECIAL_TOKENS.sub("", text)
    return _VARIABLE.sub(
        lambda match: (
            f"{{{{#{START}.{match[1]}#}}}}" if match[1] in names else match[0]
        ),
        text,
    )


def _datasets(config: Mapping[str, Any]) -> list[str]:
    """Return the ids of the enabled datasets."""
    dataset_entries = (
        (config.get("dataset_configs") or EMPTY_OBJECT).get("datasets") or EMPTY_OBJECT
    ).get("datasets") or ()
    references = [
        entry.get("dataset") or EMPTY_OBJECT
        for entry in dataset_entries
        if is_mapping(entry)
    ]
    return [
        str(reference["id"])
        for reference in references
        if reference.get("id") and reference.get("enabled", True)
    ]


def _retrieval(
    config: Mapping[str, Any], datasets: Sequence[str], mode: str, names: set[str]
) -> dict[str, Any]:
    """Return the data of a knowledge retrieval node."""
    settings: Mapping[str, Any] = config.get("dataset_configs") or {}
    # A completion app has no query, so one of its fields can serve as it.
    variable = str(config.get("dataset_query_variable") or "")
    selector = (
        [START, variable]
        if mode == "completion" and variable in names
        else ["sys", "query"]
    )
    reranking: dict[str, Any] = settings.get("reranking_model") or {}
    return {
        "type": "knowledge-retrieval",
        "title": "Knowledge",
        "query_variable_selector": selector,
        "dataset_ids": list(datasets),
        "retrieval_mode": str(settings.get("retrieval_model") or "multiple"),
        "multiple_retrieval_config": {
            "top_k": settings.get("top_k") or 4,
            "score_threshold": (
                settings.get("score_threshold")
                if settings.get("score_threshold_enabled")
                else None
            ),
            "reranking_enable": bool(settings.get("reranking_enable")),
            "reranking_mode": settings.get("reranking_mode") or "reranking_model",
            "weights": settings.get("weights"),
            "reranking_model": {
                "provider": reranking.get("reranking_provider_name") or "",
                "model": reranking.get("reranking_model_name") or "",
            },
        },
        "metadata_filtering_mode": (
            settings.get("metadata_filtering_mode") or "disabled"
        ),
        "metadata_filtering_conditions": settings.get("metadata_filtering_conditions"),
    }


def _llm(
    config: Mapping[str, Any], mode: str, names: set[str], *, has_context: bool
) -> dict[str, Any]:
    """Return the data of an LLM node."""
    model: Mapping[str, Any] = config.get("model") or {}
    file_upload: Mapping[str, Any] = config.get("file_upload") or {}
    # Old exports configure images separately.
    vision = bool(
        file_upload.get("enabled")
        or (file_upload.get("image") or EMPTY_OBJECT).get("enabled")
    )
    data: dict[str, Any] = {
        "type": "llm",
        "title": "LLM",
        "model": {
            "provider": model.get("provider") or "",
            "name": model.get("name") or "",
            "mode": "chat",
            "completion_params": model.get("completion_params") or {},
        },
        "prompt_template": _prompt(config, mode, names, has_context=has_context),
        "context": {
            "enabled": has_context,
            "variable_selector": [RETRIEVAL, "result"] if has_context else [],
        },
        "vision": {"enabled": vision},
    }
    # Completion apps have no conversation.
    if mode == "chat":
        data["memory"] = {
            "window": {"enabled": False},
            "query_prompt_template": "{{#sys.query#}}",
        }
    return data


def _prompt(
    config: Mapping[str, Any], mode: str, names: set[str], *, has_context: bool
) -> list[dict[str, Any]]:
    """Return the prompt templates; with instructions for the context if there are
    datasets."""
    if config.get("prompt_type") == "advanced":
        return _advanced_prompt(config, mode, names)
    prompt = _replace_variables(str(config.get("pre_prompt") or ""), names)
    prompt_text = (_CONTEXT + "\n" if has_context else "") + prompt
    if mode == "completion":
        return [{"role": "user", "text": prompt_text}]
    return [{"role": "system", "text": prompt_text}] if prompt_text.strip() else []


def _advanced_prompt(
    config: Mapping[str, Any], mode: str, names: set[str]
) -> list[dict[str, Any]]:
    """Return the templates of an app whose author edits the complete prompt."""
    chat = (config.get("chat_prompt_config") or EMPTY_OBJECT).get("prompt") or ()
    if chat:
        # Chat models have a list of messages.
        return [
            {
                "role": str(template.get("role") or "user"),
                "text": _replace_query(
                    _replace_variables(str(template.get("text") or ""), names)
                ),
            }
            for template in chat
            if is_mapping(template)
        ]
    completion: dict[str, Any] = (
        config.get("completion_prompt_config") or EMPTY_OBJECT
    ).get("prompt") or {}
    # The memory is sent as messages, so the placeholder is removed.
    text = _replace_query(
        _replace_variables(str(completion.get("text") or ""), names)
    ).replace("{{#histories#}}", "")
    return [{"role": "system" if mode == "chat" else "user", "text": text}]


def _replace_query(text: str) -> str:
    """Replace the old placeholder of the query by its selector."""
    return text.replace("{{#query#}}", "{{#sys.query#}}")


def _agent(config: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """Return the data of an agent node."""
    model: Mapping[str, Any] = config.get("model") or {}
    mode: Mapping[str, Any] = config.get("agent_mode") or {}
    # Strategy names of old exports.
    strategy = {
        "function_call": "function_calling",
        "react": "ReAct",
        "cot": "ReAct",
    }.get(str(mode.get("strategy") or "function_call"), "function_calling")
    return {
        "type": "agent",
        "title": "Agent",
        "agent_strategy_name": strategy,
        "memory": {"window": {"enabled": False}},
        "agent_parameters": {
            "model": {
                "type": "constant",
                "value": {
                    "provider": model.get("provider") or "",
                    "model": model.get("name") or "",
                    "mode": "chat",
                    "completion_params": model.get("completion_params") or {},
                    "model_type": "llm",
                },
            },
            "tools": {"type": "constant", "value": list(mode.get("tools") or ())},
            "datasets": {"type": "constant", "value": _datasets(config)},
            "instruction": {
                "type": "mixed",
                "value": _replace_variables(str(config.get("pre_prompt") or ""), names),
            },
            "query": {"type": "mixed", "value": "{{#sys.query#}}"},
            "maximum_iterations": {
                "type": "constant",
                "value": int(mode.get("max_iteration") or 10),
            },
            "prompt": {
                "type": "constant",
                "value": (mode.get("prompt") or EMPTY_OBJECT).get("first_prompt") or "",
            },
        },
    }
