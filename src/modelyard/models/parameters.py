"""Parameter rules: the shared templates, filling them in, and checking a call's parameters against them."""

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from modelyard.base.errors import InvokeBadRequestError
from modelyard.models.entities import DefaultParameterName, ParameterRule, ParameterType

# name: (type, default, min, max, precision, options, English label, Chinese label, help)
_TABLE: dict[str, tuple[str, Any, float | None, float | None, int | None, list[str], str, str, str]] = {
    DefaultParameterName.TEMPERATURE: (
        "float", 0.0, 0.0, 1.0, 2, [], "Temperature", "温度",
        "How freely words are chosen: 0 takes the likeliest every time, higher is more varied.",
    ),
    DefaultParameterName.TOP_P: (
        "float", 1.0, 0.0, 1.0, 2, [], "Top P", "Top P",
        "Choose among the likeliest words whose chances add up to this much.",
    ),
    DefaultParameterName.TOP_K: (
        "int", 50, 1, 100, 0, [], "Top K", "Top K", "Choose among this many of the likeliest words.",
    ),
    DefaultParameterName.PRESENCE_PENALTY: (
        "float", 0.0, 0.0, 1.0, 2, [], "Presence Penalty", "存在惩罚",
        "Make words that have already come up less likely, once for each word.",
    ),
    DefaultParameterName.FREQUENCY_PENALTY: (
        "float", 0.0, 0.0, 1.0, 2, [], "Frequency Penalty", "频率惩罚",
        "Make words less likely the more often they have come up.",
    ),
    DefaultParameterName.MAX_TOKENS: (
        "int", 64, 1, 2048, 0, [], "Max Tokens", "最大标记", "The answer ends after this many tokens.",
    ),
    DefaultParameterName.RESPONSE_FORMAT: (
        "string", None, None, None, None, ["JSON", "XML"], "Response Format", "回复格式",
        "The form that the answer must have.",
    ),
    DefaultParameterName.JSON_SCHEMA: (
        "text", None, None, None, None, [], "JSON Schema", "JSON Schema",
        "The JSON schema that the answer must satisfy.",
    ),
}  # fmt: skip


def parameter_rule_template(name: str) -> dict[str, Any] | None:
    """The shared fields of a common parameter, in the words of model YAML; None where no template has that name."""
    if name not in _TABLE:
        return None
    kind, default, low, high, precision, options, english, chinese, text = _TABLE[name]
    return {
        "type": kind,
        "default": default,
        "min": low,
        "max": high,
        "precision": precision,
        "options": options,
        "label": {"en_US": english, "zh_Hans": chinese},
        "help": {"en_US": text},
    }


def filled(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A rule as written in YAML, laid over its template. A rule named like a template uses it where it has no type."""
    name = str(rule.get("name", ""))
    template = parameter_rule_template(str(rule.get("use_template") or ("" if "type" in rule else name))) or {}
    full = {"label": {"en_US": name}, "type": "string", **template}
    return {**full, **{key: value for key, value in rule.items() if value is not None}}


def validated(rules: Iterable[ParameterRule], parameters: Mapping[str, Any], *, model: str) -> dict[str, Any]:
    """The parameters that the rules know, checked, with defaults for what is required.

    Unknown names are dropped. Raises InvokeBadRequestError that names the parameter and its bounds.
    """
    accepted: dict[str, Any] = {}
    for rule in rules:
        value = parameters.get(rule.name)
        if value is None and rule.use_template:
            value = parameters.get(rule.use_template)
        if value is None:
            if rule.required:
                if rule.default is None:
                    raise InvokeBadRequestError(f"model {model!r} requires parameter {rule.name!r}", param=rule.name)
                accepted[rule.name] = rule.default
            continue
        accepted[rule.name] = _checked(rule, value)
    return accepted


def _checked(rule: ParameterRule, value: Any) -> Any:
    match rule.type:
        case ParameterType.INT:
            return _in_range(rule, _whole(rule, value))
        case ParameterType.FLOAT:
            return _in_range(rule, _rounded(rule, value))
        case ParameterType.BOOLEAN:
            return _typed(rule, value, bool, "true or false")
        case ParameterType.STRING | ParameterType.TEXT:
            text = _typed(rule, value, str, "a string")
            if rule.options and text not in rule.options:
                raise _refused(rule, value, "one of " + ", ".join(rule.options))
            return text


def _refused(rule: ParameterRule, value: Any, right: str) -> InvokeBadRequestError:
    return InvokeBadRequestError(f"parameter {rule.name!r} must be {right}, not {value!r}", param=rule.name)


def _typed(rule: ParameterRule, value: Any, kind: type, right: str) -> Any:
    if not isinstance(value, kind):
        raise _refused(rule, value, right)
    return value


def _whole(rule: ParameterRule, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise _refused(rule, value, "a whole number")
    return int(value)


def _rounded(rule: ParameterRule, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise _refused(rule, value, "a number")
    if rule.precision is None:
        return float(value)
    return float(Decimal(str(value)).quantize(Decimal(1).scaleb(-rule.precision), ROUND_HALF_UP))


def _in_range(rule: ParameterRule, value: Any) -> Any:
    if rule.min is not None and value < rule.min:
        raise _refused(rule, value, f"at least {rule.min:g}")
    if rule.max is not None and value > rule.max:
        raise _refused(rule, value, f"at most {rule.max:g}")
    return value
