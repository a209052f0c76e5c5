from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import CredentialsValidateFailedError, InvokeBadRequestError
from modelyard.models.credentials import ProviderCredentialSchemaValidator, secrets_of
from modelyard.models.embedding import EmbeddingUsage
from modelyard.models.entities import I18nObject, ParameterRule, PriceConfig, PriceType
from modelyard.models.llm import LLMUsage
from modelyard.models.parameters import expand_template, validate_parameters
from modelyard.models.pricing import get_price, with_prices
from modelyard.models.provider import (
    CredentialFormSchema,
    FormOption,
    FormShowOnObject,
    FormType,
)
from modelyard.models.tokens import estimate_tokens
from modelyard.models.types import ModelType
from modelyard.providers.definition import convert

PRICES = PriceConfig(
    input=Decimal("0.003"),
    output=Decimal("0.004"),
    unit=Decimal("0.001"),
    currency="USD",
)


def test_prices_of_a_worked_example():
    usage = with_prices(LLMUsage.of(1000, 500), PRICES)
    assert isinstance(usage, LLMUsage)
    assert (usage.prompt_price, usage.completion_price, usage.total_price) == (
        Decimal("0.0030000"), Decimal("0.0020000"), Decimal("0.0050000"),
    )  # fmt: skip


@given(st.integers(0, 10**9), st.decimals("0", "1000", places=6))
def test_a_price_is_never_negative_and_rounds_to_seven_places(
    count: int, price: Decimal
):
    info = get_price(
        PriceConfig(input=price, unit=Decimal("0.000001"), currency="USD"),
        PriceType.INPUT,
        count,
    )
    assert info.total_amount >= 0
    assert info.total_amount == info.total_amount.quantize(Decimal("0.0000001"))
    assert abs(info.total_amount - count * price * Decimal("0.000001")) <= Decimal(
        "0.00000005"
    )


def test_no_price_is_unknown_and_a_missing_output_price_costs_nothing():
    assert with_prices(LLMUsage.of(5, 5), None).total_price is None
    half = PriceConfig(input=Decimal(1), unit=Decimal(1), currency="EUR")
    usage = with_prices(EmbeddingUsage(tokens=3, total_tokens=3), half)
    assert (usage.total_price, usage.currency) == (Decimal(3), "EUR")
    assert get_price(half, PriceType.OUTPUT, 9).total_amount == 0


def rules(*rule_definitions: dict[str, object]) -> list[ParameterRule]:
    return [
        convert(
            {"label": {"en_US": "x"}, **expand_template(rule)}, ParameterRule, "test"
        )
        for rule in rule_definitions
    ]


def test_a_template_completes_a_rule_and_explicit_keys_win():
    (rule,) = rules({"name": "temperature", "use_template": "temperature", "max": 2.0})
    assert (rule.type, rule.min, rule.max, rule.precision, rule.label.zh_hans) == (
        "float",
        0.0,
        2.0,
        2,
        "温度",
    )


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (3, "at most 2"),
        (-1, "at least 0"),
        ("hot", "a number"),
        (True, "a number"),
        (float("nan"), "a number"),
    ],
)
def test_a_parameter_out_of_bounds_is_named(value: object, part: str):
    with pytest.raises(InvokeBadRequestError, match=f"'temperature' must be {part}"):
        validate_parameters(
            rules({"name": "temperature", "use_template": "temperature", "max": 2}),
            {"temperature": value},
            model="m",
        )


def test_unknown_parameters_are_dropped_and_required_ones_added():
    parameter_rules = rules(
        {"name": "max_tokens", "use_template": "max_tokens", "required": True},
        {"name": "form", "type": "string", "options": ["a", "b"]},
    )
    assert validate_parameters(
        parameter_rules, {"colour": "red", "form": "a"}, model="m"
    ) == {"max_tokens": 64, "form": "a"}
    with pytest.raises(InvokeBadRequestError, match="one of a, b"):
        validate_parameters(parameter_rules, {"form": "c"}, model="m")
    with pytest.raises(InvokeBadRequestError, match="requires parameter 'n'"):
        validate_parameters(
            rules({"name": "n", "type": "int", "required": True}), {}, model="m"
        )


def test_a_parameter_may_come_under_its_templates_name():
    (rule,) = rules({"name": "max_completion_tokens", "use_template": "max_tokens"})
    assert validate_parameters([rule], {"max_tokens": 5}, model="m") == {
        "max_completion_tokens": 5
    }


def form(
    variable: str, form_type: FormType = FormType.TEXT_INPUT, **options: object
) -> CredentialFormSchema:
    return CredentialFormSchema(
        variable=variable, label=I18nObject(en_us=variable), type=form_type, **options
    )  # type: ignore[arg-type]


def test_a_form_reports_all_errors():
    forms = [
        form("api_key", FormType.SECRET_INPUT),
        form(
            "mode",
            FormType.SELECT,
            options=[FormOption(value="chat"), FormOption(value="completion")],
        ),
        form("stream", FormType.SWITCH, required=False),
        form("short", max_length=3),
    ]
    with pytest.raises(CredentialsValidateFailedError) as caught:
        ProviderCredentialSchemaValidator(forms, provider="p").validate_and_filter(
            {"mode": "x", "stream": "so", "short": "long"}
        )
    for part in (
        "'api_key' (api_key) is required",
        "one of chat, completion",
        "true or false",
        "longer than 3",
    ):
        assert part in str(caught.value)


def test_a_form_fills_defaults_and_drops_unknown_fields():
    forms = [
        form("key", FormType.SECRET_INPUT),
        form("size", default="4096"),
        form("on", FormType.SWITCH, required=False),
    ]
    values = ProviderCredentialSchemaValidator(forms).validate_and_filter(
        {"key": "k", "on": "True", "other": 1}
    )
    assert values == {"key": "k", "size": "4096", "on": True}
    assert secrets_of(forms, values) == ["k"]


def test_hidden_fields_are_not_required():
    voice_field = form(
        "voice", show_on=[FormShowOnObject(variable="__model_type", value="tts")]
    )
    validator = ProviderCredentialSchemaValidator([voice_field])
    assert validator.validate_and_filter({}, model_type=ModelType.LLM) == {}
    with pytest.raises(CredentialsValidateFailedError):
        validator.validate_and_filter({}, model_type=ModelType.TTS)


@given(st.text(), st.text())
def test_token_estimates_grow_with_the_text(one: str, second: str):
    assert (
        max(estimate_tokens(one), estimate_tokens(second))
        <= estimate_tokens(one + second)
        <= estimate_tokens(one) + estimate_tokens(second) + 1
    )


def test_unknown_fields_are_dropped_and_named_without_values(
    caplog: pytest.LogCaptureFixture,
):
    forms = [
        CredentialFormSchema(
            variable="key", label=I18nObject(en_us="Key"), type=FormType.SECRET_INPUT
        )
    ]
    values = ProviderCredentialSchemaValidator(forms, provider="p").validate_and_filter(
        {"key": "k", "kee": "canary"}
    )
    assert values == {"key": "k"}
    assert "unknown credential fields ignored" in caplog.text
    fields = caplog.records[0].__dict__["fields"]
    assert (fields["fields"], "canary" in str(fields)) == ("kee", False)
