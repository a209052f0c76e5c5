"""Tests for numbers from tenants and operators: finite, within bounds, exact borders.

Also which of them sets the price.
"""

import datetime
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import yaml

from modelyard.administration.inputs import INPUTS, read_input
from modelyard.base.errors import ConfigError, InvokeBadRequestError
from modelyard.base.number_bounds import FiniteLoader, check_numbers
from modelyard.base.settings import (
    CredentialSettings,
    ProviderSettings,
    Settings,
    load_settings,
)
from modelyard.models.entities import PriceConfig
from modelyard.providers.definition import read_model
from modelyard.testing import Upstream, chat_answer
from tests.gateway.conftest import Running, start_gateway  # noqa: F401
from tests.gateway.test_traffic import ask, chat

Path = tuple[str, ...]
_HOSTILE = [float("nan"), float("inf"), float("-inf"), 1e30, 10**400]
_MAY_BE_NEGATIVE = {
    ("priority",),
    ("targets", "priority"),
    ("credentials", "priority"),
    ("amount",),
}
"""Fields that may be negative: a priority goes both ways, and a limit of -1 is none.

Other negative limits are refused by a separate check.
"""


def _numbers(struct_type: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield (path, type) of every numeric field, at any depth."""
    for name, hint in typing.get_type_hints(struct_type).items():
        if name in struct_type.__struct_fields__:
            yield from _numbers_of(hint, (*path, name))


def _numbers_of(hint: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if hint in (int, float, Decimal):
        yield path, hint
    elif isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield from _numbers(hint, path)
    elif isinstance(hint, types.UnionType) or typing.get_origin(hint) in (
        typing.Union,
        list,
        dict,
    ):
        for part in typing.get_args(hint):
            yield from _numbers_of(part, path)


def _document(struct_type: Any, path: Path, value: Any) -> Any:
    """Return a document that is valid except that the field at `path` is `value`."""
    return {
        **_required(struct_type),
        path[0]: _inside(typing.get_type_hints(struct_type)[path[0]], path[1:], value),
    }


def _inside(hint: Any, path: Path, value: Any) -> Any:
    if typing.get_origin(hint) is list:
        return [_inside(typing.get_args(hint)[0], path, value)]
    if typing.get_origin(hint) is dict:
        return {"x": _inside(typing.get_args(hint)[1], path, value)}
    return _document(hint, path, value) if path else value


def _required(struct_type: Any) -> dict[str, Any]:
    usual: Mapping[str, Any] = {
        "targets": [{"model": "a/b"}],
        "unit": "requests",
        "amount": 1,
        "plugins": [],
        "groups": [],
    }
    return {
        field.name: usual.get(field.name, {} if "dict" in str(field.type) else "x")
        for field in msgspec.structs.fields(struct_type)
        if field.required
    }


_FIELDS = [
    pytest.param(struct_type, path, id=f"{name}-{'.'.join(path)}")
    for name, struct_type in INPUTS.items()
    for path, _ in _numbers(struct_type)
]
_SETTINGS = [
    pytest.param(path, number, id=".".join(path)) for path, number in _numbers(Settings)
]


def test_the_property_tests_cover_many_fields():
    assert len(_FIELDS) >= 12
    assert len(_SETTINGS) >= 50


@pytest.mark.parametrize(("struct_type", "path"), _FIELDS)
def test_no_shape_of_the_admin_api_takes_what_is_no_number(
    struct_type: Any, path: Path
):
    """Property: for every number of every shape, the error names the field."""
    name = next(
        name for name, known_type in INPUTS.items() if known_type is struct_type
    )
    negative = [] if path in _MAY_BE_NEGATIVE or name in ("tool_credential",) else [-5]
    for hostile in [*_HOSTILE, "NaN", True, *negative]:
        with pytest.raises(InvokeBadRequestError) as caught:
            read_input(name, _document(struct_type, path, hostile))
        assert path[-1] in str(caught.value)


@pytest.mark.parametrize(("path", "number"), _SETTINGS)
def test_settings_accept_only_finite_numbers(path: Path, number: type, tmp_path: Any):
    """Property: for every number of any settings section, the error names the field."""
    file = tmp_path / "modelyard.yaml"
    for hostile in [
        *_HOSTILE,
        *([] if path in _MAY_BE_NEGATIVE or path[-1] == "priority" else [-5]),
    ]:
        text = (
            msgspec.json.encode(_document(Settings, path, "@"))
            .decode()
            .replace('"@"', _in_yaml(hostile))
        )
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_settings({"MODELYARD_HOME": str(tmp_path)}, config=str(file))
        assert path[-1] in str(caught.value) or "not a finite number" in str(
            caught.value
        )
    if len(path) <= 2 and not isinstance(_document(Settings, path, 1)[path[0]], list):
        with pytest.raises(ConfigError, match=path[0].upper()):
            load_settings(
                {
                    "MODELYARD_HOME": str(tmp_path / "none"),
                    f"MODELYARD_{'__'.join(path).upper()}": "nan",
                }
            )


def _in_yaml(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(str(value), "1.0e+30")


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "Infinity", "-Infinity", "-1", "1e30", "1e999999", "1e-999999",
                                    "9" * 400, "x", "", None, [], True])  # fmt: skip
@pytest.mark.parametrize("field", ["input_price", "output_price", "cached_price", "request_price", "price_unit",
                                   "tier", "history"])  # fmt: skip
def test_prices_accept_only_amounts(field: str, amount: Any):
    model_fields: dict[str, Any] = {"name": "m", "input_price": 1}
    match field:
        case "tier":
            model_fields["tiers"] = [{"above": 1, "input_price": amount}]
        case "history":
            day = datetime.date(2026, 1, 1).isoformat()
            model_fields["price_history"] = [{"until": day, "input_price": amount}]
        case _:
            model_fields[field] = amount
    if amount is None and field not in ("tier", "history", "price_unit"):
        return  # the price is not set at all
    with pytest.raises(ConfigError, match="price"):
        read_model(model_fields, "openai")


@pytest.mark.parametrize("model_fields", [
    {"context_size": "NaN"}, {"context_size": -1}, {"context_size": 10**400}, {"max_output": "x"},
    {"input_price": 1, "tiers": [{}]}, {"properties": 5}, {"parameter_rules": [5]}, {"features": 7},
    {"parameter_rules": [{"name": "a", "type": "float", "max": float("inf")}]},
    {"parameter_rules": [{"name": "a", "type": "float", "default": float("nan")}]},
    {"pricing": {"input": "NaN", "unit": "1", "currency": "USD"}},
    {"pricing": {"input": "1", "unit": "NaN", "currency": "USD"}},
    {"pricing": {"input": "1000000000", "unit": "1", "currency": "USD"}},
])  # fmt: skip
def test_malformed_models_are_refused_with_an_error(model_fields: dict[str, Any]):
    required_fields = {"context_size": 8000} if "max_output" in model_fields else {}
    with pytest.raises(ConfigError):
        model = read_model({"name": "m", **required_fields, **model_fields}, "openai")
        pytest.fail(
            f"{model} was taken"
        ) if "max_output" not in model_fields else pytest.raises(ConfigError)
        raise ConfigError("nothing reads it here")


def test_prices_of_every_catalogue_entry_and_of_usual_lists_pass():
    model = read_model(
        {
            "name": "m",
            "input_price": "0.25",
            "output_price": 2,
            "cached_price": "0.025",
        },
        "openai",
    )
    assert isinstance(model.pricing, PriceConfig)
    assert (model.pricing.input, model.pricing.output) == (Decimal("0.25"), Decimal(2))
    read_model({"name": "free", "input_price": 0, "output_price": 0}, "openai")
    read_model(
        {
            "name": "in-rupiah",
            "input_price": 40_000,
            "output_price": "160000.5",
            "currency": "IDR",
        },
        "openai",
    )


def test_yaml_accepts_only_finite_numbers():
    assert yaml.load("a: [1.5, -2, 3.0e+3]", Loader=FiniteLoader) == {
        "a": [1.5, -2, 3000.0]
    }
    for text in (".nan", "-.inf", ".INF", "1.0e+999"):
        with pytest.raises(yaml.YAMLError, match="finite"):
            yaml.load(f"a: {text}", Loader=FiniteLoader)


def test_untyped_values_must_be_finite():
    check_numbers({"temperature": -1.5, "seed": 2**63})
    for hostile in _HOSTILE:
        with pytest.raises(msgspec.ValidationError, match="nested"):
            check_numbers({"a": [{"nested": hostile}]})


# over HTTP: the admin API answers 400 and names the field; the operator's price applies


@pytest.fixture
def fine(upstream: Callable[..., Upstream]) -> Upstream:
    async def answer(request: Any) -> Any:
        return chat_answer("fine")

    return upstream(answer)


def _two_tenants(
    start: Callable[..., Running], url: str, quota: dict[str, Any]
) -> tuple[Running, str]:
    """Start a server with a hosted credential; return it with a tenant admin's key."""
    hosted = CredentialSettings(
        name="house", values={"api_key": "sk-house"}, quota=quota
    )
    model = {"name": "m", "input_price": 1000, "output_price": 1000}
    providers = [
        ProviderSettings(
            name="house", base_url=url, credentials=[hosted], models=[model]
        )
    ]
    running = start(providers=providers, api_keys=["owner-key-0123456789"])
    owner = "owner-key-0123456789"
    assert (
        ask(running, "POST", "/admin/v1/tenants", {"name": "acme"}, key=owner).status
        == 201
    )
    created_key = ask(
        running,
        "POST",
        "/admin/v1/keys?tenant=acme",
        {"name": "k", "role": "admin"},
        key=owner,
    )
    return running, created_key.json["key"]


def _rows(running: Running, tenant: str) -> list[Any]:
    running.flush()
    return running.rows(tenant)


@pytest.mark.parametrize("price", ["NaN", "Infinity", "-1", "1e30", "1e-400"])
def test_a_tenant_cannot_store_such_a_price(
    start_gateway: Callable[..., Running],  # noqa: F811
    fine: Upstream,
    price: str,
):
    running, key = _two_tenants(start_gateway, fine.url, {"unit": "times", "amount": 9})
    body = {
        "name": "mine",
        "provider": "house",
        "definition": {"name": "m", "input_price": price, "output_price": 1},
    }
    refused = ask(running, "POST", "/admin/v1/models", body, key=key)
    assert (refused.status, refused.json["error"]["type"]) == (
        400,
        "invalid_request_error",
    )
    assert "'input'" in refused.json["error"]["message"]
    assert chat(running, key=key, model="house/m").status == 200


def test_a_hosted_credential_has_the_operators_price(
    start_gateway: Callable[..., Running],  # noqa: F811
    fine: Upstream,
):
    running, key = _two_tenants(
        start_gateway, fine.url, {"unit": "cost", "amount": 0.04}
    )
    body = {
        "name": "mine",
        "provider": "house",
        "definition": {"name": "m", "input_price": 0, "output_price": 0},
    }
    assert ask(running, "POST", "/admin/v1/models", body, key=key).status == 201
    answers = [chat(running, key=key, model="house/m") for _ in range(5)]
    assert [answer.status for answer in answers][:3] == [200, 200, 200]
    # The operator's price is 0.01 per call, although the tenant's model says 0.
    assert answers[-1].status in (
        429,
        503,
    )
    assert {
        row.total_price for row in _rows(running, "acme") if row.status == "ok"
    } == {Decimal("0.01")}


def test_a_tenants_credential_has_the_tenants_price(
    start_gateway: Callable[..., Running],  # noqa: F811
    fine: Upstream,
):
    running, key = _two_tenants(start_gateway, fine.url, {"unit": "times", "amount": 9})
    body = {
        "name": "mine",
        "provider": "house",
        "definition": {"name": "m", "input_price": 1, "output_price": 1},
    }
    assert ask(running, "POST", "/admin/v1/models", body, key=key).status == 201
    credential_fields = {
        "name": "own",
        "provider": "house",
        "values": {"api_key": "sk-acme"},
    }
    assert (
        ask(running, "POST", "/admin/v1/credentials", credential_fields, key=key).status
        == 201
    )
    assert chat(running, key=key, model="house/m").status == 200
    (row,) = _rows(running, "acme")
    assert (fine.requests[-1].key, row.total_price) == ("sk-acme", Decimal("0.00001"))


def test_a_hosted_quota_of_money_serves_no_model_without_a_price(
    start_gateway: Callable[..., Running],  # noqa: F811
    fine: Upstream,
):
    running, key = _two_tenants(start_gateway, fine.url, {"unit": "cost", "amount": 1})
    body = {
        "name": "big",
        "provider": "house",
        "definition": {"name": "big", "input_price": 0, "output_price": 0},
    }
    assert ask(running, "POST", "/admin/v1/models", body, key=key).status == 201
    assert chat(running, key=key, model="house/big").status == 503
    assert not fine.requests


def test_an_unreadable_stored_model_does_not_affect_others(
    start_gateway: Callable[..., Running],  # noqa: F811
    fine: Upstream,
):
    """The bad row is one that an earlier version accepted."""
    running, key = _two_tenants(start_gateway, fine.url, {"unit": "times", "amount": 9})
    for name, price in (("bad", "NaN"), ("good", "1")):
        definition = {"name": name, "input_price": price, "output_price": 1}
        model_body = json.dumps({"provider": "house", "definition": definition})
        running.do(
            running.yard.services.storage.resources.add(
                "acme", "model", name, lambda row, body=model_body: body
            )
        )
    running.do(running.yard.services.tenancy.directory.refresh())
    assert chat(running, key=key, model="house/good").status == 200
    assert ask(running, "GET", "/v1/models", key=key).status == 200


def test_a_reported_cost_is_never_negative():
    from modelyard.models.llm import LLMUsage
    from modelyard.models.pricing import with_prices
    from modelyard.plugins.conversions import read_usage

    table = PriceConfig(
        input=Decimal(1), output=Decimal(1), unit=Decimal("0.000001"), currency="USD"
    )
    for hostile in ("-1", "NaN", "sNaN", "Infinity", "1e30"):
        usage = LLMUsage.of(10, 20, total_price=Decimal(hostile))
        assert with_prices(usage, table).total_price == Decimal("0.00003")
        assert with_prices(usage, None).total_price is None
    assert with_prices(
        LLMUsage.of(10, 20, total_price=Decimal("0.5")), table
    ).total_price == Decimal("0.5")
    parsed_usage = read_usage(
        {
            "prompt_tokens": -5,
            "completion_tokens": "x",
            "total_tokens": 10**400,
            "total_price": "-3",
        }
    )
    assert (
        parsed_usage.prompt_tokens,
        parsed_usage.completion_tokens,
        parsed_usage.total_tokens,
    ) == (0, 0, 0)
    assert with_prices(parsed_usage, table).total_price == 0


def test_datasets_and_apps_refuse_non_finite_number_texts():
    from modelyard.gateway.knowledge.calls import convert_value
    from modelyard.gateway.service.calls import ServiceError
    from modelyard.knowledge.entities import ProcessRule, RetrievalSettings
    from modelyard.workflow.dsl import _convert

    for name in ("score_threshold", "mmr", "recency_days"):
        for hostile in ("nan", "inf", "-Infinity", "1e999"):
            with pytest.raises(ServiceError, match=name):
                convert_value({name: hostile}, RetrievalSettings, "retrieval_model")
    assert (
        convert_value(
            {"score_threshold": "0.5"}, RetrievalSettings, "retrieval_model"
        ).score_threshold
        == 0.5
    )
    assert convert_value({}, ProcessRule, "process_rule")
    with pytest.raises(msgspec.ValidationError, match="score_threshold"):
        _convert({"score_threshold": "nan"}, RetrievalSettings)


def test_deep_nesting_is_refused_with_an_error():
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(msgspec.ValidationError, match="deeply"):
        check_numbers(deep)
