"""start: checks what the run was given against the form."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base import computing
from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.mending import is_on_a_loop
from modelyard.base.schemas import MOST_PAIRS, MOST_PAIRS_APART, SchemaError, TooMuchWorkError, compiled, is_large
from modelyard.workflow.node import NodeContext, NodeData, NodeError, NodeKind, NodeResult, QuickNode
from modelyard.workflow.variables import File, WorkflowError

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class InputError(WorkflowError):
    """An input is missing, or not what the form asks for. The run does not begin."""

    code = "invalid_param"


class Variable(msgspec.Struct, kw_only=True):
    variable: str
    label: str = ""
    type: str = "text-input"
    required: bool = False
    hide: bool = False
    default: Any = None
    max_length: int | None = None
    options: list[Any] = []
    description: str = ""
    allowed_file_types: list[str] = []
    allowed_file_extensions: list[str] = []
    allowed_file_upload_methods: list[str] = []
    json_schema: Any = None


class StartData(NodeData, kw_only=True):
    variables: list[Variable] = []


def checked_inputs(variables: Sequence[Variable], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as the form has them; what it does not declare is left out. Raises InputError."""
    return {one.variable: _checked(one, inputs.get(one.variable)) for one in variables}


def _checked(form: Variable, value: Any) -> Any:
    name = form.variable
    if value is None:
        if form.required:
            raise InputError(f"{name} is required in input form")
        value = form.default
    if value is None or (form.type in ("file", "file-list") and value == "" and not form.required):
        return None
    match form.type:
        case "text-input" | "paragraph" | "select" | "external_data_tool":
            return _text(form, value)
        case "number":
            return _number(name, value)
        case "checkbox":
            return _boolean(name, value)
        case "file":
            if not isinstance(value, Mapping | File):
                raise InputError(f"{name} in input form must be a file")
            return value
        case "file-list":
            return _files(form, value)
        case "json_object":
            return _object(form, value)
        case _:
            return _cleaned(value)


def _text(form: Variable, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{form.variable} in input form must be a string")
    options = [str(one) for one in form.options]
    if form.type == "select" and value and options and value not in options:
        raise InputError(f"{form.variable} in input form must be one of the following: {options}")
    if form.type == "select" and not value and form.required:
        raise InputError(f"{form.variable} is required in input form")
    if form.type != "select" and form.max_length and len(value) > form.max_length:
        raise InputError(f"{form.variable} in input form must be less than {form.max_length} characters")
    return value.replace("\0", "")


def _number(name: str, value: Any) -> int | float | None:
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            raise InputError(f"{name} in input form must be a valid number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{name} in input form must be a valid number")
    return value


def _boolean(name: str, value: Any) -> bool:
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise InputError(f"{name} in input form must be a boolean value")


def _files(form: Variable, value: Any) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(one, Mapping | File) for one in value):
        raise InputError(f"{form.variable} in input form must be a list of files")
    if form.max_length and len(value) > form.max_length:
        raise InputError(f"{form.variable} in input form must be less than {form.max_length} files")
    return value


def _object(form: Variable, value: Any) -> Any:
    if isinstance(value, str) and value:
        try:
            value = decode_body(value)
        except BodyError:
            raise InputError(f"{form.variable} in input form must be a JSON object") from None
    if not isinstance(value, Mapping):
        raise InputError(f"{form.variable} in input form must be a JSON object")
    schema = form.json_schema
    if isinstance(schema, str) and schema.strip():
        try:
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            raise InputError(f"the JSON schema of {form.variable} is no JSON") from None
    if isinstance(schema, Mapping) and schema:
        _check_schema(form.variable, schema, value)
    return value


def _check_schema(name: str, schema: Mapping[str, Any], value: Any) -> None:
    try:
        mismatch = compiled(schema, draft="7").mismatch(value, most=MOST_PAIRS if is_on_a_loop() else MOST_PAIRS_APART)
    except TooMuchWorkError as error:
        raise InputError(f"{name} cannot be held to its JSON schema: {error}") from error
    except SchemaError as error:
        raise InputError(f"the JSON schema of {name} cannot be used: {error}") from error
    if mismatch is not None:
        raise InputError(f"{name} does not fit its JSON schema: {mismatch.message}")


def _cleaned(value: Any) -> Any:
    return value.replace("\0", "") if isinstance(value, str) else value


class StartNode(QuickNode):
    """Its variables were put into the pool when the run was made; here they are checked and shown."""

    type = "start"
    kind = NodeKind.ROOT
    Data = StartData

    def compute(self, context: NodeContext) -> NodeResult | None:
        """None where there is much to check: that is done off the loop."""
        return None if is_large(context.pool.of(self.id)) else self._checked(context)

    async def run(self, context: NodeContext) -> NodeResult:
        return self.compute(context) or await computing.apart(self._checked, context)

    def _checked(self, context: NodeContext) -> NodeResult:
        given = context.pool.of(self.id)
        try:
            outputs = checked_inputs(self.data.variables, given)
        except InputError as error:
            raise NodeError(str(error), kind="InputError") from error
        shown = {
            (name if node == self.id else f"{node}.{name}"): value
            for node, name, value in context.pool.items()
            if node in ("sys",)
        }
        return NodeResult(outputs={**shown, **outputs}, inputs={**shown, **outputs})

    def output_names(self) -> Sequence[str]:
        return [one.variable for one in self.data.variables]


def form_of(node: Any) -> list[Variable]:
    """The variables that a root asks for."""
    return list(getattr(node.data, "variables", ()) or ()) if isinstance(node.data, StartData) else []


NODES = {"start": StartNode}
