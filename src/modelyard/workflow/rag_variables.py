"""What a RAG pipeline asks for: variables of one source, and those that all sources share, read as `rag.NODE.NAME`."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.base.numbers import check_numbers
from modelyard.workflow.dsl import App
from modelyard.workflow.nodes.start import Variable, checked_inputs

SHARED = "shared"


class RagVariable(msgspec.Struct, kw_only=True):
    """As a pipeline's file declares it."""

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
    def form(self) -> Variable:
        default = self.default_value if self.default_value not in ("", None) else None
        return Variable(
            variable=self.variable, label=self.label, type=self.type, required=self.required, default=default,
            max_length=self.max_length or None, options=self.options or [],
            allowed_file_types=self.allowed_file_types or [],
            allowed_file_extensions=self.allowed_file_extensions or [],
            allowed_file_upload_methods=self.allowed_file_upload_methods or [],
        )  # fmt: skip


def rag_variables(app: App) -> list[RagVariable]:
    """All of them; what is no variable is left out."""
    workflow: Any = app.document.get("workflow")
    given: Any = workflow.get("rag_pipeline_variables") if isinstance(workflow, Mapping) else None
    found: list[RagVariable] = []
    for one in given if isinstance(given, list) else []:
        try:
            variable = msgspec.convert(one, RagVariable, strict=False)
            check_numbers(variable, is_signed=True)
            found.append(variable)
        except msgspec.ValidationError:
            continue
    return found


def asked_by(app: App, root: str) -> Sequence[RagVariable]:
    """What a run from one source takes: that source's own, and the shared ones."""
    return [one for one in rag_variables(app) if one.belong_to_node_id in (root, SHARED)]


def rag_values(app: App, root: str, inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Whose they are → name → value. Raises InputError."""
    found: dict[str, dict[str, Any]] = {}
    for owner in (root, SHARED):
        forms = [one.form for one in rag_variables(app) if one.belong_to_node_id == owner]
        if forms:
            found[owner] = checked_inputs(forms, inputs)
    return found
