"""Input variables of a RAG pipeline: those of one source and those that all sources
share. Selector: `rag.NODE.NAME`."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.json_types import is_array, is_mapping
from modelyard.base.number_bounds import check_numbers
from modelyard.workflow.dsl import App
from modelyard.workflow.nodes.start import FormField, validate_inputs

SHARED = "shared"


class RagVariable(msgspec.Struct, kw_only=True):
    """A variable that a pipeline's DSL file declares."""

    variable: str
    belong_to_node_id: str = SHARED
    type: str = "text-input"
    label: str = ""
    required: bool = False
    default_value: Any = None
    max_length: int | None = None
    options: list[Any] | None = None
    tooltips: str | None = None
    placeholder: str | None = None
    unit: str | None = None
    allowed_file_types: list[str] | None = None
    allowed_file_extensions: list[str] | None = None
    allowed_file_upload_methods: list[str] | None = None

    @property
    def form(self) -> FormField:
        """The variable as a field of an input form."""
        # The editor stores an empty text for a missing default.
        default = self.default_value if self.default_value not in ("", None) else None
        return FormField(
            variable=self.variable,
            label=self.label,
            type=self.type,
            required=self.required,
            default=default,
            max_length=self.max_length or None,
            options=self.options or [],
            allowed_file_types=self.allowed_file_types or [],
            allowed_file_extensions=self.allowed_file_extensions or [],
            allowed_file_upload_methods=self.allowed_file_upload_methods or [],
        )


def rag_variables(app: App) -> list[RagVariable]:
    """Return all declared variables; invalid declarations are ignored."""
    # A DSL file is user input: neither field is certain to have the right type.
    workflow: Any = app.document.get("workflow")
    declared: Any = (
        workflow.get("rag_pipeline_variables") if is_mapping(workflow) else None
    )
    variables: list[RagVariable] = []
    for declaration in declared if is_array(declared) else []:
        try:
            variable = msgspec.convert(declaration, RagVariable, strict=False)
            # Huge numbers would pass the conversion but overflow later.
            check_numbers(variable, is_signed=True)
            variables.append(variable)
        except msgspec.ValidationError:
            continue
    return variables


def variables_for_source(app: App, root: str) -> Sequence[RagVariable]:
    """Return the variables of a run from one source: its own and the shared ones."""
    return [
        variable
        for variable in rag_variables(app)
        if variable.belong_to_node_id in (root, SHARED)
    ]


def rag_values(
    app: App, root: str, inputs: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the validated values as owner → name → value. Raises InputError."""
    values_by_owner: dict[str, dict[str, Any]] = {}
    for owner in (root, SHARED):
        forms = [
            variable.form
            for variable in rag_variables(app)
            if variable.belong_to_node_id == owner
        ]
        if forms:
            # Each owner's fields are validated against the same inputs.
            values_by_owner[owner] = validate_inputs(forms, inputs)
    return values_by_owner
