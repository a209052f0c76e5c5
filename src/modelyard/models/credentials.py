"""Validation of credential form values against the provider's form definition."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from modelyard.base.errors import CredentialsValidateFailedError
from modelyard.models.provider import CredentialFormSchema, FormType
from modelyard.models.types import ModelType

logger = logging.getLogger("modelyard.credentials")

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


class ProviderCredentialSchemaValidator:
    """Validates a form: required fields, lengths, options, switches. Unknown fields are
    dropped."""

    def __init__(
        self, forms: Iterable[CredentialFormSchema], *, provider: str = ""
    ) -> None:
        self._forms = list(forms)
        self._provider = provider

    def validate_and_filter(
        self, values: Mapping[str, Any], *, model_type: ModelType | None = None
    ) -> dict[str, Any]:
        """Return the form's values with defaults filled in. Raises
        CredentialsValidateFailedError listing all problems."""
        problems: list[str] = []
        accepted: dict[str, Any] = {}
        for field in self._forms:
            # Hidden fields are neither required nor stored.
            if not self._is_shown(field, values, model_type):
                continue
            value = values.get(field.variable)
            if value in (None, ""):
                value = field.default
            # All problems are collected, so that a form needs only one correction.
            if problem := _problem(field, value):
                problems.append(problem)
            elif value not in (None, ""):
                accepted[field.variable] = _converted(field, value)
        subject = (
            f"Credentials of {self._provider!r}" if self._provider else "Credentials"
        )
        if unknown := sorted(values.keys() - {field.variable for field in self._forms}):
            # A mistyped field name would otherwise look like a field without effect.
            # Only names are logged: values are secret.
            logger.warning(
                "unknown credential fields ignored",
                extra={"fields": {"of": subject, "fields": ", ".join(unknown)}},
            )
        if problems:
            raise CredentialsValidateFailedError(f"{subject}: " + "; ".join(problems))
        return accepted

    @staticmethod
    def _is_shown(
        field: CredentialFormSchema,
        values: Mapping[str, Any],
        model_type: ModelType | None,
    ) -> bool:
        """Return whether a field applies: conditions on different fields must all hold,
        several values for one field are alternatives."""
        accepted_values: dict[str, set[str]] = {}
        for condition in field.show_on:
            accepted_values.setdefault(condition.variable, set()).add(condition.value)
        type_value = model_type.value if model_type else None
        # Without a model type, conditions on it are ignored.
        if accepted_values.get("__model_type") and type_value is None:
            accepted_values.pop("__model_type")
        return all(
            (type_value if name == "__model_type" else values.get(name)) in any_of
            for name, any_of in accepted_values.items()
        )


def _problem(field: CredentialFormSchema, value: Any) -> str | None:
    """Return what is wrong with the value of a field, or None. An empty value is wrong
    if the field is required."""
    if value not in (None, ""):
        return _value_problem(field, value)
    if field.required:
        return f"{field.variable!r} ({field.label.en_us}) is required"
    return None


def _value_problem(field: CredentialFormSchema, value: Any) -> str | None:
    """Return what is wrong with a value that is not empty, or None."""
    if field.type is FormType.SWITCH and str(value).lower() not in _TRUE | _FALSE:
        return f"{field.variable!r} must be true or false, not {value!r}"
    if field.type in (FormType.SELECT, FormType.RADIO) and field.options:
        options = [option.value for option in field.options]
        if value not in options:
            return (
                f"{field.variable!r} must be one of {', '.join(options)}, not {value!r}"
            )
    if field.max_length and len(str(value)) > field.max_length:
        return f"{field.variable!r} is longer than {field.max_length} characters"
    return None


def _converted(field: CredentialFormSchema, value: Any) -> Any:
    """Return a field's value with the field's type."""
    return str(value).lower() in _TRUE if field.type is FormType.SWITCH else str(value)


def secrets_of(
    forms: Iterable[CredentialFormSchema], values: Mapping[str, Any]
) -> list[str]:
    """Return the values of secret fields, which must never be displayed."""
    # The form decides what is secret, not the name of the field.
    secret = {field.variable for field in forms if field.type is FormType.SECRET_INPUT}
    return [
        value
        for name, value in values.items()
        if name in secret and isinstance(value, str)
    ]
