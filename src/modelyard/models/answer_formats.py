"""Formats of answers (JSON, a JSON schema) that a model's parameter rules offer, and
their translation between OpenAI's object and the options of a rule. No I/O.

Dify's models declare the format as a text with options and the schema as a second text.
Callers send OpenAI's `response_format`, or the texts as a workflow of Dify stores them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_object
from modelyard.models.entities import ParameterRule
from modelyard.models.types import JSON

FORMAT, SCHEMA = "response_format", "json_schema"

# The options that stand for "a JSON object", in lower case.
_JSON_NAMES = frozenset({"json", "json_object"})
_TYPES = ("text", "json_object", "json_schema")
_BARE_SCHEMA_NAMES = ("gemini", "ollama", "vertex")
"""Names of providers and models whose plugins read the schema itself. All others read
OpenAI's object `json_schema`, which has the schema under `schema`."""
_CLOSED_SCHEMA_NAMES = ("gemini", "vertex")
"""Those whose servers refuse `additionalProperties`."""


@dataclass(frozen=True, slots=True)
class AnswerModes:
    """What a model's server offers for answers of a given form."""

    json_object: bool = True
    """Whether it has a mode for answers that are a JSON object."""
    json_schema: bool | None = None
    """Whether it accepts a JSON schema. None if the model's features say so."""
    forced_tool: bool = True
    """Whether the call of a tool can be forced."""


