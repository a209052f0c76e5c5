"""What a tool is: its description for people and for models, and how it is called."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError
from modelyard.models.messages import PromptMessageTool

_JSON_TYPES = {
    "string": "string",
    "number": "number",
    "boolean": "boolean",
    "select": "string",
    "secret-input": "string",
    "checkbox": "boolean",
    "object": "object",
    "array": "array",
    "dynamic-select": "string",
}
# Parameter types that a model cannot fill in.
_NON_MODEL_TYPES = frozenset(
    {"file", "files", "system-files", "model-selector", "app-selector"}
)
_PLAIN = re.compile(r"[^A-Za-z0-9_-]+")
Message = Mapping[str, Any]
"""A part of a tool's output in the plugin format: `type`, `message`, `meta`."""


class ToolError(ModelyardError):
    """A tool could not be called, or failed. The model and the caller receive the
    message."""

    code = "tool_error"


class ToolNotFoundError(ToolError):
    """The tool does not exist."""

    code = "tool_not_found"


class ToolParameterError(ToolError):
    """The arguments do not match the tool's parameters."""

    code = "tool_parameters"


class ToolCredentialsError(ToolError):
    """The tool's credentials are missing or were refused."""

    code = "tool_credentials"


class ToolInvokeError(ToolError):
    """The tool was called and failed."""

    code = "tool_failed"


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a select parameter."""

    value: str
    label: dict[str, str] = {}


def model_safe_name(name: str, max_length: int = 64) -> str:
    """Return a name that every model API accepts as a function name."""
    return _PLAIN.sub("_", name)[:max_length]


class ToolParameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter of a tool.

    `form` is the source of its value: `llm` for the model, `form` for the person who
    configures the tool, `schema` for the tool's author.
    """

    name: str
    type: str = "string"
    """`string`, `number`, `boolean`, `select`, `secret-input`, `file`, `files`,
    `object`, `array`, `any` and others."""
    form: str = "llm"
    label: dict[str, str] = {}
    human_description: dict[str, str] = {}
    llm_description: str = ""
    required: bool = False
    default: Any = None
    min: float | None = None
    max: float | None = None
    options: list[Option] = []
    input_schema: dict[str, Any] | None = None
    """The JSON schema of an `object`, an `array` or `any`."""


def schema_of(parameters: Sequence[ToolParameter]) -> dict[str, Any]:
    """Return the JSON schema of the parameters that the model fills in."""
    properties = {
        parameter.name: _parameter_schema(parameter)
        for parameter in parameters
        if parameter.form == "llm" and parameter.type not in _NON_MODEL_TYPES
    }
    required = [
        parameter.name
        for parameter in parameters
        if parameter.required and parameter.name in properties
    ]
    return {"type": "object", "properties": properties, "required": required}


def _parameter_schema(parameter: ToolParameter) -> dict[str, Any]:
    """Return the JSON schema of one parameter, with its limits and its description."""
    schema = _type_schema(parameter)
    limits = {
        "minimum": parameter.min,
        "maximum": parameter.max,
        "default": parameter.default,
    }
    schema.update(
        {keyword: value for keyword, value in limits.items() if value is not None}
    )
    # The text for models is preferred; texts for people are better than none.
    description = (
        parameter.llm_description
        or parameter.human_description.get("en_US", "")
        or parameter.label.get("en_US", "")
    )
    if description:
        schema["description"] = description
    return schema


def _type_schema(parameter: ToolParameter) -> dict[str, Any]:
    """Return the JSON schema of a parameter's type, including its options."""
    if parameter.input_schema is not None:
        schema: dict[str, Any] = dict(parameter.input_schema)
    else:
        json_type = _JSON_TYPES.get(parameter.type)
        schema = {"type": json_type} if json_type else {}
    # Some model APIs refuse an array schema without `items`.
    if parameter.type == "array" and "items" not in schema:
        schema["items"] = {}
    if parameter.type == "select" and parameter.options:
        schema["enum"] = [option.value for option in parameter.options]
    return schema


class ToolEntity(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as it is listed. `parameters` describe forms; `schema`, if given, is what
    models receive instead."""

    name: str
    provider: str = ""
    kind: str = "builtin"
    """`builtin`, `plugin`, `api`, `mcp`, `workflow`, `dataset-retrieval`, `agent` or `function`."""
    label: dict[str, str] = {}
    description: str = ""
    """The description for models."""
    human_description: dict[str, str] = {}
    author: str = ""
    icon: str = ""
    parameters: list[ToolParameter] = []
    schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] = {}
    needs_approval: bool = False
    """Whether a person has to approve each call."""
    seconds: float = 60.0
    """The timeout of a call in seconds."""
    is_repeatable: bool = False
    """Whether repeating a call is harmless, because it changes nothing."""
    cache_seconds: float = msgspec.field(default=0.0, name="keeps")
    """How many seconds the result of a call may be reused for the same call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """The context of a call: for whom, and in which app and conversation.

    `key` identifies the call: if a run continues after a crash, the same call has the
    same key.
    """

    tenant: str = "default"
    user: str = ""
    app: str = ""
    conversation: str = ""
    key: str = ""
    call_id: str = ""
    """The id that the model gave this call; empty if no model asked for it."""
    depth: int = 0
    credential: str = ""
    """The id of a stored credential; empty for the provider's default one."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The parameters that the model does not fill in."""


class Tool(ABC):
    """A tool that can be called."""

    entity: ToolEntity

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.entity.name

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments that a model fills in; always an object's."""
        if self.entity.schema is not None:
            return self.entity.schema
        return schema_of(self.entity.parameters)

    def as_prompt_tool(self, name: str = "") -> PromptMessageTool:
        """Return the tool's description for a model, optionally under another name."""
        return PromptMessageTool(
            name=name or self.name,
            description=self.entity.description or self.name,
            parameters=self.schema,
        )

    @abstractmethod
    def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Call the tool and stream its messages. Closing the generator cancels the
        call. Raises ToolError."""


# messages


def text_message(text: str) -> dict[str, Any]:
    """Return a text message."""
    return {"type": "text", "message": {"text": text}}


def json_message(value: Any) -> dict[str, Any]:
    """Return a message with a JSON value."""
    return {"type": "json", "message": {"json_object": value}}


def blob_message(data: bytes, mime_type: str, name: str = "") -> dict[str, Any]:
    """Return a message with binary data, such as a file."""
    return {
        "type": "blob",
        "message": {"blob": data},
        "meta": {"mime_type": mime_type, "filename": name},
    }


def link_message(url: str) -> dict[str, Any]:
    """Return a message with a link."""
    return {"type": "link", "message": {"text": url}}


def variable_message(name: str, value: Any) -> dict[str, Any]:
    """Return a message that sets an output variable."""
    return {
        "type": "variable",
        "message": {"variable_name": name, "variable_value": value, "stream": False},
    }


def resources_message(resources: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a message with the sources of a retrieval, for citations."""
    return {
        "type": "retriever_resources",
        "message": {"retriever_resources": resources},
    }
