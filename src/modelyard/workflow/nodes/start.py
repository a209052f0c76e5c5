"""Start node: validates the inputs of a run against the app's input form."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base import cpu_work
from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.json_repair import is_on_a_loop
from modelyard.base.json_types import is_array, is_mapping
from modelyard.base.schemas import (
    MAX_PAIRS,
    MAX_PAIRS_IN_THREAD,
    SchemaError,
    TooMuchWorkError,
    compile_schema,
    is_large,
)
from modelyard.workflow.node import (
    NodeContext,
    NodeData,
    NodeError,
    NodeKind,
    NodeResult,
    SyncNode,
)
from modelyard.workflow.storable import UnstorableError, storable_values
from modelyard.workflow.variables import File, WorkflowError

# Clients send the value of a checkbox in any of these ways.
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class InputError(WorkflowError):
    """An input is missing or does not match the form. The run is not started."""

    code = "invalid_param"


def storable_inputs(values: Mapping[str, Any], owner: str = "") -> dict[str, Any]:
    """Return values from a caller as they can be stored. `owner` is their namespace in
    the message. Raises InputError."""
    try:
        return storable_values(values, owner)
    except UnstorableError as error:
        raise InputError(str(error)) from error


class FormField(msgspec.Struct, kw_only=True):
    """A field of the input form."""

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
    """Data of a start node in a DSL file."""

    variables: list[FormField] = []


def validate_inputs(
    variables: Sequence[FormField], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the inputs that the form declares, validated. Raises InputError."""
    validated: dict[str, Any] = {}
    for form_field in variables:
        name = form_field.variable
        validated[name] = _validate_field(form_field, inputs.get(name))
    return validated


def _validate_field(form_field: FormField, value: Any) -> Any:
    """Return the validated value of one field; None if it is optional and missing."""
    name = form_field.variable
    # A required field without a value is an error even if it has a default.
    if value is None:
        if form_field.required:
            raise InputError(f"{name} is required in input form")
        value = form_field.default
    # Web forms send an empty text for a file that was not chosen.
    if value is None or (
        form_field.type in ("file", "file-list")
        and value == ""
        and not form_field.required
    ):
        return None
    match form_field.type:
        case "text-input" | "paragraph" | "select" | "external_data_tool":
            return _text(form_field, value)
        case "number":
            return _number(name, value)
        case "checkbox":
            return _boolean(name, value)
        case "file":
            if not is_mapping(value) and not isinstance(value, File):
                raise InputError(f"{name} in input form must be a file")
            return value
        case "file-list":
            return _files(form_field, value)
        case "json_object":
            return _object(form_field, value)
        case _:
            return _without_nul(value)


def _text(form_field: FormField, value: Any) -> str:
    """Return a text that meets the field's options and length. Raises InputError."""
    if not isinstance(value, str):
        raise InputError(f"{form_field.variable} in input form must be a string")
    options = [str(option) for option in form_field.options]
    # An empty value of an optional selection is allowed.
    if form_field.type == "select" and value and options and value not in options:
        raise InputError(
            f"{form_field.variable} in input form must be one of the following:"
            f" {options}"
        )
    if form_field.type == "select" and not value and form_field.required:
        raise InputError(f"{form_field.variable} is required in input form")
    if (
        form_field.type != "select"
        and form_field.max_length
        and len(value) > form_field.max_length
    ):
        raise InputError(
            f"{form_field.variable} in input form must be less than"
            f" {form_field.max_length} characters"
        )
    # PostgreSQL cannot store NUL characters.
    return value.replace("\0", "")


def _number(name: str, value: Any) -> int | float | None:
    """Return a number; texts are parsed, an empty text is None. Raises InputError."""
    # Forms send numbers as text.
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            raise InputError(f"{name} in input form must be a valid number") from None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
    ):
        raise InputError(f"{name} in input form must be a valid number")
    return value


def _boolean(name: str, value: Any) -> bool:
    """Return a boolean; several spellings are accepted. Raises InputError."""
    normalized = str(value).strip().lower()
    if normalized in _TRUE:
        return True
    if normalized in _FALSE:
        return False
    raise InputError(f"{name} in input form must be a boolean value")