@dataclass(frozen=True, slots=True)
class AnswerFormats:
    """The formats that the rules of one model offer."""

    format_rule: ParameterRule | None = None
    """The text with options; None if the model has none."""
    schema_rule: ParameterRule | None = None
    """The text for a JSON schema; None if the model has none."""

    @classmethod
    def of(cls, rules: Sequence[ParameterRule]) -> "AnswerFormats":
        """Return the formats that rules offer."""
        return cls(
            next((rule for rule in rules if _is_format_rule(rule)), None),
            next((rule for rule in rules if SCHEMA in _names(rule)), None),
        )

    @property
    def json_option(self) -> str | None:
        """The option for a JSON object; None if there is none."""
        return self._option(_JSON_NAMES)

    @property
    def schema_option(self) -> str | None:
        """The option for a JSON schema; None if there is none."""
        return self._option({SCHEMA})

    @property
    def has_schema_mode(self) -> bool:
        """Whether a JSON schema can be passed to the model."""
        # Plugins with options, but without this one, ignore or refuse the schema.
        return self.schema_rule is not None and (
            self.format_rule is None or self.schema_option is not None
        )

    def _option(self, names: frozenset[str] | set[str]) -> str | None:
        """Return the first option that has one of these names in lower case; None if
        the model has no choice of formats, or none of them."""
        options = self.format_rule.options if self.format_rule else ()
        return next((option for option in options if option.lower() in names), None)

    # from callers

    def normalize(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return parameters with the format as OpenAI's object, whatever the caller
        sent; the same mapping if there is nothing to change.

        A text that is no such format, as `XML`, becomes the rule's own option. Raises
        InvokeBadRequestError for an unknown format, and for a schema that is missing
        or no JSON object.
        """
        stated = parameters.get(FORMAT)
        own_name = self.format_rule.name if self.format_rule else FORMAT
        if stated is None:
            stated = parameters.get(own_name)
        if stated is None or (is_object(stated) and SCHEMA not in parameters):
            return parameters
        rest = {
            name: value
            for name, value in parameters.items()
            if name not in (FORMAT, own_name, SCHEMA)
        }
        return {**rest, **self._format_fields(stated, parameters.get(SCHEMA))}

    def _format_fields(self, stated: Any, schema: Any) -> JSON:
        """Return the fields for a format that a caller stated, and its schema.

        `stated` is OpenAI's object or a name. `schema` is the second text that Dify
        stores, and is used only where the first asks for a schema.
        """
        if is_object(stated):
            if stated.get("type") != SCHEMA or SCHEMA in stated:
                return {FORMAT: stated}
            stated = SCHEMA
        name = str(stated).lower()
        if name in _JSON_NAMES:
            return {FORMAT: {"type": "json_object"}}
        if name == SCHEMA:
            return {FORMAT: {"type": SCHEMA, SCHEMA: _schema_object(schema)}}
        if (rule := self.format_rule) is not None and (
            option := self._option({name})
        ) is not None:
            return {} if name == "text" else {rule.name: option}
        if name == "text":
            return {}
        options = self.format_rule.options if self.format_rule else []
        expected = ", ".join(dict.fromkeys([*options, *_TYPES]))
        raise InvokeBadRequestError(
            f"Parameter {FORMAT!r} must be one of {expected}, or an object with one of"
            f" {', '.join(_TYPES)} as its 'type', not {str(stated)[:50]!r}",
            param=FORMAT,
        )

    # to the model

    def dump(self, parameters: Mapping[str, Any], model: str) -> JSON:
        """Return parameters with OpenAI's object as the texts that the rules define.

        A format that the model has no option for is left out: it was asked for in the
        prompt. `model` is `provider/model`, which decides how a schema is written.
        """
        stated = parameters.get(FORMAT)
        if not is_object(stated):
            return dict(parameters)
        fields = {name: value for name, value in parameters.items() if name != FORMAT}
        match stated.get("type"):
            case "json_object":
                option = self.json_option
            case "json_schema" if self.has_schema_mode and self.schema_rule:
                option = self.schema_option
                schema = stated.get(SCHEMA) or EMPTY_OBJECT
                fields[self.schema_rule.name] = dump_schema(schema, model)
            case _:
                option = None
        if self.format_rule is not None and option is not None:
            fields[self.format_rule.name] = option
        return fields


def dump_schema(json_schema: Mapping[str, Any], model: str) -> str:
    """Return OpenAI's object `json_schema` as the text that a plugin's model reads.

    `model` is `provider/model`. Most plugins pass the object on to their vendor, so it
    is written with the caller's name and `strict`.
    """
    document: Any = {"name": "response", **json_schema}
    model = model.lower()
    if any(name in model for name in _BARE_SCHEMA_NAMES):
        document = json_schema.get("schema") or EMPTY_OBJECT
    if any(name in model for name in _CLOSED_SCHEMA_NAMES):
        document = _without_closing(document)
    return json.dumps(document, ensure_ascii=False)


def _names(rule: ParameterRule) -> tuple[str, str | None]:
    """Return the names under which a rule can be found: its own, and that of its
    template."""
    return rule.name, rule.use_template


def _is_format_rule(rule: ParameterRule) -> bool:
    """Return whether a rule chooses the format of answers, under whatever name."""
    return FORMAT in _names(rule) or any(
        option.lower() == "json_object" for option in rule.options
    )


def _schema_object(schema: Any) -> JSON:
    """Return a schema, which may be a JSON text, as OpenAI's object `json_schema`."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (RecursionError, ValueError):
            schema = None
    if not is_object(schema) or not schema:
        raise InvokeBadRequestError(
            f"Parameter {SCHEMA!r} must be a JSON schema, as an object or its JSON"
            f" text, if {FORMAT!r} is 'json_schema'",
            param=SCHEMA,
        )
    # A schema in the wrapping of OpenAI or Dify has it under `schema`.
    if is_object(schema.get("schema")):
        return {"name": "response", **schema}
    return {"name": "response", "schema": schema}


def _without_closing(schema: Any) -> Any:
    """Return a schema without `additionalProperties` at any depth."""
    if is_array(schema):
        return [_without_closing(element) for element in schema]
    if not is_object(schema):
        return schema
    open_schema: JSON = {}
    for keyword, value in schema.items():
        if keyword == "additionalProperties":
            continue
        # The keys of these are names of the caller, and no keywords.
        has_names = keyword in _KEYWORDS_WITH_NAMES and is_object(value)
        open_schema[keyword] = (
            _without_closing_in(value) if has_names else _without_closing(value)
        )
    return open_schema


_KEYWORDS_WITH_NAMES = ("properties", "$defs", "definitions")


def _without_closing_in(schemas: JSON) -> JSON:
    """Return schemas by name, each without `additionalProperties`."""
    return {name: _without_closing(schema) for name, schema in schemas.items()}
