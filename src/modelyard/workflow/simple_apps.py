"""Apps that are one prompt (chat, completion, agent-chat) as the graph that does the same. Pure."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

START, RETRIEVAL, MODEL, AGENT, ANSWER = "start", "retrieval", "llm", "agent", "answer"
_VARIABLE = re.compile(r"\{\{([a-zA-Z_][a-zA-Z0-9_]{0,29})\}\}")
_MARKS = re.compile(r"<\|[^|>]{0,40}\|>")
_CONTEXT = """Use the text between the <context></context> tags as what you know.

<context>
{{#context#}}
</context>

Where it does not hold the answer, say that you do not know. Do not speak of the context itself. Answer in the \
language of the question.
"""


def nodes_of_model_config(mode: str, config: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(nodes, edges) as a workflow's file would have them."""
    form = [_variable(one) for one in config.get("user_input_form") or () if isinstance(one, Mapping) and one]
    names = {one["variable"] for one in form}
    if mode == "completion" and "query" not in names and "{{query}}" in str(config.get("pre_prompt") or ""):
        form.append({"variable": "query", "label": "query", "type": "paragraph", "required": True})
        names.add("query")
    datasets = _datasets(config)
    nodes = [_node(START, {"type": "start", "title": "Start", "variables": form})]
    if datasets and mode != "agent-chat":
        nodes.append(_node(RETRIEVAL, _retrieval(config, datasets, mode, names)))
    if mode == "agent-chat":
        nodes.append(_node(AGENT, _agent(config, names)))
    else:
        nodes.append(_node(MODEL, _llm(config, mode, names, has_context=bool(datasets))))
    said = AGENT if mode == "agent-chat" else MODEL
    nodes.append(_node(ANSWER, {"type": "answer", "title": "Answer", "answer": "{{#" + said + ".text#}}"}))
    ids = [one["id"] for one in nodes]
    edges = [{"source": one, "target": other} for one, other in itertools.pairwise(ids)]
    return nodes, edges


def _node(name: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "type": "custom", "data": data}


def _variable(one: Mapping[str, Any]) -> dict[str, Any]:
    kind, form = next(iter(one.items()))
    form = form if isinstance(form, Mapping) else {}
    return {**form, "type": kind, "variable": str(form.get("variable") or form.get("label") or "")}


def _filled(text: str, names: set[str]) -> str:
    """`{{name}}` of the form, as a selector."""
    text = _MARKS.sub("", text)
    return _VARIABLE.sub(lambda match: f"{{{{#{START}.{match[1]}#}}}}" if match[1] in names else match[0], text)


def _datasets(config: Mapping[str, Any]) -> list[str]:
    chosen = ((config.get("dataset_configs") or {}).get("datasets") or {}).get("datasets") or ()
    found = [one.get("dataset") or {} for one in chosen if isinstance(one, Mapping)]
    return [str(one["id"]) for one in found if one.get("id") and one.get("enabled", True)]


def _retrieval(config: Mapping[str, Any], datasets: Sequence[str], mode: str, names: set[str]) -> dict[str, Any]:
    chosen: Mapping[str, Any] = config.get("dataset_configs") or {}
    variable = str(config.get("dataset_query_variable") or "")
    selector = [START, variable] if mode == "completion" and variable in names else ["sys", "query"]
    reranking = chosen.get("reranking_model") or {}
    return {
        "type": "knowledge-retrieval",
        "title": "Knowledge",
        "query_variable_selector": selector,
        "dataset_ids": list(datasets),
        "retrieval_mode": str(chosen.get("retrieval_model") or "multiple"),
        "multiple_retrieval_config": {
            "top_k": chosen.get("top_k") or 4,
            "score_threshold": chosen.get("score_threshold") if chosen.get("score_threshold_enabled") else None,
            "reranking_enable": bool(chosen.get("reranking_enable")),
            "reranking_mode": chosen.get("reranking_mode") or "reranking_model",
            "weights": chosen.get("weights"),
            "reranking_model": {
                "provider": reranking.get("reranking_provider_name") or "",
                "model": reranking.get("reranking_model_name") or "",
            },
        },
        "metadata_filtering_mode": chosen.get("metadata_filtering_mode") or "disabled",
        "metadata_filtering_conditions": chosen.get("metadata_filtering_conditions"),
    }


def _llm(config: Mapping[str, Any], mode: str, names: set[str], *, has_context: bool) -> dict[str, Any]:
    model: Mapping[str, Any] = config.get("model") or {}
    file_upload: Mapping[str, Any] = config.get("file_upload") or {}
    vision = bool(file_upload.get("enabled") or (file_upload.get("image") or {}).get("enabled"))
    data: dict[str, Any] = {
        "type": "llm",
        "title": "LLM",
        "model": {
            "provider": model.get("provider") or "", "name": model.get("name") or "", "mode": "chat",
            "completion_params": model.get("completion_params") or {},
        },
        "prompt_template": _prompt(config, mode, names, has_context=has_context),
        "context": {"enabled": has_context, "variable_selector": [RETRIEVAL, "result"] if has_context else []},
        "vision": {"enabled": vision},
    }  # fmt: skip
    if mode == "chat":
        data["memory"] = {"window": {"enabled": False}, "query_prompt_template": "{{#sys.query#}}"}
    return data


def _prompt(config: Mapping[str, Any], mode: str, names: set[str], *, has_context: bool) -> list[dict[str, Any]]:
    if config.get("prompt_type") == "advanced":
        return _advanced(config, mode, names)
    prompt = _filled(str(config.get("pre_prompt") or ""), names)
    told = (_CONTEXT + "\n" if has_context else "") + prompt
    if mode == "completion":
        return [{"role": "user", "text": told}]
    return [{"role": "system", "text": told}] if told.strip() else []


def _advanced(config: Mapping[str, Any], mode: str, names: set[str]) -> list[dict[str, Any]]:
    chat = (config.get("chat_prompt_config") or {}).get("prompt") or ()
    if chat:
        return [
            {"role": str(one.get("role") or "user"), "text": _own(_filled(str(one.get("text") or ""), names))}
            for one in chat
            if isinstance(one, Mapping)
        ]
    completion = (config.get("completion_prompt_config") or {}).get("prompt") or {}
    text = _own(_filled(str(completion.get("text") or ""), names)).replace("{{#histories#}}", "")
    return [{"role": "system" if mode == "chat" else "user", "text": text}]


def _own(text: str) -> str:
    return text.replace("{{#query#}}", "{{#sys.query#}}")


def _agent(config: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    model: Mapping[str, Any] = config.get("model") or {}
    mode: Mapping[str, Any] = config.get("agent_mode") or {}
    strategy = {"function_call": "function_calling", "react": "ReAct", "cot": "ReAct"}.get(
        str(mode.get("strategy") or "function_call"), "function_calling"
    )
    return {
        "type": "agent",
        "title": "Agent",
        "agent_strategy_name": strategy,
        "memory": {"window": {"enabled": False}},
        "agent_parameters": {
            "model": {"type": "constant", "value": {
                "provider": model.get("provider") or "", "model": model.get("name") or "", "mode": "chat",
                "completion_params": model.get("completion_params") or {}, "model_type": "llm",
            }},
            "tools": {"type": "constant", "value": list(mode.get("tools") or ())},
            "datasets": {"type": "constant", "value": _datasets(config)},
            "instruction": {"type": "mixed", "value": _filled(str(config.get("pre_prompt") or ""), names)},
            "query": {"type": "mixed", "value": "{{#sys.query#}}"},
            "maximum_iterations": {"type": "constant", "value": int(mode.get("max_iteration") or 10)},
            "prompt": {"type": "constant", "value": (mode.get("prompt") or {}).get("first_prompt") or ""},
        },
    }  # fmt: skip
