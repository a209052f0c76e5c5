"""Credential forms: what was filled in, checked against what the provider asks for."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from modelyard.base.errors import CredentialsValidateFailedError
from modelyard.models.provider import CredentialFormSchema, FormType
from modelyard.models.types import ModelType

logger = logging.getLogger("modelyard.credentials")

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


class ProviderCredentialSchemaValidator:
    """Checks a filled-in form: required fields, lengths, options, switches; drops what the form does not have."""

    def __init__(self, forms: Iterable[CredentialFormSchema], *, provider: str = "") -> None:
        self._forms = list(forms)
        self._provider = provider

    def validate_and_filter(self, values: Mapping[str, Any], *, model_type: ModelType | None = None) -> dict[str, Any]:
        """The form's own fields with defaults filled in. Raises CredentialsValidateFailedError that names them all."""
        problems: list[str] = []
        accepted: dict[str, Any] = {}
        for form in self._forms:
            if not self._is_shown(form, values, model_type):
                continue
            value = values.get(form.variable)
            if value in (None, ""):
                value = form.default
            if value in (None, ""):
                if form.required:
                    problems.append(f"{form.variable!r} ({form.label.en_us}) is required")
                continue
            if problem := _problem(form, value):
                problems.append(problem)
            else:
                accepted[form.variable] = _converted(form, value)
        whose = f"credentials of {self._provider!r}" if self._provider else "credentials"
        if unknown := sorted(values.keys() - {form.variable for form in self._forms}):
            # A mistyped name would otherwise look like a field that has no effect. Names alone: values are secret.
            logger.warning("unknown fields are left out", extra={"fields": {"of": whose, "fields": ", ".join(unknown)}})
        if problems:
            raise CredentialsValidateFailedError(f"{whose}: " + "; ".join(problems))
        return accepted

    @staticmethod
    def _is_shown(form: CredentialFormSchema, values: Mapping[str, Any], model_type: ModelType | None) -> bool:
        """All conditions on different fields must hold; several values for one field are alternatives."""
        wanted: dict[str, set[str]] = {}
        for condition in form.show_on:
            wanted.setdefault(condition.variable, set()).add(condition.value)
        kind = model_type.value if model_type else None
        if wanted.get("__model_type") and kind is None:
            wanted.pop("__model_type")
        return all((kind if name == "__model_type" else values.get(name)) in any_of for name, any_of in wanted.items())


def _problem(form: CredentialFormSchema, value: Any) -> str | None:
    if form.type is FormType.SWITCH and str(value).lower() not in _TRUE | _FALSE:
        return f"{form.variable!r} must be true or false, not {value!r}"
    if form.type in (FormType.SELECT, FormType.RADIO) and form.options:
        options = [option.value for option in form.options]
        if value not in options:
            return f"{form.variable!r} must be one of {', '.join(options)}, not {value!r}"
    if form.max_length and len(str(value)) > form.max_length:
        return f"{form.variable!r} is longer than {form.max_length} characters"
    return None


def _converted(form: CredentialFormSchema, value: Any) -> Any:
    return str(value).lower() in _TRUE if form.type is FormType.SWITCH else str(value)


def secrets_of(forms: Iterable[CredentialFormSchema], values: Mapping[str, Any]) -> list[str]:
    """The values that must never be shown."""
    secret = {form.variable for form in forms if form.type is FormType.SECRET_INPUT}
    return [value for name, value in values.items() if name in secret and isinstance(value, str)]
