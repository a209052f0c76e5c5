"""Values of the forms that plugins declare, as people and programs enter them: checked,
and in the shape that the plugin reads."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.json_types import is_array, is_mapping, is_object
from modelyard.models.types import JSON
from modelyard.plugins.declaration import Field

HasApp = Callable[[str], bool]
"""Returns whether the tenant has an app of this id."""
_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


def checked_form(
    fields: Sequence[Field],
    form_values: JSON,
    *,
    description: str,
    has_app: HasApp = lambda app: True,
) -> JSON:
    """Return the values of a form's fields, with defaults. A text may stand for any
    value, as command lines have nothing else.

    Raises InvokeBadRequestError if a required value is missing or one is not what its
    field takes. `description` names the form in the error.
    """
    filled: JSON = {}
    for field in fields:
        value = form_values.get(field.name, field.default)
        if value in (None, ""):
            if field.required:
                raise InvokeBadRequestError(
                    f"{description}: {field.name!r} is missing", param=field.name
                )
            continue
        filled[field.name] = _checked(field, value, description, has_app)
    return filled


def _checked(field: Field, value: Any, description: str, has_app: HasApp) -> Any:
    """Return a value in the shape of its field's type.

    Values of other types are passed on as they are. Raises InvokeBadRequestError.
    """
    match field.type:
        case "select":
            return _option(field, value, description)
        case "boolean":
            return _boolean(field, value, description)
        case "app-selector":
            return _app(field, value, description, has_app)
        case "model-selector":
            return _model(field, value, description)
        case _:
            return value


def _invalid_value(
    field: Field, value: Any, description: str, expected: str
) -> InvokeBadRequestError:
    """Return the error for a value that is not what its field takes.

    `description` names the form, `expected` says what would be right.
    """
    return InvokeBadRequestError(
        f"{description}: {field.name!r} must be {expected}, not {str(value)[:80]!r}",
        param=field.name,
    )


def _option(field: Field, value: Any, description: str) -> Any:
    """Return an option of a select field, or a list of options if it takes several."""
    allowed = [
        str(option.get("value")) if is_mapping(option) else str(option)
        for option in field.options or ()
    ]
    chosen = value if is_array(value) and field.multiple else [value]
    # Without declared options the plugin lists them at run time.
    if allowed and any(str(option) not in allowed for option in chosen):
        raise _invalid_value(field, value, description, f"one of {', '.join(allowed)}")
    return value


def _boolean(field: Field, value: Any, description: str) -> bool:
    """Return a switch, which may be written as a text such as `yes` or `0`.

    Raises InvokeBadRequestError for any other value.
    """
    if isinstance(value, bool):
        return value
    if (text := str(value).lower()) in _TRUE | _FALSE:
        return text in _TRUE
    raise _invalid_value(field, value, description, "true or false")


def _object(value: Any) -> Any:
    """Return an object that is written as JSON text; any other value unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        document = json.loads(value)
    except (RecursionError, ValueError):
        return value
    return document if is_object(document) else value


def _app(field: Field, value: Any, description: str, has_app: HasApp) -> JSON:
    """Return the selection of an app, which may be its id alone. Other members, such as
    inputs, are kept."""
    chosen = _object(value)
    selection: JSON = chosen if is_object(chosen) else {"app_id": str(chosen)}
    app = selection.get("app_id")
    if not isinstance(app, str) or not has_app(app):
        expected = "the id of an app, or an object with it as 'app_id'"
        raise _invalid_value(field, value, description, expected)
    return selection


def _model(field: Field, value: Any, description: str) -> JSON:
    """Return the selection of a model, which may be `provider/model`."""
    chosen = _object(value)
    if is_object(chosen) and chosen.get("provider") and chosen.get("model"):
        return chosen
    provider, slash, model = str(chosen).rpartition("/")
    if not slash or not provider or not model:
        expected = "'provider/model', or an object with 'provider' and 'model'"
        raise _invalid_value(field, value, description, expected)
    # A field may be limited to a type of models, as `text-embedding`.
    scope = str(field.scope or "llm").partition("&")[0]
    return {"provider": provider, "model": model, "model_type": scope, "mode": "chat"}
