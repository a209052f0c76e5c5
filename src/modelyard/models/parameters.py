"""Parameter rules: shared templates, their expansion, and validation of a call's
parameters."""

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.json_types import is_object
from modelyard.models.entities import DefaultParameterName, ParameterRule, ParameterType

# Name → (type, default, min, max, precision, options, English label, Chinese label,
# help)
_TABLE: dict[
    str,
    tuple[str, Any, float | None, float | None, int | None, list[str], str, str, str],
] = {
    DefaultParameterName.TEMPERATURE: (
        "float",
        0.0,
        0.0,
        1.0,
        2,
        [],
        "Temperature",
        "温度",
        "Sampling temperature: 0 always takes the likeliest token, higher is more varied.",
    ),
    DefaultParameterName.TOP_P: (
        "float",
        1.0,
        0.0,
        1.0,
        2,
        [],
        "Top P",
        "Top P",
        "Sample from the likeliest tokens whose probabilities add up to this value.",
    ),
    DefaultParameterName.TOP_K: (
        "int",
        50,
        1,
        100,
        0,
        [],
        "Top K",
        "Top K",
        "Sample from this many of the likeliest tokens.",
    ),
    DefaultParameterName.PRESENCE_PENALTY: (
        "float",
        0.0,
        0.0,
        1.0,
        2,
        [],
        "Presence Penalty",
        "存在惩罚",
        "Penalty for tokens that have already occurred, regardless of how often.",
    ),
    DefaultParameterName.FREQUENCY_PENALTY: (
        "float",
        0.0,
        0.0,
        1.0,
        2,
        [],
        "Frequency Penalty",
        "频率惩罚",
        "Penalty for tokens that grows with the number of their occurrences.",
    ),
    DefaultParameterName.MAX_TOKENS: (
        "int",
        64,
        1,
        2048,
        0,
        [],
        "Max Tokens",
        "最大标记",
        "Maximum number of tokens of the answer.",
    ),
    DefaultParameterName.RESPONSE_FORMAT: (
        "string",
        None,
        None,
        None,
        None,
        ["JSON", "XML"],
        "Response Format",
        "回复格式",
        "Format of the answer.",
    ),
    DefaultParameterName.JSON_SCHEMA: (
        "text",
        None,
        None,
        None,
        None,
        [],
        "JSON Schema",
        "JSON Schema",
        "JSON schema that the answer must match.",
    ),
}


def parameter_rule_template(name: str) -> dict[str, Any] | None:
    """Return the shared fields of a common parameter as in model YAML, or None if there
    is no such template."""
    if name not in _TABLE:
        return None
    type_name, default, low, high, precision, options, english, chinese, text = _TABLE[
        name
    ]
    return {
        "type": type_name,
        "default": default,
        "min": low,
        "max": high,
        "precision": precision,
        "options": options,
        "label": {"en_US": english, "zh_Hans": chinese},
        "help": {"en_US": text},
    }


def expand_template(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule from YAML merged over its template.

    A rule without a type uses the template of its own name, if there is one.
    """
    name = str(rule.get("name", ""))
    template = (
        parameter_rule_template(
            str(rule.get("use_template") or ("" if "type" in rule else name))
        )
        or {}
    )
    # Later entries win: defaults, then the template, then the rule itself.
    full = {"label": {"en_US": name}, "type": "string", **template}
    return {**full, **{key: value for key, value in rule.items() if value is not None}}


def validate_parameters(
    rules: Iterable[ParameterRule], parameters: Mapping[str, Any], *, model: str
) -> dict[str, Any]:
    """Return the parameters that the rules define, validated and converted.

    A parameter may also be given by the name of its rule's template. Unknown names are
    dropped, and required parameters without a value get their default. Raises
    InvokeBadRequestError that names the parameter and what is allowed.
    """
    accepted: dict[str, Any] = {}
    for rule in rules:
        value = parameters.get(rule.name)
        # A rule may have a vendor-specific name for a common parameter.
        if value is None and rule.use_template:
            value = parameters.get(rule.use_template)
        # OpenAI's object for a format is no option of the rule; see `AnswerFormats`.
        if is_object(value) and "response_format" in (rule.name, rule.use_template):
            accepted["response_format"] = value
        elif value is not None:
            accepted[rule.name] = _checked(rule, value)
        # Optional parameters without a value are omitted, so that the provider's
        # default applies.
        elif rule.required:
            accepted[rule.name] = _required_default(rule, model)
    return accepted


def _required_default(rule: ParameterRule, model: str) -> Any:
    """Return the default of a required parameter.

    Raises InvokeBadRequestError if it has none.
    """
    if rule.default is None:
        raise InvokeBadRequestError(
            f"Model {model!r} requires parameter {rule.name!r}", param=rule.name
        )
    return rule.default


def _checked(rule: ParameterRule, value: Any) -> Any:
    """Return a parameter's value, converted to the rule's type and within its bounds.

    A number may be rounded to the rule's precision. Raises InvokeBadRequestError that
    names the parameter.
    """
    match rule.type:
        case ParameterType.INT:
            return _in_range(rule, _to_int(rule, value))
        case ParameterType.FLOAT:
            return _in_range(rule, _to_rounded_float(rule, value))
        case ParameterType.BOOLEAN:
            return _expect_type(rule, value, bool, "true or false")
        case ParameterType.STRING | ParameterType.TEXT:
            text = _expect_type(rule, value, str, "a string")
            if rule.options and text not in rule.options:
                raise _invalid_parameter(
                    rule, value, "one of " + ", ".join(rule.options)
                )
            return text


def _invalid_parameter(
    rule: ParameterRule, value: Any, expected: str
) -> InvokeBadRequestError:
    """Return the error for a value that is not what the rule expects."""
    return InvokeBadRequestError(
        f"Parameter {rule.name!r} must be {expected}, not {value!r}", param=rule.name
    )


def _expect_type(
    rule: ParameterRule, value: Any, expected_type: type, expected: str
) -> Any:
    """Return the value unchanged, or raise InvokeBadRequestError for another type.

    `expected` describes the type for people.
    """
    if not isinstance(value, expected_type):
        raise _invalid_parameter(rule, value, expected)
    return value


def _to_int(rule: ParameterRule, value: Any) -> int:
    """Return a whole number as an integer; a float such as 5.0 is accepted.

    Raises InvokeBadRequestError for anything else, also for a boolean.
    """
    # `bool` is a subclass of `int` and must not be accepted as a number.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or value != int(value):
        raise _invalid_parameter(rule, value, "a whole number")
    return int(value)


def _to_rounded_float(rule: ParameterRule, value: Any) -> float:
    """Return a number as a float, rounded half up to the rule's precision.

    Raises InvokeBadRequestError for NaN, a boolean and everything that is no number.
    """
    # NaN is the only value that differs from itself.
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise _invalid_parameter(rule, value, "a number")
    if rule.precision is None:
        return float(value)
    step = Decimal(1).scaleb(-rule.precision)
    # Via `str`, so that 0.7 does not become 0.69999….
    return float(Decimal(str(value)).quantize(step, ROUND_HALF_UP))


def _in_range(rule: ParameterRule, value: Any) -> Any:
    """Return a number unchanged; raise InvokeBadRequestError if out of range."""
    if rule.min is not None and value < rule.min:
        raise _invalid_parameter(rule, value, f"at least {rule.min:g}")
    if rule.max is not None and value > rule.max:
        raise _invalid_parameter(rule, value, f"at most {rule.max:g}")
    return value
