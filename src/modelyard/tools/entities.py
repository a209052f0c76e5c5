"""What a tool is: how it is described to people and to models, and how it is called."""

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
    "string": "string", "number": "number", "boolean": "boolean", "select": "string", "secret-input": "string",
    "checkbox": "boolean", "object": "object", "array": "array", "dynamic-select": "string",
}  # fmt: skip
_FILES = frozenset({"file", "files", "system-files", "model-selector", "app-selector"})
_PLAIN = re.compile(r"[^A-Za-z0-9_-]+")
Message = Mapping[str, Any]
"""A piece of a tool's answer in the shape that plugins use: `type`, `message`, `meta`."""


class ToolError(ModelyardError):
    """A tool could not be called, or failed. The message is what the model and the caller are told."""

    code = "tool_error"


class ToolNotFoundError(ToolError):
    code = "tool_not_found"


class ToolParameterError(ToolError):
    """What it was given does not fit its parameters."""

    code = "tool_parameters"


class ToolCredentialsError(ToolError):
    """Its credentials are missing, or were refused."""

    code = "tool_credentials"


class ToolInvokeError(ToolError):
    """It was called and failed."""

    code = "tool_failed"


class Option(msgspec.Struct, frozen=True, kw_only=True):
    value: str
    label: dict[str, str] = {}


def plain_name(name: str, most: int = 64) -> str:
    """A name that every model's API takes."""
    return _PLAIN.sub("_", name)[:most]


class ToolParameter(msgspec.Struct, frozen=True, kw_only=True):
    """`form` says who fills it in: `llm` the model, `form` whoever sets the tool up, `schema` whoever wrote it."""

    name: str
    type: str = "string"
    """`string`, `number`, `boolean`, `select`, `secret-input`, `file`, `files`, `object`, `array`, `any` and others."""
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
    """What a model is told of the parameters that are its to fill in."""
    properties: dict[str, Any] = {}
    for one in parameters:
        if one.form != "llm" or one.type in _FILES:
            continue
        if one.input_schema is not None:
            found: dict[str, Any] = dict(one.input_schema)
        else:
            kind = _JSON_TYPES.get(one.type)
            found = {"type": kind} if kind else {}
        if one.type == "array" and "items" not in found:
            found["items"] = {}
        if one.type == "select" and one.options:
            found["enum"] = [each.value for each in one.options]
        if one.min is not None:
            found["minimum"] = one.min
        if one.max is not None:
            found["maximum"] = one.max
        if one.default is not None:
            found["default"] = one.default
        description = one.llm_description or one.human_description.get("en_US", "") or one.label.get("en_US", "")
        if description:
            found["description"] = description
        properties[one.name] = found
    required = [one.name for one in parameters if one.required and one.name in properties]
    return {"type": "object", "properties": properties, "required": required}


class ToolEntity(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as it is listed. `parameters` describe forms; `schema`, where it is given, is what models are told."""

    name: str
    provider: str = ""
    kind: str = "builtin"
    """`builtin`, `plugin`, `api`, `mcp`, `workflow`, `dataset-retrieval`, `agent` or `function`."""
    label: dict[str, str] = {}
    description: str = ""
    """For models."""
    human_description: dict[str, str] = {}
    author: str = ""
    icon: str = ""
    parameters: list[ToolParameter] = []
    schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] = {}
    needs_approval: bool = False
    """Somebody has to agree before it runs."""
    seconds: float = 60.0
    """The longest that it may take."""
    is_repeatable: bool = False
    """Whether calling it twice does no harm: nothing outside changes."""
    keeps: float = 0.0
    """Seconds for which the same call has the same answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """For whom a tool is called, and under which name: `key` is the same for the same call of a run that goes on."""

    tenant: str = "default"
    user: str = ""
    app: str = ""
    conversation: str = ""
    key: str = ""
    depth: int = 0
    credential: str = ""
    """The id of a stored credential; the provider's own where empty."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the model does not fill in."""


class Tool(ABC):
    entity: ToolEntity

    @property
    def name(self) -> str:
        return self.entity.name

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of what a model fills in: always of an object."""
        if self.entity.schema is not None:
            return self.entity.schema
        return schema_of(self.entity.parameters)

    def as_prompt_tool(self, name: str = "") -> PromptMessageTool:
        return PromptMessageTool(
            name=name or self.name, description=self.entity.description or self.name, parameters=self.schema
        )

    @abstractmethod
    def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        """Its answer in pieces. Closing the generator ends the call. Raises ToolError."""


# messages


def text_message(text: str) -> dict[str, Any]:
    return {"type": "text", "message": {"text": text}}


def json_message(value: Any) -> dict[str, Any]:
    return {"type": "json", "message": {"json_object": value}}


def blob_message(data: bytes, mime_type: str, name: str = "") -> dict[str, Any]:
    return {"type": "blob", "message": {"blob": data}, "meta": {"mime_type": mime_type, "filename": name}}


def link_message(url: str) -> dict[str, Any]:
    return {"type": "link", "message": {"text": url}}


def variable_message(name: str, value: Any) -> dict[str, Any]:
    return {"type": "variable", "message": {"variable_name": name, "variable_value": value, "stream": False}}


def resources_message(resources: list[dict[str, Any]]) -> dict[str, Any]:
    """Where what was found stands, for citations."""
    return {"type": "retriever_resources", "message": {"retriever_resources": resources}}
