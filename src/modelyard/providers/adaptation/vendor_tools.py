"""Tools that a vendor's API defines: those that the client runs, as functions, and those
that the vendor runs, under the names of other vendors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.base.json_types import is_object
from modelyard.models.capabilities import Capabilities
from modelyard.models.messages import PromptMessageTool
from modelyard.models.types import JSON
from modelyard.wire import anthropic, gemini
from modelyard.wire import openai_responses as responses


@dataclass(frozen=True, slots=True)
class ClientTool:
    """A tool that an API defines and the client runs, as a function."""

    description: str
    properties: JSON
    required: tuple[str, ...]

    @property
    def parameters(self) -> JSON:
        """The JSON schema of the function."""
        return {
            "type": "object",
            "properties": self.properties,
            "required": list(self.required),
        }


# Types of the arguments below.
_TEXT: JSON = {"type": "string"}
_NUMBER: JSON = {"type": "integer"}
_TEXTS: JSON = {"type": "array", "items": _TEXT}
_RANGE: JSON = {"type": "array", "items": _NUMBER}
# Anthropic's memory is edited by the commands of its text editor.
_EDIT_COMMANDS = ("view", "create", "str_replace", "insert")
_EDITS: Mapping[str, JSON] = {
    "path": _TEXT,
    "file_text": _TEXT,
    "old_str": _TEXT,
    "new_str": _TEXT,
    "insert_line": _NUMBER,
    "insert_text": _TEXT,
    "view_range": _RANGE,
}

# Tools that a client of the Responses API runs itself, by their type. The model has
# learnt their arguments.
RESPONSES_TOOLS: Mapping[str, ClientTool] = {
    "tool_search": ClientTool(
        "Find further tools by what they do.",
        {"query": _TEXT, "limit": _NUMBER},
        ("query",),
    ),
    "local_shell": ClientTool(
        "Run a command in a shell on the user's machine.",
        {
            "type": {"type": "string", "enum": ["exec"]},
            "command": _TEXTS,
            "working_directory": _TEXT,
            "timeout_ms": _NUMBER,
        },
        ("command",),
    ),
    "shell": ClientTool(
        "Run commands in a shell on the user's machine.",
        {"commands": _TEXTS, "timeout_ms": _NUMBER, "max_output_length": _NUMBER},
        ("commands",),
    ),
    "apply_patch": ClientTool(
        "Create, change or delete a file. `diff` has the lines of the new file, or of"
        " a change in the V4A format.",
        {
            "type": {
                "type": "string",
                "enum": ["create_file", "update_file", "delete_file"],
            },
            "path": _TEXT,
            "diff": _TEXT,
        },
        ("type", "path"),
    ),
}

# The same for Anthropic's API. A type ends with a date, which is a version, so its
# beginning counts.
_ANTHROPIC_TOOLS: Mapping[str, ClientTool] = {
    "bash_": ClientTool(
        "Run a command in a persistent shell, or restart it.",
        {"command": _TEXT, "restart": {"type": "boolean"}},
        (),
    ),
    "text_editor_": ClientTool(
        "View, create and edit files.",
        {
            "command": {
                "type": "string",
                "enum": [*_EDIT_COMMANDS],
            },
            **_EDITS,
        },
        ("command", "path"),
    ),
    "memory_": ClientTool(
        "Read and write notes that last, as files under /memories.",
        {
            "command": {
                "type": "string",
                "enum": [*_EDIT_COMMANDS, "delete", "rename"],
            },
            **_EDITS,
            "old_path": _TEXT,
            "new_path": _TEXT,
        },
        ("command",),
    ),
}


def client_tool_of(tool: PromptMessageTool) -> ClientTool | None:
    """Return the function that stands for a tool of a vendor's API; None if the vendor
    runs it, or it is unknown."""
    if responses.FORMAT in tool.extra:
        is_hosted = _is_hosted(tool, tool.extra[responses.FORMAT])
        return None if is_hosted else RESPONSES_TOOLS.get(tool.type)
    if anthropic.FORMAT in tool.extra:
        for prefix, client_tool in _ANTHROPIC_TOOLS.items():
            if tool.type.startswith(prefix):
                return client_tool
    return None


def _is_hosted(tool: PromptMessageTool, body: JSON) -> bool:
    """Return whether the vendor searches the tools, or runs the shell in a container of
    its own."""
    if tool.type == "tool_search":
        return body.get("execution") != "client"
    return _object(body.get("environment")).get("type", "local") != "local"


def _object(value: Any) -> JSON:
    """Return an object that a caller has written; empty for anything else, which is
    another tool's field of that name, or a mistake that its vendor would report."""
    return value if is_object(value) else {}


