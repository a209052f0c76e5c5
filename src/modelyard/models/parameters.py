"""Parameter rules: shared templates, their expansion, and validation of a call's
parameters."""

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from modelyard.base.errors import InvokeBadRequestError
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
        "How freely words are chosen: 0 takes the likeliest every time, higher is more varied.",
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
        "Choose among the likeliest words whose chances add up to this much.",
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
        "Choose among this many of the likeliest words.",
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
        "Make words that have already come up less likely, once for each word.",
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
        "Make words less likely the more often they have come up.",
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
        "The answer ends after this many tokens.",
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
        "The form that the answer must have.",
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
        "The JSON schema that the answer must satisfy.",
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
    """Return the parameters that the rules define, validated, with defaults for
    required ones.

    Unknown names are dropped. Raises InvokeBadRequestError naming the parameter and its
    bounds.
    """
    accepted: dict[str, Any] = {}
    for rule in rules:
        value = parameters.get(rule.name)
        # A rule may have a vendor-specific name for a common parameter.
        if value is None and rule.use_template:
            value = parameters.get(rule.use_template)
        if value is None:
            if rule.required:
                if rule.default is None:
                    raise InvokeBadRequestError(
                        f"model {model!r} requires parameter {rule.name!r}",
                        param=rule.name,
                    )
                # Optional parameters without a value are left to the provider's
                # default.
                accepted[rule.name] = rule.default
            continue
        accepted[rule.name] = _checked(rule, value)
    return accepted


def _checked(rule: ParameterRule, value: Any) -> Any:
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
    return InvokeBadRequestError(
        f"parameter {rule.name!r} must be {expected}, not {value!r}", param=rule.name
    )


def _expect_type(
    rule: ParameterRule, value: Any, expected_type: type, expected: str
) -> Any:
    if not isinstance(value, expected_type):
        raise _invalid_parameter(rule, value, expected)
    return value


def _to_int(rule: ParameterRule, value: Any) -> int:
    # `bool` is a subclass of `int` and must not be accepted as a number.
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or value != int(value)
    ):
        raise _invalid_parameter(rule, value, "a whole number")
    return int(value)


def _to_rounded_float(rule: ParameterRule, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise _invalid_parameter(rule, value, "a number")
    if rule.precision is None:
        return float(value)
    # Via `str`, so that 0.7 does not become 0.69999….
    return float(
        Decimal(str(value)).quantize(Decimal(1).scaleb(-rule.precision), ROUND_HALF_UP)
    )


def _in_range(rule: ParameterRule, value: Any) -> Any:
    if rule.min is not None and value < rule.min:
        raise _invalid_parameter(rule, value, f"at least {rule.min:g}")
    if rule.max is not None and value > rule.max:
        raise _invalid_parameter(rule, value, f"at most {rule.max:g}")
    return value