def _files(form_field: FormField, value: Any) -> list[Any]:
    """Return a list of files that is not too long. Raises InputError."""
    name, max_length = form_field.variable, form_field.max_length
    if not _is_list_of_files(value):
        raise InputError(f"{name} in input form must be a list of files")
    if max_length and len(value) > max_length:
        raise InputError(f"{name} in input form must be less than {max_length} files")
    return value


def _is_list_of_files(value: Any) -> bool:
    """Return whether a value has nothing but files."""
    # Clients send objects; a run that another one starts passes files on.
    if not is_array(value):
        return False
    return all(isinstance(element, Mapping | File) for element in value)


def _object(form_field: FormField, value: Any) -> Any:
    """Return a JSON object that matches the field's schema. Raises InputError."""
    # Objects may be entered as JSON text.
    if isinstance(value, str) and value:
        try:
            value = decode_body(value)
        except BodyError:
            raise InputError(
                f"{form_field.variable} in input form must be a JSON object"
            ) from None
    if not is_mapping(value):
        raise InputError(f"{form_field.variable} in input form must be a JSON object")
    schema = form_field.json_schema
    # Dify's editor stores the schema as text.
    if isinstance(schema, str) and schema.strip():
        try:
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            raise InputError(
                f"The JSON schema of {form_field.variable} is not valid JSON"
            ) from None
    if is_mapping(schema) and schema:
        _check_schema(form_field.variable, schema, value)
    return value


def _check_schema(name: str, schema: Mapping[str, Any], value: Any) -> None:
    """Validate a value against a JSON schema. Raises InputError."""
    try:
        # On the event loop less work is allowed than in a worker.
        mismatch = compile_schema(schema, draft="7").mismatch(
            value, max_pairs=MAX_PAIRS if is_on_a_loop() else MAX_PAIRS_IN_THREAD
        )
    except TooMuchWorkError as error:
        raise InputError(
            f"{name} cannot be validated against its JSON schema: {error}"
        ) from error
    except SchemaError as error:
        raise InputError(f"The JSON schema of {name} is invalid: {error}") from error
    if mismatch is not None:
        raise InputError(f"{name} does not match its JSON schema: {mismatch.message}")


def _without_nul(value: Any) -> Any:
    """Remove NUL characters from a text."""
    return value.replace("\0", "") if isinstance(value, str) else value


class StartNode(SyncNode):
    """Root of a workflow. The inputs are in the variable pool when the run starts; the
    node validates and logs them."""

    type = "start"
    kind = NodeKind.ROOT
    Data = StartData

    def compute(self, context: NodeContext) -> NodeResult | None:
        """Return the result; None if the inputs are large, because then validation runs
        off the event loop."""
        return (
            None
            if is_large(context.pool.node_variables(self.id))
            else self._validate(context)
        )

    async def run(self, context: NodeContext) -> NodeResult:
        """Return the validated inputs. Raises NodeError."""
        return self.compute(context) or await cpu_work.run_in_thread(
            self._validate, context
        )

    def _validate(self, context: NodeContext) -> NodeResult:
        """Validate the inputs and return them with the system variables. Raises
        NodeError."""
        # The pool was filled when the run was created.
        inputs = context.pool.node_variables(self.id)
        try:
            outputs = validate_inputs(self.data.variables, inputs)
        except InputError as error:
            raise NodeError(str(error), error_type="InputError") from error
        # System variables are shown together with the inputs.
        system_values = {
            (name if node == self.id else f"{node}.{name}"): value
            for node, name, value in context.pool.items()
            if node in ("sys",)
        }
        return NodeResult(
            outputs={**system_values, **outputs}, inputs={**system_values, **outputs}
        )

    def output_names(self) -> Sequence[str]:
        """Return the names of the form's fields."""
        return [form_field.variable for form_field in self.data.variables]


def form_of(node: Any) -> list[FormField]:
    """Return the form fields of a root node; empty if it is not a start node."""
    return (
        list(getattr(node.data, "variables", ()) or ())
        if isinstance(node.data, StartData)
        else []
    )


NODES = {"start": StartNode}
