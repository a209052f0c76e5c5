"""The tool with which an agent asks a person: its arguments become a form, and what the
person submits becomes its result.

A model that calls the tool with

    {
      "title": "Refund",
      "question": "May I refund 20 €?",
      "fields": [{"type": "paragraph", "name": "why", "label": "Reason"}],
      "actions": [
        {"id": "yes", "label": "Yes", "style": "primary"},
        {"id": "no", "label": "No", "style": "destructive"}
      ]
    }

pauses the run with a form that has one input and two buttons. The result is then

    {
      "status": "submitted",
      "action": {"id": "yes", "label": "Yes"},
      "values": {"why": "It was late."}
    }

or `{"status": "timeout"}` after 36 hours, or `{"status": "unavailable"}` if the run is
not stored and cannot wait.

Source: langgenius/dify, dify-agent's layer `ask_human` (arguments and result),
api/core/workflow/nodes/agent_v2/ask_human_hitl.py (the form).
"""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.json_types import is_array, is_mapping
from modelyard.tools.entities import (
    Message,
    Tool,
    ToolContext,
    ToolEntity,
    text_message,
)

TOOL_NAME = "ask_human"
FORM_SECONDS = 36 * 3600.0
"""How long a question waits for its answer."""
_FIELD_TYPES = (
    "paragraph",
    "select",
    "file",
    "file-list",
)
_STYLES = {
    "primary": "primary",
    "destructive": "accent",
}
"""Style of an action → style of a form's button; others are `default`."""
_SUBMIT = {
    "id": "submit",
    "title": "Submit",
    "button_style": "primary",
}
"""The button of a question that needs no decision."""
# The names that Dify allows for fields of a form.
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,29}")
# Mail programs show less than that of a subject.
_SUBJECT_CHARS = 120
_SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "description": "A short title of the question."},
        "question": {"type": "string", "description": "What you need to know."},
        "markdown": {"type": "string", "description": "Details, in Markdown."},
        "fields": {
            "type": "array",
            "description": "The answers that you need; none to ask for a decision.",
            "items": {
                "type": "object",
                "properties": {
                    "type": {"type": "string", "enum": list(_FIELD_TYPES)},
                    "name": {"type": "string", "description": "An identifier."},
                    "label": {"type": "string"},
                    "required": {"type": "boolean"},
                    "default": {"type": "string"},
                    "options": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["type", "name", "label"],
            },
        },
        "actions": {
            "type": "array",
            "description": "The buttons; by default one that submits.",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "description": "An identifier."},
                    "label": {"type": "string"},
                    "style": {"enum": ["default", "primary", "destructive"]},
                },
                "required": ["id", "label"],
            },
        },
        "urgency": {"enum": ["normal", "high"]},
    },
    "required": ["question"],
}


class AskHumanTool(Tool):
    """Asks a person with a form.

    The agent's run pauses until the form is answered: only then is the tool called.
    """

    def __init__(
        self, people: Sequence[str], answers: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """`people` are the names of those who can be asked; `answers` holds what was
        submitted by call id, and is filled before a call."""
        self._answers = answers
        names = ", ".join(name for name in people if name)
        self.entity = ToolEntity(
            name=TOOL_NAME,
            kind="agent",
            description="Asks a person and waits for the answer. Use it only for what"
            f" you cannot find out or decide yourself.{f' People: {names}.' * bool(names)}",
            schema=_SCHEMA,
            # The run then waits before the call, as for an approval.
            needs_approval=True,
            # A repetition only reads the same answer again.
            is_repeatable=True,
        )

    async def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Yield what the person submitted, as JSON."""
        # The run has waited until the answer was there.
        answer = self._answers.get(context.call_id)
        yield text_message(
            msgspec.json.encode(_result_of(answer, form_of(parameters))).decode()
        )


def _result_of(
    answer: Mapping[str, Any] | None, form: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the result of a question for the model."""
    if answer is None:
        return {"status": "unavailable"}
    if "expired" in answer:
        return {"status": "timeout"}
    action_id = str(answer.get("action") or "")
    # The model gets back the label, which it has chosen itself.
    labels = {action["id"]: action["title"] for action in form["actions"]}
    return {
        "status": "submitted",
        "action": {"id": action_id, "label": labels.get(action_id, action_id)},
        "values": dict(answer.get("inputs") or {}),
    }


# ----------------------------------------------------------------------------- the form


def form_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form of a question, in the format of a human input node.

    Fields and actions without a usable name are left out: models invent them.
    """
    fields = [
        field
        for field in _objects(arguments.get("fields"))
        if field.get("type") in _FIELD_TYPES and _is_identifier(field.get("name"))
    ]
    actions = [
        {
            "id": str(action["id"]),
            "title": str(action.get("label") or action["id"]),
            "button_style": _STYLES.get(str(action.get("style")), "default"),
        }
        for action in _objects(arguments.get("actions"))
        if _is_identifier(action.get("id"))
    ]
    return {
        "form_content": _content_of(arguments, fields),
        "inputs": [_input_of(field) for field in fields],
        # A form without a button could never be submitted.
        "actions": actions or [_SUBMIT],
        # A field that may stay empty has a value nevertheless, so that the form can be
        # submitted without it.
        "resolved_default_values": {
            str(field["name"]): field.get("default") or _empty_value(field)
            for field in fields
            if field.get("default") or not field.get("required")
        },
    }


def subject_of(arguments: Mapping[str, Any]) -> str:
    """Return the subject of an e-mail about a question."""
    subject = str(arguments.get("title") or arguments.get("question") or "")
    # A line break would end the header of the e-mail.
    subject = " ".join(subject.split())[:_SUBJECT_CHARS]
    return f"Urgent: {subject}" if arguments.get("urgency") == "high" else subject


def _content_of(
    arguments: Mapping[str, Any], fields: Sequence[Mapping[str, Any]]
) -> str:
    """Return the text of the form; each field has its label above its input."""
    title, markdown = arguments.get("title"), arguments.get("markdown")
    # Forms show Markdown.
    blocks = [f"## {title}"] if title else []
    blocks.append(str(arguments.get("question") or ""))
    if markdown:
        blocks.append(str(markdown))
    for field in fields:
        mark = " *" if field.get("required") else ""
        label = field.get("label") or field["name"]
        blocks.append(f"**{label}{mark}**\n\n{{{{#$output.{field['name']}#}}}}")
    return "\n\n".join(blocks)


def _input_of(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return a field of a question as an input of a form."""
    # Models write options as texts, or as objects with a value and a label.
    options = field.get("options")
    names = [
        str(option.get("value") if is_mapping(option) else option)
        for option in (options if is_array(options) else ())
    ]
    form_input: dict[str, Any] = {
        "type": field["type"],
        "output_variable_name": str(field["name"]),
        "default": None,
        "option_source": None,
    }
    if field["type"] == "select":
        form_input |= {
            "option_source": {"type": "constant", "selector": [], "value": names},
            "options": names,
        }
    return form_input


def _empty_value(field: Mapping[str, Any]) -> Any:
    """Return the value of a field that was left empty."""
    return (
        [] if field["type"] == "file-list" else None if field["type"] == "file" else ""
    )


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a list; empty for anything else."""
    return (
        [element for element in value if is_mapping(element)] if is_array(value) else []
    )


def _is_identifier(value: Any) -> bool:
    """Return whether a value can name a field of a form."""
    return isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None