_OPENROUTER = "openrouter"


def is_run_elsewhere(tool: PromptMessageTool, capabilities: Capabilities) -> bool:
    """Return whether a tool of the chat format is run by OpenRouter, and the target is
    another server."""
    is_openrouters = tool.type.startswith(f"{_OPENROUTER}:")
    return is_openrouters and capabilities.reasoning != _OPENROUTER


def search_of(tool: PromptMessageTool) -> JSON | None:
    """Return the options of a web search in common words: `allowed`, `blocked`,
    `location` and `max_uses`. None if the tool is another one."""
    if tool.type.startswith("web_search") and responses.FORMAT in tool.extra:
        body: JSON = tool.extra[responses.FORMAT]
        return {
            "allowed": _object(body.get("filters")).get("allowed_domains"),
            "location": body.get("user_location"),
        }
    if tool.type.startswith("web_search") and anthropic.FORMAT in tool.extra:
        body = tool.extra[anthropic.FORMAT]
        return {
            "allowed": body.get("allowed_domains"),
            "blocked": body.get("blocked_domains"),
            "location": body.get("user_location"),
            "max_uses": body.get("max_uses"),
        }
    if tool.type in ("googleSearch", "googleSearchRetrieval"):
        return {}
    return None


def _with_values(**fields: Any) -> JSON:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value}


def translated_tool(
    tool: PromptMessageTool, target_format: str
) -> PromptMessageTool | None:
    """Return a tool that a vendor runs under the target vendor's name; None if the
    target has no such tool."""
    options = search_of(tool)
    if options is not None:
        return _web_search(options, target_format)
    if _is_code(tool) and target_format == responses.FORMAT:
        body: JSON = {"type": "code_interpreter", "container": {"type": "auto"}}
        return _hosted("code_interpreter", "code_interpreter", target_format, body)
    if _is_code(tool) and target_format == gemini.FORMAT:
        return _hosted(
            "codeExecution", "codeExecution", target_format, {"codeExecution": {}}
        )
    if tool.type.startswith("web_fetch_") and target_format == gemini.FORMAT:
        return _hosted("urlContext", "urlContext", target_format, {"urlContext": {}})
    return None


def _is_code(tool: PromptMessageTool) -> bool:
    """Return whether a tool runs code at its vendor."""
    return tool.type in ("code_interpreter", "codeExecution") or tool.type.startswith(
        "code_execution_"
    )


def _web_search(options: JSON, target_format: str) -> PromptMessageTool | None:
    """Return the target vendor's web search; None if it has none."""
    if target_format == gemini.FORMAT:
        body: JSON = {"googleSearch": {}}
        return _hosted("googleSearch", "googleSearch", target_format, body)
    if target_format == responses.FORMAT:
        filters = _with_values(allowed_domains=options.get("allowed"))
        body = _with_values(filters=filters, user_location=options.get("location"))
        body = {"type": "web_search", **body}
        return _hosted("web_search", "web_search", target_format, body)
    if target_format == anthropic.FORMAT:
        body = {
            "type": "web_search_20250305",
            "name": "web_search",
            **_with_values(
                max_uses=options.get("max_uses"),
                allowed_domains=options.get("allowed"),
                user_location=options.get("location"),
            ),
        }
        return _hosted("web_search", "web_search_20250305", target_format, body)
    return None


def _hosted(name: str, kind: str, format_name: str, body: JSON) -> PromptMessageTool:
    """Return a tool that the target's vendor runs."""
    return PromptMessageTool(name=name, type=kind, extra={format_name: body})
