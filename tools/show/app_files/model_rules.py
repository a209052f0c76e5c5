"""Node types that ask a model: their prompts, and what they make of the answer."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tools.show.app_files.conditions import NodeFailure
from tools.show.app_files.contract import (
    Reading,
    Step,
    parameter_value,
    rendered_jinja,
)
from tools.show.app_files.reading import ReadNode
from tools.show.app_files.values import (
    MISSING,
    files_of,
    look_up,
    references_in,
    render,
    text_of,
    value_at,
)
from tools.show.app_files.world import (
    Message,
    agent_name,
    agent_text,
    chosen_category,
    extracted_values,
    model_text,
    strategy_text,
)

_SENT_TYPES = ("image", "document")
"""The types of files that the scripted model accepts."""


def llm(node: ReadNode, run: Reading) -> Step:
    """A prompt from templates; the memory adds the query, vision the files."""
    messages = [
        message
        for message in prompt_messages(node, run)
        if message.text or message.files
    ]
    if not messages:
        raise NodeFailure(
            "No prompt found in the LLM configuration", "NoPromptFoundError"
        )
    run.ask(node, "model", messages)
    schema = _answer_schema(node)
    text = model_text(messages, run.script, schema)
    outputs: dict[str, Any] = {"text": text, "reasoning_content": ""}
    if schema is not None:
        outputs["structured_output"] = json.loads(text)
    return Step(outputs)


def _answer_schema(node: ReadNode) -> Mapping[str, Any] | None:
    """Return the schema of a structured answer; None if it is off."""
    names = ("structured_output_enabled", "structured_output_switch_on")
    if not any(node.data.get(name) for name in names):
        return None
    schema = node.mapping_of("structured_output").get("schema")
    return json.loads(schema) if isinstance(schema, str) else schema


def prompt_messages(node: ReadNode, run: Reading) -> list[Message]:
    """Return the messages of an LLM node. Raises NodeFailure for a missing variable."""
    templates: Any = node.data.get("prompt_template") or []
    context = _context_text(node, run)
    is_completion = isinstance(templates, Mapping)
    messages: list[Message] = []
    for template in [templates] if is_completion else templates:
        role = str(template.get("role") or "user")
        messages += _template_messages(template, role, context, node, run)
    memory: Any = node.data.get("memory")
    if memory and not is_completion:
        query = memory.get("query_prompt_template") or "{{#sys.query#}}"
        messages += history_messages(memory, run)
        messages.append(Message("user", render(query, run.pool), 0))
    return _with_vision(messages, node, run)


def history_messages(memory: Mapping[str, Any], run: Reading) -> list[Message]:
    """Return the earlier turns that the memory of a node keeps."""
    window: Mapping[str, Any] = memory.get("window") or {}
    size = int(window.get("size") or 0) if window.get("enabled") else 0
    return [
        Message(role, text, 0)
        for turn in run.history[-size:]
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _template_messages(
    template: Mapping[str, Any], role: str, context: str, node: ReadNode, run: Reading
) -> list[Message]:
    """Return the message of a template, and one for the files that it names."""
    if template.get("edition_type") == "jinja2":
        variables = node.mapping_of("prompt_config").get("jinja2_variables") or ()
        source = template.get("jinja2_text") or template.get("text") or ""
        return [Message(role, rendered_jinja(source, variables, run.pool), 0)]
    source = str(template.get("text") or "")
    for selector in references_in(source):
        if look_up(run.pool, selector) is MISSING and not _is_silent(selector, run):
            raise NodeFailure(f"Variable #{'.'.join(selector)}# not found")
    insertions = {"{{#context#}}": context, "{{#histories#}}": ""}
    message = Message(role, render(source, run.pool, insertions=insertions), 0)
    count = len(_sent([value_at(run.pool, step) for step in references_in(source)]))
    return [message, Message(role, "", count)] if count else [message]


def _is_silent(selector: tuple[str, ...], run: Reading) -> bool:
    """Return whether a variable may be missing: its node is on a branch that was not
    taken, or it is optional."""
    return selector[0] in run.app.nodes or selector[0] in ("sys", "conversation", "env")


def _sent(values: Sequence[Any]) -> list[Any]:
    """Return the files among values that the model accepts."""
    files = [file for value in values for file in files_of(value)]
    return [file for file in files if file["type"] in _SENT_TYPES]


def _with_vision(
    messages: list[Message], node: ReadNode, run: Reading
) -> list[Message]:
    """Return the messages with the files of the vision setting at the last one."""
    vision = node.mapping_of("vision")
    if not vision.get("enabled"):
        return messages
    configs: Mapping[str, Any] = vision.get("configs") or {}
    selector = configs.get("variable_selector") or ["sys", "files"]
    count = len(_sent([value_at(run.pool, selector)]))
    if not count:
        return messages
    if messages and messages[-1].role == "user":
        return [*messages[:-1], messages[-1]._replace(files=messages[-1].files + count)]
    return [*messages, Message("user", "", count)]


def _context_text(node: ReadNode, run: Reading) -> str:
    """Return the text for `{{#context#}}`."""
    context = node.mapping_of("context")
    if not context.get("enabled") or not context.get("variable_selector"):
        return ""
    value = value_at(run.pool, context["variable_selector"])
    if not isinstance(value, list):
        return text_of(value)
    lines = [
        element if isinstance(element, str) else str(element["content"])
        for element in value
    ]
    return "\n".join(lines).strip()


def question_classifier(node: ReadNode, run: Reading) -> Step:
    """The category that the model chooses is the branch."""
    query = _queried(node.data.get("query_variable_selector"), run)
    instruction = render(str(node.data.get("instruction") or ""), run.pool)
    classes = node.list_of("classes")
    names = [render(str(category.get("name") or ""), run.pool) for category in classes]
    run.ask_about(node, "model", [query, instruction, *names])
    index = chosen_category(len(classes), run.script)
    class_id = str(classes[index]["id"])
    # Two categories with one id are one branch, whose first name counts.
    first = next(category for category in classes if str(category["id"]) == class_id)
    outputs = {"class_name": str(first.get("name") or ""), "class_id": class_id}
    return Step(outputs, class_id)


def _queried(selector: Any, run: Reading) -> str:
    """Return the text of a variable that a node works on. Raises NodeFailure."""
    value = look_up(run.pool, selector) if selector else ""
    if value is MISSING:
        raise NodeFailure(f"Variable {selector} not found")
    return text_of(value)


def parameter_extractor(node: ReadNode, run: Reading) -> Step:
    """The values that the model returns for the declared parameters."""
    query = _queried(node.data.get("query"), run)
    instruction = render(str(node.data.get("instruction") or ""), run.pool)
    parameters = node.list_of("parameters")
    names = [str(parameter["name"]) for parameter in parameters]
    run.ask_about(node, "model", [query, instruction, *names])
    properties = {
        str(parameter["name"]): _parameter_schema(parameter) for parameter in parameters
    }
    schema = {"type": "object", "properties": properties}
    values = extracted_values(query, schema, run.script)
    return Step({**values, "__is_success": 1, "__reason": None})


def _parameter_schema(parameter: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a declared parameter."""
    declared = str(parameter.get("type") or "string")
    if declared.startswith("array"):
        inner = declared[6:-1] or "string"
        return {"type": "array", "items": {"type": inner}}
    if declared == "select":
        return {"enum": [str(option) for option in parameter.get("options") or ()]}
    return {"type": {"bool": "boolean"}.get(declared, declared)}


def agent(node: ReadNode, run: Reading) -> Step:
    """An agent strategy: one of a plugin gets the parameters of the node."""
    parameters = {
        name: parameter_value(entry, run)
        for name, entry in node.mapping_of("agent_parameters").items()
    }
    if not run.script.plugins:
        return _built_in_agent(node, parameters, run)
    run.ask(
        node, "agent", {name: parameters.get(name) for name in ("query", "instruction")}
    )
    return Step({"text": strategy_text(parameters), "files": [], "json": []})


def _built_in_agent(
    node: ReadNode, parameters: Mapping[str, Any], run: Reading
) -> Step:
    """A built-in strategy: the model calls a tool if it has one, and then answers."""
    instruction = str(parameters.get("instruction") or "")
    texts = [instruction, str(parameters.get("query") or "")]
    has_tools = bool(parameters.get("tools"))
    for _ in range(2 if has_tools else 1):
        run.ask_about(node, "model", texts)
    return Step({"text": agent_text(agent_name(instruction)), "files": []})
